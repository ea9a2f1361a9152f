//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/berth-registry/berth/e2e/lossyfs"
)

// The metrics say how often the disk has to sync, file by file: for pushes of every size and in every
// way, for the files of small blobs that are synced together later, for SQLite's moves of its log, and when
// something damaged is put aside. What a start takes is not counted, and a commit that changes nothing is
// counted though it costs nothing.
func TestMetricsTellHowOftenTheDiskSyncs(t *testing.T) {
	v := newVictim(t, 1)
	if err := v.start(v.disk.Arm(lossyfs.Plan{})); err != nil {
		t.Fatal(err)
	}
	l := v.ledgers[0]
	told := func() (files, database int) { // by the metrics
		t.Helper()
		status, _, text, err := l.ask("GET", "/metrics", "")
		if err != nil || status != http.StatusOK {
			t.Fatalf("GET /metrics = %d, %v", status, err)
		}
		value := func(name string) int {
			m := regexp.MustCompile(`(?m)^` + name + ` (\d+)$`).FindStringSubmatch(text)
			if m == nil {
				t.Fatalf("no %s in /metrics", name)
			}
			n, _ := strconv.Atoi(m[1])
			return n
		}
		return value("berth_file_syncs_total"), value("berth_database_syncs_total")
	}
	counted := func() (files, database int) { // by the disk
		database = v.disk.SyncsOf("data/berth.db") + v.disk.SyncsOf("data/berth.db-wal")
		all, _, _ := v.disk.Count()
		return all - database, database
	}
	push := func(content string) (digest string) {
		t.Helper()
		digest = digestOf("sha256:", []byte(content))
		if _, _, err := l.do("POST", "blobs/uploads/?digest="+digest, content, http.StatusCreated); err != nil {
			t.Fatal(err)
		}
		return digest
	}
	pushAndDamage := func(seed uint64) {
		t.Helper()
		d := push(noise(seed, 100_000))
		if err := os.Truncate(filepath.Join(v.dir, "data", "blobs", "sha256", d[7:9], d[7:], "data"), 1000); err != nil {
			t.Fatal(err)
		}
		if status, _, _, err := l.ask("GET", "blobs/"+d, ""); err != nil || status != http.StatusNotFound {
			t.Fatalf("GET of a damaged blob = %d, %v, want 404", status, err)
		}
	}

	// What happens only once is over: the log's first header, the reserve, the directory for what is damaged.
	pushAndDamage(1)
	await(t, v.exited, &v.log, "the reserve", func() bool {
		_, err := os.Stat(filepath.Join(v.dir, "data", "reserve"))
		return err == nil
	})
	toldFiles, toldDatabase := told()
	countedFiles, countedDatabase := counted()

	// agree waits until both have grown by the same, since the files of small blobs are synced at any time.
	// idle is how many commits at most have changed nothing since the last call.
	agree := func(what string, idle int) {
		t.Helper()
		var story string
		var more int
		defer func() { t.Logf("%s: %s", what, story) }()
		await(t, v.exited, &v.log, what+": metrics that agree with the disk", func() bool {
			f, d := told()
			cf, cd := counted()
			story = fmt.Sprintf("so far the disk has %d syncs of files and %d of the database, the metrics have %d and %d",
				cf-countedFiles, cd-countedDatabase, f-toldFiles, d-toldDatabase)
			more = d - toldDatabase - (cd - countedDatabase)
			return f-toldFiles == cf-countedFiles && 0 <= more && more <= idle
		})
		toldDatabase += more
	}
	before, _ := told()
	for range 40 {
		pushImage(t, l, 2000)
	}
	await(t, v.exited, &v.log, "the syncs of small blobs' files", func() bool { files, _ := told(); return files > before })
	agree("images of small blobs", 0)
	for range 10 {
		pushImage(t, l, 200_000)
	}
	agree("images of large blobs", 0)

	small, large := noise(2, 2000), noise(3, 200_000)
	im := imageOf{blobs: []string{push(small), push(large), push(small)}}
	l.contents[im.blobs[0]], l.contents[im.blobs[1]] = small, large
	if err := l.pushManifest(im); err != nil {
		t.Fatal(err)
	}
	agree("an image of two blobs", 1)
	for range 5 {
		push(small)
		push(large)
	}
	agree("those blobs five times more", 10)

	// SQLite moves its log when that has 8 MB.
	_, before = told()
	config := push("{}")
	const manifests = 120
	for i := range manifests {
		body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
			`"config":{"mediaType":"text/plain","digest":%q,"size":2},"layers":[],"annotations":{"n":"%0100000d"}}`, config, i)
		if _, _, err := l.do("PUT", fmt.Sprint("manifests/n", i), body, http.StatusCreated); err != nil {
			t.Fatal(err)
		}
	}
	agree("large manifests", 0)
	if _, after := told(); after < before+1+manifests+3 {
		t.Errorf("%d large manifests made %d syncs of the database: its log was not moved, or nobody has noticed", manifests, after-before)
	}

	pushAndDamage(4)
	agree("a damaged blob", 0)
	if err := v.stop(); err != nil {
		t.Error(err)
	}
}

// pushImage pushes an image of three blobs of a size, each in any of the ways.
func pushImage(t *testing.T, l *ledger, size int) {
	t.Helper()
	im := imageOf{}
	for range 3 {
		digest, err := l.pushBlob(noise(l.rng.Uint64(), size))
		if err != nil {
			t.Fatal(err)
		}
		im.blobs = append(im.blobs, digest)
	}
	if err := l.pushManifest(im); err != nil {
		t.Fatal(err)
	}
}
