// Places: where bytes arrive that are to become blobs.
//
// A file becomes a blob by a rename, and is put aside by one, so uploads/ and
// quarantine/ are on the disk of the blobs. As a rule that is the data directory's.
// But blobs/ may be a disk of its own, as a mount or a link, and then they are in
// blobs/. Each start finds out by trying: file systems refuse such a rename also
// where it is the same disk, mounted twice, or between subvolumes.

package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// probeFile is the name of a file that is made only to see whether that can be.
const probeFile = "berth.probe"

// places are the directories in which uploads/ and quarantine/ may be, relative to the
// data directory, the first for preference.
var places = []string{"", "blobs"}

// findPlace decides where bytes arrive, and makes the directory for them.
func (data *dataDir) findPlace() error {
	for _, place := range places {
		dir := filepath.Join(data.dir, place)
		uploads := filepath.Join(dir, "uploads") // which may be a link by itself
		if err := makeAll(uploads); err != nil {
			return err
		}
		near := true
		for _, algorithm := range algorithms {
			near = near && moves(dir, data.blobsDir(algorithm)) && moves(uploads, data.blobsDir(algorithm))
		}
		if near {
			data.arrivals = dir
			return nil
		}
	}
	return fmt.Errorf("%s is on several disks: no file can be moved to both %s and %s. What to do: put all of it on one disk, and mount or link that as a whole",
		filepath.Join(data.dir, "blobs"), data.blobsDir(algorithms[0]), data.blobsDir(algorithms[1]))
}

// moves reports whether files can be renamed from one directory to the other, as far
// as disks matter.
func moves(from, to string) bool {
	old, moved := filepath.Join(from, probeFile), filepath.Join(to, probeFile)
	if f, err := createAnew(old); err == nil { // if not, the disk may be full: the rename tells all the same
		f.Close()
		defer os.Remove(old)
	}
	err := os.Rename(old, moved)
	if err == nil {
		os.Remove(moved)
	}
	return !isOtherDisk(err)
}

// apart reports whether blobs are on another disk than the database.
func (data *dataDir) apart() bool { return data.arrivals != data.dir }

// refuseUnmapped refuses, before anything is made, a file system that lacks what SQLite
// needs for a log whose index all connections share.
func (data *dataDir) refuseUnmapped() error {
	dir := data.dir
	for filepath.Dir(dir) != dir {
		there, err := isThere(dir)
		if err != nil {
			return err
		}
		if there {
			break
		}
		dir = filepath.Dir(dir)
	}
	if mapsFiles(dir) {
		return nil
	}
	return fmt.Errorf("the file system of %s cannot map files into shared memory, which the database needs. What to do: mount it with an option that allows this "+
		"(mergerfs: cache.files=auto-full, 9p: cache=mmap), or put the data directory on another disk, and only its blobs/ here, by a link or a mount", data.dir)
}
