// Blobs: bytes under their digest.
//
// A file comes to its final path whole and verified, before its row, and a large one
// synced (1, 2 in store.go); a repository sees it through a link. Whoever renames or
// removes a file holds the lock of its digest.
//
// A file that is found not to be what its row says is put aside, under
// quarantine/, and the row says why. From then on the blob is not there, for
// HEAD, GET, mounts and manifests that are pushed: so a client that pushes an
// image again brings the blob back, and only then. What refers to it stays.

package main

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
)

// A content is verified bytes that are to become a blob.
type content struct {
	digest digest.Digest
	size   int64
	body   []byte   // of a small blob (store_small.go); nil of any other
	path   string   // of the session's file
	temp   *os.File // that file, which has all of it; or nil, if only body does

	admitted bool // there is room reserved for body among the unsynced
	synced   bool // temp is
	named    bool // path may be there though temp is not
}

// commitBlob makes c a blob of a repository and ends the session, if there is one
// (1, 2). c.temp is closed, and its name is gone, whatever the result. On an error
// nothing of it is visible.
func (st *store) commitBlob(repository string, c content, session string, by author) error {
	defer func() { st.drop(&c) }()
	later := st.syncImages && st.small.waiting.Load() < maxUnsyncedFiles // its file may wait
	if c.body == nil && c.size > maxBeside && !later {
		if err := st.syncUpload(c.temp); err != nil {
			return err
		}
		c.synced = true
	}
	d := c.digest
	unlock := st.digests.lock(d.String())
	defer unlock()
	had, err := st.hasBlob(d)
	if err != nil {
		return err
	}
	small := c.admitted && !had
	if had && !c.synced {
		// A file that is there must not be replaced by one that is not safe.
		if err := st.syncBefore(&c); err != nil {
			return err
		}
	}
	if !small && c.temp != nil {
		c.body = nil
	}
	key := st.small.count.Add(1) // before the file is written: doubt is up to here
	file, err := st.place(&c, had, small)
	if err != nil {
		return fmt.Errorf("moving the upload into place: %w", err)
	}
	st.at("placed")
	st.promises.make(repository, d)
	var beside *unsyncedFile
	if !small && !c.synced {
		beside = st.small.expect(d, file)
		if !later {
			st.small.ask(beside)
		}
	}
	update := st.update
	if later {
		update = st.updateLazy
	}
	err = update(func(t *tx) error {
		blob, err := t.addBlob(repository, d, c.size)
		if err == nil && (small || beside != nil) {
			_, err = t.exec(`INSERT INTO unsynced (blob, n, body) VALUES (?, ?, ?)`, blob, key, c.keeps(small))
		}
		if err != nil {
			return err
		}
		return t.endUpload(session, repository, c, by)
	})
	if beside != nil && (!later || err != nil) {
		if e := st.small.await([]*unsyncedFile{beside}); e != nil {
			st.small.withdraw(d)
			return errors.Join(err, e)
		}
	}
	if err != nil {
		return st.notRecorded(d, fmt.Errorf("recording the blob: %w", err))
	}
	st.at("recorded")
	st.scrubber.noteVerified(d)
	if had {
		os.Remove(st.aside(d)) // if it was damaged; scrubbing removes it else
	}
	st.small.find(d)
	if small {
		c.admitted = false // it stays, until it is synced
	} else if beside != nil && later {
		st.small.bytes.Add(c.size)
	}
	if small || beside != nil {
		st.small.wake()
	}
	st.collector.wakeUp()
	return nil
}

// syncBefore syncs content before it is placed, in a file of its own if it has none yet.
func (st *store) syncBefore(c *content) error {
	if err := c.makeUpload(); err != nil {
		return err
	}
	if err := st.syncUpload(c.temp); err != nil {
		return err
	}
	c.synced = true
	return nil
}

// notRecorded removes the file of a blob whose row could not be committed, where that is certain: whether a
// commit took place whose sync failed shows only after a crash, so then the file must stay. On a full disk there
// was none, and the room is needed. It returns err, with what else went wrong. The caller holds the digest's lock.
func (st *store) notRecorded(d digest.Digest, err error) error {
	if !isNoSpace(err) || isIOError(err) {
		return err
	}
	has, e := st.hasBlob(d)
	if e == nil && !has {
		os.RemoveAll(filepath.Dir(st.path(d)))
	}
	if e != nil {
		return errors.Join(err, e)
	}
	return err
}

// keeps returns what the database keeps of a blob whose file is not synced: its bytes, if it is small.
func (c *content) keeps(small bool) any {
	if small {
		return c.body
	}
	return nil
}

// endUpload ends the session, if there is one, by which a repository has got a blob.
func (t *tx) endUpload(session, repository string, c content, by author) error {
	if session != "" {
		if _, err := t.exec(`DELETE FROM upload WHERE id = ?`, session); err != nil {
			return err
		}
	}
	return t.announceBlob(by, blobPushed, repository, "", c.digest, c.size)
}

// addBlob records that a repository has a blob, whose file is in its place and
// sound, and returns its id.
func (t *tx) addBlob(repository string, d digest.Digest, size int64) (blob int64, err error) {
	repo, err := t.makeRepository(repository)
	if err != nil {
		return 0, err
	}
	err = t.get(`INSERT INTO blob (digest, size) VALUES (?, ?)
		ON CONFLICT (digest) DO UPDATE SET size = excluded.size, damaged = NULL RETURNING id`, []any{d, size}, &blob)
	if err != nil {
		return 0, err
	}
	if err := t.linkBlob(repo.id, blob); err != nil {
		return 0, err
	}
	_, err = t.exec(`DELETE FROM trash WHERE digest = ?`, d)
	return blob, err
}

// drop lets go of what content has on the disk, and of its reservation.
func (st *store) drop(c *content) {
	if c.admitted {
		st.small.bytes.Add(-c.size)
		c.admitted = false
	}
	if c.temp != nil {
		c.temp.Close()
	}
	if c.temp != nil || c.named {
		os.Remove(c.path)
	}
}

// syncUpload syncs the file of content.
func (st *store) syncUpload(temp *os.File) error {
	if err := st.syncData(temp); err != nil {
		return fmt.Errorf("syncing the upload: %w", err)
	}
	st.at("synced")
	return nil
}

// makeUpload makes a file of content that has none.
func (c *content) makeUpload() (err error) {
	if c.temp != nil {
		return nil
	}
	if c.temp, err = openUpload(c.path, 0); err != nil {
		return err
	}
	if _, err := c.temp.Write(c.body); err != nil {
		return fmt.Errorf("writing an upload: %w", err)
	}
	return nil
}

// place gives content its final path, and syncs every directory that changes if its
// file is synced. A file that is there already is replaced, never trusted: so pushing
// again repairs. had says that there is a row already, and small that nobody waits for the
// file. Else, if that is not synced, it is returned, open, where it may be. The caller holds
// the digest's lock.
//
// Where the file system has hard links, the session keeps its name for the
// file of a new blob until the row is committed: a crash in between must not
// cost a client what was acknowledged. Not so if there is a row already: the
// session could go on to write into a file that is being served.
func (st *store) place(c *content, had, small bool) (file *os.File, err error) {
	defer func() {
		if err != nil && file != nil {
			file.Close()
		}
	}()
	if err := st.makeShards(c.digest.Algorithm(), st.blobsAreHere); err != nil {
		return file, err
	}
	path := st.path(c.digest)
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return file, err
	}
	if c.temp == nil {
		os.Remove(path) // rubbish by (1), and perhaps another name of a session's file
		f, err := writeNew(path, c.body)
		if err == nil {
			return openOnly(f, !small)
		}
		if !errors.Is(err, fs.ErrExist) {
			os.RemoveAll(dir) // a full disk needs the room
			return nil, err
		}
		// Windows does not remove what is being read.
		if err := c.makeUpload(); err != nil {
			return file, err
		}
	}
	if file, err = openOnly(c.temp, !small && !c.synced); err != nil {
		return file, err
	}
	c.temp, c.named = nil, true
	changed := []string{dir, filepath.Dir(dir)}
	linked := false
	if !had {
		os.Remove(path) // likewise
		linked = os.Link(c.path, path) == nil
	}
	if !linked {
		changed = append(changed, filepath.Dir(c.path))
		if err := os.Rename(c.path, path); err != nil {
			// Windows does not replace a file that is being read. If it is a
			// good copy, nothing is lost.
			if verifyFile(path, c.digest) != nil {
				return file, err
			}
		}
	}
	st.at("renamed")
	if !c.synced {
		return file, nil
	}
	for _, dir := range changed {
		if err := st.syncDir(dir); err != nil {
			return file, err
		}
	}
	return nil, nil
}

// openOnly returns a file that is to stay open, and closes any other. On Windows none does: it
// would not rename one that is open.
func openOnly(f *os.File, open bool) (*os.File, error) {
	if open && runtime.GOOS != "windows" {
		return f, nil
	}
	return nil, f.Close()
}

// openBlob opens a repository's blob for reading, and with promise makes sure that
// there is a file and keeps it from being collected soon (4). The caller closes it.
// The error is errBlobUnknown if the repository does not have it, or if the file is
// not what the row says: then a client that pushes again repairs it.
func (st *store) openBlob(repository string, d digest.Digest, promise bool) (io.ReadSeekCloser, error) {
	if promise {
		st.promises.make(repository, d) // before looking, lest it go in between
	}
	q := question{repository, ofBlob, d.String()}
	known, again, err := st.lookUpBlob(q, d, promise)
	if err != nil {
		return nil, err
	}
	if st.small.lacks(d) {
		return nil, unknownBlob(repository, d)
	}
	if promise && !st.syncImages {
		if err := st.small.await(st.small.unsyncedOf(d)); err != nil {
			return nil, unknownBlob(repository, d)
		}
	}
	if known.body != nil && !promise {
		return &inMemory{*bytes.NewReader(known.body), known}, nil
	}
	f, err := openSized(st.path(d), known.size)
	if err == nil && again && !promise && known.size <= maxKept {
		if err = st.remember(q, known, f, d); err != nil {
			f.Close()
		}
	}
	if err == nil {
		return f, nil
	}
	unknown := unknownBlob(repository, d)
	if errors.Is(err, fs.ErrNotExist) {
		has, e := st.hasBlob(d)
		if e != nil {
			return nil, e
		}
		if !has {
			return nil, unknown // collected meanwhile
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errDamaged):
		// If it cannot be recorded, the answer is still true.
		if _, e := st.quarantine(d); e != nil {
			st.log.Error("a damaged blob cannot be put aside", "digest", d, "error", e)
		}
		if !st.hasShard(d) {
			break
		}
		return nil, unknown
	}
	return nil, fmt.Errorf("opening blob %s: %w", d, err)
}

// remember keeps a small blob's bytes with the answer that is known of it. The
// error is errDamaged if they are not what they should be. f is left at its beginning.
func (st *store) remember(q question, known *answer, f *os.File, d digest.Digest) error {
	body := make([]byte, known.size)
	if _, err := f.ReadAt(body, 0); err != nil {
		return nil // whoever sends the file finds out
	}
	if d.Algorithm().FromBytes(body) != d {
		return fmt.Errorf("the file has other bytes: %w", errDamaged)
	}
	st.lookups.remember(q, known, body, newEntityHeader(typeBlob, d, known.size))
	return nil
}

// inMemory is a blob whose bytes are remembered.
type inMemory struct {
	bytes.Reader
	known *answer
}

func (*inMemory) Close() error { return nil }

func unknownBlob(repository string, d digest.Digest) *protocolError {
	return errBlobUnknown.with(map[string]string{"name": repository, "digest": d.String()})
}

// lookUpBlob is openBlob for its row. q is the question for it, and again whether the
// answer was known.
func (st *store) lookUpBlob(q question, d digest.Digest, promise bool) (found *answer, again bool, err error) {
	known, version := st.lookups.get(q, st.uptime)
	if known != nil {
		return known, true, nil
	}
	var repo, blob, size int64
	var loose sql.NullInt64
	var damaged bool
	err = st.get(`
		SELECT l.repository, l.blob, l.loose, b.size, b.damaged IS NOT NULL
		FROM repository r
		JOIN blob b ON b.digest = ?
		JOIN link l ON l.repository = r.id AND l.blob = b.id AND l.hidden IS NULL
		WHERE r.name = ?`,
		[]any{d, q.repository}, &repo, &blob, &loose, &size, &damaged)
	if errors.Is(err, sql.ErrNoRows) || err == nil && damaged {
		return nil, false, unknownBlob(q.repository, d)
	}
	if err != nil {
		return nil, false, fmt.Errorf("looking up blob %s in %s: %w", d, q.repository, err)
	}
	if loose.Valid && st.dueSoon(loose.Int64, st.grace) {
		err := st.keep(`UPDATE link SET loose = ? WHERE repository = ? AND blob = ? AND loose IS NOT NULL`,
			`SELECT count(*) FROM link WHERE repository = ? AND blob = ?`, repo, blob)
		switch {
		case errors.Is(err, errGone):
			return nil, false, unknownBlob(q.repository, d)
		case err != nil && promise:
			return nil, false, err
		case err != nil: // a full disk, say: this pull works all the same
			st.log.Warn("the grace of a blob cannot be extended", "digest", d, "error", err)
		}
	}
	found = &answer{repo: repo, size: size, until: st.holdsUntil(loose, st.grace)}
	st.lookups.put(q, found, version)
	return found, false, nil
}

var errDamaged = errors.New("damaged")

// examine reads a blob's file and says what is wrong with it: nil if it is
// what the row says, and an error that wraps errDamaged if it is not. spend is
// for sumFile.
func (st *store) examine(d digest.Digest, size int64, spend func(int) error) error {
	f, err := openSized(st.path(d), size)
	if err == nil {
		defer f.Close()
		dropCache(f) // what the disk has is the question, not what memory has
		var sum digest.Digest
		if sum, err = sumFile(f, d.Algorithm(), spend); err == nil && sum != d {
			err = fmt.Errorf("its bytes have the digest %s: %w", sum, errDamaged)
		}
		dropCache(f)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && st.hasShard(d):
		return fmt.Errorf("the file is missing: %w", errDamaged)
	case isBadSector(err):
		return fmt.Errorf("%w: %w", err, errDamaged)
	}
	return err
}

// quarantine takes a blob out of service if its file is indeed not what the row
// says, which it finds out by reading it: a push may have repaired it since it
// looked bad, and memory may err too. The file is kept aside. It reports what
// was wrong, nil if nothing was.
func (st *store) quarantine(d digest.Digest) (wrong, err error) {
	unlock := st.digests.lock(d.String())
	defer unlock()
	var size int64
	err = st.get(`SELECT size FROM blob WHERE digest = ? AND damaged IS NULL`, []any{d}, &size)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	wrong = st.examine(d, size, nil)
	if !errors.Is(wrong, errDamaged) {
		return nil, wrong // nil, or what kept it from looking
	}
	st.log.Error("blob damaged; push it again to repair it", "digest", d, "error", wrong)
	err = st.update(func(t *tx) error {
		_, err := t.exec(`UPDATE blob SET damaged = ? WHERE digest = ?`, wrong.Error(), d)
		return err
	})
	if err != nil {
		return wrong, err
	}
	return wrong, st.putAside(d)
}

// putAside moves a blob's file, if there is one, to where nothing serves it.
// The caller holds the digest's lock.
func (st *store) putAside(d digest.Digest) error {
	aside := st.aside(d)
	if err := makeAll(filepath.Dir(aside)); err != nil {
		return err
	}
	if err := os.Rename(st.path(d), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := st.syncDir(filepath.Dir(st.path(d))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return st.syncDir(filepath.Dir(aside))
}

// hasBlob reports whether there is a row for the blob.
func (st *store) hasBlob(d digest.Digest) (bool, error) {
	var n int
	if err := st.get(`SELECT count(*) FROM blob WHERE digest = ?`, []any{d}, &n); err != nil {
		return false, fmt.Errorf("looking for the row of %s: %w", d, err)
	}
	return n > 0, nil
}

// totalBytes is how many bytes all blobs have.
func (st *store) totalBytes() (total int64, err error) {
	err = st.get(`SELECT bytes FROM total`, nil, &total)
	return total, err
}

// mountBlob makes a blob of the repository from visible in repository. The
// error is errBlobUnknown if from does not have it.
func (st *store) mountBlob(repository, from string, d digest.Digest, by author) error {
	f, err := st.openBlob(from, d, true) // it is there, and whole
	if err != nil {
		return err
	}
	f.Close()
	st.promises.make(repository, d)
	update := st.updateSynced
	if st.syncImages {
		update = st.updateLazy
	}
	err = update(func(t *tx) error {
		_, blob, err := t.findBlob(from, d)
		if err == nil && !st.syncImages {
			err = t.needSynced([]digest.Digest{d})
		}
		if err != nil {
			return err
		}
		repo, err := t.makeRepository(repository)
		if err != nil {
			return err
		}
		if err := t.linkBlob(repo.id, blob); err != nil || !t.heard() {
			return err
		}
		var size int64
		if err := t.get(`SELECT size FROM blob WHERE id = ?`, []any{blob}, &size); err != nil {
			return err
		}
		return t.announceBlob(by, blobMounted, repository, from, d, size)
	})
	st.collector.wakeUp()
	return err
}

// holderOf returns a repository that has a blob, which is not known to be damaged; "" if none has it.
func (st *store) holderOf(d digest.Digest) (repository string, err error) {
	err = st.get(`SELECT r.name FROM blob b JOIN link l ON l.blob = b.id AND l.hidden IS NULL JOIN repository r ON r.id = l.repository AND r.deleted IS NULL
		WHERE b.digest = ? AND b.damaged IS NULL LIMIT 1`, []any{d}, &repository)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return repository, err
}

// deleteBlob takes a blob out of a repository. One that a manifest there still
// refers to stays, and the error is errDenied (3). One that only deleted manifests use,
// and that was pushed again since, is hidden again: they can still be restored.
func (st *store) deleteBlob(repository string, d digest.Digest, by author) error {
	err := st.update(func(t *tx) error {
		repo, blob, err := t.findBlob(repository, d)
		if err != nil {
			return err
		}
		var user string
		err = t.get(`SELECT m.digest FROM uses u JOIN manifest m ON m.id = u.manifest
			WHERE u.repository = ? AND u.blob = ? AND m.deleted IS NULL LIMIT 1`, []any{repo, blob}, &user)
		if err == nil {
			return errDenied.withf("manifest %s refers to this blob; delete that first", user)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := t.announce(by, event{Type: blobDeleted, Repository: repository, Digest: d.String()}); err != nil {
			return err
		}
		n, err := t.exec(`UPDATE link SET hidden = ?3 WHERE repository = ?1 AND blob = ?2
			AND (EXISTS (SELECT 1 FROM uses WHERE repository = ?1 AND blob = ?2)
			OR EXISTS (SELECT 1 FROM names n JOIN manifest m ON m.id = n.manifest AND m.deleted IS NOT NULL
				WHERE n.repository = ?1 AND n.digest = ?4))`, repo, blob, t.clock, d)
		if err != nil || n > 0 {
			return err
		}
		if _, err := t.unlinkBlob(repo, blob, d); err != nil {
			return err
		}
		return t.dropRepository(repo)
	})
	if err == nil {
		notify(st.collector.trashed)
	}
	return err
}

// findBlob returns the ids of a repository and of a blob that it has and that is not
// hidden; errBlobUnknown if it does not.
func (t *tx) findBlob(repository string, d digest.Digest) (repo, blob int64, err error) {
	err = t.get(`
		SELECT r.id, b.id FROM repository r
		JOIN blob b ON b.digest = ?
		JOIN link l ON l.repository = r.id AND l.blob = b.id AND l.hidden IS NULL
		WHERE r.name = ?`, []any{d, repository}, &repo, &blob)
	if errors.Is(err, sql.ErrNoRows) {
		err = errBlobUnknown.with(map[string]string{"name": repository, "digest": d.String()})
	}
	return repo, blob, err
}

// linked returns the id of a blob that the repository has, perhaps hidden, and whether
// its bytes are sound as far as is known; sql.ErrNoRows if it does not have it.
func (t *tx) linked(repo int64, d digest.Digest) (blob int64, sound bool, err error) {
	err = t.get(`SELECT b.id, b.damaged IS NULL FROM blob b JOIN link l ON l.repository = ? AND l.blob = b.id
		WHERE b.digest = ?`, []any{repo, d}, &blob, &sound)
	return blob, sound, err
}

// linkBlob makes a blob visible in a repository. Its grace counts from now,
// unless something refers to it already.
func (t *tx) linkBlob(repo, blob int64) error {
	_, err := t.exec(`INSERT INTO link (repository, blob, loose) VALUES (?1, ?2, CASE WHEN
			EXISTS (SELECT 1 FROM uses u WHERE u.repository = ?1 AND u.blob = ?2)
			OR EXISTS (SELECT 1 FROM names n WHERE n.repository = ?1 AND n.digest = (SELECT b.digest FROM blob b WHERE b.id = ?2))
			THEN NULL ELSE ?3 END)
		ON CONFLICT (repository, blob) DO UPDATE SET loose = excluded.loose, hidden = NULL
			WHERE link.loose IS DISTINCT FROM excluded.loose OR link.hidden IS NOT NULL`, repo, blob, t.clock)
	return err
}

// unlinkBlob takes a blob out of a repository. With the last link the blob's
// row goes, and its file is due for removal (2): then it returns its size, else
// -1.
func (t *tx) unlinkBlob(repo, blob int64, d digest.Digest) (freed int64, err error) {
	if _, err := t.exec(`DELETE FROM link WHERE repository = ? AND blob = ?`, repo, blob); err != nil {
		return -1, err
	}
	err = t.get(`DELETE FROM blob WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM link WHERE blob = ?1) RETURNING size`, []any{blob}, &freed)
	if errors.Is(err, sql.ErrNoRows) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	_, err = t.exec(`INSERT INTO trash (digest, size) VALUES (?, ?) ON CONFLICT (digest) DO UPDATE SET size = excluded.size`, d, freed)
	return freed, err
}
