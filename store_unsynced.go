// Which files of blobs are not synced yet, and how they are synced, many at a time.
//
// The row of a blob and its file become durable side by side: the row is committed, with one in
// unsynced beside it, while the file and its directories are synced. Who is told of the blob, or
// refers to it, waits for both. So a row in unsynced says what the start after a power cut must look
// at, and that is little: what was pushed in the last seconds, and no manifest uses.
//
//	the row says            the file after a power cut
//	nothing                 is whole
//	bytes                   is written again from them (store_small.go)
//	no bytes, and a         is whole: a manifest is committed after all files that it needs
//	manifest uses the blob
//	no bytes, and none does is read: if it is not what the digest says, the blob is taken back, as
//	                        if it had never been pushed, for nobody was told that it is safe
//
// With --sync=image a blob is answered as soon as its row has survived a crash of the process. Its
// file waits for a manifest that needs it, or for the syncer, whichever comes first.
//
// Files are synced in groups: whoever comes while one is synced goes into the next.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

const (
	// maxBeside is the size of a blob up to which its file is synced beside its row, so that a start
	// may have to read it. The file of a larger one is synced before there is a row.
	maxBeside = 8 << 20
	// maxUnsyncedFiles bounds the files that wait for a manifest with --sync=image. They are open.
	maxUnsyncedFiles = 256
	// wholeFrom is the number of files from which the file system is synced as a whole.
	wholeFrom = 3
	// syncsAtOnce bounds the syncs of files and directories under way at one time.
	syncsAtOnce = 8
)

// unsynced are the blobs that have a row in that table, or are about to.
type unsynced struct {
	count atomic.Int64  // the last n that was given to a row
	bytes atomic.Int64  // of those that came since a sync last began, about
	first chan struct{} // tells the syncer that there are some,
	many  chan struct{} // and that there are syncBytes

	mu sync.Mutex // held while files are synced whose bytes are in the database: a failure is told once, to whoever asks first
	// doubt is the last n whose file may be one of those that could not be
	// written: up to it, files are only ever written again. Guarded by mu.
	doubt int64
	older int64 // the last n of earlier processes; set before anybody is served

	lost  sync.Map     // digests of those whose files are not what they should be, as is known; true if the database has their bytes
	losts atomic.Int64 // how many

	whole   *os.File                        // in the file system of the blobs, to sync it as a whole
	files   map[digest.Digest]*unsyncedFile // guarded by group
	waiting atomic.Int64                    // how many
	group   sync.Mutex                      // guards the files, their asked, and what follows
	next    []*unsyncedFile                 // those of the next group
	running bool                            // somebody syncs groups
}

// An unsyncedFile is one that no row in the database could replace: its blob has a row, or gets
// one now.
type unsyncedFile struct {
	digest digest.Digest
	file   *os.File // open since it was written, to be told what happens to it; nil where that would be in the way
	asked  bool     // it is in a group
	done   chan struct{}
	err    error // once done is closed
}

// wake tells the syncer what there is to do.
func (u *unsynced) wake() {
	notify(u.first)
	if u.bytes.Load() >= syncBytes {
		notify(u.many)
	}
}

// lacks reports whether a blob is known to have no file that can be relied upon: the disk had no
// room for it at the start, or is read-only, or could not write it, or nobody has looked yet.
func (u *unsynced) lacks(d digest.Digest) bool {
	if u.losts.Load() == 0 {
		return false
	}
	_, lost := u.lost.Load(d)
	return lost
}

// lacksBytes is lacks for those whose bytes the database does not have either.
func (u *unsynced) lacksBytes(d digest.Digest) bool {
	if u.losts.Load() == 0 {
		return false
	}
	kept, lost := u.lost.Load(d)
	return lost && !kept.(bool)
}

// lose says of a blob that it lacks its file. kept says that the database has its bytes.
func (u *unsynced) lose(d digest.Digest, kept bool) {
	if _, known := u.lost.LoadOrStore(d, kept); !known {
		u.losts.Add(1)
	}
}

func (u *unsynced) find(d digest.Digest) {
	if _, lost := u.lost.LoadAndDelete(d); lost {
		u.losts.Add(-1)
	}
}

// expect says that a file is not synced yet. Its row is committed after that.
func (u *unsynced) expect(d digest.Digest, f *os.File) *unsyncedFile {
	x := &unsyncedFile{digest: d, file: f, done: make(chan struct{})}
	u.group.Lock()
	defer u.group.Unlock()
	if u.files[d] == nil {
		u.waiting.Add(1)
	}
	u.files[d] = x
	return x
}

// unsyncedOf returns the files of these blobs that are not synced yet.
func (u *unsynced) unsyncedOf(blobs ...digest.Digest) (list []*unsyncedFile) {
	if u.waiting.Load() == 0 {
		return nil
	}
	u.group.Lock()
	defer u.group.Unlock()
	for _, d := range blobs {
		if x := u.files[d]; x != nil && !slices.Contains(list, x) {
			list = append(list, x)
		}
	}
	return list
}

// ask has files synced, together with those of others.
func (sm *smallBlobs) ask(list ...*unsyncedFile) {
	u := &sm.unsynced
	u.group.Lock()
	defer u.group.Unlock()
	for _, x := range list {
		if !x.asked {
			x.asked = true
			u.next = append(u.next, x)
		}
	}
	if len(u.next) > 0 && !u.running {
		u.running = true
		go sm.syncGroups() // somebody waits for each
	}
}

// await has files synced and waits for it. The error is that of one that could not be.
func (sm *smallBlobs) await(list []*unsyncedFile) (err error) {
	if len(list) == 0 {
		return nil
	}
	sm.ask(list...)
	for _, x := range list {
		<-x.done
		err = errors.Join(err, x.err)
	}
	return err
}

// syncGroups syncs one group after the other, until there is none.
func (sm *smallBlobs) syncGroups() {
	u := &sm.unsynced
	for {
		u.group.Lock()
		group := u.next
		u.next = nil
		u.running = len(group) > 0
		u.group.Unlock()
		if len(group) == 0 {
			return
		}
		group = sm.syncGroup(group)
		sm.at("synced")
		u.group.Lock()
		for _, x := range group {
			if x.err != nil {
				u.lose(x.digest, false)
				notify(u.first)
			}
			if u.files[x.digest] == x {
				delete(u.files, x.digest)
				u.waiting.Add(-1)
			}
			if x.file != nil {
				x.file.Close()
			}
			close(x.done)
		}
		u.group.Unlock()
	}
}

// syncGroup syncs files, their directories, and those of these, and notes what failed. It returns the
// group, to which others may have come.
func (sm *smallBlobs) syncGroup(group []*unsyncedFile) []*unsyncedFile {
	if len(group) >= wholeFrom && sm.littleDirty() {
		all := sm.takeAll(group)
		done, err := sm.syncDisk(sm.whole, sm.shardsOf(all))
		if err != nil {
			// The kernel does not say whose write has failed, and will not tell those who come next.
			all = sm.takeAll(all)
			for _, x := range all {
				x.err = fmt.Errorf("syncing the files of blobs: %w", err)
			}
		}
		if done {
			sm.fileSyncs.Add(1)
			return all
		}
		group = all
	}
	sm.syncEach(group)
	return group
}

// takeAll adds the files that nobody has asked for, or that are in the next group, to a group.
func (sm *smallBlobs) takeAll(group []*unsyncedFile) []*unsyncedFile {
	u := &sm.unsynced
	u.group.Lock()
	defer u.group.Unlock()
	group = append(group, u.next...)
	u.next = nil
	for _, x := range u.files {
		if !x.asked {
			x.asked = true
			group = append(group, x)
		}
	}
	return group
}

func (sm *smallBlobs) shardsOf(group []*unsyncedFile) map[string]bool {
	shards := make(map[string]bool)
	for _, x := range group {
		shards[sm.shardDir(x.digest)] = true
	}
	return shards
}

// syncEach is syncGroup for one file after the other, some at a time.
func (sm *smallBlobs) syncEach(group []*unsyncedFile) {
	shards := sm.shardsOf(group)
	places := make(chan struct{}, syncsAtOnce)
	var syncs sync.WaitGroup
	each := func(do func()) {
		if len(group) == 1 {
			do()
			return
		}
		places <- struct{}{}
		syncs.Go(func() { defer func() { <-places }(); do() })
	}
	for _, x := range group {
		each(func() { x.err = sm.syncFile(x) })
	}
	syncs.Wait()
	errs := make(map[string]error)
	var mu sync.Mutex // guards errs
	for dir := range shards {
		each(func() {
			err := sm.syncDir(dir)
			mu.Lock()
			defer mu.Unlock()
			errs[dir] = err
		})
	}
	syncs.Wait()
	for _, x := range group {
		x.err = errors.Join(x.err, errs[sm.shardDir(x.digest)])
	}
}

// syncFile syncs a file and its directory. One that was collected meanwhile needs neither.
func (sm *smallBlobs) syncFile(x *unsyncedFile) (err error) {
	if x.file != nil {
		err = sm.syncData(x.file)
	} else {
		err = sm.syncPath(sm.path(x.digest))
	}
	err = errors.Join(err, sm.syncDir(filepath.Dir(sm.path(x.digest))))
	if errors.Is(err, fs.ErrNotExist) {
		if has, e := sm.hasBlob(x.digest); e == nil && !has {
			return nil
		}
	}
	if err != nil {
		err = fmt.Errorf("syncing the file of %s: %w", x.digest, err)
	}
	return err
}

// errNotSynced ends a transaction that would refer to blobs whose files are not synced yet.
type errNotSynced struct{ files []*unsyncedFile }

func (e *errNotSynced) Error() string { return "the files of blobs are not synced yet" }

// needSynced makes sure that the files of blobs survive a power cut when the transaction does.
// The error is errNotSynced, or errManifestBlobUnknown for those that are lost.
func (t *tx) needSynced(lists ...[]digest.Digest) error {
	for _, blobs := range lists {
		for _, d := range blobs {
			if t.unsynced.lacksBytes(d) {
				return missingError([]digest.Digest{d})
			}
		}
		if list := t.unsynced.unsyncedOf(blobs...); list != nil {
			return &errNotSynced{list}
		}
	}
	return nil
}

// updateSynced is update for an fn that may need files synced: then that is done outside of the
// transaction, and it runs again.
func (st *store) updateSynced(fn func(*tx) error) error {
	for {
		err := st.update(fn)
		var wait *errNotSynced
		if !errors.As(err, &wait) {
			return err
		}
		if err := st.small.await(wait.files); err != nil {
			return fmt.Errorf("waiting for the disk: %w", err)
		}
	}
}
