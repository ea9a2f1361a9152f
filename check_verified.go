// What was verified, and when: by a pass, at a push, or on a pull.
//
// The times are kept in memory; where the pass under way is and when the last one ended is in the
// database.

package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// verifications are what is known of when blobs were verified last: all by the last pass,
// and some since. They are in memory, so that a pull writes nothing; what a restart or want of
// room forgets is verified once more.
type verifications struct {
	passed atomic.Int64           // uptime in seconds when the last pass ended
	place  atomic.Pointer[string] // the last blob that the pass under way has read; nil if there is none

	mu sync.Mutex              // guards at
	at map[digest.Digest]int64 // uptime in seconds
}

// loadVerified reads how far the last passes have come.
func (sc *scrubber) loadVerified() error {
	var place string
	var passed int64
	if err := sc.get(`SELECT scrub_place, scrubbed FROM meta`, nil, &place, &passed); err != nil {
		return err
	}
	sc.verified.passed.Store(passed)
	if place != "" && sc.scrubEvery != 0 {
		sc.verified.place.Store(&place)
	}
	return nil
}

// verifiedLately reports whether a blob was verified less than a month ago.
func (sc *scrubber) verifiedLately(d digest.Digest) bool {
	x := &sc.verified
	since := int64(sc.uptime()/time.Second) - verifiedFor
	if x.passed.Load() >= since {
		return true
	}
	if place := x.place.Load(); place != nil && d.String() <= *place {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	at, known := x.at[d]
	return known && at >= since
}

// noteVerified notes that a blob was verified just now.
func (sc *scrubber) noteVerified(d digest.Digest) {
	x := &sc.verified
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.at == nil {
		x.at = make(map[digest.Digest]int64)
	}
	makeRoom(x.at, maxVerifiedBlobs)
	x.at[d] = int64(sc.uptime() / time.Second)
}
