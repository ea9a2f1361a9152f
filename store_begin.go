// Where a registry may begin.
//
// A start without berth.db begins a new registry. It must not begin in a directory in which
// somebody else keeps things, registry:2 above all, whose images would seem to be lost; and not
// where a disk belongs that is not mounted: an empty registry would come up there, open to
// everybody, because the users are on that disk, too. Berth cannot see a disk that is not there.
// So two things say that one is missing: --existing, with which nothing is begun, and the file
// berth.not-mounted, which lies in the mount point and which the disk hides as long as it is
// mounted.
//
// Nothing is written before all this was looked at, so that a refused start leaves nothing behind.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// notMountedMark is the file that says that a disk is to be mounted over it.
const notMountedMark = "berth.not-mounted"

// Premises are what a start finds in the place of the data directory.
type premises int

const (
	noDirectory   premises = iota
	noRegistryYet          // a directory that is empty, or has what may be there before the first start
	aRegistry              // or what was one: opening it tells
)

// survey finds out whether there is a registry, and refuses to begin one where none may.
// It changes nothing.
func (data *dataDir) survey() (premises, error) {
	if err := data.refuseUnmounted(); err != nil {
		return 0, err
	}
	switch there, err := lookForDirectory(data.dir); {
	case err != nil:
		return 0, err
	case !there:
		return noDirectory, data.refuseToBegin()
	}
	switch info, err := os.Stat(filepath.Join(data.dir, "berth.db")); {
	case errors.Is(err, fs.ErrPermission):
		return aRegistry, nil // for all that can be seen; taking the lock says more
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("looking at the database: %w", err)
	case err == nil && info.Size() > 0:
		return aRegistry, nil
	}
	if inside := distributionIn(data.dir); inside != "" {
		return 0, fmt.Errorf("%s has the images of registry:2 in it (%s), which Berth does not read. Give Berth a directory of its own with --data, "+
			"and copy the images from the old registry while both run: docs/migrate.md shows how", data.whole(), filepath.Join(data.whole(), inside))
	}
	restoring, err := isThere(filepath.Join(data.dir, restoringMark))
	if err != nil || restoring || data.refuseBlobs() != nil {
		return aRegistry, err // without its database; lookForBlobs says what to do
	}
	if err := data.refuseToBegin(); err != nil {
		return 0, err
	}
	return noRegistryYet, data.refuseStrangers()
}

// lookForDirectory reports whether there is a data directory. What is in its place, or on the way there, is
// an error, and so is a directory that cannot be looked at.
func lookForDirectory(dir string) (there bool, err error) {
	const named = "name the registry's with --data or BERTH_DATA"
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return false, fmt.Errorf("%s is a file, not a directory; "+named, dir)
	case errors.Is(err, syscall.ENOTDIR):
		return false, fmt.Errorf("%s cannot be a directory: a file is on the way there; "+named, dir)
	case errors.Is(err, fs.ErrNotExist):
		if target, e := os.Readlink(dir); e == nil {
			return false, fmt.Errorf("%s is a link to %s, which does not exist: is a disk not mounted?", dir, target)
		}
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking at the data directory: %w", err)
	}
	return true, nil
}

// refuseUnmounted returns an error if the data directory, or its blobs, are where a disk is
// to be mounted and is not.
func (data *dataDir) refuseUnmounted() error {
	for _, dir := range []string{data.dir, filepath.Join(data.dir, "blobs")} {
		at, err := realPath(dir)
		if err != nil {
			continue // opening it tells
		}
		for {
			mark := filepath.Join(at, notMountedMark)
			if there, err := isThere(mark); err == nil && there {
				return fmt.Errorf("the disk for %s is not mounted: there is a file %s, which it would hide. "+
					"Mount the disk; if it is mounted, the file is on the disk by mistake: remove it", dir, mark)
			}
			if at == filepath.Dir(at) {
				break
			}
			at = filepath.Dir(at)
		}
	}
	return nil
}

// refuseToBegin returns an error if no registry may be begun.
func (data *dataDir) refuseToBegin() error {
	if !data.existing {
		return nil
	}
	return fmt.Errorf("there is no registry in %s, and --existing (BERTH_EXISTING) forbids beginning a new one: is a disk not mounted? "+
		"If a new registry is to begin there, start Berth once with --existing=false", data.dir)
}

// refuseStrangers returns an error if there are things that neither Berth nor the system
// has put into the data directory, which has no registry.
func (data *dataDir) refuseStrangers() error {
	entries, err := os.ReadDir(data.dir)
	if err != nil {
		return fmt.Errorf("looking into the data directory: %w", err)
	}
	strange := slices.DeleteFunc(entries, data.expects)
	if len(strange) == 0 {
		return nil
	}
	if inside := data.registryInside(); inside != "" {
		if isBackup(inside) {
			return fmt.Errorf("%s is neither empty nor a registry, but there is a backup of one in it, which --read-only leaves a backup: --data %s --read-only", data.whole(), inside)
		}
		return fmt.Errorf("%s is neither empty nor a registry, but there is one in it: --data %s", data.whole(), inside)
	}
	if layout := layoutIn(data.whole()); layout != "" {
		return fmt.Errorf("%s has images in it as OCI layouts (%s), as zot, olareg and tools like skopeo keep them, and Berth does not read them. "+
			"Give Berth a directory of its own with --data, and copy the images with one of the tools that docs/migrate.md shows", data.whole(), layout)
	}
	var names []string
	for _, e := range strange[:min(len(strange), 3)] {
		names = append(names, e.Name())
	}
	if more := len(strange) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strangersError{fmt.Errorf("%s is neither empty nor a registry: it has %s. Name a directory that is empty or does not exist yet, such as --data %s",
		data.whole(), sentenceList(names), filepath.Join(data.whole(), "berth"))}
}

// A strangersError says that a directory has things in it that are not known, and that another may be named
// for a new registry.
type strangersError struct{ error }

// registryInside returns the whole path of a registry that is in the directory, as a directory of its own, and
// only if there is no other of one that is a backup; "" if none can be seen.
func (data *dataDir) registryInside() string {
	entries, _ := os.ReadDir(data.dir) // which its reader looks at again
	found := ""
	for _, e := range entries {
		inside := filepath.Join(data.whole(), e.Name())
		if there, err := isThere(filepath.Join(inside, "berth.db")); err != nil || !there || data.expects(e) {
			continue
		}
		if !isBackup(inside) {
			return inside
		}
		found = cmp.Or(found, inside)
	}
	return found
}

// isBackup reports whether a directory is a backup, as far as can be seen.
func isBackup(dir string) bool {
	there, err := isThere(filepath.Join(dir, backupMark))
	return err == nil && there
}

// expects reports whether something may be in a directory in which a registry begins: what
// Berth's own commands and the documentation put there before the first start, what a start
// left that went no further, and what systems leave in a directory that looks empty.
func (data *dataDir) expects(e fs.DirEntry) bool {
	name := e.Name()
	switch name {
	case "blobs", "uploads", "quarantine", "snapshots", "tls", "token.key", reserveFile:
		return true
	case "lost+found", "System Volume Information", "$RECYCLE.BIN", "desktop.ini", "Thumbs.db", // file systems, Windows
		"@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", // network storage
		"aquota.user", "aquota.group", "quota.user", "quota.group":
		return true
	}
	if strings.HasPrefix(name, ".") { // of shells, desktops, disks and editors; no program has only such files for its data
		return true
	}
	for _, ours := range []string{"berth", "login", usersFile, policyFile, eventsFile} { // and what editors make of them
		if strings.HasPrefix(name, ours) && !e.IsDir() {
			return true
		}
	}
	return slices.ContainsFunc(data.named, func(given string) bool {
		dir, e1 := filepath.Abs(data.dir)
		file, e2 := filepath.Abs(given)
		rel, e3 := filepath.Rel(dir, file)
		first, _, _ := strings.Cut(rel, string(filepath.Separator))
		return given != "" && errors.Join(e1, e2, e3) == nil && first == name
	})
}

// distributionIn returns where in a directory registry:2 (distribution) keeps images, as a path relative to it, or
// "". The directory may be the one that registry:2 was given, the one around it, or one further in.
func distributionIn(dir string) string {
	layout := filepath.Join("docker", "registry", "v2")
	for _, inside := range []string{layout, filepath.Join("registry", "v2"), "v2", "."} {
		repositories, e1 := os.Stat(filepath.Join(dir, inside, "repositories"))
		blobs, e2 := os.Stat(filepath.Join(dir, inside, "blobs"))
		if e1 == nil && e2 == nil && repositories.IsDir() && blobs.IsDir() {
			return inside
		}
	}
	for _, pattern := range []string{layout, filepath.Join("*", layout)} {
		if found, _ := filepath.Glob(filepath.Join(globQuote(dir), pattern)); found != nil {
			if inside, err := filepath.Rel(dir, found[0]); err == nil {
				return inside
			}
		}
	}
	return ""
}

// layoutIn returns the path of the first OCI layout in a directory that is found without
// looking far, or "".
func layoutIn(dir string) (layout string) {
	const enough, deep = 1000, 5
	seen := 0
	if real, err := filepath.EvalSymlinks(dir); err == nil { // WalkDir follows no link
		dir = real
	}
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		seen++
		rel, _ := filepath.Rel(dir, path)
		switch {
		case seen > enough:
			return fs.SkipAll
		case err != nil:
			return nil // what cannot be seen is none
		case e.IsDir() && (e.Name() == "blobs" || strings.Count(rel, string(filepath.Separator)) >= deep):
			return fs.SkipDir
		case !e.IsDir() && e.Name() == "oci-layout":
			layout = filepath.Dir(path)
			return fs.SkipAll
		}
		return nil
	})
	return layout
}

// sentenceList is a list as a sentence has it.
func sentenceList(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}
