//go:build unix

// Signatures that are tags stay with their image, and go with it.

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// sign pushes what a client without the referrers list keeps beside an image.
func (r *registry) sign(repo string, of digest.Digest, kind, word string) image {
	r.t.Helper()
	return r.pushImage(repo, signatureTag(of)+kind, "{}", "signature "+word)
}

// wantSorted is wantTags in any order.
func (r *registry) wantSorted(repo string, tags ...string) {
	r.t.Helper()
	r.wantTags(repo, slices.Sorted(slices.Values(tags))...)
}

func TestSignedBy(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("0a", 32)
	for tag, want := range map[string]string{
		"sha256-" + hex: "sha256:" + hex, "sha256-" + hex + ".sig": "sha256:" + hex, "sha512-" + hex: "sha512:" + hex, "sha256-" + hex + ".cosign.bundle": "sha256:" + hex,
		"sha256-" + hex[1:]: "", "sha256-" + hex + "0": "", "sha256-" + hex + "-sig": "", "sha256-" + hex + ".": "", "md5-" + hex: "",
		"sha256-" + strings.ToUpper(hex): "", "latest": "", "1.0": "",
	} {
		if got := signedBy(tag); string(got) != want {
			t.Errorf("%s belongs to %q, want %q", tag, got, want)
		}
	}
}

// Rules count builds, not their signatures; a signature is as old as its image.
func TestRetentionLeavesSignaturesWithTheirImage(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[retain]]\nrepositories = [\"**\"]\nnewest = 2\n"), func(c *config) { c.noPromises = true })
	var signatures []string
	var first image
	for i, tag := range []string{"build-a", "build-b", "build-c"} {
		im := r.pushImage("app", tag, "{}", tag)
		if i == 0 {
			first = im
		}
		r.sign("app", im.digest, ".sig", tag)
		list, _ := ociIndex(im.manifest) // whatever it lists
		if i > 0 {
			r.want(201, "PUT", "/v2/app/manifests/"+signatureTag(im.digest), list, "Content-Type: "+typeOCIIndex)
			signatures = append(signatures, signatureTag(im.digest))
		}
		signatures = append(signatures, signatureTag(im.digest)+".sig")
		r.moved.Add(int64(1e9))
	}
	explained := r.command("retain", "app", "--explain")
	if want := "belongs to " + shortDigest(first.digest.String()) + ", and is removed with it"; !strings.Contains(explained, want) {
		t.Errorf("explained as\n%s\nwant %q", explained, want)
	}
	frees := r.blobBytes()
	r.retained("app")
	r.wantSorted("app", append(signatures, "build-b", "build-c")...)
	// It can still be undone, with its signature.
	r.undo(200, "app", r.last("app"), "")
	r.wantSorted("app", append(signatures, "build-a", "build-b", "build-c")...)
	r.want(202, "DELETE", "/v2/app/manifests/build-a", nil)
	r.pass(r.cfg.untaggedGrace + 2e9)
	r.wantSorted("app", append(signatures[1:], "build-b", "build-c")...)
	r.pass(r.cfg.untaggedGrace + 2e9) // the signature's manifest,
	r.pass(r.cfg.grace + 2e9)         // and the blobs
	if !strings.Contains(explained, "frees "+formatSize(frees-r.blobBytes())) {
		t.Errorf("%d bytes are free, explained as\n%s", frees-r.blobBytes(), explained)
	}
}

// Nothing is known of the image of a signature that is kept elsewhere: that stays.
func TestSignaturesInARepositoryOfTheirOwn(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[retain]]\nrepositories = [\"**\"]\nnewest = 1\n"))
	im := r.pushImage("app", "v1", "{}", "app")
	r.sign("signatures", im.digest, ".sig", "one")
	r.sign("signatures", sum("another image"), ".sig", "two")
	r.want(202, "DELETE", "/v2/app/manifests/"+im.digest.String(), nil)
	r.retained("signatures")
	r.pass(3 * r.cfg.untaggedGrace)
	r.wantSorted("signatures", signatureTag(im.digest)+".sig", signatureTag(sum("another image"))+".sig")
}

// A deleted image takes its signatures along when it is collected, not before.
func TestSignaturesOfADeletedImage(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im, other := r.pushImage("app", "v1", "{}", "one"), r.pushImage("app", "v2", "{}", "two")
	r.sign("app", im.digest, ".sig", "one")
	r.sign("app", other.digest, ".sig", "two")
	r.want(202, "DELETE", "/v2/app/manifests/"+im.digest.String(), nil)
	r.pass(r.cfg.untaggedGrace / 2)
	r.wantSorted("app", "v2", signatureTag(im.digest)+".sig", signatureTag(other.digest)+".sig")
	r.pass(r.cfg.untaggedGrace)
	r.wantSorted("app", "v2", signatureTag(other.digest)+".sig")
	if h := r.history("app", "n=1"); len(h) != 1 || h[0].Action != "retention" || h[0].Why != "with its image" {
		t.Errorf("the history says %+v", h)
	}
}

// Where no tag moves, an image can be signed a second time.
func TestSignaturesOfImmutableTags(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[immutable]]\nrepositories = [\"release/**\"]\n[[immutable]]\nrepositories = [\"sealed\"]\ntags = [\"*\", \"sha256-*\"]\n"))
	for _, repo := range []string{"release/app", "sealed"} {
		im := r.pushImage(repo, "v1", "{}", "app")
		for _, kind := range []string{".sig", ""} {
			r.sign(repo, im.digest, kind, "one")
			second := ociImage("{}", "signature two")
			r.pushBlob(repo, "signature two")
			status := 201
			if repo == "sealed" { // the rule names them
				status = 403
			}
			r.want(status, "PUT", "/v2/"+repo+"/manifests/"+signatureTag(im.digest)+kind, second.manifest, "Content-Type: "+typeOCIManifest)
		}
		r.pushBlob(repo, "other")
		r.want(403, "PUT", "/v2/"+repo+"/manifests/v1", ociImage("{}", "other").manifest, "Content-Type: "+typeOCIManifest)
		r.want(403, "DELETE", "/v2/"+repo+"/manifests/"+im.digest.String(), nil)
	}
}

// A rule that names them keeps them when their image is collected, too, whoever collects.
func TestImmutableSignaturesOutliveTheirImage(t *testing.T) {
	t.Parallel()
	for _, offline := range []bool{false, true} {
		r := startRegistry(t, ruled("[[immutable]]\nrepositories = [\"**\"]\ntags = [\"sha256-*.sig\"]\n"))
		im := r.pushImage("app", "v1", "{}", "app")
		r.sign("app", im.digest, ".sig", "one")
		r.sign("app", im.digest, ".att", "two")
		r.want(202, "DELETE", "/v2/app/manifests/"+im.digest.String(), nil)
		if offline {
			r.stop()
			for _, args := range [][]string{{"--dry-run"}, {}} {
				out, err := runOnce(t, append([]string{"gc", "--now", "--data", r.cfg.dir}, args...)...)
				if err != nil || !strings.Contains(out, "2 manifests") {
					t.Errorf("gc %v: %v\n%s", args, err, out)
				}
			}
			r.start()
		} else {
			r.pass(2 * r.cfg.untaggedGrace)
		}
		r.wantSorted("app", signatureTag(im.digest)+".sig")
	}
}

// A signature that the list of them names no longer can be deleted, though former
// versions of the list do, which nothing leads to. An undo brings all back.
func TestSignatureThatFormerListsName(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("app", "v1", "{}", "app")
	sign := func(word string) image {
		r.pushBlob("app", word)
		sig := newImage(typeOCIManifest, "x/sig", "x/sig", `,"subject":`+descriptorJSON(typeOCIManifest, im.manifest), "{}", word)
		r.want(201, "PUT", "/v2/app/manifests/"+sig.digest.String(), sig.manifest, "Content-Type: "+typeOCIManifest)
		return sig
	}
	a, b := sign("a"), sign("b")
	list := func(manifests ...string) digest.Digest {
		index, d := ociIndex(manifests...)
		r.want(201, "PUT", "/v2/app/manifests/"+signatureTag(im.digest), index, "Content-Type: "+typeOCIIndex)
		return d
	}
	first, second := list(a.manifest), list(a.manifest, b.manifest)
	outer, inner := ociIndex(b.manifest)
	r.want(201, "PUT", "/v2/app/manifests/"+inner.String(), outer, "Content-Type: "+typeOCIIndex)
	r.want(403, "DELETE", "/v2/app/manifests/"+a.digest.String(), nil).code("DENIED")
	last := list(b.manifest)
	r.want(202, "DELETE", "/v2/app/manifests/"+a.digest.String(), nil)
	for _, d := range []digest.Digest{a.digest, first, second} {
		r.want(404, "GET", "/v2/app/manifests/"+d.String(), nil)
	}
	if re := r.want(200, "GET", "/v2/app/referrers/"+im.digest.String(), nil); strings.Contains(string(re.body), a.digest.String()) {
		t.Error("it is still listed")
	}
	r.want(403, "DELETE", "/v2/app/manifests/"+b.digest.String(), nil).code("DENIED") // the tag leads to it
	r.undo(200, "app", r.last("app"), "")
	for _, d := range []digest.Digest{a.digest, first, second, last} {
		r.want(200, "GET", "/v2/app/manifests/"+d.String(), nil)
	}
	r.want(202, "DELETE", "/v2/app/manifests/"+a.digest.String(), nil)
	r.pass(r.cfg.untaggedGrace + 2e9)
	r.want(404, "GET", "/v2/app/manifests/"+first.String(), nil)
}

// Where manifests without a tag are kept, an index without one holds its members like
// any other: people pull it by its digest.
func TestUntaggedIndexThatIsKeptHoldsItsMembers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.untaggedGrace = 0 })
	im := r.pushImage("app", "v1", "{}", "app")
	index, d := ociIndex(im.manifest)
	r.want(201, "PUT", "/v2/app/manifests/"+d.String(), index, "Content-Type: "+typeOCIIndex)
	r.want(403, "DELETE", "/v2/app/manifests/"+im.digest.String(), nil).code("DENIED")
	r.want(200, "GET", "/v2/app/manifests/"+d.String(), nil)
	r.want(202, "DELETE", "/v2/app/manifests/"+d.String(), nil)
	r.want(202, "DELETE", "/v2/app/manifests/"+im.digest.String(), nil)
}
