// Which tests run beside each other: all but those that say why not.
//
// Most of a test's time is waiting, for a disk or for another goroutine, so more of them run at
// once than there are processors. None may depend on being fast, or on running alone: what one
// measures of the whole process, or changes for it, others would spoil.

package main

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// alone keeps a test from running beside others. why says what of theirs would spoil it, or
// what of its own would spoil them.
func alone(t testing.TB, why string) {
	t.Helper()
	t.Setenv("TEST_RUNS_ALONE", why) // panics in a parallel test
}

// runBeside sets how many tests run at once, unless the command line does.
func runBeside() {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0)))
	}
}

// One slow test that runs alone makes everybody wait, so each says that it must.
func TestTestsRunBesideEachOther(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") && f.Name.Name != "TestMain" && !saysBeside(f) {
				t.Errorf("%s: %s calls neither t.Parallel() nor alone(t, why)", set.Position(f.Pos()), f.Name.Name)
			}
		}
	}
}

// saysBeside reports whether a test, and not only its subtests, says how it runs.
func saysBeside(test *ast.FuncDecl) bool {
	for _, statement := range test.Body.List {
		e, ok := statement.(*ast.ExprStmt)
		if !ok {
			continue
		}
		call, ok := e.X.(*ast.CallExpr)
		if !ok {
			continue
		}
		switch f := call.Fun.(type) {
		case *ast.SelectorExpr:
			if f.Sel.Name == "Parallel" {
				return true
			}
		case *ast.Ident:
			if f.Name == "alone" {
				return true
			}
		}
	}
	return false
}
