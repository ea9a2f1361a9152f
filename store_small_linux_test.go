package main

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Blobs may be on another disk than the database.
func TestSmallBlobsOnAnotherDisk(t *testing.T) {
	t.Parallel()
	other := mountDisk(t, "size=32m")
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"blobs", "uploads"} {
		if err := errors.Join(os.Mkdir(filepath.Join(other, name), 0o700), os.Symlink(filepath.Join(other, name), filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	r := startRegistry(t, func(cfg *config) { cfg.dir = dir })
	d := r.pushBlob("a", "elsewhere")
	files := r.st.fileSyncs.Load()
	if err := r.st.small.sync(); err != nil {
		t.Fatal(err)
	}
	if n := r.st.fileSyncs.Load() - files; n != 3 {
		t.Errorf("%d syncs, want the file, its directory and the one above: they are not where the database is", n)
	}
	r.want(200, "GET", "/v2/a/blobs/"+d.String(), nil).is("elsewhere")
}

// A disk that is read-only since a power cut: what is right is served, and what was
// lost is not there, until a start can write it.
func TestSmallBlobsOnAReadOnlyDisk(t *testing.T) {
	t.Parallel()
	live := startRegistry(t)
	whole, lost, zeros := live.pushBlob("a", "whole"), live.pushBlob("a", "lost"), live.pushBlob("a", "zeros")
	disk := mountDisk(t, "size=32m")
	dir := filepath.Join(disk, "data")
	if err := os.CopyFS(dir, os.DirFS(live.cfg.dir)); err != nil {
		t.Fatal(err)
	}
	moved := func(d digest.Digest) string {
		return filepath.Join(dir, strings.TrimPrefix(live.st.path(d), live.cfg.dir))
	}
	if err := errors.Join(os.Remove(moved(lost)), os.WriteFile(moved(zeros), make([]byte, 5), 0o600)); err != nil {
		t.Fatal(err)
	}
	makeReadOnly(t, disk)
	cfg, log := directoryConfig(t, dir), new(logBuffer)
	cfg.log = newLog(log, false, slog.LevelInfo)
	st, err := openStore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	f, err := st.openBlob("a", whole, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if body, err := io.ReadAll(f); err != nil || string(body) != "whole" {
		t.Errorf("%q, %v", body, err)
	}
	for _, d := range []digest.Digest{lost, zeros} {
		if _, err := st.openBlob("a", d, false); !errors.Is(err, errBlobUnknown) {
			t.Errorf("what was lost: %v, want %v", err, errBlobUnknown)
		}
		if !strings.Contains(log.String(), d.String()) {
			t.Errorf("the log does not name %s:\n%s", d, log)
		}
	}
}

// A start after a crash on a disk that others have filled: the reserve serves, and
// when that is not enough, what has no file is not there until there is room.
func TestSmallBlobsOnAFullDisk(t *testing.T) {
	slow(t)
	t.Parallel()
	live := startRegistry(t)
	contents := []string{"one", "two"}
	for i := range 50 {
		contents = append(contents, noise(uint64(i), maxSmall))
	}
	for _, content := range contents {
		live.pushBlob("a", content)
	}
	disk := mountDisk(t, "size=24m")
	dir := filepath.Join(disk, "data")
	if err := os.CopyFS(dir, os.DirFS(live.cfg.dir)); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*", "*", "data"))
	if err != nil || len(files) != len(contents) {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil { // by a power cut
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, reserveFile), make([]byte, 256<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	free := fill(t, disk)
	r := startRegistry(t, func(cfg *config) { cfg.dir = dir })
	there := 0
	for _, content := range contents {
		switch re := r.do("GET", "/v2/a/blobs/"+sum(content).String(), nil); {
		case re.status == 200:
			re.is(content)
			there++
		case re.status != 404:
			t.Errorf("%s = %d", re.request, re.status)
		}
	}
	if there == 0 || there == len(contents) {
		t.Errorf("%d of %d blobs are there: the reserve has room for some", there, len(contents))
	}
	free()
	if err := r.st.small.sync(); err != nil {
		t.Fatal(err)
	}
	for _, content := range contents {
		r.want(200, "GET", "/v2/a/blobs/"+sum(content).String(), nil).is(content)
	}
}
