// When what is loose is due: the graces, and what wakes the collector.

package main

import (
	"time"
)

// wakeUp tells run that something has become loose.
func (gc *collector) wakeUp() { notify(gc.wake) }

func (gc *collector) shortestGrace() time.Duration {
	return min(gc.grace, gc.uploadExpiry, gc.restoreGrace())
}

// graces say when what nothing refers to is due.
type graces struct {
	blob, upload time.Duration
	manifest     time.Duration // of manifests, and of what a client has deleted, which can be restored till then
	keepUntagged bool          // manifests that no client has deleted stay, however old
	now          bool          // whatever is loose is due
}

func (s *settings) graces() graces {
	g := graces{blob: s.grace, manifest: s.untaggedGrace, upload: s.uploadExpiry}
	if s.untaggedGrace == 0 {
		g.keepUntagged, g.manifest = true, defaultUntaggedGrace
	}
	return g
}

const defaultUntaggedGrace = 7 * 24 * time.Hour

// cutoff is the uptime before which what is loose is due, in seconds.
func (gc *collector) cutoff(grace time.Duration) int64 {
	return int64((gc.uptime() - grace) / time.Second)
}

// forgetOwners has the uploads of owners who are no more ended.
func (gc *collector) forgetOwners() {
	gc.ownersGone.Store(true)
	notify(gc.trashed)
}

// ownersSettle is for how long the users' file must have said the same before uploads end
// by it: longer than it takes to write one.
const ownersSettle = 10 * time.Second

// doubtOwners is forgetOwners for what the users' file says, which is looked at again
// before it is believed.
func (gc *collector) doubtOwners() {
	gc.ownersSure.Store(int64(gc.uptime() + ownersSettle))
	gc.forgetOwners()
}

// untilSure is how long it is until the users' file is believed.
func (gc *collector) untilSure() time.Duration {
	return max(0, time.Duration(gc.ownersSure.Load())-gc.uptime())
}

// idleNow is how long nobody must have continued an upload for `berth gc --now` to
// end it: longer than a push takes from one request to the next.
const idleNow = 10 * time.Second

// gracesNow are those of `berth gc --now`. Where nobody serves, no push is under way.
func (gc *collector) gracesNow() graces {
	g := gc.graces()
	g.now = true
	if g.upload = min(g.upload, idleNow); !gc.host.serves() {
		g.upload = -time.Second // this second's too
	}
	return g
}

// restoreGrace is how long what was deleted can be restored.
func (s *settings) restoreGrace() time.Duration { return s.graces().manifest }
