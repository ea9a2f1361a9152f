// Tags that go by themselves.
//
// In a repository that rules of retention are about, a tag goes if such a rule is
// about it and none keeps it. Ages are counted in uptime, like all times that
// decide something here: a clock that jumps drops nothing, and a month in a drawer
// makes nothing old. A tag that goes is a change like any other (history.go): its
// image stays for its grace, and `berth undo` brings it back, and then retention
// leaves it alone for as long.
//
// Rules are applied an hour after the last time at the earliest, when a tag has
// moved or one has become old enough; in short transactions, each of which looks
// again whether its tags are still what they were. Without rules nothing wakes up.

package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// retainEvery is between two runs, and retainDelay before the first after a
	// start or a change of the rules, so that a mistake can be mended.
	retainEvery = time.Hour
	retainDelay = 10 * time.Minute
)

// A retainer drops tags of its store, by the rules of retention.
type retainer struct {
	*store
	tagged       chan struct{} // tells run that a tag has moved
	rulesChanged chan struct{} // and that there may be other rules
	droppedTags  atomic.Int64  // since the start, for the metrics
}

// run applies the rules of retention until ctx ends.
func (rt *retainer) run(ctx context.Context) {
	if rt.writer == nil {
		return
	}
	const never = -1
	var ran time.Duration // when the last run was, by the process's clock
	next := time.Duration(never)
	if rules, err := rt.host.rulesNow(); err == nil && len(rules.retain) > 0 {
		next = retainDelay
	}
	for {
		set := rt.now()
		timer, stop := alarm(next)
		select {
		case <-ctx.Done():
			stop()
			return
		case <-timer:
			due, _, err := rt.retain(ctx, "")
			ran = rt.now()
			switch {
			case err != nil && ctx.Err() == nil:
				rt.log.Error("applying the rules of retention", "error", err)
				next = retainEvery
			case due < 0:
				next = never
			default:
				next = max(due, retainEvery)
			}
			continue
		case <-rt.rulesChanged:
			next = retainDelay
		case <-rt.tagged:
			wait := max(retainDelay, ran+retainEvery-rt.now())
			if next = remaining(next, rt.now()-set); next < 0 || wait < next {
				next = wait
			}
		}
		stop()
		if rules, err := rt.host.rulesNow(); err == nil && len(rules.retain) == 0 {
			next = never
		}
	}
}

// remaining is what is left of a wait; negative is for ever.
func remaining(wait, passed time.Duration) time.Duration {
	if wait < 0 {
		return wait
	}
	return max(0, wait-passed)
}

// A candidate is a tag that retention looks at. Times are uptime in seconds.
type candidate struct {
	tag            string
	manifest       int64
	digest         digest.Digest
	pushed, change int64 // when, and by which change: the order of those pushed in one second
	pulled         int64 // 0 for never
	spared         int64 // it was restored, and stays till then
	immutable      *tagRule
	part           string   // the tag whose index the registry makes with this one, if it does
	place          tagPlace // decide sets it
}

// A verdict says what becomes of a tag, and why.
type verdict struct {
	candidate
	keep bool
	why  string
	rule string // that keeps it, or that it is dropped by
	due  int64  // uptime when it will no longer be kept by this; 0 if time does not change it
}

// decide applies rules to the tags of one repository. The order of the verdicts is
// that of compareTags.
func decide(rules []*retainRule, tags []candidate, clock int64) []verdict {
	tags = slices.Clone(tags)
	for i := range tags {
		tags[i].place = placeOf(tags[i].tag)
	}
	slices.SortFunc(tags, func(a, b candidate) int { return comparePlaces(a.place, b.place) })
	ranks := make([]map[string]rank, len(rules))
	for i, r := range rules {
		ranks[i] = r.rank(tags)
	}
	verdicts := make([]verdict, len(tags))
	for i, c := range tags {
		verdicts[i] = decideOne(rules, ranks, c, clock)
	}
	// What stays stays whole.
	whole := make(map[string]verdict)
	for _, v := range verdicts {
		if v.keep {
			whole[v.tag] = v
		}
	}
	for i := range verdicts {
		v := &verdicts[i]
		if w, ok := whole[v.part]; ok && !v.keep {
			v.keep, v.rule, v.due = true, w.rule, w.due
			v.why = "part of " + v.part + ", which stays"
		}
	}
	return verdicts
}

// A rank is a tag's place in the order of a rule that keeps the newest.
type rank struct {
	n    int // from 1
	what string
}

// rank puts the tags of a rule in order: versions by themselves, and the others.
func (r *retainRule) rank(tags []candidate) map[string]rank {
	ranks := make(map[string]rank)
	if r.newest == 0 {
		return ranks
	}
	var versions, others []candidate
	for _, c := range tags {
		if !r.tags.has(c.tag) || c.part != "" || signedBy(c.tag) != "" {
			continue // a part takes no place beside its index, nor a signature beside its image
		} else if c.place.is {
			versions = append(versions, c)
		} else {
			others = append(others, c)
		}
	}
	later := func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.pushed, a.pushed), cmp.Compare(b.change, a.change), cmp.Compare(b.manifest, a.manifest), cmp.Compare(b.tag, a.tag))
	}
	slices.SortFunc(versions, func(a, b candidate) int { return cmp.Or(b.place.version.compare(a.place.version), later(a, b)) })
	slices.SortFunc(others, later)
	for _, x := range []struct {
		list []candidate
		what string
	}{{versions, "by version"}, {others, "by time of push"}} {
		for i, c := range x.list {
			ranks[c.tag] = rank{i + 1, fmt.Sprintf("%s of %d %s", ordinal(i+1), len(x.list), x.what)}
		}
	}
	return ranks
}

// ordinal writes the place in a row.
func ordinal(n int) string {
	switch {
	case n == 1:
		return "newest"
	case n%10 == 1 && n%100 != 11:
		return fmt.Sprintf("%dst newest", n)
	case n%10 == 2 && n%100 != 12:
		return fmt.Sprintf("%dnd newest", n)
	case n%10 == 3 && n%100 != 13:
		return fmt.Sprintf("%drd newest", n)
	}
	return fmt.Sprintf("%dth newest", n)
}

func decideOne(rules []*retainRule, ranks []map[string]rank, c candidate, clock int64) verdict {
	v := verdict{candidate: c, keep: true}
	if c.immutable != nil {
		v.rule, v.why = c.immutable.origin, "immutable"
		return v
	}
	if d := signedBy(c.tag); d != "" {
		v.why = "belongs to " + shortDigest(d.String()) + ", and is removed with it"
		return v
	}
	var about []string
	lost := ""         // why newest does not keep it
	until := int64(-1) // the latest time that something keeps it
	keep := func(rule, why string, due int64) {
		if due == 0 && until != 0 || until != 0 && due > until {
			until, v.rule, v.why = due, rule, why
		}
	}
	for i, r := range rules {
		if !r.tags.has(c.tag) {
			continue
		}
		about = append(about, r.origin)
		if r.always {
			keep(r.origin, "always", 0)
		}
		if place, ok := ranks[i][c.tag]; ok && place.n <= r.newest {
			keep(r.origin, place.what, 0)
		} else if ok && !strings.Contains(lost, place.what) {
			lost += place.what + ", "
		}
		if r.matching != nil && r.matching.MatchString(c.tag) {
			keep(r.origin, "matches "+r.written, 0)
		}
		for _, x := range []struct {
			since int64
			limit time.Duration
			what  string
		}{{c.pushed, r.younger, "pushed"}, {max(c.pulled, c.pushed), r.pulled, "pulled or pushed"}} {
			if due := x.since + int64(x.limit/time.Second); x.limit > 0 && clock < due {
				keep(r.origin, fmt.Sprintf("%s %s ago, within %s", x.what, sinceUptime(x.since, clock), span(x.limit)), due)
			}
		}
	}
	switch {
	case about == nil:
		v.why = "no rule applies to it"
	case until >= 0:
		v.due = until
	case clock < c.spared:
		v.why, v.due = "restored; left alone for "+sinceUptime(clock, c.spared), c.spared
	default:
		v.keep, v.rule = false, strings.Join(about, ", ")
		v.why = lost + "pushed " + sinceUptime(c.pushed, clock) + " ago, never pulled"
		if c.pulled > 0 {
			v.why = lost + "pushed " + sinceUptime(c.pushed, clock) + " ago, pulled " + sinceUptime(c.pulled, clock) + " ago"
		}
	}
	return v
}

// sinceUptime writes the time between two uptimes, of which a crash may have lost some.
func sinceUptime(from, to int64) string {
	return formatDuration(time.Duration(max(0, to-from)) * time.Second)
}

// retain drops what no rule keeps, in one repository or ("") in all. It returns how
// long it is until something else may be due, negative if nothing will be, and how
// many tags have gone: none while flags refuse deletes.
func (rt *retainer) retain(ctx context.Context, only string) (next time.Duration, dropped int, err error) {
	next = -1
	rules, err := rt.host.rulesNow()
	if err != nil || len(rules.retain) == 0 || rt.readOnly || rt.noDelete {
		return next, 0, err
	}
	// What was pulled lately may be in memory only.
	if err := rt.pulls.save(); err != nil {
		return next, 0, err
	}
	names, err := listRows(rt, scanOne[string], `SELECT name FROM repository WHERE deleted IS NULL AND tags > 0 AND (?1 = '' OR name = ?1) ORDER BY name`, only)
	if err != nil {
		return next, 0, err
	}
	var errs []error // one repository must not keep the others
	for _, name := range names {
		if len(rules.retainedBy(name)) == 0 {
			continue
		}
		if ctx.Err() != nil {
			return next, dropped, ctx.Err()
		}
		due, n, err := rt.retainIn(ctx, name, rules)
		if err != nil {
			errs = append(errs, fmt.Errorf("removing tags of %s: %w", name, err))
		}
		dropped += n
		if due >= 0 && (next < 0 || due < next) {
			next = due
		}
	}
	return next, dropped, errors.Join(errs...)
}

// retainIn is retain for one repository.
func (rt *retainer) retainIn(ctx context.Context, name string, rules *tagRules) (next time.Duration, dropped int, err error) {
	next = -1
	verdicts, err := rt.judge(ctx, name, rules)
	if err != nil {
		return next, 0, err
	}
	var drop []verdict
	for _, v := range verdicts {
		if !v.keep {
			drop = append(drop, v)
		} else if v.due > 0 {
			due := max(0, time.Duration(v.due)*time.Second-rt.uptime()+time.Second)
			if next < 0 || due < next {
				next = due
			}
		}
	}
	// An index goes before its parts, or it would be made anew without each.
	slices.SortStableFunc(drop, func(a, b verdict) int { return cmp.Compare(len(a.tag), len(b.tag)) })
	for batch := range slices.Chunk(drop, collectAtOnce) {
		n, err := rt.dropTags(name, rules, batch)
		dropped += n
		if err != nil {
			return next, dropped, err
		}
		if n < len(batch) {
			next = 0 // at the next run
		}
	}
	return next, dropped, nil
}

// judge decides about the tags of a repository.
func (rt *retainer) judge(ctx context.Context, name string, rules *tagRules) (verdicts []verdict, err error) {
	err = rt.look(ctx, func(s snapshot) error {
		verdicts, err = rt.judgeIn(s, name, rules)
		return err
	})
	return verdicts, err
}

func (rt *retainer) judgeIn(s snapshot, name string, rules *tagRules) ([]verdict, error) {
	// A pull of a member is one of its index.
	tags, err := listRows(s, func(rows *sql.Rows) (c candidate, err error) {
		var member sql.NullInt64
		err = rows.Scan(&c.tag, &c.manifest, &c.digest, &c.pushed, &c.change, &c.spared, &c.pulled, &member)
		c.pulled = max(c.pulled, member.Int64)
		return c, err
	}, `SELECT t.name, t.manifest, m.digest, t.pushed, t.change, t.spared, coalesce(p.at, 0),
			(SELECT max(q.at) FROM names n JOIN manifest c ON c.repository = n.repository AND c.digest = n.digest
				JOIN pull q ON q.manifest = c.id WHERE n.manifest = t.manifest)
		FROM repository r JOIN tag t ON t.repository = r.id JOIN manifest m ON m.id = t.manifest
		LEFT JOIN pull p ON p.manifest = t.manifest WHERE r.name = ?`, name)
	if err != nil {
		return nil, err
	}
	for i := range tags {
		c := &tags[i]
		c.immutable = rules.holds(name, c.tag)
		part, err := rules.partOf(s.get, name, c.tag, c.digest)
		if err != nil {
			return nil, err
		}
		if part {
			c.part = baseOf(c.tag)
		}
	}
	return decide(rules.retainedBy(name), tags, int64(rt.uptime()/time.Second)), nil
}

// holds returns the rule that keeps a tag from going: it, or the index that has it,
// is immutable.
func (rules *tagRules) holds(repository, tag string) *tagRule {
	if r := rules.immutableBy(repository, tag); r != nil {
		return r
	}
	if base := baseOf(tag); base != "" && rules.indexedBy(repository, base, fromSuffix) != nil {
		return rules.immutableBy(repository, base)
	}
	return nil
}

// partOf reports whether the registry has the manifest of a tag in an index that it
// makes of it and others; get is that of a transaction or a snapshot.
func (rules *tagRules) partOf(get func(query string, args []any, dest ...any) error, repository, tag string, d digest.Digest) (is bool, err error) {
	base := baseOf(tag)
	if base == "" || rules.indexedBy(repository, base, fromSuffix) == nil {
		return false, nil
	}
	err = get(`SELECT EXISTS (SELECT 1 FROM repository r JOIN tag t ON t.repository = r.id AND t.name = ?2 AND t.made = 1
		JOIN names n ON n.manifest = t.manifest AND n.digest = ?3 WHERE r.name = ?1)`, []any{repository, base, d}, &is)
	return is, err
}

// dropTags takes tags away that are still what they were when it was decided, and
// returns how many those were.
func (rt *retainer) dropTags(name string, rules *tagRules, batch []verdict) (n int, err error) {
	var gone []string
	err = rt.platforms.updateKnowing(func(t *tx) error {
		gone = nil
		p := &pushing{tx: t, rules: rules, c: author{who: "retention", overwrite: true}.change("retention", "by "+batch[0].rule)}
		var err error
		if p.repo, err = t.findRepository(name); errors.Is(err, errNameUnknown) {
			return nil
		} else if err != nil {
			return err
		}
		for _, v := range batch {
			if v.rule != batch[0].rule {
				p.c.why = "by rules"
			}
			was, err := t.findTag(p.repo.id, v.tag)
			if err != nil {
				return err
			}
			var still bool
			err = t.get(`SELECT EXISTS (SELECT 1 FROM tag WHERE repository = ?1 AND name = ?2 AND manifest = ?3 AND pushed = ?4 AND spared = ?5)
				AND NOT EXISTS (SELECT 1 FROM pull WHERE manifest = ?3 AND at > ?6)`,
				[]any{p.repo.id, v.tag, v.manifest, v.pushed, v.spared, v.pulled}, &still)
			if err != nil {
				return err
			}
			part, err := rules.partOf(t.get, name, v.tag, v.digest)
			if err != nil {
				return err
			}
			if !still || part || rt.pulls.has(v.manifest) {
				continue // it is looked at again in the next run
			}
			if err := p.untag(v.tag, was); err != nil {
				return err
			}
			gone = append(gone, v.tag)
		}
		return nil
	})
	if err == nil && len(gone) > 0 {
		rt.droppedTags.Add(int64(len(gone)))
		rt.audit("tags dropped", "user", "retention", "repository", name, "tags", gone)
		rt.collector.wakeUp()
	}
	if err != nil {
		return 0, err
	}
	return len(gone), nil
}

// An explained tag is a verdict as clients get it.
type explained struct {
	Tag    string        `json:"tag"`
	Digest digest.Digest `json:"digest"`
	Keep   bool          `json:"keep"`
	Rule   string        `json:"rule,omitempty"`
	Why    string        `json:"why"`
	Frees  int64         `json:"frees"` // bytes of blobs that nothing else needs, after those above it have gone
}

// An explainedRepository is what retention would do in a repository.
type explainedRepository struct {
	Repository string      `json:"repository"`
	Rules      []string    `json:"rules"`
	Tags       []explained `json:"tags"`
	Drops      int         `json:"drops"`
	Frees      int64       `json:"frees"` // bytes of blobs, once the graces are over
}

// explainRetention says what retention would do in a repository, or ("") in all
// that rules are about, and what that frees: exactly, on one snapshot, in the order
// of the answer, counting what other images share and what goes anyway.
func (rt *retainer) explainRetention(ctx context.Context, only string) (list []explainedRepository, err error) {
	rules, err := rt.host.rulesNow()
	if err != nil {
		return nil, err
	}
	// What was pulled lately may be in memory only.
	if err := rt.pulls.save(); err != nil {
		return nil, err
	}
	err = rt.look(ctx, func(s snapshot) error {
		names, err := listRows(s, scanOne[string], `SELECT name FROM repository WHERE deleted IS NULL AND (?1 = '' OR name = ?1) ORDER BY name`, only)
		if err != nil {
			return err
		}
		if only != "" && len(names) == 0 {
			return errNameUnknown.with(map[string]string{"name": only})
		}
		g := rt.graces()
		g.now = true
		p := newPlanner(rt.store, s, g, false, func(doomed) error { return nil })
		if err := p.rows(); err != nil {
			return err
		}
		for _, name := range names {
			about := rules.retainedBy(name)
			if len(about) == 0 && only == "" {
				continue
			}
			verdicts, err := rt.judgeIn(s, name, rules)
			if err != nil {
				return err
			}
			x := explainedRepository{Repository: name, Rules: []string{}, Tags: []explained{}}
			for _, r := range about {
				x.Rules = append(x.Rules, r.origin+": "+r.conditions()+", of "+strings.Join(r.tags.text, ", "))
			}
			if err := p.explain(&x, verdicts); err != nil {
				return err
			}
			list = append(list, x)
		}
		return nil
	})
	return list, err
}

// explain works out what the verdicts on a repository free.
func (p *planner) explain(x *explainedRepository, verdicts []verdict) error {
	for _, v := range verdicts {
		e := explained{Tag: v.tag, Digest: v.digest, Keep: v.keep, Rule: v.rule, Why: v.why}
		if !v.keep {
			before := p.total.Bytes
			if err := p.untag(x.Repository, v); err != nil {
				return err
			}
			e.Frees = p.total.Bytes - before
			x.Drops++
			x.Frees += e.Frees
		}
		x.Tags = append(x.Tags, e)
	}
	return nil
}

// untag takes a tag away on paper.
func (p *planner) untag(repository string, v verdict) error {
	if p.g.keepUntagged {
		return nil
	}
	m := plannedManifest{id: v.manifest, digest: v.digest, repository: repository}
	if err := p.get(`SELECT repository, length(body) FROM manifest WHERE id = ?`, []any{m.id}, &m.repo, &m.size); err != nil {
		return err
	}
	if lives, err := p.outlives(m); err != nil || lives {
		return err
	}
	if err := p.kill(m, "no rule keeps its tag"); err != nil {
		return err
	}
	return p.follow()
}
