// Sessions with a registry, from the outside: every endpoint's success and
// every refusal.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestBase(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	for _, path := range []string{"/v2/", "/v2"} {
		r.want(200, "GET", path, nil).has("Docker-Distribution-API-Version", "registry/2.0").
			has("Content-Type", "application/json").is("{}")
		r.want(200, "HEAD", path, nil).has("Docker-Distribution-API-Version", "registry/2.0")
	}
	if a, b := r.do("GET", "/v2/", nil), r.do("GET", "/v2/", nil); a.header.Get("X-Request-Id") == b.header.Get("X-Request-Id") {
		t.Errorf("two requests have the id %q", a.header.Get("X-Request-Id"))
	}
	r.want(200, "GET", "/healthz", nil)
	r.want(200, "GET", "/readyz", nil)
}

func TestPushAndPull(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("home/app", "1.0", "{}", "layer one", "layer two")

	for _, ref := range []string{"1.0", im.digest.String()} {
		path := "/v2/home/app/manifests/" + ref
		get := r.want(200, "GET", path, nil).is(im.manifest)
		head := r.want(200, "HEAD", path, nil).is("")
		for _, re := range []*reply{get, head} {
			re.has("Content-Type", typeOCIManifest).has("Docker-Content-Digest", im.digest.String()).
				has("Content-Length", fmt.Sprint(len(im.manifest))).has("ETag", `"`+im.digest.String()+`"`)
		}
	}
	r.want(200, "GET", "/v2/home/app/manifests/"+im.digest.String(), nil).has("Cache-Control", "max-age=31536000, immutable")
	r.want(200, "GET", "/v2/home/app/manifests/1.0", nil).has("Cache-Control", "")

	blob := "/v2/home/app/blobs/" + im.layers[0].String()
	get := r.want(200, "GET", blob, nil).is("layer one")
	head := r.want(200, "HEAD", blob, nil).is("")
	for _, re := range []*reply{get, head} {
		re.has("Content-Type", "application/octet-stream").has("Docker-Content-Digest", im.layers[0].String()).
			has("Content-Length", "9").has("ETag", `"`+im.layers[0].String()+`"`).has("Accept-Ranges", "bytes")
	}
}

func TestStoredBytesComeBackWhateverIsAccepted(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}")
	for _, accept := range []string{"*/*", typeDockerManifest, "text/html"} {
		r.want(200, "GET", "/v2/a/manifests/x", nil, "Accept: "+accept).is(im.manifest).has("Content-Type", typeOCIManifest)
	}
	// Odd white space and a newline at the end are part of the bytes.
	odd := " {\n\t\"schemaVersion\" : 2, \"manifests\" : [ ] }\n\n"
	r.want(201, "PUT", "/v2/a/manifests/odd", odd, "Content-Type: "+typeOCIIndex+"; charset=utf-8")
	r.want(200, "GET", "/v2/a/manifests/odd", nil).is(odd).has("Content-Type", typeOCIIndex).
		has("Docker-Content-Digest", sum(odd).String())
}

func TestManifestTypes(t *testing.T) {
	t.Parallel()
	const (
		dockerConfig = "application/vnd.docker.container.image.v1+json"
		dockerLayer  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
		empty        = "application/vnd.oci.empty.v1+json"
	)
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	r.pushBlob("a", "layer")
	docker := newImage(typeDockerManifest, dockerConfig, dockerLayer, "", "{}", "layer")
	oci := ociImage("{}", "layer")
	for _, x := range []struct{ mediaType, body string }{
		{typeDockerManifest, docker.manifest},
		{typeOCIManifest, oci.manifest},
		{typeOCIManifest, strings.Replace(oci.manifest, `"mediaType":"`+typeOCIManifest+`",`, "", 1)}, // no mediaType
		{typeDockerList, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, typeDockerList, descriptorJSON(typeDockerManifest, docker.manifest))},
		{typeOCIIndex, `{"schemaVersion":2,"manifests":[]}`},
		{typeOCIManifest, newImage(typeOCIManifest, empty, "application/x-thing", `,"artifactType":"application/x-thing"`, "{}").manifest},
		{typeOCIArtifact, fmt.Sprintf(`{"mediaType":%q,"artifactType":"x/y","blobs":[%s]}`, typeOCIArtifact, descriptorJSON("x/z", "layer"))},
		{"application/vnd.example.thing+json", `{"anything":["goes",null]}`},
		{typeOCIManifest, newImage(typeOCIManifest, empty, "x", `,"annotations":{"k":"<&>"},"unknown":{"deep":[1]}`, "{}").manifest},
		{typeOCIIndex, fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s,%s]}`, // buildkit's cache: layers in an index
			descriptorJSON(dockerLayer, "layer"), descriptorJSON("application/vnd.buildkit.cacheconfig.v0", "{}"))},
	} {
		re := r.want(201, "PUT", "/v2/a/manifests/t", x.body, "Content-Type: "+x.mediaType)
		re.has("Docker-Content-Digest", sum(x.body).String()).has("Location", "/v2/a/manifests/"+sum(x.body).String())
		r.want(200, "GET", re.location(), nil).is(x.body).has("Content-Type", x.mediaType)
	}
	// A client that names no type gets the document's own.
	r.want(201, "PUT", "/v2/a/manifests/t", docker.manifest)
	r.want(200, "GET", "/v2/a/manifests/t", nil).has("Content-Type", typeDockerManifest)
}

func TestManifestsRefused(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	config := descriptorJSON("application/vnd.oci.image.config.v1+json", "{}")
	image := ociImage("{}")
	for _, x := range []struct{ why, mediaType, body string }{
		{"empty", typeOCIManifest, ``},
		{"not JSON", typeOCIManifest, `{"schemaVersion":2`},
		{"an array", typeOCIManifest, `[]`},
		{"null", typeOCIManifest, `null`},
		{"two documents", typeOCIManifest, image.manifest + image.manifest},
		{"schema 1", typeDockerSchema1, `{"schemaVersion":1,"fsLayers":[]}`},
		{"signed schema 1", typeDockerSigned1, `{"schemaVersion":1,"fsLayers":[]}`},
		{"schema 1 in disguise", typeDockerManifest, `{"schemaVersion":1}`},
		{"schema 3", typeOCIManifest, `{"schemaVersion":3,"config":` + config + `}`},
		{"no schemaVersion", typeOCIManifest, `{"config":` + config + `}`},
		{"another mediaType", typeDockerManifest, image.manifest},
		{"a Content-Type that is none", "/;;", image.manifest},
		{"image and index", typeOCIManifest, `{"schemaVersion":2,"config":` + config + `,"layers":[],"manifests":[]}`},
		{"index and image", typeOCIIndex, `{"schemaVersion":2,"manifests":[],"layers":[]}`},
		{"image and index of a strange type", "x/y", `{"manifests":[],"layers":[]}`},
		{"an index called image", typeOCIManifest, `{"schemaVersion":2,"manifests":[]}`},
		{"an image called index", typeOCIIndex, `{"schemaVersion":2,"config":` + config + `,"layers":[]}`},
		{"Layers hidden by case", typeOCIManifest, `{"schemaVersion":2,"config":` + config + `,"layers":[],"Layers":[]}`},
		{"layers twice", typeOCIManifest, `{"schemaVersion":2,"config":` + config + `,"layers":[7],"layers":[]}`},
		{"layers in letters that fold", typeOCIManifest, `{"schemaVersion":2,"config":` + config + `,"layerſ":[7]}`},
		{"too many layers", typeOCIManifest, `{"schemaVersion":2,"config":` + config + `,"layers":[` + strings.Repeat(config+",", maxDescriptors) + config + `]}`},
		{"no config", typeOCIManifest, `{"schemaVersion":2,"layers":[]}`},
		{"layers not a list", typeOCIManifest, `{"schemaVersion":2,"config":` + config + `,"layers":{}}`},
		{"a layer not an object", typeOCIManifest, `{"schemaVersion":2,"config":` + config + `,"layers":[7]}`},
		{"bad digest", typeOCIManifest, `{"schemaVersion":2,"config":{"mediaType":"x/y","digest":"sha256:../../etc","size":1}}`},
		{"digest in capitals", typeOCIManifest, strings.ReplaceAll(image.manifest, sum("{}").Encoded(), strings.ToUpper(sum("{}").Encoded()))},
		{"md5", typeOCIManifest, `{"schemaVersion":2,"config":{"mediaType":"x/y","digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":1}}`},
		{"negative size", typeOCIManifest, strings.Replace(image.manifest, `"size":2`, `"size":-2`, 1)},
		{"fractional size", typeOCIManifest, strings.Replace(image.manifest, `"size":2`, `"size":2.5`, 1)},
		{"huge size", typeOCIManifest, strings.Replace(image.manifest, `"size":2`, `"size":99999999999999999999`, 1)},
		{"no size", typeOCIManifest, strings.Replace(image.manifest, `,"size":2`, ``, 1)},
		{"annotations not strings", typeOCIManifest, strings.Replace(image.manifest, `{"schemaVersion"`, `{"annotations":{"a":1},"schemaVersion"`, 1)},
		{"bad subject", typeOCIManifest, strings.Replace(image.manifest, `{"schemaVersion"`, `{"subject":{"digest":"x"},"schemaVersion"`, 1)},
		{"100,000 deep", typeOCIManifest, `{"schemaVersion":2,"x":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`},
	} {
		re := r.do("PUT", "/v2/a/manifests/t", x.body, "Content-Type: "+x.mediaType)
		if re.status != 400 {
			t.Errorf("%s: %d, want 400\n%.200s", x.why, re.status, re.body)
			continue
		}
		re.code("MANIFEST_INVALID")
	}
	r.want(404, "GET", "/v2/a/manifests/t", nil).code("MANIFEST_UNKNOWN")
}

func TestManifestSize(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	sized := func(n int) string {
		im := newImage(typeOCIManifest, "x/y", "x/y", `,"annotations":{"pad":""}`, "{}").manifest
		return strings.Replace(im, `"pad":"`, `"pad":"`+strings.Repeat("x", n-len(im)), 1)
	}
	most := sized(maxManifest)
	r.want(201, "PUT", "/v2/a/manifests/most", most, "Content-Type: "+typeOCIManifest)
	r.want(200, "GET", "/v2/a/manifests/most", nil).is(most)
	r.want(413, "PUT", "/v2/a/manifests/more", sized(maxManifest+1), "Content-Type: "+typeOCIManifest)
	r.want(413, "PUT", "/v2/a/manifests/more", io.MultiReader(strings.NewReader(sized(maxManifest+1))), "Content-Type: "+typeOCIManifest)
	r.want(404, "GET", "/v2/a/manifests/more", nil)
}

func TestManifestNeedsWhatItRefersTo(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	r.pushBlob("elsewhere", "layer 1")
	im := ociImage("{}", "layer 1", "layer 2")
	put := func(status int, body, mediaType string) *reply {
		return r.want(status, "PUT", "/v2/a/manifests/x", body, "Content-Type: "+mediaType)
	}
	// What another repository has does not count, and each missing digest is named.
	re := put(404, im.manifest, typeOCIManifest)
	if got := re.errors(); !slices.Equal(got, []string{"MANIFEST_BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"}) {
		t.Errorf("codes %v", got)
	}
	for _, d := range im.layers {
		if !strings.Contains(string(re.body), d.String()) {
			t.Errorf("%s is not named in %s", d, re.body)
		}
	}
	r.want(404, "GET", "/v2/a/manifests/x", nil)

	r.pushBlob("a", "layer 1")
	r.pushBlob("a", "layer 2")
	put(201, im.manifest, typeOCIManifest)

	other := ociImage("{}", "layer 1")
	index, _ := ociIndex(im.manifest, other.manifest)
	re = put(404, index, typeOCIIndex).code("MANIFEST_BLOB_UNKNOWN")
	if !strings.Contains(string(re.body), other.digest.String()) || strings.Contains(string(re.body), im.digest.String()) {
		t.Errorf("the missing member is not named: %s", re.body)
	}
	put(201, other.manifest, typeOCIManifest)
	put(201, index, typeOCIIndex)

	// Layers that are kept elsewhere need not be here; a subject neither.
	for _, foreign := range []string{
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
	} {
		put(201, newImage(typeOCIManifest, "x/y", foreign, "", "{}", "never pushed").manifest, typeOCIManifest)
	}
	put(201, newImage(typeOCIManifest, "x/y", "x/y", `,"subject":`+descriptorJSON("x/y", "nowhere"), "{}").manifest, typeOCIManifest).
		has("OCI-Subject", sum("nowhere").String())
}

func TestSparseIndex(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.sparse = true })
	im := ociImage("{}")
	index, _ := ociIndex(im.manifest, "absent")
	r.want(201, "PUT", "/v2/a/manifests/x", index, "Content-Type: "+typeOCIIndex)
	// A member that comes later belongs to the index, and stays.
	r.pushBlob("a", "{}")
	r.want(201, "PUT", "/v2/a/manifests/"+im.digest.String(), im.manifest, "Content-Type: "+typeOCIManifest)
	r.pass(100 * r.cfg.untaggedGrace)
	r.want(200, "GET", "/v2/a/manifests/"+im.digest.String(), nil)
}

func TestPushByDigest(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	im := ociImage("{}")
	r.want(400, "PUT", "/v2/a/manifests/"+sum("other").String(), im.manifest, "Content-Type: "+typeOCIManifest).code("DIGEST_INVALID")

	query := ""
	for i := range 10 {
		query += fmt.Sprintf("&tag=t%d", i)
	}
	re := r.want(201, "PUT", "/v2/a/manifests/"+im.digest.String()+"?"+query[1:], im.manifest, "Content-Type: "+typeOCIManifest)
	if got := re.header.Values("OCI-Tag"); len(got) != 10 || got[9] != "t9" {
		t.Errorf("OCI-Tag: %v", got)
	}
	for i := range 10 {
		r.want(200, "GET", fmt.Sprintf("/v2/a/manifests/t%d", i), nil).is(im.manifest)
	}
	r.want(400, "PUT", "/v2/a/manifests/"+im.digest.String()+"?tag=fine&tag=-bad", im.manifest).code("TAG_INVALID")
	r.want(404, "GET", "/v2/a/manifests/fine", nil)
	r.want(414, "PUT", "/v2/a/manifests/"+im.digest.String()+"?"+strings.Repeat("tag=x&", 101), im.manifest)
}

func TestSHA512(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	content := strings.Repeat("sha512 ", 100000)
	d := digest.SHA512.FromString(content)

	// With the hint the session hashes by it; without it reads again; or in one request.
	for _, query := range []string{"?digest-algorithm=sha512", ""} {
		loc := r.want(202, "POST", "/v2/a/blobs/uploads/"+query, nil).location()
		loc = r.want(202, "PATCH", loc, content).location()
		r.want(201, "PUT", with(loc, "digest="+d.String()), nil).has("Docker-Content-Digest", d.String())
	}
	r.want(201, "POST", "/v2/a/blobs/uploads/?digest="+d.String(), content)
	r.want(200, "GET", "/v2/a/blobs/"+d.String(), nil).is(content).has("Docker-Content-Digest", d.String())
	r.want(404, "GET", "/v2/a/blobs/"+sum(content).String(), nil)
	r.want(400, "POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", nil).code("DIGEST_INVALID")

	r.pushBlob("a", "{}")
	im := ociImage("{}")
	d = digest.SHA512.FromString(im.manifest)
	r.want(201, "PUT", "/v2/a/manifests/"+d.String()+"?tag=v512", im.manifest, "Content-Type: "+typeOCIManifest).
		has("Docker-Content-Digest", d.String()).has("OCI-Tag", "v512")
	r.want(200, "GET", "/v2/a/manifests/v512", nil).is(im.manifest).has("Docker-Content-Digest", d.String())
}

func TestUploadInOneRequest(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := sum("content")
	r.want(201, "POST", "/v2/a/blobs/uploads/?digest="+d.String(), "content").
		has("Location", "/v2/a/blobs/"+d.String()).has("Docker-Content-Digest", d.String())
	r.want(200, "GET", "/v2/a/blobs/"+d.String(), nil).is("content")
	r.want(400, "POST", "/v2/a/blobs/uploads/?digest="+d.String(), "something else").code("DIGEST_INVALID")
	r.want(400, "POST", "/v2/a/blobs/uploads/?digest="+d.String(), nil).code("DIGEST_INVALID")
	r.want(400, "POST", "/v2/a/blobs/uploads/?digest=sha256:x", "content").code("DIGEST_INVALID")
}

// docker, podman, crane: POST, one PATCH of unknown length, an empty PUT.
func TestUploadAsDockerDoes(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	content := strings.Repeat("docker", 500000)
	re := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, "Content-Type: application/json").
		has("Range", "0-0").has("Content-Length", "0")
	if re.header.Get("Docker-Upload-UUID") == "" {
		t.Error("no Docker-Upload-UUID")
	}
	re = r.want(202, "PATCH", re.location(), io.MultiReader(strings.NewReader(content))).
		has("Range", fmt.Sprintf("0-%d", len(content)-1)).has("Content-Length", "0")
	r.want(201, "PUT", with(re.location(), "digest="+sum(content).String()), nil)
	r.want(200, "GET", "/v2/a/blobs/"+sum(content).String(), nil).is(content)
	r.want(404, "GET", re.location(), nil).code("BLOB_UPLOAD_UNKNOWN")
}

// oras, helm, containerd: POST, then one PUT with everything.
func TestUploadAsContainerdDoes(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	for _, content := range []string{"all at once", ""} {
		loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
		r.want(201, "PUT", with(loc, "digest="+sum(content).String()), content, "Content-Type: application/octet-stream")
		r.want(200, "GET", "/v2/a/blobs/"+sum(content).String(), nil).is(content).has("Content-Length", fmt.Sprint(len(content)))
	}
}

func TestUploadInChunks(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	first := loc
	loc = r.want(202, "PATCH", loc, "01234", "Content-Range: 0-4").has("Range", "0-4").location()
	r.want(204, "GET", loc, nil).has("Range", "0-4").has("Location", loc)

	// A gap, a repeat and an overlap are refused with the true range, on PUT too.
	for _, x := range []string{"6-8", "0-2", "4-6"} {
		r.want(416, "PATCH", loc, "abc", "Content-Range: "+x).code("BLOB_UPLOAD_INVALID").has("Range", "0-4").has("Location", loc)
		r.want(416, "PUT", with(loc, "digest="+sum("x").String()), "abc", "Content-Range: "+x).has("Range", "0-4")
	}
	// Malformed, or not as long as the body.
	for _, x := range []string{"5-4", "x", "-5", "5-", "5-9999999999999999999", "5-9223372036854775807", "5-7,8-9", "bytes 5-7/x", "5-8"} {
		r.want(400, "PATCH", loc, "abc", "Content-Range: "+x).code("BLOB_UPLOAD_INVALID")
	}
	r.want(400, "PATCH", loc, io.MultiReader(strings.NewReader("567")), "Content-Range: 5-10") // kept, but too short
	r.want(204, "GET", loc, nil).has("Range", "0-7")
	r.want(202, "PATCH", first, "89", "Content-Range: bytes 8-9/*").has("Range", "0-9") // an old Location still works
	r.want(201, "PUT", with(loc, "digest="+sum("0123456789abc").String()), "abc", "Content-Range: 10-12")
	r.want(200, "GET", "/v2/a/blobs/"+sum("0123456789abc").String(), nil).is("0123456789abc")
}

func TestUploadOfWrongDigestStoresNothing(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", loc, "content")
	r.want(400, "PUT", loc, nil).code("DIGEST_INVALID") // no digest: nothing has happened yet
	r.want(400, "PUT", with(loc, "digest=sha256:abc"), nil).code("DIGEST_INVALID")
	r.want(204, "GET", loc, nil).has("Range", "0-6")
	r.want(400, "PUT", with(loc, "digest="+sum("other").String()), nil).code("DIGEST_INVALID")
	r.want(404, "HEAD", "/v2/a/blobs/"+sum("other").String(), nil)
	r.want(404, "HEAD", "/v2/a/blobs/"+sum("content").String(), nil)
	r.want(404, "GET", loc, nil).code("BLOB_UPLOAD_UNKNOWN")
}

func TestUploadCancelled(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", loc, "content")
	r.want(204, "DELETE", loc, nil)
	for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
		r.want(404, method, loc+"?digest="+sum("content").String(), nil).code("BLOB_UPLOAD_UNKNOWN")
	}
}

func TestUploadBelongsToItsRepository(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	loc := r.want(202, "POST", "/v2/mine/blobs/uploads/", nil).location()
	stolen := strings.Replace(loc, "/mine/", "/yours/", 1)
	for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
		r.want(404, method, stolen+"?digest="+sum("").String(), nil).code("BLOB_UPLOAD_UNKNOWN")
	}
	r.want(204, "GET", loc, nil)
	for _, id := range []string{"x", "..%2f..%2fberth.db", strings.Repeat("a", 10000), "00000000-0000-0000-0000-000000000000", "%00"} {
		r.want(404, "PATCH", "/v2/mine/blobs/uploads/"+id, "x").code("BLOB_UPLOAD_UNKNOWN")
	}
}

func TestMount(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("from", "shared")
	r.want(404, "HEAD", "/v2/to/blobs/"+d.String(), nil)
	r.want(201, "POST", "/v2/to/blobs/uploads/?mount="+d.String()+"&from=from&origin=x", nil).
		has("Location", "/v2/to/blobs/"+d.String()).has("Docker-Content-Digest", d.String())
	r.want(200, "GET", "/v2/to/blobs/"+d.String(), nil).is("shared")

	// What cannot be mounted begins an ordinary session.
	for _, query := range []string{
		"mount=" + d.String(),                           // no from
		"mount=" + d.String() + "&from=nowhere",         // not there
		"mount=" + d.String() + "&from=..%2fetc",        // no name
		"mount=" + sum("other").String() + "&from=from", // not that one
	} {
		loc := r.want(202, "POST", "/v2/third/blobs/uploads/?"+query, nil).has("Range", "0-0").location()
		r.want(204, "DELETE", loc, nil)
	}
	r.want(404, "HEAD", "/v2/third/blobs/"+d.String(), nil)
	r.want(400, "POST", "/v2/third/blobs/uploads/?mount=sha256:x&from=from", nil).code("DIGEST_INVALID")

	// It is gone from where it was deleted, and only there.
	r.want(202, "DELETE", "/v2/from/blobs/"+d.String(), nil)
	r.want(404, "GET", "/v2/from/blobs/"+d.String(), nil).code("BLOB_UNKNOWN")
	r.want(200, "GET", "/v2/to/blobs/"+d.String(), nil).is("shared")
	loc := r.want(202, "POST", "/v2/third/blobs/uploads/?mount="+d.String()+"&from=from", nil).location()
	r.want(204, "DELETE", loc, nil)
}

func TestBlobRanges(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	path := "/v2/a/blobs/" + r.pushBlob("a", "0123456789").String()
	for _, x := range []struct {
		header, contentRange, body string
	}{
		{"bytes=0-", "bytes 0-9/10", "0123456789"},
		{"bytes=2-4", "bytes 2-4/10", "234"},
		{"bytes=-3", "bytes 7-9/10", "789"},
		{"bytes=-100", "bytes 0-9/10", "0123456789"},
		{"bytes=8-100", "bytes 8-9/10", "89"},
	} {
		r.want(206, "GET", path, nil, "Range: "+x.header).is(x.body).has("Content-Range", x.contentRange)
	}
	r.want(200, "GET", path, nil, "Range: items=0-1").is("0123456789")
	for _, bad := range []string{"bytes=10-", "bytes=99-100", "bytes=-0", "bytes=5-4", "bytes=a-b",
		"bytes=99999999999999999999-", "bytes=-99999999999999999999"} {
		r.want(416, "GET", path, nil, "Range: "+bad).code("RANGE_INVALID").has("ETag", "")
	}
	re := r.want(206, "GET", path, nil, "Range: bytes=0-1,4-5")
	if ct := re.header.Get("Content-Type"); !strings.HasPrefix(ct, "multipart/byteranges; boundary=") || !strings.Contains(string(re.body), "\r\n\r\n45\r\n") {
		t.Errorf("two ranges: %s\n%s", ct, re.body)
	}
	r.want(200, "GET", path, nil, "Range: bytes=0-0"+strings.Repeat(",0-0", 10000)).is("0123456789") // a flood is ignored
	r.want(200, "HEAD", path, nil, "Range: bytes=0-1").has("Content-Length", "10")

	etag := r.do("HEAD", path, nil).header.Get("ETag")
	r.want(304, "GET", path, nil, "If-None-Match: "+etag).is("")
	r.want(200, "GET", path, nil, `If-None-Match: "other"`)
	r.want(206, "GET", path, nil, "Range: bytes=0-1", "If-Range: "+etag).is("01")
	r.want(200, "GET", path, nil, "Range: bytes=0-1", `If-Range: "other"`).is("0123456789")
}

func TestConditionalManifest(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}")
	r.want(304, "GET", "/v2/a/manifests/x", nil, `If-None-Match: "`+im.digest.String()+`"`).is("")
	next := r.pushImage("a", "x", "{}", "more")
	r.want(200, "GET", "/v2/a/manifests/x", nil, `If-None-Match: "`+im.digest.String()+`"`).is(next.manifest)
}

func TestDeleteTag(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "one", "{}", "layer")
	r.want(201, "PUT", "/v2/a/manifests/two", im.manifest, "Content-Type: "+typeOCIManifest)
	r.want(202, "DELETE", "/v2/a/manifests/one", nil)
	r.want(404, "GET", "/v2/a/manifests/one", nil).code("MANIFEST_UNKNOWN")
	r.want(404, "DELETE", "/v2/a/manifests/one", nil).code("MANIFEST_UNKNOWN")
	r.want(200, "GET", "/v2/a/manifests/two", nil)
	r.want(202, "DELETE", "/v2/a/manifests/two", nil)
	// The digest is there without a tag.
	r.want(200, "GET", "/v2/a/manifests/"+im.digest.String(), nil)
	r.want(200, "GET", "/v2/a/tags/list", nil).is(`{"name":"a","tags":[]}`)
}

func TestDeleteManifest(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "one", "{}", "layer")
	r.want(201, "PUT", "/v2/a/manifests/two", im.manifest, "Content-Type: "+typeOCIManifest)
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	for _, ref := range []string{"one", "two", im.digest.String()} {
		r.want(404, "GET", "/v2/a/manifests/"+ref, nil).code("MANIFEST_UNKNOWN")
	}
	r.want(404, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil).code("MANIFEST_UNKNOWN")
	r.want(200, "GET", "/v2/a/tags/list", nil).is(`{"name":"a","tags":[]}`)
	r.want(200, "GET", "/v2/_catalog", nil).is(`{"repositories":[]}`)
	r.want(404, "HEAD", "/v2/a/blobs/"+im.layers[0].String(), nil)
}

func TestDeleteKeepsWhatIsInUse(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "one", "{}", "layer")
	index, indexDigest := ociIndex(im.manifest)
	r.want(201, "PUT", "/v2/a/manifests/multi", index, "Content-Type: "+typeOCIIndex)

	r.want(403, "DELETE", "/v2/a/blobs/"+im.layers[0].String(), nil).code("DENIED")
	re := r.want(403, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil).code("DENIED")
	if !strings.Contains(string(re.body), indexDigest.String()) {
		t.Errorf("the index is not named: %s", re.body)
	}
	r.want(202, "DELETE", "/v2/a/manifests/"+indexDigest.String(), nil)
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	r.want(404, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil)
	r.want(404, "DELETE", "/v2/a/blobs/"+im.layers[0].String(), nil).code("BLOB_UNKNOWN")
}

func TestTagMoves(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	first := r.pushImage("a", "latest", "{}", "1")
	second := r.pushImage("a", "latest", "{}", "2")
	r.want(200, "GET", "/v2/a/manifests/latest", nil).is(second.manifest)
	r.want(200, "GET", "/v2/a/manifests/"+first.digest.String(), nil).is(first.manifest)
	r.want(200, "GET", "/v2/a/tags/list", nil).is(`{"name":"a","tags":["latest"]}`)
}

func TestTagsList(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "b", "{}")
	for _, tag := range []string{"a", "B", "c", "10", "9", "_x"} {
		r.want(201, "PUT", "/v2/a/manifests/"+tag, im.manifest, "Content-Type: "+typeOCIManifest)
	}
	list := func(query string) *reply { return r.want(200, "GET", "/v2/a/tags/list"+query, nil) }
	list("").is(`{"name":"a","tags":["10","9","B","_x","a","b","c"]}`).has("Link", "").has("Content-Type", "application/json")
	list("?n=2").is(`{"name":"a","tags":["10","9"]}`).has("Link", `</v2/a/tags/list?last=9&n=2>; rel="next"`)
	list("?n=2&last=9").is(`{"name":"a","tags":["B","_x"]}`)
	list("?n=7").has("Link", "")
	list("?n=3&last=_x").is(`{"name":"a","tags":["a","b","c"]}`).has("Link", "")
	list("?last=Z").is(`{"name":"a","tags":["_x","a","b","c"]}`) // need not exist
	list("?last=c").is(`{"name":"a","tags":[]}`)
	list("?n=0").is(`{"name":"a","tags":[]}`).has("Link", "")
	list("?n=2147483648").has("Link", "")
	list("?n=99999999999999999999").has("Link", "")
	for _, n := range []string{"-1", "x", "1.5", "0x10"} {
		r.want(400, "GET", "/v2/a/tags/list?n="+n, nil).code("PAGINATION_NUMBER_INVALID")
	}
	r.want(404, "GET", "/v2/unknown/tags/list", nil).code("NAME_UNKNOWN")

	// Following the links sees each tag once.
	var seen []string
	for path := "/v2/a/tags/list?n=3"; path != ""; {
		re := r.want(200, "GET", path, nil)
		var page struct{ Tags []string }
		if err := json.Unmarshal(re.body, &page); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, page.Tags...)
		path, _, _ = strings.Cut(strings.TrimPrefix(re.header.Get("Link"), "<"), ">")
	}
	if len(seen) != 7 || !slices.IsSorted(seen) {
		t.Errorf("pages list %v", seen)
	}
}

func TestCatalog(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.want(200, "GET", "/v2/_catalog", nil).is(`{"repositories":[]}`)
	for _, name := range []string{"b/c", "a", "b"} {
		r.pushImage(name, "x", "{}")
	}
	r.pushBlob("only/blobs", "x")
	r.want(200, "GET", "/v2/_catalog", nil).is(`{"repositories":["a","b","b/c"]}`).has("Link", "")
	r.want(200, "GET", "/v2/_catalog?n=2", nil).is(`{"repositories":["a","b"]}`).has("Link", `</v2/_catalog?last=b&n=2>; rel="next"`)
	r.want(200, "GET", "/v2/_catalog?n=2&last=b", nil).is(`{"repositories":["b/c"]}`).has("Link", "")
	r.want(200, "GET", "/v2/_catalog?n=0", nil).is(`{"repositories":[]}`)
	r.want(400, "GET", "/v2/_catalog?n=-1", nil).code("PAGINATION_NUMBER_INVALID")
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	list := func(path string) (entries []referrer, re *reply) {
		t.Helper()
		re = r.want(200, "GET", path, nil).has("Content-Type", typeOCIIndex)
		var index struct {
			SchemaVersion int
			MediaType     string
			Manifests     []referrer
		}
		if err := json.Unmarshal(re.body, &index); err != nil || index.SchemaVersion != 2 || index.MediaType != typeOCIIndex || index.Manifests == nil {
			t.Errorf("%s: not an index: %v\n%s", path, err, re.body)
		}
		return index.Manifests, re
	}
	im := ociImage("{}", "layer")
	path := "/v2/a/referrers/" + im.digest.String()
	if got, _ := list(path); len(got) != 0 {
		t.Errorf("nothing pushed: %v", got)
	}
	r.want(400, "GET", "/v2/a/referrers/sha256:x", nil).code("DIGEST_INVALID")

	// The referrers come before their subject.
	r.pushBlob("a", "{}")
	subject := `,"subject":` + descriptorJSON(typeOCIManifest, im.manifest)
	signature := newImage(typeOCIManifest, "application/x-sig-config", "x/y", subject+`,"annotations":{"by":"me <&>"}`, "{}")
	sbom := newImage(typeOCIManifest, "application/vnd.oci.empty.v1+json", "x/y", subject+`,"artifactType":"application/x-sbom"`, "{}")
	index := `{"schemaVersion":2,"mediaType":"` + typeOCIIndex + `","manifests":[]` + subject + `}`
	for _, m := range []struct{ mediaType, body string }{{typeOCIManifest, signature.manifest}, {typeOCIManifest, sbom.manifest}, {typeOCIIndex, index}} {
		for range 2 { // pushed again, listed once
			r.want(201, "PUT", "/v2/a/manifests/"+sum(m.body).String(), m.body, "Content-Type: "+m.mediaType).has("OCI-Subject", im.digest.String())
		}
	}
	r.pushImage("a", "x", "{}", "layer")

	got, _ := list(path)
	want := []referrer{
		{typeOCIManifest, signature.digest, int64(len(signature.manifest)), "application/x-sig-config", json.RawMessage(`{"by":"me <&>"}`)},
		{typeOCIManifest, sbom.digest, int64(len(sbom.manifest)), "application/x-sbom", nil},
		{typeOCIIndex, sum(index), int64(len(index)), "", nil},
	}
	slices.SortFunc(want, func(a, b referrer) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("referrers\n%v\nwant\n%v", got, want)
	}

	got, re := list(path + "?artifactType=application/x-sbom")
	if re.has("OCI-Filters-Applied", "artifactType"); len(got) != 1 || got[0].Digest != sbom.digest {
		t.Errorf("filtered: %v", got)
	}
	if got, _ := list(path + "?artifactType=none"); len(got) != 0 {
		t.Errorf("filtered by another type: %v", got)
	}

	// Pages, by n and by size.
	var seen []digest.Digest
	for next := path + "?n=2"; next != ""; {
		page, re := list(next)
		for _, f := range page {
			seen = append(seen, f.Digest)
		}
		next, _, _ = strings.Cut(strings.TrimPrefix(re.header.Get("Link"), "<"), ">")
	}
	if len(seen) != 3 || !slices.IsSorted(seen) {
		t.Errorf("pages list %v", seen)
	}

	// Gone with their manifest, not with their tag; not in another repository.
	r.want(201, "PUT", "/v2/a/manifests/tagged", sbom.manifest, "Content-Type: "+typeOCIManifest)
	r.want(202, "DELETE", "/v2/a/manifests/tagged", nil)
	if got, _ := list(path); len(got) != 3 {
		t.Errorf("after the tag was deleted: %v", got)
	}
	r.want(202, "DELETE", "/v2/a/manifests/"+sbom.digest.String(), nil)
	if got, _ := list(path); len(got) != 2 {
		t.Errorf("after the manifest was deleted: %v", got)
	}
	if got, _ := list("/v2/other/referrers/" + im.digest.String()); len(got) != 0 {
		t.Errorf("in another repository: %v", got)
	}
}

func TestReferrersPageStaysBelowTheLimit(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	subject := sum("subject")
	for i := range 3 {
		pad := strings.Repeat("x", []int{3 << 20, 3 << 20, maxManifest - 600}[i])
		m := newImage(typeOCIManifest, "x/y", "x/y", fmt.Sprintf(`,"subject":%s,"annotations":{"pad":"%d%s"}`, descriptorJSON("x/y", "subject"), i, pad), "{}")
		r.want(201, "PUT", "/v2/a/manifests/"+m.digest.String(), m.manifest, "Content-Type: "+typeOCIManifest)
	}
	n := 0
	for next := "/v2/a/referrers/" + subject.String(); next != ""; n++ {
		re := r.want(200, "GET", next, nil)
		if len(re.body) > maxManifest {
			t.Errorf("a page of %d bytes", len(re.body))
		}
		next, _, _ = strings.Cut(strings.TrimPrefix(re.header.Get("Link"), "<"), ">")
	}
	if n != 3 {
		t.Errorf("%d pages, want 3", n)
	}
}

// Older clients keep the list of referrers in a tag named after the digest.
// It is a tag like any other, and what it lists is found both ways.
func TestFallbackTag(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}")
	sig := newImage(typeOCIManifest, "x/sig", "x/y", `,"subject":`+descriptorJSON(typeOCIManifest, im.manifest), "{}")
	r.want(201, "PUT", "/v2/a/manifests/"+sig.digest.String(), sig.manifest, "Content-Type: "+typeOCIManifest)
	index, _ := ociIndex(sig.manifest)
	tag := strings.Replace(im.digest.String(), ":", "-", 1)
	r.want(201, "PUT", "/v2/a/manifests/"+tag, index, "Content-Type: "+typeOCIIndex)
	r.want(200, "GET", "/v2/a/manifests/"+tag, nil).is(index)
	if re := r.want(200, "GET", "/v2/a/referrers/"+im.digest.String(), nil); !strings.Contains(string(re.body), sig.digest.String()) {
		t.Errorf("not in the referrers: %s", re.body)
	}
}

func TestNames(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	for _, name := range []string{"a", "library/alpine", "a/b/c/d/e/f", "a.b/c_d/e__f/g-h/i--j", "0", strings.Repeat("a", 255),
		"blobs", "manifests/tags", "tags/list", "uploads", "a/blobs/uploads", "blobs/uploads/blobs", "referrers/manifests", "v2", "a/tags/list/manifests"} {
		im := r.pushImage(name, "list", "{}", "layer of "+name)
		r.want(200, "GET", "/v2/"+name+"/manifests/list", nil).is(im.manifest)
		r.want(200, "GET", "/v2/"+name+"/tags/list", nil).is(`{"name":"` + name + `","tags":["list"]}`)
		r.want(200, "HEAD", "/v2/"+name+"/blobs/"+im.layers[0].String(), nil)
		r.want(200, "GET", "/v2/"+name+"/referrers/"+im.digest.String(), nil)
		loc := r.want(202, "POST", "/v2/"+name+"/blobs/uploads/", nil).location()
		r.want(204, "GET", loc, nil)
		r.want(204, "DELETE", loc, nil)
	}
	for _, name := range []string{"A", "a//b", "a/../b", "..", ".", "a/.", "/a", "a/", "-a", "a-", "a..b", "a___b", "a%00b", "a%0ab", "%2e%2e/%2e%2e",
		"..%2f..%2fetc", "a%5cb", "ä", "%ff", "a b", "a:b", "a@b", "_catalog", strings.Repeat("a", 256), strings.Repeat("a/", 5000) + "a"} {
		for _, x := range []struct{ method, path string }{
			{"GET", "/manifests/x"}, {"PUT", "/manifests/x"}, {"DELETE", "/manifests/x"}, {"POST", "/blobs/uploads/"},
			{"GET", "/blobs/" + sum("x").String()}, {"DELETE", "/blobs/" + sum("x").String()},
			{"GET", "/tags/list"}, {"GET", "/referrers/" + sum("x").String()},
			{"PATCH", "/blobs/uploads/00000000-0000-0000-0000-000000000000"},
		} {
			re := r.do(x.method, "/v2/"+strings.ReplaceAll(name, " ", "%20")+x.path, nil)
			if re.status != 400 {
				t.Errorf("%.100s = %d, want 400", re.request, re.status)
			} else {
				re.code("NAME_INVALID")
			}
		}
	}
	// The escaped form of a good name is that name.
	r.want(200, "GET", "/v2/library%2Falpine/tags/list", nil)
}

func TestTagsAndDigestsRefused(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}")
	r.want(201, "PUT", "/v2/a/manifests/"+strings.Repeat("x", 128), im.manifest, "Content-Type: "+typeOCIManifest)
	for _, tag := range []string{strings.Repeat("x", 129), "-x", ".x", "a%2Fb", "a%00", "..", "a%0A", "%C3%A4", "a b", strings.Repeat("x", 10000)} {
		tag = strings.ReplaceAll(tag, " ", "%20")
		r.want(400, "PUT", "/v2/a/manifests/"+tag, im.manifest).code("TAG_INVALID")
		r.want(404, "GET", "/v2/a/manifests/"+tag, nil).code("MANIFEST_UNKNOWN") // there can be no such tag
		r.want(400, "DELETE", "/v2/a/manifests/"+tag, nil).code("TAG_INVALID")
	}
	for _, d := range []string{"sha256:", "sha256:abc", "sha256:" + strings.Repeat("A", 64), "sha256:" + strings.Repeat("g", 64), "md5:" + strings.Repeat("a", 32),
		"sha256:" + strings.Repeat("a", 10000), "sha256:..%2f..%2f" + strings.Repeat("a", 58), "sha512:" + strings.Repeat("a", 64), ":", "sha256+b64:x"} {
		r.want(400, "GET", "/v2/a/manifests/"+d, nil).code("DIGEST_INVALID")
		r.want(400, "GET", "/v2/a/blobs/"+d, nil).code("DIGEST_INVALID")
		r.want(400, "DELETE", "/v2/a/blobs/"+d, nil).code("DIGEST_INVALID")
		r.want(400, "GET", "/v2/a/referrers/"+d, nil).code("DIGEST_INVALID")
	}
}

func TestUnknownEndpointsAndMethods(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	for _, path := range []string{"/", "/v1/search?q=x", "/v2/a", "/v2/a/b/c", "/v2/a/manifests", "/v2/a/manifests/", "/v2/a/tags/other", "/v2/a/tags/",
		"/v2/a/referrers/", "/v2/../../etc/passwd", "/v2//", "/favicon.ico"} {
		r.want(404, "GET", path, nil)
		r.want(404, "PUT", path, nil)
	}
	for _, x := range []struct{ method, path, allow string }{
		{"PUT", "/v2/", "GET, HEAD"},
		{"DELETE", "/v2/_catalog", "GET, HEAD"},
		{"POST", "/v2/a/manifests/x", "GET, HEAD, PUT, DELETE"},
		{"PUT", "/v2/a/blobs/" + sum("x").String(), "GET, HEAD, DELETE"},
		{"GET", "/v2/a/blobs/uploads/", "POST"},
		{"POST", "/v2/a/blobs/uploads/00000000-0000-0000-0000-000000000000", "GET, HEAD, PUT, PATCH, DELETE"},
		{"PATCH", "/v2/a/b/tags/list", "GET, HEAD"},
		{"BREW", "/v2/a/referrers/" + sum("x").String(), "GET, HEAD"},
	} {
		r.want(405, x.method, x.path, nil).code("UNSUPPORTED").has("Allow", x.allow)
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	writes := []struct{ method, path string }{
		{"POST", "/v2/a/blobs/uploads/"}, {"POST", "/v2/b/blobs/uploads/?from=a&mount=" + im.config.String()},
		{"PATCH", loc}, {"PUT", loc + "?digest=" + sum("").String()}, {"DELETE", loc}, {"PUT", "/v2/a/manifests/x"},
	}
	deletes := []struct{ method, path string }{
		{"DELETE", "/v2/a/manifests/x"}, {"DELETE", "/v2/a/manifests/" + im.digest.String()}, {"DELETE", "/v2/a/blobs/" + im.layers[0].String()},
	}
	r.restart(func(c *config) { c.readOnly = true })
	for _, x := range append(writes, deletes...) {
		r.want(405, x.method, x.path, nil).code("UNSUPPORTED")
	}
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
	r.restart(func(c *config) { c.readOnly, c.noDelete = false, true })
	for _, x := range deletes {
		r.want(405, x.method, x.path, nil).code("UNSUPPORTED")
	}
	r.want(204, "DELETE", loc, nil) // a client may give up its own upload
	r.pushImage("a", "y", "{}")
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.maxUploads, c.maxBlob = 3, 10 })
	r.impatient()
	var last string
	for range 2 {
		last = r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	}
	r.want(429, "POST", "/v2/a/blobs/uploads/", nil).code("TOOMANYREQUESTS").has("Retry-After", "60")
	r.want(202, "PATCH", last, "12345")
	r.want(413, "PATCH", last, "123456").code("SIZE_INVALID")
	r.want(413, "PATCH", last, io.MultiReader(strings.NewReader("123456"))).code("SIZE_INVALID")
	r.want(204, "DELETE", last, nil)
	last = r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(201, "PUT", with(last, "digest="+sum("0123456789").String()), "0123456789")
	r.want(413, "POST", "/v2/a/blobs/uploads/?digest="+sum("x").String(), "01234567890").code("SIZE_INVALID")
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	r.do("GET", "/v2/a/manifests/x", nil)
	r.do("HEAD", "/v2/a/manifests/nothing", nil)
	re := r.want(200, "GET", "/metrics", nil)
	for _, want := range []string{ // the files that were synced are the directories for blobs
		`berth_http_requests_total{method="GET",route="/v2/{name}/manifests/{reference}",status="200"} 1`,
		`berth_http_requests_total{method="HEAD",route="/v2/{name}/manifests/{reference}",status="404"} 1`,
		`berth_http_request_duration_seconds_bucket{route="/v2/{name}/manifests/{reference}",le="0.005"} `,
		`berth_http_request_duration_seconds_bucket{route="/v2/{name}/manifests/{reference}",le="+Inf"} 3` + "\n",
		`berth_http_request_duration_seconds_sum{route="/v2/{name}/manifests/{reference}"} 0.`,
		`berth_http_request_duration_seconds_count{route="/v2/{name}/manifests/{reference}"} 3` + "\n",
		"# HELP berth_http_requests_in_flight Requests under way.\n# TYPE berth_http_requests_in_flight gauge\nberth_http_requests_in_flight 1\n", "# TYPE berth_file_syncs_total counter\n",
		"berth_received_bytes_total 7\n", "berth_uploads_open 0\n", "berth_database_commits_total 3\n", "berth_file_syncs_total 3\n", "go_goroutines ",
	} {
		if !strings.Contains(string(re.body), want) {
			t.Errorf("no %s in\n%s", want, re.body)
		}
	}
	// Prometheus refuses all of it for one line that it cannot read, or a name that comes twice.
	form := regexp.MustCompile(`^(?:# HELP [a-z_]+ [A-Z0-9][^\\]+\.|# TYPE [a-z_]+ (?:counter|gauge|histogram)|([a-z_]+(?:\{(?:[a-z]+="[^"\\]*",?)+\})?) (?:[0-9.e+-]+))$`)
	seen := make(map[string]bool)
	for line := range strings.Lines(string(re.body)) {
		line = strings.TrimSuffix(line, "\n")
		m := form.FindStringSubmatch(line)
		if m == nil || seen[line] || m[1] != "" && seen[m[1]] {
			t.Errorf("the line %q", line)
			continue
		}
		seen[line], seen[m[1]] = true, true
	}
}

// A spread has each time in the bucket of the first bound that is not below it.
func TestSpreadOfTimes(t *testing.T) {
	t.Parallel()
	var m meters
	for _, ms := range []int{0, 5, 6, 10000, 10001} {
		m.of("/x").count("GET", 200, time.Duration(ms)*time.Millisecond)
	}
	var b bytes.Buffer
	m.write(&b)
	for le, want := range map[string]int{"0.005": 2, "0.01": 3, "5": 3, "10": 4, "+Inf": 5} {
		if line := fmt.Sprintf("{route=\"/x\",le=%q} %d\n", le, want); !strings.Contains(b.String(), line) {
			t.Errorf("no %s in\n%s", line, b.String())
		}
	}
	if !strings.Contains(b.String(), "_sum{route=\"/x\"} 20.012\n") {
		t.Errorf("the sum in\n%s", b.String())
	}
}

func TestLogLine(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	re := r.do("GET", "/v2/a/manifests/x%0Ay", nil, "Authorization: Basic c2VjcmV0OnNlY3JldA==")
	r.stop()
	r.start()
	line := r.log.String()
	for _, want := range []string{"method=GET", "route=/v2/{name}/manifests/{reference}", "status=404", "path=/v2/a/manifests/x%0Ay",
		"id=" + re.header.Get("X-Request-Id"), "client=127.0.0.1:", "took=", fmt.Sprintf("bytes=%d", len(re.body))} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in the log:\n%s", want, line)
		}
	}
	if strings.Contains(line, "c2VjcmV0") || strings.Contains(line, "Basic") {
		t.Errorf("a credential is in the log:\n%s", line)
	}
}
