// Manifests and tags: what refers to what.
//
// A manifest's references are rows: uses for the blobs it needs, names for
// what it names by digest alone (an index's members, foreign layers). Every
// transaction that adds or takes a reference settles what is at the other end:
// loose exactly while nothing refers to it (6 in store.go). The collector
// relies on that and on nothing else.

package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// A stored manifest is one row of the manifest table.
type storedManifest struct {
	digest    digest.Digest
	mediaType string
	body      []byte
}

// findManifest returns the manifest that ref names in a repository, or
// errManifestUnknown, and with promise keeps it from being collected soon (4).
func (st *store) findManifest(repository string, ref reference, promise bool) (*storedManifest, error) {
	m, err := st.lookUpManifest(repository, ref, promise)
	for promise && err == nil {
		// Only what is still there after the promise is kept by it.
		promised := m.digest
		st.promises.make(repository, promised)
		if m, err = st.lookUpManifest(repository, ref, promise); err == nil && m.digest == promised {
			break
		}
	}
	return m, err
}

// lookUpManifest is findManifest for those who need no promise, or make it.
func (st *store) lookUpManifest(repository string, ref reference, promise bool) (*storedManifest, error) {
	key := manifestKey{repository, ref}
	m, version := st.manifests.get(key)
	if m != nil {
		return m, nil
	}
	m = &storedManifest{}
	var id int64
	var loose sql.NullInt64
	var err error
	if ref.tag != "" {
		err = st.get(`
			SELECT m.id, m.digest, m.media_type, m.loose, m.body
			FROM repository r
			JOIN tag t ON t.repository = r.id AND t.name = ?
			JOIN manifest m ON m.id = t.manifest AND m.damaged IS NULL
			WHERE r.name = ?`,
			[]any{ref.tag, repository}, &id, &m.digest, &m.mediaType, &loose, &m.body)
	} else {
		err = st.get(`
			SELECT m.id, m.digest, m.media_type, m.loose, m.body
			FROM repository r
			JOIN manifest m ON m.repository = r.id AND m.digest = ? AND m.damaged IS NULL
			WHERE r.name = ?`,
			[]any{ref.digest, repository}, &id, &m.digest, &m.mediaType, &loose, &m.body)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errManifestUnknown.with(map[string]string{"name": repository, "reference": ref.String()})
	}
	if err != nil {
		return nil, fmt.Errorf("looking up manifest %s in %s: %w", ref, repository, err)
	}
	if loose.Valid && st.untaggedGrace > 0 && st.dueSoon(loose.Int64, st.untaggedGrace) {
		err := st.keep(`UPDATE manifest SET loose = ? WHERE id = ? AND loose IS NOT NULL`,
			`SELECT count(*) FROM manifest WHERE id = ?`, id)
		switch {
		case errors.Is(err, errGone):
			return nil, errManifestUnknown
		case err != nil && promise:
			return nil, err
		case err != nil: // a full disk, say: this pull works all the same
			st.log.Warn("the grace of a manifest cannot be extended", "digest", m.digest, "error", err)
		}
	}
	if !loose.Valid {
		st.manifests.put(key, m, version)
	}
	return m, nil
}

// putManifest stores a manifest in a repository and points the tags at it, all
// in one transaction that checks what it refers to (3). Pushing again what is
// there only moves the tags, and repairs it if it was damaged. Without
// overwrite nothing changes that clients see already: the error is errDenied.
func (st *store) putManifest(repository string, m *manifest, tags []string, overwrite bool) error {
	defer st.wakeJanitor()
	st.promises.make(repository, m.digest)
	return st.update(func(t *tx) error {
		repo, err := t.makeRepository(repository)
		if err != nil {
			return err
		}
		var id int64
		err = t.get(`SELECT id FROM manifest WHERE repository = ? AND digest = ?`, []any{repo, m.digest}, &id)
		switch {
		case err == nil:
			n, err := t.exec(`UPDATE manifest SET media_type = ?2 WHERE id = ?1 AND media_type <> ?2`, id, m.mediaType)
			if err != nil {
				return err
			}
			if n > 0 && !overwrite {
				return errDenied.saying("%s is there with another media type; you may push, but not overwrite", m.digest)
			}
			if _, err := t.exec(`UPDATE manifest SET body = ?2, damaged = NULL WHERE id = ?1 AND damaged IS NOT NULL`, id, m.body); err != nil {
				return err
			}
		case errors.Is(err, sql.ErrNoRows):
			if id, err = t.insertManifest(repo, m, admission{sparse: st.sparse}); err != nil {
				return err
			}
		default:
			return err
		}
		for _, tag := range tags {
			if err := t.setTag(repo, tag, id, overwrite); err != nil {
				return err
			}
		}
		if len(tags) == 0 {
			// Nothing may refer to it yet; its grace counts from now (4).
			_, err = t.exec(`UPDATE manifest SET loose = ? WHERE id = ? AND loose IS NOT NULL`, t.clock, id)
			return err
		}
		return t.settleManifest(repo, m.digest)
	})
}

// An admission says what a manifest that is added may lack.
type admission struct {
	sparse  bool // all that it refers to
	damaged bool // the bytes of blobs that have rows
}

// insertManifest adds a manifest and its references. The error is
// errManifestBlobUnknown with an entry for each digest that is missing.
func (t *tx) insertManifest(repo int64, m *manifest, may admission) (id int64, err error) {
	var missing []digest.Digest
	var blobs []int64
	names := slices.Clone(m.foreign)
	for _, d := range m.blobs {
		blob, sound, err := t.linked(repo, d)
		switch {
		case err == nil && (sound || may.damaged):
			blobs = append(blobs, blob)
		case err == nil: // to be pushed again
			missing = append(missing, d)
		case errors.Is(err, sql.ErrNoRows) && may.sparse:
			names = append(names, d)
		case errors.Is(err, sql.ErrNoRows):
			missing = append(missing, d)
		default:
			return 0, err
		}
	}
	for _, d := range m.children {
		// A member is a manifest as a rule, but buildkit's cache indexes
		// list layers, which are blobs.
		names = append(names, d)
		var one int
		err := t.get(`SELECT 1 FROM manifest WHERE repository = ? AND digest = ? AND damaged IS NULL`, []any{repo, d}, &one)
		if errors.Is(err, sql.ErrNoRows) {
			var blob int64
			var sound bool
			if blob, sound, err = t.linked(repo, d); err == nil && sound {
				blobs = append(blobs, blob)
			} else if err == nil {
				err = sql.ErrNoRows
			}
		}
		switch {
		case errors.Is(err, sql.ErrNoRows) && !may.sparse:
			missing = append(missing, d)
		case err != nil && !errors.Is(err, sql.ErrNoRows):
			return 0, err
		}
	}
	if len(missing) > 0 {
		return 0, missingError(missing)
	}

	var subject, annotations any
	if m.subject != "" {
		subject = m.subject
		if m.annotations != nil {
			annotations = string(m.annotations)
		}
	}
	err = t.get(`
		INSERT INTO manifest (repository, digest, media_type, loose, subject, artifact_type, annotations, body)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
		[]any{repo, m.digest, m.mediaType, t.clock, subject, m.artifactType, annotations, m.body}, &id)
	if err != nil {
		return 0, err
	}
	for _, blob := range blobs {
		if _, err := t.exec(`INSERT INTO uses (repository, blob, manifest) VALUES (?, ?, ?)`, repo, blob, id); err != nil {
			return 0, err
		}
		if err := t.settleLink(repo, blob); err != nil {
			return 0, err
		}
	}
	for _, d := range names {
		if _, err := t.exec(`INSERT OR IGNORE INTO names (repository, digest, manifest) VALUES (?, ?, ?)`, repo, d, id); err != nil {
			return 0, err
		}
		if err := t.settle(repo, d); err != nil {
			return 0, err
		}
	}
	// Referrers that came before their subject are no longer loose.
	if err := t.settleReferrers(repo, m.digest); err != nil {
		return 0, err
	}
	return id, t.settleManifest(repo, m.digest)
}

// examineManifest says what is wrong with a manifest's bytes; nil if nothing is.
func examineManifest(d digest.Digest, body []byte) error {
	if sum := d.Algorithm().FromBytes(body); sum != d {
		return fmt.Errorf("its bytes have the digest %s: %w", sum, errDamaged)
	}
	return nil
}

// damageManifest takes a manifest whose bytes are not what its digest says out
// of service, until it is pushed again.
func (st *store) damageManifest(id int64, d digest.Digest) error {
	return st.update(func(t *tx) error {
		var body []byte
		err := t.get(`SELECT body FROM manifest WHERE id = ? AND digest = ? AND damaged IS NULL`, []any{id, d}, &body)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // gone, or pushed again, meanwhile
		}
		if err != nil {
			return err
		}
		if why := examineManifest(d, body); why != nil {
			_, err = t.exec(`UPDATE manifest SET damaged = ? WHERE id = ?`, why.Error(), id)
		}
		return err
	})
}

// relate records anew what a manifest refers to. What is not here counts as
// damaged, so that pushing it again makes it whole, unless it may be absent.
func (st *store) relate(repo, id int64, m *manifest, sparse bool) error {
	return st.update(func(t *tx) error {
		var still bool
		if err := t.get(`SELECT EXISTS (SELECT 1 FROM manifest WHERE id = ? AND repository = ? AND digest = ?)`, []any{id, repo, m.digest}, &still); err != nil || !still {
			return err
		}
		blobs, named, err := t.unrelate(id)
		if err != nil {
			return err
		}
		var subject any
		if m.subject != "" {
			subject = m.subject
		}
		if _, err := t.exec(`UPDATE manifest SET subject = ? WHERE id = ?`, subject, id); err != nil {
			return err
		}
		for _, d := range m.blobs {
			if _, _, err := t.linked(repo, d); sparse && errors.Is(err, sql.ErrNoRows) {
				if _, err := t.exec(`INSERT OR IGNORE INTO names (repository, digest, manifest) VALUES (?, ?, ?)`, repo, d, id); err != nil {
					return err
				}
				continue
			}
			blob, err := t.makeLink(repo, d)
			if err != nil {
				return err
			}
			if _, err := t.exec(`INSERT OR IGNORE INTO uses (repository, blob, manifest) VALUES (?, ?, ?)`, repo, blob, id); err != nil {
				return err
			}
			blobs = append(blobs, blob)
		}
		for _, d := range slices.Concat(m.children, m.foreign) {
			if _, err := t.exec(`INSERT OR IGNORE INTO names (repository, digest, manifest) VALUES (?, ?, ?)`, repo, d, id); err != nil {
				return err
			}
			named = append(named, d)
			var member bool
			if err := t.get(`SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = ? AND digest = ?)`, []any{repo, d}, &member); err != nil {
				return err
			}
			if blob, _, err := t.linked(repo, d); err == nil && !member { // as in insertManifest
				if _, err := t.exec(`INSERT OR IGNORE INTO uses (repository, blob, manifest) VALUES (?, ?, ?)`, repo, blob, id); err != nil {
					return err
				}
			}
		}
		if err := t.settleAll(repo, blobs, named); err != nil {
			return err
		}
		return t.settleManifest(repo, m.digest)
	})
}

// makeLink returns the id of a blob that the repository has, or shall have: one
// that is nowhere counts as damaged.
func (t *tx) makeLink(repo int64, d digest.Digest) (blob int64, err error) {
	if blob, _, err = t.linked(repo, d); !errors.Is(err, sql.ErrNoRows) {
		return blob, err
	}
	err = t.get(`INSERT INTO blob (digest, size, damaged) VALUES (?, 0, 'the file is missing')
		ON CONFLICT (digest) DO UPDATE SET size = size RETURNING id`, []any{d}, &blob)
	if err != nil {
		return 0, err
	}
	return blob, t.linkBlob(repo, blob)
}

// maxMissing bounds how many missing digests an error lists.
const maxMissing = 100

func missingError(missing []digest.Digest) error {
	entry := func(d digest.Digest) *protocolError {
		return errManifestBlobUnknown.with(map[string]string{"digest": d.String()})
	}
	e := entry(missing[0])
	for _, d := range missing[1:min(len(missing), maxMissing)] {
		e.more = append(e.more, *entry(d))
	}
	return e
}

// setTag points a tag at a manifest, and settles the one it pointed at before:
// that there is one is errDenied without overwrite.
func (t *tx) setTag(repo int64, tag string, id int64, overwrite bool) error {
	var old int64
	var oldDigest digest.Digest
	err := t.get(`SELECT m.id, m.digest FROM tag t JOIN manifest m ON m.id = t.manifest
		WHERE t.repository = ? AND t.name = ?`, []any{repo, tag}, &old, &oldDigest)
	if err == nil && old == id {
		return nil
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if old != 0 && !overwrite {
		return errDenied.saying("the tag %s is there already; you may push new tags, but not overwrite", tag)
	}
	if _, err := t.exec(`INSERT INTO tag (repository, name, manifest) VALUES (?1, ?2, ?3)
		ON CONFLICT (repository, name) DO UPDATE SET manifest = ?3`, repo, tag, id); err != nil {
		return err
	}
	if old == 0 {
		return nil
	}
	return t.settleManifest(repo, oldDigest)
}

// deleteTag removes a tag and leaves its manifest, for its grace at least.
func (st *store) deleteTag(repository, tag string) error {
	err := st.update(func(t *tx) error {
		var repo int64
		var d digest.Digest
		err := t.get(`
			SELECT r.id, m.digest FROM repository r
			JOIN tag t ON t.repository = r.id AND t.name = ?
			JOIN manifest m ON m.id = t.manifest
			WHERE r.name = ?`, []any{tag, repository}, &repo, &d)
		if errors.Is(err, sql.ErrNoRows) {
			return errManifestUnknown.with(map[string]string{"name": repository, "reference": tag})
		}
		if err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM tag WHERE repository = ? AND name = ?`, repo, tag); err != nil {
			return err
		}
		return t.settleManifest(repo, d)
	})
	st.wakeJanitor()
	return err
}

// deleteManifest removes a manifest and its tags. A member of an index stays,
// and the error is errDenied (3).
func (st *store) deleteManifest(repository string, d digest.Digest) error {
	err := st.update(func(t *tx) error {
		var repo, id int64
		err := t.get(`
			SELECT r.id, m.id FROM repository r
			JOIN manifest m ON m.repository = r.id AND m.digest = ?
			WHERE r.name = ?`, []any{d, repository}, &repo, &id)
		if errors.Is(err, sql.ErrNoRows) {
			return errManifestUnknown.with(map[string]string{"name": repository, "reference": d.String()})
		}
		if err != nil {
			return err
		}
		var parent string
		err = t.get(`SELECT m.digest FROM names n JOIN manifest m ON m.id = n.manifest
			WHERE n.repository = ? AND n.digest = ? LIMIT 1`, []any{repo, d}, &parent)
		if err == nil && !st.sparse {
			return errDenied.withf("the index %s has this manifest as a member; delete that first", parent)
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := t.removeManifest(repo, id, d); err != nil {
			return err
		}
		return t.dropRepository(repo)
	})
	st.wakeJanitor()
	return err
}

// removeManifest deletes a manifest, its tags and its references, and settles
// what it referred to.
func (t *tx) removeManifest(repo, id int64, d digest.Digest) error {
	blobs, named, err := t.unrelate(id)
	if err != nil {
		return err
	}
	for _, query := range []string{
		`DELETE FROM tag WHERE manifest = ?`,
		`DELETE FROM manifest WHERE id = ?`,
	} {
		if _, err := t.exec(query, id); err != nil {
			return err
		}
	}
	if err := t.settleAll(repo, blobs, named); err != nil {
		return err
	}
	return t.settleReferrers(repo, d)
}

// unrelate deletes what is recorded of a manifest's references, and returns it:
// the caller settles it.
func (t *tx) unrelate(id int64) (blobs []int64, named []digest.Digest, err error) {
	if blobs, err = list(t, scanOne[int64], `SELECT blob FROM uses WHERE manifest = ?`, id); err != nil {
		return nil, nil, err
	}
	if named, err = list(t, scanOne[digest.Digest], `SELECT digest FROM names WHERE manifest = ?`, id); err != nil {
		return nil, nil, err
	}
	for _, query := range []string{`DELETE FROM uses WHERE manifest = ?`, `DELETE FROM names WHERE manifest = ?`} {
		if _, err := t.exec(query, id); err != nil {
			return nil, nil, err
		}
	}
	return blobs, named, nil
}

// settleAll keeps (6) for what a manifest refers to, or did.
func (t *tx) settleAll(repo int64, blobs []int64, named []digest.Digest) error {
	for _, blob := range blobs {
		if err := t.settleLink(repo, blob); err != nil {
			return err
		}
	}
	for _, d := range named {
		if err := t.settle(repo, d); err != nil {
			return err
		}
	}
	return nil
}

// settle keeps (6) for whatever the repository has under a digest.
func (t *tx) settle(repo int64, d digest.Digest) error {
	if err := t.settleManifest(repo, d); err != nil {
		return err
	}
	blob, _, err := t.linked(repo, d)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.settleLink(repo, blob)
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
		UPDATE manifest SET loose = CASE WHEN loose IS NULL THEN ?3 END
		WHERE repository = ?1 AND subject = ?2 AND (loose IS NULL) <> (`+manifestLive+`)`, repo, d, t.clock)
	return err
}

// What keeps a row of link or manifest alive, as SQL over that row.
const (
	linkLive = `
		EXISTS (SELECT 1 FROM uses u WHERE u.repository = link.repository AND u.blob = link.blob)
		OR EXISTS (SELECT 1 FROM names n WHERE n.repository = link.repository
			AND n.digest = (SELECT b.digest FROM blob b WHERE b.id = link.blob))`
	manifestLive = `
		EXISTS (SELECT 1 FROM tag t WHERE t.manifest = manifest.id)
		OR EXISTS (SELECT 1 FROM names n WHERE n.repository = manifest.repository AND n.digest = manifest.digest)
		OR manifest.subject IS NOT NULL AND EXISTS (SELECT 1 FROM manifest s
			WHERE s.repository = manifest.repository AND s.digest = manifest.subject)`
)

// listTags returns at most n tags of a repository after last, in byte order,
// and whether there are more. The error is errNameUnknown if there is no such
// repository.
func (st *store) listTags(repository, last string, n int) (tags []string, more bool, err error) {
	var repo int64
	err = st.get(`SELECT id FROM repository WHERE name = ?`, []any{repository}, &repo)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, errNameUnknown.with(map[string]string{"name": repository})
	}
	if err != nil {
		return nil, false, err
	}
	return st.page(n, `SELECT name FROM tag WHERE repository = ? AND name > ? ORDER BY name LIMIT ?`, repo, last)
}

// listRepositories is listTags for the repositories that have a manifest and are
// visible to the caller.
func (st *store) listRepositories(last string, n int, visible func(name string) bool) (names []string, more bool, err error) {
	names = []string{}
	size := n + 1
	for more = n > 0; more; size = max(size, 1000) {
		var page []string
		page, more, err = st.page(size, `SELECT name FROM repository r WHERE name > ?
			AND EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id) ORDER BY name LIMIT ?`, last)
		if err != nil {
			return nil, false, err
		}
		for _, name := range page {
			last = name
			if !visible(name) {
				continue
			}
			if len(names) == n {
				return names, true, nil
			}
			names = append(names, name)
		}
	}
	return names, false, nil
}

// page runs a query for n+1 strings, and returns n of them and whether there
// was one more. The result is not nil.
func (st *store) page(n int, query string, args ...any) (list []string, more bool, err error) {
	if n == 0 {
		return []string{}, false, nil
	}
	s, err := st.read(query)
	if err != nil {
		return nil, false, err
	}
	rows, err := s.Query(append(args, n+1)...)
	if err != nil {
		return nil, false, err
	}
	list, err = collect(rows, scanOne[string])
	if err != nil {
		return nil, false, err
	}
	if len(list) > n {
		return list[:n], true, nil
	}
	if list == nil {
		list = []string{}
	}
	return list, false, nil
}

// A referrer is an entry of the referrers list: a descriptor.
type referrer struct {
	MediaType    string          `json:"mediaType"`
	Digest       digest.Digest   `json:"digest"`
	Size         int64           `json:"size"`
	ArtifactType string          `json:"artifactType,omitempty"`
	Annotations  json.RawMessage `json:"annotations,omitempty"`
}

// eachReferrer calls fn with the manifests of a repository whose subject is d,
// of one artifact type unless that is empty, after the digest last, in order of
// digests, until fn returns false.
func (st *store) eachReferrer(repository string, d digest.Digest, artifactType string, last digest.Digest, fn func(referrer) (bool, error)) error {
	s, err := st.read(`
		SELECT m.media_type, m.digest, length(m.body), m.artifact_type, m.annotations
		FROM repository r
		JOIN manifest m ON m.repository = r.id AND m.subject = ?2 AND m.digest > ?4
		WHERE r.name = ?1 AND (?3 = '' OR m.artifact_type = ?3)
		ORDER BY m.digest`)
	if err != nil {
		return err
	}
	rows, err := s.Query(repository, d, artifactType, last)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var f referrer
		var annotations sql.NullString
		if err := rows.Scan(&f.MediaType, &f.Digest, &f.Size, &f.ArtifactType, &annotations); err != nil {
			return err
		}
		if annotations.Valid {
			f.Annotations = json.RawMessage(annotations.String)
		}
		if more, err := fn(f); err != nil || !more {
			return err
		}
	}
	return rows.Err()
}
