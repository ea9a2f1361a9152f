//go:build unix

// How long promises last, across a restart too, and what is said of them.

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A promise lasts no longer than it has to, however the promises before it came.
func TestPromiseLastsItsTimeAndNoMore(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	r.st.promises.forget()
	r.moved.Add(int64(3 * promiseTime))
	r.pushBlob("a", "first")
	r.moved.Add(int64(promiseTime - time.Minute))
	late := r.pushBlob("a", "late")
	r.moved.Add(int64(promiseTime - time.Second))
	if c := r.collect(collectNow); c.Blobs != 1 || !r.hasFile(late) {
		t.Errorf("before its time is over %+v is collected, want the first blob only", c)
	}
	r.moved.Add(int64(time.Second))
	if c := r.collect(collectNow); c.Blobs != 1 || c.Promised != 0 || r.hasFile(late) {
		t.Errorf("after its time %+v is collected, want the late blob", c)
	}
}

// A server that stopped in order knows after the start what was promised; one that crashed
// keeps everything.
func TestPromisesAcrossARestart(t *testing.T) {
	t.Parallel()
	for _, crashed := range []bool{false, true} {
		r := startRegistry(t, func(c *config) { c.grace = 24 * time.Hour })
		r.freeze()
		r.st.promises.forget()
		old := r.pushImage("a", "old", "{}", "old layer")
		r.moved.Add(int64(2 * promiseTime))
		young := r.pushImage("a", "young", "{}", "young layer")
		r.moved.Add(int64(5 * time.Minute))
		r.restart(func(c *config) {
			if crashed {
				os.Remove(filepath.Join(c.dir, promisesFile))
			}
		})
		if _, err := os.Stat(filepath.Join(r.cfg.dir, promisesFile)); err == nil {
			t.Error("a later server would believe what this one has recalled")
		}
		r.freeze()
		for _, tag := range []string{"old", "young"} {
			r.want(202, "DELETE", "/v2/a/manifests/"+tag, nil)
		}
		stop := r.listen()
		out, err := runOnce(t, "gc", "--now", "--data", r.cfg.dir)
		wait := "10 minutes"
		if crashed {
			wait = "15 minutes"
		}
		// The layers; the config, which both have, stays too.
		if want := " is kept for up to " + wait + " more, also with --now"; err != nil || !strings.Contains(out, want) || !strings.Contains(out, "stop the server, then `berth gc --now`") {
			t.Errorf("crashed: %v: gc --now says\n%s(%v)\nwant %s", crashed, out, err, want)
		}
		if r.hasFile(old.layers[0]) != crashed || !r.hasFile(young.layers[0]) {
			t.Errorf("crashed: %v: the wrong layers are kept", crashed)
		}
		// Said before somebody tries, too, and by how much.
		if out, err = runOnce(t, "gc", "--data", r.cfg.dir); err != nil || !strings.Contains(out, "not even --now removes for up to "+wait+" more") {
			t.Errorf("crashed: %v: gc says\n%s(%v)", crashed, out, err)
		}
		stop()
		r.st.promises.forget()
		r.moved.Add(int64(promiseTime))
		if c := r.collect(collectNow); c.Promised != 0 || r.hasFile(young.layers[0]) {
			t.Errorf("crashed: %v: when the time is over %+v is collected", crashed, c)
		}
	}
}

// With the server stopped nothing is kept, as what the server says of it promises.
func TestWithTheServerStoppedNothingIsPromised(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	r.stop()
	out, err := runOnce(t, "gc", "--now", "--data", r.cfg.dir)
	if err != nil || !strings.HasPrefix(out, "removed 1 manifest, 2 blobs") || strings.Contains(out, "kept") {
		t.Errorf("gc --now: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(r.cfg.dir, promisesFile)); err != nil {
		t.Errorf("a command has taken what the server left for the next: %v", err)
	}
	r.start()
	r.want(404, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil)
}
