// Events are made: what a transaction does is announced in it, if anybody listens.

package main

import (
	"database/sql"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

// announce makes an event of something that the transaction does, if anybody listens.
func (t *tx) announce(by author, e event) error { return t.announceAs(by, "", e) }

// announceAs is announce, with words that say why.
func (t *tx) announceAs(by author, why string, e event) error {
	if !t.heard() {
		return nil
	}
	e.Why = why
	t.events.complete(&e, by)
	return t.events.put(t, &e)
}

// heard reports whether anybody listens to what the transaction does.
func (t *tx) heard() bool { return t.events != nil && t.events.heard() }

// complete adds to an event what all have.
func (q *eventQueue) complete(e *event, by author) {
	e.ID, e.Time, e.Action = uuid.NewString(), time.Now().UTC(), eventActions[e.Type]
	e.Actor, e.Request, e.Source = by.who, by.request, q.source()
	if e.MediaType != "" {
		if base := q.baseURL(by); base != "" {
			kind := "manifests"
			if e.isOfBlob() {
				kind = "blobs"
			}
			e.URL = base + "/v2/" + e.Repository + "/" + kind + "/" + e.Digest
		}
	}
}

// announcePush tells that a client has pushed a manifest, under a tag unless that is "".
func (p *pushing) announcePush(tag string, was target) error {
	e := event{Type: manifestPushed, Repository: p.repo.name, Tag: tag, Digest: p.it.digest.String(), MediaType: p.it.mediaType, Size: int64(p.it.size)}
	if tag != "" && was.id != p.it.id {
		e.Previous = was.digest.String()
	}
	return p.announce(p.c.author, e)
}

// announceBlob tells that a repository has got a blob: by a push, or from another repository.
func (t *tx) announceBlob(by author, kind, repository, from string, d digest.Digest, size int64) error {
	return t.announce(by, event{Type: kind, Repository: repository, From: from, Digest: d.String(), MediaType: typeBlob, Size: size})
}

// announceTag tells that a tag has moved or is gone. To what a client pushes it moves by that
// push, which has an event already.
func (t *tx) announceTag(c *change, repository, tag string, was, to target) error {
	e := event{Type: tagMoved, Repository: repository, Tag: tag, Digest: to.digest.String(), Previous: was.digest.String(),
		MediaType: to.mediaType, Size: int64(to.size)}
	switch {
	case to.id == 0:
		e = event{Type: tagDeleted, Repository: repository, Tag: tag, Previous: was.digest.String()}
	case c.action == "push" && !to.made:
		return nil
	}
	return t.announceAs(c.author, c.why, e)
}

// announceRestored tells that a manifest is there again.
func (t *tx) announceRestored(c *change, repository string, id int64, d digest.Digest) error {
	if !t.heard() {
		return nil
	}
	e := event{Type: manifestRestored, Repository: repository, Digest: d.String()}
	if err := t.get(`SELECT media_type, length(body) FROM manifest WHERE id = ?`, []any{id}, &e.MediaType, &e.Size); err != nil {
		return err
	}
	return t.announceAs(c.author, c.why, e)
}

// A taggedTarget is a tag and what it points at.
type taggedTarget struct {
	tag string
	target
}

// announceTags tells that a repository is there again, by its tags: what listens knows no other
// words for it.
func (t *tx) announceTags(c *change, repo storedRepository) error {
	if !t.heard() {
		return nil
	}
	tags, err := listRows(t, func(rows *sql.Rows) (x taggedTarget, err error) {
		err = rows.Scan(&x.tag, &x.id, &x.digest, &x.mediaType, &x.size)
		return x, err
	}, `SELECT t.name, m.id, m.digest, m.media_type, length(m.body) FROM tag t JOIN manifest m ON m.id = t.manifest
		WHERE t.repository = ? ORDER BY t.name LIMIT ?`, repo.id, maxQueued)
	if err != nil {
		return err
	}
	for _, x := range tags {
		e := event{Type: tagMoved, Repository: repo.name, Tag: x.tag, Digest: x.digest.String(), MediaType: x.mediaType, Size: int64(x.size)}
		if err := t.announceAs(c.author, c.why, e); err != nil {
			return err
		}
	}
	return nil
}

// announcePull tells that a client has got a manifest, where somebody wants to know (hearsPulls). It
// writes nothing.
func (q *eventQueue) announcePull(repository, tag string, m *storedManifest, by author) {
	e := &event{Type: manifestPulled, Repository: repository, Tag: tag, Digest: m.digest.String(), MediaType: m.mediaType, Size: int64(m.size)}
	q.complete(e, by)
	q.pass(e)
}
