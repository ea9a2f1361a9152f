//go:build unix

// How long what was done is remembered: as long as it can be undone, whatever others
// do; and at most a year.

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// flood adds as many changes of one tag, with the numbers after 100, all at one time.
func (r *registry) flood(repo string, n int, at int64) {
	r.t.Helper()
	r.restart(func(c *config) {
		inDatabase(r.t, filepath.Join(c.dir, "berth.db"), fmt.Sprintf(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
			INSERT INTO history (change, n, at, time, who, client, action, why, repository, tag, old, new, made)
			SELECT i + 100, 1, %d, 0, 'eve', '', 'push', '', '%s', 'x', '', '', 0 FROM n`, n, at, repo))
	})
	r.freeze()
}

// steps counts what is remembered of a repository.
func (r *registry) steps(repo string) (n int) {
	r.t.Helper()
	if err := r.st.get(`SELECT count(*) FROM history WHERE repository = ?`, []any{repo}, &n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// Nobody erases by pushing what others may want to undo.
func TestFloodOfPushesLeavesOthersTheirHistory(t *testing.T) {
	slow(t)
	t.Parallel()
	const flood = maxHistory + maxHistory/10
	r := startRegistry(t)
	r.freeze()
	first := r.pushImage("a", "x", "{}", "first")
	r.pushImage("a", "x", "{}", "second")
	moved := r.last("a")
	r.flood("eve/a", flood, int64(r.st.uptime()/time.Second))
	r.pass(6 * 24 * time.Hour) // a day before it cannot be undone any more
	for i := range 10 {
		r.pushImage("eve/a", fmt.Sprint(i), "{}", "layer")
	}
	r.pass(0)
	if n := r.steps("eve/a"); n != flood+10 {
		t.Errorf("%d steps of the flood are remembered, want all %d: they can be undone", n, flood+10)
	}
	r.undo(200, "a", moved, first.digest.String())
	r.wantImage("a", "x", first)

	// When it cannot be undone, the repository that has most makes room, and it alone.
	// Nobody has to do anything for it.
	next, err := r.st.collector.collectDue(context.Background())
	if err != nil || next < 0 || next > 24*time.Hour {
		t.Fatalf("the janitor looks again in %v (%v), want within a day", next, err)
	}
	r.pass(2 * 24 * time.Hour)
	if n := r.steps("eve/a"); n > maxHistory || n < maxHistory-maxHistory/50 {
		t.Errorf("%d steps of the flood are remembered, want about %d", n, maxHistory)
	}
	if n := r.steps("a"); n != 3 {
		t.Errorf("%d steps of a are remembered, want all 3", n)
	}
	if list := r.history("eve/a", "n=10"); len(list) != 10 || list[0].Tag != "9" {
		t.Errorf("the newest of the flood are %v", list)
	}
}

// Several that have much share what there is.
func TestHistoryIsSharedEvenly(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	r.pushImage("a", "x", "{}", "layer")
	r.flood("b", maxHistory, 0)
	r.restart(func(c *config) {
		inDatabase(t, filepath.Join(c.dir, "berth.db"), fmt.Sprintf(
			`INSERT INTO history (change, n, at, time, who, client, action, why, repository, tag, old, new, made)
				SELECT change + %d, n, at, time, who, client, action, why, 'c', tag, old, new, made FROM history WHERE repository = 'b' LIMIT %d`,
			maxHistory, maxHistory*3/4))
	})
	r.freeze()
	r.pass(8 * 24 * time.Hour)
	b, c := r.steps("b"), r.steps("c")
	if b != c || b+c > maxHistory || b+c < maxHistory-maxHistory/50 {
		t.Errorf("of b %d steps are remembered, of c %d; want as many, about %d in all", b, c, maxHistory)
	}
	if n := r.steps("a"); n != 1 {
		t.Errorf("a has lost its history to others: %d", n)
	}
}

// What is a year old goes by itself, and its numbers are not given again.
func TestHistoryOfAYearAgoIsForgotten(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	r.pushImage("a", "x", "{}", "1")
	r.moved.Add(int64(time.Hour))
	r.pushImage("a", "x", "{}", "2")
	last := r.last("a")
	r.restart()
	r.freeze()
	begun := r.st.uptime()
	woken := 0
	for n := 2; n > 0; n = r.steps("a") {
		next, err := r.st.collector.collectDue(context.Background())
		if err != nil || next <= 0 {
			t.Fatalf("with %d steps the janitor looks again in %v (%v)", n, next, err)
		}
		if n = r.steps("a"); r.st.uptime()-begun < historyKept-2*time.Hour && n < 2 {
			t.Fatalf("after %v there are %d steps", r.st.uptime()-begun, n)
		}
		woken++
		r.moved.Add(int64(next))
		if r.st.uptime()-begun > historyKept+49*time.Hour {
			t.Fatalf("after %v there are still %d steps", r.st.uptime()-begun, n)
		}
		r.pass(0)
	}
	if woken > 15 { // for what is loose, and once for both
		t.Errorf("the janitor is woken %d times", woken)
	}
	if next, err := r.st.collector.collectDue(context.Background()); err != nil || next >= 0 {
		t.Errorf("all is forgotten, and the janitor looks again in %v (%v)", next, err)
	}
	if list := r.history("a", ""); len(list) != 0 {
		t.Errorf("a has the history %v", list)
	}
	r.pushImage("a", "y", "{}", "2")
	if next := r.last("a"); next != last+1 {
		t.Errorf("the next change is %d, want %d", next, last+1)
	}
}

// What can be undone is remembered, even if that is for longer than a year.
func TestHistoryIsKeptAsLongAsTheGrace(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.untaggedGrace = 3 * historyKept })
	r.freeze()
	first := r.pushImage("a", "x", "{}", "1")
	r.pushImage("a", "x", "{}", "2")
	moved := r.last("a")
	r.pass(2*historyKept + 48*time.Hour)
	r.undo(200, "a", moved, first.digest.String())
	r.wantImage("a", "x", first)
}
