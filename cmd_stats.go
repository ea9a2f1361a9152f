// `berth stats`: how much is stored (gc_stats.go).

package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// statsCommand is `berth stats [NAME]`.
func statsCommand(ctx context.Context, st *store, o options, out *console) error {
	f, err := st.stats.figures(ctx)
	if err != nil {
		return err
	}
	name := ""
	if len(o.Args) > 0 {
		name = o.Args[0]
	}
	var list []repositoryFigures
	err = st.stats.eachRepository(ctx, name, func(r repositoryFigures) error {
		list = append(list, r)
		return nil
	})
	if err != nil {
		return err
	}
	if name != "" && len(list) == 0 {
		return errNameUnknown.with(map[string]string{"name": name})
	}
	if o.JSON {
		if name != "" {
			return out.json(list[0])
		}
		return out.json(struct {
			figures
			List []repositoryFigures `json:"list"`
		}{f, list})
	}
	if name == "" {
		out.figures(f)
		if len(list) > 0 {
			out.printf("\n")
		}
	}
	table := out.table("REPOSITORY", "TAGS", "MANIFESTS", "UNTAGGED", "BLOBS", "SIZE", "SHARED", "UNUSED")
	for _, r := range list {
		table.row(r.Name, r.Tags, r.Manifests.Count, r.Untagged, r.Blobs.Count, sizeCell(r.Blobs.Bytes), sizeCell(r.Shared.Bytes), sizeCell(r.Unused.Bytes))
	}
	table.end("")
	return nil
}

// figures prints the whole registry's.
func (c *console) figures(f figures) {
	t := c.table().breaking(3)
	line := func(name string, a amount, what string) { t.row(name, a.Count, sizeCell(a.Bytes), what) }
	t.row("repositories", f.Repositories, "", strings.Trim(f.counts().andDeleted(), " ()"))
	t.row("tags", f.Tags, "", "")
	line("manifests", f.Manifests, fmt.Sprintf("%d unused: deleted, or no tag, index or subject", f.Untagged))
	line("blobs", f.Blobs, "")
	line("  shared", f.Shared, "in several repositories, which saves "+formatSize(f.Saved))
	line("  reclaimable", f.Reclaimable, "no longer needed; being removed")
	line("  in grace", f.InGrace, "removed after the grace period, unless used again")
	line("uploads", f.Uploads, "open")
	line("quarantined", f.Quarantined, "damaged; push the images again")
	t.row("database", "", sizeCell(f.Database), "")
	disk := func(name string, d diskFigures) {
		t.row(name, "", sizeCell(d.Free), fmt.Sprintf("free of %s; pushes must leave %s", formatSize(int64(d.Total)), formatSize(int64(d.Floor))))
	}
	disk("disk", diskFigures{f.DiskFree, f.DiskTotal, f.DiskFloor})
	if f.DatabaseDisk != nil {
		disk("  of database", *f.DatabaseDisk)
	}
	scrubbed := "never"
	if f.Scrubbed > 0 {
		scrubbed = formatDuration(time.Duration(f.Uptime-f.Scrubbed)*time.Second) + " ago"
	}
	t.row("scrub", "", "", "last time that everything stored was read: "+scrubbed)
	t.end("")
}
