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
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"mime"
	"net/http"
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

// same is the platform as it is compared with others: clients take arm64 for
// arm64/v8, and arm for arm/v7.
func (p platform) same() platform {
	p.Architecture = cmp.Or(architectures[p.Architecture], p.Architecture)
	switch {
	case p.Architecture == "arm64" && p.Variant == "v8", p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// architectures are other names of some.
var architectures = map[string]string{"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}

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
	base := ""
	for i := range len(tag) {
		// The longest suffix counts: app-linux-arm64 is of app.
		if tag[i] == '-' && i > 0 && suffixes[tag[i+1:]] {
			base = tag[:i]
			break
		}
	}
	return base
}

const (
	// maxConfig bounds the configs that are read for their platform, in bytes;
	// real ones have some KiB.
	maxConfig = 1 << 20
	// maxMembers bounds an index that the registry makes: each push writes it anew.
	maxMembers = 64
	// maxPlatformWord bounds the parts of a platform.
	maxPlatformWord = 64
)

// platformOf returns the platform of a manifest of a repository, as JSON; "" if it is
// not an image for one.
func (st *store) platformOf(repository string, m *manifest) (string, error) {
	if isIndex(m.mediaType) {
		d := attestedImage(m.body)
		if d == "" {
			return "", nil
		}
		image, err := st.lookUpManifest(repository, reference{digest: d}, false)
		if errors.Is(err, errManifestUnknown) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		if m, err = parseManifest(image.body, image.mediaType, d); err != nil {
			return "", nil
		}
	}
	isImage := (m.mediaType == typeOCIManifest || m.mediaType == typeDockerManifest) &&
		(m.config.mediaType == typeOCIConfig || m.config.mediaType == typeDockerConfig) && m.subject == ""
	if !isImage {
		return "", nil
	}
	text, err := st.readConfig(m.config.digest)
	if err != nil || text == nil {
		return "", err
	}
	var p platform
	if json.Unmarshal(text, &p) != nil || p.OS == "" || p.Architecture == "" || p.OS == "unknown" || p.Architecture == "unknown" ||
		max(len(p.OS), len(p.Architecture), len(p.OSVersion), len(p.Variant)) > maxPlatformWord {
		return "", nil
	}
	out, err := json.Marshal(p)
	return string(out), err
}

func isIndex(mediaType string) bool { return mediaType == typeOCIIndex || mediaType == typeDockerList }

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

// readConfig returns the bytes of a config; nil if they are not here, or not what
// the digest says, or too many.
func (st *store) readConfig(d digest.Digest) ([]byte, error) {
	var size int64
	err := st.get(`SELECT size FROM blob WHERE digest = ? AND damaged IS NULL`, []any{d}, &size)
	if errors.Is(err, sql.ErrNoRows) || err == nil && size > maxConfig {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := openSized(st.path(d), size)
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

// errLook says that a transaction needs to know the platforms of some manifests,
// which nobody has looked for yet.
type errLook struct{ manifests []int64 }

func (e *errLook) Error() string { return "platforms are still to be looked for" }

// updateKnowing is update for an fn that may want to know platforms, which are in
// files: then they are read outside of the transaction, and it runs again.
func (st *store) updateKnowing(fn func(*tx) error) error {
	for {
		err := st.update(fn)
		var look *errLook
		if !errors.As(err, &look) {
			return err
		}
		if err := st.lookForPlatforms(look.manifests); err != nil {
			return err
		}
	}
}

// lookForPlatforms finds out the platforms of manifests that were pushed before
// anybody asked for them.
func (st *store) lookForPlatforms(manifests []int64) error {
	found := make(map[int64]string)
	for _, id := range manifests {
		var d digest.Digest
		var repository, mediaType string
		var body []byte
		err := st.get(`SELECT r.name, m.digest, m.media_type, m.body FROM manifest m JOIN repository r ON r.id = m.repository WHERE m.id = ?`,
			[]any{id}, &repository, &d, &mediaType, &body)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		if m, err := parseManifest(body, mediaType, d); err != nil {
			found[id] = "" // damaged
		} else if found[id], err = st.platformOf(repository, m); err != nil {
			return err
		}
	}
	return st.updateLazy(func(t *tx) error {
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
	Size      int           `json:"size"`
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

// A pushing is a change of tags by the rules about them, under way.
type pushing struct {
	*tx
	rules *tagRules
	c     *change
	repo  repository
	it    target // what is pushed
}

// tag points a tag at what is pushed, or at an index that has it.
func (p *pushing) tag(tag string) error {
	was, err := p.findTag(p.repo.id, tag)
	if err != nil {
		return err
	}
	to := p.it
	rule := p.rules.indexedBy(p.repo.name, tag, fromSameTag)
	if rule != nil && p.it.platform.String != "" && was.id != 0 && was.id != p.it.id {
		if to, err = p.join(tag, was, rule); err != nil {
			return err
		}
	}
	if err := p.move(tag, was, to); err != nil {
		return err
	}
	return p.rebase(tag, was, p.it)
}

// untag takes a tag away.
func (p *pushing) untag(tag string, was target) error {
	if err := p.move(tag, was, target{}); err != nil {
		return err
	}
	return p.rebase(tag, was, target{})
}

// move points a tag at something else, if the rules allow it. A tag may become an
// index that has more than before.
func (p *pushing) move(tag string, was, to target) error {
	if was.id != 0 && was.id != to.id {
		grows, err := p.grows(was, to)
		if err != nil {
			return err
		}
		if rule := p.rules.immutableBy(p.repo.name, tag); rule != nil && !grows && !p.c.force {
			return immutableError(p.repo.name, tag, rule)
		}
		if to.id != 0 && !grows && !p.c.overwrite {
			return errDenied.saying("the tag %s is there already; you may push new tags, but not overwrite", tag)
		}
	}
	return p.moveTag(p.c, p.repo, tag, was, to)
}

func immutableError(repository, tag string, rule *tagRule) error {
	return errDenied.saying("%s:%s is immutable, by the rule %s", repository, tag, rule)
}

// grows reports whether a tag moves to an index that has all it had.
func (p *pushing) grows(was, to target) (bool, error) {
	if !to.made {
		return false, nil
	}
	next, err := p.members(to)
	if err != nil {
		return false, err
	}
	had := []digest.Digest{was.digest}
	if was.platform.String != "" {
		m, err := p.member(was)
		if err != nil {
			return false, err
		}
		had[0] = m.Digest
	}
	if was.made {
		members, err := p.members(was)
		if err != nil {
			return false, err
		}
		had = had[:0]
		for _, m := range members {
			had = append(had, m.Digest)
		}
	}
	for _, d := range had {
		if !slices.ContainsFunc(next, func(m member) bool { return m.Digest == d }) {
			return false, nil
		}
	}
	return true, nil
}

// member returns a target that is an image, or has one, as a member.
func (p *pushing) member(it target) (m member, err error) {
	m = member{MediaType: it.mediaType, Size: it.size, Digest: it.digest}
	if isIndex(it.mediaType) {
		var body []byte
		if err := p.get(`SELECT body FROM manifest WHERE id = ?`, []any{it.id}, &body); err != nil {
			return m, err
		}
		image, err := p.findTarget(p.repo.id, attestedImage(body))
		if err != nil {
			return m, fmt.Errorf("the image in %s: %w", it.digest, err)
		}
		m = member{MediaType: image.mediaType, Size: image.size, Digest: image.digest}
	}
	return m, json.Unmarshal([]byte(it.platform.String), &m.Platform)
}

// members returns those of an index that the registry has made.
func (p *pushing) members(index target) ([]member, error) {
	var body []byte
	if err := p.get(`SELECT body FROM manifest WHERE id = ?`, []any{index.id}, &body); err != nil {
		return nil, err
	}
	members, err := parseIndex(body)
	if err != nil {
		return nil, fmt.Errorf("reading the index %s: %w", index.digest, err)
	}
	return members, nil
}

// join returns what a tag shall point at when an image is pushed that may be one of
// several.
func (p *pushing) join(tag string, was target, rule *tagRule) (to target, err error) {
	it, err := p.member(p.it)
	if err != nil {
		return to, err
	}
	var members []member
	switch {
	case was.made:
		if members, err = p.members(was); err != nil {
			return to, err
		}
	case !was.platform.Valid:
		return to, &errLook{[]int64{was.id}}
	case was.platform.String == "" && isIndex(was.mediaType):
		return to, errDenied.saying("%s:%s is an index that a client has pushed, and %s does not replace those: delete the tag first, or push an index",
			p.repo.name, tag, rule)
	case was.platform.String == "":
		return p.it, nil // that was no image
	default:
		first, err := p.member(was)
		if err != nil {
			return to, err
		}
		if first.Platform.same() == it.Platform.same() {
			return p.it, nil
		}
		members = []member{first}
	}
	return p.index(tag, addMember(members, it))
}

// index makes sure that the repository has the index of some members.
func (p *pushing) index(tag string, members []member) (to target, err error) {
	if len(members) > maxMembers {
		return to, errDenied.saying("%s:%s has %d platforms already, which is as many as may be", p.repo.name, tag, maxMembers)
	}
	m, err := makeIndex(members)
	if err != nil {
		return to, err
	}
	to = target{digest: m.digest, mediaType: m.mediaType, size: len(m.body), platform: sql.NullString{Valid: true}, made: true}
	var deleted bool
	err = p.get(`SELECT id, deleted IS NOT NULL FROM manifest WHERE repository = ? AND digest = ?`, []any{p.repo.id, m.digest}, &to.id, &deleted)
	if err == nil && deleted {
		err = errors.Join(p.removeManifest(p.repo.id, to.id, m.digest), sql.ErrNoRows)
	}
	switch {
	case err == nil:
		_, err = p.exec(`UPDATE manifest SET body = ?2, damaged = NULL WHERE id = ?1 AND damaged IS NOT NULL`, to.id, m.body)
		if err != nil {
			return to, err
		}
		return to, p.hold(to.id, members)
	case !errors.Is(err, sql.ErrNoRows):
		return to, err
	}
	// A damaged member is there all the same: a push heals it.
	if to.id, err = p.insertManifest(p.repo.id, m, admission{damaged: true, platform: to.platform, made: true}); err != nil {
		return to, err
	}
	return to, p.hold(to.id, members)
}

// hold has an index keep what its members were pushed in, with their attestations.
func (p *pushing) hold(index int64, members []member) error {
	for _, m := range members {
		wraps, err := list(p.tx, scanOne[digest.Digest], `SELECT w.digest FROM names n JOIN manifest w ON w.id = n.manifest
			WHERE n.repository = ? AND n.digest = ? AND w.platform <> '' AND w.deleted IS NULL`, p.repo.id, m.Digest)
		if err != nil {
			return err
		}
		for _, d := range wraps {
			if _, err := p.exec(`INSERT OR IGNORE INTO names (repository, digest, manifest) VALUES (?, ?, ?)`, p.repo.id, d, index); err != nil {
				return err
			}
			if err := p.settleManifest(p.repo.id, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// rebase keeps the index app:1.0 when app:1.0-arm64 has moved, if a rule says so.
func (p *pushing) rebase(tag string, was, to target) error {
	base := baseOf(tag)
	if base == "" || was.id == to.id || p.rules.indexedBy(p.repo.name, base, fromSuffix) == nil {
		return nil
	}
	index, err := p.findTag(p.repo.id, base)
	if err != nil || index.id != 0 && !index.made || index.id == 0 && to.id == 0 {
		return err // there is none, or a client has put something there
	}
	others, err := p.siblings(base, tag)
	if err != nil {
		return err
	}
	var members []member
	if index.made {
		if members, err = p.members(index); err != nil {
			return err
		}
		if was.platform.String != "" && !slices.ContainsFunc(others, func(o target) bool { return o.id == was.id }) {
			left, err := p.member(was)
			if err != nil {
				return err
			}
			members = withoutMember(members, left.Digest)
		}
	} else if members, err = p.membersOf(others); err != nil {
		return err
	}
	if to.platform.String != "" {
		it, err := p.member(to)
		if err != nil {
			return err
		}
		members = addMember(members, it)
	}
	var next target
	if len(members) > 0 {
		if next, err = p.index(base, members); err != nil {
			return err
		}
	}
	return p.move(base, index, next)
}

// siblings returns what other tags with a suffix of the same base point at.
func (p *pushing) siblings(base, except string) (found []target, err error) {
	type sibling struct {
		target
		tag string
	}
	all, err := list(p.tx, func(rows *sql.Rows) (s sibling, err error) {
		err = rows.Scan(&s.tag, &s.id, &s.digest, &s.mediaType, &s.size, &s.platform)
		return s, err
	}, `SELECT t.name, `+targetColumns+` FROM tag t JOIN manifest m ON m.id = t.manifest
		WHERE t.repository = ?1 AND t.name IN (SELECT ?2 || '-' || value FROM json_each(?3)) AND t.name <> ?4`, p.repo.id, base, suffixList, except)
	if err != nil {
		return nil, err
	}
	var look errLook
	for _, s := range all {
		if baseOf(s.tag) != base {
			continue
		}
		if !s.platform.Valid {
			look.manifests = append(look.manifests, s.id)
		}
		found = append(found, s.target)
	}
	if look.manifests != nil {
		return nil, &look
	}
	return found, nil
}

// membersOf makes members of those that are images.
func (p *pushing) membersOf(targets []target) (members []member, err error) {
	for _, t := range targets {
		if t.platform.String == "" {
			continue
		}
		m, err := p.member(t)
		if err != nil {
			return nil, err
		}
		members = addMember(members, m)
	}
	return members, nil
}

// leaveIndexes takes a manifest that is about to be deleted out of the indexes that
// the registry has made. In any other it stays, which is errDenied unless members
// may be absent.
func (p *pushing) leaveIndexes(it target, sparse bool) error {
	parents, err := list(p.tx, func(rows *sql.Rows) (x target, err error) {
		err = rows.Scan(&x.id, &x.digest, &x.made)
		return x, err
	}, `SELECT m.id, m.digest, m.made AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest = m.id AND t.made = 0)
			AND NOT EXISTS (SELECT 1 FROM names o JOIN manifest q ON q.id = o.manifest AND q.deleted IS NULL WHERE o.repository = m.repository AND o.digest = m.digest)
		FROM names n JOIN manifest m ON m.id = n.manifest AND m.deleted IS NULL WHERE n.repository = ? AND n.digest = ?`, p.repo.id, it.digest)
	if err != nil {
		return err
	}
	left := it.digest
	if it.platform.String != "" && len(parents) > 0 {
		m, err := p.member(it)
		if err != nil {
			return err
		}
		left = m.Digest
	}
	for _, parent := range parents {
		if !parent.made && sparse {
			continue
		}
		if !parent.made {
			return errDenied.withf("the index %s has this manifest as a member; delete that first", parent.digest)
		}
		tags, err := list(p.tx, scanOne[string], `SELECT name FROM tag WHERE manifest = ?`, parent.id)
		if err != nil {
			return err
		}
		for _, tag := range tags {
			was, err := p.findTag(p.repo.id, tag)
			if err != nil {
				return err
			}
			members, err := p.members(was)
			if err != nil {
				return err
			}
			var next target
			if members = withoutMember(members, left); len(members) > 0 {
				if next, err = p.index(tag, members); err != nil {
					return err
				}
			}
			if err := p.move(tag, was, next); err != nil {
				return err
			}
		}
		if err := p.hideManifest(p.c, p.repo, parent.id, parent.digest); err != nil {
			return err
		}
	}
	return nil
}

// defaultPlatform is what a client gets that takes no index: Docker's registry
// does the same.
var defaultPlatform = platform{OS: "linux", Architecture: "amd64"}

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

// forOnePlatform returns the member of an index of the registry's for a client that
// takes no index.
func (st *store) forOnePlatform(repository string, index *storedManifest, promise bool) (*storedManifest, error) {
	members, err := parseIndex(index.body)
	if err != nil {
		return nil, err
	}
	var has []string
	for _, m := range members {
		if m.Platform.same() == defaultPlatform {
			return st.findManifest(repository, reference{digest: m.Digest}, promise)
		}
		has = append(has, m.Platform.String())
	}
	return nil, errManifestUnknown.withf("the tag is an index of %s, and the request accepts none", strings.Join(has, ", "))
}

// negotiate replaces what a tag points at by what the client can read, if that is
// an index of the registry's. What a client has pushed is served as it is.
func (s *server) negotiate(w http.ResponseWriter, r *http.Request, repository string, m *storedManifest) (*storedManifest, error) {
	if !m.made {
		return m, nil
	}
	w.Header().Add("Vary", "Accept")
	if takesIndex(r.Header["Accept"]) {
		return m, nil
	}
	return s.st.forOnePlatform(repository, m, r.Method == http.MethodHead)
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
		if m.Platform.OS != "" && m.Platform.OS != "unknown" {
			list = append(list, m.Platform.String())
		}
	}
	return list
}
