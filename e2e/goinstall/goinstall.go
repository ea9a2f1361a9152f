// Package goinstall builds commands of other people's modules, at pinned versions, into Go's own cache:
// clients for the tests, registries to compare with.
package goinstall

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

var installing sync.Mutex // a build takes both cores

// Command builds the command pkg at a version and returns its path. It builds nothing when it is there
// already.
func Command(pkg, version string) (string, error) {
	return kept(filepath.Base(pkg), version, func(fresh string) error {
		return run(exec.Command("go", "install", pkg+"@"+version), fresh, "GOFLAGS=-mod=mod", "GOBIN="+fresh)
	})
}

// Within is Command for a module that go install refuses: pkg, a path like ./cmd/x, is built where the module
// is, with the versions that its own go.mod and go.sum name, or vendor.mod and vendor.sum.
func Within(module, version, pkg string) (string, error) {
	return kept(filepath.Base(pkg), version, func(fresh string) error {
		download := exec.Command("go", "mod", "download", "-json", module+"@"+version)
		download.Dir = fresh
		out, err := download.Output()
		if err != nil {
			return fmt.Errorf("go mod download: %w\n%s", err, out)
		}
		var at struct{ Dir string }
		if err := json.Unmarshal(out, &at); err != nil {
			return err
		}
		src := at.Dir
		if _, err := os.Stat(filepath.Join(src, "vendor.mod")); err == nil {
			src = filepath.Join(fresh, "src")
			defer os.RemoveAll(src)
			if err := os.CopyFS(src, os.DirFS(at.Dir)); err != nil {
				return err
			}
			for _, kind := range []string{"mod", "sum"} {
				if err := os.Rename(filepath.Join(src, "vendor."+kind), filepath.Join(src, "go."+kind)); err != nil {
					return err
				}
			}
		}
		return run(exec.Command("go", "build", "-mod=readonly", "-o", fresh+"/", pkg), src, "GOFLAGS=-buildvcs=false")
	})
}

// kept returns the path of a program in the cache, having it built into a fresh directory when it is not there.
func kept(name, version string, build func(fresh string) error) (string, error) {
	installing.Lock()
	defer installing.Unlock()
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOCACHE: %w", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(cache)), "berth-e2e", name+"@"+version)
	if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
		return filepath.Join(dir, name), nil
	}
	// Build beside and rename, so that an interrupted build is never taken for a whole one.
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := build(fresh); err != nil {
		return "", err
	}
	return filepath.Join(dir, name), os.Rename(fresh, dir)
}

// run runs the go command in a directory outside of this module.
func run(cmd *exec.Cmd, dir string, env ...string) error {
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", cmd.Args[1], err, out)
	}
	return nil
}
