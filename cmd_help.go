// `berth help`, `berth -h` and `berth NAME -h`: the tables of commands and flags, for people.
//
// `berth help` is one screen: the commands, and the flags that most people need. All flags are in
// the help of serve. A command's own help has its flags, and those of the server that matter to it.

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

const usageHead = `Berth: a container registry in one file.

  berth [FLAGS]              serve the registry in ./data on port 5000
  berth COMMAND [FLAGS] ...  work on that registry, with or without a server
`

const usageEnd = `
berth help COMMAND explains a command, berth help flags lists all flags.
`

const usageEnvironment = `
Each flag is also an environment variable: --data is BERTH_DATA, --no-delete is
BERTH_NO_DELETE=true (or false). A flag wins over the environment.
Durations are written like 90m, 12h, 30d or 1d12h.
`

// firstFlags are those that most people need: the usage has no others.
var firstFlags = []string{"addr", "data", "htpasswd", "policy", "anonymous-pull", "tls", "tls-name",
	"trusted-proxies", "read-only", "log-format"}

// usage is what `berth -h` prints.
func usage() string {
	var b strings.Builder
	b.WriteString(usageHead)
	for _, c := range commands {
		if c.heading != "" {
			fmt.Fprintf(&b, "\n%s:\n", c.heading)
		}
		fmt.Fprintf(&b, "  %-12s%s\n", c.name, plain(c.about))
	}
	b.WriteString("\nCommon flags:\n")
	for _, name := range firstFlags {
		f := findServerFlag(name)
		f.about = f.first()
		f.describe(&b)
	}
	b.WriteString(usageEnd)
	return b.String()
}

// helpCommand is `berth help [COMMAND|flags]`. A word after the command may be one of its
// own, as in token create: the help of token has that too.
func helpCommand(_ context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	if len(cfg.Args) == 0 {
		_, err := io.WriteString(stdout, usage())
		return err
	}
	name := cfg.Args[0]
	if name == "flags" {
		name = "serve"
	}
	c := findCommand(name)
	if c == nil {
		return unknownCommand(name)
	}
	if len(cfg.Args) > 1 && !slices.Contains(c.verbs(), cfg.Args[1]) {
		return usageErrorf("berth %s has no %q; see berth help %[1]s", name, cfg.Args[1])
	}
	return c.help(stdout)
}

// wantsHelp reports whether the arguments ask for help, whatever else is in them.
func wantsHelp(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" })
}

// help prints what there is to know of one command.
func (c *command) help(w io.Writer) error {
	var b strings.Builder
	if c.forms == nil {
		fmt.Fprintf(&b, "%s\n", wrap(c.line(), 0, 6))
	}
	for _, x := range c.forms {
		writeEntry(&b, "berth "+c.name+" "+x.call, x.about)
	}
	about := strings.ToUpper(c.about[:1]) + c.about[1:] + "."
	fmt.Fprintf(&b, "\n%s\n", wrap(strings.TrimSpace(about+" "+c.more), 0, 0))
	if c.name == "serve" {
		for _, group := range serverFlags {
			fmt.Fprintf(&b, "\n%s:\n", group.heading)
			for _, f := range group.flags {
				f.describe(&b)
			}
		}
		b.WriteString(usageEnvironment)
	} else if flags := c.allFlags(); flags != nil {
		b.WriteString("\n")
		for _, f := range flags {
			f.describe(&b)
		}
	}
	if c.onStore != nil && c.server != nil {
		fmt.Fprintf(&b, "\n%s\n", wrap("A running server does the work, and uses its own "+flagList(c.server)+". Without a server, "+
			"those of the last one apply unless you give others.", 0, 0))
	}
	heading := "Example:"
	if strings.Contains(c.example, "\n") {
		heading = "Examples:"
	}
	fmt.Fprintf(&b, "\n%s\n  %s\n", heading, strings.ReplaceAll(c.example, "\n", "\n  "))
	_, err := io.WriteString(w, b.String())
	return err
}

// flagList is flags by their names, as a sentence has them.
func flagList(names []string) string {
	last := "--" + names[len(names)-1]
	if len(names) == 1 {
		return last
	}
	return "--" + strings.Join(names[:len(names)-1], ", --") + " and " + last
}

// allFlags are those that matter to a command: its own, and of the server's --data and what the
// table names. All of the server's matter to serve.
func (c *command) allFlags() (list []flagDef) {
	if c.name == "serve" {
		for _, group := range serverFlags {
			list = append(list, group.flags...)
		}
		return list
	}
	list = slices.Clone(c.flags)
	if c.onStore != nil || c.onFiles != nil || c.asClient != nil {
		list = append(list, findServerFlag("data"))
	}
	for _, name := range c.server {
		f := findServerFlag(name)
		f.standard = cmp.Or(c.standards[name], f.standard)
		list = append(list, f)
	}
	return list
}

// findServerFlag returns one of the server's flags, which must be there.
func findServerFlag(name string) flagDef {
	for _, group := range serverFlags {
		for _, f := range group.flags {
			if f.name == name {
				return f
			}
		}
	}
	panic("there is no flag --" + name)
}

// values are those that a flag can have, if there are few: text|json.
func (f flagDef) values() []string {
	if !strings.Contains(f.value, "|") {
		return nil
	}
	return strings.Split(f.value, "|")
}

// first is the first sentence of what is said of a flag, without a default in words.
func (f flagDef) first() string {
	about, _ := f.usual()
	for _, end := range []string{"\n", "; ", ". "} {
		about, _, _ = strings.Cut(about, end)
	}
	return about
}

// usual returns what is said of a flag, and apart from that its default: the value in
// backquotes, or in words.
func (f flagDef) usual() (about, standard string) {
	if at := strings.LastIndex(f.about, " (default "); at >= 0 && strings.HasSuffix(f.about, ")") {
		return f.about[:at], f.about[at+len(" (default ") : len(f.about)-1]
	}
	if f.standard != "" {
		standard = "`" + f.standard + "`"
	}
	return f.about, standard
}

// describe writes what the help says of a flag.
func (f flagDef) describe(b *strings.Builder) {
	about := f.about
	if _, standard := f.usual(); standard != "" && !strings.HasSuffix(about, ")") {
		if strings.Contains(about, "\n") { // lines for its values
			about += "\n"
		}
		about += " (default " + standard + ")"
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

// plain is a text of the tables for a terminal: pages alone have code in backquotes.
func plain(text string) string { return strings.ReplaceAll(text, "`", "") }

// wrap breaks a text of the tables into lines that end before usageWidth. It begins in column
// first; the other lines are indented by rest. A line's end in the text stays one.
func wrap(text string, first, rest int) string {
	var b strings.Builder
	at := first
	for i, line := range strings.Split(plain(text), "\n") {
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
