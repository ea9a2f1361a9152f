package e2e

// One tag for all platforms: what each client pushes from several machines meets at one tag, in an index
// that the registry makes, and every client finds its own in it.

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	indexRules = `
[[index]]
repositories = ["same/**"]
from         = ["same-tag"]

[[index]]
repositories = ["suffix/**"]
from         = ["suffix"]
`
	dockerList = "application/vnd.docker.distribution.manifest.list.v2+json"
	ociIndex   = "application/vnd.oci.image.index.v1+json"
)

// A builder is a client that makes images for any platform. Each has one file, /mark.
type builder struct {
	index string // the media type of an index of its images
	terse bool   // it keeps to itself what the registry says

	noVariants bool // it leaves the variant of the platform out of the image

	make func(ref, platform, mark string)          // an image, to be pushed as ref
	push func(ref string) (said string, err error) // the digest is the last that it said
	hand func(ref string)                          // makes and pushes an index of two images
	pull func(ref, platform string) (mark string)  // on a machine that may have older images
}

// builders are all of them.
var builders = []struct {
	name string
	open func(t *testing.T, reg *berth) *builder
}{
	{"docker", dockerBuilder}, {"podman", podmanBuilder}, {"skopeo", skopeoBuilder}, {"containerd", containerdBuilder}, {"crane", craneBuilder},
}

// eachBuilder runs a test with each of them, on a registry that makes indexes.
func eachBuilder(t *testing.T, f func(t *testing.T, reg *berth, b *builder)) {
	for _, x := range builders {
		t.Run(x.name, func(t *testing.T) {
			reg := startWithIndexes(t)
			f(t, reg, x.open(t, reg))
		})
	}
}

// startWithIndexes starts a registry that is open to everybody, with the rules.
func startWithIndexes(t *testing.T) *berth {
	t.Helper()
	reg := newBerth(t)
	writeFile(t, filepath.Join(reg.data, "policy.toml"), indexRules)
	reg.start()
	return reg
}

func TestPlatformsMeetAtATag(t *testing.T) {
	t.Parallel()
	eachBuilder(t, func(t *testing.T, reg *berth, b *builder) {
		// Three machines push the same tag.
		images, marks := map[string]string{}, map[string]string{}
		push := func(platform, mark string) {
			t.Helper()
			b.make(reg.ref("same/app:1.0"), platform, mark)
			images[platform], marks[platform] = b.mustPush(t, reg.ref("same/app:1.0")), mark
		}
		push("linux/amd64", "from amd64")
		reg.wantDigest("same/app", "1.0", images["linux/amd64"])
		push("linux/arm64", "from arm64")
		reg.wantIndex("same/app", "1.0", b.index, images)
		push(b.arm(), "from arm")
		reg.wantIndex("same/app", "1.0", b.index, images)
		b.wantMarks(t, reg.ref("same/app:1.0"), marks)

		// One of them pushes a newer image: its entry is replaced, and the older image stays.
		old := images["linux/arm64"]
		push("linux/arm64", "newer, from arm64")
		reg.wantIndex("same/app", "1.0", b.index, images)
		b.wantMarks(t, reg.ref("same/app:1.0"), marks)
		if !reg.has("same/app", old) {
			t.Errorf("the older image %s is gone", old)
		}

		// Pushed again unchanged, it changes nothing.
		before, _ := reg.manifest("same/app", "1.0")
		b.mustPush(t, reg.ref("same/app:1.0"))
		reg.wantDigest("same/app", "1.0", before)
	})
}

func TestPlatformsBySuffix(t *testing.T) {
	t.Parallel()
	eachBuilder(t, func(t *testing.T, reg *berth, b *builder) {
		images, marks := map[string]string{}, map[string]string{}
		push := func(suffix, platform, mark string) {
			t.Helper()
			ref := reg.ref("suffix/app:1.0-" + suffix)
			b.make(ref, platform, mark)
			images[platform], marks[platform] = b.mustPush(t, ref), mark
			reg.wantDigest("suffix/app", "1.0-"+suffix, images[platform])
		}
		push("amd64", "linux/amd64", "from amd64")
		reg.wantIndex("suffix/app", "1.0", b.index, images)
		push("linux-arm64", "linux/arm64", "from arm64")
		push("armv7", b.arm(), "from arm")
		push("amd64", "linux/amd64", "newer, from amd64")
		reg.wantIndex("suffix/app", "1.0", b.index, images)
		b.wantMarks(t, reg.ref("suffix/app:1.0"), marks)
		if got := b.pull(reg.ref("suffix/app:1.0-armv7"), b.arm()); got != "from arm" {
			t.Errorf("1.0-armv7 is %q, want what was pushed there", got)
		}

		// An index of the client's takes the place of the registry's, and then stays.
		b.hand(reg.ref("suffix/app:1.0"))
		hand, _ := reg.manifest("suffix/app", "1.0")
		push("amd64", "linux/amd64", "newest, from amd64")
		reg.wantDigest("suffix/app", "1.0", hand)
	})
}

func TestPlatformsLeaveIndexesAlone(t *testing.T) {
	t.Parallel()
	eachBuilder(t, func(t *testing.T, reg *berth, b *builder) {
		ref := reg.ref("same/app:1.0")
		b.hand(ref)
		hand, _ := reg.manifest("same/app", "1.0")
		b.make(ref, "linux/riscv64", "from riscv64")
		said, err := b.push(ref)
		if err == nil || !strings.Contains(said, "same/app:1.0 is an index that a client has pushed") && !(b.terse && strings.Contains(said, "403 Forbidden")) {
			t.Errorf("a push of an image over an index ended with %v and says\n%s", err, said)
		}
		reg.wantDigest("same/app", "1.0", hand)
	})
}

// All clients push to one tag at the same time, each for another platform and with its media types. All of
// them are in the index, and all clients find them there.
func TestPlatformsOfAllClientsAtOnce(t *testing.T) {
	t.Parallel()
	reg := startWithIndexes(t)
	ref := reg.ref("same/app:1.0")
	platforms := []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x", "linux/riscv64"}
	marks := map[string]string{}
	var all []*builder
	for i, x := range builders {
		b := x.open(t, reg)
		all = append(all, b)
		marks[platforms[i]] = "from " + x.name
		b.make(ref, platforms[i], marks[platforms[i]])
	}
	said := make([]string, len(all))
	atOnce(t, len(all), func(i int) (err error) {
		said[i], err = all[i].push(ref)
		return err
	})
	images := map[string]string{}
	for i, platform := range platforms {
		images[platform] = lastDigest(t, said[i])
	}
	reg.wantIndex("same/app", "1.0", ociIndex, images)
	for _, b := range all {
		b.wantMarks(t, ref, marks)
	}
}

// arm is the 32-bit ARM that the client builds for.
func (b *builder) arm() string {
	if b.noVariants {
		return "linux/arm"
	}
	return "linux/arm/v7"
}

func (b *builder) mustPush(t *testing.T, ref string) (digest string) {
	t.Helper()
	said, err := b.push(ref)
	if err != nil {
		t.Fatal(err)
	}
	return lastDigest(t, said)
}

// handArches are those of the indexes that are made by hand.
var handArches = []string{"amd64", "arm64"}

// pushParts makes and pushes what an index is made of by hand, at tags with a suffix.
func (b *builder) pushParts(t *testing.T, ref string) (parts []string) {
	t.Helper()
	for _, arch := range handArches {
		parts = append(parts, ref+"-"+arch)
		b.make(ref+"-"+arch, "linux/"+arch, "by hand")
		b.mustPush(t, ref+"-"+arch)
	}
	return parts
}

// wantMarks pulls a tag for each platform and fails the test unless it gets the images with these marks.
func (b *builder) wantMarks(t *testing.T, ref string, marks map[string]string) {
	t.Helper()
	for _, platform := range slices.Sorted(maps.Keys(marks)) {
		if got := b.pull(ref, platform); got != marks[platform] {
			t.Errorf("%s pulled for %s is %q, want %q", ref, platform, got, marks[platform])
		}
	}
}

// wantIndex fails the test unless the tag is an index of these images, by platform, and no others. Each must
// be there by its digest, and be for the platform that the index says.
func (b *berth) wantIndex(repo, tag, mediaType string, images map[string]string) {
	b.t.Helper()
	_, body := b.manifest(repo, tag)
	index, got := parse(b.t, body), map[string]string{}
	for _, m := range index.Manifests {
		_, image := b.manifest(repo, m.Digest)
		_, _, config := b.get("GET", "/v2/"+repo+"/blobs/"+parse(b.t, image).Config.Digest)
		var is platform
		if err := json.Unmarshal(config, &is); err != nil || m.Platform == nil || is != *m.Platform {
			b.t.Errorf("%s:%s says %v of an image for %v (%v)", repo, tag, m.Platform, is, err)
		}
		got[fmt.Sprint(m.Platform)] = m.Digest
	}
	if index.MediaType != mediaType || !maps.Equal(got, images) || len(index.Manifests) != len(got) {
		b.t.Errorf("%s:%s is a %s of %v, want a %s of %v", repo, tag, index.MediaType, got, mediaType, images)
	}
}

func dockerBuilder(t *testing.T, reg *berth) *builder {
	docker := startDocker(t)
	b := &builder{index: dockerList}
	if newest {
		b.index, b.noVariants = ociIndex, true
	}
	b.make = func(ref, platform, mark string) {
		docker.build(ref, map[string]string{"mark": mark}, "--platform", platform)
	}
	b.push = func(ref string) (string, error) { return docker.attempt("", "push", ref) }
	b.hand = func(ref string) {
		docker.run(append([]string{"manifest", "create", "--insecure", ref}, b.pushParts(t, ref)...)...)
		docker.run("manifest", "push", "--insecure", ref)
	}
	b.pull = func(ref, platform string) string {
		docker.run("pull", "--platform", platform, ref)
		docker.run("cp", docker.run("create", "--platform", platform, ref, "/none")+":/mark", "pulled")
		return read(t, filepath.Join(docker.dir, "pulled"))
	}
	return b
}

// podmanBuilder is buildah and podman.
func podmanBuilder(t *testing.T, reg *berth) *builder {
	c := containers(t, "vfs", reg.addr)
	b := &builder{index: ociIndex}
	b.make = func(ref, platform, mark string) {
		c.build(ref, map[string]string{"mark": mark}, "--platform", platform)
	}
	b.push = func(ref string) (string, error) {
		return c.podman.attempt("", "push", "--digestfile", "/dev/stdout", ref)
	}
	b.hand = func(ref string) {
		c.buildah.run("manifest", "create", "by-hand")
		for _, arch := range handArches {
			b.make("localhost/"+arch, "linux/"+arch, "by hand")
			c.buildah.run("manifest", "add", "--arch", arch, "by-hand", "localhost/"+arch)
		}
		c.buildah.run("manifest", "push", "--all", "by-hand", "docker://"+ref)
		c.buildah.run("manifest", "rm", "by-hand")
	}
	b.pull = func(ref, platform string) string {
		c.podman.run("pull", "--platform", platform, ref)
		return c.mark(ref)
	}
	return b
}

func skopeoBuilder(t *testing.T, reg *berth) *builder {
	c := containers(t, "vfs", reg.addr)
	made := map[string]string{} // layouts by reference
	b := &builder{index: ociIndex}
	b.make = func(ref, platform, mark string) { made[ref] = layoutOf(t, mark, platform) }
	b.push = func(ref string) (string, error) {
		return c.skopeo.attempt("", "copy", "--digestfile", "/dev/stdout", "oci:"+made[ref]+":v1", "docker://"+ref)
	}
	b.hand = func(ref string) {
		dir, _ := ociLayout(t, handArches, layer(map[string]string{"mark": "by hand"}))
		c.skopeo.run("copy", "--all", "oci:"+dir+":v1", "docker://"+ref)
	}
	b.pull = func(ref, platform string) string {
		arch, variant, _ := strings.Cut(strings.TrimPrefix(platform, "linux/"), "/")
		c.skopeo.run("copy", "--override-arch", arch, "--override-variant", variant, "docker://"+ref, "containers-storage:"+ref)
		return c.mark(ref)
	}
	return b
}

func containerdBuilder(t *testing.T, reg *berth) *builder {
	ctr := startContainerd(t)
	b := &builder{index: ociIndex, terse: true}
	load := func(ref, dir string) {
		ctr.run("images", "import", "--no-unpack", "--all-platforms", "--base-name", "made", packed(t, dir))
		ctr.run("images", "tag", "--force", "made:v1", ref)
	}
	b.make = func(ref, platform, mark string) { load(ref, layoutOf(t, mark, platform)) }
	b.push = func(ref string) (string, error) {
		said, err := ctr.attempt("", "images", "push", "--plain-http", ref)
		// It names all that it has sent: manifest-v1@sha256:…, config-sha256:…
		return said + regexp.MustCompile(`manifest-\S*sha256:[0-9a-f]+`).FindString(said), err
	}
	b.hand = func(ref string) {
		dir, _ := ociLayout(t, handArches, layer(map[string]string{"mark": "by hand"}))
		load(ref, dir)
		ctr.run("images", "push", "--plain-http", ref)
	}
	b.pull = func(ref, platform string) string {
		ctr.run("images", "pull", "--plain-http", "--platform", platform, ref)
		root := tempDir(t)
		ctr.run("images", "mount", "--platform", platform, ref, root)
		defer ctr.run("images", "unmount", "--rm", root)
		return read(t, filepath.Join(root, "mark"))
	}
	return b
}

// craneBuilder makes its images in another repository of the registry, as crane does.
func craneBuilder(t *testing.T, reg *berth) *builder {
	crane := newClient(t, "crane")
	platforms := map[string]string{} // by reference
	b := &builder{index: dockerList}
	made := reg.ref("made:1")
	b.make = func(ref, platform, mark string) {
		crane.run("append", "--new_layer", layerFile(t, layer(map[string]string{"mark": mark})), "--new_tag", made)
		platforms[ref] = platform
	}
	b.push = func(ref string) (string, error) {
		return crane.attempt("", "mutate", made, "--set-platform", platforms[ref], "--tag", ref)
	}
	b.hand = func(ref string) {
		crane.run("index", "append", "--manifest", strings.Join(b.pushParts(t, ref), ","), "--tag", ref)
	}
	b.pull = func(ref, platform string) string {
		pulled, files := filepath.Join(crane.dir, "pulled.tar"), filepath.Join(crane.dir, "files.tar")
		crane.run("pull", "--platform", platform, ref, pulled)
		crane.feed(read(t, pulled), "export", "-", files)
		return strings.Trim(read(t, files)[512:], "\x00") // after the header of the only file
	}
	return b
}

// layoutOf is an image in the OCI layout.
func layoutOf(t *testing.T, mark, platform string) (dir string) {
	dir, _ = ociLayout(t, []string{strings.TrimPrefix(platform, "linux/")}, layer(map[string]string{"mark": mark}))
	return dir
}

// mark reads the file of an image.
func (c containersTools) mark(ref string) string {
	c.podman.t.Helper()
	root := c.podman.run("image", "mount", ref)
	defer c.podman.run("image", "unmount", ref)
	return read(c.podman.t, filepath.Join(root, "mark"))
}
