// The line of a request, which is most of the log.
//
// slog is a quarter of what a small request costs. So what it would write as text is put together here, byte
// for byte, as long as nothing in it needs quotes. What does, and every other form, is slog's.

package main

import (
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// A requestLine is what is said of a request that has been answered.
type requestLine struct {
	at                  time.Time
	method, path, route string
	status              int
	bytes               int64 // of the body
	took                time.Duration
	client, id          string
	user                string // "" if the registry is open
}

// record is the line for slog. err is what went wrong, for lines of errors.
func (l *requestLine) record(level slog.Level, err error) slog.Record {
	attrs := []slog.Attr{
		slog.String("method", l.method),
		slog.String("path", l.path),
		slog.String("route", l.route),
		slog.Int("status", l.status),
		slog.Int64("bytes", l.bytes),
		slog.Duration("took", l.took),
		slog.String("client", l.client),
		slog.String("id", l.id),
	}
	if l.user != "" {
		attrs = append(attrs, slog.String("user", l.user))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	record := slog.NewRecord(l.at, level, "request", 0) // LogAttrs would look for the caller, whom nobody wants
	record.AddAttrs(attrs...)
	return record
}

// lineBuffers are of *[]byte.
var lineBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

// writePlain writes the line as slog's text handler would at the level of information. It reports false, and
// writes nothing, if that is not for it to do.
func (h logHandler) writePlain(l *requestLine) bool {
	if h.plain == nil || !plainText(l.method) || !plainText(l.path) || !plainText(l.client) || l.user != "" && !plainText(l.user) {
		return false
	}
	buffer := lineBuffers.Get().(*[]byte)
	defer lineBuffers.Put(buffer)
	*buffer = l.append((*buffer)[:0])
	h.plain.Write(*buffer)
	return true
}

func (l *requestLine) append(b []byte) []byte {
	b = append(b, "time="...)
	b = appendMillis(b, l.at)
	b = append(append(b, " level=INFO msg=request method="...), l.method...)
	b = append(append(b, " path="...), l.path...)
	b = append(append(b, " route="...), l.route...)
	b = strconv.AppendInt(append(b, " status="...), int64(l.status), 10)
	b = strconv.AppendInt(append(b, " bytes="...), l.bytes, 10)
	b = append(b, " took="...)
	if l.took > 0 && l.took < time.Millisecond {
		b = append(strconv.AppendInt(b, l.took.Microseconds(), 10), "µs"...)
	} else {
		b = append(b, l.took.String()...)
	}
	b = append(append(b, " client="...), l.client...)
	b = append(append(b, " id="...), l.id...)
	if l.user != "" {
		b = append(append(b, " user="...), l.user...)
	}
	return append(b, '\n')
}

// appendMillis appends t as RFC 3339 with milliseconds. Of the two layouts that Go formats fast, the one with
// nanoseconds leaves out zeros at the end: a tenth of a millisecond keeps them, and is cut out.
func appendMillis(b []byte, t time.Time) []byte {
	cut := len(b) + len("2006-01-02T15:04:05.000")
	b = t.Truncate(time.Millisecond).Add(time.Millisecond/10).AppendFormat(b, time.RFC3339Nano)
	return append(b[:cut], b[cut+1:]...)
}

// plainText reports whether slog would write a value without quotes, for all values that are likely.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\' {
			return false
		}
	}
	return s != ""
}
