// Manifests: found, verified, and what each refers to.
//
// A manifest's references are rows: uses for the blobs it needs, names for
// what it names by digest alone (an index's members, foreign layers). What adds or
// takes one settles both ends (store_settle.go).

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// A stored manifest is one row of the manifest table.
type storedManifest struct {
	id        int64
	digest    digest.Digest
	mediaType string
	size      int          // of the body, which is nil if that is more than freeAnswer
	body      []byte       // verified
	verified  atomic.Bool  // a body that is not kept was what the digest says when it was last read
	made      bool         // the tag it was found by is on an index of the registry's
	pushed    int64        // uptime when the tag that it was found by was pushed
	noted     atomic.Int64 // uptime when a pull of it was last noted, in hours and one
	header    entityHeader
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

// explainAbsence is the error of a manifest that is not found, with the reason if an index that was imported
// without all of its members has it as one.
func (st *store) explainAbsence(repository string, d digest.Digest, err error) error {
	if d == "" || !errors.Is(err, errManifestUnknown) {
		return err
	}
	var index digest.Digest
	e := st.get(`SELECT p.digest FROM repository r JOIN names n ON n.repository = r.id AND n.digest = ?2
		JOIN manifest p ON p.id = n.manifest AND p.sparse = 1 AND p.deleted IS NULL WHERE r.name = ?1 LIMIT 1`, []any{repository, d}, &index)
	if e != nil {
		return err // of which there is no more to be said
	}
	return errManifestUnknown.saying("this registry has the index %s without this member: it was imported from an archive that lacked it", index).
		with(map[string]string{"name": repository, "reference": d.String()})
}

// bodyColumns are the size of a manifest's body, and the body unless it is long.
const bodyColumns = `length(m.body), CASE WHEN length(m.body) <= 65536 THEN m.body END`

// bodyOf returns the bytes of a manifest, which are what its digest says: those of a long
// one when there is room for them (handlers_sending.go), read once for all who want them at the
// time. The error is errManifestUnknown if they are not there any more, or have rotted.
// The caller calls release when it has done with them.
func (st *store) bodyOf(ctx context.Context, m *storedManifest) (body []byte, release func(), err error) {
	if m.size <= freeAnswer {
		return m.body, func() {}, nil
	}
	return st.sending.share(ctx, m.digest, m.size, func() (body []byte, err error) {
		err = st.get(`SELECT body FROM manifest WHERE id = ? AND digest = ? AND damaged IS NULL AND deleted IS NULL`, []any{m.id, m.digest}, &body)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, errManifestUnknown.with(map[string]string{"reference": m.digest.String()})
		}
		if err != nil {
			return nil, fmt.Errorf("reading manifest %s: %w", m.digest, err)
		}
		if why := examineManifest(m.digest, body); why != nil {
			st.takeManifest(m.id, m.digest, why)
			return nil, errManifestUnknown.with(map[string]string{"reference": m.digest.String()})
		}
		m.verified.Store(true)
		return body, nil
	})
}

// lookUpManifest is findManifest for those who need no promise, or make it. A body that
// is not long is verified when it is read from the database.
func (st *store) lookUpManifest(repository string, ref reference, promise bool) (*storedManifest, error) {
	q := question{repository, byDigest, ref.digest.String()}
	if ref.tag != "" {
		q = question{repository, byTag, ref.tag}
	}
	known, version := st.lookups.get(q, st.uptime)
	if known != nil {
		return known.manifest, nil
	}
	m := &storedManifest{}
	var repo int64
	var loose sql.NullInt64
	var err error
	if ref.tag != "" {
		err = st.get(`
			SELECT r.id, m.id, m.digest, m.media_type, m.loose, `+bodyColumns+`, t.made, t.pushed
			FROM repository r
			JOIN tag t ON t.repository = r.id AND t.name = ?
			JOIN manifest m ON m.id = t.manifest AND m.damaged IS NULL AND m.deleted IS NULL
			WHERE r.name = ?`,
			[]any{ref.tag, repository}, &repo, &m.id, &m.digest, &m.mediaType, &loose, &m.size, &m.body, &m.made, &m.pushed)
	} else {
		err = st.get(`
			SELECT r.id, m.id, m.digest, m.media_type, m.loose, `+bodyColumns+`
			FROM repository r
			JOIN manifest m ON m.repository = r.id AND m.digest = ? AND m.damaged IS NULL AND m.deleted IS NULL
			WHERE r.name = ?`,
			[]any{ref.digest, repository}, &repo, &m.id, &m.digest, &m.mediaType, &loose, &m.size, &m.body)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errManifestUnknown.with(map[string]string{"name": repository, "reference": ref.String()})
	}
	if err != nil {
		return nil, fmt.Errorf("looking up manifest %s in %s: %w", ref, repository, err)
	}
	if m.size > freeAnswer {
		// Whoever wants it reads it.
	} else if why := examineManifest(m.digest, m.body); why != nil {
		st.takeManifest(m.id, m.digest, why)
		return nil, errManifestUnknown.with(map[string]string{"name": repository, "reference": ref.String()})
	}
	if loose.Valid && st.untaggedGrace > 0 && st.dueSoon(loose.Int64, st.untaggedGrace) {
		err := st.keep(`UPDATE manifest SET loose = ? WHERE id = ? AND loose IS NOT NULL`,
			`SELECT count(*) FROM manifest WHERE id = ? AND deleted IS NULL`, m.id)
		switch {
		case errors.Is(err, errGone):
			return nil, errManifestUnknown
		case err != nil && promise:
			return nil, err
		case err != nil: // a full disk, say: this pull works all the same
			st.log.Warn("the grace of a manifest cannot be extended", "digest", m.digest, "error", err)
		}
	}
	m.header = newEntityHeader(m.mediaType, m.digest, int64(m.size))
	found := &answer{repo: repo, manifest: m}
	if st.untaggedGrace > 0 {
		found.until = st.holdsUntil(loose, st.untaggedGrace)
	}
	st.lookups.put(q, found, version)
	return m, nil
}

// about returns what a manifest is about, and what the list of its referrers shows, as
// in the schema.
func (m *manifest) about() (subject, annotations sql.NullString) {
	if m.subject != "" {
		subject = sql.NullString{String: m.subject.String(), Valid: true}
		annotations = sql.NullString{String: string(m.annotations), Valid: m.annotations != nil}
	}
	return subject, annotations
}

// An allowance says what a manifest that is added may lack, and what is known of
// it beside its bytes.
type allowance struct {
	sparse  bool // all that it refers to
	members bool // if it is an index, its members: it was imported without some
	damaged bool // the bytes of what has rows

	platform sql.NullString // as in the schema
	made     bool           // by the registry
	tagged   bool           // a tag is pointed at it at once: it is not loose
}

// insertManifest adds a manifest and its references. The error is
// errManifestBlobUnknown with an entry for each digest that is missing. The caller settles
// one that is to be tagged.
func (t *tx) insertManifest(repo int64, m *manifest, may allowance) (id int64, err error) {
	blobs, members := listJSON(m.blobs), listJSON(m.children)
	missing, err := listRows(t, scanOne[digest.Digest], missingReferences, repo, blobs, members, may.damaged, may.sparse || may.members && len(m.children) > 0, maxMissing)
	if err != nil {
		return 0, err
	}
	if len(missing) > 0 {
		return 0, missingError(missing)
	}
	if !may.damaged {
		if err := t.needSynced(m.blobs, m.children); err != nil {
			return 0, err
		}
	}

	subject, annotations := m.about()
	loose := sql.NullInt64{Int64: t.clock, Valid: !may.tagged}
	err = t.get(`
		INSERT INTO manifest (repository, digest, media_type, loose, subject, artifact_type, annotations, body, platform, made, sparse, met)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,
			?5 IS NOT NULL AND EXISTS (SELECT 1 FROM manifest s WHERE s.repository = ?1 AND s.digest = ?5)) RETURNING id`,
		[]any{repo, m.digest, m.mediaType, loose, subject, m.artifactType, annotations, m.body, may.platform, may.made, may.members}, &id)
	if err != nil {
		return 0, err
	}
	if _, err := t.exec(insertUses, repo, blobs, members, may.damaged, id); err != nil {
		return 0, err
	}
	// They are referred to now (6), and there for clients again if they were hidden (4).
	if _, err := t.exec(`UPDATE link SET loose = NULL, hidden = NULL WHERE repository = ?1 AND blob IN (SELECT blob FROM uses WHERE manifest = ?2)
		AND (loose IS NOT NULL OR hidden IS NOT NULL)`, repo, id); err != nil {
		return 0, err
	}
	if len(m.children)+len(m.foreign) > 0 || may.sparse {
		if _, err := t.exec(insertNames, repo, blobs, listJSON(slices.Concat(m.children, m.foreign)), may.sparse, id); err != nil {
			return 0, err
		}
		named, err := t.named(id)
		if err != nil {
			return 0, err
		}
		if err := t.settleAll(repo, "[]", named); err != nil {
			return 0, err
		}
	}
	// Referrers that came before their subject go with it from now on.
	if err := t.settleReferrers(repo, m.digest); err != nil || may.tagged {
		return id, err
	}
	return id, t.settleManifest(repo, m.digest)
}

// Everybody waits while a manifest is added, so however much it refers to, a few statements
// look for all of that and record it. ?1 is the repository, ?2 the blobs that a manifest
// refers to, as JSON, and ?4 whether what is damaged will do.
const (
	// Those that are missing, and the members ?3, unless they may be (?5); in order, ?6 at most.
	missingReferences = `
		SELECT value FROM json_each(?2) WHERE coalesce((SELECT b.damaged IS NOT NULL AND ?4 = 0
			FROM blob b JOIN link l ON l.repository = ?1 AND l.blob = b.id WHERE b.digest = json_each.value), ?5 = 0)
		UNION ALL SELECT value FROM json_each(?3) WHERE ?5 = 0 AND NOT EXISTS ` + isManifest + `
			AND NOT EXISTS (SELECT 1 FROM blob b JOIN link l ON l.repository = ?1 AND l.blob = b.id WHERE b.digest = json_each.value AND b.damaged IS NULL)
		LIMIT ?6`

	// A member (?3) is a manifest as a rule, but buildkit's cache indexes list layers,
	// which are blobs. ?5 is the manifest.
	insertUses = `
		INSERT INTO uses (repository, blob, manifest)
		SELECT ?1, b.id, ?5 FROM json_each(?2) CROSS JOIN blob b ON b.digest = json_each.value JOIN link l ON l.repository = ?1 AND l.blob = b.id
		UNION ALL SELECT ?1, b.id, ?5 FROM json_each(?3) CROSS JOIN blob b ON b.digest = json_each.value AND b.damaged IS NULL
			JOIN link l ON l.repository = ?1 AND l.blob = b.id WHERE NOT EXISTS ` + isManifest + ` ORDER BY 2`

	isManifest = `(SELECT 1 FROM manifest WHERE repository = ?1 AND digest = json_each.value AND deleted IS NULL AND (damaged IS NULL OR ?4 = 1))`

	// All of ?3, and of the blobs those that are absent, if they may be (?4). ?5 is the manifest.
	insertNames = `
		INSERT INTO names (repository, digest, manifest)
		SELECT ?1, value, ?5 FROM json_each(?3)
		UNION ALL SELECT ?1, value, ?5 FROM json_each(?2) WHERE ?4 = 1 AND NOT EXISTS
			(SELECT 1 FROM blob b JOIN link l ON l.repository = ?1 AND l.blob = b.id WHERE b.digest = json_each.value) ORDER BY 2 ON CONFLICT DO NOTHING`
)

// listJSON is a list for json_each.
func listJSON(list []digest.Digest) string {
	if len(list) == 0 {
		return "[]"
	}
	text, _ := json.Marshal(list) // of strings
	return string(text)
}

// examineManifest says what is wrong with a manifest's bytes; nil if nothing is.
func examineManifest(d digest.Digest, body []byte) error {
	if sum := d.Algorithm().FromBytes(body); sum != d {
		return fmt.Errorf("its bytes have the digest %s: %w", sum, errDamaged)
	}
	return nil
}

// takeManifest is damageManifest for one that somebody has just read.
func (st *store) takeManifest(id int64, d digest.Digest, why error) {
	st.log.Error("manifest damaged; push it again to repair it", "digest", d, "error", why)
	// If it cannot be recorded, nobody gets it all the same.
	if err := st.damageManifest(id, d); err != nil && !errors.Is(err, syscall.EROFS) {
		st.log.Error("a damaged manifest cannot be taken out of service", "digest", d, "error", err)
	}
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
	return st.updateSynced(func(t *tx) error {
		var still bool
		if err := t.get(`SELECT EXISTS (SELECT 1 FROM manifest WHERE id = ? AND repository = ? AND digest = ?)`, []any{id, repo, m.digest}, &still); err != nil || !still {
			return err
		}
		blobs, named, err := t.unrelate(id)
		if err != nil {
			return err
		}
		subject, annotations := m.about()
		if _, err := t.exec(`UPDATE manifest SET subject = ?2, artifact_type = ?3, annotations = ?4, met = ?2 IS NOT NULL AND EXISTS (SELECT 1 FROM manifest s
			WHERE s.repository = manifest.repository AND s.digest = ?2) WHERE id = ?1`, id, subject, m.artifactType, annotations); err != nil {
			return err
		}
		if err := t.needSynced(m.blobs, m.children); err != nil {
			return err
		}
		for _, d := range m.blobs {
			if _, _, err := t.linked(repo, d); sparse && errors.Is(err, sql.ErrNoRows) {
				if _, err := t.exec(`INSERT INTO names (repository, digest, manifest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, repo, d, id); err != nil {
					return err
				}
				continue
			}
			blob, err := t.makeLink(repo, d)
			if err != nil {
				return err
			}
			if _, err := t.exec(`INSERT INTO uses (repository, blob, manifest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, repo, blob, id); err != nil {
				return err
			}
		}
		for _, d := range slices.Concat(m.children, m.foreign) {
			if _, err := t.exec(`INSERT INTO names (repository, digest, manifest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, repo, d, id); err != nil {
				return err
			}
			var member bool
			if err := t.get(`SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = ? AND digest = ?)`, []any{repo, d}, &member); err != nil {
				return err
			}
			if blob, _, err := t.linked(repo, d); err == nil && !member { // as in insertManifest
				if _, err := t.exec(`INSERT INTO uses (repository, blob, manifest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, repo, blob, id); err != nil {
					return err
				}
			}
		}
		nowUsed, err := t.used(id)
		if err != nil {
			return err
		}
		nowNamed, err := t.named(id)
		if err != nil {
			return err
		}
		return errors.Join(t.settleAll(repo, blobs, named), t.settleAll(repo, nowUsed, nowNamed), t.showLinks(repo, id), t.settleManifest(repo, m.digest))
	})
}

// makeLink returns the id of a blob that the repository has, or shall have: one
// that is nowhere counts as damaged.
func (t *tx) makeLink(repo int64, d digest.Digest) (blob int64, err error) {
	if blob, _, err = t.linked(repo, d); !errors.Is(err, sql.ErrNoRows) {
		return blob, err
	}
	err = t.get(`INSERT INTO blob (digest, size, damaged) VALUES (?, 0, 'the file is missing')
		ON CONFLICT (digest) DO UPDATE SET size = blob.size RETURNING id`, []any{d}, &blob)
	if err != nil {
		return 0, err
	}
	return blob, t.linkBlob(repo, blob)
}

// maxMissing bounds how many missing digests an error lists, and are looked for.
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

// complete reports whether all members of an index are there, unless it was taken without them.
func (st *store) complete(t *tx, id int64) (bool, error) {
	if st.sparse {
		return true, nil
	}
	var repo int64
	var d digest.Digest
	var mediaType string
	var body []byte
	var sparse bool
	if err := t.get(`SELECT repository, digest, media_type, body, sparse FROM manifest WHERE id = ?`, []any{id}, &repo, &d, &mediaType, &body, &sparse); err != nil || sparse {
		return sparse, err
	}
	m, err := parseManifest(body, mediaType, d)
	if err != nil || examineManifest(d, body) != nil {
		return true, nil // its bytes cannot tell; check does
	}
	for _, child := range m.children {
		var there bool
		if err := t.get(`SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = ?1 AND digest = ?2 AND deleted IS NULL)
			OR EXISTS (SELECT 1 FROM blob b JOIN link l ON l.repository = ?1 AND l.blob = b.id WHERE b.digest = ?2)`, []any{repo, child}, &there); err != nil || !there {
			return false, err
		}
	}
	return true, nil
}

// heal gives a manifest that is there the bytes of one that is pushed, and what is
// listed of them, unless it has those: they may have rotted, and nobody have noticed yet.
func (t *tx) heal(id int64, m *manifest) error {
	_, annotations := m.about()
	_, err := t.exec(`UPDATE manifest SET body = ?2, artifact_type = ?3, annotations = ?4, damaged = NULL WHERE id = ?1
		AND (damaged IS NOT NULL OR body <> ?2 OR artifact_type <> ?3 OR annotations IS DISTINCT FROM ?4)`, id, m.body, m.artifactType, annotations)
	return err
}
