// Who gets events: the endpoints in events.toml.
//
//	[[endpoint]]
//	name         = "deploy"
//	url          = "https://ci.example.org/hooks/registry"
//	secret       = "at least sixteen characters"
//	repositories = ["home/**"]
//	actions      = ["push", "delete"]
//
// The file is in the data directory, and is read like policy.toml: a change holds from the next
// push on, and a mistake leaves what was there before. Secrets stand in it, and addresses that are
// secrets, so no message quotes a value from it.

package main

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// eventsFile is the file's name in the data directory.
const eventsFile = "events.toml"

// An endpoint gets events.
type endpoint struct {
	name         string
	url          *url.URL
	secret       string // "" if nothing is signed
	key          []byte // of the signature by Standard Webhooks: what the secret stands for
	format       string
	headers      map[string]string
	repositories *patterns
	actions      []string
	blobs        bool
	timeout      time.Duration
	roots        *x509.CertPool // nil for those of the system
}

// listeners are all endpoints.
type listeners struct {
	endpoints []*endpoint
	pulls     bool // some of them want pulls
}

// find returns the endpoint of that name, or nil.
func (l *listeners) find(name string) *endpoint {
	if l != nil {
		for _, p := range l.endpoints {
			if p.name == name {
				return p
			}
		}
	}
	return nil
}

const (
	maxEndpoints    = 32 // each has a goroutine and metrics
	minSecret       = 16 // characters
	standardTimeout = 10 * time.Second
	maxTimeout      = 2 * time.Minute
)

// standardActions are those of an endpoint that names none. Pulls are many.
var standardActions = []string{"push", "mount", "delete"}

var (
	endpointForm = expression(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	headerForm   = expression("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	// headerOfOurs are headers that the sender sets itself.
	headerOfOurs = expression(`(?i)^(host|content-.*|transfer-encoding|connection|user-agent|webhook-.*|x-hub-signature.*)$`)
)

// An endpointTable is an endpoint as it is written.
type endpointTable struct {
	Name         string            `toml:"name"`
	URL          string            `toml:"url"`
	Secret       string            `toml:"secret"`
	SecretFile   string            `toml:"secret-file"`
	Format       string            `toml:"format"`
	Headers      map[string]string `toml:"headers"`
	Repositories []string          `toml:"repositories"`
	Actions      []string          `toml:"actions"`
	Blobs        *bool             `toml:"blobs"`
	Timeout      string            `toml:"timeout"`
	CAFile       string            `toml:"ca-file"`
}

// readListeners reads the endpoints of a data directory. There are none without the file.
func readListeners(dir string) (*listeners, error) {
	path := filepath.Join(dir, eventsFile)
	text, _, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &listeners{}, nil
	}
	var l *listeners
	if err == nil {
		l, err = parseListeners(text, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// parseListeners reads events.toml. Files that it names are relative to dir. A file without an
// endpoint is an error, as it may be one that an editor is just writing.
func parseListeners(text []byte, dir string) (*listeners, error) {
	var file struct {
		Endpoint []endpointTable `toml:"endpoint"`
	}
	meta, err := toml.NewDecoder(bytes.NewReader(text)).Decode(&file)
	if err != nil {
		var at toml.ParseError
		if errors.As(err, &at) {
			if at.LastKey != "" { // the message may quote the value
				return nil, fmt.Errorf("line %d: what follows %s cannot be read; texts stand in quotes, and lists in [ ]", at.Position.Line, at.LastKey)
			}
			return nil, fmt.Errorf("line %d: it cannot be read; write [[endpoint]], with two brackets at each end, over each, and KEY = VALUE below it", at.Position.Line)
		}
		return nil, wrongKindIn(text, &file, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("%q means nothing here; there is [[endpoint]] with name, url, secret, secret-file, format, headers, "+
			"repositories, actions, blobs, timeout and ca-file", unknown[0])
	}
	switch {
	case len(file.Endpoint) == 0:
		return nil, errors.New("there is no [[endpoint]] in it; write one, or remove the file and restart")
	case len(file.Endpoint) > maxEndpoints:
		return nil, fmt.Errorf("there are %d endpoints; %d are possible", len(file.Endpoint), maxEndpoints)
	}
	l := &listeners{}
	for i, x := range file.Endpoint {
		p, err := x.parse(dir)
		if err == nil && l.find(p.name) != nil {
			err = errors.New("another endpoint has the same name")
		}
		if err != nil {
			which := fmt.Sprintf("endpoint %d", i+1)
			if endpointForm().MatchString(x.Name) {
				which = "endpoint " + x.Name
			}
			return nil, fmt.Errorf("%s: %w", which, err)
		}
		l.endpoints = append(l.endpoints, p)
		l.pulls = l.pulls || slices.Contains(p.actions, "pull")
	}
	return l, nil
}

// parse checks an endpoint, and reads the files that it names.
func (x *endpointTable) parse(dir string) (p *endpoint, err error) {
	p = &endpoint{name: x.Name, secret: x.Secret, format: cmp.Or(x.Format, distributionFormat), headers: x.Headers, actions: x.Actions, timeout: standardTimeout}
	if !endpointForm().MatchString(x.Name) {
		return nil, errors.New("name: give it one of a-z, 0-9 and . _ -, which the log and the metrics show")
	}
	p.url, err = url.Parse(x.URL)
	if err != nil || p.url.Scheme != "http" && p.url.Scheme != "https" || p.url.Hostname() == "" || p.url.Fragment != "" {
		return nil, errors.New("url: want http://HOST/PATH or https://HOST/PATH")
	}
	if p.format != distributionFormat && p.format != cloudEventsFormat {
		return nil, fmt.Errorf("format: say %s or %s, not %q", distributionFormat, cloudEventsFormat, x.Format)
	}
	if len(p.actions) == 0 {
		p.actions = standardActions
	}
	for _, word := range p.actions {
		if word != "pull" && !slices.Contains(standardActions, word) {
			return nil, fmt.Errorf("actions: %q is none; there are push, mount, delete and pull", word)
		}
	}
	// Distribution tells of blobs, and who wants its envelope may count on that.
	p.blobs = p.format == distributionFormat
	if x.Blobs != nil {
		p.blobs = *x.Blobs
	}
	if len(x.Repositories) == 0 {
		x.Repositories = []string{"**"}
	}
	if p.repositories, err = parseRepositories(x.Repositories); err != nil {
		return nil, err
	}
	if x.Timeout != "" {
		if p.timeout, err = parseDuration(x.Timeout); err != nil || p.timeout < time.Second || p.timeout > maxTimeout {
			return nil, fmt.Errorf("timeout: want a time from 1s to %s, not %q", formatDuration(maxTimeout), x.Timeout)
		}
	}
	for name, value := range x.Headers {
		switch {
		case !headerForm().MatchString(name):
			return nil, fmt.Errorf("headers: %q is not the name of a header", name)
		case headerOfOurs().MatchString(name):
			return nil, fmt.Errorf("headers: Berth sets %s itself", name)
		case strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f }):
			return nil, fmt.Errorf("headers: the value of %s has a character that a header cannot have", name)
		}
	}
	return p, errors.Join(p.readSecret(x.SecretFile, dir), p.readRoots(x.CAFile, dir))
}

// readSecret takes the secret from a file, unless that is "", and works out the key.
func (p *endpoint) readSecret(file, dir string) error {
	if file != "" {
		if p.secret != "" {
			return errors.New("secret and secret-file contradict each other: leave out one of them")
		}
		text, _, err := readFile(fromDirectory(file, dir))
		if err != nil {
			return fmt.Errorf("secret-file: %w", err)
		}
		if p.secret = strings.TrimRight(string(text), "\r\n"); p.secret == "" {
			return fmt.Errorf("secret-file: %s is empty", file)
		}
	}
	if p.secret == "" {
		return nil
	}
	if len(p.secret) < minSecret {
		return fmt.Errorf("secret: it has less than %d characters and could be guessed; `openssl rand -hex 32` makes a good one", minSecret)
	}
	p.key = []byte(p.secret)
	if encoded, ok := strings.CutPrefix(p.secret, "whsec_"); ok { // as Standard Webhooks writes one
		var err error
		if p.key, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return errors.New("secret: what follows whsec_ is not base64")
		}
	}
	return nil
}

// readRoots takes the certificate authorities of a file, unless that is "".
func (p *endpoint) readRoots(file, dir string) error {
	if file == "" {
		return nil
	}
	text, _, err := readFile(fromDirectory(file, dir))
	if err != nil {
		return fmt.Errorf("ca-file: %w", err)
	}
	p.roots = x509.NewCertPool()
	if !p.roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("ca-file: there is no certificate in PEM in %s", file)
	}
	return nil
}

// fromDirectory is a path that is relative to the data directory.
func fromDirectory(file, dir string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

// address is where an endpoint is, for people and the log: paths and queries may be secrets.
func (p *endpoint) address() string {
	text := p.url.Scheme + "://" + p.url.Host
	if p.url.Path != "" && p.url.Path != "/" || p.url.RawQuery != "" {
		text += "/…"
	}
	return text
}

// String says what an endpoint gets, without its secrets.
func (p *endpoint) String() string {
	signed := "not signed"
	if p.secret != "" {
		signed = "signed"
	}
	blobs := "without blobs"
	if p.blobs {
		blobs = "with blobs"
	}
	return fmt.Sprintf("%s: %s in %s, %s, to %s as %s, %s", p.name, strings.Join(p.actions, ", "), strings.Join(p.repositories.text, ", "), blobs,
		p.address(), p.format, signed)
}
