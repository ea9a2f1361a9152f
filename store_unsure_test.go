//go:build unix

// What cannot be looked at is not taken for absent: nothing is removed, replaced, begun
// anew or called open for it.

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// loop makes path a link to itself, which nobody can look behind, not even root.
func loop(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Base(path), path); err != nil {
		t.Fatal(err)
	}
}

func TestNoRegistryIsBegunWhereNobodyCanLook(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"blobs/sha256/ab", "snapshots", backupMark, restoringMark} {
		r := newRegistry(t)
		loop(t, filepath.Join(r.cfg.dir, name))
		st, err := openStore(r.cfg.storeConfig)
		if err == nil {
			st.close()
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a start with a %s that cannot be looked at: %v, want an error that names it", name, err)
		}
		if info, err := os.Stat(filepath.Join(r.cfg.dir, "berth.db")); err == nil && info.Size() > 0 {
			t.Errorf("a start with a %s that cannot be looked at has made a database", name)
		}
	}
}

// toRestore is a registry with a snapshot, which has an upload, and without a database.
func toRestore(t *testing.T) (r *registry, location string) {
	t.Helper()
	r = startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	location = r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", location, "some bytes")
	if n := r.snapshotsAfter(10 * time.Minute); n != 1 {
		t.Fatalf("%d snapshots, want 1", n)
	}
	r.off()
	if err := os.Truncate(filepath.Join(r.cfg.dir, "berth.db"), 0); err != nil {
		t.Fatal(err)
	}
	return r, location
}

func TestRestoreReplacesNothingThatItCannotLookAt(t *testing.T) {
	t.Parallel()
	r, _ := toRestore(t)
	kept := filepath.Join(r.cfg.dir, "berth.db.damaged-1")
	loop(t, kept)
	if out, err := r.runOn("restore"); err == nil || !strings.Contains(err.Error(), filepath.Base(kept)) {
		t.Errorf("restore beside a name that cannot be looked at: %v, want an error that names it\n%s", err, out)
	}
	if !isLink(kept) {
		t.Error("it was replaced")
	}
}

func TestRestoreEndsNoUploadThatItCannotLookAt(t *testing.T) {
	t.Parallel()
	r, location := toRestore(t)
	upload := filepath.Join(r.cfg.dir, "uploads", filepath.Base(location))
	if err := os.Remove(upload); err != nil {
		t.Fatal(err)
	}
	loop(t, upload)
	if out, err := r.runOn("restore"); err == nil || !strings.Contains(err.Error(), filepath.Base(upload)) {
		t.Errorf("restore with an upload that cannot be looked at: %v, want an error that names it\n%s", err, out)
	}
	if err := os.Remove(upload); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(upload, []byte("some bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := r.runOn("restore"); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	r.start()
	r.want(204, "GET", location, nil).has("Range", "0-9")
	r.want(204, "DELETE", location, nil)
}

func TestPolicyCheckCallsNothingOpenThatItCannotLookAt(t *testing.T) {
	t.Parallel()
	check := func(dir, want string, args ...string) {
		t.Helper()
		out, err := runOnce(t, append([]string{"policy", "check", "--data", dir}, args...)...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(out, "open") {
			t.Errorf("policy check = %v, want an error with %q\n%s", err, want, out)
		}
	}
	dir := t.TempDir()
	loop(t, filepath.Join(dir, usersFile))
	check(dir, usersFile)
	writeRules(dir, "[[rule]]\nwho = [\"ann\"]\nrepositories = [\"**\"]\nallow = [\"pull\"]")
	check(dir, usersFile, "ann", "pull", "x")

	// A database may have the place of the users; one that cannot be read says nothing.
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "berth.db"), []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	check(dir, "--htpasswd")
	dir = t.TempDir()
	loop(t, filepath.Join(dir, "berth.db"))
	check(dir, "--htpasswd")
}
