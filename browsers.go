// What pages in people's browsers may have those do.
//
// A page of another site cannot have a browser push or delete with a password or
// a certificate that the browser remembers.

package main

import (
	"net"
	"net/http"
	"net/url"
	"strings"
)

// onlyOurPages refuses what the page of another site wants to change. It is
// http.CrossOriginProtection for who knows what proxies and flags say of our name.
func (s *server) onlyOurPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isSafe(r.Method) && s.gate.crossSite(r, w.(*response).origin) {
			writeError(w, errDenied.with("the request comes from a page of another site"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isSafe reports whether a method only asks: RFC 9110, section 9.2.1.
func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// crossSite reports whether a page that is not ours has had a browser make a
// request. Browsers send Sec-Fetch-Site by TLS and to the machine itself, and
// Origin always.
func (g *gate) crossSite(r *http.Request, o origin) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return false
	case "":
		page := r.Header.Get("Origin")
		return page != "" && !g.isOurs(page, r.Host, o)
	}
	return true
}

// isOurs reports whether a page's origin, as https://hub.example.org, is this
// registry by any name that the request or a flag has for it. A page that came
// without TLS is nobody's where we know that we are called with it. The other way
// round there may be a proxy that we do not know.
func (g *gate) isOurs(page, host string, o origin) bool {
	u, err := url.Parse(page)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	for _, ours := range []origin{{host: host, secure: o.secure}, o, g.named()} {
		if ours.host != "" && (u.Scheme == "https" || !ours.secure) &&
			strings.EqualFold(withPort(u.Host, u.Scheme), withPort(ours.host, u.Scheme)) {
			return true
		}
	}
	return false
}

// withPort is a host with its port, which is the scheme's if it has none.
func withPort(host, scheme string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), map[string]string{"http": "80", "https": "443"}[scheme])
}

// named is what --public-url says.
func (g *gate) named() origin {
	scheme, host, _ := strings.Cut(g.publicURL, "://")
	return origin{host: host, secure: scheme == "https"}
}
