// Deleted, and not yet gone: manifests and repositories that a client has deleted are hidden,
// and stay for their grace, so that they can be restored (history_undo.go).

package main

import (
	"database/sql"
	"errors"
	"fmt"

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
			return unknown
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

// hideManifest takes a manifest that has no tags out of sight, with the blobs that no
// other uses. It keeps them, and can be shown again as long as its grace lasts.
func (t *tx) hideManifest(c *change, repo repository, id int64, d digest.Digest) error {
	if _, err := t.exec(`UPDATE manifest SET deleted = ?2, loose = ?2 WHERE id = ?1`, id, t.clock); err != nil {
		return err
	}
	if err := t.settleAround(repo.id, id, d); err != nil {
		return err
	}
	if err := t.hideLinks(repo.id, id); err != nil {
		return err
	}
	return t.record(c, step{kind: ofManifest, repository: repo.name, old: d.String()})
}

// showManifest brings a hidden manifest back.
func (t *tx) showManifest(c *change, repo repository, id int64, d digest.Digest) error {
	if _, err := t.exec(`UPDATE manifest SET deleted = NULL, loose = ?2 WHERE id = ?1`, id, t.clock); err != nil {
		return err
	}
	if err := t.settleManifest(repo.id, d); err != nil {
		return err
	}
	if err := t.settleAround(repo.id, id, d); err != nil {
		return err
	}
	if err := t.showLinks(repo.id, id); err != nil {
		return err
	}
	return t.record(c, step{kind: ofManifest, repository: repo.name, new: d.String()})
}

// hideLinks hides the blobs of a manifest that has just been hidden, except those
// that another uses.
func (t *tx) hideLinks(repo, id int64) error {
	var blobs string
	err := t.get(`SELECT json_group_array(blob) FROM (SELECT blob FROM uses WHERE manifest = ?1
		UNION ALL SELECT b.id FROM names n JOIN blob b ON b.digest = n.digest WHERE n.manifest = ?1) AS found`, []any{id}, &blobs)
	if err != nil {
		return err
	}
	return t.hideUnused(repo, blobs)
}

// hideUnused hides those blobs (a JSON list of ids) that deleted manifests refer to, and
// no other (4).
func (t *tx) hideUnused(repo int64, blobs string) error {
	// The newest first: who deletes many begins with the oldest as a rule.
	_, err := t.exec(`UPDATE link SET hidden = ?3 WHERE repository = ?1 AND blob IN (SELECT value FROM json_each(?2)) AND hidden IS NULL AND loose IS NULL
		AND (SELECT 1 FROM uses u JOIN manifest m ON m.id = u.manifest AND m.deleted IS NULL
			WHERE u.repository = ?1 AND u.blob = link.blob ORDER BY u.manifest DESC LIMIT 1) IS NULL
		AND (SELECT 1 FROM names n JOIN manifest m ON m.id = n.manifest AND m.deleted IS NULL
			WHERE n.repository = ?1 AND n.digest = (SELECT digest FROM blob WHERE id = link.blob) ORDER BY n.manifest DESC LIMIT 1) IS NULL`,
		repo, blobs, t.clock)
	return err
}

// showLinks makes the blobs of a manifest visible, unless that is hidden itself.
func (t *tx) showLinks(repo, id int64) error {
	_, err := t.exec(`UPDATE link SET hidden = NULL WHERE repository = ?1 AND hidden IS NOT NULL AND blob IN (SELECT blob FROM uses WHERE manifest = ?2
		UNION ALL SELECT b.id FROM names n JOIN blob b ON b.digest = n.digest WHERE n.manifest = ?2)
		AND EXISTS (SELECT 1 FROM manifest WHERE id = ?2 AND deleted IS NULL)`, repo, id)
	return err
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
func (t *tx) immutableIn(repo repository, rules *tagRules, by author) error {
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

// hideRepository takes a repository out of sight, under a name that nobody can ask for and no
// other repository has.
func (t *tx) hideRepository(c *change, repo repository) (hidden string, err error) {
	if c.number == 0 {
		if c.number, err = t.nextChange(); err != nil {
			return "", err
		}
	}
	hidden = fmt.Sprintf("%s#%d", repo.name, c.number)
	if _, err := t.exec(`UPDATE repository SET name = ?, deleted = ? WHERE id = ?`, hidden, t.clock, repo.id); err != nil {
		return "", err
	}
	return hidden, t.record(c, step{kind: ofRepository, repository: repo.name, old: repo.name, new: hidden})
}

// removeManifest deletes a manifest, its tags and its references, and settles
// what it referred to.
func (t *tx) removeManifest(repo, id int64, d digest.Digest) error {
	blobs, named, err := t.unrelate(id)
	if err != nil {
		return err
	}
	if _, err := t.exec(`DELETE FROM tag WHERE manifest = ?`, id); err != nil {
		return err
	}
	var hidden bool
	if err := t.get(`DELETE FROM manifest WHERE id = ? RETURNING deleted IS NOT NULL`, []any{id}, &hidden); err != nil {
		return err
	}
	if err := t.settleAll(repo, blobs, named); err != nil {
		return err
	}
	if !hidden { // the others that use its blobs may be
		if err := t.hideUnused(repo, blobs); err != nil {
			return err
		}
	}
	return t.settleReferrers(repo, d)
}
