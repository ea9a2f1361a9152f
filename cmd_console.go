// What a command prints: lines, tables, progress, and quantities for people.
//
// A command writes to a console, whether it runs in the server or by itself. Progress is shown
// only to a person who watches; what a program reads (--json) is never mixed with it.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"
)

// A console is where a command tells a person, or a log, how it goes. It may be
// used by several goroutines.
type console struct {
	mu  sync.Mutex // guards the rest
	out io.Writer
	err error // of the first write that failed: nobody listens
	tty bool

	quiet bool // the answer is JSON, and nothing else
}

func newConsole(out io.Writer, tty bool) *console { return &console{out: out, tty: tty} }

func (c *console) printf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		_, c.err = fmt.Fprintf(c.out, format, args...)
	}
}

func (c *console) json(v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	c.printf("%s\n", text)
	return err
}

// A progress tells how far a long piece of work has come: on a terminal in one
// line that is written again, else in a line now and then.
type progress struct {
	c           *console
	what        string
	total, done int64
	begun, told time.Time
}

// progress begins to tell of work on total bytes.
func (c *console) progress(what string, total int64) *progress {
	now := time.Now()
	return &progress{c: c, what: what, total: total, begun: now, told: now}
}

// add tells that n more bytes are done.
func (p *progress) add(n int64) {
	p.done += n
	if p.c.quiet {
		return
	}
	every := 10 * time.Second
	if p.c.tty {
		every = 200 * time.Millisecond
	}
	now := time.Now()
	if now.Sub(p.told) < every {
		return
	}
	p.told = now
	rate := float64(p.done) / now.Sub(p.begun).Seconds()
	left := "?"
	if rate > 0 {
		left = formatDuration(time.Duration(float64(max(0, p.total-p.done)) / rate * float64(time.Second)))
	}
	line := fmt.Sprintf("%s: %s of %s, %s/s, %s left", p.what, formatSize(p.done), formatSize(p.total), formatSize(int64(rate)), left)
	if p.c.tty {
		p.c.printf("\r\x1b[K%s", line)
	} else {
		p.c.printf("%s\n", line)
	}
}

// end takes the line away.
func (p *progress) end() {
	if p.c.tty && !p.c.quiet {
		p.c.printf("\r\x1b[K")
	}
}

// formatSize writes a number of bytes for people.
func formatSize(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n < 1<<40:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.2f TiB", float64(n)/(1<<40))
}

// formatDuration writes a time span for people, in its two greatest units, without the
// second if that is 0: 30d, 2h05m.
func formatDuration(d time.Duration) string {
	s := int64(d / time.Second)
	two := func(great int64, unit string, small int64, smallUnit string) string {
		if small == 0 {
			return fmt.Sprintf("%d%s", great, unit)
		}
		return fmt.Sprintf("%d%s%02d%s", great, unit, small, smallUnit)
	}
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return two(s/60, "m", s%60, "s")
	case s < 2*86400:
		return two(s/3600, "h", s/60%60, "m")
	}
	return two(s/86400, "d", s/3600%24, "h")
}

// plural writes a number of things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if stem, ok := strings.CutSuffix(thing, "y"); ok {
		thing = stem + "ie"
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// localTime writes a time for people.
func localTime(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}

// A consoleTable is lines whose columns are as wide as they need to be.
type consoleTable struct {
	c *console
	w *tabwriter.Writer
	b strings.Builder
}

func (c *console) table(heads ...string) *consoleTable {
	t := &consoleTable{c: c}
	t.w = tabwriter.NewWriter(&t.b, 0, 8, 2, ' ', 0)
	t.row(heads...)
	return t
}

func (t *consoleTable) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) { // in the name on a certificate, say
				return '?'
			}
			return r
		}, cell)
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

// end prints it.
func (t *consoleTable) end() {
	t.w.Flush() // to memory
	for line := range strings.Lines(t.b.String()) {
		t.c.printf("%s\n", strings.TrimRight(line, " \n"))
	}
}
