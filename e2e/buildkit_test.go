package e2e

// BuildKit: a daemon of the test's own, without Docker before it. What it builds is pushed by the daemon, but it
// is the client that has the passwords and fetches the tokens. It is among the newest clients only.

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestBuildKitPushPull(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	tap := tapInto(t, reg)
	here := startBuildKit(t, insecurely(tap.addr))
	big := map[string]string{"big": string(randomLayer(110, 2<<20))}
	platforms := []string{"--opt", "platform=linux/amd64,linux/arm64", "--opt", "attest:provenance=mode=max"}
	digest := here.push("scratch", tap.ref("app:v1"), big, platforms...)
	reg.wantDigest("app", "v1", digest)
	if n := uploaded(tap.since()); n < 2<<20 {
		t.Errorf("the first push sent %d bytes, want at least 2 MiB", n)
	}
	if n := len(attestations(t, reg, "v1")); n != 2 {
		t.Errorf("the index has %d attestations, want one for each platform", n)
	}

	// What the registry has is not sent again: not to the same repository, nor to another one.
	here.push("scratch", tap.ref("app:v2"), big, platforms...)
	if n := uploaded(tap.since()); n > 1<<18 {
		t.Errorf("the push of the same layer sent %d bytes", n)
	}
	here.push("scratch", tap.ref("team/app:v1"), big)
	if seen := tap.since(); uploaded(seen) > 1<<18 || mounted(seen) == 0 {
		t.Errorf("the push to another repository sent %d bytes and mounted %d blobs:\n%v", uploaded(seen), mounted(seen), seen)
	}

	// On a machine that has nothing yet: a layer that is only passed on is not even pulled.
	there := startBuildKit(t, insecurely(tap.addr))
	there.mustBuild("FROM "+tap.ref("app@"+digest)+"\nLABEL passed=on", nil, "--output", "type=image,name="+tap.ref("third/app:v1")+",push=true")
	if seen := tap.since(); uploaded(seen) > 1<<18 || mounted(seen) == 0 {
		t.Errorf("an image with another label sent %d bytes and mounted %d blobs:\n%v", uploaded(seen), mounted(seen), seen)
	}
	digest = there.push(tap.ref("app@"+digest), tap.ref("team/app:v2"), map[string]string{"more": "a second layer"})
	reg.wantDigest("team/app", "v2", digest)
	out := tempDir(t)
	startBuildKit(t, insecurely(tap.addr)).mustBuild("FROM "+tap.ref("team/app:v2"), nil, "--output", "type=local,dest="+out)
	if read(t, filepath.Join(out, "big")) != big["big"] || read(t, filepath.Join(out, "more")) != "a second layer" {
		t.Error("the files of the pulled image differ from those that were pushed")
	}
	if said, err := there.build("FROM "+tap.ref("app:v9"), nil, "--output", "type=local,dest="+tempDir(t)); err == nil || !strings.Contains(said, "not found") {
		t.Errorf("BuildKit's pull of a missing tag ended with %v and says\n%s", err, said)
	}
}

// As an artifact, an attestation refers to its image.
func TestBuildKitReferrers(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	startBuildKit(t, insecurely(reg.addr)).mustBuild("FROM scratch\nCOPY . /\n", hello(t), "--opt", "platform=linux/amd64,linux/arm64",
		"--opt", "attest:provenance=mode=max", "--output", "type=image,name="+reg.ref("app:v1")+",push=true,oci-artifact=true")
	all := attestations(t, reg, "v1")
	if len(all) != 2 {
		t.Errorf("the index has %d attestations, want one for each platform", len(all))
	}
	for image, attestation := range all {
		status, _, body := reg.get("GET", "/v2/app/referrers/"+image)
		if found := parse(t, body).Manifests; status != 200 || len(found) != 1 || found[0].Digest != attestation || found[0].ArtifactType == "" {
			t.Errorf("the referrers of %s = %d, want 200 and %s with its type\n%s", image, status, attestation, body)
		}
	}
}

// attestations are those in an index of the repository app, by the digests of their images.
func attestations(t *testing.T, reg *berth, tag string) (all map[string]string) {
	t.Helper()
	_, body := reg.manifest("app", tag)
	all = map[string]string{}
	for _, m := range parse(t, body).Manifests {
		if m.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
			all[m.Annotations["vnd.docker.reference.digest"]] = m.Digest
		}
	}
	return all
}

// The cache of a build is an image, or an index of layers as it was before; another machine builds from it.
func TestBuildKitCache(t *testing.T) {
	t.Parallel()
	for _, as := range []string{"image-manifest=true", "image-manifest=false", "image-manifest=true,compression=zstd,force-compression=true"} {
		reg := startBerth(t)
		cache := "type=registry,ref=" + reg.ref("cache:main")
		dockerfile := "FROM scratch AS one\nCOPY one /\nFROM scratch\nCOPY --from=one /one /two\n"
		files := map[string]string{"one": string(randomLayer(111, 1<<20))}
		out := "type=image,name=" + reg.ref("app:v1") + ",push=true"
		startBuildKit(t, insecurely(reg.addr)).mustBuild(dockerfile, files, "--output", out, "--export-cache", cache+",mode=max,"+as)
		said := startBuildKit(t, insecurely(reg.addr)).mustBuild(dockerfile, files, "--output", out, "--import-cache", cache)
		if n := strings.Count(said, "CACHED"); n != 2 {
			t.Errorf("%s: %d steps came from the cache, want both\n%s", as, n, said)
		}
	}
}

// As a mirror, the registry is told by ?ns= whose names it is asked for.
func TestBuildKitMirror(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	tap := tapInto(t, reg)
	startBuildKit(t, insecurely(reg.addr)).push("scratch", reg.ref("library/hello:v1"), hello(t))
	out := tempDir(t)
	mirror := fmt.Sprintf("[registry.\"docker.io\"]\nmirrors = [%q]\n", tap.addr) + insecurely(tap.addr)
	startBuildKit(t, mirror).mustBuild("FROM hello:v1", nil, "--output", "type=local,dest="+out)
	if read(t, filepath.Join(out, "hello")) != hello(t)["hello"] {
		t.Error("the program in the pulled image differs from the one that was pushed")
	}
	for _, e := range tap.since() {
		if e.query != "ns=docker.io" || e.status != 200 {
			t.Errorf("%v, want ?ns=docker.io and 200", e)
		}
	}
}

// buildkitTool gives the client passwords in its file, which is all that docker login does.
func buildkitTool(t *testing.T, r reach) *tool {
	config, flags := "", []string(nil)
	switch {
	case r.plain:
		config = insecurely(r.host)
	case r.root != "":
		config = fmt.Sprintf("[registry.%q]\nca = [%q]\n", r.host, r.ca())
		flags = []string{"--registry-auth-tlscontext", "host=" + r.host + ",ca=" + r.ca()}
	}
	b, n := startBuildKit(t, config), 0
	file := filepath.Join(b.dir, "config.json")
	return &tool{
		t:    t,
		late: true,
		login: func(user, password string) (string, error) {
			auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
			writeFile(t, file, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.host, auth))
			return "", nil
		},
		logout: func() { os.Remove(file) },
		push: func(repo, tag string) (string, error) {
			n++
			return b.build("FROM scratch\nCOPY . /\n", map[string]string{"number": fmt.Sprint(n)},
				append(flags, "--output", "type=image,name="+r.ref(repo, tag)+",push=true")...)
		},
		pull: func(repo, tag string) (string, error) {
			b.run("prune", "--all")
			return b.build("FROM "+r.ref(repo, tag), nil, append(flags, "--output", "type=local,dest="+tempDir(t))...)
		},
	}
}

// insecurely is the daemon's configuration for a registry without TLS.
func insecurely(host string) string { return fmt.Sprintf("[registry.%q]\nhttp = true\n", host) }

// A buildkit is a client with a daemon.
type buildkit struct{ *client }

// startBuildKit starts a daemon with an empty store. Its images are unpacked by copying, and no program in
// them is run.
func startBuildKit(t *testing.T, config string) buildkit {
	t.Helper()
	needRoot(t)
	needNewest(t)
	daemon := newClient(t, "buildkitd")
	file, socket := filepath.Join(daemon.dir, "buildkitd.toml"), filepath.Join(daemon.dir, "sock")
	writeFile(t, file, config)
	cmd := exec.Command(daemon.path, "--config", file, "--addr", "unix://"+socket, "--root", filepath.Join(daemon.dir, "data"),
		"--containerd-worker=false", "--oci-worker-snapshotter=native", "--oci-worker-net=host")
	cmd.Env = daemon.env
	log, exited := launch(t, cmd)
	await(t, exited, log, "buildkitd", listens("unix", socket))
	b := buildkit{newClient(t, "buildctl", "--addr", "unix://"+socket)}
	b.env = append(b.env, "DOCKER_CONFIG="+b.dir)
	return b
}

// build runs a Dockerfile with files beside it and returns what the client said.
func (b buildkit) build(dockerfile string, files map[string]string, flags ...string) (said string, err error) {
	b.t.Helper()
	at, context := tempDir(b.t), tempDir(b.t)
	writeFile(b.t, filepath.Join(at, "Dockerfile"), dockerfile)
	for name, content := range files {
		writeFile(b.t, filepath.Join(context, name), content)
	}
	return b.attempt("", append([]string{"build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "dockerfile=" + at, "--local", "context=" + context}, flags...)...)
}

func (b buildkit) mustBuild(dockerfile string, files map[string]string, flags ...string) (said string) {
	b.t.Helper()
	said, err := b.build(dockerfile, files, flags...)
	if err != nil {
		b.t.Fatal(err)
	}
	return said
}

// push builds an image with one more layer than another, pushes it and returns the digest that the client tells.
func (b buildkit) push(from, ref string, files map[string]string, flags ...string) (digest string) {
	b.t.Helper()
	told := filepath.Join(b.dir, "metadata.json")
	b.mustBuild("FROM "+from+"\nCOPY . /\n", files,
		append(flags, "--output", "type=image,name="+ref+",push=true", "--metadata-file", told)...)
	var metadata struct {
		Digest string `json:"containerimage.digest"`
	}
	if err := json.Unmarshal([]byte(read(b.t, told)), &metadata); err != nil {
		b.t.Fatal(err)
	}
	return metadata.Digest
}
