// The service's user in a tree of files that is to become a machine: `berth install --root DIR`.
//
// No program of the system that builds the image is asked, which may know no useradd, or another one. Where the
// tree has accounts (etc/passwd, as a mounted SD card has), the user is added to them. Where it has none, because
// another program makes them later, the user and the data directory are declared, and systemd makes both.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// What declares the user and the data directory: sysusers.d(5) and tmpfiles.d(5).
const (
	userDeclared = "/etc/sysusers.d/berth.conf"
	dataDeclared = "/etc/tmpfiles.d/berth.conf"
)

// hasAccounts reports whether users can be added: to this machine, or to the files of a tree.
func (in *installer) hasAccounts() bool { return in.root == "" || thereIs(in.at("/etc/passwd")) }

// declareUser has systemd make the user and the data directory, when the machine starts for the first time.
func (in *installer) declareUser(dir string) error {
	return errors.Join(
		in.write(userDeclared, []byte("u "+serviceAccount+" - \"Berth, a container registry\" "+serviceData+"\n"), true),
		in.write(dataDeclared, []byte("d "+dir+" 0700 "+serviceAccount+" "+serviceAccount+" -\n"), true))
}

// accountFiles are the files of a tree that have accounts, with what the user's line in each says beside the
// name. Those without a password are made if they are missing.
var accountFiles = []struct {
	path string
	made bool
	line func(uid, gid int) string
}{
	{"/etc/group", true, func(_, gid int) string { return fmt.Sprintf(":x:%d:", gid) }},
	{"/etc/gshadow", false, func(int, int) string { return ":!*::" }},
	{"/etc/shadow", false, func(int, int) string { return ":!*:::::::" }},
	{"/etc/passwd", true, func(uid, gid int) string { return fmt.Sprintf(":x:%d:%d::%s:/usr/sbin/nologin", uid, gid, serviceData) }},
}

// refuseLinks refuses accounts of a tree that are elsewhere: on the machine that builds it, if the link is absolute.
func (in *installer) refuseLinks() error {
	for _, x := range accountFiles {
		if info, err := os.Lstat(in.at(x.path)); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file, so the user %s cannot be added to it: add it with the tools that make the tree, and run this again", in.at(x.path), serviceAccount)
		}
	}
	return nil
}

// addUser adds the service's user, and its group, to the accounts of a tree.
func (in *installer) addUser() (uid, gid int, err error) {
	group, gids, err := in.numbers("/etc/group")
	if err != nil {
		return 0, 0, err
	}
	_, uids, err := in.numbers("/etc/passwd")
	if err != nil {
		return 0, 0, err
	}
	for uid = 999; uids[uid] || gids[uid]; uid-- { // as useradd chooses one for a system's account
		if uid == 100 {
			return 0, 0, fmt.Errorf("%s has no number left for a system's user", in.at("/etc/passwd"))
		}
	}
	if gid = uid; group >= 0 {
		gid = group
	}
	for _, x := range accountFiles {
		if err := in.addLine(x.path, x.made, x.line(uid, gid)); err != nil {
			return 0, 0, err
		}
	}
	return uid, gid, nil
}

// numbers returns what numbers a file of accounts has, and that of the service's, -1 if it has none.
func (in *installer) numbers(path string) (own int, used map[int]bool, err error) {
	text, err := os.ReadFile(in.at(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, err
	}
	own, used = -1, map[int]bool{}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 3 {
			continue
		}
		if n, err := strconv.Atoi(f[2]); err == nil {
			used[n] = true
			if f[0] == serviceAccount {
				own = n
			}
		}
	}
	return own, used, nil
}

// addLine adds a line of the service's account to a file, unless it has one. It keeps the file's mode and owner; a file
// that is missing is made for everybody to read, if it may be.
func (in *installer) addLine(path string, made bool, line string) error {
	name := in.at(path)
	text, err := os.ReadFile(name)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && !made:
		return nil
	case err != nil && !missing:
		return err
	case strings.HasPrefix(string(text), serviceAccount+":") || strings.Contains(string(text), "\n"+serviceAccount+":"):
		return nil
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	if err := replaceFile(name, append(text, serviceAccount+line+"\n"...)); err != nil || !missing {
		return err
	}
	return os.Chmod(name, 0o644)
}

// tellTree says what is left to do for the tree.
func (in *installer) tellTree() {
	fmt.Fprintf(in.out, "Installed below %s; the service starts with the machine\n", in.root)
	if !in.hasAccounts() {
		root, err := filepath.Abs(in.root)
		if err != nil {
			root = in.root
		}
		fmt.Fprintf(in.out, "It has no etc/passwd, so %s and %s declare the user and the data directory. systemd makes both when the machine first starts; "+
			"to have them in the image, run this when all its files are there:\n  systemd-sysusers --root=%s\n  systemd-tmpfiles --create --root=%[3]s %[2]s\n", userDeclared, dataDeclared, root)
	}
}
