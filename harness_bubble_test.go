// Registries in a bubble (testing/synctest), for what depends on time: it jumps to the next
// timer when everybody waits, and so does not pass while somebody works, however slow or busy
// the machine is. Connections are pipes there, for whoever waits for the kernel may be about
// to go on.

package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// pipes are a listener for connections within this process.
type pipes struct {
	dialled chan net.Conn
	closed  chan struct{}
	close   func()
}

func newPipes() *pipes {
	closed := make(chan struct{})
	return &pipes{make(chan net.Conn), closed, sync.OnceFunc(func() { close(closed) })}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.dialled:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5000} }

// dial returns the client's end of a new connection.
func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.dialled <- addressed{theirs, p.Addr()}:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// connect is dial for a test, at whose end the connection is closed.
func (p *pipes) connect(t testing.TB) net.Conn {
	t.Helper()
	conn, err := p.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// An addressed connection comes from somewhere, which a pipe does not.
type addressed struct {
	net.Conn
	addr net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.addr }
func (a addressed) LocalAddr() net.Addr  { return a.addr }

// startPiped is startRegistry in a bubble.
func startPiped(t testing.TB, options ...func(*config)) *registry {
	t.Helper()
	r := newRegistry(t, options...)
	r.pipes = newPipes()
	r.start()
	t.Cleanup(r.stop)
	return r
}

// overPipes is httptest.NewServer, or its StartTLS, with pipes.
func overPipes(p *pipes, handler http.Handler, two bool) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	s.Listener.Close()
	s.Listener, s.EnableHTTP2 = p, two
	if two {
		s.StartTLS()
	} else {
		s.Start()
	}
	s.Client().Transport.(*http.Transport).DialContext = p.dial
	return s
}
