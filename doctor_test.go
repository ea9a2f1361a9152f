// The doctor, held against faults that were prepared: each is named, and nothing else is; and against
// what is well, of which it has nothing to say.

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The registry of these tests is called hub.lan:5000, and is at an address of another machine.
const doctorAddress = "192.0.2.10"

var (
	quietLog       = log.New(io.Discard, "", 0)
	errDialRefused = &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	errDialTimeout = &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	errDialNoRoute = &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}
)

// doctorAt returns a doctor for hub.lan:5000, which is served at a real address, "" for
// nowhere. Its machine has no files.
func doctorAt(t testing.TB, at string) *doctor {
	d := newDoctor(nil)
	d.root, d.home, d.host, d.port, d.random, d.largest = t.TempDir(), "/home/kim", "hub.lan", "5000", strings.ToLower(rand.Text()[:8]), 4<<10
	d.knock, d.patience = time.Hour, time.Hour // however slow this machine is
	d.getent, d.has = nil, func(string) bool { return false }
	d.lookup = func(context.Context, string) ([]string, error) { return []string{doctorAddress}, nil }
	d.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != doctorAddress+":5000" || at == "" {
			return nil, errDialRefused
		}
		return new(net.Dialer).DialContext(ctx, network, at)
	}
	return d
}

// file makes a file of the machine's.
func (d *doctor) file(t testing.TB, path, text string) *doctor {
	t.Helper()
	path = filepath.Join(d.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return d
}

// wantFaults examines, and insists on just these faults, and that each comes with a remedy.
func (d *doctor) wantFaults(t testing.TB, want ...string) {
	t.Helper()
	d.examine(t.Context())
	got := d.faults(isProblem, isWarning)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		text, _ := json.MarshalIndent(d.list, "", " ")
		t.Errorf("the doctor finds %v, want %v\n%s", got, want, text)
	}
	for _, x := range d.list {
		if x.Level != isWell && x.Level != isNote && (x.Do == "" || x.Fault == "" || x.Says == "") {
			t.Errorf("%+v lacks something", x)
		}
	}
}

// has reports whether something was said.
func (d *doctor) says(text string) bool {
	return slices.ContainsFunc(d.list, func(x *diagnosis) bool {
		return strings.Contains(x.Says+"\n"+x.Do+"\n"+strings.Join(x.Lines, "\n"), text)
	})
}

// certified is a certificate for a server, changed as a test likes, and the pool that vouches for it.
func certified(t testing.TB, ca *issuer, changes ...func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	cert, key := ca.issue("hub", append([]func(*x509.Certificate){func(c *x509.Certificate) { c.DNSNames = []string{"hub.lan"} }}, changes...)...)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// behindTLS serves a handler with a certificate, and returns its address.
func behindTLS(t testing.TB, pair tls.Certificate, handler http.Handler) string {
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = quietLog
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// inPlain serves a handler, and returns its address.
func inPlain(t testing.TB, handler http.Handler) string {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// believesProxies has a registry believe the proxies of these tests.
func believesProxies(c *config) { c.auth.proxies, _ = parseProxies("127.0.0.1") }

// proxyTo is a good reverse proxy, which a test may make worse.
func proxyTo(r *registry, worsen ...func(*httputil.ReverseProxy)) *httputil.ReverseProxy {
	to, err := url.Parse(r.http.URL)
	if err != nil {
		panic(err)
	}
	p := &httputil.ReverseProxy{ErrorLog: quietLog, Rewrite: func(x *httputil.ProxyRequest) {
		x.SetURL(to)
		x.SetXForwarded()
		x.Out.Host = x.In.Host
	}}
	for _, w := range worsen {
		w(p)
	}
	return p
}

// rewritten has a proxy change requests, after what it does anyway.
func rewritten(change func(*httputil.ProxyRequest)) func(*httputil.ReverseProxy) {
	return func(p *httputil.ReverseProxy) {
		before := p.Rewrite
		p.Rewrite = func(x *httputil.ProxyRequest) { before(x); change(x) }
	}
}

// answering has a proxy change answers.
func answering(change func(*http.Response)) func(*httputil.ReverseProxy) {
	return func(p *httputil.ReverseProxy) {
		p.ModifyResponse = func(r *http.Response) error { change(r); return nil }
	}
}

func TestDoctorNamesAndPorts(t *testing.T) {
	t.Parallel()
	notFound := func(d *doctor) {
		d.lookup = func(_ context.Context, host string) ([]string, error) {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
	}
	dials := func(err error) func(*doctor) {
		return func(d *doctor) {
			d.dial = func(context.Context, string, string) (net.Conn, error) { return nil, err }
		}
	}
	ssh, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ssh.Close() })
	go func() {
		for {
			conn, err := ssh.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "SSH-2.0-OpenSSH_9.2p1\r\n")
			go func() { io.Copy(io.Discard, conn); conn.Close() }()
		}
	}()
	for _, x := range []struct {
		name   string
		faults []string
		at     string
		change func(*doctor)
	}{
		{"a name that nobody knows", []string{"name-unknown"}, "", notFound},
		{"mDNS that is not asked", []string{"mdns-missing"}, "", func(d *doctor) { notFound(d); d.host = "pi.local" }},
		{"mDNS that only the C library asks", []string{"name-only-libc", "port-refused"}, "", func(d *doctor) {
			notFound(d)
			d.host, d.getent = "pi.local", func(context.Context, string) ([]string, error) { return []string{doctorAddress}, nil }
		}},
		{"a DNS server that is silent", []string{"name-server-fails"}, "", func(d *doctor) {
			d.lookup = func(_ context.Context, host string) ([]string, error) {
				return nil, &net.DNSError{Err: "i/o timeout", Name: host, IsTimeout: true, IsTemporary: true}
			}
		}},
		{"a name that is this machine's", []string{"name-is-loopback", "port-refused"}, "", func(d *doctor) {
			d.file(t, "/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 hub.lan hub\n")
			d.lookup = func(context.Context, string) ([]string, error) { return []string{"127.0.1.1"}, nil }
		}},
		{"a name that is for Docker Hub", []string{"name-of-docker-hub", "port-refused"}, "", func(d *doctor) { d.host, d.port = "hub", "" }},
		{"nothing on the port", []string{"port-refused"}, "", func(*doctor) {}},
		{"a firewall", []string{"port-filtered"}, "", dials(errDialTimeout)},
		{"another network", []string{"no-route"}, "", dials(errDialNoRoute)},
		{"the registry on another port", []string{"port-other"}, "", func(d *doctor) {
			d.dial = func(_ context.Context, _, address string) (net.Conn, error) {
				if strings.HasSuffix(address, ":443") {
					a, b := net.Pipe()
					b.Close()
					return a, nil
				}
				return nil, errDialRefused
			}
		}},
		{"an SSH server", []string{"other-program"}, ssh.Addr().String(), func(*doctor) {}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			d := doctorAt(t, x.at)
			x.change(d)
			d.wantFaults(t, x.faults...)
		})
	}
}

// Of several addresses those that do not work are named, and the way is by another.
func TestDoctorSeveralAddresses(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	for _, x := range []struct{ address, fault string }{{"192.0.2.99", "address-refuses"}, {"2001:db8::1", "ipv6-broken"}} {
		d := doctorAt(t, r.http.Listener.Addr().String())
		d.lookup = func(context.Context, string) ([]string, error) { return []string{x.address, doctorAddress}, nil }
		d.wantFaults(t, x.fault)
	}
}

func TestDoctorWhatAnswers(t *testing.T) {
	t.Parallel()
	answer := func(status int, server, kind, body string, headers ...string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Server", server)
			w.Header().Set("Content-Type", kind)
			for _, h := range headers {
				key, value, _ := strings.Cut(h, ": ")
				w.Header().Set(key, value)
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		})
	}
	for _, x := range []struct {
		name, fault string
		handler     http.Handler
	}{
		{"AirPlay", "airplay", answer(403, "AirTunes/775.3.1", "", "")},
		{"a web server", "not-a-registry", answer(404, "Apache/2.4", "text/html", "<html>")},
		{"a page for all paths", "not-a-registry", answer(200, "nginx", "text/html", "<html>")},
		{"a proxy without its registry", "gateway-fails", answer(502, "nginx/1.22.1", "text/html", "<html>")},
		{"a redirect to https", "redirects-to-https", answer(301, "nginx", "text/html", "", "Location: https://hub.lan/v2/")},
		{"a redirect to a login page", "redirects", answer(302, "", "text/html", "", "Location: /login")},
		{"a proxy that refuses", "proxy-refuses", answer(403, "cloudflare", "text/html", "<html>")},
		{"a challenge that is dropped", "challenge-missing", answer(401, "nginx", "text/html", "<html>")},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			doctorAt(t, inPlain(t, x.handler)).wantFaults(t, x.fault)
		})
	}
}

func TestDoctorClock(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := doctorAt(t, r.http.Listener.Addr().String())
	d.now = func() time.Time { return time.Now().Add(26 * time.Hour) }
	d.wantFaults(t, "clocks-differ")
	if !d.says("ahead of") {
		t.Errorf("it does not say which clock is ahead: %+v", d.list)
	}
}

func TestDoctorCertificates(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	between := intermediate(t, ca)
	byAddress := func(d *doctor) {
		d.host = doctorAddress
	}
	for _, x := range []struct {
		name, fault string
		pair        tls.Certificate
		change      func(*doctor)
	}{
		{"another name", "certificate-name", certified(t, ca, func(c *x509.Certificate) { c.DNSNames = []string{"pi.lan"} }), nil},
		{"an address", "certificate-no-ip", certified(t, ca), byAddress},
		{"no names at all", "certificate-no-san", certified(t, ca, func(c *x509.Certificate) { c.DNSNames = nil }), nil},
		{"expired", "certificate-expired", certified(t, ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), nil},
		{"expires", "certificate-expires", certified(t, ca, func(c *x509.Certificate) {
			c.NotAfter = time.Now().Add(time.Hour)
			c.NotBefore = time.Now().Add(-90 * 24 * time.Hour)
		}), nil},
		{"not yet valid", "certificate-not-yet-valid", certified(t, ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), nil},
		{"no intermediate", "certificate-no-intermediate", certified(t, between, func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://ca.example/i.crt"} }), nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t)
			d := doctorAt(t, behindTLS(t, x.pair, r.server.handler()))
			d.file(t, bundles[0], string(ca.pem()))
			if x.change != nil {
				x.change(d)
			}
			d.wantFaults(t, x.fault)
		})
	}
}

// intermediate is a CA that another has signed.
func intermediate(t testing.TB, ca *issuer) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Intermediate"}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t, cert, key}
}

// What clients are configured to trust, each with its own files.
func TestDoctorTrust(t *testing.T) {
	t.Parallel()
	ca, other := newIssuer(t), newIssuer(t)
	r := startRegistry(t)
	secure := behindTLS(t, certified(t, ca), r.server.handler())
	plain := r.http.Listener.Addr().String()
	good, wrong := string(ca.pem()), string(other.pem())
	type files map[string]string
	for _, x := range []struct {
		name   string
		at     string
		files  files
		faults []string
	}{
		{"no client, no trust", secure, files{}, []string{"system-trust"}},
		{"the system's store", secure, files{bundles[0]: good, "/etc/docker/daemon.json": "{}"}, nil},
		{"an anchor that was not taken over", secure, files{"/usr/local/share/ca-certificates/hub.crt": good}, []string{"store-not-updated"}},
		{"an anchor of Fedora's that was not taken over", secure, files{"/etc/pki/ca-trust/source/anchors/hub.crt": good}, []string{"store-not-updated"}},
		{"an anchor of Arch's that was not taken over", secure, files{"/etc/ca-certificates/trust-source/anchors/hub.crt": good}, []string{"store-not-updated"}},
		{"an anchor of openSUSE's that was not taken over", secure, files{"/etc/pki/trust/anchors/hub.crt": good}, []string{"store-not-updated"}},
		{"an anchor that is not named .crt", secure, files{"/usr/local/share/ca-certificates/hub.pem": good}, []string{"store-file-name"}},
		{"docker without the CA", secure, files{"/etc/docker/daemon.json": "{}"}, []string{"docker-trust"}},
		{"docker with another CA", secure, files{"/etc/docker/certs.d/hub.lan:5000/ca.crt": wrong}, []string{"docker-other-ca"}},
		{"docker with a CA that is not read", secure, files{"/etc/docker/certs.d/hub.lan:5000/ca.pem": good}, []string{"docker-ca-name", "docker-trust"}},
		{"docker with a CA of another port", secure, files{"/etc/docker/certs.d/hub.lan/ca.crt": good}, []string{"docker-ca-port", "docker-trust"}},
		{"docker with an empty CA", secure, files{"/etc/docker/certs.d/hub.lan:5000/ca.crt": "hello"}, []string{"docker-ca-damaged"}},
		{"docker with the CA", secure, files{"/etc/docker/certs.d/hub.lan:5000/ca.crt": good}, nil},
		{"docker without root", secure, files{"/home/kim/.config/docker/daemon.json": "{}", "/home/kim/.config/docker/certs.d/hub.lan:5000/ca.crt": good}, nil},
		{"docker that verifies nothing", secure, files{"/etc/docker/daemon.json": `{"insecure-registries": ["hub.lan:5000"]}`}, nil},
		{"docker that is broken", secure, files{"/etc/docker/daemon.json": "{\n \"a\": 1,\n}"}, []string{"docker-config-damaged", "docker-trust"}},
		{"docker in plain HTTP", plain, files{"/etc/docker/daemon.json": "{}"}, []string{"docker-plain"}},
		{"docker in plain HTTP, for another port", plain, files{"/etc/docker/daemon.json": `{"insecure-registries": ["hub.lan"]}`}, []string{"docker-plain"}},
		{"docker in plain HTTP, allowed", plain, files{"/etc/docker/daemon.json": `{"insecure-registries": ["hub.lan:5000"]}`}, nil},
		{"docker in plain HTTP, by network", plain, files{"/etc/docker/daemon.json": `{"insecure-registries": ["192.0.2.0/24"]}`}, nil},
		{"docker in plain HTTP, by its unit", plain, files{"/etc/systemd/system/docker.service.d/x.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --insecure-registry hub.lan:5000\n", "/etc/docker/key.json": "{}"}, nil},
		{"podman without the CA", secure, files{"/etc/containers/policy.json": "{}"}, []string{"podman-trust"}},
		{"podman with docker's CA", secure, files{"/etc/containers/policy.json": "{}", "/etc/docker/certs.d/hub.lan:5000/ca.crt": good}, nil},
		{"podman whose own directory comes first", secure, files{"/home/kim/.config/containers/certs.d/hub.lan:5000/ca.crt": wrong, "/etc/containers/certs.d/hub.lan:5000/ca.crt": good}, []string{"podman-other-ca"}},
		{"podman that verifies nothing", secure, files{"/etc/containers/registries.conf": "[[registry]]\nlocation = \"hub.lan:5000\"\ninsecure = true\n"}, nil},
		{"podman in plain HTTP", plain, files{"/etc/containers/policy.json": "{}"}, []string{"podman-plain"}},
		{"podman in plain HTTP, by a wildcard", plain, files{"/etc/containers/registries.conf.d/x.conf": "[[registry]]\nprefix = \"*.lan\"\ninsecure = true\n"}, nil},
		{"podman in plain HTTP, in version 1", plain, files{"/etc/containers/registries.conf": "[registries.insecure]\nregistries = ['hub.lan:5000']\n"}, nil},
		{"podman, where a longer prefix says no", plain, files{"/etc/containers/registries.conf": "[[registry]]\nlocation = \"hub.lan\"\ninsecure = true\n[[registry]]\nlocation = \"hub.lan:5000\"\n"}, []string{"podman-plain"}},
		{"podman that is blocked", secure, files{bundles[0]: good, "/etc/containers/registries.conf": "[[registry]]\nlocation = \"hub.lan:5000\"\nblocked = true\n"}, []string{"podman-blocked"}},
		{"podman that is sent elsewhere", secure, files{bundles[0]: good, "/etc/containers/registries.conf": "[[registry]]\nprefix = \"hub.lan:5000\"\nlocation = \"old.lan\"\n"}, []string{"podman-elsewhere"}},
		{"podman that is broken", secure, files{bundles[0]: good, "/etc/containers/registries.conf": "[[registry]\n"}, []string{"podman-config-damaged"}},
		{"containerd without the CA", secure, files{"/etc/containerd/config.toml": "version = 2\n"}, []string{"containerd-trust"}},
		{"containerd that serves docker alone", plain, files{"/etc/containerd/config.toml": "version = 2\n", "/etc/docker/daemon.json": `{"insecure-registries": ["hub.lan:5000"]}`}, nil},
		{"containerd with the CA", secure, files{"/etc/containerd/config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
			"/etc/containerd/certs.d/hub.lan:5000/hosts.toml": "server = \"https://hub.lan:5000\"\n[host.\"https://hub.lan:5000\"]\nca = \"ca.crt\"\n", "/etc/containerd/certs.d/hub.lan:5000/ca.crt": good}, nil},
		{"containerd 2 with docker's CA", secure, files{"/etc/containerd/config.toml": "version = 3\n", "/etc/docker/certs.d/hub.lan:5000/ca.crt": good}, nil},
		{"containerd by an import", secure, files{"/etc/containerd/config.toml": "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n",
			"/etc/containerd/conf.d/a.toml": "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/c\"\n", "/etc/c/hub.lan_5000_/ca.crt": good}, nil},
		{"containerd that Kubernetes does not have look", secure, files{"/etc/containerd/config.toml": "version = 2\n", "/etc/containerd/certs.d/hub.lan:5000/ca.crt": good}, []string{"containerd-no-config-path"}},
		{"containerd with a CA that is not there", secure, files{"/etc/containerd/config.toml": "version = 3\n", "/etc/containerd/certs.d/hub.lan:5000/hosts.toml": "ca = \"/none.crt\"\n"}, []string{"containerd-ca-missing"}},
		{"containerd that verifies nothing", secure, files{"/etc/containerd/config.toml": "version = 3\n", "/etc/containerd/certs.d/_default/hosts.toml": "skip_verify = true\n"}, nil},
		{"containerd that is to speak plain HTTP", secure, files{"/etc/containerd/config.toml": "version = 3\n", "/etc/containerd/certs.d/hub.lan:5000/hosts.toml": "server = \"http://hub.lan:5000\"\n"}, []string{"containerd-wants-plain"}},
		{"containerd in plain HTTP", plain, files{"/etc/containerd/config.toml": "version = 3\n", "/etc/containerd/certs.d/hub.lan:5000/hosts.toml": "server = \"http://hub.lan:5000\"\n"}, nil},
		{"containerd whose hosts.toml is broken", plain, files{"/etc/containerd/config.toml": "version = 3\n", "/etc/containerd/certs.d/hub.lan:5000/hosts.toml": "server = http\n"}, []string{"containerd-hosts-damaged", "containerd-plain"}},
		{"k3s without the CA", secure, files{"/etc/rancher/k3s/config.yaml": ""}, []string{"k3s-trust"}},
		{"k3s with the CA", secure, files{"/etc/rancher/k3s/registries.yaml": "# ours\nconfigs:\n  hub.lan:5000:\n    tls:\n      ca_file: /etc/x.crt\n", "/etc/x.crt": good}, nil},
		{"k3s that verifies nothing", secure, files{"/etc/rancher/k3s/registries.yaml": "configs:\n  'hub.lan:5000':\n    tls:\n      insecure_skip_verify: true\n"}, nil},
		{"k3s in plain HTTP", plain, files{"/etc/rancher/k3s/registries.yaml": "mirrors:\n  \"hub.lan:5000\":\n    endpoint:\n    - http://hub.lan:5000\n"}, nil},
		{"k3s in plain HTTP, in brackets", plain, files{"/etc/rancher/k3s/registries.yaml": "mirrors:\n  \"hub.lan:5000\":\n    endpoint: [\"http://hub.lan:5000\"]\n"}, nil},
		{"k3s in plain HTTP, not told", plain, files{"/etc/rancher/k3s/registries.yaml": "mirrors:\n  docker.io:\n    endpoint:\n      - \"http://hub.lan:5000\"\n"}, []string{"k3s-plain"}},
		{"k3s with what is not read", secure, files{"/etc/rancher/k3s/registries.yaml": "configs: &a\n  x: 1\n"}, []string{"k3s-not-understood", "k3s-trust"}},
		{"BuildKit without the CA", secure, files{"/etc/buildkit/buildkitd.toml": ""}, []string{"buildkit-trust"}},
		{"BuildKit with the CA", secure, files{"/etc/buildkit/buildkitd.toml": "[registry.\"hub.lan:5000\"]\nca = [\"/etc/x.crt\"]\n", "/etc/x.crt": good}, nil},
		{"BuildKit that is to speak plain HTTP", secure, files{"/etc/buildkit/buildkitd.toml": "[registry.\"hub.lan:5000\"]\nhttp = true\n"}, []string{"buildkit-wants-plain"}},
		{"BuildKit in plain HTTP", plain, files{"/etc/buildkit/buildkitd.toml": "[registry.\"hub.lan:5000\"]\nhttp = true\n"}, nil},
		{"BuildKit in plain HTTP, not told", plain, files{"/etc/buildkit/buildkitd.toml": ""}, []string{"buildkit-plain"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			d := doctorAt(t, x.at)
			d.noPush = true
			for path, text := range x.files {
				d.file(t, path, text)
			}
			d.wantFaults(t, x.faults...)
		})
	}
}

// What berth trust --script does to a machine, the doctor finds good for every client there, and
// what it advises are the lines that berth trust prints.
func TestDoctorAgreesWithTrust(t *testing.T) {
	slow(t)
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto", names: []string{"hub.lan"}})
	r := startRegistry(t)
	s.stop()
	s = newSecure(t, s.o)
	s.http.Handler = r.server.handler()
	s.start()
	d := doctorAt(t, s.addr)
	d.noPush = true
	for _, dir := range []string{"docker", "containers", "containerd", "kubernetes", "rancher/k3s", "buildkit"} {
		if err := os.MkdirAll(filepath.Join(d.root, "etc", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.file(t, "/etc/containerd/config.toml", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n")
	before := *d
	d.wantFaults(t, "docker-trust", "podman-trust", "containerd-trust", "k3s-trust", "buildkit-trust")
	for _, line := range []string{"sudo cp ca.crt '/etc/docker/certs.d/hub.lan:5000/ca.crt'", "sudo cp ca.crt '/etc/containers/certs.d/hub.lan:5000/ca.crt'",
		`ca = "/etc/containerd/certs.d/hub.lan:5000/ca.crt"`, `[registry."hub.lan:5000"]`, "registries.yaml has", "curl -fsSo ca.crt http://hub.lan:5000/trust.crt",
		"ssh hub.lan 'berth trust hub.lan:5000 --script --data DIR' | sudo sh", "DIR is the registry's data directory"} {
		if !d.says(line) {
			t.Errorf("the doctor does not advise %s", line)
		}
	}
	var script strings.Builder
	if err := trustScript().Execute(&script, trustIn("hub.lan:5000", s.c.authority.cert.Raw)); err != nil {
		t.Fatal(err)
	}
	if out, err := runScript(t, "sh", script.String(), d.root); err != nil {
		t.Fatalf("the script: %v\n%s", err, out)
	}
	before.wantFaults(t)
}

func TestDoctorProxiesOfTheEnvironment(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	deaf := inPlain(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "forbidden", http.StatusForbidden) }))
	reach := func(d *doctor) {
		before := d.dial
		d.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == deaf {
				return new(net.Dialer).DialContext(ctx, network, address)
			}
			return before(ctx, network, address)
		}
	}
	at := r.http.Listener.Addr().String()
	d := doctorAt(t, at)
	reach(d)
	d.noPush, d.env = true, environment{"http_proxy=http://" + deaf}
	d.wantFaults(t, "proxy-catches")
	d = doctorAt(t, at)
	d.noPush, d.env = true, environment{"HTTP_PROXY=http://" + deaf, "NO_PROXY=localhost,.lan"}
	d.wantFaults(t)
	d = doctorAt(t, at).file(t, "/etc/docker/daemon.json", `{"insecure-registries": ["hub.lan:5000"]}`)
	d.file(t, "/etc/systemd/system/docker.service.d/proxy.conf", "[Service]\nEnvironment=\"HTTP_PROXY=http://"+deaf+"\" \"NO_PROXY=localhost\"\n")
	reach(d)
	d.noPush = true
	d.wantFaults(t, "proxy-catches")
	if !d.says(`Environment="NO_PROXY=localhost,hub.lan"`) {
		t.Errorf("the line for the unit is missing: %+v", d.list)
	}
}

func TestDoctorLogin(t *testing.T) {
	t.Parallel()
	const rules = "[[rule]]\nwho = [\"users\"]\nrepositories = [\"home/**\"]\nallow = [\"push\", \"delete\"]\n"
	ca := newIssuer(t)
	r := startRegistry(t, guarded(rules, "kim"), believesProxies)
	wary := startRegistry(t, guarded(rules, "kim"))
	for _, x := range []struct {
		name           string
		handler        http.Handler
		user, password string
		repository     string
		bundle         string
		faults         []string
	}{
		{"well", proxyTo(r), "kim", "kim-secret", "home/app", string(ca.pem()), nil},
		{"no user", proxyTo(r), "", "", "home/app", string(ca.pem()), nil}, // which is a note
		{"a wrong password", proxyTo(r), "kim", "wrong", "home/app", string(ca.pem()), []string{"password-wrong"}},
		{"a server that nothing here trusts", proxyTo(r), "kim", "kim-secret", "home/app", "", []string{"password-not-sent", "system-trust"}},
		{"a repository that is another's", proxyTo(r), "kim", "kim-secret", "work/app", string(ca.pem()), []string{"push-denied"}},
		{"a proxy that keeps the password", proxyTo(r, rewritten(func(x *httputil.ProxyRequest) { x.Out.Header.Del("Authorization") })), "kim", "kim-secret", "home/app", string(ca.pem()), []string{"authorization-dropped"}},
		{"a proxy that keeps tokens", proxyTo(r, rewritten(func(x *httputil.ProxyRequest) {
			if strings.HasPrefix(x.Out.Header.Get("Authorization"), "Bearer ") {
				x.Out.Header.Del("Authorization")
			}
		})), "kim", "kim-secret", "home/app", string(ca.pem()), []string{"authorization-dropped"}},
		{"a proxy that does not tell of TLS", proxyTo(r, rewritten(func(x *httputil.ProxyRequest) { x.Out.Header.Set("X-Forwarded-Proto", "http") })), "kim", "kim-secret", "home/app", string(ca.pem()), []string{"realm-http"}},
		{"a proxy that is not believed", proxyTo(wary), "kim", "kim-secret", "home/app", string(ca.pem()), []string{"realm-http"}},
		{"a proxy that sends uploads to http", proxyTo(r, answering(func(r *http.Response) {
			if at := r.Header.Get("Location"); strings.HasPrefix(at, "/") {
				r.Header.Set("Location", "http://hub.lan:5000"+at)
			}
		})), "kim", "kim-secret", "home/app", string(ca.pem()), []string{"location-scheme"}},
		{"a proxy that keeps the name", proxyTo(r, rewritten(func(x *httputil.ProxyRequest) {
			x.Out.Host = "inner:5000"
			x.Out.Header.Set("X-Forwarded-Host", "inner:5000")
		})), "kim", "kim-secret", "home/app", string(ca.pem()), []string{"realm-inner"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			d := doctorAt(t, behindTLS(t, certified(t, ca), x.handler))
			d.user, d.password, d.repository = x.user, x.password, x.repository
			if x.bundle != "" {
				d.file(t, bundles[0], x.bundle)
			}
			d.wantFaults(t, x.faults...)
		})
	}
	// The password went nowhere that is not trusted.
	if strings.Contains(r.log.String(), "wrong") && strings.Contains(r.log.String(), "kim-secret") {
		t.Error("a password is in the log")
	}
}

// What a server says never becomes a line to type, unless it is a name.
func TestDoctorTypesNothingOfStrangers(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://auth$(id).lan/token",service="x"`)
		w.Header().Set("Server", "nginx$(id)")
		w.WriteHeader(401)
	})
	d := doctorAt(t, behindTLS(t, certified(t, ca, func(c *x509.Certificate) { c.DNSNames = []string{"a$(id).lan", "b\x1b[2J.lan"} }), handler)).file(t, bundles[0], string(ca.pem()))
	d.wantFaults(t, "certificate-name", "realm-unreachable")
	for _, x := range d.list {
		for _, line := range x.Lines {
			if strings.Contains(line, "$(id)") {
				t.Errorf("%s: a line to type is %s", x.Fault, line)
			}
		}
	}
	var b bytes.Buffer
	out := newConsole(&b, false)
	for _, x := range d.list {
		x.write(out)
	}
	d.writeRemedies(out)
	if strings.ContainsRune(b.String(), '\x1b') {
		t.Errorf("what is printed could control a terminal: %q", b.String())
	}
}

func TestDoctorPasswordStaysOutOfPlainHTTP(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	r := startRegistry(t, guarded("", "kim"))
	p := proxyTo(r, rewritten(func(x *httputil.ProxyRequest) { asked <- x.In.Header.Get("Authorization") }))
	d := doctorAt(t, inPlain(t, p))
	d.user, d.password = "kim", "kim-secret"
	d.wantFaults(t, "password-not-sent")
	close(asked)
	for header := range asked {
		if header != "" {
			t.Errorf("a password was sent in the clear: %s", header)
		}
	}
	d = doctorAt(t, inPlain(t, proxyTo(r))).file(t, "/etc/docker/daemon.json", `{"insecure-registries": ["hub.lan:5000"]}`)
	d.user, d.password = "kim", "kim-secret"
	d.wantFaults(t, "password-in-clear")
}

// What proxies do to pushes and pulls.
func TestDoctorProxies(t *testing.T) {
	t.Parallel()
	html := func(w http.ResponseWriter, status int) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Server", "nginx/1.22.1")
		w.WriteHeader(status)
		io.WriteString(w, "<html>no</html>")
	}
	blocks := func(method string, status int) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == method {
					html(w, status)
					return
				}
				next.ServeHTTP(w, r)
			})
		}
	}
	drops := func(headers ...string) func(*httputil.ReverseProxy) {
		return answering(func(r *http.Response) {
			for _, h := range headers {
				r.Header.Del(h)
			}
		})
	}
	for _, x := range []struct {
		name   string
		faults []string
		worsen func(*httputil.ReverseProxy)
		around func(http.Handler) http.Handler
	}{
		{name: "a good one"},
		{name: "bodies of 1 MiB", faults: []string{"body-limit"}, around: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20)); err != nil {
					html(w, 413)
				} else {
					r.Body = io.NopCloser(bytes.NewReader(text))
					next.ServeHTTP(w, r)
				}
			})
		}},
		{name: "no chunks", faults: []string{"chunked-refused"}, around: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ContentLength < 0 {
					html(w, 411)
					return
				}
				next.ServeHTTP(w, r)
			})
		}},
		{name: "no PATCH", faults: []string{"method-blocked"}, around: blocks("PATCH", 405)},
		{name: "no PUT", faults: []string{"method-blocked"}, around: blocks("PUT", 403)},
		{name: "no POST", faults: []string{"method-blocked"}, around: blocks("POST", 403)},
		{name: "no DELETE", faults: []string{"method-blocked"}, around: blocks("DELETE", 405)},
		{name: "no HEAD", faults: []string{"head-dropped"}, around: blocks("HEAD", 405)},
		{name: "gone at a push", faults: []string{"gateway-fails"}, around: blocks("PATCH", 504)},
		{name: "no Location", faults: []string{"location-missing"}, worsen: drops("Location")},
		{name: "a Location of its inside", faults: []string{"location-inner"}, worsen: answering(func(r *http.Response) {
			if at := r.Header.Get("Location"); at != "" {
				to, _ := url.Parse(at)
				r.Header.Set("Location", "http://127.0.0.1:5000"+to.RequestURI())
			}
		})},
		{name: "no digests", faults: []string{"header-docker-content-digest"}, worsen: drops("Docker-Content-Digest")},
		{name: "another type", faults: []string{"header-content-type"}, worsen: answering(func(r *http.Response) {
			if strings.Contains(r.Request.URL.Path, "/manifests/") {
				r.Header.Set("Content-Type", "application/json")
			}
		})},
		{name: "no lengths", faults: []string{"header-content-length"}, worsen: answering(func(r *http.Response) {
			if r.Request.Method == "HEAD" {
				r.Header.Del("Content-Length")
			}
		})},
		{name: "no ranges", faults: []string{"ranges-dropped"}, worsen: rewritten(func(x *httputil.ProxyRequest) { x.Out.Header.Del("Range") })},
		{name: "no Link", faults: []string{"link-dropped"}, worsen: drops("Link")},
		{name: "a Link of its inside", faults: []string{"link-inner"}, worsen: answering(func(r *http.Response) {
			if r.Header.Get("Link") != "" {
				r.Header.Set("Link", `<http://inner/v2/x/tags/list?n=1>; rel="next"`)
			}
		})},
		{name: "a broken Link", faults: []string{"link-broken"}, around: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("last") != "" {
					html(w, 404)
					return
				}
				next.ServeHTTP(w, r)
			})
		}},
		{name: "compression", faults: []string{"compressed"}, worsen: answering(func(r *http.Response) {
			if r.Request.Method == "GET" && r.StatusCode == 200 && !strings.HasSuffix(r.Request.URL.Path, "/v2/") && !strings.HasSuffix(r.Request.URL.Path, "/list") {
				text, _ := io.ReadAll(r.Body)
				var b bytes.Buffer
				z := gzip.NewWriter(&b)
				z.Write(text)
				z.Close()
				r.Body, r.ContentLength = io.NopCloser(&b), int64(b.Len())
				r.Header.Set("Content-Length", fmt.Sprint(b.Len()))
				r.Header.Set("Content-Encoding", "gzip")
			}
		})},
		{name: "other bytes", faults: []string{"bytes-changed"}, worsen: answering(func(r *http.Response) {
			if r.Request.Method == "GET" && strings.Contains(r.Request.URL.Path, "/blobs/") && r.StatusCode == 200 {
				text, _ := io.ReadAll(r.Body)
				text[0]++
				r.Body = io.NopCloser(bytes.NewReader(text))
			}
		})},
		{name: "queries that are quoted twice", faults: []string{"query-changed"}, worsen: rewritten(func(x *httputil.ProxyRequest) {
			x.Out.URL.RawQuery = strings.ReplaceAll(x.Out.URL.RawQuery, "%", "%25")
		})},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t, believesProxies)
			r.pushImage("home/app", "1", "config", "layer") // so that a list has a second page
			r.pushImage("home/web", "1", "config", "layer")
			p := proxyTo(r)
			if x.worsen != nil {
				x.worsen(p)
			}
			var handler http.Handler = p
			if x.around != nil {
				handler = x.around(p)
			}
			d := doctorAt(t, inPlain(t, handler))
			d.largest = 3 << 20
			d.wantFaults(t, x.faults...)
		})
	}
}

// A registry by itself has nothing wrong, and afterwards no image of the doctor's.
func TestDoctorFindsNothing(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := doctorAt(t, r.http.Listener.Addr().String())
	d.largest = 3 << 20
	d.wantFaults(t)
	d = doctorAt(t, r.http.Listener.Addr().String())
	d.repository = "home/app"
	r.pushImage("home/app", "1", "config", "layer")
	d.wantFaults(t)
	if re := r.want(200, "GET", "/v2/home/app/tags/list", nil); string(re.body) != `{"name":"home/app","tags":["1"]}`+"\n" && string(re.body) != `{"name":"home/app","tags":["1"]}` {
		t.Errorf("the tags of a repository that was named are %s", re.body)
	}

	// Nothing is pushed to a registry that takes none.
	r = startRegistry(t, func(c *config) { c.readOnly = true })
	d = doctorAt(t, r.http.Listener.Addr().String())
	d.wantFaults(t, "registry-read-only")
	if !d.says("berth doctor --no-push hub.lan:5000") {
		t.Errorf("the doctor does not say how to examine pulls alone: %+v", d.list)
	}
}

// A proxy that speaks plain HTTP with a Berth that has TLS is named by what Berth answers it, before any password is asked for.
func TestDoctorProxySpeaksPlainToTLS(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto"})
	to, err := url.Parse("http://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{ErrorLog: quietLog, Rewrite: func(x *httputil.ProxyRequest) { x.SetURL(to); x.Out.Host = x.In.Host }}
	d := doctorAt(t, inPlain(t, proxy))
	d.user, d.password = "kim", "right"
	d.wantFaults(t, "backend-wants-https")
}

// The command, as it is typed: lines of at most 80 columns, the remedies at the end, exit codes.
func TestDoctorCommand(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	at := r.http.Listener.Addr().String()
	doctor := func(stdin string, args ...string) (out string, code int) {
		var b bytes.Buffer
		err := run(t.Context(), append([]string{"doctor"}, args...), noEnv, strings.NewReader(stdin), &b, io.Discard)
		code, _ = exitCode(err)
		if code == 2 {
			return err.Error(), code
		}
		return b.String(), code
	}
	out, _ := doctor("", at, "--size", "4KiB")
	if !strings.Contains(out, "ok       pull         all comes back as it was pushed") {
		t.Errorf("berth doctor says\n%s", out)
	}
	text, _, _ := strings.Cut(out, "What to do:")
	for line := range strings.Lines(text) {
		if len(line) > 81 {
			t.Errorf("a line has %d columns: %s", len(line)-1, line)
		}
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if out, code := doctor("", closed.Addr().String()); code != 1 || !strings.Contains(out, "PROBLEM  port") || !strings.Contains(out, "What to do:\n 1. port: ") || !strings.HasSuffix(out, "\n1 problem\n") {
		t.Errorf("berth doctor of a closed port ends with %d and says\n%s", code, out)
	}
	out, code := doctor("", closed.Addr().String(), "--json")
	var answer struct {
		Well     bool
		Findings []diagnosis
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || code != 1 || answer.Well || answer.Findings[len(answer.Findings)-1].Fault != "port-refused" {
		t.Errorf("berth doctor --json ends with %d and says\n%s", code, out)
	}
	for arg, want := range map[string]string{"https://hub.lan": "give the name without", "hub lan": "not a registry's", "hub.lan/UPPER": "not a repository's name"} {
		if out, code := doctor("", arg); code != 2 || !strings.Contains(out, want) {
			t.Errorf("berth doctor %q ends with %d and says %s", arg, code, out)
		}
	}
	if out, code := doctor("", "--user", "kim"); code != 2 {
		t.Errorf("berth doctor --user without a host ends with %d and says %s", code, out)
	}
}

func TestPlainYAML(t *testing.T) {
	t.Parallel()
	tree, err := readPlainYAML([]byte("---\nmirrors: # all\n  \"a:5000\":\n    endpoint:\n      - \"https://a:5000\"\n      - http://b\n  '*':\n    endpoint: [ 'https://c' ]\nconfigs:\n  a:5000:\n    auth:\n      username: kim\n      password: 'x y'\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		want string
		path []string
	}{
		{"https://a:5000 http://b", []string{"mirrors", "a:5000", "endpoint"}},
		{"https://c", []string{"mirrors", "*", "endpoint"}},
		{"x y", []string{"configs", "a:5000", "auth", "password"}},
		{"", []string{"configs", "none", "auth"}},
	} {
		if got := strings.Join(yamlStrings(tree, x.path...), " "); got != x.want {
			t.Errorf("%v is %q, want %q", x.path, got, x.want)
		}
	}
	for _, bad := range []string{"a: {b: c}", "a: |\n  b", "\ta: b", "a: &x\n", "- a\n", "a:\n    b: c\n  d: e\n", "a\n", "a: b\n  c: d\n", "\"a: b\n"} {
		if tree, err := readPlainYAML([]byte(bad)); err == nil {
			t.Errorf("%q is %v, want an error", bad, tree)
		}
	}
}
