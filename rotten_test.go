// Bytes that rot after they were stored are served to nobody, and are back with the
// next push.

package main

import (
	"fmt"
	"strings"
	"testing"

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
