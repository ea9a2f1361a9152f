// Manifests that are asked for again and again, in a little memory.
//
// A probe that polls a tag, or thirty nodes that pull one image, should not
// cost a query each. What was asked for is kept with the answer, and all of it
// is forgotten around every durable commit: before the commit, so that nobody
// is told what is about to be untrue, and until it is over. So an answer from
// here is never older than one from the database would be.

package main

import "sync"

// A manifestCache maps what was asked for to the answer. The zero value is
// ready. Loose manifests are not kept, since reading one may start its grace
// anew (4 in store.go).
type manifestCache struct {
	mu         sync.RWMutex // guards the rest
	version    int          // changes when anything may have changed
	committing bool
	size       int // bytes, about
	found      map[manifestKey]*storedManifest
}

type manifestKey struct {
	repository string
	ref        reference
}

const (
	maxCached = 8 << 20 // bytes of all that is kept
	perCached = 512     // bytes that an entry costs beside the manifest, about
)

// get returns the answer to key, or nil; and the version to give to put.
func (c *manifestCache) get(key manifestKey) (m *storedManifest, version int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.found[key], c.version
}

// put keeps an answer read from the database, unless anything may have changed
// since get returned version.
func (c *manifestCache) put(key manifestKey, m *storedManifest, version int) {
	size := len(m.body) + perCached
	if size > maxCached/16 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.committing || version != c.version || c.found[key] != nil {
		return
	}
	if c.found == nil {
		c.found = make(map[manifestKey]*storedManifest)
	}
	for old, m := range c.found { // in random order
		if c.size+size <= maxCached {
			break
		}
		delete(c.found, old)
		c.size -= len(m.body) + perCached
	}
	c.found[key] = m
	c.size += size
}

// suspend forgets everything and keeps nothing until resume is called: a
// durable commit is under way.
func (c *manifestCache) suspend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	c.committing = true
	c.found, c.size = nil, 0
}

// resume ends what suspend began.
func (c *manifestCache) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	c.committing = false
}
