// A manifest is pushed: the rules, what it refers to, its row, its tags.
//
// What is missing is looked for first, without keeping others waiting, if it may be much; all of
// it is looked at again in the one transaction that makes the push visible.

package main

import (
	"database/sql"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"
)

// putManifest stores a manifest in a repository and points the tags at it, all
// in one transaction that checks what it refers to (3). Pushing again what is
// there only moves the tags, and repairs it if it was damaged. What the author or
// the rules do not allow is errDenied, and then nothing changes. A tag may come to
// point at an index that has the manifest for its platform (tag_platforms.go).
func (st *store) putManifest(repository string, m *manifest, tags []string, by author) error {
	return st.putManifestAllowing(repository, m, tags, by, false)
}

// putManifestAllowing is putManifest; an index may lack members, if partly. It is marked as sparse then, until
// it is pushed when they are all there.
func (st *store) putManifestAllowing(repository string, m *manifest, tags []string, by author, partly bool) error {
	partly = partly && isIndex(m.mediaType)
	defer st.collector.wakeUp()
	rules, err := st.host.rulesNow()
	if err != nil {
		return err
	}
	platform := sql.NullString{Valid: true}
	if platform.String, err = st.platforms.platformOf(repository, m); err != nil {
		return err
	}
	if !partly {
		if err := st.lookForMissing(repository, m); err != nil {
			return err
		}
	}
	if err := st.small.await(st.small.unsyncedOf(slices.Concat(m.blobs, m.children)...)); err != nil {
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
		if p.it.id, err = p.store(m, allowance{sparse: st.sparse, members: partly, platform: platform, tagged: len(tags) > 0}); err != nil {
			return err
		}
		for _, tag := range tags {
			if err := p.tag(tag); err != nil {
				return err
			}
		}
		if len(tags) == 0 {
			if err := p.announcePush("", target{}); err != nil {
				return err
			}
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

// store makes sure that the repository has a manifest, as a client pushes it, and
// returns its id.
func (p *pushing) store(m *manifest, may allowance) (id int64, err error) {
	var deleted, sparse bool
	var mediaType string
	err = p.get(`SELECT id, deleted IS NOT NULL, media_type, sparse FROM manifest WHERE repository = ? AND digest = ?`, []any{p.repo.id, m.digest}, &id, &deleted, &mediaType, &sparse)
	if err == nil && mediaType != m.mediaType {
		if err := p.mayRetype(id, m, mediaType, deleted); err != nil {
			return 0, err
		}
	}
	switch {
	case err == nil && deleted: // it comes back like any other
		if err := p.removeManifest(p.repo.id, id, m.digest); err != nil {
			return 0, err
		}
	case err == nil:
		if mediaType != m.mediaType {
			if _, err := p.exec(`UPDATE manifest SET media_type = ?2, platform = ?3 WHERE id = ?1`, id, m.mediaType, p.it.platform); err != nil {
				return 0, err
			}
		}
		if err := p.heal(id, m); err != nil {
			return 0, err
		}
		if sparse && !may.members {
			if err := p.fill(id, m); err != nil {
				return 0, err
			}
		}
		if m.subject != "" { // whoever pushes it when its subject has gone means to keep it
			if _, err := p.exec(`UPDATE manifest SET met = 0 WHERE id = ?1 AND met = 1
				AND NOT EXISTS (SELECT 1 FROM manifest s WHERE s.repository = ?2 AND s.digest = ?3)`, id, p.repo.id, m.subject); err != nil {
				return 0, err
			}
			if err := p.settleManifest(p.repo.id, m.digest); err != nil {
				return 0, err
			}
		}
		// Its config may not have been there before.
		_, err = p.exec(`UPDATE manifest SET platform = ?2 WHERE id = ?1 AND platform IS DISTINCT FROM ?2 AND coalesce(platform, '') = ''`, id, p.it.platform)
		return id, err
	case !errors.Is(err, sql.ErrNoRows):
		return 0, err
	}
	return p.insertManifest(p.repo.id, m, may)
}

// fill marks an index that was imported without all of its members as whole, if they are all there now.
func (p *pushing) fill(id int64, m *manifest) error {
	missing, err := listRows(p.tx, scanOne[digest.Digest], missingReferences, p.repo.id, "[]", listJSON(m.children), false, false, 1)
	if err == nil && len(missing) == 0 {
		_, err = p.exec(`UPDATE manifest SET sparse = 0 WHERE id = ?`, id)
	}
	return err
}

// mayRetype is errDenied if a manifest that is there, or was deleted, must keep its
// media type: an index names it, or a tag that never moves points at it.
func (p *pushing) mayRetype(id int64, m *manifest, is string, deleted bool) error {
	if !deleted && !p.c.overwrite {
		return errDenied.saying("%s is there as %q; you may push, but not overwrite", m.digest, is)
	}
	tags, err := listRows(p.tx, scanOne[string], `SELECT name FROM tag WHERE manifest = ?`, id)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if rule := p.rules.immutableBy(p.repo.name, tag); rule != nil {
			return immutableError(p.repo.name, tag, rule)
		}
	}
	var index digest.Digest
	err = p.get(`SELECT m.digest FROM names n JOIN manifest m ON m.id = n.manifest AND m.deleted IS NULL
		WHERE n.repository = ? AND n.digest = ? LIMIT 1`, []any{p.repo.id, m.digest}, &index)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return errDenied.saying("%s is in the index %s as %q; push it as that, or delete the index first", m.digest, index, is)
}
