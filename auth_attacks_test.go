// Attacks that hit other registries, as far as they are not in the sessions of
// registry_test.go: each is answered, and nobody else notices.

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// raw sends bytes as they are and returns the first answer.
func (r *registry) raw(request string) *http.Response {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.http.Listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		r.t.Fatalf("%.80q: %v", request, err)
	}
	return resp
}

func TestSmuggledRequestsAreRefused(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	const hidden = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, headers := range []string{
		"Content-Length: 5\r\nContent-Length: 6",
		"Content-Length: -1",
		"Content-Length: 5\r\nTransfer-Encoding: gzip, chunked",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
		"Content-Length : 5",
		"Content-Length: 5,6",
	} {
		resp := r.raw("PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n\r\n0\r\n\r\n" + hidden)
		if resp.StatusCode != 400 && resp.StatusCode != 501 {
			t.Errorf("%q = %d, want a refusal", headers, resp.StatusCode)
		}
	}
}

func TestTooLargeIsSaidBeforeTheBody(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.maxBlob = 1000 })
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	for _, target := range []string{"PUT /v2/a/manifests/x", "PATCH " + loc} {
		resp := r.raw(target + " HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
		if resp.StatusCode != 413 {
			t.Errorf("%s: the first answer is %d, want 413", target, resp.StatusCode)
		}
	}
}

// A manifest may name very many blobs. The answer stays short, and
// so does the time in which nobody else can write.
func TestWideManifests(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	var layers []string
	for i := range 15000 {
		layers = append(layers, descriptorJSON("x/y", fmt.Sprint(i)))
	}
	wide := fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[%s]}`, descriptorJSON("x/y", "{}"), strings.Join(layers, ","))
	if re := r.want(404, "PUT", "/v2/a/manifests/x", wide, "Content-Type: "+typeOCIManifest); len(re.body) > 64<<10 {
		t.Errorf("an error of %d bytes", len(re.body))
	}
	same := fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[%s]}`, descriptorJSON("x/y", "{}"),
		strings.Join(slices.Repeat([]string{descriptorJSON("x/y", "{}")}, 15000), ","))
	r.want(201, "PUT", "/v2/a/manifests/x", same, "Content-Type: "+typeOCIManifest)
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(same)
}

// Four MiB of JSON can stand for much more memory, if one lets it.
func TestManifestBombs(t *testing.T) {
	slow(t)
	alone(t, "the whole process's heap is measured")
	r := startRegistry(t)
	r.server.waiting.after = func(time.Duration) <-chan time.Time { return nil } // however slow the machine is, each has its turn
	var keys strings.Builder
	for i := range 300000 {
		fmt.Fprintf(&keys, `"k%d":0,`, i)
	}
	bombs := []string{
		`{"schemaVersion":2,"manifests":[0` + strings.Repeat(",0", 2000000) + `]}`,
		`{` + keys.String() + `"schemaVersion":2,"manifests":[{}]}`,
		`{"schemaVersion":2,"manifests":[{` + keys.String() + `"size":0}]}`,
		`{"schemaVersion":2,"manifests":` + strings.Repeat("[", 2000000),
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var clients sync.WaitGroup
	for _, bomb := range bombs {
		for range 4 {
			clients.Go(func() {
				if re, err := r.try("PUT", "/v2/a/manifests/x", bomb, "Content-Type: "+typeOCIIndex); err != nil || re.status != 400 {
					t.Errorf("%.40s…: %v, %v", bomb, re, err)
				}
			})
		}
	}
	clients.Wait()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 200<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// Clients that hold every place for large manifests do not hold them for long.
func TestSlowLargeManifests(t *testing.T) { t.Parallel(); synctest.Test(t, testSlowLargeManifests) }

func testSlowLargeManifests(t *testing.T) {
	r := startPiped(t, func(c *config) { c.stallTimeout = stallTimeout(patience / 2) })
	r.pushBlob("a", "{}")
	for range maxLargeManifests {
		fmt.Fprintf(r.pipes.connect(t), "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n%s", strings.Repeat(" ", 100000))
	}
	synctest.Wait()
	if n := r.server.large.Load(); n != maxLargeManifests {
		t.Fatalf("%d places for large manifests are taken, want all %d", n, maxLargeManifests)
	}
	large := newImage(typeOCIManifest, "x/y", "x/y", `,"annotations":{"pad":"`+strings.Repeat("x", 100000)+`"}`, "{}").manifest
	r.want(201, "PUT", "/v2/a/manifests/y", large, "Content-Type: "+typeOCIManifest)
}

// A browser that is shown a manifest must not run it.
func TestContentIsNotRunByBrowsers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	page := `{"x":"<script>alert(1)</script>"}`
	r.want(201, "PUT", "/v2/a/manifests/x", page, "Content-Type: text/html")
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(page).has("X-Content-Type-Options", "nosniff").
		has("Content-Security-Policy", "default-src 'none'; sandbox")

	// What is of the known types is no page, and is worth no more headers than Go's
	// maps hold without growing: eight, and Date comes later.
	im := r.pushImage("a", "y", "{}", "layer")
	for _, ref := range []string{"y", im.digest.String()} {
		re := r.want(200, "GET", "/v2/a/manifests/"+ref, nil).has("X-Content-Type-Options", "nosniff")
		if n := len(re.header) - 1; n > 8 {
			t.Errorf("a manifest has %d headers, want at most 8: %v", n, re.header)
		}
	}
}

// Many clients that send large manifests at once, and large blobs, in little memory.
func TestMemoryIsBounded(t *testing.T) {
	slow(t)
	alone(t, "the whole process's heap is measured")
	r := diskRegistry(t) // a gigabyte would take as much memory
	r.pushBlob("a", "{}")
	big := newImage(typeOCIManifest, "x/y", "x/y", `,"annotations":{"pad":"`+strings.Repeat("x", maxManifest-1000)+`"}`, "{}").manifest
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var clients sync.WaitGroup
	for range 64 {
		clients.Go(func() {
			body := struct{ io.Reader }{zeros(16 << 20)}
			if re, err := r.try("POST", "/v2/a/blobs/uploads/?digest="+sum("x").String(), body); err != nil || re.status != 400 {
				t.Errorf("16 MiB of the wrong digest: %v, %v", re, err)
			}
			if re, err := r.try("PUT", "/v2/a/manifests/x", strings.NewReader(big), "Content-Type: "+typeOCIManifest); err != nil || re.status != 201 && re.status != 429 {
				t.Errorf("a large manifest: %v, %v", re, err)
			}
		})
	}
	clients.Wait()
	runtime.ReadMemStats(&after)
	// What the heap has taken from the system does not shrink, so it tells the peak.
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 400<<20 {
		t.Errorf("the heap grew by %d MiB for 64 clients that sent 1.3 GiB", grown>>20)
	}
}

// A pieceWriter notes the lengths of writes, and how many have a deadline of their own.
type pieceWriter struct {
	*httptest.ResponseRecorder
	pieces    []int
	deadlines int
}

func (w *pieceWriter) SetWriteDeadline(time.Time) error {
	w.deadlines++
	return nil
}

func (w *pieceWriter) Write(p []byte) (int, error) {
	w.pieces = append(w.pieces, len(p))
	return w.ResponseRecorder.Write(p)
}

// The stall timeout is for a piece of what is sent, also from memory: a manifest may
// have 4 MiB, and a line may be slow.
func TestWritesHaveTheStallTimeoutForEachPiece(t *testing.T) {
	t.Parallel()
	body := noise(1, 2*sendAtOnce+1)
	for _, send := range []func(*response) (int64, error){
		func(w *response) (int64, error) { return io.Copy(w, strings.NewReader(body)) },
		func(w *response) (int64, error) { n, err := w.Write([]byte(body)); return int64(n), err },
	} {
		to := &pieceWriter{ResponseRecorder: httptest.NewRecorder()}
		w := &response{ResponseWriter: to, control: *http.NewResponseController(to), stall: 1}
		n, err := send(w)
		if n != int64(len(body)) || err != nil || to.Body.String() != body || w.bytes != n {
			t.Errorf("%d bytes are sent, and %d counted (%v), want %d", n, w.bytes, err, len(body))
		}
		if want := []int{sendAtOnce, sendAtOnce, 1}; !slices.Equal(to.pieces, want) || to.deadlines != len(want) {
			t.Errorf("pieces of %d with %d deadlines, want %d", to.pieces, to.deadlines, want)
		}
	}
	// Nothing is something to send: the header.
	to := &pieceWriter{ResponseRecorder: httptest.NewRecorder()}
	w := &response{ResponseWriter: to, control: *http.NewResponseController(to), stall: 1}
	if n, err := w.Write(nil); n != 0 || err != nil || len(to.pieces) != 1 || w.status != 200 {
		t.Errorf("an empty body: %d %v, %d writes, status %d", n, err, len(to.pieces), w.status)
	}
}

// Headers that drip, connections that say nothing, bodies that stall: the slow
// ones are dropped, the others served.
func TestSlowClientsHarmNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testSlowClientsHarmNobody)
}

func testSlowClientsHarmNobody(t *testing.T) {
	r := startPiped(t)
	ctx, stop := context.WithCancel(t.Context())
	p, ended := newPipes(), make(chan error, 1)
	go func() { ended <- r.server.answer(ctx, p) }() // as the program does
	var slow sync.WaitGroup
	for i := range 60 {
		conn := p.connect(t)
		io.WriteString(conn, []string{
			"",
			"GET /v2/ HTTP/1.1\r\nX-Drip: ",
			"PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
			"POST /v2/a/blobs/uploads/?digest=" + sum("x").String() + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n",
		}[i%4])
		slow.Go(func() { io.Copy(io.Discard, conn) }) // until the registry gives up
	}
	client := &http.Client{Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true}}
	for range 20 {
		resp, err := client.Get("http://pi.lan/v2/")
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("beside slow clients: %v, %v", resp, err)
		}
		resp.Body.Close()
	}
	slow.Wait()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
