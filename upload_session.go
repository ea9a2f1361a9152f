// Upload sessions: begun, found again, ended, swept up at the start.
//
// A session is known in memory while a request has it or its hash is kept, and by its row in
// the database always. Nobody may have more open than are left for others: of --max-uploads one
// client has half at most, the second a third, and so on. Who that is says the caller, or the
// address of one who has no name.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

// uploads are a store's upload sessions.
type uploads struct {
	*store
	sessions
	large   chan struct{} // full while as many bodies as may be have large buffers
	holding chan struct{} // full while as many bodies as may be are held in memory
}

func newUploads(st *store) *uploads {
	up := &uploads{store: st,
		large:   make(chan struct{}, min(max(minLarge, 2*runtime.GOMAXPROCS(0)), maxLarge)),
		holding: make(chan struct{}, maxHeld)}
	up.byID, up.shares = make(map[string]*upload), make(map[string]int64)
	return up
}

// sessions are the uploads that this process has touched.
type sessions struct {
	mu     sync.Mutex // guards open and shares, and is held while count changes
	byID   map[string]*upload
	shares map[string]int64 // how many there are by upload.share
	count  atomic.Int64     // rows in the database, or about to be
	brief  sync.Map         // ids of those without a row, that end with their request
}

// create opens a session. Its row survives a crash of the process, and
// costs no sync.
func (up *uploads) create(repository, owner, share string, algorithm digest.Algorithm) (*upload, error) {
	u := newSession(uuid.NewString(), repository, owner, algorithm)
	u.share = share
	most := up.maxUploads
	if strings.HasPrefix(share, commandOwner) {
		most = 0 // limits keep clients from each other
	}
	if err := up.enter(u, most); err != nil {
		return nil, err
	}
	err := up.roomForBlob(0)
	if err != nil {
		up.endSession(u)
		return nil, err
	}
	err = up.updateLazy(func(t *tx) error {
		_, err := t.exec(`INSERT INTO upload (id, repository, owner, algorithm, offset, used, begun) VALUES (?1, ?2, ?3, ?4, 0, ?5, ?5)`,
			u.id, repository, owner, algorithm, t.clock)
		return err
	})
	if err != nil {
		up.endSession(u)
		return nil, fmt.Errorf("opening an upload: %w", err)
	}
	up.collector.wakeUp()
	return u, nil
}

// find returns a repository's session, without its turn. To anybody but
// its owner there is none.
func (up *uploads) find(repository, id, owner string) (*upload, error) {
	if _, err := parseName(repository); err != nil {
		return nil, err
	}
	unknown := errBlobUploadUnknown.with(map[string]string{"name": repository})
	if !isUUID(id) {
		return nil, unknown
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	u := up.byID[id]
	if u == nil {
		// Of an earlier process, or of none.
		u = newSession(id, "", "", digest.SHA256)
		var offset int64
		err := up.get(`SELECT repository, owner, algorithm, offset FROM upload WHERE id = ?`,
			[]any{id}, &u.repository, &u.owner, &u.algorithm, &offset)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, unknown
		}
		if err != nil {
			return nil, fmt.Errorf("looking up an upload: %w", err)
		}
		// A power cut may have taken bytes that were acknowledged.
		if info, err := os.Stat(up.uploadPath(u.id)); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("looking at an upload: %w", err)
			}
			offset = 0
		} else {
			offset = min(offset, info.Size())
		}
		u.offset.Store(offset)
		u.hash, u.share, u.filed = nil, u.owner, true
		up.byID[id] = u
	}
	if u.repository != repository || u.owner != owner {
		return nil, unknown
	}
	return u, nil
}

// knows reports whether there is such a session now.
func (up *uploads) knows(id string) (bool, error) {
	if _, ok := up.brief.Load(id); ok {
		return true, nil
	}
	up.mu.Lock()
	_, open := up.byID[id] // also while its file goes, after its row
	up.mu.Unlock()
	if open {
		return true, nil
	}
	var n int
	err := up.get(`SELECT count(*) FROM upload WHERE id = ?`, []any{id}, &n)
	return n > 0, err
}

// saveOffset records how far a session has come: what was answered 202
// survives a crash. The caller holds the turn.
func (up *uploads) saveOffset(u *upload) error {
	if u.ended {
		return nil
	}
	err := up.updateLazy(func(t *tx) error {
		_, err := t.exec(`UPDATE upload SET offset = ?, used = ? WHERE id = ?`, u.offset.Load(), t.clock, u.id)
		return err
	})
	if err != nil {
		return fmt.Errorf("recording an upload's offset: %w", err)
	}
	return nil
}

// saveOffsetAfter is saveOffset for a request that has failed already.
func (up *uploads) saveOffsetAfter(u *upload, failed error) {
	if err := up.saveOffset(u); err != nil && !isNoSpace(failed) {
		up.log.Error("an upload's offset cannot be recorded", "error", err)
	}
}

// end removes a session and its file. The caller holds the turn.
func (up *uploads) end(u *upload) error {
	err := up.updateLazy(func(t *tx) error {
		_, err := t.exec(`DELETE FROM upload WHERE id = ?`, u.id)
		return err
	})
	if err != nil {
		return fmt.Errorf("ending an upload: %w", err)
	}
	up.dropFile(u)
	up.forget(u)
	return nil
}

// dropFile removes a session's bytes. What cannot be removed now is at the
// next start.
func (up *uploads) dropFile(u *upload) {
	if err := os.Remove(up.uploadPath(u.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		up.log.Error("an upload's file cannot be removed", "error", err)
	}
}

// forget takes a session whose row is gone out of memory. The caller holds the
// turn; requests that wait for it find the session ended.
func (up *uploads) forget(u *upload) {
	u.ended = true
	up.endSession(u)
}

// endSession counts one open session less, which somebody may wait for.
func (up *uploads) endSession(u *upload) {
	up.leave(u)
	up.host.uploadEnded()
}

// sweep runs at start: it counts the sessions and removes files that
// belong to none, or are where they were before the blobs had another disk: such
// a session is an empty one now.
func (up *uploads) sweep() error {
	rows, err := up.readers.Query(`SELECT id, owner FROM upload`)
	if err != nil {
		return fmt.Errorf("listing uploads: %w", err)
	}
	all, err := collectRows(rows, func(rows *sql.Rows) (x [2]string, err error) {
		err = rows.Scan(&x[0], &x[1])
		return x, err
	})
	if err != nil {
		return fmt.Errorf("listing uploads: %w", err)
	}
	up.count.Store(int64(len(all)))
	known := make(map[string]bool, len(all))
	for _, x := range all {
		known[x[0]] = true
		up.shares[x[1]]++ // an address is not remembered
	}
	probes, _ := filepath.Glob(filepath.Join(up.dir, tryFile+"*")) // of a try to write that was cut short
	for _, path := range probes {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing what was left of a test write: %w", err)
		}
	}
	for _, place := range places {
		dir := filepath.Join(up.dir, place, "uploads")
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("listing uploads: %w", err)
		}
		used := sameFile(dir, filepath.Join(up.arrivals, "uploads")) // which may be by a link
		for _, e := range entries {
			if isUUID(e.Name()) && !(used && known[e.Name()]) {
				if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
					return fmt.Errorf("removing what an upload left: %w", err)
				}
			}
		}
	}
	return nil
}

// isUUID reports whether s has the form of a session's name, and so is safe as
// a file name.
func isUUID(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }

// enter counts a new session, of which there may be most (0 for no limit). The error
// is errTooManyRequests if there are too many, or too many of its share.
func (s *sessions) enter(u *upload, most int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := most - s.count.Load(); most > 0 && left <= 0 {
		return errTooManyRequests
	} else if most > 0 && s.shares[u.share] >= left {
		return errTooManyRequests.saying("too many of your uploads are open; finish some, or try again later")
	}
	s.count.Add(1)
	s.shares[u.share]++
	s.byID[u.id] = u
	return nil
}

// end forgets a session; one that was never counted is not known.
func (s *sessions) leave(u *upload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[u.id] == nil {
		return
	}
	delete(s.byID, u.id)
	s.count.Add(-1)
	if s.shares[u.share]--; s.shares[u.share] <= 0 {
		delete(s.shares, u.share)
	}
}

// atWork reports whether a request is at work on a session, and then how far it
// has come.
func (s *sessions) atWork(id string) (bytes int64, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.byID[id]
	if u == nil || len(u.turn) == 0 {
		return 0, false
	}
	return max(u.offset.Load(), u.queue.arrived.Load()), true
}

func newSession(id, repository, owner string, algorithm digest.Algorithm) *upload {
	return &upload{id: id, repository: repository, owner: owner, algorithm: algorithm,
		turn: make(chan struct{}, 1), hash: algorithm.Hash()}
}

func (u *upload) location() string {
	return "/v2/" + u.repository + "/blobs/uploads/" + u.id
}

// rangeSoFar is the Range header: the first and last byte that are here. It
// has no unit, and no way to say "none": zero bytes look like one.
func (u *upload) rangeSoFar() string { return rangeTo(u.offset.Load()) }

func rangeTo(offset int64) string { return "0-" + strconv.FormatInt(max(offset, 1)-1, 10) }

// giveUp ends a session that has failed. If even the row cannot be removed now, the
// session is an empty one. The caller holds the turn.
func (up *uploads) giveUp(u *upload) {
	up.dropFile(u)
	u.hash = nil
	u.offset.Store(0)
	if err := up.end(u); err != nil {
		up.log.Error("a failed upload cannot be removed", "error", err)
	}
}

// A listedUpload is an open upload as `berth uploads` shows it.
type listedUpload struct {
	Upload     string `json:"upload"`
	Repository string `json:"repository"`
	Owner      string `json:"owner"`
	Bytes      int64  `json:"bytes"`
	Age        int64  `json:"age"`    // seconds of running since it was begun
	Idle       int64  `json:"idle"`   // since the last request ended
	AtWork     bool   `json:"atWork"` // a request is at work on it
}

// list returns the open uploads, the longest idle first. label names an owner by the id
// and the name of the token that this is, if it is one that is there.
func (up *uploads) list(ctx context.Context, label func(id, robot string) string) (uploads []listedUpload, err error) {
	uploads = []listedUpload{}
	err = up.look(ctx, func(s snapshot) error {
		return s.rows(func(rows *sql.Rows) error {
			var u listedUpload
			var begun, used int64
			var robot sql.NullString
			if err := rows.Scan(&u.Upload, &u.Repository, &u.Owner, &u.Bytes, &begun, &used, &robot); err != nil {
				return err
			}
			now := int64(up.uptime() / time.Second)
			u.Owner, u.Age, u.Idle = label(u.Owner, robot.String), max(0, now-begun), max(0, now-used)
			if bytes, yes := up.atWork(u.Upload); yes {
				u.Bytes, u.Idle, u.AtWork = bytes, 0, true
			}
			uploads = append(uploads, u)
			return nil
		}, `SELECT u.id, u.repository, u.owner, u.offset, u.begun, u.used, t.name
			FROM upload u LEFT JOIN token t ON u.owner LIKE 'token:%' AND t.id = substr(u.owner, 7) ORDER BY u.used, u.id`)
	})
	return uploads, err
}
