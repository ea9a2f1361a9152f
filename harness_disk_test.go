// Where the tests have their registries: in memory, but for those that ask for a disk.
//
// Directories and syncs are half of what all tests would take on a disk, and most tests say nothing
// about it. They are made in memory too, where they cost next to nothing. Those that tell what
// a disk is given, and those in which requests meet because one of them waits for it, ask for one.
// With TMPDIR set all registries are there: CI has them on a disk once.

package main

import (
	"os"
	"testing"
)

// disk is where temporary files are unless useMemory says otherwise.
var disk = os.TempDir()

// syncMemory is store.syncDisk when registries are in memory; nil when they are not.
var syncMemory func(f *os.File, dirs map[string]bool) (done bool, err error)

// diskDir is t.TempDir on a disk.
func diskDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(disk, "berth-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// diskRegistry is startRegistry on a disk.
func diskRegistry(t testing.TB, options ...func(*config)) *registry {
	t.Helper()
	dir := diskDir(t)
	return startRegistry(t, append([]func(*config){func(cfg *config) { cfg.dir = dir }}, options...)...)
}
