// More connections than there may be.

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// answering has a registry answer as the program does, with so many connections at
// most, and returns its address.
func (r *registry) answering(most int) (address string) {
	r.t.Helper()
	r.st.budget.connections = most
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.server.answer(ctx, listener) }()
	r.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	})
	return listener.Addr().String()
}

// dial connects and says something.
func dial(t testing.TB, address, says string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, says); err != nil {
		t.Fatal(err)
	}
	return conn
}

// statusOf reads an answer's status; 0 if the connection is closed without one.
func statusOf(t testing.TB, conn net.Conn) int {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("neither an answer nor an end")
	}
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

const wholeGet = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"

// Whoever holds all connections that there may be, and asks for nothing, shuts nobody out.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]string{"silent": "", "with half a header": "GET /v2/ HTTP/1.1\r\nX-Long: " + strings.Repeat("x", 30000), "kept alive": wholeGet,
		"with a body that nobody wants":   "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nsome",
		"with a login that does not come": "POST /v2/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\ngrant_type="} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t, guarded("", "ann"))
			address := r.answering(4)
			var held []net.Conn
			for range 4 {
				conn := dial(t, address, says)
				if says == wholeGet {
					statusOf(t, conn)
				}
				held = append(held, conn)
			}
			for strings.HasPrefix(says, "POST /v2/token") && r.server.inFlight.Load() < int64(len(held)) {
				time.Sleep(time.Millisecond) // until they are asked for it
			}
			for strings.HasPrefix(says, "POST /v2/a") && strings.Count(r.log.String(), "method=POST") < len(held) {
				time.Sleep(time.Millisecond) // until they are answered, but for their bodies
			}
			for range 3 {
				if status := statusOf(t, dial(t, address, wholeGet)); status != 401 {
					t.Fatalf("one more: %d, want an answer", status)
				}
			}
			if _, err := held[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the one that was idle for the longest time: %v, want it closed", err)
			}
			if n := strings.Count(r.log.String(), "as many connections as"); n != 1 {
				t.Errorf("the log tells of it %d times", n)
			}
		})
	}
}

// What is under way goes on, and the new one goes away.
func TestBusyConnectionsStay(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	address := r.answering(3)
	var busy []net.Conn
	for range 3 {
		location := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
		conn := dial(t, address, fmt.Sprintf("PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello", location))
		for u, err := r.st.uploads.find("a", location[strings.LastIndex(location, "/")+1:], ""); err != nil || len(u.turn) == 0; {
			time.Sleep(time.Millisecond)
		}
		busy = append(busy, conn)
	}
	if status := statusOf(t, dial(t, address, wholeGet)); status != 0 {
		t.Errorf("one more than may be under way: %d, want no answer", status)
	}
	for i, conn := range busy {
		if _, err := io.WriteString(conn, "world"); err != nil {
			t.Fatal(err)
		}
		if status := statusOf(t, conn); status != 202 {
			t.Errorf("request %d under way: %d, want 202", i, status)
		}
		if status := statusOf(t, dial(t, address, wholeGet)); status != 200 {
			t.Errorf("after %d have ended, one more: %d, want 200", i+1, status)
		}
	}
}

// answeringOverTLS is answering with a certificate.
func (r *registry) answeringOverTLS(most int) (address string) {
	r.t.Helper()
	c, err := openTLS(tlsOptions{mode: "auto", dir: r.cfg.dir, log: r.cfg.log})
	if err != nil {
		r.t.Fatal(err)
	}
	r.server.certificates = c
	return r.answering(most)
}

// tlsClient has a connection of its own, by HTTP/1.1 or HTTP/2.
func tlsClient(two bool) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: two}}
}

// Over TLS too, in the middle of a handshake, and by HTTP/2.
func TestIdleConnectionsMakeRoomOverTLS(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}")
	address := r.answeringOverTLS(3)
	get := func(two bool) {
		t.Helper()
		resp, err := tlsClient(two).Get("https://" + address + "/v2/a/manifests/x")
		if err != nil || resp.StatusCode != 200 || resp.ProtoMajor == 2 != two {
			t.Fatalf("one more: %v, %v", resp, err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close() // and it is kept alive
	}
	for range 3 {
		dial(t, address, "\x16\x03\x01")
	}
	for range 5 {
		get(true)
	}
	for range 3 { // with a form that does not come
		body, form := io.Pipe()
		t.Cleanup(func() { form.Close() })
		go func() {
			if resp, err := tlsClient(true).Post("https://"+address+"/v2/token", "application/x-www-form-urlencoded", body); err == nil {
				resp.Body.Close()
			}
		}()
		io.WriteString(form, "grant_type=")
	}
	for r.server.inFlight.Load() < 3 {
		time.Sleep(time.Millisecond)
	}
	for range 5 {
		get(false)
	}
	if !strings.Contains(r.log.String(), "as many connections as") {
		t.Error("the log does not tell that connections were closed")
	}
}

// And what is under way stays.
func TestBusyConnectionsStayOverTLS(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	address := r.answeringOverTLS(2)
	var bodies []*io.PipeWriter
	answers := make(chan error)
	for _, two := range []bool{false, true} {
		location := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
		body, more := io.Pipe()
		go func() {
			req, err := http.NewRequest("PATCH", "https://"+address+location, body)
			if err != nil {
				answers <- err
				return
			}
			resp, err := tlsClient(two).Do(req)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != 202 || resp.ProtoMajor == 2 != two {
					err = errors.New(resp.Proto + " " + resp.Status)
				}
			}
			body.CloseWithError(err)
			answers <- err
		}()
		io.WriteString(more, "hello")
		for u, err := r.st.uploads.find("a", location[strings.LastIndex(location, "/")+1:], ""); err != nil || len(u.turn) == 0; {
			time.Sleep(time.Millisecond)
		}
		bodies = append(bodies, more)
	}
	if resp, err := tlsClient(false).Get("https://" + address + "/v2/"); err == nil {
		resp.Body.Close()
		t.Errorf("one more than may be under way: %s, want no answer", resp.Status)
	}
	for _, more := range bodies {
		io.WriteString(more, "world")
		more.Close()
	}
	for range bodies {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// Nobody fills a disk, or hides a line, by the length of what he asks for.
func TestLinesOfTheLogAreBounded(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.do("GET", "/v2/"+strings.Repeat("a", 50000)+"/manifests/x", nil)
	r.do("GET", "/"+strings.Repeat("%41", 10000)+"?"+strings.Repeat("q", 10000), nil, "User-Agent: "+strings.Repeat("u", 10000))
	r.do(strings.Repeat("M", 10000), "/v2/", nil)
	longest := "/v2/" + strings.Repeat("n", 200) + "/manifests/sha512:" + strings.Repeat("0", 128)
	r.do("GET", longest, nil)
	for line := range strings.Lines(r.log.String()) {
		if len(line) > 1500 {
			t.Errorf("a line of %d bytes: %.100s…", len(line), line)
		}
	}
	if !strings.Contains(r.log.String(), longest) {
		t.Error("the longest name and digest are not logged whole")
	}
}
