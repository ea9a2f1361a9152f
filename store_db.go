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
	"strings"
	"time"
)

// dsn is the name by which the driver opens the database, with pragmas.
func (st *store) dsn(query url.Values, pragmas ...string) string {
	return dsnOf(filepath.Join(st.dir, "berth.db"), query, pragmas...)
}

// dsnOf is the name by which the driver opens the database in path.
func dsnOf(path string, query url.Values, pragmas ...string) string {
	path = filepath.ToSlash(path)
	if runtime.GOOS == "windows" && len(path) > 1 && path[1] == ':' {
		path = "/" + path
	}
	for _, p := range append(pragmas, "busy_timeout(10000)") {
		query.Add("_pragma", p)
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + query.Encode()
}

// openWriter opens the writing connection, and creates or upgrades the schema.
func (st *store) openWriter() error {
	version, err := st.lookAtDatabase()
	if err != nil {
		return err
	}
	if err := createDatabase(filepath.Join(st.dir, "berth.db")); err != nil {
		return st.damaged(err)
	}
	// The journal's mode comes after the pragmas: with it a new database's pages
	// have their size.
	st.writerDB, err = sql.Open("sqlite", st.dsn(url.Values{"_journal_mode": {"WAL"}},
		// A commit writes the pages that have changed, each for a few bytes: so
		// let them be small, and many in the log before they are moved.
		st.cacheSize(), "page_size(2048)", "wal_autocheckpoint(4000)", "journal_size_limit(16777216)",
		// The last two make macOS flush the drive, and do nothing elsewhere.
		"synchronous(FULL)", "foreign_keys(1)", "fullfsync(1)", "checkpoint_fullfsync(1)"))
	if err != nil {
		return err
	}
	ctx := context.Background()
	conn, err := st.writerDB.Conn(ctx)
	if err != nil {
		return st.damaged(err)
	}
	defer func() {
		if st.writer == nil {
			conn.ExecContext(ctx, "ROLLBACK") // of what failed, if it did
			conn.Close()
		}
	}()
	if version == 0 {
		if err := st.refuseBlobs(); err != nil {
			return err
		}
		// The same way as an old one, and in one step.
		script := fmt.Sprintf("BEGIN IMMEDIATE;%s;%s;PRAGMA application_id=%d;PRAGMA user_version=%d;COMMIT",
			schema, strings.Join(upgrades[:], ";"), applicationID, latestVersion)
		if _, err := conn.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("creating the database: %w", err)
		}
		// From now on the file itself says what it is, also without its log.
		if _, err := conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
			return fmt.Errorf("creating the database: %w", err)
		}
		if err := syncDir(st.dir); err != nil {
			return fmt.Errorf("syncing the data directory: %w", err)
		}
		version = latestVersion
	}
	for ; version < latestVersion; version++ {
		script := fmt.Sprintf("BEGIN IMMEDIATE;%s;PRAGMA user_version=%d;COMMIT", upgrades[version-1], version+1)
		if _, err := conn.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("upgrading the database to version %d: %w", version+1, err)
		}
	}
	var sparse, stale bool
	if err := conn.QueryRowContext(ctx, "SELECT uptime, sparse, stale FROM meta").Scan(&st.saved, &sparse, &stale); err != nil {
		return st.damaged(err)
	}
	st.stale.Store(stale)
	if st.sparse && !sparse { // check must know
		if _, err := conn.ExecContext(ctx, "UPDATE meta SET sparse = 1"); err != nil {
			return err
		}
	}
	// SQLite has made its log anew, and does not care whether its name could be
	// synced.
	if err := syncDir(st.dir); err != nil {
		return fmt.Errorf("syncing the data directory: %w", err)
	}
	st.base = time.Duration(st.saved) * time.Second
	st.writer, err = newCommitter(conn, filepath.Join(st.dir, "berth.db-wal"), st.begin, st.isFull, st.spare, &st.lookups)
	return err
}

// lookAtDatabase returns the version of the database, 0 if it is still to be
// created, and refuses one that is not Berth's before anything is written to it.
func (st *store) lookAtDatabase() (version int, err error) {
	if info, err := os.Stat(filepath.Join(st.dir, "berth.db")); err != nil || info.Size() == 0 {
		return 0, nil
	}
	db, err := openToLook(filepath.Join(st.dir, "berth.db"))
	if err != nil {
		return 0, err
	}
	defer db.Close()
	return st.recognise(db)
}

// openToLook opens a database to read in it. If its creation was cut short it
// must be written to be read: SQLite undoes what was half done.
func openToLook(path string) (*sql.DB, error) {
	mode := "ro"
	if _, err := os.Stat(path + "-journal"); err == nil {
		mode = "rw"
	}
	return sql.Open("sqlite", dsnOf(path, url.Values{"mode": {mode}}, "query_only(1)"))
}

// openReaders opens the pool of query-only connections.
func (st *store) openReaders() error {
	db, err := sql.Open("sqlite", st.dsn(st.readOnlyQuery(), "query_only(1)", st.cacheSize()))
	if err != nil {
		return err
	}
	st.db = db
	// Queries are short and do not wait, so a few connections serve many
	// requests; each costs memory.
	db.SetMaxOpenConns(readers())
	db.SetMaxIdleConns(readers())
	version, err := st.recognise(db)
	if err == nil && version < latestVersion {
		err = fmt.Errorf("the database is of an earlier berth, and its disk is read-only: start once with the disk writable, which brings it up to date")
	}
	if err != nil {
		return err
	}
	return st.loadVerified()
}

// readers is how many connections there are that read.
func readers() int { return max(4, runtime.GOMAXPROCS(0)) + maxLooks }

// cacheSize is the pragma for how much of the database a connection keeps.
func (st *store) cacheSize() string {
	each := max(st.budget.pages/(readers()+1), 256<<10)
	return fmt.Sprintf("cache_size(-%d)", each>>10) // in KiB
}

// readOnlyQuery is how a database on a read-only disk is opened; on any other it
// says nothing.
func (st *store) readOnlyQuery() url.Values {
	query := url.Values{}
	if st.readOnlyDisk {
		// After a clean end there is no log, and nothing can change; else the
		// log and its index are there and are read with the database.
		query.Set("mode", "ro")
		if info, err := os.Stat(filepath.Join(st.dir, "berth.db-wal")); err != nil || info.Size() == 0 {
			query.Set("immutable", "1")
		}
	}
	return query
}

// recognise returns the version of a database, and refuses one that is not
// Berth's, that a newer Berth has made, or whose blobs are elsewhere. An empty one is
// of version 0.
func (st *store) recognise(db *sql.DB) (version int, err error) {
	var id, tables int
	err = db.QueryRow(`SELECT (SELECT application_id FROM pragma_application_id),
		(SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)`).Scan(&id, &version, &tables)
	switch {
	case err != nil:
		return 0, st.damaged(err)
	case id == 0 && version == 0 && tables == 0:
		return 0, nil
	case id != applicationID:
		return 0, fmt.Errorf("%s is not Berth's (its application_id is %#x). What to do: %smove it away, or name another directory with --data",
			filepath.Join(st.dir, "berth.db"), id, st.restoreHint())
	case version > latestVersion:
		return 0, fmt.Errorf("the database is of version %d, and this berth knows versions up to %d: %w", version, latestVersion, errNewer)
	}
	return version, st.lookForShards(db)
}

var errNewer = errors.New("use a newer berth")

// damaged says why the database cannot be opened, and what to do.
func (st *store) damaged(err error) error {
	db := filepath.Join(st.dir, "berth.db")
	if st.diskFull(err) {
		return fmt.Errorf("the database %s cannot be opened because the disk is full: make some room and start again (%w)", db, err)
	}
	if st.readOnlyDisk {
		if _, e := os.Stat(db + "-wal"); e == nil {
			return fmt.Errorf("the database %s was not closed in order, and its disk is read-only: "+
				"start once with the disk writable, which puts it in order (%w)", db, err)
		}
	}
	if !isDamage(err) {
		return fmt.Errorf("the database %s cannot be opened: %w; who may write in %s?", db, err, st.dir)
	}
	return fmt.Errorf("the database %s cannot be read: %w. Its blobs are untouched. What to do: %sput berth.db back from a backup "+
		"(without berth.db-wal and berth.db-shm) and start again", db, err, st.restoreHint())
}

// read returns the prepared statement for a query on the reading pool.
func (st *store) read(query string) (*sql.Stmt, error) {
	if s, ok := st.reads.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	s, err := st.db.Prepare(query)
	if err != nil {
		return nil, err
	}
	if other, loaded := st.reads.LoadOrStore(query, s); loaded {
		s.Close()
		return other.(*sql.Stmt), nil
	}
	return s, nil
}

// get scans the one row of query into dest; sql.ErrNoRows if there is none.
func (st *store) get(query string, args []any, dest ...any) error {
	s, err := st.read(query)
	if err != nil {
		return err
	}
	err = s.QueryRow(args...).Scan(dest...)
	if err != nil && st.again(err) {
		err = s.QueryRow(args...).Scan(dest...)
	}
	return err
}

// A snapshot reads the database as it is at one moment.
type snapshot struct {
	tx    *sql.Tx
	stmts map[string]*sql.Stmt
}

// maxLooks bounds the snapshots in use at one time.
const maxLooks = 2

// look calls fn with a snapshot that is valid until fn returns. SQLite's log
// grows meanwhile if there are pushes, so fn should not take long.
func (st *store) look(ctx context.Context, fn func(snapshot) error) error {
	// Each holds a connection, and fn may need another: some are left for it,
	// and for requests.
	select {
	case st.looks <- struct{}{}:
		defer func() { <-st.looks }()
	case <-ctx.Done():
		return ctx.Err()
	}
	tx, err := st.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	s := snapshot{tx, make(map[string]*sql.Stmt)}
	defer func() {
		for _, stmt := range s.stmts {
			stmt.Close()
		}
		tx.Rollback()
	}()
	err = fn(s)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (s snapshot) prepare(query string) (*sql.Stmt, error) {
	if stmt := s.stmts[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := s.tx.Prepare(query)
	if err == nil {
		s.stmts[query] = stmt
	}
	return stmt, err
}

// get scans the one row of query into dest; sql.ErrNoRows if there is none.
func (s snapshot) get(query string, args []any, dest ...any) error {
	stmt, err := s.prepare(query)
	if err != nil {
		return err
	}
	return stmt.QueryRow(args...).Scan(dest...)
}

// rows calls fn for every row of a query, until fn returns an error; errEnough
// is not one to tell. fn may use the snapshot, with other queries.
func (s snapshot) rows(fn func(*sql.Rows) error, query string, args ...any) error {
	stmt, err := s.prepare(query)
	if err != nil {
		return err
	}
	rows, err := stmt.Query(args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return rows.Err()
}

var errEnough = errors.New("seen enough")

// listed returns the rows of a query.
func listed[T any](s snapshot, scan func(*sql.Rows) (T, error), query string, args ...any) (out []T, err error) {
	err = s.rows(func(rows *sql.Rows) error {
		v, err := scan(rows)
		out = append(out, v)
		return err
	}, query, args...)
	return out, err
}

// scanOne reads a row of one column.
func scanOne[T any](rows *sql.Rows) (T, error) {
	var v T
	err := rows.Scan(&v)
	return v, err
}

// strings returns the one column of a query.
func (st *store) strings(query string, args ...any) ([]string, error) {
	return column(st, scanOne[string], query, args...)
}

// column returns the rows of a query.
func column[T any](st *store, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	s, err := st.read(query)
	if err != nil {
		return nil, err
	}
	read := func() ([]T, error) {
		rows, err := s.Query(args...)
		if err != nil {
			return nil, err
		}
		return collect(rows, scan)
	}
	out, err := read()
	if err != nil && st.again(err) {
		return read()
	}
	return out, err
}

// page runs a query for n+1 strings, and returns n of them and whether there
// was one more. The result is not nil.
func (st *store) page(n int, query string, args ...any) (list []string, more bool, err error) {
	if n == 0 {
		return []string{}, false, nil
	}
	s, err := st.read(query)
	if err != nil {
		return nil, false, err
	}
	rows, err := s.Query(append(args, n+1)...)
	if err != nil {
		return nil, false, err
	}
	list, err = collect(rows, scanOne[string])
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
