package main

import (
	"os"
	"syscall"

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

// startWriteback asks the kernel to begin writing n bytes of f at off, without waiting.
func startWriteback(f *os.File, off, n int64) {
	unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
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

// syncDisk waits until everything written to the file system of dir is on the disk.
func syncDisk(dir string) {
	if d, err := os.Open(dir); err == nil {
		unix.Syncfs(int(d.Fd()))
		d.Close()
	}
}

// attached makes a child end with this process, however this one ends. (The kernel means the thread that
// started the child; Go ends none that it may use again.)
func attached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
