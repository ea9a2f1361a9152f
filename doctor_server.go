// How a registry and its machine are, seen on the server.
//
// Two see it: the command, as the owner of the directory (its files, the file system, what is
// reached by the network, the clock), and whoever has the store open, the server if one runs (room,
// memory, who may do what, damage, backups). The latter's findings come by the socket, as JSON.
// Nothing is changed, and nothing is read that takes long: `berth check` does that.

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A serverExamination is one of the registry in cfg.dir.
type serverExamination struct {
	diagnoses
	cfg  *config
	root string // below which the files of the system are; "" for this machine's
	now  func() time.Time

	synced func() (synced, known bool) // whether a time server keeps the clock right
}

// serverDoctor examines the registry in the data directory, and this machine.
func serverDoctor(ctx context.Context, cfg *config, out *console) *diagnoses {
	x := &serverExamination{cfg: cfg, root: cfg.doctor.root, now: time.Now, synced: clockSynced}
	if cfg.doctor.now != nil {
		x.now = cfg.doctor.now
	}
	if cfg.doctor.synced != nil {
		x.synced = cfg.doctor.synced
	}
	if !cfg.JSON {
		x.tell = func(d *diagnosis) { d.write(out) }
	}
	data := newDataDir(cfg.dirConfig)
	found, err := data.survey()
	switch {
	case err != nil:
		x.fail("data", "data-unusable", advise("Do what it says, and run this again."), "%v", plainly(err))
		return &x.diagnoses
	case found != aRegistry:
		r := advise("Name its directory with --data or BERTH_DATA.", "berth doctor --data DIR")
		if _, err := os.Stat(filepath.Join(x.root, serviceData)); err == nil && x.cfg.dir != serviceData {
			r.lines = []string{"sudo berth doctor --data " + serviceData}
		}
		x.fail("data", "no-registry", r, "there is no registry in %s", data.whole())
		return &x.diagnoses
	}
	if f, err := os.Open(filepath.Join(data.dir, "berth.db")); errors.Is(err, fs.ErrPermission) {
		x.fail("data", "no-permission", advise("Run this as root, or as the owner of the directory.", "sudo berth doctor --data "+data.whole()), "you may not read the registry in %s", data.whole())
		return &x.diagnoses
	} else if err == nil {
		f.Close()
	}
	x.well("data", "the registry is in %s", data.whole())
	x.examineFiles()
	x.examineFileSystem()
	x.examineMachineClock()
	where := x.askStore(ctx)
	if where.Address != "" {
		x.examineAddresses(ctx, where)
	}
	return &x.diagnoses
}

// examineFiles looks for files of others than the owner of the directory: a command of root's leaves
// some that the service cannot write.
func (x *serverExamination) examineFiles() {
	owner, _, ok := dirOwner(x.cfg.dir)
	if !ok {
		return
	}
	others, example, whose := 0, "", 0
	dir := filepath.Clean(x.cfg.dir)
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // what cannot be seen is found by check
		}
		uid, _, known := fileOwner(path, e.Type())
		if known && uid != owner {
			others, example, whose = others+1, path, uid
		}
		// Not the blobs' own directories: there may be a million.
		if inside, err := filepath.Rel(dir, path); err == nil && e.IsDir() && strings.Count(inside, string(filepath.Separator)) >= 2 {
			return fs.SkipDir
		}
		return nil
	})
	if others == 0 {
		x.well("files", "all belong to %s", accountName(owner))
		return
	}
	x.fail("files", "other-owner", advise("Give them to the one who has the directory; then run berth as that user, or by sudo, which takes care of it.", fmt.Sprintf("sudo chown -R --reference=%s %[1]s", dir)),
		"%s in the directory of %s belong to %s, such as %s", plural(others, "file"), accountName(owner), accountName(whose), example)
}

// A mount is a file system that is in use.
type mount struct {
	point, kind, source string
	options             []string
}

// mountOf finds in the text of /proc/self/mountinfo what a path, without links, is on.
func mountOf(mountinfo []byte, path string) (m mount, ok bool) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(mountinfo)) {
		before, after, found := strings.Cut(strings.TrimSpace(line), " - ")
		first, last := strings.Fields(before), strings.Fields(after)
		if !found || len(first) < 6 || len(last) < 2 {
			continue
		}
		point := unescape.Replace(first[4])
		if path != point && !strings.HasPrefix(path, strings.TrimSuffix(point, "/")+"/") || len(point) < len(m.point) {
			continue
		}
		m, ok = mount{point, last[0], unescape.Replace(last[1]), strings.Split(first[5], ",")}, true
		if len(last) > 2 {
			m.options = append(m.options, strings.Split(last[2], ",")...)
		}
	}
	return m, ok
}

// examineFileSystem looks whether what is written there stays.
func (x *serverExamination) examineFileSystem() {
	text, err := os.ReadFile(filepath.Join(x.root, "/proc/self/mountinfo"))
	if err != nil {
		return // not Linux
	}
	var seen []string
	for _, dir := range []string{x.cfg.dir, filepath.Join(x.cfg.dir, "blobs")} {
		real, err := realPath(dir)
		if err != nil {
			continue
		}
		m, ok := mountOf(text, real)
		if !ok || slices.Contains(seen, m.point) {
			continue
		}
		seen = append(seen, m.point)
		x.judgeMount(dir, m)
	}
}

func (x *serverExamination) judgeMount(dir string, m mount) {
	move := advise("Move the directory to a disk with ext4, xfs or btrfs: stop the server, copy it with cp -a, and name the new place with --data.")
	has := func(option string) bool { return slices.Contains(m.options, option) }
	switch kind := m.kind; {
	case kind == "overlay" && (m.point == "/" || x.inContainer()):
		x.fail("file system", "overlay", advise("Mount a volume there; the registry is gone with the container otherwise.", "docker run -v berth-data:/data ...", "", "or on a system whose root is an overlay, name a directory on a disk with --data"),
			"%s is in a layer of a container, or of a system that forgets, and not on a disk of its own", dir)
	case kind == "tmpfs" || kind == "ramfs":
		x.fail("file system", "in-memory", move, "%s is in memory (%s): all is lost when the machine stops", dir, kind)
	case slices.Contains([]string{"vfat", "msdos", "exfat"}, kind):
		x.fail("file system", "fat", move, "%s is on %s, which may lose files when the power is cut, and knows no owners", dir, kind)
	case slices.Contains([]string{"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "vboxsf", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}, kind):
		x.warn("file system", "network-disk", move, "%s is on another machine or the host (%s): its locks and syncs are as good as that is, and SQLite relies on them", dir, kind)
	case strings.HasPrefix(kind, "fuse") && kind != "fuseblk":
		x.warn("file system", "fuse", move, "%s is on %s, a file system of a program, which may say that it has synced and has not", dir, kind)
	case kind == "fuseblk" || kind == "ntfs" || kind == "ntfs3":
		x.warn("file system", "ntfs", move, "%s is on NTFS (%s), which is slow here and knows no owners", dir, kind)
	case has("ro"):
		x.fail("file system", "read-only", advise("See why in the kernel's log: a disk with errors is made read-only.", "dmesg | tail -30", "sudo mount -o remount,rw "+m.point), "%s is on a disk that is read-only (%s)", dir, m.point)
	case has("nobarrier") || has("barrier=0"):
		x.fail("file system", "no-barriers", advise("Remove the option from /etc/fstab and mount it again.", "sudo mount -o remount,barrier=1 "+m.point), "%s is mounted with %s: what was synced may be lost when the power is cut", m.point, "nobarrier")
	case has("data=writeback"):
		x.warn("file system", "writeback", advise("Use data=ordered, the default, in /etc/fstab."), "%s is mounted with data=writeback: after a crash files may have old bytes in them", m.point)
	case has("sync"):
		x.warn("file system", "mounted-sync", advise("Remove sync from /etc/fstab: Berth syncs what must be."), "%s is mounted with sync, which makes all writing slow and wears the disk", m.point)
	default:
		x.well("file system", "%s is on %s (%s)", dir, m.kind, m.source)
	}
}

// inContainer reports whether this process is in a container, for all that can be seen.
func (x *serverExamination) inContainer() bool {
	for _, mark := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(filepath.Join(x.root, mark)); err == nil {
			return true
		}
	}
	return false
}

// examineMachineClock looks whether the time may be right.
func (x *serverExamination) examineMachineClock() {
	now := x.now()
	set := advise("Set the clock, and have it set by the network from now on.", "sudo timedatectl set-ntp true", "timedatectl")
	if now.Before(earliest) {
		x.fail("clock", "clock-wrong", set, "it is %s by the clock of this machine, which cannot be", now.UTC().Format(time.DateOnly))
		return
	}
	if info, err := os.Stat(filepath.Join(x.cfg.dir, "berth.db")); err == nil && info.ModTime().Sub(now) > time.Hour {
		x.fail("clock", "clock-went-back", set, "the clock says %s, and the registry was written to on %s", now.UTC().Format(time.DateTime), info.ModTime().UTC().Format(time.DateTime))
		return
	}
	switch synced, known := x.synced(); {
	case known && !synced:
		x.warn("clock", "clock-not-synced", set, "no time server keeps the clock of this machine right")
	default:
		x.well("clock", "it is %s", now.UTC().Format("2006-01-02 15:04 MST"))
	}
}

// askStore has whoever has the store tell how it is, and returns where clients reach it; the zero value
// if no server runs.
func (x *serverExamination) askStore(ctx context.Context) whereabouts {
	ask := *x.cfg
	ask.options = options{Command: "doctor", JSON: true}
	var text bytes.Buffer
	done, err := askServer(ctx, &ask, &text)
	if !done {
		x.examineStopped(ctx, &text) // first: what does not open is not to be started
		x.explainStopped(ctx)
	} else if err != nil {
		x.fail("server", "server-does-not-answer", x.goBackOr(err, advise("Restart it with this version.", "sudo systemctl restart berth")), "a server has the registry, and does not say how it is: %v", err)
		return askWhere(ctx, x.cfg)
	}
	var told storeFindings
	if text.Len() > 0 && json.Unmarshal(text.Bytes(), &told) == nil {
		for _, d := range told.Findings {
			x.add(*d)
		}
		if done && told.Version != buildVersion() {
			x.warn("server", "other-version", advise("Restart it, so that it is the version that is installed.", "sudo systemctl restart berth"), "the server that runs is Berth %s, and this is %s", told.Version, buildVersion())
		} else if done {
			x.well("server", "it runs, as Berth %s", told.Version)
		}
	}
	if !done {
		return whereabouts{}
	}
	return askWhere(ctx, x.cfg)
}

// goBackOr is what to do about a database that is damaged, and otherwise that.
func (x *serverExamination) goBackOr(err error, otherwise remedy) remedy {
	if !isRuined(err) && !strings.Contains(err.Error(), "berth restore") { // a server says it in words
		return otherwise
	}
	return goBack(x.cfg.dir)
}

// goBack is what to do about a damaged database in dir.
func goBack(dir string) remedy {
	return advise("Stop the server, if it runs, and go back to the newest snapshot; then start it.", "sudo systemctl stop berth", "sudo berth restore --data "+dir, "sudo systemctl start berth")
}

// explainStopped tells that no server runs, and what systemd knows of that.
func (x *serverExamination) explainStopped(ctx context.Context) {
	if _, err := os.Stat("/run/systemd/system"); err == nil && x.root == "" {
		text, err := exec.CommandContext(ctx, "systemctl", "show", "berth", "--property=LoadState,ActiveState,Result").Output()
		if err == nil && bytes.Contains(text, []byte("LoadState=loaded")) {
			state := strings.Join(strings.Fields(string(text)), ", ")
			x.fail("server", "unit-not-running", advise("See why it ended, and start it.", "journalctl -u berth -n 50", "sudo systemctl start berth"), "no server serves the registry; systemd says %s", state)
			return
		}
	}
	x.fail("server", "not-running", advise("Start it, with the other flags that it had before in place of the dots.", x.startLine()), "no server serves the registry")
}

// startLine starts a server, with the flags that the data directory tells of.
func (x *serverExamination) startLine() string {
	line := "berth --data " + x.cfg.dir
	if _, there, _ := readCA(filepath.Join(x.cfg.dir, "tls")); there {
		line += " --tls=auto"
	}
	if users, policy, err := rememberedFiles(filepath.Join(x.cfg.dir, "berth.db")); err == nil {
		if users != "" {
			line += " --htpasswd " + users
		}
		if policy != "" {
			line += " --policy " + policy
		}
	}
	return line + " ..."
}

// examineStopped opens the registry that no server has, unless that would change its version.
func (x *serverExamination) examineStopped(ctx context.Context, text *bytes.Buffer) {
	version, err := dataVersion(filepath.Join(x.cfg.dir, "berth.db"))
	if err == nil && version != 0 && version < latestVersion && version >= oldestVersion {
		x.warn("database", "older-version", advise("The next start brings it up to date; make a backup before if an older Berth is to read it again."), "the database is of version %d, and this Berth writes version %d", version, latestVersion)
		return
	}
	var st *store
	if err == nil {
		st, err = openStore(x.cfg.storeConfig)
	}
	if err != nil {
		x.fail("database", "not-opened", x.goBackOr(err, advise("Do what it says.")), "the registry cannot be opened: %v", plainly(err))
		return
	}
	err = recallFlags(st, x.cfg.given)
	if err == nil {
		st.promises.forget()
		st.attend(newCommandHost(func() (*tagRules, error) { return readTagRules(st) }))
		err = doctorOnStore(ctx, st, options{JSON: true}, newConsole(text, false))
	}
	if err = errors.Join(err, st.close()); err != nil {
		x.fail("database", "not-read", advise("See what check says.", "berth check"), "the registry cannot be read: %v", plainly(err))
	}
}

// examineAddresses looks whether the registry is reached at the addresses of this machine, and what
// certificate it shows there.
func (x *serverExamination) examineAddresses(ctx context.Context, where whereabouts) {
	host, port, err := net.SplitHostPort(where.Address)
	if err != nil {
		return
	}
	ip := net.ParseIP(host)
	addresses := []string{host}
	if ip != nil && ip.IsUnspecified() {
		addresses = append([]string{"127.0.0.1"}, outerAddresses()...)
	}
	var reached []string
	var one *doctor
	for _, address := range addresses[:min(len(addresses), 8)] {
		d := newDoctor(nil)
		d.root, d.now, d.host, d.port, d.address = x.root, x.now, address, port, net.JoinHostPort(address, port)
		if conn, err := d.connect(ctx, d.address); err != nil {
			x.fail("address", "not-reached", advise("See the firewall of this machine.", "sudo nft list ruleset", "ss -ltn | grep :"+port), "the registry listens on %s and is not reached at %s: %s", where.Address, d.address, whyNoConnection(err))
			continue
		} else {
			conn.Close()
		}
		reached = append(reached, d.address)
		if !d.speak(ctx) || d.plain {
			continue
		}
		d.fetchCA(ctx)
		if err := d.chain[0].VerifyHostname(address); err != nil && d.ca != nil {
			x.warn("certificate", "ca-not-for-address", advise("Its CA was made when the machine had other addresses, and may not vouch for this one. Use a name, or make a new CA: stop the server, remove the directory tls in the data directory, start it, and trust the new CA everywhere.", "berth trust"),
				"the local CA cannot vouch for %s, an address of this machine", address)
		}
		if one == nil {
			one = d
		}
	}
	if reached != nil {
		x.well("address", "it is reached at %s", sentenceList(reached))
	}
	if ip != nil && ip.IsLoopback() {
		x.well("address", "no other machine reaches it, except through a proxy on this one")
	}
	x.examineFirewall(port, ip != nil && ip.IsLoopback())
	if one != nil {
		x.examineOwnCertificate(one)
	}
}

// examineFirewall looks at the files of ufw, as far as this user may: connections from this machine to itself
// pass any firewall.
func (x *serverExamination) examineFirewall(port string, inner bool) {
	read := func(path string) string {
		text, _ := os.ReadFile(filepath.Join(x.root, path))
		return string(text)
	}
	rules := read("/etc/ufw/user.rules")
	if inner || rules == "" || !strings.Contains(read("/etc/ufw/ufw.conf"), "ENABLED=yes") || strings.Contains(read("/etc/default/ufw"), `DEFAULT_INPUT_POLICY="ACCEPT"`) {
		return
	}
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "-A ufw-user-input ") && strings.Contains(line, "-j ACCEPT") && firewallRuleHas(strings.Fields(line), port) {
			return
		}
	}
	x.warn("address", "firewall", advise("Open the port, if other machines are to reach it.", "sudo ufw allow "+port+"/tcp"), "ufw is on, and none of its rules lets port %s in", port)
}

// firewallRuleHas reports whether a rule of iptables is for a port: one that names none is for all.
func firewallRuleHas(rule []string, port string) bool {
	n, _ := strconv.Atoi(port)
	for i, word := range rule[:len(rule)-1] {
		if word != "--dport" && word != "--dports" {
			continue
		}
		for part := range strings.SplitSeq(rule[i+1], ",") {
			from, to, ranged := strings.Cut(part, ":")
			if !ranged {
				to = from
			}
			low, _ := strconv.Atoi(from)
			high, _ := strconv.Atoi(to)
			if low <= n && n <= high {
				return true
			}
		}
		return false
	}
	return true
}

// examineOwnCertificate looks at the dates of the certificate and of the local CA.
func (x *serverExamination) examineOwnCertificate(d *doctor) {
	leaf, now := d.chain[0], x.now()
	renew := advise("Put a new one in place of the files that --tls-cert and --tls-key name; they are read again at once. With acme, see the log for why it was not renewed.")
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	switch left := leaf.NotAfter.Sub(now); {
	case left < 0:
		x.fail("certificate", "certificate-expired", renew, "the certificate has expired on %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	case left < life/6 && left < 21*24*time.Hour:
		x.warn("certificate", "certificate-expires", renew, "the certificate expires on %s, %s", leaf.NotAfter.UTC().Format(time.DateOnly), formatAge(leaf.NotAfter, now))
	default:
		x.well("certificate", "it is valid until %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	if host := cmp.Or(x.cfg.doctor.hostname, machineName()); d.ca != nil && hostName(host) != "" && !containerName().MatchString(host) && !permits(d.ca, host) {
		x.warn("certificate", "ca-not-for-name", advise("Call it by a name that the CA has, or make a new CA: stop the server, remove the directory tls in the data directory, start it, and trust the new CA everywhere.", "berth trust"),
			"this machine is called %s, and its local CA (%s) was made without this name and cannot vouch for it", host, d.ca.Subject.CommonName)
	}
	if d.ca != nil && d.ca.NotAfter.Sub(now) < 90*24*time.Hour {
		x.warn("certificate", "ca-expires", advise("Make a new CA before: stop the server, remove the directory tls in the data directory, start it, and trust the new CA everywhere.", "berth trust"),
			"the local CA expires on %s, %s", d.ca.NotAfter.UTC().Format(time.DateOnly), formatAge(d.ca.NotAfter, now))
	}
}

// machineName is what this machine is called; "" if it does not say.
func machineName() string {
	name, _ := os.Hostname()
	return name
}

// storeFindings are what doctorOnStore tells.
type storeFindings struct {
	Version  string       `json:"version"`
	Findings []*diagnosis `json:"findings"`
}

// doctorOnStore examines what whoever has the store knows of it.
func doctorOnStore(ctx context.Context, st *store, _ options, out *console) error {
	x := &storeExamination{store: st, now: time.Now()}
	if err := x.examineRoom(); err != nil {
		return err
	}
	x.examineProcess()
	x.examineTasks()
	err := errors.Join(x.examineStored(ctx), x.examineTokens(), x.examineUsers(), x.examineBackup(), x.examineEvents())
	if ruin := st.ruin.known(); ruin != nil {
		x.fail("database", "database-damaged", goBack(st.whole()), "%v", plainly(ruin))
	} else if err != nil {
		return err
	}
	return out.json(storeFindings{buildVersion(), append([]*diagnosis{}, x.list...)})
}

// A storeExamination is one of an open store.
type storeExamination struct {
	diagnoses
	*store
	now time.Time
}

// examineRoom looks at the room on the disks.
func (x *storeExamination) examineRoom() error {
	dirs := []string{x.dir}
	if x.apart() {
		dirs = append(dirs, x.arrivals)
	}
	more := advise("Make room: remove images that nobody needs, and collect at once what that frees.", "berth stats", "berth retain --explain", "berth gc --now")
	for _, dir := range dirs {
		bytes, files, err := freeSpace(dir)
		if err != nil {
			return err
		}
		floor := x.floor(bytes.total)
		of := fmt.Sprintf("%s of %s", formatSize(int64(bytes.free)), formatSize(int64(bytes.total)))
		switch {
		case errors.Is(x.roomOn(dir, 0, 0), errNoSpace):
			x.fail("room", "disk-full", more, "pushes are refused: %s is free on the disk of %s, and --min-free is %s", of, dir, formatSize(int64(floor)))
		case bytes.free < max(2*floor, bytes.total/20):
			x.warn("room", "disk-nearly-full", more, "%s is free on the disk of %s, and pushes are refused below %s", of, dir, formatSize(int64(floor)))
		case files.total > 0 && files.free < files.total/20:
			x.warn("room", "few-inodes", advise("Each blob takes some inodes: use a file system with more, or remove images."), "%d of %d inodes are free on the disk of %s", files.free, files.total, dir)
		default:
			x.well("room", "%s is free on the disk of %s", of, dir)
		}
	}
	return nil
}

// examineProcess looks at what the system gives this process.
func (x *storeExamination) examineProcess() {
	const little, few = 64 << 20, 1024
	switch m, limited := memory(); {
	case limited && m < little:
		x.warn("memory", "little-memory", advise("Give it 64 MiB or more (MemoryMax in the unit, --memory of docker)."), "its control group (a unit, or a container) lets it have %s of memory", formatSize(m))
	case limited:
		x.well("memory", "its control group (a unit, or a container) lets it have %s", formatSize(m))
	case m > 0 && m < little:
		x.warn("memory", "little-memory", advise("Berth runs well with 64 MiB or more."), "this machine has %s of memory", formatSize(m))
	case m > 0:
		x.well("memory", "this machine has %s, and no limit keeps the server from it", formatSize(m))
	}
	if n := fileLimit(); n > 0 && n < few {
		x.warn("memory", "few-files", advise("Raise it: in the unit,", "[Service]", "LimitNOFILE=65536"), "the process may have %d files and connections open", n)
	}
}

// examineStored looks at damage that is known, and when all was last read.
func (x *storeExamination) examineStored(ctx context.Context) error {
	f, err := x.stats.figures(ctx)
	if err != nil {
		return err
	}
	if n := f.Quarantined.Count; n > 0 {
		x.fail("content", "damaged", advise("See which images they are of, and push those again.", "berth check"), "%s out of service, because the disk has changed the bytes", plural(int(n), "blob or manifest"))
	}
	ago := time.Duration(f.Uptime-f.Scrubbed) * time.Second
	switch {
	case x.scrubEvery == 0:
		x.warn("content", "never-read-again", advise("Let it be read again now and then: remove --scrub-every 0, or run this regularly.", "berth check --deep"), "what is stored is never read again, by --scrub-every 0, so damage is found when somebody pulls")
	case ago > 2*x.scrubEvery:
		x.warn("content", "not-read-lately", advise("Read it once now; and let the server run, or raise --scrub-rate.", "berth check --deep"), "all was last read %s of running time ago, and --scrub-every is %s", formatDuration(ago), formatDuration(x.scrubEvery))
	case f.Quarantined.Count == 0 && f.Scrubbed > 0:
		x.well("content", "no damage is known; all was read %s of running time ago", formatDuration(ago))
	case f.Quarantined.Count == 0:
		x.well("content", "no damage is known")
	}
	return nil
}

// examineTasks looks at what the server does by itself, and has failed to do the last time.
func (x *storeExamination) examineTasks() {
	for _, task := range []struct {
		fault, what string
		*outcome
	}{
		{"collection-failed", "garbage could not be removed", &x.collector.outcome},
		{"snapshot-failed", "no snapshot of the database could be made", &x.snapshots.outcome},
		{"scrub-failed", "what is stored could not be read again", &x.scrubber.outcome},
	} {
		if why := task.why.Load(); why != nil {
			x.warn("tasks", task.fault, advise("Put right what it says; the log has more. The server tries again by itself."), "%s the last time: %v", task.what, plainly(*why))
		}
	}
}

// examineTokens looks at the tokens that have ended, or soon will.
func (x *storeExamination) examineTokens() error {
	list, err := listRobots(x.readers)
	if err != nil {
		return err
	}
	for _, b := range list {
		switch {
		case b.expired(x.now):
			x.warn("tokens", "token-expired", advise("Revoke it, or make a new one for who used it.", "berth token revoke "+b.name), "the token %s has expired, %s", b.name, formatAge(b.expires, x.now))
		case !b.expires.IsZero() && b.expires.Sub(x.now) < 7*24*time.Hour:
			x.warn("tokens", "token-expires", advise("Make a new one for who uses it, before that.", "berth token list"), "the token %s expires %s", b.name, formatAge(b.expires, x.now))
		}
	}
	return nil
}

// examineUsers looks at who may do what.
func (x *storeExamination) examineUsers() error {
	text, _, err := readFile(x.usersFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	list, bad := parseUsers(text)
	rules, _, err := readFile(x.policyFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p := defaultPolicy()
	if err == nil {
		if p, err = parsePolicy(rules); err != nil {
			x.fail("users", "rules-wrong", advise("Correct the file; until you do, the old rules hold, and Berth cannot be started again.", "berth policy check"), "%s cannot be used: %v", x.policyFile, err)
			return nil
		}
	}
	where := x.host.whereabouts()
	if len(list) == 0 && !p.people && !where.Certificates {
		if host, _, err := net.SplitHostPort(where.Address); err == nil && net.ParseIP(host).IsLoopback() {
			x.well("users", "there are none: everybody on this machine may do everything")
		} else {
			x.warn("users", "open-to-everybody", advise("Add a user, and it asks for a password from then on.", "berth user add NAME"), "there are no users: everybody who reaches the registry may push and delete")
		}
		return nil
	}
	if len(bad) > 0 {
		x.warn("users", "lines-of-nobody", advise("Give each of these users a password again, which replaces the line; the name is before its colon.", "berth user add NAME"), "nobody can log in by %s of %s, such as line %d", plural(len(bad), "line"), x.usersFile, bad[0])
	}
	admins := 0
	for name := range list {
		if p.rights(person{user: name}, "")&mayAdmin != 0 {
			admins++
		}
		if !p.mayAnywhere(person{user: name}, mayPull) && !p.mayAnywhere(person{user: name}, mayMetrics) {
			x.warn("users", "user-without-rights", advise("Name the user in a rule of "+x.policyFile+", or remove the user.", "berth policy check"), "no rule lets %s do anything", name)
		}
	}
	for _, line := range list.odd() {
		x.warn("users", "odd-name", advise(sentence(removeOdd(x.usersFile))+"."), "%s", line)
	}
	if admins == 0 && !where.Certificates {
		x.warn("users", "no-administrator", advise("Add one of the users to a rule that allows admin, in "+x.policyFile+"."), "none of the users is an administrator")
	}
	if !where.Certificates {
		x.examineRules(p, list)
	}
	if x.faults(isWarning, isProblem) == nil || admins > 0 {
		x.well("users", "%s, %s", plural(len(list), "user"), plural(admins, "administrator"))
	}
	return nil
}

// examineRules looks for names in rules that are mistyped, for all that can be seen.
func (x *storeExamination) examineRules(p *policy, list users) {
	for _, r := range p.rules {
		for name := range r.names {
			if list[name] == "" {
				x.warn("users", "rule-for-nobody", advise("Correct the name, add the user, or remove the name.", "berth user list"), "%s names %s, and there is no such user", r.origin, name)
			}
		}
		for _, pattern := range r.repositories.text {
			if strings.ContainsAny(pattern, "*?!") {
				continue
			}
			if there, err := x.hasRepository(pattern); err == nil && !there {
				x.warn("users", "rule-for-nothing", advise("Correct the name, unless it is for a repository that is still to come.", "berth ls"), "%s names the repository %s, which is not there", r.origin, pattern)
			}
		}
	}
}

// examineBackup looks when a backup was last finished.
func (x *storeExamination) examineBackup() error {
	last, err := readLastBackup(x.dir)
	if err != nil {
		return err
	}
	n, err := x.countRepositories()
	if err != nil || n.seen == 0 {
		return err
	}
	program := "berth"
	if path, err := os.Executable(); err == nil {
		program = path
	}
	how := advise("Make one, on another disk, and have it made regularly: the second line, in the crontab that `sudo crontab -e` opens, does it every night (docs/storage.md).",
		"berth backup /mnt/usb/berth", fmt.Sprintf("17 3 * * * %s backup --data %s /mnt/usb/berth", program, x.whole()))
	fresh := func(c backupCopy) bool { return x.now.Sub(c.Time) <= 8*24*time.Hour }
	for _, c := range last.copies() { // one that is good makes up for any other
		if fresh(c) && !sameDisk(x.dir, c.Destination) {
			x.well("backup", "the last one that is not on this disk was finished %s, in %s", formatAge(c.Time, x.now), c.Destination)
			return nil
		}
	}
	switch {
	case last.Destination == "":
		x.warn("backup", "no-backup", how, "`berth backup` has never made a backup of this registry")
	case !fresh(last.backupCopy):
		x.warn("backup", "old-backup", how, "the last backup, to %s, was finished %s", last.Destination, formatAge(last.Time, x.now))
	default:
		x.warn("backup", "backup-on-same-disk", how, "the only backup of the last days, to %s, is on the disk of the registry: if the disk fails, both are lost", last.Destination)
	}
	return nil
}

// examineEvents looks for endpoints that take no events. What waits longer than a try is told.
func (x *storeExamination) examineEvents() error {
	l, err := x.host.listeners()
	if err != nil {
		return nil // events.toml cannot be used, which the server's log says; what it said before stays in force
	}
	for _, p := range l.endpoints {
		n, oldest, failing := x.events.stuck(p.name)
		if !failing || oldest == nil {
			continue
		}
		waiting, since := plural(n, "event")+" wait", ""
		if n == 1 {
			waiting = "1 event waits"
		}
		if e, err := x.events.read(oldest); err == nil {
			since = ", the first of them since " + e.Time.UTC().Format(time.DateTime) + " UTC"
		}
		x.warn("events", "endpoint-down", advise("See why in the server's log; mend the endpoint, or remove it from "+eventsFile+". Its events are kept, and sent when it takes them again.", "journalctl -u berth | grep endpoint"),
			"the endpoint %s (%s) did not take what was sent to it last: %s%s", p.name, p.address(), waiting, since)
	}
	return nil
}

// hasRepository reports whether there is a repository of that name.
func (x *storeExamination) hasRepository(name string) (bool, error) {
	var n int
	err := x.get(`SELECT count(*) FROM repository WHERE name = ?`, []any{name}, &n)
	return n > 0, err
}

// dataVersion is the version of a database, looked at without opening the registry.
func dataVersion(path string) (version int, err error) {
	db, err := openToLook(path)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	err = db.QueryRow(`PRAGMA user_version`).Scan(&version)
	return version, err
}
