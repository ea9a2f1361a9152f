package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is wrong in events.toml is said with its line, also where another endpoint has such a key later.
func TestMistakesInEndpointsHaveTheirLines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]string{
		"[[endpoint]]\nname = \"a\"\nurl = 3\n[[endpoint]]\nurl = \"http://localhost/\"\n": "line 3: endpoint.url: want a text",
		"[endpoint]\nname = \"a\"\n":                           "line 1: write [[endpoint]], with two brackets at each end, over each",
		"[endpoint]\nname = \"a\"\n[endpoint]\nname = \"b\"\n": "line 3: it cannot be read; write [[endpoint]], with two brackets",
	} {
		if err := os.WriteFile(filepath.Join(dir, eventsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := refused(t, "--data", dir, "--addr", "127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("of the endpoints\n%s\nit is said\n%v\nwant %s", text, err, want)
		}
	}
}
