// Notices writes THIRD_PARTY_NOTICES: what is linked into Berth's binaries, and under which
// licences. With -check it says whether the file is what it would write.
//
//	go -C e2e run ./notices
//
// Each system links modules of its own, so those of all targets of .ci/run are listed. A
// licence must be one of the permitted ones, word for word but for names; what cannot be
// compared so is known by the hash of its text, which somebody has read. Any other is an error.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	check := flag.Bool("check", false, "compare the file instead of writing it")
	flag.Parse()
	if err := run("..", *check); err != nil {
		fmt.Fprintln(os.Stderr, "notices:", err)
		os.Exit(1)
	}
}

const noticesFile = "THIRD_PARTY_NOTICES"

// run writes the notices of the module in root, or compares them.
func run(root string, check bool) error {
	targets, err := targetsOf(filepath.Join(root, ".ci", "run"))
	if err != nil {
		return err
	}
	modules := map[string]*module{}
	for _, target := range targets {
		if err := addLinked(modules, root, target); err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	if err := addGo(modules); err != nil {
		return err
	}
	text, err := notices(modules)
	if err != nil {
		return err
	}
	name := filepath.Join(root, noticesFile)
	if !check {
		return os.WriteFile(name, text, 0o644)
	}
	is, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Equal(bytes.ReplaceAll(is, []byte("\r\n"), []byte("\n")), text) {
		return fmt.Errorf("%s is not up to date; write it with: go -C e2e run ./notices", noticesFile)
	}
	return nil
}

var targetList = regexp.MustCompile(`(?m)^targets=\(([^)]*)\)`)

// targetsOf returns the systems that the script builds for, as linux/arm/6.
func targetsOf(script string) ([]string, error) {
	text, err := os.ReadFile(script)
	if err != nil {
		return nil, err
	}
	found := targetList.FindSubmatch(text)
	if found == nil || len(strings.Fields(string(found[1]))) == 0 {
		return nil, fmt.Errorf("%s has no list of targets", script)
	}
	return strings.Fields(string(found[1])), nil
}

// A module is linked into some binary.
type module struct {
	path, version, dir string
	dirs               map[string]bool // of its packages that are linked, and those above them
}

// addLinked adds the modules of what is linked for a target.
func addLinked(modules map[string]*module, root, target string) error {
	system := append(strings.Split(target, "/"), "")
	cmd := exec.Command("go", "list", "-deps", "-json=Dir,Module", ".")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOOS="+system[0], "GOARCH="+system[1], "GOARM="+system[2])
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	for packages := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir    string
			Module *struct {
				Path, Version, Dir string
				Main               bool
				Replace            *struct{ Path string }
			}
		}
		if err := packages.Decode(&p); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("go list: %w", err)
		}
		if p.Module == nil || p.Module.Main { // Go's, or Berth's own
			continue
		}
		if p.Module.Replace != nil {
			return fmt.Errorf("%s is replaced, by what has no version", p.Module.Path)
		}
		m := modules[p.Module.Path]
		if m == nil {
			m = &module{path: p.Module.Path, version: p.Module.Version, dir: p.Module.Dir, dirs: map[string]bool{p.Module.Dir: true}}
			modules[m.path] = m
		}
		for dir := p.Dir; len(dir) > len(m.dir); dir = filepath.Dir(dir) {
			m.dirs[dir] = true
		}
	}
}

// addGo adds Go's library and runtime. They have no version here: each builder has one.
func addGo(modules map[string]*module) error {
	dir, err := goRoot()
	if err != nil {
		return err
	}
	modules["Go"] = &module{path: "Go's standard library and runtime", dir: dir, dirs: map[string]bool{dir: true}}
	return nil
}

func goRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// leftOut are files that look like licences of what is linked, and are not.
var leftOut = map[string]string{
	"github.com/opencontainers/go-digest/LICENSE.docs": "of its documentation",
	"modernc.org/memory/LICENSE-LOGO":                  "of its logo",
	"modernc.org/sqlite/LICENSE-3RD-PARTY.md":          "of its tests and tools; what it links is listed here by itself",
}

var licenceName = regexp.MustCompile(`(?i)^((un)?licen[cs]e|copying|notice|patents)([-._].*)?$`)

// A licence is a text, and the files that have it.
type licence struct {
	text string
	in   []string
}

// notices returns the text of the file.
func notices(modules map[string]*module) ([]byte, error) {
	var table bytes.Buffer
	var texts []*licence
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(modules)) {
		m := modules[key]
		found, err := m.licences()
		if err == nil && len(found) == 0 {
			err = fmt.Errorf("%s has no licence", m.path)
		}
		errs = append(errs, err)
		var kinds []string
		for _, l := range found {
			kind := recognise(l.text)
			if kind == "" {
				errs = append(errs, fmt.Errorf("%s: not a licence that is permitted, or not word for word (sha256 %x)", l.in[0], sha256.Sum256([]byte(l.text))))
			}
			kinds = append(kinds, strings.Split(kind, ", ")...)
			if i := slices.IndexFunc(texts, func(x *licence) bool { return x.text == l.text }); i >= 0 {
				texts[i].in = append(texts[i].in, l.in...)
			} else {
				texts = append(texts, l)
			}
		}
		slices.Sort(kinds)
		fmt.Fprintf(&table, "  %-70s %s\n", strings.TrimSpace(m.path+" "+m.version), strings.Join(slices.Compact(kinds), ", "))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("Berth is under the Apache License 2.0 (the file LICENSE). Its binaries contain parts of the\n" +
		"modules below, some of them on some systems only, under the licences that follow.\n\n" +
		"Written by: go -C e2e run ./notices\n\n")
	b.Write(table.Bytes())
	for _, l := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n%s\n\n%s", strings.Repeat("=", 80), strings.Join(l.in, "\n"), strings.Repeat("-", 80), l.text)
	}
	return b.Bytes(), nil
}

// licences returns what is in a module's directories, but what is left out.
func (m *module) licences() (list []*licence, err error) {
	for _, dir := range slices.Sorted(maps.Keys(m.dirs)) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			file := filepath.Join(dir, e.Name())
			below, err := filepath.Rel(m.dir, file)
			if err != nil {
				return nil, err
			}
			name := path.Join(m.path, filepath.ToSlash(below))
			if e.IsDir() || !licenceName.MatchString(e.Name()) || path.Ext(name) == ".go" || leftOut[name] != "" {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			list = append(list, &licence{tidy(string(text)), []string{name}})
		}
	}
	return list, nil
}

// tidy returns a text without what differs by accident.
func tidy(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \t\r\f")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n") + "\n"
}
