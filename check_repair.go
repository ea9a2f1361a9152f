// What a check has found, put right: `berth repair`.
//
// Repair changes rows and files only in the direction of the invariants (store.go): a count is
// counted again, a file without a row becomes a blob again if a repository can have it, and is
// otherwise kept until it is said that no image is missed: the database may be older than the file,
// from a backup or a snapshot. It never makes up what is lost: a blob that rotted stays out of
// service until it is pushed again.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// removeStranger removes a file that strangers found, if it is at a place
// where only Berth puts files and still belongs to nothing.
func (sc *scrubber) removeStranger(path string) (removed bool, err error) {
	parts := strings.Split(filepath.ToSlash(path), "/")
	if len(parts) != 5 || parts[4] != "data" {
		return false, nil
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[3])
	if d.Validate() != nil || sc.path(d) != filepath.Join(sc.dir, path) {
		return false, nil
	}
	unlock := sc.digests.lock(d.String())
	defer unlock()
	if !ownerless(sc.store, d) {
		return false, nil
	}
	if err := os.Remove(sc.path(d)); err != nil {
		return false, err
	}
	os.Remove(filepath.Dir(sc.path(d))) // what is left if there is more in it
	return true, nil
}

// adopt puts a damaged blob back into service if its file is good after all: it
// was missing and is back, or was put aside by a mistake.
func (sc *scrubber) adopt(d digest.Digest) (adopted bool, err error) {
	unlock := sc.digests.lock(d.String())
	defer unlock()
	for _, path := range []string{sc.path(d), sc.aside(d)} {
		info, err := os.Stat(path)
		if err != nil || verifyFile(path, d) != nil {
			continue
		}
		if path != sc.path(d) {
			dir := filepath.Dir(sc.path(d))
			if err := makeAll(dir); err != nil {
				return false, err
			}
			if err := os.Rename(path, sc.path(d)); err != nil {
				return false, err
			}
			if err := errors.Join(sc.syncDir(filepath.Dir(path)), sc.syncDir(dir)); err != nil {
				return false, err
			}
		}
		f, err := os.OpenFile(sc.path(d), os.O_RDWR, 0) // its bytes may only be in memory
		if err != nil {
			return false, err
		}
		if err := errors.Join(sc.syncData(f), f.Close()); err != nil {
			return false, err
		}
		if err := sc.syncDir(filepath.Dir(sc.path(d))); err != nil {
			return false, err
		}
		err = sc.update(func(t *tx) error {
			n, err := t.exec(`UPDATE blob SET damaged = NULL, size = ? WHERE digest = ? AND damaged IS NOT NULL`, info.Size(), d)
			adopted = n > 0
			return err
		})
		if adopted && err == nil {
			sc.log.Info("blob whole again", "digest", d)
		}
		return adopted, err
	}
	return false, nil
}

// repairCommand is `berth repair`: it does what can be done about what check
// finds. No image that is whole loses anything by it.
func repairCommand(ctx context.Context, st *store, o options, out *console) error {
	if st.writer == nil {
		return errReadOnlyDisk
	}
	r, err := checkWithProgress(ctx, st, o.Deep, out)
	if err != nil {
		return err
	}
	a := repairAnswer{Wrong: []repaired{}, LeftOver: []repaired{}, WholeAgain: []string{}, PushAgain: []string{}}
	failed := a.repair(st, r, !o.LeftOver)
	damaged, err := listRows(st, scanOne[string], `SELECT digest FROM blob WHERE damaged IS NOT NULL`)
	if err != nil {
		return err
	}
	for _, d := range damaged {
		adopted, err := st.scrubber.adopt(digest.Digest(d))
		if err != nil {
			return err
		}
		if adopted {
			a.WholeAgain = append(a.WholeAgain, "blob "+d)
		}
	}
	again := &report{st: st}
	if err := st.look(ctx, func(s snapshot) error { again.snapshot = s; return again.checkDamaged() }); err != nil {
		return err
	}
	a.PushAgain = append(a.PushAgain, again.damaged...)
	if o.JSON {
		err = out.json(a)
	} else {
		a.print(out)
	}
	switch {
	case err != nil:
		return err
	case failed > 0:
		return fmt.Errorf("%s could not be repaired", plural(failed, "thing"))
	case len(a.PushAgain) > 0:
		return fmt.Errorf("%s out of service until pushed again", plural(len(a.PushAgain), "thing"))
	case !o.JSON:
		out.printf("all is well\n")
	}
	return nil
}

// repair repairs what a check has found, and removes what it found to be left over; if
// keep, not the files of blobs. It returns how many of the findings could not be repaired.
func (a *repairAnswer) repair(st *store, r *report, keep bool) (failed int) {
	for _, f := range r.findings {
		did, err := "nothing can be done here", error(nil)
		if f.repair != nil {
			did, err = f.repair(st)
		}
		if f.repair == nil || err != nil {
			failed++
		}
		if err != nil {
			did = err.Error()
		}
		a.Wrong = append(a.Wrong, repaired{f.problem, did})
	}
	for _, path := range r.rubbish {
		if keep && isBlobFile(path) {
			a.LeftOver = append(a.LeftOver, repaired{path, "kept, for an image that may be missed"})
			a.kept = true
			continue
		}
		removed, err := st.scrubber.removeStranger(path)
		if dir := filepath.Dir(path); isUUID(filepath.Base(path)) && (dir == "uploads" || dir == filepath.Join("blobs", "uploads")) {
			err = os.Remove(filepath.Join(st.dir, path))
			removed = err == nil
		}
		did := "not Berth's, and so left alone"
		switch {
		case err != nil:
			did = err.Error()
		case removed:
			did = "removed"
		}
		a.LeftOver = append(a.LeftOver, repaired{path, did})
	}
	return failed
}

// A repairAnswer is what repair has done.
type repairAnswer struct {
	Wrong      []repaired `json:"wrong"`
	LeftOver   []repaired `json:"leftOver"`
	WholeAgain []string   `json:"wholeAgain"`
	PushAgain  []string   `json:"pushAgain"`
	kept       bool       // files that were left over stay
}

type repaired struct {
	What string `json:"what"`
	Did  string `json:"did"`
}

func (a *repairAnswer) print(out *console) {
	for _, x := range a.Wrong {
		out.printf("WRONG: %s: %s\n", x.What, x.Did)
	}
	for _, x := range a.LeftOver {
		out.printf("left over: %s: %s\n", x.What, x.Did)
	}
	if a.kept {
		out.printf("`berth repair --left-over` removes what is kept, once no image is missed\n")
	}
	for _, what := range a.WholeAgain {
		out.printf("%s: whole again\n", what)
	}
	for _, what := range a.PushAgain {
		out.printf("PUSH AGAIN: %s\n", what)
	}
	if len(a.PushAgain) > 0 {
		out.printf("docker and podman push what is missing. Tools that copy between registries, such as crane and skopeo, skip an image whose tag is there: " +
			"remove the tag first (berth rm NAME:TAG)\n")
	}
}
