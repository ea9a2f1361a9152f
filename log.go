// The log: one line a request, a line for what an operator must see, and the audit lines.
//
// slog, with a level of its own for the audit. Values from clients are cut to a bounded length.

package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"

	"golang.org/x/term"
)

// maxLogged is how much of what a client has chosen is in a line, in bytes: the
// longest name with the longest digest is less.
const maxLogged = 512

// shorten keeps the beginning of what a client has chosen, for the log.
func shorten(text string) string {
	if len(text) <= maxLogged {
		return text
	}
	return text[:maxLogged] + "…"
}

// newLog returns a logger for lines of text, or of JSON. What is for the audit
// is written at any level.
func newLog(w io.Writer, json bool, level slog.Level) *slog.Logger {
	w = &lineWriter{w: w}
	name := func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey && len(groups) == 0 {
			return slog.String(slog.LevelKey, "AUDIT")
		}
		return a
	}
	all, audit := &slog.HandlerOptions{Level: level}, &slog.HandlerOptions{Level: level, ReplaceAttr: name}
	if json {
		return slog.New(logHandler{slog.NewJSONHandler(w, all), slog.NewJSONHandler(w, audit)})
	}
	return slog.New(logHandler{slog.NewTextHandler(w, all), slog.NewTextHandler(w, audit)})
}

// newPersonalLog is newLog for a command at a person's terminal, who wants the answer: it
// has warnings and errors alone. What the command does to tags and images is in the history.
func newPersonalLog(w io.Writer, json bool) *slog.Logger {
	return slog.New(personalHandler{newLog(w, json, slog.LevelWarn).Handler()})
}

// A personalHandler leaves out what is for the audit.
type personalHandler struct{ slog.Handler }

func (h personalHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == levelAudit {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h personalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return personalHandler{h.Handler.WithAttrs(attrs)}
}

func (h personalHandler) WithGroup(name string) slog.Handler {
	return personalHandler{h.Handler.WithGroup(name)}
}

// isTerminal reports whether a person reads what is written.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// A logHandler has a handler of its own for the level that has a name of its own:
// it would be looked for in each attribute of each line else.
type logHandler struct {
	slog.Handler // for all else
	audit        slog.Handler
}

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == levelAudit {
		return h.audit.Handle(ctx, r)
	}
	return h.Handler.Handle(ctx, r)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs), h.audit.WithAttrs(attrs)}
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name), h.audit.WithGroup(name)}
}

// lineWriter are written one at a time, by whichever handler.
type lineWriter struct {
	mu sync.Mutex // held while one is written
	w  io.Writer
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// levelAudit is the level of what is always logged.
const levelAudit = slog.Level(100)

// audit logs what somebody did, or tried to.
func (st *store) audit(event string, attrs ...any) {
	st.log.Log(context.Background(), levelAudit, "audit", append([]any{"event", event}, attrs...)...)
}

// audit logs what a request did.
func (s *server) audit(w http.ResponseWriter, event string, attrs ...any) {
	resp := w.(*response)
	s.st.audit(event, append([]any{"user", resp.caller.label(), "client", resp.origin.client, "id", resp.id}, attrs...)...)
}
