// What `berth token create` says.

package main

import (
	"strings"
	"testing"
)

func TestTokenCreateSaysWhatTheTokenMayDo(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	for _, x := range []struct {
		args string
		want string // "error: …" for an error with it
	}{
		{"ci --repo ci/*,x --allow push,overwrite", "It may pull, push, overwrite in ci/*, x, and is valid until 20"},
		{"all --repo ** --allow pull", "It may pull in all repositories, and is valid until 20"},
		{"root --repo ** --allow admin --expires never", "It may do everything in all repositories, and is valid until it is revoked."},
		{"prometheus --allow metrics", "It may read the metrics, and is valid until 20"},
		{"prometheus2 --repo ** --allow metrics", "curl -u prometheus2 http://HOST:PORT/metrics"},
		{"both --repo ** --allow push,metrics", "It may pull, push in all repositories, and read the metrics, and is valid"},
		{"less --repo ci/* --allow metrics", "error: so this needs --repo '**'"},
		{"none --allow pull", "error: no repositories"},
		{"ann --repo ** --allow pull", "There is a user ann, too. Rules and logs call the token token:ann;"},
	} {
		args := strings.Fields(x.args)
		check := func(out string, err error) {
			t.Helper()
			if want, fails := strings.CutPrefix(x.want, "error: "); fails {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("token create %s: %v, want an error with %q\n%s", x.args, err, want, out)
				}
			} else if err != nil || !strings.Contains(out, want) {
				t.Errorf("token create %s: %v\n%s\nwant %q", x.args, err, out, want)
			}
			if strings.Contains(out, "There is a user") != (args[0] == "ann") {
				t.Errorf("token create %s warns of a user, or does not: %s", x.args, out)
			}
		}
		check(runOnceOn(t, r.st, "token", append([]string{"create"}, args...)...))
		if out, err := runOnceOn(t, r.st, "token", "list"); args[0] == "ci" && (err != nil || !looksLike(out, "NAME ALLOW REPOSITORIES EXPIRES LAST USED\nci pull,push,overwrite ci/*,x *\n")) {
			t.Errorf("token list: %v\n%s", err, out)
		}
		if !strings.HasPrefix(x.want, "error") {
			if _, err := runOnceOn(t, r.st, "token", "revoke", args[0]); err != nil {
				t.Fatal(err)
			}
		}
		r.stop()
		check(runOnce(t, append([]string{"token", "create", "--data", r.cfg.dir}, args...)...))
		r.start()
	}
	if _, err := runOnceOn(t, r.st, "token", "create", "a b", "--repo", "**", "--allow", "pull"); err == nil || !strings.Contains(err.Error(), "has a space in it") {
		t.Errorf("token create with a space in the name: %v", err)
	}
	if !strings.Contains(r.log.String(), "token=root allow=[admin] repositories=[**] expires=never") {
		t.Errorf("the audit log says\n%s", r.log)
	}
}
