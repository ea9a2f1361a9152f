package e2e

// The clients that people have now, where Debian's are years older. With NEWEST in the environment they take
// the place of the others in all tests, and those that Debian does not have join the tools. They are built from
// Go's modules, which takes minutes each the first time, so the tests do without them otherwise.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/berth-registry/berth/e2e/goinstall"
)

var newest = os.Getenv("NEWEST") != ""

// newestClients are what takes the place of others, built where their modules are: BuildKit's excludes versions of
// what it needs, and that of Docker's command line has no go.mod. The last is a directory here.
var newestClients = map[string]struct{ module, version, pkg string }{
	"helm":       {"helm.sh/helm/v4", "v4.3.1", "./cmd/helm"},
	"containerd": {"github.com/containerd/containerd/v2", "v2.4.2", "./cmd/containerd"},
	"ctr":        {"github.com/containerd/containerd/v2", "v2.4.2", "./cmd/ctr"},
	"buildkitd":  {"github.com/moby/buildkit", "v0.34.2", "./cmd/buildkitd"},
	"buildctl":   {"github.com/moby/buildkit", "v0.34.2", "./cmd/buildctl"},
	"dockerd":    {"github.com/moby/moby/v2", "v2.0.0-beta.24", "./cmd/dockerd"}, // 29
	"docker":     {"github.com/docker/cli", "v29.9.2+incompatible", "./cmd/docker"},
	"imagecopy":  {"", "", "imagecopy"}, // on go.podman.io/image 5.42.1
}

// buildNewest builds one of them, or finds it built, and returns its path.
func buildNewest(name string) (path string, err error) {
	c := newestClients[name]
	if c.module == "" {
		return buildImagecopy()
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

var buildImagecopy = sync.OnceValues(func() (string, error) {
	path := filepath.Join(tmp, "imagecopy")
	build := exec.Command("go", "-C", "imagecopy", "build", "-tags", "containers_image_openpgp", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=-buildvcs=false", "GOWORK=off") // for its SQLite
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building imagecopy: %w\n%s", err, out)
	}
	return path, nil
})

// needNewest ends a test of a client that is not Debian's, silently: nobody misses it.
func needNewest(t *testing.T) {
	t.Helper()
	if !newest {
		t.Skip("NEWEST is not set in the environment")
	}
}

func TestImageLibrary(t *testing.T) {
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
