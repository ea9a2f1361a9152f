// What an error of SQLite means: damage, a failing disk, or no room.

package main

import (
	"errors"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// breaksTransaction reports whether err is one of those on which SQLite may
// have rolled the whole transaction back by itself.
func breaksTransaction(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY,
		sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN:
		return true
	}
	return false
}

// isIOError reports whether SQLite says that the disk failed it.
func isIOError(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_IOERR
}

// isDamage reports whether err says that a database is not whole, as opposed to
// that it cannot be looked at.
func isDamage(err error) bool {
	var e *sqlite.Error
	return errors.Is(err, errDamaged) || isCorrupt(err) || isIOError(err) ||
		errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_NOTADB || e.Code()&0xff == sqlite3.SQLITE_ERROR)
}

// isCorrupt reports whether SQLite has read what it could not have written.
func isCorrupt(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_CORRUPT
}

// isRuined reports whether SQLite says that the database is not what it wrote, so that only
// going back to a copy helps.
func isRuined(err error) bool {
	var e *sqlite.Error
	return isCorrupt(err) || errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_NOTADB
}

// isNoSpace reports whether err says that the disk is full, in the words of
// the system or of SQLite.
func isNoSpace(err error) bool {
	var e *sqlite.Error
	return isDiskFull(err) || errors.Is(err, errNoSpace) || errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_FULL
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
