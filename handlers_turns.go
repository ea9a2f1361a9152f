// Requests that are one too many wait for their turn.
//
// Clients that push do not come back: docker gives up at the first 429, and
// others after a few in a tenth of a second. So what is too many for the moment
// waits for some seconds, in the order in which it came, and is refused only
// then. How many wait is bounded, for each address and in all; beyond that they
// are refused at once. Nobody waits for a client that has gone, as far as that
// shows, or in a server that is about to stop.

package main

import (
	lists "container/list"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// patience is how long a request waits at most: less than the 30 seconds for
	// which containerd, and Docker with it, wait for an answer.
	patience = 15 * time.Second
	// bodyPatience is the same for the body of an upload. Its client is still
	// sending, and waits; but proxies as nginx do for no more than a minute.
	bodyPatience = 45 * time.Second

	maxWaiting   = 500 // requests that wait
	maxWaitingOf = 100 // of one address
)

// waiting counts the requests that wait.
type waiting struct {
	after    func(time.Duration) <-chan time.Time
	stopping chan struct{} // closed when the server is about to stop

	mu  sync.Mutex // guards the rest, and the lines
	all int
	of  map[string]int // by address
}

func newWaiting() *waiting {
	return &waiting{after: time.After, stopping: make(chan struct{}), of: make(map[string]int)}
}

// enter counts one more that waits, unless there are too many. w.mu is held.
func (w *waiting) enter(address string) bool {
	if w.all >= maxWaiting || w.of[address] >= maxWaitingOf {
		return false
	}
	w.all++
	w.of[address]++
	return true
}

// count is how many requests wait.
func (w *waiting) count() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int64(w.all)
}

// leave undoes enter. w.mu is held.
func (w *waiting) leave(address string) {
	w.all--
	if w.of[address]--; w.of[address] == 0 {
		delete(w.of, address)
	}
}

// sleep lets a request of an address wait for a time that is its own. It reports
// false if the client has gone, or too many wait.
func (w *waiting) sleep(done <-chan struct{}, address string, d time.Duration) bool {
	w.mu.Lock()
	ok := w.enter(address)
	w.mu.Unlock()
	if !ok {
		return false
	}
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.leave(address)
	}()
	select {
	case <-w.after(d):
	case <-w.stopping: // which lets those finish that are here
	case <-done:
		return false
	}
	return true
}

// A waitingLine is those who wait until there is room for one more.
type waitingLine struct {
	*waiting
	length atomic.Int32
	queue  lists.List // of *waiter; mu guards it
	missed bool       // a turn came when all had one; likewise
}

type waiter struct {
	address string
	turn    chan struct{} // has one when there may be room
}

// await returns what try does as soon as that is not full, or full when the
// request has waited for as long as may be. Who comes later than another of the
// same address is served later.
func (l *waitingLine) await(w *response, r *http.Request, most time.Duration, full *protocolError, try func() error) error {
	if l.length.Load() == 0 || !l.has(w.origin.key()) {
		if err := try(); !errors.Is(err, full) {
			return err
		}
	}
	e := l.join(w.origin.key())
	if e == nil {
		return full
	}
	defer l.quit(e)
	late := l.after(most)
	for {
		select {
		case <-e.Value.(*waiter).turn:
			if err := try(); !errors.Is(err, full) {
				return err
			}
			l.wakeAfter(e) // who waits for another's room
		case <-late:
			return full
		case <-l.stopping:
			return full
		case <-r.Context().Done():
			return full
		}
	}
}

// has reports whether a request of an address waits.
func (l *waitingLine) has(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holds(address)
}

// holds is has; l.mu is held.
func (l *waitingLine) holds(address string) bool {
	for e := l.queue.Front(); e != nil; e = e.Next() {
		if e.Value.(*waiter).address == address {
			return true
		}
	}
	return false
}

// join is who comes last, or nil if too many wait. The first of an address has a
// turn at once: there may have come room since it tried.
func (l *waitingLine) join(address string) *lists.Element {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &waiter{address, make(chan struct{}, 1)}
	if !l.holds(address) {
		w.turn <- struct{}{}
	}
	if !l.enter(address) {
		return nil
	}
	l.length.Add(1)
	return l.queue.PushBack(w)
}

// quit ends a wait. A turn that was not used, or that nobody was there for, goes to
// who waits longest.
func (l *waitingLine) quit(e *lists.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := e.Value.(*waiter)
	l.queue.Remove(e)
	l.length.Add(-1)
	l.leave(w.address)
	if len(w.turn) > 0 || l.missed {
		l.missed = !wake(l.queue.Front()) && l.queue.Len() > 0
	}
}

// freed gives a turn to who waits longest: there is room for one more. If all have one
// already, it is for who comes while they wait.
func (l *waitingLine) freed() {
	if l.length.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.missed = !wake(l.queue.Front()) && l.queue.Len() > 0
}

func (l *waitingLine) wakeAfter(e *lists.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wake(e.Next())
}

// wake gives a turn to the first from e on that has none. It reports false if all have.
func wake(e *lists.Element) bool {
	for ; e != nil; e = e.Next() {
		select {
		case e.Value.(*waiter).turn <- struct{}{}:
			return true
		default:
		}
	}
	return false
}

// takeOne counts one more, unless there are as many as may be; 0 is no limit.
func takeOne(n *atomic.Int64, most int64) bool {
	for {
		have := n.Load()
		if most > 0 && have >= most {
			return false
		}
		if n.CompareAndSwap(have, have+1) {
			return true
		}
	}
}
