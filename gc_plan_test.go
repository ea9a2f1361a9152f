// What a collection would do, said and not done.

package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// dump returns every row of every table.
func dump(t testing.TB, db *sql.DB) map[string][]string {
	t.Helper()
	tables := make(map[string][]string)
	names, err := db.Query(`SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := collectRows(names, scanOne[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list {
		rows, err := db.Query(`SELECT * FROM "` + name + `"`)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		tables[name], err = collectRows(rows, func(rows *sql.Rows) (string, error) {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(any)
			}
			err := rows.Scan(values...)
			line := ""
			for i, v := range values {
				line += fmt.Sprintf("%s=%q ", columns[i], fmt.Sprint(*v.(*any)))
			}
			return line, err
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(tables[name])
	}
	return tables
}

func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	r.pushImage("live", "x", "{}", "layer")
	old := r.pushImage("a", "x", "{}", "layer", "own")
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	unused := r.pushBlob("a", "unused")
	gone := r.pushBlob("a", "deleted")
	r.want(202, "DELETE", "/v2/a/blobs/"+gone.String(), nil)
	location := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	upload := location[strings.LastIndex(location, "/")+1:]
	r.moved.Add(int64(30 * 24 * time.Hour))

	before, files := dump(t, r.st.readers), tree(t, filepath.Join(r.cfg.dir, "blobs"))
	text, err := runOnceOn(t, r.st, "gc", "--dry-run", "--now")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"a@" + old.digest.String() + "  no tag, index or subject for ",
		"a@" + unused.String() + "  no manifest has used it for ",
		"a@" + old.layers[1].String() + "  only used by what is removed",
		gone.String() + "  its file is about to be removed",
		upload + "  nobody has continued it for ",
		"\nwould remove 1 manifest, 3 blobs with 16 B, 1 upload with 0 B\n`berth undo` could then no longer restore what was overwritten or deleted\n",
	} {
		if strings.Count(regexp.MustCompile(`  +`).ReplaceAllString(text, "  "), want) != 1 {
			t.Errorf("%q is not there, or more than once, in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "\n"); n != 10 { // two more blobs are elsewhere too
		t.Errorf("%d lines, want 10:\n%s", n, text)
	}
	text, err = runOnceOn(t, r.st, "gc", "--dry-run", "--now", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		tally
		Items []doomed
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil || len(doc.Items) != 7 || doc.tally != (tally{1, 0, 1, 3, 16, 0}) {
		t.Errorf("--json: %v, %+v\n%s", err, doc.tally, text)
	}
	var bytes int64
	for _, item := range doc.Items {
		if item.Why == "" || item.Kind == "" || item.Digest == "" && item.Upload == "" {
			t.Errorf("--json: an item is %+v", item)
		}
		if item.Kind == "blob" {
			bytes += item.Bytes
		}
	}
	if bytes != doc.Bytes {
		t.Errorf("--json: the blobs listed have %d bytes, the sum is %d", bytes, doc.Bytes)
	}
	for _, args := range [][]string{{"--dry-run"}, {"--dry-run", "--json"}} {
		if _, err := runOnceOn(t, r.st, "gc", args...); err != nil {
			t.Error(err)
		}
	}
	if after := dump(t, r.st.readers); !reflect.DeepEqual(before, after) {
		t.Errorf("a dry run has changed the database from\n%v to\n%v", before, after)
	}
	if !maps.Equal(tree(t, filepath.Join(r.cfg.dir, "blobs")), files) {
		t.Error("a dry run has changed files")
	}
	// Then for real, with the same words.
	text, err = runOnceOn(t, r.st, "gc", "--now")
	if err != nil || !strings.HasPrefix(text, "removed 1 manifest, 2 blobs with 9 B, 1 upload with 0 B\n`berth undo` can no longer restore what was overwritten or deleted before this\n") {
		t.Errorf("gc --now: %v\n%s", err, text)
	}
}

// After a start everything counts as promised where the grace is too short to
// know better. Where it is not, a dry run says what a collection does.
func TestDryRunAfterARestart(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]func(*config){"a long grace": func(*config) {}, "no grace": noGrace} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t, option)
			r.pushBlob("a", "unused")
			r.moved.Add(int64(30 * 24 * time.Hour))
			r.want(202, "POST", "/v2/a/blobs/uploads/", nil) // so that the time is saved
			r.restart()
			r.freeze()
			planned, err := r.st.plan(t.Context(), r.st.graces(), true, func(doomed) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			if did := r.collect(r.st.graces()); did.Blobs != planned.Blobs || did.Promised != planned.Promised {
				t.Errorf("collected %+v, planned %+v", did, planned)
			}
		})
	}
}

// One thing that is kept is told of once, however many roads lead to it.
func TestPlanCountsAPromiseOnce(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	im := r.pushImage("a", "x", "{}", "layer")
	first, _ := ociIndex(im.manifest)
	second, _ := ociIndex(im.manifest, im.manifest)
	r.want(201, "PUT", "/v2/a/manifests/1", first, "Content-Type: "+typeOCIIndex)
	r.want(201, "PUT", "/v2/a/manifests/2", second, "Content-Type: "+typeOCIIndex)
	for _, tag := range []string{"x", "1", "2"} {
		r.want(202, "DELETE", "/v2/a/manifests/"+tag, nil)
	}
	r.st.promises.forget()
	r.want(200, "HEAD", "/v2/a/manifests/"+im.digest.String(), nil)
	planned, err := r.st.plan(t.Context(), collectNow, true, func(doomed) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if did := r.collect(collectNow); did != planned || did.Promised != 1 {
		t.Errorf("collected %+v, planned %+v; want one promise in both", did, planned)
	}
}
