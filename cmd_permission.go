// What a person is told who may not read or write a file: which one, whose it is, who runs Berth, and the
// line that changes that.
//
// The line is given only where it takes nothing from anybody: for files in the data directory, whose owner
// is to be the one who serves it, and for directories that are still to be made. Of a file elsewhere, which
// may be another program's, it is only said whose it is.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// withPermission adds to an error about a file or directory that may not be used what to do.
func (cfg *config) withPermission(err error) error {
	var file *fs.PathError
	me := os.Geteuid()
	if !errors.Is(err, fs.ErrPermission) || !errors.As(err, &file) || me < 0 || isRoot() {
		return err
	}
	path, e := filepath.Abs(file.Path)
	if e != nil {
		return err
	}
	who := "Berth runs as " + accountName(me)
	if cfg.became != "" {
		who = cfg.became
	}
	if owner, _ := ownerName(cfg.editing); owner == "root" && !cfg.hasInside(cfg.editing) && (cfg.became == "" || cfg.auth.usersFile == "") {
		return fmt.Errorf("%w. %s belongs to root, and %s. Have root edit it, by its name: sudo berth user %s --htpasswd %[2]s --data %[5]s",
			err, cfg.editing, who, strings.Join(cfg.Args, " "), newDataDir(cfg.dirConfig).whole())
	}
	return fmt.Errorf("%w. %s", err, cfg.permit(path, accountName(me), who))
}

// permit says whose the obstacle on the way to path is, and how me gets by it. who says who that is.
func (cfg *config) permit(path, me, who string) string {
	data := newDataDir(cfg.dirConfig).whole()
	at, missing := obstacle(path)
	owner, isDir := ownerName(at)
	what := fmt.Sprintf("%s belongs to %s, and %s", at, owner, who)
	inside := cfg.hasInside(at)
	switch {
	case owner == me:
		return fmt.Sprintf("%s, so only its mode is in the way. To change that: chmod u+rwX %s", what, at)
	case inside && owner != "root" && cfg.became == "":
		return fmt.Sprintf("%s. Run this as root, or as %s", what, owner)
	case inside && isDir && isSystems(at):
		return what + ". Name another directory with --data"
	case inside && isDir:
		return fmt.Sprintf("%s. Run this as root; or, if it is to be the registry's directory of %s: sudo chown -hR %[2]s: %s", what, me, at)
	case inside:
		return fmt.Sprintf("%s. To change that: sudo chown -h %s: %s", what, me, at)
	case missing && (path == data || strings.HasPrefix(data, path+string(filepath.Separator))):
		return fmt.Sprintf("%s. To make the directory: sudo install -d -m 700 -o %s %s", what, me, data)
	case isDir && at != path:
		return fmt.Sprintf("%s. Run this as root, or put a copy of the file where %s can read it", what, me)
	}
	return fmt.Sprintf("%s. Let %s read it, for example by a group, or name a copy that belongs to %[2]s", what, me)
}

// hasInside reports whether a whole path is that of the data directory, or of something in it.
func (cfg *config) hasInside(path string) bool {
	data := newDataDir(cfg.dirConfig).whole()
	return path == data || strings.HasPrefix(path, data+string(filepath.Separator))
}

// obstacle returns the first directory on the way to path that this process may not look into, or else
// path; missing says that there is nothing at path, and then the obstacle is the directory it would be in.
func obstacle(path string) (at string, missing bool) {
	for at = filepath.Dir(path); at != filepath.Dir(at); at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, ".")); err == nil {
			break
		}
	}
	_, err := os.Lstat(path)
	switch {
	case err == nil:
		return path, false
	case errors.Is(err, fs.ErrPermission): // at is the last that can be seen
		return at, false
	}
	return at, true
}

// ownerName is whose a file or directory is.
func ownerName(path string) (name string, isDir bool) {
	if uid, _, ok := dirOwner(path); ok {
		return accountName(uid), true
	}
	if uid, _, ok := fileOwner(path, 0); ok {
		return accountName(uid), false
	}
	return "somebody else", false
}

// isSystems reports whether a directory is of those that hold others' files, whose owner must not change.
func isSystems(dir string) bool {
	parent := filepath.Dir(dir)
	return parent == filepath.Dir(parent) || parent == "/var" || parent == "/usr"
}
