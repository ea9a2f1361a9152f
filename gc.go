// What nothing refers to, and its removal; sessions that were abandoned.
//
// There is no marking pass, no pause and no read-only mode. The transaction
// that takes the last reference away notes since when a row is loose (6 in
// store.go), so the janitor looks only at what may be garbage, in short
// transactions, when the oldest is due:
//
//	session idle for the expiry   → row, then file
//	manifest loose for its grace  → row; what it referred to becomes loose
//	link loose for its grace      → row; with the last link the blob's row,
//	                                and a trash row in the same transaction
//	trash                         → under the digest's lock: if the blob's row
//	                                is back, only the trash row goes; else the
//	                                file, then the trash row
//
// Why no push can lose a blob to it: SQLite serialises the transactions. Either
// the collector sees the manifest's reference and leaves the link, or the
// manifest's push finds no link and is told MANIFEST_BLOB_UNKNOWN. A file goes
// only under its lock and without a row, and a row comes back only after a
// fresh file came to its place under the same lock.
//
// Grace is counted in uptime: a clock that jumps expires nothing, and a
// registry that is off ages nothing. With nothing loose and no session open
// the janitor sleeps until a request wakes it.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

// atOnce bounds the rows a collecting transaction removes, so that no
// push waits long for it.
const atOnce = 50

// janitor removes what is due until ctx ends.
func (st *store) janitor(ctx context.Context) {
	if st.writer == nil {
		return
	}
	retry := time.Duration(0)
	for ctx.Err() == nil {
		next, err := st.collectDue(ctx)
		if err != nil {
			// Whatever it is (a full disk, say), it will not pass at once.
			retry = min(max(2*retry, time.Minute), time.Hour)
			next = retry
			st.log.Error("collecting garbage", "error", err, "retry", retry)
		} else {
			retry = 0
		}
		st.sleep(ctx, next, retry > 0)
	}
}

// sleep waits for next (negative: for ever), or until something was added that
// is due before that; stubborn ignores additions.
func (st *store) sleep(ctx context.Context, next time.Duration, stubborn bool) {
	var timer <-chan time.Time
	if next >= 0 {
		t := time.NewTimer(next)
		defer t.Stop()
		timer = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer:
			return
		case <-st.trashed:
			if !stubborn {
				return
			}
		case <-st.wake:
			// What has just become loose has all its grace before it.
			if !stubborn && (next < 0 || st.shortestGrace() < next) {
				return
			}
		}
	}
}

func (st *store) shortestGrace() time.Duration {
	shortest := min(st.grace, st.uploadExpiry)
	if st.untaggedGrace > 0 {
		shortest = min(shortest, st.untaggedGrace)
	}
	return shortest
}

// collectDue removes all that is due now, and returns how long to wait for the
// next; negative if nothing is loose.
func (st *store) collectDue(ctx context.Context) (next time.Duration, err error) {
	for ctx.Err() == nil {
		n := 0
		var errs []error // one that cannot be removed must not keep the others
		for _, step := range []func() (int, error){st.expireUploads, st.collectManifests, st.collectLinks, st.emptyTrash} {
			removed, err := step()
			errs = append(errs, err)
			n += removed
		}
		if err := errors.Join(errs...); err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
	}
	return st.untilDue()
}

// cutoff is the uptime before which what is loose is due, in seconds.
func (st *store) cutoff(grace time.Duration) int64 {
	return int64((st.uptime() - grace) / time.Second)
}

// untilDue returns how long it is until something is due; negative if nothing
// is loose.
func (st *store) untilDue() (time.Duration, error) {
	next := time.Duration(-1)
	for _, q := range []struct {
		query string
		grace time.Duration
		keep  bool
	}{
		{`SELECT min(used) FROM upload`, st.uploadExpiry, false},
		{`SELECT min(loose) FROM link WHERE loose IS NOT NULL`, st.grace, false},
		{`SELECT min(loose) FROM manifest WHERE loose IS NOT NULL`, st.untaggedGrace, st.untaggedGrace == 0},
	} {
		var since sql.NullInt64
		if err := st.get(q.query, nil, &since); err != nil {
			return 0, fmt.Errorf("looking for what is due: %w", err)
		}
		if !since.Valid || q.keep {
			continue
		}
		due := max(0, time.Duration(since.Int64+1)*time.Second+q.grace-st.uptime())
		if next < 0 || due < next {
			next = due
		}
	}
	return next, nil
}

// expireUploads ends sessions that were idle for the expiry.
func (st *store) expireUploads() (int, error) {
	s, err := st.read(`SELECT id, repository FROM upload WHERE used < ? ORDER BY used LIMIT ?`)
	if err != nil {
		return 0, err
	}
	rows, err := s.Query(st.cutoff(st.uploadExpiry), atOnce)
	if err != nil {
		return 0, err
	}
	type session struct{ id, repository string }
	due, err := collect(rows, func(rows *sql.Rows) (x session, err error) {
		err = rows.Scan(&x.id, &x.repository)
		return x, err
	})
	if err != nil {
		return 0, err
	}
	for _, x := range due {
		u, err := st.findUpload(x.repository, x.id)
		if errors.Is(err, errBlobUploadUnknown) {
			continue // ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		select {
		case u.turn <- struct{}{}:
		default:
			// A request has been at work on it all the time.
			if err := st.touchUpload(u); err != nil {
				return 0, err
			}
			continue
		}
		expired := false
		if !u.ended {
			expired, err = st.expireUpload(u)
		}
		<-u.turn
		if err != nil {
			return 0, err
		}
		if !expired {
			continue // used again, or ended, meanwhile
		}
		st.log.Info("upload expired", "repository", x.repository, "upload", x.id)
	}
	return len(due), nil
}

// expireUpload ends a session if it is still idle. The caller holds the turn.
func (st *store) expireUpload(u *upload) (expired bool, err error) {
	cutoff := st.cutoff(st.uploadExpiry)
	err = st.updateLazy(func(t *tx) error {
		n, err := t.exec(`DELETE FROM upload WHERE id = ? AND used < ?`, u.id, cutoff)
		expired = n > 0
		return err
	})
	if err == nil && expired {
		st.dropFile(u)
		st.forget(u)
	}
	return expired, err
}

// touchUpload starts a session's expiry anew.
func (st *store) touchUpload(u *upload) error {
	return st.updateLazy(func(t *tx) error {
		_, err := t.exec(`UPDATE upload SET used = ? WHERE id = ?`, t.clock, u.id)
		return err
	})
}

// collectManifests removes a batch of manifests that were loose for the grace.
func (st *store) collectManifests() (n int, err error) {
	if st.untaggedGrace == 0 {
		return 0, nil
	}
	type row struct {
		id, repo   int64
		digest     digest.Digest
		repository string
	}
	var due []row
	n, err = st.collectLoose(`SELECT min(loose) FROM manifest WHERE loose < ?`, st.untaggedGrace, func(t *tx, cutoff int64) (int, error) {
		due, err = list(t, func(rows *sql.Rows) (x row, err error) {
			err = rows.Scan(&x.id, &x.repo, &x.digest, &x.repository)
			return x, err
		}, `SELECT m.id, m.repository, m.digest, r.name FROM manifest m JOIN repository r ON r.id = m.repository
			WHERE m.loose < ? ORDER BY m.loose LIMIT ?`, cutoff, atOnce)
		if err != nil {
			return 0, err
		}
		for _, x := range due {
			live, err := t.live(`SELECT `+manifestLive+` FROM manifest WHERE id = ?`, x.id)
			if err != nil {
				return 0, err
			}
			if live { // (6) says never; to be sure costs nothing
				err = t.settleManifest(x.repo, x.digest)
			} else {
				err = t.removeManifest(x.repo, x.id, x.digest)
			}
			if err != nil {
				return 0, err
			}
			if err := t.dropRepository(x.repo); err != nil {
				return 0, err
			}
		}
		return len(due), nil
	})
	if err != nil {
		return 0, err
	}
	for _, x := range due {
		st.log.Info("untagged manifest collected", "repository", x.repository, "digest", x.digest)
	}
	return n, nil
}

// collectLinks removes a batch of links that were loose for the grace, and the
// rows of blobs that have no other.
func (st *store) collectLinks() (n int, err error) {
	type row struct {
		repo, blob int64
		digest     digest.Digest
	}
	return st.collectLoose(`SELECT min(loose) FROM link WHERE loose < ?`, st.grace, func(t *tx, cutoff int64) (int, error) {
		due, err := list(t, func(rows *sql.Rows) (x row, err error) {
			err = rows.Scan(&x.repo, &x.blob, &x.digest)
			return x, err
		}, `SELECT l.repository, l.blob, b.digest FROM link l JOIN blob b ON b.id = l.blob
			WHERE l.loose < ? ORDER BY l.loose LIMIT ?`, cutoff, atOnce)
		if err != nil {
			return 0, err
		}
		for _, x := range due {
			live, err := t.live(`SELECT `+linkLive+` FROM link WHERE repository = ? AND blob = ?`, x.repo, x.blob)
			if err != nil {
				return 0, err
			}
			if live { // likewise
				err = t.settleLink(x.repo, x.blob)
			} else {
				err = t.unlinkBlob(x.repo, x.blob, x.digest)
			}
			if err != nil {
				return 0, err
			}
			if err := t.dropRepository(x.repo); err != nil {
				return 0, err
			}
		}
		return len(due), nil
	})
}

// collectLoose runs collect in a write transaction if the query finds that
// something is due.
func (st *store) collectLoose(query string, grace time.Duration, collect func(t *tx, cutoff int64) (int, error)) (n int, err error) {
	cutoff := st.cutoff(grace)
	var oldest sql.NullInt64
	if err := st.get(query, []any{cutoff}, &oldest); err != nil || !oldest.Valid {
		return 0, err
	}
	st.at("collecting")
	err = st.update(func(t *tx) error {
		n, err = collect(t, cutoff)
		return err
	})
	return n, err
}

func (t *tx) live(query string, key ...any) (bool, error) {
	var live bool
	err := t.get(query, key, &live)
	return live, err
}

// emptyTrash removes the files of all blobs whose row is gone.
func (st *store) emptyTrash() (n int, err error) {
	s, err := st.read(`SELECT digest FROM trash WHERE digest > ? ORDER BY digest LIMIT ?`)
	if err != nil {
		return 0, err
	}
	var errs []error
	for last := digest.Digest(""); ; {
		rows, err := s.Query(last, atOnce)
		if err != nil {
			return n, err
		}
		due, err := collect(rows, scanOne[digest.Digest])
		if err != nil {
			return n, err
		}
		for _, d := range due {
			last = d
			if err := st.unlink(d); err != nil {
				errs = append(errs, fmt.Errorf("removing the file of %s: %w", d, err))
			} else {
				n++
			}
		}
		if len(due) < atOnce {
			return n, errors.Join(errs...)
		}
	}
}

// unlink removes a blob's file, unless its row has come back, and drops the
// trash row (2).
func (st *store) unlink(d digest.Digest) error {
	unlock := st.digests.lock(d.String())
	defer unlock()
	removed := !st.hasBlob(d)
	if removed {
		dir := filepath.Dir(st.path(d))
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		st.at("unlinked")
		// The file must not come back after the trash row has gone.
		st.fileSyncs.Add(1)
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return err
		}
		st.log.Info("blob removed", "digest", d)
	}
	return st.updateLazy(func(t *tx) error {
		// The row may have come back and gone again since we looked; then its
		// file is still to be removed.
		_, err := t.exec(`DELETE FROM trash WHERE digest = ?1
			AND (?2 OR EXISTS (SELECT 1 FROM blob WHERE digest = ?1))`, d, removed)
		return err
	})
}
