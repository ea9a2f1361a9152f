// The server's part of `berth events`: it tells of events while somebody follows them (cmd_events.go).

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// followEvents prints events until ctx ends.
func followEvents(ctx context.Context, st *store, o options, out *console) error {
	list, err := parseRepositories(splitList(cmp.Or(o.Repo, "**")))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	f := &follower{repositories: list, pulls: o.Pulls, blobs: o.Blobs}
	st.events.listen(ctx, f)
	for e := range f.events {
		if o.JSON {
			if err := out.jsonLine(e); err != nil {
				return err
			}
			continue
		}
		out.printf("%s  %s\n", out.formatTime(e.Time, time.TimeOnly), e.describe())
	}
	if ctx.Err() != nil {
		return errors.New("the server is being stopped")
	}
	return errors.New("what reads the events was too slow, and some would be missing; start it again")
}

// describe says in words what has happened.
func (e *event) describe() string {
	text := ""
	switch e.Type {
	case manifestPushed, blobPushed:
		text = "%s pushed %s"
	case manifestPulled:
		text = "%s pulled %s"
	case manifestRestored:
		text = "%s restored %s"
	case tagMoved:
		text = "%s tagged %s"
	case blobMounted:
		text = "%s mounted %s"
	default:
		text = "%s deleted %s"
	}
	text = fmt.Sprintf(text, e.Actor, e.name())
	if e.Tag != "" && e.Digest != "" {
		text += " (" + shortDigest(e.Digest) + ")"
	}
	if e.Why != "" {
		text += ", " + e.Why
	}
	return text
}
