// `berth trust` beside a server, in a container, and by somebody else.

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// serveTLS serves a directory with a local CA in a process, and returns its port.
func serveTLS(t testing.TB, data string, args ...string) (p *process, port string) {
	t.Helper()
	p = startProcess(t, "", append([]string{"--data", data, "--tls=auto"}, args...)...)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(p.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	return p, port
}

var certsDir = regexp.MustCompile(`/etc/docker/certs\.d/([^/']+)`)

func TestTrustIsAboutTheServerThatRuns(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	trust := func(want string, args ...string) {
		t.Helper()
		for _, more := range [][]string{nil, {"--script"}} {
			args := append(append([]string{"trust", "--data", data}, more...), args...)
			out, err := runOnce(t, args...)
			// The script has the host in one place, and what people read in several.
			host := regexp.MustCompile(`(?m)^host='(.*)'$`).FindStringSubmatch(out)
			if more == nil {
				host = certsDir.FindStringSubmatch(out)
			}
			if err != nil || host == nil || host[1] != want {
				t.Errorf("berth %s is about %q (%v), want %s\n%s", strings.Join(args, " "), host, err, want, out)
			}
		}
	}
	p, port := serveTLS(t, data, "--tls-name", "hub.lan,192.168.1.5")
	trust("hub.lan:" + port)
	trust("192.168.1.5:"+port, "192.168.1.5")
	trust("hub.lan:8443", "hub.lan:8443")
	trust("hub.lan:7000", "--addr", ":7000")
	p.stop(t)
	p, _ = serveTLS(t, data, "--public-url", "https://hub.lan")
	trust("hub.lan")
	p.stop(t)
	p, port = serveTLS(t, data, "--public-url", "https://elsewhere.example.org") // by another certificate
	trust(ownName(t) + ":" + port)
	p.stop(t)
	// Without a server it is what the flags say.
	trust(ownName(t) + ":5000")
	trust("hub.lan:7000", "--addr", ":7000", "--tls-name", "hub.lan")
}

// ownName is what this machine is called on its network.
func ownName(t testing.TB) string {
	t.Helper()
	hostname, err := os.Hostname()
	if err != nil || machineNames(hostname) == nil {
		skip(t, "this machine has no name")
	}
	if containerName().MatchString(hostname) {
		skip(t, "this machine has a container's name: docker run --hostname gives it another")
	}
	return machineNames(hostname)[2]
}

func TestTrustInAContainer(t *testing.T) {
	t.Parallel()
	needRoot(t)
	data := t.TempDir()
	trust := func(args ...string) (string, error) {
		cmd := exec.Command("sh", append([]string{"-c", `hostname e9bb47a8df0f || exit 99; exec "$0" trust "$@"`, itself(t), "--data", data}, args...)...)
		cmd.Env = append(os.Environ(), mainVariable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWUTS}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() == 99 {
			skip(t, "this system lets nobody give it another name")
		}
		return string(out), err
	}
	p, _ := serveTLS(t, data)
	if out, err := trust(); err == nil || !strings.Contains(out, "e9bb47a8df0f, which is a container's name that others do not know") || !strings.Contains(out, "berth trust HOST:PORT") {
		t.Errorf("berth trust in a container: %v\n%s", err, out)
	}
	if out, err := trust("192.168.1.5:5000", "--script"); err != nil || !strings.Contains(out, "host='192.168.1.5:5000'") {
		t.Errorf("berth trust in a container, for an address: %v\n%s", err, out)
	}
	p.stop(t)
	p, port := serveTLS(t, data, "--tls-name", "192.168.1.5")
	if out, err := trust("--script"); err != nil || !strings.Contains(out, "host='192.168.1.5:"+port+"'") {
		t.Errorf("berth trust in a container whose server knows the machine's name: %v\n%s", err, out)
	}
	p.stop(t)
}

// As by ssh, of somebody who is not the registry's user.
func TestTrustOfSomebodyElse(t *testing.T) {
	t.Parallel()
	data, _ := serviceDir(t)
	if err := os.MkdirAll(filepath.Join(data, "tls"), 0o700); err != nil {
		t.Fatal(err)
	}
	giveTo(t, data, serviceUser)
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	said, err := asUser(t, otherUser, "trust", "--script", "--data", data)
	if want := fmt.Sprintf("%d may not read %s/tls/ca.crt. Run this as root or as the registry's user: ssh HOST 'sudo berth trust …'; or open http://HOST:PORT/trust", otherUser, data); err == nil || !strings.Contains(said, want) {
		t.Errorf("berth trust of somebody else: %v\n%s\nwant %q", err, said, want)
	}
}
