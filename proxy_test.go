// What a client calls the registry: by itself, through proxies, or not at all.

package main

import (
	"strings"
	"testing"
)

// Load balancers ask in HTTP/1.0 without a Host: a registry that wants a password says so,
// which tells them that it is up.
func TestRequestsWithoutHost(t *testing.T) {
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
	check(r, 401, `Bearer realm="https://hub.example.org/token",`)
	// A host that is none is an error still, of whoever sent it.
	if re := r.raw("GET /v2/ HTTP/1.0\r\nHost: x~y\r\n\r\n"); re.StatusCode != 401 {
		t.Errorf("a host that is none, where a flag says the name = %d, want 401", re.StatusCode)
	}
	r.restart(func(c *config) { c.auth.publicURL = "" })
	if re := r.raw("GET /v2/ HTTP/1.0\r\nHost: x~y\r\n\r\n"); re.StatusCode != 400 {
		t.Errorf("a host that is none = %d, want 400", re.StatusCode)
	}
}
