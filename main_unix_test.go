//go:build unix

// Signals.

package main

import (
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A hangup, of a terminal that is closed, say, ends nothing: a push under way goes on.
func TestHangup(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "", "--data", t.TempDir())
	up, err := p.ask("POST", "/v2/a/blobs/uploads/", nil)
	if err != nil {
		t.Fatal(err)
	}
	body, in := io.Pipe()
	go func() {
		io.WriteString(in, "before ")
		unix.Kill(p.cmd.Process.Pid, syscall.SIGHUP)
		if re, err := p.ask("GET", "/healthz", nil); err != nil || re.status != 200 {
			t.Errorf("after a hangup: %+v, %v", re, err)
		}
		io.WriteString(in, "after")
		in.Close()
	}()
	if re, err := p.ask("PATCH", up.location(), body); err != nil || re.status != 202 || re.header.Get("Range") != "0-11" {
		t.Errorf("a push through a hangup: %+v, %v", re, err)
	}
	p.stop(t)
}

// A hangup tells whether what was edited is good.
func TestHangupLooksAtFiles(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	ctx, stop := context.WithCancel(t.Context())
	hangups, ended := make(chan os.Signal), make(chan struct{})
	go func() { r.server.rereader(ctx, hangups, serviceManager{}); close(ended) }()
	for _, x := range []struct{ rules, want string }{
		{"[[immutable]]\nrepositories = [\"b\"]\n", "immutable 1 (* in b)"},
		{"nonsense", "files cannot be used"},
	} {
		writeRules(r.cfg.dir, x.rules)
		hangups <- syscall.SIGHUP
		hangups <- syscall.SIGHUP // taken when the first is done with
		if !strings.Contains(r.log.String(), x.want) {
			t.Errorf("the log does not say %q:\n%s", x.want, r.log.String())
		}
	}
	stop()
	<-ended
	r.want(401, "GET", "/v2/", nil)
}
