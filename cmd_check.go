// `berth check`: the findings of a check (check.go), for people.

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
)

// A checkAnswer is a report for programs.
type checkAnswer struct {
	Repositories int      `json:"repositories"`
	Deleted      int      `json:"deletedRepositories"` // whose images can be brought back
	Manifests    int      `json:"manifests"`
	Tags         int      `json:"tags"`
	Blobs        int      `json:"blobs"`
	Bytes        int64    `json:"bytes"` // of blobs
	Uploads      int      `json:"uploads"`
	Wrong        []string `json:"wrong"`
	Damaged      []string `json:"damaged"`
	LeftOver     []string `json:"leftOver"`
}

// checkCommand is `berth check`.
func checkCommand(ctx context.Context, st *store, o options, out *console) error {
	r, err := checkWithProgress(ctx, st, o.Deep, out)
	if err != nil {
		return err
	}
	if o.JSON {
		wrong := []string{}
		for _, f := range r.findings {
			wrong = append(wrong, f.problem)
		}
		if err := out.json(checkAnswer{r.repositories.seen, r.repositories.deleted, r.manifests, r.tags, r.blobs, r.bytes, r.uploads,
			wrong, append([]string{}, r.damaged...), append([]string{}, r.rubbish...)}); err != nil {
			return err
		}
		out = newConsole(io.Discard, false)
	}
	out.printf("%s, %s, %s, %s with %s, %s\n", r.repositories, plural(r.manifests, "manifest"),
		plural(r.tags, "tag"), plural(r.blobs, "blob"), formatSize(r.bytes), plural(r.uploads, "open upload"))
	for _, path := range r.rubbish {
		out.printf("left over, not served: %s\n", path)
	}
	if slices.ContainsFunc(r.rubbish, isBlobFile) {
		out.printf("If an image is missed, push it again. `berth repair --left-over` removes what is left over\n")
	}
	for _, what := range r.damaged {
		out.printf("DAMAGED: %s\n", what)
	}
	for _, f := range r.findings {
		out.printf("WRONG: %s\n", f.problem)
	}
	switch n := len(r.findings); {
	case n > 0:
		repair := "berth repair"
		if o.Deep { // or it would not find all of this
			repair += " --deep"
		}
		return fmt.Errorf("%s found wrong; `%s` fixes what can be fixed, and says what to push again", plural(n, "thing"), repair)
	case len(r.damaged) > 0:
		return fmt.Errorf("%s out of service; push the images again, or delete them", plural(len(r.damaged), "thing"))
	case o.Deep:
		out.printf("all is well\n")
	default:
		out.printf("all is well (the blobs' bytes were not read; --deep does)\n")
	}
	return nil
}

// checkWithProgress is check that tells how far it has come.
func checkWithProgress(ctx context.Context, st *store, deep bool, out *console) (*report, error) {
	total, err := st.totalBytes()
	if err != nil {
		return nil, err
	}
	read := func(int64) {}
	if deep {
		p := out.progress("reading", total)
		defer p.end()
		read = p.add
	}
	return st.check(ctx, deep, read)
}
