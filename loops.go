// Background loops, which outlive a panic.
//
// A request that panics is answered with an error, and the server goes on. So it does when
// a loop in the background panics: pulls need none of them, and the next start would
// do the same again.

package main

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/opencontainers/go-digest"
)

// A loop that has panicked begins again after firstPause, and after twice the last pause
// each time, up to longestPause. One that has run for longer than that begins anew.
const firstPause, longestPause = time.Second, time.Minute

// keepRunning runs a loop until it returns, and again after a pause when it has panicked,
// unless ctx ends.
func keepRunning(ctx context.Context, log *slog.Logger, name string, loop func(context.Context)) {
	pause := firstPause
	for {
		begun := time.Now()
		stack := panics(ctx, loop)
		if stack == "" {
			return
		}
		if time.Since(begun) > longestPause {
			pause = firstPause
		}
		log.Error("a background loop has panicked", "loop", name, "again", pause, "panic", stack)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, longestPause)
	}
}

// panics runs a loop, and returns what it panicked with and where; "" if it did not.
func panics(ctx context.Context, loop func(context.Context)) (stack string) {
	defer func() {
		if p := recover(); p != nil {
			stack = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
	}()
	loop(ctx)
	return ""
}

// loops are what a server runs in the background, each until its context ends.
func (st *store) loops() []func(context.Context) {
	return []func(context.Context){st.lasting("sharder", st.sharder), st.lasting("janitor", st.collector.run), st.lasting("syncer", st.small.run),
		st.lasting("scrubber", st.scrubber.run), st.lasting("snapshots", st.snapshots.run), st.lasting("retainer", st.retainer.run)}
}

func (st *store) lasting(name string, loop func(context.Context)) func(context.Context) {
	return func(ctx context.Context) { keepRunning(ctx, st.log, name, loop) }
}

// sharder makes the directories that nearly every registry needs, after a first start.
func (st *store) sharder(context.Context) {
	if st.writer == nil {
		return
	}
	if missing, _, err := st.missingShards(digest.SHA256); err == nil && len(missing) == 0 {
		return // the first push syncs their names
	}
	if err := st.makeShards(digest.SHA256, st.blobsAreHere); err != nil {
		st.log.Error("the directories for blobs cannot be made; the next push tries again", "error", err)
	}
}
