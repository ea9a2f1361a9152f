//go:build unix

// The examples for other service managers than systemd. None of those is here: what they say is looked at, not run.

package main

import (
	"encoding/xml"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

func TestExamplesForOtherServiceManagers(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"examples/berth.openrc", "examples/berth.rc", "examples/berth.plist"} {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/deploy.md does not name %s", name)
		}
		if strings.HasSuffix(name, ".plist") {
			continue
		}
		if out, err := exec.Command("sh", "-n", name).CombinedOutput(); err != nil {
			t.Errorf("sh -n %s: %v\n%s", name, err, out)
		}
	}

	text, err := os.ReadFile("examples/berth.plist")
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(strings.NewReader(string(text))); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	_, list, _ := strings.Cut(string(text), "<array>")
	list, _, _ = strings.Cut(list, "</array>")
	var args []string
	for _, m := range regexp.MustCompile(`<string>(.*)</string>`).FindAllStringSubmatch(list, -1) {
		args = append(args, m[1])
	}
	if len(args) < 2 || args[0] != installedBinary {
		t.Fatalf("the plist runs %q", args)
	}
	if _, err := parseConfig("serve", args[1:], noEnv, io.Discard); err != nil {
		t.Errorf("berth does not take what the plist passes it: %v", err)
	}
}
