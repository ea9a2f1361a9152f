// `berth help`, `berth -h` and `berth NAME -h`: the tables of commands and flags, for people.

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
)

const usageHead = `Berth: a container registry in one file.

  berth                                  serve ./data on port 5000
  berth --addr 127.0.0.1:8080            on another address
  berth --data /srv/berth                from another directory

  docker tag alpine localhost:5000/alpine
  docker push localhost:5000/alpine

`

const usageEnvironment = `
Each flag is also an environment variable: --data is BERTH_DATA, --no-delete is
BERTH_NO_DELETE=true. A flag wins over the environment.
`

const usageEnd = `
GET /metrics has metrics for Prometheus, /healthz and /readyz are for probes.
`

// usage is what `berth -h` prints.
func usage() string {
	var b strings.Builder
	b.WriteString(usageHead)
	for _, c := range commands {
		if c.heading != "" {
			fmt.Fprintf(&b, "\n%s\n\n", c.heading)
		}
		writeEntry(&b, c.line(), c.about)
	}
	b.WriteString(usageEnvironment)
	for _, group := range serverFlags {
		fmt.Fprintf(&b, "\n%s\n", group.heading)
		for _, f := range group.flags {
			f.describe(&b)
		}
	}
	b.WriteString(usageEnd)
	return b.String()
}

// helpCommand is `berth help [COMMAND]`.
func helpCommand(_ context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	if len(cfg.Args) == 0 {
		_, err := io.WriteString(stdout, usage())
		return err
	}
	c := findCommand(cfg.Args[0])
	if c == nil {
		return fmt.Errorf("unknown command %q; see berth -h", cfg.Args[0])
	}
	return c.help(stdout)
}

// help prints what there is to know of one command. All flags of the server are serve's,
// and in the usage.
func (c *command) help(w io.Writer) error {
	var b strings.Builder
	if c.name == "serve" {
		b.WriteString(usage())
	} else {
		fmt.Fprintf(&b, "%s\n\n", wrap(c.line(), 0, 6))
		about := strings.ToUpper(c.about[:1]) + c.about[1:] + "."
		if c.more != "" {
			about += " " + c.more
		}
		fmt.Fprintf(&b, "%s\n", wrap(about, 0, 0))
		if c.flags != nil {
			b.WriteString("\n")
		}
		for _, f := range c.flags {
			f.describe(&b)
		}
		if c.onStore != nil || c.onFiles != nil {
			b.WriteString("\n")
			b.WriteString("It works on the registry in --data DIR (default data). berth -h has all flags.\n")
		}
		fmt.Fprintf(&b, "\nFor example:\n  %s\n", c.example)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// line is how a command is called.
func (c *command) line() string { return strings.TrimSpace("berth " + c.name + " " + c.synopsis) }

// describe writes what the usage says of a flag.
func (f flagDef) describe(b *strings.Builder) {
	about := f.about
	if f.standard != "" && !strings.Contains(about, "(default") {
		about += " (default " + f.standard + ")"
	}
	writeEntry(b, strings.TrimSpace("--"+f.name+" "+f.value), about)
}

// usageWidth is that of a terminal, and aboutColumn where the usage says what things are.
const usageWidth, aboutColumn = 80, 26

// writeEntry writes what something is called, and beside it, or under it if that is long,
// what it is.
func writeEntry(b *strings.Builder, name, about string) {
	name = "  " + wrap(name, 2, 8)
	about = wrap(about, aboutColumn, aboutColumn)
	if len(name) < aboutColumn-1 {
		fmt.Fprintf(b, "%-*s%s\n", aboutColumn, name, about)
	} else {
		fmt.Fprintf(b, "%s\n%*s%s\n", name, aboutColumn, "", about)
	}
}

// wrap breaks a text into lines that end before usageWidth. It begins in column first;
// the other lines are indented by rest. A line's end in the text stays one.
func wrap(text string, first, rest int) string {
	var b strings.Builder
	at := first
	for i, line := range strings.Split(text, "\n") {
		for j, word := range strings.Fields(line) {
			switch {
			case j == 0 && i == 0:
			case j == 0 || at+1+len(word) >= usageWidth:
				b.WriteString("\n" + strings.Repeat(" ", rest))
				at = rest
			default:
				b.WriteByte(' ')
				at++
			}
			b.WriteString(word)
			at += len(word)
		}
	}
	return b.String()
}
