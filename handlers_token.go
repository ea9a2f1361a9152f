// The endpoint of Docker's token flow: a password, or none, for a token (auth_docker.go).

package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
)

// grant cuts what was asked for down to what a caller may.
func (c *caller) grant(asked []grant) []grant {
	out := []grant{}
	for _, g := range asked {
		var words []string
		switch g.Type {
		case "registry":
			if g.Name == "catalog" && slices.Contains(g.Actions, "*") && c.mayList() {
				words = []string{"*"}
			}
		case "repository":
			if _, err := parseName(g.Name); err != nil {
				continue
			}
			have := c.may(g.Name)
			for _, word := range []string{"pull", "push", "delete"} {
				if (slices.Contains(g.Actions, word) || slices.Contains(g.Actions, "*")) && have&scopeActions[word] != 0 {
					words = append(words, word)
				}
			}
		}
		if words != nil {
			out = append(out, grant{g.Type, g.Name, words})
		}
	}
	return out
}

// groupsInToken are those that nothing else knows when the token comes back.
func (c *caller) groupsInToken() []string {
	if c.robot != nil {
		return nil
	}
	return c.groups
}

// issue makes a token for a caller with what was granted.
func (s *signer) issue(c *caller, access []grant) string {
	now := s.now()
	return s.sign(claims{Audience: s.audience, Subject: c.id(), Groups: c.groupsInToken(), Mark: s.mark(c.secret()), Access: access,
		Issued: now.Unix(), NotBefore: now.Add(-clockStep).Unix(), Expires: now.Add(tokenLife).Unix()})
}

// getToken gives a token: GET /v2/token with the parameters service and scope
// (Docker's token authentication), POST /v2/token with a form (OAuth 2). Without a
// password it is for what anonymous may.
func (s *server) getToken(w http.ResponseWriter, r *http.Request) error {
	resp := w.(*response)
	query := r.URL.Query()
	if r.Method == http.MethodPost {
		r.Body = http.MaxBytesReader(w, r.Body, maxToken)
		resp.beforeRead(time.Now().Add(formTimeout))
		err := r.ParseForm()
		resp.afterRead(err)
		if err != nil {
			return errFormInvalid.with(clientError(err))
		}
		query = r.PostForm
	}
	if service := query.Get("service"); service != "" && service != s.gate.signer.audience {
		return errScopeInvalid.withf("the service %.80q is another registry", service)
	}
	asked, err := parseScopes(query["scope"])
	if err != nil {
		return err
	}
	var c *caller
	switch kind := query.Get("grant_type"); {
	case r.Method == http.MethodGet:
		c, err = s.identify(resp, r)
	case kind == "password":
		c, err = s.logInBy(resp, r, query.Get("username"), query.Get("password"))
	case kind == "refresh_token":
		c, err = s.logInBy(resp, r, "", query.Get("refresh_token"))
	default:
		return errFormInvalid.withf("grant_type %.40q is neither password nor refresh_token", kind)
	}
	if err == nil && c.scoped {
		err = errUnauthorized.with("a token is not a password")
	}
	var e *protocolError
	if errors.As(err, &e) && e.Is(errUnauthorized) {
		return challengeBasic(e)
	}
	if err != nil {
		return err
	}
	resp.caller = c
	access := c.grant(asked)
	text := s.gate.signer.issue(c, access)
	answer := map[string]any{"token": text, "access_token": text, "expires_in": int(tokenLife / time.Second)}
	if r.Method == http.MethodPost {
		var words []string
		for _, g := range access {
			words = append(words, g.Type+":"+g.Name+":"+strings.Join(g.Actions, ","))
		}
		answer["scope"], answer["token_type"] = strings.Join(words, " "), "Bearer"
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return writeBody(w, "application/json", body)
}

// logInBy is logIn by a form.
func (s *server) logInBy(w *response, r *http.Request, user, password string) (*caller, error) {
	v := s.gate.view()
	if v == nil {
		return anyone, nil
	}
	if user == "" && password == "" {
		return s.nameless(r, v), nil
	}
	s.gate.warnOfPlainHTTP(w.origin, r)
	return s.logIn(w, r, v, user, password)
}

// formTimeout is how long the form of a login may take to arrive.
const formTimeout = 20 * time.Second
