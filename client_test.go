package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// peer serves a handler until the test ends, with TLS or without, and returns a client of it.
func peer(t testing.TB, secure bool, h http.Handler, o clientOptions) (*client, *httptest.Server) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	if secure {
		s.StartTLS()
		roots := x509.NewCertPool()
		roots.AddCert(s.Certificate())
		o.tls = &tls.Config{RootCAs: roots}
	} else {
		s.Start()
	}
	c, err := newClient(strings.TrimPrefix(s.URL, map[bool]string{true: "https://", false: "http://"}[secure]), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.close(); s.Close() })
	return c, s
}

// blobOf is content to push.
func blobOf(content string) pushedBlob {
	return pushedBlob{digest: sum(content), size: int64(len(content)), open: func(offset int64) (io.Reader, error) {
		return strings.NewReader(content[offset:]), nil
	}}
}

// readBlob reads a blob to the end.
func readBlob(t testing.TB, c *client, name string, d digest.Digest) (string, error) {
	t.Helper()
	body, _, err := c.getBlob(t.Context(), name, d)
	if err != nil {
		return "", err
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	return string(b), err
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestClientPushesAndPulls(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		for _, guard := range []func(*config){func(*config) {}, guarded("", "kim")} {
			r := startRegistry(t, guard)
			o := clientOptions{user: "kim", password: "kim-secret", chunk: 1000}
			c, _ := peer(t, secure, r.server.handler(), o)
			ctx := t.Context()
			if header := must[http.Header](t)(c.ping(ctx)); header.Get("Docker-Distribution-API-Version") == "" {
				t.Errorf("ping returned %v", header)
			}
			layer := strings.Repeat("0123456789", 450)
			im := ociImage("{}", layer)
			for _, content := range []string{"{}", layer, ""} {
				if sent := must[bool](t)(c.pushBlob(ctx, "home/app", blobOf(content))); !sent {
					t.Errorf("a new blob of %d bytes was not sent", len(content))
				}
				if sent := must[bool](t)(c.pushBlob(ctx, "home/app", blobOf(content))); sent {
					t.Errorf("a known blob of %d bytes was sent", len(content))
				}
				b := blobOf(content)
				b.from = "home/app"
				if sent := must[bool](t)(c.pushBlob(ctx, "home/other", b)); sent {
					t.Errorf("a blob of %d bytes was sent that can be mounted", len(content))
				}
				if got := must[string](t)(readBlob(t, c, "home/app", sum(content))); got != content {
					t.Errorf("a blob of %d bytes came back with %d", len(content), len(got))
				}
				if size := must[int64](t)(c.headBlob(ctx, "home/app", sum(content))); size != int64(len(content)) {
					t.Errorf("HEAD says %d bytes, want %d", size, len(content))
				}
			}
			if err := c.putManifest(ctx, "home/app", reference{tag: "1"}, typeOCIManifest, []byte(im.manifest)); err != nil {
				t.Fatal(err)
			}
			for _, ref := range []reference{{tag: "1"}, {digest: im.digest}} {
				m := must[*remoteManifest](t)(c.getManifest(ctx, "home/app", ref))
				if string(m.body) != im.manifest || m.digest != im.digest || m.mediaType != typeOCIManifest {
					t.Errorf("GET %v = %+v", ref, m)
				}
				head := must[*remoteManifest](t)(c.headManifest(ctx, "home/app", ref))
				if head.digest != im.digest || head.mediaType != typeOCIManifest || head.size != int64(len(im.manifest)) {
					t.Errorf("HEAD %v = %+v", ref, head)
				}
			}
			if got := listed(t, c.tags(ctx, "home/app")); !slices.Equal(got, []string{"1"}) {
				t.Errorf("tags: %v", got)
			}
			if got := listed(t, c.repositories(ctx)); !slices.Equal(got, []string{"home/app"}) {
				t.Errorf("repositories: %v", got)
			}
			if err := errors.Join(c.deleteManifest(ctx, "home/app", reference{tag: "1"}), c.deleteBlob(ctx, "home/other", sum(layer))); err != nil {
				t.Error(err)
			}
			if _, err := c.getManifest(ctx, "home/app", reference{tag: "1"}); !isRemote(err, 404) || !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") {
				t.Errorf("a deleted tag: %v", err)
			}
			if _, err := c.headBlob(ctx, "home/other", sum(layer)); !isRemote(err, 404) {
				t.Errorf("a deleted blob: %v", err)
			}
		}
	}
}

func listed(t testing.TB, names func(func(string, error) bool)) (list []string) {
	t.Helper()
	for name, err := range names {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, name)
	}
	return list
}

func TestClientWithAWrongPassword(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "kim"))
	c, _ := peer(t, true, r.server.handler(), clientOptions{user: "kim", password: "mistyped"})
	_, ping := c.ping(t.Context())
	_, get := c.getManifest(t.Context(), "a", reference{tag: "1"})
	for _, err := range []error{ping, get} {
		if !isRemote(err, 401) || !strings.Contains(err.Error(), "logging in as kim") || strings.Contains(err.Error(), "mistyped") {
			t.Error(err)
		}
	}
	anonymous, _ := peer(t, true, r.server.handler(), clientOptions{})
	if _, err := anonymous.getManifest(t.Context(), "a", reference{tag: "1"}); !isRemote(err, 401) {
		t.Errorf("without a user: %v", err)
	}
}

// A token is used until it is good no longer, and another one is fetched in the middle of the work.
func TestClientRenewsTokens(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "kim"))
	var fetched atomic.Int64
	c, _ := peer(t, false, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/v2/token" {
			fetched.Add(1)
		}
		r.server.handler().ServeHTTP(w, req)
	}), clientOptions{user: "kim", password: "kim-secret"})
	im := r.image(t, c)
	must[*remoteManifest](t)(c.getManifest(t.Context(), "a", reference{digest: im.digest}))
	before := fetched.Load()
	for range 3 {
		must[*remoteManifest](t)(c.getManifest(t.Context(), "a", reference{digest: im.digest}))
	}
	if n := fetched.Load() - before; n != 0 {
		t.Errorf("%d more tokens for the scope of one that is kept", n)
	}
	r.server.gate.signer.now = func() time.Time { return time.Now().Add(time.Hour) }
	must[*remoteManifest](t)(c.getManifest(t.Context(), "a", reference{digest: im.digest}))
	if n := fetched.Load() - before; n != 1 {
		t.Errorf("%d tokens after one has expired, want 1", n)
	}
}

// image pushes a small image to the repository a, with a client.
func (r *registry) image(t testing.TB, c *client) image {
	t.Helper()
	im := ociImage("{}", "layer")
	for _, content := range []string{"{}", "layer"} {
		must[bool](t)(c.pushBlob(t.Context(), "a", blobOf(content)))
	}
	if err := c.putManifest(t.Context(), "a", reference{tag: "1"}, typeOCIManifest, []byte(im.manifest)); err != nil {
		t.Fatal(err)
	}
	return im
}

// A password is for the registry, and for the realm that it names; not for those that read along, nor for
// whom a redirect leads to.
func TestClientKeepsPasswordsToItself(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var heard []string
	listen := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, req.Header.Get("Authorization"))
		io.WriteString(w, "layer")
	})
	other := httptest.NewServer(listen)
	defer other.Close()
	secret := clientOptions{user: "kim", password: "kim-secret"}

	c, _ := peer(t, true, challenging(`Bearer realm="`+other.URL+`/token"`, nil), secret)
	if _, err := c.ping(t.Context()); !errors.Is(err, errRealm) {
		t.Errorf("a realm of plain HTTP: %v", err)
	}
	c, _ = peer(t, true, challenging("Basic", http.RedirectHandler(other.URL, http.StatusTemporaryRedirect)), secret)
	if _, err := readBlob(t, c, "a", sum("layer")); err == nil || !strings.Contains(err.Error(), "plain HTTP") {
		t.Errorf("a redirect to plain HTTP: %v", err)
	}
	if _, err := c.startUpload(t.Context(), "a", "", ""); !isRemote(err, 307) {
		t.Errorf("an upload that is sent on: %v", err)
	}
	if len(heard) > 0 {
		t.Errorf("plain HTTP has heard %q", heard)
	}
	c, _ = peer(t, false, challenging("Basic", http.RedirectHandler(other.URL, http.StatusTemporaryRedirect)), secret)
	if got := must[string](t)(readBlob(t, c, "a", sum("layer"))); got != "layer" {
		t.Errorf("behind a redirect: %q", got)
	}
	if len(heard) != 1 || heard[0] != "" {
		t.Errorf("the other host has heard %q, want one request without a password", heard)
	}
}

// challenging asks for a password, and then leaves the request to another handler, or answers 200.
func challenging(challenge string, then http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(401)
		} else if then != nil && req.URL.Path != "/v2/" {
			then.ServeHTTP(w, req)
		}
	})
}

// Connections break in the middle of requests and of answers; the work goes on where it was.
func TestClientGoesOnAfterBreaks(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	content := strings.Repeat("0123456789", 1<<17)
	var breaks, pauses atomic.Int64
	breaks.Store(4)
	c, _ := peer(t, false, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		long := req.ContentLength > 1000 || req.Method == "GET" && strings.Contains(req.URL.Path, "/blobs/sha256")
		if !long || breaks.Add(-1) < 0 {
			r.server.handler().ServeHTTP(w, req)
			return
		}
		pauses.Add(1)
		if req.Method == "GET" {
			w = &breakingWriter{w, 300_000}
		} else {
			req.Body = &breakingBody{req.Body, 300_000}
		}
		r.server.handler().ServeHTTP(w, req)
		panic(http.ErrAbortHandler)
	}), clientOptions{chunk: 500_000})
	b := blobOf(content)
	var offsets []int64
	open := b.open
	b.open = func(offset int64) (io.Reader, error) { offsets = append(offsets, offset); return open(offset) }
	if sent := must[bool](t)(c.pushBlob(t.Context(), "a", b)); !sent || pauses.Load() != 4 {
		t.Errorf("sent: %v, after %d breaks", sent, pauses.Load())
	}
	if len(offsets) < 5 || slices.Contains(offsets[1:], 0) || !slices.IsSorted(offsets) {
		t.Errorf("sent from %v on; want to go on after every break", offsets)
	}
	breaks.Store(3)
	if got := must[string](t)(readBlob(t, c, "a", b.digest)); got != content || pauses.Load() != 7 {
		t.Errorf("%d bytes came back, after %d breaks", len(got), pauses.Load())
	}
}

// A breakingWriter takes so many bytes of an answer; then the connection breaks.
type breakingWriter struct {
	http.ResponseWriter
	left int
}

func (w *breakingWriter) Write(p []byte) (int, error) {
	n, _ := w.ResponseWriter.Write(p[:min(len(p), w.left)])
	if w.left -= n; w.left == 0 {
		http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

// A breakingBody has so many bytes of a request; then the connection breaks.
type breakingBody struct {
	io.ReadCloser
	left int
}

func (b *breakingBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// What is named by a digest is that, or an error.
func TestClientVerifiesWhatItGets(t *testing.T) {
	t.Parallel()
	answer := func(w http.ResponseWriter, body string) {
		w.Header().Set("Docker-Content-Digest", sum("right").String())
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		io.WriteString(w, body)
	}
	for _, body := range []string{"wrong", "right and more", "righ", "", strings.Repeat("x", maxManifest+1)} {
		c, _ := peer(t, false, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { answer(w, body) }), clientOptions{})
		if got, err := readBlob(t, c, "a", sum("right")); !errors.Is(err, errWrongContent) {
			t.Errorf("a blob of %d other bytes: %.20q, %v", len(body), got, err)
		}
		for _, ref := range []reference{{tag: "1"}, {digest: sum("right")}} {
			if m, err := c.getManifest(t.Context(), "a", ref); err == nil || len(body) <= maxManifest && !errors.Is(err, errWrongContent) {
				t.Errorf("a manifest of %d other bytes: %+v, %v", len(body), m, err)
			}
		}
	}
	c, _ := peer(t, false, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { answer(w, "right") }), clientOptions{})
	must[string](t)(readBlob(t, c, "a", sum("right")))
	must[*remoteManifest](t)(c.getManifest(t.Context(), "a", reference{tag: "1"}))
}

// A registry that takes a request and then is silent ends it, whether it has begun to answer or not.
func TestClientDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	c, _ := peer(t, false, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, sum("begun").String()) {
			io.WriteString(w, "beg")
			http.NewResponseController(w).Flush()
		}
		if req.URL.Path != "/v2/" {
			io.Copy(io.Discard, req.Body)
			<-req.Context().Done()
		}
	}), clientOptions{stall: 100 * time.Millisecond, answer: time.Millisecond})
	must[http.Header](t)(c.ping(t.Context()))
	for _, content := range []string{"begun", "silent"} {
		if _, err := readBlob(t, c, "a", sum(content)); !errors.Is(err, errStalled) {
			t.Errorf("%s: %v", content, err)
		}
	}
	if err := c.putManifest(t.Context(), "a", reference{tag: "1"}, typeOCIManifest, []byte("{}")); !errors.Is(err, errStalled) {
		t.Errorf("a push that is not answered: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.ping(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context has ended: %v", err)
	}
}

// A recorder is a transport that answers nothing, and tells where requests would go.
type recorder struct{ urls []string }

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.urls = append(r.urls, req.URL.String())
	return nil, http.ErrSchemeMismatch // as a registry that speaks plain HTTP
}

func TestClientSpeaksPlainHTTPOnlyWhereItMay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		host  string
		plain bool
		want  string // the URLs asked
	}{
		{"hub.example.org", false, "https://hub.example.org/v2/"},
		{"hub.example.org:5000", true, "http://hub.example.org:5000/v2/"},
		{"http://hub.example.org", false, "http://hub.example.org/v2/"},
		{"https://localhost:5000/", false, "https://localhost:5000/v2/"},
		{"https://localhost", true, "https://localhost/v2/"},
		{"localhost:5000", false, "https://localhost:5000/v2/ http://localhost:5000/v2/"},
		{"127.0.0.2", false, "https://127.0.0.2/v2/ http://127.0.0.2/v2/"},
		{"[::1]:5000", false, "https://[::1]:5000/v2/ http://[::1]:5000/v2/"},
		{"10.0.0.1", false, "https://10.0.0.1/v2/"},
		{"docker.io", false, "https://registry-1.docker.io/v2/"},
		{"", false, "error"}, {"a/b", false, "error"}, {"user@host", false, "error"}, {"ftp://host", false, "error"}, {"host:5000?x", false, "error"},
	} {
		var asked recorder
		c, err := newClient(test.host, clientOptions{plainHTTP: test.plain, transport: &asked})
		if err != nil {
			if asked.urls = []string{"error"}; !strings.Contains(err.Error(), "HOST:PORT") {
				t.Errorf("%s: %v", test.host, err)
			}
		} else if _, err := c.ping(t.Context()); !errors.Is(err, http.ErrSchemeMismatch) {
			t.Errorf("%s: %v", test.host, err)
		}
		if got := strings.Join(asked.urls, " "); got != test.want {
			t.Errorf("%s: asked %s, want %s", test.host, got, test.want)
		}
	}
}

func TestClientReadsPages(t *testing.T) {
	t.Parallel()
	c, s := peer(t, true, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Query().Get("last") {
		case "":
			w.Header().Set("Link", `</v2/a/tags/list?last=b&n=2>; rel="next"`)
			io.WriteString(w, `{"name":"a","tags":["a","b"]}`)
		case "b": // as behind a proxy that does not say where it is
			w.Header().Set("Link", `<http://inside.invalid/v2/a/tags/list?last=c>; rel=next`)
			io.WriteString(w, `{"name":"a","tags":["c"]}`)
		default:
			io.WriteString(w, `{"name":"a","tags":null}`)
		}
	}), clientOptions{})
	if got := listed(t, c.tags(t.Context(), "a")); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("from %s: %v", s.URL, got)
	}
	endless, _ := peer(t, false, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Link", `</v2/a/tags/list?last=b>; rel="next"`)
		io.WriteString(w, `{"tags":["b"]}`)
	}), clientOptions{})
	n := 0
	for _, err := range endless.tags(t.Context(), "a") {
		if n++; err != nil && n < 10 {
			return
		} else if n == 10 {
			break
		}
	}
	t.Error("a page that leads to itself has no end")
}

func TestClientReadsChallenges(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		headers []string
		want    challenge
	}{
		{[]string{`Basic realm="a, b"`}, challenge{scheme: "basic", realm: "a, b"}},
		{[]string{`Basic`}, challenge{scheme: "basic"}},
		{[]string{`Bearer realm="https://a/token",service="s",scope="repository:a:pull,push"`},
			challenge{"bearer", "https://a/token", "s", "repository:a:pull,push"}},
		{[]string{`Basic realm="x", Bearer realm=https://a , service="q\"q"`}, challenge{scheme: "bearer", realm: "https://a", service: `q"q`}},
		{[]string{`Negotiate abc`, `basic realm="x", charset="UTF-8"`}, challenge{scheme: "basic", realm: "x"}},
		{[]string{`Bearer realm="https://a/?x=y"`}, challenge{scheme: "bearer", realm: "https://a/?x=y"}},
		{nil, challenge{}}, {[]string{""}, challenge{}}, {[]string{`realm="x"`}, challenge{}}, {[]string{"Negotiate"}, challenge{}},
	} {
		got := parseChallenges(test.headers)
		if got == nil {
			got = &challenge{}
		}
		if *got != test.want {
			t.Errorf("%q: %+v, want %+v", test.headers, *got, test.want)
		}
	}
}

// What a registry or a proxy says is told in words.
func TestClientErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		body   string
		want   string
	}{
		{403, `{"errors":[{"code":"DENIED","message":"no","detail":"not you"}]}`, "403 DENIED: no: not you"},
		{400, `{"errors":[{"code":"X","message":"a\u001b[2Jb\nc"}]}`, "[2Jb; c"},
		{413, "<html>too large</html>", "a proxy before the registry limits"},
		{502, "<html>", "does the registry run"},
		{404, "", "not a registry's answer"},
	} {
		c, s := peer(t, false, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path != "/v2/" {
				w.Header().Set("Retry-After", "30")
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			}
		}), clientOptions{})
		err := c.putManifest(t.Context(), "home/app", reference{tag: "1"}, typeOCIManifest, []byte("{}"))
		where, _ := url.Parse(s.URL)
		for _, want := range []string{test.want, "sending the manifest home/app:1", where.Host, "again in 30s"} {
			if !strings.Contains(fmt.Sprint(err), want) || strings.ContainsAny(fmt.Sprint(err), "\x1b\n") {
				t.Errorf("%d: %q, want %q in it", test.status, err, want)
			}
		}
	}
	stranger := httptest.NewUnstartedServer(http.NotFoundHandler())
	stranger.Config.ErrorLog = log.New(io.Discard, "", 0)
	stranger.StartTLS()
	defer stranger.Close()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for host, want := range map[string]string{
		stranger.Listener.Addr().String(): "a CA that this machine does not trust",
		closed.Listener.Addr().String():   "refused",
	} {
		c := must[*client](t)(newClient(host, clientOptions{}))
		if _, err := c.ping(t.Context()); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "dial tcp") {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}
