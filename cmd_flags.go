// The flags, each described once: the set that is parsed and the usage come from here.

package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A flagDef is a flag. The environment has it as BERTH_NAME, in capitals.
type flagDef struct {
	name     string
	value    string // names its value in the help, or lists all values, as text|json; "" for a boolean
	standard string // its default, as one would write it; "" for none, or one that about tells
	// about is for people: code stands in backquotes, which only pages show. Its first sentence
	// is enough for a list. It may end with the default, in words: (default none).
	about string
	// to returns a pointer to what the flag sets.
	to func(*config, *textFlags) any
}

// textFlags are flags that mean something else than what they are.
type textFlags struct {
	level     slog.Level
	format    string
	maxBlob   string
	minFree   string
	scrubRate string
	sync      string
	stall     time.Duration
	proxies   string
	pages     string
	names     string
}

// serverFlags are those of the server, under the headings of the usage. They hold for a
// command that opens the store itself, too.
var serverFlags = []struct {
	heading string
	flags   []flagDef
}{
	{"Where", []flagDef{
		{"addr", "ADDR", ":5000", "address and port to listen on",
			func(c *config, _ *textFlags) any { return &c.addr }},
		{"data", "DIR", "data", "the directory that holds everything",
			func(c *config, _ *textFlags) any { return &c.dir }},
		{"existing", "", "", "serve only a registry that is there, never begin a new one: where a disk may not be mounted",
			func(c *config, _ *textFlags) any { return &c.existing }},
	}},
	{"Who may do what", []flagDef{
		{"htpasswd", "FILE", "", "users and bcrypt hashes, as written by `htpasswd -B` (default `htpasswd` in the data directory, if it is there)",
			func(c *config, _ *textFlags) any { return &c.auth.usersFile }},
		{"policy", "FILE", "", "rules for users and tags. Without rules for users, every user may do everything (default `policy.toml` in the data directory, if it is there)",
			func(c *config, _ *textFlags) any { return &c.auth.policyFile }},
		{"anonymous-pull", "", "", "everybody may pull, without a password",
			func(c *config, _ *textFlags) any { return &c.auth.anonymousPull }},
		{"open", "", "", "start although there were users and their file is missing: everybody may do everything. Give it once; the log warns if it stays",
			func(c *config, _ *textFlags) any { return &c.auth.open }},
	}},
	{"TLS", []flagDef{
		{"tls", "auto|acme|off", "off", "where certificates come from\n`auto`: a local CA, and certificates signed by it\n`acme`: Let's Encrypt or another CA, whose terms you accept by this\n`off`: nowhere; plain HTTP",
			func(c *config, _ *textFlags) any { return &c.tls.mode }},
		{"tls-name", "NAME,...", "", "more host names and addresses of this registry. With `acme`, those to get a certificate for",
			func(_ *config, t *textFlags) any { return &t.names }},
		{"tls-cert", "FILE", "", "a certificate of your own; read again when it changes",
			func(c *config, _ *textFlags) any { return &c.tls.certFile }},
		{"tls-key", "FILE", "", "the key of that certificate",
			func(c *config, _ *textFlags) any { return &c.tls.keyFile }},
		{"client-ca", "FILE", "", "accept client certificates signed by the CAs in this file; the common name is the user",
			func(c *config, _ *textFlags) any { return &c.tls.clientCA }},
		{"acme-email", "ADDRESS", "", "where the CA sends notices",
			func(c *config, _ *textFlags) any { return &c.tls.acmeEmail }},
		{"acme-directory", "URL", "", "the ACME directory of the CA (default Let's Encrypt)",
			func(c *config, _ *textFlags) any { return &c.tls.acmeDirectory }},
		{"http-addr", "ADDR", "", "with TLS, listen here for plain HTTP as well: for ACME, for `/trust`, and to redirect browsers to https",
			func(c *config, _ *textFlags) any { return &c.tls.httpAddr }},
	}},
	{"Behind a proxy", []flagDef{
		{"trusted-proxies", "ADDR,...", "", "addresses and networks of proxies. Their `X-Forwarded` headers (or `Forwarded`) are believed",
			func(_ *config, t *textFlags) any { return &t.proxies }},
		{"public-url", "URL", "", "the URL of this registry for clients, for example `https://hub.example.org` (default the address that clients use)",
			func(c *config, _ *textFlags) any { return &c.auth.publicURL }},
	}},
	{"What clients may do", []flagDef{
		{"cors-origins", "URL,...", "", "pages of other sites that may show this registry, for example `https://ui.example.org`, with the rights of their user; `*` is all pages, for what everybody may read",
			func(_ *config, t *textFlags) any { return &t.pages }},
		{"read-only", "", "", "refuse pushes and deletes. Those of commands and rules are refused, too, and no garbage is collected",
			func(c *config, _ *textFlags) any { return &c.readOnly }},
		{"no-delete", "", "", "refuse deletes. Those of commands and rules are refused, too; garbage is still collected",
			func(c *config, _ *textFlags) any { return &c.noDelete }},
		{"sparse-manifests", "", "", "accept manifests and indexes whose content is not all here",
			func(c *config, _ *textFlags) any { return &c.sparse }},
	}},
	{"How long things stay, while the registry runs", []flagDef{
		{"grace", "DURATION", "24h", "how long a blob without a manifest is kept",
			func(c *config, _ *textFlags) any { return &c.grace }},
		{"untagged-grace", "DURATION", "7d", "how long untagged and deleted images are kept, and can be restored. Untagged is a manifest without tag, index or subject. 0: untagged manifests are kept always, and deleted ones for 7d",
			func(c *config, _ *textFlags) any { return &c.untaggedGrace }},
		{"upload-expiry", "DURATION", "24h", "how long an upload is kept that nobody continues",
			func(c *config, _ *textFlags) any { return &c.uploadExpiry }},
	}},
	{"Limits", []flagDef{
		{"max-uploads", "N", "10000", "open uploads; further ones wait up to 15 s. One user, one token, or one address of anonymous clients may have no more of them than are left for others, so half of them at most. 0: no limit",
			func(c *config, _ *textFlags) any { return &c.maxUploads }},
		{"max-concurrent-uploads", "N", "0", "uploads whose bytes are arriving; further ones wait up to 45 s. 0: no limit",
			func(c *config, _ *textFlags) any { return &c.maxArriving }},
		{"rate-limit", "N", "0", "requests per second from one address, with bursts of ten times that; further ones wait up to 15 s. 0: no limit",
			func(c *config, _ *textFlags) any { return &c.auth.perSecond }},
		{"max-blob-size", "SIZE", "0", "size of one blob, for example 500MiB or 10GiB. 0: no limit",
			func(_ *config, t *textFlags) any { return &t.maxBlob }},
		{"min-free", "SIZE", "", "refuse pushes that would leave less room on the disk. 0: no limit (default 1 % of the disk, at least 16MiB (or 5 %), at most 1GiB)",
			func(_ *config, t *textFlags) any { return &t.minFree }},
		{"stall-timeout", "DURATION", "1m", "drop a client when no byte moves for this long. 0: never",
			func(_ *config, t *textFlags) any { return &t.stall }},
	}},
	{"What survives a power cut", []flagDef{
		{"sync", "blob|image", "blob", "what is on the disk once a client has its answer\n`blob`: every blob and every manifest\n`image`: every manifest with all that it needs; a blob by itself survives only a crash of Berth. It waits less for the disk, and writes less",
			func(_ *config, t *textFlags) any { return &t.sync }},
	}},
	{"Reading everything again, to find damage", []flagDef{
		{"scrub-every", "DURATION", "30d", "how often everything stored is read again. 0: never",
			func(c *config, _ *textFlags) any { return &c.scrubEvery }},
		{"scrub-rate", "SIZE", "10MiB", "how fast, in bytes per second, while there are no requests. 0: no limit",
			func(_ *config, t *textFlags) any { return &t.scrubRate }},
	}},
	{"Logs, on standard error", []flagDef{
		{"log-level", "debug|info|warn|error", "info", "how much to log",
			func(_ *config, t *textFlags) any { return &t.level }},
		{"log-format", "text|json", "text", "with `json`, every line of a server is JSON, the greeting too",
			func(_ *config, t *textFlags) any { return &t.format }},
	}},
}

// Flags that several commands have.
var (
	jsonFlag   = flagDef{"json", "", "", "write JSON, for programs", func(c *config, _ *textFlags) any { return &c.JSON }}
	forceFlag  = flagDef{"force", "", "", "do it even where rules for tags forbid it", func(c *config, _ *textFlags) any { return &c.Force }}
	rootFlag   = flagDef{"root", "DIR", "", "do it below DIR, to make an image of a machine; nothing is started", func(c *config, _ *textFlags) any { return &c.Root }}
	dryRunFlag = flagDef{"dry-run", "", "", "say what would be done, and do nothing", func(c *config, _ *textFlags) any { return &c.DryRun }}
	deepFlag   = flagDef{"deep", "", "", "also read every byte that is stored", func(c *config, _ *textFlags) any { return &c.Deep }}
)

// newFlags defines the flags of a command, and those of the server.
func newFlags(command string, cfg *config, text *textFlags) *flag.FlagSet {
	flags := flag.NewFlagSet("berth", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error, and the help for -h
	for _, group := range serverFlags {
		for _, f := range group.flags {
			f.define(flags, cfg, text)
		}
	}
	for _, f := range findCommand(command).flags {
		f.define(flags, cfg, text)
	}
	return flags
}

// define adds the flag to a set, with its default.
func (f flagDef) define(flags *flag.FlagSet, cfg *config, text *textFlags) {
	switch to := f.to(cfg, text).(type) {
	case *bool:
		flags.Var(yesNoFlag{flagOf[bool]{to, parseYesNo}}, f.name, "")
	case *string:
		flags.StringVar(to, f.name, "", "")
	case *int:
		flags.Var(flagOf[int]{to, parseNumber[int]}, f.name, "")
	case *int64:
		flags.Var(flagOf[int64]{to, parseNumber[int64]}, f.name, "")
	case *time.Duration:
		flags.Var(flagOf[time.Duration]{to, parseDuration}, f.name, "")
	case *slog.Level:
		flags.Var(flagOf[slog.Level]{to, parseLevel}, f.name, "")
	default:
		panic("a flag of no known type: " + f.name)
	}
	if f.standard != "" {
		// Not by the set, which would take it for given.
		if err := flags.Lookup(f.name).Value.Set(f.standard); err != nil {
			panic(err)
		}
	}
}

// A flagOf is the value of a flag. What it does not take is an error that says what it takes.
type flagOf[T any] struct {
	to    *T
	parse func(string) (T, error)
}

func (f flagOf[T]) Set(text string) error {
	value, err := f.parse(text)
	if err == nil {
		*f.to = value
	}
	return err
}

func (f flagOf[T]) String() string {
	if f.to == nil { // the flag package asks a zero value, too
		return ""
	}
	return fmt.Sprint(*f.to)
}

// A yesNoFlag needs no value.
type yesNoFlag struct{ flagOf[bool] }

func parseYesNo(text string) (bool, error) {
	yes, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("say true or false, not %q", text)
	}
	return yes, nil
}

func parseNumber[T int | int64](text string) (T, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || int64(T(n)) != n {
		return 0, fmt.Errorf("%q is not a number from 0 up", text)
	}
	return T(n), nil
}

func parseLevel(text string) (level slog.Level, err error) {
	if level.UnmarshalText([]byte(text)) != nil {
		return level, fmt.Errorf("say debug, info, warn or error, not %q", text)
	}
	return level, nil
}

// parseArguments sets the flags that are among the arguments of a command, and returns the
// others. Flags may stand anywhere, with one dash or two, and end at "--". It calls set with the name
// of each that it sets. The error is flag.ErrHelp for who asks for help, else a usageError.
func parseArguments(command string, flags *flag.FlagSet, args []string, set func(name string)) (others []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			return append(others, args...), nil
		}
		if len(arg) < 2 || arg[0] != '-' {
			others = append(others, arg)
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		f := flags.Lookup(name)
		if f == nil && (name == "h" || name == "help") {
			return nil, flag.ErrHelp
		}
		if f == nil {
			typed, _, _ := strings.Cut(arg, "=")
			if !given && len(args) > 0 {
				value = args[0]
			}
			return nil, unknownFlag(command, typed, value, flags)
		}
		if _, ok := f.Value.(yesNoFlag); ok && !given {
			value, given = "true", true
		}
		if !given {
			if len(args) == 0 || strings.HasPrefix(args[0], "--") {
				err := usageErrorf("--%s: its value is missing (see berth help %s)", name, command)
				if name == "tls" { // it looks like a switch
					err = usageErrorf("%w: --tls=auto (a local CA) or --tls=acme", err)
				}
				return nil, err
			}
			value, args = args[0], args[1:]
		}
		if err := flags.Set(name, value); err != nil {
			return nil, usageErrorf("--%s: %w", name, err)
		}
		set(name)
	}
	return others, nil
}

// unknownFlag is the error for a flag that the command has not got. It is named as it was typed;
// value is what may be its value.
func unknownFlag(command, typed, value string, flags *flag.FlagSet) error {
	name := strings.TrimLeft(typed, "-")
	if name == "port" || name == "p" {
		if _, err := strconv.ParseUint(value, 10, 16); err != nil {
			value = "5000"
		}
		return usageErrorf("unknown flag %s: the port is part of the address, as in --addr :%s (see berth help %s)", typed, value, command)
	}
	if name == "config" || name == "config-file" || name == "c" {
		return usageErrorf("unknown flag %s: %s", typed, noConfiguration)
	}
	if name == "n" && flags.Lookup("limit") != nil {
		return usageErrorf("unknown flag %s: did you mean --limit? (see berth help %s)", typed, command)
	}
	var names []string
	flags.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	if near := similar(name, names); near != "" {
		return usageErrorf("unknown flag %s: did you mean --%s? (see berth help %s)", typed, near, command)
	}
	var others []string
	for _, c := range commands {
		if slices.ContainsFunc(c.flags, func(f flagDef) bool { return f.name == name }) {
			others = append(others, "berth "+c.name)
		}
	}
	if others != nil {
		return usageErrorf("berth %s has no %s, unlike %s (see berth help %[1]s)", command, typed, strings.Join(others[:min(len(others), 3)], ", "))
	}
	return usageErrorf("unknown flag %s (see berth help %s)", typed, command)
}
