// Package goinstall builds commands of other people's modules, at pinned versions, into Go's own cache:
// clients for the tests, registries to compare with.
package goinstall

import (
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
	installing.Lock()
	defer installing.Unlock()
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOCACHE: %w", err)
	}
	name := filepath.Base(pkg)
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
	cmd := exec.Command("go", "install", pkg+"@"+version)
	cmd.Dir = fresh // outside of this module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off", "GOBIN="+fresh)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install: %w\n%s", err, out)
	}
	return filepath.Join(dir, name), os.Rename(fresh, dir)
}
