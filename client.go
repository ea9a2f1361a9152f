// A client of other registries: the protocol that handlers.go serves, from the other side.
//
// A client belongs to one registry. Before its first request it asks /v2/ without a password:
// that says whether the registry is there, whether it speaks TLS (only registries on this machine
// may speak plain HTTP unasked), and how it wants to know who is asking. client_auth.go answers that.
// client_content.go has manifests, blobs, uploads and lists.
//
// What it keeps to:
//
//   - A password is sent to the registry itself, and to the endpoint of tokens that the registry
//     names; never by plain HTTP where the registry speaks TLS, and never along a redirect to
//     another host. Redirects from https to http are refused.
//   - What is named by a digest is verified while it is read, and what answers say is bounded.
//   - There is no limit on how long a transfer takes, only on how long nothing moves.
//   - Memory is bounded: only manifests, errors and pages of lists are read whole.

package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

// clientOptions say how to reach a registry. The zero value is for anonymous use.
type clientOptions struct {
	user, password string            // "" for anonymous
	plainHTTP      bool              // plain HTTP, and the password goes over it
	tls            *tls.Config       // CAs and client certificates; nil for those of the system
	transport      http.RoundTripper // instead of a transport with tls; nil for that
	stall          time.Duration     // how long nothing may move; 0 for clientStall
	answer         time.Duration     // how long the answer to a push may take; 0 for clientAnswer
	chunk          int64             // bytes of a blob in one request; 0 for clientChunk
}

const (
	clientStall = time.Minute
	// clientAnswer is longer, since some registries copy a blob before they say that it is here.
	clientAnswer = 5 * time.Minute
	// clientChunk is less than what proxies commonly let through in one request (100 MB).
	clientChunk = 64 << 20
	// maxAnswer bounds what is read of an error or a token.
	maxAnswer = 1 << 20
)

// A client talks to one registry. It may be used by many goroutines.
type client struct {
	host string // as people write it
	http *http.Client
	clientOptions

	mu        sync.Mutex        // guards what follows
	base      *url.URL          // scheme and host; nil before the first answer
	challenge *challenge        // nil: it wants nothing so far
	tokens    map[string]bearer // by scopes
}

// newClient returns a client of the registry at HOST[:PORT]. It sends nothing yet. The host may have http:// or
// https:// before it, which decides between the two. docker.io stands for the host that Docker Hub has.
func newClient(host string, o clientOptions) (*client, error) {
	scheme, rest, found := strings.Cut(host, "://")
	if !found {
		scheme, rest = "", host
	}
	rest = strings.TrimSuffix(rest, "/")
	if rest == "docker.io" || rest == "index.docker.io" {
		rest = "registry-1.docker.io"
	}
	u, err := url.Parse("https://" + rest)
	if err != nil || u.Hostname() == "" || u.Host != rest || scheme != "" && scheme != "http" && scheme != "https" {
		return nil, usageErrorf("%q is not the address of a registry; write HOST or HOST:PORT", host)
	}
	o.plainHTTP = o.plainHTTP && scheme == "" || scheme == "http"
	o.stall, o.answer = cmp.Or(o.stall, clientStall), cmp.Or(o.answer, clientAnswer)
	o.chunk = cmp.Or(o.chunk, clientChunk)
	c := &client{host: rest, clientOptions: o, tokens: make(map[string]bearer)}
	switch {
	case scheme != "":
		c.base = &url.URL{Scheme: scheme, Host: rest}
	case o.plainHTTP:
		c.base = &url.URL{Scheme: "http", Host: rest}
	case !isLoopback(u.Hostname()):
		c.base = &url.URL{Scheme: "https", Host: rest}
	}
	if o.transport == nil {
		o.transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSClientConfig:       o.tls,
			TLSHandshakeTimeout:   15 * time.Second,
			ExpectContinueTimeout: time.Second,
			IdleConnTimeout:       90 * time.Second,
			MaxIdleConnsPerHost:   8,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // digests are of what is sent
		}
	}
	c.http = &http.Client{Transport: o.transport, CheckRedirect: checkRedirect}
	return c, nil
}

// close ends the connections that are idle.
func (c *client) close() { c.http.CloseIdleConnections() }

// isLoopback reports whether a host is this machine by its name alone: 127.0.0.1, ::1, localhost.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// clientAgent is the User-Agent of all requests: berth/VERSION.
var clientAgent = sync.OnceValue(func() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		if v := strings.Trim(info.Main.Version, "()"); v != "" {
			return "berth/" + v
		}
	}
	return "berth"
})

// checkRedirect lets pulls be sent on, to a store of blobs say, without the password. Other
// requests are not sent on: their answer is that of the registry.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if m := via[0].Method; m != http.MethodGet && m != http.MethodHead {
		return http.ErrUseLastResponse
	}
	if len(via) == 10 {
		return errors.New("ten redirects, one after the other")
	}
	for _, before := range via {
		if before.URL.Scheme == "https" && req.URL.Scheme != "https" {
			return fmt.Errorf("a redirect to plain HTTP (%s) is not followed", req.URL.Host)
		}
		if before.URL.Host != req.URL.Host {
			req.Header.Del("Authorization")
		}
	}
	return nil
}

// A clientRequest is a request before it is known who is asking, and whether it must be sent again.
type clientRequest struct {
	doing  string // for errors: "sending the manifest home/app:1"
	method string
	path   string // on the registry: /v2/…; or
	url    *url.URL
	scopes []string // the rights it needs
	header http.Header
	body   func() (io.Reader, error) // from the first byte, each time; nil for none
	length int64
	ok     []int // the statuses that are no errors
}

// do sends a request until the registry has said more than who are you. The caller closes the
// answer's body, which ends with an error when it stalls. The error is a *remoteError if the registry answered.
func (c *client) do(ctx context.Context, r *clientRequest) (*http.Response, error) {
	base, err := c.find(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.doing, err)
	}
	u := r.url
	if u == nil {
		if u, err = base.Parse(r.path); err != nil {
			return nil, err
		}
	}
	scopes := r.scopes
	for again := false; ; again = true {
		header := r.header.Clone()
		if header == nil {
			header = make(http.Header)
		}
		if sameOrigin(u, base) {
			authorization, err := c.authorization(ctx, scopes, again)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.doing, err)
			}
			if authorization != "" {
				header.Set("Authorization", authorization)
			}
		}
		resp, err := c.send(ctx, r, u, header)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.doing, err)
		}
		for _, status := range r.ok {
			if resp.StatusCode == status {
				return resp, nil
			}
		}
		if resp.StatusCode == http.StatusUnauthorized && !again && sameOrigin(u, base) && sameOrigin(resp.Request.URL, base) {
			if asked := parseChallenges(resp.Header.Values("WWW-Authenticate")); asked != nil && c.canAnswer(asked, header) {
				discard(resp.Body)
				scopes = c.adopt(asked, r.scopes)
				continue
			}
		}
		err = newRemoteError(c.host, r.doing, resp)
		discard(resp.Body)
		return nil, err
	}
}

// find asks the registry how to talk with it, once it is needed for the first time.
func (c *client) find(ctx context.Context) (*url.URL, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.challenge != nil {
		return c.base, nil
	}
	bases := []*url.URL{c.base}
	if c.base == nil {
		bases = []*url.URL{{Scheme: "https", Host: c.host}, {Scheme: "http", Host: c.host}}
	}
	var err error
	for _, base := range bases {
		var resp *http.Response
		resp, err = c.send(ctx, &clientRequest{method: http.MethodGet}, base.JoinPath("/v2/"), make(http.Header))
		if errors.Is(err, http.ErrSchemeMismatch) && c.base == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer discard(resp.Body)
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
			return nil, newRemoteError(c.host, "looking for a registry", resp)
		}
		c.base = base
		c.challenge = cmp.Or(parseChallenges(resp.Header.Values("WWW-Authenticate")), &challenge{})
		return base, nil
	}
	return nil, err
}

// ping asks /v2/ as the user of the client, and returns the answer's header. It fails when there is no registry, or
// the password is wrong.
func (c *client) ping(ctx context.Context) (http.Header, error) {
	resp, err := c.do(ctx, &clientRequest{doing: "asking for /v2/", method: http.MethodGet, path: "/v2/", ok: []int{200}})
	if err != nil {
		return nil, err
	}
	discard(resp.Body)
	return resp.Header, nil
}

// send sends one request, and watches that something moves until the answer's body is closed.
func (c *client) send(ctx context.Context, r *clientRequest, u *url.URL, header http.Header) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &movement{stall: c.stall, cancel: cancel}
	w.timer = time.AfterFunc(c.stall, func() { cancel(errStalled) })
	end := func() { w.timer.Stop(); cancel(nil) }
	var body io.Reader
	if r.body != nil {
		b, err := r.body()
		if err != nil {
			end()
			return nil, err
		}
		body = &movingBody{Reader: b, w: w, answer: c.answer, left: r.length}
	}
	if r.method != http.MethodGet && r.method != http.MethodHead && r.length == 0 {
		body = nil
		w.timer.Reset(c.answer)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		end()
		return nil, err
	}
	req.Header, req.ContentLength = header, r.length
	req.Header.Set("User-Agent", clientAgent())
	resp, err := c.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause == errStalled {
			err = plainError{fmt.Sprintf("%s does not answer", u.Host), errStalled}
		}
		end()
		return nil, connectionProblem(u.Host, err)
	}
	w.timer.Stop()
	resp.Body = &movingAnswer{ReadCloser: resp.Body, ctx: ctx, w: w, end: end}
	return resp, nil
}

// errStalled is the end of a request of which nothing has moved for too long.
var errStalled = errors.New("nothing has moved for too long")

// A movement ends a request unless it is told now and then that something moves.
type movement struct {
	timer  *time.Timer
	stall  time.Duration
	cancel context.CancelCauseFunc
}

// A movingBody is what a request sends. From its last byte on the registry may take longer.
type movingBody struct {
	io.Reader
	w      *movement
	answer time.Duration
	left   int64
}

func (b *movingBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.left -= int64(n); b.left <= 0 || err != nil {
		b.w.timer.Reset(b.answer)
	} else {
		b.w.timer.Reset(b.w.stall)
	}
	return n, err
}

func (b *movingBody) Close() error {
	if c, ok := b.Reader.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// A movingAnswer is what is received.
type movingAnswer struct {
	io.ReadCloser
	ctx context.Context
	w   *movement
	end func()
}

func (a *movingAnswer) Read(p []byte) (int, error) {
	a.w.timer.Reset(a.w.stall) // whoever reads slowly does not make the registry stall
	n, err := a.ReadCloser.Read(p)
	if err != nil && err != io.EOF && context.Cause(a.ctx) == errStalled {
		err = errStalled
	}
	a.w.timer.Stop()
	return n, err
}

func (a *movingAnswer) Close() error {
	a.end()
	return a.ReadCloser.Close()
}

// discard ends an answer, so that its connection can be used again if little is left of it.
func discard(body io.ReadCloser) {
	io.CopyN(io.Discard, body, 64<<10)
	body.Close()
}

func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }

// A remoteError is another registry's refusal. Its text is for people.
type remoteError struct {
	doing   string
	host    string
	status  int
	code    string // of the first error; "" if it is no registry's answer
	message string
	header  http.Header
}

func (e *remoteError) Error() string {
	what := strings.TrimSpace(strconv.Itoa(e.status) + " " + e.code)
	if e.doing != "" {
		return fmt.Sprintf("%s: %s answers %s: %s", e.doing, e.host, what, e.message)
	}
	return fmt.Sprintf("%s answers %s: %s", e.host, what, e.message)
}

// retryAfter is how long the registry says to wait before the next try; 0 if it does not say.
func (e *remoteError) retryAfter() time.Duration {
	text := e.header.Get("Retry-After")
	if n, err := strconv.Atoi(text); err == nil && n >= 0 {
		return time.Duration(min(n, 1<<20)) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil {
		return max(time.Until(t), 0)
	}
	return 0
}

// isRemote reports whether err is a registry's answer with one of these statuses.
func isRemote(err error, statuses ...int) bool {
	var e *remoteError
	if !errors.As(err, &e) {
		return false
	}
	for _, status := range statuses {
		if e.status == status {
			return true
		}
	}
	return len(statuses) == 0
}

// newRemoteError reads an answer that is an error, in the form of the specification or in another.
func newRemoteError(host, doing string, resp *http.Response) *remoteError {
	e := &remoteError{doing: doing, host: host, status: resp.StatusCode, header: resp.Header}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	var doc struct {
		Errors []struct {
			Code, Message string
			Detail        json.RawMessage
		}
	}
	json.Unmarshal(body, &doc) // or it is another form
	var said []string
	for _, one := range doc.Errors {
		text := one.Message
		var detail string
		if json.Unmarshal(one.Detail, &detail) == nil && detail != "" && detail != text {
			text += ": " + detail
		}
		said = append(said, cmp.Or(text, one.Code))
		e.code = cmp.Or(e.code, one.Code)
	}
	e.message = strings.Join(said, "; ")
	if len(said) == 0 {
		e.message = unlikeRegistry(resp)
	}
	if d := e.retryAfter(); d > 0 {
		e.message += fmt.Sprintf("; it wants to be asked again in %v", d.Round(time.Second))
	}
	// A stranger's text on a person's terminal.
	e.code, e.message = printable(fmt.Sprintf("%.40s", e.code)), printable(oneLine(fmt.Sprintf("%.500s", e.message)))
	return e
}

// unlikeRegistry says what an answer without the specification's errors may mean.
func unlikeRegistry(resp *http.Response) string {
	said := strings.ToLower(http.StatusText(resp.StatusCode))
	switch location := resp.Header.Get("Location"); {
	case resp.StatusCode/100 == 3 && location != "":
		return fmt.Sprintf("a redirect to %.200s, which is not followed", location)
	case resp.StatusCode == http.StatusUnauthorized:
		return "a user and a password are needed, or they are wrong"
	case resp.Request.Method == http.MethodHead:
		return said // which has no body
	case resp.StatusCode == http.StatusRequestEntityTooLarge:
		return said + "; a proxy before the registry limits what a request may send"
	case resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout:
		return said + "; does the registry run behind its proxy?"
	}
	return cmp.Or(said, "no reason is given") + "; that is not a registry's answer"
}

// connectionProblem says what an error of a connection means. errors.Is and As find in it what was in err.
func connectionProblem(host string, err error) error {
	var (
		already   plainError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		dns       *net.DNSError
		asked     *url.Error
	)
	said := ""
	switch {
	case errors.As(err, &already) || errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &authority):
		said = fmt.Sprintf("the certificate of %s is signed by a CA that this machine does not trust", host)
	case errors.As(err, &name):
		said = fmt.Sprintf("the certificate of %s is for other names: %v", host, name)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		said = fmt.Sprintf("the certificate of %s is not valid now (from %s to %s); is this machine's clock right?", host,
			invalid.Cert.NotBefore.Format(time.DateOnly), invalid.Cert.NotAfter.Format(time.DateOnly))
	case errors.Is(err, http.ErrSchemeMismatch):
		said = fmt.Sprintf("%s speaks plain HTTP, not TLS", host)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		said = fmt.Sprintf("%s has closed the connection", host)
	case errors.As(err, &dns):
		said = fmt.Sprintf("there is no host %s, as far as this machine can find out", dns.Name)
	case errors.As(err, &asked):
		if said = plainly(asked.Err).Error(); !strings.Contains(said, host) {
			said = host + ": " + said
		}
	default:
		return err
	}
	return plainError{said, err}
}
