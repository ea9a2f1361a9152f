// Repair, and what others want kept.

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The command that a person thinks of after a restore, before anything was pushed again.
func TestRepairKeepsWhatARestoreFound(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"a pass", "repair --left-over"} {
		t.Run(end, func(t *testing.T) {
			r := startRegistry(t)
			r.pushImage("a", "old", "{}", "layer")
			r.snapshotsAfter(time.Hour)
			r.pushImage("a", "later", `{"later":1}`, "pushed since")
			r.off()
			db := filepath.Join(r.cfg.dir, "berth.db")
			if err := errors.Join(os.Remove(db), removeIfThere(db+"-wal"), removeIfThere(db+"-shm")); err != nil {
				t.Fatal(err)
			}
			out, err := r.runOn("restore")
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, want := range []string{"2 files on the disk without an image that is known. If you miss an image, push it again.", "`berth repair` leaves them alone", "`berth repair --left-over` removes them; run it only when no image is missed"} {
				if !strings.Contains(out, want) {
					t.Errorf("restore does not say %q:\n%s", want, out)
				}
			}
			r.start()
			lost := []string{r.st.path(sum("pushed since")), r.st.path(sum(`{"later":1}`))}
			kept := func(want bool) {
				t.Helper()
				for _, path := range lost {
					if exists(path) != want {
						t.Errorf("the file of an image that is lost is there: %v, want %v", !want, want)
					}
				}
			}
			for _, args := range [][]string{{"repair"}, {"repair", "--deep"}, {"check"}} {
				out, err := runOnceOn(t, r.st, args[0], args[1:]...)
				if err != nil || !strings.Contains(out, "left over") || strings.Contains(out, ": removed") {
					t.Errorf("%v: %v\n%s", args, err, out)
				}
				kept(true)
			}
			if end == "a pass" {
				r.scrub()
			} else if out, err := runOnceOn(t, r.st, "repair", "--left-over"); err != nil || strings.Count(out, ": removed") != 2 {
				t.Errorf("repair --left-over: %v\n%s", err, out)
			}
			kept(false)
		})
	}
}
