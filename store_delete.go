// Deleted, and not yet gone: manifests and repositories that a client has deleted are hidden,
// and stay for their grace, so that they can be restored (history_undo.go).

package main

import (
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"
)

// deleteManifest hides a manifest, with its tags, until its grace is over. It goes
// from indexes that the registry has made. A member of any other stays, and the
// error is errDenied (3).
func (st *store) deleteManifest(repository string, d digest.Digest, by author) (number int64, err error) {
	rules, err := st.host.rulesNow()
	if err != nil {
		return 0, err
	}
	err = st.platforms.updateKnowing(func(t *tx) error {
		p := &pushing{tx: t, rules: rules, c: by.change("delete", "")}
		unknown := errManifestUnknown.with(map[string]string{"name": repository, "reference": d.String()})
		if p.repo, err = t.findRepository(repository); errors.Is(err, errNameUnknown) {
			return unknown.because(err)
		} else if err != nil {
			return err
		}
		it, err := t.findTarget(p.repo.id, d)
		if errors.Is(err, sql.ErrNoRows) {
			return unknown
		}
		if err != nil {
			return err
		}
		if err := p.leaveIndexes(it, st.sparse, st.untaggedGrace == 0); err != nil {
			return err
		}
		tags, err := listRows(t, scanOne[string], `SELECT name FROM tag WHERE manifest = ?`, it.id)
		if err != nil {
			return err
		}
		for _, tag := range tags {
			was, err := t.findTag(p.repo.id, tag)
			if err != nil {
				return err
			}
			if err := p.untag(tag, was); err != nil {
				return err
			}
		}
		err = t.hideManifest(p.c, p.repo, it.id, d)
		number = p.c.number
		return err
	})
	st.collector.wakeUp()
	return number, err
}

// deleteRepository takes a repository out of sight, at once and however much is in
// it, until its grace is over.
func (st *store) deleteRepository(name string, by author) (number int64, err error) {
	rules, err := st.host.rulesNow()
	if err != nil {
		return 0, err
	}
	err = st.update(func(t *tx) error {
		repo, err := t.findRepository(name)
		if err != nil {
			return err
		}
		if err := t.immutableIn(repo, rules, by); err != nil {
			return err
		}
		c := by.change("delete", "")
		_, err = t.hideRepository(c, repo)
		number = c.number
		return err
	})
	st.collector.wakeUp()
	return number, err
}

// immutableIn is errDenied if a repository has a tag that never goes.
func (t *tx) immutableIn(repo storedRepository, rules *tagRules, by author) error {
	if by.force || len(rules.immutable) == 0 {
		return nil
	}
	tags, err := listRows(t, scanOne[string], `SELECT name FROM tag WHERE repository = ?`, repo.id)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if rule := rules.immutableBy(repo.name, tag); rule != nil {
			return immutableError(repo.name, tag, rule)
		}
	}
	return nil
}

// deleteTag removes a tag and leaves its manifest, for its grace at least. An index
// of the registry's loses what was in it by the tag. The number is the change's.
func (st *store) deleteTag(repository, tag string, by author) (number int64, err error) {
	rules, err := st.host.rulesNow()
	if err != nil {
		return 0, err
	}
	err = st.platforms.updateKnowing(func(t *tx) error {
		p := &pushing{tx: t, rules: rules, c: by.change("delete", "")}
		unknown := errManifestUnknown.with(map[string]string{"name": repository, "reference": tag})
		if p.repo, err = t.findRepository(repository); errors.Is(err, errNameUnknown) {
			return unknown.because(err)
		} else if err != nil {
			return err
		}
		was, err := t.findTag(p.repo.id, tag)
		if err != nil {
			return err
		}
		if was.id == 0 {
			return unknown
		}
		err = p.untag(tag, was)
		number = p.c.number
		return err
	})
	st.collector.wakeUp()
	return number, err
}
