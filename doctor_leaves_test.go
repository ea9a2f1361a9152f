//go:build unix

// What a doctor leaves in a registry: as little as it can, and nothing where it could not delete it again.

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// Where an image could not be deleted again none is pushed, and uploads are given up. What can be found out so, is.
func TestDoctorPushesNothingThatStays(t *testing.T) {
	t.Parallel()
	const rules = "[[rule]]\nwho = [\"kim\"]\nrepositories = [\"home/**\"]\nallow = [\"push\"]\n[[immutable]]\nrepositories = [\"**\"]\ntags = [\"**\"]\n"
	noDelete := func(c *config) { c.noDelete = true }
	answers := func(status int, kind, body string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "DELETE" && strings.Contains(r.URL.Path, "/manifests/") {
					w.Header().Set("Content-Type", kind)
					w.WriteHeader(status)
					io.WriteString(w, body)
					return
				}
				next.ServeHTTP(w, r)
			})
		}
	}
	asItIs := func(next http.Handler) http.Handler { return next }
	for _, x := range []struct {
		name     string
		options  []func(*config)
		user     string
		around   func(http.Handler) http.Handler
		faults   []string
		says     string
		repeated string // with --push
	}{
		{"no deletes", []func(*config){noDelete}, "", asItIs, nil, "405 Method Not Allowed", "an image of 2.0 MiB remains in home/app"},
		{"a user who may not", []func(*config){guarded(rules, "kim")}, "kim", asItIs, nil, "it could not be deleted again", "sudo berth rm --data /var/lib/berth home/app@sha256:"},
		{"another registry without deletes", nil, "", answers(405, "application/json", `{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}`), nil, "405 Method Not Allowed", "remains"},
		{"another registry, denied", nil, "", answers(401, "application/json", `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`), nil, "401 Unauthorized", "remains"},
		{"an answer that nobody understands", nil, "", answers(500, "application/json", `{"errors":[{"code":"UNKNOWN","message":"unknown error"}]}`), nil, "500 Internal Server Error", "remains"},
		{"a proxy without DELETE", nil, "", answers(404, "text/html", "<html>"), []string{"method-blocked"}, "404 Not Found", "remains"},
		{"a proxy with a limit", []func(*config){noDelete}, "", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
				if err != nil {
					w.WriteHeader(413)
					return
				}
				r.Body = io.NopCloser(bytes.NewReader(text))
				next.ServeHTTP(w, r)
			})
		}, []string{"body-limit"}, "405 Method Not Allowed", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t, append(x.options, believesProxies)...).served()
			at := inPlain(t, x.around(proxyTo(r)))
			examine := func(push bool) *doctor {
				d := doctorAt(t, at)
				d.file(t, "/etc/docker/daemon.json", `{"insecure-registries": ["hub.lan:5000"]}`)
				d.largest, d.repository, d.push = usualSize, "home/app", push
				if x.user != "" {
					d.user, d.password = x.user, x.user+"-secret"
				}
				return d
			}
			faults := x.faults
			if x.user != "" {
				faults = append(faults, "password-in-clear")
			}
			d := examine(false)
			d.wantFaults(t, faults...)
			if !d.says(x.says) || !d.says("berth doctor --push ") || !d.says("no image was pushed to home/app") {
				t.Errorf("the doctor does not say %q, or how to push all the same: %+v", x.says, d.list)
			}
			if names, err := r.ask(t.Context(), options{Command: "ls"}); err != nil || strings.Contains(names, "home/app") {
				t.Errorf("there is %s, %v", names, err)
			}
			if n := r.blobs(); n > 0 {
				t.Errorf("%d blobs are stored", n)
			}
			if open, err := r.ask(t.Context(), options{Command: "uploads"}); err != nil || !strings.Contains(open, "no open uploads") && x.name != "a proxy without DELETE" {
				t.Errorf("uploads are left: %s, %v", open, err)
			}
			if x.repeated == "" {
				return
			}
			d = examine(true)
			d.wantFaults(t, faults...)
			if !d.says(x.repeated) {
				t.Errorf("with --push the doctor does not say %q: %+v", x.repeated, d.list)
			}
			for _, found := range d.list {
				if found.Fault == "image-remains" && found.Lines != nil {
					words := strings.Fields(found.Lines[0])
					if said, err := r.ask(t.Context(), options{Command: "rm", Args: words[len(words)-1:]}); err != nil {
						t.Errorf("%s: %s, %v", found.Lines[0], said, err)
					}
				}
			}
		})
	}
}

// blobs is how many blobs are stored.
func (r *registry) blobs() (n int) {
	r.t.Helper()
	if err := r.st.get(`SELECT count(*) FROM blob`, nil, &n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// A run leaves one line in the log and no tag; all runs use one repository, and send little.
func TestDoctorLeavesLittle(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, believesProxies).served()
	var sent atomic.Int64
	proxy := proxyTo(r)
	at := inPlain(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		text, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		sent.Add(int64(len(text)))
		q.Body = io.NopCloser(bytes.NewReader(text))
		proxy.ServeHTTP(w, q)
	}))
	for range 3 {
		d := doctorAt(t, at)
		d.largest = newDoctor(nil).largest
		d.wantFaults(t)
	}
	if n := sent.Load() / 3; n < 1<<20 || n > 2<<20+64<<10 {
		t.Errorf("a doctor that is told no size sends %d bytes, want more than 1 MiB, the limit of nginx, and at most a little more than 2", n)
	}
	text, err := r.ask(t.Context(), options{Command: "log", JSON: true})
	var changes []json.RawMessage
	if err != nil || json.Unmarshal([]byte(text), &changes) != nil || len(changes) != 3 || strings.Contains(text, `"tag"`) {
		t.Errorf("three runs leave in the log %s, %v", text, err)
	}
	var repositories int
	if err := r.st.get(`SELECT count(*) FROM repository`, nil, &repositories); err != nil || repositories != 1 {
		t.Errorf("three runs leave %d repositories, %v", repositories, err)
	}
	if re := r.want(200, "GET", "/v2/_catalog", nil); strings.Contains(string(re.body), "berth-doctor") {
		t.Errorf("the catalog is %s", re.body)
	}
}

// A tag or digest behind the repository does no harm, and --push and --no-push exclude each other.
func TestDoctorTakesImages(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	at := r.http.Listener.Addr().String()
	for arg, want := range map[string]string{at + "/home/app:1.0": "pull         all comes back", at + "/home/app@" + sum("x").String(): "pull         all comes back"} {
		var b bytes.Buffer
		if err := run(t.Context(), []string{"doctor", arg, "--size", "4KiB"}, noEnv, strings.NewReader(""), &b, io.Discard); err != nil {
			if code, _ := exitCode(err); code == 2 {
				t.Errorf("berth doctor %s: %v", arg, err)
			}
		}
		if !strings.Contains(b.String(), want) {
			t.Errorf("berth doctor %s says\n%s", arg, &b)
		}
	}
	err := run(t.Context(), []string{"doctor", at, "--push", "--no-push"}, noEnv, strings.NewReader(""), io.Discard, io.Discard)
	if code, _ := exitCode(err); code != 2 {
		t.Errorf("--push with --no-push: %v", err)
	}
}

// nginxAsks is a proxy with auth_basic, that knows some users.
func nginxAsks(next http.Handler, users ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		for _, known := range users {
			if user == known && password == known+"-secret" {
				next.ServeHTTP(w, r)
				return
			}
		}
		w.Header().Set("Server", "nginx/1.22.1")
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("WWW-Authenticate", `Basic realm="Registry"`)
		w.WriteHeader(401)
		io.WriteString(w, "<html><center><h1>401 Authorization Required</h1></center></html>")
	})
}

// An nginx that asks for a password itself is named, whoever knows it.
func TestDoctorSeesThatProxyAsks(t *testing.T) {
	t.Parallel()
	const rules = "[[rule]]\nwho = [\"users\"]\nrepositories = [\"**\"]\nallow = [\"push\", \"delete\"]\n"
	r := startRegistry(t, guarded(rules, "kim", "ann"), believesProxies)
	ca := newIssuer(t)
	afterLogin := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { // only where the token is sent
		if q.Header.Get("Authorization") == "" || strings.HasPrefix(q.URL.Path, "/v2/token") {
			proxyTo(r).ServeHTTP(w, q)
			return
		}
		nginxAsks(proxyTo(r), "kim").ServeHTTP(w, q)
	})
	for _, x := range []struct {
		name, user string
		handler    http.Handler
		fault      string
		says       string
	}{
		{"nobody", "", nginxAsks(proxyTo(r), "kim"), "", "nginx asks for a password itself, before the registry does"},
		{"one whom both know", "kim", nginxAsks(proxyTo(r), "kim"), "", "Remove auth_basic and auth_basic_user_file"},
		{"one whom nginx does not know", "ann", nginxAsks(proxyTo(r), "kim"), "login-refused", "nginx asks for a password itself, and does not take this one"},
		{"one whom only nginx knows", "eve", nginxAsks(proxyTo(r), "eve"), "login-refused", "the registry behind it does not"},
		{"tokens", "kim", afterLogin, "proxy-asks-password", "where clients send the token"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewUnstartedServer(x.handler)
			d := doctorAt(t, behindTLS(t, certified(t, ca), s.Config.Handler)).file(t, bundles[0], string(ca.pem()))
			if d.user = x.user; x.user != "" {
				d.password = x.user + "-secret"
			}
			var want []string
			if x.fault != "" {
				want = []string{x.fault}
			}
			d.wantFaults(t, want...)
			if !d.says(x.says) || d.says("takes the header Authorization away") {
				t.Errorf("the doctor does not say %q: %+v", x.says, d.list)
			}
		})
	}
}

// What docker login has stored is used, where it stands in docker's file, and helpers are not asked.
func TestDoctorUsesStoredLogin(t *testing.T) {
	t.Parallel()
	const rules = "[[rule]]\nwho = [\"users\"]\nrepositories = [\"home/**\"]\nallow = [\"push\", \"delete\"]\n"
	ca := newIssuer(t)
	r := startRegistry(t, guarded(rules, "kim"), believesProxies)
	at := behindTLS(t, certified(t, ca), proxyTo(r))
	for _, x := range []struct{ name, file, says, fault string }{
		{"its own", `{"auths": {"hub.lan:5000": {"auth": "a2ltOmtpbS1zZWNyZXQ="}}}`, "kim logs in with the password in ~/.docker/config.json. The registry answers with tokens that are valid for some minutes", ""},
		{"a wrong one", `{"auths": {"hub.lan:5000": {"auth": "a2ltOndyb25n"}}}`, "docker login hub.lan:5000", "password-wrong"},
		{"of a helper", `{"auths": {"hub.lan:5000": {}}, "credsStore": "pass"}`, "kept by docker-credential-pass", ""},
		{"of another port", `{"auths": {"hub.lan:5001": {"auth": "a2ltOmtpbS1zZWNyZXQ="}}}`, "a login for hub.lan:5001 in ~/.docker/config.json, which is another port", ""},
		{"none", `{}`, "berth doctor --user NAME hub.lan:5000/home/app", ""},
	} {
		d := doctorAt(t, at).file(t, bundles[0], string(ca.pem())).file(t, "/home/kim/.docker/config.json", x.file)
		d.repository = "home/app"
		var want []string
		if x.fault != "" {
			want = []string{x.fault}
		}
		d.wantFaults(t, want...)
		if pushed := d.says("all comes back as it was pushed"); !d.says(x.says) || pushed != (x.name == "its own") {
			t.Errorf("%s: the doctor does not say %q, or pushes: %t\n%+v", x.name, x.says, pushed, d.list)
		}
		for _, found := range d.list {
			if strings.Contains(found.Says, "by a token") || found.Fault == "login-needed" && found.Level != isNote {
				t.Errorf("%s: %+v", x.name, found)
			}
		}
	}
	// Nothing that is stored is sent to a server that no program here would use, or in the clear.
	const stored = `{"auths": {"hub.lan:5000": {"auth": "a2ltOmtpbS1zZWNyZXQ="}}}`
	d := doctorAt(t, at).file(t, "/home/kim/.docker/config.json", stored)
	d.wantFaults(t, "system-trust")
	if d.user != "" || !d.says("was not sent, since no program here would use this server") {
		t.Errorf("with a server that is not trusted: %+v", d.list)
	}
	d = doctorAt(t, inPlain(t, proxyTo(r))).file(t, "/home/kim/.docker/config.json", stored).file(t, "/etc/docker/daemon.json", `{"insecure-registries": ["hub.lan:5000"]}`)
	d.wantFaults(t)
	if d.user != "" || !d.says("was not sent, since over plain HTTP") {
		t.Errorf("over plain HTTP: %+v", d.list)
	}
}

// With a robot's token the advice names the token, whatever user was typed.
func TestDoctorNamesTokenInAdvice(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	r := startRegistry(t, guarded("", "kim"), believesProxies).served()
	text, err := r.ask(t.Context(), options{Command: "token", Args: []string{"create", "ci2"}, Repo: "home/app", Allow: "pull", Expires: "3d", JSON: true})
	var made struct{ Secret string }
	if err != nil || json.Unmarshal([]byte(text), &made) != nil || made.Secret == "" {
		t.Fatalf("token create: %s, %v", text, err)
	}
	at := behindTLS(t, certified(t, ca), proxyTo(r))
	d := doctorAt(t, at).file(t, bundles[0], string(ca.pem()))
	d.user, d.password, d.repository = "whoever", made.Secret, "home/app"
	d.wantFaults(t, "push-denied")
	line := ""
	for _, found := range d.list {
		for _, l := range found.Lines {
			if strings.HasPrefix(l, "berth policy check") {
				line = l
			}
		}
	}
	var out bytes.Buffer
	args := append(strings.Fields(line)[1:], "--data", r.cfg.dir)
	if err := run(t.Context(), args, noEnv, strings.NewReader(""), &out, io.Discard); !strings.HasPrefix(out.String(), "no: token:") || err == nil {
		t.Errorf("%s says %s, %v", line, &out, err)
	}
	if !d.says("a token that berth token or the page has made") {
		t.Errorf("the doctor does not say that it was a token: %+v", d.list)
	}
	d = doctorAt(t, at).file(t, bundles[0], string(ca.pem()))
	d.user, d.password = "whoever", made.Secret[:len("berth_xxxxxxxx_")]+strings.Repeat("x", 43)
	d.wantFaults(t, "password-wrong")
	if !d.says("berth token list") || d.says("berth user passwd") {
		t.Errorf("of a token that is refused the doctor says %+v", d.list)
	}
}
