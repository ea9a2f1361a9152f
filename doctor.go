// Why it does not work: what `berth doctor` looks at, and how it tells.
//
// A doctor looks at one thing after the other and notes a finding of each: what is so, and where
// something is wrong what to do, with the lines to type. On a client's machine it follows the way of
// a push: name, port, TLS and certificate, trust of each client installed there, proxies, login, a
// real push and pull (doctor_reach.go, doctor_trust.go, doctor_client.go, doctor_push.go). On the server it looks at the
// machine and the registry (doctor_server.go). Where one step cannot work, those that need it are left out: their
// findings would only repeat the first.
//
// Each fault has a name that stays, for programs. A warning is what works today and may not
// tomorrow, or not for all clients; it is no reason to fail.

package main

import (
	"fmt"
	"slices"
	"strings"
)

// A severity is how bad a finding is.
type severity string

const (
	isWell    severity = "ok"
	isNote    severity = "note" // nothing is wrong, and it is good to know
	isWarning severity = "warning"
	isProblem severity = "problem"
)

// A diagnosis is what was found of one thing.
type diagnosis struct {
	Check string   `json:"check"` // what was looked at, in a word
	Level severity `json:"level"`
	Fault string   `json:"fault,omitempty"` // the name of what is wrong; "" if nothing is
	Says  string   `json:"says"`            // one sentence: what is
	Do    string   `json:"do,omitempty"`    // one sentence: what to do
	Lines []string `json:"lines,omitempty"` // to type, or to write in a file
}

// diagnoses are those of one examination, in order.
type diagnoses struct {
	list []*diagnosis
	tell func(*diagnosis) // of each as it is made; nil for not
}

func (x *diagnoses) add(d diagnosis) {
	x.list = append(x.list, &d)
	if x.tell != nil {
		x.tell(&d)
	}
}

// well notes that nothing is wrong.
func (x *diagnoses) well(check, format string, args ...any) {
	x.add(diagnosis{Check: check, Level: isWell, Says: fmt.Sprintf(format, args...)})
}

// note notes what is neither good nor wrong.
func (x *diagnoses) note(check, format string, args ...any) {
	x.add(diagnosis{Check: check, Level: isNote, Says: fmt.Sprintf(format, args...)})
}

// A remedy is what to do: a sentence, and lines to type.
type remedy struct {
	do    string
	lines []string
}

func advise(do string, lines ...string) remedy { return remedy{do, lines} }

// warn notes what does no harm yet.
func (x *diagnoses) warn(check, fault string, r remedy, format string, args ...any) {
	x.add(diagnosis{check, isWarning, fault, fmt.Sprintf(format, args...), r.do, r.lines})
}

// fail notes a problem.
func (x *diagnoses) fail(check, fault string, r remedy, format string, args ...any) {
	x.add(diagnosis{check, isProblem, fault, fmt.Sprintf(format, args...), r.do, r.lines})
}

// faults are the names of all that is at least so bad, without repetitions.
func (x *diagnoses) faults(levels ...severity) (names []string) {
	for _, d := range x.list {
		if slices.Contains(levels, d.Level) && !slices.Contains(names, d.Fault) {
			names = append(names, d.Fault)
		}
	}
	return names
}

// checkColumn is where a line of the doctor says what is.
const checkColumn = 22

// write tells a person of one finding, without what to do.
func (d *diagnosis) write(out *console) {
	label := strings.ToUpper(string(d.Level))
	if d.Level == isWell || d.Level == isNote {
		label = string(d.Level)
	}
	out.printf("%-9s%-12s %s\n", label, d.Check, wrap(printable(d.Says), checkColumn, checkColumn))
}

// writeRemedies tells a person what to do, the problems first, and last what could be done.
func (x *diagnoses) writeRemedies(out *console) {
	var told []string
	n := 0
	for _, level := range []severity{isProblem, isWarning, isNote} {
		for _, d := range x.list {
			said := d.Do + strings.Join(d.Lines, "\n")
			if d.Level != level || d.Do == "" || slices.Contains(told, said) {
				continue
			}
			told = append(told, said)
			if n++; n == 1 {
				out.printf("\nWhat to do:\n")
			}
			out.printf("%2d. %s\n", n, wrap(printable(d.Check+": "+d.Do), 4, 4))
			for _, line := range d.Lines {
				out.printf("%s\n", strings.TrimRight("      "+line, " "))
			}
		}
	}
}

// verdict is the last line for a person.
func (x *diagnoses) verdict() string {
	count := map[severity]int{}
	for _, d := range x.list {
		count[d.Level]++
	}
	partly := slices.ContainsFunc(x.list, func(d *diagnosis) bool { return d.Level == isNote && d.Fault != "" })
	switch problems, warnings := count[isProblem], count[isWarning]; {
	case problems == 0 && warnings == 0 && partly:
		return "nothing is wrong in what could be examined"
	case problems == 0 && warnings == 0:
		return "all is well"
	case problems == 0:
		return plural(warnings, "warning") + ", no problem"
	case warnings == 0:
		return plural(problems, "problem")
	default:
		return plural(problems, "problem") + ", " + plural(warnings, "warning")
	}
}
