// Which uploads are open, and how many one client may have.
//
// Nobody may have more open than are left for others: of --max-uploads, one has
// half at most, a second one a third, and so on, and whoever comes later finds
// some. Who that is says the caller, or the address of one who has no name.

package main

import (
	"context"
	"database/sql"
	"net/http"
	"strings"
	"time"
)

// idleNow is how long nobody must have continued an upload for `berth gc --now` to
// end it: longer than a push takes from one request to the next.
const idleNow = 10 * time.Second

// shareOf is whose share of the uploads a new one takes.
func shareOf(w http.ResponseWriter) string {
	if id := owner(w); id != "" {
		return id
	}
	return "address:" + w.(*response).origin.key()
}

// begin counts a new session, of which there may be most (0 for no limit). The error
// is errTooManyRequests if there are too many, or too many of its share.
func (s *sessions) begin(u *upload, most int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := most - s.count.Load(); most > 0 && left <= 0 {
		return errTooManyRequests.withHeader("Retry-After", "60")
	} else if most > 0 && s.shares[u.share] >= left {
		return errTooManyRequests.saying("too many of your uploads are open; finish some, or try again later").withHeader("Retry-After", "60")
	}
	s.count.Add(1)
	s.shares[u.share]++
	s.open[u.id] = u
	return nil
}

// end forgets a session; one that was never counted is not known.
func (s *sessions) end(u *upload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[u.id] == nil {
		return
	}
	delete(s.open, u.id)
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
	u := s.open[id]
	if u == nil || len(u.turn) == 0 {
		return 0, false
	}
	return max(u.offset.Load(), u.queue.arrived.Load()), true
}

// gracesNow are those of `berth gc --now`. Where nobody serves, no push is under way.
func (st *store) gracesNow() graces {
	g := st.graces()
	g.now = true
	if g.upload = min(g.upload, idleNow); st.busy == nil {
		g.upload = -time.Second // this second's too
	}
	return g
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

// uploadsCommand is `berth uploads`. The longest idle come first.
func uploadsCommand(ctx context.Context, st *store, o options, out *console) error {
	uploads := []listedUpload{}
	err := st.look(ctx, func(s snapshot) error {
		return s.rows(func(rows *sql.Rows) error {
			var u listedUpload
			var begun, used int64
			var robot sql.NullString
			if err := rows.Scan(&u.Upload, &u.Repository, &u.Owner, &u.Bytes, &begun, &used, &robot); err != nil {
				return err
			}
			now := int64(st.uptime() / time.Second)
			u.Owner, u.Age, u.Idle = ownerLabel(u.Owner, robot.String), max(0, now-begun), max(0, now-used)
			if bytes, yes := st.sessions.atWork(u.Upload); yes {
				u.Bytes, u.Idle, u.AtWork = bytes, 0, true
			}
			uploads = append(uploads, u)
			return nil
		}, `SELECT u.id, u.repository, u.owner, u.offset, u.begun, u.used, t.name
			FROM upload u LEFT JOIN token t ON u.owner LIKE 'token:%' AND t.id = substr(u.owner, 7) ORDER BY u.used, u.id`)
	})
	if err != nil {
		return err
	}
	if o.JSON {
		return out.json(uploads)
	}
	table := out.table("REPOSITORY", "OWNER", "SIZE", "AGE", "IDLE", "UPLOAD")
	for _, u := range uploads {
		idle := duration(time.Duration(u.Idle) * time.Second)
		if u.AtWork {
			idle = "at work"
		}
		table.row(u.Repository, u.Owner, size(u.Bytes), duration(time.Duration(u.Age)*time.Second), idle, u.Upload)
	}
	table.end()
	return nil
}

// ownerLabel names for people whom a caller's id stands for; robot is the name of the
// token, if it is one that is there.
func ownerLabel(id, robot string) string {
	kind, name, _ := strings.Cut(id, ":")
	switch {
	case id == "":
		return anyone.label()
	case robot != "":
		return "token:" + robot
	case kind == "token":
		return id
	}
	return name
}
