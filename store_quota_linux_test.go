// A quota of the file system, which shows in no figure of the free space.

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mountQuota mounts a disk with a directory that may have so much, until the end of
// the test, and returns the directory.
func mountQuota(t testing.TB, limit string) string {
	t.Helper()
	needRoot(t)
	tmp := t.TempDir()
	image, disk := filepath.Join(tmp, "image"), filepath.Join(tmp, "disk")
	data := filepath.Join(disk, "home")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			skip(t, fmt.Sprintf("%v: %v\n%s", args, err, out))
		}
	}
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 1<<30), os.Mkdir(disk, 0o700)); err != nil {
		t.Fatal(err)
	}
	run("mkfs.btrfs", "-q", image)
	run("mount", "-o", "loop", image, disk)
	unmountAtEnd(t, disk)
	run("btrfs", "quota", "enable", disk)
	run("btrfs", "subvolume", "create", data)
	run("btrfs", "qgroup", "limit", limit, data)
	return data
}

// A quota that is used up is a full disk: pushes are refused, pulls go on, deletes
// work, and room that comes back is used.
func TestQuota(t *testing.T) {
	slow(t)
	t.Parallel()
	if underRace {
		// A page of shared memory that cannot be had is a fault, which SQLite's driver turns into an
		// error. The race detector looks at the memory before, outside of Go, and dies of it.
		notHere(t, raceDies)
	}
	r := onDisk(t, mountQuota(t, "40M"), func(c *config) { c.noPromises = true })
	if err := r.st.keepReserve(); err != nil || !exists(filepath.Join(r.cfg.dir, reserveFile)) {
		t.Fatalf("no reserve: %v", err)
	}
	f := r.pushFixture("home/app")
	r.pushImage("home/app", "2.0", `{"n":2}`, "layer")
	full := func() {
		t.Helper()
		for i := 0; ; i++ {
			content := noise(uint64(i+100), 6<<20)
			re := r.do("POST", "/v2/home/app/blobs/uploads/?digest="+sum(content).String(), content)
			if re.status == 507 {
				break
			}
			if re.status != 201 || i > 10 {
				t.Fatalf("push %d: %d %s", i, re.status, re.body)
			}
		}
		// Others take what is left.
		f, err := os.Create(filepath.Join(r.cfg.dir, "..", "ballast"))
		for err == nil {
			if _, err = f.Write([]byte(noise(1, 4<<10))); err == nil {
				err = f.Sync()
			}
		}
		if f.Close(); !isDiskFull(err) {
			t.Fatal(err)
		}
	}
	served := func() {
		t.Helper()
		r.want(404, "GET", "/v2/home/app/manifests/never", nil) // the database is asked
		f.pull()
		r.command("ls")
		r.command("stats")
		r.want(200, "GET", "/v2/home/app/_berth/history", nil)
	}
	full()
	served()
	r.noSpace("POST", "/v2/home/app/blobs/uploads/", nil)
	r.want(202, "DELETE", "/v2/home/app/manifests/2.0", nil)
	if exists(filepath.Join(r.cfg.dir, reserveFile)) {
		t.Error("the reserve was not needed: this tests nothing")
	}
	served()
	r.restart()
	served()
	if err := os.Remove(filepath.Join(r.cfg.dir, "..", "ballast")); err != nil {
		t.Fatal(err)
	}
	r.command("gc", "--now")
	flushFileSystem(r.st.lock) // btrfs gives room back a little later
	r.moved.Add(int64(2 * regainEvery))
	r.pushImage("home/app", "3.0", `{"n":3}`, "layer three")
	if !exists(filepath.Join(r.cfg.dir, reserveFile)) {
		t.Error("there is no reserve again")
	}
	served()
	full()
	served()
	r.want(202, "DELETE", "/v2/home/app/manifests/3.0", nil)
	r.command("gc", "--now")
}

// While there is no reserve and no room for one, pushes are refused; each asks again,
// but not all of a crowd.
func TestPushesWaitForTheReserve(t *testing.T) {
	t.Parallel()
	disk := mountDisk(t, "size=64m")
	r := onDisk(t, disk)
	r.freeze()
	if err := r.st.keepReserve(); err != nil {
		t.Fatal(err)
	}
	f := r.pushFixture("home/app")
	free := fill(t, disk)
	if !r.st.spareRoom() {
		t.Fatal("there was no reserve")
	}
	r.noSpace("POST", "/v2/home/app/blobs/uploads/", nil)
	f.pull()
	r.whileStopped(func() {}) // nor is there one at a start
	r.freeze()
	free()
	blockReserve := filepath.Join(r.cfg.dir, reserveFile+".new")
	if err := os.MkdirAll(filepath.Join(blockReserve, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.noSpace("POST", "/v2/home/app/blobs/uploads/", nil)
	if err := os.RemoveAll(blockReserve); err != nil {
		t.Fatal(err)
	}
	r.moved.Add(int64(regainEvery) - 1)
	r.noSpace("POST", "/v2/home/app/blobs/uploads/", nil)
	r.moved.Add(1)
	r.want(202, "POST", "/v2/home/app/blobs/uploads/", nil)
	var s unix.Stat_t
	if err := unix.Stat(filepath.Join(r.cfg.dir, reserveFile), &s); err != nil || s.Blocks*512 < reserveSize {
		t.Errorf("the reserve has %d bytes on the disk (%v)", s.Blocks*512, err)
	}
}
