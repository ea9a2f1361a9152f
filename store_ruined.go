// Ruin: the database was damaged, or the data directory removed, while Berth has it open.
//
// Files that are open still answer, and so do the parts of a database that are whole. So the first error that shows
// what has happened is said, once by the log, with what to do; from then on the registry is not ready. Going back to
// a copy needs another start, so it does not end.

package main

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
)

// A ruin is what is known of it.
type ruin struct {
	store *store
	found atomic.Pointer[error] // what has shown that the database is damaged, and what to do; nil for nothing so far
	gone  atomic.Bool           // the log has said that the directory or the database is gone
}

// explain adds to an error of a database that was damaged since it was opened what to do. Any other error it
// returns as it is.
func (r *ruin) explain(err error) error {
	if !isRuined(err) {
		return err
	}
	return r.by(err)
}

// by says what to do about a database that is damaged, as err shows. The first time it has the log say so.
func (r *ruin) by(err error) error {
	st, stop := r.store, ""
	if st.host != nil && st.host.serves() {
		stop = "stop the server, then "
	}
	err = fmt.Errorf("the database %s is damaged: %w. Its blobs are untouched. What to do: %s%sput berth.db back from a backup "+
		"(without berth.db-wal and berth.db-shm) and start again", filepath.Join(st.dir, "berth.db"), err, stop, st.restoreHint())
	if r.found.CompareAndSwap(nil, &err) {
		st.log.Error("the database is damaged; it was overwritten, or the disk fails", "error", err)
	}
	return err
}

// known is what by has said first; nil if no damage of the database is known.
func (r *ruin) known() error {
	if err := r.found.Load(); err != nil {
		return *err
	}
	return nil
}

// missing says that the directory or the database in it is gone, "" if it is not, and has the log say so once.
func (r *ruin) missing() string {
	what := r.store.gone()
	if what != "" && r.gone.CompareAndSwap(false, true) {
		r.store.log.Error(what + " has been removed or replaced while Berth serves it: stop Berth and restore a backup")
	}
	return what
}
