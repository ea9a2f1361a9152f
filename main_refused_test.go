//go:build unix

// What a start leaves behind that is refused for the sake of a file: nothing.

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFilesThatAreWrongLeaveNoRegistryBehind(t *testing.T) {
	t.Parallel()
	files := t.TempDir()
	at := func(name, text string) string {
		path := filepath.Join(files, name)
		if text != "" {
			writeFile(t, path, []byte(text))
		}
		return path
	}
	missing, text, rules := at("missing", ""), at("text", "nothing of that kind\n"), at("rules", "[[rule]\n")
	for _, x := range []struct{ args, want string }{
		{"--policy " + missing, "--policy: there is no file " + missing},
		{"--policy " + rules, rules + ": "},
		{"--htpasswd " + missing, "--htpasswd: there is no file " + missing},
		{"--htpasswd " + files, files + ": a directory, where a file is wanted"},
		{"--tls-cert " + missing + " --tls-key " + missing, "--tls-cert, --tls-key: " + missing + ": no such file"},
		{"--tls-cert " + text + " --tls-key " + text, "--tls-cert, --tls-key: "},
		{"--tls auto --client-ca " + missing, "--client-ca: " + missing + ": no such file"},
		{"--tls auto --client-ca " + text, "--client-ca: " + text + ": there is no certificate in it"},
		{"--tls acme --tls-name pi", "--tls-name: ACME gives no certificate for pi"},
	} {
		parent := t.TempDir()
		args := append(strings.Fields(x.args), "--addr", "127.0.0.1:0", "--data", filepath.Join(parent, "new", "data"))
		if got := tell(t, nil, "", args...); got.code == 0 || !strings.Contains(got.err, x.want) {
			t.Errorf("berth %s ends with %d, and says\n%swant\n%s", x.args, got.code, got.err, x.want)
		}
		if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
			t.Errorf("berth %s leaves %v (%v)", x.args, left, err)
		}
	}
	for _, name := range []string{policyFile, usersFile} { // in the directory itself
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		writeFile(t, path, []byte("[[rule]\n"))
		if err := os.Truncate(path, maxWatched+1); err != nil {
			t.Fatal(err)
		}
		got := tell(t, nil, "", "--addr", "127.0.0.1:0", "--data", dir)
		if left, err := os.ReadDir(dir); got.code != 1 || !strings.Contains(got.err, path) || err != nil || len(left) != 1 {
			t.Errorf("with a wrong %s a start ends with %d, leaves %v (%v), and says\n%s", name, got.code, left, err, got.err)
		}
	}
}
