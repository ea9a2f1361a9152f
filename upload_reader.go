// An upload's body while it arrives: how fast, whether it stalls, whether somebody else waits.

package main

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// A bodyReader reads at most left bytes (-1: to the end) of a request's body.
// Each read has the stall timeout to bring something. Its errors are
// errClient: the client broke off, stalled, or sent nonsense.
type bodyReader struct {
	body     io.Reader
	response *response
	left     int64
	queue    *queue        // of the session; nil for a manifest
	patience time.Duration // with a client that is silent while others are in the queue
	since    time.Time     // when the last read began
	hurried  bool          // another request wants the turn
	until    time.Time     // when all of it must have come; zero for never
	given    *atomic.Bool  // nobody wants the rest any more; may be nil
}

func (b *bodyReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.given != nil && b.given.Load() {
		return 0, errClient.with("whoever began the upload may no longer continue it")
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.read(p)
	if b.queue != nil {
		b.queue.arrived.Add(int64(n))
	}
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err != nil {
		b.response.afterRead(err)
		switch {
		case err == io.EOF:
		case b.hurried && errors.Is(err, os.ErrDeadlineExceeded):
			err = errClient.with("another request continues the upload")
		default:
			err = errClient.with(clientError(err))
		}
	}
	return n, err
}

// rest is called when nobody waits for the client: it has no time to keep.
func (b *bodyReader) rest() { b.response.afterRead(nil) }

// more reports whether the body goes on after left bytes.
func (b *bodyReader) more() bool {
	if b.left != 0 {
		return false
	}
	var one [1]byte
	n, err := b.read(one[:])
	b.response.afterRead(err)
	return n > 0 && (err == nil || err == io.EOF)
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
