// The way back: undo of a change, step by step.
//
// A step is undone only if nothing later stands on it. An undo is a change itself, so it can be
// undone too.

package main

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// undo puts back what was before a change, all of it or nothing, and returns what
// it did, and the number of the change that this is: to undo that takes it back. A
// repository may come back under another name. Of a change that has only removed tags, tag
// names the one that is to come back; "" is all of them. The error says what is in the way.
func (st *store) undo(number int64, tag, as string, by author) (did []step, is int64, err error) {
	rules, err := st.host.rulesNow()
	if err != nil {
		return nil, 0, err
	}
	defer st.collector.wakeUp()
	err = st.platforms.updateKnowing(func(t *tx) error {
		did = nil
		steps, err := listRows(t, scanRecord, `SELECT `+historyColumns+` FROM history WHERE change = ? ORDER BY n DESC`, number)
		if err != nil {
			return err
		}
		if len(steps) == 0 {
			return errChangeUnknown.saying("there is no change %d", number)
		}
		if tag != "" && onlyRemovedTags(steps) {
			steps = slices.DeleteFunc(steps, func(r record) bool { return r.tag != tag })
		}
		u := &undoing{tx: t, st: st, rules: rules, number: number, as: as, all: steps, skipped: make(map[string]bool), c: by.change("undo", fmt.Sprintf("of %d", number))}
		u.c.undoes = number
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
		did, is = u.did, u.c.number
		return nil
	})
	if err == nil {
		notify(st.retainer.tagged)
	}
	return did, is, err
}

// onlyRemovedTags reports whether the steps of a change have removed tags and done no more, so
// that each can be taken back without the others.
func onlyRemovedTags(steps []record) bool {
	return !slices.ContainsFunc(steps, func(r record) bool { return r.kind != ofTag || r.new != "" || r.made != 0 })
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
	if s.kind == ofRepository {
		return u.repository(s)
	}
	if u.as != "" {
		return errCannotUndo.saying("only a whole repository can be restored under another name")
	}
	repo, err := u.findRepository(s.repository)
	if errors.Is(err, errNameUnknown) {
		if err := refuseDeleted(u, s.repository); err != nil {
			return err
		}
		if s.old == "" {
			return nil // what was added has gone
		}
		return errCannotUndo.saying("%s no longer exists: it was deleted, or the grace period of its contents is over", s.repository)
	}
	if err != nil {
		return err
	}
	if s.kind == ofTag {
		return u.tag(repo, s)
	}
	return u.manifest(repo, s)
}

// tag puts a tag back to where it was.
func (u *undoing) tag(repo storedRepository, s step) error {
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
		if deleted, err := deletionOf(u, s.repository); err != nil {
			return err
		} else if last <= u.number && deleted > u.number {
			return errCannotUndo.saying("%s was deleted by change %d, and there is another %[1]s now; to restore the old one beside it, undo %d with --as and another name", s.repository, deleted, deleted)
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
			return errCannotUndo.saying("%s: %s no longer exists: it was deleted, or its grace period is over", name, s.old)
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
	u.did = append(u.did, step{kind: ofTag, repository: s.repository, tag: s.tag, old: s.new, new: s.old})
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
func (u *undoing) manifest(repo storedRepository, s step) error {
	d := digest.Digest(s.old + s.new)
	name := s.repository + "@" + d.String()
	var id int64
	var deleted bool
	err := u.get(`SELECT id, deleted IS NOT NULL FROM manifest WHERE repository = ? AND digest = ?`, []any{repo.id, d}, &id, &deleted)
	if errors.Is(err, sql.ErrNoRows) {
		if s.old == "" {
			return nil
		}
		return errCannotUndo.saying("%s no longer exists: its grace period is over", name)
	}
	if err != nil || deleted == (s.old == "") {
		return err
	}
	if s.old == "" {
		var user string
		err := u.get(`SELECT 'tag ' || name FROM tag WHERE manifest = ?1
			UNION ALL SELECT 'index ' || p.digest FROM names n JOIN manifest p ON p.id = n.manifest AND p.deleted IS NULL
				WHERE n.repository = ?2 AND n.digest = ?3 AND ?4 = 0 LIMIT 1`, []any{id, repo.id, d, u.st.sparse}, &user)
		if err == nil {
			return errCannotUndo.saying("%s has come into use since, by the %s: delete that first", name, user)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := u.hideManifest(u.c, repo, id, d); err != nil {
			return err
		}
		u.did = append(u.did, step{kind: ofManifest, repository: s.repository, old: d.String()})
		return nil
	}
	missing, err := listRows(u.tx, scanOne[string], `SELECT n.digest FROM names n WHERE n.manifest = ?1
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
		return errCannotUndo.saying("%s has members that no longer exist: their grace period is over", name)
	}
	if err := u.showManifest(u.c, repo, id, d); err != nil {
		return err
	}
	u.did = append(u.did, step{kind: ofManifest, repository: s.repository, new: d.String()})
	return nil
}

// repository brings a repository back, or takes it away again.
func (u *undoing) repository(s step) error {
	var id int64
	err := u.get(`SELECT id FROM repository WHERE name = ? AND emptying = 0`, []any{s.new}, &id)
	if errors.Is(err, sql.ErrNoRows) {
		return errCannotUndo.saying("the contents of %s are no longer kept: they are back already, were deleted again by a later change, or their grace period is over or was ended by `berth gc --now`", s.repository)
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
		if err := u.immutableIn(storedRepository{id, s.new}, u.rules, u.c.author); err != nil {
			return err
		}
		hidden, err := u.hideRepository(u.c, storedRepository{id, s.new})
		u.did = append(u.did, step{kind: ofRepository, repository: s.new, old: s.new, new: hidden})
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
	if err := u.announceTags(u.c, storedRepository{id, name}); err != nil {
		return err
	}
	back := step{kind: ofRepository, repository: name, old: s.new, new: name}
	u.did = append(u.did, back)
	return u.record(u.c, back)
}

// deletionOf returns the last change that has deleted a repository, and can still be undone;
// 0 if there is none.
func deletionOf(q queryer, name string) (number int64, err error) {
	err = getRow(q, `SELECT coalesce(max(h.change), 0) FROM history h JOIN repository r ON r.name = h.new AND r.emptying = 0
		WHERE h.repository = ?1 AND h.tag IS NULL AND h.kind = 'repository' AND h.new <> ?1`, []any{name}, &number)
	return number, err
}

// refuseDeleted is an error that says how a repository that is not there comes back; nil if it
// cannot.
func refuseDeleted(q queryer, name string) error {
	number, err := deletionOf(q, name)
	if err != nil || number == 0 {
		return err
	}
	return errCannotUndo.saying("%s was deleted by change %d: undo that first", name, number).
		with(map[string]string{"name": name, "deletedBy": strconv.FormatInt(number, 10)})
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
	blobs, err := listRows(u.tx, scanOne[int64], `SELECT blob FROM link WHERE repository = ? AND hidden IS NULL`, there.id)
	if err != nil {
		return false, err
	}
	if _, err := u.exec(`INSERT INTO link (repository, blob, loose, hidden)
		SELECT ?2, blob, loose, hidden FROM link WHERE repository = ?1 AND hidden IS NOT NULL ON CONFLICT DO NOTHING`, there.id, to); err != nil {
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
