// Crowds whose requests never end, to a program of its own that may have little memory.

package main

import (
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
)

// Holders hold as many connections as they can get.
type holders struct {
	name        string
	limit       int64 // bytes of memory
	connections int
	secure      string // protocol over TLS; "" for none
	guarded     bool   // the program has users, of whom it is none
	entitled    bool   // may do what it asks, so that it may keep others out
	speak       func(net.Conn) error
}

// Thousands of connections, from many addresses, whose headers never end, or who read no
// answer: the program lives on as little memory as it has, and answers others meanwhile.
func TestCrowdOfUnfinishedRequests(t *testing.T) {
	slow(t)
	t.Parallel()
	const many, some = 2500, 1000
	n := openFiles(t, many)
	path := buildProgram(t)
	size := 60 << 10
	one := func(conn net.Conn) error {
		_, err := io.WriteString(conn, halfRequest(size))
		return err
	}
	two := func(conn net.Conn) error {
		f, err := newFramer(conn)
		if err == nil {
			err = f.halfHeader(1, size)
		}
		return err
	}
	// Nobody reads the answers of these.
	deaf := http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}
	bodies := func(conn net.Conn) error {
		f, err := newFramer(conn, deaf)
		if err == nil {
			err = f.send(1, block("GET", "/v2/", 0), true, false)
		}
		for left := min(f.window, f.streamWindow); left > 0 && err == nil; {
			part := make([]byte, min(left, 16<<10))
			left -= len(part)
			err = f.WriteData(1, false, part)
		}
		return err
	}
	// As many requests over each connection as there may be.
	requests := func(head []byte, end bool, then func(*framer) error) func(net.Conn) error {
		return func(conn net.Conn) error {
			f, err := newFramer(conn, deaf)
			for i := 0; i < f.streams && err == nil; i++ {
				err = f.send(uint32(1+2*i), head, true, end)
			}
			if err == nil {
				err = then(f)
			}
			return err
		}
	}
	wait := func(f *framer) error {
		for begun := 0; begun < f.streams; {
			frame, err := f.ReadFrame()
			if err != nil {
				return err
			}
			if frame.Header().Type == http2.FrameHeaders {
				begun++
			}
		}
		return nil
	}
	push := "/v2/a/blobs/uploads/?digest=" + sum("x").String()
	// Each wants to send x-long once more, after its body.
	trailing := fields([2]string{":method", "POST"}, [2]string{":scheme", "https"}, [2]string{":authority", "x"}, [2]string{":path", push}, [2]string{"trailer", "x-long"})
	last := fields(long(size))
	trail := func(f *framer) error {
		var err error
		for i := 0; i < f.streams && err == nil; i++ {
			err = f.send(uint32(1+2*i), last, true, true)
		}
		return err
	}
	for _, c := range []holders{
		{"headers, 128 MiB", 128 << 20, n, "", false, false, one},
		{"headers, 256 MiB", 256 << 20, n, "", false, false, one},
		{"headers over TLS", 128 << 20, some, "http/1.1", false, false, one},
		{"headers over HTTP2", 128 << 20, some, "h2", false, false, two},
		{"bodies", 256 << 20, some, "h2", true, false, bodies},
		{"answers nobody reads", 256 << 20, 100, "h2", true, false, requests(block("GET", "/v2/", size), true, wait)},
		{"answers nobody reads, short headers", 256 << 20, 200, "h2", true, false, requests(block("GET", "/v2/", 0), true, wait)},
		{"requests without their bodies", 256 << 20, 200, "h2", false, true, requests(block("POST", push, size), false, func(*framer) error { return nil })},
		{"trailers", 256 << 20, 100, "h2", true, false, requests(trailing, false, trail)},
	} {
		t.Run(c.name, func(t *testing.T) { c.come(t, path) })
	}
}

func (c holders) come(t *testing.T, path string) {
	dir := diskDir(t)
	args := []string{"--data", dir}
	if c.secure != "" {
		args = append(args, "--tls", "auto")
	}
	if c.guarded {
		users := filepath.Join(dir, "users")
		if err := os.WriteFile(users, []byte("ann:"+hashOf("secret")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--htpasswd", users)
	}
	p := startLimited(t, c.limit, path, args...)
	_, address, _ := strings.Cut(p.url, "://")
	// They resume a session, which is less work for both.
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{c.secure}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	conns := make([]net.Conn, c.connections)
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
	}()
	var said atomic.Int64
	if err := share(32, len(conns), func(i int) error {
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%50))}}
		conn, err := from.Dial("tcp", address)
		if err != nil {
			return err
		}
		if c.secure != "" {
			conn = tls.Client(conn, config)
		}
		conns[i] = conn
		if c.speak(conn) == nil { // else it was closed for another
			said.Add(1)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if !c.entitled {
		c.honest(t, p.url)
	}
	most := p.memory("VmHWM")
	t.Logf("%d of %d could say all; %.0f MiB now, %.0f MiB at most", said.Load(), len(conns), p.memory("VmRSS"), most)
	if most > 0.75*float64(c.limit>>20) {
		t.Errorf("%.0f MiB at most, want three quarters of what there is", most)
	}
	p.stop()
}

// honest is one of whom the crowd takes no notice, and has what it asks for.
func (c holders) honest(t *testing.T, url string) {
	t.Helper()
	honest := newBenchClient(1)
	honest.transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	if c.guarded {
		header := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("ann:secret"))}}
		if err := honest.send("GET", url+"/v2/", header, nil, 200); err != nil {
			t.Error(err)
		}
	} else {
		content := "an honest one's"
		if err := honest.pushBlob(url, []byte(content), true); err != nil {
			t.Error(err)
		}
		if err := honest.send("GET", url+"/v2/bench/blobs/"+sum(content).String(), nil, nil, 200); err != nil {
			t.Error(err)
		}
	}
}
