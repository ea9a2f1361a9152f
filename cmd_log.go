// `berth log` and `berth undo`: what was done, and the way back (history.go).

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// logCommand is `berth log [NAME[:TAG]]`.
func logCommand(ctx context.Context, st *store, o options, out *console) error {
	var name, tag string
	if len(o.Args) > 0 {
		var ref reference
		var err error
		if name, ref, err = parseArgument(o.Args[0]); err != nil {
			return err
		}
		tag = ref.tag
	}
	list, more, err := lastChanges(st, name, tag, o.Limit)
	if err != nil {
		return err
	}
	if len(list) == 0 && tag != "" {
		if _, _, err := st.listTagsOf(ctx, name, tag); errors.Is(err, errManifestUnknown) {
			return absentErrorf("%s has no tag %s, and nothing is remembered of one by that name; `berth log %[1]s` shows what was done there", name, tag)
		}
	}
	if len(list) == 0 && name != "" {
		return absentErrorf("nothing is remembered that was done to %s; `berth ls` shows what there is, and `berth log` all that was done", o.Args[0])
	}
	if o.JSON {
		entries := make([]historyEntry, len(list))
		for i, r := range list {
			entries[i] = r.entry()
		}
		return out.json(entries)
	}
	if len(list) == 0 {
		out.printf("nothing is remembered that was done here\n")
		return nil
	}
	table := out.table("CHANGE", "WHEN", "WHO", "FROM", "BY", "WHAT").breaking(4, 5)
	for _, r := range list {
		by := r.action
		if r.why != "" {
			by += " " + r.why
		}
		from := r.client
		if from == "" {
			from = "-" // it was a command
		}
		table.row(r.change, stepCell(time.Unix(r.time, 0)), r.who, from, by, func(b brevity) string { return r.describe(b.digest) })
	}
	table.end("")
	if more {
		out.printf("… and more before that; --limit 0 shows all\n")
	}
	return nil
}

// lastChanges returns the steps of the last changes of a repository ("" for all) and a tag
// ("" for all), the last first: of at most limit changes, each whole, or of all if limit is 0.
// more reports whether there are others before them.
func lastChanges(st *store, name, tag string, limit int) (list []record, more bool, err error) {
	const page = 1000
	changes := 0
	for after := lastOfAll; ; {
		steps, err := st.history(name, tag, after, page)
		if err != nil {
			return nil, false, err
		}
		for _, r := range steps {
			if r.change != after.change {
				changes++
			}
			if limit > 0 && changes > limit {
				return list, true, nil
			}
			list, after = append(list, r), cursor{r.change, r.n}
		}
		if len(steps) < page {
			return list, false, nil
		}
	}
}

func checkUndoCommand(cfg *config) error {
	if cfg.As != "" {
		if _, err := parseName(cfg.As); err != nil {
			return fmt.Errorf("--as: %w", err)
		}
	}
	if _, err := strconv.ParseInt(cfg.Args[0], 10, 64); err == nil {
		return nil
	}
	return checkReferences(cfg)
}

// undoCommand is `berth undo CHANGE|NAME[:TAG]`.
func undoCommand(ctx context.Context, st *store, o options, out *console) error {
	tag := ""
	number, err := strconv.ParseInt(o.Args[0], 10, 64)
	if err != nil {
		name, ref, err := parseArgument(o.Args[0])
		if err != nil {
			return err
		}
		tag = ref.tag
		if number, err = lastToUndo(ctx, st, name, ref); err != nil {
			return err
		}
	}
	did, is, err := st.undo(number, tag, o.As, o.author())
	if err != nil {
		return err
	}
	st.audit("undone", "change", number, "user", o.Who)
	if o.JSON {
		return out.json(undone{number, is, doneSteps(did)})
	}
	for _, s := range did {
		out.printf("%s\n", s.describe(shortDigest))
	}
	out.printf("to take this back: berth undo %d\n", is)
	return nil
}

// lastToUndo returns the last change of something, to be undone. If that was an undo
// itself, people who try again, to be sure, would lose by the second what the first has
// brought back; so it is an error then, which has both ways to go on.
func lastToUndo(ctx context.Context, st *store, name string, ref reference) (number int64, err error) {
	what := ref.of(name)
	// No tag is called -: then only the repository is looked for.
	_, _, missing := st.listTagsOf(ctx, name, cmp.Or(ref.tag, "-"))
	gone := errors.Is(missing, errNameUnknown)
	if gone && ref != (reference{}) {
		if err := refuseDeleted(st, name); err != nil {
			return 0, err
		}
		// With its contents collected only the history knows that it was deleted.
		if whole, _, err := st.lastChangeOf(name, reference{}); err == nil && whole.kind == ofRepository && whole.new != "" && whole.old != whole.new {
			return 0, fmt.Errorf("%s was deleted by change %d, and its contents are no longer kept. Push it again, or bring it back from a backup", name, whole.change)
		}
	}
	last, undo, err := st.lastChangeOf(name, ref)
	switch {
	case undo != 0 && errors.Is(err, errChangeUnknown):
		return 0, fmt.Errorf("%s: the last change was an undo, and there is nothing further back. "+
			"To take it back: berth undo %d. `berth log %[1]s` shows what was done", what, undo)
	case errors.Is(err, errChangeUnknown) && gone && ref == (reference{}):
		return 0, plainError{fmt.Sprintf("%s is neither a change number nor a repository that is known; `berth log` shows what was done", name), err}
	case errors.Is(err, errChangeUnknown) && (gone || ref.tag != "") && missing != nil:
		return 0, missing
	case err != nil:
		return 0, err
	case undo != 0:
		return 0, fmt.Errorf("%s: the last change was itself an undo. To take that undo back: berth undo %d. "+
			"To undo the change before it too (%s): berth undo %d", what, undo, last.describe(shortDigest), last.change)
	}
	if last.kind == ofTag && last.old == "" {
		// Who asks for what was before would lose what is there.
		if _, _, err := st.listTagsOf(ctx, name, last.tag); err == nil {
			return 0, fmt.Errorf("%s: the last change was that the tag %s was made; there is nothing before it to restore. "+
				"To remove the tag: berth rm %s:%[2]s, or berth undo %[4]d", what, last.tag, name, last.change)
		}
	}
	return last.change, nil
}
