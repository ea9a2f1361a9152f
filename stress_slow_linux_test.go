// Crowds that read slowly, to a program of its own that may have 512 MiB.

package main

import (
	"bufio"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// limitMemory makes what the shell that runs command becomes a member of a control
// group of n bytes; the test is skipped where that cannot be.
func limitMemory(t *testing.T, n int64) (wrap func(*exec.Cmd)) {
	t.Helper()
	groups, file := "/sys/fs/cgroup", "memory.max"
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		groups, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	}
	group, err := os.MkdirTemp(groups, "berth-slow-")
	if err == nil {
		t.Cleanup(func() { os.Remove(group) })
		err = os.WriteFile(filepath.Join(group, file), []byte(strconv.FormatInt(n, 10)), 0o600)
	}
	if err != nil {
		skip(t, fmt.Sprintf("no control group with a limit can be made: %v", err))
	}
	return func(c *exec.Cmd) {
		c.Args = append([]string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, group, c.Path}, c.Args[1:]...)
		c.Path = "/bin/sh"
	}
}

// startLimited starts the program in a control group of n bytes; the test is skipped
// where that cannot be.
func startLimited(t *testing.T, n int64, path string, args ...string) *program {
	t.Helper()
	wrap := limitMemory(t, n)
	p := &program{b: t, command: exec.Command(path, append([]string{"--addr", "127.0.0.1:0", "--log-level", "error"}, args...)...)}
	wrap(p.command)
	out, err := p.command.StdoutPipe()
	if err == nil {
		err = p.command.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.command.ProcessState == nil {
			p.command.Process.Kill()
			p.command.Wait() // or the group cannot be removed
		}
	})
	greeting, err := bufio.NewReader(out).ReadString('\n')
	i := strings.Index(greeting, "http")
	if err != nil || i < 0 {
		t.Fatalf("berth says %q, %v", greeting, err)
	}
	p.url = strings.TrimSpace(greeting[i:])
	return p
}

// slowly asks for something by a connection with a small window and reads the beginning
// of the answer. What it returns reads the rest, or goes away.
func slowly(address, path string) (status int, rest func(all bool) (int64, error), err error) {
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
		return err
	}}
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		return 0, nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n", path); err != nil {
		return 0, nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16<<10), nil)
	if err != nil {
		conn.Close()
		return 0, nil, err
	}
	if resp.StatusCode == 429 && resp.Header.Get("Retry-After") == "" {
		err = errors.New("429 without Retry-After")
	}
	return resp.StatusCode, func(all bool) (int64, error) {
		defer conn.Close()
		if !all {
			return 0, nil
		}
		conn.(*net.TCPConn).SetReadBuffer(1 << 20)
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && n != resp.ContentLength {
			err = fmt.Errorf("%d bytes of %d", n, resp.ContentLength)
		}
		return n, err
	}, err
}

// Every route that answers from memory, asked alone by more slow readers than there is memory
// for: the program lives, and is well afterwards.
func TestSlowReadersOfWhatIsInMemory(t *testing.T) {
	slow(t)
	t.Parallel()
	const limit = 512 << 20
	path, dir := buildProgram(t), filepath.Join(diskDir(t), "data")
	digests := make([]digest.Digest, 140) // of manifests that are as long as one may be
	body := longManifest("a", maxManifest)
	subject := sum(body)
	about := strings.Replace(longManifest("about", maxManifest-1000), `"manifests":[],`, `"manifests":[],"subject":`+descriptorJSON(typeOCIIndex, body)+`,`, 1)
	r := startRegistry(t, func(cfg *config) { cfg.dir = dir })
	r.pushManifest("a", "long", body, typeOCIIndex)
	r.pushManifest("a", sum(about).String(), about, typeOCIIndex)
	r.pushManifest("tags", "x", longManifest("small", 500), typeOCIIndex)
	r.stop()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "berth.db")+"?_pragma=synchronous(off)&_pragma=journal_mode(off)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	// As if all of it had been pushed.
	exec1 := func(query string, args ...any) {
		t.Helper()
		if _, err := db.Exec(query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	const some = `WITH RECURSIVE some (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM some WHERE n < 10000) `
	exec1(`INSERT INTO repository (name) VALUES ('many')`)
	for i := range digests {
		m := longManifest(fmt.Sprint(i), maxManifest)
		digests[i] = sum(m)
		exec1(`INSERT INTO manifest (repository, digest, media_type, loose, artifact_type, body)
			SELECT id, ?, ?, 0, '', ? FROM repository WHERE name = 'many'`, digests[i], typeOCIIndex, []byte(m))
		exec1(`INSERT INTO tag (repository, name, manifest) SELECT m.repository, ?, m.id FROM manifest m JOIN repository r ON r.id = m.repository WHERE r.name = 'many' AND m.digest = ?`, fmt.Sprint("t", i), digests[i])
	}
	exec1(some + `INSERT INTO tag (repository, name, manifest) SELECT t.repository, printf('%0128d', n), t.manifest FROM some, tag t WHERE t.name = 'x'`)
	exec1(some + `INSERT INTO history (change, n, at, time, who, client, action, why, repository, tag, old, new, made)
		SELECT h.change + s.n, 1, h.at, h.time, h.who, h.client, h.action, h.why, h.repository, printf('%0128d', s.n), h.old, h.new, h.made FROM some s, history h WHERE h.tag = 'x'`)
	exec1(some + `INSERT INTO repository (name) SELECT printf('%0240d', n) FROM some`)
	exec1(`INSERT INTO manifest (repository, digest, media_type, loose, artifact_type, body)
		SELECT r.id, m.digest, m.media_type, 0, '', m.body FROM repository r, tag t JOIN manifest m ON m.id = t.manifest WHERE r.name LIKE '000%' AND t.name = 'x'`)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, policyFile), []byte("[[retain]]\nrepositories = [\"tags\"]\nnewest = 20000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startLimited(t, limit, path, "--data", dir)
	address := strings.TrimPrefix(p.url, "http://")
	crowded := make(map[string]bool) // routes, by pattern
	shared := []slowCrowd{
		{"one manifest by digest", 100, func(int) string { return "/v2/a/manifests/" + subject.String() }},
		{"one manifest by tag", 100, func(int) string { return "/v2/a/manifests/long" }},
	}
	for name, served := range slowCrowds(t, p, address, shared) {
		if served != 100 {
			t.Errorf("%s: %d of 100 are served, want all: it is in memory once", name, served)
		}
	}
	p.stop()
	for _, c := range []slowCrowd{
		{"GET /v2/{name}/manifests/{reference}", len(digests), func(i int) string { return "/v2/many/manifests/" + digests[i].String() }},
		{"GET /v2/{name}/manifests/{reference}", len(digests), func(i int) string { return fmt.Sprint("/v2/many/manifests/t", i) }},
		{"GET /v2/{name}/referrers/{digest}", 150, func(int) string { return "/v2/a/referrers/" + subject.String() }},
		{"GET /v2/{name}/tags/list", 450, func(int) string { return "/v2/tags/tags/list" }},
		{"GET /v2/_catalog", 300, func(int) string { return "/v2/_catalog" }},
		{"GET /v2/{name}/_berth/history", 800, func(int) string { return "/v2/tags/_berth/history" }},
		{"GET /v2/{name}/_berth/retention", 200, func(int) string { return "/v2/tags/_berth/retention" }},
		{"GET /metrics", 100, func(int) string { return "/metrics" }},
	} {
		t.Run(c.name+" alone", func(t *testing.T) {
			p := startLimited(t, limit, path, "--data", dir)
			served := slowCrowds(t, p, strings.TrimPrefix(p.url, "http://"), []slowCrowd{c})[c.name]
			if served == 0 {
				t.Error("nobody is served")
			}
			if served == c.readers && (strings.Contains(c.name, "/manifests/") || strings.Contains(c.name, "/referrers/")) {
				t.Error("all are served: there is no bound")
			}
			if err := newBenchClient(1).send("GET", p.url+c.path(0), nil, nil, 200); err != nil {
				t.Errorf("after all: %v", err)
			}
			p.stop()
		})
		crowded[c.name] = true
	}
	// Of these no answer is longer than some hundred bytes, or it is a file's, or there is
	// none of a program without TLS.
	for _, pattern := range []string{"GET /v2/{$}", "GET /v2", "GET /v2/{name}/blobs/{digest}", "GET /v2/{name}/blobs/uploads/{session}",
		"GET /healthz", "GET /readyz", "GET /v2/token", "GET /trust", "GET /trust.sh", "GET /trust.crt",
		"GET /login", "GET /login/callback", "/"} {
		crowded[pattern] = true
	}
	for _, route := range new(server).routes() {
		if !crowded[route.pattern] && (strings.HasPrefix(route.pattern, "GET ") || !strings.Contains(route.pattern, " ")) {
			t.Errorf("%s: no crowd asks for it, and it is no exception", route.pattern)
		}
	}
}

// A slowCrowd asks for what path says, each on a connection of its own.
type slowCrowd struct {
	name    string
	readers int
	path    func(i int) string
}

// slowCrowds has crowds ask at once and read no more than the beginning until all are
// answered, with what they want or 429. It returns how many of each were served.
func slowCrowds(t *testing.T, p *program, address string, crowds []slowCrowd) map[string]int {
	t.Helper()
	var asking, reading sync.WaitGroup
	goOn := make(chan struct{})
	served := make([]atomic.Int64, len(crowds))
	for i, c := range crowds {
		for j := range c.readers {
			asking.Add(1)
			reading.Go(func() {
				status, rest, err := slowly(address, c.path(j))
				asking.Done()
				if err != nil || status != 200 && status != 429 {
					t.Errorf("%s: status %d, %v", c.name, status, err)
					return
				}
				if status == 200 {
					served[i].Add(1)
					<-goOn
				}
				if _, err := rest(j%25 == 0); err != nil { // that takes its time, for so small a window
					t.Errorf("%s: %v", c.name, err)
				}
			})
		}
	}
	asking.Wait()
	t.Logf("%.0f MiB while all read, %.0f MiB at most", p.memory("VmRSS"), p.memory("VmHWM"))
	if err := newBenchClient(1).send("GET", p.url+"/v2/", nil, nil, 200); err != nil {
		t.Errorf("meanwhile: %v", err)
	}
	close(goOn)
	reading.Wait()
	result := make(map[string]int)
	for i, c := range crowds {
		result[c.name] = int(served[i].Load())
	}
	t.Log(result)
	return result
}
