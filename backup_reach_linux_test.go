// Backups that root starts and another writes, who cannot reach the place, or has another
// by that name.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// forOthers is the program where all users may run it.
func forOthers(t testing.TB) (path string) {
	t.Helper()
	path = filepath.Join(sharedDir(t), "berth")
	program, err := os.ReadFile(itself(t))
	if err == nil {
		err = os.WriteFile(path, program, 0o755)
	}
	if err == nil {
		err = os.Chmod(path, 0o755) // whatever the umask
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// serveAs serves a directory as another user, who sees the disks that script makes, in sh.
func serveAs(t testing.TB, uid int, data, script string) *process {
	t.Helper()
	for _, tool := range []string{"setpriv", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, tool+" is not installed: apt-get install util-linux")
		}
	}
	cmd := exec.Command("sh", "-c", fmt.Sprintf(`set -e; %s
exec setpriv --reuid=%d --regid=%[2]d --clear-groups "$0" "$@"`, script, uid), forOthers(t))
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return startProcessBy(t, cmd, "", "--data", data)
}

// asUser runs a command of berth as a user.
func asUser(t testing.TB, uid int, args ...string) (said string, err error) {
	t.Helper()
	cmd := exec.Command(forOthers(t), args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestBackupOfRootWhereTheServerCannotWrite(t *testing.T) {
	t.Parallel()
	slow(t)
	data, _ := serviceDir(t)
	place := sharedDir(t)
	readOnly, private, roots := filepath.Join(place, "strict"), filepath.Join(place, "private"), filepath.Join(place, "roots")
	for _, dir := range []string{readOnly, private, roots} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	giveTo(t, readOnly, serviceUser)
	closed := filepath.Join(place, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	anybodys := filepath.Join(place, "anybodys") // where root makes nothing for others
	if err := os.Mkdir(anybodys, 0o775); err != nil {
		t.Fatal(err)
	}
	os.Chmod(anybodys, 0o775)
	others := filepath.Join(place, "others") // has things of somebody else
	if err := os.MkdirAll(filepath.Join(others, "things"), 0o755); err != nil {
		t.Fatal(err)
	}

	// As systemd's ProtectSystem=strict and PrivateTmp= do it.
	serve := func() *process {
		return serveAs(t, serviceUser, data, fmt.Sprintf("mount --bind '%[1]s' '%[1]s'; mount -o remount,bind,ro '%[1]s'; mount -t tmpfs berth-test '%[2]s'; chmod 777 '%[2]s'", readOnly, private))
	}
	p := serve()
	before := tree(t, place)
	for dest, want := range map[string]string{
		readOnly:                            "the running server, which writes the backup, sees " + readOnly + " on a read-only disk, by systemd's ProtectSystem= or a mount. Add it to the server's unit (sudo systemctl edit berth: [Service] ReadWritePaths=-" + readOnly + ")",
		filepath.Join(private, "copy"):      "the running server, which writes the backup, has another " + private + "/copy than this command: it is in a container",
		roots:                               "47110, who writes the backup, may not write in " + roots + " (it belongs to root). Give it the directory: sudo chown 47110 " + roots,
		others:                              "may not write in " + others + " (it belongs to root). Make a directory in it for the backup: sudo install -d -o 47110 -m 700 " + others + "/berth",
		filepath.Join(anybodys, "x"):        "47110, who writes the backup, cannot create " + anybodys + "/x, because it may not write in " + anybodys + " (it belongs to root). If a disk is to be mounted there, mount it first. Then create the directory for that user: sudo install -d -o 47110 -m 700 " + anybodys + "/x",
		filepath.Join(closed, "a", "b"):     "cannot be reached by 47110, who writes the backup",
		filepath.Join(data, "berth.db", ""): "is a file, not a directory",
	} {
		said, err := asRoot(t, "", "backup", dest, "--data", data)
		if err == nil || !strings.Contains(said, want) {
			t.Errorf("backup to %s: %v\n%swant %q", dest, err, said, want)
		}
	}
	if after := tree(t, place); len(after) != len(before) {
		t.Errorf("backups that were refused have left %v", after)
	}
	// What it says helps.
	if err := os.Chown(roots, serviceUser, serviceUser); err != nil {
		t.Fatal(err)
	}
	for _, dest := range []string{roots, filepath.Join(place, "new", "er")} {
		os.Mkdir(filepath.Dir(dest), 0o755)
		if said, err := asRoot(t, "", "backup", dest, "--data", data); err != nil {
			t.Errorf("backup to %s: %v\n%s", dest, err, said)
		}
		allAre(t, dest, serviceUser)
	}
	p.stop(t)
	if said, err := asRoot(t, "", "backup", readOnly, "--data", data); err != nil {
		t.Errorf("backup to %s without the server: %v\n%s", readOnly, err, said)
	}
}
