// Disks that are not mounted, or late.

package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Until its disk is mounted no registry begins in its place, if the operator has said so by
// --existing or by a file in the mount point; and then the registry of the disk is served.
func TestDiskThatIsMountedLate(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, x := range []struct {
		name, inside string // where on the disk the registry is
		marked       bool
		args         []string
		want         string
	}{
		{"--existing", "berth", false, []string{"--existing"}, "--existing (BERTH_EXISTING) forbids beginning a new one: is a disk not mounted?"},
		{"--existing on the mount point", "", false, []string{"--existing"}, "forbids beginning a new one"},
		{"a file", "berth", true, nil, "is not mounted: there is a file MOUNT/berth.not-mounted"},
		{"a file in the data directory", "", true, nil, "is not mounted: there is a file MOUNT/berth.not-mounted"},
	} {
		disk, mount := t.TempDir(), filepath.Join(t.TempDir(), "usb")
		r := startRegistry(t, func(cfg *config) { cfg.dir = filepath.Join(disk, x.inside) })
		im := r.pushImage("home/app", "1.0", "{}", "layer")
		r.stop()
		put(t, mount, "./")
		if x.marked {
			put(t, mount, notMountedMark)
		}
		before := namesIn(t, mount)
		data := filepath.Join(mount, x.inside)
		want := strings.ReplaceAll(x.want, "MOUNT", mount)
		for range 2 { // a service is started again and again
			if err := refused(t, append([]string{"--addr", "127.0.0.1:0", "--data", data}, x.args...)...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", x.name, err, want)
			}
		}
		if x.marked {
			for _, args := range [][]string{{"user", "add", "kim"}, {"ls"}} {
				if err := refused(t, append(args, "--data", data)...); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: berth %s: %v, want %q", x.name, args[0], err, want)
				}
			}
		}
		if after := namesIn(t, mount); len(after) != len(before) {
			t.Errorf("%s: left in the mount point: %v", x.name, after)
		}
		mountAt(t, disk, mount)
		said := serveFor(t, func(url string) {
			resp, err := http.Get(url + "/v2/home/app/manifests/1.0")
			if err != nil || resp.StatusCode != 200 || resp.Header.Get("Docker-Content-Digest") != im.digest.String() {
				t.Errorf("%s: %v, %v", x.name, resp, err)
			}
		}, append([]string{"--data", data}, x.args...)...)
		if !strings.Contains(said, " serves "+data+" ") {
			t.Errorf("%s: the greeting is\n%s", x.name, said)
		}
	}
}

// The disk for a backup is not mounted: a backup on the machine's own disk helps nobody.
func TestBackupToADiskThatIsNotMounted(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	mount := t.TempDir()
	put(t, mount, notMountedMark)
	if out, err := r.backup(filepath.Join(mount, "berth")); err == nil || !strings.Contains(err.Error(), "is not mounted") {
		t.Errorf("%v\n%s", err, out)
	}
	if left := namesIn(t, mount); len(left) != 2 {
		t.Errorf("left in the mount point: %v", left)
	}
}

// Blobs on a disk of their own: its mount point says that it is missing, before the first start, too.
func TestBlobsOnADiskThatIsNotMounted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "blobs/"+notMountedMark)
	if err := refused(t, "--addr", "127.0.0.1:0", "--data", dir); err == nil || !strings.Contains(err.Error(), "is not mounted") {
		t.Errorf("it starts: %v", err)
	}
	link := filepath.Join(t.TempDir(), "data")
	if err := os.Symlink(filepath.Join(dir, "nowhere"), link); err != nil {
		t.Fatal(err)
	}
	if err := refused(t, "--addr", "127.0.0.1:0", "--data", link); err == nil || !strings.Contains(err.Error(), "which does not exist: is a disk not mounted?") {
		t.Errorf("a link to what is not there: %v", err)
	}
}
