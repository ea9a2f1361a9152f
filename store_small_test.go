package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// unsyncedRows is how many blobs may have files that are not synced.
func (r *registry) unsyncedRows() (n int) {
	r.t.Helper()
	if err := r.st.get(`SELECT count(*) FROM unsynced`, nil, &n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// copies is how many of them the database has the bytes of.
func (r *registry) copies() (n int) {
	r.t.Helper()
	if err := r.st.get(`SELECT count(body) FROM unsynced`, nil, &n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// What was answered 201 is there after a power cut, whatever has become of files
// that nobody has synced.
func TestSmallBlobsSurviveTheLossOfTheirFiles(t *testing.T) {
	slow(t)
	t.Parallel()
	live := startRegistry(t)
	contents := []string{"", "{}", strings.Repeat("x", maxSmall-1), strings.Repeat("y", maxSmall)}
	for i, content := range contents {
		for _, repo := range []string{"a", "b"} { // the second time it is there
			if re, err := live.pushBy(ways[i%len(ways)], repo, content); err != nil || re.status != 201 {
				t.Fatalf("%s of %d bytes: %+v %v", ways[i%len(ways)], len(content), re, err)
			}
		}
	}
	im := live.pushImage("a", "x", `{"a":1}`, "layer")
	if n := live.unsyncedRows(); n != len(contents)+2 {
		t.Fatalf("the database keeps %d blobs, want %d", n, len(contents)+2)
	}
	for name, lose := range map[string]func(path string) error{
		"the file":       os.Remove,
		"its directory":  func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"its bytes":      func(path string) error { return os.Truncate(path, 0) },
		"what they were": func(path string) error { return os.WriteFile(path, make([]byte, maxSmall), 0o600) },
		"nothing":        func(path string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(live.cfg.dir)); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*", "*", "data"))
			if err != nil || len(files) != len(contents)+2 {
				t.Fatalf("%d files, %v", len(files), err)
			}
			for _, file := range files {
				if err := lose(file); err != nil {
					t.Fatal(err)
				}
			}
			r := startRegistry(t, func(cfg *config) { cfg.dir = dir })
			if n := r.unsyncedRows(); n != 0 {
				t.Errorf("the database keeps %d blobs after the start, want none", n)
			}
			for _, repo := range []string{"a", "b"} {
				for _, content := range contents {
					r.want(200, "GET", "/v2/"+repo+"/blobs/"+sum(content).String(), nil).is(content)
				}
			}
			r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
			r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil).is("layer")
			if report, err := r.st.check(t.Context(), true, func(int64) {}); err != nil || len(report.findings)+len(report.rubbish) > 0 {
				t.Errorf("check: %+v %v", report, err)
			}
		})
	}
}

// An image of small blobs waits for the disk once for each part, and its files
// are synced together.
func TestSmallImageCostsOneSyncForEachPart(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "first", "{}", "first layer")
	database, files := r.st.writer.syncs.Load(), r.st.fileSyncs.Load()
	r.pushImage("a", "x", `{"n":1}`, "one", "two", "three")
	if n := r.st.writer.syncs.Load() - database; n != 5 {
		t.Errorf("%d syncs of the database, want one each for a config, three layers and a manifest", n)
	}
	if n := r.st.fileSyncs.Load() - files; n != 0 {
		t.Errorf("%d syncs of files before the answer, want none", n)
	}
	if err := r.st.small.sync(); err != nil {
		t.Fatal(err)
	}
	n := r.st.fileSyncs.Load() - files
	if done, _ := r.st.syncDisk(r.st.lock, nil); done && n != 1 || !done && n < 6*2 {
		t.Errorf("%d syncs of files, want one of the file system, or of each file and directory (%t)", n, done)
	}
	if n := r.unsyncedRows(); n != 0 {
		t.Errorf("the database still keeps %d blobs", n)
	}
	if err := r.st.small.sync(); err != nil || r.st.fileSyncs.Load()-files != n {
		t.Errorf("with nothing to sync: %d syncs more, %v", r.st.fileSyncs.Load()-files-n, err)
	}
}

// oneByOne has the registry sync files and directories one by one.
func oneByOne(cfg *config) {
	cfg.syncDisk = func(*os.File, map[string]bool) (bool, error) { return false, nil }
}

// Without a call that syncs a file system, files and directories are synced one
// by one; and one that is not what was written is written anew, from the database.
func TestFileThatCannotBeSyncedIsWrittenAgain(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"sound":   func(path string) error { return nil },
		"changed": func(path string) error { return os.WriteFile(path, make([]byte, 7), 0o600) },
		"missing": os.Remove,
		"without its directory": func(path string) error {
			return os.RemoveAll(filepath.Dir(path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t, oneByOne)
			good, bad, gone := r.pushBlob("a", "good"), r.pushBlob("a", "spoiled"), r.pushBlob("a", "gone")
			r.want(202, "DELETE", "/v2/a/blobs/"+gone.String(), nil)
			if err := spoil(r.st.path(bad)); err != nil {
				t.Fatal(err)
			}
			files := r.st.fileSyncs.Load()
			if err := r.st.small.sync(); err != nil || r.unsyncedRows() != 0 {
				t.Errorf("%d blobs are kept, %v", r.unsyncedRows(), err)
			}
			if n := r.st.fileSyncs.Load() - files; n < 2*3 {
				t.Errorf("%d syncs, want at least two files, their directories and those above", n)
			}
			r.want(200, "GET", "/v2/a/blobs/"+good.String(), nil).is("good")
			r.want(200, "GET", "/v2/a/blobs/"+bad.String(), nil).is("spoiled")
		})
	}
}

// losing is a disk that tells of a failed write to the first that asks, and from
// then on says that all is well; and the files are not what was written.
func losing(r **registry, first func()) func(cfg *config) {
	var asked atomic.Int64
	return func(cfg *config) {
		cfg.syncDisk = func(*os.File, map[string]bool) (bool, error) {
			if asked.Add(1) > 1 {
				return true, nil
			}
			files, _ := filepath.Glob(filepath.Join((*r).cfg.dir, "blobs", "*", "*", "*", "data"))
			for _, file := range files {
				os.Truncate(file, 0)
			}
			first()
			return true, errors.New("a write has failed")
		}
	}
}

// The kernel tells of a failed write once. So from then on nothing is believed of
// files that were written before, whoever asks for what.
func TestFailedSyncIsNotBelievedTheSecondTime(t *testing.T) {
	slow(t)
	alone(t, "the stacks of all goroutines are looked through for one that waits")
	for _, x := range []struct {
		name  string
		blobs int
		first func(r *registry) // while the failure is told
		then  func(r *registry)
	}{
		{"of many", 1100, func(r *registry) {}, func(r *registry) {}},
		{"of one that gets its row meanwhile", 1, func(r *registry) {
			r.pushBlob("a", "late") // its file is lost likewise
			os.Truncate(r.st.path(sum("late")), 0)
		}, func(r *registry) {}},
		{"while nothing can be written", 1, func(r *registry) {
			os.Rename(filepath.Join(r.cfg.dir, "uploads"), filepath.Join(r.cfg.dir, "elsewhere"))
		}, func(r *registry) {
			os.Rename(filepath.Join(r.cfg.dir, "elsewhere"), filepath.Join(r.cfg.dir, "uploads"))
		}},
		{"by two at once", 1, func(r *registry) {
			ended := make(chan error, 1)
			go func() { ended <- r.st.small.sync() }()
			waitingIn(r.t, "(*Mutex).lockSlow")
			r.t.Cleanup(func() {
				if err := <-ended; err != nil {
					r.t.Error(err)
				}
			})
		}, func(r *registry) {}},
	} {
		t.Run(x.name, func(t *testing.T) {
			var r *registry
			r = startRegistry(t, losing(&r, func() { x.first(r) }))
			var contents []string
			for i := range x.blobs {
				contents = append(contents, fmt.Sprint("blob ", i))
				r.pushBlob("a", contents[i])
			}
			err := r.st.small.sync()
			x.then(r)
			if e := r.st.small.sync(); e != nil {
				t.Errorf("%v, and then %v", err, e)
			}
			if n := r.unsyncedRows(); n != 0 {
				t.Errorf("the database still keeps %d blobs", n)
			}
			if r.hasFile(sum("late")) {
				contents = append(contents, "late")
			}
			for _, content := range contents {
				if have, err := os.ReadFile(r.st.path(sum(content))); err != nil || string(have) != content {
					t.Fatalf("the file of %q has %q, %v", content, have, err)
				}
			}
		})
	}
}

// What was collected before its file was synced leaves nothing, and what comes
// after it under the same number of a row is another blob.
func TestSmallBlobCollectedBeforeItsFileIsSynced(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "first")
	err := r.st.small.eachUnsynced(func(rows []unsyncedRow) error { // while its file is being synced
		r.want(202, "DELETE", "/v2/a/blobs/"+d.String(), nil)
		r.collect(collectNow)
		if r.hasFile(d) || r.unsyncedRows() != 0 {
			t.Errorf("file %t, %d rows, want nothing", r.hasFile(d), r.unsyncedRows())
		}
		r.pushBlob("a", "second")
		var id int64
		if err := r.st.get(`SELECT blob FROM unsynced`, nil, &id); err != nil || id != rows[0].blob {
			t.Fatalf("the second is blob %d (%v), the first was %d", id, err, rows[0].blob)
		}
		return nil
	})
	if err != nil || r.unsyncedRows() != 1 {
		t.Errorf("%d rows (%v), want that of the second", r.unsyncedRows(), err)
	}
}

// What the database still has heals a file that was found damaged.
func TestDamagedSmallBlobHealsByItself(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "precious")
	if err := os.WriteFile(r.st.path(d), []byte("rotten!!"), 0o600); err != nil {
		t.Fatal(err)
	}
	if wrong, err := r.st.quarantine(d); wrong == nil || err != nil {
		t.Fatal(wrong, err)
	}
	r.want(404, "GET", "/v2/a/blobs/"+d.String(), nil)
	if err := r.st.small.sync(); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/v2/a/blobs/"+d.String(), nil).is("precious")
}

// A database that keeps as much as it may makes pushes wait for their files.
func TestBytesThatTheDatabaseKeepsAreBounded(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.st.small.bytes.Store(int64(r.st.budget.unsynced) - 3)
	r.pushBlob("a", "123")
	files := r.st.fileSyncs.Load()
	for _, way := range ways {
		content := "no room: " + way
		if re, err := r.pushBy(way, "a", content); err != nil || re.status != 201 {
			t.Fatalf("%s: %+v %v", way, re, err)
		}
		if n := r.st.fileSyncs.Load(); n < files+3 {
			t.Errorf("%s: %d syncs of files, want the file and two directories", way, n-files)
		}
		files = r.st.fileSyncs.Load()
		r.want(200, "GET", "/v2/a/blobs/"+sum(content).String(), nil).is(content)
	}
	if n := r.copies(); n != 1 {
		t.Errorf("the database keeps %d blobs, want one", n)
	}
	if err := r.st.small.sync(); err != nil {
		t.Fatal(err)
	}
	r.pushBlob("a", "there is room again")
	if n := r.copies(); n != 1 || r.st.fileSyncs.Load() > files+4 {
		t.Errorf("after the sync the database keeps %d blobs, want one", n)
	}
}

// A small body that breaks off is kept as far as it came, like any other.
func TestSmallBodyThatBreaksOffIsKept(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	location := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	content := noise(1, 5000)
	r.sendPart("PUT", with(location, "digest="+sum(content).String()), content[:2000], "Content-Length: 5000")
	r.want(204, "GET", location, nil).has("Range", "0-1999")
	r.want(201, "PUT", with(location, "digest="+sum(content).String()), content[2000:])
	r.want(200, "GET", "/v2/a/blobs/"+sum(content).String(), nil).is(content)
}
