package e2e

// Docker: a daemon of the test's own with an empty store, and the command line in front of it. The
// daemon believes every registry on the loopback network without TLS.

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDockerPushPullRun(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	docker := startDocker(t)
	docker.build(reg.ref("hello:1"), hello(t))
	said := docker.run("push", reg.ref("hello:1"))

	digest := lastDigest(t, said)
	reg.wantDigest("hello", "1", digest)
	if got := docker.run("inspect", "--format", "{{index .RepoDigests 0}}", reg.ref("hello:1")); got != reg.ref("hello@"+digest) {
		t.Errorf("docker knows the image as %s, want %s", got, reg.ref("hello@"+digest))
	}

	// On a machine that has nothing yet, by tag and then by digest.
	other := startDocker(t)
	if said := other.run("pull", reg.ref("hello:1")); !strings.Contains(said, digest) || !strings.Contains(said, "Downloaded newer image") {
		t.Errorf("docker pull does not tell of %s:\n%s", digest, said)
	}
	if said := other.run("pull", reg.ref("hello@"+digest)); !strings.Contains(said, "Image is up to date") {
		t.Errorf("docker pull by digest fetched again what the tag had brought:\n%s", said)
	}
	if got := other.says(reg.ref("hello:1")); got != helloSays {
		t.Errorf("docker run said %q, want %q", got, helloSays)
	}

	third := startDocker(t)
	third.run("pull", reg.ref("hello@"+digest))
	if got := third.says(reg.ref("hello@" + digest)); got != helloSays {
		t.Errorf("docker run by digest said %q, want %q", got, helloSays)
	}
	if said := third.fails("pull", reg.ref("hello:2")); !strings.Contains(said, "manifest unknown") && !strings.Contains(said, "not found") {
		t.Errorf("docker pull of a missing tag says\n%s", said)
	}
}

// What the registry has is not sent again: not to the same repository, nor to another one.
func TestDockerReusesAndMountsLayers(t *testing.T) {
	t.Parallel()
	dockerReusesAndMounts(t)
}

// A daemon that was there before version 29 keeps its images where it had them.
func TestDockerReusesAndMountsLayersOfItsOldStore(t *testing.T) {
	t.Parallel()
	needNewest(t)
	old := "--storage-driver=overlay2"
	if got := startDocker(t, old).run("info", "--format", "{{.Driver}}"); got != "overlay2" {
		t.Errorf("the daemon's store is %s, want overlay2", got)
	}
	dockerReusesAndMounts(t, old)
}

func dockerReusesAndMounts(t *testing.T, flags ...string) {
	t.Helper()
	reg := startBerth(t)
	tap := tapInto(t, reg)
	docker := startDocker(t, flags...)
	docker.load(tap.ref("app:1"), randomLayer(1, 3<<20))
	docker.run("push", tap.ref("app:1"))
	if n := uploaded(tap.since()); n < 3<<20 {
		t.Errorf("the first push sent %d bytes, want at least 3 MiB", n)
	}

	docker.buildFrom(tap.ref("app:1"), tap.ref("app:2"), map[string]string{"more": "a second layer"})
	if said := docker.run("push", tap.ref("app:2")); !strings.Contains(said, "Layer already exists") {
		t.Errorf("docker push did not see that the registry has the layer:\n%s", said)
	}
	if n := uploaded(tap.since()); n > 1<<20 {
		t.Errorf("the second push sent %d bytes, want only the small layer", n)
	}

	docker.run("tag", tap.ref("app:2"), tap.ref("team/other:1"))
	if said := docker.run("push", tap.ref("team/other:1")); !strings.Contains(said, "Mounted from app") {
		t.Errorf("docker push did not mount the layers:\n%s", said)
	}
	seen := tap.since()
	if n := uploaded(seen); n > 1<<16 {
		t.Errorf("the push to another repository sent %d bytes, want only the config", n)
	}
	if n := mounted(seen); n < 2 {
		t.Errorf("%d blobs were mounted, want both layers", n)
	}
	startDocker(t, flags...).run("pull", tap.ref("team/other:1"))
}

func TestDockerManifestList(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	docker := startDocker(t)
	docker.build(reg.ref("multi:amd64"), hello(t))
	docker.build(reg.ref("multi:arm64"), map[string]string{"hello": "not a program"})
	docker.run("push", reg.ref("multi:amd64"))
	docker.run("push", reg.ref("multi:arm64"))

	docker.run("manifest", "create", "--insecure", reg.ref("multi:1"), reg.ref("multi:amd64"), reg.ref("multi:arm64"))
	docker.run("manifest", "annotate", "--arch", "arm64", reg.ref("multi:1"), reg.ref("multi:arm64"))
	reg.wantDigest("multi", "1", lastDigest(t, docker.run("manifest", "push", "--insecure", reg.ref("multi:1"))))

	// The same list in another repository: the client mounts what the images consist of.
	tap := tapInto(t, reg)
	docker.run("manifest", "create", "--insecure", tap.ref("elsewhere/multi:1"), tap.ref("multi:amd64"), tap.ref("multi:arm64"))
	docker.run("manifest", "annotate", "--arch", "arm64", tap.ref("elsewhere/multi:1"), tap.ref("multi:arm64"))
	said := docker.run("manifest", "push", "--insecure", tap.ref("elsewhere/multi:1"))
	reg.wantDigest("elsewhere/multi", "1", lastDigest(t, said))
	if n := mounted(tap.since()); n < 4 {
		t.Errorf("%d blobs were mounted, want two configs and two layers", n)
	}

	_, body := reg.manifest("multi", "1")
	kind := "manifest.list"
	if newest {
		kind = "image.index"
	}
	if list := parse(t, body); len(list.Manifests) != 2 || !strings.Contains(list.MediaType, kind) {
		t.Errorf("the manifest list is\n%s", body)
	}
	if said := docker.run("manifest", "inspect", "--insecure", reg.ref("multi:1")); !strings.Contains(said, `"architecture": "arm64"`) {
		t.Errorf("docker manifest inspect says\n%s", said)
	}
	other := startDocker(t)
	other.run("pull", "--platform", "linux/amd64", reg.ref("elsewhere/multi:1"))
	if got := other.says(reg.ref("elsewhere/multi:1")); got != helloSays {
		t.Errorf("docker run said %q, want %q", got, helloSays)
	}
	other.run("pull", "--platform", "linux/arm64", reg.ref("multi:1"))
}

// A layer of 200 MB is on its way when the registry is killed. Started again on the same port and data, it
// takes the image, and still has it after one more restart.
func TestDockerBigPushSurvivesKill(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	docker := startDocker(t)
	docker.load(reg.ref("big:1"), randomLayer(2, 200<<20))

	var cut error
	ended := make(chan struct{})
	go func() {
		cut = docker.try("push", reg.ref("big:1"))
		close(ended)
	}()
	defer func() { <-ended }()
	await(t, reg.exited, &reg.log, "the first megabytes to arrive", func() bool { return sizeOf(reg.data) > 20<<20 })
	reg.kill()
	reg.check()
	reg.start()
	<-ended
	t.Logf("the push that was cut ended with %v", cut) // nil when docker tried again by itself

	digest := lastDigest(t, docker.run("push", reg.ref("big:1")))
	reg.wantDigest("big", "1", digest)
	reg.stop()
	reg.start()
	if said := docker.run("push", reg.ref("big:1")); !strings.Contains(said, "Layer already exists") {
		t.Errorf("after a restart docker push did not find the layer:\n%s", said)
	}
	startDocker(t).run("pull", reg.ref("big@"+digest))
}

func TestDockerEightAtOnce(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	docker := startDocker(t)
	name := func(i int) string { return reg.ref(fmt.Sprintf("crowd/app-%d:1", i)) }
	base := randomLayer(10, 4<<20)
	docker.load(reg.ref("crowd/base:1"), base)
	for i := range 8 {
		docker.buildFrom(reg.ref("crowd/base:1"), name(i), map[string]string{"own": strings.Repeat(fmt.Sprint(i), 1<<20)})
	}
	atOnce(t, 8, func(i int) error {
		return docker.try("push", name(i))
	})
	other := startDocker(t)
	atOnce(t, 8, func(i int) error {
		return other.try("pull", name(i))
	})
	if got := strings.Fields(other.run("images", "--quiet")); len(got) != 8 {
		t.Errorf("%d images arrived, want 8", len(got))
	}
}

// An empty tar is a layer like any other.
func TestDockerEmptyLayer(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	docker := startDocker(t)
	docker.load(reg.ref("empty:1"), layer(nil))
	reg.wantDigest("empty", "1", lastDigest(t, docker.run("push", reg.ref("empty:1"))))
	startDocker(t).run("pull", reg.ref("empty:1"))
}

// As a daemon's mirror, the registry is asked for Docker Hub's names.
func TestDockerMirror(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	docker := startDocker(t)
	docker.build(reg.ref("library/hello:1"), hello(t))
	docker.run("push", reg.ref("library/hello:1"))

	other := startDocker(t, "--registry-mirror", "http://"+reg.addr)
	other.run("pull", "hello:1")
	if got := other.says("hello:1"); got != helloSays {
		t.Errorf("docker run said %q, want %q", got, helloSays)
	}
}

// The words of the API's own paths are good names too.
func TestDockerRepositoryNames(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	docker := startDocker(t)
	docker.load("small", layer(map[string]string{"a": "b"}))
	for _, name := range []string{
		"a", "a/b/c/d/e/f/g/h/i/j", "blobs", "manifests/tags", "a/blobs/uploads", "tags/list", "v2/referrers/manifests/v2",
		"under_score/dou__ble/dash--es/do.t", strings.Repeat("long/", 30) + "name",
	} {
		docker.run("tag", "small", reg.ref(name+":latest"))
		digest := lastDigest(t, docker.run("push", reg.ref(name+":latest")))
		reg.wantDigest(name, "latest", digest)
		docker.run("rmi", reg.ref(name+":latest"))
		docker.run("pull", reg.ref(name+"@"+digest))
	}
}

// A docker is a command line with a daemon.
type docker struct{ *client }

// startDocker starts a daemon with an empty store.
func startDocker(t *testing.T, flags ...string) docker {
	t.Helper()
	needRoot(t)
	d := docker{newClient(t, "docker")}
	daemon := newClient(t, "dockerd")
	dir := daemon.dir
	writeFile(t, filepath.Join(dir, "daemon.json"), "{}")
	if !newest {
		flags = append(flags, "--storage-driver=overlay2")
	}
	cmd := exec.Command(daemon.path, append(flags, "--config-file", filepath.Join(dir, "daemon.json"),
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--userland-proxy=false",
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "x"), "--pidfile", filepath.Join(dir, "pid"),
		"--host", "unix://"+filepath.Join(dir, "docker.sock"), "--insecure-registry", "127.0.0.0/8")...)
	cmd.Env = daemon.env
	if newest { // it keeps its images in the containerd that it finds first
		cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(newClient(t, "containerd").path)+":"+searchPath)
	}
	log, exited := launch(t, cmd)
	d.env = append(d.env, "DOCKER_HOST=unix://"+filepath.Join(dir, "docker.sock"), "DOCKER_CONFIG="+d.dir,
		"DOCKER_BUILDKIT=0", "DOCKER_CLI_EXPERIMENTAL=enabled")

	socket := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "docker.sock"))
		},
	}}
	await(t, exited, log, "the Docker daemon", func() bool {
		resp, err := socket.Get("http://docker/_ping")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
	return d
}

// build makes an image of one layer that runs /hello.
func (d docker) build(ref string, files map[string]string, flags ...string) {
	d.t.Helper()
	d.buildFrom("scratch", ref, files, flags...)
}

// buildFrom makes an image with one more layer than another.
func (d docker) buildFrom(base, ref string, files map[string]string, flags ...string) {
	d.t.Helper()
	dir := tempDir(d.t)
	dockerfile := "FROM " + base + "\nCOPY files /\nENTRYPOINT [\"/hello\"]\n"
	writeFile(d.t, filepath.Join(dir, "Dockerfile"), dockerfile)
	for name, content := range files {
		path := filepath.Join(dir, "files", name)
		writeFile(d.t, path, content)
		if err := os.Chmod(path, 0o755); err != nil {
			d.t.Fatal(err)
		}
	}
	d.run(append(append([]string{"build", "--quiet", "--tag", ref}, flags...), dir)...)
}

// load makes an image of one layer.
func (d docker) load(ref string, layer []byte) {
	d.t.Helper()
	d.run("import", layerFile(d.t, layer), ref)
}

// says runs an image and returns what it says. For the newest daemon Debian's runc is too old, so the image's program
// is copied out of a container of it, and run here.
func (d docker) says(ref string) string {
	d.t.Helper()
	if !newest {
		return d.run("run", "--rm", "--network", "none", ref)
	}
	program := filepath.Join(tempDir(d.t), "hello")
	d.run("cp", d.run("create", "--network", "none", ref)+":/hello", program)
	out, err := exec.Command(program).Output()
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// sizeOf adds up the files below a directory that is being written to.
func sizeOf(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
