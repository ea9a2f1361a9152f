package e2e

// A tap is a proxy between a client and the registry that remembers every request, for what a client
// prints does not always tell what it did: whether it uploaded a layer again, or asked for a range. It
// also shows that the registry keeps working behind a proxy under another address.

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// An exchange is one request and its answer.
type exchange struct {
	method, path, query string
	rangeHeader         string // the request's Range
	scheme              string // of its Authorization
	status              int
	sent                int64 // bytes of the request's body
}

func (e exchange) String() string {
	return fmt.Sprintf("%s %s?%s Range:%s %s sent %d: %d", e.method, e.path, e.query, e.rangeHeader, e.scheme, e.sent, e.status)
}

type tap struct {
	addr     string
	inFlight sync.WaitGroup
	mu       sync.Mutex // guards seen
	seen     []exchange
}

// tapInto starts a proxy to the registry.
func tapInto(t *testing.T, b *berth) *tap {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: b.addr}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		FlushInterval: -1,
	}
	tap := &tap{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tap.inFlight.Add(1)
		defer tap.inFlight.Done()
		e := exchange{method: r.Method, path: r.URL.EscapedPath(), query: r.URL.RawQuery, rangeHeader: r.Header.Get("Range")}
		e.scheme, _, _ = strings.Cut(r.Header.Get("Authorization"), " ")
		body := &countingBody{ReadCloser: r.Body}
		r.Body = body
		status := &statusWriter{ResponseWriter: w}
		defer func() {
			e.sent, e.status = body.n, status.status
			tap.mu.Lock()
			tap.seen = append(tap.seen, e)
			tap.mu.Unlock()
		}()
		proxy.ServeHTTP(status, r)
	}))
	t.Cleanup(srv.Close)
	tap.addr = srv.Listener.Addr().String()
	return tap
}

// ref is how a client names something in the registry behind the tap.
func (t *tap) ref(name string) string { return t.addr + "/" + name }

// since returns what was asked since the last call.
func (t *tap) since() []exchange {
	t.inFlight.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := t.seen
	t.seen = nil
	return seen
}

// uploaded adds up the bytes of the blobs that were sent.
func uploaded(seen []exchange) (n int64) {
	for _, e := range seen {
		if strings.Contains(e.path, "/blobs/uploads/") {
			n += e.sent
		}
	}
	return n
}

// mounted counts the mounts that the registry accepted.
func mounted(seen []exchange) (n int) {
	for _, e := range seen {
		if e.method == "POST" && strings.Contains(e.query, "mount=") && e.status == http.StatusCreated {
			n++
		}
	}
	return n
}

type countingBody struct {
	io.ReadCloser
	n int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
