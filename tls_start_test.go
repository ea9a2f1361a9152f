//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A local CA that cannot be used is found before anything is made.
func TestDamagedCAIsFoundBeforeAnythingIsMade(t *testing.T) {
	t.Parallel()
	made := t.TempDir()
	serveFor(t, nil, "--data", made, "--tls", "auto")
	certificate, key := filepath.Join("tls", caCert), filepath.Join("tls", caKey)
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(made, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, x := range []struct {
		files      map[string]string
		args, want string
	}{
		{map[string]string{certificate: read(certificate), key: "nonsense"}, "", "cannot be used"},
		{map[string]string{certificate: read(certificate)}, "", "cannot be used"},
		{map[string]string{key: read(key)}, "", "cannot be used"},
		{map[string]string{filepath.Join("tls", caBoth): read(certificate)}, "", caBoth + " is damaged; remove it"},
		{map[string]string{certificate: read(certificate), key: read(key)}, "--tls-name registry.example.com", "--tls-name registry.example.com: the local CA was made without this name"},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "tls"), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range x.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := tree(t, dir)
		err := refused(t, append([]string{"--addr", "127.0.0.1:0", "--data", dir, "--tls", "auto"}, strings.Fields(x.args)...)...)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v, want %q", err, x.want)
		}
		if after := tree(t, dir); len(after) != len(before) {
			t.Errorf("%s: the start has left %d files, want %d", x.want, len(after), len(before))
		}
	}
	// One whose making was cut short is finished, and is the same.
	if err := os.WriteFile(filepath.Join(made, "tls", caBoth), []byte(read(certificate)+read(key)), 0o600); err != nil {
		t.Fatal(err)
	}
	before := read(certificate)
	os.Remove(filepath.Join(made, key))
	serveFor(t, nil, "--data", made, "--tls", "auto")
	if read(certificate) != before || exists(filepath.Join(made, "tls", caBoth)) {
		t.Error("the CA is another, or not finished")
	}
}
