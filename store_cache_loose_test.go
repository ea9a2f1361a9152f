package main

import (
	"testing"
	"time"
)

// What nothing refers to yet, and is asked for again and again, costs no query for each request; and
// whoever reads it when half of its grace is over starts that anew all the same.
func TestLooseBlobsAndManifestsAreRemembered(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"blobs", "manifests"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t, func(c *config) { c.grace, c.untaggedGrace = 24*time.Hour, 24*time.Hour })
			path := "/v2/a/blobs/" + r.pushBlob("a", "loose").String()
			if kind == "manifests" {
				path = "/v2/b/manifests/" + r.pushImage("b", "x", "{}", "layer").digest.String()
				r.want(202, "DELETE", "/v2/b/manifests/x", nil) // so that the manifest has no tag
			}
			for range 2 { // the second time its grace has begun anew
				r.want(200, "GET", path, nil)
				missed := r.st.lookups.missed.Load()
				for range 3 {
					r.want(200, "GET", path, nil)
				}
				if n := r.st.lookups.missed.Load() - missed; n != 0 {
					t.Errorf("%d of 3 requests asked the database, want none", n)
				}
				r.pass(13 * time.Hour)
				r.want(200, "GET", path, nil) // begins it anew
				r.pass(23 * time.Hour)
				r.want(200, "GET", path, nil)
			}
			r.pass(25 * time.Hour)
			r.want(404, "GET", path, nil)
		})
	}
}
