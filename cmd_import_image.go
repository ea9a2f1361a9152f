// What is done with one image of an import: where it goes, what belongs to it, what of that is to be brought.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// An importedImage is what became of an image, for people and programs.
type importedImage struct {
	Source    string          `json:"source"`
	Image     string          `json:"image"` // NAME:TAG or NAME@DIGEST here
	Named     string          `json:"named,omitempty"`
	Digest    digest.Digest   `json:"digest,omitempty"`
	Platforms []string        `json:"platforms,omitempty"`
	Size      int64           `json:"size"`
	State     string          `json:"state"`             // imported, present, new (of a dry run), waiting, failed
	Missing   []digest.Digest `json:"missing,omitempty"` // members that are not in the archive; of what waits all that is missing
	Was       digest.Digest   `json:"was,omitempty"`     // what the tag pointed at before
	Problem   string          `json:"problem,omitempty"`
}

// What importedImage.State may be.
const (
	wasImported = "imported"
	wasPresent  = "present"
	wouldBeNew  = "new"
	isWaiting   = "waiting"
	hasFailed   = "failed"
)

// An incoming is a root, and where it goes.
type incoming struct {
	root
	source     *source
	repository string // "" as long as nothing says where it goes
	tag        string // "" for none
}

// all imports what the sources have.
func (im *importer) all(ctx context.Context) error {
	var named, unnamed []*incoming
	for _, s := range im.sources {
		for _, r := range s.roots {
			if c := im.place(s, r); c.repository != "" {
				named = append(named, c)
			} else {
				unnamed = append(unnamed, c)
			}
		}
	}
	if err := im.applyAs(named); err != nil {
		return err
	}
	for _, c := range named {
		if err := im.bring(ctx, c); err != nil {
			return err
		}
	}
	return im.allUnnamed(ctx, unnamed)
}

// place works out from its names where a root goes.
func (im *importer) place(s *source, r root) *incoming {
	c := &incoming{root: r, source: s}
	n := splitName(r.name, r.item == nil)
	c.repository, c.tag = n.repository, n.tag
	if of := r.Annotations[repositoryAnnotation]; of != "" && r.name != "" {
		c.repository, _, _ = strings.Cut(of, ",") // what Berth wrote, without a host
	}
	if r.name != "" && c.repository == "" {
		c.repository = repositoryFor(s.name)
	}
	c.repository = im.mapped(c.repository)
	return c
}

// mapped is where what was in a repository goes by the flags.
func (im *importer) mapped(repository string) string {
	switch {
	case repository == "":
		return ""
	case im.as != "":
		name, _, _ := parseArgument(im.as) // checked before
		return name
	case im.flags.prefix != "":
		return strings.TrimSuffix(im.flags.prefix, "/") + "/" + repository
	}
	return repository
}

// applyAs gives the one image that has a tag the tag of --as.
func (im *importer) applyAs(named []*incoming) error {
	_, ref, _ := parseArgument(im.as)
	if im.as == "" || ref.tag == "" || len(named) == 0 {
		return nil
	}
	var names []string
	for _, c := range named {
		if c.tag != "" && signedBy(c.tag) == "" && !slices.Contains(names, c.name) {
			names = append(names, c.name)
		}
	}
	if len(names) > 1 {
		return usageErrorf("--as %s is for one image, and there are %d: %s. Give --as NAME without a tag, or --prefix", im.as, len(names), shortList(names))
	}
	for _, c := range named {
		if c.tag != "" && signedBy(c.tag) == "" || len(named) == 1 {
			c.tag = ref.tag
		}
	}
	return nil
}

// shortList is the first few of a list.
func shortList(list []string) string {
	text := strings.Join(list[:min(len(list), 5)], ", ")
	if len(list) > 5 {
		text += ", …"
	}
	return text
}

// allUnnamed imports what has no name: members of an index that came with it; what refers to an image, which goes where that
// is; and images to which nothing leads, which go to a repository named after the file.
func (im *importer) allUnnamed(ctx context.Context, left []*incoming) error {
	for progress := true; progress; {
		progress = false
		var still []*incoming
		for _, c := range left {
			if c.item == nil && im.from[c.Digest] != nil && c.Annotations[repositoryAnnotation] == "" {
				continue // it is there by now
			}
			repositories, err := im.repositoriesOf(c)
			if err != nil {
				im.fail(c, err)
				continue
			}
			if repositories == nil {
				still = append(still, c)
				continue
			}
			progress = true
			for _, name := range repositories {
				one := *c
				one.repository = name
				if err := im.bring(ctx, &one); err != nil {
					return err
				}
			}
		}
		left = still
	}
	left = im.notMembers(left)
	_, ref, _ := parseArgument(im.as)
	if ref.tag != "" && len(left) > 1 {
		return usageErrorf("--as %s is for one image, and there are %d without a name: give --as NAME without a tag", im.as, len(left))
	}
	for _, c := range left {
		c.repository, c.tag = im.mapped(repositoryFor(c.source.name)), ref.tag
		if err := im.bring(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// repositoriesOf are those that an image without a name goes to: what Berth wrote of it, or where its subject is; nil for none.
func (im *importer) repositoriesOf(c *incoming) (list []string, err error) {
	if of := c.Annotations[repositoryAnnotation]; of != "" {
		for _, name := range strings.Split(of, ",") {
			list = append(list, im.mapped(name))
		}
		return list, nil
	}
	if c.item != nil {
		return nil, nil
	}
	body, _, err := im.bodyHere(c.Digest)
	if err != nil || body == nil {
		return nil, err
	}
	m, _, err := readReferences(body, c.MediaType, c.Digest)
	if err != nil || m.subject == "" {
		return nil, err
	}
	return im.from[m.subject], nil
}

// notMembers leaves out what is a member of another one.
func (im *importer) notMembers(list []*incoming) []*incoming {
	members := make(map[digest.Digest]bool)
	for _, c := range list {
		if c.item != nil || !isIndex(c.MediaType) {
			continue
		}
		if body, _, err := im.bodyHere(c.Digest); err == nil && body != nil {
			if m, _, err := readReferences(body, c.MediaType, c.Digest); err == nil {
				for _, d := range m.children {
					members[d] = true
				}
			}
		}
	}
	seen := make(map[digest.Digest]bool) // crane lists an image as often as it was pulled
	return slices.DeleteFunc(list, func(c *incoming) bool {
		if c.item != nil {
			return false
		}
		again := seen[c.Digest]
		seen[c.Digest] = true
		return again || members[c.Digest]
	})
}

// bodyHere is a manifest that a source has; nil if none has.
func (im *importer) bodyHere(d digest.Digest) (body []byte, s *source, err error) {
	name := blobFile(d)
	if s = im.find(name); s == nil {
		return nil, nil, nil
	}
	if body, err = readWhole(s, name, maxManifest); err != nil {
		return nil, s, err
	}
	if why := examineManifest(d, body); why != nil {
		return nil, s, fmt.Errorf("%s in %s is damaged: its bytes are not those of its name", name, nameOfSource(s.name))
	}
	return body, s, nil
}

// fail notes that an image cannot be imported.
func (im *importer) fail(c *incoming, err error) {
	d := c.Digest
	image := cmp.Or(c.name, d.String())
	if c.repository != "" {
		image = reference{tag: c.tag, digest: d}.of(c.repository)
	}
	im.results = append(im.results, importedImage{Source: c.source.name, Image: image, Named: c.name, Digest: d, State: hasFailed, Problem: plainly(err).Error()})
}

// A bringing is what one image consists of, and where that is.
type bringing struct {
	repository string
	manifests  []broughtManifest // members before their index
	blobs      []broughtBlob     // each once
	seen       map[digest.Digest]bool
	platforms  []string
	missing    []digest.Digest // members of indexes
	lacking    []digest.Digest // all that is nowhere
	size       int64
	saved      *savedImage // what an archive of Docker has; nil else
}

type broughtManifest struct {
	digest    digest.Digest
	mediaType string
	partly    bool // members are missing
}

type broughtBlob struct {
	part
	source *source // nil if the repository has it already
	name   string  // there
}

// bring imports one image. The error is for what ends the import; what is wrong with the image is in the results.
func (im *importer) bring(ctx context.Context, c *incoming) error {
	if ctx.Err() != nil {
		return errInterrupted
	}
	err := im.bringOne(ctx, c)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errInterrupted
	case isRemote(err, 507):
		return fmt.Errorf("%w. What has come stays for a while: when there is room, the same import continues", err)
	case isRemote(err) && isFinal(err), !isRemote(err) && !errors.As(err, new(*url.Error)):
		im.fail(c, err)
		return nil
	}
	return err
}

func (im *importer) bringOne(ctx context.Context, c *incoming) error {
	if _, err := parseName(c.repository); err != nil {
		return err
	}
	if c.repository == staging {
		return fmt.Errorf("the repository %s is for what is being imported; give --as or --prefix", staging)
	}
	if c.tag != "" {
		if _, err := parseTag(c.tag); err != nil {
			return err
		}
	}
	b := &bringing{repository: c.repository, seen: make(map[digest.Digest]bool)}
	top := c.part
	if c.item != nil {
		saved, err := im.savedImage(c)
		if err != nil {
			return err
		}
		b.saved, top = saved, saved.manifest
		c.Digest = top.Digest
	}
	name := reference{tag: c.tag, digest: top.Digest}.of(c.repository)
	if other, ok := im.takes[name]; ok && c.tag != "" && other != top.Digest {
		return fmt.Errorf("another image of this import is %s already (%s); give --as or --prefix for one of them", name, other)
	}
	whole, err := im.gather(ctx, b, top)
	if err != nil {
		return err
	}
	r := importedImage{Source: c.source.name, Image: name, Digest: top.Digest, Platforms: b.platforms, Size: b.size, Missing: b.missing}
	if c.name != name {
		r.Named = c.name
	}
	if !whole || im.mustWait(c, b) {
		r.State, r.Missing = isWaiting, b.lacking
		if whole {
			r.Missing = b.missing
		}
		if c.source.volume == "" { // there is nothing to wait for
			r.State, r.Problem = hasFailed, missingWords(r.Missing)
		}
		if c.source.volume != "" && !im.dryRun {
			err = im.bringBlobs(ctx, b) // for the volumes that follow
		}
		im.results = append(im.results, r)
		return err
	}
	im.takes[name] = top.Digest
	if err := im.put(ctx, c, b, top, &r); err != nil {
		return err
	}
	for _, m := range b.manifests {
		if !slices.Contains(im.from[m.digest], b.repository) {
			im.from[m.digest] = append(im.from[m.digest], b.repository)
		}
	}
	im.results = append(im.results, r)
	return nil
}

// savedImage makes the image of an archive of Docker, once for all of its names.
func (im *importer) savedImage(c *incoming) (*savedImage, error) {
	if saved := im.saved[c.item]; saved != nil {
		return saved, nil
	}
	saved, err := makeImage(c.source, c.item)
	if err == nil {
		for d, name := range saved.files {
			if b, ok := c.source.bundle.(*arrivedBundle); ok { // it is in the registry by its own digest
				if err := b.isReally(name, d); err != nil {
					return nil, err
				}
			}
		}
		im.saved[c.item] = saved
	}
	return saved, err
}

// isReally checks a layer that has been sent against the digest that the image's config has of it.
func (b *arrivedBundle) isReally(name string, d digest.Digest) error {
	target, err := b.target(name)
	if err != nil {
		return err
	}
	if sent, ok := b.digests[target]; ok && sent != d {
		return fmt.Errorf("the layer %s is not the one that the config tells of (%s)", name, d)
	}
	return nil
}

// mustWait reports whether an index that lacks members is not taken yet: they may be in volumes that are not here. Those
// that the registry had not that wrote the volumes are not.
func (im *importer) mustWait(c *incoming, b *bringing) bool {
	if b.missing == nil || c.source.volume == "" || !im.lacksVolumes() {
		return false
	}
	known := strings.Split(c.Annotations[missingAnnotation], ",")
	return slices.ContainsFunc(b.missing, func(d digest.Digest) bool { return !slices.Contains(known, d.String()) })
}

// gather works out what a manifest consists of. It reports false, and has added only to what is lacking, if something of that is
// neither in a source nor in the registry. Members of an index may be.
func (im *importer) gather(ctx context.Context, b *bringing, p part) (whole bool, err error) {
	if b.seen[p.Digest] {
		return true, nil
	}
	body, err := im.body(ctx, b, p)
	if err != nil {
		return false, err
	}
	if body == nil {
		b.lacking = append(b.lacking, p.Digest)
		return false, nil
	}
	m, r, err := readReferences(body, p.MediaType, p.Digest)
	if err != nil {
		return false, err
	}
	before := *b
	b.seen[p.Digest] = true
	b.size += int64(len(body))
	blobs, here := r.content(), len(r.Manifests) == 0
	top := broughtManifest{digest: p.Digest, mediaType: m.mediaType}
	for _, child := range r.Manifests {
		if !isManifestType(child.MediaType) {
			blobs, here = append(blobs, child), true
			continue
		}
		ok, err := im.gather(ctx, b, child)
		if err != nil {
			return false, err
		}
		if !ok {
			b.missing, top.partly = append(b.missing, child.Digest), true
			continue
		}
		here = true
		if child.Platform != nil && child.Platform.OS != "unknown" {
			b.platforms = append(b.platforms, child.Platform.String())
		}
	}
	lacking := len(b.lacking)
	for _, p := range blobs {
		if b.seen[p.Digest] {
			continue
		}
		blob, ok, err := im.locate(ctx, b, p)
		if err != nil {
			return false, err
		}
		if !ok {
			b.lacking = append(b.lacking, p.Digest)
			continue
		}
		b.seen[p.Digest] = true
		b.size += p.Size
		b.blobs = append(b.blobs, blob)
	}
	if !here || len(b.lacking) > lacking {
		b.goBack(before)
		delete(b.seen, p.Digest)
		return false, nil
	}
	b.manifests = append(b.manifests, top)
	return true, nil
}

// goBack takes out the manifests that were added since before. What is lacking stays, and so do blobs: a volume that follows may
// have the rest.
func (b *bringing) goBack(before bringing) {
	for _, m := range b.manifests[len(before.manifests):] {
		delete(b.seen, m.digest)
	}
	b.manifests, b.platforms, b.missing, b.size = before.manifests, before.platforms, before.missing, before.size
}

// body is a manifest of a source, or one that the repository has already; nil for none.
func (im *importer) body(ctx context.Context, b *bringing, p part) ([]byte, error) {
	if b.saved != nil && p.Digest == b.saved.manifest.Digest {
		return b.saved.body, nil
	}
	body, _, err := im.bodyHere(p.Digest)
	if err != nil || body != nil {
		return body, err
	}
	m, err := im.c.getManifest(ctx, b.repository, reference{digest: p.Digest})
	if isRemote(err, 404) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return m.body, nil
}

// locate finds a blob in a source, or in the registry.
func (im *importer) locate(ctx context.Context, b *bringing, p part) (broughtBlob, bool, error) {
	blob := broughtBlob{part: p, name: blobFile(p.Digest)}
	if b.saved != nil {
		if blob.name = b.saved.files[p.Digest]; blob.name == "" {
			return blob, false, nil
		}
		for _, s := range im.sources {
			for _, r := range s.roots {
				if r.item != nil && im.saved[r.item] == b.saved {
					blob.source = s
					return blob, true, nil
				}
			}
		}
	}
	if s := im.find(blob.name); s != nil {
		size, err := s.size(blob.name)
		if err == nil && size != p.Size {
			err = fmt.Errorf("%s in %s has %d bytes, and the manifest says %d", blob.name, nameOfSource(s.name), size, p.Size)
		}
		blob.source = s
		return blob, err == nil, err
	}
	ok, err := im.ready(ctx, b.repository, p.Digest)
	return blob, ok, err
}

// put brings an image that is whole: blobs, manifests, tag.
func (im *importer) put(ctx context.Context, c *incoming, b *bringing, top part, r *importedImage) error {
	r.State = wasPresent
	if im.dryRun {
		return im.wouldPut(ctx, c, b, top, r)
	}
	if err := im.bringBlobs(ctx, b); err != nil {
		return err
	}
	for _, m := range b.manifests {
		ref := reference{digest: m.digest}
		_, err := im.c.headManifest(ctx, b.repository, ref)
		if err == nil && (r.State == wasPresent || !isIndex(m.mediaType)) {
			continue // an index that has got members may be whole now
		}
		if err != nil && !isRemote(err, 404) {
			return err
		}
		if err := im.putManifest(ctx, b, m, ""); err != nil {
			return err
		}
		r.State = wasImported
	}
	if c.tag == "" {
		return nil
	}
	ref := reference{tag: c.tag}
	was, err := im.c.headManifest(ctx, b.repository, ref)
	if err != nil && !isRemote(err, 404) {
		return err
	}
	if err == nil && was.digest == top.Digest {
		return nil
	}
	if err == nil {
		r.Was = was.digest
	}
	r.State = wasImported
	return im.putManifest(ctx, b, b.manifests[len(b.manifests)-1], c.tag)
}

// putManifest sends a manifest, whose members and blobs are there, and has a tag point at it unless that is "".
func (im *importer) putManifest(ctx context.Context, b *bringing, m broughtManifest, tag string) error {
	body, err := im.body(ctx, b, part{Digest: m.digest})
	if err == nil && body == nil {
		err = fmt.Errorf("the manifest %s has gone meanwhile", m.digest)
	}
	if err != nil {
		return err
	}
	return im.c.putExactly(ctx, b.repository, m.digest, tag, m.mediaType, body, m.partly)
}

// wouldPut is put for a dry run.
func (im *importer) wouldPut(ctx context.Context, c *incoming, b *bringing, top part, r *importedImage) error {
	if c.tag == "" {
		_, err := im.c.headManifest(ctx, b.repository, reference{digest: top.Digest})
		if isRemote(err, 404) {
			r.State, err = wouldBeNew, nil
		}
		return err
	}
	was, err := im.c.headManifest(ctx, b.repository, reference{tag: c.tag})
	switch {
	case isRemote(err, 404):
		r.State = wouldBeNew
	case err != nil:
		return err
	case was.digest != top.Digest:
		r.State, r.Was = wouldBeNew, was.digest
	}
	return nil
}

// importWorkers blobs are sent at once: while one is synced, others come.
const importWorkers = 4

// bringBlobs sends the blobs that the repository has not.
func (im *importer) bringBlobs(ctx context.Context, b *bringing) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	todo := make(chan broughtBlob)
	var mu sync.Mutex // guards failed
	var failed error
	var workers sync.WaitGroup
	for range min(importWorkers, len(b.blobs)) {
		workers.Go(func() {
			for blob := range todo {
				if err := im.bringBlob(ctx, b.repository, blob); err != nil {
					mu.Lock()
					if failed == nil {
						failed = err
					}
					mu.Unlock()
					cancel()
				}
			}
		})
	}
	for _, blob := range b.blobs {
		if blob.source == nil || im.knows(b.repository, blob.Digest) {
			continue
		}
		select {
		case todo <- blob:
		case <-ctx.Done():
		}
	}
	close(todo)
	workers.Wait()
	return failed
}

// bringBlob sends a blob, unless the registry has it.
func (im *importer) bringBlob(ctx context.Context, repository string, b broughtBlob) error {
	has, err := im.ready(ctx, repository, b.Digest)
	if err != nil {
		return err
	}
	_, arrived := b.source.bundle.(*arrivedBundle)
	if has {
		if !arrived {
			im.moved(b.Size)
		}
		return nil
	}
	r, err := b.source.open(b.name)
	if err != nil {
		return err
	}
	defer r.Close()
	read := im.moved
	if arrived {
		read = nil
	}
	body := &exactly{r: countedReader{r, read}, left: b.Size}
	err = im.c.putBlob(ctx, repository, b.Digest, b.Size, body)
	switch {
	case err != nil && body.failed != nil:
		return fmt.Errorf("%s in %s: %w", b.name, nameOfSource(b.source.name), tarProblem(body.failed))
	case isWrongDigest(err):
		return fmt.Errorf("%s in %s is damaged: its bytes do not have the digest %s", b.name, nameOfSource(b.source.name), b.Digest)
	case err == nil:
		im.note(repository, b.Digest)
		im.mu.Lock()
		im.received += b.Size
		im.mu.Unlock()
	}
	return err
}

// tell says what became of the images. The error says that it is not all.
func (im *importer) tell() error {
	im.progress.end()
	count := make(map[string]int)
	for _, r := range im.results {
		count[r.State]++
	}
	var short error
	if n := count[hasFailed] + count[isWaiting]; n > 0 {
		short = fmt.Errorf("%d of %s not imported", n, plural(len(im.results), "image"))
		if n == 1 && len(im.results) == 1 {
			short = errors.New("the image is not imported")
		}
	}
	if len(im.results) == 0 {
		short = errors.New("there are no images in it")
	}
	if im.out.quiet {
		if im.results == nil {
			im.results = []importedImage{}
		}
		return errors.Join(im.out.json(struct {
			Images   []importedImage `json:"images"`
			Received int64           `json:"received"` // bytes of blobs
		}{im.results, im.received}), short)
	}
	hosts := make(map[string]bool)
	table := im.out.table("IMAGE", "DIGEST", "PLATFORMS", "SIZE", "STATE")
	for _, r := range im.results {
		if n := splitName(r.Named, true); n.host != "" {
			hosts[n.host] = true
		}
		table.row(r.Image, digestCell(r.Digest.String()), strings.Join(r.Platforms, ", "), sizeCell(r.Size), r.words())
	}
	table.end("")
	if len(hosts) > 0 && im.as == "" {
		im.out.printf("The names are without their hosts (%s).\n", strings.Join(slices.Sorted(maps.Keys(hosts)), ", "))
	}
	if short == nil && !im.dryRun {
		im.out.printf("%s imported, %d present already; %s received\n", plural(count[wasImported], "image"), count[wasPresent], formatSize(im.received))
	}
	return short
}

// words are the state for people.
func (r importedImage) words() string {
	switch {
	case r.State == hasFailed:
		return "NOT imported: " + r.Problem
	case r.State == isWaiting:
		return "waiting for other volumes: " + missingWords(r.Missing)
	}
	text := r.State
	if r.Was != "" {
		text += ", was " + r.Was.Encoded()[:12]
	}
	if r.Missing != nil {
		text += fmt.Sprintf(", without %s (not in the archive)", plural(len(r.Missing), "member"))
	}
	return text
}

// missingWords says what is missing.
func missingWords(list []digest.Digest) string {
	return fmt.Sprintf("%s missing, %s", plural(len(list), "file"), shortList(digests(list)))
}

// digests are the beginnings of digests.
func digests(list []digest.Digest) (short []string) {
	for _, d := range list {
		short = append(short, d.Algorithm().String()+":"+d.Encoded()[:12])
	}
	return short
}
