// Settling: a row is loose exactly while nothing refers to it (6 in store.go).
//
// Every transaction that adds or takes a reference settles what is at the other end. The collector
// relies on that and on nothing else.

package main

import (
	"github.com/opencontainers/go-digest"
)

// settleAround keeps (6) for the manifests that one refers to, and for its
// referrers.
func (t *tx) settleAround(repo, id int64, d digest.Digest) error {
	named, err := t.named(id)
	if err != nil {
		return err
	}
	if err := t.settleManifests(repo, named); err != nil {
		return err
	}
	return t.settleReferrers(repo, d)
}

// unrelate deletes what is recorded of a manifest's references, and returns it as used and
// named do: the caller settles it.
func (t *tx) unrelate(id int64) (blobs, named string, err error) {
	if blobs, err = t.used(id); err != nil {
		return "", "", err
	}
	if named, err = t.named(id); err != nil {
		return "", "", err
	}
	for _, query := range []string{`DELETE FROM uses WHERE manifest = ?`, `DELETE FROM names WHERE manifest = ?`} {
		if _, err := t.exec(query, id); err != nil {
			return "", "", err
		}
	}
	return blobs, named, nil
}

// settleAll keeps (6) for what a manifest refers to, or did: blobs and digests, as used
// and named return them.
func (t *tx) settleAll(repo int64, blobs, named string) error {
	if named != "[]" {
		if err := t.settleManifests(repo, named); err != nil {
			return err
		}
	}
	_, err := t.exec(`
		UPDATE link SET loose = CASE WHEN loose IS NULL THEN ?4 END
		WHERE repository = ?1 AND blob IN (SELECT value FROM json_each(?2)
			UNION ALL SELECT b.id FROM json_each(?3) CROSS JOIN blob b ON b.digest = json_each.value)
		AND (loose IS NULL) <> (`+linkLive+`)`, repo, blobs, named, t.clock)
	return err
}

// settleLink keeps (6) for a link: loose exactly while nothing refers to it.
func (t *tx) settleLink(repo, blob int64) error {
	_, err := t.exec(`
		UPDATE link SET loose = CASE WHEN loose IS NULL THEN ?3 END
		WHERE repository = ?1 AND blob = ?2 AND (loose IS NULL) <> (`+linkLive+`)`, repo, blob, t.clock)
	return err
}

// settleManifest keeps (6) for a manifest.
func (t *tx) settleManifest(repo int64, d digest.Digest) error {
	_, err := t.exec(`
		UPDATE manifest SET loose = CASE WHEN loose IS NULL THEN ?3 END
		WHERE repository = ?1 AND digest = ?2 AND (loose IS NULL) <> (`+manifestLive+`)`, repo, d, t.clock)
	return err
}

// settleReferrers keeps (6) for the manifests whose subject is d, which has
// just come or gone.
func (t *tx) settleReferrers(repo int64, d digest.Digest) error {
	_, err := t.exec(`
		UPDATE manifest SET met = 1, loose = CASE WHEN `+manifestLive+` THEN NULL ELSE coalesce(loose, ?3) END
		WHERE repository = ?1 AND subject = ?2 AND (met = 0 OR (loose IS NULL) <> (`+manifestLive+`))`, repo, d, t.clock)
	return err
}

// What keeps a row of link or manifest alive, as SQL over that row.
const (
	linkLive = `
		EXISTS (SELECT 1 FROM uses u WHERE u.repository = link.repository AND u.blob = link.blob)
		OR EXISTS (SELECT 1 FROM names n WHERE n.repository = link.repository
			AND n.digest = (SELECT b.digest FROM blob b WHERE b.id = link.blob))`
	manifestLive = `
		manifest.deleted IS NULL AND (
		EXISTS (SELECT 1 FROM tag t WHERE t.manifest = manifest.id)
		OR EXISTS (SELECT 1 FROM names n JOIN manifest p ON p.id = n.manifest
			WHERE n.repository = manifest.repository AND n.digest = manifest.digest AND p.deleted IS NULL)
		OR manifest.subject IS NOT NULL AND (manifest.met = 0 OR EXISTS (SELECT 1 FROM manifest s
			WHERE s.repository = manifest.repository AND s.digest = manifest.subject AND s.deleted IS NULL)))`
)

// settleManifests is settleManifest for all of the digests in a JSON list.
func (t *tx) settleManifests(repo int64, digests string) error {
	_, err := t.exec(`
		UPDATE manifest SET loose = CASE WHEN loose IS NULL THEN ?3 END
		WHERE repository = ?1 AND digest IN (SELECT value FROM json_each(?2)) AND (loose IS NULL) <> (`+manifestLive+`)`, repo, digests, t.clock)
	return err
}

// used returns the ids of the blobs that a manifest uses, and named the digests that it
// names, as JSON for json_each: there may be very many.
func (t *tx) used(id int64) (blobs string, err error) {
	err = t.get(`SELECT json_group_array(blob) FROM uses WHERE manifest = ?`, []any{id}, &blobs)
	return blobs, err
}

func (t *tx) named(id int64) (digests string, err error) {
	err = t.get(`SELECT json_group_array(digest) FROM names WHERE manifest = ?`, []any{id}, &digests)
	return digests, err
}
