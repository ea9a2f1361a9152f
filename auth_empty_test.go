// Credentials that are none.

package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// podman and skopeo without credentials answer a challenge with an empty user and an empty password. That is
// anonymous, for a request as for a token: no password is hashed, and no login has failed.
func TestEmptyCredentialsAreAnonymous(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"), func(c *config) { c.auth.anonymousPull = true })
	im := r.pushAs(as("ann"), "a", "x", "{}")
	hashed := r.server.gate.logins.hashed.Load()
	empty := basic("", "")
	form := "Content-Type: application/x-www-form-urlencoded"
	for range 3 * freeByAddress {
		r.want(200, "GET", "/v2/a/manifests/x", nil, empty).is(im.manifest)
	}
	r.want(200, "GET", "/v2/a/blobs/"+im.config.String(), nil, empty)
	for _, re := range []*reply{
		r.want(401, "GET", "/v2/", nil, empty), // it is no login that succeeds
		r.want(401, "POST", "/v2/a/blobs/uploads/", nil, empty),
		r.want(401, "GET", "/v2/", nil), r.want(401, "POST", "/v2/a/blobs/uploads/", nil),
	} {
		if challenge := re.header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, "Bearer realm=") || strings.Contains(challenge, "error=") {
			t.Errorf("%s: the challenge is %s", re.request, challenge)
		}
	}
	for _, re := range []*reply{
		r.want(200, "GET", "/v2/token?scope=repository:a:pull,push", nil, empty),
		r.want(200, "POST", "/v2/token", "grant_type=password&username=&password=&scope=repository:a:pull,push", form),
		r.want(200, "GET", "/v2/token?scope=repository:a:pull,push", nil),
	} {
		var answer struct{ Token string }
		if err := json.Unmarshal(re.body, &answer); err != nil {
			t.Fatal(err)
		}
		r.want(200, "GET", "/v2/a/manifests/x", nil, "Authorization: Bearer "+answer.Token)
		r.want(401, "POST", "/v2/a/blobs/uploads/", nil, "Authorization: Bearer "+answer.Token)
	}
	if n := r.server.gate.logins.hashed.Load(); n != hashed || strings.Contains(r.log.String(), "login failed") {
		t.Errorf("%d passwords were hashed; the log:\n%s", n-hashed, r.log)
	}
	// Half of them is a wrong password.
	r.want(401, "GET", "/v2/a/manifests/x", nil, basic("ann", ""))
	r.want(401, "GET", "/v2/a/manifests/x", nil, basic("", "secret"))
	r.want(401, "GET", "/v2/token", nil, basic("ann", ""))
	r.want(401, "POST", "/v2/token", "grant_type=password&username=ann&password=", form)
	if n := strings.Count(r.log.String(), "login failed"); n != 4 {
		t.Errorf("%d failed logins are logged, want 4", n)
	}
}
