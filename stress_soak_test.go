//go:build unix

// A registry without any grace, in use.
//
// Clients push, pull, mount, tag, delete, sign and index, each in a repository
// of its own and all with some of the same contents, while the registry
// collects as fast as it can, is told to collect more, and is killed now and
// then. Its clock runs a thousand times too fast, so that promises (gc.go) run
// out in a second. What has to be true all the time:
//
//   - What a tag leads to is there, whole and unchanged: the manifest, its
//     blobs, an index's members, what has it as its subject.
//   - No push fails for want of a blob that its client was told of less than
//     promiseTime ago.
//   - In the end what is live is on the disk, and nothing else.
//
// A client that gets no answer, because the registry died over it, asks again
// until it has one; so at any time it knows what has to be there.
//
// No machine is too slow for this: a client counts from before it asks until it has the
// answer, which is no less time than passed for the registry in between. If that was more
// than promiseTime, nothing was promised, and the client begins anew; it gives up when the
// soak is over.
//
//	go test -run Soak -soak.time 10m .

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

var (
	soakTime = flag.Duration("soak.time", 6*time.Second, "how long to soak")
	soakSeed = flag.Uint64("soak.seed", 0, "seed of what the clients do; 0 for any")
)

// soakVariable makes the test binary a registry (serveVariable is set too)
// whose clock runs too fast.
const (
	soakVariable = "BERTH_TEST_SOAK"
	soakSpeed    = 1000
)

func init() {
	if os.Getenv(soakVariable) == "" {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, err := parseConfig("serve", os.Args[1:], noEnv, os.Stderr)
	if err == nil {
		begun := time.Now()
		cfg.now = func() time.Duration { return soakSpeed * time.Since(begun) }
		err = serve(ctx, cfg, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "berth:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A soak is a registry that dies and comes again, and what its clients share.
type soak struct {
	t      *testing.T
	dir    string
	args   []string
	base   *soakManifest // in the repository base, for ever
	shared []string
	over   atomic.Bool // the clients shall end

	mu      sync.Mutex // guards the rest
	changed sync.Cond
	process *process // nil while there is none

	pushes, late, collected atomic.Int64
}

// alive waits for a registry other than the dead one.
func (s *soak) alive(dead *process) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.process == nil || s.process == dead {
		s.changed.Wait()
	}
	return s.process
}

// set says which registry there is now.
func (s *soak) set(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = p
	s.changed.Broadcast()
}

// is reports whether the registry is still this one.
func (s *soak) is(p *process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process == p
}

// try asks once. The error is errDied if the registry was killed over it.
func (s *soak) try(method, path, body string, headers ...string) (*reply, error) {
	p := s.alive(nil)
	re, err := p.ask(method, "/v2/"+path, strings.NewReader(body), headers...)
	if err == nil {
		return re, nil
	}
	for range 1000 { // what is killed is so noted just before
		if !s.is(p) {
			return nil, errDied
		}
		if _, e := p.ask("GET", "/v2/", nil); e == nil {
			break
		}
	}
	return nil, fmt.Errorf("%s %.200s: %w, and nobody has killed it", method, path, err)
}

// do asks until there is an answer, which must be one of those wanted.
func (s *soak) do(method, path, body string, headers []string, want ...int) (*reply, error) {
	for {
		re, err := s.try(method, path, body, headers...)
		if errors.Is(err, errDied) {
			continue
		}
		if err == nil && !slices.Contains(want, re.status) {
			err = fmt.Errorf("%.200s = %d, want %v\n%.300s", re.request, re.status, want, re.body)
		}
		return re, err
	}
}

// A soakManifest is a manifest with all that it keeps alive.
type soakManifest struct {
	body, mediaType string
	blobs           []string
	members         []*soakManifest
	referrers       []*soakManifest
	born            time.Time
}

func (m *soakManifest) digest() digest.Digest { return sum(m.body) }

// all returns m and what it keeps.
func (m *soakManifest) all() []*soakManifest {
	list := []*soakManifest{m}
	for _, x := range slices.Concat(m.members, m.referrers) {
		list = append(list, x.all()...)
	}
	return list
}

// errOver is of a push that came too late again and again until the end of the soak.
var errOver = errors.New("the soak is over")

// A soaker is one client.
type soaker struct {
	*soak
	repo   string
	rng    *rand.Rand
	serial int
	tags   map[string]*soakManifest
	dead   []string // blobs of images that were deleted
}

// pushBlob makes sure that the repository has a blob, in one of the ways of
// clients, and returns since when that was known.
func (c *soaker) pushBlob(content string) (since time.Time, err error) {
	d := sum(content).String()
	for {
		since = time.Now()
		done, err := c.tryBlob(content, d)
		if done || err != nil && !errors.Is(err, errDied) {
			return since, err
		}
	}
}

func (c *soaker) tryBlob(content, d string) (done bool, err error) {
	// created tells of the last answer.
	created := func(re *reply, err error) (bool, error) {
		if err == nil && re.status != 201 {
			err = fmt.Errorf("%.200s = %d, want 201\n%.300s", re.request, re.status, re.body)
		}
		return err == nil, err
	}
	// goOn is try for a session's next request. The error is errDied, too, if the
	// session may have been idle for so long that it was collected.
	sent := time.Now()
	goOn := func(method, path, body string) (*reply, error) {
		before := sent
		sent = time.Now()
		re, err := c.try(method, path, body)
		if err == nil && re.status == 404 && time.Since(before) >= (idleNow-time.Second)/soakSpeed {
			err = errDied
		}
		return re, err
	}
	uploads := c.repo + "/blobs/uploads/"
	n := c.rng.IntN(6)
	switch {
	case n == 0:
		re, err := c.try("HEAD", c.repo+"/blobs/"+d, "")
		if err != nil || re.status == 200 {
			return err == nil, err
		}
		fallthrough
	case n == 1:
		return created(c.try("POST", uploads+"?digest="+d, content))
	}
	query := ""
	if n == 2 { // from a neighbour, who may have it
		query = fmt.Sprintf("?from=client%d/app&mount=%s", c.rng.IntN(6), d)
	}
	re, err := c.try("POST", uploads+query, "")
	if err != nil {
		return false, err
	}
	if re.status == 201 && n == 2 {
		return true, nil
	}
	if re.status != 202 {
		return false, fmt.Errorf("%.200s = %d, want 202\n%.300s", re.request, re.status, re.body)
	}
	p := c.alive(nil)
	location := strings.TrimPrefix(re.location(), "/v2/")
	var chunks []string
	switch n {
	case 4: // as docker does
		chunks = []string{content}
	case 5:
		chunks = []string{content[:len(content)/3], content[len(content)/3:]}
	}
	for _, chunk := range chunks {
		re, err := goOn("PATCH", location, chunk)
		if err != nil {
			return false, err
		}
		if re.status != 202 {
			return false, fmt.Errorf("%.200s = %d, want 202\n%.300s", re.request, re.status, re.body)
		}
	}
	last := content
	if len(chunks) > 0 {
		last = ""
	}
	re, err = goOn("PUT", location+"?digest="+d, last)
	if err == nil && re.status == 404 && !c.is(p) {
		return false, errDied // it had ended with the answer lost
	}
	return created(re, err)
}

// mount takes a blob from the base, where it always is.
func (c *soaker) mount(content string) (since time.Time, err error) {
	since = time.Now()
	_, err = c.do("POST", c.repo+"/blobs/uploads/?from=base&mount="+sum(content).String(), "", nil, 201)
	return since, err
}

// put pushes a manifest that needs what was known since then. done is false if
// that was too long ago.
func (c *soaker) put(m *soakManifest, reference string, since time.Time) (done bool, err error) {
	c.pushes.Add(1)
	re, err := c.do("PUT", c.repo+"/manifests/"+cmp.Or(reference, m.digest().String()), m.body, []string{"Content-Type: " + m.mediaType}, 201, 404)
	if err != nil || re.status == 201 {
		return err == nil, err
	}
	if age := time.Since(since) * soakSpeed; age < promiseTime {
		return false, fmt.Errorf("what a push needs was known %v ago, and is gone: %s\n%.500s", age, m.body, re.body)
	}
	c.late.Add(1)
	return false, nil
}

// image returns a new image that has these layers and the subject, if any.
func (c *soaker) image(subject *soakManifest, layers ...string) *soakManifest {
	c.serial++
	config := fmt.Sprintf(`{"by":%q,"n":%d}`, c.repo, c.serial)
	more := ""
	if subject != nil {
		more = `,"subject":` + descriptorJSON(subject.mediaType, subject.body)
	}
	im := newImage(typeOCIManifest, "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar", more, config, layers...)
	return &soakManifest{body: im.manifest, mediaType: typeOCIManifest, blobs: append(layers, config), born: time.Now()}
}

// push pushes a new image under a reference, "" for its digest. Blobs that are
// known since the given time are not sent.
func (c *soaker) push(reference string, subject *soakManifest, known []string, since time.Time) (m *soakManifest, err error) {
	own := noise(c.rng.Uint64(), 10+c.rng.IntN(5000))
	shared := c.shared[c.rng.IntN(len(c.shared))]
	layers := append(slices.Clone(known), own, shared)
	if len(c.dead) > 0 && c.rng.IntN(2) == 0 { // what is being deleted comes again
		layers = append(layers, c.dead[c.rng.IntN(len(c.dead))])
	}
	slices.Sort(layers)
	layers = slices.Compact(layers)
	mounted := c.base.blobs[c.rng.IntN(len(c.base.blobs))]
	m = c.image(subject, append(layers, mounted)...)
	for !c.over.Load() {
		first := time.Now()
		if !since.IsZero() {
			first = since
		}
		for _, content := range m.blobs {
			var err error
			switch {
			case !since.IsZero() && slices.Contains(known, content):
			case content == mounted:
				_, err = c.mount(content)
			default:
				_, err = c.pushBlob(content)
			}
			if err != nil {
				return nil, err
			}
		}
		done, err := c.put(m, reference, first)
		if done || err != nil {
			return m, err
		}
		since = time.Time{} // too late: so all once more
	}
	return nil, errOver
}

// audit pulls what a tag leads to.
func (c *soaker) audit(tag string) error {
	if err := c.pull(tag, c.tags[tag]); err != nil {
		return fmt.Errorf("what tag %s of %s leads to: %w", tag, c.repo, err)
	}
	return nil
}

func (c *soaker) pull(reference string, m *soakManifest) error {
	re, err := c.do("GET", c.repo+"/manifests/"+reference, "", nil, 200)
	if err != nil {
		return err
	}
	if string(re.body) != m.body {
		return fmt.Errorf("manifest %s has other bytes", reference)
	}
	for _, content := range m.blobs {
		re, err := c.do("GET", fmt.Sprint(c.repo, "/blobs/", sum(content)), "", nil, 200)
		if err != nil {
			return err
		}
		if string(re.body) != content {
			return fmt.Errorf("blob %s has other bytes", sum(content))
		}
	}
	if len(m.referrers) > 0 {
		re, err := c.do("GET", fmt.Sprint(c.repo, "/referrers/", m.digest()), "", nil, 200)
		if err != nil {
			return err
		}
		for _, x := range m.referrers {
			if !bytes.Contains(re.body, []byte(x.digest())) {
				return fmt.Errorf("referrer %s is not listed", x.digest())
			}
		}
	}
	for _, x := range slices.Concat(m.members, m.referrers) {
		if err := c.pull(x.digest().String(), x); err != nil {
			return err
		}
	}
	return nil
}

// some returns one of the client's tags, "" if it has none.
func (c *soaker) some() string {
	tags := slices.Sorted(maps.Keys(c.tags))
	if len(tags) == 0 {
		return ""
	}
	return tags[c.rng.IntN(len(tags))]
}

// oldest returns the tag of what was pushed first: nothing of it is promised
// any more, as a rule.
func (c *soaker) oldest() (oldest string) {
	for tag, m := range c.tags {
		if oldest == "" || m.born.Before(c.tags[oldest].born) {
			oldest = tag
		}
	}
	return oldest
}

// delete takes away a tag, or the manifest with all its tags.
func (c *soaker) delete(tag string) error {
	m := c.tags[tag]
	for _, x := range m.all() {
		c.dead = append(c.dead, x.blobs...)
	}
	c.dead = c.dead[max(0, len(c.dead)-20):]
	if c.rng.IntN(2) == 0 {
		if _, err := c.do("DELETE", c.repo+"/manifests/"+tag, "", nil, 202, 404); err != nil {
			return err
		}
		delete(c.tags, tag)
		return nil
	}
	re, err := c.do("DELETE", fmt.Sprint(c.repo, "/manifests/", m.digest()), "", nil, 202, 403, 404)
	if err != nil || re.status == 403 { // a member of a live index
		return err
	}
	maps.DeleteFunc(c.tags, func(_ string, x *soakManifest) bool { return x == m })
	_, err = c.do("GET", c.repo+"/manifests/"+tag, "", nil, 404)
	return err
}

// each calls fn with all contents at once.
func (c *soaker) each(contents []string, fn func(string) error) error {
	errs := make([]error, len(contents))
	var wg sync.WaitGroup
	for i, content := range contents {
		wg.Go(func() { errs[i] = fn(content) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *soaker) step() error {
	tag := fmt.Sprint("t", c.rng.IntN(24))
	old := c.some()
	switch n := c.rng.IntN(12); {
	case n < 2 || old == "": // an image, in place of another perhaps
		m, err := c.push(tag, nil, nil, time.Time{})
		if err != nil {
			return err
		}
		c.tags[tag] = m
		return c.audit(tag)
	case n < 4: // an index whose members come first, by digest
		index := &soakManifest{mediaType: typeOCIIndex, born: time.Now()}
		for !c.over.Load() {
			since := time.Now()
			index.members = nil
			var bodies []string
			for range 2 {
				m, err := c.push("", nil, nil, time.Time{})
				if err != nil {
					return err
				}
				index.members = append(index.members, m)
				bodies = append(bodies, m.body)
			}
			index.body, _ = ociIndex(bodies...)
			done, err := c.put(index, tag, since)
			if err != nil {
				return err
			}
			if done {
				c.tags[tag] = index
				return c.audit(tag)
			}
		}
		return errOver
	case n < 5: // an index of a live image, which then has no tag of its own
		old = c.oldest()
		member := c.tags[old]
		since := time.Now()
		if _, err := c.do("HEAD", fmt.Sprint(c.repo, "/manifests/", member.digest()), "", nil, 200); err != nil {
			return err
		}
		if _, err := c.do("DELETE", c.repo+"/manifests/"+old, "", nil, 202, 404); err != nil {
			return err
		}
		delete(c.tags, old)
		index := &soakManifest{mediaType: typeOCIIndex, members: []*soakManifest{member}, born: time.Now()}
		c.serial++ // every manifest is another
		index.body = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s],"annotations":{"n":"%d"}}`,
			typeOCIIndex, descriptorJSON(member.mediaType, member.body), c.serial)
		if len(index.all()) > 8 { // enough of indexes in indexes
			return nil
		}
		done, err := c.put(index, tag, since)
		if done {
			c.tags[tag] = index
		}
		return err
	case n < 6: // a signature
		subject := c.tags[old]
		m, err := c.push("", subject, nil, time.Time{})
		if err != nil {
			return err
		}
		subject.referrers = append(subject.referrers, m)
		return c.audit(old)
	case n < 8: // layers of an image that goes are those of the next
		old = c.oldest()
		blobs := c.tags[old].blobs
		blobs = blobs[:min(len(blobs), 4)]
		since := time.Now()
		for _, content := range blobs {
			if _, err := c.do("HEAD", fmt.Sprint(c.repo, "/blobs/", sum(content)), "", nil, 200); err != nil {
				return err
			}
		}
		if err := c.delete(old); err != nil {
			return err
		}
		next, err := c.push(tag, nil, blobs, since)
		if err != nil {
			return err
		}
		c.tags[tag] = next
		return c.audit(tag)
	case n < 9: // another tag for the same
		m := c.tags[old]
		if _, err := c.do("PUT", c.repo+"/manifests/"+tag, m.body, []string{"Content-Type: " + m.mediaType}, 201); err != nil {
			return err
		}
		c.tags[tag] = m
		return nil
	case n < 10: // blobs go, and come again at once
		var contents []string
		for i := range 8 {
			contents = append(contents, fmt.Sprint(c.repo, " blob ", i))
		}
		return errors.Join(
			c.each(contents, func(content string) error {
				_, err := c.do("POST", fmt.Sprint(c.repo, "/blobs/uploads/?digest=", sum(content)), content, nil, 201)
				return err
			}),
			c.each(contents, func(content string) error {
				_, err := c.do("DELETE", fmt.Sprint(c.repo, "/blobs/", sum(content)), "", nil, 202, 404)
				return err
			}),
			c.each(contents, func(content string) error {
				since := time.Now()
				_, err := c.do("POST", fmt.Sprint(c.repo, "/blobs/uploads/?digest=", sum(content)), content, nil, 201)
				if err != nil {
					return err
				}
				re, err := c.do("GET", fmt.Sprint(c.repo, "/blobs/", sum(content)), "", nil, 200, 404)
				if err == nil && (re.status == 404 || string(re.body) != content) && time.Since(since)*soakSpeed < promiseTime {
					err = fmt.Errorf("%s just after its push = %d %.300q", re.request, re.status, re.body)
				}
				return err
			}))
	case n < 11:
		return c.delete(old)
	default:
		return c.audit(old)
	}
}

// command runs `berth NAME` in a registry that lives. It is not an error that
// the registry dies over it.
func (s *soak) command(o options) error {
	p := s.alive(nil)
	var out bytes.Buffer
	cfg := &config{options: o}
	cfg.dir = s.dir
	done, err := askServer(s.t.Context(), cfg, &out)
	if !done || !s.is(p) { // it does not listen yet, or not any more
		return nil
	}
	if err != nil {
		return fmt.Errorf("berth %s: %w\n%s", o.Command, err, &out)
	}
	if bytes.Contains(out.Bytes(), []byte("left over")) {
		return fmt.Errorf("berth check, beside pushes:\n%s", &out)
	}
	if o.Command == "gc" && !o.DryRun {
		var c tally
		if err := json.Unmarshal(out.Bytes(), &c); err != nil {
			return fmt.Errorf("gc says %q: %w", &out, err)
		}
		s.collected.Add(int64(c.Blobs))
	}
	return nil
}

func TestSoak(t *testing.T) {
	slow(t)
	alone(t, "processes are told by its environment what they are")
	seed := cmp.Or(*soakSeed, rand.Uint64())
	t.Logf("-soak.seed %d", seed)
	t.Setenv(soakVariable, "1")
	s := &soak{t: t, dir: diskDir(t)}
	s.changed.L = &s.mu
	s.args = []string{"--data", s.dir, "--grace", "0", "--untagged-grace", "1s", "--log-level", "warn"}
	for i := range 5 {
		s.shared = append(s.shared, noise(uint64(i), 2000))
	}
	rng := rand.New(rand.NewPCG(seed, 0))

	s.set(startProcess(t, "", s.args...))
	base := &soaker{soak: s, repo: "base", rng: rng, tags: make(map[string]*soakManifest)}
	var layers []string
	for i := range 20 {
		layers = append(layers, fmt.Sprint("base layer ", i))
	}
	s.base = base.image(nil, layers...)
	for done := false; !done; {
		since := time.Now()
		for _, content := range s.base.blobs {
			if _, err := base.pushBlob(content); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if done, err = base.put(s.base, "x", since); err != nil {
			t.Fatal(err)
		}
	}
	base.tags["x"] = s.base
	clients := []*soaker{base}
	for i := range 5 {
		clients = append(clients, &soaker{soak: s, repo: fmt.Sprintf("client%d/app", i), tags: make(map[string]*soakManifest),
			rng: rand.New(rand.NewPCG(seed, uint64(1+i)))})
	}

	var working sync.WaitGroup
	work := func(fn func() error) {
		working.Go(func() {
			for !s.over.Load() {
				if err := fn(); err != nil && err != errOver {
					t.Error(err)
					s.over.Store(true)
				}
			}
		})
	}
	for _, c := range clients[1:] {
		work(c.step)
	}
	turn := 0
	work(func() error {
		turn++
		if turn%20 == 0 {
			return s.command(options{Command: "check"})
		}
		return s.command(options{Command: "gc", Now: true, JSON: true, DryRun: turn%10 == 0})
	})
	end := time.Now().Add(*soakTime)
	for lives := 0; time.Now().Before(end) && !s.over.Load(); lives++ {
		p := s.alive(nil)
		select {
		case <-time.After(min(time.Until(end), 1500*time.Millisecond+time.Duration(rng.Int64N(int64(1500*time.Millisecond))))):
		case <-t.Context().Done():
		}
		s.set(nil)
		p.cmd.Process.Kill()
		p.wait()
		s.set(startProcess(t, "", s.args...))
	}
	s.over.Store(true)
	working.Wait()
	for _, c := range clients {
		for tag := range c.tags {
			if err := c.audit(tag); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("%d pushes, of which %d came too late; %d blobs collected by command", s.pushes.Load(), s.late.Load(), s.collected.Load())
	if s.late.Load() > s.pushes.Load()/2 {
		t.Log("this machine is too slow for the clock's speed: little was tested")
	}

	// left compares the disk with what is live, when nothing is promised.
	left := func() {
		t.Helper()
		s.alive(nil).stop(t)
		live := make(map[digest.Digest]int64)
		for _, c := range clients {
			for _, m := range c.tags {
				for _, x := range m.all() {
					for _, content := range x.blobs {
						live[sum(content)] = int64(len(content))
					}
				}
			}
		}
		out, err := runOnce(t, append([]string{"gc", "--now", "--upload-expiry", "1ns"}, s.args...)...)
		if err != nil {
			t.Errorf("gc: %v\n%s", err, out)
		}
		if got := blobFiles(t, s.dir); !maps.Equal(got, live) {
			t.Errorf("%d files of blobs, want %d\n%s", len(got), len(live), out)
		}
		if dirs, _ := filepath.Glob(filepath.Join(s.dir, "blobs", "*", "*", "*")); len(dirs) != len(live) {
			t.Errorf("%d directories of blobs, want %d", len(dirs), len(live))
		}
		if files, _ := filepath.Glob(filepath.Join(s.dir, "uploads", "*")); len(files) != 0 {
			t.Errorf("uploads have left %v", files)
		}
		out, err = runOnce(t, "check", "--deep", "--data", s.dir)
		if err != nil || strings.Contains(out, "left over") {
			t.Errorf("check: %v\n%s", err, out)
		}
	}
	left()
	s.set(startProcess(t, "", s.args...))
	for _, c := range clients {
		for tag := range c.tags {
			if _, err := c.do("DELETE", c.repo+"/manifests/"+tag, "", nil, 202); err != nil {
				t.Error(err)
			}
			delete(c.tags, tag)
		}
	}
	left()
}
