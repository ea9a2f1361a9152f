//go:build unix

// The local CA, and whether the server that runs uses it.

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A server without the local CA has nobody trust one that lies there from before.
func TestTrustAsksTheServerWhetherItUsesTheCA(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto"})
	r := startRegistry(t)
	if err := os.CopyFS(filepath.Join(r.cfg.dir, "tls"), os.DirFS(filepath.Join(s.o.dir, "tls"))); err != nil {
		t.Fatal(err)
	}
	if out, err := runOnce(t, "trust", "pi.lan", "--data", r.cfg.dir); err != nil {
		t.Errorf("with the server stopped: %v\n%s", err, out)
	}
	r.server.address = "127.0.0.1:5000"
	r.listen()
	if out, err := runOnce(t, "trust", "pi.lan", "--data", r.cfg.dir); err == nil || !strings.Contains(err.Error(), "was started without --tls=auto") {
		t.Errorf("beside a server without TLS: %v\n%s", err, out)
	}
}
