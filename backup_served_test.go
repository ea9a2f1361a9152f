//go:build unix

// A backup that is served for pulls, and is a backup still.

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// As on a stick that is carried to a site, served there, and brought back to be filled again.
func TestBackupServedReadOnlyStaysABackup(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	old := r.pushImage("home/app", "1", "{}", "shared", "old")
	dest := filepath.Join(t.TempDir(), "usb")
	if out, err := r.backup(dest); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for round, kill := range []bool{false, true} {
		p := startProcess(t, "", "--data", dest, "--read-only")
		if re, err := p.ask("GET", "/v2/home/app/manifests/1", nil); err != nil || re.status != 200 {
			t.Errorf("pull from the backup: %v, %v", re, err)
		}
		if re, err := p.ask("POST", "/v2/home/app/blobs/uploads/", nil); err != nil || re.status != 405 {
			t.Errorf("push to the backup: %v, %v", re, err)
		}
		// What such a server may do to it: put a blob aside that is damaged, know of tokens, make snapshots.
		layer := newDataDir(dirConfig{dir: dest}).path(sum("old"))
		if err := os.Remove(layer); err != nil {
			t.Fatal(err)
		}
		if re, err := p.ask("GET", "/v2/home/app/blobs/"+sum("old").String(), nil); err != nil || re.status != 404 {
			t.Errorf("pull of a blob that is missing in the backup: %v, %v", re, err)
		}
		if out, err := runOnce(t, "token", "create", "inside", "--repo", "**", "--allow", "pull", "--data", dest); err != nil {
			t.Errorf("a token of the backup's: %v\n%s", err, out)
		}
		// Not while it is served.
		if out, err := r.backup(dest); err == nil || !strings.Contains(err.Error(), "in use by another berth") {
			t.Errorf("backup to what is served: %v\n%s", err, out)
		}
		if kill {
			p.cmd.Process.Kill()
			p.wait()
		} else {
			p.stop(t)
			if !strings.Contains(p.stderr.String(), "this is a backup, and stays one") {
				t.Errorf("the log does not say that it stays a backup:\n%s", p.stderr.String())
			}
		}
		tag := []string{"2", "3"}[round]
		im := r.pushImage("home/app", tag, "{}", "shared", "new "+tag)
		if out, err := r.backup(dest); err != nil {
			t.Fatalf("backup to what was served read-only: %v\n%s", err, out)
		}
		if out, err := runOnce(t, "check", "--deep", "--data", dest); err != nil {
			t.Errorf("check of the backup: %v\n%s", err, out)
		}
		if out, err := runOnce(t, "token", "list", "--data", dest); err != nil || strings.Contains(out, "inside") {
			t.Errorf("the backup has tokens of its own: %v\n%s", err, out)
		}
		c := r.serveCopy(dest)
		c.wantImage("home/app", tag, im)
		c.wantImage("home/app", "1", old)
		c.want(200, "GET", "/v2/home/app/blobs/"+sum("old").String(), nil).is("old")
		c.stop()
	}
	// A server that can be pushed to makes it a registry.
	p := startProcess(t, "", "--data", dest)
	p.stop(t)
	if out, err := r.backup(dest); err == nil || !strings.Contains(err.Error(), "served since without --read-only") {
		t.Errorf("backup over what was served: %v\n%s", err, out)
	}
}
