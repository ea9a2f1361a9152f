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
