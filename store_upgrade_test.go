//go:build unix

// Databases of earlier versions become new ones, or stay as they are.

package main

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// upgradeVariable is an SQL script that makes the test binary a berth of the version after the
// latest: its last step.
const upgradeVariable = "BERTH_TEST_UPGRADE"

// nextVersion makes this process a berth of the next version, if it was started as one.
func nextVersion() {
	if step := os.Getenv(upgradeVariable); step != "" {
		upgrades = append(upgrades, step)
		latestVersion++
	}
}

// newerProcess is a berth of the next version, which the step leads to.
func newerProcess(t *testing.T, dir, step string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), itself(t), "--data", dir, "--addr", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), serveVariable+"=", upgradeVariable+"="+step)
	return cmd
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

// versionOf is the version of a database that no registry has open.
func versionOf(t testing.TB, dir string) (version int) {
	t.Helper()
	readDatabase(t, dir, func(db *sql.DB) {
		if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
			t.Fatal(err)
		}
	})
	return version
}

// stateOf is a database's version and all that is in it.
func stateOf(t testing.TB, dir string) (version int, tables map[string][]string) {
	t.Helper()
	readDatabase(t, dir, func(db *sql.DB) { tables = dump(t, db) })
	return versionOf(t, dir), tables
}

// stoppedVersion8 is a registry on a copy of the one of version 8, which it has not opened yet.
func stoppedVersion8(t testing.TB) *registry {
	t.Helper()
	r := startRegistry(t)
	r.off()
	if err := os.RemoveAll(r.cfg.dir); err != nil {
		t.Fatal(err)
	}
	unpackVersion8(t, r.cfg.dir)
	return r
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

// schemaTexts returns what a database consists of: the text of each table, index and trigger,
// but for comments, spaces and the quotes that SQLite puts around names.
func schemaTexts(t testing.TB, dir string) (objects []string) {
	t.Helper()
	comment, space := regexp.MustCompile(`--.*`), regexp.MustCompile(`\s+`)
	between := regexp.MustCompile(` ?([(),]) ?`)
	readDatabase(t, dir, func(db *sql.DB) {
		rows, err := db.Query(`SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name`)
		if err != nil {
			t.Fatal(err)
		}
		objects, err = collectRows(rows, func(rows *sql.Rows) (string, error) {
			var kind, name, table, text string
			err := rows.Scan(&kind, &name, &table, &text)
			text = space.ReplaceAllString(comment.ReplaceAllString(text, ""), " ")
			text = between.ReplaceAllString(strings.ReplaceAll(text, `"`, ""), "$1")
			return fmt.Sprint(kind, " ", name, " ", table, ": ", text), err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	return objects
}

// A database that was brought up to date has the tables, columns, indexes and triggers of a
// new one.
func TestUpgradedIsLikeNew(t *testing.T) {
	t.Parallel()
	fresh, upgraded := t.TempDir(), t.TempDir()
	unpackVersion8(t, upgraded)
	for _, dir := range []string{fresh, upgraded} {
		p := startProcess(t, "", "--data", dir)
		p.stop(t)
	}
	want, got := schemaTexts(t, fresh), schemaTexts(t, upgraded)
	if len(want) < 40 {
		t.Fatalf("there are only %d things in the schema", len(want))
	}
	for _, x := range want {
		if !slices.Contains(got, x) {
			t.Errorf("not in the upgraded one: %s", x)
		}
	}
	for _, x := range got {
		if !slices.Contains(want, x) {
			t.Errorf("not in a new one: %s", x)
		}
	}
	if a, b := versionOf(t, fresh), versionOf(t, upgraded); a != latestVersion || b != latestVersion {
		t.Errorf("the versions are %d and %d, want %d", a, b, latestVersion)
	}
}

// The versions of before the first release are not brought up to date.
func TestTooOldDatabasesAreRefused(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	r.snapshotsAfter(time.Hour)
	r.off()
	db := filepath.Join(r.cfg.dir, "berth.db")
	for version := range oldestVersion {
		inDatabase(t, db, fmt.Sprint("PRAGMA user_version = ", version))
		before := tree(t, r.cfg.dir)
		say := fmt.Sprintf("is of version %d, and this berth opens versions %d to %d", version, oldestVersion, latestVersion)
		openFails(t, r.cfg.storeConfig, "the database "+db+" "+say)
		if out, err := r.runOn("restore"); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("restore (%v) says %s", err, out)
		}
		after := tree(t, r.cfg.dir)
		for _, name := range []string{"berth.db", "berth.db-wal"} {
			if path := filepath.Join(r.cfg.dir, name); before[path] != after[path] {
				t.Errorf("of version %d %s has changed", version, name)
			}
		}
	}
	inDatabase(t, db, fmt.Sprint("PRAGMA user_version = ", latestVersion))

	// A snapshot is not taken for damaged.
	snapshots, err := filepath.Glob(filepath.Join(r.cfg.dir, "snapshots", "*.db"))
	if err != nil || len(snapshots) != 1 {
		t.Fatalf("there are the snapshots %v (%v)", snapshots, err)
	}
	inDatabase(t, snapshots[0], "PRAGMA user_version = 7")
	if err := os.Rename(db, db+".away"); err != nil {
		t.Fatal(err)
	}
	out, err := r.runOn("restore")
	if err == nil || !strings.Contains(out, filepath.Base(snapshots[0])+" cannot be used: ") || !strings.Contains(out, "is of version 7") {
		t.Errorf("restore (%v) says %s", err, out)
	}
	if err := os.Rename(db+".away", db); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.wantImage("a", "x", im)
}

// A berth of a later version brings the database up to date, and this one refuses it then.
func TestNextVersion(t *testing.T) {
	t.Parallel()
	latest := startRegistry(t)
	latest.off()
	for _, r := range []*registry{latest, stoppedVersion8(t)} {
		name := fmt.Sprint("from version ", versionOf(t, r.cfg.dir))
		if !tryProcess(newerProcess(t, r.cfg.dir, `ALTER TABLE repository ADD COLUMN colour TEXT; UPDATE repository SET colour = 'blue'`)) {
			t.Fatalf("%s: it does not serve", name)
		}
		if v := versionOf(t, r.cfg.dir); v != latestVersion+1 {
			t.Errorf("%s: the database is of version %d, want %d", name, v, latestVersion+1)
		}
		openFails(t, r.cfg.storeConfig, fmt.Sprintf("berth.db is of version %d, and this berth knows versions up to %d: use a newer berth", latestVersion+1, latestVersion))
		inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), `ALTER TABLE repository DROP COLUMN colour`, fmt.Sprint("PRAGMA user_version = ", latestVersion))
		r.start()
	}
}

// An upgrade that cannot be completed has not begun.
func TestUpgradeThatFailsLeavesTheOldVersion(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]string{
		"at its beginning": `ALTER TABLE meta ADD COLUMN sparse INTEGER; UPDATE repository SET name = 'b'`,
		"in its middle":    `CREATE TABLE extra (x); DROP TRIGGER tag_insert; UPDATE repository SET name = 'b'; CREATE TABLE total (x); DELETE FROM tag`,
		"at its end":       `CREATE TABLE extra (x); DELETE FROM tag; INSERT INTO tag SELECT * FROM missing`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t)
			im := r.pushImage("a", "x", "{}", "layer")
			r.off()
			version, before := stateOf(t, r.cfg.dir)
			schema := schemaTexts(t, r.cfg.dir)
			files := tree(t, filepath.Join(r.cfg.dir, "blobs"))
			for range 2 {
				out, err := newerProcess(t, r.cfg.dir, step).CombinedOutput()
				if err == nil || !strings.Contains(string(out), fmt.Sprintf("berth: upgrading the database to version %d: ", latestVersion+1)) {
					t.Errorf("it ends with %v and says %q", err, out)
				}
			}
			v, after := stateOf(t, r.cfg.dir)
			if v != version || !reflect.DeepEqual(before, after) || !slices.Equal(schema, schemaTexts(t, r.cfg.dir)) {
				t.Errorf("an upgrade that failed has made of version %d\n%v\nversion %d\n%v", version, before, v, after)
			}
			if !reflect.DeepEqual(files, tree(t, filepath.Join(r.cfg.dir, "blobs"))) {
				t.Error("an upgrade that failed has changed files")
			}
			r.start()
			r.wantImage("a", "x", im)
		})
	}
}

// Of several steps those that could be done are done.
func TestUpgradeThatFailsGoesOnLater(t *testing.T) {
	t.Parallel()
	r := stoppedVersion8(t)
	if out, err := newerProcess(t, r.cfg.dir, "CREATE TABLE total (x)").CombinedOutput(); err == nil {
		t.Errorf("it does not fail: %s", out)
	}
	if v := versionOf(t, r.cfg.dir); v != latestVersion {
		t.Errorf("the database is of version %d, want %d", v, latestVersion)
	}
	r.start()
	r.repairVersion8()
}

// A store that does not open lets go of what it has opened.
func TestFailedUpgradeLetsGoOfTheDatabase(t *testing.T) {
	t.Parallel()
	r := stoppedVersion8(t)
	db := filepath.Join(r.cfg.dir, "berth.db")
	inDatabase(t, db, "ALTER TABLE history ADD COLUMN kind TEXT")
	openFails(t, r.cfg.storeConfig, "upgrading the database to version 9")
	inDatabase(t, db, "ALTER TABLE history DROP COLUMN kind")
	r.start()
	r.repairVersion8()
}

// A process that dies in the middle of the upgrade does not matter.
func TestUpgradeThatIsKilled(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	r.off()
	version, before := stateOf(t, r.cfg.dir)
	// More than SQLite keeps in memory, and then no end.
	p := newerProcess(t, r.cfg.dir, `
		UPDATE repository SET name = 'b';
		CREATE TABLE ballast (x BLOB);
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= 64) INSERT INTO ballast SELECT randomblob(1 << 20) FROM n;
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO ballast SELECT count(*) FROM n`)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	for written := false; !written; {
		select {
		case err := <-ended:
			t.Fatalf("it has ended: %v", err)
		case <-time.After(time.Millisecond):
			info, err := os.Stat(filepath.Join(r.cfg.dir, "berth.db-wal"))
			written = err == nil && info.Size() > 8<<20
		}
	}
	p.Process.Kill()
	<-ended
	v, after := stateOf(t, r.cfg.dir)
	if v != version || !reflect.DeepEqual(before, after) {
		t.Errorf("an upgrade that was killed has made of version %d\n%v\nversion %d\n%v", version, before, v, after)
	}
	r.start()
	r.wantImage("a", "x", im)
}

// tryProcess starts a registry, ends it, and reports whether it has served.
func tryProcess(p *exec.Cmd) (served bool) {
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
