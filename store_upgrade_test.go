//go:build unix

// Databases of earlier versions become new ones, or stay as they are.

package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// toVersion1 is toVersion for the first.
func toVersion1(t testing.TB, dir string, more ...string) {
	t.Helper()
	toVersion(t, dir, 1, more...)
}

// toVersion makes the database in dir, which no registry has open, one of an
// earlier version with the same content, as far as that knows of it.
func toVersion(t testing.TB, dir string, version int, more ...string) {
	t.Helper()
	path := filepath.Join(dir, "berth.db")
	newer := path + ".newer"
	if err := os.Rename(path, newer); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // what is attached is so to one connection
	do := func(query string) {
		t.Helper()
		if _, err := db.Exec(query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	do(fmt.Sprintf("PRAGMA journal_mode=WAL;%sPRAGMA application_id=%d;PRAGMA user_version=%d", schema, applicationID, version))
	for _, upgrade := range upgrades[:version-1] {
		do(upgrade)
	}
	// What is copied is counted already.
	rows, err := db.Query(`SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'`)
	if err != nil {
		t.Fatal(err)
	}
	triggers, err := collectRows(rows, func(rows *sql.Rows) (trigger [2]string, err error) {
		err = rows.Scan(&trigger[0], &trigger[1])
		return trigger, err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, trigger := range triggers {
		do("DROP TRIGGER " + trigger[0])
	}
	do("ATTACH '" + newer + "' AS newer")
	rows, err = db.Query(`SELECT t.name, group_concat(c.name) FROM main.sqlite_schema t, pragma_table_info(t.name, 'main') c
		WHERE t.type = 'table' GROUP BY t.name`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := collectRows(rows, func(rows *sql.Rows) (table [2]string, err error) {
		err = rows.Scan(&table[0], &table[1])
		return table, err
	})
	if err != nil || len(tables) < 9 {
		t.Fatalf("the tables of version 1: %v (%v)", tables, err)
	}
	for _, x := range tables {
		do("DELETE FROM main." + x[0])
		do(fmt.Sprintf("INSERT INTO main.%s (%s) SELECT %[2]s FROM newer.%[1]s", x[0], x[1]))
	}
	do("DETACH newer")
	for _, trigger := range triggers {
		do(trigger[1])
	}
	for _, query := range more {
		do(query)
	}
	if err := os.Remove(newer); err != nil {
		t.Fatal(err)
	}
}

// readDatabase calls fn with a database that no registry has open.
func readDatabase(t testing.TB, dir string, fn func(*sql.DB)) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	fn(db)
}

func versionOf(t testing.TB, db *sql.DB) (version int) {
	t.Helper()
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		t.Fatal(err)
	}
	return version
}

// A lived has something of everything in it.
type lived struct {
	*registry
	image, untagged, signature image
	index, cache               string
	unused, deleted            digest.Digest
	session                    string
}

func liveWith(r *registry) *lived {
	r.freeze()
	l := &lived{registry: r}
	for _, repo := range []string{"home/app", "other"} {
		l.image = r.pushImage(repo, "1.0", "{}", "layer", "shared")
		l.untagged = r.pushImage(repo, "old", `{"old":1}`, "old layer", "shared")
		r.want(202, "DELETE", "/v2/"+repo+"/manifests/old", nil)
		l.index, _ = ociIndex(l.image.manifest)
		r.want(201, "PUT", "/v2/"+repo+"/manifests/multi", l.index, "Content-Type: "+typeOCIIndex)
		l.signature = newImage(typeOCIManifest, "x/sig", "x/sig", `,"subject":`+descriptorJSON(typeOCIIndex, l.index)+`,"annotations":{"by":"me"}`, "{}", "layer")
		r.want(201, "PUT", "/v2/"+repo+"/manifests/"+l.signature.digest.String(), l.signature.manifest, "Content-Type: "+typeOCIManifest)
		r.pushBlob(repo, "cache")
		l.cache = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, typeOCIIndex, descriptorJSON("x/layer", "cache"))
		r.want(201, "PUT", "/v2/"+repo+"/manifests/cache", l.cache, "Content-Type: "+typeOCIIndex)
	}
	l.unused = r.pushBlob("home/app", "unused")
	l.session = r.want(202, "PATCH", r.want(202, "POST", "/v2/home/app/blobs/uploads/", nil).location(), "begun ").location()
	l.deleted = r.pushBlob("home/app", "deleted")
	r.want(202, "DELETE", "/v2/home/app/blobs/"+l.deleted.String(), nil)
	r.moved.Add(int64(time.Hour))
	return l
}

// serves makes sure that everything is there, works, and goes in its time.
func (l *lived) serves() {
	l.t.Helper()
	for _, repo := range []string{"home/app", "other"} {
		l.want(200, "GET", "/v2/"+repo+"/manifests/1.0", nil).is(l.image.manifest)
		l.want(200, "GET", "/v2/"+repo+"/manifests/multi", nil).is(l.index)
		l.want(200, "GET", "/v2/"+repo+"/manifests/cache", nil).is(l.cache)
		l.want(200, "GET", "/v2/"+repo+"/manifests/"+l.untagged.digest.String(), nil).is(l.untagged.manifest)
		for _, content := range []string{"layer", "shared", "old layer", "cache", "{}"} {
			l.want(200, "GET", "/v2/"+repo+"/blobs/"+sum(content).String(), nil).is(content)
		}
		if re := l.want(200, "GET", "/v2/"+repo+"/referrers/"+sum(l.index).String(), nil); !strings.Contains(string(re.body), `"by":"me"`) {
			l.t.Errorf("referrers are %s", re.body)
		}
		l.want(200, "GET", "/v2/"+repo+"/tags/list", nil).is(`{"name":"` + repo + `","tags":["1.0","cache","multi"]}`)
	}
	l.want(201, "PUT", with(l.session, "digest="+sum("begun ended").String()), "ended")
	l.want(200, "GET", "/v2/home/app/blobs/"+sum("begun ended").String(), nil).is("begun ended")
	l.pass(0)
	if l.hasFile(l.deleted) {
		l.t.Error("the file of a blob deleted before the upgrade is still there")
	}
	l.pass(l.cfg.grace)
	if l.hasFile(l.unused) {
		l.t.Error("an unused blob outlives its grace")
	}
	l.pass(l.cfg.untaggedGrace)
	l.want(404, "GET", "/v2/other/manifests/"+l.untagged.digest.String(), nil)
	l.pass(l.cfg.grace + time.Minute)
	if l.hasFile(sum("old layer")) || !l.hasFile(sum("shared")) {
		l.t.Error("what the untagged image had alone is still there, or what others share is not")
	}
	l.want(202, "DELETE", "/v2/other/manifests/multi", nil)
	l.check()
}

func TestUpgrade(t *testing.T) {
	for version := 1; version < latestVersion; version++ {
		t.Run(fmt.Sprint("from version ", version), func(t *testing.T) { upgradeFrom(t, version) })
	}
}

func upgradeFrom(t *testing.T, version int) {
	r := startRegistry(t)
	l := liveWith(r)
	before := r.figures()
	r.stop()
	toVersion(t, r.cfg.dir, version)
	readDatabase(t, r.cfg.dir, func(db *sql.DB) {
		if v := versionOf(t, db); v != version {
			t.Fatalf("the database is of version %d, want %d: nothing is tested", v, version)
		}
	})
	r.moved.Store(0)
	r.start()
	r.check()
	after := r.figures()
	// Version 1 does not know the size of what is about to be removed.
	if before.Reclaimable.Count != 1 || after.Reclaimable.Count != 1 {
		t.Errorf("%+v is reclaimable after the upgrade, %+v before", after.Reclaimable, before.Reclaimable)
	}
	after.Reclaimable = before.Reclaimable
	after.Database, after.DiskFree, after.Uptime = before.Database, before.DiskFree, before.Uptime
	if before != after {
		t.Errorf("figures after the upgrade are\n%+v, before\n%+v", after, before)
	}
	r.freeze()
	l.serves()
	secret := r.newRobot("ci", "**", "pull")
	guarded("", "ann")(&r.cfg)
	r.want(200, "GET", "/v2/home/app/manifests/1.0", nil, basic("x", secret))
	r.restart() // the second start upgrades nothing
	if v := versionOf(t, r.st.readers); v != latestVersion {
		t.Errorf("the database is of version %d, want %d", v, latestVersion)
	}
}

// openFails opens a store and insists that it is refused, with these words.
func openFails(t testing.TB, cfg storeConfig, want string) {
	t.Helper()
	st, err := openStore(cfg)
	if err == nil {
		st.close()
		t.Fatalf("it is opened, and should be refused: %s", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("the refusal says %q, want %q", err, want)
	}
}

// An upgrade that cannot be completed has not begun.
func TestUpgradeThatFailsLeavesTheOldVersion(t *testing.T) {
	for name, x := range map[string]struct{ obstacle, away string }{
		"at its beginning": {"ALTER TABLE meta ADD COLUMN sparse INTEGER", "ALTER TABLE meta DROP COLUMN sparse"},
		"in its middle":    {"CREATE TABLE total (x)", "DROP TABLE total"},
		"at its end":       {"CREATE TRIGGER tag_delete AFTER DELETE ON tag BEGIN SELECT 1; END", "DROP TRIGGER tag_delete"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t)
			l := liveWith(r)
			r.stop()
			toVersion1(t, r.cfg.dir, x.obstacle)
			var before, after map[string][]string
			readDatabase(t, r.cfg.dir, func(db *sql.DB) { before = dump(t, db) })
			files := tree(t, filepath.Join(r.cfg.dir, "blobs"))
			for range 2 {
				out, err := newProcess(t.Context(), r.cfg.dir).CombinedOutput()
				if err == nil || !strings.Contains(string(out), "berth: upgrading the database to version 2: ") {
					t.Errorf("it ends with %v and says %q", err, out)
				}
			}
			readDatabase(t, r.cfg.dir, func(db *sql.DB) {
				after = dump(t, db)
				if v := versionOf(t, db); v != 1 {
					t.Errorf("the database is of version %d, want 1", v)
				}
			})
			if !reflect.DeepEqual(before, after) {
				t.Errorf("an upgrade that failed has made of\n%v\n%v", before, after)
			}
			if !reflect.DeepEqual(files, tree(t, filepath.Join(r.cfg.dir, "blobs"))) {
				t.Error("an upgrade that failed has changed files")
			}
			inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), x.away)
			r.moved.Store(0)
			r.start()
			r.freeze()
			l.serves()
		})
	}
}

// A store that does not open lets go of what it has opened.
func TestFailedUpgradeLetsGoOfTheDatabase(t *testing.T) {
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	r.stop()
	toVersion1(t, r.cfg.dir, "CREATE TABLE total (x)")
	openFails(t, r.cfg.storeConfig, "upgrading the database to version 2")
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), "DROP TABLE total")
	r.start()
	r.want(200, "GET", "/v2/a/manifests/x", nil)
}

// A process that dies in the middle of the upgrade does not matter.
func TestUpgradeThatIsKilled(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, "", "--data", dir)
	p.stop(t)
	toVersion1(t, dir, `INSERT INTO repository (name) VALUES ('big')`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
			INSERT INTO manifest (repository, digest, media_type, artifact_type, body) SELECT 1, printf('sha256:%064x', i), 'x', '', x'00' FROM n`,
		`INSERT INTO tag (repository, name, manifest) SELECT repository, 't' || id, id FROM manifest`)
	var before map[string][]string
	readDatabase(t, dir, func(db *sql.DB) { before = dump(t, db) })
	begun := time.Now()
	for delay, killed := 8*time.Millisecond, 0; ; delay *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), delay)
		served := tryProcess(ctx, dir)
		cancel()
		var version int
		readDatabase(t, dir, func(db *sql.DB) {
			if version = versionOf(t, db); version == 1 && !reflect.DeepEqual(dump(t, db), before) {
				t.Errorf("killed %v after its start, an upgrade has left changes", delay)
			}
		})
		if version == 1 {
			killed++
		}
		if served {
			t.Logf("killed %d times before the upgrade was done", killed)
			break
		}
		if time.Since(begun) > time.Minute {
			t.Fatal("it does not come to serve")
		}
	}
	readDatabase(t, dir, func(db *sql.DB) {
		var counted int
		err := db.QueryRow("SELECT manifests FROM repository").Scan(&counted)
		if v := versionOf(t, db); v != latestVersion || counted != 5000 || err != nil {
			t.Errorf("after all: version %d, %d manifests counted (%v)", v, counted, err)
		}
	})
}

// tryProcess starts a registry, kills it when ctx ends, and reports whether it
// served until then.
func tryProcess(ctx context.Context, dir string) (served bool) {
	p := newProcess(ctx, dir)
	out, err := p.StdoutPipe()
	if err != nil || p.Start() != nil {
		return false
	}
	line := make([]byte, 6)
	n, _ := out.Read(line)
	served = slices.Equal(line[:n], []byte("Berth "))
	p.Process.Kill()
	p.Wait()
	return served
}

func newProcess(ctx context.Context, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], "--data", dir, "--addr", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), serveVariable+"=")
	return cmd
}

// What was pushed before tags looked after themselves is as old as the upgrade, takes
// part in indexes, and can be undone like all else.
func TestTagsOfBeforeTheUpgrade(t *testing.T) {
	r := startRegistry(t)
	old := make(map[string]image)
	for _, tag := range []string{"1.0", "1.0-amd64", "2.0"} {
		old[tag] = r.pushImage("home/app", tag, `{"os":"linux","architecture":"amd64"}`, tag)
	}
	r.pass(100 * 24 * time.Hour)
	r.off()
	toVersion(t, r.cfg.dir, 3)
	writeRules(r.cfg.dir, `
[[index]]
repositories = ["home/*"]
from         = ["same-tag", "suffix"]
[[retain]]
repositories = ["home/*"]
younger      = "30d"
`)
	r.start()
	if _, _, err := r.st.retain(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/v2/home/app/tags/list", nil).is(`{"name":"home/app","tags":["1.0","1.0-amd64","2.0"]}`)

	two := r.pushImage("home/app", "2.0", `{"os":"linux","architecture":"arm64"}`, "two")
	if got := r.platforms("home/app", "2.0"); got["linux/amd64"] != old["2.0"].digest || got["linux/arm64"] != two.digest {
		t.Errorf("2.0 has %v", got)
	}
	three := r.pushImage("home/app", "3.0-arm64", `{"os":"linux","architecture":"arm64"}`, "three")
	r.pushImage("home/app", "1.0-arm64", `{"os":"linux","architecture":"arm64"}`, "three")
	r.want(200, "GET", "/v2/home/app/manifests/1.0", nil).is(old["1.0"].manifest) // a client has put it there
	if got := r.platforms("home/app", "3.0"); len(got) != 1 || got["linux/arm64"] != three.digest {
		t.Errorf("3.0 has %v", got)
	}
	r.command("tag", "home/app:1.0-amd64", "3.0-amd64")
	if got := r.platforms("home/app", "3.0"); len(got) != 2 || got["linux/amd64"] != old["1.0-amd64"].digest {
		t.Errorf("3.0 has %v", got)
	}
	if out, err := runOnceOn(t, r.st, "undo", "home/app:2.0"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	r.want(200, "GET", "/v2/home/app/manifests/2.0", nil).is(old["2.0"].manifest)

	r.pass(31 * 24 * time.Hour)
	if _, _, err := r.st.retain(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/v2/home/app/tags/list", nil).is(`{"name":"home/app","tags":[]}`)
}
