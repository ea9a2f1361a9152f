//go:build unix

package main

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockFile takes an exclusive lock that the kernel drops with the process.
// It does not wait.
func lockFile(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

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
func keepOwner(path, like string) {
	var s unix.Stat_t
	if unix.Stat(like, &s) == nil {
		os.Chown(path, int(s.Uid), int(s.Gid))
	}
}

// isDiskFull reports whether err says that a disk or a quota is used up.
func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

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
