//go:build unix

// Undo, step by step: further back each time, around what has changed since, and
// never a part of something.

package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// As in docs/tags.md: what was deleted comes back, and then the push before it is undone.
// Who tries the same again, to be sure, destroys nothing, and reads how to go on.
func TestUndoAgainSaysHowToGoOn(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	one := r.pushImage("home/app", "1.0", "{}", "one")
	two := r.pushImage("home/app", "1.0", "{}", "two")
	r.pushImage("home/app", "2.0", "{}", "two")
	says := func(want string, args ...string) {
		t.Helper()
		if got := r.command(args[0], args[1:]...); got != want {
			t.Errorf("berth %s says %q, want %q", strings.Join(args, " "), got, want)
		}
	}
	refuses := func(args []string, wants ...string) {
		t.Helper()
		out, err := runOnceOn(t, r.st, args[0], args[1:]...)
		if err == nil {
			t.Errorf("berth %s does %q, want it refused", strings.Join(args, " "), out)
			return
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("berth %s says %v, want %q in it", strings.Join(args, " "), err, want)
			}
		}
	}
	r.command("rm", "home/app") // 4
	says("home/app restored\nto take this back: berth undo 5\n", "undo", "home/app")
	r.wantImage("home/app", "1.0", two)
	refuses([]string{"undo", "home/app"}, "home/app: the last change was itself an undo", "berth undo 5", "berth undo 3")
	says("home/app:1.0 is "+shortDigest(one.digest.String())+", was "+shortDigest(two.digest.String())+"\nto take this back: berth undo 6\n", "undo", "home/app:1.0")
	for range 2 {
		refuses([]string{"undo", "home/app:1.0"}, "home/app:1.0: the last change was itself an undo", "To take that undo back: berth undo 6. ",
			"too (home/app:1.0 is "+shortDigest(one.digest.String())+"): berth undo 1")
		r.wantImage("home/app", "1.0", one)
	}
	// What it says is done.
	says("home/app:1.0 is "+shortDigest(two.digest.String())+", was "+shortDigest(one.digest.String())+"\nto take this back: berth undo 7\n", "undo", "6")
	r.command("undo", "7")
	says("home/app:1.0 gone, was "+shortDigest(one.digest.String())+"\nto take this back: berth undo 9\n", "undo", "1")
	r.wantTags("home/app", "2.0")
	refuses([]string{"undo", "home/app:1.0"}, "there is nothing further back", "berth undo 9", "berth log home/app:1.0")
	r.command("undo", "9")
	r.wantImage("home/app", "1.0", one)
	refuses([]string{"undo", "home/app:3.0"}, "home/app has no tag 3.0; `berth ls home/app` lists them")
	r.command("undo", "3")
	r.wantTags("home/app", "1.0")
}

// A push that made a part of an index is undone though others have pushed since.
func TestUndoOfAPartOfAnIndex(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSuffixRule))
	amd := r.pushFor("a", "1-amd64", "linux/amd64", "x")
	old := r.pushFor("a", "1-arm64", "linux/arm64", "x")
	r.pushFor("a", "1-arm64", "linux/arm64", "y")
	moved := r.last("a")
	riscv := r.pushFor("a", "1-riscv64", "linux/riscv64", "x")
	r.undo(200, "a", moved, old.digest.String())
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": old, "linux/riscv64": riscv})
	// And a deleted part comes back into it.
	r.want(202, "DELETE", "/v2/a/manifests/1-amd64", nil)
	deleted := r.last("a")
	arm := r.pushFor("a", "1-arm64", "linux/arm64", "z")
	r.wantPlatforms("a", "1", map[string]image{"linux/arm64": arm, "linux/riscv64": riscv})
	r.undo(200, "a", deleted, amd.digest.String())
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": arm, "linux/riscv64": riscv})
}

// A member of very many indexes goes in one step, and comes back into the last.
func TestMemberOfManyIndexes(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	amd := r.pushFor("a", "1", "linux/amd64", "x")
	var arm, before image
	for i := range 120 {
		before, arm = arm, r.pushFor("a", "1", "linux/arm64", fmt.Sprint(i))
	}
	moved := r.last("a")
	steps := len(r.history("a", "n=1000"))
	r.want(202, "DELETE", "/v2/a/manifests/"+amd.digest.String(), nil)
	if n := len(r.history("a", "n=1000")) - steps; n != 2 {
		t.Errorf("a deletion is %d steps, want that of the image and that of the tag", n)
	}
	r.check()
	r.undo(200, "a", r.last("a"), amd.digest.String())
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": arm})
	r.undo(200, "a", moved, "")
	r.wantPlatforms("a", "1", map[string]image{"linux/amd64": amd, "linux/arm64": before})
}

// What the collector has begun to take away cannot be restored in part.
func TestRepositoryThatIsHalfCollected(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.noPromises = true })
	for i := range 2 * collectAtOnce {
		r.pushImage("a", fmt.Sprint(i), fmt.Sprintf(`{"n":%d}`, i))
	}
	r.command("rm", "a")
	number := r.last("a")
	r.moved.Add(int64(r.cfg.untaggedGrace + time.Minute))
	// A collection that is ended after its first transaction.
	if n, err := r.st.collector.emptyRepositories(r.st.collector.cutoff(r.st.graces().manifest)); err != nil || n != collectAtOnce {
		t.Fatalf("%d manifests are collected (%v), want %d", n, err, collectAtOnce)
	}
	var left int
	if err := r.st.get(`SELECT count(*) FROM manifest`, nil, &left); err != nil || left != collectAtOnce {
		t.Fatalf("%d manifests are left (%v), want %d", left, err, collectAtOnce)
	}
	r.undo(409, "a", number, "are no longer kept")
	r.pass(r.cfg.grace + time.Minute)
	r.undo(409, "a", number, "are no longer kept")
	r.want(404, "GET", "/v2/a/tags/list", nil)
}

// The history is read page by page, and no step is missed.
func TestPagesOfTheHistory(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSuffixRule))
	im := r.pushImage("a", "x", "{}", "layer")
	for i := range 5 {
		r.pushManifest("a", fmt.Sprint("t", i), im.manifest, typeOCIManifest)
	}
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil) // is seven steps
	r.pushFor("a", "1-amd64", "linux/amd64", "x")                     // is two
	all := r.history("a", "n=1000")
	if len(all) != 6+7+2 {
		t.Errorf("%d steps, want 15", len(all))
	}
	for n := 1; n < 9; n++ {
		var got []historyEntry
		for path := fmt.Sprint("/v2/a/_berth/history?n=", n); path != ""; {
			re := r.want(200, "GET", path, nil)
			var page struct{ History []historyEntry }
			if err := json.Unmarshal(re.body, &page); err != nil || len(page.History) > n {
				t.Fatalf("%s: %v: %s", path, err, re.body)
			}
			got = append(got, page.History...)
			next, _, more := strings.Cut(strings.TrimPrefix(re.header.Get("Link"), "<"), ">")
			if path = ""; more {
				path = next
			}
		}
		if !slices.Equal(got, all) {
			t.Errorf("in pages of %d there are %d steps, want %d", n, len(got), len(all))
		}
	}
	for _, last := range []string{"x", "1", "1.", "-1.0", "1.0.0", " 1.0"} {
		r.want(400, "GET", "/v2/a/_berth/history?last="+url.QueryEscape(last), nil)
	}
	// A limit counts changes, and shows each whole.
	for limit, want := range []int{0: 15, 1: 2, 2: 9, 3: 10, 7: 14, 8: 15, 100: 15} {
		if limit != 0 && want == 0 {
			continue
		}
		lines := want + 1
		if want < len(all) {
			lines++
		}
		out, err := runOnceOn(t, r.st, "log", "a", "--limit", fmt.Sprint(limit))
		if err != nil || strings.Count(out, "\n") != lines || strings.Contains(out, "and more") != (want < len(all)) {
			t.Errorf("a limit of %d: %v\n%swant %d lines", limit, err, out, lines)
		}
		if got := r.command("log", "a", "--json", "--limit", fmt.Sprint(limit)); strings.Count(got, `"change":`) != want {
			t.Errorf("a limit of %d, as JSON, shows\n%s\nwant %d steps", limit, got, want)
		}
	}
}

// What clients may not do, rules and commands do not do either.
func TestReadOnlyHoldsForRulesAndCommands(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[retain]]\nrepositories = [\"**\"]\nnewest = 1\n"))
	r.pushImage("a", "v1", "{}", "one")
	r.pushImage("a", "v2", "{}", "two")
	r.want(202, "DELETE", "/v2/a/manifests/v2", nil)
	r.pushImage("a", "v3", "{}", "three")
	layer := r.pushBlob("a", "nobody needs it")
	deleted := r.last("a")
	refused := func(because string, commands ...string) {
		t.Helper()
		for _, line := range commands {
			words := strings.Fields(line)
			if out, err := runOnceOn(t, r.st, words[0], words[1:]...); err == nil || !strings.Contains(err.Error(), because) {
				t.Errorf("berth %s: %v\n%s, want a refusal by %s", line, err, out, because)
			}
		}
		if tags := r.retained("a"); tags != "v1 v3" {
			t.Errorf("the tags are %s", tags)
		}
		r.command("retain", "--explain")
		r.command("gc", "--dry-run")
	}
	deletes := []string{"rm a:v1", "rm a:v1 --force", "rm a", "retain", fmt.Sprint("undo ", deleted)}
	r.restart(func(c *config) { c.readOnly = true })
	refused("--read-only", append(deletes, "tag a:v1 v4", "gc", "gc --now")...)
	r.pass(10 * r.cfg.untaggedGrace)
	if !r.hasFile(layer) {
		t.Error("a blob was collected, though the registry is read-only")
	}
	r.restart(func(c *config) { c.readOnly, c.noDelete = false, true })
	refused("--no-delete", deletes...)
	r.pass(2 * r.cfg.untaggedGrace)
	if r.hasFile(layer) {
		t.Error("what nothing refers to is not collected")
	}
	r.command("tag", "a:v1", "v4")
	r.restart(func(c *config) { c.noDelete = false })
	if tags := r.retained("a"); tags != "v4" {
		t.Errorf("then the tags are %s", tags)
	}
}

// Undo brings back. Who names a tag that was not there before loses nothing by it, and reads how
// it is removed; the number of the change says that this is meant.
func TestUndoOfANewTag(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	first := r.pushImage("home/app", "1.0", "{}", "one") // 1
	r.says("home/app:2.0 is "+shortDigest(first.digest.String())+"\nto take this back: berth undo 2\n", "tag home/app:1.0 2.0")
	for what, made := range map[string]string{"home/app:1.0": "1.0 1", "home/app:2.0": "2.0 2", "home/app": "2.0 2"} {
		tag, change, _ := strings.Cut(made, " ")
		r.refuses(what+": the last change was that the tag "+tag+" was made; there is nothing before it to restore. "+
			"To remove the tag: berth rm home/app:"+tag+", or berth undo "+change, "undo "+what)
	}
	r.wantTags("home/app", "1.0", "2.0")
	r.command("undo", "2")
	r.wantTags("home/app", "1.0")
	// One that was removed and pushed again had nothing before it either.
	r.command("rm", "home/app:1.0")                       // 4
	second := r.pushImage("home/app", "1.0", "{}", "two") // 5
	r.refuses("home/app:1.0: the last change was that the tag 1.0 was made; there is nothing before it to restore. "+
		"To remove the tag: berth rm home/app:1.0, or berth undo 5", "undo home/app:1.0")
	r.wantImage("home/app", "1.0", second)
	// Without the tag there is something to restore.
	r.command("rm", "home/app:1.0") // 6
	r.says("home/app:1.0 is "+shortDigest(second.digest.String())+"\nto take this back: berth undo 7\n", "undo home/app:1.0")
}

// Who undoes by a tag's name gets that tag, of all that retention has removed with it; the number
// brings back the rest.
func TestUndoOfOneTagOfSeveral(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { writeRules(c.dir, "[[retain]]\nrepositories = [\"a\"]\nnewest = 1\n") })
	for i := range 4 {
		r.pushImage("a", fmt.Sprintf("1.%d", i), "{}", fmt.Sprint("layer ", i))
	}
	if got := r.retained("a"); got != "1.3" {
		t.Fatalf("retention has left %q", got)
	}
	dropped := r.last("a")
	if out, err := runOnceOn(t, r.st, "undo", "a:1.1"); err != nil || strings.Contains(out, "1.0") || r.tags("a") != "1.1 1.3" {
		t.Errorf("undo a:1.1: %v\n%s%s", err, out, r.tags("a"))
	}
	if out, err := runOnceOn(t, r.st, "undo", "a:1.0"); err != nil || r.tags("a") != "1.0 1.1 1.3" {
		t.Errorf("undo a:1.0: %v\n%s%s", err, out, r.tags("a"))
	}
	if out, err := runOnceOn(t, r.st, "undo", fmt.Sprint(dropped)); err != nil || r.tags("a") != "1.0 1.1 1.2 1.3" {
		t.Errorf("undo %d: %v\n%s%s", dropped, err, out, r.tags("a"))
	}
	// A deleted image comes back with all its tags.
	im := r.pushImage("b", "x", "{}", "layer")
	r.want(201, "PUT", "/v2/b/manifests/y", im.manifest, "Content-Type: "+typeOCIManifest)
	r.want(202, "DELETE", "/v2/b/manifests/"+im.digest.String(), nil)
	if out, err := runOnceOn(t, r.st, "undo", "b:x"); err != nil || r.tags("b") != "x y" {
		t.Errorf("undo b:x: %v\n%s", err, out)
	}
}
