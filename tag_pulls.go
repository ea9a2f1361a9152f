// When images were pulled.
//
// It is remembered in memory, to the hour, and written down along with other writes,
// or once a day if there are none, without a sync of its own: so a pull costs nothing,
// a disk that sleeps is not woken, and a crash costs a day of it at most.

package main

import (
	"sync"
	"time"
)

// pulls remember when manifests were last pulled, until it is written down.
type pulls struct {
	store *store
	mu    sync.Mutex // guards the rest
	of    map[int64]pulledAt
	since time.Duration // uptime of the first of them
}

type pulledAt struct{ uptime, time int64 }

const (
	savePullsEvery = 24 * time.Hour
	// maxPulls bounds those in memory (others are forgotten), and pullsPerWrite
	// those that ride along with another write.
	maxPulls      = 1 << 16
	pullsPerWrite = 50
)

// note remembers that a manifest is pulled, or only looked at, perhaps by a tag that
// was pushed at some uptime. To look at a tag counts, since that is what a machine does that has
// the image already; but not at once after the push, when the client that pushed
// it does.
func (p *pulls) note(m *storedManifest, looked, byTag bool, pushed int64) {
	if p.store.writer == nil {
		return
	}
	now := p.store.uptime()
	if looked && (!byTag || now < time.Duration(pushed)*time.Second+retainDelay) {
		return
	}
	hour := int64(now/time.Hour) + 1
	if m.noted.Swap(hour) == hour {
		return
	}
	p.mu.Lock()
	if len(p.of) == 0 {
		p.of, p.since = make(map[int64]pulledAt), now
	}
	if len(p.of) < maxPulls {
		p.of[m.id] = pulledAt{int64(now / time.Second), time.Now().Unix()}
	}
	due := now-p.since >= savePullsEvery || len(p.of) == maxPulls
	if due {
		p.since = now // others need not wait for it too
	}
	p.mu.Unlock()
	if due {
		if err := p.save(); err != nil {
			p.store.log.Warn("when images were pulled cannot be recorded", "error", err)
		}
	}
}

// has reports whether a manifest was pulled and that is not written down yet.
func (p *pulls) has(manifest int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.of[manifest]
	return ok
}

// ride writes some of them down in a transaction that there is anyway.
func (p *pulls) ride(t *tx) error {
	p.mu.Lock()
	some := make(map[int64]pulledAt)
	for id, at := range p.of {
		if len(some) == pullsPerWrite {
			break
		}
		some[id] = at
	}
	p.mu.Unlock()
	for id, at := range some {
		if _, err := t.exec(`INSERT INTO pull (manifest, at, time) SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM manifest WHERE id = ?1)
			ON CONFLICT (manifest) DO UPDATE SET at = ?2, time = ?3`, id, at.uptime, at.time); err != nil {
			return err
		}
	}
	if len(some) > 0 {
		t.committed = append(t.committed, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			for id, at := range some {
				if p.of[id] == at {
					delete(p.of, id)
				}
			}
		})
	}
	return nil
}

// save writes all of them down.
func (p *pulls) save() error {
	if p.store.writer == nil {
		return nil // none are noted on a read-only disk
	}
	for before := -1; ; {
		p.mu.Lock()
		n := len(p.of)
		p.mu.Unlock()
		if n == 0 || n == before {
			return nil
		}
		before = n
		if err := p.store.updateLazy(func(*tx) error { return nil }); err != nil {
			return err
		}
	}
}
