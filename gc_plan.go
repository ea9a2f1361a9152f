// What a collection would remove, and why.
//
// plan does on paper what collect does, on one snapshot of the database, so
// that nothing is written and nothing waits. When everything is due at once,
// what falls together falls together: the members and referrers of what goes,
// and the blobs that only it uses. Its cost, in time and memory, is in
// proportion to what would go.

package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// A doomed thing would be removed by a collection.
type doomed struct {
	Kind       string        `json:"kind"` // manifest, blob or upload
	Repository string        `json:"repository"`
	Digest     digest.Digest `json:"digest,omitempty"`
	Upload     string        `json:"upload,omitempty"`
	Bytes      int64         `json:"bytes"` // that this alone takes; of a blob that is still elsewhere 0
	Why        string        `json:"why"`
}

// name names it for people.
func (d doomed) name(b brevity) string {
	id := d.Digest.String()
	switch {
	case d.Upload != "" && b == inFull:
		return d.Repository + " " + d.Upload
	case d.Upload != "":
		return d.Repository + " " + d.Upload[:min(8, len(d.Upload))]
	case b != inFull:
		id = b.digest(id)
	}
	if d.Repository == "" {
		return id
	}
	return d.Repository + "@" + id
}

// A planner works out what would go.
type planner struct {
	snapshot
	st       *store
	g        graces
	promises bool // keep what was promised
	each     func(doomed) error
	total    tally

	dead  map[int64]bool    // manifests, by id
	refs  map[int64]int64   // what still refers to a manifest that has lost something that did
	queue []plannedManifest // dead, and what that takes along still to be seen
	links map[plannedLink]bool
	order []plannedBlob            // the keys of links, as they came
	past  map[plannedLink][2]int64 // the last dead users that were seen of it, by uses and by names
	left  map[int64]int64          // a blob's links that stay, of those that have lost one
	held  map[string]bool          // what was promised, to count it once
}

type plannedManifest struct {
	id, repo, size int64
	digest         digest.Digest
	repository     string
	deleted        bool // by a client: it refers to no manifest any more, and no promise keeps it
}

type plannedLink struct{ repo, blob int64 }

// A plannedBlob is what is known of a link.
type plannedBlob struct {
	plannedLink
	digest      digest.Digest
	size, links int64 // of the blob
	repository  string
	alone       bool // no other manifest uses it than the one by which it was found
}

// plan calls each with what a collection by g would remove now, if it kept what
// was promised lately (or not), and returns the sum.
func (st *store) plan(ctx context.Context, g graces, promises bool, each func(doomed) error) (c tally, err error) {
	err = st.look(ctx, func(s snapshot) error {
		p := newPlanner(st, s, g, promises, each)
		for _, step := range []func() error{p.uploads, p.rows, p.trash} {
			if err := step(); err != nil {
				return fmt.Errorf("looking for what would be removed: %w", err)
			}
		}
		c = p.total
		return nil
	})
	return c, err
}

// newPlanner prepares a plan on a snapshot.
func newPlanner(st *store, s snapshot, g graces, promises bool, each func(doomed) error) *planner {
	return &planner{snapshot: s, st: st, g: g, promises: promises, each: each,
		dead: make(map[int64]bool), refs: make(map[int64]int64), links: make(map[plannedLink]bool),
		past: make(map[plannedLink][2]int64), left: make(map[int64]int64), held: make(map[string]bool)}
}

// rows finds the manifests and blobs whose rows would go.
func (p *planner) rows() error {
	for _, step := range []func() error{p.repositories, p.manifests, p.follow, p.looseLinks} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) uploads() error {
	return p.snapshot.rows(func(rows *sql.Rows) error {
		d := doomed{Kind: "upload"}
		var used int64
		if err := rows.Scan(&d.Upload, &d.Repository, &d.Bytes, &used); err != nil {
			return err
		}
		if _, yes := p.st.uploads.atWork(d.Upload); yes {
			return nil
		}
		p.total.Uploads++
		p.total.Uploaded += d.Bytes
		d.Why = "nobody has continued it for " + p.ago(used)
		return p.each(d)
	}, `SELECT id, repository, offset, used FROM upload WHERE used < ?`, p.st.collector.cutoff(p.g.upload))
}

// repositories finds the manifests of those that were deleted.
func (p *planner) repositories() error {
	return p.snapshot.rows(func(rows *sql.Rows) error {
		m := plannedManifest{deleted: true}
		var deleted int64
		if err := rows.Scan(&m.id, &m.repo, &m.size, &m.digest, &m.repository, &deleted); err != nil {
			return err
		}
		return p.kill(m, "its repository was deleted "+p.ago(deleted)+" ago")
	}, `SELECT m.id, m.repository, length(m.body), m.digest, r.name, r.deleted
		FROM repository r JOIN manifest m ON m.repository = r.id WHERE r.deleted < ? ORDER BY r.deleted`, p.cutoff(p.g.manifest))
}

// manifests finds those that are due by themselves.
func (p *planner) manifests() error {
	return p.snapshot.rows(func(rows *sql.Rows) error {
		var m plannedManifest
		var loose int64
		if err := rows.Scan(&m.id, &m.repo, &m.size, &m.digest, &m.repository, &m.deleted, &loose); err != nil {
			return err
		}
		if m.deleted {
			return p.kill(m, "deleted "+p.ago(loose)+" ago")
		}
		return p.kill(m, "no tag, index or subject for "+p.ago(loose))
	}, `SELECT m.id, m.repository, length(m.body), m.digest, r.name, m.deleted IS NOT NULL, m.loose
		FROM manifest m`+p.g.index()+` JOIN repository r ON r.id = m.repository
		WHERE m.loose < ?`+p.g.onlyDeleted()+` ORDER BY m.loose`, p.cutoff(p.g.manifest))
}

func (p *planner) cutoff(grace time.Duration) int64 {
	if p.g.now {
		return 1<<63 - 1
	}
	return p.st.collector.cutoff(grace)
}

func (p *planner) ago(uptime int64) string {
	return formatDuration(max(0, p.st.uptime()-time.Duration(uptime)*time.Second))
}

// kill notes that a manifest goes, unless it was promised.
func (p *planner) kill(m plannedManifest, why string) error {
	if p.dead[m.id] {
		return nil
	}
	if !m.deleted && p.kept(m.repository, m.digest, p.g.manifest) {
		return nil
	}
	p.dead[m.id] = true
	if p.g.now { // else what it refers to has its own grace before it
		p.queue = append(p.queue, m)
	}
	p.total.Manifests++
	return p.each(doomed{Kind: "manifest", Repository: m.repository, Digest: m.digest, Bytes: m.size, Why: why})
}

// kept reports, and counts, whether something stays because it was promised.
func (p *planner) kept(repository string, d digest.Digest, grace time.Duration) bool {
	if !p.promises || !p.st.collector.heedsPromises(p.g, grace) {
		return false
	}
	p.st.promises.mu.Lock()
	defer p.st.promises.mu.Unlock()
	if !p.st.promises.held(repository, d) {
		return false
	}
	if key := repository + "@" + d.String(); !p.held[key] {
		p.held[key] = true
		p.total.Promised++
	}
	return true
}

// follow takes along what the manifests that go alone keep.
func (p *planner) follow() error {
	for len(p.queue) > 0 {
		m := p.queue[len(p.queue)-1]
		p.queue = p.queue[:len(p.queue)-1]
		if !m.deleted {
			if err := p.alongWith(m); err != nil {
				return err
			}
		}
		if err := p.signaturesOf(m); err != nil {
			return err
		}
		// Most blobs are of one manifest: then there is nothing more to ask.
		blobs, err := listRows(p.snapshot, func(rows *sql.Rows) (b plannedBlob, err error) {
			err = rows.Scan(&b.blob, &b.digest, &b.size, &b.links, &b.alone)
			b.repo, b.repository = m.repo, m.repository
			return b, err
		}, `SELECT b.id, b.digest, b.size, b.links,
				NOT EXISTS (SELECT 1 FROM uses u WHERE u.repository = ?2 AND u.blob = b.id AND u.manifest <> ?1)
				AND NOT EXISTS (SELECT 1 FROM names n WHERE n.repository = ?2 AND n.digest = b.digest AND n.manifest <> ?1)
			FROM blob b WHERE b.id IN (SELECT blob FROM uses WHERE manifest = ?1
				UNION SELECT l.blob FROM names n JOIN blob b ON b.digest = n.digest
				JOIN link l ON l.repository = n.repository AND l.blob = b.id WHERE n.manifest = ?1)`, m.id, m.repo)
		if err != nil {
			return err
		}
		for _, b := range blobs {
			if !p.links[b.plannedLink] {
				p.links[b.plannedLink] = true
				p.order = append(p.order, b)
			}
		}
	}
	order := p.order
	p.order = nil
	for _, b := range order {
		lives := false
		if !b.alone {
			var err error
			if lives, err = p.used(b.plannedLink); err != nil {
				return err
			}
		}
		if lives {
			delete(p.links, b.plannedLink) // till something else goes that uses it
			continue
		}
		if err := p.unlink(b, "only used by what is removed"); err != nil {
			return err
		}
	}
	return nil
}

// alongWith kills the members and the referrers of a dead manifest that nothing else
// keeps.
func (p *planner) alongWith(m plannedManifest) error {
	type companion struct {
		plannedManifest
		member bool
	}
	found, err := listRows(p.snapshot, func(rows *sql.Rows) (c companion, err error) {
		err = rows.Scan(&c.member, &c.id, &c.repo, &c.size, &c.digest)
		c.repository = m.repository
		return c, err
	}, `SELECT 1, m.id, m.repository, length(m.body), m.digest FROM names n
			JOIN manifest m ON m.repository = n.repository AND m.digest = n.digest WHERE n.manifest = ?1
		UNION ALL SELECT 0, m.id, m.repository, length(m.body), m.digest FROM manifest m
			WHERE m.repository = ?2 AND m.subject = ?3`, m.id, m.repo, m.digest)
	if err != nil {
		return err
	}
	for _, c := range found {
		if lives, err := p.outlives(c.plannedManifest); err != nil {
			return err
		} else if lives {
			continue
		}
		why := "its subject is removed"
		if c.member {
			why = "the index that contains it is removed"
		}
		if err := p.kill(c.plannedManifest, why); err != nil {
			return err
		}
	}
	return nil
}

// signaturesOf kills what only the tags keep that go with a dead manifest.
func (p *planner) signaturesOf(m plannedManifest) error {
	type signature struct {
		plannedManifest
		tag string
	}
	found, err := listRows(p.snapshot, func(rows *sql.Rows) (s signature, err error) {
		err = rows.Scan(&s.id, &s.size, &s.digest, &s.tag)
		s.repo, s.repository = m.repo, m.repository
		return s, err
	}, `SELECT m.id, length(m.body), m.digest, t.name FROM tag t JOIN manifest m ON m.id = t.manifest
		WHERE t.repository = ?1 AND t.name IN (`+signatureTags+`)`, m.repo, signatureTag(m.digest))
	if err != nil || len(found) == 0 {
		return err
	}
	rules, err := p.st.host.rulesNow()
	if err != nil {
		return err
	}
	for _, s := range found {
		if rules.immutableBy(s.repository, s.tag) != nil {
			continue
		}
		if lives, err := p.outlives(s.plannedManifest); err != nil {
			return err
		} else if lives {
			continue
		}
		if err := p.kill(s.plannedManifest, "its tag belongs to an image that is removed"); err != nil {
			return err
		}
	}
	return nil
}

// used reports whether a manifest that is not dead uses a link. It looks no further
// than the first: a layer may have many users. Nor does it look again at those that
// were dead the last time.
func (p *planner) used(l plannedLink) (lives bool, err error) {
	past := p.past[l]
	for i, query := range []string{
		`SELECT manifest FROM uses WHERE repository = ?1 AND blob = ?2 AND manifest > ?3 ORDER BY manifest`,
		`SELECT n.manifest FROM names n JOIN blob b ON b.id = ?2 WHERE n.repository = ?1 AND n.digest = b.digest AND n.manifest > ?3 ORDER BY n.manifest`,
	} {
		err = p.snapshot.rows(func(rows *sql.Rows) error {
			id, err := scanOne[int64](rows)
			switch {
			case err != nil:
				return err
			case p.dead[id]:
				past[i] = id
				return nil
			}
			lives = true
			return errEnough
		}, query, l.repo, l.blob, past[i])
		if err != nil || lives {
			break
		}
	}
	p.past[l] = past
	return lives, err
}

// outlives notes that one of the things that refer to a manifest goes, and
// reports whether another stays. They are counted once: many indexes may share
// a member.
func (p *planner) outlives(m plannedManifest) (bool, error) {
	if _, ok := p.refs[m.id]; !ok {
		var n int64
		err := p.get(`SELECT (SELECT count(*) FROM tag WHERE manifest = ?1)
			+ (SELECT count(*) FROM names n JOIN manifest p ON p.id = n.manifest AND p.deleted IS NULL WHERE n.repository = ?2 AND n.digest = ?3)
			+ (SELECT count(*) FROM manifest WHERE id = ?1 AND subject IS NOT NULL AND met = 0)
			+ (SELECT count(*) FROM manifest m JOIN manifest s ON s.repository = m.repository AND s.digest = m.subject AND s.deleted IS NULL WHERE m.id = ?1)`,
			[]any{m.id, m.repo, m.digest}, &n)
		if err != nil {
			return false, err
		}
		p.refs[m.id] = n
	}
	p.refs[m.id]--
	return p.refs[m.id] > 0, nil
}

// looseLinks finds the links that are due by themselves.
func (p *planner) looseLinks() error {
	return p.snapshot.rows(func(rows *sql.Rows) error {
		var b plannedBlob
		var loose int64
		if err := rows.Scan(&b.repo, &b.blob, &loose, &b.digest, &b.size, &b.links, &b.repository); err != nil {
			return err
		}
		return p.unlink(b, "no manifest has used it for "+p.ago(loose))
	}, `SELECT l.repository, l.blob, l.loose, b.digest, b.size, b.links, r.name
		FROM link l JOIN blob b ON b.id = l.blob JOIN repository r ON r.id = l.repository
		WHERE l.loose < ? ORDER BY l.loose`, p.cutoff(p.g.blob))
}

// unlink notes that a repository loses a blob, unless it was promised, and with
// the last one the blob itself.
func (p *planner) unlink(b plannedBlob, why string) error {
	d := doomed{Kind: "blob", Repository: b.repository, Digest: b.digest, Why: why}
	if p.kept(b.repository, b.digest, p.g.blob) {
		return nil
	}
	if _, ok := p.left[b.blob]; !ok {
		p.left[b.blob] = b.links
	}
	if p.left[b.blob]--; p.left[b.blob] == 0 {
		d.Bytes = b.size
		p.total.Blobs++
		p.total.Bytes += b.size
	}
	return p.each(d)
}

// trash counts files whose rows have gone already.
func (p *planner) trash() error {
	return p.snapshot.rows(func(rows *sql.Rows) error {
		d := doomed{Kind: "blob", Why: "its file is about to be removed"}
		if err := rows.Scan(&d.Digest, &d.Bytes); err != nil {
			return err
		}
		p.total.Blobs++
		p.total.Bytes += d.Bytes
		return p.each(d)
	}, `SELECT digest, size FROM trash`)
}
