// Scripts of completion, tried with the shells that they are for.

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// A typed is a command line that ends where Tab is pressed, and some of what must then be offered
// and what must not.
type typedLine struct {
	line      string
	want, not []string
}

var typedLines = []typedLine{
	{"berth ", []string{"ls", "serve", "help", "restore"}, []string{"flags", "add"}},
	{"berth st", []string{"stats"}, []string{"serve"}},
	{"berth --tls", []string{"--tls", "--tls-name"}, []string{"--data", "--json"}},
	{"berth --tls ", []string{"auto", "acme", "off"}, []string{"ls"}},
	{"berth serve --log-format j", []string{"json"}, []string{"text"}},
	{"berth user ", []string{"add", "passwd", "remove", "list"}, []string{"create"}},
	{"berth token c", []string{"create"}, []string{"list"}},
	{"berth token create ci --", []string{"--repo", "--allow", "--data", "--help"}, []string{"--tls", "--deep"}},
	{"berth gc --", []string{"--now", "--dry-run", "--grace", "--data"}, []string{"--tls", "--deep"}},
	{"berth help ", []string{"gc", "flags"}, nil},
	{"berth completion ", []string{"bash", "zsh", "fish"}, nil},
	{"berth ls --data berth.d", []string{"berth.dir"}, []string{"berth.file"}},
	{"berth --htpasswd berth.f", []string{"berth.file"}, nil},
	{"berth backup berth.", []string{"berth.dir"}, []string{"berth.file"}},
}

// check compares what a shell offers.
func (x typedLine) check(t *testing.T, offered string) {
	t.Helper()
	list := make([]string, 0)
	for line := range strings.Lines(offered) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t") // fish adds a description
		list = append(list, strings.TrimRight(word, "/= "))
	}
	for _, word := range x.want {
		if !slices.Contains(list, word) {
			t.Errorf("%q: %s is not offered, only %q", x.line, word, list)
		}
	}
	for _, word := range x.not {
		if slices.Contains(list, word) {
			t.Errorf("%q: %s is offered, in %q", x.line, word, list)
		}
	}
}

// inShell runs a script of a shell, beside the file of completion and things to complete.
func inShell(t *testing.T, shell string, args ...string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		notHere(t, unixShells)
	}
	program, err := exec.LookPath(shell)
	if err != nil {
		skip(t, "there is no "+shell)
	}
	dir := t.TempDir()
	script, err := runOnce(t, "completion", shell)
	for name, text := range map[string]string{"completion": script, "berth.file": ""} {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
		}
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "berth.dir"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "TERM=dumb")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %.300q: %v\n%s", shell, args, err, out)
	}
	return string(out)
}

// bashTab is bash pressing Tab behind $1: it cuts the line into words as readline does, calls
// what complete -p has for berth, and adds the files that compopt has asked for.
const bashTab = `set -u
. ./completion
spec=$(complete -p berth)
[ "$spec" = 'complete -F _berth berth' ] || exit 1
compopt() { files=$2; }
line=$1 files=
COMP_WORDS=() word=
while IFS= read -r -d '' -n 1 c; do
	case $c in
	' ') [ -z "$word" ] || COMP_WORDS+=("$word"); word= ;;
	=) [ -z "$word" ] || COMP_WORDS+=("$word"); COMP_WORDS+=("="); word= ;;
	*) word+=$c ;;
	esac
done < <(printf %s "$line")
case $line in
*=) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) ;;
*) COMP_WORDS+=("$word"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) ;;
esac
_berth berth "$word" ""
[ ${#COMPREPLY[@]} = 0 ] || printf '%s\n' "${COMPREPLY[@]}"
case $files in
default) compgen -f -- "$word" ;;
dirnames) compgen -d -- "$word" ;;
esac
exit 0
`

func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	lines := append(slices.Clone(typedLines),
		typedLine{"berth --tls=", []string{"auto", "acme", "off"}, []string{"ls"}},
		typedLine{"berth --tls=a", []string{"auto", "acme"}, []string{"off"}},
		typedLine{"berth ls --data=berth.d", []string{"berth.dir"}, []string{"berth.file"}},
		typedLine{"berth ls ", nil, []string{"ls", "berth.file", "--json"}},
		typedLine{"berth 'x;y $(z", nil, []string{"ls"}})
	for _, x := range lines {
		x.check(t, inShell(t, "bash", "--norc", "-c", bashTab, "bash", x.line))
	}
}

func TestCompletionInFish(t *testing.T) {
	t.Parallel()
	inShell(t, "fish", "--no-execute", "completion")
	lines := append(slices.Clone(typedLines), typedLine{"berth ls ", nil, []string{"ls", "berth.file", "--json"}},
		typedLine{"berth --tls=a", []string{"--tls=auto", "--tls=acme"}, []string{"--tls=off"}})
	for _, x := range lines {
		x.check(t, inShell(t, "fish", "--no-config", "--command", "source completion; complete --do-complete "+fishQuoted(x.line)))
	}
}

// zshTabs is zsh, on a terminal, listing what there is behind each argument, and a mark.
const zshTabs = `zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1= PS2= LISTMAX=1000 TERM=dumb; unset zle_bracketed_paste; unsetopt prompt_sp; stty cols 200
autoload -U compinit && compinit -u -D && source ./completion
mark() { print -r "mar""ked"; }; zle -N mark; bindkey "^T" list-choices; bindkey "^P" mark; print rea''dy'
zpty -r shell text '*ready*'
for line; do
	zpty -w -n shell "$line"$'\x14\x10\x15' # ^T, ^P, and ^U to begin again
	zpty -r shell text '*marked*'
	print -r -- $text
done
zpty -d shell
`

func TestCompletionInZsh(t *testing.T) {
	t.Parallel()
	if got := inShell(t, "zsh", "-f", "-c", `compdef() { print $@ }; source ./completion`); got != "_berth berth\n" {
		t.Errorf("zsh completes %q", got)
	}
	slow(t) // zsh reads its own completion
	lines := append(slices.Clone(typedLines), typedLine{"berth --tls=a", []string{"auto", "acme"}, []string{"off"}},
		typedLine{"berth ls --data=berth.d", []string{"berth.dir"}, []string{"berth.file"}})
	args := []string{"-f", "-c", zshTabs, "zsh"}
	for _, x := range lines {
		args = append(args, x.line)
	}
	shown := strings.Split(inShell(t, "zsh", args...), "marked")
	if len(shown) != len(lines)+1 {
		t.Fatalf("zsh has shown %d lists, want %d: %q", len(shown)-1, len(lines), shown)
	}
	for i, x := range lines {
		// The line that was typed, the words under it, each with a description or several in a row,
		// and the line again.
		_, list, _ := strings.Cut(shown[i], x.line)
		list = strings.TrimSuffix(list, x.line)
		var words []string
		for line := range strings.Lines(list) {
			line, _, _ = strings.Cut(line, " -- ")
			words = append(words, strings.Fields(line)...)
		}
		x.check(t, strings.Join(words, "\n"))
	}
}
