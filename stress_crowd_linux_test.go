// Many clients at once, to a program of its own: what they cost it.
//
// It is the real program, whose memory the kernel tells. Nothing is said about
// time: machines differ, and tests run beside others.

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

const (
	idleConnections = 10000
	// perIdle is what one idle connection may cost, in bytes: net/http keeps two
	// buffers of 4 KiB and a goroutine for each, whose stack has grown with what
	// it did; and Go lets garbage come to as much as what is in use.
	perIdle = 32 << 10

	slowPulls    = 500
	slowBlob     = 4 << 20
	slowPullsMiB = 96 // that the program may have with all of them
)

// openFiles makes as many open files possible as the system lets be, and returns how
// many connections that is enough for, at most want. Both ends have a file, each
// in a process of its own.
func openFiles(t *testing.T, want int) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Logf("raising the limit of open files: %v", err)
	}
	const others = 500                                  // of this and other tests, and of the program
	n := min(want, int(min(limit.Max, 1<<30))/2-others) // as many as there may be
	if n < want {
		t.Logf("%d connections, not %d: the system allows %d open files", n, want, limit.Max)
	}
	if n < 2000 {
		skip(t, fmt.Sprintf("the system allows %d open files, which is too few", limit.Max))
	}
	return n
}

// Thousands that keep their connections and say nothing keep nobody else from being
// answered, and cost a stated amount of memory each.
func TestCrowdOfIdleConnections(t *testing.T) {
	slow(t)
	t.Parallel()
	n := openFiles(t, idleConnections)
	p := startProgram(t, buildProgram(t), diskDir(t))
	c := newBenchClient(1)
	content := "a blob for everybody"
	if err := c.pushBlob(p.url, []byte(content), true); err != nil {
		t.Fatal(err)
	}
	im := ociImage(content)
	put := func(tag string) error {
		return c.send("PUT", p.url+"/v2/bench/manifests/"+tag, http.Header{"Content-Type": {typeOCIManifest}}, strings.NewReader(im.manifest), 201)
	}
	if err := put("first"); err != nil {
		t.Fatal(err)
	}
	before := p.memory("VmRSS")

	// Each has pulled something, as real ones have.
	paths := []string{"/v2/", "/v2/bench/manifests/first", "/v2/bench/blobs/" + sum(content).String()}
	conns := make([]*bareConn, n)
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
	}()
	if err := share(64, n, func(i int) (err error) {
		if conns[i], err = dialBare(strings.TrimPrefix(p.url, "http://")); err != nil {
			return err
		}
		return conns[i].ask("GET", paths[i%len(paths)], "")
	}); err != nil {
		t.Fatal(err)
	}
	idle := p.memory("VmRSS")
	each := (idle - before) * (1 << 20) / float64(n)
	t.Logf("%d idle connections: %.0f MiB, before %.0f MiB, so %.1f KiB each", n, idle, before, each/1024)
	if each > perIdle {
		t.Errorf("an idle connection costs %.0f bytes, want %d at most", each, perIdle)
	}

	// Others are answered, and so are these.
	other := newBenchClient(1)
	if err := other.pushBlob(p.url, []byte("another blob"), false); err != nil {
		t.Error(err)
	}
	if err := put("second"); err != nil {
		t.Error(err)
	}
	for _, path := range paths {
		if err := other.send("GET", p.url+path, nil, nil, 200); err != nil {
			t.Error(err)
		}
	}
	if err := share(16, n/10, func(i int) error { return conns[i*10].ask("GET", "/v2/bench/manifests/second", "") }); err != nil {
		t.Errorf("a connection that was idle: %v", err)
	}
	again := p.memory("VmRSS")
	if again-before > float64(n)*perIdle/(1<<20) {
		t.Errorf("%.0f MiB after more requests, before the crowd %.0f MiB", again, before)
	}
	p.stop()
}

// Hundreds that pull at once, and slowly, all get true bytes; the program has none of
// them in its own memory.
func TestCrowdOfSlowPulls(t *testing.T) {
	slow(t)
	t.Parallel()
	p := startProgram(t, buildProgram(t), diskDir(t))
	c := newBenchClient(1)
	content := randomBytes(slowBlob)
	d := digest.FromBytes(content)
	if err := c.pushBlob(p.url, content, true); err != nil {
		t.Fatal(err)
	}
	before := p.memory("VmRSS")

	// A small window from the beginning on.
	dialer := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
		})
		if err == nil {
			err = failed
		}
		return err
	}}
	var began, ended sync.WaitGroup
	goOn := make(chan struct{})
	errs := make(chan error, slowPulls)
	began.Add(slowPulls)
	for range slowPulls {
		ended.Go(func() {
			started := sync.OnceFunc(began.Done)
			defer started()
			errs <- func() error {
				conn, err := dialer.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
				if err != nil {
					return err
				}
				defer conn.Close()
				if _, err := fmt.Fprintf(conn, "GET /v2/bench/blobs/%s HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n", d); err != nil {
					return err
				}
				r := bufio.NewReaderSize(conn, 16<<10)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				v := d.Verifier()
				first := make([]byte, 1<<10)
				if _, err := io.ReadFull(resp.Body, first); err != nil {
					return err
				}
				v.Write(first)
				started()
				<-goOn // all have begun, and none is at its end
				conn.(*net.TCPConn).SetReadBuffer(1 << 20)
				n, err := io.Copy(v, resp.Body)
				if err == nil && (!v.Verified() || n+int64(len(first)) != slowBlob || resp.StatusCode != 200) {
					err = fmt.Errorf("status %d, %d bytes, which are not those that were pushed", resp.StatusCode, n+int64(len(first)))
				}
				return err
			}()
		})
	}
	began.Wait()
	waiting := p.memory("VmRSS")
	if err := c.pushBlob(p.url, []byte("while the others wait"), true); err != nil {
		t.Error(err)
	}
	if metrics := inFlight(t, p.url); metrics < slowPulls/2 {
		t.Errorf("%d requests are under way, want nearly %d: this tests nothing", metrics, slowPulls)
	}
	close(goOn)
	ended.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	peak := p.memory("VmHWM")
	t.Logf("%d pulls of %d MiB at once: %.0f MiB while they wait, %.0f MiB at most, before %.0f MiB", slowPulls, slowBlob>>20, waiting, peak, before)
	if peak > slowPullsMiB {
		t.Errorf("%.0f MiB, want %d MiB at most", peak, slowPullsMiB)
	}
	p.stop()
}

// inFlight asks the metrics how many requests are under way.
func inFlight(t *testing.T, server string) (n int) {
	t.Helper()
	resp, err := http.Get(server + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte("\nberth_http_requests_in_flight "))
	if _, err := fmt.Sscan(string(rest), &n); err != nil {
		t.Fatalf("berth_http_requests_in_flight: %v", err)
	}
	return n
}
