// Commands that bring images in or take them out ask the registry as its clients do: at the same endpoints,
// through the socket in the data directory, or in their own process if no server has the directory.
//
// So what they bring is verified, written down and announced as a push is, read-only registries refuse it, and a
// full disk ends it. Who may open the socket owns the directory: nobody is asked for a password, and limits that
// keep clients from each other do not hold. Only here there is what an import needs and the protocol has no words
// for: an index without all of its members, and a blob that any repository may have.

package main

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
)

const (
	// accountHeader names the account of the person who gave the command.
	accountHeader = "Berth-Account"
	// partlyHeader, on a PUT of an index, says that members may be missing.
	partlyHeader = "Berth-Partly"
)

// newLocalServer returns the endpoints for commands on a store. log gets a line for each request; it is not closed.
func newLocalServer(st *store, log *slog.Logger) *server {
	s := &server{local: true, gate: &gate{st: st, log: log}, ids: newRequestIDs(), serverConfig: serverConfig{log: log}, st: st,
		mux: http.NewServeMux(), waiting: newWaiting(), building: make(chan struct{}, 4), planning: make(chan struct{}, maxInUse)}
	s.lines.sessions.waiting, s.lines.bodies.waiting, s.lines.large.waiting = s.waiting, s.waiting, s.waiting
	for _, r := range s.routes() {
		if r.access == enter || r.access == catalog || r.access == pull || r.access == push || r.pattern == "/" {
			s.mux.Handle(r.pattern, s.serve(r))
		}
	}
	return s
}

// localHandler is the endpoints, as newLocalServer's server answers them.
func (s *server) localHandler() http.Handler { return s.observe(fold(s.mux)) }

// admitLocal is admit for a command.
func (s *server) admitLocal(w *response, r *http.Request, need access) error {
	w.caller = &caller{person: person{user: cmp.Or(r.Header.Get(accountHeader), "command")}, command: true}
	w.origin = origin{}
	if !needed[need].named {
		return nil
	}
	if _, err := parseName(r.PathValue("name")); err != nil {
		return err
	}
	if s.st.readOnly && need == push {
		return errUnsupported.saying("this registry is read-only, by --read-only")
	}
	return nil
}

// An inProcess sends requests to a handler in this process, as an http.RoundTripper. The answer's body has to be
// read to its end, or closed.
type inProcess struct{ http.Handler }

func (t inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	r := req.Clone(req.Context())
	r.RequestURI, r.Host = req.URL.RequestURI(), req.URL.Host
	if r.Body == nil {
		r.Body = http.NoBody
	}
	reader, writer := io.Pipe()
	a := &localAnswer{header: make(http.Header), begun: make(chan struct{}), body: writer, silent: req.Method == http.MethodHead}
	go func() {
		defer func() {
			err := io.EOF
			if recover() != nil { // the handler ends an answer in the middle, and the client has to see that
				err = io.ErrUnexpectedEOF
			}
			a.WriteHeader(http.StatusOK)
			writer.CloseWithError(err)
			r.Body.Close()
		}()
		t.Handler.ServeHTTP(a, r)
	}()
	select {
	case <-a.begun:
	case <-req.Context().Done():
		reader.CloseWithError(context.Canceled) // the handler may still wait for the body: for a pipe to which nobody writes, say
		return nil, req.Context().Err()
	}
	length := int64(-1)
	if n, err := strconv.ParseInt(a.sent.Get("Content-Length"), 10, 64); err == nil {
		length = n
	}
	return &http.Response{Status: http.StatusText(a.status), StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.sent, ContentLength: length, Body: reader, Request: req}, nil
}

// A localAnswer is the http.ResponseWriter of inProcess.
type localAnswer struct {
	header, sent http.Header
	status       int
	once         sync.Once
	begun        chan struct{} // closed when there is a status
	body         *io.PipeWriter
	silent       bool // HEAD
	buffer       []byte
}

func (a *localAnswer) Header() http.Header { return a.header }

func (a *localAnswer) WriteHeader(status int) {
	a.once.Do(func() {
		a.status, a.sent = status, a.header.Clone()
		close(a.begun)
	})
}

// ReadFrom is for files.
func (a *localAnswer) ReadFrom(r io.Reader) (int64, error) {
	a.WriteHeader(http.StatusOK)
	if a.silent {
		return 0, nil
	}
	if a.buffer == nil {
		a.buffer = make([]byte, largeBuffer)
	}
	return io.CopyBuffer(struct{ io.Writer }{a.body}, struct{ io.Reader }{r}, a.buffer)
}

func (a *localAnswer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.silent {
		return len(p), nil
	}
	return a.body.Write(p)
}
