//go:build unix

// The start: what is said, what is refused, and that a refused start leaves nothing behind.

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// serveFor serves with these arguments, calls during with the registry's URL, stops it, and
// returns its greeting.
func serveFor(t *testing.T, during func(url string), args ...string) string {
	t.Helper()
	return serveIn(t, noEnv, during, args...)
}

// serveIn is serveFor with these variables.
func serveIn(t *testing.T, env environment, during func(url string), args ...string) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	var log logBuffer
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, append([]string{"--addr", "127.0.0.1:0"}, args...), env, strings.NewReader(""), in, &log)
		in.Close()
	}()
	var said logBuffer
	lines := bufio.NewScanner(out)
	for first := true; lines.Scan(); first = false {
		fmt.Fprintln(&said, lines.Text())
		if !first {
			continue
		}
		if during != nil { // while the greeting goes on, which waits for its reader
			go io.Copy(&said, out)
			during(regexp.MustCompile(`https?://\S+`).FindString(lines.Text()))
		}
		stop()
	}
	if err := <-ended; err != nil {
		t.Fatalf("berth %v: %v\n%s", args, err, &log)
	}
	return said.String()
}

func TestGreetingFitsWhatIsSet(t *testing.T) {
	t.Parallel()
	used := filepath.Join(t.TempDir(), "used")
	r := startRegistry(t, func(cfg *config) { cfg.dir = used })
	r.pushImage("home/app", "1.0", "{}", "layer")
	r.pushImage("home/other", "1.0", "{}", "layer")
	r.stop()
	guarded := filepath.Join(t.TempDir(), "guarded")
	if err := os.CopyFS(guarded, os.DirFS(used)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"user", "add", "kim"}, {"token", "create", "ci", "--repo", "ci/*", "--allow", "push"}} {
		if err := run(t.Context(), append(args, "--data", guarded), noEnv, strings.NewReader("a long password\n"), io.Discard, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	empty, prepared, rules := t.TempDir(), t.TempDir(), t.TempDir()
	for _, name := range []string{"ann", "bob"} {
		if err := run(t.Context(), []string{"user", "add", name, "--data", prepared}, noEnv, strings.NewReader("a long password\n"), io.Discard, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	const rule = "[[rule]]\nwho = [\"anonymous\"]\nrepositories = [\"public/**\"]\nallow = [\"pull\"]\n"
	if err := os.WriteFile(filepath.Join(rules, policyFile), []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	around, usedAround := t.TempDir(), t.TempDir() // copied to too late
	serveFor(t, nil, "--data", around)
	for at, from := range map[string]string{usedAround: used, filepath.Join(usedAround, "berth"): used, filepath.Join(around, "berth"): used} {
		if err := os.CopyFS(at, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	const (
		push   = "docker tag alpine ADDR/alpine && docker push ADDR/alpine\n"
		alone  = "No other machine reaches it, except through a proxy on this one\n"
		open   = "Open to everybody who reaches it: no password is needed to "
		closed = "A password is needed for everything\n"
	)
	for _, x := range []struct{ dir, args, want string }{
		{empty, "", "Begins a new registry there: no repositories, no users\n" + alone + open + "push, pull or delete\nTo make it ask for one:  berth user add NAME\nTry:  " + push},
		{empty, "--no-delete", "Opens the registry there: no repositories, no users\n" + alone + open + "push or pull\nTo make it ask for one:  berth user add NAME\nTry:  " + push},
		{empty, "--read-only", "Opens the registry there: no repositories, no users\n" + alone + open + "pull\nTo make it ask for one:  berth user add NAME\n"},
		{prepared, "", "Begins a new registry there: no repositories, 2 users\n" + alone + closed + "Try:  docker login ADDR\n      " + push},
		{used, "--read-only", "Opens the registry there: 2 repositories, no users\n" + alone + open + "pull\nTo make it ask for one:  berth user add NAME\nTry:  docker pull ADDR/home/app:1.0\n"},
		{guarded, "", "Opens the registry there: 2 repositories, 1 user, 1 token\n" + alone + closed + "Try:  docker login -u kim ADDR\n      " + push},
		{guarded, "--read-only", "Opens the registry there: 2 repositories, 1 user, 1 token\n" + alone + closed +
			"Try:  docker login -u kim ADDR\n      docker pull ADDR/home/app:1.0\n"},
		{guarded, "--read-only --anonymous-pull", "Opens the registry there: 2 repositories, 1 user, 1 token\n" + alone +
			"Without a password everybody may pull\nTry:  docker pull ADDR/home/app:1.0\n"},
		{guarded, "--public-url https://hub.example.org", "Opens the registry there: 2 repositories, 1 user, 1 token\n" +
			"Other machines reach it at https://hub.example.org\n" + closed +
			"Try:  docker login -u kim hub.example.org\n      docker tag alpine hub.example.org/alpine && docker push hub.example.org/alpine\n"},
		{around, "", "Opens the registry there: no repositories, no users\nThere is another registry in DIR/berth: to use that, stop Berth, and start it with --data DIR/berth, or with that directory in the place of DIR\n" +
			alone + open + "push, pull or delete\nTo make it ask for one:  berth user add NAME\nTry:  " + push},
		{usedAround, "--read-only", "Opens the registry there: 2 repositories, no users\n" + alone + open + "pull\nTo make it ask for one:  berth user add NAME\nTry:  docker pull ADDR/home/app:1.0\n"},
		{rules, "", "Begins a new registry there: no repositories, no users\n" + alone + "Without a password everybody may pull from some repositories\n" +
			"Try:  berth user add NAME --htpasswd DIR/htpasswd\n      docker login -u NAME ADDR\n      " + push},
		{used, "--tls auto", "Opens the registry there: 2 repositories, no users\n" + alone + open + "push, pull or delete\nTo make it ask for one:  berth user add NAME\nTry:  " + push},
		{used, "--tls auto --public-url https://hub.example.org", "Opens the registry there: 2 repositories, no users\n" +
			"Other machines reach it at https://hub.example.org\n" + open + "push, pull or delete\nTo make it ask for one:  berth user add NAME\n" +
			"Try:  docker tag alpine hub.example.org/alpine && docker push hub.example.org/alpine\n" +
			"Other machines must first trust its CA: http://hub.example.org:443/trust shows how, and so does `berth trust`. The CA's SHA-256 is\n  CA\n"},
	} {
		said := serveFor(t, nil, append(strings.Fields(x.args), "--data", x.dir)...)
		first, rest, _ := strings.Cut(said, "\n")
		scheme := "http"
		if strings.Contains(x.args, "--tls") {
			scheme = "https"
		}
		head, addr, _ := strings.Cut(first, " on "+scheme+"://")
		if head != "Berth "+buildVersion()+" serves "+x.dir {
			t.Errorf("%s: the greeting begins with %q", x.args, first)
		}
		rest = regexp.MustCompile(`(?m)^  [0-9A-F:]{95}$`).ReplaceAllString(rest, "  CA")
		if want := strings.NewReplacer("ADDR", addr, "DIR", x.dir).Replace(x.want); rest != want {
			t.Errorf("%s: the greeting is\n%swant\n%s", x.args, rest, want)
		}
	}
}

func TestGreetingInJSON(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	for _, begins := range []bool{true, false} {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		out, in := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, []string{"--addr", "127.0.0.1:0", "--data", dir, "--log-format", "json"}, noEnv, strings.NewReader(""), in, in)
			in.Close()
		}()
		var serving *struct {
			Data, URL, Open, CA         string
			New, Made                   bool
			Repositories, Users, Tokens *int
			Elsewhere, Try              []string
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), `"msg":"serving"`) {
				if err := json.Unmarshal(lines.Bytes(), &serving); err != nil {
					t.Error(err)
				}
				stop()
			}
		}
		if err := <-ended; err != nil || serving == nil {
			t.Fatalf("no greeting: %v", err)
		}
		addr := strings.TrimPrefix(serving.URL, "http://")
		if serving.Data != dir || serving.New != begins || serving.Made != begins || !strings.HasPrefix(addr, "127.0.0.1:") ||
			serving.Repositories == nil || serving.Users == nil || serving.Tokens == nil || !strings.HasPrefix(serving.Open, "open to everybody") ||
			!slices.Equal(serving.Try, []string{"docker tag alpine " + addr + "/alpine && docker push " + addr + "/alpine"}) {
			t.Errorf("the greeting is %+v", *serving)
		}
	}
}

// What README.md shows is what a first start says, but for names and numbers.
func TestGreetingIsAsTheReadmeShows(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)\n\\$ berth\n(Berth .*?)```\n").FindStringSubmatch(string(text))
	if shown == nil {
		t.Fatal("README.md shows no greeting")
	}
	dir := filepath.Join(t.TempDir(), "data")
	said := serveFor(t, nil, "--addr", "0.0.0.0:0", "--data", dir)
	port := regexp.MustCompile(`localhost:(\d+)`).FindStringSubmatch(said)
	others := regexp.MustCompile(`(?m)^(Other machines reach it at ).*$`)
	if port == nil || !others.MatchString(said) {
		skip(t, "this machine has no address that others reach")
	}
	said = strings.NewReplacer(dir, "/home/me/berth/data", ":"+port[1], ":5000", buildVersion(), "devel linux/amd64").Replace(said)
	if said = others.ReplaceAllString(said, "${1}http://192.168.1.5:5000"); said != shown[1] {
		t.Errorf("README.md shows\n%sand a start says\n%s", shown[1], said)
	}
}

// Neither a port that is taken nor an address that cannot be leaves a directory behind.
func TestAddressThatCannotBe(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := taken.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	parent := t.TempDir()
	for _, x := range []struct{ args, want string }{
		{"--addr " + addr, "port " + port + " is taken (another program has it). Stop that program, or choose another port: --addr 127.0.0.1:"},
		{"--addr 127.0.0.1:0 --tls auto --http-addr " + addr, "port " + port + " is taken (another program has it). Stop that program, or choose another port: --http-addr 127.0.0.1:"},
		{"--addr 203.0.113.1:5000", "--addr: this machine does not have the address 203.0.113.1; it has 127.0.0.1"},
		{"--addr 5001", `--addr: "5001" is not an address with a port; use for example :5001`},
		{"--addr localhost", "use for example localhost:5000"},
		{"--addr 192.168.1.5", "use for example 192.168.1.5:5000"},
		{"--addr ::1", "use for example [::1]:5000"},
		{"--addr http://localhost:5000", "use for example :5000 or 127.0.0.1:5000"},
		{"--addr :70000", "--addr: 70000 is not a port; ports go from 1 to 65535"},
		{"--addr 127.0.0.1:", `--addr: "127.0.0.1:" has no port; use for example 127.0.0.1:5000`},
		{"--addr= ", "use for example :5000 or 127.0.0.1:5000"},
		{"--tls auto --http-addr 80", `--http-addr: "80" is not an address with a port; use for example :80`},
	} {
		err := refused(t, append(strings.Fields(x.args), "--data", filepath.Join(parent, "new", "data"))...)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("berth %s: %v, want %q", x.args, err, x.want)
		}
		if left, _ := os.ReadDir(parent); len(left) > 0 {
			t.Fatalf("berth %s leaves %v", x.args, left)
		}
	}
}

// Who starts Berth twice learns that it is Berth that has the port.
func TestPortThatBerthHas(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	serveFor(t, func(url string) {
		awaitSocket(t, dir)
		err := refused(t, "--data", dir, "--addr", strings.TrimPrefix(url, "http://"))
		if want := "a Berth that is already running serves " + dir; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}, "--data", dir)
}
