// Rows: one way to read them, at any moment, at one moment, or in a transaction.

package main

import (
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// A queryer has prepared statements: the database at any moment, a snapshot at one, or
// a transaction.
type queryer interface {
	statement(query string) (*sql.Stmt, error)
	// fails is told of each query that fails, and reports whether it is worth a second try.
	fails(err error) (again bool)
}

// getRow scans the one row of query into dest; sql.ErrNoRows if there is none.
func getRow(q queryer, query string, args []any, dest ...any) error {
	s, err := q.statement(query)
	if err != nil {
		q.fails(err)
		return err
	}
	err = s.QueryRow(args...).Scan(dest...)
	if err != nil && q.fails(err) {
		err = s.QueryRow(args...).Scan(dest...)
	}
	return err
}

// listRows returns the rows of query, each scanned by scan. All are read before it
// returns, so that a transaction can go on.
func listRows[T any](q queryer, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	s, err := q.statement(query)
	if err != nil {
		q.fails(err)
		return nil, err
	}
	list, err := readAll(s, scan, args)
	if err != nil && q.fails(err) {
		return readAll(s, scan, args)
	}
	return list, err
}

func readAll[T any](s *sql.Stmt, scan func(*sql.Rows) (T, error), args []any) ([]T, error) {
	rows, err := s.Query(args...)
	if err != nil {
		return nil, err
	}
	return collectRows(rows, scan)
}

// eachRow calls fn for every row of query, until fn returns an error; errEnough is not
// one to tell.
func eachRow(q queryer, fn func(*sql.Rows) error, query string, args ...any) error {
	s, err := q.statement(query)
	if err != nil {
		q.fails(err)
		return err
	}
	rows, err := s.Query(args...)
	if err != nil {
		q.fails(err)
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
	if err = rows.Err(); err != nil {
		q.fails(err)
	}
	return err
}

// collectRows reads rows to the end and closes them.
func collectRows[T any](rows *sql.Rows, scan func(*sql.Rows) (T, error)) (list []T, err error) {
	defer rows.Close()
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// statements are prepared once for each query, with numbered parameters, and kept until close.
type statements struct{ of sync.Map } // query → *sql.Stmt

func (x *statements) get(query string, prepare func(query string) (*sql.Stmt, error)) (*sql.Stmt, error) {
	if s, ok := x.of.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	s, err := prepare(numbered(query))
	if err != nil {
		return nil, err
	}
	if other, loaded := x.of.LoadOrStore(query, s); loaded {
		s.Close()
		return other.(*sql.Stmt), nil
	}
	return s, nil
}

// numbered numbers the parameters of a query from left to right, as engines other than SQLite
// need them. A query that numbers one parameter numbers all, and is returned as it is; question
// marks are nothing but parameters.
func numbered(query string) string {
	var b strings.Builder
	rest := query
	for n := 1; ; n++ {
		before, after, found := strings.Cut(rest, "?")
		b.WriteString(before)
		switch {
		case !found:
			return b.String()
		case after != "" && '0' <= after[0] && after[0] <= '9':
			return query
		}
		b.WriteString("?" + strconv.Itoa(n))
		rest = after
	}
}

func (x *statements) close() error {
	var errs []error
	x.of.Range(func(_, s any) bool {
		errs = append(errs, s.(*sql.Stmt).Close())
		return true
	})
	return errors.Join(errs...)
}

// answers returns an error if the database does not answer.
func (db *database) answers() error {
	var n int
	return db.get(`SELECT count(*) FROM meta`, nil, &n)
}

// A snapshot reads the database as it is at one moment.
type snapshot struct {
	db    *database
	tx    *sql.Tx
	stmts *statements
}

func (s snapshot) statement(query string) (*sql.Stmt, error) { return s.stmts.get(query, s.tx.Prepare) }

// fails: there is no second try, since what a snapshot has seen is gone with it.
func (s snapshot) fails(err error) bool {
	s.db.notice(err)
	return false
}

// get scans the one row of query into dest; sql.ErrNoRows if there is none.
func (s snapshot) get(query string, args []any, dest ...any) error {
	return getRow(s, query, args, dest...)
}

// rows is eachRow; fn may use the snapshot, with other queries.
func (s snapshot) rows(fn func(*sql.Rows) error, query string, args ...any) error {
	return eachRow(s, fn, query, args...)
}

var errEnough = errors.New("seen enough")

// scanOne reads a row of one column.
func scanOne[T any](rows *sql.Rows) (T, error) {
	var v T
	err := rows.Scan(&v)
	return v, err
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

// openToLook opens a database to read in it. If its creation was cut short it
// must be written to be read: SQLite undoes what was half done.
func openToLook(path string) (*sql.DB, error) {
	if err := refuseForeignLink(path); err != nil {
		return nil, err
	}
	mode := "ro"
	if _, err := os.Stat(path + "-journal"); err == nil {
		mode = "rw"
	}
	query := url.Values{"mode": {mode}}
	if info, err := os.Stat(path + "-wal"); onReadOnlyDisk(filepath.Dir(path)) && (err != nil || info.Size() == 0) {
		query.Set("immutable", "1") // or SQLite would want to make a log
	}
	return sql.Open("sqlite", dsnOf(path, query, "query_only(1)"))
}
