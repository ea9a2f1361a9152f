// The errors a client may see.
//
// What the specification has a code for is a value in the table below; a
// handler returns it, perhaps with a detail, and writeError is the one place
// that puts it on the wire. Any other error is a stranger: the client is told
// "internal error" and the cause goes to the log, once.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A protocolError is an answer in the form of the OCI distribution
// specification, section "Error Codes".
type protocolError struct {
	status  int
	code    string
	message string
	detail  any
	header  http.Header // sent with the answer; nil for most
	more    []protocolError
	cause   error // what else it is, for errors.Is; no client is told; nil for most

	retryAfter time.Duration // when to try again; 0 if that is not told
}

func (e *protocolError) Error() string {
	switch detail := e.detail.(type) {
	case nil:
		return e.message
	case map[string]string:
		var words []string
		for _, key := range slices.Sorted(maps.Keys(detail)) {
			words = append(words, key+" "+detail[key])
		}
		return e.message + ": " + strings.Join(words, ", ")
	default:
		return fmt.Sprintf("%s: %v", e.message, detail)
	}
}

// Is reports whether target is the table's entry that e was made from, so
// that errors.Is finds errBlobUnknown behind any detail.
func (e *protocolError) Is(target error) bool {
	t, ok := target.(*protocolError)
	return ok && t.status == e.status && t.code == e.code
}

func (e *protocolError) Unwrap() error { return e.cause }

// because returns a copy of e behind which errors.Is finds cause.
func (e *protocolError) because(cause error) *protocolError {
	c := *e
	c.cause = cause
	return &c
}

// with returns a copy of e that carries detail: a string for people, or
// anything that encodes to JSON.
func (e *protocolError) with(detail any) *protocolError {
	c := *e
	c.detail = detail
	return &c
}

// withf is with for a formatted string.
func (e *protocolError) withf(format string, args ...any) *protocolError {
	return e.with(fmt.Sprintf(format, args...))
}

// saying returns a copy of e with another message: docker shows no details.
func (e *protocolError) saying(format string, args ...any) *protocolError {
	c := *e
	c.message = fmt.Sprintf(format, args...)
	return &c
}

// later returns a copy of e that says to try again after d.
func (e *protocolError) later(d time.Duration) *protocolError {
	c := *e
	c.retryAfter = d
	return &c
}

// withHeader returns a copy of e whose answer has the header key.
func (e *protocolError) withHeader(key, value string) *protocolError {
	c := *e
	c.header = e.header.Clone()
	if c.header == nil {
		c.header = make(http.Header)
	}
	c.header.Set(key, value)
	return &c
}

var (
	errBlobUnknown         = &protocolError{status: 404, code: "BLOB_UNKNOWN", message: "blob unknown to this repository"}
	errBlobUploadInvalid   = &protocolError{status: 400, code: "BLOB_UPLOAD_INVALID", message: "blob upload invalid"}
	errBlobUploadUnknown   = &protocolError{status: 404, code: "BLOB_UPLOAD_UNKNOWN", message: "blob upload unknown to this repository"}
	errDenied              = &protocolError{status: 403, code: "DENIED", message: "requested access to the resource is denied"}
	errDigestInvalid       = &protocolError{status: 400, code: "DIGEST_INVALID", message: "digest invalid, or not that of the content"}
	errManifestBlobUnknown = &protocolError{status: 404, code: "MANIFEST_BLOB_UNKNOWN", message: "manifest refers to content that this repository does not have; push it first"}
	errManifestInvalid     = &protocolError{status: 400, code: "MANIFEST_INVALID", message: "manifest invalid"}
	errManifestUnknown     = &protocolError{status: 404, code: "MANIFEST_UNKNOWN", message: "manifest unknown to this repository"}
	errNameInvalid         = &protocolError{status: 400, code: "NAME_INVALID", message: "invalid repository name"}
	errNameUnknown         = &protocolError{status: 404, code: "NAME_UNKNOWN", message: "repository name not known to this registry"}
	errPageInvalid         = &protocolError{status: 400, code: "PAGINATION_NUMBER_INVALID", message: "n must be a number that is not negative"}
	errTagInvalid          = &protocolError{status: 400, code: "TAG_INVALID", message: "invalid tag"}
	errTooManyTags         = &protocolError{status: 414, code: "TAG_INVALID", message: "too many tags in one request"}
	errManifestTooLarge    = &protocolError{status: 413, code: "SIZE_INVALID", message: "manifest larger than 4 MiB"}
	errBlobTooLarge        = &protocolError{status: 413, code: "SIZE_INVALID", message: "blob larger than this registry accepts"}
	errRangeInvalid        = &protocolError{status: 416, code: "BLOB_UPLOAD_INVALID", message: "chunk out of order; continue after the offset in the Range header"}
	errRangeUnsatisfiable  = &protocolError{status: 416, code: "RANGE_INVALID", message: "requested range is not in the content"}
	errTooManyRequests     = &protocolError{status: 429, code: "TOOMANYREQUESTS", message: "too many uploads are open; try again later", retryAfter: time.Minute}
	errBusy                = &protocolError{status: 429, code: "TOOMANYREQUESTS", message: "too many large manifests at once; try again later", retryAfter: 10 * time.Second}
	errTooManyAnswers      = &protocolError{status: 429, code: "TOOMANYREQUESTS", message: "too many long answers are being sent; try again later", retryAfter: 5 * time.Second}
	errTooManyHeaders      = &protocolError{status: 429, code: "TOOMANYREQUESTS", message: "too many requests with long headers at once; try again later", retryAfter: 5 * time.Second}
	errUnauthorized        = &protocolError{status: 401, code: "UNAUTHORIZED", message: "authentication required"}
	errTooFast             = &protocolError{status: 429, code: "TOOMANYREQUESTS", message: "too many requests from this address; try again later"}
	errTooManyLogins       = &protocolError{status: 429, code: "TOOMANYREQUESTS", message: "too many failed logins; try again later"}
	errBusyLogins          = &protocolError{status: 429, code: "TOOMANYREQUESTS", message: "too many logins at once; try again later", retryAfter: 10 * time.Second}
	errTooManyBodies       = &protocolError{status: 429, code: "TOOMANYREQUESTS", message: "too many uploads are arriving; try again later", retryAfter: 5 * time.Second}
	errScopeInvalid        = &protocolError{status: 400, code: "UNSUPPORTED", message: "no token can be issued for that"}
	errQueryInvalid        = &protocolError{status: 400, code: "UNSUPPORTED", message: "cannot read the query"}
	errFormInvalid         = &protocolError{status: 400, code: "UNSUPPORTED", message: "cannot read the form of a login"}
	errHostInvalid         = &protocolError{status: 400, code: "UNSUPPORTED", message: "the Host header is not a host"}
	errUnsupported         = &protocolError{status: 405, code: "UNSUPPORTED", message: "the operation is unsupported"}
	errNoSuchEndpoint      = &protocolError{status: 404, code: "UNSUPPORTED", message: "there is nothing at this address; this is a container registry, for docker push and docker pull"}
	errNoSpace             = &protocolError{status: 507, code: "UNKNOWN", message: "the registry's disk is full" + roomAdvice}
	errReadOnlyDisk        = &protocolError{status: 405, code: "UNSUPPORTED", message: "the registry's disk is read-only; pulls still work", header: http.Header{"Allow": {"GET, HEAD"}}}
	errChangeUnknown       = &protocolError{status: 404, code: "CHANGE_UNKNOWN", message: "there is no such change"}
	errCannotUndo          = &protocolError{status: 409, code: "CONFLICT", message: "the change cannot be undone"}
	errDirectoryDown       = &protocolError{status: 503, code: "UNAVAILABLE", message: "the directory that knows your password cannot be asked now; try again later, or use a token", retryAfter: 10 * time.Second}
	errNotReady            = &protocolError{status: 503, code: "UNKNOWN", message: "the registry cannot serve now"}
	errClient              = &protocolError{status: 400, code: "BLOB_UPLOAD_INVALID", message: "the request's body ended early; what has arrived is kept"}
	errInternal            = &protocolError{status: 500, code: "UNKNOWN", message: "internal error; the registry's log has the cause under this request id"}
)

// roomAdvice is what whoever finds the disk full is told besides.
const roomAdvice = "; pulls still work. Deletes make room, at once after `berth gc --now`; it keeps what was pushed or asked for in the last 15 minutes, unless the server is stopped"

// asProtocolError turns any error into what a client is told. The second
// result is false for a stranger, which is the operator's business.
func asProtocolError(err error) (*protocolError, bool) {
	var e *protocolError
	switch {
	case errors.As(err, &e):
		return e, true
	case isNoSpace(err):
		return errNoSpace, true
	case errors.Is(err, syscall.EROFS):
		return errReadOnlyDisk, true
	}
	return errInternal, false
}

// writeError answers with err. A HEAD gets the status and headers only
// (net/http drops the body).
func writeError(w http.ResponseWriter, e *protocolError) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	list := []entry{{e.code, e.message, e.detail}}
	for _, m := range e.more {
		list = append(list, entry{m.code, m.message, m.detail})
	}
	body, err := json.Marshal(map[string]any{"errors": list})
	if err != nil {
		panic(err) // details are strings and small maps
	}
	h := w.Header()
	for _, key := range []string{"ETag", "Cache-Control", "Accept-Ranges", "Docker-Content-Digest", "Content-Encoding", "Link"} {
		h.Del(key) // set for the content that is not sent after all
	}
	if resp, ok := w.(*response); ok && resp.caller.known() {
		h.Set("Cache-Control", "private")
	}
	for key, values := range e.header {
		h[key] = values
	}
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((e.retryAfter+time.Second-1)/time.Second), 10))
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.status)
	w.Write(body)
}
