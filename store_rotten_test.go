// Bytes that rot after they were stored are served to nobody, and are back with the
// next push.

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// rot changes bytes of manifests in the database of a registry that is stopped, and
// starts it again: nothing of them is remembered.
func (r *registry) rot(old, new, where string) {
	r.t.Helper()
	r.restart(func(c *config) {
		inDatabase(r.t, c.dir+"/berth.db", fmt.Sprintf(
			`UPDATE manifest SET body = CAST(replace(CAST(body AS TEXT), '%s', '%s') AS BLOB) WHERE %s`, old, new, where))
	})
}

// Nobody has scrubbed: the first who asks finds out.
func TestRottenManifestIsNotServed(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, ask := range []struct{ method, ref string }{{"GET", "x"}, {"GET", ""}, {"HEAD", "x"}, {"HEAD", ""}} {
		r := startRegistry(t)
		im := r.pushImage("a", "x", "{}", "layer")
		other := r.pushImage("a", "y", "{}", "another")
		path := "/v2/a/manifests/" + ask.ref
		if ask.ref == "" {
			path += im.digest.String()
		}
		r.rot("schemaVersion", "schemaVersi0n", "digest = '"+im.digest.String()+"'")
		r.want(404, ask.method, path, nil)
		for _, ref := range []string{"x", im.digest.String()} {
			r.want(404, "GET", "/v2/a/manifests/"+ref, nil).code("MANIFEST_UNKNOWN")
			r.want(404, "HEAD", "/v2/a/manifests/"+ref, nil)
		}
		r.want(200, "GET", "/v2/a/manifests/y", nil).is(other.manifest)
		if n := strings.Count(r.log.String(), "manifest damaged; push it again to repair it"); n != 1 {
			t.Errorf("the log tells of it %d times, want once", n)
		}
		if f := r.figures(); f.Quarantined.Count != 1 {
			t.Errorf("%d things in quarantine, want the manifest", f.Quarantined.Count)
		}
		out, err := runOnceOn(t, r.st, "check")
		if err == nil || !strings.Contains(out, "DAMAGED: manifest "+im.digest.String()+", needed by a:x") {
			t.Errorf("check: %v\n%s", err, out)
		}
		r.want(201, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)
		r.want(200, ask.method, path, nil)
		r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
		if f := r.figures(); f.Quarantined.Count != 0 {
			t.Errorf("%d things in quarantine after the push", f.Quarantined.Count)
		}
	}
}

// A push repairs what nobody has noticed yet, under whatever name it is pushed.
func TestPushRepairsAManifestThatRottedUnnoticed(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	long := newImage(typeOCIManifest, "x/y", "x/y", `,"annotations":{"n":"`+strings.Repeat("x", 100<<10)+`"}`, "{}", "layer")
	big, d := long.manifest, long.digest
	r.want(201, "PUT", "/v2/a/manifests/"+d.String(), big, "Content-Type: "+typeOCIManifest)
	for _, ref := range []string{"x", "y", im.digest.String()} {
		r.rot("schemaVersion", "schemaVersi0n", "1")
		r.want(201, "PUT", "/v2/a/manifests/"+ref, im.manifest, "Content-Type: "+typeOCIManifest)
		r.want(200, "GET", "/v2/a/manifests/"+ref, nil).is(im.manifest)
		r.want(201, "PUT", "/v2/a/manifests/"+d.String(), big, "Content-Type: "+typeOCIManifest)
		r.want(200, "GET", "/v2/a/manifests/"+d.String(), nil).is(big)
	}
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
}

// What rots with a digest of sha512 is found by that.
func TestRottenManifestUnderSHA512IsNotServed(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	d := digest.SHA512.FromString(im.manifest)
	put := func() {
		r.want(201, "PUT", "/v2/a/manifests/"+d.String()+"?tag=z", im.manifest, "Content-Type: "+typeOCIManifest)
	}
	put()
	r.want(200, "GET", "/v2/a/manifests/z", nil).is(im.manifest)
	r.rot("schemaVersion", "schemaVersi0n", "digest LIKE 'sha512:%'")
	r.want(404, "GET", "/v2/a/manifests/z", nil)
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
	put()
	r.want(200, "GET", "/v2/a/manifests/z", nil).is(im.manifest)
}

// An index of the registry's whose own bytes have rotted is made again, and what an
// image was wrapped in stays a part of it though it has rotted.
func TestIndexesOutliveRottenParts(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	amd := r.pushFor("a", "1", "linux/amd64", "x")
	arm := r.pushFor("a", "1", "linux/arm64", "x")
	whole := string(r.want(200, "GET", "/v2/a/manifests/1", nil).body)
	r.rot("architecture", "architectur3", "made")
	r.want(404, "GET", "/v2/a/manifests/1", nil)
	r.pushManifest("a", "1", arm.manifest, typeOCIManifest)
	r.want(200, "GET", "/v2/a/manifests/1", nil).is(whole)
	r.rot("architecture", "architectur3", "made")
	r.pushManifest("a", "1", arm.manifest, typeOCIManifest) // nobody has asked for it yet
	r.want(200, "GET", "/v2/a/manifests/1", nil).is(whole)
	r.rot("schemaVersion", "schemaVersi0n", "digest = '"+amd.digest.String()+"'")
	riscv := r.pushFor("a", "1", "linux/riscv64", "x")
	r.want(404, "GET", "/v2/a/manifests/"+amd.digest.String(), nil)
	r.pushManifest("a", "again", amd.manifest, typeOCIManifest)
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": arm, "linux/riscv64": riscv})
}

// A member that was pushed in an index with its attestations keeps that, also if its
// bytes have rotted when the registry's index is made anew.
func TestRottenWrapStaysWithItsImage(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	wrap, amd := r.attested("a", "1", "amd64", "one")
	r.rot("attestation-manifest", "attestati0n-manifest", "digest = '"+wrap.String()+"'")
	_, arm := r.attested("a", "1", "arm64", "two")
	want := map[string]digest.Digest{"linux/amd64": amd, "linux/arm64": arm}
	if got := r.platforms("a", "1"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the tag has %v, want %v", got, want)
	}
	r.freeze()
	for range 4 {
		r.pass(r.cfg.untaggedGrace * 2)
	}
	r.want(404, "GET", "/v2/a/manifests/"+wrap.String(), nil)
	if again, _ := r.attested("a", "again", "amd64", "one"); again != wrap {
		t.Fatalf("%s, want %s", again, wrap)
	}
	r.want(202, "DELETE", "/v2/a/manifests/again", nil)
	r.pass(r.cfg.untaggedGrace * 2)
	r.want(200, "GET", "/v2/a/manifests/"+wrap.String(), nil)
}

// What is listed of a referrer is what it says, again after a pass or a push.
func TestRottenAnnotationsOfAReferrer(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, fastScrub)
	r.pushBlob("a", "{}")
	about := sum("subject")
	im := newImage(typeOCIManifest, "x/y", "x/y", `,"subject":`+descriptorJSON(typeOCIManifest, "subject")+`,"annotations":{"n":"true"}`, "{}")
	put := func() {
		t.Helper()
		r.want(201, "PUT", "/v2/a/manifests/"+im.digest.String(), im.manifest, "Content-Type: "+typeOCIManifest)
	}
	list := func() string { return string(r.want(200, "GET", "/v2/a/referrers/"+about.String(), nil).body) }
	put()
	whole := list()
	if !strings.Contains(whole, `"true"`) || !strings.Contains(whole, "x/y") {
		t.Fatal(whole)
	}
	for _, rot := range []string{`annotations = '{"n":"fals3"}'`, `annotations = '{"n":'`, `annotations = NULL`, `artifact_type = 'x/z'`} {
		for name, heal := range map[string]func(){"push": put, "pass": r.scrub} {
			r.inDatabase(`UPDATE manifest SET ` + rot)
			if list() == whole {
				t.Errorf("%s: nothing is wrong, so this tests nothing", rot)
			}
			heal()
			if now := list(); now != whole {
				t.Errorf("%s, after a %s:\n%s, want\n%s", rot, name, now, whole)
			}
		}
	}
}

// over are two servers of a registry's, with a client each: one speaks HTTP/1.1, the
// other HTTP/2.
func (r *registry) over() map[string]func(method, path string, header ...string) (*http.Response, error) {
	second := httptest.NewUnstartedServer(r.server.handler())
	second.EnableHTTP2 = true
	second.StartTLS()
	r.t.Cleanup(second.Close)
	ask := func(server *httptest.Server) func(string, string, ...string) (*http.Response, error) {
		return func(method, path string, header ...string) (*http.Response, error) {
			req, err := http.NewRequest(method, server.URL+path, nil)
			if err != nil {
				return nil, err
			}
			for _, h := range header {
				key, value, _ := strings.Cut(h, ": ")
				req.Header.Set(key, value)
			}
			return server.Client().Transport.RoundTrip(req)
		}
	}
	return map[string]func(string, string, ...string) (*http.Response, error){"HTTP/1.1": ask(r.http), "HTTP/2.0": ask(second)}
}

const month = 30 * 24 * time.Hour

// A blob that nobody has looked at for a month is not served whole if it has rotted.
func TestRottenBlobIsNotServedWhole(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	for proto, ask := range r.over() {
		for _, size := range []int{100, verifiedPiece, verifiedPiece + 1, 3 * verifiedPiece, 1 << 20} {
			content := noise(uint64(size), size)
			d := r.pushBlob("a", content)
			if err := r.st.small.sync(); err != nil {
				t.Fatal(err)
			}
			path := "/v2/a/blobs/" + d.String()
			r.moved.Add(int64(month + time.Hour))
			r.pushBlob("a", content+"another, whose push says nothing of this one")
			if err := os.WriteFile(r.st.path(d), flip([]byte(content)), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // whoever comes before it was put aside
				resp, err := ask("GET", path)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.Proto != proto {
					t.Fatalf("the client speaks %s", resp.Proto)
				}
				if size > verifiedPiece && (resp.StatusCode != 200 || err == nil || len(body) >= size || resp.ContentLength != int64(size)) {
					t.Errorf("%s: status %d, %d bytes of %d, %v; want fewer, and an error", proto, resp.StatusCode, len(body), size, err)
				}
				if proto == "HTTP/2.0" && errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("the stream has come to an end in order; not every client counts bytes")
				}
				if size <= verifiedPiece && resp.StatusCode != 404 {
					t.Errorf("%s: status %d for %d bytes, want 404", proto, resp.StatusCode, size)
				}
			}
			for range len(r.st.scrubber.suspects) {
				r.st.scrubber.inspect(<-r.st.scrubber.suspects)
			}
			r.want(404, "HEAD", path, nil)
			r.want(404, "GET", path, nil)
			if f := r.figures(); f.Quarantined.Count != 1 {
				t.Errorf("%d things in quarantine, want the blob", f.Quarantined.Count)
			}
			r.pushBlob("a", content)
			r.want(200, "GET", path, nil).is(content)
		}
	}
}

// A blob is hashed once in a month, and neither if a pass has read it nor in part.
func TestBlobsAreVerifiedOnAPullOnceAMonth(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, fastScrub)
	content := noise(7, 100<<10)
	d := r.pushBlob("a", content)
	path := "/v2/a/blobs/" + d.String()
	image := newImage(typeOCIManifest, "x/y", "x/y", "", "{}", content)
	r.pushBlob("a", "{}")
	r.want(201, "PUT", "/v2/a/manifests/x", image.manifest, "Content-Type: "+typeOCIManifest)
	// A changed file shows whether it is hashed: without, it is served.
	hashed := func() bool {
		t.Helper()
		if err := os.WriteFile(r.st.path(d), flip([]byte(content)), 0o600); err != nil {
			t.Fatal(err)
		}
		re, err := r.try("GET", path, nil)
		if err := os.WriteFile(r.st.path(d), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err == nil && (re.status != 200 || len(re.body) != len(content)) {
			t.Fatalf("%s = %d, %d bytes", path, re.status, len(re.body))
		}
		return err != nil
	}
	want := func(when string, want bool) {
		t.Helper()
		if got := hashed(); got != want {
			t.Errorf("%s: is it hashed: %v, want %v", when, got, want)
		}
	}
	want("after the push", false)
	r.moved.Add(int64(month - time.Hour))
	want("within a month", false)
	r.moved.Add(int64(2 * time.Hour))
	want("after a month", true)
	r.want(200, "GET", path, nil, `If-None-Match: "other"`).is(content)
	r.want(206, "GET", path, nil, "Range: bytes=0-9").is(content[:10])
	r.want(200, "HEAD", path, nil)
	want("after others", true)
	r.want(200, "GET", path, nil).is(content)
	want("after it was pulled", false)
	r.restart()
	want("after a restart", true)
	r.want(200, "GET", path, nil).is(content)
	want("after it was pulled again", false)
	if n, _ := r.st.stats.commits(); n != 0 {
		t.Errorf("pulls have written %d times", n)
	}
	r.moved.Add(int64(2 * month))
	want("after two months", true)
	r.scrub()
	want("after a pass", false)
	r.moved.Add(int64(month + time.Hour))
	// A pass that has only come to this one.
	before := "sha256:"
	r.st.scrubber.verified.place.Store(&before)
	want("before a pass comes to it", true)
	after := "sha256:g"
	r.st.scrubber.verified.place.Store(&after)
	want("after a pass came to it", false)
}
