//go:build unix

// Commands and the server that runs: the same words from either, and nothing
// that either has to wait for.

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// listen lets commands reach the registry until it is called, or the test ends.
func (r *registry) listen() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	wait := serveCommands(ctx, r.st, &r.server.inFlight)
	stop = sync.OnceFunc(func() { cancel(); wait() })
	r.t.Cleanup(stop)
	return stop
}

// ask has the registry's server run a command.
func (r *registry) ask(ctx context.Context, o options) (string, error) {
	cfg := &config{options: o}
	cfg.dir = r.cfg.dir
	var out bytes.Buffer
	done, err := askServer(ctx, cfg, &out)
	if !done {
		err = errors.New("there is no server")
	}
	return out.String(), err
}

// steady takes away what differs from one moment to the next.
func steady(text string) string {
	if strings.HasPrefix(text, "{") {
		var doc map[string]any
		if err := json.Unmarshal([]byte(text), &doc); err != nil {
			return err.Error()
		}
		for _, key := range []string{"database", "diskFree", "uptime"} {
			delete(doc, key)
		}
		again, _ := json.MarshalIndent(doc, "", " ")
		return string(again)
	}
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "database ") && !strings.HasPrefix(line, "disk ") {
			lines = append(lines, strings.Join(strings.Fields(line), " ")) // the columns are as wide as what is taken away
		}
	}
	return strings.Join(lines, "\n")
}

func TestCommandsSayTheSameWithAndWithoutAServer(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	r.pushImage("live/app", "x", "{}", "layer")
	r.pushImage("a", "x", "{}", "layer", "own")
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	r.pushBlob("a", "unused")
	r.want(202, "POST", "/v2/a/blobs/uploads/", nil)
	r.moved.Add(int64(30 * 24 * time.Hour))
	r.st.promises.forget() // as a command does that opens the directory

	var commands [][]string
	for _, line := range []string{"stats", "stats live/app", "stats nobody", "stats --json", "stats a --json",
		"gc --dry-run", "gc --dry-run --now", "gc --dry-run --now --json", "check", "check --deep"} {
		commands = append(commands, append(strings.Fields(line), "--data", r.cfg.dir))
	}
	type result struct{ out, err string }
	var served []result
	stop := r.listen()
	for i, args := range commands {
		out, err := runOnce(t, args...)
		served = append(served, result{steady(out), fmt.Sprint(err)})
		if n := strings.Count(r.log.String(), "msg=command "); n != i+1 {
			t.Errorf("berth %v: the server has logged %d commands, want %d", args, n, i+1)
		}
	}
	stop()
	if _, err := runOnce(t, "stats", "--data", r.cfg.dir); err == nil || !strings.Contains(err.Error(), "in use by another berth process") {
		t.Errorf("a server that does not listen: %v", err)
	}
	r.stop()
	for i, args := range commands {
		out, err := runOnce(t, args...)
		if got := (result{steady(out), fmt.Sprint(err)}); got != served[i] {
			t.Errorf("berth %v:\n%s(%s)\nthe server says\n%s(%s)", args, got.out, got.err, served[i].out, served[i].err)
		}
		if out == "" && err == nil {
			t.Errorf("berth %v says nothing", args)
		}
	}
	if !strings.Contains(served[2].err, "nobody") || served[2].out != "" {
		t.Errorf("stats of no repository: %+v", served[2])
	}
}

// What goes wrong in the server is the command's error.
func TestCommandsErrorsReachTheClient(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	if err := os.Remove(r.st.path(im.layers[0])); err != nil {
		t.Fatal(err)
	}
	stop := r.listen()
	out, err := runOnce(t, "check", "--data", r.cfg.dir)
	if err == nil || !strings.Contains(err.Error(), "1 thing found wrong; `berth repair`") || strings.Contains(err.Error(), "\n") {
		t.Errorf("check ends with %v", err)
	}
	if !strings.Contains(out, "WRONG: blob "+im.layers[0].String()) {
		t.Errorf("check says\n%s", out)
	}
	if _, err := r.ask(t.Context(), options{Command: "nonsense"}); err == nil || !strings.Contains(err.Error(), "another version of Berth, without the command nonsense") {
		t.Errorf("a command that the server does not know: %v", err)
	}
	stop()
	r.pushBlob("a", "layer")
}

func TestSocketOfAKilledServerIsNoObstacle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "berth.sock")
	for range 2 {
		p := startProcess(t, "", "--data", dir)
		awaitSocket(t, dir)
		if out, err := runOnce(t, "stats", "--data", dir); err != nil || out == "" { // the lock is the server's
			t.Errorf("stats: %v\n%s", err, out)
		}
		p.cmd.Process.Kill()
		p.wait()
		if info, err := os.Lstat(socket); err != nil || info.Mode().Type() != fs.ModeSocket {
			t.Fatalf("a killed server leaves %v (%v), want its socket", info, err)
		}
		if out, err := runOnce(t, "check", "--data", dir); err != nil || !strings.Contains(out, "all is well") {
			t.Errorf("check: %v\n%s", err, out)
		}
	}
	p := startProcess(t, "", "--data", dir)
	awaitSocket(t, dir)
	p.stop(t)
	if _, err := os.Lstat(socket); err == nil {
		t.Error("a server that was stopped leaves its socket")
	}
}

// awaitSocket waits until a server takes commands, which is just after it
// begins to serve.
func awaitSocket(t testing.TB, dir string) {
	t.Helper()
	cfg := &config{options: options{Command: "stats"}}
	cfg.dir = dir
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		if done, _ := askServer(context.Background(), cfg, io.Discard); done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the server takes no commands")
		}
	}
}

func TestSocketInADirectoryWithALongPath(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		notHere(t, linuxSockets)
	}
	dir := t.TempDir()
	for range 5 {
		dir = filepath.Join(dir, strings.Repeat("long", 10))
	}
	p := startProcess(t, "", "--data", dir)
	awaitSocket(t, dir)
	out, err := runOnce(t, "check", "--data", dir)
	if err != nil || !strings.Contains(out, "all is well") {
		t.Errorf("check: %v\n%s", err, out)
	}
	if info, err := os.Lstat(filepath.Join(dir, "berth.sock")); err != nil || info.Mode().Type() != fs.ModeSocket {
		t.Errorf("the socket is %v (%v)", info, err)
	}
	p.stop(t)
	if out, err := runOnce(t, "check", "--data", dir); err != nil || !strings.Contains(out, "all is well") {
		t.Errorf("check without a server: %v\n%s", err, out)
	}
}

func TestSocketIsItsOwnersOnly(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.listen()
	info, err := os.Lstat(filepath.Join(r.cfg.dir, "berth.sock"))
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket is %v (%v), want mode 0600", info.Mode(), err)
	}
}

// A command beside a server that starts and stops is done by the server, or
// without one, or says plainly why not. It does not hang.
func TestCommandsWhileServersStartAndStop(t *testing.T) {
	slow(t)
	t.Parallel()
	dir := t.TempDir()
	if _, err := startAndStop(t, dir); err != nil {
		t.Fatal(err)
	}
	var done, refused atomic.Int64
	var stops []func() int
	for _, name := range []string{"stats", "check", "gc"} {
		stops = append(stops, meanwhile(t, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var out strings.Builder
			err := run(ctx, []string{name, "--data", dir}, noEnv, strings.NewReader(""), &out, io.Discard)
			if ctx.Err() != nil {
				return fmt.Errorf("berth %s hangs: %v", name, err)
			}
			if err == nil {
				done.Add(1)
				if out.Len() == 0 {
					return fmt.Errorf("berth %s says nothing", name)
				}
				return nil
			}
			for _, plain := range []string{"in use by another berth process", "the running server", "the server ended before", "interrupted"} {
				if strings.Contains(err.Error(), plain) {
					refused.Add(1)
					return nil
				}
			}
			return fmt.Errorf("berth %s: %w", name, err)
		}))
	}
	for starts := 0; starts < 10; {
		served, err := startAndStop(t, dir)
		if served {
			starts++
		} else if err == nil || !strings.Contains(err.Error(), "in use by another berth process") {
			t.Fatalf("a server does not start: %v", err)
		}
	}
	for _, stop := range stops {
		stop()
	}
	if done.Load() == 0 {
		t.Error("no command got through")
	}
	t.Logf("%d commands got through, %d did not", done.Load(), refused.Load())
}

// startAndStop runs a server, stops it when it takes commands, and returns its
// error.
func startAndStop(t *testing.T, dir string) (served bool, err error) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"--addr", "127.0.0.1:0", "--data", dir}, noEnv, strings.NewReader(""), in, io.Discard)
		in.Close()
	}()
	lines := bufio.NewScanner(out)
	for lines.Scan() { // to its greeting's end
		if served = strings.HasPrefix(lines.Text(), "Try:"); served {
			awaitSocket(t, dir)
			stop()
		}
	}
	return served, <-ended
}

// testCommand adds a command until the end of the test, which must be alone.
func testCommand(t *testing.T, name string, run storeCommand) {
	before := commands
	commands = append(slices.Clip(commands), &command{name: name, onStore: run})
	t.Cleanup(func() { commands = before })
}

// When nobody listens any more, the work ends.
func TestCommandEndsWithItsClient(t *testing.T) {
	alone(t, "the program has another command meanwhile")
	began, ended := make(chan struct{}), make(chan struct{})
	testCommand(t, "wait", func(ctx context.Context, _ *store, _ options, out *console) error {
		out.printf("begun\n")
		close(began)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	})
	r := startRegistry(t)
	r.listen()
	ctx, leave := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := r.ask(ctx, options{Command: "wait"})
		result <- err
	}()
	<-began
	leave()
	if err := <-result; err == nil {
		t.Error("the client leaves, and there is no error")
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the command goes on without its client")
	}
}

// A server that stops ends the commands under way, and their clients know.
func TestCommandEndsWithItsServer(t *testing.T) {
	alone(t, "the program has another command meanwhile")
	began := make(chan struct{})
	testCommand(t, "wait", func(ctx context.Context, _ *store, _ options, out *console) error {
		out.printf("begun\n")
		close(began)
		<-ctx.Done()
		return ctx.Err()
	})
	r := startRegistry(t)
	stop := r.listen()
	result := make(chan error, 1)
	go func() {
		out, err := r.ask(t.Context(), options{Command: "wait"})
		if out != "begun\n" {
			t.Errorf("what the command wrote before is %q", out)
		}
		result <- err
	}()
	<-began
	stop()
	if err := <-result; err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("the client's error is %v", err)
	}
}

func TestTwoCommandsAtOnce(t *testing.T) {
	alone(t, "the program has another command meanwhile")
	var both sync.WaitGroup
	both.Add(2)
	testCommand(t, "meet", func(_ context.Context, _ *store, o options, out *console) error {
		both.Done()
		both.Wait() // for the other
		out.printf("%s", o.Args[0])
		return nil
	})
	r := startRegistry(t)
	r.listen()
	together(t, 2, func(i int) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := r.ask(ctx, options{Command: "meet", Args: []string{fmt.Sprint(i)}})
		if err == nil && out != fmt.Sprint(i) {
			err = fmt.Errorf("the answer is %q", out)
		}
		return err
	})
}

// What is in the middle of something is neither wrong nor left over.
func TestCheckBesidePushesAndCollections(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.grace, c.untaggedGrace, c.noPromises = 0, time.Nanosecond, true })
	r.listen()
	c := newCrowd(r)
	var clients []func() int
	for i := range 4 {
		n := 0
		clients = append(clients, meanwhile(t, func() error {
			n++
			repo, tag := fmt.Sprint("app", i%2), fmt.Sprintf("t%d-%d", i, n%3)
			contents := []string{c.shared[n%len(c.shared)], fmt.Sprint("layer ", n%7), fmt.Sprintf(`{"n":%d,"by":%d}`, n, i)}
			im := ociImage(contents[2], contents[:2]...)
			if _, err := c.push(repo, tag, im, contents); err != nil {
				return err
			}
			switch n % 4 {
			case 0:
				_, err := r.try("DELETE", "/v2/"+repo+"/manifests/"+tag, nil)
				return err
			case 1:
				_, err := r.try("DELETE", "/v2/"+repo+"/manifests/"+im.digest.String(), nil)
				return err
			case 2:
				_, err := r.try("DELETE", "/v2/"+repo+"/blobs/"+im.layers[1].String(), nil)
				return err
			}
			re, err := r.try("POST", "/v2/"+repo+"/blobs/uploads/", nil)
			if err == nil {
				_, err = r.try("DELETE", re.location(), nil)
			}
			return err
		}))
	}
	clients = append(clients, meanwhile(t, func() error {
		_, err := r.ask(t.Context(), options{Command: "gc", Now: true})
		return err
	}))
	wrong := 0
	const checks = 100
	begun := time.Now()
	for i := range checks {
		if i >= checks/4 && time.Since(begun) > 5*time.Second {
			break // with the race detector, say
		}
		out, err := r.ask(t.Context(), options{Command: "check", Deep: i%10 == 0})
		if err == nil && strings.Contains(out, "left over") {
			err = errors.New("something is left over")
		}
		if err == nil {
			continue
		}
		if wrong++; wrong == 1 {
			t.Errorf("check %d, with the registry in use: %v\n%s", i, err, out)
		}
	}
	if wrong > 1 {
		t.Errorf("%d checks found something", wrong)
	}
	for i, stop := range clients {
		if stop() < 3 {
			t.Errorf("client %d did next to nothing meanwhile", i)
		}
	}
}

// On a terminal progress is one line; anywhere else it is lines.
func TestProgress(t *testing.T) {
	t.Parallel()
	for _, tty := range []bool{true, false} {
		var out strings.Builder
		p := newConsole(&out, tty).progress("reading", 1000)
		for range 5 {
			p.told, p.begun = p.told.Add(-time.Minute), p.begun.Add(-time.Minute)
			p.add(100)
			p.add(100) // right after: nothing new is told
		}
		p.end()
		text := out.String()
		if n := strings.Count(text, "reading: "); n != 5 {
			t.Errorf("tty %v: told %d times, want 5: %q", tty, n, text)
		}
		if !strings.Contains(text, "reading: 900 B of 1000 B, 3 B/s, 33s left") && !strings.Contains(text, "reading: 900 B of 1000 B, 2 B/s, 33s left") {
			t.Errorf("tty %v: %q", tty, text)
		}
		plain := strings.NewReplacer("\r\x1b[K", "").Replace(text)
		if tty && (strings.Contains(text, "\n") || !strings.HasSuffix(text, "\r\x1b[K") || strings.ContainsAny(plain, "\r\x1b")) {
			t.Errorf("on a terminal it is not one line: %q", text)
		}
		if !tty && (strings.ContainsAny(text, "\r\x1b") || !strings.HasSuffix(text, "\n")) {
			t.Errorf("not on a terminal, and there are control characters: %q", text)
		}
	}
	// It is the client's terminal that counts.
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	r.listen()
	for _, tty := range []bool{true, false} {
		out, err := r.ask(t.Context(), options{Command: "check", Deep: true, TTY: tty})
		if err != nil || strings.Contains(out, "\x1b") != tty || !strings.Contains(out, "all is well\n") {
			t.Errorf("check --deep, tty %v: %v\n%q", tty, err, out)
		}
	}
}

// Without a server, gc takes no more than the server would that was there last.
func TestGraceOfTheServerHoldsWithoutIt(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.untaggedGrace = 0 })
	im := r.pushImage("a", "x", "{}", "layer")
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	if err := rememberFlags(r.st); err != nil { // as serve does
		t.Fatal(err)
	}
	if out, err := r.runOnStopped("gc", "--now"); err != nil || !strings.Contains(out, "nothing to remove\n") {
		t.Errorf("%v\n%s", err, out)
	}
	r.want(200, "GET", "/v2/a/manifests/"+im.digest.String(), nil)
	if out, err := r.runOnStopped("gc", "--now", "--untagged-grace", "1h"); err != nil || !strings.Contains(out, "removed 1 manifest, 2 blobs") {
		t.Errorf("%v\n%s", err, out)
	}
}
