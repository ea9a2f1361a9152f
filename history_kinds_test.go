//go:build unix

package main

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What a change was is not read from the words that people get.
func TestHistoryDoesNotReadItsWords(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	one := r.pushImage("a", "x", `{"n":1}`, "one")
	r.pushImage("a", "x", `{"n":2}`, "two")
	r.pushImage("a", "x", `{"n":3}`, "three")
	r.command("undo", "a:x")
	r.want(202, "DELETE", "/v2/a/_berth/repository", nil)
	r.command("undo", "a")
	r.restart(func(c *config) {
		inDatabase(t, filepath.Join(c.dir, "berth.db"), `UPDATE history SET why = 'by hand'`)
	})
	// It names the one before the one that is undone.
	for _, number := range []string{"2", "1"} {
		if out, err := runOnceOn(t, r.st, "undo", "a:x"); err == nil || !strings.HasSuffix(err.Error(), "): berth undo "+number) {
			t.Errorf("undo says %v, want change %s named\n%s", err, number, out)
		}
		r.command("undo", number)
		if number == "2" {
			r.wantImage("a", "x", one)
		}
	}
	r.want(404, "GET", "/v2/a/manifests/x", nil)
}

// check finds a repository that nobody can ask for and that is not deleted, and the other way.
func TestCheckFindsRepositoriesThatAreHalfDeleted(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}")
	r.pushImage("b", "x", "{}")
	r.pushImage("c", "x", "{}")
	r.want(202, "DELETE", "/v2/b/_berth/repository", nil)
	r.restart(func(c *config) {
		inDatabase(t, filepath.Join(c.dir, "berth.db"), `UPDATE repository SET deleted = 1 WHERE name = 'a'`, `UPDATE repository SET emptying = 1 WHERE name = 'c'`,
			`UPDATE repository SET deleted = NULL WHERE name LIKE 'b%'`)
	})
	report, err := r.st.check(t.Context(), false, func(int64) {})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range report.findings {
		name, _, _ := strings.Cut(f.problem, ":")
		found = append(found, name)
		if _, err := f.repair(r.st); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(found)
	if fmt.Sprint(found) != fmt.Sprint([]string{"repository a", "repository b#4", "repository c"}) {
		t.Errorf("check finds %v", found)
	}
	r.want(200, "GET", "/v2/_catalog", nil).is(`{"repositories":["a","c"]}`)
	r.undo(200, "b", r.last("b"), "b")
	r.want(200, "GET", "/v2/b/manifests/x", nil)
}

// What version 8 said in words stands in columns, after the upgrade too.
func TestVersion8SaysWhatItsChangesWere(t *testing.T) {
	t.Parallel()
	r := onVersion8(t, `UPDATE repository SET name = name || '#' WHERE name = 'trial/gone#18'`) // as when its collection has begun
	r.freeze()
	got, err := listRows(r.st, func(rows *sql.Rows) (string, error) {
		var change, undoes int64
		var kind string
		err := rows.Scan(&change, &kind, &undoes)
		return fmt.Sprintf("%d %s %d", change, kind, undoes), err
	}, `SELECT change, kind, coalesce(undoes, 0) FROM history WHERE kind <> 'tag' OR undoes IS NOT NULL ORDER BY change, n`)
	want := []string{"14 manifest 0", "16 tag 15", "18 repository 0", "20 repository 0", "21 repository 20", "23 repository 0"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("the changes are %q (%v), want %q", got, err, want)
	}
	emptying, err := listRows(r.st, scanOne[string], `SELECT name FROM repository WHERE emptying <> 0`)
	if err != nil || !slices.Equal(emptying, []string{"trial/gone#18#"}) {
		t.Errorf("%q are being emptied (%v)", emptying, err)
	}
	r.undo(409, "trial/gone", 18, "grace period is over", basic("ann", "ann-secret"))
	r.repairVersion8()
}
