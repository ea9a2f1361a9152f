package e2e

// A release as release.sh makes it: the same bytes wherever it is built, and packages that install, serve, upgrade
// and are removed without losing an image. The packages are installed on this machine's file system with what is
// written kept apart (an overlay), so this machine is left as it was.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// onACopy runs a script on this machine's file system with what is written kept apart, in a network of its own.
const onACopy = `set -e
root=$1/root
mkdir -p "$1/upper" "$1/work" "$root"
mount -t tmpfs tmpfs "$1/upper"
mkdir "$1/upper/u" "$1/upper/w"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper/u,workdir=$1/upper/w" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir "$root/run/dist" "$root/run/next"
mount --bind "$2" "$root/run/dist"
mount --bind "$3" "$root/run/next"
ip link set lo up
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive chroot "$root" bash -euc "$4"
`

// serving are functions for such a script: start and stop the service as its unit has it, but for the restrictions,
// and a push and a pull.
const serving = `
unit=/usr/lib/systemd/system/berth.service
value() { sed -n "s/^$1=//p" $unit; }
start() {
	grep -q '^WantedBy=multi-user.target$' $unit
	(cd / && exec setpriv --reuid "$(value User)" --regid "$(value Group)" --init-groups env -i $(value Environment) $(grep -hv '^#' "$(value EnvironmentFile | sed 's/^-//')") $(value ExecStart)) >/run/log 2>&1 &
	pid=$!
	until curl -sfko /dev/null https://127.0.0.1:5000/readyz; do kill -0 $pid || { cat /run/log; exit 1; }; sleep 0.1; done
}
stop() { kill $pid; wait $pid; }
` + clientFunctions

// clientFunctions push an image as x, or as their argument, and pull it.
const clientFunctions = `
at=https://127.0.0.1:5000/v2/a
digest=sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a # of {}
push() {
	curl -sfko /dev/null --data-binary '{}' "$at/blobs/uploads/?digest=$digest"
	printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2},"layers":[]}' $digest >/tmp/m
	curl -sfko /dev/null -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary @/tmp/m "$at/manifests/${1:-x}"
}
pull() { curl -sfk "$at/manifests/${1:-x}" | cmp - /tmp/m; }
`

// run runs a script on a copy of this machine. dist and next are what it finds in /run.
func runOnACopy(t *testing.T, dist, next, script string) string {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private",
		"sh", "-c", onACopy, "sh", tempDir(t), dist, next, serving+script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// release builds one from a clone of the last commit in a directory, and returns its dist.
func release(t *testing.T, dir, version string, targets ...string) string {
	t.Helper()
	if _, err := os.Stat(dir); err != nil {
		must(t, exec.Command("git", "clone", "-q", "--no-hardlinks", "..", dir))
	}
	cmd := exec.Command("./release.sh", append([]string{version}, targets...)...)
	cmd.Dir = dir
	must(t, cmd)
	return filepath.Join(dir, "dist")
}

func must(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

func TestReleaseIsReproducibleAndItsPackagesServe(t *testing.T) {
	needRoot(t)
	need(t, "git", "zip", "unzip", "unshare", "setpriv", "curl", "dpkg", "rpm", "lintian")
	if _, err := os.Stat("../.git"); err != nil {
		missing(t, "a release is made from a clone with git")
	}
	const version = "0.1.0-rc.1"
	dir := tempDir(t)
	dist := release(t, filepath.Join(dir, "a"), version, "linux/amd64", "linux/arm64", "windows/amd64")
	again := release(t, filepath.Join(dir, "elsewhere", "b"), version, "linux/amd64", "linux/arm64", "windows/amd64")
	sums, other := read(t, filepath.Join(dist, "SHA256SUMS")), read(t, filepath.Join(again, "SHA256SUMS"))
	if sums != other {
		t.Errorf("two builds differ:\n%s\n%s", sums, other)
	}
	if n := strings.Count(sums, "\n"); n != 3*2+2*2+1 {
		t.Errorf("%d files, want an archive and an SBOM for each target, two packages for each Linux, and the notes\n%s", n, sums)
	}
	check := exec.Command("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	check.Dir = dist
	must(t, check)

	t.Run("archive", func(t *testing.T) { checkArchive(t, dist, version) })
	t.Run("SBOM", func(t *testing.T) { checkSBOM(t, filepath.Join(dist, "berth-"+version+"-linux-amd64.cdx.json")) })
	next := release(t, filepath.Join(dir, "elsewhere", "b"), "0.1.0-rc.2", "linux/amd64")
	t.Run("deb", func(t *testing.T) {
		must(t, exec.Command("lintian", "--allow-root", "--fail-on", "error,warning", filepath.Join(dist, "berth_0.1.0~rc.1-1_amd64.deb")))
		t.Log("STAND-IN: systemd, which a chroot has not: the service is started as its unit says, without the restrictions")
		runOnACopy(t, dist, next, debScript)
	})
	t.Run("rpm", func(t *testing.T) { runOnACopy(t, dist, next, rpmScript) })
}

const debScript = `
dpkg -i /run/dist/berth_*_amd64.deb >/tmp/said
[ "$(berth version | head -1)" = 'berth 0.1.0-rc.1 linux/amd64' ]
[ "$(stat -c '%U %a' /var/lib/berth)" = 'berth 700' ]
start
push
pull
echo 'BERTH_MAX_BLOB_SIZE=1GiB' >>/etc/berth/berth.env
dpkg -i /run/next/berth_*_amd64.deb >/tmp/said
[ "$(berth version | head -1)" = 'berth 0.1.0-rc.2 linux/amd64' ]
grep -q MAX_BLOB_SIZE /etc/berth/berth.env
stop
start
pull
stop
dpkg -r berth >/tmp/said
[ ! -e /usr/bin/berth ] && [ -e /etc/berth/berth.env ]
dpkg -P berth >/tmp/said
grep -q 'The registry in /var/lib/berth is kept' /tmp/said
[ ! -e /etc/berth/berth.env ] && [ -s /var/lib/berth/berth.db ]
dpkg -i /run/dist/berth_*_amd64.deb >/tmp/said
start
pull
stop
`

// Debian's rpm does not know which of its dependencies are installed.
const rpmScript = `
rpm -i --nodeps /run/dist/berth-*.x86_64.rpm
[ "$(berth version | head -1)" = 'berth 0.1.0-rc.1 linux/amd64' ]
[ "$(stat -c '%U %a' /var/lib/berth)" = 'berth 700' ]
start
push
pull
echo 'BERTH_MAX_BLOB_SIZE=1GiB' >>/etc/berth/berth.env
rpm -U --nodeps /run/next/berth-*.x86_64.rpm
[ "$(berth version | head -1)" = 'berth 0.1.0-rc.2 linux/amd64' ]
grep -q MAX_BLOB_SIZE /etc/berth/berth.env
stop
start
pull
stop
rpm -e berth >/tmp/said
grep -q 'The registry in /var/lib/berth is kept' /tmp/said
[ ! -e /usr/bin/berth ] && [ -s /var/lib/berth/berth.db ]
`

// checkArchive sees that the archives have what belongs into them, and a binary that says what it is.
func checkArchive(t *testing.T, dist, version string) {
	dir := tempDir(t)
	name := "berth-" + version + "-linux-amd64"
	must(t, exec.Command("tar", "-xzf", filepath.Join(dist, name+".tar.gz"), "-C", dir))
	for _, file := range []string{"berth", "README.md", "CHANGELOG.md", "LICENSE", "THIRD_PARTY_NOTICES", "berth.service", "completions/berth.bash", "completions/berth.zsh", "completions/berth.fish"} {
		if info, err := os.Stat(filepath.Join(dir, name, file)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	said := must(t, exec.Command(filepath.Join(dir, name, "berth"), "version"))
	commit := strings.TrimSpace(must(t, exec.Command("git", "rev-parse", "HEAD")))
	if !regexp.MustCompile(`^berth ` + version + ` linux/amd64\ncommit ` + commit + `\ndate   20[0-9TZ:-]{18}\ngo     1\.\S+\n$`).MatchString(said) {
		t.Errorf("the binary of a release says\n%s", said)
	}
	if list := must(t, exec.Command("unzip", "-Z1", filepath.Join(dist, "berth-"+version+"-windows-amd64.zip"))); !strings.Contains(list, "/berth.exe\n") || strings.Contains(list, "service") {
		t.Errorf("the archive for Windows has\n%s", list)
	}
	if notes := read(t, filepath.Join(dist, "NOTES.md")); !strings.HasPrefix(notes, "The first version.\n") || strings.Contains(notes, "\n## ") {
		t.Errorf("the notes are\n%s", notes)
	}
}

// checkSBOM sees that an SBOM names what is linked, as Go tells it.
func checkSBOM(t *testing.T, path string) {
	var bom struct {
		Format     string `json:"bomFormat"`
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal([]byte(read(t, path)), &bom); err != nil || bom.Format != "CycloneDX" {
		t.Fatalf("%s: %v, of the format %q", path, err, bom.Format)
	}
	has := new(bytes.Buffer)
	for _, c := range bom.Components {
		fmt.Fprintln(has, c.Name, c.Version)
	}
	list := must(t, exec.Command("go", "-C", "..", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", "."))
	for _, module := range strings.Fields(strings.ReplaceAll(list, " ", "\x00")) {
		if line := strings.ReplaceAll(module, "\x00", " ") + "\n"; !strings.Contains(has.String(), line) {
			t.Errorf("the SBOM has no %s", line)
		}
	}
}
