// TLS: where certificates come from, and what a connection may speak.
//
// Certificates are one of three kinds. Files are the operator's, and read again
// when they have changed. Those of ACME are fetched by autocert. With --tls=auto
// Berth has a certificate authority of its own, in tls/ of the data directory,
// which the machines of a home or an office are told to trust once (trust.go).
// It keeps these rules:
//
//  1. The CA is made once. Whoever trusts it trusts that one, so a CA that is
//     damaged stops the start; nothing takes its place.
//  2. It can vouch for names and addresses of a LAN only, and for servers only:
//     a stolen key is no key to anybody's bank. The constraints are in its
//     certificate, so clients hold it to them.
//  3. No clock is needed. A board without a battery comes up in 1970; the CA is
//     valid from 2020 to 2049, and the server's certificates, which live in
//     memory, are made anew when the clock turns out to be elsewhere.
//
// Nothing here has a timer: what may have changed is looked at in a handshake.
//
// The first byte of a connection tells TLS from plain HTTP, which gets the way
// to trust the CA and redirects, and nothing of the registry.

package main

import (
	"bytes"
	lists "container/list"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

var errSpeakTLS = &protocolError{status: 400, code: "UNSUPPORTED", message: "this registry speaks https here"}

type tlsOptions struct {
	mode                     string   // "", "auto", "acme" or "files"
	certFile, keyFile        string   // in mode files
	names                    []string // host names and addresses; in mode acme those to get certificates for
	clientCA                 string   // file of the CAs that sign clients' certificates; "" for none
	acmeEmail, acmeDirectory string
	httpAddr                 string // also listen here for plain HTTP; "" for not
	dir                      string // the data directory
	hostname                 string // the machine's name unless a test says another
	now                      func() time.Time
	log                      *slog.Logger
}

// certificates is what a server needs to speak TLS.
type certificates struct {
	tlsOptions
	authority *authority                      // in mode auto
	pair      *watchedFiles[*tls.Certificate] // in mode files
	acme      *autocert.Manager               // in mode acme
	clients   *watchedFiles[*tls.Config]      // with --client-ca
	base      *tls.Config
	open      net.Listener // on httpAddr; nil for none
}

// openTLS reads or makes what o asks for, and listens on o.httpAddr. What
// cannot work is an error that says what to do. Without a mode it returns nil.
func openTLS(o tlsOptions) (*certificates, error) {
	if o.mode == "" {
		if o.clientCA != "" || o.httpAddr != "" {
			return nil, errors.New("--client-ca and --http-addr need TLS: add --tls=auto, --tls=acme, or --tls-cert and --tls-key")
		}
		return nil, nil
	}
	if o.now == nil {
		o.now = time.Now
	}
	if o.hostname == "" {
		o.hostname, _ = os.Hostname()
	}
	c := &certificates{tlsOptions: o}
	var err error
	if c.names, err = parseNames(o.names); err != nil {
		return nil, err
	}
	c.base = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Time: c.clock}
	switch o.mode {
	case "files":
		err = c.openFiles()
	case "auto":
		err = c.openAuthority()
	case "acme":
		err = c.openACME()
	default:
		err = fmt.Errorf("--tls: %q is none of auto, acme and off", o.mode)
	}
	if err == nil && o.clientCA != "" {
		err = c.openClientCA()
	}
	if err == nil && o.httpAddr != "" {
		if c.open, err = net.Listen("tcp", o.httpAddr); err != nil {
			err = fmt.Errorf("--http-addr: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// close gives up what openTLS holds; serve does it too.
func (c *certificates) close() error {
	if c == nil || c.open == nil {
		return nil
	}
	return c.open.Close()
}

// parseNames brings host names and addresses into the form that certificates have.
func parseNames(names []string) ([]string, error) {
	var parsed []string
	for _, given := range names {
		name := strings.TrimSpace(given)
		if ip := net.ParseIP(strings.Trim(name, "[]")); ip != nil {
			name = ip.String()
		} else if ascii, err := idna.Lookup.ToASCII(name); err == nil && hostName(ascii) != "" {
			name = hostName(ascii)
		} else if name = hostName(name); name == "" {
			return nil, fmt.Errorf("--tls-name: %q is neither a host name, as registry.lan, nor an address, as 192.168.1.5", given)
		}
		if !slices.Contains(parsed, name) {
			parsed = append(parsed, name)
		}
	}
	return parsed, nil
}

// hostName returns a host's DNS name in lower case, or "" if s is not one.
func hostName(s string) string {
	s = strings.ToLower(s)
	if len(s) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return ""
		}
	}
	return s
}

// earliest is before any time at which Berth runs: a clock that shows less is
// plainly wrong.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is the time, as far as it can be true.
func (c *certificates) clock() time.Time {
	if now := c.now(); now.After(earliest) {
		return now
	}
	return earliest
}

// config is for every connection that speaks TLS. It never needs to be replaced.
func (c *certificates) config() *tls.Config {
	config := c.base.Clone()
	if c.clients != nil {
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.clients.get(), nil }
	}
	return config
}

// openFiles takes the certificate and the key of files.
func (c *certificates) openFiles() error {
	if c.certFile == "" || c.keyFile == "" {
		return errors.New("--tls-cert and --tls-key go together: give both")
	}
	var err error
	c.pair, err = watch(c, "the TLS certificate", func(files [][]byte) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(files[0], files[1])
		if err != nil {
			return nil, err
		}
		if now := c.clock(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
			c.log.Warn("the TLS certificate is not valid now: clients will refuse it",
				"file", c.certFile, "from", pair.Leaf.NotBefore, "until", pair.Leaf.NotAfter)
		}
		return &pair, nil
	}, c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	c.base.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.pair.get(), nil }
	return nil
}

// openACME has autocert fetch and renew certificates. Whoever turns it on
// accepts the terms of the CA.
func (c *certificates) openACME() error {
	if len(c.names) == 0 {
		return errors.New("--tls=acme needs --tls-name: the host name to get a certificate for, as registry.example.com")
	}
	for _, name := range c.names {
		if net.ParseIP(name) != nil || !strings.Contains(name, ".") {
			return fmt.Errorf("--tls-name: %s cannot have a certificate by ACME; it takes a public host name, as registry.example.com", name)
		}
	}
	dir := filepath.Join(c.dir, "tls", "acme")
	if err := makeAll(dir); err != nil {
		return err
	}
	c.acme = &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(dir),
		HostPolicy: autocert.HostWhitelist(c.names...),
		Email:      c.acmeEmail,
		Client:     &acme.Client{DirectoryURL: c.acmeDirectory, UserAgent: "berth"},
	}
	if c.acmeDirectory == "" {
		c.acme.Client.DirectoryURL = autocert.DefaultACMEDirectory
	}
	c.base.NextProtos = append(c.base.NextProtos, acme.ALPNProto)
	c.base.GetCertificate = c.acme.GetCertificate
	return nil
}

// openClientCA asks clients for a certificate. A client may have none, but one
// by another CA ends the handshake.
func (c *certificates) openClientCA() error {
	var err error
	c.clients, err = watch(c, "the CAs of clients", func(files [][]byte) (*tls.Config, error) {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(files[0]) {
			return nil, errors.New("there is no certificate in it")
		}
		config := c.base.Clone()
		config.ClientAuth, config.ClientCAs = tls.VerifyClientCertIfGiven, pool
		// A session that is resumed would bring back a client whose CA has gone.
		config.SessionTicketsDisabled = true
		return config, nil
	}, c.clientCA)
	if err != nil {
		return fmt.Errorf("--client-ca: %w", err)
	}
	return nil
}

// clientName returns the common name of the certificate that a client has
// proved to own, if it is fit for a user's name.
func clientName(state *tls.ConnectionState) (name string, ok bool) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return "", false
	}
	name = state.VerifiedChains[0][0].Subject.CommonName
	if name == "" || len(name) > 255 || !utf8.ValidString(name) || strings.Contains(name, ":") ||
		strings.ContainsFunc(name, unicode.IsControl) {
		return "", false
	}
	return name, true
}

// A watched value is read from files, and again when they have changed. What
// cannot be used is told in the log, and the value stays what it was.
type watchedFiles[T any] struct {
	what  string
	files []string
	parse func(contents [][]byte) (T, error)
	c     *certificates

	mu       sync.Mutex // guards the rest
	value    T
	seen     []fs.FileInfo // before contents were read
	contents [][]byte
	recent   bool  // a change soon after seen may not show in a file's time
	wrong    error // why contents, or the files, are not in use
	told     bool  // wrong is in the log
}

// watch returns the value of files, which must be right now.
func watch[T any](c *certificates, what string, parse func([][]byte) (T, error), files ...string) (*watchedFiles[T], error) {
	w := &watchedFiles[T]{what: what, files: files, parse: parse, c: c}
	w.refresh()
	return w, w.wrong
}

// get returns the value as of now.
func (w *watchedFiles[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.contents
	w.refresh()
	switch {
	case w.wrong == nil && w.told:
		w.told = false
		fallthrough
	case w.wrong == nil && !sameContents(before, w.contents):
		w.c.log.Info(w.what+" was read again", "files", w.files)
	case w.wrong != nil && !w.told && !w.recent: // it may be half written
		w.c.log.Error(w.what+" cannot be used; the one before stays", "files", w.files, "error", w.wrong)
		w.told = true
	}
	return w.value
}

// refresh reads the files if they may have changed. The caller holds the mutex.
func (w *watchedFiles[T]) refresh() {
	seen := make([]fs.FileInfo, len(w.files))
	changed, recent := w.seen == nil || w.recent, false
	for i, file := range w.files {
		info, err := os.Stat(file)
		if err != nil {
			w.lose(err)
			return
		}
		seen[i] = info
		// A rename, as of a symbolic link, need not bring a later time.
		changed = changed || !os.SameFile(info, w.seen[i]) || info.Size() != w.seen[i].Size() || !info.ModTime().Equal(w.seen[i].ModTime())
		// Two seconds is the coarsest clock of a file system (FAT).
		recent = recent || w.c.now().Sub(info.ModTime()).Abs() < 2*time.Second
	}
	if !changed {
		return
	}
	contents := make([][]byte, len(w.files))
	for i, file := range w.files {
		var err error
		if contents[i], err = os.ReadFile(file); err != nil {
			w.lose(err)
			return
		}
	}
	w.seen, w.recent = seen, recent
	if sameContents(contents, w.contents) {
		return
	}
	w.contents = contents
	value, err := w.parse(contents)
	if err != nil {
		w.wrong, w.told = err, false
		return
	}
	w.value, w.wrong = value, nil
}

// lose notes that the files cannot be read. When they can again, they are new.
func (w *watchedFiles[T]) lose(err error) {
	if w.wrong == nil || w.wrong.Error() != err.Error() {
		w.wrong, w.told = err, false
	}
	w.seen, w.contents, w.recent = nil, nil, false
}

func sameContents(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

// An authority is the local CA and the certificates it has made for this server.
type authority struct {
	c    *certificates
	cert *x509.Certificate
	key  crypto.Signer

	leafKey *ecdsa.PrivateKey
	mu      sync.Mutex                  // guards leaves
	leaves  map[string]*tls.Certificate // by the name or address that a client asked for; "" for none
}

const (
	caCert = "ca.crt"
	caKey  = "ca.key"
	caBoth = "ca.new" // holds both until each has its file
)

// openAuthority reads the CA, or makes it in a directory that never had one
// (rule 1).
func (c *certificates) openAuthority() error {
	dir := filepath.Join(c.dir, "tls")
	if err := makeAll(dir); err != nil {
		return err
	}
	if err := finishCA(dir); err != nil {
		return err
	}
	certPEM, certErr := os.ReadFile(filepath.Join(dir, caCert))
	keyPEM, keyErr := os.ReadFile(filepath.Join(dir, caKey))
	if errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		if err := c.makeCA(dir); err != nil {
			return fmt.Errorf("making the local CA: %w", err)
		}
		certPEM, certErr = os.ReadFile(filepath.Join(dir, caCert))
		keyPEM, keyErr = os.ReadFile(filepath.Join(dir, caKey))
	}
	err := errors.Join(certErr, keyErr)
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.X509KeyPair(certPEM, keyPEM)
	}
	if err == nil && !pair.Leaf.IsCA {
		err = errors.New("the certificate is not that of a CA")
	}
	if err != nil {
		return fmt.Errorf("the local CA in %s cannot be used: %w. Clients trust the one that was there: "+
			"put %s and %s back from a backup; or remove %[1]s, and a new CA is made, which every client has to trust again (berth trust)",
			dir, err, caCert, caKey)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	a := &authority{c: c, cert: pair.Leaf, key: pair.PrivateKey.(crypto.Signer), leafKey: key,
		leaves: make(map[string]*tls.Certificate)}
	for _, name := range c.names {
		if !permits(a.cert, name) {
			return fmt.Errorf("--tls-name %s: the local CA was made without this name and cannot vouch for it. "+
				"Remove %s to make a new CA, and trust it again on every client (berth trust)", name, dir)
		}
	}
	if !permits(a.cert, c.hostname) {
		c.log.Warn("the local CA cannot vouch for this machine's name; use another of its names or an address, or remove the directory to make a new CA, and trust it again on every client",
			"name", c.hostname, "directory", dir)
	}
	if now := c.clock(); now.After(a.cert.NotAfter) {
		c.log.Warn("the local CA has expired, or the clock is wrong", "until", a.cert.NotAfter)
	}
	c.authority = a
	c.base.GetCertificate = a.certificate
	_, err = a.leaf("")
	return err
}

// localDomains are not, and will not be, on the public internet.
var localDomains = []string{"localhost", "local", "lan", "home", "home.arpa", "internal", "intranet", "private", "localdomain", "test"}

// localNetworks are addresses of machines nearby.
var localNetworks = []string{"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
	"::1/128", "fc00::/7", "fe80::/10"}

// makeCA makes the CA and its files (rules 2 and 3).
func (c *certificates) makeCA(dir string) error {
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: fmt.Sprintf("Berth local CA (%.40s)", strings.ToValidUTF8(c.hostname, ""))},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:  time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage:  x509.KeyUsageCertSign,
		// Of a CA it says what the certificates under it may be for.
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         slices.Clone(localDomains),
	}
	for _, network := range localNetworks {
		_, n, err := net.ParseCIDR(network)
		if err != nil {
			panic(err)
		}
		template.PermittedIPRanges = append(template.PermittedIPRanges, n)
	}
	permit := func(name string) bool {
		switch ip := net.ParseIP(name); {
		case permits(template, name):
		case ip != nil:
			if four := ip.To4(); four != nil {
				ip = four
			}
			template.PermittedIPRanges = append(template.PermittedIPRanges, &net.IPNet{IP: ip, Mask: net.CIDRMask(8*len(ip), 8*len(ip))})
		default:
			// With a name all below it is permitted. A machine may be called dev,
			// and then the CA would vouch for half of the industry.
			if suffix, public := publicsuffix.PublicSuffix(name); public && suffix == name {
				return false
			}
			template.PermittedDNSDomains = append(template.PermittedDNSDomains, name)
		}
		return true
	}
	for _, name := range c.names {
		if !permit(name) {
			return fmt.Errorf("--tls-name %s: a CA for all names under .%[1]s would be a danger to whoever trusts it; use a longer name", name)
		}
	}
	for _, name := range append(machineNames(c.hostname), machineAddresses()...) {
		permit(name)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	if err := writeSynced(filepath.Join(dir, caBoth), bytes.NewReader(both)); err != nil {
		return err
	}
	c.log.Info("made the local CA; berth trust tells how clients come to trust it", "fingerprint", fingerprint(der))
	return finishCA(dir)
}

// finishCA gives a CA that was just made, perhaps before the power was cut, its
// two files. One file without the other is then always damage.
func finishCA(dir string) error {
	pending := filepath.Join(dir, caBoth)
	both, err := os.ReadFile(pending)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	certificate, key := pem.Decode(both)
	if certificate == nil {
		return fmt.Errorf("%s is damaged; remove it", pending)
	}
	if err := writeSynced(filepath.Join(dir, caKey), bytes.NewReader(key)); err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(dir, caCert), bytes.NewReader(pem.EncodeToMemory(certificate))); err != nil {
		return err
	}
	if err := os.Remove(pending); err != nil {
		return err
	}
	return syncDir(dir)
}

// permits reports whether the constraints of a CA let it vouch for a host name
// or an address: RFC 5280, section 4.2.1.10.
func permits(ca *x509.Certificate, name string) bool {
	if ip := net.ParseIP(name); ip != nil {
		return len(ca.PermittedIPRanges) == 0 ||
			slices.ContainsFunc(ca.PermittedIPRanges, func(n *net.IPNet) bool { return n.Contains(ip) })
	}
	name = hostName(name)
	return name != "" && (len(ca.PermittedDNSDomains) == 0 ||
		slices.ContainsFunc(ca.PermittedDNSDomains, func(domain string) bool {
			return name == domain || strings.HasSuffix(name, "."+domain)
		}))
}

// machineNames are what a machine may be called on its network.
func machineNames(hostname string) []string {
	hostname = hostName(hostname)
	if hostname == "" {
		return nil
	}
	label, _, _ := strings.Cut(hostname, ".")
	return []string{hostname, label, label + ".local"}
}

// machineAddresses are the addresses of the machine's interfaces. Those of IPv6
// that need a zone cannot be in a registry's name; and of a machine with very
// many, as of a host of containers, the first must do, for they travel in every
// handshake.
func machineAddresses() (addresses []string) {
	all, _ := net.InterfaceAddrs() // without them names still work
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if ok && (n.IP.To4() != nil || !n.IP.IsLinkLocalUnicast()) && len(addresses) < 64 {
			addresses = append(addresses, n.IP.String())
		}
	}
	return addresses
}

// certificate returns what proves to a client that this is the server it
// called, by whichever of the names that the CA may vouch for.
func (a *authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	asked := hello.ServerName
	if asked == "" {
		// It called an address. Not all that a machine has are known when it
		// starts: DHCP brings others.
		if local, ok := hello.Conn.LocalAddr().(*net.TCPAddr); ok {
			asked = local.IP.String()
		}
	}
	if ip := net.ParseIP(asked); ip != nil {
		asked = ip.String()
	} else {
		asked = hostName(asked)
	}
	if asked != "" && !permits(a.cert, asked) {
		asked = ""
	}
	return a.leaf(asked)
}

const (
	leafLife = 90 * 24 * time.Hour
	// longLeafLife is for a server that does not know the time: the longest that
	// Apple's systems take.
	longLeafLife = 824 * 24 * time.Hour
	// maxLeaves bounds what strangers' names can make us keep.
	maxLeaves = 64
)

// leaf returns a certificate for the machine's names and one more, unless
// that is "".
func (a *authority) leaf(name string) (*tls.Certificate, error) {
	now := a.c.clock()
	a.mu.Lock()
	defer a.mu.Unlock()
	usual, err := a.usable("", now)
	if err != nil || name == "" || usual.Leaf.VerifyHostname(name) == nil {
		return usual, err
	}
	return a.usable(name, now)
}

// usable returns a certificate that was made before, while it has a third of
// its life left, else a new one. The caller holds the mutex.
func (a *authority) usable(name string, now time.Time) (*tls.Certificate, error) {
	if have := a.leaves[name]; have != nil {
		from, until := have.Leaf.NotBefore, have.Leaf.NotAfter
		if now.After(from) && until.Sub(now) > until.Sub(from)/3 {
			return have, nil
		}
	}
	made, err := a.sign(name, now)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	for old := range a.leaves {
		if len(a.leaves) < maxLeaves {
			break
		}
		if old != "" {
			delete(a.leaves, old)
		}
	}
	a.leaves[name] = made
	return made, nil
}

// sign makes a certificate.
func (a *authority) sign(name string, now time.Time) (*tls.Certificate, error) {
	life := leafLife
	if now.Equal(earliest) {
		life = longLeafLife
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Berth"},
		NotBefore:   now.Add(-24 * time.Hour), // for clients whose clock is behind
		NotAfter:    now.Add(life - 24*time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	names := slices.Concat([]string{"localhost", "127.0.0.1", "::1"}, machineNames(a.c.hostname), a.c.names, machineAddresses(), []string{name})
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		// One name that is not permitted, and clients refuse all of it.
		if !permits(a.cert, n) {
			continue
		}
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, a.leafKey.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: a.leafKey, Leaf: leaf}, nil
}

// fingerprint is the local CA's, "" without one.
func (c *certificates) fingerprint() string {
	if c == nil || c.authority == nil {
		return ""
	}
	return fingerprint(c.authority.cert.Raw)
}

// fingerprint is the SHA-256 of a certificate as people compare it.
func fingerprint(der []byte) string {
	var b strings.Builder
	for i, x := range sha256.Sum256(der) {
		if i > 0 {
			b.WriteByte(':')
		}
		fmt.Fprintf(&b, "%02X", x)
	}
	return b.String()
}

// serve is server.Serve for a listener whose connections speak TLS, or plain
// HTTP. When it returns, after Shutdown or Close of server, all that it began
// has ended.
func (c *certificates) serve(server *http.Server, listener net.Listener) error {
	defer c.close()
	timeout := server.ReadHeaderTimeout
	if timeout <= 0 {
		timeout = headerTimeout
	}
	s := newSplitter(listener, c.config(), timeout)
	var running sync.WaitGroup
	var plain []*http.Server
	begin := func(l net.Listener, h http.Handler) {
		p := &http.Server{
			Handler:           h,
			ReadHeaderTimeout: timeout,
			ReadTimeout:       timeout, // no request here has a body that is wanted
			WriteTimeout:      server.WriteTimeout,
			IdleTimeout:       server.IdleTimeout,
			MaxHeaderBytes:    server.MaxHeaderBytes,
			ErrorLog:          server.ErrorLog,
		}
		plain = append(plain, p)
		running.Go(func() {
			if err := p.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				c.log.Error("plain HTTP has ended", "address", l.Addr().String(), "error", err)
			}
		})
	}
	begin(s.plain, c.plainHandler(""))
	if c.open != nil {
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		h := c.plainHandler(port)
		if c.acme != nil {
			h = c.acme.HTTPHandler(h)
		}
		begin(c.open, h)
	}
	err := server.Serve(s.secure)
	s.close()
	for _, p := range plain {
		p.Close()
	}
	running.Wait()
	return err
}

// plainHandler answers plain HTTP. Unless port is "", it is that of the
// registry, where requests came to another.
func (c *certificates) plainHandler(port string) http.Handler {
	trust := c.trust()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.log.Info("plain HTTP", "method", r.Method, "path", r.URL.EscapedPath(), "client", r.RemoteAddr)
		path := r.URL.Path
		if isUnder(path, "/v2") || isUnder(path, "/token") {
			writeError(w, errSpeakTLS) // a client that is redirected would send its password twice
			return
		}
		host := registryHost(r.Host, "")
		if port != "" {
			host = registryHost(bareHost(host), port)
		}
		switch {
		case host == "":
			http.Error(w, "the Host header is not that of a registry", http.StatusBadRequest)
		case trust != nil && (path == "/trust" || path == "/trust.sh" || path == "/trust.crt"):
			r2 := new(http.Request)
			*r2 = *r
			r2.Host = host
			trust.ServeHTTP(w, r2)
		case r.Method == http.MethodGet || r.Method == http.MethodHead:
			to := url.URL{Scheme: "https", Host: host, Path: path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
			// It shall not outlive the day on which TLS is turned off again.
			w.Header().Set("Cache-Control", "no-store")
			http.Redirect(w, r, to.String(), http.StatusPermanentRedirect)
		default:
			http.Error(w, errSpeakTLS.message, http.StatusBadRequest)
		}
	})
}

func isUnder(path, top string) bool { return path == top || strings.HasPrefix(path, top+"/") }

// registryHost brings what a stranger calls a registry, HOST or HOST:PORT, into
// the form of an image's name; "" if it is not that. A port that is not given
// is port, unless that is "", which means 443. The result has letters of
// a-z, digits, and .-_:[] only, and no component of it is empty, . or .. .
func registryHost(s, port string) string {
	host := s
	if h, p, err := net.SplitHostPort(s); err == nil {
		host, port = h, p
	} else if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		host = s[1 : len(s)-1]
	}
	if ip := net.ParseIP(host); ip != nil {
		if host = ip.String(); strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
	} else if host = hostName(host); host == "" {
		return ""
	}
	if port == "" || port == "443" {
		return host
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return ""
	}
	return host + ":" + strconv.FormatUint(n, 10)
}

// maxSilent is how many connections may be open of which nothing has come yet.
// A client speaks at once, so of more than that the oldest has to go.
const maxSilent = 512

// A splitter hands out the connections of a listener by their first byte.
type splitter struct {
	listener      net.Listener
	timeout       time.Duration // for the first byte
	secure, plain *branch
	ctx           context.Context // until it is closed
	end           context.CancelFunc
	running       sync.WaitGroup

	mu     sync.Mutex // guards silent
	silent lists.List // of connections of which nothing has come, the oldest first
}

// newSplitter begins to accept; whoever calls it calls close.
func newSplitter(listener net.Listener, config *tls.Config, timeout time.Duration) *splitter {
	s := &splitter{listener: listener, timeout: timeout}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.secure = &branch{splitter: s, accepted: make(chan accepted), config: config}
	s.plain = &branch{splitter: s, accepted: make(chan accepted)}
	s.running.Go(s.accept)
	return s
}

// close ends the listener and all connections that nobody has accepted.
func (s *splitter) close() {
	s.stop()
	s.running.Wait()
}

func (s *splitter) stop() error {
	s.end()
	err := s.listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.silent.Front(); e != nil; e = e.Next() {
		e.Value.(net.Conn).Close()
	}
	return err
}

func (s *splitter) accept() {
	for s.ctx.Err() == nil {
		conn, err := s.listener.Accept()
		if err != nil {
			// The server knows which errors pass, and waits before it comes back.
			s.secure.give(nil, err)
			continue
		}
		s.mu.Lock()
		e := s.silent.PushBack(conn)
		if s.silent.Len() > maxSilent {
			s.silent.Remove(s.silent.Front()).(net.Conn).Close()
		}
		if s.ctx.Err() != nil {
			conn.Close()
		}
		s.mu.Unlock()
		s.running.Go(func() { s.peek(conn, e) })
	}
}

// peek reads the first byte of a connection and gives it to a branch.
func (s *splitter) peek(conn net.Conn, e *lists.Element) {
	p := &peeked{Conn: conn, first: make([]byte, 1)}
	conn.SetReadDeadline(time.Now().Add(s.timeout))
	_, err := conn.Read(p.first)
	s.mu.Lock()
	s.silent.Remove(e) // or it is not there any more
	s.mu.Unlock()
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	switch {
	case err != nil:
		conn.Close()
	case p.first[0] == 0x16: // a handshake: RFC 8446, section 5.1
		s.secure.give(p, nil)
	default:
		s.plain.give(p, nil)
	}
}

// A branch is the listener of the connections of one kind. Closing it closes
// the other too.
type branch struct {
	*splitter
	accepted chan accepted
	config   *tls.Config // nil for those that do not speak TLS
}

type accepted struct {
	conn net.Conn
	err  error
}

func (b *branch) give(conn net.Conn, err error) {
	select {
	case b.accepted <- accepted{conn, err}:
	case <-b.ctx.Done():
		if conn != nil {
			conn.Close()
		}
	}
}

func (b *branch) Accept() (net.Conn, error) {
	select {
	case a := <-b.accepted:
		if a.err == nil && b.config != nil {
			return tls.Server(a.conn, b.config), nil
		}
		return a.conn, a.err
	case <-b.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (b *branch) Close() error   { return b.stop() }
func (b *branch) Addr() net.Addr { return b.listener.Addr() }

// A peeked connection gives its first byte again.
type peeked struct {
	net.Conn
	first []byte
}

func (p *peeked) Read(b []byte) (int, error) {
	if len(p.first) > 0 && len(b) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// CloseWrite lets net/http end an answer so that it arrives.
func (p *peeked) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}
