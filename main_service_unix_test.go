//go:build unix

// A service manager: what it hands over and is told. The tests are one, to a server in a process of its own.

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A testManager is a service manager: it holds sockets, and hears what its service says.
type testManager struct {
	t       *testing.T
	sockets []*os.File
	names   []string
	heard   *net.UnixConn
	env     []string
}

func newTestManager(t *testing.T) *testManager {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return managerAt(t, filepath.Join(dir, "notify"))
}

func managerAt(t *testing.T, path string) *testManager {
	t.Helper()
	heard, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { heard.Close() })
	heard.SetReadDeadline(time.Now().Add(2 * time.Minute)) // only so that a failing test ends
	return &testManager{t: t, heard: heard, env: []string{"NOTIFY_SOCKET=" + path}}
}

// listen adds a socket that is handed over, and returns its address.
func (m *testManager) listen(name string) string {
	m.t.Helper()
	return m.listenAt(name, "127.0.0.1:0")
}

// listenAt is listen at another address.
func (m *testManager) listenAt(name, at string) string {
	m.t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		m.t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	l.Close()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { f.Close() })
	m.sockets, m.names = append(m.sockets, f), append(m.names, name)
	return l.Addr().String()
}

// A service is a process that the manager has started.
type service struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *logBuffer
	wait   func() error
}

// start starts a berth as a service, as systemd does: a shell learns the process id, and becomes the program.
func (m *testManager) start(args ...string) *service {
	m.t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$0" "$@"`, itself(m.t)}, args...)...)
	cmd.ExtraFiles = m.sockets
	cmd.Env = append(append(os.Environ(), mainVariable+"=1"), m.env...)
	if m.sockets != nil {
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(m.sockets)), "LISTEN_FDNAMES="+strings.Join(m.names, ":"))
	}
	s := &service{cmd: cmd, stderr: new(logBuffer)}
	cmd.Stderr = s.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	s.stdout = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	s.wait = sync.OnceValue(cmd.Wait)
	m.t.Cleanup(func() { cmd.Process.Kill(); s.wait() })
	return s
}

// stop ends a service as systemd does.
func (s *service) stop(t *testing.T) {
	t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.ends(t)
}

// ends waits for the end of a service that has been told to end.
func (s *service) ends(t *testing.T) {
	t.Helper()
	io.Copy(io.Discard, s.stdout)
	if err := s.wait(); err != nil {
		t.Errorf("the service ends with %v\n%s", err, s.stderr)
	}
}

// hear returns the next message, as lines.
func (m *testManager) hear() []string {
	m.t.Helper()
	buf := make([]byte, 4096)
	n, err := m.heard.Read(buf)
	if err != nil {
		m.t.Fatalf("nothing more is heard: %v", err)
	}
	return strings.Split(string(buf[:n]), "\n")
}

// until hears until a message has a line, and returns what was said before that.
func (m *testManager) until(line string) (before []string) {
	m.t.Helper()
	for {
		said := m.hear()
		if slices.Contains(said, line) {
			return before
		}
		before = append(before, said...)
	}
}

func TestServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	m := newTestManager(t)
	s := m.start("--data", t.TempDir(), "--addr", "127.0.0.1:0")
	before := m.until("READY=1")
	if len(before) != 2 || !strings.HasPrefix(before[0], "STATUS=") || !strings.HasPrefix(before[1], "EXTEND_TIMEOUT_USEC=") {
		t.Errorf("before it was ready it said %q, want a status and that it needs time", before)
	}
	s.cmd.Process.Signal(syscall.SIGHUP)
	said := m.hear()
	if said[0] != "RELOADING=1" || !regexp.MustCompile(`^MONOTONIC_USEC=\d+$`).MatchString(said[1]) {
		t.Errorf("on a hangup it says %q", said)
	}
	if said := m.hear(); said[0] != "READY=1" {
		t.Errorf("when it has read its files it says %q", said)
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	if said := m.hear(); said[0] != "STOPPING=1" {
		t.Errorf("when it ends it says %q", said)
	}
	s.ends(t)
}

// When READY=1 is heard, what comes is answered, on the address that STATUS= has.
func TestReadyMeansServing(t *testing.T) {
	t.Parallel()
	m := newTestManager(t)
	s := m.start("--data", t.TempDir(), "--addr", "127.0.0.1:0")
	for {
		said := m.hear()
		if !slices.Contains(said, "READY=1") {
			continue
		}
		url := regexp.MustCompile(`http://\S+`).FindString(strings.Join(said, " "))
		resp, err := http.Get(url + "/readyz")
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("GET %s/readyz: %v, %v", url, resp, err)
		}
		break
	}
	s.stop(t)
}

// A start that is refused never says that it is ready, and ends with 2 when a flag is wrong.
func TestRefusedStartIsNotReady(t *testing.T) {
	t.Parallel()
	m := newTestManager(t)
	s := m.start("--data", t.TempDir(), "--tls-name", "pi.local")
	if io.Copy(io.Discard, s.stdout); s.wait() == nil || s.cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("it ends with %v", s.cmd.ProcessState)
	}
	m.env = append(m.env, "END=1")
	s = m.start("--data", t.TempDir(), "--addr", "127.0.0.1:0") // the next, whose words are the first
	if before := m.until("READY=1"); len(before) != 2 {
		t.Errorf("heard %q", before)
	}
	s.stop(t)
}

// With an abstract socket, as systemd has in containers.
func TestAbstractNotifySocket(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		notHere(t, linuxAbstract)
	}
	m := managerAt(t, fmt.Sprintf("@berth-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	s := m.start("--data", t.TempDir(), "--addr", "127.0.0.1:0")
	m.until("READY=1")
	s.stop(t)
}

func TestWatchdogIsToldWhileItServes(t *testing.T) {
	t.Parallel()
	m := newTestManager(t)
	m.env = append(m.env, "WATCHDOG_USEC=200000")
	s := m.start("--data", t.TempDir(), "--addr", "127.0.0.1:0", "--tls=auto")
	m.until("READY=1")
	m.until("WATCHDOG=1")
	m.until("WATCHDOG=1")
	s.stop(t)

	heard := make(chan time.Time)
	log := new(logBuffer)
	m = newTestManager(t)
	manager := environment(m.env).serviceManager()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	manager.watchdog = time.Hour
	fails := errors.New("it is stuck")
	go func() {
		defer close(ended)
		manager.watch(ctx, newLog(log, false, 0), heard, func(context.Context) error { return fails })
	}()
	heard <- time.Time{}
	heard <- time.Time{} // the first has been dealt with
	stop()
	<-ended
	manager.tell("END=1")
	if before := m.until("END=1"); before != nil {
		t.Errorf("a registry that does not answer itself says %q", before)
	}
	if !strings.Contains(log.String(), "it is stuck") {
		t.Errorf("the log says %s", log)
	}
}

// Without WatchdogSec= in the unit, and for a process that it is not meant for, nothing wakes the machine.
func TestNoWatchdogUnlessAsked(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]time.Duration{
		"":                      0,
		"WATCHDOG_USEC=2000000": 2 * time.Second,
		fmt.Sprintf("WATCHDOG_USEC=2000000 WATCHDOG_PID=%d", os.Getpid()): 2 * time.Second,
		"WATCHDOG_USEC=2000000 WATCHDOG_PID=1":                            0,
		"WATCHDOG_USEC=-1":                                                0,
		"WATCHDOG_USEC=x":                                                 0,
	} {
		if m := environment(strings.Fields(env)).serviceManager(); m.watchdog != want {
			t.Errorf("%q is %v, want %v", env, m.watchdog, want)
		}
	}
	if m := environment([]string{"LISTEN_FDS=1", "LISTEN_PID=1"}).serviceManager(); m.sockets != 0 {
		t.Error("the sockets of another process are taken")
	}
}

// A server that does not answer is found by its own question.
func TestServerAnswersItself(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.server.address = r.http.Listener.Addr().String()
	if err := (probes{r.server}).answersItself(t.Context()); err != nil {
		t.Error(err)
	}
	r.stop()
	if (probes{r.server}).answersItself(t.Context()) == nil {
		t.Error("one that has ended answers itself")
	}
	unready := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeError(w, errNotReady) }))
	defer unready.Close()
	if err := askReady(t.Context(), unready.URL, ""); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("one that is not ready: %v", err)
	}
}

func TestSocketIsHandedOver(t *testing.T) {
	t.Parallel()
	m := newTestManager(t)
	address := m.listen("berth.socket")
	s := m.start("--data", t.TempDir(), "--addr", "127.0.0.1:1")
	m.until("READY=1")
	if resp, err := http.Get("http://" + address + "/v2/"); err != nil || resp.StatusCode != 200 {
		t.Errorf("GET /v2/: %v, %v", resp, err)
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	greeting, _ := io.ReadAll(s.stdout)
	for _, want := range []string{"on http://" + address + "\n", "its socket's address counts, not 127.0.0.1:1\n"} {
		if !strings.Contains(string(greeting), want) {
			t.Errorf("the greeting says\n%s, want %q", greeting, want)
		}
	}
	s.ends(t)
}

// Who says that only this machine reaches the registry is not overruled by a socket that all others reach.
func TestSocketForOthersIsNoSocketForThisMachineAlone(t *testing.T) {
	t.Parallel()
	m := newTestManager(t)
	address := m.listenAt("berth.socket", ":0")
	s := m.start("--data", filepath.Join(t.TempDir(), "data"), "--addr", "127.0.0.1:1")
	ended := make(chan error, 1)
	go func() { ended <- s.wait() }()
	var err error
	select {
	case err = <-ended:
	case <-time.After(time.Minute):
		t.Fatal("it serves")
	}
	if said := s.stderr.String(); err == nil || !strings.Contains(said, "--addr 127.0.0.1:1 is for this machine alone") || !strings.Contains(said, address) {
		t.Errorf("it ends with %v, and says\n%s", err, said)
	}
}

func TestSocketForPlainHTTPIsHandedOver(t *testing.T) {
	t.Parallel()
	m := newTestManager(t)
	plain, secure := m.listen("http-addr"), m.listen("addr")
	s := m.start("--data", t.TempDir(), "--tls=auto")
	m.until("READY=1")
	if resp, err := http.Get("http://" + plain + "/trust"); err != nil || resp.StatusCode != 200 {
		t.Errorf("GET /trust: %v, %v", resp, err)
	}
	if err := askReady(t.Context(), "https://"+secure, ""); err != nil {
		t.Error(err)
	}
	s.stop(t)

	s = m.start("--data", t.TempDir())
	io.Copy(io.Discard, s.stdout)
	if s.wait() == nil || !strings.Contains(s.stderr.String(), "needs TLS") {
		t.Errorf("without TLS it says %s", s.stderr)
	}
}

func TestSocketsThatCannotBeServedAreRefused(t *testing.T) {
	t.Parallel()
	m := newTestManager(t)
	m.listen("a")
	m.listen("b")
	s := m.start("--data", t.TempDir())
	io.Copy(io.Discard, s.stdout)
	if s.wait() == nil || !strings.Contains(s.stderr.String(), "more than one socket") {
		t.Errorf("with two sockets it says %s", s.stderr)
	}
	m = newTestManager(t)
	m.listen("addr")
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m.sockets[0] = f
	s = m.start("--data", t.TempDir())
	io.Copy(io.Discard, s.stdout)
	if s.wait() == nil || !strings.Contains(s.stderr.String(), "cannot be used") {
		t.Errorf("with a file it says %s", s.stderr)
	}
}

// While the server restarts, connections wait: none is refused, and each is answered.
func TestNoConnectionIsRefusedOverRestart(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"off", "auto"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			restartUnderLoad(t, mode)
		})
	}
}

// restartUnderLoad restarts a server, over and over, while clients connect.
func restartUnderLoad(t *testing.T, mode string) {
	m := newTestManager(t)
	address := m.listen("addr")
	args := []string{"--data", t.TempDir(), "--tls=" + mode}
	scheme := map[string]string{"off": "http", "auto": "https"}[mode]
	s := m.start(args...)
	m.until("READY=1")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var asking sync.WaitGroup
	answered := make(chan error)
	for range 3 {
		asking.Go(func() {
			for ctx.Err() == nil {
				err := askReady(ctx, scheme+"://"+address, "") // each over a connection of its own
				select {
				case answered <- err:
				case <-ctx.Done():
				}
			}
		})
	}
	check := func() {
		t.Helper()
		for range 20 {
			if err := <-answered; err != nil {
				t.Errorf("over a restart: %v", err)
			}
		}
	}
	for range 4 {
		check()
		s.stop(t)
		// Nobody has the socket now but the manager.
		between := make(chan error, 1)
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("between two servers: %v", err)
		}
		client := &http.Client{Transport: &http.Transport{
			DialContext:     func(context.Context, string, string) (net.Conn, error) { return conn, nil },
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		}}
		go func() {
			resp, err := client.Get(scheme + "://" + address + "/v2/")
			if err == nil && resp.StatusCode != 200 {
				err = errors.New(resp.Status)
			}
			client.CloseIdleConnections()
			between <- err
		}()
		s = m.start(args...)
		if err := <-between; err != nil {
			t.Errorf("who came between two servers: %v", err)
		}
		m.until("READY=1")
		check()
	}
	stop()
	asking.Wait()
	s.stop(t)
}
