// What people see on their terminals, and in which zone.

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onTerminal gives fn a terminal of that width, and returns what it has written there.
func onTerminal(t *testing.T, width int, fn func(tty *os.File)) string {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer keyboard.Close()
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(keyboard.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(width)})
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan string)
	go func() {
		text, err := io.ReadAll(keyboard)
		if err != nil && !errors.Is(err, unix.EIO) { // which is a terminal's end
			t.Error(err)
		}
		read <- strings.ReplaceAll(string(text), "\r\n", "\n")
	}()
	fn(tty)
	tty.Close()
	return <-read
}

// show runs a command on a terminal of that width.
func (r *registry) show(width int, env environment, args ...string) string {
	r.t.Helper()
	t := r.t.(*testing.T)
	return onTerminal(t, width, func(tty *os.File) {
		if err := run(t.Context(), append(args, "--data", r.cfg.dir), env, strings.NewReader(""), tty, new(bytes.Buffer)); err != nil {
			t.Errorf("berth %v: %v", args, err)
		}
	})
}

// widest is how wide the widest line is.
func widest(text string) (n int) {
	for line := range strings.Lines(text) {
		n = max(n, len([]rune(strings.TrimRight(line, "\n"))))
	}
	return n
}

// lived is a registry in which something has been done.
func lived(t *testing.T) *registry {
	rules := `
[groups]
builders = ["katharina", "bob"]
[[rule]]
who = ["katharina"]
repositories = ["**"]
allow = ["admin"]
[[rule]]
who = ["group:builders", "kim"]
repositories = ["home/**", "ci/**", "library/**", "charts/**"]
allow = ["push", "overwrite", "delete"]
[[retain]]
repositories = ["ci/*"]
newest = 1
matching = "^v[0-9]"
`
	r := startRegistry(t, guarded(rules, "katharina", "bob", "kim"))
	push := func(who, repo, tag, layer string) {
		t.Helper()
		im := ociImage(`{"os":"linux","architecture":"arm64","variant":"v8"}`, layer)
		for _, content := range []string{`{"os":"linux","architecture":"arm64","variant":"v8"}`, layer} {
			r.want(201, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+sum(content).String(), content, as(who))
		}
		r.want(201, "PUT", "/v2/"+repo+"/manifests/"+tag, im.manifest, "Content-Type: "+typeOCIManifest, as(who))
	}
	push("katharina", "home/assistant", "2026.11.3", strings.Repeat("a", 900<<10))
	push("bob", "home/assistant", "2026.11.3", strings.Repeat("b", 800<<10))
	push("katharina", "home/assistant", "latest", strings.Repeat("b", 800<<10))
	for _, tag := range []string{"1.25-alpine", "build-1183", "v1.2.3"} {
		push("bob", "ci/backend-api", tag, strings.Repeat(tag, 1<<10))
	}
	r.want(200, "GET", "/v2/home/assistant/manifests/latest", nil, as("bob"))
	r.want(202, "DELETE", "/v2/ci/backend-api/manifests/build-1183", nil, as("katharina"))
	r.want(202, "POST", "/v2/home/assistant/blobs/uploads/", nil, as("bob"))
	r.newRobot("woodpecker-agent", "ci/*,home/**,library/**", "push,overwrite,delete")
	r.newRobot("k3s", "**", "pull")
	return r
}

// tables are the commands that print them.
var tables = []string{"ls", "ls home/assistant", "ls ci/backend-api", "log", "log home/assistant", "stats", "stats home/assistant", "uploads",
	"token list", "user list", "retain --explain", "gc --dry-run --now", "policy check"}

// On a terminal of 80 columns, and on wider ones, every table fits. On one that is too narrow
// nothing is cut.
func TestTablesFitTheTerminal(t *testing.T) {
	slow(t)
	t.Parallel()
	r := lived(t)
	stop := r.listen()
	r.moved.Add(int64(30 * 24 * time.Hour))
	for _, served := range []bool{true, false} {
		if !served {
			stop()
			r.off()
		}
		for _, width := range []int{80, 100, 132, 200} {
			for _, command := range tables {
				text := r.show(width, nil, strings.Fields(command)...)
				if n := widest(text); n > width || text == "" || strings.ContainsAny(text, "\x1b\t") {
					t.Errorf("berth %s on %d columns takes %d:\n%s", command, width, n, text)
				}
				if n := widest(text); width == 200 && command == "log" && n < 100 {
					t.Errorf("berth %s on %d columns takes %d:\n%s", command, width, n, text)
				}
			}
		}
		for _, command := range tables {
			wide := r.show(500, nil, strings.Fields(command)...)
			for _, width := range []int{1, 20, 40, 60} {
				text := r.show(width, nil, strings.Fields(command)...)
				for _, name := range []string{"ci/backend-api", "home/assistant", "woodpecker-agent", "katharina", "v1.2.3"} {
					if strings.Contains(text, name) != strings.Contains(wide, name) {
						t.Errorf("berth %s on %d columns does not have %s whole:\n%s", command, width, name, text)
					}
				}
			}
		}
		if text := r.show(200, environment{"COLUMNS=80"}, "log"); widest(text) > 80 {
			t.Errorf("berth log with COLUMNS=80:\n%s", text)
		}
	}
	r.start()
}

// What is empty in every row is no column on a terminal, and times are ages where dates have
// no room.
func TestTablesAreAsBriefAsTheyMustBe(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("home/app", "1.0", `{"os":"linux","architecture":"amd64"}`, "a layer")
	other := r.pushImage("home/app", "1.0", `{"os":"linux","architecture":"amd64"}`, "another layer")
	digits := func(im image, n int) string { return im.digest.Encoded()[:n] }
	r.listen()
	for _, x := range []struct {
		width      int
		args, want string
	}{
		{80, "ls home/app", `TAG  DIGEST               PLATFORM     SIZE  PUSHED
1.0  sha256:` + digits(other, 12) + `  linux/amd64  50 B  DATE
`},
		{60, "ls home/app", `TAG  DIGEST        PLATFORM     SIZE  PUSHED
1.0  ` + digits(other, 12) + `  linux/amd64  50 B  DATE
`},
		{45, "ls home/app", `TAG  DIGEST        PLATFORM     SIZE  PUSHED
1.0  ` + digits(other, 12) + `  linux/amd64  50 B  AGE
`},
		{40, "ls home/app", `TAG  DIGEST    PLATFORM     SIZE  PUSHED
1.0  ` + digits(other, 8) + `  linux/amd64   50B  AGE
`},
		{100, "log", `CHANGE  WHEN    WHO        FROM       BY    WHAT
     2  AGE  anonymous  127.0.0.1  push  home/app:1.0 is ` + digits(other, 12) + `, was ` + digits(im, 12) + `
     1  AGE  anonymous  127.0.0.1  push  home/app:1.0 is ` + digits(im, 12) + `
`},
		{80, "log", `CHANGE  WHEN    WHO        FROM       BY    WHAT
     2  AGE  anonymous  127.0.0.1  push  home/app:1.0 is ` + digits(other, 12) + `, was
                                            ` + digits(im, 12) + `
     1  AGE  anonymous  127.0.0.1  push  home/app:1.0 is ` + digits(im, 12) + `
`},
	} {
		got := r.show(x.width, nil, strings.Fields(x.args)...)
		got = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)? \S+`).ReplaceAllString(got, "DATE")
		got = regexp.MustCompile(`\d+[sm] ago`).ReplaceAllString(got, "AGE")
		if !looksLike(got, x.want) {
			t.Errorf("berth %s on %d columns:\n%s\nwant\n%s", x.args, x.width, got, x.want)
		}
	}
}

// A pipe gets everything, whatever the terminal beside it.
func TestTablesInAPipeAreFull(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	long := strings.Repeat("a-long-name/", 9) + "app"
	im := r.pushImage(long, "1.0", `{}`, "a layer")
	for _, stop := range []func(){r.listen(), func() {}} {
		out, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		env := environment{"COLUMNS=40"}
		for _, args := range [][]string{{"ls"}, {"ls", long}, {"log"}} {
			if err := run(t.Context(), append(args, "--data", r.cfg.dir), env, strings.NewReader(""), in, new(bytes.Buffer)); err != nil {
				t.Error(err)
			}
		}
		in.Close()
		text, err := io.ReadAll(out)
		if want := "REPOSITORY TAGS SIZE PUSHED\n" + long + " 1 9 B *\n" +
			"TAG DIGEST PLATFORM SIZE PUSHED PULLED\n1.0 " + shortDigest(im.digest.String()) + " - 9 B *-*-* *:* * -\n" +
			"CHANGE WHEN WHO FROM BY WHAT\n1 *-*-* *:*:* anonymous 127.0.0.1 push " + long + ":1.0 is " + shortDigest(im.digest.String()) + "\n"; err != nil || !looksLike(string(text), want) {
			t.Errorf("%v, in a pipe:\n%s\nwant\n%s", err, text, want)
		}
		stop()
		r.off()
	}
	r.start()
}

// Columns are straight whatever is in them, and names that are longer than the terminal are whole.
func TestTablesWithOddNames(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("[groups]\nteam = [\"漢字\", \"rene\u0301\"]\n[[rule]]\nwho=[\"katharina\"]\nrepositories=[\"**\"]\nallow=[\"admin\"]\n"+
		"[[rule]]\nwho=[\"group:team\"]\nrepositories=[\"**\"]\nallow=[\"push\"]\n", "漢字", "rene\u0301", "katharina"))
	if got, want := r.show(80, nil, "user", "list"), `NAME       ROLE AND GROUPS
katharina  administrator
rene`+"\u0301"+`       team
漢字       team
`; got != want {
		t.Errorf("berth user list:\n%s\nwant\n%s", got, want)
	}
	long := strings.Repeat("a-long-name/", 9) + "app"
	name := "a-token-with-a-very-long-name-" + strings.Repeat("x", 60)
	r.newRobot(name, "ci/*", "pull")
	r.newRobot("short", "ci/*,"+long, "push,overwrite,delete")
	r.want(201, "POST", "/v2/"+long+"/blobs/uploads/?digest="+sum("{}").String(), "{}", as("漢字"))
	im := ociImage("{}")
	r.want(201, "PUT", "/v2/"+long+"/manifests/1.0", im.manifest, "Content-Type: "+typeOCIManifest, as("漢字"))
	r.listen()
	for _, x := range []struct{ args, want string }{
		{"ls", "REPOSITORY TAGS SIZE PUSHED\n" + long + "\n 1 2B *s ago\n"},
		{"log", "CHANGE WHEN WHO FROM BY WHAT\n1 *:*:* * 漢字 127.0.0.1 push\n" + long + ":1.0 is " + shortDigest(im.digest.String()) + "\n"},
		{"stats " + long, "REPOSITORY TAGS MANIFESTS UNTAGGED BLOBS SIZE SHARED UNUSED\n" + long + "\n1 1 0 1 2B 0B 0B\n"},
		{"token list", "NAME ALLOW REPOSITORIES EXPIRES LAST USED\n" + name + "\n pull ci/* in 89d never\n" +
			"short pull,push,overwrite, ci/*, in 89d never\ndelete " + long + "\n"},
	} {
		if got := r.show(80, nil, strings.Fields(x.args)...); !looksLike(got, x.want) {
			t.Errorf("berth %s:\n%s\nwant\n%s", x.args, got, x.want)
		}
	}
}

// Whoever is in the history under a name that would control a terminal does not.
func TestNamesDoNotControlTheTerminal(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "1", "{}", "layer")
	r.stop()
	const name = "eve\x1b[31m\u009b2J\u202e\tann\r\n"
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), "UPDATE history SET who = '"+name+"', why = '"+name+"', client = '"+name+"'")
	r.start()
	for _, stop := range []func(){r.listen(), func() {}} {
		text := r.show(300, nil, "log")
		if strings.ContainsAny(text, "\x1b\u009b\u202e\r\t") || !strings.Contains(text, " eve?[31m?2J??ann??  ") || strings.Count(text, "\n") != 2 {
			t.Errorf("berth log: %q", text)
		}
		text = r.show(80, nil, "log", "--json")
		var entries []historyEntry
		if err := json.Unmarshal([]byte(text), &entries); err != nil || strings.ContainsAny(text, "\x1b\u009b\u202e\r\t") || len(entries) != 1 || entries[0].Who != name {
			t.Errorf("berth log --json: %q, %v", text, err)
		}
		stop()
		r.off()
	}
	r.start()
}

// Progress is one line of a terminal that can write it again; on another it is none.
func TestProgressFitsTheTerminal(t *testing.T) {
	t.Parallel()
	for _, width := range []int{30, 80} {
		var out strings.Builder
		c := newConsole(&out, true)
		c.width = width
		p := c.progress("reading", 1<<40)
		p.told, p.begun = p.told.Add(-time.Minute), p.begun.Add(-time.Minute)
		p.add(1 << 30)
		line := strings.TrimPrefix(out.String(), "\r\x1b[K")
		if !strings.HasPrefix(line, "reading: 1.00 GiB of 1.00 TiB") || len(line) >= width || width == 80 && !strings.HasSuffix(line, " left") {
			t.Errorf("on %d columns: %q", width, line)
		}
	}
	r := startRegistry(t)
	r.listen()
	for kind, want := range map[string]bool{"xterm": true, "dumb": false} {
		if text := r.show(80, environment{"TERM=" + kind}, "check", "--deep"); strings.Contains(text, "\x1b") != want || !strings.HasSuffix(text, "all is well\n") {
			t.Errorf("check --deep on a terminal of the kind %s: %q", kind, text)
		}
	}
}

// Times are in the zone of whoever asks, also where the server that answers is in another; and
// each is in the half of the year that it is of.
func TestTimesAreInTheZoneOfWhoAsks(t *testing.T) {
	alone(t, "it sets the time zone")
	for _, name := range []string{"America/New_York", "Asia/Kolkata"} {
		if _, err := time.LoadLocation(name); err != nil {
			skip(t, "there are no time zones here: apt-get install tzdata")
		}
	}
	r := startRegistry(t)
	r.pushImage("a", "winter", "{}", "layer")
	r.pushImage("a", "summer", "{}", "layer")
	r.stop()
	winter, summer := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC).Unix(), time.Date(2026, 7, 15, 12, 0, 0, 0, time.UTC).Unix()
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), fmt.Sprintf("UPDATE history SET time = iif(tag = 'winter', %d, %d)", winter, summer),
		fmt.Sprintf("UPDATE tag SET time = iif(name = 'winter', %d, %d)", winter, summer))
	t.Setenv("TZ", "Asia/Kolkata")
	p := startProcess(t, "", "--data", r.cfg.dir)
	awaitSocket(t, r.cfg.dir)
	for _, served := range []bool{true, false} {
		if !served {
			p.stop(t)
		}
		for zone, want := range map[string][]string{
			"America/New_York": {"2026-01-15 07:00:00 EST", "2026-07-15 08:00:00 EDT"},
			"Asia/Kolkata":     {"2026-01-15 17:30:00 IST", "2026-07-15 17:30:00 IST"},
			"UTC":              {"2026-01-15 12:00:00 UTC", "2026-07-15 12:00:00 UTC"},
		} {
			t.Setenv("TZ", zone)
			for args, want := range map[string][]string{
				"log":          want,
				"ls a":         {strings.Replace(want[0], ":00 ", " ", 1), strings.Replace(want[1], ":00 ", " ", 1)},
				"log a --json": {"2026-01-15T12:00:00Z", "2026-07-15T12:00:00Z"},
			} {
				said, err := asRoot(t, "", append(strings.Fields(args), "--data", r.cfg.dir)...)
				if err != nil || strings.Count(said, want[0]) != 1 || strings.Count(said, want[1]) != 1 {
					t.Errorf("TZ=%s berth %s, served %v: %v\n%s\nwant %q", zone, args, served, err, said, want)
				}
			}
		}
		t.Setenv("TZ", "America/New_York")
		name := fmt.Sprint("ci-", served)
		for _, args := range [][]string{{"create", name, "--repo", "a", "--allow", "pull"}, {"list"}} {
			said, err := asRoot(t, "", append(append([]string{"token"}, args...), "--data", r.cfg.dir)...)
			if err != nil || !regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d E[SD]T`).MatchString(said) || strings.Contains(said, "UTC") && args[0] == "list" {
				t.Errorf("token %v, served %v: %v\n%s", args, served, err, said)
			}
		}
	}
}
