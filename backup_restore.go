// When the metadata is lost: `berth restore`.
//
// A database that is missing or damaged keeps Berth from starting. restore goes
// back to the newest snapshot (backup_snapshot.go), and from there as far forward as
// it can: manifests prove themselves by their digests, so whatever can still be
// read in the damaged database, and was not in the snapshot, is put back. Then
// the rows are held against the files on the disk, and what is not whole is
// named. Nothing is deleted: the damaged database stays aside.
//
//	berth.restoring                 from the first step to the last: the start
//	                                refuses, and restore goes on where it was
//	berth.db, -wal, …               → berth.db.damaged-N, …
//	snapshots/berth-….db, copied    → berth.db
//	readable manifests and tags     → put back
//	files                           → compared with their rows

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// restoringMark is the file that says that a restore was not finished. It names
// the damaged database, if there is one.
const restoringMark = "berth.restoring"

// checkRestoreCommand refuses a backup to be restored: that needs no command.
func checkRestoreCommand(cfg *config) error {
	if len(cfg.Args) == 0 {
		return nil
	}
	return fmt.Errorf("berth restore takes no directory: it mends a damaged berth.db. To go back to a backup, stop Berth, move the damaged data directory away, copy %s there, and start with the same flags (docs/storage.md#backup)", cfg.Args[0])
}

// restore is `berth restore`: it makes the data directory one that starts.
func restore(ctx context.Context, cfg *config, stdout io.Writer) error {
	out := cfg.console(stdout)
	data := newDataDir(cfg.dirConfig)
	begun, err := anyThere(filepath.Join(data.dir, "berth.db"), filepath.Join(data.dir, restoringMark))
	if err != nil {
		return err
	}
	if !begun && len(data.listSnapshots()) == 0 {
		return fmt.Errorf("there is no registry in %s, neither a database nor a snapshot of one; name its directory with --data or BERTH_DATA", data.dir)
	}
	if err := data.ownNamed(); err != nil {
		return err
	}
	if data.readOnlyDisk {
		return errors.Join(fmt.Errorf("the disk of %s is read-only", data.dir), data.letGo())
	}
	damaged, err := data.goBack(ctx, out)
	if err := errors.Join(err, data.letGo()); err != nil {
		return err
	}
	cfg.restoring = true
	st, err := openStore(cfg.storeConfig)
	if err != nil {
		return err
	}
	st.promises.forget()
	if damaged != "" {
		if err := (&restorer{st}).salvage(ctx, filepath.Join(st.dir, damaged), out); err != nil {
			return errors.Join(err, st.close())
		}
	} else {
		out.printf("images pushed after the snapshot are no longer known; push them again\n")
	}
	err = (&restorer{st}).reconcile(ctx, out)
	if err := errors.Join(err, st.close()); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(cfg.dir, restoringMark)); err != nil {
		return err
	}
	return syncDir(cfg.dir)
}

// goBack puts the newest snapshot that is whole into the place of the database,
// and returns the name that the damaged one has now, if there was one. The
// caller owns the directory.
func (data *dataDir) goBack(ctx context.Context, out *console) (damaged string, err error) {
	text, err := os.ReadFile(filepath.Join(data.dir, restoringMark))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	begun := err == nil
	if begun {
		damaged = strings.TrimSpace(string(text))
		out.printf("continuing the restore that was interrupted\n")
	}
	whole, err := data.assess(ctx, out, begun)
	if err != nil || whole {
		return damaged, err
	}
	snapshot, err := data.newestWhole(ctx, out)
	if err != nil {
		return "", err
	}
	if damaged, err = data.setAside(damaged, out); err != nil {
		return "", err
	}
	body, err := os.Open(snapshot)
	if err != nil {
		return "", err
	}
	defer body.Close()
	return damaged, writeSynced(filepath.Join(data.dir, "berth.db"), body)
}

// assess finds out whether the database is lost. It may be whole if a restore
// was begun; else that is an error, as is whatever keeps it from being read and
// is not damage.
func (data *dataDir) assess(ctx context.Context, out *console, begun bool) (whole bool, err error) {
	db := filepath.Join(data.dir, "berth.db")
	f, err := os.OpenFile(db, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		out.printf("the database is missing\n")
		return false, nil
	case err != nil:
		return false, fmt.Errorf("the database cannot be opened, which does not mean that it is damaged: %w", err)
	}
	f.Close()
	facts, wrong := verifyDatabase(ctx, db)
	switch {
	case ctx.Err() != nil: // and so nothing is known of it
		return false, ctx.Err()
	case wrong == nil && begun:
		return true, nil
	case wrong == nil:
		return false, fmt.Errorf("the database is intact (%s, %s): there is nothing to restore", plural(facts.manifests, "manifest"), plural(facts.tags, "tag"))
	case errors.Is(wrong, errNewer), errors.Is(wrong, errOlder):
		return false, wrong
	case data.diskFull(wrong):
		return false, fmt.Errorf("the database cannot be examined because the disk is full: make some room and try again (%w)", wrong)
	case !isDamage(wrong):
		return false, fmt.Errorf("the database cannot be read, which does not mean that it is damaged: %w", wrong)
	}
	out.printf("the database is damaged: %v\n", wrong)
	return false, nil
}

// newestWhole returns the path of the newest snapshot that is whole.
func (data *dataDir) newestWhole(ctx context.Context, out *console) (path string, err error) {
	for _, s := range data.listSnapshots() {
		f, err := verifyDatabase(ctx, s.path)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if err != nil {
			wrong := "is damaged too"
			if errors.Is(err, errNewer) || errors.Is(err, errOlder) {
				wrong = "cannot be used"
			}
			out.printf("the snapshot %s %s: %v\n", filepath.Base(s.path), wrong, err)
			continue
		}
		date := "of an unknown date"
		if info, err := os.Stat(s.path); err == nil {
			date = "of " + out.formatTime(info.ModTime(), "2006-01-02 15:04") // if the clock was right
		}
		out.printf("going back to the snapshot %s %s, made when the registry had run for %s: %s, %s\n", filepath.Base(s.path),
			date, formatDuration(s.uptime), plural(f.manifests, "manifest"), plural(f.tags, "tag"))
		return s.path, nil
	}
	return "", fmt.Errorf("there is no intact snapshot in %s; put berth.db back from a backup (without berth.db-wal and berth.db-shm)",
		filepath.Join(data.dir, "snapshots"))
}

// setAside marks the restore as begun and moves what there is of the database
// away. damaged is the name that an earlier run has given it, or ""; the one it
// has now is returned, "" if there was none.
func (data *dataDir) setAside(damaged string, out *console) (string, error) {
	db := filepath.Join(data.dir, "berth.db")
	// One that was moved before this run keeps its name, also if what came into
	// its place is damaged too.
	name := damaged
	current, err := isThere(db)
	if err != nil {
		return "", err
	}
	earlier, err := isThere(filepath.Join(data.dir, name))
	if err != nil {
		return "", err
	}
	if current && earlier {
		name = ""
	}
	for n := 1; name == ""; n++ {
		name = fmt.Sprintf("berth.db.damaged-%d", n)
		taken, err := anyThere(filepath.Join(data.dir, name), filepath.Join(data.dir, name+"-wal"))
		if err != nil {
			return "", err // a rename would replace it
		}
		if taken {
			name = ""
		}
	}
	if current && damaged == "" {
		damaged = name
	}
	if err := writeSynced(filepath.Join(data.dir, restoringMark), strings.NewReader(damaged+"\n")); err != nil {
		return "", err
	}
	// The database first: without it nothing starts. Its log must never meet
	// another database.
	for _, tail := range []string{"", "-wal", "-shm", "-journal"} {
		err := os.Rename(db+tail, filepath.Join(data.dir, name+tail))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if err := syncDir(data.dir); err != nil {
			return "", err
		}
	}
	if kept, err := isThere(filepath.Join(data.dir, name)); err != nil {
		return "", err
	} else if kept {
		out.printf("the damaged database is kept as %s\n", name)
	}
	return damaged, nil
}

// A salvaged manifest was read in a damaged database.
type salvaged struct {
	id         int64
	repository string
	manifest   *manifest
	made       bool                   // by the registry
	partly     bool                   // an index that was imported without all of its members
	had        map[digest.Digest]bool // the blobs that it used; not read but from a sparse registry, or for such an index
}

// A restorer puts into its store, which has the snapshot, what the damaged database still tells.
type restorer struct{ *store }

// salvage puts back what a damaged database still has and this one lacks.
func (re *restorer) salvage(ctx context.Context, path string, out *console) error {
	old, err := openToLook(path)
	if err != nil {
		return err
	}
	defer old.Close()
	names, namesRead := readNames(ctx, old)
	known, missing, manifestsRead, err := re.readManifests(ctx, old, names)
	if err != nil {
		return err
	}
	put, adopted, lost, err := re.putBack(ctx, old, missing)
	if err != nil {
		return err
	}
	moved, tagsRead, err := re.salvageTags(ctx, old, names, known)
	if err != nil {
		return err
	}
	out.printf("from the damaged database: %s and %s put back, %s found on the disk\n", plural(put, "manifest"), plural(moved, "tag"), plural(adopted, "blob"))
	for _, s := range lost {
		out.printf("LOST: %s@%s: members of this index could not be read\n", s.repository, s.manifest.digest)
	}
	if !namesRead || !manifestsRead || !tagsRead {
		out.printf("it could not be read completely: images pushed after the snapshot may be lost; push them again\n")
	}
	return nil
}

// readNames returns the names of the repositories in a damaged database that are not
// deleted, by id, and whether all could be read.
func readNames(ctx context.Context, old *sql.DB) (names map[int64]string, whole bool) {
	names = make(map[int64]string)
	whole = readRows(ctx, old, "repository", "id, name, deleted IS NOT NULL", func(rows *sql.Rows) (id int64, err error) {
		var name string
		var hidden bool
		if err := rows.Scan(&id, &name, &hidden); err != nil {
			return id, err
		}
		if _, err := parseName(name); err == nil && !hidden {
			names[id] = name
		}
		return id, nil
	})
	return names, whole
}

// readManifests returns the manifests in a damaged database that prove
// themselves: all by id, without their bytes, and those that are missing here;
// and whether all could be read.
func (re *restorer) readManifests(ctx context.Context, old *sql.DB, names map[int64]string) (known map[int64]salvaged, missing []salvaged, whole bool, err error) {
	known = make(map[int64]salvaged)
	whole = readRows(ctx, old, "manifest", "id, repository, digest, media_type, body, deleted IS NOT NULL, made", func(rows *sql.Rows) (int64, error) {
		var s salvaged
		var repo int64
		var d digest.Digest
		var mediaType string
		var body []byte
		var deleted bool
		if err := rows.Scan(&s.id, &repo, &d, &mediaType, &body, &deleted, &s.made); err != nil {
			return s.id, err
		}
		s.repository = names[repo]
		if s.repository == "" || deleted || d.Validate() != nil || examineManifest(d, body) != nil {
			return s.id, nil
		}
		m, invalid := parseManifest(body, mediaType, d)
		if invalid != nil {
			return s.id, nil
		}
		has, e := re.hasManifest(s.repository, d)
		if e != nil {
			err = e // of this database, not of the damaged one
		} else if !has {
			missing = append(missing, salvaged{id: s.id, repository: s.repository, manifest: m, made: s.made})
		}
		known[s.id] = salvaged{id: s.id, repository: s.repository, manifest: &manifest{digest: d}, made: s.made}
		return s.id, nil
	})
	return known, missing, whole, err
}

// putBack puts manifests back, members before their indexes. It returns how
// many, how many blobs were adopted, and which manifests cannot be.
func (re *restorer) putBack(ctx context.Context, old *sql.DB, missing []salvaged) (put, adopted int, lost []salvaged, err error) {
	sparse, err := re.wasSparse(ctx, old)
	if err != nil {
		return 0, 0, nil, err
	}
	partly := readPartly(ctx, old)
	for i := range missing {
		if missing[i].partly = partly[missing[i].id]; sparse || missing[i].partly {
			missing[i].had = readUses(ctx, old, missing[i].id)
		}
	}
	for progress := true; progress; {
		progress, lost = false, nil
		for _, s := range missing {
			if ctx.Err() != nil {
				return put, adopted, nil, ctx.Err()
			}
			n, err := re.putSalvaged(s, sparse)
			switch {
			case errors.Is(err, errManifestBlobUnknown):
				lost = append(lost, s)
			case err != nil:
				return put, adopted, nil, fmt.Errorf("putting back %s@%s: %w", s.repository, s.manifest.digest, err)
			default:
				put++
				progress = true
			}
			adopted += n
		}
		missing = lost
	}
	return put, adopted, lost, nil
}

// wasSparse reports whether manifests were ever taken whose content was not there, as
// the damaged database says, or this one, which then says so too.
func (re *restorer) wasSparse(ctx context.Context, old *sql.DB) (sparse bool, err error) {
	if err := re.get(`SELECT sparse FROM meta`, nil, &sparse); err != nil || sparse {
		return sparse, err
	}
	if old.QueryRowContext(ctx, `SELECT sparse FROM meta`).Scan(&sparse) != nil || !sparse {
		return false, nil
	}
	return true, re.update(func(t *tx) error {
		_, err := t.exec(`UPDATE meta SET sparse = 1`)
		return err
	})
}

// readPartly returns which manifests in a damaged database are indexes that were imported without all of
// their members, as far as that can be read. Earlier versions had none.
func readPartly(ctx context.Context, old *sql.DB) map[int64]bool {
	partly := make(map[int64]bool)
	rows, err := old.QueryContext(ctx, `SELECT id FROM manifest WHERE sparse = 1`)
	if err != nil {
		return partly
	}
	defer rows.Close()
	for rows.Next() {
		if id, err := scanOne[int64](rows); err == nil {
			partly[id] = true
		}
	}
	return partly
}

// readUses returns the blobs that a manifest in a damaged database uses, as far as
// they can be read. That it refers to others says nothing in a sparse registry: they
// may be another repository's.
func readUses(ctx context.Context, old *sql.DB, manifest int64) map[digest.Digest]bool {
	had := make(map[digest.Digest]bool)
	rows, err := old.QueryContext(ctx, `SELECT b.digest FROM uses u JOIN blob b ON b.id = u.blob WHERE u.manifest = ?`, manifest)
	if err != nil {
		return had
	}
	defer rows.Close()
	for rows.Next() {
		if d, err := scanOne[digest.Digest](rows); err == nil {
			had[d] = true
		}
	}
	return had
}

func (re *restorer) hasManifest(repository string, d digest.Digest) (has bool, err error) {
	err = re.get(`SELECT EXISTS (SELECT 1 FROM manifest m JOIN repository r ON r.id = m.repository
		WHERE r.name = ? AND m.digest = ? AND m.damaged IS NULL AND m.deleted IS NULL)`, []any{repository, d}, &has)
	return has, err
}

// maxUnreadable bounds how many rows in a row are given up one by one.
const maxUnreadable = 4000

// readRows calls fn, which returns the row's id, with the rows of a table that
// can be read. Ranges that cannot are halved until the unreadable rows are
// alone. It reports whether all could be read.
func readRows(ctx context.Context, db *sql.DB, table, columns string, fn func(*sql.Rows) (int64, error)) (whole bool) {
	var last int64
	whole = true
	if err := db.QueryRowContext(ctx, `SELECT coalesce(max(id), 0) FROM `+table).Scan(&last); err != nil {
		if !isCorrupt(err) && !isIOError(err) {
			return false // nothing there that rows could be in
		}
		last, whole = 1<<24, false
	}
	unreadable := 0
	var read func(from, to int64, seen int64)
	read = func(from, to, seen int64) {
		if ctx.Err() != nil || unreadable > maxUnreadable {
			return
		}
		rows, err := db.QueryContext(ctx, `SELECT `+columns+` FROM `+table+` WHERE id BETWEEN ? AND ? AND id > ? ORDER BY id`, from, to, seen)
		if err == nil {
			for rows.Next() {
				var id int64
				if id, err = fn(rows); err != nil {
					break
				}
				seen, unreadable = id, 0
			}
			err = errors.Join(err, rows.Err(), rows.Close())
		}
		if err == nil {
			return
		}
		whole = false
		from = max(from, seen+1)
		if from >= to {
			unreadable++
			return
		}
		middle := from + (to-from)/2
		read(from, middle, seen)
		read(middle+1, to, seen)
	}
	read(0, last, -1)
	return whole
}

// putSalvaged puts back a manifest with the blobs it needs, and returns how
// many of those were adopted: on the disk, whole, and without a row. Blobs that
// are nowhere count as damaged; if sparse, those that it is not known to have had are
// left out. The error is errManifestBlobUnknown if a member of an index is missing.
func (re *restorer) putSalvaged(s salvaged, sparse bool) (adopted int, err error) {
	absent := func(d digest.Digest) bool { return (sparse || s.partly) && !s.had[d] }
	found := make(map[digest.Digest]int64) // sizes
	for _, d := range slices.Concat(s.manifest.blobs, s.manifest.children) {
		has, err := re.hasBlob(d)
		if err != nil {
			return 0, err
		}
		if has || absent(d) {
			continue
		}
		if err := re.makeShards(d.Algorithm(), re.blobsAreHere); err != nil { // where there are rows, there are directories
			return 0, err
		}
		size, err := re.wholeFile(d)
		if err != nil {
			return 0, err
		}
		if size >= 0 {
			found[d] = size
		}
	}
	err = re.update(func(t *tx) error {
		in, err := t.makeRepository(s.repository)
		if err != nil {
			return err
		}
		repo := in.id
		for d, size := range found {
			if _, err := t.exec(`INSERT INTO blob (digest, size) VALUES (?, ?) ON CONFLICT DO NOTHING`, d, size); err != nil {
				return err
			}
			if _, err := t.exec(`DELETE FROM trash WHERE digest = ?`, d); err != nil {
				return err
			}
			if _, err := t.makeLink(repo, d); err != nil {
				return err
			}
		}
		for _, d := range s.manifest.blobs {
			if _, ok := found[d]; ok || absent(d) {
				continue
			}
			if _, err := t.makeLink(repo, d); err != nil {
				return err
			}
		}
		var id int64
		err = t.get(`UPDATE manifest SET body = ?3, damaged = NULL, deleted = NULL WHERE repository = ?1 AND digest = ?2 RETURNING id`,
			[]any{repo, s.manifest.digest, s.manifest.body}, &id)
		switch {
		case err == nil:
			return errors.Join(t.settleManifest(repo, s.manifest.digest), t.settleAround(repo, id, s.manifest.digest), t.showLinks(repo, id))
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		_, err = t.insertManifest(repo, s.manifest, allowance{sparse: sparse, damaged: true, made: s.made, members: s.partly})
		return err
	})
	return len(found), err
}

// wholeFile returns the size of a blob's file that has no row, -1 if there is
// none that is whole. It is synced: a crash may have come before that.
func (re *restorer) wholeFile(d digest.Digest) (size int64, err error) {
	path := re.path(d)
	info, err := os.Stat(path)
	if err != nil || verifyFile(path, d) != nil {
		return -1, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return -1, err
	}
	dir := filepath.Dir(path)
	return info.Size(), errors.Join(syncData(f), f.Close(), syncDir(dir), syncDir(filepath.Dir(dir)))
}

// salvageTags points tags to where they pointed in a damaged database, as far
// as that can be read and the manifest is here. Where a page cannot be read, it
// goes on from the other end.
func (re *restorer) salvageTags(ctx context.Context, old *sql.DB, names map[int64]string, manifests map[int64]salvaged) (moved int, whole bool, err error) {
	// One that has lost its log may be older than the snapshot.
	var uptime int64
	older := old.QueryRowContext(ctx, `SELECT uptime FROM meta`).Scan(&uptime) == nil && time.Duration(uptime)*time.Second <= re.base
	point := func(m salvaged, tag string) error {
		changed := false
		err := re.update(func(t *tx) error {
			var here, there, was int64
			err := t.get(`SELECT m.id, m.repository FROM manifest m JOIN repository r ON r.id = m.repository
				WHERE r.name = ? AND m.digest = ? AND m.deleted IS NULL`, []any{m.repository, m.manifest.digest}, &here, &there)
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			err = t.get(`SELECT manifest FROM tag WHERE repository = ? AND name = ?`, []any{there, tag}, &was)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			if older && was != 0 {
				return nil
			}
			changed = was != here
			return t.salvageTag(there, tag, here, was)
		})
		if err != nil {
			return err
		}
		if changed {
			moved++
		}
		return nil
	}
	for _, order := range []string{"", " DESC"} {
		rows, err := old.QueryContext(ctx, `SELECT repository, name, manifest FROM tag ORDER BY repository`+order+`, name`+order)
		if err != nil {
			continue
		}
		for rows.Next() {
			var repo, id int64
			var tag string
			if rows.Scan(&repo, &tag, &id) != nil {
				continue
			}
			m, ok := manifests[id]
			if _, err := parseTag(tag); err != nil || !ok || names[repo] != m.repository {
				continue
			}
			if err := point(m, tag); err != nil {
				rows.Close()
				return moved, false, err
			}
		}
		if rows.Err() == nil {
			return moved, true, rows.Close()
		}
		rows.Close()
	}
	return moved, false, nil
}

// salvageTag points a tag at a manifest. Whether the registry has put it there goes
// by who has made the manifest.
func (t *tx) salvageTag(repo int64, tag string, id, was int64) error {
	if id == was {
		return nil
	}
	if _, err := t.exec(`INSERT INTO tag (repository, name, manifest, pushed, made) SELECT ?1, ?2, id, ?4, made FROM manifest WHERE id = ?3
		ON CONFLICT (repository, name) DO UPDATE SET manifest = excluded.manifest, pushed = excluded.pushed, made = excluded.made, time = 0`,
		repo, tag, id, t.clock); err != nil {
		return err
	}
	digests, err := listRows(t, scanOne[digest.Digest], `SELECT digest FROM manifest WHERE id IN (?, ?)`, id, was)
	if err != nil {
		return err
	}
	for _, d := range digests {
		if err := t.settleManifest(repo, d); err != nil {
			return err
		}
	}
	return nil
}

// dropGone takes away what has gone since the snapshot and nothing misses: blobs
// that no manifest uses, and uploads whose bytes are not here.
func (re *restorer) dropGone() error {
	return re.update(func(t *tx) error {
		links, err := listRows(t, scanLoose, `SELECT l.loose, l.repository, l.blob, b.digest, r.name, 0
			FROM link l JOIN blob b ON b.id = l.blob JOIN repository r ON r.id = l.repository
			WHERE b.damaged IS NOT NULL AND l.loose IS NOT NULL`)
		if err != nil {
			return err
		}
		for _, x := range links {
			if _, err := t.unlinkBlob(x.repo, x.id, x.digest); err != nil {
				return err
			}
			if err := t.dropRepository(x.repo); err != nil {
				return err
			}
		}
		uploads, err := listRows(t, scanOne[string], `SELECT id FROM upload`)
		if err != nil {
			return err
		}
		for _, id := range uploads {
			there, err := isThere(filepath.Join(re.arrivals, "uploads", id))
			if err != nil {
				return err
			}
			if there {
				continue
			}
			if _, err := t.exec(`DELETE FROM upload WHERE id = ?`, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// reconcile holds the rows against the files, and says what is not whole.
func (re *restorer) reconcile(ctx context.Context, out *console) error {
	orphans := 0
	for _, s := range shards() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rows, err := s.blobs(re.store)
		if err != nil {
			return err
		}
		for _, b := range rows {
			if b.damaged {
				_, err = re.scrubber.adopt(b.digest) // it may have been pushed again since
			} else if re.probe(ctx, b.digest, b.size, false) != nil {
				_, err = re.quarantine(b.digest)
			}
			if err != nil { // one file must not keep the registry from its start
				out.printf("blob %s: %v\n", b.digest, err)
			}
		}
		strangers, err := s.strangers(re.store, rows)
		if err != nil {
			out.printf("%v\n", err)
		}
		orphans += len(strangers)
	}
	if err := re.dropGone(); err != nil {
		return err
	}
	// Scrubbing removes files without a row: not before somebody has had the
	// time to find that something is missing.
	err := re.update(func(t *tx) error {
		if _, err := t.exec(`DELETE FROM trash`); err != nil {
			return err
		}
		// Most have arrived since the snapshot, and others tell of what is not so any more.
		if _, err := t.exec(`DELETE FROM event`); err != nil {
			return err
		}
		_, err := t.exec(`UPDATE meta SET scrubbed = ?, scrub_place = ''`, t.clock)
		return err
	})
	if err != nil {
		return err
	}
	return re.sayRestored(ctx, orphans, out)
}

// sayRestored tells what the registry is after a restore, and what it lacks. orphans are
// the files that belong to nothing.
func (re *restorer) sayRestored(ctx context.Context, orphans int, out *console) error {
	r := &report{st: re.store}
	if err := re.look(ctx, func(s snapshot) error { r.snapshot = s; return r.checkDamaged() }); err != nil {
		return err
	}
	for _, what := range r.damaged {
		out.printf("PUSH AGAIN: %s\n", what)
	}
	if orphans > 0 {
		until := "for good"
		if re.scrubEvery > 0 {
			until = "until everything has been read again, in " + formatDuration(re.scrubEvery.Round(time.Hour))
		}
		out.printf("%s on the disk without an image that is known. If you miss an image, push it again.\n"+
			"They are kept %s. `berth repair` leaves them alone;\n`berth repair --left-over` removes them; run it only when no image is missed.\n", plural(orphans, "file"), until)
	}
	f, err := re.stats.figures(ctx)
	if err != nil {
		return err
	}
	out.printf("images deleted after the snapshot are back, if their blobs are still there\n")
	var tokens int
	if err := re.get(`SELECT count(*) FROM token`, nil, &tokens); err != nil {
		return err
	}
	if tokens > 0 {
		out.printf("%s for machines: what was revoked since the snapshot is good again; see berth token list\n", plural(tokens, "token"))
	}
	out.printf("restored: %s, %s, %s with %s; start the registry as usual\n", f.counts(),
		plural(int(f.Tags), "tag"), plural(int(f.Blobs.Count), "blob"), formatSize(f.Blobs.Bytes))
	return nil
}
