//go:build unix

// What is odd about images and indexes, by accident or by design, and changes nothing
// that it should not.

package main

import (
	"fmt"
	"strings"
	"testing"
)

// An index that has lost its bytes is made again by a push.
func TestDamagedIndexOfTheRegistryHeals(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	amd := r.pushFor("a", "1", "linux/amd64", "x")
	arm := r.pushFor("a", "1", "linux/arm64", "x")
	whole := string(r.want(200, "GET", "/v2/a/manifests/1", nil).body)
	damage := func() {
		t.Helper()
		r.restart(func(c *config) {
			inDatabase(t, c.dir+"/berth.db", `UPDATE manifest SET body = x'00', damaged = 'its bytes have another digest' WHERE made`)
		})
		r.want(404, "GET", "/v2/a/manifests/1", nil)
	}
	damage()
	r.pushManifest("a", "1", arm.manifest, typeOCIManifest) // what it has already
	r.want(200, "GET", "/v2/a/manifests/1", nil).is(whole)
	damage()
	riscv := r.pushFor("a", "1", "linux/riscv64", "x")
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": arm, "linux/riscv64": riscv})
	r.want(202, "DELETE", "/v2/a/manifests/"+amd.digest.String(), nil)
	r.wantPlatforms("a", "1", map[string]image{"linux/arm64": arm, "linux/riscv64": riscv})
}

// However a platform is spelled, what an immutable tag is for it does not change.
func TestImmutableTagsAndSpellings(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule+"[[immutable]]\nrepositories = [\"**\"]\n"))
	arm := r.pushFor("a", "v1", "linux/arm64/v8", "x")
	amd := r.pushFor("a", "v1", "linux/amd64", "x")
	for i, platform := range []string{"linux/arm64/8", "linux/arm64", "linux/aarch64", "linux/ARM64/V8", "Linux/arm64", "linux/arm64/v7", "linux/arm64/v9",
		"linux/AMD64", "linux/x86_64", "linux/amd64/v3", "linux/x86-64/v1"} {
		im := r.pushFor("a", fmt.Sprint("t", i), platform, "other")
		if re := r.want(403, "PUT", "/v2/a/manifests/v1", im.manifest, "Content-Type: "+typeOCIManifest).code("DENIED"); !strings.Contains(string(re.body), "immutable 1") {
			t.Errorf("%s: %s", platform, re.body)
		}
	}
	r.wantPlatforms("a", "v1", map[string]image{"linux/arm64/v8": arm, "linux/amd64": amd})
	// Nor does its media type.
	plain := strings.Replace(arm.manifest, fmt.Sprintf(`"mediaType":%q,`, typeOCIManifest), "", 1)
	r.want(201, "PUT", "/v2/a/manifests/v2", plain, "Content-Type: "+typeOCIManifest)
	r.want(403, "PUT", "/v2/a/manifests/"+sum(plain).String(), plain, "Content-Type: "+typeDockerManifest).code("DENIED")
	r.want(200, "GET", "/v2/a/manifests/v2", nil).has("Content-Type", typeOCIManifest)
}

// A platform that is no word is none, and is shown to nobody.
func TestPlatformsOfStrangers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	amd := r.pushFor("a", "1", "linux/amd64", "x")
	for _, platform := range []string{"linux/\x1b[2J", "linux/a\nb", "linux/" + strings.Repeat("a", 65), "linux/a\tb", "linux/ä"} {
		r.want(201, "PUT", "/v2/a/manifests/1", amd.manifest, "Content-Type: "+typeOCIManifest)
		im := r.pushFor("a", "1", platform, "x")
		r.wantTag("a", "1", im.digest)
		if out := r.command("ls", "a"); strings.ContainsAny(out, "\x1b") || !strings.Contains(out, " -  ") {
			t.Errorf("ls prints %q", out)
		}
	}
	// Nor is that of a config which the repository does not have.
	secret := configFor("linux/secret", "x")
	other := startRegistry(t, ruled(fromSameTagRule), func(c *config) { c.sparse = true })
	other.pushBlob("private", secret)
	im := ociImage(secret)
	other.pushFor("a", "1", "linux/amd64", "x")
	other.pushManifest("a", "1", im.manifest, typeOCIManifest)
	other.wantTag("a", "1", im.digest)
	// With its config it is an image for one platform.
	other.pushBlob("a", secret)
	other.pushManifest("a", "1", im.manifest, typeOCIManifest)
	riscv := other.pushFor("a", "1", "linux/riscv64", "x")
	other.wantPlatforms("a", "1", map[string]image{"linux/secret": im, "linux/riscv64": riscv})
}

// An attested image whose image is gone, as sparse registries may have it, is none.
func TestAttestedImageThatIsGone(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule), func(c *config) { c.sparse = true })
	_, image := r.attested("a", "1", "amd64", "x")
	r.want(202, "DELETE", "/v2/a/manifests/"+image.String(), nil)
	arm := r.pushFor("a", "1", "linux/arm64", "x")
	r.wantTag("a", "1", arm.digest)
}

// A tag that is given, and one that a client has pushed byte for byte, change nothing
// about whose an index is.
func TestWhoseAnIndexIs(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	amd := r.pushFor("a", "x", "linux/amd64", "x")
	arm := r.pushFor("a", "y", "linux/arm64", "x")
	index, err := makeIndex([]member{
		{typeOCIManifest, int64(len(amd.manifest)), amd.digest, platform{OS: "linux", Architecture: "amd64"}},
		{typeOCIManifest, int64(len(arm.manifest)), arm.digest, platform{OS: "linux", Architecture: "arm64"}}})
	if err != nil {
		t.Fatal(err)
	}
	r.pushManifest("a", "hand", string(index.body), typeOCIIndex)
	r.want(202, "DELETE", "/v2/a/manifests/hand", nil)
	for _, im := range []image{amd, arm} {
		r.pushManifest("a", "1", im.manifest, typeOCIManifest)
	}
	r.wantTag("a", "1", index.digest)
	r.command("tag", "a:1", "1")
	r.want(202, "DELETE", "/v2/a/manifests/"+arm.digest.String(), nil)
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd})
}
