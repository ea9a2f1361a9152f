package e2e

// The clients. Those written in Go are built at a pinned version into Go's own cache, where the next
// run finds them; the others are the distribution's and looked up in PATH. Each runs with a home of
// its own and an environment of a few lines, so that nothing of the person's own configuration leaks
// in. Whatever is started here runs in a process group of its own that is ended with the test, and with
// the test binary when that is interrupted.

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/goinstall"
)

// goClients are the clients built with `go install`.
var goClients = map[string]struct{ pkg, version string }{
	"crane":       {"github.com/google/go-containerregistry/cmd/crane", "v0.22.1"},
	"regctl":      {"github.com/regclient/regclient/cmd/regctl", "v0.11.7"},
	"oras":        {"oras.land/oras/cmd/oras", "v1.3.6"},
	"helm":        {"helm.sh/helm/v3/cmd/helm", "v3.22.0"},
	"registry":    {"github.com/distribution/distribution/v3/cmd/registry", "v3.1.2"},
	"conformance": {"github.com/opencontainers/distribution-spec/conformance", "v0.0.0-20260831232431-97274622c111"},

	"pebble":              {"github.com/letsencrypt/pebble/v2/cmd/pebble", "v2.10.1"},
	"pebble-challtestsrv": {"github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv", "v2.10.1"},

	"openid-provider": {"github.com/zitadel/oidc/v3/example/server", "v3.52.0"},
}

// debianPackages says where the clients that are not built come from.
var debianPackages = map[string]string{
	"dockerd": "docker.io", "docker": "docker.io", "docker-compose": "docker-compose", "containerd": "containerd", "ctr": "containerd",
	"podman": "podman", "buildah": "buildah", "skopeo": "skopeo",
	"nginx": "nginx", "haproxy": "haproxy", "caddy": "caddy",
	"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "sudo": "sudo", "curl": "curl", "openssl": "openssl",
	"slapd": "slapd", "slapadd": "slapd",
	"systemd-analyze": "systemd", "prometheus": "prometheus", "promtool": "prometheus",
}

// A client runs one program with the arguments that every command of its needs.
type client struct {
	t    *testing.T
	path string
	args []string
	env  []string
	dir  string // home, and where it runs
}

// newClient finds or builds a client and gives it an empty home. Without it the test is skipped; in
// CI it fails.
func newClient(t *testing.T, name string, args ...string) *client {
	t.Helper()
	path := ""
	if _, ok := newestClients[name]; ok && newest {
		var err error
		if path, err = buildNewest(name); err != nil {
			missing(t, "the newest %s cannot be built: %v", name, err)
		}
	} else if c, ok := goClients[name]; ok {
		var err error
		if path, err = goinstall.Command(c.pkg, c.version); err != nil {
			missing(t, "%s@%s cannot be installed: %v", c.pkg, c.version, err)
		}
	} else {
		var err error
		if path, err = lookPath(name); err != nil {
			missing(t, "%s is not installed: apt-get install %s", name, debianPackages[name])
		}
	}
	home := tempDir(t)
	return &client{t: t, path: path, args: args, env: plainEnv(home), dir: home}
}

// run runs the client and returns what it printed on stdout, without the white space around it. The
// test ends when the client fails.
func (c *client) run(args ...string) string {
	c.t.Helper()
	stdout, _ := c.must("", args)
	return stdout
}

// feed is run with something on stdin.
func (c *client) feed(stdin string, args ...string) string {
	c.t.Helper()
	stdout, _ := c.must(stdin, args)
	return stdout
}

// said is run for a client that tells its story on stderr: it returns both.
func (c *client) said(args ...string) string {
	c.t.Helper()
	_, all := c.must("", args)
	return all
}

// fails is run for what must fail: it returns all that the client said about it.
func (c *client) fails(args ...string) string {
	c.t.Helper()
	_, all, err := c.exec("", args)
	if err == nil {
		c.t.Errorf("%s %s should have failed", filepath.Base(c.path), strings.Join(args, " "))
	}
	return all
}

// attempt is run for what may fail: it returns all that the client said.
func (c *client) attempt(stdin string, args ...string) (said string, err error) {
	c.t.Helper()
	_, said, err = c.exec(stdin, args)
	return said, err
}

// try is run for a goroutine of the test, which must not end it.
func (c *client) try(args ...string) error {
	_, _, err := c.exec("", args)
	return err
}

func (c *client) must(stdin string, args []string) (stdout, all string) {
	c.t.Helper()
	stdout, all, err := c.exec(stdin, args)
	if err != nil {
		c.t.Fatal(err)
	}
	return stdout, all
}

// exec runs the client for at most three minutes and logs the last of what it said.
func (c *client) exec(stdin string, args []string) (stdout, all string, err error) {
	var out, both output
	cmd := exec.Command(c.path, slices.Concat(c.args, args)...)
	cmd.Env, cmd.Dir = c.env, c.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), io.MultiWriter(&out, &both), &both
	line := filepath.Base(c.path) + " " + strings.Join(args, " ")
	began := time.Now()
	exited, err := startGroup(cmd)
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", line, err)
	}
	select {
	case <-exited:
		if !cmd.ProcessState.Success() {
			err = fmt.Errorf("%s: %v", line, cmd.ProcessState)
		}
	case <-time.After(10 * time.Minute):
		killGroup(cmd.Process.Pid)
		<-exited
		err = fmt.Errorf("%s: still running after ten minutes", line)
	}
	c.t.Logf("%s (%.1fs)\n%s", line, time.Since(began).Seconds(), both.tail(40))
	return strings.TrimSpace(out.String()), both.String(), err
}

// lastDigest is the digest that a client printed last.
func lastDigest(t *testing.T, said string) string {
	t.Helper()
	all := regexp.MustCompile(`sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}`).FindAllString(said, -1)
	if all == nil {
		t.Fatalf("no digest in what the client says:\n%s", said)
	}
	return all[len(all)-1]
}

// atOnce runs f(0), f(1), … f(n-1) at the same time and fails the test for each error.
func atOnce(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("number %d of %d at once: %v", i, n, err)
		}
	}
}

// missing ends a test that lacks what it needs.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	why := fmt.Sprintf(format, args...)
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip("SKIPPED, NOT TESTED: " + why)
}

// needRoot ends a test of a daemon or of mounts when it is not run by root.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "this test must run as root")
	}
}

// searchPath has the directories of daemons too, which are in root's PATH only.
var searchPath = os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"

func lookPath(name string) (string, error) {
	for _, dir := range filepath.SplitList(searchPath) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// plainEnv is all the environment that a client gets.
func plainEnv(home string) []string {
	return []string{"PATH=" + searchPath, "HOME=" + home, "TMPDIR=" + home, "XDG_RUNTIME_DIR=" + home, "LANG=C.UTF-8"}
}

// tempDir is t.TempDir with a short name, for the path of a Unix socket has a hundred bytes at most, and
// with an end to the mounts that a daemon left below it.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(tmp, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(dir); err != nil {
			t.Errorf("removing what the test left: %v", err)
		}
	})
	return dir
}

// remove unmounts what is mounted below a directory and removes it.
func remove(dir string) error {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(mounts), "\n")
	slices.Reverse(lines) // innermost first
	for _, line := range lines {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			exec.Command("umount", "-l", f[1]).Run()
		}
	}
	return os.RemoveAll(dir)
}

// writeFile writes a file below a directory, making the directories between.
func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// launch starts a daemon that is asked to stop when the test ends, and made to after fifteen seconds.
// What it printed last is logged when the test failed. The channel is closed when it has ended.
func launch(t *testing.T, cmd *exec.Cmd) (log *output, exited chan struct{}) {
	t.Helper()
	log = &output{}
	cmd.Stdout, cmd.Stderr = log, log
	exited, err := startGroup(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(time.Minute):
			t.Errorf("%s had to be killed", cmd.Path)
			killGroup(cmd.Process.Pid)
			<-exited
		}
		if t.Failed() {
			t.Logf("%s said at last:\n%s", filepath.Base(cmd.Path), log.tail(20))
		}
	})
	return log, exited
}

// await polls until ready, and ends the test when the daemon has ended or two minutes have passed.
func await(t *testing.T, exited chan struct{}, log *output, what string, ready func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ready(); {
		select {
		case <-exited:
			t.Fatalf("ended while waiting for %s\n%s", what, log.tail(20))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited two minutes for %s\n%s", what, log.tail(20))
		}
	}
}

// listens asks whether anything takes connections at an address.
func listens(network, address string) (ready func() bool) {
	return func() bool {
		conn, err := net.Dial(network, address)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	}
}

var (
	groupsMu sync.Mutex // guards groups
	groups   = map[int]bool{}
)

// startGroup starts a process as the leader of a new group. The channel is closed when it has ended.
func startGroup(cmd *exec.Cmd) (chan struct{}, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second // for what its children may hold open
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	groupsMu.Lock()
	groups[cmd.Process.Pid] = true
	groupsMu.Unlock()
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		groupsMu.Lock()
		delete(groups, cmd.Process.Pid)
		groupsMu.Unlock()
		close(exited)
	}()
	return exited, nil
}

func killGroup(pid int) { syscall.Kill(-pid, syscall.SIGKILL) }

// killGroups ends every group that still runs.
func killGroups() {
	groupsMu.Lock()
	defer groupsMu.Unlock()
	for pid := range groups {
		killGroup(pid)
	}
}
