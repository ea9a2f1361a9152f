// What the registry does to tags by the rules about them: the way of a push, or of a
// deletion, through immutable tags and indexes of several platforms (tag_platforms.go).
//
// All of it happens in the transaction of the push, and is one change (history.go).
// A tag that is pushed may come to point at an index of what is pushed and of what it
// had. When app:1.0-arm64 moves or goes, app:1.0 follows. When a member is deleted, the
// indexes that have it are made again without it.

package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"
)

// A pushing is a change of tags by the rules about them, under way.
type pushing struct {
	*tx
	rules *tagRules
	c     *change
	repo  storedRepository
	it    target // what is pushed
	chart bool   // that is a chart of helm's
}

// tag points a tag at what is pushed, or at an index that has it.
func (p *pushing) tag(tag string) error {
	was, err := p.findTag(p.repo.id, tag)
	if err != nil {
		return err
	}
	to, grows := p.it, false
	rule := p.rules.indexedBy(p.repo.name, tag, fromSameTag)
	if rule != nil && p.it.platform.String != "" && was.id != 0 && was.id != p.it.id {
		if to, grows, err = p.join(tag, was, rule); err != nil {
			return err
		}
	}
	under := tag
	if to.id != p.it.id { // the tag is on an index
		under = ""
	}
	if err := p.announcePush(under, was); err != nil {
		return err
	}
	if err := p.move(tag, was, to, grows); err != nil {
		return err
	}
	return p.rebase(tag, was, p.it)
}

// untag takes a tag away.
func (p *pushing) untag(tag string, was target) error {
	if err := p.move(tag, was, target{}, false); err != nil {
		return err
	}
	return p.rebase(tag, was, target{})
}

// move points a tag at something else, if the rules allow it: it may always become
// an index that only has more than before.
func (p *pushing) move(tag string, was, to target, grows bool) error {
	if was.id != 0 && was.id != to.id && !grows {
		if rule := p.rules.immutableBy(p.repo.name, tag); rule != nil && !p.c.force {
			err := immutableError(p.repo.name, tag, rule)
			if p.chart {
				return err.saying("%s; helm writes the time and the time zone of the chart's file into the manifest: "+
					"to push the same chart again, give the file the same time (touch -d) and set TZ=UTC", err.message)
			}
			return err
		}
		// Who may delete a tag may take something out of it.
		if to.id != 0 && !p.c.overwrite && !p.c.takes() {
			return errDenied.saying("the tag %s is there already; you may push new tags, but not overwrite", tag)
		}
	}
	return p.moveTag(p.c, p.repo, tag, was, to)
}

// grows reports whether an index has all that it had, and what is new is for
// systems and architectures that it had nothing for: a client that is not strict
// about variants could come to get another image.
func grows(had, next []member) bool {
	for _, m := range had {
		if !slices.Contains(next, m) {
			return false
		}
	}
	for _, m := range next {
		p := m.Platform.same()
		if !slices.Contains(had, m) && slices.ContainsFunc(had, func(old member) bool {
			q := old.Platform.same()
			return p.OS == q.OS && p.Architecture == q.Architecture
		}) {
			return false
		}
	}
	return len(had) > 0
}

// wraps are what images were pushed in, with attestations: the image's digest by
// that of the index around it.
type wraps map[digest.Digest]digest.Digest

// member returns a target that is an image, or has one, as a member; ok is false if
// it is none. What it is wrapped in is noted.
func (p *pushing) member(it target, in wraps) (m member, ok bool, err error) {
	if it.platform.String == "" {
		return m, false, nil
	}
	image := it
	if isIndex(it.mediaType) {
		var body []byte
		if err := p.get(`SELECT body FROM manifest WHERE id = ?`, []any{it.id}, &body); err != nil {
			return m, false, err
		}
		inside := attestedImage(body)
		if examineManifest(it.digest, body) != nil {
			// What was recorded of it when it was pushed is still known.
			err := p.get(`SELECT max(m.digest) FROM names n JOIN manifest m ON m.repository = n.repository AND m.digest = n.digest
				WHERE n.manifest = ? AND m.platform <> '' HAVING count(*) = 1`, []any{it.id}, &inside)
			if errors.Is(err, sql.ErrNoRows) {
				return m, false, nil
			}
			if err != nil {
				return m, false, err
			}
		}
		image, err = p.findTarget(p.repo.id, inside)
		if errors.Is(err, sql.ErrNoRows) {
			return m, false, nil // a sparse one
		}
		if err != nil {
			return m, false, err
		}
		in[it.digest] = image.digest
	}
	m = member{MediaType: image.mediaType, Size: int64(image.size), Digest: image.digest}
	return m, true, json.Unmarshal([]byte(it.platform.String), &m.Platform)
}

// members returns those of an index that the registry has made. They are known
// without its bytes, which may be damaged.
func (p *pushing) members(index target, in wraps) (members []member, err error) {
	parts, err := listRows(p.tx, scanTarget, `SELECT `+targetColumns+` FROM names n JOIN manifest m ON m.repository = n.repository AND m.digest = n.digest
		WHERE n.manifest = ? AND m.deleted IS NULL ORDER BY m.digest`, index.id)
	if err != nil {
		return nil, err
	}
	if err := lookFirst(parts); err != nil {
		return nil, err
	}
	for _, part := range parts {
		m, ok, err := p.member(part, in)
		if err != nil {
			return nil, err
		}
		if ok && m.Digest == part.digest {
			members = append(members, m)
		}
	}
	return members, nil
}

func scanTarget(rows *sql.Rows) (it target, err error) {
	err = rows.Scan(&it.id, &it.digest, &it.mediaType, &it.size, &it.platform)
	return it, err
}

// lookFirst is errLook if nobody has looked for the platform of some of the targets.
func lookFirst(targets []target) error {
	var look errPlatformsUnknown
	for _, it := range targets {
		if !it.platform.Valid {
			look.manifests = append(look.manifests, it.id)
		}
	}
	if look.manifests == nil {
		return nil
	}
	return &look
}

// join returns what a tag shall point at when an image is pushed that may be one of
// several, and whether that only has more than before.
func (p *pushing) join(tag string, was target, rule *tagRule) (to target, more bool, err error) {
	in := wraps{}
	it, ok, err := p.member(p.it, in)
	if err != nil || !ok {
		return p.it, false, err
	}
	if err := lookFirst([]target{was}); err != nil {
		return to, false, err
	}
	var had []member
	switch {
	case was.made:
		if had, err = p.members(was, in); err != nil {
			return to, false, err
		}
	case was.platform.String == "" && isIndex(was.mediaType):
		return to, false, errDenied.saying("%s:%s is an index that a client has pushed, and %s does not replace those: delete the tag first, or push an index",
			p.repo.name, tag, rule)
	default:
		first, ok, err := p.member(was, in)
		if err != nil {
			return to, false, err
		}
		if !ok || first.Platform.same() == it.Platform.same() {
			return p.it, false, nil
		}
		had = []member{first}
	}
	next := addMember(had, it)
	to, err = p.index(tag, next, in)
	return to, grows(had, next), err
}

// index makes sure that the repository has the index of some members, which keeps
// what those were pushed in.
func (p *pushing) index(tag string, members []member, in wraps) (to target, err error) {
	if len(members) > maxMembers {
		return to, errDenied.saying("%s:%s has %d platforms already, which is the maximum", p.repo.name, tag, maxMembers)
	}
	m, err := makeIndex(members)
	if err != nil {
		return to, err
	}
	to = target{digest: m.digest, mediaType: m.mediaType, size: len(m.body), platform: sql.NullString{Valid: true}, made: true}
	var deleted bool
	err = p.get(`SELECT id, deleted IS NOT NULL FROM manifest WHERE repository = ? AND digest = ?`, []any{p.repo.id, m.digest}, &to.id, &deleted)
	if err == nil && deleted {
		if err = p.removeManifest(p.repo.id, to.id, m.digest); err == nil {
			err = sql.ErrNoRows
		}
	}
	if err == nil {
		err = p.heal(to.id, m)
	} else if errors.Is(err, sql.ErrNoRows) {
		// A damaged member is there all the same: a push heals it.
		to.id, err = p.insertManifest(p.repo.id, m, allowance{damaged: true, platform: to.platform, made: true})
	}
	if err != nil {
		return to, err
	}
	for wrap, image := range in {
		if !slices.ContainsFunc(members, func(m member) bool { return m.Digest == image }) {
			continue
		}
		if _, err := p.exec(`INSERT INTO names (repository, digest, manifest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, p.repo.id, wrap, to.id); err != nil {
			return to, err
		}
		if err := p.settleManifest(p.repo.id, wrap); err != nil {
			return to, err
		}
	}
	return to, nil
}

// rebase keeps the index app:1.0 when app:1.0-arm64 has moved, if a rule says so.
func (p *pushing) rebase(tag string, was, to target) error {
	base := baseOf(tag)
	if base == "" || was.id == to.id || p.rules.indexedBy(p.repo.name, base, fromSuffix) == nil {
		return nil
	}
	index, err := p.findTag(p.repo.id, base)
	if err != nil || index.id != 0 && !index.made || index.id == 0 && to.id == 0 {
		return err // there is none, or a client has put something there
	}
	others, err := p.siblings(base, tag)
	if err != nil {
		return err
	}
	ends := slices.DeleteFunc([]target{was, to}, func(x target) bool { return x.id == 0 })
	if err := lookFirst(slices.Concat(others, ends)); err != nil {
		return err
	}
	in := wraps{}
	var had []member
	if index.made {
		if had, err = p.members(index, in); err != nil {
			return err
		}
	}
	next := had
	left, ok, err := p.member(was, in)
	if err != nil {
		return err
	}
	if ok && !slices.ContainsFunc(others, func(o target) bool { return o.id == was.id }) {
		next = withoutMember(next, left.Digest)
	}
	it, ok, err := p.member(to, in)
	if err != nil {
		return err
	}
	if ok {
		next = addMember(next, it)
	}
	for _, o := range others { // two tags may be for one platform
		m, ok, err := p.member(o, in)
		if err != nil {
			return err
		}
		if ok && !slices.ContainsFunc(next, func(x member) bool { return x.Platform.same() == m.Platform.same() }) {
			next = addMember(next, m)
		}
	}
	var at target
	if len(next) > 0 {
		if at, err = p.index(base, next, in); err != nil {
			return err
		}
	}
	if at.id == index.id {
		return nil
	}
	return p.move(base, index, at, grows(had, next))
}

// siblings returns what other tags with a suffix of the same base point at.
func (p *pushing) siblings(base, except string) ([]target, error) {
	return listRows(p.tx, scanTarget, `SELECT `+targetColumns+` FROM tag t JOIN manifest m ON m.id = t.manifest
		WHERE t.repository = ?1 AND t.name IN (SELECT ?2 || '-' || value FROM json_each(?3)) AND t.name <> ?4 ORDER BY t.name`,
		p.repo.id, base, suffixList, except)
}

// leaveIndexes takes a manifest that is about to be deleted out of the indexes that
// the registry makes. Those that it was in are hidden, so that an undo of what
// pointed at them finds them. In any other index it stays, which is errDenied unless
// members may be absent; but one that nothing leads to (a former version of a list of
// signatures, say) holds nothing, and is deleted along with it, unless such are kept.
func (p *pushing) leaveIndexes(it target, sparse, kept bool) error {
	type parent struct {
		target
		tagged bool
		loose  bool
	}
	parents, err := listRows(p.tx, func(rows *sql.Rows) (x parent, err error) {
		err = rows.Scan(&x.id, &x.digest, &x.made, &x.tagged, &x.loose)
		return x, err
	}, `SELECT m.id, m.digest,
			(m.made = 1 OR EXISTS (SELECT 1 FROM tag t WHERE t.manifest = m.id AND t.made = 1))
			AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest = m.id AND t.made = 0)
			AND NOT EXISTS (SELECT 1 FROM names o JOIN manifest q ON q.id = o.manifest AND q.deleted IS NULL WHERE o.repository = m.repository AND o.digest = m.digest),
			EXISTS (SELECT 1 FROM tag t WHERE t.manifest = m.id),
			m.loose IS NOT NULL
		FROM names n JOIN manifest m ON m.id = n.manifest AND m.deleted IS NULL WHERE n.repository = ? AND n.digest = ?`, p.repo.id, it.digest)
	if err != nil {
		return err
	}
	var made []int64
	var loose []target
	for _, x := range parents {
		switch {
		case x.made:
			made = append(made, x.id)
		case x.loose && !sparse && !kept:
			loose = append(loose, x.target)
		case !sparse:
			return errDenied.withf("the index %s has this manifest as a member; delete that first", x.digest)
		}
	}
	for _, x := range loose {
		if err := p.hideManifest(p.c, p.repo, x.id, x.digest); err != nil {
			return err
		}
	}
	in := wraps{}
	left := it.digest
	if m, ok, err := p.member(it, in); err != nil {
		return err
	} else if ok {
		left = m.Digest
	}
	for _, x := range parents {
		if !x.made || !x.tagged {
			continue
		}
		if err := p.leaveIndex(x.id, left); err != nil {
			return err
		}
	}
	return p.hideIndexes(made)
}

// leaveIndex takes an image out of what the tags of an index point at.
func (p *pushing) leaveIndex(id int64, image digest.Digest) error {
	tags, err := listRows(p.tx, scanOne[string], `SELECT name FROM tag WHERE manifest = ?`, id)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		was, err := p.findTag(p.repo.id, tag)
		if err != nil {
			return err
		}
		in := wraps{}
		had, err := p.members(was, in)
		if err != nil {
			return err
		}
		var next target
		if rest := withoutMember(had, image); len(rest) > 0 {
			if next, err = p.index(tag, rest, in); err != nil {
				return err
			}
		}
		if err := p.move(tag, was, next, false); err != nil {
			return err
		}
	}
	return nil
}

// hideIndexes hides many at once; a member that is pushed often was in many. They
// are not in the history: the tags that pointed at them are.
func (p *pushing) hideIndexes(ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	text, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	for _, query := range []string{
		// With the + SQLite looks for the ids, and not through the repository.
		`UPDATE manifest SET deleted = ?3, loose = ?3 WHERE +repository = ?1 AND id IN (SELECT value FROM json_each(?2))`,
		`UPDATE manifest SET loose = CASE WHEN loose IS NULL THEN ?3 END
			WHERE repository = ?1 AND digest IN (SELECT digest FROM names WHERE manifest IN (SELECT value FROM json_each(?2)))
			AND (loose IS NULL) <> (` + manifestLive + `)`,
		`UPDATE manifest SET loose = CASE WHEN loose IS NULL THEN ?3 END
			WHERE repository = ?1 AND subject IN (SELECT digest FROM manifest WHERE id IN (SELECT value FROM json_each(?2)))
			AND (loose IS NULL) <> (` + manifestLive + `)`,
	} {
		if _, err := p.exec(query, p.repo.id, string(text), p.clock); err != nil {
			return err
		}
	}
	return nil
}

// showIndex brings back an index of the registry's that was hidden along with a
// member, if all its members are there again; else the target is zero.
func (t *tx) showIndex(st *store, repo storedRepository, d digest.Digest) (it target, err error) {
	var id int64
	err = t.get(`SELECT id FROM manifest WHERE repository = ? AND digest = ? AND made = 1 AND deleted IS NOT NULL`, []any{repo.id, d}, &id)
	if errors.Is(err, sql.ErrNoRows) {
		return it, nil
	}
	if err != nil {
		return it, err
	}
	if whole, err := st.complete(t, id); err != nil || !whole {
		return it, err
	}
	if _, err := t.exec(`UPDATE manifest SET deleted = NULL, loose = ? WHERE id = ?`, t.clock, id); err != nil {
		return it, err
	}
	if err := errors.Join(t.settleManifest(repo.id, d), t.settleAround(repo.id, id, d)); err != nil {
		return it, err
	}
	return t.findTarget(repo.id, d)
}
