// What is garbage, what would go and what goes: three answers that have to be
// one. And what clients were told of, which stays.

package main

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"modernc.org/sqlite"
)

var (
	garbageSeed  = flag.Uint64("garbage.seed", 0, "seed of the random histories; 0 for any")
	garbageSteps = flag.Int("garbage.steps", 80, "steps of a random history")
)

// freeze stops the registry's clock: only the test moves it.
func (r *registry) freeze() {
	r.st.now = func() time.Duration { return time.Duration(r.moved.Load()) }
	r.server.gate.logins.attempts.patience = 0 // nobody waits for a clock that stands
}

// collect is a collection on the spot.
func (r *registry) collect(g graces) tally {
	r.t.Helper()
	c, err := r.st.collector.collect(r.t.Context(), g)
	if err != nil {
		r.t.Fatalf("collecting: %v", err)
	}
	return c
}

var collectNow = graces{now: true, upload: 1 << 62}

// An inventory is all that is stored, read from the database's plain rows and from
// the disk, with no use of counts, of plans or of what is noted as loose.
type inventory struct {
	manifests map[string]*storedThing // by repository@digest
	links     map[string]*storedThing // likewise
	trash     map[digest.Digest]int64
	files     map[digest.Digest]int64
	uploads   amount
	emptying  map[string]bool // repositories
}

type storedThing struct {
	repository   string
	digest       digest.Digest
	size         int64
	loose        sql.NullInt64
	tags         int
	refers       []digest.Digest // to blobs and members
	subject      digest.Digest
	live, needed bool          // a tag leads here; anything refers to it
	deleted      bool          // by a client
	stray        bool          // its subject was never there
	hidden       sql.NullInt64 // when its repository was
}

// key is the name of a thing in a repository.
func key(repository string, d digest.Digest) string { return repository + "@" + d.String() }

func (r *registry) inventory() *inventory {
	r.t.Helper()
	c := &inventory{
		manifests: make(map[string]*storedThing), links: make(map[string]*storedThing),
		trash: make(map[digest.Digest]int64), files: make(map[digest.Digest]int64),
	}
	query := func(query string, scan func(*sql.Rows) error) {
		r.t.Helper()
		rows, err := r.st.readers.Query(query)
		if err != nil {
			r.t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			if err := scan(rows); err != nil {
				r.t.Fatal(err)
			}
		}
		if err := rows.Err(); err != nil {
			r.t.Fatal(err)
		}
	}
	query(`SELECT r.name, m.digest, m.body, m.loose, (SELECT count(*) FROM tag WHERE manifest = m.id), m.deleted IS NOT NULL, r.deleted,
			m.subject IS NOT NULL AND NOT m.met
		FROM manifest m JOIN repository r ON r.id = m.repository`, func(rows *sql.Rows) error {
		var body []byte
		m := &storedThing{}
		if err := rows.Scan(&m.repository, &m.digest, &body, &m.loose, &m.tags, &m.deleted, &m.hidden, &m.stray); err != nil {
			return err
		}
		m.size = int64(len(body))
		type named struct{ Digest digest.Digest }
		var doc struct {
			Config, Subject   named
			Layers, Manifests []named
		}
		if err := json.Unmarshal(body, &doc); err != nil {
			return err
		}
		for _, d := range slices.Concat(doc.Layers, doc.Manifests, []named{doc.Config}) {
			m.refers = append(m.refers, d.Digest)
		}
		m.subject = doc.Subject.Digest
		c.manifests[key(m.repository, m.digest)] = m
		return nil
	})
	query(`SELECT r.name, b.digest, b.size, l.loose, r.deleted FROM link l JOIN blob b ON b.id = l.blob JOIN repository r ON r.id = l.repository`, func(rows *sql.Rows) error {
		l := &storedThing{}
		err := rows.Scan(&l.repository, &l.digest, &l.size, &l.loose, &l.hidden)
		c.links[key(l.repository, l.digest)] = l
		return err
	})
	query(`SELECT digest, size FROM trash`, func(rows *sql.Rows) error {
		var d digest.Digest
		var size int64
		err := rows.Scan(&d, &size)
		c.trash[d] = size
		return err
	})
	query(`SELECT offset FROM upload`, func(rows *sql.Rows) error {
		offset, err := scanOne[int64](rows)
		c.uploads.Count++
		c.uploads.Bytes += offset
		return err
	})
	c.emptying = make(map[string]bool)
	query(`SELECT name FROM repository WHERE emptying = 1`, func(rows *sql.Rows) error {
		name, err := scanOne[string](rows)
		c.emptying[name] = true
		return err
	})
	c.files = blobFiles(r.t, r.cfg.dir)

	type signature struct {
		of digest.Digest
		*storedThing
	}
	var signatures []signature
	query(`SELECT r.name, t.name, m.digest FROM tag t JOIN repository r ON r.id = t.repository JOIN manifest m ON m.id = t.manifest`, func(rows *sql.Rows) error {
		var repository, tag string
		var d digest.Digest
		err := rows.Scan(&repository, &tag, &d)
		if algorithm, hex, ok := strings.Cut(strings.TrimSuffix(tag, ".sig"), "-"); ok {
			signatures = append(signatures, signature{digest.Digest(algorithm + ":" + hex), c.manifests[key(repository, d)]})
		}
		return err
	})
	for _, m := range c.manifests {
		m.stray = m.stray && !m.deleted
		s := c.manifests[key(m.repository, m.subject)]
		m.needed = m.needed || m.tags > 0 || m.stray || s != nil && !s.deleted
		for _, d := range m.refers {
			if x := c.manifests[key(m.repository, d)]; x != nil && !m.deleted {
				x.needed = true
			}
			if x := c.links[key(m.repository, d)]; x != nil {
				x.needed = true
			}
		}
	}
	for _, m := range c.manifests {
		m.needed = m.needed && !m.deleted
	}
	// Take away what nothing refers to, until there is no more of it. What was deleted
	// refers to its blobs only; with an image go the tags that belong to it.
	for _, m := range c.manifests {
		m.live = !m.deleted && !m.hidden.Valid
	}
	for again := true; again; {
		again = false
		tags := make(map[*storedThing]int)
		members := make(map[string]bool)
		for _, x := range signatures {
			if image := c.manifests[key(x.repository, x.of)]; image != nil && !image.live {
				tags[x.storedThing]--
			}
		}
		for _, m := range c.manifests {
			for _, d := range m.refers {
				if m.live {
					members[key(m.repository, d)] = true
				}
			}
		}
		for k, m := range c.manifests {
			s := c.manifests[key(m.repository, m.subject)]
			if m.live && m.tags+tags[m] == 0 && !m.stray && !members[k] && (s == nil || !s.live) {
				m.live, again = false, true
			}
		}
	}
	for _, m := range c.manifests {
		for _, d := range m.refers {
			if x := c.links[key(m.repository, d)]; x != nil && m.live {
				x.live = true
			}
		}
	}
	return c
}

// blobFiles returns the blobs' files in a data directory with their sizes.
func blobFiles(t testing.TB, dir string) map[digest.Digest]int64 {
	t.Helper()
	files := make(map[digest.Digest]int64)
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		algorithm := filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(path))))
		files[digest.Digest(algorithm+":"+filepath.Base(filepath.Dir(path)))] = info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// dead returns what goes if the function says so of each thing: a blob's file
// goes with its last link.
func (c *inventory) dead(goes func(*storedThing) bool) (t tally, files map[digest.Digest]int64) {
	for _, m := range c.manifests {
		if goes(m) {
			t.Manifests++
		}
	}
	files = make(map[digest.Digest]int64)
	for _, l := range c.links {
		files[l.digest] = l.size
	}
	for _, l := range c.links {
		if !goes(l) {
			delete(files, l.digest)
		}
	}
	t.Blobs = len(files)
	for _, size := range files {
		t.Bytes += size
	}
	return t, files
}

// figures is what the registry should say of itself. What depends on graces is
// for a registry whose untagged manifests do not stay for ever.
func (c *inventory) figures(due func(*storedThing) bool) (f figures, list []repositoryFigures) {
	repositories := make(map[string]*repositoryFigures)
	at := func(name string) *repositoryFigures {
		if repositories[name] == nil {
			repositories[name] = &repositoryFigures{Name: name}
		}
		return repositories[name]
	}
	add := func(a *amount, size int64) { a.Count++; a.Bytes += size }
	for _, m := range c.manifests {
		r := at(m.repository)
		add(&r.Manifests, m.size)
		add(&f.Manifests, m.size)
		r.Tags += int64(m.tags)
		if !m.hidden.Valid {
			f.Tags += int64(m.tags)
		}
		if !m.needed {
			r.Untagged++
		}
		if !m.needed || m.hidden.Valid {
			f.Untagged++
		}
	}
	holders := make(map[digest.Digest][]*storedThing)
	for _, l := range c.links {
		holders[l.digest] = append(holders[l.digest], l)
	}
	for _, links := range holders {
		size := links[0].size
		add(&f.Blobs, size)
		unused := true
		for _, l := range links {
			r := at(l.repository)
			add(&r.Blobs, size)
			if len(links) > 1 {
				add(&r.Shared, size)
			}
			if !l.needed {
				add(&r.Unused, size)
			}
			unused = unused && !l.needed
		}
		if unused {
			add(&f.Unused, size)
		}
		if len(links) > 1 {
			add(&f.Shared, size)
			f.Saved += int64(len(links)-1) * size
		}
	}
	maps.DeleteFunc(repositories, func(name string, _ *repositoryFigures) bool { return strings.Contains(name, "#") })
	seen, deleted := make(map[string]bool), make(map[string]bool)
	for _, m := range c.manifests {
		if !m.deleted && !m.hidden.Valid {
			seen[m.repository] = true
		}
	}
	for _, m := range c.manifests {
		if !seen[m.repository] && !c.emptying[m.repository] {
			deleted[m.repository] = true
		}
	}
	f.Repositories, f.DeletedRepositories = int64(len(seen)), int64(len(deleted))
	f.Uploads = c.uploads
	now, _ := c.dead(due)
	later, _ := c.dead(func(x *storedThing) bool { return !x.live })
	f.Reclaimable = amount{int64(now.Blobs), now.Bytes}
	f.InGrace = amount{int64(later.Blobs - now.Blobs), later.Bytes - now.Bytes}
	for _, size := range c.trash {
		add(&f.Reclaimable, size)
	}
	for _, name := range slices.Sorted(maps.Keys(repositories)) {
		list = append(list, *repositories[name])
	}
	return f, list
}

// A history does random things to a registry, in few repositories and with few
// contents, so that everything happens to share with everything.
type history struct {
	r      *registry
	rng    *rand.Rand
	did    []string
	bodies map[string]map[digest.Digest]string // manifests pushed to a repository; some are gone
}

func (h *history) repo() string    { return string(rune('a' + h.rng.IntN(3))) }
func (h *history) content() string { return noise(uint64(h.rng.IntN(9)), 20) }
func (h *history) tag() string     { return fmt.Sprint("t", h.rng.IntN(3)) }

// known returns the digest of some manifest of a repository, or of none.
func (h *history) known(repo string) digest.Digest {
	all := slices.Sorted(maps.Keys(h.bodies[repo]))
	if len(all) == 0 {
		return sum("nothing")
	}
	return all[h.rng.IntN(len(all))]
}

// push pushes a manifest under a tag or by its digest.
func (h *history) push(repo, body, mediaType string) {
	reference := sum(body).String()
	if h.rng.IntN(2) == 0 {
		reference = h.tag()
	}
	if h.rng.IntN(6) == 0 { // it belongs to an image, perhaps
		reference = signatureTag(h.known(repo)) + [...]string{"", ".sig"}[h.rng.IntN(2)]
	}
	if re := h.r.do("PUT", "/v2/"+repo+"/manifests/"+reference, body, "Content-Type: "+mediaType); re.status == 201 {
		h.bodies[repo][sum(body)] = body
	}
}

func (h *history) step() (did string) {
	r, repo, content := h.r, h.repo(), h.content()
	d := sum(content).String()
	switch n := h.rng.IntN(22); n {
	case 0, 1:
		r.pushBlob(repo, content)
		return "pushed a blob to " + repo
	case 2:
		r.do("POST", "/v2/"+repo+"/blobs/uploads/?from="+h.repo()+"&mount="+d, nil)
		return "mounted in " + repo
	case 3, 4, 5, 6: // an image; some have a subject, some a layer from elsewhere
		layers := []string{content, h.content()}
		for _, c := range append(layers, "{}") {
			r.pushBlob(repo, c)
		}
		layerType, more := "application/vnd.oci.image.layer.v1.tar", ""
		if h.rng.IntN(6) == 0 {
			layerType = "application/vnd.oci.image.layer.nondistributable.v1.tar"
		}
		if h.rng.IntN(2) == 0 {
			more = fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":7}`, typeOCIManifest, h.known(repo))
		}
		im := newImage(typeOCIManifest, "x/config", layerType, more, "{}", slices.Compact(layers)...)
		h.push(repo, im.manifest, typeOCIManifest)
		return "pushed an image to " + repo
	case 7, 8, 9: // an index of anything, and sometimes of a blob
		var list []string
		for range 1 + h.rng.IntN(3) {
			if body, ok := h.bodies[repo][h.known(repo)]; ok {
				list = append(list, descriptorJSON(typeOCIManifest, body))
			}
		}
		if h.rng.IntN(4) == 0 {
			r.pushBlob(repo, content)
			list = append(list, descriptorJSON("application/vnd.oci.image.layer.v1.tar", content))
		}
		h.push(repo, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, typeOCIIndex, strings.Join(slices.Compact(list), ",")), typeOCIIndex)
		return "pushed an index to " + repo
	case 10:
		if body, ok := h.bodies[repo][h.known(repo)]; ok {
			mediaType := typeOCIManifest
			if strings.Contains(body, typeOCIIndex) {
				mediaType = typeOCIIndex
			}
			r.do("PUT", "/v2/"+repo+"/manifests/"+h.tag(), body, "Content-Type: "+mediaType)
		}
		return "moved a tag in " + repo
	case 11, 12:
		r.do("DELETE", "/v2/"+repo+"/manifests/"+h.tag(), nil)
		return "deleted a tag in " + repo
	case 13:
		known := h.known(repo)
		r.do("DELETE", "/v2/"+repo+"/manifests/"+known.String(), nil)
		return "deleted a manifest in " + repo
	case 14:
		r.do("DELETE", "/v2/"+repo+"/blobs/"+d, nil)
		return "deleted a blob in " + repo
	case 15:
		r.do("HEAD", "/v2/"+repo+"/blobs/"+d, nil)
		r.do("HEAD", "/v2/"+repo+"/manifests/"+h.known(repo).String(), nil)
		return "looked at things in " + repo
	case 16:
		r.want(202, "PATCH", r.want(202, "POST", "/v2/"+repo+"/blobs/uploads/", nil).location(), content)
		return "began an upload in " + repo
	case 17:
		if h.rng.IntN(3) > 0 {
			return "nothing"
		}
		r.do("DELETE", "/v2/"+repo+"/_berth/repository", nil)
		return "deleted the repository " + repo
	case 18:
		r.st.undo(int64(1+h.rng.IntN(1+len(h.did))), "", "", author{overwrite: true}) // which may be in the way of something
		return "undid something"
	default:
		d := time.Duration(h.rng.Int64N(int64(r.cfg.grace)))
		r.moved.Add(int64(d))
		return "waited " + d.String()
	}
}

// verify compares all that the registry says of itself with a recount.
func (h *history) verify() error {
	r := h.r
	c := r.inventory()
	cutoff := func(grace time.Duration) int64 { return int64((r.st.uptime() - grace) / time.Second) }
	due := func(x *storedThing) bool {
		grace := r.cfg.grace
		if c.manifests[key(x.repository, x.digest)] == x {
			grace = r.cfg.untaggedGrace
		}
		if x.hidden.Valid && x.hidden.Int64 < cutoff(grace) && grace == r.cfg.untaggedGrace {
			return true
		}
		return x.loose.Valid && x.loose.Int64 < cutoff(grace)
	}
	want, wantList := c.figures(due)
	got := r.figures()
	want.Database, want.DiskFree, want.DiskTotal, want.DiskFloor = got.Database, got.DiskFree, got.DiskTotal, got.DiskFloor
	want.Uptime = int64(r.st.uptime() / time.Second)
	var problems []error
	if got != want {
		problems = append(problems, fmt.Errorf("figures are\n%+v, want\n%+v", got, want))
	}
	var gotList []repositoryFigures
	err := r.st.stats.eachRepository(r.t.Context(), "", func(f repositoryFigures) error { gotList = append(gotList, f); return nil })
	if err != nil || !slices.Equal(gotList, wantList) {
		problems = append(problems, fmt.Errorf("figures of repositories are\n%+v (%v), want\n%+v", gotList, err, wantList))
	}
	for _, x := range slices.Concat(slices.Collect(maps.Values(c.manifests)), slices.Collect(maps.Values(c.links))) {
		if x.needed == x.loose.Valid {
			problems = append(problems, fmt.Errorf("%s: needed %v, loose %v", key(x.repository, x.digest), x.needed, x.loose))
		}
	}
	files := maps.Clone(c.trash)
	for _, l := range c.links {
		files[l.digest] = l.size
	}
	if !maps.Equal(files, c.files) {
		problems = append(problems, fmt.Errorf("%d files on the disk, want %d", len(c.files), len(files)))
	}
	// What would go if everything were due.
	wantTally, _ := c.dead(func(x *storedThing) bool { return !x.live })
	for _, size := range c.trash {
		wantTally.Blobs++
		wantTally.Bytes += size
	}
	gotTally, err := r.st.plan(r.t.Context(), collectNow, false, func(doomed) error { return nil })
	if err != nil || gotTally != wantTally {
		problems = append(problems, fmt.Errorf("the plan of all is\n%+v (%v), want\n%+v", gotTally, err, wantTally))
	}
	return errors.Join(problems...)
}

// collect collects, and compares what goes with the plan for it.
func (h *history) collect(g graces, promises bool) error {
	r := h.r
	before := r.inventory()
	var manifests, links []string
	var bytes int64
	planned, err := r.st.plan(r.t.Context(), g, promises, func(d doomed) error {
		switch {
		case d.Why == "":
			return fmt.Errorf("no reason is given for %+v", d)
		case d.Kind == "manifest":
			manifests = append(manifests, key(d.Repository, d.Digest))
		case d.Kind == "blob" && d.Repository != "":
			links = append(links, key(d.Repository, d.Digest))
		}
		if d.Kind == "blob" {
			bytes += d.Bytes
		}
		return nil
	})
	if err != nil {
		return err
	}
	did := r.collect(g)
	after := r.inventory()
	var problems []error
	missing := func(before, after map[string]*storedThing) (gone []string) {
		for k := range before {
			if after[k] == nil {
				gone = append(gone, k)
			}
		}
		slices.Sort(gone)
		return gone
	}
	for _, x := range []struct {
		what          string
		planned, gone []string
	}{
		{"manifests", manifests, missing(before.manifests, after.manifests)},
		{"links", links, missing(before.links, after.links)},
	} {
		slices.Sort(x.planned)
		if !slices.Equal(x.planned, x.gone) {
			problems = append(problems, fmt.Errorf("%s that went:\n%v\nplanned:\n%v", x.what, x.gone, x.planned))
		}
	}
	var freed int64
	for d, size := range before.files {
		if _, still := after.files[d]; !still {
			freed += size
		}
	}
	if freed != bytes || freed != planned.Bytes {
		problems = append(problems, fmt.Errorf("%d bytes of files went, the plan lists %d and sums up %d", freed, bytes, planned.Bytes))
	}
	for _, size := range before.trash { // it had gone before
		planned.Blobs--
		planned.Bytes -= size
	}
	if planned != did {
		problems = append(problems, fmt.Errorf("collected\n%+v, planned\n%+v", did, planned))
	}
	if len(after.trash) > 0 {
		problems = append(problems, fmt.Errorf("%d files are still to be removed", len(after.trash)))
	}
	return errors.Join(problems...)
}

func TestFiguresPlanAndCollectionAgree(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, promises := range []bool{false, true} {
		t.Run(fmt.Sprintf("promises=%v", promises), func(t *testing.T) {
			t.Parallel()
			seed := cmp.Or(*garbageSeed, rand.Uint64())
			t.Logf("-garbage.seed %d", seed)
			r := startRegistry(t, func(c *config) {
				c.noPromises = !promises
				c.untaggedGrace = 3 * c.grace
			})
			r.freeze()
			if promises {
				r.moved.Add(int64(2 * promiseTime)) // what was promised before the start
			}
			h := &history{r: r, rng: rand.New(rand.NewPCG(seed, 1)),
				bodies: map[string]map[digest.Digest]string{"a": {}, "b": {}, "c": {}}}
			for i := range *garbageSteps {
				did := h.step()
				h.did = append(h.did, did)
				err := h.verify()
				if err == nil && h.rng.IntN(8) == 0 {
					g := r.st.graces()
					g.now = h.rng.IntN(3) == 0
					err = h.collect(g, promises)
					h.did = append(h.did, fmt.Sprintf("collected, now: %v", g.now))
					if err == nil {
						err = h.verify()
					}
				}
				if err != nil {
					t.Fatalf("step %d: %v\nafter: %s", i, err, strings.Join(h.did[max(0, len(h.did)-15):], "; "))
				}
			}
			// Without tags, and referrers of what was never there, all goes.
			for _, repo := range []string{"a", "b", "c"} {
				var answer struct{ Tags []string }
				json.Unmarshal(r.do("GET", "/v2/"+repo+"/tags/list", nil).body, &answer)
				for _, tag := range answer.Tags {
					r.do("DELETE", "/v2/"+repo+"/manifests/"+tag, nil)
				}
			}
			r.moved.Add(int64(3 * promiseTime))
			if n := len(r.inventory().manifests); n == 0 {
				t.Error("a history without a manifest tests nothing")
			}
			for range 10 { // one that an index has cannot be deleted before that is collected
				for _, m := range r.inventory().manifests {
					if m.stray && !m.hidden.Valid {
						r.do("DELETE", "/v2/"+m.repository+"/manifests/"+m.digest.String(), nil)
					}
				}
				r.moved.Add(int64(3 * promiseTime))
				if err := errors.Join(h.verify(), h.collect(collectNow, promises), h.verify()); err != nil {
					t.Error(err)
				}
			}
			if left := r.inventory(); len(left.manifests)+len(left.links)+len(left.files) > 0 {
				t.Errorf("%d manifests, %d links and %d files are left", len(left.manifests), len(left.links), len(left.files))
			}
		})
	}
}

// Trees of every shape go at once, and nothing else does.
func TestWhatFallsTogether(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.noPromises = true })
	r.freeze()
	put := func(repo, reference, body, mediaType string) digest.Digest {
		t.Helper()
		d := sum(body)
		r.want(201, "PUT", "/v2/"+repo+"/manifests/"+cmp.Or(reference, d.String()), body, "Content-Type: "+mediaType)
		return d
	}
	for _, repo := range []string{"a", "b", "c"} {
		for _, content := range []string{"{}", "1", "2", "3", "cache", "sig"} {
			r.pushBlob(repo, content)
		}
		shared, own, tagged := ociImage("{}", "1"), ociImage("{}", "2"), ociImage("{}", "3")
		put(repo, "", shared.manifest, typeOCIManifest)
		put(repo, "", own.manifest, typeOCIManifest)
		put(repo, "member", tagged.manifest, typeOCIManifest)
		inner, _ := ociIndex(own.manifest)
		put(repo, "", inner, typeOCIIndex)
		outer, _ := ociIndex(shared.manifest, tagged.manifest, inner)
		put(repo, "outer", outer, typeOCIIndex)
		other, _ := ociIndex(shared.manifest)
		if repo != "c" {
			put(repo, "other", other, typeOCIIndex)
		}
		cache := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, typeOCIIndex, descriptorJSON("application/vnd.oci.image.layer.v1.tar", "cache"))
		put(repo, "cache", cache, typeOCIIndex)
		sig := newImage(typeOCIManifest, "x/sig", "x/sig", `,"subject":`+descriptorJSON(typeOCIIndex, outer), "{}", "sig")
		put(repo, "", sig.manifest, typeOCIManifest)
		sigsig := newImage(typeOCIManifest, "x/sig", "x/sig", `,"subject":`+descriptorJSON(typeOCIManifest, sig.manifest), "{}", "sig")
		put(repo, "", sigsig.manifest, typeOCIManifest)
	}
	for i, x := range []struct {
		delete string
		want   tally
	}{
		// The outer index, the inner one with its member, a signature and its signature.
		// Others have the blobs: "a" still uses 1 and 3, "b" and "c" all.
		{"a/manifests/outer", tally{Manifests: 5}},
		{"a/manifests/cache", tally{Manifests: 1}},
		{"b/manifests/outer", tally{Manifests: 5}},
		{"b/manifests/other", tally{Manifests: 2}},
		{"b/manifests/cache", tally{Manifests: 1}},
		// 1 is used in "a", 2 and the signature nowhere.
		{"c/manifests/outer", tally{Manifests: 6, Blobs: 2, Bytes: int64(len("2" + "sig"))}},
		{"c/manifests/cache", tally{Manifests: 1, Blobs: 1, Bytes: int64(len("cache"))}},
		{"a/manifests/other", tally{Manifests: 2, Blobs: 1, Bytes: int64(len("1"))}},
		{"a/manifests/member", tally{Manifests: 1}},
		{"b/manifests/member", tally{Manifests: 1}},
		{"c/manifests/member", tally{Manifests: 1, Blobs: 2, Bytes: int64(len("3" + "{}"))}},
	} {
		r.want(202, "DELETE", "/v2/"+x.delete, nil)
		planned, err := r.st.plan(t.Context(), collectNow, false, func(doomed) error { return nil })
		if err != nil || planned != x.want {
			t.Errorf("%d: without %s %+v would go (%v), want %+v", i, x.delete, planned, err, x.want)
		}
		if got := r.collect(collectNow); got != x.want {
			t.Errorf("%d: without %s %+v goes, want %+v", i, x.delete, got, x.want)
		}
	}
	if f := r.figures(); f.Repositories != 0 || f.Blobs.Count != 0 {
		t.Errorf("all is deleted, and there is %+v", f)
	}
}

// The file of a deleted blob goes without a durable commit.
func TestFiguresAfterTheTrashWasEmptied(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	d := r.pushBlob("a", "12345")
	r.want(202, "DELETE", "/v2/a/blobs/"+d.String(), nil)
	if f := r.figures(); f.Reclaimable != (amount{1, 5}) || f.InGrace != (amount{}) {
		t.Errorf("a file is about to go: %+v", f)
	}
	if _, err := r.st.collector.emptyTrash(r.st.collector.steps(t.Context())); err != nil {
		t.Fatal(err)
	}
	if f := r.figures(); f.Reclaimable != (amount{}) || f.InGrace != (amount{}) {
		t.Errorf("the file has gone, and %+v is reclaimable, %+v in grace; want nothing", f.Reclaimable, f.InGrace)
	}
}

// queries returns the SQL in a source file, with the constants put in.
func queries(t testing.TB, file string) (list []string) {
	t.Helper()
	syntax, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var text func(ast.Expr) string
	text = func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			s, _ := strconv.Unquote(e.Value)
			return s
		case *ast.BinaryExpr:
			return text(e.X) + text(e.Y)
		case *ast.Ident:
			return map[string]string{"linkLive": linkLive, "manifestLive": manifestLive, "signatureTags": signatureTags}[e.Name]
		}
		return ""
	}
	ast.Inspect(syntax, func(n ast.Node) bool {
		e, ok := n.(ast.Expr)
		if !ok {
			return true
		}
		s := strings.TrimSpace(text(e))
		word, _, _ := strings.Cut(s, " ")
		if !slices.Contains([]string{"SELECT", "UPDATE", "DELETE", "INSERT"}, word) {
			return true
		}
		list = append(list, s)
		return false
	})
	return list
}

// The cost of a collection, and of its plan, is in proportion to what goes.
func TestCollectionReadsNoMoreThanGarbage(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.noPromises = true })
	const live, dead = 5000, 10
	err := r.st.update(func(t *tx) error {
		return t.script(`
			INSERT INTO repository (name) VALUES ('big');
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
				INSERT INTO manifest (repository, digest, media_type, artifact_type, body)
				SELECT (SELECT id FROM repository WHERE name = 'big'), printf('sha256:%064x', i), 'x', '', x'00' FROM n;
			INSERT INTO tag (repository, name, manifest) SELECT repository, 't' || id, id FROM manifest;`)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range dead {
		r.pushImage("small", "x", fmt.Sprint(i), "layer") // each takes the tag of the one before
	}
	r.want(202, "DELETE", "/v2/small/manifests/x", nil)
	want := tally{Manifests: dead, Blobs: dead + 1, Bytes: dead + int64(len("layer"))}
	if got, err := r.st.plan(t.Context(), collectNow, false, func(doomed) error { return nil }); err != nil || got != want {
		t.Errorf("among %d others %+v would go (%v), want %+v", live, got, err, want)
	}
	// Everything that is read is found by a key, or is loose, or is short.
	found := 0
	for _, file := range []string{"gc.go", "gc_uploads.go", "gc_plan.go"} {
		for _, query := range queries(t, file) {
			if strings.Contains(query, "pragma") {
				continue
			}
			found++
			numbered := strings.Contains(query, "?1")
			var args []any
			for i := range 5 {
				if n := strings.Count(query, "?"); numbered && strings.Contains(query, fmt.Sprint("?", i+1)) || !numbered && i < n {
					args = append(args, int64(0))
				}
			}
			rows, err := r.st.readers.Query("EXPLAIN QUERY PLAN "+query, args...)
			if err != nil {
				t.Errorf("%s: %v", query, err)
				continue
			}
			steps, err := collectRows(rows, func(rows *sql.Rows) (step string, err error) {
				var a, b, c any
				err = rows.Scan(&a, &b, &c, &step)
				return step, err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, step := range steps {
				if strings.HasPrefix(step, "SCAN") && !strings.HasSuffix(step, "_loose") &&
					!slices.Contains([]string{"SCAN CONSTANT ROW", "SCAN trash", "SCAN meta", "SCAN upload USING COVERING INDEX upload_used"}, step) {
					t.Errorf("%s\nreads all of a table: %s", query, step)
				}
				if strings.Contains(step, "AUTOMATIC") {
					t.Errorf("%s\nmakes an index of all of a table: %s", query, step)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d queries are found: nothing was tested", found)
	}
	if got := r.collect(collectNow); got != want {
		t.Errorf("among %d others %+v goes, want %+v", live, got, want)
	}
	// What the test put in has no digest that its bytes have.
	err = r.st.update(func(t *tx) error {
		return t.script(`DELETE FROM tag; DELETE FROM manifest; DELETE FROM repository;`)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Many that share one member, and one layer, are no more work than each alone;
// also if something that stays has them too. Work is the pages that SQLite looks at.
func TestPlanOfManyThatShare(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, live := range []bool{false, true} {
		plan := func(n int) int {
			r := startRegistry(t, func(c *config) { c.noPromises = true })
			im := r.pushImage("a", "x", "{}", "layer")
			keep := ""
			want := tally{Manifests: n + 1, Blobs: 2, Bytes: int64(len("{}" + "layer"))}
			if live {
				want = tally{Manifests: n - 1}
				keep = fmt.Sprintf(`UPDATE manifest SET loose = NULL WHERE digest = printf('sha256:%%064x', %d);
					INSERT INTO tag (repository, name, manifest) SELECT repository, 'live', max(id) FROM manifest;`, n)
			}
			err := r.st.update(func(t *tx) error {
				return t.script(fmt.Sprintf(`
					WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
						INSERT INTO manifest (repository, digest, media_type, artifact_type, loose, body)
						SELECT (SELECT id FROM repository), printf('sha256:%%064x', i), 'x', '', 0, x'00' FROM n;
					INSERT INTO names (repository, digest, manifest) SELECT repository, '%s', id FROM manifest WHERE loose = 0;
					INSERT INTO uses (repository, blob, manifest) SELECT m.repository, b.id, m.id FROM manifest m, blob b WHERE loose = 0;
					DELETE FROM tag;`, n, im.digest) + keep)
			})
			if err != nil {
				t.Fatal(err)
			}
			got, pages := planPages(t, r.st)
			if got != want {
				t.Errorf("%+v would go, want %+v", got, want)
			}
			// What the test put in is not what its digests say.
			err = r.st.update(func(t *tx) error {
				return t.script(`DELETE FROM tag; DELETE FROM uses; DELETE FROM names; DELETE FROM manifest; UPDATE link SET loose = 0`)
			})
			if err != nil {
				t.Fatal(err)
			}
			return pages
		}
		few, many := plan(500), plan(2000)
		// Four times as many: about four times the work, or sixteen times.
		if many > 5*few {
			t.Errorf("live %v: a plan of 500 indexes with one member looks at %d pages, of 2000 at %d", live, few, many)
		}
	}
}

// planPages is what a plan would remove now, and how many pages of the database it looks at.
func planPages(t *testing.T, st *store) (total tally, pages int) {
	t.Helper()
	conn, err := st.readers.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	count := func() (n int) {
		err := conn.Raw(func(c any) error {
			for _, op := range []sqlite.DBStatusOp{sqlite.DBStatusCacheHit, sqlite.DBStatusCacheMiss} {
				pages, _, err := c.(sqlite.DBStatus).Status(op, false)
				if err != nil {
					return err
				}
				n += pages
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	tx, err := conn.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	p := newPlanner(st, snapshot{st.database, tx, new(statements)}, collectNow, false, func(doomed) error { return nil })
	err = p.rows()
	p.stmts.close()
	tx.Rollback()
	if err != nil {
		t.Fatal(err)
	}
	return p.total, count() - before
}
