// Images as files: OCI image layouts, archives of them, and archives of Docker.
//
// A bundle is a directory or an archive that holds images. What it holds is said by index.json (a layout) or, if
// there is none, by manifest.json (Docker). The rest is content: in a layout under blobs/ALGORITHM/HEX, in Docker's
// archives under any name. bundle_read.go opens bundles and reads them as they arrive, bundle_docker.go makes images of
// what Docker writes, bundle_write.go writes bundles. cmd_export.go and cmd_import.go carry between them and a registry.
//
// What is read is a stranger's:
//
//   - Nothing is ever unpacked. An entry of an archive is a name, a size, and where its bytes are.
//   - No name leads out of a bundle, by .., a link or otherwise.
//   - Memory is bounded by limits on entries, on indexes, and on what is read whole.
//   - What index.json says of content is believed only as far as the content has that digest.
//
// Names: an entry of index.json has its name in two annotations, of which tools write and read either. The first is
// what containerd and Docker write (the full name), the second what the image specification has, and is a tag to most
// tools and a full name to skopeo and podman. Berth writes both, and reads the first before the second.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	nameAnnotation = "io.containerd.image.name"
	refAnnotation  = "org.opencontainers.image.ref.name"

	// Berth's own annotations of entries. The repositories that an entry without a name belongs to, with commas between:
	// an image that was exported by its digest, or one that refers to another.
	repositoryAnnotation = modulePrefix + "repository"
	// The members of an index that the registry that wrote the bundle has not got either, with commas between.
	missingAnnotation = modulePrefix + "missing"
	// And of the index as a whole: which volume of how many this is, and of which set, as 2/5/1a2b3c4d.
	volumeAnnotation = modulePrefix + "volume"

	modulePrefix = "io.github.berth-registry.berth."
)

// The files that say what a bundle is.
const (
	layoutFile   = "oci-layout"
	indexFile    = "index.json"
	manifestFile = "manifest.json"
)

const (
	// maxEntries bounds what one archive may have. With 20000 images of three blobs there are 60000.
	maxEntries = 100_000
	// maxNames bounds the names of all entries together, in bytes.
	maxNames = 32 << 20
	// maxListing bounds index.json and manifest.json, in bytes. An entry has a few hundred.
	maxListing = 32 << 20
	// maxSavedConfig bounds a docker image's config, in bytes.
	maxSavedConfig = 4 << 20
)

// A reading is what a manifest's bytes refer to, with sizes and platforms.
type reading struct {
	MediaType    string `json:"mediaType"`
	ArtifactType string `json:"artifactType"`
	Config       *part  `json:"config"`
	Layers       []part `json:"layers"`
	Blobs        []part `json:"blobs"`
	Manifests    []part `json:"manifests"`
	Subject      *part  `json:"subject"`
}

// readReferences reads a manifest that came with this digest and media type. What it says itself of that counts more.
func readReferences(body []byte, mediaType string, d digest.Digest) (*manifest, *reading, error) {
	if why := examineManifest(d, body); why != nil {
		return nil, nil, why
	}
	r := new(reading)
	if err := json.Unmarshal(body, r); err != nil {
		return nil, nil, errManifestInvalid.with(err.Error())
	}
	if r.MediaType != "" {
		mediaType = "" // an index may have its member as something else
	}
	m, err := parseManifest(body, mediaType, d)
	return m, r, err
}

// content are the blobs that have to come along: config and layers, each once, but for those kept elsewhere.
func (r *reading) content() (list []part) {
	all := r.Layers
	if r.Config != nil {
		all = append([]part{*r.Config}, r.Layers...)
	}
	seen := make(map[digest.Digest]bool)
	for _, p := range append(all[:len(all):len(all)], r.Blobs...) {
		if !isForeign(p.MediaType) && !seen[p.Digest] {
			seen[p.Digest] = true
			list = append(list, p)
		}
	}
	return list
}

// isManifestType reports whether what has this media type is a manifest. Indexes of BuildKit's cache list layers, too.
func isManifestType(mediaType string) bool {
	switch mediaType {
	case typeOCIIndex, typeDockerList, typeOCIManifest, typeDockerManifest, typeOCIArtifact, typeDockerSchema1, typeDockerSigned1:
		return true
	}
	return false
}

// blobFile is where a layout has a blob.
func blobFile(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

// digestOfFile is the digest that a file of a layout has by its name.
func digestOfFile(name string) (d digest.Digest, ok bool) {
	dir, hex := path.Split(name)
	algorithm, found := strings.CutPrefix(path.Clean(dir), "blobs/")
	if !found {
		return "", false
	}
	d, err := parseDigest(algorithm + ":" + hex)
	return d, err == nil
}

// A root is an image that a bundle says it has.
type root struct {
	part
	name string     // as the bundle has it; "" for none
	item *savedItem // of an archive of Docker; nil for a layout's
}

// A listing is what index.json says.
type listing struct {
	roots  []root
	volume string // "" unless it is one of several
}

// errListing is the error for an index.json or a manifest.json that cannot be used.
func errListing(file, format string, args ...any) error {
	return fmt.Errorf("its "+file+" "+format, args...)
}

// parseIndexFile reads index.json, entry by entry.
func parseIndexFile(r io.Reader) (*listing, error) {
	l := new(listing)
	bounded := &io.LimitedReader{R: r, N: maxListing + 1}
	d := json.NewDecoder(bounded)
	err := eachKey(d, func(key string) error {
		switch key {
		case "manifests":
			return eachElement(d, func() error {
				var p part
				if err := d.Decode(&p); err != nil {
					return err
				}
				if _, err := parseDigest(p.Digest.String()); err != nil {
					return err
				}
				if len(l.roots) == maxEntries {
					return fmt.Errorf("lists more than %d images", maxEntries)
				}
				r := root{part: p, name: p.Annotations[nameAnnotation]}
				if r.name == "" {
					r.name = p.Annotations[refAnnotation]
				}
				r.Annotations = ours(p.Annotations)
				l.roots = append(l.roots, r)
				return nil
			})
		case "annotations":
			var all map[string]string
			if err := d.Decode(&all); err != nil {
				return err
			}
			l.volume = all[volumeAnnotation]
			return nil
		}
		var skipped json.RawMessage
		return d.Decode(&skipped)
	})
	if err != nil && bounded.N <= 0 {
		return nil, errListing(indexFile, "is larger than %d MiB", maxListing>>20)
	}
	if err != nil {
		return nil, errListing(indexFile, "cannot be read: %w", err)
	}
	return l, nil
}

// ours are the annotations that Berth wrote; nil for none.
func ours(all map[string]string) (kept map[string]string) {
	for _, key := range []string{repositoryAnnotation, missingAnnotation} {
		if value := all[key]; value != "" {
			if kept == nil {
				kept = make(map[string]string)
			}
			kept[key] = value
		}
	}
	return kept
}

// eachKey calls fn at the value of each key of an object, which fn decodes.
func eachKey(d *json.Decoder, fn func(key string) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.Join(err, errors.New("it is no JSON object"))
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		if err := fn(t.(string)); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// eachElement calls fn at each element of an array, which fn decodes. null has none.
func eachElement(d *json.Decoder, fn func() error) error {
	t, err := d.Token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return errors.New("it is no JSON array")
	}
	for d.More() {
		if err := fn(); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// An imageName is a name as tools write it.
type imageName struct {
	host       string // "" for none
	repository string // "" if the name is a tag alone
	tag        string // "" for none
}

// splitName takes a name apart. As Docker has it, what is before the first slash is a host if it has a dot or a port, or is
// localhost. A word without : and / is a tag, if mayBeTag: that is how most tools name what is in a layout.
func splitName(text string, mayBeTag bool) (n imageName) {
	text, _, _ = strings.Cut(text, "@")
	if mayBeTag && !strings.ContainsAny(text, ":/") {
		if _, err := parseTag(text); err == nil {
			return imageName{tag: text}
		}
	}
	if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, '/') {
		text, n.tag = text[:i], text[i+1:]
	}
	if first, rest, ok := strings.Cut(text, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		n.host, text = first, rest
	}
	n.repository = text
	return n
}

// repositoryFor makes a repository's name of a file's: what has no name in a bundle goes there.
func repositoryFor(file string) string {
	base := strings.ToLower(path.Base(strings.ReplaceAll(file, "\\", "/")))
	for _, suffix := range []string{".gz", ".tgz", ".zst", ".bz2", ".tar", ".oci"} {
		base = strings.TrimSuffix(base, suffix)
	}
	base = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, base)
	base = strings.Trim(base[:min(len(base), 100)], "-")
	if _, err := parseName(base); err != nil {
		return "imported"
	}
	return base
}
