//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// followed runs berth events, and returns when it listens. What it prints comes by the function, and end ends it.
func (r *registry) followed(args ...string) (shown func() string, end func() error) {
	r.t.Helper()
	before := r.st.events.followers.Load()
	ctx, cancel := context.WithCancel(r.t.Context())
	var out, log logBuffer
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, append([]string{"events", "--data", r.cfg.dir}, args...), os.Environ(), strings.NewReader(""), &out, &log)
	}()
	for deadline := time.Now().Add(time.Minute); r.st.events.followers.Load() == before; time.Sleep(time.Millisecond) {
		select {
		case err := <-done:
			r.t.Fatalf("it ends: %v\n%s", err, &log)
		default:
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("nobody listens:\n%s", &log)
		}
	}
	end = sync.OnceValue(func() error { cancel(); return <-done })
	r.t.Cleanup(func() { end() })
	return func() string { return out.String() + log.String() }, end
}

// until waits for a condition.
func until(t testing.TB, what func() string, met func(string) bool) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		text := what()
		if met(text) {
			return text
		}
		if time.Now().After(deadline) {
			t.Fatalf("it stays so:\n%s", text)
		}
	}
}

func lines(n int) func(string) bool {
	return func(text string) bool { return strings.Count(text, "\n") >= n }
}

func TestFollow(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.listen()
	people, endPeople := r.followed("--repo", "home/**")
	programs, _ := r.followed("--json", "--pulls", "--blobs")
	r.pushImage("other", "1", "{}", "layer")
	im := r.pushImage("home/app", "1", "{}", "layer")
	r.want(200, "GET", "/v2/home/app/manifests/1", nil)
	r.want(202, "DELETE", "/v2/home/app/manifests/1", nil)
	text := until(t, people, lines(2))
	for i, want := range []string{"anonymous pushed home/app:1 (" + shortDigest(im.digest.String()) + ")", "anonymous deleted home/app:1"} {
		if line := strings.Split(text, "\n")[i]; !strings.HasSuffix(line, "  "+want) {
			t.Errorf("line %d is %q, want %q", i, line, want)
		}
	}
	var types []string
	for line := range strings.Lines(until(t, programs, lines(8))) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		types = append(types, e.Type)
	}
	if want := []string{blobPushed, blobPushed, manifestPushed, blobPushed, blobPushed, manifestPushed, manifestPulled, tagDeleted}; !slices.Equal(types, want) {
		t.Errorf("%v, want %v", types, want)
	}
	if n := r.eventRows(); n != 0 || r.server.inFlight.Load() != 0 {
		t.Errorf("%d rows are written for those who follow; %d requests are under way", n, r.server.inFlight.Load())
	}
	if err := endPeople(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
	until(t, func() string { return fmt.Sprint(r.st.events.followers.Load()) }, func(n string) bool { return n == "1" })
}

func TestFollowWithoutAServer(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.off()
	if _, err := runOnce(t, "events", "--data", r.cfg.dir); err == nil || !strings.Contains(err.Error(), "no server is running on "+r.cfg.dir+", so nothing happens there; start it first") {
		t.Error(err)
	}
	r.start()
}

// A follower that does not read is cut off, and no push waits for it.
func TestFollowerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	everything, err := parseRepositories([]string{"**"})
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{repositories: everything, blobs: true}
	r.st.events.listen(t.Context(), f)
	out := &stuck{begun: make(chan struct{}), let: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		done <- followEvents(t.Context(), r.st, options{Blobs: true, JSON: true}, newConsole(out, false))
	}()
	until(t, func() string { return fmt.Sprint(r.st.events.followers.Load()) }, func(n string) bool { return n == "2" })
	r.pushBlob("a", "first")
	<-out.begun
	for i := range maxUnread + 2 { // no more are kept for it
		r.st.events.tell(&event{ID: fmt.Sprint(i), Type: manifestPushed, Action: "push", Repository: "a"})
	}
	r.pushBlob("a", "last") // would never end
	close(out.let)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "too slow") {
		t.Errorf("it ends with %v", err)
	}
	if n := r.st.events.followers.Load(); n != 0 {
		t.Errorf("%d follow", n)
	}
}

// A stuck writer waits in its first write.
type stuck struct {
	once       sync.Once
	begun, let chan struct{}
}

func (w *stuck) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.begun); <-w.let })
	return len(p), nil
}

// A command gets the event as data, and never as a part of what the shell reads.
func TestExec(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.listen()
	dir := t.TempDir()
	shown, end := r.followed("--exec", `cat > `+dir+`/"$BERTH_EVENT_TAG" && echo "$BERTH_EVENT_ACTION $BERTH_EVENT_TYPE $BERTH_EVENT_REPOSITORY $BERTH_EVENT_DIGEST by $BERTH_EVENT_ACTOR"; test "$BERTH_EVENT_TAG" != fails`)
	im := r.pushImage("home/app", "1", "{}", "layer")
	r.want(201, "PUT", "/v2/home/app/manifests/fails", im.manifest, "Content-Type: "+typeOCIManifest)
	r.want(201, "PUT", "/v2/home/app/manifests/3", im.manifest, "Content-Type: "+typeOCIManifest)
	line := "push manifest.pushed home/app " + im.digest.String() + " by anonymous\n"
	text := until(t, shown, func(text string) bool { return strings.Count(text, line) == 3 && strings.Contains(text, "level=ERROR") })
	if !strings.Contains(text, `msg="the command of --exec has failed"`) || !strings.Contains(text, "about=home/app:fails") || strings.Count(text, "level=ERROR") != 1 {
		t.Errorf("it says\n%s", text)
	}
	for _, tag := range []string{"1", "fails", "3"} {
		text, err := os.ReadFile(filepath.Join(dir, tag))
		var e event
		if err != nil || json.Unmarshal(text, &e) != nil || e.Tag != tag || e.Digest != im.digest.String() {
			t.Errorf("%s was given %s, %v", tag, text, err)
		}
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	// A command may call berth: the variables are no flags'.
	if err := run(t.Context(), []string{"events", "check", "--data", r.cfg.dir}, environment{"BERTH_EVENT_TAG=1"}, strings.NewReader(""), io.Discard, io.Discard); err != nil {
		t.Error(err)
	}
}

// The commands for one repository run one after the other, and the shell reads nothing of an event.
func TestExecRunsOneAfterTheOther(t *testing.T) {
	t.Parallel()
	var out logBuffer
	cfg := &config{log: newLog(&out, false, slog.LevelInfo)}
	dir := t.TempDir()
	// Each command fails if another of its repository has not ended.
	cfg.Exec = `cd ` + dir + ` && mkdir "$BERTH_EVENT_REPOSITORY" && echo "$BERTH_EVENT_REPOSITORY $BERTH_EVENT_TAG $BERTH_EVENT_ACTOR" && rmdir "$BERTH_EVENT_REPOSITORY"`
	x := newEventRunner(t.Context(), cfg, &out)
	var text bytes.Buffer
	const actor = "$(touch hurt); `touch hurt`' touch hurt\""
	for i := range 10 {
		for _, name := range []string{"a", "b", "c"} {
			if err := json.NewEncoder(&text).Encode(event{ID: fmt.Sprint(i), Type: manifestPushed, Repository: name, Tag: fmt.Sprint(i), Actor: actor}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for piece := range slices.Chunk(text.Bytes(), 100) {
		if _, err := x.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	x.wait()
	got := make(map[string]int)
	for line := range strings.Lines(out.String()) {
		var name string
		var n int
		if _, err := fmt.Sscanf(line, "%1s %d", &name, &n); err != nil || n != got[name] || !strings.HasSuffix(line, actor+"\n") {
			t.Errorf("%s: want %d next (%v)", line, got[name], err)
		}
		got[name]++
	}
	if len(got) != 3 || got["a"]+got["b"]+got["c"] != 30 || exists(filepath.Join(dir, "hurt")) {
		t.Errorf("%v\n%s", got, &out)
	}
}

func TestEventsCheckAndTest(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint+"secret = \"a secret of the test\"\n", h.http.URL))
	out, err := runOnce(t, "events", "check", "--data", r.cfg.dir)
	if want := "one: push, mount, delete in **, with blobs, to " + h.http.URL + "/… as distribution, signed\n"; err != nil || out != want {
		t.Errorf("check: %v, %q, want %q", err, out, want)
	}
	if err := os.Chmod(filepath.Join(r.cfg.dir, eventsFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := runOnce(t, "events", "check", "--data", r.cfg.dir); err != nil || !strings.Contains(out, "Other users of this machine may read ") {
		t.Errorf("check: %v, %q", err, out)
	}
	out, err = runOnce(t, "events", "test", "one", "--data", r.cfg.dir)
	d := h.next()
	if err != nil || out != "one ("+h.http.URL+"/…) has taken the event "+d.id(t)+"\n" || d.said(t) != "test " || d.header.Get("webhook-id") != d.id(t) {
		t.Errorf("test: %v, %q, %s", err, out, d.body)
	}
	if _, err := runOnce(t, "events", "test", "two", "--data", r.cfg.dir); err == nil || !strings.Contains(err.Error(), "there is no endpoint two in ") {
		t.Error(err)
	}
	h.http.Close()
	if out, err := runOnce(t, "events", "test", "one", "--data", r.cfg.dir); err == nil || !strings.HasPrefix(err.Error(), "one ("+h.http.URL+"/…) did not take the event: ") || strings.Contains(err.Error(), "hidden") {
		t.Errorf("test: %v, %q", err, out)
	}
	for args, want := range map[string]string{"events test": "name the endpoint", "events nonsense": "say check, test ENDPOINT, or nothing", "events --exec=": "--exec: name a command",
		"events --repo A": "--repo: "} {
		if _, err := runOnce(t, append(strings.Fields(args), "--data", r.cfg.dir)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("berth %s: %v", args, err)
		}
	}
}

// Through deaths of the registry, and of what listens, nothing is lost; and what comes twice has
// the same id.
func TestEventsOutliveCrashes(t *testing.T) {
	slow(t)
	t.Parallel()
	h := newHook(t)
	dir := t.TempDir()
	hooked(t, oneEndpoint+"blobs = false\n", h.http.URL)(&config{storeConfig: storeConfig{dirConfig: dirConfig{dir: dir}}})
	down := false // the endpoint takes an event, and dies before it answers
	n := 0
	h.answering(func(w http.ResponseWriter, _ *http.Request, d delivered) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		if n++; down || n%5 == 0 {
			h.got <- d
			panic(http.ErrAbortHandler)
		}
		return true
	})
	var want []string // the order of what was acknowledged; the rest may be there or not
	perhaps := make(map[string]bool)
	push := func(p *process, i int) bool {
		t.Helper()
		config := fmt.Sprint("config ", i)
		im := ociImage(config)
		perhaps[im.digest.String()] = true
		if re, err := p.ask("POST", "/v2/a/blobs/uploads/?digest="+sum(config).String(), strings.NewReader(config)); err != nil || re.status != 201 {
			return false
		}
		re, err := p.ask("PUT", "/v2/a/manifests/latest", strings.NewReader(im.manifest), "Content-Type: "+typeOCIManifest)
		if err != nil || re.status != 201 {
			return false
		}
		want = append(want, im.digest.String())
		return true
	}
	i := 0
	for round := range 6 {
		at := ""
		if round%2 == 1 {
			at = fmt.Sprintf("recorded:%d", 2+round)
		}
		h.mu.Lock()
		down = round == 2
		h.mu.Unlock()
		p := startProcess(t, at, "--data", dir)
		for range 5 {
			if i++; !push(p, i) {
				break
			}
		}
		p.cmd.Process.Kill()
		p.wait()
	}
	h.mu.Lock()
	down = false
	h.mu.Unlock()
	h.answering(nil)
	p := startProcess(t, "", "--data", dir)
	if i++; !push(p, i) {
		t.Fatal("the last push")
	}
	ids := make(map[string]string) // by digest
	var order []string
	for last := ""; last != want[len(want)-1]; {
		d := h.next()
		_, last, _ = strings.Cut(d.said(t), "@")
		if !perhaps[last] {
			t.Errorf("an event of what nobody pushed: %s", d.body)
		}
		if id, again := ids[last]; again && id != d.id(t) {
			t.Errorf("%s comes as %s, and again as %s", last, id, d.id(t))
		} else if !again {
			order = append(order, last)
		}
		ids[last] = d.id(t)
	}
	p.stop(t)
	acknowledged := slices.DeleteFunc(slices.Clone(order), func(d string) bool { return !slices.Contains(want, d) })
	if !slices.Equal(acknowledged, want) {
		t.Errorf("the events are\n%v, want\n%v", acknowledged, want)
	}
}
