package main

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"
)

// The line of a request is what slog would write, byte for byte, and what needs quotes is left to slog.
func TestRequestLinesAreSlogs(t *testing.T) {
	t.Parallel()
	var fast, plain bytes.Buffer
	h := newLog(&fast, false, slog.LevelInfo).Handler().(logHandler)
	usual := slog.NewTextHandler(&plain, nil)
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("", 2*3600))
	for _, x := range []struct {
		change func(*requestLine)
		slow   bool
	}{
		{change: func(l *requestLine) {}},
		{change: func(l *requestLine) { l.user, l.took = "ann", 0 }},
		{change: func(l *requestLine) {
			l.took, l.at = 999*time.Microsecond, at.Add(999*time.Millisecond+999*time.Microsecond).UTC()
		}},
		{change: func(l *requestLine) { l.took, l.at = time.Millisecond, at.Add(70*time.Millisecond) }},
		{change: func(l *requestLine) { l.took, l.bytes, l.status = 61*time.Second+5*time.Microsecond, 1<<40, 499 }},
		{change: func(l *requestLine) { l.path, l.client = "/v2/a%20b/~'{}<>&;", "[::1]:5000" }},
		{change: func(l *requestLine) { l.path = "" }, slow: true},
		{change: func(l *requestLine) { l.path = "/a=b" }, slow: true},
		{change: func(l *requestLine) { l.path = "/a…" }, slow: true},
		{change: func(l *requestLine) { l.method = "A\"B" }, slow: true},
		{change: func(l *requestLine) { l.user = "Ann B" }, slow: true},
		{change: func(l *requestLine) { l.user = "a\nb" }, slow: true},
		{change: func(l *requestLine) { l.client = "a\x7f" }, slow: true},
	} {
		l := requestLine{at: at, method: "GET", path: "/v2/a/manifests/x", route: "/v2/{name}/manifests/{reference}", status: 200, bytes: 12,
			took: 35 * time.Microsecond, client: "127.0.0.1:5000", id: "01234567-89ab"}
		x.change(&l)
		fast.Reset()
		plain.Reset()
		usual.Handle(context.Background(), l.record(slog.LevelInfo, nil))
		if done := h.writePlain(&l); done == x.slow {
			t.Errorf("%q: written without slog: %v", plain.String(), done)
		} else if done && fast.String() != plain.String() {
			t.Errorf("it is\n%swant\n%s", fast.String(), plain.String())
		}
	}
	// What every line has, and other forms, are slog's.
	for _, other := range []*slog.Logger{newLog(&fast, true, slog.LevelInfo), newLogger(&fast, logForm{journal: true}, slog.LevelInfo),
		newLog(&fast, false, slog.LevelInfo).With("a", "b"), newLog(&fast, false, slog.LevelInfo).WithGroup("a")} {
		l := requestLine{at: at, method: "GET", path: "/", route: "/", client: "a", id: "b"}
		if other.Handler().(logHandler).writePlain(&l) {
			t.Errorf("%q is written without slog", fast.String())
		}
	}
}
