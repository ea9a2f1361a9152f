// What keeps strangers slow: guesses at passwords, floods of requests, and
// headers that claim to come from a proxy.
//
// Everything here is in memory and bounded. Time is the process's own, so that
// a clock that jumps neither frees nor locks anybody.

package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// attempts slows down who guesses passwords, by address and user, and by address
// alone for who tries many users. A user is never locked out: not from another
// address, not with a password that was right before; and who comes from the address
// of somebody who guesses stands in line with him, and is let in in turn.
type attempts struct {
	now      func() time.Duration
	unit     time.Duration // the first delay
	patience time.Duration // how long a try stands in line at most

	mu     sync.Mutex // guards the rest
	failed map[string]*failures
	lines  map[string][]*standing // by address, in the order in which they came
}

// A standing is the place of a try in it.
type standing struct {
	user string
	wake chan struct{} // told when one before has gone
}

// failures are wrong passwords in a row.
type failures struct {
	count int
	last  time.Duration
}

const (
	freeByUser    = 5  // wrong passwords of one address for one user that cost nothing
	freeByAddress = 30 // and for all users together
	maxDelay      = 5  // the longest delay, in units: a line must move
	maxLine       = 6  // tries of one address that wait: as many as the patience is enough for
	// forgetAfter is how long a wrong password counts.
	forgetAfter = 15 * time.Minute
	maxFailed   = 10000
)

// loginUnit and loginPatience are for clients that give up after 15 seconds, as
// docker login does, and for those that do not.
const (
	loginUnit     = time.Second
	loginPatience = 30 * time.Second
)

// due is how long an address has to wait before its next attempt for a user. a.mu is
// held.
func (a *attempts) due(address, user string, now time.Duration) time.Duration {
	return max(a.failed[pairKey(address, user)].wait(now, freeByUser, a.unit), a.failed[address].wait(now, freeByAddress, a.unit))
}

// turn waits for the turn of an attempt, and counts it, as a failure until it has
// succeeded. The error is errTooManyLogins if the line is too long, or too slow.
func (a *attempts) turn(done <-chan struct{}, address, user string) error {
	wait := a.begin(address, user, nil)
	if wait == 0 {
		return nil
	}
	refused := errTooManyLogins.withHeader("Retry-After", seconds(wait))
	a.mu.Lock()
	if a.patience == 0 || len(a.lines[address]) >= maxLine {
		a.mu.Unlock()
		return refused
	}
	me := &standing{user, make(chan struct{}, 1)}
	a.lines[address] = append(a.lines[address], me)
	a.mu.Unlock()
	defer a.leave(address, me)
	late := time.NewTimer(a.patience)
	defer late.Stop()
	for {
		if wait = a.begin(address, user, me); wait == 0 {
			return nil
		}
		due := time.NewTimer(wait)
		select {
		case <-due.C:
		case <-me.wake:
		case <-late.C:
			return refused
		case <-done:
			return refused
		}
		due.Stop()
	}
}

// leave takes a try out of the line, and has the others look.
func (a *attempts) leave(address string, me *standing) {
	a.mu.Lock()
	defer a.mu.Unlock()
	line := slices.DeleteFunc(a.lines[address], func(w *standing) bool { return w == me })
	if a.lines[address] = line; len(line) == 0 {
		delete(a.lines, address)
	}
	for _, w := range line {
		notify(w.wake)
	}
}

// pairKey is for the failures of an address with a user, whose name a stranger chose.
func pairKey(address, user string) string {
	return fmt.Sprintf("%s %.64s %d", address, user, len(user))
}

// begin counts an attempt, or returns how long to wait, if it is nobody's turn. me is
// its place in line; nil is behind all.
func (a *attempts) begin(address, user string, me *standing) (wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if wait := a.due(address, user, now); wait > 0 {
		return wait
	}
	for _, w := range a.lines[address] {
		if w == me {
			break
		}
		if a.due(address, w.user, now) == 0 { // his turn; he is about to see that
			return a.unit
		}
	}
	for _, f := range []*failures{a.get(pairKey(address, user), now), a.get(address, now)} {
		f.count++
		f.last = now
	}
	return 0
}

// wait is how long the next attempt has to wait: a unit, then twice as long each
// time.
func (f *failures) wait(now time.Duration, free int, unit time.Duration) time.Duration {
	if f == nil || f.count < free || now-f.last >= forgetAfter {
		return 0
	}
	delay := unit * time.Duration(min(maxDelay, 1<<min(f.count-free, 10)))
	return max(0, f.last+delay-now)
}

// undo takes back what begin counted, of a try that was not made.
func (a *attempts) undo(address, user string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range []*failures{a.failed[pairKey(address, user)], a.failed[address]} {
		if f != nil && f.count > 0 {
			f.count--
		}
	}
}

// succeeded takes back what begin counted. Whoever knows one password may still
// be guessing at others.
func (a *attempts) succeeded(address, user string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.failed, pairKey(address, user))
	if f := a.failed[address]; f != nil && f.count > 0 {
		f.count--
	}
}

// get returns the failures under a key. a.mu is held.
func (a *attempts) get(key string, now time.Duration) *failures {
	f := a.failed[key]
	if f != nil && now-f.last < forgetAfter {
		return f
	}
	if f == nil {
		makeRoom(a.failed, maxFailed)
	}
	f = &failures{}
	a.failed[key] = f
	return f
}

// makeRoom lets go of any entry of a map that has reached its bound. Whoever
// floods it forgets at random, which costs little and locks nobody out.
func makeRoom[K comparable, V any](m map[K]V, most int) {
	if len(m) < most {
		return
	}
	for key := range m {
		delete(m, key)
		return
	}
}

// A limiter bounds the requests a second of each address.
type limiter struct {
	perSecond int
	now       func() time.Duration

	mu sync.Mutex // guards of
	of map[string]*rate.Limiter
}

// maxLimited bounds the addresses that are kept apart.
const maxLimited = 10000

// take returns how long an address has to wait for its next request, 0 if it need
// not, and what takes the request back. It may have ten seconds' worth at once: an
// image has many layers. If it would have to wait longer than most, nothing is
// taken, and back is nil.
func (l *limiter) take(from origin, most time.Duration) (wait time.Duration, back func()) {
	if l.perSecond == 0 {
		return 0, nil
	}
	address := from.key()
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.of[address]
	if x == nil {
		makeRoom(l.of, maxLimited)
		x = rate.NewLimiter(rate.Limit(l.perSecond), 10*min(l.perSecond, 1e8)) // an int may have 32 bits
		l.of[address] = x
	}
	now := time.Unix(0, 0).Add(l.now())
	if x.AllowN(now, 1) {
		return 0, nil
	}
	wait = time.Duration((1 - x.TokensAt(now)) / float64(l.perSecond) * float64(time.Second))
	if wait > most {
		return wait, nil
	}
	r := x.ReserveN(now, 1)
	return wait, func() { r.CancelAt(time.Unix(0, 0).Add(l.now())) }
}

// proxies are the addresses whose X-Forwarded headers are believed.
type proxies []netip.Prefix

// parseProxies reads addresses and networks with commas between.
func parseProxies(text string) (list proxies, err error) {
	for _, word := range splitList(text) {
		prefix, err := netip.ParsePrefix(word)
		if err != nil {
			addr, err := netip.ParseAddr(word)
			if err != nil {
				return nil, fmt.Errorf("%q is neither an address nor a network as 10.0.0.0/8", word)
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
	if port := outermost(f.port, said); portForm.MatchString(port) && port != "80" && port != "443" && o.host != "" {
		if _, _, err := net.SplitHostPort(o.host); err != nil {
			o.host += ":" + port
		}
	}
	return o
}

// portForm is a port as proxies write it.
var portForm = regexp.MustCompile(`^[1-9][0-9]{0,4}$`)

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
var hostForm = regexp.MustCompile(`^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?$`)

// url is this registry's address as the client may use it, without a slash at
// the end.
func (o origin) url() (string, error) {
	if len(o.host) > maxHost || !hostForm.MatchString(o.host) {
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
	if text != "" && (!ok || scheme != "http" && scheme != "https" || !hostForm.MatchString(host)) {
		return "", errors.New("use for example https://registry.example.org; clients want the registry at the root of a host")
	}
	return text, nil
}
