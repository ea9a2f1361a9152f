package main

import (
	"regexp"
	"strings"
	"testing"
)

// Names and tags are the specification's, whose regular expressions these are.
func TestNamesAndTagsAreTheSpecifications(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tag := regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	check := func(s string) {
		if isName(s) != name.MatchString(s) {
			t.Errorf("isName(%q) = %v", s, isName(s))
		}
		if isTag(s) != tag.MatchString(s) {
			t.Errorf("isTag(%q) = %v", s, isTag(s))
		}
	}
	var all func(s string, more int)
	all = func(s string, more int) {
		check(s)
		for _, c := range "a0Z._-/\n" {
			if more > 0 {
				all(s+string(c), more-1)
			}
		}
	}
	all("", 6)
	for c := range 256 {
		check("a" + string([]byte{byte(c)}) + "a")
		check(string([]byte{byte(c)}))
	}
	for _, n := range []int{127, 128, 129, 300} {
		check(strings.Repeat("a", n))
	}
}
