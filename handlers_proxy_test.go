// What a client calls the registry: by itself, through proxies, or not at all.

package main

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Load balancers ask in HTTP/1.0 without a Host: a registry that wants a password says so,
// which tells them that it is up.
func TestRequestsWithoutHost(t *testing.T) {
	t.Parallel()
	check := func(r *registry, status int, challenge string) {
		t.Helper()
		for _, request := range []string{"GET /v2/ HTTP/1.0\r\n\r\n", "HEAD /v2/ HTTP/1.0\r\n\r\n", "GET /v2/ HTTP/1.0\r\nHost:\r\n\r\n", "GET /v2/ HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
			"GET /v2/a/tags/list HTTP/1.0\r\n\r\n"} {
			want := status
			if strings.Contains(request, "tags/list") && want == 200 {
				want = 404
			}
			if re := r.raw(request); re.StatusCode != want || !strings.HasPrefix(re.Header.Get("WWW-Authenticate"), challenge) || challenge == "" != (re.Header.Get("WWW-Authenticate") == "") {
				t.Errorf("%q = %d with the challenge %q, want %d with %s", request, re.StatusCode, re.Header.Get("WWW-Authenticate"), want, challenge)
			}
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			if re := r.raw("GET " + path + " HTTP/1.0\r\n\r\n"); re.StatusCode != 200 {
				t.Errorf("%s = %d, want 200", path, re.StatusCode)
			}
		}
	}
	check(startRegistry(t), 200, "")
	r := startRegistry(t, guarded("", "ann"))
	check(r, 401, "Basic realm=")
	if re := r.raw("GET /v2/ HTTP/1.0\r\n" + as("ann") + "\r\n\r\n"); re.StatusCode != 200 {
		t.Errorf("with a password = %d, want 200", re.StatusCode)
	}
	r.restart(func(c *config) { c.auth.publicURL = "https://hub.example.org" })
	check(r, 401, `Bearer realm="https://hub.example.org/v2/token",`)
	// A host that is none is an error still, of whoever sent it.
	if re := r.raw("GET /v2/ HTTP/1.0\r\nHost: x~y\r\n\r\n"); re.StatusCode != 401 {
		t.Errorf("a host that is none, where a flag says the name = %d, want 401", re.StatusCode)
	}
	r.restart(func(c *config) { c.auth.publicURL = "" })
	if re := r.raw("GET /v2/ HTTP/1.0\r\nHost: x~y\r\n\r\n"); re.StatusCode != 400 {
		t.Errorf("a host that is none = %d, want 400", re.StatusCode)
	}
}

// The port by which clients know the registry is that of the outermost proxy, whether it says so in a header
// of its own, in that of the host, or in one for all.
func TestHostsAndPortsOfProxies(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, x := range []struct {
		name    string
		headers []string
		realm   string // HOST is the host as sent, NAME the same without its port
		client  string
	}{
		{"a port of its own", []string{"X-Forwarded-Host: hub.example", "X-Forwarded-Port: 8443", "X-Forwarded-Proto: https"}, "https://hub.example:8443", ""},
		{"the host has it already", []string{"X-Forwarded-Host: hub.example:8443", "X-Forwarded-Port: 8443", "X-Forwarded-Proto: https"}, "https://hub.example:8443", ""},
		{"they differ: the client knows", []string{"X-Forwarded-Host: hub.example:8443", "X-Forwarded-Port: 9000", "X-Forwarded-Proto: https"}, "https://hub.example:8443", ""},
		{"that of the scheme", []string{"X-Forwarded-Host: hub.example", "X-Forwarded-Port: 443", "X-Forwarded-Proto: https"}, "https://hub.example", ""},
		{"80 of a proxy behind the one with TLS", []string{"X-Forwarded-Host: hub.example", "X-Forwarded-Port: 80", "X-Forwarded-Proto: https"}, "https://hub.example", ""},
		{"http with a port", []string{"X-Forwarded-Host: hub.example", "X-Forwarded-Port: 8080"}, "http://hub.example:8080", ""},
		{"IPv6", []string{"X-Forwarded-Host: [2001:db8::1]", "X-Forwarded-Port: 8443", "X-Forwarded-Proto: https"}, "https://[2001:db8::1]:8443", ""},
		{"Host alone", []string{"X-Forwarded-Port: 9000"}, "http://HOST", ""},
		{"no port", []string{"X-Forwarded-Host: hub.example", "X-Forwarded-Port: x\""}, "http://hub.example", ""},
		{"two proxies that add", []string{"X-Forwarded-For: 192.0.2.7, 10.0.0.2", "X-Forwarded-Proto: https, http", "X-Forwarded-Host: hub.example, inner.lan", "X-Forwarded-Port: 8443, 80"}, "https://hub.example:8443", "192.0.2.7"},
		{"two proxies that add to a liar's", []string{"X-Forwarded-For: 203.0.113.9, 192.0.2.7, 10.0.0.2", "X-Forwarded-Proto: gopher, https, http", "X-Forwarded-Host: evil.example, hub.example, inner.lan"}, "https://hub.example", "192.0.2.7"},
		{"two proxies, of which one adds", []string{"X-Forwarded-For: 192.0.2.7, 10.0.0.2", "X-Forwarded-Proto: https", "X-Forwarded-Host: hub.example"}, "https://hub.example", "192.0.2.7"},
		{"one proxy, and a liar", []string{"X-Forwarded-For: 10.0.0.2, 192.0.2.7", "X-Forwarded-Proto: gopher, https", "X-Forwarded-Host: evil.example, hub.example"}, "https://hub.example", "192.0.2.7"},
		{"Forwarded", []string{`Forwarded: for=203.0.113.9;host=evil.example, For="[2001:db8::7]:4711";Proto=https;host="hub.example:8443";by=_x`}, "https://hub.example:8443", "2001:db8::7"},
		{"Forwarded, by two", []string{`Forwarded: for=192.0.2.7;proto=https;host="hub.example"`, `Forwarded: for="10.0.0.2:80";proto=http;host="inner,\"lan"`}, "https://hub.example", "192.0.2.7"},
		{"Forwarded of an address without a port", []string{`Forwarded: for="[2001:db8::7]"`}, "http://HOST", "2001:db8::7"},
		{"Forwarded of nobody", []string{`Forwarded: for=unknown;proto=https`}, "https://HOST", "127.0.0.1"},
		{"a stranger's Forwarded", []string{"X-Forwarded-For: 192.0.2.7", "Forwarded: for=203.0.113.9;proto=https;host=evil.example"}, "http://HOST", "192.0.2.7"},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := startRegistry(t, trustLoopback, guarded("", "ann"))
			want := strings.Replace(x.realm, "HOST", strings.TrimPrefix(r.http.URL, "http://"), 1)
			if got := r.want(401, "GET", "/v2/", nil, x.headers...).header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `Bearer realm="`+want+`/v2/token",`) {
				t.Errorf("the challenge is %s, want %s/v2/token", got, want)
			}
			r.want(401, "GET", "/v2/", nil, append(x.headers, basic("ann", "x"))...)
			if !strings.Contains(r.log.String(), `event="login failed" user=ann client=`+x.client) {
				t.Errorf("no login of %s in the log:\n%s", x.client, r.log.String())
			}
		})
	}
}

// A page that the registry's proxy serves beside it may delete: its origin is what the proxy says that the
// client called, or what the flag says, with the scheme and the port. Any other may not.
func TestPagesBehindTheSameProxy(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, trustLoopback, guarded("", "ann"))
	push := func(want int, headers ...string) {
		t.Helper()
		if re := r.do("POST", "/v2/a/blobs/uploads/?digest="+sum("x").String(), "x", append(headers, as("ann"))...); re.status != want {
			t.Errorf("%q = %d, want %d", headers, re.status, want)
		}
	}
	proxy := []string{"X-Forwarded-Host: hub.example", "X-Forwarded-Port: 8080"}
	push(201, append(proxy, "Origin: http://hub.example:8080")...)
	push(201, append(proxy, "Origin: "+r.http.URL)...) // by the way that passes the proxy
	push(403, append(proxy, "Origin: http://hub.example")...)
	push(403, append(proxy, "Origin: http://hub.example:8081")...)
	push(403, append(proxy, "Origin: http://evil.example:8080")...)
	push(403, append(proxy, "Origin: null")...)
	push(403, append(proxy, "Origin: http://hub.example:8080", "Sec-Fetch-Site: cross-site")...)
	secure := []string{"X-Forwarded-Host: hub.example:443", "X-Forwarded-Proto: https"}
	push(201, append(secure, "Origin: https://hub.example")...)
	push(403, append(secure, "Origin: http://hub.example")...)
	push(403, append(secure, "Origin: http://hub.example:443")...)
	push(403, "Origin: http://hub.example:8080")

	r.restart(func(c *config) { c.auth.proxies, c.auth.publicURL = nil, "https://hub.example.org" })
	push(201, "Origin: https://hub.example.org")
	push(201, "Origin: "+r.http.URL)
	push(403, "Origin: http://hub.example.org")
	push(403, "Origin: https://hub.example.org:8443")
	push(403, append(proxy, "Origin: http://hub.example:8080")...) // nobody is trusted
}

// Whatever tells people how to reach the registry uses the name that a proxy or the flag says.
func TestNamesOnTrustPagesAndRedirects(t *testing.T) {
	t.Parallel()
	certificates := func(c *config) {
		var err error
		if c.certificates, err = openTLS(tlsOptions{mode: "auto", dir: t.TempDir(), hostname: "pi", now: time.Now, log: c.log}); err != nil {
			t.Fatal(err)
		}
	}
	r := startRegistry(t, trustLoopback, certificates)
	plain := httptest.NewServer(r.cfg.certificates.plainHandler("5443"))
	defer plain.Close()
	check := func(want string, headers ...string) {
		t.Helper()
		for _, base := range []string{r.http.URL, plain.URL} {
			if re := r.want(200, "GET", base+"/trust.sh", nil, headers...); !strings.Contains(string(re.body), "\nhost='"+want+"'\n") {
				t.Errorf("%s/trust.sh is not for %s:\n%.200s", base, want, re.body)
			}
		}
		r.want(308, "GET", plain.URL+"/x?y", nil, headers...).has("Location", "https://"+want+"/x?y")
	}
	check("hub.example:8443", "X-Forwarded-Host: hub.example", "X-Forwarded-Port: 8443")
	r.want(308, "GET", plain.URL+"/x", nil).has("Location", "https://127.0.0.1:5443/x")
	r.cfg.auth.publicURL = "https://hub.example.org"
	r.restart()
	check("hub.example.org")
}

// A trusted proxy that does not say the scheme makes docker login fail, so the log names the header,
// once for each proxy, and only where a client is sent to a URL.
func TestTrustedProxyThatSaysNoScheme(t *testing.T) {
	t.Parallel()
	const said = "sends no X-Forwarded-Proto"
	for _, x := range []struct {
		name    string
		headers []string
		url     string
		want    int
	}{
		{"X-Forwarded-For alone", []string{"X-Forwarded-For: 192.0.2.7"}, "", 1},
		{"with the scheme", []string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: http"}, "", 0},
		{"Forwarded with the scheme", []string{"Forwarded: for=192.0.2.7;proto=https"}, "", 0},
		{"Forwarded without", []string{"Forwarded: for=192.0.2.7"}, "", 1},
		{"a flag says the URL", []string{"X-Forwarded-For: 192.0.2.7"}, "https://hub.example", 0},
		{"by the way that passes the proxy", nil, "", 0},
	} {
		r := startRegistry(t, trustLoopback, guarded("", "ann"), func(c *config) { c.auth.publicURL = x.url })
		r.want(200, "GET", "/v2/", nil, append(x.headers, as("ann"))...)
		if strings.Contains(r.log.String(), said) {
			t.Errorf("%s: a request that is sent nowhere is told of:\n%s", x.name, r.log)
		}
		r.want(401, "GET", "/v2/", nil, x.headers...)
		r.want(401, "GET", "/v2/a/tags/list", nil, x.headers...)
		if n := strings.Count(r.log.String(), said); n != x.want {
			t.Errorf("%s: told %d times, want %d:\n%s", x.name, n, x.want, r.log)
		}
	}
}
