// A manifest is pushed: the rules, what it refers to, its row, its tags, in one transaction.

package main

import (
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"
)

// putManifest stores a manifest in a repository and points the tags at it, all
// in one transaction that checks what it refers to (3). Pushing again what is
// there only moves the tags, and repairs it if it was damaged. What the author or
// the rules do not allow is errDenied, and then nothing changes. A tag may come to
// point at an index that has the manifest for its platform (tag_platforms.go).
func (st *store) putManifest(repository string, m *manifest, tags []string, by author) error {
	defer st.collector.wakeUp()
	rules, err := st.host.rulesNow()
	if err != nil {
		return err
	}
	platform := sql.NullString{Valid: true}
	if platform.String, err = st.platforms.platformOf(repository, m); err != nil {
		return err
	}
	if err := st.lookForMissing(repository, m); err != nil {
		return err
	}
	st.promises.make(repository, m.digest)
	err = st.platforms.updateKnowing(func(t *tx) error {
		repo, err := t.makeRepository(repository)
		if err != nil {
			return err
		}
		p := &pushing{tx: t, rules: rules, c: by.change("push", ""), repo: repo, chart: m.artifactType == typeHelmConfig,
			it: target{digest: m.digest, mediaType: m.mediaType, size: len(m.body), platform: platform}}
		if p.it.id, err = p.store(m, st.sparse); err != nil {
			return err
		}
		for _, tag := range tags {
			if err := p.tag(tag); err != nil {
				return err
			}
		}
		if len(tags) == 0 {
			// Nothing may refer to it yet; its grace counts from now (4).
			_, err = t.exec(`UPDATE manifest SET loose = ? WHERE id = ? AND loose IS NOT NULL`, t.clock, p.it.id)
			return err
		}
		return t.settleManifest(repo.id, m.digest)
	})
	if err == nil && len(tags) > 0 {
		notify(st.retainer.tagged)
	}
	return err
}

// lookForMissing is errManifestBlobUnknown if a manifest that is new, and refers to
// very much, refers to what is not there. The transaction looks again, but whoever
// pushes such manifests must not keep it, in which everybody waits, busy with it.
func (st *store) lookForMissing(repository string, m *manifest) error {
	if st.sparse || len(m.blobs)+len(m.children) <= maxMissing {
		return nil
	}
	var there bool
	err := st.get(`SELECT EXISTS (SELECT 1 FROM repository r JOIN manifest m ON m.repository = r.id AND m.digest = ?2 AND m.deleted IS NULL WHERE r.name = ?1)`,
		[]any{repository, m.digest}, &there)
	if err != nil || there {
		return err
	}
	var repo int64 // 0 if there is none, and then nothing is there
	if err := st.get(`SELECT id FROM repository WHERE name = ?`, []any{repository}, &repo); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	missing, err := listRows(st, scanOne[digest.Digest], missingReferences, repo, listJSON(m.blobs), listJSON(m.children), false, false, maxMissing)
	if err == nil && len(missing) > 0 {
		err = missingError(missing)
	}
	return err
}
