// Room: what pushes must leave, and what is kept for deletes.
//
// A disk that is full can be emptied only if there is room to do it: SQLite writes
// even to delete. So pushes leave a floor of free bytes, as the system tells them, on
// the disk of the database, and on that of the blobs if they have another. A
// quota it does not tell, nor in what it does to SQLite: an I/O error when a
// page is written, or when one of the memory that connections share cannot be had, and
// that needs room for readers too. Whether an error is such shows by trying to write.
//
// For both there is a reserve: a file that takes room, and is given up when there is
// none left. From then on pushes are refused until there is room for a reserve again.

package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// A space is how much of something a disk has.
type space struct{ free, total uint64 }

// room returns errNoSpace if n more bytes of metadata would leave less of the disk
// than pushes must leave.
func (st *store) room(n int64) error { return st.roomOn(st.dir, n, 0) }

// roomForBlob is room for n bytes of a blob, and for what is recorded of it.
func (st *store) roomForBlob(n int64) error { return st.roomForFiles(n, 0) }

// roomForFiles is roomForBlob for n bytes in so many new files and directories.
func (st *store) roomForFiles(n int64, inodes uint64) error {
	if st.apart() {
		if err := st.room(0); err != nil {
			return err
		}
	}
	return st.roomOn(st.arrivals, n, inodes)
}

// roomOn is roomForFiles for the disk of a directory.
func (st *store) roomOn(dir string, n int64, inodes uint64) error {
	if st.minFree == 0 {
		return nil
	}
	fits, err := st.fits(dir, n, inodes)
	if err != nil {
		return err
	}
	if !fits || st.reserve.spent.Load() && !st.regain() {
		return errNoSpace
	}
	return nil
}

// fits is roomOn as far as the system tells.
func (st *store) fits(dir string, n int64, inodes uint64) (bool, error) {
	bytes, files, err := freeSpace(dir)
	if err != nil {
		return false, fmt.Errorf("looking for free space: %w", err)
	}
	floor := st.floor(bytes.total)
	// A push takes a handful of files, in any number of uploads at once.
	filesFloor := min(files.total/100, 1000)
	return bytes.free >= floor && bytes.free-floor >= uint64(max(n, 0)) && (files.total == 0 || files.free >= filesFloor+inodes), nil
}

// floor is how many bytes of a disk of that size pushes leave.
func (st *store) floor(total uint64) uint64 {
	if st.minFree >= 0 {
		return uint64(st.minFree)
	}
	return min(max(total/100, min(16<<20, total/20)), 1<<30)
}

// The reserve is a file that takes room, and gives it to deletes when others
// than pushes have filled the disk to the last byte, or a quota is used up.
const (
	reserveFile = "reserve"
	reserveSize = 2 << 20
)

// A reserve is what is known of it.
type reserve struct {
	sync.Mutex               // held while it is made or given up; guards the last two
	spent      atomic.Bool   // it was given up, and is not back yet
	tried      bool          // to have it back,
	last       time.Duration // at this time, by store.now
}

// keepReserve makes the reserve if it is not there and the disk has room. That there
// is none is no error.
func (st *store) keepReserve() error {
	st.reserve.Lock()
	defer st.reserve.Unlock()
	return st.keepReserveLocked()
}

func (st *store) keepReserveLocked() error {
	path := filepath.Join(st.dir, reserveFile)
	if fits, err := st.fits(st.dir, reserveSize, 0); err != nil || !fits && st.minFree != 0 {
		return nil
	}
	if !exists(path) {
		err := st.makeReserve(path)
		if isDiskFull(err) {
			return nil // a quota, or somebody was quicker
		}
		if err != nil {
			return err
		}
	}
	st.writer.tight.Store(false)
	st.reserve.spent.Store(false)
	return nil
}

func (st *store) makeReserve(path string) (err error) {
	temp := path + ".new"
	defer os.Remove(temp)
	f, err := createAnew(temp)
	if err != nil {
		return err
	}
	// What a file system cannot press together takes the room that it seems to. Whether
	// there is that room shows without writing it, on some.
	if err = allocate(f, reserveSize); err == nil {
		_, err = io.CopyN(f, mathrand.NewChaCha8([32]byte{}), reserveSize)
	}
	if err == nil {
		err = st.syncData(f)
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	return err
}

// regainEvery is the time between two tries to have a reserve again.
const regainEvery = time.Second

// regain is keepReserve for a push that finds the reserve spent. It reports whether
// there is one again. Pushes that come together share a try.
func (st *store) regain() bool {
	st.reserve.Lock()
	defer st.reserve.Unlock()
	if !st.reserve.spent.Load() {
		return true
	}
	now := st.now()
	if st.reserve.tried && now-st.reserve.last < regainEvery {
		return false
	}
	st.reserve.tried, st.reserve.last = true, now
	if err := st.keepReserveLocked(); err != nil {
		st.log.Warn("no reserve for a full disk", "error", err)
	}
	return !st.reserve.spent.Load()
}

// spare is spareRoom for the committer.
func (st *store) spare() bool {
	st.reserve.Lock() // or one that is just made would count as there
	defer st.reserve.Unlock()
	return st.spareRoom()
}

// spareRoom gives the reserve away. It reports whether there was one. The caller holds
// its mutex.
func (st *store) spareRoom() bool {
	if os.Remove(filepath.Join(st.dir, reserveFile)) != nil {
		return false
	}
	st.reserve.spent.Store(true)
	flushFileSystem(st.lock) // some give what was removed back no sooner
	st.log.Warn("the disk is full to the last byte, or a quota is used up; the reserve is used to go on")
	return true
}

// isFull reports whether err is for want of room, in whatever words.
func (st *store) isFull(err error) bool {
	return isNoSpace(err) || failsForRoom(err) && isDiskFull(st.tryWrite())
}

// failsForRoom reports whether err is one of those that SQLite has for the end of a
// quota, among other reasons.
func failsForRoom(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) || e.Code()&0xff != sqlite3.SQLITE_IOERR {
		return false
	}
	switch e.Code() {
	case sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS:
		return false
	}
	return true
}

// tryFile is what the names of files begin with that tryWrite makes.
const tryFile = "try-"

// tryWrite writes what a small commit does, and says why that cannot be.
func (st *store) tryWrite() (err error) {
	f, err := os.CreateTemp(st.dir, tryFile)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	text := make([]byte, 64<<10)
	rand.Read(text)
	if _, err = f.Write(text); err == nil {
		err = syncData(f)
	}
	return errors.Join(err, f.Close())
}

// again reports whether a read is worth a second try: it failed as it would without
// room, and now there is some.
func (st *store) again(err error) bool {
	if !failsForRoom(err) || st.readOnlyDisk {
		return false
	}
	st.reserve.Lock() // or each of a crowd would write
	defer st.reserve.Unlock()
	return !isDiskFull(st.tryWrite()) || st.spareRoom()
}
