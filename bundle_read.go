// Bundles are opened: directories, archives in files, archives that arrive.
//
// A directory and a plain archive in a file are read at any place; of the archive first the headers alone. A compressed
// archive, or one from a pipe, is read once, from beginning to end, and each file is handed on as it comes.

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// A bundle can be read by the names of its files. Names are clean, with slashes, and lead nowhere else.
type bundle interface {
	// open opens a file; fs.ErrNotExist if there is none.
	open(name string) (io.ReadCloser, error)
	// size is a file's size in bytes; fs.ErrNotExist if there is none.
	size(name string) (int64, error)
	close() error
}

// A dirBundle is a directory. The root refuses links that lead out of it.
type dirBundle struct{ root *os.Root }

func (b dirBundle) open(name string) (io.ReadCloser, error) {
	info, err := b.root.Stat(name) // opening a pipe would wait
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", name)
	}
	return b.root.Open(name)
}

func (b dirBundle) size(name string) (int64, error) {
	info, err := b.root.Stat(name)
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is not a file", name)
	}
	return info.Size(), nil
}

func (b dirBundle) close() error { return b.root.Close() }

// A tarBundle is an archive in a file that is not compressed.
type tarBundle struct {
	file *os.File
	entries
}

func (b *tarBundle) open(name string) (io.ReadCloser, error) {
	e, err := b.find(name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.NewSectionReader(b.file, e.offset, e.size)), nil
}

func (b *tarBundle) size(name string) (int64, error) {
	e, err := b.find(name)
	return e.size, err
}

func (b *tarBundle) close() error { return b.file.Close() }

// entries are the files of an archive, by name.
type entries struct {
	byName map[string]tarEntry
	names  int // bytes of all names and links
	count  int
}

// A tarEntry is a file of an archive, or a link to another one.
type tarEntry struct {
	offset, size int64
	link         string // "" for a file
}

// find follows links, of which there may be a few in a row.
func (x *entries) find(name string) (tarEntry, error) {
	for range 10 {
		e, ok := x.byName[name]
		if !ok {
			return e, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		if e.link == "" {
			return e, nil
		}
		name = e.link
	}
	return tarEntry{}, fmt.Errorf("%s leads through too many links", name)
}

// errHostile is behind the errors of archives that no tool writes.
var errHostile = errors.New("this archive is not taken")

func hostile(format string, args ...any) error {
	return plainError{fmt.Sprintf(format, args...), errHostile}
}

// cleanName is an entry's name as the rest of Berth has it; "" for the archive's own directory.
func cleanName(name string) (string, error) {
	clean := path.Clean(strings.TrimSuffix(name, "/"))
	if path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsAny(clean, "\\\x00") {
		return "", hostile("the archive has an entry that leads out of it: %.100q", name)
	}
	if clean == "." {
		return "", nil
	}
	return clean, nil
}

// note takes down the entry that a header begins, whose bytes are at offset. It returns its name if it is a file, "" else.
func (x *entries) note(h *tar.Header, offset int64) (name string, err error) {
	if x.count++; x.count > maxEntries {
		return "", hostile("the archive has more than %d entries", maxEntries)
	}
	if x.names += len(h.Name) + len(h.Linkname); x.names > maxNames {
		return "", hostile("the names in the archive have more than %d MiB", maxNames>>20)
	}
	if name, err = cleanName(h.Name); err != nil {
		return "", err
	}
	e := tarEntry{offset: offset, size: h.Size}
	switch h.Typeflag {
	case tar.TypeReg:
		for key := range h.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return "", hostile("the archive has a sparse file, %.100q, which no tool writes for images", h.Name)
			}
		}
	case tar.TypeSymlink:
		e.size = 0
		if e.link, err = cleanName(path.Join(path.Dir(name), h.Linkname)); path.IsAbs(h.Linkname) {
			err = hostile("the archive has a link that leads out of it: %.100q", h.Name)
		}
	case tar.TypeLink:
		e.size = 0
		e.link, err = cleanName(h.Linkname)
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return "", nil
	default:
		return "", hostile("the archive has an entry, %.100q, that is no file, directory or link", h.Name)
	}
	if err != nil {
		return "", err
	}
	if name == "" || name == e.link {
		return "", hostile("the archive has an entry without a name, or a link to itself: %.100q", h.Name)
	}
	if _, twice := x.byName[name]; twice && (name == indexFile || name == manifestFile || name == layoutFile) {
		return "", hostile("the archive has %s twice", name)
	}
	if x.byName == nil {
		x.byName = make(map[string]tarEntry)
	}
	x.byName[name] = e
	if e.link != "" {
		return "", nil
	}
	return name, nil
}

// readHeaders reads the headers of an archive in a file.
func readHeaders(f *os.File) (*tarBundle, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := &tarBundle{file: f}
	t := tar.NewReader(f)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, tarProblem(err)
		}
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg && h.Size > info.Size()-offset {
			return nil, tarProblem(io.ErrUnexpectedEOF)
		}
		if _, err := b.note(h, offset); err != nil {
			return nil, err
		}
	}
}

// tarProblem says what an error of an archive means.
func tarProblem(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return plainError{"the archive ends too early: it was not copied completely", err}
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong), errors.Is(err, tar.ErrInsecurePath):
		return plainError{"it is not a tar archive, or is damaged", err}
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader), errors.Is(err, zstd.ErrCRCMismatch), errors.Is(err, zstd.ErrMagicMismatch):
		return plainError{"the compressed archive is damaged", err}
	}
	return err
}

// An arrival is an archive that is read once.
type arrival struct {
	entries
	tar *tar.Reader
}

// each calls fn with every file, as it comes. fn need not read all of it.
func (a *arrival) each(fn func(name string, size int64, r io.Reader) error) error {
	for {
		h, err := a.tar.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return tarProblem(err)
		}
		name, err := a.note(h, 0)
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		if err := fn(name, h.Size, a.tar); err != nil {
			return err
		}
	}
}

// A compression is how an archive, or a layer, is packed.
type compression int

const (
	plainTar compression = iota
	gzipped
	zstandard
	bzipped
	notTar // or empty
)

// tarMagic is at offset 257 of a tar.
const tarMagic = "ustar"

// sniff tells a compression by the first bytes, of which there should be 512 if there are so many.
func sniff(head []byte) compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipped
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) > 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return zstandard
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzipped
	case len(head) >= 512 && (string(head[257:262]) == tarMagic || len(bytes.Trim(head[:512], "\x00")) == 0 || oldTar(head)):
		return plainTar
	}
	return notTar
}

// oldTar reports whether a block is a header of tar from before there was a magic.
func oldTar(head []byte) bool {
	_, err := tar.NewReader(io.MultiReader(bytes.NewReader(head[:512]), bytes.NewReader(make([]byte, 1024)))).Next()
	return err == nil
}

// unpack returns what r has before compression. It closes nothing of r.
func unpack(r io.Reader, c compression) (io.ReadCloser, error) {
	switch c {
	case gzipped:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, tarProblem(err)
		}
		return z, nil
	case zstandard:
		// The window of zstd -19 and less has 8 MiB; of --ultra and --long more, which is not worth the memory.
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(16<<20), zstd.WithDecoderMaxMemory(1<<62))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bzipped:
		return io.NopCloser(bzip2.NewReader(r)), nil
	}
	return io.NopCloser(r), nil
}

// An opened bundle is one of the two.
type opened struct {
	bundle            // nil for
	arrival *arrival  // what can be read only once
	closer  io.Closer // of the latter; may be nil
	total   int64     // bytes in all, as far as that is known; else 0
}

func (o *opened) end() {
	if o.bundle != nil {
		o.bundle.close()
	}
	if o.closer != nil {
		o.closer.Close()
	}
}

// openBundle opens a directory, a file, or, named -, what stdin brings. read is told how many bytes of an arrival
// have been read.
func openBundle(name string, stdin io.Reader, read func(int64)) (*opened, error) {
	if name == "-" {
		return openArrival(stdin, nil, read)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(name)
		if err != nil {
			return nil, err
		}
		o := &opened{bundle: dirBundle{root}}
		for _, file := range []string{indexFile, manifestFile} {
			if _, err := root.Stat(file); err == nil {
				return o, nil
			}
		}
		o.end()
		return nil, errors.New("the directory has neither an index.json nor a manifest.json: it is no image layout")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	o, err := openArchive(f, info, read)
	if err != nil {
		f.Close()
		return nil, err
	}
	return o, nil
}

// openArchive opens an archive in a file, or a pipe that has a name.
func openArchive(f *os.File, info fs.FileInfo, read func(int64)) (*opened, error) {
	if !info.Mode().IsRegular() {
		return openArrival(f, f, read)
	}
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if sniff(head[:n]) == plainTar {
		b, err := readHeaders(f)
		if err != nil {
			return nil, err
		}
		return &opened{bundle: b, total: info.Size()}, nil
	}
	o, err := openArrival(f, f, read)
	if err == nil {
		o.total = info.Size()
	}
	return o, err
}

// openArrival begins to read an archive once.
func openArrival(r io.Reader, closer io.Closer, read func(int64)) (*opened, error) {
	b := bufio.NewReaderSize(countedReader{r, read}, 256<<10)
	head, err := b.Peek(512)
	if err != nil && err != io.EOF {
		return nil, err
	}
	packed := sniff(head)
	switch {
	case len(head) == 0:
		return nil, errors.New("it is empty")
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, errors.New("it is compressed with xz, which Berth does not read: xz -dc FILE | berth import -")
	case packed == notTar:
		return nil, errors.New("it is neither a tar archive nor one compressed with gzip, zstd or bzip2")
	}
	unpacked, err := unpack(b, packed)
	if err != nil {
		return nil, err
	}
	return &opened{arrival: &arrival{tar: tar.NewReader(unpacked)}, closer: closers{unpacked, closer}}, nil
}

// closers are closed one after the other; nil ones are not.
type closers []io.Closer

func (list closers) Close() (err error) {
	for _, c := range list {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// A countedReader tells how much is read.
type countedReader struct {
	io.Reader
	read func(int64)
}

func (r countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.read != nil {
		r.read(int64(n))
	}
	return n, err
}

// readWhole reads a file of a bundle of at most limit bytes.
func readWhole(b bundle, name string, limit int64) ([]byte, error) {
	size, err := b.size(name)
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s has %s, at most %s are read", name, formatSize(size), formatSize(limit))
	}
	r, err := b.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("%s has grown meanwhile", name)
	}
	return body, err
}
