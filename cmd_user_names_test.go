package main

import (
	"strings"
	"testing"
)

// Names that rules or commands take for something else are refused when they are given. In a file that is
// there they hold.
func TestNamesThatAreTakenForSomethingElse(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"!ann":  `"!ann" begins with !, which excludes in rules, so that no rule can name this user; choose a name that begins with a letter or a digit`,
		"*":     `"*" begins with *, which is for any name in rules`,
		"a:b":   `"a:b" cannot be a user's name: no colons`,
		"a\x01": `"a\x01" cannot be a user's name`,
	} {
		if err := refused(t, "user", "add", name, "--data", t.TempDir()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("user add %s: %v, want %s", name, err, want)
		}
	}
	if err := checkNewName("-ann"); err == nil || !strings.Contains(err.Error(), `"-ann" begins with -, so that commands take it for a flag`) {
		t.Errorf("-ann: %v", err)
	}
	r := startRegistry(t, guarded("", "!ann", "kim")) // a file that is there
	r.want(200, "GET", "/v2/", nil, as("!ann"))
}
