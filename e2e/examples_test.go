package e2e

// What the pages show is what happens. Each block of commands in README.md and docs/ is run here as it is written, in
// the order of the page, on the machines of machines_test.go; what a page shows as output is compared with what was
// printed. Each configuration is given to the program that it is for. A page is read from its beginning to its end: a
// block that no line here runs, or says why not, fails the test.
//
// What differs from run to run may differ, and is named in volatile. A line that ends with … stands for any that begins
// like it, and a line of … alone for any lines.

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A page is one that is being read.
type page struct {
	t    *testing.T
	lab  *lab
	name string
	rest []block
}

// A block is what stands between fences.
type block struct {
	line     int // of the fence
	language string
	text     string
}

// fences finds the blocks.
var fences = regexp.MustCompile("(?ms)^```(\\S*)\n(.*?)^```$")

// blocksOf returns the blocks of a page.
func blocksOf(t *testing.T, name string) (list []block) {
	t.Helper()
	text := read(t, filepath.Join("..", name))
	for _, x := range fences.FindAllStringSubmatchIndex(text, -1) {
		list = append(list, block{strings.Count(text[:x[0]], "\n") + 1, text[x[2]:x[3]], text[x[4]:x[5]]})
	}
	return list
}

// open begins to read a page; at its end there must be nothing left to run.
func open(t *testing.T, l *lab, name string) *page {
	p := &page{t: t, lab: l, name: name, rest: blocksOf(t, name)}
	t.Cleanup(func() {
		if !t.Failed() && !t.Skipped() && len(p.rest) > 0 {
			t.Errorf("%s:%d: nothing here runs this, or says why not:\n%s", p.name, p.rest[0].line, p.rest[0].text)
		}
	})
	return p
}

// block returns the next block, which must be of a language and have a line that begins like this.
func (p *page) block(language, has string) block {
	p.t.Helper()
	if len(p.rest) == 0 {
		p.t.Fatalf("%s has no more blocks; want %s with %q", p.name, language, has)
	}
	b := p.rest[0]
	if b.language != language || !strings.Contains("\n"+b.text, "\n"+has) {
		p.t.Fatalf("%s:%d: the next block is %s\n%s\nwant %s with %q", p.name, b.line, b.language, b.text, language, has)
	}
	p.rest = p.rest[1:]
	return b
}

// skip passes over a block that is not run.
func (p *page) skip(language, has, why string) {
	p.t.Helper()
	b := p.block(language, has)
	p.t.Logf("NOT RUN: %s:%d: %s\n%s", p.name, b.line, why, b.text)
}

// A step is a command that a page shows, and the lines of output below it.
type step struct {
	machine string // before the prompt; "" for none
	command string
	output  []string
}

var prompt = regexp.MustCompile(`^(\w*)\$ (.*)$`)

func (b block) steps(t *testing.T) (list []step) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSuffix(b.text, "\n"), "\n") {
		if m := prompt.FindStringSubmatch(line); m != nil {
			list = append(list, step{machine: m[1], command: m[2]})
		} else if len(list) == 0 {
			t.Fatalf("line %d: a block begins with output: %s", b.line, line)
		} else {
			list[len(list)-1].output = append(list[len(list)-1].output, line)
		}
	}
	return list
}

// An answer is what somebody types when a program asks for something.
type answer struct{ asked, typed string }

// run runs the commands of the next block, which has this one, in a fresh shell of where; a prompt with the name of a
// machine is on that one. A server stays, in its own terminal.
// It returns what was printed.
func (p *page) run(where, has string, answers ...answer) (said string) {
	p.t.Helper()
	return p.runUntil(where, has, 0, answers...)
}

// runFailing is run for a block whose last command is refused.
func (p *page) runFailing(where, has string, status int) {
	p.t.Helper()
	p.runUntil(where, has, status)
}

func (p *page) runUntil(where, has string, status int, answers ...answer) (said string) {
	p.t.Helper()
	b := p.block("console", "")
	steps := b.steps(p.t)
	if !slices.ContainsFunc(steps, func(s step) bool { return strings.HasPrefix(s.command, has) }) {
		p.t.Fatalf("%s:%d: the next block has no %q:\n%s", p.name, b.line, has, b.text)
	}
	for len(steps) > 0 {
		at, n := where, 1
		if m := steps[0].machine; m != "" {
			at = "me@" + m
		}
		if serves(steps[0].command) && status == 0 {
			x := p.lab.serve(at, steps[0].command)
			p.compare(b, steps[0], x.text(), false)
			steps = steps[1:]
			continue
		}
		for n < len(steps) && steps[n].machine == steps[0].machine && (status != 0 || !serves(steps[n].command)) {
			n++
		}
		want := 0
		if n == len(steps) {
			want = status
		}
		said += p.session(b, at, steps[:n], want, answers)
		answers = nil
		steps = steps[n:]
	}
	return said
}

// serves tells whether a command is a server.
func serves(command string) bool {
	return regexp.MustCompile(`^berth( -.*)?$`).MatchString(command)
}

// session runs commands one after the other in one shell. All but the last must succeed.
func (p *page) session(b block, where string, steps []step, status int, answers []answer) string {
	p.t.Helper()
	var script strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&script, "%s\nprintf '\\036%%d\\n' $?\n", s.command)
	}
	x := p.lab.open(where, script.String())
	read := 0 // so much of what it says is older than the last answer
	for _, a := range answers {
		await(p.t, x.closed, &x.said, "a question for "+a.asked, func() bool {
			said := x.said.String()
			found := strings.Contains(said[read:], a.asked)
			if found {
				read = len(said)
			}
			return found
		})
		x.pty.WriteString(a.typed + "\n")
	}
	p.lab.wait(x)
	said := x.text()
	all := said
	for i, s := range steps {
		out, after, found := strings.Cut(said, "\x1e")
		code, rest, _ := strings.Cut(after, "\n")
		said = rest
		p.t.Logf("%s %s:%d: %s$ %s\n%s", time.Now().Format("04:05"), p.name, b.line, where, s.command, out)
		want := 0
		if i == len(steps)-1 {
			want = status
		}
		if !found || code != strconv.Itoa(want) {
			p.t.Errorf("%s:%d: %s$ %s\n%sended with status %q, want %d", p.name, b.line, where, s.command, out, code, want)
		}
		p.compare(b, s, out, strings.HasPrefix(s.command, "berth"))
	}
	return all
}

// script runs the next block, a shell script, and returns what it printed.
func (p *page) script(where, has string) string {
	p.t.Helper()
	b := p.block("sh", has)
	x := p.lab.open(where, "bash -euc '"+strings.ReplaceAll(b.text, "'", `'\''`)+"'\nprintf '\\036%d\\n' $?\n")
	p.lab.wait(x)
	out, code, _ := strings.Cut(x.text(), "\x1e")
	p.t.Logf("%s:%d: %s$\n%s\n%s", p.name, b.line, where, b.text, out)
	if code != "0\n" {
		p.t.Errorf("%s:%d: the script ended with status %q\n%s\n%s", p.name, b.line, code, b.text, out)
	}
	return out
}

// compare compares what a page shows with what was printed: all of it, or (for programs that are not Berth's, and
// servers, which log) lines of it in their order. A page that shows nothing promises nothing.
func (p *page) compare(b block, s step, got string, all bool) {
	p.t.Helper()
	if len(s.output) == 0 {
		return
	}
	want, have := settle(s.output), settle(strings.Split(strings.Trim(got, "\n"), "\n"))
	if strings.HasPrefix(want[0], "berth: ") { // the page has no room for the line of an error
		want, have = []string{strings.Join(want, " ")}, []string{strings.Join(have, " ")}
	}
	if !matches(want, have, all) {
		p.t.Errorf("%s:%d: %s\nprinted\n%s\nbut the page shows\n%s\ncompared as\n%s\nand\n%s", p.name, b.line, s.command,
			got, strings.Join(s.output, "\n"), strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// volatile is what differs from run to run, and what is compared instead.
var volatile = []struct {
	found *regexp.Regexp
	as    string
}{
	{regexp.MustCompile(`\bberth_[a-z0-9]{8}_[\w-]{40,}`), "<token>"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( [A-Z]{3,4})?\b`), "<time>"},
	{regexp.MustCompile(`\b(\d+(ms|[smhd]))+ ago\b`), "<age> ago"},
	{regexp.MustCompile(`\b\d[\d.,]* ([KMGT]i)?B\b`), "<size>"},
	{regexp.MustCompile(`\bdevel linux/\w+`), "<version>"},
	{regexp.MustCompile(`, 172\.17\.0\.1\b`), ""}, // a machine with Docker has an address for its containers, too
	{regexp.MustCompile(` {2,}`), "  "},           // the width of a column
}

var digest = regexp.MustCompile(`\b[0-9a-f]{8}([0-9a-f]{4}([0-9a-f]{52})?)?\b`)

// settle replaces what differs from run to run. Digests are numbered as they appear: where a page shows the same one
// twice, so must the program.
func settle(lines []string) []string {
	numbers := map[string]int{}
	var list []string
	for _, line := range lines {
		line = digest.ReplaceAllStringFunc(line, func(d string) string {
			if numbers[d[:8]] == 0 {
				numbers[d[:8]] = len(numbers) + 1
			}
			return fmt.Sprintf("<digest %d>", numbers[d[:8]])
		})
		for _, x := range volatile {
			line = x.found.ReplaceAllString(line, x.as)
		}
		list = append(list, strings.TrimRight(line, " \r"))
	}
	return list
}

// matches tells whether lines are those that a page shows: all of them, or some in their order.
func matches(want, have []string, all bool) bool {
	if len(want) == 0 {
		return len(have) == 0 || !all
	}
	if want[0] == "…" {
		for i := range len(have) + 1 {
			if matches(want[1:], have[i:], all) {
				return true
			}
		}
		return false
	}
	if len(have) == 0 {
		return false
	}
	begins, open := strings.CutSuffix(want[0], "…")
	if (have[0] == want[0] || open && strings.HasPrefix(have[0], begins)) && matches(want[1:], have[1:], all) {
		return true
	}
	return !all && matches(want, have[1:], all)
}

func TestExamplesAreCompared(t *testing.T) {
	const a, b = "0123456789ab", "ba9876543210"
	for _, x := range []struct {
		want, have string
		all, same  bool
	}{
		{"a  b", "a     b", true, true},
		{"a", "a\nb", true, false},
		{"a\n…", "a\nb\nc", true, true},
		{"a\n…\nc", "a\nb", true, false},
		{"b", "a\nb\nc", false, true},
		{"c\nb", "a\nb\nc", false, false},
		{"one, or …", "one, or two", true, true},
		{"at 2026-01-02 03:04, 1.5 KiB", "at 2027-02-03 04:05, 12 KiB", true, true},
		{"at 2026-01-02 03:04, 1.5 KiB", "at 2027-02-03 04:05, 12", true, false},
		{a + " was " + b, b + " was " + a, true, true},
		{a + " was " + b, a + " was " + a, true, false},
		{"2 tags", "3 tags", true, false},
	} {
		if same := matches(settle(strings.Split(x.want, "\n")), settle(strings.Split(x.have, "\n")), x.all); same != x.same {
			t.Errorf("%q shown for %q (all: %t): the same %t, want %t", x.want, x.have, x.all, same, x.same)
		}
	}
}

// pages are those that a test reads, with its name.
var pages = map[string]func(t *testing.T){
	"CONTRIBUTING.md": TestContributingPage,
	"README.md":       TestReadme,
	"docs/access.md":  TestAccessPage,
	"docs/airgap.md":  TestAirgapPage,
	"docs/api.md":     TestAPIPage,
	"docs/deploy.md":  TestDeployPage,
	"docs/events.md":  TestEventsPage,
	"docs/migrate.md": TestMigratePage,
	"docs/numbers.md": TestNumbersPage,
	"docs/storage.md": TestStoragePage,
	"docs/tags.md":    TestTagsPage,
}

// An example that is indented, and not between fences, would be run by nobody.
var indented = regexp.MustCompile(`\n\n(    \S.*)\n`)

func TestEveryPageIsRead(t *testing.T) {
	found, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(found, more...) {
		name = strings.TrimPrefix(filepath.ToSlash(name), "../")
		if pages[name] == nil && len(blocksOf(t, name)) > 0 {
			t.Errorf("%s has examples that no test runs", name)
		}
		rest := fences.ReplaceAllString(read(t, filepath.Join("..", name)), "")
		if m := indented.FindStringSubmatch(rest); m != nil {
			t.Errorf("%s has an example that is indented; put it between fences: %s", name, m[1])
		}
	}
}

// checkout gives a machine a copy of this repository, as its files are now. What the builds compile is compiled before,
// here, where the next test finds it: the machines see this one's cache, and forget what they add to it.
func (l *lab) checkout(machine string, pages ...string) {
	l.t.Helper()
	for _, name := range pages {
		for _, b := range blocksOf(l.t, name) {
			for _, build := range regexp.MustCompile(`(?m)^\$ (.*\bgo build [^#&\n]*)`).FindAllStringSubmatch(b.text, -1) {
				cmd := exec.Command("sh", "-c", strings.Replace(regexp.MustCompile(`-o \S+ `).ReplaceAllString(build[1], ""), "go build", "go build -o /dev/null", 1))
				cmd.Dir, cmd.Env = "..", append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off")
				if out, err := cmd.CombinedOutput(); err != nil {
					l.t.Fatalf("%s: %v\n%s", build[1], err, out)
				}
			}
		}
	}
	files := exec.Command("git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	files.Dir = ".."
	list, err := files.Output()
	if err != nil {
		l.t.Fatalf("git ls-files: %v", err)
	}
	pack := exec.Command("tar", "--create", "--null", "--files-from=-", "--ignore-failed-read")
	pack.Dir, pack.Stdin = "..", bytes.NewReader(list)
	packed, err := pack.Output()
	if err != nil {
		l.t.Fatalf("tar: %v", err)
	}
	unpack := l.enter("me@"+machine, "mkdir -p berth && tar --extract --directory=berth")
	unpack.Stdin = bytes.NewReader(packed)
	if out, err := unpack.CombinedOutput(); err != nil {
		l.t.Fatalf("unpacking: %v\n%s", err, out)
	}
}
