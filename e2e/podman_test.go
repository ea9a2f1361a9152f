package e2e

// Podman, buildah and skopeo: three programs on one library. Here they share a store of the test's
// own, without a daemon. Podman's images are mounted and read instead of run, for which it would
// want more of the machine than there may be.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestBuildahPushPodmanPull(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	here := containers(t, "vfs", reg.addr)
	here.build(reg.ref("hello:1"), hello(t))
	digestFile := filepath.Join(here.buildah.dir, "digest")
	here.buildah.run("push", "--digestfile", digestFile, reg.ref("hello:1"))
	digest := read(t, digestFile)
	reg.wantDigest("hello", "1", digest)

	there := containers(t, "vfs", reg.addr)
	there.podman.run("pull", reg.ref("hello:1"))
	if got := there.podman.run("inspect", "--format", "{{.Digest}}", reg.ref("hello:1")); got != digest {
		t.Errorf("podman pulled %s, want %s", got, digest)
	}
	there.podman.run("pull", reg.ref("hello@"+digest))
	there.wantFile(reg.ref("hello:1"), "hello", hello(t)["hello"])

	// Pushed back unchanged it is the same image, and nothing goes over the wire.
	tap := tapInto(t, reg)
	again := containers(t, "vfs", tap.addr)
	again.podman.run("pull", tap.ref("hello:1"))
	again.podman.run("push", "--digestfile", digestFile, tap.ref("hello:1"))
	reg.wantDigest("hello", "1", read(t, digestFile))
	if n := uploaded(tap.since()); n != 0 {
		t.Errorf("pushing what had been pulled sent %d bytes", n)
	}
	if said := there.podman.fails("pull", reg.ref("hello:2")); !strings.Contains(said, "manifest unknown") {
		t.Errorf("podman pull of a missing tag says\n%s", said)
	}
}

func TestPodmanMountsLayers(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	tap := tapInto(t, reg)
	c := containers(t, "vfs", tap.addr)
	c.build(tap.ref("app:1"), map[string]string{"big": string(randomLayer(3, 2<<20))})
	c.podman.run("push", tap.ref("app:1"))
	if n := uploaded(tap.since()); n < 2<<20 {
		t.Errorf("the first push sent %d bytes, want at least 2 MiB", n)
	}
	c.podman.run("push", tap.ref("app:1"), "docker://"+tap.ref("team/other:1"))
	seen := tap.since()
	if n := uploaded(seen); n > 1<<16 || mounted(seen) == 0 {
		t.Errorf("the push to another repository sent %d bytes and mounted %d blobs:\n%v", n, mounted(seen), seen)
	}
	c.podman.run("rmi", "--all", "--force")
	c.podman.run("pull", tap.ref("team/other:1"))
}

func TestBuildahManifest(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	here := containers(t, "vfs", reg.addr)
	here.buildah.run("manifest", "create", "multi")
	for _, arch := range []string{"amd64", "arm64", "riscv64"} {
		here.build("localhost/"+arch, map[string]string{"arch": arch}, "--arch", arch)
		here.buildah.run("manifest", "add", "--arch", arch, "multi", "localhost/"+arch)
	}
	for _, format := range []string{"oci", "v2s2"} {
		digestFile := filepath.Join(here.buildah.dir, "digest")
		here.buildah.run("manifest", "push", "--all", "--format", format, "--digestfile", digestFile, "multi", "docker://"+reg.ref("multi:"+format))
		reg.wantDigest("multi", format, read(t, digestFile))
		_, body := reg.manifest("multi", format)
		if index := parse(t, body); len(index.Manifests) != 3 {
			t.Errorf("the index has %d manifests, want 3\n%s", len(index.Manifests), body)
		}
		there := containers(t, "vfs", reg.addr)
		there.podman.run("pull", "--platform", "linux/riscv64", reg.ref("multi:"+format))
		there.wantFile(reg.ref("multi:"+format), "arch", "riscv64")
	}
}

func TestZstdLayers(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"buildah", "skopeo"} {
		reg := startBerth(t)
		here := containers(t, "vfs", reg.addr)
		here.build("localhost/hello", hello(t))
		if tool == "buildah" {
			here.buildah.run("push", "--compression-format", "zstd", "localhost/hello", "docker://"+reg.ref("z:1"))
		} else {
			here.skopeo.run("copy", "--dest-compress-format", "zstd", "containers-storage:localhost/hello", "docker://"+reg.ref("z:1"))
		}
		_, body := reg.manifest("z", "1")
		if m := parse(t, body); len(m.Layers) != 1 || !strings.HasSuffix(m.Layers[0].MediaType, "+zstd") {
			t.Errorf("%s pushed no zstd layer:\n%s", tool, body)
		}
		there := containers(t, "vfs", reg.addr)
		there.podman.run("pull", reg.ref("z:1"))
		there.wantFile(reg.ref("z:1"), "hello", hello(t)["hello"])
	}
}

// Of a zstd:chunked layer podman fetches only the files it lacks, several ranges in one request.
func TestPodmanPartialPull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	reg := startBerth(t)
	tap := tapInto(t, reg)
	here := containers(t, "vfs", tap.addr)
	files := map[string]string{}
	for i := range 12 {
		files[fmt.Sprintf("file-%02d", i)] = string(randomLayer(int64(100+i), 100<<10))
	}
	push := func(ref string) {
		here.build("localhost/chunked", files)
		here.podman.run("push", "--compression-format", "zstd:chunked", "localhost/chunked", "docker://"+tap.ref(ref))
	}
	push("chunked:1")
	for i := 0; i < 12; i += 3 { // every third file is new
		files[fmt.Sprintf("file-%02d", i)] = string(randomLayer(int64(200+i), 100<<10))
	}
	push("chunked:2")

	there := containers(t, "overlay", tap.addr)
	there.podman.run("pull", tap.ref("chunked:1"))
	tap.since()
	there.podman.run("pull", tap.ref("chunked:2"))
	several := 0
	for _, e := range tap.since() {
		if strings.Contains(e.rangeHeader, ",") && e.status == 206 {
			several++
		}
	}
	if several == 0 {
		t.Error("no request for several ranges was answered with 206")
	}
	there.wantFile(tap.ref("chunked:2"), "file-00", files["file-00"])
	there.wantFile(tap.ref("chunked:2"), "file-01", files["file-01"])
}

func TestPodmanSearch(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	c := containers(t, "vfs", reg.addr)
	dir, _ := ociLayout(t, []string{"amd64"}, layer(nil))
	for _, name := range []string{"fruit/apple", "fruit/pear", "stone"} {
		c.skopeo.run("copy", "oci:"+dir+":v1", "docker://"+reg.ref(name+":1"))
	}
	got := c.podman.run("search", "--format", "{{.Name}}", reg.ref("fruit"))
	if want := reg.ref("fruit/apple") + "\n" + reg.ref("fruit/pear"); got != want {
		t.Errorf("podman search found\n%s\nwant\n%s", got, want)
	}
	if got := c.podman.run("search", "--list-tags", reg.ref("stone")); !strings.HasSuffix(got, " 1") {
		t.Errorf("podman search --list-tags did not find the tag 1:\n%s", got)
	}
}

func TestSkopeo(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	skopeo := containers(t, "vfs", reg.addr).skopeo
	dir, digest := ociLayout(t, []string{"amd64", "arm64"}, randomLayer(4, 1<<20), layer(hello(t)))

	skopeo.run("copy", "--all", "oci:"+dir+":v1", "docker://"+reg.ref("app:v1"))
	reg.wantDigest("app", "v1", digest)
	if got := skopeo.run("inspect", "--format", "{{.Digest}}", "docker://"+reg.ref("app:v1")); got != digest {
		t.Errorf("skopeo inspect says %s, want %s", got, digest)
	}
	if got := digestOf("sha256:", []byte(skopeo.run("inspect", "--raw", "docker://"+reg.ref("app:v1")))); got != digest {
		t.Errorf("skopeo inspect --raw is %s, want %s", got, digest)
	}
	skopeo.run("inspect", "--config", "docker://"+reg.ref("app@"+digest))

	// From one repository to another: a copy in the registry, and to a directory and back with sync.
	skopeo.run("copy", "--all", "docker://"+reg.ref("app:v1"), "docker://"+reg.ref("team/app:v2"))
	reg.wantDigest("team/app", "v2", digest)
	skopeo.run("copy", "docker://"+reg.ref("app:v1"), "docker://"+reg.ref("app:amd64-only"))
	tags := skopeo.run("list-tags", "docker://"+reg.ref("app"))
	if !strings.Contains(tags, `"amd64-only"`) || !strings.Contains(tags, `"v1"`) {
		t.Errorf("skopeo list-tags says %s", tags)
	}
	disk := tempDir(t)
	skopeo.run("sync", "--all", "--src", "docker", "--dest", "dir", reg.ref("app"), disk)
	other := startBerth(t)
	elsewhere := containers(t, "vfs", reg.addr, other.addr).skopeo
	elsewhere.run("sync", "--all", "--src", "dir", "--dest", "docker", disk, other.ref("synced"))
	other.wantDigest("synced/app", "v1", digest)
	elsewhere.run("sync", "--all", "--src", "docker", "--dest", "docker", reg.ref("team/app"), other.ref("direct"))
	other.wantDigest("direct/app", "v2", digest)

	// skopeo deletes by digest: all tags of it go.
	skopeo.run("copy", "--all", "docker://"+reg.ref("app:v1"), "docker://"+reg.ref("app:also"))
	skopeo.run("delete", "docker://"+reg.ref("app:v1"))
	if reg.has("app", "v1") || reg.has("app", "also") || reg.has("app", digest) {
		t.Error("skopeo deleted app:v1, but the manifest or a tag of it is still there")
	}
	if !reg.has("app", "amd64-only") || !reg.has("team/app", "v2") {
		t.Error("skopeo deleted app:v1, and more than that is gone")
	}

	// It is one change, and so is its undoing.
	if out, err := exec.Command(berthBinary, "undo", "app:v1", "--data", reg.data).CombinedOutput(); err != nil {
		t.Errorf("berth undo app:v1: %v\n%s", err, out)
	}
	reg.wantDigest("app", "v1", digest)
	reg.wantDigest("app", "also", digest)
}

// containersTools are podman, buildah and skopeo on one store.
type containersTools struct{ podman, buildah, skopeo *client }

// containers gives the three tools an empty store; they speak to the registries without TLS.
func containers(t *testing.T, driver string, registries ...string) containersTools {
	t.Helper()
	c := containersTools{newClient(t, "podman"), newClient(t, "buildah"), newClient(t, "skopeo")}
	dir := c.podman.dir
	config := func(name, format string, args ...any) {
		writeFile(t, filepath.Join(dir, ".config/containers", name), fmt.Sprintf(format, args...))
	}
	config("policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
	config("storage.conf", "[storage]\ndriver = %q\ngraphroot = %q\nrunroot = %q\n"+
		"[storage.options]\npull_options = {enable_partial_images = \"true\"}\n", driver, filepath.Join(dir, "store"), filepath.Join(dir, "run"))
	config("containers.conf", "[engine]\ntmp_dir = %q\nlock_type = \"file\"\nevents_logger = \"none\"\ncgroup_manager = \"cgroupfs\"\n",
		filepath.Join(dir, "engine"))
	insecure := ""
	for _, r := range registries {
		insecure += fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", r)
	}
	config("registries.conf", "%s", insecure)
	for _, tool := range []*client{c.podman, c.buildah, c.skopeo} {
		tool.dir = dir
		tool.env = append(plainEnv(dir),
			"CONTAINERS_STORAGE_CONF="+filepath.Join(dir, ".config/containers/storage.conf"),
			"CONTAINERS_REGISTRIES_CONF="+filepath.Join(dir, ".config/containers/registries.conf"),
			"CONTAINERS_CONF="+filepath.Join(dir, ".config/containers/containers.conf"))
	}
	return c
}

// build makes an image of one layer from nothing.
func (c containersTools) build(ref string, files map[string]string, flags ...string) {
	t := c.buildah.t
	t.Helper()
	needRoot(t)
	dir := tempDir(t)
	for name, content := range files {
		writeFile(t, filepath.Join(dir, name), content)
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	container := c.buildah.run(append([]string{"from"}, append(flags, "scratch")...)...)
	c.buildah.run("copy", container, dir, "/")
	c.buildah.run("commit", "--rm", container, ref)
}

// wantFile reads a file out of an image.
func (c containersTools) wantFile(ref, name, want string) {
	t := c.podman.t
	t.Helper()
	needRoot(t)
	root := c.podman.run("image", "mount", ref)
	defer c.podman.run("image", "unmount", ref)
	if got := read(t, filepath.Join(root, name)); got != want {
		t.Errorf("/%s in %s has %d bytes that differ from what was pushed, %d bytes", name, ref, len(got), len(want))
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
