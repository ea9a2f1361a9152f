// What pushes wear of a disk.

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

// A blob's bytes are written to its file, and those of a very small one to SQLite's log and
// the database as well. With them go the pages of SQLite that change, and the blocks of the
// file system for a file and its directory. The table is in docs/numbers.md, as
// measured on ext4.
func TestBytesWrittenForEachByteOfAnImage(t *testing.T) {
	slow(t)
	alone(t, "what the whole process writes is counted")
	for _, c := range []struct {
		layers, size int // layers, and the bytes in each
		images       int
		most         float64 // bytes written for each byte of content
	}{
		{3, 2 << 10, 50, 27.1},
		{3, 16 << 10, 50, 6.65},
		{3, 64 << 10, 50, 1.91},
		{3, 1 << 20, 5, 1.062},
		{1, 64 << 20, 1, 1.002},
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
		written, commits := bytesWritten(t), r.st.writer.syncs.Load()
		content := 0
		for i := range uint64(c.images) {
			var layers []string
			for k := range c.layers {
				layers = append(layers, noise(4*i+uint64(k), c.size))
			}
			im := r.pushImage("a", fmt.Sprint("n", i), noise(4*i+3, 1<<10), layers...)
			content += 1<<10 + c.layers*c.size + len(im.manifest)
			if r.st.small.bytes.Load() >= syncBytes {
				if err := r.st.small.sync(); err != nil {
					t.Fatal(err)
				}
			}
		}
		settle()
		commits = r.st.writer.syncs.Load() - commits
		written = bytesWritten(t) - written
		each := float64(written) / float64(content)
		t.Logf("layers of %d bytes: %d bytes written for an image of %d, %.3f for each", c.size, written/int64(c.images), content/c.images, each)
		if commits != int64((c.layers+2)*c.images) {
			t.Errorf("%d durable commits for %d images, want one for each config, layer and manifest", commits, c.images)
		}
		switch {
		case written == 0:
			t.Log("NOT TESTED: this file system writes no bytes that the kernel counts")
		case each > 1.1*c.most:
			t.Errorf("layers of %d bytes: %.3f bytes are written for each byte pushed, want at most a tenth more than %.3f", c.size, each, c.most)
		}
	}
}
