// What goes and what stays, as time passes. Time is the registry's uptime,
// which tests move.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// hasFile reports whether a blob's bytes are on the disk.
func (r *registry) hasFile(d digest.Digest) bool {
	_, err := os.Stat(r.st.path(d))
	return err == nil
}

func TestUnreferencedBlobGoesAfterItsGrace(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "never used")
	r.pass(r.cfg.grace - time.Second)
	if !r.hasFile(d) {
		t.Fatal("collected before its grace was over")
	}
	r.pass(2 * time.Second)
	r.want(404, "HEAD", "/v2/a/blobs/"+d.String(), nil)
	if r.hasFile(d) {
		t.Error("the file is still there")
	}
	r.want(404, "GET", "/v2/a/tags/list", nil) // the repository is gone with it
}

func TestImageStaysForEver(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	r.pass(100 * 365 * 24 * time.Hour)
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
	r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil).is("layer")
	// What the fresh uptime gave no grace to is not in a hurry after a restart.
	r.restart()
	r.pass(time.Hour)
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
}

func TestUntaggedManifestGoesAfterItsGrace(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	old := r.pushImage("a", "x", "{}", "old", "shared")
	r.pass(30 * r.cfg.untaggedGrace) // the time with a tag does not count
	im := r.pushImage("a", "x", "{}", "new", "shared")
	r.pass(r.cfg.untaggedGrace - time.Minute)
	r.want(200, "GET", "/v2/a/blobs/"+old.layers[0].String(), nil)
	r.pass(2 * time.Minute)
	r.want(404, "GET", "/v2/a/manifests/"+old.digest.String(), nil)
	r.want(200, "HEAD", "/v2/a/blobs/"+old.layers[0].String(), nil) // its own grace begins
	r.pass(r.cfg.grace + time.Minute)
	for _, x := range []struct {
		d    digest.Digest
		want bool
	}{{old.layers[0], false}, {old.layers[1], true}, {im.layers[0], true}, {im.config, true}} {
		if got := r.hasFile(x.d); got != x.want {
			t.Errorf("file of %s there: %v, want %v", x.d, got, x.want)
		}
	}
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
}

func TestUntaggedManifestIsKeptIfSoConfigured(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.untaggedGrace = 0 })
	im := r.pushImage("a", "x", "{}", "layer")
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	r.pass(100 * 365 * 24 * time.Hour)
	r.want(200, "GET", "/v2/a/manifests/"+im.digest.String(), nil)
	r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil)
}

func TestMembersAndReferrersStayWithTheirManifest(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	member := ociImage("{}")
	r.want(201, "PUT", "/v2/a/manifests/"+member.digest.String(), member.manifest, "Content-Type: "+typeOCIManifest)
	index, indexDigest := ociIndex(member.manifest)
	r.want(201, "PUT", "/v2/a/manifests/multi", index, "Content-Type: "+typeOCIIndex)
	sig := newImage(typeOCIManifest, "x/sig", "x/y", `,"subject":`+descriptorJSON(typeOCIIndex, index), "{}")
	r.want(201, "PUT", "/v2/a/manifests/"+sig.digest.String(), sig.manifest, "Content-Type: "+typeOCIManifest)

	all := []digest.Digest{member.digest, indexDigest, sig.digest}
	r.pass(30 * r.cfg.untaggedGrace)
	for _, d := range all {
		r.want(200, "HEAD", "/v2/a/manifests/"+d.String(), nil)
	}
	r.want(202, "DELETE", "/v2/a/manifests/"+indexDigest.String(), nil)
	r.want(200, "HEAD", "/v2/a/manifests/"+member.digest.String(), nil)
	r.pass(r.cfg.untaggedGrace + time.Minute)
	r.pass(r.cfg.untaggedGrace + time.Minute)
	for _, d := range all {
		r.want(404, "HEAD", "/v2/a/manifests/"+d.String(), nil)
	}
	r.pass(r.cfg.grace + time.Minute)
	r.want(404, "GET", "/v2/a/tags/list", nil)
}

// Invariant 4: who was told that a blob exists may rely on it for half the grace.
func TestHeadKeepsWhatIsDueSoon(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "layer")
	r.pushBlob("a", "{}")
	for range 5 {
		r.pass(r.cfg.grace - time.Minute)
		r.want(200, "HEAD", "/v2/a/blobs/"+d.String(), nil)
		r.want(200, "HEAD", "/v2/a/blobs/"+sum("{}").String(), nil)
	}
	r.pass(r.cfg.grace / 2)
	im := ociImage("{}", "layer")
	r.want(201, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)

	// Likewise a mount, and a manifest by digest.
	r.want(201, "POST", "/v2/b/blobs/uploads/?from=a&mount="+d.String(), nil)
	r.pass(r.cfg.grace - time.Minute)
	r.want(201, "POST", "/v2/b/blobs/uploads/?from=a&mount="+d.String(), nil)
	r.pass(r.cfg.grace - time.Minute)
	r.want(200, "HEAD", "/v2/b/blobs/"+d.String(), nil)
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	for range 3 {
		r.pass(r.cfg.untaggedGrace - time.Minute)
		r.want(200, "HEAD", "/v2/a/manifests/"+im.digest.String(), nil)
	}
}

func TestBlobStaysWhileAnyRepositoryHasIt(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "shared")
	r.pushImage("b", "x", "{}", "shared")
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	r.pass(r.cfg.untaggedGrace + time.Minute)
	r.pass(r.cfg.grace + time.Minute)
	r.want(404, "HEAD", "/v2/a/blobs/"+im.layers[0].String(), nil)
	r.want(200, "GET", "/v2/b/blobs/"+im.layers[0].String(), nil).is("shared")
	r.want(200, "GET", "/v2/_catalog", nil).is(`{"repositories":["b"]}`)
}

func TestForeignLayerThatWasPushedStays(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	im := newImage(typeDockerManifest, "x/y", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "", "{}", "foreign")
	r.want(201, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeDockerManifest)
	d := r.pushBlob("a", "foreign") // later, as a copy between registries may do
	r.pass(10 * r.cfg.grace)
	r.want(200, "GET", "/v2/a/blobs/"+d.String(), nil).is("foreign")
}

func TestAbandonedUploadExpires(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	idle := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", idle, "some bytes")
	busy := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.pass(r.cfg.uploadExpiry - time.Minute)
	r.want(202, "PATCH", busy, "some bytes")
	r.pass(2 * time.Minute)
	r.want(404, "GET", idle, nil).code("BLOB_UPLOAD_UNKNOWN")
	r.want(204, "GET", busy, nil).has("Range", "0-9")
	if files, _ := filepath.Glob(filepath.Join(r.cfg.dir, "uploads", "*")); len(files) != 1 {
		t.Errorf("files of uploads: %v, want one", files)
	}
	if n := r.st.uploads.count.Load(); n != 1 {
		t.Errorf("%d sessions are counted, want 1", n)
	}
	// A session of an earlier process likewise.
	r.restart()
	r.pass(r.cfg.uploadExpiry + time.Minute)
	r.want(404, "GET", busy, nil)
}

// A request may take longer than the expiry.
func TestUploadInProgressDoesNotExpire(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	body, send := io.Pipe()
	done := make(chan error, 1)
	go func() {
		re, err := r.try("PATCH", loc, body)
		if err == nil && re.status != http.StatusAccepted {
			err = http.ErrAbortHandler
		}
		done <- err
	}()
	content := bytes.Repeat([]byte("x"), smallBuffer)
	send.Write(content) // returns when the transport has taken it
	for r.do("GET", loc, nil).header.Get("Range") == "0-0" {
	}
	r.pass(2 * r.cfg.uploadExpiry)
	r.want(204, "GET", loc, nil)
	send.Close()
	if err := <-done; err != nil {
		t.Fatalf("the upload in progress: %v", err)
	}
	r.want(201, "PUT", with(loc, "digest="+digest.FromBytes(content).String()), nil)
}

func TestUptimeIsKeptOverRestarts(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "x")
	for range 3 {
		r.pass(r.cfg.grace / 4)
		r.restart()
	}
	r.pass(0)
	if !r.hasFile(d) {
		t.Fatal("collected after three quarters of its grace")
	}
	r.pass(r.cfg.grace/4 + time.Minute)
	if r.hasFile(d) {
		t.Error("not collected after all of its grace")
	}
}

// A write that fails is no record of the time, and does not pass for one.
func TestUptimeIsKeptDespiteWritesThatFail(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "x")
	r.moved.Add(int64(time.Hour))
	r.want(404, "DELETE", "/v2/a/manifests/none", nil) // begins a transaction and gives it up
	r.pushBlob("a", "x")
	var uptime int64
	if err := r.st.get(`SELECT uptime FROM meta`, nil, &uptime); err != nil || uptime < 3600 {
		t.Errorf("the recorded uptime is %d s (%v), want at least an hour", uptime, err)
	}
}

func TestCollectionIsLogged(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "x")
	r.pass(r.cfg.grace + time.Minute)
	if !strings.Contains(r.log.String(), "blob removed") || !strings.Contains(r.log.String(), d.String()) {
		t.Errorf("log:\n%s", r.log)
	}
}

// The janitor sleeps until something is due; a delete wakes it at once.
func TestDeletedBlobFreesItsRoomAtOnce(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	ctx, stop := context.WithCancel(t.Context())
	var janitor sync.WaitGroup
	janitor.Go(func() { r.st.collector.run(ctx) })
	defer janitor.Wait()
	defer stop()
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location() // due in a day
	for i := range 5 {
		d := r.pushBlob("a", fmt.Sprint("blob", i))
		r.want(202, "DELETE", "/v2/a/blobs/"+d.String(), nil)
		for deadline := time.Now().Add(time.Minute); r.hasFile(d); {
			if time.Now().After(deadline) {
				t.Fatal("the file is still there")
			}
			runtime.Gosched()
		}
	}
	r.want(204, "DELETE", loc, nil)
}

// One file that cannot be removed does not keep the others.
func TestOneFileThatCannotBeRemoved(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	stuck, free := r.pushBlob("a", "1"), r.pushBlob("a", "2")
	if stuck > free {
		stuck, free = free, stuck // it comes first
	}
	// What is not a directory has no files to remove, and so cannot be removed as one.
	dir := filepath.Dir(r.st.path(stuck))
	prefix := filepath.Dir(dir)
	if err := os.Rename(prefix, prefix+".aside"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(prefix, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.moved.Add(int64(r.cfg.grace + time.Minute))
	if _, err := r.st.collector.collectDue(t.Context()); err == nil || !strings.Contains(err.Error(), stuck.String()) {
		t.Errorf("collecting: %v, want an error about %s", err, stuck)
	}
	if r.hasFile(free) {
		t.Error("the other file is still there")
	}
	if err := errors.Join(os.Remove(prefix), os.Rename(prefix+".aside", prefix)); err != nil {
		t.Fatal(err)
	}
	r.pass(0)
	if r.hasFile(stuck) {
		t.Error("the file is still there when it can be removed")
	}
}
