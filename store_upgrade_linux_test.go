package main

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What a read-only disk holds cannot be brought up to date.
func TestVersion1OnAReadOnlyDisk(t *testing.T) {
	disk := mountDisk(t, "size=32m")
	r := onDisk(t, disk)
	l := liveWith(r)
	r.stop()
	toVersion1(t, filepath.Join(disk, "data"))
	makeReadOnly(t, disk)
	openFails(t, r.cfg.storeConfig, "start once with the disk writable, which brings it up to date")
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	r.moved.Store(0)
	r.start()
	r.freeze()
	l.serves()
}
