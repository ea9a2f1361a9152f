//go:build unix

// Where a registry begins, and where not.

package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// put makes files, and directories where the name ends with a slash.
func put(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o700)
		} else {
			err = os.WriteFile(path, []byte("x"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// namesIn are all paths in a directory, and itself.
func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A directory in which somebody else keeps things is refused, by the server and by commands,
// and stays as it is.
func TestDirectoriesOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	const blob = "blobs/sha256/ab/ab01/data"
	registry2 := []string{"docker/registry/v2/repositories/app/_layers/", "docker/registry/v2/" + blob}
	const its = "has the images of registry:2 in it (DIR/docker/registry/v2), which Berth does not read. " +
		"Give Berth a directory of its own with --data, and copy the images from the old registry while both run: docs/migrate.md"
	for _, x := range []struct {
		name   string
		files  []string
		inside string // the directory that is named, in that with the files
		want   string
	}{
		{"registry:2", registry2, "", its},
		{"registry:2, which has Berth's layout, too", append([]string{"berth.lock", "uploads/", "htpasswd"}, registry2...), "", its},
		{"registry:2, never used", []string{"docker/registry/v2/"}, "", its},
		{"around registry:2", []string{"old/docker/registry/v2/" + blob}, "", "has the images of registry:2 in it (DIR/old/docker/registry/v2)"},
		{"docker", registry2, "docker", "has the images of registry:2 in it (DIR/docker/registry/v2)"},
		{"docker/registry", registry2, "docker/registry", "has the images of registry:2 in it (DIR/docker/registry/v2)"},
		{"docker/registry/v2", registry2, "docker/registry/v2", "has the images of registry:2 in it (DIR/docker/registry/v2)"},
		{"zot", []string{"cache.db", "home/app/oci-layout", "home/app/index.json", "home/app/blobs/sha256/ab01"}, "", "images in it as OCI layouts (DIR/home/app)"},
		{"an OCI layout", []string{"oci-layout", "index.json", "blobs/sha256/ab01"}, "", "images in it as OCI layouts (DIR)"},
		{"a file", []string{"notes.txt"}, "", "DIR is neither empty nor a registry: it has notes.txt. Name a directory that is empty or does not exist yet, such as --data DIR/berth"},
		{"many", []string{"a", "b", "c", "d/", "e/x"}, "", "it has a, b, c and 2 more."},
		{"a directory of Berth's", []string{"berth/berth.db"}, "", "DIR is neither empty nor a registry, but there is one in it: --data DIR/berth"},
		{"a backup, and what it is of", []string{"a/berth.db", "a/berth.backup", "data/berth.db"}, "", "but there is one in it: --data DIR/data"},
		{"a backup", []string{"a/berth.db", "a/berth.backup"}, "", "DIR is neither empty nor a registry, but there is a backup of one in it, which --read-only leaves a backup: --data DIR/a --read-only"},
		{"no directory", []string{"data"}, "data", "data is a file, not a directory; name the registry's with --data or BERTH_DATA"},
	} {
		dir := t.TempDir()
		put(t, dir, x.files...)
		before := namesIn(t, dir)
		want := strings.ReplaceAll(x.want, "DIR", dir)
		named := filepath.Join(dir, x.inside)
		for _, args := range [][]string{{"--addr", "127.0.0.1:0"}, {"ls"}, {"check", "--deep"}, {"token", "list"}, {"backup", filepath.Join(t.TempDir(), "x")}, {"user", "add", "kim"}} {
			if args[0] == "user" && x.name == "no directory" {
				continue // which it says in its own way
			}
			want := want
			switch { // a command begins nothing, and is told where a registry is
			case args[0] == "--addr" || args[0] == "user":
			case x.name == "a file" || x.name == "many":
				want = "there is no registry in " + dir + "; name the registry's directory"
			case x.name == "a directory of Berth's":
				want = "there is no registry in " + dir + ", but there is one in " + dir + "/berth: --data " + dir + "/berth"
			case x.name == "a backup, and what it is of":
				want = "there is no registry in " + dir + ", but there is one in " + dir + "/data: --data " + dir + "/data"
			case x.name == "a backup":
				want = "there is no registry in " + dir + ", but there is one in " + dir + "/a: --data " + dir + "/a"
			}
			if err := refused(t, append(args, "--data", named)...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: berth %s: %v, want %q", x.name, args[0], err, want)
			}
			if after := namesIn(t, dir); !slices.Equal(after, before) {
				t.Fatalf("%s: berth %s makes of %v\n%v", x.name, args[0], before, after)
			}
		}
	}
}

// A registry begins beside what systems leave in an empty directory, and what Berth's commands and
// flags put there.
func TestRegistryBeginsBesideWhatIsNobodys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	put(t, dir, "lost+found/", ".Trash-1000/x", ".bashrc", ".cache/", "System Volume Information/x", "@eaDir/x", "aquota.user",
		"blobs/lost+found/", "berth.env", "htpasswd.bak", "certs/registry.pem")
	if err := run(t.Context(), []string{"user", "add", "kim", "--data", dir}, noEnv, strings.NewReader("a long password\n"), io.Discard, io.Discard); err == nil {
		t.Fatal("certs/ is taken for Berth's, and no flag names it")
	}
	if err := os.Rename(filepath.Join(dir, "certs"), filepath.Join(dir, ".certs")); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"user", "add", "kim", "--data", dir}, noEnv, strings.NewReader("a long password\n"), io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, ".certs"), filepath.Join(dir, "certs")); err != nil {
		t.Fatal(err)
	}
	s := startSecure(t, tlsOptions{mode: "auto"}) // for a certificate
	s.stop()
	pem, err := os.ReadFile(filepath.Join(s.o.dir, "tls", caCert))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "certs", "clients.pem"), pem, 0o600); err != nil {
		t.Fatal(err)
	}
	said := serveFor(t, nil, "--data", dir, "--tls", "auto", "--client-ca", filepath.Join(dir, "certs", "clients.pem"))
	if !strings.Contains(said, "Begins a new registry there: no repositories, 1 user, client certificates\n") {
		t.Errorf("the greeting is\n%s", said)
	}
	if said := serveFor(t, nil, "--data", dir); !strings.Contains(said, "Opens the registry there: ") {
		t.Errorf("the second greeting is\n%s", said)
	}
	put(t, dir, "notes.txt") // beside a registry anything may be
	serveFor(t, func(url string) {
		if resp, err := http.Get(url + "/readyz"); err != nil || resp.StatusCode != 200 {
			t.Errorf("%v, %v", resp, err)
		}
	}, "--data", dir)
}

// What a directory lacks that was a registry is said, whatever else lies there.
func TestRegistryWithoutItsDatabaseIsNoStrangers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("home/app", "1.0", "{}", "layer")
	r.stop()
	defer r.start()
	db, aside := filepath.Join(r.cfg.dir, "berth.db"), filepath.Join(t.TempDir(), "berth.db")
	if err := os.Rename(db, aside); err != nil {
		t.Fatal(err)
	}
	defer os.Rename(aside, db)
	put(t, r.cfg.dir, "notes.txt")
	for _, args := range [][]string{nil, {"--existing"}} {
		if err := refused(t, append(args, "--addr", "127.0.0.1:0", "--data", r.cfg.dir)...); err == nil || !strings.Contains(err.Error(), "there are blobs beside it") {
			t.Errorf("berth %v: %v", args, err)
		}
	}
	if err := os.Remove(filepath.Join(r.cfg.dir, "notes.txt")); err != nil {
		t.Fatal(err)
	}
}
