package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// otherDisk is a directory on a disk of its own.
func otherDisk(t testing.TB) string { return mountDisk(t, "size=64m") }

func TestBackupToAFullDisk(t *testing.T) {
	slow(t)
	t.Parallel()
	disk := mountDisk(t, "size=8m")
	dest := filepath.Join(disk, "backup")
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", noise(1, 100<<10))
	if out, err := r.backup(dest); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.pushImage("a", "y", "{}", noise(2, 20<<20))
	if out, err := r.backup(dest); err == nil || !isNoSpace(err) ||
		!strings.Contains(err.Error(), "the disk of "+dest+" is full") || !strings.Contains(err.Error(), "the earlier backup in "+dest+" is as it was") {
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

func TestBackupFromAReadOnlyDisk(t *testing.T) {
	t.Parallel()
	disk := mountDisk(t, "size=64m")
	r := onDisk(t, disk)
	f := r.pushFixture("home/app")
	bad := r.pushBlob("home/app", "rotten")
	r.whileStopped(func() {
		path := filepath.Join(r.cfg.dir, "blobs", "sha256", bad.Encoded()[:2], bad.Encoded(), "data")
		if err := os.WriteFile(path, []byte("ROTTEN"), 0o600); err != nil {
			t.Fatal(err)
		}
		makeReadOnly(t, disk)
	})
	dest := filepath.Join(mountDisk(t, "size=64m"), "backup") // which syncs each directory for itself
	said, err := r.backup(dest)
	if err == nil || !strings.Contains(err.Error(), "1 blob damaged") {
		t.Errorf("backup: %v\n%s", err, said)
	}
	f.r = r.serveCopy(dest)
	f.pull()
	f.r.want(404, "HEAD", "/v2/home/app/blobs/"+bad.String(), nil)
	r.http.Close() // what is rotten cannot be put in order here
	if err := r.st.close(); err != nil {
		t.Error(err)
	}
	r.st = nil
}

// A person's directory is not the server's.
func TestBackupThroughTheServer(t *testing.T) {
	slow(t)
	alone(t, "the process is in another directory meanwhile")
	data, home := t.TempDir(), t.TempDir()
	p := startProcess(t, "", "--data", data)
	for _, content := range []string{"layer", "{}"} {
		if re, err := p.ask("POST", "/v2/a/blobs/uploads/?digest="+sum(content).String(), strings.NewReader(content)); err != nil || re.status != 201 {
			t.Fatalf("%v, %v", re, err)
		}
	}
	im := ociImage("{}", "layer")
	if re, err := p.ask("PUT", "/v2/a/manifests/1", strings.NewReader(im.manifest), "Content-Type: "+typeOCIManifest); err != nil || re.status != 201 {
		t.Fatalf("%v, %v", re, err)
	}
	t.Chdir(home)
	if said, err := runOnce(t, "backup", "copy", "--data", data); err != nil {
		t.Fatalf("backup: %v\n%s", err, said)
	}
	p.stop(t)
	dest := filepath.Join(home, "copy")
	if out, err := runOnce(t, "check", "--deep", "--data", dest); err != nil {
		t.Errorf("check of the backup: %v\n%s", err, out)
	}
	// Not even a check makes it less of a backup; a server does.
	if out, err := runOnce(t, "backup", dest, "--data", data); err != nil {
		t.Errorf("the second backup: %v\n%s", err, out)
	}
	p = startProcess(t, "", "--data", dest)
	if re, err := p.ask("GET", "/v2/a/manifests/1", nil); err != nil || re.status != 200 {
		t.Errorf("pull from the backup: %v, %v", re, err)
	}
	p.stop(t)
	if out, err := runOnce(t, "backup", dest, "--data", data); err == nil || !strings.Contains(err.Error(), "served since") {
		t.Errorf("backup over what was served: %v\n%s", err, out)
	}
}

// What the snapshot does not know comes back in the same way whatever kind of
// thing it is, and what nobody misses is not asked for.
func TestRestoreSalvagesEveryKind(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(cfg *config) { cfg.untaggedGrace = time.Hour })
	r.pushImage("a", "old", "{}", "layer")
	gone := r.pushBlob("a", "a blob that nobody uses")
	r.pushImage("a", "untagged", `{"u":1}`, "of an image without a tag")
	r.pushImage("a", "untagged", `{"u":2}`, "of its successor")
	rotten := r.pushImage("a", "rotten", `{"r":1}`, "rotten")
	spoil := r.st.path(sum("rotten"))
	if err := os.WriteFile(spoil, []byte("ROTTEN"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.st.quarantine(sum("rotten")); err != nil {
		t.Fatal(err)
	}
	abandoned := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", abandoned, "some bytes")
	r.snapshotsAfter(time.Hour)

	r.pass(r.cfg.grace + time.Minute) // the first three go
	if r.hasFile(gone) {
		t.Fatal("nothing was collected")
	}
	r.pushBlob("a", "rotten") // whole again
	cache := r.pushBlob("cache", "a layer that an index lists, as buildkit does")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, typeOCIIndex,
		descriptorJSON("application/vnd.oci.image.layer.v1.tar+gzip", "a layer that an index lists, as buildkit does"))
	r.want(201, "PUT", "/v2/cache/manifests/x", index, "Content-Type: "+typeOCIIndex)
	r.pushImage("a", "old", `{"n":2}`, "layer") // moves the tag
	r.pushImage("b", "x", "{}", "layer")        // links what is there
	r.off()
	db := filepath.Join(r.cfg.dir, "berth.db")
	// Some page in the middle that no manifest is in: all of it can be read.
	inDatabase(t, db, `CREATE TABLE ballast (x TEXT)`, `INSERT INTO ballast VALUES ('`+strings.Repeat("ballast!", 3000)+`')`)
	body, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(body, []byte("ballast!ballast!"))
	page := int(binary.BigEndian.Uint16(body[16:]))
	if err := overwrite(db, int64(at/page*page), 3); err != nil {
		t.Fatal(err)
	}
	inDatabase(t, db, `PRAGMA writable_schema = 1`, `DELETE FROM sqlite_schema WHERE name = 'ballast'`) // its pages are lost
	out, err := r.runOn("restore")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, not := range []string{"PUSH AGAIN", "LOST", "read completely"} {
		if strings.Contains(out, not) {
			t.Errorf("restore says %q, and nothing is lost:\n%s", not, out)
		}
	}
	r.start()
	r.want(200, "GET", "/v2/a/manifests/old", nil).is(ociImage(`{"n":2}`, "layer").manifest)
	r.want(200, "GET", "/v2/a/manifests/rotten", nil).is(rotten.manifest)
	r.want(200, "GET", "/v2/a/blobs/"+sum("rotten").String(), nil).is("rotten")
	r.want(200, "GET", "/v2/cache/manifests/x", nil).is(index)
	r.want(200, "GET", "/v2/cache/blobs/"+cache.String(), nil)
	r.want(200, "GET", "/v2/b/blobs/"+sum("layer").String(), nil).is("layer")
	r.want(404, "HEAD", "/v2/a/blobs/"+gone.String(), nil)
	r.want(404, "GET", abandoned, nil)
	if f := r.figures(); f.Quarantined.Count != 0 || f.Uploads.Count != 0 {
		t.Errorf("%d things in quarantine, %d uploads; want none", f.Quarantined.Count, f.Uploads.Count)
	}
}
