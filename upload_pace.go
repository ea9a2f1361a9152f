// How far an upload may be ahead of the disk.
//
// The kernel takes bytes as fast as memory and writes them when it likes. On a
// disk slower than the network a whole layer is then unwritten when its last
// byte comes, and the sync that the answer waits for outlasts the client, which
// gives up after 30 s. So bytes are written in windows: at the end of one its
// write-back begins, and the window before it is waited for. What is unwritten
// is two windows, and the disk always has one to work on.
//
// A window is what the disk writes in a quarter of a second. That is seen from one
// window to the next, so windows are small on a slow disk, small where many
// uploads share one, and small for a client that is slow itself.

package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	windowTime  = 250 * time.Millisecond // in which a window should be written
	firstWindow = 1 << 20
	leastWindow = 256 << 10
	// mostWindow keeps a fast disk busy; more is not faster.
	mostWindow = 8 << 20
	// mostSynced is the same where each window costs a sync.
	mostSynced = 64 << 20
)

// A writing is how far the writing of a session's file has come. It goes on from one
// request to the next: many small ones must not get ahead either.
type writing struct {
	window  int64     // bytes of the next
	written int64     // up to where the file has been waited for
	begun   int64     // up to where write-back has begun
	since   time.Time // when it began of the last window
}

// from is called before bytes are written to a session's file at an offset.
func (p *writing) from(at int64) {
	if p.window == 0 { // in this process; what an earlier one has left is in a window or two
		*p = writing{window: firstWindow, written: at, begun: at}
	}
	p.begun = min(p.begun, at) // the file may have been cut
	p.written = min(p.written, p.begun)
}

// keepPace waits until the file is not too far ahead of the disk. After an error
// nobody knows what the file has, and the session must end.
func (w *uploadWriter) keepPace() error {
	p := &w.u.writing
	if w.at-p.begun < p.window {
		return nil
	}
	now := time.Now()
	startWriteback(w.f, p.begun, w.at-p.begun)
	if n := p.begun - p.written; n > 0 {
		if w.client != nil {
			w.client.rest() // it is not the client that stalls
		}
		most := int64(mostWindow)
		err := w.st.waitWritten(w.f, p.written, n)
		if errors.Is(err, errors.ErrUnsupported) {
			most = mostSynced
			err = w.st.syncData(w.f)
		}
		if err != nil {
			return fmt.Errorf("waiting for the disk: %w", err)
		}
		p.window = nextWindow(p.window, n, time.Since(p.since), most)
	}
	p.written, p.begun, p.since = p.begun, w.at, now
	return nil
}

// nextWindow is the size of the next window, when the last but one had n bytes that
// were written within the time that it took. It changes by steps: one measurement is
// as good as another.
func nextWindow(window, n int64, took time.Duration, most int64) int64 {
	fits := int64(float64(n) * float64(windowTime) / float64(max(took, 1)))
	return max(min(fits, 2*window, most), window/2, leastWindow)
}

// waitWritten is what a store waits with for n bytes of f at off, whose write-back
// has begun. The error is errors.ErrUnsupported where only a sync can do that.
func waitWritten(f *os.File, off, n int64) error {
	err := waitRange(f, off, n)
	// Not every kernel, file system or sandbox has it.
	for _, cannot := range []syscall.Errno{syscall.ENOSYS, syscall.EINVAL, syscall.ESPIPE, syscall.EPERM, syscall.EOPNOTSUPP} {
		if errors.Is(err, cannot) {
			return errors.ErrUnsupported
		}
	}
	return err
}
