//go:build unix

package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// Users of a file whose names are taken for something else are told of by policy check as by doctor.
func TestOddNamesOfUsers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(fmt.Sprintf(starterPolicy, "kim"), "kim", "!eve", "*", "-ann", "a-b", "a!"))
	dir := r.cfg.dir
	file := filepath.Join(dir, usersFile)
	want := []string{
		"the user !eve has a name that begins with !, which excludes in rules, so that no rule can name this user",
		"the user * has a name that begins with *, which is for any name in rules",
		"the user -ann has a name that begins with -, so that commands take it for a flag",
	}
	_, text := r.served().doctor()
	for _, line := range want {
		if !strings.Contains(text, line) {
			t.Errorf("doctor does not say that %s:\n%s", line, text)
		}
	}
	for _, more := range [][]string{nil, {"--client-ca", file}} {
		said := tell(t, nil, "", append([]string{"policy", "check", "--data", dir}, more...)...)
		if n := strings.Count(said.out, "warning: "); n != len(want) {
			t.Errorf("policy check %q warns %d times, want %d:\n%s%s", more, n, len(want), said.out, said.err)
		}
		for _, line := range want {
			if !strings.Contains(said.out, "warning: "+line+": add the user under another name, and remove this one from "+file+"\n") {
				t.Errorf("policy check %q does not say that %s:\n%s%s", more, line, said.out, said.err)
			}
		}
	}
}
