// How many connections there may be.
//
// Each takes memory before anybody has said who he is: buffers, and a header that may
// never end; and each is an open file. So there are at most as many as the memory and the
// limit of the system are enough for (budget.go). When one more comes, the one goes that
// has done nothing for the longest time: whose header has not come, or that is kept alive
// between requests. One never goes that has a request under way of somebody who may make
// it; if all have, the new one does. So whoever holds all that there are, and asks for
// nothing, or for what is not for him, shuts nobody out.
//
// Over HTTP/2 a connection may take more: frames, the bodies of requests that nobody has
// read yet, and the answers that it does not read. So it counts as several; and so does
// each long header that somebody still needs.
//
// When the server ends, it first stops to accept, and then waits for the first request of each
// connection that it has accepted: net/http's Shutdown would close those unanswered, and who
// had connected in time would have to try again.

package main

import (
	lists "container/list"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// connections are those of a server, over all its listeners.
type connections struct {
	most int
	two  int           // for how many a connection over HTTP/2 counts
	wait time.Duration // for a request's header
	log  *slog.Logger

	listeners []*countedListener

	mu     sync.Mutex // guards the rest
	count  int
	idle   lists.List // of *connection without a request that may be, the longest first
	told   time.Time
	fresh  int           // connections whose first request has not begun
	served chan struct{} // while draining: closed when fresh is 0; else nil
}

// A connection counts until it is closed. It has all of a TCP connection's methods, so
// that the kernel can send files over it.
type connection struct {
	*net.TCPConn
	all      *connections
	place    *lists.Element // in idle; nil while there is a request that may be; guarded by all.mu
	requests int            // under way, that may be; likewise
	closed   bool           // likewise
	weight   int            // for how many it counts, long headers with it; likewise

	known, two bool         // it has spoken, and by HTTP/2; for ConnState alone
	fresh      atomic.Bool  // its first request has not begun, and it is not closed
	silent     atomic.Bool  // over HTTP/2, and no request is under way
	unasked    atomic.Int64 // bytes that came since
}

// maxUnasked is how many bytes may come over HTTP/2 while no request is under way before
// they must be a request's header: settings, pings and the like are a few dozen.
const maxUnasked = 4 << 10

// Read limits how long a header may take over HTTP/2, as net/http does not: there is time
// from when it is long enough to cost more than an idle connection does.
func (x *connection) Read(p []byte) (int, error) {
	n, err := x.TCPConn.Read(p)
	if n > 0 && x.silent.Load() {
		if all := x.unasked.Add(int64(n)); all > maxUnasked && all-int64(n) <= maxUnasked {
			x.SetReadDeadline(time.Now().Add(x.all.wait))
		}
	}
	return n, err
}

// listen has the connections of l be counted. All calls come before the first connection.
func (c *connections) listen(l net.Listener) net.Listener {
	counted := &countedListener{Listener: l, all: c, last: make(chan struct{}), closed: make(chan struct{})}
	c.listeners = append(c.listeners, counted)
	return counted
}

type countedListener struct {
	net.Listener
	all     *connections
	drained sync.Once
	last    chan struct{} // closed when the last connection has been accepted
	once    sync.Once
	closed  chan struct{} // by who accepts; drain does not close it
}

func (l *countedListener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() { close(l.closed) })
	return err
}

// drain accepts no more connections, and waits until the first request of each has begun, but no longer than
// ctx. Whoever accepts notices nothing: to him it is as if nobody came.
func (c *connections) drain(ctx context.Context) {
	for _, l := range c.listeners {
		l.Listener.Close()
		select {
		case <-l.last:
		case <-ctx.Done():
			return
		}
	}
	served := make(chan struct{})
	c.mu.Lock()
	c.served = served
	c.tellServed()
	c.mu.Unlock()
	select {
	case <-served:
	case <-ctx.Done():
	}
}

// tellServed ends drain if it has nothing to wait for. mu is held.
func (c *connections) tellServed() {
	if c.served != nil && c.fresh == 0 {
		close(c.served)
		c.served = nil
	}
}

// begun is called when a request of the connection begins, and when it is closed.
func (x *connection) begun() {
	if x.fresh.CompareAndSwap(true, false) {
		x.all.mu.Lock()
		defer x.all.mu.Unlock()
		x.all.fresh--
		x.all.tellServed()
	}
}

func (l *countedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			l.drained.Do(func() { close(l.last) })
			<-l.closed
		}
		tcp, ok := conn.(*net.TCPConn)
		if err != nil || !ok {
			return conn, err
		}
		if c := l.all.add(tcp); c != nil {
			return c, nil
		}
		tcp.Close()
	}
}

// add counts a new connection, and closes another if need be; it returns nil if none
// may go.
func (c *connections) add(tcp *net.TCPConn) *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.makeRoom(1) {
		return nil
	}
	x := &connection{TCPConn: tcp, all: c, weight: 1}
	c.count++
	x.place = c.idle.PushBack(x)
	x.fresh.Store(true)
	c.fresh++
	return x
}

// makeRoom closes connections until n more may be; it returns false if too few may go.
// mu is held.
func (c *connections) makeRoom(n int) bool {
	for c.count+n > c.most {
		if now := time.Now(); now.Sub(c.told) >= time.Minute {
			c.told = now
			c.log.Warn("there are as many connections as memory or the limit on open files allows; idle ones are closed for new ones", "connections", c.count)
		}
		oldest := c.idle.Front()
		if oldest == nil {
			return false
		}
		victim := oldest.Value.(*connection)
		victim.gone()
		if victim.fresh.CompareAndSwap(true, false) {
			c.fresh--
		}
		victim.TCPConn.Close()
	}
	return true
}

// grow has a connection count for n more; it returns false if that cannot be, or the
// connection itself had to go. all.mu is held.
func (x *connection) grow(n int) bool {
	if x.closed || !x.all.makeRoom(n) || x.closed {
		return false
	}
	x.weight += n
	x.all.count += n
	return true
}

// shrink has a connection count for one less. Its handlers call it.
func (x *connection) shrink() {
	x.all.mu.Lock()
	defer x.all.mu.Unlock()
	if !x.closed {
		x.weight--
		x.all.count--
	}
}

// freeHeader is how many bytes a request's header may have over HTTP/2 that is not counted.
const freeHeader = 4 << 10

// forgetful lets go of what a request over HTTP/2 has said when its handler has ended: the
// answer may wait for as long as the client takes to read it, and there may be maxStreams
// of those on one connection. Until then a long header counts as a connection. A request
// that will have trailers is ended: net/http would hold those as long as the answer.
func forgetful(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, _ := r.Context().Value(connectionKey{}).(*connection)
		if x != nil && x.fresh.Load() {
			x.begun()
		}
		if r.ProtoMajor != 2 {
			next.ServeHTTP(w, r)
			return
		}
		if r.Trailer != nil {
			panic(http.ErrAbortHandler)
		}
		defer func() {
			clear(r.Header)
			r.URL, r.RequestURI, r.Host = &url.URL{}, "", ""
		}()
		if x != nil && headerSize(r) > freeHeader {
			x.all.mu.Lock()
			fits := x.grow(1)
			x.all.mu.Unlock()
			if !fits {
				writeError(w, errTooManyHeaders)
				return
			}
			defer x.shrink()
		}
		next.ServeHTTP(w, r)
	})
}

// headerSize is in bytes, and counts fields as RFC 9113, section 6.5.2, does.
func headerSize(r *http.Request) int {
	n := len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			n += len(name) + len(value) + 32
		}
	}
	return n
}

// gone counts a connection no more. all.mu is held.
func (x *connection) gone() {
	if x.closed {
		return
	}
	x.closed = true
	x.all.count -= x.weight
	x.busy()
}

// busy keeps a connection from being closed for others. all.mu is held.
func (x *connection) busy() {
	if x.place != nil {
		x.all.idle.Remove(x.place)
		x.place = nil
	}
}

// rest lets a connection be closed for others, after all that are idle. all.mu is held.
func (x *connection) rest() {
	switch {
	case x.closed:
	case x.place != nil:
		x.all.idle.MoveToBack(x.place)
	default:
		x.place = x.all.idle.PushBack(x)
	}
}

func (x *connection) Close() error {
	x.begun()
	x.all.mu.Lock()
	x.gone()
	x.all.mu.Unlock()
	return x.TCPConn.Close()
}

// state is for http.Server.ConnState, which tells of a connection over HTTP/2 before its
// first request, too.
func (c *connections) state(conn net.Conn, state http.ConnState) {
	x := connectionOf(conn)
	switch {
	case x == nil:
	case state == http.StateActive && !x.known:
		x.known = true
		if t, ok := conn.(*tls.Conn); ok && t.ConnectionState().NegotiatedProtocol == "h2" {
			x.two = true
			c.mu.Lock()
			fits := x.grow(c.two - 1)
			c.mu.Unlock()
			if !fits {
				x.Close()
			}
		}
	case state == http.StateActive && x.two:
		x.silent.Store(false)
		if x.unasked.Load() > maxUnasked {
			x.SetReadDeadline(time.Time{})
		}
	case state == http.StateIdle:
		c.mu.Lock()
		x.requests = 0
		x.rest()
		c.mu.Unlock()
		if x.two {
			x.unasked.Store(0)
			x.silent.Store(true)
		}
	}
}

// connectionOf finds the connection below TLS; nil if it is none of a TCP listener.
func connectionOf(conn net.Conn) *connection {
	for {
		switch x := conn.(type) {
		case *connection:
			return x
		case *tls.Conn:
			conn = x.NetConn()
		case *peeked:
			conn = x.Conn
		default:
			return nil
		}
	}
}

type connectionKey struct{}

// context is for http.Server.ConnContext.
func (c *connections) context(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, connectionOf(conn))
}

// hold keeps the connection of a request that may be from being closed for others, or
// with a login lets those go first that have been idle for longer. The caller calls
// answered.
func hold(r *http.Request, need access) *connection {
	x, _ := r.Context().Value(connectionKey{}).(*connection)
	if x == nil || need == openToAll {
		return nil
	}
	x.all.mu.Lock()
	defer x.all.mu.Unlock()
	if need == login {
		if x.requests == 0 {
			x.rest()
		}
		return nil
	}
	x.requests++
	x.busy()
	return x
}

// answered lets the connection of a request that has its answer be closed for others,
// though the rest of its body may still be read: anybody can send a body slowly. Of one
// without a body net/http tells when all of the answer is sent. Over HTTP/2 others may
// be under way.
func (x *connection) answered(r *http.Request) {
	if x == nil || r.ProtoMajor == 1 && r.Body == http.NoBody {
		return
	}
	x.all.mu.Lock()
	defer x.all.mu.Unlock()
	if x.requests = max(x.requests-1, 0); x.requests == 0 {
		x.rest()
	}
}
