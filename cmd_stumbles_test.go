//go:build unix

// What newcomers stumble over: a space for a colon, a tag that moves unseen, a way back that
// is not where they look for it.

package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// refuses insists that a command of a running server's fails, and says what is wanted.
func (r *registry) refuses(want, command string) {
	r.t.Helper()
	args := strings.Fields(command)
	if out, err := runOnceOn(r.t, r.st, args[0], args[1:]...); err == nil || err.Error() != want || out != "" {
		r.t.Errorf("berth %s: %v\n%s\nwant %s", command, err, out, want)
	}
}

// says insists on what a command of a running server's says.
func (r *registry) says(want, command string) {
	r.t.Helper()
	args := strings.Fields(command)
	if got := r.command(args[0], args[1:]...); got != want {
		r.t.Errorf("berth %s says\n%swant\n%s", command, got, want)
	}
}

// One wrong argument, wherever it stands, and nothing is removed.
func TestRemoveLooksAtAllFirst(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[immutable]]\nrepositories = [\"release/*\"]\ntags = [\"*\"]\n"))
	for _, tag := range []string{"1.0", "1.1", "RC"} {
		r.pushImage("home/app", tag, "{}", tag)
	}
	kept := r.pushImage("release/app", "1.0", "{}", "layer")
	member := r.pushImage("home/index", "part", "{}", "part")
	index, _ := ociIndex(member.manifest)
	r.want(201, "PUT", "/v2/home/index/manifests/all", index, "Content-Type: "+typeOCIIndex)

	r.refuses("there is no repository 1.0: did you mean home/app:1.0? Nothing was removed", "rm home/app 1.0")
	r.refuses("there is no repository 1.1: did you mean home/app:1.1? Nothing was removed", "rm home/app:1.0 1.1")
	r.refuses("1.2: there is no repository 1.2; `berth ls` lists them. Nothing was removed", "rm home/app 1.2")
	r.refuses("home/app:2: home/app has no tag 2; `berth ls home/app` lists them. Nothing was removed", "rm home/app:1.0 home/app:2 home/app:1.1")
	r.refuses("release/app: release/app:1.0 is immutable, by the rule immutable 1 (* in release/*); --force does it anyway. Nothing was removed", "rm home/app:1.0 release/app")
	r.refuses("home/app:1.0: there is no repository home/app; `berth ls` lists them. Nothing was removed", "rm home/app home/app:1.0")
	if out, err := runOnceOn(t, r.st, "rm", "home/app:1.0", "home/index@"+member.digest.String()); err == nil || !strings.Contains(err.Error(), "delete that first. Nothing was removed") {
		t.Errorf("a member of an index: %v\n%s", err, out)
	}
	if out, err := runOnceOn(t, r.st, "rm", "home/app:1.0", "nope", "--json"); err == nil || out != "[]\n" {
		t.Errorf("rm --json: %v\n%s, want no removals", err, out)
	}
	r.wantTags("home/app", "1.0", "1.1", "RC")
	r.wantImage("release/app", "1.0", kept)
	if n := len(r.history("home/app", "")); n != 3 {
		t.Errorf("the history of home/app has %d steps, want the pushes", n)
	}
	// No name at all is known by its form.
	got := tell(t, nil, "", "rm", "home/app", "RC", "--data", r.cfg.dir)
	if got.code != 2 || !strings.Contains(got.err, "did you mean home/app:RC?") {
		t.Errorf("berth rm home/app RC ends with %d, and says\n%s", got.code, got.err)
	}
	// All that is right is removed, each by a change of its own.
	r.says("home/app:1.0 removed; to bring it back, within 7d: berth undo 7\n"+
		"home/app removed; to bring it back, within 7d: berth undo 8\n", "rm home/app:1.0 home/app")
	r.says("home/app restored\nto take this back: berth undo 9\n", "undo 8")
	r.wantTags("home/app", "1.1", "RC")
}

// Who moves a tag reads where it was, and how to take that back.
func TestTagSaysWhatMoved(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	one := r.pushImage("home/app", "1.0", "{}", "one")
	two := r.pushImage("home/app", "1.1", "{}", "two")
	first, second := shortDigest(one.digest.String()), shortDigest(two.digest.String())
	r.says("home/app:1.1 is "+first+", was "+second+"\nto take this back: berth undo 3\n", "tag home/app:1.0 1.1")
	r.says("home/app:1.1 is "+first+" already\n", "tag home/app:1.0 1.1")
	r.says("home/app:new is "+first+"\nto take this back: berth undo 4\n", "tag home/app:1.0 new")
	r.says("home/app:1.1 is "+second+", was "+first+"\nto take this back: berth undo 5\n", "undo 3")
	for _, x := range []struct {
		tag, was string
		change   float64
	}{{"newer", "", 6}, {"1.1", two.digest.String(), 7}} {
		var got map[string]any
		if err := json.Unmarshal([]byte(r.command("tag", "home/app:1.0", x.tag, "--json")), &got); err != nil {
			t.Fatal(err)
		}
		was, _ := got["was"].(string)
		if got["repository"] != "home/app" || got["tag"] != x.tag || got["digest"] != one.digest.String() || was != x.was || got["change"] != x.change {
			t.Errorf("berth tag --json says %v, want was %q and change %v", got, x.was, x.change)
		}
	}
}

// What is in a deleted repository comes back with it, and not by itself.
func TestUndoInADeletedRepository(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("home/app", "1.0", "{}", "one")        // 1
	r.pushImage("home/app", "1.1", "{}", "one")        // 2
	two := r.pushImage("home/app", "1.1", "{}", "two") // 3
	r.command("rm", "home/app")                        // 4
	refuses := func(by string) {
		t.Helper()
		for _, what := range []string{"home/app:1.0", "home/app:1.1", "home/app:1.O", "home/app@" + two.digest.String(), "1", "2", "3"} {
			r.refuses("home/app was deleted by change "+by+"; to bring it back: berth undo "+by, "undo "+what)
		}
	}
	refuses("4")
	r.undo(409, "home/app", 3, "home/app was deleted by change 4: undo that first")
	r.command("undo", "4") // 5
	r.command("undo", "5") // 6: deleted again, and change 4 is no way back
	refuses("6")
	r.command("undo", "6") // 7
	r.wantImage("home/app", "1.1", two)
	r.refuses("home/app has no tag 1.O; `berth ls home/app` lists them", "undo home/app:1.O")
	r.refuses("abc is neither a change number nor a repository that is known; `berth log` shows what was done", "undo abc")
	// Another of its name is in the way of none of this.
	r.command("rm", "home/app") // 8
	r.pushImage("home/app", "2.0", "{}", "new")
	r.refuses("home/app was deleted by change 8, and there is another home/app now; to restore the old one beside it, undo 8 with --as and another name", "undo home/app:1.1")
	r.says("home/old restored\nto take this back: berth undo 10\n", "undo 8 --as home/old")
	r.wantImage("home/old", "1.1", two)
}

// Somebody types the first part of a name, to see what is there.
func TestListBelow(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	for _, name := range []string{"home/app", "home/web/x", "homes/x"} {
		r.pushImage(name, "1", "{}", "layer of "+name)
	}
	out := r.command("ls", "home")
	if !strings.Contains(out, "home/app ") || !strings.Contains(out, "home/web/x ") || strings.Contains(out, "homes") {
		t.Errorf("ls home says\n%s", out)
	}
	var list []struct{ Repository string }
	if err := json.Unmarshal([]byte(r.command("ls", "home", "--json")), &list); err != nil || len(list) != 2 {
		t.Errorf("ls home --json lists %v (%v)", list, err)
	}
	r.refuses("there is no repository hom; `berth ls` lists them", "ls hom")
	r.refuses("there is no repository home; `berth ls` lists them", "ls home:1")
}

// Whoever asks what the rules would do has just written them: the ones from before are no answer.
func TestRetainRefusesBrokenRules(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[retain]]\nrepositories = [\"**\"]\ntags = [\"*\"]\nnewest = 1\n"))
	r.pushImage("a", "1", "{}", "one")
	writeRules(r.cfg.dir, "[[retain]]\nrepositories = [\"**\"]\ntags = [\"*\"]\nkeep = 1\n")
	for _, command := range []string{"retain --explain", "retain", "retain a"} {
		args := strings.Fields(command)
		out, err := runOnceOn(t, r.st, args[0], args[1:]...)
		if err == nil || out != "" || !strings.Contains(err.Error(), "retain.keep") || !strings.Contains(err.Error(), "the rules from before it hold") {
			t.Errorf("berth %s: %v\n%s", command, err, out)
		}
	}
	writeRules(r.cfg.dir, "[[retain]]\nrepositories = [\"**\"]\ntags = [\"*\"]\nnewest = 1\n")
	r.wantTags("a", "1")
}

// What docker shows of a refusal is its message.
func TestReadOnlySaysSo(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "1", "{}", "one")
	r.restart(func(c *config) { c.readOnly, c.noDelete = true, true })
	if re := r.do("POST", "/v2/a/blobs/uploads/", nil); re.status != 405 || !strings.Contains(string(re.body), `"message":"this registry is read-only"`) {
		t.Errorf("a push: %d %s", re.status, re.body)
	}
}

// Who brings a backup up with the flags of the server it is of names files that stayed there.
func TestUsersThatABackupHas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeRules(dir, "[[rule]]\nwho = [\"*\"]\nrepositories = [\"**\"]\nallow = [\"pull\"]\n")
	put(t, dir, "htpasswd")
	for flag, want := range map[string]string{"htpasswd": filepath.Join(dir, "htpasswd") + ", as a backup has: leave --htpasswd out to use those",
		"policy": filepath.Join(dir, "policy.toml") + ", as a backup has: leave --policy out to use those"} {
		err := refused(t, "--data", dir, "--addr", "127.0.0.1:0", "--"+flag, filepath.Join(dir, "absent"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--%s: %v, want %s", flag, err, want)
		}
	}
}

// What the rules for people allow the rules for tags may forbid.
func TestPolicyCheckKnowsImmutableTags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeRules(dir, "[[rule]]\nwho = [\"anonymous\"]\nrepositories = [\"**\"]\nallow = [\"overwrite\", \"delete\"]\n[[immutable]]\nrepositories = [\"prod/*\"]\n")
	for what, want := range map[string]bool{"overwrite prod/app": true, "delete prod/app": true, "push prod/app": false, "delete dev/app": false} {
		out, err := runOnce(t, append([]string{"policy", "check", "anonymous"}, append(strings.Fields(what), "--data", dir)...)...)
		if err != nil && !strings.Contains(out, "no: ") || strings.Contains(out, "but not tags that are immutable, by the rule immutable 1 (* in prod/*)") != want {
			t.Errorf("policy check anonymous %s: %v\n%s", what, err, out)
		}
	}
}

// Who wants one tag of a repository back that was deleted, and collected, is told that.
func TestUndoOfATagThatIsGoneWithItsRepository(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("home/app", "1", "{}", "one")
	r.command("rm", "home/app:1")
	r.command("undo", "home/app:1")
	r.command("rm", "home/app")
	r.refuses("home/app was deleted by change 4; to bring it back: berth undo 4", "undo home/app:1")
	r.st.promises.forget()
	r.collect(collectNow)
	r.refuses("home/app was deleted by change 4, and its contents are no longer kept. Push it again, or bring it back from a backup", "undo home/app:1")
}
