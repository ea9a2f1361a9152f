// The route table, and the handlers of manifests and blobs.
//
// ServeMux matches {name} against one path segment, and a repository's name
// may have many. So the outermost step folds: the slashes of the name become
// %2F in a copy of the request's URL, ServeMux matches on that escaped form,
// and PathValue gives the name back whole. Names are always validated: an
// escaped path may bring anything.
//
// A handler returns an error and writes nothing then; serve writes it.

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// A server answers requests from a store.
type server struct {
	serverConfig
	local      bool // it answers commands alone (handlers_local.go)
	st         *store
	mux        *http.ServeMux
	meters     meters
	inFlight   atomic.Int64 // requests under way
	arriving   atomic.Int64 // bodies of uploads under way
	gate       *gate
	ids        requestIDs
	building   chan struct{} // full while as many lists as may be are put together
	planning   chan struct{} // likewise, for what looks at more
	large      atomic.Int64  // large manifests in memory
	waiting    *waiting
	doubted    disbelieved
	schemeless disbelieved // trusted proxies, by address, that do not say the scheme
	address    string
	sender     *sender                                       // of events
	lines      struct{ sessions, bodies, large waitingLine } // that wait to be opened, to arrive, to be read

	connections atomic.Pointer[connections] // nil before it listens
}

type serverConfig struct {
	stallTimeout stallTimeout
	maxArriving  int64 // bodies of uploads at once; 0 for no limit
	auth         authConfig
	gate         *gate         // that has been read and attends to no store; nil to read it
	certificates *certificates // nil without TLS
	log          *slog.Logger

	// dialEvents is how endpoints of events are reached; nil for the network. Tests have no network.
	dialEvents func(ctx context.Context, network, addr string) (net.Conn, error)
}

// access is what a request needs to be allowed to do.
type access int

const (
	openToAll access = iota // anyone may
	login                   // anyone may; the handler wants to know who it is
	enter                   // whoever is known, or has a token
	catalog                 // list the repositories that one may pull from
	pull
	push
	remove
	review  // see what was done, and what rules will do
	observe // read the metrics
)

type handler func(http.ResponseWriter, *http.Request) error

// routes is every endpoint and the access it needs. A GET pattern serves HEAD
// too. Numbers are the specification's ("Endpoints").
func (s *server) routes() []route {
	const (
		manifests = "/v2/{name}/manifests/{reference}"
		blobs     = "/v2/{name}/blobs/{digest}"
		uploads   = "/v2/{name}/blobs/uploads/{$}"
		session   = "/v2/{name}/blobs/uploads/{session}"
		ours      = "/v2/{name}/_berth/"
	)
	return []route{
		{"GET /v2/{$}", enter, s.getBase}, // end-1
		{"GET /v2", enter, s.getBase},
		{"GET " + blobs, pull, s.getBlob},                             // end-2
		{"GET " + manifests, pull, s.getManifest},                     // end-3
		{"POST " + uploads, push, s.postUpload},                       // end-4a, 4b, 11
		{"GET " + session, push, s.getUpload},                         // end-13
		{"PATCH " + session, push, s.patchUpload},                     // end-5
		{"PUT " + session, push, s.putUpload},                         // end-6
		{"DELETE " + session, push, s.deleteUpload},                   // end-14
		{"PUT " + manifests, push, s.putManifest},                     // end-7
		{"GET /v2/{name}/tags/list", pull, s.listTags},                // end-8a, 8b
		{"DELETE " + manifests, remove, s.deleteManifest},             // end-9
		{"DELETE " + blobs, remove, s.deleteBlob},                     // end-10
		{"GET /v2/{name}/referrers/{digest}", pull, s.listReferrers},  // end-12a, 12b
		{"GET /v2/_catalog", catalog, s.listRepositories},             // Docker Registry HTTP API V2
		{"DELETE " + ours + "repository", remove, s.deleteRepository}, // Berth's own, from here on
		{"GET " + ours + "retention", review, s.getRetention},
		{"GET " + ours + "history", review, s.getHistory},
		{"POST " + ours + "undo", remove, s.postUndo},
		{"GET /healthz", openToAll, probes{s}.getHealth},
		{"GET /readyz", openToAll, probes{s}.getReady},
		{"GET /metrics", observe, s.getMetrics},
		{"GET /v2/token", login, s.getToken}, // Docker's token authentication
		{"POST /v2/token", login, s.getToken},
		{"GET /login", login, loginPages{s}.getLogin},
		{"GET /login/callback", login, loginPages{s}.getLoginCallback},
		{"POST /login/token", login, loginPages{s}.postLoginToken},
		{"POST /login/revoke", login, loginPages{s}.postLoginRevoke},
		{"POST /login/out", login, loginPages{s}.postLogout},
		{"GET /trust", openToAll, s.getTrust},
		{"GET /trust.sh", openToAll, s.getTrust},
		{"GET /trust.crt", openToAll, s.getTrust},
		{"/", openToAll, s.noEndpoint},
	}
}

type route struct {
	pattern string
	access  access
	handle  handler
}

// newServer returns the registry over st; serve its handler.
func newServer(st *store, cfg serverConfig) (*server, error) {
	gate, err := cfg.gate, error(nil)
	if gate == nil {
		gate, err = readGate(cfg.auth, st.dir, cfg.log)
	}
	if err == nil {
		err = gate.attend(st, cfg.certificates)
	}
	if err != nil {
		return nil, err
	}
	s := &server{gate: gate, ids: newRequestIDs(), serverConfig: cfg, st: st, mux: http.NewServeMux(), waiting: newWaiting(),
		building: make(chan struct{}, max(4, runtime.GOMAXPROCS(0))), planning: make(chan struct{}, maxInUse)}
	s.lines.sessions.waiting, s.lines.bodies.waiting, s.lines.large.waiting = s.waiting, s.waiting, s.waiting
	if cfg.certificates != nil {
		cfg.certificates.called = gate.called
	}
	st.events.publicURL = cfg.auth.publicURL
	if s.sender, err = newSender(st.events, cfg); err != nil {
		return nil, err
	}
	if err := removePromises(st.dir); err != nil && st.writer != nil {
		return nil, err
	}
	st.attend(serverHost{gate, s})
	st.backups.recallBackup(st.dir)
	s.registerMetrics()
	for _, r := range s.routes() {
		s.mux.Handle(r.pattern, s.serve(r))
	}
	return s, nil
}

// A serverHost is the store's host while a server has it.
type serverHost struct {
	*gate
	server *server
}

func (h serverHost) serves() bool                   { return true }
func (h serverHost) busy() bool                     { return h.server.inFlight.Load() > 0 }
func (h serverHost) listeners() (*listeners, error) { return h.server.sender.current(), nil }
func (h serverHost) uploadEnded()                   { h.server.lines.sessions.freed() }
func (h serverHost) whereabouts() whereabouts {
	var called []string
	if scheme, host, ok := strings.Cut(h.publicURL, "://"); ok {
		called = append(called, withPort(host, scheme))
	}
	c := h.server.certificates
	return whereabouts{h.server.address, c != nil, append(called, h.names...), c != nil && c.authority != nil, h.byCertificate}
}

// handler is the registry with all that is around it.
func (s *server) handler() http.Handler {
	return s.observe(s.forPages(s.onlyOurPages(fold(s.mux))))
}

// Values of headers that are always the same. Nobody changes them: Set puts another in their place.
var (
	headerVersion   = []string{"registry/2.0"}
	headerNosniff   = []string{"nosniff"}
	headerImmutable = []string{"max-age=31536000, immutable"}
	headerRanges    = []string{"bytes"}
)

// serve makes a route an http.Handler: it checks the access, calls the handler
// and writes its error.
func (s *server) serve(route route) http.Handler {
	label := route.pattern[strings.IndexByte(route.pattern, ' ')+1:]
	meter := s.meters.of(label)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2") {
			h := w.Header()
			h["Docker-Distribution-Api-Version"] = headerVersion
			h["X-Content-Type-Options"] = headerNosniff
		}
		resp := w.(*response)
		resp.route, resp.meter = label, meter
		err := s.admit(resp, r, route.access)
		if err == nil {
			resp.held = hold(r, route.access)
			err = route.handle(w, r)
		}
		if err == nil {
			return
		}
		e, known := asProtocolError(err)
		if !known || e == errNoSpace {
			resp.err = err
		}
		if !known {
			s.st.ruin.explain(err)
			s.st.ruin.missing()
		}
		if e == errNoSpace {
			e = e.saying("%s", s.st.fullness(err)+roomAdvice)
		}
		writeError(w, e)
	})
}

// fold hides the slashes of repository names from ServeMux. The name ends at
// the last of the words, so that a repository may be named by them too.
// What follows the word is one segment, except uploads/<session>.
func fold(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		escaped := r.URL.EscapedPath()
		folded, plain := escaped, r.URL.Path
		rest, isV2 := strings.CutPrefix(escaped, "/v2/")
		at, word := -1, ""
		if isV2 {
			at, word = lastWord(rest)
		}
		if at > 0 && isPlain(rest[:at]) && isPlain(rest[at+len(word):]) {
			// It is folded as it is, as nearly all names of one component are.
		} else if at > 0 {
			tail := rest[at+len(word):]
			prefix := ""
			if word == "/blobs/" && strings.HasPrefix(tail, "uploads/") {
				prefix, tail = "uploads/", tail[len("uploads/"):]
			}
			folded = "/v2/" + oneSegment(rest[:at]) + word + prefix + oneSegment(tail)
		} else if clean := path.Clean(escaped); at == 0 || clean != escaped && clean+"/" != escaped {
			// ServeMux would redirect, and turn a PUT into a GET of elsewhere.
			folded, plain = "", "/unclean"
			if isV2 {
				plain = "/v2/unclean"
			}
		}
		if folded != escaped {
			// As http.StripPrefix does: a shallow copy with its own URL.
			r2 := new(http.Request)
			*r2 = *r
			r2.URL = new(url.URL)
			*r2.URL = *r.URL
			r2.URL.Path, r2.URL.RawPath = plain, folded
			r = r2
		}
		next.ServeHTTP(w, r)
	})
}

// lastWord finds the last of the segments between slashes that end a repository's name, and returns it
// with both slashes, and where it begins; -1 if there is none.
func lastWord(path string) (at int, word string) {
	for end := strings.LastIndexByte(path, '/'); end > 0; {
		begin := strings.LastIndexByte(path[:end], '/')
		if begin < 0 {
			break
		}
		switch path[begin+1 : end] {
		case "manifests", "blobs", "tags", "referrers", "_berth":
			return begin, path[begin : end+1]
		}
		end = begin
	}
	return -1, ""
}

// isPlain reports whether oneSegment would change nothing.
func isPlain(escaped string) bool {
	return escaped != "." && escaped != ".." && strings.IndexByte(escaped, '/') < 0
}

// oneSegment makes an escaped path one segment that path cleaning leaves alone.
func oneSegment(escaped string) string {
	if escaped == "." || escaped == ".." {
		return strings.ReplaceAll(escaped, ".", "%2E")
	}
	return strings.ReplaceAll(escaped, "/", "%2F")
}

// noEndpoint answers what no route takes: 405 with Allow if other methods
// would be taken there, else 404.
func (s *server) noEndpoint(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		other := *r
		other.Method = m
		if _, pattern := s.mux.Handler(&other); pattern != "/" {
			allowed = append(allowed, m)
		}
	}
	if len(allowed) > 0 {
		return errUnsupported.with("this endpoint does not support the method").withHeader("Allow", strings.Join(allowed, ", "))
	}
	return errNoSuchEndpoint
}

// getBase tells a client that this is a registry: GET /v2/.
func (s *server) getBase(w http.ResponseWriter, r *http.Request) error {
	return writeBody(w, "application/json", []byte("{}"))
}

// getManifest serves a manifest's exact bytes: GET and HEAD
// /v2/<name>/manifests/<reference> ("Pulling manifests"). Whatever a client
// says it accepts, it gets what was pushed.
func (s *server) getManifest(w http.ResponseWriter, r *http.Request) error {
	name, ref, err := nameAndReference(r)
	if errors.Is(err, errTagInvalid) {
		return errManifestUnknown.with(map[string]string{"name": name}) // no such tag can be
	}
	if err != nil {
		return err
	}
	m, err := s.st.findManifest(name, ref, r.Method == http.MethodHead)
	if err != nil && r.Method == http.MethodGet {
		return s.st.explainAbsence(name, ref.digest, err)
	}
	if err != nil {
		return err
	}
	pushed := m.pushed
	if m, err = s.negotiate(w, r, name, m); err != nil {
		return err
	}
	var body []byte
	if r.Method != http.MethodHead || !m.verified.Load() { // else nothing of it is read
		var release func()
		body, release, err = s.st.bodyOf(r.Context(), m)
		if errors.Is(err, context.Canceled) {
			return errTooManyAnswers // the client has gone
		}
		if err != nil {
			return err
		}
		defer release()
	}
	s.st.pulls.note(m, r.Method == http.MethodHead, ref.tag != "", pushed)
	if r.Method == http.MethodGet && s.st.events.hearsPulls() {
		s.st.events.announcePull(name, ref.tag, m, w.(*response).requester())
	}
	if unconditional(r.Header) {
		s.sendEntity(w, r, &m.header, ref.digest != "", body)
		return nil
	}
	var content io.ReadSeeker = bytes.NewReader(body)
	if body == nil {
		content = io.NewSectionReader(nil, 0, int64(m.size))
	}
	return s.serveContent(w, r, m.mediaType, m.digest, ref.digest != "", content)
}

// negotiate replaces what a tag points at by what the client can read, if that is
// an index of the registry's. What a client has pushed is served as it is.
func (s *server) negotiate(w http.ResponseWriter, r *http.Request, repository string, m *storedManifest) (*storedManifest, error) {
	if !m.made {
		return m, nil
	}
	w.Header().Add("Vary", "Accept")
	if takesIndex(r.Header["Accept"]) {
		return m, nil
	}
	return s.st.platforms.forOnePlatform(repository, m, r.Method == http.MethodHead)
}

// getBlob serves a blob's bytes, or a part of them: GET and HEAD
// /v2/<name>/blobs/<digest> ("Pulling blobs").
func (s *server) getBlob(w http.ResponseWriter, r *http.Request) error {
	name, d, err := nameAndDigest(r)
	if err != nil {
		return err
	}
	f, err := s.st.openBlob(name, d, r.Method == http.MethodHead)
	if err != nil {
		return err
	}
	defer f.Close()
	if m, ok := f.(*inMemory); ok && unconditional(r.Header) {
		w.Header()["Accept-Ranges"] = headerRanges
		s.sendEntity(w, r, &m.known.header, true, m.known.body)
		return nil
	}
	err = s.serveContent(w, r, typeBlob, d, true, f)
	if resp, ok := w.(*response); ok && isBadSector(resp.failed) {
		s.st.scrubber.suspect(d) // the disk failed; the client has got too few bytes, and knows
	}
	return err
}

// putManifest stores a manifest: PUT /v2/<name>/manifests/<reference>
// ("Pushing manifests"). A push by digest may bring tags along as ?tag=.
func (s *server) putManifest(w http.ResponseWriter, r *http.Request) error {
	name, ref, err := nameAndReference(r)
	if err != nil {
		return err
	}
	extra := r.URL.Query()["tag"]
	if len(extra) > maxTags {
		return errTooManyTags.withf("%d, at most %d", len(extra), maxTags)
	}
	tags := extra
	if ref.tag != "" {
		tags = append([]string{ref.tag}, extra...)
	}
	for _, tag := range tags {
		if _, err := parseTag(tag); err != nil {
			return err
		}
	}
	if err := s.st.room(max(r.ContentLength, 0)); err != nil {
		return err
	}
	body, release, err := s.readManifest(w, r)
	if err != nil {
		return err
	}
	defer release()
	algorithm := digest.SHA256
	if ref.digest != "" {
		algorithm = ref.digest.Algorithm()
	}
	d := algorithm.FromBytes(body)
	if ref.digest != "" && d != ref.digest {
		return errDigestInvalid.withf("the manifest received has the digest %s, not %s", d, ref.digest)
	}
	m, err := parseManifest(body, r.Header.Get("Content-Type"), d)
	if err != nil {
		return err
	}
	partly := s.local && r.Header.Get(partlyHeader) != ""
	if err := s.st.putManifestAllowing(name, m, tags, w.(*response).author(name), partly); err != nil {
		return err
	}
	s.audit(w, "push", "repository", name, "tags", tags, "digest", d)
	h := w.Header()
	h.Set("Location", "/v2/"+name+"/manifests/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	if m.subject != "" {
		h.Set("OCI-Subject", m.subject.String())
	}
	for _, tag := range extra {
		h.Add("OCI-Tag", tag)
	}
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

const (
	// maxTags bounds the tags of one push; the specification asks for 10.
	maxTags = 100
	// Manifests are a few KiB. The few that are not wait for each other, so
	// that 4 MiB bodies and what is parsed from them do not fill the memory.
	smallManifest     = 64 << 10
	maxLargeManifests = 3
	// manifestTimeout is how long a small manifest's body may take in all;
	// largeTimeout how long a large one's may take from its turn on.
	manifestTimeout = 2 * time.Minute
	largeTimeout    = 30 * time.Second
)

// readManifest reads a request's body, at most maxManifest bytes. The caller
// calls release when it has done with them.
func (s *server) readManifest(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	if r.ContentLength > maxManifest {
		return nil, nil, errManifestTooLarge
	}
	reader := &bodyReader{body: r.Body, response: w.(*response), left: -1, until: time.Now().Add(manifestTimeout)}
	release = func() {}
	body, err = io.ReadAll(io.LimitReader(reader, smallManifest))
	if err == nil && len(body) == smallManifest {
		err = s.lines.large.await(reader.response, r, patience, errBusy, func() error {
			if !takeOne(&s.large, maxLargeManifests) {
				return errBusy
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
		release = func() { s.large.Add(-1); s.lines.large.freed() }
		reader.until = time.Now().Add(largeTimeout)
		rest := bytes.NewBuffer(body)
		_, err = rest.ReadFrom(io.LimitReader(reader, maxManifest-smallManifest+1))
		body = rest.Bytes()
	}
	switch {
	case err != nil:
		release()
		return nil, nil, errManifestInvalid.with(err.Error())
	case len(body) > maxManifest:
		release()
		return nil, nil, errManifestTooLarge
	}
	return body, release, nil
}

// deleteManifest removes a tag, or a manifest with its tags: DELETE
// /v2/<name>/manifests/<reference> ("Deleting tags", "Deleting manifests").
func (s *server) deleteManifest(w http.ResponseWriter, r *http.Request) error {
	name, ref, err := nameAndReference(r)
	if err != nil {
		return err
	}
	if _, err := s.st.removeOne(named{name, ref}, w.(*response).author(name)); err != nil {
		return err
	}
	s.audit(w, "delete", "repository", name, "reference", ref)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// deleteBlob takes a blob out of a repository: DELETE
// /v2/<name>/blobs/<digest> ("Deleting blobs").
func (s *server) deleteBlob(w http.ResponseWriter, r *http.Request) error {
	name, d, err := nameAndDigest(r)
	if err != nil {
		return err
	}
	if err := s.st.deleteBlob(name, d, w.(*response).requester()); err != nil {
		return err
	}
	s.audit(w, "delete", "repository", name, "blob", d)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// getTrust tells how to come to trust the local CA: GET /trust.
func (s *server) getTrust(w http.ResponseWriter, r *http.Request) error {
	trust := s.certificates.trust()
	if trust == nil {
		return errNoSuchEndpoint.saying("this registry has no certificate authority of its own to trust; berth --tls=auto makes one")
	}
	trust.ServeHTTP(w, r)
	return nil
}
