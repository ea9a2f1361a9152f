//go:build linux

// Disks that are full, read-only, not there, or not what was left on them.
//
// Each test has a small disk to itself: a tmpfs, which takes root to mount.
// Whatever the disk does, what was pushed before is served with the right
// bytes, a client is told plainly what is wrong, and when there is room again
// the registry goes on by itself.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// mountDisk mounts a tmpfs until the end of the test and returns where.
func mountDisk(t testing.TB, options string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("berth-test", dir, "tmpfs", 0, options); err != nil {
		skip(t, fmt.Sprintf("mounting a tmpfs: %v", err))
	}
	unmountAtEnd(t, dir)
	return dir
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "only root can mount disks")
	}
}

func unmountAtEnd(t testing.TB, dir string) {
	t.Cleanup(func() {
		defer withoutForks()()
		err := unix.Unmount(dir, 0)
		if err == nil {
			return
		}
		// Others may keep it busy: containers begin with copies of all mounts.
		if open := openBelow(dir); err != unix.EBUSY || open != nil {
			t.Errorf("unmounting: %v; %v are still open", err, open)
		}
		unix.Unmount(dir, unix.MNT_DETACH)
	})
}

// openBelow returns which files below a directory this process has open.
func openBelow(dir string) (open []string) {
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range links {
		if path, err := os.Readlink(fd); err == nil && strings.HasPrefix(path, dir+"/") {
			open = append(open, strings.TrimPrefix(path, dir))
		}
	}
	return open
}

// withoutForks keeps other tests from starting processes until it is undone: until such a
// process runs its program it has all files open that are.
func withoutForks() (undo func()) {
	syscall.ForkLock.RLock()
	return syscall.ForkLock.RUnlock
}

// makeReadOnly remounts a disk.
func makeReadOnly(t testing.TB, dir string) {
	t.Helper()
	defer withoutForks()()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("remounting read-only: %v", err)
	}
}

// fill takes all the room there is on a disk, to the last byte, until free is
// called.
func fill(t testing.TB, dir string) (free func()) {
	t.Helper()
	f, err := os.CreateTemp(dir, "ballast")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	path := f.Name()
	for _, n := range []int{1 << 20, 4 << 10, 1} {
		for {
			if _, err = f.Write(make([]byte, n)); err != nil {
				break
			}
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	free = sync.OnceFunc(func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(free)
	return free
}

// onDisk is startRegistry on a disk.
func onDisk(t testing.TB, dir string, options ...func(*config)) *registry {
	t.Helper()
	return startRegistry(t, append([]func(*config){func(cfg *config) { cfg.dir = filepath.Join(dir, "data") }}, options...)...)
}

// whileStopped ends the server, and starts another after fn.
func (r *registry) whileStopped(fn func()) {
	r.t.Helper()
	r.stop()
	r.moved.Store(0)
	defer r.start() // also after a Fatal: the registry is stopped once more at the end
	fn()
}

// A fixture is an image with a referrer, and what its pull must give.
type fixture struct {
	r                *registry
	repo             string
	layers           []string
	image, signature image
}

func (r *registry) pushFixture(repo string) *fixture {
	r.t.Helper()
	f := &fixture{r: r, repo: repo, layers: []string{noise(41, 200<<10), noise(42, 3)}}
	f.image = r.pushImage(repo, "1.0", "{}", f.layers...)
	f.signature = newImage(typeOCIManifest, "application/vnd.example.signature", "text/plain", fmt.Sprintf(
		`,"subject":{"mediaType":%q,"digest":%q,"size":%d}`, typeOCIManifest, f.image.digest, len(f.image.manifest)),
		"{}", f.layers[1])
	r.want(201, "PUT", "/v2/"+repo+"/manifests/"+f.signature.digest.String(), f.signature.manifest, "Content-Type: "+typeOCIManifest)
	return f
}

// pull reads all of it, in every way there is.
func (f *fixture) pull() {
	f.r.t.Helper()
	at := "/v2/" + f.repo
	f.r.want(200, "GET", at+"/manifests/1.0", nil).is(f.image.manifest)
	f.r.want(200, "HEAD", at+"/manifests/1.0", nil).has("Docker-Content-Digest", f.image.digest.String())
	f.r.want(200, "GET", at+"/manifests/"+f.image.digest.String(), nil).is(f.image.manifest)
	for _, content := range append(f.layers, "{}") {
		f.r.want(200, "HEAD", at+"/blobs/"+sum(content).String(), nil).has("Content-Length", fmt.Sprint(len(content)))
		f.r.want(200, "GET", at+"/blobs/"+sum(content).String(), nil).is(content)
	}
	for path, want := range map[string]string{
		at + "/tags/list": "1.0",
		at + "/referrers/" + f.image.digest.String(): f.signature.digest.String(),
		"/v2/_catalog": f.repo,
		at + "/manifests/" + f.signature.digest.String(): f.image.digest.String(),
	} {
		if re := f.r.want(200, "GET", path, nil); !strings.Contains(string(re.body), want) {
			f.r.t.Errorf("GET %s = %s, want %s in it", path, re.body, want)
		}
	}
	f.r.want(200, "GET", "/v2/", nil)
	f.r.want(200, "GET", "/readyz", nil)
}

// noSpace insists on the error that tells of a full disk.
func (r *registry) noSpace(method, path string, body any, headers ...string) {
	r.t.Helper()
	re := r.want(507, method, path, body, headers...)
	text := string(re.body)
	if !strings.Contains(text, "disk is full") {
		r.t.Errorf("%.200s: %s, want it to say that the disk is full", re.request, text)
	}
	if how := strings.Contains(text, " is free, and pushes leave ") || strings.Contains(text, " more files") || strings.Contains(text, "a quota is used up"); !how || !strings.Contains(text, "unless the server is stopped") {
		r.t.Errorf("%.200s: %s, want it to say how full, and what to do", re.request, text)
	}
}

func TestUploadLargerThanTheDisk(t *testing.T) {
	t.Parallel()
	r := onDisk(t, mountDisk(t, "size=16m"))
	f := r.pushFixture("home/app")
	const tooMuch = 40 << 20
	whatever := "digest=" + sum("whatever").String()
	uploads := "/v2/home/app/blobs/uploads/"

	for name, body := range map[string]func() any{
		"with a length": func() any { return io.Reader(bytes.NewReader(make([]byte, tooMuch))) },
		"streamed":      func() any { return zeros(tooMuch) },
	} {
		t.Run(name, func(t *testing.T) {
			r.noSpace("POST", uploads+"?"+whatever, body())
			f.pull()

			r.noSpace("PUT", with(r.want(202, "POST", uploads, nil).location(), whatever), body())
			f.pull()

			// What was acknowledged before stays, and the client may go on
			// when there is room.
			location := r.want(202, "POST", uploads, nil).location()
			begun := noise(50, 100<<10)
			r.want(202, "PATCH", location, begun)
			r.noSpace("PATCH", location, body())
			r.want(204, "GET", location, nil).has("Range", "0-102399")
			f.pull()
			rest := noise(51, 1<<20)
			r.want(202, "PATCH", location, rest, "Content-Range: 102400-1150975")
			d := sum(begun + rest)
			r.want(201, "PUT", with(location, "digest="+d.String()), nil)
			r.want(200, "GET", "/v2/home/app/blobs/"+d.String(), nil).is(begun + rest)
			r.want(202, "DELETE", "/v2/home/app/blobs/"+d.String(), nil)
			r.pass(0)
		})
	}
	// Nothing of what did not fit takes up room: seven parts in eight of the
	// rest can be had.
	var room unix.Statfs_t
	if err := unix.Statfs(r.cfg.dir, &room); err != nil {
		t.Fatal(err)
	}
	r.pushBlob("home/app", noise(52, int(room.Bavail)*int(room.Bsize)*7/8))
	r.restart()
	f.pull()
}

// Whoever pushes is told how much there is room for, where the length of the push is known.
func TestFullDiskSaysHowMuchAPushNeeds(t *testing.T) {
	t.Parallel()
	r := onDisk(t, mountDisk(t, "size=16m"), func(c *config) { c.minFree = 1 << 20 })
	said := func(body io.Reader) string {
		t.Helper()
		re := r.want(507, "POST", "/v2/home/app/blobs/uploads/?digest="+sum("whatever").String(), body)
		if strings.Contains(string(re.body), r.cfg.dir) {
			t.Errorf("a path is told: %s", re.body)
		}
		return string(re.body)
	}
	known := regexp.MustCompile(`the registry's disk is full: this needs 40\.0 MiB, and there is room for 1[0-4]\.[0-9] MiB \(1[1-5]\.[0-9] MiB is free, and pushes leave 1\.0 MiB: --min-free\); pulls still work`)
	if got := said(bytes.NewReader(make([]byte, 40<<20))); !known.MatchString(got) {
		t.Errorf("with a length: %s", got)
	}
	streamed := regexp.MustCompile(`the registry's disk is full: this needs more than the 1[0-4]\.[0-9] MiB that there is room for \(1[1-5]\.[0-9] MiB is free, and pushes leave 1\.0 MiB: --min-free\); pulls still work`)
	if got := said(zeros(40 << 20)); !streamed.MatchString(got) {
		t.Errorf("streamed: %s", got)
	}
}

// The disk is filled by pushes alone, down to the smallest. The error says that
// deletes still work, and they are the way out.
func TestDiskFilledByPushesCanBeEmptiedByDeletes(t *testing.T) {
	t.Parallel()
	r := onDisk(t, mountDisk(t, "size=16m"))
	f := r.pushFixture("home/app")
	n := uint64(1000)
	var pushed []string
	push := func(size int) bool {
		n++
		content := noise(n, size)
		re := r.do("POST", "/v2/home/big/blobs/uploads/?digest="+sum(content).String(), content)
		switch re.status {
		case 201:
			pushed = append(pushed, content)
			return true
		case 507:
			re.errors()
		default:
			t.Fatalf("pushing %d bytes = %d\n%s", size, re.status, re.body)
		}
		return false
	}
	for _, size := range []int{1 << 20, 100 << 10, 10 << 10, 1000, 1} {
		for push(size) {
		}
	}
	t.Logf("%d blobs fitted", len(pushed))
	f.pull()
	for _, content := range pushed[:3] {
		r.want(200, "GET", "/v2/home/big/blobs/"+sum(content).String(), nil).is(content)
	}
	for _, content := range pushed {
		r.want(202, "DELETE", "/v2/home/big/blobs/"+sum(content).String(), nil)
		if t.Failed() {
			break
		}
	}
	r.pass(0)
	r.pushBlob("home/big", noise(999, 1<<20))
	f.pull()
}

// Something else on the disk has taken the last byte, so that not even the
// database can grow. What happens then is true or refused, and never a lie.
func TestDatabaseThatCannotGrow(t *testing.T) {
	t.Parallel()
	disk := mountDisk(t, "size=16m")
	r := onDisk(t, disk, func(c *config) { c.minFree = 0 })
	f := r.pushFixture("home/app")
	second := r.pushImage("home/app", "2.0", `{"n":2}`, "layer")
	session := r.want(202, "POST", "/v2/home/app/blobs/uploads/", nil).location()
	free := fill(t, disk)

	r.noSpace("POST", "/v2/home/app/blobs/uploads/?digest="+sum("more").String(), "more")
	r.noSpace("PATCH", session, "more")
	f.pull()
	// These need a page or two of the database's log, which may have them yet.
	for i := range 2000 {
		re := r.do("PUT", fmt.Sprintf("/v2/home/app/manifests/t%d", i), second.manifest, "Content-Type: "+typeOCIManifest)
		if re.status == 507 {
			re.errors()
			break
		}
		if re.status != 201 {
			t.Fatalf("a push with no room for it = %d\n%s", re.status, re.body)
		}
		if i == 1999 {
			t.Fatal("the database grows on a full disk")
		}
	}
	r.noSpace("DELETE", "/v2/home/app/manifests/2.0", nil)
	r.noSpace("DELETE", "/v2/home/app/manifests/"+second.digest.String(), nil)
	r.noSpace("POST", "/v2/home/app/blobs/uploads/", nil)
	r.want(200, "GET", "/v2/home/app/manifests/2.0", nil).is(second.manifest)
	f.pull()
	if _, err := r.st.collector.collectDue(context.Background()); err != nil && !isNoSpace(err) {
		t.Errorf("collecting on a full disk: %v", err)
	}

	free()
	r.want(202, "DELETE", "/v2/home/app/manifests/2.0", nil)
	r.want(202, "PATCH", session, "more")
	r.want(201, "PUT", with(session, "digest="+sum("more").String()), nil)
	r.want(202, "DELETE", "/v2/home/app/manifests/"+second.digest.String(), nil)
	r.pushImage("home/app", "3.0", `{"n":3}`, "layer three")
	f.pull()
	r.restart()
	f.pull()
	r.want(404, "GET", "/v2/home/app/manifests/2.0", nil)
}

// Others fill the disk too, to the last byte and again whenever something is
// freed. Deletes and the collection still work: there is a reserve for them.
func TestDiskFilledByOthersCanBeEmptiedByDeletes(t *testing.T) {
	t.Parallel()
	disk := mountDisk(t, "size=24m")
	r := onDisk(t, disk, func(c *config) { c.minFree = 0 })
	if err := r.st.keepReserve(); err != nil {
		t.Fatal(err)
	}
	var images []image
	for i := range 60 {
		images = append(images, r.pushImage(fmt.Sprint("a", i), "x", "{}", noise(uint64(i), 40<<10)))
	}
	// As after a long time: the log is in the database, and takes no room.
	if err := r.st.writer.checkpoint(); err != nil {
		t.Fatal(err)
	}
	free := fill(t, disk)
	re := r.do("PUT", "/v2/a0/manifests/y", images[0].manifest, "Content-Type: "+typeOCIManifest)
	if re.status != 201 && re.status != 507 {
		t.Errorf("a push = %d, want 201 or 507", re.status)
	}
	for i, im := range images[1:] {
		r.want(202, "DELETE", fmt.Sprintf("/v2/a%d/manifests/%s", i+1, im.digest), nil)
	}
	r.pass(r.cfg.untaggedGrace + time.Minute)
	r.pass(r.cfg.grace + time.Minute)
	if n := r.files(); n != 2 {
		t.Errorf("%d files are left, want those of one image", n)
	}
	r.want(200, "GET", "/v2/a0/manifests/x", nil).is(images[0].manifest)
	if _, err := os.Stat(filepath.Join(r.cfg.dir, reserveFile)); err == nil {
		t.Error("the reserve was not needed: this tests nothing")
	}
	free()
	if err := r.st.keepReserve(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(r.cfg.dir, reserveFile)); err != nil {
		t.Errorf("the reserve is not back: %v", err)
	}
	r.pushImage("b", "x", "{}", "layer")
}

// The blob's bytes fit and its row does not. The session that was to be the
// blob must not go on as if its bytes were there.
func TestUploadThatCouldNotBeRecorded(t *testing.T) {
	slow(t)
	t.Parallel()
	disk := mountDisk(t, "size=16m")
	r := onDisk(t, disk, func(c *config) { c.minFree = 0 })
	f := r.pushFixture("home/app")
	begun, rest := noise(60, 60_000), noise(61, 1000) // more than what others' commits leave over
	location := r.want(202, "POST", "/v2/home/app/blobs/uploads/", nil).location()
	r.want(202, "PATCH", location, begun)
	free := fill(t, disk)
	// Use up what the log has yet.
	for i := 0; r.do("PUT", fmt.Sprintf("/v2/home/app/manifests/t%d", i), f.image.manifest, "Content-Type: "+typeOCIManifest).status == 201; i++ {
	}
	for r.do("POST", "/v2/home/app/blobs/uploads/", nil).status == 202 { // each of which takes less than a blob's row
	}
	r.noSpace("PUT", with(location, "digest="+sum(begun).String()), nil)
	f.pull()
	free()

	// Either the session has ended, or it tells what it truly has.
	re := r.do("GET", location, nil)
	switch {
	case re.status == 404:
	case re.status == 204 && re.header.Get("Range") == "0-0":
		r.want(202, "PATCH", location, begun, "Content-Range: 0-59999")
		r.want(201, "PUT", with(location, "digest="+sum(begun).String()), nil)
		r.want(200, "GET", "/v2/home/app/blobs/"+sum(begun).String(), nil).is(begun)
	case re.status == 204 && re.header.Get("Range") == "0-59999":
		// It says that it has all that was acknowledged; then it must.
		r.want(202, "PATCH", location, rest, "Content-Range: 60000-60999")
		d := sum(begun + rest)
		r.want(201, "PUT", with(location, "digest="+d.String()), nil)
		if re := r.want(200, "GET", "/v2/home/app/blobs/"+d.String(), nil); string(re.body) != begun+rest {
			t.Errorf("the blob %s is served with wrong bytes: %d zeros at its start, and it has %d bytes of %d",
				d, len(re.body)-len(bytes.TrimLeft(re.body, "\x00")), len(re.body), len(begun+rest))
		}
	default:
		t.Errorf("the session: %s = %d %v\n%s", re.request, re.status, re.header, re.body)
	}
	f.pull()
}

// An operator whose registry is in trouble starts it again. On a full disk too
// it comes up, for pulls at least, or says what is wrong.
func TestStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := mountDisk(t, "size=16m")
	r := onDisk(t, disk)
	f := r.pushFixture("home/app")
	r.whileStopped(func() {
		defer fill(t, disk)()
		st, err := openStore(r.cfg.storeConfig)
		if err == nil {
			if err := st.close(); err != nil && !isNoSpace(err) {
				t.Errorf("closing on a full disk: %v", err)
			}
			return
		}
		t.Logf("starting on a full disk: %v", err)
		if text := err.Error(); !isNoSpace(err) && !strings.Contains(text, "full") && !strings.Contains(text, "space") {
			t.Errorf("starting on a full disk says %q, want it to say that the disk is full", err)
		}
	})
	f.pull()
}

// The first blob of sha512 needs 256 directories: where there is no room for them, it
// takes none of what others need.
func TestFirstLongDigestOnASmallDisk(t *testing.T) {
	t.Parallel()
	r := onDisk(t, mountDisk(t, "size=64m,nr_inodes=450"))
	r.pushBlob("a", "first")
	for range 2 {
		if re, err := r.pushDigest(ways[0], "a", "long", digest.SHA512.FromString("long"), ""); err != nil || re.status != 507 {
			t.Errorf("%+v %v, want 507", re, err)
		}
		r.pushBlob("a", "second")
		r.restart()
	}
}

func TestDiskOutOfInodes(t *testing.T) {
	t.Parallel()
	disk := mountDisk(t, "size=64m,nr_inodes=300") // 256 directories, and some
	r := onDisk(t, disk)
	f := r.pushFixture("home/app")
	var pushed []string
	full := false
	for i := 0; !full; i++ {
		content := fmt.Sprint("blob ", i)
		re := r.do("POST", "/v2/home/many/blobs/uploads/?digest="+sum(content).String(), content)
		switch re.status {
		case 201:
			pushed = append(pushed, content)
		case 507:
			re.errors()
			full = true
		default:
			t.Fatalf("blob %d = %d\n%s", i, re.status, re.body)
		}
	}
	for _, way := range ways {
		if re, err := r.pushBy(way, "home/many", "another"); err != nil || re.status != 507 {
			t.Errorf("%s without an inode left: %+v %v, want 507", way, re, err)
		}
	}
	f.pull()
	for _, content := range pushed {
		r.want(200, "GET", "/v2/home/many/blobs/"+sum(content).String(), nil).is(content)
	}
	for _, content := range pushed {
		r.want(202, "DELETE", "/v2/home/many/blobs/"+sum(content).String(), nil)
	}
	r.pass(0)
	r.pushImage("home/many", "1", `{"n":1}`, "layer one", "layer two")
	f.pull()
	r.restart()
	f.pull()
}

// refusesChanges tries all that would write.
func (f *fixture) refusesChanges() {
	f.r.t.Helper()
	at := "/v2/" + f.repo
	for _, re := range []*reply{
		f.r.want(405, "POST", at+"/blobs/uploads/", nil),
		f.r.want(405, "POST", at+"/blobs/uploads/?digest="+sum("x").String(), "x"),
		f.r.want(405, "POST", fmt.Sprintf("/v2/elsewhere/blobs/uploads/?mount=%s&from=%s", sum("{}"), f.repo), nil),
		f.r.want(405, "PUT", at+"/manifests/2.0", f.image.manifest, "Content-Type: "+typeOCIManifest),
		f.r.want(405, "DELETE", at+"/manifests/1.0", nil),
		f.r.want(405, "DELETE", at+"/manifests/"+f.image.digest.String(), nil),
		f.r.want(405, "DELETE", at+"/blobs/"+sum("{}").String(), nil),
	} {
		re.code("UNSUPPORTED")
		if !strings.Contains(string(re.body), "read-only") {
			f.r.t.Errorf("%s: %s, want it to say that the disk is read-only", re.request, re.body)
		}
	}
	if log := f.r.log.String(); strings.Contains(log, "panic") {
		f.r.t.Errorf("a panic:\n%s", log)
	}
}

func TestReadOnlyDiskServesPulls(t *testing.T) {
	t.Parallel()
	disk := mountDisk(t, "size=32m")
	r := onDisk(t, disk)
	f := r.pushFixture("home/app")
	session := r.want(202, "POST", "/v2/home/app/blobs/uploads/", nil).location()
	r.want(202, "PATCH", session, "begun")
	r.whileStopped(func() { makeReadOnly(t, disk) })
	f.pull()
	f.refusesChanges()
	for _, re := range []*reply{
		r.want(405, "PATCH", session, "more"),
		r.want(405, "PUT", with(session, "digest="+sum("begun").String()), nil),
		r.want(405, "DELETE", session, nil),
	} {
		re.code("UNSUPPORTED")
	}
	r.moved.Add(int64(480 * time.Hour)) // nothing ages where nothing can be removed
	f.pull()
}

// copyToReadOnly copies a directory as it is at this moment, as if the registry
// had been killed, to a read-only disk. A part of the database is in its log.
func (r *registry) copyToReadOnly(without string) (data string) {
	r.t.Helper()
	if info, err := os.Stat(filepath.Join(r.cfg.dir, "berth.db-wal")); err != nil || info.Size() == 0 {
		r.t.Fatalf("there is no log: %v", err)
	}
	disk := mountDisk(r.t, "size=32m")
	data = filepath.Join(disk, "data")
	if err := os.CopyFS(data, os.DirFS(r.cfg.dir)); err != nil {
		r.t.Fatal(err)
	}
	if without != "" {
		if err := os.Remove(filepath.Join(data, without)); err != nil {
			r.t.Fatal(err)
		}
	}
	makeReadOnly(r.t, disk)
	return data
}

func TestReadOnlyDiskAfterACrashServesPulls(t *testing.T) {
	t.Parallel()
	live := startRegistry(t)
	f := live.pushFixture("home/app")
	data := live.copyToReadOnly("")
	f.r = startRegistry(t, func(cfg *config) { cfg.dir = data })
	f.pull()
	f.refusesChanges()
}

// Without its index SQLite cannot read the log, and without the log the
// database is old. That is no damage: on a writable disk all is well.
func TestReadOnlyDiskAfterACrashWithoutTheLogsIndex(t *testing.T) {
	t.Parallel()
	live := startRegistry(t)
	f := live.pushFixture("home/app")
	data := live.copyToReadOnly("berth.db-shm")
	st, err := openStore(directoryConfig(t, data))
	if err == nil {
		defer st.close()
		m, err := st.findManifest(f.repo, reference{tag: "1.0"}, false)
		if err != nil || string(m.body) != f.image.manifest {
			t.Errorf("it is served without what is in the log: %v", err)
		}
	} else if text := err.Error(); !strings.Contains(text, "read-only") || strings.Contains(text, "backup") {
		t.Errorf("the refusal says %q; want it to say that the disk is read-only, and not to ask for a backup", text)
	}
}

// A blob whose file is not what its row says is unknown, so that a client who
// has it pushes it again; and that repairs it.
func TestDamagedBlobIsUnknownUntilPushedAgain(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	content := noise(80, 100<<10)
	im := r.pushImage("home/app", "1.0", "{}", content)
	d := sum(content)
	blob, file := "/v2/home/app/blobs/"+d.String(), r.st.path(d)
	for i, damage := range []struct {
		name string
		do   func() error
	}{
		{"truncated", func() error { return os.Truncate(file, 1000) }},
		{"empty", func() error { return os.Truncate(file, 0) }},
		{"longer", func() error { return os.Truncate(file, int64(len(content)+1)) }},
		{"removed", func() error { return os.Remove(file) }},
		{"removed with its directory", func() error { return os.RemoveAll(filepath.Dir(file)) }},
	} {
		t.Run(damage.name, func(t *testing.T) {
			if err := damage.do(); err != nil {
				t.Fatal(err)
			}
			report, err := r.st.check(context.Background(), false, func(int64) {})
			if err != nil || len(report.findings) != 1 || !strings.Contains(report.findings[0].problem, d.String()) {
				t.Errorf("check = %v %v, want the damaged blob", report, err)
			}
			r.want(404, "GET", blob, nil).code("BLOB_UNKNOWN")
			r.want(404, "GET", blob, nil, "Range: bytes=0-99").code("BLOB_UNKNOWN")
			r.want(404, "HEAD", blob, nil)
			// Nor is it passed on: the mount becomes an upload.
			r.want(204, "DELETE", r.want(202, "POST",
				fmt.Sprintf("/v2/elsewhere/blobs/uploads/?mount=%s&from=home/app", d), nil).location(), nil)
			r.want(200, "GET", "/v2/home/app/manifests/1.0", nil).is(im.manifest)

			re, err := r.pushBy(ways[i%len(ways)], "home/app", content)
			if err != nil || re.status != 201 {
				t.Fatalf("pushing it again: %+v %v", re, err)
			}
			r.want(200, "GET", blob, nil).is(content)
			r.check()
		})
	}
	t.Run("other bytes of the same length", func(t *testing.T) {
		// No request reads a blob only to verify it; check does, and a push
		// does not trust what is there.
		if err := os.WriteFile(file, []byte(noise(81, len(content))), 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := r.st.check(context.Background(), true, func(int64) {})
		if err != nil || len(report.findings) != 1 || !strings.Contains(report.findings[0].problem, d.String()) {
			t.Errorf("check = %v %v, want the damaged blob", report, err)
		}
		r.pushBlob("home/app", content)
		r.want(200, "GET", blob, nil).is(content)
	})
}

// A thin disk takes writes that it has no room for, and tells so when they are
// synced: a file system in a file with holes, on a disk that can be filled up.
func mountThinDisk(t testing.TB) (dir, backing string) {
	t.Helper()
	backing = mountDisk(t, "size=48m")
	image := filepath.Join(backing, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 128<<20); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if said, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			skip(t, fmt.Sprintf("%s: %v %s", command[0], err, said))
		}
	}
	unmountAtEnd(t, dir)
	return dir, backing
}

// A sync that fails is a failed push, told to the client, and a fresh start:
// the pages that the kernel then holds are taken for written and are not.
func TestFailedSyncIsAFailedPush(t *testing.T) {
	slow(t)
	t.Parallel()
	dir, backing := mountThinDisk(t)
	r := onDisk(t, dir)
	f := r.pushFixture("home/app")
	unix.Sync() // the directories made so far have their place
	free := fill(t, backing)

	content := noise(90, 4<<20)
	blob := "/v2/home/app/blobs/" + sum(content).String()
	for _, way := range ways {
		re, err := r.pushBy(way, "home/app", content)
		if err != nil {
			t.Fatal(err)
		}
		if re.status < 500 {
			t.Errorf("%s, of bytes that cannot be synced = %d, want a 5xx", way, re.status)
		} else {
			re.errors()
		}
		r.want(404, "GET", blob, nil)
	}
	f.pull()
	free()
	for _, way := range ways {
		r.inTheEnd(func() (*reply, error) { return r.pushBy(way, "home/app", content) })
	}
	second := r.pushImage("home/app", "2.0", `{"n":2}`, content)

	// What the disk has, as opposed to the kernel's memory of it.
	r.whileStopped(func() {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			t.Logf("the kernel keeps what it has read: %v", err)
		}
	})
	f.pull()
	r.want(200, "GET", blob, nil).is(content)
	r.want(200, "GET", "/v2/home/app/manifests/2.0", nil).is(second.manifest)
}

// The same for the database: a commit that cannot be synced has not happened.
func TestFailedSyncOfTheDatabase(t *testing.T) {
	t.Parallel()
	dir, backing := mountThinDisk(t)
	r := onDisk(t, dir)
	f := r.pushFixture("home/app")
	unix.Sync()
	free := fill(t, backing)

	put := func(i int) *reply {
		return r.do("PUT", fmt.Sprintf("/v2/home/app/manifests/t%d", i), f.image.manifest, "Content-Type: "+typeOCIManifest)
	}
	failed := 0
	for ; failed < 3000; failed++ { // the log has some blocks yet
		if re := put(failed); re.status != 201 {
			if re.status < 500 {
				t.Fatalf("%s = %d\n%s", re.request, re.status, re.body)
			}
			re.errors()
			break
		}
	}
	if failed == 3000 {
		t.Fatal("the log has room on a full disk")
	}
	f.pull()
	for i := range failed {
		r.want(200, "GET", fmt.Sprintf("/v2/home/app/manifests/t%d", i), nil).is(f.image.manifest)
	}
	r.want(404, "GET", fmt.Sprintf("/v2/home/app/manifests/t%d", failed), nil)
	// The next write begins with moving the log into the database. That may
	// have room, and then what is acknowledged must be there like the rest.
	switch re := put(failed); {
	case re.status == 201:
		failed++
	case re.status < 500:
		t.Errorf("after a failed sync and with no room still: %s = %d", re.request, re.status)
	}

	free()
	r.want(201, "PUT", "/v2/home/app/manifests/2.0", f.image.manifest, "Content-Type: "+typeOCIManifest)
	r.restart()
	f.pull()
	r.want(200, "GET", "/v2/home/app/manifests/2.0", nil).is(f.image.manifest)
	for i := range failed {
		r.want(200, "GET", fmt.Sprintf("/v2/home/app/manifests/t%d", i), nil).is(f.image.manifest)
	}
}

// inTheEnd insists that a push succeeds on a disk that was full. The disk below it need not have the room at
// once, and the kernel tells of what was lost later; a client that is told so tries again.
func (r *registry) inTheEnd(push func() (*reply, error)) {
	r.t.Helper()
	for tries := 1; ; tries++ {
		re, err := push()
		if err == nil && re.status == 201 {
			return
		}
		if err != nil || re.status < 500 || tries == 20 {
			r.t.Fatalf("with room again, the %dth time: %+v %v, want 201", tries, re, err)
		}
		re.errors()
	}
}

// A commit whose sync failed may be in the log nevertheless, and come back with
// the next process. What it would bring back must be whole then.
func TestFailedSyncOfTheDatabaseThenACrash(t *testing.T) {
	t.Parallel()
	dir, backing := mountThinDisk(t)
	var armed atomic.Bool
	var free func()
	r := onDisk(t, dir, func(cfg *config) {
		cfg.at = func(point string) {
			if point == "placed" && armed.Swap(false) {
				unix.Sync()
				free = fill(t, backing) // between the blob's sync and that of its row
			}
		}
	})
	f := r.pushFixture("home/app")
	var content string
	for i := 0; ; i++ {
		if i == 20 {
			t.Fatal("the log has room on a full disk")
		}
		armed.Store(true)
		content = noise(uint64(200+i), 1000)
		re := r.do("POST", "/v2/home/app/blobs/uploads/?digest="+sum(content).String(), content)
		if re.status >= 500 {
			re.errors()
			r.want(404, "GET", "/v2/home/app/blobs/"+sum(content).String(), nil)
			break
		}
		free()
	}
	crashed := t.TempDir()
	if err := os.CopyFS(crashed, os.DirFS(r.cfg.dir)); err != nil {
		t.Fatal(err)
	}
	free()
	openDirectory(t, crashed) // and check it
	r.inTheEnd(func() (*reply, error) {
		return r.do("POST", "/v2/home/app/blobs/uploads/?digest="+sum(content).String(), content), nil
	})
	r.want(200, "GET", "/v2/home/app/blobs/"+sum(content).String(), nil).is(content)
	f.pull()
}

// Whoever copies berth.db without its log has lost what the log held, but must
// not get an empty registry over full directories; nor when the directory's
// name means something to a pattern.
func TestNeverAnEmptyRegistryOverBlobs(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, name := range []string{"data", "d[x]*?"} {
		r := startRegistry(t, func(cfg *config) { cfg.dir = filepath.Join(cfg.dir, name) })
		im := r.pushImage("a", "x", "{}", "layer")
		db := filepath.Join(r.cfg.dir, "berth.db")
		r.whileStopped(func() {
			kept, err := os.ReadFile(db)
			if err != nil {
				t.Fatal(err)
			}
			for _, left := range [][]byte{nil, {}, kept[:0]} {
				os.Remove(db)
				if left != nil {
					if err := os.WriteFile(db, left, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if st, err := openStore(r.cfg.storeConfig); err == nil {
					st.close()
					t.Errorf("%s: an empty registry is served over blobs", name)
				} else if !strings.Contains(err.Error(), "backup") {
					t.Errorf("%s: the refusal does not say what to do: %v", name, err)
				}
			}
			if err := os.WriteFile(db, kept, 0o600); err != nil {
				t.Fatal(err)
			}
		})
		r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
	}
	// A new database says what it is before its log is moved into it.
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(r.cfg.dir)); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "berth.db-wal"))
	os.Remove(filepath.Join(dir, "berth.db-shm"))
	cfg := r.cfg.storeConfig
	cfg.dir = dir
	st, err := openStore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	if report, err := st.check(context.Background(), false, func(int64) {}); err != nil || len(report.rubbish) == 0 {
		t.Errorf("what the log held is gone, and check says %+v, %v", report, err)
	}
}

func TestNoFileIsHeldOpenBetweenRequests(t *testing.T) {
	alone(t, "the whole process's open files are counted")
	files := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	r := startRegistry(t)
	r.want(200, "GET", "/v2/", nil)
	before := files()
	for range 100 {
		loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
		r.want(202, "PATCH", loc, "x")
	}
	if after := files(); after > before+20 {
		t.Errorf("%d open files with 100 sessions open, %d before", after, before)
	}
}

// A shortage of the process is not damage of the blob: no 404, which a client
// would take for "push it again" or a missing image.
func TestTroubleIsNotTakenForDamage(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "content")
	path := r.st.path(d)
	if err := os.Rename(path, path+".aside"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, path); err != nil { // opening it fails, and not with "no such file"
		t.Fatal(err)
	}
	r.want(500, "GET", "/v2/a/blobs/"+d.String(), nil).code("UNKNOWN")
	r.want(500, "HEAD", "/v2/a/blobs/"+d.String(), nil)
	if err := os.Rename(path+".aside", path); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/v2/a/blobs/"+d.String(), nil).is("content")
}
