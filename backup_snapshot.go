// Copies of the metadata, kept beside the data.
//
// A lost berth.db would leave blobs that nobody can name. So after changes, and
// at most once a day of uptime, a copy of the database is made, verified, and
// kept as snapshots/berth-<uptime in seconds>.db, in three generations. A copy
// is made under another name, and gets its own when it is whole and synced.
// `berth restore` (backup_restore.go) goes back to the newest.
//
// Whether anything has changed since the last one is written in the database by
// the first commit that changes something; so an idle registry makes none, and
// a restart makes no difference. That is taken back only when the copy is in
// its place: a crash costs a copy that was not needed, never one that was.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

const (
	snapshotEvery = 24 * time.Hour
	// snapshotDelay is how long after a change a snapshot is made at the
	// earliest: what belongs together should be in it together.
	snapshotDelay = 5 * time.Minute
	generations   = 3
)

// snapshots keep copies of their store's metadata.
type snapshots struct {
	*store
	stale      atomic.Bool   // something has changed since the last one
	staleSince atomic.Int64  // uptime when run noticed that; 0 if it has not
	changed    chan struct{} // tells run that it has become so
	outcome    outcome
}

// run makes one whenever it is due, until ctx ends.
func (sn *snapshots) run(ctx context.Context) {
	if sn.writer == nil {
		return
	}
	for {
		wait := sn.due()
		if wait == 0 {
			err := sn.take(ctx)
			if ctx.Err() == nil {
				sn.outcome.note(err)
			}
			if err == nil {
				continue // to wait for the next change
			}
			if ctx.Err() != nil {
				return
			}
			wait = time.Hour // whatever it is (a full disk, say), it will not pass at once
			sn.log.Error("making a snapshot of the database", "error", err, "retry", wait)
		}
		var timer <-chan time.Time
		var changed <-chan struct{}
		if wait > 0 {
			timer = time.After(wait)
		} else {
			changed = sn.changed
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-timer:
		}
	}
}

// due returns how long it is until a snapshot should be made; negative
// if nothing has changed since the last one.
func (sn *snapshots) due() time.Duration {
	if !sn.stale.Load() {
		sn.staleSince.Store(0)
		return -1
	}
	now := sn.uptime()
	since := time.Duration(sn.staleSince.Load())
	if since == 0 {
		since = max(now, 1)
		sn.staleSince.Store(int64(since))
	}
	due := since + snapshotDelay
	if list := sn.listSnapshots(); len(list) > 0 {
		// A crash may have cost uptime, so that the last one is of the future.
		due = max(due, min(list[0].uptime, since)+snapshotEvery)
	}
	return max(0, due-now)
}

// take makes one, and removes those that are too many.
func (sn *snapshots) take(ctx context.Context) error {
	info, err := os.Stat(filepath.Join(sn.dir, "berth.db"))
	if err != nil {
		return err
	}
	if err := sn.room(info.Size()); err != nil {
		return err
	}
	dir := filepath.Join(sn.dir, "snapshots")
	if err := makeAll(dir); err != nil {
		return err
	}
	seconds := int64(sn.uptime() / time.Second)
	if list := sn.listSnapshots(); len(list) > 0 { // likewise; and the newest must have the highest name
		seconds = max(seconds, int64(list[0].uptime/time.Second)+1)
	}
	path := filepath.Join(dir, fmt.Sprintf("berth-%012d.db", seconds))
	temp := filepath.Join(dir, "new")
	defer os.Remove(temp)
	// What is committed from here on may be in the copy or not.
	had := sn.writer.syncs.Load()
	if err := sn.copyDatabase(ctx, temp); err != nil {
		return err
	}
	sn.at("copied")
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	if err := sn.syncDir(dir); err != nil {
		return err
	}
	err = sn.updateLazy(func(t *tx) error {
		if t.durable || sn.writer.syncs.Load() != had {
			return nil // something has changed meanwhile
		}
		_, err := t.exec(`UPDATE meta SET stale = 0`)
		t.committed = append(t.committed, func() { sn.stale.Store(false) })
		return err
	})
	sn.staleSince.Store(0)
	if err != nil {
		return err
	}
	list := sn.listSnapshots()
	for _, old := range list[min(generations, len(list)):] {
		if err := os.Remove(old.path); err != nil {
			return err
		}
	}
	sn.log.Info("snapshot of the database made", "path", path)
	return nil
}

// copyDatabase writes the database as it is at one moment to path, verified
// and synced. A file that is there is replaced.
func (sn *snapshots) copyDatabase(ctx context.Context, path string) error {
	if sn.writer != nil {
		// A copy of metadata should have no blobs in it; if it must, no harm.
		if err := sn.small.sync(); err != nil {
			sn.log.Error("the files of small blobs cannot be synced", "error", err)
		}
	}
	query := sn.readOnlyQuery()
	query.Set("mode", "ro")
	db, err := sql.Open("sqlite", sn.dsn(query))
	if err != nil {
		return err
	}
	defer db.Close()
	// SQLite fills an empty file, and would make one that all may read.
	empty, err := createAnew(path)
	if err != nil {
		return err
	}
	if err := empty.Close(); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", path); err != nil {
		return fmt.Errorf("copying the database: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(sn.syncData(f), f.Close()); err != nil {
		return err
	}
	if _, err := verifyDatabase(ctx, path); err != nil {
		return fmt.Errorf("the copy is not intact; is the database damaged? (%w)", err)
	}
	return nil
}

// databaseFacts are what a database says of itself.
type databaseFacts struct {
	id        string // of the registry
	manifests int
	tags      int
}

// verifyDatabase reads a database that nobody writes, with its log if there is
// one, and returns an error unless it is whole and Berth's.
func verifyDatabase(ctx context.Context, path string) (f databaseFacts, err error) {
	db, err := openToLook(path)
	if err != nil {
		return f, err
	}
	defer db.Close()
	var id, version int
	var said string
	err = db.QueryRowContext(ctx, `SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
		(SELECT integrity_check FROM pragma_integrity_check LIMIT 1)`).Scan(&id, &version, &said)
	switch {
	case err != nil:
		return f, err
	case id != applicationID:
		return f, fmt.Errorf("%s is not a database of Berth's: %w", path, errDamaged)
	case otherVersion(path, version) != nil:
		return f, otherVersion(path, version)
	case said != "ok":
		return f, fmt.Errorf("%s: %s: %w", path, oneLine(said), errDamaged)
	}
	err = db.QueryRowContext(ctx, `SELECT id, (SELECT count(*) FROM manifest), (SELECT count(*) FROM tag) FROM meta`).Scan(&f.id, &f.manifests, &f.tags)
	return f, err
}
