// Rules about tags: which never move, which are an index of several platforms,
// which go by themselves.
//
// They stand in policy.toml beside the rules about people, and hold for everybody:
//
//	[[immutable]]                  # never move, never go
//	repositories = ["release/*"]
//	tags         = ["v*"]          # * is anything, "!x" excepts; without it all
//
//	[[index]]                      # one tag for all platforms (tag_platforms.go)
//	repositories = ["home/**"]
//	from         = ["same-tag"]    # or "suffix": app:1.0-arm64 becomes a part of app:1.0
//
//	[[retain]]                     # what none of them keeps goes (tag_retain.go)
//	repositories = ["ci/**"]
//	newest       = 10
//
// A tag may gain a platform under any of them: that takes nothing from anybody.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A tagRule is about some tags of some repositories.
type tagRule struct {
	origin             string // its kind and number, for people
	repositories, tags *patterns
	from               []string // of an index: where its members come from
}

// Where the members of an index come from.
const (
	fromSameTag = "same-tag"
	fromSuffix  = "suffix"
)

func (r *tagRule) about(repository, tag string) bool {
	return r.repositories.has(repository) && r.tags.has(tag)
}

func (r *tagRule) String() string {
	return fmt.Sprintf("%s (%s in %s)", r.origin, strings.Join(r.tags.text, ", "), strings.Join(r.repositories.text, ", "))
}

// A retainRule keeps tags that fulfil one of its conditions, and lets go of those
// that it is about and no rule keeps. A condition that is zero is none.
type retainRule struct {
	tagRule
	newest   int           // so many, by version and by time
	younger  time.Duration // pushed within it
	pulled   time.Duration // pulled or pushed within it
	matching *regexp.Regexp
	written  string // matching, as in the file
	always   bool
}

// conditions says what it keeps.
func (r *retainRule) conditions() string {
	var all []string
	add := func(is bool, format string, args ...any) {
		if is {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	add(r.always, "always")
	add(r.newest > 0, "the newest %d", r.newest)
	add(r.younger > 0, "younger than %s", span(r.younger))
	add(r.pulled > 0, "pulled within %s", span(r.pulled))
	add(r.matching != nil, "matching %s", r.written)
	return strings.Join(all, ", ")
}

// tagRules are all at one time.
type tagRules struct {
	immutable, index []*tagRule
	retain           []*retainRule
}

func (rules *tagRules) empty() bool {
	return len(rules.immutable)+len(rules.index)+len(rules.retain) == 0
}

// lines are the rules for people.
func (rules *tagRules) lines() (lines []string) {
	for _, r := range rules.immutable {
		lines = append(lines, r.String()+": stay as they are")
	}
	for _, r := range rules.index {
		lines = append(lines, fmt.Sprintf("%s: an index of all platforms, from %s", r, strings.Join(r.from, " and ")))
	}
	for _, r := range rules.retain {
		lines = append(lines, fmt.Sprintf("%s: kept are %s", &r.tagRule, r.conditions()))
	}
	return lines
}

// immutableBy returns the rule by which a tag never moves, nil if there is none.
func (rules *tagRules) immutableBy(repository, tag string) *tagRule {
	return firstOf(rules.immutable, func(r *tagRule) bool { return r.about(repository, tag) && r.means(tag) })
}

// indexedBy returns the rule by which a tag is an index, nil if there is none.
func (rules *tagRules) indexedBy(repository, tag, from string) *tagRule {
	return firstOf(rules.index, func(r *tagRule) bool { return slices.Contains(r.from, from) && r.about(repository, tag) })
}

func firstOf[T any](list []*T, ok func(*T) bool) *T {
	if i := slices.IndexFunc(list, ok); i >= 0 {
		return list[i]
	}
	return nil
}

// retainedBy returns the rules of retention for a repository.
func (rules *tagRules) retainedBy(repository string) (list []*retainRule) {
	for _, r := range rules.retain {
		if r.repositories.has(repository) {
			list = append(list, r)
		}
	}
	return list
}

// rulesNow returns the rules about tags that hold at this moment.
func (st *store) rulesNow() (*tagRules, error) {
	if st.tagRules == nil {
		return &tagRules{}, nil
	}
	return st.tagRules()
}

// tagTables are what policy.toml says about tags.
type tagTables struct {
	Immutable []tagTable `toml:"immutable"`
	Index     []struct {
		tagTable
		From []string `toml:"from"`
	} `toml:"index"`
	Retain []struct {
		tagTable
		Newest   *int   `toml:"newest"`
		Younger  string `toml:"younger"`
		Pulled   string `toml:"pulled"`
		Matching string `toml:"matching"`
		Always   bool   `toml:"always"`
	} `toml:"retain"`
}

type tagTable struct {
	Repositories []string `toml:"repositories"`
	Tags         []string `toml:"tags"`
}

func (x tagTable) parse(kind string, i int) (*tagRule, error) {
	r := &tagRule{origin: fmt.Sprintf("%s %d", kind, i+1)}
	var err error
	if r.repositories, err = parseRepositories(x.Repositories); err == nil {
		r.tags, err = parseTags(x.Tags)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.origin, err)
	}
	return r, nil
}

func (tables *tagTables) parse() (*tagRules, error) {
	rules := &tagRules{}
	for i, x := range tables.Immutable {
		r, err := x.parse("immutable", i)
		if err != nil {
			return nil, err
		}
		rules.immutable = append(rules.immutable, r)
	}
	for i, x := range tables.Index {
		r, err := x.parse("index", i)
		if err != nil {
			return nil, err
		}
		for _, from := range x.From {
			if from != fromSameTag && from != fromSuffix {
				return nil, fmt.Errorf("%s: from %q is neither %s nor %s", r.origin, from, fromSameTag, fromSuffix)
			}
		}
		if r.from = x.From; len(r.from) == 0 {
			return nil, fmt.Errorf("%s: say from what: from = [%q], or %q", r.origin, fromSameTag, fromSuffix)
		}
		rules.index = append(rules.index, r)
	}
	for i, x := range tables.Retain {
		r, err := x.parse("retain", i)
		if err != nil {
			return nil, err
		}
		k := &retainRule{tagRule: *r, always: x.Always}
		err = errors.Join(parseSpan("younger", x.Younger, &k.younger), parseSpan("pulled", x.Pulled, &k.pulled))
		if x.Newest != nil {
			if k.newest = *x.Newest; k.newest < 1 {
				err = errors.Join(err, fmt.Errorf("newest = %d: want at least 1", k.newest))
			}
		}
		if x.Matching != "" {
			_, e := regexp.Compile(x.Matching) // as it is written: "a)|(b" is none
			if e == nil {
				k.matching, e = regexp.Compile("^(?:" + x.Matching + ")$")
				k.written = x.Matching
			}
			if e != nil {
				err = errors.Join(err, fmt.Errorf("matching: %w", e))
			}
		}
		if err == nil && k.conditions() == "" {
			err = errors.New("it keeps nothing: say newest, younger, pulled, matching or always")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.origin, err)
		}
		rules.retain = append(rules.retain, k)
	}
	return rules, nil
}

// parseSpan reads a time span of a rule, if there is one.
func parseSpan(key, text string, to *time.Duration) (err error) {
	if text == "" {
		return nil
	}
	if *to, err = parseLife(text); err == nil && *to == 0 {
		err = fmt.Errorf("%q is not a time span", text)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// span writes a time span as in rules.
func span(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return d.String()
}

// compareTags is the order of tags from old to new: versions, and before them what
// is none, in byte order. A version is numbers with points between, perhaps with a v
// before, and then what makers of versions write (parseVersion). A single number is
// one only if it is short, or has the v: others are dates, or commits. 2024-01-31 is
// a date too.
func compareTags(a, b string) int {
	return comparePlaces(placeOf(a), placeOf(b))
}

// A tagPlace is a tag's place in that order.
type tagPlace struct {
	tag     string
	version tagVersion
	is      bool // a version
}

func placeOf(tag string) tagPlace {
	v, ok := parseVersion(tag)
	return tagPlace{tag, v, ok}
}

func comparePlaces(a, b tagPlace) int {
	switch {
	case a.is && b.is:
		return cmp.Or(a.version.compare(b.version), strings.Compare(a.tag, b.tag))
	case a.is:
		return 1
	case b.is:
		return -1
	}
	return strings.Compare(a.tag, b.tag)
}

// A tagVersion is what a tag says of its place among others. Names of commits are not
// part of it: they have no order.
type tagVersion struct {
	numbers []string // without zeros before them
	suffix  string   // what makes it earlier than the version without it; "" for none
	after   string   // the number of commits, or of a post-release, after it; "" for none
	variant string   // what git describe, or who builds on it, adds to that; "" for none
	build   string   // after the _, which stands for the + that a tag cannot have; "" for none
}

var (
	versionForm = regexp.MustCompile(`^(v?)(\d{1,18}(?:\.\d{1,18})*)(?i:\.(?:final|ga|release))?` +
		`(?:(?:\.?((?i)alpha|beta|preview|pre|rc|cr|dev|post)|([abc]))\.?(\d{1,18}))?((?:-[A-Za-z0-9._-]+)?)$`)
	describeForm = regexp.MustCompile(`^((?:-.+)?)-(\d{1,18})-g[0-9a-f]{4,64}((?:-.+)?)$`)
	dateForm     = regexp.MustCompile(`^\d{4}-\d\d-\d\d`)
	commitForm   = regexp.MustCompile(`(^|[._-])(?:g[0-9a-f]{7,64}|[0-9a-f]{7,64})$`)
)

// maxBareNumber is how many digits a single number has at most that is a version.
const maxBareNumber = 4

// parseVersion reads what tags are made from: semantic versioning, with suffixes and
// with build metadata, whose + helm writes as _; git describe (v1.2.3-10-g0f0f0f0 is
// ten commits after v1.2.3); Python's 1.2rc1, 1.2.dev3 and 1.2.post1; Java's
// 1.2.3.Final. It reports false if the tag is no version.
func parseVersion(tag string) (v tagVersion, ok bool) {
	rest, build, built := strings.Cut(tag, "_")
	m := versionForm.FindStringSubmatch(rest)
	if m == nil || dateForm.MatchString(tag) || built && build == "" {
		return v, false
	}
	prefix, numbers, word, letter, number, suffix := m[1], m[2], strings.ToLower(m[3]), m[4], m[5], m[6]
	for _, n := range strings.Split(numbers, ".") {
		v.numbers = append(v.numbers, strings.TrimLeft(n, "0"))
	}
	if len(v.numbers) == 1 {
		switch {
		case prefix == "" && len(numbers) > maxBareNumber, letter != "": // 4821b03
			return v, false
		case built && prefix == "" && suffix == "" && number == "": // 2024_01
			return v, false
		}
	}
	if m := describeForm.FindStringSubmatch(suffix); m != nil {
		suffix, v.after, v.variant = m[1], strings.TrimLeft(m[2], "0"), m[3]
	}
	switch {
	case word == "post":
		v.after, v.variant = strings.TrimLeft(number, "0"), suffix
	case number != "":
		v.suffix = word + letter + number + suffix
	default:
		v.suffix = strings.TrimPrefix(suffix, "-")
	}
	v.suffix, v.build = withoutCommit(v.suffix), withoutCommit(build)
	return v, true
}

// withoutCommit takes the name of a commit from the end of a text. Words and numbers
// are none: it has digits and letters.
func withoutCommit(text string) string {
	m := commitForm.FindStringSubmatchIndex(text)
	if m == nil {
		return text
	}
	name := text[m[3]:]
	if !strings.ContainsAny(name, digits) || strings.Trim(name, digits) == "" {
		return text
	}
	return text[:m[3]] + "*"
}

// compare is semantic versioning's order, for any number of numbers: what is
// missing counts as 0. What differs only in the commit is the same.
func (v tagVersion) compare(w tagVersion) int {
	for i := range max(len(v.numbers), len(w.numbers)) {
		var a, b string
		if i < len(v.numbers) {
			a = v.numbers[i]
		}
		if i < len(w.numbers) {
			b = w.numbers[i]
		}
		if c := compareNumbers(a, b); c != 0 {
			return c
		}
	}
	if (v.suffix == "") != (w.suffix == "") {
		return cmp.Compare(len(w.suffix), len(v.suffix))
	}
	return cmp.Or(compareWords(v.suffix, w.suffix), compareNumbers(v.after, w.after),
		compareWords(v.variant, w.variant), compareWords(v.build, w.build))
}

// compareNumbers compares digits without zeros before them.
func compareNumbers(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// compareWords compares suffixes by their parts between points: numbers come first,
// and numbers in a word (rc10, rc10-alpine3) count as such.
func compareWords(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), compareIdentifiers)
}

func compareIdentifiers(a, b string) int {
	if n := strings.Trim(a, digits) == ""; n != (strings.Trim(b, digits) == "") {
		if n {
			return -1
		}
		return 1
	}
	for a != "" && b != "" {
		textA, textB := leading(a, false), leading(b, false)
		if (textA == "") != (textB == "") {
			return cmp.Compare(len(textA), len(textB)) // a number comes first
		}
		if c := strings.Compare(textA, textB); c != 0 {
			return c
		}
		a, b = a[len(textA):], b[len(textB):]
		numberA, numberB := leading(a, true), leading(b, true)
		if c := compareNumbers(strings.TrimLeft(numberA, "0"), strings.TrimLeft(numberB, "0")); c != 0 {
			return c
		}
		a, b = a[len(numberA):], b[len(numberB):]
	}
	return cmp.Compare(len(a), len(b))
}

// leading returns the digits that a text begins with, or what is before the first.
func leading(text string, digit bool) string {
	i := 0
	for i < len(text) && (text[i] >= '0' && text[i] <= '9') == digit {
		i++
	}
	return text[:i]
}

const digits = "0123456789"
