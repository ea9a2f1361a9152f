package e2e

// `berth install`, `upgrade` and `uninstall` under a systemd that has booted, on this machine's file system with what
// is written kept apart (an overlay), in namespaces of its own. So this machine is left as it was.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// bootMachine boots systemd below the directory $1, with the programs of $2 in /opt/berth. $3 names its control group.
const bootMachine = `set -e
root=$1/root
mkdir -p "$1/upper" "$root" "$1/cgroup"
mount -t cgroup2 cgroup2 "$1/cgroup"
mkdir "$1/cgroup/$3"
echo $$ >"$1/cgroup/$3/cgroup.procs"
mount -t tmpfs tmpfs "$1/upper"
mkdir "$1/upper/u" "$1/upper/w"
exec unshare --cgroup --mount --pid --uts --ipc --net --fork --kill-child --propagation private sh -ec '
root=$1/root
mount -t overlay -o "lowerdir=/,upperdir=$1/upper/u,workdir=$1/upper/w" overlay "$root"
cd "$root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for d in null zero full random urandom tty; do touch dev/$d; mount --bind /dev/$d dev/$d; done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
rm -rf etc/systemd/system var/lib/berth etc/berth usr/local/bin/berth* opt/berth etc/machine-id var/log/journal
mkdir -p etc/systemd/system opt/berth
grep -v ^berth: etc/passwd >run/passwd; cat run/passwd >etc/passwd
# What waits for hardware or a network that is not there.
for unit in systemd-networkd systemd-networkd-wait-online NetworkManager NetworkManager-wait-online ifupdown-wait-online networking systemd-udevd systemd-resolved; do
	ln -s /dev/null etc/systemd/system/$unit.service
done
: >etc/fstab
echo 0123456789abcdef0123456789abcdef >etc/machine-id # not the first boot, which would enable everything
cp "$2"/* opt/berth/
ip link set lo up
mkdir old
pivot_root . old
umount -l old
rmdir old
echo booting
exec env -i container=berth-e2e /lib/systemd/systemd --unit=basic.target
' sh "$@"
`

// endMachine removes the control groups that a machine has left.
const endMachine = `mount -t cgroup2 cgroup2 "$1/cgroup"
for _ in $(seq 100); do # what was killed may not have ended
	find "$1/cgroup/$2" -depth -type d -exec rmdir {} + 2>/dev/null && exit
	sleep 0.1
done
exit 1`

// A booted machine has a systemd.
type booted struct {
	t   *testing.T
	pid int // of its systemd
}

// boot boots a machine that has the programs of a directory in /opt/berth.
func boot(t *testing.T, programs string) *booted {
	t.Helper()
	needRoot(t)
	need(t, "unshare", "nsenter", "ip", "curl")
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		missing(t, "systemd is not installed: apt-get install systemd")
	}
	dir := tempDir(t)
	group := "berth-e2e-" + filepath.Base(dir)
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", bootMachine, "sh", dir, programs, group)
	log := &output{}
	cmd.Stdout, cmd.Stderr = log, log
	exited, err := startGroup(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		killGroup(cmd.Process.Pid)
		<-exited
		end := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", endMachine, "sh", dir, group)
		if out, err := end.CombinedOutput(); err != nil {
			t.Errorf("the control groups of the machine: %v\n%s", err, out)
		}
	})
	m := &booted{t: t}
	await(t, make(chan struct{}), log, "the machine's file system", func() bool {
		select {
		case <-exited: // there is no such kernel everywhere, not even in every CI
			t.Skip("SKIPPED, NOT TESTED: no machine can be booted here: " + log.String())
		default:
		}
		return strings.Contains(log.String(), "booting\n")
	})
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err == nil {
		m.pid, err = strconv.Atoi(strings.TrimSpace(string(children)))
	}
	if err != nil {
		t.Fatal(err)
	}
	await(t, exited, log, "systemd to boot", func() bool {
		said, _ := m.try("systemctl is-system-running")
		return strings.HasPrefix(said, "running") || strings.HasPrefix(said, "degraded")
	})
	return m
}

// try runs a script on the machine.
func (m *booted) try(script string) (string, error) {
	cmd := exec.Command("nsenter", "--target", strconv.Itoa(m.pid), "--all", "--root", "--wd", "env", "-i",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-ec", script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m *booted) must(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s\n%s", script, err, out, m.journal())
	}
	return out
}

// journal is how the log of the machine ends.
func (m *booted) journal() string {
	said, _ := m.try("journalctl --no-pager --lines=40 --output=short-precise")
	return said
}

// served is all that the journal has of the service and its sockets, with times.
func (m *booted) served() string {
	said, _ := m.try("journalctl --no-pager --output=short-precise --unit=berth.service --unit=berth.socket --unit=clients.service")
	return said
}

// says insists on what a script prints, and whether it succeeds.
func (m *booted) says(script string, succeeds bool, wants ...string) {
	m.t.Helper()
	out, err := m.try(script)
	if (err == nil) != succeeds {
		m.t.Fatalf("%s: %v\n%s\n%s", script, err, out, m.journal())
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			m.t.Errorf("%s says\n%s, want %q", script, out, want)
		}
	}
}

// faultyBerth builds a Berth with testdata/faults.
func faultyBerth(t *testing.T, target string) {
	t.Helper()
	dir := tempDir(t)
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	replaced := map[string]string{filepath.Join(root, "faults.go"): filepath.Join(root, "e2e/testdata/faults/faults.go")}
	for file, x := range map[string][2]string{
		"main_start.go": {"\tst.at(\"opened\")\n", "\tst.at(\"opened\")\n\tbeforeReady()\n"},
		"main.go":       {"\tcontext.AfterFunc(ctx, func() { cfg.service.tell(", "\tafterReady()\n\tcontext.AfterFunc(ctx, func() { cfg.service.tell("},
	} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || bytes.Count(text, []byte(x[0])) != 1 {
			t.Fatalf("%s should have %q once: %v", file, x[0], err)
		}
		name := filepath.Join(dir, file)
		writeFile(t, name, strings.Replace(string(text), x[0], x[1], 1))
		replaced[filepath.Join(root, file)] = name
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "overlay.json"), string(overlay))
	build := exec.Command("go", "-C", root, "build", "-buildvcs=false", "-overlay", filepath.Join(dir, "overlay.json"), "-o", target, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	must(t, build)
}

func TestInstallUnderSystemd(t *testing.T) {
	needRoot(t)
	t.Parallel()
	programs := tempDir(t)
	must(t, exec.Command("cp", berthBinary, filepath.Join(programs, "berth")))
	faultyBerth(t, filepath.Join(programs, "next"))
	writeFile(t, filepath.Join(programs, "functions"), clientFunctions)
	m := boot(t, programs)
	m.says("/opt/berth/berth install", true, "make the system user berth", "It listens on [::]:5000", "Serving on https://localhost:5000")
	m.must(". /opt/berth/functions; push x; pull x")
	m.says("/opt/berth/berth install", true, "Everything is as it should be")

	// Whoever connects meanwhile waits, whatever happens to the service.
	m.must(`cat >/run/clients <<'X'
while ! test -e /run/enough; do
	curl -sfko /dev/null --max-time 60 https://localhost:5000/readyz && echo >>/run/answered || echo "$(date +%T.%N): $?" >>/run/refused
done
X
systemd-run --quiet --unit=clients sh /run/clients`)
	m.must("for i in 1 2 3; do systemctl restart berth; done")
	m.says("berth upgrade /opt/berth/next --sha256 $(sha256sum /opt/berth/next | cut -d' ' -f1)", true, "The SHA-256 is that of --sha256", "serves. The version before is")
	m.must("cmp /opt/berth/next /usr/local/bin/berth; . /opt/berth/functions; pull x; push y")
	m.says("berth upgrade --rollback", true, "serves")
	m.must("mkdir -p /run/systemd/system/berth.service.d; printf '[Service]\nTimeoutStartSec=2\n' >/run/systemd/system/berth.service.d/test.conf; systemctl daemon-reload")
	for fault, want := range map[string]string{"exits": "the fault exits", "hangs": "has not come up", "ready, then ends": "it has become ready and then ended",
		"newer, never ready": "the fault newer, never ready"} {
		m.must("echo '" + fault + "' >/run/berth-fault")
		m.says("berth upgrade /opt/berth/next", false, want, "The version before serves again; nothing is lost")
		m.must("cmp /opt/berth/berth /usr/local/bin/berth; . /opt/berth/functions; pull x; pull y")
	}
	if said := m.must("touch /run/enough; while systemctl -q is-active clients; do sleep 0.1; done; wc -l </run/answered; cat /run/refused 2>/dev/null || true"); strings.Count(said, "\n") != 1 || strings.HasPrefix(said, "0") {
		t.Errorf("connections while the service restarts: the number of those answered, and when others ended, with curl's code (28: no answer within 60 s):\n%s\nthe journal:\n%s", said, m.served())
	}
	if said := m.must("journalctl --unit=berth --no-pager"); !strings.Contains(said, "taken") && !strings.Contains(said, "it is again as it was before") {
		t.Errorf("the database was not taken back:\n%s", said)
	}

	// A crash: clients wait for the next start. Who stops it, stops it.
	m.must("kill -9 $(systemctl show --property=MainPID --value berth); . /opt/berth/functions; pull x")
	m.must("systemctl stop berth; ! systemctl is-active berth.socket; ! curl -sk https://localhost:5000/readyz; systemctl start berth; . /opt/berth/functions; pull x")

	m.says("berth uninstall", true, "What is stored stays in /var/lib/berth")
	m.must("! systemctl cat berth.service 2>/dev/null; ! test -e /usr/local/bin/berth; ! curl -sk https://localhost:5000/readyz; test -s /var/lib/berth/berth.db")
	m.says("/opt/berth/berth install --addr 127.0.0.1:5001 --http-addr 127.0.0.1:5002", true, "It listens on 127.0.0.1:5001")
	m.must(". /opt/berth/functions; at=https://127.0.0.1:5001/v2/a; pull x; pull y; curl -sf http://127.0.0.1:5002/trust.crt >/dev/null")
	m.must("systemctl stop berth; ! curl -s http://127.0.0.1:5002/; systemctl start berth; curl -sf http://127.0.0.1:5002/trust.crt >/dev/null")

	// No way back once clients were told things that only the newer database has.
	m.must("echo 'newer, ready, then ends' >/run/berth-fault")
	m.says("berth upgrade /opt/berth/next", false, "it has become ready and then ended", "there is no way back", "restore a backup that was made before")
	m.must("cmp /opt/berth/next /usr/local/bin/berth; echo newer >/run/berth-fault; systemctl restart berth; . /opt/berth/functions; at=https://127.0.0.1:5001/v2/a; pull x; pull y")
	if said := m.must("journalctl --unit=berth --no-pager"); strings.Contains(said, "closing connections that did not end") {
		t.Errorf("a stop has cut connections:\n%s", said)
	}
	m.must("test -z \"$(find /var/lib/berth ! -user berth)\"")
}
