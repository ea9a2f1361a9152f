// A copy of the registry that is a registry: `berth backup DEST`.
//
// Pushes, deletes and the collection go on meanwhile. The order keeps DEST
// whole at every moment, the old backup or the new one:
//
//	no file of a blob goes from here on   (emptyTrash waits; bring holds the
//	                                        digest's lock against pushes)
//	the database is copied and verified   → DEST/berth.db.new
//	files that DEST lacks                 → cloned, linked, or copied and verified
//	everything is synced
//	users, rules, endpoints and the CA     → copied
//	berth.db.new                          → DEST/berth.db
//	files that no row of it needs         → removed
//
// A second backup to the same place does only what is new. Restoring is
// `berth --data DEST`. The file berth.backup marks a directory as a copy in which
// nothing is that nobody else has; a server that may be pushed to takes the mark
// away, and from then on no backup overwrites it. One that is --read-only leaves
// it. What such a server has written is replaced with the database (times of pulls,
// what it found damaged, tokens), or needs no row of it (snapshots, quarantine).

package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// backupMark is the file that says that a directory is a backup.
const backupMark = "berth.backup"

// A backup is one under way.
type backup struct {
	st   *store
	dest *dataDir
	db   *sql.DB
	out  *console
	bar  *progress
	dirs map[string]bool // that have changed, and are to be synced
	had  map[string]bool // the digests of a shard of which an earlier backup that was finished has the blobs

	absent []string // what is made before anything is copied, and was not there: as of findAbsent

	accepted bool // the destination is ours
	begun    bool // and has something of this one
	earlier  bool // and has an earlier backup
	done     bool // and has this one
	noClones bool // its file system does not share blocks with the source's
	noLinks  bool // nor names

	cloned, linked, copied, kept, removed, damaged int
	bytes                                          int64 // copied
}

// backupCommand is `berth backup DEST`.
func backupCommand(ctx context.Context, st *store, o options, out *console) (err error) {
	dest := o.Args[0]
	b := &backup{st: st, out: out, dirs: make(map[string]bool),
		dest: newDataDir(dirConfig{dir: dest, log: st.log})}
	defer func() { b.note(err); err = b.explain(err) }()
	if err := b.take(o); err != nil {
		return err
	}
	defer b.dest.letGo()
	defer func() {
		if err != nil && !b.begun { // while the lock is held
			removeMade(b.absent)
		}
	}()
	if err := b.accept(ctx); err != nil {
		return err
	}
	b.accepted = true
	// The mark first, so that a run that is cut short can be gone on from.
	if err := writeSynced(filepath.Join(dest, backupMark), strings.NewReader("A backup made by berth. To restore it: berth --data DIR\n")); err != nil {
		return err
	}
	if err := b.dest.makeDirectories(); err != nil {
		return fmt.Errorf("making %s: %w", dest, err)
	}

	st.collector.removal.RLock()
	defer notify(st.collector.trashed) // runs after the unlocking
	defer st.collector.removal.RUnlock()
	temp := filepath.Join(dest, "berth.db.new")
	defer os.Remove(temp)
	if err := b.openCopy(ctx, temp); err != nil {
		return err
	}
	b.begun = true
	defer b.db.Close()
	if err := b.files(ctx); err != nil {
		return err
	}
	if err := b.db.Close(); err != nil {
		return err
	}
	// Before the database: a copy must never be open to more people.
	if err := b.guards(); err != nil {
		return fmt.Errorf("copying who may do what: %w", err)
	}
	if err := b.finish(temp); err != nil {
		return err
	}
	b.done = true
	if err := b.removeRest(ctx); err != nil {
		return fmt.Errorf("the backup is complete, but files that it no longer needs could not be removed: %w", err)
	}
	if err := b.tell(o.JSON); err != nil {
		return err
	}
	if b.damaged > 0 {
		return fmt.Errorf("%s damaged, here and in the backup; push the images again, then back up again", plural(b.damaged, "blob"))
	}
	return nil
}

// take makes the destination and takes its lock, if what can be seen of it before allows that. With an
// error it leaves nothing that it made.
func (b *backup) take(o options) (err error) {
	if err := o.seeDestination(); err != nil {
		return err
	}
	if err := b.separate(); err != nil {
		return err
	}
	if err := errors.Join(b.looksFree(), b.refuseOthers()); err != nil {
		return err
	}
	if b.absent, err = b.findAbsent(); err != nil {
		return err
	}
	err = b.dest.own()
	if err != nil && !errors.Is(err, errLocked) { // else somebody else may have made them
		removeMade(b.absent)
	}
	return err
}

// lastBackupFile is in the data directory, and says when the last backup was made, and to where; and the same of the
// last to each other destination.
const lastBackupFile = "last-backup.json"

// A backupCopy is the last backup to a destination.
type backupCopy struct {
	Time        time.Time `json:"time"`
	Destination string    `json:"destination"`
}

// A lastBackup is what the file says.
type lastBackup struct {
	backupCopy
	Others []backupCopy `json:"others,omitempty"` // to other destinations, the last first; at most maxBackupsNoted
}

// maxBackupsNoted bounds the destinations that are remembered beside the last.
const maxBackupsNoted = 15

// copies are all of them, the last first.
func (l lastBackup) copies() []backupCopy {
	if l.Destination == "" {
		return nil
	}
	return append([]backupCopy{l.backupCopy}, l.Others...)
}

// then is what the file says after one more backup.
func (l lastBackup) then(c backupCopy) lastBackup {
	others := slices.DeleteFunc(l.copies(), func(o backupCopy) bool { return o.Destination == c.Destination })
	return lastBackup{c, others[:min(len(others), maxBackupsNoted)]}
}

// note notes that a backup was made, or not. Where that cannot be written down, as on a disk
// that is full, it is known until the end of this process.
func (b *backup) note(err error) {
	st := b.st
	if err != nil {
		st.backups.note(err)
	}
	if !b.done {
		return
	}
	st.backups.note(nil)
	last, _ := readLastBackup(st.dir) // what cannot be read is written anew
	text, err := json.Marshal(last.then(backupCopy{time.Unix(st.backups.succeeded.Load(), 0).UTC(), b.dest.whole()}))
	if err == nil && st.writer != nil {
		err = writeSynced(filepath.Join(st.dir, lastBackupFile), bytes.NewReader(append(text, '\n')))
	}
	if err != nil {
		st.log.Warn("it cannot be written down when this backup was made", "error", err)
	}
}

// recallBackup takes up when the last backup of a directory was made, if that is known.
func (o *outcome) recallBackup(dir string) {
	if last, err := readLastBackup(dir); err == nil && last.Time.Unix() > 0 {
		o.succeeded.Store(last.Time.Unix())
	}
}

// readLastBackup reads the note; one that cannot be understood counts as none.
func readLastBackup(dir string) (last lastBackup, err error) {
	text, err := os.ReadFile(filepath.Join(dir, lastBackupFile))
	if errors.Is(err, fs.ErrNotExist) {
		return last, nil
	}
	if err == nil && json.Unmarshal(text, &last) != nil {
		last = lastBackup{}
	}
	return last, err
}

// openCopy copies the database to a file, and opens that as b.db, which the caller closes.
func (b *backup) openCopy(ctx context.Context, path string) (err error) {
	if err := b.st.snapshots.copyDatabase(ctx, path); err != nil {
		return err
	}
	if b.db, err = sql.Open("sqlite", dsnOf(path, url.Values{})); err != nil {
		return err
	}
	b.db.SetMaxOpenConns(1)
	// Sessions are of this server, and so are what it has still to remove and
	// its snapshots.
	if _, err = b.db.ExecContext(ctx, `DELETE FROM upload; DELETE FROM trash; DELETE FROM event; UPDATE meta SET stale = 1, users_file = NULL, policy_file = NULL`); err != nil {
		b.db.Close()
	}
	return err
}

// tell says what was done.
func (b *backup) tell(asJSON bool) error {
	dest := b.dest.dir
	if asJSON {
		return b.out.json(map[string]any{"destination": dest, "cloned": b.cloned, "linked": b.linked, "copied": b.copied, "bytes": b.bytes,
			"kept": b.kept, "removed": b.removed, "damaged": b.damaged})
	}
	b.out.printf("copied the registry %s to %s\n", b.st.whole(), dest)
	b.out.printf("%s cloned, %s linked, %s copied (%s), %s there already, %s removed\n", plural(b.cloned, "blob"), plural(b.linked, "blob"),
		plural(b.copied, "blob"), formatSize(b.bytes), plural(b.kept, "blob"), plural(b.removed, "file"))
	b.out.printf("to look into it: berth --data %s --read-only\n"+
		"to go back to it: stop Berth, move the damaged %s away, copy %[1]s there, and start with the same flags (docs/storage.md#backup)\n", dest, b.st.whole())
	if b.cloned+b.linked > 0 || sameDisk(b.st.dir, dest) {
		b.out.printf("it is on the same file system as the registry, and shares disk space with it: it is no help when the disk fails\n")
	}
	return nil
}

// explain adds to the error of a backup what its reader wants to know most.
func (b *backup) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case isNoSpace(err):
		err = fmt.Errorf("the disk of %s is full: %w", b.dest.dir, err)
	}
	switch {
	case !b.accepted || b.done:
	case b.earlier:
		err = fmt.Errorf("%w; the earlier backup in %s is as it was", err, b.dest.dir)
	case b.begun:
		err = fmt.Errorf("%w; there is no backup in %s yet, and the next run continues from here", err, b.dest.dir)
	default:
		err = fmt.Errorf("%w; there is no backup in %s yet", err, b.dest.dir)
	}
	return err
}

// findAbsent returns what a backup makes before it copies anything, and is not there yet: outer directories
// first.
func (b *backup) findAbsent() (paths []string, err error) {
	dir := b.dest.dir
	for above := filepath.Dir(dir); above != filepath.Dir(above); above = filepath.Dir(above) {
		paths = append(paths, above)
	}
	slices.Reverse(paths)
	paths = append(paths, dir, filepath.Join(dir, "berth.lock"), filepath.Join(dir, backupMark), filepath.Join(dir, "uploads"), filepath.Join(dir, "blobs"))
	for _, algorithm := range algorithms {
		paths = append(paths, b.dest.blobsDir(algorithm))
	}
	return slices.DeleteFunc(paths, func(path string) bool {
		_, e := os.Lstat(path) // a link that leads nowhere is there
		if !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
			return true
		}
		return false
	}), err
}

// removeMade removes what a backup has made, paths as of findAbsent, if there is nothing else in it.
func removeMade(paths []string) {
	for _, path := range slices.Backward(paths) {
		os.Remove(path) // of what is left its owner decides
	}
}

// separate refuses a destination inside the data directory, or around it, wherever
// the blobs of either are.
func (b *backup) separate() error {
	within := func(a, b string) bool {
		rel, err := filepath.Rel(a, b)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
	}
	for _, from := range []string{b.st.dir, filepath.Join(b.st.dir, "blobs")} {
		for _, to := range []string{b.dest.dir, filepath.Join(b.dest.dir, "blobs")} {
			realFrom, err := realPath(from)
			if err != nil {
				return err
			}
			realTo, err := realPath(to)
			if err != nil {
				return err
			}
			if within(realFrom, realTo) || within(realTo, realFrom) || sameFile(realFrom, realTo) {
				return fmt.Errorf("a backup of %s cannot be in %s", b.st.dir, b.dest.dir)
			}
		}
	}
	return nil
}

// looksFree refuses a destination that is not empty and has nothing of a
// registry, or whose disk is not mounted, before anything is written to it.
func (b *backup) looksFree() error {
	if err := b.dest.refuseUnmounted(); err != nil {
		return err
	}
	if begun, err := anyThere(filepath.Join(b.dest.dir, backupMark), filepath.Join(b.dest.dir, "berth.db")); err != nil || begun {
		return err // if nil, accept looks closer
	}
	entries, err := os.ReadDir(b.dest.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.Name() == "blobs" { // perhaps the disk for them
			inside, err := os.ReadDir(filepath.Join(b.dest.dir, "blobs"))
			if err == nil && (len(inside) == 0 || len(inside) == 1 && inside[0].Name() == "lost+found") {
				continue
			}
		}
		if e.Name() != "berth.lock" && e.Name() != "lost+found" { // the second is in every new ext4
			return fmt.Errorf("%s is neither empty nor a backup (it has %s); name another directory", b.dest.dir, e.Name())
		}
	}
	return err
}

// accept refuses a destination that is not an earlier backup of this registry,
// or has been served since. The caller has its lock.
func (b *backup) accept(ctx context.Context) error {
	dest := b.dest.dir
	db := filepath.Join(dest, "berth.db")
	begun, err := isThere(db)
	if err != nil {
		return err
	}
	marked, err := isThere(filepath.Join(dest, backupMark))
	switch {
	case err != nil:
		return err
	case !begun:
		return b.looksFree() // also a backup that was cut short
	case !marked:
		return fmt.Errorf("%s is a registry of its own, not a backup, or was served since without --read-only; name another directory, or remove this one", dest)
	}
	// A command may have been at work on it; its log goes with its database.
	logged, err := isThere(db + "-wal")
	if err != nil {
		return err
	}
	if logged {
		old, err := sql.Open("sqlite", dsnOf(db, url.Values{}))
		if err != nil {
			return err
		}
		_, err = old.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`)
		if err := errors.Join(err, old.Close()); err != nil {
			return fmt.Errorf("the database of the earlier backup: %w", err)
		}
	}
	was, err := verifyDatabase(ctx, db)
	if err != nil {
		return fmt.Errorf("the earlier backup in %s is damaged; remove its berth.db to make the backup again from the start, or name another directory: %w", dest, err)
	}
	var id string
	if err := b.st.get(`SELECT id FROM meta`, nil, &id); err != nil {
		return err
	}
	if was.id != id {
		return fmt.Errorf("%s is a backup of another registry; name another directory", dest)
	}
	b.earlier = true
	return nil
}

// files brings to DEST what the copied database says and DEST lacks.
func (b *backup) files(ctx context.Context) error {
	var total int64
	if err := b.db.QueryRowContext(ctx, `SELECT bytes FROM total`).Scan(&total); err != nil {
		return err
	}
	b.bar = b.out.progress("backing up", total)
	defer b.bar.end()
	var earlier *sql.DB
	if b.earlier {
		var err error
		if earlier, err = openToLook(filepath.Join(b.dest.dir, "berth.db")); err != nil {
			return err
		}
		defer earlier.Close()
	}
	for _, s := range shards() {
		rows, err := b.rows(ctx, s)
		if err == nil {
			b.had, err = wholeIn(ctx, earlier, s)
		}
		if err != nil {
			return err
		}
		for _, row := range rows {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := b.file(ctx, row); err != nil {
				return fmt.Errorf("backing up %s: %w", row.digest, err)
			}
		}
	}
	if err := syncDirs(b.dest.lock, b.dirs); err != nil {
		return fmt.Errorf("syncing the backup: %w", err)
	}
	return nil
}

func (b *backup) rows(ctx context.Context, s shard) ([]blobRow, error) {
	rows, err := b.db.QueryContext(ctx, blobsInShard, s.from(), s.to())
	if err != nil {
		return nil, err
	}
	return collectRows(rows, scanBlobRow)
}

// wholeIn returns the digests of the blobs of a shard that a database has and does not
// take for damaged; db may be nil.
func wholeIn(ctx context.Context, db *sql.DB, s shard) (map[string]bool, error) {
	whole := make(map[string]bool)
	if db == nil {
		return whole, nil
	}
	rows, err := db.QueryContext(ctx, blobsInShard, s.from(), s.to())
	if err != nil {
		return nil, err
	}
	list, err := collectRows(rows, scanBlobRow)
	for _, row := range list {
		whole[row.digest.String()] = !row.damaged
	}
	return whole, err
}

// file brings one blob to DEST. One that is damaged here may be whole there,
// and the other way round.
func (b *backup) file(ctx context.Context, row blobRow) error {
	// Also for one that is damaged: where there are rows, there are directories.
	if err := b.dest.makeShards(row.digest.Algorithm(), nil); err != nil {
		return err
	}
	to := b.dest.path(row.digest)
	f, err := openSized(to, row.size)
	if err == nil {
		f.Close()
		if !b.had[row.digest.String()] { // a run that was cut short has brought it, and not synced its name
			b.changes(row.digest)
		}
	}
	if row.damaged {
		b.bar.add(row.size)
		if err == nil && verifyFile(to, row.digest) == nil {
			b.kept++
			return b.mark(ctx, row.digest, nil)
		}
		b.damaged++
		return nil
	}
	if err == nil {
		b.kept++
		b.bar.add(row.size)
		return nil
	}
	if err := os.Mkdir(filepath.Dir(to), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	b.changes(row.digest)
	err = b.bring(ctx, to, row)
	if errors.Is(err, errDamaged) {
		if b.st.writer != nil {
			wrong, e := b.st.quarantine(row.digest)
			if e != nil {
				return e
			}
			if wrong == nil { // pushed again meanwhile
				if err = b.bring(ctx, to, row); !errors.Is(err, errDamaged) {
					return err
				}
			}
		}
		b.damaged++
		b.out.printf("DAMAGED: blob %s: %v\n", row.digest, err)
		if os.Remove(filepath.Dir(to)) == nil {
			delete(b.dirs, filepath.Dir(to)) // it cannot be synced any more
		}
		return b.mark(ctx, row.digest, err)
	}
	return err
}

// changes notes that the names that lead to a blob of DEST are to be synced.
func (b *backup) changes(d digest.Digest) {
	b.dirs[filepath.Dir(b.dest.path(d))], b.dirs[b.dest.shardDir(d)] = true, true
}

// mark records in the copied database whether a blob is damaged there.
func (b *backup) mark(ctx context.Context, d digest.Digest, wrong error) error {
	var text any
	if wrong != nil {
		text = wrong.Error()
	}
	_, err := b.db.ExecContext(ctx, `UPDATE blob SET damaged = ? WHERE digest = ?`, text, d)
	return err
}

// bring makes the file to of a blob: as a clone that shares the blocks of the
// one here, else as another name of it (a blob's file is never written again),
// else as a copy whose bytes are verified. It comes under its name when whole.
// The error is errDamaged if that is to be said of the one here.
func (b *backup) bring(ctx context.Context, to string, row blobRow) error {
	temp := filepath.Join(b.dest.blobsDir(row.digest.Algorithm()), "blob.new") // on the disk of blobs, which may be another
	defer os.Remove(temp)
	src, err := b.share(temp, row)
	if err != nil {
		return err
	}
	if src == nil { // shared
		return os.Rename(temp, to)
	}
	defer src.Close()
	dst, err := createAnew(temp)
	if err != nil {
		return err
	}
	defer dst.Close()
	hash := row.digest.Algorithm().Hash()
	buffer := largeBuffers.Get().(*[]byte)
	defer largeBuffers.Put(buffer)
	for at := int64(0); ; {
		n, readErr := src.ReadAt(*buffer, at)
		if isBadSector(readErr) {
			return fmt.Errorf("%w: %w", readErr, errDamaged)
		}
		if readErr != nil && readErr != io.EOF {
			return readErr
		}
		hash.Write((*buffer)[:n])
		if _, err := dst.WriteAt((*buffer)[:n], at); err != nil {
			return err
		}
		at += int64(n)
		b.bar.add(int64(n))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if readErr == io.EOF {
			break
		}
	}
	if sum := digest.NewDigest(row.digest.Algorithm(), hash); sum != row.digest {
		return fmt.Errorf("its bytes have the digest %s: %w", sum, errDamaged)
	}
	if err := errors.Join(syncData(dst), dst.Close()); err != nil {
		return err // and not under its name, where the next backup would trust it
	}
	b.copied++
	b.bytes += row.size
	return os.Rename(temp, to)
}

// share makes the file temp from a blob's without copying it. If that cannot
// be, it returns the file to copy. It holds the digest's lock, since a push may
// be about to put another file into the place.
func (b *backup) share(temp string, row blobRow) (src *os.File, err error) {
	unlock := b.st.digests.lock(row.digest.String())
	defer unlock()
	from := b.st.path(row.digest)
	src, err = openSized(from, row.size)
	if errors.Is(err, fs.ErrNotExist) && b.st.hasShard(row.digest) { // else it is the disk that is missing
		err = fmt.Errorf("the file is missing: %w", errDamaged)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, src.Close())
	}
	if !b.noClones {
		err := cloneTo(temp, src)
		if err == nil {
			b.cloned++
			b.bar.add(row.size)
			return nil, src.Close()
		}
		if isNoSpace(err) {
			return nil, errors.Join(err, src.Close())
		}
		b.noClones = true
		os.Remove(temp)
	}
	if !b.noLinks {
		err := os.Link(from, temp)
		if err == nil {
			b.linked++
			b.bar.add(row.size)
			return nil, src.Close()
		}
		// A file may have all the names it can; between disks none can.
		b.noLinks = b.linked == 0
	}
	return src, nil
}

// guards copies who may do what, and the CA and certificates: to where a server
// on the copy looks for them, wherever they are here. What is not here stays
// there: a copy is rather closed to too many than open to them.
func (b *backup) guards() error {
	put := func(name string, text []byte) error {
		path := filepath.Join(b.dest.dir, filepath.FromSlash(name))
		if err := makeAll(filepath.Dir(path)); err != nil {
			return err
		}
		return writeSynced(path, bytes.NewReader(text)) // whatever mode and owner one has that is there
	}
	held, err := b.st.host.guards()
	if err != nil {
		return err
	}
	// Rules first: without them users may do more.
	for _, x := range []struct{ name, from string }{{policyFile, b.st.policyFile}, {loginFile, filepath.Join(b.st.dir, loginFile)}, {usersFile, b.st.usersFile}} {
		text := held[x.name] // also if the file has gone
		if held == nil {
			var err error
			if text, _, err = readFile(x.from); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if text == nil {
			if there, err := isThere(filepath.Join(b.dest.dir, x.name)); err != nil {
				return err
			} else if there {
				b.out.printf("%s is kept as it was in the backup: there is none here any more\n", x.name)
			}
			continue
		}
		if err := put(x.name, text); err != nil {
			return err
		}
	}
	for _, pattern := range []string{eventsFile, "tls/*", "tls/acme/*"} {
		names, err := fs.Glob(os.DirFS(b.st.dir), pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			from := filepath.Join(b.st.dir, name)
			if isLink(from) && foreign(b.st.dir) {
				continue
			}
			text, info, err := readFile(from)
			if info != nil && info.IsDir() {
				continue
			}
			if err == nil {
				err = put(name, text)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // renewed meanwhile
				return err
			}
		}
	}
	return nil
}

// finish puts the copied database into its place.
func (b *backup) finish(temp string) error {
	f, err := os.OpenFile(temp, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(syncData(f), f.Close()); err != nil {
		return err
	}
	db := filepath.Join(b.dest.dir, "berth.db")
	for _, tail := range []string{"-wal", "-shm"} { // empty ones
		if err := os.Remove(db + tail); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(temp, db); err != nil {
		return err
	}
	return syncDir(b.dest.dir)
}

// standAlone makes a registry of what was a backup: a server is about to change
// it, and from now on no backup may overwrite it. One that only serves pulls
// leaves it a backup.
func standAlone(st *store) error {
	if st.readOnly {
		marked, err := isThere(filepath.Join(st.dir, backupMark))
		if marked {
			st.log.Info("this is a backup, and stays one: it is served read-only, and can be backed up to again when it is not served", "data", st.dir)
		}
		return err
	}
	was, err := removeSynced(filepath.Join(st.dir, backupMark))
	if st.writer == nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("making a registry of what was a backup: %w", err)
	}
	if was {
		st.log.Info("this was a backup, and is a registry of its own now", "data", st.dir)
	}
	return nil
}

// removeRest removes what DEST has and its database does not name.
func (b *backup) removeRest(ctx context.Context) error {
	db, err := sql.Open("sqlite", dsnOf(filepath.Join(b.dest.dir, "berth.db"), url.Values{"mode": {"ro"}}, "query_only(1)"))
	if err != nil {
		return err
	}
	defer db.Close()
	b.db = db
	for _, s := range shards() {
		rows, err := b.rows(ctx, s)
		if err != nil {
			return err
		}
		known := make(map[string]bool, len(rows))
		for _, row := range rows {
			known[row.digest.Encoded()] = true
		}
		dir := filepath.Join(b.dest.blobsDir(s.algorithm), s.prefix)
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(s.algorithm, e.Name())
			if known[e.Name()] || d.Validate() != nil {
				continue
			}
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
			b.removed++
		}
	}
	return nil
}

// sameDisk reports whether two directories are known to be on one.
func sameDisk(a, b string) bool {
	one, _, _ := strings.Cut(dirID(a), ":")
	other, _, _ := strings.Cut(dirID(b), ":")
	return one != "" && one == other && runtime.GOOS != "windows"
}
