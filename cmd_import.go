// `berth import`: images come from layouts, archives and pipes.
//
// Each image is brought as a client would push it: its blobs, the members of its index, then the manifest by its
// digest, and its tags last. So nothing is seen of an image before it is whole and verified. What is there already is only looked
// at; an import that was cut short is continued by the next.
//
// What can be read only once, a pipe or a compressed archive, brings its blobs before it says what they are. They go to
// a repository that nobody sees (staging), from which the images' repositories take them. What no image takes is collected
// like any blob without a manifest.
//
// cmd_import_image.go has what is done with one image.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// checkImportCommand refuses flags that cannot be right.
func checkImportCommand(cfg *config) error {
	if cfg.As != "" {
		if _, ref, err := parseArgument(cfg.As); err != nil {
			return fmt.Errorf("--as: %w", err)
		} else if ref.digest != "" {
			return errors.New("--as: give NAME:TAG, or NAME; a digest comes with the image")
		}
		if cfg.bundle.prefix != "" {
			return errors.New("--as names all of it: leave out --prefix")
		}
	}
	if cfg.bundle.prefix != "" {
		if _, err := parseName(strings.TrimSuffix(cfg.bundle.prefix, "/")); err != nil {
			return fmt.Errorf("--prefix: %w", err)
		}
	}
	if i := slices.Index(cfg.Args, "-"); i >= 0 && slices.Contains(cfg.Args[i+1:], "-") {
		return errors.New("import: - is standard input, which there is once")
	}
	return nil
}

// importCommand is `berth import`.
func importCommand(ctx context.Context, cfg *config, stdin io.Reader, stdout io.Writer) error {
	im := &importer{flags: cfg.bundle, as: cfg.As, dryRun: cfg.DryRun, out: cfg.console(stdout), stdin: stdin}
	for _, name := range cfg.Args {
		if name == "-" && isTerminal(stdin) {
			return errors.New("- is standard input, and that is a terminal: redirect an archive to it, as in docker save app | berth import -")
		}
	}
	return cfg.askLocally(ctx, func(c *client) error {
		im.c = c
		defer im.end()
		if err := im.openAll(ctx, cfg.Args); err != nil {
			return err
		}
		if err := im.all(ctx); err != nil {
			return err
		}
		return im.tell()
	})
}

// An importer carries images from bundles to a registry.
type importer struct {
	c      *client
	flags  bundleFlags
	as     string
	dryRun bool
	out    *console
	stdin  io.Reader

	sources  []*source
	progress *progress
	mu       sync.Mutex // guards progress and told
	told     map[string]bool

	has      map[held]bool              // what a repository is known to have, by now
	from     map[digest.Digest][]string // the repositories that have a manifest
	saved    map[*savedItem]*savedImage // made of what archives of Docker have
	takes    map[string]digest.Digest   // the tags of this import
	results  []importedImage
	volumes  map[string]bool // that are here, as 2/5/1a2b3c4d
	received int64
}

type held struct {
	repository string
	digest     digest.Digest
}

// A source is a bundle with what it says it has.
type source struct {
	bundle
	name string
	*listing
}

func (im *importer) end() {
	for _, s := range im.sources {
		s.close()
	}
}

// staging is the repository for blobs of which it is not yet known whose they are. It never has a manifest, and
// so is in no list.
const staging = "berth-import"

// openAll opens what there is to import, and reads what each says it has.
func (im *importer) openAll(ctx context.Context, names []string) error {
	im.told, im.has, im.from = make(map[string]bool), make(map[held]bool), make(map[digest.Digest][]string)
	im.saved, im.takes, im.volumes = make(map[*savedItem]*savedImage), make(map[string]digest.Digest), make(map[string]bool)
	var total int64
	var all []*opened
	defer func() {
		for _, o := range all {
			if o.arrival != nil {
				o.end()
			}
		}
	}()
	for _, name := range names {
		o, err := openBundle(name, im.stdin, im.moved)
		if err != nil {
			return fmt.Errorf("%s: %w", nameOfSource(name), err)
		}
		all = append(all, o)
		total += o.total
		if o.bundle != nil {
			im.sources = append(im.sources, &source{bundle: o.bundle, name: name})
		}
	}
	im.progress = im.out.progress("importing", total)
	defer im.progress.end()
	for i, o := range all {
		s := &source{bundle: o.bundle, name: names[i]}
		var err error
		if o.arrival != nil {
			s, err = im.receive(ctx, o.arrival, names[i])
			if err == nil {
				im.sources = append(im.sources, s)
			}
		} else {
			s = im.sources[slices.IndexFunc(im.sources, func(x *source) bool { return x.bundle == o.bundle })]
			s.listing, err = readListing(o.bundle)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", nameOfSource(names[i]), err)
		}
		if s.volume != "" {
			im.volumes[s.volume] = true
		}
	}
	return nil
}

func nameOfSource(name string) string {
	if name == "-" {
		return "standard input"
	}
	return name
}

// moved tells that bytes of an arrival have come, or that bytes of a bundle need not be moved any more.
func (im *importer) moved(n int64) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.progress != nil {
		im.progress.add(n)
	}
}

// readListing reads what a bundle says it has. index.json counts where there is a manifest.json, too.
func readListing(b bundle) (*listing, error) {
	for _, file := range []string{indexFile, manifestFile} {
		r, err := b.open(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer r.Close()
		if file == indexFile {
			return parseIndexFile(r)
		}
		return parseManifestFile(r)
	}
	return nil, errors.New("it has neither an index.json nor a manifest.json: it is no archive of images")
}

// maxRemembered bounds what is kept in memory of arrivals, in bytes: configs and manifests, which are read again.
const maxRemembered = 16 << 20

// An arrivedBundle is what has been read once. Its files are in memory if they are small, and else in the staging repository.
type arrivedBundle struct {
	*entries
	im      *importer
	ctx     context.Context
	digests map[string]digest.Digest // by name, of what was sent
	kept    map[string][]byte
}

func (b *arrivedBundle) open(name string) (io.ReadCloser, error) {
	target, err := b.target(name)
	if err != nil {
		return nil, err
	}
	if body, ok := b.kept[target]; ok {
		return io.NopCloser(bytes.NewReader(body)), nil
	}
	d, ok := b.digests[target]
	if !ok && b.im.dryRun {
		return nil, fmt.Errorf("--dry-run keeps no more than %d MiB of an archive that can be read only once; name an archive in a file, not compressed", maxRemembered>>20)
	}
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	r, _, err := b.im.c.getBlob(b.ctx, staging, d)
	return r, err
}

func (b *arrivedBundle) size(name string) (int64, error) {
	e, err := b.find(name)
	return e.size, err
}

func (b *arrivedBundle) close() error { return nil }

// target is the name of the file that a name leads to.
func (b *arrivedBundle) target(name string) (string, error) {
	if _, err := b.find(name); err != nil {
		return "", err
	}
	for b.byName[name].link != "" {
		name = b.byName[name].link
	}
	return name, nil
}

// isLegacy reports whether a file of docker's archives is for versions from before manifest.json.
func isLegacy(name string) bool {
	return name == "repositories" || strings.HasSuffix(name, "/json") || strings.HasSuffix(name, "/VERSION")
}

// receive reads an archive to its end, and sends what may be a blob.
func (im *importer) receive(ctx context.Context, a *arrival, name string) (*source, error) {
	b := &arrivedBundle{entries: &a.entries, im: im, ctx: ctx, digests: make(map[string]digest.Digest), kept: make(map[string][]byte)}
	var index, saved *listing
	kept := int64(0)
	err := a.each(func(file string, size int64, r io.Reader) (err error) {
		if ctx.Err() != nil {
			return errInterrupted
		}
		switch {
		case file == indexFile:
			index, err = parseIndexFile(r)
			return err
		case file == manifestFile:
			saved, err = parseManifestFile(r)
			return err
		case file == layoutFile, isLegacy(file):
			return nil
		}
		if size <= maxManifest && kept+size <= maxRemembered {
			head := make([]byte, min(size, 1))
			if _, err := io.ReadFull(r, head); err != nil {
				return tarProblem(err)
			}
			r = io.MultiReader(bytes.NewReader(head), r)
			if bytes.HasPrefix(head, []byte("{")) {
				body, err := io.ReadAll(r)
				if err != nil {
					return tarProblem(err)
				}
				b.kept[file] = body
				kept += size
				r = bytes.NewReader(body)
			}
		}
		if im.dryRun {
			return nil
		}
		b.digests[file], err = im.stage(ctx, file, size, r)
		return err
	})
	if ctx.Err() != nil {
		return nil, errInterrupted
	}
	if err != nil {
		return nil, err
	}
	s := &source{bundle: b, name: name, listing: index}
	if index == nil {
		s.listing = saved
	}
	if s.listing == nil {
		return nil, errors.New("it has neither an index.json nor a manifest.json: it is no archive of images")
	}
	return s, nil
}

// errInterrupted is the end of an import that a person has ended.
var errInterrupted = errors.New("interrupted. What has come stays for a while: the same import again continues")

// smallFile is the size up to which files are held in memory, to know their digests before they are sent.
const smallFile = 64 << 10

// stage sends a file of an arrival to the staging repository, unless the registry has it. It returns its digest.
func (im *importer) stage(ctx context.Context, file string, size int64, r io.Reader) (digest.Digest, error) {
	d, known := digestOfFile(file)
	if !known && size <= smallFile {
		small, err := io.ReadAll(r)
		if err != nil {
			return "", tarProblem(err)
		}
		d, known, r = digest.FromBytes(small), true, bytes.NewReader(small)
	}
	body := &exactly{r: r, left: size}
	if !known {
		d, err := im.c.streamBlob(ctx, staging, size, body)
		if err == nil {
			im.received += size
		}
		return d, body.blame(err)
	}
	if has, err := im.ready(ctx, staging, d); err != nil || has {
		return d, err
	}
	err := body.blame(im.c.putBlob(ctx, staging, d, size, body))
	if isWrongDigest(err) {
		return "", fmt.Errorf("%s is damaged: its bytes are not those of its name", file)
	}
	if err == nil {
		im.received += size
		im.note(staging, d)
	}
	return d, err
}

// isWrongDigest reports whether the registry has found other bytes than a blob's digest says.
func isWrongDigest(err error) bool {
	var e *remoteError
	return errors.As(err, &e) && e.code == errDigestInvalid.code
}

// An exactly reads left bytes, and an end before that is unexpected.
type exactly struct {
	r      io.Reader
	left   int64
	failed error // of r
}

// blame is the error of the request whose body this was: what was wrong with the body, if it was that.
func (x *exactly) blame(err error) error {
	if err != nil && x.failed != nil {
		return tarProblem(x.failed)
	}
	return err
}

func (x *exactly) Read(p []byte) (int, error) {
	if x.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > x.left {
		p = p[:x.left]
	}
	n, err := x.r.Read(p)
	if x.left -= int64(n); x.left == 0 {
		return n, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		x.failed = err
	}
	return n, err
}

// ready makes sure that a repository has a blob, as far as that needs no bytes: it has it, or another one has. A dry run
// only looks.
func (im *importer) ready(ctx context.Context, repository string, d digest.Digest) (bool, error) {
	if im.knows(repository, d) {
		return true, nil
	}
	_, err := im.c.headBlob(ctx, repository, d)
	ok := err == nil
	if isRemote(err, 404) {
		ok, err = false, nil
		if !im.dryRun {
			ok, err = im.c.mountAny(ctx, repository, d)
		}
	}
	if ok {
		im.note(repository, d)
	}
	return ok, err
}

func (im *importer) knows(repository string, d digest.Digest) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.has[held{repository, d}]
}

func (im *importer) note(repository string, d digest.Digest) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.has[held{repository, d}] = true
}

// find returns a source that has a file; nil for none.
func (im *importer) find(name string) *source {
	for _, s := range im.sources {
		if _, err := s.size(name); err == nil {
			return s
		}
	}
	return nil
}

// lacksVolumes reports whether sources are volumes of which others are not here.
func (im *importer) lacksVolumes() bool {
	for v := range im.volumes {
		var n, of int
		var set string
		if _, err := fmt.Sscanf(v, "%d/%d/%s", &n, &of, &set); err != nil || of > maxEntries {
			continue
		}
		for i := range of {
			if !im.volumes[fmt.Sprintf("%d/%d/%s", i+1, of, set)] {
				return true
			}
		}
	}
	return false
}
