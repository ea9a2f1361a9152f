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
	"encoding/json"
	"slices"
	"strings"
	"time"
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

// wants reports whether an endpoint is to get an event.
func (p *endpoint) wants(e *event) bool {
	return slices.Contains(p.actions, e.Action) && (p.blobs || !e.isOfBlob()) && p.repositories.has(e.Repository)
}
