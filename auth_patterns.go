// Patterns of repositories and tags, as rules have them: * within a component, ** over many, ! excepts.

package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// patterns are a list of them for the names of repositories, or of tags. It has a
// name that one of them matches, and none with a ! before it, which stands for all
// that lies below, too: who excepts home/secret means home/secret/keys as well.
type patterns struct {
	text           []string
	match, exclude []*regexp.Regexp
	all            bool // there is the pattern **, and none with a !
}

// parseRepositories reads patterns. In one, * is anything within one part of a
// name, ** any number of parts, ? one character.
func parseRepositories(text []string) (*patterns, error) {
	if len(text) == 0 {
		return nil, errors.New(`no repositories: name some, or "**" for all`)
	}
	return parsePatterns(text, "**", maxName, patternForm(),
		"repositories: their names have a-z and 0-9, with . _ - / in between; * matches anything except a slash, ** also slashes")
}

// parseTags reads patterns for tags, in which * is anything and ? one character;
// none are all tags.
func parseTags(text []string) (*patterns, error) {
	if len(text) == 0 {
		text = []string{"*"}
	}
	return parsePatterns(text, "*", maxTag, tagPatternForm(), "tags: they have A-Z, a-z, 0-9 and . _ -; * matches anything")
}

// parsePatterns reads a list of them; whole is the one for everything.
func parsePatterns(text []string, whole string, longest int, form *regexp.Regexp, what string) (*patterns, error) {
	list := &patterns{text: text}
	for _, pattern := range text {
		word, excluded := strings.CutPrefix(pattern, "!")
		if len(word) > longest || !form.MatchString(word) {
			return nil, fmt.Errorf("%q is not a pattern for %s", pattern, what)
		}
		re := regexp.MustCompile("^" + patternWords.Replace(regexp.QuoteMeta(word)) + "$")
		if excluded {
			re = regexp.MustCompile(strings.TrimSuffix(re.String(), "$") + "(?:/.*)?$")
			list.exclude = append(list.exclude, re)
		} else {
			list.match = append(list.match, re)
		}
	}
	if len(list.match) == 0 {
		return nil, fmt.Errorf("%q only excludes: add a pattern that it is an exception from, perhaps %q", text, whole)
	}
	list.all = slices.Contains(text, whole) && len(list.exclude) == 0
	return list, nil
}

// has reports whether a name is in the list. "" stands for the registry as a
// whole, which only ** has.
func (list *patterns) has(name string) bool {
	if list.all || name == "" {
		return list.all
	}
	matches := func(re *regexp.Regexp) bool { return re.MatchString(name) }
	return slices.ContainsFunc(list.match, matches) && !slices.ContainsFunc(list.exclude, matches)
}

// splitList reads a flag that may have several values, with commas.
func splitList(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' })
}
