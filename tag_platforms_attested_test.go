// Images with attestations, as BuildKit pushes them.

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// attested pushes an image with its attestation as BuildKit does: both by digest,
// then an index of them under a tag.
func (r *registry) attested(repo, tag, architecture, content string) (wrapped, plain digest.Digest) {
	r.t.Helper()
	config := fmt.Sprintf(`{"os":"linux","architecture":%q,"n":%q}`, architecture, content)
	im := ociImage(config, content)
	proof := newImage(typeOCIManifest, typeOCIConfig, "application/vnd.in-toto+json", "", `{"os":"unknown","architecture":"unknown"}`, "proof of "+content)
	for _, blob := range []string{config, content, `{"os":"unknown","architecture":"unknown"}`, "proof of " + content} {
		r.pushBlob(repo, blob)
	}
	for _, m := range []image{im, proof} {
		r.want(201, "PUT", fmt.Sprint("/v2/", repo, "/manifests/", m.digest), m.manifest, "Content-Type: "+typeOCIManifest)
	}
	body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%[2]q,"digest":%q,"size":%d,"platform":{"architecture":%q,"os":"linux"}},`+
		`{"mediaType":%[2]q,"digest":%[6]q,"size":%[7]d,"annotations":{"vnd.docker.reference.digest":%[3]q,"vnd.docker.reference.type":"attestation-manifest"},"platform":{"architecture":"unknown","os":"unknown"}}]}`,
		typeOCIIndex, typeOCIManifest, im.digest, len(im.manifest), architecture, proof.digest, len(proof.manifest))
	r.want(201, "PUT", "/v2/"+repo+"/manifests/"+tag, body, "Content-Type: "+typeOCIIndex).has("Docker-Content-Digest", sum(body).String())
	return sum(body), im.digest
}

func TestAttestedImagesMeetAtATag(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[index]]\nrepositories = [\"home/**\"]\nfrom = [\"same-tag\", \"suffix\"]"))
	want := func(tag string, members map[string]digest.Digest) {
		t.Helper()
		if got := r.platforms("home/app", tag); fmt.Sprint(got) != fmt.Sprint(members) {
			t.Errorf("%s has %v, want %v", tag, got, members)
		}
	}
	amd, amdImage := r.attested("home/app", "1.0", "amd64", "one")
	r.want(200, "GET", "/v2/home/app/manifests/1.0", nil).has("Docker-Content-Digest", amd.String())
	arm, armImage := r.attested("home/app", "1.0", "arm64", "two")
	want("1.0", map[string]digest.Digest{"linux/amd64": amdImage, "linux/arm64": armImage})
	// An image without one joins them, and takes the place of one.
	plain := r.pushImage("home/app", "1.0", `{"os":"linux","architecture":"arm64","variant":"v8"}`, "three")
	want("1.0", map[string]digest.Digest{"linux/amd64": amdImage, "linux/arm64/v8": plain.digest})
	_, armImage = r.attested("home/app", "1.0", "arm64", "two")
	want("1.0", map[string]digest.Digest{"linux/amd64": amdImage, "linux/arm64": armImage})

	// What was pushed stays as long as it is a part of it.
	r.freeze()
	for range 4 {
		r.pass(r.cfg.untaggedGrace * 2)
	}
	for _, d := range []digest.Digest{amd, arm, amdImage, armImage} {
		r.want(200, "GET", fmt.Sprint("/v2/home/app/manifests/", d), nil)
	}
	r.want(404, "GET", fmt.Sprint("/v2/home/app/manifests/", plain.digest), nil)
	// And leaves it when it is deleted.
	r.want(202, "DELETE", fmt.Sprint("/v2/home/app/manifests/", arm), nil)
	want("1.0", map[string]digest.Digest{"linux/amd64": amdImage})
	r.want(200, "GET", fmt.Sprint("/v2/home/app/manifests/", amd), nil)
	last, _, err := r.st.lastChangeOf("home/app", reference{digest: arm})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.st.undo(last.change, "", "", author{overwrite: true}); err != nil {
		t.Error(err)
	}
	want("1.0", map[string]digest.Digest{"linux/amd64": amdImage, "linux/arm64": armImage})

	_, amdImage = r.attested("home/app", "2.0-amd64", "amd64", "one")
	_, armImage = r.attested("home/app", "2.0-arm64", "arm64", "two")
	want("2.0", map[string]digest.Digest{"linux/amd64": amdImage, "linux/arm64": armImage})

	// An index of two is a client's own.
	body := string(r.want(200, "GET", "/v2/home/app/manifests/2.0", nil).body)
	r.want(201, "PUT", "/v2/home/app/manifests/3.0", body, "Content-Type: "+typeOCIIndex)
	other := r.pushImage("home/app", "other", `{"os":"linux","architecture":"riscv64"}`, "four")
	if re := r.want(403, "PUT", "/v2/home/app/manifests/3.0", other.manifest, "Content-Type: "+typeOCIManifest).code("DENIED"); !strings.Contains(string(re.body), "index 1 (* in home/**)") {
		t.Errorf("the refusal does not name the rule: %s", re.body)
	}
}
