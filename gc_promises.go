// What clients were told of lately.
//
// Even when grace is over at once, by --grace 0 or `berth gc --now`, a push under way keeps its
// layers: a digest that a client was told exists is held for promiseTime. That is remembered in
// two halves that change places, as hashes with the time, so it takes bounded memory; a collision
// keeps a blob for some minutes more, and none is ever forgotten early.
//
// A server that stops in order leaves what it remembers in a file, which the next one takes away
// before it serves. After a crash there is none, and all that was there counts as promised.

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// promises remember for promiseTime what clients were told to exist, where the
// grace is too short to be remembered by. Bounded memory keeps hashes, in two
// halves by age; a half that is full, and the time before a process that has not heard
// from the one before it, count as having promised everything.
type promises struct {
	mu         sync.Mutex // guards the rest
	uptime     func() time.Duration
	begun      time.Duration // uptime when young began
	young, old half
	going      map[uint64]chan struct{} // by hash, what a transaction under way removes; closed when it has ended
}

type half struct {
	until map[uint64]time.Duration // uptime at which a promise ends, by hash
	all   time.Duration            // till then everything is promised
}

func (p *promises) begin(uptime func() time.Duration) {
	p.uptime, p.begun = uptime, uptime()
	p.old.all = p.begun + promiseTime
}

// forget is for a store that no client has used.
func (p *promises) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.young, p.old = half{}, half{}
}

// make promises that a repository's blob or manifest will stay for promiseTime.
// Whoever sees it in the database after that may tell a client so. It waits for a transaction that
// removes it, and for no other.
func (p *promises) make(repository string, d digest.Digest) {
	hash := hashPromise(repository, d)
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.going[hash] != nil {
		ended := p.going[hash]
		p.mu.Unlock()
		<-ended
		p.mu.Lock()
	}
	p.age()
	until := p.uptime() + promiseTime
	if p.young.until == nil {
		p.young.until = make(map[uint64]time.Duration)
	}
	if _, again := p.young.until[hash]; again || len(p.young.until) < maxPromises {
		p.young.until[hash] = until
	} else {
		p.young.all = until
	}
}

// held reports whether there may be a promise. The caller holds mu.
func (p *promises) held(repository string, d digest.Digest) bool {
	return p.until(repository, d) > p.uptime()
}

// until is the uptime at which a promise ends, if there may be one; else it is past. The
// caller holds mu.
func (p *promises) until(repository string, d digest.Digest) time.Duration {
	p.age()
	hash := hashPromise(repository, d)
	return max(p.young.until[hash], p.young.all, p.old.until[hash], p.old.all)
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

// condemned is what a transaction under way removes. Nobody is promised that it exists until it is
// seen whether it still does.
type condemned struct {
	promises *promises
	hashes   []uint64
	ended    chan struct{} // nil without hashes
}

// add condemns a repository's blob or manifest, unless there may be a promise: then it is false.
func (x *condemned) add(repository string, d digest.Digest) bool {
	p := x.promises
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held(repository, d) {
		return false
	}
	if x.ended == nil {
		x.ended = make(chan struct{})
	}
	if p.going == nil {
		p.going = make(map[uint64]chan struct{})
	}
	hash := hashPromise(repository, d)
	p.going[hash] = x.ended
	x.hashes = append(x.hashes, hash)
	return true
}

// end is called when the transaction has ended.
func (x *condemned) end() {
	if x.ended == nil {
		return
	}
	p := x.promises
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, hash := range x.hashes {
		if p.going[hash] == x.ended { // else another transaction tries, after this one has failed
			delete(p.going, hash)
		}
	}
	close(x.ended)
	x.hashes, x.ended = nil, nil
}

// hashPromise is the same in every process.
func hashPromise(repository string, d digest.Digest) uint64 {
	h := fnv.New64a()
	h.Write([]byte(repository))
	h.Write([]byte{'@'})
	h.Write([]byte(d))
	return h.Sum64()
}

const (
	// promiseTime is how long a promise holds.
	promiseTime = 15 * time.Minute
	maxPromises = 1 << 16 // of a half
)

// promisesFile is in the data directory while no server runs that has stopped in order: pairs of
// a hash and the uptime at which its promise ends; in the first pair the hash is 0, for everything.
const promisesFile = "promises"

// save leaves what is promised to the next server of a directory. Without it everything counts as
// promised for a while.
func (p *promises) save(dir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.uptime()
	list := []int64{0, int64(max(p.young.all, p.old.all))}
	for _, h := range []half{p.old, p.young} {
		for hash, until := range h.until {
			if until > now {
				list = append(list, int64(hash), int64(until))
			}
		}
	}
	var text bytes.Buffer
	err := binary.Write(&text, binary.BigEndian, list)
	if err == nil {
		err = writeSynced(filepath.Join(dir, promisesFile), &text)
	}
	return err
}

// recall takes what the last server of a directory has left, if it stopped in order.
func (p *promises) recall(dir string) {
	text, err := os.ReadFile(filepath.Join(dir, promisesFile))
	list := make([]int64, len(text)/8)
	if err != nil || len(list) < 2 || len(text)%16 != 0 || binary.Read(bytes.NewReader(text), binary.BigEndian, list) != nil {
		return
	}
	p.old.all = 0
	p.old.until = make(map[uint64]time.Duration, len(list)/2-1)
	for ; len(list) > 0; list = list[2:] {
		// The uptime may have gone back, with the database.
		until := min(time.Duration(list[1]), p.begun+promiseTime)
		if list[0] == 0 {
			p.old.all = max(p.old.all, until)
		} else {
			p.old.until[uint64(list[0])] = max(p.old.until[uint64(list[0])], until)
		}
	}
}

// removePromises makes sure that no later server believes what this one has recalled. It comes
// before the first request.
func removePromises(dir string) error {
	err := os.Remove(filepath.Join(dir, promisesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(dir)
	}
	return err
}

// withoutPromises is how much more would be removed by g but for what was promised, and how long
// the last of those promises lasts.
func (st *store) withoutPromises(ctx context.Context, g graces) (kept int64, wait time.Duration, err error) {
	with, err := st.plan(ctx, g, true, func(doomed) error { return nil })
	if err != nil || with.Promised == 0 {
		return 0, 0, err
	}
	now := st.uptime()
	all, err := st.plan(ctx, g, false, func(d doomed) error {
		if d.Digest != "" {
			st.promises.mu.Lock()
			wait = max(wait, st.promises.until(d.Repository, d.Digest)-now)
			st.promises.mu.Unlock()
		}
		return nil
	})
	return max(0, all.Bytes-with.Bytes), min(wait, promiseTime), err
}
