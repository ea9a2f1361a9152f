package e2e

// People whom others know: OpenLDAP's directory, and an OpenID Connect provider with its page, as
// docs/access.md has them.

import (
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// blocksAbout are the blocks of docs/access.md from the one that begins with a line on.
func blocksAbout(t *testing.T, line string) []block {
	t.Helper()
	list := blocksOf(t, "docs/access.md")
	for i, b := range list {
		if strings.HasPrefix(b.text, line+"\n") {
			return list[i:]
		}
	}
	t.Fatalf("docs/access.md has no block %s", line)
	return nil
}

const people = `dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=org
objectClass: organizationalUnit
ou: groups

dn: ou=services,dc=example,dc=org
objectClass: organizationalUnit
ou: services

dn: cn=berth,ou=services,dc=example,dc=org
objectClass: applicationProcess
objectClass: simpleSecurityObject
cn: berth
userPassword: a service's own

dn: uid=ann,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: ann
cn: Ann
sn: Ann
userPassword: ann's horse

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: Bob
userPassword: bob's horse

dn: cn=developers,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: developers
member: uid=bob,ou=people,dc=example,dc=org
`

// daemon starts a program that runs until the test ends, or is ended before.
func daemon(c *client, args ...string) (exited chan struct{}, log *output, end func()) {
	c.t.Helper()
	cmd := exec.Command(c.path, args...)
	cmd.Env, cmd.Dir = c.env, c.dir
	log, exited = launch(c.t, cmd)
	return exited, log, func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-exited
	}
}

// startSlapd serves the people until the test ends, with a certificate of a CA for localhost. It
// returns the port, and what ends it.
func startSlapd(t *testing.T, ca *ca) (port string, end func()) {
	t.Helper()
	slapd, add := newClient(t, "slapd"), newClient(t, "slapadd")
	dir := tempDir(t)
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, text)
		return path
	}
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	certificate, key, _ := ca.issue("localhost", "127.0.0.1")
	conf := file("slapd.conf", fmt.Sprintf(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/dyngroup.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload dynlist
pidfile %[1]s/pid
TLSCertificateFile %[2]s
TLSCertificateKeyFile %[3]s
security simple_bind=64
database mdb
suffix "dc=example,dc=org"
directory %[1]s/db
overlay dynlist
dynlist-attrset groupOfURLs memberURL member+memberOf@groupOfNames
access to attrs=userPassword by anonymous auth
access to * by dn="cn=berth,ou=services,dc=example,dc=org" read
`, dir, file("cert.pem", certificate), file("key.pem", key)))
	add.run("-f", conf, "-l", file("people.ldif", people))
	address := freeAddress(t)
	exited, log, stop := daemon(slapd, "-d", "0", "-f", conf, "-h", "ldap://"+address)
	await(t, exited, log, "slapd to answer", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	_, port, _ = net.SplitHostPort(address)
	return port, stop
}

func TestPeopleOfADirectory(t *testing.T) {
	ca := newCA(t)
	port, end := startSlapd(t, ca)
	blocks := blocksAbout(t, "[ldap]")
	reg := newBerth(t)
	reg.addUsers()
	reg.user, reg.password = "kim", kimsPassword
	login := strings.Replace(blocks[0].text, "ldap.example.org", "localhost:"+port, 1)
	writeFile(t, filepath.Join(reg.data, "login.toml"), login)
	writeFile(t, filepath.Join(reg.data, "login-ldap.password"), "a service's own\n")
	if err := os.Chmod(filepath.Join(reg.data, "login-ldap.password"), 0o600); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(reg.data, "login-ca.crt"), read(t, ca.file))
	writeFile(t, filepath.Join(reg.data, "policy.toml"), blocks[2].text+patsRules)
	for _, step := range blocks[3].steps(t) {
		if said := reg.admin("", strings.Fields(step.command)[1:]...); said != strings.Join(step.output, "\n")+"\n" {
			t.Errorf("%s says\n%s", step.command, said)
		}
	}
	reg.start()

	for _, x := range tools {
		if x.name != "docker" && x.name != "podman" && x.name != "crane" {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			tool := x.open(t, reach{host: reg.addr, plain: true})
			tool.mustLogin("bob", "bob's horse")
			tool.able("push by a group", tool.push, "dev/"+x.name, "1")
			tool.refused("push elsewhere", tool.push, "other/app", "1", "ldap:bob may not push to other/app", "403", "denied")
			tool.logout()
			tool.mustLogin("Ann", "ann's horse")
			tool.able("push as an administrator", tool.push, "other/"+x.name, "1")
			tool.logout()
			said, err := tool.login("bob", "ann's horse")
			if tool.late {
				said, err = tool.push("dev/app", "2")
				tool.logout()
			}
			if err == nil || !containsAny(said, wrongPassword) {
				t.Errorf("a login with a wrong password: %v\n%s", err, said)
			}
		})
	}

	// Without the directory.
	end()
	crane := craneTool(t, reach{host: reg.addr, plain: true})
	crane.mustLogin("kim", kimsPassword)
	crane.able("push by a local user without the directory", crane.push, "other/app", "2")
	crane.logout()
	crane.mustLogin("bob", "another try")
	crane.refused("push without the directory", crane.push, "dev/app", "3", "the directory that knows your password cannot be asked")
	crane.logout()
	reg.wantNoSecrets("ann's horse", "bob's horse", "a service's own")
}

// startProvider serves an OpenID Connect provider until the test ends, for a registry at an address.
func startProvider(t *testing.T, registry string) (issuer string, end func()) {
	t.Helper()
	provider := newClient(t, "openid-provider")
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	users := filepath.Join(tempDir(t), "users.json")
	writeFile(t, users, `{"1": {"ID": "1", "Username": "ann", "Password": "ann's horse", "Email": "ann@example.org", "EmailVerified": true},
		"2": {"ID": "2", "Username": "eve", "Password": "eve's horse", "Email": "eve@example.com", "EmailVerified": true},
		"3": {"ID": "3", "Username": "pat", "Password": "pat's horse", "Email": "pat@example.org", "EmailVerified": false}}`)
	provider.env = append(provider.env, "PORT="+port, "USERS_FILE="+users, "REDIRECT_URI="+registry+"/login/callback")
	exited, log, stop := daemon(provider)
	issuer = "http://localhost:" + port
	await(t, exited, log, "the provider to answer", func() bool {
		resp, err := http.Get(issuer + "/.well-known/openid-configuration")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return issuer + "/", stop
}

// A person at a browser without scripts.
type surfer struct {
	t      *testing.T
	client *http.Client
	at     *url.URL
	page   string
}

func (s *surfer) read(resp *http.Response, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	s.at, s.page = resp.Request.URL, string(text)
}

var (
	formForm  = regexp.MustCompile(`(?s)<form[^>]*>.*?</form>`)
	fieldForm = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`)
)

// submit fills the form that goes to a path, and sends it.
func (s *surfer) submit(path string, fields url.Values) {
	s.t.Helper()
	for _, form := range formForm.FindAllString(s.page, -1) {
		if !strings.Contains(form, `action="`+path+`"`) {
			continue
		}
		for _, m := range fieldForm.FindAllStringSubmatch(form, -1) {
			fields.Set(m[1], html.UnescapeString(m[2]))
		}
		s.read(s.client.PostForm(s.at.ResolveReference(&url.URL{Path: path}).String(), fields))
		return
	}
	s.t.Fatalf("%s has no form for %s:\n%s", s.at, path, s.page)
}

// surf logs somebody in at a registry by its provider, as far as that goes.
func surf(t *testing.T, registry, user string) *surfer {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &surfer{t: t, client: &http.Client{Jar: jar}}
	s.read(s.client.Get(registry + "/login"))
	s.submit("/login/username", url.Values{"username": {user}, "password": {user + "'s horse"}})
	return s
}

func TestPeopleOfAProvider(t *testing.T) {
	blocks := blocksAbout(t, "[oidc]")
	reg := newBerth(t)
	reg.addUsers()
	reg.addr = freeAddress(t)
	registry := "http://" + reg.addr
	issuer, end := startProvider(t, registry)
	login := strings.NewReplacer("https://id.example.org", issuer, `"berth"`, `"web"`).Replace(blocks[0].text)
	writeFile(t, filepath.Join(reg.data, "login.toml"), login)
	writeFile(t, filepath.Join(reg.data, "login-oidc.secret"), "secret\n")
	if err := os.Chmod(filepath.Join(reg.data, "login-oidc.secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(reg.data, "policy.toml"), blocks[1].text+patsRules)
	reg.start()

	for user, why := range map[string]string{"eve": "People with your e-mail address may not log in", "pat": "has not verified your e-mail address"} {
		if s := surf(t, registry, user); !strings.Contains(s.page, why) || strings.Contains(s.page, "<form") {
			t.Errorf("%s is shown\n%s", user, s.page)
		}
	}
	s := surf(t, registry, "ann")
	s.submit("/login/token", url.Values{})
	shown := regexp.MustCompile(`docker login -u (\S+) (\S+)</pre>`).FindStringSubmatch(s.page)
	token := regexp.MustCompile(`berth_[0-9a-z]{8}_[0-9A-Za-z_-]{43}`).FindString(s.page)
	if shown == nil || shown[2] != reg.addr || token == "" {
		t.Fatalf("the page has no token:\n%s", s.page)
	}
	end() // the provider is needed no more, also by the next process
	reg.stop()
	reg.start()
	for _, x := range tools {
		if x.name != "docker" && x.name != "podman" && x.name != "crane" {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			tool := x.open(t, reach{host: reg.addr, plain: true})
			tool.mustLogin(shown[1], token)
			tool.able("push by a rule", tool.push, "dev/"+x.name, "1")
			tool.able("pull", tool.pull, "dev/"+x.name, "1")
			tool.refused("push elsewhere", tool.push, "other/app", "1", "oidc:ann@example.org may not push to other/app", "403", "denied")
			tool.logout()
		})
	}
	if list := reg.admin("", "token", "list"); !strings.Contains(list, "as oidc:ann@example.org") {
		t.Errorf("berth token list:\n%s", list)
	}
	reg.wantNoSecrets(token, "ann's horse")
}
