// A collection beside pushes.

package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// looseBlobs pushes n blobs that nothing refers to and that nobody is promised.
func (r *registry) looseBlobs(n int) {
	r.t.Helper()
	if err := share(8, n, func(i int) error {
		content := fmt.Sprint("blob ", i)
		_, err := r.expect(201, "POST", "/v2/a/blobs/uploads/?digest="+sum(content).String(), content)
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
	r.st.promises.forget()
}

// Nobody waits for a collection that nobody disturbs, so it need not wait for the disk at each step
// either; but no file is removed before the disk knows that its row is.
func TestCollectionWaitsForTheDiskBeforeItRemovesFiles(t *testing.T) {
	t.Parallel()
	var removed, early, rests atomic.Int64
	var rowsAt atomic.Int64 // durable commits when rows went last
	var st atomic.Pointer[store]
	r := startRegistry(t, func(c *config) {
		c.at = func(point string) {
			switch s := st.Load(); {
			case s == nil:
			case point == "decided":
				rowsAt.Store(s.writer.syncs.Load())
			case point == "unlinked":
				removed.Add(1)
				if s.writer.syncs.Load() == rowsAt.Load() {
					early.Add(1)
				}
			case point == "resting":
				rests.Add(1)
			}
		}
	})
	r.looseBlobs(3 * collectAtOnce)
	st.Store(r.st)
	before := r.st.writer.syncs.Load()
	if c := r.collect(collectNow); c.Blobs != 3*collectAtOnce {
		t.Fatalf("%+v is collected, want all", c)
	}
	if n := r.st.writer.syncs.Load() - before; n != 1 {
		t.Errorf("it has waited %d times for the disk to know of the rows, want once", n)
	}
	if removed.Load() == 0 || early.Load() > 0 {
		t.Errorf("files of %d directories were removed, of %d of them before the disk knew", removed.Load(), early.Load())
	}
	if n := rests.Load(); n > 0 {
		t.Errorf("it has rested %d times, and nobody pushed", n)
	}
}

// Rows that are gone may have gone without the disk knowing it when a process ends; the next one
// makes sure of it before it removes their files.
func TestFilesWaitForTheDiskAfterARestart(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.looseBlobs(1)
	r.st.collector.removal.RLock() // the file stays, as beside a backup
	r.collect(collectNow)
	r.st.collector.removal.RUnlock()
	r.restart()
	before := r.st.writer.syncs.Load()
	if n, err := r.st.collector.emptyTrash(r.st.collector.steps(t.Context())); n != 1 || err != nil {
		t.Fatalf("%d files are removed, %v; want 1", n, err)
	}
	if n := r.st.writer.syncs.Load() - before; n != 1 {
		t.Errorf("the file is removed after %d durable commits, want 1", n)
	}
}

// A push that waits for the database ends a collection's step.
func TestCollectionEndsItsStepForAPush(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.looseBlobs(collectAtOnce)
	release := busyWriter(t, r.st)
	defer release()
	var wg sync.WaitGroup
	wg.Go(func() { r.collect(collectNow) })
	queued(r.st, 1)
	var left int
	wg.Go(func() {
		err := r.st.update(func(tx *tx) error { return tx.get(`SELECT count(*) FROM link`, nil, &left) })
		if err != nil {
			t.Error(err)
		}
	})
	queued(r.st, 2)
	release()
	wg.Wait()
	if want := collectAtOnce - collectFew; left != want {
		t.Errorf("%d of %d rows are left when the other write comes, want %d", left, collectAtOnce, want)
	}
}

// A collection rests while others push, and goes on when they do not.
func TestCollectionRestsWhileOthersPush(t *testing.T) {
	slow(t)
	t.Parallel()
	var r *registry
	var pushes, rests atomic.Int64
	r = startRegistry(t, func(c *config) {
		c.at = func(point string) {
			switch point {
			case "collecting":
				if n := pushes.Add(1); n <= 2 {
					r.pushBlob("a", fmt.Sprint("new ", n))
				}
			case "resting":
				rests.Add(1)
			}
		}
	})
	r.looseBlobs(2*collectAlone + 3*collectAtOnce)
	r.collect(collectNow)
	if pushes.Load() < 4 || rests.Load() != 2 {
		t.Errorf("it has rested %d times in %d steps, want 2: others have pushed in two", rests.Load(), pushes.Load())
	}
}

// While a collection removes some blobs, others can be promised.
func TestPromisesDoNotWaitForOtherRemovals(t *testing.T) {
	t.Parallel()
	var r *registry
	var once sync.Once
	answered := make(chan int, 1)
	r = startRegistry(t, func(c *config) {
		c.at = func(point string) {
			if point == "decided" {
				once.Do(func() {
					re, err := r.try("HEAD", "/v2/a/blobs/"+sum("kept").String(), nil)
					if err != nil {
						t.Error(err)
						return
					}
					answered <- re.status
				})
			}
		}
	})
	r.pushImage("a", "x", "{}", "kept")
	r.looseBlobs(1)
	if c := r.collect(collectNow); c.Blobs != 1 {
		t.Errorf("%+v is collected, want one blob", c)
	}
	if got := <-answered; got != 200 {
		t.Errorf("HEAD of a blob that stays = %d, want 200", got)
	}
}
