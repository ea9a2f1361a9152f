// Lists for clients: tags, repositories, referrers; a page at a time.

package main

import (
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/opencontainers/go-digest"
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
		// A tag points at a manifest (5); without tags one must be looked for.
		page, more, err = st.page(size, `SELECT name FROM repository r WHERE name > ? AND r.deleted IS NULL
			AND (r.tags > 0 OR EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id AND m.deleted IS NULL)) ORDER BY name LIMIT ?`, last)
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

// A referrer is an entry of the referrers list: a descriptor.
type referrer struct {
	MediaType    string          `json:"mediaType"`
	Digest       digest.Digest   `json:"digest"`
	Size         int64           `json:"size"`
	ArtifactType string          `json:"artifactType,omitempty"`
	Annotations  json.RawMessage `json:"annotations,omitempty"`
}

// eachReferrer calls fn with the manifests of a repository whose subject is d,
// of one of the artifact types unless there are none, after the digest last, in order of
// digests, until fn returns false.
func (st *store) eachReferrer(repository string, d digest.Digest, artifactTypes []string, last digest.Digest, fn func(referrer) (bool, error)) error {
	types, err := json.Marshal(artifactTypes)
	if err != nil {
		return err
	}
	return eachRow(st, func(rows *sql.Rows) error {
		var f referrer
		var annotations sql.NullString
		if err := rows.Scan(&f.MediaType, &f.Digest, &f.Size, &f.ArtifactType, &annotations); err != nil {
			return err
		}
		if annotations.Valid {
			f.Annotations = json.RawMessage(annotations.String)
		}
		more, err := fn(f)
		if err == nil && !more {
			err = errEnough
		}
		return err
	}, `
		SELECT m.media_type, m.digest, length(m.body), m.artifact_type, m.annotations
		FROM repository r
		JOIN manifest m ON m.repository = r.id AND m.subject = ?2 AND m.digest > ?4 AND m.deleted IS NULL
		WHERE r.name = ?1 AND (?3 = 'null' OR m.artifact_type IN (SELECT value FROM json_each(?3)))
		ORDER BY m.digest`, repository, d, string(types), last)
}
