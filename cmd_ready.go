// `berth ready`: does the server of this data directory serve? For containers, whose images have no curl.

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// readyTimeout is how long the server may take to answer.
const readyTimeout = 10 * time.Second

// readyCommand is `berth ready`.
func readyCommand(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	if err := askServes(ctx, cfg); err != nil {
		return err
	}
	_, err := fmt.Fprintln(stdout, "ready")
	return err
}

// askServes returns an error unless the server of a data directory serves. It asks the server where it listens, and
// then there, as a client would, for /readyz.
func askServes(ctx context.Context, cfg *config) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	where := askWhere(ctx, cfg)
	host, port, err := net.SplitHostPort(where.Address)
	if err != nil {
		why := ""
		if there, err := isThere(cfg.dir); err == nil && !there {
			why = ": that directory is missing"
		}
		return fmt.Errorf("no server runs on %s, as far as can be seen%s; if it has another data directory, name that with --data or BERTH_DATA", cfg.dir, why)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	scheme := "http"
	if where.TLS {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	// The certificate is for other names, and what is asked is no secret.
	resp, err := (&http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", connectionProblem(req.URL.Host, err))
	}
	defer discard(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return newRemoteError("the server", "", resp)
	}
	return nil
}
