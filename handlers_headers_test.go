// Headers that come slowly, or not at all.

package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// halfRequest is a request over HTTP/1.1 of whose header n bytes have come.
func halfRequest(n int) string {
	head := "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Long: "
	return head + strings.Repeat("x", n-len(head))
}

// A framer speaks HTTP/2 as a client, by frame.
type framer struct {
	*http2.Framer
	window, streamWindow int // bytes that may be sent before anybody has read some
	streams              int // requests that may be under way
}

// newFramer begins a connection and hears what the server allows.
func newFramer(conn net.Conn, settings ...http2.Setting) (*framer, error) {
	f := &framer{http2.NewFramer(conn, conn), 65535, 65535, 100}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return f, err
	}
	if err := f.WriteSettings(settings...); err != nil {
		return f, err
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return f, err
		}
		switch x := frame.(type) {
		case *http2.SettingsFrame:
			if v, ok := x.Value(http2.SettingInitialWindowSize); ok {
				f.streamWindow = int(v)
			}
			if v, ok := x.Value(http2.SettingMaxConcurrentStreams); ok {
				f.streams = min(int(v), f.streams)
			}
		case *http2.WindowUpdateFrame: // which the server sends last
			f.window += int(x.Increment)
			return f, nil
		}
	}
}

// block is a request's header, with n bytes in a field of its own.
func block(method, path string, n int) []byte {
	return fields([2]string{":method", method}, [2]string{":scheme", "https"}, [2]string{":authority", "x"}, [2]string{":path", path}, long(n))
}

// long is a field of n bytes, which are sent as they are.
func long(n int) [2]string { return [2]string{"x-long", strings.Repeat("\\", n)} }

// fields are a block of what nobody is to remember.
func fields(list ...[2]string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSize(0)
	for _, x := range list {
		e.WriteField(hpack.HeaderField{Name: x[0], Value: x[1], Sensitive: true})
	}
	return b.Bytes()
}

// send writes a block in frames of 16 KiB, of which the last is the end of the header, or
// is not.
func (f *framer) send(stream uint32, block []byte, endHeader, endStream bool) error {
	const size = 16 << 10
	first := block[:min(len(block), size)]
	rest := block[len(first):]
	err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndHeaders: endHeader && len(rest) == 0, EndStream: endStream})
	for len(rest) > 0 && err == nil {
		part := rest[:min(len(rest), size)]
		rest = rest[len(part):]
		err = f.WriteContinuation(stream, endHeader && len(rest) == 0, part)
	}
	return err
}

// halfHeader sends n bytes of a header that is longer.
func (f *framer) halfHeader(stream uint32, n int) error {
	return f.send(stream, block("GET", "/v2/", n+1000)[:n], false, true)
}

// A header has a limited time, whoever drips it or says no more.
func TestHeadersHaveLimitedTime(t *testing.T) {
	slow(t)
	t.Parallel()
	const limit = 2 * time.Second
	for name, secure := range map[string]string{"HTTP 1.1": "", "HTTP 1.1 over TLS": "http/1.1", "HTTP 2": "h2"} {
		for _, how := range []string{"stops", "drips"} {
			t.Run(fmt.Sprint(name, " ", how), func(t *testing.T) {
				t.Parallel()
				r := startRegistry(t, func(cfg *config) { cfg.stallTimeout = stallTimeout(limit) })
				conn := r.speaking(secure)
				// On a busy machine the limit may be over before that much was sent.
				drip := func() error { _, err := io.WriteString(conn, "x"); return err }
				if secure != "h2" {
					io.WriteString(conn, halfRequest(30<<10))
				} else if f, err := newFramer(conn); err == nil {
					f.halfHeader(1, 30<<10)
					drip = func() error { return f.WriteContinuation(1, false, []byte("x")) }
				}
				if how == "drips" {
					go func() {
						for drip() == nil {
							time.Sleep(10 * time.Millisecond)
						}
					}()
				}
				// A minute is far more than the limit, and less than an idle connection has.
				conn.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
					t.Error("the connection is still there")
				}
			})
		}
	}
}

// Whoever has sent a long header in time may take longer for the rest. What is in time on a
// busy machine is found out.
func TestLongHeaderInTimeIsNoLimitForTheRest(t *testing.T) {
	slow(t)
	t.Parallel()
	for limit := 2 * time.Second; ; limit *= 2 {
		err := longHeaderInTime(t, limit)
		if err == nil {
			return
		}
		t.Logf("with a limit of %v: %v", limit, err)
		if limit > 15*time.Second {
			t.Fatal("a long header ends its connection")
		}
	}
}

func longHeaderInTime(t *testing.T, limit time.Duration) error {
	r := startRegistry(t, func(cfg *config) { cfg.stallTimeout = stallTimeout(limit) })
	conn := r.speaking("h2")
	f, err := newFramer(conn)
	if err == nil {
		err = f.send(1, block("POST", "/v2/a/blobs/uploads/?digest="+sum("x").String(), 30<<10), true, false)
	}
	for began := time.Now(); time.Since(began) < limit+limit/2 && err == nil; time.Sleep(limit / 20) {
		err = f.WriteData(1, false, []byte("x"))
	}
	if err == nil {
		err = f.send(3, block("GET", "/v2/", 0), true, true)
	}
	for answered := false; !answered && err == nil; {
		var frame http2.Frame
		if frame, err = f.ReadFrame(); err == nil {
			answered = frame.Header().Type == http2.FrameHeaders && frame.Header().StreamID == 3
		}
	}
	return err
}

// A frame that is longer than it may be is refused before it has come.
func TestLongFrameIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	conn := startRegistry(t).speaking("h2")
	if _, err := newFramer(conn); err != nil {
		t.Fatal(err)
	}
	const n = maxFrame + 1
	if _, err := conn.Write([]byte{n >> 16, n >> 8 & 0xff, n & 0xff, byte(http2.FrameHeaders), 0, 0, 0, 0, 1}); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
		t.Error("the rest of it is awaited")
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// speaking has the registry answer as the program does and returns a connection to it:
// without TLS, or with it and a protocol.
func (r *registry) speaking(protocol string) net.Conn {
	r.t.Helper()
	if protocol != "" {
		c, err := openTLS(tlsOptions{mode: "auto", dir: r.cfg.dir, log: r.cfg.log})
		if err != nil {
			r.t.Fatal(err)
		}
		r.server.certificates = c
	}
	conn := dial(r.t, r.answering(100), "")
	if protocol != "" {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
	}
	return conn
}
