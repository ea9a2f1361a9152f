// `berth completion bash|zsh|fish`: scripts that complete command lines, made from the tables of
// commands and flags.
//
// They complete commands, the words that follow them, flags, and the values of flags that have
// few. Names of repositories are not among them: to look them up where no server runs would take
// the data directory's lock, and a server that starts at that moment would find it in use.

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// shells are those that completion is for, each with what writes the script.
var shells = map[string]func(io.Writer){"bash": completeBash, "zsh": completeZsh, "fish": completeFish}

// completionCommand is `berth completion SHELL`.
func completionCommand(_ context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	names := strings.Join(slices.Sorted(maps.Keys(shells)), ", ")
	if len(cfg.Args) == 0 {
		return fmt.Errorf("completion: name a shell: %s", names)
	}
	write := shells[cfg.Args[0]]
	if write == nil {
		return fmt.Errorf("completion: there is none for %q, only for %s", cfg.Args[0], names)
	}
	var b bytes.Buffer
	write(&b)
	_, err := stdout.Write(b.Bytes())
	return err
}

// words are what can follow a command's name: verbs, or for help all it explains.
func (c *command) words() []string {
	if c.name != "help" {
		return c.verbs()
	}
	list := []string{"flags"}
	for _, x := range commands {
		list = append(list, x.name)
	}
	return list
}

// takesFile and takesDir report whether a value, or an argument, is the name of one.
func takesFile(value string) bool { return value == "FILE" }
func takesDir(value string) bool  { return value == "DIR" || value == "DEST" }

// completeBash works from bash 3.2 on, which macOS has. Words from the tables are compared with
// what is typed, and nothing that is typed is evaluated.
func completeBash(w io.Writer) {
	fmt.Fprint(w, `# bash completion for berth. In ~/.bashrc: source <(berth completion bash)
_berth() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} name=${COMP_WORDS[1]} words= flags= IFS=$' \t\n'
	COMPREPLY=()
	# --tls=auto is three words to bash.
	if [ "$cur" = = ]; then
		cur=
	elif [ "$prev" = = ]; then
		prev=${COMP_WORDS[COMP_CWORD-2]}
	fi
	case $prev in
`)
	for _, f := range everyFlag() {
		switch {
		case f.value == "":
			continue
		case f.values() != nil:
			fmt.Fprintf(w, "\t--%s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n", f.name, strings.Join(f.values(), " "))
		case takesFile(f.value):
			fmt.Fprintf(w, "\t--%s) compopt -o default 2>/dev/null; return ;;\n", f.name)
		case takesDir(f.value):
			fmt.Fprintf(w, "\t--%s) compopt -o dirnames 2>/dev/null; return ;;\n", f.name)
		default:
			fmt.Fprintf(w, "\t--%s) return ;;\n", f.name)
		}
	}
	fmt.Fprint(w, "\tesac\n\tcase $name in\n\t-*) name=serve ;;\n\tesac\n\tcase $name in\n")
	for _, c := range commands {
		fmt.Fprintf(w, "\t%s) flags='%s'", c.name, strings.Join(c.flagNames(), " "))
		if words := c.words(); words != nil {
			fmt.Fprintf(w, "; [ $COMP_CWORD = 2 ] && words='%s'", strings.Join(words, " "))
		}
		if takesDir(c.synopsis) {
			fmt.Fprint(w, "; compopt -o dirnames 2>/dev/null")
		}
		fmt.Fprint(w, " ;;\n")
	}
	fmt.Fprintf(w, `	esac
	[ $COMP_CWORD = 1 ] && words='%s'
	case $cur in
	-*) words=$flags ;;
	esac
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _berth berth
`, strings.Join(findCommand("help").words()[1:], " "))
}

// completeZsh is for `source <(berth completion zsh)`, and for a file _berth in fpath.
func completeZsh(w io.Writer) {
	fmt.Fprint(w, `#compdef berth
# zsh completion for berth. In ~/.zshrc, after compinit: source <(berth completion zsh)
_berth() {
	local name=serve
	if [[ $words[2] != -* ]]; then
		if (( CURRENT == 2 )); then
			local -a list=(
`)
	for _, c := range commands {
		fmt.Fprintf(w, "\t\t\t\t%s\n", quoted(c.name+":"+plain(c.about)))
	}
	fmt.Fprint(w, `			)
			_describe command list
			return
		fi
		name=$words[2]
		shift words
		(( CURRENT-- ))
	fi
	case $name in
`)
	for _, c := range commands {
		fmt.Fprintf(w, "\t%s)\n\t\t_arguments", c.name)
		for _, f := range append(c.allFlags(), helpFlag) {
			about := strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`).Replace(plain(f.first()))
			spec := "--" + f.name + "[" + about + "]"
			switch {
			case f.values() != nil:
				spec = "--" + f.name + "=[" + about + "]:value:(" + strings.Join(f.values(), " ") + ")"
			case takesFile(f.value):
				spec = "--" + f.name + "=[" + about + "]:file:_files"
			case takesDir(f.value):
				spec = "--" + f.name + "=[" + about + "]:directory:_directories"
			case f.value != "":
				spec = "--" + f.name + "=[" + about + "]:" + strings.ToLower(strings.Trim(f.value, ",.")) + ": "
			}
			fmt.Fprintf(w, " \\\n\t\t\t%s", quoted(spec))
		}
		switch {
		case c.words() != nil:
			fmt.Fprintf(w, " \\\n\t\t\t%s", quoted("1:word:("+strings.Join(c.words(), " ")+")"))
		case takesDir(c.synopsis):
			fmt.Fprint(w, " \\\n\t\t\t'1:directory:_directories'")
		}
		fmt.Fprint(w, "\n\t\t;;\n")
	}
	fmt.Fprint(w, `	esac
}
if [[ $funcstack[1] = _berth ]]; then
	_berth "$@" # read from fpath, for the first time
else
	compdef _berth berth
fi
`)
}

// completeFish is for `berth completion fish | source`, and for a file in fish's completions.
func completeFish(w io.Writer) {
	fmt.Fprint(w, `# fish completion for berth. In ~/.config/fish/config.fish: berth completion fish | source
function __berth_in # whether the command is this one; without a command it is serve
	set -l typed (commandline -opc)
	set -l name serve
	if set -q typed[2]; and not string match -q -- '-*' $typed[2]
		set name $typed[2]
	end
	test $name = $argv[1]
end
function __berth_typed # how many words are complete, with berth
	test (count (commandline -opc)) = $argv[1]
end
complete -c berth -e
complete -c berth -f
`)
	for _, c := range commands {
		fmt.Fprintf(w, "complete -c berth -n '__berth_typed 1' -a %s -d %s\n", c.name, fishQuoted(plain(c.about)))
		if c.words() != nil {
			fmt.Fprintf(w, "complete -c berth -n '__berth_in %s; and __berth_typed 2' -a '%s'\n", c.name, strings.Join(c.words(), " "))
		}
		if takesDir(c.synopsis) {
			fmt.Fprintf(w, "complete -c berth -n '__berth_in %s; and __berth_typed 2' -a '(__fish_complete_directories)'\n", c.name)
		}
		for _, f := range append(c.allFlags(), helpFlag) {
			how := ""
			switch {
			case f.values() != nil:
				how = " -x -a '" + strings.Join(f.values(), " ") + "'"
			case takesFile(f.value):
				how = " -r -F"
			case takesDir(f.value):
				how = " -x -a '(__fish_complete_directories)'"
			case f.value != "":
				how = " -x"
			}
			fmt.Fprintf(w, "complete -c berth -n '__berth_in %s' -l %s%s -d %s\n", c.name, f.name, how, fishQuoted(plain(f.first())))
		}
	}
}

// helpFlag is understood by every command, and stands in no table.
var helpFlag = flagDef{name: "help", about: "show help"}

// flagNames are the flags that matter to a command, with their dashes.
func (c *command) flagNames() (list []string) {
	for _, f := range append(c.allFlags(), helpFlag) {
		list = append(list, "--"+f.name)
	}
	return list
}

// everyFlag returns each flag of any command once.
func everyFlag() (list []flagDef) {
	for _, c := range commands {
		for _, f := range c.allFlags() {
			if !slices.ContainsFunc(list, func(x flagDef) bool { return x.name == f.name }) {
				list = append(list, f)
			}
		}
	}
	return list
}

// quoted is a word for bash and zsh; fishQuoted is one for fish, to which a backslash in quotes
// means something.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
func fishQuoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
