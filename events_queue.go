// Events that wait: the rows that endpoints have still to get, and those who follow.
//
// An event is written in the commit of the change that it tells of, once for each endpoint that
// wants it. Memory has the number and the repository of each event that waits; its text is read when
// it is sent. When it has arrived, its row is deleted along with the next commit that there is
// anyway, or when many have arrived, or at the end. After a crash before that it is sent again, with
// the same id. So a delivery costs no sync.
//
// An endpoint that is away for long must not fill the disk. Of more than maxQueued events the
// oldest are given up, since the later ones say what is true now. Pulls are not written: they wait
// in memory, and there may be fewer of them.

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
)

const (
	// maxQueued bounds the events that wait for an endpoint; each has about 1 KiB.
	maxQueued = 10000
	// maxQueuedPulls bounds the pulls among them.
	maxQueuedPulls = 1000
	// arrivedPerWrite bounds the events that have arrived and whose rows go with one write. When
	// so many have, no other write is waited for.
	arrivedPerWrite = 200
	// maxUnread bounds the events that somebody who follows has still to read.
	maxUnread = 1024
)

// An eventQueue has a store's events until they have arrived.
type eventQueue struct {
	*store
	publicURL    string // as --public-url
	hostname, id string // of this machine, and of this process
	last         int64  // the highest number given; used by the writer only
	most         int    // events that wait for an endpoint, at most; set before the first
	changed      chan struct{}

	followers atomic.Int64
	arrivals  atomic.Int64 // how many arrived are

	mu      sync.Mutex // guards the rest
	waiting map[string]*waitingEvents
	arrived []int64 // the numbers of rows to delete
	follow  map[*follower]bool
}

// waitingEvents are those of one endpoint.
type waitingEvents struct {
	list    []*queuedEvent // in the order in which they happened
	pulls   int            // of them
	failing bool           // the last try came to nothing
	full    bool           // some were given up, and none has arrived since
	more    chan struct{}  // tells the sender of another one
	counts  eventCounts
}

// eventCounts are an endpoint's since the start.
type eventCounts struct{ sent, failed, dropped int64 }

// A queuedEvent is one that has still to arrive.
type queuedEvent struct {
	n          int64 // of its row; 0 for a pull
	repository string
	pulled     *event // nil unless it is a pull
}

// newEventQueue returns the queue of a store that is not open yet.
func newEventQueue(st *store) *eventQueue {
	q := &eventQueue{store: st, id: uuid.NewString(), most: maxQueued, changed: make(chan struct{}, 1),
		waiting: make(map[string]*waitingEvents), follow: make(map[*follower]bool)}
	q.hostname, _ = os.Hostname() // without it the events say less
	return q
}

// load reads what is waiting.
func (q *eventQueue) load() error {
	if q.writer == nil {
		return nil // what has arrived could not be written
	}
	type row struct {
		endpoint string
		queuedEvent
	}
	rows, err := listRows(q, func(rows *sql.Rows) (x row, err error) {
		err = rows.Scan(&x.n, &x.endpoint, &x.repository)
		return x, err
	}, `SELECT n, endpoint, repository FROM event ORDER BY n`)
	if err != nil {
		return err
	}
	for _, x := range rows {
		w := q.of(x.endpoint)
		w.list = append(w.list, &x.queuedEvent)
		q.last = x.n
	}
	return nil
}

// of returns what is waiting for an endpoint. q.mu is held, or nobody else has the queue.
func (q *eventQueue) of(name string) *waitingEvents {
	w := q.waiting[name]
	if w == nil {
		w = &waitingEvents{more: make(chan struct{}, 1)}
		q.waiting[name] = w
	}
	return w
}

// heard reports whether anybody may want to know what happens. It is also true if that cannot be found out,
// of which put returns the error.
func (q *eventQueue) heard() bool {
	if q.followers.Load() > 0 {
		return true
	}
	l, err := q.host.listeners()
	return err != nil || len(l.endpoints) > 0
}

// hearsPulls is heard for pulls.
func (q *eventQueue) hearsPulls() bool {
	l, err := q.host.listeners()
	return err == nil && l.pulls || q.followers.Load() > 0
}

// source says which process makes an event.
func (q *eventQueue) source() sourceRecord {
	s := sourceRecord{Addr: q.hostname, InstanceID: q.id}
	if _, port, err := net.SplitHostPort(q.host.whereabouts().Address); err == nil {
		s.Addr = net.JoinHostPort(q.hostname, port)
	}
	return s
}

// baseURL is the registry's, as whoever has made a request reaches it; "" if that is not known.
func (q *eventQueue) baseURL(by author) string {
	if q.publicURL != "" {
		return q.publicURL
	}
	return by.url
}

// put queues an event that happens with the transaction, for all endpoints that want it.
func (q *eventQueue) put(t *tx, e *event) error {
	l, err := q.host.listeners()
	if err != nil {
		return err
	}
	var text []byte
	for _, p := range l.endpoints {
		if !p.wants(e) {
			continue
		}
		if text == nil {
			if text, err = json.Marshal(e); err != nil {
				return err
			}
		}
		if err := q.makeRoom(t, p.name); err != nil {
			return err
		}
		q.last++ // of a write that is taken back it is used up
		it := &queuedEvent{n: q.last, repository: e.Repository}
		if _, err := t.exec(`INSERT INTO event (n, endpoint, repository, body) VALUES (?, ?, ?, ?)`, it.n, p.name, it.repository, string(text)); err != nil {
			return err
		}
		t.committed = append(t.committed, func() { q.add(p.name, it) })
	}
	t.committed = append(t.committed, func() { q.tell(e) })
	return nil
}

// makeRoom gives up the oldest events of an endpoint for which too many wait. A transaction does so
// once: of what it adds itself, the next gives up the oldest.
func (q *eventQueue) makeRoom(t *tx, name string) error {
	if slices.Contains(t.roomMade, name) {
		return nil
	}
	q.mu.Lock()
	list := q.of(name).list
	over := len(list) - q.most
	if over < 0 {
		q.mu.Unlock()
		return nil
	}
	old := slices.Clone(list[:over+max(1, q.most/100)]) // so that it need not be done again at once
	q.mu.Unlock()
	if err := deleteEvents(t, numbersOf(old)); err != nil {
		return err
	}
	t.roomMade = append(t.roomMade, name)
	t.committed = append(t.committed, func() { q.giveUp(name, old) })
	return nil
}

func numbersOf(list []*queuedEvent) (numbers []int64) {
	for _, it := range list {
		if it.n > 0 {
			numbers = append(numbers, it.n)
		}
	}
	return numbers
}

func deleteEvents(t *tx, numbers []int64) error {
	text, err := json.Marshal(numbers)
	if err == nil && len(numbers) > 0 {
		_, err = t.exec(`DELETE FROM event WHERE n IN (SELECT value FROM json_each(?))`, string(text))
	}
	return err
}

// giveUp forgets events that there is no room for.
func (q *eventQueue) giveUp(name string, old []*queuedEvent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.of(name)
	n := w.remove(old...)
	w.counts.dropped += int64(n)
	if n > 0 && !w.full {
		w.full = true
		q.log.Error("too many events wait for an endpoint, and the oldest are given up until it takes some again", "endpoint", name, "waiting", len(w.list))
	}
}

// remove takes events out of the list, and returns how many were in it. q.mu is held.
func (w *waitingEvents) remove(some ...*queuedEvent) (n int) {
	gone := make(map[*queuedEvent]bool, len(some))
	for _, it := range some {
		gone[it] = true
	}
	w.list = slices.DeleteFunc(w.list, func(it *queuedEvent) bool {
		if !gone[it] {
			return false
		}
		if n++; it.pulled != nil {
			w.pulls--
		}
		return true
	})
	return n
}

// add has an event sent.
func (q *eventQueue) add(name string, it *queuedEvent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.of(name)
	w.list = append(w.list, it)
	notify(w.more)
}

// pass has a pull sent to all who want it, without writing anything.
func (q *eventQueue) pass(e *event) {
	if l, err := q.host.listeners(); err == nil {
		for _, p := range l.endpoints {
			if p.wants(e) {
				q.addPull(p.name, e)
			}
		}
	}
	q.tell(e)
}

func (q *eventQueue) addPull(name string, e *event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.of(name)
	if w.pulls >= maxQueuedPulls {
		w.counts.dropped++
		return
	}
	w.pulls++
	w.list = append(w.list, &queuedEvent{repository: e.Repository, pulled: e})
	notify(w.more)
}

// first returns the first event that waits for an endpoint and whose repository is not held; nil
// if there is none.
func (q *eventQueue) first(name string, held func(repository string) bool) *queuedEvent {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.of(name)
	i := slices.IndexFunc(w.list, func(it *queuedEvent) bool { return !held(it.repository) })
	if i < 0 {
		return nil
	}
	return w.list[i]
}

// read returns what an event says; sql.ErrNoRows if it was given up meanwhile.
func (q *eventQueue) read(it *queuedEvent) (*event, error) {
	if it.pulled != nil {
		return it.pulled, nil
	}
	var text string
	if err := q.get(`SELECT body FROM event WHERE n = ?`, []any{it.n}, &text); err != nil {
		return nil, err
	}
	e := new(event)
	return e, json.Unmarshal([]byte(text), e)
}

// done takes an event out of the queue: it has arrived, or is given up.
func (q *eventQueue) done(name string, it *queuedEvent, arrived bool) error {
	q.mu.Lock()
	w := q.of(name)
	there := w.remove(it) > 0
	switch {
	case arrived:
		w.counts.sent++
		w.full, w.failing = false, false
	case there:
		w.counts.dropped++
	}
	if there && it.n > 0 {
		q.arrived = append(q.arrived, it.n)
	}
	n := len(q.arrived)
	q.arrivals.Store(int64(n))
	q.mu.Unlock()
	if n < arrivedPerWrite {
		return nil
	}
	return q.save()
}

// failed counts an attempt to send that came to nothing.
func (q *eventQueue) failed(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.of(name)
	w.counts.failed++
	w.failing = true
}

// stuck is how many events wait for an endpoint, the first of them, and whether the last try to send one
// came to nothing.
func (q *eventQueue) stuck(name string) (n int, first *queuedEvent, failing bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.of(name)
	if len(w.list) > 0 {
		first = w.list[0]
	}
	return len(w.list), first, w.failing
}

// ride deletes the rows of what has arrived, in a transaction that there is anyway.
func (q *eventQueue) ride(t *tx) error {
	if q.arrivals.Load() == 0 {
		return nil
	}
	q.mu.Lock()
	some := slices.Clone(q.arrived[:min(len(q.arrived), arrivedPerWrite)])
	q.mu.Unlock()
	if err := deleteEvents(t, some); err != nil {
		return err
	}
	t.committed = append(t.committed, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.arrived = slices.DeleteFunc(q.arrived, func(n int64) bool { return slices.Contains(some, n) })
		q.arrivals.Store(int64(len(q.arrived)))
	})
	return nil
}

// save deletes the rows of all that has arrived.
func (q *eventQueue) save() error {
	for before := int64(-1); ; {
		n := q.arrivals.Load()
		if n == 0 || n == before {
			return nil
		}
		before = n
		if err := q.updateLazy(func(*tx) error { return nil }); err != nil {
			return err
		}
	}
}

// dropStrangers gives up what waits for endpoints that are no more.
func (q *eventQueue) dropStrangers(l *listeners) error {
	q.mu.Lock()
	var gone []int64
	for name, w := range q.waiting {
		if l.find(name) == nil && len(w.list) > 0 {
			q.log.Warn("events are given up, since there is no such endpoint any more", "endpoint", name, "events", len(w.list))
			gone = append(gone, numbersOf(w.list)...)
			delete(q.waiting, name)
		}
	}
	q.mu.Unlock()
	if len(gone) == 0 || q.writer == nil {
		return nil
	}
	return q.updateLazy(func(t *tx) error { return deleteEvents(t, gone) })
}

// An endpointFigure is what the metrics say of an endpoint.
type endpointFigure struct {
	name   string
	queued int
	eventCounts
}

// figures returns those of all endpoints that there are.
func (q *eventQueue) figures() (list []endpointFigure) {
	l, err := q.host.listeners()
	if err != nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range l.endpoints {
		w := q.of(p.name)
		list = append(list, endpointFigure{p.name, len(w.list), w.counts})
	}
	return list
}

// A follower is told of events while it listens.
type follower struct {
	events       chan *event // closed when the follower is too slow
	repositories *patterns
	pulls, blobs bool
}

// listen has f told of what it wants to know, until ctx ends or it is too slow.
func (q *eventQueue) listen(ctx context.Context, f *follower) {
	f.events = make(chan *event, maxUnread)
	q.mu.Lock()
	q.follow[f] = true
	q.mu.Unlock()
	q.followers.Add(1)
	context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.leave(f)
	})
}

// leave ends a follower, if it has not ended. q.mu is held.
func (q *eventQueue) leave(f *follower) {
	if q.follow[f] {
		delete(q.follow, f)
		q.followers.Add(-1)
		close(f.events)
	}
}

// tell tells all followers of an event that want it. Who is too slow is told of no more.
func (q *eventQueue) tell(e *event) {
	if q.followers.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for f := range q.follow {
		if e.Action == "pull" && !f.pulls || e.isOfBlob() && !f.blobs || !f.repositories.has(e.Repository) {
			continue
		}
		select {
		case f.events <- e:
		default:
			q.leave(f)
		}
	}
}
