// Berth is a container registry in one file: one static binary, metadata in SQLite, blobs as
// files under a data directory. It speaks the OCI distribution specification 1.1 and the Docker
// Registry HTTP API V2.
//
// Usage:
//
//	berth [flags]                serve the registry; ./data on port 5000 without flags
//	berth COMMAND [flags] [args] do something with it; berth -h lists the commands
//
// # How the source is read
//
// The package is flat. A file is one capability and opens with its story. The prefix of its name is
// its wing, whose head has the bare name; a wing leans on those above it in this list:
//
//	os_* files budget log watched   the system, files, memory, the log
//	manifest                        manifests, names, digests: parsed, no I/O
//	store store_*                   the data directory, the database, blobs and manifests
//	tag_* history*                  tags: rules, platforms, retention; what was done, and undo
//	upload upload_*                 an upload's life, from POST to blob
//	gc gc_*                         what nothing refers to, and its removal
//	check check_*                   are the invariants kept; scrubbing and repair
//	backup backup_*                 copies, snapshots, the way back
//	auth auth_*                     who is asking, and may they
//	tls tls_*                       certificates, and how clients trust them
//	events events_*                 what has happened, for programs that wait for it
//	handlers handlers_* metrics     the table of routes, and everything that speaks HTTP
//	client client_*                 other registries, asked over HTTP
//	image                           Berth's own image, of its binaries
//	bundle bundle_*                 images as files: layouts, archives
//	cmd cmd_*                       commands, with a server or without
//	doctor doctor_*                 why it does not work, seen from a client or on the server
//	main                            usage, configuration, the server's start and end
//
// To understand Berth, read in this order: the invariants at the head of store.go; routes in
// handlers.go; putUpload in upload.go down to commitBlob in store_blob.go; putManifest in
// store_push.go; the head of gc.go. That is how bytes come in, why they stay, and when they go.
// ARCHITECTURE.md has the same step by step, the words, and where to change what.
//
// Most functions are methods of a few types. A server answers requests from a store. A store has
// the rules of what is stored, and is a dataDir (paths, locks, syncs) and a database (one writer,
// many readers). A tx is a write transaction, and what must be true together is written in one.
// Other parts of the store (the collector, the uploads, the snapshots) have a type each.
package main

// Flags and environment, the server's start and end. The registry itself begins in handlers.go.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	runtime.MemProfileRate = 0 // nobody looks, and the tables take half a MiB
	keepToOneself()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	code, tell := exitCode(err)
	if tell {
		tellPerson(os.Stderr, os.Environ(), err)
	}
	os.Exit(code)
}

// config is what flags and environment say.
type config struct {
	addr string
	storeConfig
	serverConfig
	tls        tlsOptions
	log        *slog.Logger
	jsonLog    bool            // and nothing else is written, by a server
	given      map[string]bool // flags that were set, by name
	ignored    []string        // variables that are for registry:2
	byEnv      map[string]bool // those of them that only a variable has set
	script     bool            // trust prints a script
	typed      []string        // all that followed the command's name
	container  bool            // this is one, with a network of its own
	became     string          // what root did to work on the directory; "" for nothing
	editing    string          // the users' file, by `berth user`
	remote     remoteOptions
	env        environment // of this process
	doctor     doctorFlags
	bundle     bundleFlags
	service    serviceManager
	handedOver bool // the socket for clients is the service manager's
	options
}

// run is the program. It returns when it has done what args say, or when ctx
// ends and the server has stopped. Logs go to stderr, everything else to stdout;
// passwords come from stdin. Its error is in words for people, and exitCode knows what
// the program ends with.
func run(ctx context.Context, args []string, env environment, stdin io.Reader, stdout, stderr io.Writer) error {
	name := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	} else if len(args) > 0 && wantsHelp(args[:1]) {
		name, args = "help", args[1:]
	} else if len(args) > 0 && (args[0] == "-v" || strings.TrimLeft(args[0], "-") == "version") {
		name, args = "version", args[1:]
	}
	c := findCommand(name)
	if c == nil {
		return unknownCommand(name)
	}
	if wantsHelp(args) {
		return c.help(stdout)
	}
	if c.alone != nil && name != "serve" && c.onStore == nil {
		env = nil // whatever is wrong there, help is to be had
	}
	cfg, err := parseConfig(name, args, env, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return c.help(stdout)
	}
	if err == nil {
		err = env.refuseUnknown()
	}
	if err == nil {
		err = c.checkArguments(cfg)
	}
	if err == nil {
		cfg.watch(stdout, env)
		err = plainly(cfg.withPermission(c.work(ctx, cfg, stdin, stdout)))
	}
	if err != nil && name == "serve" && wantsJSON(args, env) {
		newLogger(stderr, logForm{true, env.isJournal(stderr)}, slog.LevelInfo).Error("the server ends", "error", err)
		return errors.Join(errLogged, err)
	}
	return err
}

// work does what a command with good arguments says.
func (c *command) work(ctx context.Context, cfg *config, stdin io.Reader, stdout io.Writer) (err error) {
	if c.alone != nil {
		return c.alone(ctx, cfg, stdin, stdout)
	}
	if c.asClient != nil {
		return c.asClient(ctx, cfg, stdin, stdout)
	}
	if cfg.elsewhere() {
		return c.onFiles(ctx, cfg, stdin, stdout)
	}
	if _, err := lookForDirectory(cfg.dir); err != nil && !errors.Is(err, fs.ErrPermission) { // root becomes its owner
		return err
	}
	if err := cfg.becomeOwner(); err != nil {
		return err
	}
	if !cfg.given["data"] {
		cfg.Usual = newDataDir(cfg.dirConfig).whole()
	}
	if c.onFiles != nil {
		err = cfg.withPlace(c.onFiles(ctx, cfg, stdin, stdout))
	} else {
		err = runCommand(ctx, cfg, stdout)
	}
	return err
}

// wantsJSON reports whether a server's log is to be JSON, also where the flags as a
// whole cannot be read: who reads the log wants no other line in it.
func wantsJSON(args []string, env environment) bool {
	format, _ := env.lookup("BERTH_LOG_FORMAT")
	for i, arg := range args {
		if name, value, ok := strings.Cut(strings.TrimLeft(arg, "-"), "="); name == "log-format" && ok {
			format = value
		} else if name == "log-format" && i+1 < len(args) {
			format = args[i+1]
		}
	}
	return format == "json"
}

// parseConfig reads the flags of a command, which there is, and the environment for
// those not given. Flags and arguments may come in any order.
func parseConfig(command string, args []string, env environment, stderr io.Writer) (*config, error) {
	cfg := &config{typed: args, env: env, service: env.serviceManager(), ignored: env.ofDistribution(), container: command == "serve" && inContainer(env, os.DirFS("/"))}
	cfg.Command = command
	var text textFlags
	flags := newFlags(command, cfg, &text)
	cfg.given, cfg.byEnv = make(map[string]bool), make(map[string]bool)
	var bad error
	flags.VisitAll(func(f *flag.Flag) {
		key := variableOf(f.Name)
		if value, ok := env.lookup(key); ok && value != "" {
			if err := flags.Set(f.Name, value); err != nil && bad == nil {
				bad = usageErrorf("%s: %w", key, err)
			}
			cfg.byEnv[f.Name] = true
		}
	})
	if bad != nil {
		return nil, bad
	}
	var err error
	if cfg.Args, err = parseArguments(command, flags, args, func(name string) { delete(cfg.byEnv, name) }); err != nil {
		return nil, err
	}
	flags.Visit(func(f *flag.Flag) { cfg.given[f.Name] = true })
	if err := cfg.read(&text); err != nil {
		return nil, asUsage(cfg.asGiven(err))
	}
	cfg.auth.glance = defaultGlance
	all, _ := memory()
	cfg.budget = budgetFor(all).within(fileLimit())
	cfg.jsonLog = text.format == "json"
	cfg.level = &logLevel{usual: text.level}
	cfg.level.Set(text.level)
	cfg.log = newLogger(stderr, logForm{cfg.jsonLog, env.isJournal(stderr)}, cfg.level)
	if command != "serve" && !cfg.given["log-level"] && isTerminal(stderr) {
		cfg.log = newPersonalLog(stderr, cfg.jsonLog)
	}
	cfg.storeConfig.log, cfg.serverConfig.log, cfg.tls.log = cfg.log, cfg.log, cfg.log
	return cfg, nil
}

// read checks flags, and works out those that are text.
func (cfg *config) read(text *textFlags) error {
	if cfg.Command == "backup" && len(cfg.Args) > 0 && cfg.Args[0] != "" {
		// A server has another working directory.
		dest, err := filepath.Abs(cfg.Args[0])
		if err != nil {
			return err
		}
		cfg.Args[0] = dest
	}
	if cfg.dir == "" {
		return errors.New("--data is empty (perhaps by a variable that is not set): name a directory")
	}
	cfg.stallTimeout = stallTimeout(text.stall)
	err := checkAddress("addr", cfg.addr)
	if err == nil && cfg.tls.httpAddr != "" {
		err = checkAddress("http-addr", cfg.tls.httpAddr)
	}
	if err != nil {
		return err
	}
	if cfg.maxBlob, err = parseSize(text.maxBlob); err != nil {
		return fmt.Errorf("--max-blob-size: %w", err)
	}
	if cfg.scrubRate, err = parseSize(text.scrubRate); err != nil {
		return fmt.Errorf("--scrub-rate: %w", err)
	}
	cfg.minFree = -1
	if text.minFree != "" {
		if cfg.minFree, err = parseSize(text.minFree); err != nil {
			return fmt.Errorf("--min-free: %w", err)
		}
	}
	if err := cfg.readAccess(text); err != nil {
		return err
	}
	if text.sync != "blob" && text.sync != "image" {
		return fmt.Errorf("--sync: say blob or image, not %q", text.sync)
	}
	cfg.syncImages = text.sync == "image"
	if text.format != "text" && text.format != "json" {
		return fmt.Errorf("--log-format: say text or json, not %q", text.format)
	}
	return nil
}

// readAccess is read for who may do what, and by which way.
func (cfg *config) readAccess(text *textFlags) (err error) {
	for name, file := range map[string]string{"htpasswd": cfg.auth.usersFile, "policy": cfg.auth.policyFile, "client-ca": cfg.tls.clientCA} {
		if cfg.given[name] && file == "" { // a variable that is not set, say
			return fmt.Errorf("--%s: name a file", name)
		}
	}
	if cfg.auth.proxies, err = parseProxies(text.proxies); err != nil {
		return fmt.Errorf("--trusted-proxies: %w", err)
	}
	if cfg.auth.pages, err = parsePages(text.pages); err != nil {
		return fmt.Errorf("--cors-origins: %w", err)
	}
	if cfg.auth.publicURL, err = parsePublicURL(cfg.auth.publicURL); err != nil {
		return fmt.Errorf("--public-url: %w", err)
	}
	cfg.named = []string{cfg.auth.usersFile, cfg.auth.policyFile, cfg.tls.certFile, cfg.tls.keyFile, cfg.tls.clientCA}
	cfg.usersFile, cfg.policyFile = cfg.auth.usersPath(cfg.dir), cfg.auth.policyPath(cfg.dir)
	if cfg.tls.names, err = parseNames(splitList(text.names)); err != nil {
		return err
	}
	cfg.auth.names = cfg.tls.names
	cfg.tls.proxied = cfg.auth.proxies != nil || cfg.auth.publicURL != ""
	return cfg.chooseTLS()
}

// chooseTLS works out from the flags where certificates come from.
func (cfg *config) chooseTLS() error {
	files := cfg.tls.certFile != "" || cfg.tls.keyFile != ""
	switch mode := cfg.tls.mode; {
	case mode == "auto" || mode == "acme":
		if files {
			return fmt.Errorf("--tls=%s makes its own certificates: leave out --tls-cert and --tls-key, or --tls", mode)
		}
	case mode != "off":
		return fmt.Errorf("--tls: say auto, acme or off, not %q", mode)
	case files && cfg.given["tls"]:
		return errors.New("--tls=off contradicts --tls-cert and --tls-key: leave out one or the other")
	case files:
		cfg.tls.mode = "files"
	default:
		cfg.tls.mode = ""
	}
	cfg.tls.dir = cfg.dir
	cfg.auth.byCertificate = cfg.tls.clientCA != ""
	return nil
}

// parseSize reads a number of bytes with an optional unit: KiB, MiB, GiB, TiB,
// or KB, MB, GB, TB for powers of a thousand.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "kKMGTiB")
	units := map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
		"KB": 1e3, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
	unit, ok := units[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !ok || n < 0 || n > (1<<63-1)/unit {
		return 0, fmt.Errorf("%q is not a size; use for example 500MiB or 10GiB", s)
	}
	return n * unit, nil
}

// shutdownGrace is how long requests may go on after a signal.
const shutdownGrace = 10 * time.Second

// firstRequestGrace is how long connections may take to their first request after a signal. As a rule it is on
// its way; a client that has connected in advance may never send one.
const firstRequestGrace = 5 * time.Second

// headerTimeout is how long a client may take for a request's header, however
// busily it drips.
const headerTimeout = 10 * time.Second

// maxHeader bounds a request's header, in bytes: a token may have maxToken.
const maxHeader = 64 << 10

// maxStreams bounds the requests of one connection over HTTP/2. RFC 9113, section 6.5.2,
// recommends 100, but for each one the connection would count for more (overTwo). Clients of
// registries have a few at once, and wait with others, or connect again.
const maxStreams = 32

// serveCommand is `berth serve`, and berth without a command.
func serveCommand(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	return serve(ctx, cfg, stdout)
}

// serve runs the registry until ctx ends.
func serve(ctx context.Context, cfg *config, stdout io.Writer) error {
	cfg.budget.apply()
	started := cfg.service.starting()
	s, listener, err := cfg.start()
	started()
	if err != nil {
		return err
	}
	st := s.st
	cfg.warn(st)
	var background sync.WaitGroup
	backgroundCtx, stopBackground := context.WithCancel(context.Background())
	for _, loop := range st.loops() {
		background.Go(func() { loop(backgroundCtx) })
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // which would end the process
	defer signal.Stop(hangups)
	background.Go(func() {
		keepRunning(backgroundCtx, cfg.log, "rereader", func(ctx context.Context) { s.rereader(ctx, hangups, cfg.service) })
	})
	background.Go(func() { s.sender.run(backgroundCtx) })
	s.gate.announce()
	s.address = listener.Addr().String()
	waitForCommands := serveCommands(backgroundCtx, st, &s.inFlight)
	status := s.greet(cfg, listener.Addr(), stdout)
	if cfg.service.watchdog > 0 && cfg.service.socket != "" {
		background.Go(func() {
			keepRunning(backgroundCtx, cfg.log, "watchdog", func(ctx context.Context) {
				ticks := time.NewTicker(cfg.service.watchdog / 2)
				defer ticks.Stop()
				cfg.service.watch(ctx, cfg.log, ticks.C, probes{s}.answersItself)
			})
		})
	}
	cfg.service.ready(cfg.log, status) // connections have been waiting since the start
	context.AfterFunc(ctx, func() { cfg.service.tell("STOPPING=1", "STATUS=Finishing the requests under way") })

	err = s.answer(ctx, listener)
	stopBackground()
	waitForCommands()
	ended := make(chan struct{})
	go func() { background.Wait(); close(ended) }()
	idle := s.wait(5 * time.Second)
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		idle = false
	}
	if !idle {
		// A crash would do no more, and loses nothing.
		cfg.log.Warn("some work has not ended in time; stopping without a checkpoint")
		return err
	}
	if err = errors.Join(err, st.close()); err == nil {
		cfg.log.Info("stopped")
	}
	return err
}

// warn says in the log what may be other than it was meant.
func (cfg *config) warn(st *store) {
	if foreign(cfg.dir) {
		cfg.log.Warn("root serves somebody else's directory, whose owner can use links in it to make root write elsewhere; start berth as that user, or make the directory belong to root", "data", cfg.dir)
	}
	if cfg.ignored != nil {
		if lost := cfg.env.losses(cfg.ignored); lost != nil {
			cfg.log.Warn("registry:2 did something by these variables that Berth does not do by them: a mirror, storage elsewhere, notifications (here events.toml), tokens or a cache of others; docs/migrate.md has what there is instead",
				"variables", strings.Join(lost, ", "))
		}
		cfg.log.Warn("Berth does not read the variables of registry:2; docs/migrate.md has what to use instead", "variables", strings.Join(cfg.ignored, ", "))
	}
	if st.writer == nil {
		cfg.log.Warn("the disk is read-only: pulls work, pushes and deletes do not", "data", cfg.dir)
	}
}

// greet says that the registry serves, and returns what systemd is told of it.
func (s *server) greet(cfg *config, address net.Addr, stdout io.Writer) (status string) {
	status = "Serving"
	if greeting, err := newGreeting(s, cfg, address); err != nil {
		cfg.log.Error("the registry serves, and what it has cannot be counted", "error", err)
	} else {
		status = greeting.status()
		if cfg.jsonLog {
			greeting.log(cfg.log)
		} else {
			greeting.write(stdout)
		}
	}
	return status
}

// answer takes requests until ctx ends, and finishes those under way.
func (s *server) answer(ctx context.Context, listener net.Listener) error {
	headerTimeout := headerTimeout
	if s.stallTimeout > 0 {
		headerTimeout = min(headerTimeout, time.Duration(s.stallTimeout))
	}
	open := &connections{most: max(s.st.budget.connections, 1), two: s.st.budget.overTwo(), wait: headerTimeout, log: s.log}
	s.connections.Store(open)
	server := &http.Server{
		Handler:           forgetful(s.handler()),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       2 * time.Minute,
		WriteTimeout:      time.Duration(s.stallTimeout), // begins anew with every write
		MaxHeaderBytes:    maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerConnection: s.st.budget.window,
			MaxReceiveBufferPerStream:     s.st.budget.window,
		},
		ConnState:   open.state,
		ConnContext: open.context,
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	go debug.FreeOSMemory() // what only the start took
	served := make(chan error, 1)
	listener = open.listen(listener)
	if s.certificates != nil && s.certificates.open != nil {
		s.certificates.open = open.listen(s.certificates.open)
	}
	go func() {
		if s.certificates != nil {
			served <- s.certificates.serve(server, listener)
		} else {
			served <- server.Serve(listener)
		}
	}()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	s.log.Info("stopping", "grace", shutdownGrace)
	close(s.waiting.stopping)
	deadline, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	server.SetKeepAlivesEnabled(false)
	first, stop := context.WithTimeout(deadline, firstRequestGrace)
	open.drain(first)
	stop()
	if err := server.Shutdown(deadline); errors.Is(err, context.DeadlineExceeded) { // others are of listeners, closed already
		s.log.Warn("closing connections that did not end")
		server.Close()
	}
	<-served
	return nil
}

// rereader looks at the files that people edit with each hangup, as of `systemctl
// reload` or a terminal that is closed, until ctx ends. An edit holds without it, too,
// as soon as a request comes; this tells at once whether it is good.
func (s *server) rereader(ctx context.Context, hangups <-chan os.Signal, service serviceManager) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		service.reread(func() {
			if err := errors.Join(s.gate.reread(), s.certificates.problem(), s.sender.endpoints.problem()); err != nil {
				s.log.Error("files cannot be used; what they said before stays in force", "error", err)
			} else {
				s.log.Info("users, rules, logins, certificates and the endpoints of events are read again if they have changed; everything else needs a restart")
			}
		})
	}
}

// wait returns true when no request is under way any more, false after d.
func (s *server) wait(d time.Duration) bool {
	for deadline := time.Now().Add(d); s.inFlight.Load() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// elsewhere reports whether a command is about a registry on another machine.
func (cfg *config) elsewhere() bool { return cfg.Command == "doctor" && len(cfg.Args) > 0 }
