//go:build linux

// The data directory: one owner, and metadata and blobs that belong together.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func TestDirectoryHasOneOwner(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	f := r.pushFixture("home/app")
	refused := func(who string, err error, said string) {
		t.Helper()
		if err == nil || !strings.Contains(said, "in use by another berth process") {
			t.Errorf("%s on a directory in use: %v, %s; want a refusal that says so", who, err, said)
		}
	}
	st, err := openStore(r.cfg.storeConfig)
	if err == nil {
		st.close()
	}
	refused("a second store", err, fmt.Sprint(err))

	for _, args := range [][]string{{"check", "--data", r.cfg.dir}, {"--data", r.cfg.dir, "--addr", "127.0.0.1:0"}} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := run(ctx, args, noEnv, strings.NewReader(""), io.Discard, io.Discard)
		cancel()
		refused(fmt.Sprint("berth ", args[0]), err, fmt.Sprint(err))
	}

	cmd := exec.Command(itself(t), "--data", r.cfg.dir, "--addr", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), serveVariable+"=")
	said, err := cmd.CombinedOutput()
	refused("another process", err, string(said))

	// The first has not noticed.
	f.pull()
	r.pushImage("home/app", "2.0", `{"n":2}`, "layer")
}

// A process that begins has copies of all open files for a moment, and does not keep the directory.
func TestCopyOfTheLockKeepsNothing(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	fd, err := unix.Dup(int(r.st.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r.restart()
	r.want(200, "GET", "/readyz", nil)
}

// A disk can be unmounted when its registry has ended, even if the process goes
// on; and then there is no log beside the database.
func TestClosedStoreLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := startRegistry(t, func(cfg *config) { cfg.dir = dir })
	r.pushFixture("home/app")
	r.whileStopped(func() {
		if open := openBelow(dir); open != nil {
			t.Errorf("%v are still open", open)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "berth.db-*")); len(left) > 0 {
			t.Errorf("%v are still there", left)
		}
	})
}

// Metadata and blobs that do not belong together are never served, and what is
// there stays as it is, so that the right file can be put back.
func TestDatabaseThatDoesNotBelongToTheBlobs(t *testing.T) {
	slow(t)
	t.Parallel()
	write := func(content []byte) func(testing.TB, string) {
		return func(t testing.TB, db string) {
			if err := os.WriteFile(db, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	query := func(queries ...string) func(testing.TB, string) {
		return func(t testing.TB, db string) { inDatabase(t, db, queries...) }
	}
	foreign := func(queries ...string) func(testing.TB, string) {
		return func(t testing.TB, db string) {
			if err := os.Remove(db); err != nil {
				t.Fatal(err)
			}
			inDatabase(t, db, append([]string{"CREATE TABLE song (title TEXT)", "INSERT INTO song VALUES ('La Mer')"}, queries...)...)
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(t testing.TB, db string)
		say   string
	}{
		{"missing", func(t testing.TB, db string) {
			if err := os.Remove(db); err != nil {
				t.Fatal(err)
			}
		}, "put berth.db back"},
		{"empty", write(nil), "put berth.db back"},
		{"garbage", write([]byte(noise(70, 64<<10))), "put berth.db back"},
		{"a short text", write([]byte("not a database\n")), "put berth.db back"},
		{"of a newer berth", query("PRAGMA user_version = 99"), "use a newer berth"},
		{"of another program", foreign("PRAGMA application_id = 1234", "PRAGMA user_version = 1"), "not Berth's"},
		{"of another program that has a version only", foreign("PRAGMA user_version = 7"), "not Berth's"},
		{"of another program that says nothing of itself", foreign(), "not Berth's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startRegistry(t)
			f := r.pushFixture("home/app")
			r.whileStopped(func() {
				db := filepath.Join(r.cfg.dir, "berth.db")
				b, err := os.ReadFile(db)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { // back from the backup, as the message says
					for _, tail := range []string{"", "-wal", "-shm"} {
						os.Remove(db + tail)
					}
					if err := os.WriteFile(db, b, 0o600); err != nil {
						t.Error(err)
					}
				}()
				c.spoil(t, db)
				before := tree(t, r.cfg.dir)
				for range 2 { // also the second time
					st, err := openStore(r.cfg.storeConfig)
					if err == nil {
						st.close()
						t.Error("it is served")
					} else if !strings.Contains(err.Error(), c.say) {
						t.Errorf("the refusal says %q, want %q in it", err, c.say)
					}
				}
				after := tree(t, r.cfg.dir)
				for path := range before {
					if before[path] != after[path] {
						t.Errorf("%s has changed", strings.TrimPrefix(path, r.cfg.dir))
					}
				}
			})
			f.pull()
		})
	}
}

// What a read-only disk holds is looked at as closely.
func TestNewerDatabaseOnAReadOnlyDisk(t *testing.T) {
	t.Parallel()
	disk := mountDisk(t, "size=32m")
	r := onDisk(t, disk)
	f := r.pushFixture("home/app")
	r.whileStopped(func() {
		db := filepath.Join(r.cfg.dir, "berth.db")
		inDatabase(t, db, "PRAGMA user_version = 99")
		defer inDatabase(t, db, fmt.Sprint("PRAGMA user_version = ", latestVersion))
		makeReadOnly(t, disk)
		st, err := openStore(r.cfg.storeConfig)
		if err == nil {
			st.close()
			t.Error("a database of a newer berth is served from a read-only disk")
		} else if !strings.Contains(err.Error(), "use a newer berth") {
			t.Errorf("the refusal says %q", err)
		}
		if err := unix.Mount("", disk, "", unix.MS_REMOUNT, ""); err != nil {
			t.Fatal(err)
		}
	})
	f.pull()
}

// The disk with the blobs is not mounted: an empty directory is in its place.
func TestBlobsMissingBesideADatabase(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, what := range []string{"blobs", "blobs/sha256", "blobs/sha512", "what is in blobs/sha256", "what is in blobs/sha512"} {
		t.Run(what, func(t *testing.T) {
			r := startRegistry(t)
			f := r.pushFixture("home/app")
			if re, err := r.pushDigest(ways[0], "home/app", "long", digest.SHA512.FromString("long"), ""); err != nil || re.status != 201 {
				t.Fatalf("%+v %v", re, err)
			}
			what, empty := strings.CutPrefix(what, "what is in ")
			r.whileStopped(func() {
				blobs, aside := filepath.Join(r.cfg.dir, what), filepath.Join(r.cfg.dir, "aside")
				if err := os.Rename(blobs, aside); err != nil {
					t.Fatal(err)
				}
				if empty {
					if err := os.Mkdir(blobs, 0o700); err != nil {
						t.Fatal(err)
					}
				}
				before := tree(t, r.cfg.dir)
				st, err := openStore(r.cfg.storeConfig)
				if err == nil {
					st.close()
					t.Error("it is served")
				} else if !strings.Contains(err.Error(), "is a disk not mounted?") {
					t.Errorf("the refusal says %q", err)
				}
				after := tree(t, r.cfg.dir)
				db := filepath.Join(r.cfg.dir, "berth.db") // SQLite has looked into it
				if after[db+"-wal"] == "" {
					delete(after, db+"-wal")
				}
				delete(after, db+"-shm")
				if !maps.Equal(before, after) {
					t.Error("files have changed")
				}
				os.RemoveAll(blobs) // empty directories, if anything
				if err := os.Rename(aside, blobs); err != nil {
					t.Fatal(err)
				}
			})
			f.pull()
		})
	}
}

// Copies by rclone, git or zip have no empty directories. What is missing is made.
func TestCopyWithoutEmptyDirectories(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, also := range [][]string{nil, {"blobs/sha512", "blobs/sha256/ff"}, {"lost+found"}} {
		r := startRegistry(t)
		f := r.pushFixture("home/app")
		r.pass(0)
		r.whileStopped(func() {
			for removed := true; removed; {
				removed = false
				err := filepath.WalkDir(r.cfg.dir, func(path string, e fs.DirEntry, err error) error {
					if err == nil && e.IsDir() && os.Remove(path) == nil { // only if it is empty
						removed = true
						return fs.SkipDir
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range also {
				if err := os.MkdirAll(filepath.Join(r.cfg.dir, name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
		})
		f.pull()
		r.want(404, "GET", "/v2/home/app/blobs/"+sum("never pushed").String(), nil)
		for i := range 20 { // into many directories
			r.pushBlob("home/app", noise(uint64(i), 100<<10))
		}
		if re, err := r.pushDigest(ways[0], "home/app", "long", digest.SHA512.FromString("long"), ""); err != nil || re.status != 201 {
			t.Errorf("%+v %v", re, err)
		}
		if err := r.st.scrubber.pass(t.Context()); err != nil {
			t.Error(err)
		}
		f.pull()
	}
}

// The directories for blobs are made when they are needed, those of each algorithm
// in one go, and what was cut short is completed.
func TestShardsAreMadeWhenNeeded(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	shards := func(algorithm digest.Algorithm) int {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(r.cfg.dir, "blobs", algorithm.String()))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	insist := func(sha256, sha512 int) {
		t.Helper()
		if a, b := shards(digest.SHA256), shards(digest.SHA512); a != sha256 || b != sha512 {
			t.Fatalf("%d and %d directories, want %d and %d", a, b, sha256, sha512)
		}
	}
	push := func(algorithm digest.Algorithm, content string) {
		t.Helper()
		if re, err := r.pushDigest(ways[0], "a", content, algorithm.FromString(content), ""); err != nil || re.status != 201 {
			t.Errorf("%s: %+v %v", content, re, err)
		}
	}
	cut := func(algorithm digest.Algorithm) { // as a crash leaves it
		t.Helper()
		for _, name := range []string{"ff", "7f"} {
			if err := os.Remove(filepath.Join(r.cfg.dir, "blobs", algorithm.String(), name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	scrub := func() {
		t.Helper()
		if err := r.st.scrubber.pass(t.Context()); err != nil {
			t.Error(err)
		}
	}
	insist(0, 0)
	scrub()
	r.st.sharder(t.Context()) // as after a start
	insist(256, 0)
	r.whileStopped(func() { cut(digest.SHA256) })
	scrub()
	insist(254, 0)
	var pushes sync.WaitGroup
	for i := range 8 {
		pushes.Go(func() { push(digest.SHA256, fmt.Sprint("first ", i)) })
	}
	pushes.Wait()
	insist(256, 0)
	scrub()
	push(digest.SHA512, "long")
	insist(256, 256)
	r.restart()
	push(digest.SHA256, "more")
	push(digest.SHA512, "more")
	insist(256, 256)
	backup := filepath.Join(t.TempDir(), "backup")
	r.command("backup", backup)
	for _, algorithm := range algorithms {
		if _, err := os.Stat(filepath.Join(backup, "blobs", algorithm.String(), "ff")); err != nil {
			t.Error(err)
		}
	}
}

// A name that a process made and was killed before it could sync is synced by the
// next: what is pushed then is below it.
func TestDirectoriesOfAKilledProcessAreSynced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := newDataDir(dirConfig{dir: dir})
	if err := errors.Join(before.makeDirectories(), before.makeShards(digest.SHA256, nil)); err != nil {
		t.Fatal(err)
	}
	r := startRegistry(t, func(cfg *config) { cfg.dir = dir })
	for i := range 2 { // and only once
		r.pushBlob("a", fmt.Sprint("small ", i))
		if n := r.st.fileSyncs.Load(); n != 3 {
			t.Errorf("%d syncs, want those of blobs/sha256, blobs, and the data directory", n)
		}
	}
}

// The disk with the blobs goes while a registry runs that has pushed nothing yet:
// that is trouble, and nothing is put elsewhere or taken for damaged.
func TestDiskGoesBeforeTheFirstPush(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	f := r.pushFixture("home/app")
	im := r.pushImage("a", "x", "{}", "layer")
	blob := "/v2/a/blobs/" + im.layers[0].String()
	r.restart()
	blobs, aside := filepath.Join(r.cfg.dir, "blobs", "sha256"), filepath.Join(r.cfg.dir, "aside")
	if err := errors.Join(os.Rename(blobs, aside), os.Mkdir(blobs, 0o700)); err != nil {
		t.Fatal(err)
	}
	r.want(500, "HEAD", blob, nil)
	r.want(500, "POST", "/v2/b/blobs/uploads/?digest="+sum("other").String(), "other")
	r.want(500, "HEAD", blob, nil)
	if _, err := r.st.check(t.Context(), false, func(int64) {}); err == nil {
		t.Error("check has nothing to say")
	}
	if err := errors.Join(os.Remove(blobs), os.Rename(aside, blobs)); err != nil {
		t.Fatal(err)
	}
	r.want(200, "HEAD", blob, nil)
	r.pushBlob("b", "other")
	f.pull()
}

// A data directory that is removed, replaced or emptied while it is served is said: to whoever asks
// whether the registry is ready, and once in the log.
func TestDataDirectoryGone(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		gone    string // in the data directory, "" for itself
		replace bool
		said    string
	}{
		{"", false, "the data directory DIR"},
		{"", true, "the data directory DIR"},
		{"berth.db", false, "the database DIR/berth.db"},
	} {
		r := startRegistry(t, func(cfg *config) { cfg.dir = filepath.Join(t.TempDir(), "data") })
		r.pushImage("home/app", "1.0", "{}", "layer")
		r.want(200, "GET", "/readyz", nil)
		path, aside := filepath.Join(r.cfg.dir, x.gone), r.cfg.dir+".aside"
		if err := os.Rename(path, aside); err != nil {
			t.Fatal(err)
		}
		if x.replace {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		said := strings.ReplaceAll(x.said, "DIR", r.cfg.dir)
		logged := func() int {
			return strings.Count(r.log.String(), said+" has been removed or replaced while Berth serves it: stop Berth and restore a backup")
		}
		if x.gone == "" && !x.replace { // else an upload can begin
			for range 2 {
				r.want(500, "POST", "/v2/home/app/blobs/uploads/", nil)
			}
			if n := logged(); n != 1 {
				t.Errorf("after two pushes the log says %d times that %s is gone, want once\n%s", n, said, r.log)
			}
		}
		for range 2 {
			if got := r.want(503, "GET", "/readyz", nil); !strings.Contains(string(got.body), "is gone") || strings.Contains(string(got.body), r.cfg.dir) {
				t.Errorf("/readyz: %s", got.body)
			}
		}
		if n := logged(); n != 1 {
			t.Errorf("the log says %d times that %s is gone, want once\n%s", n, said, r.log)
		}
		if x.replace {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Rename(aside, path); err != nil {
			t.Fatal(err)
		}
		r.want(200, "GET", "/readyz", nil)
	}
}
