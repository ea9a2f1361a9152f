// What nothing refers to, and its removal; sessions that were abandoned.
//
// There is no marking pass, no pause and no read-only mode. The transaction
// that takes the last reference away notes since when a row is loose (6 in
// store.go), so the janitor looks only at what may be garbage, in short
// transactions, when the oldest is due:
//
//	session idle for the expiry   → row, then file
//	manifest loose for its grace  → row; what it referred to becomes loose
//	repository deleted, likewise  → its manifests, then the same
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
// the janitor sleeps until a request wakes it, or until it is a year since something
// was done (history.go).
//
// A push under way keeps its layers even without any grace: gc_promises.go.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// A collector removes what nothing refers to from its store.
type collector struct {
	*store
	wake       chan struct{} // tells run that something became loose
	trashed    chan struct{} // tells it that a file is to be removed
	ownersGone atomic.Bool   // users or rules have changed: there may be uploads of owners who are no more
	ownersSure atomic.Int64  // uptime, in nanoseconds, from which on what the users' file said last is taken for true
	removal    sync.RWMutex  // held for writing while files of blobs go, for reading by backups
	sure       certainty

	collectedBlobs, collectedBytes atomic.Int64 // since the start, for the metrics
	outcome                        outcome
}

// run removes what is due until ctx ends.
func (gc *collector) run(ctx context.Context) {
	if gc.writer == nil {
		return
	}
	retry := time.Duration(0)
	for ctx.Err() == nil {
		next, err := gc.collectDue(ctx)
		if ctx.Err() == nil && !gc.readOnly {
			gc.outcome.note(err)
		}
		if e := gc.keepReserve(); e != nil {
			gc.log.Warn("the reserve for a full disk cannot be kept", "error", e)
		}
		if err != nil {
			// Whatever it is (a full disk, say), it will not pass at once.
			retry = min(max(2*retry, time.Minute), time.Hour)
			next = retry
			gc.log.Error("collecting garbage", "error", err, "retry", retry)
		} else {
			retry = 0
		}
		gc.sleep(ctx, next, retry > 0)
	}
}

// sleep waits for next (negative: for ever), or until what was added meanwhile may be
// due before that; stubborn ignores additions. A push looks for nothing: of a hundred a
// second each would cost as much as to write what it brings.
func (gc *collector) sleep(ctx context.Context, next time.Duration, stubborn bool) {
	timer, stop := alarm(next)
	defer func() { stop() }()
	began, added := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer:
			return
		case <-gc.trashed:
			if !stubborn {
				return
			}
		case <-gc.wake:
			if stubborn {
				continue
			}
			if gc.tight.Load() || gc.reserve.spent.Load() {
				return // perhaps there is room for the reserve again
			}
			// What has just become loose has all its grace before it, and what follows has more.
			grace := gc.shortestGrace() + time.Second // the times are whole seconds
			if !added && (next < 0 || grace < next-time.Since(began)) {
				stop()
				timer, stop = alarm(grace)
				added = true
			}
		}
	}
}

// alarm fires after d, or never if that is negative. The caller calls stop.
func alarm(d time.Duration) (fires <-chan time.Time, stop func()) {
	if d < 0 {
		return nil, func() {}
	}
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// A tally is what has been removed, or would be.
type tally struct {
	Uploads   int   `json:"uploads"`
	Uploaded  int64 `json:"uploadBytes"` // of those
	Manifests int   `json:"manifests"`
	Blobs     int   `json:"blobs"`
	Bytes     int64 `json:"bytes"`    // of blobs
	Promised  int   `json:"promised"` // kept, since a client was told lately that they exist
}

// collectDue removes all that is due now, forgets what was done too long ago, and
// returns how long to wait for the next; negative if nothing will be due. Nothing is
// while pushes and deletes are refused: whoever says --read-only wants all to stay as
// it is.
func (gc *collector) collectDue(ctx context.Context) (next time.Duration, err error) {
	// Not where it is noticed: a transaction may be under way there.
	if err := gc.host.noteGuarded(); err != nil {
		return 0, err
	}
	if gc.readOnly {
		return -1, nil
	}
	gc.at("looking for garbage")
	if _, err := gc.collect(ctx, gc.graces()); err != nil {
		return 0, err
	}
	forget, err := gc.pruner.forgetHistory(ctx)
	if err != nil {
		return 0, fmt.Errorf("forgetting what was done: %w", err)
	}
	if next, err = gc.untilDue(); next < 0 || forget >= 0 && forget < next {
		next = forget
	}
	return next, err
}

// collect removes all that is due by g, and what becomes due by that. It may
// run beside the janitor.
func (gc *collector) collect(ctx context.Context, g graces) (all tally, err error) {
	s := gc.steps(ctx)
	for ctx.Err() == nil {
		var c tally
		var errs []error // one that cannot be removed must not keep the others
		trash := 0
		for _, part := range []func(*steps, graces, *tally) error{gc.expireUploads, gc.collectRepositories, gc.collectManifests, gc.collectLinks} {
			s.begin()
			errs = append(errs, part(s, g, &c))
		}
		if s.removed {
			errs = append(errs, s.certain())
		}
		trash, err = gc.emptyTrash(s)
		if err := errors.Join(append(errs, err)...); err != nil {
			return all, err
		}
		all.Uploads += c.Uploads
		all.Uploaded += c.Uploaded
		all.Manifests += c.Manifests
		all.Blobs += c.Blobs
		all.Bytes += c.Bytes
		all.Promised = c.Promised
		if c.Uploads+c.Manifests+c.Blobs+trash == 0 {
			return all, nil
		}
	}
	return all, ctx.Err()
}

// untilDue returns how long it is until something is due; negative if nothing
// is loose.
func (gc *collector) untilDue() (time.Duration, error) {
	next := time.Duration(-1)
	if wait := gc.untilSure(); wait > 0 && gc.ownersGone.Load() {
		next = wait
	}
	g := gc.graces()
	for _, q := range []struct {
		query string
		grace time.Duration
	}{
		{`SELECT min(used) FROM upload`, g.upload},
		{`SELECT min(loose) FROM link WHERE loose IS NOT NULL`, g.blob},
		{`SELECT min(loose) FROM manifest m` + g.index() + ` WHERE loose IS NOT NULL` + g.onlyDeleted(), g.manifest},
		{`SELECT min(deleted) FROM repository r WHERE deleted IS NOT NULL AND EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id)`, g.manifest},
	} {
		var since sql.NullInt64
		if err := gc.get(q.query, nil, &since); err != nil {
			return 0, fmt.Errorf("looking for what is due: %w", err)
		}
		if !since.Valid {
			continue
		}
		due := max(0, time.Duration(since.Int64+1)*time.Second+q.grace-gc.uptime())
		if next < 0 || due < next {
			next = due
		}
	}
	return next, nil
}

// A looseRow is a manifest or a link that is due. The first three are the order
// in which they go.
type looseRow struct {
	loose, repo, id int64 // id is the manifest's or the blob's
	digest          digest.Digest
	repository      string
	deleted         bool  // by a client: no promise keeps it
	freed           int64 // bytes of the blob, if its last link has gone; else -1
}

func scanLoose(rows *sql.Rows) (x looseRow, err error) {
	err = rows.Scan(&x.loose, &x.repo, &x.id, &x.digest, &x.repository, &x.deleted)
	return x, err
}

// index is what stands after manifest m in SQL that has onlyDeleted: left to itself
// SQLite would go through all that is loose, which may be very many then.
func (g graces) index() string {
	if g.keepUntagged {
		return ` INDEXED BY manifest_deleted`
	}
	return ""
}

// onlyDeleted is a condition, in SQL over a row m of manifest, that keeps those
// that no client has deleted, if that is what g says.
func (g graces) onlyDeleted() string {
	if g.keepUntagged {
		return ` AND m.deleted IS NOT NULL`
	}
	return ""
}

// collectRepositories empties the repositories that were deleted long enough ago;
// their blobs go like all others.
func (gc *collector) collectRepositories(s *steps, g graces, c *tally) error {
	cutoff := gc.cutoff(g.manifest)
	if g.now {
		cutoff = math.MaxInt64
	}
	for {
		n, err := gc.emptyRepositories(cutoff)
		if err != nil || n == 0 {
			return err
		}
		c.Manifests += n
		if err := s.end(1); err != nil {
			return err
		}
	}
}

// emptyRepositories removes some manifests of repositories that were deleted before
// the cutoff, and returns how many.
func (gc *collector) emptyRepositories(cutoff int64) (n int, err error) {
	const query = `SELECT 0, m.repository, m.id, m.digest, r.name, 1 FROM repository r JOIN manifest m ON m.repository = r.id
		WHERE r.deleted < ? ORDER BY r.deleted LIMIT ?` // any some of them: to sort would be to look at all
	due, err := listRows(gc, scanLoose, query, cutoff, collectAtOnce)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	err = gc.update(func(t *tx) error {
		if due, err = listRows(t, scanLoose, query, cutoff, collectAtOnce); err != nil {
			return err
		}
		for _, x := range due {
			// From here on it cannot be restored: a part of it is not it.
			if _, err := t.exec(`UPDATE repository SET emptying = 1 WHERE id = ? AND emptying = 0`, x.repo); err != nil {
				return err
			}
			if err := t.removeManifest(x.repo, x.id, x.digest); err != nil {
				return err
			}
		}
		for _, x := range due {
			if err := t.dropRepository(x.repo); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && len(due) > 0 {
		gc.log.Info("manifests of a deleted repository collected", "repository", due[0].repository, "manifests", len(due))
	}
	return len(due), err
}

// collectManifests removes the manifests that are due.
func (gc *collector) collectManifests(s *steps, g graces, c *tally) error {
	rules, err := gc.host.rulesNow()
	if err != nil {
		return err
	}
	return gc.collectLoose(s, g, g.manifest, c,
		`SELECT m.loose, m.repository, m.id, m.digest, r.name, m.deleted IS NOT NULL FROM manifest m`+g.index()+` JOIN repository r ON r.id = m.repository
			WHERE m.loose < ?1 AND (m.loose, m.id) > (?2, ?4) AND ?3 IS NOT NULL`+g.onlyDeleted()+` ORDER BY m.loose, m.id LIMIT ?5`,
		`UPDATE manifest SET loose = ?3 WHERE repository = ?1 AND id = ?2`,
		func(t *tx, x *looseRow) (gone bool, err error) {
			live, err := t.live(`SELECT `+manifestLive+` FROM manifest WHERE id = ?`, x.id)
			if err != nil || live { // (6) says never; to be sure costs nothing
				return false, errors.Join(err, t.settleManifest(x.repo, x.digest))
			}
			if err := t.removeManifest(x.repo, x.id, x.digest); err != nil {
				return false, err
			}
			return true, t.dropSignatures(storedRepository{x.repo, x.repository}, x.digest, rules)
		},
		func(x looseRow) {
			c.Manifests++
			gc.log.Info("manifest collected", "repository", x.repository, "digest", x.digest)
		})
}

// collectLinks removes the links that are due, and the rows of blobs that have
// no other.
func (gc *collector) collectLinks(s *steps, g graces, c *tally) error {
	return gc.collectLoose(s, g, g.blob, c,
		`SELECT l.loose, l.repository, l.blob, b.digest, r.name, 0
			FROM link l JOIN blob b ON b.id = l.blob JOIN repository r ON r.id = l.repository
			WHERE l.loose < ?1 AND (l.loose, l.repository, l.blob) > (?2, ?3, ?4)
			ORDER BY l.loose, l.repository, l.blob LIMIT ?5`,
		`UPDATE link SET loose = ?3 WHERE repository = ?1 AND blob = ?2`,
		func(t *tx, x *looseRow) (gone bool, err error) {
			live, err := t.live(`SELECT `+linkLive+` FROM link WHERE repository = ? AND blob = ?`, x.repo, x.id)
			if err != nil || live { // likewise
				return false, errors.Join(err, t.settleLink(x.repo, x.id))
			}
			x.freed, err = t.unlinkBlob(x.repo, x.id, x.digest)
			return true, err
		},
		func(x looseRow) {
			if x.freed >= 0 {
				c.Blobs++
				c.Bytes += x.freed
				gc.collectedBlobs.Add(1)
				gc.collectedBytes.Add(x.freed)
			}
		})
}

// collectLoose goes through what the query finds due, in short transactions that need not wait for
// the disk, unless remove says errMustLast.
// remove takes one away, or finds that it must stay; removed is called when
// that is committed. What a client was promised lately gets a new time by
// extend, so that it is looked at again when the promise has been kept.
func (gc *collector) collectLoose(s *steps, g graces, grace time.Duration, c *tally, query, extend string,
	remove func(*tx, *looseRow) (bool, error), removed func(looseRow)) error {

	cutoff := gc.cutoff(grace)
	if g.now {
		cutoff = math.MaxInt64
	}
	after := looseRow{loose: math.MinInt64}
	write, own := gc.updateLazy, int64(0)
	removing := condemned{promises: &gc.promises}
	defer removing.end()
	for {
		// Most times nothing is due, which a reader finds out.
		due, err := listRows[looseRow](gc, scanLoose, query, cutoff, after.loose, after.repo, after.id, 1)
		if err != nil || len(due) == 0 {
			return err
		}
		gc.at("collecting")
		var gone []looseRow
		var promised, seen int
		size := s.size()
		err = write(func(t *tx) (err error) {
			gone, promised, seen = nil, 0, 0
			removing.end() // of a run that failed
			gc.sure.missing.Store(true)
			s.removed = true
			due, err = listRows(t, scanLoose, query, cutoff, after.loose, after.repo, after.id, size)
			if err != nil {
				return err
			}
			for _, x := range due {
				if s.enough(t, seen) {
					break
				}
				seen++
				if gc.heedsPromises(g, grace) && !x.deleted && !removing.add(x.repository, x.digest) {
					promised++
					if !g.now {
						_, err = t.exec(extend, x.repo, x.id, t.clock+int64((promiseTime-grace)/time.Second))
					}
				} else if ok, e := remove(t, &x); e != nil {
					err = e
				} else if ok {
					gone = append(gone, x)
					err = t.dropRepository(x.repo)
				}
				if err != nil {
					return err
				}
			}
			gc.at("decided")
			return nil
		})
		removing.end()
		if errors.Is(err, errMustLast) {
			write, own = gc.update, 1
			continue
		}
		if err != nil {
			return err
		}
		for _, x := range gone {
			removed(x)
		}
		c.Promised += promised
		if len(due) < size && seen == len(due) {
			return nil
		}
		after = due[seen-1]
		if err := s.end(own); err != nil {
			return err
		}
	}
}

// errMustLast is the error of a removal that has to be on the disk when it is committed.
var errMustLast = errors.New("only in a durable transaction")

// heedsPromises reports whether promises keep what is due by g: with a long
// grace the rows themselves tell of them.
func (gc *collector) heedsPromises(g graces, grace time.Duration) bool {
	return (g.now || grace < 2*promiseTime) && !gc.noPromises
}

func (t *tx) live(query string, key ...any) (bool, error) {
	var live bool
	err := t.get(query, key, &live)
	return live, err
}

// emptyTrash removes the files of all blobs whose row is gone. They come in the
// order of their directories, so that those of one need one sync.
func (gc *collector) emptyTrash(s *steps) (n int, err error) {
	var errs []error
	for last := digest.Digest(""); ; {
		due, err := listRows(gc, scanOne[digest.Digest], `SELECT digest FROM trash WHERE digest > ? ORDER BY digest LIMIT ?`, last, s.size())
		if err == nil && len(due) > 0 {
			err = s.certain()
		}
		if err != nil || len(due) == 0 {
			return n, errors.Join(append(errs, err)...)
		}
		if !gc.removal.TryLock() {
			return n, errors.Join(errs...) // a backup needs the files; it tells when it has done
		}
		removed, err := gc.unlink(due)
		gc.removal.Unlock()
		n += removed
		errs = append(errs, err)
		last = due[len(due)-1]
		if s.end(0) != nil {
			return n, errors.Join(errs...)
		}
	}
}

// unlink removes the files of blobs, except of those whose rows
// have come back, and drops the trash rows (2). It returns how many rows went;
// one file that cannot be removed, or whose row cannot be looked for, does not keep
// the others, and its trash row stays.
func (gc *collector) unlink(list []digest.Digest) (n int, err error) {
	var errs []error
	var gone, back []digest.Digest
	var shards []string      // in which some have gone
	for i, d := range list { // in order, so that two of us do not wait for each other
		defer gc.digests.lock(d.String())()
		shard := gc.shardDir(d)
		if has, err := gc.hasBlob(d); err != nil {
			errs = append(errs, err)
		} else if has {
			back = append(back, d)
		} else if err := removeBlobDir(filepath.Dir(gc.path(d))); err != nil {
			errs = append(errs, fmt.Errorf("removing the file of %s: %w", d, err))
		} else {
			os.Remove(gc.aside(d)) // scrubbing removes what stays
			gc.log.Info("blob removed", "digest", d)
			gone = append(gone, d)
			if len(shards) == 0 || shards[len(shards)-1] != shard {
				shards = append(shards, shard)
			}
		}
		if i+1 == len(list) || gc.shardDir(list[i+1]) != shard {
			gc.at("unlinked")
		}
	}
	for _, shard := range shards { // the first waits for the disk's journal, the others hardly
		// A file must not come back after its trash row has gone.
		if err := gc.syncDir(shard); err != nil {
			return 0, errors.Join(append(errs, err)...)
		}
	}
	err = gc.updateLazy(func(t *tx) error {
		for _, d := range gone {
			if _, err := t.exec(`DELETE FROM trash WHERE digest = ?`, d); err != nil {
				return err
			}
		}
		for _, d := range back {
			// It may have gone again since we looked; then its file is still
			// to be removed.
			if _, err := t.exec(`DELETE FROM trash WHERE digest = ?1 AND EXISTS (SELECT 1 FROM blob WHERE digest = ?1)`, d); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		n = len(gone) + len(back)
	}
	return n, errors.Join(append(errs, err)...)
}

// removeBlobDir removes a blob's directory with all that is in it, which is one file as a rule. It
// need not be there.
func removeBlobDir(dir string) error {
	os.Remove(filepath.Join(dir, "data"))
	if os.Remove(dir) == nil {
		return nil
	}
	return os.RemoveAll(dir)
}
