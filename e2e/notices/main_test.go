package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLicencesAreRecognised(t *testing.T) {
	root, err := goRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	if err != nil {
		t.Fatal(err)
	}
	bsd := string(text)
	at := strings.Index(bsd, "   * Neither")
	end := strings.Index(bsd, "THIS SOFTWARE")
	for _, c := range []struct{ what, text, want string }{
		{"as it is", bsd, "BSD-3-Clause"},
		{"without names", bsd[:at] + bsd[end:], "BSD-2-Clause"},
		{"broken otherwise", strings.ReplaceAll(bsd, "\n", "\r\n  "), "BSD-3-Clause"},
		{"a word more", strings.Replace(bsd, "are permitted provided", "are permitted to friends provided", 1), ""},
		{"a condition more", bsd + "\nOn Sundays only.\n", ""},
		{"a condition before", "Not for sale. " + bsd, ""},
		{"a condition beside the name", strings.Replace(bsd, "The Go Authors.", "The Go Authors. Not for sale.", 1), ""},
		{"another", "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n", ""},
		{"nothing", "", ""},
	} {
		if got := recognise(tidy(c.text)); got != c.want {
			t.Errorf("%s: recognised as %q, want %q", c.what, got, c.want)
		}
	}
}

func TestWhatHasNoPermittedLicenceIsRefused(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"LICENSE", "All rights reserved.\n", "x.example/y/LICENSE: not a licence"},
		{"README", "MIT\n", "x.example/y has no licence"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := notices(map[string]*module{"y": {path: "x.example/y", version: "v1.0.0", dir: dir, dirs: map[string]bool{dir: true}}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.file, err, c.want)
		}
	}
}
