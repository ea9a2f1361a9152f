package e2e

// The clients that people have now, where Debian's are years older. With NEWEST in the environment they take
// the place of the others in all tests, and those that Debian does not have join the tools. They are built from
// Go's modules, which takes minutes each the first time, so the tests do without them otherwise.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/berth-registry/berth/e2e/goinstall"
)

var newest = os.Getenv("NEWEST") != ""

// newestClients are what takes the place of others, built where their modules are: BuildKit's excludes versions of
// what it needs, and that of Docker's command line has no go.mod. The last two are directories here.
var newestClients = map[string]struct{ module, version, pkg string }{
	"helm":       {"helm.sh/helm/v4", "v4.3.1", "./cmd/helm"},
	"containerd": {"github.com/containerd/containerd/v2", "v2.4.2", "./cmd/containerd"},
	"ctr":        {"github.com/containerd/containerd/v2", "v2.4.2", "./cmd/ctr"},
	"buildkitd":  {"github.com/moby/buildkit", "v0.34.2", "./cmd/buildkitd"},
	"buildctl":   {"github.com/moby/buildkit", "v0.34.2", "./cmd/buildctl"},
	"dockerd":    {"github.com/moby/moby/v2", "v2.0.0-beta.24", "./cmd/dockerd"}, // 29
	"docker":     {"github.com/docker/cli", "v29.9.2+incompatible", "./cmd/docker"},
	"imagecopy":  {"", "", "imagecopy"}, // on go.podman.io/image 5.42.1
	"referring":  {"", "", "referring"}, // on containerd 2.4.2, oras-go 2.7.0 and go-containerregistry 0.22.1
}

// buildNewest builds one of them, or finds it built, and returns its path.
func buildNewest(name string) (path string, err error) {
	c := newestClients[name]
	if c.module == "" {
		return buildHere(c.pkg)
	}
	return goinstall.Within(c.module, c.version, c.pkg)
}

func init() {
	if newest {
		tools = append(tools, []struct {
			name string
			open func(t *testing.T, r reach) *tool
		}{{"imagecopy", imagecopyTool}, {"buildkit", buildkitTool}}...)
	}
}

var building sync.Mutex

// buildHere builds a program of a directory here, once.
func buildHere(name string) (string, error) {
	building.Lock()
	defer building.Unlock()
	path := filepath.Join(tmp, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	build := exec.Command("go", "-C", name, "build", "-tags", "containers_image_openpgp", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=-buildvcs=false", "GOWORK=off") // for imagecopy's SQLite
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// needNewest ends a test of a client that is not Debian's, silently: nobody misses it.
func needNewest(t *testing.T) {
	t.Helper()
	if !newest {
		t.Skip("NEWEST is not set in the environment")
	}
}

func TestImageLibrary(t *testing.T) {
	t.Parallel()
	needNewest(t)
	reg := startBerth(t)
	tap := tapInto(t, reg)
	imagecopy := newClient(t, "imagecopy", "-insecure")
	dir, digest := ociLayout(t, []string{"amd64", "arm64"}, randomLayer(4, 1<<20), layer(hello(t)))
	on := func(name string) string { return "docker://" + tap.ref(name) }

	if got := imagecopy.run("copy", "oci:"+dir+":v1", on("app:v1")); got != digest {
		t.Errorf("the library says it pushed %s, want %s", got, digest)
	}
	reg.wantDigest("app", "v1", digest)
	tap.since()
	imagecopy.run("copy", "oci:"+dir+":v1", on("app:v2"))
	if n := uploaded(tap.since()); n != 0 {
		t.Errorf("pushing the image again sent %d bytes", n)
	}

	// To another repository: what the library has pushed it knows to be there, and mounts.
	imagecopy.run("copy", "oci:"+dir+":v1", on("team/app:v1"))
	reg.wantDigest("team/app", "v1", digest)
	if seen := tap.since(); uploaded(seen) > 1<<16 || mounted(seen) < 2 {
		t.Errorf("the push to another repository sent %d bytes and mounted %d blobs, want the layers mounted", uploaded(seen), mounted(seen))
	}
	if got := imagecopy.run("copy", on("app@"+digest), on("third/app:v1")); got != digest {
		t.Errorf("from one repository to another the library copied %s, want %s", got, digest)
	}

	disk := tempDir(t)
	if got := imagecopy.run("copy", on("team/app:v1"), "dir:"+disk); got != digest {
		t.Errorf("the library pulled %s, want %s", got, digest)
	}
	other := startBerth(t)
	imagecopy.run("copy", "dir:"+disk, "docker://"+other.ref("app:v1"))
	other.wantDigest("app", "v1", digest)

	// With other layers it is another image.
	packed := imagecopy.run("-zstd", "copy", "oci:"+dir+":v1", "docker://"+other.ref("app:zstd"))
	other.wantDigest("app", "zstd", packed)

	if got := imagecopy.run("tags", on("app")); got != "v1\nv2" {
		t.Errorf("the library finds the tags %q, want v1 and v2", got)
	}
	imagecopy.run("delete", on("app:v1"))
	if reg.has("app", "v1") || reg.has("app", "v2") || !reg.has("team/app", "v1") {
		t.Error("the library deletes by digest: both tags should be gone, and no other repository's")
	}
}

// What one of the libraries attaches each of them finds, by its type too, and so do oras and regctl, which are the
// newest in any case.
func TestLibrariesReferrers(t *testing.T) {
	t.Parallel()
	needNewest(t)
	reg := startBerth(t)
	referring, crane, oras, regctl := newClient(t, "referring"), newClient(t, "crane"), newClient(t, "oras"), newRegctl(t, reg)
	dir, image := ociLayout(t, []string{"amd64"}, layer(hello(t)))
	crane.run("push", dir, reg.ref("app:v1"))
	subject := reg.ref("app@" + image)
	wantFound := func(who, said string, digests ...string) {
		t.Helper()
		got, want := slices.Sorted(slices.Values(strings.Fields(said))), slices.Sorted(slices.Values(digests))
		if !slices.Equal(got, want) {
			t.Errorf("%s finds\n%q\nwant\n%q", who, got, want)
		}
	}

	libraries := []string{"containerd", "oras", "crane"}
	var all []string
	for _, lib := range libraries {
		all = append(all, referring.run(lib, "attach", subject, "application/vnd.test."+lib))
	}
	for _, lib := range libraries {
		wantFound(lib, referring.run(lib, "list", subject), all...)
		wantFound(lib, referring.run(lib, "list", reg.ref("app@"+all[0]))) // nothing
		for i, by := range libraries {
			wantFound(lib, referring.run(lib, "list", subject, "application/vnd.test."+by), all[i])
		}
	}
	// Only containerd's asks for several types at once.
	wantFound("containerd", referring.run("containerd", "list", subject, "application/vnd.test.oras", "application/vnd.test.crane"), all[1:]...)

	for _, digest := range all {
		for who, said := range map[string]string{
			"oras":   oras.run("discover", "--plain-http", "--format", "json", subject),
			"regctl": regctl.run("artifact", "list", subject, "--format", "{{json .Descriptors}}"),
		} {
			if n := strings.Count(said, `"`+digest+`"`); n != 1 {
				t.Errorf("%s lists %s %d times, want once\n%s", who, digest, n, said)
			}
		}
	}
	if got := crane.run("ls", reg.ref("app")); got != "v1" {
		t.Errorf("the tags are %q, want only v1: no fallback tags", got)
	}
}

// Docker 29 asks for what signs the attestations of an image that it pulls, and pulls that too.
func TestDockerPullsSignatures(t *testing.T) {
	t.Parallel()
	needNewest(t)
	reg := startBerth(t)
	tap := tapInto(t, reg)
	referring := newClient(t, "referring")
	startBuildKit(t, insecurely(reg.addr)).push("scratch", reg.ref("app:v1"), hello(t), "--opt", "attest:provenance=mode=max")
	const bundle, other = "application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.test.other"
	for _, attestation := range attestations(t, reg, "v1") {
		signature := referring.run("oras", "attach", reg.ref("app@"+attestation), bundle)
		note := referring.run("oras", "attach", reg.ref("app@"+attestation), other)
		startDocker(t).run("pull", tap.ref("app:v1"))
		asked := map[string]int{}
		for _, e := range tap.since() {
			asked[e.path] = e.status
		}
		for path, want := range map[string]int{
			"/v2/app/referrers/" + attestation: 200, "/v2/app/manifests/" + signature: 200, "/v2/app/manifests/" + note: 0,
		} {
			if got := asked[path]; got != want {
				t.Errorf("docker pull: GET %s = %d, want %d (0 is never)\n%v", path, got, want, asked)
			}
		}
	}
	if n := len(attestations(t, reg, "v1")); n != 1 {
		t.Errorf("the image has %d attestations, want one", n)
	}
}

func imagecopyTool(t *testing.T, r reach) *tool {
	imagecopy, next := newClient(t, "imagecopy"), fresh(t)
	switch {
	case r.plain:
		imagecopy.args = []string{"-insecure"}
	case r.root != "":
		imagecopy.args = []string{"-certs", filepath.Join(r.root, "etc/containers/certs.d")}
	}
	return &tool{
		t: t,
		login: func(user, password string) (string, error) {
			return imagecopy.attempt(password, "login", user, r.host)
		},
		logout: func() { imagecopy.run("logout", r.host) },
		push: func(repo, tag string) (string, error) {
			return imagecopy.attempt("", "copy", "oci:"+next()+":v1", "docker://"+r.ref(repo, tag))
		},
		pull: func(repo, tag string) (string, error) {
			return imagecopy.attempt("", "copy", "docker://"+r.ref(repo, tag), "dir:"+tempDir(t))
		},
	}
}
