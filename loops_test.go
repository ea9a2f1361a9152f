package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A loop that panics begins again, later each time, until it runs well or the server stops.
func TestLoopThatPanicsBeginsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		ctx, stop := context.WithCancel(t.Context())
		begun := time.Now()
		var starts []time.Duration
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			keepRunning(ctx, newLog(&log, false, slog.LevelInfo), "janitor", func(ctx context.Context) {
				starts = append(starts, time.Since(begun)/time.Second)
				if len(starts) == 9 {
					time.Sleep(time.Hour) // it runs well for a while
				}
				panic("nothing there")
			})
		}()
		time.Sleep(191*time.Second + time.Hour + 4*time.Second)
		synctest.Wait()
		stop()
		<-ended
		if want := []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183, 3784, 3786, 3790}; !slices.Equal(starts, want) {
			t.Errorf("it began after so many seconds: %d, want %d", starts, want)
		}
		if d := time.Since(begun); d != 3795*time.Second {
			t.Errorf("it ended after %v: the pause did not end at once", d)
		}
		if text := log.String(); strings.Count(text, "level=ERROR") != len(starts) || !strings.Contains(text, "loop=janitor") ||
			!strings.Contains(text, "nothing there") || !strings.Contains(text, "loops_test.go") {
			t.Errorf("the log has no stack, or not each panic:\n%s", text)
		}
	})
}

// A store's janitor that panics takes neither the process along nor the requests.
func TestJanitorThatPanicsEndsNothing(t *testing.T) {
	t.Parallel()
	panicked := make(chan struct{})
	once := sync.OnceFunc(func() { close(panicked) })
	r := startRegistry(t, func(c *config) {
		c.noPromises = true
		c.at = func(point string) {
			if point == "unlinked" {
				once()
				panic("in the janitor")
			}
		}
	})
	d := r.pushBlob("a", strings.Repeat("layer", 20_000))
	r.moved.Add(int64(1000 * time.Hour))
	ctx, stop := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	for _, loop := range r.st.loops() {
		loops.Go(func() { loop(ctx) })
	}
	select {
	case <-panicked:
	case <-time.After(time.Minute):
		t.Error("the janitor never came to the point")
	}
	r.want(404, "GET", "/v2/a/blobs/"+d.String(), nil)
	r.pushImage("a", "y", "{}", "layer")
	stop()
	loops.Wait()
	if !strings.Contains(r.log.String(), "loop=janitor") {
		t.Errorf("the log does not say so:\n%s", r.log)
	}
}
