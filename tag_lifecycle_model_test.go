// The model of the random lives (tag_lifecycle_test.go): what a push, a deletion and a
// rule make of tags, in as few words as that can be said.

package main

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// A lifeTag is what a tag should be.
type lifeTag struct {
	is      digest.Digest            // what it points at; of an index of the registry's, as last seen
	members map[string]digest.Digest // of such an index, by platform; else nil
	client  bool                     // a client has put such an index there
	pushed  int                      // the step in which it was pushed
}

// automatic: the registry changes it.
func (x lifeTag) automatic() bool { return x.members != nil && !x.client }

func (x lifeTag) same(y lifeTag) bool {
	if x.members != nil || y.members != nil {
		return maps.Equal(x.members, y.members)
	}
	return x.is == y.is
}

// A lifeRepo is what a repository should have.
type lifeRepo struct {
	tags      map[string]lifeTag
	referrers map[digest.Digest]digest.Digest // of those that have to be there, the subject
}

func (x *lifeRepo) clone() *lifeRepo {
	if x == nil {
		return nil
	}
	return &lifeRepo{maps.Clone(x.tags), maps.Clone(x.referrers)}
}

// A lifeChange is what the model knows of an entry of the history.
type lifeChange struct {
	number, step  int64
	repo          string
	before, after *lifeRepo // nil for none
	when          time.Duration
	deleted       digest.Digest // a manifest
	restored      bool          // the whole repository, or a manifest: it may be used since
}

// A lifeImage is anything that was pushed.
type lifeImage struct {
	body, mediaType, platform string
	blobs, members            []digest.Digest
	subject                   digest.Digest
}

// errLifeRefused says that rules forbid a step.
var errLifeRefused = errors.New("refused")

// move is what a rule of immutability says to a tag that becomes something else.
func (x *lifeRepo) move(tag string, to *lifeTag, step int) error {
	was, ok := x.tags[tag]
	if ok && strings.HasPrefix(tag, "v") && (to == nil || !was.same(*to) || was.client != to.client && !was.same(*to)) {
		grows := to != nil && to.automatic()
		had := []digest.Digest{was.is}
		if was.automatic() {
			had = slices.Collect(maps.Values(was.members))
		}
		for _, d := range had {
			grows = grows && slices.Contains(slices.Collect(maps.Values(to.members)), d)
		}
		if !grows {
			return errLifeRefused
		}
	}
	if to == nil {
		delete(x.tags, tag)
		return nil
	}
	if to.pushed = step; step < 0 { // what only loses something is no newer
		to.pushed = was.pushed
	}
	x.tags[tag] = *to
	return nil
}

// lifeBase returns app:1 of app:1-arm64, and "" of others.
func lifeBase(tag string) string {
	base, _, _ := strings.Cut(tag, "-")
	if base == tag {
		return ""
	}
	return base
}

// set is what a push does to tags.
func (l *life) set(repo string, x *lifeRepo, tag string, d digest.Digest) error {
	im := l.images[d]
	was, ok := x.tags[tag]
	to := lifeTag{is: d}
	if ok && !strings.HasPrefix(repo, "suffix/") && im.platform != "" && was.is != d {
		before := l.images[was.is]
		switch {
		case was.automatic():
			to.members = maps.Clone(was.members)
		case was.members != nil || before.mediaType == typeOCIIndex:
			return errLifeRefused
		case before.platform != "" && before.platform != im.platform:
			to.members = map[string]digest.Digest{before.platform: was.is}
		}
		if to.members != nil {
			to.members[im.platform] = d
		}
	}
	if err := x.move(tag, &to, l.n); err != nil {
		return err
	}
	return l.rebase(repo, x, tag, was, d)
}

// unset takes a tag away.
func (l *life) unset(repo string, x *lifeRepo, tag string) error {
	was := x.tags[tag]
	if err := x.move(tag, nil, l.n); err != nil {
		return err
	}
	return l.rebase(repo, x, tag, was, "")
}

func (l *life) rebase(repo string, x *lifeRepo, tag string, was lifeTag, d digest.Digest) error {
	base := lifeBase(tag)
	if base == "" || strings.HasPrefix(repo, "same/") || was.is == d {
		return nil
	}
	is, ok := x.tags[base]
	if ok && !is.automatic() || !ok && d == "" {
		return nil
	}
	members := make(map[string]digest.Digest)
	still := false
	for name, other := range x.tags {
		if name != tag && lifeBase(name) == base {
			still = still || other.is == was.is
			if p := l.images[other.is].platform; p != "" && other.members == nil {
				members[p] = other.is
			}
		}
	}
	if ok {
		members = maps.Clone(is.members)
		maps.DeleteFunc(members, func(_ string, m digest.Digest) bool { return m == was.is && !still })
	}
	if p := l.images[d].platform; p != "" {
		members[p] = d
	}
	for _, name := range slices.Sorted(maps.Keys(x.tags)) { // two tags may be for one platform
		if other := x.tags[name]; name != tag && lifeBase(name) == base && other.members == nil {
			if p := l.images[other.is].platform; p != "" && members[p] == "" {
				members[p] = other.is
			}
		}
	}
	if len(members) == 0 {
		if !ok {
			return nil
		}
		return x.move(base, nil, l.n)
	}
	if ok && maps.Equal(members, is.members) {
		return nil // a chart has come beside them: the index is none the newer
	}
	step := l.n
	if d == "" {
		step = -1
	}
	return x.move(base, &lifeTag{members: members}, step)
}

// drop is what deleting a manifest does to tags.
func (l *life) drop(repo string, x *lifeRepo, d digest.Digest) error {
	for tag, t := range maps.Clone(x.tags) {
		if !t.automatic() || !slices.Contains(slices.Collect(maps.Values(t.members)), d) {
			continue
		}
		to := &lifeTag{members: maps.Clone(t.members)}
		maps.DeleteFunc(to.members, func(_ string, m digest.Digest) bool { return m == d })
		if len(to.members) == 0 {
			to = nil
		}
		if err := x.move(tag, to, -1); err != nil {
			return err
		}
	}
	for tag, t := range maps.Clone(x.tags) {
		if t.is == d {
			if err := l.unset(repo, x, tag); err != nil {
				return err
			}
		}
	}
	return nil
}

// tree is what a tag leads to, without its blobs.
func (l *life) tree(t lifeTag) []digest.Digest {
	if t.members != nil {
		return append(slices.Collect(maps.Values(t.members)), t.is)
	}
	return append(slices.Clone(l.images[t.is].members), t.is)
}

// reachable are the manifests that tags of a repository lead to.
func (l *life) reachable(x *lifeRepo) (list []digest.Digest) {
	if x == nil {
		return nil
	}
	for _, t := range x.tags {
		list = append(list, l.tree(t)...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}
