// The database: opening, recognising, reading.
//
// Readers use query-only connections, with prepared statements that are kept; a snapshot sees
// one moment. Writing is the committer's (store_commit.go).

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// A database is berth.db, open. Its methods may be called from any goroutine.
type database struct {
	*dataDir
	pages    int        // bytes of it that the connections keep, together
	readers  *sql.DB    // query-only connections
	writer   *committer // nil on a read-only disk
	writerDB *sql.DB
	reads    statements    // on readers
	inUse    chan struct{} // full while as many snapshots as may be are in use
}

func newDatabase(data *dataDir, pages int) *database {
	return &database{dataDir: data, pages: pages, inUse: make(chan struct{}, maxInUse)}
}

// dsn is the name by which the driver opens the database, with pragmas.
func (db *database) dsn(query url.Values, pragmas ...string) string {
	return dsnOf(filepath.Join(db.dir, "berth.db"), query, pragmas...)
}

// openWriter opens the writing connection, and creates or upgrades the schema. begin
// runs first in every transaction, and lookups are told what one changes.
func (db *database) openWriter(begin func(t *tx, durable bool) error, lookups *lookups) error {
	if err := db.takeBack(context.Background()); err != nil {
		return err
	}
	version, err := db.lookAtDatabase()
	if err != nil {
		return err
	}
	if err := createDatabase(filepath.Join(db.dir, "berth.db")); err != nil {
		return db.damaged(err)
	}
	// The journal's mode comes after the pragmas: with it a new database's pages
	// have their size.
	db.writerDB, err = sql.Open("sqlite", db.dsn(url.Values{"_journal_mode": {"WAL"}},
		// A commit writes the pages that have changed, each for a few bytes: so
		// let them be small, and many in the log before they are moved.
		db.cacheSize(), "page_size(2048)", "wal_autocheckpoint(4000)", "journal_size_limit(16777216)",
		// The last two make macOS flush the drive, and do nothing elsewhere.
		"synchronous(FULL)", "foreign_keys(1)", "fullfsync(1)", "checkpoint_fullfsync(1)"))
	if err != nil {
		return err
	}
	ctx := context.Background()
	conn, err := db.writerDB.Conn(ctx)
	if err != nil {
		return db.damaged(err)
	}
	defer func() {
		if db.writer == nil {
			conn.ExecContext(ctx, "ROLLBACK") // of what failed, if it did
			conn.Close()
		}
	}()
	if version == 0 {
		if err := db.refuseBlobs(); err != nil {
			return err
		}
		script := fmt.Sprintf("BEGIN IMMEDIATE;%s;PRAGMA application_id=%d;PRAGMA user_version=%d;COMMIT", schema, applicationID, latestVersion)
		if _, err := conn.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("creating the database: %w", err)
		}
		// From now on the file itself says what it is, also without its log.
		if _, err := conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
			return fmt.Errorf("creating the database: %w", err)
		}
		if err := syncDir(db.dir); err != nil {
			return fmt.Errorf("syncing the data directory: %w", err)
		}
		version = latestVersion
	}
	if version < latestVersion {
		if err := db.keepBefore(ctx, conn); err != nil {
			return err
		}
	}
	for ; version < latestVersion; version++ {
		script := fmt.Sprintf("BEGIN IMMEDIATE;%s;PRAGMA user_version=%d;COMMIT", upgrades[version-oldestVersion], version+1)
		if _, err := conn.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("upgrading the database to version %d: %w", version+1, err)
		}
	}
	// SQLite has made its log anew, and does not care whether its name could be
	// synced.
	if err := syncDir(db.dir); err != nil {
		return fmt.Errorf("syncing the data directory: %w", err)
	}
	db.writer, err = newCommitter(conn, db.dataDir, begin, lookups)
	return err
}

// lookAtDatabase returns the version of the database, 0 if it is still to be
// created, and refuses one that is not Berth's before anything is written to it.
func (db *database) lookAtDatabase() (version int, err error) {
	if info, err := os.Stat(filepath.Join(db.dir, "berth.db")); err != nil || info.Size() == 0 {
		return 0, nil
	}
	conn, err := openToLook(filepath.Join(db.dir, "berth.db"))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return db.recognise(conn)
}

// openReaders opens the pool of query-only connections.
func (db *database) openReaders() (err error) {
	db.readers, err = sql.Open("sqlite", db.dsn(db.readOnlyQuery(), "query_only(1)", db.cacheSize()))
	if err != nil {
		return err
	}
	// Queries are short and do not wait, so a few connections serve many
	// requests; each costs memory.
	db.readers.SetMaxOpenConns(maxReaders())
	db.readers.SetMaxIdleConns(maxReaders())
	version, err := db.recognise(db.readers)
	if err == nil && version < latestVersion {
		err = fmt.Errorf("the database is of an earlier berth, and its disk is read-only: start once with the disk writable, which brings it up to date")
	}
	return err
}

// maxReaders is how many connections there are that read.
func maxReaders() int { return max(4, runtime.GOMAXPROCS(0)) + maxInUse }

// cacheSize is the pragma for how much of the database a connection keeps.
func (db *database) cacheSize() string {
	each := max(db.pages/(maxReaders()+1), 256<<10)
	return fmt.Sprintf("cache_size(-%d)", each>>10) // in KiB
}

// readOnlyQuery is how a database on a read-only disk is opened; on any other it
// says nothing.
func (db *database) readOnlyQuery() url.Values {
	query := url.Values{}
	if db.readOnlyDisk {
		// After a clean end there is no log, and nothing can change; else the
		// log and its index are there and are read with the database.
		query.Set("mode", "ro")
		if info, err := os.Stat(filepath.Join(db.dir, "berth.db-wal")); err != nil || info.Size() == 0 {
			query.Set("immutable", "1")
		}
	}
	return query
}

// recognise returns the version of a database, and refuses one that is not
// Berth's, that this Berth is too old or too new for, or whose blobs are elsewhere. An empty one is
// of version 0.
func (db *database) recognise(conn *sql.DB) (version int, err error) {
	var id, tables int
	err = conn.QueryRow(`SELECT (SELECT application_id FROM pragma_application_id),
		(SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)`).Scan(&id, &version, &tables)
	switch {
	case err != nil:
		return 0, db.damaged(err)
	case id == 0 && version == 0 && tables == 0:
		return 0, nil
	case id != applicationID:
		return 0, fmt.Errorf("%s is not Berth's, but a database of another program. What to do: %smove it away, or name another directory with --data",
			filepath.Join(db.dir, "berth.db"), db.restoreHint())
	}
	if err := otherVersion("the database "+filepath.Join(db.dir, "berth.db"), version); err != nil {
		return 0, err
	}
	return version, db.lookForShards(conn)
}

// close ends all connections. SQLite removes its log with the last one, and a
// connection does not end while one of its statements is open.
func (db *database) close() error {
	errs := []error{db.reads.close()}
	if db.readers != nil {
		errs = append(errs, db.readers.Close())
	}
	if db.writer != nil {
		errs = append(errs, db.writer.close())
	}
	if db.writerDB != nil {
		errs = append(errs, db.writerDB.Close())
	}
	return errors.Join(errs...)
}

// update runs fn in a durable write transaction; see committer.update. On a
// read-only disk it fails with EROFS.
func (db *database) update(fn func(*tx) error) error {
	if db.writer == nil {
		return syscall.EROFS
	}
	return db.writer.update(fn)
}

// updateLazy is update for what need not survive a power cut.
func (db *database) updateLazy(fn func(*tx) error) error {
	if db.writer == nil {
		return syscall.EROFS
	}
	return db.writer.updateLazy(fn)
}

func (db *database) statement(query string) (*sql.Stmt, error) {
	return db.reads.get(query, db.readers.Prepare)
}

func (db *database) fails(err error) (again bool) {
	db.notice(err)
	return db.again(err)
}

// get scans the one row of query into dest; sql.ErrNoRows if there is none.
func (db *database) get(query string, args []any, dest ...any) error {
	return getRow(db, query, args, dest...)
}

// maxInUse bounds the snapshots in use at one time.
const maxInUse = 2

// look calls fn with a snapshot that is valid until fn returns. SQLite's log
// grows meanwhile if there are pushes, so fn should not take long.
func (db *database) look(ctx context.Context, fn func(snapshot) error) error {
	// Each holds a connection, and fn may need another: some are left for it,
	// and for requests.
	select {
	case db.inUse <- struct{}{}:
		defer func() { <-db.inUse }()
	case <-ctx.Done():
		return ctx.Err()
	}
	tx, err := db.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		db.notice(err)
		return err
	}
	s := snapshot{db, tx, new(statements)}
	defer func() {
		s.stmts.close()
		tx.Rollback()
	}()
	err = fn(s)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// page runs a query for n+1 strings, and returns n of them and whether there
// was one more. The result is not nil.
func (db *database) page(n int, query string, args ...any) (list []string, more bool, err error) {
	if n == 0 {
		return []string{}, false, nil
	}
	list, err = listRows(db, scanOne[string], query, append(args, n+1)...)
	if err != nil {
		return nil, false, err
	}
	if len(list) > n {
		return list[:n], true, nil
	}
	if list == nil {
		list = []string{}
	}
	return list, false, nil
}
