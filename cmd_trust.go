// `berth trust`: how other machines come to trust the local CA (tls_trust.go).

package main

import (
	"bytes"
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
)

// checkTrustCommand refuses what cannot be a registry's name.
func checkTrustCommand(cfg *config) error {
	if len(cfg.Args) > 0 && registryHost(cfg.Args[0], "") == "" {
		return fmt.Errorf("%q is not a registry's HOST or HOST:PORT", cfg.Args[0])
	}
	return nil
}

// trustCommand is berth trust [HOST[:PORT]] [--script]: how to trust the CA in
// the data directory dir, for clients that call the registry HOST:PORT. It
// needs no server. What is not given is the machine's name on its network, and
// the port of addr.
func trustCommand(dir, addr string, args []string, script bool, stdout io.Writer) error {
	file, err := filepath.Abs(filepath.Join(dir, "tls", caCert))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no local CA in %s: start berth with --tls=auto first, or name the data directory with --data", filepath.Dir(file))
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

// trustText tells a person how to trust the CA.
func trustText(w io.Writer, t trusted) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `The local CA of the registry %s is %s
SHA-256 %s

On a machine that should trust it, in one step:
  ssh %[4]s 'berth trust %[6]s --script --data "%[5]s"' | sudo sh

Or download ca.crt there, compare the fingerprint, and follow the steps that apply:
  curl -fsSo ca.crt http://%[6]s/trust.crt
  openssl x509 -in ca.crt -noout -fingerprint -sha256

`, t.Host, t.File, t.Fingerprint, bareHost(t.Host), filepath.Dir(filepath.Dir(t.File)), t.Full)
	if err := trustSteps().Execute(&b, t); err != nil {
		return err
	}
	_, err := b.WriteTo(w)
	return err
}
