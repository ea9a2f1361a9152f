// What clients were told of lately.
//
// Even when grace is over at once, by --grace 0 or `berth gc --now`, a push under way keeps its
// layers: a digest that a client was told exists is held for some minutes. That is remembered in
// two halves that change places, as hashes, so it takes bounded memory; a collision keeps a
// blob for some minutes more, and none is ever forgotten early.

package main

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// promises remember for some minutes what clients were told to exist, where the
// grace is too short to be remembered by. Bounded memory keeps hashes, in two
// halves by age; a half that is full, and the time before the process, count as
// having promised everything.
type promises struct {
	mu         sync.Mutex // guards the rest; held while what is not promised goes
	uptime     func() time.Duration
	begun      time.Duration // uptime when young began
	young, old half
	seed       maphash.Seed
}

type half struct {
	hashes map[uint64]struct{}
	all    bool
}

func (p *promises) begin(uptime func() time.Duration) {
	p.uptime, p.begun, p.seed = uptime, uptime(), maphash.MakeSeed()
	p.old.all = true
}

// forget is for a store that no client has used.
func (p *promises) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.young, p.old = half{}, half{}
}

// make promises that a repository's blob or manifest will stay for promiseTime.
// Whoever sees it in the database after that may tell a client so.
func (p *promises) make(repository string, d digest.Digest) {
	hash := p.hash(repository, d)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.age()
	if p.young.hashes == nil {
		p.young.hashes = make(map[uint64]struct{})
	}
	if len(p.young.hashes) < maxPromises {
		p.young.hashes[hash] = struct{}{}
	} else {
		p.young.all = true
	}
}

// held reports whether there may be a promise. The caller holds mu until what
// it does about it is done.
func (p *promises) held(repository string, d digest.Digest) bool {
	p.age()
	hash := p.hash(repository, d)
	for _, h := range []half{p.young, p.old} {
		if _, ok := h.hashes[hash]; ok || h.all {
			return true
		}
	}
	return false
}

func (p *promises) age() {
	now := p.uptime()
	if now-p.begun < promiseTime {
		return
	}
	p.old = p.young
	if now-p.begun >= 2*promiseTime {
		p.old = half{}
	}
	p.young, p.begun = half{}, now
}

func (p *promises) hash(repository string, d digest.Digest) uint64 {
	return maphash.Comparable(p.seed, [2]string{repository, d.String()})
}

const (
	// promiseTime is how long a promise holds at least; at most twice that.
	promiseTime = 15 * time.Minute
	maxPromises = 1 << 16 // of a half
)
