package main

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// A client that has not got the answer to its commit sends it again.
func TestCommitSentAgainIsAnsweredAgain(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, guarded(`
[[rule]]
who = ["ann"]
repositories = ["**"]
allow = ["push", "delete"]
[[rule]]
who = ["bob"]
repositories = ["**"]
allow = ["pull"]
`, "ann", "bob"))
	ann := as("ann")
	large := string(bytes.Repeat([]byte("0123456789abcdef"), 2<<20/16))
	for _, content := range []string{"a small blob", large} {
		d := sum(content).String()
		for _, first := range []string{"", content[:7], content} { // what has come before the commit
			loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, ann).location()
			if first != "" {
				r.want(202, "PATCH", loc, first, ann)
			}
			commit := with(loc, "digest="+d)
			for range 3 {
				r.want(201, "PUT", commit, content[len(first):], ann).has("Location", "/v2/a/blobs/"+d).has("Docker-Content-Digest", d)
			}
			r.want(201, "PUT", commit, nil, ann)
			r.restart()
			r.want(201, "PUT", commit, content[len(first):], ann).has("Location", "/v2/a/blobs/"+d).has("Docker-Content-Digest", d)
			// It tells what the repository has, to who may know, and nothing else.
			r.want(403, "PUT", commit, nil, as("bob")).code("DENIED")
			r.want(401, "PUT", commit, nil).code("UNAUTHORIZED")
			r.want(404, "PUT", commit, nil, r.bearer(ann, "repository:a:push")).code("BLOB_UPLOAD_UNKNOWN")
			r.want(404, "PUT", strings.Replace(commit, "/uploads/", "/uploads/x", 1), nil, ann).code("BLOB_UPLOAD_UNKNOWN")
			r.want(404, "PUT", with(loc, "digest="+sum("other").String()), "other", ann)
			r.want(404, "PUT", strings.Replace(commit, "/v2/a/", "/v2/b/", 1), nil, ann)
			r.want(404, "PATCH", loc, "x", ann)
			r.want(404, "GET", loc, nil, ann)
			r.want(200, "GET", "/v2/a/blobs/"+d, nil, ann).is(content)

			r.want(202, "DELETE", "/v2/a/blobs/"+d, nil, ann)
			r.want(404, "PUT", commit, content[len(first):], ann).code("BLOB_UPLOAD_UNKNOWN")
		}
	}
	// One that was refused, or given up, has made no blob.
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, ann).location()
	r.want(400, "PUT", with(loc, "digest="+sum("x").String()), "y", ann)
	r.want(404, "PUT", with(loc, "digest="+sum("x").String()), "x", ann)
	loc = r.want(202, "POST", "/v2/a/blobs/uploads/", nil, ann).location()
	r.want(204, "DELETE", loc, nil, ann)
	r.want(404, "PUT", with(loc, "digest="+sum("x").String()), "x", ann)
}

// The second comes while the first is at work.
func TestCommitSentAgainWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	var once sync.Once
	reached, goOn := make(chan struct{}), make(chan struct{})
	r := startRegistry(t, func(c *config) {
		c.at = func(point string) {
			if point == "placed" {
				once.Do(func() { close(reached); <-goOn })
			}
		}
	})
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	commit := with(r.want(202, "PATCH", loc, "content").location(), "digest="+sum("content").String())
	answers := make(chan string, 2)
	put := func() {
		re, err := r.try("PUT", commit, nil)
		if err != nil {
			answers <- err.Error()
			return
		}
		answers <- fmt.Sprint(re.status, re.location())
	}
	u, err := r.st.uploads.find("a", loc[strings.LastIndexByte(loc, '/')+1:], "")
	if err != nil {
		t.Fatal(err)
	}
	go put()
	<-reached
	go put()
	u.queue.await(1)
	close(goOn)
	for range 2 {
		if got := <-answers; got != "201/v2/a/blobs/"+sum("content").String() {
			t.Errorf("a commit is answered %s, want 201", got)
		}
	}
}
