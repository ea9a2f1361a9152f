//go:build !linux

package main

import (
	"os"
	"syscall"
)

// syncData flushes f to the disk.
func syncData(f *os.File) error { return f.Sync() }

// startWriteback has no portable call; the sync does it all.
func startWriteback(f *os.File, off, n int64) {}

// syncDir does what can be done about the names in a directory; Windows can do nothing.
func syncDir(path string) error {
	if d, err := os.Open(path); err == nil {
		d.Sync()
		d.Close()
	}
	return nil
}

// syncDisk has no portable call: what one server leaves to be written may slow the next.
func syncDisk(dir string) {}

// attached has no portable call: children end when the program ends in order.
func attached() *syscall.SysProcAttr { return nil }
