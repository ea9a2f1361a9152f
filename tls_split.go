// TLS and plain HTTP on one port.
//
// The first byte of a connection tells which it is. Until then a connection is silent, and at
// most maxSilent of those are kept.

package main

import (
	lists "container/list"
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// maxSilent is how many connections may be open of which nothing has come yet.
// A client speaks at once, so of more than that the oldest has to go.
const maxSilent = 512

// A splitter hands out the connections of a listener by their first byte.
type splitter struct {
	listener      net.Listener
	timeout       time.Duration // for the first byte
	secure, plain *branch
	ctx           context.Context // until it is closed
	end           context.CancelFunc
	running       sync.WaitGroup

	mu     sync.Mutex // guards silent
	silent lists.List // of connections of which nothing has come, the oldest first
}

// newSplitter begins to accept; whoever calls it calls close.
func newSplitter(listener net.Listener, config *tls.Config, timeout time.Duration) *splitter {
	s := &splitter{listener: listener, timeout: timeout}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.secure = &branch{splitter: s, accepted: make(chan accepted), config: config}
	s.plain = &branch{splitter: s, accepted: make(chan accepted)}
	s.running.Go(s.accept)
	return s
}

// close ends the listener and all connections that nobody has accepted.
func (s *splitter) close() {
	s.stop()
	s.running.Wait()
}

func (s *splitter) stop() error {
	s.end()
	err := s.listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.silent.Front(); e != nil; e = e.Next() {
		e.Value.(net.Conn).Close()
	}
	return err
}

func (s *splitter) accept() {
	for s.ctx.Err() == nil {
		conn, err := s.listener.Accept()
		if err != nil {
			// The server knows which errors pass, and waits before it comes back.
			s.secure.give(nil, err)
			continue
		}
		s.mu.Lock()
		e := s.silent.PushBack(conn)
		if s.silent.Len() > maxSilent {
			s.silent.Remove(s.silent.Front()).(net.Conn).Close()
		}
		if s.ctx.Err() != nil {
			conn.Close()
		}
		s.mu.Unlock()
		s.running.Go(func() { s.peek(conn, e) })
	}
}

// peek reads the first byte of a connection and gives it to a branch.
func (s *splitter) peek(conn net.Conn, e *lists.Element) {
	p := &peeked{Conn: conn, first: make([]byte, 1)}
	conn.SetReadDeadline(time.Now().Add(s.timeout))
	_, err := conn.Read(p.first)
	s.mu.Lock()
	s.silent.Remove(e) // or it is not there any more
	s.mu.Unlock()
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	switch {
	case err != nil:
		conn.Close()
	case p.first[0] == 0x16: // a handshake: RFC 8446, section 5.1
		s.secure.give(p, nil)
	default:
		s.plain.give(p, nil)
	}
}

// A branch is the listener of the connections of one kind. Closing it closes
// the other too.
type branch struct {
	*splitter
	accepted chan accepted
	config   *tls.Config // nil for those that do not speak TLS
}

type accepted struct {
	conn net.Conn
	err  error
}

func (b *branch) give(conn net.Conn, err error) {
	select {
	case b.accepted <- accepted{conn, err}:
	case <-b.ctx.Done():
		if conn != nil {
			conn.Close()
		}
	}
}

func (b *branch) Accept() (net.Conn, error) {
	select {
	case a := <-b.accepted:
		if a.err == nil && b.config != nil {
			return tls.Server(a.conn, b.config), nil
		}
		return a.conn, a.err
	case <-b.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (b *branch) Close() error { return b.stop() }

func (b *branch) Addr() net.Addr { return b.listener.Addr() }

// A peeked connection gives its first byte again.
type peeked struct {
	net.Conn
	first []byte
}

func (p *peeked) Read(b []byte) (int, error) {
	if len(p.first) > 0 && len(b) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// CloseWrite lets net/http end an answer so that it arrives.
func (p *peeked) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}
