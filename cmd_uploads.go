// `berth uploads`: the upload sessions that are open, and whose they are.

package main

import (
	"context"
	"strings"
	"time"
)

// uploadsCommand is `berth uploads`.
func uploadsCommand(ctx context.Context, st *store, o options, out *console) error {
	uploads, err := st.uploads.list(ctx, ownerLabel)
	if err != nil {
		return err
	}
	if o.JSON {
		return out.json(uploads)
	}
	table := out.table("REPOSITORY", "OWNER", "SIZE", "AGE", "IDLE", "UPLOAD")
	for _, u := range uploads {
		idle := formatDuration(time.Duration(u.Idle) * time.Second)
		if u.AtWork {
			idle = "in use"
		}
		id := func(b brevity) string {
			if b == inFull {
				return u.Upload
			}
			return u.Upload[:min(8, len(u.Upload))]
		}
		table.row(u.Repository, u.Owner, sizeCell(u.Bytes), formatDuration(time.Duration(u.Age)*time.Second), idle, id)
	}
	table.end("There are no open uploads.\n")
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
