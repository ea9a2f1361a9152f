// Who has uploads open, and how many.

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openUntilRefused opens uploads until there is no more for whoever asks.
func (r *registry) openUntilRefused(header string) (locations []string) {
	r.t.Helper()
	for len(locations) < 1000 {
		re := r.do("POST", "/v2/a/blobs/uploads/", nil, header)
		if re.status != 202 {
			re.code("TOOMANYREQUESTS").has("Retry-After", "60")
			return locations
		}
		locations = append(locations, re.location())
	}
	r.t.Fatal("nothing is refused")
	return nil
}

func TestNobodyCanHaveAllUploads(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann", "bob", "eve"), func(c *config) { c.maxUploads = 24 })
	r.impatient()
	header := func(name string) string { return basic(name, name+"-secret") }
	mine := r.openUntilRefused(header("ann"))
	if n := len(mine); n != 12 {
		t.Errorf("the first may open %d uploads of 24, want 12", n)
	}
	if n := len(r.openUntilRefused(header("bob"))); n != 6 {
		t.Errorf("the second may open %d, want 6", n)
	}
	r.restart() // which forgets nobody's
	r.impatient()
	r.want(429, "POST", "/v2/a/blobs/uploads/", nil, header("ann"))
	if n := len(r.openUntilRefused(header("eve"))); n != 3 {
		t.Errorf("the third may open %d, want 3", n)
	}
	r.want(429, "POST", "/v2/a/blobs/uploads/", nil, header("ann"))
	// What ends, by whichever way, gives room to its owner.
	r.want(201, "PUT", with(mine[0], "digest="+sum("x").String()), "x", header("ann"))
	for _, loc := range mine[1:6] {
		r.want(204, "DELETE", loc, nil, header("ann"))
	}
	r.want(202, "POST", "/v2/a/blobs/uploads/", nil, header("ann"))
	r.pass(r.cfg.uploadExpiry + time.Minute)
	if n := len(r.openUntilRefused(header("bob"))); n != 12 || len(r.st.uploads.shares) != 1 {
		t.Errorf("with none open, one may open %d of 24, want 12; shares are %v", n, r.st.uploads.shares)
	}
}

// Without users it is by address.
func TestOneAddressCannotHaveAllUploads(t *testing.T) {
	t.Parallel()
	proxies, err := parseProxies("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	r := startRegistry(t, func(c *config) { c.maxUploads, c.auth.proxies = 8, proxies })
	r.impatient()
	for i, want := range []int{4, 2, 1} {
		if n := len(r.openUntilRefused(fmt.Sprint("X-Forwarded-For: 192.0.2.", i))); n != want {
			t.Errorf("address %d may open %d uploads, want %d", i, n, want)
		}
	}
}

// All uploads that nobody is at work on end by `berth gc --now`, and give their bytes
// back.
func TestCollectingNowEndsIdleUploads(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	idle := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", idle, strings.Repeat("x", 2<<20))
	busy := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	conn := r.beginPart("PATCH", busy, "", 10, "01234")
	r.moved.Add(int64(idleNow + time.Second))
	fresh := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location() // its next request is on the way
	size := func(loc string) int64 {
		info, err := os.Stat(filepath.Join(r.cfg.dir, "uploads", filepath.Base(loc)))
		if err != nil {
			return -1
		}
		return info.Size()
	}
	const want = " 0 manifests, 0 blobs with 0 B, 1 upload with 2.0 MiB\n"
	out, err := runOnceOn(t, r.st, "gc", "--now", "--dry-run")
	if err != nil || !strings.Contains(out, "would remove"+want) || !strings.Contains(out, filepath.Base(idle)) || size(idle) != 2<<20 {
		t.Errorf("berth gc --now --dry-run: %v\n%s", err, out)
	}
	if out, err := runOnceOn(t, r.st, "gc"); err != nil || !strings.HasPrefix(out, "nothing to remove\n") {
		t.Errorf("berth gc: %v\n%s", err, out)
	}
	if out, err := runOnceOn(t, r.st, "gc", "--now"); err != nil || !strings.HasPrefix(out, "removed"+want) {
		t.Errorf("berth gc --now: %v\n%s", err, out)
	}
	if size(idle) != -1 {
		t.Error("the file of an upload that has ended is still there")
	}
	r.want(404, "GET", idle, nil)
	r.want(204, "GET", busy, nil).has("Range", "0-4")
	r.want(201, "PUT", with(fresh, "digest="+sum("x").String()), "x")

	// Where nobody serves, none has a request at work.
	left := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", left, "abc")
	conn.Close()
	r.stop()
	if out, err := runOnce(t, "gc", "--now", "--data", r.cfg.dir); err != nil || !strings.Contains(out, " 2 uploads with 8 B\n") || size(left) != -1 {
		t.Errorf("berth gc --now without a server: %v\n%s", err, out)
	}
	r.start()
}

func TestUploadsAreListed(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	r.freeze()
	robot := r.newRobot("ci", "**", "push")
	one := r.want(202, "POST", "/v2/home/app/blobs/uploads/", nil, basic("ann", "ann-secret")).location()
	r.moved.Add(int64(time.Hour))
	r.want(202, "PATCH", one, "12345", basic("ann", "ann-secret"))
	r.moved.Add(int64(time.Minute))
	two := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, basic("x", robot)).location()
	want := "REPOSITORY OWNER SIZE AGE IDLE UPLOAD\n" +
		"home/app ann 5 B 1h01m 1m " + filepath.Base(one) + "\n" +
		"a token:ci 0 B 0s 0s " + filepath.Base(two) + "\n"
	list := func(run func(args ...string) (string, error)) {
		t.Helper()
		if out, err := run(); err != nil || !looksLike(out, want) {
			t.Errorf("berth uploads: %v\n%swant\n%s", err, out, want)
		}
		out, err := run("--json")
		var got []listedUpload
		if err := json.Unmarshal([]byte(out), &got); err != nil || len(got) != 2 ||
			got[0] != (listedUpload{filepath.Base(one), "home/app", "ann", 5, 3660, 60, false}) {
			t.Errorf("berth uploads --json: %v, %+v", err, got)
		}
		if err != nil {
			t.Error(err)
		}
	}
	list(func(args ...string) (string, error) { return runOnceOn(t, r.st, "uploads", args...) })
	turn, release, err := r.st.uploads.take(t.Context(), "home/app", filepath.Base(one), "user:ann")
	if err != nil || turn.offset.Load() != 5 {
		t.Fatal(err)
	}
	if out, err := runOnceOn(t, r.st, "uploads"); err != nil || !strings.Contains(out, "in use") {
		t.Errorf("berth uploads: %v\n%s", err, out)
	}
	release()
	r.stop()
	// Without a server time passes while the command runs.
	out, err := runOnce(t, "uploads", "--data", r.cfg.dir, "--json")
	var got []listedUpload
	if e := json.Unmarshal([]byte(out), &got); e != nil || err != nil || len(got) != 2 {
		t.Fatalf("berth uploads --json without a server: %v, %v\n%s", err, e, out)
	}
	if g := got[0]; g.Age < 3660 || g.Age-g.Idle != 3600 || g != (listedUpload{filepath.Base(one), "home/app", "ann", 5, g.Age, g.Idle, false}) {
		t.Errorf("berth uploads --json without a server: %+v", g)
	}
	if out, err := runOnce(t, "uploads", "--data", r.cfg.dir); err != nil || !strings.Contains(out, filepath.Base(one)) || !strings.Contains(out, filepath.Base(two)) {
		t.Errorf("berth uploads without a server: %v\n%s", err, out)
	}
	r.start()
}
