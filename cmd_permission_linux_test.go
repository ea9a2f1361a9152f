package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who may not use a file reads which, whose it is, who Berth is, and what to type.
func TestPermissionsWithAdvice(t *testing.T) {
	slow(t)
	t.Parallel()
	data, _ := serviceDir(t)
	place := sharedDir(t)
	make := func(path string, mode os.FileMode, uid int) string {
		t.Helper()
		if err := os.WriteFile(path, []byte("kim:"+hashOf("a secret")+"\n"), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
		return path
	}
	dir := func(name string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(place, name)
		if err := os.Mkdir(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	is := func(want string, args ...string) {
		t.Helper()
		said, err := asUser(t, serviceUser, args...)
		if err == nil || !strings.HasSuffix(said, want+"\n") {
			t.Errorf("berth %v: %v\n%swant %s", args, err, said, want)
		}
	}
	const serve, there = "--addr=127.0.0.1:0", " belongs to root, and Berth runs as 47110. "
	begun := dir("begun", 0o755)
	is(begun+there+"Run this as root; or, if it is to be the registry's directory of 47110: sudo chown -hR 47110: "+begun, serve, "--data", begun)
	copied := dir("copied", 0o700)
	is(copied+there+"Run this as root; or, if it is to be the registry's directory of 47110: sudo chown -hR 47110: "+copied, serve, "--data", copied)
	is(place+there+"To make the directory: sudo install -d -m 700 -o 47110 "+place+"/new", serve, "--data", place+"/new")
	// Files that flags name.
	closed := make(filepath.Join(place, "closed"), 0o640, 0)
	open := make(filepath.Join(place, "open"), 0o644, 0)
	const elsewhere = "Let 47110 read it, for example by a group, or name a copy that belongs to 47110"
	is(closed+there+elsewhere, serve, "--data", data, "--htpasswd", closed)
	for _, pair := range [][2]string{{open, closed}, {closed, open}} {
		is("berth: --tls-cert, --tls-key: "+closed+": permission denied. "+closed+there+elsewhere, serve, "--data", data, "--tls-cert", pair[0], "--tls-key", pair[1])
	}
	is(copied+there+"Run this as root, or put a copy of the file where 47110 can read it", serve, "--data", data, "--policy", filepath.Join(copied, "x"))
	// Root's files in the directory.
	list := make(filepath.Join(data, usersFile), 0o600, 0)
	is(list+there+"To change that: sudo chown -h 47110: "+list, serve, "--data", data)
	said, err := asRoot(t, "", "user", "list", "--data", data)
	want := list + " belongs to root, and root works here as 47110, who owns " + data + ". To change that: sudo chown -h 47110: " + list + "\n"
	if err == nil || !strings.HasSuffix(said, want) {
		t.Errorf("user list by root: %v\n%swant %s", err, said, want)
	}
	make(list, 0o200, serviceUser)
	if err := os.Chmod(list, 0o200); err != nil {
		t.Fatal(err)
	}
	is(list+" belongs to 47110, and Berth runs as 47110, so only its mode is in the way. To change that: chmod u+rwX "+list, serve, "--data", data)
	// A directory of another account's.
	giveTo(t, data, serviceUser+1)
	is("berth: "+data+"/berth.db: permission denied. "+data+" belongs to 47111, and Berth runs as 47110. Run this as root, or as 47111", "user", "add", "kim", "--data", data)
}
