// Commands with a person at a terminal.

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal returns a terminal and the person's end of it.
func openTerminal(t testing.TB) (person, terminal *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		skip(t, fmt.Sprintf("no terminals: %v", err))
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return person, terminal
}

// atTerminal runs a command with a person at its terminal, who types answer when
// the prompt comes ("" for none). It returns all that the terminal shows.
func atTerminal(t testing.TB, prompt, answer string, args ...string) (shown string, err error) {
	t.Helper()
	person, terminal := openTerminal(t)
	cmd := exec.Command(itself(t), args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	var screen bytes.Buffer
	for reader := bufio.NewReader(person); ; {
		b, err := reader.ReadByte()
		if err != nil { // EIO: nobody has the terminal any more
			break
		}
		screen.WriteByte(b)
		if prompt != "" && strings.HasSuffix(screen.String(), prompt) {
			io.WriteString(person, answer)
			prompt = ""
		}
	}
	err = cmd.Wait()
	return strings.ReplaceAll(screen.String(), "\r\n", "\n"), err
}

// readScreen returns all that a terminal shows until nobody has it any more.
func readScreen(person *os.File) string {
	text, _ := io.ReadAll(person) // ends with EIO
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

func TestLastAdministratorIsAskedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	guarded("", "kim", "ann")(&config{storeConfig: storeConfig{dirConfig: dirConfig{dir: dir}}})
	writeRules(dir, fmt.Sprintf(starterPolicy, "kim"))
	users := func() string {
		text, err := os.ReadFile(filepath.Join(dir, "htpasswd"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, answer := range []string{"n\n", "\n", "perhaps\n", "\x04"} {
		shown, err := atTerminal(t, "[y/N] ", answer, "user", "remove", "kim", "--data", dir)
		if err == nil || !strings.Contains(shown, "kim is the only administrator.") || !strings.Contains(shown, "nothing was changed") || !strings.Contains(users(), "kim:") {
			t.Errorf("the answer %q: %v\n%s", answer, err, shown)
		}
	}
	if shown, err := atTerminal(t, "[y/N] ", "y\n", "user", "remove", "kim", "--data", dir); err != nil || strings.Contains(users(), "kim:") {
		t.Errorf("the answer y: %v\n%s", err, shown)
	}
	// Others are not asked for.
	guarded("", "kim", "ann", "bob")(&config{storeConfig: storeConfig{dirConfig: dirConfig{dir: dir}}})
	if shown, err := atTerminal(t, "", "", "user", "remove", "ann", "--data", dir); err != nil || strings.Contains(shown, "[y/N]") || strings.Contains(users(), "ann:") {
		t.Errorf("one of several: %v\n%s", err, shown)
	}
}

// A person who types as soon as the prompt is there is not shown the password, and both
// lines arrive.
func TestPasswordIsNotShown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 20 {
		name := fmt.Sprintf("user%d", i)
		shown, err := atTerminal(t, "Password for "+name+" (at least 8 characters): ", "correct horse\rcorrect horse\r", "user", "add", name, "--data", dir)
		if err != nil || strings.Contains(shown, "horse") || !strings.Contains(shown, "Again: ") {
			t.Fatalf("user add shows (%v)\n%s", err, shown)
		}
	}
	if shown, err := atTerminal(t, "Password for kim (at least 8 characters): ", "übergrö\r", "user", "add", "kim", "--data", dir); err == nil || !strings.Contains(shown, "a password needs at least 8 characters") || strings.Contains(shown, "Again") {
		t.Errorf("a short password: %v\n%s", err, shown)
	}
	if shown, err := atTerminal(t, "Password for kim (at least 8 characters): ", "correct\x03", "user", "add", "kim", "--data", dir); err == nil || !strings.Contains(shown, "given up") {
		t.Errorf("ctrl-C at the password: %v\n%s", err, shown)
	}
	if shown, err := atTerminal(t, "Password for kim (at least 8 characters): ", "correct horse\rcorrect house\r", "user", "add", "kim", "--data", dir); err == nil || !strings.Contains(shown, "the two passwords differ") {
		t.Errorf("two passwords: %v\n%s", err, shown)
	}
}
