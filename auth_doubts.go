// What is probably a slip in rules that are right by their form: a rule that gives nobody anything, a name
// that nobody has, a pattern that no repository matches. `berth policy check` warns of them.
//
// A warning is given only where it is sure. So patterns are compared by what is written, and a rule that
// only happens to add nothing may pass.

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// doubts are the warnings about rules. usersFile is where list was read; nil says that names may also be
// those of client certificates, so that none is unknown.
func (p *policy) doubts(list users, usersFile string) (lines []string) {
	unknown := func(name string) bool {
		_, _, theirs, _ := parsePerson(name)
		return list != nil && !theirs && list[name] == ""
	}
	for _, name := range slices.Sorted(maps.Keys(p.groups)) {
		for _, member := range p.groups[name] {
			if unknown(member) {
				lines = append(lines, fmt.Sprintf("group %s: there is no user %s in %s", name, member, usersFile))
			}
		}
	}
	added := p.adding()
	for i, r := range p.rules {
		for _, who := range r.who {
			_, isGroup := p.groups[who]
			switch {
			case r.names[who] && isGroup && unknown(who):
				lines = append(lines, fmt.Sprintf("%s: %s is a group, and no user has that name: write \"group:%[2]s\"", r.origin, who))
			case r.names[who] && !strings.HasPrefix(who, "group:") && unknown(who):
				lines = append(lines, fmt.Sprintf("%s: there is no user %s in %s", r.origin, who, usersFile))
			}
		}
		lines = append(lines, r.repositories.doubts(r.origin)...)
		if by := added[i]; by != nil {
			lines = append(lines, fmt.Sprintf("%s adds nothing, because the same is already allowed by %s. Rules only add: to restrict somebody, narrow what allows more",
				r.origin, strings.Join(by, "; by ")))
		}
	}
	for _, r := range slices.Concat(p.tags.immutable, p.tags.index) {
		lines = append(lines, r.repositories.doubts(r.origin)...)
	}
	for _, r := range p.tags.retain {
		lines = append(lines, r.repositories.doubts(r.origin)...)
	}
	return lines
}

// adding tells of each rule that could be left out, by its index, which of those that stay allow the same.
// Of two that do the same the first stays.
func (p *policy) adding() map[int][]string {
	left := make(map[int][]string)
	for i, r := range slices.Backward(p.rules) {
		others := slices.DeleteFunc(slices.Clone(p.rules), func(o *accessRule) bool {
			at := slices.Index(p.rules, o)
			return o == r || left[at] != nil || !o.repositories.covers(r.repositories)
		})
		if by := r.givenBy(others); by != nil {
			left[i] = by
		}
	}
	return left
}

// givenBy returns those of others, which are about all its repositories, that together allow all that r
// does to everybody it is for; nil if they do not.
func (r *accessRule) givenBy(others []*accessRule) (by []string) {
	given := func(isFor func(*accessRule) bool) bool {
		var all rights
		for _, o := range others {
			if isFor(o) && all&o.allow&r.allow != o.allow&r.allow {
				all |= o.allow
				if said := o.String(); !slices.Contains(by, said) {
					by = append(by, said)
				}
			}
		}
		return all&r.allow == r.allow
	}
	ok := !r.anonymous || given(func(o *accessRule) bool { return o.anonymous })
	ok = ok && (!r.users || given(func(o *accessRule) bool { return o.anonymous || o.users }))
	for _, origin := range slices.Sorted(maps.Keys(r.whole)) {
		ok = ok && given(func(o *accessRule) bool { return o.anonymous || o.whole[origin] })
	}
	for _, name := range slices.Sorted(maps.Keys(r.names)) {
		origin, _, theirs := strings.Cut(strings.TrimPrefix(name, "group:"), ":")
		ok = ok && given(func(o *accessRule) bool {
			return o.anonymous || o.names[name] || theirs && o.whole[origin] || !theirs && o.users
		})
	}
	if !ok {
		return nil
	}
	return by
}

// covers reports whether a list surely has each name that other has.
func (list *patterns) covers(other *patterns) bool {
	if list.all {
		return true
	}
	if other.all { // which also has the registry as a whole
		return false
	}
	for _, pattern := range list.text {
		if strings.HasPrefix(pattern, "!") && !slices.Contains(other.text, pattern) {
			return false
		}
	}
	for _, pattern := range other.text {
		if strings.HasPrefix(pattern, "!") {
			continue
		}
		if !slices.ContainsFunc(list.text, func(wider string) bool {
			prefix, deep := strings.CutSuffix(wider, "**")
			return wider == pattern || deep && !strings.ContainsAny(prefix, "!*?") && strings.HasPrefix(pattern, prefix)
		}) {
			return false
		}
	}
	return true
}

// doubts are the warnings about patterns of repositories that no repository's name matches. origin is the
// rule they are in.
func (list *patterns) doubts(origin string) (lines []string) {
	for _, pattern := range list.text {
		word := strings.TrimPrefix(pattern, "!")
		bare := strings.Trim(word, "/")
		switch {
		case word != bare && bare != "" && bare != "**":
			lines = append(lines, fmt.Sprintf("%s: no repository matches %q, because names neither begin nor end with a slash: write %q, or %q for all below it",
				origin, pattern, strings.TrimSuffix(pattern, word)+bare, strings.TrimSuffix(pattern, word)+bare+"/**"))
		case word != bare || strings.Contains(word, "//"):
			lines = append(lines, fmt.Sprintf("%s: no repository matches %q, because names neither begin nor end with a slash, nor have two in a row", origin, pattern))
		case !strings.ContainsAny(word, "*?") && !isName(word):
			lines = append(lines, fmt.Sprintf("%s: no repository matches %q, because names have a-z and 0-9, with single . _ - / in between", origin, pattern))
		}
	}
	return lines
}
