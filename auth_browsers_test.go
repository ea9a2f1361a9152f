// Pages in browsers, whatever name they have come by.

package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
)

// asHost sends a request that calls the registry a host, and returns the answer's status.
func (r *registry) asHost(method, path, host string, headers ...string) int {
	r.t.Helper()
	body := ""
	if method == "POST" {
		body = "x"
	}
	req, err := http.NewRequest(method, r.http.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Host = host
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		req.Header.Add(key, value)
	}
	resp, err := r.http.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// A page whose name was pointed at this machine is of the same site, to its browser. Where nobody needs a
// password it gets nothing all the same, unless the name can be none but ours.
func TestReboundPagesGetNothingFromAnOpenRegistry(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.auth.names, _ = parseNames([]string{"registry.example.com"}) })
	r.pushImage("a", "x", "{}", "layer")
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	push := "/v2/a/blobs/uploads/?digest=" + sum("x").String()
	for _, x := range []struct {
		host string
		ours bool
	}{
		{"evil.example:5000", false}, {"evil.example", false}, {"localhost.evil.example", false}, {"192.168.1.5.evil.example", false}, {"local.", true}, {"evil.com.", false},
		{"127.0.0.1:5000", true}, {"192.168.1.5", true}, {"[::1]:5000", true}, {"localhost:5000", true}, {"pi:5000", true}, {"pi.local:5000", true}, {"PI.Lan", true},
		{"registry.home.arpa", true}, {"evilhome.arpa", false}, {hostname + ":5000", true}, {"registry.example.com", true}, {"other.example.com", false},
	} {
		read, write := 200, 201
		if !x.ours {
			read, write = 403, 403
		}
		for _, headers := range [][]string{{"Origin: http://" + x.host}, {"Sec-Fetch-Site: same-origin"}, {"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"}} {
			for _, path := range []string{"/v2/", "/v2/a/manifests/x", "/v2/a/tags/list", "/v2/_catalog", "/v2/a/_berth/history", "/metrics"} {
				if got := r.asHost("GET", path, x.host, headers...); got != read {
					t.Errorf("GET %s of %s with %q = %d, want %d", path, x.host, headers, got, read)
				}
			}
			if got := r.asHost("POST", push, x.host, headers...); got != write {
				t.Errorf("push to %s with %q = %d, want %d", x.host, headers, got, write)
			}
		}
		// Docker and the like send no such header, and may call it what they like.
		if got := r.asHost("GET", "/v2/a/manifests/x", x.host); got != 200 {
			t.Errorf("GET of %s by no browser = %d, want 200", x.host, got)
		}
		if got := r.asHost("POST", push, x.host); got != 201 {
			t.Errorf("push to %s by no browser = %d, want 201", x.host, got)
		}
	}
	if got := r.asHost("DELETE", "/v2/a/manifests/x", "evil.example", "Origin: http://evil.example"); got != 403 {
		t.Errorf("DELETE by a rebound page = %d, want 403", got)
	}
	// The page of another site is none of ours, by whatever name it calls us.
	if got := r.asHost("POST", push, "localhost:5000", "Origin: http://localhost:8080"); got != 403 {
		t.Errorf("push from another port = %d, want 403", got)
	}
}

// Behind a proxy the names count that it and the client use: a page on the proxy's own machine can say
// that it is the proxy.
func TestReboundPagesBehindAProxy(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, trustLoopback)
	get := func(want int, host string, headers ...string) {
		t.Helper()
		if got := r.asHost("GET", "/v2/", host, append(headers, "Sec-Fetch-Site: same-origin")...); got != want {
			t.Errorf("GET of %s with %q = %d, want %d", host, headers, got, want)
		}
	}
	get(403, "evil.example", "X-Forwarded-Host: localhost")
	get(403, "backend:5000", "X-Forwarded-Host: hub.example.org")
	get(200, "backend:5000", "X-Forwarded-Host: pi.lan")
	r.restart(func(c *config) { c.auth.publicURL = "https://hub.example.org" })
	get(200, "backend:5000", "X-Forwarded-Host: hub.example.org")
	get(200, "hub.example.org", "X-Forwarded-Proto: https")
	get(403, "evil.example")
}

// Where there are users, what keeps a page out is that it has no password; but what everybody may change
// is for no stranger's page either. What everybody may read it may read.
func TestReboundPagesWhereThereAreUsers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("[[rule]]\nwho = [\"anonymous\"]\nrepositories = [\"public/**\"]\nallow = [\"push\"]\n[[rule]]\nwho = [\"ann\"]\nrepositories = [\"**\"]\nallow = [\"push\"]\n", "ann"))
	const host = "evil.example"
	push := "/blobs/uploads/?digest=" + sum("x").String()
	for _, x := range []struct {
		want         int
		method, path string
		headers      []string
	}{
		{401, "POST", "/v2/home/a" + push, nil},
		{201, "POST", "/v2/home/a" + push, []string{as("ann")}}, // a browser has it from who typed it there
		{403, "POST", "/v2/public/a" + push, nil},
		{200, "GET", "/v2/public/a/blobs/" + sum("x").String(), nil},
	} {
		if x.want == 200 {
			r.want(201, "POST", "/v2/public/a"+push, "x")
		}
		if got := r.asHost(x.method, x.path, host, append(x.headers, "Origin: http://"+host)...); got != x.want {
			t.Errorf("%s %s with %q = %d, want %d", x.method, x.path, x.headers, got, x.want)
		}
	}
}

// A name that a flag gives is known with and without TLS.
func TestNamesOfFlagsAreKnownToBrowsers(t *testing.T) {
	t.Parallel()
	cfg, err := parseConfig("serve", []string{"--tls-name", "Hub.Example.org,192.168.1.5"}, noEnv, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{authConfig: cfg.auth}
	if !g.isOurName("hub.example.org:5000") || g.isOurName("example.org") {
		t.Errorf("the names are %v", g.names)
	}
}
