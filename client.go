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
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
