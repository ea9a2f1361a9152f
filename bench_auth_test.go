// What it costs that not everybody may do everything.

package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/bcrypt"
)

// BenchmarkAuthenticatedManifest asks for a manifest with each kind of
// credential, from a registry with a hundred users and twenty rules. The limit
// is the same request to a registry that is open to everybody.
func BenchmarkAuthenticatedManifest(b *testing.B) {
	const connections = 32
	open := startRegistry(b, logToNowhere)
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("user", i))
	}
	rules := "[[rule]]\nwho = [\"user0\"]\nrepositories = [\"**\"]\nallow = [\"admin\"]\n"
	for i := range 19 {
		rules += fmt.Sprintf("[[rule]]\nwho = [\"user%d\", \"user%d\"]\nrepositories = [\"team%[1]d/**\", \"!team%[1]d/secret/*\"]\nallow = [\"push\"]\n", i+1, i+2)
	}
	closed := startRegistry(b, logToNowhere, guarded(rules, names...))
	for _, name := range []string{"htpasswd", "policy.toml"} { // as they are most of the time: not just edited
		past := time.Now().Add(-time.Hour)
		if err := os.Chtimes(filepath.Join(closed.cfg.dir, name), past, past); err != nil {
			b.Fatal(err)
		}
	}
	im := open.pushImage("bench", "x", "{}")
	closed.pushAs(as("user0"), "bench", "x", "{}")
	robot := closed.newRobot("ci", "bench", "pull")
	for _, x := range []struct{ name, header string }{
		{"token", closed.bearer(as("user0"), "repository:bench:pull")},
		{"password", as("user0")},
		{"robot", basic("ci", robot)},
	} {
		b.Run(x.name, func(b *testing.B) {
			ask := func(r *registry, header string) func(n int) error {
				conns := bareConns(b, r.http, connections)
				return func(n int) error {
					return share(connections, n, func(int) error {
						conn := <-conns
						defer func() { conns <- conn }()
						return conn.ask("GET", "/v2/bench/manifests/"+im.digest.String(), header)
					})
				}
			}
			against(b, "open", 5000, nil, ask(open, ""), ask(closed, x.header+"\r\n"))
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}

// BenchmarkLogin hashes a password as berth user does, which a client pays for
// once, and looks it up afterwards.
func BenchmarkLogin(b *testing.B) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.DefaultCost)
	if err != nil {
		b.Fatal(err)
	}
	r := startRegistry(b, logToNowhere)
	if err := os.WriteFile(filepath.Join(r.cfg.dir, "htpasswd"), []byte("ann:"+string(hash)+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	l := r.server.gate.logins
	list := r.server.gate.view().users
	b.Run("first", func(b *testing.B) {
		for range b.N {
			clear(l.known)
			if ok, err := l.verify(nil, "x", list, "ann", "secret"); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		for range b.N {
			if ok, err := l.verify(nil, "x", list, "ann", "secret"); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
}

// BenchmarkPullOverTLS pulls 256 MiB over TLS. The limit is net/http's file
// server with the same certificate, likewise.
func BenchmarkPullOverTLS(b *testing.B) {
	r := startRegistry(b, logToNowhere)
	content := randomBytes(benchLarge)
	d := digest.FromBytes(content)
	if err := newBenchClient(1).pushBlob(r.http.URL, content, true); err != nil {
		b.Fatal(err)
	}
	path := r.st.path(d)
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		for _, connections := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/connections=%d", proto, connections), func(b *testing.B) {
				start := func(h http.Handler) func(n int) error {
					s := newSecure(b, tlsOptions{mode: "auto"})
					s.http.Handler = h
					s.start()
					var clients []*benchClient
					for range connections {
						c := &benchClient{s.client(&tls.Config{RootCAs: s.roots()}).Transport.(*http.Transport)}
						if proto == "HTTP/1.1" {
							c.transport.ForceAttemptHTTP2 = false
							c.transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
						}
						clients = append(clients, c)
					}
					next := make(chan *benchClient, connections)
					for _, c := range clients {
						next <- c
					}
					return func(n int) error {
						return share(connections, n, func(int) error {
							c := <-next
							defer func() { next <- c }()
							return c.send("GET", "https://pi.lan/v2/bench/blobs/"+d.String(), nil, nil, 200)
						})
					}
				}
				limit := start(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { http.ServeFile(w, req, path) }))
				b.SetBytes(benchLarge)
				against(b, "file-server", 2*connections, nil, limit, start(r.server.handler()))
			})
		}
	}
}
