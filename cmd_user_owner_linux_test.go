package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The server has a users' file that only root may write, in a directory of root's. Root, who becomes the
// registry's owner for a command, is told by which command the file can be edited; and that does it.
func TestUsersFileThatOnlyRootMayWrite(t *testing.T) {
	slow(t)
	t.Parallel()
	needRoot(t)
	place := sharedDir(t)
	users, data := filepath.Join(place, "users"), filepath.Join(place, "data")
	if err := os.WriteFile(users, []byte(userLine(t, "kim", "pw")), 0o644); err != nil {
		t.Fatal(err)
	}
	r := startRegistry(t, func(c *config) { c.dir, c.usersFile, c.auth.usersFile = data, users, users })
	if err := rememberFlags(r.st); err != nil {
		t.Fatal(err)
	}
	r.stop()
	giveTo(t, data, serviceUser)
	line := "user add ann --htpasswd " + users + " --data " + data
	want := users + ": permission denied. " + users + " belongs to root, and Berth runs as 47110. Have root edit it, by its name: sudo berth " + line + "\n"
	if said, err := asUser(t, serviceUser, "user", "remove", "kim", "--force", "--data", data); err == nil || !strings.HasSuffix(said, strings.Replace(want, "add ann", "remove kim", 1)) {
		t.Errorf("as the owner: %v\n%swant %s", err, said, want)
	}
	want = strings.Replace(want, "Berth runs as 47110", "root works here as 47110, who owns "+data, 1)
	if said, err := asRoot(t, "a password\n", "user", "add", "ann", "--data", data); err == nil || !strings.HasSuffix(said, want) {
		t.Errorf("as root: %v\n%swant %s", err, said, want)
	}
	if said, err := asRoot(t, "a password\n", strings.Fields(line)...); err != nil {
		t.Errorf("berth %s: %v\n%s", line, err, said)
	}
	if text, err := os.ReadFile(users); err != nil || !strings.Contains(string(text), "\nann:") {
		t.Errorf("the file has %s (%v)", text, err)
	}
}
