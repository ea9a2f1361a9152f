// A collection that cannot ask whether a blob's row is there.

package main

import (
	"strings"
	"testing"
	"time"
)

// blind has no query of r answered from point on.
func (r *registry) blind(point string) {
	r.st.at = func(reached string) {
		if reached == point {
			r.st.readers.Close()
		}
	}
}

// seeAgain starts r anew, without a check by one that is blind.
func (r *registry) seeAgain() {
	r.t.Helper()
	r.http.Close()
	if !r.server.wait(time.Minute) {
		r.t.Error("requests do not end")
	}
	r.st.close()
	r.start()
}

func TestCollectionTellsWhatItCannotLookFor(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, noGrace)
	r.freeze()
	r.pushBlob("a", "one")
	r.pushBlob("a", "two")
	r.moved.Add(int64(3 * promiseTime))
	first, second := sum("one"), sum("two")
	if second < first {
		first, second = second, first
	}
	r.blind("unlinked") // the first; two shards are two turns
	_, err := r.st.collector.collect(t.Context(), collectNow)
	if err == nil || !strings.Contains(err.Error(), second.String()) {
		t.Errorf("collecting = %v, want an error about %s", err, second)
	}
	if r.hasFile(first) || !r.hasFile(second) {
		t.Errorf("of the first there is a file: %t, want false; of the second: %t, want true", r.hasFile(first), r.hasFile(second))
	}
	r.seeAgain()
	r.collect(collectNow)
	if r.hasFile(second) {
		t.Error("the next collection has left it")
	}
}
