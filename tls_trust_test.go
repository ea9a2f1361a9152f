// How other machines come to trust the local CA.

package main

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// trustGet asks for a page in plain HTTP, by a host name.
func (s *secureServer) trustGet(path, host string) *reply {
	s.t.Helper()
	return rawHTTP(s.t, s.addr, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
}

func TestTrustPage(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto"})
	re := s.trustGet("/trust", "pi.lan:5000").has("Content-Type", "text/html; charset=utf-8")
	page := string(re.body)
	for _, want := range []string{s.c.fingerprint(), "/etc/docker/certs.d/pi.lan:5000/ca.crt", "/etc/containers/certs.d/pi.lan:5000/ca.crt",
		"/etc/containerd/certs.d/pi.lan:5000/hosts.toml", "config_path", "registries.yaml", "buildkitd.toml", "--registry-auth-tlscontext", "update-ca-certificates",
		"update-ca-trust", "trust anchor", "add-trusted-cert", "certutil", "plain HTTP", "berth trust"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	_, style, _ := strings.Cut(page, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	hash := sha256.Sum256([]byte(style))
	if policy := re.header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(hash[:])+"'") {
		t.Errorf("Content-Security-Policy %q does not allow the page's style", policy)
	}
	if regexp.MustCompile(`(?i)<script|<link|<img|src=|style=|@import`).MatchString(page) {
		t.Errorf("the page wants what its policy forbids:\n%s", page)
	}

	re = s.trustGet("/trust.crt", "pi.lan:5000").has("Content-Type", "application/x-x509-ca-cert")
	if block, _ := pem.Decode(re.body); block == nil || fingerprint(block.Bytes) != s.c.fingerprint() {
		t.Errorf("/trust.crt is %s", re.body)
	}
	if re := s.trustGet("/trust/x", "pi.lan:5000"); re.status != 308 {
		t.Errorf("GET /trust/x = %d", re.status)
	}
	re = rawHTTP(t, s.addr, "POST /trust HTTP/1.1\r\nHost: pi.lan\r\nConnection: close\r\n\r\n").has("Allow", "GET, HEAD")
	if re.status != 405 {
		t.Errorf("POST /trust = %d, want 405", re.status)
	}
	re = rawHTTP(t, s.addr, "HEAD /trust HTTP/1.1\r\nHost: pi.lan\r\nConnection: close\r\n\r\n")
	if re.status != 200 || len(re.body) != 0 {
		t.Errorf("HEAD /trust = %d with %d bytes", re.status, len(re.body))
	}

	// By TLS it is the same, without the warning.
	s.stop()
	s = newSecure(t, s.o)
	s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.c.trust().ServeHTTP(w, r) })
	s.start()
	body, err := s.get(&tls.Config{RootCAs: s.roots()}, "https://pi.lan/trust")
	if err != nil || !strings.Contains(body, s.c.fingerprint()) || strings.Contains(body, "came over plain HTTP") {
		t.Errorf("by TLS: %v\n%s", err, body)
	}
}

// A Host header is a stranger's text, and lands in a page and in a script that
// root runs.
func TestTrustRefusesHostThatIsNone(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto"})
	for _, host := range []string{"", "a'b", "a;id", "$(id)", "`id`", "a&b", "<b>", "..", ".", "a/../b", "-rf", "a..b", "pi.lan:x", "pi.lan:0", "pi.lan:80:80",
		"[::1", "[fe80::1%25x]", "a\\b", "*", strings.Repeat("a", 256), "pi.lan:5000'"} {
		for _, path := range []string{"/trust", "/trust.sh", "/trust.crt"} {
			if re := s.trustGet(path, host); re.status != 400 {
				t.Errorf("%s of host %q = %d, want 400\n%.200s", path, host, re.status, re.body)
			}
		}
	}
	for host, want := range map[string]string{"Pi.LAN:05000": "pi.lan:5000", "[FD00::1]:5000": "[fd00::1]:5000", "192.168.1.5:443": "192.168.1.5", "a_b": "a_b"} {
		if re := s.trustGet("/trust.sh", host); !strings.Contains(string(re.body), "\nhost='"+want+"'\n") {
			t.Errorf("the script for %s is not for %s:\n%.300s", host, want, re.body)
		}
	}
}

// runScript runs a script for the system below root.
func runScript(t testing.TB, shell, script, root string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(shell, append([]string{"-s", "--"}, args...)...)
	cmd.Stdin = strings.NewReader(script)
	cmd.Env = append(os.Environ(), "BERTH_ROOT="+root)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestTrustScript(t *testing.T) {
	slow(t)
	t.Parallel()
	if runtime.GOOS == "windows" {
		notHere(t, unixShells)
	}
	s := startSecure(t, tlsOptions{mode: "auto"})
	script := string(s.trustGet("/trust.sh", "pi.lan:5000").has("Content-Type", "text/x-shellscript; charset=utf-8").body)
	certificate := string(s.trustGet("/trust.crt", "pi.lan:5000").body)
	for _, shell := range []string{"sh", "dash", "bash", "busybox"} {
		if _, err := exec.LookPath(shell); err != nil || shell == "busybox" {
			continue
		}
		if out, err := exec.Command(shell, "-n", "-c", script).CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v\n%s", shell, err, out)
		}
		root := t.TempDir()
		if out, err := runScript(t, shell, script, root); err != nil || !strings.Contains(out, "found no program") || len(tree(t, root)) != 0 {
			t.Errorf("%s on a machine with nothing: %v\n%s", shell, err, out)
		}
		for _, dir := range []string{"docker", "kubernetes", "containers", "containerd", "rancher/k3s", "buildkit", "pki/ca-trust/source/anchors"} {
			if err := os.MkdirAll(filepath.Join(root, "etc", dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}

		wrong := strings.Repeat("AB:", 31) + "AB"
		if out, err := runScript(t, shell, script, root, wrong); err == nil || !strings.Contains(out, "another fingerprint") || len(tree(t, root)) != 0 {
			t.Errorf("%s with another fingerprint: %v\n%s", shell, err, out)
		}
		if _, err := exec.LookPath("openssl"); err == nil {
			otherPEM := string(newIssuer(t).pem())
			forged := strings.Replace(script, certificate, otherPEM, 1)
			if out, err := runScript(t, shell, forged, root, s.c.fingerprint()); err == nil || len(tree(t, root)) != 0 {
				t.Errorf("%s with another certificate in it: %v\n%s", shell, err, out)
			}
		}
		if _, err := runScript(t, shell, script[:len(script)-len("main \"$@\"\n")], root); err != nil || len(tree(t, root)) != 0 {
			t.Errorf("%s has run a script that was cut short: %v", shell, err)
		}

		fingerprint := strings.ToLower(strings.ReplaceAll(s.c.fingerprint(), ":", ""))
		if out, err := runScript(t, shell, script, root, fingerprint); err != nil {
			t.Fatalf("%s: %v\n%s", shell, err, out)
		}
		name := "berth-" + fingerprint[:8] + ".crt"
		etc := filepath.Join(root, "etc")
		files := tree(t, root)
		for _, path := range []string{"docker/certs.d/pi.lan:5000/ca.crt", "containers/certs.d/pi.lan:5000/ca.crt", "containerd/certs.d/pi.lan:5000/ca.crt",
			"rancher/k3s/" + name, "buildkit/" + name, "pki/ca-trust/source/anchors/" + name} {
			if files[filepath.Join(etc, path)] != certificate {
				t.Errorf("%s: %s is %q", shell, path, files[filepath.Join(etc, path)])
			}
		}
		for path, want := range map[string]string{
			"containerd/certs.d/pi.lan:5000/hosts.toml": "server = \"https://pi.lan:5000\"\n\n[host.\"https://pi.lan:5000\"]\n" +
				"  capabilities = [\"pull\", \"resolve\", \"push\"]\n  ca = \"/etc/containerd/certs.d/pi.lan:5000/ca.crt\"\n",
			"rancher/k3s/registries.yaml": "mirrors:\n  \"pi.lan:5000\":\n    endpoint:\n      - \"https://pi.lan:5000\"\n" +
				"configs:\n  \"pi.lan:5000\":\n    tls:\n      ca_file: /etc/rancher/k3s/" + name + "\n",
			"buildkit/buildkitd.toml": "[registry.\"pi.lan:5000\"]\n  ca = [\"/etc/buildkit/" + name + "\"]\n",
		} {
			if got := files[filepath.Join(etc, path)]; got != want {
				t.Errorf("%s: %s is\n%s", shell, path, got)
			}
		}
		if len(files) != 9 {
			t.Errorf("%s: %d files, want 9", shell, len(files))
		}

		out, err := runScript(t, shell, script, root)
		if err != nil || strings.Contains(out, "wrote") || strings.Count(out, "unchanged: ") != 9 {
			t.Errorf("%s once more: %v\n%s", shell, err, out)
		}
		// What others wrote stays, and a certificate of before is replaced.
		theirs := filepath.Join(etc, "rancher/k3s/registries.yaml")
		writeFile(t, theirs, []byte("mirrors: {}\n"))
		writeFile(t, filepath.Join(etc, "docker/certs.d/pi.lan:5000/ca.crt"), []byte("old"))
		out, err = runScript(t, shell, script, root)
		if err != nil || !strings.Contains(out, "left as it is; add to it:\n    mirrors:\n") {
			t.Errorf("%s on a file of others: %v\n%s", shell, err, out)
		}
		files = tree(t, root)
		if files[theirs] != "mirrors: {}\n" || files[filepath.Join(etc, "docker/certs.d/pi.lan:5000/ca.crt")] != certificate || len(files) != 9 {
			t.Errorf("%s has made of them %q", shell, files)
		}
	}
}

func TestTrustCommand(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto"})
	ask := func(script bool, args ...string) string {
		t.Helper()
		var out strings.Builder
		if err := trustCommand(s.o.dir, ":5000", args, script, &out); err != nil {
			t.Errorf("trust %v: %v", args, err)
		}
		return out.String()
	}
	full := map[string]string{"pi.lan": "pi.lan:443"}
	for args, want := range map[string]string{"pi.lan": "pi.lan:5000", "pi.lan:443": "pi.lan", "PI.lan:8443": "pi.lan:8443", "192.168.1.5": "192.168.1.5:5000", "::1": "[::1]:5000"} {
		out := ask(false, args)
		for _, want := range []string{"SHA-256 " + s.c.fingerprint(), "/etc/docker/certs.d/" + want + "/ca.crt", filepath.Join(s.o.dir, "tls", "ca.crt"),
			"--script --data \"" + s.o.dir + "\"", "http://" + cmp.Or(full[want], want) + "/trust.crt", " trust " + cmp.Or(full[want], want) + " --script"} {
			if !strings.Contains(out, want) {
				t.Errorf("berth trust %s says nothing of %q:\n%s", args, want, out)
			}
		}
	}
	if out := ask(false); !regexp.MustCompile(`certs\.d/[a-z0-9_-]+(\.local)?:5000/ca\.crt`).MatchString(out) {
		t.Errorf("berth trust:\n%s", out)
	}
	if out, want := ask(true, "pi.lan:5000"), string(s.trustGet("/trust.sh", "pi.lan:5000").body); out != want {
		t.Errorf("berth trust --script is not /trust.sh:\n%s", out)
	}
	for host, want := range map[string]string{"a b": "is not a registry's HOST", "registry.example.com": "cannot vouch for registry.example.com"} {
		if err := trustCommand(s.o.dir, ":5000", []string{host}, false, new(strings.Builder)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("berth trust %s: %v, want an error about %q", host, err, want)
		}
	}
	if err := trustCommand(t.TempDir(), ":5000", nil, true, new(strings.Builder)); err == nil || !strings.Contains(err.Error(), "start the server with --tls=auto first") {
		t.Errorf("without a CA: %v", err)
	}
	writeFile(t, filepath.Join(s.o.dir, "tls", "ca.crt"), []byte("nonsense"))
	if err := trustCommand(s.o.dir, ":5000", nil, true, new(strings.Builder)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged CA: %v", err)
	}
}

// openssl, and all that is built on it, has an opinion of its own on
// constraints.
func TestOpenSSLTakesTheLocalCA(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		skip(t, "openssl is not installed")
	}
	s := startSecure(t, tlsOptions{mode: "auto"})
	dir := t.TempDir()
	for name, ok := range map[string]bool{"pi.lan": true, "bank.example": false} {
		leaf := filepath.Join(dir, name)
		if ok {
			writeFile(t, leaf, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.leaf(name).Raw}))
		} else {
			stolen := &issuer{t, s.c.authority.cert, s.c.authority.key}
			cert, _ := stolen.issue(name, func(c *x509.Certificate) { c.DNSNames = []string{name} })
			writeFile(t, leaf, cert)
		}
		out, err := exec.Command("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name,
			"-CAfile", filepath.Join(s.o.dir, "tls", "ca.crt"), leaf).CombinedOutput()
		if (err == nil) != ok {
			t.Errorf("openssl on %s: %v\n%s", name, err, out)
		}
	}
}

// Without a CA there is nothing to trust, and whoever looks for it learns what makes one.
func TestNothingToTrust(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	if re := r.want(404, "GET", "/trust", nil).code("UNSUPPORTED"); !strings.Contains(string(re.body), "berth --tls=auto makes one") {
		t.Errorf("/trust says %s", re.body)
	}
}

// Docker brings a containerd that nobody else pulls by: it is left alone, and said so.
func TestTrustScriptLeavesContainerdOfDocker(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		notHere(t, unixShells)
	}
	s := startSecure(t, tlsOptions{mode: "auto"})
	script := string(s.trustGet("/trust.sh", "pi.lan:5000").body)
	for _, x := range []struct {
		dirs, file string
		written    bool
	}{
		{"etc/docker etc/containerd", "", false},
		{"etc/docker etc/containerd", "usr/local/bin/nerdctl", true},
		{"etc/docker etc/containerd etc/kubernetes", "", true},
		{"etc/containerd", "", true},
	} {
		root := t.TempDir()
		for _, dir := range append(strings.Fields(x.dirs), "usr/local/bin") {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if x.file != "" {
			writeFile(t, filepath.Join(root, x.file), nil)
		}
		out, err := runScript(t, "sh", script, root)
		_, written := tree(t, root)[filepath.Join(root, "etc/containerd/certs.d/pi.lan:5000/ca.crt")]
		if err != nil || written != x.written || strings.Contains(out, "left out containerd") == written ||
			strings.Contains(out, "TO DO, for Kubernetes") != strings.Contains(x.dirs, "kubernetes") {
			t.Errorf("with %s %s: %v\n%s", x.dirs, x.file, err, out)
		}
	}
}
