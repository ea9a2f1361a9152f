// The program as a person meets it: flags, environment, messages, its end.

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var noEnv environment

// runOnce runs a command to its end.
func runOnce(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, log strings.Builder
	err = run(t.Context(), args, noEnv, strings.NewReader(""), &out, &log)
	return out.String(), err
}

// refused runs what should be refused. A server that starts all the same is stopped by its greeting, and there is no error.
func refused(t *testing.T, args ...string) error {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	return run(ctx, args, noEnv, strings.NewReader("a long password\n"), stopper(stop), io.Discard)
}

// A stopper is called by whatever is written.
type stopper func()

func (s stopper) Write(p []byte) (int, error) { s(); return len(p), nil }

func TestServeUntilStopped(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "data")
	for _, begun := range []string{ // the second time on what the first has left
		"Begins a new registry there, in a directory made for it: no repositories, no users",
		"Opens the registry there: no repositories, no users",
	} {
		ctx, stop := context.WithCancel(t.Context())
		out, in := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, []string{"--addr", "127.0.0.1:0", "--data", dir}, noEnv, strings.NewReader(""), in, io.Discard)
			in.Close()
		}()
		lines := bufio.NewScanner(out)
		lines.Scan()
		url := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(lines.Text())
		if url == "" || !strings.Contains(lines.Text(), dir) {
			t.Fatalf("greeting %q", lines.Text())
		}
		for _, want := range []string{begun, "No other machine reaches it, except through a proxy on this one",
			"Open to everybody who reaches it: no password is needed to push, pull or delete",
			"To make it ask for one:  berth user add NAME",
			"Try:  docker tag alpine ADDR/alpine && docker push ADDR/alpine",
		} {
			lines.Scan()
			if want = strings.ReplaceAll(want, "ADDR", strings.TrimPrefix(url, "http://")); lines.Text() != want {
				t.Errorf("the greeting says %q, want %q", lines.Text(), want)
			}
		}
		resp, err := http.Get(url + "/v2/")
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("GET /v2/: %v, %v", resp, err)
		}
		if _, err := runOnce(t, "--addr", "127.0.0.1:0", "--data", dir); err == nil || !strings.Contains(err.Error(), "in use by another berth") {
			t.Errorf("a second process on the directory: %v", err)
		}
		if _, err := runOnce(t, "--addr", strings.TrimPrefix(url, "http://"), "--data", t.TempDir()); err == nil || !strings.Contains(err.Error(), " is taken (another program has it). Stop that program, or choose another port: --addr 127.0.0.1:") {
			t.Errorf("a second process on the address: %v", err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("serve ended with %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "berth.db-wal")); err == nil {
			t.Error("the database's log is still there after a clean end")
		}
	}
	if out, err := runOnce(t, "check", "--deep", "--data", dir); err != nil || !strings.Contains(out, "all is well") {
		t.Errorf("check: %v\n%s", err, out)
	}
}

// With a log in JSON every line is, from the first to the last: containers have one log
// for both streams.
func TestLogInJSON(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ args, env, want string }{
		{"--addr 127.0.0.1:0 --log-format json", "", "127.0.0.1:"},
		{"--addr 127.0.0.1:0 --tls auto", "json", "https://127.0.0.1:"},
		{"--addr nonsense:nonsense --log-format=json", "", "nonsense"},
		{"--grace -1h", "json", "--grace"},
		{"--grace nonsense -log-format json", "", "nonsense"},
		{"--log-format json --nonsense", "", "nonsense"},
		{"--log-format json --data " + file, "", "file"},
	} {
		ctx, stop := context.WithCancel(t.Context())
		var all logBuffer
		ended := make(chan error, 1)
		args := append([]string{"--data", filepath.Join(t.TempDir(), "data")}, strings.Fields(x.args)...)
		env := environment{"BERTH_LOG_FORMAT=" + x.env}
		out, in := io.Pipe()
		go func() {
			ended <- run(ctx, args, env, strings.NewReader(""), in, in)
			in.Close()
		}()
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			fmt.Fprintln(&all, lines.Text())
			if !json.Valid(lines.Bytes()) {
				t.Errorf("%s: no JSON: %s", x.args, lines.Text())
			}
			if strings.Contains(lines.Text(), `"msg":"serving"`) {
				stop()
			}
		}
		stop()
		if err := <-ended; err != nil && !errors.Is(err, errLogged) {
			t.Errorf("%s: ended with %v", x.args, err)
		}
		if !strings.Contains(all.String(), x.want) {
			t.Errorf("%s: nothing about %s in\n%s", x.args, x.want, all.String())
		}
	}
}

func TestCheckCommandFindsDamage(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	dir := t.TempDir()
	r.stop()
	if err := os.CopyFS(dir, os.DirFS(r.cfg.dir)); err != nil {
		t.Fatal(err)
	}
	r.start()
	file := filepath.Join(dir, "blobs", "sha256", im.layers[0].Encoded()[:2], im.layers[0].Encoded(), "data")
	if err := os.WriteFile(file, []byte("LAYER"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := runOnce(t, "check", "--data", dir); err != nil {
		t.Errorf("without --deep, which would see it: %v\n%s", err, out)
	}
	if out, err := runOnce(t, "check", "--data", dir, "--deep"); err == nil || !strings.Contains(out, "WRONG: blob "+im.layers[0].String()) {
		t.Errorf("rotten bytes: %v\n%s", err, out)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if out, err := runOnce(t, "check", "--data", dir); err == nil || !strings.Contains(out, im.layers[0].String()) {
		t.Errorf("missing file: %v\n%s", err, out)
	}
	if _, err := runOnce(t, "check", "--data", t.TempDir()); err == nil || !strings.Contains(err.Error(), "there is no registry in") {
		t.Errorf("check of nothing: %v", err)
	}
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	env := environment{"BERTH_ADDR=127.0.0.1:1", "BERTH_NO_DELETE=true", "BERTH_GRACE=90m", "BERTH_MAX_BLOB_SIZE=10GiB"}
	cfg, err := parseConfig("serve", []string{"--addr", ":7", "--log-format", "json"}, env, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.addr != ":7" || !cfg.noDelete || cfg.grace != 90*time.Minute || cfg.maxBlob != 10<<30 || cfg.dir != "data" {
		t.Errorf("configuration %+v", cfg)
	}
	for _, x := range []struct{ args, env, want string }{
		{"--nonsense", "", "nonsense"},
		{"--log-format xml", "", "--log-format"},
		{"--log-level loud", "", "log-level"},
		{"--grace -1h", "", "--grace"},
		{"--max-blob-size 10XB", "", "--max-blob-size"},
		{"", "BERTH_READ_ONLY=perhaps", "BERTH_READ_ONLY"},
		{"push", "", `unknown command "push"`},
		{"--data x y", "", `unexpected "y"`},
	} {
		err := run(t.Context(), strings.Fields(x.args), environment{x.env}, strings.NewReader(""), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("berth %s (%s): error %v, want one about %s", x.args, x.env, err, x.want)
		}
	}
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{"0": 0, "17": 17, "1KiB": 1024, "500MiB": 500 << 20, "10GiB": 10 << 30, "2TiB": 2 << 40, "3GB": 3e9, "5kB": 5000, "7B": 7} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "x", "-1", "1.5GiB", "GiB", "9223372036854775807KiB", "1 GiB", "1iB"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", s, got)
		}
	}
}
