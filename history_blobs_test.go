//go:build unix

// The blobs of deleted images: gone for clients, and kept for an undo.

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// wantNoBlob insists that no client finds a blob in a repository, by any way.
func (r *registry) wantNoBlob(repo, content string) {
	r.t.Helper()
	d := sum(content).String()
	r.want(404, "HEAD", "/v2/"+repo+"/blobs/"+d, nil)
	r.want(404, "GET", "/v2/"+repo+"/blobs/"+d, nil).code("BLOB_UNKNOWN")
	r.want(404, "GET", "/v2/"+repo+"/blobs/"+d, nil, "Range: bytes=0-1").code("BLOB_UNKNOWN")
	r.want(404, "DELETE", "/v2/"+repo+"/blobs/"+d, nil).code("BLOB_UNKNOWN")
	r.want(202, "POST", "/v2/elsewhere/blobs/uploads/?from="+repo+"&mount="+d, nil)
	r.want(404, "HEAD", "/v2/elsewhere/blobs/"+d, nil)
}

func TestBlobsOfADeletedManifestAreNotThere(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	im := r.pushImage("a", "x", "{}", "layer", "shared")
	other := r.pushImage("a", "y", `{"n":1}`, "shared")
	r.pushImage("b", "x", "{}", "layer") // another repository has its own
	for range 2 {                        // what was asked for twice is remembered
		r.wantBlob("a", "layer")
	}
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	deleted := r.last("a")
	r.wantNoBlob("a", "layer")
	r.wantNoBlob("a", "{}")
	r.wantImage("a", "y", other)
	r.wantBlob("b", "layer")
	r.restart()
	r.freeze()
	r.wantNoBlob("a", "layer")
	r.undo(200, "a", deleted, im.digest.String())
	r.wantImage("a", "x", im)
	r.command("undo", fmt.Sprint(r.last("a"))) // deletes it again
	r.wantNoBlob("a", "layer")
	r.wantImage("a", "y", other)

	// After its grace it goes, and so do its blobs in theirs, unseen.
	r.pass(r.cfg.untaggedGrace + 2*time.Second)
	r.undo(409, "a", deleted, "no longer exist")
	r.wantNoBlob("a", "layer")
	r.wantBlob("b", "layer")
	r.pass(r.cfg.grace + 2*time.Second)
	var links int
	if err := r.st.get(`SELECT count(*) FROM link l JOIN repository r ON r.id = l.repository WHERE r.name = 'a'`, nil, &links); err != nil || links != 2 {
		t.Errorf("a has %d blobs (%v), want those of y", links, err)
	}
}

// Who deletes an image and then its blobs can have it back.
func TestDeletingABlobAfterItsManifestCanBeUndone(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	r.want(403, "DELETE", "/v2/a/blobs/"+im.layers[0].String(), nil).code("DENIED")
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	deleted := r.last("a")
	for _, d := range append(im.layers, im.config) {
		r.want(404, "DELETE", "/v2/a/blobs/"+d.String(), nil).code("BLOB_UNKNOWN")
	}
	// Nor does it matter that somebody has pushed the blobs again meanwhile.
	r.pushBlob("a", "layer")
	r.wantBlob("a", "layer")
	r.want(202, "DELETE", "/v2/a/blobs/"+im.layers[0].String(), nil)
	r.wantNoBlob("a", "layer")
	r.undo(200, "a", deleted, im.digest.String())
	r.wantImage("a", "x", im)
}

// A blob that only deleted manifests use comes back by a push of it, by a mount, and
// by a push of a manifest that uses it: whoever was told of it before can go on.
func TestDeletedBlobsArePushedAgain(t *testing.T) {
	slow(t)
	t.Parallel()
	next := ociImage(`{"next":1}`, "layer")
	for name, back := range map[string]func(r *registry){
		"upload": func(r *registry) { r.pushBlob("a", "layer") },
		"chunks": func(r *registry) {
			if re, err := r.pushBy("chunks", "a", "layer"); err != nil || re.status != 201 {
				t.Error(re, err)
			}
		},
		"mount": func(r *registry) {
			r.want(201, "POST", "/v2/a/blobs/uploads/?from=b&mount="+sum("layer").String(), nil)
		},
		"manifest": func(r *registry) {
			r.pushBlob("a", `{"next":1}`)
			r.want(201, "PUT", "/v2/a/manifests/next", next.manifest, "Content-Type: "+typeOCIManifest)
		},
		"the same manifest": func(r *registry) {
			im := ociImage("{}", "layer")
			r.want(201, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)
		},
		"an index of layers": func(r *registry) {
			cache := `{"schemaVersion":2,"mediaType":"` + typeOCIIndex + `","manifests":[` + descriptorJSON("x/layer", "layer") + `]}`
			r.want(201, "PUT", "/v2/a/manifests/cache", cache, "Content-Type: "+typeOCIIndex)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t)
			r.freeze()
			r.pushImage("b", "x", "{}", "layer")
			im := r.pushImage("a", "x", "{}", "layer")
			r.want(200, "HEAD", "/v2/a/blobs/"+im.layers[0].String(), nil)
			r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
			r.wantNoBlob("a", "layer")
			back(r)
			r.wantBlob("a", "layer")
			r.check()
			// The deleted manifest has no say in it any more.
			r.pass(r.cfg.untaggedGrace + 2*time.Second)
			r.wantBlob("a", "layer")
		})
	}
}

// Retention and the collector leave a deleted image alone with its blobs: they are
// hidden then, too.
func TestBlobsAreHiddenWhenTheLastLivingManifestGoes(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	untagged := r.pushImage("a", "x", `{"n":1}`, "layer")
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	r.moved.Add(int64(r.cfg.untaggedGrace) - int64(time.Hour))
	im := r.pushImage("a", "y", "{}", "layer")
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	deleted := r.last("a")
	r.wantBlob("a", "layer")
	r.pass(2 * time.Hour)
	r.want(404, "GET", "/v2/a/manifests/"+untagged.digest.String(), nil)
	r.wantNoBlob("a", "layer")
	r.undo(200, "a", deleted, im.digest.String())
	r.wantImage("a", "y", im)
}

// check finds a blob that is hidden and should not be.
func TestCheckFindsHiddenBlobs(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	r.off()
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), `UPDATE link SET hidden = 0`)
	r.start()
	report, err := r.st.check(t.Context(), false, func(int64) {})
	if err != nil {
		t.Fatal(err)
	}
	var found []digest.Digest
	for _, f := range report.findings {
		for _, d := range append(im.layers, im.config) {
			if f.problem == "blob "+d.String()+": hidden, and used by a manifest that is not (4)" {
				found = append(found, d)
			}
		}
		if _, err := f.repair(r.st); err != nil {
			t.Error(err)
		}
	}
	if len(found) != 2 || slices.Equal(found[:1], found[1:]) {
		t.Errorf("check finds %v", found)
	}
	r.wantImage("a", "x", im)
}
