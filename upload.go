// An upload's life, from POST to blob.
//
// A session is a row in the database (its repository and the offset that was
// acknowledged) and a file under uploads/. POST makes the row; PATCH appends
// to the file while the bytes are hashed on the way, so that nothing is read
// twice; PUT appends the last bytes, compares the digest, and commits the
// blob. Requests take turns on a session, and each sees the true offset.
//
// The running hash lives with the session in this process only. After a
// restart the bytes on disk are read again: a saved hash over pages that a
// power cut lost would lie. No file is held open between requests.

package main

import (
	"bytes"
	"context"
	_ "crypto/sha256" // for go-digest
	_ "crypto/sha512"
	"database/sql"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

// An upload is an open session.
type upload struct {
	id         string
	repository string
	owner      string // caller.id of whoever began it
	share      string // whose share of the uploads it takes
	algorithm  digest.Algorithm
	offset     atomic.Int64  // bytes in the file that count; changed by the holder of turn
	turn       chan struct{} // full while a request is at work on the session
	queue      queue         // those who wait for it
	hash       hash.Hash     // by algorithm, of the first offset bytes, or nil if they must be read again; both guarded by turn
	writing    writing       // guarded by turn
	held       []byte        // all of it, if it came with its end; then the file, if any, has none of it; guarded by turn
	filed      bool          // there may be a file; guarded by turn
	ended      bool          // guarded by turn
	given      atomic.Bool   // the request at work is to stop: the owner is no more
}

// sessions are the uploads that this process has touched.
type sessions struct {
	mu     sync.Mutex // guards open and shares, and is held while count changes
	open   map[string]*upload
	shares map[string]int64 // how many there are by upload.share
	count  atomic.Int64     // rows in the database, or about to be
	brief  sync.Map         // ids of those without a row, that end with their request

	finished finished
}

func newSession(id, repository, owner string, algorithm digest.Algorithm) *upload {
	return &upload{id: id, repository: repository, owner: owner, algorithm: algorithm,
		turn: make(chan struct{}, 1), hash: algorithm.Hash()}
}

// postUpload begins an upload, or does all of it: POST /v2/<name>/blobs/uploads/
// (specification: "Pushing blobs", "Mounting a blob from another repository").
func (s *server) postUpload(w http.ResponseWriter, r *http.Request) error {
	name, err := parseName(r.PathValue("name"))
	if err != nil {
		return err
	}
	query := r.URL.Query()
	algorithm := digest.SHA256
	if a := query.Get("digest-algorithm"); a != "" {
		if algorithm = digest.Algorithm(a); algorithm != digest.SHA256 && algorithm != digest.SHA512 {
			return errDigestInvalid.withf("digest-algorithm %.40q is not supported; use sha256 or sha512", a)
		}
	}
	if text := query.Get("mount"); text != "" {
		d, err := parseDigest(text)
		if err != nil {
			return err
		}
		mounted, err := s.mount(w, name, query.Get("from"), d)
		if err != nil {
			return err
		}
		if mounted {
			s.answerBlobCreated(w, name, d)
			return nil
		}
		// What cannot be mounted is uploaded, in an ordinary session.
	} else if text := query.Get("digest"); text != "" {
		d, err := parseDigest(text)
		if err != nil {
			return err
		}
		u := newSession(uuid.NewString(), name, owner(w), d.Algorithm()) // without a row: it ends with this request
		s.st.sessions.brief.Store(u.id, true)
		defer s.st.sessions.brief.Delete(u.id)
		if err := s.receive(w, r, u, true); err != nil {
			s.st.dropFile(u)
			return err
		}
		if err := s.st.finish(u, d); err != nil {
			return err
		}
		s.answerBlobCreated(w, name, d)
		return nil
	}
	var u *upload
	var refused error
	err = s.lines.sessions.await(w.(*response), r, patience, errTooManyRequests, func() (err error) {
		u, err = s.st.createUpload(name, owner(w), shareOf(w), algorithm)
		refused = err
		return err
	})
	if errors.Is(err, errTooManyRequests) {
		if refused == nil { // too many wait already
			refused = errTooManyRequests.withHeader("Retry-After", "60")
		}
		return refused
	}
	if err != nil {
		return err
	}
	answerUpload(w, u)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// owner is who makes a request, and so the owner of the session it begins.
func owner(w http.ResponseWriter) string { return w.(*response).caller.id() }

// mount links a blob of the repository from into name. It reports false if
// that repository does not have it, or is not named, or not nameable, or not
// for this caller.
func (s *server) mount(w http.ResponseWriter, name, from string, d digest.Digest) (bool, error) {
	if _, err := parseName(from); err != nil || w.(*response).caller.may(from)&mayPull == 0 {
		return false, nil
	}
	err := s.st.mountBlob(name, from, d)
	if errors.Is(err, errBlobUnknown) {
		return false, nil
	}
	return err == nil, err
}

// getUpload tells how far an upload has come: GET on its Location.
func (s *server) getUpload(w http.ResponseWriter, r *http.Request) error {
	u, err := s.st.findUpload(r.PathValue("name"), r.PathValue("session"), owner(w))
	if err != nil {
		return err
	}
	answerUpload(w, u)
	w.Header().Set("Range", rangeTo(max(u.offset.Load(), u.queue.arrived.Load())))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// patchUpload appends a chunk, or a stream of unknown length.
func (s *server) patchUpload(w http.ResponseWriter, r *http.Request) error {
	u, release, err := s.st.takeUpload(r.Context(), r.PathValue("name"), r.PathValue("session"), owner(w))
	if err != nil {
		return err
	}
	defer release()
	if err := s.receive(w, r, u, false); err != nil {
		s.st.saveOffsetAfter(u, err)
		return err
	}
	if err := s.st.saveOffset(u); err != nil {
		return err
	}
	answerUpload(w, u)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// putUpload appends what the body has, if anything, and makes a blob of it all.
func (s *server) putUpload(w http.ResponseWriter, r *http.Request) error {
	u, release, err := s.st.takeUpload(r.Context(), r.PathValue("name"), r.PathValue("session"), owner(w))
	if errors.Is(err, errBlobUploadUnknown) {
		if done, e := s.commitAgain(w, r); done || e != nil {
			return e
		}
	}
	if err != nil {
		return err
	}
	defer release()
	d, err := parseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	u.expect(d.Algorithm())
	if err := s.receive(w, r, u, true); err != nil {
		s.st.saveOffsetAfter(u, err)
		return err
	}
	if err := s.st.finish(u, d); err != nil {
		return err
	}
	s.answerBlobCreated(w, u.repository, d)
	return nil
}

// expect is called before a session's last bytes come, with the algorithm of the
// digest that it shall have: few clients say so when they begin. Bytes that are
// here already and were hashed otherwise are read again at the end, so the others
// need not be hashed now. The caller holds the turn.
func (u *upload) expect(algorithm digest.Algorithm) {
	if algorithm == u.algorithm {
		return
	}
	u.algorithm, u.hash = algorithm, nil
	if u.offset.Load() == 0 {
		u.hash = algorithm.Hash()
	}
}

// deleteUpload gives an upload up.
func (s *server) deleteUpload(w http.ResponseWriter, r *http.Request) error {
	u, release, err := s.st.takeUpload(r.Context(), r.PathValue("name"), r.PathValue("session"), owner(w))
	if err != nil {
		return err
	}
	defer release()
	if err := s.st.endUpload(u); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// answerUpload sets the headers that tell a client where and how to go on. The
// Location is a path: it holds behind any proxy that keeps paths.
func answerUpload(w http.ResponseWriter, u *upload) {
	h := w.Header()
	h.Set("Location", u.location())
	h.Set("Range", u.rangeSoFar())
	h.Set("Docker-Upload-UUID", u.id)
}

func (u *upload) location() string {
	return "/v2/" + u.repository + "/blobs/uploads/" + u.id
}

// rangeSoFar is the Range header: the first and last byte that are here. It
// has no unit, and no way to say "none": zero bytes look like one.
func (u *upload) rangeSoFar() string { return rangeTo(u.offset.Load()) }

func rangeTo(offset int64) string { return "0-" + strconv.FormatInt(max(offset, 1)-1, 10) }

func (s *server) answerBlobCreated(w http.ResponseWriter, name string, d digest.Digest) {
	h := w.Header()
	h.Set("Location", "/v2/"+name+"/blobs/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}

// receive appends a request's body to a session whose turn the caller holds, and
// which ends then if it is the last.
// A Content-Range must begin at the offset (416 if not) and be as long as the
// body. What arrives before an error is kept and counted, except when the disk
// is full: then this request's bytes are given back.
func (s *server) receive(w http.ResponseWriter, r *http.Request, u *upload, last bool) error {
	limit := s.st.maxBlob
	offset := u.offset.Load()
	want := r.ContentLength // -1 if the client does not know
	if text := r.Header.Get("Content-Range"); text != "" {
		first, last, err := parseContentRange(text)
		if err != nil {
			return err
		}
		if want >= 0 && want != last-first+1 {
			return errBlobUploadInvalid.withf("Content-Range %s has %d bytes, the body %d", text, last-first+1, want)
		}
		if first != offset {
			return errRangeInvalid.withf("the chunk begins at %d, want %d", first, offset).
				withHeader("Range", u.rangeSoFar()).withHeader("Location", u.location()).
				withHeader("Docker-Upload-UUID", u.id)
		}
		want = last - first + 1
	}
	if limit > 0 && (offset > limit || want > limit-offset) {
		return errBlobTooLarge.withf("the limit is %d bytes", limit)
	}
	if want == 0 {
		return nil
	}
	if err := s.st.roomForBlob(want); err != nil {
		return err
	}
	err := s.lines.bodies.await(w.(*response), r, bodyPatience, errTooManyBodies, func() error {
		if !takeOne(&s.arriving, s.maxArriving) {
			return errTooManyBodies
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer func() { s.arriving.Add(-1); s.lines.bodies.freed() }()
	body := &bodyReader{body: r.Body, response: w.(*response), left: -1, queue: &u.queue, patience: s.st.patience, given: &u.given}
	u.queue.arrived.Store(offset)
	defer u.queue.arrived.Store(0)
	if want >= 0 {
		body.left = want
	} else if limit > 0 {
		body.left = limit - offset
	}
	var n int64
	if last && offset == 0 && want > 0 && want == r.ContentLength && want <= maxSmall {
		n, err = s.st.hold(u, body)
	} else {
		n, err = s.st.append(u, body)
	}
	s.meters.received.Add(n)
	if err != nil {
		return err
	}
	switch extra := body.more(); {
	case want >= 0 && n < want:
		return errClient.withf("%d bytes of %d have arrived", n, want)
	case extra && want < 0:
		return errBlobTooLarge.withf("the limit is %d bytes", limit)
	case extra:
		return errBlobUploadInvalid.withf("the body is longer than its Content-Range")
	}
	return nil
}

// parseContentRange reads the header of a chunk. The specification's form is
// "<first>-<last>"; HTTP's "bytes <first>-<last>/<length or *>" is taken too.
// Both ends are inclusive. The length of the range fits in an int64.
func parseContentRange(s string) (first, last int64, err error) {
	m := contentRange.FindStringSubmatch(s)
	if m != nil {
		first, err = strconv.ParseInt(m[1], 10, 64)
		if err == nil {
			last, err = strconv.ParseInt(m[2], 10, 64)
		}
	}
	if m == nil || err != nil || last < first || last == 1<<63-1 {
		return 0, 0, errBlobUploadInvalid.withf("Content-Range %.80q is not of the form <first>-<last>", s)
	}
	return first, last, nil
}

var contentRange = regexp.MustCompile(`^(?:bytes[ =])?([0-9]+)-([0-9]+)(?:/(?:[0-9]+|\*))?$`)

// A bodyReader reads at most left bytes (-1: to the end) of a request's body.
// Each read has the stall timeout to bring something. Its errors are
// errClient: the client broke off, stalled, or sent nonsense.
type bodyReader struct {
	body     io.Reader
	response *response
	left     int64
	queue    *queue        // of the session; nil for a manifest
	patience time.Duration // with a client that is silent while others are in the queue
	since    time.Time     // when the last read began
	hurried  bool          // another request wants the turn
	until    time.Time     // when all of it must have come; zero for never
	given    *atomic.Bool  // nobody wants the rest any more; may be nil
}

func (b *bodyReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.given != nil && b.given.Load() {
		return 0, errClient.with("who began the upload may not go on with it")
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.read(p)
	if b.queue != nil {
		b.queue.arrived.Add(int64(n))
	}
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err != nil {
		b.response.afterRead(err)
		switch {
		case err == io.EOF:
		case b.hurried && errors.Is(err, os.ErrDeadlineExceeded):
			err = errClient.with("another request goes on with the upload")
		default:
			err = errClient.with(clientError(err))
		}
	}
	return n, err
}

// rest is called when nobody waits for the client: it has no time to keep.
func (b *bodyReader) rest() { b.response.afterRead(nil) }

// more reports whether the body goes on after left bytes.
func (b *bodyReader) more() bool {
	if b.left != 0 {
		return false
	}
	var one [1]byte
	n, err := b.read(one[:])
	b.response.afterRead(err)
	return n > 0 && (err == nil || err == io.EOF)
}

// createUpload opens a session. Its row survives a crash of the process, and
// costs no sync.
func (st *store) createUpload(repository, owner, share string, algorithm digest.Algorithm) (*upload, error) {
	u := newSession(uuid.NewString(), repository, owner, algorithm)
	u.share = share
	if err := st.sessions.begin(u, st.maxUploads); err != nil {
		return nil, err
	}
	err := st.roomForBlob(0)
	if err != nil {
		st.endSession(u)
		return nil, err
	}
	err = st.updateLazy(func(t *tx) error {
		_, err := t.exec(`INSERT INTO upload (id, repository, owner, algorithm, offset, used, begun) VALUES (?1, ?2, ?3, ?4, 0, ?5, ?5)`,
			u.id, repository, owner, algorithm, t.clock)
		return err
	})
	if err != nil {
		st.endSession(u)
		return nil, fmt.Errorf("opening an upload: %w", err)
	}
	st.wakeJanitor()
	return u, nil
}

// findUpload returns a repository's session, without its turn. To anybody but
// its owner there is none.
func (st *store) findUpload(repository, id, owner string) (*upload, error) {
	if _, err := parseName(repository); err != nil {
		return nil, err
	}
	unknown := errBlobUploadUnknown.with(map[string]string{"name": repository})
	if !isUUID(id) {
		return nil, unknown
	}
	st.sessions.mu.Lock()
	defer st.sessions.mu.Unlock()
	u := st.sessions.open[id]
	if u == nil {
		// Of an earlier process, or of none.
		u = newSession(id, "", "", digest.SHA256)
		var offset int64
		err := st.get(`SELECT repository, owner, algorithm, offset FROM upload WHERE id = ?`,
			[]any{id}, &u.repository, &u.owner, &u.algorithm, &offset)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, unknown
		}
		if err != nil {
			return nil, fmt.Errorf("looking up an upload: %w", err)
		}
		// A power cut may have taken bytes that were acknowledged.
		if info, err := os.Stat(st.uploadPath(u)); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("looking at an upload: %w", err)
			}
			offset = 0
		} else {
			offset = min(offset, info.Size())
		}
		u.offset.Store(offset)
		u.hash, u.share, u.filed = nil, u.owner, true
		st.sessions.open[id] = u
	}
	if u.repository != repository || u.owner != owner {
		return nil, unknown
	}
	return u, nil
}

// knowsUpload reports whether there is such a session now.
func (st *store) knowsUpload(id string) (bool, error) {
	if _, ok := st.sessions.brief.Load(id); ok {
		return true, nil
	}
	st.sessions.mu.Lock()
	_, open := st.sessions.open[id] // also while its file goes, after its row
	st.sessions.mu.Unlock()
	if open {
		return true, nil
	}
	var n int
	err := st.get(`SELECT count(*) FROM upload WHERE id = ?`, []any{id}, &n)
	return n > 0, err
}

// takeUpload returns a repository's session when it is the caller's turn on
// it, which ends with release. It waits no longer than ctx.
func (st *store) takeUpload(ctx context.Context, repository, id, owner string) (u *upload, release func(), err error) {
	u, err = st.findUpload(repository, id, owner)
	if err != nil {
		return nil, nil, err
	}
	if !u.take(ctx) {
		return nil, nil, errClient.with("the client left while another request was at work on the upload")
	}
	if u.ended {
		<-u.turn
		return nil, nil, errBlobUploadUnknown.with(map[string]string{"name": repository})
	}
	return u, func() {
		u.given.Store(false) // an owner who comes back goes on
		<-u.turn
		if st.ownersGone.Load() { // perhaps the one whose request this was
			notify(st.trashed)
		}
	}, nil
}

// saveOffset records how far a session has come: what was answered 202
// survives a crash. The caller holds the turn.
func (st *store) saveOffset(u *upload) error {
	if u.ended {
		return nil
	}
	err := st.updateLazy(func(t *tx) error {
		_, err := t.exec(`UPDATE upload SET offset = ?, used = ? WHERE id = ?`, u.offset.Load(), t.clock, u.id)
		return err
	})
	if err != nil {
		return fmt.Errorf("recording an upload's offset: %w", err)
	}
	return nil
}

// saveOffsetAfter is saveOffset for a request that has failed already.
func (st *store) saveOffsetAfter(u *upload, failed error) {
	if err := st.saveOffset(u); err != nil && !isNoSpace(failed) {
		st.log.Error("an upload's offset cannot be recorded", "error", err)
	}
}

// endUpload removes a session and its file. The caller holds the turn.
func (st *store) endUpload(u *upload) error {
	err := st.updateLazy(func(t *tx) error {
		_, err := t.exec(`DELETE FROM upload WHERE id = ?`, u.id)
		return err
	})
	if err != nil {
		return fmt.Errorf("ending an upload: %w", err)
	}
	st.dropFile(u)
	st.forget(u)
	return nil
}

// dropFile removes a session's bytes. What cannot be removed now is at the
// next start.
func (st *store) dropFile(u *upload) {
	if err := os.Remove(st.uploadPath(u)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		st.log.Error("an upload's file cannot be removed", "error", err)
	}
}

// forget takes a session whose row is gone out of memory. The caller holds the
// turn; requests that wait for it find the session ended.
func (st *store) forget(u *upload) {
	u.ended = true
	st.endSession(u)
}

// endSession counts one open session less, which somebody may wait for.
func (st *store) endSession(u *upload) {
	st.sessions.end(u)
	if st.uploadEnded != nil {
		st.uploadEnded()
	}
}

func (st *store) uploadPath(u *upload) string { return filepath.Join(st.arrivals, "uploads", u.id) }

const (
	// smallBuffer is what every body is read with at first: enough for
	// manifests' configs and the like, cheap for thousands of clients.
	smallBuffer = 32 << 10
	// largeBuffer is the size of a read once a body proves large. Hashing and
	// writing run at 433 MB/s with reads of 32 KiB, at 603 with 256 KiB.
	largeBuffer = 256 << 10
	// perBody buffers let the network, the hash and the file work at once.
	perBody = 3
	// minLarge and maxLarge bound the bodies that have large buffers at one time:
	// two for each processor. Further ones go on with the small buffer, and are
	// not slower for it: there are others to keep the processors busy.
	minLarge, maxLarge = 4, 32
	// roomEvery bytes it is made sure that the disk does not get too full.
	roomEvery = 1 << 20
)

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}
)

// append copies body to the end of a session's file and hashes it on the way.
// It returns how many bytes have been added, which is what the offset grew by.
// The caller holds the turn.
func (st *store) append(u *upload, body io.Reader) (n int64, err error) {
	u.filed = true
	f, err := os.OpenFile(st.uploadPath(u), os.O_WRONLY|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return 0, fmt.Errorf("opening an upload's file: %w", err)
	}
	defer f.Close()
	start := u.offset.Load()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("looking at an upload's file: %w", err)
	}
	if info.Size() < start {
		return 0, fmt.Errorf("an upload's file has %d bytes, want %d", info.Size(), start)
	}
	w := &uploadWriter{st: st, u: u, f: f, at: start, roomy: start}
	w.body, _ = body.(*bodyReader)
	u.writing.from(start)
	err = w.copy(body)
	if w.failed != nil {
		// Some bytes were hashed and not written.
		u.hash = nil
		err = fmt.Errorf("writing an upload: %w", w.failed)
		if w.lost {
			st.giveUp(u)
			return 0, err
		}
		if isNoSpace(w.failed) || errors.Is(w.failed, errNoSpace) {
			e := f.Truncate(start)
			if e != nil && start == 0 { // which takes room, under a quota
				e = os.Remove(f.Name())
			}
			if e != nil {
				st.log.Error("a full disk's upload cannot be cut back", "error", e)
			}
			u.offset.Store(start)
			return 0, err
		}
	}
	return u.offset.Load() - start, err
}

// maxHeld bounds the bodies that are held in memory at one time. Further ones go
// to files at once.
const maxHeld = 64

// hold is append for all of a small blob's body, of which there is nothing yet:
// it stays in memory, and finish follows. What arrives before an error goes to
// the file.
func (st *store) hold(u *upload, body *bodyReader) (n int64, err error) {
	select {
	case st.holding <- struct{}{}:
	default:
		return st.append(u, body)
	}
	u.held = make([]byte, body.left)
	got, err := io.ReadFull(body, u.held)
	if err == nil {
		return int64(got), nil
	}
	arrived := u.held[:got]
	st.letGo(u)
	if n, e := st.append(u, bytes.NewReader(arrived)); e != nil {
		return n, e
	}
	return int64(got), ended(err)
}

// letGo ends what hold began.
func (st *store) letGo(u *upload) {
	if u.held != nil {
		u.held = nil
		<-st.holding
	}
}

// An uploadWriter writes to a session's file and to its hash.
type uploadWriter struct {
	st     *store
	u      *upload
	f      *os.File
	at     int64       // where the next byte goes
	roomy  int64       // up to where the disk was found to have room
	failed error       // of the file, as opposed to the body
	lost   bool        // what was written before may be gone
	body   *bodyReader // nil if the bytes do not come from a client
}

// copy reads body to its end: with one small buffer, then, if it goes on, with
// large ones and the hash on a goroutine of its own.
func (w *uploadWriter) copy(body io.Reader) error {
	small := smallBuffers.Get().(*[]byte)
	defer smallBuffers.Put(small)
	for first := true; ; first = false {
		if !first {
			select {
			case w.st.large <- struct{}{}:
				defer func() { <-w.st.large }()
				return w.copyLarge(body)
			default:
			}
		}
		n, err := io.ReadFull(body, *small)
		if w.u.hash != nil {
			w.u.hash.Write((*small)[:n])
		}
		if w.write((*small)[:n]); w.failed != nil {
			return w.failed
		}
		if err != nil {
			return ended(err)
		}
	}
}

func (w *uploadWriter) copyLarge(body io.Reader) error {
	free := make(chan *[]byte, perBody) // buffers that neither the file nor the hash needs
	for range perBody {
		free <- largeBuffers.Get().(*[]byte)
	}
	type piece struct {
		buffer *[]byte
		n      int
	}
	pieces := make(chan piece, perBody)
	hashed := make(chan struct{})
	go func() {
		defer close(hashed)
		for p := range pieces {
			if w.u.hash != nil {
				w.u.hash.Write((*p.buffer)[:p.n])
			}
			free <- p.buffer
		}
	}()
	var err error
	for err == nil {
		buffer := <-free
		var n int
		n, err = io.ReadFull(body, *buffer)
		pieces <- piece{buffer, n} // the hash may read it while it is written
		if w.write((*buffer)[:n]); w.failed != nil {
			err = w.failed
		}
	}
	close(pieces)
	<-hashed
	for range perBody {
		largeBuffers.Put(<-free)
	}
	return ended(err)
}

// write appends p to the file. A failure is in w.failed.
func (w *uploadWriter) write(p []byte) {
	n, err := w.f.WriteAt(p, w.at)
	w.at += int64(n)
	w.u.offset.Store(w.at)
	if err != nil {
		w.failed = err
		return
	}
	if w.at-w.roomy >= roomEvery {
		w.failed = w.st.roomForBlob(0)
		w.roomy = w.at
	}
	if w.failed == nil {
		w.failed = w.keepPace()
		w.lost = w.failed != nil
	}
}

// ended turns the two ways in which io.ReadFull tells the end into nil.
func ended(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// finish makes a session's bytes the blob d and ends the session. If they have
// another digest, they are gone, and the error is errDigestInvalid. The caller
// holds the turn.
func (st *store) finish(u *upload, d digest.Digest) error {
	defer st.letGo(u)
	c, err := st.seal(u, d.Algorithm())
	if err == nil && c.digest != d {
		st.drop(&c)
		err = errDigestInvalid.withf("the %d bytes received have the digest %s, not %s", c.size, c.digest, d)
	}
	if err == nil {
		if err = st.commitBlob(u.repository, c, u.id); err == nil {
			if u.held != nil && u.filed { // an empty one, of a request that brought nothing
				st.dropFile(u)
			}
			st.sessions.finished.add(u, d) // first: others may be waiting for the turn
			st.forget(u)
			return nil
		}
	}
	// After a failed sync the pages cannot be trusted, and after a wrong
	// digest neither can what the client sent: only a fresh start helps.
	st.giveUp(u)
	return err
}

// giveUp ends a session that has failed. If even the row cannot be removed now, the
// session is an empty one. The caller holds the turn.
func (st *store) giveUp(u *upload) {
	st.dropFile(u)
	u.hash = nil
	u.offset.Store(0)
	if err := st.endUpload(u); err != nil {
		st.log.Error("a failed upload cannot be removed", "error", err)
	}
}

// seal returns what a session has received: its file, cut to its offset, or the
// body that was held, and the digest of that.
func (st *store) seal(u *upload, algorithm digest.Algorithm) (c content, err error) {
	if u.held != nil {
		c = content{digest: algorithm.FromBytes(u.held), size: int64(len(u.held)), body: u.held, path: st.uploadPath(u)}
		c.admitted = st.admit(c.size)
		return c, nil
	}
	c.size, c.path = u.offset.Load(), st.uploadPath(u)
	if c.temp, err = openUpload(c.path, c.size); err != nil {
		return content{}, err
	}
	if u.hash != nil && algorithm == u.algorithm {
		c.digest = digest.NewDigest(algorithm, u.hash)
	} else {
		c.digest, err = sumFile(c.temp, algorithm, nil)
	}
	if err == nil && c.size <= maxSmall && st.admit(c.size) {
		c.admitted = true
		c.body = make([]byte, c.size)
		_, err = c.temp.ReadAt(c.body, 0)
	}
	if err != nil {
		if c.admitted {
			st.unsynced.bytes.Add(-c.size)
		}
		c.temp.Close()
		return content{}, fmt.Errorf("reading an upload's file: %w", err)
	}
	return c, nil
}

// openUpload opens a session's file, which it cuts to size bytes.
func openUpload(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening an upload's file: %w", err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("looking at an upload's file: %w", err)
	case info.Size() < size:
		err = fmt.Errorf("an upload's file has %d bytes, want %d", info.Size(), size)
	case info.Size() > size: // bytes that a crash left beyond the offset
		if err = f.Truncate(size); err != nil {
			err = fmt.Errorf("cutting an upload's file: %w", err)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sumFile returns the digest of all of f. spend, unless nil, is called after
// each read with the number of bytes; its error ends the reading.
func sumFile(f *os.File, algorithm digest.Algorithm, spend func(int) error) (digest.Digest, error) {
	h := algorithm.Hash()
	buffer := largeBuffers.Get().(*[]byte)
	defer largeBuffers.Put(buffer)
	for at := int64(0); ; {
		n, err := f.ReadAt(*buffer, at)
		h.Write((*buffer)[:n])
		at += int64(n)
		if err != nil && err != io.EOF {
			return "", err
		}
		if spend != nil {
			if err := spend(n); err != nil {
				return "", err
			}
		}
		if err == io.EOF {
			return digest.NewDigest(algorithm, h), nil
		}
	}
}

// verifyFile returns an error unless the file at path has the digest d.
func verifyFile(path string, d digest.Digest) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, err := sumFile(f, d.Algorithm(), nil)
	if err == nil && sum != d {
		err = fmt.Errorf("its bytes have the digest %s", sum)
	}
	return err
}

// sweepUploads runs at start: it counts the sessions and removes files that
// belong to none, or are where they were before the blobs had another disk: such
// a session is an empty one now.
func (st *store) sweepUploads() error {
	rows, err := st.db.Query(`SELECT id, owner FROM upload`)
	if err != nil {
		return fmt.Errorf("listing uploads: %w", err)
	}
	all, err := collect(rows, func(rows *sql.Rows) (x [2]string, err error) {
		err = rows.Scan(&x[0], &x[1])
		return x, err
	})
	if err != nil {
		return fmt.Errorf("listing uploads: %w", err)
	}
	st.sessions.count.Store(int64(len(all)))
	known := make(map[string]bool, len(all))
	for _, x := range all {
		known[x[0]] = true
		st.sessions.shares[x[1]]++ // an address is not remembered
	}
	probes, _ := filepath.Glob(filepath.Join(st.dir, tryFile+"*")) // of a try to write that was cut short
	for _, path := range probes {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing what a try to write left: %w", err)
		}
	}
	for _, place := range places {
		dir := filepath.Join(st.dir, place, "uploads")
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("listing uploads: %w", err)
		}
		used := sameFile(dir, filepath.Join(st.arrivals, "uploads")) // which may be by a link
		for _, e := range entries {
			if isUUID(e.Name()) && !(used && known[e.Name()]) {
				if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
					return fmt.Errorf("removing what an upload left: %w", err)
				}
			}
		}
	}
	return nil
}

// isUUID reports whether s has the form of a session's name, and so is safe as
// a file name.
func isUUID(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }
