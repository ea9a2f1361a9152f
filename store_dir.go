// The data directory: who owns it, where everything lies, and when it is on the disk.
//
// One process owns it, by a lock that is held for the life of the process. Metadata and blobs
// that do not belong together are refused: an empty registry never comes up over a full disk,
// nor a full one in front of a disk that is not mounted.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// A dataDir is a data directory that this process owns or is about to own: where
// everything lies, how much room there is, and what makes it durable. It knows
// nothing of what the files mean. Its methods may be called from any goroutine.
type dataDir struct {
	dirConfig
	found        premises
	lock         *os.File    // open as long as the directory is this process's
	owned        os.FileInfo // the directory that has the lock, nil if that is not known
	readOnlyDisk bool        // found by own: only pulls work
	arrivals     string      // the directory that has uploads/ and quarantine/
	shards       struct {    // of which algorithms makeShards has seen to it that they are there
		sync.Mutex          // held while they are made
		sha256, sha512 bool // guarded by the mutex
	}
	base      time.Duration // uptime of the directory when it was opened
	reserve   reserve       // of room
	tight     atomic.Bool   // the disk was full: SQLite's log must not take what room there is
	fileSyncs atomic.Int64  // syncs of files and directories since the start, for the metrics
	notice    func(error)   // told of what the database fails with, also nil
}

type dirConfig struct {
	dir       string
	existing  bool     // never begin a registry
	named     []string // files that flags name: they may be in a directory in which a registry begins
	minFree   int64    // bytes of the disk that pushes leave; negative for a share of it
	restoring bool     // open a directory whose restore is not finished
	log       *slog.Logger

	// now is the time since the process opened the directory; tests move it.
	now func() time.Duration
}

var errLocked = errors.New("in use by another berth process")

// newDataDir returns a directory that is not this process's yet.
func newDataDir(cfg dirConfig) *dataDir {
	if cfg.now == nil {
		opened := time.Now()
		cfg.now = func() time.Duration { return time.Since(opened) }
	}
	return &dataDir{dirConfig: cfg, arrivals: cfg.dir, notice: func(error) {}}
}

// own makes the directory and takes its lock. It finds out whether the disk is
// read-only.
func (data *dataDir) own() (err error) {
	if err := makeAll(data.dir); err != nil && !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("making the data directory: %w", err)
	}
	path := filepath.Join(data.dir, "berth.lock")
	data.lock, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if errors.Is(err, syscall.EROFS) {
		data.readOnlyDisk = true
		data.lock, err = os.OpenFile(path, os.O_RDONLY|noFollow, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the data directory %s is on a read-only disk and was never served", data.dir)
		}
	}
	if whose := data.othersFiles(); errors.Is(err, fs.ErrPermission) && whose != "" {
		return errors.New(whose)
	}
	if err != nil {
		return fmt.Errorf("opening the data directory's lock: %w", err)
	}
	if err := lockFile(data.lock); errors.Is(err, errLocked) {
		return fmt.Errorf("%s is %w; stop that first", data.whole(), err)
	} else if err != nil {
		return fmt.Errorf("%s cannot be locked: %w", data.dir, err)
	}
	data.owned, _ = os.Stat(data.dir) // only gone needs it
	data.readOnlyDisk = data.readOnlyDisk || onReadOnlyDisk(filepath.Join(data.dir, "blobs"))
	return nil
}

// gone names what was removed or replaced while this process has the directory: the directory itself, or its
// database. It is "" if nothing was, or if that cannot be seen.
func (data *dataDir) gone() string {
	if data.owned == nil {
		return ""
	}
	info, err := os.Stat(data.dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, data.owned) {
		return "the data directory " + data.whole()
	}
	db := filepath.Join(data.whole(), "berth.db")
	if _, err := os.Stat(db); errors.Is(err, fs.ErrNotExist) {
		return "the database " + db
	}
	return ""
}

// ownNamed is own for the directory that --data names.
func (data *dataDir) ownNamed() error {
	err := data.own()
	if errors.Is(err, errLocked) {
		err = fmt.Errorf("%w, or name another with --data", err)
	}
	return err
}

// lookForBlobs refuses a directory in which metadata and blobs do not belong
// together: an empty registry must never come up in front of a full disk, nor
// a full one in front of a disk that is not mounted.
func (data *dataDir) lookForBlobs() error {
	restoring, err := isThere(filepath.Join(data.dir, restoringMark))
	if err != nil {
		return err
	}
	if restoring && !data.restoring {
		return fmt.Errorf("a restore of %[1]s was interrupted: finish it with `berth restore --data %[1]s`", data.dir)
	}
	db := filepath.Join(data.dir, "berth.db")
	info, err := os.Stat(db)
	switch {
	case err == nil && info.Size() > 0:
		return nil // recognise looks whether its blobs are here
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("looking at the database: %w", err)
	case data.readOnlyDisk:
		return fmt.Errorf("the database %s is missing, and the disk is read-only", db)
	}
	return data.refuseBlobs()
}

// refuseBlobs returns an error if there are blobs or snapshots, for which there
// is no database.
func (data *dataDir) refuseBlobs() error {
	unfinished, err := isThere(filepath.Join(data.dir, backupMark))
	if err != nil {
		return err
	}
	if unfinished {
		return fmt.Errorf("%[1]s is a backup that was not finished: run `berth backup %[1]s` again for the registry that it belongs to", data.dir)
	}
	blobs, err := data.anyBlobs()
	if err != nil {
		return fmt.Errorf("the database %s is missing or empty, and whether there are blobs beside it cannot be seen: %w", filepath.Join(data.dir, "berth.db"), err)
	}
	if _, err := os.ReadDir(filepath.Join(data.dir, "snapshots")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the database %s is missing or empty, and whether there are snapshots of it cannot be seen: %w", filepath.Join(data.dir, "berth.db"), err)
	}
	if !blobs && len(data.listSnapshots()) > 0 {
		// Its blobs are elsewhere, perhaps on a disk that is not mounted.
		return fmt.Errorf("the database %s is missing or empty, but there are snapshots of it. "+
			"Berth does not start an empty registry beside them. What to do: %sput berth.db back from a backup, or, "+
			"to begin anew, move the directory %s away", filepath.Join(data.dir, "berth.db"), data.restoreHint(), filepath.Join(data.dir, "snapshots"))
	}
	if blobs {
		return fmt.Errorf("the database %s is missing or empty, but there are blobs beside it. "+
			"Berth does not start an empty registry over them. What to do: %sput berth.db back from a backup, or, "+
			"to begin anew, move the directory %s away", filepath.Join(data.dir, "berth.db"), data.restoreHint(), filepath.Join(data.dir, "blobs"))
	}
	return nil
}

// anyBlobs reports whether there is anything where blobs are.
func (data *dataDir) anyBlobs() (bool, error) {
	for _, algorithm := range algorithms {
		if there, err := isThere(data.blobsDir(algorithm)); err != nil {
			return false, err
		} else if !there { // as in a new registry
			continue
		}
		for _, s := range shards() {
			if s.algorithm != algorithm {
				continue
			}
			entries, err := os.ReadDir(filepath.Join(data.blobsDir(algorithm), s.prefix))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return false, err
			}
			if len(entries) > 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// algorithms are those of the digests of blobs.
var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// blobsDir is where an algorithm's blobs are.
func (data *dataDir) blobsDir(algorithm digest.Algorithm) string {
	return filepath.Join(data.dir, "blobs", algorithm.String())
}

// whole is the directory's whole path, for people who said `--data .` or nothing.
func (data *dataDir) whole() string {
	if dir, err := filepath.Abs(data.dir); err == nil {
		return dir
	}
	return data.dir
}

// makeDirectories makes what is missing of the layout, but for the shards. It does not sync their
// names: makeShards does before there is a blob, and without one the next start makes them again.
func (data *dataDir) makeDirectories() error {
	for _, algorithm := range algorithms {
		if err := os.MkdirAll(data.blobsDir(algorithm), 0o700); err != nil {
			return err
		}
	}
	return os.MkdirAll(filepath.Join(data.dir, "uploads"), 0o700)
}

func (data *dataDir) notMounted(err error) error {
	return fmt.Errorf("%s has metadata but no blobs: is a disk not mounted? (%w)", data.dir, err)
}

// letGo ends the ownership.
func (data *dataDir) letGo() error {
	if data.lock == nil {
		return nil
	}
	// Whatever process has just begun may have a copy of the file for a moment, and the lock with it.
	return errors.Join(unlockFile(data.lock), data.lock.Close())
}

// syncData is syncData of a file, counted for the metrics.
func (data *dataDir) syncData(f *os.File) error {
	data.fileSyncs.Add(1)
	return syncData(f)
}

// syncDir is syncDir of a directory, counted likewise.
func (data *dataDir) syncDir(path string) error {
	data.fileSyncs.Add(1)
	return syncDir(path)
}

func (data *dataDir) syncPath(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(data.syncData(f), f.Close())
}

// hasShard reports whether the directory is there in which d has its own. If
// not, it is the disk that is missing, and not the blob.
func (data *dataDir) hasShard(d digest.Digest) bool {
	_, err := os.Stat(data.shardDir(d))
	return err == nil
}

func (data *dataDir) shardDir(d digest.Digest) string {
	return filepath.Dir(filepath.Dir(data.path(d)))
}

// aside is where a damaged file is kept.
func (data *dataDir) aside(d digest.Digest) string {
	return filepath.Join(data.arrivals, "quarantine", d.Algorithm().String()+"-"+d.Encoded())
}

// path is where a blob's bytes are. d is valid, so the path stays inside.
func (data *dataDir) path(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(data.dir, "blobs", d.Algorithm().String(), hex[:2], hex, "data")
}

// uploadPath is where an upload's bytes are until they are a blob.
func (data *dataDir) uploadPath(id string) string { return filepath.Join(data.arrivals, "uploads", id) }

// A savedSnapshot is a file in snapshots/.
type savedSnapshot struct {
	path   string
	uptime time.Duration // when it was made
}

// listSnapshots returns what there is, newest first.
func (data *dataDir) listSnapshots() (list []savedSnapshot) {
	paths, _ := filepath.Glob(filepath.Join(globQuote(data.dir), "snapshots", "berth-*.db"))
	for _, path := range paths {
		digits := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "berth-"), ".db")
		if seconds, err := strconv.ParseInt(digits, 10, 64); err == nil {
			list = append(list, savedSnapshot{path, time.Duration(seconds) * time.Second})
		}
	}
	slices.SortFunc(list, func(a, b savedSnapshot) int { return cmp.Compare(b.uptime, a.uptime) })
	return list
}

// restoreHint says how to get the metadata back, or nothing if there is no
// snapshot to get it from.
func (data *dataDir) restoreHint() string {
	if len(data.listSnapshots()) == 0 {
		return ""
	}
	return fmt.Sprintf("`berth restore --data %s` goes back to the newest snapshot, and says which images are not whole; or ", data.dir)
}

// uptime is how long the data directory has been served, over all processes:
// the clock of all expiry. It never jumps and never goes back. A crash loses
// what was not yet written, so that things live longer, never shorter.
func (data *dataDir) uptime() time.Duration { return data.base + data.now() }
