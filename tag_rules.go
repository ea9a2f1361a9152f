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
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
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
	add(r.always, "all tags")
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
		lines = append(lines, r.String()+": cannot be changed or deleted")
	}
	for _, r := range rules.index {
		lines = append(lines, fmt.Sprintf("%s: an index of all platforms, from %s", r, strings.Join(r.from, " and ")))
	}
	for _, r := range rules.retain {
		lines = append(lines, fmt.Sprintf("%s: keeps %s", &r.tagRule, r.conditions()))
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
			return nil, fmt.Errorf("%s: from is missing or empty: use [%q], or %q", r.origin, fromSameTag, fromSuffix)
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
				err = errors.Join(err, fmt.Errorf("newest = %d: must be at least 1", k.newest))
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
			err = errors.New("it keeps nothing: add newest, younger, pulled, matching or always")
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
	if *to, err = parseDuration(text); err == nil && *to == 0 {
		err = fmt.Errorf("%q is not a time span", text)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// span writes a time span as parseDuration reads it.
func span(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

var (
	versionForm = expression(`^(v?)(\d{1,18}(?:\.\d{1,18})*)(?i:\.(?:final|ga|release))?` +
		`(?:(?:\.?((?i)alpha|beta|preview|pre|rc|cr|dev|post)|([abc]))\.?(\d{1,18}))?((?:-[A-Za-z0-9._-]+)?)$`)
	describeForm = expression(`^((?:-.+)?)-(\d{1,18})-g[0-9a-f]{4,64}((?:-.+)?)$`)
	dateForm     = expression(`^\d{4}-\d\d-\d\d`)
	commitForm   = expression(`(^|[._-])(?:g[0-9a-f]{7,64}|[0-9a-f]{7,64})$`)
)

// errImmutable is behind the errors of what only rules about tags forbid.
var errImmutable = errors.New("immutable")

func immutableError(repository, tag string, rule *tagRule) *protocolError {
	return errDenied.saying("%s:%s is immutable, by the rule %s", repository, tag, rule).because(errImmutable)
}

// signedBy returns the digest that a tag is made from, or its first 64 letters after
// the algorithm; "" if it is a tag like others.
func signedBy(tag string) digest.Digest {
	m := signatureForm().FindStringSubmatch(tag)
	if m == nil {
		return ""
	}
	return digest.Digest(m[1] + ":" + m[2])
}

// means reports whether a rule that is about a tag is so by more than being about all:
// about one that belongs to an image only if a pattern names that kind.
func (r *tagRule) means(tag string) bool {
	if signedBy(tag) == "" {
		return true
	}
	for _, pattern := range r.tags.text {
		if strings.HasPrefix(pattern, "sha256-") || strings.HasPrefix(pattern, "sha512-") {
			return true
		}
	}
	return false
}

// parseDuration reads a time span as people write it, wherever Berth takes one: 30d, 12h,
// 1d12h, 90m, 2w, and 1y for 365 days. It is not negative, and shorter than a hundred years.
func parseDuration(text string) (time.Duration, error) {
	const day, limit = 24 * time.Hour, 36500 * 24 * time.Hour
	var d time.Duration
	rest := text
	for _, unit := range []struct {
		letter string
		days   time.Duration
	}{{"y", 365}, {"w", 7}, {"d", 1}} {
		if digits, after, ok := strings.Cut(rest, unit.letter); ok {
			if n, err := strconv.ParseUint(digits, 10, 16); err == nil {
				d, rest = d+time.Duration(n)*unit.days*day, after
			}
		}
	}
	if rest != "" || text == "" {
		more, err := time.ParseDuration(rest)
		if err != nil || strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+") {
			return 0, fmt.Errorf("%q is not a time span; use for example 30d, 12h or 90m", text)
		}
		d += min(more, limit)
	}
	if d >= limit {
		return 0, fmt.Errorf("%q is longer than a hundred years", text)
	}
	return d, nil
}

// parseLife is parseDuration for what need not end: 0 stands for "never".
func parseLife(text string) (time.Duration, error) {
	if text == "never" {
		return 0, nil
	}
	d, err := parseDuration(text)
	if err != nil || d == 0 {
		return 0, fmt.Errorf("%q is not a time span; use for example 90d, 12h or never", text)
	}
	return d, nil
}
