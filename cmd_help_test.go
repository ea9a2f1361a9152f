// Help, docs/reference.md and the scripts of completion: all from the tables of commands and flags.

package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/reference.md anew, from the tables")

// The usage is one screen, has every command, and says where all flags are.
func TestUsageIsOneScreen(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-h"}, {"--help"}, {"-help"}, {"help"}, {"help", "--help"}} {
		want := usage()
		if len(args) == 2 {
			want = helpOf(t, "help")
		}
		if out, err := runOnce(t, args...); err != nil || out != want {
			t.Errorf("berth %v: %v\n%s", args, err, out)
		}
	}
	lines := strings.Split(strings.TrimSuffix(usage(), "\n"), "\n")
	if len(lines) > 60 {
		t.Errorf("the usage has %d lines, want at most 60", len(lines))
	}
	for _, c := range commands {
		at := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "  "+c.name+" ") })
		if at < 0 {
			t.Errorf("berth %s is not in the usage", c.name)
		}
	}
	measure(t, "berth help", usage())
}

// helpOf returns what berth help NAME prints.
func helpOf(t *testing.T, name string) string {
	t.Helper()
	out, err := runOnce(t, "help", name)
	if err != nil {
		t.Errorf("berth help %s: %v", name, err)
	}
	return out
}

// measure insists that a text fits on a terminal.
func measure(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if len(line) > 80 { // with its end
			t.Errorf("%s: a line of more than 79 columns: %s", what, line)
		}
		if strings.ContainsAny(line, "`\t") || strings.HasSuffix(line, " \n") {
			t.Errorf("%s: a line for pages, not for a terminal: %q", what, line)
		}
	}
}

// Each command's help has its own flags, those of the server that matter to it, and an example.
func TestHelpOfEveryCommand(t *testing.T) {
	t.Parallel()
	for _, c := range commands {
		help := helpOf(t, c.name)
		measure(t, "berth help "+c.name, help)
		asked := [][]string{{c.name, "-h"}, {c.name, "--help"}, {"-h", c.name}, {c.name, "--nonsense", "-h"}, {c.name, "x", "y", "z", "--help"}}
		for _, verb := range c.verbs() {
			asked = append(asked, []string{c.name, verb, "-h"}, []string{"help", c.name, verb})
		}
		for _, args := range asked {
			if out, err := runOnce(t, args...); err != nil || out != help {
				t.Errorf("berth %v: %v\n%s\nberth help %s:\n%s", args, err, out, c.name, help)
			}
		}
		call, _, _ := strings.Cut(help, "\n\n")
		for _, f := range c.flags {
			if f.name != "json" && !strings.Contains(call, "--"+f.name) {
				t.Errorf("--%s is not in %q", f.name, call)
			}
		}
		known := make(map[string]bool)
		newFlags(c.name, &config{}, &textFlags{}).VisitAll(func(f *flag.Flag) { known[f.Name] = true })
		for _, f := range c.allFlags() {
			if !known[f.name] || !strings.Contains(help, "\n  --"+f.name) {
				t.Errorf("berth %s does not know --%s, or its help does not", c.name, f.name)
			}
		}
		if works := c.onStore != nil || c.onFiles != nil || c.asClient != nil; works != strings.Contains(help, "\n  --data DIR") && c.name != "serve" && c.name != "install" {
			t.Errorf("berth help %s speaks of --data, or does not:\n%s", c.name, help)
		}
		_, example, _ := strings.Cut(help, "\nExample")
		if !strings.Contains(example, "berth "+c.name) {
			t.Errorf("berth help %s has no example:\n%s", c.name, help)
		}
	}
	flags := helpOf(t, "flags")
	if flags != helpOf(t, "serve") {
		t.Error("berth help flags is not what berth help serve prints")
	}
	newFlags("serve", &config{}, &textFlags{}).VisitAll(func(f *flag.Flag) {
		if !strings.Contains(flags, "\n  --"+f.Name) {
			t.Errorf("--%s is not in berth help flags", f.Name)
		}
	})
}

// Help is to be had whatever else is wrong; for what is no command there is none.
func TestHelpComesFirst(t *testing.T) {
	t.Parallel()
	wrong := environment{"BERTH_READ_ONLY=perhaps"}
	for _, args := range []string{"help", "-h", "help gc", "gc -h", "token create -h", "user --help", "version", "--version", "-version", "completion bash"} {
		var out strings.Builder
		if err := run(t.Context(), strings.Fields(args), wrong, strings.NewReader(""), &out, io.Discard); err != nil || out.Len() == 0 {
			t.Errorf("BERTH_READ_ONLY=perhaps berth %s: %v, and it prints %q", args, err, out.String())
		}
	}
	for args, want := range map[string]string{
		"help nonsense": `unknown command "nonsense"`, "nonsense -h": `unknown command "nonsense"`,
		"help user nonsense": `berth user has no "nonsense"`, "completion": "name a shell: bash, fish, zsh", "completion tcsh": `none for "tcsh"`,
	} {
		if out, err := runOnce(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("berth %s: %v, want %s\n%s", args, err, want, out)
		}
	}
	for _, args := range []string{"version", "--version", "-version"} {
		if out, err := runOnce(t, args); err != nil || !strings.HasPrefix(out, "berth "+buildVersion()+"\n") {
			t.Errorf("berth %s: %q, %v", args, out, err)
		}
	}
}

// docs/reference.md is made from the tables, from its heading Flags on.
func TestReferenceIsMadeFromTheTables(t *testing.T) {
	t.Parallel()
	const page = "docs/reference.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin = "\n## Flags\n"
	head, _, found := strings.Cut(string(text), begin)
	if !found {
		t.Fatalf("%s has no heading Flags", page)
	}
	want := head + begin + referencePage()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(text) != want {
		t.Errorf("%s is not what the tables say: go test -run '^%s$' . -update", page, t.Name())
	}
}

// referencePage is what docs/reference.md has of the tables.
func referencePage() string {
	var b strings.Builder
	for _, group := range serverFlags {
		fmt.Fprintf(&b, "\n### %s\n\n| flag | default | |\n|---|---|---|\n", group.heading)
		for _, f := range group.flags {
			f.row(&b, "")
		}
	}
	b.WriteString("\n## Commands\n")
	var below strings.Builder // of the table, what is said of several of its rows
	for _, c := range commands {
		if c.heading != "" {
			fmt.Fprintf(&b, "%s\n### %s\n\n| command | |\n|---|---|\n", below.String(), c.heading)
			below.Reset()
		}
		forms := c.forms
		switch {
		case forms == nil:
			forms = []form{{c.synopsis, strings.TrimSuffix(strings.TrimSuffix(c.about+". "+c.more, " "), ".")}}
		case c.more != "":
			fmt.Fprintf(&below, "\n`berth %s`: %s\n", c.name, c.more)
		}
		for _, x := range forms {
			fmt.Fprintf(&b, "| `%s` | %s |\n", inCell(strings.TrimSpace("berth "+c.name+" "+x.call)), inCell(x.about))
		}
	}
	b.WriteString(below.String() + "\n## Flags of commands\n\n| flag | commands | default | |\n|---|---|---|---|\n")
	var rows []flagDef              // each once, though several commands have it
	of := make(map[string][]string) // commands by flag and what it does there
	for _, c := range commands {
		for _, f := range c.flags {
			key := f.name + " " + f.about
			if of[key] == nil {
				rows = append(rows, f)
			}
			of[key] = append(of[key], "`"+c.name+"`")
		}
	}
	for _, f := range rows {
		f.row(&b, " "+strings.Join(of[f.name+" "+f.about], ", ")+" |")
	}
	return b.String()
}

// row writes a flag's row of a table; between is a cell after its name, if there is one.
func (f flagDef) row(b *strings.Builder, between string) {
	about, standard := f.usual()
	if f.value == "" {
		standard = "off"
	}
	if standard != "" {
		standard += " "
	}
	about = strings.ReplaceAll(about, "\n", ". ")
	fmt.Fprintf(b, "| `%s` |%s %s| %s |\n", inCell(strings.TrimSpace("--"+f.name+" "+f.value)), between, inCell(standard), inCell(about))
}

// inCell is a text in a table of a page.
func inCell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
