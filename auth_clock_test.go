// What tokens are worth when the clock jumps: a board without a battery comes up in
// 1970, learns what time it is, or believes to be in 2106.

package main

import (
	"strings"
	"testing"
	"time"
)

// Tokens go by the wall clock, and that may be wrong. Whoever has a password or a robot token
// that has not expired by it gets in all the same: a token of another time is refused so that
// the client fetches one of now.
func TestTokensWhenTheClockJumps(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	today := time.Now()
	now := today
	r.server.gate.now = func() time.Time { return now }
	r.server.gate.signer.now = r.server.gate.now
	limited := basic("x", r.newRobot("limited", "**", "pull")) // for 90 days
	var out strings.Builder
	if err := tokenCommand(t.Context(), r.st, options{Args: []string{"create", "endless"}, Repo: "**", Allow: "pull", Expires: "never"}, newConsole(&out, false)); err != nil {
		t.Fatal(err)
	}
	secret, _, _ := strings.Cut(out.String(), "\n")
	endless := basic("x", secret)
	r.pushAs(as("ann"), "a", "x", "{}")

	const pull = "repository:a:pull"
	get := func(want int, by string) *reply {
		t.Helper()
		return r.want(want, "GET", "/v2/a/manifests/x", nil, by)
	}
	// stale is refused in the way that makes a client ask for another token.
	stale := func(token string) {
		t.Helper()
		re := get(401, token)
		if challenge := re.header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, "Bearer ") || !strings.HasSuffix(challenge, `,error="invalid_token"`) {
			t.Errorf("the challenge is %s", challenge)
		}
	}
	// come fetches tokens by what is always good, and uses them and what they came for.
	come := func() (ofAnn, ofEndless string) {
		t.Helper()
		for _, by := range []string{as("ann"), endless} {
			get(200, by)
		}
		ofAnn, ofEndless = r.bearer(as("ann"), pull), r.bearer(endless, pull)
		get(200, ofAnn)
		get(200, ofEndless)
		return ofAnn, ofEndless
	}
	lastUse := func() {
		t.Helper()
		var used int64
		if err := r.st.get(`SELECT used FROM token WHERE name = 'endless'`, nil, &used); err != nil || used != now.Unix() {
			t.Errorf("the last use is saved as %v (%v), want %v", time.Unix(used, 0), err, now)
		}
	}

	ann, robot := come()
	byLimited := r.bearer(limited, pull)
	get(200, byLimited)
	lastUse()

	now = time.Unix(0, 0) // 1970, where nothing has expired yet
	stale(ann)
	stale(robot)
	stale(byLimited)
	get(200, limited)
	first, _ := come()
	lastUse()
	now = now.Add(-clockStep) // set back a little
	get(200, first)
	now = now.Add(-time.Second)
	stale(first)

	now = time.Unix(1<<32, 0) // 2106, where all that can has expired
	stale(ann)
	stale(first)
	stale(byLimited)
	get(401, limited)
	r.want(401, "GET", "/v2/token?scope="+pull, nil, limited)
	last, _ := come()
	lastUse()
	now = now.Add(tokenLife - time.Second)
	get(200, last)
	now = now.Add(time.Second)
	stale(last)

	now = today // and nothing is left of it
	stale(first)
	stale(last)
	for _, by := range []string{ann, robot, byLimited, limited} {
		get(200, by)
	}
	come()
	lastUse()
}
