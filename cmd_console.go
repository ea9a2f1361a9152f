// What a command prints: lines, progress, and quantities for people; tables are in cmd_columns.go.
//
// A command writes to a console, whether it runs in the server or by itself. The console knows
// how it is read: where a command asks the server, the terminal's width and the zone of the
// person go along with the question. Progress is shown only to a person who watches; what a
// program reads (--json) is never mixed with it.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf16"

	"golang.org/x/term"
)

// A console is where a command tells a person, or a log, how it goes. It may be
// used by several goroutines.
type console struct {
	mu  sync.Mutex // guards the rest
	out io.Writer
	err error // of the first write that failed: nobody listens
	tty bool

	quiet bool // the answer is JSON, and nothing else
	width int  // of the terminal, in columns; 0 if it is none
	zone  zone // of the person
}

func newConsole(out io.Writer, tty bool) *console { return &console{out: out, tty: tty} }

// console returns one for whoever has given these options.
func (o *options) console(out io.Writer) *console {
	return &console{out: out, tty: o.TTY, quiet: o.JSON, width: max(0, o.Width), zone: o.Zone}
}

// watch works out how stdout is read: on a terminal, and of what width, or not; and in which
// zone whoever reads it is.
func (o *options) watch(stdout io.Writer, env environment) {
	o.Zone = localZone(time.Now())
	if o.Width = terminalWidth(stdout, env); o.Width == 0 {
		return
	}
	kind, _ := env.lookup("TERM")
	o.TTY = kind != "dumb"
}

// terminalWidth is how many columns what is written has; 0 if it is no terminal.
func terminalWidth(w io.Writer, env environment) (columns int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	columns = usageWidth
	if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
		columns = width
	}
	text, _ := env.lookup("COLUMNS")
	if width, err := strconv.Atoi(text); err == nil && width > 0 {
		columns = width
	}
	return columns
}

// printf prints sentences. What would control a terminal is replaced.
func (c *console) printf(format string, args ...any) {
	c.print(sentences(fmt.Sprintf(format, args...), c.width))
}

// print prints lines as they are, but for what would control a terminal.
func (c *console) print(text string) {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	c.write(strings.Join(lines, "\n"))
}

// Write is printf for a text, and never fails: the console remembers.
func (c *console) Write(text []byte) (int, error) {
	c.printf("%s", text)
	return len(text), nil
}

// sentences breaks the lines of a text that are wider than a terminal; 0 is none. Lines that are
// indented stay, and so does a command in a sentence, from berth to the next mark: people copy both.
func sentences(text string, width int) string {
	if width == 0 {
		return text
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if textWidth(line) <= width || strings.HasPrefix(line, " ") {
			continue
		}
		whole := commandInSentence().ReplaceAllStringFunc(line, func(s string) string { return strings.NewReplacer(" ", "\x00", ",", "\x01").Replace(s) })
		lines[i] = strings.NewReplacer("\x00", " ", "\x01", ",").Replace(strings.Join(breakText(whole, width), "\n"))
	}
	return strings.Join(lines, "\n")
}

// commandInSentence is what a person may copy.
var commandInSentence = expression("`[^`]+`|\\b(?:berth|docker)(?: [^ ]*[^ ;,.)?])*(?: [^ ]+)?")

// breakText breaks a text into lines of at most that width, but for a word that is wider.
func breakText(s string, width int) (lines []string) {
	line := ""
	for _, word := range words(s) {
		if line != "" && textWidth(line)+textWidth(strings.TrimRight(word, " ")) > width {
			lines, line = append(lines, strings.TrimRight(line, " ")), ""
		}
		line += word
	}
	return append(lines, strings.TrimRight(line, " "))
}

// words splits a text where a line may end: after spaces and commas, which stay.
func words(s string) (list []string) {
	from := 0
	for i := range len(s) {
		if i+1 < len(s) && (s[i] == ' ' || s[i] == ',') && s[i+1] != ' ' {
			list, from = append(list, s[from:i+1]), i+1
		}
	}
	return append(list, s[from:])
}

// textWidth is how many columns of a terminal a text takes.
func textWidth(s string) (n int) {
	for _, r := range s {
		switch {
		case r < 0x300:
			n++
		case unicode.In(r, unicode.Mn, unicode.Me): // they join the character before
		case unicode.Is(wideCharacters, r):
			n += 2
		default:
			n++
		}
	}
	return n
}

// tellPerson writes why the program has failed, for a person.
func tellPerson(w io.Writer, env environment, err error) {
	text := sentences(fmt.Sprint("berth: ", err), terminalWidth(w, env))
	if env.isJournal(w) {
		text = forJournal(text)
	}
	fmt.Fprintln(w, text)
}

func (c *console) write(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && text != "" {
		_, c.err = io.WriteString(c.out, text)
	}
}

// lines prints lines, broken where a terminal is too narrow.
func (c *console) lines(indent string, lines ...string) {
	for _, line := range lines {
		parts := []string{line}
		if c.width > 0 {
			parts = breakText(printable(line), max(20, c.width-len(indent)-4))
		}
		c.print(indent + strings.Join(parts, "\n"+indent+"    ") + "\n")
	}
}

// json prints a value. What would control a terminal, and JSON need not escape, is escaped.
func (c *console) json(v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	c.write(escaped(text))
	return err
}

// jsonLine prints a value as one line, as json does.
func (c *console) jsonLine(v any) error {
	text, err := json.Marshal(v)
	c.write(escaped(text))
	return err
}

// escaped is JSON, and a newline, without what would control a terminal.
func escaped(text []byte) string {
	var b strings.Builder
	for _, r := range string(text) {
		if r == '\n' || unicode.IsGraphic(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String() + "\n"
}

// A progress tells how far a long piece of work has come: on a terminal in one
// line that is written again, else in a line now and then.
type progress struct {
	c           *console
	what        string
	total, done int64
	begun, told time.Time
}

// progress begins to tell of work on total bytes; 0 if it is not known how many.
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
	if p.total == 0 { // of a pipe, say
		line = fmt.Sprintf("%s: %s, %s/s", p.what, formatSize(p.done), formatSize(int64(rate)))
	}
	if p.c.tty {
		if n := p.c.width - 1; n > 0 && len(line) > n {
			line = line[:n] // or it could not be written again
		}
		p.c.write("\r\x1b[K" + line)
	} else {
		p.c.printf("%s\n", line)
	}
}

// end takes the line away.
func (p *progress) end() {
	if p.c.tty && !p.c.quiet {
		p.c.write("\r\x1b[K")
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

// printable replaces what would control a terminal, or is invisible: names on certificates
// and of users may hold it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return '?'
		}
		return r
	}, s)
}

// formatTime writes a time for people, in their zone, which it names.
func (c *console) formatTime(t time.Time, layout string) string {
	return c.zone.at(t).Format(layout + " MST")
}

// formatAge writes how long ago a time was, or how long it is until then, in its greatest unit.
func formatAge(t, now time.Time) string {
	age, form := now.Sub(t), "%d%s ago"
	if age < 0 {
		age, form = -age, "in %d%s"
	}
	switch s := int64(age / time.Second); {
	case s < 60:
		return fmt.Sprintf(form, s, "s")
	case s < 3600:
		return fmt.Sprintf(form, s/60, "m")
	case s < 2*86400:
		return fmt.Sprintf(form, s/3600, "h")
	default:
		return fmt.Sprintf(form, s/86400, "d")
	}
}

// A zone is how the clocks go where a command is given, as spans of time in order. The server
// that answers may have another zone, and know no other.
type zone []zoneSpan

// A zoneSpan has one offset.
type zoneSpan struct {
	Until  int64 // in Unix seconds, when the next begins; 0 for the last
	Name   string
	Offset int // seconds east of UTC
}

// localZone is the zone of this process, for 20 years before and after now. What is earlier or
// later has the offset of the first or the last span.
func localZone(now time.Time) (z zone) {
	end := now.AddDate(20, 0, 0)
	for t := now.AddDate(-20, 0, 0).Local(); ; {
		name, offset := t.Zone()
		if n := len(z); n == 0 || z[n-1].Name != name || z[n-1].Offset != offset {
			z = append(z, zoneSpan{Name: name, Offset: offset})
		}
		_, next := t.ZoneBounds()
		if next.IsZero() || next.After(end) {
			z[len(z)-1].Until = 0
			return z
		}
		// On the last day of a leap year Go says that what it is in has ended.
		if next.Sub(t) < 24*time.Hour {
			next = t.Add(24 * time.Hour)
		}
		z[len(z)-1].Until, t = next.Unix(), next
	}
}

// at returns a time as clocks in the zone show it; without a zone in UTC.
func (z zone) at(t time.Time) time.Time {
	for _, span := range z {
		if span.Until == 0 || t.Unix() < span.Until {
			return t.In(time.FixedZone(span.Name, span.Offset))
		}
	}
	return t.UTC()
}
