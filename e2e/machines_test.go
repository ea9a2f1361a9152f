package e2e

// Two machines, for what people are told to type: pi, where the registry runs, and pc. Each is a network
// namespace with a file system of its own, this machine's with what is written kept apart (an overlay), with a
// person called me who may use sudo, and with a Docker daemon where a test wants one. So commands like
// `sudo install` and `sudo useradd` do what they say, and this machine is left as it was.
//
// Two programs are not the real ones, because a namespace has neither sshd nor systemd: ssh and systemctl, below.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The addresses of the machines, on a network of their own.
var addressOf = map[string]string{"pi": "192.168.1.5", "pc": "192.168.1.6"}

// makeMachine builds the file system of machine $2 below the directory $1, moves into it, and stays.
const makeMachine = `set -e
hostname "$2"
ip link set lo up
mkdir -p "$1/$2/upper" "$1/$2/work" "$1/$2/root" "$1/$2/docker" "$1/$2/cache" "$1/$2/cachework" "$1/$2/mods" "$1/$2/modswork"
mount -t overlay -o "lowerdir=/,upperdir=$1/$2/upper,workdir=$1/$2/work" overlay "$1/$2/root"
cd "$1/$2/root"
rm -f .dockerenv run/.containerenv # of the machine that this one is made from
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs mnt
mount -t tmpfs -o mode=755 tmpfs srv
mount -t tmpfs -o mode=755 tmpfs usr/local
mkdir -p usr/local/bin usr/local/sbin usr/local/go var/lib/docker run/lab
mount --bind "$1/$2/docker" var/lib/docker
mount --bind "$1" run/lab
mount --bind "$3" usr/local/go
rm -rf home/me
chroot . userdel me >/dev/null 2>&1 || true
chroot . groupadd -f docker
chroot . useradd --create-home --groups docker --shell /bin/bash me
mkdir -p home/me/.cache/go-build home/me/go/pkg/mod
mount -t overlay -o "lowerdir=$4,upperdir=$1/$2/cache,workdir=$1/$2/cachework" overlay home/me/.cache/go-build
mount -t overlay -o "lowerdir=$5,upperdir=$1/$2/mods,workdir=$1/$2/modswork" overlay home/me/go/pkg/mod
chmod 777 home/me/.cache/go-build home/me/.cache/go-build/?? home/me/go/pkg/mod home/me/go/pkg/mod/cache
chroot . chown me: /home/me /home/me/.cache /home/me/go /home/me/go/pkg
echo 'me ALL=(ALL) NOPASSWD: ALL' >etc/sudoers.d/me
chmod 440 etc/sudoers.d/me
printf '127.0.0.1 localhost\n192.168.1.5 pi.local pi hub.example.org\n192.168.1.6 pc.local pc\n' >etc/hosts
rm -rf etc/docker etc/containers/certs.d etc/containerd/certs.d
cp "$1/ssh" "$1/systemctl" usr/local/bin/
pivot_root . .
umount -l .
echo $$ >"/run/lab/$2.pid.new"
mv "/run/lab/$2.pid.new" "/run/lab/$2.pid"
exec sleep infinity
`

// enterMachine runs the command $4 on machine $2 as $3, in a shell that has just been opened in the home directory;
// $1 is where the machines are. PATH is that of Debian's shells, and at its end the directory that Go's instructions for
// its installation add.
const enterMachine = `home=/home/$3 path=/usr/local/bin:/usr/bin:/bin
[ "$3" != root ] || home=/root path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec nsenter --target "$(cat "$1/$2.pid")" --net --uts --ipc --mount -- runuser -u "$3" -- \
	env -i HOME="$home" USER="$3" LOGNAME="$3" SHELL=/bin/bash TERM=xterm LANG=C.UTF-8 PATH="$path:/usr/local/go/bin" \
	bash -c 'cd && eval "$0"' "$4"
`

// sshStandIn takes ssh USER@HOST COMMAND to the other machine: a fresh shell in the person's home directory.
const sshStandIn = `#!/bin/sh
user=${1%@*} host=${1#*@}
shift
exec sudo sh /run/lab/enter /run/lab "${host%.local}" "$user" "$*"
`

// systemctlStandIn starts the service of a unit as systemd would, but for its socket and the restrictions on it.
const systemctlStandIn = `#!/bin/bash
set -e
unit=/etc/systemd/system/berth.service
value() { sed -n "s/^$1=//p" "$unit"; }
case "$*" in
daemon-reload) [ "$(id -u)" = 0 ] ;;
'enable --now berth' | 'start berth')
	[ "$(id -u)" = 0 ]
	install -d -o "$(value User)" -g "$(value Group)" -m "$(value StateDirectoryMode)" "/var/lib/$(value StateDirectory)"
	umask "$(value UMask)"
	cd /
	setsid setpriv --reuid "$(value User)" --regid "$(value Group)" --init-groups env -i $(value Environment) $(value ExecStart) >/run/berth.log 2>&1 </dev/null &
	echo $! >/run/berth.pid
	until curl -s -o /dev/null localhost:5000/readyz || ! kill -0 $! 2>/dev/null; do sleep 0.05; done # as systemd waits for READY=1
	;;
'stop berth') kill "$(cat /run/berth.pid)"; while kill -0 "$(cat /run/berth.pid)" 2>/dev/null; do sleep 0.05; done ;;
*) echo "the stand-in for systemctl cannot do: $*" >&2; exit 1 ;;
esac
`

// A lab is the two machines.
type lab struct {
	t       *testing.T
	dir     string
	pid     int // of the process whose children are in the lab's namespaces
	servers map[string]*terminal
	daemons map[string]bool // machines whose Docker daemon runs
	columns uint16          // of terminals, to which tables are fitted
}

// startLab makes the machines. They have no Berth yet.
func startLab(t *testing.T) *lab {
	t.Helper()
	if runtime.GOOS != "linux" {
		missing(t, "machines are made of Linux's namespaces")
	}
	needRoot(t)
	need(t, "ip", "unshare", "nsenter", "sudo", "curl")
	t.Parallel() // each with another, where there are two cores
	t.Log("STAND-INS: ssh, and systemctl, which starts the service without systemd's restrictions")
	l := &lab{t: t, dir: tempDir(t), servers: map[string]*terminal{}, daemons: map[string]bool{}, columns: 80}
	if err := os.Chmod(l.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"make": makeMachine, "enter": enterMachine, "ssh": sshStandIn, "systemctl": systemctlStandIn} {
		writeFile(t, filepath.Join(l.dir, name), text)
		os.Chmod(filepath.Join(l.dir, name), 0o755)
	}
	script := `exec 3<&0
mount -t proc proc /proc
for name in pi pc; do
	unshare --net --uts --ipc --mount --propagation private sh "$0/make" "$0" $name "$@" &
done
cat <&3 >/dev/null & # until its end; meanwhile the shell takes leave of whatever ends here
wait $!
`
	cmd := exec.Command("unshare", "--pid", "--mount", "--fork", "--kill-child", "--propagation", "private",
		"sh", "-c", script, l.dir, goEnv(t, "GOROOT"), goEnv(t, "GOCACHE"), goEnv(t, "GOMODCACHE"))
	cmd.Env = plainEnv(l.dir)
	log := &output{}
	cmd.Stdout, cmd.Stderr = log, log
	end, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	exited, err := startGroup(cmd)
	if err != nil {
		t.Fatal(err)
	}
	l.pid = cmd.Process.Pid
	t.Cleanup(func() { // when the first process of the namespace ends, so does everything that runs on the machines
		end.Close()
		<-exited
	})
	for name := range addressOf {
		await(t, exited, log, "the machine "+name, func() bool {
			if strings.Contains(log.String(), "ermission denied") || strings.Contains(log.String(), "not permitted") {
				missing(t, "no machines can be made here:\n%s", log)
			}
			_, err := os.Stat(filepath.Join(l.dir, name+".pid"))
			return err == nil
		})
	}
	l.must("root@pi", `ip link add eth0 type veth peer name eth0 netns "$(cat /run/lab/pc.pid)"`)
	for name, address := range addressOf {
		l.must("root@"+name, "ip address add "+address+"/24 dev eth0 && ip link set eth0 up && ip route add default via "+address)
	}
	return l
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// need ends a test that lacks a program of this machine's distribution.
func need(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := lookPath(name); err != nil {
			missing(t, "%s is not installed: apt-get install %s", name, debianPackages[name])
		}
	}
}

// enter is a command on a machine; where is USER@MACHINE, and maybe a directory: me@pi:berth.
func (l *lab) enter(where, command string) *exec.Cmd {
	who, dir, _ := strings.Cut(where, ":")
	user, machine, found := strings.Cut(who, "@")
	if !found {
		l.t.Fatalf("%q is not USER@MACHINE", where)
	}
	if dir != "" {
		command = "cd " + dir + "\n" + command
	}
	ns := fmt.Sprintf("/proc/%d/ns/", l.pid)
	cmd := exec.Command("nsenter", "--pid="+ns+"pid_for_children", "--mount="+ns+"mnt", "sh",
		filepath.Join(l.dir, "enter"), l.dir, machine, user, command)
	cmd.Env = plainEnv("/")
	return cmd
}

// try runs a command of the test's own and returns what it printed.
func (l *lab) try(where, command string) (string, error) {
	cmd := l.enter(where, command)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (l *lab) must(where, command string) string {
	l.t.Helper()
	out, err := l.try(where, command)
	if err != nil {
		l.t.Fatalf("%s$ %s: %v\n%s", where, command, err, out)
	}
	return out
}

// write writes a file on a machine.
func (l *lab) write(where, file, content string) {
	l.t.Helper()
	cmd := l.enter(where, `mkdir -p "$(dirname `+file+`)" && cat >`+file)
	cmd.Stdin = strings.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("writing %s on %s: %v\n%s", file, where, err, out)
	}
}

// install gives a machine a program of this one.
func (l *lab) install(machine, path, name string) {
	l.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	l.write("root@"+machine, "/usr/local/bin/"+name, string(text))
	l.must("root@"+machine, "chmod 755 /usr/local/bin/"+name)
}

// client gives a machine a client that the other tests use too.
func (l *lab) client(machine, name string) {
	l.t.Helper()
	l.install(machine, newClient(l.t, name).path, name)
}

// until waits for a command to succeed.
func (l *lab) until(where, command string) {
	l.t.Helper()
	var out string
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var err error
		if out, err = l.try(where, command); err == nil {
			return
		}
	}
	l.t.Fatalf("waited two minutes for %s$ %s\n%s", where, command, out)
}

// docker starts the Docker daemon of a machine, as a package of Docker would: it knows nothing of any registry. It has
// an image called alpine.
func (l *lab) docker(machine string) {
	l.t.Helper()
	need(l.t, "docker", "dockerd", "containerd")
	l.must("root@"+machine, "setsid dockerd --storage-driver=overlay2 >/run/dockerd.log 2>&1 </dev/null &")
	l.until("me@"+machine, "docker version")
	if l.daemons[machine] {
		return
	}
	l.daemons[machine] = true
	l.image(machine, "alpine:latest", "amd64", hello(l.t))
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.t.Logf("dockerd on %s: %s", machine, l.must("root@"+machine, "tail -n 20 /run/dockerd.log"))
		}
	})
}

// restartDocker is `systemctl restart docker`.
func (l *lab) restartDocker(machine string) {
	l.t.Helper()
	l.must("root@"+machine, "kill $(cat /run/docker.pid)")
	l.until("root@"+machine, "! test -e /run/docker.pid")
	l.docker(machine)
}

// image makes an image of one layer in the store of a machine's Docker.
func (l *lab) image(machine, name, arch string, files map[string]string) {
	l.t.Helper()
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			l.t.Fatal(err)
		}
		return string(b)
	}
	content := layer(files)
	archive := layer(map[string]string{
		"manifest.json": encode([]any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}}),
		"config.json": encode(map[string]any{"os": "linux", "architecture": arch,
			"config": map[string]any{"Entrypoint": []string{"/hello"}, "Labels": map[string]string{"name": name}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digestOf("sha256:", content)}}}),
		"layer.tar": string(content),
	})
	cmd := l.enter("me@"+machine, "docker load")
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("docker load %s: %v\n%s", name, err, out)
	}
}

// A terminal has a program of a machine running in it.
type terminal struct {
	pty    *os.File
	said   output
	closed chan struct{} // when nothing has the terminal open any more
	cmd    *exec.Cmd
}

// open runs a command in a terminal of its own.
func (l *lab) open(where, command string) *terminal {
	l.t.Helper()
	pty, tty, err := openPTY(50, l.columns)
	if err != nil {
		l.t.Fatal(err)
	}
	defer tty.Close()
	x := &terminal{pty: pty, closed: make(chan struct{}), cmd: l.enter(where, command)}
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = tty, tty, tty
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() {
		io.Copy(&x.said, pty) // ends with EIO
		x.cmd.Wait()
		pty.Close()
		close(x.closed)
	}()
	return x
}

// lineMoves are how programs go from line to line in a terminal; escapes are the rest that they do with it.
var (
	lineMoves = regexp.MustCompile("\r+\n|\r|\x1b\\[[0-9]*[AB]")
	escapes   = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")
)

// text is what stood in the terminal, line by line.
func (x *terminal) text() string {
	return escapes.ReplaceAllString(lineMoves.ReplaceAllString(x.said.String(), "\n"), "")
}

// wait waits until the program has ended.
func (l *lab) wait(x *terminal) {
	l.t.Helper()
	select {
	case <-x.closed:
	case <-time.After(5 * time.Minute):
		l.t.Fatalf("still running after five minutes:\n%s", x.text())
	}
}

// serve runs a server in a terminal until somebody types Ctrl-C there; wait for it at its port.
func (l *lab) serve(where, command string) *terminal {
	l.t.Helper()
	port := "5000"
	if m := regexp.MustCompile(`--addr \S*:(\d+)`).FindStringSubmatch(command); m != nil {
		port = m[1]
	}
	_, machine, _ := strings.Cut(strings.Split(where, ":")[0], "@")
	x := l.open(where, command)
	l.servers[machine+":"+port] = x
	for deadline := time.Now().Add(2 * time.Minute); ; {
		if _, err := l.try("me@"+machine, "curl -s -o /dev/null localhost:"+port+"/readyz"); err == nil {
			return x
		}
		select {
		case <-x.closed:
			l.t.Fatalf("%s$ %s: ended\n%s", where, command, x.text())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%s$ %s: nobody listens at port %s\n%s", where, command, port, x.text())
		}
	}
}

// interrupt types Ctrl-C in the terminal of a server, MACHINE:PORT.
func (l *lab) interrupt(server string) {
	l.t.Helper()
	x := l.servers[server]
	if x == nil {
		l.t.Fatalf("no server at %s", server)
	}
	x.pty.Write([]byte{3})
	l.wait(x)
	delete(l.servers, server)
}
