package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mountUnmapped mounts a file system that cannot map files into shared memory until the
// end of the test, and returns where.
func mountUnmapped(t testing.TB) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if out, err := exec.Command("mergerfs", "-o", "cache.files=off,direct_io,minfreespace=1M", t.TempDir(), dir).CombinedOutput(); err != nil {
		skip(t, "mergerfs: "+err.Error()+" "+string(out))
	}
	unmountAtEnd(t, dir)
	return dir
}

// What is wanted is said, and nothing is left in the way of who puts it right.
func TestNoSharedMemory(t *testing.T) {
	t.Parallel()
	disk := mountUnmapped(t)
	r := startRegistry(t)
	f := r.pushFixture("home/app")
	copied := filepath.Join(disk, "copied")
	r.whileStopped(func() {
		if err := os.CopyFS(copied, os.DirFS(r.cfg.dir)); err != nil {
			t.Fatal(err)
		}
	})
	empty := filepath.Join(disk, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	before := tree(t, disk)
	for _, dir := range []string{empty, filepath.Join(disk, "new", "data"), copied} {
		cfg := r.cfg.storeConfig
		cfg.dir = dir
		st, err := openStore(cfg)
		if err == nil {
			st.close()
			t.Errorf("%s is served", dir)
		} else if !strings.Contains(err.Error(), "cannot map files into shared memory") {
			t.Errorf("the refusal says %q", err)
		}
	}
	for path := range tree(t, disk) {
		if _, known := before[path]; !known {
			t.Errorf("left over: %s", path)
		}
	}
	if exists(filepath.Join(disk, "new")) {
		t.Error("a directory was made")
	}
	f.pull()
}

// A backup is there to be copied back, and needs none.
func TestBackupWithoutSharedMemory(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	f := r.pushFixture("home/app")
	there, back := filepath.Join(mountUnmapped(t), "backup"), filepath.Join(t.TempDir(), "back")
	for range 2 {
		if out, err := r.backup(there); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if err := os.CopyFS(back, os.DirFS(there)); err != nil {
		t.Fatal(err)
	}
	f.r = r.serveCopy(back)
	f.pull()
}

// The blobs need none.
func TestBlobsWithoutSharedMemory(t *testing.T) {
	t.Parallel()
	disk := mountUnmapped(t)
	dir := filepath.Join(t.TempDir(), "data")
	moveBlobs(t, filepath.Join(dir, "blobs"), disk, true)
	r := startRegistry(t, func(cfg *config) { cfg.dir = dir })
	defer r.stop() // before the disk goes
	f := r.pushFixture("home/app")
	r.pushBlob("home/app", noise(80, 3<<20))
	f.pull()
	r.restart()
	f.pull()
}
