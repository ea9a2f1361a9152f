package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Slips in rules that are right by their form are warned of by policy check, and nothing else is.
func TestDoubtsAboutRules(t *testing.T) {
	t.Parallel()
	rule := func(who, repositories, allow string) string {
		quoted := func(list string) string { return `["` + strings.Join(strings.Fields(list), `", "`) + `"]` }
		return fmt.Sprintf("[[rule]]\nwho = %s\nrepositories = %s\nallow = %s\n", quoted(who), quoted(repositories), quoted(allow))
	}
	const groups = "[groups]\nadmins = [\"kim\"]\ndevelopers = [\"ann\", \"bob\"]\n"
	starter := fmt.Sprintf(starterPolicy, "kim")
	all := rule("users", "**", "push overwrite delete")
	const only = ". Rules only add: to restrict somebody, narrow what allows more"
	adds := func(n int, by string) string {
		return fmt.Sprintf("rule %d adds nothing, because the same is already allowed by %s%s", n, by, only)
	}
	byUsers := func(n int) string { return fmt.Sprintf("rule %d: users may pull, push, overwrite, delete in **", n) }
	dir := t.TempDir()
	list := filepath.Join(dir, "htpasswd")
	users := ""
	for _, name := range []string{"kim", "ann", "bob"} {
		users += name + ":" + hashOf("a long password") + "\n"
	}
	if err := os.WriteFile(list, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		rules string
		want  []string
	}{
		{starter, nil},
		// What somebody takes for a restriction.
		{starter + rule("ann", "home/**", "pull"), []string{adds(3, byUsers(2))}},
		{starter + rule("kim", "x", "pull"), []string{adds(3, "rule 1: group:admins may admin in **")}},
		{groups + rule("ann", "home/app", "pull") + all, []string{adds(1, byUsers(2))}},
		{groups + all + all, []string{adds(2, byUsers(1))}},
		{groups + rule("group:developers", "home/**", "push") + rule("bob", "home/a*", "pull"), []string{adds(2, "rule 1: group:developers may pull, push in home/**")}},
		{groups + rule("ann", "home/**", "push") + rule("bob", "home/**", "push delete") + rule("group:developers", "home/x", "pull"),
			[]string{adds(3, "rule 1: ann may pull, push in home/**; by rule 2: bob may pull, push, delete in home/**")}},
		{rule("users", "a/**", "push") + rule("users", "a/**", "delete") + rule("ann", "a/b", "push delete"),
			[]string{adds(3, "rule 1: users may pull, push in a/**; by rule 2: users may pull, delete in a/**")}},
		{rule("anonymous", "**", "pull") + rule("users ldap:ann oidc:*", "b/**", "pull"), []string{adds(2, "rule 1: anonymous may pull in **")}},
		{rule("ldap:*", "**", "push") + rule("ldap:ann group:ldap:x", "b", "pull"), []string{adds(2, "rule 1: ldap:* may pull, push in **")}},
		{rule("ann", "a/** !a/b", "push") + rule("ann", "a/c/** !a/b", "pull"), []string{adds(2, "rule 1: ann may pull, push in a/**, !a/b")}},
		// Each of these adds something.
		{all + rule("anonymous", "public/**", "pull"), nil},
		{all + rule("ldap:ann", "home/**", "pull"), nil},
		{all + rule("oidc:*", "home/**", "pull"), nil},
		{all + rule("ann", "**", "metrics"), nil},
		{rule("ldap:*", "**", "push") + rule("oidc:*", "**", "push"), nil},
		{rule("users", "home/**", "push") + rule("ann", "home", "pull"), nil},
		{rule("users", "home/*", "push") + rule("ann", "home/**", "pull"), nil},
		{rule("users", "** !home", "push") + rule("ann", "**", "pull"), nil},
		{rule("users", "** !home", "push") + rule("ann", "home/**", "pull"), nil},
		{rule("users", "** !home", "metrics") + rule("ann", "**", "metrics"), nil},
		{groups + rule("ann", "home/**", "push") + rule("group:developers", "home/**", "push"),
			[]string{adds(1, "rule 2: group:developers may pull, push in home/**")}},
		// Names that nobody has.
		{groups + rule("developers", "home/**", "push"), []string{`rule 1: developers is a group, and no user has that name: write "group:developers"`}},
		{rule("anne ldap:eve oidc:eve@example.org group:oidc:dev ann", "home/**", "push"), []string{"rule 1: there is no user anne in " + list}},
		{"[groups]\nx = [\"eve\", \"ldap:eve\"]\n" + rule("group:x", "home/**", "push"), []string{"group x: there is no user eve in " + list}},
		// Patterns that match nothing.
		{rule("ann", "/team/", "push"), []string{`rule 1: no repository matches "/team/", because names neither begin nor end with a slash: write "team", or "team/**" for all below it`}},
		{rule("ann", "** !team/", "push"), []string{`rule 1: no repository matches "!team/", because names neither begin nor end with a slash: write "!team", or "!team/**" for all below it`}},
		{rule("ann", "a//b", "push"), []string{`rule 1: no repository matches "a//b", because names neither begin nor end with a slash, nor have two in a row`}},
		{rule("ann", "a/-b", "push"), []string{`rule 1: no repository matches "a/-b", because names have a-z and 0-9, with single . _ - / in between`}},
		{"[[immutable]]\nrepositories = [\"/release\"]\n", []string{`immutable 1: no repository matches "/release", because names neither begin nor end with a slash: write "release", or "release/**" for all below it`}},
		{rule("ann", "a/** b*/c-? **/x *.y", "push"), nil},
	} {
		writeRules(dir, x.rules)
		var got []string
		said := tell(t, nil, "", "policy", "check", "--data", dir)
		for line := range strings.Lines(said.out) {
			if text, ok := strings.CutPrefix(strings.TrimSpace(line), "warning: "); ok {
				got = append(got, text)
			}
		}
		if said.code != 0 || strings.Join(got, "\n") != strings.Join(x.want, "\n") {
			t.Errorf("policy check of\n%sends with %d, and warns\n%s\nwant\n%s", x.rules, said.code, strings.Join(got, "\n"), strings.Join(x.want, "\n"))
		}
	}
	// The names of client certificates are not in the file of users.
	writeRules(dir, rule("pi.local", "**", "pull"))
	for _, x := range []struct {
		args []string
		warn bool
	}{{nil, true}, {[]string{"--client-ca", list}, false}} {
		said := tell(t, nil, "", append([]string{"policy", "check", "--data", dir}, x.args...)...)
		if strings.Contains(said.out, "warning") != x.warn {
			t.Errorf("policy check %q says\n%s%s", x.args, said.out, said.err)
		}
	}
}

// A users' file of another program's beside rules whose administrator is not in it is told of at the start.
func TestNoUserIsTheAdministrator(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"kim": false, "ann": true} {
		r := startRegistry(t, guarded(fmt.Sprintf(starterPolicy, "kim"), name))
		r.server.gate.announce()
		if got := strings.Contains(r.log.String(), "none of the users is an administrator"); got != want {
			t.Errorf("with the user %s alone, the log tells of no administrator: %v, want %v", name, got, want)
		}
	}
}

// A user who is added learns what rules allow.
func TestAddedUserMayDoWhat(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	add := func(name, want string) {
		t.Helper()
		if got := tell(t, nil, "a long password\n", "user", "add", name, "--data", dir); !strings.Contains(got.out, "user "+name+" added; "+want+"\n") {
			t.Errorf("user add %s says\n%s%swant %s", name, got.out, got.err, want)
		}
	}
	add("kim", "kim may do everything, by rule 1")
	add("ann", "ann may pull, push, overwrite, delete in **, by rule 2")
	rules := filepath.Join(dir, policyFile)
	writeRules(dir, "[[rule]]\nwho = [\"kim\"]\nrepositories = [\"**\"]\nallow = [\"admin\"]\n")
	add("bob", "bob may do nothing yet, because no rule in "+rules+" is about this user")
	writeRules(dir, "[[immutable]]\nrepositories = [\"release/**\"]\n")
	add("eve", "there are no rules in "+rules+", so all users may do everything")
}
