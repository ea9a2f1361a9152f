// `berth stats`: how much is stored (gc_stats.go).

package main

import (
	"context"
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
		return errNameUnknown.with(name)
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
		out.printf("\n")
	}
	width := len("REPOSITORY")
	for _, r := range list {
		width = max(width, len(r.Name))
	}
	out.printf("%-*s %7s %9s %8s %7s %10s %10s %10s\n", width, "REPOSITORY", "TAGS", "MANIFESTS", "UNTAGGED", "BLOBS", "SIZE", "SHARED", "UNUSED")
	for _, r := range list {
		out.printf("%-*s %7d %9d %8d %7d %10s %10s %10s\n", width, r.Name, r.Tags, r.Manifests.Count, r.Untagged,
			r.Blobs.Count, formatSize(r.Blobs.Bytes), formatSize(r.Shared.Bytes), formatSize(r.Unused.Bytes))
	}
	return nil
}

// figures prints the whole registry's.
func (c *console) figures(f figures) {
	line := func(name string, a amount, what string) {
		c.printf("%-14s %9d %11s  %s\n", name, a.Count, formatSize(a.Bytes), what)
	}
	c.printf("%-14s %9d\n%-14s %9d\n", "repositories", f.Repositories, "tags", f.Tags)
	line("manifests", f.Manifests, plural(int(f.Untagged), "manifest")+" without a tag, index or subject, or deleted")
	line("blobs", f.Blobs, "")
	line("  shared", f.Shared, "in several repositories, which saves "+formatSize(f.Saved))
	line("  reclaimable", f.Reclaimable, "being removed")
	line("  in grace", f.InGrace, "removed later, unless something uses it again")
	line("uploads", f.Uploads, "open")
	line("quarantined", f.Quarantined, "damaged; to be pushed again")
	c.printf("%-14s %9s %11s\n", "database", "", formatSize(f.Database))
	disk := func(name string, d diskFigures) {
		c.printf("%-14s %9s %11s  free of %s; pushes leave %s\n", name, "", formatSize(int64(d.Free)), formatSize(int64(d.Total)), formatSize(int64(d.Floor)))
	}
	disk("disk", diskFigures{f.DiskFree, f.DiskTotal, f.DiskFloor})
	if f.DatabaseDisk != nil {
		disk("  of database", *f.DatabaseDisk)
	}
	scrubbed := "not yet"
	if f.Scrubbed > 0 {
		scrubbed = formatDuration(time.Duration(f.Uptime-f.Scrubbed)*time.Second) + " ago"
	}
	c.printf("%-14s %9s %11s  all bytes read and compared: %s\n", "scrub", "", "", scrubbed)
}
