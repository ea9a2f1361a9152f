// The data directory: who owns it, where everything lies, and when it is on the disk.
//
// One process owns it, by a lock that is held for the life of the process. Metadata and blobs
// that do not belong together are refused: an empty registry never comes up over a full disk,
// nor a full one in front of a disk that is not mounted.

package main

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// own makes the directory and takes its lock. It finds out whether the disk is
// read-only.
func (st *store) own() (err error) {
	if err := makeAll(st.dir); err != nil && !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("making the data directory: %w", err)
	}
	path := filepath.Join(st.dir, "berth.lock")
	st.lock, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if errors.Is(err, syscall.EROFS) {
		st.readOnlyDisk = true
		st.lock, err = os.OpenFile(path, os.O_RDONLY|noFollow, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the data directory %s is on a read-only disk and was never served", st.dir)
		}
	}
	if err != nil {
		return fmt.Errorf("opening the data directory's lock: %w", err)
	}
	if err := lockFile(st.lock); err != nil {
		return fmt.Errorf("the data directory %s is in use by another berth process: %w", st.dir, err)
	}
	st.readOnlyDisk = st.readOnlyDisk || onReadOnlyDisk(filepath.Join(st.dir, "blobs"))
	return nil
}

// lookForBlobs refuses a directory in which metadata and blobs do not belong
// together: an empty registry must never come up in front of a full disk, nor
// a full one in front of a disk that is not mounted.
func (st *store) lookForBlobs() error {
	if _, err := os.Stat(filepath.Join(st.dir, restoringMark)); err == nil && !st.restoring {
		return fmt.Errorf("a restore of %[1]s was cut short: finish it with `berth restore --data %[1]s`", st.dir)
	}
	db := filepath.Join(st.dir, "berth.db")
	info, err := os.Stat(db)
	switch {
	case err == nil && info.Size() > 0:
		return nil // recognise looks whether its blobs are here
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("looking at the database: %w", err)
	case st.readOnlyDisk:
		return fmt.Errorf("the database %s is missing, and the disk is read-only", db)
	}
	return st.refuseBlobs()
}

// refuseBlobs returns an error if there are blobs or snapshots, for which there
// is no database.
func (st *store) refuseBlobs() error {
	if exists(filepath.Join(st.dir, backupMark)) {
		return fmt.Errorf("%[1]s is a backup that was not finished: run `berth backup %[1]s` again on the registry it is of", st.dir)
	}
	blobs, err := fs.Glob(os.DirFS(st.dir), "blobs/*/*/*")
	if err == nil && len(blobs) == 0 && len(st.listSnapshots()) > 0 {
		// Its blobs are elsewhere, perhaps on a disk that is not mounted.
		return fmt.Errorf("the database %s is missing or empty, but there are snapshots of it. "+
			"Berth does not start an empty registry beside them. What to do: %sput berth.db back from a backup, or, "+
			"to begin anew, move the directory %s away", filepath.Join(st.dir, "berth.db"), st.restoreHint(), filepath.Join(st.dir, "snapshots"))
	}
	if err == nil && len(blobs) > 0 {
		err = fmt.Errorf("the database %s is missing or empty, but there are blobs beside it. "+
			"Berth does not start an empty registry over them. What to do: %sput berth.db back from a backup, or, "+
			"to begin anew, move the directory %s away", filepath.Join(st.dir, "berth.db"), st.restoreHint(), filepath.Join(st.dir, "blobs"))
	}
	return err
}

// algorithms are those of the digests of blobs.
var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// blobsDir is where an algorithm's blobs are.
func (st *store) blobsDir(algorithm digest.Algorithm) string {
	return filepath.Join(st.dir, "blobs", algorithm.String())
}

// makeDirectories makes what is missing of the layout, but for the shards.
func (st *store) makeDirectories() error {
	for _, algorithm := range algorithms {
		if err := makeAll(st.blobsDir(algorithm)); err != nil {
			return err
		}
	}
	return makeAll(filepath.Join(st.dir, "uploads"))
}

func (st *store) notMounted(err error) error {
	return fmt.Errorf("%s has metadata but no blobs: is a disk not mounted? (%w)", st.dir, err)
}

func (st *store) closeFiles() error {
	var errs []error
	// SQLite removes its log with the last connection, and a connection does
	// not end while one of its statements is open.
	st.reads.Range(func(_, s any) bool {
		errs = append(errs, s.(*sql.Stmt).Close())
		return true
	})
	if st.db != nil {
		errs = append(errs, st.db.Close())
	}
	if st.writer != nil {
		errs = append(errs, st.writer.close())
	}
	if st.writerDB != nil {
		errs = append(errs, st.writerDB.Close())
	}
	if st.lock != nil {
		errs = append(errs, st.lock.Close())
	}
	return errors.Join(errs...)
}

// syncData is syncData of a file, counted for the metrics.
func (st *store) syncData(f *os.File) error {
	st.fileSyncs.Add(1)
	return syncData(f)
}

// syncDir is syncDir of a directory, counted likewise.
func (st *store) syncDir(path string) error {
	st.fileSyncs.Add(1)
	return syncDir(path)
}

func (st *store) syncPath(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(st.syncData(f), f.Close())
}

// hasShard reports whether the directory is there in which d has its own. If
// not, it is the disk that is missing, and not the blob.
func (st *store) hasShard(d digest.Digest) bool {
	_, err := os.Stat(st.shardDir(d))
	return err == nil
}

func (st *store) shardDir(d digest.Digest) string { return filepath.Dir(filepath.Dir(st.path(d))) }

// aside is where a damaged file is kept.
func (st *store) aside(d digest.Digest) string {
	return filepath.Join(st.arrivals, "quarantine", d.Algorithm().String()+"-"+d.Encoded())
}

// path is where a blob's bytes are. d is valid, so the path stays inside.
func (st *store) path(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(st.dir, "blobs", d.Algorithm().String(), hex[:2], hex, "data")
}

func (st *store) uploadPath(u *upload) string { return filepath.Join(st.arrivals, "uploads", u.id) }

// A savedSnapshot is a file in snapshots/.
type savedSnapshot struct {
	path   string
	uptime time.Duration // when it was made
}

// listSnapshots returns what there is, newest first.
func (st *store) listSnapshots() (list []savedSnapshot) {
	paths, _ := filepath.Glob(filepath.Join(globQuote(st.dir), "snapshots", "berth-*.db"))
	for _, path := range paths {
		digits := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "berth-"), ".db")
		if seconds, err := strconv.ParseInt(digits, 10, 64); err == nil {
			list = append(list, savedSnapshot{path, time.Duration(seconds) * time.Second})
		}
	}
	slices.SortFunc(list, func(a, b savedSnapshot) int { return cmp.Compare(b.uptime, a.uptime) })
	return list
}
