// The log: one line a request, a line for what an operator must see, and the audit lines.
//
// slog, with a level of its own for the audit. Values from clients are cut to a bounded length. Where
// systemd's journal reads the lines they begin with their priority, and leave out the time, which it has.

package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

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

// A logForm is how lines are written.
type logForm struct {
	json    bool // else text
	journal bool // to systemd's journal, which has its own times and wants to be told the priority
}

// newLog returns a logger for lines of text, or of JSON. What is for the audit
// is written at any level.
func newLog(w io.Writer, json bool, level slog.Level) *slog.Logger {
	return newLogger(w, logForm{json: json}, level)
}

// newLogger is newLog for a level that may change.
func newLogger(w io.Writer, form logForm, level slog.Leveler) *slog.Logger {
	lines := &lineWriter{w: w}
	all := &slog.HandlerOptions{Level: level}
	audit := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey && len(groups) == 0 {
			return slog.String(slog.LevelKey, "AUDIT")
		}
		return a
	}}
	h := logHandler{timeless: form.journal && !form.json}
	if !form.json && !form.journal {
		h.plain = lines
	}
	for kind := range h.of {
		options, to := all, io.Writer(lines)
		if kind == kindAudit {
			options = audit
		} else if !form.journal && kind != kindError {
			h.of[kind] = h.of[kindError]
			continue
		}
		if form.journal {
			to = priorityWriter{priorities[kind], lines}
		}
		if form.json {
			h.of[kind] = slog.NewJSONHandler(to, options)
		} else {
			h.of[kind] = slog.NewTextHandler(to, options)
		}
	}
	return slog.New(h)
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
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Kinds of lines. Those that are not for the audit differ in the journal alone.
const (
	kindAudit = iota
	kindError
	kindWarn
	kindInfo
	kindDebug
)

// priorities are those of syslog, by kind, as they stand before a line for the journal
// (sd-daemon(3)): notice, error, warning, info, debug.
var priorities = [...]string{"<5>", "<3>", "<4>", "<6>", "<7>"}

// kindOf is the kind of a line of a level.
func kindOf(level slog.Level) int {
	switch {
	case level == levelAudit:
		return kindAudit
	case level >= slog.LevelError:
		return kindError
	case level >= slog.LevelWarn:
		return kindWarn
	case level >= slog.LevelInfo:
		return kindInfo
	}
	return kindDebug
}

// A logHandler has a handler of its own for the level that has a name of its own:
// it would be looked for in each attribute of each line else.
type logHandler struct {
	of       [len(priorities)]slog.Handler // by kind
	timeless bool                          // lines have no time
	plain    *lineWriter                   // where a requestLine may be written as text; nil if only slog knows how
}

func (h logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.of[kindError].Enabled(ctx, level)
}

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.timeless {
		r.Time = time.Time{}
	}
	return h.of[kindOf(r.Level)].Handle(ctx, r)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.plain = nil
	for kind := range h.of {
		h.of[kind] = h.of[kind].WithAttrs(attrs)
	}
	return h
}

func (h logHandler) WithGroup(name string) slog.Handler {
	h.plain = nil
	for kind := range h.of {
		h.of[kind] = h.of[kind].WithGroup(name)
	}
	return h
}

// lineWriter are written one at a time, by whichever handler.
type lineWriter struct {
	mu   sync.Mutex // held while one is written; guards line
	w    io.Writer
	line []byte // of a priorityWriter, which must be one write
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// A priorityWriter writes lines with what the journal wants before them.
type priorityWriter struct {
	priority string
	lines    *lineWriter
}

func (x priorityWriter) Write(p []byte) (int, error) {
	x.lines.mu.Lock()
	defer x.lines.mu.Unlock()
	x.lines.line = append(append(x.lines.line[:0], x.priority...), p...)
	_, err := x.lines.w.Write(x.lines.line)
	return len(p), err
}

// isJournal reports whether what is written to w is read by systemd's journal: systemd says which
// file it has opened, and only if it is still that (systemd.exec(5), JOURNAL_STREAM).
func (env environment) isJournal(w io.Writer) bool {
	stream, _ := env.lookup("JOURNAL_STREAM")
	f, ok := w.(*os.File)
	return ok && stream != "" && stream == fileID(f)
}

// forJournal is a text for the journal, each of whose lines is an error.
func forJournal(text string) string {
	return priorities[kindError] + strings.ReplaceAll(text, "\n", "\n"+priorities[kindError])
}

// A logLevel is how much a server logs. It can be changed while the server runs (cmd_log_level.go).
type logLevel struct {
	slog.LevelVar
	usual slog.Level // by --log-level

	mu    sync.Mutex  // guards the rest
	until time.Time   // when the usual level is back; zero if that is not foreseen
	back  *time.Timer // which brings it back; nil for none
}

// change changes the level; after d the usual one is back, and then is called. 0 is not foreseen.
func (l *logLevel) change(level slog.Level, d time.Duration, then func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.back != nil {
		l.back.Stop()
	}
	l.until, l.back = time.Time{}, nil
	l.Set(level)
	if d == 0 {
		return
	}
	l.until = time.Now().Add(d)
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		l.mu.Lock()
		mine := l.back == timer // else it was changed again just now
		if mine {
			l.until, l.back = time.Time{}, nil
			l.Set(l.usual)
		}
		l.mu.Unlock()
		if mine {
			then()
		}
	})
	l.back = timer
}

// now returns the level, and until when it holds; the zero time if that is not foreseen.
func (l *logLevel) now() (level slog.Level, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Level(), l.until
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
