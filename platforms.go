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
	"regexp"
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
)

// platformWord is what the parts of a platform look like: they are shown to people.
var platformWord = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// plain reports whether a platform says what it is, in words of that form.
func (p platform) plain() bool {
	for _, word := range []string{p.OS, p.Architecture, cmp.Or(p.OSVersion, "-"), cmp.Or(p.Variant, "-")} {
		if !platformWord.MatchString(word) || word == "unknown" {
			return false
		}
	}
	return true
}

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
	text, err := st.readConfig(repository, m.config.digest)
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

// readConfig returns the bytes of a repository's config; nil if they are not there,
// or not what the digest says, or too many.
func (st *store) readConfig(repository string, d digest.Digest) ([]byte, error) {
	var size int64
	err := st.get(`SELECT b.size FROM repository r JOIN blob b ON b.digest = ? AND b.damaged IS NULL
		JOIN link l ON l.repository = r.id AND l.blob = b.id WHERE r.name = ?`, []any{d, repository}, &size)
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
	for some := range slices.Chunk(manifests, atOnce) {
		if err := st.lookForSome(some); err != nil {
			return err
		}
	}
	return nil
}

func (st *store) lookForSome(manifests []int64) error {
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
	to, grows := p.it, false
	rule := p.rules.indexedBy(p.repo.name, tag, fromSameTag)
	if rule != nil && p.it.platform.String != "" && was.id != 0 && was.id != p.it.id {
		if to, grows, err = p.join(tag, was, rule); err != nil {
			return err
		}
	}
	if err := p.move(tag, was, to, grows); err != nil {
		return err
	}
	return p.rebase(tag, was, p.it)
}

// untag takes a tag away.
func (p *pushing) untag(tag string, was target) error {
	if err := p.move(tag, was, target{}, false); err != nil {
		return err
	}
	return p.rebase(tag, was, target{})
}

// move points a tag at something else, if the rules allow it: it may always become
// an index that only has more than before.
func (p *pushing) move(tag string, was, to target, grows bool) error {
	if was.id != 0 && was.id != to.id && !grows {
		if rule := p.rules.immutableBy(p.repo.name, tag); rule != nil && !p.c.force {
			return immutableError(p.repo.name, tag, rule)
		}
		// Who may delete a tag may take something out of it.
		if to.id != 0 && !p.c.overwrite && !p.c.takes() {
			return errDenied.saying("the tag %s is there already; you may push new tags, but not overwrite", tag)
		}
	}
	return p.moveTag(p.c, p.repo, tag, was, to)
}

func immutableError(repository, tag string, rule *tagRule) error {
	return errDenied.saying("%s:%s is immutable, by the rule %s", repository, tag, rule)
}

// grows reports whether an index has all that it had, and what is new is for
// systems and architectures that it had nothing for: a client that is not strict
// about variants could come to get another image.
func grows(had, next []member) bool {
	for _, m := range had {
		if !slices.Contains(next, m) {
			return false
		}
	}
	for _, m := range next {
		p := m.Platform.same()
		if !slices.Contains(had, m) && slices.ContainsFunc(had, func(old member) bool {
			q := old.Platform.same()
			return p.OS == q.OS && p.Architecture == q.Architecture
		}) {
			return false
		}
	}
	return len(had) > 0
}

// wraps are what images were pushed in, with attestations: the image's digest by
// that of the index around it.
type wraps map[digest.Digest]digest.Digest

// member returns a target that is an image, or has one, as a member; ok is false if
// it is none. What it is wrapped in is noted.
func (p *pushing) member(it target, in wraps) (m member, ok bool, err error) {
	if it.platform.String == "" {
		return m, false, nil
	}
	image := it
	if isIndex(it.mediaType) {
		var body []byte
		if err := p.get(`SELECT body FROM manifest WHERE id = ?`, []any{it.id}, &body); err != nil {
			return m, false, err
		}
		image, err = p.findTarget(p.repo.id, attestedImage(body))
		if errors.Is(err, sql.ErrNoRows) {
			return m, false, nil // a sparse one
		}
		if err != nil {
			return m, false, err
		}
		in[it.digest] = image.digest
	}
	m = member{MediaType: image.mediaType, Size: image.size, Digest: image.digest}
	return m, true, json.Unmarshal([]byte(it.platform.String), &m.Platform)
}

// members returns those of an index that the registry has made. They are known
// without its bytes, which may be damaged.
func (p *pushing) members(index target, in wraps) (members []member, err error) {
	parts, err := list(p.tx, scanTarget, `SELECT `+targetColumns+` FROM names n JOIN manifest m ON m.repository = n.repository AND m.digest = n.digest
		WHERE n.manifest = ? AND m.deleted IS NULL ORDER BY m.digest`, index.id)
	if err != nil {
		return nil, err
	}
	if err := lookFirst(parts); err != nil {
		return nil, err
	}
	for _, part := range parts {
		m, ok, err := p.member(part, in)
		if err != nil {
			return nil, err
		}
		if ok && m.Digest == part.digest {
			members = append(members, m)
		}
	}
	return members, nil
}

func scanTarget(rows *sql.Rows) (it target, err error) {
	err = rows.Scan(&it.id, &it.digest, &it.mediaType, &it.size, &it.platform)
	return it, err
}

// lookFirst is errLook if nobody has looked for the platform of some of the targets.
func lookFirst(targets []target) error {
	var look errLook
	for _, it := range targets {
		if !it.platform.Valid {
			look.manifests = append(look.manifests, it.id)
		}
	}
	if look.manifests == nil {
		return nil
	}
	return &look
}

// join returns what a tag shall point at when an image is pushed that may be one of
// several, and whether that only has more than before.
func (p *pushing) join(tag string, was target, rule *tagRule) (to target, more bool, err error) {
	in := wraps{}
	it, ok, err := p.member(p.it, in)
	if err != nil || !ok {
		return p.it, false, err
	}
	if err := lookFirst([]target{was}); err != nil {
		return to, false, err
	}
	var had []member
	switch {
	case was.made:
		if had, err = p.members(was, in); err != nil {
			return to, false, err
		}
	case was.platform.String == "" && isIndex(was.mediaType):
		return to, false, errDenied.saying("%s:%s is an index that a client has pushed, and %s does not replace those: delete the tag first, or push an index",
			p.repo.name, tag, rule)
	default:
		first, ok, err := p.member(was, in)
		if err != nil {
			return to, false, err
		}
		if !ok || first.Platform.same() == it.Platform.same() {
			return p.it, false, nil
		}
		had = []member{first}
	}
	next := addMember(had, it)
	to, err = p.index(tag, next, in)
	return to, grows(had, next), err
}

// index makes sure that the repository has the index of some members, which keeps
// what those were pushed in.
func (p *pushing) index(tag string, members []member, in wraps) (to target, err error) {
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
		if err = p.removeManifest(p.repo.id, to.id, m.digest); err == nil {
			err = sql.ErrNoRows
		}
	}
	if err == nil {
		_, err = p.exec(`UPDATE manifest SET body = ?2, damaged = NULL WHERE id = ?1 AND damaged IS NOT NULL`, to.id, m.body)
	} else if errors.Is(err, sql.ErrNoRows) {
		// A damaged member is there all the same: a push heals it.
		to.id, err = p.insertManifest(p.repo.id, m, admission{damaged: true, platform: to.platform, made: true})
	}
	if err != nil {
		return to, err
	}
	for wrap, image := range in {
		if !slices.ContainsFunc(members, func(m member) bool { return m.Digest == image }) {
			continue
		}
		if _, err := p.exec(`INSERT OR IGNORE INTO names (repository, digest, manifest) VALUES (?, ?, ?)`, p.repo.id, wrap, to.id); err != nil {
			return to, err
		}
		if err := p.settleManifest(p.repo.id, wrap); err != nil {
			return to, err
		}
	}
	return to, nil
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
	ends := slices.DeleteFunc([]target{was, to}, func(x target) bool { return x.id == 0 })
	if err := lookFirst(slices.Concat(others, ends)); err != nil {
		return err
	}
	in := wraps{}
	var had []member
	if index.made {
		if had, err = p.members(index, in); err != nil {
			return err
		}
	}
	next := had
	left, ok, err := p.member(was, in)
	if err != nil {
		return err
	}
	if ok && !slices.ContainsFunc(others, func(o target) bool { return o.id == was.id }) {
		next = withoutMember(next, left.Digest)
	}
	it, ok, err := p.member(to, in)
	if err != nil {
		return err
	}
	if ok {
		next = addMember(next, it)
	}
	for _, o := range others { // two tags may be for one platform
		m, ok, err := p.member(o, in)
		if err != nil {
			return err
		}
		if ok && !slices.ContainsFunc(next, func(x member) bool { return x.Platform.same() == m.Platform.same() }) {
			next = addMember(next, m)
		}
	}
	var at target
	if len(next) > 0 {
		if at, err = p.index(base, next, in); err != nil {
			return err
		}
	}
	if at.id == index.id {
		return nil
	}
	return p.move(base, index, at, grows(had, next))
}

// siblings returns what other tags with a suffix of the same base point at.
func (p *pushing) siblings(base, except string) ([]target, error) {
	return list(p.tx, scanTarget, `SELECT `+targetColumns+` FROM tag t JOIN manifest m ON m.id = t.manifest
		WHERE t.repository = ?1 AND t.name IN (SELECT ?2 || '-' || value FROM json_each(?3)) AND t.name <> ?4 ORDER BY t.name`,
		p.repo.id, base, suffixList, except)
}

// leaveIndexes takes a manifest that is about to be deleted out of the indexes that
// the registry makes. Those that it was in are hidden, so that an undo of what
// pointed at them finds them. In any other index it stays, which is errDenied unless
// members may be absent.
func (p *pushing) leaveIndexes(it target, sparse bool) error {
	type parent struct {
		target
		tagged bool
	}
	parents, err := list(p.tx, func(rows *sql.Rows) (x parent, err error) {
		err = rows.Scan(&x.id, &x.digest, &x.made, &x.tagged)
		return x, err
	}, `SELECT m.id, m.digest,
			(m.made OR EXISTS (SELECT 1 FROM tag t WHERE t.manifest = m.id AND t.made = 1))
			AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest = m.id AND t.made = 0)
			AND NOT EXISTS (SELECT 1 FROM names o JOIN manifest q ON q.id = o.manifest AND q.deleted IS NULL WHERE o.repository = m.repository AND o.digest = m.digest),
			EXISTS (SELECT 1 FROM tag t WHERE t.manifest = m.id)
		FROM names n JOIN manifest m ON m.id = n.manifest AND m.deleted IS NULL WHERE n.repository = ? AND n.digest = ?`, p.repo.id, it.digest)
	if err != nil {
		return err
	}
	var made []int64
	for _, x := range parents {
		switch {
		case x.made:
			made = append(made, x.id)
		case !sparse:
			return errDenied.withf("the index %s has this manifest as a member; delete that first", x.digest)
		}
	}
	in := wraps{}
	left := it.digest
	if m, ok, err := p.member(it, in); err != nil {
		return err
	} else if ok {
		left = m.Digest
	}
	for _, x := range parents {
		if !x.made || !x.tagged {
			continue
		}
		if err := p.leaveIndex(x.id, left); err != nil {
			return err
		}
	}
	return p.hideIndexes(made)
}

// leaveIndex takes an image out of what the tags of an index point at.
func (p *pushing) leaveIndex(id int64, image digest.Digest) error {
	tags, err := list(p.tx, scanOne[string], `SELECT name FROM tag WHERE manifest = ?`, id)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		was, err := p.findTag(p.repo.id, tag)
		if err != nil {
			return err
		}
		in := wraps{}
		had, err := p.members(was, in)
		if err != nil {
			return err
		}
		var next target
		if rest := withoutMember(had, image); len(rest) > 0 {
			if next, err = p.index(tag, rest, in); err != nil {
				return err
			}
		}
		if err := p.move(tag, was, next, false); err != nil {
			return err
		}
	}
	return nil
}

// hideIndexes hides many at once; a member that is pushed often was in many. They
// are not in the history: the tags that pointed at them are.
func (p *pushing) hideIndexes(ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	text, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	for _, query := range []string{
		`UPDATE manifest SET deleted = ?3, loose = ?3 WHERE repository = ?1 AND id IN (SELECT value FROM json_each(?2))`,
		`UPDATE manifest SET loose = CASE WHEN loose IS NULL THEN ?3 END
			WHERE repository = ?1 AND digest IN (SELECT digest FROM names WHERE manifest IN (SELECT value FROM json_each(?2)))
			AND (loose IS NULL) <> (` + manifestLive + `)`,
		`UPDATE manifest SET loose = CASE WHEN loose IS NULL THEN ?3 END
			WHERE repository = ?1 AND subject IN (SELECT digest FROM manifest WHERE id IN (SELECT value FROM json_each(?2)))
			AND (loose IS NULL) <> (` + manifestLive + `)`,
	} {
		if _, err := p.exec(query, p.repo.id, string(text), p.clock); err != nil {
			return err
		}
	}
	return nil
}

// showIndex brings back an index of the registry's that was hidden along with a
// member, if all its members are there again; else the target is zero.
func (t *tx) showIndex(st *store, repo repository, d digest.Digest) (it target, err error) {
	var id int64
	err = t.get(`SELECT id FROM manifest WHERE repository = ? AND digest = ? AND made AND deleted IS NOT NULL`, []any{repo.id, d}, &id)
	if errors.Is(err, sql.ErrNoRows) {
		return it, nil
	}
	if err != nil {
		return it, err
	}
	if whole, err := st.complete(t, id); err != nil || !whole {
		return it, err
	}
	if _, err := t.exec(`UPDATE manifest SET deleted = NULL, loose = ? WHERE id = ?`, t.clock, id); err != nil {
		return it, err
	}
	if err := errors.Join(t.settleManifest(repo.id, d), t.settleAround(repo.id, id, d)); err != nil {
		return it, err
	}
	return t.findTarget(repo.id, d)
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
		if m.Platform.plain() {
			list = append(list, m.Platform.String())
		}
	}
	return list
}
