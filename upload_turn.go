// Whose turn it is on an upload.
//
// Requests on one session take turns. A connection may die without a word (the
// network changed, a router forgot it), and its request then waits for bytes that
// never come; the client is back on another connection long before the stall
// timeout. So whoever waits for the turn ends a request that only waits for bytes,
// when none has come for a while; what has arrived is kept. One that is writing or
// committing is waited for. To ask how far an upload has come ends nothing.

package main

import (
	"context"
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
