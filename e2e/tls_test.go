package e2e

// TLS with real clients: those that have been told to trust the registry's own CA work, and those that have
// not refuse it. The CA gets to them as people do it, by the script of `berth trust`.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The registry has an address of the machine's network: on the loopback network Docker believes anybody,
// and crane would try plain HTTP.
func TestTLSAuto(t *testing.T) {
	t.Parallel()
	eachTool(t, func(t *testing.T, open func(*testing.T, reach) *tool) {
		reg := startTLSBerth(t)
		root := trustingRoot(t, reg)

		// Before the CA is installed: Docker's tool installs it for the whole machine.
		stranger := open(t, reach{host: reg.addr})
		if said, err := stranger.login("kim", kimsPassword); err == nil && !stranger.late {
			t.Errorf("a login without the CA should have failed\n%s", said)
		}
		for what, do := range map[string]act{"push": stranger.push, "pull": stranger.pull} {
			said, err := do("lib/app", "1.0.0")
			if err == nil || !containsAny(said, []string{"certificate signed by unknown authority", "failed to verify certificate"}) {
				t.Errorf("%s without the CA ended with %v and says\n%s", what, err, said)
			}
		}
		if reg.has("lib/app", "1.0.0") {
			t.Error("lib/app:1.0.0 is in the registry: a client pushed to whom it should not trust")
		}
		if strings.Contains(reg.log.String(), "path=/token") {
			t.Error("a client sent its password to whom it should not trust")
		}

		tool := open(t, reach{host: reg.addr, root: root})
		tool.refused("push without a login", tool.push, "lib/app", "1.0.0", unauthorized...)
		tool.mustLogin("kim", kimsPassword)
		tool.able("push", tool.push, "lib/app", "1.0.0")
		tool.able("pull", tool.pull, "lib/app", "1.0.0")
		tool.logout()
		tool.refused("pull after the logout", tool.pull, "lib/app", "1.0.0", unauthorized...)
		if !reg.has("lib/app", "1.0.0") {
			t.Error("lib/app:1.0.0 is not in the registry")
		}
		reg.wantNoSecrets(kimsPassword)
	})
}

// What the script writes, and that it leaves alone what is there.
func TestTrustScript(t *testing.T) {
	t.Parallel()
	reg := startTLSBerth(t)
	root := trustingRoot(t, reg)
	ca := read(t, filepath.Join(reg.data, "tls", "ca.crt"))
	for _, file := range []string{"etc/docker/certs.d/" + reg.addr + "/ca.crt", "etc/containers/certs.d/" + reg.addr + "/ca.crt",
		"etc/containerd/certs.d/" + reg.addr + "/ca.crt"} {
		if got := read(t, filepath.Join(root, file)); got != ca {
			t.Errorf("%s is\n%s\nwant the CA\n%s", file, got, ca)
		}
	}
	if file := (reach{root: root}).ca(); file == "" || read(t, file) != ca {
		t.Errorf("the CA is not in the system's store: %q", file)
	}

	script := filepath.Join(tempDir(t), "trust.sh")
	writeFile(t, script, reg.admin("", "trust", reg.addr, "--script"))
	run := func(args ...string) (string, error) {
		cmd := exec.Command("sh", append([]string{script}, args...)...)
		cmd.Env = append(plainEnv(root), "BERTH_ROOT="+root)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if said, err := run(); err != nil || strings.Contains(said, "wrote") || strings.Count(said, "unchanged: ") != 5 {
		t.Errorf("a second run of the script ended with %v and says\n%s", err, said)
	}
	if said, err := run("00:11:22"); err == nil || !strings.Contains(said, "another fingerprint") {
		t.Errorf("the script with another fingerprint ended with %v and says\n%s", err, said)
	}
	if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
		t.Errorf("sh -n: %v\n%s", err, out)
	}
}

// Who does not trust the registry yet gets the CA from its port over plain HTTP, and nothing else there.
func TestTrustOverPlainHTTP(t *testing.T) {
	t.Parallel()
	reg := startTLSBerth(t)
	get := func(path string) (status int, location, body string) {
		t.Helper()
		resp, err := noRedirects.Get("http://" + reg.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Location"), string(b)
	}
	ca := read(t, filepath.Join(reg.data, "tls", "ca.crt"))
	if status, _, body := get("/trust.crt"); status != 200 || body != ca {
		t.Errorf("GET /trust.crt = %d, want 200 and the CA\n%s", status, body)
	}
	if status, _, body := get("/trust.sh"); status != 200 || body != reg.admin("", "trust", reg.addr, "--script") {
		t.Errorf("GET /trust.sh = %d, want 200 and what berth trust --script prints\n%s", status, body)
	}
	if status, _, body := get("/trust"); status != 200 || !strings.Contains(body, "/etc/docker/certs.d/"+reg.addr) {
		t.Errorf("GET /trust = %d, want 200 and what to do\n%s", status, body)
	}
	if status, _, body := get("/v2/"); status != 400 || !strings.Contains(body, "https") {
		t.Errorf("GET /v2/ = %d, want 400 and a word of https\n%s", status, body)
	}
	if status, location, _ := get("/healthz"); status != 308 || location != "https://"+reg.addr+"/healthz" {
		t.Errorf("GET /healthz = %d to %q, want 308 to the same over TLS", status, location)
	}
}

// One connection carries many requests at once.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	reg := startTLSBerth(t)
	resp, err := reg.client.Get("https://" + reg.addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 {
		t.Errorf("GET /healthz = %d over %s, want 200 over HTTP/2.0", resp.StatusCode, resp.Proto)
	}
	tool := craneTool(t, reach{host: reg.addr, root: trustingRoot(t, reg)})
	tool.mustLogin("kim", kimsPassword)
	tool.able("push", tool.push, "lib/app", "1.0.0")
	digest, _ := reg.manifest("lib/app", "1.0.0")
	atOnce(t, 32, func(i int) error {
		req, err := http.NewRequest("GET", "https://"+reg.addr+"/v2/lib/app/manifests/"+digest, nil)
		if err != nil {
			return err
		}
		req.SetBasicAuth("kim", kimsPassword)
		resp, err := reg.client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != 200 || digestOf(digest, body) != digest) {
			err = fmt.Errorf("GET manifest = %d, %d bytes", resp.StatusCode, len(body))
		}
		return err
	})
}

// The certificate is renewed ten times while four clients pull: two processes of crane, one client on one
// connection, one with a new connection each time. The files are replaced by renaming, as certbot does,
// and by writing them anew, as cp does. Nobody notices.
func TestCertificateRenewalUnderLoad(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	dir := tempDir(t)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	// replace makes a new certificate and puts its files in place, the one and then the other.
	replace := func(put func(file, content string), between func()) (serial string) {
		certPEM, keyPEM, cert := ca.issue("127.0.0.1")
		put(keyFile, keyPEM)
		between()
		put(certFile, certPEM)
		return cert.SerialNumber.String()
	}
	write := func(file, content string) { writeFile(t, file, content) }
	rename := func(file, content string) {
		writeFile(t, file+".new", content)
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	serial := replace(write, func() {})
	reg := newBerth(t, "--tls-cert", certFile, "--tls-key", keyFile, "--log-level", "debug")
	reg.client = ca.client()
	reg.start()
	crane := newClient(t, "crane")
	crane.env = append(crane.env, "SSL_CERT_FILE="+ca.file)
	image, _ := ociLayout(t, []string{"amd64"}, randomLayer(90, 1<<20))
	crane.run("push", image, reg.ref("app:1"))
	_, body := reg.manifest("app", "1")
	layer := parse(t, body).Layers[0].Digest

	pull := func(client *http.Client) error {
		for _, path := range []string{"/v2/app/manifests/1", "/v2/app/blobs/" + layer} {
			resp, err := client.Get("https://" + reg.addr + path)
			if err != nil {
				return err
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				return err
			}
			if want := resp.Header.Get("Docker-Content-Digest"); resp.StatusCode != 200 || digestOf(want, b) != want {
				return fmt.Errorf("GET %s = %d, %d bytes", path, resp.StatusCode, len(b))
			}
		}
		return nil
	}
	kept, once := ca.client(), ca.client()
	once.Transport.(*http.Transport).DisableKeepAlives = true
	validate := func() error { return crane.try("validate", "--remote", reg.ref("app:1")) }
	loops := []func() error{validate, validate, func() error { return pull(kept) }, func() error { return pull(once) }}

	var pulls [4]atomic.Int64
	var running sync.WaitGroup
	done := make(chan struct{})
	for i, loop := range loops {
		running.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := loop(); err != nil {
					t.Errorf("client %d: %v", i, err)
				}
				pulls[i].Add(1)
			}
		})
	}
	func() {
		defer running.Wait()
		defer close(done)
		for round := 1; round <= 10; round++ {
			shown := func() string { return ca.shown(reg.addr, "127.0.0.1").SerialNumber.String() }
			put := write
			if round%2 == 0 {
				put = rename
			}
			serial = replace(put, func() {
				if got := shown(); got != serial {
					t.Errorf("between the two files a connection has the certificate %s, want the one before, %s", got, serial)
				}
			})
			await(t, reg.exited, &reg.log, "new connections to have the new certificate", func() bool { return shown() == serial })
			var before [4]int64
			for i := range pulls {
				before[i] = pulls[i].Load()
			}
			await(t, reg.exited, &reg.log, "each client to pull with it", func() bool {
				for i := range pulls {
					if pulls[i].Load() < before[i]+2 {
						return false
					}
				}
				return true
			})
		}
	}()
	if log := reg.log.String(); strings.Contains(log, "level=ERROR") || strings.Contains(log, "TLS handshake error") {
		t.Error("the registry's log has an error")
	}
}

// startTLSBerth starts a server with kim and pat, a CA of its own, and an address on the machine's network.
func startTLSBerth(t *testing.T, args ...string) *berth {
	t.Helper()
	b := newBerth(t, append([]string{"--tls=auto", "--log-level", "debug"}, args...)...)
	b.addr = networkAddress(t) + ":0"
	b.addUsers()
	b.start()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(read(t, filepath.Join(b.data, "tls", "ca.crt")))) {
		t.Fatal("there is no certificate in the server's tls/ca.crt")
	}
	b.client = clientTrusting(pool)
	return b
}

// networkAddress is an address of this machine that is not on the loopback network.
func networkAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	missing(t, "this machine has no address but those of the loopback network")
	return ""
}

// trustingRoot is the tree of a machine that has Docker, podman and containerd and where the script of
// berth trust has been run.
func trustingRoot(t *testing.T, b *berth) string {
	t.Helper()
	root := tempDir(t)
	for _, dir := range []string{"etc/docker", "etc/containers", "etc/containerd", "etc/kubernetes", "usr/local/share/ca-certificates"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh")
	cmd.Env = append(plainEnv(root), "BERTH_ROOT="+root)
	cmd.Stdin = strings.NewReader(b.admin("", "trust", b.addr, "--script"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the script of berth trust: %v\n%s", err, out)
	}
	return root
}

// clientTrusting is an HTTP client with connections of its own.
func clientTrusting(pool *x509.CertPool) *http.Client {
	return &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
}

// A ca is a certificate authority of a test's own.
type ca struct {
	t    *testing.T
	file string // of its certificate
	pool *x509.CertPool
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *ca {
	t.Helper()
	c := &ca{t: t, file: filepath.Join(tempDir(t), "ca.pem"), pool: x509.NewCertPool()}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test's CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	text, _ := c.sign(template, nil)
	writeFile(t, c.file, text)
	c.pool.AddCert(c.cert)
	return c
}

// sign signs a certificate for the public key of key. The first one is the CA's.
func (c *ca) sign(template *x509.Certificate, key *ecdsa.PrivateKey) (text string, cert *x509.Certificate) {
	c.t.Helper()
	parent := c.cert
	if key == nil {
		var err error
		if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			c.t.Fatal(err)
		}
		key, parent = c.key, template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), c.key)
	if err == nil {
		cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	if c.cert == nil {
		c.cert = cert
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), cert
}

// issue makes a server's certificate for host names and addresses, and its key.
func (c *ca) issue(names ...string) (certPEM, keyPEM string, cert *x509.Certificate) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "a test's server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	certPEM, cert = c.sign(template, key)
	return certPEM, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), cert
}

// client is an HTTP client that trusts the CA.
func (c *ca) client() *http.Client { return clientTrusting(c.pool) }

// shown is the certificate of a server that a new connection gets to see.
func (c *ca) shown(addr, name string) *x509.Certificate {
	c.t.Helper()
	return certificateOf(c.t, addr, &tls.Config{RootCAs: c.pool, ServerName: name})
}

// certificateOf is what a new connection to a server gets to see, having verified it.
func certificateOf(t *testing.T, addr string, config *tls.Config) *x509.Certificate {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 2 * time.Minute}, "tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// config is what a server of the test's own needs to have a certificate.
func (c *ca) config(names ...string) *tls.Config {
	c.t.Helper()
	certPEM, keyPEM, _ := c.issue(names...)
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		c.t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}
