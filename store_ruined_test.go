//go:build unix

// The database is overwritten while the server runs.

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whoever meets it is told what to do, and the log says it once.
func TestDatabaseOverwrittenWhileServing(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	if err := r.st.snapshots.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.restart() // the log is in the database then, and nothing is remembered
	db := filepath.Join(r.cfg.dir, "berth.db")
	whole, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(db, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte("not a page "), (len(whole)-4096)/11), 4096)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	stop := r.listen()
	for _, command := range []string{"ls", "check", "log"} {
		_, err := runOnce(t, command, "--data", r.cfg.dir)
		for _, want := range []string{db + " is damaged", "stop the server, then `berth restore --data " + r.cfg.dir + "` goes back"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("berth %s says %v, want %q", command, err, want)
			}
		}
	}
	r.want(500, "GET", "/v2/a/manifests/x", nil)
	if n := strings.Count(r.log.String(), "the database is damaged"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, r.log)
	}
	stop()
	r.http.Close()
	r.st.close()
	r.st = nil // there is nothing left to be checked
}
