// Small blobs: one wait for the disk, not four.
//
// A blob's file is safe when the file is synced, and its directory, and the
// directory of that; only then may its row be committed, which is another wait.
// For a config of a KiB that is all there is to a push. So a small blob's bytes
// go into the database together with its row, in a commit that many writers
// share, and its file is written without waiting for it. A little later the
// files of many are synced at once, and the database forgets their bytes.
//
// If the machine dies in between, the next start writes those files again,
// before anything is served. So (1) in store.go holds whenever there is anybody
// to see it.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

const (
	// maxSmall is how many bytes a small blob has at most. To write them twice
	// costs less than to wait, up to about here.
	maxSmall = 64 << 10
	// maxUnsynced bounds the bytes that the database keeps of small blobs: while
	// there are so many, further ones go the way of large ones.
	maxUnsynced = 32 << 20
	// syncDelay is how long after the first of them files are synced, or as
	// soon as there are syncBytes.
	syncDelay = 2 * time.Second
	syncBytes = 4 << 20
	// syncRetry is how long after a failure it is tried again.
	syncRetry = time.Minute
)

// unsynced are the small blobs whose bytes the database still keeps.
type unsynced struct {
	count atomic.Int64  // of all that there ever were
	bytes atomic.Int64  // of those that came since files were last synced
	first chan struct{} // tells the syncer that there are some,
	many  chan struct{} // and that there are syncBytes
}

// admit reports whether a blob of n bytes may be one of them.
func (u *unsynced) admit(n int) bool {
	if u.bytes.Add(int64(n)) > maxUnsynced {
		u.bytes.Add(int64(-n))
		return false
	}
	return true
}

// wake tells the syncer what there is to do.
func (u *unsynced) wake() {
	notify(u.first)
	if u.bytes.Load() >= syncBytes {
		notify(u.many)
	}
}

// syncer syncs the files of small blobs, until ctx ends.
func (st *store) syncer(ctx context.Context) {
	if st.writer == nil {
		return
	}
	for {
		select {
		case <-st.unsynced.first:
		case <-ctx.Done():
			return
		}
		if st.unsynced.bytes.Load() < syncBytes {
			select { // what was said before the last time
			case <-st.unsynced.many:
			default:
			}
		}
		wait := syncDelay
		for wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-st.unsynced.many:
			case <-ctx.Done(): // close does the rest
				timer.Stop()
				return
			}
			timer.Stop()
			wait = 0
			if err := st.syncSmall(); err != nil {
				wait = syncRetry
				st.log.Error("the files of small blobs cannot be synced; the database keeps their bytes", "error", err, "retry", wait)
			}
		}
	}
}

// syncSmall syncs the files of the small blobs that there are, and drops their
// bytes from the database. A file was written before its row was committed, so
// whatever has a row now is synced now.
func (st *store) syncSmall() error {
	before := st.unsynced.bytes.Swap(0)
	err := st.eachUnsynced(func(rows []unsyncedRow) error {
		files := make([]string, len(rows))
		for i, x := range rows {
			files[i] = st.path(x.digest)
		}
		st.at("syncing")
		n, err := syncFiles(st.lock, files)
		st.fileSyncs.Add(int64(n))
		if err != nil {
			// What the kernel has of them cannot be trusted any more.
			st.log.Warn("the files of small blobs cannot be synced, and are written again", "error", err)
			err = st.writeAgain(rows)
		}
		return err
	})
	if err != nil {
		st.unsynced.bytes.Add(before)
	}
	return err
}

// recoverSmall runs at start: it writes the files that the last process had not
// synced for certain.
func (st *store) recoverSmall() error {
	if err := st.eachUnsynced(st.writeAgain); err != nil {
		return fmt.Errorf("writing small blobs again: %w", err)
	}
	return nil
}

// An unsyncedRow is a row of that table, without the bytes.
type unsyncedRow struct {
	blob   int64 // its id, which may come to be another blob's
	n      int64 // which may not, in the life of a process
	digest digest.Digest
}

func scanUnsynced(rows *sql.Rows) (x unsyncedRow, err error) {
	err = rows.Scan(&x.blob, &x.n, &x.digest)
	return x, err
}

// eachUnsynced calls fn with the rows that there are, some at a time, and drops
// those for which it returns nil. That need not be durable.
func (st *store) eachUnsynced(fn func([]unsyncedRow) error) error {
	const atOnce = 1000
	var end int64 // those that come meanwhile are for the next time
	if err := st.get(`SELECT coalesce(max(blob), 0) FROM unsynced`, nil, &end); err != nil {
		return err
	}
	for last := int64(0); ; {
		rows, err := column(st, scanUnsynced, `SELECT u.blob, u.n, b.digest FROM unsynced u JOIN blob b ON b.id = u.blob
			WHERE u.blob > ? AND u.blob <= ? ORDER BY u.blob LIMIT ?`, last, end, atOnce)
		if err != nil || len(rows) == 0 {
			return err
		}
		if err := fn(rows); err != nil {
			return err
		}
		err = st.updateLazy(func(t *tx) error {
			for _, x := range rows {
				if _, err := t.exec(`DELETE FROM unsynced WHERE blob = ? AND n = ?`, x.blob, x.n); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		last = rows[len(rows)-1].blob
	}
}

// writeAgain makes new files of the bytes that the database has, and syncs them.
func (st *store) writeAgain(rows []unsyncedRow) error {
	var files []string
	for _, x := range rows {
		written, err := st.writeOneAgain(x)
		if err != nil {
			return err
		}
		if written {
			files = append(files, st.path(x.digest))
		}
	}
	n, err := syncFiles(st.lock, files)
	st.fileSyncs.Add(int64(n))
	return err
}

func (st *store) writeOneAgain(x unsyncedRow) (written bool, err error) {
	unlock := st.digests.lock(x.digest.String())
	defer unlock()
	var body []byte
	err = st.get(`SELECT u.body FROM unsynced u JOIN blob b ON b.id = u.blob AND b.damaged IS NULL WHERE u.blob = ? AND u.n = ?`,
		[]any{x.blob, x.n}, &body)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil // collected, or put aside
	}
	if err != nil {
		return false, err
	}
	path := st.path(x.digest)
	if sum := x.digest.Algorithm().FromBytes(body); sum != x.digest {
		st.log.Error("the database has damaged a small blob; its file counts", "digest", x.digest)
		st.suspect(x.digest)
		return true, nil
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	id := uuid.NewString() // as a session that has no row
	st.sessions.brief.Store(id, true)
	defer st.sessions.brief.Delete(id)
	temp := filepath.Join(st.dir, "uploads", id)
	defer os.Remove(temp)
	if err := os.WriteFile(temp, body, 0o600); err != nil {
		return false, err
	}
	return true, os.Rename(temp, path)
}

// syncFiles syncs files of blobs, their directories and the directories of
// those. What has gone meanwhile does not matter. on is a file of the same file
// system, open since before they were written. It returns how many syncs it took.
func syncFiles(on *os.File, files []string) (n int, err error) {
	if len(files) == 0 {
		return 0, nil
	}
	if done, err := syncFileSystem(on); done {
		return 1, err
	}
	dirs := make(map[string]bool)
	for _, file := range files {
		err := syncPath(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return n, err
		}
		n++
		dirs[filepath.Dir(file)], dirs[filepath.Dir(filepath.Dir(file))] = true, true
	}
	for dir := range dirs {
		if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, err
		}
		n++
	}
	return n, nil
}

func syncPath(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(syncData(f), f.Close())
}
