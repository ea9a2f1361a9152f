// Pages of other sites that may show the registry.

package main

import (
	"strings"
	"testing"
)

func TestPagesOfOtherSites(t *testing.T) {
	slow(t)
	t.Parallel()
	const ui, stranger = "Origin: https://ui.example.org", "Origin: https://stranger.example.org"
	const crossSite = "Sec-Fetch-Site: cross-site"
	const preflight = "Access-Control-Request-Method: DELETE"
	for _, x := range []struct{ flag, page, allowed, credentials string }{
		{"", ui, "", ""},
		{"https://UI.example.org:443/", ui, "https://ui.example.org", "true"},
		{"http://other.example.org,https://ui.example.org", ui, "https://ui.example.org", "true"},
		{"https://ui.example.org", stranger, "", ""},
		{"https://ui.example.org", "Origin: null", "", ""},
		{"https://ui.example.org", "Origin: http://ui.example.org", "", ""},
		{"*", stranger, "*", ""},
		{"*", "Origin: *", "*", ""},
	} {
		list, err := parsePages(x.flag)
		if err != nil {
			t.Fatal(err)
		}
		r := startRegistry(t, guarded("[[rule]]\nwho = [\"users\"]\nrepositories = [\"**\"]\nallow = [\"admin\"]\n[[rule]]\nwho = [\"anonymous\"]\nrepositories = [\"**\"]\nallow = [\"pull\"]\n", "ann"),
			func(c *config) { c.auth.pages = list })
		im := r.pushAs(basic("ann", "ann-secret"), "a", "x", "{}")
		path := "/v2/a/manifests/" + im.digest.String()
		headers := func(re *reply) {
			t.Helper()
			re.has("Access-Control-Allow-Origin", x.allowed).has("Access-Control-Allow-Credentials", x.credentials)
			if exposed := re.header.Get("Access-Control-Expose-Headers"); strings.Contains(exposed, "Docker-Content-Digest") != (x.allowed != "") {
				t.Errorf("%q, %s: a page may read %q", x.flag, x.page, exposed)
			}
			if vary := re.header.Get("Vary"); (vary == "Origin") != (x.flag != "") {
				t.Errorf("%q: Vary: %q", x.flag, vary)
			}
		}
		headers(r.want(200, "GET", path, nil, x.page, crossSite))
		headers(r.want(404, "GET", "/v2/a/manifests/none", nil, x.page, crossSite))
		headers(r.want(401, "GET", "/v2/", nil, x.page, crossSite)) // the page must see that it is asked for a password
		if x.allowed == "" {
			if re := r.do("OPTIONS", path, nil, x.page, crossSite, preflight); re.status == 204 || re.header.Get("Access-Control-Allow-Methods") != "" {
				t.Errorf("%q: %s may ask for %v", x.flag, x.page, re.header)
			}
		} else {
			re := r.want(204, "OPTIONS", path, nil, x.page, crossSite, preflight)
			headers(re)
			if got := re.header.Get("Access-Control-Allow-Methods"); strings.Contains(got, "DELETE") != (x.credentials != "") || !strings.Contains(got, "GET") {
				t.Errorf("%q: %s may %s", x.flag, x.page, got)
			}
		}
		if re := r.do("OPTIONS", path, nil, x.page); re.status != 405 { // what is no preflight
			t.Errorf("OPTIONS: %d", re.status)
		}
		// A page that is not named changes nothing, whatever password the browser remembers.
		status := 403
		if x.credentials != "" {
			status = 202
		}
		re := r.want(status, "DELETE", path, nil, x.page, crossSite, basic("ann", "ann-secret"))
		headers(re)
		// And what is no page notices nothing.
		r.want(200, "GET", "/v2/", nil, basic("ann", "ann-secret")).has("Access-Control-Allow-Origin", "")
	}
	for _, bad := range []string{"ui.example.org", "ftp://ui.example.org", "https://", "https://ui.example.org/x", "https://ui.example.org?x", "https://u@ui.example.org", "null", "https://a b", "*,https://ui.example.org"} {
		if list, err := parsePages(bad); err == nil {
			t.Errorf("%q is read as %v", bad, list)
		}
	}
}

// A rebound name stays a stranger's, whatever page calls it.
func TestNamedPagesDoNotOpenOtherNames(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.auth.pages = pages{"https://ui.example.org"} })
	r.pushImage("a", "x", "{}")
	if got := r.asHost("GET", "/v2/a/manifests/x", "rebound.example.com", "Origin: https://ui.example.org"); got != 403 {
		t.Errorf("by another name: %d", got)
	}
	if got := r.asHost("DELETE", "/v2/a/manifests/x", "localhost", "Origin: https://ui.example.org", "Sec-Fetch-Site: cross-site"); got != 202 {
		t.Errorf("from a page that is named: %d", got)
	}
}
