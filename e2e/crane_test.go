package e2e

// Crane, go-containerregistry's command line: one process a command, no store of its own.

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCrane(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	crane := newClient(t, "crane")
	base := layerFile(t, randomLayer(20, 1<<20))

	// An image of one layer, then one of two, under Docker's media types and under OCI's.
	digest := lastDigest(t, crane.run("append", "--new_layer", base, "--new_tag", reg.ref("app:1")))
	reg.wantDigest("app", "1", digest)
	if got := crane.run("digest", reg.ref("app:1")); got != digest {
		t.Errorf("crane digest says %s, want %s", got, digest)
	}
	crane.run("append", "--base", reg.ref("app:1"), "--new_layer", layerFile(t, layer(hello(t))), "--new_tag", reg.ref("app:2"))
	crane.run("append", "--oci-empty-base", "--new_layer", base, "--new_tag", reg.ref("app:oci"))
	for _, tag := range []string{"1", "2", "oci"} {
		crane.run("validate", "--remote", reg.ref("app:"+tag))
		_, body := reg.manifest("app", tag)
		if got := crane.run("manifest", reg.ref("app:"+tag)); got != strings.TrimSpace(string(body)) {
			t.Errorf("crane manifest app:%s says\n%s\nbut the registry stores\n%s", tag, got, body)
		}
		crane.run("config", reg.ref("app:"+tag))
	}

	// Out to a file and back in, and only the file system.
	saved := filepath.Join(crane.dir, "saved.tar")
	crane.run("pull", reg.ref("app:2"), saved)
	crane.run("validate", "--tarball", saved)
	crane.run("push", saved, reg.ref("team/pushed:1"))
	crane.run("validate", "--remote", reg.ref("team/pushed:1"))
	crane.run("pull", "--format", "oci", reg.ref("app:oci"), filepath.Join(crane.dir, "layout"))
	exported := filepath.Join(crane.dir, "files.tar")
	crane.run("export", reg.ref("app:2"), exported)
	if !strings.Contains(read(t, exported), hello(t)["hello"]) {
		t.Error("crane export lacks the program")
	}

	// Lists.
	crane.run("tag", reg.ref("app:1"), "stable")
	if got := strings.Fields(crane.run("ls", reg.ref("app"))); !slices.Equal(got, []string{"1", "2", "oci", "stable"}) {
		t.Errorf("crane ls says %q", got)
	}
	if got := strings.Fields(crane.run("catalog", reg.addr)); !slices.Equal(got, []string{"app", "team/pushed"}) {
		t.Errorf("crane catalog says %q", got)
	}

	// A tag goes alone; a digest takes its tags along.
	crane.run("delete", reg.ref("app:1"))
	if reg.has("app", "1") {
		t.Error("app:1 is still there after crane delete")
	}
	reg.wantDigest("app", "stable", digest)
	crane.run("delete", reg.ref("app@"+digest))
	if reg.has("app", "stable") || reg.has("app", digest) {
		t.Error("the image is still there after crane delete by digest")
	}
	if said := crane.fails("manifest", reg.ref("app:stable")); !strings.Contains(said, "MANIFEST_UNKNOWN") {
		t.Errorf("crane manifest of a missing tag says\n%s", said)
	}
}

func TestCraneIndex(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	crane := newClient(t, "crane")
	for i, arch := range []string{"amd64", "arm64"} {
		crane.run("append", "--oci-empty-base", "--new_layer", layerFile(t, randomLayer(int64(30+i), 1<<20)), "--new_tag", reg.ref("multi:"+arch))
		crane.run("mutate", "--set-platform", "linux/"+arch, "--tag", reg.ref("multi:"+arch), reg.ref("multi:"+arch))
	}
	for _, format := range []string{"--docker-empty-base=false", "--docker-empty-base=true"} {
		said := crane.run("index", "append", format, "--manifest", reg.ref("multi:amd64"), "--manifest", reg.ref("multi:arm64"), "--tag", reg.ref("multi:all"))
		reg.wantDigest("multi", "all", lastDigest(t, said))
		crane.run("validate", "--remote", reg.ref("multi:all"))
		if got, want := crane.run("digest", "--platform", "linux/arm64", reg.ref("multi:all")), crane.run("digest", reg.ref("multi:arm64")); got != want {
			t.Errorf("the index has %s for arm64, want %s", got, want)
		}
	}

	// An index in an index, and the whole tree in another repository.
	crane.run("index", "append", "--flatten=false", "--manifest", reg.ref("multi:all"), "--tag", reg.ref("multi:nested"))
	crane.run("copy", reg.ref("multi:nested"), reg.ref("elsewhere:nested"))
	digest, _ := reg.manifest("multi", "nested")
	reg.wantDigest("elsewhere", "nested", digest)
	crane.run("validate", "--remote", reg.ref("elsewhere:nested"))
}

func TestCraneMountsLayers(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	tap := tapInto(t, reg)
	crane := newClient(t, "crane")
	crane.run("append", "--new_layer", layerFile(t, randomLayer(21, 3<<20)), "--new_tag", tap.ref("app:1"))
	tap.since()
	crane.run("copy", tap.ref("app:1"), tap.ref("team/app:1"))
	if seen := tap.since(); uploaded(seen) > 0 || mounted(seen) != 2 {
		t.Errorf("crane copy within the registry sent %d bytes and mounted %d blobs, want the config and the layer:\n%v",
			uploaded(seen), mounted(seen), seen)
	}
	crane.run("copy", tap.ref("app:1"), tap.ref("team/app:2"))
	if seen := tap.since(); uploaded(seen) > 0 {
		t.Errorf("crane copy to where the blobs are already sent %d bytes", uploaded(seen))
	}

	// Everything to another registry, which has nothing to mount from.
	other := startBerth(t)
	crane.run("copy", "--all-tags", tap.ref("team/app"), other.ref("team/app"))
	crane.run("validate", "--remote", other.ref("team/app:2"))
}

func TestCraneBigLayer(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	crane := newClient(t, "crane")
	crane.run("append", "--new_layer", layerFile(t, randomLayer(22, 200<<20)), "--new_tag", reg.ref("big:1"))
	crane.run("validate", "--remote", reg.ref("big:1"))
}

// Eight clients push images that share a layer, all of them new to the registry, then eight pull.
func TestCraneEightAtOnce(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	crane := newClient(t, "crane")
	shared := layerFile(t, randomLayer(23, 8<<20))
	own := make([]string, 8)
	for i := range own {
		own[i] = layerFile(t, randomLayer(int64(40+i), 2<<20))
	}
	image := func(i int) string { return reg.ref(fmt.Sprintf("crowd/%d:1", i%4)) } // two for each repository
	atOnce(t, 8, func(i int) error {
		return crane.try("append", "--new_layer", shared, "--new_layer", own[i], "--new_tag", image(i))
	})
	atOnce(t, 8, func(i int) error {
		return crane.try("validate", "--remote", image(i))
	})
}

// The words of the API's own paths are good names too, and names may be long.
func TestCraneRepositoryNames(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	crane := newClient(t, "crane")
	crane.run("append", "--new_layer", layerFile(t, layer(map[string]string{"a": "b"})), "--new_tag", reg.ref("source:1"))
	names := []string{
		"a1", "blobs", "manifests", "tags", "uploads", "referrers", "v2",
		"a/blobs/uploads", "blobs/uploads/manifests/tags/list", "tags/list", "manifests/latest", "referrers/blobs/x",
		"a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p", strings.Repeat("long/", 40) + "name",
	}
	for _, name := range names {
		crane.run("copy", reg.ref("source:1"), reg.ref(name+":manifests"))
		crane.run("validate", "--remote", reg.ref(name+":manifests"))
		if got := crane.run("ls", reg.ref(name)); got != "manifests" {
			t.Errorf("crane ls %s says %q, want manifests", name, got)
		}
	}
	got := strings.Fields(crane.run("catalog", reg.addr))
	want := slices.Sorted(slices.Values(append(names, "source")))
	if !slices.Equal(got, want) {
		t.Errorf("crane catalog says\n%q\nwant\n%q", got, want)
	}
	for _, name := range names {
		crane.run("delete", reg.ref(name+":manifests"))
		if reg.has(name, "manifests") {
			t.Errorf("%s:manifests is still there", name)
		}
	}
}
