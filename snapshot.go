// Copies of the metadata, kept beside the data.
//
// A lost berth.db would leave blobs that nobody can name. So after changes, and
// at most once a day of uptime, a copy of the database is made, verified, and
// kept as snapshots/berth-<uptime in seconds>.db, in three generations. A copy
// is made under another name, and gets its own when it is whole and synced.
// `berth restore` (restore.go) goes back to the newest.
//
// Whether anything has changed since the last one is written in the database by
// the first commit that changes something; so an idle registry makes none, and
// a restart makes no difference.

package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	snapshotEvery = 24 * time.Hour
	// snapshotDelay is how long after a change a snapshot is made at the
	// earliest: what belongs together should be in it together.
	snapshotDelay = 5 * time.Minute
	generations   = 3
)

// snapshots makes one whenever it is due, until ctx ends.
func (st *store) snapshots(ctx context.Context) {
	if st.writer == nil {
		return
	}
	for ctx.Err() == nil {
		var timer <-chan time.Time
		var changed <-chan struct{}
		if wait := st.snapshotDue(); wait >= 0 {
			t := time.NewTimer(wait)
			defer t.Stop()
			timer = t.C
		} else {
			changed = st.changed
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			continue
		case <-timer:
		}
		if st.snapshotDue() > 0 { // uptime and timers are not of one clock
			continue
		}
		if err := st.snapshot(ctx); err != nil && ctx.Err() == nil {
			st.log.Error("making a snapshot of the database", "error", err, "retry", time.Hour)
			select {
			case <-ctx.Done():
			case <-time.After(time.Hour):
			}
		}
	}
}

// snapshotDue returns how long it is until a snapshot should be made; negative
// if nothing has changed since the last one.
func (st *store) snapshotDue() time.Duration {
	if !st.stale.Load() {
		st.staleSince.Store(0)
		return -1
	}
	now := st.uptime()
	since := time.Duration(st.staleSince.Load())
	if since == 0 {
		since = max(now, 1)
		st.staleSince.Store(int64(since))
	}
	due := since + snapshotDelay
	if list := st.listSnapshots(); len(list) > 0 {
		due = max(due, list[0].uptime+snapshotEvery)
	}
	return max(0, due-now)
}

// A savedSnapshot is a file in snapshots/.
type savedSnapshot struct {
	path   string
	uptime time.Duration // when it was made
}

// listSnapshots returns what there is, newest first.
func (st *store) listSnapshots() (list []savedSnapshot) {
	paths, _ := filepath.Glob(filepath.Join(globQuote(st.dir), "snapshots", "berth-*.db"))
	for _, path := range paths {
		digits := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "berth-"), ".db")
		if seconds, err := strconv.ParseInt(digits, 10, 64); err == nil {
			list = append(list, savedSnapshot{path, time.Duration(seconds) * time.Second})
		}
	}
	slices.SortFunc(list, func(a, b savedSnapshot) int { return cmp.Compare(b.uptime, a.uptime) })
	return list
}

// globQuote makes a path one that only it matches.
func globQuote(path string) string {
	if os.PathSeparator == '\\' {
		return path // which has no way to quote, nor a need: *, ? are not in names
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// snapshot makes one, and removes those that are too many.
func (st *store) snapshot(ctx context.Context) error {
	info, err := os.Stat(filepath.Join(st.dir, "berth.db"))
	if err != nil {
		return err
	}
	if err := st.room(info.Size()); err != nil {
		return err
	}
	dir := filepath.Join(st.dir, "snapshots")
	if err := makeAll(dir); err != nil {
		return err
	}
	// What is committed from here on may be in the copy or not.
	setStale := func(stale bool) error {
		return st.updateLazy(func(t *tx) error {
			_, err := t.exec(`UPDATE meta SET stale = ?`, stale)
			t.committed = append(t.committed, func() { st.stale.Store(stale) })
			return err
		})
	}
	if err := setStale(false); err != nil {
		return err
	}
	path := filepath.Join(dir, fmt.Sprintf("berth-%012d.db", st.uptime()/time.Second))
	temp := filepath.Join(dir, "new")
	err = st.copyDatabase(ctx, temp)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		os.Remove(temp)
		return errors.Join(err, setStale(true))
	}
	list := st.listSnapshots()
	for _, old := range list[min(generations, len(list)):] {
		if err := os.Remove(old.path); err != nil {
			return err
		}
	}
	st.log.Info("snapshot of the database made", "path", path)
	return nil
}

// copyDatabase writes the database as it is at one moment to path, verified
// and synced. A file that is there is replaced.
func (st *store) copyDatabase(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := sql.Open("sqlite", st.dsn(url.Values{"mode": {"ro"}}))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", path); err != nil {
		return fmt.Errorf("copying the database: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(syncData(f), f.Close()); err != nil {
		return err
	}
	if _, err := verifyDatabase(ctx, path); err != nil {
		return fmt.Errorf("the copy is not whole, is the database damaged? (%w)", err)
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
	var id int
	var said string
	err = db.QueryRowContext(ctx, `SELECT (SELECT application_id FROM pragma_application_id), (SELECT integrity_check FROM pragma_integrity_check LIMIT 1)`).Scan(&id, &said)
	switch {
	case err != nil:
		return f, err
	case id != applicationID:
		return f, fmt.Errorf("%s is not a database of Berth's", path)
	case said != "ok":
		return f, fmt.Errorf("%s: %s", path, said)
	}
	// An earlier version has no id.
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM pragma_table_info('meta') WHERE name = 'id'`).Scan(&id)
	if err == nil && id > 0 {
		err = db.QueryRowContext(ctx, `SELECT id FROM meta`).Scan(&f.id)
	}
	if err == nil {
		err = db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM manifest), (SELECT count(*) FROM tag)`).Scan(&f.manifests, &f.tags)
	}
	return f, err
}
