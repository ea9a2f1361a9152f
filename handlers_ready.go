// Is it well? What monitors, service managers and load balancers ask.
//
// /healthz says that the process is alive, /readyz that requests should come here. A server asks itself the latter,
// as a client on its own machine does, for the watchdog of its service manager.

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// probes are the questions whether a server is well.
type probes struct{ *server }

// getHealth says that the process is alive.
func (s probes) getHealth(w http.ResponseWriter, r *http.Request) error {
	return writeBody(w, "text/plain; charset=utf-8", []byte("ok\n"))
}

// getReady says whether requests should come here: the data directory is there, and the database answers and
// has never been found damaged. Parts of one that is damaged still answer, but a push may harm it more.
func (s probes) getReady(w http.ResponseWriter, r *http.Request) error {
	if s.st.ruin.missing() != "" { // the log has the path, which is not for everybody
		return errNotReady.with("the data directory, or the database in it, is gone")
	}
	err := s.st.answers()
	if s.st.ruin.known() != nil {
		return errNotReady.with("the database is damaged")
	}
	if err != nil {
		s.log.Error("the database does not answer", "error", err)
		return errNotReady.with("the database does not answer")
	}
	return writeBody(w, "text/plain; charset=utf-8", []byte("ready\n"))
}

// answersItself returns an error unless this server answers a client on its own machine that the registry is
// ready, or why another start would not help: that of a database that is damaged. s.address is where it listens.
func (s probes) answersItself(ctx context.Context) error {
	err := s.asksItself(ctx)
	if errors.Is(err, errNotReady) && s.st.ruin.known() != nil {
		return nil
	}
	return err
}

func (s probes) asksItself(ctx context.Context) error {
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip.IsUnspecified() {
		host = "localhost"
	}
	address, name := net.JoinHostPort(host, port), ""
	if s.certificates == nil {
		return askReady(ctx, "http://"+address, "")
	}
	if s.certificates.acme != nil {
		name = s.certificates.names[0] // it has no certificate for another
	}
	return askReady(ctx, "https://"+address, name)
}

// askReady returns an error unless a registry on this machine says that it is ready. Over TLS it is asked for
// the certificate of name; "" is the host in the URL.
func askReady(ctx context.Context, url, name string) error {
	url += "/readyz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// Whose certificate it is does not matter: nothing secret is said, and only this machine is asked.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{ServerName: name, InsecureSkipVerify: true}}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case errNotReady.status:
		return fmt.Errorf("%s is answered with %s: %w", url, resp.Status, errNotReady)
	}
	return fmt.Errorf("%s is answered with %s", url, resp.Status)
}
