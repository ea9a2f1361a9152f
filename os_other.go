//go:build !linux

package main

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// syncData flushes f's bytes, and what is needed to read them back, to the disk.
func syncData(f *os.File) error { return f.Sync() }

// startWriteback could begin writing early; there is no portable call.
func startWriteback(f *os.File, off, n int64) {}

// waitRange would wait until n bytes of f at off are written; there is no portable
// call.
func waitRange(f *os.File, off, n int64) error { return errors.ErrUnsupported }

// monotonic would be the time of a clock that other processes read, too.
func monotonic() time.Duration { return 0 }

// allocate would take room for f before it is written; there is no portable call.
func allocate(f *os.File, n int64) error { return nil }

// flushFileSystem would have the file system of f do what it has put off.
func flushFileSystem(f *os.File) {}

// dropCache would make the next read one of the disk; there is no portable call.
func dropCache(f *os.File) {}

// cloneFile would make dst share the blocks of src.
func cloneFile(dst, src *os.File) error { return errors.ErrUnsupported }

// syncFileSystem would sync all of the file system of f at once; there is no
// portable call.
func syncFileSystem(f *os.File, dirs map[string]bool) (done bool, err error) { return false, nil }

// isBadSector reports whether err says that the disk could not read what it has
// written.
func isBadSector(err error) bool { return errors.Is(err, syscall.EIO) }

// processFigures would be what the system says of this process; there is no portable
// call.
func processFigures() []processFigure { return nil }

// memory would be how many bytes this process may have; there is no portable call.
func memory() (total int64, limited bool) { return 0, false }

// clockSynced would report whether a time server keeps the clock right; there is no portable call.
func clockSynced() (synced, known bool) { return false, false }

func littleDirty() bool { return false }
