package main

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a read-only disk holds cannot be brought up to date.
func TestUpgradeOnAReadOnlyDisk(t *testing.T) {
	t.Parallel()
	disk := mountDisk(t, "size=32m")
	r := onDisk(t, disk)
	im := r.pushImage("a", "x", "{}", "layer")
	r.off()
	version, before := stateOf(t, r.cfg.dir)
	makeReadOnly(t, disk)
	for range 2 {
		out, err := newerProcess(t, r.cfg.dir, "CREATE TABLE extra (x)").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "start once with the disk writable, which brings it up to date") {
			t.Errorf("it ends with %v and says %s", err, out)
		}
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	if v, after := stateOf(t, r.cfg.dir); v != version || !reflect.DeepEqual(before, after) {
		t.Errorf("of version %d came version %d", version, v)
	}
	if !tryProcess(newerProcess(t, r.cfg.dir, "SELECT 1")) {
		t.Error("it does not serve from the writable disk")
	}
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), fmt.Sprint("PRAGMA user_version = ", latestVersion))
	r.start()
	r.wantImage("a", "x", im)
}
