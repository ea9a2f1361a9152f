// `berth log` and `berth undo`: what was done, and the way back (history.go).

package main

import (
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
		if ref.digest != "" {
			return errors.New("log: say NAME or NAME:TAG")
		}
		tag = ref.tag
	}
	limit := o.Limit
	if limit <= 0 {
		limit = 1<<31 - 2
	}
	list, err := st.history(name, tag, lastOfAll, limit+1)
	if err != nil {
		return err
	}
	more := len(list) > limit
	list = list[:min(len(list), limit)]
	if o.JSON {
		entries := make([]historyEntry, len(list))
		for i, r := range list {
			entries[i] = r.entry()
		}
		return out.json(entries)
	}
	if len(list) == 0 {
		out.printf("nothing was done to it in the time that is remembered\n")
		return nil
	}
	table := out.table("CHANGE", "WHEN", "WHO", "FROM", "BY", "WHAT")
	for _, r := range list {
		by := r.action
		if r.why != "" {
			by += " " + r.why
		}
		from := r.client
		if from == "" {
			from = "-" // it was a command
		}
		table.row(strconv.FormatInt(r.change, 10), time.Unix(r.time, 0).Format("2006-01-02 15:04:05"), r.who, from, by, r.describe())
	}
	table.end()
	if more {
		out.printf("… and more before that; --limit 0 shows all\n")
	}
	return nil
}

// undoCommand is `berth undo CHANGE|NAME[:TAG]`.
func undoCommand(ctx context.Context, st *store, o options, out *console) error {
	if len(o.Args) != 1 {
		return errors.New("undo: say the number of a change, as `berth log` shows it, or NAME[:TAG] for the last change of that")
	}
	if o.As != "" {
		if _, err := parseName(o.As); err != nil {
			return fmt.Errorf("--as: %w", err)
		}
	}
	number, err := strconv.ParseInt(o.Args[0], 10, 64)
	if err != nil {
		name, ref, err := parseArgument(o.Args[0])
		if err != nil {
			return err
		}
		if number, err = st.lastChangeOf(name, ref); err != nil {
			return err
		}
	}
	did, err := st.undo(number, o.As, o.author())
	if err != nil {
		return err
	}
	st.audit("undone", "change", number, "user", o.Who)
	if o.JSON {
		return out.json(undone{number, doneSteps(did)})
	}
	for _, s := range did {
		out.printf("%s\n", s.describe())
	}
	return nil
}
