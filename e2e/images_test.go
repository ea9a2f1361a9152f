package e2e

// Images from nothing: no test needs the internet. A layer is a tar made here, from a few files, from
// random bytes of a fixed seed (which no compression makes smaller), or from the hello program.

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// hello is the file system of an image that runs: one static program at /hello.
func hello(t *testing.T) map[string]string {
	t.Helper()
	program, err := buildHello()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"hello": program}
}

const helloSays = "hello from berth"

var buildHello = sync.OnceValues(func() (string, error) {
	path := filepath.Join(tmp, "hello")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./testdata/hello")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building hello: %w\n%s", err, out)
	}
	program, err := os.ReadFile(path)
	return string(program), err
})

// layer is an uncompressed tar of the files. Without files it is the empty tar.
func layer(files map[string]string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name]))})
		io.WriteString(w, files[name])
	}
	w.Close()
	return buf.Bytes()
}

// randomLayer is a tar of one file with size random bytes, the same for the same seed.
func randomLayer(seed int64, size int) []byte {
	b := make([]byte, size)
	rand.New(rand.NewSource(seed)).Read(b)
	return layer(map[string]string{fmt.Sprintf("random-%d", seed): string(b)})
}

// layerFile is a layer in a file of its own, for a client that reads it from there.
func layerFile(t *testing.T, layer []byte) string {
	t.Helper()
	path := filepath.Join(tempDir(t), "layer.tar")
	if err := os.WriteFile(path, layer, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// descriptor, as the image specification has it.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

func (p platform) String() string { return path.Join(p.OS, p.Architecture, p.Variant) }

// manifest is what the tests read of image manifests and indexes alike.
type manifest struct {
	MediaType    string       `json:"mediaType"`
	ArtifactType string       `json:"artifactType"`
	Config       descriptor   `json:"config"`
	Layers       []descriptor `json:"layers"`
	Manifests    []descriptor `json:"manifests"`
	Subject      *descriptor  `json:"subject"`
}

func parse(t *testing.T, body []byte) (m manifest) {
	t.Helper()
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return m
}

// ociLayout writes a directory in the OCI image layout with one image for linux on each of the
// architectures (or arm/v7), all with the given layers and tagged as "v1": an image for one architecture,
// an index for more. Clients read it as oci:DIR:v1 or ocidir://DIR:v1.
func ociLayout(t *testing.T, arches []string, layers ...[]byte) (dir, digest string) {
	t.Helper()
	dir = tempDir(t)
	blob := func(mediaType string, body []byte) descriptor {
		d := descriptor{MediaType: mediaType, Digest: digestOf("sha256:", body), Size: int64(len(body))}
		writeFile(t, filepath.Join(dir, "blobs", "sha256", d.Digest[len("sha256:"):]), string(body))
		return d
	}
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const oci = "application/vnd.oci.image."
	diffs, packed := []string{}, []descriptor{}
	for _, l := range layers {
		var zipped bytes.Buffer
		z, _ := gzip.NewWriterLevel(&zipped, gzip.BestSpeed)
		z.Write(l)
		z.Close()
		diffs = append(diffs, digestOf("sha256:", l))
		packed = append(packed, blob(oci+"layer.v1.tar+gzip", zipped.Bytes()))
	}
	images := []descriptor{}
	for _, arch := range arches {
		arch, variant, _ := strings.Cut(arch, "/")
		is := platform{arch, "linux", variant}
		config := blob(oci+"config.v1+json", encode(struct {
			platform
			Config any `json:"config"`
			RootFS any `json:"rootfs"`
		}{is, map[string]any{"Entrypoint": []string{"/hello"}}, map[string]any{"type": "layers", "diff_ids": diffs}}))
		image := blob(oci+"manifest.v1+json", encode(map[string]any{
			"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": packed,
		}))
		image.Platform = &is
		images = append(images, image)
	}
	top := images[0]
	if len(images) > 1 {
		top = blob(oci+"index.v1+json", encode(map[string]any{
			"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": images,
		}))
	}
	top.Annotations = map[string]string{"org.opencontainers.image.ref.name": "v1"}
	writeFile(t, filepath.Join(dir, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
	writeFile(t, filepath.Join(dir, "index.json"), string(encode(map[string]any{
		"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": []descriptor{top},
	})))
	return dir, top.Digest
}
