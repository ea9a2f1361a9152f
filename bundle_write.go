// Bundles are written: layouts in directories, and archives in one file or in several volumes.
//
// What comes first is what a reader needs first: oci-layout, index.json and manifest.json, then all manifests, then
// configs and layers. Nothing depends on when or where it is written: times are 0, modes fixed, everything is in the
// order of the images, which is that of their names. So the same images give the same bytes.
//
// A file is written beside its place, under its name and .part, and renamed when it is whole and synced. A layout gets its
// index.json last. Others cannot read what is written, and no mode is changed afterwards: file systems of sticks refuse that.

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// A plannedImage is an image that is to be written, with all that belongs to it.
type plannedImage struct {
	entry part          // of index.json
	saved *savedItem    // of manifest.json; nil for none
	files []plannedFile // manifests first, each before what it refers to
}

// A plannedFile is a file of a bundle.
type plannedFile struct {
	name       string
	repository string // that has it
	digest     digest.Digest
	size       int64
	manifest   bool
	plain      bool // it is decompressed, and size is that after it
}

// A volume is a bundle that is to be written.
type volume struct {
	images []plannedImage
	files  []plannedFile // each once
	number string        // 2/5/SET; "" if there is only one
}

// tarSize is what a file takes in a tar, with its header.
func tarSize(size int64) int64 {
	const block = 512
	return 2*block + (size+block-1)/block*block // one more than the header, for names that need it
}

// entrySize is more than an image adds to index.json and manifest.json.
func (im *plannedImage) entrySize() int64 {
	text, _ := json.Marshal(im.entry) // of strings and numbers
	n := len(text) + 100
	if im.saved != nil {
		text, _ = json.Marshal(im.saved)
		n += len(text) + 100
	}
	return int64(n)
}

// inOne puts all images into one volume.
func inOne(images []plannedImage) volume {
	v := volume{images: images}
	seen := make(map[string]bool)
	for _, manifests := range []bool{true, false} {
		for _, im := range images {
			for _, f := range im.files {
				if f.manifest == manifests && !seen[f.name] {
					seen[f.name] = true
					v.files = append(v.files, f)
				}
			}
		}
	}
	return v
}

// volumeStart is more than a volume has beside files: the end of the tar, and what every index.json has.
const volumeStart = 64 << 10

// intoVolumes spreads images over volumes of at most limit bytes, in order. A volume lists the images of which it has
// content, and has all their manifests; each blob is in one volume.
func intoVolumes(images []plannedImage, limit int64) ([]volume, error) {
	var volumes []volume
	var in []plannedImage // of the current volume; with what it gets
	var used int64 = volumeStart
	written := make(map[string]bool) // blobs, by name
	here := make(map[string]bool)    // manifests of the current volume
	next := func() {
		if in != nil {
			volumes = append(volumes, inOne(in))
		}
		in, used = nil, volumeStart
		clear(here)
	}
	// begin lists an image in the current volume, or the next.
	begin := func(im plannedImage) error {
		for again := false; ; again = true {
			need := im.entrySize()
			for _, f := range im.files {
				if f.manifest && !here[f.name] {
					need += tarSize(f.size)
				}
			}
			if used+need <= limit {
				used += need
				part := plannedImage{entry: im.entry, saved: im.saved}
				for _, f := range im.files {
					if f.manifest {
						here[f.name] = true
						part.files = append(part.files, f)
					}
				}
				in = append(in, part)
				return nil
			}
			if again {
				return fmt.Errorf("the manifests of one image have %s, and do not fit in a volume of %s; make --split larger", formatSize(need), formatSize(limit+1))
			}
			next()
		}
	}
	for _, im := range images {
		if err := begin(im); err != nil {
			return nil, err
		}
		for _, f := range im.files {
			if f.manifest || written[f.name] {
				continue
			}
			if used+tarSize(f.size) > limit {
				next()
				if err := begin(im); err != nil {
					return nil, err
				}
			}
			if used+tarSize(f.size) > limit {
				return nil, fmt.Errorf("%s has %s, and a file is never cut in two: it does not fit in a volume of %s. Make --split larger, or use a file system without such a limit (exFAT, ext4)",
					f.digest, formatSize(f.size), formatSize(limit+1))
			}
			written[f.name] = true
			used += tarSize(f.size)
			last := &in[len(in)-1]
			last.files = append(last.files, f)
		}
	}
	next()
	set := sha256.New() // which set of volumes it is
	for _, im := range images {
		io.WriteString(set, im.entry.Digest.String())
	}
	for i := range volumes {
		volumes[i].number = fmt.Sprintf("%d/%d/%x", i+1, len(volumes), set.Sum(nil)[:4])
	}
	return volumes, nil
}

// listings are the files that say what a volume has, in order. A layout has an index.json; what is for Docker alone has not.
func (v *volume) listings(layout bool) (list []namedBytes, err error) {
	if layout {
		index := struct {
			SchemaVersion int               `json:"schemaVersion"`
			MediaType     string            `json:"mediaType"`
			Manifests     []part            `json:"manifests"`
			Annotations   map[string]string `json:"annotations,omitempty"`
		}{2, typeOCIIndex, []part{}, nil}
		if v.number != "" {
			index.Annotations = map[string]string{volumeAnnotation: v.number}
		}
		for _, im := range v.images {
			index.Manifests = append(index.Manifests, im.entry)
		}
		text, err := json.Marshal(index)
		if err != nil {
			return nil, err
		}
		list = append(list, namedBytes{layoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`)}, namedBytes{indexFile, text})
	}
	if saved := v.saved(); saved != nil {
		text, err := json.Marshal(saved)
		if err != nil {
			return nil, err
		}
		list = append(list, namedBytes{manifestFile, text})
	}
	return list, nil
}

// saved are the items of manifest.json: the images that a Docker of old can read, if all of their files are here.
func (v *volume) saved() (items []*savedItem) {
	if v.number != "" {
		return nil // it would have to name files of other volumes
	}
	for _, im := range v.images {
		if im.saved == nil {
			continue
		}
		i := slices.IndexFunc(items, func(x *savedItem) bool { return x.Config == im.saved.Config && slices.Equal(x.Layers, im.saved.Layers) })
		if i < 0 {
			copied := *im.saved
			copied.RepoTags = slices.Clone(copied.RepoTags)
			items = append(items, &copied)
		} else {
			items[i].RepoTags = append(items[i].RepoTags, im.saved.RepoTags...)
		}
	}
	return items
}

type namedBytes struct {
	name string
	body []byte
}

// A bundleWriter takes the files of a bundle in order. After an error, and in any case at the end, it is closed: what has
// not been finished is not there then.
type bundleWriter interface {
	listing(namedBytes) error
	add(name string, size int64, open func() (io.ReadCloser, error)) error
	finish() error
	close() error
}

// A tarWriter writes an archive.
type tarWriter struct {
	tar   *tar.Writer
	zstd  *zstd.Encoder // nil if it is not compressed
	file  *os.File      // nil if it goes elsewhere
	path  string        // what the file is to be called
	count *countedWriter
	dirs  map[string]bool
	buf   []byte
}

// partOf is what a file is called until it is whole.
func partOf(path string) string { return path + ".part" }

// newTarWriter writes an archive to w, or if that is nil to a file.
func newTarWriter(name string, w io.Writer, compressed bool) (_ *tarWriter, err error) {
	t := &tarWriter{path: name, dirs: make(map[string]bool), buf: make([]byte, 256<<10)}
	if w == nil {
		if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is not a file; name another one", name)
		}
		if t.file, err = os.OpenFile(partOf(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|noFollow, 0o600); err != nil {
			return nil, err
		}
		w = t.file
	}
	t.count = &countedWriter{Writer: w, file: t.file != nil}
	w = t.count
	if compressed {
		// Most of it is compressed already. A small window keeps memory small, here and where it is read.
		t.zstd, err = zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		if err != nil {
			return nil, errors.Join(err, t.close())
		}
		w = t.zstd
	}
	t.tar = tar.NewWriter(w)
	return t, nil
}

type countedWriter struct {
	io.Writer
	n     int64
	file  bool  // and no pipe
	begun int64 // of n, what is being written back
}

func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.n += int64(n)
	if f, ok := w.Writer.(*os.File); ok && w.n-w.begun >= writeBackEvery && w.file {
		startWriteback(f, w.begun, w.n-w.begun) // so that the sync at the end is short
		w.begun = w.n
	}
	return n, err
}

// writeBackEvery bytes the system begins to write what it has been given.
const writeBackEvery = 8 << 20

func (t *tarWriter) listing(f namedBytes) error {
	return t.add(f.name, int64(len(f.body)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(f.body)), nil })
}

func (t *tarWriter) add(name string, size int64, open func() (io.ReadCloser, error)) error {
	if err := t.addDirs(path.Dir(name)); err != nil {
		return err
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{t.tar}, r, t.buf)
	if errors.Is(err, tar.ErrWriteTooLong) || err == nil && n != size {
		return fmt.Errorf("%s has another size than it should have, %d", name, size)
	}
	return err
}

// addDirs has an entry for each directory before what is in it.
func (t *tarWriter) addDirs(dir string) error {
	if dir == "." || t.dirs[dir] {
		return nil
	}
	t.dirs[dir] = true
	if err := t.addDirs(path.Dir(dir)); err != nil {
		return err
	}
	return t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0)})
}

func (t *tarWriter) finish() error {
	err := t.tar.Close()
	if err == nil && t.zstd != nil {
		err = t.zstd.Close()
	}
	if err != nil || t.file == nil {
		return err
	}
	if err = syncData(t.file); err == nil {
		err = t.file.Close()
	}
	if err == nil {
		err = os.Rename(partOf(t.path), t.path)
	}
	if err == nil {
		t.file = nil
		err = syncDir(filepath.Dir(t.path))
	}
	return err
}

func (t *tarWriter) close() error {
	if t.zstd != nil {
		t.zstd.Close() // frees what it has; twice does nothing
	}
	if t.file == nil {
		return nil
	}
	t.file.Close()
	return os.Remove(partOf(t.path))
}

// A layoutWriter adds to a layout in a directory.
type layoutWriter struct {
	dir     string
	index   []byte // to be written at the end
	changed map[string]bool
	buf     []byte
}

// newLayoutWriter makes the directory, unless it is there. What is in it must be a layout, or nothing.
func newLayoutWriter(dir string) (*layoutWriter, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	w := &layoutWriter{dir: dir, changed: make(map[string]bool), buf: make([]byte, 256<<10)}
	known := func(e fs.DirEntry) bool {
		return slices.Contains([]string{layoutFile, indexFile, "blobs", partOf(layoutFile), partOf(indexFile)}, e.Name())
	}
	if len(names) > 0 && !slices.ContainsFunc(names, known) {
		return nil, fmt.Errorf("%s is not empty, and is no image layout; name a directory that does not exist, or a file that ends in .tar", dir)
	}
	return w, nil
}

func (w *layoutWriter) listing(f namedBytes) error {
	switch f.name {
	case indexFile:
		w.index = f.body
		return nil
	case layoutFile:
		return w.add(f.name, int64(len(f.body)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(f.body)), nil })
	}
	return nil // a layout needs no manifest.json
}

// add writes a file, unless it is there with that size: it was whole when it got its name.
func (w *layoutWriter) add(name string, size int64, open func() (io.ReadCloser, error)) error {
	file := filepath.Join(w.dir, filepath.FromSlash(name))
	if info, err := os.Lstat(file); err == nil && info.Mode().IsRegular() && info.Size() == size {
		return nil
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	return w.write(file, r, size)
}

// write writes a file of that size; -1 is any.
func (w *layoutWriter) write(file string, r io.Reader, size int64) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(partOf(file), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|noFollow, 0o600)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, r, w.buf)
	if err == nil && size >= 0 && n != size {
		err = fmt.Errorf("%s has %d bytes, and should have %d", file, n, size)
	}
	if err == nil {
		err = syncData(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(partOf(file), file)
	}
	if err != nil {
		os.Remove(partOf(file))
		return err
	}
	w.changed[filepath.Dir(file)] = true
	return nil
}

// finish adds the images to index.json.
func (w *layoutWriter) finish() error {
	for _, dir := range slices.Sorted(maps.Keys(w.changed)) {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	file := filepath.Join(w.dir, indexFile)
	was, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := w.index
	if err == nil {
		if text, err = mergeIndexes(was, w.index); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	if bytes.Equal(text, was) {
		return nil
	}
	if err := w.write(file, bytes.NewReader(text), -1); err != nil {
		return err
	}
	return syncDir(w.dir)
}

func (w *layoutWriter) close() error { return nil }

// mergeIndexes adds the entries of an index.json to those of another, which stay as they are but for those of the same name
// or, if neither has one, of the same digest.
func mergeIndexes(was, more []byte) ([]byte, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(was, &doc); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	var old, added []json.RawMessage
	if raw := doc["manifests"]; raw != nil {
		if err := json.Unmarshal(raw, &old); err != nil {
			return nil, fmt.Errorf("it is damaged: %w", err)
		}
	}
	var ours struct{ Manifests []json.RawMessage }
	if err := json.Unmarshal(more, &ours); err != nil {
		return nil, err
	}
	added = ours.Manifests
	key := func(raw json.RawMessage) string {
		var p part
		json.Unmarshal(raw, &p) // what cannot be read stays
		for _, name := range []string{p.Annotations[nameAnnotation], p.Annotations[refAnnotation]} {
			if name != "" {
				return name
			}
		}
		return p.Digest.String()
	}
	replaced := make(map[string]bool)
	for _, raw := range added {
		replaced[key(raw)] = true
	}
	kept := slices.DeleteFunc(old, func(raw json.RawMessage) bool { return replaced[key(raw)] })
	text, err := json.Marshal(append(kept, added...))
	if err != nil {
		return nil, err
	}
	doc["manifests"] = text
	if doc["schemaVersion"] == nil {
		doc["schemaVersion"] = json.RawMessage("2")
	}
	return json.Marshal(doc)
}

// volumePath is where a volume of an archive goes: app.001.tar.
func volumePath(file string, i int) string {
	for _, suffix := range []string{".tar.zst", ".tar"} {
		if base, ok := strings.CutSuffix(file, suffix); ok {
			return fmt.Sprintf("%s.%03d%s", base, i+1, suffix)
		}
	}
	return fmt.Sprintf("%s.%03d", file, i+1)
}
