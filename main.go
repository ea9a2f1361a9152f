// Berth is a container registry in one file.
//
// Flags and environment, the server's start and end, and the subcommands. The
// registry itself begins in handlers.go.

package main

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
	"slices"
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
	if err := run(ctx, os.Args[1:], os.LookupEnv, os.Stdin, os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, errLogged) {
			fmt.Fprintln(os.Stderr, "berth:", err)
		}
		os.Exit(1)
	}
}

const usage = `Berth: a container registry in one file.

  berth                                  serve ./data on port 5000
  berth --addr 127.0.0.1:8080            on another address
  berth --data /srv/berth                from another directory
  berth version

  docker tag alpine localhost:5000/alpine
  docker push localhost:5000/alpine

Who may do what (without users everybody may do everything):

  berth user add NAME                    the first is the administrator; also passwd, remove, list
  berth token create NAME --repo 'ci/*' --allow push [--expires 90d]
                                         a password for a machine; also list, revoke NAME
  berth policy check [WHO ACTION REPOSITORY]
                                         what the rules say, and why
  berth trust [HOST[:PORT]] [--script]   how other machines trust the CA of --tls=auto

On the registry in --data, whether it is being served or not (with --json for programs):

  berth ls [NAME[:TAG]]                  what is there; the tags of a repository
  berth tag NAME:OLD NEW                 give an image another tag
  berth rm NAME:TAG|NAME@DIGEST|NAME...  remove a tag, an image, a whole repository
  berth log [NAME[:TAG]] [--limit N]     what was done, by whom, when and from where; 0 is
                                         all (default 100)
  berth undo CHANGE|NAME[:TAG] [--as NAME]
                                         put back what was before it
  berth retain [NAME] [--explain]        apply the rules of retention now; only say what and why
                                         (tag, rm and undo obey the rules about tags, but
                                         with --force)

  berth stats [NAME]                     how much is stored, and what of it is garbage
  berth uploads                          those that are open: whose, how large, how long idle
  berth gc [--now] [--dry-run]           remove what is due; what is not due, and uploads that are idle,
                                         too; only say what and why
  berth check [--deep]                   verify what is stored; read every byte of it too
  berth repair [--deep]                  put in order what check finds
  berth backup DEST                      copy it to DEST, which is then a registry; again, only what is new

When the server does not start, because berth.db is missing or damaged:

  berth restore                          go back to the newest snapshot of it, and say what is lost

Each flag is also an environment variable: --data is BERTH_DATA, --no-delete is
BERTH_NO_DELETE=true. A flag wins over the environment.

Where
  --addr ADDR             listen on this address and port (default :5000)
  --data DIR              keep everything in this directory (default data)

Who may do what
  --htpasswd FILE         users and bcrypt hashes, as of htpasswd -B (default
                          htpasswd in the data directory, if it is there)
  --policy FILE           rules about people and tags (default policy.toml in the
                          data directory, if it is there; without rules about
                          people users may do everything)
  --anonymous-pull        everybody may pull
  --open                  start although there were users and their file has gone:
                          everybody may do everything; say it once

TLS
  --tls MODE              auto: make a local CA and certificates by it
                          acme: fetch them from Let's Encrypt or the like, which
                          is to accept its terms
                          off: plain HTTP (default)
  --tls-name NAME,...     further host names and addresses of this registry; with
                          acme those to get a certificate for
  --tls-cert FILE, --tls-key FILE
                          a certificate of your own; read again when it changes
  --client-ca FILE        believe client certificates signed by these CAs: the
                          subject is the user
  --acme-email ADDR, --acme-directory URL
                          for the CA's mail, and which CA (default Let's Encrypt)
  --http-addr ADDR        with TLS, listen here for plain HTTP too, for ACME,
                          /trust, and to send browsers on

Behind a proxy
  --trusted-proxies ADDR,...
                          addresses or networks whose X-Forwarded headers (or
                          Forwarded) are true
  --public-url URL        what clients call this registry, as https://hub.example.org
                          (default what they say)

What clients may do
  --cors-origins URL,...  pages of other sites that may show this registry, as
                          https://ui.example.org; * is all pages, for what everybody
                          may read
  --read-only             refuse pushes and deletes, also by commands and rules;
                          nothing is collected
  --no-delete             refuse deletes, also by commands and rules; what nothing
                          refers to is still collected
  --sparse-manifests      take manifests and indexes whose content is not all here

How long things stay, counted in the time the registry runs
  --grace DURATION        a blob that no manifest refers to (default 24h)
  --untagged-grace DURATION
                          a manifest without tag, index or subject, and what was
                          deleted and can be restored; 0 keeps the former for
                          ever, the latter for 168h (default 168h)
  --upload-expiry DURATION
                          an upload that nobody continues (default 24h)

Limits (what is more waits for some seconds before it is refused)
  --max-uploads N         open uploads; nobody may have more than are left for
                          others; 0 is no limit (default 10000)
  --max-concurrent-uploads N
                          uploads whose bytes are arriving; 0 is no limit
                          (default 0)
  --rate-limit N          requests a second of one address, ten times as many at
                          once; 0 is no limit (default 0)
  --max-blob-size SIZE    bytes in one blob, as 500MiB or 10GiB; 0 is no limit
                          (default 0)
  --min-free SIZE         refuse pushes that would leave less of the disk; 0 is no
                          limit (default a hundredth of the disk, at least
                          16MiB or a twentieth, at most 1GiB)
  --stall-timeout DURATION
                          drop a client when no byte moves for so long
                          (default 1m)

Reading again all that is stored, to find what rots
  --scrub-every DURATION  how often, in the time the registry runs; 0 is never
                          (default 720h)
  --scrub-rate SIZE       bytes a second, while there are no requests; 0 is no
                          limit (default 10MiB)

Logs, to the standard error
  --log-level LEVEL       debug, info, warn or error (default info)
  --log-format FORMAT     text or json (default text)

GET /metrics has metrics for Prometheus, /healthz and /readyz are for probes.
`

// config is what flags and environment say.
type config struct {
	addr string
	storeConfig
	serverConfig
	tls     tlsOptions
	log     *slog.Logger
	jsonLog bool            // and nothing else is written, by a server
	given   map[string]bool // flags that were set, by name
	script  bool            // trust shall print a script
	became  string          // what root did to work on the directory; "" for nothing
	options
}

// run is the program. It returns when it has done what args say, or when ctx
// ends and the server has stopped. Logs go to stderr, everything else to stdout;
// passwords come from stdin.
func run(ctx context.Context, args []string, env func(string) (string, bool), stdin io.Reader, stdout, stderr io.Writer) error {
	command := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	cfg, err := parseConfig(command, args, env, stderr)
	if errors.Is(err, flag.ErrHelp) || err == nil && command == "help" {
		_, err := io.WriteString(stdout, usage)
		return err
	}
	if err == nil && command == "serve" {
		err = serve(ctx, cfg, stdout)
	}
	if err != nil && command == "serve" && wantsJSON(args, env) {
		newLog(stderr, true, slog.LevelInfo).Error("the server ends", "error", err)
		return errLogged
	}
	if err != nil || command == "serve" {
		return err
	}
	switch command {
	case "version":
		_, err := fmt.Fprintln(stdout, "berth", version())
		return err
	}
	if err := cfg.becomeOwner(); err != nil {
		return err
	}
	switch command {
	case "restore":
		err = restore(ctx, cfg, stdout)
	case "user":
		err = userCommand(ctx, cfg, stdin, stdout)
	case "policy":
		err = policyCommand(ctx, cfg, stdout)
	case "trust":
		err = trustCommand(cfg.dir, cfg.addr, cfg.Args, cfg.script, stdout)
	default:
		err = runCommand(ctx, cfg, stdout)
	}
	if cfg.became != "" && errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w (%s)", err, cfg.became)
	}
	return err
}

// errLogged is the end of a server that has written why to its log.
var errLogged = errors.New("the log has it")

// wantsJSON reports whether a server's log is to be JSON, also where the flags as a
// whole cannot be read: who reads the log wants no other line in it.
func wantsJSON(args []string, env func(string) (string, bool)) bool {
	format, _ := env("BERTH_LOG_FORMAT")
	for i, arg := range args {
		if name, value, ok := strings.Cut(strings.TrimLeft(arg, "-"), "="); name == "log-format" && ok {
			format = value
		} else if name == "log-format" && i+1 < len(args) {
			format = args[i+1]
		}
	}
	return format == "json"
}

// maxArgs is how many arguments a command takes, and so which commands are.
var maxArgs = map[string]int{"serve": 0, "version": 0, "help": 0, "check": 0, "repair": 0, "gc": 0, "log": 1, "ls": 1, "retain": 1, "rm": 100, "stats": 1, "tag": 2, "undo": 1, "uploads": 0, "backup": 1, "restore": 0,
	"user": 2, "policy": 4, "token": 2, "trust": 1}

// textFlags are flags that mean something else than what they are.
type textFlags struct {
	level     slog.Level
	format    string
	maxBlob   string
	minFree   string
	scrubRate string
	stall     time.Duration
	proxies   string
	pages     string
	names     string
}

// newFlags defines every flag; the usage text describes them. Those of the
// server hold for a command that opens the store itself.
func newFlags(command string, cfg *config, text *textFlags) *flag.FlagSet {
	flags := flag.NewFlagSet("berth", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error, and the usage for -h
	flags.StringVar(&cfg.addr, "addr", ":5000", "")
	flags.StringVar(&cfg.dir, "data", "data", "")
	flags.BoolVar(&cfg.readOnly, "read-only", false, "")
	flags.BoolVar(&cfg.noDelete, "no-delete", false, "")
	flags.BoolVar(&cfg.sparse, "sparse-manifests", false, "")
	flags.DurationVar(&cfg.grace, "grace", 24*time.Hour, "")
	flags.DurationVar(&cfg.untaggedGrace, "untagged-grace", defaultUntaggedGrace, "")
	flags.DurationVar(&cfg.uploadExpiry, "upload-expiry", 24*time.Hour, "")
	flags.Int64Var(&cfg.maxUploads, "max-uploads", 10000, "")
	flags.StringVar(&text.maxBlob, "max-blob-size", "0", "")
	flags.StringVar(&text.minFree, "min-free", "", "")
	flags.DurationVar(&cfg.scrubEvery, "scrub-every", 30*24*time.Hour, "")
	flags.StringVar(&text.scrubRate, "scrub-rate", "10MiB", "")
	flags.DurationVar(&text.stall, "stall-timeout", time.Minute, "")
	flags.StringVar(&cfg.auth.usersFile, "htpasswd", "", "")
	flags.StringVar(&cfg.auth.policyFile, "policy", "", "")
	flags.BoolVar(&cfg.auth.open, "open", false, "")
	flags.BoolVar(&cfg.auth.anonymousPull, "anonymous-pull", false, "")
	flags.StringVar(&cfg.tls.mode, "tls", "off", "")
	flags.StringVar(&text.names, "tls-name", "", "")
	flags.StringVar(&cfg.tls.certFile, "tls-cert", "", "")
	flags.StringVar(&cfg.tls.keyFile, "tls-key", "", "")
	flags.StringVar(&cfg.tls.clientCA, "client-ca", "", "")
	flags.StringVar(&cfg.tls.acmeEmail, "acme-email", "", "")
	flags.StringVar(&cfg.tls.acmeDirectory, "acme-directory", "", "")
	flags.StringVar(&cfg.tls.httpAddr, "http-addr", "", "")
	flags.StringVar(&cfg.auth.publicURL, "public-url", "", "")
	flags.StringVar(&text.proxies, "trusted-proxies", "", "")
	flags.StringVar(&text.pages, "cors-origins", "", "")
	flags.IntVar(&cfg.auth.perSecond, "rate-limit", 0, "")
	flags.Int64Var(&cfg.maxArriving, "max-concurrent-uploads", 0, "")
	flags.TextVar(&text.level, "log-level", slog.LevelInfo, "")
	flags.StringVar(&text.format, "log-format", "text", "")
	switch command {
	case "check", "repair":
		flags.BoolVar(&cfg.Deep, "deep", false, "")
		flags.BoolVar(&cfg.JSON, "json", false, "")
	case "gc":
		flags.BoolVar(&cfg.Now, "now", false, "")
		flags.BoolVar(&cfg.DryRun, "dry-run", false, "")
		flags.BoolVar(&cfg.JSON, "json", false, "")
	case "log":
		flags.IntVar(&cfg.Limit, "limit", 100, "")
		flags.BoolVar(&cfg.JSON, "json", false, "")
	case "backup", "ls", "stats", "uploads", "user":
		flags.BoolVar(&cfg.JSON, "json", false, "")
	case "retain":
		flags.BoolVar(&cfg.Explain, "explain", false, "")
		flags.BoolVar(&cfg.JSON, "json", false, "")
	case "rm", "tag", "undo":
		flags.BoolVar(&cfg.Force, "force", false, "")
		flags.BoolVar(&cfg.JSON, "json", false, "")
		if command == "undo" {
			flags.StringVar(&cfg.As, "as", "", "")
		}
	case "token":
		flags.StringVar(&cfg.Repo, "repo", "", "")
		flags.StringVar(&cfg.Allow, "allow", "", "")
		flags.StringVar(&cfg.Expires, "expires", "90d", "")
		flags.BoolVar(&cfg.JSON, "json", false, "")
	case "trust":
		flags.BoolVar(&cfg.script, "script", false, "")
	}
	return flags
}

// parseConfig reads flags, and the environment for those not given. Flags and
// arguments may come in any order.
func parseConfig(command string, args []string, env func(string) (string, bool), stderr io.Writer) (*config, error) {
	cfg := &config{}
	cfg.Command = command
	most, known := maxArgs[command]
	if !known {
		return nil, fmt.Errorf("unknown command %q; see berth -h", command)
	}
	var text textFlags
	flags := newFlags(command, cfg, &text)
	var bad error
	flags.VisitAll(func(f *flag.Flag) {
		key := "BERTH_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value, ok := env(key); ok && value != "" {
			if err := flags.Set(f.Name, value); err != nil && bad == nil {
				bad = fmt.Errorf("%s=%s: %w", key, value, err)
			}
		}
	})
	if bad != nil {
		return nil, bad
	}
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			break
		}
		cfg.Args = append(cfg.Args, flags.Arg(0))
		args = flags.Args()[1:]
	}
	cfg.given = make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { cfg.given[f.Name] = true })
	if len(cfg.Args) > most {
		return nil, fmt.Errorf("unexpected %q; see berth -h", cfg.Args[most])
	}
	if err := cfg.read(&text); err != nil {
		return nil, err
	}
	cfg.auth.glance = defaultGlance
	cfg.budget = budgetFor(memory()).within(fileLimit())
	cfg.jsonLog = text.format == "json"
	cfg.log = newLog(stderr, cfg.jsonLog, text.level)
	cfg.storeConfig.log, cfg.serverConfig.log, cfg.tls.log = cfg.log, cfg.log, cfg.log
	return cfg, nil
}

// read checks flags, and works out those that are text.
func (cfg *config) read(text *textFlags) error {
	for name, d := range map[string]time.Duration{"grace": cfg.grace, "untagged-grace": cfg.untaggedGrace,
		"upload-expiry": cfg.uploadExpiry, "scrub-every": cfg.scrubEvery, "stall-timeout": text.stall} {
		if d < 0 {
			return fmt.Errorf("--%s: must not be negative", name)
		}
	}
	if cfg.Command == "backup" {
		if len(cfg.Args) == 0 {
			return errors.New("backup: name the directory to back up to")
		}
		// A server has another working directory.
		dest, err := filepath.Abs(cfg.Args[0])
		if err != nil {
			return err
		}
		cfg.Args[0] = dest
	}
	cfg.stallTimeout = stallTimeout(text.stall)
	var err error
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
	if text.format != "text" && text.format != "json" {
		return fmt.Errorf("--log-format: %q is neither text nor json", text.format)
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
	cfg.usersFile, cfg.policyFile = cfg.auth.usersPath(cfg.dir), cfg.auth.policyPath(cfg.dir)
	if cfg.auth.perSecond < 0 || cfg.maxArriving < 0 {
		return errors.New("--rate-limit and --max-concurrent-uploads: must not be negative")
	}
	if cfg.tls.names, err = parseNames(splitList(text.names)); err != nil {
		return err
	}
	cfg.auth.names = cfg.tls.names
	return cfg.chooseTLS()
}

// chooseTLS works out from the flags where certificates come from.
func (cfg *config) chooseTLS() error {
	files := cfg.tls.certFile != "" || cfg.tls.keyFile != ""
	switch mode := cfg.tls.mode; {
	case mode == "auto" || mode == "acme":
		if files {
			return fmt.Errorf("--tls=%s makes certificates of its own: leave --tls-cert and --tls-key away, or --tls", mode)
		}
	case mode != "off":
		return fmt.Errorf("--tls: %q is none of auto, acme and off", mode)
	case files && cfg.given["tls"]:
		return errors.New("--tls=off does not go with --tls-cert and --tls-key: leave one of them away")
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

// headerTimeout is how long a client may take for a request's header, however
// busily it drips.
const headerTimeout = 10 * time.Second

// maxHeader bounds a request's header, in bytes: a token may have maxToken.
const maxHeader = 64 << 10

// maxStreams bounds the requests of one connection over HTTP/2: RFC 9113, section 6.5.2,
// recommends no fewer.
const maxStreams = 100

// serve runs the registry until ctx ends.
func serve(ctx context.Context, cfg *config, stdout io.Writer) error {
	cfg.budget.apply()
	st, err := openStore(cfg.storeConfig)
	if err != nil {
		return err
	}
	if err := st.standAlone(); err != nil {
		return errors.Join(err, st.close())
	}
	if err := st.rememberFlags(); err != nil {
		return errors.Join(err, st.close())
	}
	if cfg.certificates, err = openTLS(cfg.tls); err != nil {
		return errors.Join(err, st.close())
	}
	s, err := newServer(st, cfg.serverConfig)
	if err != nil {
		return errors.Join(err, cfg.certificates.close(), st.close())
	}
	listener, err := net.Listen("tcp", cfg.addr)
	if err != nil {
		return errors.Join(err, cfg.certificates.close(), st.close())
	}
	if foreign(cfg.dir) {
		cfg.log.Warn("root serves a directory of somebody else, who can have root write elsewhere by links in it; start berth as that user, or make the directory root's", "data", cfg.dir)
	}
	if st.writer == nil {
		cfg.log.Warn("the disk is read-only: pulls work, pushes and deletes do not", "data", cfg.dir)
	}
	var background sync.WaitGroup
	backgroundCtx, stopBackground := context.WithCancel(context.Background())
	for _, loop := range st.loops() {
		background.Go(func() { loop(backgroundCtx) })
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // which would end the process
	defer signal.Stop(hangups)
	background.Go(func() { s.rereader(backgroundCtx, hangups) })
	s.gate.announce()
	waitForCommands := serveCommands(backgroundCtx, st, &s.inFlight)
	greet(stdout, cfg, listener.Addr(), s.gate.openTo())

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
		cfg.log.Warn("some work does not end; leaving without a checkpoint")
		return err
	}
	return errors.Join(err, st.close())
}

// answer takes requests until ctx ends, and finishes those under way.
func (s *server) answer(ctx context.Context, listener net.Listener) error {
	headerTimeout := headerTimeout
	if s.stallTimeout > 0 {
		headerTimeout = min(headerTimeout, time.Duration(s.stallTimeout))
	}
	open := &connections{most: max(s.st.budget.connections, 1), two: s.st.budget.overTwo(), wait: headerTimeout, log: s.log}
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
	go func() {
		if s.certificates != nil {
			if s.certificates.open != nil {
				s.certificates.open = open.listen(s.certificates.open)
			}
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
	if server.Shutdown(deadline) != nil {
		s.log.Warn("closing connections that did not end")
		server.Close()
	}
	<-served
	return nil
}

// rereader looks at the files that people edit with each hangup, as of `systemctl
// reload` or a terminal that is closed, until ctx ends. An edit holds without it, too,
// as soon as a request comes; this tells at once whether it is good.
func (s *server) rereader(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		if err := errors.Join(s.gate.users.problem(), s.gate.policy.problem(), s.certificates.problem()); err != nil {
			s.log.Error("files cannot be used; what they said before still holds", "error", err)
		} else {
			s.log.Info("users, rules and certificates are read again, if they have changed; nothing else is")
		}
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

// greet tells a person where the registry is and what to try.
func greet(w io.Writer, cfg *config, addr net.Addr, openTo string) {
	reach := "this machine alone"
	host, port, _ := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
		reach = "whoever reaches this machine"
		if own := slices.DeleteFunc(machineAddresses(), func(a string) bool { return net.ParseIP(a).IsLoopback() }); own != nil {
			reach += ", by " + strings.Join(own[:min(len(own), 4)], ", ")
		}
	} else if !ip.IsLoopback() {
		reach = "whoever reaches " + host
	}
	address := net.JoinHostPort(host, port)
	dir, err := filepath.Abs(cfg.dir)
	if err != nil {
		dir = cfg.dir
	}
	scheme := "http"
	if cfg.certificates != nil {
		scheme = "https"
	}
	if cfg.jsonLog {
		cfg.log.Info("serving", "version", version(), "data", dir, "url", scheme+"://"+address, "reach", reach, "open", openTo, "ca", cfg.certificates.fingerprint())
		return
	}
	fmt.Fprintf(w, "Berth %s serves %s on %s://%s\n", version(), dir, scheme, address)
	fmt.Fprintf(w, "Open to %s, port %s: %s\n", reach, port, openTo)
	if !cfg.readOnly {
		fmt.Fprintf(w, "Try:  docker tag alpine %[1]s/alpine && docker push %[1]s/alpine\n", address)
	}
	if print := cfg.certificates.fingerprint(); print != "" {
		fmt.Fprintf(w, "Other machines trust it by http://HOST:%s/trust, or what `berth trust` says. Its CA is\n  %s\n", port, print)
	}
}

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := strings.Trim(info.Main.Version, "()")
	return v + " " + runtime.GOOS + "/" + runtime.GOARCH
}
