// Single sign-on: people whom an OpenID Connect provider knows.
//
// A browser that comes to /login (handlers_login.go) is sent to the provider and comes back with
// a code, which Berth exchanges for the provider's word on who it is: the authorization code
// flow of OpenID Connect Core 1.0, with PKCE (RFC 7636), state and nonce. Clients of registries
// have no browser, so the person then gets a token for them (auth_robots.go).
//
// The provider is asked for nothing but logins. One that is down keeps out nobody who has a
// token, and is not needed for a start. What it says of itself is read at the first login, and
// again when that is an hour old, so keys that it has withdrawn do not count for longer.
//
// What a browser must bring back is in a cookie that Berth has signed; nothing is kept for those
// who only begin. Who has logged in has a session, in memory, which is short.

package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	// flowLife is how long somebody may take to log in at the provider.
	flowLife = 10 * time.Minute
	// sessionLife is how long the page may be used after that.
	sessionLife = 15 * time.Minute
	maxSessions = 1000
	// providerLife is how long what a provider says of itself is believed.
	providerLife = time.Hour
	// providerTimeout is for all that is asked of it for a request, and maxProviderBody for
	// each of its answers, in bytes.
	providerTimeout = 15 * time.Second
	maxProviderBody = 1 << 20
	// maxProviding bounds the logins for which it is asked at once.
	maxProviding = 4
	// The life of people's tokens: what is usual, and the longest.
	usualTokenLife = 30 * 24 * time.Hour
	maxTokenLife   = 366 * 24 * time.Hour
)

// An oidcConfig is [oidc] of login.toml.
type oidcConfig struct {
	Issuer      string   `toml:"issuer"`
	ClientID    string   `toml:"client-id"`
	SecretFile  string   `toml:"client-secret-file"` // "" for a public client
	CAFile      string   `toml:"ca-file"`
	Scopes      []string `toml:"scopes"` // besides openid
	NameClaim   string   `toml:"name-claim"`
	GroupsClaim string   `toml:"groups-claim"`
	Domains     []string `toml:"domains"` // of e-mail addresses; none for all
	Expires     string   `toml:"token-expires"`

	Groups map[string]string `toml:"groups"` // as the provider calls them, by the names that rules have

	mark string
	life time.Duration
}

// complete checks what was read, and works out the rest.
func (c *oidcConfig) complete(dir string) error {
	c.SecretFile, c.CAFile = within(dir, c.SecretFile), within(dir, c.CAFile)
	u, err := url.Parse(c.Issuer)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return errors.New("issuer: use the provider's address as it says it itself, such as https://id.example.org")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("issuer: over plain HTTP anybody in between could log in as anybody; use https")
	case c.ClientID == "":
		return errors.New("client-id: say what the provider calls this registry")
	}
	if c.Scopes == nil {
		c.Scopes = []string{"profile", "email"}
	}
	if c.NameClaim == "" {
		c.NameClaim = "email"
	}
	if c.GroupsClaim == "" {
		c.GroupsClaim = "groups"
	}
	for i, domain := range c.Domains {
		if c.Domains[i] = strings.ToLower(strings.TrimPrefix(domain, "@")); hostName(c.Domains[i]) == "" {
			return fmt.Errorf("domains: %q is not a domain such as example.org", domain)
		}
	}
	if c.life = usualTokenLife; c.Expires != "" {
		if c.life, err = parseLife(c.Expires); err != nil {
			return fmt.Errorf("token-expires: %w", err)
		}
		if c.life <= 0 || c.life > maxTokenLife {
			return errors.New("token-expires: people's tokens last for 366d at most")
		}
	}
	if err := checkGroups(c.Groups); err != nil {
		return err
	}
	c.mark = markOf(*c)
	return nil
}

// A provider asks one. Its methods may be called from any goroutine.
type provider struct {
	log    *slog.Logger
	uptime func() time.Duration
	now    func() time.Time
	asking chan struct{} // full while as many logins as may be are asked for

	mu       sync.Mutex // guards the rest
	known    *knownProvider
	down     bool          // it could not be asked the last time,
	since    time.Duration // which was then
	sessions map[string]*browserSession
}

// A knownProvider is one as it has described itself.
type knownProvider struct {
	*oidc.Provider
	client *http.Client
	mark   string // of the configuration
	at     time.Duration
}

// A browserSession is of somebody who has logged in by a browser.
type browserSession struct {
	who    string   // as oidc:ann@example.org
	issuer string   // who says so
	member []string // of which groups of login.toml, as the issuer calls them
	domain string   // of the e-mail address; "" if that is not verified
	until  time.Duration
}

func newProvider(log *slog.Logger, uptime func() time.Duration) *provider {
	return &provider{log: log, uptime: uptime, now: time.Now, asking: make(chan struct{}, maxProviding), sessions: make(map[string]*browserSession)}
}

// A flow is what a browser brings back from the provider, in a cookie.
type flow struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	Mark     string `json:"m"` // of the configuration
	Expires  int64  `json:"e"` // Unix time
}

// seal signs what Berth gives away to read it again; kind keeps apart what is signed for
// different ends.
func (s *signer) seal(kind string, v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers
	}
	payload := base64.RawURLEncoding.EncodeToString(text)
	return payload + "." + base64.RawURLEncoding.EncodeToString(s.mac(kind+":"+payload))
}

// unseal reads what seal has made, and reports whether it did.
func (s *signer) unseal(kind, sealed string, v any) bool {
	payload, sum, ok := strings.Cut(sealed, ".")
	if !ok {
		return false
	}
	want := base64.RawURLEncoding.EncodeToString(s.mac(kind + ":" + payload))
	if subtle.ConstantTimeCompare([]byte(want), []byte(sum)) != 1 {
		return false
	}
	text, err := base64.RawURLEncoding.DecodeString(payload)
	return err == nil && json.Unmarshal(text, v) == nil
}

var (
	errProviderDown = &protocolError{status: 503, code: "UNAVAILABLE", retryAfter: 10 * time.Second,
		message: "the login provider cannot be asked now; try again later. Tokens that you have still work"}
	errLoginRefused = &protocolError{status: 403, code: "DENIED", message: "you cannot log in to this registry"}
	errLoginStale   = &protocolError{status: 400, code: "UNSUPPORTED", message: "this login was not begun in this browser, or it took too long; begin again"}
)

// find returns the provider as it describes itself. The error is errProviderDown if it does not;
// the log tells why, once.
func (x *provider) find(ctx context.Context, c *oidcConfig) (*knownProvider, error) {
	x.mu.Lock()
	known, rests := x.known, x.down && x.uptime()-x.since < askEvery
	x.mu.Unlock()
	usable := known != nil && known.mark == c.mark
	if usable && x.uptime()-known.at < providerLife {
		return known, nil
	}
	if rests {
		return nil, errProviderDown
	}
	fresh, err := c.discover(ctx)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return nil, errBusyLogins // the browser has gone, which says nothing about the provider
	}
	if err != nil {
		return nil, x.note(c, err)
	}
	fresh.at = x.uptime()
	x.mu.Lock()
	x.known = fresh
	x.mu.Unlock()
	return fresh, x.note(c, nil)
}

// note remembers whether the provider could be asked. It returns errProviderDown if not.
func (x *provider) note(c *oidcConfig, err error) error {
	x.mu.Lock()
	before := x.down
	x.down, x.since = err != nil, x.uptime()
	x.mu.Unlock()
	switch {
	case err == nil && before:
		x.log.Info("the login provider answers again", "issuer", c.Issuer)
	case err != nil && !before:
		x.log.Error("the login provider cannot be asked, so nobody can log in by it; users and tokens are not affected", "issuer", c.Issuer, "error", err)
	}
	if err != nil {
		return errProviderDown.because(err)
	}
	return nil
}

// discover asks a provider to describe itself (OpenID Connect Discovery 1.0, section 4).
func (c *oidcConfig) discover(ctx context.Context) (*knownProvider, error) {
	pool, err := readCAs(c.CAFile)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Transport: shortAnswers{&http.Transport{
			Proxy:             http.ProxyFromEnvironment,
			TLSClientConfig:   &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true,
		}},
		Timeout: providerTimeout,
		// The client's secret is for whom the provider has named, not for where that points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, client), c.Issuer)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	var other struct {
		Keys string `json:"jwks_uri"`
	}
	if err := found.Claims(&other); err != nil {
		return nil, err
	}
	at := found.Endpoint()
	for what, address := range map[string]string{"authorization": at.AuthURL, "token": at.TokenURL, "keys": other.Keys, "user info": found.UserInfoEndpoint()} {
		u, err := url.Parse(address)
		if err != nil || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) && (address != "" || what != "user info") {
			return nil, fmt.Errorf("its address for %s is %q, which is not https", what, address)
		}
	}
	return &knownProvider{Provider: found, client: client, mark: c.mark}, nil
}

// shortAnswers cuts answers that are too long.
type shortAnswers struct{ http.RoundTripper }

func (t shortAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxProviderBody), resp.Body}
	}
	return resp, err
}

// oauth is what the provider knows this registry as.
func (c *oidcConfig) oauth(p *knownProvider, redirect string) (*oauth2.Config, error) {
	secret := ""
	if c.SecretFile != "" {
		var err error
		if secret, err = readSecret(c.SecretFile); err != nil {
			return nil, err
		}
	}
	return &oauth2.Config{ClientID: c.ClientID, ClientSecret: secret, Endpoint: p.Endpoint(), RedirectURL: redirect,
		Scopes: append([]string{oidc.ScopeOpenID}, c.Scopes...)}, nil
}

// begin returns where to send a browser, and what it must bring back to redirect.
func (x *provider) begin(ctx context.Context, c *oidcConfig, redirect string) (address string, f flow, err error) {
	ctx, cancel := context.WithTimeout(ctx, providerTimeout)
	defer cancel()
	if err := x.enter(ctx); err != nil {
		return "", f, err
	}
	defer x.leave()
	p, err := x.find(ctx, c)
	if err != nil {
		return "", f, err
	}
	known, err := c.oauth(p, redirect)
	if err != nil {
		return "", f, err
	}
	f = flow{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Mark: c.mark, Expires: x.now().Add(flowLife).Unix()}
	return known.AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)), f, nil
}

// enter waits until the provider may be asked.
func (x *provider) enter(ctx context.Context) error {
	select {
	case x.asking <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errBusyLogins
	}
}

func (x *provider) leave() { <-x.asking }

// finish returns the session of somebody whom the provider has sent back, with f and an answer.
// The error is errLoginStale, errLoginRefused or errProviderDown.
func (x *provider) finish(ctx context.Context, c *oidcConfig, redirect string, f flow, answer url.Values) (*browserSession, error) {
	if f.Mark != c.mark || x.now().Unix() >= f.Expires || f.State == "" || subtle.ConstantTimeCompare([]byte(f.State), []byte(answer.Get("state"))) != 1 {
		return nil, errLoginStale
	}
	if from := answer.Get("iss"); from != "" && from != c.Issuer { // RFC 9207
		return nil, errLoginStale
	}
	if said := answer.Get("error"); said != "" {
		return nil, errLoginRefused.saying("the login provider did not let you in: it says %.60q", said)
	}
	ctx, cancel := context.WithTimeout(ctx, providerTimeout)
	defer cancel()
	if err := x.enter(ctx); err != nil {
		return nil, err
	}
	defer x.leave()
	p, err := x.find(ctx, c)
	if err != nil {
		return nil, err
	}
	said, err := c.claims(oidc.ClientContext(ctx, p.client), p, redirect, f, answer.Get("code"), x.now)
	if err != nil {
		x.log.Error("a login by the provider failed", "issuer", c.Issuer, "error", err)
		return nil, errLoginRefused.saying("the login could not be completed; the registry's log has the cause").because(err)
	}
	return c.admit(said)
}

// claims exchanges a code, and returns what the provider says of the person.
func (c *oidcConfig) claims(ctx context.Context, p *knownProvider, redirect string, f flow, code string, now func() time.Time) (map[string]any, error) {
	known, err := c.oauth(p, redirect)
	if err != nil {
		return nil, err
	}
	tokens, err := known.Exchange(ctx, code, oauth2.VerifierOption(f.Verifier))
	if refused := (*oauth2.RetrieveError)(nil); errors.As(err, &refused) { // with the whole answer in its text
		return nil, fmt.Errorf("exchanging the code: %s, %.60q", refused.Response.Status, refused.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("exchanging the code: %w", err)
	}
	raw, ok := tokens.Extra("id_token").(string)
	if !ok {
		return nil, errors.New("the answer has no ID token")
	}
	id, err := p.Verifier(&oidc.Config{ClientID: c.ClientID, Now: now}).Verify(ctx, raw)
	if err != nil {
		return nil, err
	}
	said := make(map[string]any)
	if err := id.Claims(&said); err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(f.Nonce)) != 1 {
		return nil, errors.New("the ID token is for another login")
	}
	if party, ok := said["azp"]; ok && party != c.ClientID {
		return nil, errors.New("the ID token is for another client")
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(tokens.AccessToken); err != nil {
			return nil, err
		}
	}
	wanted := []string{c.NameClaim, "email"}
	if len(c.Groups) > 0 {
		wanted = append(wanted, c.GroupsClaim)
	}
	missing := slices.ContainsFunc(wanted, func(claim string) bool { return said[claim] == nil })
	if !missing || p.UserInfoEndpoint() == "" {
		return said, nil
	}
	// Some providers say the rest only when they are asked.
	info, err := p.UserInfo(ctx, oauth2.StaticTokenSource(tokens))
	if err != nil {
		return nil, fmt.Errorf("asking about the user: %w", err)
	}
	more := make(map[string]any)
	if err := info.Claims(&more); err != nil {
		return nil, err
	}
	if info.Subject == "" || info.Subject != id.Subject {
		return nil, errors.New("what the provider says about the user is about another")
	}
	if email, ok := said["email"]; ok && email != more["email"] {
		delete(more, "email_verified") // it is another address that is
	}
	for claim, value := range more {
		if _, ok := said[claim]; !ok {
			said[claim] = value
		}
	}
	return said, nil
}

// takes reports whether people with e-mail addresses of a domain, "" for one that is not verified, may log in.
func (c *oidcConfig) takes(domain string) bool {
	return len(c.Domains) == 0 || slices.Contains(c.Domains, domain)
}

// admit returns the session of a person of whom the provider says this. The error is
// errLoginRefused.
func (c *oidcConfig) admit(said map[string]any) (*browserSession, error) {
	email, _ := said["email"].(string)
	verified := said["email_verified"] == true || said["email_verified"] == "true"
	name, _ := said[c.NameClaim].(string)
	switch {
	case name == "":
		return nil, errLoginRefused.saying("the login provider does not say your %s, by which this registry would know you", c.NameClaim)
	case c.NameClaim == "email" && !verified:
		return nil, errLoginRefused.saying("the login provider has not verified your e-mail address, by which this registry would know you")
	case len(c.Domains) > 0 && !verified:
		return nil, errLoginRefused.saying("the login provider has not verified your e-mail address")
	}
	domain := ""
	if verified {
		_, domain, _ = cutLast(inSmallLetters(email), "@")
	}
	if !c.takes(domain) {
		return nil, errLoginRefused.saying("people with your e-mail address may not log in to this registry")
	}
	who, err := personOf(fromOIDC, name)
	if err != nil {
		return nil, errLoginRefused.saying("you cannot log in to this registry: %s", err)
	}
	var theirs []string
	switch groups := said[c.GroupsClaim].(type) {
	case string:
		theirs = []string{groups}
	case []any:
		for _, group := range groups {
			if text, ok := group.(string); ok {
				theirs = append(theirs, text)
			}
		}
	}
	s := &browserSession{who: who.user, issuer: c.Issuer, domain: domain}
	for _, group := range c.Groups {
		if slices.Contains(theirs, group) && !slices.Contains(s.member, group) {
			s.member = append(s.member, group)
		}
	}
	slices.Sort(s.member)
	return s, nil
}

// open begins a session, and returns what the browser is to remember.
func (x *provider) open(s *browserSession) (id string) {
	id = rand.Text()
	x.mu.Lock()
	defer x.mu.Unlock()
	s.until = x.uptime() + sessionLife
	for id, other := range x.sessions {
		if x.uptime() >= other.until {
			delete(x.sessions, id)
		}
	}
	makeRoom(x.sessions, maxSessions)
	x.sessions[id] = s
	return id
}

// session returns the one of a browser, nil if there is none under this configuration.
func (x *provider) session(id string, c *oidcConfig) *browserSession {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.sessions[id]
	if s == nil || x.uptime() >= s.until || s.issuer != c.Issuer || !c.takes(s.domain) {
		return nil
	}
	return s
}

func (x *provider) end(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.sessions, id)
}
