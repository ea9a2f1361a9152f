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
)

// A space is how much of something a disk has.
type space struct{ free, total uint64 }

// room returns errNoSpace if n more bytes of metadata would leave less of the disk
// than pushes must leave.
func (data *dataDir) room(n int64) error { return data.roomOn(data.dir, n, 0) }

// roomForBlob is room for n bytes of a blob, and for what is recorded of it.
func (data *dataDir) roomForBlob(n int64) error { return data.roomForFiles(n, 0) }

// roomForFiles is roomForBlob for n bytes in so many new files and directories.
func (data *dataDir) roomForFiles(n int64, inodes uint64) error {
	if data.apart() {
		if err := data.room(0); err != nil {
			return err
		}
	}
	return data.roomOn(data.arrivals, n, inodes)
}

// roomOn is roomForFiles for the disk of a directory.
func (data *dataDir) roomOn(dir string, n int64, inodes uint64) error {
	if data.minFree == 0 {
		return nil
	}
	fits, err := data.fits(dir, n, inodes)
	if err != nil {
		return err
	}
	if !fits || data.reserve.spent.Load() && !data.regain() {
		return noRoomError{dir, max(n, 0)}
	}
	return nil
}

// A noRoomError is errNoSpace for the disk of a directory, and for so many bytes; 0 if more than that is not known.
type noRoomError struct {
	dir   string
	needs int64
}

func (e noRoomError) Error() string { return errNoSpace.Error() }
func (e noRoomError) Unwrap() error { return errNoSpace }

// fits is roomOn as far as the system tells.
func (data *dataDir) fits(dir string, n int64, inodes uint64) (bool, error) {
	bytes, files, err := freeSpace(dir)
	if err != nil {
		return false, fmt.Errorf("looking for free space: %w", err)
	}
	floor := data.floor(bytes.total)
	// A push takes a handful of files, in any number of uploads at once.
	filesFloor := min(files.total/100, 1000)
	return bytes.free >= floor && bytes.free-floor >= uint64(max(n, 0)) && (files.total == 0 || files.free >= filesFloor+inodes), nil
}

// fullness says for want of what a push was refused with err.
func (data *dataDir) fullness(err error) string {
	const full = "the registry's disk is full"
	if data.reserve.spent.Load() {
		return full + " to the last byte, or a quota is used up"
	}
	no := noRoomError{dir: data.arrivals}
	if !errors.As(err, &no) {
		if fits, err := data.fits(data.dir, 0, 0); err == nil && !fits {
			no.dir = data.dir
		}
	}
	bytes, files, err := freeSpace(no.dir)
	if err != nil {
		return full
	}
	floor := data.floor(bytes.total)
	if bytes.free >= floor+uint64(no.needs) && files.total > 0 && files.free < 1000 {
		return fmt.Sprintf("%s: there is room for %d more files", full, files.free)
	}
	left := fmt.Sprintf("%s is free, and pushes leave %s", formatSize(int64(bytes.free)), formatSize(int64(floor)))
	room := int64(bytes.free - min(bytes.free, floor))
	switch {
	case no.needs > 0:
		return fmt.Sprintf("%s: this needs %s, and there is room for %s (%s: --min-free)", full, formatSize(no.needs), formatSize(room), left)
	case room > 0: // what had come of it has been removed
		return fmt.Sprintf("%s: this needs more than the %s that there is room for (%s: --min-free)", full, formatSize(room), left)
	}
	return fmt.Sprintf("%s: %s (--min-free)", full, left)
}

// floor is how many bytes of a disk of that size pushes leave.
func (data *dataDir) floor(total uint64) uint64 {
	if data.minFree >= 0 {
		return uint64(data.minFree)
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
func (data *dataDir) keepReserve() error {
	data.reserve.Lock()
	defer data.reserve.Unlock()
	return data.keepReserveLocked()
}

func (data *dataDir) keepReserveLocked() error {
	path := filepath.Join(data.dir, reserveFile)
	if fits, err := data.fits(data.dir, reserveSize, 0); err != nil || !fits && data.minFree != 0 {
		return nil
	}
	there, err := isThere(path)
	if err != nil {
		return err
	}
	if !there {
		err := data.makeReserve(path)
		if isDiskFull(err) {
			return nil // a quota, or somebody was quicker
		}
		if err != nil {
			return err
		}
	}
	data.tight.Store(false)
	data.reserve.spent.Store(false)
	return nil
}

func (data *dataDir) makeReserve(path string) (err error) {
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
		err = data.syncData(f)
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
func (data *dataDir) regain() bool {
	data.reserve.Lock()
	defer data.reserve.Unlock()
	if !data.reserve.spent.Load() {
		return true
	}
	now := data.now()
	if data.reserve.tried && now-data.reserve.last < regainEvery {
		return false
	}
	data.reserve.tried, data.reserve.last = true, now
	if err := data.keepReserveLocked(); err != nil {
		data.log.Warn("the reserve for a full disk cannot be kept", "error", err)
	}
	return !data.reserve.spent.Load()
}

// spare is spareRoom for the committer.
func (data *dataDir) spare() bool {
	data.reserve.Lock() // or one that is just made would count as there
	defer data.reserve.Unlock()
	return data.spareRoom()
}

// spareRoom gives the reserve away. It reports whether there was one. The caller holds
// its mutex.
func (data *dataDir) spareRoom() bool {
	if os.Remove(filepath.Join(data.dir, reserveFile)) != nil {
		return false
	}
	data.reserve.spent.Store(true)
	flushFileSystem(data.lock) // some give what was removed back no sooner
	data.log.Warn("the disk is full to the last byte, or a quota is used up; the reserve is used to continue")
	return true
}

// isFull reports whether err is for want of room, in whatever words.
func (data *dataDir) isFull(err error) bool {
	return isNoSpace(err) || failsForRoom(err) && isDiskFull(data.tryWrite())
}

// diskFull reports whether SQLite failed for want of room.
func (data *dataDir) diskFull(err error) bool {
	bytes, _, e := freeSpace(data.dir)
	return e == nil && bytes.free < 64<<10 && (isIOError(err) || isNoSpace(err)) || !data.readOnlyDisk && data.isFull(err)
}

// tryFile is what the names of files begin with that tryWrite makes.
const tryFile = "try-"

// tryWrite writes what a small commit does, and says why that cannot be.
func (data *dataDir) tryWrite() (err error) {
	f, err := os.CreateTemp(data.dir, tryFile)
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
func (data *dataDir) again(err error) bool {
	if !failsForRoom(err) || data.readOnlyDisk {
		return false
	}
	data.reserve.Lock() // or each of a crowd would write
	defer data.reserve.Unlock()
	return !isDiskFull(data.tryWrite()) || data.spareRoom()
}

// damaged says why the database cannot be opened, and what to do.
func (data *dataDir) damaged(err error) error {
	db := filepath.Join(data.dir, "berth.db")
	if data.diskFull(err) {
		return fmt.Errorf("the database %s cannot be opened because the disk is full: make some room and start again (%w)", db, err)
	}
	if data.readOnlyDisk {
		if _, e := os.Stat(db + "-wal"); e == nil {
			return fmt.Errorf("the database %s was not closed in order, and its disk is read-only: "+
				"start once with the disk writable, which puts it in order (%w)", db, err)
		}
	}
	if whose := data.othersFiles(); whose != "" {
		return errors.New(whose)
	}
	if !isDamage(err) {
		return fmt.Errorf("the database %s cannot be opened: %w; who may write in %s?", db, err, data.dir)
	}
	return fmt.Errorf("the database %s cannot be read: %w. Its blobs are untouched. What to do: %sput berth.db back from a backup "+
		"(without berth.db-wal and berth.db-shm) and start again", db, err, data.restoreHint())
}
