package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	serveLimit() // the test binary is the limit's too
	os.Exit(m.Run())
}

// Every row has a figure for Berth and for the limit. The figures themselves mean nothing.
func TestQuickRunFillsEveryRow(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the processes' figures are of Linux")
	}
	if os.Getenv("BERTH") == "" { // as the tests of e2e build it, so that it is built once
		path := filepath.Join(t.TempDir(), "berth")
		build := exec.Command("go", "-C", "../..", "build", "-o", path, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building berth: %v\n%s", err, out)
		}
		t.Setenv("BERTH", path)
	}
	t.Setenv("TMPDIR", t.TempDir())
	file := filepath.Join(t.TempDir(), "figures.json")
	var stdout, stderr bytes.Buffer
	err := run(context.Background(), []string{"-quick", "-rounds", "2", "-servers", "berth,limit", "-json", file}, &stdout, &stderr)
	t.Logf("%s%s", &stderr, &stdout)
	if err != nil {
		t.Fatal(err)
	}
	var figures struct {
		Rows []struct {
			Name    string
			Figures map[string][]*float64
		}
	}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &figures)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := len(idleWork.rows)
	for _, w := range new(bench).workloads() {
		want += len(w.rows)
	}
	if len(figures.Rows) != want || strings.Count(stdout.String(), "\n| ") != want+1 {
		t.Errorf("%d rows in the file, want %d there and in the table", len(figures.Rows), want)
	}
	for _, r := range figures.Rows {
		for _, name := range []string{"berth", "limit"} {
			if f := r.Figures[name]; len(f) != 2 || f[0] == nil || f[1] == nil || *f[0] < 0 {
				t.Errorf("%s: %s has %d figures, or one is unknown or below 0", r.Name, name, len(f))
			}
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("the run has left %v, %v", left, err)
	}
}

// What registries send is understood, and what is wrong is said with the server's name and the request.
func TestReplies(t *testing.T) {
	for _, x := range []struct {
		reply, method, body, location, err string
		closes                             bool
	}{
		{reply: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", body: "hello"},
		{reply: "HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello", body: "hello"},
		{reply: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", body: "hello"},
		{reply: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
		{reply: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", method: "HEAD"},
		{reply: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", body: "hello", closes: true},
		{reply: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", body: "ok", closes: true},
		{reply: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nLocation: /v2/a?b=c\r\n\r\n", location: "/v2/a?b=c"},
		{reply: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nLocation: http://ADDR/v2/a?b=c\r\n\r\n", location: "/v2/a?b=c"},
		{reply: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nLocation: http://elsewhere/v2/\r\n\r\n", err: "neither a path"},
		{reply: "HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nno hat", err: "fake: GET /x = 404, want 200\nno hat"},
		{reply: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhello", err: "fake: GET /x: unexpected EOF"},
		{reply: "SSH-2.0-OpenSSH_9.2 and more\r\n", err: "a reply begins with"},
	} {
		if x.method == "" {
			x.method = "GET"
		}
		s := answering(t, x.reply)
		c, err := dial(context.Background(), s)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // over the same connection, or another when it is closed
			err := c.do(200, x.method, "/x", "")
			if err != nil || x.err != "" {
				if err == nil || x.err == "" || !strings.Contains(err.Error(), x.err) {
					t.Errorf("%q: %v, want %q", x.reply, err, x.err)
				}
				break
			}
			if string(c.body) != x.body || c.location != x.location || c.closes != x.closes {
				t.Errorf("%q: %q, Location %q, closes %v", x.reply, c.body, c.location, c.closes)
			}
		}
		c.Close()
	}
}

// answering is a server that says the same to every request without a body; ADDR stands for its address.
func answering(t *testing.T, reply string) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	addr := listener.Addr().String()
	reply = strings.ReplaceAll(reply, "ADDR", addr)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if line == "\r\n" {
						io.WriteString(conn, reply)
						if strings.Contains(reply, "close") {
							return
						}
					}
				}
			}()
		}
	}()
	return &server{product: &product{name: "fake"}, addr: addr}
}

// A blob's digest is that of its bytes, however they are cut.
func TestBlobs(t *testing.T) {
	m := newMould(bytes.Repeat([]byte("x"), 100), `"}`)
	a, b := m.cast(1), m.cast(2)
	whole := append(bytes.Clone(a.begin), a.end...)
	if a.size() != 100 || a.digest != digestOf(whole) || a.digest == b.digest {
		t.Errorf("%d bytes, %s, %s", a.size(), a.digest, b.digest)
	}
	for from := range 101 {
		for to := from; to <= 100; to++ {
			if got := bytes.Join(a.slice(from, to), nil); !bytes.Equal(got, whole[from:to]) || !a.equal(from, got) {
				t.Fatalf("from %d to %d it is %q", from, to, got)
			}
		}
	}
	if b.equal(0, whole) || a.equal(1, whole) || !a.equal(0, whole) {
		t.Error("bytes are compared wrongly")
	}
}

func TestFigures(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.01234: "0.0123", 1: "1.00", 12.34: "12.3", 999.6: "1,000", 123: "123",
		1044: "1,040", 48612: "48,600", 1234567: "1,230,000"} {
		if got := short(v); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
	l := &line{row{lower: true}, map[string][]float64{"berth": {1, 0, 2}, "limit": {2, 0, 8}, "slow": {1, 1, 1}, "odd": {1, unknown, 1}}}
	if got := short(l.ratio("limit")) + short(l.ratio("slow")) + short(l.ratio("odd")) + short(l.ratio("none")); got != "2.001.00––" {
		t.Errorf("ratios are %s", got)
	}
	if got := cell([]float64{90, 100, 110}); got != "100 ±10%" {
		t.Errorf("a cell is %s", got)
	}
}
