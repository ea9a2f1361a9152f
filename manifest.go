// Manifests: bytes in, descriptors out. Nothing here does I/O.
//
// parseManifest is the only reader of a manifest's JSON. It accepts what the
// image specification and Docker's schema 2 describe, in any media type, with
// any further fields, and refuses what two readers could understand in two
// ways: a document that is both an image and an index, a mediaType other than
// the Content-Type it came with, keys that differ in case only.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

// Media types that mean something to a registry. All others are only stored.
const (
	typeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	typeOCIArtifact    = "application/vnd.oci.artifact.manifest.v1+json" // withdrawn, still about
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeOCIConfig      = "application/vnd.oci.image.config.v1+json"
	typeHelmConfig     = "application/vnd.cncf.helm.config.v1+json"
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	typeDockerSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	typeDockerSigned1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// maxManifest is the largest manifest taken, in bytes: the specification asks
// for at least this, and other registries and clients refuse more.
const maxManifest = 4 << 20

// A manifest is what Berth reads out of a manifest's bytes.
type manifest struct {
	digest       digest.Digest
	mediaType    string          // as stored and served, without parameters
	artifactType string          // as the referrers list shows it; may be empty
	annotations  json.RawMessage // an object, compact; nil if there are none
	subject      digest.Digest   // empty if there is none
	config       descriptor      // of an image; zero if there is none
	blobs        []digest.Digest // config, layers: blobs that must be there
	children     []digest.Digest // members of an index: manifests (or blobs) that must be there
	foreign      []digest.Digest // layers kept elsewhere, which may be absent
	body         []byte
}

// A descriptor is the part of the image specification's descriptor that a
// registry needs.
type descriptor struct {
	mediaType string
	digest    digest.Digest
}

// parseManifest reads body, which came with the header contentType (empty if
// none), and whose digest is dgst. The error is errManifestInvalid with a
// detail that says where.
func parseManifest(body []byte, contentType string, dgst digest.Digest) (*manifest, error) {
	if !json.Valid(body) {
		return nil, errManifestInvalid.with("the body is not one JSON document")
	}
	doc, err := parseObject(body)
	if err != nil {
		return nil, errManifestInvalid.withf("the body is not a manifest: %v", err)
	}
	m := &manifest{digest: dgst, body: body}
	if m.mediaType, err = parseType(doc, contentType); err != nil {
		return nil, err
	}
	if err := checkShape(doc, m.mediaType); err != nil {
		return nil, err
	}
	configType, err := m.parseReferences(doc)
	if err != nil {
		return nil, err
	}
	m.artifactType, err = stringField(doc, "artifactType")
	if err != nil {
		return nil, errManifestInvalid.with(err.Error())
	}
	if m.artifactType == "" && doc["manifests"] == nil {
		m.artifactType = configType
	}
	if raw := doc["annotations"]; raw != nil {
		annotations := map[string]string{}
		if err := json.Unmarshal(raw, &annotations); err != nil {
			return nil, errManifestInvalid.withf("annotations: want an object of strings: %v", err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, raw); err != nil {
			return nil, errManifestInvalid.withf("annotations: %v", err)
		}
		m.annotations = compact.Bytes()
	}
	return m, nil
}

// parseType returns a document's media type without parameters: that of the
// header, else its own, else what it looks like. Header and document must agree.
func parseType(doc map[string]json.RawMessage, contentType string) (string, error) {
	declared, err := stringField(doc, "mediaType")
	if err != nil {
		return "", errManifestInvalid.with(err.Error())
	}
	given, where := contentType, "Content-Type"
	if given == "" {
		given, where = declared, "mediaType"
	}
	if given == "" {
		if doc["manifests"] != nil {
			return typeOCIIndex, nil
		}
		return typeOCIManifest, nil
	}
	mediaType, _, err := mime.ParseMediaType(given)
	if err != nil {
		return "", errManifestInvalid.withf("%s %q is not a media type", where, given)
	}
	if contentType != "" && declared != "" && !strings.EqualFold(declared, mediaType) {
		return "", errManifestInvalid.withf("mediaType is %q, but the Content-Type %q", declared, mediaType)
	}
	return mediaType, nil
}

// checkShape refuses schema 1, and a document whose shape and type do not agree
// (CVE-2021-41190).
func checkShape(doc map[string]json.RawMessage, mediaType string) error {
	version := string(doc["schemaVersion"])
	index := isIndex(mediaType)
	isImage := mediaType == typeOCIManifest || mediaType == typeDockerManifest
	hasMembers := doc["manifests"] != nil
	hasContent := doc["config"] != nil || doc["layers"] != nil || doc["blobs"] != nil
	switch {
	case version == "1", doc["fsLayers"] != nil, mediaType == typeDockerSchema1, mediaType == typeDockerSigned1:
		return errManifestInvalid.with("Docker schema 1 is not supported; push the image again with a client from 2017 or later")
	case version != "" && version != "2":
		return errManifestInvalid.withf("schemaVersion is %.20s, want 2", version)
	case hasMembers && hasContent, index && hasContent, isImage && hasMembers:
		return errManifestInvalid.with("the document is an image and an index at once")
	case index && !hasMembers:
		return errManifestInvalid.with("an index without manifests")
	case isImage && doc["config"] == nil:
		return errManifestInvalid.with("an image manifest without config")
	case (index || isImage) && version == "":
		return errManifestInvalid.with("no schemaVersion")
	}
	return nil
}

// parseReferences reads what the document refers to, each digest once, and
// returns the media type of its config.
func (m *manifest) parseReferences(doc map[string]json.RawMessage) (configType string, err error) {
	if raw := doc["config"]; raw != nil {
		d, err := parseDescriptor(raw)
		if err != nil {
			return "", errManifestInvalid.withf("config: %v", err)
		}
		configType, m.config = d.mediaType, d
		m.blobs = append(m.blobs, d.digest)
	}
	for _, key := range []string{"layers", "blobs"} {
		list, err := parseDescriptors(doc, key)
		if err != nil {
			return "", err
		}
		for _, d := range list {
			if isForeign(d.mediaType) {
				m.foreign = append(m.foreign, d.digest)
			} else {
				m.blobs = append(m.blobs, d.digest)
			}
		}
	}
	members, err := parseDescriptors(doc, "manifests")
	if err != nil {
		return "", err
	}
	for _, d := range members {
		m.children = append(m.children, d.digest)
	}
	if raw := doc["subject"]; raw != nil {
		d, err := parseDescriptor(raw)
		if err != nil {
			return "", errManifestInvalid.withf("subject: %v", err)
		}
		m.subject = d.digest
	}
	m.blobs, m.children, m.foreign = unique(m.blobs), unique(m.children), unique(m.foreign)
	return configType, nil
}

// parseObject reads the keys of a JSON object that matter to a registry; a null
// value counts as absent. Unlike a decode into a struct it tells keys of
// different case apart, and refuses two keys that another reader might take for
// one. It keeps nothing of the rest, however much there is.
func parseObject(raw []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("want an object")
	}
	doc := make(map[string]json.RawMessage)
	var rest json.RawMessage // what is skipped, in one buffer
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		key := t.(string)
		i := slices.IndexFunc(structuralKeys, func(known string) bool { return strings.EqualFold(known, key) })
		if i < 0 {
			if err := d.Decode(&rest); err != nil {
				return nil, err
			}
			continue
		}
		if key != structuralKeys[i] {
			return nil, fmt.Errorf("key %q: did you mean %q?", key, structuralKeys[i])
		}
		if _, twice := doc[key]; twice {
			return nil, fmt.Errorf("key %q is there twice", key)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		if string(value) == "null" {
			value = nil
		}
		doc[key] = value
	}
	return doc, nil
}

// structuralKeys are the keys that decide what a document is and refers to.
var structuralKeys = []string{"schemaVersion", "fsLayers", "mediaType", "artifactType", "config", "layers", "blobs",
	"manifests", "subject", "annotations", "digest", "size"}

// maxDescriptors bounds what one manifest refers to, so that its transaction
// does not keep others waiting. Images have at most a few hundred layers.
const maxDescriptors = 20000

func parseDescriptors(doc map[string]json.RawMessage, key string) ([]descriptor, error) {
	if doc[key] == nil {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(doc[key]))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, errManifestInvalid.withf("%s: want an array", key)
	}
	var list []descriptor
	var raw json.RawMessage
	for d.More() {
		if len(list) == maxDescriptors {
			return nil, errManifestInvalid.withf("%s: more than %d", key, maxDescriptors)
		}
		err := d.Decode(&raw)
		var x descriptor
		if err == nil {
			x, err = parseDescriptor(raw)
		}
		if err != nil {
			return nil, errManifestInvalid.withf("%s[%d]: %v", key, len(list), err)
		}
		list = append(list, x)
	}
	return list, nil
}

// parseDescriptor reads a content descriptor: mediaType, a supported digest
// and a size that is a whole number, not negative.
func parseDescriptor(raw []byte) (descriptor, error) {
	var d descriptor
	doc, err := parseObject(raw)
	if err != nil {
		return d, err
	}
	if d.mediaType, err = stringField(doc, "mediaType"); err != nil {
		return d, err
	}
	text, err := stringField(doc, "digest")
	if err != nil {
		return d, err
	}
	if d.digest, err = parseDigest(text); err != nil {
		return d, err
	}
	var size int64
	if err := json.Unmarshal(doc["size"], &size); err != nil || size < 0 {
		return d, fmt.Errorf("size %.40q of %s is not a number of bytes", string(doc["size"]), text)
	}
	return d, nil
}

// stringField returns the string at key, "" if there is none.
func stringField(doc map[string]json.RawMessage, key string) (string, error) {
	var s string
	if raw := doc[key]; raw != nil {
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", fmt.Errorf("%s: want a string", key)
		}
	}
	return s, nil
}

// isForeign reports whether a layer of this type is kept elsewhere: it is in
// the manifest with the URLs it can be had from, and clients do not push it.
func isForeign(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.foreign.diff.tar") ||
		strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.nondistributable.v1.tar")
}

func unique(list []digest.Digest) []digest.Digest {
	seen := make(map[digest.Digest]bool, len(list))
	out := list[:0]
	for _, d := range list {
		if !seen[d] {
			seen[d] = true
			out = append(out, d)
		}
	}
	return out
}

// parseDigest checks that s is a sha256 or sha512 digest in the only form that
// is stored: lower-case hexadecimal of full length. The result is safe as a
// file name.
func parseDigest(s string) (digest.Digest, error) {
	algorithm, hex, _ := strings.Cut(s, ":")
	digits := 2 * digest.Algorithm(algorithm).Size()
	switch d := digest.Digest(s); {
	case algorithm != "sha256" && algorithm != "sha512" && hex != "" && len(s) < maxDigest:
		return "", errDigestInvalid.withf("digest algorithm of %.80q is not supported; use sha256 or sha512", s)
	case algorithm != "sha256" && algorithm != "sha512":
		return "", errDigestInvalid.withf("%.80q is not a digest, which is sha256: and 64 hexadecimal digits, or sha512: and 128", s)
	case len(hex) != digits:
		return "", errDigestInvalid.withf("%.80q is not a digest: %s: has %d digits, and this has %d", s, algorithm, digits, utf8.RuneCountInString(hex))
	case !isHex(hex):
		return "", errDigestInvalid.withf("%.80q is not a digest: its digits are 0 to 9 and a to f", s)
	default:
		return d, nil
	}
}

const (
	maxName   = 255 // distribution specification, "Pulling manifests": clients may limit to this
	maxTag    = 128 // likewise
	maxDigest = len("sha512:") + 128
)

// isName reports whether s is a name by the specification's grammar, of whatever length. A loop, like the
// ones below: each request has a name, and regular expressions cost more than the rest of looking it up.
func isName(s string) bool {
	for i := 0; ; {
		begin := i
		for i < len(s) && isLowerOrDigit(s[i]) {
			i++
		}
		if i == begin || i == len(s) {
			return i > begin
		}
		switch s[i] {
		case '/', '.':
			i++
		case '_':
			if i++; i < len(s) && s[i] == '_' {
				i++
			}
		case '-':
			for i < len(s) && s[i] == '-' {
				i++
			}
		default:
			return false
		}
	}
}

func isLowerOrDigit(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// isTag reports whether s is a tag by the specification's grammar.
func isTag(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !isLowerOrDigit(c) && (c < 'A' || c > 'Z') && c != '_' && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= maxTag
}

// isHex reports whether all of s are digits of a digest.
func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// parseName checks a repository name by the specification's grammar and length.
func parseName(s string) (string, error) {
	if len(s) <= maxName && isName(s) {
		return s, nil
	}
	if len(s) > maxName {
		return "", errNameInvalid.withf("longer than %d characters", maxName)
	}
	if lower := lowerName(s); lower != "" {
		return "", errNameInvalid.withf("%q: names are in lower case: %s", s, lower)
	}
	return "", errNameInvalid.withf("%q: want lower-case letters and digits, with single . _ - between them, and / between components", s)
}

// lowerName returns the name that s would be in lower case; "" if it is one as it is, or is
// none then either.
func lowerName(s string) string {
	lower := strings.ToLower(s)
	if lower == s || !isName(lower) {
		return ""
	}
	return lower
}

// parseTag checks a tag by the specification's grammar.
func parseTag(s string) (string, error) {
	if !isTag(s) {
		return "", errTagInvalid.withf("%.140q: want letters, digits, . _ -, at most %d characters", s, maxTag)
	}
	return s, nil
}

// A reference names a manifest in a repository: one of the two is set.
type reference struct {
	tag    string
	digest digest.Digest
}

// parseReference reads a tag or a digest: what holds a colon is a digest.
func parseReference(s string) (reference, error) {
	if strings.Contains(s, ":") {
		d, err := parseDigest(s)
		return reference{digest: d}, err
	}
	tag, err := parseTag(s)
	return reference{tag: tag}, err
}

// of is how people write a reference in a repository: NAME:TAG, NAME@DIGEST, or NAME.
func (r reference) of(name string) string {
	switch {
	case r.tag != "":
		return name + ":" + r.tag
	case r.digest != "":
		return name + "@" + r.digest.String()
	}
	return name
}

func (r reference) String() string {
	if r.tag != "" {
		return r.tag
	}
	return r.digest.String()
}

func isIndex(mediaType string) bool { return mediaType == typeOCIIndex || mediaType == typeDockerList }

// takesIndex reports whether a client says that it can read an index, or says
// nothing.
func takesIndex(accept []string) bool {
	said := false
	for _, value := range accept {
		for part := range strings.SplitSeq(value, ",") {
			mediaType, _, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			said = true
			switch mediaType {
			case typeOCIIndex, typeDockerList, "*/*", "application/*":
				return true
			}
		}
	}
	return !said
}

// inert reports whether browsers run nothing that is of a media type. A stranger may
// have chosen another for a manifest.
func inert(mediaType string) bool {
	switch mediaType {
	case typeBlob, typeOCIManifest, typeOCIIndex, typeDockerManifest, typeDockerList:
		return true
	}
	return false
}
