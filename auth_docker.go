// The Docker token flow: a client is told by a challenge where to get a token
// and for what, gets it with its password or without one, and sends it along.
//
// A token is a JWT that this registry signs and it alone reads. It carries the
// rights that were asked for and granted, and is good for five minutes. With
// each request those are cut down to what the caller still may: a token of
// somebody who was removed, or has a new password, is worth nothing at once, and
// a changed rule holds for tokens that were made before.
//
// Only tokens whose header is the one written here, byte for byte, are looked at.
// So there is nothing in it that could choose how they are verified.

package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// tokenLife is how long a token is good for. Clients get a new one without
	// asking a person.
	tokenLife = 5 * time.Minute
	// maxScopes bounds what one token is asked for.
	maxScopes = 100
	// maxToken bounds a token that is read, in bytes.
	maxToken = 48 << 10
	// clockStep is how far a board's clock may be set back without making its
	// fresh tokens wait.
	clockStep = 10 * time.Second
)

// claims are what a token says.
type claims struct {
	Audience  string   `json:"aud"`              // this registry, by its id
	Subject   string   `json:"sub"`              // caller.id; "" for anonymous
	Groups    []string `json:"groups,omitempty"` // as of person.groups
	Mark      string   `json:"mark,omitempty"`
	Issued    int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	Expires   int64    `json:"exp"`
	Access    []grant  `json:"access"`
}

// A grant is an entry of a token's access: what a client asked for in a scope,
// as far as it was allowed.
type grant struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// scopeActions are the actions of scopes. Docker has one for all that adds.
var scopeActions = map[string]rights{
	"pull":   mayPull,
	"push":   mayPush | mayOverwrite,
	"delete": mayDelete,
}

// rights is what the grants allow on a repository.
func granted(access []grant, repository string) (r rights) {
	for _, g := range access {
		if g.Type == "repository" && g.Name == repository {
			for _, a := range g.Actions {
				r |= scopeActions[a]
			}
		}
	}
	return r
}

// grantedCatalog reports whether the grants allow to list repositories.
func grantedCatalog(access []grant) bool {
	return slices.ContainsFunc(access, func(g grant) bool {
		return g.Type == "registry" && g.Name == "catalog" && slices.Contains(g.Actions, "*")
	})
}

// parseScopes reads scopes, each TYPE:NAME:ACTION[,ACTION]. Several may stand in
// one string with spaces between. A type that is not known grants nothing.
func parseScopes(texts []string) (asked []grant, err error) {
	for _, text := range texts {
		for _, scope := range strings.Fields(text) {
			if len(asked) == maxScopes {
				return nil, errScopeInvalid.withf("at most %d scopes", maxScopes)
			}
			first, last := strings.Index(scope, ":"), strings.LastIndex(scope, ":")
			if first == last {
				return nil, errScopeInvalid.withf("%.80q is not TYPE:NAME:ACTIONS", scope)
			}
			kind, _, _ := strings.Cut(scope[:first], "(") // repository(plugin)
			asked = append(asked, grant{kind, scope[first+1 : last], strings.Split(scope[last+1:], ",")})
		}
	}
	return asked, nil
}

// A signer signs tokens and verifies them, each once.
type signer struct {
	key      []byte
	audience string
	now      func() time.Time

	mu       sync.RWMutex // guards verified
	verified map[string]*signedToken
}

// A signedToken is one that this registry has signed.
type signedToken struct {
	claims
	of atomic.Pointer[string] // a secret that the mark was found to stand for
}

// What is remembered is bounded: so many tokens, each of so many bytes at most.
const (
	maxVerified  = 1000
	longVerified = 2 << 10
)

// openSigner reads the key in the data directory, which it makes if need be. On
// a read-only disk tokens are good until the process ends.
func openSigner(st *store) (*signer, error) {
	s := &signer{now: time.Now, verified: make(map[string]*signedToken)}
	if err := st.get(`SELECT id FROM meta`, nil, &s.audience); err != nil {
		return nil, err
	}
	path := filepath.Join(st.dir, "token.key")
	key, err := os.ReadFile(path)
	if err == nil && len(key) == sha256.Size {
		s.key = key
		return s, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the key of tokens: %w", err)
	}
	s.key = make([]byte, sha256.Size)
	rand.Read(s.key)
	if st.readOnlyDisk {
		return s, nil
	}
	return s, writeSynced(path, bytes.NewReader(s.key))
}

// tokenHeader is every token's first part.
var tokenHeader = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`))

// sign makes a token of claims.
func (s *signer) sign(c claims) string {
	payload, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and numbers
	}
	text := tokenHeader + "." + base64.RawURLEncoding.EncodeToString(payload)
	return text + "." + base64.RawURLEncoding.EncodeToString(s.mac(text))
}

func (s *signer) mac(text string) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// mark stands in a token for what its owner was known by, a password's hash: it
// tells whether that is still the same, and nothing else.
func (s *signer) mark(secret string) string {
	if secret == "" {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(s.mac("mark:" + secret)[:12])
}

// marks reports whether the token was made for this secret.
func (s *signer) marks(t *signedToken, secret string) bool {
	if of := t.of.Load(); of != nil && *of == secret {
		return true
	}
	if secret == "" || t.Mark != s.mark(secret) {
		return false
	}
	t.of.Store(&secret)
	return true
}

// verify returns a token of this registry that is good now. The error says why
// there is none.
func (s *signer) verify(text string) (*signedToken, error) {
	s.mu.RLock()
	t := s.verified[text]
	s.mu.RUnlock()
	if t == nil {
		var err error
		if t, err = s.parse(text); err != nil {
			return nil, err
		}
	}
	now := s.now().Unix()
	switch {
	case t.Audience != s.audience:
		return nil, errors.New("for another registry")
	case now >= t.Expires:
		return nil, errors.New("expired")
	case now < t.NotBefore:
		return nil, errors.New("not valid yet")
	}
	return t, nil
}

// parse verifies a token's signature, and remembers it.
func (s *signer) parse(whole string) (*signedToken, error) {
	text, sum, ok := cutLast(whole, ".")
	if !ok || len(whole) > maxToken {
		return nil, errors.New("not a token")
	}
	first, payload, ok := strings.Cut(text, ".")
	if !ok || first != tokenHeader {
		return nil, errors.New("not a token of this registry")
	}
	got, err := base64.RawURLEncoding.Strict().DecodeString(sum)
	if err != nil || !hmac.Equal(got, s.mac(text)) {
		return nil, errors.New("not signed by this registry")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil {
		return nil, errors.New("malformed")
	}
	t := new(signedToken)
	if err := json.Unmarshal(b, &t.claims); err != nil {
		return nil, errors.New("malformed")
	}
	if len(whole) <= longVerified {
		s.mu.Lock()
		defer s.mu.Unlock()
		makeRoom(s.verified, maxVerified)
		s.verified[strings.Clone(whole)] = t
	}
	return t, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
