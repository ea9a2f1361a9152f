// A request of a client is sent, and watched: that something moves, and what an answer that is an error says.

package main

import (
	"cmp"
	"context"
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
