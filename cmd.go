// Commands on a data directory, whether or not a server has it. The table of all is in cmd_table.go.
//
// The table says all about a command: its arguments and flags, what it does, whether it
// changes or deletes, its help. Nothing else names them.
//
// A server that runs listens on berth.sock in its data directory, and a command
// that finds it there asks the server to do the work; else it opens the store
// itself. Either way the same function runs and writes the same text. Who may
// open the socket owns the directory anyway, so there is nothing to guard.

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
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A command is one row of the table: all that Berth knows of `berth NAME`.
type command struct {
	name     string
	heading  string // over this command and those that follow
	synopsis string // what follows the name
	forms    []form // instead of a synopsis, if there are several
	least    int    // how many arguments there must be
	most     int    // how many there may be
	flags    []flagDef
	server   []string // flags of the server that matter to it, except --data

	standards map[string]string // the defaults of those flags that have others here

	// check refuses arguments and flags that cannot be right, whatever the registry holds.
	// It opens nothing. nil is all that least and most do.
	check func(*config) error

	// What it does is one of four. onStore works on an open store, in the server if
	// one runs. onFiles works on files of the data directory, as their owner. asClient works on
	// files of whoever calls it, and asks the registry in the data directory as a client does. alone
	// needs no such owner; if there is onStore, too, alone decides whether that does it.
	onStore                  storeCommand
	onFiles, asClient, alone func(ctx context.Context, cfg *config, stdin io.Reader, stdout io.Writer) error

	// changes and deletes report whether it would, with these options; nil is never.
	// A registry that is read-only forbids both, one that does not delete the latter.
	changes, deletes func(options) bool

	// Texts for people; code stands in backquotes, which only pages show.
	about   string // for the usage: no more than a line
	more    string // for its own help: sentences
	example string // for its own help: lines to type
}

// A form is one way to call a command, of several: what follows its name, and what that does.
type form struct{ call, about string }

// A storeCommand does a command's work on a store.
type storeCommand func(context.Context, *store, options, *console) error

// commands is the table, in the order of the usage.
var commands []*command

// findCommand returns the command of that name, or nil.
func findCommand(name string) *command {
	for _, c := range commands {
		if c.name == name {
			return c
		}
	}
	return nil
}

// line is how a command is called, in short.
func (c *command) line() string {
	call := c.synopsis
	if verbs := c.verbs(); verbs != nil {
		call = strings.Join(verbs, "|") + " ..."
	} else if c.forms != nil {
		call = c.forms[0].call
	}
	return strings.TrimSpace("berth " + c.name + " " + call)
}

// calls are all the ways to call a command.
func (c *command) calls() (list []string) {
	for _, x := range c.forms {
		list = append(list, "berth "+c.name+" "+x.call)
	}
	if list == nil {
		list = []string{c.line()}
	}
	return list
}

// verbs are the words that can follow a command's name, as in user add.
func (c *command) verbs() (list []string) {
	for _, x := range c.forms {
		verb, _, _ := strings.Cut(x.call, " ")
		if verb == strings.ToLower(verb) && !slices.Contains(list, verb) {
			list = append(list, verb)
		}
	}
	return list
}

// options are a command's own flags and arguments.
type options struct {
	Command string
	Args    []string
	Now     bool
	DryRun  bool
	Deep    bool
	JSON    bool
	Repo    string // patterns, with commas between
	Allow   string // actions, likewise
	Expires string
	Explain bool
	Group   string
	Force   bool
	Limit   int
	For     time.Duration
	As      string
	Who     string // the account
	TTY     bool   // a person watches, on a terminal whose lines can be written again
	Width   int    // of the terminal, in columns; 0 if it is none
	Zone    zone   // of the person
	Created int64  // seconds since 1970: when an image was made, if that is said; else 0
	Usual   string // the data directory as a whole path, if neither a flag nor a variable names it; else ""

	Pulls    bool   // follow pulls, too,
	Blobs    bool   // and blobs
	Exec     string `json:"-"` // run for each event, where the command was given
	Root     string // of the file system to install to; "" for this machine's
	SHA256   string // of the program to upgrade to; "" for what a file beside it says
	Rollback bool

	LeftOver bool    // also remove what a restore keeps
	Nearest  nearest // to the destination of a backup
}

// runOn does what a command says, unless the flags of whoever has the store forbid it.
func runOn(ctx context.Context, st *store, o options, out *console) error {
	c := findCommand(o.Command)
	deletes := c.deletes != nil && c.deletes(o)
	changes := deletes || c.changes != nil && c.changes(o)
	switch {
	case st.readOnly && changes:
		return fmt.Errorf("%s: this registry is read-only, by --read-only", o.Command)
	case st.noDelete && deletes:
		return fmt.Errorf("%s: this registry does not delete, by --no-delete", o.Command)
	}
	err := c.onStore(ctx, st, o, out)
	if st.writer == nil && (errors.Is(err, syscall.EROFS) || errors.Is(err, errReadOnlyDisk)) {
		return plainError{fmt.Sprintf("%s: the disk of %s is read-only", o.Command, st.dir), err}
	}
	return o.withPlace(plainly(st.ruin.explain(err)))
}

// wrongArguments is the error of a command whose arguments are not right: what is wrong with
// them, and how it is called.
func (c *command) wrongArguments(what string) error {
	return usageErrorf("%s\nusage: %s\n`berth help %s` tells more", what, strings.Join(c.calls(), "\n       "), c.name)
}

// checkArguments refuses arguments that cannot be right, before anything is opened.
func (c *command) checkArguments(cfg *config) error {
	switch n := len(cfg.Args); {
	case n > 0 && c.name == "serve" && findCommand(cfg.Args[0]) != nil:
		return usageErrorf("unexpected %q; write the command first: berth %s", cfg.Args[0], strings.Join(cfg.argumentsFirst(), " "))
	case n > 0 && c.name == "serve" && configurationFile().MatchString(cfg.Args[0]):
		return usageErrorf("unexpected %q: %s", cfg.Args[0], noConfiguration)
	case n > c.most && c.most == 0:
		return usageErrorf("unexpected %q: berth %s takes only flags (see berth help %[2]s)", cfg.Args[0], c.name)
	case n > c.most:
		return c.wrongArguments(fmt.Sprintf("unexpected %q", cfg.Args[c.most]))
	case n < c.least:
		return c.wrongArguments(c.name + ": an argument is missing")
	}
	for _, arg := range cfg.Args {
		if arg == "" {
			return c.wrongArguments(c.name + ": an argument is empty (perhaps by a variable that is not set)")
		}
	}
	if c.check == nil {
		return nil
	}
	return asUsage(cfg.asGiven(plainly(c.check(cfg))))
}

// configurationFile matches the name of one of registry:2 or others.
var configurationFile = expression(`\.(ya?ml|toml|json|conf)$`)

// argumentsFirst is what was typed, the arguments before the flags.
func (cfg *config) argumentsFirst() []string {
	flags, left := slices.Clone(cfg.typed), len(cfg.Args)
	for i := len(flags) - 1; i >= 0 && left > 0; i-- {
		if flags[i] == cfg.Args[left-1] {
			flags, left = slices.Delete(flags, i, i+1), left-1
		}
	}
	return append(slices.Clone(cfg.Args), flags...)
}

// noRegistry says that none is in a directory, where its database has not been found.
func noRegistry(dir string, err error) error {
	if whole, e := filepath.Abs(dir); e == nil {
		dir = whole
	}
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the registry in %s cannot be looked at: %w", dir, err)
	}
	what := "there is no registry in"
	if _, e := os.Stat(dir); e != nil {
		what = "there is no directory"
	}
	return fmt.Errorf("%s %s; name the registry's directory with --data or BERTH_DATA", what, dir)
}

// refuseNowhere refuses a data directory without a registry in it, unless one of files is
// there: who prepares a registry writes those first.
func (cfg *config) refuseNowhere(files ...string) error {
	for _, file := range files {
		if there, err := isThere(file); err != nil || there {
			return nil // reading it tells more
		}
	}
	_, err := os.Stat(filepath.Join(cfg.dir, "berth.db"))
	if err == nil {
		return nil
	}
	data := newDataDir(cfg.dirConfig)
	if inside := data.registryInside(); inside != "" {
		return fmt.Errorf("there is no registry in %s, but there is one in %s: --data %[2]s", data.whole(), inside)
	}
	if _, err := data.survey(); err != nil && !errors.As(err, new(strangersError)) {
		return err
	}
	return noRegistry(cfg.dir, err)
}

// runCommand runs a command on the store in cfg.dir.
func runCommand(ctx context.Context, cfg *config, stdout io.Writer) error {
	if err := cfg.refuseNowhere(); err != nil {
		return err
	}
	if cfg.Command == "backup" {
		if err := cfg.findDestination(); err != nil {
			return err
		}
	}
	cfg.Who = whoAsks()
	done, err := askServer(ctx, cfg, stdout)
	if done {
		return err
	}
	st, err := cfg.openForCommand()
	if err != nil {
		return err
	}
	return errors.Join(runOn(ctx, st, cfg.options, cfg.console(stdout)), st.close())
}

// openForCommand opens the store for a command, where no server has it.
func (cfg *config) openForCommand() (*store, error) {
	st, err := openStore(cfg.storeConfig)
	if err != nil {
		return nil, err
	}
	if err := recallFlags(st, cfg.given); err != nil {
		return nil, errors.Join(err, st.close())
	}
	st.promises.forget()
	st.events.publicURL = cfg.auth.publicURL
	host := newCommandHost(func() (*tagRules, error) { return readTagRules(st) })
	host.events = sync.OnceValues(func() (*listeners, error) { return readListeners(st.dir) }) // sent by the next server
	st.attend(host)
	return st, nil
}

// readTagRules reads the rules about tags where no server does.
func readTagRules(st *store) (*tagRules, error) {
	text, _, err := readFile(st.policyFile)
	if errors.Is(err, fs.ErrNotExist) && st.policyFile == filepath.Join(st.dir, policyFile) {
		return &tagRules{}, nil // no file was named, and there is none
	}
	if err == nil {
		var p *policy
		if p, err = parsePolicy(text); err == nil {
			return p.tags, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", st.policyFile, err)
}

// askServer has the server that owns the directory run the command. It reports
// false if there is none.
func askServer(ctx context.Context, cfg *config, stdout io.Writer) (done bool, err error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return atSocket(cfg.dir, func(path string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		})
	}
	body, err := json.Marshal(cfg.options)
	if err != nil {
		return true, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://berth/"+cfg.Command, bytes.NewReader(body))
	if err != nil {
		return true, err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DialContext: dial}}).Do(req)
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false, nil
	}
	if err != nil && ctx.Err() != nil {
		return true, errors.New("interrupted before the running server had answered")
	}
	if err != nil {
		return true, plainError{"the running server has ended, or is no Berth: it has not answered. Try again; if it still runs, restart it", err}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return true, fmt.Errorf("the running server refuses: %s", bytes.TrimSpace(text))
	}
	if _, err := io.Copy(stdout, resp.Body); err != nil {
		return true, plainError{"the server ended before the command did; its log says why", err}
	}
	if text := resp.Trailer.Get(trailerError); text != "" {
		return true, errors.New(text)
	}
	return true, nil
}

// whereCommand is no command of people's: it asks for the whereabouts.
const whereCommand = "where"

// askWhere asks the server that has the directory where clients reach it. It returns the
// zero value if there is none, or none that can be asked.
func askWhere(ctx context.Context, cfg *config) (w whereabouts) {
	ask := *cfg
	ask.options = options{Command: whereCommand}
	var answer bytes.Buffer
	if done, err := askServer(ctx, &ask, &answer); !done || err != nil || json.Unmarshal(answer.Bytes(), &w) != nil {
		return whereabouts{}
	}
	return w
}

// rereadCommand is no command of people's: it has the server look at the files of users and rules.
const rereadCommand = "reread"

// rereadWait is how long a command that has edited those files waits for the server to look.
const rereadWait = 5 * time.Second

// askReread has the server that has the directory, if there is one, look at the users and rules
// that were just edited, so that its log tells of them now. They are in force without it.
func askReread(ctx context.Context, cfg *config) {
	ctx, cancel := context.WithTimeout(ctx, rereadWait)
	defer cancel()
	ask := *cfg
	ask.options = options{Command: rereadCommand}
	askServer(ctx, &ask, io.Discard)
}

// trailerError tells how a command ended, after all it wrote.
const trailerError = "Berth-Error"

// serveCommands answers commands until ctx ends; running counts those under way.
// It returns a function that waits for them, but not for long. Without a socket
// (some file systems have none) the registry works all the same.
func serveCommands(ctx context.Context, st *store, running *atomic.Int64) (wait func()) {
	listener, err := atSocket(st.dir, func(path string) (net.Listener, error) {
		os.Remove(path) // of a process that died: the directory's lock is ours
		l, err := net.Listen("unix", path)
		if err == nil {
			if !foreign(st.dir) { // where it may be another's by now
				err = os.Chmod(path, 0o600)
			}
			if err != nil {
				l.Close()
			}
		}
		return l, err
	})
	if err != nil {
		if st.writer != nil {
			st.log.Warn("commands will not reach this server", "error", err)
		}
		return func() {}
	}
	local := newLocalServer(st, st.log).localHandler()
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/"+followCommand { // which does nothing, for days
				running.Add(1)
				defer running.Add(-1)
			}
			if ctx.Err() != nil {
				http.Error(w, "it is being stopped; try again in a moment", http.StatusServiceUnavailable)
				return
			}
			if strings.HasPrefix(r.URL.Path, "/v2/") {
				local.ServeHTTP(w, r)
				return
			}
			answerCommand(w, r, st)
		}),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	go server.Serve(listener) // until it is shut down
	return func() {
		deadline, cancel := context.WithTimeout(context.Background(), shutdownGrace)
		defer cancel()
		if server.Shutdown(deadline) != nil { // ctx has ended, so they end too
			server.Close()
		}
	}
}

// answerCommand runs one command and writes what it says.
func answerCommand(w http.ResponseWriter, r *http.Request, st *store) {
	var o options
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&o); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if o.Command == whereCommand {
		json.NewEncoder(w).Encode(st.host.whereabouts())
		return
	}
	if o.Command == rereadCommand {
		st.host.reread() // which logs what is wrong
		return
	}
	if o.Command == followCommand {
		w.Header().Set("Trailer", trailerError)
		if err := followEvents(r.Context(), st, o, o.console(flushWriter{w})); err != nil {
			w.Header().Set(trailerError, oneLine(err.Error()))
		}
		return
	}
	if c := findCommand(o.Command); c == nil || c.onStore == nil {
		http.Error(w, "it is another version of Berth, without the command "+o.Command+"; restart it with this one", http.StatusBadRequest)
		return
	}
	st.log.Info("command", "command", o.Command, "args", o.Args)
	w.Header().Set("Trailer", trailerError)
	err := runOn(r.Context(), st, o, o.console(flushWriter{w}))
	if err != nil {
		w.Header().Set(trailerError, oneLine(err.Error()))
	}
}

// A flushWriter sends what is written at once.
type flushWriter struct{ http.ResponseWriter }

func (w flushWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	if err == nil {
		err = http.NewResponseController(w.ResponseWriter).Flush()
	}
	return n, err
}

// atSocket calls fn with a path for the directory's socket that is short enough
// for a socket's address, of which 104 bytes is the least that systems allow.
func atSocket[T any](dir string, fn func(path string) (T, error)) (result T, err error) {
	path := filepath.Join(dir, "berth.sock")
	if len(path) <= 100 {
		return fn(path)
	}
	if runtime.GOOS != "linux" {
		return result, fmt.Errorf("the path %s is too long for a socket", path)
	}
	d, err := os.Open(dir)
	if err != nil {
		return result, err
	}
	defer d.Close()
	return fn(fmt.Sprintf("/proc/self/fd/%d/berth.sock", d.Fd()))
}
