// The page on which people who log in elsewhere get tokens (auth_oidc.go).
//
// GET /login sends a browser to the provider, which sends it back to /login/callback, and from
// there it comes to /login again, now with a session: the page with its tokens. They are made
// and revoked by forms. Nothing of this needs a script, and the page may run none.
//
// Cookies count only here. No request to /v2/ is anybody's because of one, so no page of another
// site can have a browser push. The forms carry a mark of the session that another site's page
// does not know, besides what onlyOurPages refuses.

package main

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	//go:embed ui/login.html
	loginHTML string

	loginPage = sync.OnceValue(func() *template.Template { return template.Must(template.New("login").Parse(loginHTML)) })
	// loginPolicy lets the page have its style and its forms, and nothing else.
	loginPolicy = sync.OnceValue(func() string { return pagePolicy(loginHTML, "'self'") })
)

// shownLogin is what the page is filled with.
type shownLogin struct {
	Host    string // as clients call this registry
	Problem string // why there is nothing else; "" for nothing
	Again   bool   // another try may help
	Out     bool   // somebody has logged out
	Name    string // as rules have it
	Login   string // the name for docker login
	Groups  string
	Secret  string // of a new token; "" for none
	Until   string
	Mark    string // against other sites' forms
	Tokens  []shownToken
	Full    bool // there are as many as may be
}

type shownToken struct{ ID, Created, Expires, Used string }

// loginPages answer at /login.
type loginPages struct{ *server }

// A visit is a request of a browser to one of these pages.
type visit struct {
	w       *response
	r       *http.Request
	cfg     *oidcConfig
	base    string          // this registry's address
	cookie  string          // that of the session; "" for none
	session *browserSession // nil for none
}

// visiting makes a request a visit. The error says if there is nothing to visit.
func (s loginPages) visiting(w http.ResponseWriter, r *http.Request) (*visit, error) {
	login, _ := s.gate.logsIn()
	if !login.has(fromOIDC) {
		return nil, errNoSuchEndpoint.saying("this registry has no single sign-on; log in with docker login")
	}
	resp := w.(*response)
	base, err := s.gate.url(resp.origin)
	if err != nil {
		return nil, err
	}
	s.gate.warnOfPlainHTTP(resp.origin, r)
	v := &visit{w: resp, r: r, cfg: login.oidc, base: base}
	if c, err := r.Cookie(v.cookieName("session")); err == nil {
		v.cookie = c.Value
		v.session = s.gate.provider.session(c.Value, v.cfg)
	}
	if v.session != nil {
		resp.caller = &caller{view: s.gate.view(), person: person{user: v.session.who}}
	}
	return v, nil
}

func (v *visit) secure() bool { return strings.HasPrefix(v.base, "https://") }

// cookieName is that of a cookie of ours. By TLS browsers take one so named from this host
// alone, not from another of its domain.
func (v *visit) cookieName(what string) string {
	if v.secure() {
		return "__Host-berth-" + what
	}
	return "berth-" + what
}

// setCookie has the browser keep a cookie; life 0 has it forget.
func (v *visit) setCookie(what, value string, life time.Duration) {
	seconds := int(life / time.Second)
	if life == 0 {
		seconds = -1
	}
	http.SetCookie(v.w, &http.Cookie{Name: v.cookieName(what), Value: value, Path: "/", MaxAge: seconds,
		HttpOnly: true, Secure: v.secure(), SameSite: http.SameSiteLaxMode})
}

func (v *visit) callback() string { return v.base + "/login/callback" }

// redirect sends the browser elsewhere.
func (v *visit) redirect(status int, to string) error {
	h := v.w.Header()
	h.Set("Location", to)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", "0")
	v.w.WriteHeader(status)
	return nil
}

// show answers with the page.
func (v *visit) show(status int, p shownLogin) error {
	_, p.Host, _ = strings.Cut(v.base, "://")
	var b bytes.Buffer
	if err := loginPage().Execute(&b, p); err != nil {
		return err
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("Content-Security-Policy", loginPolicy())
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // with none, browsers would not say whose the forms are
	v.w.WriteHeader(status)
	v.w.Write(b.Bytes())
	return nil
}

// problem shows an error that people may see on the page. Others it returns.
func (v *visit) problem(err error) error {
	var e *protocolError
	if !errors.As(err, &e) {
		return err
	}
	if e.retryAfter > 0 {
		v.w.Header().Set("Retry-After", strconv.Itoa(int(e.retryAfter/time.Second)))
	}
	return v.show(e.status, shownLogin{Problem: sentence(e.message), Again: true})
}

// sentence is a message with a capital, as a page wants it.
func sentence(message string) string {
	return strings.ToUpper(message[:1]) + message[1:]
}

// getLogin shows somebody's tokens, or sends who has no session to the provider: GET /login.
func (s loginPages) getLogin(w http.ResponseWriter, r *http.Request) error {
	v, err := s.visiting(w, r)
	if err != nil {
		return err
	}
	if v.session != nil {
		return s.showTokens(v, "", nil)
	}
	address, f, err := s.gate.provider.begin(r.Context(), v.cfg, v.callback())
	if err != nil {
		return v.problem(err)
	}
	v.setCookie("login", s.gate.signer.seal("login", f), flowLife)
	return v.redirect(http.StatusFound, address)
}

// callbackName is what wrong logins by a provider count for, since their users are not known. It
// has a colon, and is so nobody's name.
const callbackName = "oidc:"

// getLoginCallback takes who comes back from the provider: GET /login/callback.
func (s loginPages) getLoginCallback(w http.ResponseWriter, r *http.Request) error {
	v, err := s.visiting(w, r)
	if err != nil {
		return err
	}
	var f flow
	if c, err := r.Cookie(v.cookieName("login")); err != nil || !s.gate.signer.unseal("login", c.Value, &f) {
		return v.problem(errLoginStale)
	}
	v.setCookie("login", "", 0)
	// Anybody can come with a code that is none, and each has the provider asked.
	guard, address := &s.gate.logins.attempts, v.w.origin.key()
	if err := guard.turn(r.Context().Done(), address, callbackName); err != nil {
		return v.problem(err)
	}
	found, err := s.gate.provider.finish(r.Context(), v.cfg, v.callback(), f, r.URL.Query())
	if errors.Is(err, errProviderDown) || errors.Is(err, errBusyLogins) {
		guard.undo(address, callbackName)
	}
	if err != nil {
		s.st.audit("login failed", "user", "unknown", "client", v.w.origin.client, "by", v.cfg.Issuer)
		return v.problem(err)
	}
	guard.succeeded(address, callbackName)
	s.gate.provider.end(v.cookie)
	v.setCookie("session", s.gate.provider.open(found), sessionLife)
	s.st.audit("login", "user", found.who, "groups", found.groups(v.cfg), "client", v.w.origin.client)
	return v.redirect(http.StatusSeeOther, "/login")
}

// groups are those of the session, as rules have them.
func (x *browserSession) groups(c *oidcConfig) []string {
	return (&robot{member: x.member}).person(&loginConfig{oidc: c}).groups
}

// formMark is what the forms of a session carry.
func (v *visit) formMark(s *signer) string {
	return base64.RawURLEncoding.EncodeToString(s.mac("form:" + v.cookie)[:16])
}

// showTokens shows the page of a session, and a new token once.
func (s loginPages) showTokens(v *visit, secret string, made *robot) error {
	p := shownLogin{Name: v.session.who, Login: strings.TrimPrefix(v.session.who, fromOIDC+":"), Groups: strings.Join(v.session.groups(v.cfg), ", "),
		Secret: secret, Mark: v.formMark(s.gate.signer)}
	if made != nil {
		p.Until = made.expiry()
	}
	list := s.st.robots.ownedBy(v.session.who, v.session.issuer, s.gate.now())
	p.Full = len(list) >= maxOwned
	for _, b := range list {
		t := shownToken{ID: b.id, Created: b.created.UTC().Format("2006-01-02"), Expires: b.expires.UTC().Format("2006-01-02"), Used: "never"}
		if used := b.used.Load(); used != 0 {
			t.Used = time.Unix(used, 0).UTC().Format("2006-01-02")
		}
		p.Tokens = append(p.Tokens, t)
	}
	return v.show(http.StatusOK, p)
}

// maxLoginForm bounds a form of the page, in bytes.
const maxLoginForm = 4 << 10

// posting is visiting for a form of the page. Without a session v.session is nil; with one the
// form is known to be the page's.
func (s loginPages) posting(w http.ResponseWriter, r *http.Request) (*visit, error) {
	v, err := s.visiting(w, r)
	if err != nil {
		return nil, err
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxLoginForm)
	v.w.beforeRead(time.Now().Add(formTimeout))
	err = r.ParseForm()
	v.w.afterRead(err)
	if err != nil {
		return nil, errFormInvalid.with(clientError(err))
	}
	if v.session != nil && subtle.ConstantTimeCompare([]byte(r.PostForm.Get("mark")), []byte(v.formMark(s.gate.signer))) != 1 {
		return nil, errDenied.saying("the form is not of this page; open /login again")
	}
	return v, nil
}

// errSessionEnded is the answer to a form of somebody who has no session any more. It is no redirect:
// browsers do not follow one from a form to another host, as the provider's (form-action).
var errSessionEnded = &protocolError{status: 403, code: "DENIED", message: "you are logged in no longer on this page, so nothing was done; log in again"}

// postLoginToken makes a token for who has a session: POST /login/token.
func (s loginPages) postLoginToken(w http.ResponseWriter, r *http.Request) error {
	v, err := s.posting(w, r)
	if err != nil {
		return err
	}
	if v.session == nil {
		return v.problem(errSessionEnded)
	}
	b := &robot{id: strings.ToLower(rand.Text()[:8]), owner: v.session.who, issuer: v.session.issuer, member: v.session.member, domain: v.session.domain, created: s.gate.now()}
	b.name = v.session.who + "-" + b.id // no other token can have a colon in its name
	b.expires = b.created.Add(v.cfg.life)
	if b.repositories, err = parseRepositories([]string{"**"}); err != nil {
		return err
	}
	secret := b.newSecret()
	switch err := s.st.robots.addOwned(b); {
	case errors.Is(err, errTooManyOwned), errors.Is(err, errTooManyPersonal):
		return v.show(http.StatusConflict, shownLogin{Problem: sentence(err.Error()), Again: true})
	case err != nil:
		return err
	}
	s.audit(w, "token created", "token", b.name, "owner", b.owner, "groups", v.session.groups(v.cfg), "expires", b.expiry(), "tokenID", b.id)
	return s.showTokens(v, secret, b)
}

// postLoginRevoke ends a token of who has a session: POST /login/revoke.
func (s loginPages) postLoginRevoke(w http.ResponseWriter, r *http.Request) error {
	v, err := s.posting(w, r)
	if err != nil {
		return err
	}
	if v.session == nil {
		return v.problem(errSessionEnded)
	}
	for _, b := range s.st.robots.ownedBy(v.session.who, v.session.issuer, s.gate.now()) {
		if b.id != r.PostForm.Get("id") {
			continue
		}
		if _, _, err := s.st.robots.remove(b.id); err != nil && !errors.As(err, new(absentError)) {
			return err
		}
		s.audit(w, "token revoked", "token", b.name, "tokenID", b.id)
	}
	return v.redirect(http.StatusSeeOther, "/login")
}

// postLogout ends a session: POST /login/out.
func (s loginPages) postLogout(w http.ResponseWriter, r *http.Request) error {
	v, err := s.posting(w, r)
	if err != nil {
		return err
	}
	s.gate.provider.end(v.cookie)
	v.setCookie("session", "", 0)
	return v.show(http.StatusOK, shownLogin{Out: true})
}
