// The cache finds a table's columns by their names, in whatever order the table has them.

package main

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// reverseColumns makes a table of a closed and empty registry anew, with its columns in
// the other order, and its indexes and triggers as they were.
func reverseColumns(t *testing.T, path, table string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	list := func(query string, args ...any) (out []string) {
		rows, err := db.Query(query, args...)
		if err == nil {
			out, err = collectRows(rows, scanOne[string])
		}
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	columns := list(`SELECT format('%s %s%s%s', name, type, iif("notnull", ' NOT NULL', ''), iif(dflt_value IS NULL, '', ' DEFAULT ' || dflt_value))
		FROM pragma_table_info(?)`, table)
	slices.Reverse(columns)
	keys := list(`SELECT iif(origin = 'pk', 'PRIMARY KEY', 'UNIQUE') || '(' || (SELECT group_concat(name, ', ') FROM pragma_index_info(l.name)) || ')'
		FROM pragma_index_list(?) l WHERE origin <> 'c'`, table)
	end := " STRICT, WITHOUT ROWID"
	if id := slices.Index(columns, "id INTEGER"); id >= 0 {
		columns[id], end = "id INTEGER PRIMARY KEY", " STRICT"
	}
	again := list(`SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type <> 'table' AND sql IS NOT NULL`, table)
	create := fmt.Sprintf("CREATE TABLE %s (%s)%s", table, strings.Join(append(columns, keys...), ", "), end)
	for _, q := range slices.Concat([]string{"DROP TABLE " + table, create}, again) {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

func TestCacheFindsColumnsByName(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.stop()
	for _, table := range []string{"tag", "manifest", "link", "blob", "repository"} {
		reverseColumns(t, filepath.Join(r.cfg.dir, "berth.db"), table)
	}
	r.start()
	for i := range 3 { // so that ids are not what other columns hold
		r.pushImage(fmt.Sprint("other", i), "x", "{}", "other")
	}
	get := func(status int, path string) *reply {
		t.Helper()
		r.want(status, "GET", path, nil)
		return r.want(status, "GET", path, nil) // from the cache
	}
	r.pushImage("a", "x", "{}", "one")
	get(200, "/v2/a/manifests/x")
	two := r.pushImage("a", "x", "{}", "two")
	get(200, "/v2/a/manifests/x").is(two.manifest)
	get(200, "/v2/a/manifests/"+two.digest.String())
	layer := "/v2/a/blobs/" + two.layers[0].String()
	get(200, layer)
	r.want(202, "DELETE", "/v2/a/manifests/"+two.digest.String(), nil)
	get(404, "/v2/a/manifests/x")
	get(404, "/v2/a/manifests/"+two.digest.String())

	three := r.pushImage("b", "x", "{}", strings.Repeat("three", 10_000))
	get(200, "/v2/b/manifests/x")
	layer = "/v2/b/blobs/" + three.layers[0].String()
	get(200, layer)
	for _, x := range []struct {
		damaged any
		status  int
	}{{"it is", 404}, {nil, 200}} {
		err := r.st.update(func(t *tx) error {
			_, err := t.exec(`UPDATE blob SET damaged = ? WHERE digest = ?`, x.damaged, three.layers[0])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		get(x.status, layer)
	}
	r.want(202, "DELETE", "/v2/b/_berth/repository", nil)
	get(404, "/v2/b/manifests/x")
}

// A column that is not there shows at the start, not as a stale answer.
func TestCacheMissesNoColumn(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.stop()
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), `ALTER TABLE repository RENAME COLUMN name TO title`)
	if st, err := openStore(r.cfg.storeConfig); err == nil || !strings.Contains(err.Error(), "column name of the table repository") {
		t.Errorf("openStore = %v, want an error that names the column", err)
		if err == nil {
			st.close()
		}
	}
}
