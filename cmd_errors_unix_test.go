//go:build unix

// Whatever is the matter with a directory or a server, each command says it plainly.

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// everyCommand is each command as it is called rightly, once for each thing that it does.
var everyCommand = []string{
	"user add ann", "user passwd kim", "user remove kim --force", "user list", "user list --json",
	"token create ci --repo ci/* --allow push", "token list", "token revoke ci",
	"policy check", "policy check kim push home/alpine", "policy check token:ci pull home/alpine",
	"trust", "trust pi.lan --script",
	"ls", "ls home/alpine", "ls home/alpine:1 --json", "tag home/alpine:1 2", "log", "log home/alpine", "rm home/alpine:1", "undo home/alpine", "undo 1",
	"retain", "retain home/alpine --explain", "stats", "stats home/alpine --json", "uploads",
	"gc", "gc --now", "gc --dry-run --json", "check", "check --deep", "repair", "backup DEST", "rm release/app:v1.2 --force", "rm home/alpine", "restore",
}

// rulers are the commands that read rules or users.
const rulers = "serve user policy retain tag rm undo backup token"

// readers are some of them, one for each way to the file.
const readers = "serve user policy retain backup"

// Each row is one thing that is the matter with the directory that the commands are about. make
// returns it; served says that a server begins there, so that none is started.
var matters = []struct {
	name   string
	make   func(t *testing.T, r *registry) string
	serves bool
	only   string // of the commands those that begin with one of these words; "" for all
}{
	{"there is nothing", func(t *testing.T, _ *registry) string { return t.TempDir() }, true, ""},
	{"there is no such directory", func(t *testing.T, _ *registry) string { return filepath.Join(t.TempDir(), "none", "at-all") }, true, ""},
	{"it is a file", func(t *testing.T, _ *registry) string { return someFile(t) }, false, ""},
	{"it is below a file", func(t *testing.T, _ *registry) string { return filepath.Join(someFile(t), "data") }, false, ""},
	{"it is a link to nothing", func(t *testing.T, _ *registry) string { return linkTo(t, "/nowhere/at/all") }, false, ""},
	{"it is a link to itself", func(t *testing.T, _ *registry) string { return linkTo(t, "link") }, false, ""},
	{"its name is too long", func(t *testing.T, _ *registry) string { return filepath.Join(t.TempDir(), strings.Repeat("x", 300)) }, false, ""},
	{"the database is a text", func(t *testing.T, r *registry) string {
		return r.spoilt("berth.db", strings.Repeat("Dear diary. ", 1000))
	}, false, ""},
	{"the database is empty", func(t *testing.T, r *registry) string { return r.spoilt("berth.db", "") }, false, ""},
	{"the database is a directory", func(t *testing.T, r *registry) string { return r.directoryAt("berth.db") }, false, ""},
	{"the database is of a newer version", func(t *testing.T, r *registry) string {
		inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), "PRAGMA user_version = 999")
		return r.cfg.dir
	}, false, ""},
	{"the blobs have gone", func(t *testing.T, r *registry) string {
		if err := os.Rename(filepath.Join(r.cfg.dir, "blobs"), filepath.Join(t.TempDir(), "blobs")); err != nil {
			t.Fatal(err)
		}
		return r.cfg.dir
	}, false, ""},
	{"the rules are not TOML", func(t *testing.T, r *registry) string { return r.spoilt(policyFile, "[[rule]\n") }, false, rulers},
	{"the rules are empty", func(t *testing.T, r *registry) string { return r.spoilt(policyFile, "") }, false, readers},
	{"the rules have unknown words", func(t *testing.T, r *registry) string { return r.spoilt(policyFile, "[[rul]]\nwho = 3\n") }, false, readers},
	{"the rules have the wrong types", func(t *testing.T, r *registry) string { return r.spoilt(policyFile, "[[rule]]\nwho = 3\n") }, false, readers},
	{"the rules are no table", func(t *testing.T, r *registry) string { return r.spoilt(policyFile, "rule = \"x\"\n") }, false, readers},
	{"the rules have a number for a text", func(t *testing.T, r *registry) string {
		return r.spoilt(policyFile, "[[retain]]\nrepositories = [\"**\"]\ntags = [\"*\"]\nyounger = 3\n")
	}, false, readers},
	{"the rules have a time span that is none", func(t *testing.T, r *registry) string {
		return r.spoilt(policyFile, "[[retain]]\nrepositories = [\"**\"]\ntags = [\"*\"]\nyounger = \"soon\"\n")
	}, false, readers},
	{"the rules are a directory", func(t *testing.T, r *registry) string { return r.directoryAt(policyFile) }, false, readers},
	{"the users are a directory", func(t *testing.T, r *registry) string { return r.directoryAt(usersFile) }, false, readers},
	{"the CA is a directory", func(t *testing.T, r *registry) string { return r.directoryAt(filepath.Join("tls", caCert)) }, true, "trust"},
	{"the CA is a text", func(t *testing.T, r *registry) string { return r.spoilt(filepath.Join("tls", caCert), "Dear diary.") }, true, "trust"},
	{"another process has it", func(t *testing.T, r *registry) string { r.start(); return r.cfg.dir }, false, ""},
	{"the server does not answer", func(t *testing.T, r *registry) string { return r.answeredBy("") }, true, ""},
	{"the server answers nonsense", func(t *testing.T, r *registry) string { return r.answeredBy("Dear diary.\r\n\r\n") }, true, ""},
	{"the server is another version", func(t *testing.T, r *registry) string {
		return r.answeredBy("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nunknown command")
	}, true, ""},
	{"the server ends in the middle", func(t *testing.T, r *registry) string {
		return r.answeredBy("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nREPOSITORY")
	}, true, ""},
}

func someFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "file")
	writeFile(t, path, []byte("Dear diary."))
	return path
}

func linkTo(t *testing.T, target string) string {
	path := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// spoilt writes a file of the stopped registry's directory, which it returns.
func (r *registry) spoilt(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.cfg.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	writeFile(r.t, path, []byte(text))
	return r.cfg.dir
}

// directoryAt puts a directory where a file is wanted.
func (r *registry) directoryAt(name string) string {
	r.t.Helper()
	path := filepath.Join(r.cfg.dir, name)
	if err := errors.Join(os.RemoveAll(path), os.MkdirAll(path, 0o700)); err != nil {
		r.t.Fatal(err)
	}
	return r.cfg.dir
}

// answeredBy has something else than a server of Berth's listen for commands.
func (r *registry) answeredBy(answer string) string {
	r.t.Helper()
	l, err := net.Listen("unix", filepath.Join(r.cfg.dir, "berth.sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			bufio.NewReader(c).ReadString('\n')
			fmt.Fprint(c, answer)
			c.Close()
		}
	}()
	return r.cfg.dir
}

// A server that does the work says the same, word by word, and the program ends with the same code.
func TestErrorsByAServer(t *testing.T) {
	t.Parallel()
	r := registryOfErrors(t)
	alone := make(map[string]said)
	ask := func(into map[string]said) {
		for _, x := range notThere {
			if !strings.Contains(x.typed, "--read-only") && !strings.Contains(x.typed, "--no-delete") { // flags of the server's
				into[x.typed] = tell(t, nil, "", append(strings.Fields(x.typed), "--data", r.cfg.dir)...)
			}
		}
	}
	ask(alone)
	r.start()
	stop := r.listen()
	served := make(map[string]said)
	ask(served)
	stop()
	for typed, want := range alone {
		want.err = lastLine(want.err) // before it is the log
		if got := served[typed]; got != want {
			t.Errorf("berth %s by a server ends with %+v, want %+v", typed, got, want)
		}
	}
}

func lastLine(text string) string {
	lines := slices.Collect(strings.Lines(text))
	if len(lines) == 0 || !strings.HasPrefix(lines[len(lines)-1], "berth: ") {
		return ""
	}
	return lines[len(lines)-1]
}

// The program itself ends with the codes that exitCode says.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	r := registryOfErrors(t)
	for args, want := range map[string]struct {
		code      int
		out, said string // what stdout and stderr begin with
	}{
		"version":                           {0, "berth ", ""},
		"ls":                                {0, "REPOSITORY ", ""},
		"policy check kim pull a":           {0, "yes: ", ""},
		"policy check anonymous pull a":     {1, "no: ", ""},
		"log nope":                          {1, "", "berth: nothing is remembered that was done to nope"},
		"ls nope":                           {1, "", "berth: there is no repository nope"},
		"statz":                             {2, "", `berth: unknown command "statz"`},
		"ls --jsn":                          {2, "", "berth: unknown flag --jsn"},
		"tag a":                             {2, "", "berth: tag: an argument is missing\nusage: berth tag"},
		"serve --log-format json --grace x": {2, "", `{"time":`},
	} {
		cmd := exec.Command(itself(t), strings.Fields(args)...)
		cmd.Env = append(os.Environ(), mainVariable+"=1", "BERTH_DATA="+r.cfg.dir)
		var out, said strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &said
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != want.code || !strings.HasPrefix(out.String(), want.out) || !strings.HasPrefix(said.String(), want.said) ||
			want.said == "" && said.Len() > 0 || want.out == "" && out.Len() > 0 || strings.Count(said.String(), "\n") > 3 {
			t.Errorf("berth %s ends with %d, and says\n%s%swant %d, %q and %q", args, got, out.String(), said.String(), want.code, want.out, want.said)
		}
	}
}

func TestEveryErrorIsPlain(t *testing.T) {
	t.Parallel()
	slow(t)
	hadErrors := make(map[string]bool)
	for _, x := range matters {
		t.Run(x.name, func(t *testing.T) {
			r := registryOfErrors(t)
			r.t = t
			dir := x.make(t, r)
			list := everyCommand
			if !x.serves {
				list = append([]string{"serve --addr 127.0.0.1:0", "serve --addr 127.0.0.1:0 --tls auto"}, list...)
			}
			for _, line := range list {
				if name, _, _ := strings.Cut(line, " "); x.only != "" && !slices.Contains(strings.Fields(x.only), name) {
					continue
				}
				args := strings.Fields(strings.ReplaceAll(line, "DEST", filepath.Join(t.TempDir(), "copy")))
				got := tell(t, nil, "a-good-password\n", append(args, "--data", dir)...)
				if got.code == 0 {
					continue
				}
				hadErrors[line] = true
				if got.code != 1 {
					t.Errorf("berth %s ends with %d: %s", line, got.code, got.err)
				}
				if testing.Verbose() {
					t.Logf("berth %s: %s", line, strings.ReplaceAll(got.err, dir, "DIR"))
				}
			}
		})
	}
	for _, line := range everyCommand {
		if line != "user list --json" && !hadErrors[line] {
			t.Errorf("berth %s never failed", line)
		}
	}
}
