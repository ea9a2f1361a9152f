// Files that people edit while the registry runs.
//
// Each use looks at the file with one system call and reads it only when it has
// changed, so an edit holds from the next request on, and an idle registry does
// nothing. What cannot be used leaves what was there before, and is told once.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A watched file has a value of type T. get may be called from any goroutine.
type watched[T any] struct {
	path  string
	parse func([]byte) (T, error)
	// changed is told of every new value (old is nil for the first), and of
	// every new text that is not one. It may be nil.
	changed func(old, new *T, err error)

	last atomic.Pointer[sighting[T]]
	mu   sync.Mutex // held while the file is read
}

// A sighting is what was found in the file the last time.
type sighting[T any] struct {
	value *T          // nil as long as there was no file
	info  fs.FileInfo // nil if there is no file now
	text  []byte
	young bool // another edit could have left the same time and size
	err   error
}

// maxWatched bounds what is read of a file, in bytes.
const maxWatched = 8 << 20

// young is how long after an edit another one may show the same time.
const young = 2 * time.Second

// get returns the file's value: the last good one, nil if there never was a file.
func (w *watched[T]) get() *T {
	seen := w.last.Load()
	info, err := os.Stat(w.path)
	if seen != nil && !seen.young && seen.matches(info, err) {
		return seen.value
	}
	return w.reload().value
}

func (s *sighting[T]) matches(info fs.FileInfo, err error) bool {
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) && s.info == nil
	}
	return s.info != nil && info.ModTime().Equal(s.info.ModTime()) && info.Size() == s.info.Size() && os.SameFile(info, s.info)
}

func (w *watched[T]) reload() *sighting[T] {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.last.Load()
	next := &sighting[T]{}
	if seen != nil {
		next.value = seen.value
	}
	next.text, next.info, next.err = readFile(w.path)
	if errors.Is(next.err, fs.ErrNotExist) && next.value == nil {
		next.err = nil // it was never there: that is all right
	}
	if next.info != nil {
		age := time.Since(next.info.ModTime())
		next.young = age < young && age > -young
	}
	same := seen != nil && (seen.info == nil) == (next.info == nil) && bytes.Equal(seen.text, next.text)
	switch {
	case same:
		next.err = seen.err
	case next.err == nil && next.info != nil:
		var value T
		if value, next.err = w.parse(next.text); next.err == nil {
			next.value = &value
		}
	}
	w.last.Store(next)
	if !same && w.changed != nil && (seen != nil || next.info != nil) {
		var old *T
		if seen != nil {
			old = seen.value
		}
		w.changed(old, next.value, next.err)
	}
	return next
}

// problem says what is wrong with the file as it is now; nil if nothing is.
func (w *watched[T]) problem() error {
	w.get()
	if err := w.last.Load().err; err != nil {
		return fmt.Errorf("%s: %w", w.path, err)
	}
	return nil
}

// readFile reads a file of people's, whose size is bounded.
func readFile(path string) (text []byte, info fs.FileInfo, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	text, err = io.ReadAll(io.LimitReader(f, maxWatched+1))
	if err == nil && len(text) > maxWatched {
		err = fmt.Errorf("longer than %s", size(maxWatched))
	}
	return text, info, err
}
