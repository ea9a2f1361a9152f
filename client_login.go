// The password for a registry: that of --user, else what `docker login` or `podman login` has stored.

package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"
)

// remoteOptions are the flags of commands that talk to another registry.
type remoteOptions struct {
	user      string
	caFile    string
	plainHTTP bool
}

// remoteFlags are those flags, for the table of commands.
var remoteFlags = []flagDef{
	{"user", "NAME", "", "log in to the other registry as this user; the password is asked for, or read from the first line of standard input (default what `docker login` has stored)",
		func(c *config, _ *textFlags) any { return &c.remote.user }},
	{"ca", "FILE", "", "trust the CAs in this file for the other registry, too",
		func(c *config, _ *textFlags) any { return &c.remote.caFile }},
	{"plain-http", "", "", "speak plain HTTP with the other registry, passwords included",
		func(c *config, _ *textFlags) any { return &c.remote.plainHTTP }},
}

// client returns a client of a registry by the flags, and by what is stored for it.
func (o remoteOptions) client(ctx context.Context, host string, env environment, stdin io.Reader, stdout io.Writer) (*client, error) {
	c := clientOptions{plainHTTP: o.plainHTTP}
	if o.caFile != "" {
		text, err := os.ReadFile(o.caFile)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ca: %s has no certificate", o.caFile)
		}
		c.tls = &tls.Config{RootCAs: roots}
	}
	var err error
	if o.user == "" {
		c.user, c.password, err = storedLogin(env, host)
	} else {
		c.user = o.user
		c.password, err = passwordFor(ctx, o.user+" at "+host, stdin, stdout)
	}
	if err != nil {
		return nil, err
	}
	return newClient(host, c)
}

// passwordFor asks a person at the terminal for a password that there is, or reads it from the first line of stdin.
func passwordFor(ctx context.Context, whom string, stdin io.Reader, stdout io.Writer) (string, error) {
	if f, ok := stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		typed, err := readPasswords(ctx, f, stdout, nil, "Password for "+whom+": ")
		if err != nil {
			return "", err
		}
		return typed[0], nil
	}
	line, err := bufio.NewReader(io.LimitReader(stdin, 64<<10)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", errors.New("no password: type one, or pass it as a line on standard input")
	}
	return line, nil
}

// storedLogin is what Docker or Podman has stored for a registry, as text; "" for nothing. Helpers that keep passwords
// elsewhere are not asked.
func storedLogin(env environment, host string) (user, password string, err error) {
	user, password, _, err = loginIn(loginFiles(env), host)
	return user, password, err
}

// loginIn is storedLogin in some files, and the one that has it.
func loginIn(files []string, host string) (user, password, file string, err error) {
	keys := []string{host, "https://" + host, "http://" + host, "https://" + host + "/v1/", "https://" + host + "/v2/"}
	if host == "docker.io" || host == "index.docker.io" || host == "registry-1.docker.io" {
		keys = []string{"https://index.docker.io/v1/", "docker.io"}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return "", "", "", err
		}
		var doc struct {
			Auths       map[string]struct{ Auth, Username, Password string }
			CredsStore  string
			CredHelpers map[string]string
		}
		if err := json.Unmarshal(text, &doc); err != nil {
			return "", "", "", fmt.Errorf("%s is not the JSON that `docker login` writes: %w", file, err)
		}
		for _, key := range keys {
			login, ok := doc.Auths[key]
			if !ok && doc.CredHelpers[key] == "" {
				continue
			}
			user, password = login.Username, login.Password
			if b, err := base64.StdEncoding.DecodeString(login.Auth); err == nil && login.Auth != "" {
				user, password, _ = strings.Cut(string(b), ":")
				password = strings.TrimRight(password, "\x00")
			}
			if helper := cmp.Or(doc.CredHelpers[key], doc.CredsStore); user+password == "" && helper != "" {
				return "", "", "", fmt.Errorf("the password for %s is kept by docker-credential-%s, which Berth does not ask: name the user with --user", host, helper)
			}
			if user+password != "" {
				return user, password, file, nil
			}
		}
	}
	return "", "", "", nil
}

// loginFiles are the files in which logins are, if they are there.
func loginFiles(env environment) (files []string) {
	home, _ := env.lookup("HOME")
	if home == "" {
		home, _ = env.lookup("USERPROFILE") // on Windows
	}
	add := func(variable, unset string, more ...string) {
		if value, _ := env.lookup(variable); value != "" {
			files = append(files, filepath.Join(append([]string{value}, more...)...))
		} else if unset != "" && home != "" {
			files = append(files, filepath.Join(home, unset))
		}
	}
	add("DOCKER_CONFIG", ".docker/config.json", "config.json")
	add("REGISTRY_AUTH_FILE", "")
	add("XDG_RUNTIME_DIR", "", "containers", "auth.json")
	add("XDG_CONFIG_HOME", ".config/containers/auth.json", "containers", "auth.json")
	return files
}
