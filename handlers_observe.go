// What a request leaves behind: a log line, metrics, and an id that ties its
// answer to both.
//
// observe is the outermost handler. It also keeps a client that stalls from
// holding anything for ever: the clock of a read or a write starts anew
// whenever bytes move.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// A response is the http.ResponseWriter that every handler gets.
type response struct {
	http.ResponseWriter
	id      string
	request *http.Request
	origin  origin
	caller  *caller
	held    *connection // not closed for others until there is an answer; nil for none
	control http.ResponseController
	stall   stallTimeout
	moving  struct{ read, write time.Time } // until when the clock need not be set again
	status  int                             // 0 until the header is written
	bytes   int64                           // of the body
	route   string
	meter   *routeMeter // of the route; nil if none takes the request
	head    bool        // net/http drops the body
	broken  bool        // the client's body ended badly
	cut     bool        // ours ends early, and the client must see that
	failed  error       // sending a file
	err     error       // a stranger, for the log
}

func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	w.beforeWrite()
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write sends p, in pieces that each have the stall timeout.
func (w *response) Write(p []byte) (n int, err error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	for more := true; more && err == nil; more = n < len(p) {
		w.beforeWrite()
		var sent int
		sent, err = w.ResponseWriter.Write(p[n:min(len(p), n+sendAtOnce)])
		n += sent
	}
	if !w.head {
		w.bytes += int64(n)
	}
	return n, err
}

// sendAtOnce is how much one write may carry: the stall timeout is for this many
// bytes, so it must be little for a slow line and much for a system call.
const sendAtOnce = 512 << 10

// ReadFrom lets the kernel send a file (sendfile), in pieces that each have
// the stall timeout.
func (w *response) ReadFrom(src io.Reader) (n int64, err error) {
	from, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok {
		n, w.failed = io.Copy(struct{ io.Writer }{w}, src) // over HTTP/2
		return n, w.failed
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	// net/http looks for an *os.File, or a LimitedReader of one.
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	for limited.N > 0 {
		w.beforeWrite()
		piece := &io.LimitedReader{R: limited.R, N: min(limited.N, sendAtOnce)}
		want := piece.N
		sent, err := from.ReadFrom(piece)
		n += sent
		w.bytes += sent
		limited.N -= sent
		if err != nil || sent < want {
			w.failed = err
			return n, err
		}
	}
	return n, nil
}

// A stallTimeout is how long a client may take for the next bytes, at least; and
// at most a little longer. 0 is no limit.
type stallTimeout time.Duration

// slack is how much longer it may turn out: to set the clock anew for every
// piece would cost as much as the piece.
func (t stallTimeout) slack() time.Duration { return time.Duration(t) / 16 }

// beforeRead is called before each read of the request's body. until, unless
// zero, is when all of it must have come.
func (w *response) beforeRead(until time.Time) {
	if w.stall == 0 {
		w.control.SetReadDeadline(until)
		return
	}
	now := time.Now()
	if now.Before(w.moving.read) {
		return
	}
	w.moving.read = now.Add(w.stall.slack())
	deadline := w.moving.read.Add(time.Duration(w.stall))
	if !until.IsZero() && until.Before(deadline) {
		deadline = until
	}
	w.control.SetReadDeadline(deadline)
}

// afterRead is called when reading has come to an end. After the body's true
// end the deadline is lifted: what the handler does next may take its time.
// After any other, net/http must not wait for the rest of the body.
func (w *response) afterRead(err error) {
	w.moving.read = time.Time{}
	switch {
	case err == nil || err == io.EOF:
		w.control.SetReadDeadline(time.Time{})
	default:
		w.broken = true
		w.control.SetReadDeadline(time.Now())
	}
}

func (w *response) beforeWrite() {
	if w.stall == 0 {
		return
	}
	if now := time.Now(); !now.Before(w.moving.write) {
		w.moving.write = now.Add(w.stall.slack())
		w.control.SetWriteDeadline(w.moving.write.Add(time.Duration(w.stall)))
	}
}

// requestIDs make the ids of one process's requests: which process, and a count.
type requestIDs struct {
	process string
	count   atomic.Uint32
}

func newRequestIDs() requestIDs { return requestIDs{process: uuid.NewString()[:9]} }

func (x *requestIDs) next() string {
	text := strconv.AppendUint(make([]byte, 0, 17), 1<<32|uint64(x.count.Add(1)), 16)
	return x.process + string(text[1:])
}

// observe wraps the whole registry.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start := time.Now()
		w := &response{ResponseWriter: rw, request: r, control: *http.NewResponseController(rw), id: s.ids.next(),
			origin: s.gate.proxies.origin(r), caller: anyone, stall: s.stallTimeout, head: r.Method == http.MethodHead}
		w.Header()["X-Request-Id"] = []string{w.id}
		if !w.origin.proxied {
			s.doubted.note(w.origin, r.Header, s.log)
		}
		if r.ProtoMajor == 2 {
			// There net/http counts WriteTimeout from the request's beginning, and
			// then ends the stream, though a long push is still being read.
			w.control.SetWriteDeadline(time.Time{})
		}
		s.inFlight.Add(1)
		defer func() {
			defer s.inFlight.Add(-1)
			defer w.held.answered(r)
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				w.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				if w.status == 0 {
					writeError(w, errInternal)
				} else {
					// Half an answer must not look like a whole one.
					defer panic(http.ErrAbortHandler)
				}
			}
			// net/http sends what it has buffered, and reads what is left of the
			// body, after the handler.
			w.beforeWrite()
			if w.cut {
				defer panic(http.ErrAbortHandler)
			}
			if !w.broken && r.Body != http.NoBody {
				w.beforeRead(time.Time{})
			}
			s.record(w, r, time.Since(start))
		}()
		next.ServeHTTP(w, r)
	})
}

// record writes the request's log line and counts it.
func (s *server) record(w *response, r *http.Request, took time.Duration) {
	route, meter := w.route, w.meter
	if meter == nil {
		route = "none"
		meter = s.meters.of(route)
	}
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	meter.count(method(r), status, took)
	s.meters.sent.Add(w.bytes)

	level := slog.LevelInfo
	switch {
	case w.err != nil:
		level = slog.LevelError
	case status < 400 && isProbe(route):
		level = slog.LevelDebug // thousands a day, from whoever watches an idle registry
	}
	if !s.log.Enabled(r.Context(), level) {
		return
	}
	line := requestLine{at: time.Now(), method: shorten(r.Method), path: shorten(r.URL.EscapedPath()), route: route, status: status,
		bytes: w.bytes, took: took.Round(time.Microsecond), client: w.origin.client, id: w.id}
	if w.caller.view != nil {
		line.user = w.caller.label()
	}
	if h, ok := s.log.Handler().(logHandler); !ok || level != slog.LevelInfo || !h.writePlain(&line) {
		s.log.Handler().Handle(r.Context(), line.record(level, w.err))
	}
}

// isProbe reports whether a route is asked every few seconds by a machine that watches.
func isProbe(route string) bool {
	return route == "/healthz" || route == "/readyz" || route == "/metrics"
}

// method is a request's method as a label: a stranger's text is not one.
func method(r *http.Request) string {
	switch r.Method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		return r.Method
	}
	return "other"
}

// clientError says in plain words why a request's body could not be read.
func clientError(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "nothing has arrived for too long"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed in the middle of the body"
	}
	return err.Error()
}

// writeBody answers 200 with all of body.
func writeBody(w http.ResponseWriter, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body) // an error means that the client has gone
	return nil
}

// writeJSON answers 200 with v.
func writeJSON(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeBody(w, "application/json", body)
}
