// Sentences on a terminal, and where there is none.

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What is too long for a terminal is broken between words; a command that a person may copy is
// not, and where no terminal is nothing is broken.
func TestSentencesFitTheTerminal(t *testing.T) {
	t.Parallel()
	r := registryOfErrors(t)
	dir := filepath.Join(r.cfg.dir, "a-directory-with-a-name-that-is-long")
	for _, x := range []struct {
		args  string
		whole []string // what is on one line
	}{
		{"undo home/alpine:1", []string{"berth rm home/alpine:1,", "berth undo 1"}},
		{"tag home/alpine:1 other:1", []string{"berth tag home/alpine:1 1."}},
		{"policy check robot pull home/alpine", []string{"berth policy check token:robot pull home/alpine"}},
		{"gc --now --dry-run", nil},
		{"user add kim", []string{"`berth user passwd kim`"}},
		{"user remove kim", []string{"--force"}},
		{"ls --data " + dir, []string{dir + ";"}},
		{"tag x", []string{"usage: berth tag NAME:OLD NEW"}},
		{"rm home/alpine:1 --json --read-only=false", nil},
	} {
		args := strings.Fields(x.args)
		if !slices.Contains(args, "--data") {
			args = append(args, "--data", r.cfg.dir)
		}
		person, terminal := openTerminal(t)
		if err := unix.IoctlSetWinsize(int(person.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 60}); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(itself(t), args...)
		cmd.Env = append(os.Environ(), mainVariable+"=1")
		cmd.Stdout, cmd.Stderr = terminal, terminal
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		terminal.Close()
		shown := readScreen(person)
		cmd.Wait()
		for line := range strings.Lines(shown) {
			if line = strings.TrimSuffix(line, "\n"); textWidth(line) > 60 && strings.Contains(line, " ") && !commandInSentence().MatchString(line) {
				t.Errorf("berth %s shows a line of %d columns: %s", x.args, textWidth(line), line)
			}
		}
		for _, want := range x.whole {
			if !strings.Contains(shown, want) {
				t.Errorf("berth %s breaks %q:\n%s", x.args, want, shown)
			}
		}
		if x.args == "undo home/alpine:1" {
			if strings.Count(shown, "\n") < 3 {
				t.Errorf("berth %s is in one piece:\n%s", x.args, shown)
			}
			piped := exec.Command(itself(t), args...)
			piped.Env = cmd.Env
			if said, _ := piped.CombinedOutput(); strings.Count(string(said), "\n") != 1 {
				t.Errorf("berth %s is broken without a terminal:\n%s", x.args, said)
			}
		}
	}
}
