package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// A delivered event is a request that an endpoint has got.
type delivered struct {
	header http.Header
	body   []byte
}

// said returns an event of an envelope in short: its action, and what it is about.
func (d delivered) said(t testing.TB) string {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(d.body, &e); err != nil || len(e.Events) != 1 {
		t.Fatalf("%v: %s", err, d.body)
	}
	n := e.Events[0]
	text := n.Action + " " + n.Target.Repository
	if n.Target.Tag != "" {
		text += ":" + n.Target.Tag
	}
	if n.Target.Digest != "" {
		text += "@" + n.Target.Digest
	}
	return text
}

func (d delivered) id(t testing.TB) string {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(d.body, &e); err != nil || len(e.Events) != 1 {
		t.Fatalf("%v: %s", err, d.body)
	}
	return e.Events[0].ID
}

// A hook is an endpoint under test.
type hook struct {
	t    testing.TB
	http *httptest.Server
	got  chan delivered // what was answered 2xx
	wait time.Duration  // for the next

	mu     sync.Mutex                                                     // guards the rest
	answer func(w http.ResponseWriter, r *http.Request, d delivered) bool // false if it has written another answer; nil takes all
	asked  int
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	d := delivered{r.Header.Clone(), body}
	h.mu.Lock()
	answer := h.answer
	h.asked++
	h.mu.Unlock()
	if answer == nil || answer(w, r, d) {
		h.got <- d
	}
}

func (h *hook) answering(answer func(w http.ResponseWriter, r *http.Request, d delivered) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

func (h *hook) requests() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

// next returns the next event that has arrived.
func (h *hook) next() delivered {
	h.t.Helper()
	select {
	case d := <-h.got:
		return d
	case <-time.After(h.wait):
		h.t.Fatal("no event has come")
		return delivered{}
	}
}

// wants insists on the next events, as said has them.
func (h *hook) wants(want ...string) {
	h.t.Helper()
	for _, w := range want {
		if got := h.next().said(h.t); got != w {
			h.t.Errorf("the event is %q, want %q", got, w)
		}
	}
}

// quiet insists that no more have come than were asked for.
func (h *hook) quiet() {
	h.t.Helper()
	select {
	case d := <-h.got:
		h.t.Errorf("one event too many: %s", d.body)
	default:
	}
}

func newHook(t testing.TB) *hook {
	h := &hook{t: t, got: make(chan delivered, 1<<14), wait: time.Minute}
	h.http = httptest.NewServer(h)
	t.Cleanup(h.http.Close)
	return h
}

// hooked is an option that writes events.toml; %s in it are the values.
func hooked(t testing.TB, text string, values ...any) func(*config) {
	return func(c *config) {
		if err := os.WriteFile(filepath.Join(c.dir, eventsFile), fmt.Appendf(nil, text, values...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const oneEndpoint = "[[endpoint]]\nname = \"one\"\nurl = \"%s/hook?token=hidden\"\n"

// sendEvents has the registry send its events until stop is called, or the test ends.
func (r *registry) sendEvents() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s := r.server.sender
	go func() { s.run(ctx); close(done) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	r.t.Cleanup(stop)
	return stop
}

// noted waits until the registry has taken note that so many events have arrived.
func (r *registry) noted(n int64) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); r.st.events.figures()[0].sent < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not %d events have arrived: %v", n, r.st.events.figures())
		}
	}
}

// eventRows are those of a store's queue.
func (r *registry) eventRows() (n int) {
	r.t.Helper()
	if err := r.st.get(`SELECT count(*) FROM event`, nil, &n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func TestEventsAreInDistributionsEnvelope(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint, h.http.URL), guarded("", "ann"))
	r.sendEvents()
	ann := basic("ann", "ann-secret")
	blob := sum("layer")
	r.want(201, "POST", "/v2/home/app/blobs/uploads/?digest="+blob.String(), "layer", ann, "User-Agent: tester/1")
	r.want(201, "POST", "/v2/other/blobs/uploads/?mount="+blob.String()+"&from=home/app", nil, ann)
	r.want(201, "POST", "/v2/home/app/blobs/uploads/?digest="+sum("{}").String(), "{}", ann)
	im := ociImage("{}", "layer")
	push := r.want(201, "PUT", "/v2/home/app/manifests/1", im.manifest, ann, "Content-Type: "+typeOCIManifest, "User-Agent: tester/1")

	first := h.next()
	if got := first.header.Get("Content-Type"); got != "application/vnd.docker.distribution.events.v2+json" {
		t.Errorf("its type is %s", got)
	}
	h.wants("mount other@"+blob.String(), "push home/app@"+sum("{}").String())
	d := h.next()
	var got map[string]any
	if err := json.Unmarshal(d.body, &got); err != nil {
		t.Fatal(err)
	}
	e := got["events"].([]any)[0].(map[string]any)
	if !isUUID(e["id"].(string)) {
		t.Errorf("its id is %v", e["id"])
	}
	if at, err := time.Parse(time.RFC3339, e["timestamp"].(string)); err != nil || time.Since(at).Abs() > time.Hour {
		t.Errorf("its time is %v", e["timestamp"])
	}
	source := e["source"].(map[string]any)
	if host, _ := os.Hostname(); source["addr"] != host || !isUUID(source["instanceID"].(string)) {
		t.Errorf("its source is %v", source)
	}
	request := e["request"].(map[string]any)
	if addr := request["addr"].(string); !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Errorf("its client is at %s", addr)
	}
	for _, key := range []string{"id", "timestamp", "source"} {
		delete(e, key)
	}
	delete(request, "addr")
	host := strings.TrimPrefix(r.http.URL, "http://")
	want := map[string]any{"action": "push", "actor": map[string]any{"name": "ann"},
		"request": map[string]any{"id": push.header.Get("X-Request-Id"), "host": host, "method": "PUT", "useragent": "tester/1"},
		"target": map[string]any{"mediaType": typeOCIManifest, "digest": im.digest.String(), "size": float64(len(im.manifest)), "length": float64(len(im.manifest)),
			"repository": "home/app", "url": r.http.URL + "/v2/home/app/manifests/" + im.digest.String(), "tag": "1"}}
	if a, b := asJSON(t, e), asJSON(t, want); a != b {
		t.Errorf("the event is\n%s, want\n%s", a, b)
	}

	// Again, which moves nothing, and by digest; a tag of two; then all goes.
	r.want(201, "PUT", "/v2/home/app/manifests/1", im.manifest, ann, "Content-Type: "+typeOCIManifest)
	r.want(201, "PUT", "/v2/home/app/manifests/"+im.digest.String(), im.manifest, ann, "Content-Type: "+typeOCIManifest)
	r.want(201, "PUT", "/v2/home/app/manifests/2", im.manifest, ann, "Content-Type: "+typeOCIManifest)
	r.want(202, "DELETE", "/v2/home/app/manifests/2", nil, ann)
	r.want(202, "DELETE", "/v2/home/app/manifests/"+im.digest.String(), nil, ann)
	r.want(202, "DELETE", "/v2/other/blobs/"+blob.String(), nil, ann)
	r.want(404, "DELETE", "/v2/home/app/manifests/2", nil, ann)
	r.want(202, "DELETE", "/v2/home/app/_berth/repository", nil, ann)
	at := "@" + im.digest.String()
	h.wants("push home/app:1"+at, "push home/app"+at, "push home/app:2"+at, "delete home/app:2", "delete home/app:1", "delete home/app"+at,
		"delete other@"+blob.String(), "delete home/app")
	h.quiet()
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestEventsAreCloudEvents(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint+"format = \"cloudevents\"\nactions = [\"push\", \"delete\", \"pull\"]\nrepositories = [\"home/**\", \"!home/secret\"]\n", h.http.URL),
		func(c *config) { c.auth.publicURL = "https://hub.example.org" })
	r.sendEvents()
	r.pushImage("home/secret", "1", "{}", "layer")
	r.pushImage("elsewhere", "1", "{}", "layer")
	old := r.pushImage("home/app", "1", "{}", "old")
	im := r.pushImage("home/app", "1", "{}", "new")
	r.want(200, "GET", "/v2/home/app/manifests/1", nil)
	r.want(200, "HEAD", "/v2/home/app/manifests/1", nil)
	r.want(202, "DELETE", "/v2/home/app/manifests/1", nil)
	for i, want := range []struct{ kind, subject, previous, url string }{
		{"manifest.pushed", "home/app:1", "", "https://hub.example.org/v2/home/app/manifests/" + old.digest.String()},
		{"manifest.pushed", "home/app:1", old.digest.String(), "https://hub.example.org/v2/home/app/manifests/" + im.digest.String()},
		{"manifest.pulled", "home/app:1", "", "https://hub.example.org/v2/home/app/manifests/" + im.digest.String()},
		{"tag.deleted", "home/app:1", im.digest.String(), ""},
	} {
		d := h.next()
		var e struct {
			SpecVersion, ID, Source, Type, Subject, Time, DataContentType string
			Data                                                          event
		}
		if err := json.Unmarshal(d.body, &e); err != nil {
			t.Fatal(err)
		}
		if d.header.Get("Content-Type") != "application/cloudevents+json; charset=utf-8" || e.SpecVersion != "1.0" || e.DataContentType != "application/json" ||
			e.Type != "io.github.berth-registry."+want.kind || e.Subject != want.subject || e.ID != e.Data.ID || e.Data.Previous != want.previous ||
			e.Data.URL != want.url || !strings.HasPrefix(e.Source, "//") {
			t.Errorf("event %d is %s, want %v", i, d.body, want)
		}
		if _, err := time.Parse(time.RFC3339Nano, e.Time); err != nil {
			t.Error(err)
		}
	}
	h.quiet()
}

// What commands, rules and undo do is told, too, and an index of the registry's.
func TestEventsOfCommandsRulesAndUndo(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint+"blobs = false\n", h.http.URL), ruled(fromSameTagRule+"[[retain]]\nrepositories = [\"ci/**\"]\nnewest = 1\n"))
	r.sendEvents()
	im := r.pushImage("home/app", "1", "{}", "layer")
	at := "@" + im.digest.String()
	h.wants("push home/app:1" + at)
	change := func(name string, args ...string) {
		t.Helper()
		if out, err := runOnceOn(t, r.st, name, args...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	change("tag", "home/app:1", "2")
	h.wants("push home/app:2" + at)
	change("undo", "2")
	h.wants("delete home/app:2")
	change("rm", "home/app"+at)
	h.wants("delete home/app:1", "delete home/app"+at)
	change("undo", "home/app"+at)
	h.wants("push home/app"+at, "push home/app:1"+at)
	change("tag", "home/app:1", "0")
	change("rm", "home/app")
	change("undo", "home/app", "--as", "home/back")
	h.wants("push home/app:0"+at, "delete home/app", "push home/back:0"+at, "push home/back:1"+at)

	old := r.pushImage("ci/app", "1", "{}", "one")
	r.pushImage("ci/app", "2", "{}", "two")
	h.wants("push ci/app:1@" + old.digest.String())
	h.next()
	r.moved.Add(int64(2 * time.Hour))
	if left := r.retained("ci/app"); left != "2" {
		t.Errorf("retention has left %s", left)
	}
	d := h.next()
	if said := d.said(t); said != "delete ci/app:1" || !strings.Contains(string(d.body), `"actor":{"name":"retention by `) {
		t.Errorf("the event of retention is %s", d.body)
	}
	h.quiet()
}

func TestEventsOfAnIndexOfTheRegistrys(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint+"blobs = false\n", h.http.URL), ruled(fromSameTagRule))
	r.sendEvents()
	amd := r.pushImage("home/app", "1", platformImage("amd64", "x"), "one")
	arm := r.pushImage("home/app", "1", platformImage("arm64", "x"), "two")
	index := r.want(200, "GET", "/v2/home/app/manifests/1", nil, "Accept: "+typeOCIIndex).has("Content-Type", typeOCIIndex)
	h.wants("push home/app:1@"+amd.digest.String(), "push home/app@"+arm.digest.String(), "push home/app:1@"+digest.FromBytes(index.body).String())
	h.quiet()
}

// Where nobody listens nothing is written; and whoever listens costs no commit more.
func TestEventsCostNothing(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	syncs := func(options ...func(*config)) int64 {
		t.Helper()
		r := startRegistry(t, options...)
		r.sendEvents()
		r.pushImage("home/app", "0", "{}", "zero")
		before := r.st.writer.syncs.Load()
		for i := range 10 {
			r.pushImage("home/app", "1", "{}", fmt.Sprint("layer ", i))
		}
		r.want(202, "DELETE", "/v2/home/app/manifests/1", nil)
		return r.st.writer.syncs.Load() - before
	}
	none := syncs()
	some := syncs(hooked(t, oneEndpoint, h.http.URL))
	if none != some {
		t.Errorf("%d durable commits without an endpoint, %d with one", none, some)
	}
	for range 3 + 10*3 + 1 {
		h.next()
	}
	r := startRegistry(t, hooked(t, oneEndpoint+"repositories = [\"other\"]\n", h.http.URL))
	r.pushImage("home/app", "1", "{}", "layer")
	if n := r.eventRows(); n != 0 || r.st.events.last != 0 {
		t.Errorf("%d rows for nobody, the last number %d", n, r.st.events.last)
	}
	h.quiet()
}

// What has arrived is deleted along with the next commit.
func TestDeliveriesRideAlong(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint, h.http.URL))
	stop := r.sendEvents()
	r.pushBlob("a", "one")
	h.next()
	r.noted(1)
	stop()
	before := r.st.writer.syncs.Load()
	if n := r.eventRows(); n != 1 {
		t.Errorf("%d rows, want that of the event that has arrived", n)
	}
	r.pushBlob("a", "two")
	if n := r.eventRows(); n != 1 || r.st.writer.syncs.Load() != before+1 {
		t.Errorf("%d rows, want that of the second event; %d durable commits", n, r.st.writer.syncs.Load()-before)
	}
	stop = r.sendEvents()
	h.next()
	r.noted(2)
	stop()
	r.restart()
	if n := r.eventRows(); n != 0 {
		t.Errorf("%d rows after an ordinary end", n)
	}
	r.sendEvents()
	r.pushBlob("a", "three")
	h.wants("push a@" + sum("three").String())
	h.quiet()
}

// Whoever listens learns of a repository's changes in their order, whatever its answers.
func TestEventsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	inEventBubble(t, oneEndpoint+"blobs = false\n", func(t *testing.T, r *registry, h *hook, _ func(bool)) {
		const repositories, pushes = 4, 10
		tries := 0
		h.answering(func(w http.ResponseWriter, _ *http.Request, _ delivered) bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			if tries++; tries%3 != 0 {
				w.WriteHeader([]int{400, 500, 503, 429}[tries%4])
				return false
			}
			return true
		})
		var all sync.WaitGroup
		for i := range repositories {
			for j := range 2 {
				all.Go(func() {
					for k := range pushes {
						config := fmt.Sprint(i, j, k)
						im := ociImage(config)
						r.try("POST", fmt.Sprintf("/v2/r%d/blobs/uploads/?digest=%s", i, sum(config)), config)
						if re, err := r.try("PUT", fmt.Sprintf("/v2/r%d/manifests/latest", i), im.manifest, "Content-Type: "+typeOCIManifest); err != nil || re.status != 201 {
							t.Errorf("%v %v", re, err)
						}
					}
				})
			}
		}
		all.Wait()
		got := make(map[string][]string)
		for range repositories * 2 * pushes {
			name, d, _ := strings.Cut(strings.TrimPrefix((<-h.got).said(t), "push "), "@")
			got[name] = append(got[name], d)
		}
		for i := range repositories {
			name := fmt.Sprint("r", i)
			list, err := r.st.history(name, "", lastOfAll, 1000)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, x := range slices.Backward(list) {
				want = append(want, x.new)
			}
			if !slices.Equal(got[name+":latest"], want) {
				t.Errorf("%s: the events are\n%v, the history\n%v", name, got[name+":latest"], want)
			}
		}
	})
}

// Independent vectors: of the specification of Standard Webhooks, and of GitHub's documentation.
func TestEventsAreSigned(t *testing.T) {
	t.Parallel()
	p := &endpoint{secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	if err := p.readSecret("", ""); err != nil {
		t.Fatal(err)
	}
	header := make(http.Header)
	p.sign(header, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got := header.Get("webhook-signature"); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("by Standard Webhooks: %s", got)
	}
	(&endpoint{secret: "It's a Secret to Everybody"}).sign(header, "", time.Now(), []byte("Hello, World!"))
	if got := header.Get("X-Hub-Signature-256"); got != "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17" {
		t.Errorf("as GitHub: %s", got)
	}

	h := newHook(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a secret of the test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startRegistry(t, hooked(t, oneEndpoint+"secret-file = %q\n[endpoint.headers]\nAuthorization = \"Bearer hidden\"\n", h.http.URL, secret))
	r.sendEvents()
	r.pushBlob("a", "one")
	d := h.next()
	mac := hmac.New(sha256.New, []byte("a secret of the test"))
	mac.Write([]byte(d.id(t) + "." + d.header.Get("webhook-timestamp") + "."))
	mac.Write(d.body)
	hub := hmac.New(sha256.New, []byte("a secret of the test"))
	hub.Write(d.body)
	if d.header.Get("webhook-id") != d.id(t) || d.header.Get("webhook-signature") != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) ||
		d.header.Get("X-Hub-Signature-256") != "sha256="+hex.EncodeToString(hub.Sum(nil)) || d.header.Get("Authorization") != "Bearer hidden" {
		t.Errorf("signed wrongly: %v", d.header)
	}
	for _, word := range []string{"hidden", "a secret"} {
		if strings.Contains(r.log.String(), word) || strings.Contains(string(r.server.allMetrics(t.Context())), word) {
			t.Errorf("a secret is told:\n%s", r.log)
		}
	}
}

// A redirect is not followed: the operator has named one address, and no other.
func TestRedirectsOfEndpointsAreNotFollowed(t *testing.T) {
	t.Parallel()
	other := newHook(t)
	h := newHook(t)
	h.answering(func(w http.ResponseWriter, r *http.Request, _ delivered) bool {
		http.Redirect(w, r, other.http.URL+"/private", http.StatusTemporaryRedirect)
		return false
	})
	r := startRegistry(t, hooked(t, oneEndpoint, h.http.URL))
	r.sendEvents()
	r.pushBlob("a", "one")
	said := r.logs("redirects are not followed: put the address that it means into events.toml (it is at " + other.http.URL + ")")
	if other.requests() > 0 || strings.Contains(said, "hidden") || strings.Contains(said, "private") {
		t.Errorf("it was followed, or the log has too much:\n%s", said)
	}
	hooked(t, oneEndpoint, other.http.URL)(&r.cfg)
	if err := r.server.sender.endpoints.problem(); err != nil { // as a hangup does
		t.Fatal(err)
	}
	other.wants("push a@" + sum("one").String())
}

// logs waits until the log has a text, and returns all of it.
func (r *registry) logs(want string) string {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if text := strings.ReplaceAll(r.log.String(), `\"`, `"`); strings.Contains(text, want) {
			return text
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the log does not say %q:\n%s", want, r.log)
		}
	}
}

// A push does not wait for an endpoint, however slow that is.
func TestSlowEndpointKeepsNobody(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	let := make(chan struct{})
	h.answering(func(http.ResponseWriter, *http.Request, delivered) bool { <-let; return true })
	r := startRegistry(t, hooked(t, oneEndpoint+"timeout = \"2m\"\n", h.http.URL))
	r.sendEvents()
	for i := range 20 {
		r.pushBlob("a", fmt.Sprint(i)) // would never end
	}
	if f := r.st.events.figures(); len(f) != 1 || f[0].queued != 20 {
		t.Errorf("waiting: %v", f)
	}
	close(let)
	for i := range 20 {
		h.wants("push a@" + sum(fmt.Sprint(i)).String())
	}
}

// Of too many events the oldest are given up, and that is said once.
func TestFullQueueGivesUpTheOldest(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint, h.http.URL))
	r.st.events.most = 10
	for i := range 25 {
		r.pushBlob("a", fmt.Sprint(i))
	}
	if n := r.eventRows(); n != 10 {
		t.Errorf("%d events wait, want 10", n)
	}
	if n := strings.Count(r.log.String(), "the oldest are given up"); n != 1 {
		t.Errorf("it is said %d times:\n%s", n, r.log)
	}
	r.want(200, "GET", "/metrics", nil)
	for _, want := range []string{`berth_events_queued{endpoint="one"} 10`, `berth_events_dropped_total{endpoint="one"} 15`, `berth_events_sent_total{endpoint="one"} 0`} {
		if text := string(r.server.allMetrics(t.Context())); !strings.Contains(text, want+"\n") {
			t.Errorf("the metrics have no %s:\n%s", want, text)
		}
	}
	r.sendEvents()
	for i := range 10 {
		h.wants("push a@" + sum(fmt.Sprint(15+i)).String())
	}
	h.quiet()
}

func TestMistakesInEventsFile(t *testing.T) {
	t.Parallel()
	const url = "url = \"http://localhost/token-hidden\"\n"
	for text, want := range map[string]string{
		"":                             "there is no [[endpoint]] in it; write one, or remove the file and restart",
		"[[endpoint]]\n" + url:         "endpoint 1: name: give it one of a-z, 0-9 and . _ -",
		"[[endpoint]]\nname = \"x\"\n": "endpoint x: url: want http://HOST/PATH or https://HOST/PATH",
		"[[endpoint]]\nname = \"x\"\nurl = \"ftp://hidden/\"\n":                            "endpoint x: url: want http",
		"[[endpoint]]\nname = \"x\"\nurl = \"http://a b/hidden\"\n":                        "endpoint x: url: want http",
		"[[endpoint]]\nname = \"x\"\n" + url + "colour = \"red\"\n":                        `"endpoint.colour" means nothing here; there is [[endpoint]] with name, url,`,
		"[[endpoint]]\nname = \"x\"\n" + url + "secret = hidden\n":                         "line 4: what follows endpoint.secret cannot be read; texts stand in quotes",
		"[[endpoint]]\nname = \"x\"\n" + url + "secret = \"hidden\"\n":                     "endpoint x: secret: it has less than 16 characters",
		"[[endpoint]]\nname = \"x\"\n" + url + "secret = \"whsec_hidden/hidden-hidden\"\n": "secret: what follows whsec_ is not base64",
		"[[endpoint]]\nname = \"x\"\n" + url + "secret-file = \"none\"\n":                  "secret-file: ",
		"[[endpoint]]\nname = \"x\"\n" + url + "actions = [\"pushes\"]\n":                  `actions: "pushes" is none; there are push, mount, delete and pull`,
		"[[endpoint]]\nname = \"x\"\n" + url + "actions = \"push\"\n":                      `endpoint.actions: want a list, as in ["a", "b"]`,
		"[[endpoint]]\nname = \"x\"\n" + url + "format = \"xml\"\n":                        `format: say distribution or cloudevents, not "xml"`,
		"[[endpoint]]\nname = \"x\"\n" + url + "timeout = \"1h\"\n":                        `timeout: want a time from 1s to 2m, not "1h"`,
		"[[endpoint]]\nname = \"x\"\n" + url + "repositories = [\"A\"]\n":                  `"A" is not a pattern for repositories`,
		"[[endpoint]]\nname = \"x\"\n" + url + "headers = { Host = \"hidden\" }\n":         "headers: Berth sets Host itself",
		"[[endpoint]]\nname = \"x\"\n" + url + "headers = { X-A = \"hidden\\n\" }\n":       "headers: the value of X-A has a character that a header cannot have",
		"[[endpoint]]\nname = \"x\"\n" + url + "ca-file = \"events.toml\"\n":               "ca-file: there is no certificate in PEM in events.toml",
		"[[endpoint]]\nname = \"x\"\n" + url + "[[endpoint]]\nname = \"x\"\n" + url:        "endpoint x: another endpoint has the same name",
		"[endpoints]\n": `"endpoints" means nothing here`,
	} {
		dir := t.TempDir()
		hooked(t, "%s", text)(&config{storeConfig: storeConfig{dirConfig: dirConfig{dir: dir}}})
		err := refused(t, "serve", "--data", dir, "--addr", "127.0.0.1:0")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), eventsFile) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if exists(filepath.Join(dir, "berth.db")) {
			t.Errorf("%q: something was made", text)
		}
	}
}

func TestMistakeInEventsFileWhileServing(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint, h.http.URL))
	r.sendEvents()
	for _, text := range []string{"", "[[endpoint]]\nname = \"one\"\n", "x"} {
		hooked(t, "%s", text)(&r.cfg)
		r.pushBlob("a", text)
		h.wants("push a@" + sum(text).String())
	}
	if n := strings.Count(r.log.String(), "events.toml cannot be used; what it said before stays in force"); n != 3 {
		t.Errorf("that is said %d times:\n%s", n, r.log)
	}
	if err := os.Remove(filepath.Join(r.cfg.dir, eventsFile)); err != nil {
		t.Fatal(err)
	}
	r.pushBlob("a", "removed")
	h.wants("push a@" + sum("removed").String())
}

// What waits for an endpoint that is no more is given up at the next start, and not before.
func TestEventsOfAnEndpointThatIsNoMore(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	const two = "[[endpoint]]\nname = \"two\"\nurl = \"http://127.0.0.1:1/\"\n"
	r := startRegistry(t, hooked(t, oneEndpoint+two, h.http.URL))
	stop := r.sendEvents()
	r.pushBlob("a", "one")
	h.next()
	r.noted(1)
	hooked(t, oneEndpoint, h.http.URL)(&r.cfg) // by a slip, perhaps
	r.pushBlob("a", "two")
	h.next()
	r.noted(2)
	if n := len(r.st.events.waiting["two"].list); n != 1 {
		t.Errorf("%d events wait for the endpoint that is no more, want 1", n)
	}
	stop()
	r.restart()
	if n := r.eventRows(); n != 0 || !strings.Contains(r.log.String(), `msg="events are given up, since there is no such endpoint any more" endpoint=two events=1`) {
		t.Errorf("%d rows are left; the log says\n%s", n, r.log)
	}
}

// An endpoint by TLS is believed by the authorities that it is given, and by no others.
func TestEndpointByTLS(t *testing.T) {
	t.Parallel()
	h := &hook{t: t, got: make(chan delivered, 10), wait: time.Minute}
	h.http = httptest.NewUnstartedServer(h)
	h.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // of the handshake that fails
	h.http.StartTLS()
	t.Cleanup(h.http.Close)
	r := startRegistry(t, hooked(t, oneEndpoint, h.http.URL))
	r.sendEvents()
	r.pushBlob("a", "one")
	r.logs("certificate signed by unknown authority")
	if h.requests() > 0 {
		t.Error("it was sent all the same")
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.http.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(r.cfg.dir, "authority.crt"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	hooked(t, oneEndpoint+"ca-file = \"authority.crt\"\n", h.http.URL)(&r.cfg)
	if err := r.server.sender.endpoints.problem(); err != nil {
		t.Fatal(err)
	}
	h.wants("push a@" + sum("one").String())
	if err := os.Remove(filepath.Join(r.cfg.dir, "authority.crt")); err != nil {
		t.Fatal(err)
	}
}

// What a command does without a server is told by the next one.
func TestEventsOfACommandWithoutAServer(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t)
	r.pushImage("home/app", "1", "{}", "layer")
	r.off()
	hooked(t, oneEndpoint, h.http.URL)(&r.cfg)
	if out, err := runOnce(t, "rm", "home/app:1", "--data", r.cfg.dir); err != nil {
		t.Fatal(err, out)
	}
	h.quiet()
	r.start()
	r.sendEvents()
	h.wants("delete home/app:1")
	// One with a mistake in the file does nothing, or what it does would never be told.
	r.off()
	hooked(t, "x")(&r.cfg)
	if out, err := runOnce(t, "undo", "home/app", "--data", r.cfg.dir); err == nil || !strings.Contains(err.Error(), "events.toml: line 1") {
		t.Errorf("%v: %s", err, out)
	}
	hooked(t, oneEndpoint, h.http.URL)(&r.cfg)
	r.start()
	if r.tags("home/app") != "" {
		t.Error("it has done it all the same")
	}
}

// A backup has the endpoints, and none of the events that wait: a copy that is tried must tell nobody.
func TestBackupHasNoEventsThatWait(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint, h.http.URL))
	r.pushBlob("a", "one")
	dest := filepath.Join(t.TempDir(), "copy")
	if out, err := runOnceOn(t, r.st, "backup", dest); err != nil {
		t.Fatal(err, out)
	}
	if info, err := os.Stat(filepath.Join(dest, eventsFile)); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("events.toml in the backup: %v %v", info, err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dest, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRow(`SELECT count(*) FROM event`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d events in the backup: %v", n, err)
	}
	r.sendEvents()
	h.next()
}

// A restored registry does not tell again what was told before, nor what is not so any more.
func TestRestoreHasNoEventsThatWait(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint, h.http.URL))
	r.pushImage("home/app", "1", "{}", "layer")
	if err := r.st.snapshots.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.off()
	if err := os.Remove(filepath.Join(r.cfg.dir, "berth.db")); err != nil {
		t.Fatal(err)
	}
	if out, err := runOnce(t, "restore", "--data", r.cfg.dir); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.start()
	if n := r.eventRows(); n != 0 || r.tags("home/app") != "1" {
		t.Errorf("%d events wait after a restore; the tags are %s", n, r.tags("home/app"))
	}
}

// An endpoint in a bubble, where time jumps to the next timer: reached is false while it cannot be.
func inEventBubble(t *testing.T, text string, test func(t *testing.T, r *registry, h *hook, reached func(bool))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &hook{t: t, got: make(chan delivered, 1<<12), wait: time.Hour}
		p := newPipes()
		h.http = overPipes(p, h, false)
		t.Cleanup(h.http.Close)
		var mu sync.Mutex
		up := true
		r := startPiped(t, hooked(t, text, "http://hook.example.org"), func(c *config) {
			c.dialEvents = func(ctx context.Context, network, addr string) (c net.Conn, err error) {
				mu.Lock()
				defer mu.Unlock()
				if !up {
					h.mu.Lock()
					h.asked++
					h.mu.Unlock()
					return nil, errors.New("connection refused")
				}
				return p.dial(ctx, network, addr)
			}
		})
		stop := r.sendEvents()
		defer stop()
		test(t, r, h, func(is bool) { mu.Lock(); up = is; mu.Unlock() })
	})
}

// An endpoint that is away is tried less and less often, and gets all when it is back; when nothing waits,
// nothing wakes up.
func TestEndpointThatIsAway(t *testing.T) {
	t.Parallel()
	inEventBubble(t, oneEndpoint, func(t *testing.T, r *registry, h *hook, reached func(bool)) {
		reached(false)
		r.pushBlob("a", "one")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := h.requests(); n < 9 || n > 13 {
			t.Errorf("tried %d times in ten minutes, want 9 to 13", n)
		}
		before := h.requests()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := h.requests() - before; n < 24*12 || n > 24*16 {
			t.Errorf("tried %d times in a day, want every five minutes or a little more often", n)
		}
		if n := strings.Count(r.log.String(), "an endpoint takes no events"); n != 1 {
			t.Errorf("that is said %d times:\n%s", n, r.log)
		}
		// Something new is tried at once.
		reached(true)
		begun := time.Now()
		r.pushBlob("a", "two")
		h.wants("push a@"+sum("one").String(), "push a@"+sum("two").String())
		if took := time.Since(begun); took > firstEventPause {
			t.Errorf("it took %s", took)
		}
		synctest.Wait()
		asked, writes := h.requests(), r.st.writer.syncs.Load()
		files := tree(t, r.cfg.dir)
		slept := time.Now()
		time.Sleep(10 * 24 * time.Hour)
		synctest.Wait()
		for path, text := range tree(t, r.cfg.dir) {
			if files[path] != text && filepath.Ext(path) != ".db-shm" { // which is memory that readers share
				t.Errorf("%s was written", path)
			}
		}
		if h.requests() != asked || r.st.writer.syncs.Load() != writes {
			t.Errorf("in %s without an event something was done", time.Since(slept))
		}
	})
}

// An endpoint that asks for a pause gets it, also when there is something new.
func TestEndpointThatAsksForAPause(t *testing.T) {
	t.Parallel()
	inEventBubble(t, oneEndpoint, func(t *testing.T, r *registry, h *hook, _ func(bool)) {
		h.answering(func(w http.ResponseWriter, _ *http.Request, _ delivered) bool {
			w.Header().Set("Retry-After", "1200")
			http.Error(w, "later", http.StatusTooManyRequests)
			return false
		})
		begun := time.Now()
		r.pushBlob("a", "one")
		synctest.Wait()
		h.answering(nil)
		r.pushBlob("b", "two")
		time.Sleep(19 * time.Minute)
		synctest.Wait()
		h.quiet()
		h.wants("push a@"+sum("one").String(), "push b@"+sum("two").String())
		if took := time.Since(begun); took != 20*time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

// An event that is refused keeps those of its repository, and only for a while.
func TestEventThatIsRefused(t *testing.T) {
	t.Parallel()
	for status, most := range map[int]time.Duration{400: 20 * time.Minute, 422: 20 * time.Minute, 500: 25 * time.Hour} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			inEventBubble(t, oneEndpoint, func(t *testing.T, r *registry, h *hook, _ func(bool)) {
				bad := sum("bad").String()
				h.answering(func(w http.ResponseWriter, _ *http.Request, d delivered) bool {
					if bytes.Contains(d.body, []byte(bad)) {
						http.Error(w, "I do not like it", status)
						return false
					}
					return true
				})
				r.pushBlob("a", "bad")
				r.pushBlob("a", "after")
				r.pushBlob("b", "other")
				h.wants("push b@" + sum("other").String())
				synctest.Wait()
				h.quiet()
				begun := time.Now()
				for len(h.got) == 0 && time.Since(begun) < most {
					time.Sleep(time.Minute)
					synctest.Wait()
				}
				h.wants("push a@" + sum("after").String())
				if took := time.Since(begun); took > most || took < 5*time.Minute {
					t.Errorf("it was given up after %s", took)
				}
				if text := r.log.String(); strings.Count(text, "an event is given up") != 1 || !strings.Contains(text, "I do not like it") || !strings.Contains(text, "level=ERROR") {
					t.Errorf("the log says\n%s", text)
				}
				if f := r.st.events.figures()[0]; f.dropped != 1 || f.sent != 2 || f.queued != 0 || f.failed < refusedTries {
					t.Errorf("counted: %+v", f)
				}
			})
		})
	}
}

// Of a long answer little is read, and less is shown; what it says controls no terminal.
func TestAnswersOfEndpointsAreCut(t *testing.T) {
	t.Parallel()
	inEventBubble(t, oneEndpoint, func(t *testing.T, r *registry, h *hook, _ func(bool)) {
		h.answering(func(w http.ResponseWriter, _ *http.Request, _ delivered) bool {
			w.WriteHeader(500)
			io.WriteString(w, "\x1b[31mfailed\nfor good"+strings.Repeat("x", 10<<20))
			return false
		})
		r.pushBlob("a", "one")
		text := ""
		for text == "" {
			time.Sleep(time.Second)
			synctest.Wait()
			_, text, _ = strings.Cut(r.log.String(), "an endpoint does not take an event")
		}
		if line, _, _ := strings.Cut(text, "\n"); !strings.Contains(line, "it answers 500 Internal Server Error: ?[31mfailed; for goodxxx") || len(line) > 600 {
			t.Errorf("the log says %.1000s", text)
		}
	})
}

// What is wrong with the whole endpoint, and not with an event, costs no event.
func TestEndpointThatIsSetUpWrongly(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 401, 403, 404, 405, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			inEventBubble(t, oneEndpoint, func(t *testing.T, r *registry, h *hook, _ func(bool)) {
				h.answering(func(w http.ResponseWriter, _ *http.Request, _ delivered) bool { w.WriteHeader(status); return false })
				r.pushBlob("a", "one")
				time.Sleep(100 * time.Hour)
				synctest.Wait()
				h.answering(nil)
				h.wants("push a@" + sum("one").String())
			})
		})
	}
}

// Pulls are told to whom wants them, and are not written. Of too many some are lost.
func TestPullsAreNotWritten(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t)
	im := r.pushImage("a", "1", "{}", "layer")
	r.restart(hooked(t, oneEndpoint+"actions = [\"pull\"]\n", h.http.URL))
	for range maxQueuedPulls + 5 {
		r.want(200, "GET", "/v2/a/manifests/1", nil)
	}
	if r.eventRows() != 0 || r.st.writer.syncs.Load() != 0 {
		t.Error("pulls are written")
	}
	if f := r.st.events.figures()[0]; f.queued != maxQueuedPulls || f.dropped != 5 {
		t.Errorf("counted: %+v", f)
	}
	r.sendEvents()
	for range maxQueuedPulls {
		h.wants("pull a:1@" + im.digest.String())
	}
	h.quiet()
}
