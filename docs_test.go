// What comments and pages say of the source is so, as far as a machine can tell: the files
// that they name exist, and what they say of who uses what holds.

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestFilesThatAreNamedExist(t *testing.T) {
	t.Parallel()
	named := 0
	err := filepath.WalkDir(".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && name != "." && (strings.HasPrefix(e.Name(), ".") || e.Name() == "data" || e.Name() == "testdata"):
			return fs.SkipDir
		case e.IsDir():
			return nil
		}
		name = filepath.ToSlash(name)
		for _, x := range proseOf(t, name) {
			for _, file := range filesIn(x.text) {
				named++
				if !exists(filepath.FromSlash(file)) && !exists(filepath.FromSlash(path.Join(path.Dir(name), file))) {
					t.Errorf("%s:%d: there is no %s", name, x.line, file)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if named < 100 {
		t.Errorf("%d names of files found, want at least 100: where have they gone?", named)
	}
}

func TestFilesInTextsAreFound(t *testing.T) {
	t.Parallel()
	const text = "(gc.go), e2e/doc.go: `a_test.go`; not os_*.go, _test.go, https://example.org/x.go, go.mod, a.gob or .go"
	if got, want := strings.Join(filesIn(text), " "), "gc.go e2e/doc.go a_test.go"; got != want {
		t.Errorf("filesIn found %q, want %q", got, want)
	}
}

// The story of any other file stands apart from its package clause, or go doc would tell all.
func TestOnlyMainTellsOfThePackage(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if tells := f.Doc.Text() != ""; tells != (name == "main.go") {
			t.Errorf("%s has a package comment: %t", name, tells)
		}
	}
}

func TestArchitectureHasEveryFile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if !strings.HasSuffix(name, "_test.go") && !strings.Contains(string(text), "| `"+name+"` |") {
			t.Errorf("ARCHITECTURE.md has no line for %s", name)
		}
	}
}

// speakHTTP are the files that may import net/http: handlers, who may, TLS, commands and main, the endpoints of
// uploads, the audit lines that tell of a request, and what sends events.
var speakHTTP = regexp.MustCompile(`^((handlers|tls|cmd|client)(_\w+)?|auth|auth_docker|auth_browsers|auth_oidc|upload|upload_body|upload_turn|metrics|log|main|doctor_client|doctor_push|events_send)\.go$`)

// The store, its care and what takes part in its transactions return errors, and answer nobody.
func TestStoreKnowsNoHTTP(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	speak := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range f.Imports {
			if x.Path.Value != `"net/http"` {
				continue
			}
			if speak++; !speakHTTP.MatchString(name) {
				t.Errorf("%s imports net/http", name)
			}
		}
	}
	if speak < 10 {
		t.Errorf("%d files import net/http, want at least 10: where have they gone?", speak)
	}
}

// asksStore are the files of handlers and commands, which have what they need of the database from functions of the store.
var asksStore = regexp.MustCompile(`^((handlers|tls|cmd)(_\w+)?|upload|metrics|log|main)\.go$`)

func TestHandlersAndCommandsHaveNoSQL(t *testing.T) {
	t.Parallel()
	all := queriesOf(t)
	for _, q := range all {
		if asksStore.MatchString(filepath.Base(q.at.Filename)) {
			t.Errorf("%s: an SQL text in %s", q.at, q.in)
		}
	}
	if len(all) < 100 {
		t.Errorf("%d SQL texts found, want at least 100: where have they gone?", len(all))
	}
}

// inCode is a function or the like in a page: `commitBlob`, `collector.run`, `TestUpgrade`.
var inCode = regexp.MustCompile("`(?:([a-z]\\w*)\\.)?(\\w+)`")

// saysFunction is a name that is one for certain: no file, flag or column looks so.
var saysFunction = regexp.MustCompile(`^([a-z]+[A-Z]\w*|Test[A-Z]\w*)$`)

func TestFunctionsThatAreNamedExist(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	declared, members := declarations(t, files...)
	named := 0
	for _, page := range documents(t) {
		for _, x := range proseOf(t, page) {
			if strings.HasPrefix(x.text, "| `") {
				continue // the table of files: of each the story has more
			}
			for _, found := range inCode.FindAllStringSubmatch(x.text, -1) {
				of, name := found[1], found[2]
				switch {
				case name == "go" || name == "toml": // a file
				case members[of] != nil:
					named++
					if !members[of][name] {
						t.Errorf("%s:%d: %s has no %s", page, x.line, of, name)
					}
				case saysFunction.MatchString(name):
					named++
					if !declared[name] {
						t.Errorf("%s:%d: there is no %s", page, x.line, name)
					}
				}
			}
		}
	}
	if named < 50 {
		t.Errorf("%d names of functions found, want at least 50: where have they gone?", named)
	}
}

// saysWhere is a name, and in brackets or after in the file that has it.
var saysWhere = regexp.MustCompile("`(?:\\w+\\.)?(\\w+)`,? (?:\\(|in )`(\\w+\\.go)`")

// A name that stands before a file's is declared there.
func TestNamesAreInTheFilesThatAreNamed(t *testing.T) {
	t.Parallel()
	in := map[string]map[string]bool{}
	said := 0
	for _, page := range documents(t) {
		for _, x := range proseOf(t, page) {
			for _, found := range saysWhere.FindAllStringSubmatch(x.text, -1) {
				name, file := found[1], found[2]
				if name == "toml" {
					continue // a file
				}
				if in[file] == nil {
					in[file], _ = declarations(t, file)
				}
				if said++; !in[file][name] {
					t.Errorf("%s:%d: %s is not in %s", page, x.line, name, file)
				}
			}
		}
	}
	if said < 40 {
		t.Errorf("%d names with their files found, want at least 40: where have they gone?", said)
	}
}

// documents are those that speak of the source.
func documents(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 5 {
		t.Errorf("%d pages in docs, want at least 5: where have they gone?", len(list))
	}
	return append(list, "ARCHITECTURE.md", "CONTRIBUTING.md", "README.md")
}

// What several pages show is the same in each: the end-to-end tests run what one of them has.
func TestPagesShowTheSameProxy(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?s)\n```nginx\n.*?\n```\n")
	shown := func(page string) string {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		return block.FindString(string(text))
	}
	if a, b := shown("README.md"), shown("docs/deploy.md"); a == "" || a != b {
		t.Errorf("README.md has%s, docs/deploy.md has%s", a, b)
	}
}

// Links from page to page lead somewhere.
func TestLinksOfPagesLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	for _, page := range documents(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range link.FindAllStringSubmatch(string(text), -1) {
			file := page
			if x[1] != "" {
				file = path.Join(path.Dir(filepath.ToSlash(page)), x[1])
			}
			if target, err := os.ReadFile(file); err != nil {
				t.Errorf("%s: there is no %s", page, x[1])
			} else if x[2] != "" && !anchors(string(target))[x[2]] {
				t.Errorf("%s: %s has no heading for #%s", page, file, x[2])
			}
		}
	}
}

// anchors are what links to the headings of a page end with, as GitHub makes them.
func anchors(page string) map[string]bool {
	list := make(map[string]bool)
	for _, x := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		plain := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(x[1]), "")
		list[strings.ReplaceAll(plain, " ", "-")] = true
	}
	return list
}

// declarations returns all names that the source declares, and the fields and methods by type.
func declarations(t *testing.T, files ...string) (declared map[string]bool, members map[string]map[string]bool) {
	t.Helper()
	declared, members = map[string]bool{}, map[string]map[string]bool{}
	add := func(of, name string) {
		if declared[name] = true; of != "" && members[of] == nil {
			members[of] = map[string]bool{}
		}
		if of != "" {
			members[of][name] = true
		}
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				of := ""
				if n.Recv != nil {
					is := n.Recv.List[0].Type
					if star, ok := is.(*ast.StarExpr); ok {
						is = star.X
					}
					if ident, ok := is.(*ast.Ident); ok {
						of = ident.Name
					}
				}
				add(of, n.Name.Name)
			case *ast.TypeSpec:
				add("", n.Name.Name)
				if is, ok := n.Type.(*ast.StructType); ok {
					for _, field := range is.Fields.List {
						for _, x := range field.Names {
							add(n.Name.Name, x.Name)
						}
					}
				}
			case *ast.ValueSpec:
				for _, x := range n.Names {
					add("", x.Name)
				}
			}
			return true
		})
	}
	return declared, members
}

// A prose is a text for people, and the line that it begins at.
type prose struct {
	text string
	line int
}

// proseOf returns a Go file's comments, or a page's lines; nothing of any other file.
func proseOf(t *testing.T, name string) (list []prose) {
	t.Helper()
	switch path.Ext(name) {
	case ".md":
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			list = append(list, prose{line, i + 1})
		}
	case ".go":
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, group := range f.Comments {
			for _, c := range group.List {
				list = append(list, prose{c.Text, fset.Position(c.Pos()).Line})
			}
		}
	}
	return list
}

var goFile = regexp.MustCompile(`[\w./*…-]*\w\.go\b`)

// filesIn returns the names of Go files in a text, without patterns and addresses.
func filesIn(text string) (list []string) {
	for _, name := range goFile.FindAllString(text, -1) {
		if name[0] != '_' && name[0] != '.' && !strings.Contains(name, "//") && !strings.ContainsAny(name, "*…") {
			list = append(list, name)
		}
	}
	return list
}
