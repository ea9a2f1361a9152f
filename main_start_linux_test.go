// Ports that are root's.

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestPortThatIsRoots(t *testing.T) {
	t.Parallel()
	needRoot(t)
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err != nil || strings.TrimSpace(string(text)) == "0" {
		skip(t, "on this machine everybody may listen on every port")
	}
	parent := sharedDir(t)
	program := filepath.Join(parent, "berth")
	text, err := os.ReadFile(itself(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, text, 0o755); err != nil { // that of go test is where others cannot go
		t.Fatal(err)
	}
	home := filepath.Join(parent, "home")
	put(t, home, "./")
	giveTo(t, home, serviceUser)
	cmd := exec.Command(program, "--addr", "127.0.0.1:443", "--data", filepath.Join(home, "data"))
	cmd.Env, cmd.Dir = []string{mainVariable + "=1"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: serviceUser, Gid: serviceUser}}
	said, err := cmd.CombinedOutput()
	if want := "this user may not listen on port 443, as a rule because ports below 1024 are for root. Choose a higher port, such as --addr 127.0.0.1:5000"; err == nil || !strings.Contains(string(said), want) {
		t.Errorf("%v: %s, want %q", err, said, want)
	}
	if left := namesIn(t, home); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}
