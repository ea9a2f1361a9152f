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
	"context"
	_ "crypto/sha256" // for go-digest
	_ "crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

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
		from := query.Get("from")
		anywhere := s.local && from == ""
		if anywhere {
			if from, err = s.st.holderOf(d); err != nil {
				return err
			}
		}
		mounted, err := s.mount(w, name, from, d)
		if err == nil && !mounted && anywhere {
			err = errBlobUnknown.with(map[string]string{"digest": d.String()})
		}
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
		u := newSession(uuid.NewString(), name, uploadOwner(w), d.Algorithm()) // without a row: it ends with this request
		s.st.uploads.brief.Store(u.id, true)
		defer s.st.uploads.brief.Delete(u.id)
		if err := s.receive(w, r, u, true); err != nil {
			s.st.uploads.dropFile(u)
			return err
		}
		if err := s.st.uploads.finish(u, d, w.(*response).requester()); err != nil {
			return err
		}
		s.answerBlobCreated(w, name, d)
		return nil
	}
	var u *upload
	var refused error
	err = s.lines.sessions.await(w.(*response), r, patience, errTooManyRequests, func() (err error) {
		u, err = s.st.uploads.create(name, uploadOwner(w), shareOf(w), algorithm)
		refused = err
		return err
	})
	if errors.Is(err, errTooManyRequests) && refused != nil { // and not: too many wait already
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

// shareOf is whose share of the uploads a new one takes.
func shareOf(w http.ResponseWriter) string {
	if id := uploadOwner(w); id != "" {
		return id
	}
	return "address:" + w.(*response).origin.key()
}

// mount links a blob of the repository from into name. It reports false if
// that repository does not have it, or is not named, or not nameable, or not
// for this caller.
func (s *server) mount(w http.ResponseWriter, name, from string, d digest.Digest) (bool, error) {
	if _, err := parseName(from); err != nil || w.(*response).caller.may(from)&mayPull == 0 {
		return false, nil
	}
	err := s.st.mountBlob(name, from, d, w.(*response).requester())
	if errors.Is(err, errBlobUnknown) {
		return false, nil
	}
	return err == nil, err
}

// getUpload tells how far an upload has come: GET on its Location.
func (s *server) getUpload(w http.ResponseWriter, r *http.Request) error {
	u, err := s.st.uploads.find(r.PathValue("name"), r.PathValue("session"), uploadOwner(w))
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
	u, release, err := s.st.uploads.take(r.Context(), r.PathValue("name"), r.PathValue("session"), uploadOwner(w))
	if err != nil {
		return err
	}
	defer release()
	if err := s.receive(w, r, u, false); err != nil {
		s.st.uploads.saveOffsetAfter(u, err)
		return err
	}
	if err := s.st.uploads.saveOffset(u); err != nil {
		return err
	}
	answerUpload(w, u)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// putUpload appends what the body has, if anything, and makes a blob of it all.
func (s *server) putUpload(w http.ResponseWriter, r *http.Request) error {
	u, release, err := s.st.uploads.take(r.Context(), r.PathValue("name"), r.PathValue("session"), uploadOwner(w))
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
		s.st.uploads.saveOffsetAfter(u, err)
		return err
	}
	if err := s.st.uploads.finish(u, d, w.(*response).requester()); err != nil {
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
	u, release, err := s.st.uploads.take(r.Context(), r.PathValue("name"), r.PathValue("session"), uploadOwner(w))
	if err != nil {
		return err
	}
	defer release()
	if err := s.st.uploads.end(u); err != nil {
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

func (s *server) answerBlobCreated(w http.ResponseWriter, name string, d digest.Digest) {
	h := w.Header()
	h.Set("Location", "/v2/"+name+"/blobs/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}

// take returns a repository's session when it is the caller's turn on
// it, which ends with release. It waits no longer than ctx.
func (up *uploads) take(ctx context.Context, repository, id, owner string) (u *upload, release func(), err error) {
	u, err = up.find(repository, id, owner)
	if err != nil {
		return nil, nil, err
	}
	if !u.take(ctx) {
		return nil, nil, errClient.with("the client left while another request was writing to the upload")
	}
	if u.ended {
		<-u.turn
		return nil, nil, errBlobUploadUnknown.with(map[string]string{"name": repository})
	}
	return u, func() {
		u.given.Store(false) // an owner who comes back goes on
		<-u.turn
		if up.collector.ownersGone.Load() { // perhaps the one whose request this was
			notify(up.collector.trashed)
		}
	}, nil
}

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

// finish makes a session's bytes the blob d and ends the session. If they have
// another digest, they are gone, and the error is errDigestInvalid. The caller
// holds the turn.
func (up *uploads) finish(u *upload, d digest.Digest, by author) error {
	defer up.letGo(u)
	c, err := up.seal(u, d.Algorithm())
	if err == nil && c.digest != d {
		up.drop(&c)
		err = errDigestInvalid.withf("the %d bytes received have the digest %s, not %s", c.size, c.digest, d)
	}
	if err == nil {
		if err = up.commitBlob(u.repository, c, u.id, by); err == nil {
			if u.held != nil && u.filed { // an empty one, of a request that brought nothing
				up.dropFile(u)
			}
			up.forget(u)
			return nil
		}
	}
	// After a failed sync the pages cannot be trusted, and after a wrong
	// digest neither can what the client sent: only a fresh start helps.
	up.giveUp(u)
	return err
}

// seal returns what a session has received: its file, cut to its offset, or the
// body that was held, and the digest of that.
func (up *uploads) seal(u *upload, algorithm digest.Algorithm) (c content, err error) {
	if u.held != nil {
		c = content{digest: algorithm.FromBytes(u.held), size: int64(len(u.held)), body: u.held, path: up.uploadPath(u.id)}
		c.admitted = c.size <= maxSmall && up.small.takeRoom(c.size)
		return c, nil
	}
	c.size, c.path = u.offset.Load(), up.uploadPath(u.id)
	if c.temp, err = openUpload(c.path, c.size); err != nil {
		return content{}, err
	}
	if u.hash != nil && algorithm == u.algorithm {
		c.digest = digest.NewDigest(algorithm, u.hash)
	} else {
		c.digest, err = sumFile(c.temp, algorithm, nil)
	}
	if err == nil && c.size <= maxSmall && up.small.takeRoom(c.size) {
		c.admitted = true
		c.body = make([]byte, c.size)
		_, err = c.temp.ReadAt(c.body, 0)
	}
	if err != nil {
		if c.admitted {
			up.small.bytes.Add(-c.size)
		}
		c.temp.Close()
		return content{}, fmt.Errorf("reading an upload's file: %w", err)
	}
	return c, nil
}

// commitAgain answers the commit of a session that there is not, or not any more, when the
// repository has the blob: as a rule the session has ended by this commit, whose answer was
// late, or lost, or the registry was restarted. It tells no more than a HEAD would, to who
// may ask that, and is the same promise. It reports false, and has answered nothing, if the
// blob is not there. What a body brings is not needed any more, but a client that sends one
// reads no answer before its end.
func (s *server) commitAgain(w http.ResponseWriter, r *http.Request) (bool, error) {
	name := r.PathValue("name")
	d, err := parseDigest(r.URL.Query().Get("digest"))
	if err != nil || !isUUID(r.PathValue("session")) || w.(*response).caller.may(name)&mayPull == 0 {
		return false, nil
	}
	f, err := s.st.openBlob(name, d, true)
	if errors.Is(err, errBlobUnknown) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f.Close()
	if r.ContentLength != 0 {
		arrived, err := s.arrive(w, r)
		if err != nil {
			return false, err
		}
		defer arrived()
	}
	body := &bodyReader{body: r.Body, response: w.(*response), left: -1}
	if s.st.maxBlob > 0 {
		body.left = s.st.maxBlob
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return false, err
	}
	if body.more() {
		return false, errBlobTooLarge.withf("the limit is %d bytes", s.st.maxBlob)
	}
	s.answerBlobCreated(w, name, d)
	return true, nil
}

// uploadOwner is who makes a request, and so the owner of the session it begins.
func uploadOwner(w http.ResponseWriter) string { return w.(*response).caller.id() }

// bring makes size bytes that come from this machine, not from a client, the blob d of a repository.
func (up *uploads) bring(repository string, d digest.Digest, size int64, body io.Reader, by author) error {
	if err := up.roomForBlob(size); err != nil {
		return err
	}
	u := newSession(uuid.NewString(), repository, "", d.Algorithm()) // without a row: it ends here
	up.brief.Store(u.id, true)
	defer up.brief.Delete(u.id)
	if _, err := up.append(u, body); err != nil {
		up.dropFile(u)
		return err
	}
	return up.finish(u, d, by)
}
