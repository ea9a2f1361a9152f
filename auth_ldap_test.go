// People of a directory: a small one, in this process, that speaks LDAP. The end-to-end tests
// have a real one.

package main

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// An ldapServer knows entries by their DNs.
type ldapServer struct {
	t       testing.TB
	address string
	secure  *tls.Config
	open    sync.WaitGroup // connections

	mu       sync.Mutex // guards the rest
	listener net.Listener
	entries  map[string]map[string][]string
	binds    []string         // whom there were tries to be, with password, and the result
	searches []string         // their filters
	plain    int              // binds with a password without TLS
	odd      map[string]int64 // by DN, what a bind is answered with, whatever the password
}

const peopleDN = ",ou=people,dc=example,dc=org"

// startLDAP serves some people until the test ends. The password of each is NAME-there.
func startLDAP(t testing.TB) *ldapServer {
	t.Helper()
	x := &ldapServer{t: t, entries: map[string]map[string][]string{
		"cn=berth,dc=example,dc=org":                  {"userPassword": {"service secret"}},
		"uid=ann" + peopleDN:                          {"uid": {"Ann"}, "mail": {"ann@example.org"}, "userPassword": {"ann-there"}, "memberOf": {"CN=Developers, ou=groups,dc=example,dc=org"}},
		"uid=bob" + peopleDN:                          {"uid": {"bob", "robert"}, "userPassword": {"bob-there"}},
		"uid=kim" + peopleDN:                          {"uid": {"kim"}, "userPassword": {"kim-there"}},
		"uid=two" + peopleDN:                          {"uid": {"two"}, "mail": {"same@example.org"}, "userPassword": {"two-there"}},
		"uid=too" + peopleDN:                          {"uid": {"too"}, "mail": {"same@example.org"}, "userPassword": {"too-there"}},
		"cn=odd" + peopleDN:                           {"uid": {"token:ci"}, "mail": {"odd@example.org"}, "userPassword": {"odd-there"}},
		"cn=developers,ou=groups,dc=example,dc=org":   {"cn": {"developers"}, "member": {"uid=ann" + peopleDN}},
		"cn=all,ou=groups,dc=example,dc=org":          {"cn": {"all"}, "member": {"cn=developers,ou=groups,dc=example,dc=org"}},
		"cn=developers,ou=printers,dc=example,dc=org": {"cn": {"developers"}, "member": {"uid=bob" + peopleDN}},
	}}
	// net/http's own test certificate is for example.com and 127.0.0.1.
	web := httptest.NewTLSServer(nil)
	x.secure = &tls.Config{Certificates: web.TLS.Certificates}
	web.Close()
	x.listen("127.0.0.1:0")
	t.Cleanup(x.stop)
	return x
}

// ca writes the certificate of the server's CA to a file.
func (x *ldapServer) ca() string {
	path := filepath.Join(x.t.TempDir(), "ca.crt")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.secure.Certificates[0].Certificate[0]})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		x.t.Fatal(err)
	}
	return path
}

func (x *ldapServer) listen(address string) {
	x.t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		x.t.Fatal(err)
	}
	x.listener, x.address = l, l.Addr().String()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			x.open.Go(func() { x.serve(c) })
		}
	}()
}

func (x *ldapServer) stop() { x.listener.Close() }

func (x *ldapServer) serve(c net.Conn) {
	defer func() { c.Close() }()
	secured := false
	for {
		p, err := ber.ReadPacket(c)
		if err != nil || len(p.Children) < 2 {
			return
		}
		id, op := p.Children[0].Value, p.Children[1]
		switch op.Tag {
		case ldap.ApplicationBindRequest:
			code := x.bind(op.Children[1].Value.(string), op.Children[2].Data.String(), secured)
			c.Write(result(id, ldap.ApplicationBindResponse, code).Bytes())
		case ldap.ApplicationSearchRequest:
			code := x.search(op, func(entry *ber.Packet) { c.Write(message(id, entry).Bytes()) })
			c.Write(result(id, ldap.ApplicationSearchResultDone, code).Bytes())
		case ldap.ApplicationExtendedRequest: // StartTLS
			c.Write(result(id, ldap.ApplicationExtendedResponse, 0).Bytes())
			c, secured = tls.Server(c, x.secure), true
		default:
			return
		}
	}
}

func (x *ldapServer) bind(dn, password string, secured bool) int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if password != "" && !secured {
		x.plain++
	}
	code := int64(ldap.LDAPResultInvalidCredentials)
	if password == "" { // as RFC 4513, section 5.1.2, has it, and as directories do it
		code = 0
	}
	for name, entry := range x.entries {
		if strings.EqualFold(name, dn) && slices.Contains(entry["userPassword"], password) {
			code = 0
		}
	}
	if odd, ok := x.odd[dn]; ok {
		code = odd
	}
	x.binds = append(x.binds, fmt.Sprintf("%s %s %d", dn, password, code))
	return code
}

func (x *ldapServer) search(op *ber.Packet, send func(*ber.Packet)) int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	base, scope, limit := op.Children[0].Value.(string), op.Children[1].Value.(int64), op.Children[3].Value.(int64)
	text, _ := ldap.DecompileFilter(op.Children[6])
	x.searches = append(x.searches, text)
	for name, entry := range x.entries {
		if scope == ldap.ScopeBaseObject && !strings.EqualFold(name, base) || !strings.HasSuffix(strings.ToLower(name), strings.ToLower(base)) || !matches(op.Children[6], entry) {
			continue
		}
		if limit--; limit < 0 {
			return ldap.LDAPResultSizeLimitExceeded
		}
		found := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultEntry, nil, "")
		found.AppendChild(octets(name))
		list := ber.NewSequence("")
		for _, wanted := range op.Children[7].Children {
			for key, values := range entry {
				if key == "userPassword" || !strings.EqualFold(key, wanted.Value.(string)) {
					continue
				}
				set := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
				for _, v := range values {
					set.AppendChild(octets(v))
				}
				attribute := ber.NewSequence("")
				attribute.AppendChild(octets(key))
				attribute.AppendChild(set)
				list.AppendChild(attribute)
			}
		}
		found.AppendChild(list)
		send(found)
	}
	return 0
}

// matches holds a filter against an entry.
func matches(f *ber.Packet, entry map[string][]string) bool {
	switch f.Tag {
	case ldap.FilterAnd:
		return !slices.ContainsFunc(f.Children, func(g *ber.Packet) bool { return !matches(g, entry) })
	case ldap.FilterOr:
		return slices.ContainsFunc(f.Children, func(g *ber.Packet) bool { return matches(g, entry) })
	case ldap.FilterPresent:
		return len(entry[f.Data.String()]) > 0
	case ldap.FilterEqualityMatch:
		return slices.ContainsFunc(entry[f.Children[0].Value.(string)], func(v string) bool { return strings.EqualFold(v, f.Children[1].Value.(string)) })
	}
	return false
}

func octets(text string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, text, "")
}

func message(id any, op *ber.Packet) *ber.Packet {
	p := ber.NewSequence("")
	p.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	p.AppendChild(op)
	return p
}

func result(id any, tag ber.Tag, code int64) *ber.Packet {
	op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	op.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""))
	op.AppendChild(octets(""))
	op.AppendChild(octets(""))
	return message(id, op)
}

// asked returns the binds as persons, not as the service account, since it was last called.
func (x *ldapServer) asked() (binds []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, b := range x.binds {
		if !strings.HasPrefix(b, "cn=berth,") {
			binds = append(binds, b)
		}
	}
	x.binds = nil
	return binds
}

// knownThere gives a registry a login.toml for the directory; more is further lines.
func (x *ldapServer) knownThere(more string) func(*config) {
	return func(c *config) {
		x.t.Helper()
		writeFile(x.t, filepath.Join(c.dir, "login-ldap.password"), []byte("service secret\n"))
		writeFile(x.t, filepath.Join(c.dir, loginFile), []byte(x.config(more)))
	}
}

func (x *ldapServer) config(more string) string {
	return fmt.Sprintf(`[ldap]
url = "ldap://%s"
start-tls = false
base = "ou=people,dc=example,dc=org"
bind-dn = "cn=berth,dc=example,dc=org"
bind-password-file = "login-ldap.password"
%s
[ldap.groups]
developers = "cn=developers,ou=groups,dc=example,dc=org"
everybody = "cn=all,ou=groups,dc=example,dc=org"
`, x.address, more)
}

const peopleRules = `
[groups]
admins = ["kim", "ldap:kim-of-elsewhere"]
[[rule]]
who = ["group:admins", "kim"]
repositories = ["**"]
allow = ["admin"]
[[rule]]
who = ["group:ldap:developers"]
repositories = ["dev/**"]
allow = ["overwrite"]
[[rule]]
who = ["group:ldap:everybody"]
repositories = ["all/**"]
allow = ["pull"]
[[rule]]
who = ["ldap:bob"]
repositories = ["bob/**"]
allow = ["push"]
[[rule]]
who = ["ldap:*"]
repositories = ["open/**"]
allow = ["pull"]
[[rule]]
who = ["users"]
repositories = ["**"]
allow = ["push"]
`

// groupsByFilter also finds groups that are not those of login.toml, and have their names.
const groupsByFilter = "group-filter = \"(member={dn})\"\ngroup-base = \"dc=example,dc=org\"\n"

// there is the header of somebody of the directory.
func there(user string) string { return basic(user, user+"-there") }

func TestDirectoryPeopleAndTheirGroups(t *testing.T) {
	t.Parallel()
	x := startLDAP(t)
	r := startRegistry(t, guarded(peopleRules, "kim"), x.knownThere(""))

	r.pushAs(there("ann"), "dev/app", "1", "a")
	r.pushAs(basic("ANN", "ann-there"), "dev/app", "1", "b")
	r.want(403, "POST", "/v2/bob/app/blobs/uploads/", nil, there("ann"))
	r.want(404, "GET", "/v2/open/app/manifests/1", nil, there("ann"))
	r.want(403, "GET", "/v2/all/app/manifests/1", nil, there("ann"))
	r.pushAs(there("bob"), "bob/app", "1", "c")
	r.want(403, "POST", "/v2/dev/app/blobs/uploads/", nil, there("bob"))

	// By a token of the Docker flow, which carries the groups.
	token := r.bearer(there("ann"), "repository:dev/app:pull,push", "repository:bob/app:pull,push")
	r.want(200, "GET", "/v2/dev/app/manifests/1", nil, token)
	r.want(202, "POST", "/v2/dev/app/blobs/uploads/", nil, token)
	r.want(403, "GET", "/v2/bob/app/manifests/1", nil, token)

	if log := r.log.String(); !strings.Contains(log, "user=ldap:ann") || strings.Contains(log, "-there") || strings.Contains(log, "service secret") {
		t.Errorf("the log:\n%s", log)
	}
	if !strings.Contains(r.log.String(), "event=login user=ldap:ann groups=[group:ldap:developers]") {
		t.Errorf("no line about the login:\n%s", r.log.String())
	}
	// Another [ldap] is another directory, perhaps: what it said before is void.
	r.edit(loginFile, x.config(groupsByFilter))
	r.want(401, "GET", "/v2/dev/app/manifests/1", nil, token)
	r.want(200, "GET", "/v2/dev/app/manifests/1", nil, there("ann"))
	r.want(403, "POST", "/v2/dev/app/blobs/uploads/", nil, there("bob")) // cn=developers, but other ones
	r.want(403, "GET", "/v2/all/app/manifests/1", nil, there("ann"))
	r.edit(loginFile, x.config(groupsByFilter+"nested-groups = true"))
	r.want(404, "GET", "/v2/all/app/manifests/1", nil, there("ann"))
	r.want(403, "GET", "/v2/all/app/manifests/1", nil, there("bob"))
}

// edit writes a file of the data directory.
func (r *registry) edit(name, text string) {
	r.t.Helper()
	writeFile(r.t, filepath.Join(r.cfg.dir, name), []byte(text))
}

// Whoever may name people or groups in the directory is nobody of this registry by that.
func TestDirectoryNamesAreNoLocalOnes(t *testing.T) {
	t.Parallel()
	x := startLDAP(t)
	r := startRegistry(t, guarded(peopleRules, "kim"), x.knownThere(`filter = "(|(uid={user})(mail={user}))"`))
	r.newRobot("ci", "**", "push")

	// The local kim is asked for here alone, also with the password that another kim has there.
	r.want(200, "GET", "/v2/", nil, as("kim"))
	r.want(401, "GET", "/v2/", nil, there("kim"))
	if got := x.asked(); got != nil {
		t.Errorf("the directory was asked about a local user: %q", got)
	}
	// Without the local one, the other kim is nobody's but ldap:kim, and no administrator, nor one of "users".
	r.edit(usersFile, "ann:"+hashOf("x")+"\n")
	r.want(200, "GET", "/v2/", nil, there("kim"))
	r.want(403, "GET", "/v2/any/app/manifests/1", nil, there("kim"))
	r.want(401, "GET", "/v2/", nil, as("kim"))

	// Names that would be something else, and addresses that two people have.
	r.want(401, "GET", "/v2/", nil, basic("odd@example.org", "odd-there"))
	r.want(401, "GET", "/v2/", nil, basic("same@example.org", "two-there"))
	r.want(200, "GET", "/v2/", nil, there("two"))
	if log := r.log.String(); !strings.Contains(log, "somebody whose password is right cannot log in") || strings.Contains(log, "user=token:ci") {
		t.Errorf("the log of the odd name:\n%s", log)
	}
}

func TestDirectoryIsAskedWithCare(t *testing.T) {
	t.Parallel()
	x := startLDAP(t)
	for _, more := range []string{"", `user-dn = "uid={user},ou=people,dc=example,dc=org"`} {
		text := x.config("")
		if more != "" {
			text = strings.NewReplacer("bind-dn", "#", "bind-password", "#").Replace(x.config(more))
		}
		r := startRegistry(t, guarded(peopleRules, "local"), x.knownThere(""), func(c *config) { writeFile(t, filepath.Join(c.dir, loginFile), []byte(text)) })
		r.want(200, "GET", "/v2/", nil, there("ann"))
		x.asked()
		// An empty password, which the directory takes for nobody's and says yes to, is not sent.
		r.want(401, "GET", "/v2/", nil, basic("ann", ""))
		r.want(401, "GET", "/v2/token?scope=repository:dev/app:pull", nil, basic("ann", ""))
		if got := x.asked(); got != nil {
			t.Errorf("an empty password was sent: %q", got)
		}
		// Nor does a name become a filter, or another DN.
		for _, name := range []string{"*", "a*", "ann)(uid=*", "ann,ou=people", `ann\2a`, "ann\x00", "ann ", "uid=ann", "("} {
			r.want(401, "GET", "/v2/", nil, basic(name, "ann-there"))
			clear(r.server.gate.logins.attempts.failed)
		}
		if got := x.asked(); got != nil {
			t.Errorf("%q: odd names were tried: %q", more, got)
		}
		if wrong := r.do("GET", "/v2/", nil, basic("o'neil+x", "pass")); wrong.status != 401 {
			t.Errorf("an unknown name = %d", wrong.status)
		}
	}
	// What may be in a name and means something in a filter or a DN is escaped.
	if got := x.asked(); !slices.Contains(got, `uid=o'neil\+x,ou=people,dc=example,dc=org pass 49`) {
		t.Errorf("binds: %q", got)
	}
}

func TestDirectoryIsNotAskedTwice(t *testing.T) {
	t.Parallel()
	x := startLDAP(t)
	r := startStill(t, guarded(peopleRules, "local"), x.knownThere(""))

	for range 20 {
		r.want(200, "GET", "/v2/", nil, there("ann"))
	}
	for range 20 { // a machine with an old password
		r.want(401, "GET", "/v2/", nil, basic("ann", "old"))
	}
	if got := x.asked(); len(got) != 2 {
		t.Errorf("the directory was asked %d times, want once for each password: %q", len(got), got)
	}
	// The file is the same as before for all that it says, and so are tokens and what is remembered.
	docker := r.bearer(there("ann"), "repository:dev/app:pull")
	r.edit(loginFile, x.config("")+"# a remark\n")
	r.want(200, "GET", "/v2/", nil, docker)
	r.want(200, "GET", "/v2/", nil, there("ann"))
	if got := x.asked(); got != nil {
		t.Errorf("asked again after an edit that changes nothing: %q", got)
	}
	x.mu.Lock()
	x.entries["uid=ann"+peopleDN]["userPassword"] = []string{"new"}
	x.mu.Unlock()
	r.pass(rememberRight - time.Second)
	r.want(200, "GET", "/v2/", nil, there("ann"))
	r.want(401, "GET", "/v2/", nil, basic("ann", "old"))
	if got := x.asked(); got != nil {
		t.Errorf("asked again too soon: %q", got)
	}
	r.pass(2 * time.Second)
	r.want(401, "GET", "/v2/", nil, there("ann")) // disabled there, a few minutes later here
	r.want(401, "GET", "/v2/", nil, basic("ann", "old"))
	if got := x.asked(); len(got) != 1 {
		t.Errorf("asked %q, want once: what was wrong is remembered longer", got)
	}
	// Guesses are slowed as elsewhere, in whatever letters the name is written.
	clear(r.server.gate.logins.attempts.failed)
	r.server.gate.logins.attempts.patience = 0
	for i := range freeByUser {
		r.want(401, "GET", "/v2/", nil, basic([]string{"bob", "Bob", "BOB"}[i%3], fmt.Sprint("guess ", i)))
	}
	r.want(429, "GET", "/v2/", nil, basic("boB", "guess"))
}

func TestDirectoryThatIsDown(t *testing.T) {
	t.Parallel()
	x := startLDAP(t)
	r := startStill(t, guarded(peopleRules, "kim"), x.knownThere(""))
	robot := r.newRobot("ci", "**", "push")
	r.want(200, "GET", "/v2/", nil, there("ann"))
	x.stop()

	r.want(200, "GET", "/v2/", nil, as("kim"))
	r.want(200, "GET", "/v2/", nil, basic("x", robot))
	r.want(200, "GET", "/v2/", nil, there("ann")) // who was here a moment ago
	for range 20 {
		re := r.want(503, "GET", "/v2/token", nil, there("bob")).code("UNAVAILABLE")
		if re.header.Get("Retry-After") == "" || !strings.Contains(string(re.body), "use a token") {
			t.Errorf("the answer: %v %s", re.header, re.body)
		}
	}
	r.pass(askEvery + time.Second)
	r.want(503, "GET", "/v2/token", nil, there("bob"))
	if n := strings.Count(r.log.String(), "the directory cannot be asked"); n != 1 {
		t.Errorf("%d lines about the directory, want 1:\n%s", n, r.log.String())
	}
	x.listen(x.address)
	r.want(503, "GET", "/v2/token", nil, there("bob")) // it is left alone for a while
	r.pass(askEvery + time.Second)
	r.want(200, "GET", "/v2/token", nil, there("bob"))
	if !strings.Contains(r.log.String(), "the directory answers again") {
		t.Errorf("the log:\n%s", r.log.String())
	}
	x.open.Wait() // for nothing stays open
}

// What the directory answers about one person, odd as it may be, keeps out nobody else; and an answer of
// any length takes no memory.
func TestDirectoryThatAnswersOddly(t *testing.T) {
	t.Parallel()
	x := startLDAP(t)
	r := startStill(t, guarded(peopleRules, "local"), x.knownThere(""))
	set := func(fn func()) { x.mu.Lock(); defer x.mu.Unlock(); fn() }
	bob := "uid=bob" + peopleDN
	for _, code := range []int64{ldap.LDAPResultOther, ldap.LDAPResultOperationsError, ldap.LDAPResultAuthorizationDenied, 4711} {
		set(func() { x.odd = map[string]int64{bob: code} })
		r.want(503, "GET", "/v2/token", nil, there("bob"))
		r.pass(rememberRight + time.Second) // so that it is asked for the next
		r.want(200, "GET", "/v2/token", nil, there("ann"))
	}
	many := make([]string, 3*maxLDAPAnswer>>17)
	for i := range many {
		many[i] = "cn=" + strings.Repeat("x", 128<<10) + fmt.Sprint(i)
	}
	set(func() { x.odd = nil; x.entries[bob]["memberOf"] = many })
	r.want(503, "GET", "/v2/token", nil, there("bob"))
	r.pass(rememberRight + time.Second)
	r.want(200, "GET", "/v2/token", nil, there("ann"))
	set(func() { x.entries[bob]["memberOf"] = many[:6] }) // each answer may be as long as that
	r.want(200, "GET", "/v2/token", nil, there("bob"))
	if strings.Contains(r.log.String(), "the directory cannot be asked") || !strings.Contains(r.log.String(), "the answer of the directory is too long") {
		t.Errorf("the log:\n%s", r.log.String())
	}
	// An answer of many messages is one, too.
	r.edit(loginFile, x.config("group-base = \"ou=groups,dc=example,dc=org\"\ngroup-filter = \"(member={dn})\"\n"))
	set(func() {
		for i := range 12 {
			x.entries[fmt.Sprintf("cn=%s%d,ou=groups,dc=example,dc=org", strings.Repeat("x", 128<<10), i)] = map[string][]string{"member": {bob}}
		}
	})
	r.want(503, "GET", "/v2/token", nil, there("bob"))
	r.want(200, "GET", "/v2/token", nil, there("ann"))
	if n := strings.Count(r.log.String(), "the answer of the directory is too long"); n != 2 || strings.Contains(r.log.String(), "the directory cannot be asked") {
		t.Errorf("the log says %d times that an answer is too long:\n%s", n, r.log.String())
	}
	// One that is busy, or does not take the account that searches, is left alone.
	for dn, code := range map[string]int64{bob: ldap.LDAPResultBusy, "cn=berth,dc=example,dc=org": ldap.LDAPResultInvalidCredentials} {
		r.pass(rememberRight + time.Second)
		set(func() { x.odd = map[string]int64{dn: code} })
		r.want(503, "GET", "/v2/token", nil, there("bob"))
		set(func() { x.odd, x.binds = nil, nil })
		r.want(503, "GET", "/v2/token", nil, there("ann"))
		if got := x.asked(); got != nil {
			t.Errorf("asked %q", got)
		}
	}
}

func TestDirectoryOverTLS(t *testing.T) {
	t.Parallel()
	x := startLDAP(t)
	secure := func(ca string) string {
		return strings.Replace(x.config("ca-file = \""+filepath.ToSlash(ca)+"\""), "start-tls = false", "", 1)
	}
	r := startRegistry(t, guarded(peopleRules, "kim"), x.knownThere(""), func(c *config) { writeFile(t, filepath.Join(c.dir, loginFile), []byte(secure(x.ca()))) })
	r.want(200, "GET", "/v2/", nil, there("ann"))
	if x.plain != 0 {
		t.Errorf("%d passwords were sent before TLS", x.plain)
	}
	// One that nobody vouches for gets no password.
	r.edit(loginFile, secure(""))
	x.asked()
	r.want(503, "GET", "/v2/", nil, there("ann"))
	if got := x.asked(); got != nil {
		t.Errorf("a directory that nobody vouches for was asked: %q", got)
	}
}

func TestLoginFileMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                   "neither [ldap] nor [oidc]",
		"[ldap":                              "line 1:",
		"[ldap]\nurl = 3":                    "want a text",
		"[ldap]\nurll = \"x\"":               `"ldap.urll" means nothing here`,
		"[ldap]\nurl = \"http://x\"":         "url: use",
		"[ldap]\nurl = \"ldap://x\"":         "say with base",
		"[ldap]\nurl = \"ldap://x\"\nbase=3": "want a text",
		"[ldap]\nurl = \"ldap://x\"\nbase=\"ou=p\"\nfilter=\"(uid=x)\"":                                          "write {user}",
		"[ldap]\nurl = \"ldap://x\"\nbase=\"ou=p\"\nfilter=\"(uid={user}\"":                                      "is not a filter",
		"[ldap]\nurl = \"ldap://x\"\nbase=\"people\"":                                                            "is not a DN",
		"[ldap]\nurl = \"ldap://x\"\nbase=\"ou=p\"\nbind-dn=\"cn=x\"":                                            "give both",
		"[ldap]\nurl = \"ldaps://x\"\nbase=\"ou=p\"\nstart-tls=true":                                             "start-tls is for ldap://",
		"[ldap]\nurl = \"ldap://x\"\nbase=\"ou=p\"\nnested-groups=true":                                          "needs a group-filter",
		"[ldap]\nurl = \"ldap://x\"\nbase=\"ou=p\"\n[ldap.groups]\n\"a:b\"=\"cn=x\"":                             "cannot be a group's name",
		"[ldap]\nurl = \"ldap://x\"\nbase=\"ou=p\"\n[ldap.groups]\na=\"x\"":                                      "is not a DN",
		"[oidc]\nissuer = \"http://id.example.org\"\nclient-id=\"x\"":                                            "plain HTTP",
		"[oidc]\nissuer = \"https://id.example.org\"":                                                            "client-id",
		"[oidc]\nissuer = \"https://id.example.org\"\nclient-id=\"x\"\ntoken-expires=\"never\"":                  "366d at most",
		"[oidc]\nissuer = \"https://id.example.org\"\nclient-id=\"x\"\ntoken-expires=\"2000d\"":                  "366d at most",
		"[oidc]\nissuer = \"https://id.example.org\"\nclient-id=\"x\"\ndomains=[\"a b\"]":                        "is not a domain",
		"[oidc]\nissuer = \"https://id.example.org\"\nclient-id=\"x\"\n[oidc.groups]\n\"\"=\"dev\"":              "cannot be a group's name",
		"[oidc]\nissuer = \"https://id.example.org\"\nclient-id=\"x\"\n[oidc.groups]\na=\"\\u0000@example.org\"": "has a character that cannot be seen",
	} {
		_, err := parseLogin([]byte(text), "/data")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// A mistake leaves what was there, and no file that has gone opens the registry.
func TestLoginFileIsAGuard(t *testing.T) {
	t.Parallel()
	x := startLDAP(t)
	r := startRegistry(t, x.knownThere(""), func(c *config) { writeRules(c.dir, "[[retain]]\nrepositories=[\"x\"]\nnewest=1\n") })
	r.want(401, "GET", "/v2/", nil)
	r.want(200, "GET", "/v2/", nil, there("ann"))
	r.want(403, "POST", "/v2/dev/app/blobs/uploads/", nil, there("ann")) // without a rule, nothing
	if !strings.Contains(r.log.String(), "event=login") {
		t.Errorf("the log:\n%s", r.log.String())
	}
	r.edit(loginFile, "[ldap")
	r.want(401, "GET", "/v2/", nil)
	r.want(200, "GET", "/v2/", nil, there("ann"))
	if !strings.Contains(r.log.String(), "what the file said before still holds") {
		t.Errorf("the log:\n%s", r.log.String())
	}
	if err := os.Remove(filepath.Join(r.cfg.dir, loginFile)); err != nil {
		t.Fatal(err)
	}
	r.want(401, "GET", "/v2/", nil)
	r.stop()
	st, err := openStore(r.cfg.storeConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	if _, err := newServer(st, r.cfg.serverConfig); err == nil || !strings.Contains(err.Error(), "this registry had users") {
		t.Errorf("a start without the file: %v", err)
	}
}

// A secret that everybody on the machine may read is one no more.
func TestSecretsOfLoginsAreForOneAlone(t *testing.T) {
	t.Parallel()
	x := startLDAP(t)
	r := startRegistry(t, guarded(peopleRules, "kim"), x.knownThere(""))
	secret := filepath.Join(r.cfg.dir, "login-ldap.password")
	if err := os.Chmod(secret, 0o644); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o644 {
		skip(t, "this system has no modes of files")
	}
	r.want(503, "GET", "/v2/", nil, there("ann"))
	if !strings.Contains(r.log.String(), "chmod 600") {
		t.Errorf("the log:\n%s", r.log.String())
	}
}

func TestPolicyOfPeopleFromElsewhere(t *testing.T) {
	t.Parallel()
	for rule, want := range map[string]string{
		`who = ["ldap:Ann"]`:                             "small letters",
		`who = ["ldap:"]`:                                "1 to 255",
		`who = ["saml:ann"]`:                             "no colons",
		`who = ["group:ldap:a b"]`:                       "there is no group",
		`who = ["group:ldap"]`:                           "there is no group",
		"who = [\"x\"]\n[groups]\n\"ldap:it\" = [\"x\"]": "groups of that name are those of login.toml",
		"who = [\"x\"]\n[groups]\nit = [\"ldap:*\"]":     "no colons",
	} {
		_, err := parsePolicy([]byte("[[rule]]\nrepositories=[\"**\"]\nallow=[\"pull\"]\n" + rule))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", rule, err, want)
		}
	}
	dir := t.TempDir()
	writeRules(dir, peopleRules)
	for _, x := range []struct {
		args, want string
		fails      bool
	}{
		{"ldap:ann push dev/app --group developers", "yes: ldap:ann may push dev/app\n  by rule 2:", false},
		{"ldap:ann push dev/app", "no: ", true},
		{"ldap:ann pull open/app", "by rule 5: ldap:*", false},
		{"ldap:kim-of-elsewhere admin **", "by rule 1:", false},
		{"oidc:ann pull open/app", "no: ", true},
		{"oidc:ann push dev/app --group developers", "no: ", true},
	} {
		var out strings.Builder
		err := run(t.Context(), append([]string{"policy", "check", "--data", dir}, strings.Fields(x.args)...), noEnv, nil, &out, &out)
		if said := out.String(); !strings.Contains(said, x.want) || (err != nil) != x.fails {
			t.Errorf("policy check %s: %v, want %q\n%s", x.args, err, x.want, said)
		}
	}
}
