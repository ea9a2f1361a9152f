// What clients get of an index that the registry makes, who may change one, and many
// of them at once.

package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestClientsThatTakeNoIndex(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	amd := r.pushFor("a", "1", "linux/amd64", "x")
	arm := r.pushFor("a", "1", "linux/arm64", "x")
	r.pushFor("a", "arms", "linux/arm64", "x")
	r.pushFor("a", "arms", "linux/arm/v6", "x")
	mine, d := ociIndex(amd.manifest, arm.manifest)
	r.pushManifest("a", "mine", mine, typeOCIIndex)
	made := r.want(200, "GET", "/v2/a/manifests/1", nil).header.Get("Docker-Content-Digest")
	arms := r.want(200, "GET", "/v2/a/manifests/arms", nil).header.Get("Docker-Content-Digest")
	for _, x := range []struct {
		accept string // headers, with ; between
		index  bool
	}{
		{"", true},
		{"Accept: */*", true},
		{"Accept: application/*", true},
		{"Accept: " + typeOCIIndex, true},
		{"Accept: " + typeDockerList, true},
		{"Accept: " + typeOCIManifest + ", " + typeOCIIndex + ";q=0.5", true},
		{"Accept: " + typeOCIManifest + "\nAccept: " + typeDockerList, true},
		{"Accept: nonsense nonsense", true},
		{"Accept: " + typeOCIManifest, false},
		{"Accept: " + typeDockerManifest, false},
		{"Accept: application/json, " + typeDockerManifest + "\nAccept: " + typeOCIManifest, false},
	} {
		var headers []string
		if x.accept != "" {
			headers = strings.Split(x.accept, "\n")
		}
		for _, method := range []string{"GET", "HEAD"} {
			re := r.want(200, method, "/v2/a/manifests/1", nil, headers...).has("Vary", "Accept")
			want, mediaType := made, typeOCIIndex
			if !x.index {
				want, mediaType = amd.digest.String(), typeOCIManifest
			}
			re.has("Docker-Content-Digest", want).has("Content-Type", mediaType)
			if method == "GET" && sum(string(re.body)).String() != want {
				t.Errorf("%q: the body is %s", x.accept, re.body)
			}
			status := 200
			if !x.index {
				status = 404
			}
			r.want(status, method, "/v2/a/manifests/arms", nil, headers...).has("Vary", "Accept")
			// By its digest, and what a client has pushed, is served as it is.
			r.want(200, method, "/v2/a/manifests/"+arms, nil, headers...).has("Docker-Content-Digest", arms).has("Vary", "")
			r.want(200, method, "/v2/a/manifests/mine", nil, headers...).has("Docker-Content-Digest", d.String()).has("Vary", "")
		}
	}
}

// What a client that takes no index was told of stays as long as anything else.
func TestMemberThatIsToldOfIsPromised(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	r.freeze()
	r.pushFor("a", "1", "linux/arm64", "x")
	amd := r.pushFor("a", "1", "linux/amd64", "x")
	r.moved.Add(int64(3 * promiseTime))
	r.want(200, "HEAD", "/v2/a/manifests/1", nil, "Accept: "+typeOCIManifest).has("Docker-Content-Digest", amd.digest.String())
	r.pushFor("a", "1", "linux/amd64", "y")
	r.collect(collectNow)
	r.want(200, "GET", "/v2/a/manifests/"+amd.digest.String(), nil).is(amd.manifest)
}

func TestImmutableTagGainsPlatforms(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule+fromSuffixRule+"[[immutable]]\nrepositories = [\"**\"]\ntags = [\"v*\", \"!v*-*\"]\n"))
	amd := r.pushFor("a", "v1", "linux/amd64", "x")
	arm := r.pushFor("a", "v1", "linux/arm64", "x")
	riscv := r.pushFor("a", "v1", "linux/riscv64", "x")
	r.pushFor("a", "v1", "linux/arm64", "x") // nothing new
	other := r.pushFor("a", "other", "linux/arm64", "y")
	chart := newImage(typeOCIManifest, "x/chart", "", "", "{}")
	r.pushBlob("a", "{}")
	index, _ := ociIndex(amd.manifest, arm.manifest, riscv.manifest, other.manifest)
	refused := func(method, ref string, body any, mediaType string) {
		t.Helper()
		re := r.want(403, method, "/v2/a/manifests/"+ref, body, "Content-Type: "+mediaType).code("DENIED")
		if !strings.Contains(string(re.body), "immutable 1") {
			t.Errorf("%s %s does not name the rule: %s", method, ref, re.body)
		}
	}
	refused("PUT", "v1", other.manifest, typeOCIManifest)
	refused("PUT", "v1", chart.manifest, typeOCIManifest)
	refused("PUT", "v1", index, typeOCIIndex)
	refused("DELETE", "v1", nil, "")
	refused("DELETE", arm.digest.String(), nil, "")
	r.want(403, "DELETE", "/v2/a/_berth/repository", nil).code("DENIED")
	r.wantPlatforms("a", "v1", map[string]image{"linux/amd64": amd, "linux/arm64": arm, "linux/riscv64": riscv})

	amd = r.pushFor("a", "v2-amd64", "linux/amd64", "x")
	arm = r.pushFor("a", "v2-arm64", "linux/arm64", "x")
	refused("PUT", "v2-arm64", other.manifest, typeOCIManifest)
	refused("DELETE", "v2-arm64", nil, "")
	r.wantTag("a", "v2-arm64", arm.digest)
	r.pushFor("a", "v2-x86_64", "linux/amd64", "x")
	r.want(202, "DELETE", "/v2/a/manifests/v2-amd64", nil) // the image has another tag
	r.wantPlatforms("a", "v2", map[string]image{"linux/amd64": amd, "linux/arm64": arm})
}

func TestPlatformsAndRights(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(matrixRules+fromSameTagRule+fromSuffixRule, "creator", "pusher", "deleter"))
	push := func(who, tag, platform, words string, status int) image {
		t.Helper()
		config := configFor(platform, words)
		im := ociImage(config)
		r.want(201, "POST", "/v2/ci/a/blobs/uploads/?digest="+im.config.String(), config, as("creator"))
		re := r.want(status, "PUT", "/v2/ci/a/manifests/"+tag, im.manifest, "Content-Type: "+typeOCIManifest, as(who))
		if status == 403 {
			re.code("DENIED")
		}
		return im
	}
	is := func(tag string, want ...image) {
		t.Helper()
		re := r.want(200, "GET", "/v2/ci/a/manifests/"+tag, nil, as("creator"))
		for _, im := range want {
			if !strings.Contains(string(re.body), im.digest.String()) {
				t.Errorf("%s lacks %s: %s", tag, im.digest, re.body)
			}
		}
		if n := strings.Count(string(re.body), `"platform"`); n != len(want) {
			t.Errorf("%s has %d members, want %d", tag, n, len(want))
		}
	}
	amd := push("creator", "1", "linux/amd64", "x", 201)
	arm := push("creator", "1", "linux/arm64", "x", 201)
	riscv := push("creator", "1", "linux/riscv64", "x", 201)
	is("1", amd, arm, riscv)
	push("creator", "1", "linux/arm64", "y", 403)
	is("1", amd, arm, riscv)
	arm = push("pusher", "1", "linux/arm64", "y", 201)
	is("1", amd, arm, riscv)

	amd = push("creator", "2-amd64", "linux/amd64", "x", 201)
	push("creator", "2-arm64", "linux/arm64", "x", 201)
	push("creator", "2-arm64", "linux/arm64", "y", 403)
	push("creator", "2-aarch64", "linux/arm64", "z", 403) // would replace what 2 has

	// Who may delete a tag may delete a part of it.
	r.want(202, "DELETE", "/v2/ci/a/manifests/"+riscv.digest.String(), nil, as("deleter"))
	r.want(202, "DELETE", "/v2/ci/a/manifests/2-arm64", nil, as("deleter"))
	is("2", amd)
	r.want(403, "DELETE", "/v2/ci/a/manifests/2-amd64", nil, as("pusher")).code("DENIED")
}

// Images that were there before the registry looked for platforms join all the same.
func TestOldImagesJoin(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(strings.Replace(fromSameTagRule+fromSuffixRule, "**", "other", 2)))
	same := r.pushFor("a", "1", "linux/amd64", "x")
	chart := newImage(typeOCIManifest, "x/chart", "", "", "{}")
	r.pushBlob("a", "{}")
	r.pushManifest("a", "chart", chart.manifest, typeOCIManifest)
	suffixed := map[string]image{"linux/amd64": r.pushFor("a", "2-amd64", "linux/amd64", "y"), "linux/s390x": r.pushFor("a", "2-s390x", "linux/s390x", "y")}
	r.pushManifest("a", "2-arm", chart.manifest, typeOCIManifest)
	r.restart(func(c *config) {
		inDatabase(t, filepath.Join(c.dir, "berth.db"), `UPDATE manifest SET platform = NULL`) // as an upgrade leaves it
		writeRules(c.dir, fromSameTagRule+fromSuffixRule)
	})
	r.wantTags("a", "1", "2-amd64", "2-arm", "2-s390x", "chart")
	arm := r.pushFor("a", "1", "linux/arm64", "x")
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": same, "linux/arm64": arm})
	r.pushFor("a", "chart", "linux/arm64", "x")
	r.wantTag("a", "chart", arm.digest)
	suffixed["linux/arm64"] = r.pushFor("a", "2-arm64", "linux/arm64", "y")
	r.wantPlatforms("a", "2", suffixed)
	r.restart(func(c *config) {
		inDatabase(t, filepath.Join(c.dir, "berth.db"), `UPDATE manifest SET platform = NULL`)
	})
	r.want(202, "DELETE", "/v2/a/manifests/2-s390x", nil)
	delete(suffixed, "linux/s390x")
	r.wantPlatforms("a", "2", suffixed)
	s390 := r.pushFor("a", "1", "linux/s390x", "x")
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": same, "linux/arm64": arm, "linux/s390x": s390})
}

func TestPlatformsAreBounded(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	var last image
	for i := range maxMembers {
		last = r.pushFor("a", "1", fmt.Sprint("windows/amd64 10.0.", i), "x")
	}
	more := r.pushFor("a", "more", "linux/amd64", "x")
	r.want(403, "PUT", "/v2/a/manifests/1", more.manifest, "Content-Type: "+typeOCIManifest).code("DENIED")
	if n := len(r.platforms("a", "1")); n != maxMembers {
		t.Errorf("%d platforms, want %d", n, maxMembers)
	}
	next := r.pushFor("a", "1", fmt.Sprint("windows/amd64 10.0.", maxMembers-1), "y")
	if got := slices.Collect(maps.Values(r.platforms("a", "1"))); !slices.Contains(got, next.digest) || slices.Contains(got, last.digest) {
		t.Error("a platform of as many as may be cannot be replaced")
	}
}

func TestCollectionKeepsMembers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule), func(c *config) { c.noPromises = true })
	r.freeze()
	want := make(map[string]image)
	var superseded []string
	for _, p := range []string{"linux/amd64", "linux/arm64", "linux/riscv64"} {
		old := r.pushFor("a", "1", p, "old "+p)
		superseded = append(superseded, old.digest.String(), r.want(200, "HEAD", "/v2/a/manifests/1", nil).header.Get("Docker-Content-Digest"))
		want[p] = r.pushFor("a", "1", p, "new "+p)
	}
	r.wantPlatforms("a", "1", want)
	r.collect(collectNow)
	r.wantPlatforms("a", "1", want)
	for _, im := range want {
		for _, d := range append(im.layers, im.config) {
			r.want(200, "GET", "/v2/a/blobs/"+d.String(), nil)
		}
	}
	for _, d := range superseded {
		r.want(404, "HEAD", "/v2/a/manifests/"+d, nil)
	}
	if n := r.files(); n != 6 {
		t.Errorf("%d blobs are left, want 6", n)
	}
}

// Pushes at the same time all find their way in, whatever else goes on.
func TestPlatformsPushedAtTheSameTime(t *testing.T) {
	t.Parallel()
	for _, suffix := range []bool{false, true} {
		t.Run(fmt.Sprint("suffix=", suffix), func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t, ruled(map[bool]string{false: fromSameTagRule, true: fromSuffixRule}[suffix]))
			words := []string{"amd64", "arm64", "s390x", "riscv64"}
			ref := func(tag, word string) string {
				if suffix {
					tag += "-" + word
				}
				return "/v2/a/manifests/" + tag
			}
			put := func(tag, word string, im image) error {
				_, err := r.expect(201, "PUT", ref(tag, word), im.manifest, "Content-Type: "+typeOCIManifest)
				return err
			}
			for round := range 25 {
				tag := fmt.Sprint("t", round)
				want := make(map[string]image)
				for _, word := range words {
					want["linux/"+word] = r.pushFor("a", sum(ociImage(configFor("linux/"+word, tag), "layer of "+tag).manifest).String(), "linux/"+word, tag)
				}
				together(t, len(words), func(i int) error { return put(tag, words[i], want["linux/"+words[i]]) })
				r.wantPlatforms("a", tag, want)

				// Two replace one, one goes, one comes, and readers see an index always.
				next := []image{r.pushFor("a", "y1", "linux/amd64", tag+" 1"), r.pushFor("a", "y2", "linux/amd64", tag+" 2"),
					r.pushFor("a", "y3", "linux/ppc64le", tag)}
				together(t, 6, func(i int) error {
					switch i {
					case 0, 1:
						return put(tag, words[0], next[i])
					case 2:
						return put(tag, "ppc64le", next[i])
					case 3:
						_, err := r.expect(202, "DELETE", "/v2/a/manifests/"+want["linux/s390x"].digest.String(), nil)
						return err
					case 4:
						return put(tag, "arm64", want["linux/arm64"])
					}
					re, err := r.expect(200, "GET", "/v2/a/manifests/"+tag, nil)
					if err == nil && !strings.Contains(string(re.body), want["linux/riscv64"].digest.String()) {
						err = fmt.Errorf("a reader is given %s", re.body)
					}
					return err
				})
				delete(want, "linux/s390x")
				want["linux/ppc64le"], want["linux/amd64"] = next[2], next[0]
				if r.platforms("a", tag)["linux/amd64"] == next[1].digest {
					want["linux/amd64"] = next[1]
				}
				r.wantPlatforms("a", tag, want)
			}
		})
	}
}
