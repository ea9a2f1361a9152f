package e2e

// Berth's own image, as `berth image` makes it: loaded and run by Docker and Podman as their users would, with everything
// taken away from it that can be, and pushed to another registry. The examples that run it.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hardened are the flags of docker run and podman run with which Berth has to do: a user that is nobody's, nothing to
// write but its volume, and 64 MiB.
func hardened(addr string) []string {
	return []string{"run", "--detach", "--name", "berth-under-test", "--network", "host", "--user", "54321", "--read-only", "--memory", "64m",
		"--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--volume", "berth-under-test:/data", "--env", "BERTH_ADDR=" + addr}
}

// ownImage makes Berth's image and returns its file and digest.
func ownImage(t *testing.T) (file, digest string) {
	t.Helper()
	file = filepath.Join(tempDir(t), "berth.tar")
	out, err := exec.Command(berthBinary, "image", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file, lastDigest(t, string(out))
}

// untilReady waits for a registry that has been started by others.
func untilReady(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + addr + "/readyz")
		if err == nil {
			resp.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestOwnImageInDocker(t *testing.T) {
	t.Parallel()
	docker := startDocker(t)
	file, _ := ownImage(t)
	if said := docker.run("load", "--input", file); !strings.Contains(said, "Loaded image: berth:latest") {
		t.Errorf("docker load says\n%s", said)
	}
	if newest { // for which Debian's runc is too old
		return
	}
	addr := freeAddress(t)
	docker.run(append(hardened(addr), "berth")...)
	t.Cleanup(func() { docker.try("rm", "--force", "berth-under-test") })
	untilReady(t, addr)
	if said := docker.run("exec", "berth-under-test", "/berth", "ready"); said != "ready" {
		t.Errorf("berth ready says %s", said)
	}
	docker.load(addr+"/home/app:1", randomLayer(7, 20<<20))
	docker.run("push", addr+"/home/app:1")
	docker.run("rmi", addr+"/home/app:1")
	docker.run("pull", addr+"/home/app:1")
	// It makes its own image, in itself, with what it has.
	docker.run("exec", "berth-under-test", "/berth", "image", "tools/berth:1")
	docker.run("pull", addr+"/tools/berth:1")
	if said := docker.run("run", "--rm", "--network", "none", addr+"/tools/berth:1", "version"); !strings.HasPrefix(said, "berth ") {
		t.Errorf("berth version says %s", said)
	}
	docker.run("stop", "berth-under-test")
	if code := docker.run("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", "berth-under-test"); code != "0 false" {
		t.Errorf("it ended with %s", code)
	}
}

func TestOwnImageInPodman(t *testing.T) {
	t.Parallel()
	needRoot(t)
	addr := freeAddress(t)
	c := containers(t, "vfs", addr)
	file, _ := ownImage(t)
	if said := c.podman.run("load", "--input", file); !strings.Contains(said, "docker.io/library/berth:latest") {
		t.Errorf("podman load says\n%s", said)
	}
	// Limits of this machine's own, which a container cannot raise.
	flags := append(hardened(addr), "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "docker.io/library/berth")
	c.podman.run(append([]string{"--runtime", "runc"}, flags...)...)
	t.Cleanup(func() { c.podman.try("rm", "--force", "berth-under-test") })
	untilReady(t, addr)
	if said := c.podman.run("--runtime", "runc", "exec", "berth-under-test", "/berth", "ready"); said != "ready" {
		t.Errorf("berth ready says %s", said)
	}
	c.podman.run("push", "docker.io/library/berth", addr+"/tools/berth:1")
	containers(t, "vfs", addr).podman.run("pull", addr+"/tools/berth:1")
}

// Several platforms, to another registry: what arrives there has the digest that was said, and other clients read it.
func TestOwnImageInAnotherRegistry(t *testing.T) {
	t.Parallel()
	registry := newClient(t, "registry")
	addr := freeAddress(t)
	config := filepath.Join(registry.dir, "config.yml")
	writeFile(t, config, fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", filepath.Join(registry.dir, "data"), addr))
	cmd := exec.Command(registry.path, "serve", config)
	cmd.Env = registry.env
	log, exited := launch(t, cmd)
	await(t, exited, log, "distribution", listens("tcp", addr))

	arm := filepath.Join(tempDir(t), "berth")
	build := exec.Command("go", "-C", "..", "build", "-o", arm, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOARCH=arm", "GOARM=6")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(berthBinary, "image", addr+"/tools/berth:1", berthBinary, arm).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	crane := newClient(t, "crane")
	if got, want := crane.run("digest", "--insecure", addr+"/tools/berth:1"), lastDigest(t, string(out)); got != want {
		t.Errorf("crane finds %s, want %s", got, want)
	}
	for platform, variant := range map[string]string{"linux/amd64": "", "linux/arm/v6": "v6"} {
		var c struct{ Architecture, Variant string }
		if err := json.Unmarshal([]byte(crane.run("config", "--insecure", "--platform", platform, addr+"/tools/berth:1")), &c); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(platform, "linux/"+c.Architecture) || c.Variant != variant {
			t.Errorf("the image for %s is for %+v", platform, c)
		}
	}
	crane.run("validate", "--insecure", "--remote", addr+"/tools/berth:1")
}

func TestComposeExample(t *testing.T) {
	l := startLab(t)
	need(t, "docker-compose")
	l.docker("pi")
	l.install("pi", berthBinary, "berth")
	l.must("me@pi", "berth image berth.tar && docker load --input berth.tar")
	l.write("me@pi", "compose.yaml", read(t, "../examples/compose.yaml"))
	l.must("me@pi", "docker-compose -f compose.yaml -p example up --detach")
	l.until("me@pi", "curl -sSf localhost:5000/readyz")
	l.must("me@pi", "docker-compose -f compose.yaml -p example exec -T registry /berth ready")
	l.push("pi", "localhost:5000/home/app:1.0", "amd64", "an app")
	l.must("me@pi", "docker-compose -f compose.yaml -p example down && docker-compose -f compose.yaml -p example up --detach")
	l.until("me@pi", "curl -sSf localhost:5000/readyz")
	l.must("me@pi", "docker-compose -f compose.yaml -p example exec -T registry /berth ls | grep home/app")
	l.must("me@pi", "docker-compose -f compose.yaml -p example down --volumes")
}

// Every field is one of Kubernetes's types, and the pod keeps to the restricted standard.
func TestKubernetesExample(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "-C", "kubernetes", "run", ".", "../../examples/kubernetes.yaml").CombinedOutput()
	if want := "Namespace\nService\nStatefulSet\n"; err != nil || !strings.HasSuffix(string(out), want) {
		t.Errorf("%v\n%s", err, out)
	}
}
