// Tables for people: columns that fit the terminal on which they are read.
//
// A pipe or a file gets everything, however wide. On a terminal, columns that say nothing are
// left out, and a table that is too wide is written more briefly, step by step until it fits:
// digests without their algorithm, ages for times, digests and sizes with fewer digits. If that
// is not enough, sentences and lists are broken into lines, and a name that is still too long
// has a line to itself. Names are never cut: people copy them.
//
// There are no colours: they would add nothing to the words.

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A brevity is how briefly cells are written.
type brevity int

const (
	inFull    brevity = iota
	noPrefix          // digests without their algorithm
	withAges          // and ages for times
	asBriefly         // and digests of 8 digits, sizes such as 1.9G
)

// A cell is a string, an int, an int64, or one of these, or a func(brevity) string.
type (
	sizeCell int64     // bytes
	timeCell time.Time // to the minute
	stepCell time.Time // to the second
)

// digestCell is a cell with enough of a digest for people.
func digestCell(d string) func(brevity) string {
	return func(b brevity) string { return b.digest(d) }
}

// timeCellOf is a cell with a time, if there is one.
func timeCellOf(t *time.Time) any {
	if t == nil {
		return "-"
	}
	return timeCell(*t)
}

// digest writes enough of a digest for people.
func (b brevity) digest(d string) string {
	short := shortDigest(d)
	_, digits, ok := strings.Cut(short, ":")
	switch {
	case b == inFull || !ok:
		return short
	case b == asBriefly && len(digits) > 8:
		return digits[:8]
	}
	return digits
}

// A consoleTable is rows of cells. The columns are as wide as what is in them.
type consoleTable struct {
	c       *console
	heads   int // of the rows: 1, or 0 if the columns have no names
	rows    [][]any
	numbers []bool // by column: its cells end at one line
	breaks  []bool // by column: its cells may be broken into lines
}

// table begins a table. Without heads there is no first line that names the columns.
func (c *console) table(heads ...string) *consoleTable {
	t := &consoleTable{c: c}
	if len(heads) > 0 {
		t.heads = 1
		row := make([]any, len(heads))
		for i, head := range heads {
			row[i] = head
		}
		t.row(row...)
	}
	return t
}

// breaking says which columns have sentences or lists, that may be broken into lines.
func (t *consoleTable) breaking(columns ...int) *consoleTable {
	for _, i := range columns {
		t.breaks = append(t.breaks, make([]bool, max(0, i+1-len(t.breaks)))...)
		t.breaks[i] = true
	}
	return t
}

// row adds a row.
func (t *consoleTable) row(cells ...any) {
	t.rows = append(t.rows, cells)
	n := len(cells)
	t.numbers = append(t.numbers, make([]bool, max(0, n-len(t.numbers)))...)
	t.breaks = append(t.breaks, make([]bool, max(0, n-len(t.breaks)))...)
	for i, cell := range cells {
		switch cell.(type) {
		case int, int64, sizeCell:
			t.numbers[i] = true
		}
	}
}

// end prints the table; of one without rows only what none says.
func (t *consoleTable) end(none string) {
	if len(t.rows) == t.heads {
		t.c.printf("%s", none)
		return
	}
	if t.c.width == 0 {
		t.c.print(t.write(inFull, t.widths(inFull)))
		return
	}
	t.dropEmpty()
	t.c.print(t.fitted(t.c.width))
}

// dropEmpty leaves out the columns in which no row says anything.
func (t *consoleTable) dropEmpty() {
	for i := len(t.numbers) - 1; i > 0; i-- {
		empty := true
		for _, row := range t.rows[t.heads:] {
			if i < len(row) && row[i] != any("") && row[i] != any("-") {
				empty = false
				break
			}
		}
		if !empty {
			continue
		}
		for r, row := range t.rows {
			if i < len(row) {
				t.rows[r] = slices.Delete(row, i, i+1)
			}
		}
		t.numbers, t.breaks = slices.Delete(t.numbers, i, i+1), slices.Delete(t.breaks, i, i+1)
	}
}

// fitted is the table for a terminal of that width: without anything broken, or else in as few
// lines as it can be, and no more briefly than needed for that.
func (t *consoleTable) fitted(width int) (text string) {
	for b := inFull; b <= asBriefly; b++ {
		if widths := t.widths(b); lineWidth(widths) <= width {
			return t.write(b, widths)
		}
	}
	for b := inFull; b <= asBriefly; b++ {
		if widths := t.squeeze(b, width); lineWidth(widths) <= width {
			if now := t.write(b, widths); text == "" || strings.Count(now, "\n") < strings.Count(text, "\n") {
				text = now
			}
		}
	}
	if text != "" {
		return text
	}
	widths := t.squeeze(asBriefly, width)
	if !t.breaks[0] { // a longer name has a line to itself
		widths[0] = max(8, min(widths[0], widths[0]+width-lineWidth(widths)))
	}
	return t.write(asBriefly, widths)
}

// columnGap is the spaces between two columns.
const columnGap = 2

// lineWidth is how wide a line with these columns is.
func lineWidth(widths []int) (n int) {
	for _, w := range widths {
		n += w + columnGap
	}
	return n - columnGap
}

// widths returns how wide the columns are, with nothing broken.
func (t *consoleTable) widths(b brevity) []int {
	widths := make([]int, len(t.numbers))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], textWidth(t.text(cell, b)))
		}
	}
	return widths
}

// squeeze is widths with the columns that may be broken as narrow as needed. It leaves them
// leastBroken, and as wide as a word in them; but not the last, which may go under its row.
func (t *consoleTable) squeeze(b brevity, width int) []int {
	const leastBroken = 20
	widths := t.widths(b)
	least := slices.Clone(widths)
	for i, may := range t.breaks {
		if may {
			least[i] = min(leastBroken, widths[i])
			for _, row := range t.rows {
				if i < len(row) && i < len(widths)-1 {
					least[i] = max(least[i], longestWord(t.text(row[i], b)))
				}
			}
		}
	}
	for lineWidth(widths) > width {
		widest := -1
		for i := range widths {
			if widths[i] > least[i] && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

// text writes a cell.
func (t *consoleTable) text(cell any, b brevity) string {
	switch v := cell.(type) {
	case string:
		return printable(v)
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case sizeCell:
		if b == asBriefly {
			return strings.NewReplacer(" ", "", "iB", "").Replace(formatSize(int64(v)))
		}
		return formatSize(int64(v))
	case timeCell:
		if b >= withAges {
			return formatAge(time.Time(v), time.Now())
		}
		return printable(t.c.formatTime(time.Time(v), "2006-01-02 15:04"))
	case stepCell:
		if b >= withAges {
			return formatAge(time.Time(v), time.Now())
		}
		return printable(t.c.formatTime(time.Time(v), "2006-01-02 15:04:05"))
	case func(brevity) string:
		return printable(v(b))
	}
	panic(fmt.Sprintf("a cell of type %T", cell))
}

// write is the table with columns of these widths.
func (t *consoleTable) write(b brevity, widths []int) string {
	var text strings.Builder
	for _, row := range t.rows {
		t.writeRow(&text, row, b, widths)
	}
	return text.String()
}

// writeRow writes a row, as the lines that it needs.
func (t *consoleTable) writeRow(text *strings.Builder, row []any, b brevity, widths []int) {
	cells := make([][]string, len(row)) // each its lines
	height, under := 1, ""
	for i, cell := range row {
		s := t.text(cell, b)
		cells[i] = []string{s}
		switch {
		case textWidth(s) <= widths[i]:
		case i == 0 && !t.breaks[0]:
			text.WriteString(s + "\n")
			cells[0] = nil
		case t.breaks[i] && i == len(widths)-1 && longestWord(s) > widths[i]:
			under, cells[i] = "    "+s+"\n", nil
		case t.breaks[i]:
			cells[i] = breakText(s, widths[i])
		}
		height = max(height, len(cells[i]))
	}
	for n := range height {
		var line strings.Builder
		for i, lines := range cells {
			s := ""
			if n < len(lines) {
				s = lines[n]
			}
			pad := strings.Repeat(" ", max(0, widths[i]-textWidth(s)))
			if t.numbers[i] {
				s = pad + s
			} else {
				s += pad
			}
			line.WriteString(s + strings.Repeat(" ", columnGap))
		}
		if s := strings.TrimRight(line.String(), " "); s != "" {
			text.WriteString(s + "\n")
		}
	}
	text.WriteString(under)
}

// longestWord is the width of the widest part of a text that is not broken.
func longestWord(s string) (n int) {
	for _, word := range words(s) {
		n = max(n, textWidth(strings.TrimRight(word, " ")))
	}
	return n
}

// wideCharacters take two columns of a terminal: by and large those that Unicode's
// EastAsianWidth.txt has as W or F.
var wideCharacters = &unicode.RangeTable{
	R16: []unicode.Range16{{0x1100, 0x115f, 1}, {0x231a, 0x231b, 1}, {0x23e9, 0x23ec, 1}, {0x2e80, 0x303e, 1}, {0x3041, 0x33ff, 1},
		{0x3400, 0x4dbf, 1}, {0x4e00, 0xa4cf, 1}, {0xa960, 0xa97f, 1}, {0xac00, 0xd7a3, 1}, {0xf900, 0xfaff, 1}, {0xfe30, 0xfe6f, 1},
		{0xff01, 0xff60, 1}, {0xffe0, 0xffe6, 1}},
	R32: []unicode.Range32{{0x16fe0, 0x18cff, 1}, {0x1b000, 0x1b2ff, 1}, {0x1f300, 0x1f64f, 1}, {0x1f680, 0x1f6ff, 1}, {0x1f900, 0x1faff, 1},
		{0x20000, 0x3fffd, 1}},
}
