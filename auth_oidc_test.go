// Single sign-on: a browser, this registry, and a provider in this process that says what a test
// wants. The end-to-end tests have a real one.

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// An ssoIssuer is a provider that lets everybody in, as whom it says.
type ssoIssuer struct {
	t    testing.TB
	http *httptest.Server

	mu     sync.Mutex // guards the rest
	down   bool
	keys   []jose.JSONWebKey // that it publishes
	key    jose.JSONWebKey   // that it signs with
	codes  map[string]url.Values
	asked  int
	change func(claims map[string]any)                 // what it says of the person, nil for nothing
	sign   func(claims map[string]any) string          // nil for with key
	info   map[string]any                              // at userinfo; nil for no such endpoint
	answer func(id string, code url.Values) url.Values // what the browser brings back; nil for what it should
}

func newKey(t testing.TB, id string) jose.JSONWebKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}
}

func startIssuer(t testing.TB) *ssoIssuer {
	t.Helper()
	x := &ssoIssuer{t: t, key: newKey(t, "one"), codes: make(map[string]url.Values)}
	x.keys = []jose.JSONWebKey{x.key}
	x.http = httptest.NewServer(x)
	t.Cleanup(x.http.Close)
	return x
}

func (x *ssoIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.asked++
	if x.down {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	me := x.http.URL
	send := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		about := map[string]any{"issuer": me, "authorization_endpoint": me + "/auth", "token_endpoint": me + "/token", "jwks_uri": me + "/keys",
			"id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"}}
		if x.info != nil {
			about["userinfo_endpoint"] = me + "/userinfo"
		}
		send(about)
	case "/keys":
		var set jose.JSONWebKeySet
		for _, k := range x.keys {
			set.Keys = append(set.Keys, k.Public())
		}
		send(set)
	case "/auth":
		q := r.URL.Query()
		code := rand.Text()
		x.codes[code] = q
		back := url.Values{"state": {q.Get("state")}, "code": {code}}
		if x.answer != nil {
			back = x.answer(code, back)
		}
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
	case "/token":
		user, secret, _ := r.BasicAuth()
		secret, _ = url.QueryUnescape(secret) // RFC 6749, section 2.3.1
		asked, ok := x.codes[r.FormValue("code")]
		delete(x.codes, r.FormValue("code"))
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if !ok || user != "berth" || secret != "the client's secret" || r.FormValue("redirect_uri") != asked.Get("redirect_uri") ||
			asked.Get("code_challenge_method") != "S256" || base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") {
			w.WriteHeader(http.StatusBadRequest)
			send(map[string]string{"error": "invalid_grant", "error_description": "secret " + secret})
			return
		}
		now := time.Now()
		claims := map[string]any{"iss": me, "aud": "berth", "sub": "1", "nonce": asked.Get("nonce"), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
			"email": "Ann@example.org", "email_verified": true, "groups": []string{"dev-team", "others"}}
		if x.change != nil {
			x.change(claims)
		}
		id := ""
		if x.sign != nil {
			id = x.sign(claims)
		} else {
			id = signed(x.t, jose.ES256, x.key, claims)
		}
		send(map[string]any{"access_token": "access", "token_type": "Bearer", "expires_in": 60, "id_token": id})
	case "/userinfo":
		send(x.info)
	default:
		http.NotFound(w, r)
	}
}

func signed(t testing.TB, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		t.Error(err)
		return ""
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Error(err)
	}
	return text
}

// unsigned is an ID token with the algorithm none.
func unsigned(claims map[string]any) string {
	text, _ := json.Marshal(claims)
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(text) + "."
}

// says has the issuer do something from now on.
func (x *ssoIssuer) says(set func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	set()
}

func (x *ssoIssuer) config(more string) string {
	return fmt.Sprintf(`[oidc]
issuer = %q
client-id = "berth"
client-secret-file = "login-oidc.secret"
%s
[oidc.groups]
developers = "dev-team"
`, x.http.URL, more)
}

func (x *ssoIssuer) knownThere(more string) func(*config) {
	return func(c *config) {
		x.t.Helper()
		writeFile(x.t, filepath.Join(c.dir, "login-oidc.secret"), []byte("the client's secret\n"))
		writeFile(x.t, filepath.Join(c.dir, loginFile), []byte(x.config(more)))
	}
}

const ssoRules = `
[[rule]]
who = ["kim"]
repositories = ["**"]
allow = ["admin"]
[[rule]]
who = ["group:oidc:developers"]
repositories = ["dev/**"]
allow = ["overwrite"]
[[rule]]
who = ["oidc:ann@example.org"]
repositories = ["ann/**"]
allow = ["push"]
[[rule]]
who = ["users", "oidc:ann@example.com", "ldap:*"]
repositories = ["**"]
allow = ["push"]
`

// A browser has cookies, and goes where it is sent.
type browser struct {
	t      testing.TB
	r      *registry
	client *http.Client
	page   string
	header http.Header
}

func (r *registry) browser() *browser {
	r.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return &browser{t: r.t, r: r, client: &http.Client{Jar: jar}}
}

// open gets a page, and insists on its status.
func (b *browser) open(path string, status int) *browser {
	b.t.Helper()
	return b.read(status)(b.client.Get(b.r.http.URL + path))
}

// post sends a form with the mark of the page that is shown.
func (b *browser) post(path string, status int, form ...string) *browser {
	b.t.Helper()
	fields := url.Values{}
	if m := regexp.MustCompile(`name="mark" value="([^"]+)"`).FindStringSubmatch(b.page); m != nil {
		fields.Set("mark", m[1])
	}
	for i := 0; i < len(form); i += 2 {
		fields.Set(form[i], form[i+1])
	}
	return b.read(status)(b.client.PostForm(b.r.http.URL+path, fields))
}

func (b *browser) read(status int) func(*http.Response, error) *browser {
	return func(resp *http.Response, err error) *browser {
		b.t.Helper()
		if err != nil {
			b.t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != status {
			b.t.Fatalf("%s = %d, want %d; %v\n%s", resp.Request.URL, resp.StatusCode, status, err, text)
		}
		b.page, b.header = string(text), resp.Header
		return b
	}
}

// token is the one that the page shows.
func (b *browser) token() string {
	b.t.Helper()
	secret := regexp.MustCompile(`berth_[0-9a-z]{8}_[0-9A-Za-z_-]{43}`).FindString(b.page)
	if secret == "" {
		b.t.Fatalf("no token:\n%s", b.page)
	}
	return secret
}

func (b *browser) shows(words ...string) {
	b.t.Helper()
	for _, word := range words {
		if !strings.Contains(b.page, word) {
			b.t.Errorf("the page has no %q:\n%s", word, b.page)
		}
	}
}

func TestSingleSignOnGivesTokens(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	r := startRegistry(t, guarded(ssoRules, "kim"), x.knownThere(""))

	b := r.browser().open("/login", 200)
	b.shows("oidc:ann@example.org", "group:oidc:developers", "You have none.", "Make a token")
	if csp := b.header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "script") || b.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers of the page: %v", b.header)
	}
	token := b.post("/login/token", 200).token()
	b.shows("docker login -u ann@example.org "+strings.TrimPrefix(r.http.URL, "http://"), "shown only once")
	by := basic("ann@example.org", token)
	r.pushAs(by, "dev/app", "1", "a")
	r.pushAs(by, "ann/app", "1", "b")
	r.want(403, "POST", "/v2/other/app/blobs/uploads/", nil, by)
	docker := r.bearer(by, "repository:dev/app:pull,push", "repository:other/app:pull,push")
	r.want(202, "POST", "/v2/dev/app/blobs/uploads/", nil, docker)
	r.want(403, "POST", "/v2/other/app/blobs/uploads/", nil, docker)
	if b.open("/login", 200); strings.Contains(b.page, token) {
		t.Error("the token is shown a second time")
	}

	// The command sees it, and says what it may do.
	var out strings.Builder
	list := func() string {
		out.Reset()
		if err := tokenCommand(t.Context(), r.st, options{Args: []string{"list"}}, newConsole(&out, false)); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if !strings.Contains(list(), "as oidc:ann@example.org") {
		t.Errorf("token list:\n%s", out.String())
	}
	id := token[len("berth_"):][:8]
	for args, want := range map[string]string{"push dev/app": "yes", "push ann/app": "yes", "push other/app": "no"} {
		out.Reset()
		run(t.Context(), append([]string{"policy", "check", "--data", r.cfg.dir, "token:" + id}, strings.Fields(args)...), noEnv, nil, &out, &out)
		if !strings.HasPrefix(out.String(), want+":") {
			t.Errorf("policy check token %s: %s", args, out.String())
		}
	}

	// Nobody else can revoke it, nor without the page's own form.
	x.says(func() { x.change = func(c map[string]any) { c["email"], c["sub"] = "bob@example.org", "2" } })
	other := r.browser().open("/login", 200)
	other.post("/login/revoke", 200, "id", id)
	b.post("/login/revoke", 403, "id", id, "mark", "")
	b.open("/login", 200).post("/login/revoke", 403, "id", id, "mark", "x")
	r.want(200, "GET", "/v2/", nil, by)
	second := b.open("/login", 200).post("/login/token", 200).token()
	b.post("/login/revoke", 200, "id", id)
	b.shows(second[:len("berth_")+8])
	r.want(200, "GET", "/v2/", nil, basic("ann", second))
	b.post("/login/revoke", 200, "id", second[len("berth_"):][:8])
	b.shows("You have none.")
	r.want(401, "GET", "/v2/", nil, by)
	r.want(401, "POST", "/v2/dev/app/blobs/uploads/", nil, docker)

	// A session is not for the registry, and ends.
	r.want(401, "GET", "/v2/", nil, "Cookie: "+b.cookies())
	b.post("/login/out", 200).shows("You have logged out")
	b.post("/login/token", 403, "mark", "x")
	if strings.Contains(b.page, "shown only once") {
		t.Error("a token for who has logged out")
	}
	for _, line := range []string{"event=login user=oidc:ann@example.org", "event=\"token created\"", "event=\"token revoked\"", "user=oidc:ann@example.org"} {
		if !strings.Contains(r.log.String(), line) {
			t.Errorf("the log has no %s:\n%s", line, r.log.String())
		}
	}
	for _, secret := range []string{token[15:], "client's secret", "code="} {
		if strings.Contains(r.log.String(), secret) {
			t.Errorf("the log has %s:\n%s", secret, r.log.String())
		}
	}
}

// cookies are those that the browser sends, as a header.
func (b *browser) cookies() string {
	u, _ := url.Parse(b.r.http.URL)
	var list []string
	for _, c := range b.client.Jar.Cookies(u) {
		list = append(list, c.Name+"="+c.Value)
	}
	return strings.Join(list, "; ")
}

func TestProvidersWordIsChecked(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	r := startRegistry(t, guarded(ssoRules, "kim"), x.knownThere(`domains = ["example.org"]`))
	set := func(claim string, value any) func() {
		return func() { x.change = func(c map[string]any) { c[claim] = value } }
	}
	without := func(claim string) func() {
		return func() { x.change = func(c map[string]any) { delete(c, claim) } }
	}
	stranger := newKey(t, "one")
	for _, c := range []struct {
		name   string
		set    func()
		status int
	}{
		{"for another client", set("aud", "another"), 403},
		{"by another issuer", set("iss", "https://id.example.org"), 403},
		{"for another login", set("nonce", "x"), 403},
		{"without a nonce", without("nonce"), 403},
		{"expired", set("exp", time.Now().Add(-time.Hour).Unix()), 403},
		{"without an end", without("exp"), 403},
		{"of tomorrow", set("nbf", time.Now().Add(24*time.Hour).Unix()), 403},
		{"for another party", set("azp", "another"), 403},
		{"with another access token", set("at_hash", base64.RawURLEncoding.EncodeToString(make([]byte, 16))), 403},
		{"not signed", func() { x.sign = unsigned }, 403},
		{"signed by a stranger", func() { x.sign = func(c map[string]any) string { return signed(t, jose.ES256, stranger, c) } }, 403},
		{"signed with the client's secret", func() {
			x.sign = func(c map[string]any) string {
				return signed(t, jose.HS256, []byte("the client's secret, made longer than it is"), c)
			}
		}, 403},
		{"signed with the public key as a secret", func() {
			x.sign = func(c map[string]any) string {
				sum, _ := x.key.Thumbprint(crypto.SHA256)
				return signed(t, jose.HS256, sum, c)
			}
		}, 403},
		{"nothing at all", func() { x.sign = func(map[string]any) string { return "" } }, 403},
		{"an address not verified", set("email_verified", false), 403},
		{"an address perhaps verified", without("email_verified"), 403},
		{"a name with a letter that becomes another's", set("email", "\u0130nge@example.org"), 403},
		{"an address elsewhere", set("email", "ann@example.com"), 403},
		{"an address that looks like ours", set("email", "ann@example.org@example.com"), 403},
		{"no name", without("email"), 403},
		{"a name that is a list", set("email", []string{"ann@example.org"}), 403},
		{"a name with a colon", set("email", "token:ci@example.org"), 403},
		{"a name with a line's end", set("email", "ann\n@example.org"), 403},
		{"another state", func() {
			x.answer = func(_ string, back url.Values) url.Values { back.Set("state", "x"); return back }
		}, 400},
		{"no state", func() { x.answer = func(_ string, back url.Values) url.Values { back.Del("state"); return back } }, 400},
		{"another issuer in the answer", func() {
			x.answer = func(_ string, back url.Values) url.Values { back.Set("iss", "https://id.example.org"); return back }
		}, 400},
		{"another code", func() {
			x.answer = func(_ string, back url.Values) url.Values { back.Set("code", "x"); return back }
		}, 403},
		{"the code of another login", func() {
			first := ""
			x.answer = func(code string, back url.Values) url.Values {
				if first == "" {
					first = code
					back.Set("error", "access_denied")
				} else {
					back.Set("code", first)
				}
				return back
			}
		}, 403},
		{"a refusal", func() {
			x.answer = func(string, url.Values) url.Values { return url.Values{} }
		}, 400},
	} {
		x.says(func() { x.change, x.sign, x.answer = nil, nil, nil; c.set() })
		clear(r.server.gate.logins.attempts.failed)
		b := r.browser().open("/login", c.status)
		if c.name == "the code of another login" {
			b.open("/login", c.status) // whose verifier does not fit
		}
		if strings.Contains(b.page, "Make a token") || strings.Contains(b.page, "oidc:") || strings.Contains(b.cookies(), "berth-session") {
			t.Errorf("%s: let in:\n%s", c.name, b.page)
		}
	}
	x.says(func() { x.change, x.sign, x.answer = nil, nil, nil })
	r.browser().open("/login", 200).shows("oidc:ann@example.org")

	// Who comes with wrong codes again and again waits, and the provider is left alone.
	clear(r.server.gate.logins.attempts.failed)
	r.server.gate.logins.attempts.patience = 0
	x.says(func() {
		x.answer = func(_ string, back url.Values) url.Values { back.Set("code", "x"); return back }
	})
	for range freeByUser {
		r.browser().open("/login", 403)
	}
	r.browser().open("/login", 429)
	if len(r.st.robots.list()) != 0 {
		t.Error("there are tokens")
	}
	if log := r.log.String(); strings.Contains(log, "client's secret") || !strings.Contains(log, "event=\"login failed\"") {
		t.Errorf("the log:\n%s", log)
	}
}

func TestProviderSaysTheRestWhenAsked(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	r := startRegistry(t, guarded(ssoRules, "kim"), x.knownThere(`name-claim = "preferred_username"`))
	x.says(func() {
		x.change = func(c map[string]any) { delete(c, "groups") }
		x.info = map[string]any{"sub": "1", "preferred_username": "Ann", "groups": "dev-team", "nonce": "x"}
	})
	r.browser().open("/login", 200).shows("oidc:ann", "group:oidc:developers")
	x.says(func() { x.info["sub"] = "2" }) // of somebody else
	r.browser().open("/login", 403)
}

// That one address is verified says nothing of another.
func TestProviderVerifiesAnotherAddress(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	r := startRegistry(t, guarded(ssoRules, "kim"), x.knownThere(""))
	x.says(func() {
		x.change = func(c map[string]any) { delete(c, "groups"); delete(c, "email_verified") }
		x.info = map[string]any{"sub": "1", "email": "other@example.org", "email_verified": true}
	})
	r.browser().open("/login", 403)
	x.says(func() { x.info["email"] = "Ann@example.org" })
	r.browser().open("/login", 200).shows("oidc:ann@example.org")
}

// A browser that goes away while the provider is asked keeps out nobody else.
func TestBrowserGoesAway(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	var asked atomic.Pointer[context.CancelFunc] // who has asked goes away
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if leave := asked.Swap(nil); leave != nil {
			(*leave)()
			<-r.Context().Done()
			return
		}
		x.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	x.http.URL = front.URL
	r := startStill(t, guarded(ssoRules, "kim"), x.knownThere(""))
	ctx, cancel := context.WithCancel(t.Context())
	asked.Store(&cancel)
	if _, _, err := r.server.gate.provider.begin(ctx, r.server.gate.view().login.oidc, "http://127.0.0.1/login/callback"); !errors.Is(err, errBusyLogins) {
		t.Errorf("the error is %v", err)
	}
	r.browser().open("/login", 200)
}

func TestProvidersKeysChange(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	r := startStill(t, guarded(ssoRules, "kim"), x.knownThere(""))
	r.browser().open("/login", 200)
	old, next := x.key, newKey(t, "two")
	x.says(func() { x.keys = []jose.JSONWebKey{next} }) // the old one is withdrawn
	r.pass(providerLife - time.Second)
	r.browser().open("/login", 200)
	r.pass(2 * time.Second)
	r.browser().open("/login", 403)
	x.says(func() { x.key = next })
	r.browser().open("/login", 200)
	third := newKey(t, "three")
	x.says(func() { x.key, x.keys = third, []jose.JSONWebKey{next, third} }) // at once
	r.browser().open("/login", 200)
	x.says(func() { x.key = old })
	r.browser().open("/login", 403)
}

func TestProviderThatIsDown(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	x.down = true
	r := startStill(t, guarded(ssoRules, "kim"), x.knownThere(""))
	if x.asked != 0 {
		t.Errorf("a start asks the provider")
	}
	for range 5 {
		r.browser().open("/login", 503).shows("Tokens that you have still work")
	}
	if n := strings.Count(r.log.String(), "the login provider cannot be asked"); n != 1 || x.asked != 1 {
		t.Errorf("%d lines about the provider, which was asked %d times; want 1 and 1:\n%s", n, x.asked, r.log.String())
	}
	x.says(func() { x.down = false })
	r.pass(askEvery + time.Second)
	token := basic("ann", r.browser().open("/login", 200).post("/login/token", 200).token())
	x.http.Close()
	r.pushAs(token, "dev/app", "1", "a")
	r.want(200, "GET", "/v2/", nil, r.bearer(token, "repository:dev/app:pull"))
	r.want(200, "GET", "/v2/", nil, as("kim"))
	r.restart()
	r.pushAs(token, "dev/app", "2", "b")
}

func TestPeoplesTokensAreBounded(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	r := startStill(t, guarded(ssoRules, "kim"), x.knownThere(`token-expires = "10d"`))
	wall := time.Now()
	r.server.gate.now = func() time.Time { return wall }
	b := r.browser().open("/login", 200)
	by := ""
	for range maxOwned {
		by = basic("ann", b.post("/login/token", 200).token())
	}
	b.shows("as many as you may have")
	mark := regexp.MustCompile(`name="mark" value="([^"]+)"`).FindStringSubmatch(b.page)[1]
	b.post("/login/token", 409, "mark", mark).shows("You have 10 tokens; revoke one first")
	if n := len(r.st.robots.list()); n != maxOwned {
		t.Errorf("%d tokens, want %d", n, maxOwned)
	}
	r.want(200, "GET", "/v2/", nil, by)

	// What login.toml says now holds: who is not known there any more has no token that works.
	r.edit(loginFile, strings.Replace(x.config(""), "dev-team", "others-team", 1))
	r.want(200, "GET", "/v2/", nil, by)
	r.want(403, "GET", "/v2/dev/app/manifests/1", nil, by)
	r.edit(loginFile, strings.Replace(x.config(""), "issuer = \"", "issuer = \"https://id.example.org/", 1))
	r.want(401, "GET", "/v2/", nil, by)
	r.edit(loginFile, "[ldap]\nurl=\"ldaps://127.0.0.1:1\"\nbase=\"ou=p\"\n")
	r.want(401, "GET", "/v2/", nil, by)
	r.edit(loginFile, x.config(`token-expires = "10d"`))
	r.want(200, "GET", "/v2/", nil, by)

	// They end, and make room.
	wall = wall.Add(10*24*time.Hour + time.Second)
	r.want(401, "GET", "/v2/", nil, by)
	b.open("/login", 200).shows("You have none.")
	b.post("/login/token", 200)
	if n := len(r.st.robots.list()); n != 1 {
		t.Errorf("%d tokens after the others have expired, want 1", n)
	}
	r.restart()
	if n := len(r.st.robots.list()); n != 1 {
		t.Errorf("%d tokens after a restart, want 1", n)
	}
}

// The bound is for those of one provider: another's Ann is another person, who may have as many.
func TestPeoplesTokensAreBoundedByProvider(t *testing.T) {
	t.Parallel()
	x, y := startIssuer(t), startIssuer(t)
	r := startRegistry(t, guarded(ssoRules, "kim"), x.knownThere(""))
	full := func() {
		b := r.browser().open("/login", 200)
		mark := regexp.MustCompile(`name="mark" value="([^"]+)"`).FindStringSubmatch(b.page)[1]
		for range maxOwned {
			b.post("/login/token", 200)
		}
		b.post("/login/token", 409, "mark", mark).shows("You have 10 tokens; revoke one first")
	}
	full()
	r.edit(loginFile, y.config(""))
	full()
	r.edit(loginFile, x.config(""))
	r.browser().open("/login", 200).shows("as many as you may have")
}

// Who is of none of the domains any more has no token that works, and no session.
func TestDomainsThatAreNarrowedEndTokens(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	r := startRegistry(t, guarded(ssoRules, "kim"), x.knownThere(""))
	ann := r.browser().open("/login", 200)
	inside := basic("ann", ann.post("/login/token", 200).token())
	x.says(func() { x.change = func(c map[string]any) { c["email"], c["sub"] = "bob@example.com", "2" } })
	bob := r.browser().open("/login", 200)
	outside := basic("bob", bob.post("/login/token", 200).token())
	x.says(func() {
		x.change = func(c map[string]any) {
			c["preferred_username"], c["email_verified"], c["sub"] = "eve@example.org", false, "3"
		}
	})
	r.edit(loginFile, x.config(`name-claim = "preferred_username"`))
	unverified := basic("eve", r.browser().open("/login", 200).post("/login/token", 200).token())
	docker := r.bearer(outside, "repository:bob/app:pull")
	r.want(200, "GET", "/v2/", nil, docker)

	for range 2 {
		r.edit(loginFile, x.config(`domains = ["example.org"]`))
		r.want(200, "GET", "/v2/", nil, inside)
		ann.open("/login", 200).shows("oidc:ann@example.org")
		for _, by := range []string{outside, unverified, docker} {
			r.want(401, "GET", "/v2/", nil, by)
		}
		r.edit(loginFile, x.config("")) // and back
		for _, by := range []string{inside, outside, unverified} {
			r.want(200, "GET", "/v2/", nil, by)
		}
		r.restart()
		ann = r.browser()
		x.says(func() { x.change = nil })
		ann.open("/login", 200)
		docker = r.bearer(outside, "repository:bob/app:pull")
	}
	r.edit(loginFile, x.config(`domains = ["example.com"]`))
	ann.open("/login", 403)
}

func TestSessionsEndAndAreFew(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	r := startStill(t, guarded(ssoRules, "kim"), x.knownThere(""))
	b := r.browser().open("/login", 200)
	page := b.page
	r.pass(sessionLife + time.Second)
	for _, form := range []string{"/login/token", "/login/revoke"} {
		b.page = page
		b.post(form, 403).shows("log in again") // and not by a redirect, which browsers refuse here
		if len(r.st.robots.list()) > 0 {
			t.Error("a session that has ended makes tokens")
		}
	}
	p := r.server.gate.provider
	for range maxSessions + 10 {
		p.open(&browserSession{})
	}
	if len(p.sessions) > maxSessions {
		t.Errorf("%d sessions, at most %d", len(p.sessions), maxSessions)
	}
}

// Behind a proxy with TLS, the browser is sent back to the address that people know, and its
// cookies are for there alone. No parameter sends it elsewhere.
func TestLoginBehindAProxy(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	r := startRegistry(t, guarded(ssoRules, "kim"), x.knownThere(""), func(c *config) { c.auth.publicURL = "https://hub.example.org" })
	re := r.do("GET", "/login?next=https://evil.example&redirect_uri=//evil.example", nil, "Host: evil.example")
	to, err := url.Parse(re.location())
	if err != nil || re.status != 302 || !strings.HasPrefix(re.location(), x.http.URL+"/auth?") || to.Query().Get("redirect_uri") != "https://hub.example.org/login/callback" {
		t.Errorf("sent to %d %s", re.status, re.location())
	}
	cookie := re.header.Get("Set-Cookie")
	for _, word := range []string{"__Host-berth-login=", "Path=/", "HttpOnly", "Secure", "SameSite=Lax", "Max-Age=600"} {
		if !strings.Contains(cookie, word) || strings.Contains(cookie, "Domain") {
			t.Errorf("the cookie %s has no %s", cookie, word)
		}
	}
	flow, _, _ := strings.Cut(cookie, ";")
	code := rand.Text()
	x.says(func() { x.codes[code] = to.Query() })
	back := url.Values{"state": {to.Query().Get("state")}, "code": {code}, "next": {"https://evil.example"}}
	// Without the cookie, or with one that is not ours, it is nobody's.
	for _, other := range []string{"Cookie: x=y", "Cookie: " + strings.Replace(flow, "=", "=x", 1), "Cookie: " + strings.TrimPrefix(flow, "__Host-")} {
		if re := r.do("GET", "/login/callback?"+back.Encode(), nil, other); re.status != 400 {
			t.Errorf("a callback with %.30q = %d", other, re.status)
		}
	}
	re = r.do("GET", "/login/callback?"+back.Encode(), nil, "Cookie: "+flow)
	if re.status != 303 || re.location() != "/login" || len(re.header["Set-Cookie"]) != 2 || !strings.Contains(re.header["Set-Cookie"][1], "__Host-berth-session=") {
		t.Errorf("the callback = %d %v\n%s", re.status, re.header, re.body)
	}
	session, _, _ := strings.Cut(re.header["Set-Cookie"][1], ";")
	page := r.do("GET", "/login", nil, "Cookie: "+session)
	mark := regexp.MustCompile(`name="mark" value="([^"]+)"`).FindSubmatch(page.body)
	if mark == nil {
		t.Fatalf("no page: %d %s", page.status, page.body)
	}
	form := "mark=" + url.QueryEscape(string(mark[1]))
	r.want(403, "POST", "/login/token", form, "Cookie: "+session, "Content-Type: application/x-www-form-urlencoded", "Origin: https://evil.example")
	if re := r.do("POST", "/login/token", form, "Cookie: "+session, "Content-Type: application/x-www-form-urlencoded", "Origin: https://hub.example.org"); re.status != 200 {
		t.Errorf("the form = %d %s", re.status, re.body)
	}
}

// A provider that says elsewhere is not followed there, nor over plain HTTP to another machine.
func TestProviderThatPointsElsewhere(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	var elsewhere http.HandlerFunc
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { elsewhere(w, r) }))
	defer front.Close()
	for name, f := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/moved" && r.URL.Path != "/auth" {
				http.Redirect(w, r, "/moved", http.StatusTemporaryRedirect)
				return
			}
			json.NewEncoder(w).Encode(map[string]any{"issuer": front.URL, "authorization_endpoint": front.URL + "/auth",
				"token_endpoint": front.URL + "/token", "jwks_uri": front.URL + "/keys"})
		},
		"another issuer": func(w http.ResponseWriter, r *http.Request) { x.ServeHTTP(w, r) },
		"plain HTTP elsewhere": func(w http.ResponseWriter, r *http.Request) {
			json.NewEncoder(w).Encode(map[string]any{"issuer": front.URL, "authorization_endpoint": "http://id.example.org/auth",
				"token_endpoint": "http://id.example.org/token", "jwks_uri": "http://id.example.org/keys"})
		},
		"an answer without an end": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"issuer":"`)
			io.Copy(w, zeros(maxProviderBody+1))
		},
	} {
		elsewhere = f
		r := startRegistry(t, guarded(ssoRules, "kim"), x.knownThere(""))
		r.edit(loginFile, strings.ReplaceAll(x.config(""), x.http.URL, front.URL))
		r.browser().open("/login", 503)
		if !strings.Contains(r.log.String(), "the login provider cannot be asked") {
			t.Errorf("%s: the log:\n%s", name, r.log.String())
		}
	}
}

// A backup of a registry that knows people by others is as closed as the registry.
func TestBackupHasTheLogins(t *testing.T) {
	t.Parallel()
	x := startIssuer(t)
	r := startRegistry(t, guarded(ssoRules, "kim"), x.knownThere(""))
	dest := filepath.Join(t.TempDir(), "copy")
	var out strings.Builder
	if err := backupCommand(t.Context(), r.st, options{Args: []string{dest}}, newConsole(&out, false)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dest, loginFile)); err != nil || string(got) != x.config("") {
		t.Errorf("%s in the backup: %q, %v", loginFile, got, err)
	}
}
