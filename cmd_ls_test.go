// What people see of what is there, and how they name it.

package main

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Programs read every command's answer, beside a server and without one.
func TestEveryCommandAnswersInJSON(t *testing.T) {
	t.Parallel()
	rules := "[[retain]]\nrepositories = [\"ci/*\"]\nnewest = 2"
	r := startRegistry(t, func(c *config) { writeRules(c.dir, rules) })
	for _, tag := range []string{"1.9", "1.10", "1.11", "latest"} {
		r.pushImage("ci/app", tag, `{"os":"linux","architecture":"amd64"}`, "layer "+tag)
	}
	lines := [][]string{
		{"backup", filepath.Join(t.TempDir(), "copy")}, {"check"}, {"check", "--deep"}, {"gc", "--dry-run"}, {"gc"}, {"repair"}, {"stats"}, {"uploads"},
		{"ls"}, {"ls", "ci/app"}, {"ls", "ci/app:1.9"}, {"retain", "--explain"}, {"retain"}, {"tag", "ci/app:latest", "stable"},
		{"rm", "ci/app:stable", "ci/app:1.10"}, {"log"}, {"log", "ci/app"}, {"log", "ci/app:stable"}, {"undo", "ci/app:stable"}, {"rm", "ci/app"}, {"undo", "ci/app"},
		{"token", "create", "robot", "--repo", "ci/*", "--allow", "pull"}, {"token", "list"},
		{"image", "tools/berth:1", buildSmall(t, "amd64")},
		{"log-level"}, {"doctor"},
	}
	tried := make(map[string]bool)
	for _, line := range lines {
		out, err := runOnceOn(t, r.st, line[0], append(line[1:], "--json")...)
		if err != nil || !json.Valid([]byte(out)) {
			t.Errorf("berth %s --json: %v\n%s", strings.Join(line, " "), err, out)
		}
		tried[line[0]] = true
	}
	for _, c := range commands {
		if c.onStore != nil && !tried[c.name] {
			t.Errorf("berth %s is not tried", c.name)
		}
	}
}

func TestListsForPeople(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	one := r.pushImage("home/app", "1.10", `{"os":"linux","architecture":"arm","variant":"v7"}`, "a layer")
	r.pushImage("home/app", "1.9", `{"os":"linux","architecture":"amd64"}`, "a layer")
	r.pushImage("home/chart", "latest", `{}`, "x")
	for _, x := range []struct{ args, want string }{
		{"", "REPOSITORY TAGS SIZE PUSHED\nhome/app 2 94 B *\nhome/chart 1 3 B *\n"},
		{"home/app", "TAG DIGEST PLATFORM SIZE PUSHED PULLED\n1.9 * linux/amd64 44 B * -\n1.10 " + shortDigest(one.digest.String()) + " linux/arm/v7 57 B * -\n"},
		{"home/chart:latest", "TAG DIGEST PLATFORM SIZE PUSHED PULLED\nlatest * - 3 B * -\n"},
	} {
		out, err := runOnceOn(t, r.st, "ls", strings.Fields(x.args)...)
		if err != nil || !looksLike(out, x.want) {
			t.Errorf("berth ls %s: %v\n%swant\n%s", x.args, err, out, x.want)
		}
	}
	for _, missing := range []string{"hom", "home/app:2"} {
		if out, err := runOnceOn(t, r.st, "ls", missing); err == nil {
			t.Errorf("berth ls %s says %q", missing, out)
		}
	}
}

// looksLike compares tables word by word; * in want is any words.
func looksLike(got, want string) bool {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		form := "^" + strings.ReplaceAll(regexp.QuoteMeta(strings.Join(strings.Fields(b[i]), " ")), `\*`, `.+`) + "$"
		if !regexp.MustCompile(form).MatchString(strings.Join(strings.Fields(a[i]), " ")) {
			return false
		}
	}
	return true
}

func TestNamesOnTheCommandLine(t *testing.T) {
	t.Parallel()
	d := sum("x").String()
	for _, x := range []struct{ text, name, ref string }{
		{"home/app", "home/app", ""},
		{"home/app:1.0", "home/app", "1.0"},
		{"home/app@" + d, "home/app", d},
		{"app", "app", ""},
		{"localhost:5000/home/app:1.0", "", "without the host"},
		{"home/app:", "", "invalid tag"},
		{"home/app:a/b", "", "without the host"},
		{"Home/app", "", "invalid repository name"},
		{"home/app@sha256:1", "", "is not a digest"},
		{"", "", "invalid repository name"},
	} {
		name, ref, err := parseArgument(x.text)
		got := ref.String()
		if err != nil {
			name, got = "", err.Error()
		}
		if name != x.name || err == nil && got != x.ref || err != nil && !strings.Contains(got, x.ref) {
			t.Errorf("parseArgument(%q) = %q, %q; want %q, %q", x.text, name, got, x.name, x.ref)
		}
	}
}
