// How a client comes to a registry: its name, its port, what speaks there, its certificate.

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A doctor examines the way from this machine to a registry.
type doctor struct {
	diagnoses
	host, port     string // the port is "" if none was given
	repository     string // to push to; "" for one of the doctor's own
	user, password string // "" for nobody
	loginFile      string // that user and password are from; "" if they were given
	noPush, push   bool   // as the flags
	largest        int64  // bytes of the largest blob to push
	random         string // names what is pushed

	root     string // below which the configuration of clients is; "" for this machine's
	home     string // of the person, below root
	env      environment
	lookup   func(ctx context.Context, host string) ([]string, error)
	getent   func(ctx context.Context, host string) ([]string, error) // as the C library resolves names; nil if that cannot be asked
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	has      func(program string) bool // whether it is installed
	now      func() time.Time
	knock    time.Duration // for one connection
	patience time.Duration // for one answer

	address string              // HOST:PORT that answers, the host as an IP address
	plain   bool                // it speaks plain HTTP
	chain   []*x509.Certificate // that it shows; nil in plain HTTP
	ca      *x509.Certificate   // that it hands out, if it is a Berth with a local CA
	trusted bool                // something here would use it as it is, so a password may be sent
	server  string              // its header Server; "" for none
	subject string              // who has logged in, as a Berth says; "" for nobody, or if it does not say
	unused  string              // why no stored login was used, in a sentence; "" if there is none
	asked   bool                // that somebody has to log in has been told
	berth   bool                // it is a Berth for all that can be seen
}

// newDoctor returns one for this machine.
func newDoctor(env environment) *doctor {
	d := &doctor{env: env, now: time.Now, knock: 5 * time.Second, patience: 20 * time.Second, largest: usualSize,
		lookup: net.DefaultResolver.LookupHost, dial: new(net.Dialer).DialContext,
		has: func(program string) bool { _, err := exec.LookPath(program); return err == nil }}
	d.home, _ = os.UserHomeDir()
	if path, err := exec.LookPath("getent"); err == nil {
		d.getent = func(ctx context.Context, host string) (list []string, err error) {
			out, err := exec.CommandContext(ctx, path, "ahosts", host).Output()
			for line := range strings.Lines(string(out)) {
				if fields := strings.Fields(line); len(fields) > 0 && !slices.Contains(list, fields[0]) {
					list = append(list, fields[0])
				}
			}
			return list, err
		}
	}
	return d
}

// written is the registry as a person writes it before an image's name.
func (d *doctor) written() string {
	host := d.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if d.port == "" {
		return host
	}
	return host + ":" + d.port
}

// read reads HOST[:PORT][/REPOSITORY].
func (d *doctor) read(arg string) error {
	name, repository, _ := strings.Cut(arg, "/")
	if scheme, rest, ok := strings.Cut(arg, "://"); ok {
		return fmt.Errorf("%q: give the name without %s://, as in berth doctor %s", arg, scheme, strings.TrimSuffix(rest, "/"))
	}
	if registryHost(name, "") == "" {
		return fmt.Errorf("%q is not a registry's HOST or HOST:PORT", name)
	}
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		host, port = strings.Trim(name, "[]"), ""
	}
	if repository != "" {
		if repository, _, err = parseArgument(repository); err != nil { // what is behind : or @ is of no use here
			return fmt.Errorf("%q is not a repository's name, as in berth doctor %s/home/app: %w", strings.TrimPrefix(arg, name+"/"), name, err)
		}
	}
	d.host, d.port, d.repository = strings.ToLower(host), port, repository
	return nil
}

// resolve looks the name up; it returns nil if there is no address.
func (d *doctor) resolve(ctx context.Context) []string {
	if d.port == "" && !strings.Contains(d.host, ".") && !strings.Contains(d.host, ":") && d.host != "localhost" {
		d.fail("name", "name-of-docker-hub", advise("Write the port in the names of images, even if it is 443.", fmt.Sprintf("docker pull %s:443/alpine", d.host)),
			"%s has neither a dot nor a port: docker takes %[1]s/alpine for an image of Docker Hub", d.host)
	}
	if net.ParseIP(d.host) != nil {
		d.well("name", "%s is an address", d.host)
		return []string{d.host}
	}
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	addresses, err := d.lookup(ctx, d.host)
	var others []string // as programs find it that use the C library
	if d.getent != nil && d.host != "localhost" {
		others, _ = d.getent(ctx, d.host)
	}
	_, inHosts := d.inHosts()
	hostsLine := advise("Give the machine a name in the network's DNS, or write its address in /etc/hosts:", "echo '192.168.1.5 "+d.host+"' | sudo tee -a /etc/hosts   # its own address")
	var unknown *net.DNSError
	switch {
	case len(addresses) == 0 && len(others) > 0:
		d.warn("name", "name-only-libc", advise("Write its address in /etc/hosts, which all programs read:", fmt.Sprintf("echo '%s %s' | sudo tee -a /etc/hosts", others[0], d.host)),
			"%s is %s for programs that ask the C library, but not for those that resolve names by themselves, as containerd, k3s and static builds of docker may", d.host, others[0])
		return others
	case len(addresses) == 0 && strings.HasSuffix(d.host, ".local"):
		do := advise("Install mDNS for the C library, and for programs that resolve by themselves write the address in /etc/hosts:",
			"sudo apt install libnss-mdns    # Fedora: dnf install nss-mdns; Alpine has none", "echo '192.168.1.5 "+d.host+"' | sudo tee -a /etc/hosts   # its own address")
		d.fail("name", "mdns-missing", do, "%s is not found: names that end in .local come by mDNS, which this machine cannot ask, or the other machine does not answer", d.host)
		return nil
	case errors.As(err, &unknown) && unknown.IsNotFound, len(addresses) == 0 && err == nil:
		d.fail("name", "name-unknown", hostsLine, "there is no host %s: neither DNS nor /etc/hosts knows it", d.host)
		return nil
	case len(addresses) == 0:
		d.fail("name", "name-server-fails", advise("See which DNS server this machine asks, and whether it answers:", "cat /etc/resolv.conf", "getent hosts "+d.host),
			"the DNS server does not say what %s is: %v", d.host, withoutCalls(err))
		return nil
	}
	slices.Sort(addresses)
	addresses = slices.Compact(addresses)
	d.well("name", "%s is %s%s", d.host, sentenceList(addresses), d.fromHosts(inHosts))
	return addresses
}

func (d *doctor) fromHosts(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (by line %d of /etc/hosts)", n)
}

// inHosts returns the line of /etc/hosts that has the name, and its number; 0 if none has.
func (d *doctor) inHosts() (text string, number int) {
	content, err := os.ReadFile(filepath.Join(d.root, "/etc/hosts"))
	if err != nil {
		return "", 0
	}
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		entry, _, _ := strings.Cut(line, "#")
		if fields := strings.Fields(entry); len(fields) > 1 && slices.ContainsFunc(fields[1:], func(name string) bool { return strings.EqualFold(name, d.host) }) {
			return strings.TrimSpace(line), n
		}
	}
	return "", 0
}

// ports are those to try: the one that was given, or what clients try without one.
func (d *doctor) ports() []string {
	if d.port != "" {
		return []string{d.port}
	}
	return []string{"443", "80"}
}

// reach finds an address that answers.
func (d *doctor) reach(ctx context.Context, addresses []string) bool {
	for _, port := range d.ports() {
		bad := map[string]error{}
		for _, address := range addresses {
			conn, err := d.connect(ctx, net.JoinHostPort(address, port))
			if err != nil {
				bad[address] = err
				continue
			}
			conn.Close()
			if d.address == "" {
				d.address = net.JoinHostPort(address, port)
			}
		}
		if d.address == "" {
			if port == d.ports()[len(d.ports())-1] {
				d.explainUnreachable(ctx, addresses, bad)
			}
			continue
		}
		d.well("port", "%s answers", d.address)
		for _, address := range addresses {
			switch err := bad[address]; {
			case err == nil:
			case net.ParseIP(address).To4() == nil:
				d.warn("port", "ipv6-broken", advise("Clients try IPv6 first and lose time, or fail. Make the registry listen there, too (--addr :PORT listens on all), or remove the AAAA record of the name."),
					"the IPv6 address %s of %s does not work: %s", address, d.host, whyNoConnection(err))
			default:
				d.warn("port", "address-refuses", advise("Remove the addresses that are not the registry's from DNS or /etc/hosts.", "getent ahosts "+d.host),
					"the address %s of %s does not work, so that some connections fail: %s", address, d.host, whyNoConnection(err))
			}
		}
		return true
	}
	return false
}

func (d *doctor) connect(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.knock)
	defer cancel()
	return d.dial(ctx, "tcp", address)
}

// whyNoConnection says in a word why a connection could not be made.
func whyNoConnection(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "it refuses connections"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "it does not answer"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "there is no way to it from this network"
	}
	return plainly(err).Error()
}

// explainUnreachable is for a port at which nothing answers.
func (d *doctor) explainUnreachable(ctx context.Context, addresses []string, bad map[string]error) {
	port := d.port
	if port == "" {
		port = "443"
	}
	at := func(p string) string { return net.JoinHostPort(addresses[0], p) }
	var open []string
	for _, other := range []string{"5000", "443", "80"} {
		if other == port || d.port == "" && other == "80" {
			continue
		}
		if conn, err := d.connect(ctx, at(other)); err == nil {
			conn.Close()
			open = append(open, other)
		}
	}
	what := "on " + sentenceList(addresses)
	if len(open) > 0 {
		better := d.host + ":" + open[0]
		if open[0] == "443" {
			better = d.host
		}
		d.fail("port", "port-other", advise("Perhaps the registry is there: examine that, and if so write it in the names of images.", "berth doctor "+better),
			"nothing listens on port %s %s, but something does on port %s", port, what, sentenceList(open))
		return
	}
	if ip := net.ParseIP(addresses[0]); ip.IsLoopback() && d.host != addresses[0] && d.host != "localhost" && !strings.HasSuffix(d.host, ".localhost") {
		line, n := d.inHosts()
		d.warn("name", "name-is-loopback", advise("If the registry is on another machine, write that one's address in the line:", line), "%s is %s, which is this machine itself%s", d.host, addresses[0], d.fromHosts(n))
	}
	stale := ""
	if _, n := d.inHosts(); n > 0 && d.host != "localhost" {
		stale = fmt.Sprintf(" The address is from line %d of /etc/hosts: is it still the machine's?", n)
	}
	for _, address := range addresses {
		err := bad[address]
		var timeout net.Error
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			d.fail("port", "port-refused", advise("Start the registry there, or name the port on which it listens. If it runs, see its address: with 127.0.0.1 it serves only its own machine."+stale,
				"ss -ltnp | grep :"+port+"      # on that machine", onServer),
				"%s refuses connections: the machine is there, and nothing listens on the port", net.JoinHostPort(address, port))
		case errors.As(err, &timeout) && timeout.Timeout():
			d.fail("port", "port-filtered", advise("A firewall drops the packets, or the machine is off. Open the port there."+stale,
				"ping -c1 "+address, "sudo ufw allow "+port+"/tcp      # on that machine, with ufw",
				"sudo firewall-cmd --add-port="+port+"/tcp --permanent && sudo firewall-cmd --reload"),
				"%s does not answer within %s: neither yes nor no", net.JoinHostPort(address, port), formatDuration(d.knock))
		case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
			d.fail("port", "no-route", advise("See whether this machine is in the network of that one (VPN, Wi-Fi for guests, another subnet)."+stale, "ip route get "+address),
				"there is no way from this machine to %s", address)
		default:
			d.fail("port", "port-fails", advise("See whether the machine is there.", "ping -c1 "+address), "%s cannot be connected to: %s", net.JoinHostPort(address, port), whyNoConnection(err))
		}
	}
}

// speak finds out whether it is TLS or plain HTTP that is spoken.
func (d *doctor) speak(ctx context.Context) bool {
	conn, err := d.connect(ctx, d.address)
	if err != nil {
		d.fail("port", "port-fails", advise("Try again; if it comes and goes, see the log of the registry."), "%s answered once and then not: %s", d.address, whyNoConnection(err))
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(d.patience))
	// All is taken here: what is wrong with the certificate is told by examineCertificate, and
	// a password is sent only where d.trusted.
	config := &tls.Config{ServerName: d.host, InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}
	secure := tls.Client(conn, config)
	err = secure.HandshakeContext(ctx)
	var notTLS tls.RecordHeaderError
	switch {
	case err == nil:
		state := secure.ConnectionState()
		d.chain = state.PeerCertificates
		if state.Version < tls.VersionTLS12 {
			d.fail("tls", "tls-old", advise("Let the registry, or the proxy before it, speak TLS 1.2 or 1.3."), "it speaks only %s, which clients do not take any more", tls.VersionName(state.Version))
			return false
		}
		d.well("tls", "it speaks %s", tls.VersionName(state.Version))
		return true
	case errors.As(err, &notTLS) && bytes.HasPrefix(notTLS.RecordHeader[:], []byte("HTTP")):
		d.plain = true
	case errors.As(err, &notTLS):
		d.explainStranger(notTLS.RecordHeader[:])
		return false
	default:
		if d.plain = d.answersPlain(ctx); !d.plain {
			d.fail("tls", "tls-fails", advise("See the log of the registry, or of the proxy before it.", fmt.Sprintf("openssl s_client -connect %s -servername %s </dev/null", d.address, d.host)),
				"the TLS handshake fails, and plain HTTP is not answered either: %s", plainly(err))
			return false
		}
	}
	d.well("tls", "it speaks plain HTTP, without TLS")
	return true
}

// answersPlain reports whether plain HTTP is answered.
func (d *doctor) answersPlain(ctx context.Context) bool {
	conn, err := d.connect(ctx, d.address)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(d.patience))
	fmt.Fprintf(conn, "GET /v2/ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", d.written())
	begin, _ := bufio.NewReader(conn).Peek(5)
	return bytes.Equal(begin, []byte("HTTP/"))
}

// explainStranger is for a program that is no HTTP server; begin is what it says first.
func (d *doctor) explainStranger(begin []byte) {
	what := "another program"
	if bytes.HasPrefix(begin, []byte("SSH-")) {
		what = "an SSH server"
	} else if bytes.HasPrefix(begin, []byte("220")) {
		what = "a mail or FTP server"
	}
	d.fail("port", "other-program", advise("Name the port of the registry: 5000 with Berth and registry:2, unless they were told another.", "berth doctor "+d.host+":5000"),
		"%s is the port of %s, not of a registry", d.address, what)
}

// examineCertificate looks at what no trust can mend: names, dates, form.
func (d *doctor) examineCertificate() {
	leaf, bad := d.chain[0], false
	now := d.now()
	if now.Before(earliest) {
		d.fail("clock", "clock-wrong", advise("Set the clock of this machine; without the right time no certificate is valid.", "sudo timedatectl set-ntp true"), "the clock of this machine says %s", now.UTC().Format(time.DateOnly))
	}
	renew := advise("Renew it on the server. Berth with --tls=auto or acme does that by itself; with files: put a new one in place of --tls-cert, which is read again at once.")
	switch {
	case now.After(leaf.NotAfter):
		bad = true
		d.fail("certificate", "certificate-expired", renew, "the certificate has expired on %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(leaf.NotBefore):
		bad = true
		d.fail("certificate", "certificate-not-yet-valid", advise("One of the two clocks is wrong: set it.", "timedatectl      # on both machines", "sudo timedatectl set-ntp true"),
			"the certificate is valid from %s on, and here it is %s", leaf.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case leaf.NotAfter.Sub(now) < 7*24*time.Hour && leaf.NotAfter.Sub(leaf.NotBefore) > 14*24*time.Hour:
		d.warn("certificate", "certificate-expires", renew, "the certificate expires on %s, %s", leaf.NotAfter.UTC().Format(time.DateOnly), formatAge(leaf.NotAfter, now))
	}
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	anew := d.certifyAnew()
	if err := leaf.VerifyHostname(d.host); err != nil {
		bad = true
		switch {
		case len(names) == 0:
			d.fail("certificate", "certificate-no-san", anew, "the certificate has a common name (%s) but no subjectAltName, which clients have insisted on for years", leaf.Subject.CommonName)
		case net.ParseIP(d.host) != nil && len(leaf.IPAddresses) == 0:
			d.fail("certificate", "certificate-no-ip", d.useNames(leaf.DNSNames, anew), "the certificate is for names only, not for the address %s: it has %s", d.host, sentenceList(names[:min(len(names), 6)]))
		default:
			d.fail("certificate", "certificate-name", d.useNames(names, anew), "the certificate is not for %s: it has %s", d.host, sentenceList(names[:min(len(names), 6)]))
		}
	}
	switch leaf.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.MD5WithRSA:
		bad = true
		d.fail("certificate", "certificate-weak", advise("Make it again, signed with SHA-256."), "the certificate is signed with %s, which clients refuse", leaf.SignatureAlgorithm)
	}
	if !bad {
		d.well("certificate", "it is for %s, until %s", d.host, leaf.NotAfter.UTC().Format(time.DateOnly))
	}
}

// certifyAnew is how the registry gets a certificate for its name here. A Berth's own CA is made once, for
// the names that the machine had then: it may not vouch for others.
func (d *doctor) certifyAnew() remedy {
	ca := d.ca
	for _, c := range d.chain[1:] {
		if ca == nil && c.IsCA && d.chain[0].CheckSignatureFrom(c) == nil {
			ca = c
		}
	}
	if ca != nil && !permits(ca, d.host) {
		return advise(fmt.Sprintf("The CA that signs (%s) was made without the name %s and cannot vouch for it. To have the name, make a new CA on the server: "+
			"stop the server, remove the directory tls in its data directory, start it with this flag, and trust the new CA on every client.", ca.Subject.CommonName, d.host), "berth --tls=auto --tls-name "+d.host+" ...", "berth trust")
	}
	return advise("Make it again with the name among its subjectAltNames, on the server. With Berth's own CA, start it with this flag:", "berth --tls=auto --tls-name "+d.host+" ...")
}

// useNames proposes to call the registry what its certificate says.
func (d *doctor) useNames(names []string, otherwise remedy) remedy {
	for _, name := range names {
		if name == "localhost" || hostName(name) == "" || net.ParseIP(name) != nil {
			continue // or it is nothing to type: a stranger has written it
		}
		called := doctor{host: name, port: d.port}
		return remedy{fmt.Sprintf("Call it %s, the first line, or have a certificate made for this name. %s", called.written(), otherwise.do), append([]string{"berth doctor " + called.written(), ""}, otherwise.lines...)}
	}
	return otherwise
}

// verifies reports whether a pool vouches for the certificate, whatever its names and dates.
func (d *doctor) verifies(pool *x509.CertPool) bool {
	leaf := d.chain[0]
	between := x509.NewCertPool()
	for _, c := range d.chain[1:] {
		between.AddCert(c)
	}
	at := d.now()
	for _, c := range d.chain { // dates are told apart from trust
		if at.Before(c.NotBefore) {
			at = c.NotBefore.Add(time.Second)
		}
	}
	if at.After(leaf.NotAfter) {
		at = leaf.NotAfter.Add(-time.Second)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: at})
	return err == nil
}

// lacksIntermediate reports whether the server seems to leave out a certificate between its own and
// a CA: its own is not the CA's that signed it, and says where that is to be had.
func (d *doctor) lacksIntermediate() bool {
	leaf := d.chain[0]
	if len(leaf.IssuingCertificateURL) == 0 || leaf.CheckSignatureFrom(leaf) == nil {
		return false
	}
	return !slices.ContainsFunc(d.chain[1:], func(c *x509.Certificate) bool { return leaf.CheckSignatureFrom(c) == nil })
}

// readBelow reads a file of this machine's configuration; nil if there is none.
func (d *doctor) readBelow(path string) []byte {
	text, err := os.ReadFile(filepath.Join(d.root, path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.warn("files", "file-unreadable", advise("Run the doctor as root, to see all files.", "sudo berth doctor "+d.written()), "%s cannot be read, and may say something: %s", path, withoutCalls(err))
	}
	return text
}
