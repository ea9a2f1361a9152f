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

// The metric says how often files and directories are synced: for pushes of every size and in every way, for
// the files of small blobs that are synced together later, and when something damaged is put aside. What a
// start takes is not counted, and SQLite syncs by itself.
//
// Not beside others: a process that another test starts closes the files that this one has on a disk of its own
// process, which cannot answer while Go waits for that process to begin.
func TestMetricsTellHowOftenTheDiskSyncs(t *testing.T) {
	v := newVictim(t, 1, false)
	if err := v.start(v.disk.Arm(lossyfs.Plan{})); err != nil {
		t.Fatal(err)
	}
	l := v.ledgers[0]
	told := func() int { // by the metrics
		t.Helper()
		status, _, text, err := l.ask("GET", "/metrics", "")
		if err != nil || status != http.StatusOK {
			t.Fatalf("GET /metrics = %d, %v", status, err)
		}
		m := regexp.MustCompile(`(?m)^berth_file_syncs_total (\d+)$`).FindStringSubmatch(text)
		if m == nil {
			t.Fatal("no berth_file_syncs_total in /metrics")
		}
		n, _ := strconv.Atoi(m[1])
		return n
	}
	counted := func() int { // by the disk
		all, _, _ := v.disk.Count()
		return all - v.disk.SyncsOf("data/berth.db") - v.disk.SyncsOf("data/berth.db-wal")
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

	// What happens only once is over: the reserve, the directory for what is damaged.
	pushAndDamage(1)
	await(t, v.exited, &v.log, "the reserve", func() bool {
		_, err := os.Stat(filepath.Join(v.dir, "data", "reserve"))
		return err == nil
	})
	toldFirst, countedFirst := told(), counted()

	// agree waits until both have grown by the same, since the files of small blobs are synced at any time.
	agree := func(what string) {
		t.Helper()
		var story string
		defer func() { t.Logf("%s: %s", what, story) }()
		await(t, v.exited, &v.log, what+": a metric that agrees with the disk", func() bool {
			n, c := told()-toldFirst, counted()-countedFirst
			story = fmt.Sprintf("so far the disk has %d syncs of files, the metric has %d", c, n)
			return n == c
		})
	}
	before := told()
	for range 40 {
		pushImage(t, l, 2000)
	}
	await(t, v.exited, &v.log, "the syncs of small blobs' files", func() bool { return told() > before })
	agree("images of small blobs")
	for range 10 {
		pushImage(t, l, 200_000)
	}
	agree("images of large blobs")

	small, large := noise(2, 2000), noise(3, 200_000)
	im := imageOf{blobs: []string{push(small), push(large), push(small)}}
	l.contents[im.blobs[0]], l.contents[im.blobs[1]] = small, large
	if err := l.pushManifest(im); err != nil {
		t.Fatal(err)
	}
	agree("an image of two blobs")
	for range 5 {
		push(small)
		push(large)
	}
	agree("those blobs five times more")

	pushAndDamage(4)
	agree("a damaged blob")
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
