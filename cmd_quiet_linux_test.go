// What a command prints is the command's: no line of a library, and no log where a person
// reads the answer.

package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// As on Raspberry Pi OS and in containers with cgroup v1: the kernel does not tell of
// pressure, and a library that looks for it when it is imported says so before main.
func TestNoLineOfALibraryWhereTheKernelHasNoPressure(t *testing.T) {
	t.Parallel()
	needRoot(t)
	data := t.TempDir()
	for _, args := range [][]string{{"version"}, {"help"}, {"ls", "--data", data}, {"user", "list", "--data", data}, {"version", "--log-format", "json"}} {
		cmd := exec.Command("sh", append([]string{"-c", `mount -t tmpfs berth-test /sys/fs/cgroup || exit 99; exec "$0" "$@"`, itself(t)}, args...)...)
		cmd.Env = append(os.Environ(), mainVariable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if cmd.ProcessState.ExitCode() == 99 {
			skip(t, "this system mounts nothing over /sys/fs/cgroup")
		}
		text := strings.TrimSpace(said.String())
		if args[0] == "ls" || args[0] == "user" { // there is none, which is what it says
			if lines := strings.Split(text, "\n"); err == nil || len(lines) != 1 || !strings.HasPrefix(text, "berth: ") {
				t.Errorf("berth %s: %v\n%s", strings.Join(args, " "), err, text)
			}
		} else if err != nil || text != "" || len(out) == 0 {
			t.Errorf("berth %s: %v, on the standard error %q", strings.Join(args, " "), err, text)
		}
		if strings.Contains(string(out), "pressure") || strings.Contains(text, "pressure") {
			t.Errorf("berth %s says something of pressure:\n%s%s", strings.Join(args, " "), out, text)
		}
	}
}

func TestLogOfACommandIsNotForThePersonAtATerminal(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.off()
	create := []string{"token", "create", "--repo", "**", "--allow", "pull", "--data", r.cfg.dir}
	if shown, err := atTerminal(t, "", "", append(create, "one")...); err != nil || strings.Contains(shown, "level=") || !strings.Contains(shown, "This is shown only once") {
		t.Errorf("at a terminal: %v\n%s", err, shown)
	}
	// Who asks for the log gets it; and so does a file, or a journal.
	if shown, err := atTerminal(t, "", "", append(create, "two", "--log-level", "info")...); err != nil || !strings.Contains(shown, "level=AUDIT") {
		t.Errorf("at a terminal, with --log-level: %v\n%s", err, shown)
	}
	if said, err := asRoot(t, "", append(create, "three")...); err != nil || !strings.Contains(said, "level=AUDIT") {
		t.Errorf("not at a terminal: %v\n%s", err, said)
	}
	r.start()
}
