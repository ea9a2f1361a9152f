// Can the destination of a backup be written, by whoever will write it?
//
// Root runs `berth backup`, but the registry's user writes: the command, which has become
// that user (cmd_owner.go), or the server that runs. The server may see other directories
// than the command does, by systemd's ProtectSystem= or in a container. Either is found out,
// and said with what to do, before anything is written.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// A nearest directory is the destination of a backup, or the directory that is there on the
// way to it and in which the rest would be made.
type nearest struct {
	Dir string
	ID  string // dirID, as the command sees it; "" if the system has none
}

// nearestOf finds it for a destination. The error is fs.ErrPermission if the way there
// is closed to this process.
func nearestOf(dest string) (nearest, error) {
	for dir := dest; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			continue
		}
		if err != nil {
			return nearest{}, err
		}
		if !info.IsDir() {
			return nearest{}, fmt.Errorf("%s is a file, not a directory; name another place for the backup", dir)
		}
		return nearest{dir, dirID(dir)}, nil
	}
}

// findDestination is what the command does before it, or a server, begins a backup.
func (o *options) findDestination() (err error) {
	dest, who := o.Args[0], accountName(os.Geteuid())
	o.Nearest, err = nearestOf(dest)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s cannot be reached by %s, who writes the backup: a directory on the way is closed; name another place", dest, who)
	}
	if err != nil {
		return err
	}
	near := o.Nearest.Dir
	all, own := "", false // whether it can be given away: it is for backups, and nothing else
	if there, _ := isThere(filepath.Join(dest, backupMark)); there {
		all, own = "-R ", true
	} else if entries, err := os.ReadDir(dest); err == nil && len(entries) == 0 {
		own = true
	}
	err = mayMakeIn(near)
	switch {
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s is on a read-only disk; name another place for the backup", near)
	case errors.Is(err, fs.ErrPermission) && near == dest && !own:
		return fmt.Errorf("%s, who writes the backup, may not write in %s%s. Make a directory in it for the backup: sudo install -d -o %[1]s -m 700 %[4]s",
			who, dest, ownedBy(dest), filepath.Join(dest, "berth"))
	case errors.Is(err, fs.ErrPermission) && near == dest:
		return fmt.Errorf("%s, who writes the backup, may not write in %s%s. Give it the directory: sudo chown %[4]s%[1]s %[2]s", who, dest, ownedBy(dest), all)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s, who writes the backup, cannot create %s, because it may not write in %s%s. If a disk is to be mounted there, mount it first. Then create the directory for that user: sudo install -d -o %[1]s -m 700 %[2]s",
			who, dest, near, ownedBy(near))
	}
	return nil // what else there may be shows where it is needed
}

// seeDestination refuses, in whoever writes the backup, a destination that the command
// sees and this process does not, or may not write.
func (o options) seeDestination() error {
	if o.Nearest.ID == "" || o.Nearest.ID == dirID(o.Nearest.Dir) {
		if !errors.Is(mayMakeIn(o.Nearest.Dir), syscall.EROFS) {
			return nil
		}
		return fmt.Errorf("the running server, which writes the backup, sees %s on a read-only disk, by systemd's ProtectSystem= or a mount. "+
			"Add it to the server's unit (sudo systemctl edit berth: [Service] ReadWritePaths=-%[1]s) and restart that; or stop the server while you back up", o.Nearest.Dir)
	}
	return fmt.Errorf("the running server, which writes the backup, has another %s than this command: it is in a container, or has directories of its own "+
		"(systemd's PrivateTmp=, ProtectHome=). Run the command where the server runs, name a directory that both have, or stop the server while you back up", o.Nearest.Dir)
}

// accountName is an account for people: its name or, where it has none, its number.
func accountName(uid int) string {
	if uid < 0 { // Windows
		return "this account"
	}
	id := strconv.Itoa(uid)
	if account, err := user.LookupId(id); err == nil {
		return account.Username
	}
	return id
}

// ownedBy says whose a directory is, in brackets.
func ownedBy(dir string) string {
	uid, _, ok := dirOwner(dir)
	if !ok {
		return ""
	}
	return " (it belongs to " + accountName(uid) + ")"
}
