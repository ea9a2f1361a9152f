package main

import (
	"database/sql"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ownFile reports whether a file is about SQLite itself: how it is opened, written and copied,
// and what comes out of it when it is damaged.
func ownFile(name string) bool {
	return name == "store_db.go" || name == "store_schema.go" || name == "store_commit.go" || strings.HasPrefix(name, "backup")
}

// dialect is what SQLite takes and other engines do not, or understand otherwise, and what to
// write instead.
var dialect = []struct {
	form    *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`(?i)\b(iif|ifnull|instr|printf|group_concat|total|glob|randomblob)\(`), "CASE WHEN, coalesce, string functions of the standard, or Go"},
	{regexp.MustCompile(`(?i)\bOR (IGNORE|REPLACE|ABORT|FAIL|ROLLBACK)\b|\bREPLACE INTO\b`), "ON CONFLICT"},
	{regexp.MustCompile(`(?i)\bINDEXED BY\b`), "a condition that leads to the index"},
	{regexp.MustCompile(`(?i)\b(rowid|oid|_rowid_)\b`), "the primary key"},
	{regexp.MustCompile(`(?i)\b(GLOB|REGEXP|MATCH)\b`), "LIKE"},
	{regexp.MustCompile(`(?i)\bIS (NOT )?(\?|\(|[a-z]\w*\.)`), "IS [NOT] DISTINCT FROM"},
	{regexp.MustCompile(`(?i)\b(max|min)\([^()]*(\([^()]*\)[^()]*)*,`), "CASE WHEN, or Go: of one argument it is the aggregate"},
	{regexp.MustCompile(`(?i)\b(sum|max|min)\((\w+\.)?\w+( (=|<>|<|>|<=|>=) | IS )`), "count(CASE WHEN … THEN 1 END)"},
	{regexp.MustCompile(`\bx'`), "''"},
	{regexp.MustCompile("\"|\\[\\w|`"), "names that need no quotes"},
	// A Boolean column or place that stands for itself: what is compared does not end so.
	{regexp.MustCompile(`(?i)\b(WHERE|AND|OR|NOT|WHEN|ON) \(*((\w+\.)?(made|met|sparse|stale|guarded|emptying)|\?\d*)( (AND|OR|THEN|GROUP|ORDER|LIMIT|JOIN)\b|\)|\s*$)`), "= 1 or = 0"},
	{regexp.MustCompile(`(?i)\bFROM \(SELECT [^()]*(\([^()]*(\([^()]*\)[^()]*)*\)[^()]*)*\)( WHERE| GROUP| ORDER| LIMIT|\)|\s*$)`), "a name after it"},
}

// allowedDialect is what may be, by function.
var allowedDialect = map[string]string{
	"collector.collectManifests": "INDEXED BY", // SQLite would go through all that is loose; to others it is a hint that can be left out
	"planner.manifests":          "INDEXED BY",
	"collector.untilDue":         "INDEXED BY",
}

// The program's queries are in the SQL that other engines read too, where that costs nothing.
func TestQueriesAreInCommonSQL(t *testing.T) {
	t.Parallel()
	space := regexp.MustCompile(`\s+`)
	plain, quoted := regexp.MustCompile(`\?(\D|$)`), regexp.MustCompile(`'[^']*'`)
	read, used := 0, make(map[string]bool)
	for _, q := range queriesOf(t) {
		if ownFile(filepath.Base(q.at.Filename)) {
			continue
		}
		read++
		text := space.ReplaceAllString(q.text, " ")
		for _, d := range dialect {
			found := d.form.FindString(text)
			if found == "" {
				continue
			}
			if a := allowedDialect[q.in]; a != "" && a == found {
				used[q.in] = true
				continue
			}
			t.Errorf("%s: in %s: %q: use %s\n%s", q.at, q.in, found, d.instead, text)
		}
		if plain.MatchString(numbered(text)) || strings.Contains(strings.Join(quoted.FindAllString(text, -1), ""), "?") {
			t.Errorf("%s: in %s: some parameters are numbered and some not, or a question mark is no parameter\n%s", q.at, q.in, text)
		}
	}
	for in := range allowedDialect {
		if !used[in] {
			t.Errorf("%s is in the list, and needs it no more", in)
		}
	}
	if read < 150 {
		t.Errorf("only %d queries were read", read)
	}
}

// The parameters of what the engine is given are numbered.
func TestParametersAreNumbered(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		`SELECT 1`:                    `SELECT 1`,
		`SELECT a FROM b WHERE c = ?`: `SELECT a FROM b WHERE c = ?1`,
		`INSERT INTO a (b, c) VALUES (?, ?), (?, ?)`: `INSERT INTO a (b, c) VALUES (?1, ?2), (?3, ?4)`,
		`SELECT a FROM b WHERE c > ?2 OR c = ?1`:     `SELECT a FROM b WHERE c > ?2 OR c = ?1`,
	} {
		given := ""
		_, err := new(statements).get(query, func(query string) (*sql.Stmt, error) {
			given = query
			return nil, nil
		})
		if given != want || err != nil {
			t.Errorf("%s: the engine is given %s, %v; want %s", query, given, err, want)
		}
	}
}

func TestDialectIsFound(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		`SELECT iif(a = 1, 2, 3) FROM b`, `INSERT OR IGNORE INTO a (b) VALUES (?)`, `INSERT OR REPLACE INTO a (b) VALUES (?)`, `SELECT a FROM b INDEXED BY c`,
		`SELECT rowid FROM a`, `SELECT a FROM b WHERE c IS ?1`, `SELECT a FROM b WHERE (c, d) IS NOT (SELECT 1, 2)`, `SELECT max(a, 1) FROM b`,
		`SELECT max(coalesce(a, 0), b) FROM c`, `SELECT sum(a > 1) FROM b`, `SELECT sum(a IS NULL) FROM b`, `SELECT a FROM b WHERE NOT met`,
		`SELECT a FROM b m WHERE a = 1 AND m.made`, `SELECT a FROM b WHERE (made OR c = 1)`, `SELECT a FROM b WHERE (c IS NULL OR ?2)`, `SELECT a FROM b WHERE NOT ?4 LIMIT 1`,
		`UPDATE a SET b = CASE WHEN ?8 THEN 1 END`, `SELECT a FROM (SELECT b FROM c) WHERE d = 1`, `SELECT max(a) FROM (SELECT a FROM b LIMIT (SELECT 1))`,
	} {
		found := false
		for _, d := range dialect {
			found = found || d.form.MatchString(bad)
		}
		if !found {
			t.Errorf("not found: %s", bad)
		}
	}
	for _, good := range []string{
		`SELECT max(coalesce(a, 0)) FROM b WHERE c IS NOT NULL`, `SELECT a FROM b WHERE made = 1 AND met <> 0`, `SELECT a FROM (SELECT b FROM c) AS d WHERE e = ?1`,
		`SELECT made FROM a WHERE b > ?1 AND c = ?2`, `UPDATE a SET made = ?1, met = 1 WHERE b IS DISTINCT FROM ?2`,
	} {
		for _, d := range dialect {
			if found := d.form.FindString(good); found != "" {
				t.Errorf("%q found in %s", found, good)
			}
		}
	}
}
