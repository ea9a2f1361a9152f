// Blobs on another disk than the database: data/blobs is a mount, a link, or the same
// disk mounted twice.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// mountAt mounts what is at source at dir, which it makes, until the end of the test.
func mountAt(t testing.TB, source, dir string) {
	t.Helper()
	needRoot(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, dir, "", unix.MS_BIND, ""); err != nil {
		skip(t, fmt.Sprintf("mounting a directory: %v", err))
	}
	unmountAtEnd(t, dir)
}

// apart are the ways in which the blobs of a data directory can be elsewhere. Each
// gives blobs, which may have some, another disk.
var apart = []struct {
	name string
	do   func(t testing.TB, blobs string)
}{
	{"a mount", func(t testing.TB, blobs string) { moveBlobs(t, blobs, mountDisk(t, "size=64m"), false) }},
	{"a link", func(t testing.TB, blobs string) { moveBlobs(t, blobs, mountDisk(t, "size=64m"), true) }},
	{"the same disk mounted twice", func(t testing.TB, blobs string) { moveBlobs(t, blobs, t.TempDir(), false) }},
	{"a link, and uploads into it", func(t testing.TB, blobs string) {
		moveBlobs(t, blobs, mountDisk(t, "size=64m"), true)
		uploads, there := filepath.Join(filepath.Dir(blobs), "uploads"), filepath.Join(blobs, "uploads")
		if err := errors.Join(os.RemoveAll(uploads), os.Mkdir(there, 0o700), os.Symlink(there, uploads)); err != nil {
			t.Fatal(err)
		}
	}},
	{"a link, also for uploads", func(t testing.TB, blobs string) {
		disk := mountDisk(t, "size=64m")
		moveBlobs(t, blobs, disk, true)
		uploads := filepath.Join(filepath.Dir(blobs), "uploads")
		if err := errors.Join(os.RemoveAll(uploads), os.Mkdir(filepath.Join(disk, "uploads"), 0o700), os.Symlink(filepath.Join(disk, "uploads"), uploads)); err != nil {
			t.Fatal(err)
		}
	}},
}

func moveBlobs(t testing.TB, blobs, disk string, link bool) {
	t.Helper()
	there := filepath.Join(disk, "blobs")
	if exists(blobs) {
		if err := errors.Join(os.CopyFS(there, os.DirFS(blobs)), os.RemoveAll(blobs)); err != nil {
			t.Fatal(err)
		}
	} else if err := os.MkdirAll(there, 0o700); err != nil {
		t.Fatal(err)
	}
	if !link {
		mountAt(t, there, blobs)
	} else if err := errors.Join(os.MkdirAll(filepath.Dir(blobs), 0o700), os.Symlink(there, blobs)); err != nil {
		t.Fatal(err)
	}
}

func TestBlobsOnAnotherDisk(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, x := range apart {
		t.Run(x.name, func(t *testing.T) {
			needRoot(t)
			dir := filepath.Join(t.TempDir(), "data")
			x.do(t, filepath.Join(dir, "blobs"))
			r := startRegistry(t, func(cfg *config) { cfg.dir = dir })
			f := r.pushFixture("home/app")
			large := noise(60, 300<<10)
			for i, way := range ways {
				content := large + fmt.Sprint(i)
				if re, err := r.pushDigest(way, "home/app", content, digest.SHA512.FromString(content), ""); err != nil {
					t.Error(err)
				} else if re.status != 201 {
					t.Errorf("%s = %d, want 201", re.request, re.status)
				}
			}
			begun := r.want(202, "POST", "/v2/home/app/blobs/uploads/", nil).location()
			r.want(202, "PATCH", begun, large)
			r.restart()
			r.want(202, "PATCH", begun, "more", fmt.Sprintf("Content-Range: %d-%d", len(large), len(large)+3))
			r.want(201, "PUT", with(begun, "digest="+sum(large+"more").String()), nil)
			f.pull()

			// Collected, damaged, put aside, pushed again.
			r.want(202, "DELETE", "/v2/home/app/blobs/"+sum(large+"more").String(), nil)
			r.pass(0)
			if exists(r.st.path(sum(large + "more"))) {
				t.Error("a deleted blob has its file")
			}
			rotten := sum(f.layers[0])
			for range 2 { // the first may be whole again in the place of the second
				if err := os.WriteFile(r.st.path(rotten), []byte(noise(61, len(f.layers[0]))), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := r.st.scrubber.pass(t.Context()); err != nil {
					t.Error(err)
				}
				if !exists(r.st.aside(rotten)) {
					t.Error("a damaged blob is not put aside")
				}
				r.want(404, "GET", "/v2/home/app/blobs/"+rotten.String(), nil)
				r.pushBlob("home/app", f.layers[0])
				f.pull()
			}
			r.whileStopped(func() {
				if out, err := runOnce(t, "repair", "--deep", "--data", dir); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
			dest := filepath.Join(t.TempDir(), "backup")
			if out, err := r.backup(dest); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			f.pull()
			f.r = r.serveCopy(dest)
			f.pull()
		})
	}
}

// A registry is moved onto the disk while uploads are open: those begin anew.
func TestBlobsMovedToAnotherDisk(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, x := range apart {
		t.Run(x.name, func(t *testing.T) {
			r := startRegistry(t)
			defer r.stop() // before the disk goes
			f := r.pushFixture("home/app")
			begun := r.want(202, "POST", "/v2/home/app/blobs/uploads/", nil).location()
			r.want(202, "PATCH", begun, noise(60, 100<<10))
			needRoot(t)
			r.whileStopped(func() { x.do(t, filepath.Join(r.cfg.dir, "blobs")) })
			f.pull()
			r.want(204, "GET", begun, nil).has("Range", "0-0")
			large := noise(60, 300<<10)
			r.want(202, "PATCH", begun, large, fmt.Sprintf("Content-Range: 0-%d", len(large)-1))
			r.want(201, "PUT", with(begun, "digest="+sum(large).String()), nil)
			if left, _ := filepath.Glob(filepath.Join(r.cfg.dir, "uploads", "*")); len(left) > 0 {
				t.Errorf("left of uploads: %v", left)
			}
			f.pull()
		})
	}
}

// Each of two disks has its floor.
func TestOneOfTwoDisksIsFull(t *testing.T) {
	slow(t)
	t.Parallel()
	disk, blobs := mountDisk(t, "size=32m"), mountDisk(t, "size=32m")
	mountAt(t, blobs, filepath.Join(disk, "data", "blobs"))
	r := onDisk(t, disk)
	f := r.pushFixture("home/app")
	var stats figures
	look := func() {
		t.Helper()
		stats = figures{}
		out, err := runOnceOn(t, r.st, "stats", "--json")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(out), &stats); err != nil {
			t.Fatal(err)
		}
	}
	unchanged := func() {
		t.Helper()
		f.pull()
		for _, n := range []int{1, 300 << 10} {
			r.noSpace("POST", "/v2/home/app/blobs/uploads/?digest="+sum(noise(70, n)).String(), noise(70, n))
		}
		r.noSpace("POST", "/v2/home/app/blobs/uploads/", nil)
	}
	free := fill(t, blobs)
	unchanged()
	if look(); stats.DiskFree != 0 || stats.DatabaseDisk == nil || stats.DatabaseDisk.Free == 0 {
		t.Errorf("stats with a full disk of blobs: %+v", stats)
	}
	if text := string(r.want(200, "GET", "/metrics", nil).body); !strings.Contains(text, "berth_disk_free_bytes 0\n") || strings.Contains(text, "berth_database_disk_free_bytes 0\n") {
		t.Errorf("the metrics with a full disk of blobs are\n%s", text)
	}
	// What needs none of its room.
	r.want(201, "PUT", "/v2/home/app/manifests/2.0", f.image.manifest, "Content-Type: "+typeOCIManifest)
	r.want(202, "DELETE", "/v2/home/app/manifests/2.0", nil)
	r.restart()
	unchanged()
	if !exists(filepath.Join(r.cfg.dir, reserveFile)) && r.st.reserve.spent.Load() {
		t.Error("the reserve on the database's disk is given up, which helps nobody")
	}
	free()
	r.pushBlob("home/app", noise(71, 300<<10))

	free = fill(t, disk)
	unchanged()
	if look(); stats.DiskFree == 0 || stats.DatabaseDisk == nil || stats.DatabaseDisk.Free != 0 {
		t.Errorf("stats with a full disk of the database: %+v", stats)
	}
	r.noSpace("PUT", "/v2/home/app/manifests/2.0", f.image.manifest, "Content-Type: "+typeOCIManifest)
	free()
	r.pushBlob("home/app", noise(70, 300<<10))
	f.pull()
}

// The disk of the blobs fills up while a body arrives: others have it to the last byte.
func TestDiskOfBlobsWithoutAByte(t *testing.T) {
	t.Parallel()
	blobs := mountDisk(t, "size=32m")
	dir := filepath.Join(t.TempDir(), "data")
	mountAt(t, blobs, filepath.Join(dir, "blobs"))
	r := startRegistry(t, func(cfg *config) { cfg.dir, cfg.minFree = dir, 0 })
	f := r.pushFixture("home/app")
	if err := errors.Join(r.st.keepReserve(), r.st.small.sync()); err != nil {
		t.Fatal(err)
	}
	lost := r.pushBlob("home/app", "lost") // its file, which is to be written again
	if err := os.Remove(r.st.path(lost)); err != nil {
		t.Fatal(err)
	}
	free := fill(t, blobs)
	for _, n := range []int{1, 300 << 10} {
		r.noSpace("POST", "/v2/home/app/blobs/uploads/?digest="+sum(noise(70, n)).String(), noise(70, n))
	}
	if err := r.st.small.sync(); !isNoSpace(err) {
		t.Errorf("small blobs on a full disk: %v", err)
	}
	f.pull()
	if !exists(filepath.Join(dir, reserveFile)) {
		t.Error("the reserve on the database's disk is given up, which helps nobody")
	}
	r.want(202, "DELETE", "/v2/home/app/manifests/1.0", nil)
	free()
	if err := r.st.small.sync(); err != nil {
		t.Error(err)
	}
	r.want(200, "GET", "/v2/home/app/blobs/"+lost.String(), nil).is("lost")
	r.pushFixture("home/app")
	f.pull()
}

func TestBackupToTwoDisks(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	f := r.pushFixture("home/app")
	for _, x := range apart[:3] {
		t.Run(x.name, func(t *testing.T) {
			dest := filepath.Join(t.TempDir(), "backup")
			x.do(t, filepath.Join(dest, "blobs"))
			for range 2 {
				if out, err := r.backup(dest); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				r.pushBlob("home/app", t.Name())
			}
			if out, err := runOnce(t, "check", "--deep", "--data", dest); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			c := r.serveCopy(dest)
			defer c.stop()
			(&fixture{c, f.repo, f.layers, f.image, f.signature}).pull()
			c.pushBlob("home/app", noise(62, 300<<10))
		})
	}
}

// A backup beside the blobs would be among them, and one with the same disk for its
// blobs would remove what is pushed later.
func TestBackupAmongTheBlobsIsRefused(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	f := r.pushFixture("home/app")
	disk := t.TempDir()
	r.whileStopped(func() { moveBlobs(t, filepath.Join(r.cfg.dir, "blobs"), disk, true) })
	linked, mounted := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "backup")
	if err := errors.Join(os.Mkdir(linked, 0o700), os.Symlink(filepath.Join(disk, "blobs"), filepath.Join(linked, "blobs"))); err != nil {
		t.Fatal(err)
	}
	dests := []string{filepath.Join(disk, "blobs", "backup"), disk, linked}
	if os.Geteuid() == 0 {
		mountAt(t, filepath.Join(disk, "blobs"), filepath.Join(mounted, "blobs"))
		dests = append(dests, mounted)
	}
	for _, dest := range dests {
		if out, err := r.backup(dest); err == nil || !strings.Contains(err.Error(), "cannot be in") {
			t.Errorf("a backup to %s: %v\n%s", dest, err, out)
		}
	}
	f.pull()
}

func TestBlobsOnSeveralDisks(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	f := r.pushFixture("home/app")
	needRoot(t)
	blobs := filepath.Join(r.cfg.dir, "blobs", "sha512")
	disk := mountDisk(t, "size=32m")
	r.whileStopped(func() {
		if err := errors.Join(os.RemoveAll(blobs), os.Symlink(disk, blobs)); err != nil {
			t.Fatal(err)
		}
		st, err := openStore(r.cfg.storeConfig)
		if err == nil {
			st.close()
			t.Error("it is served")
		} else if !strings.Contains(err.Error(), "is on several disks") {
			t.Errorf("the refusal says %q", err)
		}
		if err := os.Remove(blobs); err != nil {
			t.Fatal(err)
		}
	})
	f.pull()
}

func TestBlobsOnAReadOnlyDisk(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	defer r.stop() // before the disk goes
	f := r.pushFixture("home/app")
	needRoot(t)
	disk := mountDisk(t, "size=32m")
	blobs := filepath.Join(r.cfg.dir, "blobs")
	r.whileStopped(func() {
		moveBlobs(t, blobs, disk, true)
		makeReadOnly(t, disk)
	})
	f.pull()
	f.refusesChanges()
	r.whileStopped(func() {
		if err := unix.Mount("", disk, "", unix.MS_REMOUNT, ""); err != nil {
			t.Fatal(err)
		}
	})
	f.pull()
	r.pushBlob("home/app", noise(63, 300<<10))
}
