// The local CA: what it vouches for, for how long, and for whom.

package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestLocalCAVouchesForTheLANOnly(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto", names: []string{"Registry.Example.com", "203.0.113.7"}, hostname: "Pi.office.example"})
	for _, name := range []string{"localhost", "pi.lan", "pi", "pi.local", "pi.office.example", "a.b.internal", "registry.example.com", "203.0.113.7"} {
		if body, err := s.get(&tls.Config{RootCAs: s.roots(), ServerName: name}, "https://"+name+"/x"); err != nil || !strings.Contains(body, "/x") {
			t.Errorf("https://%s: %q, %v", name, body, err)
		}
	}

	// A thief of the key can sign what he likes; clients must not take it.
	a := s.c.authority
	for _, x := range []struct {
		name  string
		usage x509.ExtKeyUsage
		ok    bool
	}{
		{"pi.lan", x509.ExtKeyUsageServerAuth, true},
		{"192.168.178.20", x509.ExtKeyUsageServerAuth, true},
		{"fd00::1", x509.ExtKeyUsageServerAuth, true},
		{"fe80::1", x509.ExtKeyUsageServerAuth, true},
		{"100.100.1.1", x509.ExtKeyUsageServerAuth, true},
		{"pi.lan", x509.ExtKeyUsageClientAuth, false},
		{"pi.lan", x509.ExtKeyUsageCodeSigning, false},
		{"google.com", x509.ExtKeyUsageServerAuth, false},
		{"evillan", x509.ExtKeyUsageServerAuth, false},
		{"example.com", x509.ExtKeyUsageServerAuth, false},
		{"office.example", x509.ExtKeyUsageServerAuth, false},
		{"8.8.8.8", x509.ExtKeyUsageServerAuth, false},
		{"203.0.113.8", x509.ExtKeyUsageServerAuth, false},
		{"172.32.0.1", x509.ExtKeyUsageServerAuth, false},
		{"2001:4860:4860::8888", x509.ExtKeyUsageServerAuth, false},
	} {
		stolen := &issuer{t, a.cert, a.key}
		cert, _ := stolen.issue("", func(c *x509.Certificate) {
			c.ExtKeyUsage, c.DNSNames = []x509.ExtKeyUsage{x.usage}, nil
			if ip := net.ParseIP(x.name); ip != nil {
				c.IPAddresses = []net.IP{ip}
			} else {
				c.DNSNames = []string{x.name}
			}
		})
		block, _ := pem.Decode(cert)
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		_, err = leaf.Verify(x509.VerifyOptions{Roots: s.roots(), DNSName: x.name, KeyUsages: []x509.ExtKeyUsage{x.usage}})
		if (err == nil) != x.ok {
			t.Errorf("a certificate for %s by the local CA (usage %d): %v", x.name, x.usage, err)
		}
		if permits(a.cert, x.name) != (x.ok || x.usage != x509.ExtKeyUsageServerAuth) {
			t.Errorf("permits(%s) = %v", x.name, !x.ok)
		}
	}

	if !a.cert.MaxPathLenZero || a.cert.Subject.CommonName != "Berth local CA (Pi.office.example)" {
		t.Errorf("the CA is %s, path %d", a.cert.Subject, a.cert.MaxPathLen)
	}
	critical := map[string]bool{}
	for _, e := range a.cert.Extensions {
		critical[e.Id.String()] = e.Critical
	}
	for what, id := range map[string]string{"basic constraints": "2.5.29.19", "key usage": "2.5.29.15", "name constraints": "2.5.29.30"} {
		if !critical[id] {
			t.Errorf("the CA's %s are not critical", what)
		}
	}
	if runtime.GOOS != "windows" {
		for path, want := range map[string]os.FileMode{"tls": 0o700, "tls/ca.key": 0o600} {
			if info, err := os.Stat(filepath.Join(s.o.dir, path)); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v, want mode %v", path, info.Mode(), err, want)
			}
		}
	}
}

// A machine that is called dev must not make a CA for all of .dev.
func TestLocalCADoesNotVouchForATopLevelDomain(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto", hostname: "dev"})
	for name, want := range map[string]bool{"dev": false, "bank.dev": false, "dev.local": true, "dev.lan": true} {
		if permits(s.c.authority.cert, name) != want {
			t.Errorf("permits(%s) = %v", name, !want)
		}
	}
	if !strings.Contains(s.log.String(), "cannot vouch for this machine's name") {
		t.Errorf("no warning:\n%s", s.log)
	}
	newSecure(t, tlsOptions{mode: "auto", names: []string{"co.uk"}}).refuses("--tls-name co.uk")
}

func TestLocalCAIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto"})
	roots, print := s.roots(), s.c.fingerprint()
	if sum := sha256.Sum256(s.c.authority.cert.Raw); strings.ReplaceAll(print, ":", "") != fmt.Sprintf("%X", sum) {
		t.Errorf("the fingerprint is %s", print)
	}
	restart := func() {
		t.Helper()
		s.stop()
		old := s
		s = newSecure(t, s.o)
		s.log = old.log
		s.o.log = old.o.log
		s.start()
		if s.c.fingerprint() != print {
			t.Error("another start, another CA")
		}
		if _, err := s.get(&tls.Config{RootCAs: roots}, "https://pi.lan/"); err != nil {
			t.Error(err)
		}
	}
	restart()

	// It may have a new host name, and is only told what that means; but what
	// the operator asks for has to work.
	s.o.hostname = "other"
	restart()
	if !strings.Contains(s.log.String(), "cannot vouch for this machine's name") {
		t.Errorf("no warning of a new host name:\n%s", s.log)
	}
	s.o.names = []string{"other.lan"}
	restart()
	s.o.names = []string{"registry.example.com"}
	s.refuses("Remove " + filepath.Join(s.o.dir, "tls"))
	s.o.names = nil

	cert, key := filepath.Join(s.o.dir, "tls", "ca.crt"), filepath.Join(s.o.dir, "tls", "ca.key")
	content := tree(t, filepath.Join(s.o.dir, "tls"))
	_, otherKey := newIssuer(t).issue("other")
	for _, damage := range []map[string]string{
		{cert: ""},
		{key: ""},
		{cert: content[cert]},
		{key: content[key]},
		{cert: content[cert][:100], key: content[key]},
		{cert: content[cert], key: string(otherKey)},
	} {
		damaged := maps.Clone(damage)
		for path := range content {
			os.Remove(path)
			if c, ok := damage[path]; ok {
				writeFile(t, path, []byte(c))
			}
		}
		s.refuses("put ca.crt and ca.key back from a backup")
		if !maps.Equal(tree(t, filepath.Join(s.o.dir, "tls")), damaged) {
			t.Error("a refused start has changed files")
		}
	}

	// The power was cut while it was made.
	os.Remove(cert)
	os.Remove(key)
	writeFile(t, filepath.Join(s.o.dir, "tls", "ca.new"), []byte(content[cert]+content[key]))
	writeFile(t, key, []byte(content[key]))
	restart()
	if !maps.Equal(tree(t, filepath.Join(s.o.dir, "tls")), content) {
		t.Error("what was begun is not completed")
	}
}

func TestClockThatLies(t *testing.T) {
	t.Parallel()
	s := newSecure(t, tlsOptions{mode: "auto"})
	at := func(year int) { s.moved.Store(int64(time.Until(time.Date(year, 5, 1, 0, 0, 0, 0, time.UTC)))) }
	at(1970)
	s.start()
	client := func(year int) *tls.Config {
		return &tls.Config{RootCAs: s.roots(), Time: func() time.Time { return time.Date(year, 5, 1, 0, 0, 0, 0, time.UTC) }}
	}
	works := func(year int) {
		t.Helper()
		if _, err := s.get(client(year), "https://pi.lan/"); err != nil {
			t.Error(err)
		}
	}
	works(2026) // clients know better
	works(2027)
	at(2028)
	works(2028)
	at(1970)
	works(2026)
	at(2045)
	works(2045)
	if life := s.leaf("pi.lan"); life.NotAfter.Sub(life.NotBefore) != 90*24*time.Hour {
		t.Errorf("a certificate from %v to %v", life.NotBefore, life.NotAfter)
	}

	at(2030)
	first := s.leaf("pi.lan")
	s.move(58 * 24 * time.Hour)
	if !s.leaf("pi.lan").Equal(first) {
		t.Error("made anew with more than a third of its life left")
	}
	s.move(2 * 24 * time.Hour)
	if s.leaf("pi.lan").Equal(first) {
		t.Error("not made anew with less than a third of its life left")
	}
}

func TestNamesOfStrangersAreBounded(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto"})
	usual := s.leaf("pi.local")
	for _, name := range []string{"google.com", "nonsense!", "*.lan", strings.Repeat("x", 64) + ".lan", "pi"} {
		if !s.leaf(name).Equal(usual) {
			t.Errorf("%s has a certificate of its own", name)
		}
	}
	if err := s.leaf("Other.LAN").VerifyHostname("other.lan"); err != nil {
		t.Error(err)
	}
	together(t, 8, func(i int) error {
		for n := range 3 * maxLeaves / 8 {
			name := fmt.Sprintf("n%d-%d.lan", i, n)
			if _, err := s.get(&tls.Config{RootCAs: s.roots()}, "https://"+name+"/"); err != nil {
				return err
			}
		}
		return nil
	})
	s.c.authority.mu.Lock()
	n := len(s.c.authority.leaves)
	s.c.authority.mu.Unlock()
	if n > maxLeaves {
		t.Errorf("%d certificates are kept, want at most %d", n, maxLeaves)
	}
	if !s.leaf("pi.local").Equal(usual) {
		t.Error("the usual certificate was lost")
	}
}

// An address that came after the start, as by DHCP, works at once.
func TestAddressThatWasCalledIsInCertificate(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		notHere(t, linuxLoopback)
	}
	s := newSecure(t, tlsOptions{mode: "auto"})
	var err error
	if s.c, err = openTLS(s.o); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	s.addr, s.ended = "127.0.0.77:"+port, make(chan error, 1)
	go func() { s.ended <- s.c.serve(s.http, listener) }()
	defer s.stop()
	if _, err := s.get(&tls.Config{RootCAs: s.roots()}, "https://127.0.0.77/"); err != nil {
		t.Error(err)
	}
}
