// A manifest that does not say what it is, pushed again as something else.

package main

import (
	"fmt"
	"strings"
	"testing"
)

// untyped is an image whose document has no media type.
func untyped(config string, layers ...string) image {
	im := ociImage(config, layers...)
	im.manifest = strings.Replace(im.manifest, fmt.Sprintf(`"mediaType":%q,`, typeOCIManifest), "", 1)
	im.digest = sum(im.manifest)
	return im
}

// putType pushes a manifest by its digest under a media type.
func (r *registry) putType(status int, im image, ref, mediaType string) *reply {
	r.t.Helper()
	return r.want(status, "PUT", "/v2/a/manifests/"+ref, im.manifest, "Content-Type: "+mediaType)
}

// What an index names keeps its media type, whoever pushes it again.
func TestMemberKeepsItsMediaType(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[immutable]]\nrepositories = [\"**\"]\ntags = [\"v*\"]\n"))
	im := untyped("{}", "layer")
	d := im.digest.String()
	r.pushBlob("a", "{}")
	r.pushBlob("a", "layer")
	r.putType(201, im, d, "application/x-mistake")
	r.putType(201, im, d, typeOCIManifest) // nothing leads to it yet: a mistake can be mended
	index, indexDigest := ociIndex(im.manifest)
	r.want(201, "PUT", "/v2/a/manifests/v1", index, "Content-Type: "+typeOCIIndex)
	for _, ref := range []string{d, "other"} {
		re := r.putType(403, im, ref, "application/x-evil").code("DENIED")
		if text := string(re.body); !strings.Contains(text, indexDigest.String()) || !strings.Contains(text, typeOCIManifest) {
			t.Errorf("the refusal does not say which index, and what it is: %s", text)
		}
		r.want(200, "GET", "/v2/a/manifests/"+d, nil).has("Content-Type", typeOCIManifest).is(im.manifest)
	}
	r.wantTags("a", "v1")
	r.putType(201, im, "other", typeOCIManifest)

	// A deeper index does not lead to it by itself, but its member does.
	outer := fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s]}`, descriptorJSON(typeOCIIndex, index))
	r.want(201, "PUT", "/v2/a/manifests/v2", outer, "Content-Type: "+typeOCIIndex)
	r.putType(403, im, d, "application/x-evil").code("DENIED")
	re := r.want(403, "PUT", "/v2/a/manifests/v2", outer, "Content-Type: "+typeDockerList).code("DENIED")
	if !strings.Contains(string(re.body), "v2") {
		t.Errorf("the refusal does not name the tag: %s", re.body)
	}

	// Without the index it is as before.
	r.pushBlob("b", "{}")
	r.pushBlob("b", "layer")
	r.want(201, "PUT", "/v2/b/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)
	r.want(201, "PUT", "/v2/b/manifests/i", index, "Content-Type: "+typeOCIIndex)
	r.want(202, "DELETE", "/v2/b/manifests/"+indexDigest.String(), nil)
	r.want(201, "PUT", "/v2/b/manifests/x", im.manifest, "Content-Type: application/x-other")
	r.want(200, "GET", "/v2/b/manifests/x", nil).has("Content-Type", "application/x-other")
}

// Where members may be absent, one that was deleted comes back as what it was.
func TestDeletedMemberKeepsItsMediaType(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.sparse = true })
	im := untyped("{}", "layer")
	d := im.digest.String()
	r.putType(201, im, d, typeOCIManifest)
	index, indexDigest := ociIndex(im.manifest)
	r.want(201, "PUT", "/v2/a/manifests/x", index, "Content-Type: "+typeOCIIndex)
	r.want(202, "DELETE", "/v2/a/manifests/"+d, nil)
	r.putType(403, im, d, "application/x-evil").code("DENIED")
	r.putType(201, im, d, typeOCIManifest)
	r.want(202, "DELETE", "/v2/a/manifests/"+d, nil)
	r.want(202, "DELETE", "/v2/a/manifests/"+indexDigest.String(), nil)
	r.putType(201, im, d, "application/x-other")
}

// What is no image any more is for no platform: no index takes it in.
func TestRetypedImageHasNoPlatform(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSuffixRule))
	config := configFor("linux/amd64", "")
	im := untyped(config, "layer")
	r.pushBlob("a", config)
	r.pushBlob("a", "layer")
	r.putType(201, im, "x", typeOCIManifest)
	r.putType(201, im, "x", "application/x-other")
	r.command("tag", "a:x", "1-amd64")
	r.wantTags("a", "1-amd64", "x")
}
