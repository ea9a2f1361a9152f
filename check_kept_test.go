package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// With an older database put in place by hand, --scrub-every 0 keeps the files that it does not know,
// as docs/storage.md says, until their image is pushed again.
func TestFilesAreKeptBesideAnOlderDatabase(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "old", "{}", "old layer")
	r.stop()
	db := filepath.Join(r.cfg.dir, "berth.db")
	older, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	r.start()
	r.pushImage("a", "new", `{"new":1}`, "new layer")
	r.stop()
	if err := os.WriteFile(db, older, 0o600); err != nil {
		t.Fatal(err)
	}
	r.cfg.scrubEvery = 0
	r.start()
	r.moved.Store(int64(400 * 24 * time.Hour))
	if wait, err := r.st.scrubber.due(); err != nil || wait >= 0 {
		t.Errorf("a pass is due in %v, %v", wait, err)
	}
	if path := r.st.path(sum("new layer")); !exists(path) {
		t.Error("the file has been removed")
	}
	r.pushImage("a", "new", `{"new":1}`, "new layer")
	// Without it they are removed by the next pass.
	stray := r.st.path(sum("stray"))
	if err := os.MkdirAll(filepath.Dir(stray), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, stray, []byte("stray"))
	if err := r.st.scrubber.pass(context.Background()); err != nil || exists(stray) {
		t.Errorf("a pass keeps what nothing knows: %v", err)
	}
}
