package e2e

// Logging in: each client tells the registry who it is in a way of its own. Whoever may not is refused, and
// the client says why; and no password ever stands in the registry's log.

import (
	"encoding/base64"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Kim is the administrator. Pat may pull what is in lib, push to drafts but not move a tag there, and do
// everything in pat.
const (
	kimsPassword = "kim's-own:secret%17"
	patsPassword = "pat's battery staple"

	patsRules = `
[[rule]]
who          = ["kim"]
repositories = ["**"]
allow        = ["admin"]

[[rule]]
who          = ["pat"]
repositories = ["lib/**"]
allow        = ["pull"]

[[rule]]
who          = ["pat"]
repositories = ["drafts/**"]
allow        = ["push"]

[[rule]]
who          = ["pat"]
repositories = ["pat/**"]
allow        = ["push", "overwrite", "delete"]
`
)

func TestLogin(t *testing.T) {
	t.Parallel()
	eachTool(t, func(t *testing.T, open func(*testing.T, reach) *tool) {
		reg := startBerthWithUsers(t, "--log-level", "debug")
		tool := open(t, reach{host: reg.addr, plain: true})

		// Nobody.
		tool.refused("push without a login", tool.push, "lib/app", "1.0.0", unauthorized...)
		tool.refused("pull without a login", tool.pull, "lib/app", "1.0.0", unauthorized...)

		// A wrong password.
		said, err := tool.login("kim", "a guess at it")
		if tool.late {
			said, err = tool.push("lib/app", "1.0.0")
			tool.logout()
		}
		if err == nil || !containsAny(said, wrongPassword) {
			t.Errorf("a login with a wrong password ended with %v and says\n%s", err, said)
		}

		// The right one, until the logout.
		tool.mustLogin("kim", kimsPassword)
		tool.able("push", tool.push, "lib/app", "1.0.0")
		tool.able("pull", tool.pull, "lib/app", "1.0.0")
		tool.able("push over a tag", tool.push, "lib/app", "1.0.0")
		tool.logout()
		tool.refused("push after the logout", tool.push, "lib/app", "2.0.0", unauthorized...)
		tool.refused("pull after the logout", tool.pull, "lib/app", "1.0.0", unauthorized...)

		// Who may less.
		tool.mustLogin("pat", patsPassword)
		tool.able("pull of what one may pull", tool.pull, "lib/app", "1.0.0")
		tool.refused("push to where one may pull only", tool.push, "lib/app", "2.0.0", "pat may not push to lib/app")
		tool.able("push of a new tag", tool.push, "drafts/app", "1.0.0")
		tool.refused("push over a tag", tool.push, "drafts/app", "1.0.0", "the tag 1.0.0 is there already")
		tool.able("push of another tag", tool.push, "drafts/app", "1.0.1")
		tool.logout()

		// A machine.
		secret := reg.createToken("ci", "--repo", "ci/*", "--allow", "push")
		tool.mustLogin("ci", secret)
		tool.able("push with a token", tool.push, "ci/app", "1.0.0")
		tool.able("pull with a token", tool.pull, "ci/app", "1.0.0")
		// Those who begin with HEAD get no more than the status. BuildKit then asks with GET why.
		tool.refused("push with a token for elsewhere", tool.push, "other/app", "1.0.0", "token:ci may not push to other/app", "403",
			"token:ci may not pull from other/app")
		reg.admin("", "token", "revoke", "ci")
		tool.refused("push with a token that was revoked", tool.push, "ci/app", "2.0.0", wrongPassword...)
		tool.refused("pull with a token that was revoked", tool.pull, "ci/app", "1.0.0", wrongPassword...)

		for _, repo := range []string{"lib/app", "drafts/app", "ci/app"} {
			if !reg.has(repo, "1.0.0") {
				t.Errorf("%s:1.0.0 is not in the registry", repo)
			}
		}
		if reg.has("lib/app", "2.0.0") || reg.has("ci/app", "2.0.0") || reg.has("other/app", "1.0.0") {
			t.Error("something is in the registry whose push was refused")
		}
		reg.wantNoSecrets(kimsPassword, patsPassword, secret, "a guess at it")
	})
}

// Who is not logged in may pull, and is not asked for a password before a push.
func TestAnonymousPullBesidePush(t *testing.T) {
	t.Parallel()
	eachTool(t, func(t *testing.T, open func(*testing.T, reach) *tool) {
		reg := startBerthWithUsers(t, "--anonymous-pull", "--log-level", "debug")
		tool := open(t, reach{host: reg.addr, plain: true})
		tool.refused("push without a login", tool.push, "lib/app", "1.0.0", unauthorized...)
		tool.mustLogin("kim", kimsPassword)
		tool.able("push", tool.push, "lib/app", "1.0.0")
		tool.able("pull", tool.pull, "lib/app", "1.0.0")
		tool.logout()
		tool.able("pull without a login", tool.pull, "lib/app", "1.0.0")
		tool.refused("push after the logout", tool.push, "lib/app", "2.0.0", unauthorized...)
		reg.wantNoSecrets(kimsPassword)
	})
}

// What a person may pull is mounted, not sent again. What they may not is sent, and nothing tells them
// that the registry has it.
func TestDockerMountsWhatOneMayPull(t *testing.T) {
	t.Parallel()
	reg := startBerthWithUsers(t)
	tap := tapInto(t, reg)
	docker := startDocker(t)
	login := func(user, password string) {
		docker.feed(password, "login", "--username", user, "--password-stdin", tap.addr)
	}
	docker.load(tap.ref("secret/app:1"), randomLayer(80, 1<<20))
	docker.run("tag", tap.ref("secret/app:1"), tap.ref("secret/copy:1"))
	docker.run("tag", tap.ref("secret/app:1"), tap.ref("pat/app:1"))
	login("kim", kimsPassword)
	docker.run("push", tap.ref("secret/app:1"))
	tap.since()
	if said := docker.run("push", tap.ref("secret/copy:1")); !strings.Contains(said, "Mounted from secret/app") {
		t.Errorf("docker push did not mount the layer:\n%s", said)
	}
	if seen := tap.since(); mounted(seen) == 0 || uploaded(seen) > 1<<16 {
		t.Errorf("%d blobs were mounted and %d bytes sent, want the layer mounted", mounted(seen), uploaded(seen))
	}

	// Pat pushes the same layer, as a person who has it from elsewhere.
	docker.run("rmi", tap.ref("secret/copy:1"))
	login("pat", patsPassword)
	if said := docker.run("push", tap.ref("pat/app:1")); strings.Contains(said, "Mounted from secret/app") {
		t.Errorf("docker push mounted a layer from where pat may not pull:\n%s", said)
	}
	if seen := tap.since(); uploaded(seen) < 1<<20 {
		t.Errorf("pat's push mounted %d blobs and sent %d bytes, want the layer sent", mounted(seen), uploaded(seen))
	}
}

// A user who is removed is out at once, logged in or not.
func TestRemovedUserIsRefused(t *testing.T) {
	t.Parallel()
	reg := startBerthWithUsers(t)
	docker := startDocker(t)
	docker.load(reg.ref("lib/app:1"), randomLayer(81, 1<<10))
	docker.feed(kimsPassword, "login", "--username", "kim", "--password-stdin", reg.addr)
	docker.run("push", reg.ref("lib/app:1"))
	docker.feed(patsPassword, "login", "--username", "pat", "--password-stdin", reg.addr)
	docker.run("pull", reg.ref("lib/app:1"))

	reg.admin("", "user", "remove", "pat")
	if said := docker.fails("pull", reg.ref("lib/app:1")); !containsAny(said, wrongPassword) {
		t.Errorf("docker pull by a user who was removed says\n%s", said)
	}
}

// A new password holds from the next request on, and the old one does not.
func TestNewPassword(t *testing.T) {
	t.Parallel()
	reg := startBerthWithUsers(t)
	tool := craneTool(t, reach{host: reg.addr, plain: true})
	tool.mustLogin("kim", kimsPassword)
	tool.able("push", tool.push, "lib/app", "1.0.0")
	reg.admin("another secret\n", "user", "passwd", "kim")
	tool.refused("pull with the old password", tool.pull, "lib/app", "1.0.0", wrongPassword...)
	tool.mustLogin("kim", "another secret")
	tool.able("pull with the new one", tool.pull, "lib/app", "1.0.0")
	reg.password = "another secret"
	reg.wantNoSecrets(kimsPassword, "another secret")
}

// Docker and crane get a token for their password and then send that alone. The newest Docker first asks without, each time.
func TestClientsUseTokens(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, reach) *tool{"docker": dockerTool, "crane": craneTool} {
		t.Run(name, func(t *testing.T) {
			reg := startBerthWithUsers(t)
			tap := tapInto(t, reg)
			tool := open(t, reach{host: tap.addr, plain: true})
			tool.mustLogin("kim", kimsPassword)
			tap.since()
			tool.able("push", tool.push, "lib/app", "1.0.0")
			tool.able("pull", tool.pull, "lib/app", "1.0.0")
			asked, carried := 0, 0
			for _, e := range tap.since() {
				switch {
				case e.path == "/v2/token":
					asked++
					if e.scheme == "Bearer" || e.status != 200 {
						t.Errorf("%v, want the password and 200", e)
					}
				case e.scheme == "Bearer":
					carried++
				case e.scheme != "" || e.path != "/v2/" && e.status != 401:
					t.Errorf("%v, want a token with everything but the first question", e)
				}
			}
			if asked == 0 || carried < 6 {
				t.Errorf("%d tokens were asked for and %d requests had one, want some, and all of a push and a pull", asked, carried)
			}
		})
	}
}

var (
	// unauthorized are the words in which clients say that a login is wanted, or another. Docker's are of who
	// got a token for less than it asked.
	unauthorized = []string{"unauthorized", "authentication required", "401", "authorization failed",
		"requested access to the resource is denied", "pull access denied"}
	wrongPassword = append([]string{"wrong user or password", "invalid username/password"}, unauthorized...)
)

func containsAny(s string, words []string) bool {
	for _, word := range words {
		if strings.Contains(s, word) {
			return true
		}
	}
	return false
}

// startBerthWithUsers starts a server that kim and pat have passwords of. The test looks into it as kim.
func startBerthWithUsers(t *testing.T, args ...string) *berth {
	t.Helper()
	b := newBerth(t, args...)
	b.addUsers()
	b.start()
	return b
}

// addUsers gives kim and pat their passwords and rules.
func (b *berth) addUsers() {
	b.t.Helper()
	b.admin(kimsPassword+"\n", "user", "add", "kim")
	b.admin(patsPassword+"\n", "user", "add", "pat")
	writeFile(b.t, filepath.Join(b.data, "policy.toml"), patsRules)
	b.user, b.password = "kim", kimsPassword
}

// admin runs berth on the data directory and returns what it printed.
func (b *berth) admin(stdin string, args ...string) string {
	b.t.Helper()
	cmd := exec.Command(berthBinary, append(args, "--data", b.data)...)
	cmd.Env, cmd.Stdin = plainEnv(b.data), strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("berth %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// createToken makes a token for a machine and returns its secret.
func (b *berth) createToken(name string, args ...string) string {
	b.t.Helper()
	secret, _, _ := strings.Cut(b.admin("", append([]string{"token", "create", name}, args...)...), "\n")
	if !strings.HasPrefix(secret, "berth_") {
		b.t.Fatalf("berth token create begins with %q, want the secret", secret)
	}
	return secret
}

// wantNoSecrets fails the test if one stands in the log, as it is or as a client sends it.
func (b *berth) wantNoSecrets(secrets ...string) {
	b.t.Helper()
	log := b.log.String()
	if !strings.Contains(log, "path=/v2/token") {
		b.t.Error("the log has no line of a login")
	}
	for _, secret := range secrets {
		forms := []string{secret, "eyJ"} // and how tokens begin
		for _, user := range []string{"kim", "pat", "ci"} {
			forms = append(forms, base64.StdEncoding.EncodeToString([]byte(user+":"+secret)))
		}
		for _, form := range forms {
			if strings.Contains(log, form) {
				b.t.Errorf("%q, a form of the secret %q, stands in the registry's log", form, secret)
			}
		}
	}
}
