// What /metrics says, to whoever watches the registry.

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// metric returns the value of a series, and whether there is one.
func (r *registry) metric(series string, headers ...string) (value float64, ok bool) {
	r.t.Helper()
	for line := range strings.Lines(string(r.want(200, "GET", "/metrics", nil, headers...).body)) {
		if rest, found := strings.CutPrefix(line, series+" "); found {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				r.t.Fatalf("metrics: %s", line)
			}
			return value, true
		}
	}
	return 0, false
}

// wantMetric fails the test if a series has not this value.
func (r *registry) wantMetric(want float64, series string, headers ...string) {
	r.t.Helper()
	if got, ok := r.metric(series, headers...); !ok || got != want {
		r.t.Errorf("%s is %v (there: %t), want %v", series, got, ok, want)
	}
}

// Each metric says what it is, once, before its values.
func TestMetricsAreExplained(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	explained := make(map[string]string)
	var last string
	for line := range strings.Lines(string(r.want(200, "GET", "/metrics", nil).body)) {
		switch f := strings.Fields(line); {
		case f[1] == "HELP":
			if explained[f[2]] != "" || len(f) < 4 || !strings.HasSuffix(line, ".\n") {
				t.Errorf("explained twice, or in no sentence: %s", line)
			}
			last, explained[f[2]] = f[2], "?"
		case f[1] == "TYPE":
			explained[f[2]] = f[3]
			if f[2] != last || strings.HasSuffix(f[2], "_total") != (f[3] == "counter") {
				t.Errorf("after the help of %s: %s", last, line)
			}
		default:
			name, _, _ := strings.Cut(f[0], "{")
			if explained[last] == "histogram" {
				name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			}
			if name != last || explained[name] == "?" {
				t.Errorf("a value below the help of %s: %s", last, line)
			}
		}
	}
	if len(explained) < 40 {
		t.Errorf("%d metrics, want at least 40", len(explained))
	}
}

// Nothing that a stranger sends is a series of its own.
func TestStrangersMakeNoSeries(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	series := func() int {
		n := 0
		for line := range strings.Lines(string(r.want(200, "GET", "/metrics", nil).body)) {
			if !strings.HasPrefix(line, "#") {
				n++
			}
		}
		return n
	}
	round := func(i int) {
		for j, path := range []string{"/v2/repo%d/manifests/tag%[1]d", "/v2/repo%d/blobs/sha256:%[1]d", "/v2/a/b%d/tags/list", "/odd%d", "/v2/%d/_berth/x", "/v2/UPPER%d/manifests/x"} {
			method := []string{"GET", "HEAD", "PURGE" + strconv.Itoa(i)}[(i+j)%3]
			r.do(method, fmt.Sprintf(path, i), nil)
		}
	}
	for i := range 3 {
		round(i)
	}
	series() // makes those of its own route
	before := series()
	for i := range 400 {
		round(3 + i)
	}
	if after := series(); after != before {
		t.Errorf("%d series, and %d after thousands of odd requests", before, after)
	}
}

func TestMetricsOfLogins(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(`[[rule]]
who = ["ann"]
repositories = ["**"]
allow = ["metrics"]
`, "ann", "bob"))
	r.want(401, "GET", "/v2/", nil, basic("ann", "wrong"))
	r.wantMetric(1, "berth_login_failures_total", as("ann"))
	r.wantMetric(2, "berth_users", as("ann"))
	r.wantMetric(0, "berth_tokens", as("ann"))
}

// When the last backup was made is known after a restart, and whoever has none to show does not look well.
func TestMetricsOfBackups(t *testing.T) {
	t.Parallel()
	const last, failures = `berth_task_last_success_timestamp_seconds{task="backup"}`, `berth_task_failures_total{task="backup"}`
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	if _, ok := r.metric(last); ok {
		t.Error("there is a time of a backup that nobody has made")
	}
	if err := runOn(t.Context(), r.st, options{Command: "backup", Args: []string{filepath.Join(r.cfg.dir, "inside")}}, newConsole(r.log, false)); err == nil {
		t.Fatal("a backup into the registry itself was made")
	}
	r.wantMetric(1, failures)
	begun := float64(time.Now().Unix())
	if err := runOn(t.Context(), r.st, options{Command: "backup", Args: []string{filepath.Join(t.TempDir(), "b")}}, newConsole(r.log, false)); err != nil {
		t.Fatal(err)
	}
	at, _ := r.metric(last)
	if at < begun {
		t.Errorf("the backup was made at %v, want at least %v", at, begun)
	}
	r.wantMetric(1, failures)
	r.restart()
	r.wantMetric(at, last)
	r.wantMetric(0, failures)
	if err := os.WriteFile(filepath.Join(r.cfg.dir, lastBackupFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if _, ok := r.metric(last); ok {
		t.Error("there is a time of a backup, though the file that had it is damaged")
	}
}

// Which build answers, how long its certificate is valid, and what the database has done.
func TestMetricsOfTheBuild(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	text := string(r.want(200, "GET", "/metrics", nil).body)
	if !regexp.MustCompile(`(?m)^berth_build_info\{version="[^"]+",commit="[^"]*",goversion="go1[^"]*"\} 1$`).MatchString(text) {
		t.Errorf("no build in\n%s", text)
	}
	r.wantMetric(1, "berth_database_writable")
	r.wantMetric(0, "berth_database_write_failures_total")
	missed, _ := r.metric("berth_lookup_cache_misses_total")
	im := r.pushImage("a", "x", "{}", "layer")
	for range 3 {
		r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
	}
	if now, _ := r.metric("berth_lookup_cache_misses_total"); now <= missed || now > missed+4 {
		t.Errorf("%v lookups had to ask the database, and %v after a push and three pulls", missed, now)
	}
	if size, _ := r.metric("berth_lookup_cache_bytes"); size <= 0 {
		t.Errorf("what is kept takes %v bytes", size)
	}
}

// A database that has no room is seen, not only by who pushes.
func TestMetricsOfAFullDatabase(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	pages := func(limit int) {
		if err := r.st.update(func(t *tx) error { _, err := t.exec(fmt.Sprintf("PRAGMA max_page_count = %d", limit)); return err }); err != nil {
			t.Fatal(err)
		}
	}
	pages(1) // SQLite takes this as: no more than there are
	manifest := newImage(typeOCIManifest, "application/vnd.oci.image.config.v1+json", "application/octet-stream",
		`,"annotations":{"x":"`+strings.Repeat("x", 200<<10)+`"}`, "{}", "layer").manifest
	r.want(507, "PUT", "/v2/a/manifests/large", manifest, "Content-Type: "+typeOCIManifest)
	if n, _ := r.metric("berth_database_write_failures_total"); n < 1 {
		t.Errorf("%v transactions have failed, want at least one", n)
	}
	pages(1 << 30)
	r.want(201, "PUT", "/v2/a/manifests/large", manifest, "Content-Type: "+typeOCIManifest)
}
