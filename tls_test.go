// TLS: where certificates come from, and what a connection may speak. All
// through real listeners; time is what the test says it is.

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A secureServer is a listener with certificates under test.
type secureServer struct {
	t     testing.TB
	o     tlsOptions
	c     *certificates
	http  *http.Server
	addr  string
	moved *atomic.Int64 // nanoseconds that the test has moved the clock
	log   *logBuffer
	ended chan error
}

// newSecure is a server in a directory of its own that was not started yet.
func newSecure(t testing.TB, o tlsOptions) *secureServer {
	s := &secureServer{t: t, o: o, moved: new(atomic.Int64), log: new(logBuffer)}
	if s.o.dir == "" {
		s.o.dir = t.TempDir()
	}
	if s.o.hostname == "" {
		s.o.hostname = "pi"
	}
	s.o.now = func() time.Time { return time.Now().Add(time.Duration(s.moved.Load())) }
	s.o.log = slog.New(slog.NewTextHandler(s.log, nil))
	s.http = &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(s.o.log.Handler(), slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			name, _ := s.c.clientName(r.TLS)
			fmt.Fprintf(w, "%s %s by %q", r.Proto, r.URL.Path, name)
			if r.TLS.DidResume {
				io.WriteString(w, " again")
			}
		})}
	return s
}

// openTLS has all certificates that o asks for, as a start has them.
func openTLS(o tlsOptions) (*certificates, error) {
	c, err := readTLS(o)
	if err == nil {
		err = c.begin(o.open)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// startSecure serves until the test ends.
func startSecure(t testing.TB, o tlsOptions) *secureServer {
	t.Helper()
	s := newSecure(t, o)
	s.start()
	return s
}

func (s *secureServer) start() {
	s.t.Helper()
	var err error
	if s.c, err = openTLS(s.o); err != nil {
		s.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr, s.ended = listener.Addr().String(), make(chan error, 1)
	server, ended := s.http, s.ended
	go func() { ended <- s.c.serve(server, listener) }()
	s.t.Cleanup(s.stop)
}

// stop ends the server, and sees that nothing of it is left.
func (s *secureServer) stop() {
	s.t.Helper()
	if s.ended == nil {
		return
	}
	s.http.Close()
	if err := <-s.ended; !errors.Is(err, http.ErrServerClosed) {
		s.t.Errorf("serve ended with %v", err)
	}
	s.ended = nil
}

// refuses insists that the server does not start, and says why.
func (s *secureServer) refuses(want string) {
	s.t.Helper()
	c, err := openTLS(s.o)
	c.close()
	if err == nil || !strings.Contains(err.Error(), want) {
		s.t.Errorf("openTLS: %v, want an error about %q", err, want)
	}
}

func (s *secureServer) move(d time.Duration) { s.moved.Add(int64(d)) }

// roots are what clients of the local CA trust.
func (s *secureServer) roots() *x509.CertPool {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.o.dir, "tls", "ca.crt"))
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(text) {
		s.t.Fatalf("ca.crt: %v", err)
	}
	return pool
}

// client returns a client that finds every host at this server.
func (s *secureServer) client(config *tls.Config) *http.Client {
	if config.Time == nil {
		config.Time = s.o.now
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.addr)
		}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 3 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get asks by a connection of its own and returns the body.
func (s *secureServer) get(config *tls.Config, url string) (string, error) {
	client := s.client(config)
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// leaf makes a connection and returns the server's certificate.
func (s *secureServer) leaf(name string) *x509.Certificate {
	s.t.Helper()
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// raw sends bytes to an address and returns the answer.
func rawHTTP(t testing.TB, addr, request string) *reply {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.80q: %v", request, err)
	}
	body, _ := io.ReadAll(resp.Body)
	return &reply{t, request, resp.StatusCode, resp.Header, body}
}

// An issuer is somebody else's CA.
type issuer struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// With names of their own, or clients take one CA for another.
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "CA " + rand.Text()}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t, cert, key}
}

func (i *issuer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw})
}

func (i *issuer) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(i.cert)
	return pool
}

// issue returns a certificate and its key as files have them. Each change may
// change what is signed.
func (i *issuer) issue(name string, changes ...func(*x509.Certificate)) (cert, key []byte) {
	i.t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{"pi.lan"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, change := range changes {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, own.Public(), i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		i.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func forClients(c *x509.Certificate) {
	c.ExtKeyUsage, c.DNSNames = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, nil
}

// user returns the TLS configuration of a client with a certificate, which it
// sends whatever the server asks for.
func (i *issuer) user(name string, roots *x509.CertPool, changes ...func(*x509.Certificate)) *tls.Config {
	i.t.Helper()
	pair, err := tls.X509KeyPair(i.issue(name, append([]func(*x509.Certificate){forClients}, changes...)...))
	if err != nil {
		i.t.Fatal(err)
	}
	return &tls.Config{RootCAs: roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// withFiles starts a server whose certificate is of files.
func withFiles(t testing.TB, ca *issuer) *secureServer {
	t.Helper()
	dir := t.TempDir()
	o := tlsOptions{mode: "files", certFile: filepath.Join(dir, "tls.crt"), keyFile: filepath.Join(dir, "tls.key")}
	s := newSecure(t, o)
	s.replace(ca.issue("first"))
	s.start()
	return s
}

// replace writes the server's certificate and key, as if they were not changed
// just now.
func (s *secureServer) replace(cert, key []byte) {
	s.t.Helper()
	writeFile(s.t, s.o.certFile, cert)
	writeFile(s.t, s.o.keyFile, key)
	s.move(time.Minute)
}

func TestCertificateIsRenewedWhileClientsPull(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "content")
	ca := newIssuer(t)
	s := newSecure(t, tlsOptions{})
	s.http.Handler = r.server.handler()
	dir := filepath.Join(s.o.dir, "mounted")
	// As Kubernetes does it: the files are links into a directory behind a link
	// that is replaced.
	publish := func(name string) {
		cert, key := ca.issue(name)
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name, "tls.crt"), cert)
		writeFile(t, filepath.Join(dir, name, "tls.key"), key)
		link := filepath.Join(dir, "..data")
		if err := errors.Join(os.Symlink(name, link+".new"), os.Rename(link+".new", link)); err != nil {
			t.Fatal(err)
		}
	}
	publish("first")
	s.o.mode, s.o.certFile, s.o.keyFile = "files", filepath.Join(dir, "..data", "tls.crt"), filepath.Join(dir, "..data", "tls.key")
	s.start()

	var stops []func() int
	for range 4 {
		kept := s.client(&tls.Config{RootCAs: ca.pool()})
		pull := func(client *http.Client) error {
			resp, err := client.Get("https://pi.lan/v2/a/blobs/" + d.String())
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "content" {
				return fmt.Errorf("%q, %v", body, err)
			}
			return nil
		}
		stops = append(stops, meanwhile(t, func() error { return pull(kept) }), meanwhile(t, func() error {
			fresh := s.client(&tls.Config{RootCAs: ca.pool()})
			defer fresh.CloseIdleConnections()
			return pull(fresh)
		}))
	}
	for i := range 20 {
		name := fmt.Sprint("renewed", i)
		publish(name)
		if got := s.leaf("pi.lan").Subject.CommonName; got != name {
			t.Errorf("after a renewal the certificate is %s, want %s", got, name)
		}
	}
	for _, stop := range stops {
		if stop() == 0 {
			t.Error("a client has pulled nothing")
		}
	}
	if strings.Contains(s.log.String(), "ERROR") {
		t.Errorf("log:\n%s", s.log)
	}
}

func TestBrokenCertificateDoesNotReplaceGoodOne(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	s := withFiles(t, ca)
	is := func(want string, errors int) {
		t.Helper()
		for range 3 {
			if got := s.leaf("pi.lan").Subject.CommonName; got != want {
				t.Errorf("the certificate is %s, want %s", got, want)
			}
		}
		if n := strings.Count(s.log.String(), "level=ERROR"); n != errors {
			t.Errorf("%d errors in the log, want %d:\n%s", n, errors, s.log)
		}
	}
	is("first", 0)
	cert, key := ca.issue("second")
	s.replace(cert[:len(cert)/2], key)
	is("first", 1)
	s.replace(cert, []byte("nonsense"))
	is("first", 2)
	_, other := ca.issue("other")
	s.replace(cert, other)
	is("first", 3)
	s.replace(cert, key)
	is("second", 3)
	if err := os.Remove(s.o.keyFile); err != nil {
		t.Fatal(err)
	}
	is("second", 4)
	s.replace(cert, key)
	is("second", 4)

	// Between the two halves of a renewal nobody needs to hear of it.
	s.moved.Store(0)
	cert, key = ca.issue("third")
	writeFile(t, s.o.certFile, cert)
	is("second", 4)
	writeFile(t, s.o.keyFile, key)
	is("third", 4)

	cert, key = ca.issue("expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	s.replace(cert, key)
	is("expired", 4)
	if n := strings.Count(s.log.String(), "not valid now"); n != 1 {
		t.Errorf("%d warnings of an expired certificate, want 1:\n%s", n, s.log)
	}
}

// Many a file system counts time in steps, of which one may hide a change.
func TestCertificateOfSameSizeAndTimeIsSeen(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	s := withFiles(t, ca)
	s.moved.Store(0)
	now := time.Now()
	for i := range 5 {
		cert, key := ca.issue(fmt.Sprint("number", i))
		for path, content := range map[string][]byte{s.o.certFile: cert, s.o.keyFile: key} {
			content = append(content, bytes.Repeat([]byte("\n"), 1000-len(content))...)
			writeFile(t, path, content)
			if err := os.Chtimes(path, now, now); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := s.leaf("pi.lan").Subject.CommonName, fmt.Sprint("number", i); got != want {
			t.Errorf("the certificate is %s, want %s", got, want)
		}
	}
}

func TestProtocols(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto"})
	for _, x := range []struct {
		config *tls.Config
		want   string
	}{
		{&tls.Config{NextProtos: []string{"h2", "http/1.1"}}, "HTTP/2.0"},
		{&tls.Config{NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12}, "HTTP/2.0"},
		{&tls.Config{NextProtos: []string{"http/1.1"}}, "HTTP/1.1"},
		{&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, ""},
	} {
		x.config.RootCAs = s.roots()
		client := s.client(x.config)
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = slices.Contains(x.config.NextProtos, "h2")
		resp, err := client.Get("https://pi.lan/")
		if x.want == "" {
			if err == nil {
				t.Error("TLS 1.1 was accepted")
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.Proto != x.want || !strings.HasPrefix(string(body), x.want) || len(resp.TLS.PeerCertificates) != 2 {
			t.Errorf("%s, %q, %d certificates; want %s, and the CA too", resp.Proto, body, len(resp.TLS.PeerCertificates), x.want)
		}
	}
}

// steadily reads evenly, for as long as d.
type steadily struct {
	io.Reader
	size, read int
	begun      time.Time
	d          time.Duration
}

func (s *steadily) Read(p []byte) (int, error) {
	if s.begun.IsZero() {
		s.begun = time.Now()
	}
	for {
		due := int(float64(s.size) * min(1, float64(time.Since(s.begun))/float64(s.d)))
		n := len(p)
		if due < s.size {
			n = min(n, due-s.read)
		}
		if n > 0 {
			n, err := s.Reader.Read(p[:n])
			s.read += n
			return n, err
		}
		time.Sleep(time.Millisecond)
	}
}

// HTTP/2 has ideas of its own on timeouts. For how long a busy machine may pause is found out.
func TestTransfersLongerThanTheStallTimeout(t *testing.T) {
	slow(t)
	t.Parallel()
	for stall := 600 * time.Millisecond; ; stall *= 3 {
		err := longTransfers(t, stall)
		if err == nil {
			return
		}
		t.Logf("with a stall timeout of %v: %v", stall, err)
		if stall > 15*time.Second {
			t.Fatal("long transfers are dropped")
		}
	}
}

func longTransfers(t *testing.T, stall time.Duration) error {
	r := startRegistry(t, func(cfg *config) { cfg.stallTimeout = stallTimeout(stall) })
	content := noise(1, 16<<20)
	for _, proto := range []string{"h2", "http/1.1"} {
		s := newSecure(t, tlsOptions{mode: "auto"})
		s.http.Handler, s.http.WriteTimeout = r.server.handler(), stall
		s.start()
		client := s.client(&tls.Config{RootCAs: s.roots(), NextProtos: []string{proto}})
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = proto == "h2"
		content := proto + content
		slow := &steadily{Reader: strings.NewReader(content), size: len(content), d: 2 * stall}
		resp, err := client.Post("https://pi.lan/v2/a/blobs/uploads/?digest="+sum(content).String(), "application/octet-stream", slow)
		if err != nil {
			return fmt.Errorf("a long push by %s: %w", proto, err)
		}
		resp.Body.Close()
		if resp.StatusCode != 201 {
			return fmt.Errorf("a long push by %s = %d, want 201", resp.Proto, resp.StatusCode)
		}
		if resp, err = client.Get("https://pi.lan/v2/a/blobs/" + sum(content).String()); err != nil {
			return fmt.Errorf("a long pull by %s: %w", proto, err)
		}
		body, err := io.ReadAll(&steadily{Reader: resp.Body, size: len(content), d: 2 * stall})
		resp.Body.Close()
		if string(body) != content {
			return fmt.Errorf("a long pull by %s: %d bytes, %v", resp.Proto, len(body), err)
		}
		// But who stalls is dropped.
		never, end := io.Pipe()
		resp, err = client.Post("https://pi.lan/v2/a/blobs/uploads/?digest="+sum("x").String(), "application/octet-stream", never)
		end.Close()
		if err == nil {
			if resp.Body.Close(); resp.StatusCode != 400 {
				t.Errorf("a push that stalls by %s = %d, want 400", resp.Proto, resp.StatusCode)
			}
		}
	}
	return nil
}

func TestPlainHTTPOnTheSamePort(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto"})
	for _, x := range []struct {
		request, host string
		status        int
		location      string
	}{
		{"GET /v2/", s.addr, 400, ""},
		{"PUT /v2/a/manifests/x", s.addr, 400, ""},
		{"GET /v2/token?service=x", s.addr, 400, ""},
		{"GET /v2/", "evil host", 400, ""},
		{"GET /", s.addr, 308, "https://" + s.addr + "/"},
		{"HEAD /a%2Fb/c?d=%20e", s.addr, 308, "https://" + s.addr + "/a%2Fb/c?d=%20e"},
		{"GET /v2x", "pi.lan", 308, "https://pi.lan/v2x"},
		{"GET /", "Pi.LAN:443", 308, "https://pi.lan/"},
		{"GET /", "[::1]:5000", 308, "https://[::1]:5000/"},
		{"POST /", s.addr, 400, ""},
		{"OPTIONS /", s.addr, 400, ""},
		{"GET //evil.example/x", s.addr, 308, "https://" + s.addr + "//evil.example/x"},
		{`GET /\evil.example`, s.addr, 308, "https://" + s.addr + "/%5Cevil.example"},
		{`GET /\/evil.example/..`, s.addr, 308, "https://" + s.addr + "/%5C/evil.example/.."},
		{"GET /%0d%0aX:y", s.addr, 308, "https://" + s.addr + "/%0d%0aX:y"},
		{"GET /", "user@evil.example", 400, ""},
		{"GET /", `evil.example\.pi.lan`, 400, ""},
		{"GET /", "evil.example/.pi.lan", 400, ""},
		{"GET /", "pi.lan:99999", 400, ""},
		{"GET /", "pi.lan:", 308, "https://pi.lan/"},
		{"GET /", "..", 400, ""},
		{"GET /", "", 400, ""},
		{"GET /", strings.Repeat("x.", 127) + "lan", 400, ""},
	} {
		re := rawHTTP(t, s.addr, x.request+" HTTP/1.1\r\nHost: "+x.host+"\r\nConnection: close\r\n\r\n")
		if re.status != x.status || re.location() != x.location {
			t.Errorf("%s of host %q = %d to %q, want %d to %q", x.request, x.host, re.status, re.location(), x.status, x.location)
		}
		if x.host != "evil host" && strings.Contains(x.request, "/v2/") {
			re.code("UNSUPPORTED")
		}
	}
}

func TestPlainHTTPOnAPortOfItsOwn(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto", httpAddr: "127.0.0.1:0"})
	addr := s.c.open.Addr().String()
	_, port, _ := net.SplitHostPort(s.addr)
	ask := func(request string) *reply {
		return rawHTTP(t, addr, request+" HTTP/1.1\r\nHost: pi.lan\r\nConnection: close\r\n\r\n")
	}
	ask("GET /x").has("Location", "https://pi.lan:"+port+"/x")
	ask("GET /v2/").code("UNSUPPORTED")
	if re := ask("GET /trust"); re.status != 200 || !strings.Contains(string(re.body), "pi.lan:"+port) {
		t.Errorf("GET /trust = %d\n%s", re.status, re.body)
	}
	other := newSecure(t, tlsOptions{mode: "auto", httpAddr: addr})
	other.refuses("--http-addr")
}

// Who says nothing, or stops in the middle of a handshake, holds up nobody.
func TestSilentConnectionsAreDropped(t *testing.T) {
	t.Parallel()
	s := newSecure(t, tlsOptions{mode: "auto"})
	s.http.ReadHeaderTimeout = 50 * time.Millisecond
	s.start()
	for _, said := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01", "GET / HTTP/1.1\r\n"} {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, said)
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, conn); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q: %v", said, err)
		}
	}
	s.stop()

	s = newSecure(t, s.o)
	s.start()
	var first net.Conn
	for i := range maxSilent + 20 {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i == 0 {
			first = conn
		}
	}
	if _, err := s.get(&tls.Config{RootCAs: s.roots()}, "https://pi.lan/"); err != nil {
		t.Errorf("among silent connections: %v", err)
	}
	first.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := first.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the oldest of too many silent connections is still open")
	}
}

func TestServeEndsWithItsServer(t *testing.T) {
	alone(t, "the stacks of all goroutines are looked through for those that should have ended")
	for name, end := range map[string]func(*http.Server){
		"Shutdown": func(s *http.Server) {
			if err := s.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		},
		"Close": func(s *http.Server) { s.Close() },
	} {
		s := startSecure(t, tlsOptions{mode: "auto", httpAddr: "127.0.0.1:0"})
		var held []net.Conn
		for _, addr := range []string{s.addr, s.addr, s.c.open.Addr().String()} {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			held = append(held, conn)
		}
		io.WriteString(held[1], "GET / HTTP/1.1\r\nHost: x\r\n\r\n") // and stays open
		if _, err := http.ReadResponse(bufio.NewReader(held[1]), nil); err != nil {
			t.Error(err)
		}
		end(s.http)
		if err := <-s.ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("after %s serve returned %v", name, err)
		}
		s.ended = nil
		stacks := make([]byte, 1<<20)
		if stacks = stacks[:runtime.Stack(stacks, true)]; bytes.Contains(stacks, []byte("splitter")) || bytes.Contains(stacks, []byte("(*certificates).serve")) {
			t.Errorf("after %s something still runs:\n%s", name, stacks)
		}
		for _, addr := range []string{s.addr, s.c.open.Addr().String()} {
			if conn, err := net.Dial("tcp", addr); err == nil {
				conn.Close()
				t.Errorf("after %s %s is still open", name, addr)
			}
		}
		for _, conn := range held {
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after %s a connection is still open: %v", name, err)
			}
		}
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ours, theirs := newIssuer(t), newIssuer(t)
	file := filepath.Join(t.TempDir(), "clients.crt")
	writeFile(t, file, append(ours.pem(), theirs.pem()...))
	s := startSecure(t, tlsOptions{mode: "auto", clientCA: file})
	s.move(time.Minute)
	by := func(config *tls.Config) string {
		t.Helper()
		body, err := s.get(config, "https://pi.lan/")
		if err != nil {
			return "refused"
		}
		_, name, _ := strings.Cut(body, " by ")
		return name
	}
	roots := s.roots()
	for want, config := range map[string]*tls.Config{
		`""`:                                {RootCAs: roots},
		`"ci"`:                              ours.user("ci", roots),
		`"Jo Do"`:                           theirs.user("Jo Do", roots),
		"refused":                           newIssuer(t).user("ci", roots),
		`"` + strings.Repeat("x", 64) + `"`: ours.user(strings.Repeat("x", 64), roots),
	} {
		if got := by(config); got != want {
			t.Errorf("by %s, want %s", got, want)
		}
	}
	for _, name := range []string{"a:b", "a\nb", "a\x7fb", ""} {
		if got := by(ours.user(name, roots)); got != `""` {
			t.Errorf("by %s, want nobody: %q is not a user's name", got, name)
		}
	}
	for what, change := range map[string]func(*x509.Certificate){
		"for servers": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"expired":     func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
	} {
		if got := by(ours.user("ci", roots, change)); got != "refused" {
			t.Errorf("a certificate %s was taken: by %s", what, got)
		}
	}

	// Sessions must not outlive the trust in the CA.
	jo := theirs.user("jo", roots)
	jo.ClientSessionCache = tls.NewLRUClientSessionCache(10)
	old := theirs.user("jo", roots)
	old.ClientSessionCache, old.MaxVersion = tls.NewLRUClientSessionCache(10), tls.VersionTLS12
	for range 2 {
		if a, b := by(jo), by(old); a != `"jo"` || b != `"jo"` {
			t.Errorf("by %s and %s", a, b)
		}
	}
	kept := s.client(ours.user("ci", roots))
	ask := func() error {
		resp, err := kept.Get("https://pi.lan/")
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return err
	}
	if err := ask(); err != nil {
		t.Error(err)
	}
	writeFile(t, file, ours.pem())
	s.move(time.Minute)
	if a, b := by(jo), by(old); a != "refused" || b != "refused" {
		t.Errorf("by %s and %s after their CA was removed, want them refused", a, b)
	}
	if got := by(ours.user("ci", roots)); got != `"ci"` {
		t.Errorf("by %s", got)
	}
	writeFile(t, file, []byte("half"))
	s.move(time.Minute)
	if got := by(ours.user("ci", roots)); got != `"ci"` || strings.Count(s.log.String(), "level=ERROR") != 1 {
		t.Errorf("by %s while the file is broken; log:\n%s", got, s.log)
	}
	if err := ask(); err != nil {
		t.Errorf("a connection was dropped: %v", err)
	}
}

func TestClientNameNeedsAProof(t *testing.T) {
	t.Parallel()
	ours := newIssuer(t)
	file := filepath.Join(t.TempDir(), "clients.crt")
	writeFile(t, file, ours.pem())
	c := startSecure(t, tlsOptions{mode: "auto", clientCA: file}).c
	ca, err := x509.ParseCertificate(ours.cert.Raw)
	if err != nil {
		t.Fatal(err)
	}
	named := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	}
	other := newIssuer(t).cert
	for _, x := range []struct {
		want  string
		state *tls.ConnectionState
	}{
		{"", nil},
		{"", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{named("jo"), ca}}},
		{"jo", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{named("jo"), ca}}}},
		{"", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{named("jo"), other}}}},
		{"", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{named("users"), ca}}}},
		{"", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{named(strings.Repeat("x", 256)), ca}}}},
		{"", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{&x509.Certificate{Subject: pkix.Name{CommonName: "jo"}}, ca}}}}, // expired
	} {
		if name, ok := c.clientName(x.state); name != x.want || ok != (x.want != "") {
			t.Errorf("clientName = %q, %v, want %q", name, ok, x.want)
		}
	}
	if name, ok := (*certificates)(nil).clientName(&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{named("jo"), ca}}}); ok {
		t.Errorf("without client CAs it is %q", name)
	}
}

// The subject of a client's certificate is a user: for rules, for tokens, and for
// as long as its CA is one of ours.
func TestCertificatesAreUsers(t *testing.T) {
	t.Parallel()
	ours := newIssuer(t)
	file := filepath.Join(t.TempDir(), "clients.crt")
	writeFile(t, file, ours.pem())
	r := startRegistry(t, func(c *config) {
		writeRules(c.dir, "[[rule]]\nwho = [\"Kim Smith\"]\nrepositories = [\"kim/**\"]\nallow = [\"push\"]\n")
		c.auth.byCertificate = true
	})
	s := newSecure(t, tlsOptions{mode: "auto", clientCA: file})
	s.http.Handler = r.server.handler()
	s.start()
	r.server.certificates, r.server.gate.certificates = s.c, s.c
	roots := s.roots()
	kim, jo, none := s.client(ours.user("Kim Smith", roots)), s.client(ours.user("jo", roots)), s.client(&tls.Config{RootCAs: roots})
	ask := func(want int, c *http.Client, method, path, header string) *http.Response {
		t.Helper()
		req, err := http.NewRequest(method, "https://pi.lan"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if key, value, ok := strings.Cut(header, ": "); ok {
			req.Header.Set(key, value)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(body))
		if resp.StatusCode != want {
			t.Errorf("%s %s = %d, want %d: %s", method, path, resp.StatusCode, want, body)
		}
		return resp
	}
	const uploads = "/blobs/uploads/"
	ask(200, kim, "GET", "/v2/", "")
	ask(200, jo, "GET", "/v2/", "")
	ask(202, kim, "POST", "/v2/kim/app"+uploads, "")
	ask(403, kim, "POST", "/v2/app"+uploads, "")
	ask(403, jo, "POST", "/v2/kim/app"+uploads, "")
	resp := ask(401, none, "POST", "/v2/kim/app"+uploads, "")
	if got := resp.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `Bearer realm="https://pi.lan/v2/token"`) {
		t.Errorf("the challenge is %s", got)
	}
	ask(401, kim, "GET", "/v2/", "Authorization: Basic bm86bm8=") // what one says counts more than what one has
	// A token that was got with a certificate is worth nothing without it.
	var answer struct{ Token string }
	if err := json.NewDecoder(ask(200, kim, "GET", "/v2/token?scope=repository:kim/app:pull,push", "").Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	ask(202, kim, "POST", "/v2/kim/app"+uploads, "Authorization: Bearer "+answer.Token)
	ask(401, jo, "POST", "/v2/kim/app"+uploads, "Authorization: Bearer "+answer.Token)
	ask(401, none, "POST", "/v2/kim/app"+uploads, "Authorization: Bearer "+answer.Token)
	if log := r.log.String(); !strings.Contains(log, `user="Kim Smith"`) {
		t.Error("the log does not name her")
	}
	// The connections are kept; the trust is not.
	writeFile(t, file, newIssuer(t).pem())
	s.move(time.Minute)
	ask(401, kim, "POST", "/v2/kim/app"+uploads, "")
	ask(401, kim, "POST", "/v2/kim/app"+uploads, "Authorization: Bearer "+answer.Token)
}

func TestTLSOptionsThatCannotWork(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none")
	for want, o := range map[string]tlsOptions{
		"say auto, acme or off":          {mode: "on"},
		"--tls-cert needs --tls-key":     {mode: "files", certFile: none},
		"--tls-key needs --tls-cert":     {mode: "files", keyFile: none},
		"no such file":                   {mode: "files", certFile: none, keyFile: none},
		"--client-ca: ":                  {mode: "auto", clientCA: none},
		"--client-ca needs TLS":          {clientCA: none},
		"--http-addr needs TLS":          {httpAddr: ":0"},
		"--tls-name needs TLS":           {names: []string{"pi.lan"}},
		"--acme-email is for --tls=acme": {mode: "auto", acmeEmail: "ann@example.org"},
		"--tls=acme needs --tls-name":    {mode: "acme"},
		"ACME gives no certificate for":  {mode: "acme", names: []string{"192.0.2.1"}},
		"neither a host name":            {mode: "auto", names: []string{"*.lan"}},
	} {
		newSecure(t, o).refuses(want)
	}
	if c, err := openTLS(tlsOptions{}); c != nil || err != nil {
		t.Errorf("without TLS: %v, %v", c, err)
	}
}
