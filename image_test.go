package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// buildSmall builds a program that says it is Berth, and does nothing, for a processor.
func buildSmall(t testing.TB, arch string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "go.mod"), []byte("module "+modulePath+"\ngo 1.26\n"))
	writeFile(t, filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() {}\n"))
	arch, level, _ := strings.Cut(arch, "/")
	path := filepath.Join(dir, "berth")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "GOARM="+level, "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		if _, err := exec.LookPath("go"); err != nil {
			skip(t, "there is no go to build a program with")
		}
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// patched is a copy of a program that says something else of itself, of the same length.
func patched(t testing.TB, path, from, to string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil || len(from) != len(to) || !bytes.Contains(text, []byte(from)) {
		t.Fatalf("no %s in %s: %v", from, path, err)
	}
	other := filepath.Join(t.TempDir(), "berth-other")
	writeFile(t, other, bytes.ReplaceAll(text, []byte(from), []byte(to)))
	return other
}

// withLoader is a copy of a program for a machine of 64 bits that names a loader, as programs with libraries do.
func withLoader(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	headers := text[binary.LittleEndian.Uint64(text[0x20:]):]
	for elf.ProgType(binary.LittleEndian.Uint32(headers)) != elf.PT_NOTE {
		headers = headers[56:]
	}
	binary.LittleEndian.PutUint32(headers, uint32(elf.PT_INTERP))
	other := filepath.Join(t.TempDir(), "berth-loader")
	writeFile(t, other, text)
	return other
}

// A layout is a tar with an image, read back.
type layout map[string][]byte

func readLayout(t testing.TB, text []byte) layout {
	t.Helper()
	l := make(layout)
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return l
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		l[h.Name] = body
	}
}

// blob returns what a digest names, which must be that.
func (l layout) blob(t testing.TB, d digest.Digest) []byte {
	t.Helper()
	body, ok := l["blobs/sha256/"+d.Encoded()]
	if !ok || digest.FromBytes(body) != d {
		t.Fatalf("the archive has no %s, or it is something else", d)
	}
	return body
}

type testDescriptor struct {
	MediaType   string
	Digest      digest.Digest
	Size        int64
	Platform    *platform
	Annotations map[string]string
}

func parsed[T any](t testing.TB, text []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

type testIndex struct {
	MediaType string
	Manifests []testDescriptor
}

type testManifest struct {
	Config testDescriptor
	Layers []testDescriptor
}

type testConfig struct {
	OS, Architecture, Variant, Created string
	Config                             imageConfig
	RootFS                             struct {
		DiffIDs []digest.Digest `json:"diff_ids"`
	}
}

// The image is what the specification says, for each platform, and holds the binary that was given.
func TestImageInAFile(t *testing.T) {
	slow(t) // the first time, Go's runtime is compiled for another processor
	t.Parallel()
	amd64, armv6 := buildSmall(t, "amd64"), buildSmall(t, "arm/6")
	arm64 := patched(t, amd64, "GOARCH=amd64", "GOARCH=arm64")
	dir := t.TempDir()
	file := filepath.Join(dir, "berth.tar")
	out, err := runOnce(t, "image", file, amd64, armv6, arm64)
	if err != nil || !strings.Contains(out, "linux/amd64, linux/arm/v6, linux/arm64/v8") {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l := readLayout(t, text)
	if got := string(l["oci-layout"]); got != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout: %s", got)
	}
	top := parsed[testIndex](t, l["index.json"]).Manifests
	if len(top) != 1 || top[0].MediaType != typeOCIIndex || top[0].Annotations["io.containerd.image.name"] != "docker.io/library/berth:latest" ||
		!strings.Contains(out, top[0].Digest.String()) {
		t.Fatalf("index.json: %s", l["index.json"])
	}
	index := parsed[testIndex](t, l.blob(t, top[0].Digest))
	files, names := []string{amd64, armv6, arm64}, []string{"linux/amd64", "linux/arm/v6", "linux/arm64/v8"}
	if len(index.Manifests) != len(names) {
		t.Fatalf("index: %+v", index)
	}
	for i, m := range index.Manifests {
		if m.Platform.String() != names[i] {
			t.Errorf("platform %d is %s, want %s", i, m.Platform, names[i])
		}
		manifest := parsed[testManifest](t, l.blob(t, m.Digest))
		config := parsed[testConfig](t, l.blob(t, manifest.Config.Digest))
		if p := (platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant}); p != *m.Platform {
			t.Errorf("config is for %v, want %s", p, names[i])
		}
		c := config.Config
		if c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/berth"}) || !slices.Equal(c.Env, []string{"BERTH_DATA=/data"}) {
			t.Errorf("config: %+v", c)
		}
		checkLayer(t, l.blob(t, manifest.Layers[0].Digest), config.RootFS.DiffIDs[0], files[i])
	}
	old := parsed[[]struct {
		Config, Layers any
		RepoTags       []string
	}](t, l["manifest.json"])
	if len(old) != 1 || l[fmt.Sprint(old[0].Config)] == nil || !slices.Equal(old[0].RepoTags, []string{"berth:latest"}) {
		t.Errorf("manifest.json: %s", l["manifest.json"])
	}
}

// checkLayer checks that a layer has a binary and the directory for the data, and nothing else.
func checkLayer(t testing.TB, layer []byte, diffID digest.Digest, file string) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || digest.FromBytes(text) != diffID {
		t.Errorf("the layer has the digest %s, want %s: %v", digest.FromBytes(text), diffID, err)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(text))
	var entries []string
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		entries = append(entries, fmt.Sprintf("%s %o %d", h.Name, h.Mode, h.Uid))
		if body, _ := io.ReadAll(r); h.Name == "berth" && !bytes.Equal(body, want) {
			t.Errorf("/berth has %d bytes, want those of %s", len(body), file)
		}
	}
	if !slices.Equal(entries, []string{"berth 755 0", "data/ 777 65532"}) {
		t.Errorf("the layer has %q", entries)
	}
}

// The same binaries make the same image, wherever and whenever; SOURCE_DATE_EPOCH changes its times.
func TestImageIsReproducible(t *testing.T) {
	t.Parallel()
	amd64 := buildSmall(t, "amd64")
	arm64 := patched(t, amd64, "GOARCH=amd64", "GOARCH=arm64")
	made := func(env environment, files ...string) string {
		var out bytes.Buffer
		if err := run(t.Context(), append([]string{"image", "-"}, files...), env, strings.NewReader(""), &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	first := made(noEnv, amd64, arm64)
	if err := os.Chtimes(amd64, time.Unix(0, 0), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	if made(noEnv, amd64, arm64) != first {
		t.Error("twice the same is not the same")
	}
	dated := made(environment{"SOURCE_DATE_EPOCH=1700000000"}, amd64)
	if !strings.Contains(dated, `"created":"2023-11-14T22:13:20Z"`) || made(environment{"SOURCE_DATE_EPOCH=1700000000"}, amd64) != dated {
		t.Error("SOURCE_DATE_EPOCH is not when the image was made")
	}
}

func TestImageRefuses(t *testing.T) {
	t.Parallel()
	amd64 := buildSmall(t, "amd64")
	loader := withLoader(t, amd64)
	text := filepath.Join(t.TempDir(), "text")
	writeFile(t, text, []byte("no program"))
	file := filepath.Join(t.TempDir(), "berth.tar")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{file, text}, "text is not Berth"},
		{[]string{file, t.TempDir()}, "is not a file"},
		{[]string{file, text + "-gone"}, "no such file"},
		{[]string{file, loader}, "CGO_ENABLED=0"},
		{[]string{file, patched(t, amd64, "GOOS=linux", "GOOS=plan9")}, "is Berth for plan9"},
		{[]string{file, amd64, amd64}, "both for linux/amd64"},
		{[]string{filepath.Join(text, "berth.tar"), amd64}, "text"},
		{[]string{"berth"}, `"berth" has no tag: write berth:TAG, or for a file berth.tar`},
		{[]string{"pi.local:5000/berth"}, "has no tag"},
		{[]string{"pi.local:5000x/berth:1"}, "not a registry's HOST or HOST:PORT"},
		{[]string{"https://pi.local/berth:1"}, "as in pi.local/berth:1"},
		{[]string{"Berth:1"}, "NAME:TAG"},
		{[]string{"berth:1", "--user", "kim"}, "--user is for another registry"},
		{[]string{"-", "--json"}, "--json"},
	} {
		out, err := runOnce(t, append([]string{"image"}, test.args...)...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("berth image %v: %v, want %q in it\n%s", test.args, err, test.want, out)
		}
	}
	if left, err := filepath.Glob(filepath.Dir(file) + "/*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The image is pushed to a registry with users and TLS, by a password that is typed or stored.
func TestImageIsPushed(t *testing.T) {
	slow(t)
	t.Parallel()
	amd64 := buildSmall(t, "amd64")
	arm64 := patched(t, amd64, "GOARCH=amd64", "GOARCH=arm64")
	r := startRegistry(t, guarded("", "kim"))
	s := httptest.NewTLSServer(r.server.handler())
	defer s.Close()
	host := s.Listener.Addr().String()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.crt")
	writeFile(t, ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	auth := base64.StdEncoding.EncodeToString([]byte("kim:kim-secret"))
	writeFile(t, filepath.Join(dir, "config.json"), []byte(fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)))
	writeFile(t, filepath.Join(dir, "helper.json"), []byte(fmt.Sprintf(`{"auths":{%q:{}},"credsStore":"desktop"}`, host)))
	for _, test := range []struct {
		tag   string
		env   environment
		stdin string
		args  []string
		want  string // of the error; "" for none
	}{
		{"typed", noEnv, "kim-secret\n", []string{"--user", "kim"}, ""},
		{"docker", environment{"DOCKER_CONFIG=" + dir}, "", nil, ""},
		{"podman", environment{"REGISTRY_AUTH_FILE=" + filepath.Join(dir, "config.json"), "HOME=" + dir}, "", nil, ""},
		{"wrong", noEnv, "mistyped\n", []string{"--user", "kim"}, "logging in as kim"},
		{"nothing", noEnv, "", []string{"--user", "kim"}, "no password"},
		{"nobody", noEnv, "", nil, "401"},
		{"helper", environment{"REGISTRY_AUTH_FILE=" + filepath.Join(dir, "helper.json")}, "", nil, "docker-credential-desktop"},
	} {
		args := append([]string{"image", host + "/tools/berth:" + test.tag, amd64, arm64, "--ca", ca}, test.args...)
		var out bytes.Buffer
		err := run(t.Context(), args, test.env, strings.NewReader(test.stdin), &out, io.Discard)
		if test.want == "" && err != nil || test.want != "" && !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("%s: %v\n%s", test.tag, err, out.String())
		}
		status := map[bool]int{true: http.StatusOK, false: http.StatusNotFound}[test.want == ""]
		r.want(status, "GET", "/v2/tools/berth/manifests/"+test.tag, nil, as("kim"), "Accept: "+typeOCIIndex)
	}
	if _, err := runOnce(t, "image", host+"/tools/berth:1", amd64); err == nil || !strings.Contains(err.Error(), "a CA that this machine does not trust") {
		t.Errorf("without --ca: %v", err)
	}
}
