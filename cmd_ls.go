// Listing and changing what is stored: `berth ls`, `berth rm`, `berth tag`.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// author is who gave a command.
func (o options) author() author {
	who := o.Who
	if who == "" {
		who = "command"
	}
	return author{who: who, overwrite: true, force: o.Force}
}

// parseArgument reads NAME, NAME:TAG or NAME@DIGEST.
func parseArgument(text string) (name string, ref reference, err error) {
	name, d, byDigest := strings.Cut(text, "@")
	if byDigest {
		if ref.digest, err = parseDigest(d); err != nil {
			return "", ref, err
		}
	} else if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, '/') {
		name = text[:i]
		if ref.tag, err = parseTag(text[i+1:]); err != nil {
			return "", ref, err
		}
	}
	if _, err := parseName(name); err != nil {
		if strings.Contains(name, ":") {
			return "", ref, fmt.Errorf("%q: say the name without the host", text)
		}
		return "", ref, err
	}
	return name, ref, nil
}

// A listedRepository is a repository as `berth ls` shows it.
type listedRepository struct {
	Repository string     `json:"repository"`
	Tags       int64      `json:"tags"`
	Size       int64      `json:"size"`   // bytes of its blobs
	Pushed     *time.Time `json:"pushed"` // null if that is not known
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

// listCommand is `berth ls [NAME]`.
func listCommand(ctx context.Context, st *store, o options, out *console) error {
	if len(o.Args) == 0 {
		return listAll(ctx, st, o, out)
	}
	name, ref, err := parseArgument(o.Args[0])
	if err != nil {
		return err
	}
	// What is not written down is not shown, then.
	if err := st.savePulls(); err != nil {
		st.log.Warn("when images were pulled cannot be recorded", "error", err)
	}
	tags, unknown, err := listTagsOf(ctx, st, name, ref.tag)
	if err == nil && len(unknown) > 0 && st.writer != nil && st.platforms.lookForPlatforms(unknown) == nil {
		tags, _, err = listTagsOf(ctx, st, name, ref.tag)
	}
	if err != nil {
		return err
	}
	if o.JSON {
		return out.json(tags)
	}
	table := out.table("TAG", "DIGEST", "PLATFORM", "SIZE", "PUSHED", "PULLED")
	for _, t := range tags {
		for i, p := range append(t.Platforms, "-")[:max(1, len(t.Platforms))] {
			if i == 0 {
				table.row(t.Tag, shortDigest(t.Digest.String()), p, size(t.Size), localTime(t.Pushed), localTime(t.Pulled))
			} else {
				table.row("", "", p, "", "", "")
			}
		}
	}
	table.end()
	return nil
}

// listAll is `berth ls`.
func listAll(ctx context.Context, st *store, o options, out *console) error {
	repositories := []listedRepository{}
	err := st.look(ctx, func(s snapshot) error {
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
	if err != nil {
		return err
	}
	if o.JSON {
		return out.json(repositories)
	}
	table := out.table("REPOSITORY", "TAGS", "SIZE", "PUSHED")
	for _, r := range repositories {
		table.row(r.Repository, strconv.FormatInt(r.Tags, 10), size(r.Size), localTime(r.Pushed))
	}
	table.end()
	return nil
}

// listTagsOf returns the tags of a repository, or one of them, and the manifests
// whose platform nobody has looked for yet.
func listTagsOf(ctx context.Context, st *store, name, only string) (tags []listedTag, unknown []int64, err error) {
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

// removeCommand is `berth rm NAME[:TAG|@DIGEST]...`.
func removeCommand(ctx context.Context, st *store, o options, out *console) error {
	if len(o.Args) == 0 {
		return errors.New("rm: say NAME:TAG, NAME@DIGEST, or NAME for a whole repository")
	}
	type removal struct {
		Removed string `json:"removed"`
		Change  int64  `json:"change"`
	}
	done := []removal{}
	var failed error
	for _, arg := range o.Args {
		change, err := removeNamed(st, arg, o)
		if err != nil {
			failed = err
			if len(o.Args) > 1 {
				failed = fmt.Errorf("%s: %w", arg, err)
			}
			break
		}
		done = append(done, removal{arg, change})
		if !o.JSON {
			out.printf("%s removed; it can be brought back for %s of running: berth undo %d\n", arg, duration(st.restoreGrace()), change)
		}
	}
	if o.JSON {
		return errors.Join(out.json(done), failed)
	}
	return failed
}

// removeNamed removes what an argument names, and returns the change.
func removeNamed(st *store, arg string, o options) (change int64, err error) {
	name, ref, err := parseArgument(arg)
	if err != nil {
		return 0, err
	}
	switch {
	case ref.tag != "":
		change, err = st.deleteTag(name, ref.tag, o.author())
	case ref.digest != "":
		change, err = st.deleteManifest(name, ref.digest, o.author())
	default:
		change, err = st.deleteRepository(name, o.author())
	}
	if err == nil {
		st.audit("delete", "user", o.Who, "repository", name, "reference", ref)
	}
	return change, err
}

// tagCommand is `berth tag NAME:OLD NEW`.
func tagCommand(ctx context.Context, st *store, o options, out *console) error {
	if len(o.Args) != 2 {
		return errors.New("tag: say NAME:OLD NEW, or NAME@DIGEST NEW")
	}
	name, ref, err := parseArgument(o.Args[0])
	if err != nil {
		return err
	}
	if ref == (reference{}) {
		return errors.New("tag: say which image: NAME:TAG, or NAME@DIGEST")
	}
	tag, err := parseTag(strings.TrimPrefix(o.Args[1], name+":"))
	if err != nil {
		return err
	}
	d, err := tagManifest(st, name, ref, tag, o.author())
	if err != nil {
		return err
	}
	st.audit("tag", "user", o.Who, "repository", name, "tags", []string{tag}, "digest", d)
	if o.JSON {
		return out.json(map[string]any{"repository": name, "tag": tag, "digest": d})
	}
	out.printf("%s:%s is %s\n", name, tag, d)
	return nil
}

// tagManifest gives what a reference names another tag.
func tagManifest(st *store, name string, ref reference, tag string, by author) (d digest.Digest, err error) {
	rules, err := st.host.rulesNow()
	if err != nil {
		return "", err
	}
	err = st.platforms.updateKnowing(func(t *tx) error {
		p := &pushing{tx: t, rules: rules, c: by.change("tag", "as "+shortDigest(ref.String()))}
		if p.repo, err = t.findRepository(name); err != nil {
			return err
		}
		var to target
		if ref.tag != "" {
			if to, err = t.findTag(p.repo.id, ref.tag); err == nil && to.id == 0 {
				err = sql.ErrNoRows
			}
		} else {
			to, err = t.findTarget(p.repo.id, ref.digest)
		}
		if errors.Is(err, sql.ErrNoRows) {
			return errManifestUnknown.with(map[string]string{"name": name, "reference": ref.String()})
		}
		if err != nil {
			return err
		}
		to.made = false // whoever says so wants this one
		d = to.digest
		was, err := t.findTag(p.repo.id, tag)
		if err != nil {
			return err
		}
		if err := p.move(tag, was, to, false); err != nil {
			return err
		}
		return p.rebase(tag, was, to)
	})
	st.collector.wakeUp()
	if err == nil {
		notify(st.retainer.tagged)
	}
	return d, err
}
