// How many connections there may be.
//
// Each takes memory before anybody has said who he is: buffers, and a header that may
// never end; and each is an open file. So there are at most as many as the memory and the
// limit of the system are enough for (budget.go). When one more comes, the one goes that
// has done nothing for the longest time: whose header has not come, or that is kept alive
// between requests. One never goes that has a request under way of somebody who may make
// it; if all have, the new one does. So whoever holds all that there are, and asks for
// nothing, or for what is not for him, shuts nobody out.

package main

import (
	lists "container/list"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// connections are those of a server, over all its listeners.
type connections struct {
	most int
	log  *slog.Logger

	mu    sync.Mutex // guards the rest
	count int
	idle  lists.List // of *connection without a request that may be, the longest first
	told  time.Time
}

// A connection counts until it is closed. It has all of a TCP connection's methods, so
// that the kernel can send files over it.
type connection struct {
	*net.TCPConn
	all      *connections
	place    *lists.Element // in idle; nil while there is a request that may be; guarded by all.mu
	requests int            // under way, that may be; likewise
	closed   bool           // likewise
}

func (c *connections) listen(l net.Listener) net.Listener { return &countedListener{l, c} }

type countedListener struct {
	net.Listener
	all *connections
}

func (l *countedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
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
	if c.count >= c.most {
		if now := time.Now(); now.Sub(c.told) >= time.Minute {
			c.told = now
			c.log.Warn("there are as many connections as the memory, or the limit on open files, is enough for; idle ones are closed for new ones", "connections", c.count)
		}
		oldest := c.idle.Front()
		if oldest == nil {
			return nil
		}
		victim := oldest.Value.(*connection)
		victim.gone()
		victim.TCPConn.Close()
	}
	x := &connection{TCPConn: tcp, all: c}
	c.count++
	x.place = c.idle.PushBack(x)
	return x
}

// gone counts a connection no more. all.mu is held.
func (x *connection) gone() {
	if x.closed {
		return
	}
	x.closed = true
	x.all.count--
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
	x.all.mu.Lock()
	x.gone()
	x.all.mu.Unlock()
	return x.TCPConn.Close()
}

// state is for http.Server.ConnState.
func (c *connections) state(conn net.Conn, state http.ConnState) {
	if x := connectionOf(conn); x != nil && state == http.StateIdle {
		c.mu.Lock()
		defer c.mu.Unlock()
		x.requests = 0
		x.rest()
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
	if x == nil || need == open {
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
