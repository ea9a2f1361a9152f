package e2e

// Oras: artifacts that are no images, and what is attached to images: signatures, lists of contents,
// anything with a subject.

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOrasArtifact(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	oras := newClient(t, "oras")
	writeFile(t, filepath.Join(oras.dir, "notes.txt"), "some notes\n")
	writeFile(t, filepath.Join(oras.dir, "empty.txt"), "")
	digest := lastDigest(t, oras.run("push", "--plain-http", "--artifact-type", "application/vnd.test.notes", reg.ref("notes:1"),
		"notes.txt:text/plain", "empty.txt:text/plain"))
	reg.wantDigest("notes", "1", digest)
	oras.run("pull", "--plain-http", "--output", "pulled", reg.ref("notes:1"))
	if got := read(t, filepath.Join(oras.dir, "pulled", "notes.txt")); got != "some notes\n" {
		t.Errorf("oras pulled %q", got)
	}
	if got := read(t, filepath.Join(oras.dir, "pulled", "empty.txt")); got != "" {
		t.Errorf("oras pulled %q for the empty file", got)
	}

	oras.run("tag", "--plain-http", reg.ref("notes:1"), "2", "3")
	if got := strings.Fields(oras.run("repo", "tags", "--plain-http", reg.ref("notes"))); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("oras repo tags says %q", got)
	}
	if got := oras.run("repo", "ls", "--plain-http", reg.addr); got != "notes" {
		t.Errorf("oras repo ls says %q", got)
	}
	if got := lastDigest(t, oras.run("resolve", "--plain-http", reg.ref("notes:3"))); got != digest {
		t.Errorf("oras resolve says %s, want %s", got, digest)
	}

	blob := digestOf("sha256:", []byte("a blob"))
	oras.feed("a blob", "blob", "push", "--plain-http", reg.ref("notes@"+blob), "-", "--size", "6")
	if got := oras.run("blob", "fetch", "--plain-http", "--output", "-", reg.ref("notes@"+blob)); got != "a blob" {
		t.Errorf("oras blob fetch says %q", got)
	}
	oras.run("blob", "delete", "--plain-http", "--force", reg.ref("notes@"+blob))
	oras.fails("blob", "fetch", "--plain-http", "--output", "-", reg.ref("notes@"+blob))
	oras.run("manifest", "delete", "--plain-http", "--force", reg.ref("notes@"+digest))
	if reg.has("notes", "2") {
		t.Error("notes:2 is still there after its manifest was deleted")
	}
}

func TestOrasReferrers(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	oras := newClient(t, "oras")
	writeFile(t, filepath.Join(oras.dir, "sbom.json"), `{"packages":[]}`)
	writeFile(t, filepath.Join(oras.dir, "signature"), "signed by nobody")
	dir, index := ociLayout(t, []string{"amd64", "arm64"}, layer(hello(t)))
	oras.run("cp", "--from-oci-layout", dir+":v1", "--to-plain-http", reg.ref("app:v1"))
	reg.wantDigest("app", "v1", index)

	attach := func(subject, artifactType, file string) string {
		return lastDigest(t, oras.run("attach", "--plain-http", "--artifact-type", artifactType,
			"--annotation", "test.file="+file, subject, file+":application/octet-stream"))
	}
	sbom := attach(reg.ref("app:v1"), "application/vnd.test.sbom", "sbom.json")
	signature := attach(reg.ref("app:v1"), "application/vnd.test.signature", "signature")
	onSBOM := attach(reg.ref("app@"+sbom), "application/vnd.test.signature", "signature")
	_, body := reg.manifest("app", "v1")
	child := parse(t, body).Manifests[1].Digest
	onChild := attach(reg.ref("app@"+child), "application/vnd.test.sbom", "sbom.json")

	discover := func(repo, subject string, flags ...string) []string {
		t.Helper()
		out := oras.run(append([]string{"discover", "--plain-http", "--format", "json", "--depth", "1", repo + subject}, flags...)...)
		var found struct{ Referrers, Manifests []descriptor }
		if err := json.Unmarshal([]byte(out), &found); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		digests := []string{}
		for _, d := range append(found.Referrers, found.Manifests...) {
			digests = append(digests, d.Digest)
			if d.Annotations["test.file"] == "" {
				t.Errorf("the referrer %s lacks its annotations", d.Digest)
			}
		}
		slices.Sort(digests)
		return digests
	}
	want := func(what string, got []string, digests ...string) {
		t.Helper()
		slices.Sort(digests)
		if !slices.Equal(got, digests) {
			t.Errorf("oras discover finds for %s\n%q\nwant\n%q", what, got, digests)
		}
	}
	want("the index", discover(reg.ref("app"), ":v1"), sbom, signature)
	want("the index, of one type", discover(reg.ref("app"), ":v1", "--artifact-type", "application/vnd.test.sbom"), sbom)
	want("the index, of no type there is", discover(reg.ref("app"), ":v1", "--artifact-type", "application/vnd.test.none"))
	want("the referrer", discover(reg.ref("app"), "@"+sbom), onSBOM)
	want("the image for arm64", discover(reg.ref("app"), "@"+child), onChild)

	// The registry has the API, so nobody writes fallback tags.
	if tags := strings.Fields(oras.run("repo", "tags", "--plain-http", reg.ref("app"))); !slices.Equal(tags, []string{"v1"}) {
		t.Errorf("the tags are %q, want only v1", tags)
	}

	// Referrers go along, to another repository and to another registry, and stay when the tag goes.
	other := startBerth(t)
	oras.run("cp", "--recursive", "--from-plain-http", "--to-plain-http", reg.ref("app:v1"), reg.ref("team/copy:v1"))
	oras.run("cp", "--recursive", "--from-plain-http", "--to-plain-http", reg.ref("app:v1"), other.ref("app:v1"))
	want("the copy", discover(reg.ref("team/copy"), ":v1"), sbom, signature)
	want("the copy elsewhere", discover(other.ref("app"), ":v1"), sbom, signature)
	want("the referrer's copy elsewhere", discover(other.ref("app"), "@"+sbom), onSBOM)
	oras.run("manifest", "delete", "--plain-http", "--force", reg.ref("app@"+signature))
	want("the index, a signature less", discover(reg.ref("app"), ":v1"), sbom)
	if status, _, _ := reg.get("DELETE", "/v2/app/manifests/v1"); status != 202 {
		t.Errorf("DELETE /v2/app/manifests/v1 = %d, want 202", status)
	}
	want("the index without a tag", discover(reg.ref("app"), "@"+index), sbom)
}

// A client that does not trust the API keeps the list itself, under a tag. What it attached is found
// through the API too, and once.
func TestOrasFallbackTag(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	oras := newClient(t, "oras")
	dir, subject := ociLayout(t, []string{"amd64"}, layer(hello(t)))
	oras.run("cp", "--from-oci-layout", dir+":v1", "--to-plain-http", reg.ref("app:v1"))
	oras.run("attach", "--plain-http", "--distribution-spec", "v1.1-referrers-tag", "--artifact-type", "application/vnd.test.old",
		"--annotation", "test.by=tag", reg.ref("app:v1"))
	oras.run("attach", "--plain-http", "--distribution-spec", "v1.1-referrers-api", "--artifact-type", "application/vnd.test.new",
		"--annotation", "test.by=api", reg.ref("app:v1"))
	if tag := strings.Replace(subject, ":", "-", 1); !reg.has("app", tag) {
		t.Errorf("oras wrote no fallback tag %s", tag)
	}
	out := oras.run("discover", "--plain-http", "--format", "json", reg.ref("app:v1"))
	for _, by := range []string{"tag", "api"} {
		if n := strings.Count(out, `"test.by": "`+by+`"`); n != 1 {
			t.Errorf("what was attached by %s is listed %d times, want once\n%s", by, n, out)
		}
	}
}

// Eight signatures at once: each of them is found.
func TestOrasAttachAtOnce(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	oras := newClient(t, "oras")
	dir, _ := ociLayout(t, []string{"amd64"}, layer(hello(t)))
	oras.run("cp", "--from-oci-layout", dir+":v1", "--to-plain-http", reg.ref("app:v1"))
	atOnce(t, 8, func(i int) error {
		return oras.try("attach", "--plain-http", "--artifact-type", "application/vnd.test.signature",
			"--annotation", "test.number="+string(rune('0'+i)), reg.ref("app:v1"))
	})
	if n := strings.Count(oras.run("discover", "--plain-http", "--format", "json", reg.ref("app:v1")), `"test.number"`); n != 8 {
		t.Errorf("oras discover finds %d of 8 signatures", n)
	}
}
