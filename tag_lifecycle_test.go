// Random lives of repositories under rules about tags, against a model of what
// every tag is.
//
// Clients push images of several platforms, charts, indexes and signatures, move
// tags, delete tags, images, blobs and repositories, and undo any of it; retention
// runs, time passes, what is due goes, the registry starts anew. After each step:
//
//   - Every tag is what the model says, and is served whole: members, blobs, what
//     has it as its subject.
//   - What rules keep is there.
//   - What an undoing puts back is as it was, and what it refuses has a reason.
//
// In the end all is deleted, and then nothing is left.

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

var (
	lifeSeed  = flag.Uint64("life.seed", 0, "seed of the random lives; 0 for any")
	lifeSteps = flag.Int("life.steps", 100, "steps of a random life")
)

const lifeRules = `
[[index]]
repositories = ["same/*", "ci/*"]
from = ["same-tag"]
[[index]]
repositories = ["suffix/*", "ci/*"]
from = ["suffix"]
[[immutable]]
repositories = ["**"]
tags = ["v*"]
[[retain]]
repositories = ["ci/*"]
tags = ["t*"]
newest = 3
[[retain]]
repositories = ["ci/*"]
tags = ["keep*", "t0"]
always = true
`

type life struct {
	r         *registry
	rng       *rand.Rand
	n         int
	did       []string
	repos     map[string]*lifeRepo
	touched   string // where the last step was; "" for everywhere
	images    map[digest.Digest]lifeImage
	changes   []lifeChange
	disturbed map[string]int64 // the last change that makes it unsure whether an earlier one can be undone
	undone    int
	refused   int
	dropped   int
}

func pick[T any](rng *rand.Rand, list []T) (x T) {
	if len(list) > 0 {
		x = list[rng.IntN(len(list))]
	}
	return x
}

func (l *life) log() (entries []historyEntry) {
	out, err := runOnceOn(l.r.t, l.r.st, "log", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &entries)
	}
	if err != nil {
		l.r.t.Fatal(err)
	}
	return entries
}

// does runs a step on a repository. want is what the model makes of it; nil if it
// is refused.
func (l *life) does(repo string, request func() (done bool), want *lifeRepo, deleted digest.Digest) (bool, error) {
	var last int64
	if entries := l.log(); len(entries) > 0 {
		last = entries[0].Change
	}
	l.touched = repo
	before := l.repos[repo].clone()
	done := request()
	if done {
		l.repos[repo] = want
	}
	number := last
	for _, e := range l.log() {
		switch {
		case e.Change <= last || e.Change == number:
		case number == last:
			number = e.Change
		default:
			return done, fmt.Errorf("one step has made the changes %d and %d", e.Change, number)
		}
	}
	if number != last {
		if !done {
			return done, fmt.Errorf("what was refused is the change %d", number)
		}
		l.changes = append(l.changes, lifeChange{number, int64(l.n), repo, before, want.clone(), l.r.st.uptime(), deleted, false})
		if deleted != "" || want == nil || before == nil {
			l.disturbed[repo] = number
		}
	} else if done && want != nil && before != nil && !maps.EqualFunc(before.tags, want.tags, lifeTag.same) {
		return done, errors.New("a change is not in the history")
	}
	return done, nil
}

func (l *life) repo() string {
	return pick(l.rng, []string{"same/a", "suffix/a", "ci/a", "ci/a", "same/b", "suffix/b", "ci/b"})
}

func (l *life) tag() string {
	tag := pick(l.rng, []string{"t0", "t1", "t2", "t3", "t4", "t5", "keep", "v0", "v1"})
	if l.rng.IntN(2) == 0 {
		tag += pick(l.rng, []string{"-amd64", "-arm64", "-s390x"})
	}
	return tag
}

// put pushes a manifest, and insists that it is refused exactly where the model says so.
func (l *life) put(repo, tag string, im lifeImage) error {
	d := sum(im.body)
	l.images[d] = im
	want := l.repos[repo].clone()
	if want == nil {
		want = &lifeRepo{make(map[string]lifeTag), make(map[digest.Digest]digest.Digest)}
	}
	status, ref := 201, tag
	if tag == "" {
		ref = d.String()
	} else if err := l.set(repo, want, tag, d); err != nil {
		status = 403
	}
	_, err := l.does(repo, func() bool {
		return l.r.want(status, "PUT", "/v2/"+repo+"/manifests/"+ref, im.body, "Content-Type: "+im.mediaType).status == 201
	}, want, "")
	return err
}

func (l *life) step() (did string, err error) {
	r, repo, tag := l.r, l.repo(), l.tag()
	l.touched = ""
	x := l.repos[repo]
	r.moved.Add(int64(time.Second))
	content := func() string { return noise(uint64(l.rng.IntN(3)), 30) }
	newOne := func(configType, config, more string) lifeImage {
		layers := slices.Compact([]string{content(), content()})
		for _, c := range append(layers, config) {
			r.pushBlob(repo, c)
		}
		im := newImage(typeOCIManifest, configType, "x/layer", more, config, layers...)
		return lifeImage{body: im.manifest, mediaType: typeOCIManifest, blobs: append(im.layers, im.config)}
	}
	switch n := l.rng.IntN(32); {
	case n < 11 || x == nil && n < 20:
		platform := pick(l.rng, []string{"linux/amd64", "linux/arm64", "linux/s390x"})
		if _, word, ok := strings.Cut(tag, "-"); ok {
			platform = "linux/" + word
		}
		im := newOne(typeOCIConfig, configFor(platform, ""), "")
		im.platform = platform
		return fmt.Sprintf("pushed %s:%s for %s", repo, tag, platform), l.put(repo, tag, im)
	case n == 11:
		return fmt.Sprintf("pushed the chart %s:%s", repo, tag), l.put(repo, tag, newOne("x/chart", "{}", ""))
	case n == 12 && len(l.reachable(x)) > 0:
		d := pick(l.rng, l.reachable(x))
		if l.images[d].mediaType != typeOCIManifest {
			return "", nil
		}
		index, _ := ociIndex(l.images[d].body)
		return fmt.Sprintf("pushed the index %s:%s", repo, tag), l.put(repo, tag, lifeImage{body: index, mediaType: typeOCIIndex, members: []digest.Digest{d}})
	case n == 13 && len(l.reachable(x)) > 0:
		subject := pick(l.rng, l.reachable(x))
		im := newOne("x/signature", "{}", fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":7}`, typeOCIManifest, subject))
		im.subject = subject
		err = l.put(repo, "", im)
		l.repos[repo].referrers[sum(im.body)] = subject
		return fmt.Sprintf("signed %s@%s", repo, shortDigest(subject.String())), err
	case n == 14 && x != nil && len(x.tags) > 0:
		from := pick(l.rng, slices.Sorted(maps.Keys(x.tags)))
		tag, _, _ = strings.Cut(tag, "-")
		to, want := x.tags[from], x.clone()
		to.client = to.members != nil
		if is, ok := x.tags[tag]; ok && is.same(to) {
			to.client = is.client // as it was
		}
		status := want.move(tag, &to, l.n)
		_, err = l.does(repo, func() bool {
			_, err := runOnceOn(r.t, r.st, "tag", repo+":"+from, tag)
			if (err == nil) != (status == nil) {
				r.t.Errorf("tag %s:%s %s: %v, want %v", repo, from, tag, err, status)
			}
			return err == nil
		}, want, "")
		return fmt.Sprintf("tagged %s:%s as %s", repo, from, tag), err
	case n <= 16:
		want, status := x.clone(), 404
		if x != nil {
			if _, ok := x.tags[tag]; ok {
				if status = 202; l.unset(repo, want, tag) != nil {
					status = 403
				}
			}
		}
		_, err = l.does(repo, func() bool { return r.want(status, "DELETE", "/v2/"+repo+"/manifests/"+tag, nil).status == 202 }, want, "")
		return fmt.Sprintf("deleted %s:%s", repo, tag), err
	case n <= 18:
		return l.deleteManifest(repo, x)
	case n == 19:
		l.touched = repo
		return "deleted a blob of " + repo, l.deleteBlob(repo)
	case n == 20:
		status := 202
		if len(l.reachable(x)) == 0 {
			return "", nil
		}
		for tag := range x.tags {
			if strings.HasPrefix(tag, "v") {
				status = 403
			}
		}
		_, err = l.does(repo, func() bool { return r.want(status, "DELETE", "/v2/"+repo+"/_berth/repository", nil).status == 202 }, nil, "")
		if status == 202 {
			r.want(404, "GET", "/v2/"+repo+"/tags/list", nil).code("NAME_UNKNOWN")
		}
		return "deleted " + repo, err
	case n <= 26:
		return l.undo()
	case n == 27:
		return l.retention(pick(l.rng, []string{"ci/a", "ci/b"}))
	case n == 28:
		r.restart()
		r.freeze()
		return "started anew", nil
	case n == 29 && l.rng.IntN(3) == 0:
		r.collect(collectNow)
		l.forget(0)
		return "collected all", nil
	default:
		d := time.Duration(l.rng.Int64N(int64(3 * 24 * time.Hour)))
		r.pass(d)
		l.forget(r.st.restoreGrace())
		return "waited " + d.String(), nil
	}
}

// forget drops from the model what may have gone: referrers without a subject, and
// whether what was done before the grace can be undone.
func (l *life) forget(grace time.Duration) {
	for repo, x := range l.repos {
		there := l.reachable(x)
		if x != nil {
			maps.DeleteFunc(x.referrers, func(_, subject digest.Digest) bool { return !slices.Contains(there, subject) })
		}
		for _, c := range l.changes {
			if c.repo == repo && (grace == 0 || l.r.st.uptime()-c.when >= grace-2*time.Second) {
				l.disturbed[repo] = max(l.disturbed[repo], c.number+1)
			}
		}
	}
	for i := range l.changes { // what was deleted is restored without what has gone
		for _, x := range []*lifeRepo{l.changes[i].before, l.changes[i].after} {
			if x != nil {
				clear(x.referrers)
			}
		}
	}
}

func (l *life) deleteManifest(repo string, x *lifeRepo) (string, error) {
	all := slices.Sorted(maps.Keys(l.images))
	if there := l.reachable(x); len(there) > 0 {
		all = there
	}
	d := pick(l.rng, all)
	if d == "" {
		return "", nil
	}
	want := x.clone()
	var refused error
	held := false // by an index of a client
	if x != nil {
		refused = l.drop(repo, want, d)
		delete(want.referrers, d)
		for _, t := range x.tags {
			held = held || t.client && slices.Contains(slices.Collect(maps.Values(t.members)), d)
		}
	}
	for _, im := range l.images {
		held = held || slices.Contains(im.members, d)
	}
	re := l.r.do("GET", "/v2/"+repo+"/manifests/"+d.String(), nil)
	_, err := l.does(repo, func() bool {
		status := l.r.do("DELETE", "/v2/"+repo+"/manifests/"+d.String(), nil).status
		switch {
		case re.status == 404 && status != 404,
			re.status == 200 && status != 202 && (status != 403 || refused == nil && !held),
			status == 202 && refused != nil:
			l.r.t.Errorf("deleting %s@%s = %d; it is there: %d; rules: %v", repo, d, status, re.status, refused)
		}
		return status == 202
	}, want, d)
	return fmt.Sprintf("deleted %s@%s", repo, shortDigest(d.String())), err
}

func (l *life) deleteBlob(repo string) error {
	im := l.images[pick(l.rng, slices.Sorted(maps.Keys(l.images)))]
	if len(im.blobs) == 0 {
		return nil
	}
	// Whatever the answer is, undoing does not mind.
	d := pick(l.rng, im.blobs).String()
	if l.r.do("DELETE", "/v2/"+repo+"/blobs/"+d, nil).status == 202 && l.r.do("GET", "/v2/"+repo+"/blobs/"+d, nil).status != 404 {
		return fmt.Errorf("the blob %s of %s was deleted, and is there", d, repo)
	}
	return nil
}

// undo undoes some change, as far as it can be.
func (l *life) undo() (string, error) {
	if len(l.changes) == 0 {
		return "", nil
	}
	c := l.changes[max(0, len(l.changes)-1-int(l.rng.ExpFloat64()*4))]
	as, repo := "", c.repo
	if c.after == nil && l.rng.IntN(2) == 0 {
		as = strings.TrimRight(c.repo, "ab") + pick(l.rng, []string{"a", "b"})
		repo = as
	}
	x := l.repos[repo]
	want, conflict, moves, immutable := x.clone(), false, false, false
	switch {
	case c.after == nil: // a repository comes back,
		// One that has no tags any more may be collected, or not yet.
		want, conflict, moves = c.before.clone(), x != nil && len(x.tags) > 0, x == nil
	case c.before == nil && c.restored: // or goes again,
		moves, want = true, nil
		for _, later := range l.changes {
			conflict = conflict || later.repo == repo && later.number > c.number
		}
		if x == nil {
			conflict = true
			break
		}
		for tag := range x.tags {
			immutable = immutable || strings.HasPrefix(tag, "v")
		}
	case x != nil: // or tags
		conflict, moves, immutable = l.undoTags(c, x, want)
	default:
		conflict = true
	}
	what := fmt.Sprintf("undid %d of %s as %q", c.number, c.repo, as)
	var answer undone
	done, err := l.does(repo, func() bool {
		path := fmt.Sprintf("/v2/%s/_berth/undo?change=%d", c.repo, c.number)
		if as != "" {
			path += "&as=" + as
		}
		re := l.r.do("POST", path, nil)
		sure := moves && !conflict && !immutable && !c.restored && l.disturbed[c.repo] <= c.number
		switch {
		case re.status == 200:
			l.undone++
			json.Unmarshal(re.body, &answer)
			if conflict || immutable {
				l.r.t.Errorf("%s, in spite of conflicts (%v) or rules (%v)", what, conflict, immutable)
			}
		case re.status != 403 && re.status != 409 || sure:
			l.r.t.Errorf("undoing %d of %s = %d: %s", c.number, c.repo, re.status, re.body)
		default:
			l.refused++
			what += ": " + string(re.body)
		}
		return re.status == 200
	}, want, "")
	if !done {
		return what, err
	}
	last := &l.changes[len(l.changes)-1]
	l.disturbed[repo], last.restored = last.number, c.after == nil
	l.disturbed[c.repo] = last.number // what was there may be under another name now
	for _, s := range answer.Did {
		if d := digest.Digest(s.New); s.Tag == "" && strings.Contains(s.New, ":") {
			last.restored = true
			err = errors.Join(err, l.whole(repo, d, d.String()))
		}
	}
	return what, err
}

// undoTags makes of want what it is after a change of tags is undone; x is what the
// repository has. It reports whether others are in the way, whether anything moves,
// and whether a rule forbids it.
func (l *life) undoTags(c lifeChange, x, want *lifeRepo) (conflict, moves, immutable bool) {
	was := c.before
	if was == nil {
		was = &lifeRepo{}
	}
	// An index that the change has changed, and another since, follows the tags that
	// it is made of.
	var follow []func() error
	changed := merged(was.tags, c.after.tags)
	equal := func(a lifeTag, okA bool, b lifeTag, okB bool) bool { return okA == okB && (!okA || a.same(b)) }
	follows := func(tag string) bool {
		before, hadBefore := was.tags[tag]
		after, hasAfter := c.after.tags[tag]
		if strings.HasPrefix(c.repo, "same/") || !before.automatic() && !after.automatic() || equal(before, hadBefore, after, hasAfter) {
			return false
		}
		for part := range changed {
			old, hadOld := was.tags[part]
			now, hadNow := c.after.tags[part]
			if lifeBase(part) == tag && !equal(old, hadOld, now, hadNow) {
				return true
			}
		}
		return false
	}
	for tag := range changed {
		old, hadOld := was.tags[tag]
		now, hadNow := c.after.tags[tag]
		is, has := x.tags[tag]
		if base := lifeBase(tag); base != "" && !equal(old, hadOld, now, hadNow) && !equal(is, has, old, hadOld) {
			follow = append(follow, func() error {
				at, ok := x.tags[base]
				of, had := c.after.tags[base]
				before, hadBefore := was.tags[base]
				if !follows(base) || equal(at, ok, of, had) || equal(at, ok, before, hadBefore) {
					return nil
				}
				err := l.rebase(c.repo, want, tag, is, old.is)
				if made, ok := want.tags[base]; ok && !made.same(at) { // what is put back counts as pushed
					made.pushed = l.n
					want.tags[base] = made
				}
				return err
			})
		}
		switch {
		case equal(old, hadOld, now, hadNow), equal(is, has, old, hadOld):
			continue
		case !equal(is, has, now, hadNow) && follows(tag):
			continue
		case !equal(is, has, now, hadNow):
			conflict = true
		case has && strings.HasPrefix(tag, "v"):
			immutable = true
		}
		moves = true
		delete(want.tags, tag)
		if hadOld {
			old.pushed = l.n
			want.tags[tag] = old
		}
	}
	for _, fn := range follow {
		immutable = fn() != nil || immutable
	}
	return conflict, moves, immutable
}

func merged[K comparable, V any](a, b map[K]V) map[K]V {
	all := make(map[K]V)
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

// retention applies the rules in a repository.
func (l *life) retention(repo string) (string, error) {
	x := l.repos[repo]
	if x == nil {
		return "", nil
	}
	want := x.clone()
	_, err := l.does(repo, func() bool {
		if _, _, err := l.r.st.retainer.retain(l.r.t.Context(), repo); err != nil {
			l.r.t.Error(err)
		}
		var list struct{ Tags []string }
		if re := l.r.do("GET", "/v2/"+repo+"/tags/list", nil); re.status == 200 {
			json.Unmarshal(re.body, &list)
		}
		for tag, t := range x.tags {
			newer := 0
			for other, o := range x.tags {
				if other != tag && strings.HasPrefix(other, "t") && o.pushed >= t.pushed {
					newer++
				}
			}
			if slices.Contains(list.Tags, tag) {
				continue
			}
			l.dropped++
			if !strings.HasPrefix(tag, "t") || tag == "t0" || newer < 3 {
				l.r.t.Errorf("retention has dropped %s:%s, with %d that are newer", repo, tag, newer)
			}
			delete(want.tags, tag) // and an index keeps what it had by it
		}
		return true
	}, want, "")
	return "retention in " + repo, err
}

// whole checks that a reference is served with all that belongs to it, as it was
// pushed.
func (l *life) whole(repo string, d digest.Digest, ref string) error {
	re := l.r.do("GET", "/v2/"+repo+"/manifests/"+ref, nil)
	im, known := l.images[d]
	if re.status != 200 || sum(string(re.body)) != d || known && string(re.body) != im.body {
		return fmt.Errorf("%s:%s is %d %.200s, want %s", repo, ref, re.status, re.body, d)
	}
	var errs []error
	for _, b := range im.blobs {
		if re := l.r.do("GET", "/v2/"+repo+"/blobs/"+b.String(), nil); re.status != 200 || sum(string(re.body)) != b {
			errs = append(errs, fmt.Errorf("blob %s of %s:%s = %d", b, repo, ref, re.status))
		}
	}
	for _, m := range im.members {
		errs = append(errs, l.whole(repo, m, m.String()))
	}
	return errors.Join(errs...)
}

// verify compares the tags of what the last step touched, and now and then of all,
// with the model.
func (l *life) verify() error {
	var errs []error
	for repo, x := range l.repos {
		if l.touched != "" && l.touched != repo && l.n%16 > 0 {
			continue
		}
		var list struct{ Tags []string }
		re := l.r.do("GET", "/v2/"+repo+"/tags/list?n=1000", nil)
		if re.status == 200 {
			json.Unmarshal(re.body, &list)
		}
		if x == nil {
			if re.status != 404 {
				errs = append(errs, fmt.Errorf("%s was deleted, and is there: %s", repo, re.body))
			}
			continue
		}
		if want := slices.Sorted(maps.Keys(x.tags)); !slices.Equal(list.Tags, want) {
			errs = append(errs, fmt.Errorf("%s has the tags %v, want %v", repo, list.Tags, want))
			continue
		}
		for tag, t := range x.tags {
			if t.members != nil {
				if got := l.r.platforms(repo, tag); !maps.Equal(got, t.members) {
					errs = append(errs, fmt.Errorf("%s:%s is an index of %v, want %v", repo, tag, got, t.members))
				}
				t.is = digest.Digest(l.r.do("HEAD", "/v2/"+repo+"/manifests/"+tag, nil).header.Get("Docker-Content-Digest"))
				x.tags[tag] = t
			}
			errs = append(errs, l.whole(repo, t.is, tag))
			for _, m := range t.members {
				errs = append(errs, l.whole(repo, m, m.String()))
			}
		}
		there := l.reachable(x)
		for d, subject := range x.referrers {
			if slices.Contains(there, subject) {
				errs = append(errs, l.whole(repo, d, d.String()))
				if re := l.r.do("GET", "/v2/"+repo+"/referrers/"+subject.String(), nil); !strings.Contains(string(re.body), d.String()) {
					errs = append(errs, fmt.Errorf("%s is no referrer of %s", d, subject))
				}
			}
		}
	}
	report, err := l.r.st.check(l.r.t.Context(), false, func(int64) {})
	if err != nil {
		return err
	}
	for _, f := range report.findings {
		errs = append(errs, errors.New("check: "+f.problem))
	}
	if l.r.t.Failed() {
		errs = append(errs, errors.New("the step has failed"))
	}
	return errors.Join(errs...)
}

func TestRandomLives(t *testing.T) {
	slow(t)
	t.Parallel()
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			seed := cmp.Or(*lifeSeed, rand.Uint64())
			t.Logf("-life.seed %d", seed)
			r := startRegistry(t, ruled(lifeRules), func(c *config) { c.noPromises = true })
			r.freeze()
			l := &life{r: r, rng: rand.New(rand.NewPCG(seed, uint64(i))), repos: make(map[string]*lifeRepo),
				images: make(map[digest.Digest]lifeImage), disturbed: make(map[string]int64)}
			for l.n = range *lifeSteps {
				did, err := l.step()
				l.did = append(l.did, fmt.Sprintf("%d: %s", l.n, did))
				if err = errors.Join(err, l.verify()); err != nil {
					t.Fatalf("step %d: %v\nafter:\n%s", l.n, err, strings.Join(l.did[max(0, len(l.did)-40):], "\n"))
				}
			}
			t.Logf("%d changes, %d undone, %d not to be undone, %d dropped", len(l.changes), l.undone, l.refused, l.dropped)
			if l.undone == 0 {
				t.Error("a life in which nothing was undone tests nothing")
			}
			for repo, x := range l.repos {
				if x == nil {
					continue
				}
				if _, err := runOnceOn(t, r.st, "rm", "--force", repo); err != nil && !errors.Is(err, errNameUnknown) {
					t.Error(err)
				}
			}
			if n := r.files(); n == 0 {
				t.Error("what was deleted has gone at once")
			}
			r.pass(r.st.restoreGrace() + 2*time.Second)
			r.pass(r.cfg.grace + 2*time.Second)
			for _, table := range []string{"repository", "manifest", "tag", "link", "blob", "trash", "pull", "uses", "names"} {
				var n int
				if err := r.st.get("SELECT count(*) FROM "+table, nil, &n); err != nil || n > 0 {
					t.Errorf("%d rows of %s are left (%v)", n, table, err)
				}
			}
			if n := r.files(); n > 0 {
				t.Errorf("%d files are left", n)
			}
		})
	}
}

// What a tag that is kept leads to stays, whatever becomes of other tags.
func TestRetentionLeavesIndexesTheirMembers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSuffixRule+"[[retain]]\nrepositories = [\"**\"]\nnewest = 1\n"))
	r.freeze()
	amd := r.pushFor("a", "1.0-amd64", "linux/amd64", "x")
	arm := r.pushFor("a", "1.0-arm64", "linux/arm64", "x")
	var plan []explainedRepository
	if err := json.Unmarshal([]byte(r.command("retain", "--explain", "--json")), &plan); err != nil || len(plan) != 1 || plan[0].Drops != 0 || plan[0].Frees != 0 {
		t.Errorf("the plan is %+v (%v), want nothing to go", plan, err)
	}
	r.command("retain")
	r.wantTags("a", "1.0", "1.0-amd64", "1.0-arm64")
	r.pass(30 * 24 * time.Hour)
	r.wantPlatforms("a", "1.0", map[string]image{"linux/amd64": amd, "linux/arm64": arm})
	r.wantImage("a", amd.digest.String(), amd)
	r.wantImage("a", arm.digest.String(), arm)
	next := r.pushFor("a", "1.0-arm64", "linux/arm64", "y")
	r.wantPlatforms("a", "1.0", map[string]image{"linux/amd64": amd, "linux/arm64": next})
}
