//go:build unix

// How much a server logs is changed while it runs, and for how long.

package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogLevelOfARunningServer(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	log, err := os.Create(filepath.Join(t.TempDir(), "log")) // which has a line as soon as it is written
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(itself(t))
	cmd.Stderr = log
	p := startProcessBy(t, cmd, "", "--data", data, "--log-level", "warn")
	logged := func() string {
		t.Helper()
		text, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	lines := func() int {
		t.Helper()
		if _, err := p.ask("GET", "/readyz", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := p.ask("GET", "/v2/", nil); err != nil {
			t.Fatal(err)
		}
		return strings.Count(logged(), "msg=request")
	}
	level := func(want string, args ...string) {
		t.Helper()
		if out, err := runOnce(t, append([]string{"log-level", "--data", data}, args...)...); err != nil || !strings.HasPrefix(out, want) {
			t.Errorf("berth log-level %s: %v\n%swant %s", strings.Join(args, " "), err, out, want)
		}
	}
	// A line is written before the answer to the next request on the same connection is read.
	level("warn\n")
	before := lines()
	level("debug until the server ends, then warn\n", "debug")
	lines()
	during := lines()
	if n := strings.Count(logged(), "level=DEBUG msg=request"); before != 0 || during == 0 || n == 0 {
		t.Errorf("%d lines of requests at level warn, then %d at level debug, %d of them of probes\n%s", before, during, n, logged())
	}
	level("error until the server ends, then warn\n", "error")
	again := lines()
	if lines() != again {
		t.Errorf("requests are still logged\n%s", logged())
	}
	level("debug until 20", "debug", "--for", "1h")
	out, err := runOnce(t, "log-level", "--data", data, "--json")
	var got struct {
		Level, Usual string
		Until        time.Time
	}
	if err != nil || json.Unmarshal([]byte(out), &got) != nil || got.Level != "debug" || got.Usual != "warn" || time.Until(got.Until) > time.Hour || time.Until(got.Until) < time.Minute {
		t.Errorf("berth log-level --json: %v\n%s", err, out)
	}
	level("warn\n", "warn")
	if n := strings.Count(logged(), `level=AUDIT msg=audit event="log level changed"`); n != 4 {
		t.Errorf("%d changes are in the audit, want 4\n%s", n, logged())
	}
	p.stop(t)
	for _, x := range []struct{ args, want string }{
		{"", "no server runs on "}, {"debug", "no server runs on "}, {"loud", "say debug, info, warn or error"},
		{"--for 1h", "--for needs a level"}, {"debug --for 0", "longer than 0"},
	} {
		if err := refused(t, append([]string{"log-level", "--data", data}, strings.Fields(x.args)...)...); !strings.Contains(err.Error(), x.want) {
			t.Errorf("berth log-level %s: %v, want %s", x.args, err, x.want)
		}
	}
}

// The usual level comes back when the time is over; a change before that begins anew.
func TestLogLevelComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		level := &logLevel{usual: slog.LevelWarn}
		level.Set(slog.LevelWarn)
		logger := newLogger(&log, logForm{}, level)
		back := 0
		then := func() { back++ }
		level.change(slog.LevelDebug, time.Hour, then)
		time.Sleep(50 * time.Minute)
		level.change(slog.LevelInfo, time.Hour, then)
		time.Sleep(50 * time.Minute) // the first hour is over
		logger.Info("one")
		logger.Debug("two")
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		logger.Info("three")
		if now, until := level.now(); now != slog.LevelWarn || !until.IsZero() || back != 1 {
			t.Errorf("the level is %v until %v, and came back %d times", now, until, back)
		}
		level.change(slog.LevelDebug, time.Hour, then)
		level.change(slog.LevelDebug, 0, then)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		logger.Debug("four")
		if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "msg=one") || !strings.Contains(text, "msg=four") || back != 1 {
			t.Errorf("the level came back %d times, and the log is\n%s", back, text)
		}
	})
}

// A line of the log that is not for the journal is as it always was.
func TestLogIsOfItsForm(t *testing.T) {
	t.Parallel()
	for _, form := range []logForm{{}, {json: true}, {journal: true}, {json: true, journal: true}} {
		var log bytes.Buffer
		logger := newLogger(&log, form, slog.LevelInfo).With("a", 1)
		logger.Warn("x", "text", "two\nlines")
		line, err := log.ReadString('\n')
		if err != nil || log.Len() != 0 {
			t.Errorf("%+v: more than a line: %s", form, line+log.String())
		}
		rest, prefixed := strings.CutPrefix(line, "<4>")
		timed := strings.HasPrefix(rest, "time=") || strings.HasPrefix(rest, `{"time":`)
		if prefixed != form.journal || timed != (form.json || !form.journal) {
			t.Errorf("%+v: %s", form, line)
		}
		if form.json && json.Unmarshal([]byte(rest), new(map[string]any)) != nil {
			t.Errorf("%+v is no JSON: %s", form, line)
		}
	}
}
