// login.toml is read: who else knows people (auth_login.go).

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// A loginConfig is what login.toml says.
type loginConfig struct {
	ldap *ldapConfig // nil for none
	oidc *oidcConfig // nil for none
}

// has reports whether people may come from an origin.
func (c *loginConfig) has(origin string) bool {
	return c != nil && (origin == fromLDAP && c.ldap != nil || origin == fromOIDC && c.oidc != nil)
}

// parseLogin reads login.toml. Files that it names lie relative to dir.
func parseLogin(text []byte, dir string) (*loginConfig, error) {
	var file struct {
		LDAP *ldapConfig `toml:"ldap"`
		OIDC *oidcConfig `toml:"oidc"`
	}
	meta, err := toml.NewDecoder(bytes.NewReader(text)).Decode(&file)
	if err != nil {
		var at toml.ParseError
		if errors.As(err, &at) {
			return nil, fmt.Errorf("line %d: %s", at.Position.Line, at.Message)
		}
		return nil, wrongKindIn(text, &file, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("%q means nothing here; docs/access.md lists what [ldap] and [oidc] may have", unknown[0])
	}
	if file.LDAP == nil && file.OIDC == nil {
		return nil, errors.New("there is neither [ldap] nor [oidc] in it; write one, or remove the file")
	}
	if file.LDAP != nil {
		if err := file.LDAP.complete(dir); err != nil {
			return nil, fmt.Errorf("[ldap]: %w", err)
		}
	}
	if file.OIDC != nil {
		if err := file.OIDC.complete(dir); err != nil {
			return nil, fmt.Errorf("[oidc]: %w", err)
		}
	}
	return &loginConfig{file.LDAP, file.OIDC}, nil
}

// login.toml as the gate has it.

// readLogin reads login.toml for the first time.
func (g *gate) readLogin(dir string) error {
	g.login = watched[*loginConfig]{files: []string{filepath.Join(dir, loginFile)}, changed: g.loginChanged, glance: g.glance,
		parse: func(texts [][]byte) (*loginConfig, error) { return parseLogin(texts[0], dir) }}
	return g.login.problem()
}

// loginChanged tells of an edit. What is wrong at the start readGate returns.
func (g *gate) loginChanged(_, new **loginConfig, err error) {
	switch {
	case !g.started:
	case err != nil:
		g.log.Error("who else knows people cannot be read; what the file said before still holds", "file", g.login.files[0], "error", err)
	default:
		g.st.collector.forgetOwners()
		g.st.audit("logins changed", "file", g.login.files[0], "ldap", (*new).has(fromLDAP), "oidc", (*new).has(fromOIDC))
	}
}

// logsIn reports whether login.toml says that somebody else knows people, or cannot be read.
func (g *gate) logsIn() (cfg *loginConfig, closed bool) {
	if now := g.login.get(); now != nil {
		return *now, true
	}
	broken := g.login.last.Load().err
	return nil, broken != nil && !errors.Is(broken, fs.ErrNotExist)
}

// warnOfUnruled says that people from elsewhere may do nothing, where no rule is about them.
func (g *gate) warnOfUnruled(v *view) {
	for _, origin := range []string{fromLDAP, fromOIDC} {
		if !v.login.has(origin) {
			continue
		}
		if !slices.ContainsFunc(v.policy.rules, func(r *accessRule) bool { return r.isAbout(origin) }) {
			g.log.Warn("no rule is about the people of "+loginFile+", so they may do no more than anonymous; see \"People from a directory\" in docs/access.md",
				"from", origin, "rules", g.policy.files[0])
		}
	}
}

// isAbout reports whether a rule names people or groups from an origin.
func (r *accessRule) isAbout(origin string) bool {
	if r.whole[origin] {
		return true
	}
	for name := range r.names {
		if strings.HasPrefix(strings.TrimPrefix(name, "group:"), origin+":") {
			return true
		}
	}
	return false
}
