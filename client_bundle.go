// What export and import ask of a registry beside pushes and pulls: blobs in one request, as they arrive, and lists of
// referrers. What import alone may ask is answered at the socket in the data directory (handlers_local.go), not elsewhere.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
)

// putBlob sends a blob in one request, which cannot be sent again.
func (c *client) putBlob(ctx context.Context, name string, d digest.Digest, size int64, body io.Reader) error {
	resp, err := c.do(ctx, &clientRequest{
		doing:  fmt.Sprintf("sending the blob %s to %s", d, name),
		method: http.MethodPost, path: "/v2/" + name + "/blobs/uploads/?digest=" + url.QueryEscape(d.String()),
		scopes: []string{scopeOf(name, "pull,push")},
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body:   func() (io.Reader, error) { return body, nil },
		length: size,
		ok:     []int{http.StatusCreated},
	})
	if err != nil {
		return err
	}
	discard(resp.Body)
	return nil
}

// streamBlob sends a blob of size bytes whose digest is not known before its end, and returns that.
func (c *client) streamBlob(ctx context.Context, name string, size int64, body io.Reader) (digest.Digest, error) {
	u, err := c.startUpload(ctx, name, "", "")
	if err != nil {
		return "", err
	}
	hash := digest.SHA256.Hash()
	if size > 0 {
		r := u.request("sending a blob to", http.MethodPatch)
		r.header = http.Header{"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("0-%d", size-1)}}
		r.body, r.length = func() (io.Reader, error) { return io.TeeReader(body, hash), nil }, size
		r.ok = []int{http.StatusAccepted}
		resp, err := c.do(ctx, r)
		if err != nil {
			u.cancel(ctx)
			return "", err
		}
		err = u.follow(resp)
		discard(resp.Body)
		if err != nil {
			return "", err
		}
	}
	d := digest.NewDigest(digest.SHA256, hash)
	u.offset = size
	return d, u.finish(ctx, pushedBlob{digest: d, size: size})
}

// mountAny has a repository of this machine's registry take a blob that another repository of it has. It reports false if
// there is none.
func (c *client) mountAny(ctx context.Context, name string, d digest.Digest) (bool, error) {
	resp, err := c.do(ctx, &clientRequest{
		doing:  fmt.Sprintf("looking for the blob %s", d),
		method: http.MethodPost, path: "/v2/" + name + "/blobs/uploads/?mount=" + url.QueryEscape(d.String()),
		scopes: []string{scopeOf(name, "pull,push")},
		ok:     []int{http.StatusCreated},
	})
	if isRemote(err, http.StatusNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	discard(resp.Body)
	return true, nil
}

// putExactly sends a manifest by its digest, of any algorithm, and has a tag point at it unless that is "". partly is for an
// index of which this machine's registry may lack members.
func (c *client) putExactly(ctx context.Context, name string, d digest.Digest, tag, mediaType string, body []byte, partly bool) error {
	r := &clientRequest{
		doing:  "sending the manifest " + reference{tag: tag, digest: d}.of(name),
		method: http.MethodPut, path: "/v2/" + name + "/manifests/" + d.String(),
		scopes: []string{scopeOf(name, "pull,push")},
		header: http.Header{"Content-Type": {mediaType}},
		body:   func() (io.Reader, error) { return bytes.NewReader(body), nil },
		length: int64(len(body)),
		ok:     []int{http.StatusCreated},
	}
	if tag != "" {
		r.path += "?tag=" + url.QueryEscape(tag)
	}
	if partly {
		r.header.Set(partlyHeader, "yes")
	}
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	discard(resp.Body)
	return nil
}

// referrers lists what refers to a manifest, page after page. After an error there is nothing more.
func (c *client) referrers(ctx context.Context, name string, d digest.Digest) iter.Seq2[part, error] {
	return func(yield func(part, error) bool) {
		var next *url.URL
		for {
			r := &clientRequest{doing: "listing what refers to " + reference{digest: d}.of(name), method: http.MethodGet,
				path: "/v2/" + name + "/referrers/" + d.String(), url: next, scopes: []string{scopeOf(name, "pull")}, ok: []int{http.StatusOK}}
			resp, err := c.do(ctx, r)
			if err != nil {
				yield(part{}, err)
				return
			}
			var doc struct{ Manifests []part }
			err = json.NewDecoder(io.LimitReader(resp.Body, 2*maxManifest)).Decode(&doc)
			var following *url.URL
			if err == nil {
				following, err = nextPage(resp)
			}
			discard(resp.Body)
			if err != nil {
				yield(part{}, fmt.Errorf("%s: %s sends no list: %w", r.doing, c.host, err))
				return
			}
			for _, p := range doc.Manifests {
				if !yield(p, nil) {
					return
				}
			}
			if following == nil || next != nil && *next == *following {
				return
			}
			next = following
		}
	}
}
