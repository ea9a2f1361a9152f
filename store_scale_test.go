// Registries of any size, made in a minute.
//
// fillScale writes the rows that pushes would have left, in bulk: indexes and
// triggers are dropped for as long as it takes and made again from the text that
// SQLite has kept of them, and the counts are counted by recount. What is stored
// is true: digests are those of the bytes, manifests parse and refer to what is
// there, and check has nothing to say if all blobs have their files. A large
// registry has them for some images only, which takes most of the time else.

package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// A scale says how much there is in a registry that is made. The first repository has
// so many tags, each of an image of its own; the second has one image with so many
// referrers; the others share what is left of the manifests.
type scale struct {
	repositories, manifests, blobs int
	tags                           int // in the first repository
	referrers                      int // of one image
	untagged                       int // one of so many manifests has no tag, and is loose; 0 for none
	unused                         int // blobs that no manifest uses
	whole                          int // one of so many images has its files; 0 for none
}

// A made manifest is one that was filled in.
type madeManifest struct {
	repository, tag string // "" for none
	digest          digest.Digest
	layer           digest.Digest // the last, of an image that is whole; "" else
}

// A filled registry is a data directory, and what is in it.
type filled struct {
	scale
	dir       string
	manifests []madeManifest
	names     []string
	subject   digest.Digest // the image that has referrers
	loose     int           // manifests without a tag, index or subject
}

const (
	filledUptime = 30 * 24 * 3600 // of a filled registry, in seconds: nothing is due at once
	wholeLayer   = 4 << 10        // bytes of the last layer of an image that is whole
)

// nameOf is the name of the nth repository.
func nameOf(n int) string { return fmt.Sprintf("team%02d/app%05d", n%50, n) }

// blobContent is the nth blob's bytes: the first is the empty config; others may
// be a config or a layer.
func blobContent(n int, config, large bool) []byte {
	switch {
	case n == 0:
		return []byte("{}")
	case config:
		return fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":"%d"}`, n)
	case large:
		content := make([]byte, wholeLayer)
		copy(content, fmt.Sprint("large layer ", n))
		return content
	}
	return fmt.Appendf(nil, "layer %d", n)
}

// A bulk inserts rows of one table, many in one statement.
type bulk struct {
	db      *sql.Conn
	into    string // INSERT INTO … VALUES
	columns int
	args    []any
	stmt    *sql.Stmt // of a full one
}

const bulkRows = 50

func (b *bulk) add(values ...any) error {
	b.columns = len(values)
	b.args = append(b.args, values...)
	if len(b.args) == bulkRows*b.columns {
		return b.flush()
	}
	return nil
}

func (b *bulk) flush() error {
	rows := len(b.args) / max(1, b.columns)
	if rows == 0 {
		return nil
	}
	ctx := context.Background()
	row := "(" + strings.Repeat("?,", b.columns-1) + "?)"
	stmt := b.stmt
	if stmt == nil || rows < bulkRows {
		var err error
		if stmt, err = b.db.PrepareContext(ctx, b.into+" VALUES "+strings.Repeat(row+",", rows-1)+row); err != nil {
			return err
		}
		if rows == bulkRows {
			b.stmt = stmt
		} else {
			defer stmt.Close()
		}
	}
	_, err := stmt.ExecContext(ctx, b.args...)
	b.args = b.args[:0]
	return err
}

// close inserts what is left.
func (b *bulk) close() error {
	err := b.flush()
	if b.stmt != nil {
		err = errors.Join(err, b.stmt.Close())
	}
	return err
}

// fillScale makes a registry of a size in an empty directory.
func fillScale(t testing.TB, dir string, s scale) *filled {
	t.Helper()
	f := &filled{scale: s, dir: dir}
	if err := f.fill(); err != nil {
		t.Fatalf("filling a registry: %v", err)
	}
	return f
}

func (f *filled) fill() error {
	st, err := openStore(storeConfig{dirConfig: dirConfig{dir: f.dir, log: slog.New(slog.NewTextHandler(io.Discard, nil))}})
	if err != nil {
		return err
	}
	if err := st.close(); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", dsnOf(filepath.Join(f.dir, "berth.db"), url.Values{},
		"journal_mode(OFF)", "synchronous(OFF)", "locking_mode(EXCLUSIVE)", "cache_size(-500000)", "temp_store(MEMORY)"))
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(context.Background())
	if err != nil {
		return err
	}
	defer conn.Close()
	exec := func(queries ...string) error {
		for _, q := range queries {
			if _, err := conn.ExecContext(context.Background(), q); err != nil {
				return fmt.Errorf("%.60s: %w", q, err)
			}
		}
		return nil
	}
	if err := exec("BEGIN"); err != nil {
		return err
	}
	before, err := schemaOf(conn)
	if err != nil {
		return err
	}
	var triggers, indexes []string
	for _, x := range before {
		switch {
		case x.kind == "trigger":
			triggers = append(triggers, x.sql)
		case x.kind == "index" && x.sql != "":
			indexes = append(indexes, x.sql)
		default:
			continue
		}
		if err := exec("DROP " + x.kind + " " + x.name); err != nil {
			return err
		}
	}
	if err := f.rows(conn); err != nil {
		return err
	}
	// In the order of their keys, which is many times faster.
	if err := exec(`INSERT INTO uses (repository, blob, manifest)
			SELECT repository, blob, manifest FROM (
				SELECT i.repository, b.id AS blob, i.manifest FROM image i JOIN blob b ON b.id BETWEEN i.first AND i.last
				UNION ALL SELECT repository, base, manifest FROM image)
			ORDER BY 1, 2, 3`,
		`INSERT OR IGNORE INTO link (repository, blob, loose) SELECT DISTINCT repository, blob, NULL FROM uses`); err != nil {
		return err
	}
	for _, list := range [][]string{indexes, {recount, fmt.Sprintf(`UPDATE meta SET uptime = %[1]d, scrubbed = %[1]d, stale = 0`, filledUptime)}, triggers, {"COMMIT"}} {
		if err := exec(list...); err != nil {
			return err
		}
	}
	after, err := schemaOf(conn)
	if err == nil && !slices.Equal(before, after) {
		err = fmt.Errorf("the schema is not what it was: %v, before %v", after, before)
	}
	return err
}

// A schemaObject is a row of sqlite_schema.
type schemaObject struct{ kind, name, table, sql string }

// schemaOf is all of it, in the order of names, but for what is temporary.
func schemaOf(conn *sql.Conn) ([]schemaObject, error) {
	rows, err := conn.QueryContext(context.Background(), `SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name`)
	if err != nil {
		return nil, err
	}
	return collectRows(rows, func(rows *sql.Rows) (x schemaObject, err error) {
		err = rows.Scan(&x.kind, &x.name, &x.table, &x.sql)
		return x, err
	})
}

// rows fills in all but uses and links of what is used.
func (f *filled) rows(conn *sql.Conn) error {
	table := func(into string) *bulk { return &bulk{db: conn, into: "INSERT INTO " + into} }
	repositories := table("repository (id, name)")
	blobs := table("blob (id, digest, size)")
	links := table("link (repository, blob, loose)")
	manifests := table("manifest (id, repository, digest, media_type, loose, subject, artifact_type, annotations, body, platform, met)")
	names := table("names (repository, digest, manifest)")
	tags := table("tag (repository, name, manifest, pushed, time, change)")
	pulls := table("pull (manifest, at, time)")
	histories := table("history (change, n, at, time, who, client, action, why, repository, tag, old, new, made)")
	images := table("image (manifest, repository, first, last, base)")
	if _, err := conn.ExecContext(context.Background(),
		`CREATE TEMP TABLE image (manifest INTEGER PRIMARY KEY, repository INTEGER, first INTEGER, last INTEGER, base INTEGER)`); err != nil {
		return err
	}
	for n := range f.repositories {
		f.names = append(f.names, nameOf(n))
		if err := repositories.add(n+1, nameOf(n)); err != nil {
			return err
		}
	}

	// Blobs: the empty config, base layers of some twenty repositories each, those
	// of one image only, and those of none.
	if err := newDataDir(dirConfig{dir: f.dir}).makeShards(digest.SHA256, nil); err != nil {
		return err
	}
	digests := make([][sha256.Size]byte, 0, f.blobs)
	sizes := make([]int32, 0, f.blobs)
	blob := func(config, large, file bool) error {
		content := blobContent(len(digests), config, large)
		sum := sha256.Sum256(content)
		digests, sizes = append(digests, sum), append(sizes, int32(len(content)))
		text := hex.EncodeToString(sum[:])
		if file {
			path := filepath.Join(f.dir, "blobs", "sha256", text[:2], text, "data")
			if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
				return err
			}
		}
		return blobs.add(len(digests), "sha256:"+text, len(content))
	}
	named := func(n int) digest.Digest {
		return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(digests[n][:]))
	}
	descriptor := func(mediaType string, n int) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, named(n), sizes[n])
	}
	bases := (f.repositories + 19) / 20
	for range 1 + bases {
		if err := blob(false, false, f.whole > 0); err != nil {
			return err
		}
	}
	kinds := f.kinds()
	total := 0 // of images
	for _, k := range kinds {
		if k.kind == "image" {
			total++
		}
	}
	own := f.blobs - 1 - bases - f.unused
	if own < total {
		return fmt.Errorf("%d blobs are too few for %d images", f.blobs, total)
	}

	platform, err := json.Marshal(platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		return err
	}
	var bodies [2]string // of the last two manifests, for indexes
	image, change := 0, 0
	for i, k := range kinds {
		repo, id := k.repository+1, i+1
		m := madeManifest{repository: nameOf(k.repository), tag: k.tag}
		mediaType, artifactType := typeOCIManifest, typeOCIConfig
		var body, platformOf string
		var subject, annotations any
		switch k.kind {
		case "image":
			first, last := image*own/total, (image+1)*own/total-1
			first, last = first+1+bases, last+1+bases
			whole := f.whole > 0 && image%f.whole == 0
			base := 1 + k.repository/20
			layers := []string{descriptor("application/vnd.oci.image.layer.v1.tar+gzip", base)}
			for n := first; n <= last; n++ {
				if err := blob(n == first, whole && n == last && n > first, whole); err != nil {
					return err
				}
				if n > first {
					layers = append(layers, descriptor("application/vnd.oci.image.layer.v1.tar+gzip", n))
				}
			}
			if whole && last > first {
				m.layer = named(last)
			}
			body = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s],"annotations":{"org.opencontainers.image.version":"%d"}}`,
				mediaType, descriptor(typeOCIConfig, first), strings.Join(layers, ","), id)
			platformOf = string(platform)
			if err := images.add(id, repo, first+1, last+1, base+1); err != nil {
				return err
			}
			image++
		case "index":
			mediaType, artifactType = typeOCIIndex, ""
			body, _ = ociIndex(bodies[0], bodies[1])
			for _, member := range bodies {
				if err := names.add(repo, sum(member), id); err != nil {
					return err
				}
			}
		case "referrer":
			artifactType = "application/vnd.example.signature"
			subject, annotations = f.subject, fmt.Sprintf(`{"n":"%d"}`, id)
			body = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":%s,"layers":[%s],"subject":%s,"annotations":%s}`,
				mediaType, artifactType, descriptor("application/vnd.oci.empty.v1+json", 0), descriptor("application/vnd.oci.empty.v1+json", 0),
				descriptorJSON(typeOCIManifest, bodies[1]), annotations)
			if err := images.add(id, repo, 1, 0, 1); err != nil { // none of its own
				return err
			}
		}
		m.digest = sum(body)
		if k.subject {
			f.subject = m.digest
		}
		if k.kind != "referrer" {
			bodies = [2]string{bodies[1], body}
		}
		var loose any
		if k.loose {
			loose = filledUptime - 60
			f.loose++
		}
		if err := manifests.add(id, repo, m.digest, mediaType, loose, subject, artifactType, annotations, []byte(body), platformOf, subject != nil); err != nil {
			return err
		}
		if m.tag != "" {
			change++
			at := int64(filledUptime - len(kinds) + i)
			err := errors.Join(tags.add(repo, m.tag, id, at, at, change),
				histories.add(change, 1, at, at, "kim", "192.0.2.1", "push", "", m.repository, m.tag, "", m.digest, 0))
			if err != nil {
				return err
			}
		}
		if i%3 == 0 {
			if err := pulls.add(id, filledUptime-60, 1700000000); err != nil {
				return err
			}
		}
		f.manifests = append(f.manifests, m)
	}
	for len(digests) < f.blobs {
		err := errors.Join(blob(false, false, f.whole > 0), links.add(1+len(digests)%f.repositories, len(digests), filledUptime-60))
		if err != nil {
			return err
		}
	}
	for _, b := range []*bulk{repositories, blobs, links, manifests, names, tags, pulls, histories, images} {
		if err := b.close(); err != nil {
			return err
		}
	}
	return nil
}

// A madeKind says what a manifest shall be.
type madeKind struct {
	repository     int
	kind           string // image, index, referrer
	tag            string
	subject, loose bool
}

// kinds plans all manifests, by repository.
func (f *filled) kinds() (all []madeKind) {
	for n := range f.tags {
		all = append(all, madeKind{repository: 0, kind: "image", tag: fmt.Sprintf("v%06d", n)})
	}
	all = append(all, madeKind{repository: 1, kind: "image", tag: "signed", subject: true})
	for range f.referrers {
		all = append(all, madeKind{repository: 1, kind: "referrer"})
	}
	rest := f.scale.manifests - len(all)
	for i, last, n := 0, 0, 0; i < rest; i, n = i+1, n+1 {
		k := madeKind{repository: 2 + i*(f.repositories-2)/rest, kind: "image"}
		if k.repository != last {
			last, n = k.repository, 0
		}
		// An index of the two before it now and then; they have no tag.
		switch ends := i+9-n%10 < rest && 2+(i+9-n%10)*(f.repositories-2)/rest == k.repository; {
		case n%10 == 9:
			k.kind, k.tag = "index", fmt.Sprintf("v%d", n)
		case n%10 >= 7 && ends:
		case f.untagged > 0 && i%f.untagged == f.untagged-1:
			k.loose = true
		default:
			k.tag = fmt.Sprintf("v%d", n)
		}
		all = append(all, k)
	}
	return all
}

// smallScale has everything of the large one.
var smallScale = scale{repositories: 22, manifests: 400, blobs: 2000, tags: 100, referrers: 30, untagged: 19, unused: 11, whole: 1}

func TestScaleIsSound(t *testing.T) {
	slow(t)
	t.Parallel()
	begun := time.Now()
	f := fillScale(t, t.TempDir(), smallScale)
	t.Logf("filled in %v", time.Since(begun))
	r := startRegistry(t, func(c *config) { c.dir = f.dir })
	report, err := r.st.check(t.Context(), false, func(int64) {})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.findings)+len(report.damaged)+len(report.rubbish) > 0 {
		t.Fatalf("check finds %+v, damaged %v, left over %v", report.findings[:min(3, len(report.findings))], report.damaged, report.rubbish)
	}
	if report.repositories.seen != f.repositories || report.manifests != f.scale.manifests || report.blobs != f.blobs || len(f.manifests) != f.scale.manifests {
		t.Errorf("check counts %+v, want %+v", report, f.scale)
	}
	figures, err := r.st.stats.figures(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if int(figures.Repositories) != f.repositories || int(figures.Manifests.Count) != f.scale.manifests || int(figures.Blobs.Count) != f.blobs ||
		int(figures.Tags) != report.tags || figures.Blobs.Bytes != report.bytes || int(figures.Untagged) != f.loose ||
		int(figures.Unused.Count) != f.unused || figures.Shared.Count == 0 || f.loose == 0 {
		t.Errorf("figures %+v of %+v", figures, f.scale)
	}

	// The front door shows the same.
	indexes, layers := 0, 0
	for _, m := range f.manifests {
		re := r.want(200, "GET", "/v2/"+m.repository+"/manifests/"+m.digest.String(), nil)
		if sum(string(re.body)) != m.digest {
			t.Fatalf("%s has the digest %s", m.digest, sum(string(re.body)))
		}
		if m.tag != "" {
			r.want(200, "HEAD", "/v2/"+m.repository+"/manifests/"+m.tag, nil).has("Docker-Content-Digest", m.digest.String())
		}
		if m.layer != "" {
			layers++
			if re := r.want(200, "GET", "/v2/"+m.repository+"/blobs/"+m.layer.String(), nil); sum(string(re.body)) != m.layer || len(re.body) != wholeLayer {
				t.Fatalf("%s has %d bytes and the digest %s", m.layer, len(re.body), sum(string(re.body)))
			}
		}
		if re.header.Get("Content-Type") == typeOCIIndex {
			indexes++
		}
	}
	if indexes < 10 || layers < 200 {
		t.Errorf("%d indexes, %d images with a large layer", indexes, layers)
	}
	for path, want := range map[string]int{
		"/v2/" + nameOf(0) + "/tags/list": f.tags,
		"/v2/_catalog":                    f.repositories,
		"/v2/" + nameOf(1) + "/referrers/" + f.subject.String():      f.referrers,
		"/v2/" + nameOf(0) + "/tags/list?n=10&last=v000094":          5,
		"/v2/_catalog?n=7&last=" + url.QueryEscape(f.names[0]) + "a": 7,
	} {
		var list struct {
			Tags, Repositories []string
			Manifests          []referrer
		}
		re := r.want(200, "GET", path, nil)
		if err := json.Unmarshal(re.body, &list); err != nil {
			t.Fatal(err)
		}
		if n := len(list.Tags) + len(list.Repositories) + len(list.Manifests); n != want {
			t.Errorf("GET %s: %d entries, want %d", path, n, want)
		}
	}
	// It lives: what is pushed and deleted is counted on from there.
	r.pushImage(nameOf(3), "new", "{}", "a new layer")
	r.want(202, "DELETE", "/v2/"+nameOf(0)+"/manifests/v000001", nil)
	r.want(202, "DELETE", "/v2/"+nameOf(1)+"/manifests/"+f.subject.String(), nil)
	r.pass(30 * 24 * time.Hour)
}
