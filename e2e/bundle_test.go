package e2e

// Bundles: what berth export writes is read by other tools, what those write is read by berth import, and digests are the
// same wherever the tool keeps them.

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// run runs a command of Berth on the server's data directory.
func (b *berth) run(stdin string, args ...string) string {
	b.t.Helper()
	cmd := exec.Command(berthBinary, append(args, "--data", b.data)...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = plainEnv(b.t.TempDir())
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("berth %s: %v\n%s%s", strings.Join(args, " "), err, out, log.String())
	}
	return string(out)
}

// A bundled is a registry with an image app:v1 and an index multi:v1, and archives of them.
type bundled struct {
	*berth
	image, index      string // digests
	one, many, docker string // archives
}

func bundle(t *testing.T) *bundled {
	t.Helper()
	b := &bundled{berth: startBerth(t)}
	crane := newClient(t, "crane")
	var dir string
	dir, b.image = ociLayout(t, []string{"amd64"}, randomLayer(90, 1<<20), layer(hello(t)))
	crane.run("push", dir, b.ref("app:v1"))
	dir, b.index = ociLayout(t, []string{"amd64", "arm64"}, randomLayer(91, 1<<20), layer(hello(t)))
	crane.run("push", dir, b.ref("multi:v1"))
	place := tempDir(t)
	b.one, b.many, b.docker = filepath.Join(place, "one.tar"), filepath.Join(place, "many.tar"), filepath.Join(place, "docker.tar")
	b.run("", "export", b.one, "app:v1", "--host", b.addr)
	b.run("", "export", b.many, "app:v1", "multi:v1", "--host", b.addr)
	b.run("", "export", b.docker, "app:v1", "multi:v1", "--host", b.addr, "--format", "docker", "--platform", "linux/amd64")
	return b
}

func TestToolsReadWhatBerthExports(t *testing.T) {
	t.Parallel()
	b := bundle(t)
	there := startBerth(t)
	for name, read := range map[string]func(t *testing.T){
		"regctl": func(t *testing.T) {
			regctl := newRegctl(t, there)
			regctl.run("image", "import", there.ref("regctl/app:v1"), b.one)
			there.wantDigest("regctl/app", "v1", b.image)
			alone := filepath.Join(tempDir(t), "multi.tar")
			b.run("", "export", alone, "multi:v1")
			regctl.run("image", "import", there.ref("regctl/multi:v1"), alone)
			there.wantDigest("regctl/multi", "v1", b.index)
		},
		"oras": func(t *testing.T) {
			oras := newClient(t, "oras")
			oras.run("cp", "--from-oci-layout", "--to-plain-http", b.one+":v1", there.ref("oras/app:v1"))
			there.wantDigest("oras/app", "v1", b.image)
		},
		"crane": func(t *testing.T) {
			crane := newClient(t, "crane")
			crane.run("push", b.one, there.ref("crane/app:v1")) // of an archive it reads manifest.json
			if !there.has("crane/app", "v1") {
				t.Error("crane has not pushed it")
			}
			layout := filepath.Join(tempDir(t), "layout")
			b.run("", "export", layout, "app:v1")
			crane.run("push", layout, there.ref("crane/layout:v1"))
			there.wantDigest("crane/layout", "v1", b.image)
		},
		"skopeo": func(t *testing.T) {
			x := containers(t, "vfs", there.addr)
			x.skopeo.run("copy", "--all", "--dest-tls-verify=false", "oci-archive:"+b.one+":v1", "docker://"+there.ref("skopeo/app:v1"))
			there.wantDigest("skopeo/app", "v1", b.image)
			x.skopeo.run("copy", "--all", "--dest-tls-verify=false", "oci-archive:"+b.many+":"+b.ref("multi:v1"), "docker://"+there.ref("skopeo/multi:v1"))
			there.wantDigest("skopeo/multi", "v1", b.index)
		},
		"podman": func(t *testing.T) {
			x := containers(t, "vfs", there.addr)
			x.podman.run("load", "-i", b.one)
			if got := x.podman.run("inspect", "--format", "{{.Digest}}", b.ref("app:v1")); got != b.image {
				t.Errorf("podman has %s, want %s", got, b.image)
			}
		},
		"containerd": func(t *testing.T) {
			ctr := startContainerd(t)
			ctr.run("images", "import", "--no-unpack", "--all-platforms", b.many)
			list := ctr.run("images", "list")
			for name, digest := range map[string]string{"app:v1": b.image, "multi:v1": b.index} {
				if !strings.Contains(list, b.ref(name)) || !strings.Contains(list, digest) {
					t.Errorf("ctr has not got %s (%s):\n%s", name, digest, list)
				}
			}
		},
		"docker": func(t *testing.T) {
			docker := startDocker(t)
			docker.run("load", "-i", b.docker)
			docker.run("image", "inspect", b.ref("app:v1"), b.ref("multi:v1"))
			docker.run("load", "-i", b.one)
		},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); read(t) })
	}
}

func TestBerthImportsWhatToolsWrite(t *testing.T) {
	t.Parallel()
	b := bundle(t)
	there := startBerth(t)
	take := func(file, name, want string) {
		t.Helper()
		there.run("", "import", file, "--as", name)
		repo, tag, _ := strings.Cut(name, ":")
		if want != "" {
			there.wantDigest(repo, tag, want)
		} else if !there.has(repo, tag) {
			t.Errorf("%s has not come in", name)
		}
	}
	for name, write := range map[string]func(t *testing.T, file string){
		"regctl": func(t *testing.T, file string) {
			newRegctl(t, b.berth).run("image", "export", b.ref("multi:v1"), file)
			take(file, "regctl:v1", b.index)
		},
		"oras": func(t *testing.T, file string) {
			newClient(t, "oras").run("cp", "--from-plain-http", "--to-oci-layout", b.ref("multi:v1"), file+":v1")
			take(file, "oras:v1", b.index)
		},
		"crane": func(t *testing.T, file string) {
			crane := newClient(t, "crane")
			crane.run("pull", "--format=oci", "--annotate-ref", b.ref("app:v1"), file)
			take(file, "crane:v1", b.image)
			crane.run("pull", b.ref("app:v1"), file+".tar")
			take(file+".tar", "crane/docker:v1", "")
		},
		"skopeo": func(t *testing.T, file string) {
			x := containers(t, "vfs", b.addr)
			x.skopeo.run("copy", "--all", "--src-tls-verify=false", "docker://"+b.ref("multi:v1"), "oci-archive:"+file+":v1")
			take(file, "skopeo:v1", b.index)
			x.skopeo.run("copy", "--src-tls-verify=false", "docker://"+b.ref("app:v1"), "docker-archive:"+file+".docker:app:v1")
			take(file+".docker", "skopeo/docker:v1", "")
		},
		"podman": func(t *testing.T, file string) {
			x := containers(t, "vfs", b.addr)
			x.podman.run("pull", b.ref("app:v1"))
			x.podman.run("save", "--format", "oci-archive", "-o", file, b.ref("app:v1"))
			take(file, "podman:v1", "")
		},
		"containerd": func(t *testing.T, file string) {
			ctr := startContainerd(t)
			ctr.run("images", "pull", "--plain-http", "--platform", "linux/amd64", b.ref("multi:v1"))
			ctr.run("images", "export", file, b.ref("multi:v1"))
			take(file, "ctr:v1", b.index) // under its own digest, though there is only one platform
			if said, _ := newClient(t, "crane").attempt("", "pull", "--platform", "linux/arm64", there.ref("ctr:v1"), filepath.Join(tempDir(t), "x")); !strings.Contains(said, "MANIFEST_UNKNOWN") {
				t.Errorf("a pull of the other platform says\n%s", said)
			}
		},
		"docker": func(t *testing.T, file string) {
			docker := startDocker(t)
			docker.run("pull", b.ref("app:v1"))
			docker.run("save", "-o", file, b.ref("app:v1"))
			take(file, "docker:v1", "")
			id := docker.run("image", "inspect", "--format", "{{.Id}}", b.ref("app:v1"))
			_, body := there.manifest("docker", "v1")
			if !newest && !strings.Contains(string(body), id) {
				t.Errorf("the image ID is not %s any more:\n%s", id, body)
			}
		},
		"umoci": func(t *testing.T, file string) {
			umoci := newClient(t, "umoci")
			umoci.run("init", "--layout", file)
			umoci.run("new", "--image", file+":v1")
			take(file, "umoci:v1", "")
			umoci.run("stat", "--image", exported(t, there, "umoci:v1")+":v1")
		},
	} {
		t.Run(name, func(t *testing.T) { write(t, filepath.Join(tempDir(t), "images")) })
	}
}

// exported is a layout with an image.
func exported(t *testing.T, b *berth, name string) string {
	t.Helper()
	dir := filepath.Join(tempDir(t), "layout")
	b.run("", "export", dir, name)
	return dir
}

// What goes through a pipe from registry to registry is the same there, with what refers to it.
func TestExportToImportThroughAPipe(t *testing.T) {
	t.Parallel()
	b, there := bundle(t), startBerth(t)
	oras := newClient(t, "oras")
	writeFile(t, filepath.Join(oras.dir, "sbom.json"), "{}")
	oras.run("attach", "--plain-http", "--artifact-type", "application/vnd.test.sbom", b.ref("multi:v1"), "sbom.json:application/json")
	there.run(b.run("", "export", "-", "--all"), "import", "-")
	there.wantDigest("multi", "v1", b.index)
	there.wantDigest("app", "v1", b.image)
	var list struct {
		Manifests []struct{ ArtifactType string }
	}
	_, _, body := there.get("GET", "/v2/multi/referrers/"+b.index)
	if json.Unmarshal(body, &list); len(list.Manifests) != 1 || list.Manifests[0].ArtifactType != "application/vnd.test.sbom" {
		t.Errorf("what refers to it is\n%s", body)
	}
	files, err := os.ReadDir(filepath.Dir(b.one))
	if err != nil || slices.ContainsFunc(files, func(e os.DirEntry) bool { return regexp.MustCompile(`\.part$`).MatchString(e.Name()) }) {
		t.Errorf("left beside the archives: %v (%v)", files, err)
	}
}
