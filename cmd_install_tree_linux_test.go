// Installing into the file tree of an image.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The user is added to the accounts that a tree has, with numbers that nobody has, by no program of this machine.
func TestInstallAddsTheUserToATree(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, x := range map[string]struct{ files, want map[string]string }{
		"an SD card": {
			map[string]string{"passwd": "root:x:0:0:root:/root:/bin/sh\nntp:x:999:997::/:/bin/false\n", "group": "root:x:0:\nkvm:x:998:\nntp:x:997:",
				"shadow": "root:*:19000:0:99999:7:::\n", "gshadow": "root:*::\n"},
			map[string]string{"passwd": "berth:x:996:996::/var/lib/berth:/usr/sbin/nologin", "group": "berth:x:996:", "shadow": "berth:!*:::::::", "gshadow": "berth:!*::"},
		},
		"passwords elsewhere": {
			map[string]string{"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n"},
			map[string]string{"passwd": "berth:x:999:999::/var/lib/berth:/usr/sbin/nologin", "group": "berth:x:999:"},
		},
		"a group and no user": {
			map[string]string{"passwd": "", "group": "berth:x:1234:kim\n"},
			map[string]string{"passwd": "berth:x:999:1234::/var/lib/berth:/usr/sbin/nologin", "group": "berth:x:1234:kim"},
		},
	} {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range x.files {
			if err := os.WriteFile(filepath.Join(root, "etc", file), []byte(text), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		on(t, root, "install")
		for file, line := range x.want {
			path := filepath.Join(root, "etc", file)
			hasLine(t, root, "etc/"+file, line)
			if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), x.files[file]) {
				t.Errorf("%s: etc/%s was changed: %v\n%s", name, file, err, text)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("%s: etc/%s has the mode %v, %v", name, file, info.Mode(), err)
			}
		}
		entries, err := os.ReadDir(filepath.Join(root, "etc"))
		if n := len(x.files) + len([]string{"berth", "systemd"}); err != nil || len(entries) != n {
			t.Errorf("%s: etc has %v, %v, want %d entries", name, entries, err, n)
		}
		uid := 0
		fmt.Sscanf(x.want["passwd"], "berth:x:%d", &uid)
		if owner, _, _ := dirOwner(filepath.Join(root, serviceData)); owner != uid {
			t.Errorf("%s: the data directory belongs to %d, want %d", name, owner, uid)
		}
	}
}

// A tree without accounts declares them, for systemd.
func TestInstallInAnEmptyTree(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	said := on(t, root, "install", "--data", "/srv/berth")
	for _, want := range []string{"It has no etc/passwd", "systemd-sysusers --root=" + root, "the service starts with the machine"} {
		if !strings.Contains(said, want) {
			t.Errorf("it says\n%s, want %q", said, want)
		}
	}
	hasLine(t, root, userDeclared, `u berth - "Berth, a container registry" /var/lib/berth`)
	hasLine(t, root, dataDeclared, "d /srv/berth 0700 berth berth -")
	if exists(filepath.Join(root, "etc/passwd")) || exists(filepath.Join(root, "srv")) || !sameContent(itself(t), filepath.Join(root, installedBinary)) {
		t.Error("it has made accounts or data, or has not copied itself")
	}
	before := modes(t, root)
	on(t, root, "install")
	if after := modes(t, root); after != before {
		t.Errorf("the second time it has changed\n%s\nto\n%s", before, after)
	}
	if tool, err := exec.LookPath("systemd-sysusers"); err == nil && isRoot() {
		if out, err := exec.Command(tool, "--root="+root).CombinedOutput(); err != nil {
			t.Errorf("systemd-sysusers: %v\n%s", err, out)
		}
		if _, _, known := (&installer{root: root}).account(); !known {
			t.Error("systemd-sysusers has not made the user")
		}
	}
	on(t, root, "uninstall")
	if exists(filepath.Join(root, userDeclared)) || exists(filepath.Join(root, dataDeclared)) {
		t.Error("the user and the data directory are still declared")
	}
}

// Accounts that are a link, perhaps to this machine's, are refused before anything is made.
func TestInstallRefusesLinkedAccounts(t *testing.T) {
	t.Parallel()
	root := newMachine(t)
	passwd := filepath.Join(root, "etc/passwd")
	elsewhere := filepath.Join(t.TempDir(), "passwd")
	if err := os.Rename(passwd, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, passwd); err != nil {
		t.Fatal(err)
	}
	before := modes(t, root)
	if _, err := runOnce(t, "install", "--root", root); err == nil || !strings.Contains(err.Error(), passwd+" is not a regular file") {
		t.Errorf("berth install: %v", err)
	}
	if after := modes(t, root); after != before {
		t.Errorf("it has changed\n%s\nto\n%s", before, after)
	}
}

// What the help and the settings file call the default is the service's.
func TestInstallTellsTheServicesDefaults(t *testing.T) {
	t.Parallel()
	help, err := runOnce(t, "help", "install")
	help = strings.Join(strings.Fields(help), " ")
	for _, want := range []string{"(default auto)", "(default /var/lib/berth)"} {
		if err != nil || !strings.Contains(help, want) {
			t.Errorf("berth help install: %v\n%s, want %q", err, help, want)
		}
	}
	root := t.TempDir()
	on(t, root, "install")
	hasLine(t, root, settingsFile, "#BERTH_TLS=auto")
}
