// Copies of the metadata beside the data: made after changes, and only then.

package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// snapshotIfDue does what the server's loop would do now, and returns how many
// snapshots there are.
func (r *registry) snapshotIfDue() int {
	r.t.Helper()
	if r.st.snapshots.due() == 0 {
		if err := r.st.snapshots.take(r.t.Context()); err != nil {
			r.t.Errorf("snapshot: %v", err)
		}
	}
	list := r.st.listSnapshots()
	for _, s := range list {
		if _, err := verifyDatabase(r.t.Context(), s.path); err != nil {
			r.t.Errorf("%s: %v", s.path, err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(r.cfg.dir, "snapshots"))
	if err != nil && len(list) > 0 || len(entries) != len(list) {
		r.t.Errorf("snapshots/ has %v, %v; want the %d snapshots and nothing else", entries, err, len(list))
	}
	return len(list)
}

// What is committed while a copy is being made may not be in it.
func TestChangeDuringASnapshotNeedsAnother(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "1", "{}", "layer")
	r.st.at = func(point string) {
		if point == "copied" {
			r.pushImage("a", "2", `{"n":2}`, "layer")
		}
	}
	if err := r.st.snapshots.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.st.at = func(string) {}
	if due := r.st.snapshots.due(); due < 23*time.Hour || due > 24*time.Hour {
		t.Errorf("the next is due in %v, want a day", due)
	}
	r.moved.Add(int64(24 * time.Hour))
	if n := r.snapshotIfDue(); n != 2 {
		t.Errorf("%d snapshots, want 2", n)
	}
}

// A snapshot that was cut short, or failed, is still to be made, also after a
// restart.
func TestSnapshotCutShortIsMadeLater(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "1", "{}", "layer")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.st.snapshots.take(cancelled); err == nil {
		t.Error("a snapshot was made that was cancelled")
	}
	if due := r.st.snapshots.due(); due < 0 {
		t.Error("after a failure no snapshot is due")
	}
	func() {
		r.st.at = func(point string) {
			if point == "copied" {
				panic("the process dies here")
			}
		}
		defer func() { recover() }()
		r.st.snapshots.take(t.Context())
	}()
	r.restart()
	r.st.snapshots.due()
	r.moved.Add(int64(5 * time.Minute))
	if n := r.snapshotIfDue(); n != 1 {
		t.Errorf("%d snapshots after a death in the middle of one, want 1", n)
	}
}

// A crash costs the uptime of an idle time. That neither puts the next
// snapshot off for as long, nor makes an older one the newest.
func TestSnapshotAfterLostUptime(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "1", "{}", "layer")
	r.snapshotIfDue()
	r.moved.Add(int64(5 * time.Minute))
	r.snapshotIfDue()
	old := r.st.listSnapshots()[0]
	future := filepath.Join(filepath.Dir(old.path), "berth-000009999999.db") // 115 days
	if err := os.Rename(old.path, future); err != nil {
		t.Fatal(err)
	}
	r.pushImage("a", "2", `{"n":2}`, "layer")
	r.st.snapshots.due()
	r.moved.Add(int64(24 * time.Hour))
	if n := r.snapshotIfDue(); n != 2 {
		t.Errorf("%d snapshots, want 2", n)
	}
	if newest, err := verifyDatabase(t.Context(), r.st.listSnapshots()[0].path); err != nil || newest.tags != 2 {
		t.Errorf("the newest has %d tags, %v; want 2", newest.tags, err)
	}
}

// The server's own loop, with days that pass at once.
func TestSnapshotsByThemselves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg, err := parseConfig("serve", []string{"--data", dir}, noEnv, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		cfg.storeConfig.log = slog.New(slog.DiscardHandler)
		opened := time.Now()
		cfg.now = func() time.Duration { return time.Since(opened) }
		st, err := openStore(cfg.storeConfig)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var loop sync.WaitGroup
		loop.Go(func() { st.snapshots.run(ctx) })
		put := func(n byte) {
			body := []byte(`{"schemaVersion":2,"mediaType":"` + typeOCIIndex + `","manifests":[],"annotations":{"n":"` + string('0'+n) + `"}}`)
			m, err := parseManifest(body, typeOCIIndex, sum(string(body)))
			if err != nil {
				t.Fatal(err)
			}
			if err := st.putManifest("a", m, []string{"x"}, author{overwrite: true}); err != nil {
				t.Fatal(err)
			}
		}
		pass := func(d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if n := len(st.listSnapshots()); n != want {
				t.Errorf("%d snapshots at %v, want %d", n, st.uptime(), want)
			}
		}
		pass(48*time.Hour, 0)
		put(1)
		pass(time.Minute, 0)
		pass(5*time.Minute, 1)
		put(2)
		pass(23*time.Hour, 1)
		pass(time.Hour, 2)
		pass(30*24*time.Hour, 2)
		stop()
		loop.Wait()
		if err := st.close(); err != nil {
			t.Error(err)
		}
	})
}
