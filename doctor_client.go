// What a registry answers to a doctor: is it one, through which proxy, and who may log in.
//
// Each request stands alone: no redirect is followed, nothing is unpacked, no proxy of the
// environment is used, so that each answer is seen as it came. A password goes only to a server that some
// program of this machine would trust as it is (d.trusted), and only over connections that show the
// certificate that was examined.

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// A doctorAnswer is a response read to its end, or why there is none.
type doctorAnswer struct {
	status int
	header http.Header
	body   []byte // no more than maxLooked of it
	url    *url.URL
	err    error
}

// maxLooked bounds what is read of one answer: no more than the doctor has pushed, and some.
const maxLooked = 1 << 30

// base is the registry's URL.
func (d *doctor) base() string {
	if d.plain {
		return "http://" + d.written()
	}
	return "https://" + d.written()
}

// dialTo connects to the address that was found good for the registry, and to others by their names.
func (d *doctor) dialTo(ctx context.Context, network, address string) (net.Conn, error) {
	if host, _, err := net.SplitHostPort(address); err == nil && strings.EqualFold(host, d.host) {
		_, port, _ := net.SplitHostPort(address)
		at, usual, _ := net.SplitHostPort(d.address)
		if port == usual {
			return d.dial(ctx, network, d.address)
		}
		return d.dial(ctx, network, net.JoinHostPort(at, port))
	}
	return d.dial(ctx, network, address)
}

// sameCertificate has a connection to the registry show the certificate that was examined.
func (d *doctor) sameCertificate(state tls.ConnectionState) error {
	if d.chain == nil || len(state.PeerCertificates) == 0 || !bytes.Equal(state.PeerCertificates[0].Raw, d.chain[0].Raw) {
		return errors.New("it shows another certificate than a moment ago")
	}
	return nil
}

// client makes one request per connection to the registry, or to others with this system's trust.
func (d *doctor) client(registry bool) *http.Client {
	config := &tls.Config{ServerName: d.host, InsecureSkipVerify: true, VerifyConnection: d.sameCertificate}
	if !registry {
		config = &tls.Config{RootCAs: d.systemPool()}
	}
	return &http.Client{
		Transport:     &http.Transport{DialContext: d.dialTo, TLSClientConfig: config, DisableCompression: true, DisableKeepAlives: true, TLSHandshakeTimeout: d.patience},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// A doctorRequest is one that the doctor makes.
type doctorRequest struct {
	method, url string
	body        io.Reader
	length      int64 // of the body; -1 has it sent in chunks
	header      map[string]string
	patience    time.Duration // beyond the doctor's own
	foreign     bool          // it is not for the registry itself
}

func (d *doctor) send(ctx context.Context, r doctorRequest) *doctorAnswer {
	ctx, cancel := context.WithTimeout(ctx, d.patience+r.patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, r.body)
	if err != nil {
		return &doctorAnswer{err: err}
	}
	if r.body != nil {
		req.ContentLength = r.length
	}
	for key, value := range r.header {
		req.Header.Set(key, value)
	}
	resp, err := d.client(!r.foreign).Do(req)
	if err != nil {
		return &doctorAnswer{err: err, url: req.URL}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxLooked))
	return &doctorAnswer{resp.StatusCode, resp.Header, body, req.URL, err}
}

// get is send without a body.
func (d *doctor) get(ctx context.Context, path string, header map[string]string) *doctorAnswer {
	return d.send(ctx, doctorRequest{method: http.MethodGet, url: d.base() + path, header: header})
}

// message is what the registry says of an error in the form of the specification; "" if it was
// not the registry that answered.
func (a *doctorAnswer) message() string {
	var e struct {
		Errors []struct {
			Code, Message string
			Detail        any
		}
	}
	if json.Unmarshal(a.body, &e) != nil || len(e.Errors) == 0 {
		return ""
	}
	said := strings.TrimSpace(e.Errors[0].Code + ": " + e.Errors[0].Message)
	if detail, ok := e.Errors[0].Detail.(string); ok {
		said += " (" + detail + ")"
	}
	return said
}

// by names who answered, if that can be seen.
func (a *doctorAnswer) by() string {
	if server := a.header.Get("Server"); server != "" {
		return " (Server: " + server + ")"
	}
	if a.header.Get("Via") != "" {
		return " (Via: " + a.header.Get("Via") + ")"
	}
	return ""
}

// in is a status for people.
func (a *doctorAnswer) in() string {
	if a.err != nil {
		var timeout net.Error
		if errors.As(a.err, &timeout) && timeout.Timeout() {
			return "no answer in time"
		}
		return plainly(a.err).Error()
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)))
}

// ofProxy reports whether it is a proxy, and not the registry, that asks for a password here: it does so with a page
// for people.
func (a *doctorAnswer) ofProxy() bool {
	scheme, _, _ := strings.Cut(a.header.Get("WWW-Authenticate"), " ")
	return a.err == nil && a.status == http.StatusUnauthorized && strings.EqualFold(scheme, "Basic") && strings.HasPrefix(a.header.Get("Content-Type"), "text/html")
}

// asker is what asks for a password before the registry does.
func (a *doctorAnswer) asker() string {
	if strings.HasPrefix(a.header.Get("Server"), "nginx") {
		return "nginx"
	}
	return "a proxy"
}

// askRegistryAlone is what to do about that.
func (a *doctorAnswer) askRegistryAlone() remedy {
	if a.asker() == "nginx" {
		return advise("Remove auth_basic and auth_basic_user_file from the registry's location in nginx, and let the registry alone know the users (Berth: --htpasswd, or berth user add). Then:", "sudo nginx -s reload")
	}
	return advise("Let the proxy ask for no password at the registry's location, and let the registry alone know the users (Berth: --htpasswd, or berth user add).")
}

// nginxLines are what a good nginx has for a registry, as docs/deploy.md shows.
var nginxLines = []string{
	"location / {",
	"    proxy_pass http://127.0.0.1:5000;   # where the registry listens",
	"    proxy_http_version 1.1;",
	"    proxy_set_header Host $http_host;",
	"    proxy_set_header X-Forwarded-Proto $scheme;",
	"    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
	"    client_max_body_size 0;",
	"    proxy_request_buffering off;",
	"}"}

// onServer is the doctor's own command on the other machine.
const onServer = "sudo berth doctor --data " + serviceData + "      # on the server"

// proxyRemedy is what to do to the proxy, and for nginx what it needs.
func (d *doctor) proxyRemedy(do string) remedy {
	if strings.Contains(d.server, "nginx") || d.server == "" {
		return remedy{do + " With nginx the registry's location needs all of this, and afterwards: sudo nginx -s reload", nginxLines}
	}
	return advise(do)
}

// fetchCA asks for the CA of a Berth that has one, over plain HTTP; it is believed only if it has signed
// the certificate.
func (d *doctor) fetchCA(ctx context.Context) {
	a := d.send(ctx, doctorRequest{method: http.MethodGet, url: "http://" + net.JoinHostPort(d.host, d.addressPort()) + "/trust.crt"})
	if a.err != nil || a.status != http.StatusOK {
		return
	}
	block, _ := pem.Decode(a.body)
	if block == nil {
		return
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil || d.chain[0].CheckSignatureFrom(ca) != nil {
		return
	}
	d.ca, d.berth = ca, true
}

func (d *doctor) addressPort() string {
	_, port, _ := net.SplitHostPort(d.address)
	return port
}

// examineAPI finds out whether it is a registry that answers.
func (d *doctor) examineAPI(ctx context.Context) bool {
	a := d.get(ctx, "/v2/", nil)
	if a.err != nil {
		var alert tls.AlertError
		if errors.As(a.err, &alert) || strings.Contains(a.err.Error(), "certificate required") {
			d.fail("registry", "client-certificate", advise("Give each program a certificate and key for it; for docker client.cert and client.key in", "/etc/docker/certs.d/"+d.written()+"/"), "it wants a client certificate")
			return false
		}
		d.fail("registry", "no-answer", advise("See the log of the registry, and of a proxy before it. If it is a Berth:", onServer), "it takes connections and does not answer GET /v2/: %s", a.in())
		return false
	}
	d.server = a.header.Get("Server")
	isRegistry := a.header.Get("Docker-Distribution-Api-Version") != "" || a.message() != "" || a.status == 401 && a.header.Get("WWW-Authenticate") != ""
	switch {
	case a.status == 403 && strings.HasPrefix(d.server, "AirTunes"):
		d.fail("registry", "airplay", advise("Turn it off (System Settings, General, AirDrop & Handoff, AirPlay Receiver), or give the registry another port.", "berth --addr :5001"), "it is the AirPlay Receiver of macOS that answers on this port")
		return false
	case a.status/100 == 3:
		to, err := url.Parse(a.header.Get("Location"))
		if err == nil && d.plain && to.Scheme == "https" {
			called := doctor{host: d.host, port: to.Port()}
			d.fail("registry", "redirects-to-https", advise("Name the port of https in the names of images.", "berth doctor "+called.written()), "plain HTTP is only for a redirect here, to %s", to)
			return false
		}
		d.fail("registry", "redirects", advise("Clients do not follow that. Have the proxy serve the registry at the root of its host."), "GET /v2/ is redirected to %s%s", a.header.Get("Location"), a.by())
		return false
	case a.status == errSpeakTLS.status && strings.Contains(a.message(), errSpeakTLS.message):
		d.berth = true // and TLS was tried here first, so somebody else has passed this on
		r := advise("Let the proxy speak https with it, such as proxy_pass https://127.0.0.1:5000; in nginx. Or, where the proxy does TLS on the same machine, let Berth speak plain HTTP:", "berth --tls=off --addr 127.0.0.1:5000 --trusted-proxies 127.0.0.1", "",
			"as a service:", "sudo berth install --tls=off --addr 127.0.0.1:5000 --trusted-proxies 127.0.0.1")
		d.fail("registry", "backend-wants-https", r, "the proxy speaks plain HTTP with Berth, which wants https there: %s%s%s", a.in(), a.by(), saying(a))
		return false
	case a.status >= 502 && a.status <= 504:
		d.fail("registry", "gateway-fails", advise("See whether the registry runs behind the proxy, and whether the proxy has its right address and scheme. If it is a Berth:", onServer), "the proxy does not reach the registry: %s%s", a.in(), a.by())
		return false
	case !isRegistry && a.status == 400 && bytes.Contains(bytes.ToLower(a.body), []byte("https")):
		d.fail("registry", "wants-https", advise("Use https: it is docker's way unless insecure-registries says otherwise."), "the port is one for TLS: %s", a.in())
		return false
	case !isRegistry && a.status == 401:
		d.fail("registry", "challenge-missing", d.proxyRemedy("Let the proxy pass the header WWW-Authenticate on."), "it answers 401 without saying how to log in: WWW-Authenticate is missing%s", a.by())
		return false
	case !isRegistry && a.status == 403:
		d.fail("registry", "proxy-refuses", advise("See the rules of the firewall or proxy."), "something before the registry refuses: %s%s", a.in(), a.by())
		return false
	case !isRegistry:
		d.fail("registry", "not-a-registry", advise("Name the host and port of the registry itself. A proxy must serve /v2/ at the root of its host; a path prefix does not work."), "what answers is not a registry: GET /v2/ is %s%s", a.in(), a.by())
		return false
	}
	if a.ofProxy() {
		d.note("registry", "%s answers, before the registry does%s", a.asker(), a.by())
	} else {
		d.well("registry", "%s answers%s", d.kind(a), a.by())
	}
	d.examineClock(a)
	return true
}

// serviceOfBerth is how Berth calls itself in a challenge.
var serviceOfBerth = expression(`realm="[^"]*/v2/token",service="[0-9a-f]{32}"`)

// kind says which registry it is, if that can be seen.
func (d *doctor) kind(a *doctorAnswer) string {
	challenge := a.header.Get("WWW-Authenticate")
	switch {
	case d.berth || serviceOfBerth().MatchString(challenge):
		d.berth = true
		return "Berth"
	case strings.Contains(challenge, "harbor-registry"):
		return "Harbor"
	case strings.Contains(challenge, "/jwt/auth"):
		return "GitLab's registry"
	case strings.Contains(challenge, "Gitea"), strings.Contains(challenge, "Forgejo"):
		return "the registry of Gitea or Forgejo"
	case strings.Contains(challenge, `service="ghcr.io"`):
		return "GitHub's registry"
	case strings.Contains(challenge, "zot"):
		return "zot"
	}
	return "a registry"
}

// examineClock compares the clocks.
func (d *doctor) examineClock(a *doctorAnswer) {
	date, err := http.ParseTime(a.header.Get("Date"))
	if err != nil {
		return
	}
	off := d.now().Sub(date)
	if off > -5*time.Minute && off < 5*time.Minute {
		d.well("clock", "the clocks agree")
		return
	}
	where := "ahead of"
	if off < 0 {
		where, off = "behind", -off
	}
	d.warn("clock", "clocks-differ", advise("Tokens and certificates depend on it. Set the one that is wrong.", "timedatectl      # on both machines", "sudo timedatectl set-ntp true"),
		"the clock of this machine is %s %s that of the registry", formatDuration(off), where)
}

// A doctorSession is somebody who may do something in the repository.
type doctorSession struct {
	*doctor
	name          string // the repository
	authorization string // the header; "" for none
}

// target is the repository that is pushed to.
func (d *doctor) target() string {
	if d.repository != "" {
		return d.repository
	}
	return "berth-doctor"
}

// challengeForm is one of a challenge's parameters.
var challengeForm = expression(`(\w+)="([^"]*)"`)

// logIn goes through the login. It returns nil where there is no use in going on.
func (d *doctor) logIn(ctx context.Context) *doctorSession {
	s := &doctorSession{doctor: d, name: d.target()}
	a := d.get(ctx, "/v2/", nil)
	challenge := a.header.Get("WWW-Authenticate")
	scheme, _, _ := strings.Cut(challenge, " ")
	if a.status == http.StatusOK && challenge == "" {
		d.well("login", "it asks for no password")
		if d.user == "" {
			return s
		}
	}
	if a.ofProxy() {
		r := a.askRegistryAlone()
		d.add(diagnosis{Check: "login", Level: isNote, Fault: "proxy-asks-password", Do: r.do, Lines: r.lines, Says: fmt.Sprintf("%s asks for a password itself, before the registry does. "+
			"Pulls without a password fail, and so does everybody whom %[1]s does not know", a.asker())})
	}
	if d.user == "" && challenge != "" {
		d.useStoredLogin()
	}
	if d.user != "" && !d.trusted {
		d.fail("login", "password-not-sent", advise("Settle the trust first, then run this again."), "the password was not sent: no program here would use this server as it is")
		return nil
	}
	if d.user != "" && d.plain && !d.onThisMachine() {
		d.warn("login", "password-in-clear", advise("Let the registry speak TLS.", "berth --tls=auto"), "over plain HTTP, whoever is in the network can read the password")
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(d.user+":"+d.password))
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		return d.logInByToken(ctx, s, challenge, basic)
	case d.user == "" && a.status == http.StatusOK:
		return s
	case d.user == "":
		d.askUser()
		return nil
	}
	s.authorization = basic
	switch b := d.get(ctx, "/v2/", map[string]string{"Authorization": basic}); {
	case b.status == http.StatusOK:
	case b.ofProxy():
		d.fail("login", "login-refused", b.askRegistryAlone(), "%s cannot log in: %s asks for a password itself, and does not take this one%s", d.user, b.asker(), b.by())
		return nil
	case a.ofProxy():
		d.fail("login", "login-refused", a.askRegistryAlone(), "%s cannot log in: %s takes the password, and the registry behind it does not: %s%s", d.user, a.asker(), b.in(), saying(b))
		return nil
	default:
		d.fail("login", "login-refused", d.proxyRemedy("Check the name and the password. If they are right, a proxy takes the header Authorization away."), "%s cannot log in: %s%s", d.user, b.in(), b.by())
		return nil
	}
	d.well("login", "%s logs in with %s, which goes along with each request (Basic)", d.user, d.secret())
	return s
}

// secret is what a user logs in with, for people.
func (d *doctor) secret() string {
	switch {
	case robotForm().MatchString(d.password):
		return "a token that berth token or the page has made"
	case d.loginFile != "":
		return "the password in " + d.loginFile
	}
	return "the password"
}

// askUser says that somebody has to log in for the rest.
func (d *doctor) askUser() {
	if d.asked {
		return
	}
	d.asked = true
	x := diagnosis{Check: "login", Level: isNote, Fault: "login-needed", Do: "To examine the login, a push and a pull, give a user; the password is asked for.", Lines: []string{"berth doctor --user NAME " + d.whole()},
		Says: "it asks for a user and a password, so pushes and pulls were not examined"}
	if d.unused != "" {
		x.Says += ". " + d.unused
	}
	d.add(x)
}

// whole is the registry with the repository, if one was named.
func (d *doctor) whole() string {
	if d.repository == "" {
		return d.written()
	}
	return d.written() + "/" + d.repository
}

// loginFiles are those in which docker and podman of this person store logins.
func (d *doctor) loginFiles() (files []string) {
	if d.root == "" {
		return loginFiles(d.env)
	}
	for _, file := range []string{".docker/config.json", ".config/containers/auth.json"} {
		files = append(files, filepath.Join(d.root, d.home, file))
	}
	return files
}

// calledAtHome is a file as a person writes it.
func (d *doctor) calledAtHome(file string) string {
	if inside, ok := strings.CutPrefix(file, filepath.Join(d.root, d.home)+string(filepath.Separator)); ok && d.home != "" {
		return "~/" + filepath.ToSlash(inside)
	}
	return file
}

// useStoredLogin takes the login that docker or podman would use here, where it stands in their files: with a server
// that a program here trusts, and not in the clear, since nobody has asked for that. d.unused says why there is none.
func (d *doctor) useStoredLogin() {
	user, password, file, err := loginIn(d.loginFiles(), d.written())
	file = d.calledAtHome(file)
	switch {
	case err != nil:
		d.unused = "Of what docker login has stored: " + plainly(err).Error()
	case user == "" || password == "":
		d.unused = d.loginOfAnotherPort()
	case user == "<token>": // which is docker's word for a token of another kind
	case !d.trusted:
		d.unused = "What docker login has stored in " + file + " was not sent, since no program here would use this server as it is"
	case d.plain && !d.onThisMachine():
		d.unused = "What docker login has stored in " + file + " was not sent, since over plain HTTP whoever is in the network can read it"
	default:
		d.user, d.password, d.loginFile = user, password, file
		d.note("login", "no --user was given, so %s logs in, by what docker login has stored in %s", printable(user), file)
	}
}

// loginOfAnotherPort says that docker or podman have a login for the host at another port; "" if they have none.
func (d *doctor) loginOfAnotherPort() string {
	for _, file := range d.loginFiles() {
		text, err := os.ReadFile(file)
		var config struct{ Auths map[string]any }
		if err != nil || json.Unmarshal(text, &config) != nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(config.Auths)) {
			bare := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://"), "/")
			if bare != d.written() && bareHost(bare) == d.host {
				return "This machine has a login for " + name + " in " + d.calledAtHome(file) + ", which is another port"
			}
		}
	}
	return ""
}

// logInByToken is logIn by Docker's token flow.
func (d *doctor) logInByToken(ctx context.Context, s *doctorSession, challenge, basic string) *doctorSession {
	params := map[string]string{}
	for _, m := range challengeForm().FindAllStringSubmatch(challenge, -1) {
		params[m[1]] = m[2]
	}
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Host == "" {
		d.fail("login", "realm-wrong", advise("See the settings of the registry for its token server."), "the address for tokens is not a URL: %q", params["realm"])
		return nil
	}
	own := strings.EqualFold(realm.Host, d.written()) || strings.EqualFold(realm.Hostname(), d.host) && realm.Port() == ""
	scheme, _, _ := strings.Cut(d.base(), "://")
	toProxy := d.proxyRemedy("The registry does not know how clients call it. Let the proxy pass Host and X-Forwarded-Proto on, and let the registry believe them (Berth: --trusted-proxies 127.0.0.1, or --public-url " + d.base() + ").")
	switch {
	case scheme == "https" && realm.Scheme == "http":
		d.fail("login", "realm-http", toProxy, "the registry sends clients for tokens to %s: http, though it is reached by https", realm)
		if !strings.EqualFold(realm.Hostname(), d.host) {
			return nil
		}
		realm.Scheme, realm.Host = scheme, d.written()
		own = true
	case !own && strings.HasSuffix(realm.Path, "/v2/token"):
		d.fail("login", "realm-inner", toProxy, "the registry sends clients for tokens to %s, which is not how it is called here", realm)
		realm.Scheme, realm.Host = scheme, d.written()
		own = true
	}
	query := realm.Query()
	query.Set("service", params["service"])
	query.Add("scope", "repository:"+s.name+":pull,push,delete")
	realm.RawQuery = query.Encode()
	token := d.fetchToken(ctx, realm, own, basic)
	if token == "" {
		return nil
	}
	subject, ok := subjectOf(token)
	if ok && d.berth {
		d.subject = strings.TrimPrefix(subject, "user:")
	}
	if ok && subject == "" && d.user != "" {
		d.fail("login", "authorization-dropped", d.proxyRemedy("Let the proxy pass the header Authorization on: remove a line such as proxy_set_header Authorization \"\"."), "the registry does not get the password: it gave a token for nobody")
		return nil
	}
	s.authorization = "Bearer " + token
	if a := d.get(ctx, "/v2/", map[string]string{"Authorization": s.authorization}); a.ofProxy() {
		d.fail("login", "proxy-asks-password", a.askRegistryAlone(), "%s asks for a password itself, where clients send the token that the registry gave them%s", a.asker(), a.by())
		return nil
	} else if a.status == http.StatusUnauthorized && d.user != "" {
		d.fail("login", "authorization-dropped", d.proxyRemedy("Let the proxy pass the header Authorization on, as it comes."), "the registry gives a token and does not get it back with the next request%s", a.by())
		return nil
	}
	switch {
	case d.user != "":
		d.well("login", "%s logs in with %s. The registry answers with tokens that are valid for some minutes, as docker expects", d.user, d.secret())
	case !strings.Contains(string(grantsOf(token)), `"push"`):
		d.askUser()
		return nil
	default:
		d.well("login", "everybody may push there, without a password")
	}
	return s
}

// fetchToken asks for a token at realm; "" if there is none. own says that it is the registry's own server.
func (d *doctor) fetchToken(ctx context.Context, realm *url.URL, own bool, basic string) string {
	header := map[string]string{}
	if d.user != "" {
		header["Authorization"] = basic
		if !own && realm.Scheme != "https" {
			d.fail("login", "realm-in-clear", advise("Let the token server speak TLS."), "the password would go in the clear to %s; it was not sent", realm.Host)
			return ""
		}
	}
	a := d.send(ctx, doctorRequest{method: http.MethodGet, url: realm.String(), header: header, foreign: !own})
	var got struct {
		Token  string
		Access string `json:"access_token"`
	}
	switch {
	case a.err != nil:
		r := advise("See whether this machine reaches it, and trusts its certificate.")
		if host := registryHost(realm.Host, ""); host != "" { // or it is nothing to type
			r.lines = []string{"curl -v " + realm.Scheme + "://" + host}
		}
		d.fail("login", "realm-unreachable", r, "the server for tokens, %s, is not reached: %s", realm.Host, a.in())
	case a.status == http.StatusUnauthorized && d.user == "":
		d.askUser()
	case a.status == http.StatusUnauthorized || a.status == http.StatusForbidden:
		d.fail("login", "password-wrong", d.checkPassword(), "%s cannot log in with %s: %s%s", d.user, d.secret(), a.in(), saying(a))
	case a.status == http.StatusTooManyRequests:
		d.fail("login", "too-many-logins", advise("Wait a minute, and see which machine tries a wrong password again and again."), "too many wrong passwords came from here: %s%s", a.in(), saying(a))
	case a.status != http.StatusOK || json.Unmarshal(a.body, &got) != nil || got.Token+got.Access == "":
		d.fail("login", "token-not-given", d.proxyRemedy("See the log of the registry; a proxy must pass "+realm.Path+" on, with its query."), "no token comes from %s: %s%s%s", realm.Host+realm.Path, a.in(), a.by(), saying(a))
	case got.Token != "":
		return got.Token
	default:
		return got.Access
	}
	return ""
}

// checkPassword is for a password, or a token, that is refused.
func (d *doctor) checkPassword() remedy {
	if m := robotForm().FindStringSubmatch(d.password); m != nil {
		return advise("See on the server whether there is a token of that id, and whether it has expired.", "berth token list      # the id is "+m[1])
	}
	if d.loginFile != "" {
		return advise("Log in anew, which replaces what is in "+d.loginFile+"; on the server of a Berth berth user list says which users there are.", "docker login "+d.written())
	}
	return advise("Check the name and the password; on the server of a Berth:", "berth user list", "berth user passwd "+d.user)
}

// caller is who logs in as berth policy check calls it.
func (d *doctor) caller() string {
	switch m := robotForm().FindStringSubmatch(d.password); {
	case m != nil:
		return "token:" + m[1] // whatever the user is called
	case d.subject != "":
		return d.subject // as ldap:ann
	case d.user != "":
		return d.user
	}
	return "anonymous"
}

// saying is the registry's message, in brackets.
func saying(a *doctorAnswer) string {
	if text := a.message(); text != "" {
		return ": " + text
	}
	return ""
}

// grantsOf is what a JWT says, in JSON; nil if it is none.
func grantsOf(token string) []byte {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	return text
}

// subjectOf is for whom a JWT is.
func subjectOf(token string) (subject string, ok bool) {
	var claims struct {
		Subject *string `json:"sub"`
	}
	if json.Unmarshal(grantsOf(token), &claims) != nil || claims.Subject == nil {
		return "", false
	}
	return *claims.Subject, true
}

// examineProxies looks for HTTP proxies that would catch requests to the registry, and tries them.
func (d *doctor) examineProxies(ctx context.Context) {
	type setting struct {
		where  string
		config *httpproxy.Config
		how    []string
	}
	get := func(names ...string) string {
		for _, name := range names {
			if value, ok := d.env.lookup(name); ok && value != "" {
				return value
			}
		}
		return ""
	}
	settings := []setting{{"the environment", &httpproxy.Config{HTTPProxy: get("HTTP_PROXY", "http_proxy"), HTTPSProxy: get("HTTPS_PROXY", "https_proxy"), NoProxy: get("NO_PROXY", "no_proxy")},
		[]string{"export NO_PROXY=" + strings.TrimPrefix(get("NO_PROXY", "no_proxy")+","+d.host, ",")}}}
	for _, unit := range d.dockerUnits() {
		config := &httpproxy.Config{}
		for _, m := range proxyVariable().FindAllSubmatch(d.readBelow(unit), -1) {
			value := string(m[2])
			switch strings.ToUpper(string(m[1])) {
			case "HTTP_PROXY":
				config.HTTPProxy = value
			case "HTTPS_PROXY":
				config.HTTPSProxy = value
			case "NO_PROXY":
				config.NoProxy = value
			}
		}
		settings = append(settings, setting{unit, config, []string{"[Service]", `Environment="NO_PROXY=` + strings.TrimPrefix(config.NoProxy+","+d.host, ",") + `"`, "", "sudo systemctl daemon-reload && sudo systemctl restart docker"}})
	}
	var daemon struct {
		Proxies struct {
			HTTP  string `json:"http-proxy"`
			HTTPS string `json:"https-proxy"`
			No    string `json:"no-proxy"`
		}
	}
	if json.Unmarshal(d.readBelow("/etc/docker/daemon.json"), &daemon) == nil {
		p := daemon.Proxies
		settings = append(settings, setting{"/etc/docker/daemon.json", &httpproxy.Config{HTTPProxy: p.HTTP, HTTPSProxy: p.HTTPS, NoProxy: p.No},
			[]string{`"proxies": { ..., "no-proxy": "` + strings.TrimPrefix(p.No+","+d.host, ",") + `" }`, "", "sudo systemctl restart docker"}})
	}
	target, err := url.Parse(d.base() + "/v2/")
	if err != nil {
		return
	}
	for _, s := range settings {
		through, err := s.config.ProxyFunc()(target)
		if err != nil || through == nil {
			continue
		}
		if why := d.failsThrough(ctx, through); why != "" {
			d.fail("proxy", "proxy-catches", advise("Have the registry reached without it: name it in NO_PROXY.", s.how...), "by %s, requests go through the proxy %s, which does not reach the registry: %s", s.where, through.Redacted(), why)
		} else {
			d.well("proxy", "by %s, requests go through the proxy %s, which reaches the registry", s.where, through.Redacted())
		}
	}
}

// proxyVariable is a variable in a unit or a file of defaults.
var proxyVariable = expression(`(?i)\b(https?_proxy|no_proxy)=["']?([^\s"']+)`)

// failsThrough says why GET /v2/ does not work through a proxy; "" if it does.
func (d *doctor) failsThrough(ctx context.Context, proxy *url.URL) string {
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	client := d.client(true)
	client.Transport.(*http.Transport).DialContext = d.dial
	client.Transport.(*http.Transport).Proxy = http.ProxyURL(proxy)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base()+"/v2/", nil)
	if err != nil {
		return err.Error()
	}
	resp, err := client.Do(req)
	if err != nil {
		return plainly(err).Error()
	}
	resp.Body.Close()
	if resp.Header.Get("Docker-Distribution-Api-Version") == "" && resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusOK {
		return (&doctorAnswer{status: resp.StatusCode}).in()
	}
	return ""
}
