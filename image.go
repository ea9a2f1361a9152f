// Berth's own image, made of Berth's own binaries: `berth image` (cmd_image.go).
//
// An image FROM scratch has one layer, with the binary and an empty directory for the data. With binaries for several
// platforms there is an image of each, and an index of them all. The platform is what the binary says
// of itself. The same binaries make the same bytes: every time in the image is that of the
// commit, or SOURCE_DATE_EPOCH, and nothing else comes from where it is made.
//
// A layer is never held in memory, nor kept in a file: it is made once for its digest, and again
// for its bytes, which costs a second or two and works on a disk that cannot be written.

package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	modulePath = "github.com/berth-registry/berth"
	sourceURL  = "https://" + modulePath

	typeOCILayer = "application/vnd.oci.image.layer.v1.tar+gzip"

	// imageUser is who runs in a container by itself: the user "nonroot" of other images without users.
	imageUser = 65532
	// maxBinary bounds the files that are looked at, in bytes.
	maxBinary = 256 << 20
)

// A part of an image is its bytes, by their descriptor. What open returns reads them from an offset on.
type part struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	open func(offset int64) (io.ReadCloser, error)
}

// An ownImage is Berth's image for one or more platforms.
type ownImage struct {
	top       part   // what a tag names: the only manifest, or the index of several
	manifests []part // one for each platform
	blobs     []part // configs and layers
	first     struct{ config, layer part }
	created   time.Time
	binaries  []*executable
}

// close ends the use of the binaries.
func (im *ownImage) close() {
	for _, b := range im.binaries {
		b.file.Close()
	}
}

// makeOwnImage makes an image of Linux binaries of Berth. It has read them, and keeps them open until it is closed. A zero
// time means that of each binary's commit.
func makeOwnImage(files []string, created time.Time) (_ *ownImage, err error) {
	im := new(ownImage)
	defer func() {
		if err != nil {
			im.close()
		}
	}()
	for _, name := range files {
		b, err := openBinary(name)
		if err != nil {
			return nil, err
		}
		im.binaries = append(im.binaries, b)
		if !created.IsZero() {
			b.created = created
		}
		for _, other := range im.binaries[:len(im.binaries)-1] {
			if other.platform == b.platform {
				return nil, fmt.Errorf("%s and %s are both for %s; an image has one binary for each platform", other.name, name, b.platform)
			}
		}
		if err := im.add(b); err != nil {
			return nil, err
		}
	}
	if len(im.manifests) == 1 {
		im.top = im.manifests[0]
		return im, nil
	}
	im.top = jsonPart(typeOCIIndex, struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []part            `json:"manifests"`
		Annotations   map[string]string `json:"annotations"`
	}{2, typeOCIIndex, im.manifests, im.binaries[0].annotations()})
	return im, nil
}

// add adds the image of one platform.
func (im *ownImage) add(b *executable) error {
	layer, diffID, err := b.layer()
	if err != nil {
		return fmt.Errorf("%s: %w", b.name, err)
	}
	config := jsonPart(typeOCIConfig, b.config(diffID))
	manifest := jsonPart(typeOCIManifest, struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        part              `json:"config"`
		Layers        []part            `json:"layers"`
		Annotations   map[string]string `json:"annotations"`
	}{2, typeOCIManifest, config, []part{layer}, b.annotations()})
	manifest.Platform = &b.platform
	if len(im.manifests) == 0 {
		im.first.config, im.first.layer, im.created = config, layer, b.created
	}
	im.manifests = append(im.manifests, manifest)
	im.blobs = append(im.blobs, config, layer)
	return nil
}

// An executable is Berth for one platform.
type executable struct {
	name     string
	file     *os.File
	size     int64
	platform platform
	info     *debug.BuildInfo
	created  time.Time
}

// openBinary opens a file that must be a Berth for Linux that needs nothing else. Without a name it
// is the program that runs.
func openBinary(name string) (*executable, error) {
	path := name
	if name == "" {
		if runtime.GOOS != "linux" {
			return nil, fmt.Errorf("this Berth is for %s, and an image needs one for Linux: name its file after DEST", runtime.GOOS)
		}
		name, path = "this program", "/proc/self/exe" // also where a newer one has been put in its place
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() { // of which a pipe would not even open
		err = fmt.Errorf("%s is not a file", name)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b := &executable{name: name, file: f}
	if err := b.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s %w", name, err)
	}
	return b, nil
}

// read finds out what a file is. Its error goes on after the file's name.
func (b *executable) read() error {
	info, err := b.file.Stat()
	if err != nil {
		return err
	}
	if b.size = info.Size(); b.size > maxBinary {
		return fmt.Errorf("has more than %s: it is not Berth", formatSize(maxBinary))
	}
	b.info, err = buildinfo.Read(b.file)
	if err != nil || b.info.Path != modulePath {
		return errors.New("is not Berth: give the file of a program that was built from its source")
	}
	if system := b.setting("GOOS"); system != "linux" {
		return fmt.Errorf("is Berth for %s; an image needs one for Linux: GOOS=linux CGO_ENABLED=0 go build", system)
	}
	parsed, err := elf.NewFile(b.file)
	if err != nil {
		return fmt.Errorf("cannot be read as a program for Linux: %w", err)
	}
	for _, p := range parsed.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("needs a loader and libraries, which an image FROM scratch does not have: build it with CGO_ENABLED=0, and not as PIE")
		}
	}
	b.platform = platform{Architecture: b.setting("GOARCH"), OS: "linux"}
	switch level := ""; b.platform.Architecture {
	case "arm":
		level, _, _ = strings.Cut(b.setting("GOARM"), ",")
		b.platform.Variant = "v" + cmp.Or(level, "7")
	case "arm64":
		b.platform.Variant = "v8"
	case "amd64": // those that need more than any such machine has
		if level = b.setting("GOAMD64"); level != "v1" {
			b.platform.Variant = level
		}
	}
	b.created, err = time.Parse(time.RFC3339, b.setting("vcs.time"))
	if err != nil {
		b.created = time.Unix(0, 0)
	}
	b.created = b.created.UTC().Truncate(time.Second)
	return nil
}

// setting is how the binary was built, or "".
func (b *executable) setting(key string) string {
	for _, s := range b.info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// annotations say what the image is, in the words of the image specification.
func (b *executable) annotations() map[string]string {
	list := map[string]string{
		"org.opencontainers.image.title":       "berth",
		"org.opencontainers.image.description": "Berth, a container registry in one file",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.source":      sourceURL,
		"org.opencontainers.image.created":     b.created.Format(time.RFC3339),
	}
	if version := strings.Trim(b.info.Main.Version, "()"); version != "" {
		list["org.opencontainers.image.version"] = version
	}
	if revision := b.setting("vcs.revision"); revision != "" {
		list["org.opencontainers.image.revision"] = revision
	}
	return list
}

// An imageConfig is how a container of an image runs. Healthcheck is Docker's; others ignore it.
type imageConfig struct {
	User         string
	ExposedPorts map[string]struct{}
	Env          []string
	Entrypoint   []string
	Volumes      map[string]struct{}
	WorkingDir   string
	Labels       map[string]string
	Healthcheck  *healthcheck
}

// A healthcheck has its times in nanoseconds.
type healthcheck struct {
	Test                                          []string
	Interval, Timeout, StartPeriod, StartInterval time.Duration
	Retries                                       int
}

// config is the image's configuration; diffID is the digest of its layer before compression.
func (b *executable) config(diffID digest.Digest) any {
	type rootFS struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids"`
	}
	type step struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}
	return struct {
		Created time.Time `json:"created"`
		platform
		Config  imageConfig `json:"config"`
		RootFS  rootFS      `json:"rootfs"`
		History []step      `json:"history"`
	}{b.created, b.platform, imageConfig{
		User:         fmt.Sprintf("%d:%d", imageUser, imageUser),
		ExposedPorts: map[string]struct{}{"5000/tcp": {}},
		Env:          []string{"BERTH_DATA=/data"},
		Entrypoint:   []string{"/berth"},
		Volumes:      map[string]struct{}{"/data": {}},
		WorkingDir:   "/",
		Labels:       b.annotations(),
		Healthcheck: &healthcheck{Test: []string{"CMD", "/berth", "ready"}, Interval: 30 * time.Second, Timeout: 10 * time.Second,
			StartPeriod: time.Minute, StartInterval: time.Second, Retries: 3},
	}, rootFS{"layers", []digest.Digest{diffID}}, []step{{b.created, "berth image"}}}
}

// layer returns the layer that holds the binary, and the digest of what is in it.
func (b *executable) layer() (layer part, diffID digest.Digest, err error) {
	packed, plain := digest.SHA256.Digester(), digest.SHA256.Digester()
	size := new(countingWriter)
	if err := b.writeLayer(io.MultiWriter(packed.Hash(), size), plain.Hash()); err != nil {
		return part{}, "", err
	}
	return part{MediaType: typeOCILayer, Digest: packed.Digest(), Size: int64(*size), open: func(offset int64) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(b.writeLayer(w, io.Discard)) }() // ends when the reader does, or closes
		if _, err := io.CopyN(io.Discard, r, offset); err != nil {
			r.Close()
			return nil, err
		}
		return r, nil
	}}, plain.Digest(), nil
}

// writeLayer writes the layer to packed, and before compression to plain.
func (b *executable) writeLayer(packed, plain io.Writer) error {
	z := gzip.NewWriter(packed)
	t := tar.NewWriter(io.MultiWriter(z, plain))
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "berth", Size: b.size, Mode: 0o755, ModTime: b.created, Format: tar.FormatUSTAR})
	if err == nil {
		_, err = io.Copy(t, io.NewSectionReader(b.file, 0, b.size))
	}
	if err == nil {
		// A volume that Docker or Podman makes here has the directory's owner and mode: whichever
		// user runs can begin a registry.
		err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "data/", Mode: 0o777, Uid: imageUser, Gid: imageUser, ModTime: b.created, Format: tar.FormatUSTAR})
	}
	if err == nil {
		err = t.Close()
	}
	if err == nil {
		err = z.Close()
	}
	return err
}

type countingWriter int64

func (n *countingWriter) Write(p []byte) (int, error) {
	*n += countingWriter(len(p))
	return len(p), nil
}

// jsonPart is a value as JSON.
func jsonPart(mediaType string, v any) part {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers, times of commits
	}
	return part{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body)), open: func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(body[offset:])), nil
	}}
}

// bytes reads a small part.
func (p part) bytes() ([]byte, error) {
	r, err := p.open(0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// writeArchive writes the image as a tar of an OCI image layout, under the name berth:latest. The file
// manifest.json is for a Docker before 25, or with its old store of images, which knows one platform: the first.
func (im *ownImage) writeArchive(w io.Writer) error {
	const name = "berth:latest"
	top := im.top
	top.Annotations = map[string]string{
		"io.containerd.image.name":          "docker.io/library/" + name,
		"org.opencontainers.image.ref.name": "latest",
	}
	inside := func(p part) string { return "blobs/" + p.Digest.Algorithm().String() + "/" + p.Digest.Encoded() }
	type named struct {
		name string
		part
	}
	files := []named{
		{"oci-layout", jsonPart("", map[string]string{"imageLayoutVersion": "1.0.0"})},
		{"index.json", jsonPart("", struct {
			SchemaVersion int    `json:"schemaVersion"`
			MediaType     string `json:"mediaType"`
			Manifests     []part `json:"manifests"`
		}{2, typeOCIIndex, []part{top}})},
		{"manifest.json", jsonPart("", []struct {
			Config   string
			RepoTags []string
			Layers   []string
		}{{inside(im.first.config), []string{name}, []string{inside(im.first.layer)}}})},
	}
	parts := slices.Concat([]part{im.top}, im.manifests, im.blobs)
	for i, p := range parts {
		if !slices.ContainsFunc(parts[:i], func(other part) bool { return other.Digest == p.Digest }) {
			files = append(files, named{inside(p), p})
		}
	}
	t := tar.NewWriter(w)
	for _, directory := range []string{"blobs/", "blobs/sha256/"} {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: directory, Mode: 0o755, ModTime: im.created, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
	}
	for _, f := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: f.Size, Mode: int64(fs.FileMode(0o644)), ModTime: im.created, Format: tar.FormatUSTAR}
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		r, err := f.open(0)
		if err != nil {
			return err
		}
		_, err = io.Copy(t, r)
		r.Close()
		if err != nil {
			return err
		}
	}
	return t.Close()
}
