// What an upload leaves on the disk when it has become a blob.

package main

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A session that has had a body without bytes has an empty file, though all that the
// blob has comes with the PUT and stays in memory.
func TestSmallBlobLeavesNoFileOfItsSession(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]bool{"at once": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
			r.want(202, "PATCH", loc, struct{ io.Reader }{strings.NewReader("")})
			if restart {
				r.restart()
			}
			r.want(201, "PUT", with(loc, "digest="+sum("{}").String()), "{}")
			if left, _ := filepath.Glob(filepath.Join(r.cfg.dir, "uploads", "*")); len(left) > 0 {
				t.Errorf("uploads has %v", left)
			}
		})
	}
}

// An owner who was gone for a moment, while a file was written anew, say, goes on with
// what is there.
func TestUploadOfOwnerWhoIsBackGoesOn(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann", "bob"))
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, as("bob")).location()
	body, client := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.try("PATCH", loc, struct{ io.Reader }{body}, as("bob"))
	}()
	io.WriteString(client, "0123")
	u, err := r.st.uploads.find("a", filepath.Base(loc), "user:bob")
	if err != nil {
		t.Fatal(err)
	}
	for u.queue.arrived.Load() < 4 {
		runtime.Gosched()
	}
	r.writeUsers("ann:" + hashOf("ann-secret"))
	r.want(401, "GET", loc, nil, as("bob"))
	r.pass(ownersSettle)
	r.writeUsers("ann:"+hashOf("ann-secret"), "bob:"+hashOf("bob-secret"))
	r.want(204, "GET", loc, nil, as("bob"))
	io.WriteString(client, "4567")
	client.Close()
	<-ended // it may have been stopped
	r.pass(0)
	r.want(204, "GET", loc, nil, as("bob")).has("Range", "0-7")
	r.want(202, "PATCH", loc, "89", as("bob"), "Content-Range: 8-9")
	r.want(201, "PUT", with(loc, "digest="+sum("0123456789").String()), nil, as("bob"))
}

// A request that ends while it is seen that its owner is no more leaves nothing.
func TestUploadWhoseRequestEndsWithItsOwnerEnds(t *testing.T) {
	t.Parallel()
	var release func()
	r := startRegistry(t, guarded("", "ann"), func(c *config) {
		c.at = func(point string) {
			if point == "at work" {
				release()
			}
		}
	})
	robot := "Authorization: Bearer " + r.newRobot("ci", "**", "push")
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, robot).location()
	var id, owner string
	if err := r.st.get(`SELECT id, owner FROM upload`, nil, &id, &owner); err != nil {
		t.Fatal(err)
	}
	var err error
	if _, release, err = r.st.uploads.take(t.Context(), "a", id, owner); err != nil {
		t.Fatal(err)
	}
	r.revokeRobot("ci")
	r.pass(0)
	if there, err := r.st.uploads.knows(id); there || err != nil {
		t.Errorf("%s is there after its owner and its request have gone: %v, %v", loc, there, err)
	}
}

// A process that is killed while it tries whether the disk is full leaves the file it
// tries with, which the next start removes.
func TestTryWithoutEndIsRemoved(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.stop()
	f, err := os.CreateTemp(r.cfg.dir, tryFile)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	r.start()
	if exists(f.Name()) {
		t.Errorf("%s is there still", f.Name())
	}
}

// However many uploads requests are at work on, one that is idle is found beside them.
func TestIdleUploadIsFoundAmongManyAtWork(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	for range collectAtOnce {
		loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
		u, err := r.st.uploads.find("a", filepath.Base(loc), "")
		if err != nil {
			t.Fatal(err)
		}
		u.turn <- struct{}{} // as a request does
	}
	r.moved.Add(int64(5 * time.Second))
	idle := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.moved.Add(int64(time.Minute))
	if out, err := runOnceOn(t, r.st, "gc", "--now"); err != nil || !strings.Contains(out, "1 upload ") {
		t.Errorf("gc --now: %v\n%s", err, out)
	}
	r.want(404, "GET", idle, nil)
}
