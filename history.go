// What was done to tags, manifests and repositories, by whom, and how it is
// undone.
//
// Whatever moves a tag, or deletes or restores something, writes down what was
// before and after, in the same transaction. What was done at once (a push with
// its index, a manifest with its tags, some tags dropped by retention) is one change
// and has one number. To undo it is to put back what was before: as long as that is
// there, which is as long as its grace lasts, and as long as nobody has changed the
// same again. That is a change too, and can be undone.
//
// So nothing that a client deletes goes at once. An image stays, hidden and loose,
// with its blobs, of which those that no other uses are hidden too; a repository stays
// whole under a name that nobody can ask for. The collector takes them when their grace
// is over (gc.go). Till then the history has the change, however much is pushed: what
// bounds it is the room that pushes leave on the disk. The janitor forgets the rest in
// its time.

package main

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// historyKept is how long what was done is remembered. Of what cannot be undone
	// any more, less is if there are more steps than maxHistory.
	historyKept = 366 * 24 * time.Hour
	maxHistory  = 200000
)

// An author is who changes something.
type author struct {
	who       string // a user, "token:NAME", "anonymous"; of a command the account
	client    string // the address; "" for a command
	overwrite bool   // may move tags that exist
	force     bool   // and immutable ones

	request requestRecord // the zero value for a command
	url     string        // of the registry, as the client calls it; "" if that is not known
}

// A change is what is done at once. It lives as long as its transaction.
type change struct {
	author
	action, why string
	undoes      int64 // the number of the change that this one undoes; 0 for none
	number      int64 // 0 until something is recorded
	entries     int
}

func (by author) change(action, why string) *change {
	return &change{author: by, action: action, why: why}
}

// takes reports whether the change only takes away: it makes nothing newer.
func (c *change) takes() bool { return c.action == "delete" || c.action == "retention" }

// A step is one thing that a change has done.
type step struct {
	kind       string // ofTag, ofManifest, ofRepository
	repository string
	tag        string // "" but of a tag
	old, new   string // digests; of a repository names, hidden ones too; "" for none
	made       int    // what the tag pointed at was made by the registry: 1 before, 2 after
}

// What a step is about, as history.kind has it: a tag that has moved, a manifest that was
// deleted or restored, a whole repository that was.
const (
	ofTag        = "tag"
	ofManifest   = "manifest"
	ofRepository = "repository"
)

// hides reports whether a step about a repository has taken it out of sight: its name is
// another one since.
func (s step) hides() bool { return s.new != s.repository }

// record writes down what a change does.
func (t *tx) record(c *change, s step) error {
	if c.number == 0 {
		number, err := t.nextChange()
		if err != nil {
			return err
		}
		c.number = number
	}
	c.entries++
	var tag any
	if s.tag != "" {
		tag = s.tag
	}
	var undoes any
	if c.undoes != 0 {
		undoes = c.undoes
	}
	_, err := t.exec(`INSERT INTO history (change, n, at, time, who, client, action, why, undoes, kind, repository, tag, old, new, made)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		c.number, c.entries, t.clock, time.Now().Unix(), c.who, c.client, c.action, c.why, undoes, s.kind, s.repository, tag, s.old, s.new, s.made)
	return err
}

// nextChange returns a number that no change has had.
func (t *tx) nextChange() (number int64, err error) {
	var forgotten int64
	err = t.get(`SELECT coalesce((SELECT max(change) FROM history), 0), (SELECT changes FROM meta)`, nil, &number, &forgotten)
	return max(number, forgotten) + 1, err
}

// A pruner forgets what its store's history need not keep.
type pruner struct {
	*store
	counted struct{ last, again atomic.Int64 } // the last change when it was counted, and uptime when it is to be again; 0 for none
}

// forgetHistory forgets what is older than historyKept, and some of what cannot be
// undone any more if there is too much. It returns how long to wait for the next that
// is due; negative if there is none.
func (pr *pruner) forgetHistory(ctx context.Context) (next time.Duration, err error) {
	window := pr.restoreGrace()
	kept := max(historyKept, window)
	for {
		var at, last int64
		err := pr.get(`SELECT at, (SELECT max(change) FROM history) FROM history ORDER BY change LIMIT 1`, nil, &at, &last)
		if errors.Is(err, sql.ErrNoRows) {
			return -1, nil
		}
		if err != nil {
			return 0, err
		}
		// A day's at once, so that nobody is woken for each.
		if due := time.Duration(at)*time.Second + kept + 24*time.Hour - pr.uptime(); due > 0 {
			again, err := pr.countHistory(ctx, last, pr.collector.cutoff(window))
			if again > 0 {
				due = min(due, again)
			}
			return due, err
		}
		if err := pr.forgetOldest(pr.collector.cutoff(kept)); err != nil || ctx.Err() != nil {
			return 0, errors.Join(err, ctx.Err())
		}
	}
}

// forgetAtOnce bounds the changes that a transaction forgets.
const forgetAtOnce = 500

// forgetOldest forgets some of the oldest changes, if they are from before the cutoff.
func (pr *pruner) forgetOldest(cutoff int64) error {
	return pr.forgetting(func(t *tx) error {
		_, err := t.exec(`DELETE FROM history WHERE change <= (SELECT max(change) FROM
			(SELECT change, at FROM history ORDER BY change LIMIT ?2) AS oldest WHERE at < ?1)`, cutoff, forgetAtOnce)
		return err
	})
}

// countHistory calls forgetMost, if there are so many changes since it last did that it
// may matter, or if there was too much that could still be undone. It returns how long
// to wait in that case; 0 if there is no need to come back. last is the last change.
func (pr *pruner) countHistory(ctx context.Context, last, cutoff int64) (again time.Duration, err error) {
	now, at := int64(pr.uptime()/time.Second), pr.counted.again.Load()
	if last-pr.counted.last.Load() < maxHistory/100 && (at == 0 || now < at) {
		return time.Duration(max(at-now, 0)) * time.Second, nil
	}
	much, err := pr.forgetMost(ctx, cutoff)
	if err != nil {
		return 0, err
	}
	at = 0
	if much {
		again = 24 * time.Hour
		at = now + int64(again/time.Second)
	}
	pr.counted.last.Store(last)
	pr.counted.again.Store(at)
	return again, nil
}

// forgetMost brings the history back to maxHistory steps, as far as there are changes
// from before the cutoff: the repositories that have most lose their oldest, until none
// of them has more than another that has lost some. It reports whether there are still
// too many.
func (pr *pruner) forgetMost(ctx context.Context, cutoff int64) (much bool, err error) {
	type share struct {
		repository string
		steps      int
	}
	shares, err := listRows(pr, func(rows *sql.Rows) (s share, err error) {
		err = rows.Scan(&s.repository, &s.steps)
		return s, err
	}, `SELECT repository, count(*) FROM history GROUP BY repository`)
	if err != nil {
		return false, err
	}
	slices.SortFunc(shares, func(a, b share) int { return cmp.Compare(a.steps, b.steps) })
	total := 0
	for _, s := range shares {
		total += s.steps
	}
	if total <= maxHistory {
		return false, nil
	}
	room, level := maxHistory-maxHistory/100, 0 // so that it need not be done again at once
	for i, s := range shares {
		if level = room / (len(shares) - i); s.steps > level {
			break
		}
		room -= s.steps
	}
	for _, s := range shares {
		if s.steps <= level {
			continue
		}
		changes, err := listRows(pr, scanOne[int64], `SELECT change FROM history WHERE repository = ? ORDER BY change LIMIT ?`, s.repository, s.steps-level)
		if err != nil {
			return false, err
		}
		for some := range slices.Chunk(slices.Compact(changes), forgetAtOnce) {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			text, err := json.Marshal(some)
			if err != nil {
				return false, err
			}
			var n int64
			err = pr.forgetting(func(t *tx) error {
				n, err = t.exec(`DELETE FROM history WHERE change IN (SELECT value FROM json_each(?)) AND at < ?`, string(text), cutoff)
				return err
			})
			if err != nil {
				return false, err
			}
			if n == 0 {
				much = true // the rest is younger
				break
			}
		}
	}
	return much, nil
}

// forgetting runs fn, which deletes from the history, and keeps the last number: it must
// not be given again.
func (pr *pruner) forgetting(fn func(*tx) error) error {
	return pr.updateLazy(func(t *tx) error {
		if _, err := t.exec(`UPDATE meta SET changes = (SELECT max(change) FROM history) WHERE changes < (SELECT max(change) FROM history)`); err != nil {
			return err
		}
		return fn(t)
	})
}

// A record is a step as it stands in the history.
type record struct {
	step
	change, n   int64
	at, time    int64
	who, client string
	action, why string
	undoes      int64 // 0 for none
}

const historyColumns = `change, n, at, time, who, client, action, why, coalesce(undoes, 0), kind, repository, coalesce(tag, ''), old, new, made`

func scanRecord(rows *sql.Rows) (r record, err error) {
	err = rows.Scan(&r.change, &r.n, &r.at, &r.time, &r.who, &r.client, &r.action, &r.why, &r.undoes, &r.kind, &r.repository, &r.tag, &r.old, &r.new, &r.made)
	return r, err
}

// A cursor is a place in the history. Steps are listed from it on backwards.
type cursor struct{ change, n int64 }

var lastOfAll = cursor{1<<63 - 1, 0}

func (c cursor) String() string { return fmt.Sprintf("%d.%d", c.change, c.n) }

// parseCursor reads what String has written; "" is the last of all.
func parseCursor(text string) (c cursor, err error) {
	if text == "" {
		return lastOfAll, nil
	}
	if n, err := fmt.Sscanf(text, "%d.%d", &c.change, &c.n); n != 2 || err != nil || c.String() != text || c.change < 0 || c.n < 0 {
		return c, errQueryInvalid.saying("last must be as a Link header has it, not %.40q", text)
	}
	return c, nil
}

// history returns at most limit steps, the last first, after a place, of a repository
// ("" for all) and of a tag ("" for all).
func (st *store) history(repository, tag string, after cursor, limit int) ([]record, error) {
	query := `SELECT ` + historyColumns + ` FROM history WHERE (change, n) < (?3, ?4) AND ?1 = '' AND ?2 = '' ORDER BY change DESC, n DESC LIMIT ?5`
	switch {
	case tag != "":
		// With what was done to all of the repository.
		query = `SELECT ` + historyColumns + ` FROM (
			SELECT * FROM history WHERE repository = ?1 AND tag = ?2 AND (change, n) < (?3, ?4)
			UNION ALL SELECT * FROM history WHERE repository = ?1 AND tag IS NULL AND kind = 'repository' AND (change, n) < (?3, ?4)) AS steps
			ORDER BY change DESC, n DESC LIMIT ?5`
	case repository != "":
		// The index has no order here: what it sorts are keys, and only the page's rows are read.
		query = `SELECT ` + historyColumns + ` FROM history WHERE (change, n) IN (
			SELECT change, n FROM history WHERE repository = ?1 AND ?2 = '' AND (change, n) < (?3, ?4) ORDER BY change DESC, n DESC LIMIT ?5)
			ORDER BY change DESC, n DESC`
	}
	return listRows(st, scanRecord, query, repository, tag, after.change, after.n, limit)
}

// isChangeOf reports whether there is a change of that number, whose first step is one of
// a repository.
func (st *store) isChangeOf(number int64, repository string) (bool, error) {
	steps, err := listRows(st, scanRecord, `SELECT `+historyColumns+` FROM history WHERE change = ? ORDER BY n LIMIT 1`, number)
	return err == nil && len(steps) > 0 && steps[0].repository == repository, err
}

// describe says in words what a step did, with what short writes of digests.
func (s step) describe(short func(string) string) string {
	name := s.repository + ":" + s.tag
	switch {
	case s.kind == ofRepository && s.hides():
		return fmt.Sprintf("%s deleted", s.repository)
	case s.kind == ofRepository:
		return fmt.Sprintf("%s restored", s.repository)
	case s.kind == ofManifest && s.new == "":
		return fmt.Sprintf("%s@%s deleted", s.repository, short(s.old))
	case s.kind == ofManifest:
		return fmt.Sprintf("%s@%s restored", s.repository, short(s.new))
	case s.old == "":
		return fmt.Sprintf("%s is %s", name, short(s.new))
	case s.new == "":
		return fmt.Sprintf("%s gone, was %s", name, short(s.old))
	}
	return fmt.Sprintf("%s is %s, was %s", name, short(s.new), short(s.old))
}

// shortDigest is enough of a digest for people.
func shortDigest(d string) string {
	algorithm, hex, ok := strings.Cut(d, ":")
	if !ok || len(hex) < 12 {
		return d
	}
	return algorithm + ":" + hex[:12]
}

// A historyEntry is a step as clients get it.
type historyEntry struct {
	Change     int64     `json:"change"`
	Time       time.Time `json:"time"`
	Who        string    `json:"who"`
	Client     string    `json:"client,omitempty"` // the address; none for a command
	Action     string    `json:"action"`
	Why        string    `json:"why,omitempty"`
	Repository string    `json:"repository"`
	Tag        string    `json:"tag,omitempty"`
	Old        string    `json:"old,omitempty"` // digest before, of a tag or a deleted manifest
	New        string    `json:"new,omitempty"` // digest after, of a tag or a restored manifest
}

func (r record) entry() historyEntry {
	return historyEntry{Change: r.change, Time: time.Unix(r.time, 0).UTC(), Who: r.who, Client: r.client, Action: r.action, Why: r.why,
		Repository: r.repository, Tag: r.tag, Old: r.old, New: r.new}
}

// lastChangeOf returns the last change of a tag, a manifest, or anything of a
// repository that is not undone yet, and is no undo itself. undo is the last change
// if that was an undo, else 0: who undoes the last change again may mean the same one.
func (st *store) lastChangeOf(name string, ref reference) (last record, undo int64, err error) {
	query := `SELECT ` + historyColumns + ` FROM history WHERE (change, n) IN (
		SELECT change, n FROM history WHERE repository = ?1 AND change < ?2 AND ?3 = '' ORDER BY change DESC, n DESC LIMIT 100)
		ORDER BY change DESC, n DESC`
	switch {
	case ref.tag != "":
		query = `SELECT ` + historyColumns + ` FROM history WHERE repository = ?1 AND change < ?2 AND tag = ?3 ORDER BY change DESC, n DESC LIMIT 100`
	case ref.digest != "":
		query = `SELECT ` + historyColumns + ` FROM history WHERE repository = ?1 AND change < ?2 AND tag IS NULL AND ?3 IN (old, new) ORDER BY change DESC, n DESC LIMIT 100`
	}
	what := ""
	if ref != (reference{}) {
		what = ref.String()
	}
	undone := make(map[int64]bool)
	for before, first := lastOfAll.change, true; ; {
		list, err := listRows(st, scanRecord, query, name, before, what)
		if err != nil {
			return last, 0, err
		}
		for _, r := range list {
			if first && r.undoes != 0 {
				undo = r.change
			}
			before, first = r.change, false
			switch {
			case undone[r.change]:
			case r.undoes != 0:
				undone[r.undoes] = true
			default:
				return r, undo, nil
			}
		}
		if len(list) == 0 {
			return last, undo, errChangeUnknown.saying("nothing is remembered that was done to %[1]s and is not undone; `berth log %[1]s` shows what was done", ref.of(name))
		}
	}
}
