//go:build unix

package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// The registry in testdata/version8.tar.gz was written by the last build whose database is
// of version 8, through its API and its commands, and ended with kill -9. version8.log and
// version8.json are what that build's `berth log --limit 0` says of it. In this order it has
//
//   - pushed by anybody: home/app:1.0 (Docker schema 2), latest (pushed for amd64, then for
//     arm64), all (an index of both), a signature's tag of latest, an artifact with latest as its
//     subject, moved; home/app:stable by `berth tag`; home/multi:1 for two platforms under
//     [[index]] same-tag; other:1, with a mounted layer, and beside it a blob by sha512;
//   - deleted: home/app:gone by `berth rm`, home/app:deleted by its digest; home/app:stable by
//     `berth rm`, and undone; trial/gone whole; trial/again, and undone under the name
//     trial/back; trial/twice, and pushed again;
//   - other:damaged, whose layer was cut to 100 bytes and then asked for;
//   - after a restart: the user ann, the robot ci; moved pushed by ann, nightly by ci;
//     an open upload of ann's with 6 bytes; home/app:last pushed by ann a second before the end.
//
// The small blobs since the restart are not synced; the file of one, "layer fourteen", was
// emptied as by a power cut. berth.db-shm, berth.lock, berth.sock and reserve were left out.
const (
	version8Robot   = "berth_mdoof3fm_m0BBC0by7kjN4S7NOEaQG8j4mzWST9yfuyM57FCH2Gc"
	version8Last    = "sha256:e2c4003c647d0a1e1e3d167b04c37a79b3148340fa14a400479c72b5c749b22c" // home/app:last
	version8Session = "/v2/home/app/blobs/uploads/08435dc4-76a4-4bc5-ba19-09fb85253990"
)

// unpackVersion8 puts the registry of version 8 into an empty directory.
func unpackVersion8(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open("testdata/version8.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o700)
		} else {
			var body []byte
			if body, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, body, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// onVersion8 starts a registry on a copy of the one of version 8. The queries are run on its
// database before.
func onVersion8(t testing.TB, queries ...string) *registry {
	t.Helper()
	return startRegistry(t, func(c *config) {
		unpackVersion8(t, c.dir)
		if len(queries) > 0 {
			inDatabase(t, filepath.Join(c.dir, "berth.db"), queries...)
		}
	})
}

func TestVersion8(t *testing.T) {
	t.Parallel()
	r := onVersion8(t)
	r.freeze()
	ann, ci := basic("ann", "ann-secret"), basic("ci", version8Robot)
	get := func(path string) *reply {
		t.Helper()
		return r.want(200, "GET", path, nil, ann)
	}

	// What was said of it is said still.
	golden := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if out, err := runOnceOn(t, r.st, "log", "--limit", "0", "--json"); err != nil || out != golden("testdata/version8.json") {
		t.Errorf("berth log --json (%v) says\n%s", err, out)
	}
	times := regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC`)
	if out, err := runOnceOn(t, r.st, "log", "--limit", "0"); err != nil ||
		times.ReplaceAllString(out, "-----------------------") != golden("testdata/version8.log") {
		t.Errorf("berth log (%v) says\n%s", err, out)
	}

	// Tags, and what they point to, to the last byte.
	get("/v2/_catalog").is(`{"repositories":["home/app","home/multi","other","trial/back","trial/twice"]}`)
	latest := get("/v2/home/app/manifests/latest").has("Content-Type", typeOCIManifest)
	signature := strings.Replace(digest.FromBytes(latest.body).String(), ":", "-", 1) + ".sig"
	get("/v2/home/app/tags/list").is(`{"name":"home/app","tags":["1.0","all","last","latest","moved","nightly","` + signature + `","stable"]}`)
	for tag, mediaType := range map[string]string{"1.0": typeDockerManifest, "all": typeOCIIndex, "last": typeOCIManifest, "moved": typeOCIManifest,
		"nightly": typeOCIManifest, signature: typeOCIManifest, "stable": typeDockerManifest} {
		re := get("/v2/home/app/manifests/"+tag).has("Content-Type", mediaType)
		m, err := parseManifest(re.body, mediaType, digest.FromBytes(re.body))
		if err != nil {
			t.Fatal(err)
		}
		re.has("Docker-Content-Digest", m.digest.String())
		for _, d := range m.blobs {
			if b := get("/v2/home/app/blobs/" + d.String()); digest.FromBytes(b.body) != d {
				t.Errorf("%s has other bytes: %q", d, b.body)
			}
		}
		for _, d := range m.children {
			get("/v2/home/app/manifests/" + d.String())
		}
	}
	get("/v2/home/app/blobs/" + sum("layer fourteen").String()).is("layer fourteen")
	if re := get("/v2/home/app/referrers/" + digest.FromBytes(latest.body).String()); !strings.Contains(string(re.body), `"annotations":{"by":"fixture"}`) ||
		!strings.Contains(string(re.body), `"artifactType":"application/spdx+json"`) {
		t.Errorf("the referrers are %s", re.body)
	}
	var multi struct {
		Manifests []struct {
			Platform struct{ Architecture string }
		}
	}
	if err := json.Unmarshal(get("/v2/home/multi/manifests/1").has("Content-Type", typeOCIIndex).body, &multi); err != nil || len(multi.Manifests) != 2 {
		t.Errorf("home/multi:1 has %+v (%v)", multi, err)
	}
	get("/v2/other/blobs/" + digest.SHA512.FromString("by sha512").String()).is("by sha512")

	// Who may do what.
	r.want(401, "GET", "/v2/home/app/manifests/1.0", nil)
	r.want(200, "GET", "/v2/home/app/manifests/1.0", nil, ci)
	r.want(201, "POST", "/v2/home/new/blobs/uploads/?digest="+sum("new").String(), "new", ci)
	if re := r.do("POST", "/v2/other/blobs/uploads/", nil, ci); re.status != 403 {
		t.Errorf("the robot pushes where it may not: %d", re.status)
	}

	// What was begun goes on, what was damaged is repaired, and new things are taken.
	r.want(202, "PATCH", version8Session, "ended", ann)
	r.want(201, "PUT", with(version8Session, "digest="+sum("begun ended").String()), nil, ann)
	layer := strings.Repeat("x", 70000)
	r.want(404, "GET", "/v2/other/blobs/"+sum(layer).String(), nil, ann)
	r.repairVersion8()
	get("/v2/other/blobs/" + sum(layer).String()).is(layer)
	im := r.pushAs(ann, "home/app", "new", `{"n":15}`)
	get("/v2/home/app/manifests/new").is(im.manifest)

	// The way back, from every kind of change.
	r.want(404, "GET", "/v2/trial/gone/manifests/1", nil, ann)
	r.undo(200, "trial/gone", 18, `"new":"trial/gone"`, ann)
	get("/v2/trial/gone/manifests/1")
	r.undo(409, "trial/twice", 23, "there is a repository trial/twice again", ann)
	r.undo(200, "home/app", 14, "", ann)
	get("/v2/home/app/manifests/deleted")
	r.undo(200, "home/app", 12, "", ann)
	get("/v2/home/app/manifests/gone")
	r.undo(200, "home/app", 3, "", ann)
	get("/v2/home/app/manifests/latest").has("Docker-Content-Digest", "sha256:63d6f96ca990ddae636f0d75c57390b83c1fc8a03bba0e86b0093209e8d7c7cd")
	// stable was deleted and that was undone: what is left to undo is that it was made.
	if out, err := runOnceOn(t, r.st, "undo", "home/app:stable"); err == nil || !strings.HasSuffix(err.Error(), "): berth undo 7") {
		t.Errorf("berth undo home/app:stable (%v) says %s, want change 7 named", err, out)
	}
	if out, err := runOnceOn(t, r.st, "undo", "7"); err != nil || !strings.Contains(out, "home/app:stable gone, was sha256:582948ee9253") {
		t.Errorf("berth undo 7 (%v) says %s", err, out)
	}
	// trial/back was restored under that name; to undo it is to hide it again.
	r.undo(200, "trial/back", 21, "", ann)
	r.want(404, "GET", "/v2/trial/back/manifests/1", nil, ann)
	r.undo(200, "trial/back", r.history("trial/back", "n=1", ann)[0].Change, "", ann)
	get("/v2/trial/back/manifests/1")

	// All of it goes in its time.
	r.want(202, "DELETE", "/v2/trial/gone/_berth/repository", nil, ann)
	deleted := r.history("trial/gone", "n=1", ann)[0].Change
	r.pass(r.cfg.untaggedGrace + r.cfg.grace + time.Hour)
	r.pass(r.cfg.grace + time.Hour)
	r.undo(409, "trial/gone", deleted, "grace period is over", ann)
	if r.hasFile(sum("layer eight")) || r.hasFile(sum("layer ten")) || !r.hasFile(sum("layer nine")) {
		t.Error("deleted repositories are not collected, or one that was restored is")
	}
	r.restart()
	get("/v2/home/app/manifests/new").is(im.manifest)
}

// repairVersion8 pushes the blob again that was damaged, and so makes it whole.
func (r *registry) repairVersion8() {
	r.t.Helper()
	layer := strings.Repeat("x", 70000)
	r.want(201, "POST", "/v2/other/blobs/uploads/?digest="+sum(layer).String(), layer, basic("ann", "ann-secret"))
}

// A snapshot that the earlier build has made is gone back to, and what is newer comes out of
// the earlier build's damaged database.
func TestVersion8IsRestored(t *testing.T) {
	t.Parallel()
	r := stoppedVersion8(t)
	db := filepath.Join(r.cfg.dir, "berth.db")
	inDatabase(t, db, "PRAGMA wal_checkpoint(TRUNCATE)")
	snapshot := filepath.Join(r.cfg.dir, "snapshots", "berth-000000000002.db")
	if err := os.Mkdir(filepath.Dir(snapshot), 0o700); err != nil {
		t.Fatal(err)
	}
	inDatabase(t, db, "VACUUM INTO '"+snapshot+"'")
	inDatabase(t, snapshot, `DELETE FROM tag WHERE name IN ('last', 'stable')`,
		`UPDATE manifest SET loose = 1 WHERE digest = '`+version8Last+`'`, `UPDATE meta SET uptime = 2`)
	inDatabase(t, db, `CREATE TABLE ballast (x)`, `INSERT INTO ballast VALUES (zeroblob(100000))`, `PRAGMA writable_schema = 1`,
		`DELETE FROM sqlite_schema WHERE name = 'ballast'`) // its pages are lost
	inDatabase(t, db, "PRAGMA wal_checkpoint(TRUNCATE)")
	out, err := r.runOn("restore")
	if err != nil || !strings.Contains(out, "0 manifests and 2 tags put back") {
		t.Fatalf("%v: %s", err, out)
	}
	r.start()
	r.want(200, "GET", "/v2/home/app/manifests/last", nil, basic("ann", "ann-secret"))
	r.want(200, "GET", "/v2/home/app/manifests/stable", nil, basic("ann", "ann-secret"))
	r.repairVersion8()
}

// A backup that the earlier build has made is gone on with.
func TestVersion8IsBackedUp(t *testing.T) {
	t.Parallel()
	r := stoppedVersion8(t)
	dest := filepath.Join(t.TempDir(), "backup")
	unpackVersion8(t, dest)
	if err := os.WriteFile(filepath.Join(dest, backupMark), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.repairVersion8()
	if out, err := r.runOnStopped("backup", dest); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if v := versionOf(t, dest); v != latestVersion {
		t.Errorf("the backup is of version %d, want %d", v, latestVersion)
	}
}
