// Strangers who guess, flood, or claim to be a proxy.

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"
)

// Who guesses at a password waits longer and longer. Its owner does not, nor
// does anybody else.
func TestGuessesAreSlowed(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, guarded("", "ann", "bob"), trustLoopback)
	r.freeze()
	from := func(address string) string { return "X-Forwarded-For: " + address }
	guesses := 0
	guess := func(status int, address string) *reply {
		t.Helper()
		guesses++
		return r.want(status, "GET", "/v2/", nil, basic("ann", fmt.Sprint("guess", guesses)), from(address))
	}
	for range freeByUser {
		guess(401, "192.0.2.1")
	}
	guess(429, "192.0.2.1").code("TOOMANYREQUESTS").has("Retry-After", "1")
	// A right password that was never seen waits, too, or guessing would go on;
	// from elsewhere, and for others, it does not.
	r.want(429, "GET", "/v2/", nil, as("ann"), from("192.0.2.1"))
	r.want(200, "GET", "/v2/", nil, as("bob"), from("192.0.2.1"))
	r.want(200, "GET", "/v2/", nil, as("ann"), from("192.0.2.2"))
	// And now that it was seen, from everywhere.
	r.want(200, "GET", "/v2/", nil, as("ann"), from("192.0.2.1"))
	for _, wait := range []time.Duration{1, 2, 4, 5, 5} {
		r.moved.Add(int64(wait*time.Second - time.Millisecond))
		guess(429, "192.0.2.1")
		r.moved.Add(int64(time.Millisecond))
		guess(401, "192.0.2.1")
	}
	guess(429, "192.0.2.1").has("Retry-After", "5")
	r.moved.Add(int64(forgetAfter))
	for range freeByUser {
		guess(401, "192.0.2.1")
	}
	guess(429, "192.0.2.1")

	// One address that tries many users, as many addresses of one network do.
	spray := func(i int) *reply {
		return r.do("GET", "/v2/", nil, basic(fmt.Sprint("user", i), "guess"), from(fmt.Sprintf("2001:db8::%x", i+1)))
	}
	for i := range freeByAddress {
		if re := spray(i); re.status != 401 {
			t.Fatalf("guess %d: %d", i, re.status)
		}
	}
	if re := spray(freeByAddress); re.status != 429 {
		t.Errorf("the next guess from an IPv6 network: %d, want 429", re.status)
	}
	r.want(401, "GET", "/v2/", nil, basic("user", "guess"), from("2001:db8:0:1::1"))
}

// Many guesses at once are not many for free.
func TestGuessesAtOnce(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	r.freeze()
	var mu sync.Mutex
	statuses := make(map[int]int)
	var clients sync.WaitGroup
	for i := range 50 {
		clients.Go(func() {
			re, err := r.try("GET", "/v2/", nil, basic("ann", fmt.Sprint("guess", i)))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			statuses[re.status]++
			mu.Unlock()
		})
	}
	clients.Wait()
	most := freeByUser + cap(r.server.gate.logins.hashing)
	if statuses[401] > most || statuses[401] < freeByUser || statuses[401]+statuses[429] != 50 {
		t.Errorf("50 guesses at once: %v, want at most %d of 401 and the others 429", statuses, most)
	}
}

// A node starts anew and asks for twelve images at once; a container goes on with
// the password before the last: neither is somebody who guesses.
func TestMachinesAreNotGuessers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"), func(c *config) {})
	r.freeze()
	var clients sync.WaitGroup
	for range 3 * freeByUser {
		clients.Go(func() {
			if re, err := r.try("GET", "/v2/token", nil, as("ann")); err != nil || re.status != 200 {
				t.Errorf("one of many first logins: %v %v", re, err)
			}
		})
	}
	clients.Wait()
	for range 3 * freeByAddress {
		r.want(401, "GET", "/v2/", nil, basic("ann", "before"))
	}
	r.restart()
	r.freeze()
	for range 3 * freeByAddress {
		r.want(401, "GET", "/v2/", nil, basic("ann", "before"))
	}
	r.want(200, "GET", "/v2/", nil, as("ann"))
}

// What is remembered of strangers is bounded.
func TestManyStrangersInLittleMemory(t *testing.T) {
	slow(t)
	t.Parallel()
	now := time.Duration(0)
	a := attempts{now: func() time.Duration { return now }, unit: loginUnit, failed: make(map[string]*failures)}
	for i := range 3 * maxFailed {
		now += time.Millisecond
		a.begin(fmt.Sprint("address", i), strings.Repeat("u", 60000), nil)
	}
	if len(a.failed) > maxFailed {
		t.Errorf("%d failures are remembered, want at most %d", len(a.failed), maxFailed)
	}
	for key := range a.failed {
		if len(key) > 200 {
			t.Fatalf("a key of %d bytes", len(key))
		}
	}
	now += forgetAfter
	a.begin("x", "y", nil)
	if len(a.failed) > maxFailed {
		t.Errorf("%d failures are remembered", len(a.failed))
	}
	l := newLogins(1, a.now)
	list := users{"u": hashOf("p")}
	for i := range 100 {
		list["u"] = hashOf("p")
		if ok, err := l.verify(nil, "x", list, "u", "p"); !ok || err != nil {
			t.Fatal(i, ok, err)
		}
	}
	if len(l.known) != 100 {
		t.Errorf("%d passwords are remembered, want 100", len(l.known))
	}
	lim := limiter{perSecond: 1, now: a.now, of: make(map[string]*rate.Limiter)}
	for i := range 2 * maxLimited {
		lim.take(origin{address: netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})}, patience)
	}
	if len(lim.of) > maxLimited {
		t.Errorf("%d addresses are kept apart, want at most %d", len(lim.of), maxLimited)
	}
}

// Whether there is such a user shows neither in the answer nor in the work.
func TestUnknownUsersCostWhatWrongPasswordsDo(t *testing.T) {
	t.Parallel()
	list := users{"ann": hashOf("p"), "bob": "$2y$11$" + strings.Repeat("a", 53)}
	decoy, cost := list.decoy()
	if got, err := bcrypt.Cost([]byte(decoy)); err != nil || cost != 11 || got != cost {
		t.Errorf("an unknown user costs %d and %d (%v), want 11 as the dearest user", got, cost, err)
	}
	list["eve"] = "$2y$20$" + strings.Repeat("a", 53)
	if _, cost := list.decoy(); cost != maxCost {
		t.Errorf("beside a hash that is too dear an unknown user costs %d, want %d", cost, maxCost)
	}
	// All of the hash is worked out: it fails by comparing, not by its form.
	decoy, _ = users{"ann": hashOf("p")}.decoy()
	if err := bcrypt.CompareHashAndPassword([]byte(decoy), []byte("p")); err != bcrypt.ErrMismatchedHashAndPassword {
		t.Errorf("the password of nobody: %v", err)
	}
	r := startRegistry(t, guarded("", "ann"))
	wrong := r.want(401, "GET", "/v2/a/tags/list", nil, basic("ann", "x"))
	unknown := r.want(401, "GET", "/v2/a/tags/list", nil, basic("stranger", "x"))
	if string(wrong.body) != string(unknown.body) || wrong.header.Get("WWW-Authenticate") != unknown.header.Get("WWW-Authenticate") {
		t.Errorf("the answers differ:\n%s\n%s", wrong.body, unknown.body)
	}
}

// What people type into the wrong field, and what clients send, stays out of the log.
func TestSecretsAreNotLogged(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, json := range []bool{false, true} {
		r := startRegistry(t, guarded("", "ann"))
		buffer := new(logBuffer)
		log := newLog(buffer, json, -100)
		r.restart(func(c *config) { c.storeConfig.log, c.serverConfig.log = log, log })
		secret := r.newRobot("ci", "**", "admin")
		token := r.bearer(as("ann"), "repository:a:pull,push")
		r.want(401, "GET", "/v2/", nil, basic("hunter2", "ann"))
		r.want(401, "GET", "/v2/", nil, basic("ann", "hunter3"))
		r.want(401, "GET", "/v2/", nil, "Authorization: Bearer hunter4")
		r.want(401, "GET", "/v2/", nil, "Authorization: hunter5 hunter5")
		r.want(401, "POST", "/v2/token", "grant_type=password&username=hunter6&password=hunter7", "Content-Type: application/x-www-form-urlencoded")
		r.want(200, "GET", "/v2/token?account=ann&password=hunter8", nil, basic("x", secret))
		r.want(200, "GET", "/v2/", nil, basic("x", secret))
		r.want(200, "GET", "/v2/", nil, token)
		r.pushAs(as("ann"), "a", "x", "{}")
		text := buffer.String()
		for _, s := range []string{"hunter", "ann-secret", secret, robotForm().FindStringSubmatch(secret)[2], strings.Fields(token)[2], strings.Fields(as("ann"))[2]} {
			if strings.Contains(text, s) {
				t.Errorf("the log has %q", s)
			}
		}
		for _, event := range []string{"token created", "login failed", "push"} {
			if !strings.Contains(text, event) {
				t.Errorf("the log has no line about %q", event)
			}
		}
	}
}

// Who did what is written at any level.
func TestAudit(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	buffer := new(logBuffer)
	log := newLog(buffer, false, 8)
	r.restart(func(c *config) { c.storeConfig.log, c.serverConfig.log = log, log })
	im := r.pushAs(as("ann"), "a", "x", "{}")
	r.newRobot("ci", "**", "push")
	r.want(202, "DELETE", "/v2/a/manifests/x", nil, as("ann"))
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil, as("ann"))
	r.want(201, "POST", "/v2/a/blobs/uploads/?digest="+sum("{}").String(), "{}", as("ann"))
	r.want(202, "DELETE", "/v2/a/blobs/"+sum("{}").String(), nil, as("ann"))
	r.want(401, "GET", "/v2/", nil, basic("ann", "x"))
	r.want(401, "GET", "/v2/", nil, basic("eve", "x"))
	r.revokeRobot("ci")
	writeRules(r.cfg.dir, "[[rule]]\nwho = [\"ann\"]\nrepositories = [\"**\"]\nallow = [\"pull\"]\n")
	if err := os.WriteFile(filepath.Join(r.cfg.dir, "htpasswd"), []byte("bob:"+hashOf("x")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.want(401, "GET", "/v2/", nil, as("ann"))
	text := buffer.String()
	for _, line := range []string{
		"event=push user=ann client=127.0.0.1:", "repository=a tags=[x] digest=" + im.digest.String(),
		"event=delete user=ann client=127.0.0.1:", "repository=a reference=x", "repository=a reference=" + im.digest.String(), "repository=a blob=" + sum("{}").String(),
		`event="login failed" user=ann client=127.0.0.1`, `event="login failed" user=unknown client=127.0.0.1`,
		`event="token created" token=ci allow=[push] repositories=[**]`, `event="token revoked" token=ci`,
		`event="rules changed"`, `event="users changed" added=[bob] removed=[ann] changed=[]`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no line with %s in\n%s", line, text)
		}
	}
	if strings.Contains(text, "level=INFO") || !strings.Contains(text, "level=AUDIT msg=audit") {
		t.Errorf("the level is error, and the log is\n%s", text)
	}
}

// trustLoopback believes the X-Forwarded headers that the tests send.
func trustLoopback(c *config) { c.auth.proxies, _ = parseProxies("127.0.0.0/8, ::1,10.0.0.0/8") }

// X-Forwarded headers are a stranger's, unless a proxy of ours has sent them.
func TestForwardedHeaders(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, x := range []struct {
		name    string
		options []func(*config)
		headers []string
		realm   string // HOST is the host as sent
		client  string
	}{
		{"nobody is trusted", nil, []string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example"}, "http://HOST", "127.0.0.1"},
		{"nginx", trusting, []string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Real-IP: 192.0.2.8"}, "https://HOST", "192.0.2.7"},
		{"caddy", trusting, []string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: hub.example:8443"}, "https://hub.example:8443", "192.0.2.7"},
		{"traefik", trusting, []string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: hub.example", "X-Forwarded-Port: 443", "X-Forwarded-Server: t"}, "https://hub.example", "192.0.2.7"},
		{"a client that lies before the proxy", trusting, []string{"X-Forwarded-For: 203.0.113.9, 192.0.2.7", "X-Forwarded-Proto: http,https"}, "https://HOST", "192.0.2.7"},
		{"two proxies", trusting, []string{"X-Forwarded-For: 203.0.113.9, 192.0.2.7", "X-Forwarded-For: 10.1.2.3"}, "http://HOST", "192.0.2.7"},
		{"an address with its port", trusting, []string{"X-Forwarded-For: [2001:db8::7]:4711"}, "http://HOST", "2001:db8::7"},
		{"nonsense", trusting, []string{"X-Forwarded-For: unknown", "X-Forwarded-Proto: gopher"}, "http://HOST", "127.0.0.1"},
		{"a public URL", []func(*config){func(c *config) { c.auth.publicURL = "https://hub.example.org" }}, nil, "https://hub.example.org", "127.0.0.1"},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := startRegistry(t, append(x.options, guarded("", "ann"))...)
			want := strings.Replace(x.realm, "HOST", strings.TrimPrefix(r.http.URL, "http://"), 1)
			re := r.want(401, "GET", "/v2/", nil, x.headers...)
			if got := re.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `Bearer realm="`+want+`/v2/token",`) {
				t.Errorf("the challenge is %s, want %s/v2/token", got, want)
			}
			// A path is right behind any of them.
			if loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, append(x.headers, as("ann"))...).location(); !strings.HasPrefix(loc, "/v2/a/blobs/uploads/") {
				t.Errorf("Location is %s", loc)
			}
			r.want(401, "GET", "/v2/", nil, append(x.headers, basic("ann", "x"))...)
			if !strings.Contains(r.log.String(), `event="login failed" user=ann client=`+x.client) {
				t.Errorf("no login of %s in the log:\n%s", x.client, r.log.String())
			}
		})
	}
	for _, text := range []string{"x", "10.0.0.0/33", "10.0.0.1/8/9", "localhost"} {
		if _, err := parseProxies(text); err == nil {
			t.Errorf("parseProxies(%q) is no error", text)
		}
	}
	for _, text := range []string{"hub.example.org", "ftp://x", "https://x/path", "https://", "https://a b", `https://x"y`} {
		if _, err := parsePublicURL(text); err == nil {
			t.Errorf("parsePublicURL(%q) is no error", text)
		}
	}
}

var trusting = []func(*config){trustLoopback}

// What a client calls the registry lands in the challenge: it cannot add to it.
func TestHostsInChallenges(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"), trustLoopback)
	for _, host := range []string{`x",scope="repository:a:pull`, "x/y", "x y", "x@y", "..\\x", strings.Repeat("x", 300), "x:y", "[::1"} {
		r.want(400, "GET", "/v2/", nil, "X-Forwarded-Host: "+host)
	}
	for _, host := range []string{"pi", "pi.lan:5000", "192.168.1.7", "[::1]:5000", "under_score.lan"} {
		re := r.want(401, "GET", "/v2/", nil, "X-Forwarded-Host: "+host)
		if !strings.HasPrefix(re.header.Get("WWW-Authenticate"), `Bearer realm="http://`+host+`/v2/token"`) {
			t.Errorf("%s: %s", host, re.header.Get("WWW-Authenticate"))
		}
	}
}

// Passwords over plain HTTP are warned of once, unless they stay on the machine or
// TLS ends before.
func TestPlainHTTPIsWarnedOf(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"), trustLoopback)
	warnings := func() int { return strings.Count(r.log.String(), "passwords arrive over plain HTTP") }
	r.want(200, "GET", "/v2/", nil, as("ann"))
	r.want(200, "GET", "/v2/", nil, as("ann"), "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
	r.want(401, "GET", "/v2/", nil, "X-Forwarded-For: 192.0.2.1")
	if n := warnings(); n != 0 {
		t.Errorf("%d warnings on the way to here, want none", n)
	}
	for range 3 { // a proxy of ours says that it was plain HTTP on the way to it
		r.want(200, "GET", "/v2/", nil, as("ann"), "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: http")
	}
	if n := warnings(); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, r.log)
	}
}

// A proxy that nobody has named is told of: its clients would be sent to http.
func TestUnknownProxyIsToldOf(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	for range 3 {
		r.want(200, "GET", "/v2/", nil, as("ann"), "X-Forwarded-Proto: https")
	}
	if n := strings.Count(r.log.String(), "--trusted-proxies"); n != 1 {
		t.Errorf("%d lines about a proxy, want 1:\n%s", n, r.log)
	}
}

// A page of another site cannot have a browser push.
func TestCrossSiteRequests(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	push := func(want int, headers ...string) *reply {
		t.Helper()
		return r.want(want, "POST", "/v2/a/blobs/uploads/?digest="+sum("x").String(), "x", headers...)
	}
	push(403, "Sec-Fetch-Site: cross-site", "Origin: https://evil.example").code("DENIED")
	push(403, "Origin: https://evil.example").code("DENIED")
	push(201)
	push(201, "Sec-Fetch-Site: same-origin")
	r.want(200, "GET", "/v2/a/blobs/"+sum("x").String(), nil, "Sec-Fetch-Site: cross-site", "Origin: https://evil.example")
}

// The origin of a request without an address of its own, as over a socket.
func TestOriginWithoutAddress(t *testing.T) {
	t.Parallel()
	req := httptest.NewRequest(http.MethodGet, "/v2/", nil)
	req.RemoteAddr = "@"
	list, _ := parseProxies("10.0.0.0/8")
	if o := list.origin(req); o.address.IsValid() || o.key() != "invalid IP" || o.address.IsLoopback() {
		t.Errorf("origin %+v", o)
	}
}
