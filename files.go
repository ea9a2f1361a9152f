// Files: written whole or not at all, read in one piece, compared, copied.
//
// What takes another file's place is written beside it under another name, synced and renamed.

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// makeAll is os.MkdirAll that syncs the parent of each directory it makes.
func makeAll(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if parent != dir {
		if err := makeAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// replaceFile writes a file so that it is there as a whole, old or new, whatever
// happens. Its directory is made if need be. Nobody else may read it, unless
// they could before.
func replaceFile(path string, content []byte) error {
	if err := refuseForeignLink(path); err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir := filepath.Dir(path)
	if err := makeAll(dir); err != nil {
		return err
	}
	mode, like := fs.FileMode(0o600), dir
	if info, err := os.Stat(path); err == nil {
		mode, like = info.Mode().Perm(), path
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	keepOwner(f, like) // root edits for a server that is not root
	_, err = f.Write(content)
	if err == nil {
		if mode != 0o600 { // which it has, and FAT has no others
			err = f.Chmod(mode)
		}
		err = errors.Join(err, syncData(f))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// rewriteInPlace gives a users' file other lines where no new file can take its place:
// it is a mount by itself, as in a container, or its directory is read-only. The new
// lines come behind the old ones, of which none counts then, and when they are safe also
// in front: whoever reads the file meanwhile, or after a crash, finds all of text's users,
// whose last line is the new one. Only one who is being removed may still be there. at is
// called at the named points; tests look there.
func rewriteInPlace(path, text string, at func(point string)) (err error) {
	mode := os.O_WRONLY
	if foreign(filepath.Dir(path)) {
		mode |= noFollow
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	old, n := info.Size(), int64(len(text))
	gap := strings.Repeat("\n", int(max(n-old, 0))+1) // so that the two do not overlap
	if _, err = f.WriteAt([]byte(gap+text), old); err == nil {
		err = syncData(f)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), f.Truncate(old))
	}
	at("behind")
	if _, err = f.WriteAt([]byte(text), 0); err == nil {
		err = syncData(f)
	}
	if err == nil {
		at("in front")
		err = errors.Join(f.Truncate(n), syncData(f))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// writeSynced makes a file of body that is there whole or not at all, whenever
// the power is cut. It belongs to whom the directory belongs: root restores what
// another user serves.
func writeSynced(path string, body io.Reader) error {
	temp := path + ".new"
	defer os.Remove(temp)
	f, err := createAnew(temp)
	if err != nil {
		return err
	}
	keepOwner(f, filepath.Dir(path))
	if _, err = io.Copy(f, body); err == nil {
		err = syncData(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// removeSynced removes a file and syncs its directory; was reports whether it was there. That there is none is no error.
func removeSynced(path string) (was bool, err error) {
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err == nil, err
}

// sameFile reports whether two paths lead to the same thing: a mount may.
func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// realPath is a path without links, of which the end may be still to be made.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(path) != path {
		parent, err := realPath(filepath.Dir(path))
		return filepath.Join(parent, filepath.Base(path)), err
	}
	return real, err
}

// isThere reports whether there is something at path. An error says that it cannot be
// looked at: whoever takes that for "no" begins an empty registry, or an open one.
func isThere(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// anyThere is isThere for at least one of the paths.
func anyThere(paths ...string) (bool, error) {
	for _, path := range paths {
		if there, err := isThere(path); err != nil || there {
			return there, err
		}
	}
	return false, nil
}

// syncDirs makes the names in directories survive a power cut. on is an open file of
// their file system, as a rule.
func syncDirs(on *os.File, dirs map[string]bool) error {
	if done, err := syncFileSystem(on, dirs); done {
		return err
	}
	for dir := range dirs {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// cloneTo makes the file path share the blocks of src, synced.
func cloneTo(path string, src *os.File) error {
	dst, err := createAnew(path)
	if err != nil {
		return err
	}
	if err = cloneFile(dst, src); err == nil {
		err = syncData(dst)
	}
	return errors.Join(err, dst.Close())
}

// readFile reads a file of people's, whose size is bounded.
func readFile(path string) (text []byte, info fs.FileInfo, err error) {
	f, err := os.Open(path)
	if err != nil {
		if _, e := os.Lstat(path); e == nil && errors.Is(err, fs.ErrNotExist) {
			// A link to a disk that is not there yet, say: that is not no file.
			err = fmt.Errorf("%s is a link to something that does not exist", path)
		}
		return nil, nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	text, err = io.ReadAll(io.LimitReader(f, maxWatched+1))
	if err == nil && len(text) > maxWatched {
		err = fmt.Errorf("longer than %s", formatSize(maxWatched))
	}
	return text, info, err
}

// createAnew makes a file that nobody else may read. What has its name is removed,
// and not followed if it is a link.
func createAnew(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// writeNew writes a file that is not there.
func writeNew(path string, body []byte) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(body); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openSized opens a file that must have size bytes; errDamaged if it has not.
func openSized(path string, size int64) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != size {
		err = fmt.Errorf("the file has %d bytes, want %d: %w", info.Size(), size, errDamaged)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openUpload opens a session's file, which it cuts to size bytes.
func openUpload(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening an upload's file: %w", err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("looking at an upload's file: %w", err)
	case info.Size() < size:
		err = fmt.Errorf("an upload's file has %d bytes, want %d", info.Size(), size)
	case info.Size() > size: // bytes that a crash left beyond the offset
		if err = f.Truncate(size); err != nil {
			err = fmt.Errorf("cutting an upload's file: %w", err)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sumFile returns the digest of all of f. spend, unless nil, is called after
// each read with the number of bytes; its error ends the reading.
func sumFile(f *os.File, algorithm digest.Algorithm, spend func(int) error) (digest.Digest, error) {
	h := algorithm.Hash()
	buffer := largeBuffers.Get().(*[]byte)
	defer largeBuffers.Put(buffer)
	for at := int64(0); ; {
		n, err := f.ReadAt(*buffer, at)
		h.Write((*buffer)[:n])
		at += int64(n)
		if err != nil && err != io.EOF {
			return "", err
		}
		if spend != nil {
			if err := spend(n); err != nil {
				return "", err
			}
		}
		if err == io.EOF {
			return digest.NewDigest(algorithm, h), nil
		}
	}
}

// verifyFile returns an error unless the file at path has the digest d.
func verifyFile(path string, d digest.Digest) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, err := sumFile(f, d.Algorithm(), nil)
	if err == nil && sum != d {
		err = fmt.Errorf("its bytes have the digest %s", sum)
	}
	return err
}

// globQuote makes a path one that only it matches.
func globQuote(path string) string {
	if os.PathSeparator == '\\' {
		return path // which has no way to quote, nor a need: *, ? are not in names
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// foreign reports whether root works in a directory of somebody else.
func foreign(dir string) bool {
	uid, _, ok := dirOwner(dir)
	return isRoot() && ok && uid != 0
}

// refuseForeignLink refuses a file that is elsewhere, where root works in a directory of
// somebody else.
func refuseForeignLink(path string) error {
	if isLink(path) && foreign(filepath.Dir(path)) {
		return fmt.Errorf("%s is a link, and root does not follow links in somebody else's directory", path)
	}
	return nil
}
