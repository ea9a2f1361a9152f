//go:build unix

// What a crash may not take.
//
// The test binary runs itself as the registry, under load from several
// clients, and dies by SIGKILL at a named point of a write (see store.at), or
// when the clients have had so many answers. Then the same directory is served
// again, and everything that was acknowledged must be there: each client keeps
// a ledger of what it was told, and audits it. At last the registry is stopped
// as an operator would, and the directory checked.
//
// What was asked for and never answered may be there or not; the audit finds
// out which, and holds the registry to that from then on. So the ledgers grow
// over all crashes of one directory.
//
// This shows what the death of the process costs, not a power cut: the kernel
// lives on and writes all it was given.
//
//	go test -run Crash -crash.rounds 50 .

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

var crashRounds = flag.Int("crash.rounds", 1, "how often to crash at each point")

// serveVariable makes the test binary a registry. Its value is where that dies:
// "placed:3" is the third time that a write gets there; "" is nowhere.
const serveVariable = "BERTH_TEST_SERVE"

// mainVariable makes the test binary berth itself.
const mainVariable = "BERTH_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" {
		os.Unsetenv(mainVariable) // which is no flag's
		main()
		return
	}
	if at, ok := os.LookupEnv(serveVariable); ok {
		nextVersion()
		if err := serveUntil(at, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "berth:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	runBeside()
	removeMemory := useMemory()
	status := m.Run()
	removeProgram()
	removeMemory()
	os.Exit(status)
}

// itself is the path of the test binary, which need not have been started by one that
// leads there from every directory.
func itself(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// serveUntil is main with a death.
func serveUntil(at string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, err := parseConfig("serve", args, os.Environ(), os.Stderr)
	if err != nil {
		return err
	}
	cfg.noPromises = cfg.grace < time.Second
	if point, n, ok := strings.Cut(at, ":"); ok {
		left, err := strconv.ParseInt(n, 10, 64)
		if err != nil {
			return err
		}
		var visits atomic.Int64
		cfg.at = func(p string) {
			if p == point && visits.Add(1) == left {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // the kernel is on its way
			}
		}
	}
	return serve(ctx, cfg, os.Stdout)
}

// A process is a registry in a process of its own.
type process struct {
	cmd    *exec.Cmd
	url    string
	stderr logBuffer
	client *http.Client
	wait   func() error // for its end
}

// startProcess serves a directory. It dies at the named point; at "" it lives.
func startProcess(t testing.TB, at string, args ...string) *process {
	t.Helper()
	return startProcessBy(t, exec.Command(itself(t)), at, args...)
}

// startProcessBy is startProcess by a command that serves with more arguments.
func startProcessBy(t testing.TB, cmd *exec.Cmd, at string, args ...string) *process {
	t.Helper()
	p := &process{cmd: cmd}
	p.cmd.Args = append(append(p.cmd.Args, args...), "--addr", "127.0.0.1:0")
	p.cmd.Env = append(os.Environ(), serveVariable+"="+at)
	if p.cmd.Stderr == nil {
		p.cmd.Stderr = &p.stderr
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	p.wait = sync.OnceValue(func() error {
		defer p.client.CloseIdleConnections()
		return p.cmd.Wait()
	})
	t.Cleanup(func() {
		p.cmd.Process.Kill() // does nothing if it has ended
		p.wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	m := regexp.MustCompile(` on (https?://\S+)\n`).FindStringSubmatch(line)
	if m == nil {
		p.wait()
		t.Fatalf("the registry does not start: it says %q (%v)\n%s", line, err, &p.stderr)
	}
	p.url = m[1]
	return p
}

// stop ends the registry as an operator does.
func (p *process) stop(t testing.TB) {
	t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Errorf("the registry's end: %v\n%s", err, &p.stderr)
	}
}

// ask sends a request. An error means that the registry died over it.
func (p *process) ask(method, path string, body io.Reader, headers ...string) (*reply, error) {
	req, err := http.NewRequest(method, p.url+path, body)
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		req.Header.Set(key, value)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &reply{request: method + " " + path, status: resp.StatusCode, header: resp.Header, body: data}, nil
}

// What a client knows of a thing that it pushed.
type knowledge int

const (
	maybe   knowledge = iota // asked for and not answered, or left to the collector
	present                  // acknowledged
	gone                     // its removal was acknowledged
)

// A ledger is what one client was told. A client has a repository to itself;
// the blobs of others have the same bytes now and then.
type ledger struct {
	t         testing.TB
	repo      string
	patient   bool // nothing is collected during the test
	rng       *rand.Rand
	serial    int
	contents  map[digest.Digest]string // of every blob and manifest ever begun
	images    map[digest.Digest]image
	blobs     map[digest.Digest]knowledge
	manifests map[digest.Digest]knowledge
	tags      map[string]tagged
	sessions  map[string]*session // by location
	answers   *atomic.Int64       // of all clients
}

type tagged struct {
	knowledge
	at digest.Digest // what it points at; if it may have been moved, from here
}

// A session is an upload that was begun.
type session struct {
	content string // what it will be
	offset  int    // acknowledged
	closing bool   // a PUT was sent and not answered
}

func newLedger(t testing.TB, i int, patient bool, seed uint64, answers *atomic.Int64) *ledger {
	return &ledger{
		t: t, repo: fmt.Sprintf("client%d/app", i), patient: patient, answers: answers,
		rng:       rand.New(rand.NewPCG(seed, uint64(i))),
		contents:  make(map[digest.Digest]string),
		images:    make(map[digest.Digest]image),
		blobs:     make(map[digest.Digest]knowledge),
		manifests: make(map[digest.Digest]knowledge),
		tags:      make(map[string]tagged),
		sessions:  make(map[string]*session),
	}
}

// errDied ends a client's work: the registry is no more.
var errDied = errors.New("the registry died")

// do asks for something that can only succeed, or answer one of the other
// statuses.
func (l *ledger) do(p *process, method, path string, body io.Reader, want int, others ...int) (int, string, error) {
	re, err := p.ask(method, "/v2/"+l.repo+path, body, "Content-Type: "+typeOCIManifest)
	if err != nil {
		return 0, "", errDied
	}
	l.answers.Add(1)
	if re.status != want && !slices.Contains(others, re.status) {
		return 0, "", fmt.Errorf("%.200s = %d, want %d %v\n%.300s", re.request, re.status, want, others, re.body)
	}
	return re.status, strings.TrimPrefix(re.location(), "/v2/"+l.repo), nil
}

// work pushes and deletes until the registry dies, or enough is true.
func (l *ledger) work(p *process, enough func() bool) error {
	for !enough() {
		if err := l.step(p); err != nil {
			if errors.Is(err, errDied) {
				return nil
			}
			return err
		}
	}
	return nil
}

// step pushes an image, and sometimes takes something away.
func (l *ledger) step(p *process) error {
	l.serial++
	shared := noise(uint64(l.rng.IntN(6)), 2000)
	own := noise(l.rng.Uint64(), 10+l.rng.IntN(1<<(4+l.rng.IntN(15))))
	config := fmt.Sprintf(`{"by":%q,"n":%d}`, l.repo, l.serial)
	for _, content := range []string{shared, own, config} {
		if err := l.pushBlob(p, content); err != nil {
			return err
		}
	}
	im := ociImage(config, shared, own)
	if err := l.pushManifest(p, fmt.Sprint("v", l.rng.IntN(4)), im); err != nil {
		return err
	}
	switch l.rng.IntN(6) {
	case 0:
		if err := l.deleteManifest(p, im); err != nil {
			return err
		}
		for _, d := range []digest.Digest{im.config, im.layers[0], im.layers[1]} {
			if err := l.deleteBlob(p, d); err != nil {
				return err
			}
		}
	case 1:
		return l.deleteTag(p, fmt.Sprint("v", l.rng.IntN(4)))
	case 2:
		return l.beginUpload(p, noise(l.rng.Uint64(), 3000))
	}
	return nil
}

func (l *ledger) pushBlob(p *process, content string) error {
	d := sum(content)
	l.contents[d] = content
	if l.blobs[d] != present {
		l.blobs[d] = maybe
	}
	query := "?digest=" + d.String()
	switch l.rng.IntN(3) {
	case 0: // one POST
		if _, _, err := l.do(p, "POST", "/blobs/uploads/"+query, strings.NewReader(content), 201); err != nil {
			return err
		}
	case 1: // POST and PUT
		_, location, err := l.do(p, "POST", "/blobs/uploads/", nil, 202)
		if err != nil {
			return err
		}
		l.sessions[location] = &session{content: content, closing: true}
		if _, _, err := l.do(p, "PUT", location+query, strings.NewReader(content), 201); err != nil {
			return err
		}
		delete(l.sessions, location)
	case 2: // chunks
		_, location, err := l.do(p, "POST", "/blobs/uploads/", nil, 202)
		if err != nil {
			return err
		}
		s := &session{content: content}
		l.sessions[location] = s
		for s.offset < len(content) {
			n := min(10+len(content)/3, len(content)-s.offset)
			if _, _, err := l.do(p, "PATCH", location, strings.NewReader(content[s.offset:s.offset+n]), 202); err != nil {
				return err
			}
			s.offset += n
		}
		s.closing = true
		if _, _, err := l.do(p, "PUT", location+query, nil, 201); err != nil {
			return err
		}
		delete(l.sessions, location)
	}
	l.blobs[d] = present
	return nil
}

// beginUpload leaves a session open in the middle.
func (l *ledger) beginUpload(p *process, content string) error {
	_, location, err := l.do(p, "POST", "/blobs/uploads/", nil, 202)
	if err != nil {
		return err
	}
	s := &session{content: content}
	l.sessions[location] = s
	for range l.rng.IntN(3) {
		if _, _, err := l.do(p, "PATCH", location, strings.NewReader(content[s.offset:s.offset+1000]), 202); err != nil {
			return err
		}
		s.offset += 1000
	}
	return nil
}

func (l *ledger) pushManifest(p *process, tag string, im image) error {
	l.images[im.digest] = im
	l.contents[im.digest] = im.manifest
	before := l.tags[tag]
	l.manifests[im.digest] = maybe
	l.tags[tag] = tagged{maybe, before.at}
	status, _, err := l.do(p, "PUT", "/manifests/"+tag, strings.NewReader(im.manifest), 201, 404)
	if err != nil {
		return err
	}
	if status == 404 { // a blob was collected before it was referred to
		if l.patient {
			return fmt.Errorf("a manifest's blobs were acknowledged, and are missing: %s", im.manifest)
		}
		l.tags[tag] = before
		return nil
	}
	l.manifests[im.digest] = present
	l.tags[tag] = tagged{present, im.digest}
	return nil
}

func (l *ledger) deleteTag(p *process, tag string) error {
	before := l.tags[tag]
	l.tags[tag] = tagged{maybe, before.at}
	status, _, err := l.do(p, "DELETE", "/manifests/"+tag, nil, 202, 404)
	if err != nil {
		return err
	}
	if status == 404 && before.knowledge == present {
		return fmt.Errorf("tag %s was acknowledged, and is not there", tag)
	}
	l.tags[tag] = tagged{knowledge: gone}
	return nil
}

// deleteManifest deletes an image's manifest, with its tags.
func (l *ledger) deleteManifest(p *process, im image) error {
	affected := make(map[string]tagged)
	for tag, x := range l.tags {
		if x.at == im.digest {
			affected[tag] = tagged{gone, ""}
			l.tags[tag] = tagged{maybe, x.at}
		}
	}
	known := l.manifests[im.digest]
	l.manifests[im.digest] = maybe
	for _, d := range append(im.layers, im.config) {
		if !l.used(d) && l.blobs[d] == present {
			l.blobs[d] = maybe // hidden with it, unless a manifest is there of which that is not known
		}
	}
	status, _, err := l.do(p, "DELETE", "/manifests/"+im.digest.String(), nil, 202, 404)
	if err != nil {
		return err
	}
	if status == 404 && known == present {
		return fmt.Errorf("manifest %s was acknowledged, and is not there", im.digest)
	}
	l.manifests[im.digest] = gone
	maps.Copy(l.tags, affected)
	return nil
}

func (l *ledger) deleteBlob(p *process, d digest.Digest) error {
	known, others := l.blobs[d], []int{202, 404}
	if l.used(d) {
		others = nil
	} else {
		l.blobs[d] = maybe
	}
	status, _, err := l.do(p, "DELETE", "/blobs/"+d.String(), nil, 403, others...)
	if err != nil {
		return err
	}
	switch {
	case status == 404 && known == present && l.patient:
		return fmt.Errorf("blob %s was acknowledged, and is not there", d)
	case status == 403: // another image has it
		l.blobs[d] = known
	default:
		l.blobs[d] = gone
	}
	return nil
}

// used reports whether a manifest surely has a blob: one that is there, and is not the collector's.
func (l *ledger) used(d digest.Digest) bool {
	manifests, _ := l.mustBe()
	for m, known := range manifests {
		if known == present && slices.Contains(append(l.images[m].layers, l.images[m].config), d) {
			return true
		}
	}
	return false
}

// mustBe reports what the ledger says that a collector leaves: a patient one
// all, any other what a tag leads to.
func (l *ledger) mustBe() (manifests, blobs map[digest.Digest]knowledge) {
	manifests, blobs = maps.Clone(l.manifests), maps.Clone(l.blobs)
	if l.patient {
		return manifests, blobs
	}
	for _, known := range []map[digest.Digest]knowledge{manifests, blobs} {
		for d, k := range known {
			if k == present {
				known[d] = maybe
			}
		}
	}
	for _, x := range l.tags {
		if x.knowledge == present {
			manifests[x.at] = present
			im := l.images[x.at]
			for _, d := range append(im.layers, im.config) {
				blobs[d] = present
			}
		}
	}
	return manifests, blobs
}

// audit compares the ledger with the registry, and notes what it finds where
// it did not know.
func (l *ledger) audit(p *process) error {
	var problems []error
	look := func(what string, known knowledge, path string) (knowledge, *reply, error) {
		re, err := p.ask("GET", "/v2/"+l.repo+path, nil)
		if err != nil {
			return 0, nil, err
		}
		switch {
		case re.status == 404 && known == present:
			problems = append(problems, fmt.Errorf("%s was acknowledged, and is lost", what))
			return gone, re, nil
		case re.status == 200 && known == gone:
			problems = append(problems, fmt.Errorf("the removal of %s was acknowledged, and it is there", what))
			return present, re, nil
		case re.status == 200:
			return present, re, nil
		case re.status == 404:
			return gone, re, nil
		}
		return known, re, fmt.Errorf("%s = %d\n%s", re.request, re.status, re.body)
	}
	manifests, blobs := l.mustBe()
	for _, c := range []struct {
		kind         string
		must, ledger map[digest.Digest]knowledge
	}{{"manifest", manifests, l.manifests}, {"blob", blobs, l.blobs}} {
		for d, known := range c.must {
			found, re, err := look(fmt.Sprint(c.kind, " ", d), known, fmt.Sprintf("/%ss/%s", c.kind, d))
			if err != nil {
				return err
			}
			if found == present && string(re.body) != l.contents[d] {
				problems = append(problems, fmt.Errorf("%s %s has wrong bytes", c.kind, d))
			}
			c.ledger[d] = found
		}
	}
	for tag, x := range l.tags {
		found, re, err := look("tag "+tag, x.knowledge, "/manifests/"+tag)
		if err != nil {
			return err
		}
		if found != present {
			l.tags[tag] = tagged{knowledge: found}
			continue
		}
		at := sum(string(re.body))
		if x.knowledge == present && at != x.at {
			problems = append(problems, fmt.Errorf("tag %s is at %s, it was acknowledged at %s", tag, at, x.at))
		}
		if l.contents[at] != string(re.body) {
			problems = append(problems, fmt.Errorf("tag %s leads to bytes that nobody pushed", tag))
		}
		l.tags[tag] = tagged{present, at}
		l.manifests[at] = present
		// Whatever a tag leads to is whole.
		im := l.images[at]
		for _, d := range append(im.layers, im.config) {
			if l.blobs[d] != present {
				problems = append(problems, fmt.Errorf("tag %s leads to a manifest whose blob %s is missing", tag, d))
			}
		}
	}
	for location, s := range l.sessions {
		if err := l.resume(p, location, s); err != nil {
			problems = append(problems, err)
		}
		delete(l.sessions, location)
	}
	return errors.Join(problems...)
}

// resume goes on with a session where the registry says, to its end.
func (l *ledger) resume(p *process, location string, s *session) error {
	re, err := p.ask("GET", "/v2/"+l.repo+location, nil)
	if err != nil {
		return err
	}
	if re.status == 404 && s.closing {
		return nil // it had ended: the audit has looked at the blob
	}
	if re.status != 204 {
		return fmt.Errorf("a session that was acknowledged: %s = %d\n%s", re.request, re.status, re.body)
	}
	_, last, _ := strings.Cut(re.header.Get("Range"), "-")
	n, err := strconv.Atoi(last)
	if err != nil {
		return err
	}
	if n > 0 { // "0-0" means nothing here: nobody stops after one byte
		n++
	}
	// If the registry has the blob already, a PUT that was not answered may have
	// moved the bytes away: into its place, where the next PUT of it would go.
	if n < s.offset && !(s.closing && n == 0) {
		return fmt.Errorf("a session has %d bytes, %d were acknowledged", n, s.offset)
	}
	if n > len(s.content) {
		return fmt.Errorf("a session has %d bytes, %d were sent", n, len(s.content))
	}
	if n < len(s.content) {
		re, err = p.ask("PATCH", "/v2/"+l.repo+location, strings.NewReader(s.content[n:]),
			fmt.Sprintf("Content-Range: %d-%d", n, len(s.content)-1))
		if err != nil {
			return err
		}
		if re.status != 202 {
			return fmt.Errorf("resuming at %d: %s = %d\n%s", n, re.request, re.status, re.body)
		}
	}
	d := sum(s.content)
	re, err = p.ask("PUT", "/v2/"+l.repo+location+"?digest="+d.String(), nil)
	if err != nil {
		return err
	}
	if re.status != 201 {
		return fmt.Errorf("finishing a session resumed at %d: %s = %d\n%s", n, re.request, re.status, re.body)
	}
	re, err = p.ask("GET", "/v2/"+l.repo+"/blobs/"+d.String(), nil)
	if err != nil {
		return err
	}
	l.contents[d], l.blobs[d] = s.content, present
	switch {
	case re.status == 200 && string(re.body) == s.content:
		return nil
	case re.status == 404 && !l.patient: // collected already
		return nil
	}
	return fmt.Errorf("a session resumed at %d and finished: %s = %d with %d bytes, want %d", n, re.request, re.status, len(re.body), len(s.content))
}

// crash serves dir until it dies at a point, or at "" when the clients have
// had so many answers, and then lets them see what is left.
func crash(t *testing.T, ledgers []*ledger, point string, n int, args ...string) {
	t.Helper()
	at := ""
	if point != "" {
		at = fmt.Sprint(point, ":", n)
	}
	answers := ledgers[0].answers
	answers.Store(0)
	p := startProcess(t, at, args...)
	const tooMany = 20000
	var once sync.Once
	enough := func() bool {
		had := answers.Load()
		if point == "" && had >= int64(n) {
			once.Do(func() { p.cmd.Process.Kill() }) // while others wait for their answers
		}
		return had > tooMany
	}
	together(t, len(ledgers), func(i int) error { return ledgers[i].work(p, enough) })
	if answers.Load() > tooMany {
		t.Fatalf("%d answers, and no crash at %q", answers.Load(), at)
	}
	var exit *exec.ExitError
	if err := p.wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("at %q the registry ended by itself: %v\n%s", at, err, &p.stderr)
	}

	p = startProcess(t, "", args...)
	together(t, len(ledgers), func(i int) error { return ledgers[i].audit(p) })
	p.stop(t)
	if t.Failed() {
		t.Fatalf("after a crash at %s, visit %d", cmp.Or(point, "no point"), n)
	}
}

// A point is where to crash, at a visit up to this one; "" is nowhere in
// particular, after so many answers.
type point struct {
	name   string
	visits int
}

// Every crash of a series hits the same directory.
func TestCrashLosesNothingAcknowledged(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, series := range []struct {
		name   string
		points []point
		args   []string
	}{
		{"patient", []point{{"synced", 40}, {"renamed", 40}, {"placed", 40}, {"recorded", 40}, {"syncing", 1}, {"", 400}}, nil},
		{"patient, with --sync=image", []point{{"synced", 10}, {"renamed", 40}, {"placed", 40}, {"recorded", 40}, {"syncing", 1}, {"", 400}}, []string{"--sync", "image"}},
		// Grace counts in whole seconds: once in one, everything loose is due.
		{"collecting", []point{{"collecting", 3}, {"unlinked", 20}, {"", 400}},
			[]string{"--grace", "1ns", "--untagged-grace", "1ns"}},
	} {
		t.Run(series.name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			dir := diskDir(t)
			args := append(series.args, "--data", dir, "--log-level", "warn")
			answers := new(atomic.Int64)
			var ledgers []*ledger
			for i := range 5 {
				ledgers = append(ledgers, newLedger(t, i, strings.HasPrefix(series.name, "patient"), seed, answers))
			}
			for range *crashRounds {
				for _, p := range series.points {
					crash(t, ledgers, p.name, 1+rng.IntN(p.visits), args...)
				}
			}
			openDirectory(t, dir) // and check it
		})
	}
}

// A crash between a file's final name and its row, then a client that goes on
// with other bytes than before: what others pull by that digest must not change.
func TestSessionAfterACrashCannotReachALiveBlob(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, damaged := range []bool{false, true} { // true: the row's file was lost before
		dir := diskDir(t)
		content := strings.Repeat("0123456789", 300)
		d := sum(content).String()
		uploads := "/v2/other/blobs/uploads/"
		p := startProcess(t, "", "--data", dir)
		if re, err := p.ask("POST", "/v2/victim/blobs/uploads/?digest="+d, strings.NewReader(content)); err != nil || re.status != 201 {
			t.Fatal(re, err)
		}
		p.stop(t)
		if damaged {
			hex := sum(content).Encoded()
			if err := os.Remove(filepath.Join(dir, "blobs", "sha256", hex[:2], hex, "data")); err != nil {
				t.Fatal(err)
			}
		}
		p = startProcess(t, "renamed:1", "--data", dir)
		re, err := p.ask("POST", uploads, nil)
		if err != nil {
			t.Fatal(err)
		}
		location := re.location()
		if re, err := p.ask("PATCH", location, strings.NewReader(content[:2000])); err != nil || re.status != 202 {
			t.Fatal(re, err)
		}
		if re, err := p.ask("PUT", location+"?digest="+d, strings.NewReader(content[2000:])); err == nil {
			t.Fatalf("it does not die: %d", re.status)
		}
		p.wait()

		p = startProcess(t, "", "--data", dir)
		for _, x := range []string{"evil", strings.Repeat("evil", 1000)} {
			if _, err := p.ask("PATCH", location, strings.NewReader(x)); err != nil {
				t.Fatal(err)
			}
		}
		if re, err := p.ask("GET", "/v2/victim/blobs/"+d, nil); err != nil || re.status != 200 || string(re.body) != content {
			t.Errorf("the blob others have: %v, %v", re, err)
		}
		if _, err := p.ask("PUT", location+"?digest="+d, nil); err != nil {
			t.Fatal(err)
		}
		if re, err := p.ask("GET", "/v2/victim/blobs/"+d, nil); err != nil || re.status != 200 || string(re.body) != content {
			t.Errorf("the blob others have, after the session's end: %v, %v", re, err)
		}
		p.stop(t)
	}
}
