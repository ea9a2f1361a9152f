// Installing: the steps that are files, below a directory that stands for a machine. e2e has a machine with systemd.

package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// newMachine is a directory with what useradd needs of a machine, and its user berth.
func newMachine(t *testing.T) string {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	for name, text := range map[string]string{"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n", "shadow": "root:*:19000:0:99999:7:::\n", "gshadow": "root:*::\n"} {
		if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// on runs a command on a machine.
func on(t *testing.T, root string, args ...string) string {
	t.Helper()
	out, err := runOnce(t, append(args, "--root", root)...)
	if err != nil {
		t.Fatalf("berth %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// has insists on a line of a file.
func hasLine(t *testing.T, root, path, line string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Error(err)
	}
	if !strings.Contains("\n"+string(text), "\n"+line+"\n") {
		t.Errorf("%s has no line %q:\n%s", path, line, text)
	}
}

func TestInstallMakesAService(t *testing.T) {
	t.Parallel()
	root := newMachine(t)
	said := on(t, root, "install", "--addr", "127.0.0.1:5001", "--tls-name", "pi.local,pi", "--scrub-every", "90d")
	for _, want := range []string{"make the system user berth", "make /var/lib/berth", "write /etc/systemd/system/berth.service", "the service starts with the machine"} {
		if !strings.Contains(said, want) {
			t.Errorf("it says\n%s, want %q", said, want)
		}
	}
	for _, unit := range serviceUnits {
		want, _ := installFiles.ReadFile("install/" + unit)
		if got, err := os.ReadFile(filepath.Join(root, unitsDir, unit)); err != nil || string(got) != string(want) {
			t.Errorf("%s: %v\n%s", unit, err, got)
		}
	}
	hasLine(t, root, unitsDir+"/berth.socket.d/install.conf", "ListenStream=127.0.0.1:5001")
	hasLine(t, root, settingsFile, "BERTH_TLS_NAME=pi.local,pi")
	hasLine(t, root, settingsFile, "BERTH_SCRUB_EVERY=2160h0m0s")
	hasLine(t, root, settingsFile, "#BERTH_READ_ONLY=")
	info, err := os.Stat(filepath.Join(root, serviceData))
	uid, _, known := (&installer{root: root}).account()
	if owner, _, _ := dirOwner(filepath.Join(root, serviceData)); err != nil || info.Mode().Perm() != 0o700 || !known || owner != uid || uid == 0 {
		t.Errorf("the data directory: %v, %v, of %d, and the user is %d", info, err, owner, uid)
	}
	for _, link := range []string{"multi-user.target.wants/berth.service", "sockets.target.wants/berth.socket"} {
		if to, err := os.Readlink(filepath.Join(root, unitsDir, link)); err != nil || !strings.HasPrefix(to, unitsDir) {
			t.Errorf("%s leads to %q: %v", link, to, err)
		}
	}
	if !sameContent(itself(t), filepath.Join(root, installedBinary)) {
		t.Error("it has not copied itself")
	}

	// Whatever the umask: the service's user must get there.
	for _, dir := range []string{"usr/local/bin", "etc/berth", "var/lib", "etc/systemd/system/berth.socket.d"} {
		if info, err := os.Stat(filepath.Join(root, dir)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}

	before := modes(t, root)
	if said := on(t, root, "install"); strings.Contains(said, "write") || strings.Contains(said, "make") || strings.Contains(said, "copy") {
		t.Errorf("the second time it says\n%s", said)
	}
	if after := modes(t, root); after != before {
		t.Errorf("the second time it has changed\n%s\nto\n%s", before, after)
	}

	// What is given again is changed, and nothing else: not what somebody has edited.
	settings := filepath.Join(root, settingsFile)
	text, _ := os.ReadFile(settings)
	os.WriteFile(settings, []byte(strings.Replace(string(text), "#BERTH_READ_ONLY=", "BERTH_READ_ONLY=true", 1)), 0o644)
	on(t, root, "install", "--tls-name", "hub.lan")
	hasLine(t, root, settingsFile, "BERTH_TLS_NAME=hub.lan")
	hasLine(t, root, settingsFile, "BERTH_READ_ONLY=true")
	hasLine(t, root, unitsDir+"/berth.socket.d/install.conf", "ListenStream=127.0.0.1:5001")
}

// Behind a proxy the service speaks plain HTTP, unless it is told otherwise.
func TestInstallBehindAProxy(t *testing.T) {
	t.Parallel()
	root := newMachine(t)
	on(t, root, "install", "--addr", "127.0.0.1:5000", "--trusted-proxies", "127.0.0.1")
	hasLine(t, root, settingsFile, "BERTH_TRUSTED_PROXIES=127.0.0.1")
	hasLine(t, root, settingsFile, "BERTH_TLS=")
	on(t, root, "install", "--trusted-proxies", "127.0.0.1", "--tls", "auto")
	hasLine(t, root, settingsFile, "BERTH_TLS=auto")
}

// modes are all names below a directory, with times and modes.
func modes(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		info, e2 := e.Info()
		if err != nil || e2 != nil {
			t.Error(err, e2)
			return err
		}
		fmt.Fprintln(&b, path, info.Mode(), info.ModTime().UnixNano())
		return nil
	})
	return b.String()
}

func TestInstallWithOtherData(t *testing.T) {
	t.Parallel()
	root := newMachine(t)
	on(t, root, "install", "--data", "/mnt/disk/berth", "--http-addr", ":80", "--addr", ":443")
	for _, line := range []string{"RequiresMountsFor=/mnt/disk/berth", "Environment=BERTH_DATA=/mnt/disk/berth", "ReadWritePaths=/mnt/disk/berth", "StateDirectory="} {
		hasLine(t, root, unitsDir+"/berth.service.d/install.conf", line)
	}
	hasLine(t, root, unitsDir+"/berth.socket.d/install.conf", "ListenStream=443")
	hasLine(t, root, unitsDir+"/berth-http.socket.d/install.conf", "ListenStream=80")
	if said := on(t, root, "install"); strings.Contains(said, "make") {
		t.Errorf("without --data the second time, it says\n%s", said)
	}
	if exists(filepath.Join(root, serviceData)) {
		t.Error("it has made a second data directory")
	}
}

func TestInstallRefusesBeforeItMakesAnything(t *testing.T) {
	t.Parallel()
	root := newMachine(t)
	mine := filepath.Join(root, "srv/mine")
	if err := os.MkdirAll(mine, 0o755); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(mine, "berth.db"), []byte("a registry of root's"), 0o600)
	before := modes(t, root)
	for want, args := range map[string][]string{
		"--data: /home/kim/data is below /home, which the service does not see": {"--data", "/home/kim/data"},
		"--policy: /tmp/p.toml is below /tmp":                                   {"--policy", "/tmp/p.toml"},
		"systemd listens on addresses, not on names":                            {"--addr", "pi.local:5000"},
		"a port that stays the same":                                            {"--addr", ":0"},
		"--http-addr needs TLS":                                                 {"--tls=off", "--http-addr", ":80"},
		"sudo chown -R berth: /srv/mine":                                        {"--data", "/srv/mine"},
	} {
		if _, err := runOnce(t, append([]string{"install", "--root", root}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("berth install %s: %v, want %q", strings.Join(args, " "), err, want)
		}
	}
	if !exists("/run/systemd/system") { // else it is for this machine
		for _, command := range []string{"install", "uninstall --dry-run", "upgrade --rollback --dry-run"} {
			const want = "Start the program by hand or by this system's service manager: berth --data DIR --tls=auto, as a user of its own (docs/deploy.md, \"By hand\", has"
			if _, err := runOnce(t, strings.Fields(command)...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("berth %s without systemd: %v", command, err)
			}
		}
		said, err := runOnce(t, "install", "--dry-run", "--addr", "127.0.0.1:47391")
		for _, want := range []string{"systemd does not run this machine", "would: make /var/lib/berth", "would: systemctl start berth.service"} {
			if err != nil && !strings.Contains(err.Error(), "as a package") || err == nil && !strings.Contains(said, want) {
				t.Errorf("berth install --dry-run without systemd: %v\n%s, want %q", err, said, want)
			}
		}
	}
	if said, err := runOnce(t, "install", "--root", root, "--dry-run"); err != nil || !strings.Contains(said, "would: write /etc/systemd/system/berth.service") {
		t.Errorf("--dry-run says %v\n%s", err, said)
	}
	if after := modes(t, root); after != before {
		t.Errorf("it has changed\n%s\nto\n%s", before, after)
	}
}

// A unit that somebody has written is kept, and the differences are shown.
func TestInstallTakesOverAUnit(t *testing.T) {
	t.Parallel()
	root := newMachine(t)
	unit := filepath.Join(root, unitsDir, "berth.service")
	os.MkdirAll(filepath.Dir(unit), 0o755)
	const old = "[Service]\nExecStart=/opt/berth --data /var/lib/berth\n"
	os.WriteFile(unit, []byte(old), 0o644)
	said := on(t, root, "install")
	if !strings.Contains(said, "\n  - ExecStart=/opt/berth --data /var/lib/berth\n") || !strings.Contains(said, "\n  + ExecStart=/usr/local/bin/berth\n") {
		t.Errorf("it says\n%s", said)
	}
	if text, err := os.ReadFile(unit + ".bak"); err != nil || string(text) != old {
		t.Errorf("%s.bak: %v\n%s", unit, err, text)
	}
}

func TestUninstallKeepsWhatIsStored(t *testing.T) {
	t.Parallel()
	root := newMachine(t)
	on(t, root, "install", "--addr", ":5001")
	stored := filepath.Join(root, serviceData, "berth.db")
	os.WriteFile(stored, []byte("stored"), 0o600)
	override := filepath.Join(root, unitsDir, "berth.service.d/override.conf")
	os.MkdirAll(filepath.Dir(override), 0o755)
	os.WriteFile(override, []byte("[Service]\n"), 0o644)
	said := on(t, root, "uninstall")
	if want := "sudo rm -r /var/lib/berth /etc/berth /etc/systemd/system/berth.service.d\n"; !strings.Contains(said, want) {
		t.Errorf("it says\n%s, want %q", said, want)
	}
	for _, path := range []string{stored, override, filepath.Join(root, settingsFile)} {
		if !exists(path) {
			t.Errorf("%s is gone", path)
		}
	}
	filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if strings.Contains(e.Name(), "berth") && !e.IsDir() && path != stored && path != override && path != filepath.Join(root, settingsFile) {
			t.Errorf("%s is left", path)
		}
		return nil
	})
	if _, err := runOnce(t, "uninstall", "--root", root); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("a second time: %v", err)
	}
}

// build builds this Berth: with other flags another file.
func buildOf(t *testing.T, target, flags string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags="+flags, "-o", target, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestUpgradeVerifiesTheFile(t *testing.T) {
	slow(t)
	t.Parallel()
	root := newMachine(t)
	on(t, root, "install")
	dir := t.TempDir()
	file := filepath.Join(dir, "berth-new")
	buildOf(t, file, "-s")
	os.Remove(filepath.Join(root, installedBinary))
	buildOf(t, filepath.Join(root, installedBinary), "-w") // that installed would be the tests
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	script := filepath.Join(dir, "script")
	os.WriteFile(script, []byte("#!/bin/sh\necho berth\n"), 0o755)
	foreign := filepath.Join(dir, "go")
	goTool, _ := exec.LookPath("go")
	if _, err := copyProgram(goTool, foreign); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(filepath.Join(root, installedBinary))
	refused := func(want string, args ...string) {
		t.Helper()
		if _, err := runOnce(t, append([]string{"upgrade", "--root", root}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("berth upgrade %s: %v, want %q", strings.Join(args, " "), err, want)
		}
		if now, _ := os.ReadFile(filepath.Join(root, installedBinary)); string(now) != string(before) || exists(filepath.Join(root, installedBinary+".new")) {
			t.Fatalf("%s: what is installed has changed", want)
		}
	}
	refused("is not a program made by Go", script)
	refused("is not a Berth but cmd", foreign)
	refused("is not what it should be", file, "--sha256", strings.Repeat("0", 64))
	os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(strings.Repeat("1", 64)+"  berth-new\n"), 0o644)
	refused("SHA256SUMS says "+strings.Repeat("1", 64), file)
	refused("no earlier version", "--rollback")

	// Data of a version that this one does not open.
	data := filepath.Join(root, serviceData, "berth.db")
	inDatabase(t, data, "CREATE TABLE t (x)", fmt.Sprintf("PRAGMA application_id = %d", applicationID), fmt.Sprintf("PRAGMA user_version = %d", latestVersion+1))
	os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(sum+" *berth-new\n"), 0o644)
	refused(fmt.Sprintf("they are of version %d", latestVersion+1), file)
	os.Remove(data)

	said := on(t, root, "upgrade", file)
	if !strings.Contains(said, "The SHA-256 is that of "+filepath.Join(dir, "SHA256SUMS")) || !sameContent(file, filepath.Join(root, installedBinary)) {
		t.Errorf("it says %s", said)
	}
	if said := on(t, root, "upgrade", file); !strings.Contains(said, "is this version already") {
		t.Errorf("a second time it says %s", said)
	}
	on(t, root, "upgrade", "--rollback")
	if now, _ := os.ReadFile(filepath.Join(root, installedBinary)); string(now) != string(before) {
		t.Error("--rollback has not brought the version before")
	}
	if !sameContent(file, filepath.Join(root, installedBinary+previousSuffix)) {
		t.Error("--rollback cannot be taken back")
	}
}

// The units are what docs/deploy.md shows, and systemd has nothing to say about them.
func TestUnitsAreInTheDocuments(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, unit := range serviceUnits {
		text, err := os.ReadFile("install/" + unit)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(page), "`/etc/systemd/system/"+unit+"`:\n\n```ini\n"+string(text)+"```\n") {
			t.Errorf("docs/deploy.md does not show install/%s as it is", unit)
		}
	}
}

func TestSystemdTakesTheUnits(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		skip(t, "systemd-analyze is not installed")
	}
	root := newMachine(t)
	on(t, root, "install", "--addr", ":443", "--http-addr", ":80")
	bin := regexp.MustCompile(`(?m)^ExecStart=.*$`)
	dir := t.TempDir()
	for _, unit := range append(serviceUnits[:len(serviceUnits):len(serviceUnits)], httpSocket) {
		text, err := os.ReadFile(filepath.Join(root, unitsDir, unit))
		if err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(dir, unit), bin.ReplaceAll(text, []byte("ExecStart="+filepath.Join(root, installedBinary))), 0o644)
	}
	args := []string{"verify"}
	for _, unit := range append(serviceUnits[:len(serviceUnits):len(serviceUnits)], httpSocket) {
		args = append(args, filepath.Join(dir, unit))
	}
	if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || strings.Contains(string(out), "berth") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// 2.5 of 10 is the half of what it calls OK.
	if out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=25", filepath.Join(dir, "berth.service")).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// A package has a unit of its own, in another directory, which the one of berth install would hide.
func TestInstallLeavesAPackageAlone(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"usr/lib/systemd/system", "lib/systemd/system"} {
		root := newMachine(t)
		os.MkdirAll(filepath.Join(root, dir), 0o755)
		os.WriteFile(filepath.Join(root, dir, "berth.service"), []byte("[Service]\nExecStart=/usr/bin/berth\n"), 0o644)
		before := modes(t, root)
		for _, args := range [][]string{{"install"}, {"uninstall"}, {"upgrade", itself(t)}} {
			if _, err := runOnce(t, append(args, "--root", root)...); err == nil || !strings.Contains(err.Error(), "its package manager installs, upgrades and removes it") {
				t.Errorf("berth %s: %v", args[0], err)
			}
		}
		if after := modes(t, root); after != before {
			t.Errorf("it has changed\n%s\nto\n%s", before, after)
		}
	}
}
