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
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
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
}

// A change is what is done at once. It lives as long as its transaction.
type change struct {
	author
	action, why string
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
	repository string
	tag        string // "" if it is about a manifest, or the repository
	old, new   string // digests; of a repository names; "" for none
	made       int    // what the tag pointed at was made by the registry: 1 before, 2 after
}

// isRepository reports whether a step has moved a whole repository out of sight, or
// back.
func (s step) isRepository() bool { return s.tag == "" && !strings.Contains(s.old+s.new, ":") }

// hides reports whether a step has taken a repository out of sight: such names have
// a # in them.
func (s step) hides() bool { return strings.Contains(s.new, "#") }

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
	_, err := t.exec(`INSERT INTO history (change, n, at, time, who, client, action, why, repository, tag, old, new, made)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		c.number, c.entries, t.clock, time.Now().Unix(), c.who, c.client, c.action, c.why, s.repository, tag, s.old, s.new, s.made)
	return err
}

// nextChange returns a number that no change has had.
func (t *tx) nextChange() (number int64, err error) {
	err = t.get(`SELECT max(coalesce((SELECT max(change) FROM history), 0), (SELECT changes FROM meta)) + 1`, nil, &number)
	return number, err
}

// forgetHistory forgets what is older than historyKept, and some of what cannot be
// undone any more if there is too much. It returns how long to wait for the next that
// is due; negative if there is none.
func (st *store) forgetHistory(ctx context.Context) (next time.Duration, err error) {
	window := st.restoreGrace()
	kept := max(historyKept, window)
	for {
		var at, last int64
		err := st.get(`SELECT at, (SELECT max(change) FROM history) FROM history ORDER BY change LIMIT 1`, nil, &at, &last)
		if errors.Is(err, sql.ErrNoRows) {
			return -1, nil
		}
		if err != nil {
			return 0, err
		}
		// A day's at once, so that nobody is woken for each.
		if due := time.Duration(at)*time.Second + kept + 24*time.Hour - st.uptime(); due > 0 {
			again, err := st.countHistory(ctx, last, st.cutoff(window))
			if again > 0 {
				due = min(due, again)
			}
			return due, err
		}
		if err := st.forgetOldest(st.cutoff(kept)); err != nil || ctx.Err() != nil {
			return 0, errors.Join(err, ctx.Err())
		}
	}
}

// forgetAtOnce bounds the changes that a transaction forgets.
const forgetAtOnce = 500

// forgetOldest forgets some of the oldest changes, if they are from before the cutoff.
func (st *store) forgetOldest(cutoff int64) error {
	return st.forgetting(func(t *tx) error {
		_, err := t.exec(`DELETE FROM history WHERE change <= (SELECT max(change) FROM
			(SELECT change, at FROM history ORDER BY change LIMIT ?2) WHERE at < ?1)`, cutoff, forgetAtOnce)
		return err
	})
}

// countHistory calls forgetMost, if there are so many changes since it last did that it
// may matter, or if there was too much that could still be undone. It returns how long
// to wait in that case; 0 if there is no need to come back. last is the last change.
func (st *store) countHistory(ctx context.Context, last, cutoff int64) (again time.Duration, err error) {
	now, at := int64(st.uptime()/time.Second), st.counted.again.Load()
	if last-st.counted.last.Load() < maxHistory/100 && (at == 0 || now < at) {
		return time.Duration(max(at-now, 0)) * time.Second, nil
	}
	much, err := st.forgetMost(ctx, cutoff)
	if err != nil {
		return 0, err
	}
	at = 0
	if much {
		again = 24 * time.Hour
		at = now + int64(again/time.Second)
	}
	st.counted.last.Store(last)
	st.counted.again.Store(at)
	return again, nil
}

// forgetMost brings the history back to maxHistory steps, as far as there are changes
// from before the cutoff: the repositories that have most lose their oldest, until none
// of them has more than another that has lost some. It reports whether there are still
// too many.
func (st *store) forgetMost(ctx context.Context, cutoff int64) (much bool, err error) {
	type share struct {
		repository string
		steps      int
	}
	shares, err := column(st, func(rows *sql.Rows) (s share, err error) {
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
		changes, err := column(st, scanOne[int64], `SELECT change FROM history WHERE repository = ? ORDER BY change LIMIT ?`, s.repository, s.steps-level)
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
			err = st.forgetting(func(t *tx) error {
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
func (st *store) forgetting(fn func(*tx) error) error {
	return st.updateLazy(func(t *tx) error {
		if _, err := t.exec(`UPDATE meta SET changes = max(changes, (SELECT coalesce(max(change), 0) FROM history))`); err != nil {
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
}

const historyColumns = `change, n, at, time, who, client, action, why, repository, coalesce(tag, ''), old, new, made`

func scanRecord(rows *sql.Rows) (r record, err error) {
	err = rows.Scan(&r.change, &r.n, &r.at, &r.time, &r.who, &r.client, &r.action, &r.why, &r.repository, &r.tag, &r.old, &r.new, &r.made)
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
		return c, errQueryInvalid.saying("last must be what a Link header says, not %.40q", text)
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
			UNION ALL SELECT * FROM history WHERE repository = ?1 AND tag IS NULL AND instr(old || new, ':') = 0 AND (change, n) < (?3, ?4))
			ORDER BY change DESC, n DESC LIMIT ?5`
	case repository != "":
		// The index has no order here: what it sorts are keys, and only the page's rows are read.
		query = `SELECT ` + historyColumns + ` FROM history WHERE (change, n) IN (
			SELECT change, n FROM history WHERE repository = ?1 AND ?2 = '' AND (change, n) < (?3, ?4) ORDER BY change DESC, n DESC LIMIT ?5)
			ORDER BY change DESC, n DESC`
	}
	return column(st, scanRecord, query, repository, tag, after.change, after.n, limit)
}

// restoreGrace is how long what was deleted can be restored.
func (st *store) restoreGrace() time.Duration { return st.graces().manifest }

// undo puts back what was before a change, all of it or nothing, and returns what
// it did. A repository may come back under another name. The error says what is in
// the way.
func (st *store) undo(number int64, as string, by author) (did []step, err error) {
	rules, err := st.rulesNow()
	if err != nil {
		return nil, err
	}
	defer st.wakeJanitor()
	err = st.updateKnowing(func(t *tx) error {
		did = nil
		steps, err := list(t, scanRecord, `SELECT `+historyColumns+` FROM history WHERE change = ? ORDER BY n DESC`, number)
		if err != nil {
			return err
		}
		if len(steps) == 0 {
			return errChangeUnknown.saying("there is no change %d", number)
		}
		u := &undoing{tx: t, st: st, rules: rules, number: number, as: as, all: steps, skipped: make(map[string]bool), c: by.change("undo", fmt.Sprintf("of %d", number))}
		for _, s := range steps {
			if err := u.step(s.step); err != nil {
				return err
			}
		}
		for _, follow := range u.moved {
			if err := follow(); err != nil {
				return err
			}
		}
		if len(u.did) == 0 {
			return errCannotUndo.saying("change %d is undone already, or nothing is left of it", number)
		}
		did = u.did
		return nil
	})
	if err == nil {
		notify(st.tagged)
	}
	return did, err
}

// An undoing is one under way.
type undoing struct {
	*tx
	st     *store
	rules  *tagRules
	number int64    // of what is undone,
	all    []record // and its steps
	as     string
	c      *change
	did    []step

	skipped map[string]bool // indexes that have changed since: they follow what moves
	moved   []func() error  // which is done at the end
}

// step takes one step back.
func (u *undoing) step(s step) error {
	if s.isRepository() {
		return u.repository(s)
	}
	if u.as != "" {
		return errCannotUndo.saying("only a whole repository can come back under another name")
	}
	repo, err := u.findRepository(s.repository)
	if errors.Is(err, errNameUnknown) && s.old == "" {
		return nil // what was added has gone
	}
	if errors.Is(err, errNameUnknown) {
		return errCannotUndo.saying("%s is not there any more: it was deleted, or the grace of what was in it is over", s.repository)
	}
	if err != nil {
		return err
	}
	if s.tag != "" {
		return u.tag(repo, s)
	}
	return u.manifest(repo, s)
}

// tag puts a tag back to where it was.
func (u *undoing) tag(repo repository, s step) error {
	name := s.repository + ":" + s.tag
	is, err := u.findTag(repo.id, s.tag)
	if err != nil {
		return err
	}
	switch {
	case is.digest == digest.Digest(s.old):
		return nil
	case is.digest != digest.Digest(s.new) && u.remade(s):
		u.skipped[s.tag] = true
		return nil
	case is.digest != digest.Digest(s.new):
		last, err := u.lastChange(s.repository, s.tag)
		if err != nil {
			return err
		}
		return errCannotUndo.saying("%s has moved since, by change %d: undo that first", name, last)
	}
	var was target
	if s.old != "" {
		was, err = u.findTarget(repo.id, digest.Digest(s.old))
		if errors.Is(err, sql.ErrNoRows) {
			was, err = u.showIndex(u.st, repo, digest.Digest(s.old))
		}
		if err != nil {
			return err
		}
		if was.id == 0 {
			return errCannotUndo.saying("%s: %s is not there any more, its grace is over or it was deleted", name, s.old)
		}
		was.made = s.made&1 != 0
	}
	if rule := u.rules.immutableBy(s.repository, s.tag); rule != nil && is.id != 0 && !u.c.force {
		return immutableError(s.repository, s.tag, rule)
	}
	if is.id != 0 && was.id != 0 && !u.c.overwrite {
		return errDenied.saying("%s would move; you may delete, but not overwrite", name)
	}
	if err := u.moveTag(u.c, repo, s.tag, is, was); err != nil {
		return err
	}
	if was.id != 0 {
		// Else retention would take it again in an hour.
		until := u.clock + int64(u.st.restoreGrace()/time.Second)
		if _, err := u.exec(`UPDATE tag SET spared = ? WHERE repository = ? AND name = ?`, until, repo.id, s.tag); err != nil {
			return err
		}
	}
	u.did = append(u.did, step{s.repository, s.tag, s.new, s.old, 0})
	u.moved = append(u.moved, func() error {
		if !u.skipped[baseOf(s.tag)] {
			return nil
		}
		p := &pushing{tx: u.tx, rules: u.rules, c: u.c, repo: repo}
		return p.rebase(s.tag, is, was)
	})
	return nil
}

// remade reports whether a step was no more than the registry's index of another tag
// that the change has moved, and will be again.
func (u *undoing) remade(s step) bool {
	return s.made != 0 && u.rules.indexedBy(s.repository, s.tag, fromSuffix) != nil &&
		slices.ContainsFunc(u.all, func(r record) bool { return baseOf(r.tag) == s.tag })
}

// manifest restores a manifest that was deleted, or deletes one that was restored.
func (u *undoing) manifest(repo repository, s step) error {
	d := digest.Digest(s.old + s.new)
	name := s.repository + "@" + d.String()
	var id int64
	var deleted bool
	err := u.get(`SELECT id, deleted IS NOT NULL FROM manifest WHERE repository = ? AND digest = ?`, []any{repo.id, d}, &id, &deleted)
	if errors.Is(err, sql.ErrNoRows) {
		if s.old == "" {
			return nil
		}
		return errCannotUndo.saying("%s is not there any more: its grace is over", name)
	}
	if err != nil || deleted == (s.old == "") {
		return err
	}
	if s.old == "" {
		var user string
		err := u.get(`SELECT 'tag ' || name FROM tag WHERE manifest = ?1
			UNION ALL SELECT 'index ' || p.digest FROM names n JOIN manifest p ON p.id = n.manifest AND p.deleted IS NULL
				WHERE n.repository = ?2 AND n.digest = ?3 AND NOT ?4 LIMIT 1`, []any{id, repo.id, d, u.st.sparse}, &user)
		if err == nil {
			return errCannotUndo.saying("%s is used since, by the %s: delete that first", name, user)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := u.hideManifest(u.c, repo, id, d); err != nil {
			return err
		}
		u.did = append(u.did, step{repository: s.repository, old: d.String()})
		return nil
	}
	missing, err := list(u.tx, scanOne[string], `SELECT n.digest FROM names n WHERE n.manifest = ?1
		AND EXISTS (SELECT 1 FROM manifest m WHERE m.repository = n.repository AND m.digest = n.digest AND m.deleted IS NOT NULL)`, id)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return errCannotUndo.saying("%s has the member %s, which was deleted too: undo that first", name, missing[0])
	}
	if whole, err := u.st.complete(u.tx, id); err != nil {
		return err
	} else if !whole {
		return errCannotUndo.saying("%s has members that are not there any more: their grace is over", name)
	}
	if err := u.showManifest(u.c, repo, id, d); err != nil {
		return err
	}
	u.did = append(u.did, step{repository: s.repository, new: d.String()})
	return nil
}

// complete reports whether all members of an index are there.
func (st *store) complete(t *tx, id int64) (bool, error) {
	if st.sparse {
		return true, nil
	}
	var repo int64
	var d digest.Digest
	var mediaType string
	var body []byte
	if err := t.get(`SELECT repository, digest, media_type, body FROM manifest WHERE id = ?`, []any{id}, &repo, &d, &mediaType, &body); err != nil {
		return false, err
	}
	m, err := parseManifest(body, mediaType, d)
	if err != nil || examineManifest(d, body) != nil {
		return true, nil // its bytes cannot tell; check does
	}
	for _, child := range m.children {
		var there bool
		if err := t.get(`SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = ?1 AND digest = ?2 AND deleted IS NULL)
			OR EXISTS (SELECT 1 FROM blob b JOIN link l ON l.repository = ?1 AND l.blob = b.id WHERE b.digest = ?2)`, []any{repo, child}, &there); err != nil || !there {
			return false, err
		}
	}
	return true, nil
}

// repository brings a repository back, or takes it away again.
func (u *undoing) repository(s step) error {
	var id int64
	err := u.get(`SELECT id FROM repository WHERE name = ?`, []any{s.new}, &id)
	if errors.Is(err, sql.ErrNoRows) {
		return errCannotUndo.saying("what was in %s is not there under that name any more: it is back already, was deleted again by a later change, or its grace is over", s.repository)
	}
	if err != nil {
		return err
	}
	if !s.hides() { // it was restored
		var last int64
		if err := u.get(`SELECT max(change) FROM history WHERE repository = ?`, []any{s.new}, &last); err != nil {
			return err
		}
		if last > u.number {
			return errCannotUndo.saying("%s has changed since, by change %d: undo that first, or delete it", s.new, last)
		}
		if err := u.immutableIn(repository{id, s.new}, u.rules, u.c.author); err != nil {
			return err
		}
		hidden, err := u.hideRepository(u.c, repository{id, s.new})
		u.did = append(u.did, step{repository: s.new, old: s.new, new: hidden})
		return err
	}
	name := s.old
	if u.as != "" {
		name = u.as
	}
	if free, err := u.makeFree(name, id); err != nil {
		return err
	} else if !free {
		return errCannotUndo.saying("there is a repository %s again: restore the old one under another name, with --as, or delete the new one first", name)
	}
	if _, err := u.exec(`UPDATE repository SET name = ?, deleted = NULL WHERE id = ?`, name, id); err != nil {
		return err
	}
	until := u.clock + int64(u.st.restoreGrace()/time.Second)
	if _, err := u.exec(`UPDATE tag SET spared = ? WHERE repository = ?`, until, id); err != nil {
		return err
	}
	u.did = append(u.did, step{repository: name, old: s.new, new: name})
	return u.record(u.c, step{repository: name, old: s.new, new: name})
}

// makeFree reports whether a name can be given to a repository. One that has only
// blobs, of a push that did not come to its end, is no more than a name: the
// blobs go over to the repository.
func (u *undoing) makeFree(name string, to int64) (free bool, err error) {
	there, err := u.findRepository(name)
	if errors.Is(err, errNameUnknown) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	var used bool
	if err := u.get(`SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = ?)`, []any{there.id}, &used); err != nil || used {
		return false, err
	}
	blobs, err := list(u.tx, scanOne[int64], `SELECT blob FROM link WHERE repository = ? AND hidden IS NULL`, there.id)
	if err != nil {
		return false, err
	}
	if _, err := u.exec(`INSERT OR IGNORE INTO link (repository, blob, loose, hidden)
		SELECT ?2, blob, loose, hidden FROM link WHERE repository = ?1 AND hidden IS NOT NULL`, there.id, to); err != nil {
		return false, err
	}
	for _, blob := range blobs {
		if err := u.linkBlob(to, blob); err != nil {
			return false, err
		}
	}
	for _, query := range []string{`DELETE FROM link WHERE repository = ?`, `DELETE FROM repository WHERE id = ?`} {
		if _, err := u.exec(query, there.id); err != nil {
			return false, err
		}
	}
	return true, nil
}

// lastChange returns the number of the last change of a tag.
func (t *tx) lastChange(repository, tag string) (number int64, err error) {
	err = t.get(`SELECT coalesce(max(change), 0) FROM history WHERE repository = ? AND tag = ?`, []any{repository, tag}, &number)
	return number, err
}

// describe says in words what a step did.
func (s step) describe() string {
	name := s.repository + ":" + s.tag
	switch {
	case s.isRepository() && s.hides():
		return fmt.Sprintf("%s deleted", s.repository)
	case s.isRepository():
		return fmt.Sprintf("%s restored", s.repository)
	case s.tag == "" && s.new == "":
		return fmt.Sprintf("%s@%s deleted", s.repository, shortDigest(s.old))
	case s.tag == "":
		return fmt.Sprintf("%s@%s restored", s.repository, shortDigest(s.new))
	case s.old == "":
		return fmt.Sprintf("%s is %s", name, shortDigest(s.new))
	case s.new == "":
		return fmt.Sprintf("%s gone, was %s", name, shortDigest(s.old))
	}
	return fmt.Sprintf("%s is %s, was %s", name, shortDigest(s.new), shortDigest(s.old))
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

// logCommand is `berth log [NAME[:TAG]]`.
func logCommand(ctx context.Context, st *store, o options, out *console) error {
	var name, tag string
	if len(o.Args) > 0 {
		var ref reference
		var err error
		if name, ref, err = parseArgument(o.Args[0]); err != nil {
			return err
		}
		if ref.digest != "" {
			return errors.New("log: say NAME or NAME:TAG")
		}
		tag = ref.tag
	}
	limit := o.Limit
	if limit <= 0 {
		limit = 1<<31 - 2
	}
	list, err := st.history(name, tag, lastOfAll, limit+1)
	if err != nil {
		return err
	}
	more := len(list) > limit
	list = list[:min(len(list), limit)]
	if o.JSON {
		entries := make([]historyEntry, len(list))
		for i, r := range list {
			entries[i] = r.entry()
		}
		return out.json(entries)
	}
	if len(list) == 0 {
		out.printf("nothing was done to it in the time that is remembered\n")
		return nil
	}
	table := out.table("CHANGE", "WHEN", "WHO", "FROM", "BY", "WHAT")
	for _, r := range list {
		by := r.action
		if r.why != "" {
			by += " " + r.why
		}
		from := r.client
		if from == "" {
			from = "-" // it was a command
		}
		table.row(strconv.FormatInt(r.change, 10), time.Unix(r.time, 0).Format("2006-01-02 15:04:05"), r.who, from, by, r.describe())
	}
	table.end()
	if more {
		out.printf("… and more before that; --limit 0 shows all\n")
	}
	return nil
}

// undoCommand is `berth undo CHANGE|NAME[:TAG]`.
func undoCommand(ctx context.Context, st *store, o options, out *console) error {
	if len(o.Args) != 1 {
		return errors.New("undo: say the number of a change, as `berth log` shows it, or NAME[:TAG] for the last change of that")
	}
	if o.As != "" {
		if _, err := parseName(o.As); err != nil {
			return fmt.Errorf("--as: %w", err)
		}
	}
	number, err := strconv.ParseInt(o.Args[0], 10, 64)
	if err != nil {
		name, ref, err := parseArgument(o.Args[0])
		if err != nil {
			return err
		}
		if number, err = st.lastChangeOf(name, ref); err != nil {
			return err
		}
	}
	did, err := st.undo(number, o.As, o.author())
	if err != nil {
		return err
	}
	st.audit("undone", "change", number, "user", o.Who)
	if o.JSON {
		return out.json(undone{number, doneSteps(did)})
	}
	for _, s := range did {
		out.printf("%s\n", s.describe())
	}
	return nil
}

// lastChangeOf returns the last change of a tag, a manifest, or anything of a
// repository that is not undone yet, and is no undo itself: so to undo again goes
// further back.
func (st *store) lastChangeOf(name string, ref reference) (int64, error) {
	query := `SELECT ` + historyColumns + ` FROM history WHERE (change, n) IN (
		SELECT change, n FROM history WHERE repository = ?1 AND change < ?2 AND ?3 = '' ORDER BY change DESC, n DESC LIMIT 100)
		ORDER BY change DESC, n DESC`
	switch {
	case ref.tag != "":
		query = `SELECT ` + historyColumns + ` FROM history WHERE repository = ?1 AND change < ?2 AND tag = ?3 ORDER BY change DESC, n DESC LIMIT 100`
	case ref.digest != "":
		query = `SELECT ` + historyColumns + ` FROM history WHERE repository = ?1 AND change < ?2 AND tag IS NULL AND ?3 IN (old, new) ORDER BY change DESC, n DESC LIMIT 100`
	}
	undone := make(map[int64]bool)
	for before := lastOfAll.change; ; {
		what := ""
		if ref != (reference{}) {
			what = ref.String()
		}
		list, err := column(st, scanRecord, query, name, before, what)
		if err != nil {
			return 0, err
		}
		for _, r := range list {
			before = r.change
			var of int64
			switch n, _ := fmt.Sscanf(r.why, "of %d", &of); {
			case undone[r.change]:
			case r.action == "undo" && n == 1:
				undone[of] = true
			default:
				return r.change, nil
			}
		}
		if len(list) == 0 {
			return 0, errChangeUnknown.saying("nothing was done to it that is remembered and not undone")
		}
	}
}
