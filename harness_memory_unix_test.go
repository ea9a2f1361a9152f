//go:build unix

package main

import (
	"os"
	"syscall"
)

// useMemory has temporary files in memory from now on, where there is a file system of that
// kind with room. end removes what is left of them.
func useMemory() (end func()) {
	const memory, room = "/dev/shm", 1 << 30
	bytes, _, err := freeSpace(memory)
	if err != nil || bytes.free < room || os.Getenv("TMPDIR") != "" {
		return func() {}
	}
	dir, err := os.MkdirTemp(memory, "berth-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // some tests are other users too
	}
	if err != nil {
		return func() {}
	}
	os.Setenv("TMPDIR", dir)
	device := deviceOf(dir)
	// In memory a sync of all is as good as on the file systems that syncFileSystem knows: so
	// registries go the same way there. Disks that tests mount are none of this.
	syncMemory = func(f *os.File, dirs map[string]bool) (bool, error) {
		all := deviceOf(f.Name()) == device
		for dir := range dirs {
			all = all && deviceOf(dir) == device
		}
		if all {
			return true, nil
		}
		return syncFileSystem(f, dirs)
	}
	return func() { os.RemoveAll(dir) }
}

// deviceOf is the number of the file system that a path is on, 0 if nothing is there.
func deviceOf(path string) uint64 {
	var s syscall.Stat_t
	if syscall.Stat(path, &s) != nil {
		return 0
	}
	return uint64(s.Dev)
}
