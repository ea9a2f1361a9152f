// Copies of the registry: snapshots, backups, and the way back.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// snapshotsOn lets time pass as the loop in snapshots would, and returns how
// many there are then.
func (r *registry) snapshotsAfter(d time.Duration) int {
	r.t.Helper()
	for end := r.moved.Load() + int64(d); r.moved.Load() < end; r.moved.Add(int64(time.Minute)) {
		if r.st.snapshots.due() == 0 {
			if err := r.st.snapshots.take(context.Background()); err != nil {
				r.t.Errorf("snapshot: %v", err)
			}
		}
	}
	return len(r.st.listSnapshots())
}

func TestSnapshotsAreMadeAfterChangesOnceADay(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	if n := r.snapshotsAfter(48 * time.Hour); n != 0 {
		t.Errorf("%d snapshots of an empty registry", n)
	}
	r.pushImage("a", "x", "{}", "layer")
	if n := r.snapshotsAfter(4 * time.Minute); n != 0 {
		t.Errorf("%d snapshots, in the middle of a push perhaps", n)
	}
	if n := r.snapshotsAfter(10 * time.Minute); n != 1 {
		t.Errorf("%d snapshots after the first push, want 1", n)
	}
	first := r.st.listSnapshots()[0]
	if _, err := verifyDatabase(t.Context(), first.path); err != nil {
		t.Error(err)
	}
	// Idle days and restarts make none; many changes on one day make one.
	r.snapshotsAfter(50 * time.Hour)
	r.restart()
	if n := r.snapshotsAfter(50 * time.Hour); n != 1 {
		t.Errorf("%d snapshots, want still 1", n)
	}
	for i := range 20 {
		r.pushImage("a", fmt.Sprint(i), "{}", "layer")
		r.snapshotsAfter(time.Hour)
	}
	if n := len(r.st.listSnapshots()); n != 2 {
		t.Errorf("%d snapshots, want one more", n)
	}
	// A change that no snapshot has yet is remembered over a restart.
	r.restart()
	if n := r.snapshotsAfter(25 * time.Hour); n != 3 {
		t.Errorf("%d snapshots, want one of what came last", n)
	}
	for i := range 5 {
		r.pushImage("b", fmt.Sprint(i), "{}", "layer")
		r.snapshotsAfter(25 * time.Hour)
	}
	list := r.st.listSnapshots()
	if len(list) != generations {
		t.Errorf("%d snapshots are kept, want %d", len(list), generations)
	}
	f, err := verifyDatabase(t.Context(), list[0].path)
	if err != nil || f.tags != 26 {
		t.Errorf("the newest has %d tags (%v), want 26", f.tags, err)
	}
	if exists(first.path) {
		t.Error("the oldest is still there")
	}
}

// runOn runs a command of the program on the registry's directory.
func (r *registry) runOn(args ...string) (string, error) {
	r.t.Helper()
	var out, log strings.Builder
	err := run(r.t.Context(), append(args, "--data", r.cfg.dir), noEnv, strings.NewReader(""), &out, &log)
	return out.String(), err
}

// off stops the server without its check, for what is done to the directory.
func (r *registry) off() {
	r.t.Helper()
	r.stop()
	r.moved.Store(0)
}

// What may happen to berth.db, and whether what it still had is lost.
var losses = []struct {
	name     string
	do       func(db string) error
	readable bool
}{
	{"removed", func(db string) error {
		return errors.Join(os.Remove(db), removeIfThere(db+"-wal"), removeIfThere(db+"-shm"))
	}, false},
	{"emptied", func(db string) error { return os.Truncate(db, 0) }, false},
	{"zeros", func(db string) error {
		info, err := os.Stat(db)
		if err != nil {
			return err
		}
		return os.WriteFile(db, make([]byte, info.Size()), 0o600)
	}, false},
	{"first page", func(db string) error { return overwrite(db, 0, 4096) }, false},
	{"cut in half", func(db string) error {
		info, err := os.Stat(db)
		if err != nil {
			return err
		}
		return os.Truncate(db, info.Size()/2/4096*4096)
	}, false},
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// overwrite puts noise over a part of a file.
func overwrite(path string, at int64, n int) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(noise(7, n)), at)
	return errors.Join(err, f.Close())
}

func TestRestoreGoesBackToTheSnapshot(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, loss := range losses {
		t.Run(loss.name, func(t *testing.T) {
			r := startRegistry(t)
			old := r.pushImage("home/app", "1", "{}", "layer")
			gone := r.pushImage("home/app", "gone", "{}", noise(3, 5000))
			r.snapshotsAfter(time.Hour)
			later := r.pushImage("home/app", "2", "{}", "later")
			r.want(202, "DELETE", "/v2/home/app/manifests/"+gone.digest.String(), nil)
			r.pass(r.cfg.untaggedGrace + time.Minute)
			r.pass(r.cfg.grace + time.Minute)
			r.off()
			if err := loss.do(filepath.Join(r.cfg.dir, "berth.db")); err != nil {
				t.Fatal(err)
			}
			if _, err := openStore(r.cfg.storeConfig); err == nil && loss.name != "cut in half" {
				t.Fatal("it starts")
			} else if err != nil && !strings.Contains(err.Error(), "berth restore --data "+r.cfg.dir) {
				t.Errorf("the refusal does not name the command: %v", err)
			}
			out, err := r.runOn("restore")
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, want := range []string{"going back to the snapshot", "PUSH AGAIN: blob " + gone.layers[0].String() + ", needed by home/app:gone", "restored: "} {
				if !strings.Contains(out, want) {
					t.Errorf("restore does not say %q:\n%s", want, out)
				}
			}
			r.start()
			r.want(200, "GET", "/v2/home/app/manifests/1", nil).is(old.manifest)
			r.want(200, "GET", "/v2/home/app/blobs/"+old.layers[0].String(), nil).is("layer")
			r.want(404, "HEAD", "/v2/home/app/blobs/"+gone.layers[0].String(), nil)
			if re := r.do("GET", "/v2/home/app/manifests/2", nil); re.status == 404 {
				if !strings.Contains(out, "without an image that is known") {
					t.Errorf("the image that came later is lost, and restore does not say so:\n%s", out)
				}
			} else {
				re.is(later.manifest)
			}
			// Pushing again heals, and what nobody missed goes in time.
			r.pushBlob("home/app", noise(3, 5000))
			r.pushImage("home/app", "2", "{}", "later")
			r.scrub()
			r.check()
			if _, err := r.runOnStopped("restore"); err == nil || !strings.Contains(err.Error(), "nothing to restore") {
				t.Errorf("restoring a whole registry: %v", err)
			}
		})
	}
}

func (r *registry) runOnStopped(args ...string) (out string, err error) {
	r.t.Helper()
	r.off()
	out, err = r.runOn(args...)
	r.start()
	return out, err
}

// Damage in the middle, as a rotten sector makes it: nearly all can be read,
// and comes back, also what is newer than the snapshot.
func TestRestoreSalvagesWhatIsNewer(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	for i := range 100 {
		r.pushImage("old", fmt.Sprint(i), "{}", "layer", fmt.Sprint("old ", i))
	}
	r.snapshotsAfter(time.Hour)
	var newer []image
	for i := range 100 {
		newer = append(newer, r.pushImage("new", fmt.Sprint(i), "{}", "layer", fmt.Sprint("new ", i)))
	}
	index, indexDigest := ociIndex(newer[0].manifest, newer[1].manifest)
	r.want(201, "PUT", "/v2/new/manifests/index", index, "Content-Type: "+typeOCIIndex)
	r.want(201, "PUT", "/v2/old/manifests/0", ociImage("{}", "layer").manifest, "Content-Type: "+typeOCIManifest)
	r.off()
	db := filepath.Join(r.cfg.dir, "berth.db")
	body, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(body, []byte(newer[50].manifest))
	if at < 0 {
		t.Fatal("the manifest is not to be found in the database")
	}
	if err := overwrite(db, int64(at/4096*4096), 4096); err != nil {
		t.Fatal(err)
	}
	out, err := r.runOn("restore")
	if err != nil || !strings.Contains(out, "database is damaged") || !strings.Contains(out, "kept as berth.db.damaged-1") {
		t.Fatalf("%v\n%s", err, out)
	}
	r.start()
	back := 0
	for i, im := range newer {
		if re := r.do("GET", fmt.Sprint("/v2/new/manifests/", i), nil); re.status == 200 {
			re.is(im.manifest)
			r.want(200, "GET", "/v2/new/blobs/"+im.layers[1].String(), nil).is(fmt.Sprint("new ", i))
			back++
		} else if i < 45 {
			t.Errorf("image %d is %d", i, re.status)
		}
	}
	if back < 80 {
		t.Errorf("%d of 100 newer images are back\n%s", back, out)
	}
	r.want(200, "GET", "/v2/new/manifests/index", nil).has("Docker-Content-Digest", indexDigest.String())
	r.want(200, "GET", "/v2/old/manifests/0", nil).is(ociImage("{}", "layer").manifest)
	for i := 1; i < 100; i++ {
		r.want(200, "GET", fmt.Sprint("/v2/old/manifests/", i), nil)
	}
	if !strings.Contains(out, "could not be read completely") {
		t.Errorf("restore claims to have read all:\n%s", out)
	}
	r.scrub() // what is left of the others goes
}

// Where a restore is cut short does not matter: the registry does not start
// until it has been run to its end.
func TestRestoreThatWasCutShort(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, step := range []struct {
		name string
		do   func(dir string) error
	}{
		{"marked", func(dir string) error { return nil }},
		{"database moved", func(dir string) error {
			return os.Rename(filepath.Join(dir, "berth.db"), filepath.Join(dir, "berth.db.damaged-1"))
		}},
		{"copied", func(dir string) error {
			list := newDataDir(dirConfig{dir: dir}).listSnapshots()
			body, err := os.ReadFile(list[0].path)
			return errors.Join(err, os.Rename(filepath.Join(dir, "berth.db"), filepath.Join(dir, "berth.db.damaged-1")),
				os.WriteFile(filepath.Join(dir, "berth.db"), body, 0o600))
		}},
	} {
		t.Run(step.name, func(t *testing.T) {
			r := startRegistry(t)
			r.pushImage("a", "x", "{}", "layer")
			r.snapshotsAfter(time.Hour)
			later := r.pushImage("a", "y", "{}", "later")
			r.off()
			db := filepath.Join(r.cfg.dir, "berth.db")
			if err := errors.Join(overwrite(db, 50, 8), writeSynced(filepath.Join(r.cfg.dir, restoringMark), strings.NewReader("berth.db.damaged-1\n")), step.do(r.cfg.dir)); err != nil {
				t.Fatal(err)
			}
			if _, err := openStore(r.cfg.storeConfig); err == nil || !strings.Contains(err.Error(), "berth restore") {
				t.Errorf("it starts in the middle of a restore: %v", err)
			}
			if out, err := r.runOn("restore"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			r.start()
			r.want(200, "GET", "/v2/a/manifests/x", nil)
			if re := r.do("GET", "/v2/a/manifests/y", nil); re.status == 200 {
				re.is(later.manifest)
			}
			r.scrub()
		})
	}
}

func TestRestoreFallsBackToAnOlderSnapshot(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	first := r.pushImage("a", "x", "{}", "layer")
	r.snapshotsAfter(time.Hour)
	r.pushImage("a", "y", "{}", "later")
	r.snapshotsAfter(25 * time.Hour)
	r.off()
	list := newDataDir(r.cfg.dirConfig).listSnapshots()
	if len(list) != 2 {
		t.Fatalf("%d snapshots, want 2", len(list))
	}
	if err := errors.Join(overwrite(list[0].path, 0, 4096), os.Remove(filepath.Join(r.cfg.dir, "berth.db"))); err != nil {
		t.Fatal(err)
	}
	out, err := r.runOn("restore")
	if err != nil || !strings.Contains(out, "is damaged too") || !strings.Contains(out, filepath.Base(list[1].path)) {
		t.Fatalf("%v\n%s", err, out)
	}
	r.start()
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(first.manifest)
	r.scrub()
}

// backup runs `berth backup` as a running server does.
func (r *registry) backup(dest string) (string, error) {
	r.t.Helper()
	return runOnceOn(r.t, r.st, "backup", dest)
}

// serveCopy serves another directory as the same kind of registry.
func (r *registry) serveCopy(dir string) *registry {
	r.t.Helper()
	return startRegistry(r.t, func(c *config) { c.dir = dir })
}

func TestBackupIsARegistry(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	old := r.pushImage("home/app", "1", "{}", "shared", "old")
	r.pushImage("home/app", "2", "{}", "shared", "new")
	r.want(202, "POST", "/v2/home/app/blobs/uploads/", nil) // is not part of it
	dest := filepath.Join(t.TempDir(), "usb", "backup")
	out, err := r.backup(dest)
	if err != nil || !strings.Contains(out, "4 blobs") {
		t.Fatalf("%v\n%s", err, out)
	}
	// Only what is new is brought the second time, and what is gone goes.
	r.want(202, "DELETE", "/v2/home/app/manifests/"+old.digest.String(), nil)
	r.pass(r.cfg.untaggedGrace + time.Minute)
	r.pass(r.cfg.grace + time.Minute)
	third := r.pushImage("home/app", "3", "{}", "shared", "third")
	out, err = r.backup(dest)
	if err != nil || !strings.Contains(out, "3 blobs there already, 1 file removed") {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := runOnce(t, "check", "--deep", "--data", dest); err != nil {
		t.Errorf("check: %v\n%s", err, out)
	}
	out, err = r.backup(dest)
	if err != nil || !strings.Contains(out, "4 blobs there already, 0 files removed") {
		t.Errorf("%v\n%s", err, out)
	}
	c := r.serveCopy(dest)
	c.want(200, "GET", "/v2/home/app/manifests/3", nil).is(third.manifest)
	c.want(200, "GET", "/v2/home/app/blobs/"+third.layers[1].String(), nil).is("third")
	c.want(404, "GET", "/v2/home/app/manifests/1", nil)
	// What happens to one is nothing to the other.
	c.want(202, "DELETE", "/v2/home/app/manifests/"+third.digest.String(), nil)
	c.pass(r.cfg.grace + time.Minute)
	c.stop()
	r.want(200, "GET", "/v2/home/app/blobs/"+third.layers[1].String(), nil).is("third")
}

func TestBackupRefusesWhatItWouldDestroy(t *testing.T) {
	slow(t)
	t.Parallel()
	r, other := startRegistry(t), startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	other.pushImage("b", "x", "{}", "other")
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "thesis.txt"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	served, foreign := t.TempDir(), t.TempDir()
	if _, err := r.backup(served); err != nil {
		t.Fatal(err)
	}
	if _, err := other.backup(foreign); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := run(ctx, []string{"--addr", "127.0.0.1:0", "--data", served}, noEnv, strings.NewReader(""), new(strings.Builder), new(strings.Builder)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dest, say string }{
		{full, "neither empty nor a backup"},
		{served, "served since"},
		{foreign, "another registry"},
		{other.cfg.dir, "in use"},
		{r.cfg.dir, "cannot be in"},
		{filepath.Join(r.cfg.dir, "backup"), "cannot be in"},
		{filepath.Dir(r.cfg.dir), "cannot be in"},
	} {
		if out, err := r.backup(c.dest); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("backup to %s: %v, want %q\n%s", c.dest, err, c.say, out)
		}
	}
	if text, err := os.ReadFile(filepath.Join(full, "thesis.txt")); err != nil || string(text) != "mine" {
		t.Error("a stranger's file has changed")
	}
	if _, err := runOnce(t, "backup"); err == nil || !strings.Contains(err.Error(), "usage: berth backup DEST") {
		t.Errorf("backup to nowhere: %v", err)
	}
}

// A backup that ends in the middle leaves the earlier one as it was.
func TestBackupThatIsCutShort(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	dest := t.TempDir()
	if _, err := r.backup(dest); err != nil {
		t.Fatal(err)
	}
	r.pushImage("a", "y", "{}", "second")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	cfg, err := parseConfig("backup", []string{dest}, noEnv, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if err := backupCommand(ctx, r.st, cfg.options, newConsole(new(strings.Builder), false)); !errors.Is(err, context.Canceled) {
		t.Errorf("backup = %v, want to be cancelled", err)
	}
	out, err := runOnce(t, "check", "--deep", "--data", dest)
	if err != nil || !strings.Contains(out, "1 tag") {
		t.Errorf("check: %v\n%s", err, out)
	}
	if out, err := r.backup(dest); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := r.serveCopy(dest)
	c.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
	c.want(200, "GET", "/v2/a/manifests/y", nil)
}

// What a run that was cut short has brought may not be synced. The next syncs it, and
// nothing of an earlier backup that was finished.
func TestBackupSyncsWhatACutShortRunHasBrought(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	dest := filepath.Join(t.TempDir(), "backup")
	cut := func() map[string]bool { // all but the end of a run; it returns what is synced
		t.Helper()
		b := &backup{st: r.st, out: newConsole(io.Discard, false), dirs: make(map[string]bool),
			dest: newDataDir(dirConfig{dir: dest, log: r.cfg.log})}
		temp := filepath.Join(dest, "berth.db.new")
		defer os.Remove(temp)
		err := errors.Join(b.dest.own(), b.accept(t.Context()), b.dest.makeDirectories(), r.st.snapshots.copyDatabase(t.Context(), temp))
		if err != nil {
			t.Fatal(err)
		}
		defer b.dest.lock.Close()
		if b.db, err = openToLook(temp); err != nil {
			t.Fatal(err)
		}
		defer b.db.Close()
		if err := errors.Join(b.files(t.Context()), writeSynced(filepath.Join(dest, backupMark), strings.NewReader(""))); err != nil {
			t.Fatal(err)
		}
		return b.dirs
	}
	first := cut()
	if again := cut(); len(first) != 4 || !maps.Equal(first, again) {
		t.Errorf("%v is synced, and then %v; want the directories of two blobs and those around them, twice", first, again)
	}
	if out, err := r.backup(dest); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.pushBlob("a", "more")
	if more := cut(); len(more) != 2 {
		t.Errorf("%v is synced after a backup, want what is new", more)
	}
	if more := cut(); len(more) != 2 {
		t.Errorf("%v is synced after a backup and a run that was cut short, want what is new since the backup", more)
	}
}

// To another disk bytes are copied, and so read: what is rotten shows. What the
// backup has whole already, it keeps.
func TestBackupToAnotherDisk(t *testing.T) {
	slow(t)
	t.Parallel()
	disk := otherDisk(t)
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer", "rotten")
	dest := filepath.Join(disk, "backup")
	if out, err := r.backup(dest); err != nil || !strings.Contains(out, "3 blobs copied") {
		t.Fatalf("%v\n%s", err, out)
	}
	d := r.pushBlob("a", "will rot")
	r.pushImage("a", "y", "{}", "will rot")
	for _, content := range []string{"rotten", "will rot"} {
		if err := os.WriteFile(r.st.path(sum(content)), []byte(strings.ToUpper(content)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := r.backup(dest)
	if err == nil || !strings.Contains(out, "DAMAGED: blob "+d.String()) {
		t.Errorf("%v\n%s", err, out)
	}
	r.want(404, "HEAD", "/v2/a/blobs/"+d.String(), nil)
	r.scrub() // finds the other
	r.want(404, "HEAD", "/v2/a/blobs/"+sum("rotten").String(), nil)
	if out, err := r.backup(dest); err == nil {
		t.Errorf("a backup with a damaged blob is a success\n%s", out)
	}
	func() {
		c := r.serveCopy(dest)
		defer c.stop()
		c.want(200, "GET", "/v2/a/blobs/"+sum("rotten").String(), nil).is("rotten")
		c.want(404, "HEAD", "/v2/a/blobs/"+d.String(), nil)
	}()
	for _, content := range []string{"rotten", "will rot"} {
		r.pushBlob("a", content)
	}
	if out, err := r.backup(filepath.Join(disk, "second")); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// auditBackup checks a backup and leaves it one.
func auditBackup(t testing.TB, dest string) {
	t.Helper()
	startRegistry(t, func(cfg *config) { cfg.dir = dest }).stop()
	if left, _ := filepath.Glob(filepath.Join(dest, "*.new")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// The order of things holds while clients push and delete and the collector
// takes whatever it may.
func TestBackupsWhileEverythingGoesOn(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, func(cfg *config) { cfg.grace, cfg.untaggedGrace = 0, time.Nanosecond })
	c := newCrowd(r)
	dest := filepath.Join(t.TempDir(), "backup")
	collecting := meanwhile(t, func() error {
		r.moved.Add(int64(time.Second / 4))
		_, err := r.st.collector.collectDue(context.Background())
		return err
	})
	backups := meanwhile(t, func() error {
		if said, err := r.backup(dest); err != nil {
			return fmt.Errorf("backup: %w\n%s", err, said)
		}
		cfg := r.cfg.storeConfig
		cfg.dir = dest
		st, err := openStore(cfg)
		if err != nil {
			return err
		}
		report, err := st.check(context.Background(), true, func(int64) {})
		if err == nil && len(report.findings)+len(report.damaged)+len(report.rubbish) > 0 {
			err = fmt.Errorf("the backup: %v, %v, %v", report.findings, report.damaged, report.rubbish)
		}
		return errors.Join(err, st.close())
	})
	c.run(t, 6, 1000)
	n := backups()
	t.Logf("%d backups, %d collections", n, collecting())
	if said, err := r.backup(dest); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	r.pass(time.Minute) // the files that waited for the backups go
	if n, err := r.st.collector.emptyTrash(r.st.collector.steps(context.Background())); n != 0 || err != nil {
		t.Errorf("%d files are still to be removed, %v", n, err)
	}

	// What can be pulled here can be pulled there.
	copied := &crowd{r: r.serveCopy(dest), shared: c.shared}
	names, _, err := r.st.listRepositories("", 100, func(string) bool { return true })
	if err != nil || len(names) == 0 {
		t.Fatalf("repositories %v, %v", names, err)
	}
	for _, name := range names {
		tags, _, err := r.st.listTags(name, "", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range tags {
			if gone, err := copied.pull(name, tag); gone || err != nil {
				t.Errorf("%s:%s in the backup: gone %v, %v", name, tag, gone, err)
			}
		}
	}
}

// No file goes while a backup may need it, and all go soon after.
func TestCollectionWaitsForABackup(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "layer")
	r.st.collector.removal.RLock() // as a backup does
	r.want(202, "DELETE", "/v2/a/blobs/"+d.String(), nil)
	r.pass(0)
	if !r.hasFile(d) {
		t.Error("the file is gone")
	}
	r.st.collector.removal.RUnlock()
	r.pass(0)
	if r.hasFile(d) {
		t.Error("the file is still there after the backup")
	}
}

// A countdown is a context that ends when it has been asked so many times.
type countdown struct {
	context.Context
	left atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// A backup that is stopped leaves the earlier one as it was, wherever it
// stops, and the next goes on from there.
func TestBackupStoppedAnywhere(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "1", "{}", "first")
	dest := filepath.Join(t.TempDir(), "backup")
	stop := func(after int64) error {
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(after)
		return backupCommand(ctx, r.st, options{Args: []string{dest}}, newConsole(io.Discard, false))
	}
	for n := int64(0); ; n += 1 + n/4 { // the very first
		err := stop(n)
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "no backup in "+dest+" yet") {
			t.Fatalf("stopped at %d: %v", n, err)
		}
		if exists(filepath.Join(dest, "berth.db")) {
			t.Fatalf("stopped at %d, there is a database", n)
		}
		cfg := r.cfg.storeConfig
		cfg.dir = dest
		if st, err := openStore(cfg); err == nil || !strings.Contains(err.Error(), "not finished") {
			t.Fatalf("stopped at %d, it is served: %v, %v", n, st, err)
		}
	}
	auditBackup(t, dest)
	r.pushImage("a", "2", `{"n":2}`, "second")
	r.want(202, "DELETE", "/v2/a/manifests/"+ociImage("{}", "first").digest.String(), nil)
	r.st.noPromises = true
	r.collect(collectNow)
	if r.hasFile(sum("first")) {
		t.Fatal("the registry still has the file")
	}
	stopped := 0
	for n := int64(0); ; n += 1 + n/4 {
		err := stop(n)
		if err == nil {
			break
		}
		stopped++
		if !strings.Contains(err.Error(), "the earlier backup in "+dest+" is as it was") {
			t.Fatalf("stopped at %d: %v", n, err)
		}
		facts, err := verifyDatabase(t.Context(), filepath.Join(dest, "berth.db"))
		if err != nil || facts.tags != 1 {
			t.Fatalf("stopped at %d: %d tags in the earlier backup, %v", n, facts.tags, err)
		}
		if !exists(strings.Replace(r.st.path(sum("first")), r.cfg.dir, dest, 1)) {
			t.Fatalf("stopped at %d: a file of the earlier backup is gone", n)
		}
	}
	if stopped < 3 {
		t.Errorf("it was stopped at %d points only", stopped)
	}
	t.Logf("stopped at %d points", stopped)
	auditBackup(t, dest)
	r.serveCopy(dest).want(200, "GET", "/v2/a/manifests/2", nil)
}

// A backup of rows whose blobs are all damaged is a registry too.
func TestBackupOfDamagedBlobsAlone(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := digest.SHA512.FromString("long")
	if re, err := r.pushDigest(ways[0], "a", "long", d, ""); err != nil || re.status != 201 {
		t.Fatalf("%+v %v", re, err)
	}
	if err := errors.Join(r.st.small.sync(), os.WriteFile(r.st.path(d), []byte("LONG"), 0o600)); err != nil {
		t.Fatal(err)
	}
	r.scrub()
	dest := filepath.Join(t.TempDir(), "backup")
	out, _ := r.backup(dest) // which says that a blob is damaged
	cfg := r.cfg.storeConfig
	cfg.dir = dest
	st, err := openStore(cfg)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer st.close()
	if _, err := st.openBlob("a", d, false); !errors.Is(err, errBlobUnknown) {
		t.Errorf("%v, want %v", err, errBlobUnknown)
	}
}

// A directory that is refused stays as it was.
func TestRefusedBackupLeavesNothing(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "thesis.txt"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.backup(full)
	if entries, err := os.ReadDir(full); err != nil || len(entries) != 1 {
		t.Errorf("it has %v now, %v", entries, err)
	}
	// Nor does one that is stopped before it has copied anything.
	ctx, stop := context.WithCancel(t.Context())
	stop()
	linked := t.TempDir()
	if err := os.Symlink("nowhere", filepath.Join(linked, "blobs")); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	for _, dest := range []string{filepath.Join(parent, "a", "b"), parent, linked} {
		err := runOn(ctx, r.st, options{Command: "backup", Args: []string{dest}}, newConsole(new(strings.Builder), false))
		if err == nil || strings.Contains(err.Error(), "continues from here") {
			t.Errorf("backup to %s: %v", dest, err)
		}
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
		t.Errorf("stopped backups have left %v, %v", entries, err)
	}
	if entries, err := os.ReadDir(linked); err != nil || len(entries) != 1 {
		t.Errorf("there is %v now, %v", entries, err)
	}
	// A new disk has a directory of its own.
	disk := t.TempDir()
	if err := os.Mkdir(filepath.Join(disk, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if said, err := r.backup(disk); err != nil {
		t.Errorf("backup to a new disk: %v\n%s", err, said)
	}
}

// A sparse registry never had what it lacks.
func TestRestoreOfASparseRegistry(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(cfg *config) { cfg.sparse = true })
	r.pushImage("a", "old", "{}", "layer")
	r.snapshotsAfter(time.Hour)
	absent := ociImage("{}", "not here")
	r.want(201, "PUT", "/v2/a/manifests/x", absent.manifest, "Content-Type: "+typeOCIManifest)
	index, _ := ociIndex(ociImage("{}", "nor here").manifest)
	r.want(201, "PUT", "/v2/a/manifests/y", index, "Content-Type: "+typeOCIIndex)
	r.off()
	if err := overwrite(filepath.Join(r.cfg.dir, "berth.db"), 60, 4); err != nil { // its version
		t.Fatal(err)
	}
	db := filepath.Join(r.cfg.dir, "berth.db")
	if err := overwrite(db, 68, 4); err != nil { // not Berth's by its header, and else readable
		t.Fatal(err)
	}
	out, err := r.runOn("restore") // without the flag
	if err != nil || strings.Contains(out, "PUSH AGAIN") || strings.Contains(out, "LOST") {
		t.Fatalf("%v\n%s", err, out)
	}
	r.start()
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(absent.manifest)
	r.want(200, "GET", "/v2/a/manifests/y", nil).is(index)
}

// Nothing that might tell more is removed, and no directory is made by a slip
// of the pen.
func TestRestoreRemovesNothing(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	r.snapshotsAfter(time.Hour)
	r.off()
	db := filepath.Join(r.cfg.dir, "berth.db")
	for _, n := range []string{"1", "2"} {
		if err := errors.Join(os.Remove(db), os.WriteFile(db+"-wal", []byte("a log "+n), 0o600)); err != nil {
			t.Fatal(err)
		}
		if out, err := r.runOn("restore"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if text, err := os.ReadFile(db + ".damaged-" + n + "-wal"); err != nil || string(text) != "a log "+n {
			t.Errorf("the log that was there is %q now, %v", text, err)
		}
	}
	typo := filepath.Join(t.TempDir(), "typo")
	if _, err := runOnce(t, "restore", "--data", typo); err == nil || !strings.Contains(err.Error(), "no registry") || exists(typo) {
		t.Errorf("restore of nothing: %v", err)
	}
	// No empty registry beside snapshots, even if no blob is to be seen.
	if err := errors.Join(os.Remove(db), os.Rename(filepath.Join(r.cfg.dir, "blobs"), filepath.Join(r.cfg.dir, "unmounted"))); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(r.cfg.storeConfig); err == nil || !strings.Contains(err.Error(), "berth restore --data "+r.cfg.dir) {
		t.Errorf("start beside snapshots: %v", err)
	}
}

// A restore that is stopped does not let the registry start, wherever it
// stops, and running it again brings back as much as if it had not been.
func TestRestoreStoppedAnywhere(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	r.snapshotsAfter(time.Hour)
	for i := range 5 {
		r.pushImage("a", fmt.Sprint(i), "{}", fmt.Sprint("later ", i))
	}
	r.off()
	if err := overwrite(filepath.Join(r.cfg.dir, "berth.db"), 68, 4); err != nil { // not Berth's by its header
		t.Fatal(err)
	}
	stopped := 0
	for n := int64(0); ; n++ {
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(n)
		if n > 20 {
			ctx.left.Store(n * 50) // once for each shard
		}
		cfg := r.cfg
		err := restore(ctx, &cfg, io.Discard)
		if err == nil {
			break
		}
		stopped++
		if st, err := openStore(r.cfg.storeConfig); err == nil || !strings.Contains(err.Error(), "berth restore") {
			t.Fatalf("stopped at %d, it starts: %v, %v", n, st, err)
		}
	}
	if stopped < 10 {
		t.Errorf("it was stopped at %d points only", stopped)
	}
	r.start()
	r.want(200, "GET", "/v2/a/manifests/x", nil)
	for i := range 5 {
		r.want(200, "GET", fmt.Sprint("/v2/a/manifests/", i), nil)
		r.want(200, "GET", "/v2/a/blobs/"+sum(fmt.Sprint("later ", i)).String(), nil)
	}
	if left, _ := filepath.Glob(filepath.Join(r.cfg.dir, "berth.db.damaged-*")); len(left) == 0 || exists(filepath.Join(r.cfg.dir, "berth.db.damaged-2")) {
		t.Errorf("what was damaged is in %v, want one set", left)
	}
}

// A dying disk may spoil the restored database too, before all is salvaged. What
// the first damaged one still has is not forgotten over that.
func TestRestoreOntoADyingDisk(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	r.snapshotsAfter(time.Hour)
	later := r.pushImage("a", "y", "{}", "later")
	r.off()
	db := filepath.Join(r.cfg.dir, "berth.db")
	if err := overwrite(db, 50, 8); err != nil {
		t.Fatal(err)
	}
	damaged, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	data := newDataDir(r.cfg.dirConfig)
	if err := data.own(); err != nil {
		t.Fatal(err)
	}
	_, err = data.goBack(t.Context(), newConsole(new(strings.Builder), false))
	if err := errors.Join(err, data.letGo(), overwrite(db, 50, 8)); err != nil {
		t.Fatal(err)
	}
	if out, err := r.runOn("restore"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kept, err := os.ReadFile(filepath.Join(r.cfg.dir, "berth.db.damaged-1"))
	if err != nil || !bytes.Equal(kept, damaged) {
		t.Errorf("the damaged database was not kept (%v)", err)
	}
	r.start()
	r.want(200, "GET", "/v2/a/manifests/y", nil).is(later.manifest)
}

// A database that has lost its log is older than the snapshot: its tags do not
// take those of the snapshot back.
func TestRestoreDoesNotMoveTagsBack(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	for i := range 60 {
		r.pushImage("fill", fmt.Sprint(i), "{}", fmt.Sprint("fill ", i))
	}
	r.pushImage("a", "latest", "{}", "one")
	r.restart() // all in berth.db
	second := r.pushImage("a", "latest", "{}", "two")
	r.snapshotsAfter(time.Hour)
	db := filepath.Join(r.cfg.dir, "berth.db")
	old, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	r.off()
	at := bytes.Index(old, []byte(`"digest":"`+sum("fill 30").String()))
	if at < 0 {
		t.Fatal("the manifest is not to be found in the database")
	}
	if err := errors.Join(os.WriteFile(db, old, 0o600), overwrite(db, int64(at/4096*4096), 4096)); err != nil {
		t.Fatal(err)
	}
	if out, err := r.runOn("restore"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.start()
	r.want(200, "GET", "/v2/a/manifests/latest", nil).is(second.manifest)
}

func TestRestoreRefusesANewerDatabase(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	r.snapshotsAfter(time.Hour)
	r.inDatabase("PRAGMA user_version = 99")
	r.off()
	if out, err := r.runOn("restore"); err == nil || !strings.Contains(err.Error(), "use a newer berth") {
		t.Errorf("%v\n%s", err, out)
	}
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), "PRAGMA user_version = "+fmt.Sprint(latestVersion))
	r.start()
	r.want(200, "GET", "/v2/a/manifests/x", nil)
}
