// `berth export`: images go to a layout, an archive, several volumes, or a pipe.
//
// First everything is planned: the manifests are read, and each blob is asked for, so that nothing is written of an image
// that is not whole here. Then it is written in one go; every byte is verified while it is read.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// bundleFlags are those of export and import.
type bundleFlags struct {
	all         bool
	format      string
	host        string
	platforms   string
	noReferrers bool
	split       string
	prefix      string
}

// exportFormats are what --format may be.
const (
	formatOCI    = "oci"
	formatDocker = "docker"
)

// checkExportCommand refuses what is no image, and what contradicts the destination.
func checkExportCommand(cfg *config) error {
	dest, images := cfg.Args[0], cfg.Args[1:]
	if cfg.bundle.all == (len(images) > 0) {
		return errors.New("export: name the images, or give --all")
	}
	if _, err := parseWanted(images); err != nil {
		return err
	}
	if _, err := parsePlatforms(cfg.bundle.platforms); err != nil {
		return err
	}
	if cfg.bundle.format != formatOCI && cfg.bundle.format != formatDocker {
		return fmt.Errorf("--format: say oci or docker, not %q", cfg.bundle.format)
	}
	for _, suffix := range []string{".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip"} {
		if strings.HasSuffix(dest, suffix) {
			return fmt.Errorf("%s: Berth writes .tar and .tar.zst; the layers are compressed already", dest)
		}
	}
	archive := isArchive(dest)
	if !archive && cfg.bundle.format == formatDocker {
		return fmt.Errorf("%s: an archive for docker load is a file; let its name end in .tar, or write - for standard output", dest)
	}
	if cfg.bundle.host != "" && registryHost(cfg.bundle.host, "") == "" {
		return fmt.Errorf("--host: %q is not HOST or HOST:PORT", cfg.bundle.host)
	}
	if dest == "-" && cfg.JSON {
		return errors.New("--json has no place to write to when the images go to standard output")
	}
	if cfg.bundle.split == "" {
		return nil
	}
	limit, err := parseSize(cfg.bundle.split)
	switch {
	case err != nil:
		return fmt.Errorf("--split: %w", err)
	case limit < minSplit:
		return fmt.Errorf("--split: %s is too little; give %s or more", cfg.bundle.split, formatSize(minSplit))
	case !archive || dest == "-":
		return errors.New("--split is for an archive in files: let the name end in .tar or .tar.zst")
	case cfg.bundle.format == formatDocker:
		return errors.New("--split: docker load reads one archive; leave out --format docker")
	}
	return nil
}

// minSplit is the smallest volume: all manifests of an image must fit in.
const minSplit = 1 << 20

// isArchive reports whether a destination is an archive, and not a directory.
func isArchive(dest string) bool {
	return dest == "-" || strings.HasSuffix(dest, ".tar") || strings.HasSuffix(dest, ".tar.zst")
}

// A wantedImage is an argument: a name, or patterns of repositories and tags.
type wantedImage struct {
	text               string
	repository         string // or
	repositories, tags *patterns
	ref                reference
}

// parseWanted reads NAME, NAME:TAG, NAME@DIGEST, and patterns of the first two.
func parseWanted(args []string) (list []wantedImage, err error) {
	for _, arg := range args {
		w := wantedImage{text: arg}
		if strings.ContainsAny(arg, "*?") {
			repositories, tags := arg, "*"
			if i := strings.LastIndexByte(arg, ':'); i > strings.LastIndexByte(arg, '/') {
				repositories, tags = arg[:i], arg[i+1:]
			}
			if w.repositories, err = parseRepositories([]string{repositories}); err == nil {
				w.tags, err = parseTags([]string{tags})
			}
		} else {
			w.repository, w.ref, err = parseArgument(arg)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return list, nil
}

// parsePlatforms reads OS/ARCHITECTURE[/VARIANT], with commas between.
func parsePlatforms(text string) (list []platform, err error) {
	for _, one := range splitList(text) {
		parts := strings.Split(one, "/")
		if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
			return nil, fmt.Errorf("--platform: %q is not OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64", one)
		}
		p := platform{OS: parts[0], Architecture: parts[1]}
		if len(parts) == 3 {
			p.Variant = parts[2]
		}
		list = append(list, p)
	}
	return list, nil
}

// exportCommand is `berth export`.
func exportCommand(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	dest := cfg.Args[0]
	if dest == "-" && isTerminal(stdout) {
		return errors.New("images are not for a terminal: redirect them, or name a file, as in berth export images.tar NAME:TAG")
	}
	x := &exporter{flags: cfg.bundle, out: cfg.console(stdout)}
	if dest == "-" {
		x.pipe, x.out = stdout, newConsole(io.Discard, false)
	}
	var err error
	if x.wanted, err = parseWanted(cfg.Args[1:]); err != nil {
		return err
	}
	if cfg.bundle.all {
		x.wanted, _ = parseWanted([]string{"**"})
	}
	if x.platforms, err = parsePlatforms(cfg.bundle.platforms); err != nil {
		return err
	}
	return cfg.withPlace(cfg.askLocally(ctx, func(c *client) error {
		x.c = c
		if err := x.plan(ctx); err != nil {
			return err
		}
		return x.write(ctx, dest)
	}))
}

// An exporter carries images from a registry to files.
type exporter struct {
	c         *client
	flags     bundleFlags
	wanted    []wantedImage
	platforms []platform
	pipe      io.Writer // instead of a file
	out       *console

	images    []plannedImage
	told      []exportedImage
	blobs     map[digest.Digest]heldBlob
	referring map[digest.Digest]int // images that refer to others: where they are in images
	tags      map[string][]string   // of repositories
	named     map[string]bool       // NAME:TAG and NAME@DIGEST that are in images
	ambiguous map[string]bool       // tags that several repositories bring
}

// An exportedImage is an image, for people and programs.
type exportedImage struct {
	Image     string          `json:"image"`
	Digest    digest.Digest   `json:"digest"`
	Platforms []string        `json:"platforms,omitempty"`
	Size      int64           `json:"size"`              // bytes of all it consists of
	Missing   []digest.Digest `json:"missing,omitempty"` // members of the index that are left out, or not in the registry
	Referrers int             `json:"referrers,omitempty"`
}

// An exportName is an image that was asked for.
type exportName struct {
	repository string
	ref        reference
}

// names works out which images are wanted, each once, in the order of their names.
func (x *exporter) names(ctx context.Context) ([]exportName, error) {
	found := make(map[exportName]bool)
	for _, w := range x.wanted {
		if w.ref != (reference{}) {
			found[exportName{w.repository, w.ref}] = true
			continue
		}
		repositories, any := []string{w.repository}, false
		if w.repositories != nil {
			repositories = nil
			for name, err := range x.c.repositories(ctx) {
				if err != nil {
					return nil, err
				}
				if w.repositories.has(name) {
					repositories = append(repositories, name)
				}
			}
		}
		for _, name := range repositories {
			tags, err := x.tagsOf(ctx, name)
			if err != nil {
				return nil, err
			}
			for _, tag := range tags {
				if w.tags == nil || w.tags.has(tag) {
					found[exportName{name, reference{tag: tag}}] = true
					any = true
				}
			}
		}
		if !any && w.text != "**" {
			return nil, fmt.Errorf("there is no image %s; berth ls shows what there is", w.text)
		}
	}
	list := slices.Collect(maps.Keys(found))
	slices.SortFunc(list, func(a, b exportName) int {
		return cmp.Or(cmp.Compare(a.repository, b.repository), cmp.Compare(a.ref.tag, b.ref.tag), cmp.Compare(a.ref.digest, b.ref.digest))
	})
	return list, nil
}

func (x *exporter) tagsOf(ctx context.Context, repository string) ([]string, error) {
	if tags, ok := x.tags[repository]; ok {
		return tags, nil
	}
	var tags []string
	for tag, err := range x.c.tags(ctx, repository) {
		if isRemote(err, 404) {
			return nil, fmt.Errorf("there is no repository %s; berth ls shows what there is", repository)
		}
		if err != nil {
			return nil, err
		}
		tags = append(tags, tag)
	}
	x.tags[repository] = tags
	return tags, nil
}

// plan finds out what belongs to the images that are wanted.
func (x *exporter) plan(ctx context.Context) error {
	x.blobs, x.referring, x.tags, x.named = make(map[digest.Digest]heldBlob), make(map[digest.Digest]int), make(map[string][]string), make(map[string]bool)
	names, err := x.names(ctx)
	if err != nil {
		return err
	}
	x.ambiguous = make(map[string]bool)
	by := make(map[string]string)
	for _, n := range names {
		if other, ok := by[n.ref.tag]; ok && other != n.repository {
			x.ambiguous[n.ref.tag] = true
		}
		by[n.ref.tag] = n.repository
		x.named[n.ref.of(n.repository)] = true
	}
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return errExportInterrupted
		}
		if err := x.planOne(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// A walk gathers what one image consists of.
type walk struct {
	repository string
	files      []plannedFile
	seen       map[digest.Digest]bool
	manifests  []digest.Digest
	platforms  []string
	missing    []digest.Digest
	size       int64
}

// planOne plans an image and what refers to it.
func (x *exporter) planOne(ctx context.Context, n exportName) error {
	m, err := x.c.getManifest(ctx, n.repository, n.ref)
	if isRemote(err, 404) {
		return fmt.Errorf("there is no image %s; berth ls %s shows what there is", n.ref.of(n.repository), n.repository)
	}
	if err != nil {
		return err
	}
	if m, err = x.onePlatform(ctx, n, m); err != nil {
		return err
	}
	w := &walk{repository: n.repository, seen: make(map[digest.Digest]bool)}
	whole, r, err := x.walk(ctx, w, m, true)
	if err == nil && !whole {
		err = fmt.Errorf("%s is not whole in this registry: of %s something is missing. berth check says what", n.ref.of(n.repository), m.digest)
	}
	if err != nil {
		return err
	}
	im := plannedImage{files: w.files, entry: part{MediaType: m.mediaType, Digest: m.digest, Size: m.size, Annotations: x.annotations(n, m.digest, w.missing)}}
	if x.flags.format == formatDocker {
		if err := x.forDocker(ctx, &im, n, r); err != nil {
			return err
		}
	} else if n.ref.tag != "" && isPlainImage(m.mediaType, r) {
		im.saved = &savedItem{Config: blobFile(r.Config.Digest), RepoTags: []string{x.nameFor(n.repository) + ":" + n.ref.tag}}
		for _, layer := range r.Layers {
			im.saved.Layers = append(im.saved.Layers, blobFile(layer.Digest))
		}
	}
	at := len(x.told)
	x.images = append(x.images, im)
	x.told = append(x.told, exportedImage{Image: n.ref.of(n.repository), Digest: m.digest, Platforms: w.platforms, Size: w.size, Missing: w.missing})
	if x.flags.noReferrers || x.flags.format == formatDocker {
		return nil
	}
	count, err := x.planReferrers(ctx, w)
	x.told[at].Referrers = count
	return err
}

// onePlatform is the image of the one platform that was asked for, if m is an index and that is one.
func (x *exporter) onePlatform(ctx context.Context, n exportName, m *remoteManifest) (*remoteManifest, error) {
	want := x.platforms
	if len(want) == 0 && x.flags.format == formatDocker {
		want = []platform{{OS: "linux", Architecture: runtime.GOARCH}}
	}
	if !isIndex(m.mediaType) || len(want) != 1 {
		return m, nil
	}
	_, r, err := readReferences(m.body, m.mediaType, m.digest)
	if err != nil {
		return nil, err
	}
	var have []string
	for _, p := range r.Manifests {
		if p.Platform == nil {
			continue
		}
		if fits(want[0], *p.Platform) {
			return x.c.getManifest(ctx, n.repository, reference{digest: p.Digest})
		}
		if p.Platform.OS != "unknown" {
			have = append(have, p.Platform.String())
		}
	}
	return nil, fmt.Errorf("%s has no image for %s; it has %s. --platform chooses one", n.ref.of(n.repository), want[0], cmp.Or(strings.Join(have, ", "), "none with a platform"))
}

// fits reports whether an image's platform is the one that was asked for. One without a variant is any.
func fits(want, is platform) bool {
	if want.Variant == "" {
		is.Variant = ""
		return want.OS == is.OS && want.Architecture == is.Architecture
	}
	want, is = want.same(), is.same()
	return want.OS == is.OS && want.Architecture == is.Architecture && want.Variant == is.Variant
}

// isPlainImage reports whether a Docker of any age can load an image.
func isPlainImage(mediaType string, r *reading) bool {
	if mediaType != typeOCIManifest && mediaType != typeDockerManifest || r.Config == nil ||
		r.Config.MediaType != typeOCIConfig && r.Config.MediaType != typeDockerConfig || r.Config.Digest.Algorithm() != digest.SHA256 {
		return false
	}
	return !slices.ContainsFunc(r.Layers, func(p part) bool {
		return isForeign(p.MediaType) || !strings.HasSuffix(p.MediaType, "tar") && !strings.HasSuffix(p.MediaType, "gzip") || p.Digest.Algorithm() != digest.SHA256
	})
}

// walk adds a manifest and what it refers to. It reports false, and has added nothing, if something of that is not in the
// registry; of an index that may be members.
func (x *exporter) walk(ctx context.Context, w *walk, m *remoteManifest, top bool) (whole bool, r *reading, err error) {
	_, r, err = readReferences(m.body, m.mediaType, m.digest)
	if err != nil {
		return false, nil, fmt.Errorf("%s@%s: %w", w.repository, m.digest, err)
	}
	if w.seen[m.digest] {
		return true, r, nil
	}
	before := *w
	w.seen[m.digest] = true
	w.manifests = append(w.manifests, m.digest)
	w.files = append(w.files, plannedFile{name: blobFile(m.digest), repository: w.repository, digest: m.digest, size: m.size, manifest: true})
	w.size += m.size
	blobs := r.content()
	here := false
	for _, p := range r.Manifests {
		if !isManifestType(p.MediaType) {
			blobs = append(blobs, p)
			here = true
			continue
		}
		if top && len(x.platforms) > 1 && p.Platform != nil && !slices.ContainsFunc(x.platforms, func(want platform) bool { return fits(want, *p.Platform) }) {
			w.missing = append(w.missing, p.Digest) // it was not asked for
			continue
		}
		child, err := x.c.getManifest(ctx, w.repository, reference{digest: p.Digest})
		if err != nil && !isRemote(err, 404) {
			return false, nil, err
		}
		ok := false
		if err == nil {
			if ok, _, err = x.walk(ctx, w, child, false); err != nil {
				return false, nil, err
			}
		}
		if !ok {
			w.missing = append(w.missing, p.Digest)
			continue
		}
		here = true
		if p.Platform != nil && p.Platform.OS != "unknown" {
			w.platforms = append(w.platforms, p.Platform.String())
		}
	}
	if len(r.Manifests) > 0 && !here {
		w.goBack(before, m.digest)
		return false, r, nil
	}
	for _, p := range blobs {
		blob, err := x.find(ctx, w.repository, p)
		if err != nil {
			return false, nil, err
		}
		if blob.repository == "" {
			w.goBack(before, m.digest)
			return false, r, nil
		}
		if !w.seen[p.Digest] {
			w.seen[p.Digest] = true
			w.size += blob.size
			w.files = append(w.files, plannedFile{name: blobFile(p.Digest), repository: blob.repository, digest: p.Digest, size: blob.size})
		}
	}
	return true, r, nil
}

// goBack takes out what was added since before, when m was begun.
func (w *walk) goBack(before walk, m digest.Digest) {
	for _, f := range w.files[len(before.files):] {
		delete(w.seen, f.digest)
	}
	delete(w.seen, m)
	*w = before
}

// A heldBlob is a blob that a repository has.
type heldBlob struct {
	repository string
	size       int64
}

// find looks for a blob in a repository, if no other is known to have it; the zero value is for one that is not there.
func (x *exporter) find(ctx context.Context, repository string, p part) (heldBlob, error) {
	if b, ok := x.blobs[p.Digest]; ok {
		return b, nil
	}
	size, err := x.c.headBlob(ctx, repository, p.Digest)
	if isRemote(err, 404) {
		return heldBlob{}, nil
	}
	if err != nil {
		return heldBlob{}, err
	}
	b := heldBlob{repository, size}
	x.blobs[p.Digest] = b
	return b, nil
}

// nameFor is what a repository is called outside.
func (x *exporter) nameFor(repository string) string {
	if x.flags.host != "" {
		return x.flags.host + "/" + repository
	}
	return repository
}

// annotations are an entry's names.
func (x *exporter) annotations(n exportName, d digest.Digest, missing []digest.Digest) map[string]string {
	full := x.nameFor(n.repository)
	if x.flags.host == "" { // containerd has no names without a host: this is how Docker reads them
		if !strings.Contains(n.repository, "/") {
			full = "library/" + full
		}
		full = "docker.io/" + full
	}
	all := make(map[string]string)
	if n.ref.tag != "" {
		all[nameAnnotation] = full + ":" + n.ref.tag
		all[refAnnotation] = n.ref.tag
		if x.ambiguous[n.ref.tag] {
			all[refAnnotation] = x.nameFor(n.repository) + ":" + n.ref.tag
		}
	} else {
		all[nameAnnotation] = full + "@" + d.String()
	}
	all[repositoryAnnotation] = n.repository
	if missing != nil {
		all[missingAnnotation] = joinDigests(missing)
	}
	return all
}

func joinDigests(list []digest.Digest) string {
	var text []string
	for _, d := range list {
		text = append(text, d.String())
	}
	return strings.Join(text, ",")
}

// planReferrers adds what refers to an image, and what refers to that. It returns how much that is.
func (x *exporter) planReferrers(ctx context.Context, of *walk) (count int, err error) {
	tags, err := x.tagsOf(ctx, of.repository)
	if err != nil {
		return 0, err
	}
	for _, d := range of.manifests {
		prefix := signatureTag(d)
		for _, tag := range tags {
			n := exportName{of.repository, reference{tag: tag}}
			if rest, ok := strings.CutPrefix(tag, prefix); !ok || rest != "" && rest[0] != '.' || x.named[n.ref.of(n.repository)] {
				continue
			}
			count++
			x.named[n.ref.of(n.repository)] = true
			if err := x.planOne(ctx, n); err != nil {
				return count, err
			}
		}
		for p, err := range x.c.referrers(ctx, of.repository, d) {
			if err != nil {
				return count, err
			}
			name := reference{digest: p.Digest}.of(of.repository)
			if x.named[name] {
				continue
			}
			x.named[name] = true
			count++
			if at, ok := x.referring[p.Digest]; ok { // another repository has it, too
				a := x.images[at].entry.Annotations
				a[repositoryAnnotation] += "," + of.repository
			}
			m, err := x.c.getManifest(ctx, of.repository, reference{digest: p.Digest})
			if err != nil {
				return count, err
			}
			w := &walk{repository: of.repository, seen: make(map[digest.Digest]bool)}
			whole, _, err := x.walk(ctx, w, m, false)
			if err == nil && !whole {
				err = fmt.Errorf("%s, which refers to an image, is not whole in this registry; --no-referrers leaves it out", name)
			}
			if err != nil {
				return count, err
			}
			if _, ok := x.referring[p.Digest]; !ok {
				x.referring[p.Digest] = len(x.images)
				entry := part{MediaType: m.mediaType, Digest: m.digest, Size: m.size, Annotations: map[string]string{repositoryAnnotation: of.repository}}
				if w.missing != nil {
					entry.Annotations[missingAnnotation] = joinDigests(w.missing)
				}
				x.images = append(x.images, plannedImage{entry: entry, files: w.files})
			}
			more, err := x.planReferrers(ctx, w)
			if count += more; err != nil {
				return count, err
			}
		}
	}
	return count, nil
}

// forDocker makes of an image what docker load reads: the config, and layers that are not compressed with zstd.
func (x *exporter) forDocker(ctx context.Context, im *plannedImage, n exportName, r *reading) error {
	if n.ref.tag == "" {
		return fmt.Errorf("%s: docker load names images by their tags; give it one with berth tag", n.ref.of(n.repository))
	}
	if r.Config == nil || r.Config.MediaType != typeOCIConfig && r.Config.MediaType != typeDockerConfig || slices.ContainsFunc(r.Layers, func(p part) bool { return isForeign(p.MediaType) }) {
		return fmt.Errorf("%s is no image that Docker can load; leave out --format docker", n.ref.of(n.repository))
	}
	im.files = []plannedFile{{name: r.Config.Digest.Encoded() + ".json", repository: n.repository, digest: r.Config.Digest, size: r.Config.Size, manifest: true}}
	im.saved = &savedItem{Config: im.files[0].name, RepoTags: []string{x.nameFor(n.repository) + ":" + n.ref.tag}}
	for _, layer := range r.Layers {
		f := plannedFile{name: layer.Digest.Encoded() + ".tar", repository: n.repository, digest: layer.Digest, size: x.blobs[layer.Digest].size}
		if strings.HasSuffix(layer.MediaType, "zstd") {
			f.plain = true
			r, err := x.openFile(ctx, f)
			if err == nil {
				f.size, err = io.Copy(io.Discard, r)
				r.Close()
			}
			if err != nil {
				return err
			}
		}
		im.saved.Layers = append(im.saved.Layers, f.name)
		im.files = append(im.files, f)
	}
	im.entry = part{}
	return nil
}

// openFile reads what a file is to have from the registry.
func (x *exporter) openFile(ctx context.Context, f plannedFile) (io.ReadCloser, error) {
	if f.manifest && strings.HasPrefix(f.name, "blobs/") {
		m, err := x.c.getManifest(ctx, f.repository, reference{digest: f.digest})
		if err != nil {
			return nil, err
		}
		return io.NopCloser(strings.NewReader(string(m.body))), nil
	}
	r, _, err := x.c.getBlob(ctx, f.repository, f.digest)
	if err != nil || !f.plain {
		return r, err
	}
	z, err := unpack(r, zstandard)
	if err != nil {
		r.Close()
		return nil, err
	}
	// The blob is verified at its end, which has to be read.
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(z, rest{r}), closers{z, r}}, nil
}

// rest reads what is left, and has no bytes of it.
type rest struct{ r io.Reader }

func (x rest) Read([]byte) (int, error) {
	if _, err := io.Copy(io.Discard, x.r); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

// write writes what was planned.
func (x *exporter) write(ctx context.Context, dest string) error {
	volumes := []volume{inOne(x.images)}
	if x.flags.split != "" {
		limit, err := parseSize(x.flags.split)
		if err != nil {
			return err
		}
		limit-- // a file on FAT32 has a byte less than 4 GiB
		if strings.HasSuffix(dest, ".zst") {
			limit -= limit >> 8 // what cannot be compressed gets longer
		}
		if volumes, err = intoVolumes(x.images, limit); err != nil {
			return err
		}
	}
	var total int64
	for _, v := range volumes {
		if len(v.files)+len(v.images) > maxEntries-10 {
			return fmt.Errorf("these are more than %d files, the most that an archive may have; give --split, or name fewer images", maxEntries)
		}
		for _, f := range v.files {
			total += f.size
		}
	}
	if x.images == nil {
		return errors.New("there are no images in this registry")
	}
	p := x.out.progress("writing "+dest, total)
	defer p.end()
	var files []string
	for i, v := range volumes {
		file := dest
		if len(volumes) > 1 || x.flags.split != "" {
			file = volumePath(dest, i)
		}
		if err := x.writeVolume(ctx, v, file, p); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		files = append(files, file)
	}
	p.end()
	return x.tell(files, total)
}

// errExportInterrupted is the end of an export that a person has ended.
var errExportInterrupted = errors.New("interrupted; what was not finished is removed")

// writeVolume writes one bundle.
func (x *exporter) writeVolume(ctx context.Context, v volume, file string, p *progress) (err error) {
	var w bundleWriter
	if x.pipe != nil {
		w, err = newTarWriter(file, x.pipe, false)
	} else if isArchive(file) {
		w, err = newTarWriter(file, nil, strings.HasSuffix(file, ".zst"))
	} else {
		w, err = newLayoutWriter(file)
	}
	if err != nil {
		return err
	}
	defer w.close()
	listings, err := v.listings(x.flags.format == formatOCI)
	if err != nil {
		return err
	}
	for _, l := range listings {
		if err := w.listing(l); err != nil {
			return err
		}
	}
	for _, f := range v.files {
		if ctx.Err() != nil {
			return errExportInterrupted
		}
		opened := false
		err := w.add(f.name, f.size, func() (io.ReadCloser, error) {
			opened = true
			r, err := x.openFile(ctx, f)
			if err != nil {
				return nil, err
			}
			if f.size > 4*largeBuffer {
				r = readAhead(r)
			}
			return struct {
				io.Reader
				io.Closer
			}{countedReader{r, p.add}, r}, nil
		})
		if ctx.Err() != nil {
			return errExportInterrupted
		}
		if err != nil {
			return err
		}
		if !opened {
			p.add(f.size) // it was there
		}
	}
	return w.finish()
}

// An aheadReader is read while what it has read before is written: to verify a blob takes about as long as to write it.
type aheadReader struct {
	r           io.ReadCloser
	free, full  chan []byte
	ended       chan struct{} // closed when nobody reads any more
	err         error         // of r; there when full is closed
	buffer, now []byte        // what is being read, and what is left of it
}

// readAhead begins to read r, which is closed with it.
func readAhead(r io.ReadCloser) *aheadReader {
	const buffers = 4
	a := &aheadReader{r: r, free: make(chan []byte, buffers), full: make(chan []byte, buffers), ended: make(chan struct{})}
	for range buffers {
		a.free <- make([]byte, largeBuffer)
	}
	go func() {
		defer close(a.full)
		for a.err == nil {
			var b []byte
			select {
			case b = <-a.free:
			case <-a.ended:
				return
			}
			n := 0
			for n < len(b) && a.err == nil {
				var more int
				more, a.err = r.Read(b[n:])
				n += more
			}
			a.full <- b[:n]
		}
	}()
	return a
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.now) == 0 {
		if a.buffer != nil {
			a.free <- a.buffer[:cap(a.buffer)]
			a.buffer = nil
		}
		b, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.buffer, a.now = b, b
	}
	n := copy(p, a.now)
	a.now = a.now[n:]
	return n, nil
}

func (a *aheadReader) Close() error {
	close(a.ended)
	for range a.full { // until the reading has ended
	}
	return a.r.Close()
}

// tell says what was written.
func (x *exporter) tell(files []string, size int64) error {
	if x.out.quiet {
		return x.out.json(struct {
			Files  []string        `json:"files"`
			Size   int64           `json:"size"`
			Images []exportedImage `json:"images"`
		}{files, size, x.told})
	}
	for _, im := range x.told {
		what := formatSize(im.Size)
		if im.Platforms != nil {
			what += ", " + strings.Join(im.Platforms, ", ")
		}
		if im.Referrers > 0 {
			what += ", " + plural(im.Referrers, "referrer")
		}
		if im.Missing != nil {
			what += fmt.Sprintf(", without %s", plural(len(im.Missing), "member"))
		}
		x.out.printf("%s  %s\n", im.Image, what)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			x.out.printf("written: %s, %s\n", file, formatSize(info.Size()))
		} else {
			x.out.printf("written: %s, %s\n", file, formatSize(size))
		}
	}
	return nil
}
