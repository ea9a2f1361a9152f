package main

// What is printed: the machine, the table, and the servers' small print.

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A table has the figures of all rounds.
type table struct {
	began    time.Time
	products []*product
	tmp      string
	rounds   int
	lines    []*line
}

type line struct {
	row
	figures map[string][]float64 // of each server, by rounds
}

// add takes one round's figures of a workload.
func (t *table) add(w workload, s *server, figures []float64) {
	for i, r := range w.rows {
		at := slices.IndexFunc(t.lines, func(l *line) bool { return l.row == r })
		if at < 0 {
			at = len(t.lines)
			t.lines = append(t.lines, &line{r, map[string][]float64{}})
		}
		l := t.lines[at]
		l.figures[s.name] = append(l.figures[s.name], figures[i])
	}
}

func (t *table) write(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "%s, %d cores, %s %s, %s, %s, %s; rounds: %d, of which this is the median (± half of how far they lie apart).\n",
		cpuModel(), runtime.NumCPU(), runtime.GOOS, kernel(), fileSystem(t.tmp), runtime.Version(), t.began.Format(time.DateOnly), t.rounds)
	fmt.Fprintf(&out, "A ratio above 1 is good for Berth: where less is better (s/GiB, ms, MiB …) it is the other's figure over Berth's.\n\n")
	out.WriteString("| work | |")
	for _, p := range t.products {
		fmt.Fprintf(&out, " %s |", p.name)
	}
	out.WriteString(" berth to limit | berth to the best other registry |\n|---|---|" + strings.Repeat("--:|", len(t.products)+2) + "\n")
	for _, l := range t.lines {
		fmt.Fprintf(&out, "| %s | %s |", l.name, l.unit)
		for _, p := range t.products {
			fmt.Fprintf(&out, " %s |", cell(l.figures[p.name]))
		}
		fmt.Fprintf(&out, " %s | %s |\n", short(l.ratio("limit")), t.best(l))
	}
	out.WriteString("\n")
	for _, p := range t.products {
		version := ""
		if p.version != nil {
			version = " " + strings.TrimPrefix(p.version(p.binary), p.name+" ")
		}
		note := p.note
		if note != "" {
			note = ": " + note
		}
		fmt.Fprintf(&out, "- %s%s%s\n", p.name, version, note)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// best is the ratio of Berth to the best of the other registries, and which that is. It compares promises that
// are alike.
func (t *table) best(l *line) string {
	best := ""
	for _, p := range t.products {
		v := median(l.figures[p.name])
		if p.name == "berth" || p.name == "limit" || p.static || p.leaves && l.syncs || math.IsNaN(v) {
			continue
		}
		if old := median(l.figures[best]); best == "" || l.lower && v < old || !l.lower && v > old {
			best = p.name
		}
	}
	if best == "" || len(l.figures["berth"]) == 0 {
		return "–"
	}
	return short(l.ratio(best)) + " (" + best + ")"
}

// ratio is the median of the rounds' ratios of Berth to another; above 1 is good for Berth.
func (l *line) ratio(other string) float64 {
	var ratios []float64
	ours, theirs := l.figures["berth"], l.figures[other]
	for i := range min(len(ours), len(theirs)) {
		a, b := ours[i], theirs[i]
		if l.lower {
			a, b = b, a
		}
		if a == b { // both may be 0
			ratios = append(ratios, 1)
			continue
		}
		ratios = append(ratios, a/b)
	}
	return median(ratios)
}

// median is unknown for nothing, and when one of them is.
func median(v []float64) float64 {
	if len(v) == 0 || slices.ContainsFunc(v, math.IsNaN) {
		return unknown
	}
	v = slices.Sorted(slices.Values(v))
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2
}

// cell is the median, and half of the distance between the least and the most, in percent of it.
func cell(v []float64) string {
	m := median(v)
	if math.IsNaN(m) || len(v) < 2 || m == 0 {
		return short(m)
	}
	return fmt.Sprintf("%s ±%.0f%%", short(m), (slices.Max(v)-slices.Min(v))/2/m*100)
}

// short has three digits that count, and commas.
func short(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 0):
		return "∞"
	case v == 0:
		return "0"
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	if digits > 0 {
		return strconv.FormatFloat(v, 'f', min(digits, 4), 64)
	}
	unit := math.Pow10(-digits)
	s := strconv.FormatFloat(math.Round(v/unit)*unit, 'f', 0, 64)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}

// writeJSON writes all figures; null is one that is not known.
func (t *table) writeJSON(path string) error {
	type jsonRow struct {
		Name          string                `json:"name"`
		Unit          string                `json:"unit"`
		LowerIsBetter bool                  `json:"lowerIsBetter"`
		Figures       map[string][]*float64 `json:"figures"`
	}
	var all struct {
		CPU        string    `json:"cpu"`
		Cores      int       `json:"cores"`
		Kernel     string    `json:"kernel"`
		FileSystem string    `json:"fileSystem"`
		Go         string    `json:"go"`
		Began      time.Time `json:"began"`
		Rows       []jsonRow `json:"rows"`
	}
	all.CPU, all.Cores, all.Kernel, all.FileSystem = cpuModel(), runtime.NumCPU(), kernel(), fileSystem(t.tmp)
	all.Go, all.Began = runtime.Version(), t.began.UTC()
	for _, l := range t.lines {
		r := jsonRow{l.name, l.unit, l.lower, map[string][]*float64{}}
		for name, figures := range l.figures {
			for _, v := range figures {
				p := &v
				if math.IsNaN(v) || math.IsInf(v, 0) {
					p = nil
				}
				r.Figures[name] = append(r.Figures[name], p)
			}
		}
		all.Rows = append(all.Rows, r)
	}
	text, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for _, key := range []string{"model name", "Model"} { // the latter on a Raspberry Pi
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(release))
}

// fileSystem is the kind of the file system of a directory, or "" when that is not known.
func fileSystem(dir string) (kind string) {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	longest := -1
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) < longest {
			continue
		}
		if rest, ok := strings.CutPrefix(dir, strings.TrimSuffix(f[1], "/")); ok && (rest == "" || rest[0] == '/') {
			kind, longest = f[2], len(f[1]) // the last of those in one place covers the others
		}
	}
	return kind
}
