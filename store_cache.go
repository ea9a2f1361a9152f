// What is asked for again and again, in a little memory.
//
// A probe that polls a tag, or thirty nodes that pull one image, should not
// cost a query for each request. What was found is kept, until a transaction
// touches it: SQLite itself tells of each row that changes, so none can be
// overlooked. What a repository has is forgotten before the commit, so that
// nobody is told what is about to be untrue, and nothing of it is kept until the
// commit is over. So an answer from here is never older than one from the
// database would be.

package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// lookups maps questions to answers. What is loose is kept until its grace has to start
// anew when somebody reads it (4 in store.go); what is not there is not kept.
type lookups struct {
	limit  int          // bytes of all that is kept, about; not changed after the start
	missed atomic.Int64 // questions without an answer, for the metrics

	mu         sync.RWMutex // guards the rest
	size       int
	answers    map[question]*answer
	of         map[int64]map[question]struct{} // the questions by repository
	version    int64                           // counts the beginnings and ends of commits
	changed    [256]int64                      // version when a repository was last touched, by its id modulo 256
	committing map[int64]struct{}              // the repositories that a commit under way touches
}

// A question is for a manifest by its tag or digest, or for a blob.
type question struct {
	repository string
	kind       byte // byTag, byDigest, ofBlob
	name       string
}

const (
	byTag    = 't' // the manifest under a tag
	byDigest = 'd' // the manifest with a digest
	ofBlob   = 'b' // the blob with a digest
)

// An answer is a manifest, or a blob that a repository has.
type answer struct {
	repo     int64           // the repository's id
	until    time.Duration   // the uptime from which on the database must be asked again; 0 for never
	manifest *storedManifest // nil for a blob
	size     int64           // of the blob,
	body     []byte          // and its bytes, if it is small and was asked for again; they are verified
	header   entityHeader    // of those
}

// An entityHeader is what the header of an answer says of immutable bytes, made once for all who ask for
// them: the values, which nobody changes.
type entityHeader struct{ contentType, digest, etag, length []string }

func newEntityHeader(contentType string, d digest.Digest, size int64) entityHeader {
	return entityHeader{[]string{contentType}, []string{d.String()}, []string{`"` + d.String() + `"`}, []string{strconv.FormatInt(size, 10)}}
}

// maxKept is how many bytes a blob has at most whose bytes are kept. Configs are
// smaller, and a larger one would take the room of many answers.
const maxKept = 16 << 10

// perAnswer is how many bytes an answer costs beside the manifest or the blob, about.
const perAnswer = 768

func (a *answer) cost() int {
	if a.manifest != nil {
		return len(a.manifest.body) + perAnswer
	}
	return len(a.body) + perAnswer
}

// get returns the answer to q, or nil; and the version to give to put. uptime tells what
// is too old, and is asked about what is loose alone.
func (l *lookups) get(q question, uptime func() time.Duration) (a *answer, version int64) {
	l.mu.RLock()
	a, version = l.answers[q], l.version
	l.mu.RUnlock()
	if a == nil || a.until > 0 && uptime() >= a.until {
		l.missed.Add(1)
		return nil, version
	}
	return a, version
}

// bytes is how many bytes all that is kept takes, about.
func (l *lookups) bytes() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return int64(l.size)
}

// put keeps an answer read from the database, unless it may have changed since
// get returned version.
func (l *lookups) put(q question, a *answer, version int64) {
	if a.cost() > l.limit/16 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, now := l.committing[a.repo]
	_, all := l.committing[everyRepository]
	if now || all || l.changed[uint8(a.repo)] > version {
		return
	}
	switch old := l.answers[q]; {
	case old == nil:
	case old.until == 0 || old.until == a.until:
		return
	default:
		l.drop(q)
	}
	l.add(q, a)
}

// remember keeps the bytes of a blob with the answer that get has returned, if that is
// still true.
func (l *lookups) remember(q question, known *answer, body []byte, header entityHeader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.answers[q] != known {
		return
	}
	l.drop(q)
	a := *known
	a.body, a.header = body, header
	l.add(q, &a)
}

// add makes room for an answer and keeps it. The caller holds mu.
func (l *lookups) add(q question, a *answer) {
	for old := range l.answers { // in random order
		if l.size+a.cost() <= l.limit {
			break
		}
		l.drop(old)
	}
	if l.answers == nil {
		l.answers, l.of = make(map[question]*answer), make(map[int64]map[question]struct{})
	}
	if l.of[a.repo] == nil {
		l.of[a.repo] = make(map[question]struct{})
	}
	l.answers[q] = a
	l.of[a.repo][q] = struct{}{}
	l.size += a.cost()
}

// drop forgets the answer to q. The caller holds mu.
func (l *lookups) drop(q question) {
	a := l.answers[q]
	l.size -= a.cost()
	delete(l.answers, q)
	delete(l.of[a.repo], q)
	if len(l.of[a.repo]) == 0 {
		delete(l.of, a.repo)
	}
}

// suspend forgets what some repositories have and keeps nothing of them until
// resume is called: a commit is under way that touches them.
func (l *lookups) suspend(touched map[int64]struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committing = touched
	l.touch()
}

// resume ends what suspend began.
func (l *lookups) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.touch()
	l.committing = nil
}

func (l *lookups) touch() {
	l.version++
	if _, all := l.committing[everyRepository]; all {
		l.answers, l.of, l.size = nil, nil, 0
		for i := range l.changed {
			l.changed[i] = l.version
		}
	}
	for repo := range l.committing {
		l.changed[uint8(repo)] = l.version
		for q := range l.of[repo] {
			l.drop(q)
		}
	}
}

// everyRepository stands for the ids of all.
const everyRepository = -1

// A watchedRows knows where the rows that answers come from have the columns that matter: by
// position, which is all that SQLite's hook tells.
type watchedRows struct {
	tag, manifest, link int // the repository's id
	size, damaged       int // of a blob
	name                int // of a repository
	old, new            []any
}

// newWatchedRows looks the columns up. The error is that there is none of a name.
func newWatchedRows(ctx context.Context, conn *sql.Conn) (*watchedRows, error) {
	w, last := &watchedRows{}, 0
	for _, x := range []struct {
		table, column string
		to            *int
	}{
		{"tag", "repository", &w.tag}, {"manifest", "repository", &w.manifest}, {"link", "repository", &w.link},
		{"blob", "size", &w.size}, {"blob", "damaged", &w.damaged}, {"repository", "name", &w.name},
	} {
		if err := conn.QueryRowContext(ctx, `SELECT cid FROM pragma_table_xinfo(?) WHERE name = ?`, x.table, x.column).Scan(x.to); err != nil {
			return nil, fmt.Errorf("looking for the column %s of the table %s: %w", x.column, x.table, err)
		}
		last = max(last, *x.to)
	}
	w.old, w.new = make([]any, last+1), make([]any, last+1)
	return w, nil
}

// tell has SQLite tell of the rows that this connection changes. The ids of the
// repositories whose answers may change with them are put into touched.
func (w *watchedRows) tell(driverConn any, touched map[int64]struct{}) {
	driverConn.(interface {
		RegisterPreUpdateHook(sqlite.PreUpdateHookFn)
	}).RegisterPreUpdateHook(func(change sqlite.SQLitePreUpdateData) {
		column := -1 // where the row has the repository's id
		switch change.TableName {
		case "tag":
			column = w.tag
		case "manifest":
			column = w.manifest
		case "link":
			if change.Op == sqlite3.SQLITE_INSERT {
				return // no answer says that it is not there
			}
			column = w.link
		case "blob":
			// What is known of the bytes, and not counts.
			if change.Op == sqlite3.SQLITE_UPDATE && w.differs(change, w.size, w.damaged) {
				touched[everyRepository] = struct{}{} // rather than to look for those that have it
			}
			return
		case "repository":
			// A name, as a hidden repository's is; counts, for the most part.
			if change.Op == sqlite3.SQLITE_UPDATE && !w.differs(change, w.name) {
				return
			}
			touched[change.OldRowID], touched[change.NewRowID] = struct{}{}, struct{}{}
			return
		default:
			return
		}
		for _, read := range []func(...any) error{change.Old, change.New} {
			row := w.old[:column+1]
			if read(row...) != nil {
				continue // an insert has no old row, and a delete no new one
			}
			if id, ok := row[column].(int64); ok {
				touched[id] = struct{}{}
			}
		}
	})
}

// differs reports whether an update changes one of the columns.
func (w *watchedRows) differs(change sqlite.SQLitePreUpdateData, columns ...int) bool {
	n := slices.Max(columns) + 1
	if change.Old(w.old[:n]...) != nil || change.New(w.new[:n]...) != nil {
		return true
	}
	return slices.ContainsFunc(columns, func(c int) bool { return w.old[c] != w.new[c] })
}
