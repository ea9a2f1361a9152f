// How a collection gives way to pushes.
//
// Whoever writes takes turns (store_commit.go), and whoever syncs waits for the disk's journal, which
// has to write removed files too. So a collection goes by steps. A step is large where nobody
// pushes: many rows share the pages that they change, and many files a sync. It ends early when a
// write waits for it. When others have committed since the last step, the next one is small, and
// after it the collection rests for longer than it took.
//
// Nor does a step wait for the disk by itself. Rows that come back after a power cut are loose as
// before; only their files must not be gone by then. So the files wait, once, for all rows (certain).

package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// collectAtOnce bounds the rows or files that a step removes while others push, so that no push
	// waits long for it, and collectAlone those of a step that nobody waits for.
	collectAtOnce = 50
	collectAlone  = 500
	// collectFew is how many rows a step removes though a write waits for it.
	collectFew = 20
	// restFor is how many times as long as a step the rest after it is while others push, and maxRest
	// the longest rest: then the next step looks whether they still do.
	restFor = 2
	maxRest = 250 * time.Millisecond
)

// steps are those of one collection.
type steps struct {
	gc      *collector
	ctx     context.Context
	begun   time.Time // of the step under way
	seen    int64     // durable commits when the last one ended
	busy    bool      // others had committed by then
	removed bool      // rows have gone of which the disk may not know
}

func (gc *collector) steps(ctx context.Context) *steps {
	s := &steps{gc: gc, ctx: ctx}
	s.begin()
	return s
}

// begin begins a step that does not follow on another: whatever was committed before is not
// taken for others'.
func (s *steps) begin() { s.begun, s.seen = time.Now(), s.gc.writer.begun.Load() }

// size is how many rows or files the next step removes at most.
func (s *steps) size() int {
	if s.busy {
		return collectAtOnce
	}
	return collectAlone
}

// enough reports whether a step that has removed n rows in t has to end, because a write waits. What
// is in the same commit waits too, and it is durable then.
func (s *steps) enough(t *tx, n int) bool {
	return n >= collectFew && (t.durable || len(s.gc.writer.queue) > 0)
}

// end ends a step, of whose durable commits so many were its own, and rests if others have
// committed meanwhile. Another begins then. The error is ctx's.
func (s *steps) end(own int64) error {
	commits := s.gc.writer.begun.Load()
	s.busy = commits-s.seen > own
	s.seen = commits
	if s.busy {
		s.gc.at("resting")
		timer := time.NewTimer(min(restFor*time.Since(s.begun), maxRest))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.ctx.Done():
		}
	}
	s.begun = time.Now()
	return s.ctx.Err()
}

// A certainty is whether the disk knows of the rows that have gone.
type certainty struct {
	mu      sync.Mutex  // held while the disk is waited for
	missing atomic.Bool // it may not know of all; so it is at the start
}

// certain waits until the rows that have gone are gone for good, as they must be before their files
// are removed (2).
func (s *steps) certain() error {
	sure := &s.gc.sure
	sure.mu.Lock()
	defer sure.mu.Unlock()
	s.removed = false
	if !sure.missing.Swap(false) {
		return nil
	}
	err := s.gc.update(s.gc.saveUptime) // without a change nothing would be synced
	if err != nil {
		sure.missing.Store(true)
	}
	s.seen++ // it was not another's
	return err
}
