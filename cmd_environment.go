// The environment: a variable for each flag, and none that means nothing.
//
// Who mistypes BERTH_DATA starts another registry than the one that was meant, so a variable
// that begins with BERTH_ and is no flag's is refused, as a flag would be. Kubernetes and Docker
// make variables of their own for a service or container that is called berth; these are told by
// their form.

package main

import (
	"flag"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// variableOf is the variable of a flag.
func variableOf(flag string) string {
	return "BERTH_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// serviceVariable has the form of what Kubernetes sets for a Service called berth, or berth-…,
// and Docker for a linked container: with the latter's names and environment.
var serviceVariable = regexp.MustCompile(`^BERTH_(\w+_)?(` +
	`SERVICE_HOST=|SERVICE_PORT(_\w+)?=\d+$|` +
	`PORT=(tcp|udp|sctp)://|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=|NAME=/|ENV_\w+=)`)

// refuseVariables returns an error if one of the variables, as NAME=VALUE, is no flag's,
// of whichever command.
func refuseVariables(environ []string) error {
	var known []string
	for _, c := range commands {
		newFlags(c.name, &config{}, &textFlags{}).VisitAll(func(f *flag.Flag) { known = append(known, variableOf(f.Name)) })
	}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if runtime.GOOS == "windows" { // where case does not matter
			name = strings.ToUpper(name)
		}
		if !strings.HasPrefix(name, "BERTH_") || value == "" || slices.Contains(known, name) || serviceVariable.MatchString(name+"="+value) {
			continue
		}
		if name == "BERTH_PORT" { // which is nearer to others than to what it means
			return fmt.Errorf("the environment variable BERTH_PORT is unknown: the port is part of BERTH_ADDR, such as BERTH_ADDR=:5001")
		}
		if near := nearest(name, known); near != "" {
			return fmt.Errorf("the environment variable %s is unknown; is it meant to be %s?", name, near)
		}
		return fmt.Errorf("the environment variable %s is unknown: Berth has none but those of its flags, such as BERTH_DATA for --data (see berth -h). Unset it", name)
	}
	return nil
}

// nearest returns the name that differs from another in the fewest letters, or "" if none is
// near enough to have been meant.
func nearest(name string, names []string) (near string) {
	least := min(max(len(strings.TrimPrefix(name, "BERTH_"))/3, 1), 3)
	for _, n := range names {
		if d := distance(name, n); d <= least && (near == "" || d < least) {
			near, least = n, d
		}
	}
	return near
}

// distance is how many letters are to be put in, left out, changed, or swapped with the next
// to make b of a.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		now := make([]int, len(b)+1)
		now[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			now[j+1] = min(now[j]+1, last[j+1]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				now[j+1] = min(now[j+1], before[j-1]+1)
			}
		}
		before, last = last, now
	}
	return last[len(b)]
}
