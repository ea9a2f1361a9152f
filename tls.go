// TLS: where certificates come from, and what a connection may speak.
//
// Certificates are one of three kinds. Files are the operator's, and read again
// when they have changed. Those of ACME are fetched by autocert. And with
// --tls=auto a local CA makes them (tls_authority.go). But for autocert's nothing
// here has a timer: what may have changed is looked at in a handshake.
//
// Plain HTTP on the same port (tls_split.go) gets the way to trust the CA and redirects,
// and nothing of the registry.

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/net/idna"
)

var errSpeakTLS = &protocolError{status: 400, code: "UNSUPPORTED", message: "this registry speaks https here"}

type tlsOptions struct {
	mode                     string   // "", "auto", "acme" or "files"
	certFile, keyFile        string   // in mode files
	names                    []string // host names and addresses; in mode acme those to get certificates for
	clientCA                 string   // file of the CAs that sign clients' certificates; "" for none
	acmeEmail, acmeDirectory string
	proxied                  bool         // flags tell of a proxy in front
	httpAddr                 string       // also listen here for plain HTTP; "" for not
	open                     net.Listener // on httpAddr; nil for none, or if begin is to listen
	dir                      string       // the data directory
	hostname                 string       // the machine's name unless a test says another
	now                      func() time.Time
	log                      *slog.Logger
}

// certificates is what a server needs to speak TLS.
type certificates struct {
	tlsOptions
	authority *authority                 // in mode auto
	pair      *watched[*tls.Certificate] // in mode files
	acme      *autocert.Manager          // in mode acme
	served    sync.Map                   // then by name of --tls-name: until when what a client got last is valid
	clients   *watched[*clientCAs]       // with --client-ca
	base      *tls.Config
	find      func(*tls.ClientHelloInfo) (*tls.Certificate, error) // set by begin, if not before
	called    func(*http.Request) string                           // HOST or HOST:PORT as a flag or a trusted proxy says, or ""; nil for nobody
}

// refuseIdle refuses what has no effect without something else that is not asked for.
// Behind a proxy that does TLS, names are those that browsers may use.
func (o *tlsOptions) refuseIdle() error {
	const how = "add --tls=auto, --tls=acme, or --tls-cert and --tls-key"
	switch {
	case o.mode == "" && o.clientCA != "":
		return errors.New("--client-ca needs TLS: " + how)
	case o.mode == "" && o.httpAddr != "":
		return errors.New("--http-addr needs TLS: " + how)
	case o.mode == "" && len(o.names) > 0 && !o.proxied:
		return errors.New("--tls-name needs TLS: " + how + "; or name the proxy that does TLS with --trusted-proxies")
	case o.mode != "acme" && o.acmeEmail != "":
		return errors.New("--acme-email is for --tls=acme: add that, or leave it out")
	case o.mode != "acme" && o.acmeDirectory != "":
		return errors.New("--acme-directory is for --tls=acme: add that, or leave it out")
	case o.mode == "files" && o.keyFile == "":
		return errors.New("--tls-cert needs --tls-key, too: the file with the key of the certificate")
	case o.mode == "files" && o.certFile == "":
		return errors.New("--tls-key needs --tls-cert, too: the file with the certificate of the key")
	case o.mode == "acme" && len(o.names) == 0:
		return errors.New("--tls=acme needs --tls-name: the host name to get a certificate for, as registry.example.com")
	case o.mode == "acme":
		for _, name := range o.names {
			if net.ParseIP(name) != nil || !strings.Contains(name, ".") {
				return fmt.Errorf("--tls-name: ACME gives no certificate for %s, only for public host names such as registry.example.com", name)
			}
		}
	}
	return nil
}

// readTLS reads what o asks for, and makes nothing: begin does. What cannot work is an error that
// says what to do. Without a mode it returns nil.
func readTLS(o tlsOptions) (*certificates, error) {
	if err := o.refuseIdle(); err != nil || o.mode == "" {
		return nil, err
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
	c.base = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Time: c.clock,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return c.find(hello) }}
	switch o.mode {
	case "files":
		err = c.openFiles()
	case "auto":
		err = c.refuseCA()
	case "acme":
		c.base.NextProtos = append(c.base.NextProtos, acme.ALPNProto)
	default:
		err = fmt.Errorf("--tls: say auto, acme or off, not %q", o.mode)
	}
	if err == nil && o.clientCA != "" {
		err = c.openClientCA()
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// begin makes what has to be made before clients are answered. It has open for the listener for plain HTTP;
// if that is nil, it listens on c.httpAddr.
func (c *certificates) begin(open net.Listener) (err error) {
	if c == nil {
		return nil
	}
	c.open = open
	switch c.mode {
	case "auto":
		err = c.openAuthority()
	case "acme":
		err = c.openACME()
	}
	if err == nil && c.httpAddr != "" && c.open == nil {
		if c.open, err = net.Listen("tcp", c.httpAddr); err != nil {
			err = fmt.Errorf("--http-addr: %w", err)
		}
	}
	return err
}

// close gives up what begin holds, where serve is not called: it does that too.
func (c *certificates) close() error {
	if c == nil || c.open == nil {
		return nil
	}
	return c.open.Close()
}

// problem says what is wrong with the files of certificates as they are now; nil if
// nothing is.
func (c *certificates) problem() (err error) {
	if c != nil && c.pair != nil {
		err = c.pair.problem()
	}
	if c != nil && c.clients != nil {
		err = errors.Join(err, c.clients.problem())
	}
	return err
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
			return nil, fmt.Errorf("--tls-name: %q is neither a host name, such as registry.lan, nor an address, such as 192.168.1.5", given)
		}
		if !slices.Contains(parsed, name) {
			parsed = append(parsed, name)
		}
	}
	return parsed, nil
}

// config is for every connection that speaks TLS. It never needs to be replaced.
func (c *certificates) config() *tls.Config {
	config := c.base.Clone()
	if c.clients != nil {
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return (*c.clients.get()).config, nil }
	}
	return config
}

// expiry returns when the certificate ends that clients get now, the earliest if there are
// several: of ACME's those that clients have got since the start. It is the zero time if there is
// none, or none is known.
func (c *certificates) expiry() (until time.Time) {
	earlier := func(t time.Time) {
		if until.IsZero() || t.Before(until) {
			until = t
		}
	}
	switch {
	case c == nil:
	case c.pair != nil:
		earlier((*c.pair.get()).Leaf.NotAfter)
	case c.authority != nil:
		if leaf, err := c.authority.leaf(""); err == nil {
			earlier(leaf.Leaf.NotAfter)
			earlier(c.authority.cert.NotAfter)
		}
	case c.acme != nil:
		c.served.Range(func(_, t any) bool { earlier(t.(time.Time)); return true })
	}
	return until
}

// openFiles takes the certificate and the key of files.
func (c *certificates) openFiles() error {
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
	c.find = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return *c.pair.get(), nil }
	return nil
}

// openACME has autocert fetch and renew certificates. Whoever turns it on
// accepts the terms of the CA.
func (c *certificates) openACME() error {
	dir := filepath.Join(c.dir, "tls", "acme")
	if err := makeAll(dir); err != nil {
		return err
	}
	c.acme = &autocert.Manager{
		Prompt: autocert.AcceptTOS,
		Cache:  autocert.DirCache(dir),
		HostPolicy: func(_ context.Context, host string) error { // that of an HTTP-01 challenge may have a port
			if !slices.Contains(c.names, hostName(bareHost(host))) {
				return fmt.Errorf("%q is not a --tls-name", host)
			}
			return nil
		},
		Email:  c.acmeEmail,
		Client: &acme.Client{DirectoryURL: c.acmeDirectory, UserAgent: "berth"},
	}
	if c.acmeDirectory == "" {
		c.acme.Client.DirectoryURL = autocert.DefaultACMEDirectory
	}
	var mu sync.Mutex // guards told
	var told time.Time
	c.find = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		certificate, err := c.acme.GetCertificate(hello)
		if name := hostName(hello.ServerName); err == nil && certificate.Leaf != nil && slices.Contains(c.names, name) && !isChallenge(hello) {
			c.served.Store(name, certificate.Leaf.NotAfter)
		}
		if err == nil || !slices.Contains(c.names, hostName(hello.ServerName)) {
			return certificate, err
		}
		// autocert tries again a minute later, and meanwhile every handshake
		// has the same error.
		mu.Lock()
		defer mu.Unlock()
		if c.now().Sub(told).Abs() >= time.Minute {
			c.log.Error("no certificate could be had by ACME", "name", hello.ServerName, "error", err)
			told = c.now()
		}
		return nil, err
	}
	return nil
}

// isChallenge reports whether it is the CA that connects, to see whether the name is ours: what it gets is
// no certificate for clients.
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return slices.Contains(hello.SupportedProtos, acme.ALPNProto)
}

// clientCAs are who may sign clients' certificates.
type clientCAs struct {
	config *tls.Config
	roots  map[string]bool // the certificates themselves
}

// openClientCA asks clients for a certificate. A client may have none, but one
// by another CA ends the handshake.
func (c *certificates) openClientCA() error {
	var err error
	c.clients, err = watch(c, "the CAs of clients", func(files [][]byte) (*clientCAs, error) {
		pool, roots := x509.NewCertPool(), make(map[string]bool)
		for block, rest := pem.Decode(files[0]); block != nil; block, rest = pem.Decode(rest) {
			if cert, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
				pool.AddCert(cert)
				roots[string(cert.Raw)] = true
			}
		}
		if len(roots) == 0 {
			return nil, errors.New("there is no certificate in it")
		}
		config := c.base.Clone()
		config.ClientAuth, config.ClientCAs = tls.VerifyClientCertIfGiven, pool
		// A session that is resumed would bring back a client whose CA has gone.
		config.SessionTicketsDisabled = true
		return &clientCAs{config, roots}, nil
	}, c.clientCA)
	if err != nil {
		return fmt.Errorf("--client-ca: %w", err)
	}
	return nil
}

// clientName returns the common name of the certificate that a client has
// proved to own, if it is fit for a user's name. A connection may be older than
// the file of CAs, so it is held against that again.
func (c *certificates) clientName(state *tls.ConnectionState) (name string, ok bool) {
	if c == nil || c.clients == nil || state == nil || len(state.VerifiedChains) == 0 {
		return "", false
	}
	roots := (*c.clients.get()).roots
	if c.clock().After(state.VerifiedChains[0][0].NotAfter) || !slices.ContainsFunc(state.VerifiedChains, func(chain []*x509.Certificate) bool {
		return roots[string(chain[len(chain)-1].Raw)]
	}) {
		return "", false
	}
	name = state.VerifiedChains[0][0].Subject.CommonName
	if checkUserName(name) != nil {
		return "", false
	}
	return name, true
}

// watch returns the value of files, which must be right now.
func watch[T any](c *certificates, what string, parse func([][]byte) (T, error), files ...string) (*watched[T], error) {
	w := &watched[T]{files: files, parse: parse, patient: true, now: c.now, changed: func(old, _ *T, err error) {
		switch {
		case err != nil && old != nil:
			c.log.Error(what+" cannot be used; the previous one stays in use", "files", files, "error", err)
		case err == nil && old != nil:
			c.log.Info(what+" was read again", "files", files)
		}
	}}
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			return nil, err
		}
	}
	return w, w.problem()
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
			ConnState:         server.ConnState,
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
		c.log.Info("plain HTTP", "method", shorten(r.Method), "path", shorten(r.URL.EscapedPath()), "client", r.RemoteAddr)
		path := r.URL.Path
		if isUnder(path, "/v2") {
			writeError(w, errSpeakTLS) // a client that is redirected would send its password twice
			return
		}
		host, told := c.hostOf(r)
		if port != "" && !told {
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
