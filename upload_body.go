// The bytes of an upload: read from the request, hashed on the way, written, counted.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
)

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
	arrived, err := s.arrive(w, r)
	if err != nil {
		return err
	}
	defer arrived()
	body := &bodyReader{body: r.Body, response: w.(*response), left: -1, queue: &u.queue, patience: s.st.patience, given: &u.given}
	u.queue.arrived.Store(offset)
	defer u.queue.arrived.Store(0)
	if want >= 0 {
		body.left = want
	} else if limit > 0 {
		body.left = limit - offset
	}
	var n int64
	if last && offset == 0 && want > 0 && want == r.ContentLength && want <= maxHeldSize {
		n, err = s.st.uploads.hold(u, body, want)
	} else {
		n, err = s.st.uploads.append(u, body)
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

// arrive waits for a place among the bodies that arrive. The caller gives it back.
func (s *server) arrive(w http.ResponseWriter, r *http.Request) (giveBack func(), err error) {
	err = s.lines.bodies.await(w.(*response), r, bodyPatience, errTooManyBodies, func() error {
		if !takeOne(&s.arriving, s.maxArriving) {
			return errTooManyBodies
		}
		return nil
	})
	return func() { s.arriving.Add(-1); s.lines.bodies.freed() }, err
}

// parseContentRange reads the header of a chunk. The specification's form is
// "<first>-<last>"; HTTP's "bytes <first>-<last>/<length or *>" is taken too.
// Both ends are inclusive. The length of the range fits in an int64.
func parseContentRange(s string) (first, last int64, err error) {
	m := contentRange().FindStringSubmatch(s)
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

var contentRange = expression(`^(?:bytes[ =])?([0-9]+)-([0-9]+)(?:/(?:[0-9]+|\*))?$`)

// append copies body to the end of a session's file and hashes it on the way.
// It returns how many bytes have been added, which is what the offset grew by.
// The caller holds the turn.
func (up *uploads) append(u *upload, body io.Reader) (n int64, err error) {
	u.filed = true
	f, err := os.OpenFile(up.uploadPath(u.id), os.O_WRONLY|os.O_CREATE|noFollow, 0o600)
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
	w := &uploadWriter{st: up.store, u: u, f: f, at: start, roomy: start}
	w.client, _ = body.(interface{ rest() })
	u.writing.from(start)
	err = w.copy(body)
	if w.failed != nil {
		// Some bytes were hashed and not written.
		u.hash = nil
		err = fmt.Errorf("writing an upload: %w", w.failed)
		if w.lost {
			up.giveUp(u)
			return 0, err
		}
		if isNoSpace(w.failed) || errors.Is(w.failed, errNoSpace) {
			e := f.Truncate(start)
			if e != nil && start == 0 { // which takes room, under a quota
				e = os.Remove(f.Name())
			}
			if e != nil {
				up.log.Error("a full disk's upload cannot be cut back", "error", e)
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

// hold is append for all of a small blob's body of size bytes, of which there is nothing yet:
// it stays in memory, and finish follows. What arrives before an error goes to
// the file.
func (up *uploads) hold(u *upload, body io.Reader, size int64) (n int64, err error) {
	select {
	case up.holding <- struct{}{}:
	default:
		return up.append(u, body)
	}
	u.held = make([]byte, size)
	got, err := io.ReadFull(body, u.held)
	if err == nil {
		return int64(got), nil
	}
	arrived := u.held[:got]
	up.letGo(u)
	if n, e := up.append(u, bytes.NewReader(arrived)); e != nil {
		return n, e
	}
	return int64(got), ended(err)
}

// letGo ends what hold began.
func (up *uploads) letGo(u *upload) {
	if u.held != nil {
		u.held = nil
		<-up.holding
	}
}

// An uploadWriter writes to a session's file and to its hash.
type uploadWriter struct {
	st     *store
	u      *upload
	f      *os.File
	at     int64               // where the next byte goes
	roomy  int64               // up to where the disk was found to have room
	failed error               // of the file, as opposed to the body
	lost   bool                // what was written before may be gone
	client interface{ rest() } // the body, if it is a client's; else nil
}

// copy reads body to its end: with one small buffer, then, if it goes on, with
// large ones and the hash on a goroutine of its own.
func (w *uploadWriter) copy(body io.Reader) error {
	small := smallBuffers.Get().(*[]byte)
	defer smallBuffers.Put(small)
	for first := true; ; first = false {
		if !first {
			select {
			case w.st.uploads.large <- struct{}{}:
				defer func() { <-w.st.uploads.large }()
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
