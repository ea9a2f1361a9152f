// Commands: the table of them, and those on a data directory, whether or not a server has it.
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
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
)

// A command is one row of the table: all that Berth knows of `berth NAME`.
type command struct {
	name     string
	heading  string // of the usage, over this command and those that follow
	synopsis string // what follows the name; the usage shows it
	most     int    // how many arguments there may be
	flags    []flagDef

	// What it does is one of three. onStore works on an open store, in the server if
	// one runs. onFiles works on files of the data directory, as their owner. alone
	// needs no such owner.
	onStore        storeCommand
	onFiles, alone func(ctx context.Context, cfg *config, stdin io.Reader, stdout io.Writer) error

	// changes and deletes report whether it would, with these options; nil is never.
	// A registry that is read-only forbids both, one that does not delete the latter.
	changes, deletes func(options) bool

	about   string // for the usage
	more    string // for its own help: paragraphs
	example string // likewise: lines to type
}

// A storeCommand does a command's work on a store.
type storeCommand func(context.Context, *store, options, *console) error

func always(options) bool { return true }

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

// The functions of the table use the table: help prints it, and commands run others.
func init() {
	commands = []*command{
		{name: "serve", synopsis: "[FLAGS]", alone: serveCommand,
			about: "serve the registry in --data; so does berth without a command"},
		{name: "version", alone: versionCommand,
			about:   "which Berth this is",
			example: "berth version"},
		{name: "help", synopsis: "[COMMAND]", most: 1, alone: helpCommand,
			about:   "this text, or what one command does, its flags, and an example; berth COMMAND -h does the same",
			example: "berth help gc"},

		{name: "user", heading: "Who may do what (without users everybody may do everything):",
			synopsis: "add|passwd|remove NAME, or list [--json]", most: 2, flags: []flagDef{jsonFlag}, onFiles: userCommand,
			about: "people and their passwords; the first becomes the administrator",
			more: "The password is asked for, or it is the first line of standard input. The command edits the users' file " +
				"(--htpasswd); a running server reads it again.",
			example: "berth user add kim"},
		{name: "token", synopsis: "create [NAME] --repo PATTERNS --allow ACTIONS [--expires 90d], list, or revoke NAME", most: 2,
			flags: []flagDef{
				{"repo", "PATTERN,...", "", "the repositories it is for: names, or patterns as ci/*", func(c *config, _ *textFlags) any { return &c.Repo }},
				{"allow", "ACTION,...", "", "what it may do: " + strings.Join(actionNames, ", "), func(c *config, _ *textFlags) any { return &c.Allow }},
				{"expires", "TIME", "90d", "how long it is good", func(c *config, _ *textFlags) any { return &c.Expires }},
				jsonFlag,
			}, onStore: tokenCommand,
			about:   "a password for a machine",
			more:    "The text of a token is shown once, when it is made. The list has the last use of each.",
			example: "berth token create builder --repo 'ci/*' --allow push"},
		{name: "policy", synopsis: "check [WHO ACTION REPOSITORY]", most: 4, onFiles: policyCommand,
			about: "what the rules say, and why",
			more: "check prints the rules as Berth understands them. With WHO (a user, token:NAME or anonymous), ACTION (" +
				strings.Join(actionNames, ", ") + ") and REPOSITORY it says whether they may, and by which rule.",
			example: "berth policy check kim push home/app"},
		{name: "trust", synopsis: "[HOST[:PORT]] [--script]", most: 1,
			flags: []flagDef{{"script", "", "", "print a shell script that does it, for sudo sh", func(c *config, _ *textFlags) any { return &c.script }}},
			onFiles: func(_ context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
				return trustCommand(cfg.dir, cfg.addr, cfg.Args, cfg.script, stdout)
			},
			about:   "how other machines trust the CA of --tls=auto",
			example: "ssh pi.local 'berth trust pi.local --script --data /srv/berth' | sudo sh"},

		{name: "ls", heading: "On the registry in --data, with or without a server (--json for programs):",
			synopsis: "[NAME[:TAG]]", most: 1, flags: []flagDef{jsonFlag}, onStore: listCommand,
			about:   "the repositories; the tags of one, with platforms, sizes and times",
			example: "berth ls home/app"},
		{name: "tag", synopsis: "NAME:OLD NEW [--force]", most: 2, flags: []flagDef{forceFlag, jsonFlag}, onStore: tagCommand, changes: always,
			about:   "give an image another tag",
			more:    "The image is NAME:TAG or NAME@DIGEST.",
			example: "berth tag home/app:1.4 stable"},
		{name: "rm", synopsis: "NAME:TAG|NAME@DIGEST|NAME... [--force]", most: 100, flags: []flagDef{forceFlag, jsonFlag}, onStore: removeCommand, deletes: always,
			about:   "remove a tag, an image with its tags, a whole repository",
			more:    "berth log shows what was removed, and berth undo brings it back as long as --untagged-grace lasts.",
			example: "berth rm home/app:1.3"},
		{name: "log", synopsis: "[NAME[:TAG]] [--limit N]", most: 1,
			flags: []flagDef{
				{"limit", "N", "100", "how many changes to show, the last first; 0 is all", func(c *config, _ *textFlags) any { return &c.Limit }},
				jsonFlag,
			}, onStore: logCommand,
			about:   "what was done, by whom, when and from where",
			example: "berth log home/app:latest"},
		{name: "undo", synopsis: "CHANGE|NAME[:TAG] [--as NAME] [--force]", most: 1,
			flags: []flagDef{
				{"as", "NAME", "", "bring a deleted repository back under this name", func(c *config, _ *textFlags) any { return &c.As }},
				forceFlag, jsonFlag,
			}, onStore: undoCommand, deletes: always,
			about:   "put back what was before a change, or before the last one of an image",
			more:    "CHANGE is a number that berth log shows.",
			example: "berth undo home/app:latest"},
		{name: "retain", synopsis: "[NAME] [--explain]", most: 1,
			flags: []flagDef{
				{"explain", "", "", "drop nothing: only say what would go, why, and how much that frees", func(c *config, _ *textFlags) any { return &c.Explain }},
				jsonFlag,
			}, onStore: retainCommand, deletes: func(o options) bool { return !o.Explain },
			about:   "apply the rules of retention now",
			more:    "The rules stand in policy.toml, as [[retain]].",
			example: "berth retain --explain"},

		{name: "stats", heading: "Its size, its health, its copy:",
			synopsis: "[NAME]", most: 1, flags: []flagDef{jsonFlag}, onStore: statsCommand,
			about:   "how much is stored, and what of it is garbage",
			example: "berth stats"},
		{name: "uploads", flags: []flagDef{jsonFlag}, onStore: uploadsCommand,
			about:   "the open uploads: whose, how large, how long idle",
			example: "berth uploads"},
		{name: "gc", synopsis: "[--now] [--dry-run]",
			flags: []flagDef{
				{"now", "", "", "also what is still in its grace, and uploads that no request has continued for 10 s", func(c *config, _ *textFlags) any { return &c.Now }},
				{"dry-run", "", "", "remove nothing: only say what would go, and why", func(c *config, _ *textFlags) any { return &c.DryRun }},
				jsonFlag,
			}, onStore: gcCommand, changes: func(o options) bool { return !o.DryRun },
			about:   "remove the garbage that is due",
			more:    "A server does the same by itself, when the time comes.",
			example: "berth gc --now --dry-run"},
		{name: "check", synopsis: "[--deep]", flags: []flagDef{deepFlag, jsonFlag}, onStore: checkCommand,
			about:   "verify what is stored",
			more:    "Without --deep everything but the bytes of the blobs. It changes nothing, and fails when something is wrong.",
			example: "berth check --deep"},
		{name: "repair", synopsis: "[--deep]", flags: []flagDef{deepFlag, jsonFlag}, onStore: repairCommand,
			about:   "put in order what check finds, and say what to push again",
			example: "berth repair"},
		{name: "backup", synopsis: "DEST", most: 1, flags: []flagDef{jsonFlag}, onStore: backupCommand,
			about:   "copy it to the directory DEST, which is then a registry; the second time, only what is new",
			more:    "If a server runs, it writes DEST, as its own user.",
			example: "berth backup /mnt/usb/berth"},

		{name: "restore", heading: "When the server does not start, because berth.db is missing or damaged:",
			onFiles: func(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
				return restore(ctx, cfg, stdout)
			},
			about:   "go back to the newest snapshot of it, and say what is lost",
			example: "berth restore --data /srv/berth"},
	}
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
	Force   bool
	Limit   int
	As      string
	Who     string // the account
	TTY     bool   // a person watches
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
	return c.onStore(ctx, st, o, out)
}

// runCommand runs a command on the store in cfg.dir.
func runCommand(ctx context.Context, cfg *config, stdout io.Writer) error {
	if f, ok := stdout.(*os.File); ok {
		info, err := f.Stat()
		cfg.TTY = err == nil && info.Mode()&fs.ModeCharDevice != 0
	}
	if _, err := os.Stat(filepath.Join(cfg.dir, "berth.db")); err != nil {
		return fmt.Errorf("no registry there: %w", err)
	}
	if account, err := user.Current(); err == nil {
		cfg.Who = account.Username
	}
	done, err := askServer(ctx, cfg, stdout)
	if done {
		return err
	}
	st, err := openStore(cfg.storeConfig)
	if err != nil {
		return err
	}
	if err := st.recallFlags(cfg.given); err != nil {
		return errors.Join(err, st.close())
	}
	st.promises.forget()
	st.attend(newCommandHost(func() (*tagRules, error) { return readTagRules(st) }))
	out := newConsole(stdout, cfg.TTY)
	out.quiet = cfg.JSON
	return errors.Join(runOn(ctx, st, cfg.options, out), st.close())
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
	if err != nil {
		return true, fmt.Errorf("asking the server: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return true, fmt.Errorf("the server that runs says: %s", bytes.TrimSpace(text))
	}
	if _, err := io.Copy(stdout, resp.Body); err != nil {
		return true, fmt.Errorf("the server has gone: %w", err)
	}
	if text := resp.Trailer.Get(trailerError); text != "" {
		return true, errors.New(text)
	}
	return true, nil
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
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Add(-1)
			if ctx.Err() != nil {
				http.Error(w, "it is stopping", http.StatusServiceUnavailable)
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
	if c := findCommand(o.Command); c == nil || c.onStore == nil {
		http.Error(w, "unknown command "+o.Command+": it runs another version", http.StatusBadRequest)
		return
	}
	st.log.Info("command", "command", o.Command, "args", o.Args)
	w.Header().Set("Trailer", trailerError)
	out := newConsole(flushWriter{w}, o.TTY)
	out.quiet = o.JSON
	err := runOn(r.Context(), st, o, out)
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
