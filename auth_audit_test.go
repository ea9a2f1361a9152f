//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
