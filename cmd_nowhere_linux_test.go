package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A first user in a directory without a registry: that is said before the password is asked for, with the
// whole path, and nothing is said as if a registry ran there.
func TestUserForARegistryThatIsToBegin(t *testing.T) {
	alone(t, "it changes the directory of the process")
	dir := t.TempDir()
	t.Chdir(dir)
	got := tell(t, nil, "a long password\n", "user", "add", "kim", "--data", "dat")
	first := "There is no registry in " + dir + "/dat yet: this user is for one that will be started there.\n"
	if got.code != 0 || !strings.HasPrefix(got.out, first) || !strings.HasSuffix(got.out, "To start the registry: berth --data "+dir+"/dat\n") ||
		strings.Contains(got.out, "From now on") || !strings.Contains(got.out, "That registry will ask for a password: docker login -u kim HOST:PORT\n") {
		t.Errorf("user add says\n%s%swant first\n%s", got.out, got.err, first)
	}
	// Also where no password comes.
	if got := tell(t, nil, "", "user", "add", "kim", "--data", "typo"); got.code != 1 || got.out != strings.ReplaceAll(first, "/dat ", "/typo ") {
		t.Errorf("user add without a password ends with %d, and says\n%s%s", got.code, got.out, got.err)
	}
	r := startRegistry(t)
	if got := tell(t, nil, "a long password\n", "user", "add", "kim", "--data", r.cfg.dir); strings.Contains(got.out, "no registry") || !strings.Contains(got.out, "From now on this registry asks") {
		t.Errorf("user add for a registry says\n%s", got.out)
	}
}

// How another account starts its registry is not known.
func TestUserForAnotherAccountsRegistry(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "only root can be somebody else")
	}
	slow(t)
	t.Parallel()
	data := filepath.Join(sharedDir(t), "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	giveTo(t, data, serviceUser)
	said, err := asRoot(t, "a secret\n", "user", "add", "kim", "--data", data)
	if err != nil || !strings.Contains(said, "There is no registry in "+data+" yet") || strings.Contains(said, "To start the registry") {
		t.Errorf("user add by root: %v\n%s", err, said)
	}
}

// A command in the directory around a registry says where that is, and one among somebody else's files
// does not tell how to start a registry.
func TestCommandsBesideARegistry(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	around := filepath.Dir(r.cfg.dir)
	alone := t.TempDir()
	if err := os.Mkdir(filepath.Join(alone, "photos"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"ls", "stats", "user list", "gc"} {
		got := tell(t, nil, "", append(strings.Fields(command), "--data", around)...)
		if want := "berth: there is no registry in " + around + ", but there is one in " + r.cfg.dir + ": --data " + r.cfg.dir + "\n"; got.code != 1 || got.err != want {
			t.Errorf("berth %s ends with %d, and says\n%swant %s", command, got.code, got.err, want)
		}
		got = tell(t, nil, "", append(strings.Fields(command), "--data", alone)...)
		if want := "berth: there is no registry in " + alone + "; name the registry's directory with --data or BERTH_DATA\n"; got.code != 1 || got.err != want {
			t.Errorf("berth %s ends with %d, and says\n%swant %s", command, got.code, got.err, want)
		}
	}
}
