package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
)

// syncImage is --sync=image.
func syncImage(cfg *config) { cfg.syncImages, cfg.littleDirty = true, func() bool { return true } }

// large is a blob of which the database keeps no copy.
func large(seed uint64) string { return noise(seed, maxSmall+1) }

// afterPowerCut copies a registry that is running, has the copies of these files changed as a power cut
// might, and serves it.
func (r *registry) afterPowerCut(lose func(path string) error, lost []digest.Digest, options ...func(*config)) *registry {
	r.t.Helper()
	dir := filepath.Join(r.t.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(r.cfg.dir)); err != nil {
		r.t.Fatal(err)
	}
	for _, d := range lost {
		if err := lose(filepath.Join(dir, strings.TrimPrefix(r.st.path(d), r.cfg.dir))); err != nil {
			r.t.Fatal(err)
		}
	}
	return startRegistry(r.t, append(options, func(cfg *config) { cfg.dir = dir })...)
}

// A blob that was answered before its file was synced is whole after a power cut, or it has never been there. Nothing wrong
// is served, and whoever pushes the image again has all of it.
func TestBlobThatAPowerCutSpoiledIsTakenBack(t *testing.T) {
	t.Parallel()
	live := startRegistry(t, syncImage)
	good, bad := live.pushBlob("a", large(1)), live.pushBlob("a", large(2))
	live.pushBlob("b", large(2))
	only := live.pushBlob("c/only", large(3))
	if n := live.unsyncedRows(); n != 3 {
		t.Fatalf("%d blobs are not synced, want 3", n)
	}
	for name, lose := range map[string]func(path string) error{
		"the file":       os.Remove,
		"its directory":  func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"its end":        func(path string) error { return os.Truncate(path, 4096) },
		"what they were": func(path string) error { return os.WriteFile(path, make([]byte, maxSmall+1), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			r := live.afterPowerCut(lose, []digest.Digest{bad, only})
			if n := r.unsyncedRows(); n != 0 {
				t.Errorf("%d blobs are in doubt after the start, want none", n)
			}
			r.want(200, "GET", "/v2/a/blobs/"+good.String(), nil).is(large(1))
			for _, repo := range []string{"a", "b"} {
				r.want(404, "HEAD", "/v2/"+repo+"/blobs/"+bad.String(), nil)
				r.want(404, "GET", "/v2/"+repo+"/blobs/"+bad.String(), nil).code("BLOB_UNKNOWN")
			}
			r.want(404, "GET", "/v2/c/only/tags/list", nil).code("NAME_UNKNOWN")
			im := ociImage("{}", large(1), large(2))
			r.pushBlob("a", "{}")
			r.want(404, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest).code("MANIFEST_BLOB_UNKNOWN")
			r.pushImage("a", "x", "{}", large(1), large(2))
			r.want(200, "GET", "/v2/a/blobs/"+bad.String(), nil).is(large(2))
		})
	}
}

// What a manifest needs was synced before it was committed, so no start has to read it, however much it is.
func TestStartDoesNotReadWhatManifestsUse(t *testing.T) {
	t.Parallel()
	live := startRegistry(t)
	im := live.pushImage("a", "x", "{}", large(1))
	rotten := func(path string) error { return os.WriteFile(path, make([]byte, maxSmall+1), 0o600) }
	r := live.afterPowerCut(rotten, im.layers[:1]) // no power cut does this
	r.want(200, "HEAD", "/v2/a/blobs/"+im.layers[0].String(), nil)
	if wrong, err := r.st.quarantine(im.layers[0]); wrong == nil || err != nil {
		t.Error(wrong, err)
	}
	r.pushImage("a", "x", "{}", large(1))
}

// A blob and a manifest are each answered when their files are synced, by --sync=blob; by --sync=image the files of all
// blobs of an image are synced with its manifest, and the database once.
func TestWaitsForTheDiskOfAnImage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name             string
		options          []func(*config)
		layers           []string
		commits, inGroup int64 // of the database; syncs of the file system, or of files one by one
	}{
		{"blob", nil, []string{large(1), large(2), large(3)}, 5, 9},
		{"image", []func(*config){syncImage}, []string{large(1), large(2), large(3)}, 1, 1},
		{"image of small blobs", []func(*config){syncImage}, []string{"one", "two", "three"}, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t, c.options...)
			r.pushImage("a", "first", "{}", "first layer")
			database, files := r.st.writer.syncs.Load(), r.st.fileSyncs.Load()
			r.pushImage("a", "x", `{"n":1}`, c.layers...)
			if n := r.st.writer.syncs.Load() - database; n != c.commits {
				t.Errorf("%d syncs of the database, want %d", n, c.commits)
			}
			done, _ := r.st.syncDisk(r.st.small.whole, nil)
			if n := r.st.fileSyncs.Load() - files; n != c.inGroup && (done || c.inGroup != 1 || n < 7) {
				t.Errorf("%d syncs of files, want %d", n, c.inGroup)
			}
		})
	}
}

// failingDisk is a disk on which syncs fail once armed: of the whole file system, and of single files, that are gone then.
func failingDisk(armed *atomic.Bool) func(cfg *config) {
	return func(cfg *config) {
		cfg.syncDisk = func(*os.File, map[string]bool) (bool, error) {
			if armed.Load() {
				return true, errors.New("a write has failed")
			}
			return true, nil
		}
	}
}

// With --sync=image a manifest is not answered when one of its blobs could not be written. That is gone then, and a push of the image
// brings it.
func TestManifestWhoseBlobsCannotBeSynced(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	r := startRegistry(t, syncImage, failingDisk(&armed))
	im := ociImage("{}", large(1), large(2), large(3))
	for _, content := range []string{"{}", large(1), large(2), large(3)} {
		r.pushBlob("a", content)
	}
	other := r.pushBlob("b", large(4))
	armed.Store(true)
	r.want(500, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)
	armed.Store(false)
	r.want(404, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest).code("MANIFEST_BLOB_UNKNOWN")
	r.want(404, "HEAD", "/v2/a/blobs/"+im.layers[0].String(), nil)
	r.want(404, "HEAD", "/v2/b/blobs/"+other.String(), nil) // nobody knows whose write has failed
	if err := r.st.small.sync(); err != nil || r.unsyncedRows() != 0 {
		t.Errorf("%d blobs are in doubt, %v", r.unsyncedRows(), err)
	}
	r.pushImage("a", "x", "{}", large(1), large(2), large(3))
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
}
