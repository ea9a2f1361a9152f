package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData flushes f's bytes, and what is needed to read them back, to the disk.
func syncData(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// startWriteback asks the kernel to begin writing n bytes of f at off, without
// waiting, so that the final sync of a long upload is short. It promises
// nothing; an error shows in the sync.
func startWriteback(f *os.File, off, n int64) {
	unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// dropCache asks the kernel to forget what it has of f in memory, so that the
// next read is of the disk, or does not keep from memory what is of more use.
func dropCache(f *os.File) { unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

// cloneFile makes dst share the blocks of src, on file systems that can.
func cloneFile(dst, src *os.File) error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }

// syncAll makes what has changed under dir, in the directories named and in
// their files, survive a power cut. One call syncs all of a file system.
func syncAll(dir string, dirs map[string]bool) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// isBadSector reports whether err says that the disk, or the file system, could
// not read what it has written.
func isBadSector(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EBADMSG)
}
