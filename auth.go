// Who is asking, and may they?
//
// Each request is somebody's: a user with a password, somebody whom a directory or a
// provider of single sign-on knows (auth_login.go), a robot with its token, a client
// certificate's subject, or anonymous. A token of the Docker flow
// (auth_docker.go) stands for one of them and for less than all they may. What a
// caller may do to a repository is what the rules (auth_policy.go) allow at this
// moment. The route table says what each endpoint needs.
//
// As long as there are no users, no rules and no flags about either, the registry
// is open: everybody may do everything, as with registry:2.
//
// Whoever is refused is told no more than that: whether a repository exists
// makes no difference.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"
)

// authConfig is what the flags say about who may do what.
type authConfig struct {
	usersFile     string // "" for the one in the data directory
	policyFile    string // likewise
	anonymousPull bool
	byCertificate bool     // clients may have certificates
	publicURL     string   // as clients know this registry; "" for what they call it
	names         []string // further ones, for browsers
	proxies       proxies
	pages         pages // of other sites that may read answers
	perSecond     int   // requests of one address; 0 for no limit

	open   bool          // it may be open, though there were users
	glance time.Duration // as of watched, for users and rules
}

// The files in the data directory, where no flag names others.
const (
	usersFile  = "htpasswd"
	policyFile = "policy.toml"
)

func (a authConfig) usersPath(dir string) string {
	return cmp.Or(a.usersFile, filepath.Join(dir, usersFile))
}

func (a authConfig) policyPath(dir string) string {
	return cmp.Or(a.policyFile, filepath.Join(dir, policyFile))
}

// A gate knows who may come in.
type gate struct {
	authConfig
	certificates *certificates // nil without TLS
	st           *store
	log          *slog.Logger
	users        watched[users]
	policy       watched[*policy]
	login        watched[*loginConfig]
	directory    *directory
	provider     *provider
	standard     *policy // while there is no policy file
	logins       *logins
	failures     atomic.Int64 // of logins, for the metrics
	limiter      limiter
	signer       *signer
	now          func() time.Time
	started      bool        // the files have been read once
	guarded      atomic.Bool // the database says that there were users, or rules about them
	warned       atomic.Bool // that passwords travel in the clear
}

// readGate reads the users and the rules; dir is the data directory. What cannot be read at start is an
// error; later it leaves what was there before. It changes nothing, and needs no data directory.
func readGate(cfg authConfig, dir string, log *slog.Logger) (*gate, error) {
	g := &gate{authConfig: cfg, log: log, now: time.Now}
	g.standard, _ = g.complete(defaultPolicy(), nil)
	if err := g.readFiles(dir); err != nil {
		return nil, err
	}
	return g, nil
}

// attend has the gate let in who comes to a store.
func (g *gate) attend(st *store, certificates *certificates) (err error) {
	if err := g.reread(); err != nil { // opening the store may have taken long
		return err
	}
	g.st, g.certificates = st, certificates
	g.logins = newLogins(max(1, runtime.GOMAXPROCS(0)/2), st.uptime)
	g.limiter = limiter{perSecond: g.perSecond, now: st.uptime, of: make(map[string]*rate.Limiter)}
	g.directory, g.provider = newDirectory(g.log, st.uptime), newProvider(g.log, st.uptime)
	g.started = true
	if g.signer, err = openSigner(st); err != nil {
		return err
	}
	if err := g.remember(); err != nil {
		return err
	}
	notify(st.retainer.rulesChanged)
	st.collector.doubtOwners() // somebody may have been removed while nobody looked
	return nil
}

// readFiles reads the users and the rules for the first time; dir is the data directory. Files
// that flags name must be there.
func (g *gate) readFiles(dir string) error {
	g.users = watched[users]{files: []string{g.usersPath(dir)}, parse: g.parseUsers, changed: g.usersChanged, glance: g.glance}
	g.policy = watched[*policy]{files: []string{g.policyPath(dir)}, changed: g.policyChanged, glance: g.glance,
		parse: func(texts [][]byte) (*policy, error) { return g.complete(g.parsePolicy(texts[0])) }}
	switch err := errors.Join(g.users.problem(), g.policy.problem(), g.readLogin(dir)); {
	case err != nil:
		return err
	case g.usersFile != "" && g.users.get() == nil:
		own := filepath.Join(dir, "htpasswd")
		if there, err := isThere(own); err == nil && there {
			return fmt.Errorf("--htpasswd: there is no file %s, but the data directory has users in %s, as a backup has: leave --htpasswd out to use those", g.usersFile, own)
		}
		return fmt.Errorf("--htpasswd: there is no file %s; `berth user add NAME --htpasswd %[1]s --data %[2]s` creates it", g.usersFile, dir)
	case g.policyFile != "" && g.policy.get() == nil:
		own := filepath.Join(dir, "policy.toml")
		if there, err := isThere(own); err == nil && there {
			return fmt.Errorf("--policy: there is no file %s, but the data directory has rules in %s, as a backup has: leave --policy out to use those", g.policyFile, own)
		}
		return fmt.Errorf("--policy: there is no file %s", g.policyFile)
	}
	return nil
}

// everybodyMay reports whether the registry is open.
func (g *gate) everybodyMay() bool { return g.view() == nil }

func (g *gate) rulesNow() (*tagRules, error) { return g.tagRules(), nil }

// guards are the texts of the files that hold, which need not be what is there now.
func (g *gate) guards() (map[string][]byte, error) {
	list, err := g.users.text()
	rules, e1 := g.policy.text()
	logins, e2 := g.login.text()
	return map[string][]byte{usersFile: list, policyFile: rules, loginFile: logins}, errors.Join(err, e1, e2)
}

// remember refuses a start by which a registry that had users, or rules about people,
// would be open because their files have gone; and has the database say that there
// are some. A flag takes that back.
func (g *gate) remember() error {
	var guarded bool
	if err := g.st.get(`SELECT guarded FROM meta`, nil, &guarded); err != nil {
		return err
	}
	g.guarded.Store(guarded)
	switch v := g.view(); {
	case v == nil && guarded && !g.open:
		return fmt.Errorf("this registry had users, or rules for them, and their files are missing: there is neither %s nor a [[rule]] in %s. "+
			"Is a disk not mounted? Put the files back, or begin again with `berth user add NAME`. "+
			"To let everybody do everything from now on, start once with --open", g.users.files[0], g.policy.files[0])
	case v == nil && guarded:
		return g.setGuarded(false)
	}
	return g.noteGuarded()
}

// noteGuarded has the database say that the registry is not open, once it has users or
// rules about people.
func (g *gate) noteGuarded() error {
	if g.guarded.Load() || !g.hasPeople() {
		return nil
	}
	return g.setGuarded(true)
}

// hasPeople reports whether the files had users, or rules about people, the last time.
func (g *gate) hasPeople() bool {
	list, rules := g.users.last.Load(), g.policy.last.Load()
	return list.value != nil || rules.value != nil && (*rules.value).people || g.login.last.Load().value != nil
}

func (g *gate) setGuarded(guarded bool) error {
	if g.st.writer == nil {
		return nil
	}
	err := g.st.update(func(t *tx) error {
		_, err := t.exec(`UPDATE meta SET guarded = ?`, guarded)
		return err
	})
	if err != nil {
		return fmt.Errorf("noting that there are users: %w", err)
	}
	g.guarded.Store(guarded)
	return nil
}

// announce tells at start who may do what.
func (g *gate) announce() {
	v := g.view()
	if v == nil {
		if lines := g.tagRules().lines(); lines != nil {
			g.log.Info("rules for tags", "rules", strings.Join(lines, "; "))
		}
		return
	}
	g.log.Info("who may do what", "users", len(v.users), "rules", strings.Join(v.policy.lines(), "; "))
	if !v.policy.hasAdministrator() {
		g.log.Warn(errNoAdministrator.Error(), "file", g.policy.files[0])
	}
	if v.policy.hasAdministrator() && len(v.users) > 0 && !g.byCertificate && !v.administered() {
		g.log.Warn("none of the users is an administrator: those whom the rules name are not in the users' file; add one with `berth user add`, or name a user in the group whose rule allows admin",
			"users", g.users.files[0], "rules", g.policy.files[0])
	}
	if g.open && g.hasPeople() && g.usersFile == "" { // with --htpasswd there is no start without the file
		g.log.Warn("--open (or BERTH_OPEN) is still set: if the files with users and rules are missing at a start, for example because a disk is not mounted, everybody may do everything; remove it",
			"users", g.users.files[0], "rules", g.policy.files[0])
	}
	g.warnOfUnruled(v)
	if len(v.users) == 0 && !g.byCertificate && v.login == nil && len(g.st.robots.list()) == 0 {
		g.log.Warn("there are no users, so nobody can log in; `berth user add NAME` makes one")
	}
}

// administered reports whether one of the users may do everything, or people whom others know may.
func (v *view) administered() bool {
	for _, r := range v.policy.rules {
		theirs := func(name string) bool { return strings.Contains(name, ":") || v.users[name] != "" }
		if r.allow == allRights && (r.anonymous || r.users || len(r.whole) > 0 || slices.ContainsFunc(slices.Collect(maps.Keys(r.names)), theirs)) {
			return true
		}
	}
	return false
}

// accounts returns how many users and tokens there are.
func (g *gate) accounts() (users, tokens int) {
	if v := g.view(); v != nil {
		users = len(v.users)
	}
	return users, len(g.st.robots.list())
}

// openTo says in words, for the greeting, what may be done without a password.
func (g *gate) openTo() string {
	v := g.view()
	pullsOnly := g.st.readOnly || g.st.writer == nil
	switch {
	case v == nil && pullsOnly:
		return "open to everybody who reaches it: no password is needed to pull"
	case v == nil && g.st.noDelete:
		return "open to everybody who reaches it: no password is needed to push or pull"
	case v == nil:
		return "open to everybody who reaches it: no password is needed to push, pull or delete"
	case v.policy.explain(person{}, mayPush, "") != nil && !pullsOnly:
		return "WITHOUT A PASSWORD EVERYBODY MAY PUSH"
	case v.policy.mayAnywhere(person{}, mayPush) && !pullsOnly:
		return "WITHOUT A PASSWORD EVERYBODY MAY PUSH to some repositories"
	case v.policy.explain(person{}, mayPull, "") != nil:
		return "without a password everybody may pull"
	case v.policy.mayAnywhere(person{}, mayPull):
		return "without a password everybody may pull from some repositories"
	}
	return "a password is needed for everything"
}

// linesToLogin are the lines to type before a first push, or pull. Where nobody can log in,
// they make a user.
func (g *gate) linesToLogin(registry, usersFile string, pull bool) []string {
	v := g.view()
	if v == nil || pull && v.policy.mayAnywhere(person{}, mayPull) {
		return nil
	}
	var lines []string
	name := ""
	switch {
	case len(v.users) == 1:
		for only := range v.users {
			name = only
		}
	case len(v.users) > 0 || len(g.st.robots.list()) > 0 || v.login.has(fromLDAP):
	case v.login.has(fromOIDC):
		return []string{"docker login " + registry + "  # with a token of the page /login"}
	case g.byCertificate:
		return nil // which a client shows by itself
	default:
		name = "NAME"
		lines = append(lines, "berth user add NAME --htpasswd "+usersFile)
	}
	if name != "" {
		name = " -u " + name
	}
	return append(lines, "docker login"+name+" "+registry)
}

// parsePolicy reads the rules. A file from which those about people have gone
// must not let users do everything before a restart.
func (g *gate) parsePolicy(text []byte) (*policy, error) {
	p, err := parsePolicy(text)
	if seen := g.policy.last.Load(); err == nil && !p.people && seen != nil && seen.value != nil && (*seen.value).people {
		return nil, errors.New("it no longer has a [[rule]]; to let users do everything, restart, or add a rule that allows it")
	}
	return p, err
}

// tagRules are those that hold at this moment.
func (g *gate) tagRules() *tagRules {
	if p := g.policy.get(); p != nil {
		return (*p).tags
	}
	return g.standard.tags
}

// complete adds to the rules what flags say.
func (g *gate) complete(p *policy, err error) (*policy, error) {
	if err == nil && g.anonymousPull {
		p = p.withAnonymousPull()
	}
	return p, err
}

func (g *gate) parseUsers(texts [][]byte) (users, error) {
	list, bad := parseUsers(texts[0])
	if len(bad) > 0 {
		g.log.Warn("lines of the users' file are not NAME:BCRYPT-HASH, and nobody can log in with them; `berth user add NAME` or `htpasswd -B -C 10` makes others",
			"file", g.users.files[0], "lines", bad)
	}
	var cheap []string
	for name, hash := range list {
		if cost, _ := bcrypt.Cost([]byte(hash)); cost > maxCost {
			g.log.Warn("a password hash is so expensive to check that logins keep others waiting; `berth user passwd` makes a cheaper one", "user", name, "cost", cost)
		} else if cost < minCost {
			cheap = append(cheap, name)
		}
	}
	if cheap != nil {
		slices.Sort(cheap)
		g.log.Warn("password hashes are weak: whoever gets hold of them can guess the passwords; `berth user passwd NAME` or `htpasswd -B -C 10` makes stronger ones (without -C, its cost is 5)", "users", cheap, "cost below", minCost)
	}
	return list, nil
}

// usersChanged tells of an edit. What is wrong at the start readGate returns.
func (g *gate) usersChanged(old, new *users, err error) {
	if !g.started {
		return
	}
	if err != nil {
		g.log.Error("the users' file cannot be read; the users that it had before can still log in", "file", g.users.files[0], "error", err)
		return
	}
	was := users{}
	if old != nil {
		was = *old
	}
	var added, removed, changed []string
	for _, name := range slices.Sorted(maps.Keys(*new)) {
		if hash, ok := was[name]; !ok {
			added = append(added, name)
		} else if hash != (*new)[name] {
			changed = append(changed, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if _, ok := (*new)[name]; !ok {
			removed = append(removed, name)
		}
	}
	g.st.collector.doubtOwners()
	g.st.audit("users changed", "added", added, "removed", removed, "changed", changed)
}

// policyChanged tells of an edit. What is wrong at the start readGate returns.
func (g *gate) policyChanged(old, new **policy, err error) {
	switch {
	case !g.started:
		return
	case err != nil:
		g.log.Error("the rules cannot be read; the ones before still hold", "file", g.policy.files[0], "error", err)
	default:
		g.st.collector.forgetOwners()
		g.st.audit("rules changed", "file", g.policy.files[0], "rules", strings.Join((*new).lines(), "; "))
		if p := *new; p.people && !p.hasAdministrator() {
			g.log.Warn(errNoAdministrator.Error(), "file", g.policy.files[0])
		}
	}
	notify(g.st.retainer.rulesChanged)
}

// reread looks at both files now, instead of at the next request.
func (g *gate) reread() error {
	return errors.Join(g.users.problem(), g.policy.problem(), g.login.problem())
}

// mayUpload reports whether there is still somebody with an id, as of caller.id. Of a
// user who is not in the file it is sure only when nobody has touched that for a while:
// others than `berth user` empty it first, and then write it.
func (g *gate) mayUpload(id string) (may, sure bool) {
	kind, name, _ := strings.Cut(id, ":")
	switch kind {
	case "user":
		list := g.users.get()
		return list != nil && (*list)[name] != "", g.st.collector.untilSure() == 0
	case "token":
		return g.st.robots.find(name, g.now()) != nil, true
	case "certificate":
		return g.byCertificate, true
	case fromLDAP:
		login, closed := g.logsIn()
		return login.has(fromLDAP) || login == nil && closed, true
	}
	return true, true
}

// A view is what holds for one request.
type view struct {
	policy *policy
	users  users
	login  *loginConfig // nil for none
}

// view returns the users and the rules of this moment, nil if the registry is
// open to everybody. It is not, once there are users or rules about people or were; a file
// that is there and cannot be read counts as one. One that had none and is gone does not.
func (g *gate) view() *view {
	list, rules := g.users.get(), g.policy.get()
	login, closed := g.logsIn()
	broken := g.policy.last.Load().err
	if list == nil && (rules == nil || !(*rules).people) && !g.anonymousPull && !g.byCertificate && !closed &&
		g.users.last.Load().err == nil && (broken == nil || errors.Is(broken, fs.ErrNotExist)) {
		return nil
	}
	v := &view{policy: g.standard, login: login}
	if rules != nil {
		v.policy = *rules
	}
	if list != nil {
		v.users = *list
	}
	return v
}

// identify finds out who makes a request. The error is errUnauthorized if what it
// brings is not good; then it is not anonymous's either.
func (s *server) identify(w *response, r *http.Request) (*caller, error) {
	v := s.gate.view()
	if v == nil {
		return anyone, nil
	}
	sent := r.Header["Authorization"]
	if len(sent) == 0 {
		return s.nameless(r, v), nil
	}
	if len(sent) > 1 {
		return nil, errUnauthorized.with("more than one Authorization header")
	}
	user, password, basic := r.BasicAuth()
	if basic && user == "" && password == "" {
		return s.nameless(r, v), nil // podman and skopeo without credentials, asked for Basic
	}
	s.gate.warnOfPlainHTTP(w.origin, r)
	if token, ok := cutScheme(sent[0], "Bearer"); ok {
		if b := s.st.robots.findBySecret(token, s.gate.now()); b != nil {
			return s.robotCaller(v, b)
		}
		if robotForm().MatchString(token) {
			return nil, s.failLogin(w, v, "", token)
		}
		return s.tokenCaller(r, v, token)
	}
	if !basic {
		return nil, errUnauthorized.with("the Authorization header is neither Basic nor Bearer")
	}
	return s.logIn(w, r, v, user, password)
}

// nameless is who makes a request without credentials: the subject of the client
// certificate, else anonymous.
func (s *server) nameless(r *http.Request, v *view) *caller {
	if name, ok := s.gate.clientName(r); ok {
		return &caller{view: v, person: person{user: name}, certificate: true}
	}
	return &caller{view: v}
}

// cutScheme returns what follows an authentication scheme, whose case does not
// matter.
func cutScheme(header, scheme string) (rest string, ok bool) {
	first, rest, _ := strings.Cut(header, " ")
	return strings.TrimSpace(rest), strings.EqualFold(first, scheme)
}

// robotCaller is whom a token stands for.
func (s *server) robotCaller(v *view, b *robot) (*caller, error) {
	c := &caller{view: v}
	if !b.stands(c) {
		return nil, errUnauthorized.saying("the token's owner can no longer log in to this registry")
	}
	s.st.robots.noteUse(b, s.gate.now())
	return c, nil
}

// tokenCaller is whom a token of the Docker flow stands for, if it is still the
// same.
func (s *server) tokenCaller(r *http.Request, v *view, text string) (*caller, error) {
	t, err := s.gate.signer.verify(text)
	if err != nil {
		return nil, errUnauthorized.saying("authentication required: the token is %s", err)
	}
	c := &caller{view: v, scoped: true, access: t.Access}
	kind, name, _ := strings.Cut(t.Subject, ":")
	known := false
	switch kind {
	case "":
		known = true
	case "user":
		c.user = name
		known = s.gate.signer.marks(t, c.secret())
	case "token":
		if b := s.st.robots.find(name, s.gate.now()); b != nil && b.stands(c) {
			s.st.robots.noteUse(b, s.gate.now())
			known = true
		}
	case fromLDAP:
		c.user, c.groups = t.Subject, t.Groups
		known = s.gate.signer.marks(t, c.secret())
	case "certificate":
		c.user, c.certificate = name, true
		shown, ok := s.gate.clientName(r)
		known = ok && shown == name
	}
	if !known {
		return nil, errUnauthorized.saying("the user of the token may no longer log in")
	}
	return c, nil
}

// logIn is whose password this is. A robot's goes with any user name.
func (s *server) logIn(w *response, r *http.Request, v *view, user, password string) (*caller, error) {
	g := s.gate
	if b := s.st.robots.findBySecret(password, g.now()); b != nil {
		return s.robotCaller(v, b)
	}
	c := &caller{view: v, person: person{user: user}}
	_, local := v.users[user]
	var right bool
	var err error
	if local || !v.login.has(fromLDAP) { // whom this registry knows itself, nobody else is asked about
		right, err = g.logins.verify(r.Context().Done(), w.origin.key(), v.users, user, password)
	} else {
		right, err = g.logInThere(w, r, c, user, password)
	}
	if err != nil {
		return nil, err
	}
	if !right {
		return nil, s.failLogin(w, v, user, password)
	}
	return c, nil
}

// failLogin logs that a password, or a robot token, was not good, and returns the error for that. A
// token that has expired proves whose it was. Of one that was revoked only the id tells, which the
// log has from when it was made, and the name that came with it. What else is no user's name may be
// a password in the wrong place, and is not logged.
func (s *server) failLogin(w *response, v *view, user, password string) error {
	s.gate.failures.Add(1)
	who, known := "unknown", v.users[user] != ""
	if known {
		who = user
	}
	var more []any
	if b := s.st.robots.findExpired(password, s.gate.now()); b != nil {
		who, more = "token:"+b.name, []any{"reason", "expired"}
	} else if m := robotForm().FindStringSubmatch(password); m != nil {
		more = []any{"tokenID", m[1]}
		if !known && checkNewName(user) == nil && !strings.Contains(user, "berth_") {
			more = append(more, "claimed", user)
		}
	}
	s.st.audit("login failed", slices.Concat([]any{"user", who}, more, []any{"client", w.origin.client})...)
	return errUnauthorized.saying("wrong user or password")
}

// logInThere makes c the person whose name and password the directory knows.
func (g *gate) logInThere(w *response, r *http.Request, c *caller, user, password string) (right bool, err error) {
	if password == "" {
		return false, nil
	}
	who, right, fresh, err := g.logins.verifyThere(r.Context().Done(), w.origin.key(), g.directory, c.view.login.ldap, user, password)
	if c.person = who; err == nil && right && fresh {
		g.st.audit("login", "user", who.user, "groups", who.groups, "client", w.origin.client)
	}
	return right, err
}

// clientName is the subject of the client certificate, verified by TLS.
func (g *gate) clientName(r *http.Request) (name string, ok bool) {
	return g.certificates.clientName(r.TLS)
}

// warnOfPlainHTTP says once that passwords can be read on their way.
func (g *gate) warnOfPlainHTTP(o origin, r *http.Request) {
	if o.secure || g.warned.Load() {
		return
	}
	if !o.proxied && r.Header.Get("X-Forwarded-Proto") != "" {
		return // perhaps a proxy does TLS; observe has said that it is not trusted
	}
	if !o.address.IsLoopback() && g.warned.CompareAndSwap(false, true) {
		g.log.Warn("passwords arrive over plain HTTP, where others can read them; start with --tls=auto, or name the proxy that does TLS with --trusted-proxies",
			"client", o.address)
	}
}

// admit decides whether a request may do what its route needs. It finds out who
// makes it.
func (s *server) admit(w *response, r *http.Request, need access) error {
	if need == openToAll {
		return nil
	}
	if s.local {
		return s.admitLocal(w, r, need)
	}
	if wait, back := s.gate.limiter.take(w.origin, patience); wait > 0 {
		if back == nil {
			return errTooFast.later(wait)
		}
		if !s.waiting.sleep(r.Context().Done(), w.origin.key(), wait) {
			back()
			return errTooFast.later(wait)
		}
	}
	if need == login {
		return nil // the handler does it
	}
	c, err := s.identify(w, r)
	if err != nil && !errors.Is(err, errUnauthorized) {
		return err
	}
	if c != nil {
		w.caller = c
		if c.known() {
			w.Header().Set("Cache-Control", "private") // what one is shown is not for others
		}
	}
	name := ""
	if needed[need].named {
		var e error
		if name, e = parseName(r.PathValue("name")); e != nil {
			return e
		}
	}
	if err == nil {
		err = s.allow(c, need, name)
	}
	if err == nil && c.id() == "" && (c.view == nil || !isSafe(r.Method)) && fromBrowser(r.Header) {
		err = s.gate.calledByName(r, w.origin) // nothing else keeps a stranger's page out
	}
	if err == nil {
		return nil
	}
	var e *protocolError // which errors.As puts on the heap
	if errors.As(err, &e) && e.Is(errUnauthorized) {
		return s.challenge(w, e, need, name, c)
	}
	return err
}

// needed says what each access of the route table is.
var needed = [...]struct {
	rights rights
	named  bool   // of a repository
	scope  string // what a client asks a token for
	word   string
}{
	enter:   {},
	catalog: {},
	pull:    {mayPull, true, "pull", "pull from"},
	push:    {mayPush, true, "pull,push", "push to"},
	remove:  {mayDelete, true, "delete", "delete in"},
	review:  {mayDelete, true, "delete", "look after"},
	observe: {rights: mayMetrics, word: "read the metrics of"},
}

// allow checks what a caller may.
func (s *server) allow(c *caller, need access, name string) error {
	n := needed[need]
	switch need {
	case enter:
		if c.view != nil && c.id() == "" && !c.scoped {
			return errUnauthorized
		}
	case catalog:
		if c.view != nil && (!c.mayList() || c.scoped && !grantedCatalog(c.access) && !c.view.policy.mayAnywhere(person{}, mayPull)) {
			if c.id() == "" || c.scoped && c.mayList() {
				return errUnauthorized
			}
			return errDenied
		}
	default:
		if c.may(name)&n.rights == n.rights {
			break
		}
		// Who says who he is, or asks for more, may be able to.
		if c.id() == "" || c.scoped && c.own(name)&n.rights == n.rights {
			return errUnauthorized
		}
		return errDenied.saying("%s may not %s %s", c.label(), n.word, cmp.Or(name, "this registry"))
	}
	switch {
	case s.st.readOnly && (need == push || need == remove):
		return errUnsupported.saying("this registry is read-only").withHeader("Allow", "GET, HEAD")
	case s.st.noDelete && need == remove:
		return errUnsupported.saying("this registry does not delete").withHeader("Allow", "GET, HEAD")
	}
	return nil
}

// challenge adds to an error how to log in: by a token for what was asked. Who
// names no host, as load balancers that speak HTTP/1.0, cannot be told where
// tokens are to be had, unless a flag says it.
func (s *server) challenge(w *response, e *protocolError, need access, name string, c *caller) error {
	if need == observe {
		return challengeBasic(e)
	}
	if s.gate.publicURL == "" {
		s.schemeless.noteSchemeless(w.origin, s.log)
	}
	base, err := s.gate.url(w.origin)
	if err != nil && w.origin.host == "" {
		return challengeBasic(e)
	}
	if err != nil {
		return err
	}
	value := fmt.Sprintf(`Bearer realm="%s/v2/token",service="%s"`, base, s.gate.signer.audience)
	switch {
	case need == catalog:
		value += `,scope="registry:catalog:*"`
	case needed[need].named:
		value += fmt.Sprintf(`,scope="repository:%s:%s"`, name, needed[need].scope)
	}
	if c == nil {
		value += `,error="invalid_token"`
	} else if c.scoped {
		value += `,error="insufficient_scope"`
	}
	return e.withHeader("WWW-Authenticate", value)
}

// challengeBasic adds to an error that a user and a password are wanted.
func challengeBasic(e *protocolError) error {
	return e.withHeader("WWW-Authenticate", `Basic realm="Berth", charset="UTF-8"`)
}

// url is this registry's address as the client knows it.
func (g *gate) url(o origin) (string, error) {
	if g.publicURL != "" {
		return g.publicURL, nil
	}
	return o.url()
}

// called is what a flag says that clients call this registry, or a proxy that is
// trusted: HOST or HOST:PORT; "" if nobody but the client of the request says it.
func (g *gate) called(r *http.Request) string {
	if host := g.named().host; host != "" {
		return host
	}
	if o := g.proxies.origin(r); o.host != r.Host {
		return o.host
	}
	return ""
}
