//go:build linux

// What is written, and when nothing is.

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A registry that nobody uses neither writes nor wakes up. The days pass in a
// bubble where time jumps to the next timer as soon as all goroutines wait; so
// every loop that a server has runs as it would.
func TestIdleRegistryIsQuiet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg, err := parseConfig("serve", []string{"--data", dir}, noEnv, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		cfg.storeConfig.log = slog.New(slog.DiscardHandler)
		cfg.serverConfig.log = cfg.storeConfig.log
		guarded("", "ann")(cfg)
		opened := time.Now()
		var wakes atomic.Int64 // whoever wakes asks for the uptime
		cfg.now = func() time.Duration { wakes.Add(1); return time.Since(opened) }
		var syncs atomic.Int64 // of the files of small blobs
		var looked atomic.Int64
		cfg.at = func(point string) {
			switch point {
			case "syncing":
				syncs.Add(1)
			case "looking for garbage":
				looked.Add(1)
			}
		}
		st, err := openStore(cfg.storeConfig)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newServer(st, cfg.serverConfig)
		if err != nil {
			t.Fatal(err)
		}
		handler := s.handler()
		ctx, stop := context.WithCancel(t.Context())
		var loops sync.WaitGroup
		for _, loop := range st.loops() {
			loops.Go(func() { loop(ctx) })
		}
		loops.Go(func() { s.sender.run(ctx) })
		do := func(want int, method, path, body string, headers ...string) {
			t.Helper()
			req := httptest.NewRequest(method, path, bytes.NewReader([]byte(body)))
			req.Header.Set("Content-Type", typeOCIManifest)
			req.SetBasicAuth("ann", "ann-secret")
			re := httptest.NewRecorder()
			handler.ServeHTTP(re, req)
			if re.Code != want {
				t.Errorf("%s %s = %d, want %d: %s", method, path, re.Code, want, re.Body)
			}
		}
		push := func(tag string, layers ...string) image {
			im := ociImage("{}", layers...)
			for _, content := range append(layers, "{}") {
				do(201, "POST", "/v2/a/blobs/uploads/?digest="+sum(content).String(), content)
			}
			do(201, "PUT", "/v2/a/manifests/"+tag, im.manifest)
			return im
		}
		old := push("x", "old")
		im := push("x", "new")
		do(202, "POST", "/v2/a/blobs/uploads/", "") // and never goes on

		// What a push leaves is not due before its grace is over: the collector need not look.
		synctest.Wait()
		first := looked.Load()
		for i := range 10 {
			push("y", fmt.Sprint("another", i))
			synctest.Wait()
		}
		if n := looked.Load() - first; n != 0 {
			t.Errorf("ten pushes had the collector look %d times", n)
		}

		// The files of their blobs are synced together a little later. After the first
		// snapshot nobody looks again.
		time.Sleep(syncDelay)
		synctest.Wait()
		var unsynced int
		if err := st.get(`SELECT count(*) FROM unsynced`, nil, &unsynced); err != nil || unsynced != 0 || syncs.Load() != 1 {
			t.Errorf("the files of small blobs were synced %d times, and %d are not: %v", syncs.Load(), unsynced, err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		st.small.bytes.Store(1) // which whoever looks takes away
		before, woken := listFiles(t, dir), wakes.Load()
		time.Sleep(12 * time.Hour)
		synctest.Wait()
		if n := wakes.Load() - woken; n != 0 || st.small.bytes.Load() != 1 {
			t.Errorf("after the sync something woke up %d times; %d bytes are to be synced, want 1", n, st.small.bytes.Load())
		}
		compareFiles(t, before, listFiles(t, dir))
		time.Sleep(10 * 24 * time.Hour) // until all that became garbage has gone
		synctest.Wait()
		do(404, "GET", "/v2/a/manifests/"+old.digest.String(), "")

		before, woken = listFiles(t, dir), wakes.Load()
		time.Sleep(10 * 24 * time.Hour)
		synctest.Wait()
		if n := wakes.Load() - woken; n != 0 {
			t.Errorf("in ten idle days something woke up %d times", n)
		}
		compareFiles(t, before, listFiles(t, dir))

		// Pulls, and probes of what is there, write nothing either.
		for range 10 {
			do(200, "GET", "/v2/a/manifests/x", "")
			do(200, "HEAD", "/v2/a/manifests/"+im.digest.String(), "")
			do(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), "")
			do(200, "GET", "/v2/a/tags/list", "")
			do(200, "GET", "/metrics", "")
			do(200, "GET", "/readyz", "")
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		compareFiles(t, before, listFiles(t, dir))

		// Once a month it reads everything, and notes that it has.
		time.Sleep(10 * 24 * time.Hour)
		synctest.Wait()
		f, err := st.stats.figures(ctx)
		if err != nil || f.Scrubbed == 0 {
			t.Errorf("scrubbed: %d, %v", f.Scrubbed, err)
		}
		before, woken = listFiles(t, dir), wakes.Load()
		time.Sleep(29 * 24 * time.Hour)
		synctest.Wait()
		if n := wakes.Load() - woken; n != 0 {
			t.Errorf("in 29 idle days something woke up %d times", n)
		}
		compareFiles(t, before, listFiles(t, dir))

		stop()
		loops.Wait()
		if report, err := st.check(t.Context(), true, func(int64) {}); err != nil || len(report.findings) > 0 {
			t.Errorf("check: %v, %v", report.findings, err)
		}
		if err := st.close(); err != nil {
			t.Error(err)
		}
	})
}

// listFiles returns what a write would change of each file.
func listFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	list := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			list[path] = fmt.Sprintf("%v, %d bytes, changed at %v", info.Mode(), info.Size(), info.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func compareFiles(t *testing.T, before, after map[string]string) {
	t.Helper()
	for path := range after {
		if before[path] != after[path] && filepath.Ext(path) != ".db-shm" { // which is memory that readers share
			t.Errorf("%s is %s, was %s", filepath.Base(path), after[path], before[path])
		}
	}
	for path := range before {
		if after[path] == "" {
			t.Errorf("%s is gone", path)
		}
	}
}

// A large layer is written once: what comes on top (the database, its log, the
// reserve) is little.
func TestBytesWrittenPerBytePushed(t *testing.T) {
	slow(t)
	alone(t, "what the whole process writes is counted")
	r := diskRegistry(t)
	if err := r.st.keepReserve(); err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	for i, way := range ways {
		before := bytesWritten(t)
		content := noise(uint64(500+i), size)
		if re, err := r.pushBy(way, "a", content); err != nil || re.status != 201 {
			t.Fatalf("%s: %+v %v", way, re, err)
		}
		if err := r.st.writer.checkpoint(); err != nil {
			t.Fatal(err)
		}
		n := bytesWritten(t) - before
		if n == 0 {
			skip(t, "this file system writes no bytes that the kernel counts")
		}
		ratio := float64(n) / size
		t.Logf("%s: %.4f bytes written for each byte pushed", way, ratio)
		if ratio >= 1.05 {
			t.Errorf("%s: %.3f bytes written for each byte pushed, want less than 1.05", way, ratio)
		}
	}
}
