// Tags that go by themselves: which, by what rule, and what that frees.

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// retained runs retention, and returns the tags of a repository that are left.
func (r *registry) retained(repo string) string {
	r.t.Helper()
	if _, _, err := r.st.retainer.retain(r.t.Context(), ""); err != nil {
		r.t.Fatalf("retention: %v", err)
	}
	return r.tags(repo)
}

func (r *registry) tags(repo string) string {
	r.t.Helper()
	var answer struct{ Tags []string }
	if err := json.Unmarshal(r.want(200, "GET", "/v2/"+repo+"/tags/list", nil).body, &answer); err != nil {
		r.t.Fatal(err)
	}
	return strings.Join(answer.Tags, " ")
}

// platformImage is the config of an image for a platform; word makes it another.
func platformImage(architecture, word string) string {
	return fmt.Sprintf(`{"architecture":%q,"os":"linux","word":%q}`, architecture, word)
}

// candidates reads "v1 pushed=2 pulled=3 …, v2 …"; times are hours.
func candidates(t *testing.T, text string) (list []candidate) {
	t.Helper()
	for _, words := range strings.Split(text, ", ") {
		tag, rest, _ := strings.Cut(words, " ")
		c := candidate{tag: tag, manifest: int64(len(list) + 1)}
		for _, word := range strings.Fields(rest) {
			var n int64
			key, value, _ := strings.Cut(word, "=")
			fmt.Sscan(value, &n)
			switch key {
			case "pushed":
				c.pushed = n * 3600
			case "pulled":
				c.pulled = n * 3600
			case "spared":
				c.spared = n * 3600
			case "change":
				c.change = n
			case "immutable":
				c.immutable = &tagRule{origin: "immutable 7"}
			case "part":
				c.part = value
			default:
				t.Fatalf("a candidate %q", words)
			}
		}
		list = append(list, c)
	}
	return list
}

// What becomes of each tag, by which rule, and till when, 100 hours after the start.
func TestRetentionDecides(t *testing.T) {
	t.Parallel()
	const clock = 100
	for _, x := range []struct{ what, rules, tags, want string }{
		{"newest by version", "newest = 2", "v1.2 pushed=9, v1.10 pushed=1, v1.9 pushed=5",
			"v1.2 drop retain 1, v1.9 keep retain 1, v1.10 keep retain 1"},
		{"newest build of one version, by time", "newest = 1", "1.2-f0f0f0f pushed=1, 1.2-1a2b3c4 pushed=2", "1.2-1a2b3c4 keep retain 1, 1.2-f0f0f0f drop retain 1"},
		{"a chart that was brought up later is older", "newest = 1", "1.2.4_up1.9 pushed=1, 1.2.3_up1.10 pushed=2", "1.2.3_up1.10 drop retain 1, 1.2.4_up1.9 keep retain 1"},
		{"newest by time, apart from versions", "newest = 1", "main pushed=1, dev pushed=2, v1 pushed=90, v2 pushed=3",
			"dev keep retain 1, main drop retain 1, v1 drop retain 1, v2 keep retain 1"},
		{"more places than tags", "newest = 9", "a, v1", "a keep retain 1, v1 keep retain 1"},
		{"pushed in one second: by change", "newest = 1", "a pushed=5 change=9, b pushed=5 change=3", "a keep retain 1, b drop retain 1"},
		{"in one change: the later image", "newest = 1", "a pushed=5 change=3, b pushed=5 change=3", "a drop retain 1, b keep retain 1"},
		{"newest of those the rule is about", "tags = [\"v*\", \"!v9*\"]\nnewest = 1", "v1, v2, v9, 10",
			"v1 drop retain 1, v2 keep retain 1, v9 keep, 10 keep"},
		{"younger, to the second", "younger = \"10h\"", "a pushed=89, b pushed=90, c pushed=91",
			"a drop retain 1, b drop retain 1, c keep retain 1 till 101"},
		{"younger does not ask for pulls", "younger = \"10h\"", "a pushed=1 pulled=99", "a drop retain 1"},
		{"pulled", "pulled = \"1d\"", "a pushed=1 pulled=99, b pushed=1 pulled=76, c pushed=1",
			"a keep retain 1 till 123, b drop retain 1, c drop retain 1"},
		{"never pulled, but just pushed", "pulled = \"1d\"", "a pushed=80, b pushed=90 pulled=80", "a keep retain 1 till 104, b keep retain 1 till 114"},
		{"matching all of the tag", "matching = \"v[0-9]|x\"", "v1, v1x, ax, x", "ax drop retain 1, v1x drop retain 1, x keep retain 1, v1 keep retain 1"},
		{"always", "tags = [\"a\"]\nalways = true", "a, b", "a keep retain 1, b keep"},
		{"immutable", "newest = 1", "v1 immutable, v2, v3", "v1 keep immutable 7, v2 drop retain 1, v3 keep retain 1"},
		{"the newest may be immutable", "newest = 1", "v1, v2 immutable", "v1 drop retain 1, v2 keep immutable 7"},
		{"restored", "younger = \"1h\"", "a spared=101, b spared=100, c spared=99", "a keep till 101, b drop retain 1, c drop retain 1"},
		{"kept by a rule, and restored", "younger = \"10h\"", "a pushed=95 spared=120", "a keep retain 1 till 105"},
		{"two rules: either keeps", "newest = 1\n[[retain]]\nyounger = \"10h\"", "v1 pushed=1, v2 pushed=95, v3 pushed=1",
			"v1 drop retain 1, retain 2, v2 keep retain 2 till 105, v3 keep retain 1"},
		{"the later of two times", "younger = \"10h\"\n[[retain]]\nyounger = \"20h\"", "a pushed=95", "a keep retain 2 till 115"},
		{"whatever comes first", "younger = \"20h\"\n[[retain]]\nyounger = \"10h\"", "a pushed=95", "a keep retain 1 till 115"},
		{"for ever is later than any time", "younger = \"9d\"\n[[retain]]\nalways = true", "a pushed=95", "a keep retain 2"},
		{"for ever, said first", "always = true\n[[retain]]\nyounger = \"9d\"", "a pushed=95", "a keep retain 1"},
		{"rules about different tags", "tags = [\"v*\"]\nnewest = 1\n[[retain]]\ntags = [\"pr-*\"]\nyounger = \"1h\"", "v1, v2, pr-1, main",
			"main keep, pr-1 drop retain 2, v1 drop retain 1, v2 keep retain 1"},
		{"several conditions of one rule", "newest = 1\nyounger = \"10h\"\npulled = \"30h\"\nmatching = \"x\"", "v1 pushed=1, v2 pushed=92, v3 pushed=1 pulled=99, v4 pushed=1, x",
			"x keep retain 1, v1 drop retain 1, v2 keep retain 1 till 122, v3 keep retain 1 till 129, v4 keep retain 1"},
		{"part of what stays", "tags = [\"*-*\"]\nyounger = \"10h\"", "v1, v1-arm64 part=v1", "v1-arm64 keep, v1 keep"},
		{"part of what stays for a time", "tags = [\"v1\"]\nyounger = \"10h\"\n[[retain]]\nyounger = \"1h\"", "v1 pushed=95, v1-arm64 pushed=1 part=v1",
			"v1-arm64 keep retain 1 till 105, v1 keep retain 1 till 105"},
		{"part of what goes", "younger = \"10h\"", "v1, v1-arm64 part=v1", "v1-arm64 drop retain 1, v1 drop retain 1"},
		{"no rule", "", "a, v1", "a keep, v1 keep"},
	} {
		var rules []*retainRule
		if x.rules != "" {
			text := "[[retain]]\n" + x.rules
			rules = rulesOf(t, strings.ReplaceAll(text, "[[retain]]\n", "[[retain]]\nrepositories = [\"**\"]\n")).retain
		}
		var got []string
		for _, v := range decide(rules, candidates(t, x.tags), clock*3600) {
			line := v.tag + map[bool]string{true: " keep ", false: " drop "}[v.keep] + v.rule
			if v.due != 0 {
				line += fmt.Sprintf(" till %d", v.due/3600)
			}
			if v.why == "" {
				t.Errorf("%s: no reason is given for %s", x.what, v.tag)
			}
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
		if strings.Join(got, ", ") != x.want {
			t.Errorf("%s:\n%s\nwant\n%s", x.what, strings.Join(got, ", "), x.want)
		}
	}
	var words []string
	for _, n := range []int{1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 101, 111} {
		words = append(words, ordinal(n))
	}
	if got, want := strings.Join(words, ", "), "newest, 2nd newest, 3rd newest, 4th newest, 11th newest, 12th newest, 13th newest, 21st newest, 22nd newest, 23rd newest, 101st newest, 111th newest"; got != want {
		t.Errorf("%s", got)
	}
}

const newestOfCI = "[[retain]]\nrepositories = [\"ci/**\"]\nnewest = 1\n"

// A session: what would go, what that frees, and that it does.
func TestRetentionIsExplainedAndDone(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(newestOfCI), func(c *config) { c.noPromises = true })
	r.freeze()
	r.pushImage("ci/app", "v1", "{1}", "base", "layer of v1")
	old := r.pushImage("ci/app", "v3", "{3}", "untagged")
	two := r.pushImage("ci/app", "v2", "{22}", "base", "layer of v2")
	r.pushImage("ci/app", "v3", "{333}", "base")
	r.pushImage("lib", "x", "{22}", "layer of v2")
	r.pushImage("lib", "y", "{}", "other")
	r.pushBlob("ci/app", "signature")
	signature := newImage(typeOCIManifest, "x/config", "x/layer", fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":%d}`, typeOCIManifest, two.digest, len(two.manifest)), "{1}", "signature")
	r.want(201, "PUT", "/v2/ci/app/manifests/"+signature.digest.String(), signature.manifest, "Content-Type: "+typeOCIManifest)

	want := []explained{
		{"v1", "", false, "retain 1", "3rd newest of 3 by version, pushed 0s ago, never pulled", int64(len("layer of v1"))}, // {1} is in the signature too
		{"v2", two.digest, false, "retain 1", "2nd newest of 3 by version, pushed 0s ago, never pulled", int64(len("{1}signature"))},
		{"v3", "", true, "retain 1", "newest of 3 by version", 0},
	}
	var x explainedRepository
	ask := func() {
		t.Helper()
		x = explainedRepository{}
		if err := json.Unmarshal(r.want(200, "GET", "/v2/ci/app/_berth/retention", nil).body, &x); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	for i := range want {
		want[i].Digest = x.Tags[min(i, len(x.Tags)-1)].Digest
	}
	if !slices.Equal(x.Tags, want) || x.Drops != 2 || x.Frees != want[0].Frees+want[1].Frees || !slices.Equal(x.Rules, []string{"retain 1: the newest 1, of *"}) {
		t.Errorf("explained:\n%+v\nwant\n%+v", x, want)
	}
	r.want(404, "GET", "/v2/none/_berth/retention", nil).code("NAME_UNKNOWN")
	if re := r.want(200, "GET", "/v2/lib/_berth/retention", nil); !strings.Contains(string(re.body), `"rules":[],"tags":[{"tag":"x"`) || !strings.Contains(string(re.body), "no rule applies to it") {
		t.Errorf("without rules: %s", re.body)
	}

	run := func(o options) string {
		t.Helper()
		var out strings.Builder
		if err := retainCommand(t.Context(), r.st, o, newConsole(&out, false)); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	text := `ci/app
  retain 1: the newest 1, of *
TAG        FREES  RULE      WHY
v1   drop   11 B  retain 1  3rd newest of 3 by version, pushed 0s ago, never pulled
v2   drop   12 B  retain 1  2nd newest of 3 by version, pushed 0s ago, never pulled
v3   keep         retain 1  newest of 3 by version

2 tags would be removed, which frees 23 B when their grace period is over
`
	if got := run(options{Explain: true}); got != text {
		t.Errorf("retain --explain:\n%s\nwant\n%s", got, text)
	}
	var list []explainedRepository
	if err := json.Unmarshal([]byte(run(options{Explain: true, JSON: true})), &list); err != nil || !reflect.DeepEqual(list, []explainedRepository{x}) {
		t.Errorf("retain --explain --json: %v\n%+v, want\n%+v", err, list, x)
	}
	if got := run(options{Args: []string{"lib"}}); got != "no tag is to be removed\n" {
		t.Errorf("retain lib: %s", got)
	}
	if got := r.tags("ci/app"); got != "v1 v2 v3" {
		t.Fatalf("to explain, and to apply rules elsewhere, has left %s", got)
	}
	if got := run(options{Args: []string{"ci/app"}}); !strings.HasPrefix(got, "2 tags removed, which frees 23 B when their grace period is over;") {
		t.Errorf("retain ci/app: %s", got)
	}
	if got := r.tags("ci/app"); got != "v3" {
		t.Errorf("retention has left %s", got)
	}
	if n := r.st.retainer.droppedTags.Load(); n != 2 || !strings.Contains(string(r.do("GET", "/metrics", nil).body), "berth_dropped_tags_total 2") {
		t.Errorf("the metrics count %d tags that were dropped, want 2", n)
	}
	r.want(200, "GET", "/v2/ci/app/manifests/"+two.digest.String(), nil) // its grace
	before := r.blobBytes()
	r.pass(r.cfg.untaggedGrace + time.Minute)
	r.pass(r.cfg.untaggedGrace + time.Minute) // the signature had lost its subject only then
	r.pass(r.cfg.grace + time.Minute)
	if freed := before - r.blobBytes(); freed != x.Frees+int64(len("{3}untagged")) {
		t.Errorf("%d bytes are free, want %d and those of %s", freed, x.Frees, old.digest)
	}

	writeRules(r.cfg.dir, "[[immutable]]\nrepositories = [\"x\"]\n")
	if got := run(options{}); !strings.HasPrefix(got, "there are no retention rules") {
		t.Errorf("retain without rules: %s", got)
	}
	if got := run(options{JSON: true}); got != "[]\n" {
		t.Errorf("retain --json without rules: %s", got)
	}
	// Where no server runs, a command reads the rules itself.
	writeRules(r.cfg.dir, newestOfCI)
	r.stop()
	if out, err := runOnce(t, "retain", "--explain", "--data", r.cfg.dir); err != nil || !strings.Contains(out, "v3   keep") {
		t.Errorf("retain --explain: %v\n%s", err, out)
	}
	writeRules(r.cfg.dir, "[[retain]]\n")
	if _, err := runOnce(t, "retain", "--data", r.cfg.dir); err == nil || !strings.Contains(err.Error(), "policy.toml: retain 1: no repositories") {
		t.Errorf("retain with a mistake in the rules: %v", err)
	}
	writeRules(r.cfg.dir, newestOfCI)
}

// blobBytes sums up the blobs.
func (r *registry) blobBytes() (n int64) {
	r.t.Helper()
	if err := r.st.readers.QueryRow(`SELECT coalesce(sum(size), 0) FROM blob`).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// Where manifests without a tag stay for ever, retention frees nothing.
func TestRetentionFreesNothingThatStays(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(newestOfCI), func(c *config) { c.untaggedGrace = 0 })
	r.pushImage("ci/app", "v1", "{}", "one")
	r.pushImage("ci/app", "v2", "{}", "two")
	list, err := r.st.retainer.explainRetention(t.Context(), "ci/app")
	if err != nil || list[0].Drops != 1 || list[0].Frees != 0 {
		t.Errorf("explained: %+v %v, want one tag and no bytes", list, err)
	}
	before := r.blobBytes()
	r.retained("ci/app")
	r.pass(1000 * time.Hour)
	if got := before - r.blobBytes(); got != 0 {
		t.Errorf("%d bytes are free", got)
	}
}

// randomRules are rules about tags in which a history happens.
func randomRules(rng *rand.Rand) string {
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	repositories := func() string { return "repositories = [" + pick(`"**"`, `"a"`, `"a", "b"`, `"**", "!c"`) + "]\n" }
	var b strings.Builder
	if rng.IntN(4) > 0 {
		b.WriteString("[[index]]\n" + repositories() + "from = [" + pick(`"suffix"`, `"same-tag"`, `"suffix", "same-tag"`) + "]\n")
	}
	if rng.IntN(3) == 0 {
		b.WriteString("[[immutable]]\nrepositories = [\"b\"]\ntags = [" + pick(`"t0"`, `"t0-amd64"`, `"v*"`) + "]\n")
	}
	for range 1 + rng.IntN(3) {
		b.WriteString("[[retain]]\n" + repositories() + pick("", `tags = ["*-*"]`, `tags = ["t*"]`, `tags = ["*", "!t0"]`, `tags = ["*-arm64"]`) + "\n" +
			pick("newest = 1", "newest = 2", `younger = "12h"`, `pulled = "24h"`, `matching = ".*-amd64"`, `matching = "t0"`) + "\n")
	}
	return b.String()
}

// tagStep does something random that has to do with tags.
func (h *history) tagStep() string {
	r, repo := h.r, h.repo()
	pick := func(list ...string) string { return list[h.rng.IntN(len(list))] }
	tag := pick("t0", "t1", "v1", "v2") + pick("", "", "-amd64", "-arm64", "-x86_64", "-linux-arm64")
	stored := func() digest.Digest { // also indexes that the registry has made
		list, err := listRows(r.st, scanOne[digest.Digest], `SELECT m.digest FROM manifest m JOIN repository r ON r.id = m.repository WHERE r.name = ? ORDER BY m.digest`, repo)
		if err != nil {
			r.t.Fatal(err)
		}
		return append(list, sum("nothing"))[h.rng.IntN(len(list)+1)]
	}
	switch h.rng.IntN(12) {
	case 0, 1, 2, 3:
		config := platformImage(pick("amd64", "arm64", "riscv64"), pick("a", "b"))
		content := h.content()
		r.pushBlob(repo, content)
		r.pushBlob(repo, config)
		im := ociImage(config, content)
		r.do("PUT", "/v2/"+repo+"/manifests/"+tag, im.manifest, "Content-Type: "+typeOCIManifest)
		h.bodies[repo][im.digest] = im.manifest
		return "pushed " + repo + ":" + tag
	case 4, 5:
		content := h.content()
		r.pushBlob(repo, content)
		r.pushBlob(repo, "{}")
		d := stored()
		im := newImage(typeOCIManifest, "x/config", "x/layer", fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":7}`, typeOCIManifest, d), "{}", content)
		r.do("PUT", "/v2/"+repo+"/manifests/"+pick(im.digest.String(), im.digest.String(), tag), im.manifest, "Content-Type: "+typeOCIManifest)
		return "signed " + repo + "@" + shortDigest(d.String())
	case 6, 7:
		r.do("GET", "/v2/"+repo+"/manifests/"+pick(tag, stored().String()), nil)
		return "pulled from " + repo
	case 8:
		to := pick("t0", "t1", "v3", "t1-arm64")
		tagManifest(r.st, repo, reference{digest: stored()}, to, author{overwrite: true})
		return "tagged " + repo + ":" + to
	case 9:
		r.do("DELETE", "/v2/"+repo+"/manifests/"+tag, nil)
		return "deleted " + repo + ":" + tag
	case 10:
		if h.rng.IntN(4) == 0 {
			r.do("DELETE", "/v2/"+repo+"/_berth/repository", nil)
			return "deleted " + repo
		}
	}
	if last, _, err := r.st.lastChangeOf(repo, reference{}); err == nil {
		r.st.undo(last.change, "", "", author{overwrite: true})
	}
	return "undid the last change of " + repo
}

// explainAndDo drops what no rule keeps, and compares what was said before with
// what happens.
func (h *history) explainAndDo(only string) error {
	r, ctx := h.r, h.r.t.Context()
	explain := func() (list []explainedRepository, drops, frees int64) {
		if err := r.st.pulls.save(); err != nil {
			r.t.Fatal(err)
		}
		list, err := r.st.retainer.explainRetention(ctx, only)
		if err != nil && !errors.Is(err, errNameUnknown) { // it was garbage as a whole
			r.t.Fatal(err)
		}
		for _, x := range list {
			var n, sum int64
			for _, e := range x.Tags {
				sum += e.Frees
				if !e.Keep {
					n++
				} else if e.Frees != 0 {
					r.t.Errorf("%s stays and frees %d bytes", e.Tag, e.Frees)
				}
			}
			if n != int64(x.Drops) || sum != x.Frees {
				r.t.Errorf("%s: %d tags and %d bytes, the sum is %d and %d", x.Repository, n, sum, x.Drops, x.Frees)
			}
			drops, frees = drops+n, frees+sum
		}
		for i := range list { // with garbage go the tags that belong to it
			list[i].Tags = slices.DeleteFunc(list[i].Tags, func(e explained) bool { return signedBy(e.Tag) != "" })
		}
		return slices.DeleteFunc(list, func(x explainedRepository) bool { return len(x.Tags) == 0 }), drops, frees
	}
	tags := func() map[string]bool {
		list, err := listRows(r.st, scanOne[string], `SELECT r.name || ':' || t.name FROM tag t JOIN repository r ON r.id = t.repository WHERE r.deleted IS NULL`)
		if err != nil {
			r.t.Fatal(err)
		}
		all := make(map[string]bool)
		for _, tag := range list {
			if _, name, _ := strings.Cut(tag, ":"); signedBy(name) == "" {
				all[tag] = true
			}
		}
		return all
	}
	now := r.st.graces()
	now.now = true
	list, drops, frees := explain()
	r.collect(now) // what goes anyway is not retention's
	if again, _, _ := explain(); len(again)+len(list) > 0 && !reflect.DeepEqual(again, list) {
		return fmt.Errorf("without garbage it is\n%+v, and was\n%+v", again, list)
	}
	before, want := r.blobBytes(), tags()
	for _, x := range list {
		for _, e := range x.Tags {
			if !e.Keep {
				delete(want, x.Repository+":"+e.Tag)
			}
		}
	}
	if _, _, err := r.st.retainer.retain(ctx, only); err != nil {
		return err
	}
	if got := tags(); !maps.Equal(got, want) {
		return fmt.Errorf("left are the tags\n%v, want\n%v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	r.collect(now)
	if freed := before - r.blobBytes(); freed != frees {
		return fmt.Errorf("%d tags that went have freed %d bytes, want %d, as was said:\n%+v", drops, freed, frees, list)
	}
	h.did = append(h.did, fmt.Sprintf("dropped %d tags, which freed %d bytes", drops, frees))
	return nil
}

// What is said to go goes, and frees what is said, to the byte.
func TestRetentionFreesWhatItSays(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			seed := cmp.Or(*garbageSeed, rand.Uint64()) + uint64(i)
			t.Logf("-garbage.seed %d", seed-uint64(i))
			rng := rand.New(rand.NewPCG(seed, 3))
			rules := randomRules(rng)
			r := startRegistry(t, ruled(rules), func(c *config) {
				c.noPromises = true
				if rng.IntN(8) == 0 {
					c.untaggedGrace = 0
				}
			})
			r.freeze()
			h := &history{r: r, rng: rng, bodies: map[string]map[digest.Digest]string{"a": {}, "b": {}, "c": {}}}
			for i := range *garbageSteps {
				if rng.IntN(3) == 0 {
					h.did = append(h.did, h.step())
				} else {
					h.did = append(h.did, h.tagStep())
				}
				if rng.IntN(12) > 0 {
					continue
				}
				only := ""
				if repo := h.repo(); rng.IntN(4) == 0 && r.do("GET", "/v2/"+repo+"/tags/list", nil).status == 200 {
					only = repo
				}
				if err := h.explainAndDo(only); err != nil {
					t.Fatalf("step %d: %v\nby\n%safter: %s", i, err, rules, strings.Join(h.did[max(0, len(h.did)-25):], "; "))
				}
			}
		})
	}
}

// An index stays whole as long as its tag stays; it goes before its parts.
func TestRetentionKeepsIndexesWhole(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(`
[[index]]
repositories = ["a"]
from = ["suffix"]
[[retain]]
repositories = ["a"]
tags = ["*-*"]
younger = "1d"
`))
	r.freeze()
	for _, tag := range []string{"main-amd64", "main-arm64"} {
		_, architecture, _ := strings.Cut(tag, "-")
		r.pushImage("a", tag, platformImage(architecture, ""), architecture)
	}
	r.pushImage("a", "main-386", "{}", "of no platform, so no part")
	index := r.want(200, "GET", "/v2/a/manifests/main", nil).body
	r.moved.Add(int64(48 * time.Hour))
	if got := r.retained("a"); got != "main main-amd64 main-arm64" {
		t.Errorf("left are %s", got)
	}
	r.want(200, "GET", "/v2/a/manifests/main", nil).is(string(index))
	// When the index goes too, it is put together no more.
	writeRules(r.cfg.dir, "[[index]]\nrepositories = [\"a\"]\nfrom = [\"suffix\"]\n[[retain]]\nrepositories = [\"a\"]\nmatching = \"main-arm64\"\n")
	if got := r.retained("a"); got != "main-arm64" {
		t.Errorf("left are %s", got)
	}
	if _, _, err := r.st.undo(lastNumber(t, r, "a"), "", "", author{overwrite: true}); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/v2/a/manifests/main", nil).is(string(index))
}

// lastNumber is that of the last change of a repository.
func lastNumber(t *testing.T, r *registry, repo string) int64 {
	t.Helper()
	last, _, err := r.st.lastChangeOf(repo, reference{})
	if err != nil {
		t.Fatal(err)
	}
	return last.change
}
