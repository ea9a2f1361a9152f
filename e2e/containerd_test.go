package e2e

// Containerd: what Kubernetes nodes pull with. Each test has daemons of its own with empty stores.

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestContainerdPushPull(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	dir, digest := ociLayout(t, []string{"amd64", "arm64"}, randomLayer(60, 2<<20), layer(hello(t)))
	here := startContainerd(t)
	here.run("images", "import", "--no-unpack", "--all-platforms", "--base-name", reg.ref("app"), packed(t, dir))
	here.run("images", "push", "--plain-http", reg.ref("app:v1"))
	reg.wantDigest("app", "v1", digest)

	there := startContainerd(t)
	there.run("images", "pull", "--plain-http", "--platform", "linux/amd64", reg.ref("app:v1"))
	if list := there.run("images", "list"); !strings.Contains(list, reg.ref("app:v1")) || !strings.Contains(list, digest) {
		t.Errorf("ctr images list does not have %s:\n%s", digest, list)
	}
	root := filepath.Join(there.dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	there.run("images", "mount", "--platform", "linux/amd64", reg.ref("app:v1"), root)
	if read(t, filepath.Join(root, "hello")) != hello(t)["hello"] {
		t.Error("the program in the pulled image differs from the one that was pushed")
	}
	there.run("images", "unmount", root)
	there.run("images", "pull", "--plain-http", "--all-platforms", reg.ref("app@"+digest))
	if said := there.run("images", "check", "name=="+reg.ref("app@"+digest)); !strings.Contains(said, "complete") {
		t.Errorf("ctr images check says\n%s", said)
	}

	// What was pulled is pushed to another repository.
	there.run("images", "tag", reg.ref("app@"+digest), reg.ref("team/app:v2"))
	there.run("images", "push", "--plain-http", reg.ref("team/app:v2"))
	reg.wantDigest("team/app", "v2", digest)
	if said := there.fails("images", "pull", "--plain-http", reg.ref("app:v3")); !strings.Contains(said, "not found") {
		t.Errorf("ctr pull of a missing tag says\n%s", said)
	}
}

// What the registry has is not sent again: not to the same repository, nor to another one.
func TestContainerdReusesAndMountsLayers(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	tap := tapInto(t, reg)
	dir, digest := ociLayout(t, []string{"amd64"}, randomLayer(62, 2<<20))
	newClient(t, "crane").run("push", dir, reg.ref("app:v1"))
	ctr := startContainerd(t)
	ctr.run("images", "pull", "--plain-http", tap.ref("app:v1"))
	tap.since()
	for _, name := range []string{"app:v2", "team/app:v1"} {
		ctr.run("images", "tag", tap.ref("app:v1"), tap.ref(name))
		ctr.run("images", "push", "--plain-http", tap.ref(name))
		repo, tag, _ := strings.Cut(name, ":")
		reg.wantDigest(repo, tag, digest)
		seen := tap.since()
		if n := uploaded(seen); n > 1<<16 {
			t.Errorf("the push of %s sent %d bytes, want none of the layer", name, n)
		}
		if n := mounted(seen); repo != "app" && n == 0 {
			t.Errorf("nothing was mounted in %s:\n%v", repo, seen)
		}
	}
}

// As a mirror, the registry is told by ?ns= whose names it is asked for.
func TestContainerdMirror(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	tap := tapInto(t, reg)
	dir, digest := ociLayout(t, []string{"amd64"}, layer(hello(t)))
	newClient(t, "crane").run("push", dir, reg.ref("library/hello:v1"))

	ctr := startContainerd(t)
	writeFile(t, filepath.Join(ctr.dir, "hosts/docker.io/hosts.toml"),
		fmt.Sprintf("server = \"http://127.0.0.1:1\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", tap.addr))
	ctr.run("images", "pull", "--hosts-dir", filepath.Join(ctr.dir, "hosts"), "docker.io/library/hello:v1")
	if list := ctr.run("images", "list"); !strings.Contains(list, digest) {
		t.Errorf("ctr images list does not have %s:\n%s", digest, list)
	}
	for _, e := range tap.since() {
		if e.query != "ns=docker.io" || e.status != 200 {
			t.Errorf("%v, want ?ns=docker.io and 200", e)
		}
	}
}

func TestContainerdEightAtOnce(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	here := startContainerd(t)
	image := func(i int) string { return reg.ref(fmt.Sprintf("crowd/%d:v1", i)) }
	for i := range 8 {
		dir, _ := ociLayout(t, []string{"amd64"}, randomLayer(61, 4<<20), randomLayer(int64(70+i), 1<<20))
		here.run("images", "import", "--no-unpack", "--base-name", strings.TrimSuffix(image(i), ":v1"), packed(t, dir))
	}
	atOnce(t, 8, func(i int) error {
		return here.try("images", "push", "--plain-http", image(i))
	})
	there := startContainerd(t)
	atOnce(t, 8, func(i int) error {
		return there.try("images", "pull", "--plain-http", image(i))
	})
}

// startContainerd starts a daemon with an empty store and returns its ctr.
func startContainerd(t *testing.T) *client {
	t.Helper()
	needRoot(t)
	daemon := newClient(t, "containerd")
	config, socket := filepath.Join(daemon.dir, "config.toml"), filepath.Join(daemon.dir, "sock")
	writeFile(t, config, fmt.Sprintf("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"+
		"[plugins.\"io.containerd.internal.v1.opt\"]\npath = %q\n", filepath.Join(daemon.dir, "opt")))
	cmd := exec.Command(daemon.path, "--config", config, "--address", socket,
		"--root", filepath.Join(daemon.dir, "data"), "--state", filepath.Join(daemon.dir, "state"))
	cmd.Env = daemon.env
	log, exited := launch(t, cmd)
	await(t, exited, log, "containerd", listens("unix", socket))
	return newClient(t, "ctr", "--address", socket)
}

// packed is an image layout as one tar, which is how ctr imports it.
func packed(t *testing.T, dir string) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return layerFile(t, buf.Bytes())
}
