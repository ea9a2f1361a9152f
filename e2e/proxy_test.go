package e2e

// Behind real proxies that do TLS: nginx and HAProxy as docs/deploy.md has them, caddy as it comes, and the headers
// of Traefik. The registry must call itself what the client called the proxy, or no login and no push would
// find the way back, and log who the client was; but believe only the proxy that it was told of.

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestNginx(t *testing.T)   { t.Parallel(); testProxy(t, startNginx) }
func TestHAProxy(t *testing.T) { t.Parallel(); testProxy(t, startHAProxy) }
func TestCaddy(t *testing.T)   { t.Parallel(); testProxy(t, startCaddy) }
func TestTraefik(t *testing.T) { t.Parallel(); testProxy(t, startTraefik) }

// testProxy tests a proxy that start puts before a registry; it returns its address.
func testProxy(t *testing.T, start func(t *testing.T, ca *ca, backend string) (addr string)) {
	ca := newCA(t)
	reg := startBerthWithUsers(t, "--trusted-proxies", "127.0.0.1", "--log-level", "debug")
	addr := start(t, ca, reg.addr)

	// What it says of itself, to a client at another address of this machine.
	const from = "127.0.0.5"
	if realm, want := realmThrough(t, ca, from, addr), "https://"+addr+"/v2/token"; realm != want {
		t.Errorf("the realm behind a trusted proxy is %q, want %q", realm, want)
	}
	if got := lastClient(reg); got != from {
		t.Errorf("behind a trusted proxy the log says client=%s, want %s", got, from)
	}

	// A login, a push with layers of some size, and a pull.
	crane := newClient(t, "crane")
	crane.env = append(crane.env, "SSL_CERT_FILE="+ca.file)
	dir, digest := ociLayout(t, []string{"amd64"}, randomLayer(95, 8<<20), layer(hello(t)))
	ref := addr + "/lib/app:1"
	if said := crane.fails("push", dir, ref); !containsAny(said, unauthorized) {
		t.Errorf("crane push without a login says\n%s", said)
	}
	crane.feed(kimsPassword, "auth", "login", "--username", "kim", "--password-stdin", addr)
	crane.run("push", dir, ref)
	reg.wantDigest("lib/app", "1", digest)
	crane.run("validate", "--remote", ref)
	crane.run("copy", ref, addr+"/lib/copy:1")

	// An upload's address leads back through the proxy.
	req, err := http.NewRequest("POST", "https://"+addr+"/v2/lib/app/blobs/uploads/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("kim", kimsPassword)
	resp, err := ca.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if at, err := resp.Location(); err != nil || resp.StatusCode != 202 || at.Scheme != "https" || at.Host != addr {
		t.Errorf("POST uploads = %d to %v, want 202 to https://%s", resp.StatusCode, at, addr)
	}
	reg.wantNoSecrets(kimsPassword)
	arrivesBeforeItsEnd(t, ca, reg, addr)

	docker := startDocker(t)
	docker.feed(kimsPassword, "login", "--username", "kim", "--password-stdin", addr)
	docker.load(addr+"/lib/big:1", randomLayer(96, 20<<20))
	digest = lastDigest(t, docker.run("push", addr+"/lib/big:1"))
	reg.wantDigest("lib/big", "1", digest)
	docker.run("rmi", addr+"/lib/big:1")
	if said := docker.run("pull", addr+"/lib/big:1"); !strings.Contains(said, digest) {
		t.Errorf("docker pull does not tell of %s:\n%s", digest, said)
	}

	// Whom the registry was not told of may say what it likes.
	wary := startBerthWithUsers(t)
	addr = start(t, ca, wary.addr)
	if realm := realmThrough(t, ca, from, addr); !strings.HasPrefix(realm, "http://") || !strings.HasSuffix(realm, "/v2/token") {
		t.Errorf("the realm behind a proxy that is not trusted is %q, want http://…/v2/token", realm)
	}
	if got := lastClient(wary); !strings.HasPrefix(got, "127.0.0.1:") {
		t.Errorf("behind a proxy that is not trusted the log says client=%s, want that of the proxy, 127.0.0.1", got)
	}
}

// arrivesBeforeItsEnd pushes through a proxy as docker does, in chunks of unknown number, and
// sends the last of them when the registry has the others: a proxy that waits for the end needs room
// for the whole layer, and has the client wait for it twice.
func arrivesBeforeItsEnd(t *testing.T, ca *ca, reg *berth, addr string) {
	t.Helper()
	const begun = 4 << 20
	do := func(client *http.Client, method, url string, body io.Reader) *http.Response {
		req, err := http.NewRequest(method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("kim", kimsPassword)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	at, err := do(ca.client(), "POST", "https://"+addr+"/v2/lib/app/blobs/uploads/", nil).Location()
	if err != nil {
		t.Fatal(err)
	}
	body, in := io.Pipe()
	go func() {
		in.Write(make([]byte, begun))
		await(t, reg.exited, &reg.log, "what was sent, behind the proxy", func() bool {
			var last int
			fmt.Sscanf(do(http.DefaultClient, "GET", "http://"+reg.addr+at.Path, nil).Header.Get("Range"), "0-%d", &last)
			return last >= begun/2 // some is still on its way
		})
		in.Close()
	}()
	if resp := do(ca.client(), "PATCH", at.String(), body); resp.StatusCode != 202 || resp.Header.Get("Range") != fmt.Sprintf("0-%d", begun-1) {
		t.Errorf("a push in chunks = %d, Range %s", resp.StatusCode, resp.Header.Get("Range"))
	}
}

// realmThrough asks the registry without a password from an address, with headers that lie about where
// the request comes from, and returns where it says that tokens are to be had.
func realmThrough(t *testing.T, ca *ca, from, addr string) string {
	t.Helper()
	client := ca.client()
	client.Transport.(*http.Transport).DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext
	req, err := http.NewRequest("GET", "https://"+addr+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", "203.0.113.9")
	req.Header.Set("X-Forwarded-Proto", "gopher")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	m := regexp.MustCompile(`^Bearer realm="([^"]*)"`).FindStringSubmatch(resp.Header.Get("WWW-Authenticate"))
	if resp.StatusCode != 401 || m == nil {
		t.Fatalf("GET /v2/ = %d, WWW-Authenticate: %s; want 401 and a realm", resp.StatusCode, resp.Header.Get("WWW-Authenticate"))
	}
	return m[1]
}

// lastClient is who the last question for /v2/ came from, as the log has it.
func lastClient(b *berth) string {
	b.t.Helper()
	line := regexp.MustCompile(`path=/v2/ .* client=(\S+)`)
	await(b.t, b.exited, &b.log, "the request's line in the log", func() bool { return line.MatchString(b.log.String()) })
	all := line.FindAllStringSubmatch(b.log.String(), -1)
	return all[len(all)-1][1]
}

// startNginx runs nginx before a registry, with what people are told to write.
func startNginx(t *testing.T, ca *ca, backend string) string {
	t.Helper()
	return startNginxWith(t, ca, strings.ReplaceAll(fromDeploy(t, "nginx"), "127.0.0.1:5000", backend))
}

// startNginxWith runs nginx with what its server is to do.
func startNginxWith(t *testing.T, ca *ca, does string) string {
	t.Helper()
	nginx, addr := newClient(t, "nginx"), freeAddress(t)
	cert, key := certificateFiles(t, ca)
	config := filepath.Join(nginx.dir, "nginx.conf")
	// One process: a worker of root's would be another user, whom the directory is closed to.
	writeFile(t, config, fmt.Sprintf(`
daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s ssl http2;
		ssl_certificate %[3]s;
		ssl_certificate_key %[4]s;
		%[5]s
	}
}
`, nginx.dir, addr, cert, key, does))
	launchProxy(t, nginx, addr, "-e", "stderr", "-p", nginx.dir, "-c", config)
	return addr
}

// startHAProxy runs HAProxy before a registry, with what people are told to write.
func startHAProxy(t *testing.T, ca *ca, backend string) string {
	t.Helper()
	haproxy, addr := newClient(t, "haproxy"), freeAddress(t)
	cert, key := certificateFiles(t, ca)
	both, config := filepath.Join(haproxy.dir, "both.pem"), filepath.Join(haproxy.dir, "haproxy.cfg")
	writeFile(t, both, read(t, cert)+read(t, key))
	text := fromDeploy(t, "haproxy")
	for _, x := range [][2]string{{"bind :443 ", "bind " + addr + " "}, {"/etc/haproxy/registry.pem", both}, {"127.0.0.1:5000", backend}} {
		if strings.Count(text, x[0]) != 1 {
			t.Fatalf("the HAProxy of docs/deploy.md should have %q once:\n%s", x[0], text)
		}
		text = strings.Replace(text, x[0], x[1], 1)
	}
	writeFile(t, config, text+"\n")
	launchProxy(t, haproxy, addr, "-db", "-f", config)
	return addr
}

// fromDeploy returns what docs/deploy.md shows of a language; there must be one such block.
func fromDeploy(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)\n```"+language+"\n(.*?)\n```\n").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 1 {
		t.Fatalf("docs/deploy.md has %d blocks of %s, want 1", len(blocks), language)
	}
	return blocks[0][1]
}

// startCaddy runs caddy before a registry, with nothing said that need not be.
func startCaddy(t *testing.T, ca *ca, backend string) string {
	t.Helper()
	caddy, addr := newClient(t, "caddy"), freeAddress(t)
	cert, key := certificateFiles(t, ca)
	config := filepath.Join(caddy.dir, "Caddyfile")
	writeFile(t, config, fmt.Sprintf(`
{
	admin off
	auto_https disable_redirects
}
https://%s {
	tls %s %s
	reverse_proxy %s
}
`, addr, cert, key, backend))
	launchProxy(t, caddy, addr, "run", "--adapter", "caddyfile", "--config", config)
	return addr
}

// startTraefik is a proxy that sends what Traefik does; Traefik itself is in no distribution.
func startTraefik(t *testing.T, ca *ca, backend string) string {
	t.Helper()
	var addr, port string
	srv := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: backend})
			r.Out.Host = r.In.Host
			client, _, _ := net.SplitHostPort(r.In.RemoteAddr)
			r.Out.Header.Set("X-Forwarded-For", client)
			r.Out.Header.Set("X-Forwarded-Proto", "https")
			r.Out.Header.Set("X-Forwarded-Host", r.In.Host)
			r.Out.Header.Set("X-Forwarded-Port", port)
			r.Out.Header.Set("X-Forwarded-Server", "traefik-5d4f8c")
			r.Out.Header.Set("X-Real-Ip", client)
		},
		ErrorLog: log.New(t.Output(), "", 0),
	})
	srv.EnableHTTP2 = true
	srv.TLS = ca.config("127.0.0.1")
	addr = srv.Listener.Addr().String()
	_, port, _ = net.SplitHostPort(addr)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return addr
}

// launchProxy runs a proxy until the test ends, and waits until it listens.
func launchProxy(t *testing.T, proxy *client, addr string, args ...string) {
	t.Helper()
	cmd := exec.Command(proxy.path, args...)
	cmd.Env, cmd.Dir = proxy.env, proxy.dir
	log, exited := launch(t, cmd)
	await(t, exited, log, "the proxy", listens("tcp", addr))
}

// certificateFiles are those of a server on the loopback network.
func certificateFiles(t *testing.T, ca *ca) (cert, key string) {
	t.Helper()
	dir := tempDir(t)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM, keyPEM, _ := ca.issue("127.0.0.1", "localhost")
	writeFile(t, cert, certPEM)
	writeFile(t, key, keyPEM)
	return cert, key
}

// freeAddress is where nobody listens, for a program that cannot choose a port and say which.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
