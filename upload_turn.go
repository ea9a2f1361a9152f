// Whose turn it is on an upload.
//
// Requests on one session take turns. A connection may die without a word (the
// network changed, a router forgot it), and its request then waits for bytes that
// never come; the client is back on another connection long before the stall
// timeout. So whoever waits for the turn ends a request that only waits for bytes,
// when none has come for a while; what has arrived is kept. One that is writing or
// committing is waited for. To ask how far an upload has come ends nothing.
//
// A commit that is sent again gets the answer of the first, as long as the blob is there:
// sessions that have ended are not remembered.

package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// defaultPatience is how long a client may be silent when another request waits for
// its turn: longer than a living client is that sends one body twice.
const defaultPatience = 2 * time.Second

// A queue is who waits for the turn on a session.
type queue struct {
	// arrived is up to where the request at work has read, though it may not have
	// written it yet; 0 if none reads. All of it will be kept.
	arrived atomic.Int64
	mu      sync.Mutex  // guards the rest, and hurried of reading
	waiting int         // requests
	reading *bodyReader // waits for bytes now, of the request whose turn it is; nil if it does something else
}

// take waits for the turn, no longer than ctx. It reports false if that has ended.
func (u *upload) take(ctx context.Context) bool {
	select {
	case u.turn <- struct{}{}:
		return true
	default:
	}
	q := &u.queue
	q.mu.Lock()
	q.waiting++
	if q.reading != nil {
		q.reading.hurry()
	}
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		q.waiting--
		q.mu.Unlock()
	}()
	select {
	case u.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// read is one read of the body, which a request that waits for the turn may end.
func (b *bodyReader) read(p []byte) (n int, err error) {
	q := b.queue
	if q == nil {
		b.response.beforeRead(b.until)
		return b.body.Read(p)
	}
	q.mu.Lock()
	b.response.beforeRead(b.until)
	b.since = time.Now()
	if q.waiting > 0 {
		b.hurry()
	}
	q.reading = b
	q.mu.Unlock()
	n, err = b.body.Read(p)
	q.mu.Lock()
	q.reading = nil
	if b.hurried && err == nil { // what is done with the bytes is not the client's time; HTTP/2 would end the body meanwhile
		b.hurried = false
		b.rest()
	}
	q.mu.Unlock()
	return n, err
}

// hurry gives the client no more time than patience since it was last heard of. The
// queue's mutex is held.
func (b *bodyReader) hurry() {
	b.hurried = true
	b.response.control.SetReadDeadline(b.since.Add(b.patience))
}

// commitAgain answers the commit of a session that there is not, or not any more, when the
// repository has the blob: as a rule the session has ended by this commit, whose answer was
// late, or lost, or the registry was restarted. It tells no more than a HEAD would, to who
// may ask that, and is the same promise. It reports false, and has answered nothing, if the
// blob is not there. What a body brings is not needed any more, but a client that sends one
// reads no answer before its end.
func (s *server) commitAgain(w http.ResponseWriter, r *http.Request) (bool, error) {
	name := r.PathValue("name")
	d, err := parseDigest(r.URL.Query().Get("digest"))
	if err != nil || !isUUID(r.PathValue("session")) || w.(*response).caller.may(name)&mayPull == 0 {
		return false, nil
	}
	f, err := s.st.openBlob(name, d, true)
	if errors.Is(err, errBlobUnknown) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f.Close()
	if r.ContentLength != 0 {
		arrived, err := s.arrive(w, r)
		if err != nil {
			return false, err
		}
		defer arrived()
	}
	body := &bodyReader{body: r.Body, response: w.(*response), left: -1}
	if s.st.maxBlob > 0 {
		body.left = s.st.maxBlob
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return false, err
	}
	if body.more() {
		return false, errBlobTooLarge.withf("the limit is %d bytes", s.st.maxBlob)
	}
	s.answerBlobCreated(w, name, d)
	return true, nil
}
