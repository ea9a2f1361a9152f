// Many writers, one commit.
//
// SQLite has one writer at a time, and a durable commit costs a sync of the
// disk. So all writes go through one goroutine: what arrives while a commit is
// under way goes together into the next one, each write in a savepoint of its
// own, and thirty-two pushes cost a few syncs, not thirty-two.
//
// A write that need not survive a power cut (a session's offset) rides along
// or commits without a sync of its own; SQLite's log keeps the order, so a
// later durable commit makes it durable too.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
)

// maxGroup bounds how many writes share a commit, so that no single one waits
// for long.
const maxGroup = 64

// A committer owns the one connection that writes.
type committer struct {
	conn    *sql.Conn
	data    *dataDir
	log     string // path of SQLite's log
	queue   chan write
	done    chan struct{} // closed when the goroutine has ended
	stmts   statements
	relaxed bool         // the connection is at synchronous=NORMAL
	suspect error        // a commit failed on the disk: what the log holds is uncertain
	syncs   atomic.Int64 // durable commits so far

	begun, ended atomic.Int64 // durable commits, also those that failed
	failures     atomic.Int64 // transactions of which nothing was committed, though it was tried anew

	twice bool // each write runs two times, the first for nothing; set before the first write

	// begin is called with each transaction, before the first write.
	begin   func(t *tx, durable bool) error
	lookups *lookups           // those of what a commit touches are suspended meanwhile
	touched map[int64]struct{} // repositories that the transaction under way has changed
}

type write struct {
	fn      func(*tx) error
	durable bool
	result  chan error
}

// A tx is a transaction in progress. It is valid only during the call it was
// passed to.
type tx struct {
	c     *committer
	clock int64 // the store's uptime, in seconds

	durable   bool     // it waits for the disk, for one of its writes at least
	committed []func() // called when all of it is committed; those of a write that fails are not

	unsynced *unsynced   // what is not synced yet
	events   *eventQueue // that what it does is announced in; nil for none
	roomMade []string    // the endpoints for whose events it has made room; none after a write that fails
}

func newCommitter(conn *sql.Conn, data *dataDir, begin func(*tx, bool) error, lookups *lookups) (*committer, error) {
	log := filepath.Join(data.dir, "berth.db-wal")
	c := &committer{
		conn: conn, data: data, log: log, begin: begin, lookups: lookups,
		touched: make(map[int64]struct{}),
		queue:   make(chan write, maxGroup),
		done:    make(chan struct{}),
	}
	rows, err := newWatchedRows(context.Background(), conn)
	if err != nil {
		return nil, err
	}
	err = conn.Raw(func(driverConn any) error {
		rows.tell(driverConn, c.touched)
		return nil
	})
	if err != nil {
		return nil, err
	}
	go c.run()
	return c, nil
}

// update runs fn in a write transaction and returns when that is committed and
// on disk. If fn returns an error, nothing of it stays, and update returns that
// error. fn may run more than once: it must set its results anew each time.
func (c *committer) update(fn func(*tx) error) error { return c.do(write{fn: fn, durable: true}) }

// updateLazy is update for what need not survive a power cut. It survives the
// end of the process.
func (c *committer) updateLazy(fn func(*tx) error) error { return c.do(write{fn: fn}) }

func (c *committer) do(w write) error {
	w.result = make(chan error, 1)
	c.queue <- w
	return <-w.result
}

// stop ends the goroutine after the writes already queued. No update may be
// under way or follow.
func (c *committer) stop() {
	close(c.queue)
	<-c.done
}

// close empties SQLite's log and closes the connection. The committer has
// stopped.
func (c *committer) close() error {
	return errors.Join(c.checkpoint(), c.stmts.close(), c.conn.Close())
}

func (c *committer) run() {
	defer close(c.done)
	group := make([]write, 0, maxGroup)
	for w := range c.queue {
		group = append(group[:0], w)
	fill:
		for len(group) < maxGroup {
			select {
			case w, ok := <-c.queue:
				if !ok {
					break fill
				}
				group = append(group, w)
			default:
				break fill
			}
		}
		c.commit(group)
	}
}

// commit runs a group in one transaction and tells each member its result.
func (c *committer) commit(group []write) {
	again := c.suspect != nil
	results, err := c.try(group)
	for files := 2; again && isIOError(err) && files > 0; files-- {
		// The kernel tells each open file, the log and the database, once of what
		// was lost, also of what was lost before the log was written again.
		results, err = c.try(group)
	}
	c.data.notice(err)
	if c.data.isFull(err) && c.checkpoint() == nil {
		// The log had no room to grow. Now it is empty, and most of what it
		// held took none in the database.
		c.data.tight.Store(true)
		results, err = c.try(group)
	}
	if c.data.isFull(err) && c.data.spare() {
		c.data.tight.Store(true)
		results, err = c.try(group)
	}
	if err != nil && !isNoSpace(err) && c.data.isFull(err) {
		err = fmt.Errorf("%w: %w", errNoSpace, err)
	}
	if err == nil && c.data.tight.Load() {
		// Else the log would take all that is left, and then the database could
		// not take over what it holds.
		c.checkpoint()
	}
	if err != nil && len(group) > 1 && c.suspect == nil {
		// Something broke the transaction as a whole: find out for whom.
		for _, w := range group {
			results, err := c.try([]write{w})
			if err != nil {
				c.failures.Add(1)
			} else {
				err = results[0]
			}
			w.result <- err
		}
		return
	}
	if err != nil {
		c.failures.Add(1)
	}
	for i, w := range group {
		if err != nil {
			w.result <- err
		} else {
			w.result <- results[i]
		}
	}
}

// try runs a group in one transaction. An error means that nothing was
// committed; otherwise each member has its own result.
func (c *committer) try(group []write) (results []error, err error) {
	if c.suspect != nil {
		// After a failed sync the kernel may take lost pages for written ones,
		// and a later sync of the log would promise what is not there. Moving
		// all of the log into the database and syncing that is a fresh start;
		// but first the log itself must be on the disk, or a power cut in the
		// middle would leave half a database and nothing to mend it with.
		err := c.rewriteLog()
		if err == nil {
			err = c.checkpoint()
		}
		if err != nil {
			return nil, fmt.Errorf("the database cannot be written since %w; still: %w", c.suspect, err)
		}
		c.suspect = nil
	}
	durable := slices.ContainsFunc(group, func(w write) bool { return w.durable })
	if err := c.setDurable(durable); err != nil {
		return nil, err
	}
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return nil, fmt.Errorf("beginning a transaction: %w", err)
	}
	committed := false
	defer func() {
		if !committed {
			c.exec("ROLLBACK") // an error: SQLite has rolled back by itself
		}
	}()
	clear(c.touched)
	t := &tx{c: c, durable: durable}
	if err := c.begin(t, durable); err != nil {
		return nil, err
	}
	results, err = c.runGroup(t, group)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(results, nil) {
		return results, nil // nothing to keep
	}
	if len(c.touched) > 0 {
		c.lookups.suspend(c.touched)
		defer c.lookups.resume()
	}
	if durable {
		c.begun.Add(1)
		defer c.ended.Add(1)
	}
	if err := c.exec("COMMIT"); err != nil {
		if isIOError(err) {
			c.suspect = err
		}
		return nil, fmt.Errorf("committing: %w", err)
	}
	committed = true
	for _, fn := range t.committed {
		fn()
	}
	if durable {
		c.syncs.Add(1)
	}
	return results, nil
}

// setDurable makes the following commits wait for the disk, or not.
func (c *committer) setDurable(durable bool) error {
	if c.relaxed == !durable {
		return nil
	}
	mode := "NORMAL"
	if durable {
		mode = "FULL"
	}
	// Not a prepared statement: this pragma acts when it is compiled.
	_, err := c.conn.ExecContext(context.Background(), "PRAGMA synchronous="+mode)
	if err == nil {
		c.relaxed = !durable
	}
	return err
}

// runGroup runs each write in a savepoint of its own (one alone needs none) and
// returns its result. An error means that the transaction is broken.
func (c *committer) runGroup(t *tx, group []write) (results []error, err error) {
	results = make([]error, len(group))
	if len(group) == 1 {
		if err := c.rehearse(t, group[0].fn); err != nil {
			return nil, err
		}
		results[0] = call(group[0].fn, t)
		if breaksTransaction(results[0]) {
			return nil, results[0]
		}
		return results, nil
	}
	for i, w := range group {
		if err := c.rehearse(t, w.fn); err != nil {
			return nil, err
		}
		if err := c.exec("SAVEPOINT w"); err != nil {
			return nil, err
		}
		kept := len(t.committed)
		results[i] = call(w.fn, t)
		if breaksTransaction(results[i]) {
			return nil, results[i]
		}
		if results[i] != nil {
			if err := c.exec("ROLLBACK TO w"); err != nil {
				return nil, err
			}
			t.committed, t.roomMade = t.committed[:kept], nil
		}
		if err := c.exec("RELEASE w"); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// rehearse runs a write and takes it back, if everything is to run twice: then it shows
// which write does not set its results anew. An error means that the transaction is
// broken.
func (c *committer) rehearse(t *tx, fn func(*tx) error) error {
	if !c.twice {
		return nil
	}
	if err := c.exec("SAVEPOINT rehearsal"); err != nil {
		return err
	}
	kept := len(t.committed)
	if err := call(fn, t); breaksTransaction(err) {
		return err
	}
	t.committed, t.roomMade = t.committed[:kept], nil
	if err := c.exec("ROLLBACK TO rehearsal"); err != nil {
		return err
	}
	return c.exec("RELEASE rehearsal")
}

// call runs fn; a panic becomes its error, so that one bad write cannot take
// the others of its group along.
func call(fn func(*tx) error, t *tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a transaction: %v\n%s", p, debug.Stack())
		}
	}()
	return fn(t)
}

// rewriteLog writes what the log has over itself, so that all of it is to be
// written once more, and syncs it.
func (c *committer) rewriteLog() error {
	f, err := os.OpenFile(c.log, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buffer := make([]byte, 256<<10)
	for at := int64(0); ; {
		n, err := f.ReadAt(buffer, at)
		if err != nil && err != io.EOF {
			return err
		}
		if _, err := f.WriteAt(buffer[:n], at); err != nil {
			return err
		}
		at += int64(n)
		if err == io.EOF {
			return syncData(f)
		}
	}
}

// checkpoint moves the log into the database, syncs it, and empties the log.
func (c *committer) checkpoint() error {
	var busy, logged, moved int
	err := c.conn.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &logged, &moved)
	if err == nil && busy != 0 {
		err = errors.New("the database is busy")
	}
	return err
}

func (c *committer) exec(query string) error {
	s, err := c.statement(query)
	if err != nil {
		return err
	}
	_, err = s.Exec()
	return err
}

func (c *committer) statement(query string) (*sql.Stmt, error) {
	return c.stmts.get(query, func(query string) (*sql.Stmt, error) {
		return c.conn.PrepareContext(context.Background(), query)
	})
}

// exec runs a statement and returns the number of rows it changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	s, err := t.c.statement(query)
	if err != nil {
		return 0, err
	}
	r, err := s.Exec(args...)
	if err != nil {
		t.fails(err)
		return 0, err
	}
	return r.RowsAffected()
}

// script runs statements that take no arguments and return nothing.
func (t *tx) script(text string) error {
	_, err := t.c.conn.ExecContext(context.Background(), text)
	return err
}

func (t *tx) statement(query string) (*sql.Stmt, error) { return t.c.statement(query) }

// fails: there is no second try, since what fails in a transaction ends it.
func (t *tx) fails(err error) bool {
	t.c.data.notice(err)
	return false
}

// get scans the one row of query into dest; sql.ErrNoRows if there is none.
func (t *tx) get(query string, args []any, dest ...any) error { return getRow(t, query, args, dest...) }
