// `berth events`: what happens, as it happens; and trials of endpoints (events_send.go).
//
// To follow, the command asks the running server, which sends a line for each event. With --exec
// a shell command is run for each of them, by this process and not by the server; for one
// repository one after the other, in order. It gets the event as data, on standard input and in
// variables: nothing of an event is ever part of what the shell reads.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/google/uuid"
)

// eventVariable begins the names of the variables in which a command of --exec has its event.
const eventVariable = "BERTH_EVENT_"

// followCommand is not a command that people type: it asks a server for events.
const followCommand = "follow"

func checkEventsCommand(cfg *config) error {
	what := "follow"
	if len(cfg.Args) > 0 {
		what = cfg.Args[0]
	}
	switch {
	case what == "check" && len(cfg.Args) == 1, what == "test" && len(cfg.Args) == 2, len(cfg.Args) == 0:
	case what == "test":
		return errors.New("events test: name the endpoint, as in berth events test deploy")
	default:
		return errors.New("events: say check, test ENDPOINT, or nothing to follow what happens")
	}
	if cfg.given["exec"] && cfg.Exec == "" {
		return errors.New("--exec: name a command, as in --exec 'cat'")
	}
	_, err := parseRepositories(splitList(cfg.Repo))
	if err != nil {
		return fmt.Errorf("--repo: %w", err)
	}
	return nil
}

// eventsCommand is `berth events [check|test ENDPOINT]`.
func eventsCommand(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	if len(cfg.Args) > 0 {
		l, err := readListeners(cfg.dir)
		if err != nil {
			return err
		}
		if cfg.Args[0] == "test" {
			return testEndpoint(ctx, cfg, l, stdout)
		}
		return checkEndpoints(cfg, l, stdout)
	}
	if _, err := os.Stat(filepath.Join(cfg.dir, "berth.db")); err != nil {
		return noRegistry(cfg.dir, err)
	}
	ask := *cfg
	ask.Command = followCommand
	if cfg.Exec != "" {
		ask.JSON = true
		x := newEventRunner(ctx, cfg, stdout)
		defer x.wait()
		stdout = x
	}
	done, err := askServer(ctx, &ask, stdout)
	switch {
	case ctx.Err() != nil:
		return nil // as it was meant
	case !done:
		return fmt.Errorf("no server is running on %s, so nothing happens there; start it first", cfg.dir)
	}
	return err
}

// checkEndpoints prints the endpoints.
func checkEndpoints(cfg *config, l *listeners, stdout io.Writer) error {
	if len(l.endpoints) == 0 {
		fmt.Fprintf(stdout, "There are no endpoints: there is no %s.\n", filepath.Join(cfg.dir, eventsFile))
		return nil
	}
	for _, p := range l.endpoints {
		cfg.console(stdout).lines("", p.String())
	}
	if info, err := os.Stat(filepath.Join(cfg.dir, eventsFile)); err == nil && runtime.GOOS != "windows" && info.Mode()&(fs.ModePerm&0o077) != 0 {
		fmt.Fprintf(stdout, "Other users of this machine may read %[1]s, which can hold secrets; to change that: chmod 600 %[1]s\n", filepath.Join(cfg.dir, eventsFile))
	}
	return nil
}

// testEndpoint sends a trial event to an endpoint.
func testEndpoint(ctx context.Context, cfg *config, l *listeners, stdout io.Writer) error {
	p := l.find(cfg.Args[1])
	if p == nil {
		return absentErrorf("there is no endpoint %s in %s; `berth events check` lists them", cfg.Args[1], filepath.Join(cfg.dir, eventsFile))
	}
	e := &event{ID: uuid.NewString(), Time: time.Now().UTC(), Type: testEvent, Action: eventActions[testEvent], Actor: cfg.Who}
	e.Source.Addr, _ = os.Hostname()
	client := newEventClient(p, new(net.Dialer).DialContext)
	defer client.CloseIdleConnections()
	if err := postEvent(ctx, client, p, e); err != nil {
		return fmt.Errorf("%s (%s) did not take the event: %w", p.name, p.address(), err)
	}
	fmt.Fprintf(stdout, "%s (%s) has taken the event %s\n", p.name, p.address(), e.ID)
	return nil
}

// maxUnrun bounds the events that wait for a command of --exec.
const maxUnrun = 10000

// An eventRunner runs a command for each event that is written to it, as a line of JSON.
type eventRunner struct {
	ctx   context.Context
	cfg   *config
	out   io.Writer
	begun chan struct{} // full while as many commands as may be are running
	line  []byte        // that has not come to its end
	all   sync.WaitGroup

	mu      sync.Mutex // guards the rest, and is held while a command's output is written
	waiting map[string][]*event
	count   int
}

// maxCommands bounds the commands of --exec that run at one time.
const maxCommands = 8

func newEventRunner(ctx context.Context, cfg *config, out io.Writer) *eventRunner {
	return &eventRunner{ctx: ctx, cfg: cfg, out: out, begun: make(chan struct{}, maxCommands), waiting: make(map[string][]*event)}
}

// Write takes what the server sends.
func (x *eventRunner) Write(p []byte) (int, error) {
	x.line = append(x.line, p...)
	for {
		line, rest, whole := bytes.Cut(x.line, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		e := new(event)
		if err := json.Unmarshal(line, e); err != nil {
			return 0, fmt.Errorf("the server has sent something that is not an event: %w", err)
		}
		x.line = bytes.Clone(rest)
		if err := x.add(e); err != nil {
			return 0, err
		}
	}
}

// add has the command run for an event, after those of the same repository.
func (x *eventRunner) add(e *event) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.count++; x.count > maxUnrun {
		return fmt.Errorf("%d events wait for the command of --exec, which is too slow", maxUnrun)
	}
	list, busy := x.waiting[e.Repository]
	x.waiting[e.Repository] = append(list, e)
	if !busy {
		x.all.Go(func() { x.drain(e.Repository) })
	}
	return nil
}

// drain runs the command for all that waits of a repository.
func (x *eventRunner) drain(repository string) {
	for {
		x.mu.Lock()
		list := x.waiting[repository]
		if len(list) == 0 || x.ctx.Err() != nil {
			delete(x.waiting, repository)
			x.mu.Unlock()
			return
		}
		e := list[0]
		x.waiting[repository] = list[1:]
		x.count--
		x.mu.Unlock()
		x.begun <- struct{}{}
		if err := x.run(e); err != nil && x.ctx.Err() == nil {
			x.cfg.log.Error("the command of --exec has failed", "event", e.ID, "about", e.name(), "error", plainly(err))
		}
		<-x.begun
	}
}

// run runs the command for an event.
func (x *eventRunner) run(e *event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	shell := []string{"/bin/sh", "-c"}
	if runtime.GOOS == "windows" {
		shell = []string{"cmd", "/c"}
	}
	cmd := exec.CommandContext(x.ctx, shell[0], shell[1], x.cfg.Exec)
	cmd.WaitDelay = shutdownGrace
	cmd.Stdin = bytes.NewReader(append(text, '\n'))
	out := x.output()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = os.Environ()
	for name, value := range map[string]string{"ID": e.ID, "TIME": e.Time.Format(time.RFC3339Nano), "TYPE": e.Type, "ACTION": e.Action, "REPOSITORY": e.Repository,
		"TAG": e.Tag, "DIGEST": e.Digest, "PREVIOUS": e.Previous, "ACTOR": e.Actor} {
		cmd.Env = append(cmd.Env, eventVariable+name+"="+value)
	}
	return cmd.Run()
}

// output is where a command writes.
func (x *eventRunner) output() io.Writer { return runnerOutput{x} }

type runnerOutput struct{ x *eventRunner }

func (o runnerOutput) Write(p []byte) (int, error) {
	o.x.mu.Lock()
	defer o.x.mu.Unlock()
	return o.x.out.Write(p)
}

// wait waits for the commands that run.
func (x *eventRunner) wait() { x.all.Wait() }
