package main

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes an exclusive lock that the system drops with the process.
// It does not wait: if another process has it, the error is errLocked.
func lockFile(f *os.File) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()),
		windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
	if err == windows.ERROR_LOCK_VIOLATION {
		return errLocked
	}
	return err
}

// unlockFile ends what lockFile began.
func unlockFile(f *os.File) error {
	return windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, new(windows.Overlapped))
}

// fileID would be DEVICE:INODE of a file.
func fileID(f *os.File) string { return "" }

// syncDir does nothing: NTFS journals names, and Windows cannot sync a directory.
func syncDir(path string) error { return nil }

// keepOwner does nothing: files inherit who may use them from their directory.
func keepOwner(f *os.File, like string) {}

// hasModes says that files have modes by which others may read them: here they
// inherit that from their directory.
const hasModes = false

// noFollow would open no link: only an administrator can make one.
const noFollow = 0

// keepToOneself does nothing.
func keepToOneself() {}

// isRoot reports false: an administrator works as anybody does.
func isRoot() bool { return false }

func become(uid, gid int) error                                       { return nil }
func fileOwner(path string, kind fs.FileMode) (uid, gid int, ok bool) { return 0, 0, false }
func dirOwner(path string) (uid, gid int, ok bool)                    { return 0, 0, false }
func onlyRootChanges(dir string) bool                                 { return false }

// dirID is "": a command and a server see the same.
func dirID(path string) string { return "" }

// mayMakeIn reports nothing: who writes finds out.
func mayMakeIn(dir string) error { return nil }

// setMode does nothing.
func setMode(root *os.Root, name string, mode fs.FileMode) error { return nil }

// fileLimit is 0: there is no limit.
func fileLimit() int64 { return 0 }

// isAddressTaken reports whether err says that somebody listens there already.
func isAddressTaken(err error) bool { return errors.Is(err, windows.WSAEADDRINUSE) }

// isAddressElsewhere reports whether err says that an address is not this machine's.
func isAddressElsewhere(err error) bool { return errors.Is(err, windows.WSAEADDRNOTAVAIL) }

// isAddressForbidden reports whether err says that this process may not listen there.
func isAddressForbidden(err error) bool { return errors.Is(err, windows.WSAEACCES) }

// isDiskFull reports whether err says that a disk or a quota is used up.
func isDiskFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

// mapsFiles reports true: Windows can, on whatever disk.
func mapsFiles(dir string) bool { return true }

// onReadOnlyDisk reports false: who writes finds out.
func onReadOnlyDisk(dir string) bool { return false }

// isOtherDisk reports whether err says that a file cannot be renamed to another disk.
func isOtherDisk(err error) bool { return errors.Is(err, windows.ERROR_NOT_SAME_DEVICE) }

// freeSpace returns how many bytes the disk of path has room for, and how many
// it can have in all. NTFS makes file records as needed.
func freeSpace(path string) (bytes, files space, err error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return space{}, space{}, err
	}
	err = windows.GetDiskFreeSpaceEx(name, &bytes.free, &bytes.total, nil)
	return bytes, space{}, err
}
