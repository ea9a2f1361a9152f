// Who may do what: the whole matrix of routes and credentials, and the ways in
// which it has gone wrong elsewhere.

package main

import (
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// guarded gives a registry users, whose passwords are their names and "-secret",
// and rules, unless they are "".
func guarded(rules string, names ...string) func(*config) {
	return func(c *config) {
		var lines strings.Builder
		for _, name := range names {
			fmt.Fprintf(&lines, "%s:%s\n", name, hashOf(name+"-secret"))
		}
		if err := os.WriteFile(filepath.Join(c.dir, "htpasswd"), []byte(lines.String()), 0o600); err != nil {
			panic(err)
		}
		if rules != "" {
			writeRules(c.dir, rules)
		}
	}
}

func writeRules(dir, rules string) {
	if err := os.WriteFile(filepath.Join(dir, "policy.toml"), []byte(rules), 0o600); err != nil {
		panic(err)
	}
}

// hashOf is the cheapest bcrypt hash.
func hashOf(password string) string {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		panic(err)
	}
	return string(hash)
}

// as is the header of a user with the right password.
func as(user string) string { return basic(user, user+"-secret") }

func basic(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// bearer gets a token of the Docker flow and returns its header. by is the header
// it is got with, "" for none.
func (r *registry) bearer(by string, scopes ...string) string {
	r.t.Helper()
	var headers []string
	if by != "" {
		headers = append(headers, by)
	}
	re := r.want(200, "GET", "/v2/token?"+url.Values{"scope": scopes}.Encode(), nil, headers...)
	var answer struct{ Token string }
	if err := json.Unmarshal(re.body, &answer); err != nil || answer.Token == "" {
		r.t.Fatalf("no token: %s", re.body)
	}
	return "Authorization: Bearer " + answer.Token
}

// newRobot makes a robot token and returns its secret.
func (r *registry) newRobot(name, repo, allow string) string {
	r.t.Helper()
	var out strings.Builder
	o := options{Command: "token", Args: []string{"create", name}, Repo: repo, Allow: allow, Expires: "90d"}
	if err := tokenCommand(r.t.Context(), r.st, o, newConsole(&out, false)); err != nil {
		r.t.Fatal(err)
	}
	secret, _, _ := strings.Cut(out.String(), "\n")
	return secret
}

func (r *registry) revokeRobot(name string) {
	r.t.Helper()
	err := tokenCommand(r.t.Context(), r.st, options{Args: []string{"revoke", name}}, newConsole(new(strings.Builder), false))
	if err != nil {
		r.t.Fatal(err)
	}
}

// pushAs pushes an image of no layers as somebody.
func (r *registry) pushAs(by, repo, tag, config string) image {
	r.t.Helper()
	im := ociImage(config)
	r.want(201, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+im.config.String(), config, by)
	r.want(201, "PUT", "/v2/"+repo+"/manifests/"+tag, im.manifest, "Content-Type: "+typeOCIManifest, by)
	return im
}

const matrixRules = `
[groups]
admins = ["admin", "removed"]
[[rule]]
who = ["group:admins"]
repositories = ["**"]
allow = ["admin"]
[[rule]]
who = ["reader", "creator", "pusher", "deleter"]
repositories = ["ci/**"]
allow = ["pull"]
[[rule]]
who = ["creator"]
repositories = ["ci/**"]
allow = ["push"]
[[rule]]
who = ["pusher"]
repositories = ["ci/**"]
allow = ["overwrite"]
[[rule]]
who = ["deleter"]
repositories = ["ci/**"]
allow = ["delete"]
`

// A credential of the matrix.
type credential struct {
	name    string
	header  string
	may     rights
	status  int  // when refused
	partial bool // a token of the Docker flow: enters, and is told to ask for more

	elsewhere bool // it may pull, but not here
}

// A cell of the matrix is a request that a route serves.
type matrixRow struct {
	route   string // as in the route table
	need    rights // 0 for who is known at all
	status  int    // when allowed
	request func(m *matrix) (method, path string, body any, headers []string)
}

type matrix struct {
	*registry
	old, new image
	blob     string // its content is in the repository, and nothing uses it
	session  func(by string) string
}

const toAnybody rights = 1 << 7 // what a row needs that anybody may

// rows has a row for each route and method, or several.
func (m *matrix) rows() []matrixRow {
	const repo = "/v2/ci/app"
	get := func(path string) func(*matrix) (string, string, any, []string) {
		return func(*matrix) (string, string, any, []string) { return "GET", path, nil, nil }
	}
	put := func(tag string, im *image) func(*matrix) (string, string, any, []string) {
		return func(*matrix) (string, string, any, []string) {
			return "PUT", repo + "/manifests/" + tag, im.manifest, []string{"Content-Type: " + typeOCIManifest}
		}
	}
	at := func(method, query string, body any) func(*matrix) (string, string, any, []string) {
		return func(m *matrix) (string, string, any, []string) { return method, with(m.session(""), query), body, nil }
	}
	return []matrixRow{
		{"GET /v2/{$}", 0, 200, get("/v2/")},
		{"GET /v2", 0, 200, get("/v2")},
		{"GET /v2/{name}/blobs/{digest}", mayPull, 200, get(repo + "/blobs/" + m.old.config.String())},
		{"GET /v2/{name}/manifests/{reference}", mayPull, 200, get(repo + "/manifests/old")},
		{"GET /v2/{name}/tags/list", mayPull, 200, get(repo + "/tags/list")},
		{"GET /v2/{name}/referrers/{digest}", mayPull, 200, get(repo + "/referrers/" + m.old.digest.String())},
		{"GET /v2/_catalog", mayPull, 200, get("/v2/_catalog")},
		{"POST /v2/{name}/blobs/uploads/{$}", mayPush, 202, func(*matrix) (string, string, any, []string) {
			return "POST", repo + "/blobs/uploads/", nil, nil
		}},
		{"GET /v2/{name}/blobs/uploads/{session}", mayPush, 204, at("GET", "", nil)},
		{"PATCH /v2/{name}/blobs/uploads/{session}", mayPush, 202, at("PATCH", "", "bytes")},
		{"PUT /v2/{name}/blobs/uploads/{session}", mayPush, 201, at("PUT", "digest="+sum("whole").String(), "whole")},
		{"DELETE /v2/{name}/blobs/uploads/{session}", mayPush, 204, at("DELETE", "", nil)},
		{"PUT /v2/{name}/manifests/{reference}", mayPush, 201, put("fresh", &m.new)},
		{"PUT /v2/{name}/manifests/{reference}", mayPush, 201, put("old", &m.old)}, // as it is
		{"PUT /v2/{name}/manifests/{reference}", mayOverwrite, 201, put("old", &m.new)},
		{"PUT /v2/{name}/manifests/{reference}", mayOverwrite, 201, put(m.new.digest.String()+"?tag=fresh&tag=old", &m.new)},
		{"DELETE /v2/{name}/manifests/{reference}", mayDelete, 202, func(*matrix) (string, string, any, []string) {
			return "DELETE", repo + "/manifests/old", nil, nil
		}},
		{"DELETE /v2/{name}/manifests/{reference}", mayDelete, 202, func(*matrix) (string, string, any, []string) {
			return "DELETE", repo + "/manifests/" + m.old.digest.String(), nil, nil
		}},
		{"DELETE /v2/{name}/blobs/{digest}", mayDelete, 202, func(m *matrix) (string, string, any, []string) {
			return "DELETE", repo + "/blobs/" + sum(m.blob).String(), nil, nil
		}},
		{"GET /v2/{name}/_berth/retention", mayDelete, 200, get(repo + "/_berth/retention")},
		{"GET /v2/{name}/_berth/history", mayDelete, 200, get(repo + "/_berth/history")},
		{"POST /v2/{name}/_berth/undo", mayDelete, 200, func(m *matrix) (string, string, any, []string) {
			m.want(201, "PUT", repo+"/manifests/undone", m.old.manifest, "Content-Type: "+typeOCIManifest, as("admin"))
			m.want(202, "DELETE", repo+"/manifests/undone", nil, as("admin"))
			last, _, err := m.st.lastChangeOf("ci/app", reference{tag: "undone"})
			if err != nil {
				m.t.Error(err)
			}
			return "POST", fmt.Sprint(repo, "/_berth/undo?change=", last.change), nil, nil
		}},
		{"DELETE /v2/{name}/_berth/repository", mayDelete, 202, func(*matrix) (string, string, any, []string) {
			return "DELETE", repo + "/_berth/repository", nil, nil
		}},
		{"GET /metrics", mayMetrics, 200, get("/metrics")},
		{"GET /healthz", toAnybody, 200, get("/healthz")},
		{"GET /readyz", toAnybody, 200, get("/readyz")},
		{"GET /login", toAnybody, 404, get("/login")}, // without [oidc]
		{"GET /login/callback", toAnybody, 404, get("/login/callback")},
		{"POST /login/token", toAnybody, 404, func(*matrix) (string, string, any, []string) { return "POST", "/login/token", nil, nil }},
		{"POST /login/revoke", toAnybody, 404, func(*matrix) (string, string, any, []string) { return "POST", "/login/revoke", nil, nil }},
		{"POST /login/out", toAnybody, 404, func(*matrix) (string, string, any, []string) { return "POST", "/login/out", nil, nil }},
		{"GET /trust", toAnybody, 404, get("/trust")}, // without --tls=auto
		{"GET /trust.sh", toAnybody, 404, get("/trust.sh")},
		{"GET /trust.crt", toAnybody, 404, get("/trust.crt")},
		{"/", toAnybody, 404, get("/v2/ci/app/nothing")},
		{"GET /v2/token", toAnybody, 0, nil}, // below
		{"POST /v2/token", toAnybody, 0, nil},
	}
}

// reset gives the repository the same content again, as the administrator.
func (m *matrix) reset() {
	m.t.Helper()
	admin := as("admin")
	for _, content := range []string{"{}", "old", "new", m.blob} {
		m.want(201, "POST", "/v2/ci/app/blobs/uploads/?digest="+sum(content).String(), content, admin)
	}
	m.want(201, "PUT", "/v2/ci/app/manifests/old", m.old.manifest, "Content-Type: "+typeOCIManifest, admin)
	m.do("DELETE", "/v2/ci/app/manifests/fresh", nil, admin)
	m.do("DELETE", "/v2/ci/app/manifests/undone", nil, admin)
	m.do("DELETE", "/v2/ci/app/manifests/"+m.new.digest.String(), nil, admin)
}

// content is what there is of the repository for clients. It is asked for so often that
// requests for it would be most of the test.
func (m *matrix) content() (has struct{ tags, manifests, blobs string }) {
	m.t.Helper()
	err := m.st.get(`SELECT
			(SELECT coalesce(group_concat(t.name || ' ' || m.digest, ', ' ORDER BY t.name), '') FROM tag t JOIN manifest m ON m.id = t.manifest WHERE t.repository = r.id),
			(SELECT coalesce(group_concat(digest, ', ' ORDER BY digest), '') FROM manifest WHERE repository = r.id AND deleted IS NULL),
			(SELECT coalesce(group_concat(b.digest, ', ' ORDER BY b.digest), '') FROM link l JOIN blob b ON b.id = l.blob WHERE l.repository = r.id AND l.hidden IS NULL)
		FROM repository r WHERE name = 'ci/app'`, nil, &has.tags, &has.manifests, &has.blobs)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		m.t.Error(err)
	}
	return has
}

func TestMatrixOfRoutesAndCredentials(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, anonymousPull := range []bool{false, true} {
		t.Run(fmt.Sprintf("anonymous-pull=%v", anonymousPull), func(t *testing.T) {
			r := startRegistry(t, guarded(matrixRules, "reader", "creator", "pusher", "deleter", "admin", "removed", "nobody"),
				func(c *config) { c.auth.anonymousPull = anonymousPull })
			m := &matrix{registry: r, old: ociImage("{}", "old"), new: ociImage("{}", "new"), blob: "unused"}
			m.walk(m.credentials(anonymousPull))
		})
	}
}

// credentials are all kinds, good and bad.
func (m *matrix) credentials(anonymousPull bool) []credential {
	robot := m.newRobot("robot", "ci/*", "overwrite")
	foreign := m.newRobot("foreign", "other/**", "admin")
	expired := m.newRobot("expired", "**", "admin")
	m.st.robots.byID[strings.Split(expired, "_")[1]].expires = time.Now().Add(-time.Second)
	revoked := m.newRobot("revoked", "**", "admin")
	m.revokeRobot("revoked")
	const all = "repository:ci/app:pull,push,delete"
	const pull, push, remove, list = "repository:ci/app:pull", "repository:ci/app:pull,push", "repository:ci/app:delete", "registry:catalog:*"
	removedToken := m.bearer(as("removed"), all, list)
	here := m.server.gate.signer
	here.now = func() time.Time { return time.Now().Add(-tokenLife - time.Second) }
	oldToken := m.bearer(as("admin"), all, list)
	here.now = func() time.Time { return time.Now().Add(time.Hour) }
	earlyToken := m.bearer(as("admin"), all, list)
	here.now = time.Now
	other := &signer{key: slices.Repeat([]byte{1}, 32), audience: here.audience, now: time.Now}
	forged := "Authorization: Bearer " + other.issue(&caller{view: m.server.gate.view(), person: person{user: "admin"}}, []grant{{"repository", "ci/app", []string{"pull", "push", "delete"}}})

	// The user goes, and so does what was got with his password.
	removed := as("removed")
	text, err := os.ReadFile(filepath.Join(m.cfg.dir, "htpasswd"))
	if err != nil {
		m.t.Fatal(err)
	}
	lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool { return strings.HasPrefix(l, "removed:") })
	if err := os.WriteFile(filepath.Join(m.cfg.dir, "htpasswd"), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		m.t.Fatal(err)
	}
	anybody := rights(0)
	if anonymousPull {
		anybody = mayPull
	}
	const inside = mayPull | mayPush | mayOverwrite | mayDelete
	return []credential{
		{name: "none", header: "", may: anybody, status: 401},
		{name: "user without rights", header: as("nobody"), may: anybody, status: 403},
		{name: "wrong password", header: basic("admin", "secret"), may: 0, status: 401},
		{name: "unknown user", header: basic("stranger", "admin-secret"), may: 0, status: 401},
		{name: "no password", header: basic("admin", ""), may: 0, status: 401},
		{name: "nonsense", header: "Authorization: Basic nonsense", may: 0, status: 401},
		{name: "another scheme", header: "Authorization: Digest username=admin", may: 0, status: 401},
		{name: "read-only", header: as("reader"), may: mayPull, status: 403},
		{name: "create-only", header: as("creator"), may: mayPull | mayPush, status: 403},
		{name: "push", header: as("pusher"), may: mayPull | mayPush | mayOverwrite, status: 403},
		{name: "delete", header: as("deleter"), may: mayPull | mayDelete, status: 403},
		{name: "admin", header: as("admin"), may: allRights, status: 403},
		{name: "robot", header: basic("x", robot), may: mayPull | mayPush | mayOverwrite, status: 403},
		{name: "robot as bearer", header: "Authorization: Bearer " + robot, may: mayPull | mayPush | mayOverwrite, status: 403},
		{name: "robot for elsewhere", header: basic("x", foreign), may: anybody, status: 403, elsewhere: true},
		{name: "expired robot", header: basic("x", expired), may: 0, status: 401},
		{name: "revoked robot", header: basic("x", revoked), may: 0, status: 401},
		{name: "revoked robot as bearer", header: "Authorization: Bearer " + revoked, may: 0, status: 401},
		{name: "robot with another secret", header: basic("x", robotForm().ReplaceAllString(robot, "berth_${1}_"+strings.Repeat("x", 43))), may: 0, status: 401},
		{name: "removed user", header: removed, may: 0, status: 401},
		{name: "token of anonymous", header: m.bearer("", all, list), may: anybody, status: 401, partial: true},
		{name: "token of the reader", header: m.bearer(as("reader"), all, list), may: mayPull, status: 403, partial: true},
		{name: "token of the creator", header: m.bearer(as("creator"), all, list), may: mayPull | mayPush, status: 403, partial: true},
		{name: "token of the admin", header: m.bearer(as("admin"), all, list), may: inside, status: 401, partial: true},
		{name: "token of the admin to pull", header: m.bearer(as("admin"), pull, list), may: mayPull, status: 401, partial: true},
		{name: "token of the admin to push", header: m.bearer(as("admin"), push, list), may: mayPull | mayPush | mayOverwrite, status: 401, partial: true},
		{name: "token of the admin to delete", header: m.bearer(as("admin"), remove, pull, list), may: mayPull | mayDelete, status: 401, partial: true},
		{name: "token of the admin for elsewhere", header: m.bearer(as("admin"), "repository:ci/app2:pull,push,delete"), may: anybody, status: 401, partial: true},
		{name: "token of the robot", header: m.bearer(basic("x", robot), all, list), may: mayPull | mayPush | mayOverwrite, status: 403, partial: true},
		{name: "token of the removed user", header: removedToken, may: 0, status: 401},
		{name: "expired token", header: oldToken, may: 0, status: 401},
		{name: "token of tomorrow", header: earlyToken, may: 0, status: 401},
		{name: "forged token", header: forged, may: 0, status: 401},
	}
}

// walk sends every request with every credential.
func (m *matrix) walk(credentials []credential) {
	m.reset()
	rows := m.rows()
	for _, route := range m.server.routes() {
		if !slices.ContainsFunc(rows, func(row matrixRow) bool { return row.route == route.pattern }) {
			m.t.Errorf("the route %q has no row in the matrix", route.pattern)
		}
	}
	for _, c := range credentials {
		var headers []string
		if c.header != "" {
			headers = append(headers, c.header)
		}
		// A session is its own, or that of somebody who was allowed to begin one.
		m.session = func(string) string {
			re := m.do("POST", "/v2/ci/app/blobs/uploads/", nil, headers...)
			if re.status != 202 {
				re = m.want(202, "POST", "/v2/ci/app/blobs/uploads/", nil, as("admin"))
			}
			return re.location()
		}
		for _, row := range rows {
			if row.request == nil {
				continue
			}
			method, path, body, more := row.request(m)
			methods := []string{method}
			if method == "GET" {
				methods = append(methods, "HEAD")
			}
			for _, method := range methods {
				clear(m.server.gate.logins.attempts.failed) // which is another test's
				before := m.content()
				m.cell(c, row, method, path, body, slices.Concat(more, headers))
				if after := m.content(); after != before {
					if row.refused(c) {
						m.t.Errorf("%s: %s %s was refused and changed something:\n%+v\n%+v", c.name, method, path, before, after)
					}
					m.reset()
				}
			}
		}
	}
}

// refused reports whether the row must be refused to a credential.
func (row matrixRow) refused(c credential) bool {
	switch {
	case row.need == toAnybody:
		return false
	case row.need == 0:
		return c.name == "none" || c.status == 401 && !c.partial
	}
	if row.route == "GET /v2/_catalog" && c.elsewhere {
		return false // there may be something for it
	}
	return c.may&row.need == 0
}

func (m *matrix) cell(c credential, row matrixRow, method, path string, body any, headers []string) {
	m.t.Helper()
	re := m.do(method, path, body, headers...)
	if !row.refused(c) {
		if re.status != row.status {
			m.t.Errorf("%s: %s %s = %d, want %d\n%s", c.name, method, path, re.status, row.status, re.body)
		}
		return
	}
	want := c.status
	if row.need == mayOverwrite && c.may&mayPush != 0 {
		want = 403 // it may push, and the transaction finds the tag
	}
	if re.status != want {
		m.t.Errorf("%s: %s %s = %d, want %d\n%s", c.name, method, path, re.status, want, re.body)
		return
	}
	if got := re.header.Get("WWW-Authenticate") != ""; got != (want == 401) {
		m.t.Errorf("%s: %s %s = %d with the challenge %q", c.name, method, path, want, re.header.Get("WWW-Authenticate"))
	}
	if method != "HEAD" {
		re.code(map[int]string{401: "UNAUTHORIZED", 403: "DENIED"}[want])
	}
}

// As clients see it: a challenge, a token for what was asked, and no more.
func TestTokenFlow(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(matrixRules, "reader", "pusher", "admin"))
	re := r.want(401, "GET", "/v2/", nil)
	host := strings.TrimPrefix(r.http.URL, "http://")
	base := fmt.Sprintf(`Bearer realm="http://%s/v2/token",service="%s"`, host, r.server.gate.signer.audience)
	re.has("WWW-Authenticate", base).has("Docker-Distribution-API-Version", "registry/2.0")
	r.want(401, "GET", "/v2/ci/app/tags/list", nil).has("WWW-Authenticate", base+`,scope="repository:ci/app:pull"`)
	r.want(401, "POST", "/v2/ci/app/blobs/uploads/", nil).has("WWW-Authenticate", base+`,scope="repository:ci/app:pull,push"`)
	r.want(401, "DELETE", "/v2/ci/app/manifests/x", nil).has("WWW-Authenticate", base+`,scope="repository:ci/app:delete"`)
	r.want(401, "GET", "/v2/_catalog", nil).has("WWW-Authenticate", base+`,scope="registry:catalog:*"`)
	r.want(401, "GET", "/v2/", nil, "Authorization: Bearer x.y.z").has("WWW-Authenticate", base+`,error="invalid_token"`)
	r.want(401, "GET", "/v2/token", nil, basic("reader", "x")).has("WWW-Authenticate", `Basic realm="Berth", charset="UTF-8"`)
	r.want(401, "GET", "/metrics", nil).has("WWW-Authenticate", `Basic realm="Berth", charset="UTF-8"`)

	// Each gets what it may of what it asks for.
	granted := func(want string, re *reply) {
		t.Helper()
		var answer struct {
			Token     string
			Access    string `json:"access_token"`
			ExpiresIn int    `json:"expires_in"`
		}
		if err := json.Unmarshal(re.body, &answer); err != nil || answer.Token != answer.Access || answer.ExpiresIn < 60 {
			t.Fatalf("the token is %s", re.body)
		}
		claims, err := r.server.gate.signer.verify(answer.Token)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(claims.Access); got != want {
			t.Errorf("granted %s, want %s", got, want)
		}
		re.has("Cache-Control", "no-store")
	}
	const scopes = "scope=repository:ci/app:pull,push,delete&scope=repository:other/app:pull+registry:catalog:*"
	granted("[{repository ci/app [pull]} {registry catalog [*]}]", r.want(200, "GET", "/v2/token?service="+r.server.gate.signer.audience+"&account=reader&offline_token=true&"+scopes, nil, as("reader")))
	granted("[{repository ci/app [pull push]} {registry catalog [*]}]", r.want(200, "GET", "/v2/token?"+scopes, nil, as("pusher")))
	granted("[{repository ci/app [pull push delete]} {repository other/app [pull]} {registry catalog [*]}]", r.want(200, "GET", "/v2/token?"+scopes, nil, as("admin")))
	granted("[{repository ci/app [pull push delete]}]", r.want(200, "GET", "/v2/token?scope=repository:ci/app:*", nil, as("admin")))
	granted("[]", r.want(200, "GET", "/v2/token?"+scopes, nil))
	granted("[{repository ci/app [pull]}]", r.want(200, "GET", "/v2/token?scope=repository(plugin):ci/app:pull&scope=wonder:ci/app:pull&scope=repository:UPPER:pull", nil, as("reader")))
	form := "Content-Type: application/x-www-form-urlencoded"
	granted("[{repository ci/app [pull push]}]", r.want(200, "POST", "/v2/token", "grant_type=password&username=pusher&password=pusher-secret&scope=repository:ci/app:pull,push", form))
	secret := r.newRobot("ci", "ci/*", "pull")
	granted("[{repository ci/app [pull]}]", r.want(200, "POST", "/v2/token", "grant_type=refresh_token&scope=repository:ci/app:pull,push&refresh_token="+secret, form))
	r.want(401, "POST", "/v2/token", "grant_type=password&username=pusher&password=x", form)
	r.want(401, "POST", "/v2/token", "grant_type=refresh_token&refresh_token=x", form)
	r.want(400, "POST", "/v2/token", "grant_type=magic", form)
	r.want(400, "GET", "/v2/token?scope=nonsense", nil)
	r.want(400, "GET", "/v2/token?service=elsewhere", nil)
	r.want(400, "GET", "/v2/token?"+strings.Repeat("scope=repository:a:pull&", maxScopes+1), nil)
	r.want(400, "POST", "/v2/token", "grant_type="+strings.Repeat("x", maxToken), form)
	r.want(401, "GET", "/v2/token", nil, r.bearer(as("admin"))) // a token does not beget tokens

	// Who only may list sees only that.
	r.want(401, "GET", "/v2/_catalog", nil, r.bearer(as("reader"), "repository:ci/app:pull")).has("WWW-Authenticate", base+`,scope="registry:catalog:*",error="insufficient_scope"`)
}

func TestCatalogShowsWhatOneMayPull(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(`
[[rule]]
who = ["admin"]
repositories = ["**"]
allow = ["admin"]
[[rule]]
who = ["ann"]
repositories = ["b/**", "!b/1"]
allow = ["pull"]
[[rule]]
who = ["anonymous"]
repositories = ["c/2"]
allow = ["pull"]
`, "admin", "ann", "bob"))
	for _, a := range []string{"a", "b", "c"} {
		for i := range 3 {
			name := fmt.Sprintf("%s/%d", a, i)
			r.want(201, "POST", "/v2/"+name+"/blobs/uploads/?digest="+sum("{}").String(), "{}", as("admin"))
			r.want(201, "PUT", "/v2/"+name+"/manifests/x", ociImage("{}").manifest, "Content-Type: "+typeOCIManifest, as("admin"))
		}
	}
	for _, x := range []struct{ who, query, want, next string }{
		{as("admin"), "", `["a/0","a/1","a/2","b/0","b/1","b/2","c/0","c/1","c/2"]`, ""},
		{as("ann"), "", `["b/0","b/2","c/2"]`, ""},
		{as("ann"), "?n=1", `["b/0"]`, `</v2/_catalog?last=b%2F0&n=1>; rel="next"`},
		{as("ann"), "?n=2", `["b/0","b/2"]`, `</v2/_catalog?last=b%2F2&n=2>; rel="next"`},
		{as("ann"), "?n=3", `["b/0","b/2","c/2"]`, ""},
		{as("ann"), "?n=1&last=b/2", `["c/2"]`, ""},
		{as("ann"), "?n=0", `[]`, ""},
		{as("bob"), "", `["c/2"]`, ""},
		{r.bearer(as("admin"), "repository:a/0:pull"), "", `["c/2"]`, ""}, // as everybody
		{r.bearer(as("ann"), "registry:catalog:*"), "", `["b/0","b/2","c/2"]`, ""},
		{"X-None: 1", "", `["c/2"]`, ""},
	} {
		r.want(200, "GET", "/v2/_catalog"+x.query, nil, x.who).is(`{"repositories":`+x.want+`}`).has("Link", x.next)
	}
}

// A registry is open until there is a user, and never again by itself.
func TestOpenUntilThereIsAUser(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}")
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	add := func(args ...string) {
		t.Helper()
		var out strings.Builder
		args = append([]string{"user"}, append(args, "--data", r.cfg.dir)...)
		if err := run(t.Context(), args, noEnv, strings.NewReader("a secret\n"), &out, &out); err != nil {
			t.Fatal(err, out.String())
		}
	}
	add("add", "kim")
	r.want(401, "GET", "/v2/a/manifests/x", nil)
	r.want(401, "PATCH", loc, "x")
	r.want(200, "GET", "/v2/a/manifests/x", nil, basic("kim", "a secret"))
	r.want(200, "GET", "/metrics", nil, basic("kim", "a secret")) // she is the administrator
	add("add", "ann")
	r.want(200, "GET", "/v2/a/manifests/x", nil, basic("ann", "a secret"))
	r.want(403, "GET", "/metrics", nil, basic("ann", "a secret"))
	add("remove", "kim", "--force")
	add("remove", "ann", "--force")
	r.want(401, "GET", "/v2/a/manifests/x", nil, basic("kim", "a secret"))
	for _, name := range []string{"htpasswd", "policy.toml"} {
		if err := os.Remove(filepath.Join(r.cfg.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.want(401, "GET", "/v2/a/manifests/x", nil)
	if log := r.log.String(); !strings.Contains(log, "the users' file cannot be read") || !strings.Contains(log, "the rules cannot be read") {
		t.Errorf("the log does not tell that the files have gone:\n%s", log)
	}
	r.restart()
	r.want(200, "GET", "/v2/a/manifests/x", nil)
}

// A file that cannot be read is not one that is not there.
func TestUnreadableUsersAreNotNoUsers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.want(200, "GET", "/v2/", nil)
	if err := os.Mkdir(filepath.Join(r.cfg.dir, "htpasswd"), 0o700); err != nil { // also root cannot read that
		t.Fatal(err)
	}
	r.want(401, "GET", "/v2/", nil)
	// Nor may a copy be open, which could not have them.
	if err := backupCommand(t.Context(), r.st, options{Args: []string{filepath.Join(t.TempDir(), "copy")}}, newConsole(new(strings.Builder), false)); err == nil || !strings.Contains(err.Error(), "htpasswd") {
		t.Errorf("a backup with users that cannot be read: %v", err)
	}
	r.refusesToStart("htpasswd", "htpasswd")
}

// refusesToStart insists that a file keeps the registry from its start, and goes on
// without it.
func (r *registry) refusesToStart(file, want string) {
	r.t.Helper()
	if r.st != nil {
		r.stop()
	}
	err := run(r.t.Context(), []string{"--data", r.cfg.dir, "--addr", "127.0.0.1:0"}, noEnv, strings.NewReader(""), new(strings.Builder), new(strings.Builder))
	if err == nil || !strings.Contains(err.Error(), want) {
		r.t.Errorf("a start with this %s: %v, want an error about %q", file, err, want)
	}
	if err := os.Remove(filepath.Join(r.cfg.dir, file)); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

// A link to a disk that is not there is not no file either.
func TestLinksToNowhere(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"htpasswd", "policy.toml"} {
		r := startRegistry(t)
		r.stop()
		path := filepath.Join(r.cfg.dir, name)
		if err := os.Symlink(filepath.Join(r.cfg.dir, "disk", name), path); err != nil {
			skip(t, err.Error())
		}
		r.refusesToStart(name, "link to something that does not exist")
	}
	for _, flag := range []string{"--htpasswd", "--policy", "--client-ca"} {
		if _, err := runOnce(t, "--data", t.TempDir(), flag, ""); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("an empty %s: %v", flag, err)
		}
	}
}

// An edit holds from the next request on; a mistake changes nothing.
func TestRulesAreReadAgain(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	rules := func(action string) string {
		return fmt.Sprintf("[[rule]]\nwho = [\"ann\"]\nrepositories = [\"**\"]\nallow = [%q]\n", action)
	}
	token := r.bearer(as("ann"), "repository:a/b:pull,push,delete")
	post := func(status int) {
		t.Helper()
		r.want(status, "POST", "/v2/a/b/blobs/uploads/", nil, as("ann"))
		r.want(status, "POST", "/v2/a/b/blobs/uploads/", nil, token)
	}
	post(202)
	for range 3 { // the same length, in the same second: only the bytes differ
		writeRules(r.cfg.dir, rules("pull"))
		post(403)
		writeRules(r.cfg.dir, rules("push"))
		post(202)
	}
	writeRules(r.cfg.dir, rules("pull"))
	post(403)
	for _, broken := range []string{"", "# nothing\n", "[[rule]\n", rules("fly"), "[[rule]]\nwho = [\"ann\"]\nrepositories = [\"**\"]\n",
		rules("push") + "repos = [\"x\"]\n", strings.Replace(rules("push"), "ann", "group:no", 1), strings.Replace(rules("push"), "**", "A B", 1)} {
		writeRules(r.cfg.dir, broken)
		post(403)
		if n := strings.Count(r.log.String(), "the rules cannot be read"); n == 0 {
			t.Errorf("the log says nothing about\n%s", broken)
		}
	}
	log := r.log.String()
	if n := strings.Count(log, "the rules cannot be read"); n > 8 {
		t.Errorf("the log tells %d times of 8 mistakes", n)
	}
	if !strings.Contains(log, `level=AUDIT msg=audit event="rules changed"`) {
		t.Error("no audit line for a change of rules")
	}
	r.refusesToStart("policy.toml", "policy.toml")
}

// Many clients with one password have it hashed once.
func TestPasswordsAreHashedOnce(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 200 {
				if re, err := r.try("GET", "/v2/", nil, as("ann")); err != nil || re.status != 200 {
					t.Errorf("%v %v", re, err)
				}
			}
		})
	}
	clients.Wait()
	for range 10 {
		r.want(401, "GET", "/v2/", nil, basic("ann", "wrong"))
		r.want(401, "GET", "/v2/", nil, basic("stranger", "wrong"))
	}
	if n := r.server.gate.logins.hashed.Load(); n != 3 {
		t.Errorf("%d passwords were hashed, want 3", n)
	}
}

// A push by somebody who may not move tags leaves them, also when two come first.
func TestTwoFirstPushesByCreators(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(matrixRules, "creator", "admin"))
	for i := range 20 {
		var images [2]image
		for j := range images {
			images[j] = ociImage("{}", fmt.Sprint(i, j))
			r.want(201, "POST", "/v2/ci/app/blobs/uploads/?digest="+sum("{}").String(), "{}", as("creator"))
			r.want(201, "POST", "/v2/ci/app/blobs/uploads/?digest="+sum(fmt.Sprint(i, j)).String(), fmt.Sprint(i, j), as("creator"))
		}
		var statuses [2]int
		var clients sync.WaitGroup
		for j, im := range images {
			clients.Go(func() {
				re, err := r.try("PUT", fmt.Sprintf("/v2/ci/app/manifests/t%d", i), im.manifest, "Content-Type: "+typeOCIManifest, as("creator"))
				if err == nil {
					statuses[j] = re.status
				}
			})
		}
		clients.Wait()
		slices.Sort(statuses[:])
		if statuses != [2]int{201, 403} {
			t.Errorf("two first pushes of a tag: %v, want 201 and 403", statuses)
		}
	}
	// Nor does a type change, with bytes that say nothing of it.
	bare := `{"schemaVersion":2,"config":` + descriptorJSON("x/y", "{}") + `,"layers":[]}`
	r.want(201, "PUT", "/v2/ci/app/manifests/bare", bare, "Content-Type: "+typeOCIManifest, as("creator"))
	r.want(403, "PUT", "/v2/ci/app/manifests/bare", bare, "Content-Type: "+typeDockerManifest, as("creator"))
	r.want(200, "GET", "/v2/ci/app/manifests/bare", nil, as("creator")).has("Content-Type", typeOCIManifest)
	r.want(201, "PUT", "/v2/ci/app/manifests/bare", bare, "Content-Type: "+typeDockerManifest, as("admin"))
}

// A session is its owner's, whatever others may do to the repository.
func TestUploadsBelongToTheirOwners(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann", "bob"))
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, as("ann")).location()
	r.want(202, "PATCH", loc, "ab", as("ann"))
	hijack := func() {
		t.Helper()
		for _, method := range []string{"GET", "PATCH", "DELETE"} {
			if re := r.want(404, method, loc, "x", as("bob")); method != "GET" {
				re.code("BLOB_UPLOAD_UNKNOWN")
			}
		}
		r.want(404, "PUT", with(loc, "digest="+sum("abx").String()), "x", as("bob"))
		r.want(404, "GET", strings.Replace(loc, "/v2/a/", "/v2/b/", 1), nil, as("ann"))
	}
	hijack()
	r.restart()
	hijack()
	// By token or password, she is the same.
	r.want(201, "PUT", with(loc, "digest="+sum("abc").String()), "c", r.bearer(as("ann"), "repository:a:push"))
}

// What one may not pull one cannot mount, find, or refer to.
func TestForeignContentStaysForeign(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(`
[[rule]]
who = ["ann"]
repositories = ["ann/**"]
allow = ["admin"]
[[rule]]
who = ["bob"]
repositories = ["bob/**"]
allow = ["admin"]
`, "ann", "bob"))
	d := sum("secret layer")
	r.want(201, "POST", "/v2/ann/x/blobs/uploads/?digest="+d.String(), "secret layer", as("ann"))
	r.want(403, "GET", "/v2/ann/x/blobs/"+d.String(), nil, as("bob")).code("DENIED")
	r.want(403, "GET", "/v2/ann/none/blobs/"+d.String(), nil, as("bob")).code("DENIED") // as if it were there
	r.want(404, "GET", "/v2/bob/x/blobs/"+d.String(), nil, as("bob"))
	r.want(202, "POST", "/v2/bob/x/blobs/uploads/?from=ann/x&mount="+d.String(), nil, as("bob"))
	r.want(202, "POST", "/v2/bob/x/blobs/uploads/?mount="+d.String(), nil, as("bob"))
	r.want(201, "POST", "/v2/bob/x/blobs/uploads/?digest="+sum("{}").String(), "{}", as("bob"))
	r.want(404, "PUT", "/v2/bob/x/manifests/x", ociImage("{}", "secret layer").manifest, "Content-Type: "+typeOCIManifest, as("bob")).code("MANIFEST_BLOB_UNKNOWN")
	// With a token, the scope must have it too; the mount is then an upload.
	r.want(201, "POST", "/v2/ann/y/blobs/uploads/?from=ann/x&mount="+d.String(), nil, r.bearer(as("ann"), "repository:ann/y:pull,push", "repository:ann/x:pull"))
	r.want(202, "POST", "/v2/ann/z/blobs/uploads/?from=ann/x&mount="+d.String(), nil, r.bearer(as("ann"), "repository:ann/z:pull,push"))
	// Deleted in one place, asked for in another, and got in the first.
	r.want(202, "DELETE", "/v2/ann/x/blobs/"+d.String(), nil, as("ann"))
	r.want(404, "HEAD", "/v2/bob/x/blobs/"+d.String(), nil, as("bob"))
	r.want(404, "GET", "/v2/ann/x/blobs/"+d.String(), nil, as("ann"))
	r.want(200, "GET", "/v2/ann/y/blobs/"+d.String(), nil, as("ann"))
}

// Tokens with keys, algorithms and audiences of a stranger's choice.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	s := r.server.gate.signer
	now := time.Now()
	good := claims{Audience: s.audience, Subject: "user:ann", Mark: s.mark(r.server.gate.view().users["ann"]),
		NotBefore: now.Unix() - 10, Expires: now.Unix() + 100, Access: []grant{{"repository", "a", []string{"pull"}}}}
	payload := func(c claims) string {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	ask := func(status int, token string) {
		t.Helper()
		r.want(status, "GET", "/v2/a/tags/list", nil, "Authorization: Bearer "+token)
	}
	ask(404, s.sign(good)) // there is no such repository
	for _, h := range []string{`{"alg":"none"}`, `{"alg":"none","typ":"JWT"}`, `{"alg":"HS512","typ":"JWT"}`, `{"alg":"RS256","typ":"JWT"}`, `{"typ":"JWT","alg":"HS256"}`,
		`{"alg":"HS256","typ":"JWT","kid":"../../dev/null"}`, `{"alg":"HS256","typ":"JWT","jwk":{"kty":"oct","k":""}}`, `{"alg":"HS256","typ":"JWT","jku":"http://127.0.0.1:1/"}`,
		`{"alg":"HS256","typ":"JWT","x5c":["AA=="]}`, `{}`, ``} {
		text := base64.RawURLEncoding.EncodeToString([]byte(h)) + "." + payload(good)
		ask(401, text+".")
		ask(401, text+"."+base64.RawURLEncoding.EncodeToString(s.mac(text))) // even signed
	}
	text := tokenHeader + "." + payload(good)
	for _, sum := range []string{"", "AA", base64.RawURLEncoding.EncodeToString(make([]byte, 32)), base64.StdEncoding.EncodeToString(s.mac(text)), strings.TrimSuffix(base64.RawURLEncoding.EncodeToString(s.mac(text)), "A") + "x"} {
		ask(401, text+"."+sum)
	}
	ask(401, text)
	ask(401, strings.Repeat(".", 3000))
	ask(401, strings.Repeat("A", maxToken+1))
	for name, change := range map[string]func(*claims){
		"of another registry":  func(c *claims) { c.Audience = "other" },
		"of nobody's registry": func(c *claims) { c.Audience = "" },
		"expired":              func(c *claims) { c.Expires = now.Unix() - 1 },
		"of tomorrow":          func(c *claims) { c.NotBefore = now.Unix() + 1000 },
		"of an old password":   func(c *claims) { c.Mark = s.mark("another hash") },
		"without a password":   func(c *claims) { c.Mark = "" },
		"of a stranger":        func(c *claims) { c.Subject, c.Mark = "user:stranger", "" },
		"of a robot":           func(c *claims) { c.Subject = "token:aaaaaaaa" },
		"of a certificate":     func(c *claims) { c.Subject = "certificate:ann" },
		"of a thing":           func(c *claims) { c.Subject = "thing:ann" },
	} {
		c := good
		change(&c)
		t.Run(name, func(t *testing.T) { ask(401, s.sign(c)) })
	}
	if err := r.do("GET", "/v2/a/tags/list", nil, "Authorization: Bearer "+s.sign(good), as("ann")); err.status != 401 {
		t.Errorf("two Authorization headers: %d, want 401", err.status)
	}
	// A new password ends what was got with the old one.
	token := r.bearer(as("ann"), "repository:a:pull")
	r.want(404, "GET", "/v2/a/tags/list", nil, token)
	guardedAgain := []byte("ann:" + hashOf("new") + "\n")
	if err := os.WriteFile(filepath.Join(r.cfg.dir, "htpasswd"), guardedAgain, 0o600); err != nil {
		t.Fatal(err)
	}
	r.want(401, "GET", "/v2/a/tags/list", nil, token)
	r.want(401, "GET", "/v2/a/tags/list", nil, as("ann"))
	r.want(404, "GET", "/v2/a/tags/list", nil, basic("ann", "new"))
}

// A key lives with the data: tokens outlast a restart, and no other registry
// takes them.
func TestTokensOfAnotherRegistry(t *testing.T) {
	t.Parallel()
	here, there := startRegistry(t, guarded("", "ann")), startRegistry(t, guarded("", "ann"))
	token := here.bearer(as("ann"), "repository:a:pull")
	there.want(401, "GET", "/v2/a/tags/list", nil, token)
	here.restart()
	here.want(404, "GET", "/v2/a/tags/list", nil, token)
	if info, err := os.Stat(filepath.Join(here.cfg.dir, "token.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key of tokens: %v, %v", info, err)
	}
}

// Nobody has a password before somebody was given one.
func TestNoPasswordIsBuiltIn(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, guarded(""))
	for _, user := range []string{"", "admin", "root", "berth", "anonymous", "users", "test", "#"} {
		for _, password := range []string{"", user, "admin", "password", "Harbor12345", "changeme", "berth"} {
			clear(r.server.gate.logins.attempts.failed)
			r.want(401, "GET", "/v2/", nil, basic(user, password))
		}
	}
}

// Whatever way a path is written, the rules see the name that the handler sees.
func TestPathsDoNotGetAroundRules(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(`
[[rule]]
who = ["admin"]
repositories = ["**"]
allow = ["admin"]
[[rule]]
who = ["ann", "anonymous"]
repositories = ["public/**"]
allow = ["admin"]
`, "admin", "ann"))
	for _, repo := range []string{"secret", "secret/manifests/x", "public/app", "blobs/uploads", "manifests"} {
		r.pushAs(as("admin"), repo, "x", "{}")
	}
	d := sum("{}").String()
	for _, path := range []string{
		"/v2/public/../secret/manifests/x", "/v2/public/..%2fsecret/manifests/x", "/v2/public%2f..%2Fsecret/manifests/x", "/v2/public/%2e%2e/secret/manifests/x",
		"/v2//secret/manifests/x", "/v2/./secret/manifests/x", "/v2/%2fsecret/manifests/x", "/v2/secret%2f/manifests/x", "/v2/SECRET/manifests/x", "/v2/secret%00public/manifests/x",
		"/v2/public\\..\\secret/manifests/x", "/v2/secret;public/manifests/x", "/v2/secret%3fpublic/manifests/x", "/v2/secret/manifests/x/", "/v2/secret/manifests/../manifests/x",
		"/v2/secret/manifests/x/manifests/x", "/v2/secret%2fmanifests%2fx/manifests/x", "/v2/secret/manifests/x/blobs/" + d, "/v2/manifests/manifests/x", "/v2/blobs/uploads/manifests/x",
		"/v2/secret/blobs/" + d + "/manifests/x", "/V2/secret/manifests/x", "/v2/secret/tags/list", "/v2/secret/referrers/" + d, "//v2/secret/manifests/x", "/v2/public/app/../../secret/manifests/x",
	} {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
			for _, headers := range [][]string{nil, {as("ann")}} {
				if re := r.do(method, path, nil, headers...); re.status < 400 || re.status >= 500 || re.header.Get("Docker-Content-Digest") != "" {
					t.Errorf("%s %s (%v) = %d", method, path, headers, re.status)
				}
			}
		}
	}
	r.want(200, "GET", "/v2/public/app/manifests/x", nil)
	r.want(200, "GET", "/v2/public%2Fapp/manifests/x", nil, as("ann"))
	r.want(200, "GET", "/v2/secret/manifests/x/manifests/x", nil, as("admin"))
	r.want(200, "GET", "/v2/blobs/uploads/manifests/x", nil, as("admin"))
}

func TestReadOnlyAndNoDeleteAreForEverybody(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"read-only", "no-delete"} {
		r := startRegistry(t, guarded("", "ann"))
		im := ociImage("{}", "l")
		for _, c := range []string{"{}", "l", "loose"} {
			r.want(201, "POST", "/v2/a/blobs/uploads/?digest="+sum(c).String(), c, as("ann"))
		}
		r.want(201, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest, as("ann"))
		r.restart(func(c *config) { c.readOnly, c.noDelete = flag == "read-only", flag == "no-delete" })
		for _, by := range []string{as("ann"), r.bearer(as("ann"), "repository:a:pull,push,delete"), basic("x", r.newRobot("r", "**", "admin"))} {
			for _, path := range []string{"manifests/x", "manifests/" + im.digest.String(), "blobs/" + sum("loose").String()} {
				r.want(405, "DELETE", "/v2/a/"+path, nil, by).code("UNSUPPORTED")
				r.want(401, "DELETE", "/v2/a/"+path, nil)
			}
		}
		r.want(200, "GET", "/v2/a/manifests/x", nil, as("ann"))
	}
}
