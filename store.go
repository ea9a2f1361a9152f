// The data directory and the database: what is stored, and what is promised.
//
//	data/
//	  berth.db                           SQLite: all metadata, and manifests whole
//	  berth.lock                         held for the life of the one process that owns data/
//	  blobs/sha256/ab/abcdef…/data       one directory per blob
//	  blobs/sha512/…                     likewise
//	  uploads/<uuid>                     bytes that are still arriving
//	  quarantine/sha256-abcdef…          damaged files of blobs, put aside
//	  reserve                            room for deletes on a full disk
//	  berth.sock                         where a running server takes commands
//
// uploads/ and quarantine/ are in blobs/ if that is another disk (store_place.go).
//
// The invariants, which check verifies and other files cite by number:
//
//  1. A blob row implies a whole, synced, verified file at its final path,
//     unless the row says that it is damaged: then the blob is not there for
//     anybody. A file without a row is rubbish and may be removed. A file that
//     is not synced yet has its bytes in the database as well (store_small.go).
//  2. Put: file first, then row. Remove: row first, then file, under the
//     digest's lock and only if the row is still absent.
//  3. A manifest row implies rows, in that repository, for its config, its
//     layers and (for an index) its members; foreign layers excepted, and
//     all of it under --sparse-manifests. Its subject may be absent.
//  4. A blob or manifest that a client was told exists stays for at least half
//     the grace period, unless a client deletes it. When the last manifest that
//     uses a blob is deleted, the blob is hidden: no client finds it, until it is
//     pushed or mounted again, or a manifest that uses it is pushed or restored.
//     A push under way that was told of it before gets what it was told of.
//  5. A tag points at a manifest of its own repository, and not at one that was
//     deleted.
//  6. A link or manifest is loose (has a time from which its grace counts)
//     exactly while nothing refers to it; so what is garbage can be found
//     without looking at what is not. A manifest that a client has deleted is
//     loose and refers to no manifest, but still to its blobs, so that it can be
//     restored as long as its grace lasts. One whose subject has never been in the
//     repository counts as referred to: it is kept elsewhere on purpose.
//
// The schema enforces 3, for blobs, by foreign keys. Every transaction that adds
// or removes a reference settles both ends of it, which keeps 6.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"modernc.org/sqlite"
)

// A store is an open data directory. Its methods may be called from any
// goroutine.
type store struct {
	storeConfig
	lock     *os.File   // open as long as the store
	db       *sql.DB    // query-only connections
	writer   *committer // nil on a read-only disk
	writerDB *sql.DB

	readOnlyDisk bool   // found at start: only pulls work
	arrivals     string // the directory that has uploads/ and quarantine/

	reads    sync.Map // query → *sql.Stmt on db
	digests  keyLock  // one holder per digest renames or unlinks its file
	sessions sessions
	unsynced unsynced
	shards   struct { // of which algorithms makeShards has seen to it that they are there
		sync.Mutex          // held while they are made
		sha256, sha512 bool // guarded by the mutex
	}
	lookups      lookups
	counted      struct{ last, again atomic.Int64 } // the history's last change when it was counted, and uptime when it is to be again; 0 for none
	sending      sending
	robots       robots
	promises     promises
	garbage      garbage
	wake         chan struct{} // tells the janitor that something became loose
	trashed      chan struct{} // tells the janitor that a file is to be removed
	suspects     chan digest.Digest
	verified     verifications
	open         func() bool                       // everybody may do everything; nil if nobody serves
	tagRules     func() (*tagRules, error)         // those that hold; nil for none
	guards       func() (map[string][]byte, error) // the texts of users and rules that hold; nil likewise
	mayUpload    func(owner string) bool           // whether there is still such an owner of uploads; nil likewise
	noteGuarded  func() error                      // has the database say that there are users, if there are; nil likewise
	ownersGone   atomic.Bool                       // users or rules have changed: there may be uploads of owners who are no more
	busy         func() bool                       // there are requests under way; nil if there can be none
	uploadEnded  func()                            // there may be room for another upload; nil if nobody waits
	looks        chan struct{}                     // full while as many snapshots as may be are in use
	large        chan struct{}                     // full while as many bodies as may be have large buffers
	holding      chan struct{}                     // full while as many bodies as may be are held in memory
	base         time.Duration                     // uptime of the data directory when it was opened
	saved        int64                             // uptime last written, in seconds; used by the writer only
	stale        atomic.Bool                       // something has changed since the last snapshot
	staleSince   atomic.Int64                      // uptime when snapshots noticed that; 0 if they have not
	changed      chan struct{}                     // tells that it has become so
	pulls        pulls                             // what was pulled lately
	tagged       chan struct{}                     // tells the retainer that a tag has moved
	rulesChanged chan struct{}                     // and that there may be other rules
	reserve      reserve                           // of room
	removal      sync.RWMutex                      // held for writing while files of blobs go, for reading by backups
	opened       time.Time
	fileSyncs    atomic.Int64 // syncs of files and directories since the start, for the metrics

	collectedBlobs, collectedBytes atomic.Int64 // likewise
	droppedTags                    atomic.Int64 // tags dropped by the rules, likewise
}

type storeConfig struct {
	dir           string
	grace         time.Duration // how long an unreferenced blob stays
	untaggedGrace time.Duration // how long an unreferenced manifest stays; 0 keeps it
	uploadExpiry  time.Duration // how long an idle upload session stays
	maxUploads    int64         // open upload sessions, 0 for no limit
	maxBlob       int64         // bytes, 0 for no limit
	scrubEvery    time.Duration // between the passes that read all that is stored; 0 for none
	scrubRate     int64         // bytes a second that they read; 0 for no limit
	minFree       int64         // bytes of the disk that pushes leave; negative for a share of it
	sparse        bool          // what a manifest refers to may be absent
	readOnly      bool          // pushes and deletes are refused, and nothing is collected
	noDelete      bool          // deletes are refused, also those by rules
	usersFile     string        // who may log in,
	policyFile    string        // and do what: for backups
	budget        budget
	log           *slog.Logger

	// now is the time since the process opened the store; tests move it.
	now func() time.Duration
	// patience is that with a silent client whose upload another request goes on with.
	patience time.Duration
	// restoring opens a directory whose restore is not finished.
	restoring bool
	// noPromises lets what clients were just told of go; tests collect at once.
	noPromises bool
	// syncDisk is syncFileSystem; tests have it fail.
	syncDisk func(f *os.File, dirs map[string]bool) (done bool, err error)
	// waitWritten is the function of that name; tests count, and have it fail.
	waitWritten func(f *os.File, off, n int64) error
	// at is called at the named points of a write; crash tests die there.
	at func(point string)
}

// openStore opens or creates the data directory. On a disk that cannot be
// written it opens for pulls only. Work done here is in proportion to the
// uploads that were open and to the small blobs whose files were not synced, not to
// what is stored.
func openStore(cfg storeConfig) (_ *store, err error) {
	st := newStore(cfg)
	defer func() {
		if err != nil {
			if st.writer != nil {
				st.writer.stop()
			}
			st.closeFiles()
		}
	}()
	if err := st.refuseUnmapped(); err != nil {
		return nil, err
	}
	if err := st.own(); err != nil {
		return nil, err
	}
	if err := st.refuseLink(); err != nil {
		return nil, err
	}
	st.closeToOthers()
	if err := st.lookForBlobs(); err != nil {
		return nil, err
	}
	if !st.readOnlyDisk {
		return st, st.openToWrite()
	}
	st.promises.begin(st.uptime)
	if err := st.openReaders(); err != nil {
		return nil, err
	}
	if err := st.recoverSmall(); err != nil {
		return nil, err
	}
	return st, st.loadRobots()
}

// newStore returns a store that is not open.
func newStore(cfg storeConfig) *store {
	st := &store{
		storeConfig:  cfg,
		arrivals:     cfg.dir,
		opened:       time.Now(),
		wake:         make(chan struct{}, 1),
		trashed:      make(chan struct{}, 1),
		changed:      make(chan struct{}, 1),
		tagged:       make(chan struct{}, 1),
		rulesChanged: make(chan struct{}, 1),
		suspects:     make(chan digest.Digest, 100),
		large:        make(chan struct{}, min(max(minLarge, 2*runtime.GOMAXPROCS(0)), maxLarge)),
		holding:      make(chan struct{}, maxHeld),
		looks:        make(chan struct{}, maxLooks),
		lookups:      lookups{limit: cfg.budget.lookups},
		sending:      sending{size: cfg.budget.answers, wait: sendingWait},
		unsynced:     unsynced{first: make(chan struct{}, 1), many: make(chan struct{}, 1)},
	}
	if st.now == nil {
		st.now = func() time.Duration { return time.Since(st.opened) }
	}
	if st.syncDisk == nil {
		st.syncDisk = syncFileSystem
	}
	if st.patience == 0 {
		st.patience = defaultPatience
	}
	if st.waitWritten == nil {
		st.waitWritten = waitWritten
	}
	if st.at == nil {
		st.at = func(string) {}
	}
	st.sessions.open, st.sessions.shares = make(map[string]*upload), make(map[string]int64)
	return st
}

// openToWrite is openStore for a disk that can be written, from the database on.
func (st *store) openToWrite() error {
	// The same durability for half the wait, where the system has the call.
	sqlite.Fdatasync(true)
	fresh := !exists(filepath.Join(st.dir, "berth.db"))
	if err := st.openWriter(); err != nil {
		return err
	}
	if err := st.makeDirectories(); err != nil {
		return err
	}
	if err := st.findPlace(); err != nil {
		return err
	}
	if err := st.completeShards(); err != nil {
		return err
	}
	st.reserve.spent.Store(!fresh && !exists(filepath.Join(st.dir, reserveFile)))
	if err := st.openReaders(); err != nil {
		return err
	}
	if err := st.recoverSmall(); err != nil {
		return fmt.Errorf("writing small blobs again: %w", err)
	}
	st.promises.begin(st.uptime)
	if err := st.loadRobots(); err != nil {
		return err
	}
	return st.sweepUploads()
}

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

// makeAll is os.MkdirAll that syncs the parent of each directory it makes.
func makeAll(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if parent != dir {
		if err := makeAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
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

// dsn is the name by which the driver opens the database, with pragmas.
func (st *store) dsn(query url.Values, pragmas ...string) string {
	return dsnOf(filepath.Join(st.dir, "berth.db"), query, pragmas...)
}

// dsnOf is the name by which the driver opens the database in path.
func dsnOf(path string, query url.Values, pragmas ...string) string {
	path = filepath.ToSlash(path)
	if runtime.GOOS == "windows" && len(path) > 1 && path[1] == ':' {
		path = "/" + path
	}
	for _, p := range append(pragmas, "busy_timeout(10000)") {
		query.Add("_pragma", p)
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + query.Encode()
}

// openWriter opens the writing connection, and creates or upgrades the schema.
func (st *store) openWriter() error {
	version, err := st.lookAtDatabase()
	if err != nil {
		return err
	}
	if err := createDatabase(filepath.Join(st.dir, "berth.db")); err != nil {
		return st.damaged(err)
	}
	// The journal's mode comes after the pragmas: with it a new database's pages
	// have their size.
	st.writerDB, err = sql.Open("sqlite", st.dsn(url.Values{"_journal_mode": {"WAL"}},
		// A commit writes the pages that have changed, each for a few bytes: so
		// let them be small, and many in the log before they are moved.
		st.cacheSize(), "page_size(2048)", "wal_autocheckpoint(4000)", "journal_size_limit(16777216)",
		// The last two make macOS flush the drive, and do nothing elsewhere.
		"synchronous(FULL)", "foreign_keys(1)", "fullfsync(1)", "checkpoint_fullfsync(1)"))
	if err != nil {
		return err
	}
	ctx := context.Background()
	conn, err := st.writerDB.Conn(ctx)
	if err != nil {
		return st.damaged(err)
	}
	defer func() {
		if st.writer == nil {
			conn.ExecContext(ctx, "ROLLBACK") // of what failed, if it did
			conn.Close()
		}
	}()
	if version == 0 {
		if err := st.refuseBlobs(); err != nil {
			return err
		}
		// The same way as an old one, and in one step.
		script := fmt.Sprintf("BEGIN IMMEDIATE;%s;%s;PRAGMA application_id=%d;PRAGMA user_version=%d;COMMIT",
			schema, strings.Join(upgrades[:], ";"), applicationID, latestVersion)
		if _, err := conn.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("creating the database: %w", err)
		}
		// From now on the file itself says what it is, also without its log.
		if _, err := conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
			return fmt.Errorf("creating the database: %w", err)
		}
		if err := syncDir(st.dir); err != nil {
			return fmt.Errorf("syncing the data directory: %w", err)
		}
		version = latestVersion
	}
	for ; version < latestVersion; version++ {
		script := fmt.Sprintf("BEGIN IMMEDIATE;%s;PRAGMA user_version=%d;COMMIT", upgrades[version-1], version+1)
		if _, err := conn.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("upgrading the database to version %d: %w", version+1, err)
		}
	}
	var sparse, stale bool
	if err := conn.QueryRowContext(ctx, "SELECT uptime, sparse, stale FROM meta").Scan(&st.saved, &sparse, &stale); err != nil {
		return st.damaged(err)
	}
	st.stale.Store(stale)
	if st.sparse && !sparse { // check must know
		if _, err := conn.ExecContext(ctx, "UPDATE meta SET sparse = 1"); err != nil {
			return err
		}
	}
	// SQLite has made its log anew, and does not care whether its name could be
	// synced.
	if err := syncDir(st.dir); err != nil {
		return fmt.Errorf("syncing the data directory: %w", err)
	}
	st.base = time.Duration(st.saved) * time.Second
	st.writer, err = newCommitter(conn, filepath.Join(st.dir, "berth.db-wal"), st.begin, st.isFull, st.spare, &st.lookups)
	return err
}

// lookAtDatabase returns the version of the database, 0 if it is still to be
// created, and refuses one that is not Berth's before anything is written to it.
func (st *store) lookAtDatabase() (version int, err error) {
	if info, err := os.Stat(filepath.Join(st.dir, "berth.db")); err != nil || info.Size() == 0 {
		return 0, nil
	}
	db, err := openToLook(filepath.Join(st.dir, "berth.db"))
	if err != nil {
		return 0, err
	}
	defer db.Close()
	return st.recognise(db)
}

// openToLook opens a database to read in it. If its creation was cut short it
// must be written to be read: SQLite undoes what was half done.
func openToLook(path string) (*sql.DB, error) {
	mode := "ro"
	if _, err := os.Stat(path + "-journal"); err == nil {
		mode = "rw"
	}
	return sql.Open("sqlite", dsnOf(path, url.Values{"mode": {mode}}, "query_only(1)"))
}

// openReaders opens the pool of query-only connections.
func (st *store) openReaders() error {
	db, err := sql.Open("sqlite", st.dsn(st.readOnlyQuery(), "query_only(1)", st.cacheSize()))
	if err != nil {
		return err
	}
	st.db = db
	// Queries are short and do not wait, so a few connections serve many
	// requests; each costs memory.
	db.SetMaxOpenConns(readers())
	db.SetMaxIdleConns(readers())
	version, err := st.recognise(db)
	if err == nil && version < latestVersion {
		err = fmt.Errorf("the database is of an earlier berth, and its disk is read-only: start once with the disk writable, which brings it up to date")
	}
	if err != nil {
		return err
	}
	return st.loadVerified()
}

// readers is how many connections there are that read.
func readers() int { return max(4, runtime.GOMAXPROCS(0)) + maxLooks }

// cacheSize is the pragma for how much of the database a connection keeps.
func (st *store) cacheSize() string {
	each := max(st.budget.pages/(readers()+1), 256<<10)
	return fmt.Sprintf("cache_size(-%d)", each>>10) // in KiB
}

// readOnlyQuery is how a database on a read-only disk is opened; on any other it
// says nothing.
func (st *store) readOnlyQuery() url.Values {
	query := url.Values{}
	if st.readOnlyDisk {
		// After a clean end there is no log, and nothing can change; else the
		// log and its index are there and are read with the database.
		query.Set("mode", "ro")
		if info, err := os.Stat(filepath.Join(st.dir, "berth.db-wal")); err != nil || info.Size() == 0 {
			query.Set("immutable", "1")
		}
	}
	return query
}

// recognise returns the version of a database, and refuses one that is not
// Berth's, that a newer Berth has made, or whose blobs are elsewhere. An empty one is
// of version 0.
func (st *store) recognise(db *sql.DB) (version int, err error) {
	var id, tables int
	err = db.QueryRow(`SELECT (SELECT application_id FROM pragma_application_id),
		(SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)`).Scan(&id, &version, &tables)
	switch {
	case err != nil:
		return 0, st.damaged(err)
	case id == 0 && version == 0 && tables == 0:
		return 0, nil
	case id != applicationID:
		return 0, fmt.Errorf("%s is not Berth's (its application_id is %#x). What to do: %smove it away, or name another directory with --data",
			filepath.Join(st.dir, "berth.db"), id, st.restoreHint())
	case version > latestVersion:
		return 0, fmt.Errorf("the database is of version %d, and this berth knows versions up to %d: %w", version, latestVersion, errNewer)
	}
	return version, st.lookForShards(db)
}

var errNewer = errors.New("use a newer berth")

// damaged says why the database cannot be opened, and what to do.
func (st *store) damaged(err error) error {
	db := filepath.Join(st.dir, "berth.db")
	if st.diskFull(err) {
		return fmt.Errorf("the database %s cannot be opened because the disk is full: make some room and start again (%w)", db, err)
	}
	if st.readOnlyDisk {
		if _, e := os.Stat(db + "-wal"); e == nil {
			return fmt.Errorf("the database %s was not closed in order, and its disk is read-only: "+
				"start once with the disk writable, which puts it in order (%w)", db, err)
		}
	}
	if !isDamage(err) {
		return fmt.Errorf("the database %s cannot be opened: %w; who may write in %s?", db, err, st.dir)
	}
	return fmt.Errorf("the database %s cannot be read: %w. Its blobs are untouched. What to do: %sput berth.db back from a backup "+
		"(without berth.db-wal and berth.db-shm) and start again", db, err, st.restoreHint())
}

// diskFull reports whether SQLite failed for want of room.
func (st *store) diskFull(err error) bool {
	bytes, _, e := freeSpace(st.dir)
	return e == nil && bytes.free < 64<<10 && (isIOError(err) || isNoSpace(err)) || !st.readOnlyDisk && st.isFull(err)
}

// close writes the uptime, moves SQLite's log into the database and lets go of
// the directory. No other method may be running.
func (st *store) close() error {
	var err error
	if st.writer != nil {
		err = errors.Join(st.syncSmall(), st.saveUses(), st.savePulls(), st.writer.updateLazy(st.saveUptime))
		st.writer.stop()
	}
	return errors.Join(err, st.closeFiles())
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

// loops are what a server runs in the background, each until its context ends.
func (st *store) loops() []func(context.Context) {
	return []func(context.Context){st.sharder, st.janitor, st.syncer, st.scrubber, st.snapshots, st.retainer}
}

// uptime is how long the data directory has been served, over all processes:
// the clock of all expiry. It never jumps and never goes back. A crash loses
// what was not yet written, so that things live longer, never shorter.
func (st *store) uptime() time.Duration { return st.base + st.now() }

// begin runs first in every write transaction.
func (st *store) begin(t *tx, durable bool) error {
	t.clock = int64(st.uptime() / time.Second)
	if err := st.pulls.ride(t); err != nil {
		return err
	}
	if durable && !st.stale.Load() {
		if _, err := t.exec(`UPDATE meta SET stale = 1`); err != nil {
			return err
		}
		t.committed = append(t.committed, func() {
			st.stale.Store(true)
			notify(st.changed)
		})
		return st.saveUptime(t) // so it can be told from the snapshot by its time
	}
	// Riding along costs no sync, and an idle registry writes nothing.
	if t.clock >= st.saved+60 {
		return st.saveUptime(t)
	}
	return nil
}

func (st *store) saveUptime(t *tx) error {
	_, err := t.exec(`UPDATE meta SET uptime = ?`, t.clock)
	t.committed = append(t.committed, func() { st.saved = t.clock })
	return err
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

// update runs fn in a durable write transaction; see committer.update. On a
// read-only disk it fails with EROFS.
func (st *store) update(fn func(*tx) error) error {
	if st.writer == nil {
		return syscall.EROFS
	}
	return st.writer.update(fn)
}

// updateLazy is update for what need not survive a power cut.
func (st *store) updateLazy(fn func(*tx) error) error {
	if st.writer == nil {
		return syscall.EROFS
	}
	return st.writer.updateLazy(fn)
}

// read returns the prepared statement for a query on the reading pool.
func (st *store) read(query string) (*sql.Stmt, error) {
	if s, ok := st.reads.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	s, err := st.db.Prepare(query)
	if err != nil {
		return nil, err
	}
	if other, loaded := st.reads.LoadOrStore(query, s); loaded {
		s.Close()
		return other.(*sql.Stmt), nil
	}
	return s, nil
}

// get scans the one row of query into dest; sql.ErrNoRows if there is none.
func (st *store) get(query string, args []any, dest ...any) error {
	s, err := st.read(query)
	if err != nil {
		return err
	}
	err = s.QueryRow(args...).Scan(dest...)
	if err != nil && st.again(err) {
		err = s.QueryRow(args...).Scan(dest...)
	}
	return err
}

// A snapshot reads the database as it is at one moment.
type snapshot struct {
	tx    *sql.Tx
	stmts map[string]*sql.Stmt
}

// maxLooks bounds the snapshots in use at one time.
const maxLooks = 2

// look calls fn with a snapshot that is valid until fn returns. SQLite's log
// grows meanwhile if there are pushes, so fn should not take long.
func (st *store) look(ctx context.Context, fn func(snapshot) error) error {
	// Each holds a connection, and fn may need another: some are left for it,
	// and for requests.
	select {
	case st.looks <- struct{}{}:
		defer func() { <-st.looks }()
	case <-ctx.Done():
		return ctx.Err()
	}
	tx, err := st.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	s := snapshot{tx, make(map[string]*sql.Stmt)}
	defer func() {
		for _, stmt := range s.stmts {
			stmt.Close()
		}
		tx.Rollback()
	}()
	err = fn(s)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (s snapshot) prepare(query string) (*sql.Stmt, error) {
	if stmt := s.stmts[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := s.tx.Prepare(query)
	if err == nil {
		s.stmts[query] = stmt
	}
	return stmt, err
}

// get scans the one row of query into dest; sql.ErrNoRows if there is none.
func (s snapshot) get(query string, args []any, dest ...any) error {
	stmt, err := s.prepare(query)
	if err != nil {
		return err
	}
	return stmt.QueryRow(args...).Scan(dest...)
}

// rows calls fn for every row of a query, until fn returns an error; errEnough
// is not one to tell. fn may use the snapshot, with other queries.
func (s snapshot) rows(fn func(*sql.Rows) error, query string, args ...any) error {
	stmt, err := s.prepare(query)
	if err != nil {
		return err
	}
	rows, err := stmt.Query(args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return rows.Err()
}

var errEnough = errors.New("seen enough")

// listed returns the rows of a query.
func listed[T any](s snapshot, scan func(*sql.Rows) (T, error), query string, args ...any) (out []T, err error) {
	err = s.rows(func(rows *sql.Rows) error {
		v, err := scan(rows)
		out = append(out, v)
		return err
	}, query, args...)
	return out, err
}

// wakeJanitor tells the background loop that something has become loose.
func (st *store) wakeJanitor() { notify(st.wake) }

// notify puts a note into a channel of one, unless there is one already.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dueSoon reports whether less than half of the grace of what is loose since
// then is left, so that a promise (4) needs an extension.
func (st *store) dueSoon(loose int64, grace time.Duration) bool {
	return st.uptime()-time.Duration(loose)*time.Second >= grace/2
}

// keep starts the grace of a loose row anew, because a client is about to be
// told that it exists (4). update takes the uptime and key; exists takes key.
// The error is errGone if the row has gone meanwhile.
func (st *store) keep(update, exists string, key ...any) error {
	if st.writer == nil {
		return nil // nothing is collected on a read-only disk
	}
	return st.update(func(t *tx) error {
		if n, err := t.exec(update, append([]any{t.clock}, key...)...); err != nil || n > 0 {
			return err
		}
		var n int
		if err := t.get(exists, key, &n); err != nil {
			return err
		}
		if n == 0 {
			return errGone
		}
		return nil
	})
}

var errGone = errors.New("collected meanwhile")

// A repository is a row of that table.
type repository struct {
	id   int64
	name string
}

// findRepository returns a repository; errNameUnknown if there is none.
func (t *tx) findRepository(name string) (repo repository, err error) {
	repo.name = name
	err = t.get(`SELECT id FROM repository WHERE name = ?`, []any{name}, &repo.id)
	if errors.Is(err, sql.ErrNoRows) {
		err = errNameUnknown.with(map[string]string{"name": name})
	}
	return repo, err
}

// makeRepository returns a repository, which it makes if need be.
func (t *tx) makeRepository(name string) (repository, error) {
	repo, err := t.findRepository(name)
	if errors.Is(err, errNameUnknown) {
		err = t.get(`INSERT INTO repository (name) VALUES (?) RETURNING id`, []any{name}, &repo.id)
	}
	return repo, err
}

// dropRepository forgets a repository that has nothing left.
func (t *tx) dropRepository(repo int64) error {
	_, err := t.exec(`DELETE FROM repository WHERE id = ?1
		AND NOT EXISTS (SELECT 1 FROM link WHERE repository = ?1)
		AND NOT EXISTS (SELECT 1 FROM manifest WHERE repository = ?1)`, repo)
	return err
}

// scanOne reads a row of one column.
func scanOne[T any](rows *sql.Rows) (T, error) {
	var v T
	err := rows.Scan(&v)
	return v, err
}
