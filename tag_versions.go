// Which tags are versions, and which is newer.
//
// Semantic versions, what `git describe` and helm make of them, dates, and plain numbers; what is
// no version has no order but its time.

package main

import (
	"cmp"
	"slices"
	"strings"
)

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

// maxBareNumber is how many digits a single number has at most that is a version.
const maxBareNumber = 4

// parseVersion reads what tags are made from: semantic versioning, with suffixes and
// with build metadata, whose + helm writes as _; git describe (v1.2.3-10-g0f0f0f0 is
// ten commits after v1.2.3); Python's 1.2rc1, 1.2.dev3 and 1.2.post1; Java's
// 1.2.3.Final. It reports false if the tag is no version.
func parseVersion(tag string) (v tagVersion, ok bool) {
	rest, build, built := strings.Cut(tag, "_")
	m := versionForm().FindStringSubmatch(rest)
	if m == nil || dateForm().MatchString(tag) || built && build == "" {
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
	if m := describeForm().FindStringSubmatch(suffix); m != nil {
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
	m := commitForm().FindStringSubmatchIndex(text)
	if m == nil {
		return text
	}
	name := text[m[3]:]
	if !strings.ContainsAny(name, asciiDigits) || strings.Trim(name, asciiDigits) == "" {
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
	if n := strings.Trim(a, asciiDigits) == ""; n != (strings.Trim(b, asciiDigits) == "") {
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

const asciiDigits = "0123456789"
