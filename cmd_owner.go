// Whose the data directory is, and who else may read it.
//
// What it holds is secret: hashes of passwords, keys, private images. So each
// file is made 0600, whatever the umask and whoever has made the directory, and
// what is found with more than that is put right at the start.
//
// A service has an account of its own, and root runs commands on its directory.
// The account may put links there that lead anywhere; so root becomes the owner
// of a registry before it opens anything of it, and what a command makes is the
// owner's. What still has root working in a directory of somebody else (a server
// in a container, say) makes files under names at which nothing is, and follows
// no link to a file. It does to directories, of which the log warns.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// createDatabase makes an empty file for a database: SQLite would make one that
// all may read, and gives its logs the mode that the database has. One that is
// there stays.
func createDatabase(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// secrets are the files of a data directory that nobody else may read, as
// patterns. Blobs and uploads are in directories of their own.
var secrets = []string{"berth.db*", "snapshots/*", "token.key", "tls/" + caKey, "tls/" + caBoth, "tls/acme/*"}

// closeToOthers takes the files of secrets from everybody but their owner, where
// an earlier version, a copy or a person has left them open, and tells of it. The
// users' file is the operator's: it only tells. What is elsewhere, by a link, is not
// the directory's. The caller has the lock.
func (data *dataDir) closeToOthers() {
	root, err := os.OpenRoot(data.dir)
	if err != nil {
		return // which shows where it is needed
	}
	defer root.Close()
	var closed []string
	for _, pattern := range secrets {
		names, _ := fs.Glob(root.FS(), pattern)
		for _, name := range names {
			path := filepath.Join(data.dir, filepath.FromSlash(name))
			if _, _, alone := fileOwner(path, 0); !alone && foreign(data.dir) || !openToOthers(path, 0o077) {
				continue
			}
			if err := setMode(root, name, 0o600); err != nil || openToOthers(path, 0o077) {
				data.log.Warn("other users of this machine may read a file of the registry, and that cannot be changed", "file", path, "error", err)
				continue
			}
			closed = append(closed, name)
		}
	}
	if closed != nil {
		data.log.Warn("other users of this machine could read files of the registry; now only their owner can", "data", data.dir, "files", closed)
	}
	if path := filepath.Join(data.dir, usersFile); openToOthers(path, 0o007) {
		data.log.Warn("every user of this machine can read the password hashes; chmod 600 changes that", "file", path)
	}
}

// othersFiles says which files of the database, in a directory of this process's user, are somebody
// else's and closed to it (a copy that root has made, say), and what to do; "" if none is.
func (data *dataDir) othersFiles() string {
	me := os.Geteuid()
	if uid, _, ok := dirOwner(data.dir); !ok || uid != me {
		return ""
	}
	var files []string
	whose := -1
	for _, name := range []string{"berth.db", "berth.db-wal", "berth.db-shm", "berth.lock"} {
		path := filepath.Join(data.whole(), name)
		uid, _, ok := fileOwner(path, 0)
		if !ok || uid == me {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR|noFollow, 0)
		if err == nil {
			f.Close()
		}
		if errors.Is(err, fs.ErrPermission) {
			files, whose = append(files, path), uid
		}
	}
	if files == nil {
		return ""
	}
	verb := "belongs"
	if len(files) > 1 {
		verb = "belong"
	}
	who := accountName(me)
	return fmt.Sprintf("%s %s to %s, and Berth runs as %s, who may not open it for writing. To change that: sudo chown -h %[4]s: %s",
		sentenceList(files), verb, accountName(whose), who, strings.Join(files, " "))
}

// openToOthers reports whether a file, which is no link, has one of the bits.
func openToOthers(path string, bits fs.FileMode) bool {
	info, err := os.Lstat(path)
	return err == nil && hasModes && info.Mode().IsRegular() && info.Mode()&bits != 0
}

// whoAsks is the account of the person who runs this command, for the history: with sudo the one
// who typed it.
func whoAsks() string {
	if name, _, ok := sudoer(); ok {
		return name
	}
	account, err := user.Current()
	if err != nil {
		return ""
	}
	return account.Username
}

// sudoer is the account that runs this command by sudo, if one does. The variables of sudo are
// believed of root alone, who can say what they like, and only if the name and the number are of
// one account.
func sudoer() (name string, uid int, ok bool) {
	root, err := user.Current() // who was root at the start, whoever that has become
	if err != nil || root.Uid != "0" || os.Getenv("SUDO_USER") == "" {
		return "", 0, false
	}
	by, err := user.Lookup(os.Getenv("SUDO_USER"))
	if err != nil || by.Uid != os.Getenv("SUDO_UID") || by.Uid == "0" {
		return "", 0, false
	}
	uid, err = strconv.Atoi(by.Uid)
	return by.Username, uid, err == nil
}

// becomeOwner makes root, before a command opens anything, the one whose the files
// are that it works on: who has the registry in the data directory, or the users'
// file that a flag names. For good, and with the groups of that account. For all
// others it does nothing.
func (cfg *config) becomeOwner() error {
	if !isRoot() {
		return nil
	}
	dir := cfg.dir
	user.Current() // which remembers: root is no longer root when it is asked who it is
	if cfg.Command == "user" && cfg.auth.usersFile != "" {
		dir = filepath.Dir(cfg.auth.usersFile)
	}
	uid, gid, ok := ownerOf(dir)
	if !ok || uid == 0 {
		return nil
	}
	if there, err := isThere(filepath.Join(cfg.dir, "berth.db")); cfg.Command == "backup" && err == nil && there {
		makeBackupFor(cfg.Args[0], uid, gid)
	}
	if err := become(uid, gid); err != nil {
		return fmt.Errorf("%s belongs to the user %d, and root must become that user to work on it: %w", dir, uid, err)
	}
	cfg.became = fmt.Sprintf("root works here as %s, who owns %s", accountName(uid), dir)
	return nil
}

// ownerOf is who has a registry: root, if root serves it, in whosever directory;
// else whose its database is, or without one the directory. A file of root's, rules
// that were copied there, say, gets the database's name from the directory's owner if he
// likes; a directory of root's he has not got.
func ownerOf(dir string) (uid, gid int, ok bool) {
	if uid, gid, ok := fileOwner(filepath.Join(dir, "berth.sock"), fs.ModeSocket); ok && uid == 0 {
		return uid, gid, true
	}
	uid, gid, ok = fileOwner(filepath.Join(dir, "berth.db"), 0)
	if ok && uid == 0 {
		by, _, made := fileOwner(filepath.Join(dir, "uploads"), fs.ModeDir)
		ok = made && by == 0
	}
	if ok {
		return uid, gid, true
	}
	return dirOwner(dir)
}

// refuseLink refuses, where root works in a directory of somebody else, a database
// that is elsewhere. SQLite follows no other link.
func (data *dataDir) refuseLink() error {
	return refuseForeignLink(filepath.Join(data.dir, "berth.db"))
}

// refuseOthers refuses to have root give the hashes of passwords and the keys of a
// registry to who has the destination and has them not.
func (b *backup) refuseOthers() error {
	to, _, ok := dirOwner(b.dest.dir)
	if from, _, _ := dirOwner(b.st.dir); !isRoot() || !ok || to == 0 || to == from {
		return nil
	}
	return fmt.Errorf("%s belongs to the user %d, who could read this registry's password hashes and keys there; name a directory that belongs to root", b.dest.dir, to)
}

// makeBackupFor makes the directory of a backup for who is going to fill it, where
// only root may make one, and nobody else can have changed the way there.
func makeBackupFor(dest string, uid, gid int) {
	parent := filepath.Dir(dest)
	for dir := parent; ; dir = filepath.Dir(dir) {
		if !onlyRootChanges(dir) {
			return
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	if os.Mkdir(dest, 0o700) == nil {
		os.Lchown(dest, uid, gid)
	}
}
