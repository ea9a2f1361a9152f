// The data directory and the database: what is stored, and what is promised.
//
//	data/
//	  berth.db                           SQLite: all metadata, and manifests whole
//	  before-upgrade.db                  while a newer version has not served yet (store_before.go)
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
//  1. A blob row implies a whole, verified file at its final path, unless the row
//     says that it is damaged: then the blob is not there for anybody. A file
//     without a row is rubbish and may be removed. A file that is not synced yet
//     has a row in unsynced (store_unsynced.go): a start after a crash writes it
//     again, or verifies it, before anybody gets it. What a manifest needs is synced.
//  2. Put: file first, then row. Remove: row first, then file, under the
//     digest's lock and only if the row is still absent.
//  3. A manifest row implies rows, in that repository, for its config, its
//     layers and (for an index) its members; foreign layers excepted, and
//     all of it under --sparse-manifests, and members of an index that was imported without them
//     (manifest.sparse). Its subject may be absent.
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
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"modernc.org/sqlite"
)

// A store is an open data directory. Its methods may be called from any
// goroutine.
type store struct {
	*dataDir
	*database
	settings
	host storeHost

	digests  keyLock // one holder per digest renames or unlinks its file
	lookups  lookups
	promises promises

	sending sending
	saved   int64 // uptime last written, in seconds; used by the writer only
	backups outcome

	// Parts with a state of their own, each in its file.
	uploads   *uploads
	small     *smallBlobs
	pulls     *pulls
	ruin      *ruin
	platforms *platformFinder
	robots    *robots
	pruner    *pruner
	stats     *statistics
	events    *eventQueue

	// Parts that run in the background.
	collector *collector
	scrubber  *scrubber
	snapshots *snapshots
	retainer  *retainer
}

type storeConfig struct {
	dirConfig
	settings
}

// settings are the flags, and what tests put in the place of the system.
type settings struct {
	grace         time.Duration // how long an unreferenced blob stays
	untaggedGrace time.Duration // how long an unreferenced manifest stays; 0 keeps it
	uploadExpiry  time.Duration // how long an idle upload session stays
	maxUploads    int64         // open upload sessions, 0 for no limit
	maxBlob       int64         // bytes, 0 for no limit
	scrubEvery    time.Duration // between the passes that read all that is stored; 0 for none
	scrubRate     int64         // bytes a second that they read; 0 for no limit
	sparse        bool          // what a manifest refers to may be absent
	readOnly      bool          // pushes and deletes are refused, and nothing is collected
	noDelete      bool          // deletes are refused, also those by rules
	syncImages    bool          // blobs are synced with the manifest that needs them
	usersFile     string        // who may log in,
	policyFile    string        // and do what: for backups
	budget        budget
	level         *logLevel // of the log of the server; nil if it cannot be changed
	canGoBack     bool      // the caller calls forgetBefore before it serves anybody

	// patience is that with a silent client whose upload another request goes on with.
	patience time.Duration
	// noPromises lets what clients were just told of go; tests collect at once.
	noPromises bool
	// writeTwice runs each function of an update two times, as a group that is tried again
	// does; tests see so that it sets its results anew.
	writeTwice bool
	// syncDisk is syncFileSystem; tests have it fail.
	syncDisk func(f *os.File, dirs map[string]bool) (done bool, err error)
	// littleDirty is the function of that name; tests do not depend on what the machine has to write.
	littleDirty func() bool
	// waitWritten is the function of that name; tests count, and have it fail.
	waitWritten func(f *os.File, off, n int64) error
	// at is called at the named points of a write; crash tests die there.
	at func(point string)
}

// openStore opens or creates the data directory. On a disk that cannot be
// written it opens for pulls only. Work done here is in proportion to the
// uploads that were open and to the blobs whose files were not synced, not to
// what is stored.
func openStore(cfg storeConfig) (_ *store, err error) {
	st := newStore(cfg)
	defer func() {
		if err != nil {
			if st.writer != nil {
				st.writer.stop()
			}
			st.database.close()
			st.dataDir.letGo()
		}
	}()
	if st.found, err = st.survey(); err != nil {
		return nil, err
	}
	if err := st.refuseUnmapped(); err != nil {
		return nil, err
	}
	if err := st.ownNamed(); err != nil {
		return nil, err
	}
	if err := st.refuseLink(); err != nil {
		return nil, err
	}
	st.closeToOthers()
	if err := st.lookForBlobs(); err != nil {
		return nil, err
	}
	if st.readOnlyDisk {
		err = st.begun()
	} else {
		err = st.openToWrite()
	}
	if err == nil && !st.canGoBack && !st.readOnlyDisk {
		err = st.forgetBefore()
	}
	return st, err
}

// newStore returns a store that is not open.
func newStore(cfg storeConfig) *store {
	data := newDataDir(cfg.dirConfig)
	st := &store{
		dataDir:  data,
		database: newDatabase(data, cfg.budget.pages),
		settings: cfg.settings,
		host:     newCommandHost(nil),
		lookups:  lookups{limit: cfg.budget.lookups},
		sending:  sending{size: cfg.budget.answers, wait: sendingWait},
	}
	if st.syncDisk == nil {
		st.syncDisk = syncFileSystem
	}
	if st.littleDirty == nil {
		st.littleDirty = littleDirty
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
	data.notice = func(err error) { st.ruin.explain(err) }
	st.collector = &collector{store: st, wake: make(chan struct{}, 1), trashed: make(chan struct{}, 1)}
	st.collector.sure.missing.Store(true)
	st.scrubber = &scrubber{store: st, suspects: make(chan digest.Digest, 100)}
	st.snapshots = &snapshots{store: st, changed: make(chan struct{}, 1)}
	st.retainer = &retainer{store: st, tagged: make(chan struct{}, 1), rulesChanged: make(chan struct{}, 1)}
	st.small = &smallBlobs{store: st, unsynced: unsynced{first: make(chan struct{}, 1), many: make(chan struct{}, 1), files: make(map[digest.Digest]*unsyncedFile)}}
	st.uploads = newUploads(st)
	st.robots = &robots{store: st}
	st.stats = &statistics{store: st}
	st.pruner = &pruner{store: st}
	st.pulls = &pulls{store: st}
	st.ruin = &ruin{store: st}
	st.platforms = &platformFinder{st}
	st.events = newEventQueue(st)
	return st
}

// openToWrite is openStore for a disk that can be written, from the database on.
func (st *store) openToWrite() error {
	// The same durability for half the wait, where the system has the call.
	sqlite.Fdatasync(true)
	begun, err := isThere(filepath.Join(st.dir, "berth.db"))
	if err != nil {
		return err
	}
	if err := st.openWriter(st.begin, &st.lookups); err != nil {
		return err
	}
	st.writer.twice = st.writeTwice
	if err := st.makeDirectories(); err != nil {
		return err
	}
	if err := st.findPlace(); err != nil {
		return err
	}
	if err := st.completeShards(); err != nil {
		return err
	}
	if st.small.whole, err = os.Open(filepath.Join(st.dir, "blobs")); err != nil {
		return err
	}
	reserved, err := isThere(filepath.Join(st.dir, reserveFile))
	if err != nil {
		return err
	}
	st.reserve.spent.Store(begun && !reserved)
	if err := st.begun(); err != nil {
		return err
	}
	return st.uploads.sweep()
}

// begun opens the readers, and takes what the database says of the registry as a whole.
func (st *store) begun() error {
	if err := st.openReaders(); err != nil {
		return err
	}
	var sparse, stale bool
	if err := st.get(`SELECT uptime, sparse, stale FROM meta`, nil, &st.saved, &sparse, &stale); err != nil {
		return st.damaged(err)
	}
	st.base = time.Duration(st.saved) * time.Second
	st.snapshots.stale.Store(stale)
	if st.sparse && !sparse && st.writer != nil { // check must know
		err := st.updateLazy(func(t *tx) error {
			_, err := t.exec(`UPDATE meta SET sparse = 1`)
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := st.scrubber.loadVerified(); err != nil {
		return err
	}
	if err := st.small.recover(); err != nil {
		return fmt.Errorf("looking at blobs whose files may not be synced: %w", err)
	}
	st.promises.begin(st.uptime)
	st.promises.recall(st.dir)
	if err := st.events.load(); err != nil {
		return err
	}
	return st.robots.load()
}

// close writes the uptime, moves SQLite's log into the database and lets go of
// the directory. No other method may be running.
func (st *store) close() error {
	var err error
	if st.writer != nil {
		if st.host != nil && st.host.serves() {
			if err := st.promises.save(st.dir); err != nil {
				st.log.Warn("what clients were told of lately cannot be noted; the next start keeps everything for some minutes", "error", err)
			}
		}
		err = errors.Join(st.small.sync(), st.robots.saveUses(), st.pulls.save(), st.events.save(), st.writer.updateLazy(st.saveUptime))
		st.writer.stop()
	}
	if st.small.whole != nil {
		err = errors.Join(err, st.small.whole.Close())
	}
	return errors.Join(err, st.database.close(), st.dataDir.letGo())
}

// begin runs first in every write transaction.
func (st *store) begin(t *tx, durable bool) error {
	t.clock = int64(st.uptime() / time.Second)
	t.events = st.events
	t.unsynced = &st.small.unsynced
	if err := errors.Join(st.pulls.ride(t), st.events.ride(t)); err != nil {
		return err
	}
	if durable && !st.snapshots.stale.Load() {
		if _, err := t.exec(`UPDATE meta SET stale = 1`); err != nil {
			return err
		}
		t.committed = append(t.committed, func() {
			st.snapshots.stale.Store(true)
			notify(st.snapshots.changed)
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

// dueSoon reports whether less than half of the grace of what is loose since
// then is left, so that a promise (4) needs an extension.
func (st *store) dueSoon(loose int64, grace time.Duration) bool {
	return st.uptime()-time.Duration(loose)*time.Second >= grace/2
}

// holdsUntil is the uptime from which on a row that was read is due (dueSoon), if it was loose; 0 for never,
// as on a read-only disk, where nothing is collected.
func (st *store) holdsUntil(loose sql.NullInt64, grace time.Duration) time.Duration {
	if !loose.Valid || st.writer == nil {
		return 0
	}
	return max(time.Duration(loose.Int64)*time.Second+grace/2, 1)
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
