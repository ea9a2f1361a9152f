// Uploads through what happens to them: dropped connections, restarts, power
// cuts, clients that stall.

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// sendPart begins a request by hand and breaks the connection after the body's
// first part.
func (r *registry) sendPart(method, path, part string, headers ...string) {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.http.Listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s", method, path, strings.Join(headers, "\r\n"), part)
	conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, conn) // until the server has noticed
	conn.Close()
}

func TestDroppedPatchKeepsWhatArrived(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.sendPart("PATCH", loc, "01234", "Content-Length: 10")
	r.want(204, "GET", loc, nil).has("Range", "0-4")
	r.sendPart("PATCH", loc, "3\r\n567\r\n5\r\n89", "Transfer-Encoding: chunked")
	r.want(204, "GET", loc, nil).has("Range", "0-9")
	// A PUT that breaks off stores no blob, and the session goes on too.
	r.sendPart("PUT", with(loc, "digest="+sum("0123456789abcdef").String()), "abc", "Content-Length: 6")
	r.want(204, "GET", loc, nil).has("Range", "0-12")
	r.want(404, "HEAD", "/v2/a/blobs/"+sum("0123456789abcdef").String(), nil)
	r.want(201, "PUT", with(loc, "digest="+sum("0123456789abcdef").String()), "def", "Content-Range: 13-15")
	r.want(200, "GET", "/v2/a/blobs/"+sum("0123456789abcdef").String(), nil).is("0123456789abcdef")
}

func TestNonsenseInChunkedBodyIsTheClientsFault(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	conn, err := net.Dial("tcp", r.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", loc)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 400 {
		t.Errorf("answer %v, %v, want 400", resp, err)
	}
	r.want(204, "GET", loc, nil).has("Range", "0-2")
}

func TestUploadSurvivesRestart(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	content := strings.Repeat("0123456789", 100000)
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", loc, content[:400000])
	r.restart()
	r.want(204, "GET", loc, nil).has("Range", "0-399999")
	r.want(202, "PATCH", loc, content[400000:700000], "Content-Range: 400000-699999")
	r.restart()
	r.want(201, "PUT", with(loc, "digest="+sum(content).String()), content[700000:])
	r.want(200, "GET", "/v2/a/blobs/"+sum(content).String(), nil).is(content)
	// Not yet begun, it survives too.
	loc = r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.restart()
	r.want(201, "PUT", with(loc, "digest="+sum("x").String()), "x")
}

// After a power cut the file may be shorter than what was acknowledged, or
// hold other bytes: the session tells the true offset, and no hash from before
// vouches for what was lost.
func TestUploadAfterPowerCut(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	lost := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	short := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	zeros := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	for _, loc := range []string{lost, short, zeros} {
		r.want(202, "PATCH", loc, "0123456789")
	}
	file := func(loc string) string { return filepath.Join(r.cfg.dir, "uploads", filepath.Base(loc)) }
	r.stop()
	for _, err := range []error{
		os.Remove(file(lost)), os.Truncate(file(short), 4), os.WriteFile(file(zeros), make([]byte, 10), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	d := sum("0123456789").String()
	r.want(204, "GET", lost, nil).has("Range", "0-0")
	r.want(201, "PUT", with(lost, "digest="+d), "0123456789")
	r.want(204, "GET", short, nil).has("Range", "0-3")
	r.want(416, "PATCH", short, "abc", "Content-Range: 10-12").has("Range", "0-3")
	r.want(201, "PUT", with(short, "digest="+d), "456789")
	r.want(400, "PUT", with(zeros, "digest="+d), nil).code("DIGEST_INVALID")
	r.want(200, "GET", "/v2/a/blobs/"+d, nil).is("0123456789")
}

// Bytes of a request that a crash cut off are beyond the acknowledged offset,
// and must not become part of the blob.
func TestBytesBeyondTheOffsetAreCutOff(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", loc, "01234")
	r.stop()
	f, err := os.OpenFile(filepath.Join(r.cfg.dir, "uploads", filepath.Base(loc)), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("never acknowledged")
	f.Close()
	r.start()
	r.want(204, "GET", loc, nil).has("Range", "0-4")
	r.want(201, "PUT", with(loc, "digest="+sum("01234abc").String()), "abc")
	r.want(200, "GET", "/v2/a/blobs/"+sum("01234abc").String(), nil).is("01234abc")
}

func TestFilesOfNoSessionAreRemovedAtStart(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", loc, "x")
	r.stop()
	orphan := filepath.Join(r.cfg.dir, "uploads", "01234567-89ab-4cde-8f01-23456789abcd")
	if err := os.WriteFile(orphan, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	if _, err := os.Stat(orphan); err == nil {
		t.Error("the file is still there")
	}
	r.want(204, "GET", loc, nil).has("Range", "0-0")
}

// A blob's file that a bug, a crash or a bad disk has changed: pushing again
// repairs it, whichever way it is pushed.
func TestPushingAgainRepairs(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	path := r.st.path(im.layers[0])
	for _, damage := range []func() error{
		func() error { return os.Truncate(path, 2) },
		func() error { return os.Remove(path) },
		func() error { return os.RemoveAll(filepath.Dir(path)) },
		func() error { return os.WriteFile(path, []byte("layer and more"), 0o600) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{"GET", "HEAD"} {
			r.want(404, method, "/v2/a/blobs/"+im.layers[0].String(), nil)
		}
		r.want(202, "POST", "/v2/b/blobs/uploads/?from=a&mount="+im.layers[0].String(), nil)
		r.pushBlob("a", "layer")
		r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil).is("layer")
	}
	if !strings.Contains(r.log.String(), "blob damaged") {
		t.Errorf("nothing about it in the log:\n%s", r.log)
	}
	// Damage that keeps the length is healed by the same push.
	if err := os.WriteFile(path, []byte("LAYER"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.pushBlob("a", "layer")
	r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil).is("layer")
}

func TestStalledClientIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testStalledClientIsDropped)
}

func testStalledClientIsDropped(t *testing.T) {
	r := startPiped(t)
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	conn := r.pipes.connect(t)
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234", loc)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil) // without sending the rest
	if err != nil || resp.StatusCode != 400 {
		t.Fatalf("answer %v, %v, want 400", resp, err)
	}
	r.want(204, "GET", loc, nil).has("Range", "0-4") // and others go on
	r.want(202, "PATCH", loc, "56789")
}

// One that reads nothing of what it asked for must not hold the file for ever.
func TestStalledReaderIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testStalledReaderIsDropped)
}

func testStalledReaderIsDropped(t *testing.T) {
	r := startPiped(t)
	d := r.pushBlob("a", noise(1, 100<<10))
	conn := r.pipes.connect(t)
	fmt.Fprintf(conn, "GET /v2/a/blobs/%s HTTP/1.1\r\nHost: x\r\n\r\n", d)
	synctest.Wait()
	if r.server.inFlight.Load() != 1 {
		t.Fatal("the request has ended before")
	}
	if !r.server.wait(2 * time.Duration(r.cfg.stallTimeout)) { // without reading
		t.Error("the request does not end")
	}
	r.want(200, "HEAD", "/v2/a/blobs/"+d.String(), nil)
}
