// How tests talk to a registry: over HTTP, to a real server on a directory of
// its own. Every registry ends with store.check.

package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// A registry is a server under test.
type registry struct {
	t      testing.TB
	cfg    config
	st     *store
	server *server
	http   *httptest.Server
	moved  *atomic.Int64 // nanoseconds that the test has moved the clock
	still  bool          // the clock moves only when the test moves it
	log    *logBuffer
	pipes  *pipes // in a bubble; else nil
}

// startRegistry serves a new data directory until the test ends. Each option
// may change the configuration.
func startRegistry(t testing.TB, options ...func(*config)) *registry {
	t.Helper()
	r := newRegistry(t, options...)
	r.start()
	t.Cleanup(r.stop)
	return r
}

// startStill is startRegistry with a clock that moves only when the test moves it.
func startStill(t testing.TB, options ...func(*config)) *registry {
	t.Helper()
	r := newRegistry(t, options...)
	r.still = true
	r.start()
	t.Cleanup(r.stop)
	return r
}

// newRegistry is startRegistry without the start.
func newRegistry(t testing.TB, options ...func(*config)) *registry {
	t.Helper()
	cfg, err := parseConfig("serve", []string{"--data", t.TempDir()}, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	r := &registry{t: t, cfg: *cfg, moved: new(atomic.Int64), log: new(logBuffer)}
	r.cfg.auth.glance = 0 // an edit holds from the next request on
	r.cfg.writeTwice = true
	r.cfg.syncDisk = syncMemory
	r.cfg.log = newLog(r.log, false, slog.LevelInfo)
	r.cfg.storeConfig.log, r.cfg.serverConfig.log = r.cfg.log, r.cfg.log
	for _, option := range options {
		option(&r.cfg)
	}
	return r
}

func (r *registry) start() {
	r.t.Helper()
	opened := time.Now()
	r.cfg.now = func() time.Duration {
		if r.still {
			return time.Duration(r.moved.Load())
		}
		return time.Since(opened) + time.Duration(r.moved.Load())
	}
	st, err := openStore(r.cfg.storeConfig)
	if err != nil {
		r.t.Fatal(err)
	}
	r.st = st
	if r.server, err = newServer(st, r.cfg.serverConfig); err != nil {
		r.t.Fatal(err)
	}
	if r.pipes != nil {
		r.http = overPipes(r.pipes, r.server.handler(), false)
	} else {
		r.http = httptest.NewServer(r.server.handler())
	}
}

// stop ends the server and checks what it leaves.
func (r *registry) stop() {
	r.t.Helper()
	if r.st == nil {
		return // stopped before, and not started again
	}
	r.http.Close()
	if !r.server.wait(time.Minute) {
		r.t.Error("requests do not end")
	}
	r.check()
	if err := r.st.close(); err != nil {
		r.t.Errorf("closing the store: %v", err)
	}
	r.st = nil
}

func (r *registry) check() {
	r.t.Helper()
	report, err := r.st.check(context.Background(), true, func(int64) {})
	if err != nil {
		r.t.Errorf("check: %v", err)
		return
	}
	for _, f := range report.findings {
		r.t.Errorf("check: %s", f.problem)
	}
	for _, p := range report.rubbish {
		r.t.Errorf("check: left over: %s", p)
	}
}

// restart ends the server and starts another on the same directory.
func (r *registry) restart(options ...func(*config)) {
	r.t.Helper()
	r.stop()
	r.moved.Store(0)
	for _, option := range options {
		option(&r.cfg)
	}
	r.start()
}

// pass lets time pass, as the registry counts it, and then collects what is due.
func (r *registry) pass(d time.Duration) {
	r.t.Helper()
	r.moved.Add(int64(d))
	if _, err := r.st.collector.collectDue(context.Background()); err != nil {
		r.t.Errorf("collecting: %v", err)
	}
}

// A reply is a response read to the end.
type reply struct {
	t       testing.TB
	request string
	status  int
	header  http.Header
	body    []byte
}

// do sends a request and reads the reply. body is nil, a string, []byte or an
// io.Reader; a plain io.Reader is sent in chunks of unknown length. headers are
// "Key: value".
func (r *registry) do(method, path string, body any, headers ...string) *reply {
	r.t.Helper()
	re, err := r.try(method, path, body, headers...)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return re
}

// try is do for requests that may fail on the way; it may be called from any
// goroutine.
func (r *registry) try(method, path string, body any, headers ...string) (*reply, error) {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	case []byte:
		reader = bytes.NewReader(b)
	case io.Reader:
		reader = b
	default:
		return nil, fmt.Errorf("a body of type %T", body)
	}
	url := path
	if !strings.HasPrefix(path, "http") {
		url = r.http.URL + path
	}
	req, err := http.NewRequest(method, url, reader)
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		req.Header.Add(key, value)
	}
	resp, err := r.http.Client().Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &reply{r.t, method + " " + path, resp.StatusCode, resp.Header, data}, nil
}

// want is do that insists on the status, and on the error's form if it is one.
func (r *registry) want(status int, method, path string, body any, headers ...string) *reply {
	r.t.Helper()
	re := r.do(method, path, body, headers...)
	if re.status != status {
		r.t.Errorf("%.200s = %d, want %d\n%.500s", re.request, re.status, status, re.body)
	}
	if re.status >= 400 && method != "HEAD" {
		re.errors()
	}
	return re
}

// errors returns the codes in an error's body, which must have the
// specification's form.
func (re *reply) errors() (codes []string) {
	re.t.Helper()
	var doc struct {
		Errors []struct {
			Code, Message string
			Detail        any
		}
	}
	if got := re.header.Get("Content-Type"); got != "application/json" {
		re.t.Errorf("%.200s: %d with Content-Type %q, want application/json", re.request, re.status, got)
	}
	if err := json.Unmarshal(re.body, &doc); err != nil || len(doc.Errors) == 0 {
		re.t.Errorf("%.200s: %d with a body that is not an error list: %.300s", re.request, re.status, re.body)
	}
	for _, e := range doc.Errors {
		if e.Code == "" || e.Message == "" || e.Code != strings.ToUpper(e.Code) {
			re.t.Errorf("%.200s: error %+v", re.request, e)
		}
		codes = append(codes, e.Code)
	}
	return codes
}

// code insists on the error's code.
func (re *reply) code(want string) *reply {
	re.t.Helper()
	if codes := re.errors(); len(codes) == 0 || codes[0] != want {
		re.t.Errorf("%.200s: error codes %v, want %s\n%.300s", re.request, codes, want, re.body)
	}
	return re
}

// has insists on a header's value.
func (re *reply) has(key, want string) *reply {
	re.t.Helper()
	if got := re.header.Get(key); got != want {
		re.t.Errorf("%.200s: header %s is %q, want %q", re.request, key, got, want)
	}
	return re
}

// is insists on the body.
func (re *reply) is(want string) *reply {
	re.t.Helper()
	if string(re.body) != want {
		re.t.Errorf("%.200s: body %.300q, want %.300q", re.request, re.body, want)
	}
	return re
}

func (re *reply) location() string { return re.header.Get("Location") }

func sum(content string) digest.Digest { return digest.FromString(content) }

// pushBlob pushes content in one POST and returns its digest.
func (r *registry) pushBlob(repo, content string) digest.Digest {
	r.t.Helper()
	d := sum(content)
	r.want(201, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), content)
	return d
}

// with appends a query to a Location as clients do.
func with(location, query string) string {
	if strings.Contains(location, "?") {
		return location + "&" + query
	}
	return location + "?" + query
}

// An image is a manifest's bytes and what it consists of.
type image struct {
	manifest string
	digest   digest.Digest
	config   digest.Digest
	layers   []digest.Digest
}

func ociImage(config string, layers ...string) image {
	return newImage(typeOCIManifest, "application/vnd.oci.image.config.v1+json",
		"application/vnd.oci.image.layer.v1.tar+gzip", "", config, layers...)
}

// newImage makes a manifest; more is further members, with a comma before.
func newImage(mediaType, configType, layerType, more, config string, layers ...string) image {
	im := image{config: sum(config)}
	var list []string
	for _, l := range layers {
		im.layers = append(im.layers, sum(l))
		list = append(list, descriptorJSON(layerType, l))
	}
	im.manifest = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]%s}`,
		mediaType, descriptorJSON(configType, config), strings.Join(list, ","), more)
	im.digest = sum(im.manifest)
	return im
}

func descriptorJSON(mediaType, content string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, sum(content), len(content))
}

// ociIndex makes an index of manifests.
func ociIndex(manifests ...string) (string, digest.Digest) {
	var list []string
	for _, m := range manifests {
		list = append(list, descriptorJSON(typeOCIManifest, m))
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, typeOCIIndex, strings.Join(list, ","))
	return index, sum(index)
}

// pushImage pushes an image of small layers under a tag.
func (r *registry) pushImage(repo, tag, config string, layers ...string) image {
	r.t.Helper()
	im := ociImage(config, layers...)
	for _, content := range append(layers, config) {
		r.pushBlob(repo, content)
	}
	r.want(201, "PUT", "/v2/"+repo+"/manifests/"+tag, im.manifest, "Content-Type: "+typeOCIManifest).
		has("Docker-Content-Digest", im.digest.String())
	return im
}

// zeros is n bytes that arrive in chunks; their number is not told before.
func zeros(n int64) io.Reader {
	return struct{ io.Reader }{io.LimitReader(zeroReader{}, n)}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A logBuffer may be read while handlers write to it.
type logBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tree is what is under a directory: the bytes of each file by name.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// inDatabase runs SQL on a database file that no registry has open.
func inDatabase(t testing.TB, path string, queries ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, q := range queries {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// exists is isThere, where tests know that it can be looked at.
func exists(path string) bool {
	there, _ := isThere(path)
	return there
}
