//go:build unix

// A copy of a registry is closed to whom the registry is.

package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// A copy of a registry is open to nobody else.
func TestBackupsAreGuarded(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, guarded(matrixRules, "reader", "admin"))
	r.pushAs(as("admin"), "ci/app", "x", "{}")
	dest := filepath.Join(t.TempDir(), "copy")
	if err := backupCommand(t.Context(), r.st, options{Args: []string{dest}}, newConsole(new(strings.Builder), false)); err != nil {
		t.Fatal(err)
	}
	guardedCopy := func() {
		t.Helper()
		served := filepath.Join(t.TempDir(), "served")
		if err := os.CopyFS(served, os.DirFS(dest)); err != nil {
			t.Fatal(err)
		}
		c := startRegistry(t, func(c *config) { c.dir = served })
		c.want(401, "GET", "/v2/ci/app/manifests/x", nil)
		c.want(200, "GET", "/v2/ci/app/manifests/x", nil, as("reader"))
		c.want(403, "DELETE", "/v2/ci/app/manifests/x", nil, as("reader"))
	}
	guardedCopy()
	// The files vanish, and what they said holds: in the copy as here.
	for _, name := range []string{"htpasswd", "policy.toml"} {
		if err := os.Rename(filepath.Join(r.cfg.dir, name), filepath.Join(r.cfg.dir, name+".away")); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dest, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.want(401, "GET", "/v2/ci/app/manifests/x", nil)
	if err := backupCommand(t.Context(), r.st, options{Args: []string{dest}}, newConsole(new(strings.Builder), false)); err != nil {
		t.Fatal(err)
	}
	guardedCopy()
	// A command without the server's flags finds the files where that did.
	elsewhere := t.TempDir()
	r.stop()
	for _, name := range []string{"htpasswd", "policy.toml"} {
		if err := os.Rename(filepath.Join(r.cfg.dir, name+".away"), filepath.Join(elsewhere, name)); err != nil {
			t.Fatal(err)
		}
	}
	p := startProcess(t, "", "--data", r.cfg.dir, "--htpasswd", filepath.Join(elsewhere, "htpasswd"), "--policy", filepath.Join(elsewhere, "policy.toml"))
	p.stop(t)
	if err := os.RemoveAll(dest); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, err := runOnce(t, "backup", dest, "--data", r.cfg.dir); err != nil {
			t.Fatal(err, out)
		}
		guardedCopy()
	}
	if out, err := runOnce(t, "user", "list", "--data", r.cfg.dir); err != nil || !strings.Contains(out, "administrator, admins") {
		t.Errorf("user list without the server's flags: %v\n%s", err, out)
	}
	for _, name := range []string{"htpasswd", "policy.toml"} {
		if err := os.Rename(filepath.Join(elsewhere, name), filepath.Join(r.cfg.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
}

// A push that puts a file anew into its place takes it away for a moment.
func TestBackupDoesNotTakeAPushForDamage(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "layer")
	unlock := r.st.digests.lock(d.String()) // as a push does
	if err := os.Rename(r.st.path(d), r.st.path(d)+".away"); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "backup")
	done := make(chan error, 1)
	go func() {
		_, err := r.backup(dest)
		done <- err
	}()
	for waits := false; !waits; runtime.Gosched() {
		r.st.digests.mu.Lock()
		waits = r.st.digests.held[d.String()].n == 2
		r.st.digests.mu.Unlock()
	}
	if err := os.Rename(r.st.path(d)+".away", r.st.path(d)); err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	r.serveCopy(dest).want(200, "GET", "/v2/a/blobs/"+d.String(), nil).is("layer")
}
