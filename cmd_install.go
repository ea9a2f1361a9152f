// `berth install` and `berth uninstall`: Berth as a service of systemd.
//
// What is written does not depend on the machine: the units are the files of install/, as they are,
// and so is what docs/deploy.md shows. What a flag asks for is a setting in /etc/berth/berth.env,
// or, where systemd itself must know it (the address, the data directory), a drop-in install.conf
// beside the unit. So an administrator's own drop-ins stay, and a second run changes only what
// differs. What is refused is refused before anything is made.
//
// Nothing stored is ever touched: an empty directory of root's is given to the service's user,
// one with a registry of somebody else is refused.

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed install
var installFiles embed.FS

const (
	installedBinary = "/usr/local/bin/berth"
	unitsDir        = "/etc/systemd/system"
	settingsFile    = "/etc/berth/berth.env"
	serviceAccount  = "berth"
	serviceData     = "/var/lib/berth"
	dropIn          = "install.conf"
)

// serviceStandards are the defaults of the service, where they are other than the server's: its unit sets them.
var serviceStandards = map[string]string{"tls": "auto", "data": serviceData}

// serviceUnits are the units of install/ for every server; httpSocket is only for one with --http-addr.
var serviceUnits = []string{"berth.service", "berth.socket", "berth.target"}

const httpSocket = "berth-http.socket"

// An installer does the steps of an installation. With a root directory it does those that are files, below
// that, for whoever builds an image; with dry it says what it would do.
type installer struct {
	root    string // "" for this machine
	dry     bool
	out     io.Writer
	changed bool // something was written that a running service has to be restarted for
}

// at is where a file of the system is.
func (in *installer) at(path string) string { return filepath.Join(cmp.Or(in.root, "/"), path) }

// thereIs reports whether something is at a path.
func thereIs(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// say tells of a step. With dry it is one that would be done.
func (in *installer) say(format string, args ...any) {
	if in.dry {
		format = "would: " + format
	}
	fmt.Fprintf(in.out, format+"\n", args...)
}

// run runs a program of the system. Its error has what the program said.
func (in *installer) run(ctx context.Context, name string, args ...string) error {
	if in.dry {
		in.say("%s %s", name, strings.Join(args, " "))
		return nil
	}
	said, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s has failed: %s (%w)", name, strings.Join(args, " "), oneLine(strings.TrimSpace(string(said))), err)
	}
	return nil
}

// write makes a file have these bytes, if it has others. One that Berth has not written is kept as NAME.bak.
func (in *installer) write(path string, content []byte, ours bool) error {
	name := in.at(path)
	was, err := os.ReadFile(name)
	if err == nil && bytes.Equal(was, content) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in.changed = true
	if err == nil && !ours {
		in.say("%s was different; the old one is kept as %[1]s.bak%s", path, differences(string(was), string(content)))
		if !in.dry {
			if err := replaceFile(name+".bak", was); err != nil {
				return err
			}
		}
	}
	in.say("write %s", path)
	if in.dry {
		return nil
	}
	if err := makeOpen(filepath.Dir(name)); err != nil {
		return err
	}
	if err := replaceFile(name, content); err != nil {
		return err
	}
	return os.Chmod(name, 0o644) // no secret; systemctl cat is for everybody
}

// makeOpen makes a directory and those above it, for everybody to read whatever the umask, as a system's are.
func makeOpen(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := makeOpen(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// differences are the lines of a text that another lacks, and the other way round.
func differences(was, is string) string {
	var b strings.Builder
	for _, x := range []struct{ sign, in, lacks string }{{"-", was, is}, {"+", is, was}} {
		others := strings.Split(x.lacks, "\n")
		for _, line := range strings.Split(x.in, "\n") {
			if !slices.Contains(others, line) && !strings.HasPrefix(line, "#") && line != "" {
				fmt.Fprintf(&b, "\n  %s %s", x.sign, line)
			}
		}
	}
	return b.String()
}

// remove removes a file, if it is there.
func (in *installer) remove(path string) error {
	if _, err := os.Lstat(in.at(path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	in.changed = true
	in.say("remove %s", path)
	if in.dry {
		return nil
	}
	return os.Remove(in.at(path))
}

// newInstaller returns an installer for what the flags say, or an error if this machine has no such service.
func newInstaller(cfg *config, stdout io.Writer) (*installer, error) {
	in := &installer{root: cfg.Root, dry: cfg.DryRun, out: stdout}
	if in.root != "" && filepath.Clean(in.root) == "/" {
		in.root = "" // this machine, and not its image
	}
	switch {
	case runtime.GOOS != "linux":
		return nil, fmt.Errorf("berth %s is for Linux with systemd. On this system, start the program by hand or by its service manager: berth --data DIR --tls=auto, as a user of its own", cfg.Command)
	case in.root != "":
		if info, err := os.Stat(in.root); err != nil || !info.IsDir() {
			return nil, usageErrorf("--root: there is no directory %s", in.root)
		}
		if in.hasAccounts() && !isRoot() && !in.dry {
			return nil, fmt.Errorf("berth %s changes files of root's below %s, and gives some to the service's user: run it as root, for example with sudo (--dry-run shows what it would do)", cfg.Command, in.root)
		}
	case in.dry && cfg.Command == "install" && !thereIs("/run/systemd/system"):
		fmt.Fprintln(stdout, "systemd does not run this machine, so the service cannot be installed here. On one that it runs:")
	case !thereIs("/run/systemd/system"):
		return nil, fmt.Errorf("systemd does not run this machine, and berth %s is for systemd. Start the program by hand or by this system's service manager: berth --data DIR --tls=auto, "+
			"as a user of its own (docs/deploy.md, \"By hand\", has the user and the directory). --root DIR works on the files of an image", cfg.Command)
	case !isRoot() && !in.dry:
		return nil, fmt.Errorf("berth %s writes to /etc and %s: run it as root, for example with sudo (--dry-run shows what it would do)", cfg.Command, installedBinary)
	}
	if thereIs(in.at("/lib/systemd/system/berth.service")) || thereIs(in.at("/usr/lib/systemd/system/berth.service")) {
		return nil, fmt.Errorf("this system has Berth as a package, with a unit of its own, and its package manager installs, upgrades and removes it. Settings are in %s", settingsFile)
	}
	return in, nil
}

// checkInstall refuses flags that cannot be right together.
func checkInstall(cfg *config) error {
	o := cfg.tls
	if !cfg.given["tls"] && o.mode == "" && !cfg.given["trusted-proxies"] {
		o.mode = "auto" // as in the unit
	}
	return o.refuseIdle()
}

// hiddenDirs are those that the service cannot see, and why.
var hiddenDirs = map[string]string{"/home": "ProtectHome=", "/root": "ProtectHome=", "/run/user": "ProtectHome=", "/tmp": "PrivateTmp=", "/var/tmp": "PrivateTmp=",
	"/dev": "PrivateDevices=", "/proc": "ProtectSystem=", "/sys": "ProtectSystem="}

// refuseHidden refuses a path that the service could not use.
func refuseHidden(flag, path string) error {
	for dir, why := range hiddenDirs {
		if isUnder(path, dir) {
			return usageErrorf("--%s: %s is below %s, which the service does not see (%s in its unit keeps it out): choose another place, such as /srv/berth", flag, path, dir, why)
		}
	}
	return nil
}

// settings are the flags that were given, as lines of a settings file: those of them that are no matter of
// systemd's. Paths are made whole.
func (cfg *config) settings() (lines [][2]string, err error) {
	var text textFlags
	flags := newFlags("install", &config{}, &text)
	if _, err := parseArguments("install", flags, cfg.typed, func(string) {}); err != nil {
		return nil, err
	}
	own := []string{"addr", "http-addr", "data", "root", "dry-run"}
	files := []string{"htpasswd", "policy", "tls-cert", "tls-key", "client-ca"}
	flags.VisitAll(func(f *flag.Flag) {
		if !cfg.given[f.Name] || slices.Contains(own, f.Name) {
			return
		}
		value := f.Value.String()
		if slices.Contains(files, f.Name) {
			whole, e := filepath.Abs(value)
			err = errors.Join(err, e, refuseHidden(f.Name, whole))
			value = whole
		}
		if strings.ContainsAny(value, "'\n\\") {
			err = errors.Join(err, usageErrorf("--%s: a quote, a backslash or a line's end cannot be in a setting", f.Name))
		}
		lines = append(lines, [2]string{variableOf(f.Name), value})
		if f.Name == "tls-cert" {
			lines = append(lines, [2]string{"BERTH_TLS", ""}) // or the unit's would contradict it
		}
	})
	if cfg.given["trusted-proxies"] && !cfg.given["tls"] && !cfg.given["tls-cert"] {
		lines = append(lines, [2]string{"BERTH_TLS", ""}) // the proxy does TLS, and speaks plain HTTP here
	}
	return lines, err
}

// withSettings returns the text of a settings file with these settings, each in the place of the line that has
// it, or has it as a comment.
func withSettings(text string, settings [][2]string) string {
	for _, x := range settings {
		line := x[0] + "=" + x[1]
		if strings.ContainsAny(x[1], " \t#;\"$`&|<>()*?[]~!{}") {
			line = x[0] + "='" + x[1] + "'"
		}
		place := regexp.MustCompile(`(?m)^` + x[0] + `=.*$`)
		if !place.MatchString(text) {
			place = regexp.MustCompile(`(?m)^#` + x[0] + `=.*$`)
		}
		if at := place.FindStringIndex(text); at != nil {
			text = text[:at[0]] + line + text[at[1]:]
		} else {
			text = strings.TrimRight(text, "\n") + "\n" + line + "\n"
		}
	}
	return text
}

// newSettings is the text of a settings file that nobody has edited: every flag of the server, as a comment.
func newSettings() string {
	var b strings.Builder
	b.WriteString("# Settings of Berth, read by systemd when it starts the service. After a change: sudo systemctl restart berth\n" +
		"# Where it listens and where its data are is not here: sudo berth install --addr ADDR --data DIR\n")
	for _, group := range serverFlags {
		fmt.Fprintf(&b, "\n# %s\n", group.heading)
		for _, f := range group.flags {
			if f.name == "addr" || f.name == "http-addr" || f.name == "data" {
				continue
			}
			for i, line := range strings.Split(wrap(f.about, 2, 0), "\n") {
				fmt.Fprintf(&b, "# %s%s\n", strings.Repeat("  ", min(i, 1)), line)
			}
			fmt.Fprintf(&b, "#%s=%s\n", variableOf(f.name), cmp.Or(serviceStandards[f.name], f.standard))
		}
	}
	return b.String()
}

// systemdAddress is how a socket unit has an address that a flag has.
func systemdAddress(flag, addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	number, err := net.LookupPort("tcp", port)
	switch {
	case err != nil:
		return "", err
	case number == 0:
		return "", usageErrorf("--%s: a service needs a port that stays the same, such as :5000", flag)
	case host == "":
		return strconv.Itoa(number), nil
	case host == "localhost":
		host = "127.0.0.1"
	case net.ParseIP(host) == nil:
		return "", usageErrorf("--%s: systemd listens on addresses, not on names: put the address of %s in its place", flag, host)
	}
	return net.JoinHostPort(host, strconv.Itoa(number)), nil
}

// unitFiles returns what is to be in the directory of units, by name: "" where a file is not wanted. A drop-in
// stays as it is when its flag is not given.
func (cfg *config) unitFiles() (map[string]string, error) {
	files := map[string]string{}
	for _, unit := range serviceUnits {
		text, err := installFiles.ReadFile("install/" + unit)
		if err != nil {
			return nil, err
		}
		files[unit] = string(text)
	}
	const head = "# Written by `berth install`, which replaces it. Changes of your own: sudo systemctl edit "
	for flag, unit := range map[string]string{"addr": "berth.socket", "http-addr": httpSocket} {
		if !cfg.given[flag] {
			continue
		}
		value := cfg.addr
		if flag == "http-addr" {
			text, err := installFiles.ReadFile("install/" + unit)
			if err != nil {
				return nil, err
			}
			files[unit], value = string(text), cfg.tls.httpAddr
		}
		address, err := systemdAddress(flag, value)
		if err != nil {
			return nil, err
		}
		text := head + unit + "\n[Socket]\nListenStream=\nListenStream=" + address + "\n"
		if strings.Contains(address, ":") {
			text += "FreeBind=yes\n" // at boot the machine may not have the address yet
		}
		files[unit+".d/"+dropIn] = text
	}
	if cfg.given["data"] {
		text := head + "berth.service\n[Unit]\nRequiresMountsFor=" + cfg.dir + "\n[Service]\nEnvironment=BERTH_DATA=" + cfg.dir +
			"\nStateDirectory=\nReadWritePaths=" + cfg.dir + "\n"
		if cfg.dir == serviceData {
			text = ""
		}
		files["berth.service.d/"+dropIn] = text
	}
	return files, nil
}

// dataDir is the data directory of the service that is installed, as its drop-in says.
func (in *installer) dataDir() string {
	text, _ := os.ReadFile(in.at(filepath.Join(unitsDir, "berth.service.d", dropIn)))
	if m := regexp.MustCompile(`(?m)^Environment=BERTH_DATA=(.*)$`).FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return serviceData
}

// installCommand is `berth install`.
func installCommand(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	in, err := newInstaller(cfg, stdout)
	if err != nil {
		return err
	}
	if cfg.given["data"] {
		if cfg.dir, err = filepath.Abs(cfg.dir); err != nil {
			return err
		}
		if err := refuseHidden("data", cfg.dir); err != nil {
			return err
		}
		if strings.ContainsAny(cfg.dir, " \t%\"'\\") {
			return usageErrorf("--data: for a service, choose a directory without spaces, quotes or percent signs in its name")
		}
	} else {
		cfg.dir = in.dataDir()
	}
	settings, err := cfg.settings()
	if err != nil {
		return err
	}
	units, err := cfg.unitFiles()
	if err != nil {
		return err
	}
	if err := in.refuseAddress(ctx, cfg); err != nil {
		return err
	}
	uid, gid, known := in.account()
	if err := in.refuseData(cfg.dir, uid, known); err != nil {
		return err
	}
	if in.root != "" && !known {
		if err := in.refuseLinks(); err != nil {
			return err
		}
	}

	if err := in.copyItself(); err != nil {
		return err
	}
	if !known && !in.hasAccounts() {
		err = in.declareUser(cfg.dir)
	} else {
		if !known {
			uid, gid, err = in.makeUser(ctx)
		}
		if err == nil {
			err = in.makeData(cfg.dir, uid, gid)
		}
	}
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(units)) {
		path := filepath.Join(unitsDir, name)
		if units[name] == "" {
			err = in.remove(path)
		} else {
			err = in.write(path, []byte(units[name]), strings.HasSuffix(name, dropIn) || in.isOurs(path))
		}
		if err != nil {
			return err
		}
	}
	if err := in.writeSettings(settings); err != nil {
		return err
	}
	if err := in.startService(ctx, units[httpSocket] != ""); err != nil {
		return err
	}
	return in.tellInstalled(ctx, cfg)
}

// isOurs reports whether a unit is one that a berth has installed: it takes its settings from the settings file, or
// is a socket.
func (in *installer) isOurs(path string) bool {
	text, _ := os.ReadFile(in.at(path))
	return strings.HasSuffix(path, ".socket") || bytes.Contains(text, []byte("EnvironmentFile=-"+settingsFile))
}

// writeSettings makes the settings file, or changes the lines of one that is there.
func (in *installer) writeSettings(settings [][2]string) error {
	text, err := os.ReadFile(in.at(settingsFile))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte(newSettings()), nil
	}
	if err != nil {
		return err
	}
	return in.write(settingsFile, []byte(withSettings(string(text), settings)), true)
}

// refuseAddress refuses a port that another program has. The service's own sockets are none.
func (in *installer) refuseAddress(ctx context.Context, cfg *config) error {
	if in.root != "" {
		return nil
	}
	isActive := func(unit string) bool {
		return exec.CommandContext(ctx, "systemctl", "--quiet", "is-active", unit).Run() == nil
	}
	addresses := map[string]string{"addr": cfg.addr}
	if cfg.tls.httpAddr != "" {
		addresses["http-addr"] = cfg.tls.httpAddr
	}
	if isActive("berth.service") || isActive("berth.socket") {
		delete(addresses, "addr")
	}
	if isActive(httpSocket) {
		delete(addresses, "http-addr")
	}
	for _, name := range slices.Sorted(maps.Keys(addresses)) {
		listener, err := cfg.listen(name, addresses[name])
		if err != nil {
			return err
		}
		if err := listener.Close(); err != nil {
			return err
		}
	}
	return nil
}

// account returns the service's user, if there is one.
func (in *installer) account() (uid, gid int, ok bool) {
	text, _ := os.ReadFile(in.at("/etc/passwd"))
	for line := range strings.Lines(string(text)) {
		f := strings.Split(line, ":")
		if len(f) < 4 || f[0] != serviceAccount {
			continue
		}
		uid, e1 := strconv.Atoi(f[2])
		gid, e2 := strconv.Atoi(f[3])
		return uid, gid, e1 == nil && e2 == nil
	}
	return 0, 0, false
}

// makeUser makes the service's user, who cannot log in.
func (in *installer) makeUser(ctx context.Context) (uid, gid int, err error) {
	in.say("make the system user %s", serviceAccount)
	if in.root != "" {
		if in.dry {
			return 0, 0, nil
		}
		return in.addUser()
	}
	name, args := "useradd", []string{"--system", "--user-group", "--no-create-home", "--home-dir", serviceData, "--shell", "/usr/sbin/nologin", serviceAccount}
	if _, err := exec.LookPath(name); err != nil {
		if _, err := exec.LookPath("adduser"); err == nil { // Debian has had it without the other
			name, args = "adduser", []string{"--system", "--group", "--no-create-home", "--home", serviceData, "--shell", "/usr/sbin/nologin", serviceAccount}
		}
	}
	if err := in.run(ctx, name, args...); err != nil || in.dry {
		return 0, 0, err
	}
	uid, gid, ok := in.account()
	if !ok {
		return 0, 0, fmt.Errorf("%s has made the user %s, and %s does not have it", name, serviceAccount, in.at("/etc/passwd"))
	}
	return uid, gid, nil
}

// refuseData refuses a data directory that the service could not write, with what to do: nothing in it is changed.
func (in *installer) refuseData(dir string, uid int, known bool) error {
	name := in.at(dir)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is a file, not a directory", dir)
	}
	if err != nil {
		return err
	}
	owner, _, _ := dirOwner(name)
	used := thereIs(filepath.Join(name, "berth.db")) || thereIs(filepath.Join(name, "blobs"))
	by, _, _ := fileOwner(filepath.Join(name, "berth.db"), 0)
	switch {
	case known && owner == uid && (!used || by == uid):
		return nil
	case owner == 0 && !used:
		return nil
	case used && isServed(name):
		return fmt.Errorf("a Berth that is already running serves %s: stop it first, then give the directory to the service's user and run this again:\n%s", dir, giveAway(dir, known))
	}
	return fmt.Errorf("%s belongs to another user, and the service could not write it. Give it to the service's user, and run this again:\n%s", dir, giveAway(dir, known))
}

// giveAway is what to type so that a directory belongs to the service's user.
func giveAway(dir string, known bool) string {
	text := "  sudo chown -R " + serviceAccount + ": " + dir
	if !known {
		text = "  sudo useradd --system --user-group --no-create-home --home-dir " + serviceData + " --shell /usr/sbin/nologin " + serviceAccount + "\n" + text
	}
	return text
}

// makeData makes the data directory, for the service's user alone.
func (in *installer) makeData(dir string, uid, gid int) error {
	name := in.at(dir)
	if owner, _, ok := dirOwner(name); ok && owner == uid && uid != 0 {
		return nil
	}
	in.say("make %s, which only the user %s can read", dir, serviceAccount)
	if in.dry {
		return nil
	}
	if err := makeOpen(name); err != nil {
		return err
	}
	return errors.Join(os.Chmod(name, 0o700), os.Chown(name, uid, gid))
}

// copyItself makes this program the installed one.
func (in *installer) copyItself() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	target := in.at(installedBinary)
	if sameFile(self, target) || sameContent(self, target) {
		return nil
	}
	in.changed = true
	in.say("copy %s to %s", self, installedBinary)
	if in.dry {
		return nil
	}
	if err := makeOpen(filepath.Dir(target)); err != nil {
		return err
	}
	temp := target + ".new"
	os.Remove(temp)
	if _, err := copyProgram(self, temp); err != nil {
		return err
	}
	return in.putProgram(temp)
}

// copyProgram copies a program to a new file, synced, and returns the SHA-256 of what it has copied.
func copyProgram(from, to string) (sum string, err error) {
	src, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(dst, hash), src)
	if err = errors.Join(err, dst.Chmod(0o755), dst.Sync(), dst.Close()); err != nil {
		os.Remove(to)
		return "", fmt.Errorf("copying %s to %s: %w", from, to, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// putProgram gives the installed binary's name to temp, and keeps what had it as the previous one.
func (in *installer) putProgram(temp string) error {
	target := in.at(installedBinary)
	if thereIs(target) {
		keep := target + ".keep"
		os.Remove(keep)
		if err := os.Link(target, keep); err != nil { // FAT, say
			if _, err := copyProgram(target, keep); err != nil {
				return err
			}
		}
		if err := os.Rename(keep, target+previousSuffix); err != nil {
			return err
		}
	}
	if err := os.Rename(temp, target); err != nil {
		return err
	}
	if path, err := exec.LookPath("restorecon"); err == nil && in.root == "" { // SELinux: it has the label of where it was copied
		exec.Command(path, target).Run()
	}
	return syncDir(filepath.Dir(target))
}

// sameContent reports whether two files have the same bytes.
func sameContent(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	if errA != nil || errB != nil || infoA.Size() != infoB.Size() {
		return false
	}
	textA, errA := os.ReadFile(a)
	textB, errB := os.ReadFile(b)
	return errA == nil && errB == nil && bytes.Equal(textA, textB)
}

// startService has systemd know the units, start them with the machine, and start them now.
func (in *installer) startService(ctx context.Context, plainHTTP bool) error {
	sockets := []string{"berth.socket"}
	if plainHTTP || thereIs(in.at(filepath.Join(unitsDir, httpSocket))) {
		sockets = append(sockets, httpSocket)
	}
	if in.root != "" {
		return in.linkUnits(sockets)
	}
	active := exec.CommandContext(ctx, "systemctl", "--quiet", "is-active", "berth.service").Run() == nil
	if !in.changed && active {
		fmt.Fprintln(in.out, "Everything is as it should be; nothing was changed")
		return nil
	}
	if err := in.run(ctx, "systemctl", "daemon-reload"); err != nil {
		return err
	}
	if err := in.run(ctx, "systemctl", append([]string{"--quiet", "enable", "berth.service"}, sockets...)...); err != nil {
		return err
	}
	// The sockets may be at other addresses now; else they stay, and no connection is refused.
	verbs := [][]string{{"restart", "berth.service"}}
	if in.moved(ctx, sockets) {
		verbs = [][]string{append([]string{"stop", "berth.service"}, sockets...), {"start", "berth.service"}}
	}
	for _, args := range verbs {
		if err := in.run(ctx, "systemctl", args...); err != nil {
			return fmt.Errorf("%w\nIts log ends with:\n%s", err, journal(ctx))
		}
	}
	return nil
}

// unitLinks are what makes systemd start units with the machine, as [Install] in them says.
var unitLinks = map[string][]string{"berth.service": {"multi-user.target.wants"}, "berth.socket": {"sockets.target.wants"},
	httpSocket: {"sockets.target.wants", "berth.service.wants"}}

// linkUnits enables the service below a root directory, where systemctl is not.
func (in *installer) linkUnits(sockets []string) error {
	for _, unit := range append([]string{"berth.service"}, sockets...) {
		for _, dir := range unitLinks[unit] {
			link := in.at(filepath.Join(unitsDir, dir, unit))
			if thereIs(link) || in.dry {
				continue
			}
			if err := makeOpen(filepath.Dir(link)); err != nil {
				return err
			}
			if err := os.Symlink(filepath.Join(unitsDir, unit), link); err != nil {
				return err
			}
		}
	}
	return nil
}

// moved reports whether a socket does not listen where its unit says, or does not listen.
func (in *installer) moved(ctx context.Context, sockets []string) bool {
	for _, unit := range sockets {
		if exec.CommandContext(ctx, "systemctl", "--quiet", "is-active", unit).Run() != nil {
			return true
		}
		said, err := exec.CommandContext(ctx, "systemctl", "show", "--property=ActiveEnterTimestamp", "--timestamp=unix", unit).Output()
		_, since, _ := strings.Cut(string(said), "ActiveEnterTimestamp=@")
		n, e := strconv.ParseInt(strings.TrimSpace(since), 10, 64)
		if err != nil || e != nil {
			return true
		}
		for _, path := range []string{unit, unit + ".d/" + dropIn} {
			if info, missing := os.Stat(in.at(filepath.Join(unitsDir, path))); missing == nil && info.ModTime().Unix() >= n {
				return true
			}
		}
	}
	return false
}

// journal is how the log of the service ends.
func journal(ctx context.Context) string {
	said, err := exec.CommandContext(ctx, "journalctl", "--unit=berth.service", "--lines=12", "--output=cat", "--no-pager").Output()
	if err != nil {
		return "  (journalctl has not answered: " + err.Error() + ")"
	}
	return "  " + strings.ReplaceAll(strings.TrimSpace(string(said)), "\n", "\n  ")
}

// tellInstalled says where the registry is, and what comes next.
func (in *installer) tellInstalled(ctx context.Context, cfg *config) error {
	if in.dry {
		return nil
	}
	if in.root != "" {
		in.tellTree()
		return nil
	}
	where := askWhere(ctx, cfg)
	if where.Address == "" {
		return fmt.Errorf("the service has started, and does not answer on %s. Its log ends with:\n%s", filepath.Join(cfg.dir, "berth.sock"), journal(ctx))
	}
	fmt.Fprintf(in.out, "Berth runs and starts with the machine. It listens on %s, and its data are in %s\n", where.Address, cfg.dir)
	fmt.Fprintf(in.out, "First user:  sudo berth user add NAME --data %s\nSettings:    %s, then sudo systemctl restart berth\nLog:         sudo journalctl -u berth -f\n", cfg.dir, settingsFile)
	if said, err := exec.CommandContext(ctx, "systemctl", "show", "--property=StatusText", "--value", "berth.service").Output(); err == nil {
		fmt.Fprintf(in.out, "Status:      %s\n", strings.TrimSpace(string(said)))
	}
	return nil
}

// uninstallCommand is `berth uninstall`. What is stored stays.
func uninstallCommand(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	in, err := newInstaller(cfg, stdout)
	if err != nil {
		return err
	}
	data := in.dataDir()
	if !thereIs(in.at(filepath.Join(unitsDir, "berth.service"))) {
		return fmt.Errorf("there is no %s: Berth is not installed as a service", filepath.Join(unitsDir, "berth.service"))
	}
	var there []string
	for _, unit := range append(slices.Clone(serviceUnits), httpSocket) {
		if thereIs(in.at(filepath.Join(unitsDir, unit))) {
			there = append(there, unit)
		}
	}
	if in.root == "" {
		if err := in.run(ctx, "systemctl", append([]string{"--quiet", "disable", "--now"}, there...)...); err != nil {
			return err
		}
	}
	var left []string
	for _, unit := range there {
		dir := filepath.Join(unitsDir, unit+".d")
		err := errors.Join(in.remove(filepath.Join(unitsDir, unit)), in.remove(filepath.Join(dir, dropIn)))
		if in.root != "" {
			for _, wants := range unitLinks[unit] {
				err = errors.Join(err, in.remove(filepath.Join(unitsDir, wants, unit)))
			}
		}
		if err != nil {
			return err
		}
		if !in.dry && os.Remove(in.at(dir)) != nil && thereIs(in.at(dir)) {
			left = append(left, dir)
		}
	}
	for _, path := range []string{installedBinary, installedBinary + previousSuffix, userDeclared, dataDeclared} {
		if err := in.remove(path); err != nil {
			return err
		}
	}
	if in.root == "" {
		if err := in.run(ctx, "systemctl", "daemon-reload"); err != nil {
			return err
		}
	}
	fmt.Fprintf(in.out, "What is stored stays in %s. To remove that, the settings and the user, too:\n  sudo rm -r %s %s\n  sudo userdel %s\n",
		data, data, strings.Join(append([]string{filepath.Dir(settingsFile)}, left...), " "), serviceAccount)
	return nil
}

// restartTimeout is how long a restart may take before somebody should look: a start may bring the database up to
// date, and systemd waits for that.
const restartTimeout = longestStart + time.Minute
