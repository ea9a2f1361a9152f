// When tags go: pulls that keep them, drops that are undone, clocks that jump, and
// the loop that does it all.

package main

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const pulledInCI = "[[retain]]\nrepositories = [\"ci\"]\npulled = \"2d\"\n"

// What is pulled stays, by which way it may be.
func TestPulledTagsStay(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(pulledInCI))
	r.freeze()
	pushed := make(map[string]image)
	for _, tag := range []string{"get", "by-digest", "head", "head-digest", "head-soon", "never", "elsewhere"} {
		pushed[tag] = r.pushImage("ci", tag, "{}", tag)
	}
	r.pushImage("other", "elsewhere", "{}", "elsewhere")
	member := ociImage("{}", "get") // without a tag it would go with its index
	member.manifest = strings.Replace(member.manifest, "{", "{ ", 1)
	index, _ := ociIndex(member.manifest, pushed["never"].manifest)
	r.want(201, "PUT", "/v2/ci/manifests/"+sum(member.manifest).String(), member.manifest, "Content-Type: "+typeOCIManifest)
	r.want(201, "PUT", "/v2/ci/manifests/index", index, "Content-Type: "+typeOCIIndex)

	r.moved.Add(int64(retainDelay - time.Second))
	r.want(200, "HEAD", "/v2/ci/manifests/head-soon", nil) // as the client does that has pushed it
	r.moved.Add(int64(24 * time.Hour))
	r.want(200, "GET", "/v2/ci/manifests/get", nil)
	r.want(200, "GET", "/v2/ci/manifests/"+pushed["by-digest"].digest.String(), nil)
	r.want(200, "HEAD", "/v2/ci/manifests/head", nil)
	r.want(200, "HEAD", "/v2/ci/manifests/"+pushed["head-digest"].digest.String(), nil)
	r.want(200, "GET", "/v2/other/manifests/elsewhere", nil)
	r.want(200, "GET", "/v2/ci/manifests/"+sum(member.manifest).String(), nil)
	r.want(304, "GET", "/v2/ci/manifests/never", nil, "If-None-Match: \""+pushed["never"].digest.String()+"\"")
	if got := r.retained("ci"); len(strings.Fields(got)) != 8 {
		t.Fatalf("before its time there are only %s", got)
	}
	r.moved.Add(int64(24*time.Hour - retainDelay/2))
	if got := r.retained("ci"); got != "by-digest get head index never" {
		t.Errorf("a day after pulls there are %s", got)
	}
	r.moved.Add(int64(25 * time.Hour))
	if got := r.retained("ci"); got != "" {
		t.Errorf("two days after pulls there are %s", got)
	}
}

// A pull costs no write, and no sync in any case; it is written down with what is
// written anyway, at the end, and once a day.
func TestPullsOfTagsAreWrittenDownSeldom(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(pulledInCI))
	r.freeze()
	r.moved.Add(int64(time.Minute))
	im := r.pushImage("ci", "x", "{}", "layer")
	written := func() (at int64) {
		t.Helper()
		if err := r.st.get(`SELECT coalesce(max(at), 0) / 3600 FROM pull`, nil, &at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	pull := func(after time.Duration) {
		t.Helper()
		r.moved.Add(int64(after))
		r.want(200, "GET", "/v2/ci/manifests/x", nil)
		r.want(200, "GET", "/v2/ci/manifests/"+im.digest.String(), nil)
	}
	syncs := r.st.writer.syncs.Load()
	for range 24 {
		pull(time.Hour)
	}
	if got := written(); got != 0 {
		t.Errorf("a pull is written down: of hour %d", got)
	}
	pull(time.Hour)
	if got := written(); got != 25 {
		t.Errorf("a day after the first, written down is hour %d, want 25", got)
	}
	pull(time.Hour)
	if got := written(); got != 25 {
		t.Errorf("an hour later, written down is hour %d, want 25", got)
	}
	if n := r.st.writer.syncs.Load() - syncs; n != 0 {
		t.Errorf("pulls have cost %d syncs", n)
	}
	r.want(201, "POST", "/v2/ci/blobs/uploads/?digest="+sum("more").String(), "more")
	if got := written(); got != 26 || r.st.pulls.has(1) {
		t.Errorf("with another write, written down is hour %d, want 26", got)
	}
	pull(time.Hour)
	r.restart()
	r.freeze()
	if got := written(); got != 27 {
		t.Errorf("after a restart, written down is hour %d, want 27", got)
	}
	// An answer tells of what is in memory only, too.
	pull(2 * time.Hour)
	r.moved.Add(int64(47 * time.Hour))
	if re := r.want(200, "GET", "/v2/ci/_berth/retention", nil); !strings.Contains(string(re.body), `"keep":true,"rule":"retain 1","why":"pulled or pushed 47h ago, within 2d"`) {
		t.Errorf("explained: %s", re.body)
	}
	if got := r.retained("ci"); got != "x" {
		t.Errorf("left is %q", got)
	}
}

// A tag that comes back is left alone as long as it could have come back.
func TestDroppedTagsComeBack(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(newestOfCI))
	r.freeze()
	old := r.pushImage("ci/app", "v1", "{}", "old")
	r.pushImage("ci/app", "v2", "{}", "new")
	if got := r.retained("ci/app"); got != "v2" {
		t.Fatalf("left is %s", got)
	}
	list, err := r.st.history("ci/app", "v1", lastOfAll, 1)
	if err != nil || len(list) != 1 || list[0].who != "retention" || list[0].action != "retention" || list[0].why != "by retain 1" || list[0].old != old.digest.String() || list[0].new != "" {
		t.Errorf("the history is %+v, %v", list, err)
	}
	r.pass(r.cfg.untaggedGrace - time.Hour)
	var out strings.Builder
	if err := undoCommand(t.Context(), r.st, options{Args: []string{"ci/app:v1"}}, newConsole(&out, false)); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/v2/ci/app/manifests/v1", nil).is(old.manifest)
	r.pass(r.cfg.untaggedGrace - time.Second)
	if got := r.retained("ci/app"); got != "v1 v2" {
		t.Errorf("left is %s", got)
	}
	due, _, err := r.st.retainer.retain(t.Context(), "")
	if err != nil || due <= 0 || due > 3*time.Second {
		t.Errorf("it is due in %v (%v), want a second or two", due, err)
	}
	r.pass(2 * time.Second)
	if got := r.retained("ci/app"); got != "v2" {
		t.Errorf("after its grace, left is %s", got)
	}
	// It is over when its grace is.
	r.pass(r.cfg.untaggedGrace + time.Minute)
	if err := undoCommand(t.Context(), r.st, options{Args: []string{"ci/app:v1"}}, newConsole(&out, false)); err == nil {
		t.Error("what has gone is back")
	}
}

// What has changed since it was judged stays, until it is judged again.
func TestTagsThatChangeMeanwhileStay(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(newestOfCI))
	r.freeze()
	r.pushImage("ci/app", "v1", "{}", "one")
	r.pushImage("ci/app", "v2", "{}", "two")
	three := r.pushImage("ci/app", "v3", "{}", "three")
	r.pushImage("ci/app", "v4", "{}", "four")
	r.pushImage("ci/app", "v5", "{}", "five")
	rules, err := r.st.host.rulesNow()
	if err != nil {
		t.Fatal(err)
	}
	verdicts, err := r.st.retainer.judge(t.Context(), "ci/app", rules)
	if err != nil {
		t.Fatal(err)
	}
	r.moved.Add(int64(time.Second))
	r.pushImage("ci/app", "v1", "{}", "another")
	r.want(200, "GET", "/v2/ci/app/manifests/v2", nil)
	r.want(201, "PUT", "/v2/ci/app/manifests/v3", three.manifest, "Content-Type: "+typeOCIManifest)
	if n, err := r.st.retainer.dropTags("ci/app", rules, verdicts[:4]); err != nil || n != 1 {
		t.Errorf("%d tags have gone, want 1: %v", n, err)
	}
	if got := r.tags("ci/app"); got != "v1 v2 v3 v5" {
		t.Errorf("left is %s", got)
	}
	// With an index its parts stay.
	writeRules(r.cfg.dir, newestOfCI+"[[index]]\nrepositories = [\"**\"]\nfrom = [\"suffix\"]\n")
	r.pushImage("ci/b", "w-amd64", platformImage("amd64", ""), "one")
	r.pushImage("ci/b", "w-arm64", platformImage("arm64", ""), "two")
	r.pushImage("ci/b", "x", "{}", "three")
	if rules, err = r.st.host.rulesNow(); err != nil {
		t.Fatal(err)
	}
	if verdicts, err = r.st.retainer.judge(t.Context(), "ci/b", rules); err != nil {
		t.Fatal(err)
	}
	r.moved.Add(int64(time.Second))
	r.want(200, "GET", "/v2/ci/b/manifests/w", nil)
	if n, err := r.st.retainer.dropTags("ci/b", rules, verdicts[:3]); err != nil || n != 0 {
		t.Errorf("%d tags have gone, want none: %v", n, err)
	}
	if got := r.tags("ci/b"); got != "w w-amd64 w-arm64 x" {
		t.Errorf("left is %s", got)
	}
}

// The wall clock may be in 2000, and then in our time again: the ages of tags are
// those that the registry has counted.
func TestClockJumpsDropNoTags(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[retain]]\nrepositories = [\"**\"]\nyounger = \"2d\"\n[[retain]]\nrepositories = [\"**\"]\npulled = \"2d\"\n"))
	before := r.pushImage("a", "before", "{}", "layer")
	r.stop()
	synctest.Test(t, func(t *testing.T) { // where it is midnight in 2000
		if time.Now().Year() != 2000 {
			t.Fatalf("it is %v", time.Now())
		}
		s := startQuietly(t, r.cfg)
		s.do(200, "GET", "/v2/a/manifests/before", "")
		s.do(201, "PUT", "/v2/a/manifests/in2000", before.manifest)
		if next, _, err := s.st.retainer.retain(t.Context(), ""); err != nil || next < 47*time.Hour || next > 49*time.Hour {
			t.Errorf("in 2000, the next is due in %v (%v), want two days", next, err)
		}
		s.stop()
	})
	r.start()
	if got := r.retained("a"); got != "before in2000" {
		t.Errorf("after the jumps, left is %s", got)
	}
	r.moved.Add(int64(49 * time.Hour))
	if got := r.retained("a"); got != "" {
		t.Errorf("two days later, left is %s", got)
	}
}

// A quietServer is a server without a network, in a bubble where time jumps to the
// next timer as soon as all goroutines wait.
type quietServer struct {
	t     *testing.T
	st    *store
	wakes atomic.Int64 // whoever wakes asks for the uptime
	do    func(want int, method, path, body string)
	stop  func()
}

func startQuietly(t *testing.T, cfg config) *quietServer {
	t.Helper()
	q := &quietServer{t: t}
	opened := time.Now()
	cfg.now = func() time.Duration { q.wakes.Add(1); return time.Since(opened) }
	var err error
	if q.st, err = openStore(cfg.storeConfig); err != nil {
		t.Fatal(err)
	}
	s, err := newServer(q.st, cfg.serverConfig)
	if err != nil {
		t.Fatal(err)
	}
	handler := s.handler()
	ctx, stop := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	for _, loop := range q.st.loops() {
		loops.Go(func() { loop(ctx) })
	}
	q.do = func(want int, method, path, body string) {
		t.Helper()
		req := httptest.NewRequest(method, path, strings.NewReader(body))
		req.Header.Set("Content-Type", typeOCIManifest)
		re := httptest.NewRecorder()
		handler.ServeHTTP(re, req)
		if re.Code != want {
			t.Errorf("%s %s = %d, want %d: %s", method, path, re.Code, want, re.Body)
		}
	}
	q.stop = func() {
		stop()
		loops.Wait()
		if err := q.st.close(); err != nil {
			t.Error(err)
		}
	}
	return q
}

// after lets time pass.
func (q *quietServer) after(d time.Duration) {
	time.Sleep(d) // in a bubble, so it takes none
	synctest.Wait()
}

// push pushes an image with one layer.
func (q *quietServer) push(tag, layer string) {
	q.t.Helper()
	for _, content := range []string{layer, "{}"} {
		q.do(201, "POST", "/v2/a/blobs/uploads/?digest="+sum(content).String(), content)
	}
	q.do(201, "PUT", "/v2/a/manifests/"+tag, ociImage("{}", layer).manifest)
}

// The rules are applied when something may be due, an hour apart, and at no other
// time.
func TestRetentionRunsByItself(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[retain]]\nrepositories = [\"a\"]\nyounger = \"2d\"\n"))
	r.stop()
	r.cfg.scrubEvery = 0
	synctest.Test(t, func(t *testing.T) {
		q := startQuietly(t, r.cfg)
		defer q.stop()
		is := func(tags string) {
			t.Helper()
			for _, tag := range []string{"x", "y", "v1", "v2", "v3"} {
				want := 404
				if slices.Contains(strings.Fields(tags), tag) {
					want = 200
				}
				q.do(want, "HEAD", "/v2/a/manifests/"+tag, "")
			}
		}
		q.push("x", "one")
		q.after(36 * time.Hour)
		q.push("y", "two")
		q.after(12*time.Hour - time.Minute)
		is("x y")
		q.after(2 * time.Minute)
		is("y")
		q.after(36 * time.Hour)
		is("")

		// Until other rules have been there for some minutes, nothing goes.
		writeRules(r.cfg.dir, "[[retain]]\nrepositories = [\"a\"]\nnewest = 2\n")
		q.push("v1", "one")
		q.push("v2", "two")
		q.push("v3", "three")
		q.after(retainDelay - time.Second)
		is("v1 v2 v3")
		q.after(time.Hour)
		is("v2 v3")
		q.push("v1", "one")
		q.after(retainDelay - time.Second)
		is("v1 v2 v3")
		q.after(2 * time.Second)
		is("v2 v3")
		q.push("v1", "one") // at once after that it takes an hour
		q.after(retainEvery - 2*time.Second)
		is("v1 v2 v3")
		q.after(2 * time.Second)
		is("v2 v3")

		// When all has gone that goes, nothing wakes up any more, or writes.
		q.after(30 * 24 * time.Hour)
		woken, log := q.wakes.Load(), modified(t, r.cfg.dir)
		q.after(30 * 24 * time.Hour)
		if n := q.wakes.Load() - woken; n != 0 {
			t.Errorf("in 30 idle days something woke up %d times", n)
		}
		if now := modified(t, r.cfg.dir); now != log {
			t.Errorf("in 30 idle days something was written: %s, %s before", now, log)
		}

		// A mistake in the rules keeps the old ones, and without any nothing goes.
		writeRules(r.cfg.dir, "[[retain]]\nrepositories = [\"a\"]\n")
		q.after(time.Hour)
		writeRules(r.cfg.dir, "[[immutable]]\nrepositories = [\"other\"]\n")
		q.push("v1", "one")
		q.after(100 * time.Hour)
		is("v1 v2 v3")
	})
	r.start()
}

// modified tells when the database was written the last time, and how long it is.
func modified(t *testing.T, dir string) (all string) {
	t.Helper()
	for _, name := range []string{"berth.db", "berth.db-wal"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all += fmt.Sprint(name, " ", info.ModTime().UnixNano(), " ", info.Size(), " ")
	}
	return all
}
