//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What `berth user` does beside a server is in that one's log when the command has ended; no
// request has to come first.
func TestUsersChangedByACommandAreLoggedAtOnce(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.listen()
	user := func(line string, args ...string) {
		t.Helper()
		before := len(r.log.String())
		args = append(append([]string{"user"}, args...), "--data", r.cfg.dir)
		if err := run(t.Context(), args, noEnv, strings.NewReader("a long password\n"), new(strings.Builder), new(strings.Builder)); err != nil {
			t.Fatal(err)
		}
		if said := r.log.String()[before:]; strings.Count(said, line) != 1 {
			t.Errorf("berth %v: the log has not one line with %s\n%s", args, line, said)
		}
	}
	user(`level=AUDIT msg=audit event="users changed" added=[kim] removed=[] changed=[]`, "add", "kim")
	if text := r.log.String(); !strings.Contains(text, `event="rules changed"`) {
		t.Errorf("the first user's rules are not in the log\n%s", text)
	}
	user(`event="users changed" added=[] removed=[] changed=[kim]`, "passwd", "kim")
	user(`event="users changed" added=[ann] removed=[] changed=[]`, "add", "ann")
	user(`event="users changed" added=[] removed=[ann] changed=[]`, "remove", "ann")
	before := len(r.log.String())
	r.want(401, "GET", "/v2/", nil)
	if said := r.log.String()[before:]; strings.Contains(said, "changed") {
		t.Errorf("it is told twice\n%s", said)
	}
	if err := os.WriteFile(filepath.Join(r.cfg.dir, usersFile), []byte("bob:"+hashOf("x")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.want(401, "GET", "/v2/", nil)
	if said := r.log.String()[before:]; !strings.Contains(said, "added=[bob] removed=[kim]") {
		t.Errorf("an edit by hand is not in the log after a request\n%s", said)
	}
}

// A login with a token that no longer works says whose it was, as far as that is known, and no secret.
func TestFailedLoginsWithTokensSayWhichOne(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	expired, revoked := r.newRobot("old", "**", "pull"), r.newRobot("gone", "**", "pull")
	id := robotForm().FindStringSubmatch(revoked)[1]
	r.revokeRobot("gone")
	if text := r.log.String(); strings.Count(text, "tokenID="+id) != 2 {
		t.Errorf("the token's id is not with its making and its end\n%s", text)
	}
	r.server.gate.now = func() time.Time { return time.Now().Add(91 * 24 * time.Hour) }
	forged := expired[:len(expired)-5] + "AAAAA"
	expiredID := robotForm().FindStringSubmatch(expired)[1]
	for _, x := range []struct{ by, want string }{
		{basic("old", expired), `user=token:old reason=expired client=`},
		{basic("whoever", expired), `user=token:old reason=expired client=`},
		{"Authorization: Bearer " + expired, `user=token:old reason=expired client=`},
		{basic("gone", revoked), `user=unknown tokenID=` + id + ` claimed=gone client=`},
		{basic("ann", revoked), `user=ann tokenID=` + id + ` client=`},
		{basic("x"+revoked, revoked), `user=unknown tokenID=` + id + ` client=`},
		{basic(revoked, revoked), `user=unknown tokenID=` + id + ` client=`},
		{basic("two\nlines", revoked), `user=unknown tokenID=` + id + ` client=`},
		{basic(strings.Repeat("x", 1000), revoked), `user=unknown tokenID=` + id + ` client=`},
		{"Authorization: Bearer " + revoked, `user=unknown tokenID=` + id + ` client=`},
		{basic("old", forged), `user=unknown tokenID=` + expiredID + ` claimed=old client=`},
		{basic("eve", "hunter2"), `user=unknown client=`},
	} {
		before := len(r.log.String())
		r.want(401, "GET", "/v2/", nil, x.by)
		said := r.log.String()[before:]
		if !strings.Contains(said, `event="login failed" `+x.want) {
			t.Errorf("no line with %s in\n%s", x.want, said)
		}
		for _, secret := range []string{expired, revoked, forged, strings.Repeat("x", 1000)} {
			if strings.Contains(said, secret) || strings.Contains(said, secret[15:]) {
				t.Errorf("the log has a secret\n%s", said)
			}
		}
	}
}
