// Errors that take root to have: of disks, and of other accounts.

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// On a disk that is read-only, or full, each command says so, or does its work.
func TestErrorsOfDisksArePlain(t *testing.T) {
	t.Parallel()
	slow(t)
	for _, x := range []struct {
		name string
		harm func(t *testing.T, disk string)
		want string // of each error
	}{
		{"of which one may read", func(t *testing.T, disk string) { makeReadOnly(t, disk) }, "read-only"},
		{"of no room", func(t *testing.T, disk string) { fill(t, disk) }, "full"},
	} {
		t.Run(x.name, func(t *testing.T) {
			disk := mountDisk(t, "size=16m")
			r := registryOfErrors(t, func(cfg *config) { cfg.dir = filepath.Join(disk, "data") })
			x.harm(t, disk)
			failed := 0
			for _, line := range append([]string{"serve --addr 127.0.0.1:0 --tls auto"}, everyCommand...) {
				if x.want == "full" && strings.HasPrefix(line, "serve") {
					continue // it serves
				}
				args := strings.Fields(strings.ReplaceAll(line, "DEST", filepath.Join(t.TempDir(), "copy")))
				got := tell(t, nil, "a-good-password\n", append(args, "--data", r.cfg.dir)...)
				if got.code == 0 || strings.HasPrefix(got.err, "berth: there is no ") {
					continue
				}
				failed++
				if testing.Verbose() {
					t.Logf("berth %s: %s", line, got.err)
				}
				if !strings.Contains(got.err, x.want) && !strings.Contains(got.err, "to restore") {
					t.Errorf("berth %s on a disk %s: %s", line, x.name, got.err)
				}
			}
			if failed == 0 {
				t.Error("no command has failed")
			}
		})
	}
}

// Who may not look into the directory is told so, with its name, by each command.
func TestErrorsOfOtherAccountsArePlain(t *testing.T) {
	t.Parallel()
	slow(t)
	data, _ := serviceDir(t)
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	berth := filepath.Join(sharedDir(t), "berth")
	program, err := os.Open(itself(t))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	copied, err := os.OpenFile(berth, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.Copy(copied, program); errors.Join(err, copied.Close()) != nil {
		t.Fatal(err)
	}
	for _, line := range append([]string{"serve --addr 127.0.0.1:0"}, everyCommand...) {
		args := append(strings.Fields(strings.ReplaceAll(line, "DEST", "/tmp/none")), "--data", data)
		var out, log bytes.Buffer
		cmd := exec.Command(berth, args...)
		cmd.Env, cmd.Dir = append(os.Environ(), mainVariable+"=1"), "/"
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("a-good-password\n"), &out, &log
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
		cmd.Run()
		got := said{cmd.ProcessState.ExitCode(), out.String(), log.String()}
		got.check(t, args)
		if testing.Verbose() {
			t.Logf("berth %s: %s", line, got.err)
		}
		if got.code != 1 || got.out != "" || !strings.Contains(got.err, data) || line != "serve --addr 127.0.0.1:0" && !regexp.MustCompile(`(?i)run this as root,? or as `).MatchString(got.err) {
			t.Errorf("berth %s by another account ends with %d, and says\n%s%s", line, got.code, got.out, got.err)
		}
	}
}
