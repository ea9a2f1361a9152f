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
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

const (
	// maxSmall is how many bytes a small blob has at most. To write them to the
	// log and the database too costs less than to wait, up to about here.
	maxSmall = 64 << 10
	// syncDelay is how long after the first of them files are synced, or as
	// soon as there are syncBytes.
	syncDelay = 2 * time.Second
	syncBytes = 4 << 20
	// syncRetry is how long after a failure it is tried again.
	syncRetry = time.Minute
)

// smallBlobs are those whose bytes are in the database until their files are synced.
type smallBlobs struct {
	*store
	unsynced
}

// takeRoom reserves room for the bytes of a small blob, of which the database keeps
// so many. It reports whether there is some.
func (sm *smallBlobs) takeRoom(n int64) bool {
	if sm.bytes.Add(n) > int64(sm.budget.unsynced) {
		sm.bytes.Add(-n)
		return false
	}
	return true
}

// run syncs the files of small blobs, until ctx ends.
func (sm *smallBlobs) run(ctx context.Context) {
	if sm.writer == nil {
		return
	}
	for {
		select {
		case <-sm.first:
		case <-ctx.Done():
			return
		}
		many := sm.many
		if sm.bytes.Load() < syncBytes {
			select { // what was said before the last time
			case <-many:
			default:
			}
		}
		for wait := syncDelay; wait > 0; {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-many:
			case <-ctx.Done(): // close does the rest
				timer.Stop()
				return
			}
			timer.Stop()
			wait = 0
			if err := sm.sync(); err != nil {
				wait, many = syncRetry, nil
				sm.log.Error("the files of small blobs cannot be synced; the database keeps their bytes", "error", err, "retry", wait)
			}
		}
	}
}

// sync syncs the files of the small blobs that there are, and drops their
// bytes from the database. A file was written before its row was committed, so
// whatever has a row now is synced now.
func (sm *smallBlobs) sync() error {
	u := &sm.unsynced
	u.mu.Lock()
	defer u.mu.Unlock()
	before := u.bytes.Swap(0)
	err := sm.eachUnsynced(func(rows []unsyncedRow) error {
		if slices.ContainsFunc(rows, func(x unsyncedRow) bool { return x.n <= u.doubt || x.damaged }) {
			return sm.writeAgain(rows)
		}
		sm.at("syncing")
		err := sm.syncRows(rows)
		if err != nil {
			sm.log.Warn("the files of small blobs cannot be synced, and are written again", "error", err)
			err = sm.writeAgain(rows)
		}
		return err
	})
	if err != nil {
		u.bytes.Add(before)
	}
	return err
}

// recover runs at start: it writes the files that the last process had not
// synced for certain. Those that the disk has no room for now, or that are wrong on
// a read-only disk, are not there for anybody.
func (sm *smallBlobs) recover() error {
	u := &sm.unsynced
	u.mu.Lock()
	defer u.mu.Unlock()
	var last int64
	if err := sm.get(`SELECT coalesce(max(n), 0) FROM unsynced`, nil, &last); err != nil || last == 0 {
		return err
	}
	u.count.Store(last)
	u.doubt = last
	err := sm.eachUnsynced(sm.writeAgain)
	if sm.writer != nil && !isNoSpace(err) {
		return err
	}
	// What is there now is served if it is right, though it may not be synced.
	rows, err := listRows(sm, scanUnsynced, `SELECT u.blob, u.n, b.digest, b.damaged IS NOT NULL FROM unsynced u JOIN blob b ON b.id = u.blob`)
	if err != nil {
		return err
	}
	for _, x := range rows {
		if verifyFile(sm.path(x.digest), x.digest) != nil {
			u.lose(x.digest)
			sm.log.Error("a small blob cannot be written to the disk, which is full or read-only; the database keeps it", "digest", x.digest)
		}
	}
	u.wake()
	return nil
}

// An unsyncedRow is a row of that table, without the bytes.
type unsyncedRow struct {
	blob    int64 // its id, which may come to be another blob's
	n       int64 // which may not
	digest  digest.Digest
	damaged bool // the file was found not to be what it should be
	written bool // it has been written again
}

func scanUnsynced(rows *sql.Rows) (x unsyncedRow, err error) {
	err = rows.Scan(&x.blob, &x.n, &x.digest, &x.damaged)
	return x, err
}

// eachUnsynced calls fn with the rows that there are, some at a time, and drops
// those for which it returns nil. That need not be durable.
func (sm *smallBlobs) eachUnsynced(fn func([]unsyncedRow) error) error {
	if sm.writer == nil {
		return nil
	}
	const atOnce = 1000
	var end int64 // those that come meanwhile are for the next time
	if err := sm.get(`SELECT coalesce(max(blob), 0) FROM unsynced`, nil, &end); err != nil {
		return err
	}
	for last := int64(0); ; {
		rows, err := listRows(sm, scanUnsynced, `SELECT u.blob, u.n, b.digest, b.damaged IS NOT NULL FROM unsynced u JOIN blob b ON b.id = u.blob
			WHERE u.blob > ? AND u.blob <= ? ORDER BY u.blob LIMIT ?`, last, end, atOnce)
		if err != nil || len(rows) == 0 {
			return err
		}
		if err := fn(rows); err != nil {
			return err
		}
		err = sm.updateLazy(func(t *tx) error {
			for _, x := range rows {
				if x.written { // and synced
					if _, err := t.exec(`UPDATE blob SET damaged = NULL WHERE id = ?1 AND damaged IS NOT NULL
						AND EXISTS (SELECT 1 FROM unsynced WHERE blob = ?1 AND n = ?2)`, x.blob, x.n); err != nil {
						return err
					}
				}
				if _, err := t.exec(`DELETE FROM unsynced WHERE blob = ? AND n = ?`, x.blob, x.n); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, x := range rows {
			sm.find(x.digest)
		}
		last = rows[len(rows)-1].blob
	}
}

// unsyncedBody returns the bytes that the database has of a small blob;
// sql.ErrNoRows if it was collected.
func (sm *smallBlobs) unsyncedBody(x unsyncedRow) (body []byte, err error) {
	err = sm.get(`SELECT body FROM unsynced WHERE blob = ? AND n = ?`, []any{x.blob, x.n}, &body)
	return body, err
}

// writeAgain makes new files of the bytes that the database has, and syncs them.
// The caller holds unsynced.mu.
func (sm *smallBlobs) writeAgain(rows []unsyncedRow) error {
	for i := range rows {
		x := &rows[i]
		body, err := sm.unsyncedBody(*x)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		if sum := x.digest.Algorithm().FromBytes(body); sum != x.digest {
			sm.log.Error("the database's copy of a small blob is damaged; the file is used instead", "digest", x.digest)
			if _, err := sm.quarantine(x.digest); err != nil {
				return err
			}
			continue
		}
		if err := sm.writeFileAgain(x.digest, body); err != nil {
			return err
		}
		x.written = true
	}
	return sm.syncRows(rows)
}

func (sm *smallBlobs) writeFileAgain(d digest.Digest, body []byte) error {
	unlock := sm.digests.lock(d.String())
	defer unlock()
	if has, err := sm.hasBlob(d); err != nil || !has {
		return err // nil if it was collected meanwhile
	}
	path := sm.path(d)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	id := uuid.NewString() // as a session that has no row
	sm.uploads.brief.Store(id, true)
	defer sm.uploads.brief.Delete(id)
	temp := filepath.Join(sm.arrivals, "uploads", id)
	defer os.Remove(temp)
	err := os.WriteFile(temp, body, 0o600)
	if isNoSpace(err) && !sm.apart() && sm.spare() {
		err = os.WriteFile(temp, body, 0o600)
	}
	if err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// syncRows syncs the files of small blobs, with their directories and those of
// these; what has gone meanwhile does not matter. After an error nothing that is
// written now, or about to have a row, can be trusted: the kernel tells once. The
// caller holds unsynced.mu.
func (sm *smallBlobs) syncRows(rows []unsyncedRow) (err error) {
	defer func() {
		if err != nil {
			sm.doubt = sm.count.Load()
		}
	}()
	shards := make(map[string]bool)
	for _, x := range rows {
		shards[sm.shardDir(x.digest)] = true
	}
	if done, err := sm.syncDisk(sm.lock, shards); done {
		sm.fileSyncs.Add(1)
		return err
	}
	for _, x := range rows {
		if err := sm.syncRow(x); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	for dir := range shards {
		if err := sm.syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// syncRow is syncRows for one file, by itself. The kernel may have forgotten that it
// could not write it, but then it has forgotten the bytes as well.
func (sm *smallBlobs) syncRow(x unsyncedRow) error {
	path := sm.path(x.digest)
	failed := errors.Join(sm.syncPath(path), sm.syncDir(filepath.Dir(path)))
	body, err := sm.unsyncedBody(x)
	if err = cmp.Or(err, failed); err != nil {
		return err // if it was collected, that it is not there is no wonder
	}
	if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, body) {
		return fmt.Errorf("the file of %s is not what was written: %w", x.digest, cmp.Or(err, errDamaged))
	}
	return nil
}
