// Bit rot, and what crashes leave: found, put aside, healed.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fastScrub lets passes read as fast as they can.
func fastScrub(c *config) { c.scrubRate = 0 }

func (r *registry) scrub() {
	r.t.Helper()
	if err := r.st.scrubber.pass(context.Background()); err != nil {
		r.t.Errorf("scrub: %v", err)
	}
}

func (r *registry) figures() figures {
	r.t.Helper()
	f, err := r.st.stats.figures(context.Background())
	if err != nil {
		r.t.Errorf("figures: %v", err)
	}
	return f
}

func flip(content []byte) []byte {
	bad := bytes.Clone(content)
	bad[len(bad)/3] ^= 4
	return bad
}

// What befalls a file on an old SD card, and what is left of it aside.
var rots = []struct {
	name  string
	do    func(file string, content []byte) error
	aside func(content []byte) []byte // nil for nothing
}{
	{"flipped bit", func(file string, content []byte) error { return os.WriteFile(file, flip(content), 0o600) }, flip},
	{"zeros", func(file string, content []byte) error {
		return os.WriteFile(file, make([]byte, len(content)), 0o600)
	}, func(content []byte) []byte { return make([]byte, len(content)) }},
	{"cut short", func(file string, content []byte) error { return os.Truncate(file, 100) },
		func(content []byte) []byte { return content[:100] }},
	{"emptied", func(file string, content []byte) error { return os.Truncate(file, 0) },
		func([]byte) []byte { return []byte{} }},
	{"removed", func(file string, content []byte) error { return os.Remove(file) }, nil},
	{"removed with its directory", func(file string, content []byte) error { return os.RemoveAll(filepath.Dir(file)) }, nil},
}

func TestRotIsFoundPutAsideAndHealed(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, fastScrub)
	content := noise(90, 300<<10)
	im := r.pushImage("home/app", "1.0", "{}", content, "sound")
	d := sum(content)
	r.pushImage("other", "x", "{}", content)
	blob := "/v2/home/app/blobs/" + d.String()
	for i, rot := range rots {
		t.Run(rot.name, func(t *testing.T) {
			if err := rot.do(r.st.path(d), []byte(content)); err != nil {
				t.Fatal(err)
			}
			r.scrub()
			if !strings.Contains(r.log.String(), "blob damaged") {
				t.Error("the log says nothing")
			}
			got, err := os.ReadFile(r.st.aside(d))
			if rot.aside == nil {
				if err == nil {
					t.Error("a missing file was put aside")
				}
			} else if !bytes.Equal(got, rot.aside([]byte(content))) {
				t.Errorf("what was put aside has %d bytes (%v)", len(got), err)
			}
			if f := r.figures(); f.Quarantined.Count != 1 {
				t.Errorf("%d in quarantine, want 1", f.Quarantined.Count)
			}
			// For those who have it, it is not here; what was pushed stays.
			for _, name := range []string{"home/app", "other"} {
				r.want(404, "HEAD", "/v2/"+name+"/blobs/"+d.String(), nil)
				r.want(404, "GET", "/v2/"+name+"/blobs/"+d.String(), nil).code("BLOB_UNKNOWN")
			}
			r.want(200, "GET", "/v2/home/app/manifests/1.0", nil).is(im.manifest)
			r.want(200, "GET", "/v2/home/app/blobs/"+sum("sound").String(), nil).is("sound")
			another := ociImage("{}", content)
			r.want(404, "PUT", "/v2/home/app/manifests/2.0", another.manifest, "Content-Type: "+typeOCIManifest).code("MANIFEST_BLOB_UNKNOWN")
			// Check names it, and an image that wants it.
			out, err := runOnceOn(t, r.st, "check")
			if err == nil || !strings.Contains(out, "DAMAGED: blob "+d.String()) || !strings.Contains(out, "needed by ") {
				t.Errorf("check: %v\n%s", err, out)
			}
			r.scrub() // finds nothing new
			if re, err := r.pushBy(ways[i%len(ways)], "home/app", content); err != nil || re.status != 201 {
				t.Fatalf("pushing it again: %+v %v", re, err)
			}
			r.want(200, "GET", blob, nil).is(content)
			r.want(200, "GET", "/v2/other/blobs/"+d.String(), nil).is(content)
			if _, err := os.Stat(r.st.aside(d)); err == nil {
				t.Error("the damaged file is still aside")
			}
			if f := r.figures(); f.Quarantined.Count != 0 {
				t.Errorf("%d in quarantine, want 0", f.Quarantined.Count)
			}
			r.want(200, "GET", "/v2/home/app/manifests/1.0", nil)
			r.check()
		})
	}
}

// runOnceOn runs a command on a store as a server does.
func runOnceOn(t testing.TB, st *store, name string, args ...string) (string, error) {
	t.Helper()
	cfg, err := parseConfig(name, args, noEnv, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = runOn(t.Context(), st, cfg.options, newConsole(&out, false))
	return out.String(), err
}

func TestPullFindsMissingAndShortFiles(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	content := noise(91, 10<<10)
	r.pushImage("a", "x", "{}", content)
	d := sum(content)
	for _, rot := range rots[2:] { // what can be seen without reading
		if err := r.st.small.sync(); err != nil { // or the database would heal it
			t.Fatal(err)
		}
		if err := rot.do(r.st.path(d), []byte(content)); err != nil {
			t.Fatal(err)
		}
		r.want(404, "GET", "/v2/a/blobs/"+d.String(), nil).code("BLOB_UNKNOWN")
		if f := r.figures(); f.Quarantined.Count != 1 {
			t.Errorf("%s: %d in quarantine, want 1", rot.name, f.Quarantined.Count)
		}
		r.restart() // it is remembered
		r.want(404, "HEAD", "/v2/a/blobs/"+d.String(), nil)
		r.pushBlob("a", content)
		r.want(200, "GET", "/v2/a/blobs/"+d.String(), nil).is(content)
	}
}

// A disk that is not mounted is trouble, not damage: everything is back with it.
func TestMissingDiskIsNotDamage(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, fastScrub)
	im := r.pushImage("a", "x", "{}", "layer")
	blobs := filepath.Join(r.cfg.dir, "blobs")
	if err := os.Rename(blobs, blobs+".away"); err != nil {
		t.Fatal(err)
	}
	r.want(500, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil)
	r.want(500, "HEAD", "/v2/a/blobs/"+im.config.String(), nil)
	if err := r.st.scrubber.pass(context.Background()); err == nil {
		t.Error("scrubbing a disk that is not there succeeds")
	}
	if err := os.Rename(blobs+".away", blobs); err != nil {
		t.Fatal(err)
	}
	if f := r.figures(); f.Quarantined.Count != 0 {
		t.Errorf("%d in quarantine, want 0", f.Quarantined.Count)
	}
	r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil).is("layer")
	r.scrub()
}

// A blob that could not be read is looked at once more before it is judged.
func TestSuspectIsLookedAt(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	good, bad := r.pushBlob("a", "good"), r.pushBlob("a", "rotten")
	if err := os.WriteFile(r.st.path(bad), []byte("r0tten"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.st.scrubber.suspect(good)
	r.st.scrubber.suspect(bad)
	for range 2 {
		r.st.scrubber.inspect(<-r.st.scrubber.suspects)
	}
	r.want(200, "HEAD", "/v2/a/blobs/"+good.String(), nil)
	r.want(404, "HEAD", "/v2/a/blobs/"+bad.String(), nil)
	r.pushBlob("a", "rotten")
}

func TestRottenManifestIsUnknownUntilPushedAgain(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, fastScrub)
	im := r.pushImage("a", "x", "{}", "layer")
	r.want(200, "GET", "/v2/a/manifests/x", nil)
	r.inDatabase(`UPDATE manifest SET body = CAST(replace(CAST(body AS TEXT), 'layer', 'l4yer') AS BLOB)`)
	r.scrub()
	r.want(404, "GET", "/v2/a/manifests/x", nil).code("MANIFEST_UNKNOWN")
	r.want(404, "HEAD", "/v2/a/manifests/"+im.digest.String(), nil)
	r.want(200, "GET", "/v2/a/tags/list", nil).is(`{"name":"a","tags":["x"]}`)
	out, err := runOnceOn(t, r.st, "check")
	if err == nil || !strings.Contains(out, "DAMAGED: manifest "+im.digest.String()+", needed by a:x") {
		t.Errorf("check: %v\n%s", err, out)
	}
	// An index that would have it as a member must wait, too.
	index, _ := ociIndex(im.manifest)
	r.want(404, "PUT", "/v2/a/manifests/all", index, "Content-Type: "+typeOCIIndex).code("MANIFEST_BLOB_UNKNOWN")
	r.pass(100 * 24 * time.Hour) // it is tagged, and stays
	r.want(201, "PUT", "/v2/a/manifests/"+im.digest.String(), im.manifest, "Content-Type: "+typeOCIManifest)
	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
	r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil).is("layer")
}

// inDatabase changes rows as only a failing disk does.
func (r *registry) inDatabase(statements ...string) {
	r.t.Helper()
	err := r.st.update(func(t *tx) error {
		for _, s := range statements {
			if err := t.script(s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestScrubRemovesWhatCrashesLeave(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, fastScrub)
	im := r.pushImage("a", "x", "{}", "layer")
	write := func(path string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("?"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	orphan, stranger := r.st.path(sum("never recorded")), filepath.Join(r.cfg.dir, "blobs", "sha256", "00", "README")
	forgotten := r.st.aside(im.layers[0])
	for _, path := range []string{orphan, stranger, forgotten} {
		write(path)
	}
	r.scrub()
	for path, stays := range map[string]bool{orphan: false, filepath.Dir(orphan): false, forgotten: false, stranger: true} {
		if _, err := os.Stat(path); (err == nil) != stays {
			t.Errorf("%s: %v, want it to stay: %v", path, err, stays)
		}
	}
	os.Remove(stranger)
	r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil).is("layer")
}

func TestScrubGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, fastScrub)
	const n = 40
	var all []string
	for i := range n {
		content := noise(uint64(i), 1000)
		all = append(all, content)
		r.pushBlob("a", content)
	}
	read := 0
	for passes := 0; ; passes++ {
		if passes > n {
			t.Fatal("it never comes to its end")
		}
		// Ten blobs, then the process ends.
		ctx, stop := context.WithCancel(context.Background())
		left := 10
		r.st.attend(busyHost{r.st.host, func() bool {
			read++
			if left--; left < 0 {
				read--
				stop()
			}
			return false
		}})
		err := r.st.scrubber.pass(ctx)
		stop()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if due, err := r.st.scrubber.due(); due != 0 || err != nil {
			t.Errorf("the rest is due in %v (%v), want at once", due, err)
		}
		r.restart()
	}
	if read != n {
		t.Errorf("%d blobs were read, of %d", read, n)
	}
	if due, _ := r.st.scrubber.due(); due < r.cfg.scrubEvery-time.Minute {
		t.Errorf("the next pass is due in %v", due)
	}
	for _, content := range all {
		r.want(200, "HEAD", "/v2/a/blobs/"+sum(content).String(), nil)
	}
}

func TestScrubIsDueNowAndThen(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, fastScrub)
	r.still = true
	due := func(want time.Duration) {
		t.Helper()
		got, err := r.st.scrubber.due()
		if err != nil || got > want || got < want-2*time.Second {
			t.Errorf("due in %v (%v), want %v", got, err, want)
		}
	}
	due(720 * time.Hour)
	r.moved.Add(int64(700 * time.Hour))
	r.pushBlob("a", "x") // which records the uptime
	r.restart()          // and the time it is off does not count
	due(20 * time.Hour)
	r.moved.Add(int64(30 * time.Hour))
	due(0)
	r.scrub()
	due(720 * time.Hour)
	if f := r.figures(); f.Scrubbed < int64(720*3600) {
		t.Errorf("scrubbed at %d", f.Scrubbed)
	}
	r.restart(func(c *config) { c.scrubEvery = 0 })
	due(-1)
}

// A pass waits for requests, and for its budget, but never for long after its
// end was asked for.
func TestScrubPauses(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(context.Background())
	asked := 0
	p := newPace(ctx, 1, func() bool { asked++; stop(); return true })
	if err := p.spend(1 << 30); !errors.Is(err, context.Canceled) || asked == 0 {
		t.Errorf("spend = %v, after asking %d times", err, asked)
	}
}

func TestRepair(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer", "second")
	old := r.pushImage("b", "x", "{}", "layer", "old")
	r.pushImage("b", "x", "{}", "new")
	member := ociImage("{}", "member")
	r.pushBlob("c", "{}")
	r.pushBlob("c", "member")
	r.want(201, "PUT", "/v2/c/manifests/"+member.digest.String(), member.manifest, "Content-Type: "+typeOCIManifest)
	index, _ := ociIndex(member.manifest)
	r.want(201, "PUT", "/v2/c/manifests/all", index, "Content-Type: "+typeOCIIndex)
	r.pushBlob("d", "lonely")
	r.want(200, "GET", "/v2/a/manifests/x", nil)

	repaired := func(name string, wrong string, statements ...string) {
		t.Helper()
		r.inDatabase(statements...)
		if out, err := runOnceOn(t, r.st, "check"); err == nil || !strings.Contains(out, "WRONG: ") || !strings.Contains(out, wrong) {
			t.Errorf("%s: check does not see it: %v\n%s", name, err, out)
		}
		if out, err := runOnceOn(t, r.st, "repair"); err != nil && !strings.Contains(out, "PUSH AGAIN") {
			t.Errorf("%s: repair: %v\n%s", name, err, out)
		}
		r.check()
	}
	repaired("a link that claims to be loose", "(6)", `UPDATE link SET loose = 1 WHERE loose IS NULL`)
	repaired("a link that claims not to be", "(6)", `UPDATE link SET loose = NULL WHERE loose IS NOT NULL`)
	repaired("a manifest that claims to be loose", "(6)", `UPDATE manifest SET loose = 1 WHERE loose IS NULL`)
	repaired("a manifest that claims not to be", "(6)", `UPDATE manifest SET loose = NULL`)
	repaired("a live blob in the trash", "(2)", `INSERT INTO trash (digest) SELECT digest FROM blob`)
	repaired("a repository without anything", "empty", `INSERT INTO repository (name) VALUES ('nothing')`)
	repaired("counts", "figures", `UPDATE total SET bytes = 7`, `UPDATE repository SET tags = 9, loose_bytes = 3`, `UPDATE blob SET links = links + 1`)
	repaired("uses that are missing", "(3)", `DELETE FROM uses WHERE manifest IN (SELECT id FROM manifest WHERE digest = '`+im.digest.String()+`')`)
	repaired("names that are missing", "(3)", `DELETE FROM names`)
	repaired("a tag into elsewhere", "(5)", `INSERT INTO tag (repository, name, manifest) SELECT r.id, 'stray', m.id FROM repository r, manifest m
		WHERE r.name = 'a' AND m.digest = '`+old.digest.String()+`'`)

	r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
	for i, content := range []string{"layer", "second"} {
		r.want(200, "GET", "/v2/a/blobs/"+im.layers[i].String(), nil).is(content)
	}
	r.want(200, "GET", "/v2/c/manifests/all", nil).is(index)
	r.want(200, "GET", "/v2/c/manifests/"+member.digest.String(), nil).is(member.manifest)

	// A link that is gone from under its manifest: the blob is to be pushed again.
	r.inDatabase(`DELETE FROM uses WHERE blob = (SELECT id FROM blob WHERE digest = '`+sum("second").String()+`')`,
		`DELETE FROM link WHERE blob = (SELECT id FROM blob WHERE digest = '`+sum("second").String()+`')`,
		`DELETE FROM blob WHERE digest = '`+sum("second").String()+`'`)
	out, err := runOnceOn(t, r.st, "repair")
	if err != nil || !strings.Contains(out, "blob "+sum("second").String()+": whole again") {
		t.Errorf("the file is there and good, and repair says: %v\n%s", err, out)
	}
	r.want(200, "GET", "/v2/a/blobs/"+sum("second").String(), nil).is("second")
	r.check()

	// Files: one that rotted, one that nothing needs.
	if err := os.WriteFile(r.st.path(sum("layer")), []byte("l4yer"), 0o600); err != nil {
		t.Fatal(err)
	}
	orphan := r.st.path(sum("orphan"))
	if err := errors.Join(os.Mkdir(filepath.Dir(orphan), 0o700), os.WriteFile(orphan, []byte("orphan"), 0o600)); err != nil {
		t.Fatal(err)
	}
	out, err = runOnceOn(t, r.st, "repair", "--deep")
	if err == nil || !strings.Contains(out, "PUSH AGAIN: blob "+sum("layer").String()) || strings.Contains(out, "removed") || !exists(orphan) {
		t.Errorf("repair --deep, which leaves alone what nothing needs: %v\n%s", err, out)
	}
	out, err = runOnceOn(t, r.st, "repair", "--left-over")
	if err == nil || !strings.Contains(out, "PUSH AGAIN: blob "+sum("layer").String()) || !strings.Contains(out, ": removed") || exists(orphan) {
		t.Errorf("repair --left-over: %v\n%s", err, out)
	}
	r.want(404, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil)
	// It was a loose cable: what is aside is good after all.
	if err := os.WriteFile(r.st.aside(sum("layer")), []byte("layer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err = runOnceOn(t, r.st, "repair"); err != nil {
		t.Errorf("repair: %v\n%s", err, out)
	}
	r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil).is("layer")
	if out, err = runOnceOn(t, r.st, "check", "--deep"); err != nil || !strings.HasSuffix(out, "all is well\n") {
		t.Errorf("check: %v\n%s", err, out)
	}
}

// What a person has to look at does not keep a pass from the rest.
func TestScrubGoesOnPastWhatItMayNotRead(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, fastScrub)
	d := r.pushBlob("a", "a loop of links")
	content, err := os.ReadFile(r.st.path(d))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(r.st.path(d)), os.Symlink("data", r.st.path(d))); err != nil {
		skip(t, err.Error())
	}
	r.scrub()
	if due, err := r.st.scrubber.due(); err != nil || due == 0 {
		t.Errorf("the pass has not come to its end: %v, %v", due, err)
	}
	if !strings.Contains(r.log.String(), "a blob could not be read") {
		t.Error("the log says nothing")
	}
	r.want(500, "GET", "/v2/a/blobs/"+d.String(), nil)
	if err := errors.Join(os.Remove(r.st.path(d)), os.WriteFile(r.st.path(d), content, 0o600)); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/v2/a/blobs/"+d.String(), nil)
}

// However many commands look at the database at one time, requests are answered
// and the commands come to their end.
func TestManyChecksLeaveRoomForRequests(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	stray := filepath.Join(r.cfg.dir, "uploads", "0f0e6f4c-6f0a-4c1c-9f55-2b6c3a0f0a01") // asks for a second connection
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 20)
	for range cap(ended) {
		go func() {
			_, err := r.st.check(t.Context(), false, func(int64) {})
			ended <- err
		}()
	}
	for range cap(ended) {
		r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := os.Remove(stray); err != nil {
		t.Fatal(err)
	}
}

// A busyHost says whether requests are under way by a function of the test's.
type busyHost struct {
	storeHost
	under func() bool
}

func (h busyHost) busy() bool { return h.under() }
