// One tag for all platforms: what becomes a member of an index that the registry
// makes, what never does, and that no push is lost on the way.

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	fromSameTagRule = "[[index]]\nrepositories = [\"**\"]\nfrom = [\"same-tag\"]\n"
	fromSuffixRule  = "[[index]]\nrepositories = [\"**\"]\nfrom = [\"suffix\"]\n"
)

// configFor is an image's config for a platform: linux/arm64/v8, or windows/amd64
// 10.0.1. Different words make different images.
func configFor(platform, words string) string {
	platform, version, _ := strings.Cut(platform, " ")
	parts := append(strings.Split(platform, "/"), "")
	config, _ := json.Marshal(struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Variant      string `json:"variant,omitempty"`
		Version      string `json:"os.version,omitempty"`
		Author       string `json:"author"`
	}{parts[1], parts[0], parts[2], version, words})
	return string(config)
}

// pushFor pushes an image for a platform. Its digest is what the client is told.
func (r *registry) pushFor(repo, ref, platform, words string) image {
	r.t.Helper()
	config, layer := configFor(platform, words), "layer of "+words
	im := ociImage(config, layer)
	r.pushBlob(repo, config)
	r.pushBlob(repo, layer)
	r.pushManifest(repo, ref, im.manifest, typeOCIManifest)
	return im
}

func (r *registry) pushManifest(repo, ref, manifest, mediaType string) {
	r.t.Helper()
	r.want(201, "PUT", "/v2/"+repo+"/manifests/"+ref, manifest, "Content-Type: "+mediaType).
		has("Docker-Content-Digest", sum(manifest).String())
}

func dockerImage(config string) image {
	return newImage(typeDockerManifest, typeDockerConfig, "", "", config)
}

// platforms returns the members of what a reference leads to, by their platform.
// All have to be there as the index says; of what is no index it is nil.
func (r *registry) platforms(repo, ref string) map[string]digest.Digest {
	r.t.Helper()
	re := r.want(200, "GET", "/v2/"+repo+"/manifests/"+ref, nil)
	mediaType := re.header.Get("Content-Type")
	if mediaType != typeOCIIndex && mediaType != typeDockerList {
		return nil
	}
	d := sum(string(re.body))
	re.has("Docker-Content-Digest", d.String())
	r.want(200, "GET", "/v2/"+repo+"/manifests/"+d.String(), nil).is(string(re.body)).has("Content-Type", mediaType)
	var index struct {
		MediaType string
		Manifests []struct {
			MediaType string
			Digest    digest.Digest
			Size      int
			Platform  struct {
				OS, Architecture, Variant string
				Version                   string `json:"os.version"`
			}
		}
	}
	if err := json.Unmarshal(re.body, &index); err != nil || index.MediaType != mediaType {
		r.t.Fatalf("%s:%s is no index of the type %s (%v): %s", repo, ref, mediaType, err, re.body)
	}
	members := make(map[string]digest.Digest)
	for _, m := range index.Manifests {
		is := r.want(200, "GET", "/v2/"+repo+"/manifests/"+m.Digest.String(), nil).has("Content-Type", m.MediaType)
		if len(is.body) != m.Size || sum(string(is.body)) != m.Digest {
			r.t.Errorf("%s:%s: the member %+v has %d bytes", repo, ref, m, len(is.body))
		}
		p := m.Platform
		members[strings.TrimSpace(strings.TrimRight(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")+" "+p.Version)] = m.Digest
	}
	if len(members) != len(index.Manifests) {
		r.t.Errorf("%s:%s has a platform twice: %s", repo, ref, re.body)
	}
	return members
}

// wantPlatforms insists on the members of an index.
func (r *registry) wantPlatforms(repo, ref string, want map[string]image) {
	r.t.Helper()
	members := make(map[string]digest.Digest)
	for platform, im := range want {
		members[platform] = im.digest
	}
	if got := r.platforms(repo, ref); !maps.Equal(got, members) {
		r.t.Errorf("%s:%s is an index of %v, want %v", repo, ref, got, members)
	}
}

// wantTag insists on what a tag points at.
func (r *registry) wantTag(repo, tag string, d digest.Digest) {
	r.t.Helper()
	r.want(200, "GET", "/v2/"+repo+"/manifests/"+tag, nil).has("Docker-Content-Digest", d.String())
}

func (r *registry) wantTags(repo string, tags ...string) {
	r.t.Helper()
	list, _ := json.Marshal(append([]string{}, tags...))
	r.want(200, "GET", "/v2/"+repo+"/tags/list", nil).is(fmt.Sprintf(`{"name":%q,"tags":%s}`, repo, list))
}

// command runs a command that a server with the store is asked for.
func (r *registry) command(name string, args ...string) string {
	r.t.Helper()
	out, err := runOnceOn(r.t, r.st, name, args...)
	if err != nil {
		r.t.Errorf("berth %s %v: %v", name, args, err)
	}
	return out
}

// wantImage insists that an image is served, with its blobs.
func (r *registry) wantImage(repo, ref string, im image) {
	r.t.Helper()
	r.want(200, "GET", "/v2/"+repo+"/manifests/"+ref, nil).is(im.manifest)
	for _, d := range append(slices.Clone(im.layers), im.config) {
		if got := sum(string(r.want(200, "GET", "/v2/"+repo+"/blobs/"+d.String(), nil).body)); got != d {
			r.t.Errorf("%s: the blob %s has the digest %s", repo, d, got)
		}
	}
}

func TestTagOfSeveralPlatforms(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	amd := r.pushFor("a", "1", "linux/amd64", "first")
	r.wantTag("a", "1", amd.digest)
	arm := r.pushFor("a", "1", "linux/arm64", "first")
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": arm})
	next := r.pushFor("a", "1", "linux/amd64", "second")
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": next, "linux/arm64": arm})
	r.pushFor("a", "1", "linux/arm64", "first") // once more
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": next, "linux/arm64": arm})
	r.wantTags("a", "1")
	for _, im := range []image{amd, arm, next} { // what was replaced has its grace
		r.want(200, "GET", "/v2/a/manifests/"+im.digest.String(), nil).is(im.manifest)
	}

	// Several tags at once, each with what it had.
	other := r.pushFor("a", "2", "linux/s390x", "other")
	third := r.pushFor("a", sum(ociImage(configFor("linux/arm64", "third"), "layer of third").manifest).String()+"?tag=1&tag=2&tag=3", "linux/arm64", "third")
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": next, "linux/arm64": third})
	r.wantPlatforms("a", "2", map[string]image{"linux/s390x": other, "linux/arm64": third})
	r.wantTag("a", "3", third.digest)

	// A rule that does not hold here, or not yet.
	writeRules(r.cfg.dir, strings.Replace(fromSameTagRule, "**", "other/*", 1))
	fourth := r.pushFor("a", "1", "linux/arm64", "fourth")
	r.wantTag("a", "1", fourth.digest)
}

func TestPlatformsThatAreOne(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	for i, x := range []struct{ pushed, members string }{ // nothing: only the last image
		{"linux/amd64, linux/amd64", ""},
		{"linux/arm64, linux/arm64/v8", ""},
		{"linux/arm64/v8, linux/arm64", ""},
		{"linux/arm, linux/arm/v7", ""},
		{"linux/amd64, linux/amd64/v1", ""},
		{"linux/x86_64, linux/amd64", ""},
		{"linux/aarch64, linux/arm64/v8", ""},
		{"windows/amd64 10.0.17763, windows/amd64 10.0.17763", ""},
		{"linux/arm/v6, linux/arm/v7", "linux/arm/v6, linux/arm/v7"},
		{"linux/arm/v6, linux/arm", "linux/arm/v6, linux/arm"},
		{"linux/amd64, linux/amd64/v3", "linux/amd64, linux/amd64/v3"},
		{"linux/amd64, windows/amd64", "linux/amd64, windows/amd64"},
		{"windows/amd64 10.0.17763, windows/amd64 10.0.20348", "windows/amd64 10.0.17763, windows/amd64 10.0.20348"},
		{"linux/amd64, linux/arm64, linux/arm64/v8", "linux/amd64, linux/arm64/v8"},
		{"linux/amd64, linux/arm/v7, linux/arm", "linux/amd64, linux/arm"},
	} {
		tag := fmt.Sprint("t", i)
		pushed, want := make(map[string]image), make(map[string]image)
		var last image
		for j, p := range strings.Split(x.pushed, ", ") {
			last = r.pushFor("a", tag, p, fmt.Sprint(i, j))
			pushed[p] = last
		}
		if x.members == "" {
			r.wantTag("a", tag, last.digest)
			continue
		}
		for p := range strings.SplitSeq(x.members, ", ") {
			want[p] = pushed[p]
		}
		r.wantPlatforms("a", tag, want)
	}
}

// Docker's images make Docker's list, and all else an OCI index.
func TestIndexIsOfTheKindOfItsMembers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	docker := func(tag, platform, words string) image {
		im := dockerImage(configFor(platform, words))
		r.pushBlob("a", configFor(platform, words))
		r.pushManifest("a", tag, im.manifest, typeDockerManifest)
		return im
	}
	kind := func(tag, want string) {
		t.Helper()
		r.want(200, "GET", "/v2/a/manifests/"+tag, nil).has("Content-Type", want)
	}
	amd, arm := docker("1", "linux/amd64", "x"), docker("1", "linux/arm64", "x")
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": arm})
	kind("1", typeDockerList)
	oci := r.pushFor("a", "1", "linux/arm64", "y")
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": oci})
	kind("1", typeOCIIndex)
	r.pushManifest("a", "1", arm.manifest, typeDockerManifest)
	kind("1", typeDockerList)
	r.pushFor("a", "2", "linux/amd64", "y")
	r.pushFor("a", "2", "linux/arm64", "y")
	kind("2", typeOCIIndex)
}

func TestIndexDependsOnItsMembersAlone(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule+strings.Replace(fromSuffixRule, "from =", "tags = [\"s*\"]\nfrom =", 1)))
	platforms := []string{"linux/arm64", "linux/amd64", "windows/amd64 10.0.1"}
	seen := make(map[digest.Digest]bool)
	for i, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		for j, n := range order {
			r.pushFor("a", fmt.Sprint(i), platforms[n], "x")
			r.pushFor("a", fmt.Sprintf("s%d-%s", i, []string{"arm64", "amd64", "arm"}[j]), platforms[n], "x")
		}
		for _, tag := range []string{fmt.Sprint(i), fmt.Sprint("s", i)} {
			if n := len(r.platforms("a", tag)); n != 3 {
				t.Errorf("%s has %d members, want 3", tag, n)
			}
			seen[sum(string(r.want(200, "GET", "/v2/a/manifests/"+tag, nil).body))] = true
		}
	}
	if len(seen) != 1 {
		t.Errorf("the same images make %d indexes", len(seen))
	}
}

func TestWhatIsNoImageIsNoMember(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule+fromSuffixRule))
	amd := r.pushFor("a", "image", "linux/amd64", "x")
	for name, x := range map[string]struct{ configType, config, more string }{
		"chart":       {"application/vnd.cncf.helm.config.v1+json", configFor("linux/arm64", "x"), ""},
		"signature":   {typeOCIConfig, `{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}`, ""},
		"empty":       {typeOCIConfig, `{}`, ""},
		"half":        {typeOCIConfig, `{"os":"linux"}`, ""},
		"attestation": {typeOCIConfig, configFor("unknown/unknown", "x"), ""},
		"garbage":     {typeOCIConfig, `[1`, ""},
		"number":      {typeOCIConfig, `{"os":1,"architecture":"arm64"}`, ""},
		"long":        {typeOCIConfig, configFor("linux/"+strings.Repeat("x", 65), "x"), ""},
		"referrer":    {typeOCIConfig, configFor("linux/arm64", "x"), `,"subject":` + descriptorJSON(typeOCIManifest, amd.manifest)},
	} {
		t.Run(name, func(t *testing.T) {
			im := newImage(typeOCIManifest, x.configType, "", x.more, x.config)
			r.pushBlob("a", x.config)
			push := func(tag string) {
				t.Helper()
				r.pushManifest("a", tag, im.manifest, typeOCIManifest)
				r.wantTag("a", tag, im.digest)
			}
			push(name) // alone,
			last := r.pushFor("a", name, "linux/amd64", "after "+name)
			r.wantTag("a", name, last.digest) // before an image,
			push(name)                        // after one,
			r.pushFor("a", name, "linux/amd64", "x")
			r.pushFor("a", name, "linux/arm64", "x")
			push(name)                                // and after an index.
			r.pushFor("a", name, "linux/amd64", name) // which begins anew

			amd := r.pushFor("a", name+".s-amd64", "linux/amd64", name)
			push(name + ".s-arm64")
			r.wantPlatforms("a", name+".s", map[string]image{"linux/amd64": amd})
			push(name + ".s-amd64")
			r.want(404, "GET", "/v2/a/manifests/"+name+".s", nil).code("MANIFEST_UNKNOWN")
		})
	}
}

func TestIndexOfAClientStays(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule+fromSuffixRule))
	amd := r.pushFor("a", "x", "linux/amd64", "x")
	index, d := ociIndex(amd.manifest)
	r.pushManifest("a", "1", index, typeOCIIndex)
	arm := r.pushFor("a", "x", "linux/arm64", "x")
	body := string(r.want(403, "PUT", "/v2/a/manifests/1", arm.manifest, "Content-Type: "+typeOCIManifest).code("DENIED").body)
	if !strings.Contains(body, "index 1 (* in **)") || !strings.Contains(body, "a:1") {
		t.Errorf("the refusal does not name the rule: %s", body)
	}
	r.wantTag("a", "1", d)
	r.pushFor("a", "1-arm64", "linux/arm64", "y") // has its tag, and that is all
	r.wantTag("a", "1", d)
	r.want(202, "DELETE", "/v2/a/manifests/1-arm64", nil)
	r.wantTag("a", "1", d)
	r.want(403, "DELETE", "/v2/a/manifests/"+amd.digest.String(), nil).code("DENIED") // a member, as ever
	r.wantPlatforms("a", "x", map[string]image{"linux/amd64": amd, "linux/arm64": arm})

	// A chart, or another index, may take its place; and what was deleted is no
	// obstacle.
	again, d := ociIndex(amd.manifest, arm.manifest)
	r.pushManifest("a", "1", again, typeOCIIndex)
	r.wantTag("a", "1", d)
	r.want(202, "DELETE", "/v2/a/manifests/1", nil)
	r.pushManifest("a", "1", arm.manifest, typeOCIManifest)
	r.wantTag("a", "1", arm.digest)

	// An index under a tag with a suffix is no member.
	r.pushFor("a", "2-amd64", "linux/amd64", "2")
	r.pushManifest("a", "2-arm64", index, typeOCIIndex)
	if got := r.platforms("a", "2"); len(got) != 1 {
		t.Errorf("a:2 is %v, want one image", got)
	}

	// What the registry has made stays the registry's when a client pushes the same,
	// and is the client's under another tag.
	made := string(r.want(200, "GET", "/v2/a/manifests/x", nil).body)
	r.pushManifest("a", "x", made, typeOCIIndex)
	r.pushManifest("a", "copy", made, typeOCIIndex)
	riscv := r.pushFor("a", "y", "linux/riscv64", "x")
	r.want(403, "DELETE", "/v2/a/manifests/"+amd.digest.String(), nil).code("DENIED")
	r.want(403, "PUT", "/v2/a/manifests/copy", riscv.manifest, "Content-Type: "+typeOCIManifest).code("DENIED")
	r.pushManifest("a", "x", riscv.manifest, typeOCIManifest)
	r.wantPlatforms("a", "x", map[string]image{"linux/amd64": amd, "linux/arm64": arm, "linux/riscv64": riscv})
	r.wantPlatforms("a", "copy", map[string]image{"linux/amd64": amd, "linux/arm64": arm})
}

func TestDeletedMemberLeavesItsIndexes(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	r.freeze()
	amd := r.pushFor("a", "1", "linux/amd64", "x")
	arm := r.pushFor("a", "1", "linux/arm64", "x")
	superseded := r.want(200, "HEAD", "/v2/a/manifests/1", nil).header.Get("Docker-Content-Digest")
	riscv := r.pushFor("a", "1", "linux/riscv64", "x")
	r.pushFor("a", "2", "linux/arm64", "x")
	r.pushFor("a", "2", "linux/amd64", "y")
	r.pushFor("a", "alone", "linux/arm64", "x")

	r.want(202, "DELETE", "/v2/a/manifests/"+arm.digest.String(), nil)
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/riscv64": riscv})
	if n := len(r.platforms("a", "2")); n != 1 {
		t.Errorf("a:2 has %d members, want 1", n)
	}
	r.wantTags("a", "1", "2")
	for _, d := range []string{arm.digest.String(), superseded} {
		r.want(404, "GET", "/v2/a/manifests/"+d, nil).code("MANIFEST_UNKNOWN")
	}
	r.check()
	r.want(202, "DELETE", "/v2/a/manifests/"+riscv.digest.String(), nil)
	r.want(202, "DELETE", "/v2/a/manifests/"+amd.digest.String(), nil)
	r.wantTags("a", "2")

	// The same images may come again, and make what was deleted anew.
	r.pushFor("a", "1", "linux/amd64", "x")
	r.pushFor("a", "1", "linux/arm64", "x")
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": arm})
	r.wantTag("a", "1", digest.Digest(superseded))
	r.pass(30 * 24 * time.Hour)
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": arm})
	r.want(404, "GET", "/v2/a/manifests/"+riscv.digest.String(), nil)
}

func TestTagsWithSuffixes(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSuffixRule))
	amd := r.pushFor("a", "1.0-amd64", "linux/amd64", "x")
	r.wantPlatforms("a", "1.0", map[string]image{"linux/amd64": amd})
	arm := r.pushFor("a", "1.0-linux-arm64", "linux/arm64/v8", "x")
	r.pushFor("a", "1.0-rc-amd64", "linux/amd64", "rc") // of another
	r.pushFor("a", "1.0-alpine", "linux/riscv64", "x")
	both := map[string]image{"linux/amd64": amd, "linux/arm64/v8": arm}
	r.wantPlatforms("a", "1.0", both)
	r.wantTags("a", "1.0", "1.0-alpine", "1.0-amd64", "1.0-linux-arm64", "1.0-rc", "1.0-rc-amd64")

	both["linux/amd64"] = r.pushFor("a", "1.0-amd64", "linux/amd64", "y") // it moves
	r.wantPlatforms("a", "1.0", both)
	r.pushFor("a", "1.0-x86_64", "linux/amd64", "y") // a second name
	r.want(202, "DELETE", "/v2/a/manifests/1.0-amd64", nil)
	r.wantPlatforms("a", "1.0", both)
	r.want(202, "DELETE", "/v2/a/manifests/1.0-x86_64", nil)
	delete(both, "linux/amd64")
	r.wantPlatforms("a", "1.0", both)
	r.want(202, "DELETE", "/v2/a/manifests/"+arm.digest.String(), nil)
	r.wantTags("a", "1.0-alpine", "1.0-rc", "1.0-rc-amd64")

	// The base is deleted: the others stay, and the next makes it again.
	r.pushFor("a", "2-amd64", "linux/amd64", "y")
	r.want(202, "DELETE", "/v2/a/manifests/2", nil)
	r.want(404, "HEAD", "/v2/a/manifests/2", nil)
	r.pushFor("a", "2-arm64", "linux/arm64", "y")
	if n := len(r.platforms("a", "2")); n != 2 {
		t.Errorf("a:2 has %d members, want 2", n)
	}
	// A client has put something there.
	mine := r.pushFor("a", "3", "linux/amd64", "mine")
	r.pushFor("a", "3-arm64", "linux/arm64", "y")
	r.wantTag("a", "3", mine.digest)
}
