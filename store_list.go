// Lists for clients: tags, repositories, referrers; a page at a time. And for `berth ls`, all with what is known of them.

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

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
		page, more, err = st.page(size, `SELECT name FROM repository r WHERE name > ? AND `+hasImages+` ORDER BY name LIMIT ?`, last)
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

// hasImages is the condition on a repository r that clients see it: a tag points at a manifest (5), and
// without tags one must be looked for.
const hasImages = `r.deleted IS NULL AND (r.tags > 0 OR EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id AND m.deleted IS NULL))`

// countsOfRepositories are the columns of a repositoryCounts, of all repositories r.
const countsOfRepositories = `count(CASE WHEN ` + hasImages + ` THEN 1 END),
	count(CASE WHEN r.emptying = 0 AND r.manifests > 0 AND NOT (` + hasImages + `) THEN 1 END)`

// repositoryCounts are how many repositories there are that listRepositories would list, and how many
// whose images are all deleted and can be brought back.
type repositoryCounts struct{ seen, deleted int }

func (st *store) countRepositories() (n repositoryCounts, err error) {
	err = st.get(`SELECT `+countsOfRepositories+` FROM repository r`, nil, &n.seen, &n.deleted)
	return n, err
}

// String names the deleted ones beside the others, if there are any.
func (n repositoryCounts) String() string {
	seen := plural(n.seen, "repository")
	if n.seen == 0 {
		seen = "no repositories"
	}
	return seen + n.andDeleted()
}

func (n repositoryCounts) andDeleted() string {
	if n.deleted == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d deleted that can be brought back)", n.deleted)
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

// A listedRepository is a repository as `berth ls` shows it.
type listedRepository struct {
	Repository string     `json:"repository"`
	Tags       int64      `json:"tags"`
	Size       int64      `json:"size"`   // bytes of its blobs
	Pushed     *time.Time `json:"pushed"` // null if that is not known
}

// listAll returns the repositories that have a manifest, in order of names.
func (st *store) listAll(ctx context.Context) (repositories []listedRepository, err error) {
	repositories = []listedRepository{}
	err = st.look(ctx, func(s snapshot) error {
		return s.rows(func(rows *sql.Rows) error {
			var r listedRepository
			var pushed int64
			if err := rows.Scan(&r.Repository, &r.Tags, &r.Size, &pushed); err != nil {
				return err
			}
			r.Pushed = timeOf(pushed)
			repositories = append(repositories, r)
			return nil
		}, `SELECT name, tags, bytes, coalesce((SELECT max(time) FROM tag WHERE repository = r.id), 0) FROM repository r
			WHERE deleted IS NULL AND EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id AND m.deleted IS NULL) ORDER BY name`)
	})
	return repositories, err
}

// A listedTag is a tag as `berth ls NAME` shows it.
type listedTag struct {
	Tag       string        `json:"tag"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Platforms []string      `json:"platforms"`
	Size      int64         `json:"size"` // bytes of the blobs of all platforms
	Pushed    *time.Time    `json:"pushed"`
	Pulled    *time.Time    `json:"pulled"`    // null for never
	Automatic bool          `json:"automatic"` // the registry makes this index
}

// listTagsOf returns the tags of a repository, or one of them, and the manifests
// whose platform nobody has looked for yet.
func (st *store) listTagsOf(ctx context.Context, name, only string) (tags []listedTag, unknown []int64, err error) {
	tags = []listedTag{}
	err = st.look(ctx, func(s snapshot) error {
		var repo int64
		if err := s.get(`SELECT id FROM repository WHERE name = ?`, []any{name}, &repo); errors.Is(err, sql.ErrNoRows) {
			return errNameUnknown.with(map[string]string{"name": name})
		} else if err != nil {
			return err
		}
		return s.rows(func(rows *sql.Rows) error {
			var t listedTag
			var id, pushed, pulled, part int64 // part is when a member of it was pulled last
			var platform sql.NullString
			var body []byte
			if err := rows.Scan(&t.Tag, &id, &t.Digest, &t.MediaType, &platform, &t.Automatic, &pushed, &pulled, &part, &body); err != nil {
				return err
			}
			if !platform.Valid {
				unknown = append(unknown, id)
			}
			if len(body) > 0 && examineManifest(t.Digest, body) != nil {
				body = nil // what it says is not what was pushed
			}
			t.Platforms = platforms(platform.String, t.MediaType, body)
			t.Pushed, t.Pulled = timeOf(pushed), timeOf(max(pulled, part))
			tags = append(tags, t)
			return s.get(sizeOfManifest, []any{id, repo}, &tags[len(tags)-1].Size)
		}, `SELECT t.name, m.id, m.digest, m.media_type, m.platform, t.made, t.time, coalesce(p.time, 0),
				coalesce((SELECT max(q.time) FROM names n JOIN manifest c ON c.repository = n.repository AND c.digest = n.digest
					JOIN pull q ON q.manifest = c.id WHERE n.manifest = m.id), 0),
				CASE WHEN m.platform IS NULL OR m.platform <> '' THEN '' ELSE m.body END
			FROM tag t JOIN manifest m ON m.id = t.manifest LEFT JOIN pull p ON p.manifest = m.id
			WHERE t.repository = ?1 AND (?2 = '' OR t.name = ?2)`, repo, only)
	})
	if err == nil && only != "" && len(tags) == 0 {
		err = errManifestUnknown.with(map[string]string{"name": name, "reference": only})
	}
	slices.SortFunc(tags, func(a, b listedTag) int { return compareTags(a.Tag, b.Tag) })
	return tags, unknown, err
}

// sizeOfManifest sums up the blobs of a manifest and of its members, each once.
const sizeOfManifest = `
	WITH RECURSIVE part (id) AS (
		SELECT ?1
		UNION SELECT c.id FROM part JOIN names n ON n.manifest = part.id
			JOIN manifest c ON c.repository = ?2 AND c.digest = n.digest)
	SELECT coalesce(sum(size), 0) FROM blob WHERE id IN (SELECT blob FROM uses WHERE manifest IN (SELECT id FROM part))`

// timeOf is a time for people, nil if it is not known.
func timeOf(unix int64) *time.Time {
	if unix == 0 {
		return nil
	}
	t := time.Unix(unix, 0).UTC()
	return &t
}
