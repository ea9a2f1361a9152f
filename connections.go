// How many connections there may be.
//
// Each takes memory before anybody has said who he is: buffers, and a header that may
// never end; and each is an open file. So there are at most as many as the memory and the
// limit of the system are enough for (budget.go). When one more comes, the one goes that
// has done nothing for the longest time: whose header has not come, or that is kept alive
// between requests. One with a request under way never goes; if all have, the new one
// does. So whoever holds all that there are, and asks for nothing, shuts nobody out.

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
	idle  lists.List // of *connection without a request, the longest first
	told  time.Time
}

// A connection counts until it is closed. It has all of a TCP connection's methods, so
// that the kernel can send files over it.
type connection struct {
	*net.TCPConn
	all    *connections
	place  *lists.Element // in idle; nil while there is a request; guarded by all.mu
	closed bool           // likewise
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

// rest lets a connection be closed for others.
func (x *connection) rest() {
	x.all.mu.Lock()
	defer x.all.mu.Unlock()
	if x.place == nil && !x.closed {
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
	x := connectionOf(conn)
	switch {
	case x == nil:
	case state == http.StateIdle:
		x.rest()
	case state == http.StateActive:
		c.mu.Lock()
		x.busy()
		c.mu.Unlock()
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

// answered lets the connection of a request that has its answer be closed for others,
// though the rest of its body may still be read: anybody can send a body slowly.
// Over HTTP/2 others may be under way.
func answered(r *http.Request) {
	if x, _ := r.Context().Value(connectionKey{}).(*connection); x != nil && r.ProtoMajor == 1 {
		x.rest()
	}
}
