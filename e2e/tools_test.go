package e2e

// Tools: the clients of the other files behind one face, for the sessions that all of them have. Somebody
// logs in, pushes an image, pulls it, logs out; what is tested is who may, and over what.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A tool is a client as one person uses it.
type tool struct {
	t      *testing.T
	login  func(user, password string) (said string, err error)
	logout func()
	push   act // an image that was not there before
	pull   act // beginning with nothing

	late  bool // the login asks nobody: a wrong password shows at the push
	terse bool // it keeps to itself what the registry says
}

// An act is what a tool does with a tag. It returns what the client said.
type act func(repo, tag string) (said string, err error)

// A reach is how tools come to a registry.
type reach struct {
	host  string // HOST:PORT
	plain bool   // over plain HTTP
	root  string // else the tree of a machine that trusts its CA, as trust.sh makes it; "" for none
}

func (r reach) ref(repo, tag string) string { return r.host + "/" + repo + ":" + tag }

// ca is the file of the CA in the system's store, "" if it is not there.
func (r reach) ca() string {
	found, _ := filepath.Glob(filepath.Join(r.root, "usr/local/share/ca-certificates/*.crt"))
	if r.root == "" || len(found) != 1 {
		return ""
	}
	return found[0]
}

// tools are all of them.
var tools = []struct {
	name string
	open func(t *testing.T, r reach) *tool
}{
	{"docker", dockerTool}, {"podman", podmanTool}, {"buildah", buildahTool}, {"skopeo", skopeoTool}, {"containerd", containerdTool},
	{"crane", craneTool}, {"regctl", regctlTool}, {"oras", orasTool}, {"helm", helmTool},
}

// eachTool runs a test with each tool.
func eachTool(t *testing.T, f func(t *testing.T, open func(*testing.T, reach) *tool)) {
	for _, x := range tools {
		t.Run(x.name, func(t *testing.T) { f(t, x.open) })
	}
}

func (x *tool) mustLogin(user, password string) {
	x.t.Helper()
	if said, err := x.login(user, password); err != nil {
		x.t.Fatalf("login: %v\n%s", err, said)
	}
}

// able fails the test if the tool cannot do something.
func (x *tool) able(what string, do act, repo, tag string) {
	x.t.Helper()
	if said, err := do(repo, tag); err != nil {
		x.t.Errorf("%s: %v\n%s", what, err, said)
	}
}

// refused fails the test unless the tool is refused and says so, with one of the words.
func (x *tool) refused(what string, do act, repo, tag string, words ...string) {
	x.t.Helper()
	said, err := do(repo, tag)
	if err == nil {
		x.t.Errorf("%s of %s:%s should have been refused", what, repo, tag)
	} else if !containsAny(said, words) && !(x.terse && strings.Contains(said, "403 Forbidden")) {
		x.t.Errorf("%s: refused, but not with one of %q:\n%s", what, words, said)
	}
}

// fresh returns a function that makes one image after the other.
func fresh(t *testing.T) (next func() (dir string)) {
	n := int64(1000)
	return func() string {
		n++
		dir, _ := ociLayout(t, []string{"amd64"}, randomLayer(n, 64<<10))
		return dir
	}
}

func dockerTool(t *testing.T, r reach) *tool {
	docker := startDocker(t)
	if r.root != "" {
		copyTrust(t, r.root, "/", "etc/docker/certs.d/"+r.host)
	}
	n := int64(1000)
	return &tool{
		t: t,
		login: func(user, password string) (string, error) {
			return docker.attempt(password, "login", "--username", user, "--password-stdin", r.host)
		},
		logout: func() { docker.run("logout", r.host) },
		push: func(repo, tag string) (string, error) {
			n++
			docker.load(r.ref(repo, tag), randomLayer(n, 64<<10))
			return docker.attempt("", "push", r.ref(repo, tag))
		},
		pull: func(repo, tag string) (string, error) {
			docker.run("image", "prune", "--all", "--force")
			return docker.attempt("", "pull", r.ref(repo, tag))
		},
	}
}

// inContainers is podman, buildah and skopeo with what they need to come to the registry.
func inContainers(t *testing.T, r reach) containersTools {
	if r.plain {
		return containers(t, "vfs", r.host)
	}
	c := containers(t, "vfs")
	if r.root != "" {
		copyTrust(t, filepath.Join(r.root, "etc"), filepath.Join(c.podman.dir, ".config"), "containers/certs.d/"+r.host)
	}
	return c
}

// storeTool is podman or buildah.
func storeTool(t *testing.T, c containersTools, r reach, client *client) *tool {
	n := 0
	return &tool{
		t: t,
		login: func(user, password string) (string, error) {
			return client.attempt(password, "login", "--username", user, "--password-stdin", r.host)
		},
		logout: func() { client.run("logout", r.host) },
		push: func(repo, tag string) (string, error) {
			n++
			c.build(r.ref(repo, tag), map[string]string{"number": fmt.Sprint(n)})
			return client.attempt("", "push", r.ref(repo, tag))
		},
		pull: func(repo, tag string) (string, error) {
			client.run("rmi", "--all", "--force")
			return client.attempt("", "pull", r.ref(repo, tag))
		},
	}
}

func podmanTool(t *testing.T, r reach) *tool {
	c := inContainers(t, r)
	return storeTool(t, c, r, c.podman)
}

func buildahTool(t *testing.T, r reach) *tool {
	c := inContainers(t, r)
	return storeTool(t, c, r, c.buildah)
}

func skopeoTool(t *testing.T, r reach) *tool {
	skopeo, next := inContainers(t, r).skopeo, fresh(t)
	return &tool{
		t: t,
		login: func(user, password string) (string, error) {
			return skopeo.attempt(password, "login", "--username", user, "--password-stdin", r.host)
		},
		logout: func() { skopeo.run("logout", r.host) },
		push: func(repo, tag string) (string, error) {
			return skopeo.attempt("", "copy", "oci:"+next()+":v1", "docker://"+r.ref(repo, tag))
		},
		pull: func(repo, tag string) (string, error) {
			return skopeo.attempt("", "copy", "docker://"+r.ref(repo, tag), "dir:"+tempDir(t))
		},
	}
}

// containerdTool gives ctr user and password with each command, for it remembers none.
func containerdTool(t *testing.T, r reach) *tool {
	ctr, next := startContainerd(t), fresh(t)
	var how, who []string
	switch {
	case r.plain:
		how = []string{"--plain-http"}
	case r.root != "":
		// hosts.toml names the CA's file by its whole path.
		copyTrust(t, r.root, "/", "etc/containerd/certs.d/"+r.host)
		how = []string{"--hosts-dir", "/etc/containerd/certs.d"}
	}
	images := func(verb string, args ...string) (string, error) {
		return ctr.attempt("", append(append(append([]string{"images", verb}, how...), who...), args...)...)
	}
	clear := func() {
		if refs := strings.Fields(ctr.run("images", "list", "--quiet")); len(refs) > 0 {
			ctr.run(append([]string{"images", "remove", "--sync"}, refs...)...)
		}
	}
	return &tool{
		t:    t,
		late: true, terse: true,
		login: func(user, password string) (string, error) {
			who = []string{"--user", user + ":" + password}
			return "", nil
		},
		logout: func() { who = nil },
		push: func(repo, tag string) (string, error) {
			clear()
			ctr.run("images", "import", "--no-unpack", "--base-name", "made", packed(t, next()))
			ctr.run("images", "tag", "made:v1", r.ref(repo, tag))
			return images("push", r.ref(repo, tag))
		},
		pull: func(repo, tag string) (string, error) {
			clear()
			return images("pull", r.ref(repo, tag))
		},
	}
}

func craneTool(t *testing.T, r reach) *tool {
	crane, next := newClient(t, "crane"), fresh(t)
	trustByEnv(crane, r)
	return &tool{
		t:    t,
		late: true,
		login: func(user, password string) (string, error) {
			return crane.attempt(password, "auth", "login", "--username", user, "--password-stdin", r.host)
		},
		logout: func() { crane.run("auth", "logout", r.host) },
		push: func(repo, tag string) (string, error) {
			return crane.attempt("", "push", next(), r.ref(repo, tag))
		},
		pull: func(repo, tag string) (string, error) {
			return crane.attempt("", "pull", r.ref(repo, tag), filepath.Join(tempDir(t), "image.tar"))
		},
	}
}

func regctlTool(t *testing.T, r reach) *tool {
	regctl, next := newClient(t, "regctl"), fresh(t)
	if r.plain {
		regctl.run("registry", "set", r.host, "--tls", "disabled", "--skip-check")
	}
	trustByEnv(regctl, r)
	return &tool{
		t: t,
		login: func(user, password string) (string, error) {
			return regctl.attempt(password, "registry", "login", r.host, "--user", user, "--pass-stdin")
		},
		logout: func() { regctl.run("registry", "logout", r.host) },
		push: func(repo, tag string) (string, error) {
			return regctl.attempt("", "image", "copy", "ocidir://"+next()+":v1", r.ref(repo, tag))
		},
		pull: func(repo, tag string) (string, error) {
			return regctl.attempt("", "image", "copy", r.ref(repo, tag), "ocidir://"+tempDir(t)+":v1")
		},
	}
}

// byFlags is how oras and helm come to the registry.
func byFlags(r reach) []string {
	switch {
	case r.plain:
		return []string{"--plain-http"}
	case r.root != "":
		return []string{"--ca-file", r.ca()}
	}
	return nil
}

func orasTool(t *testing.T, r reach) *tool {
	oras, how, n := newClient(t, "oras"), byFlags(r), 0
	return &tool{
		t: t,
		login: func(user, password string) (string, error) {
			return oras.attempt(password, append([]string{"login", "--username", user, "--password-stdin", r.host}, how...)...)
		},
		logout: func() { oras.run("logout", r.host) },
		push: func(repo, tag string) (string, error) {
			n++
			writeFile(t, filepath.Join(oras.dir, "number.txt"), fmt.Sprint(n))
			return oras.attempt("", append([]string{"push", r.ref(repo, tag), "number.txt:text/plain"}, how...)...)
		},
		pull: func(repo, tag string) (string, error) {
			return oras.attempt("", append([]string{"pull", "--output", tempDir(t), r.ref(repo, tag)}, how...)...)
		},
	}
}

// helmTool pushes charts: their name is the end of the repository's, and their version the tag.
func helmTool(t *testing.T, r reach) *tool {
	helm, how, n := newClient(t, "helm"), byFlags(r), 0
	return &tool{
		t: t,
		login: func(user, password string) (string, error) {
			return helm.attempt(password, append([]string{"registry", "login", "--username", user, "--password-stdin", r.host}, how...)...)
		},
		logout: func() { helm.run("registry", "logout", r.host) },
		push: func(repo, tag string) (string, error) {
			n++
			dir, name := filepath.Dir(repo), filepath.Base(repo)
			writeFile(t, filepath.Join(helm.dir, name, "Chart.yaml"),
				fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\ndescription: number %d\n", name, tag, n))
			helm.run("package", name)
			return helm.attempt("", append([]string{"push", name + "-" + tag + ".tgz", "oci://" + r.host + "/" + dir}, how...)...)
		},
		pull: func(repo, tag string) (string, error) {
			return helm.attempt("", append([]string{"pull", "oci://" + r.host + "/" + repo, "--version", tag, "--destination", tempDir(t)}, how...)...)
		},
	}
}

// trustByEnv has a client written in Go trust the CA.
func trustByEnv(c *client, r reach) {
	if ca := r.ca(); ca != "" {
		c.env = append(c.env, "SSL_CERT_FILE="+ca)
	}
}

// copyTrust copies a directory of certificates from below one root to below another, until the test ends.
func copyTrust(t *testing.T, from, to, dir string) {
	t.Helper()
	var made []string // innermost first
	for d := filepath.Join(to, dir); ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil {
			break
		}
		made = append(made, d)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(filepath.Join(to, dir)); err != nil {
			t.Error(err)
		}
		for _, d := range made {
			os.Remove(d) // unless something else is in it by now
		}
	})
	if err := os.CopyFS(filepath.Join(to, dir), os.DirFS(filepath.Join(from, dir))); err != nil {
		t.Fatal(err)
	}
}
