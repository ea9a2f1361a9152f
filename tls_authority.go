// The local CA of --tls=auto, and the certificates that it makes.
//
// Berth has a certificate authority of its own, in tls/ of the data directory,
// which the machines of a home or an office come to trust once (tls_trust.go). It
// keeps these rules:
//
//  1. The CA is made once. Whoever trusts it trusts that one, so a CA that is
//     damaged stops the start; nothing takes its place.
//  2. It can vouch for names and addresses of a LAN only, and for servers only:
//     a stolen key is no key to anybody's bank. The constraints are in its
//     certificate, so clients hold it to them.
//  3. No clock is needed. A board without a battery comes up in 1970; the CA is
//     valid from 2020 to 2049, and the server's certificates, which live in
//     memory, are made anew when the clock turns out to be elsewhere.

package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"
)

// An authority is the local CA and the certificates it has made for this server.
type authority struct {
	c    *certificates
	cert *x509.Certificate
	key  crypto.Signer

	leafKey *ecdsa.PrivateKey
	mu      sync.Mutex                  // guards leaves
	leaves  map[string]*tls.Certificate // by the name or address that a client asked for; "" for none
}

const (
	caCert = "ca.crt"
	caKey  = "ca.key"
	caBoth = "ca.new" // holds both until each has its file
)

// openAuthority reads the CA, or makes it in a directory that never had one
// (rule 1).
func (c *certificates) openAuthority() error {
	dir := filepath.Join(c.dir, "tls")
	if err := makeAll(dir); err != nil {
		return err
	}
	if err := finishCA(dir); err != nil {
		return err
	}
	pair, there, err := readCA(dir)
	if err == nil && !there {
		if err := c.makeCA(dir); err != nil {
			return fmt.Errorf("making the local CA: %w", err)
		}
		pair, _, err = readCA(dir)
	}
	if err == nil {
		err = c.refuseNames(dir, pair.Leaf)
	}
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	a := &authority{c: c, cert: pair.Leaf, key: pair.PrivateKey.(crypto.Signer), leafKey: key,
		leaves: make(map[string]*tls.Certificate)}
	if !permits(a.cert, c.hostname) {
		c.log.Warn("the local CA cannot vouch for this machine's name; use another of its names or an address, or remove the directory to make a new CA, and trust it again on every client",
			"name", c.hostname, "directory", dir)
	}
	if now := c.clock(); now.After(a.cert.NotAfter) {
		c.log.Warn("the local CA has expired, or the clock is wrong", "until", a.cert.NotAfter)
	}
	c.authority = a
	c.find = a.certificate
	_, err = a.leaf("")
	return err
}

// readCA reads the local CA in a directory, also one that finishCA has still to give its files; there
// is false if there never was one.
func readCA(dir string) (pair tls.Certificate, there bool, err error) {
	pending := filepath.Join(dir, caBoth)
	if both, err := os.ReadFile(pending); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			pair, err = tls.X509KeyPair(both, both)
		}
		if err != nil {
			err = fmt.Errorf("%s is damaged; remove it (%w)", pending, err)
		}
		return pair, true, err
	}
	certPEM, certErr := os.ReadFile(filepath.Join(dir, caCert))
	keyPEM, keyErr := os.ReadFile(filepath.Join(dir, caKey))
	if errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		return pair, false, nil
	}
	if err = errors.Join(certErr, keyErr); err == nil {
		pair, err = tls.X509KeyPair(certPEM, keyPEM)
	}
	if err == nil && !pair.Leaf.IsCA {
		err = errors.New("the certificate is not that of a CA")
	}
	if err != nil {
		err = fmt.Errorf("the local CA in %s cannot be used: %w. Clients trust the one that was there: "+
			"put %s and %s back from a backup; or remove %[1]s, and a new CA is made, which every client has to trust again (berth trust)",
			dir, err, caCert, caKey)
	}
	return pair, true, err
}

// refuseNames returns an error if the CA in dir cannot vouch for a name that a flag gives.
func (c *certificates) refuseNames(dir string, ca *x509.Certificate) error {
	for _, name := range c.names {
		if !permits(ca, name) {
			return fmt.Errorf("--tls-name %s: the local CA was made without this name and cannot vouch for it. "+
				"Remove %s to make a new CA, and trust it again on every client (berth trust)", name, dir)
		}
	}
	return nil
}

// refuseCA returns the error that openAuthority would have because of the CA that is there. It makes
// nothing.
func (c *certificates) refuseCA() error {
	dir := filepath.Join(c.dir, "tls")
	pair, there, err := readCA(dir)
	if err != nil || !there {
		return err
	}
	return c.refuseNames(dir, pair.Leaf)
}

// localDomains are not, and will not be, on the public internet.
var localDomains = []string{"localhost", "local", "lan", "home", "home.arpa", "internal", "intranet", "private", "localdomain", "test"}

// localNetworks are addresses of machines nearby.
var localNetworks = []string{"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
	"::1/128", "fc00::/7", "fe80::/10"}

// makeCA makes the CA and its files (rules 2 and 3).
func (c *certificates) makeCA(dir string) error {
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: fmt.Sprintf("Berth local CA (%.40s)", strings.ToValidUTF8(c.hostname, ""))},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:  time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage:  x509.KeyUsageCertSign,
		// Of a CA it says what the certificates under it may be for.
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         slices.Clone(localDomains),
	}
	for _, network := range localNetworks {
		_, n, err := net.ParseCIDR(network)
		if err != nil {
			panic(err)
		}
		template.PermittedIPRanges = append(template.PermittedIPRanges, n)
	}
	permit := func(name string) bool {
		switch ip := net.ParseIP(name); {
		case permits(template, name):
		case ip != nil:
			if four := ip.To4(); four != nil {
				ip = four
			}
			template.PermittedIPRanges = append(template.PermittedIPRanges, &net.IPNet{IP: ip, Mask: net.CIDRMask(8*len(ip), 8*len(ip))})
		default:
			// With a name all below it is permitted. A machine may be called dev,
			// and then the CA would vouch for half of the industry.
			// The list's own rule for all others is that of one word: pi, lan.
			if suffix, public := publicsuffix.PublicSuffix(name); suffix == name && (public || strings.Contains(name, ".")) {
				return false
			}
			template.PermittedDNSDomains = append(template.PermittedDNSDomains, name)
		}
		return true
	}
	for _, name := range c.names {
		if !permit(name) {
			return fmt.Errorf("--tls-name %s: a CA for all names under .%[1]s would be a danger to whoever trusts it; use a longer name", name)
		}
	}
	for _, name := range append(machineNames(c.hostname), machineAddresses()...) {
		permit(name)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	if err := writeSynced(filepath.Join(dir, caBoth), bytes.NewReader(both)); err != nil {
		return err
	}
	c.log.Info("made the local CA; `berth trust` shows how to trust it on other machines", "fingerprint", fingerprint(der))
	return finishCA(dir)
}

// finishCA gives a CA that was just made, perhaps before the power was cut, its
// two files. One file without the other is then always damage.
func finishCA(dir string) error {
	pending := filepath.Join(dir, caBoth)
	both, err := os.ReadFile(pending)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	certificate, key := pem.Decode(both)
	if certificate == nil {
		return fmt.Errorf("%s is damaged; remove it", pending)
	}
	if err := writeSynced(filepath.Join(dir, caKey), bytes.NewReader(key)); err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(dir, caCert), bytes.NewReader(pem.EncodeToMemory(certificate))); err != nil {
		return err
	}
	if err := os.Remove(pending); err != nil {
		return err
	}
	return syncDir(dir)
}

// permits reports whether the constraints of a CA let it vouch for a host name
// or an address: RFC 5280, section 4.2.1.10.
func permits(ca *x509.Certificate, name string) bool {
	if ip := net.ParseIP(name); ip != nil {
		return len(ca.PermittedIPRanges) == 0 ||
			slices.ContainsFunc(ca.PermittedIPRanges, func(n *net.IPNet) bool { return n.Contains(ip) })
	}
	name = hostName(name)
	return name != "" && (len(ca.PermittedDNSDomains) == 0 ||
		slices.ContainsFunc(ca.PermittedDNSDomains, func(domain string) bool {
			return name == domain || strings.HasSuffix(name, "."+domain)
		}))
}

// machineNames are what a machine may be called on its network.
func machineNames(hostname string) []string {
	hostname = hostName(hostname)
	if hostname == "" {
		return nil
	}
	label, _, _ := strings.Cut(hostname, ".")
	return []string{hostname, label, label + ".local"}
}

// machineAddresses are the addresses of the machine's interfaces. Those of IPv6
// that need a zone cannot be in a registry's name; and of a machine with very
// many, as of a host of containers, the first must do, for they travel in every
// handshake.
func machineAddresses() (addresses []string) {
	all, _ := net.InterfaceAddrs() // without them names still work
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if ok && (n.IP.To4() != nil || !n.IP.IsLinkLocalUnicast()) && len(addresses) < 64 {
			addresses = append(addresses, n.IP.String())
		}
	}
	return addresses
}

// certificate returns what proves to a client that this is the server it
// called, by whichever of the names that the CA may vouch for.
func (a *authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	asked := hello.ServerName
	if asked == "" {
		// It called an address. Not all that a machine has are known when it
		// starts: DHCP brings others.
		if local, ok := hello.Conn.LocalAddr().(*net.TCPAddr); ok {
			asked = local.IP.String()
		}
	}
	if ip := net.ParseIP(asked); ip != nil {
		asked = ip.String()
	} else {
		asked = hostName(asked)
	}
	if asked != "" && !permits(a.cert, asked) {
		asked = ""
	}
	return a.leaf(asked)
}

const (
	leafLife = 90 * 24 * time.Hour
	// longLeafLife is for a server that does not know the time: the longest that
	// Apple's systems take.
	longLeafLife = 824 * 24 * time.Hour
	// maxLeaves bounds what strangers' names can make us keep.
	maxLeaves = 64
)

// leaf returns a certificate for the machine's names and one more, unless
// that is "".
func (a *authority) leaf(name string) (*tls.Certificate, error) {
	now := a.c.clock()
	a.mu.Lock()
	defer a.mu.Unlock()
	usual, err := a.usable("", now)
	if err != nil || name == "" || usual.Leaf.VerifyHostname(name) == nil {
		return usual, err
	}
	return a.usable(name, now)
}

// usable returns a certificate that was made before, while it has a third of
// its life left, else a new one. The caller holds the mutex.
func (a *authority) usable(name string, now time.Time) (*tls.Certificate, error) {
	if have := a.leaves[name]; have != nil {
		from, until := have.Leaf.NotBefore, have.Leaf.NotAfter
		if now.After(from) && until.Sub(now) > until.Sub(from)/3 {
			return have, nil
		}
	}
	made, err := a.sign(name, now)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	for old := range a.leaves {
		if len(a.leaves) < maxLeaves {
			break
		}
		if old != "" {
			delete(a.leaves, old)
		}
	}
	a.leaves[name] = made
	return made, nil
}

// sign makes a certificate.
func (a *authority) sign(name string, now time.Time) (*tls.Certificate, error) {
	life := leafLife
	if now.Equal(earliest) {
		life = longLeafLife
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Berth"},
		NotBefore:   now.Add(-24 * time.Hour), // for clients whose clock is behind
		NotAfter:    now.Add(life - 24*time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	names := slices.Concat([]string{"localhost", "127.0.0.1", "::1"}, machineNames(a.c.hostname), a.c.names, machineAddresses(), []string{name})
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		// One name that is not permitted, and clients refuse all of it.
		if !permits(a.cert, n) {
			continue
		}
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, a.leafKey.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: a.leafKey, Leaf: leaf}, nil
}

// fingerprint is the local CA's, "" without one.
func (c *certificates) fingerprint() string {
	if c == nil || c.authority == nil {
		return ""
	}
	return fingerprint(c.authority.cert.Raw)
}

// fingerprint is the SHA-256 of a certificate as people compare it.
func fingerprint(der []byte) string {
	var b strings.Builder
	for i, x := range sha256.Sum256(der) {
		if i > 0 {
			b.WriteByte(':')
		}
		fmt.Fprintf(&b, "%02X", x)
	}
	return b.String()
}

// hostName returns a host's DNS name in lower case, or "" if s is not one.
func hostName(s string) string {
	s = strings.ToLower(s)
	if len(s) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return ""
		}
	}
	return s
}

// earliest is before any time at which Berth runs: a clock that shows less is
// plainly wrong.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is the time, as far as it can be true.
func (c *certificates) clock() time.Time {
	if now := c.now(); now.After(earliest) {
		return now
	}
	return earliest
}
