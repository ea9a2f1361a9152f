// Locks by key, and notes between goroutines.

package main

import (
	"sync"
)

// notify puts a note into a channel of one, unless there is one already.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A keyLock is a mutex per key. The zero value is ready.
type keyLock struct {
	mu   sync.Mutex // guards held
	held map[string]*keyHolders
}

type keyHolders struct {
	mu sync.Mutex
	n  int // holder and waiters; guarded by keyLock.mu
}

// lock waits until key is free and takes it. The caller calls unlock.
func (k *keyLock) lock(key string) (unlock func()) {
	k.mu.Lock()
	h := k.held[key]
	if h == nil {
		if k.held == nil {
			k.held = make(map[string]*keyHolders)
		}
		h = &keyHolders{}
		k.held[key] = h
	}
	h.n++
	k.mu.Unlock()
	h.mu.Lock()
	return func() {
		h.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if h.n--; h.n == 0 {
			delete(k.held, key)
		}
	}
}
