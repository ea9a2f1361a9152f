// Tags: what each points at, moved and removed.

package main

import (
	"database/sql"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// A target is what a tag points at, or shall.
type target struct {
	id        int64 // of the manifest; 0 if there is no such tag
	digest    digest.Digest
	mediaType string
	size      int
	platform  sql.NullString // as in the schema
	made      bool           // the registry has put the tag there
}

const targetColumns = `m.id, m.digest, m.media_type, length(m.body), m.platform`

// findTag returns what a tag points at; the zero target if there is no such tag.
func (t *tx) findTag(repo int64, tag string) (is target, err error) {
	err = t.get(`SELECT `+targetColumns+`, t.made FROM tag t JOIN manifest m ON m.id = t.manifest WHERE t.repository = ? AND t.name = ?`,
		[]any{repo, tag}, &is.id, &is.digest, &is.mediaType, &is.size, &is.platform, &is.made)
	if errors.Is(err, sql.ErrNoRows) {
		return target{}, nil
	}
	return is, err
}

// findTarget returns a manifest to point a tag at; sql.ErrNoRows if there is none.
func (t *tx) findTarget(repo int64, d digest.Digest) (to target, err error) {
	err = t.get(`SELECT `+targetColumns+` FROM manifest m WHERE m.repository = ? AND m.digest = ? AND m.deleted IS NULL`,
		[]any{repo, d}, &to.id, &to.digest, &to.mediaType, &to.size, &to.platform)
	return to, err
}

// moveTag points a tag at a manifest, or takes it away if that is the zero target;
// it settles both ends and records it. The caller has asked the rules.
func (t *tx) moveTag(c *change, repo storedRepository, tag string, was, to target) error {
	if to.id == was.id { // and whose it is stays as it was
		if c.takes() {
			return nil
		}
		_, err := t.exec(`UPDATE tag SET pushed = ?3, time = ?4 WHERE repository = ?1 AND name = ?2`, repo.id, tag, t.clock, time.Now().Unix())
		return err
	}
	s := step{kind: ofTag, repository: repo.name, tag: tag, old: was.digest.String(), new: to.digest.String()}
	if was.made {
		s.made |= 1
	}
	if to.made {
		s.made |= 2
	}
	if err := t.record(c, s); err != nil {
		return err
	}
	if err := t.announceTag(c, repo.name, tag, was, to); err != nil {
		return err
	}
	if to.id == 0 {
		if _, err := t.exec(`DELETE FROM tag WHERE repository = ? AND name = ?`, repo.id, tag); err != nil {
			return err
		}
	} else {
		if _, err := t.exec(`INSERT INTO tag (repository, name, manifest, pushed, time, change, made) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
			ON CONFLICT (repository, name) DO UPDATE SET manifest = ?3, change = CASE WHEN tag.change > ?6 THEN tag.change ELSE ?6 END, made = ?7,
				pushed = CASE WHEN ?8 = 1 THEN tag.pushed ELSE ?4 END, time = CASE WHEN ?8 = 1 THEN tag.time ELSE ?5 END,
				spared = CASE WHEN ?8 = 1 THEN tag.spared ELSE 0 END`,
			repo.id, tag, to.id, t.clock, time.Now().Unix(), c.number, to.made, c.takes()); err != nil {
			return err
		}
		if err := t.settleManifest(repo.id, to.digest); err != nil {
			return err
		}
	}
	if was.id == 0 {
		return nil
	}
	return t.settleManifest(repo.id, was.digest)
}
