//go:build unix

// The doctor on the server: each fault that was prepared is named, and a registry in order has none.

package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// doctor examines the registry as the command does, on a machine whose disks and clock are in order,
// and returns what is wrong.
func (r *registry) doctor(change ...func(*config)) (faults []string, answer string) {
	r.t.Helper()
	cfg := r.cfg
	cfg.options = options{Command: "doctor", JSON: true}
	cfg.doctor.root = r.t.TempDir()
	cfg.doctor.synced = func() (synced, known bool) { return true, true }
	mounts(r.t, &cfg, "/ / rw,relatime - ext4 /dev/sda1 rw")
	for _, c := range change {
		c(&cfg)
	}
	var out bytes.Buffer
	err := doctorCommand(context.Background(), &cfg, nil, &out)
	var found struct{ Findings []diagnosis }
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		r.t.Fatalf("berth doctor --json writes %s", &out)
	}
	problem := false
	for _, d := range found.Findings {
		problem = problem || d.Level == isProblem
		if d.Level != isWell && d.Level != isNote && !slices.Contains(faults, d.Fault) {
			faults = append(faults, d.Fault)
		}
		if d.Level != isWell && d.Level != isNote && d.Do == "" {
			r.t.Errorf("%+v has no remedy", d)
		}
	}
	if code, _ := exitCode(err); (code == 1) != (problem || cfg.doctor.strict && faults != nil) {
		r.t.Errorf("berth doctor ends with %d, and says\n%s", code, &out)
	}
	slices.Sort(faults)
	return faults, out.String()
}

// wantDoctor insists on what doctor finds.
func (r *registry) wantDoctor(want []string, change ...func(*config)) {
	r.t.Helper()
	slices.Sort(want)
	if got, text := r.doctor(change...); !slices.Equal(got, want) {
		r.t.Errorf("berth doctor finds %v, want %v\n%s", got, want, text)
	}
}

// mounts writes what is mounted: the root and the point of each line, its options, and its file system.
func mounts(t testing.TB, cfg *config, lines ...string) {
	t.Helper()
	text := ""
	for i, line := range lines {
		text += fmt.Sprintf("%d 1 8:%d %s\n", 20+i, i, line)
	}
	path := filepath.Join(cfg.doctor.root, "proc/self/mountinfo")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// served has the registry's server answer commands, as if it listened where the tests reach it.
func (r *registry) served() *registry {
	r.server.address = r.http.Listener.Addr().String()
	r.listen()
	return r
}

func TestServerDoctorFindsNothing(t *testing.T) {
	t.Parallel()
	const rules = "[[rule]]\nwho = [\"kim\"]\nrepositories = [\"**\"]\nallow = [\"admin\"]\n"
	startRegistry(t, guarded(rules, "kim")).served().wantDoctor(nil)
	startRegistry(t).served().wantDoctor(nil) // on this machine alone
}

func TestServerDoctorFileSystems(t *testing.T) {
	t.Parallel()
	r := startRegistry(t).served()
	for _, x := range []struct{ fault, line string }{
		{"overlay", "/ / rw - overlay overlay rw,lowerdir=/l"},
		{"in-memory", "/ @ rw - tmpfs tmpfs rw"},
		{"fat", "/ @ rw - vfat /dev/sda1 rw"},
		{"fat", "/ @ rw - exfat /dev/sda1 rw"},
		{"network-disk", "/ @ rw - nfs4 nas:/x rw"},
		{"network-disk", "/ @ rw - cifs //nas/x rw"},
		{"network-disk", "/ @ rw - 9p C: rw"},
		{"fuse", "/ @ rw - fuse.mergerfs a:b rw"},
		{"ntfs", "/ @ rw - fuseblk /dev/sda1 rw"},
		{"read-only", "/ @ ro - ext4 /dev/sda1 ro"},
		{"no-barriers", "/ @ rw - ext4 /dev/sda1 rw,nobarrier"},
		{"writeback", "/ @ rw - ext4 /dev/sda1 rw,data=writeback"},
		{"mounted-sync", "/ @ rw,sync - ext4 /dev/sda1 rw"},
	} {
		real, err := realPath(r.cfg.dir)
		if err != nil {
			t.Fatal(err)
		}
		line := string(bytes.ReplaceAll([]byte(x.line), []byte("@"), []byte(filepath.Dir(real))))
		r.wantDoctor([]string{x.fault}, func(cfg *config) {
			mounts(t, cfg, "/ / rw - ext4 /dev/sdb1 rw", "/ /elsewhere rw - tmpfs tmpfs rw", line)
		})
	}
	m, ok := mountOf([]byte("1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /mnt/my\\040disk rw shared:1 - xfs /dev/b rw\n3 1 8:3 / /mnt/my rw - tmpfs t rw\n"), "/mnt/my disk/berth")
	if !ok || m.kind != "xfs" || m.point != "/mnt/my disk" {
		t.Errorf("a mount point with a space is %+v", m)
	}
}

func TestServerDoctorMachine(t *testing.T) {
	t.Parallel()
	r := startRegistry(t).served()
	r.wantDoctor([]string{"clock-not-synced"}, func(c *config) { c.doctor.synced = func() (bool, bool) { return false, true } })
	r.wantDoctor([]string{"clock-not-synced"}, func(c *config) {
		c.doctor.synced, c.doctor.strict = func() (bool, bool) { return false, true }, true
	})
	r.wantDoctor([]string{"clock-wrong"}, func(c *config) { c.doctor.now = func() time.Time { return time.Unix(1000, 0) } })
	r.wantDoctor([]string{"clock-went-back"}, func(c *config) {
		before := time.Now().Add(-48 * time.Hour)
		c.doctor.now = func() time.Time { return before }
	})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	r.server.address = closed.Addr().String()
	r.wantDoctor([]string{"not-reached"})

	r = startRegistry(t, func(c *config) { c.minFree = 1 << 60 }).served()
	r.wantDoctor([]string{"disk-full"})
	r = startRegistry(t, func(c *config) { c.scrubEvery = 0 }).served()
	r.wantDoctor([]string{"never-read-again"})
}

func TestServerDoctorOwners(t *testing.T) {
	t.Parallel()
	if !isRoot() {
		skip(t, "only root can give files away")
	}
	r := startRegistry(t).served()
	path := filepath.Join(r.cfg.dir, "uploads", "strange")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	r.wantDoctor([]string{"other-owner"})
	os.Remove(path)
}

// A registry that nobody serves, or that is none.
func TestServerDoctorWithoutServer(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.stop()
	r.wantDoctor([]string{"not-running", "open-to-everybody"})

	db := filepath.Join(r.cfg.dir, "berth.db")
	version := func(n int) {
		inDatabase(t, db, fmt.Sprintf("PRAGMA user_version=%d", n))
	}
	version(oldestVersion)
	r.wantDoctor([]string{"not-running", "older-version"})
	version(latestVersion + 1)
	r.wantDoctor([]string{"not-opened", "not-running"})
	version(latestVersion)
	if err := os.WriteFile(db, []byte("no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, text := r.doctor(); !strings.Contains(text, "sudo berth restore --data "+r.cfg.dir) || strings.Index(text, "berth restore") > strings.Index(text, "Start it,") {
		t.Errorf("of a database that is damaged the doctor says\n%s", text)
	}

	r = newRegistry(t)
	r.wantDoctor([]string{"no-registry"})
	for dir, says := range map[string]string{"": `"berth doctor --data DIR"`, serviceData: `"sudo berth doctor --data /var/lib/berth"`} { // named if it is there
		_, text := r.doctor(func(c *config) {
			if err := os.MkdirAll(filepath.Join(c.doctor.root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		})
		if !strings.Contains(text, says) {
			t.Errorf("with %q on the machine the doctor does not say %s:\n%s", dir, says, text)
		}
	}
	if err := os.WriteFile(filepath.Join(r.cfg.dir, notMountedMark), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.wantDoctor([]string{"data-unusable"})
}

func TestServerDoctorUsersAndTokens(t *testing.T) {
	t.Parallel()
	const admin = "[[rule]]\nwho = [\"kim\"]\nrepositories = [\"**\"]\nallow = [\"admin\"]\n"
	for _, x := range []struct {
		rules string
		users []string
		want  []string
	}{
		{admin, []string{"kim", "ann"}, []string{"user-without-rights"}},
		{admin + "[[rule]]\nwho = [\"users\"]\nrepositories = [\"**\"]\nallow = [\"pull\"]\n", []string{"kim", "!ann"}, []string{"odd-name"}},
		{"[[rule]]\nwho = [\"users\"]\nrepositories = [\"**\"]\nallow = [\"push\"]\n", []string{"kim"}, []string{"no-administrator"}},
		{admin + "[[rule]]\nwho = [\"kim\", \"nobody\"]\nrepositories = [\"home/*\"]\nallow = [\"push\"]\n", []string{"kim"}, []string{"rule-for-nobody"}},
		{admin + "[[rule]]\nwho = [\"users\"]\nrepositories = [\"home/ap\"]\nallow = [\"push\"]\n", []string{"kim"}, []string{"rule-for-nothing"}},
	} {
		startRegistry(t, guarded(x.rules, x.users...)).served().wantDoctor(x.want)
	}
	r := startRegistry(t, guarded(admin, "kim")).served()
	if err := os.WriteFile(filepath.Join(r.cfg.dir, "htpasswd"), []byte("kim:"+hashOf("x")+"\nold:{SHA}x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.wantDoctor([]string{"lines-of-nobody"})
	if _, text := r.doctor(); !strings.Contains(text, `"berth user add NAME"`) || strings.Contains(text, "passwd NAME") {
		t.Errorf("of a line with another hash it says\n%s", text)
	}
	writeRules(r.cfg.dir, "[[rule]\n")
	r.wantDoctor([]string{"rules-wrong"})
	writeRules(r.cfg.dir, admin)
	if _, err := r.ask(t.Context(), options{Command: "token", Args: []string{"create", "ci"}, Repo: "a", Allow: "pull", Expires: "3d"}); err != nil {
		t.Fatal(err)
	}
	r.wantDoctor([]string{"lines-of-nobody", "token-expires"})
	if err := r.st.updateLazy(func(t *tx) error {
		_, err := t.exec(`UPDATE token SET expires = 1767225600`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r.wantDoctor([]string{"lines-of-nobody", "token-expired"})
}

// What the server does by itself, and has failed to do the last time, is said until it works again.
func TestServerDoctorTasks(t *testing.T) {
	t.Parallel()
	r := startRegistry(t).served()
	r.pushImage("home/app", "1", "config", "layer")
	r.wantDoctor([]string{"no-backup"})
	inTheWay := filepath.Join(r.cfg.dir, "snapshots")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sn := r.st.snapshots
	sn.due() // sees the push
	r.moved.Add(int64(snapshotDelay))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { sn.run(ctx) })
	for sn.outcome.failed.Load() == 0 {
		runtime.Gosched()
	}
	cancel()
	running.Wait()
	r.wantDoctor([]string{"no-backup", "snapshot-failed"})
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	running.Go(func() { sn.run(ctx) })
	for sn.outcome.succeeded.Load() == 0 {
		runtime.Gosched()
	}
	cancel()
	running.Wait()
	r.wantDoctor([]string{"no-backup"})
}

// Backups are noted when they are finished, and damage is known.
func TestServerDoctorContent(t *testing.T) {
	t.Parallel()
	r := startRegistry(t).served()
	im := r.pushImage("home/app", "1", "config", "layer")
	r.wantDoctor([]string{"no-backup"})
	dest := filepath.Join(t.TempDir(), "copy")
	if _, err := r.ask(t.Context(), options{Command: "backup", Args: []string{dest}}); err != nil {
		t.Fatal(err)
	}
	r.wantDoctor([]string{"backup-on-same-disk"})
	if last, err := readLastBackup(dest); err != nil || last.Destination != "" {
		t.Errorf("a backup says of itself that it has one: %+v, %v", last, err)
	}
	week := time.Now().Add(9 * 24 * time.Hour)
	old, err := json.Marshal(backupCopy{week.Add(-18 * 24 * time.Hour), "/mnt/away"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.cfg.dir, lastBackupFile), old, 0o600); err != nil {
		t.Fatal(err)
	}
	r.wantDoctor([]string{"old-backup"})
	fresh, _ := json.Marshal(backupCopy{time.Now(), "/mnt/away"})
	if err := os.WriteFile(filepath.Join(r.cfg.dir, lastBackupFile), fresh, 0o600); err != nil {
		t.Fatal(err)
	}
	r.wantDoctor(nil)
	damage := func(what any) {
		if err := r.st.updateLazy(func(t *tx) error {
			_, err := t.exec(`UPDATE blob SET damaged = ? WHERE digest = ?`, what, im.config.String())
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	damage("its bytes are others")
	r.wantDoctor([]string{"damaged"})
	damage(nil)
}

// The certificate that the server shows is held against the time.
func TestServerDoctorCertificate(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	r := startRegistry(t)
	later := func(d time.Duration) func(*config) {
		return func(c *config) { c.doctor.now = func() time.Time { return time.Now().Add(d) } }
	}
	pair := certified(t, ca, func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		c.NotAfter = time.Now().AddDate(0, 3, 0)
	})
	address := behindTLS(t, pair, http.NotFoundHandler())
	r.served()
	r.server.address = address
	r.wantDoctor(nil)
	r.wantDoctor([]string{"certificate-expires"}, later(85*24*time.Hour))
	r.wantDoctor([]string{"certificate-expired"}, later(100*24*time.Hour))
}

func TestServerDoctorFirewall(t *testing.T) {
	t.Parallel()
	const accept = "-j ACCEPT\n"
	for rules, closed := range map[string]bool{
		"-A ufw-user-input -p tcp --dport 22 " + accept:                         true,
		"-A ufw-user-input -p tcp --dport 5000 -j DROP\n":                       true,
		"-A ufw-user-input -p tcp --dport 5000 " + accept:                       false,
		"-A ufw-user-input -p tcp -m multiport --dports 80,4990:5010 " + accept: false,
		"-A ufw-user-input -s 192.168.1.0/24 " + accept:                         false,
		"-A ufw-user-forward -p tcp --dport 5000 " + accept:                     true,
	} {
		x := &serverExamination{root: t.TempDir()}
		for path, text := range map[string]string{"ufw.conf": "ENABLED=yes\n", "user.rules": "*filter\n" + rules} {
			path = filepath.Join(x.root, "etc/ufw", path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		x.examineFirewall("5000", false)
		if got := x.faults(isWarning) != nil; got != closed {
			t.Errorf("with %q the port is closed: %t, want %t", rules, got, closed)
		}
	}
}
