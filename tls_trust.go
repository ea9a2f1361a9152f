// How other machines come to trust the local CA of --tls=auto.
//
// Every program that pulls looks for CAs in a place of its own. berth trust
// prints all of them, and /trust shows them to a browser; /trust.sh, which
// berth trust --script prints too, does it. What comes over plain HTTP may have
// been changed on the way, so the page has people compare the fingerprint with
// what berth trust prints on the server.

package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/pem"
	"errors"
	html "html/template"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"text/template"
)

var (
	//go:embed ui/trust.html
	trustHTML string
	//go:embed ui/trust.sh
	trustSH string

	// Parsed when they are wanted: most registries never do.
	trustPage   = sync.OnceValue(func() *html.Template { return html.Must(html.New("trust").Parse(trustHTML)) })
	trustScript = sync.OnceValue(func() *template.Template { return template.Must(template.New("trust").Parse(trustSH)) })
	trustSteps  = sync.OnceValue(func() *template.Template { return template.Must(template.New("trust").Parse(trustUsage)) })
)

// trustPolicy lets the page have its style and nothing else.
var trustPolicy = sync.OnceValue(func() string { return pagePolicy(trustHTML, "'none'") })

// pagePolicy is the Content-Security-Policy of a page that has nothing but its one style, and forms that lead to
// forms: 'self' or 'none'.
func pagePolicy(page, forms string) string {
	_, style, _ := strings.Cut(page, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	hash := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
		"'; base-uri 'none'; form-action " + forms + "; frame-ancestors 'none'"
}

// trusted is what the templates are filled with.
type trusted struct {
	Host        string // as registryHost returns it: fit for a shell and for a path
	Full        string // the same with its port, also where that is 443
	Name        string // of the CA's file where others lie too
	Fingerprint string
	PEM         string
	File        string // ca.crt on this machine
	Steps       string // as berth trust prints them
	Insecure    bool   // the page comes over plain HTTP
}

func trustIn(host string, der []byte) trusted {
	print := fingerprint(der)
	full := host
	if bare := strings.Trim(host, "[]"); net.ParseIP(bare) != nil || !strings.Contains(host, ":") {
		full = host + ":443"
	}
	return trusted{
		Host:        host,
		Full:        full,
		Name:        "berth-" + strings.ToLower(strings.ReplaceAll(print[:11], ":", "")),
		Fingerprint: print,
		PEM:         string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
	}
}

const trustUsage = `Docker: no restart
  sudo mkdir -p '/etc/docker/certs.d/{{.Host}}'
  sudo cp ca.crt '/etc/docker/certs.d/{{.Host}}/ca.crt'
  (rootless: ~/.config/docker/certs.d; Docker Desktop: the system's store, then
  restart it)

Podman, Buildah, Skopeo: no restart
  sudo mkdir -p '/etc/containers/certs.d/{{.Host}}'
  sudo cp ca.crt '/etc/containers/certs.d/{{.Host}}/ca.crt'

containerd: no restart
  sudo mkdir -p '/etc/containerd/certs.d/{{.Host}}'
  sudo cp ca.crt '/etc/containerd/certs.d/{{.Host}}/ca.crt'
  and /etc/containerd/certs.d/{{.Host}}/hosts.toml has
    server = "https://{{.Host}}"
    [host."https://{{.Host}}"]
      capabilities = ["pull", "resolve", "push"]
      ca = "/etc/containerd/certs.d/{{.Host}}/ca.crt"
  For Kubernetes, /etc/containerd/config.toml must name the directory. If it does
  not, add this and restart containerd:
    config_path = "/etc/containerd/certs.d"

k3s, on every node: restart it (systemctl restart k3s, or k3s-agent)
  sudo cp ca.crt /etc/rancher/k3s/{{.Name}}.crt
  and /etc/rancher/k3s/registries.yaml has
    mirrors:
      "{{.Host}}":
        endpoint:
          - "https://{{.Host}}"
    configs:
      "{{.Host}}":
        tls:
          ca_file: /etc/rancher/k3s/{{.Name}}.crt

BuildKit: create the builder again, or restart buildkitd
  /etc/buildkit/buildkitd.toml has
    [registry."{{.Host}}"]
      ca = ["/etc/buildkit/{{.Name}}.crt"]
  docker buildx create --use --config /etc/buildkit/buildkitd.toml
  Where the registry has users it is the client that fetches tokens, not buildkitd:
  the machine of docker buildx needs the CA in its system's store, too (see below);
  buildctl build takes it with
    --registry-auth-tlscontext 'host={{.Host}},ca=/etc/buildkit/{{.Name}}.crt'

The system's store, for crane, curl, browsers and other programs
  Debian, Ubuntu, Alpine:
    sudo cp ca.crt /usr/local/share/ca-certificates/{{.Name}}.crt
    sudo update-ca-certificates
  Fedora, RHEL:
    sudo cp ca.crt /etc/pki/ca-trust/source/anchors/{{.Name}}.crt
    sudo update-ca-trust
  Arch:
    sudo trust anchor --store ca.crt
  macOS:
    sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain ca.crt
  Windows, as administrator:
    certutil -addstore -f Root ca.crt
`

// bareHost is a registry's host without its port.
func bareHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

// trust serves /trust, /trust.sh and /trust.crt. It is nil if there is no
// local CA.
func (c *certificates) trust() http.Handler {
	if c == nil || c.authority == nil {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		host, _ := c.hostOf(r)
		if host == "" {
			http.Error(w, "the Host header is not that of a registry", http.StatusBadRequest)
			return
		}
		t := trustIn(host, c.authority.cert.Raw)
		t.Insecure = r.TLS == nil
		var b bytes.Buffer
		var err error
		h := w.Header()
		switch r.URL.Path {
		case "/trust":
			var steps strings.Builder
			err = trustSteps().Execute(&steps, t)
			t.Steps = steps.String()
			err = errors.Join(err, trustPage().Execute(&b, t))
			h.Set("Content-Security-Policy", trustPolicy())
			h.Set("Content-Type", "text/html; charset=utf-8")
		case "/trust.sh":
			err = trustScript().Execute(&b, t)
			h.Set("Content-Type", "text/x-shellscript; charset=utf-8")
		case "/trust.crt":
			b.WriteString(t.PEM)
			h.Set("Content-Type", "application/x-x509-ca-cert")
		default:
			http.NotFound(w, r)
			return
		}
		if err != nil {
			panic(err) // the templates are ours, and so is what they are filled with
		}
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		b.WriteTo(w)
	})
}

// hostOf is what the client of a request calls this registry, as registryHost
// returns it, and whether others than the client say so.
func (c *certificates) hostOf(r *http.Request) (host string, told bool) {
	if c.called != nil {
		if host := c.called(r); host != "" {
			return registryHost(host, ""), true
		}
	}
	return registryHost(r.Host, ""), false
}

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
