package e2e

// Regctl, regclient's command line: it uploads in chunks, knows digests of other algorithms than
// sha256, and deletes a tag without its manifest.

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestRegctl(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	regctl := newRegctl(t, reg)
	dir, digest := ociLayout(t, []string{"amd64", "arm64"}, randomLayer(50, 1<<20), layer(hello(t)))
	regctl.run("image", "copy", "ocidir://"+dir+":v1", reg.ref("app:v1"))
	reg.wantDigest("app", "v1", digest)
	if got := regctl.run("image", "digest", reg.ref("app:v1")); got != digest {
		t.Errorf("regctl image digest says %s, want %s", got, digest)
	}
	regctl.run("image", "copy", reg.ref("app:v1"), reg.ref("app:v2"))
	regctl.run("image", "copy", reg.ref("app:v1"), reg.ref("deep/down/app:v1"))
	reg.wantDigest("deep/down/app", "v1", digest)

	empty := tempDir(t)
	regctl.run("image", "copy", reg.ref("deep/down/app:v1"), "ocidir://"+empty+":v1")
	if got := regctl.run("image", "digest", "ocidir://"+empty+":v1"); got != digest {
		t.Errorf("regctl pulled %s, want %s", got, digest)
	}
	if got := strings.Fields(regctl.run("repo", "ls", reg.addr)); !slices.Equal(got, []string{"app", "deep/down/app"}) {
		t.Errorf("regctl repo ls says %q", got)
	}

	// A tag goes; the other tag of the same digest stays.
	regctl.run("tag", "delete", reg.ref("app:v1"))
	if got := regctl.run("tag", "ls", reg.ref("app")); got != "v2" {
		t.Errorf("regctl tag ls says %q, want v2", got)
	}
	reg.wantDigest("app", "v2", digest)
	regctl.run("manifest", "delete", reg.ref("app@"+digest))
	if reg.has("app", "v2") {
		t.Error("app:v2 is still there after its manifest was deleted")
	}
}

func TestRegctlIndex(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	regctl := newRegctl(t, reg)
	for _, arch := range []string{"amd64", "arm64"} {
		dir, _ := ociLayout(t, []string{arch}, layer(hello(t)))
		regctl.run("image", "copy", "ocidir://"+dir+":v1", reg.ref("multi:"+arch))
	}
	for _, mediaType := range []string{
		"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	} {
		regctl.run("index", "create", "--media-type", mediaType, "--ref", reg.ref("multi:amd64"), "--ref", reg.ref("multi:arm64"), reg.ref("multi:all"))
		_, body := reg.manifest("multi", "all")
		if index := parse(t, body); index.MediaType != mediaType || len(index.Manifests) != 2 {
			t.Errorf("regctl made the index\n%s", body)
		}
		child, _ := reg.manifest("multi", "arm64")
		if got := regctl.run("image", "digest", "--platform", "linux/arm64", reg.ref("multi:all")); got != child {
			t.Errorf("regctl finds %s for arm64, want %s", got, child)
		}
	}
	regctl.run("index", "create", reg.ref("multi:empty"))
	if _, body := reg.manifest("multi", "empty"); !strings.Contains(string(body), `"manifests":[]`) {
		t.Errorf("the empty index is\n%s", body)
	}
}

// A blob in chunks of 64 KiB: a PATCH for each, with Content-Range.
func TestRegctlChunkedUpload(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	tap := tapInto(t, reg)
	regctl := newRegctl(t, reg)
	regctl.run("registry", "set", tap.addr, "--tls", "disabled", "--skip-check", "--blob-chunk", "65536", "--blob-max", "65536")
	body := string(randomLayer(51, 1<<20))
	digest := regctl.feed(body, "blob", "put", tap.ref("chunks"))
	if want := digestOf("sha256:", []byte(body)); digest != want {
		t.Errorf("regctl put %s, want %s", digest, want)
	}
	patches := 0
	for _, e := range tap.since() {
		if e.method == "PATCH" && e.status == 202 {
			patches++
		}
	}
	if patches < 16 {
		t.Errorf("the blob came in %d chunks, want at least 16", patches)
	}
	status, header, got := reg.get("GET", "/v2/chunks/blobs/"+digest)
	if status != 200 || string(got) != body || header.Get("Docker-Content-Digest") != digest {
		t.Errorf("GET of the blob = %d, %d bytes, Docker-Content-Digest %q; want %d bytes of %s",
			status, len(got), header.Get("Docker-Content-Digest"), len(body), digest)
	}
}

// An image with all its digests in sha512 is pushed with its tag and found under it.
func TestRegctlSHA512(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	regctl := newRegctl(t, reg)
	dir, _ := ociLayout(t, []string{"amd64", "arm64"}, layer(hello(t)))
	regctl.run("image", "mod", "ocidir://"+dir+":v1", "--digest-algo", "sha512", "--create", "v512")
	regctl.run("image", "copy", "ocidir://"+dir+":v512", reg.ref("app:v512"))
	digest := regctl.run("image", "digest", "ocidir://"+dir+":v512")
	if !strings.HasPrefix(digest, "sha512:") {
		t.Fatalf("regctl made %s, want a sha512 digest", digest)
	}
	reg.wantDigest("app", "v512", digest)
	reg.wantDigest("app", digest, digest)

	empty := tempDir(t)
	regctl.run("image", "copy", reg.ref("app:v512"), "ocidir://"+empty+":v512")
	if got := regctl.run("image", "digest", "ocidir://"+empty+":v512"); got != digest {
		t.Errorf("regctl pulled %s, want %s", got, digest)
	}

	body := "a blob with a long digest"
	blob := regctl.feed(body, "blob", "put", "--digest", digestOf("sha512:", []byte(body)), reg.ref("app"))
	if got := regctl.run("blob", "get", reg.ref("app"), blob); got != body || !strings.HasPrefix(blob, "sha512:") {
		t.Errorf("regctl blob get %s says %q, want %q", blob, got, body)
	}
}

func TestRegctlArtifacts(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	regctl := newRegctl(t, reg)
	dir, subject := ociLayout(t, []string{"amd64", "arm64"}, layer(hello(t)))
	regctl.run("image", "copy", "ocidir://"+dir+":v1", reg.ref("app:v1"))

	regctl.feed("free", "artifact", "put", "--artifact-type", "application/vnd.test.free", reg.ref("app:free"))
	if got := regctl.run("artifact", "get", reg.ref("app:free")); got != "free" {
		t.Errorf("regctl artifact get says %q", got)
	}
	for _, kind := range []string{"sbom", "signature"} {
		regctl.feed(kind, "artifact", "put", "--artifact-type", "application/vnd.test."+kind,
			"--annotation", "test.kind="+kind, "--subject", reg.ref("app:v1"))
	}
	list := func(flags ...string) (kinds []string) {
		t.Helper()
		out := regctl.run(append([]string{"artifact", "list", reg.ref("app:v1"), "--format", "{{json .Descriptors}}"}, flags...)...)
		var found []descriptor
		if err := json.Unmarshal([]byte(out), &found); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		for _, d := range found {
			kinds = append(kinds, d.Annotations["test.kind"])
			if d.ArtifactType != "application/vnd.test."+d.Annotations["test.kind"] {
				t.Errorf("a referrer is listed with the type %q and the annotations %v", d.ArtifactType, d.Annotations)
			}
		}
		slices.Sort(kinds)
		return kinds
	}
	if got := list(); !slices.Equal(got, []string{"sbom", "signature"}) {
		t.Errorf("regctl artifact list finds %q", got)
	}
	if got := list("--filter-artifact-type", "application/vnd.test.sbom"); !slices.Equal(got, []string{"sbom"}) {
		t.Errorf("regctl artifact list finds %q of type sbom", got)
	}
	if got := regctl.run("artifact", "get", "--subject", reg.ref("app:v1"), "--filter-artifact-type", "application/vnd.test.signature"); got != "signature" {
		t.Errorf("regctl artifact get of the subject says %q", got)
	}
	regctl.run("image", "copy", "--referrers", reg.ref("app:v1"), reg.ref("team/copy:v1"))
	status, _, body := reg.get("GET", "/v2/team/copy/referrers/"+subject)
	if n := len(parse(t, body).Manifests); status != 200 || n != 2 {
		t.Errorf("the copy has %d referrers (status %d), want 2\n%s", n, status, body)
	}
	if tags := regctl.run("tag", "ls", reg.ref("team/copy")); tags != "v1" {
		t.Errorf("the copy's tags are %q, want only v1: no fallback tags", tags)
	}
}

// newRegctl is a regctl that speaks to the registry without TLS.
func newRegctl(t *testing.T, b *berth) *client {
	t.Helper()
	c := newClient(t, "regctl")
	c.run("registry", "set", b.addr, "--tls", "disabled", "--skip-check")
	return c
}
