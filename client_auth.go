// Who a client says it is: what registries ask in WWW-Authenticate, and the answers.
//
// Basic is a password with each request. Bearer is Docker's token flow, the other side of
// auth_docker.go: the registry names an endpoint, its realm, which gives a token for scopes to
// whoever has a password, or to anybody. Tokens are kept until shortly before they expire.

package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A challenge is what a registry wants to know. The zero value is nothing.
type challenge struct {
	scheme         string // "basic" or "bearer"; "" for nothing
	realm, service string
	scope          string
}

// A bearer is a token, and until when it is used.
type bearer struct {
	token string
	until time.Time
}

const (
	// bearerLife is how long a token is good for that does not say; the specification of the flow says 60 s.
	bearerLife = 60 * time.Second
	// bearerMargin is taken off, for the way and for clocks.
	bearerMargin = 10 * time.Second
	// maxBearers bounds the tokens that a client keeps.
	maxBearers = 1000
)

// adopt takes over what a registry asked with a 401, and returns the scopes to ask for: those that the
// request needs, and what the registry says.
func (c *client) adopt(asked *challenge, scopes []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	scopes = slices.Clone(scopes)
	for _, scope := range strings.Fields(asked.scope) {
		if !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	c.challenge = asked
	return scopes
}

// canAnswer reports whether there is something to say to a challenge that has not been said in header.
func (c *client) canAnswer(asked *challenge, header http.Header) bool {
	if asked.scheme == "bearer" {
		return true
	}
	return asked.scheme == "basic" && c.user+c.password != "" && !strings.HasPrefix(header.Get("Authorization"), "Basic ")
}

// authorization is the header of that name for a request that needs scopes, or "".
func (c *client) authorization(ctx context.Context, scopes []string, fresh bool) (string, error) {
	c.mu.Lock()
	asked, base := c.challenge, c.base
	key := strings.Join(scopes, " ")
	kept := c.tokens[key]
	c.mu.Unlock()
	switch {
	case asked.scheme == "basic" && c.user+c.password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password)), nil
	case asked.scheme != "bearer":
		return "", nil
	case kept.token != "" && time.Now().Before(kept.until) && !fresh:
		return "Bearer " + kept.token, nil
	}
	got, err := c.fetchToken(ctx, asked, base, scopes)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	makeRoom(c.tokens, maxBearers)
	c.tokens[key] = got
	return "Bearer " + got.token, nil
}

// errRealm is behind the refusal of an endpoint for tokens that speaks plain HTTP.
var errRealm = errors.New("an endpoint for tokens with plain HTTP")

// fetchToken asks the realm of a challenge for a token.
func (c *client) fetchToken(ctx context.Context, asked *challenge, base *url.URL, scopes []string) (bearer, error) {
	realm, err := url.Parse(asked.realm)
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return bearer{}, fmt.Errorf("%s names no endpoint for tokens that can be used: %.200q", c.host, asked.realm)
	}
	if realm.Scheme == "http" && base.Scheme == "https" {
		return bearer{}, plainError{fmt.Sprintf("%s speaks TLS, but sends clients to plain HTTP for tokens (%s), where no password is sent; "+
			"does its proxy tell it the scheme (X-Forwarded-Proto)?", c.host, realm.Host), errRealm}
	}
	if realm.Scheme == "http" && !c.plainHTTP && !isLoopback(realm.Hostname()) {
		return bearer{}, plainError{fmt.Sprintf("%s sends clients to plain HTTP at %s for tokens, where no password is sent", c.host, realm.Host), errRealm}
	}
	query := realm.Query()
	if asked.service != "" {
		query.Set("service", asked.service)
	}
	for _, scope := range scopes {
		query.Add("scope", scope)
	}
	header := make(http.Header)
	if c.user+c.password != "" {
		query.Set("account", c.user)
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password)))
	}
	realm.RawQuery = query.Encode()
	began := time.Now()
	resp, err := c.send(ctx, &clientRequest{method: http.MethodGet}, realm, header)
	if err != nil {
		return bearer{}, fmt.Errorf("getting a token: %w", err)
	}
	defer discard(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return bearer{}, newRemoteError(realm.Host, c.loggingIn(), resp)
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&answer)
	token := cmp.Or(answer.Token, answer.AccessToken)
	if err != nil || token == "" || strings.ContainsAny(token, "\r\n") {
		return bearer{}, fmt.Errorf("getting a token: the answer of %s has none", realm.Host)
	}
	life := bearerLife
	if answer.ExpiresIn > 0 {
		life = min(time.Duration(min(answer.ExpiresIn, 1<<20))*time.Second, 24*time.Hour)
	}
	return bearer{token, began.Add(life - bearerMargin)}, nil
}

// loggingIn is what fetchToken does, for errors.
func (c *client) loggingIn() string {
	if c.user == "" {
		return "getting a token without a user"
	}
	return "logging in as " + c.user
}

// parseChallenges reads WWW-Authenticate (RFC 9110, section 11.6.1): one or more challenges in one or
// more headers. It returns the one to answer, Bearer before Basic, or nil.
func parseChallenges(headers []string) *challenge {
	var found []*challenge
	for _, text := range headers {
		var last *challenge
		for _, part := range splitUnquoted(text, ',') {
			name, value, isParameter := strings.Cut(part, "=")
			if scheme, first, ok := strings.Cut(strings.TrimSpace(name), " "); ok || !isParameter {
				last = &challenge{scheme: strings.ToLower(scheme)}
				found = append(found, last)
				name = first
			}
			if last == nil || !isParameter {
				continue
			}
			value = unquote(strings.TrimSpace(value))
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "realm":
				last.realm = value
			case "service":
				last.service = value
			case "scope":
				last.scope = value
			}
		}
	}
	for _, scheme := range []string{"bearer", "basic"} {
		for _, c := range found {
			if c.scheme == scheme {
				return c
			}
		}
	}
	return nil
}

// unquote is a quoted string's text, or text itself.
func unquote(text string) string {
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return text
	}
	var b strings.Builder
	for i := 1; i < len(text)-1; i++ {
		if text[i] == '\\' && i+1 < len(text)-1 {
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
