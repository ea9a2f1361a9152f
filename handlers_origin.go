// What the client called the registry, and from where, through proxies or not.
//
// A proxy's word (Forwarded, X-Forwarded-*) counts only if --trusted-proxies names the proxy;
// every URL that the registry writes is built from what is found here.

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
)

// proxies are the addresses whose X-Forwarded headers are believed.
type proxies []netip.Prefix

// parseProxies reads addresses and networks with commas between.
func parseProxies(text string) (list proxies, err error) {
	for _, word := range splitList(text) {
		prefix, err := netip.ParsePrefix(word)
		if err != nil {
			addr, err := netip.ParseAddr(word)
			if err != nil {
				return nil, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", word)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		list = append(list, prefix.Masked())
	}
	return list, nil
}

func (list proxies) have(addr netip.Addr) bool {
	for _, p := range list {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// An origin is where a request comes from, and how it was addressed, as far as
// that can be believed.
type origin struct {
	address netip.Addr // of the client; the zero value if it has none
	client  string     // the same for the log, with its port if it is known
	host    string     // what the client calls this registry
	secure  bool       // nobody in between can read it
	proxied bool       // a proxy that is trusted says so
	through netip.Addr // a trusted proxy that names its client, and not by what scheme that came; else the zero value
}

// origin works out who is at the other end. Behind proxies that are trusted it is
// the last address that is not one, for what stands before anyone may have
// written; and what it calls this registry is what the outermost of them says.
func (list proxies) origin(r *http.Request) origin {
	o := origin{client: r.RemoteAddr, host: r.Host, secure: r.TLS != nil}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		o.address = peer.Addr().Unmap()
	}
	if len(list) == 0 || !list.have(o.address) {
		return o
	}
	o.proxied = true
	f := readForwarded(r.Header)
	if len(f.client) > 0 && len(f.proto) == 0 && !o.secure {
		o.through = o.address
	}
	said := 0 // how many of ours have said whom they speak for
	for ; said < len(f.client) && list.have(o.address); said++ {
		addr, ok := parseHop(f.client[len(f.client)-1-said])
		if !ok {
			break
		}
		o.address, o.client = addr, addr.String()
	}
	if proto := outermost(f.proto, said); proto != "" {
		o.secure = strings.EqualFold(proto, "https")
	}
	if host := outermost(f.host, said); host != "" {
		o.host = host
	}
	// 80 and 443 go without saying, and may be those of a proxy further in.
	if port := outermost(f.port, said); portForm().MatchString(port) && port != "80" && port != "443" && o.host != "" {
		if _, _, err := net.SplitHostPort(o.host); err != nil {
			o.host += ":" + port
		}
	}
	return o
}

// sentByProxies are headers by which proxies say for whom they speak.
var sentByProxies = []string{"X-Forwarded-Proto", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-Ip"}

// maxDisbelieved bounds the addresses that disbelieved remembers, and so the lines it logs:
// anybody can send these headers, from as many addresses as there are.
const maxDisbelieved = 100

// disbelieved are the addresses that have sent headers of a proxy and are not trusted with
// them. Each is logged once, with the flag that helps: the operator of a proxy sees no more
// than that docker login fails.
type disbelieved struct {
	known sync.Map     // origin.key() → nil
	count atomic.Int64 // of known, or more
}

// noteSchemeless tells, once for each trusted proxy, that it does not say whether clients come by
// https. It is called when a client is about to be sent to a URL.
func (x *disbelieved) noteSchemeless(o origin, log *slog.Logger) {
	if !o.through.IsValid() || x.count.Load() >= maxDisbelieved {
		return
	}
	if _, known := x.known.LoadOrStore(o.through, nil); known || x.count.Add(1) > maxDisbelieved {
		return
	}
	log.Warn("a trusted proxy sends no X-Forwarded-Proto, so clients are told http: if it does TLS, docker login fails. In nginx: proxy_set_header X-Forwarded-Proto $scheme; or start with --public-url",
		"proxy", o.through, "header", "X-Forwarded-Proto")
}

// note looks at a request of somebody who is no trusted proxy. With none of the headers, and
// for an address that is known, it takes no lock.
func (x *disbelieved) note(o origin, h http.Header, log *slog.Logger) {
	header := ""
	for _, name := range sentByProxies {
		if _, ok := h[name]; ok {
			header = name
			break
		}
	}
	if header == "" || !o.address.IsValid() || x.count.Load() >= maxDisbelieved {
		return
	}
	key := o.key()
	if _, known := x.known.Load(key); known {
		return
	}
	if _, known := x.known.LoadOrStore(key, nil); known || x.count.Add(1) > maxDisbelieved {
		return
	}
	does := "clients may be told http instead of https, which makes docker login fail, and all of them count as one address"
	if header == "X-Real-Ip" {
		does = "it must send X-Forwarded-For and X-Forwarded-Proto, for X-Real-IP is not read"
	}
	log.Warn("there seems to be a proxy in front that is not trusted: "+does+"; if it is yours, start with the flag",
		"proxy", o.address, "header", header, "flag", "--trusted-proxies "+o.address.String())
}

// portForm is a port as proxies write it.
var portForm = expression(`^[1-9][0-9]{0,4}$`)

// forwarded is what proxies say of a request, each at the end of what it got.
type forwarded struct{ client, proto, host, port []string }

// readForwarded reads the X-Forwarded headers; or, if there are none, Forwarded
// (RFC 7239), for a proxy that sends the former may pass on a stranger's of the latter.
func readForwarded(h http.Header) forwarded {
	f := forwarded{elements(h["X-Forwarded-For"]), elements(h["X-Forwarded-Proto"]), elements(h["X-Forwarded-Host"]), elements(h["X-Forwarded-Port"])}
	if len(f.client)+len(f.proto)+len(f.host)+len(f.port) > 0 {
		return f
	}
	for _, element := range splitUnquoted(strings.Join(h["Forwarded"], ","), ',') {
		for _, pair := range splitUnquoted(element, ';') {
			key, value, _ := strings.Cut(pair, "=")
			value = strings.Trim(strings.TrimSpace(value), `"`)
			switch strings.ToLower(strings.TrimSpace(key)) {
			case "for":
				f.client = append(f.client, value)
			case "proto":
				f.proto = append(f.proto, value)
			case "host":
				f.host = append(f.host, value)
			}
		}
	}
	return f
}

// elements are those of a list header.
func elements(values []string) (list []string) {
	for _, value := range values {
		for element := range strings.SplitSeq(value, ",") {
			if element = strings.TrimSpace(element); element != "" {
				list = append(list, element)
			}
		}
	}
	return list
}

// splitUnquoted splits at a separator where that is not in quotes.
func splitUnquoted(s string, separator rune) []string {
	quoted, escaped := false, false
	return strings.FieldsFunc(s, func(c rune) bool {
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = quoted
		case c == '"':
			quoted = !quoted
		}
		return c == separator && !quoted
	})
}

// outermost is what the outermost of so many proxies of ours says, of a list to
// which each may have added. Before it anyone may have written.
func outermost(list []string, proxies int) string {
	if len(list) == 0 {
		return ""
	}
	return list[max(0, len(list)-max(1, proxies))]
}

// parseHop reads an address, with or without a port.
func parseHop(text string) (netip.Addr, bool) {
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return addr.Unmap().WithZone(""), err == nil
}

// key is an address as it is counted: who has one IPv6 address has 2^64.
func (o origin) key() string {
	if o.address.Is6() {
		if p, err := o.address.Prefix(64); err == nil {
			return p.String()
		}
	}
	return o.address.String()
}

// maxHost bounds a host and its port, in bytes.
const maxHost = 255 + len(":65535")

// hostForm is a host with or without a port. What does not look like one is not
// written into any answer.
var hostForm = expression(`^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?$`)

// url is this registry's address as the client may use it, without a slash at
// the end.
func (o origin) url() (string, error) {
	if len(o.host) > maxHost || !hostForm().MatchString(o.host) {
		return "", errHostInvalid
	}
	scheme := "http"
	if o.secure {
		scheme = "https"
	}
	return scheme + "://" + o.host, nil
}

// parsePublicURL reads the address of a registry as clients know it.
func parsePublicURL(text string) (string, error) {
	text = strings.TrimSuffix(text, "/")
	scheme, host, ok := strings.Cut(text, "://")
	if !ok && hostForm().MatchString(text) {
		return "", fmt.Errorf("%q is not a URL; begin it with https:// or http://, as in https://%[1]s", text)
	}
	if text != "" && (!ok || scheme != "http" && scheme != "https" || !hostForm().MatchString(host)) {
		return "", errors.New("use for example https://registry.example.org; clients want the registry at the root of a host")
	}
	return text, nil
}
