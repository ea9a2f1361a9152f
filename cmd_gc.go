// `berth gc`: collects what is due, or tells what a collection would remove (gc_plan.go).

package main

import (
	"context"
	"time"
)

// gcCommand is `berth gc`.
func gcCommand(ctx context.Context, st *store, o options, out *console) error {
	g := st.graces()
	if o.Now {
		g = st.collector.gracesNow()
	}
	var c tally
	var list []doomed
	var err error
	verb := "removed"
	if o.DryRun {
		verb = "would remove"
		c, err = st.plan(ctx, g, true, func(d doomed) error {
			// Not printed yet: the snapshot must not wait for who reads.
			list = append(list, d)
			return nil
		})
	} else if st.writer == nil {
		return errReadOnlyDisk
	} else {
		c, err = st.collector.collect(ctx, g)
	}
	if err != nil {
		return err
	}
	kept, wait, err := keptByPromises(ctx, st, o, g, c)
	if err != nil {
		return err
	}
	if o.JSON {
		return out.json(struct {
			tally
			PromisedBytes   int64    `json:"promisedBytes"`   // of blobs that --now removes only later
			PromisedSeconds int64    `json:"promisedSeconds"` // until the last of them can be removed
			Items           []doomed `json:"items,omitempty"`
		}{c, kept, int64(wait / time.Second), list})
	}
	table := out.table("KIND", "SIZE", "WHAT", "WHY").breaking(3)
	for _, d := range list {
		table.row(d.Kind, sizeCell(d.Bytes), d.name, d.Why)
	}
	table.end("")
	if c.Manifests+c.Blobs+c.Uploads == 0 {
		out.printf("nothing to remove\n")
	} else {
		out.printf("%s %s, %s with %s, %s with %s\n", verb, plural(c.Manifests, "manifest"), plural(c.Blobs, "blob"), formatSize(c.Bytes), plural(c.Uploads, "upload"), formatSize(c.Uploaded))
	}
	switch {
	case !o.Now || c.Manifests == 0:
	case o.DryRun:
		out.printf("`berth undo` could then no longer restore what was overwritten or deleted\n")
	default:
		out.printf("`berth undo` can no longer restore what was overwritten or deleted before this\n")
	}
	return tellKept(ctx, st, o, out, c, kept, wait)
}

// keptByPromises is how much stays also with --now, and for how long at most, for who is told that this exists.
func keptByPromises(ctx context.Context, st *store, o options, g graces, c tally) (kept int64, wait time.Duration, err error) {
	if c.Promised == 0 {
		if o.Now || !st.host.serves() {
			return 0, 0, nil
		}
		g = st.collector.gracesNow()
	}
	return st.withoutPromises(ctx, g)
}

// tellKept says what stays, until when, and what to do about it.
func tellKept(ctx context.Context, st *store, o options, out *console, c tally, kept int64, wait time.Duration) error {
	minutes := plural(int((wait+time.Minute-1)/time.Minute), "minute")
	if !o.Now {
		f, err := st.stats.figures(ctx)
		if err != nil || f.InGrace.Bytes == 0 {
			return err
		}
		out.printf("another %s is kept until its grace period is over; --now removes it at once, and ends `berth undo` for what was overwritten or deleted", formatSize(f.InGrace.Bytes))
		if kept > 0 {
			out.printf(". But %s of it not even --now removes for up to %s more: clients have just pushed it, or asked for it", formatSize(kept), minutes)
		}
		out.printf("\n")
		return nil
	}
	if kept > 0 || c.Promised > 0 {
		what := formatSize(kept)
		if kept == 0 {
			what = "What is left of it" // manifests alone
		}
		out.printf("%s is kept for up to %s more, also with --now: clients have pushed it, or asked for it, in the last 15 minutes, and a push in progress may need it. "+
			"To remove it at once: stop the server, then `berth gc --now`\n", what, minutes)
	}
	return nil
}
