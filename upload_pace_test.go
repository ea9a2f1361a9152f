// Uploads and a disk that is slower than the network.

package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// However a blob comes, when its last byte has come all but two windows of it are
// written.
func TestUploadsAreNeverFarAheadOfTheDisk(t *testing.T) {
	slow(t)
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 24<<20/16)
	d := sum(string(content)).String()
	tests := map[string]func(r *registry){
		"patch": func(r *registry) {
			loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
			r.want(201, "PUT", with(r.want(202, "PATCH", loc, content).location(), "digest="+d), nil)
		},
		"small patches": func(r *registry) {
			loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
			for rest := content; len(rest) > 0; rest = rest[256<<10:] {
				r.want(202, "PATCH", loc, rest[:256<<10])
			}
			r.want(201, "PUT", with(loc, "digest="+d), nil)
		},
		"put": func(r *registry) {
			r.want(201, "PUT", with(r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location(), "digest="+d), content)
		},
		"post": func(r *registry) { r.want(201, "POST", "/v2/a/blobs/uploads/?digest="+d, content) },
		"without buffers": func(r *registry) {
			for range cap(r.st.uploads.large) {
				r.st.uploads.large <- struct{}{}
			}
			r.want(201, "POST", "/v2/a/blobs/uploads/?digest="+d, content)
		},
	}
	for name, push := range tests {
		for system, can := range map[string]error{"ranges": nil, "syncs only": errors.ErrUnsupported} {
			t.Run(name+", "+system, func(t *testing.T) {
				var waited, ahead atomic.Int64
				r := startRegistry(t, func(c *config) {
					c.waitWritten = func(f *os.File, off, n int64) error {
						info, err := f.Stat()
						if err != nil || off != waited.Load() {
							t.Errorf("waiting for %d bytes at %d, %v; want the next at %d", n, off, err, waited.Load())
						}
						ahead.Store(max(ahead.Load(), info.Size()-off))
						waited.Store(off + n)
						return can
					}
				})
				push(r)
				most := int64(2*mostWindow + largeBuffer)
				if can != nil {
					most = 2*mostSynced + largeBuffer
				}
				if left := int64(len(content)) - waited.Load(); left > most || ahead.Load() > most || waited.Load() == 0 {
					t.Errorf("%d bytes were waited for, of %d; up to %d were ahead, want at most %d", waited.Load(), len(content), ahead.Load(), most)
				}
			})
		}
	}
}

// Windows follow the disk, step by step.
func TestWindowsAreWhatTheDiskWritesInTheirTime(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		window int64
		took   time.Duration
		most   int64
		want   int64
	}{
		{1 << 20, time.Millisecond, mostWindow, 2 << 20}, // fast: twice as much, and so on
		{8 << 20, 10 * time.Millisecond, mostWindow, 8 << 20},
		{8 << 20, 10 * time.Millisecond, mostSynced, 16 << 20},
		{4 << 20, windowTime, mostWindow, 4 << 20},
		{4 << 20, windowTime * 4 / 3, mostWindow, 3 << 20},
		{4 << 20, 2 * windowTime, mostWindow, 2 << 20},
		{4 << 20, time.Hour, mostWindow, 2 << 20},
		{256 << 10, time.Hour, mostWindow, 256 << 10},
		{1 << 20, 0, mostWindow, 2 << 20},
	} {
		if got := nextWindow(x.window, x.window, x.took, x.most); got != x.want {
			t.Errorf("after %d bytes in %v the window is %d, want %d", x.window, x.took, got, x.want)
		}
	}
}

// What the disk has refused cannot be asked for again: the kernel tells once, and
// takes the pages for written.
func TestFailedWriteBackEndsTheUpload(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 16<<20/16)
	d := sum(string(content)).String()
	for _, x := range []struct {
		err    error
		status int
	}{{syscall.EIO, 500}, {syscall.ENOSPC, 507}} {
		var fails atomic.Bool
		r := startRegistry(t, func(c *config) {
			c.waitWritten = func(f *os.File, off, n int64) error {
				if fails.Load() {
					return os.NewSyscallError("sync_file_range", x.err)
				}
				return waitWritten(f, off, n)
			}
		})
		for _, method := range []string{"PATCH", "PUT"} {
			loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
			r.want(202, "PATCH", loc, content[:1<<20])
			fails.Store(true)
			r.want(x.status, method, with(loc, "digest="+d), content[1<<20:])
			fails.Store(false)
			r.want(404, "GET", loc, nil)
			r.want(404, "PUT", with(loc, "digest="+d), nil)
		}
		fails.Store(true)
		r.want(x.status, "POST", "/v2/a/blobs/uploads/?digest="+d, content)
		fails.Store(false)
		r.want(404, "HEAD", "/v2/a/blobs/"+d, nil)
		if n := len(tree(t, r.cfg.dir+"/uploads")); n != 0 || r.st.uploads.count.Load() != 0 {
			t.Errorf("%d files of uploads are left, and %d sessions", n, r.st.uploads.count.Load())
		}
		r.want(201, "POST", "/v2/a/blobs/uploads/?digest="+d, content)
	}
}

// A client whose bytes are not read because the disk is behind has not stalled.
func TestClientIsNotDroppedForASlowDisk(t *testing.T) { t.Parallel(); synctest.Test(t, testSlowDisk) }

func testSlowDisk(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		var slow sync.Once
		r := startPiped(t, func(c *config) {
			stall := time.Duration(c.stallTimeout)
			c.waitWritten = func(f *os.File, off, n int64) error {
				slow.Do(func() { time.Sleep(3 * stall) }) // the disk's doing
				return waitWritten(f, off, n)
			}
		})
		server := overPipes(newPipes(), r.server.handler(), protocol == "HTTP/2.0")
		req, err := http.NewRequest("POST", server.URL+"/v2/a/blobs/uploads/?digest="+sum(string(content)).String(), bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Errorf("over %s: %v", protocol, err)
		} else {
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 201 || resp.Proto != protocol {
				t.Errorf("over %s: %d %s, want 201 over %s", resp.Proto, resp.StatusCode, text, protocol)
			}
		}
		server.Close()
	}
}
