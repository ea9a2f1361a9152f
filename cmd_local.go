// Commands that ask this machine's registry as its clients do (handlers_local.go): `berth export`, `berth import`.
//
// They work in the process of whoever calls them, with that person's files, pipes and permissions; what they want of the
// registry they ask of the server that has the data directory, through its socket, or else of the store, which they open.

package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// localStall is how long nothing may move: whoever saves an image to a pipe may take his time before the first byte.
	localStall = 24 * time.Hour
	// localPatience is how long the registry may take to sync a blob to a slow disk.
	localPatience = time.Hour
)

// askLocally calls fn with a client of the registry in the data directory.
func (cfg *config) askLocally(ctx context.Context, fn func(c *client) error) error {
	if _, err := lookForDirectory(cfg.dir); err != nil {
		return err
	}
	if err := cfg.refuseNowhere(); err != nil {
		return err
	}
	if !cfg.given["data"] {
		cfg.Usual = newDataDir(cfg.dirConfig).whole()
	}
	cfg.Who = whoAsks()
	socket := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return atSocket(cfg.dir, func(path string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		})
	}}
	defer socket.CloseIdleConnections()
	c, err := localClient(socket, cfg.Who)
	if err != nil {
		return err
	}
	_, err = c.ping(ctx)
	var op *net.OpError
	switch {
	case err == nil:
		return plainly(fn(c))
	case errors.As(err, &op) && op.Op == "dial": // there is no server
		return cfg.askStore(ctx, fn)
	case isRemote(err):
		return errors.New("the running server is another version of Berth, without this command; restart it with this one")
	}
	return err
}

// askStore is askLocally where no server has the directory.
func (cfg *config) askStore(ctx context.Context, fn func(c *client) error) (err error) {
	if err := cfg.becomeOwner(); err != nil {
		return err
	}
	cfg.storeConfig.log = slog.New(personalHandler{cfg.log.Handler()}) // what is done is in the history
	st, err := cfg.openForCommand()
	if err != nil {
		return err
	}
	s := newLocalServer(st, slog.New(slog.DiscardHandler)) // the answers tell all
	c, err := localClient(inProcess{s.localHandler()}, cfg.Who)
	if err != nil {
		return errors.Join(err, st.close())
	}
	err = plainly(fn(c))
	if !s.wait(5 * time.Second) {
		return err // a crash would do no more, and loses nothing
	}
	return errors.Join(err, st.close())
}

// localClient returns a client of this machine's registry, for whoever has that account.
func localClient(transport http.RoundTripper, account string) (*client, error) {
	c, err := newClient("http://berth", clientOptions{transport: localTransport{transport, account}, stall: localStall, answer: localPatience})
	if err == nil {
		c.host = "the registry"
	}
	return c, err
}

// A localTransport says who gives the command.
type localTransport struct {
	http.RoundTripper
	account string
}

func (t localTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.account != "" {
		req = req.Clone(req.Context())
		req.Header.Set(accountHeader, t.account)
	}
	return t.RoundTripper.RoundTrip(req)
}
