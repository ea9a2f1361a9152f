// No query looks at all there is.
//
// Every SQL text in the program is found in its source, as the constant that it
// is or is put together from, and SQLite is asked how it would run it on the real
// schema. What goes through a whole table must stand in a list with its reason.
// As in production, ANALYZE has not been run: so plans do not depend on what is
// stored. Plans leave triggers out, so their statements are taken from the schema
// and asked about too.

package main

import (
	"database/sql"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A programQuery is an SQL text of the program.
type programQuery struct {
	text string
	in   string // the function, as "collect" or "collector.collect"; of a constant its name
	at   token.Position
}

var startsQuery = regexp.MustCompile(`^\s*(SELECT |INSERT (OR \w+ )?INTO |UPDATE (OR \w+ )?\w+ SET |UPDATE \w+ SET|DELETE FROM |REPLACE INTO |WITH (RECURSIVE )?\w+ )`)

// queriesOf returns every SQL text in the package's source but the tests'. It is an
// error if one is put together from what is not constant, but for calls of functions
// that return constants: then all there can be are returned.
func queriesOf(t *testing.T) []programQuery {
	t.Helper()
	fset := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File // of all systems; what they declare twice does no harm here
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	// What is imported is not needed to know the package's strings.
	info := &types.Info{Types: make(map[ast.Expr]types.TypeAndValue), Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object)}
	config := types.Config{Importer: noImports{}, Error: func(error) {}}
	config.Check("main", fset, files, info)

	functions := make(map[types.Object]*ast.FuncDecl)
	for _, file := range files {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				functions[info.Defs[f.Name]] = f
			}
		}
	}
	// values returns what an expression may be.
	var values func(ast.Expr) ([]string, error)
	values = func(e ast.Expr) ([]string, error) {
		if v := info.Types[e].Value; v != nil && v.Kind() == constant.String {
			return []string{constant.StringVal(v)}, nil
		}
		switch e := e.(type) {
		case *ast.ParenExpr:
			return values(e.X)
		case *ast.BinaryExpr:
			left, err := values(e.X)
			if err != nil {
				return nil, err
			}
			right, err := values(e.Y)
			if err != nil {
				return nil, err
			}
			var all []string
			for i := range max(len(left), len(right)) {
				// Functions that may return several ask the same: they go together.
				all = append(all, left[min(i, len(left)-1)]+right[min(i, len(right)-1)])
			}
			return all, nil
		case *ast.CallExpr:
			name, ok := e.Fun.(*ast.Ident)
			if selector, is := e.Fun.(*ast.SelectorExpr); is {
				name, ok = selector.Sel, true
			}
			if !ok || functions[info.Uses[name]] == nil {
				break
			}
			var all []string
			var failed error
			ast.Inspect(functions[info.Uses[name]].Body, func(n ast.Node) bool {
				if r, ok := n.(*ast.ReturnStmt); ok {
					some, err := values(r.Results[0])
					all = append(all, some...)
					if err != nil {
						failed = err
					}
				}
				return true
			})
			return all, failed
		}
		return nil, fmt.Errorf("%s: not constant", fset.Position(e.Pos()))
	}
	var all []programQuery
	for _, file := range files {
		for _, d := range file.Decls {
			in := ""
			switch d := d.(type) {
			case *ast.FuncDecl:
				in = d.Name.Name
				if d.Recv != nil {
					in = strings.TrimPrefix(types.ExprString(d.Recv.List[0].Type), "*") + "." + in
				}
			case *ast.GenDecl:
				if spec, ok := d.Specs[0].(*ast.ValueSpec); ok {
					in = spec.Names[0].Name
				}
			}
			ast.Inspect(d, func(n ast.Node) bool {
				e, ok := n.(ast.Expr)
				if !ok || !startsQuery.MatchString(beginning(info, e)) {
					return true
				}
				if _, ok := e.(*ast.Ident); ok {
					return true // a constant is looked at where it stands
				}
				texts, err := values(e)
				if err != nil && otherDatabases[in] {
					return false
				}
				if err != nil {
					t.Errorf("%s: an SQL text that is not put together from constants: %v", fset.Position(e.Pos()), err)
				}
				for _, text := range texts {
					for statement := range strings.SplitSeq(text, ";") {
						if startsQuery.MatchString(statement) {
							all = append(all, programQuery{statement, in, fset.Position(e.Pos())})
						}
					}
				}
				return false
			})
		}
	}
	return all
}

// beginning is how the string of an expression begins, as far as that is constant.
func beginning(info *types.Info, e ast.Expr) string {
	if v := info.Types[e].Value; v != nil {
		if v.Kind() == constant.String {
			return constant.StringVal(v)
		}
		return ""
	}
	if sum, ok := e.(*ast.BinaryExpr); ok && sum.Op == token.ADD {
		return beginning(info, sum.X)
	}
	return ""
}

// noImports gives the type checker empty packages.
type noImports struct{}

func (noImports) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, path[strings.LastIndex(path, "/")+1:])
	p.MarkComplete()
	return p, nil
}

// otherDatabases are the functions that read those of other versions, or damaged
// ones, in pieces of which the names are put together.
var otherDatabases = map[string]bool{"readRows": true, "restorer.salvageTags": true}

// An allowed step is one that looks at more than it is asked for: through a whole
// table or a whole repository, or one that sorts. "" is any.
type allowedStep struct{ in, step, why string }

const (
	whole      = "checks or copies everything, when a person or a scrub says so"
	once       = "once at start, or when a person says so"
	first      = "no further than the first"
	collecting = "in the background, in proportion to what goes"
	wanted     = "all of it is what was asked for"
)

// allowedSteps are those that may be, by function.
var allowedSteps = []allowedStep{
	{"recount", "", whole},
	{"report.checkManifests", "", whole},
	{"report.checkTags", "", whole},
	{"report.checkLoose", "", whole},
	{"report.checkNames", "", whole},
	{"report.checkCounts", "", whole},
	{"report.checkDamaged", "", whole},
	{"report.checkUploads", "", whole},
	{"verifyDatabase", "", whole},
	{"restorer.sayRestored", "", once},
	{"store.countRepositories", "", once},
	{"restorer.dropGone", "", once},
	{"database.recognise", "SCAN sqlite_master", "as many rows as there are tables"},
	{"listRobots", "SCAN token", once + "; as many rows as a person has made tokens"},
	{"robots.addOwned", "SCAN token", wanted + "; at most maxPersonal rows, and those that a person has made"},
	{"unsyncedRows", "", once + "; at most what may be unsynced"},
	{"uploads.sweep", "SCAN upload", once + "; at most --max-uploads rows"},

	{"statistics.figuresOr", "SCAN r", "one row for a repository, to sum up the counts"},
	{"statistics.figuresOr", "SEARCH m USING INDEX sqlite_autoindex_manifest_1 (repository=?)", "of a repository without tags, up to the first manifest that is not deleted"},
	{"readPartly", "SCAN manifest", "a restore reads all of them"},
	{"statistics.figuresOr", "SCAN upload", "at most --max-uploads rows"},
	{"uploads.list", "SCAN u USING INDEX upload_used", wanted},
	{"statistics.eachRepository", "SCAN repository USING INDEX sqlite_autoindex_repository_1", wanted},
	{"store.listAll", "", wanted},
	{"store.listTagsOf", "SEARCH t USING PRIMARY KEY (repository=?)", wanted},
	{"planner.trash", "SCAN trash", "only what is being removed is in it"},
	{"planner.repositories", "SEARCH m USING INDEX sqlite_autoindex_manifest_1 (repository=?)", "of deleted repositories, all of which would go"},

	{"eventQueue.load", "SCAN event", once + "; at most maxQueued rows for each endpoint"},
	{"tx.announceTags", "SEARCH t USING PRIMARY KEY (repository=?)", "a whole repository comes back, and somebody listens"},

	{"retainer.retain", "SCAN repository USING INDEX sqlite_autoindex_repository_1", "once an hour at most, if there are rules"},
	{"retainer.explainRetention", "SCAN repository USING INDEX sqlite_autoindex_repository_1", wanted},
	{"retainer.judgeIn", "SEARCH t USING PRIMARY KEY (repository=?)", "rules are about all tags of a repository"},
	{"tx.immutableIn", "SEARCH tag USING PRIMARY KEY (repository=?)", "before a repository is deleted, if there are rules"},
	{"collector.emptyRepositories", "SEARCH m USING COVERING INDEX sqlite_autoindex_manifest_1 (repository=?)", collecting},

	{"store.listRepositories", "SEARCH m USING INDEX sqlite_autoindex_manifest_1 (repository=?)", first + " that is not deleted, of repositories without tags"},
	{"pruner.forgetHistory", "SCAN history", first},
	{"pruner.forgetOldest", "SCAN history", "the first forgetAtOnce"},
	{"pruner.forgetMost", "SCAN history USING COVERING INDEX history_name", "in the background, once in maxHistory/100 changes"},
	{"pruner.forgetMost", "SEARCH history USING COVERING INDEX history_name (repository=?)", collecting + "; keys only"},
	{"pruner.forgetMost", "USE TEMP B-TREE FOR ORDER BY", "likewise"},
	{"tx.makeRepository", "", "foreign keys, of a new row: only if one is violated"},
	{"tx.dropRepository", "", first},
	{"undoing.makeFree", "", "a repository that has blobs of unfinished pushes only"},
	{"undoing.repository", "", "a whole repository comes back, or goes"},
	{"store.history", "SEARCH history USING COVERING INDEX history_name (repository=?)", "keys only, of one repository"},
	{"store.history", "USE TEMP B-TREE FOR ORDER BY", "likewise"},
	{"store.lastChangeOf", "SEARCH history USING COVERING INDEX history_name (repository=?)", "keys only, of one repository"},
	{"store.lastChangeOf", "USE TEMP B-TREE FOR ORDER BY", "likewise"},
	{"pushing.members", "USE TEMP B-TREE FOR ORDER BY", "the members of one index"},
	{"missingReferences", "USE TEMP B-TREE FOR ORDER BY", "what one manifest refers to"},
	{"planner.follow", "USE TEMP B-TREE FOR ORDER BY", "the blobs of one manifest"},
}

var (
	place = regexp.MustCompile(`\?(\d*)`)
	rowOf = regexp.MustCompile(`\b(NEW|OLD)\.\w+`)
	// wholeStep is one of those that must be allowed, and shortStep one that never
	// looks at much: a table of one row, what the query itself has brought.
	wholeStep = regexp.MustCompile(`^(SCAN|USE TEMP B-TREE|SEARCH \w+ USING (COVERING )?(INDEX \w+|PRIMARY KEY) \(repository=\?\))|AUTOMATIC`)
	shortStep = regexp.MustCompile(`^SCAN (CONSTANT ROW|meta|total|part|found|\(subquery-\d+\)|(json_each|pragma_\w+) VIRTUAL TABLE.*)$`)
	byPartial = regexp.MustCompile(` USING (?:COVERING )?INDEX (\w+)`)
)

func TestPlans(t *testing.T) {
	slow(t)
	t.Parallel()
	f := fillScale(t, t.TempDir(), smallScale)
	db, err := sql.Open("sqlite", dsnOf(filepath.Join(f.dir, "berth.db"), url.Values{"mode": {"ro"}}, "foreign_keys(1)"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	queries := append(queriesOf(t), triggerQueries(t, db)...)
	// Scans of these look only at what is loose, damaged or deleted.
	partial := make(map[string]bool)
	for _, name := range rowsOf(t, db, `SELECT name FROM sqlite_schema WHERE type = 'index' AND sql LIKE '%WHERE%' AND name <> 'manifest_subject'`) {
		partial[name] = true
	}
	used := make([]bool, len(allowedSteps))
	for _, q := range queries {
		plan, err := planOf(db, q.text)
		if err != nil {
			t.Errorf("%s: in %s: %v\n%s", q.at, q.in, err, q.text)
			continue
		}
		for _, step := range plan {
			if !wholeStep.MatchString(step) || shortStep.MatchString(step) {
				continue
			}
			if m := byPartial.FindStringSubmatch(step); m != nil && partial[m[1]] {
				continue
			}
			i := slices.IndexFunc(allowedSteps, func(a allowedStep) bool { return a.in == q.in && (a.step == step || a.step == "") })
			if i < 0 {
				t.Errorf("%s: %s: %s\n%s", q.at, q.in, step, q.text)
				continue
			}
			used[i] = true
		}
		// Untagged manifests that are kept for ever are loose too.
		if strings.Contains(q.text, "AND m.deleted IS NOT NULL") && strings.Contains(q.text, "loose") &&
			!slices.ContainsFunc(plan, func(step string) bool { return strings.Contains(step, "manifest_deleted") }) {
			t.Errorf("%s: %s: goes through all that is loose: %v\n%s", q.at, q.in, plan, q.text)
		}
	}
	for i, u := range used {
		if !u {
			t.Errorf("%+v: there is no such step any more", allowedSteps[i])
		}
	}
	t.Logf("%d queries", len(queries))
}

// A session that does a bit of everything prepares no query that the source does not
// show.
func TestPlansKnowAllQueries(t *testing.T) {
	t.Parallel()
	known := make(map[string]bool)
	for _, q := range queriesOf(t) {
		known[q.text] = true
	}
	r := startRegistry(t, ruled(fromSameTagRule+"[[retain]]\nrepositories = [\"**\"]\nnewest = 1\n"))
	im := r.pushImage("a", "1", "{}", "layer")
	r.pushFor("a", "1", "linux/amd64", "x")
	r.pushFor("a", "1", "linux/arm64", "x")
	r.pushImage("a", "2", "{}", "layer")
	signature := newImage(typeOCIManifest, "x/config", "x/layer", `,"subject":`+descriptorJSON(typeOCIManifest, im.manifest), "{}")
	r.want(201, "PUT", "/v2/a/manifests/"+signature.digest.String(), signature.manifest, "Content-Type: "+typeOCIManifest)
	r.want(201, "POST", "/v2/b/blobs/uploads/?from=a&mount="+im.config.String(), nil)
	r.want(202, "POST", "/v2/b/blobs/uploads/", nil)
	for _, path := range []string{"/v2/a/manifests/1", "/v2/a/manifests/" + im.digest.String(), "/v2/a/blobs/" + im.config.String(),
		"/v2/a/tags/list", "/v2/_catalog", "/v2/a/referrers/" + im.digest.String(), "/v2/a/_berth/history", "/v2/a/_berth/history?tag=1",
		"/v2/a/_berth/retention", "/metrics", "/readyz"} {
		r.want(200, "GET", path, nil)
	}
	r.want(202, "DELETE", "/v2/a/manifests/2", nil)
	r.want(202, "DELETE", "/v2/a/manifests/"+signature.digest.String(), nil)
	r.want(202, "DELETE", "/v2/b/blobs/"+im.config.String(), nil)
	r.want(202, "DELETE", "/v2/a/_berth/repository", nil)
	st := r.st
	last, _, err := st.lastChangeOf("a", reference{})
	if err == nil {
		_, _, err = st.undo(last.change, "", "", author{overwrite: true})
	}
	if err != nil {
		t.Error(err)
	}
	r.pass(30 * 24 * time.Hour)
	if _, _, err := st.retainer.retain(t.Context(), ""); err != nil {
		t.Error(err)
	}
	r.stop()
	prepared := 0
	look := func(text string) {
		if startsQuery.MatchString(text) {
			prepared++
			if !known[text] {
				t.Errorf("not found in the source: %s", text)
			}
		}
	}
	for _, statements := range []*statements{&st.reads, &st.writer.stmts} {
		statements.of.Range(func(text, _ any) bool { look(text.(string)); return true })
	}
	if prepared < 60 {
		t.Errorf("only %d queries were prepared: little was tested", prepared)
	}
	t.Logf("%d of %d queries", prepared, len(known))
}

// rowsOf returns the one column of a query.
func rowsOf(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	list, err := collectRows(rows, scanOne[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// planOf returns the steps by which SQLite would run a query.
func planOf(db *sql.DB, query string) ([]string, error) {
	args := 0
	for i, m := range place.FindAllStringSubmatch(query, -1) {
		if n, err := strconv.Atoi(m[1]); err == nil {
			args = max(args, n)
		} else {
			args = max(args, i+1)
		}
	}
	rows, err := db.Query("EXPLAIN QUERY PLAN "+query, make([]any, args)...)
	if err != nil {
		return nil, err
	}
	return collectRows(rows, func(rows *sql.Rows) (step string, err error) {
		var id, parent, unused int
		err = rows.Scan(&id, &parent, &unused, &step)
		return step, err
	})
}

// triggerQueries are the statements of triggers, with places for what a row brings.
func triggerQueries(t *testing.T, db *sql.DB) (all []programQuery) {
	t.Helper()
	rows, err := db.Query(`SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'`)
	if err != nil {
		t.Fatal(err)
	}
	triggers, err := collectRows(rows, func(rows *sql.Rows) (x [2]string, err error) {
		err = rows.Scan(&x[0], &x[1])
		return x, err
	})
	if err != nil {
		t.Fatal(err)
	}
	comment := regexp.MustCompile(`--.*`)
	for _, x := range triggers {
		_, body, _ := strings.Cut(comment.ReplaceAllString(x[1], ""), "BEGIN")
		for statement := range strings.SplitSeq(strings.TrimSuffix(strings.TrimSpace(body), "END"), ";") {
			if statement = strings.TrimSpace(statement); statement != "" {
				all = append(all, programQuery{text: rowOf.ReplaceAllString(statement, "?"), in: "trigger " + x[0]})
			}
		}
	}
	if len(all) < len(triggers) || len(triggers) == 0 {
		t.Fatalf("%d statements of %d triggers", len(all), len(triggers))
	}
	return all
}
