package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// unsyncedRows is how many small blobs' bytes the database keeps.
func (r *registry) unsyncedRows() (n int) {
	r.t.Helper()
	if err := r.st.get(`SELECT count(*) FROM unsynced`, nil, &n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// What was answered 201 is there after a power cut, whatever has become of files
// that nobody has synced.
func TestSmallBlobsSurviveTheLossOfTheirFiles(t *testing.T) {
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
	if err := r.st.syncSmall(); err != nil {
		t.Fatal(err)
	}
	n := r.st.fileSyncs.Load() - files
	if done, _ := syncFileSystem(r.st.lock); done && n != 1 || !done && n < 6*2 {
		t.Errorf("%d syncs of files, want one of the file system, or of each file and directory (%t)", n, done)
	}
	if n := r.unsyncedRows(); n != 0 {
		t.Errorf("the database still keeps %d blobs", n)
	}
	if err := r.st.syncSmall(); err != nil || r.st.fileSyncs.Load()-files != n {
		t.Errorf("with nothing to sync: %d syncs more, %v", r.st.fileSyncs.Load()-files-n, err)
	}
}

// Without a call that syncs a file system, files and directories are synced one
// by one; and one that cannot be is written anew from the database.
func TestFileThatCannotBeSyncedIsWrittenAgain(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	good, bad, gone := r.pushBlob("a", "good"), r.pushBlob("a", "bad"), r.pushBlob("a", "gone")
	r.want(202, "DELETE", "/v2/a/blobs/"+gone.String(), nil)
	closed, err := os.Open(r.cfg.dir)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close() // so that it says nothing of its file system
	if n, err := syncFiles(closed, []string{r.st.path(good), r.st.path(gone)}); err != nil || n < 3 {
		t.Errorf("syncing one by one: %d syncs, %v; want at least a file and two directories", n, err)
	}
	loop := r.st.path(bad)
	if err := os.Remove(loop); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(loop, loop); err != nil {
		t.Skip(err)
	}
	if _, err := syncFiles(closed, []string{loop}); err == nil {
		t.Fatal("what cannot be opened is synced")
	}
	lock := r.st.lock
	r.st.lock = closed
	err = r.st.syncSmall()
	r.st.lock = lock
	if err != nil || r.unsyncedRows() != 0 {
		t.Errorf("%d blobs are kept, %v", r.unsyncedRows(), err)
	}
	for d, content := range map[string]string{good.String(): "good", bad.String(): "bad"} {
		r.want(200, "GET", "/v2/a/blobs/"+d, nil).is(content)
	}
}

// What was collected before its file was synced leaves nothing, and what comes
// after it under the same number of a row is another blob.
func TestSmallBlobCollectedBeforeItsFileIsSynced(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	for i := range 3 {
		content := fmt.Sprint("round ", i)
		d := r.pushBlob("a", content)
		if i < 2 {
			r.want(202, "DELETE", "/v2/a/blobs/"+d.String(), nil)
			r.collect(collectNow)
			if r.hasFile(d) || r.unsyncedRows() != 0 {
				t.Errorf("round %d: file %t, %d rows, want nothing", i, r.hasFile(d), r.unsyncedRows())
			}
		}
	}
	if n := r.unsyncedRows(); n != 1 {
		t.Errorf("%d rows, want that of the last", n)
	}
}

// A database that keeps as much as it may makes pushes wait for their files.
func TestBytesThatTheDatabaseKeepsAreBounded(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.st.unsynced.bytes.Store(maxUnsynced - 3)
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
	if n := r.unsyncedRows(); n != 1 {
		t.Errorf("the database keeps %d blobs, want one", n)
	}
	if err := r.st.syncSmall(); err != nil {
		t.Fatal(err)
	}
	r.pushBlob("a", "there is room again")
	if n := r.unsyncedRows(); n != 1 || r.st.fileSyncs.Load() > files+4 {
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
