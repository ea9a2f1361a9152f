// What the log says of those who ask all day, and of a proxy that nobody has named.

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProbesThatSucceedAreNoLineOfTheLog(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	lines := func(route string) int { return strings.Count(r.log.String(), "route="+route+" ") }
	for _, path := range []string{"/healthz", "/readyz"} {
		r.want(200, "GET", path, nil)
		r.want(200, "HEAD", path, nil)
		r.want(405, "POST", path, "")
		if n := lines(path); n != 0 {
			t.Errorf("%s: %d lines in the log, want none\n%s", path, n, r.log)
		}
	}
	writeRules(r.cfg.dir, `[[rule]]
who = ["ann"]
repositories = ["**"]
allow = ["metrics"]
`)
	r.want(200, "GET", "/metrics", nil, as("ann"))
	if n := lines("/metrics"); n != 0 {
		t.Errorf("metrics that were read: %d lines in the log, want none\n%s", n, r.log)
	}
	r.want(401, "GET", "/metrics", nil)
	if n := lines("/metrics"); n != 1 {
		t.Errorf("metrics that were refused: %d lines in the log, want 1\n%s", n, r.log)
	}
	r.want(200, "GET", "/v2/", nil, as("ann"))
	if !strings.Contains(r.log.String(), "route=/v2/{$} ") {
		t.Errorf("a request is not in the log:\n%s", r.log)
	}
	// A database that does not answer.
	if err := r.st.readers.Close(); err != nil {
		t.Fatal(err)
	}
	r.want(503, "GET", "/readyz", nil)
	if n := lines("/readyz"); n != 1 {
		t.Errorf("a probe that failed: %d lines in the log, want 1\n%s", n, r.log)
	}
	r.http.Close()
	r.st.close()
	r.st = nil
}

// from has the registry answer a request as if it came from an address.
func (r *registry) from(address string, headers ...string) {
	r.t.Helper()
	req := httptest.NewRequest("GET", "/v2/", nil)
	req.RemoteAddr = address
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		req.Header.Add(key, value)
	}
	w := httptest.NewRecorder()
	r.server.handler().ServeHTTP(w, req)
	if w.Code != http.StatusOK {
		r.t.Errorf("GET /v2/ from %s = %d, want 200", address, w.Code)
	}
}

func TestProxyThatIsNotTrustedIsLoggedOnceWithTheFlag(t *testing.T) {
	t.Parallel()
	const says = "there seems to be a proxy in front"
	count := func(r *registry, text string) int { return strings.Count(r.log.String(), text) }
	for _, header := range []string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: hub.example", "Forwarded: for=192.0.2.7;proto=https", "X-Real-IP: 192.0.2.7"} {
		r := startRegistry(t)
		r.want(200, "GET", "/v2/", nil)
		if count(r, says) != 0 {
			t.Fatalf("there is no proxy:\n%s", r.log)
		}
		for range 3 {
			r.want(200, "GET", "/v2/", nil, header)
		}
		if n := count(r, says); n != 1 || count(r, `flag="--trusted-proxies 127.0.0.1"`) != 1 {
			t.Errorf("%s: logged %d times, want once, with the flag\n%s", header, n, r.log)
		}
	}
	// The flag that it names is the end of it.
	r := startRegistry(t, trustingProxies(t, "127.0.0.1"))
	r.want(200, "GET", "/v2/", nil, "X-Forwarded-For: 192.0.2.7")
	r.from("10.1.2.3:4711", "X-Forwarded-For: 192.0.2.7")
	if n := count(r, says); n != 1 || count(r, `flag="--trusted-proxies 10.1.2.3"`) != 1 {
		t.Errorf("one proxy that is trusted and one that is not: logged %d times, want once\n%s", n, r.log)
	}
}

// Anybody can send the headers.
func TestFloodOfProxiesIsNoFloodOfLines(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	for i := range 3 * maxDisbelieved {
		r.from(fmt.Sprintf("203.0.%d.%d:4711", i/250, i%250), "X-Forwarded-For: 192.0.2.7")
	}
	for i := range 50 { // one network, of which anybody has all
		r.from(fmt.Sprintf("[2001:db8::%x]:4711", i+1), "X-Forwarded-For: 192.0.2.7")
	}
	if n := strings.Count(r.log.String(), "there seems to be a proxy"); n != maxDisbelieved {
		t.Errorf("%d lines, want %d", n, maxDisbelieved)
	}
	kept := 0
	r.server.doubted.known.Range(func(any, any) bool { kept++; return true })
	if kept > maxDisbelieved {
		t.Errorf("%d addresses are kept in memory, want at most %d", kept, maxDisbelieved)
	}
}

func trustingProxies(t testing.TB, addresses string) func(*config) {
	list, err := parseProxies(addresses)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *config) { c.auth.proxies = list }
}
