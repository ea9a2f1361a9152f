// What images of small blobs wear of a disk.

package main

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// bytesWritten is how many bytes this process has made the kernel write, or will
// have; 0 if the kernel does not count them.
func bytesWritten(t testing.TB) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		skip(t, err.Error())
	}
	for line := range bytes.Lines(text) {
		fmt.Sscanf(string(line), "write_bytes: %d", &n)
	}
	return n
}

// A small blob's bytes are written to its file and to SQLite's log, and with the
// log to the database, whose pages take the next ones' after the sync. With them go
// the pages of SQLite that change, eleven of 2 KiB for a blob and fourteen for a
// manifest, and the blocks of the file system for a file and its directory. The bounds
// are half as much again as was measured on ext4.
func TestWrittenForAnImageOfSmallBlobs(t *testing.T) {
	slow(t)
	alone(t, "what the whole process writes is counted")
	const images = 50
	for _, c := range []struct {
		layer int   // bytes in each of three layers
		most  int64 // bytes written for an image
	}{
		{2 << 10, 320_000}, // 214,000 measured, for 7,881 bytes of content
		{65000, 1_120_000}, // 750,000 measured, for 196,740
	} {
		r := diskRegistry(t)
		if err := r.st.keepReserve(); err != nil {
			t.Fatal(err)
		}
		r.pushImage("a", "first", "{}", "layer")
		settle := func() { // as the syncer does, and SQLite when its log is long
			t.Helper()
			if err := r.st.small.sync(); err != nil {
				t.Fatal(err)
			}
			if err := r.st.writer.checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
		settle()
		written, commits, files := bytesWritten(t), r.st.writer.syncs.Load(), r.st.fileSyncs.Load()
		content, runs := 0, int64(1)
		for i := range uint64(images) {
			parts := []string{noise(4*i, 1<<10), noise(4*i+1, c.layer), noise(4*i+2, c.layer), noise(4*i+3, c.layer)}
			im := r.pushImage("a", fmt.Sprint("n", i), parts[0], parts[1:]...)
			content += 1<<10 + 3*c.layer + len(im.manifest)
			if r.st.small.bytes.Load() >= syncBytes {
				runs++
				if err := r.st.small.sync(); err != nil {
					t.Fatal(err)
				}
			}
		}
		settle()
		commits = r.st.writer.syncs.Load() - commits
		files = r.st.fileSyncs.Load() - files
		written = bytesWritten(t) - written
		t.Logf("an image of %d bytes: %d bytes written, %.2f times as many; %.2f durable commits, %.2f syncs of files",
			content/images, written/images, float64(written)/float64(content), float64(commits)/images, float64(files)/images)
		if commits != 5*images {
			t.Errorf("%d durable commits for %d images, want one for each config, layer and manifest", commits, images)
		}
		// Where a file system is synced as a whole, that is all; else each blob has a
		// file and a directory, and the directories of those are shared.
		if done, _ := syncFileSystem(r.st.lock, nil); done && files != runs || !done && (files <= 8*images || files > 12*images) {
			t.Errorf("%d syncs of files for %d images in %d runs (the file system at once: %t)", files, images, runs, done)
		}
		switch {
		case written == 0:
			t.Log("NOT TESTED: this file system writes no bytes that the kernel counts")
		case written/images > c.most:
			t.Errorf("%d bytes are written for an image of %d bytes, want at most %d", written/images, content/images, c.most)
		}
	}
}
