// Deleted, and not yet gone: manifests and repositories that a client has deleted are hidden,
// and stay for their grace, so that they can be restored (history_undo.go).

package main

import (
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"
)

// A named is what a name stands for: a tag, a manifest, or without a reference a whole repository.
type named struct {
	repository string
	reference
}

// remove deletes all of a list, each by a change of its own, or nothing. If one is wrong, err
// says why, and numbers are those of the changes that would have been before it.
func (st *store) remove(list []named, by author) (numbers []int64, err error) {
	rules, err := st.host.rulesNow()
	if err != nil {
		return nil, err
	}
	err = st.platforms.updateKnowing(func(t *tx) error {
		numbers = nil
		for _, it := range list {
			p := &pushing{tx: t, rules: rules, c: by.change("delete", "")}
			var err error
			switch {
			case it.tag != "":
				err = p.deleteTag(it.repository, it.tag)
			case it.digest != "":
				err = p.deleteManifest(st, it.repository, it.digest)
			default:
				err = p.deleteRepository(it.repository)
			}
			if err != nil {
				return err
			}
			numbers = append(numbers, p.c.number)
		}
		return nil
	})
	st.collector.wakeUp()
	return numbers, err
}

// removeOne is remove for one. The number is the change's.
func (st *store) removeOne(it named, by author) (number int64, err error) {
	numbers, err := st.remove([]named{it}, by)
	if err != nil {
		return 0, err
	}
	return numbers[0], nil
}

// deleteManifest hides a manifest, with its tags, until its grace is over. It goes
// from indexes that the registry has made. A member of any other stays, and the
// error is errDenied (3).
func (p *pushing) deleteManifest(st *store, repository string, d digest.Digest) (err error) {
	unknown := errManifestUnknown.with(map[string]string{"name": repository, "reference": d.String()})
	if p.repo, err = p.findRepository(repository); errors.Is(err, errNameUnknown) {
		return unknown.because(err)
	} else if err != nil {
		return err
	}
	it, err := p.findTarget(p.repo.id, d)
	if errors.Is(err, sql.ErrNoRows) {
		return unknown
	}
	if err != nil {
		return err
	}
	if err := p.leaveIndexes(it, st.sparse, st.untaggedGrace == 0); err != nil {
		return err
	}
	tags, err := listRows(p.tx, scanOne[string], `SELECT name FROM tag WHERE manifest = ?`, it.id)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		was, err := p.findTag(p.repo.id, tag)
		if err != nil {
			return err
		}
		if err := p.untag(tag, was); err != nil {
			return err
		}
	}
	return p.hideManifest(p.c, p.repo, it.id, d)
}

// deleteRepository takes a repository out of sight, at once and however much is in
// it, until its grace is over.
func (p *pushing) deleteRepository(name string) (err error) {
	if p.repo, err = p.findRepository(name); err != nil {
		return err
	}
	if err := p.immutableIn(p.repo, p.rules, p.c.author); err != nil {
		return err
	}
	_, err = p.hideRepository(p.c, p.repo)
	return err
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
// of the registry's loses what was in it by the tag.
func (p *pushing) deleteTag(repository, tag string) (err error) {
	unknown := errManifestUnknown.with(map[string]string{"name": repository, "reference": tag})
	if p.repo, err = p.findRepository(repository); errors.Is(err, errNameUnknown) {
		return unknown.because(err)
	} else if err != nil {
		return err
	}
	was, err := p.findTag(p.repo.id, tag)
	if err != nil {
		return err
	}
	if was.id == 0 {
		return unknown
	}
	return p.untag(tag, was)
}
