// Rules, and the commands around users, rules and tokens.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func TestRepositoryPatterns(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		patterns string
		has, not string
	}{
		{"**", "a a/b a/b/c x-y_z.w", ""},
		{"*", "a x-y", "a/b"},
		{"ci/*", "ci/a", "ci ci/a/b cia xci/a a/ci/a"},
		{"ci/**", "ci/a ci/a/b", "ci cia"},
		{"**/app", "app a/app a/b/app", "myapp a/app/b"},
		{"a/**/z", "a/z a/b/z a/b/c/z", "a/bz az"},
		{"v?", "va vb", "v vab v/"},
		{"a.b", "a.b", "axb"},
		{"home/** !home/secret", "home/a home/secrets home/a/secret", "home/secret home/secret/x home/secret/x/y x"},
		{"** !home/*", "home a/home/b", "home/a home/a/b"},
		{"** !home/a*", "home/b/a", "home/a home/ab/c"},
		{"** !home/**/keys", "home/a", "home/keys home/a/keys home/a/keys/b"},
		{"!x/** **", "a y/x", "x/a"},
		{"a b", "a b", "c ab"},
	} {
		list, err := parseRepositories(strings.Fields(x.patterns))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range strings.Fields(x.has) {
			if !list.has(name) {
				t.Errorf("%s does not have %s", x.patterns, name)
			}
		}
		for _, name := range strings.Fields(x.not) {
			if list.has(name) {
				t.Errorf("%s has %s", x.patterns, name)
			}
		}
		if got, want := list.has(""), x.patterns == "**"; got != want {
			t.Errorf("%s has the registry as a whole: %v, want %v", x.patterns, got, want)
		}
	}
	for _, bad := range []string{"", "A", "a b", "a:b", "../x\n", "!x", "[a-z]", "a|b", "(a)", strings.Repeat("a", 256)} {
		if _, err := parseRepositories([]string{bad}); err == nil {
			t.Errorf("the pattern %q is no error", bad)
		}
	}
}

func TestActionsBringOthersAlong(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]struct {
		may   rights
		shown string
	}{
		"pull":             {mayPull, "pull"},
		"push":             {mayPull | mayPush, "push"},
		"overwrite":        {mayPull | mayPush | mayOverwrite, "overwrite"},
		"delete":           {mayPull | mayDelete, "delete"},
		"metrics":          {mayMetrics, "metrics"},
		"push delete":      {mayPull | mayPush | mayDelete, "push delete"},
		"pull push delete": {mayPull | mayPush | mayDelete, "push delete"},
		"admin":            {allRights, "admin"},
		"admin pull":       {allRights, "admin"},
	} {
		got, err := parseActions(strings.Fields(words))
		if err != nil || got != want.may || strings.Join(got.words(), " ") != want.shown {
			t.Errorf("%s: %b %v (%v), want %b %s", words, got, got.words(), err, want.may, want.shown)
		}
	}
}

// What is wrong in a policy file is said with its place.
func TestBrokenPolicies(t *testing.T) {
	t.Parallel()
	const good = "[[rule]]\nwho = [\"ann\"]\nrepositories = [\"**\"]\nallow = [\"pull\"]\n"
	if _, err := parsePolicy([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":                                 "no [[rule]]",
		"[groups]\nx = [\"ann\"]\n":        "no [[rule]]",
		good + "[[rule]\n":                 "line 5, column 7: a heading such as [[rule]] ends with ]]: [[rule]",
		good + "allow = [\"push\"]\n":      "line 5",
		good + "repo = 1\n":                `line 5: "rule.repo" means nothing here`,
		good + "[settings]\n":              `line 5: "settings" means nothing here`,
		good + "[[rule]]\nwho = \"ann\"\n": "who",
		good + "[[rule]]\nrepositories = [\"a\"]\n":                               "rule 2: it is for nobody",
		strings.Replace(good, "ann", "group:x", 1):                                `rule 1: there is no group "x"`,
		strings.Replace(good, "ann", "", 1):                                       "rule 1: a user's name",
		good + strings.Replace(good, `"ann"`, "\n  \"users\",\n  \"!ann\",\n", 1): "line 8: rule 2: \"!ann\": ! excludes repositories and tags only; name the users or groups in `who`",
		strings.Replace(good, `"ann"`, `"users", "!group:x"`, 1):                  "line 2: rule 1: \"!group:x\": ! excludes",
		good + "[groups]\nx = [\"ann\"]\ny = [\"ann\", \"!bob\"]\n":               "line 7: group y: \"!bob\": ! excludes",
		strings.Replace(good, "pull", "read", 1):                                  `rule 1: "read" is not an action`,
		strings.Replace(good, "[\"pull\"]", "[]", 1):                              "rule 1: it allows nothing",
		strings.Replace(good, "**", "!x", 1):                                      "only excludes",
		strings.Replace(good, "**", "A/B", 1):                                     "rule 1: \"A/B\" is not a pattern",
		"[groups]\nx = [\"users\"]\n" + good:                                      "group x",
		"\xff" + good:                                                             "line 1",
	} {
		if _, err := parsePolicy([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error about %s", text, err, want)
		}
	}
}

// An administrator without rights of her own has them all; nobody else gets them
// by a name.
func TestWhoARuleIsFor(t *testing.T) {
	t.Parallel()
	p, err := parsePolicy([]byte(`
[groups]
family = ["ann", "Kim Smith"]
[[rule]]
who = ["group:family"]
repositories = ["home/**"]
allow = ["push"]
[[rule]]
who = ["users"]
repositories = ["shared/**"]
allow = ["pull"]
[[rule]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		user, repo string
		want       rights
	}{
		{"ann", "home/a", mayPull | mayPush}, {"Kim Smith", "home/a", mayPull | mayPush}, {"bob", "home/a", 0}, {"", "home/a", 0},
		{"bob", "shared/a", mayPull}, {"", "shared/a", 0}, {"", "public/a", mayPull}, {"bob", "public/a", mayPull}, {"group:family", "home/a", 0}, {"family", "home/a", 0},
	} {
		if got := p.rights(person{user: x.user}, x.repo); got != x.want {
			t.Errorf("%q may %v in %s, want %v", x.user, got.words(), x.repo, x.want.words())
		}
	}
	if got := p.groupsOf("ann"); !slices.Equal(got, []string{"family"}) {
		t.Errorf("ann is in %v", got)
	}
}

// A session with berth user, as one types it.
func TestUserCommand(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	user := func(stdin string, args ...string) (string, error) {
		var out strings.Builder
		err := run(t.Context(), append([]string{"user", "--data", dir}, args...), noEnv, strings.NewReader(stdin), &out, &out)
		return out.String(), err
	}
	says := func(want, stdin string, args ...string) {
		t.Helper()
		if out, err := user(stdin, args...); err != nil || !strings.Contains(out, want) {
			t.Errorf("user %v: %v\n%s\nwant %q", args, err, out, want)
		}
	}
	fails := func(want, stdin string, args ...string) {
		t.Helper()
		if out, err := user(stdin, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("user %v: %v\n%s\nwant an error about %q", args, err, out, want)
		}
	}
	fails("there is no directory "+dir, "", "list")
	fails("there is no directory "+dir, "", "remove", "kim")
	fails("no password", "\n", "add", "kim")
	fails("no password", "", "add", "kim")
	fails("72 bytes", strings.Repeat("x", 73), "add", "kim")
	fails("has a space in it", "correct horse\n", "add", "kim lee")
	fails("user add: name the user", "x\n", "add")
	fails("usage: berth user add NAME", "")
	for _, name := range []string{"a:b", "#a", " a", "anonymous", "users", "a\nb", strings.Repeat("a", 256)} {
		fails("user's name", "x\n", "add", name)
	}
	if exists(filepath.Join(dir, "htpasswd")) || exists(filepath.Join(dir, "policy.toml")) {
		t.Fatal("a user that was not added left a file")
	}
	says("kim is the administrator", "correct horse\r\n", "add", "kim")
	says("user ann added", "batteries", "add", "ann")
	fails("already", "x\n", "add", "ann")
	says("administrator, admins", "", "list")
	if out, _ := user("", "list", "--json"); !strings.Contains(out, `"administrator": true`) || json.Unmarshal([]byte(out), new([]any)) != nil {
		t.Errorf("user list --json: %s", out)
	}
	path := filepath.Join(dir, "htpasswd")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list, bad := parseUsers(text)
	if len(list) != 2 || bad != nil || bcrypt.CompareHashAndPassword([]byte(list["kim"]), []byte("correct horse")) != nil {
		t.Errorf("the users' file is\n%s", text)
	}
	if strings.Contains(string(text), "horse") {
		t.Error("the password stands in the file")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the users' file: %v, %v", info.Mode(), err)
	}
	// What others wrote there stays, and so does its mode.
	if err := os.WriteFile(path, append([]byte("# ours\nold:{SHA}x\n"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	says("new password", "staples of them\n", "passwd", "ann")
	// The last administrator goes only by force where nobody can be asked.
	fails("kim is the only administrator. To make another first, add a name in "+filepath.Join(dir, "policy.toml"), "y\n", "remove", "kim")
	fails("--force", "", "remove", "kim")
	if now, err := os.ReadFile(path); err != nil || !strings.Contains(string(now), "\nkim:") {
		t.Errorf("the users' file is (%v)\n%s\nwant kim in it", err, now)
	}
	says("None of the users is an administrator. To make one, add", "", "remove", "kim", "--force")
	after, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(after), "# ours\nold:{SHA}x\nann:$2a$") || strings.Contains(string(after), "kim") || strings.Count(string(after), "\n") != 3 {
		t.Errorf("the users' file is (%v)\n%s", err, after)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the users' file: %v, %v", info.Mode(), err)
	}
	fails("ann is the only user, and without ann nobody can log in. To remove ann anyway, add --force", "", "remove", "ann")
	says("Now nobody can log in", "", "remove", "ann", "--force")
	// The administrator is written down once: rules that are there are the owner's.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	says("user eve added", "battery staple\n", "add", "eve")
	if out, _ := user("", "list"); strings.Contains(out, "administrator") {
		t.Errorf("a first user beside rules of the owner's:\n%s", out)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("the directory has %v (%v)", entries, err)
	}
}

// A file of Apache's htpasswd works, and so does ours for it.
func TestApacheHtpasswd(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("htpasswd")
	if err != nil {
		skip(t, "htpasswd is not installed: apt-get install apache2-utils")
	}
	r := startRegistry(t)
	file := filepath.Join(r.cfg.dir, "htpasswd")
	if out, err := exec.Command(tool, "-Bbc", file, "ann", "secret").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	r.want(200, "GET", "/v2/", nil, basic("ann", "secret"))
	r.want(401, "GET", "/v2/", nil, basic("ann", "Secret"))
	if err := run(t.Context(), []string{"user", "add", "bob", "--data", r.cfg.dir}, noEnv, strings.NewReader("another one\n"), new(strings.Builder), new(strings.Builder)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "-vb", file, "bob", "another one").CombinedOutput(); err != nil {
		t.Errorf("htpasswd does not know the password: %v %s", err, out)
	}
	// A line with another hash is nobody's, and said so.
	if out, err := exec.Command(tool, "-mb", file, "old", "secret").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	r.want(401, "GET", "/v2/", nil, basic("old", "secret"))
	r.want(200, "GET", "/v2/", nil, basic("ann", "secret"))
	if !strings.Contains(r.log.String(), "lines=[3]") {
		t.Errorf("the log does not name the line:\n%s", r.log.String())
	}
}

func TestPolicyCheckExplains(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	check := func(args ...string) string {
		t.Helper()
		out, err := runOnce(t, append([]string{"policy", "check", "--data", r.cfg.dir}, args...)...)
		if no := strings.HasPrefix(out, "no: "); no != errors.Is(err, errNo) {
			t.Errorf("policy check %q says %q and ends with %v", args, out, err)
		} else if err != nil && !no {
			return "error: " + err.Error()
		}
		return out
	}
	if got := check(); !strings.Contains(got, "is open") {
		t.Errorf("policy check of an open registry: %s", got)
	}
	guarded("", "ann")(&r.cfg)
	if got := check("ann", "admin", "**"); got != "yes: ann may admin **\n  by the default: users may admin in **\n" {
		t.Errorf("policy check without rules: %s", got)
	}
	writeRules(r.cfg.dir, `
[groups]
ops = ["bob"]
[[rule]]
who = ["ann"]
repositories = ["home/**"]
allow = ["push"]
[[rule]]
who = ["group:ops"]
repositories = ["**"]
allow = ["admin"]
`)
	guarded("", "ann", "bob")(&r.cfg)
	r.newRobot("ci", "ci/*", "push")
	for _, x := range []struct{ args, want string }{
		{"", "rule 1: ann may pull, push in home/**\nrule 2: group:ops may admin in **\n"},
		{"ann push home/x", "yes: ann may push home/x\n  by rule 1: ann may pull, push in home/**\n"},
		{"ann pull home/x", "yes: ann may pull home/x\n  by rule 1: ann may pull, push in home/**\n"},
		{"ann overwrite home/x", "no: ann may not overwrite home/x; no rule allows it\n"},
		{"ann pull work/x", "no: ann may not pull work/x; no rule allows it\n"},
		{"bob delete work/x", "yes: bob may delete work/x\n  by rule 2: group:ops may admin in **\n"},
		{"bob metrics **", "yes: bob may metrics **\n  by rule 2: group:ops may admin in **\n"},
		{"anonymous pull home/x", "no: anonymous may not pull home/x; no rule allows it\n"},
		{"--anonymous-pull anonymous pull home/x", "yes: anonymous may pull home/x\n  by --anonymous-pull: anonymous may pull in **\n"},
		{"token:ci push ci/x", "yes: token:ci may push ci/x\n  by token ci: it may pull, push in ci/*\n"},
		{"token:ci push x", "no: token:ci may not push x; no rule allows it\n"},
		{"token:none push x", "error: there is no token none; `berth token list` lists them"},
		{"eve pull x", fmt.Sprintf("error: there is no user eve in %s/htpasswd, nor a group or a token of that name; `berth user add eve` makes a user", r.cfg.dir)},
		{"ann fly x", `error: "fly" is not an action; use pull, push, overwrite, delete, metrics, admin`},
		{"ann pull X", `error: "X": the names of repositories are in lower case: x`},
		{"ann pull", "error: policy: say check, or check WHO ACTION REPOSITORY, as in berth policy check kim push home/app"},
	} {
		args := strings.Fields(x.args)
		got := check(args...)
		if got != x.want {
			t.Errorf("policy check %s:\n%swant\n%s", x.args, got, x.want)
		}
	}
	writeRules(r.cfg.dir, "[[rule]]\nallow = [")
	if got := check(); !strings.Contains(got, "policy.toml: line 2") {
		t.Errorf("policy check of broken rules: %s", got)
	}
	writeRules(r.cfg.dir, "[[rule]]\nwho = [\"ann\"]\nrepositories = [\"**\"]\nallow = [\"admin\"]")
}

// A robot's token from its making to its end, over restarts.
func TestRobotTokens(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	secret := r.newRobot("ci", "ci/*,!ci/private", "push")
	if robotForm().FindString(secret) == "" {
		t.Fatalf("the token is %q", secret)
	}
	by := basic("whoever", secret)
	r.pushAs(by, "ci/app", "x", "{}")
	r.want(403, "POST", "/v2/other/blobs/uploads/", nil, by).code("DENIED")
	r.want(403, "POST", "/v2/ci/private/blobs/uploads/", nil, by)
	r.want(403, "DELETE", "/v2/ci/app/manifests/x", nil, by)
	list := func() (out []robotEntry) {
		t.Helper()
		var text strings.Builder
		if err := tokenCommand(t.Context(), r.st, options{Args: []string{"list"}, JSON: true}, newConsole(&text, false)); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text.String(), robotForm().FindStringSubmatch(secret)[2]) {
			t.Error("a list has the secret")
		}
		if err := json.Unmarshal([]byte(text.String()), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := list()
	if len(before) != 1 || before[0].LastUsed == nil || time.Since(*before[0].LastUsed).Abs() > time.Minute || before[0].Expires == nil || before[0].Name != "ci" {
		t.Errorf("token list: %+v", before)
	}
	token := r.bearer(by, "repository:ci/app:pull,push")
	r.restart()
	if after := list(); !reflect.DeepEqual(before, after) {
		t.Errorf("after a restart the list is %+v, want %+v", after, before)
	}
	r.want(200, "GET", "/v2/ci/app/manifests/x", nil, by)
	r.want(200, "GET", "/v2/ci/app/manifests/x", nil, token)
	for path, content := range tree(t, r.cfg.dir) {
		if strings.Contains(content, robotForm().FindStringSubmatch(secret)[2]) {
			t.Errorf("the secret stands in %s", path)
		}
	}
	r.revokeRobot("ci")
	r.want(401, "GET", "/v2/ci/app/manifests/x", nil, by)
	r.want(401, "GET", "/v2/ci/app/manifests/x", nil, token)
	r.restart()
	r.want(401, "GET", "/v2/ci/app/manifests/x", nil, by)

	for _, x := range []struct {
		o    options
		want string
	}{
		{options{Args: []string{"create", "x"}, Allow: "push", Expires: "1d"}, "--repo"},
		{options{Args: []string{"create", "x"}, Repo: "a", Expires: "1d"}, "--allow"},
		{options{Args: []string{"create", "x"}, Repo: "a", Allow: "fly", Expires: "1d"}, "--allow"},
		{options{Args: []string{"create", "x"}, Repo: "A", Allow: "push", Expires: "1d"}, "--repo"},
		{options{Args: []string{"create", "x"}, Repo: "a", Allow: "push", Expires: "-1d"}, "--expires"},
		{options{Args: []string{"create", "x"}, Repo: "a", Allow: "push", Expires: "soon"}, "--expires"},
		{options{Args: []string{"create", "a:b"}, Repo: "a", Allow: "push", Expires: "1d"}, "name"},
		{options{Args: []string{"revoke", "nobody"}}, `no token nobody`},
		{options{Args: []string{"revoke"}}, "token: say"},
		{options{}, "token: say"},
	} {
		if err := tokenCommand(t.Context(), r.st, x.o, newConsole(new(strings.Builder), false)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("token %+v: %v, want an error about %s", x.o, err, x.want)
		}
	}
	r.newRobot("twice", "a", "pull")
	if err := tokenCommand(t.Context(), r.st, options{Args: []string{"create", "twice"}, Repo: "a", Allow: "push", Expires: "1d"}, newConsole(new(strings.Builder), false)); err == nil {
		t.Error("two tokens of one name")
	}
}

// The last use costs one write an hour, and none when nobody comes.
func TestLastUseIsWrittenSeldom(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	secret := r.newRobot("ci", "**", "pull")
	saved := func() (used int64) {
		t.Helper()
		if err := r.st.get(`SELECT used FROM token`, nil, &used); err != nil {
			t.Fatal(err)
		}
		return used
	}
	now := time.Now()
	r.server.gate.now = func() time.Time { return now }
	r.want(200, "GET", "/v2/", nil, basic("x", secret))
	first := saved()
	if first != now.Unix() {
		t.Errorf("the first use is saved as %d, want %d", first, now.Unix())
	}
	syncs := r.st.writer.syncs.Load()
	for range 10 {
		now = now.Add(5 * time.Minute)
		r.want(200, "GET", "/v2/", nil, basic("x", secret))
	}
	if saved() != first {
		t.Error("every use is written")
	}
	now = now.Add(15 * time.Minute)
	r.want(200, "GET", "/v2/", nil, basic("x", secret))
	if saved() != now.Unix() {
		t.Errorf("after an hour the last use is still %d", saved())
	}
	now = now.Add(time.Minute)
	r.want(200, "GET", "/v2/", nil, basic("x", secret))
	if n := r.st.writer.syncs.Load(); n != syncs {
		t.Errorf("%d syncs", n-syncs)
	}
	r.restart()
	if saved() != now.Unix() {
		t.Error("the last use before the end is lost")
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(matrixRules), "ann", "home/x")
	f.Add([]byte(fmt.Sprintf(starterPolicy, "kim")), "kim", "")
	f.Fuzz(func(t *testing.T, text []byte, user, repo string) {
		p, err := parsePolicy(text)
		if err != nil {
			return
		}
		may := p.rights(person{user: user}, repo)
		for _, word := range actionNames {
			if what := actions[word]; may&what == what && p.explain(person{user: user}, what, repo) == nil && len(p.rules) == 1 {
				t.Errorf("%q may %s in %q, and no rule says so", user, word, repo)
			}
		}
		if anonymous := p.rights(person{}, repo); may&anonymous != anonymous {
			t.Errorf("%q may less in %q than anonymous", user, repo)
		}
	})
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte("ann:$2y$05$" + strings.Repeat("a", 53) + "\n# x\nbob:{SHA}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, _ := parseUsers(text)
		for name, hash := range list {
			if err := checkUserName(name); err != nil {
				t.Errorf("a user %q: %v", name, err)
			}
			if _, err := bcrypt.Cost([]byte(hash)); err != nil {
				t.Errorf("a hash %q: %v", hash, err)
			}
		}
	})
}

func FuzzTokens(f *testing.F) {
	s := &signer{key: make([]byte, 32), audience: "x", now: time.Now, verified: make(map[string]*signedToken)}
	f.Add(s.sign(claims{Audience: "x", Expires: 1 << 40}), "repository:a/b:pull,push registry:catalog:*")
	f.Fuzz(func(t *testing.T, token, scope string) {
		if c, err := s.verify(token); err == nil && (c.Audience != "x" || s.sign(c.claims) == "") {
			t.Errorf("the token %q is good: %+v", token, c)
		}
		asked, err := parseScopes([]string{scope})
		if err == nil && len(asked) > maxScopes {
			t.Errorf("%d scopes", len(asked))
		}
		for _, g := range (&caller{}).grant(asked) {
			if _, err := parseName(g.Name); err != nil && g.Type == "repository" {
				t.Errorf("granted on %q", g.Name)
			}
		}
	})
}

// Rules that leave nobody who may do everything are pointed out, wherever they are read.
func TestRulesWithoutAnAdministrator(t *testing.T) {
	t.Parallel()
	const rule = "[[rule]]\nwho = [\"anonymous\"]\nrepositories = [\"public/**\"]\nallow = [\"pull\"]\n"
	const admins = "[[rule]]\nwho = [\"kim\"]\nrepositories = [\"**\"]\nallow = [\"admin\"]\n"
	for text, want := range map[string]bool{rule: true, rule + admins: false, "": false} {
		r := startRegistry(t, guarded(text, "kim"))
		r.server.gate.announce()
		if got := strings.Contains(r.log.String(), "nobody is an administrator"); got != want {
			t.Errorf("the log tells of no administrator: %v, want %v\n%s", got, want, text)
		}
		out, err := runOnce(t, "policy", "check", "--data", r.cfg.dir)
		if text != "" && (err != nil || strings.Contains(out, "nobody is an administrator") != want) {
			t.Errorf("policy check of\n%s%v\n%s", text, err, out)
		}
	}
}

// A file that is not TOML is told of with the place and what is wanted there, in no words of
// the library that reads it.
func TestMalformedPolicies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]string{
		"[[rule]\nwho = [\"a\"]\n":                         "line 1, column 7: a heading such as [[rule]] ends with ]]: [[rule]",
		"# x\n[groups\na = [\"x\"]\n":                      "line 2, column 8: a heading such as [groups] ends with ]: [groups",
		"[]\n":                                             "line 1, column 2: a heading needs a name, as in [[rule]]: []",
		"[[rule]]\nwho [\"a\"]\n":                          "line 2, column 5: after the name of a setting comes =, as in newest = 10: who [\"a\"]",
		"[[rule]]\nwho : [\"a\"]\n":                        "line 2, column 5: after the name of a setting comes =",
		"hello\n":                                          "line 1, column 6: after the name of a setting comes =, as in newest = 10: hello",
		"= 3\n":                                            "line 1, column 1: before = comes the name of a setting",
		"[[rule]]\nwho = [\"a\" \"b\"]\n":                  "line 2, column 12: a comma is missing between the items of a list, or the ] that ends it: who = [\"a\" \"b\"]",
		"[[rule]]\nwho = [\"ä\" \"b\"]\n":                  "line 2, column 12: a comma is missing",
		"[[rule]]\nwho = [\"a\"\nallow = [\"pull\"]":       "a comma is missing between the items of a list, or the ] that ends it: ",
		"[[rule]]\nwho = [\"a\"\n":                         "line 2, column 11: a comma is missing",
		"[[rule]]\nwho = ann\n":                            "line 2, column 7: after = comes a value: a text in quotes (\")",
		"[[rule]]\nwho = [“a”]\n":                          "line 2, column 8: after = comes a value: a text in quotes (\")",
		"[[rule]]\nwho =\nallow = [\"pull\"]\n":            "line 2, column 6: after = comes a value",
		"[[rule]]\nwho = [\"a]\nallow = 3\n":               "line 2, column 11: a quote is missing: a text ends with the quote that it begins with, on the same line: who = [\"a]",
		"[[rule]]\nwho = 'a":                               "a quote is missing",
		"[[rule]]\nwho = [\"a\"]\nwho = [\"b\"]\n":         ": this is in the file twice; leave out one of the two: who = [\"b\"]",
		"[[rule]]\nwho = [\"a\"]\n [rule] # b\nwho = []\n": "line 3: write [[rule]], with two brackets at each end, over each",
		"[rule]\nwho = [\"a\"]\n":                          "line 1: write [[rule]], with two brackets at each end, over each",
		"[retain]\nnewest = 3\n[retain]\n":                 "line 3: write [[retain]], with two brackets at each end, over each",
		"\n[index]\n":                                      "line 2: write [[index]], with two brackets at each end, over each",
		"[immutable]\n":                                    "line 1: write [[immutable]], with two brackets at each end, over each",
		"rule = 3\n":                                       "line 1: write [[rule]], with two brackets at each end, over each",
		"[groups]\n[[rule]]\nwho = [\n  \"a\",\n]\nrepositories = [\"**\"]\nallow = \"admin\"\n\n[[rule]]\nwho = [\"b\"]\nallow = [\"pull\"]\n[[rule]]\nallow = [\"pull\"]\n": "line 7: rule.allow: want a list, as in [\"a\", \"b\"]",
		"[[rule]]\nallow = [\"pull\"]\n# c\n[[rule]]\nallow = [1]\n[[rule]]\nallow = [\"pull\"]\n":                                                                            "line 5: rule.allow: want a text",
		"[[retain]]\nnewest = \"x\"\n[[retain]]\nnewest = 4\n":                                                                                                                "line 2: retain.newest: want a number",
		"[[immutable]]\ntags = [\"v*\"]\n[[rule]]\nallow = [\"pull\"]\n[[rule]]\ntags = [\"x\"]\n":                                                                            "line 6: \"rule.tags\" means nothing here",
		"[groups]\na = [\"x\"]\n[groups]\n":  "line 3, column 2: this is in the file twice",
		"[rule]\nwho = [\"a\"]\n[[rule]]\n":  "line 3, column 3: this is in the file already, as something else: write [[rule]]",
		"[[retain]]\nmatching = \"v\\d+\"\n": "line 2, column 13: a backslash in \"quotes\" must be doubled, or the text be in 'single quotes': matching = \"v\\d+\"",
		"[[retain]]\nnewest = 010\n":         "line 2, column 10: a number does not begin with 0: newest = 010",
		"[[retain]]\nnewest = 10x\n":         "line 2, column 12: there is more on this line than one setting",
		"[[rule]]\nwho = [\"a\xff\"]\n":      "line 2, column 9: a character is not valid; save the file as UTF-8",
	} {
		writeRules(dir, text)
		got := tell(t, nil, "", "policy", "check", "--data", dir)
		if got.code != 1 || !strings.HasPrefix(got.err, "berth: "+filepath.Join(dir, policyFile)+": line ") || !strings.Contains(got.err, want) {
			t.Errorf("of the rules\n%s\nit is said\n%swant\n%s", text, got.err, want)
		}
	}
}
