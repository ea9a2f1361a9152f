// What a person is told when a command fails: what is wrong, with the name, and what to do.
//
// A usageError is about what was typed; the program ends with 2. All else that fails, and a
// question whose answer is no, ends it with 1. What the system says of files and connections,
// and what clients are told by codes, is put into words here, once for all commands.

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// A usageError says that something was mistyped. Nothing was done.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// asUsage makes err, if there is one, a usageError.
func asUsage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

func usageErrorf(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errLogged is the end of a server that has written why to its log.
var errLogged = errors.New("the log has it")

// errNo is the end of a command that has answered a question with no.
var errNo = errors.New("the answer is no")

// exitCode is what the program ends with, and whether a person still has to be told why.
func exitCode(err error) (code int, tell bool) {
	switch {
	case err == nil:
		return 0, false
	case errors.As(err, new(usageError)):
		code = 2
	default:
		code = 1
	}
	return code, !errors.Is(err, errLogged) && !errors.Is(err, errNo)
}

// A plainError is an error in other words.
type plainError struct {
	text string
	error
}

func (e plainError) Error() string { return e.text }
func (e plainError) Unwrap() error { return e.error }

// plainly puts an error into words for people; nil stays nil. errors.Is finds in it what
// was in err.
func plainly(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if said := inWords(err); said != "" {
		text = said
	}
	eachError(err, func(e error) {
		if said := e.Error(); said != "" {
			text = strings.ReplaceAll(text, said, withoutCalls(e))
		}
		if file, ok := e.(*fs.PathError); ok { // whose name has been put before it, too
			text = strings.ReplaceAll(text, file.Path+": "+file.Path+": ", file.Path+": ")
		}
	})
	if text == err.Error() {
		return err
	}
	return plainError{text, err}
}

// inWords says what a protocolError means to who gives a command; "" if its own message
// does, or err is none.
func inWords(err error) string {
	var e *protocolError
	if errors.As(err, new(plainError)) || !errors.As(err, &e) {
		return "" // or it would be said twice
	}
	detail, _ := e.detail.(map[string]string)
	name, ref := detail["name"], detail["reference"]
	said := ""
	switch {
	case errors.Is(e, errImmutable):
		said = e.Error() + "; --force does it anyway"
	case errors.Is(e, errNameUnknown) && name != "":
		said = fmt.Sprintf("there is no repository %s; `berth ls` lists them", name)
		if host, rest, more := strings.Cut(name, "/"); more && (host == "localhost" || strings.Contains(host, ".")) {
			said += fmt.Sprintf(". If %s is the host, leave it out: %s", host, rest)
		}
	case errors.Is(e, errCannotUndo) && detail["deletedBy"] != "":
		said = fmt.Sprintf("%s was deleted by change %s; to bring it back: berth undo %[2]s", name, detail["deletedBy"])
	case errors.Is(e, errDigestInvalid):
		said = fmt.Sprint(e.detail)
	case errors.Is(e, errManifestUnknown) && name != "" && strings.Contains(ref, ":"):
		said = fmt.Sprintf("%s has no image %s; `berth ls %[1]s` shows its tags", name, ref)
	case errors.Is(e, errManifestUnknown) && name != "" && ref != "":
		said = fmt.Sprintf("%s has no tag %s; `berth ls %[1]s` lists them", name, ref)
	default:
		return ""
	}
	return strings.ReplaceAll(err.Error(), e.Error(), said)
}

// eachError calls fn with err and all that it wraps, from the outside in.
func eachError(err error, fn func(error)) {
	if err == nil {
		return
	}
	fn(err)
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		eachError(e.Unwrap(), fn)
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			eachError(one, fn)
		}
	}
}

// withoutCalls is what an error says of the system, without the names of the calls that
// have failed; of any other error what it says.
func withoutCalls(err error) string {
	switch e := err.(type) {
	case *fs.PathError:
		return e.Path + ": " + systemSays(e.Err)
	case *os.LinkError:
		return e.New + ": " + systemSays(e.Err)
	case *os.SyscallError:
		return systemSays(e.Err)
	case *net.OpError:
		if e.Addr != nil {
			return e.Addr.String() + ": " + systemSays(e.Err)
		}
		return systemSays(e.Err)
	case *url.Error:
		return systemSays(e.Err)
	case syscall.Errno:
		return systemSays(e)
	case interface{ Code() int }: // of SQLite
		return sqliteCode().ReplaceAllString(err.Error(), "")
	}
	if err == context.Canceled {
		return "interrupted"
	}
	return err.Error()
}

// sqliteCode is the number with which errors of SQLite end.
var sqliteCode = expression(` \(\d+\)( \(SQLITE_BUSY\))?$`)

// systemSays is the cause of an error of the system.
func systemSays(err error) string {
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return "not a directory, or a file is on the way there"
	case errors.Is(err, syscall.EISDIR):
		return "a directory, where a file is wanted"
	case errors.Is(err, syscall.EROFS):
		return "the disk is read-only"
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full"
	}
	if inner := errors.Unwrap(err); inner != nil {
		return withoutCalls(err)
	}
	return err.Error()
}

// An absentError says that something is not in the registry, such as a user.
type absentError struct{ error }

func (e absentError) Unwrap() error { return e.error }

func absentErrorf(format string, args ...any) error { return absentError{fmt.Errorf(format, args...)} }

// withPlace adds to an error about what is not there in which registry it was looked for, where
// nobody has said which: it may be another than the one that was meant. nil stays nil.
func (o options) withPlace(err error) error {
	absent := errors.Is(err, errNameUnknown) || errors.Is(err, errManifestUnknown) || errors.Is(err, errChangeUnknown) || errors.As(err, new(absentError))
	if !absent || o.Usual == "" || o.JSON {
		return err
	}
	err = plainly(err)
	return plainError{fmt.Sprintf("%v (in the registry %s; --data or BERTH_DATA names another)", err, o.Usual), err}
}

// otherNames has the commands that go by another name in other programs.
var otherNames = map[string]string{"start": "serve", "run": "serve", "list": "ls", "images": "ls", "delete": "rm",
	"remove": "rm", "rmi": "rm", "history": "log", "garbage-collect": "gc", "prune": "gc", "fsck": "check", "du": "stats", "info": "stats"}

// notOurs has the commands that others have and Berth has not, with what to do instead.
var notOurs = map[string]string{
	"stop":    "stop the process, with ctrl-C where it runs or as the service that it is: sudo systemctl stop berth",
	"push":    "that is docker's: docker push HOST:PORT/NAME:TAG",
	"pull":    "that is docker's: docker pull HOST:PORT/NAME:TAG",
	"login":   "that is docker's: docker login HOST:PORT; `berth user add NAME` makes a user",
	"migrate": "docs/migrate.md shows how to move images here from registry:2 and others",
	"adopt":   "docs/migrate.md shows how to move images here from registry:2 and others",
	"config":  noConfiguration,
	"logout":  "that is docker's: docker logout HOST:PORT",
}

// noConfiguration is what a person is told who names a configuration file.
const noConfiguration = "there is no configuration file; flags and variables say all (see berth help serve), and docs/migrate.md has those for the keys of registry:2"

// unknownCommand is the error for a command that there is not.
func unknownCommand(name string) error {
	if instead, ok := notOurs[name]; ok {
		return usageErrorf("unknown command %q: %s", name, instead)
	}
	near, ok := otherNames[name]
	if !ok {
		var names []string
		for _, c := range commands {
			names = append(names, c.name)
		}
		near = similar(name, names)
	}
	if near != "" {
		return usageErrorf("unknown command %q: did you mean berth %s? (berth help lists all)", name, near)
	}
	return usageErrorf("unknown command %q (berth help lists all)", name)
}

// similar returns the one of words that was probably meant by what somebody typed; "" if
// none is near. A word counts as near with a letter in three wrong, missing, too many, or
// exchanged with the next.
func similar(typed string, words []string) string {
	best, least := "", 1+max(1, len(typed)/3)
	for _, word := range words {
		if d := distance(typed, word); d < least {
			best, least = word, d
		}
	}
	return best
}

// distance is how many letters must be changed, inserted, removed, or exchanged with the next
// one to turn a into b.
func distance(a, b string) int {
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			wrong := 1
			if a[i] == b[j] {
				wrong = 0
			}
			row[j+1] = min(above[j]+wrong, above[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
