// What a client gets from a registry and gives it: manifests, blobs, uploads, lists.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// acceptManifests are the types of manifests that a client takes: all that Berth knows.
var acceptManifests = []string{strings.Join([]string{
	typeOCIIndex, typeOCIManifest, typeDockerList, typeDockerManifest, typeOCIArtifact, "application/json;q=0.5", "*/*;q=0.1",
}, ", ")}

// A remoteManifest is another registry's manifest. Of a HEAD there is no body, and
// what the registry has not told is zero.
type remoteManifest struct {
	digest    digest.Digest
	mediaType string
	size      int64
	body      []byte
}

func scopeOf(name, actions string) string { return "repository:" + name + ":" + actions }

// headManifest asks for a manifest, by tag or digest, without getting it.
func (c *client) headManifest(ctx context.Context, name string, ref reference) (*remoteManifest, error) {
	resp, err := c.do(ctx, c.manifestRequest(http.MethodHead, name, ref))
	if err != nil {
		return nil, err
	}
	defer discard(resp.Body)
	m := &remoteManifest{digest: ref.digest, mediaType: mediaTypeOf(resp), size: max(resp.ContentLength, 0)}
	if told, err := parseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil && m.digest == "" {
		m.digest = told
	}
	return m, nil
}

// getManifest returns a manifest, by tag or digest, of at most maxManifest bytes. Its bytes are those of the digest,
// if it was named by one or the registry tells one.
func (c *client) getManifest(ctx context.Context, name string, ref reference) (*remoteManifest, error) {
	r := c.manifestRequest(http.MethodGet, name, ref)
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer discard(resp.Body)
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.doing, connectionProblem(c.host, err))
	}
	if len(body) > maxManifest {
		return nil, fmt.Errorf("%s: it is larger than %d MiB", r.doing, maxManifest>>20)
	}
	want := ref.digest
	if told, err := parseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil && want == "" {
		want = told
	}
	m := &remoteManifest{digest: want, mediaType: mediaTypeOf(resp), size: int64(len(body)), body: body}
	if want == "" {
		m.digest = digest.FromBytes(body)
	} else if got := want.Algorithm().FromBytes(body); got != want {
		return nil, errWrongBytes(r.doing, c.host, got, want)
	}
	return m, nil
}

// putManifest sends a manifest, to a tag or its digest.
func (c *client) putManifest(ctx context.Context, name string, ref reference, mediaType string, body []byte) error {
	resp, err := c.do(ctx, &clientRequest{
		doing:  "sending the manifest " + ref.of(name),
		method: http.MethodPut, path: "/v2/" + name + "/manifests/" + ref.String(),
		scopes: []string{scopeOf(name, "pull,push")},
		header: http.Header{"Content-Type": {mediaType}},
		body:   func() (io.Reader, error) { return bytes.NewReader(body), nil },
		length: int64(len(body)),
		ok:     []int{http.StatusCreated, http.StatusOK, http.StatusAccepted},
	})
	if err != nil {
		return err
	}
	discard(resp.Body)
	return nil
}

// deleteManifest deletes a tag, or by digest a manifest with its tags, where the registry allows it.
func (c *client) deleteManifest(ctx context.Context, name string, ref reference) error {
	return c.delete(ctx, "deleting "+ref.of(name), "/v2/"+name+"/manifests/"+ref.String(), name)
}

// deleteBlob deletes a blob of a repository.
func (c *client) deleteBlob(ctx context.Context, name string, d digest.Digest) error {
	return c.delete(ctx, fmt.Sprintf("deleting the blob %s of %s", d, name), "/v2/"+name+"/blobs/"+d.String(), name)
}

func (c *client) delete(ctx context.Context, doing, path, name string) error {
	resp, err := c.do(ctx, &clientRequest{doing: doing, method: http.MethodDelete, path: path,
		scopes: []string{scopeOf(name, "delete")}, ok: []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent}})
	if err != nil {
		return err
	}
	discard(resp.Body)
	return nil
}

func (c *client) manifestRequest(method, name string, ref reference) *clientRequest {
	return &clientRequest{
		doing:  map[string]string{http.MethodHead: "looking for", http.MethodGet: "getting"}[method] + " the manifest " + ref.of(name),
		method: method, path: "/v2/" + name + "/manifests/" + ref.String(),
		scopes: []string{scopeOf(name, "pull")},
		header: http.Header{"Accept": acceptManifests},
		ok:     []int{http.StatusOK},
	}
}

// mediaTypeOf is an answer's type without parameters.
func mediaTypeOf(resp *http.Response) string {
	t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(t)
}

// errWrongContent is behind an error of content that is not what its digest says.
var errWrongContent = errors.New("the content is not that of its digest")

func errWrongBytes(doing, host string, got, want digest.Digest) error {
	return plainError{fmt.Sprintf("%s: %s has sent other bytes: their digest is %s, not %s", doing, host, got, want), errWrongContent}
}

// headBlob asks for a blob, and returns its size, or -1 if the registry does not tell.
func (c *client) headBlob(ctx context.Context, name string, d digest.Digest) (int64, error) {
	return c.lookForBlob(ctx, name, d, "pull")
}

// lookForBlob is headBlob with the rights that what follows needs.
func (c *client) lookForBlob(ctx context.Context, name string, d digest.Digest, actions string) (int64, error) {
	r := c.blobRequest(http.MethodHead, name, d)
	r.doing, r.scopes = fmt.Sprintf("looking for the blob %s in %s", d, name), []string{scopeOf(name, actions)}
	resp, err := c.do(ctx, r)
	if err != nil {
		return 0, err
	}
	discard(resp.Body)
	return resp.ContentLength, nil
}

func (c *client) blobRequest(method, name string, d digest.Digest) *clientRequest {
	return &clientRequest{
		doing:  fmt.Sprintf("getting the blob %s of %s", d, name),
		method: method, path: "/v2/" + name + "/blobs/" + d.String(),
		scopes: []string{scopeOf(name, "pull")},
		ok:     []int{http.StatusOK},
	}
}

// blobFrom returns a blob's bytes from an offset on, and the size of the whole, or -1 if the registry does not tell. They
// are not verified. A registry without ranges sends all, and what is before the offset is read past.
func (c *client) blobFrom(ctx context.Context, name string, d digest.Digest, offset int64) (io.ReadCloser, int64, error) {
	r := c.blobRequest(http.MethodGet, name, d)
	if offset > 0 {
		r.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", offset)}}
		r.ok = append(r.ok, http.StatusPartialContent)
	}
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode == http.StatusOK {
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			resp.Body.Close()
			return nil, 0, fmt.Errorf("%s: %w", r.doing, connectionProblem(c.host, err))
		}
		return resp.Body, resp.ContentLength, nil
	}
	var first, last, size int64
	if n, _ := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); n < 2 || first != offset {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("%s: asked for bytes from %d on, %s sends %q", r.doing, offset, c.host, resp.Header.Get("Content-Range"))
	} else if n == 2 {
		size = -1
	}
	return resp.Body, size, nil
}

// getBlob returns a blob, and its size, or -1 if the registry does not tell. Reading it ends with io.EOF only when all of
// it has come and its digest is right. Where a connection breaks, it goes on with the next, as long as
// each brings something. The caller closes it.
func (c *client) getBlob(ctx context.Context, name string, d digest.Digest) (io.ReadCloser, int64, error) {
	body, size, err := c.blobFrom(ctx, name, d, 0)
	if err != nil {
		return nil, 0, err
	}
	return &remoteBlob{c: c, ctx: ctx, name: name, digest: d, size: size, body: body, hash: d.Algorithm().Hash()}, size, nil
}

// A remoteBlob reads a blob over as many connections as it takes.
type remoteBlob struct {
	c      *client
	ctx    context.Context
	name   string
	digest digest.Digest
	size   int64 // or -1
	body   io.ReadCloser
	hash   hash.Hash
	at     int64 // bytes read
	begun  int64 // bytes read before this connection
}

func (b *remoteBlob) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.hash.Write(p[:n])
	b.at += int64(n)
	doing := fmt.Sprintf("getting the blob %s of %s", b.digest, b.name)
	switch {
	case b.size >= 0 && b.at > b.size:
		return n, plainError{fmt.Sprintf("%s: %s sends more than the %d bytes it has announced", doing, b.c.host, b.size), errWrongContent}
	case err == io.EOF && (b.size < 0 || b.at == b.size):
		if got := digest.NewDigest(b.digest.Algorithm(), b.hash); got != b.digest {
			return n, errWrongBytes(doing, b.c.host, got, b.digest)
		}
		return n, io.EOF
	case err == nil:
		return n, nil
	case b.at == b.begun || b.ctx.Err() != nil:
		return n, fmt.Errorf("%s: %w", doing, connectionProblem(b.c.host, err))
	}
	b.body.Close()
	body, size, again := b.c.blobFrom(b.ctx, b.name, b.digest, b.at)
	if again != nil {
		b.body = http.NoBody
		return n, again
	}
	if b.size < 0 {
		b.size = size
	}
	b.body, b.begun = body, b.at
	return n, nil
}

func (b *remoteBlob) Close() error { return b.body.Close() }

// A pushedBlob is a blob to push: its digest, its size, and its bytes from an offset on, as often as
// they are asked for. What open returns is closed if it can be.
type pushedBlob struct {
	digest digest.Digest
	size   int64
	open   func(offset int64) (io.Reader, error)
	from   string // a repository of the same registry that has it; "" for none
}

// pushBlob makes sure that a repository has a blob. It reports false if it was there, or could be mounted.
// An upload that breaks off is continued at what the registry has, as long as that grows.
func (c *client) pushBlob(ctx context.Context, name string, b pushedBlob) (sent bool, err error) {
	for reached := int64(-1); ; b.from = "" {
		if _, err := c.lookForBlob(ctx, name, b.digest, "pull,push"); err == nil {
			return reached >= 0, nil // after a break: its last answer was lost
		} else if !isFinal(err) { // some say 403 of a repository that is still to be made
			return false, err
		}
		u, err := c.startUpload(ctx, name, b.digest, b.from)
		if err != nil || u == nil {
			return false, err
		}
		if err = u.send(ctx, b); err == nil {
			return true, nil
		}
		if isFinal(err) || ctx.Err() != nil || u.offset <= reached {
			u.cancel(ctx)
			return false, err
		}
		reached = u.offset
	}
}

// isFinal reports whether a registry's answer says that trying again makes no difference.
func isFinal(err error) bool {
	var e *remoteError
	return errors.As(err, &e) && e.status < 500 && e.status != http.StatusRequestedRangeNotSatisfiable && e.status != http.StatusTooManyRequests
}

// A remoteUpload is a session at another registry.
type remoteUpload struct {
	c        *client
	name     string
	location *url.URL
	offset   int64 // what the registry has
	least    int64 // bytes of a chunk that is not the last
}

func (u *remoteUpload) request(doing, method string) *clientRequest {
	return &clientRequest{doing: doing + " " + u.name, method: method, url: u.location, scopes: []string{scopeOf(u.name, "pull,push")}}
}

// startUpload begins an upload. It returns nil when the registry could mount the blob d from a repository;
// from is "" for none.
func (c *client) startUpload(ctx context.Context, name string, d digest.Digest, from string) (*remoteUpload, error) {
	u := &remoteUpload{c: c, name: name}
	r := u.request("beginning an upload to", http.MethodPost)
	r.path, r.ok = "/v2/"+name+"/blobs/uploads/", []int{http.StatusAccepted}
	if from != "" {
		r.path += "?mount=" + url.QueryEscape(d.String()) + "&from=" + url.QueryEscape(from)
		r.scopes = append(r.scopes, scopeOf(from, "pull"))
		r.ok = append(r.ok, http.StatusCreated)
	}
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer discard(resp.Body)
	if resp.StatusCode == http.StatusCreated {
		return nil, nil
	}
	u.least, _ = strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64)
	return u, u.follow(resp)
}

// follow takes over where an answer says that the session continues.
func (u *remoteUpload) follow(resp *http.Response) error {
	text := resp.Header.Get("Location")
	if text == "" && u.location != nil {
		return nil
	}
	location, err := resp.Request.URL.Parse(text)
	if text == "" || err != nil || location.Host == "" {
		return fmt.Errorf("%s does not say where an upload continues (Location: %.200q)", u.c.host, text)
	}
	if resp.Request.URL.Scheme == "https" && location.Scheme != "https" {
		return plainError{fmt.Sprintf("%s speaks TLS, but sends uploads on to plain HTTP (%s); does its proxy tell it the scheme (X-Forwarded-Proto)?",
			u.c.host, location.Host), errDowngrade}
	}
	u.location = location
	return nil
}

// errDowngrade is behind the refusal of an upload that would continue without TLS.
var errDowngrade = errors.New("an upload that continues with plain HTTP")

// send sends what the registry lacks of a blob, and ends the upload. If a connection breaks, it goes on
// where the registry is, as long as that has got further.
func (u *remoteUpload) send(ctx context.Context, b pushedBlob) error {
	for tried := int64(-1); ; tried = u.offset {
		err := u.sendRest(ctx, b)
		if err == nil || isFinal(err) || ctx.Err() != nil || u.find(ctx) != nil || u.offset <= tried {
			return err
		}
	}
}

// sendRest sends chunks; the last one ends the upload. A small blob has no other.
func (u *remoteUpload) sendRest(ctx context.Context, b pushedBlob) error {
	for size := max(u.c.chunk, u.least); b.size-u.offset > size; {
		if err := u.patch(ctx, b, size); err != nil {
			return err
		}
	}
	return u.finish(ctx, b)
}

// patch sends the next n bytes.
func (u *remoteUpload) patch(ctx context.Context, b pushedBlob, n int64) error {
	r := u.request("sending a blob to", http.MethodPatch)
	r.header = http.Header{
		"Content-Type":  {"application/octet-stream"},
		"Content-Range": {fmt.Sprintf("%d-%d", u.offset, u.offset+n-1)},
	}
	r.body, r.length = u.part(b, n)
	r.ok = []int{http.StatusAccepted, http.StatusNoContent, http.StatusCreated}
	resp, err := u.c.do(ctx, r)
	if err != nil {
		return err
	}
	defer discard(resp.Body)
	u.offset += n
	return u.follow(resp)
}

// part is the body of a request with the next n bytes of a blob.
func (u *remoteUpload) part(b pushedBlob, n int64) (body func() (io.Reader, error), length int64) {
	at := u.offset
	return func() (io.Reader, error) {
		r, err := b.open(at)
		if err != nil {
			return nil, err
		}
		if c, ok := r.(io.Closer); ok {
			return struct {
				io.Reader
				io.Closer
			}{io.LimitReader(r, n), c}, nil
		}
		return io.LimitReader(r, n), nil
	}, n
}

// finish ends the upload, with the bytes that the registry has not yet.
func (u *remoteUpload) finish(ctx context.Context, b pushedBlob) error {
	r := u.request("sending a blob to", http.MethodPut)
	r.ok = []int{http.StatusCreated, http.StatusNoContent}
	r.header = http.Header{"Content-Type": {"application/octet-stream"}}
	if n := b.size - u.offset; n > 0 {
		r.body, r.length = u.part(b, n)
	}
	end := *u.location
	if end.RawQuery != "" {
		end.RawQuery += "&" // what the registry has put there stays as it is
	}
	end.RawQuery += "digest=" + url.QueryEscape(b.digest.String())
	r.url = &end
	resp, err := u.c.do(ctx, r)
	if err != nil {
		return err
	}
	discard(resp.Body)
	return nil
}

// find asks how far the upload has got. A registry that says 0-0 has one byte or none, which
// cannot be told apart: that is an error, and the upload has to begin again.
func (u *remoteUpload) find(ctx context.Context) error {
	r := u.request("continuing an upload to", http.MethodGet)
	r.ok = []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted}
	resp, err := u.c.do(ctx, r)
	if err != nil {
		return err
	}
	defer discard(resp.Body)
	_, last, _ := strings.Cut(resp.Header.Get("Range"), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if err != nil || n <= 0 {
		return fmt.Errorf("%s does not say how much of an upload it has", u.c.host)
	}
	u.offset = n + 1
	return u.follow(resp)
}

// cancel ends an upload that is given up. A registry that cannot do that ends it by itself.
func (u *remoteUpload) cancel(ctx context.Context) {
	ctx, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer end()
	r := u.request("giving up an upload to", http.MethodDelete)
	r.ok = []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted}
	if resp, err := u.c.do(ctx, r); err == nil {
		discard(resp.Body)
	}
}

// tags lists the tags of a repository, page after page. After an error there is nothing more.
func (c *client) tags(ctx context.Context, name string) iter.Seq2[string, error] {
	return c.list(ctx, "listing the tags of "+name, "/v2/"+name+"/tags/list?n=1000", scopeOf(name, "pull"))
}

// repositories lists what the registry's catalog shows.
func (c *client) repositories(ctx context.Context) iter.Seq2[string, error] {
	return c.list(ctx, "listing the repositories", "/v2/_catalog?n=1000", "registry:catalog:*")
}

// list reads the pages of a list of names. A page has at most maxManifest bytes, as those of Berth.
func (c *client) list(ctx context.Context, doing, path, scope string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		var next *url.URL
		for {
			r := &clientRequest{doing: doing, method: http.MethodGet, path: path, url: next, scopes: []string{scope}, ok: []int{http.StatusOK}}
			names, following, err := c.page(ctx, r)
			if err != nil {
				yield("", err)
				return
			}
			for _, name := range names {
				if !yield(name, nil) {
					return
				}
			}
			if following == nil {
				return
			}
			if next != nil && *next == *following {
				yield("", fmt.Errorf("%s: %s sends the same page again and again", doing, c.host))
				return
			}
			next = following
		}
	}
}

// page reads one page, and where the next is, or nil.
func (c *client) page(ctx context.Context, r *clientRequest) (names []string, next *url.URL, err error) {
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	defer discard(resp.Body)
	var doc struct{ Tags, Repositories []string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(&doc); err != nil {
		return nil, nil, fmt.Errorf("%s: %s sends no list: %w", r.doing, c.host, err)
	}
	next, err = nextPage(resp)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", r.doing, err)
	}
	return append(doc.Tags, doc.Repositories...), next, nil
}

// nextPage is where the header Link says that the next page is, on the same registry; nil if there is none.
func nextPage(resp *http.Response) (*url.URL, error) {
	for _, link := range resp.Header.Values("Link") {
		target, parameters, ok := strings.Cut(strings.TrimSpace(link), ">")
		if !ok || !strings.HasPrefix(target, "<") || !strings.Contains(strings.ReplaceAll(parameters, `"`, ""), "rel=next") {
			continue
		}
		next, err := resp.Request.URL.Parse(target[1:])
		if err != nil {
			return nil, fmt.Errorf("the next page is at no address: %.200q", target[1:])
		}
		// A proxy may have changed the scheme or the host; the next page is where this one was.
		next.Scheme, next.Host, next.User = resp.Request.URL.Scheme, resp.Request.URL.Host, nil
		return next, nil
	}
	return nil, nil
}
