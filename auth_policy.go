// Who may do what, by rules.
//
// A rule allows some actions on some repositories to some people; what no rule
// allows is not allowed. Rules only allow, so their order does not matter, and
// one can be read without the others. They stand in policy.toml; without that
// file there is one rule, by which users may do everything.
//
//	[groups]
//	family = ["ann", "bob"]
//
//	[[rule]]
//	who          = ["group:family"]
//	repositories = ["home/**", "!home/secret"]
//	allow        = ["push", "overwrite"]
//
// Whoever may do anything to a repository may pull from it, and what is allowed
// to anonymous is allowed to everybody: nobody has to log out to do something.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// rights are a set of what may be done to a repository.
type rights uint8

const (
	mayPull      rights = 1 << iota
	mayPush             // add blobs, manifests, and tags that are new
	mayOverwrite        // move a tag that exists
	mayDelete
	mayMetrics // read /metrics
	mayAdmin
)

// allRights is what an administrator has, and everybody on an open registry.
const allRights = mayPull | mayPush | mayOverwrite | mayDelete | mayMetrics | mayAdmin

// actions are the words of rules, with what each brings along: a push begins
// with questions, and so do deletes.
var actions = map[string]rights{
	"pull":      mayPull,
	"push":      mayPush | mayPull,
	"overwrite": mayOverwrite | mayPush | mayPull,
	"delete":    mayDelete | mayPull,
	"metrics":   mayMetrics,
	"admin":     allRights,
}

// actionNames lists them in order of power.
var actionNames = []string{"pull", "push", "overwrite", "delete", "metrics", "admin"}

// parseActions reads a list of actions.
func parseActions(words []string) (r rights, err error) {
	if len(words) == 0 {
		return 0, fmt.Errorf("it allows nothing: list some of %s", strings.Join(actionNames, ", "))
	}
	for _, word := range words {
		a, ok := actions[word]
		if !ok {
			return 0, fmt.Errorf("%q is not an action; use %s", word, strings.Join(actionNames, ", "))
		}
		r |= a
	}
	return r, nil
}

// words names rights, without what greater ones bring along.
func (r rights) words() (words []string) {
	for _, word := range actionNames {
		brought := slices.ContainsFunc(actionNames, func(other string) bool {
			return other != word && r&actions[other] == actions[other] && actions[other]&actions[word] == actions[word]
		})
		if r&actions[word] == actions[word] && !brought {
			words = append(words, word)
		}
	}
	return words
}

// allWords names rights, also those that others bring along; admin is all of them.
func (r rights) allWords() (words []string) {
	if r == allRights {
		return []string{"admin"}
	}
	for _, word := range actionNames {
		if r&actions[word] == actions[word] {
			words = append(words, word)
		}
	}
	return words
}

var (
	patternForm    = expression(`^[a-z0-9._/*?-]+$`)
	tagPatternForm = expression(`^[A-Za-z0-9._*?-]+$`)
	// What a pattern's words are in the regular expression that quoting left of it.
	patternWords = strings.NewReplacer(`\*\*/`, `(?:.*/)?`, `\*\*`, `.*`, `\*`, `[^/]*`, `\?`, `[^/]`)
)

// A accessRule allows something.
type accessRule struct {
	who          []string // as written
	repositories *patterns
	allow        rights
	origin       string // where it comes from

	anonymous bool            // it is for everybody
	users     bool            // it is for all users of this registry
	whole     map[string]bool // origins (auth_login.go) it is for everybody from
	names     map[string]bool // users that it is for, and groups that others keep, as group:ldap:NAME
}

func (r *accessRule) String() string {
	return fmt.Sprintf("%s: %s may %s in %s", r.origin, strings.Join(r.who, ", "),
		strings.Join(r.allow.allWords(), ", "), strings.Join(r.repositories.text, ", "))
}

// A policy is all rules at one time.
type policy struct {
	rules  []*accessRule
	people bool // the file has rules about people; else users may do everything
	groups map[string][]string
	tags   *tagRules
}

// lines are the rules for people.
func (p *policy) lines() (lines []string) {
	for _, r := range p.rules {
		lines = append(lines, r.String())
	}
	return append(lines, p.tags.lines()...)
}

// hasAdministrator reports whether somebody may do everything.
func (p *policy) hasAdministrator() bool {
	return slices.ContainsFunc(p.rules, func(r *accessRule) bool { return r.allow == allRights })
}

// errNoAdministrator is what people are told of rules without one.
var errNoAdministrator = errors.New("no rule allows admin, so nobody is an administrator: see the example in docs/access.md, or what `berth user add` writes for a first user")

// parsePolicy reads policy.toml. A file without any rule is an error: an editor
// that is just writing it must not change who may do what. One with rules about
// tags alone says nothing about people.
func parsePolicy(text []byte) (*policy, error) {
	var file struct {
		Groups map[string][]string `toml:"groups"`
		Rule   []struct {
			Who          []string `toml:"who"`
			Repositories []string `toml:"repositories"`
			Allow        []string `toml:"allow"`
		} `toml:"rule"`
		tagTables
	}
	meta, err := toml.NewDecoder(bytes.NewReader(text)).Decode(&file)
	if err != nil {
		var at toml.ParseError
		if errors.As(err, &at) {
			return nil, malformed(text, at)
		}
		return nil, wrongKindIn(text, &file, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		if unknown[0][0] == "groups" {
			return nil, errors.New("groups: write the heading [groups] once, with one bracket at each end, and NAME = [\"a\", \"b\"] below it")
		}
		return nil, fmt.Errorf("%s%q means nothing here; there are [groups], [[rule]] with who, repositories and allow, "+
			"and [[immutable]], [[index]] and [[retain]] with repositories and tags", lineOf(text, &file, unknown[0]), unknown[0])
	}
	p := &policy{groups: file.Groups, people: len(file.Rule) > 0}
	if p.tags, err = file.tagTables.parse(); err != nil {
		return nil, err
	}
	if !p.people && p.tags.empty() {
		return nil, errors.New("there is no [[rule]] in it; write one, or remove the file")
	}
	if !p.people {
		p.rules = defaultPolicy().rules
	}
	for name, members := range file.Groups {
		if isMapped(name) {
			return nil, fmt.Errorf("group %s: groups of that name are those of %s", name, loginFile)
		}
		for _, member := range members {
			if _, whole, theirs, err := parsePerson(member); theirs && !whole && err == nil {
				continue
			}
			if err := checkMember(member); err != nil {
				return nil, fmt.Errorf("%sgroup %s: %w", lineOfExclusion(text, "groups", 1, name, err), name, err)
			}
		}
	}
	for i, x := range file.Rule {
		r := &accessRule{who: x.Who, origin: fmt.Sprintf("rule %d", i+1)}
		if err := r.bind(p.groups); err != nil {
			return nil, fmt.Errorf("%srule %d: %w", lineOfExclusion(text, "rule", i+1, "who", err), i+1, err)
		}
		if r.repositories, err = parseRepositories(x.Repositories); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		if r.allow, err = parseActions(x.Allow); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

// malformed says in plain words where a file is not TOML, and what is wanted there.
func malformed(text []byte, at toml.ParseError) error {
	before := text[:min(max(at.Position.Start, 0), len(text))] // its line is the next, where a line ends too early
	begin := bytes.LastIndexByte(before, '\n') + 1
	line, _, _ := bytes.Cut(text[begin:], []byte("\n"))
	want := "this is not understood"
	if found := singleHeading().FindSubmatch(line); found != nil && strings.Contains(at.Message, "has already been defined") {
		return fmt.Errorf("line %d: %s", 1+bytes.Count(before, []byte("\n")), twoBrackets(string(found[1])))
	}
	for _, x := range malformations {
		if strings.Contains(at.Message, x.said) {
			want = x.want
			break
		}
	}
	return fmt.Errorf("line %d, column %d: %s: %.80s", 1+bytes.Count(before, []byte("\n")), 1+utf8.RuneCount(before[begin:]), want, bytes.TrimSpace(line))
}

// malformations are what package toml says of a file, and what a person is told in its place.
var malformations = []struct{ said, want string }{
	{"table array name delimiter", "a heading such as [[rule]] ends with ]]"},
	{"to end table name", "a heading such as [groups] ends with ]"},
	{"table names cannot be empty", "a heading needs a name, as in [[rule]]"},
	{"expected '.' or '='", "after the name of a setting comes =, as in newest = 10"},
	{"key name appears blank", "before = comes the name of a setting, as in newest = 10"},
	{"array terminator", "a comma is missing between the items of a list, or the ] that ends it"},
	{"expected value", `after = comes a value: a text in quotes ("), a list of them in [ ], a number, true or false`},
	{"strings cannot contain newlines", "a quote is missing: a text ends with the quote that it begins with, on the same line"},
	{`expected '"'`, "a quote is missing at the end of a text"},
	{`expected "'"`, "a quote is missing at the end of a text"},
	{"has already been defined", "this is in the file twice; leave out one of the two"},
	{"was already created", "this is in the file already, as something else: write [[rule]], [[immutable]], [[index]] and [[retain]] with two brackets, [groups] with one"},
	{"end with a newline", "there is more on this line than one setting; begin a new line, or a comment with #"},
	{"invalid escape", `a backslash in "quotes" must be doubled, or the text be in 'single quotes'`},
	{"UTF-", "a character is not valid; save the file as UTF-8"},
	{"ontrol characters", "a character cannot be shown; remove it"},
	{"leading zeroes", "a number does not begin with 0"},
}

// singleHeading is the heading of a list's table with a bracket too few at each end.
var singleHeading = expression(`^\s*\[\s*(rule|immutable|index|retain|endpoint)\s*\]`)

// twoBrackets is what a person is told who has left one out.
func twoBrackets(name string) string {
	return fmt.Sprintf("write [[%s]], with two brackets at each end, over each", name)
}

// sections are the parts of a file that begin with a heading, each with the number of lines before it.
func sections(text []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		n, first, begin, at := 0, 0, 0, 0
		for line := range bytes.Lines(text) {
			if at > begin && bytes.HasPrefix(bytes.TrimLeft(line, " \t"), []byte("[")) {
				if !yield(first, text[begin:at]) {
					return
				}
				first, begin = n, at
			}
			n, at = n+1, at+len(line)
		}
		yield(first, text[begin:])
	}
}

// decodeAnew decodes a part of a file into a new value of what target points to.
func decodeAnew(part []byte, target any) (toml.MetaData, error) {
	return toml.NewDecoder(bytes.NewReader(part)).Decode(reflect.New(reflect.TypeOf(target).Elem()).Interface())
}

// lineOf says in which line of a file, which target was decoded from, the first key is that means nothing,
// "" if that is not found.
func lineOf(text []byte, target any, key toml.Key) string {
	form := regexp.MustCompile(`^\s*["']?` + regexp.QuoteMeta(key[len(key)-1]) + `["']?\s*=|^\s*\[.*` + regexp.QuoteMeta(key[len(key)-1]))
	for n, part := range sections(text) {
		meta, err := decodeAnew(part, target)
		if err == nil && !slices.ContainsFunc(meta.Undecoded(), func(k toml.Key) bool { return k.String() == key.String() }) {
			continue
		}
		for line := range bytes.Lines(part) {
			if n++; form.Match(line) {
				return fmt.Sprintf("line %d: ", n)
			}
		}
	}
	return ""
}

// wrongKindIn is wrongKind for the text of a file that could not be decoded into target. Of a key that is in
// several tables of a list, the library gives the line of the last one, whichever is wrong.
func wrongKindIn(text []byte, target any, err error) error {
	for n, part := range sections(text) {
		if _, e := decodeAnew(part, target); e != nil && wrongKindForm().MatchString(e.Error()) {
			return wrongKindAt(n, e)
		}
	}
	return wrongKind(err)
}

// wrongKind says of a value in policy.toml that cannot be what its key wants which is wanted.
func wrongKind(err error) error { return wrongKindAt(0, err) }

// wrongKindAt is wrongKind for a part of a file that comes after so many lines.
func wrongKindAt(before int, err error) error {
	found := wrongKindForm().FindStringSubmatch(err.Error())
	if found == nil {
		return errors.New(strings.TrimPrefix(err.Error(), "toml: "))
	}
	key, want := found[2], "something else"
	if line, err := strconv.Atoi(found[1]); err == nil {
		if singleHeading().MatchString("[" + key + "]") {
			return fmt.Errorf("line %d: %s", before+line, twoBrackets(key))
		}
		key = fmt.Sprintf("line %d: %s", before+line, key)
	}
	for kind, words := range map[string]string{"slice": `a list, as in ["a", "b"]`, "string": `a text, as in "a"`,
		"int": "a number", "integer": "a number", "bool": "true or false", "map": "a table"} {
		if strings.HasSuffix(found[3], " type "+kind) {
			want = words
		}
	}
	return fmt.Errorf("%s: want %s", key, want)
}

// wrongKindForm is how package toml begins the errors of values: toml: line 2 (last key "rule.who"): …
var wrongKindForm = expression(`^toml: (?:line (\d+) |)\(last key "([^"]+)"\): (.*)$`)

// bind works out whom a rule is for.
func (r *accessRule) bind(groups map[string][]string) error {
	if len(r.who) == 0 {
		return errors.New(`it is for nobody: add who, with users' names, "group:NAME", "users" or "anonymous"`)
	}
	r.names = make(map[string]bool)
	r.whole = make(map[string]bool)
	for _, who := range r.who {
		group, isGroup := strings.CutPrefix(who, "group:")
		origin, whole, theirs, err := parsePerson(who)
		switch {
		case strings.HasPrefix(who, "!"):
			return exclusionError(who)
		case err != nil:
			return err
		case who == "anonymous":
			r.anonymous = true
		case who == "users":
			r.users = true
		case whole:
			r.whole[origin] = true
		case theirs, isGroup && isMapped(group):
			r.names[who] = true
		case isGroup:
			members, ok := groups[group]
			if !ok {
				return fmt.Errorf("there is no group %q in [groups]", group)
			}
			for _, m := range members {
				r.names[m] = true
			}
		default:
			if err := checkUserName(who); err != nil {
				return err
			}
			r.names[who] = true
		}
	}
	return nil
}

// An exclusionError is about a word in a list of people that is written like an exception from a list of repositories.
type exclusionError string

func (e exclusionError) Error() string {
	return fmt.Sprintf("%q: ! excludes repositories and tags only; name the users or groups in `who`", string(e))
}

// checkMember is checkUserName for the members of a group in [groups].
func checkMember(name string) error {
	if strings.HasPrefix(name, "!") {
		return exclusionError(name)
	}
	return checkUserName(name)
}

// lineOfExclusion says on which line the word of an exclusionError is: in the list that key has below the n-th
// heading of that name, counted from 1. It is "" if that is not found, and for any other error.
func lineOfExclusion(text []byte, heading string, n int, key string, err error) string {
	var word exclusionError
	if !errors.As(err, &word) {
		return ""
	}
	headed := regexp.MustCompile(`^\s*\[+\s*` + heading + `\s*\]`)
	list := regexp.MustCompile(`^\s*["']?` + regexp.QuoteMeta(key) + `["']?\s*=`)
	form := regexp.MustCompile(`["']` + regexp.QuoteMeta(string(word)) + `["']`)
	for before, part := range sections(text) {
		if !slices.ContainsFunc(bytes.Split(part, []byte("\n")), headed.Match) {
			continue
		}
		if n--; n > 0 {
			continue
		}
		inside := false
		for line := range bytes.Lines(part) {
			before++
			if inside = inside || list.Match(line); inside && form.Match(line) {
				return fmt.Sprintf("line %d: ", before)
			}
		}
		return ""
	}
	return ""
}

// defaultPolicy holds where there is no policy.toml.
func defaultPolicy() *policy {
	everything, _ := parseRepositories([]string{"**"})
	return &policy{rules: []*accessRule{{who: []string{"users"}, users: true, repositories: everything, allow: allRights,
		origin: "the default"}}, tags: &tagRules{}}
}

// withAnonymousPull returns p and one rule more.
func (p *policy) withAnonymousPull() *policy {
	everything, _ := parseRepositories([]string{"**"})
	return &policy{groups: p.groups, people: p.people, tags: p.tags, rules: append(slices.Clone(p.rules), &accessRule{who: []string{"anonymous"}, anonymous: true,
		repositories: everything, allow: mayPull, origin: "--anonymous-pull"})}
}

// A person is whom rules are for: a user by name, somebody whom others know, or nobody known.
type person struct {
	user   string   // with its origin, as ldap:ann, if it is not a user of this registry; "" for anonymous and for robots
	groups []string // that others keep, as group:ldap:developers
}

func (r *accessRule) isFor(who person) bool {
	if r.anonymous || who.user == "" || r.names[who.user] {
		return r.anonymous || who.user != ""
	}
	if origin, _, theirs := strings.Cut(who.user, ":"); theirs {
		return r.whole[origin] || slices.ContainsFunc(who.groups, func(group string) bool { return r.names[group] })
	}
	return r.users
}

// rights returns what a person may do to a repository; "" is the registry as a whole.
func (p *policy) rights(who person, repository string) (all rights) {
	for _, r := range p.rules {
		if all&r.allow != r.allow && r.isFor(who) && r.repositories.has(repository) {
			all |= r.allow
		}
	}
	return all
}

// may reports whether a person may do something anywhere.
func (p *policy) mayAnywhere(who person, what rights) bool {
	return slices.ContainsFunc(p.rules, func(r *accessRule) bool { return r.allow&what == what && r.isFor(who) })
}

// explain returns the rules by which a person may do something to a repository,
// or nil.
func (p *policy) explain(who person, what rights, repository string) (because []*accessRule) {
	for _, r := range p.rules {
		if r.allow&what == what && r.isFor(who) && r.repositories.has(repository) {
			because = append(because, r)
		}
	}
	return because
}

// groupsOf returns the groups that a user is in, in order.
func (p *policy) groupsOf(user string) (in []string) {
	for _, name := range slices.Sorted(maps.Keys(p.groups)) {
		if slices.Contains(p.groups[name], user) {
			in = append(in, name)
		}
	}
	return in
}

// starterPolicy is the file that comes with the first user.
const starterPolicy = `# Who may do what to which repositories. Changes take effect at the next
# request. If there is a mistake in this file, the old rules stay in force, and
# the log says so.
#
# Rules only add: what one rule allows, no other rule takes away. So a rule that
# is appended restricts nobody. To restrict somebody, narrow the rule that allows
# too much: below, the one for "users", which lets all users push everywhere.
#
# To test an edit:
#
#   berth policy check                       prints the rules, and warns of slips
#   berth policy check NAME push home/app    says whether NAME may push there
#
# who           users by name, "group:NAME", "users" (all users), "anonymous"
#               (everybody); of login.toml "ldap:NAME", "group:ldap:NAME", "ldap:*"
# repositories  names; * matches anything except a slash, ** also slashes;
#               "!NAME" excludes a repository and everything below it
# allow         pull, push (new tags), overwrite (tags that exist), delete,
#               metrics, admin (everything). Each except metrics includes pull.

[groups]
admins = [%q]

[[rule]]
who          = ["group:admins"]
repositories = ["**"]
allow        = ["admin"]

[[rule]]
who          = ["users"]
repositories = ["**"]
allow        = ["push", "overwrite", "delete"]

# [[rule]]
# who          = ["anonymous"]
# repositories = ["public/**"]
# allow        = ["pull"]

# Rules for tags: those that cannot be changed, those that are an index of what several
# machines push, and those of which only the newest are kept. (Whoever may push new tags
# can push out old ones that way. Make releases immutable, or keep them with matching.)
#
# [[immutable]]
# repositories = ["release/**"]
# tags         = ["v*"]
#
# [[index]]
# repositories = ["home/**"]
# from         = ["same-tag"]
#
# [[retain]]
# repositories = ["ci/**"]
# newest       = 10
`
