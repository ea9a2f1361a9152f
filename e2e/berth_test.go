package e2e

// The registry under test. TestMain builds the binary once; startBerth gives a test its own server on
// an empty data directory and a loopback port. When the test ends the server must stop on SIGTERM
// with exit status 0, and `berth check` must find its data directory in order: every test ends with
// that, whatever else it was about.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Set by TestMain: the program under test, and the directory below which every test keeps its files.
var berthBinary, tmp string

func TestMain(m *testing.M) {
	var err error
	if tmp, err = os.MkdirTemp("", "berth-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		killGroups()
		remove(tmp)
		os.Exit(1)
	}()
	status := buildAndRun(m)
	killGroups()
	remove(tmp)
	// Go would answer the next run from its cache, for it does not see that these tests depend on another
	// module and on the clients. It caches nothing when the log of a test's inputs is not whole.
	if f := flag.Lookup("test.testlogfile"); f != nil && f.Value.String() != "" {
		os.Truncate(f.Value.String(), 0)
	}
	os.Exit(status)
}

func buildAndRun(m *testing.M) int {
	runBeside()
	if berthBinary = os.Getenv("BERTH"); berthBinary == "" {
		berthBinary = filepath.Join(tmp, "berth")
		build := exec.Command("go", "-C", "..", "build", "-o", berthBinary, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building berth: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// runBeside has more tests run at once than there are processors, unless the command line says how many:
// most of the time they wait for daemons and for one another.
func runBeside() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
}

// A berth is a server of the test's own. It keeps its address and data directory over restarts.
type berth struct {
	t      *testing.T
	addr   string // 127.0.0.1:PORT, known after the first start
	scheme string // http, or https
	data   string
	args   []string
	env    []string // beside the plain one
	client *http.Client
	log    output
	cmd    *exec.Cmd     // nil while stopped
	exited chan struct{} // closed when cmd has ended

	user, password string // what get logs in with; "" for not
}

// startBerth starts a server with the given extra flags and waits until it is ready.
func startBerth(t *testing.T, args ...string) *berth {
	t.Helper()
	b := newBerth(t, args...)
	b.start()
	return b
}

// newBerth is startBerth for what has to be said before the start.
func newBerth(t *testing.T, args ...string) *berth {
	t.Helper()
	b := &berth{t: t, addr: "127.0.0.1:0", data: filepath.Join(tempDir(t), "data"), args: args,
		client: &http.Client{Timeout: 2 * time.Minute}}
	if err := os.Mkdir(b.data, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.stop()
		b.check()
		if t.Failed() {
			t.Logf("berth's log ends with:\n%s", b.log.tail(60))
		}
	})
	return b
}

// start runs the server on its address and data directory; it must not be running.
func (b *berth) start() {
	b.t.Helper()
	var stdout output
	cmd := exec.Command(berthBinary, append([]string{"--addr", b.addr, "--data", b.data}, b.args...)...)
	cmd.Env = append(plainEnv(tempDir(b.t)), b.env...)
	cmd.Stdout, cmd.Stderr = &stdout, &b.log
	exited, err := startGroup(cmd)
	if err != nil {
		b.t.Fatal(err)
	}
	b.cmd, b.exited = cmd, exited

	announced := regexp.MustCompile(`(https?)://(\d+\.\d+\.\d+\.\d+:\d+)\n`)
	await(b.t, b.exited, &b.log, "berth to print its address", func() bool {
		m := announced.FindStringSubmatch(stdout.String())
		if m != nil {
			b.scheme, b.addr = m[1], m[2]
		}
		return m != nil
	})
	// Where TLS is spoken, plain HTTP is sent on to it, and that will do: there may be no certificate yet.
	want := map[string]int{"http": http.StatusOK, "https": http.StatusPermanentRedirect}[b.scheme]
	await(b.t, b.exited, &b.log, fmt.Sprintf("/readyz to answer %d", want), func() bool {
		resp, err := noRedirects.Get("http://" + b.addr + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == want
	})
}

var noRedirects = &http.Client{
	Timeout:       2 * time.Minute,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// stop ends the server as an operator does: SIGTERM, and exit status 0. What hangs has a minute.
func (b *berth) stop() {
	b.t.Helper()
	if b.cmd == nil {
		return
	}
	b.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.exited:
	case <-time.After(time.Minute):
		b.t.Error("berth still runs a minute after SIGTERM")
		killGroup(b.cmd.Process.Pid)
		<-b.exited
	}
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		b.t.Errorf("berth ended with %v after SIGTERM, want exit status 0", b.cmd.ProcessState)
	}
	b.cmd = nil
}

// kill ends the server as a power cut does, but for the page cache: SIGKILL.
func (b *berth) kill() {
	killGroup(b.cmd.Process.Pid)
	<-b.exited
	b.cmd = nil
}

// check runs `berth check --deep` on the data directory of the stopped server.
func (b *berth) check() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, berthBinary, "check", "--deep", "--data", b.data).CombinedOutput()
	if err != nil {
		b.t.Errorf("berth check: %v\n%s", err, out)
	}
}

// ref is how a client names something in this registry.
func (b *berth) ref(name string) string { return b.addr + "/" + name }

// get requests a path of the API and returns the status, the headers and the body.
func (b *berth) get(method, path string) (int, http.Header, []byte) {
	b.t.Helper()
	req, err := http.NewRequest(method, b.scheme+"://"+b.addr+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if b.user != "" {
		req.SetBasicAuth(b.user, b.password)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, resp.Header, body
}

// manifest returns the stored bytes of a manifest and its digest, having seen that HEAD, GET and the
// bytes agree on it.
func (b *berth) manifest(repo, ref string) (digest string, body []byte) {
	b.t.Helper()
	path := "/v2/" + repo + "/manifests/" + ref
	status, header, body := b.get("GET", path)
	if status != http.StatusOK {
		b.t.Fatalf("GET %s = %d, want 200\n%s", path, status, body)
	}
	digest = header.Get("Docker-Content-Digest")
	if got := digestOf(digest, body); got != digest {
		b.t.Errorf("GET %s: Docker-Content-Digest %s, but the body's is %s", path, digest, got)
	}
	status, header, _ = b.get("HEAD", path)
	if got := header.Get("Docker-Content-Digest"); status != http.StatusOK || got != digest {
		b.t.Errorf("HEAD %s = %d %s, but GET has %s", path, status, got, digest)
	}
	return digest, body
}

// has tells whether the registry has a manifest under this reference.
func (b *berth) has(repo, ref string) bool {
	b.t.Helper()
	path := "/v2/" + repo + "/manifests/" + ref
	status, _, _ := b.get("HEAD", path)
	if status != http.StatusOK && status != http.StatusNotFound {
		b.t.Errorf("HEAD %s = %d, want 200 or 404", path, status)
	}
	return status == http.StatusOK
}

// wantDigest fails the test unless the registry stores this digest under the reference.
func (b *berth) wantDigest(repo, ref, want string) {
	b.t.Helper()
	if got, _ := b.manifest(repo, ref); got != want {
		b.t.Errorf("%s:%s is %s in the registry, but the client says %q", repo, ref, got, want)
	}
}

// digestOf returns the digest of the bytes, in the algorithm of another digest.
func digestOf(like string, body []byte) string {
	if strings.HasPrefix(like, "sha512:") {
		return fmt.Sprintf("sha512:%x", sha512.Sum512(body))
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(body))
}

// output collects what a process prints; the process writes while the test reads.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// tail returns the last lines.
func (o *output) tail(n int) string {
	lines := strings.Split(strings.TrimSpace(o.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
