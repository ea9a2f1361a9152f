// Which small blobs have files that are not synced yet, and which files are in doubt.

package main

import (
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// unsynced are the small blobs whose bytes the database still keeps.
type unsynced struct {
	count atomic.Int64  // the last n that was given to a row
	bytes atomic.Int64  // of those that came since a sync last began, about
	first chan struct{} // tells the syncer that there are some,
	many  chan struct{} // and that there are syncBytes

	mu sync.Mutex // held while files are synced: a failure is told once, to whoever asks first
	// doubt is the last n whose file may be one of those that could not be
	// written: up to it, files are only ever written again. Guarded by mu.
	doubt int64

	lost  sync.Map     // digests of those whose files are not what they should be, as is known
	losts atomic.Int64 // how many
}

// wake tells the syncer what there is to do.
func (u *unsynced) wake() {
	notify(u.first)
	if u.bytes.Load() >= syncBytes {
		notify(u.many)
	}
}

// lacks reports whether a blob is known to have no file yet: the disk had no room
// for it at the start, or is read-only.
func (u *unsynced) lacks(d digest.Digest) bool {
	if u.losts.Load() == 0 {
		return false
	}
	_, lost := u.lost.Load(d)
	return lost
}

func (u *unsynced) lose(d digest.Digest) {
	if _, known := u.lost.LoadOrStore(d, true); !known {
		u.losts.Add(1)
	}
}

func (u *unsynced) find(d digest.Digest) {
	if _, lost := u.lost.LoadAndDelete(d); lost {
		u.losts.Add(-1)
	}
}
