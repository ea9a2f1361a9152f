//go:build unix

// A newer version that never serves bars no way back, and one that has served does.

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// newerStep is what the next version does to the database.
const newerStep = `ALTER TABLE repository ADD COLUMN colour TEXT; UPDATE repository SET name = 'b'; CREATE TABLE more (x)`

// dieNewer has the next version open a registry and die at a point.
func dieNewer(t *testing.T, dir, at string) {
	t.Helper()
	p := newerProcess(t, dir, newerStep)
	p.Env = append(p.Env, serveVariable+"="+at)
	if out, err := p.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the next version ends with %v: %s", err, out)
	}
}

func TestNewerVersionThatNeverServedIsTakenBack(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	r.off()
	version, before := stateOf(t, r.cfg.dir)
	for range 2 { // the second finds the copy of the first
		dieNewer(t, r.cfg.dir, "opened:1")
	}
	if v := versionOf(t, r.cfg.dir); v != version+1 {
		t.Fatalf("the next version has not brought the database up to date: %d", v)
	}
	r.start()
	r.wantImage("a", "x", im)
	r.pushImage("c", "x", "{}", "another")
	r.off()
	if v, after := stateOf(t, r.cfg.dir); v != version || !reflect.DeepEqual(before["manifest"][:1], after["manifest"][:1]) {
		t.Errorf("it is of version %d, want %d\n%v\nwas\n%v", v, version, after["manifest"], before["manifest"])
	}
	if exists(filepath.Join(r.cfg.dir, beforeFile)) {
		t.Error("the copy is there although clients were served")
	}
	r.start()
}

// Where the next version has served, its clients' pushes count: the version before is refused.
func TestNewerVersionThatServedStays(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.off()
	if !tryProcess(newerProcess(t, r.cfg.dir, newerStep)) {
		t.Fatal("the next version does not serve")
	}
	if exists(filepath.Join(r.cfg.dir, beforeFile)) {
		t.Error("the copy is there although the next version has served")
	}
	openFails(t, r.cfg.storeConfig, fmt.Sprintf("is of version %d", latestVersion+1))
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), `ALTER TABLE repository DROP COLUMN colour`, `DROP TABLE more`, fmt.Sprint("PRAGMA user_version = ", latestVersion))
	r.start()
}

// A command that changes something is an answer, too.
func TestCommandEndsTheWayBack(t *testing.T) {
	t.Parallel()
	r := stoppedVersion8(t)
	if err := os.WriteFile(filepath.Join(r.cfg.dir, beforeFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := runOnce(t, "ls", "--data", r.cfg.dir); err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(r.cfg.dir, beforeFile)) {
		t.Error("the copy is still there")
	}
	r.start()
	r.repairVersion8()
}
