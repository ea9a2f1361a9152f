//go:build linux

package lossyfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Each session on a fresh disk, then a cut that loses all that was not synced; what is left?
func TestCutLosesWhatWasNotSynced(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 1000)
	for _, c := range []struct {
		name    string
		plan    Plan
		session func(s session)
		want    map[string]string // what some names lead to; "" for none
	}{
		{"neither file nor name synced", Plan{}, func(s session) {
			s.write("a", content)
		}, map[string]string{"a": ""}},
		{"a file synced, not its name", Plan{}, func(s session) {
			s.write("a", content)
			s.sync("a")
		}, map[string]string{"a": ""}},
		{"a name synced, not its file", Plan{}, func(s session) {
			s.write("a", content)
			s.sync(".")
		}, map[string]string{"a": "empty"}},
		{"both", Plan{}, func(s session) {
			s.write("a", content)
			s.sync("a")
			s.sync(".")
		}, map[string]string{"a": string(content)}},
		{"a new name for a synced file", Plan{}, func(s session) {
			s.write("a", content)
			s.sync("a")
			s.sync(".")
			s.must(os.Mkdir(s.path("d"), 0o700))
			s.sync(".")
			s.must(os.Rename(s.path("a"), s.path("d/b")))
			s.sync("d")
		}, map[string]string{"a": string(content), "d/b": string(content)}},
		{"an old name gone, so the new one is there", Plan{}, func(s session) {
			s.write("a", content)
			s.sync("a")
			s.must(os.Mkdir(s.path("d"), 0o700))
			s.sync(".")
			s.must(os.Rename(s.path("a"), s.path("d/b")))
			s.sync(".")
		}, map[string]string{"a": "", "d/b": string(content)}},
		{"one of two names", Plan{}, func(s session) {
			s.write("a", content)
			s.sync(".")
			s.must(os.Link(s.path("a"), s.path("b")))
			s.sync("b")
		}, map[string]string{"a": string(content), "b": ""}},
		{"a truncation", Plan{}, func(s session) {
			s.write("a", content)
			s.sync("a")
			s.sync(".")
			s.must(os.Truncate(s.path("a"), 0))
		}, map[string]string{"a": string(content)}},
		{"a sync after one that failed", Plan{FailFiles: 1}, func(s session) {
			s.write("a", content)
			if s.trySync("a") == nil {
				s.t.Error("a sync that should fail does not")
			}
			s.d.Arm(Plan{})
			s.sync("a")
			s.sync(".")
		}, map[string]string{"a": "damaged"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, dir := New(1), t.TempDir()
			m, err := d.Mount(dir)
			if err != nil {
				if os.Getenv("CI") != "" && !errors.Is(err, ErrNoFUSE) {
					t.Fatal(err)
				}
				t.Skip("SKIPPED, NOT TESTED: ", err)
			}
			defer func() { m.Unmount() }()
			d.Arm(c.plan)
			c.session(session{t, d, dir})
			d.Cut()
			if err := os.WriteFile(filepath.Join(dir, "late"), nil, 0o600); err == nil {
				t.Error("the disk works without power")
			}
			if err := m.Unmount(); err != nil {
				t.Fatal(err)
			}
			d.Restore(All)
			if m, err = d.Mount(dir); err != nil {
				t.Fatal(err)
			}
			for name, want := range c.want {
				b, err := os.ReadFile(filepath.Join(dir, name))
				got := string(b)
				switch {
				case os.IsNotExist(err):
					got = ""
				case err != nil:
					t.Error(err)
				case got == "":
					got = "empty"
				case got != string(content):
					got = "damaged"
				}
				if got != want {
					t.Errorf("%s leads to %.20q, want %.20q", name, got, want)
				}
			}
		})
	}
}

// A session is what a process does on a disk.
type session struct {
	t   *testing.T
	d   *Disk
	dir string
}

func (s session) path(name string) string { return filepath.Join(s.dir, name) }

func (s session) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s session) write(name string, content []byte) {
	s.t.Helper()
	s.must(os.WriteFile(s.path(name), content, 0o600))
}

func (s session) sync(name string) {
	s.t.Helper()
	s.must(s.trySync(name))
}

func (s session) trySync(name string) error {
	f, err := os.Open(s.path(name))
	s.must(err)
	defer f.Close()
	return f.Sync()
}
