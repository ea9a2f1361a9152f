// Rules about tags: how they are read, what a version is, and what never moves.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// ruled has the registry begin with rules.
func ruled(rules string) func(*config) {
	return func(c *config) { writeRules(c.dir, rules) }
}

// rulesOf reads rules that must be good.
func rulesOf(t testing.TB, text string) *tagRules {
	t.Helper()
	p, err := parsePolicy([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return p.tags
}

// What is wrong with a rule about tags is said with its place.
func TestBrokenRulesAboutTags(t *testing.T) {
	t.Parallel()
	const all = "repositories = [\"**\"]\n"
	for text, want := range map[string]string{
		"[[immutable]]\n":                                                           `immutable 1: no repositories: name some, or "**" for all`,
		"[[immutable]]\nrepositories = []\n":                                        "immutable 1: no repositories",
		"[[immutable]]\nrepositories = [\"A\"]\n":                                   `immutable 1: "A" is not a pattern for repositories`,
		"[[immutable]]\nrepositories = [\"!a\"]\n":                                  "immutable 1: [\"!a\"] only excludes",
		"[[immutable]]\n" + all + "[[immutable]]\n" + all + "tags = [\"a/b\"]\n":    `immutable 2: "a/b" is not a pattern for tags`,
		"[[immutable]]\n" + all + "tags = [\"!v1\"]\n":                              `perhaps "*"`,
		"[[immutable]]\n" + all + "tags = [\"\"]\n":                                 `immutable 1: "" is not a pattern`,
		"[[immutable]]\n" + all + "tags = [\"" + strings.Repeat("a", 129) + "\"]\n": "is not a pattern",
		"[[immutable]]\n" + all + "tags = \"v*\"\n":                                 "line 3",
		"[[immutable]]\n" + all + "tag = [\"v*\"]\n":                                `"immutable.tag" means nothing here`,
		"[immutable]\n" + all:                                                       "immutable",
		"[[immutabel]]\n" + all:                                                     `"immutabel" means nothing here`,
		"[[index]]\n" + all:                                                         `index 1: from is missing or empty: use ["same-tag"], or "suffix"`,
		"[[index]]\n" + all + "from = []\n":                                         "index 1: from is missing or empty",
		"[[index]]\n" + all + "from = [\"suffix\", \"prefix\"]\n":                   `index 1: from "prefix" is neither same-tag nor suffix`,
		"[[index]]\nfrom = [\"suffix\"]\n":                                          "index 1: no repositories",
		"[[index]]\n" + all + "from = [\"suffix\"]\nnewest = 1\n":                   `"index.newest" means nothing here`,
		"[[retain]]\n" + all:                                                        "retain 1: it keeps nothing: add newest, younger, pulled, matching or always",
		"[[retain]]\n" + all + "always = false\n":                                   "retain 1: it keeps nothing",
		"[[retain]]\nnewest = 1\n":                                                  "retain 1: no repositories",
		"[[retain]]\n" + all + "newest = 0\n":                                       "retain 1: newest = 0: must be at least 1",
		"[[retain]]\n" + all + "newest = -3\n":                                      "retain 1: newest = -3: must be at least 1",
		"[[retain]]\n" + all + "newest = \"3\"\n":                                   "line 3",
		"[[retain]]\n" + all + "always = true\nnewest = 0\n":                        "newest = 0",
		"[[retain]]\n" + all + "younger = \"soon\"\n":                               `retain 1: younger: "soon" is not a time span`,
		"[[retain]]\n" + all + "younger = \"never\"\n":                              `retain 1: younger: "never" is not a time span`,
		"[[retain]]\n" + all + "pulled = \"-1d\"\n":                                 `retain 1: pulled: "-1d" is not a time span`,
		"[[retain]]\n" + all + "pulled = \"0s\"\n":                                  `retain 1: pulled: "0s" is not a time span`,
		"[[retain]]\n" + all + "younger = \"x\"\npulled = \"y\"\n":                  `pulled: "y"`,
		"[[retain]]\n" + all + "matching = \"v(\"\n":                                "retain 1: matching: ",
		"[[retain]]\n" + all + "matching = \"a)|(b\"\n":                             "retain 1: matching: ",
		"[[retain]]\n" + all + "keep = 3\n":                                         `"retain.keep" means nothing here`,
		"[[retain]]\n" + all + "newest = 1\n[[retain]]\n" + all:                     "retain 2: it keeps nothing",
		"[[rule]]\nwho = [\"users\"]\n" + all + "allow = [\"pull\"]\nnewest = 1\n":  `"rule.newest"`,
	} {
		if _, err := parsePolicy([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error about %s", text, err, want)
		}
	}
}

func TestRulesAboutTagsForPeople(t *testing.T) {
	t.Parallel()
	rules := rulesOf(t, `
[[immutable]]
repositories = ["release/*", "!release/x"]
tags = ["v*", "!v0*"]
[[immutable]]
repositories = ["base"]
[[index]]
repositories = ["home/**"]
from = ["same-tag", "suffix"]
[[retain]]
repositories = ["ci/**"]
tags = ["pr-*"]
newest = 10
younger = "36h"
pulled = "30d"
matching = "v[0-9]+"
always = true
[[retain]]
repositories = ["**"]
newest = 1
`)
	want := []string{
		"immutable 1 (v*, !v0* in release/*, !release/x): cannot be changed or deleted",
		"immutable 2 (* in base): cannot be changed or deleted",
		"index 1 (* in home/**): an index of all platforms, from same-tag and suffix",
		"retain 1 (pr-* in ci/**): keeps all tags, the newest 10, younger than 36h, pulled within 30d, matching ",
		"retain 2 (* in **): keeps the newest 1",
	}
	if got := rules.lines(); !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("the rules are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	r := rules.retain[0]
	if r.newest != 10 || r.younger != 36*time.Hour || r.pulled != 30*24*time.Hour || !r.always || !r.matching.MatchString("v12") || r.matching.MatchString("v12a") {
		t.Errorf("the rule is %+v", r)
	}
	if rules.empty() || !rulesOf(t, "[[rule]]\nwho = [\"users\"]\nrepositories = [\"**\"]\nallow = [\"pull\"]\n").empty() {
		t.Error("rules about tags are none, or none are some")
	}
}

func TestPatternsOfTags(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ patterns, has, not string }{
		{"", "latest v1 X_y.z-1", ""},
		{"*", "latest v1", ""},
		{"v*", "v v1 v1.2-rc", "V1 1v latest"},
		{"v?", "v1 vx v-", "v v12"},
		{"v1.2", "v1.2", "v1x2 v1.2.3"},
		{"* !latest", "v1 latest2", "latest"},
		{"!pr-* * !latest", "v1", "latest pr-1"},
		{"a b*", "a b bc", "ab c"},
		{"**-rc*", "1-rc 1-2-rc3", "1-r"},
		{"* !*", "", "a"},
	} {
		list, err := parseTags(strings.Fields(x.patterns))
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range strings.Fields(x.has) {
			if !list.has(tag) {
				t.Errorf("%q does not have %s", x.patterns, tag)
			}
		}
		for _, tag := range strings.Fields(x.not) {
			if list.has(tag) {
				t.Errorf("%q has %s", x.patterns, tag)
			}
		}
	}
}

// Each list is in order, from old to new.
func TestTagsInOrder(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("9", 18)
	for _, list := range []string{
		"v1.2 v1.10 v2",
		"1.0-rc1 1.0-rc2 1.0-rc10 1.0 1.0.1-rc1 1.0.1",
		"1.2.3-alpine 1.2.3 1.2.4-alpine",
		"1.2.3-alpine3.9 1.2.3-alpine3.18",
		"1.0-alpha 1.0-alpha.1 1.0-alpha.beta 1.0-beta 1.0-beta.2 1.0-beta.11 1.0-rc.1 1.0",
		"1.0-1 1.0-2 1.0-10 1.0-a",
		"1.9 v1.10 1.11",
		"1 1.0.1 1.1 2",
		"1.0-rc2-alpine3.9 1.0-rc2-alpine3.10 1.0-rc10-alpine3.9 1.0", // numbers in the middle of words
		"1.0-9 1.0-10 1.0-9a",
		// git describe: commits after a tag, and before the next.
		"v1.2.3-rc1 v1.2.3-rc1-10-g0f0f0f0 v1.2.3-rc2 v1.2.3 v1.2.3-9-gfffffff v1.2.3-10-g0f0f0f0 v1.2.3-10-g0f0f0f0-dirty v1.2.3-11-g0f0f0f0 v1.2.4-rc1",
		// Build metadata, as helm writes it.
		"103.9.8 103.9.9_up0.9.9 104.0.0 104.0.0_up1.0.2 104.0.0_up1.0.10 104.0.1-rc.1_up1.0.10 104.0.1_up1.0.10",
		"3.14.0.dev9_g1a2b3c4 3.14.0 3.14.0.post1 3.14.0.post10 3.14.1a1 3.14.1a2 3.14.1b1 3.14.1rc1 3.14.1",
		"17beta1 17beta1-alpine3.21 17rc1 17 17.1",
		"26.0.0.Beta1 26.0.0.CR1 26.0.0.Final-jdk17 26.0.0.Final 26.0.1.Final",
		"01.2 1.03 1.4",
		"1.2.3.4 1.2.3.10",
		"latest v0.1", // what is no version is before those that are
		"20240131 20240201 main v0",
		"2024-01-31 2024-02-01 v0",
		"0a1b2c3 12345 deadbeef 1",
		"1.1 v1" + long[1:] + " v" + long + " " + long + ".1",
		long + "9 v1", // too long for a number
		"A a",
	} {
		tags := strings.Fields(list)
		for i, a := range tags {
			for j, b := range tags {
				if got := compareTags(a, b); got != cmp.Compare(i, j) {
					t.Errorf("%s and %s compare as %d, want %d", a, b, got, cmp.Compare(i, j))
				}
			}
		}
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	const are = "1 v1 0 9999 1.2 v1.2 1.2.3 1.2.3.4 1.02 1.2-rc1 1.2.3-alpine 2024.01.31 v20240131 v1-rc.1_x 1-alpine 1.2_3 v1_x 1.2.3_up4 v1-3-g0f0f0f0 17beta1 1.25rc1-alpine3.21 1.2.4.dev9_g1a2b3c4 1.2.post1 1.2.3.Final 6.0.0-M1"
	const areNot = "latest main 12345 20240131 2024-01-31 2024-01-31T10 20240131-1 1a2b3c4 0000000 1234567 V1 v v1. .1 1..2 1_2 1.2- -1 1.x sha-1234567 v1.2+x 1.2.v3 2024_01 2024_01_31 1.2_ _1.2 4821b03 12c4 1.2rc 1.2x1 1.2.Finals"
	for _, tag := range strings.Fields(are) {
		if _, ok := parseVersion(tag); !ok {
			t.Errorf("%s is no version", tag)
		}
	}
	for _, tag := range append(strings.Fields(areNot), "", strings.Repeat("1", 19), "1."+strings.Repeat("1", 128)) {
		if v, ok := parseVersion(tag); ok {
			t.Errorf("%s is a version: %v", tag, v)
		}
	}
}

// What differs only in the name of a commit is one version: which is newer is known
// by the time of the push.
func TestVersionsOfCommits(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ a, b string }{
		{"v1.2.3-10-g0f0f0f0", "v1.2.3-10-gfffffff"}, {"1.2.3-1a2b3c4", "1.2.3-f0f0f0f"}, {"1.2.3_1a2b3c4", "1.2.3_g0f0f0f0"},
		{"1.2.3-main-1a2b3c4", "1.2.3-main-f0f0f0f"}, {"1.2.4.dev9_g1a2b3c4", "1.2.4.dev9_gf0f0f0f"},
	} {
		if a, b := placeOf(x.a), placeOf(x.b); !a.is || !b.is || a.version.compare(b.version) != 0 {
			t.Errorf("%s and %s: %+v, %+v", x.a, x.b, a, b)
		}
	}
	for _, x := range []struct{ older, newer string }{
		{"1.2.3-20240131", "1.2.3-20240201"}, {"1.2.3-defaced", "1.2.3-effaced"}, {"1.2.3-f0f0f0f", "1.2.3"}, {"1.2.3-dev-f0f0f0f", "1.2.3-main-1a2b3c4"},
	} {
		if c := placeOf(x.older).version.compare(placeOf(x.newer).version); c >= 0 {
			t.Errorf("%s compares to %s as %d", x.older, x.newer, c)
		}
	}
}

// The order is one, whatever the tags are: else the newest would depend on how
// they were listed.
func TestOrderOfTagsIsTotal(t *testing.T) {
	t.Parallel()
	seed := cmp.Or(*garbageSeed, rand.Uint64())
	t.Logf("-garbage.seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	words := []string{"v", "0", "1", "01", "10", "2", ".", ".", "-", "-", "_", "rc", "a", "00", "9999", "alpine", strings.Repeat("8", 17), "-3-g0f0f0f0", "-1a2b3c4", "1.2", ".post", "dev"}
	versions := 0
	random := func() string {
		var b strings.Builder
		for range 1 + rng.IntN(8) {
			b.WriteString(words[rng.IntN(len(words))])
		}
		if _, ok := parseVersion(b.String()); ok {
			versions++
		}
		return b.String()
	}
	for range 50000 {
		a, b, c := random(), random(), random()
		ab, bc, ac := compareTags(a, b), compareTags(b, c), compareTags(a, c)
		switch {
		case compareTags(b, a) != -ab:
			t.Fatalf("%s and %s compare as %d, the other way as %d", a, b, ab, compareTags(b, a))
		case (ab == 0) != (a == b):
			t.Fatalf("%s and %s compare as %d", a, b, ab)
		case ab <= 0 && bc <= 0 && ac > 0, ab >= 0 && bc >= 0 && ac < 0:
			t.Fatalf("%s, %s, %s: %d, %d and %d", a, b, c, ab, bc, ac)
		}
	}
	if versions < 10000 {
		t.Errorf("only %d of 150000 tags were versions", versions)
	}
}

// Rules about tags say nothing about people: the registry stays as open as it was.
func TestRulesAboutTagsLeaveTheRegistryOpen(t *testing.T) {
	t.Parallel()
	const rules = "[[immutable]]\nrepositories = [\"a\"]\n"
	r := startRegistry(t, ruled(rules))
	r.pushImage("a", "v1", "{}", "layer")
	r.want(200, "GET", "/v2/", nil)
	// Nor does it close if they go. They hold until a restart.
	if err := os.Remove(filepath.Join(r.cfg.dir, "policy.toml")); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/v2/", nil)
	r.want(403, "DELETE", "/v2/a/manifests/v1", nil)
	r.restart()
	r.want(202, "DELETE", "/v2/a/manifests/v1", nil)
	out, err := runOnce(t, "policy", "check", "--data", r.cfg.dir)
	if err != nil || !strings.Contains(out, "is open") {
		t.Errorf("policy check: %v\n%s", err, out)
	}
	writeRules(r.cfg.dir, rules)
	out, err = runOnce(t, "policy", "check", "--data", r.cfg.dir)
	if err != nil || !strings.Contains(out, "is open") || !strings.Contains(out, "immutable 1 (* in a): cannot be changed or deleted\n") {
		t.Errorf("policy check: %v\n%s", err, out)
	}
	// With users there is the default rule, as without the file.
	guarded("", "ann")(&r.cfg)
	r.want(401, "GET", "/v2/", nil)
	r.pushAs(basic("ann", "ann-secret"), "b", "x", "{}")
}

// From a file without rules about people nobody gets more rights, before a restart.
func TestRulesAboutTagsAloneKeepThoseAboutPeople(t *testing.T) {
	t.Parallel()
	const people = "[[rule]]\nwho = [\"ann\"]\nrepositories = [\"**\"]\nallow = [\"pull\"]\n"
	const tags = "[[immutable]]\nrepositories = [\"**\"]\n"
	r := startRegistry(t, guarded(people, "ann", "bob"))
	for _, x := range []struct {
		rules     string
		immutable bool // nor do rules about tags change without the others
	}{{people, false}, {tags, false}, {people + tags, true}, {tags + "tags = [\"v1\"]\n", true}} {
		writeRules(r.cfg.dir, x.rules)
		r.want(401, "GET", "/v2/a/manifests/x", nil)
		r.want(403, "GET", "/v2/a/manifests/x", nil, basic("bob", "bob-secret"))
		r.want(403, "POST", "/v2/a/blobs/uploads/", nil, basic("ann", "ann-secret"))
		if got := r.server.gate.tagRules().immutableBy("a", "x") != nil; got != x.immutable {
			t.Errorf("after\n%s\na:x is immutable: %v, want %v", x.rules, got, x.immutable)
		}
	}
	if n := strings.Count(r.log.String(), "it no longer has a [[rule]]"); n != 2 {
		t.Errorf("the log tells %d times that the rules are gone, want 2\n%s", n, r.log.String())
	}
	r.restart() // and then everybody who has a password may
	r.want(202, "POST", "/v2/a/blobs/uploads/", nil, basic("bob", "bob-secret"))
}

const immutableRules = `
[[immutable]]
repositories = ["release/*"]
tags = ["*", "!latest"]
[[retain]]
repositories = ["**"]
newest = 1
`

// An immutable tag stays as it is, whatever is tried.
func TestImmutableTags(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(immutableRules))
	const named = "release/app:v1 is immutable, by the rule immutable 1 (*, !latest in release/*)"
	denied := func(method, path, body string) {
		t.Helper()
		re := r.want(403, method, path, body, "Content-Type: "+typeOCIManifest).code("DENIED")
		if !strings.Contains(string(re.body), named) {
			t.Errorf("%s %s: %s\nwant %q", method, path, re.body, named)
		}
	}
	first := r.pushImage("release/app", "v1", "{}", "one")
	second := r.pushImage("release/app", "v2", "{}", "two")
	put := func(tag string, im image) {
		t.Helper()
		r.want(201, "PUT", "/v2/release/app/manifests/"+tag, im.manifest, "Content-Type: "+typeOCIManifest)
	}
	put("v1", first) // it is there: that moves nothing
	put("latest", first)
	put("latest", second)
	denied("PUT", "/v2/release/app/manifests/v1", second.manifest)
	index, _ := ociIndex(first.manifest, second.manifest)
	if re := r.do("PUT", "/v2/release/app/manifests/v1", index, "Content-Type: "+typeOCIIndex); re.status != 403 {
		t.Errorf("an index in its place: %d", re.status)
	}
	denied("PUT", "/v2/release/app/manifests/"+second.digest.String()+"?tag=new&tag=v1", second.manifest)
	r.want(404, "GET", "/v2/release/app/manifests/new", nil) // all or nothing
	denied("DELETE", "/v2/release/app/manifests/v1", "")
	denied("DELETE", "/v2/release/app/manifests/"+first.digest.String(), "")
	denied("DELETE", "/v2/release/app/_berth/repository", "")
	if _, _, err := r.st.retainer.retain(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	r.pass(1000 * time.Hour)
	r.want(200, "GET", "/v2/release/app/manifests/v1", nil).is(first.manifest)
	r.want(200, "GET", "/v2/release/app/blobs/"+first.layers[0].String(), nil)

	// What is not immutable goes and moves as ever.
	r.want(202, "DELETE", "/v2/release/app/manifests/latest", nil)
	r.pushImage("release/deep/app", "v1", "{}", "one")
	r.pushImage("release/deep/app", "v1", "{}", "two")
	r.want(202, "DELETE", "/v2/release/deep/app/_berth/repository", nil)
}

// Whoever has the machine can do it all the same, but has to say so.
func TestImmutableTagsAndCommands(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(immutableRules))
	first := r.pushImage("release/app", "v1", "{}", "one")
	second := r.pushImage("release/app", "v2", "{}", "two")
	do := func(run storeCommand, force bool, args ...string) (string, error) {
		t.Helper()
		var out strings.Builder
		err := run(t.Context(), r.st, options{Args: args, Force: force, Who: "kim"}, newConsole(&out, false))
		return out.String(), err
	}
	for _, x := range []struct {
		run  storeCommand
		args string
	}{
		{removeCommand, "release/app:v1"},
		{removeCommand, "release/app@" + first.digest.String()},
		{removeCommand, "release/app"},
		{tagCommand, "release/app:v2 v1"},
		{undoCommand, "1"}, // by which v1 was made
	} {
		_, err := do(x.run, false, strings.Fields(x.args)...)
		if !errors.Is(err, errDenied) || !strings.Contains(err.Error(), "release/app:v1 is immutable, by the rule immutable 1") {
			t.Errorf("%s: %v, want an error that names the rule", x.args, err)
		}
		r.want(200, "GET", "/v2/release/app/manifests/v1", nil).is(first.manifest)
	}
	for _, x := range []struct {
		run  storeCommand
		args string
		want string // what v1 is then; "" for nothing
	}{
		{tagCommand, "release/app:v2 v1", second.manifest},
		{undoCommand, "release/app:v1", first.manifest},
		{removeCommand, "release/app:v1", ""},
		{undoCommand, "release/app:v1", first.manifest},
		{removeCommand, "release/app@" + first.digest.String(), ""},
		{undoCommand, "release/app@" + first.digest.String(), first.manifest},
		{removeCommand, "release/app", ""},
		{undoCommand, "release/app", first.manifest},
	} {
		if _, err := do(x.run, true, strings.Fields(x.args)...); err != nil {
			t.Fatalf("%s --force: %v", x.args, err)
		}
		if x.want == "" {
			r.want(404, "GET", "/v2/release/app/manifests/v1", nil)
		} else {
			r.want(200, "GET", "/v2/release/app/manifests/v1", nil).is(x.want)
		}
	}
	if out, err := do(removeCommand, true, "release/app:v1"); err != nil || !strings.Contains(out, "berth undo") {
		t.Errorf("rm --force: %v\n%s", err, out)
	}
}

// Without the file that was named nobody knows what never goes: so nothing does.
func TestRulesOfAFileThatIsGone(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "v1", "{}", "layer")
	r.off()
	path := filepath.Join(t.TempDir(), "rules.toml")
	rm := func() error {
		t.Helper()
		_, err := runOnce(t, "rm", "a:v1", "--data", r.cfg.dir, "--policy", path)
		return err
	}
	if err := rm(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("without its rules: %v", err)
	}
	if err := os.WriteFile(path, []byte("[[immutable]]\nrepositories = [\"**\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rm(); err == nil || !strings.Contains(err.Error(), "immutable 1") {
		t.Errorf("with its rules: %v", err)
	}
	if out, err := runOnce(t, "rm", "a:v1", "--data", r.cfg.dir); err != nil {
		t.Errorf("where no file was named: %v\n%s", err, out)
	}
}

// What the first policy shows as examples are rules, once the # is taken away.
func TestExamplesInTheStarterPolicy(t *testing.T) {
	t.Parallel()
	text := regexp.MustCompile(`(?m)^# (\[\[|\w+ += )`).ReplaceAllString(fmt.Sprintf(starterPolicy, "kim"), "$1")
	p, err := parsePolicy([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if len(p.rules) != 3 || len(p.tags.immutable) != 1 || len(p.tags.index) != 1 || len(p.tags.retain) != 1 {
		t.Errorf("the examples are %q", p.lines())
	}
}
