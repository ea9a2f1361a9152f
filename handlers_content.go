// Immutable bytes on their way out: ranges, conditions, and the check of blobs that nobody has
// verified for a month.
//
// http.ServeContent does ranges and conditions (RFC 9110), and a file goes from the disk to the
// connection inside the kernel.

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// serveContent answers with content, or the ranges that were asked for, or
// 304, or 416. What has an immutable address may be kept for ever.
func (s *server) serveContent(w http.ResponseWriter, r *http.Request, contentType string, d digest.Digest, immutable bool, content io.ReadSeeker) error {
	h := w.Header()
	header := newEntityHeader(contentType, d, 0)
	header.set(h, immutable)
	switch ranges := r.Header.Get("Range"); {
	case ranges == "":
	case emptySuffix().MatchString(ranges) && r.Method == http.MethodGet:
		// ServeContent would send 206 and nothing.
		size, _ := content.Seek(0, io.SeekEnd)
		return errRangeUnsatisfiable.withHeader("Content-Range", fmt.Sprintf("bytes */%d", size))
	case r.Method == http.MethodHead, !strings.HasPrefix(ranges, "bytes="), strings.Count(ranges, ",") >= maxRanges:
		// RFC 9110, 14.2: Range is for GET and in a unit that is understood,
		// and may be ignored. A flood of ranges costs more than the whole.
		r.Header.Del("Range")
	}
	if unconditional(r.Header) { // as nearly all want it
		size, err := content.Seek(0, io.SeekEnd)
		if err == nil {
			_, err = content.Seek(0, io.SeekStart)
		}
		if err != nil {
			return fmt.Errorf("looking for the end of what is to be sent: %w", err)
		}
		if contentType == typeBlob {
			h.Set("Accept-Ranges", "bytes")
		}
		h.Set("Content-Length", strconv.FormatInt(size, 10))
		file, isFile := content.(*os.File)
		resp, ok := w.(*response)
		if isFile && ok && r.Method == http.MethodGet && !s.local && !s.st.scrubber.verifiedLately(d) { // a command verifies what it reads
			return s.sendVerified(resp, d, file, size)
		}
		w.WriteHeader(http.StatusOK)
		switch { // an error means that the client has gone, or is in the response
		case r.Method == http.MethodHead:
		case isFile:
			if n, _ := io.CopyN(w, file, size); n < size && ok {
				resp.cut = true
			}
		default: // in memory: one write, with the header, if it is small
			io.Copy(w, content)
		}
		return nil
	}
	if resp, ok := w.(*response); ok {
		w = &rangeWriter{response: resp}
	}
	http.ServeContent(w, r, "", time.Time{}, content)
	return nil
}

// sendEntity is serveContent for bytes in memory that are asked for as a whole. For HEAD they need not
// be there.
func (s *server) sendEntity(w http.ResponseWriter, r *http.Request, header *entityHeader, immutable bool, body []byte) {
	h := w.Header()
	header.set(h, immutable)
	h["Content-Length"] = header.length
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(body) // an error means that the client has gone
	}
}

// set says what the bytes are. No more headers than are of use: with the ninth Go's map of them grows,
// which costs more than the five before it.
func (e *entityHeader) set(h http.Header, immutable bool) {
	h["Content-Type"] = e.contentType
	h["Docker-Content-Digest"] = e.digest
	h["Etag"] = e.etag
	if !inert(e.contentType[0]) {
		h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	}
	switch {
	case !immutable:
	case len(h["Cache-Control"]) == 0:
		h["Cache-Control"] = headerImmutable
	default:
		h.Set("Cache-Control", "private, "+headerImmutable[0])
	}
}

// sendVerified sends a blob that was not verified for long, and hashes it on the way. If
// it is not what it should be, the client does not get its last piece, and can tell; and
// what is one piece is errBlobUnknown.
func (s *server) sendVerified(w *response, d digest.Digest, f io.Reader, size int64) error {
	v := d.Verifier()
	piece := make([]byte, min(size, verifiedPiece))
	for left := size; ; {
		piece = piece[:min(left, verifiedPiece)]
		n, err := io.ReadFull(f, piece)
		v.Write(piece[:n])
		left -= int64(n)
		if err == nil && left == 0 && !v.Verified() {
			err = fmt.Errorf("its bytes have another digest: %w", errDamaged)
		}
		if err != nil {
			s.st.scrubber.suspect(d)
			w.failed = err
			switch {
			case w.status == 0 && (errors.Is(err, errDamaged) || isBadSector(err)):
				return errBlobUnknown.with(map[string]string{"digest": d.String()})
			case w.status == 0:
				return fmt.Errorf("reading blob %s: %w", d, err)
			}
			w.cut = true
			return nil
		}
		if w.status == 0 {
			w.WriteHeader(http.StatusOK)
		}
		if left == 0 {
			s.st.scrubber.noteVerified(d)
		}
		if _, err := w.Write(piece); err != nil || left == 0 {
			return nil // an error means that the client has gone
		}
	}
}

// verifiedPiece is how much of a blob is in memory while it is hashed on the way.
const verifiedPiece = 32 << 10

// typeBlob is the media type of all blobs: a manifest knows their own.
const typeBlob = "application/octet-stream"

// unconditional reports whether a request's header has nothing that ServeContent
// heeds.
func unconditional(h http.Header) bool {
	for _, key := range []string{"Range", "If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"} {
		if len(h[key]) > 0 {
			return false
		}
	}
	return true
}

// emptySuffix matches the Range of no bytes, which cannot be satisfied.
var emptySuffix = expression(`^bytes=\s*-0+\s*$`)

// maxRanges bounds the ranges of one request: podman's partial pulls of
// zstd:chunked layers ask for up to 1024.
const maxRanges = 1024

// A rangeWriter turns ServeContent's plain 416 into the registry's.
type rangeWriter struct {
	*response
	failed bool
}

func (w *rangeWriter) WriteHeader(status int) {
	if status != http.StatusRequestedRangeNotSatisfiable {
		w.response.WriteHeader(status)
		return
	}
	w.failed = true
	writeError(w.response, errRangeUnsatisfiable)
}

func (w *rangeWriter) Write(p []byte) (int, error) {
	if w.failed {
		return len(p), nil
	}
	return w.response.Write(p)
}
