// Answers in memory, while clients read them.
//
// A client may take minutes over an answer, and many may do so at once, over one
// connection too. What is longer than freeAnswer takes room for as long as it is
// in memory, out of what the budget has; who finds none waits a little, and is then
// told to come again. Shorter ones cost little more than the connection, and are not
// counted. A manifest that many read at once is there once. What is put together
// (lists) is put together by a few at a time, and is not kept while it waits for room.
// Blobs are in files, and the kernel sends those.

package main

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// freeAnswer is how many bytes an answer has at most that takes no room.
	freeAnswer = 64 << 10
	// sendingWait is how long an answer waits for room.
	sendingWait = 10 * time.Second
)

// sending is the room for long answers.
type sending struct {
	size int64         // bytes, in all
	wait time.Duration // for room, at most

	mu      sync.Mutex // guards the rest
	used    int64
	waiting []*waitingAnswer // in turn
	bodies  map[digest.Digest]*sharedBody
}

// A waitingAnswer is one that there is no room for yet.
type waitingAnswer struct {
	n     int64
	ready chan struct{} // closed when it has the room
}

// need returns how much room n bytes take: none if they are few, and all there is if
// they are more than that.
func (s *sending) need(n int) int64 {
	if n <= freeAnswer {
		return 0
	}
	return min(int64(n), s.size)
}

// try takes room for n bytes, if it is there and nobody waits for some.
func (s *sending) try(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) > 0 || s.used+n > s.size {
		return false
	}
	s.used += n
	return true
}

// take waits for room for n bytes, but not for long: the error is then
// errTooManyAnswers, or ctx's. The caller gives it back.
func (s *sending) take(ctx context.Context, n int64) error {
	if s.try(n) {
		return nil
	}
	w := &waitingAnswer{n, make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.admit()
	s.mu.Unlock()
	timer := time.NewTimer(s.wait)
	defer timer.Stop()
	var err error = errTooManyAnswers
	select {
	case <-w.ready:
		return nil
	case <-timer.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, w)
	if i < 0 {
		return nil // at the last moment
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	s.admit() // whoever comes next may need less
	return err
}

// give gives room back.
func (s *sending) give(n int64) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
	s.admit()
}

// admit lets those in that have room now, in turn. The caller holds mu.
func (s *sending) admit() {
	for len(s.waiting) > 0 && s.used+s.waiting[0].n <= s.size {
		s.used += s.waiting[0].n
		close(s.waiting[0].ready)
		s.waiting = slices.Delete(s.waiting, 0, 1)
	}
}

// A sharedBody is a manifest's bytes, while there is somebody who reads them.
type sharedBody struct {
	readers int           // guarded by sending.mu
	ready   chan struct{} // closed when the rest is known
	room    int64
	body    []byte
	err     error
}

// share returns the bytes of a manifest of n bytes, which load reads if nobody has them
// at the moment. The caller calls release when it has sent them.
func (s *sending) share(ctx context.Context, d digest.Digest, n int, load func() ([]byte, error)) (body []byte, release func(), err error) {
	for {
		s.mu.Lock()
		b := s.bodies[d]
		first := b == nil
		if first {
			if s.bodies == nil {
				s.bodies = make(map[digest.Digest]*sharedBody)
			}
			b = &sharedBody{ready: make(chan struct{})}
			s.bodies[d] = b
		}
		b.readers++
		s.mu.Unlock()
		leave := sync.OnceFunc(func() { s.leave(d, b) })
		if first {
			s.fill(ctx, d, b, n, load)
		}
		select {
		case <-b.ready:
			err = b.err
		case <-ctx.Done():
			leave()
			return nil, nil, ctx.Err()
		}
		if err == nil {
			return b.body, leave, nil
		}
		leave()
		// Else the first one's client has gone, or it asked another repository.
		if first || errors.Is(err, errTooManyAnswers) {
			return nil, nil, err
		}
	}
}

// fill finds room for a body and loads it.
func (s *sending) fill(ctx context.Context, d digest.Digest, b *sharedBody, n int, load func() ([]byte, error)) {
	filled := false
	defer func() {
		if !filled && b.err == nil {
			b.err = errInternal // load has panicked, and nobody leaves in its name
			s.give(b.room)
			b.room = 0
		}
		if b.err != nil {
			s.mu.Lock()
			delete(s.bodies, d) // who comes now tries anew
			s.mu.Unlock()
		}
		close(b.ready)
	}()
	room := s.need(n)
	if b.err = s.take(ctx, room); b.err != nil {
		return
	}
	b.room = room
	b.body, b.err = load()
	filled = true
}

// leave lets go of a body. The last reader gives its room back.
func (s *sending) leave(d digest.Digest, b *sharedBody) {
	s.mu.Lock()
	b.readers--
	last := b.readers == 0
	if last && s.bodies[d] == b {
		delete(s.bodies, d)
	}
	s.mu.Unlock()
	if last {
		s.give(b.room)
	}
}

// sendBuilt answers with what build returns, when there is room for it. build may run
// more than once, and sets the header, too. turns are for those who put something
// together of that kind, none of whom waits for a client.
func (s *server) sendBuilt(w http.ResponseWriter, r *http.Request, turns chan struct{}, contentType string, build func() ([]byte, error)) error {
	room := &s.st.sending
	var held int64
	defer func() { room.give(held) }()
	once := func() (body []byte, need int64, err error) {
		select {
		case turns <- struct{}{}: // mostly at once
		default:
			timer := time.NewTimer(room.wait)
			defer timer.Stop()
			select {
			case turns <- struct{}{}:
			case <-timer.C:
				return nil, 0, errTooManyAnswers
			case <-r.Context().Done():
				return nil, 0, r.Context().Err()
			}
		}
		defer func() { <-turns }()
		w.Header().Del("Link") // of what was built before
		if body, err = build(); err != nil {
			return nil, 0, err
		}
		need = room.need(len(body))
		if need > held && !room.try(need-held) {
			return nil, need, nil // not kept while it waits
		}
		held = max(held, need)
		return body, need, nil
	}
	for range 3 { // it may have grown meanwhile
		body, need, err := once()
		if err == nil && body == nil {
			room.give(held)
			held = 0
			if err = room.take(r.Context(), need); err == nil {
				held = need
				continue
			}
		}
		if errors.Is(err, context.Canceled) {
			return errTooManyAnswers // which nobody gets
		}
		if err != nil {
			return err
		}
		return writeBody(w, contentType, body)
	}
	return errTooManyAnswers
}
