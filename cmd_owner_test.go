//go:build linux

// Who may read what a registry keeps, and whose it is.

package main

import (
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// An account that this machine need not know, and another.
const (
	serviceUser = 47110
	otherUser   = 47111
)

// asRoot runs a command of berth in a process of its own.
func asRoot(t testing.TB, stdin string, args ...string) (said string, err error) {
	t.Helper()
	cmd := exec.Command(itself(t), args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1")
	cmd.Stdin, cmd.Dir = strings.NewReader(stdin), "/"
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sharedDir is a directory that all users may reach, with the test's own in it.
func sharedDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// serviceDir is a registry with one image, made and stopped by serviceUser. Only
// root may write beside it.
func serviceDir(t testing.TB) (data string, im image) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "only root can be somebody else")
	}
	data = filepath.Join(sharedDir(t), "data")
	r := startRegistry(t, func(cfg *config) { cfg.dir = data })
	im = r.pushImage("a", "x", "{}", "layer")
	if err := r.st.snapshots.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.stop()
	giveTo(t, data, serviceUser)
	return data, im
}

// giveTo makes all of a directory a user's.
func giveTo(t testing.TB, dir string, uid int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, uid)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// allAre insists that whatever is in a directory is a user's, and for nobody else.
func allAre(t testing.TB, dir string, uid int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if got := int(info.Sys().(*syscall.Stat_t).Uid); got != uid {
			t.Errorf("%s is the user %d's, want %d's", path, got, uid)
		}
		if path != dir && info.Mode()&fs.ModeSymlink == 0 && info.Mode()&0o077 != 0 {
			t.Errorf("%s has the mode %v: others may use it", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Whoever has made the directory, and with whichever umask the registry runs.
func TestFilesAreForTheirOwnerAlone(t *testing.T) {
	alone(t, "the process's umask is another one meanwhile")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	r := startRegistry(t, func(cfg *config) { cfg.dir = dir })
	r.pushImage("a", "x", "{}", "layer", noise(1, 100<<10))
	r.want(202, "POST", "/v2/a/blobs/uploads/", nil)
	if !exists(filepath.Join(dir, "berth.db-wal")) || !exists(filepath.Join(dir, "berth.db-shm")) {
		t.Error("there is no log of the database to look at")
	}
	if err := r.st.snapshots.take(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.st.keepReserve(); err != nil {
		t.Error(err)
	}
	dest := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, usersFile), []byte("ann:"+hashOf("secret")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := r.backup(dest); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, d := range []string{dir, dest} {
		allAre(t, d, os.Geteuid())
	}
}

func TestFilesThatOthersMayReadAreClosedAtStart(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	r.stop()
	users := filepath.Join(r.cfg.dir, usersFile)
	if err := os.WriteFile(users, []byte("ann:"+hashOf("secret")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"berth.db", "token.key", usersFile} {
		if err := os.Chmod(filepath.Join(r.cfg.dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	told := func() []int {
		return []int{strings.Count(r.log.String(), `files="[berth.db token.key]"`), strings.Count(r.log.String(), "can read the password hashes")}
	}
	if got := told(); !slices.Equal(got, []int{1, 1}) {
		t.Errorf("the log tells %v times, want once each\n%s", got, r.log)
	}
	if err := os.Chmod(users, 0o600); err != nil { // the operator's work
		t.Fatal(err)
	}
	allAre(t, r.cfg.dir, os.Geteuid())
	r.restart()
	if got := told(); !slices.Equal(got, []int{1, 1}) {
		t.Errorf("after another start the log has told %v times, want once each\n%s", got, r.log)
	}
}

// The links lead to where only root may write. After all of these commands nothing
// is there, and nothing in the directory is root's.
func TestCommandsOfRootAreTheOwners(t *testing.T) {
	t.Parallel()
	data, _ := serviceDir(t)
	trap := t.TempDir()
	for _, name := range []string{"berth.db.new", "reserve", "reserve.new", "berth.lock", "berth.restoring.new", usersFile, policyFile, "token.key"} {
		path := filepath.Join(data, name)
		os.Remove(path)
		if err := os.Symlink(filepath.Join(trap, name), path); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(path, serviceUser, serviceUser); err != nil {
			t.Fatal(err)
		}
	}
	nothing := func(what string) {
		t.Helper()
		if entries, err := os.ReadDir(trap); err != nil || len(entries) > 0 {
			t.Fatalf("%s has written where a link of the owner's leads: %v, %v", what, entries, err)
		}
	}
	for _, args := range [][]string{{"check"}, {"stats"}, {"user", "add", "ann"}, {"repair"}} {
		said, err := asRoot(t, "a secret\n", append(args, "--data", data)...)
		nothing(strings.Join(args, " "))
		if err == nil {
			t.Errorf("%s on a directory with links for what it needs: %s", args, said)
		}
	}
	for _, name := range []string{"berth.lock", usersFile, policyFile} {
		if err := os.Remove(filepath.Join(data, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"check", "--deep"}, {"gc", "--now"}, {"repair"}, {"tag", "a:x", "y"}, {"log"}, {"user", "add", "ann"}, {"user", "passwd", "ann"},
		{"token", "create", "ci", "--repo", "**", "--allow", "pull"}, {"policy", "check", "ann", "push", "a"}} {
		said, err := asRoot(t, "a secret\n", append(args, "--data", data)...)
		if err != nil {
			t.Errorf("%s: %v\n%s", args, err, said)
		}
		if args[0] == "log" && !strings.Contains(said, "root") {
			t.Errorf("what root did is not root's in the history:\n%s", said)
		}
		nothing(strings.Join(args, " "))
	}
	if err := os.Remove(filepath.Join(data, "berth.db")); err != nil {
		t.Fatal(err)
	}
	if said, err := asRoot(t, "", "restore", "--data", data); err != nil {
		t.Errorf("restore: %v\n%s", err, said)
	}
	nothing("restore")
	allAre(t, data, serviceUser)
	if said, err := asRoot(t, "", "check", "--deep", "--data", data); err != nil || !strings.Contains(said, "1 tag") {
		t.Errorf("check: %v\n%s", err, said)
	}
}

func TestBackupsOfRootAreForNobodyElse(t *testing.T) {
	slow(t)
	t.Parallel()
	data, _ := serviceDir(t)
	if err := os.WriteFile(filepath.Join(data, usersFile), []byte("ann:"+hashOf("secret")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(data, "tls"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "tls", caKey), []byte("key"), 0o644); err != nil {
		t.Fatal(err)
	}
	giveTo(t, data, serviceUser)

	// Only root may make it; /tmp is everybody's, and sticky.
	dest := filepath.Join(sharedDir(t), "copy")
	for range 2 {
		if said, err := asRoot(t, "", "backup", dest, "--data", data); err != nil {
			t.Fatalf("backup: %v\n%s", err, said)
		}
	}
	allAre(t, dest, serviceUser)

	other := sharedDir(t)
	giveTo(t, other, otherUser)
	if said, err := asRoot(t, "", "backup", other, "--data", data); err == nil || !strings.Contains(said, "47110, who writes the backup, may not write in "+other+" (it belongs to 47111). Give it the directory: sudo chown 47110 "+other) {
		t.Errorf("backup to a directory of another user: %v\n%s", err, said)
	}
	giveTo(t, data, 0)
	if err := os.WriteFile(filepath.Join(other, usersFile), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if said, err := asRoot(t, "", "backup", other, "--data", data); err == nil {
		t.Errorf("backup of root's registry to a directory of another user: %v\n%s", err, said)
	}
	os.Remove(filepath.Join(other, usersFile))
	if said, err := asRoot(t, "", "backup", other, "--data", data); err == nil || !strings.Contains(said, "who could read this registry") {
		t.Errorf("backup of root's registry to a directory of another user: %v\n%s", err, said)
	}
	dest = filepath.Join(sharedDir(t), "copy")
	if said, err := asRoot(t, "", "backup", dest, "--data", data); err != nil {
		t.Fatalf("backup: %v\n%s", err, said)
	}
	allAre(t, dest, 0)
}

// A database that root has copied into somebody's directory is refused with the file, whose it is,
// who runs Berth, and a line that helps.
func TestFilesOfTheDatabaseThatAreRoots(t *testing.T) {
	slow(t)
	t.Parallel()
	data, _ := serviceDir(t)
	for _, name := range []string{"berth.db", "berth.lock"} {
		path := filepath.Join(data, name)
		if err := os.Lchown(path, 0, 0); err != nil {
			t.Fatal(err)
		}
		want := path + " belongs to root, and Berth runs as 47110, who may not open it for writing. To change that: sudo chown -h 47110: " + path + "\n"
		for _, args := range [][]string{{"--addr", "127.0.0.1:0", "--data", data}, {"gc", "--data", data}} {
			if said, err := asUser(t, serviceUser, args...); err == nil || !strings.HasSuffix(said, want) {
				t.Errorf("berth %v: %v\n%swant %s", args, err, said, want)
			}
		}
		if err := os.Lchown(path, serviceUser, serviceUser); err != nil {
			t.Fatal(err)
		}
		if said, err := asUser(t, serviceUser, "gc", "--data", data); err != nil {
			t.Errorf("after that: %v\n%s", err, said)
		}
	}
}

// A file that a flag names may be where only root writes; one that the registry
// names may not.
func TestRootEditsTheUsersThatAFlagNames(t *testing.T) {
	t.Parallel()
	data, _ := serviceDir(t)
	file := filepath.Join(t.TempDir(), "users")
	if said, err := asRoot(t, "a secret\n", "user", "add", "ann", "--htpasswd", file, "--data", data); err != nil {
		t.Fatalf("user add: %v\n%s", err, said)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	inDatabase(t, filepath.Join(data, "berth.db"), `UPDATE meta SET users_file = '`+file+`'`)
	if said, err := asRoot(t, "another one\n", "user", "passwd", "ann", "--data", data); err == nil {
		t.Errorf("user passwd in a file of root's that the registry's owner has chosen: %s", said)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("the file has changed: %s, %v", after, err)
	}
}

// As in a container with somebody else's volume.
func TestRootServesADirectoryOfSomebodyElse(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		skip(t, "only root can be somebody else")
	}
	data := filepath.Join(sharedDir(t), "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	giveTo(t, data, serviceUser)
	p := startProcess(t, "", "--data", data)
	if re, err := p.ask("POST", "/v2/a/blobs/uploads/?digest="+sum("{}").String(), strings.NewReader("{}")); err != nil || re.status != 201 {
		t.Fatalf("%v, %v", re, err)
	}
	if said, err := asRoot(t, "", "stats", "--data", data); err != nil || !strings.Contains(said, "blobs          1 ") {
		t.Errorf("stats: %v\n%s", err, said)
	}
	p.stop(t)
	if !strings.Contains(p.stderr.String(), "root serves somebody else's directory") {
		t.Errorf("the log does not warn:\n%s", &p.stderr)
	}
	if said, err := asRoot(t, "", "stats", "--data", data); err != nil || !strings.Contains(said, "blobs          1 ") {
		t.Errorf("stats, with the server stopped: %v\n%s", err, said)
	}
	db := filepath.Join(data, "berth.db")
	if err := os.Rename(db, filepath.Join(data, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("elsewhere", db); err != nil {
		t.Fatal(err)
	}
	st, err := openStore(storeConfig{dirConfig: dirConfig{dir: data, log: newLog(new(logBuffer), false, 0)}})
	if err == nil {
		st.close()
	}
	if err == nil || !strings.Contains(err.Error(), "root does not follow links") {
		t.Errorf("root opens a database by a link of somebody else: %v", err)
	}
}

// Nor do commands beside such a server, which work as root, follow a link to a file.
func TestRootFollowsNoLinkToTheUsers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		skip(t, "only root can be somebody else")
	}
	data := filepath.Join(sharedDir(t), "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	giveTo(t, data, serviceUser)
	p := startProcess(t, "", "--data", data)
	defer p.stop(t)
	file := filepath.Join(t.TempDir(), "of root's")
	const secret = "root:what nobody else reads\n"
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(data, usersFile)
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if said, err := asRoot(t, "a secret\n", "user", "add", "ann", "--data", data); err == nil || !strings.Contains(said, "root does not follow links") {
		t.Errorf("user add where %s is a link: %v\n%s", usersFile, err, said)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != secret {
		t.Errorf("what the link leads to has changed: %q, %v", text, err)
	}
	for name, edit := range map[string]func() error{
		"replaceFile":    func() error { return replaceFile(link, []byte("other")) },
		"rewriteInPlace": func() error { return rewriteInPlace(link, "other", func(string) {}) },
	} {
		if err := edit(); err == nil {
			t.Errorf("%s follows a link of somebody else", name)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != secret {
		t.Errorf("what the link leads to has changed: %q, %v", text, err)
	}
}

// Something of root's in the directory, as rules that were copied there, does not have
// root work as root: by a name of the registry's the owner could give it root's power.
func TestFilesOfRootsInTheDirectoryGiveItsOwnerNothing(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"berth.sock", "berth.db"} {
		t.Run(name, func(t *testing.T) {
			data, _ := serviceDir(t)
			trap := sharedDir(t)
			victim := filepath.Join(trap, "victim")
			if err := os.WriteFile(victim, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(victim, 0o644); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(data, name)
			os.Remove(path)
			if err := os.WriteFile(path, nil, 0o644); err != nil { // root's
				t.Fatal(err)
			}
			snapshots := filepath.Join(data, "snapshots")
			if err := os.RemoveAll(snapshots); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(trap, snapshots); err != nil {
				t.Fatal(err)
			}
			said, err := asRoot(t, "", "check", "--data", data)
			if info, e := os.Stat(victim); e != nil || info.Mode() != 0o644 {
				t.Errorf("a file where a link of the owner's leads: %v, %v; check says %v\n%s", info.Mode(), e, err, said)
			}
			allAre(t, filepath.Join(data, "uploads"), serviceUser)
		})
	}
}

// Nor does root, where it serves a directory of somebody else, close files elsewhere.
func TestRootClosesNoFilesElsewhere(t *testing.T) {
	t.Parallel()
	data, _ := serviceDir(t)
	trap := sharedDir(t)
	victim := filepath.Join(trap, "victim")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(victim, 0o644); err != nil {
		t.Fatal(err)
	}
	snapshots := filepath.Join(data, "snapshots")
	if err := os.RemoveAll(snapshots); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(trap, snapshots); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(data, "token.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	startProcess(t, "", "--data", data).stop(t)
	if info, err := os.Stat(victim); err != nil || info.Mode() != 0o644 {
		t.Errorf("a file where a link of the owner's leads: %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(data, "token.key")); err != nil || info.Mode() != 0o600 {
		t.Errorf("and the key of tokens: %v, %v", info.Mode(), err)
	}
}

// With sudo, the history names who typed the command, if what sudo says of that agrees.
func TestHistoryNamesWhoTypedSudo(t *testing.T) {
	t.Parallel()
	data, _ := serviceDir(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		skip(t, "there is no account nobody")
	}
	for _, x := range []struct{ name, uid, want string }{
		{"nobody", nobody.Uid, "nobody"},
		{"nobody", "4711", "root"},
		{"no-such-account", nobody.Uid, "root"},
		{"", "", "root"},
	} {
		tag := "from-" + x.name + x.uid
		cmd := exec.Command(itself(t), "tag", "a:x", tag, "--data", data)
		cmd.Env, cmd.Dir = append(os.Environ(), mainVariable+"=1", "SUDO_USER="+x.name, "SUDO_UID="+x.uid), "/"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		out, err := asRoot(t, "", "log", "a:"+tag, "--json", "--data", data)
		if err != nil || !strings.Contains(out, `"who": "`+x.want+`"`) {
			t.Errorf("SUDO_USER=%s SUDO_UID=%s: %v\n%s\nwant it to be by %s", x.name, x.uid, err, out, x.want)
		}
	}
}
