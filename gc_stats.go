// How much is stored, what of it is garbage, and what repositories share.
//
// Triggers keep the counts (store_schema.go), so most figures are there to be read.
// What untagged images would give back is worked out (gc_plan.go), and kept until
// something changes. All of it is cheap enough for every page.

package main

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// An amount of blobs, uploads or the like.
type amount struct {
	Count int64 `json:"count"`
	Bytes int64 `json:"bytes"`
}

// figures are of one moment, and exact.
type figures struct {
	Repositories        int64  `json:"repositories"`        // that clients see
	DeletedRepositories int64  `json:"deletedRepositories"` // that can be brought back
	Tags                int64  `json:"tags"`
	Manifests           amount `json:"manifests"`
	Untagged            int64  `json:"untagged"` // manifests without a tag, an index or a subject, or deleted
	Blobs               amount `json:"blobs"`
	Shared              amount `json:"shared"` // of the blobs, those in several repositories
	Saved               int64  `json:"saved"`  // bytes that this saves
	Unused              amount `json:"unused"` // of the blobs, those that no manifest uses

	Reclaimable amount `json:"reclaimable"` // of the blobs, what is being removed
	InGrace     amount `json:"inGrace"`     // of the blobs, what will be, once its grace is over

	Uploads     amount `json:"uploads"`     // open
	Quarantined amount `json:"quarantined"` // damaged blobs and manifests

	Database  int64  `json:"database"` // bytes of its file and its log
	DiskFree  uint64 `json:"diskFree"` // of the disk of the blobs
	DiskTotal uint64 `json:"diskTotal"`
	DiskFloor uint64 `json:"diskFloor"` // pushes leave as much

	DatabaseDisk *diskFigures `json:"databaseDisk,omitempty"` // if it is another

	Uptime   int64 `json:"uptime"`   // of the data directory, in seconds
	Scrubbed int64 `json:"scrubbed"` // uptime when all was last read and found as it should be, or put aside; 0 for never
}

type diskFigures struct {
	Free  uint64 `json:"free"`
	Total uint64 `json:"total"`
	Floor uint64 `json:"floor"`
}

// repositoryFigures are of one repository. Bytes are of its blobs; those that
// other repositories have too are also in Shared, and those that no manifest
// uses in Unused.
type repositoryFigures struct {
	Name      string `json:"name"`
	Tags      int64  `json:"tags"`
	Manifests amount `json:"manifests"`
	Untagged  int64  `json:"untagged"`
	Blobs     amount `json:"blobs"`
	Shared    amount `json:"shared"`
	Unused    amount `json:"unused"`
}

// garbage is what would go if all graces were over, without what is in the
// trash. It holds until the next durable commit.
type garbage struct {
	mu     sync.Mutex // guards the rest
	known  bool
	commit int64 // of which it is
	all    tally
	made   time.Time
	took   time.Duration
}

// statistics count what their store has.
type statistics struct {
	*store
	garbage garbage
}

// figures returns the whole registry's.
func (x *statistics) figures(ctx context.Context) (figures, error) { return x.figuresOr(ctx, 0) }

// figuresOr is figures, of which InGrace may be older than the rest if it took
// long to work out: patience times as old as that.
func (x *statistics) figuresOr(ctx context.Context, patience int) (f figures, err error) {
	commit, quiet := x.commits()
	err = x.look(ctx, func(s snapshot) error {
		err := s.get(`SELECT blobs, bytes, shared_blobs, shared_bytes, loose_blobs, loose_bytes, scrubbed FROM total, meta`, nil,
			&f.Blobs.Count, &f.Blobs.Bytes, &f.Shared.Count, &f.Shared.Bytes, &f.Unused.Count, &f.Unused.Bytes, &f.Scrubbed)
		if err != nil {
			return err
		}
		if after, still := x.commits(); !still || after != commit {
			quiet = false // the snapshot may be of either
		}
		all, err := x.garbageIn(s, commit, quiet, patience)
		if err != nil {
			return err
		}
		due := newPlanner(x.store, s, x.graces(), false, func(doomed) error { return nil })
		if err := due.rows(); err != nil {
			return err
		}
		f.InGrace = amount{max(0, int64(all.Blobs-due.total.Blobs)), max(0, all.Bytes-due.total.Bytes)}
		if err := due.trash(); err != nil {
			return err
		}
		f.Reclaimable = amount{int64(due.total.Blobs), due.total.Bytes}
		return errors.Join(
			s.get(`SELECT `+countsOfRepositories+`, coalesce(sum(CASE WHEN deleted IS NULL THEN tags ELSE 0 END), 0), coalesce(sum(manifests), 0), coalesce(sum(manifest_bytes), 0),
				coalesce(sum(CASE WHEN deleted IS NULL THEN loose_manifests ELSE manifests END), 0), coalesce(sum(bytes), 0) FROM repository r`, nil,
				&f.Repositories, &f.DeletedRepositories, &f.Tags, &f.Manifests.Count, &f.Manifests.Bytes, &f.Untagged, &f.Saved),
			s.get(`SELECT count(*), coalesce(sum(offset), 0) FROM upload`, nil, &f.Uploads.Count, &f.Uploads.Bytes),
			s.get(`SELECT count(*), coalesce(sum(size), 0) FROM (
				SELECT size FROM blob WHERE damaged IS NOT NULL
				UNION ALL SELECT length(body) FROM manifest WHERE damaged IS NOT NULL) AS found`, nil, &f.Quarantined.Count, &f.Quarantined.Bytes))
	})
	f.Saved -= f.Blobs.Bytes
	f.Uptime = int64(x.uptime() / time.Second)
	for _, tail := range []string{"", "-wal"} {
		if info, err := os.Stat(filepath.Join(x.dir, "berth.db"+tail)); err == nil {
			f.Database += info.Size()
		}
	}
	if disk, _, err := freeSpace(x.arrivals); err == nil {
		f.DiskFree, f.DiskTotal, f.DiskFloor = disk.free, disk.total, x.floor(disk.total)
	}
	if disk, _, err := freeSpace(x.dir); err == nil && x.apart() {
		f.DatabaseDisk = &diskFigures{disk.free, disk.total, x.floor(disk.total)}
	}
	return f, err
}

// counts are the numbers of repositories.
func (f *figures) counts() repositoryCounts {
	return repositoryCounts{int(f.Repositories), int(f.DeletedRepositories)}
}

// commits returns how many durable commits there have been, and whether none is
// under way.
func (x *statistics) commits() (n int64, quiet bool) {
	if x.writer == nil {
		return 0, true // none on a read-only disk
	}
	ended := x.writer.ended.Load()
	return ended, x.writer.begun.Load() == ended
}

// garbageIn is the garbage in a snapshot, which is as commit has left it if
// exact.
func (x *statistics) garbageIn(s snapshot, commit int64, exact bool, patience int) (tally, error) {
	x.garbage.mu.Lock()
	defer x.garbage.mu.Unlock()
	begun := time.Now()
	if x.garbage.known && (exact && x.garbage.commit == commit || begun.Sub(x.garbage.made) < time.Duration(patience)*x.garbage.took) {
		return x.garbage.all, nil
	}
	g := x.graces()
	g.now = true
	p := newPlanner(x.store, s, g, false, func(doomed) error { return nil })
	err := p.rows()
	if exact && err == nil {
		x.garbage.known, x.garbage.commit, x.garbage.all = true, commit, p.total
		x.garbage.made, x.garbage.took = begun, time.Since(begun)
	}
	return p.total, err
}

// eachRepository calls fn with the figures of every repository in order of
// names, or with those of one.
func (x *statistics) eachRepository(ctx context.Context, name string, fn func(repositoryFigures) error) error {
	return x.look(ctx, func(s snapshot) error {
		return s.rows(func(rows *sql.Rows) error {
			var f repositoryFigures
			if err := rows.Scan(&f.Name, &f.Tags, &f.Manifests.Count, &f.Manifests.Bytes, &f.Untagged,
				&f.Blobs.Count, &f.Blobs.Bytes, &f.Shared.Count, &f.Shared.Bytes, &f.Unused.Count, &f.Unused.Bytes); err != nil {
				return err
			}
			return fn(f)
		}, `SELECT name, tags, manifests, manifest_bytes, loose_manifests, blobs, bytes, shared_blobs, shared_bytes, loose_blobs, loose_bytes
			FROM repository WHERE deleted IS NULL AND (?1 = '' OR name = ?1) ORDER BY name`, name)
	})
}
