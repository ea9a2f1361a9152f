// Events are sent: requests to the endpoints.
//
// Each endpoint has a goroutine, which sends one event at a time, in their order. One that has
// arrived is answered 2xx. If the endpoint cannot be reached, or seems to be set up wrongly, all of
// its events wait; if it does not take an event, only later ones of the same repository do. After a
// failed try there is another, after a pause that doubles each time. While no event waits, nothing
// wakes up.
//
// Requests go where the configuration says and nowhere else: no redirect is followed, and no
// proxy is taken from the environment.

package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// The pause after a try that came to nothing, and how long it gets; an endpoint may ask for
	// more, up to longestRequested.
	firstEventPause   = time.Second
	longestEventPause = 5 * time.Minute
	longestRequested  = time.Hour
	// An event that an endpoint refuses (4xx) is tried so often, in ten minutes; and one over which it
	// fails (5xx) for so long.
	refusedTries = 10
	failedFor    = 24 * time.Hour
	// maxReply is how much of an answer is read, and maxAnswerShown what the log has of it, in bytes.
	maxReply       = 64 << 10
	maxAnswerShown = 200
)

// A sender sends what is in the queue.
type sender struct {
	*eventQueue
	endpoints watched[*listeners]
	dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	log       *slog.Logger
}

// newSender reads the endpoints of the queue's store. What is wrong with them at start is an error;
// later it leaves what was there before.
func newSender(q *eventQueue, cfg serverConfig) (*sender, error) {
	s := &sender{eventQueue: q, log: cfg.log, dial: cfg.dialEvents}
	if s.dial == nil {
		s.dial = new(net.Dialer).DialContext
	}
	started := false
	s.endpoints = watched[*listeners]{files: []string{fromDirectory(eventsFile, q.dir)}, glance: min(500*cfg.auth.glance, time.Second), // pulls ask, too, and there are many
		parse: func(texts [][]byte) (*listeners, error) { return parseListeners(texts[0], q.dir) },
		changed: func(_, now **listeners, err error) {
			if err != nil && started {
				s.log.Error("events.toml cannot be used; what it said before stays in force", "error", err)
			} else if err == nil {
				s.tellOf(*now)
				notify(q.changed)
			}
		}}
	if err := s.endpoints.problem(); err != nil {
		return nil, err
	}
	started = true
	return s, q.dropStrangers(s.current())
}

func (s *sender) tellOf(l *listeners) {
	for _, p := range l.endpoints {
		s.log.Info("events", "endpoint", p.String())
	}
}

// current are the endpoints at this moment; never nil.
func (s *sender) current() *listeners {
	if l := s.endpoints.get(); l != nil {
		return *l
	}
	return noListeners
}

var noListeners = &listeners{}

// run sends events until ctx ends.
func (s *sender) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	type begun struct {
		end  context.CancelFunc
		done chan struct{}
	}
	deliveries := make(map[string]begun) // by the endpoint's name
	for {
		now := s.current()
		for name, b := range deliveries {
			if now.find(name) == nil {
				b.end()
				<-b.done // or one that is named so again would have two
				delete(deliveries, name)
			}
		}
		for _, p := range now.endpoints {
			s.mu.Lock()
			w := s.of(p.name)
			notify(w.more) // its address may be another one
			s.mu.Unlock()
			if _, ok := deliveries[p.name]; !ok {
				ctx, end := context.WithCancel(ctx)
				b := begun{end, make(chan struct{})}
				deliveries[p.name] = b
				all.Go(func() {
					defer close(b.done)
					keepRunning(ctx, s.log, "events", func(ctx context.Context) { (&delivery{sender: s, name: p.name, more: w.more}).run(ctx) })
				})
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
	}
}

// A delivery sends events to one endpoint.
type delivery struct {
	*sender
	name     string
	more     <-chan struct{}
	client   *http.Client // nil before the first event
	clientOf *endpoint    // that the client is for

	tries int                  // to reach it that have failed since an event has arrived
	tried time.Time            // when the last was
	until time.Time            // when the next may be
	asked bool                 // the endpoint has said so
	held  map[string]*heldBack // by repository
}

// A heldBack is a repository whose first event is not taken.
type heldBack struct {
	it    *queuedEvent
	tries int
	since time.Time
	until time.Time
}

func (d *delivery) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := d.next(ctx)
		if wait == 0 {
			continue
		}
		if d.client != nil {
			d.client.CloseIdleConnections() // which would end by a timer
		}
		timer, stop := alarm(wait)
		select {
		case <-ctx.Done():
		case <-timer:
		case <-d.more:
			// A new event is a reason to try again, but events may come many times a second.
			if soon := d.tried.Add(firstEventPause); d.until.After(soon) && !d.asked {
				d.until = soon
			}
		}
		stop()
	}
}

// next sends an event, if one is due, and then returns 0; else how long it is until one is, negative
// if none waits.
func (d *delivery) next(ctx context.Context) time.Duration {
	now := time.Now()
	soonest := time.Duration(-1)
	it := d.first(d.name, func(repository string) bool {
		h := d.held[repository]
		if h == nil || !h.until.After(now) {
			return false
		}
		if left := h.until.Sub(now); soonest < 0 || left < soonest {
			soonest = left
		}
		return true
	})
	p := d.current().find(d.name)
	if p != nil && d.clientOf != p { // what was wrong may be right now
		d.connect(p)
		return 0
	}
	if it == nil || p == nil {
		return soonest
	}
	if d.until.After(now) {
		return d.until.Sub(now)
	}
	e, err := d.read(it)
	if errors.Is(err, sql.ErrNoRows) { // there was no room for it
		d.finish(it, false)
		return 0
	}
	if err == nil {
		err = postEvent(ctx, d.client, p, e)
	}
	if ctx.Err() != nil {
		return 0
	}
	d.judge(p, it, e, err)
	return 0
}

// judge takes note of how a try has ended.
func (d *delivery) judge(p *endpoint, it *queuedEvent, e *event, err error) {
	now := time.Now()
	d.tried = now
	var bad *undelivered
	if err != nil {
		d.failed(d.name)
	}
	if err == nil || errors.As(err, &bad) && bad.ofEvent {
		d.until, d.asked = time.Time{}, false
	}
	h := d.held[it.repository]
	if h != nil && h.it != it { // which was given up
		h = nil
	}
	switch {
	case err == nil:
		if d.tries > 0 {
			d.log.Info("an endpoint takes events again", "endpoint", d.name)
		}
		d.tries = 0
		delete(d.held, it.repository)
		d.finish(it, true)
	case bad == nil || !bad.ofEvent:
		pause := pauseAfter(d.tries)
		d.asked = bad != nil && bad.later > 0
		if d.asked {
			pause = min(bad.later, longestRequested)
		}
		if d.tries++; d.tries == 1 {
			d.log.Warn("an endpoint takes no events; they wait until it does", "endpoint", d.name, "address", p.address(), "error", err)
		}
		d.until = now.Add(pause)
	case h != nil && (bad.refused && h.tries+1 >= refusedTries || now.Sub(h.since) >= failedFor):
		d.log.Error("an event is given up, since the endpoint does not take it", "endpoint", d.name, "event", e.ID, "type", e.Type, "about", e.name(), "error", err)
		delete(d.held, it.repository)
		d.finish(it, false)
	default:
		if h == nil {
			h = &heldBack{it: it, since: now}
			d.held[it.repository] = h
			d.log.Warn("an endpoint does not take an event; those of the same repository wait behind it", "endpoint", d.name, "event", e.ID, "about", e.name(), "error", err)
		}
		h.until = now.Add(max(pauseAfter(h.tries), min(bad.later, longestRequested)))
		h.tries++
	}
}

// finish takes an event out of the queue.
func (d *delivery) finish(it *queuedEvent, arrived bool) {
	if err := d.done(d.name, it, arrived); err != nil {
		d.log.Warn("that events have arrived cannot be recorded; they are sent again after a restart", "error", err)
	}
}

// pauseAfter is how long to wait after a failed try that so many others came before. It is shorter by up to a
// quarter, at random, so that not all registries come back at once.
func pauseAfter(tries int) time.Duration {
	pause := longestEventPause
	if tries < 16 {
		pause = min(pause, firstEventPause<<tries)
	}
	return pause - rand.N(pause/4+1)
}

// An undelivered is the answer to an event that has not been taken.
type undelivered struct {
	text    string
	ofEvent bool          // it is about this event: the endpoint may take others
	refused bool          // and it is not likely to take this one later
	later   time.Duration // when it may be tried again; 0 if the endpoint does not say
}

func (e *undelivered) Error() string { return e.text }

// connect has requests go to an endpoint as it is configured now.
func (d *delivery) connect(p *endpoint) {
	if d.client != nil {
		d.client.CloseIdleConnections()
	}
	d.client, d.clientOf = newEventClient(p, d.dial), p
	d.until, d.asked, d.held = time.Time{}, false, make(map[string]*heldBack)
}

// newEventClient returns a client that asks an endpoint and nobody else.
func newEventClient(p *endpoint, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dial,
			TLSClientConfig:        &tls.Config{RootCAs: p.roots},
			TLSHandshakeTimeout:    p.timeout,
			MaxResponseHeaderBytes: maxReply,
			DisableCompression:     true, // an answer is no longer than it looks
			MaxConnsPerHost:        1,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// postEvent sends an event to an endpoint, and reads the answer. The error is an *undelivered if there
// was one.
func postEvent(ctx context.Context, client *http.Client, p *endpoint, e *event) error {
	body, mediaType, err := e.render(p.format)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url.String(), bytes.NewReader(body))
	if err != nil {
		return errors.New("the address is not one")
	}
	for name, value := range p.headers {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("User-Agent", "berth")
	p.sign(req.Header, e.ID, time.Now(), body)
	resp, err := client.Do(req)
	if err != nil {
		var asked *url.Error
		if errors.As(err, &asked) { // which has the whole address
			err = asked.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("there was no answer within %s", formatDuration(p.timeout))
		}
		return plainly(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply)) // the status says all that counts
	return judgeAnswer(resp, answer)
}

// sign adds the headers by which an endpoint knows that a body is ours: as Standard Webhooks has them, and as GitHub does.
func (p *endpoint) sign(h http.Header, id string, now time.Time, body []byte) {
	if p.secret == "" {
		return
	}
	at := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, p.key)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", at)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	mac = hmac.New(sha256.New, []byte(p.secret))
	mac.Write(body)
	h.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
}

// judgeAnswer is nil if an event has arrived, else an *undelivered.
func judgeAnswer(resp *http.Response, answer []byte) error {
	status := resp.StatusCode
	if status >= 200 && status < 300 {
		return nil
	}
	bad := &undelivered{text: "it answers " + strings.TrimSpace(strconv.Itoa(status)+" "+http.StatusText(status)), later: retryAfter(resp.Header)}
	if said := strings.TrimSpace(strings.ToValidUTF8(string(answer[:min(len(answer), maxAnswerShown)]), "")); said != "" {
		bad.text += ": " + printable(oneLine(said))
	}
	switch {
	case status >= 300 && status < 400:
		bad.text += "; redirects are not followed: put the address that it means into events.toml"
		if to, err := resp.Location(); err == nil && to.Host != "" {
			bad.text += " (it is at " + printable(to.Scheme+"://"+to.Host) + ")"
		}
	case status == 401 || status == 403 || status == 407:
		bad.text += "; is something wrong with secret or headers in events.toml?"
	case status == 404 || status == 405 || status == 410:
		bad.text += "; is the url in events.toml right?"
	case status == 408 || status == 425 || status == 429 || status == 502 || status == 503 || status == 504: // not now
	case status >= 400:
		bad.ofEvent, bad.refused = true, status < 500
	}
	return bad
}

// retryAfter is how long an answer asks to wait; 0 if it does not.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
