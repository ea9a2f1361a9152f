package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// otherDisk is a directory on a disk of its own.
func otherDisk(t testing.TB) string { return mountDisk(t, "size=64m") }

func TestBackupToAFullDisk(t *testing.T) {
	disk := mountDisk(t, "size=8m")
	dest := filepath.Join(disk, "backup")
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", noise(1, 100<<10))
	if out, err := r.backup(dest); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.pushImage("a", "y", "{}", noise(2, 20<<20))
	if out, err := r.backup(dest); err == nil || !isNoSpace(err) {
		t.Errorf("backup of more than the disk takes: %v\n%s", err, out)
	}
	if out, err := runOnce(t, "check", "--deep", "--data", dest); err != nil || !strings.Contains(out, "1 tag") {
		t.Errorf("check: %v\n%s", err, out)
	}
	c := r.serveCopy(dest)
	defer c.stop()
	c.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
	c.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil).is(noise(1, 100<<10))
}
