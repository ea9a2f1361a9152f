//go:build unix

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockFile takes an exclusive lock that the kernel drops with the process.
// It does not wait: if another process has it, the error is errLocked.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return errLocked
	}
	return err
}

// fileID is DEVICE:INODE of a file; "" if it cannot be had.
func fileID(f *os.File) string {
	var s unix.Stat_t
	if unix.Fstat(int(f.Fd()), &s) != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", s.Dev, s.Ino)
}

// unlockFile ends what lockFile began, for all copies of the file.
func unlockFile(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }

// syncDir makes the names in a directory survive a power cut.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// keepOwner gives a file the owner of another, if this process may.
func keepOwner(f *os.File, like string) {
	var s unix.Stat_t
	if unix.Stat(like, &s) == nil {
		f.Chown(int(s.Uid), int(s.Gid))
	}
}

// hasModes says that files have modes by which others may read them.
const hasModes = true

// noFollow opens no link.
const noFollow = syscall.O_NOFOLLOW

// keepToOneself has the process make files that nobody else may read.
func keepToOneself() { syscall.Umask(0o077) }

// isRoot reports whether this process may do everything.
func isRoot() bool { return os.Geteuid() == 0 }

// become gives up being root for good, in the whole process.
func become(uid, gid int) error {
	groups := []int{gid}
	if account, err := user.LookupId(strconv.Itoa(uid)); err == nil { // a number need not be known
		if ids, err := account.GroupIds(); err == nil {
			for _, id := range ids {
				if n, err := strconv.Atoi(id); err == nil {
					groups = append(groups, n)
				}
			}
		}
	}
	slices.Sort(groups)
	if err := syscall.Setgroups(slices.Compact(groups)); err != nil {
		return os.NewSyscallError("setgroups", err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return os.NewSyscallError("setgid", err)
	}
	return os.NewSyscallError("setuid", syscall.Setuid(uid))
}

// fileOwner is whose a file is, or what else has a type; ok is false if there is none of
// that type, or it is a file with another name: anybody may have put it there then.
func fileOwner(path string, kind fs.FileMode) (uid, gid int, ok bool) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != kind {
		return 0, 0, false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || kind != fs.ModeDir && s.Nlink != 1 {
		return 0, 0, false
	}
	return int(s.Uid), int(s.Gid), true
}

// dirOwner is whose a directory is; ok is false if there is none.
func dirOwner(path string) (uid, gid int, ok bool) {
	var s unix.Stat_t
	if unix.Stat(path, &s) != nil || s.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, 0, false
	}
	return int(s.Uid), int(s.Gid), true
}

// dirID tells a directory from all others of this system, whatever process asks and by
// whatever mount; "" if there is none.
func dirID(path string) string {
	var s unix.Stat_t
	if unix.Stat(path, &s) != nil {
		return ""
	}
	return fmt.Sprintf("%x:%x", uint64(s.Dev), uint64(s.Ino))
}

// mayMakeIn returns an error if this process may not make files in a directory.
func mayMakeIn(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }

// onlyRootChanges reports whether a directory is one in which only root may rename
// what is root's.
func onlyRootChanges(dir string) bool {
	var s unix.Stat_t
	return unix.Lstat(dir, &s) == nil && s.Mode&unix.S_IFMT == unix.S_IFDIR && s.Uid == 0 &&
		(s.Mode&0o022 == 0 || s.Mode&unix.S_ISVTX != 0)
}

// setMode is root.Chmod that follows no link.
func setMode(root *os.Root, name string, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(mode), f.Close())
}

// fileLimit is how many files this process may have open, connections among them; 0
// is no limit that is worth a thought.
func fileLimit() int64 {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil || uint64(r.Cur) > 1<<30 {
		return 0
	}
	return int64(r.Cur)
}

// isAddressTaken reports whether err says that somebody listens there already.
func isAddressTaken(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// isAddressElsewhere reports whether err says that an address is not this machine's.
func isAddressElsewhere(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }

// isAddressForbidden reports whether err says that this process may not listen there.
func isAddressForbidden(err error) bool { return errors.Is(err, fs.ErrPermission) }

// isDiskFull reports whether err says that a disk or a quota is used up.
func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// mapsFiles reports whether what is in a directory can be mapped into memory that
// several processes share; true if that cannot be tried.
func mapsFiles(dir string) bool {
	const size = 32 << 10 // as SQLite does
	f, err := os.CreateTemp(dir, "probe-")
	if err != nil {
		return true
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if f.Truncate(size) != nil {
		return true
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS)
	}
	unix.Munmap(mapped)
	return true
}

// onReadOnlyDisk reports whether a directory is there and on a disk that is read-only.
func onReadOnlyDisk(dir string) bool { return unix.Access(dir, unix.W_OK) == unix.EROFS }

// isOtherDisk reports whether err says that a file cannot be renamed to another disk.
func isOtherDisk(err error) bool { return errors.Is(err, syscall.EXDEV) }

// freeSpace returns how many bytes and files (inodes) the disk of path has room
// for, and how many it can have in all. total is 0 where there is no limit.
func freeSpace(path string) (bytes, files space, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return space{}, space{}, err
	}
	block := uint64(s.Bsize)
	// FreeBSD counts below zero what only root may use.
	free, freeFiles := uint64(max(int64(s.Bavail), 0)), uint64(max(int64(s.Ffree), 0))
	return space{free * block, uint64(s.Blocks) * block}, space{freeFiles, uint64(s.Files)}, nil
}
