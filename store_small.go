// Small blobs: bytes in the database until their files are synced.
//
// The sync of a file costs what the journal of a file system writes for it, for its
// directory, and for the directory of that. For a config of a KiB that is most of
// a push. So a small blob's bytes go into the database together with its row, in a
// commit that many writers share, and its file is written without waiting for it. A
// little later the files of many are synced at once, and the database forgets their bytes.
//
// If the machine dies in between, the next start writes those files again,
// before anything is served. So (1) in store.go holds whenever there is anybody
// to see it. store_unsynced.go has what becomes of larger blobs.

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
	// log and the database too costs less than the journal of a file system writes
	// for the sync of a file, up to about here.
	maxSmall = 16 << 10
	// maxHeldSize is the size of the bodies that are held in memory until there is
	// a file for them under its final name.
	maxHeldSize = 64 << 10
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

// sync syncs the files of all blobs that have rows now, and drops those rows. A file was
// written before its row was committed, so whatever has a row now is synced now.
func (sm *smallBlobs) sync() error {
	u := &sm.unsynced
	u.mu.Lock()
	defer u.mu.Unlock()
	before := u.bytes.Swap(0)
	err := sm.eachUnsynced(func(rows []unsyncedRow) error {
		var copies, files []*unsyncedRow
		for i := range rows {
			if rows[i].kept {
				copies = append(copies, &rows[i])
			} else {
				files = append(files, &rows[i])
			}
		}
		return errors.Join(sm.syncCopies(copies), sm.settle(files))
	})
	if err != nil {
		u.bytes.Add(before)
	}
	return err
}

// syncCopies syncs the files of which the database has copies. The caller holds unsynced.mu.
func (sm *smallBlobs) syncCopies(rows []*unsyncedRow) error {
	if len(rows) == 0 {
		return nil
	}
	if slices.ContainsFunc(rows, func(x *unsyncedRow) bool { return x.n <= sm.doubt || x.damaged }) {
		return sm.writeAgain(rows)
	}
	sm.at("syncing")
	err := sm.syncRows(rows)
	if err != nil {
		sm.log.Warn("the files of small blobs cannot be synced, and are written again", "error", err)
		err = sm.writeAgain(rows)
	}
	return err
}

// readAtStart is how many bytes of blobs a start reads before it serves. Blobs beyond that are not there
// for anybody until they have been read.
const readAtStart = 64 << 20

// recover runs at start: it writes the files that the last process had not
// synced for certain, and takes back what it cannot write. Those that the disk has no room
// for now, or that are wrong on a read-only disk, are not there for anybody.
func (sm *smallBlobs) recover() error {
	u := &sm.unsynced
	u.mu.Lock()
	defer u.mu.Unlock()
	var last int64
	if err := sm.get(`SELECT coalesce(max(n), 0) FROM unsynced`, nil, &last); err != nil || last == 0 {
		return err
	}
	u.count.Store(last)
	u.doubt, u.older = last, last
	left := int64(readAtStart)
	err := sm.eachUnsynced(func(rows []unsyncedRow) error {
		var copies, files []*unsyncedRow
		for i := range rows {
			x := &rows[i]
			switch {
			case x.kept:
				copies = append(copies, x)
			case x.used || x.damaged:
				files = append(files, x)
			case x.size > left:
				x.stays = true
				u.lose(x.digest, false)
			default:
				left -= x.size
				files = append(files, x)
			}
		}
		return errors.Join(sm.writeAgain(copies), sm.settle(files))
	})
	if sm.writer != nil && !isNoSpace(err) {
		u.wake()
		return err
	}
	// What is there now is served if it is right, though it may not be synced.
	rows, err := listRows(sm, scanUnsynced, unsyncedRows)
	if err != nil {
		return err
	}
	for _, x := range rows {
		if x.used {
			continue
		}
		if left -= x.size; left < 0 || verifyFile(sm.path(x.digest), x.digest) != nil {
			u.lose(x.digest, x.kept)
			sm.log.Error("a blob cannot be written to the disk, which is full or read-only, and is not there until it can", "digest", x.digest)
		}
	}
	u.wake()
	return nil
}

// settle has those files synced of which the database has no copies, and takes back the blobs whose
// files could not be, or are not what they should be after an earlier process has ended. The caller holds
// unsynced.mu.
func (sm *smallBlobs) settle(rows []*unsyncedRow) error {
	var digests []digest.Digest
	for _, x := range rows {
		digests = append(digests, x.digest)
	}
	sm.await(sm.unsyncedOf(digests...)) // what cannot be synced is lost from now on
	var right []*unsyncedFile
	var errs []error
	for _, x := range rows {
		var err error
		switch {
		case x.damaged:
		case x.n <= sm.older && x.used: // as the head of store_unsynced.go says
		case x.n <= sm.older && verifyFile(sm.path(x.digest), x.digest) == nil:
			right = append(right, &unsyncedFile{digest: x.digest, done: make(chan struct{})})
		case x.n <= sm.older:
			err = sm.takeBack(x, func() bool { return verifyFile(sm.path(x.digest), x.digest) == nil })
		case sm.lacksBytes(x.digest):
			err = sm.takeBack(x, func() bool { return !sm.lacksBytes(x.digest) })
		}
		x.stays = err != nil
		errs = append(errs, err)
	}
	return errors.Join(append(errs, sm.await(right))...)
}

// takeBack is withdraw unless the blob was pushed again since it was found lost, which sound tells.
func (sm *smallBlobs) takeBack(x *unsyncedRow, sound func() bool) error {
	unlock := sm.digests.lock(x.digest.String())
	defer unlock()
	if sound() {
		return nil
	}
	if !sm.hasShard(x.digest) {
		sm.lose(x.digest, false)
		return fmt.Errorf("the directory of %s is missing: is a disk not mounted?", x.digest)
	}
	return sm.withdraw(x.digest)
}

// withdraw takes back a blob that nobody was told is safe, as if it had never been pushed. If that cannot
// be recorded, the blob is not there for anybody, and the syncer tries again. The caller holds the digest's
// lock.
func (sm *smallBlobs) withdraw(d digest.Digest) error {
	sm.lose(d, false)
	err := sm.updateLazy(func(t *tx) error {
		links, err := listRows(t, scanPair, `SELECT l.repository, l.blob FROM blob b JOIN unsynced u ON u.blob = b.id AND u.body IS NULL
			JOIN link l ON l.blob = b.id WHERE b.digest = ?`, d)
		if err != nil {
			return err
		}
		for _, x := range links {
			if _, err := t.unlinkBlob(x[0], x[1], d); err != nil {
				return err
			}
			if err := t.dropRepository(x[0]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("taking back %s: %w", d, err)
	}
	sm.log.Error("a blob did not reach the disk before its image was complete; push it again", "digest", d)
	sm.find(d)
	notify(sm.collector.trashed)
	return nil
}

func scanPair(rows *sql.Rows) (x [2]int64, err error) {
	err = rows.Scan(&x[0], &x[1])
	return x, err
}

// An unsyncedRow is a row of that table, without the bytes.
type unsyncedRow struct {
	blob    int64 // its id, which may come to be another blob's
	n       int64 // which may not
	digest  digest.Digest
	size    int64
	damaged bool // the file was found not to be what it should be
	kept    bool // the database has a copy
	used    bool // by a manifest, and the database has no copy
	written bool // it has been written again
	stays   bool // the row is still needed
}

const unsyncedRows = `SELECT u.blob, u.n, b.digest, b.size, b.damaged IS NOT NULL, u.body IS NOT NULL,
	u.body IS NULL AND EXISTS (SELECT 1 FROM link l JOIN uses s ON s.repository = l.repository AND s.blob = l.blob WHERE l.blob = u.blob)
	FROM unsynced u JOIN blob b ON b.id = u.blob`

func scanUnsynced(rows *sql.Rows) (x unsyncedRow, err error) {
	err = rows.Scan(&x.blob, &x.n, &x.digest, &x.size, &x.damaged, &x.kept, &x.used)
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
		rows, err := listRows(sm, scanUnsynced, unsyncedRows+` WHERE u.blob > ? AND u.blob <= ? ORDER BY u.blob LIMIT ?`, last, end, atOnce)
		if err != nil || len(rows) == 0 {
			return err
		}
		if err := fn(rows); err != nil {
			return err
		}
		err = sm.updateLazy(func(t *tx) error {
			for _, x := range rows {
				if x.stays {
					continue
				}
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
			if !x.stays {
				sm.find(x.digest)
			}
		}
		last = rows[len(rows)-1].blob
	}
}

// unsyncedBody returns the bytes that the database has of a small blob;
// sql.ErrNoRows if it was collected.
func (sm *smallBlobs) unsyncedBody(x *unsyncedRow) (body []byte, err error) {
	err = sm.get(`SELECT body FROM unsynced WHERE blob = ? AND n = ?`, []any{x.blob, x.n}, &body)
	return body, err
}

// writeAgain makes new files of the bytes that the database has, and syncs them.
// The caller holds unsynced.mu.
func (sm *smallBlobs) writeAgain(rows []*unsyncedRow) error {
	if len(rows) == 0 {
		return nil
	}
	for _, x := range rows {
		body, err := sm.unsyncedBody(x)
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
func (sm *smallBlobs) syncRows(rows []*unsyncedRow) (err error) {
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
func (sm *smallBlobs) syncRow(x *unsyncedRow) error {
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
