// Shards: the 256 directories in which an algorithm's blobs have theirs.
//
// On a slow disk it takes a while to make them, so they are made when they are needed. A
// copy of a data directory may lack some. A database with blobs beside a directory that
// has none of them is refused: their disk is not mounted, most likely.

package main

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// missingShards returns which of the 256 directories of an algorithm's blobs are not
// there; found reports whether there is a blob in any of the others. Copies that
// leave empty directories out (of rclone, git, zip) lack some. The error is
// fs.ErrNotExist if there is not even the directory of them.
func (data *dataDir) missingShards(algorithm digest.Algorithm) (missing []string, found bool, err error) {
	dir := data.blobsDir(algorithm)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, false, err
	}
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		there[e.Name()] = true
	}
	var present []string
	for i := range 256 {
		if name := fmt.Sprintf("%02x", i); there[name] {
			present = append(present, name)
		} else {
			missing = append(missing, name)
		}
	}
	for i := 0; i < len(present) && len(missing) > 0 && !found; i++ {
		blobs, err := filepath.Glob(filepath.Join(dir, present[i], present[i]+"*"))
		found = err == nil && len(blobs) > 0
	}
	return missing, found, nil
}

// makeShards makes the 256 directories in which an algorithm's blobs have theirs,
// unless they are there, and syncs their names. On a slow disk that takes a while, so
// it waits until it is needed; hardly anybody needs those of sha512. The error is
// errNoSpace if there is no room for all of them: then none is made. Before it makes
// any it asks may, unless that is nil.
func (data *dataDir) makeShards(algorithm digest.Algorithm, may func() error) error {
	data.shards.Lock()
	defer data.shards.Unlock()
	made := &data.shards.sha256
	if algorithm == digest.SHA512 {
		made = &data.shards.sha512
	}
	if *made {
		return nil
	}
	dir := data.blobsDir(algorithm)
	missing, _, err := data.missingShards(algorithm)
	if err == nil && len(missing) > 0 && may != nil {
		err = may()
	}
	if err == nil && len(missing) > 0 {
		err = data.roomForFiles(int64(len(missing))*4096, uint64(len(missing)))
	}
	if err != nil {
		return err
	}
	for _, name := range missing {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	// Also if the process that made them, or dir itself, was killed before it could.
	for _, dir := range []string{dir, filepath.Dir(dir), data.dir} {
		if err := data.syncDir(dir); err != nil {
			return err
		}
	}
	*made = true
	return nil
}

// completeShards makes those that a copy of the directory has left out. Until they are
// there it looks as if a disk were missing.
func (data *dataDir) completeShards() error {
	for _, algorithm := range algorithms {
		missing, found, err := data.missingShards(algorithm)
		if err == nil && found && len(missing) > 0 {
			err = data.makeShards(algorithm, nil)
		}
		if err != nil && !errors.Is(err, errNoSpace) { // the next push tries again
			return err
		}
	}
	return nil
}

// lookForShards refuses a database with blobs of which neither the directories are
// there nor any blob.
func (db *database) lookForShards(conn *sql.DB) error {
	for _, algorithm := range algorithms {
		missing, found, err := db.missingShards(algorithm)
		if err == nil && (found || len(missing) == 0) {
			continue
		}
		var blobs bool
		if e := conn.QueryRow(`SELECT EXISTS (SELECT 1 FROM blob WHERE digest >= ? AND digest < ?)`, algorithm+":", algorithm+";").Scan(&blobs); e != nil {
			return db.damaged(e)
		}
		if blobs && err == nil {
			err = fmt.Errorf("there is no blob in %s", db.blobsDir(algorithm))
		}
		if blobs {
			return db.notMounted(err)
		}
	}
	return nil
}

// blobsAreHere returns an error if the disk that has the blobs has gone since the start.
func (db *database) blobsAreHere() error { return db.lookForShards(db.readers) }

// A shard is the directory of the blobs whose digests begin alike.
type shard struct {
	algorithm digest.Algorithm
	prefix    string
}

// shards are all there can be, in the order of digests.
func shards() (list []shard) {
	for _, algorithm := range algorithms {
		for i := range 256 {
			list = append(list, shard{algorithm, fmt.Sprintf("%02x", i)})
		}
	}
	return list
}

type blobRow struct {
	digest  digest.Digest
	size    int64
	damaged bool
}

// from and to are what a shard's digests are between.
func (s shard) from() string { return s.algorithm.String() + ":" + s.prefix }

func (s shard) to() string { return s.from() + "g" }

const blobsInShard = `SELECT digest, size, damaged IS NOT NULL FROM blob WHERE digest >= ? AND digest < ? ORDER BY digest`

func scanBlobRow(rows *sql.Rows) (b blobRow, err error) {
	err = rows.Scan(&b.digest, &b.size, &b.damaged)
	return b, err
}

// blobs returns the rows of a shard, in order.
func (s shard) blobs(st *store) ([]blobRow, error) {
	return listRows(st, scanBlobRow, blobsInShard, s.from(), s.to())
}

// strangers returns the files of a shard that belong to nothing, relative to
// the data directory. rows are the shard's.
func (s shard) strangers(st *store, rows []blobRow) (strangers []string, err error) {
	known := make(map[string]bool, len(rows))
	for _, b := range rows {
		known[b.digest.Encoded()] = true
	}
	dir := filepath.Join("blobs", s.algorithm.String(), s.prefix)
	entries, err := os.ReadDir(filepath.Join(st.dir, dir))
	if len(rows) == 0 && errors.Is(err, fs.ErrNotExist) {
		if there, e := isThere(st.blobsDir(s.algorithm)); e != nil || there {
			return nil, e // they are made when they are needed
		}
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !e.IsDir() {
			strangers = append(strangers, path)
			continue
		}
		files, err := os.ReadDir(filepath.Join(st.dir, path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, f := range files {
			path := filepath.Join(path, f.Name())
			if f.Name() == "data" {
				d := digest.NewDigestFromEncoded(s.algorithm, e.Name())
				if known[e.Name()] {
					continue
				}
				if d.Validate() == nil && st.path(d) == filepath.Join(st.dir, path) {
					unlock := st.digests.lock(d.String())
					taken := !ownerless(st, d)
					unlock()
					if taken {
						continue
					}
				}
			}
			strangers = append(strangers, path)
		}
	}
	return strangers, nil
}

// ownerless reports whether a file is at the place of d that has no row of any
// kind. The caller holds the digest's lock, so no push is about to give it one.
func ownerless(st *store, d digest.Digest) bool {
	var n int
	err := st.get(`SELECT (SELECT count(*) FROM blob WHERE digest = ?1) + (SELECT count(*) FROM trash WHERE digest = ?1)`, []any{d}, &n)
	_, missing := os.Lstat(st.path(d))
	return err == nil && n == 0 && missing == nil
}
