// Does what is on the disk agree with what is promised?
//
// check verifies the invariants at the head of store.go, and exactly those. It
// trusts no column that it can work out: manifests are parsed again. It is the
// last line of every test, and `berth check` for people.

package main

import (
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A report is what check found.
type report struct {
	repositories, manifests, tags, blobs, uploads int
	bytes                                         int64    // of blobs
	problems                                      []string // broken invariants
	rubbish                                       []string // files that belong to nothing, which is allowed (1)
}

func (r *report) problemf(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// check looks at everything stored; deep also reads and hashes every blob. The
// error is for what kept it from looking. Nothing may be written meanwhile.
func (st *store) check(deep bool) (*report, error) {
	r := &report{}
	for _, step := range []func(*report) error{st.checkDatabase, st.checkManifests, st.checkTags, st.checkLoose, st.checkUploads} {
		if err := step(r); err != nil {
			return nil, fmt.Errorf("checking: %w", err)
		}
	}
	if err := st.checkFiles(r, deep); err != nil {
		return nil, fmt.Errorf("checking files: %w", err)
	}
	return r, nil
}

// each calls fn for every row of a query.
func (st *store) each(query string, fn func(*sql.Rows) error, args ...any) error {
	rows, err := st.db.Query(query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (st *store) checkDatabase(r *report) error {
	err := st.each(`PRAGMA integrity_check`, func(rows *sql.Rows) error {
		text, err := scanOne[string](rows)
		if err == nil && text != "ok" {
			r.problemf("database: %s", text)
		}
		return err
	})
	if err != nil {
		return err
	}
	return st.each(`PRAGMA foreign_key_check`, func(rows *sql.Rows) error {
		var table, parent string
		var row, key sql.NullInt64
		err := rows.Scan(&table, &row, &parent, &key)
		r.problemf("database: a row of %s refers to one missing in %s", table, parent)
		return err
	})
}

// checkManifests verifies (3) from the manifests' bytes.
func (st *store) checkManifests(r *report) error {
	return st.each(`SELECT m.id, m.repository, r.name, m.digest, m.media_type, coalesce(m.subject, ''), m.body
		FROM manifest m JOIN repository r ON r.id = m.repository`, func(rows *sql.Rows) error {
		var x checkedManifest
		if err := rows.Scan(&x.id, &x.repo, &x.name, &x.digest, &x.mediaType, &x.subject, &x.body); err != nil {
			return err
		}
		r.manifests++
		return st.checkManifest(r, x)
	})
}

// A checkedManifest is a row of the manifest table.
type checkedManifest struct {
	id, repo        int64
	name, mediaType string
	digest, subject digest.Digest
	body            []byte
}

func (st *store) checkManifest(r *report, x checkedManifest) error {
	where := x.name + "@" + x.digest.String()
	if x.digest.Algorithm().FromBytes(x.body) != x.digest {
		r.problemf("manifest %s: its bytes have another digest", where)
		return nil
	}
	m, err := parseManifest(x.body, x.mediaType, x.digest)
	if err != nil {
		r.problemf("manifest %s: %v", where, err)
		return nil
	}
	if m.subject != x.subject {
		r.problemf("manifest %s: subject %s, recorded %s", where, m.subject, x.subject)
	}
	uses, err := column[digest.Digest](st, `SELECT b.digest FROM uses u JOIN blob b ON b.id = u.blob WHERE u.manifest = ?`, x.id)
	if err != nil {
		return err
	}
	names, err := column[digest.Digest](st, `SELECT digest FROM names WHERE manifest = ?`, x.id)
	if err != nil {
		return err
	}
	// Sets, since a manifest may refer to very many.
	used, named := set(uses), set(names)
	mayUse, mayName := set(m.blobs, m.children), set(m.children, m.foreign, m.blobs)
	for _, d := range m.blobs {
		if !used[d] && !(st.sparse && named[d]) {
			r.problemf("manifest %s: blob %s is not recorded as used (3)", where, d)
		}
	}
	for _, d := range slices.Concat(m.children, m.foreign) {
		if !named[d] {
			r.problemf("manifest %s: %s is not recorded as named (3)", where, d)
		}
	}
	for d := range used {
		if !mayUse[d] {
			r.problemf("manifest %s: blob %s is recorded as used and is not", where, d)
		}
	}
	for d := range named {
		if !mayName[d] {
			r.problemf("manifest %s: %s is recorded as named and is not", where, d)
		}
	}
	for _, d := range m.children {
		if st.sparse {
			break
		}
		found, err := st.strings(`SELECT digest FROM manifest WHERE repository = ?1 AND digest = ?2
			UNION SELECT b.digest FROM blob b JOIN link l ON l.repository = ?1 AND l.blob = b.id WHERE b.digest = ?2`, x.repo, d)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			r.problemf("index %s: member %s is missing (3)", where, d)
		}
	}
	return nil
}

// checkTags verifies (5).
func (st *store) checkTags(r *report) error {
	if err := st.get(`SELECT count(*) FROM tag`, nil, &r.tags); err != nil {
		return err
	}
	if err := st.get(`SELECT count(*) FROM repository`, nil, &r.repositories); err != nil {
		return err
	}
	return st.each(`SELECT t.name FROM tag t JOIN manifest m ON m.id = t.manifest WHERE m.repository <> t.repository`,
		func(rows *sql.Rows) error {
			tag, err := scanOne[string](rows)
			r.problemf("tag %s points into another repository (5)", tag)
			return err
		})
}

// checkLoose verifies (6), and that nothing lies about that the janitor would
// never find.
func (st *store) checkLoose(r *report) error {
	for _, q := range []struct{ query, problem string }{
		{`SELECT b.digest FROM link JOIN blob b ON b.id = link.blob WHERE (link.loose IS NULL) <> (` + linkLive + `)`,
			"blob %s: loose and referred to, or neither (6)"},
		{`SELECT digest FROM manifest WHERE (loose IS NULL) <> (` + manifestLive + `)`,
			"manifest %s: loose and referred to, or neither (6)"},
		{`SELECT digest FROM blob b WHERE NOT EXISTS (SELECT 1 FROM link l WHERE l.blob = b.id)`,
			"blob %s: in no repository (6)"},
		{`SELECT digest FROM trash WHERE digest IN (SELECT digest FROM blob)`,
			"blob %s: its file is due for removal (2)"},
		{`SELECT name FROM repository r WHERE NOT EXISTS (SELECT 1 FROM link WHERE repository = r.id)
			AND NOT EXISTS (SELECT 1 FROM manifest WHERE repository = r.id)`,
			"repository %s: empty"},
	} {
		found, err := st.strings(q.query)
		if err != nil {
			return err
		}
		for _, x := range found {
			r.problemf(q.problem, x)
		}
	}
	return nil
}

func (st *store) checkUploads(r *report) error {
	known, err := st.strings(`SELECT id FROM upload`)
	if err != nil {
		return err
	}
	r.uploads = len(known)
	entries, err := os.ReadDir(filepath.Join(st.dir, "uploads"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(known, e.Name()) {
			r.rubbish = append(r.rubbish, filepath.Join("uploads", e.Name()))
		}
	}
	return nil
}

// checkFiles verifies (1) in both directions.
func (st *store) checkFiles(r *report, deep bool) error {
	err := st.each(`SELECT digest, size FROM blob`, func(rows *sql.Rows) error {
		var d digest.Digest
		var size int64
		if err := rows.Scan(&d, &size); err != nil {
			return err
		}
		r.blobs++
		r.bytes += size
		info, err := os.Stat(st.path(d))
		switch {
		case err != nil:
			r.problemf("blob %s: %v (1)", d, err)
		case info.Size() != size:
			r.problemf("blob %s: its file has %d bytes, want %d (1)", d, info.Size(), size)
		case deep:
			if err := verifyFile(st.path(d), d); err != nil {
				r.problemf("blob %s: %v (1)", d, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	root := filepath.Join(st.dir, "blobs")
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		parts := strings.Split(filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator))), "/")
		if len(parts) == 4 && parts[3] == "data" {
			d := digest.NewDigestFromEncoded(digest.Algorithm(parts[0]), parts[2])
			if d.Validate() == nil && st.path(d) == path {
				known, err := st.strings(`SELECT digest FROM blob WHERE digest = ?1
					UNION ALL SELECT digest FROM trash WHERE digest = ?1`, d)
				if err != nil || len(known) > 0 {
					return err
				}
			}
		}
		r.rubbish = append(r.rubbish, strings.TrimPrefix(path, st.dir+string(filepath.Separator)))
		return nil
	})
}

// strings returns the one column of a query.
func (st *store) strings(query string, args ...any) ([]string, error) {
	return column[string](st, query, args...)
}

// column returns the one column of a query.
func column[T any](st *store, query string, args ...any) ([]T, error) {
	rows, err := st.db.Query(query, args...)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanOne[T])
}

func set(lists ...[]digest.Digest) map[digest.Digest]bool {
	s := make(map[digest.Digest]bool)
	for _, list := range lists {
		for _, d := range list {
			s[d] = true
		}
	}
	return s
}
