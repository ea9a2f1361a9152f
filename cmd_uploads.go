// `berth uploads`: the upload sessions that are open, and whose they are.

package main

import (
	"context"
	"database/sql"
	"strings"
	"time"
)

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
			if bytes, yes := st.uploads.atWork(u.Upload); yes {
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
