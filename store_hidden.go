// Hiding, showing and removing: what a deletion does to the rows of a manifest and its blobs.
//
// A manifest that a client has deleted is hidden: its row stays, loose, for its grace. Blobs that
// only hidden manifests use are hidden from clients, too (4 in store.go). An undo shows them again; the
// collector removes them.

package main

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// hideManifest takes a manifest that has no tags out of sight, with the blobs that no
// other uses. It keeps them, and can be shown again as long as its grace lasts.
func (t *tx) hideManifest(c *change, repo storedRepository, id int64, d digest.Digest) error {
	if _, err := t.exec(`UPDATE manifest SET deleted = ?2, loose = ?2 WHERE id = ?1`, id, t.clock); err != nil {
		return err
	}
	if err := t.settleAround(repo.id, id, d); err != nil {
		return err
	}
	if err := t.hideLinks(repo.id, id); err != nil {
		return err
	}
	if err := t.announceAs(c.author, c.why, event{Type: manifestDeleted, Repository: repo.name, Digest: d.String()}); err != nil {
		return err
	}
	return t.record(c, step{kind: ofManifest, repository: repo.name, old: d.String()})
}

// showManifest brings a hidden manifest back.
func (t *tx) showManifest(c *change, repo storedRepository, id int64, d digest.Digest) error {
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
	if err := t.announceRestored(c, repo.name, id, d); err != nil {
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

// hideRepository takes a repository out of sight, under a name that nobody can ask for and no
// other repository has.
func (t *tx) hideRepository(c *change, repo storedRepository) (hidden string, err error) {
	if c.number == 0 {
		if c.number, err = t.nextChange(); err != nil {
			return "", err
		}
	}
	hidden = fmt.Sprintf("%s#%d", repo.name, c.number)
	if _, err := t.exec(`UPDATE repository SET name = ?, deleted = ? WHERE id = ?`, hidden, t.clock, repo.id); err != nil {
		return "", err
	}
	if err := t.announceAs(c.author, c.why, event{Type: repositoryDeleted, Repository: repo.name}); err != nil {
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
