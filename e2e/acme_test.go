package e2e

// ACME against pebble, the CA that the makers of Let's Encrypt have for tests: berth proves that the name
// leads to it, and gets a certificate. Every name leads to this machine here.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

const acmeName = "registry.example.com"

// Over the registry's own port, in a handshake: nothing listens where pebble would ask by HTTP.
func TestACMEByTLS(t *testing.T) {
	t.Parallel()
	ca, directory := newCA(t), "https://"+freeAddress(t)+"/dir"
	reg := startACMEBerth(t, ca, directory)
	wantACME(t, reg, startPebble(t, ca, directory, reg.addr, freeAddress(t)))
}

// Over plain HTTP on another port, and nothing listens where pebble would shake hands: a router that leads
// port 80 here, and no other.
func TestACMEByHTTP(t *testing.T) {
	t.Parallel()
	ca, directory, plain := newCA(t), "https://"+freeAddress(t)+"/dir", freeAddress(t)
	reg := startACMEBerth(t, ca, directory, "--http-addr", plain)
	var asked atomic.Int32
	router := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		asked.Add(1)
		r.SetURL(&url.URL{Scheme: "http", Host: plain})
		r.Out.Host = acmeName // the port is not 80 here, so pebble names it
	}})
	t.Cleanup(router.Close)
	wantACME(t, reg, startPebble(t, ca, directory, freeAddress(t), router.Listener.Addr().String()))
	if asked.Load() == 0 {
		t.Error("the certificate came without a question by HTTP")
	}

	// Everything else there is sent on.
	resp, err := noRedirects.Get("http://" + plain + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got, want := resp.Header.Get("Location"), "https://"+reg.addr+"/healthz"; resp.StatusCode != 308 || got != want {
		t.Errorf("GET http://%s/healthz = %d to %q, want 308 to %s", plain, resp.StatusCode, got, want)
	}
}

// wantACME sees that the registry gets a certificate for its name and no other, answers with it, and has
// the same after a restart.
func wantACME(t *testing.T, reg *berth, roots *x509.CertPool) {
	t.Helper()
	config := &tls.Config{RootCAs: roots, ServerName: acmeName}
	cert := certificateOf(t, reg.addr, config)
	if conn, err := tls.Dial("tcp", reg.addr, &tls.Config{RootCAs: roots, ServerName: "other.example.com"}); err == nil {
		conn.Close()
		t.Error("there is a certificate for a name that is not the registry's")
	}
	client := clientTrusting(roots)
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, reg.addr)
	}
	resp, err := client.Get("https://" + acmeName + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		t.Errorf("GET https://%s/v2/ = %d over %s, want 200 over HTTP/2.0", acmeName, resp.StatusCode, resp.Proto)
	}
	reg.stop()
	reg.start()
	if again := certificateOf(t, reg.addr, config); again.SerialNumber.Cmp(cert.SerialNumber) != 0 {
		t.Errorf("after a restart the certificate has the serial number %x, want that of before, %x", again.SerialNumber, cert.SerialNumber)
	}
}

// startACMEBerth starts a server that fetches its certificate when a client first comes.
func startACMEBerth(t *testing.T, ca *ca, directory string, args ...string) *berth {
	t.Helper()
	reg := newBerth(t, append([]string{"--tls=acme", "--tls-name", acmeName, "--acme-email", "a@example.com",
		"--acme-directory", directory}, args...)...)
	reg.env = []string{"SSL_CERT_FILE=" + ca.file} // for pebble's own certificate
	reg.start()
	return reg
}

// startPebble starts a CA at a directory's address, which looks for answers to its challenges at two others.
// It returns the roots of what it signs.
func startPebble(t *testing.T, ca *ca, directory, tlsAddr, httpAddr string) *x509.CertPool {
	t.Helper()
	server, names := newClient(t, "pebble"), newClient(t, "pebble-challtestsrv")
	dns := freeAddress(t)
	cmd := exec.Command(names.path, "-dnsserver", dns, "-management", freeAddress(t), "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "")
	cmd.Env = names.env
	log, exited := launch(t, cmd)
	await(t, exited, log, "the name server", listens("tcp", dns))

	cert, key := certificateFiles(t, ca)
	listen := strings.TrimSuffix(strings.TrimPrefix(directory, "https://"), "/dir")
	management := freeAddress(t)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": management, "certificate": cert, "privateKey": key,
		"tlsPort": portOf(t, tlsAddr), "httpPort": portOf(t, httpAddr),
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(server.dir, "pebble.json")
	writeFile(t, file, string(config))
	cmd = exec.Command(server.path, "-config", file, "-dnsserver", dns)
	cmd.Env = append(server.env, "PEBBLE_VA_NOSLEEP=1")
	log, exited = launch(t, cmd)
	roots := x509.NewCertPool()
	await(t, exited, log, "pebble", func() bool {
		resp, err := ca.client().Get("https://" + management + "/roots/0")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		root, err := io.ReadAll(resp.Body)
		return err == nil && roots.AppendCertsFromPEM(root)
	})
	return roots
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
