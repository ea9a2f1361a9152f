// Clocks that lie: a board without a battery comes up in 1970, or in 2106.

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Nothing that Berth stores or looks at is a wall clock's: not even the times
// of its files, which are all that a jump of the clock leaves behind.
func TestClockJumpsExpireNothingAndKeepNothing(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, fastScrub)
	im := r.pushImage("a", "x", "{}", "layer")
	old := r.pushImage("b", "x", "{}", "old")
	r.pushImage("b", "x", "{}", "new")
	unused := r.pushBlob("a", "unused")
	session := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	session = r.want(202, "PATCH", session, "half ").location()

	for _, jump := range []time.Duration{-10 * 365 * 24 * time.Hour, 10 * 365 * 24 * time.Hour, -40 * 365 * 24 * time.Hour} {
		r.stop()
		r.moved.Store(0)
		err := filepath.WalkDir(r.cfg.dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			then := time.Now().Add(jump)
			return os.Chtimes(path, then, then)
		})
		if err != nil {
			t.Fatal(err)
		}
		r.start()
		r.scrub()
		r.pass(time.Hour) // of uptime: less than any grace
		r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
		r.want(200, "GET", "/v2/b/manifests/"+old.digest.String(), nil).is(old.manifest)
		if !r.hasFile(unused) {
			t.Fatalf("after a jump of %v a blob has gone before its grace", jump)
		}
		r.want(204, "GET", session, nil).has("Range", "0-4")
	}
	// The grace was counted all the same, over all three starts.
	r.pass(r.cfg.grace - 3*time.Hour - time.Minute)
	if !r.hasFile(unused) {
		t.Error("a blob has gone before its grace")
	}
	r.pass(2 * time.Minute)
	if r.hasFile(unused) {
		t.Error("a blob has outlived its grace")
	}
	r.want(404, "GET", session, nil)
	r.pass(r.cfg.untaggedGrace)
	r.want(404, "GET", "/v2/b/manifests/"+old.digest.String(), nil)
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
}
