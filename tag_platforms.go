// One tag for all platforms.
//
// Where a rule of policy.toml says so, a tag that is pushed from several machines
// becomes an index of what each has pushed, made here:
//
//	same-tag  app:1.0 is pushed for amd64, then for arm64: it is an index of both
//	suffix    app:1.0-amd64 and app:1.0-arm64 are pushed: app:1.0 is an index of both
//
// An index has one member for a platform; the next push for that platform takes its
// place. The platform is what the image's config says. What is no image (a chart, a
// signature, an attestation) is never a member. The index is made in the transaction
// of the push, so pushes at the same time all find their way in, and its bytes
// depend on its members alone.
//
// BuildKit wraps an image for one platform in an index with its attestations. That
// counts as the image: it is a member, and what was pushed stays as long as it is.
//
// The registry only changes what it has made: the tag remembers that (tag.made).
// What a client has put on a tag, in particular an index, stays until a client
// takes it away.

package main

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A platform is what an image runs on, in the words of its config. The order of
// fields is that of Docker's own lists.
type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	OSVersion    string `json:"os.version,omitempty"`
	Variant      string `json:"variant,omitempty"`
}

func (p platform) String() string {
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	if p.OSVersion != "" {
		text += " " + p.OSVersion
	}
	return text
}

// same is the platform as it is compared with others: as containerd does, for
// which arm64/8 is arm64 and arm is arm/v7.
func (p platform) same() platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	switch p.Architecture {
	case "i386":
		p.Architecture, p.Variant = "386", ""
	case "x86_64", "x86-64", "amd64":
		p.Architecture = "amd64"
		if p.Variant == "v1" {
			p.Variant = ""
		}
	case "aarch64", "arm64":
		p.Architecture = "arm64"
		if p.Variant == "8" || p.Variant == "v8" {
			p.Variant = ""
		}
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	case "arm":
		switch p.Variant {
		case "":
			p.Variant = "v7"
		case "5", "6", "7", "8":
			p.Variant = "v" + p.Variant
		}
	}
	return p
}

// suffixes are the ends of tags that name a platform, after a -. Which one it is
// they do not say: the image does.
var suffixes = func() map[string]bool {
	words := []string{"amd64", "x86_64", "x86-64", "x64", "arm64", "arm64v8", "arm64-v8", "aarch64", "arm",
		"armhf", "armel", "armv5", "armv6", "armv7", "armv6l", "armv7l", "armv8", "arm32v5", "arm32v6", "arm32v7", "arm-v5", "arm-v6", "arm-v7", "armv7hf",
		"386", "i386", "x86", "riscv64", "ppc64le", "s390x", "mips64le", "loong64", "loongarch64"}
	all := make(map[string]bool)
	for _, word := range words {
		for _, os := range []string{"", "linux-", "windows-", "freebsd-", "darwin-"} {
			all[os+word] = true
		}
	}
	return all
}()

// suffixList is the same for SQL.
var suffixList = func() string {
	text, _ := json.Marshal(slices.Sorted(maps.Keys(suffixes))) // strings: no error
	return string(text)
}()

// baseOf returns what is before the platform in a tag; "" if there is none.
func baseOf(tag string) string {
	for i := range len(tag) {
		// The longest suffix counts: app-linux-arm64 is of app.
		if tag[i] == '-' && i > 0 && suffixes[tag[i+1:]] {
			return tag[:i]
		}
	}
	return ""
}

const (
	// maxConfig bounds the configs that are read for their platform, in bytes;
	// real ones have some KiB.
	maxConfig = 1 << 20
	// maxMembers bounds an index that the registry makes: each push writes it anew.
	maxMembers = 64
)

// platformWord is what the parts of a platform look like: they are shown to people.
var platformWord = expression(`^[A-Za-z0-9._-]{1,64}$`)

// plain reports whether a platform says what it is, in words of that form.
func (p platform) plain() bool {
	for _, word := range []string{p.OS, p.Architecture, cmp.Or(p.OSVersion, "-"), cmp.Or(p.Variant, "-")} {
		if !platformWord().MatchString(word) || word == "unknown" {
			return false
		}
	}
	return true
}

// A platformFinder knows which platforms the images of its store are for.
type platformFinder struct{ *store }

// platformOf returns the platform of a manifest of a repository, as JSON; "" if it is
// not an image for one.
func (pf *platformFinder) platformOf(repository string, m *manifest) (string, error) {
	if isIndex(m.mediaType) {
		d := attestedImage(m.body)
		if d == "" {
			return "", nil
		}
		image, err := pf.lookUpManifest(repository, reference{digest: d}, false)
		if errors.Is(err, errManifestUnknown) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		if image.size > maxConfig {
			return "", nil // no image has so many layers
		}
		body, release, err := pf.bodyOf(context.Background(), image)
		if errors.Is(err, errManifestUnknown) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		defer release()
		if m, err = parseManifest(body, image.mediaType, d); err != nil {
			return "", nil
		}
	}
	isImage := (m.mediaType == typeOCIManifest || m.mediaType == typeDockerManifest) &&
		(m.config.mediaType == typeOCIConfig || m.config.mediaType == typeDockerConfig) && m.subject == ""
	if !isImage {
		return "", nil
	}
	text, err := pf.readConfig(repository, m.config.digest)
	if err != nil || text == nil {
		return "", err
	}
	var p platform
	if json.Unmarshal(text, &p) != nil || !p.plain() {
		return "", nil
	}
	out, err := json.Marshal(p)
	return string(out), err
}

// attestedImage returns the one image in an index whose other members all say that
// they are attestations; "" if it is not of that kind.
func attestedImage(body []byte) (image digest.Digest) {
	var index struct {
		Manifests []struct {
			Digest      digest.Digest     `json:"digest"`
			Annotations map[string]string `json:"annotations"`
		} `json:"manifests"`
	}
	if json.Unmarshal(body, &index) != nil || len(index.Manifests) < 2 {
		return ""
	}
	for _, m := range index.Manifests {
		switch {
		case m.Annotations["vnd.docker.reference.type"] == "attestation-manifest":
		case image != "":
			return ""
		default:
			image = m.Digest
		}
	}
	return image
}

// readConfig returns the bytes of a repository's config; nil if they are not there,
// or not what the digest says, or too many.
func (pf *platformFinder) readConfig(repository string, d digest.Digest) ([]byte, error) {
	var size int64
	err := pf.get(`SELECT b.size FROM repository r JOIN blob b ON b.digest = ? AND b.damaged IS NULL
		JOIN link l ON l.repository = r.id AND l.blob = b.id WHERE r.name = ?`, []any{d, repository}, &size)
	if errors.Is(err, sql.ErrNoRows) || err == nil && size > maxConfig {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := openSized(pf.path(d), size)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errDamaged) {
		return nil, nil // whoever pulls it finds out
	}
	if err != nil {
		return nil, fmt.Errorf("reading a config: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil && !isBadSector(err) {
		return nil, fmt.Errorf("reading a config: %w", err)
	}
	if d.Algorithm().FromBytes(text) != d {
		return nil, nil
	}
	return text, nil
}

// errPlatformsUnknown says that a transaction needs to know the platforms of some manifests,
// which nobody has looked for yet.
type errPlatformsUnknown struct{ manifests []int64 }

func (e *errPlatformsUnknown) Error() string { return "platforms are still to be looked for" }

// updateKnowing is update for an fn that may want to know platforms, which are in
// files: then they are read outside of the transaction, and it runs again.
func (pf *platformFinder) updateKnowing(fn func(*tx) error) error {
	for {
		err := pf.updateSynced(fn)
		var look *errPlatformsUnknown
		if !errors.As(err, &look) {
			return err
		}
		if err := pf.lookForPlatforms(look.manifests); err != nil {
			return err
		}
	}
}

// lookForPlatforms finds out the platforms of manifests that were pushed before
// anybody asked for them.
func (pf *platformFinder) lookForPlatforms(manifests []int64) error {
	for some := range slices.Chunk(manifests, collectAtOnce) {
		if err := pf.lookForSome(some); err != nil {
			return err
		}
	}
	return nil
}

func (pf *platformFinder) lookForSome(manifests []int64) error {
	found := make(map[int64]string)
	for _, id := range manifests {
		var d digest.Digest
		var repository, mediaType string
		var body []byte
		err := pf.get(`SELECT r.name, m.digest, m.media_type, m.body FROM manifest m JOIN repository r ON r.id = m.repository WHERE m.id = ?`,
			[]any{id}, &repository, &d, &mediaType, &body)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		if why := examineManifest(d, body); why != nil {
			found[id] = "" // until it is pushed again
			pf.takeManifest(id, d, why)
		} else if m, err := parseManifest(body, mediaType, d); err != nil {
			found[id] = ""
		} else if found[id], err = pf.platformOf(repository, m); err != nil {
			return err
		}
	}
	return pf.updateLazy(func(t *tx) error {
		for id, platform := range found {
			if _, err := t.exec(`UPDATE manifest SET platform = ? WHERE id = ? AND platform IS NULL`, platform, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// A member is an entry of an index, as it is written there.
type member struct {
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Digest    digest.Digest `json:"digest"`
	Platform  platform      `json:"platform"`
}

// addMember puts a member in the place of the one for its platform.
func addMember(members []member, m member) []member {
	members = slices.DeleteFunc(slices.Clone(members), func(old member) bool {
		return old.Digest == m.Digest || old.Platform.same() == m.Platform.same()
	})
	return append(members, m)
}

func withoutMember(members []member, d digest.Digest) []member {
	return slices.DeleteFunc(slices.Clone(members), func(m member) bool { return m.Digest == d })
}

// makeIndex returns the index of some members: Docker's list if all are Docker's,
// else an OCI index. The same members give the same bytes.
func makeIndex(members []member) (*manifest, error) {
	members = slices.SortedFunc(slices.Values(members), func(a, b member) int {
		p, q := a.Platform, b.Platform
		return cmp.Or(strings.Compare(p.OS, q.OS), strings.Compare(p.Architecture, q.Architecture),
			strings.Compare(p.Variant, q.Variant), strings.Compare(p.OSVersion, q.OSVersion), cmp.Compare(a.Digest, b.Digest))
	})
	mediaType := typeDockerList
	if slices.ContainsFunc(members, func(m member) bool { return m.MediaType != typeDockerManifest }) {
		mediaType = typeOCIIndex
	}
	body, err := json.Marshal(struct {
		SchemaVersion int      `json:"schemaVersion"`
		MediaType     string   `json:"mediaType"`
		Manifests     []member `json:"manifests"`
	}{2, mediaType, members})
	if err != nil {
		return nil, err
	}
	return parseManifest(body, mediaType, digest.FromBytes(body))
}

// parseIndex returns the members of an index that makeIndex has made.
func parseIndex(body []byte) ([]member, error) {
	var index struct {
		Manifests []member `json:"manifests"`
	}
	err := json.Unmarshal(body, &index)
	return index.Manifests, err
}

// defaultPlatform is what a client gets that takes no index: Docker's registry
// does the same.
var defaultPlatform = platform{OS: "linux", Architecture: "amd64"}

// forOnePlatform returns the member of an index of the registry's for a client that
// takes no index.
func (pf *platformFinder) forOnePlatform(repository string, index *storedManifest, promise bool) (*storedManifest, error) {
	members, err := parseIndex(index.body)
	if err != nil {
		return nil, err
	}
	var has []string
	for _, m := range members {
		if m.Platform.same() == defaultPlatform {
			return pf.findManifest(repository, reference{digest: m.Digest}, promise)
		}
		has = append(has, m.Platform.String())
	}
	return nil, errManifestUnknown.withf("the tag is an index of %s, and the request accepts none", strings.Join(has, ", "))
}

// platforms returns what an image or an index is for, for people; only what the
// manifest's row tells, or its bytes.
func platforms(stored string, mediaType string, body []byte) (list []string) {
	if stored != "" {
		var p platform
		if json.Unmarshal([]byte(stored), &p) == nil {
			return []string{p.String()}
		}
	}
	if !isIndex(mediaType) || !bytes.Contains(body, []byte("platform")) {
		return nil
	}
	members, err := parseIndex(body)
	if err != nil {
		return nil
	}
	for _, m := range members {
		if m.Platform.plain() {
			list = append(list, m.Platform.String())
		}
	}
	return list
}
