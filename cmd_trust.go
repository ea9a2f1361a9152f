// `berth trust`: how other machines come to trust the local CA (tls_trust.go).

package main

import (
	"bytes"
	"context"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// checkTrustCommand refuses what cannot be a registry's name.
func checkTrustCommand(cfg *config) error {
	if len(cfg.Args) == 0 {
		return nil
	}
	if scheme, host, ok := strings.Cut(cfg.Args[0], "://"); ok && registryHost(strings.TrimSuffix(host, "/"), "") != "" {
		return fmt.Errorf("%q: give the name without %s://, as in berth trust %s", cfg.Args[0], scheme, strings.TrimSuffix(host, "/"))
	}
	if registryHost(cfg.Args[0], "") == "" {
		return fmt.Errorf("%q is not a registry's HOST or HOST:PORT", cfg.Args[0])
	}
	return nil
}

// runTrust is `berth trust [HOST[:PORT]] [--script]`. What is not given it takes from the
// server that runs, or else from the flags and the machine's name.
func runTrust(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	where := askWhere(ctx, cfg)
	if where.Address != "" && !where.Authority {
		return errors.New("the running server uses no local CA: it was started without --tls=auto. Clients see another certificate, its own or that of a proxy in front, " +
			"and a machine that does not trust it needs the CA of that one")
	}
	addr, called := cfg.addr, append(cfg.tls.names, where.Called...)
	if where.Address != "" && !cfg.given["addr"] {
		addr = where.Address
	}
	if hostname, _ := os.Hostname(); len(cfg.Args)+len(called) == 0 && containerName().MatchString(hostname) {
		return fmt.Errorf("this machine is called %s, which is a container's name that others do not know. "+
			"Say what they call it: berth trust HOST:PORT, or --tls-name", hostname)
	}
	return trustCommand(cfg.dir, addr, cfg.Args, cfg.script, stdout, called...)
}

// containerName is what Docker and Podman call a machine.
var containerName = expression(`^[0-9a-f]{12}$`)

// trustCommand says how to trust the CA in the data directory dir, for clients that call
// the registry HOST:PORT. What is not given is the first name of called that the CA may
// vouch for, else the machine's name on its network; and the port of addr.
func trustCommand(dir, addr string, args []string, script bool, stdout io.Writer, called ...string) error {
	file, err := filepath.Abs(filepath.Join(dir, "tls", caCert))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no local CA in %s: start the server with --tls=auto first, or name the data directory with --data", filepath.Dir(file))
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s may not read %s. Run this as root or as the registry's user: ssh HOST 'sudo berth trust …'; "+
			"or open http://HOST:PORT/trust, which needs no account on this machine", accountName(os.Geteuid()), file)
	}
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("%s is damaged: it has no certificate", file)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s is damaged: %w", file, err)
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	given := "localhost"
	if hostname, err := os.Hostname(); err == nil {
		if names := machineNames(hostname); names != nil {
			given = names[2]
		}
	}
	if i := slices.IndexFunc(called, func(name string) bool { return permits(ca, bareHost(name)) }); i >= 0 {
		given = called[i]
	}
	if len(args) > 0 {
		given = args[0]
	}
	host := registryHost(given, port)
	if host == "" {
		return fmt.Errorf("%q is not a registry's HOST or HOST:PORT", given)
	}
	if name := bareHost(host); !permits(ca, name) {
		return fmt.Errorf("the local CA cannot vouch for %s: it was made without this name. "+
			"Use another of the machine's names or an address; or remove %s, start berth with --tls-name %[1]s, and trust the new CA everywhere", name, filepath.Dir(file))
	}
	t := trustIn(host, ca.Raw)
	t.File = file
	if script {
		return trustScript().Execute(stdout, t)
	}
	return trustText(stdout, t)
}

// calledByShells is how a shell without a person calls this program: by its path where that
// is not in a directory that ssh has in PATH everywhere.
func calledByShells() string {
	path, err := os.Executable()
	if err != nil || slices.Contains([]string{"/usr/local/bin", "/usr/bin", "/bin"}, filepath.Dir(path)) {
		return "berth"
	}
	if strings.ContainsFunc(path, func(c rune) bool { return c <= ' ' || strings.ContainsRune("'\"`$\\", c) }) {
		return "berth" // which a person then puts right
	}
	return path
}

// sudoFor is "sudo " if the person who runs this command needed that to read a file, which is
// somebody else's and closed to others.
func sudoFor(file string) string {
	_, uid, ok := sudoer()
	if owner, _, there := fileOwner(file, 0); !ok || there && owner == uid {
		return ""
	}
	for path := file; ; path = filepath.Dir(path) {
		need := fs.FileMode(0o001)
		if path == file {
			need = 0o004
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&need == 0 {
			return "sudo "
		}
		if path == filepath.Dir(path) {
			return ""
		}
	}
}

// trustText tells a person how to trust the CA.
func trustText(w io.Writer, t trusted) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `The local CA of the registry %s is %s
SHA-256 %s

On a machine that should trust it, in one step:
  ssh %[4]s '%[8]s%[7]s trust %[6]s --script --data "%[5]s"' | sudo sh

Or download ca.crt there, compare the fingerprint, and follow the steps that apply:
  curl -fsSo ca.crt http://%[6]s/trust.crt
  openssl x509 -in ca.crt -noout -fingerprint -sha256

`, t.Host, t.File, t.Fingerprint, bareHost(t.Host), filepath.Dir(filepath.Dir(t.File)), t.Full, calledByShells(), sudoFor(t.File))
	if err := trustSteps().Execute(&b, t); err != nil {
		return err
	}
	_, err := b.WriteTo(w)
	return err
}
