// The committer: many writes share a commit, and each still has a result of
// its own. A write that fails, panics or breaks the transaction takes nobody
// along; a lazy one costs no sync.
//
// The writes insert upload sessions, the one kind of row that may stand alone.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
)

// addSession returns a write that inserts a session with this id.
func addSession(id string) func(*tx) error {
	return func(t *tx) error {
		_, err := t.exec(`INSERT INTO upload (id, repository, algorithm, offset, used) VALUES (?, 'a', 'sha256', 0, ?)`, id, t.clock)
		return err
	}
}

// hasSession reports whether the row is there, as readers see it.
func hasSession(t testing.TB, st *store, id string) bool {
	t.Helper()
	var n int
	if err := st.get(`SELECT count(*) FROM upload WHERE id = ?`, []any{id}, &n); err != nil {
		t.Fatal(err)
	}
	return n == 1
}

// busyWriter returns when the committer is inside a write that ends with
// release. What is queued until then makes up the next group.
func busyWriter(t testing.TB, st *store) (release func()) {
	t.Helper()
	began, end, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	begin := sync.OnceFunc(func() { close(began) }) // the write may run twice
	go func() {
		done <- st.update(func(*tx) error {
			begin()
			<-end
			return nil
		})
	}()
	<-began
	return sync.OnceFunc(func() {
		close(end)
		if err := <-done; err != nil {
			t.Errorf("the write that others waited for: %v", err)
		}
	})
}

// queued waits until n writes wait for the committer.
func queued(st *store, n int) {
	for len(st.writer.queue) < n {
		runtime.Gosched()
	}
}

// oneGroup commits writes together, in this order, and returns their results.
func oneGroup(t testing.TB, st *store, writes ...func(*tx) error) []error {
	t.Helper()
	release := busyWriter(t, st)
	defer release()
	results := make([]error, len(writes))
	var wg sync.WaitGroup
	for i, fn := range writes {
		wg.Go(func() { results[i] = st.update(fn) })
		queued(st, i+1)
	}
	release()
	wg.Wait()
	return results
}

// A write that is rolled back leaves nothing to do once the others are committed.
func TestFailedWriteTakesItsCallbacksWithIt(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	var called []string
	write := func(name string, result error) func(*tx) error {
		return func(t *tx) error {
			t.committed = append(t.committed, func() { called = append(called, name) })
			return result
		}
	}
	panics := func(t *tx) error {
		write("panic", nil)(t)
		panic("in a write")
	}
	results := oneGroup(t, r.st, write("one", nil), write("failed", errGone), panics, write("two", nil))
	if results[0] != nil || !errors.Is(results[1], errGone) || results[2] == nil || results[3] != nil {
		t.Errorf("results %v", results)
	}
	if got := strings.Join(called, " "); got != "one two" {
		t.Errorf("called after the commit: %s, want one two", got)
	}
}

// In tests every write runs twice, so that one shows that counts on what it has captured.
// What the first run did is taken back, alone and in a group.
func TestWritesRunTwice(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	runs, called := 0, 0
	write := func(t *tx) error {
		runs++
		t.committed = append(t.committed, func() { called++ })
		return addSession("once")(t)
	}
	if err := r.st.update(write); err != nil || runs != 2 || called != 1 || !hasSession(t, r.st, "once") {
		t.Errorf("a write = %v, it ran %d times, and %d of its callbacks", err, runs, called)
	}
	other := func(t *tx) error {
		runs++
		return addSession("other")(t)
	}
	if err := errors.Join(oneGroup(t, r.st, other, addSession("third"))...); err != nil || runs != 4 || !hasSession(t, r.st, "other") || !hasSession(t, r.st, "third") {
		t.Errorf("writes in a group: %v, one ran %d times", err, runs-2)
	}
}

func TestEachWriteOfManyHasItsOwnResult(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	const writers, each = 32, 10
	errOdd := errors.New("odd")
	ids := make([][each]string, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				id := uuid.NewString()
				ids[i][j] = id
				err := r.st.update(func(t *tx) error {
					if err := addSession(id)(t); err != nil {
						return err
					}
					if j%2 == 1 {
						return fmt.Errorf("write %d of %d: %w", j, i, errOdd)
					}
					return nil
				})
				want := fmt.Sprintf("write %d of %d: odd", j, i)
				switch {
				case j%2 == 0 && err != nil:
					t.Errorf("write %d of %d = %v", j, i, err)
				case j%2 == 1 && (!errors.Is(err, errOdd) || err.Error() != want):
					t.Errorf("write %d of %d = %v, want %s", j, i, err, want)
				}
				// The result is not told before it is true for readers.
				if got := hasSession(t, r.st, id); got != (j%2 == 0) {
					t.Errorf("write %d of %d: the row is there = %v after %v", j, i, got, err)
				}
			}
		})
	}
	wg.Wait()
	r.restart()
	for i := range ids {
		for j, id := range ids[i] {
			if got := hasSession(t, r.st, id); got != (j%2 == 0) {
				t.Errorf("write %d of %d after a restart: the row is there = %v", j, i, got)
			}
		}
	}
}

func TestWritesThatWaitShareOneSync(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	before := r.st.writer.syncs.Load()
	release := busyWriter(t, r.st)
	var wg sync.WaitGroup
	const waiting = 32
	for range waiting {
		wg.Go(func() {
			if err := r.st.update(addSession(uuid.NewString())); err != nil {
				t.Error(err)
			}
		})
	}
	queued(r.st, waiting)
	release()
	wg.Wait()
	if n := r.st.writer.syncs.Load() - before; n != 2 {
		t.Errorf("a write and the %d that waited for it cost %d syncs, want 2", waiting, n)
	}
}

func TestPushesShareSyncs(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	before := r.st.writer.syncs.Load()
	release := busyWriter(t, r.st)
	const pushes = 16
	var wg sync.WaitGroup
	for i := range pushes {
		wg.Go(func() {
			content := fmt.Sprint("blob ", i)
			re, err := r.try("POST", "/v2/a/blobs/uploads/?digest="+sum(content).String(), content)
			if err != nil || re.status != 201 {
				t.Errorf("push %d: %v %v", i, re, err)
			}
		})
	}
	queued(r.st, pushes)
	release()
	wg.Wait()
	if n := r.st.writer.syncs.Load() - before; n != 2 {
		t.Errorf("%d pushes behind one write cost %d syncs of the database, want 2 in all", pushes, n)
	}
}

func TestFailedWriteLeavesItsGroupAlone(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	first, failed, last := uuid.NewString(), uuid.NewString(), uuid.NewString()
	refused := errors.New("refused")
	results := oneGroup(t, r.st, addSession(first), func(t *tx) error {
		return errors.Join(addSession(failed)(t), refused)
	}, addSession(last))
	if results[0] != nil || !errors.Is(results[1], refused) || results[2] != nil {
		t.Errorf("results %v, want only the second to fail", results)
	}
	if !hasSession(t, r.st, first) || hasSession(t, r.st, failed) || !hasSession(t, r.st, last) {
		t.Error("what stays is not what was told to succeed")
	}
}

func TestPanicInAWriteLeavesItsGroupAlone(t *testing.T) {
	t.Parallel()
	for _, group := range []string{"alone", "in a group"} {
		t.Run(group, func(t *testing.T) {
			r := startRegistry(t)
			panicked := uuid.NewString()
			writes := []func(*tx) error{func(t *tx) error {
				if err := addSession(panicked)(t); err != nil {
					return err
				}
				panic("out of luck")
			}}
			var others []string
			if group != "alone" {
				others = []string{uuid.NewString(), uuid.NewString()}
				writes = append([]func(*tx) error{addSession(others[0])}, append(writes, addSession(others[1]))...)
			}
			for i, err := range oneGroup(t, r.st, writes...) {
				if i == len(writes)/2 {
					if err == nil || !strings.Contains(err.Error(), "out of luck") {
						t.Errorf("the write that panics = %v", err)
					}
				} else if err != nil {
					t.Errorf("write %d beside one that panics = %v", i, err)
				}
			}
			if hasSession(t, r.st, panicked) {
				t.Error("the write that panicked left a row")
			}
			for _, id := range others {
				if !hasSession(t, r.st, id) {
					t.Error("a write beside one that panicked is lost")
				}
			}
			r.pushImage("a", "after", "{}", "layer")
		})
	}
}

// SQLite may roll a whole transaction back for the sake of one statement, and
// then the others of the group must be run again.
func TestWriteThatBreaksTheTransactionTakesNobodyAlong(t *testing.T) {
	slow(t)
	t.Parallel()
	for name, breakIt := range map[string]func(*tx) error{
		"no space": func(t *tx) error {
			// As on a full disk: the file may not grow.
			var pages int
			if err := t.get(`PRAGMA page_count`, nil, &pages); err != nil {
				return err
			}
			var limit int
			if err := t.get(fmt.Sprintf("PRAGMA max_page_count=%d", pages+2), nil, &limit); err != nil {
				return err
			}
			_, err := t.exec(`INSERT INTO upload (id, repository, algorithm, offset, used) VALUES (?, ?, 'sha256', 0, 0)`,
				uuid.NewString(), strings.Repeat("x", 1<<20))
			var other int
			return errors.Join(err, t.get(`PRAGMA max_page_count=1073741823`, nil, &other))
		},
		"rolled back": func(t *tx) error {
			_, err := t.exec("ROLLBACK")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			first, last := uuid.NewString(), uuid.NewString()
			results := oneGroup(t, r.st, addSession(first), breakIt, addSession(last))
			if results[0] != nil || results[2] != nil {
				t.Errorf("writes beside one that broke the transaction = %v, %v", results[0], results[2])
			}
			if results[1] == nil {
				t.Error("the write that broke the transaction succeeded")
			} else if got := isNoSpace(results[1]); got != (name == "no space") {
				t.Errorf("the write that broke the transaction = %v; no space: %v", results[1], got)
			}
			if !hasSession(t, r.st, first) || !hasSession(t, r.st, last) {
				t.Error("what was told to succeed is not there")
			}
			var big int
			if err := r.st.get(`SELECT count(*) FROM upload WHERE length(repository) > 1000`, nil, &big); err != nil || big != 0 {
				t.Errorf("the write that failed left %d rows (%v)", big, err)
			}
			// And the committer goes on.
			r.pushImage("a", "after", "{}", "layer")
			if err := r.st.update(breakIt); err == nil {
				t.Error("alone, the write that breaks the transaction succeeded")
			}
			r.pushImage("a", "again", "{}", "another layer")
			r.restart()
			if !hasSession(t, r.st, first) || !hasSession(t, r.st, last) {
				t.Error("after a restart, what was told to succeed is not there")
			}
		})
	}
}

func TestLazyWriteCostsNoSyncAndSurvives(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	before := r.st.writer.syncs.Load()
	var ids []string
	for range 5 {
		id := uuid.NewString()
		ids = append(ids, id)
		if err := r.st.updateLazy(addSession(id)); err != nil {
			t.Fatal(err)
		}
		if !hasSession(t, r.st, id) {
			t.Error("a lazy write was acknowledged and is not there")
		}
	}
	r.want(202, "POST", "/v2/a/blobs/uploads/", nil)
	if n := r.st.writer.syncs.Load() - before; n != 0 {
		t.Errorf("lazy writes cost %d syncs, want none", n)
	}

	// The end of the process: what another one finds at this moment.
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(r.cfg.dir)); err != nil {
		t.Fatal(err)
	}
	crashed := openDirectory(t, dir)
	for _, id := range ids {
		if !hasSession(t, crashed, id) {
			t.Error("a lazy write is lost with the process")
		}
	}

	// A durable write makes them durable too: one sync for all.
	if err := r.st.update(addSession(uuid.NewString())); err != nil {
		t.Fatal(err)
	}
	if n := r.st.writer.syncs.Load() - before; n != 1 {
		t.Errorf("a durable write after lazy ones cost %d syncs, want 1", n)
	}
	r.restart()
	for _, id := range ids {
		if !hasSession(t, r.st, id) {
			t.Error("a lazy write is lost by a restart")
		}
	}
}

func TestLazyWriteInADurableGroupIsDurable(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	before := r.st.writer.syncs.Load()
	release := busyWriter(t, r.st)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.st.updateLazy(addSession(uuid.NewString())); err != nil {
			t.Error(err)
		}
	})
	queued(r.st, 1)
	wg.Go(func() {
		if err := r.st.update(addSession(uuid.NewString())); err != nil {
			t.Error(err)
		}
	})
	queued(r.st, 2)
	release()
	wg.Wait()
	if n := r.st.writer.syncs.Load() - before; n != 2 {
		t.Errorf("a lazy and a durable write behind another cost %d syncs, want 2 in all", n)
	}
}

// openDirectory opens a store by itself, checks it at the end of the test and
// closes it.
func openDirectory(t testing.TB, dir string) *store {
	t.Helper()
	cfg := directoryConfig(t, dir)
	st, err := openStore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		report, err := st.check(context.Background(), true, func(int64) {})
		if err != nil {
			t.Errorf("checking %s: %v", filepath.Base(dir), err)
		} else {
			for _, p := range report.findings {
				t.Errorf("check: %s", p.problem)
			}
		}
		if err := st.close(); err != nil {
			t.Errorf("closing %s: %v", filepath.Base(dir), err)
		}
	})
	return st
}

// directoryConfig is the configuration of `berth --data dir`.
func directoryConfig(t testing.TB, dir string) storeConfig {
	t.Helper()
	cfg, err := parseConfig("serve", []string{"--data", dir}, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.storeConfig
}
