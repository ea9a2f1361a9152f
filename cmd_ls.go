// Listing and changing what is stored: `berth ls`, `berth rm`, `berth tag`.

package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// author is who gave a command.
func (o options) author() author {
	who := o.Who
	if who == "" {
		who = "command"
	}
	return author{who: who, overwrite: true, force: o.Force}
}

// parseArgument reads NAME, NAME:TAG or NAME@DIGEST.
func parseArgument(text string) (name string, ref reference, err error) {
	name, d, byDigest := strings.Cut(text, "@")
	if byDigest {
		if ref.digest, err = parseDigest(d); err != nil {
			if _, e := parseName(name); e == nil && !strings.Contains(err.Error(), "not supported") {
				err = plainError{fmt.Sprintf("%v; `berth ls %s --json` has the digests of its tags in full", plainly(err), name), err}
			}
			return "", ref, err
		}
	} else if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, '/') {
		name = text[:i]
		if ref.tag, err = parseTag(text[i+1:]); err != nil {
			return "", ref, err
		}
	}
	if _, err := parseName(name); err != nil {
		if strings.Contains(name, ":") {
			return "", ref, fmt.Errorf("%q: give the name without the host", text)
		}
		return "", ref, err
	}
	return name, ref, nil
}

// checkReferences refuses arguments that name no image and no repository.
func checkReferences(cfg *config) error {
	for _, arg := range cfg.Args {
		if _, _, err := parseArgument(arg); err != nil {
			return err
		}
	}
	return nil
}

// checkNameOrTag refuses arguments that are neither NAME nor NAME:TAG.
func checkNameOrTag(cfg *config) error {
	for _, arg := range cfg.Args {
		if _, ref, err := parseArgument(arg); err != nil {
			return err
		} else if ref.digest != "" {
			return fmt.Errorf("%s: say NAME or NAME:TAG, not %q", cfg.Command, arg)
		}
	}
	return nil
}

// checkNames refuses arguments that are not NAME.
func checkNames(cfg *config) error {
	for _, arg := range cfg.Args {
		if _, ref, err := parseArgument(arg); err != nil {
			return err
		} else if ref != (reference{}) {
			return fmt.Errorf("%s: say NAME alone, not %q", cfg.Command, arg)
		}
	}
	return nil
}

// listCommand is `berth ls [NAME]`: the tags of a repository, or if there is none of that name the repositories below it.
func listCommand(ctx context.Context, st *store, o options, out *console) error {
	if len(o.Args) == 0 {
		return listAll(ctx, st, o, out)
	}
	name, ref, err := parseArgument(o.Args[0])
	if err != nil {
		return err
	}
	// What is not written down is not shown, then.
	if err := st.pulls.save(); err != nil {
		st.log.Warn("when images were pulled cannot be recorded", "error", err)
	}
	tags, unknown, err := st.listTagsOf(ctx, name, ref.tag)
	if errors.Is(err, errNameUnknown) && ref == (reference{}) {
		below, e := st.listAll(ctx)
		below = slices.DeleteFunc(below, func(r listedRepository) bool { return !strings.HasPrefix(r.Repository, name+"/") })
		if e == nil && len(below) > 0 {
			return printRepositories(below, o, out)
		}
	}
	if err == nil && len(unknown) > 0 && st.writer != nil && st.platforms.lookForPlatforms(unknown) == nil {
		tags, _, err = st.listTagsOf(ctx, name, ref.tag)
	}
	if err != nil {
		return err
	}
	if o.JSON {
		return out.json(tags)
	}
	table := out.table("TAG", "DIGEST", "PLATFORM", "SIZE", "PUSHED", "PULLED")
	for _, t := range tags {
		for i, p := range append(t.Platforms, "-")[:max(1, len(t.Platforms))] {
			if i == 0 {
				table.row(t.Tag, digestCell(t.Digest.String()), p, sizeCell(t.Size), timeCellOf(t.Pushed), timeCellOf(t.Pulled))
			} else {
				table.row("", "", p, "", "", "")
			}
		}
	}
	table.end("There are no tags.\n")
	return nil
}

// listAll is `berth ls`.
func listAll(ctx context.Context, st *store, o options, out *console) error {
	repositories, err := st.listAll(ctx)
	if err != nil {
		return err
	}
	return printRepositories(repositories, o, out)
}

func printRepositories(list []listedRepository, o options, out *console) error {
	if o.JSON {
		return out.json(list)
	}
	table := out.table("REPOSITORY", "TAGS", "SIZE", "PUSHED")
	for _, r := range list {
		table.row(r.Repository, r.Tags, sizeCell(r.Size), timeCellOf(r.Pushed))
	}
	table.end("There are no repositories.\n")
	return nil
}

// checkRemoval refuses what checkReferences does, and says so if it is a tag with a space
// for its colon.
func checkRemoval(cfg *config) error {
	for i, arg := range cfg.Args {
		if _, _, err := parseArgument(arg); err != nil {
			if _, e := parseTag(arg); e == nil && i > 0 {
				before, _, _ := parseArgument(cfg.Args[i-1])
				return fmt.Errorf("%w; did you mean %s:%s?", err, before, arg)
			}
			return err
		}
	}
	return nil
}

// removeCommand is `berth rm NAME[:TAG|@DIGEST]...`: all of them, or none.
func removeCommand(ctx context.Context, st *store, o options, out *console) error {
	type removal struct {
		Removed string `json:"removed"`
		Change  int64  `json:"change"`
	}
	done := []removal{}
	list := make([]named, len(o.Args))
	for i, arg := range o.Args {
		var err error
		if list[i].repository, list[i].reference, err = parseArgument(arg); err != nil {
			return err
		}
	}
	numbers, err := st.remove(list, o.author())
	if err != nil {
		if n := len(numbers); len(list) > 1 && n < len(list) {
			err = notRemoved(ctx, st, list[:n+1], o.Args[n], err)
		}
		if o.JSON {
			return errors.Join(out.json(done), err)
		}
		return err
	}
	for i, it := range list {
		st.audit("delete", "user", o.Who, "repository", it.repository, "reference", it.reference)
		done = append(done, removal{o.Args[i], numbers[i]})
		if !o.JSON {
			out.printf("%s removed; to bring it back, within %s: berth undo %d\n", o.Args[i], formatDuration(st.restoreGrace()), numbers[i])
		}
	}
	if o.JSON {
		return out.json(done)
	}
	return nil
}

// notRemoved says which of several arguments is wrong: the last of list, written arg. It may
// be a tag of what is before it, with a space for its colon.
func notRemoved(ctx context.Context, st *store, list []named, arg string, err error) error {
	n := len(list) - 1
	if errors.Is(err, errNameUnknown) && n > 0 && list[n].reference == (reference{}) {
		if tags, _, e := st.listTagsOf(ctx, list[n-1].repository, arg); e == nil && len(tags) > 0 {
			return plainError{fmt.Sprintf("there is no repository %s: did you mean %s:%[1]s? Nothing was removed", arg, list[n-1].repository), err}
		}
	}
	return fmt.Errorf("%s: %w. Nothing was removed", arg, err)
}

// tagArguments reads NAME:OLD NEW, or NAME@DIGEST NEW.
func tagArguments(args []string) (name string, ref reference, tag string, err error) {
	if len(args) != 2 {
		return "", ref, "", errors.New("tag: say NAME:OLD NEW, or NAME@DIGEST NEW")
	}
	if name, ref, err = parseArgument(args[0]); err == nil && ref == (reference{}) {
		err = fmt.Errorf("tag: say which image of %s: NAME:TAG, or NAME@DIGEST", name)
	}
	if err != nil {
		return name, ref, "", err
	}
	tag, err = parseTag(strings.TrimPrefix(args[1], name+":"))
	if other, to, e := parseArgument(args[1]); err != nil && e == nil && other != name {
		err = fmt.Errorf("tag: the new tag is in %s, too, so give the tag alone: berth tag %s %s. "+
			"To copy the image to another repository, pull it and push it under the new name", name, args[0], cmp.Or(to.tag, "NEW"))
	}
	return name, ref, tag, err
}

func checkTagCommand(cfg *config) error {
	_, _, _, err := tagArguments(cfg.Args)
	return err
}

// tagCommand is `berth tag NAME:OLD NEW`.
func tagCommand(ctx context.Context, st *store, o options, out *console) error {
	name, ref, tag, err := tagArguments(o.Args)
	if err != nil {
		return err
	}
	did, change, err := tagManifest(st, name, ref, tag, o.author())
	if err != nil {
		return err
	}
	st.audit("tag", "user", o.Who, "repository", name, "tags", []string{tag}, "digest", did.new)
	if o.JSON {
		return out.json(struct {
			Repository string `json:"repository"`
			Tag        string `json:"tag"`
			Digest     string `json:"digest"`
			Was        string `json:"was,omitempty"`
			Change     int64  `json:"change,omitempty"`
		}{name, tag, did.new, did.old, change})
	}
	if did.old == did.new {
		out.printf("%s:%s is %s already\n", name, tag, shortDigest(did.new))
	} else {
		out.printf("%s\n", did.describe(shortDigest))
	}
	if change != 0 {
		out.printf("to take this back: berth undo %d\n", change)
	}
	return nil
}

// tagManifest gives what a reference names another tag. The number is the change's; 0 if
// the tag was there already.
func tagManifest(st *store, name string, ref reference, tag string, by author) (did step, number int64, err error) {
	rules, err := st.host.rulesNow()
	if err != nil {
		return did, 0, err
	}
	err = st.platforms.updateKnowing(func(t *tx) error {
		p := &pushing{tx: t, rules: rules, c: by.change("tag", "as "+shortDigest(ref.String()))}
		if p.repo, err = t.findRepository(name); err != nil {
			return err
		}
		var to target
		if ref.tag != "" {
			if to, err = t.findTag(p.repo.id, ref.tag); err == nil && to.id == 0 {
				err = sql.ErrNoRows
			}
		} else {
			to, err = t.findTarget(p.repo.id, ref.digest)
		}
		if errors.Is(err, sql.ErrNoRows) {
			return errManifestUnknown.with(map[string]string{"name": name, "reference": ref.String()})
		}
		if err != nil {
			return err
		}
		to.made = false // whoever says so wants this one
		was, err := t.findTag(p.repo.id, tag)
		if err != nil {
			return err
		}
		if err := p.move(tag, was, to, false); err != nil {
			return err
		}
		err = p.rebase(tag, was, to)
		did = step{kind: ofTag, repository: name, tag: tag, old: was.digest.String(), new: to.digest.String()}
		number = p.c.number
		return err
	})
	st.collector.wakeUp()
	if err == nil {
		notify(st.retainer.tagged)
	}
	return did, number, err
}
