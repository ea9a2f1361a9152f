// What pages in people's browsers may have those do.
//
// A page of another site cannot have a browser push or delete with a password or
// a certificate that the browser remembers. And where nobody needs either, a page
// whose name was pointed at this machine (DNS rebinding) gets nothing: to the
// browser it is of the same site then, but the name that it calls is not ours. All
// browsers say Origin with what changes something. What only reads they do not
// always mark over plain HTTP; a page can then read what everybody may.
//
// Clients of registries send none of the headers that tell of a browser, and may
// call the registry what they like.

package main

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
)

// onlyOurPages refuses what the page of another site wants to change, but for those
// that --cors-origins names. It is
// http.CrossOriginProtection for who knows what proxies and flags say of our name.
func (s *server) onlyOurPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isSafe(r.Method) && s.gate.crossSite(r, w.(*response).origin) && !s.gate.pages.name(r.Header.Get("Origin")) {
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

// fromBrowser reports whether a browser has made a request for a page.
func fromBrowser(h http.Header) bool {
	return len(h["Origin"])+len(h["Sec-Fetch-Site"])+len(h["Sec-Fetch-Mode"])+len(h["Sec-Fetch-Dest"])+len(h["Sec-Fetch-User"]) > 0
}

// calledByName refuses a request of a browser that calls this registry a name that
// anybody can have pointed at it. What the header said counts too: a page of the
// same site can claim to be a proxy, if it is on a proxy's machine.
func (g *gate) calledByName(r *http.Request, o origin) error {
	for _, host := range []string{r.Host, o.host} {
		if !g.isOurName(host) {
			return errDenied.saying("this registry does not answer browsers under the name %.80q; use its address, or add the name with --public-url or --tls-name", host)
		}
	}
	return nil
}

// isOurName reports whether a host is one that a stranger's DNS cannot give: an
// address, a name of a local network or of this machine, or what a flag says.
func (g *gate) isOurName(host string) bool {
	bare := bareHost(host)
	if _, err := netip.ParseAddr(bare); err == nil {
		return true
	}
	name := hostName(strings.TrimSuffix(bare, "."))
	if name == "" {
		return false
	}
	_, domain, found := strings.Cut(name, ".")
	if !found || slices.ContainsFunc(localDomains, func(local string) bool { return domain == local || strings.HasSuffix(domain, "."+local) }) {
		return true
	}
	hostname, _ := os.Hostname()
	return slices.Contains(machineNames(hostname), name) || slices.Contains(g.names, name) || hostName(bareHost(g.named().host)) == name
}
