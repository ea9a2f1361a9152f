// Two requests on one upload, of which one may have lost its client.

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
)

// beginPart sends the first part of a request's body, and nothing more: the
// connection is as good as dead. It returns when the server has the part.
func (r *registry) beginPart(method, loc, query string, length int, part string) net.Conn {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.http.Listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	u, err := r.st.uploads.find("a", loc[strings.LastIndexByte(loc, '/')+1:], "")
	if err != nil {
		r.t.Fatal(err)
	}
	want := u.offset.Load() + int64(len(part))
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", method, with(loc, query), length, part)
	for u.queue.arrived.Load() < want {
		runtime.Gosched()
	}
	return conn
}

// await returns when so many requests wait for the turn.
func (q *queue) await(n int) {
	for waiting := 0; waiting < n; runtime.Gosched() {
		q.mu.Lock()
		waiting = q.waiting
		q.mu.Unlock()
	}
}

// soon fails the test if fn does not end by itself. Nothing is measured.
func soon(t *testing.T, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal(what + " takes for ever")
	}
}

// A client that comes back on another connection goes on where the dead one ended:
// at the offset that it is told.
func TestDeadConnectionBlocksNoUpload(t *testing.T) {
	slow(t)
	t.Parallel()
	const content = "0123456789abcdef"
	d := "digest=" + sum(content).String()
	for name, goOn := range map[string]func(r *registry, loc string){
		"patch": func(r *registry, loc string) {
			r.want(202, "PATCH", loc, content[7:], "Content-Range: 7-15")
			r.want(201, "PUT", with(loc, d), nil)
		},
		"put":    func(r *registry, loc string) { r.want(201, "PUT", with(loc, d), content[7:]) },
		"delete": func(r *registry, loc string) { r.want(204, "DELETE", loc, nil) },
		"patch elsewhere": func(r *registry, loc string) {
			r.want(416, "PATCH", loc, content[4:], "Content-Range: 4-15").has("Range", "0-6")
			r.want(201, "PUT", with(loc, d), content[7:])
		},
	} {
		for _, method := range []string{"PATCH", "PUT"} {
			t.Run(method+", then "+name, func(t *testing.T) {
				r := startRegistry(t, func(c *config) { c.patience, c.stallTimeout = 1, 0 })
				loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
				r.want(202, "PATCH", loc, content[:4])
				r.beginPart(method, loc, d, 12, content[4:7])
				r.want(204, "GET", loc, nil).has("Range", "0-6")
				soon(t, "going on", func() { goOn(r, loc) })
			})
		}
	}
	t.Run("of a small blob", func(t *testing.T) { // which is held in memory
		r := startRegistry(t, func(c *config) { c.patience, c.stallTimeout = 1, 0 })
		loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
		r.beginPart("PUT", loc, d, 16, content[:7])
		r.want(204, "GET", loc, nil).has("Range", "0-6")
		soon(t, "going on", func() { r.want(201, "PUT", with(loc, d), content[7:], "Content-Range: 7-15") })
	})
}

func TestDeadStreamBlocksNoUpload(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.patience, c.stallTimeout = 1, 0 })
	server := httptest.NewUnstartedServer(r.server.handler())
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	dead, body := io.Pipe()
	answered := make(chan string, 1)
	go func() {
		req, _ := http.NewRequest("PATCH", server.URL+loc, dead)
		resp, err := server.Client().Do(req)
		if err != nil {
			answered <- err.Error()
			return
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		answered <- fmt.Sprint(resp.Proto, " ", resp.StatusCode, " ", string(text))
	}()
	io.WriteString(body, "0123")
	u, err := r.st.uploads.find("a", loc[strings.LastIndexByte(loc, '/')+1:], "")
	if err != nil {
		t.Fatal(err)
	}
	for u.queue.arrived.Load() < 4 {
		runtime.Gosched()
	}
	soon(t, "going on", func() {
		r.want(202, "PATCH", loc, "4567", "Content-Range: 4-7")
		if got := <-answered; !strings.HasPrefix(got, "HTTP/2.0 400 ") || !strings.Contains(got, "another request") {
			t.Errorf("the request that was ended is answered %s", got)
		}
	})
	body.Close()
	r.want(204, "GET", loc, nil).has("Range", "0-7")
}

// A client that is slow, and asks how far it has come, is left alone; so is one
// beside which another waits, as long as bytes come.
func TestLivingUploadIsNotOvertaken(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.patience = time.Hour })
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	u, err := r.st.uploads.find("a", loc[strings.LastIndexByte(loc, '/')+1:], "")
	if err != nil {
		t.Fatal(err)
	}
	body, client := io.Pipe()
	first, second := make(chan int, 1), make(chan int, 1)
	patch := func(answer chan int, body any) {
		re, err := r.try("PATCH", loc, body, "Content-Range: 0-7")
		if err != nil {
			t.Error(err)
			answer <- 0
			return
		}
		answer <- re.status
	}
	go patch(first, struct{ io.Reader }{body})
	io.WriteString(client, "0123")
	for u.queue.arrived.Load() < 4 {
		runtime.Gosched()
	}
	r.want(204, "GET", loc, nil).has("Range", "0-3")
	go patch(second, "01234567")
	u.queue.await(1)
	r.want(204, "GET", loc, nil).has("Range", "0-3")
	io.WriteString(client, "4567")
	client.Close()
	if a, b := <-first, <-second; a != 202 || b != 416 {
		t.Errorf("two at one offset are answered %d and %d, want 202 and 416", a, b)
	}
}

// deadlines is a response that remembers the last deadline for reads.
type deadlines struct {
	http.ResponseWriter
	read time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error { d.read = t; return nil }

// Over HTTP/2 a deadline that passes ends the body also while the disk is slow and nobody
// reads, so none stays when bytes have come.
func TestHurryEndsWhenBytesHaveCome(t *testing.T) {
	t.Parallel()
	d := &deadlines{ResponseWriter: httptest.NewRecorder()}
	b := &bodyReader{body: strings.NewReader("0123"), response: &response{ResponseWriter: d, control: *http.NewResponseController(d)},
		left: -1, queue: &queue{waiting: 1}, patience: time.Hour}
	for range 2 {
		if n, err := b.Read(make([]byte, 2)); n != 2 || err != nil || !d.read.IsZero() {
			t.Errorf("after a read of %d bytes, %v, the deadline is %v; want none", n, err, d.read)
		}
	}
}
