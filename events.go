// Events: what has happened to images, for programs that wait for it.
//
// An event is made in the transaction that changes something, and an endpoint that wants it has a
// row there (events_queue.go): so there is an event exactly if the change is committed. Where
// nobody listens, nothing is made, written or asked.
//
// What an event says is fixed when it is made. Endpoints get it in one of two forms: in the
// envelope of distribution's notifications, so that what listened to registry:2 goes on
// listening, or as a CloudEvent. docs/events.md has the words; they stay as they are.

package main

import (
	"database/sql"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

// What can happen, as event.Type has it. CloudEvents have it after eventTypePrefix.
const (
	manifestPushed    = "manifest.pushed"  // by a client, under a tag or by its digest
	manifestPulled    = "manifest.pulled"  // not written down, and lost with the process
	manifestDeleted   = "manifest.deleted" // its tags have events of their own
	manifestRestored  = "manifest.restored"
	tagMoved          = "tag.moved" // to another image or back, by no push: a command, an undo, an index of the registry's
	tagDeleted        = "tag.deleted"
	repositoryDeleted = "repository.deleted" // with all that it had
	blobPushed        = "blob.pushed"
	blobMounted       = "blob.mounted"
	blobDeleted       = "blob.deleted"
	testEvent         = "test" // of `berth events test`
)

// eventTypePrefix begins the types of CloudEvents.
const eventTypePrefix = "io.github.berth-registry."

// eventActions are distribution's words for what can happen.
var eventActions = map[string]string{
	manifestPushed: "push", manifestRestored: "push", tagMoved: "push", blobPushed: "push", blobMounted: "mount", manifestPulled: "pull",
	manifestDeleted: "delete", tagDeleted: "delete", repositoryDeleted: "delete", blobDeleted: "delete", testEvent: "test",
}

// An event is one thing that has happened. As JSON it is the data of a CloudEvent, the row of the
// queue, and a line of `berth events --json`.
type event struct {
	ID         string        `json:"id"`   // a UUID; the same however often it is sent
	Time       time.Time     `json:"time"` // in UTC
	Type       string        `json:"type"`
	Action     string        `json:"action"` // as in eventActions
	Repository string        `json:"repository,omitempty"`
	Tag        string        `json:"tag,omitempty"`
	Digest     string        `json:"digest,omitempty"`
	Previous   string        `json:"previous,omitempty"` // digest that the tag pointed at before; none if it is new, or has not moved
	MediaType  string        `json:"mediaType,omitempty"`
	Size       int64         `json:"size,omitempty"` // in bytes
	URL        string        `json:"url,omitempty"`  // of the manifest or blob; none if a command was at work and there is no --public-url
	From       string        `json:"from,omitempty"` // repository that a blob was mounted from
	Actor      string        `json:"actor"`          // a user, token:NAME, anonymous, retention; of a command the account
	Why        string        `json:"why,omitempty"`  // for people: the rule, or what was undone
	Request    requestRecord `json:"request,omitzero"`
	Source     sourceRecord  `json:"source"`
}

// A requestRecord is the request by which something was done, in distribution's words; the zero
// value if a command or a rule did it.
type requestRecord struct {
	ID        string `json:"id"`
	Addr      string `json:"addr,omitempty"` // of the client
	Host      string `json:"host,omitempty"` // as the client calls this registry
	Method    string `json:"method"`
	UserAgent string `json:"useragent"`
}

// A sourceRecord says which process made an event.
type sourceRecord struct {
	Addr       string `json:"addr,omitempty"`       // host name and port
	InstanceID string `json:"instanceID,omitempty"` // another one after each start
}

// isOfBlob reports whether an event is about a blob.
func (e *event) isOfBlob() bool { return strings.HasPrefix(e.Type, "blob.") }

// name is what an event is about, as people write it.
func (e *event) name() string {
	switch {
	case e.Tag != "":
		return e.Repository + ":" + e.Tag
	case e.Digest != "":
		return e.Repository + "@" + e.Digest
	}
	return e.Repository
}

// The forms in which an endpoint can have its events.
const (
	distributionFormat = "distribution"
	cloudEventsFormat  = "cloudevents"
)

// render returns the body and the media type by which an event is sent.
func (e *event) render(format string) (body []byte, mediaType string, err error) {
	if format == cloudEventsFormat {
		body, err = json.Marshal(e.cloudEvent())
		return body, "application/cloudevents+json; charset=utf-8", err
	}
	body, err = json.Marshal(envelope{[]notification{e.notification()}})
	return body, "application/vnd.docker.distribution.events.v2+json", err
}

// An envelope is what distribution sends (Envelope in its package notifications): as there, with one event.
type envelope struct {
	Events []notification `json:"events,omitempty"`
}

// A notification is an event in distribution's words. The members and their order are those of
// its version 3, which writes empty ones, too, where these have no omitempty.
type notification struct {
	ID        string    `json:"id,omitempty"`
	Timestamp time.Time `json:"timestamp"`
	Action    string    `json:"action,omitempty"`
	Target    struct {
		MediaType      string `json:"mediaType"`
		Digest         string `json:"digest"`
		Size           int64  `json:"size"`
		Length         int64  `json:"length,omitempty"` // the same as size
		Repository     string `json:"repository,omitempty"`
		FromRepository string `json:"fromRepository,omitempty"`
		URL            string `json:"url,omitempty"`
		Tag            string `json:"tag,omitempty"`
	} `json:"target"`
	Request requestRecord `json:"request"`
	Actor   struct {
		Name string `json:"name,omitempty"`
	} `json:"actor"`
	Source sourceRecord `json:"source"`
}

func (e *event) notification() (n notification) {
	n.ID, n.Timestamp, n.Action, n.Request, n.Source = e.ID, e.Time, e.Action, e.Request, e.Source
	to := &n.Target
	to.MediaType, to.Digest, to.Size, to.Length = e.MediaType, e.Digest, e.Size, e.Size
	to.Repository, to.FromRepository, to.URL, to.Tag = e.Repository, e.From, e.URL, e.Tag
	if e.Actor != "anonymous" { // who has no name there
		n.Actor.Name = e.Actor
	}
	if e.Actor == retentionActor {
		n.Actor.Name += " " + e.Why
	}
	return n
}

// A cloudEvent is an event in the structured mode of CloudEvents 1.0.
type cloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            *event    `json:"data"`
}

func (e *event) cloudEvent() cloudEvent {
	return cloudEvent{SpecVersion: "1.0", ID: e.ID, Source: "//" + e.Source.Addr, Type: eventTypePrefix + e.Type, Subject: e.name(), Time: e.Time,
		DataContentType: "application/json", Data: e}
}

// retentionActor is who removes tags by rules.
const retentionActor = "retention"

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

// wants reports whether an endpoint is to get an event.
func (p *endpoint) wants(e *event) bool {
	return slices.Contains(p.actions, e.Action) && (p.blobs || !e.isOfBlob()) && p.repositories.has(e.Repository)
}
