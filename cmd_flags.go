// The flags, each described once: the set that is parsed and the usage come from here.

package main

import (
	"flag"
	"io"
	"log/slog"
	"time"
)

// A flagDef is a flag. The environment has it as BERTH_NAME, in capitals.
type flagDef struct {
	name     string
	value    string // what stands for its value in the usage; "" for a boolean
	standard string // its default, as one would write it; "" for none, or one that about tells
	about    string
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
		{"addr", "ADDR", ":5000", "listen on this address and port",
			func(c *config, _ *textFlags) any { return &c.addr }},
		{"data", "DIR", "data", "keep everything in this directory",
			func(c *config, _ *textFlags) any { return &c.dir }},
	}},
	{"Who may do what", []flagDef{
		{"htpasswd", "FILE", "", "users and bcrypt hashes, as written by htpasswd -B (default htpasswd in the data directory, if it is there)",
			func(c *config, _ *textFlags) any { return &c.auth.usersFile }},
		{"policy", "FILE", "", "rules about people and tags (default policy.toml in the data directory, if it is there; without rules about people users may do everything)",
			func(c *config, _ *textFlags) any { return &c.auth.policyFile }},
		{"anonymous-pull", "", "", "everybody may pull",
			func(c *config, _ *textFlags) any { return &c.auth.anonymousPull }},
		{"open", "", "", "start although there were users and their file has gone: everybody may do everything; say it once",
			func(c *config, _ *textFlags) any { return &c.auth.open }},
	}},
	{"TLS", []flagDef{
		{"tls", "MODE", "off", "auto: make a local CA and certificates by it\nacme: fetch them from Let's Encrypt or another CA, whose terms you then accept\noff: plain HTTP (default)",
			func(c *config, _ *textFlags) any { return &c.tls.mode }},
		{"tls-name", "NAME,...", "", "further host names and addresses of this registry; with acme those to get a certificate for",
			func(_ *config, t *textFlags) any { return &t.names }},
		{"tls-cert", "FILE", "", "a certificate of your own; read again when it changes",
			func(c *config, _ *textFlags) any { return &c.tls.certFile }},
		{"tls-key", "FILE", "", "its key",
			func(c *config, _ *textFlags) any { return &c.tls.keyFile }},
		{"client-ca", "FILE", "", "believe client certificates signed by these CAs: the subject is the user",
			func(c *config, _ *textFlags) any { return &c.tls.clientCA }},
		{"acme-email", "ADDR", "", "where the CA of acme may write to",
			func(c *config, _ *textFlags) any { return &c.tls.acmeEmail }},
		{"acme-directory", "URL", "", "which CA (default Let's Encrypt)",
			func(c *config, _ *textFlags) any { return &c.tls.acmeDirectory }},
		{"http-addr", "ADDR", "", "with TLS, listen here for plain HTTP too, for ACME, /trust, and to send browsers on",
			func(c *config, _ *textFlags) any { return &c.tls.httpAddr }},
	}},
	{"Behind a proxy", []flagDef{
		{"trusted-proxies", "ADDR,...", "", "addresses or networks whose X-Forwarded headers (or Forwarded) are true",
			func(_ *config, t *textFlags) any { return &t.proxies }},
		{"public-url", "URL", "", "what clients call this registry, as https://hub.example.org (default what they say)",
			func(c *config, _ *textFlags) any { return &c.auth.publicURL }},
	}},
	{"What clients may do", []flagDef{
		{"cors-origins", "URL,...", "", "pages of other sites that may show this registry, as https://ui.example.org; * is all pages, for what everybody may read",
			func(_ *config, t *textFlags) any { return &t.pages }},
		{"read-only", "", "", "refuse pushes and deletes, also by commands and rules; nothing is collected",
			func(c *config, _ *textFlags) any { return &c.readOnly }},
		{"no-delete", "", "", "refuse deletes, also by commands and rules; what nothing refers to is still collected",
			func(c *config, _ *textFlags) any { return &c.noDelete }},
		{"sparse-manifests", "", "", "take manifests and indexes whose content is not all here",
			func(c *config, _ *textFlags) any { return &c.sparse }},
	}},
	{"How long things stay, counted in the time the registry runs", []flagDef{
		{"grace", "DURATION", "24h", "a blob that no manifest refers to",
			func(c *config, _ *textFlags) any { return &c.grace }},
		{"untagged-grace", "DURATION", "168h", "a manifest without tag, index or subject, and what was deleted and can be restored; 0 keeps the former always, the latter for 168h",
			func(c *config, _ *textFlags) any { return &c.untaggedGrace }},
		{"upload-expiry", "DURATION", "24h", "an upload that nobody continues",
			func(c *config, _ *textFlags) any { return &c.uploadExpiry }},
	}},
	{"Limits (what exceeds one waits for some seconds before it is refused)", []flagDef{
		{"max-uploads", "N", "10000", "open uploads; nobody may have more than are left for others; 0 is no limit",
			func(c *config, _ *textFlags) any { return &c.maxUploads }},
		{"max-concurrent-uploads", "N", "0", "uploads whose bytes are arriving; 0 is no limit",
			func(c *config, _ *textFlags) any { return &c.maxArriving }},
		{"rate-limit", "N", "0", "requests a second of one address, ten times as many at once; 0 is no limit",
			func(c *config, _ *textFlags) any { return &c.auth.perSecond }},
		{"max-blob-size", "SIZE", "0", "bytes in one blob, as 500MiB or 10GiB; 0 is no limit",
			func(_ *config, t *textFlags) any { return &t.maxBlob }},
		{"min-free", "SIZE", "", "refuse pushes that would leave less of the disk; 0 is no limit (default a hundredth of the disk, at least 16MiB or a twentieth, at most 1GiB)",
			func(_ *config, t *textFlags) any { return &t.minFree }},
		{"stall-timeout", "DURATION", "1m", "drop a client when no byte moves for so long",
			func(_ *config, t *textFlags) any { return &t.stall }},
	}},
	{"Reading again all that is stored, to find what rots", []flagDef{
		{"scrub-every", "DURATION", "720h", "how often, in the time the registry runs; 0 is never",
			func(c *config, _ *textFlags) any { return &c.scrubEvery }},
		{"scrub-rate", "SIZE", "10MiB", "bytes a second, while there are no requests; 0 is no limit",
			func(_ *config, t *textFlags) any { return &t.scrubRate }},
	}},
	{"Logs, to the standard error", []flagDef{
		{"log-level", "LEVEL", "info", "debug, info, warn or error",
			func(_ *config, t *textFlags) any { return &t.level }},
		{"log-format", "FORMAT", "text", "text or json",
			func(_ *config, t *textFlags) any { return &t.format }},
	}},
}

// Flags that several commands have.
var (
	jsonFlag  = flagDef{"json", "", "", "write JSON, for programs", func(c *config, _ *textFlags) any { return &c.JSON }}
	forceFlag = flagDef{"force", "", "", "also where the rules about tags forbid it", func(c *config, _ *textFlags) any { return &c.Force }}
	deepFlag  = flagDef{"deep", "", "", "read every byte that is stored, too", func(c *config, _ *textFlags) any { return &c.Deep }}
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
		flags.BoolVar(to, f.name, false, "")
	case *string:
		flags.StringVar(to, f.name, "", "")
	case *int:
		flags.IntVar(to, f.name, 0, "")
	case *int64:
		flags.Int64Var(to, f.name, 0, "")
	case *time.Duration:
		flags.DurationVar(to, f.name, 0, "")
	case *slog.Level:
		flags.TextVar(to, f.name, slog.LevelInfo, "")
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
