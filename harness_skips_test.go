// Which tests may be left out, and how that is said.

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// skip leaves a test out for something that the machine could have: a program, root, room.
// In CI, where nobody would notice, the test fails.
func skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("this test must not be skipped here: %s", reason)
	}
	t.Skipf("SKIPPED, and what it tests is not tested: %s", reason)
}

// An elsewhere is a reason that no machine of this kind can do anything about. The test
// runs somewhere else: in CI too it is skipped.
type elsewhere string

const (
	raceDies      elsewhere = "the race detector dies of what this is about; the tests without it run it"
	linuxLoopback elsewhere = "only Linux has more than one loopback address"
	linuxAbstract elsewhere = "only Linux has abstract sockets"
	linuxMounts   elsewhere = "a disk is mounted, which the tests do on Linux only"
	linuxProc     elsewhere = "a process's figures are read from /proc, which is Linux's"
	linuxSockets  elsewhere = "only on Linux a socket can be in a directory with a long path"
	unixShells    elsewhere = "it is for shells, which Windows does not have"
)

// notHere leaves a test out on a system that cannot run it.
func notHere(t testing.TB, why elsewhere) {
	t.Helper()
	t.Skip(string(why))
}

// slow leaves a test out under -short: stress, scale, crashes, random lives, and whatever else
// takes more than about a second of a processor, or four of waiting for disks.
func slow(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes long")
	}
}

// Only these functions skip, each with a reason that can be left to it.
var skippers = map[string][]string{
	"harness_skips_test.go":     {"skip", "notHere", "slow"},
	"bench_scale_test.go":       {"BenchmarkHuge"}, // of a size that has to be asked for
	"e2e/clients_test.go":       {"missing"},
	"e2e/newest_test.go":        {"needNewest"}, // clients that have to be asked for
	"e2e/powercut_test.go":      {"newVictim"},  // where the kernel has no FUSE
	"e2e/systemd_linux_test.go": {"boot"},       // where no machine can be booted, as in some containers
	"e2e/lossyfs/disk_test.go":  {"TestCutLosesWhatWasNotSynced"},
	"e2e/bench/main_test.go":    {"TestQuickRunFillsEveryRow"}, // where there is no /proc
}

// No test is skipped without anybody noticing: they all go by the functions that see to it.
func TestSkipsAreNoticed(t *testing.T) {
	t.Parallel()
	found := make(map[string][]string)
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		path = filepath.ToSlash(path)
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			name := ""
			if f, ok := d.(*ast.FuncDecl); ok {
				name = f.Name.Name
			}
			ast.Inspect(d, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow", "Short"}, s.Sel.Name) {
					if !slices.Contains(skippers[path], name) {
						t.Errorf("%s: %s is for skip, notHere and slow to call", set.Position(s.Pos()), s.Sel.Name)
					}
					found[path] = append(found[path], name)
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, names := range skippers {
		for _, name := range names {
			if !slices.Contains(found[path], name) {
				t.Errorf("%s: %s does not skip any more, and need not be listed", path, name)
			}
		}
	}
}
