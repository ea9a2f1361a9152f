// Does what is on the disk agree with what is promised?
//
// check verifies the invariants at the head of store.go, and exactly those. It
// trusts no column that it can work out: manifests are parsed again, and counts
// are counted. It is the last line of every test, and `berth check` for people.
//
// It may look while the registry is in use: all of the database at one moment,
// then the files, a little at a time; and what seems wrong with a file only
// counts if it is wrong when nobody can be at work on it.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// A report is what check found.
type report struct {
	snapshot
	st     *store
	deep   bool
	sparse bool // what a manifest refers to may be absent

	repositories                    repositoryCounts
	manifests, tags, blobs, uploads int
	bytes                           int64     // of blobs
	findings                        []finding // broken invariants
	damaged                         []string  // what is known to be damaged, and who needs it
	rubbish                         []string  // files that belong to nothing, which is allowed (1)
}

// A finding is a broken invariant, and what repair does about it. The registry
// goes on meanwhile, so repair makes sure that it is still broken.
type finding struct {
	problem string
	repair  func(*store) (did string, err error) // nil if there is nothing to be done
}

func (r *report) problemf(format string, args ...any) { r.findf(nil, format, args...) }

func (r *report) findf(repair func(*store) (string, error), format string, args ...any) {
	r.findings = append(r.findings, finding{fmt.Sprintf(format, args...), repair})
}

// check looks at everything stored; deep also reads and hashes every blob, and
// calls read with the number of bytes of each. The error is for what kept it
// from looking.
func (st *store) check(ctx context.Context, deep bool, read func(int64)) (*report, error) {
	r := &report{st: st, deep: deep}
	err := st.look(ctx, func(s snapshot) error {
		r.snapshot = s
		for _, step := range []func() error{r.checkDatabase, r.checkManifests, r.checkTags, r.checkLoose, r.checkCounts, r.checkDamaged, r.checkUploads} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("checking: %w", err)
	}
	if err := st.ruin.known(); err != nil {
		r.problemf("%v", err) // what a connection keeps in memory may still be whole
	}
	if err := r.checkFiles(ctx, read); err != nil {
		return nil, fmt.Errorf("checking files: %w", err)
	}
	return r, nil
}

func (r *report) checkDatabase() error {
	if err := r.get(`SELECT sparse FROM meta`, nil, &r.sparse); err != nil {
		return err
	}
	err := r.rows(func(rows *sql.Rows) error {
		text, err := scanOne[string](rows)
		if err == nil && text != "ok" {
			r.problemf("database: %s", text)
			r.st.ruin.by(errors.New(text))
		}
		return err
	}, `PRAGMA integrity_check`)
	if err != nil {
		return err
	}
	return r.rows(func(rows *sql.Rows) error {
		var table, parent string
		var row, key sql.NullInt64
		err := rows.Scan(&table, &row, &parent, &key)
		r.problemf("database: a row of %s refers to one missing in %s", table, parent)
		return err
	}, `PRAGMA foreign_key_check`)
}

// checkManifests verifies (3) from the manifests' bytes.
func (r *report) checkManifests() error {
	return r.rows(func(rows *sql.Rows) error {
		var x checkedManifest
		if err := rows.Scan(&x.id, &x.repo, &x.name, &x.digest, &x.mediaType, &x.subject, &x.artifactType, &x.annotations, &x.body, &x.damaged, &x.deleted, &x.made, &x.sparse); err != nil {
			return err
		}
		r.manifests++
		if x.damaged {
			return nil // its bytes cannot tell
		}
		return r.checkManifest(x)
	}, `SELECT m.id, m.repository, r.name, m.digest, m.media_type, coalesce(m.subject, ''), m.artifact_type, m.annotations, m.body, m.damaged IS NOT NULL, m.deleted IS NOT NULL, m.made, m.sparse
		FROM manifest m JOIN repository r ON r.id = m.repository`)
}

// A checkedManifest is a row of the manifest table.
type checkedManifest struct {
	id, repo        int64
	name, mediaType string
	digest, subject digest.Digest
	artifactType    string
	annotations     sql.NullString
	body            []byte
	damaged         bool
	deleted, made   bool
	sparse          bool // it may lack members
}

func (r *report) checkManifest(x checkedManifest) error {
	where := x.name + "@" + x.digest.String()
	if why := examineManifest(x.digest, x.body); why != nil {
		r.findf(func(st *store) (string, error) {
			return "taken out of service; push it again", st.damageManifest(x.id, x.digest)
		},
			"manifest %s: %v", where, why)
		return nil
	}
	m, err := parseManifest(x.body, x.mediaType, x.digest)
	if err != nil {
		r.problemf("manifest %s: %v", where, err)
		return nil
	}
	relate := func(st *store) (string, error) { return "recorded anew", st.relate(x.repo, x.id, m, r.sparse) }
	if m.subject != x.subject {
		r.findf(relate, "manifest %s: subject %s, recorded %s", where, m.subject, x.subject)
	}
	if _, annotations := m.about(); m.artifactType != x.artifactType || annotations != x.annotations {
		r.findf(relate, "manifest %s: the list of referrers shows something else than it contains", where)
	}
	if err := r.checkReferences(x, m, where, relate); err != nil {
		return err
	}
	if x.made {
		if _, err := parseIndex(x.body); err != nil {
			r.problemf("index %s: recorded as made by the registry, which cannot be: %v", where, err)
		}
	}
	return r.checkMembers(x, m, where)
}

// checkMembers verifies that an index's members are there (3).
func (r *report) checkMembers(x checkedManifest, m *manifest, where string) error {
	if r.sparse || x.sparse || x.deleted {
		return nil
	}
	for _, d := range m.children {
		var found bool
		err := r.get(`SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = ?1 AND digest = ?2 AND deleted IS NULL)
			OR EXISTS (SELECT 1 FROM blob b JOIN link l ON l.repository = ?1 AND l.blob = b.id WHERE b.digest = ?2)`, []any{x.repo, d}, &found)
		if err != nil {
			return err
		}
		if !found {
			r.problemf("index %s: member %s is missing (3); push it again", where, d)
		}
	}
	return nil
}

// checkTags verifies (5).
func (r *report) checkTags() error {
	err := errors.Join(r.get(`SELECT count(*) FROM tag t JOIN repository r ON r.id = t.repository WHERE r.deleted IS NULL`, nil, &r.tags),
		r.get(`SELECT `+countsOfRepositories+` FROM repository r`, nil, &r.repositories.seen, &r.repositories.deleted))
	if err != nil {
		return err
	}
	return r.rows(func(rows *sql.Rows) error {
		var repo int64
		var tag string
		err := rows.Scan(&repo, &tag)
		r.findf(sqlRepair("tag removed", `DELETE FROM tag WHERE repository = ? AND name = ?
			AND (SELECT repository <> tag.repository OR deleted IS NOT NULL FROM manifest WHERE id = tag.manifest)`, repo, tag),
			"tag %s points to another repository, or to a deleted manifest (5)", tag)
		return err
	}, `SELECT t.repository, t.name FROM tag t JOIN manifest m ON m.id = t.manifest WHERE m.repository <> t.repository OR m.deleted IS NOT NULL`)
}

// sqlRepair is a repair in one statement.
func sqlRepair(did, query string, args ...any) func(*store) (string, error) {
	return func(st *store) (string, error) {
		return did, st.update(func(t *tx) error {
			_, err := t.exec(query, args...)
			return err
		})
	}
}

// checkLoose verifies (6), and that nothing lies about that the janitor would
// never find.
func (r *report) checkLoose() error {
	type row struct {
		what      string
		repo, key int64
	}
	for _, q := range []struct {
		query, problem string
		repair         func(row) func(*tx) error
	}{
		{`SELECT b.digest, link.repository, link.blob FROM link JOIN blob b ON b.id = link.blob WHERE (link.loose IS NULL) <> (` + linkLive + `)`,
			"blob %s: loose and referred to, or neither (6)",
			func(x row) func(*tx) error { return func(t *tx) error { return t.settleLink(x.repo, x.key) } }},
		{`SELECT b.digest, l.repository, l.blob FROM link l JOIN blob b ON b.id = l.blob WHERE l.hidden IS NOT NULL
			AND EXISTS (SELECT 1 FROM uses u JOIN manifest m ON m.id = u.manifest
				WHERE u.repository = l.repository AND u.blob = l.blob AND m.deleted IS NULL)`,
			"blob %s: hidden, and used by a manifest that is not (4)",
			func(x row) func(*tx) error {
				return func(t *tx) error {
					_, err := t.exec(`UPDATE link SET hidden = NULL WHERE repository = ? AND blob = ?`, x.repo, x.key)
					return err
				}
			}},
		{`SELECT digest, repository, id FROM manifest WHERE (loose IS NULL) <> (` + manifestLive + `)`,
			"manifest %s: loose and referred to, or neither (6)",
			func(x row) func(*tx) error {
				return func(t *tx) error { return t.settleManifest(x.repo, digest.Digest(x.what)) }
			}},
		{`SELECT digest, repository, id FROM manifest m WHERE subject IS NOT NULL AND met = 0
			AND EXISTS (SELECT 1 FROM manifest s WHERE s.repository = m.repository AND s.digest = m.subject)`,
			"manifest %s: its subject is here, and not known to be (6)",
			func(x row) func(*tx) error {
				return func(t *tx) error {
					_, err := t.exec(`UPDATE manifest SET met = 1 WHERE id = ?`, x.key)
					return errors.Join(err, t.settleManifest(x.repo, digest.Digest(x.what)))
				}
			}},
		{`SELECT digest, 0, id FROM blob b WHERE NOT EXISTS (SELECT 1 FROM link l WHERE l.blob = b.id)`,
			"blob %s: in no repository (6)",
			func(x row) func(*tx) error {
				return func(t *tx) error { _, err := t.unlinkBlob(0, x.key, digest.Digest(x.what)); return err }
			}},
		{`SELECT digest, 0, 0 FROM trash WHERE digest IN (SELECT digest FROM blob)`,
			"blob %s: its file is due for removal (2)",
			func(x row) func(*tx) error {
				return func(t *tx) error {
					_, err := t.exec(`DELETE FROM trash WHERE digest IN (SELECT digest FROM blob)`)
					return err
				}
			}},
		{`SELECT name, id, 0 FROM repository r WHERE NOT EXISTS (SELECT 1 FROM link WHERE repository = r.id)
			AND NOT EXISTS (SELECT 1 FROM manifest WHERE repository = r.id)`,
			"repository %s: empty",
			func(x row) func(*tx) error { return func(t *tx) error { return t.dropRepository(x.repo) } }},
	} {
		found, err := listRows(r.snapshot, func(rows *sql.Rows) (x row, err error) {
			err = rows.Scan(&x.what, &x.repo, &x.key)
			return x, err
		}, q.query)
		if err != nil {
			return err
		}
		for _, x := range found {
			r.findf(func(st *store) (string, error) { return "put in order", st.update(q.repair(x)) }, q.problem, x.what)
		}
	}
	return r.checkNames()
}

// checkNames verifies that clients can ask for all repositories but the deleted ones, and that
// only those are being emptied.
func (r *report) checkNames() error {
	return r.rows(func(rows *sql.Rows) error {
		var id int64
		var name string
		var deleted, emptying bool
		if err := rows.Scan(&id, &name, &deleted, &emptying); err != nil {
			return err
		}
		_, invalid := parseName(name)
		if deleted == (invalid != nil) && (deleted || !emptying) {
			return nil
		}
		r.findf(func(st *store) (string, error) {
			return "put in order", st.update(func(t *tx) error {
				if invalid == nil { // it is there, and stays
					_, err := t.exec(`UPDATE repository SET deleted = NULL, emptying = 0 WHERE id = ?`, id)
					return err
				}
				_, err := t.exec(`UPDATE repository SET deleted = ? WHERE id = ?`, t.clock, id)
				return err
			})
		}, "repository %s: its name does not fit whether it is deleted (6)", name)
		return nil
	}, `SELECT id, name, deleted IS NOT NULL, emptying FROM repository`)
}

// checkCounts counts what the triggers have counted.
func (r *report) checkCounts() error {
	// Once, however many are wrong.
	again := sync.OnceValue(func() error { return r.st.update(func(t *tx) error { return t.script(recount) }) })
	for _, q := range []string{
		`SELECT 'blob ' || digest FROM blob WHERE (links, kept) <>
			(SELECT count(*), count(*) - count(loose) FROM link WHERE blob = blob.id)`,
		`SELECT 'repository ' || name FROM repository r WHERE
			(tags, manifests, loose_manifests, manifest_bytes, blobs, bytes, shared_blobs, shared_bytes, loose_blobs, loose_bytes) <>
			(SELECT (SELECT count(*) FROM tag WHERE repository = r.id),
				(SELECT count(*) FROM manifest WHERE repository = r.id),
				(SELECT count(loose) FROM manifest WHERE repository = r.id),
				(SELECT coalesce(sum(length(body)), 0) FROM manifest WHERE repository = r.id),
				count(*), coalesce(sum(b.size), 0),
				count(CASE WHEN b.links > 1 THEN 1 END), coalesce(sum(CASE WHEN b.links > 1 THEN b.size ELSE 0 END), 0),
				count(l.loose), coalesce(sum(CASE WHEN l.loose IS NULL THEN 0 ELSE b.size END), 0)
			FROM link l JOIN blob b ON b.id = l.blob WHERE l.repository = r.id)`,
		`SELECT 'all blobs' FROM total WHERE (blobs, bytes, shared_blobs, shared_bytes, loose_blobs, loose_bytes) <>
			(SELECT count(*), coalesce(sum(size), 0), count(CASE WHEN links > 1 THEN 1 END), coalesce(sum(CASE WHEN links > 1 THEN size ELSE 0 END), 0),
				count(CASE WHEN kept = 0 THEN 1 END), coalesce(sum(CASE WHEN kept = 0 THEN size ELSE 0 END), 0) FROM blob)`,
	} {
		found, err := listRows(r.snapshot, scanOne[string], q)
		if err != nil {
			return err
		}
		for _, what := range found {
			r.findf(func(*store) (string, error) { return "counted again", again() }, "figures: those of %s are wrong", what)
		}
	}
	return nil
}

// checkDamaged tells what is out of service, and of what it is a part.
func (r *report) checkDamaged() error {
	return r.rows(func(rows *sql.Rows) error {
		var what, why string
		var user sql.NullString
		if err := rows.Scan(&what, &why, &user); err != nil {
			return err
		}
		if user.Valid {
			what += ", needed by " + user.String
		}
		r.damaged = append(r.damaged, what+": "+why)
		return nil
	}, `SELECT 'blob ' || b.digest, b.damaged, (SELECT r.name || coalesce(':' || t.name, '@' || m.digest)
			FROM link l JOIN uses u ON u.repository = l.repository AND u.blob = l.blob
			JOIN manifest m ON m.id = u.manifest JOIN repository r ON r.id = m.repository
			LEFT JOIN tag t ON t.manifest = m.id WHERE l.blob = b.id ORDER BY t.name IS NULL LIMIT 1)
		FROM blob b WHERE b.damaged IS NOT NULL
		UNION ALL SELECT 'manifest ' || m.digest, m.damaged, r.name || coalesce(':' || (SELECT min(t.name) FROM tag t WHERE t.manifest = m.id), '')
		FROM manifest m JOIN repository r ON r.id = m.repository WHERE m.damaged IS NOT NULL`)
}

func (r *report) checkUploads() error {
	ids, err := listRows(r.snapshot, scanOne[string], `SELECT id FROM upload`)
	if err != nil {
		return err
	}
	r.uploads = len(ids)
	for _, place := range places {
		dir := filepath.Join(place, "uploads")
		entries, err := os.ReadDir(filepath.Join(r.st.dir, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if slices.Contains(ids, e.Name()) {
				continue
			}
			// It may have begun, or ended, since.
			known, err := r.st.uploads.knows(e.Name())
			if err != nil {
				return err
			}
			path := filepath.Join(dir, e.Name())
			if _, err := os.Stat(filepath.Join(r.st.dir, path)); err == nil && !known {
				r.rubbish = append(r.rubbish, path)
			}
		}
	}
	return nil
}

// checkFiles verifies (1) in both directions.
func (r *report) checkFiles(ctx context.Context, read func(int64)) error {
	for _, s := range shards() {
		rows, err := s.blobs(r.st)
		if err != nil {
			return err
		}
		for _, b := range rows {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.blobs++
			r.bytes += b.size
			if err := r.checkFile(ctx, b); err != nil {
				return err
			}
			read(b.size)
		}
		strangers, err := s.strangers(r.st, rows)
		if err != nil {
			return err
		}
		r.rubbish = append(r.rubbish, strangers...)
	}
	return nil
}

func (r *report) checkFile(ctx context.Context, b blobRow) error {
	if b.damaged {
		return nil // and known to be
	}
	wrong := r.st.probe(ctx, b.digest, b.size, r.deep)
	if wrong == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	// It may have gone, or come back, since.
	unlock := r.st.digests.lock(b.digest.String())
	defer unlock()
	err := r.st.get(`SELECT size FROM blob WHERE digest = ? AND damaged IS NULL`, []any{b.digest}, &b.size)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if wrong = r.st.probe(ctx, b.digest, b.size, r.deep); ctx.Err() == nil && wrong != nil {
		r.findf(func(st *store) (string, error) {
			_, err := st.quarantine(b.digest)
			return "taken out of service; push it again", err
		}, "blob %s: %v (1)", b.digest, wrong)
	}
	return nil
}

// probe says what is wrong with a blob's file, with a look at its size or, if
// deep, at all of it.
func (st *store) probe(ctx context.Context, d digest.Digest, size int64, deep bool) error {
	if deep {
		return st.examine(d, size, func(int) error { return ctx.Err() })
	}
	f, err := openSized(st.path(d), size)
	if err == nil {
		f.Close()
	}
	return err
}

func digestSet(lists ...[]digest.Digest) map[digest.Digest]bool {
	s := make(map[digest.Digest]bool)
	for _, list := range lists {
		for _, d := range list {
			s[d] = true
		}
	}
	return s
}

// checkReferences verifies that what is recorded of a manifest's references is what is
// in it, and the converse; relate is the repair.
func (r *report) checkReferences(x checkedManifest, m *manifest, where string, relate func(*store) (string, error)) error {
	uses, err := listRows(r.snapshot, scanOne[digest.Digest], `SELECT b.digest FROM uses u JOIN blob b ON b.id = u.blob WHERE u.manifest = ?`, x.id)
	if err != nil {
		return err
	}
	names, err := listRows(r.snapshot, scanOne[digest.Digest], `SELECT digest FROM names WHERE manifest = ?`, x.id)
	if err != nil {
		return err
	}
	// Sets, since a manifest may refer to very many.
	used, named := digestSet(uses), digestSet(names)
	mayUse, mayName := digestSet(m.blobs, m.children), digestSet(m.children, m.foreign, m.blobs)
	for _, d := range m.blobs {
		if !used[d] && !(r.sparse && named[d]) {
			r.findf(relate, "manifest %s: blob %s is not recorded as used (3)", where, d)
		}
	}
	for _, d := range slices.Concat(m.children, m.foreign) {
		if !named[d] {
			r.findf(relate, "manifest %s: %s is not recorded as named (3)", where, d)
		}
	}
	for d := range used {
		if !mayUse[d] {
			r.findf(relate, "manifest %s: blob %s is recorded as used and is not", where, d)
		}
	}
	for d := range named {
		if !mayName[d] && x.made {
			var wraps bool // what a member was pushed in stays with it
			err := r.get(`SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = ? AND digest = ? AND platform <> '')`, []any{x.repo, d}, &wraps)
			if err != nil {
				return err
			}
			if wraps {
				continue
			}
		}
		if !mayName[d] {
			r.findf(relate, "manifest %s: %s is recorded as named and is not", where, d)
		}
	}
	return nil
}

// isBlobFile reports whether what strangers or checkUploads has found is where blobs are.
func isBlobFile(path string) bool {
	first, rest, _ := strings.Cut(filepath.ToSlash(path), "/")
	return first == "blobs" && !strings.HasPrefix(rest, "uploads/")
}
