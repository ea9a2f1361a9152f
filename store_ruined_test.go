//go:build unix

// The database is overwritten while the server runs.

package main

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Whoever meets it is told what to do, and the log says it once.
func TestDatabaseOverwrittenWhileServing(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	if err := r.st.snapshots.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.restart() // the log is in the database then, and nothing is remembered
	db := filepath.Join(r.cfg.dir, "berth.db")
	whole, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(db, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte("not a page "), (len(whole)-4096)/11), 4096)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	stop := r.listen()
	for _, command := range []string{"ls", "check", "log"} {
		_, err := runOnce(t, command, "--data", r.cfg.dir)
		for _, want := range []string{db + " is damaged", "stop the server, then `berth restore --data " + r.cfg.dir + "` goes back"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("berth %s says %v, want %q", command, err, want)
			}
		}
	}
	r.want(500, "GET", "/v2/a/manifests/x", nil)
	if n := strings.Count(r.log.String(), "the database is damaged"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, r.log)
	}
	stop()
	r.http.Close()
	r.st.close()
	r.st = nil // there is nothing left to be checked
}

// A registry whose database was found damaged is not ready, though much of it still answers: whoever looks after it is told,
// by whatever it was found.
func TestDatabaseDamagedInPart(t *testing.T) {
	t.Parallel()
	for table, meet := range map[string]func(*registry){
		"history": func(r *registry) { r.want(500, "GET", "/v2/a/_berth/history", nil) },
		"trash": func(r *registry) { // in the background
			if _, err := r.st.collector.collect(t.Context(), collectNow); err == nil {
				t.Error("garbage is collected, with a damaged list of it")
			}
		},
		"pull": func(r *registry) { // by check alone
			if _, err := runOnce(t, "check", "--data", r.cfg.dir); err == nil {
				t.Error("check finds nothing wrong")
			}
		},
		"manifest_subject": func(r *registry) { // by looking for it, in the background
			if err := r.st.scrubber.pass(t.Context()); err != nil {
				t.Log(err)
			}
		},
	} {
		r := startRegistry(t)
		r.pushImage("a", "x", "{}", "layer")
		if err := r.st.snapshots.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.restart() // the log is in the database then, and nothing is remembered
		r.served()
		db := filepath.Join(r.cfg.dir, "berth.db")
		overwriteTable(t, db, table)
		r.want(200, "GET", "/readyz", nil)
		r.wantMetric(0, "berth_database_damaged")

		meet(r)
		if got := r.want(503, "GET", "/readyz", nil); !strings.Contains(string(got.body), "the database is damaged") || strings.Contains(string(got.body), r.cfg.dir) {
			t.Errorf("%s: /readyz says %s", table, got.body)
		}
		r.wantMetric(1, "berth_database_damaged")
		if err := (probes{r.server}).answersItself(t.Context()); err != nil {
			t.Errorf("%s: the watchdog would start it again, and again: %v", table, err)
		}
		r.want(200, "GET", "/v2/a/manifests/x", nil)
		if faults, text := r.doctor(); !slices.Contains(faults, "database-damaged") || !strings.Contains(text, "sudo berth restore --data "+r.cfg.dir) {
			t.Errorf("%s: berth doctor finds %v\n%s", table, faults, text)
		}
		said := db + " is damaged"
		if out, err := runOnce(t, "check", "--data", r.cfg.dir); err == nil || !strings.Contains(out+err.Error(), said) {
			t.Errorf("%s: berth check says %s, %v, want %q", table, out, err, said)
		}
		if n := strings.Count(r.log.String(), "level=ERROR msg=\"the database is damaged"); n != 1 {
			t.Errorf("%s: the log says it %d times:\n%s", table, n, r.log)
		}
		r.http.Close()
		r.st.close()
		r.st = nil // there is nothing left to be checked
	}
}

// overwriteTable overwrites the first page of a table.
func overwriteTable(t *testing.T, db, table string) {
	t.Helper()
	look, err := sql.Open("sqlite", "file:"+db+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	var page, size int64
	err = look.QueryRow(`SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = ?`, table).Scan(&page, &size)
	look.Close()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(db, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, int(size)), (page-1)*size)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
