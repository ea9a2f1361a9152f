// `berth retain`: what the rules of retention would drop and why (tag_retain.go), or do drop.

package main

import (
	"context"
	"fmt"
)

// retainCommand is `berth retain [NAME] [--explain]`.
func retainCommand(ctx context.Context, st *store, o options, out *console) error {
	name := ""
	if len(o.Args) > 0 {
		var err error
		if name, err = parseName(o.Args[0]); err != nil {
			return err
		}
	}
	if err := st.host.reread(); err != nil { // what is in force would be explained, and not what was written last
		return fmt.Errorf("%w. Until that is corrected, the rules from before it hold (berth policy check)", err)
	}
	list, err := st.retainer.explainRetention(ctx, name)
	if err != nil {
		return err
	}
	dropped := 0
	if !o.Explain {
		if st.writer == nil {
			return errReadOnlyDisk
		}
		if _, dropped, err = st.retainer.retain(ctx, name); err != nil {
			return err
		}
	}
	if o.JSON {
		if list == nil {
			list = []explainedRepository{}
		}
		return out.json(list)
	}
	var drops int
	var frees int64
	for _, x := range list {
		drops, frees = drops+x.Drops, frees+x.Frees
		if o.Explain {
			x.print(out)
		}
	}
	switch {
	case len(list) > 0 && drops == 0 && dropped == 0:
		out.printf("no tag is to be removed\n")
	case len(list) == 0:
		out.printf("there are no retention rules; add them as [[retain]] in policy.toml\n")
	case o.Explain:
		out.printf("%s would be removed, which frees %s when their grace period is over\n", plural(drops, "tag"), formatSize(frees))
	default:
		out.printf("%s removed, which frees %s when their grace period is over; `berth log` shows them, and `berth undo` brings them back\n",
			plural(dropped, "tag"), formatSize(frees))
	}
	return nil
}

// print explains for people.
func (x *explainedRepository) print(out *console) {
	out.printf("%s\n", x.Repository)
	out.lines("  ", x.Rules...)
	table := out.table("TAG", "", "FREES", "RULE", "WHY").breaking(3, 4)
	for _, e := range x.Tags {
		does, frees := "keep", any("")
		if !e.Keep {
			does, frees = "drop", sizeCell(e.Frees)
		}
		table.row(e.Tag, does, frees, e.Rule, e.Why)
	}
	table.end("")
	out.printf("\n")
}
