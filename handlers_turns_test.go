// Pushes that are more than the limits allow for the moment: they wait, in turn.

package main

import (
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
	"time"

	"github.com/google/uuid"
)

// waits is a clock for requests that wait for their turn: the test lets them go.
type waits struct {
	r     *registry
	began chan time.Duration // one for each that begins to wait, for how long at most

	mu  sync.Mutex // guards end
	end []chan time.Time
}

// holdTurns replaces the clock of those who wait.
func (r *registry) holdTurns() *waits {
	w := &waits{r: r, began: make(chan time.Duration, 2*maxWaiting)}
	r.server.waiting.after = func(d time.Duration) <-chan time.Time {
		end := make(chan time.Time, 1)
		w.mu.Lock()
		w.end = append(w.end, end)
		w.mu.Unlock()
		w.began <- d
		return end
	}
	return w
}

// expire ends the n-th wait, as if its time had passed.
func (w *waits) expire(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end[n] <- time.Time{}
}

// impatient has nobody wait: what is too many is refused at once.
func (r *registry) impatient() {
	r.server.waiting.after = func(time.Duration) <-chan time.Time {
		now := make(chan time.Time, 1)
		now <- time.Time{}
		return now
	}
}

// begin sends a request that may wait, and returns a channel with the status of its answer.
func (r *registry) begin(method, path string, body any, headers ...string) <-chan int {
	status := make(chan int, 1)
	go func() {
		re, err := r.try(method, path, body, headers...)
		if err != nil {
			r.t.Errorf("%s %s: %v", method, path, err)
			re = &reply{}
		}
		status <- re.status
	}()
	return status
}

const from1, from2 = "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.2"

// Requests that come too fast wait for as long as it takes until they do not, each after the one before it;
// only who would have to wait for too long is refused. Others, and probes, do not wait.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, trustLoopback, func(c *config) { c.auth.perSecond = 1 })
	r.freeze()
	w := r.holdTurns()
	for range 10 {
		r.want(200, "GET", "/v2/", nil, from1)
	}
	most := int(patience / time.Second)
	var answers []<-chan int
	for i := range most {
		answers = append(answers, r.begin("POST", "/v2/a/blobs/uploads/", nil, from1))
		if d := <-w.began; d.Round(time.Millisecond) != time.Duration(i+1)*time.Second {
			t.Fatalf("request %d waits for %v, want %d s", i, d, i+1)
		}
	}
	r.want(429, "POST", "/v2/a/blobs/uploads/", nil, from1).code("TOOMANYREQUESTS").has("Retry-After", fmt.Sprint(most+1))
	r.want(200, "GET", "/v2/", nil, from2)
	r.want(200, "GET", "/healthz", nil, from1)
	for i, a := range answers {
		r.moved.Add(int64(time.Second))
		w.expire(i)
		if status := <-a; status != 202 {
			t.Errorf("request %d = %d, want 202", i, status)
		}
	}
	r.moved.Add(int64(time.Second))
	r.want(200, "GET", "/v2/", nil, from1)
}

// A flood is not held: so many of one address wait and no more, and what one address does is no matter to
// another until there are very many.
func TestFewWait(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, trustLoopback, func(c *config) { c.auth.perSecond = 100 })
	r.freeze()
	w := r.holdTurns()
	for range 1000 {
		if wait, _ := r.server.gate.limiter.take(r.server.gate.proxies.origin(&http.Request{RemoteAddr: "127.0.0.1:1", Header: http.Header{"X-Forwarded-For": {"192.0.2.1"}}}), patience); wait != 0 {
			t.Fatal(wait)
		}
	}
	var answers []<-chan int
	for range maxWaitingOf {
		answers = append(answers, r.begin("GET", "/v2/", nil, from1))
		<-w.began
	}
	r.want(429, "GET", "/v2/", nil, from1).has("Retry-After", "2")
	r.want(200, "GET", "/v2/", nil, from2)
	for i, a := range answers {
		w.expire(i)
		if status := <-a; status != 200 {
			t.Errorf("request %d = %d, want 200", i, status)
		}
	}
	tt := newWaiting()
	for i := range 2 * maxWaiting {
		if got, want := tt.enter(fmt.Sprint(i)), i < maxWaiting; got != want {
			t.Fatalf("request %d of as many addresses waits: %v, want %v", i, got, want)
		}
	}
	for i := range maxWaiting {
		tt.leave(fmt.Sprint(i))
	}
	if tt.all != 0 || len(tt.of) != 0 {
		t.Errorf("%d wait, of %v; want none", tt.all, tt.of)
	}
}

// Who goes away while it waits is not waited for, and does not count.
func TestWhoHasGoneDoesNotWait(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, trustLoopback, func(c *config) { c.auth.perSecond = 1 })
	r.freeze()
	w := r.holdTurns()
	for range 10 {
		r.want(200, "GET", "/v2/", nil, from1)
	}
	conn, err := net.Dial("tcp", r.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "GET /v2/ HTTP/1.1\r\nHost: x\r\n"+from1+"\r\n\r\n")
	<-w.began
	conn.Close()
	for r.server.inFlight.Load() > 0 { // with the test's clock it would wait for ever
		time.Sleep(time.Millisecond)
	}
	answer := r.begin("GET", "/v2/", nil, from1)
	if d := <-w.began; d.Round(time.Millisecond) != time.Second {
		t.Errorf("the next waits for %v, want 1s", d)
	}
	w.expire(1)
	if status := <-answer; status != 200 {
		t.Errorf("the next = %d, want 200", status)
	}
}

// A server that stops lets those finish that only came too fast.
func TestStoppingEndsWaits(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.auth.perSecond = 1 })
	r.freeze()
	w := r.holdTurns()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- r.server.answer(ctx, listener) }()
	base := "http://" + listener.Addr().String()
	for range 10 {
		r.want(200, "GET", base+"/v2/", nil)
	}
	answer := r.begin("GET", base+"/v2/", nil)
	<-w.began
	stop()
	if status := <-answer; status != 200 {
		t.Errorf("a request that waited when the server stopped = %d, want 200", status)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// slots are the limits that are on what is done at once: how to take a place, and how to give it back.
type slots struct {
	patience time.Duration
	options  func(*config)
	take     func(r *registry) (giveBack func())
	ask      func(r *registry, i int, headers ...string) <-chan int // waits for one
	done     int                                                    // the answer then
	after    string                                                 // Retry-After
}

// takeArriving has a body arrive until giveBack is called.
func takeArriving(r *registry) (giveBack func()) {
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	body, in := io.Pipe()
	status := r.begin("PATCH", loc, body)
	for r.server.arriving.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	return func() { in.Close(); <-status }
}

var allSlots = map[string]slots{
	"uploads at once": {bodyPatience, func(c *config) { c.maxArriving = 1 },
		takeArriving,
		func(r *registry, i int, headers ...string) <-chan int {
			text := fmt.Sprint("blob ", i)
			return r.begin("POST", "/v2/a/blobs/uploads/?digest="+sum(text).String(), text, headers...)
		}, 201, "5"},
	"commits sent again": {bodyPatience, func(c *config) { c.maxArriving = 1 },
		takeArriving,
		func(r *registry, i int, headers ...string) <-chan int {
			return r.begin("PUT", with("/v2/a/blobs/uploads/"+uuid.NewString(), "digest="+sum("{}").String()), "{}", headers...)
		}, 201, "5"},
	"open uploads": {patience, func(c *config) { c.maxUploads = 1 },
		func(r *registry) func() {
			loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
			return func() { r.want(204, "DELETE", loc, nil) }
		},
		func(r *registry, i int, headers ...string) <-chan int {
			return r.begin("POST", "/v2/a/blobs/uploads/", nil, headers...)
		}, 202, "60"},
	"large manifests": {patience, func(*config) {},
		func(r *registry) func() {
			var ends []func()
			for range maxLargeManifests {
				body, in := io.Pipe()
				status := r.begin("PUT", "/v2/a/manifests/x", body, "Content-Type: "+typeOCIManifest)
				fmt.Fprint(in, strings.Repeat(" ", smallManifest))
				ends = append(ends, func() { in.Close(); <-status })
			}
			for r.server.large.Load() < maxLargeManifests {
				time.Sleep(time.Millisecond)
			}
			return func() {
				for _, end := range ends {
					end()
				}
			}
		},
		func(r *registry, i int, headers ...string) <-chan int {
			m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[],"annotations":{"pad":"%s"}}`,
				typeOCIManifest, descriptorJSON("x/y", "{}"), strings.Repeat("x", smallManifest))
			return r.begin("PUT", fmt.Sprint("/v2/a/manifests/y", i), m, append(headers, "Content-Type: "+typeOCIManifest)...)
		}, 201, "10"},
}

// What has no room waits until there is some, and is refused only when it has waited for too long. In a
// line nobody is passed over.
func TestWhatHasNoRoomWaits(t *testing.T) {
	t.Parallel()
	for name, x := range allSlots {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t, trustLoopback, x.options)
			r.pushBlob("a", "{}")
			w := r.holdTurns()
			giveBack := x.take(r)
			var answers []<-chan int
			for i, from := range []string{from1, from1, from2, from1} {
				answers = append(answers, x.ask(r, i, from))
				if d := <-w.began; d != x.patience {
					t.Errorf("request %d waits for %v, want %v", i, d, x.patience)
				}
			}
			w.expire(1) // it has waited for too long
			if status := <-answers[1]; status != 429 {
				t.Errorf("who has waited for too long = %d, want 429", status)
			}
			giveBack()
			for _, i := range []int{0, 2, 3} {
				if name == "open uploads" && i > 0 {
					w.expire(i) // the one before keeps what it got
					if status := <-answers[i]; status != 429 {
						t.Errorf("request %d = %d, want 429", i, status)
					}
				} else if status := <-answers[i]; status != x.done {
					t.Errorf("request %d = %d, want %d", i, status, x.done)
				}
			}
			r.impatient()
			if name != "open uploads" {
				giveBack = x.take(r)
				defer giveBack()
			}
			if status := <-x.ask(r, 9); status != 429 {
				t.Errorf("without patience = %d, want 429", status)
			}
		})
	}
}

// Each place that is given back goes to who has waited longest.
func TestPlacesAreGivenInTurn(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.maxUploads = 1 })
	w := r.holdTurns()
	first := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	const clients = 20
	type opened struct {
		client   int
		location string
	}
	got := make(chan opened, clients)
	for i := range clients {
		go func() {
			re, err := r.try("POST", "/v2/a/blobs/uploads/", nil)
			if err != nil || re.status != 202 {
				t.Errorf("client %d: %v %+v", i, err, re)
				re = &reply{header: http.Header{}}
			}
			got <- opened{i, re.location()}
		}()
		<-w.began
	}
	var order []int
	for next := first; len(order) < clients; {
		r.want(204, "DELETE", next, nil)
		o := <-got
		order, next = append(order, o.client), o.location
	}
	if !slices.IsSorted(order) || r.server.waiting.all != 0 || r.server.lines.sessions.queue.Len() != 0 {
		t.Errorf("the order is %v, and %d still wait", order, r.server.waiting.all)
	}
}

// Many clients at a narrow place: all get through, and nobody is forgotten.
func TestNobodyInALineIsForgotten(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, trustLoopback, func(c *config) { c.maxArriving, c.maxUploads = 2, 3 })
	r.server.waiting.after = func(time.Duration) <-chan time.Time { return nil } // waits for ever if it must
	var clients sync.WaitGroup
	for i := range 24 {
		clients.Go(func() {
			from := fmt.Sprint("X-Forwarded-For: 192.0.2.", i%5)
			for j := range 5 {
				text := fmt.Sprint("layer ", i, j)
				re, err := r.try("POST", "/v2/a/blobs/uploads/", nil, from)
				if err != nil || re.status != 202 {
					t.Errorf("POST: %v %+v", err, re)
					return
				}
				if re, err = r.try("PUT", re.location()+"?digest="+sum(text).String(), text, from); err != nil || re.status != 201 {
					t.Errorf("PUT: %v %+v", err, re)
				}
			}
		})
	}
	clients.Wait()
}

// Two places that come free before anybody has moved are two turns.
func TestEachPlaceIsATurn(t *testing.T) {
	t.Parallel()
	l := &waitingLine{waiting: newWaiting()}
	var turns []chan struct{}
	for _, address := range []string{"a", "b", "c"} {
		w := l.join(address).Value.(*waiter)
		<-w.turn // that with which it tries once more
		turns = append(turns, w.turn)
	}
	l.freed()
	l.freed()
	for i, want := range []int{1, 1, 0} {
		if got := len(turns[i]); got != want {
			t.Errorf("waiter %d has %d turns, want %d", i, got, want)
		}
	}
}

// A place that came free while one of an address was about to take another is not
// lost on who comes next of that address.
func TestFreePlaceIsNotOverlooked(t *testing.T) {
	t.Parallel()
	l := &waitingLine{waiting: newWaiting()}
	tried := make(chan struct{})
	l.after = func(time.Duration) <-chan time.Time { return nil }
	await := func(try func() error) <-chan error {
		done := make(chan error, 1)
		go func() {
			done <- l.await(&response{}, httptest.NewRequest("PATCH", "/", nil), time.Hour, errTooManyBodies, try)
		}()
		return done
	}
	tries, freed, taking, goOn := 0, make(chan struct{}), make(chan struct{}), make(chan struct{})
	first := await(func() error {
		if tries++; tries < 3 { // when it comes, and when it has joined the line
			if tries == 2 {
				close(tried)
				<-freed
			}
			return errTooManyBodies
		}
		close(taking)
		<-goOn
		return nil
	})
	<-tried
	l.freed()
	l.freed() // before the first has moved
	close(freed)
	<-taking
	second := await(func() error { return nil })
	for l.length.Load() < 2 {
		runtime.Gosched()
	}
	close(goOn)
	soon(t, "taking the two places", func() {
		for _, done := range []<-chan error{first, second} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
