//go:build unix

// Sizes that an int of 32 bits, or an unsigned one, does not hold. The files have
// holes, so they take no room.

package main

import (
	"database/sql"
	"encoding/binary"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// beyond is a size above 4 GiB, and what it is modulo that is a size too.
const beyond = 5<<30 + 7

// makeSparse makes a file of size bytes that are zeros, but for marks.
func makeSparse(t *testing.T, path string, size int64, marks map[int64]string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		skip(t, err.Error())
	}
	for at, mark := range marks {
		if _, err := f.WriteAt([]byte(mark), at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUploadBeyondFourGiB(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(cfg *config) { cfg.maxBlob = beyond + 10 })
	location := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	r.want(202, "PATCH", location, "0123456789")
	r.stop()
	id := filepath.Base(location)
	file := filepath.Join(r.cfg.dir, "uploads", id)
	makeSparse(t, file, beyond, nil)
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), fmt.Sprintf(`UPDATE upload SET offset = %d WHERE id = '%s'`, int64(beyond), id))
	r.start()

	r.want(204, "GET", location, nil).has("Range", fmt.Sprintf("0-%d", int64(beyond-1)))
	for _, first := range []int64{0, beyond & (1<<31 - 1), beyond & (1<<32 - 1), beyond - 1, beyond + 1, beyond + 1<<32} {
		r.want(416, "PATCH", location, "abc", fmt.Sprintf("Content-Range: %d-%d", first, first+2)).has("Range", fmt.Sprintf("0-%d", int64(beyond-1)))
	}
	r.want(413, "PATCH", location, "more than the limit", fmt.Sprintf("Content-Range: %d-%d", int64(beyond), int64(beyond+18)))
	r.want(202, "PATCH", location, "hello", fmt.Sprintf("Content-Range: %d-%d", int64(beyond), int64(beyond+4))).
		has("Range", fmt.Sprintf("0-%d", int64(beyond+4)))
	r.want(202, "PATCH", location, struct{ *strings.Reader }{strings.NewReader("again")}).
		has("Range", fmt.Sprintf("0-%d", int64(beyond+9)))
	got := make([]byte, 10)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(got, beyond); err != nil || string(got) != "helloagain" {
		t.Errorf("the file ends with %q, %v", got, err)
	}
	if figures, err := r.st.stats.figures(t.Context()); err != nil || figures.Uploads.Bytes != beyond+10 {
		t.Errorf("uploads have %d bytes, %v; want %d", figures.Uploads.Bytes, err, int64(beyond+10))
	}
	r.restart()
	r.want(204, "GET", location, nil).has("Range", fmt.Sprintf("0-%d", int64(beyond+9)))
	r.want(204, "DELETE", location, nil) // to hash it all takes too long
}

func TestBlobBeyondFourGiB(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "to be replaced")
	r.pushBlob("a", "{}")
	path := r.st.path(d)
	r.stop()
	makeSparse(t, path, beyond, map[int64]string{0: "first", 1<<31 - 2: "two GiB", 1<<32 - 2: "four GiB", beyond - 4: "last"})
	// A lie about the digest, so that nothing of it need be hashed.
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), fmt.Sprintf(`UPDATE blob SET size = %d WHERE digest = '%s'`, int64(beyond), d))
	r.start()

	blob := "/v2/a/blobs/" + d.String()
	r.want(200, "HEAD", blob, nil).has("Content-Length", fmt.Sprint(int64(beyond)))
	for _, c := range []struct{ asked, told, want string }{
		{"0-4", "0-4", "first"},
		{"2147483646-2147483652", "2147483646-2147483652", "two GiB"},
		{"4294967294-4294967301", "4294967294-4294967301", "four GiB"},
		{"-4", fmt.Sprintf("%d-%d", int64(beyond-4), int64(beyond-1)), "last"},
		{fmt.Sprintf("%d-", int64(beyond-4)), fmt.Sprintf("%d-%d", int64(beyond-4), int64(beyond-1)), "last"},
	} {
		r.want(206, "GET", blob, nil, "Range: bytes="+c.asked).is(c.want).
			has("Content-Range", fmt.Sprintf("bytes %s/%d", c.told, int64(beyond)))
	}
	piece := r.want(206, "GET", blob, nil, "Range: bytes=4293918720-4296015871").body // 2 MiB around
	if len(piece) != 2<<20 || string(piece[1<<20-2:1<<20+6]) != "four GiB" {
		t.Errorf("2 MiB around 4 GiB are %d bytes with %q in their middle", len(piece), piece[len(piece)/2-2:][:8])
	}
	r.want(416, "GET", blob, nil, fmt.Sprintf("Range: bytes=%d-", int64(beyond)))

	r.want(201, "POST", "/v2/b/blobs/uploads/?from=a&mount="+d.String(), nil)
	r.want(202, "DELETE", "/v2/b/blobs/"+d.String(), nil)
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[{"mediaType":"text/plain","digest":%q,"size":%d}]}`,
		typeOCIManifest, descriptorJSON("text/plain", "{}"), d, int64(beyond))
	r.pushManifest("a", "x", manifest, typeOCIManifest)
	figures, err := r.st.stats.figures(t.Context())
	if err != nil || figures.Blobs.Bytes != beyond+2 || figures.Blobs.Count != 2 {
		t.Errorf("blobs: %+v, %v; want %d bytes", figures.Blobs, err, int64(beyond+2))
	}
	if re := r.want(200, "GET", "/metrics", nil); !strings.Contains(string(re.body), fmt.Sprintf("\nberth_blob_bytes %d\n", int64(beyond+2))) {
		t.Errorf("/metrics does not say that there are %d bytes", int64(beyond+2))
	}
	r.want(202, "DELETE", "/v2/a/manifests/"+sum(manifest).String(), nil)
	r.pass(r.cfg.untaggedGrace + time.Minute)
	r.moved.Add(int64(r.cfg.grace + time.Minute))
	if figures, err := r.st.stats.figures(t.Context()); err != nil || figures.Reclaimable.Bytes != beyond+2 {
		t.Errorf("reclaimable: %+v, %v; want %d bytes", figures.Reclaimable, err, int64(beyond+2))
	}
	r.pass(0)
	if r.hasFile(d) {
		t.Error("the file is still there")
	}
}

// SQLite's file, too, may be that large.
func TestDatabaseBeyondFourGiB(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "large.db")
	open := func() *sql.DB {
		db, err := sql.Open("sqlite", dsnOf(path, url.Values{"_journal_mode": {"WAL"}}, "page_size(2048)", "synchronous(FULL)"))
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	exec := func(db *sql.DB, query string, args ...any) {
		t.Helper()
		if _, err := db.Exec(query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	db := open()
	exec(db, `CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)`)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// Pages that nobody uses, and the header that says so.
	const pages = 5 << 30 / 2048
	var count [4]byte
	binary.BigEndian.PutUint32(count[:], pages)
	makeSparse(t, path, pages*2048, map[int64]string{28: string(count[:])})

	db = open()
	content := noise(1, 1<<20)
	for i := range 4 {
		exec(db, `INSERT INTO t VALUES (?, ?)`, int64(i)<<33+1, content)
	}
	if err := db.Close(); err != nil { // moves the log into the database
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() < pages*2048+4<<20 {
		t.Fatalf("the database has %d bytes, %v; want more than %d", info.Size(), err, int64(pages*2048+4<<20))
	}
	db = open()
	defer db.Close()
	for i := range 4 {
		var got []byte
		if err := db.QueryRow(`SELECT b FROM t WHERE n = ?`, int64(i)<<33+1).Scan(&got); err != nil || string(got) != content {
			t.Errorf("row %d: %d bytes, %v", i, len(got), err)
		}
	}
}

// An index that a client pushes may say anything of what it has.
func TestPlatformsOfLargeMembers(t *testing.T) {
	t.Parallel()
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,
		"platform":{"os":"linux","architecture":"arm"}}]}`, typeOCIIndex, typeOCIManifest, sum(""), int64(beyond))
	if list := platforms("", typeOCIIndex, []byte(index)); len(list) != 1 || list[0] != "linux/arm" {
		t.Errorf("platforms: %q, want linux/arm", list)
	}
}

// A limit that nobody can reach refuses nobody.
func TestRateLimitBeyondAllRequests(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(cfg *config) { cfg.auth.perSecond = 1<<31 - 1 })
	for range 3 {
		r.want(200, "GET", "/v2/", nil)
	}
}
