// Files that people edit while the registry runs.
//
// Whoever uses a file looks at it with one system call, and reads it only when it
// has changed; requests that come together share a look. So an edit holds some
// milliseconds later, and an idle registry does nothing. What cannot be used
// leaves what was there before, and is told once.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A watched value of type T is what some files say. get may be called from any
// goroutine.
type watched[T any] struct {
	files []string
	parse func(texts [][]byte) (T, error)
	// changed is told of every new value (old is nil for the first), and of
	// every new text that is none.
	changed func(old, new *T, err error)
	// patient: files that are written one after the other are not told of
	// before they have been left alone for a while.
	patient bool
	now     func() time.Time // the clock of files; nil for time.Now
	glance  time.Duration    // for so long get believes what was seen; 0 is not at all

	last   atomic.Pointer[sighting[T]]
	looked atomic.Int64 // when get last began to look; in nanoseconds since started
	mu     sync.Mutex   // held while the files are read
}

// A sighting is what was found in the files the last time.
type sighting[T any] struct {
	value *T            // the last good one; nil as long as there was none
	infos []fs.FileInfo // nil if a file is not there
	texts [][]byte
	good  []byte // the first file, as value has it
	young bool   // another edit could have left the same time and size
	err   error
	told  bool // changed knows
}

// maxWatched bounds what is read of a file, in bytes.
const maxWatched = 8 << 20

// youth is how long after an edit another one may show the same time: the
// coarsest clock of a file system (FAT).
const youth = 2 * time.Second

// defaultGlance is much less than it takes to edit a file and do something then,
// and much more than there is between the requests of a busy registry.
const defaultGlance = 2 * time.Millisecond

// processStarted is where the process's own time begins, which never jumps.
var processStarted = time.Now()

// get returns the last good value, nil if there never was one.
func (w *watched[T]) get() *T {
	if seen := w.last.Load(); seen != nil && w.glance > 0 {
		now := int64(time.Since(processStarted))
		if now-w.looked.Load() < int64(w.glance) {
			return seen.value
		}
		w.looked.Store(now)
	}
	return w.look().value
}

// look returns what the files say now.
func (w *watched[T]) look() *sighting[T] {
	if seen := w.last.Load(); seen != nil && !seen.young && w.unchanged(seen) {
		return seen
	}
	return w.reload()
}

// unchanged reports whether the files look as they did.
func (w *watched[T]) unchanged(seen *sighting[T]) bool {
	for i, file := range w.files {
		info, err := os.Stat(file)
		switch {
		case err != nil:
			return errors.Is(err, fs.ErrNotExist) && seen.infos == nil
		case seen.infos == nil || info.Size() != seen.infos[i].Size() || !info.ModTime().Equal(seen.infos[i].ModTime()) ||
			!os.SameFile(info, seen.infos[i]): // a rename need not bring a later time
			return false
		}
	}
	return true
}

func (w *watched[T]) reload() *sighting[T] {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen, next := w.last.Load(), w.read()
	first := seen == nil
	if first {
		seen = &sighting[T]{}
	}
	next.value, next.good = seen.value, seen.good
	absent := errors.Is(next.err, fs.ErrNotExist)
	switch {
	case absent && seen.value == nil:
		next.err, next.told = nil, true // it was never there: that is all right
	case next.err != nil:
		next.told = seen.told && seen.err != nil && seen.err.Error() == next.err.Error()
	case !first && seen.infos != nil && slices.EqualFunc(seen.texts, next.texts, bytes.Equal):
		next.err, next.told = seen.err, seen.told
	default:
		var value T
		if value, next.err = w.parse(next.texts); next.err == nil {
			next.value, next.good = &value, next.texts[0]
		}
	}
	tell := !next.told && (next.err == nil || !w.patient || !next.young)
	next.told = next.told || tell
	w.last.Store(next)
	if tell {
		w.changed(seen.value, next.value, next.err)
	}
	return next
}

// read reads all files.
func (w *watched[T]) read() *sighting[T] {
	now := time.Now
	if w.now != nil {
		now = w.now
	}
	next := &sighting[T]{}
	for _, file := range w.files {
		text, info, err := readFile(file)
		if err != nil {
			return &sighting[T]{err: err}
		}
		next.texts, next.infos = append(next.texts, text), append(next.infos, info)
		next.young = next.young || now().Sub(info.ModTime()).Abs() < youth
	}
	return next
}

// text returns what the last good value was made from; of the first file, if
// there are several. It is nil if there is no file and never was; if there is
// one, and it was never good, that is an error.
func (w *watched[T]) text() ([]byte, error) {
	err := w.problem()
	if good := w.last.Load().good; good != nil {
		return good, nil
	}
	return nil, err
}

// problem says what is wrong with the files as they are now; nil if nothing is.
func (w *watched[T]) problem() error {
	if err := w.look().err; err != nil {
		var one *fs.PathError
		if len(w.files) > 1 && errors.As(err, &one) {
			return err // which names the one that cannot be read
		}
		return fmt.Errorf("%s: %w", strings.Join(w.files, ", "), err)
	}
	return nil
}
