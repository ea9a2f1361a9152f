//go:build unix

// What was done, by whom, and that it can be undone.

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// history asks for the history of a repository.
func (r *registry) history(repo, query string, headers ...string) (list []historyEntry) {
	r.t.Helper()
	re := r.want(200, "GET", "/v2/"+repo+"/_berth/history?"+query, nil, headers...)
	var doc struct {
		Name    string
		History []historyEntry
	}
	if err := json.Unmarshal(re.body, &doc); err != nil || doc.Name != repo || doc.History == nil {
		r.t.Fatalf("%s: %v: %s", re.request, err, re.body)
	}
	return doc.History
}

// last returns the number of the last change of a repository.
func (r *registry) last(repo string) int64 {
	r.t.Helper()
	list := r.history(repo, "n=1")
	if len(list) == 0 {
		r.t.Fatalf("%s has no history", repo)
	}
	return list[0].Change
}

// undo undoes a change, and insists on the status and, of a refusal, on some words.
func (r *registry) undo(status int, repo string, change int64, words string, headers ...string) {
	r.t.Helper()
	re := r.want(status, "POST", fmt.Sprintf("/v2/%s/_berth/undo?change=%d", repo, change), nil, headers...)
	if !strings.Contains(string(re.body), words) {
		r.t.Errorf("%s says %s, want %q", re.request, re.body, words)
	}
}

func TestUndoOfTags(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	one := r.pushImage("a", "x", `{"n":1}`, "one")
	two := r.pushImage("a", "x", `{"n":2}`, "two")
	moved := r.last("a")
	r.undo(200, "a", moved, one.digest.String())
	r.wantImage("a", "x", one)
	r.undo(409, "a", moved, "undone already")
	r.undo(200, "a", r.last("a"), two.digest.String()) // the undoing
	r.wantImage("a", "x", two)
	if got := r.history("a", "n=1")[0]; got.Action != "undo" || got.Why != fmt.Sprint("of ", moved+1) || got.Old != one.digest.String() || got.New != two.digest.String() {
		t.Errorf("the undoing of an undoing is %+v", got)
	}

	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	deleted := r.last("a")
	r.want(404, "GET", "/v2/a/manifests/x", nil)
	r.pass(6 * 24 * time.Hour)
	r.restart()
	r.freeze()
	r.undo(200, "a", deleted, "")
	r.wantImage("a", "x", two)
	r.wantTags("a", "x")

	// The first push of a tag is undone by taking it away.
	r.pushImage("a", "y", `{"n":2}`, "two")
	r.undo(200, "a", r.last("a"), "")
	r.wantTags("a", "x")

	// Others have moved it since.
	r.pushImage("a", "x", `{"n":1}`, "one")
	conflict := r.last("a")
	r.pushImage("a", "x", `{"n":3}`, "three")
	r.undo(409, "a", conflict, fmt.Sprintf("moved since, by change %d", r.last("a")))
	r.undo(409, "a", deleted, "moved since")
	r.undo(200, "a", r.last("a"), "")
	r.undo(200, "a", conflict, "")
	r.wantImage("a", "x", two)

	r.pushImage("a", "x", `{"n":4}`, "four")
	r.pass(8 * 24 * time.Hour)
	r.undo(409, "a", r.last("a"), "grace period is over")
	r.undo(404, "a", 1000, "no change 1000")
	r.undo(404, "b", conflict, "of b")
	r.want(400, "POST", "/v2/a/_berth/undo?change=x", nil)
	r.undo(409, "a", r.last("a")-1, "")
	r.want(409, "POST", fmt.Sprintf("/v2/a/_berth/undo?change=%d&as=b", r.last("a")), nil)
}

func TestUndoOfADeletedManifest(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	im := r.pushImage("a", "x", "{}", "layer", "more")
	for _, tag := range []string{"y", "z"} {
		r.pushManifest("a", tag, im.manifest, typeOCIManifest)
	}
	other := r.pushImage("a", "other", `{"n":2}`, "layer")
	signature := newImage(typeOCIManifest, "x/signature", "", `,"subject":`+descriptorJSON(typeOCIManifest, im.manifest), "{}", "signature")
	r.pushBlob("a", "signature")
	r.pushManifest("a", signature.digest.String(), signature.manifest, typeOCIManifest)
	referrers := string(r.want(200, "GET", "/v2/a/referrers/"+im.digest.String(), nil).body)

	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	deleted := r.last("a")
	r.wantTags("a", "other")
	for _, ref := range []string{"x", "y", "z", im.digest.String()} {
		r.want(404, "GET", "/v2/a/manifests/"+ref, nil).code("MANIFEST_UNKNOWN")
		r.want(404, "DELETE", "/v2/a/manifests/"+ref, nil).code("MANIFEST_UNKNOWN")
	}
	index, _ := ociIndex(im.manifest)
	r.want(404, "PUT", "/v2/a/manifests/index", index, "Content-Type: "+typeOCIIndex).code("MANIFEST_BLOB_UNKNOWN")
	if n := len(r.history("a", fmt.Sprint("last=", deleted+1, ".0&n=4"))); n != 4 {
		t.Errorf("the change has %d entries, want 3 tags and a manifest", n)
	}
	r.pass(6*24*time.Hour + 23*time.Hour)
	r.restart()
	r.freeze()
	r.undo(200, "a", deleted, im.digest.String())
	for _, tag := range []string{"x", "y", "z"} {
		r.wantImage("a", tag, im)
	}
	r.wantImage("a", signature.digest.String(), signature)
	r.want(200, "GET", "/v2/a/referrers/"+im.digest.String(), nil).is(referrers)
	r.pass(30 * 24 * time.Hour) // it has its place again
	r.wantImage("a", "x", im)
	r.wantImage("a", signature.digest.String(), signature)

	r.undo(200, "a", r.last("a"), "")
	r.wantTags("a", "other")
	r.pass(7*24*time.Hour + 2*time.Second)
	r.undo(409, "a", deleted, "grace period is over")
	r.undo(409, "a", r.last("a"), "grace period is over")
	r.wantImage("a", "other", other)
}

// What has become something's part since it was restored cannot go by an undoing.
func TestUndoOfARestorationLeavesWhatIsInUse(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*registry, image){
		"tag": func(r *registry, im image) { r.pushManifest("a", "new", im.manifest, typeOCIManifest) },
		"index": func(r *registry, im image) {
			index, _ := ociIndex(im.manifest)
			r.pushManifest("a", "new", index, typeOCIIndex)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			im := r.pushImage("a", "x", "{}", "layer")
			r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
			r.undo(200, "a", r.last("a"), "")
			restored := r.last("a")
			use(r, im)
			r.undo(409, "a", restored, "")
			r.wantImage("a", "x", im)
			r.check()
		})
	}
}

// Nor can a whole repository, or what never goes.
func TestUndoOfARestoredRepository(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "v1", "{}", "layer")
	r.command("rm", "a")
	r.command("undo", "a")
	restored := r.last("a")
	r.pushManifest("a", "new", im.manifest, typeOCIManifest)
	r.undo(409, "a", restored, fmt.Sprint("changed since, by change ", restored+1))
	r.wantTags("a", "new", "v1")
	r.command("rm", "a")
	r.command("undo", "a")
	writeRules(r.cfg.dir, "[[immutable]]\nrepositories = [\"**\"]\ntags = [\"v*\"]\n")
	r.undo(403, "a", r.last("a"), "immutable 1")
	r.wantTags("a", "new", "v1")
	r.command("undo", fmt.Sprint(r.last("a")), "--force")
	r.want(404, "GET", "/v2/a/tags/list", nil)
}

func TestUndoOfADeletedIndex(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled(fromSameTagRule))
	r.freeze()
	amd := r.pushFor("a", "auto", "linux/amd64", "x")
	arm := r.pushFor("a", "auto", "linux/arm64", "x")
	both := map[string]image{"linux/amd64": amd, "linux/arm64": arm}
	index, d := ociIndex(amd.manifest, arm.manifest)
	r.pushManifest("a", "mine", index, typeOCIIndex)
	r.want(202, "DELETE", "/v2/a/manifests/"+d.String(), nil)
	deleted := r.last("a")
	r.want(202, "DELETE", "/v2/a/manifests/"+arm.digest.String(), nil)
	member := r.last("a")
	r.wantPlatforms("a", "auto", map[string]image{"linux/amd64": amd})
	r.undo(409, "a", deleted, arm.digest.String())
	r.undo(200, "a", member, "")
	r.wantPlatforms("a", "auto", both)
	r.undo(200, "a", deleted, "")
	r.wantTag("a", "mine", d)
	r.check()

	// What the registry has made is still its own.
	r.want(202, "DELETE", "/v2/a/manifests/mine", nil)
	r.want(202, "DELETE", "/v2/a/manifests/"+d.String(), nil)
	r.want(202, "DELETE", "/v2/a/manifests/auto", nil)
	r.undo(200, "a", r.last("a"), "")
	both["linux/s390x"] = r.pushFor("a", "auto", "linux/s390x", "x")
	r.wantPlatforms("a", "auto", both)

	// A push of one platform is undone with its index.
	r.pushFor("a", "auto", "linux/s390x", "y")
	r.undo(200, "a", r.last("a"), "")
	r.wantPlatforms("a", "auto", both)
	r.check()
}

// What only a deleted index had goes with it, not a grace later.
func TestMembersGoWithTheirDeletedIndex(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	im := r.pushImage("a", "x", "{}", "layer")
	index, d := ociIndex(im.manifest)
	r.pushManifest("a", "index", index, typeOCIIndex)
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	r.want(202, "DELETE", "/v2/a/manifests/"+d.String(), nil)
	r.wantImage("a", im.digest.String(), im)
	r.pass(7*24*time.Hour + 2*time.Second)
	r.want(404, "GET", "/v2/a/manifests/"+im.digest.String(), nil)
	r.undo(409, "a", r.last("a"), "")
}

func TestUndoOfADeletedRepository(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	im := r.pushImage("a/b", "x", "{}", "layer")
	r.pushImage("a/b", "y", "{}", "layer")
	old := r.pushImage("a/b", "old", `{"n":1}`, "old")
	r.want(202, "DELETE", "/v2/a/b/manifests/"+old.digest.String(), nil)
	inside := r.last("a/b")
	r.want(202, "DELETE", "/v2/a/b/_berth/repository", nil)
	deleted := r.last("a/b")
	gone := func() {
		t.Helper()
		r.want(200, "GET", "/v2/_catalog", nil).is(`{"repositories":[]}`)
		r.want(404, "GET", "/v2/a/b/tags/list", nil).code("NAME_UNKNOWN")
		r.want(404, "GET", "/v2/a/b/manifests/x", nil).code("MANIFEST_UNKNOWN")
		r.want(404, "GET", "/v2/a/b/manifests/"+im.digest.String(), nil).code("MANIFEST_UNKNOWN")
		r.want(404, "GET", "/v2/a/b/blobs/"+im.config.String(), nil).code("BLOB_UNKNOWN")
		r.want(404, "DELETE", "/v2/a/b/_berth/repository", nil).code("NAME_UNKNOWN")
		r.want(202, "POST", "/v2/other/blobs/uploads/?from=a/b&mount="+im.config.String(), nil)
		for _, hidden := range []string{fmt.Sprintf("a/b%%23%d", deleted), fmt.Sprintf("a/b#%d", deleted)} {
			if re := r.do("GET", "/v2/"+hidden+"/tags/list", nil); re.status < 400 {
				t.Errorf("%s = %d", re.request, re.status)
			}
		}
	}
	gone()
	r.check()
	r.undo(409, "a/b", inside, "a/b was deleted by change ")
	r.pass(6 * 24 * time.Hour)
	r.restart()
	r.freeze()
	gone()
	r.undo(200, "a/b", deleted, `"a/b"`)
	r.wantImage("a/b", "x", im)
	r.wantTags("a/b", "x", "y")
	r.undo(409, "a/b", deleted, "back already")
	r.undo(200, "a/b", r.last("a/b"), "") // and away again
	deleted = r.last("a/b")
	gone()

	next := r.pushImage("a/b", "x", `{"n":2}`, "next")
	r.undo(409, "a/b", deleted, "--as")
	r.wantImage("a/b", "x", next)
	r.want(404, "HEAD", "/v2/a/b/manifests/y", nil)
	r.want(400, "POST", fmt.Sprintf("/v2/a/b/_berth/undo?change=%d&as=A", deleted), nil).code("NAME_INVALID")
	r.want(200, "POST", fmt.Sprintf("/v2/a/b/_berth/undo?change=%d&as=back", deleted), nil)
	r.wantImage("back", "y", im)
	r.wantImage("a/b", "x", next)
	r.want(200, "GET", "/v2/_catalog", nil).is(`{"repositories":["a/b","back"]}`)

	r.command("rm", "back")
	r.pass(7*24*time.Hour + 2*time.Second)
	r.undo(409, "back", r.last("back"), "grace period is over")
	r.command("rm", "a/b")
	r.collect(collectNow)
	r.undo(409, "a/b", r.last("a/b"), "grace period is over")
	r.pass(48 * time.Hour)
	if n := r.files(); n > 0 {
		t.Errorf("%d blobs are left of what was deleted", n)
	}
}

func (r *registry) wantBlob(repo, content string) {
	r.t.Helper()
	r.want(200, "GET", "/v2/"+repo+"/blobs/"+sum(content).String(), nil).is(content)
}

func TestDeletedManifestIsPushedAgain(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	im := r.pushImage("a", "x", "{}", "layer")
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	deleted := r.last("a")
	r.pushManifest("a", im.digest.String(), im.manifest, typeOCIManifest)
	r.wantImage("a", im.digest.String(), im)
	r.wantTags("a")
	r.undo(200, "a", deleted, "") // which leaves the tag
	r.wantImage("a", "x", im)
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	deleted = r.last("a")
	r.pushManifest("a", "x", im.manifest, typeOCIManifest)
	r.undo(409, "a", deleted, "undone already")
	r.pass(30 * 24 * time.Hour)
	r.wantImage("a", "x", im)
}

// Manifests without a tag stay for ever, if that is said; what was deleted does not.
func TestDeletedGoesAlsoIfUntaggedStays(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(c *config) { c.untaggedGrace = 0 })
	r.freeze()
	im := r.pushImage("a", "x", "{}", "layer")
	untagged := r.pushImage("a", "untagged", "{}", "other")
	r.want(202, "DELETE", "/v2/a/manifests/untagged", nil)
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	deleted := r.last("a")
	r.pushImage("b", "x", `{"n":1}`, "b")
	r.want(202, "DELETE", "/v2/b/_berth/repository", nil)
	r.pass(7*24*time.Hour - time.Minute)
	r.undo(200, "a", deleted, "")
	r.wantImage("a", "x", im)
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	deleted = r.last("a")
	r.pass(7*24*time.Hour + 2*time.Second)
	r.undo(409, "a", deleted, "grace period is over")
	r.undo(409, "b", r.last("b"), "grace period is over")
	r.pass(25 * time.Hour)
	r.wantImage("a", untagged.digest.String(), untagged)
	if n := r.files(); n != 2 {
		t.Errorf("%d blobs are left, want the 2 of what is untagged", n)
	}
}

func TestHistorySaysWho(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(matrixRules, "admin", "reader", "creator", "pusher", "deleter"))
	begun := time.Now().Add(-time.Second)
	im := r.pushAs(as("creator"), "ci/a", "1", "{}")
	robot := basic("robot", r.newRobot("robot", "ci/**", "overwrite,delete"))
	next := r.pushAs(robot, "ci/a", "1", `{"n":1}`)
	r.want(202, "DELETE", "/v2/ci/a/manifests/1", nil, as("deleter"))
	r.undo(200, "ci/a", r.last2("ci/a"), "", as("deleter"))
	if _, err := runOnceOn(t, r.st, "tag", "ci/a@"+im.digest.String(), "2"); err != nil {
		t.Error(err)
	}
	type row struct{ who, client, action, tag, old, new string }
	want := []row{
		{"command", "", "tag", "2", "", im.digest.String()},
		{"deleter", "127.0.0.1", "undo", "1", "", next.digest.String()},
		{"deleter", "127.0.0.1", "delete", "1", next.digest.String(), ""},
		{"token:robot", "127.0.0.1", "push", "1", im.digest.String(), next.digest.String()},
		{"creator", "127.0.0.1", "push", "1", "", im.digest.String()},
	}
	var got []row
	for i, e := range r.history("ci/a", "", as("deleter")) {
		got = append(got, row{e.Who, e.Client, e.Action, e.Tag, e.Old, e.New})
		if e.Time.Before(begun) || e.Time.After(time.Now().Add(time.Second)) || e.Repository != "ci/a" || e.Change != int64(len(want)-i) {
			t.Errorf("entry %d is %+v", i, e)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the history is\n%+v, want\n%+v", got, want)
	}
	// Pages, and one tag.
	if list := r.history("ci/a", "n=2&last=4.0", as("deleter")); len(list) != 2 || list[0].Change != 3 || list[1].Change != 2 {
		t.Errorf("two before the change 4 are %+v", list)
	}
	if list := r.history("ci/a", "tag=2", as("deleter")); len(list) != 1 || list[0].Change != 5 {
		t.Errorf("the history of the tag 2 is %+v", list)
	}
	r.want(400, "GET", "/v2/ci/a/_berth/history?tag=a/b", nil, as("deleter"))
	r.want(400, "GET", "/v2/ci/a/_berth/history?last=x", nil, as("deleter"))

	// Rights.
	for _, x := range []struct {
		method, path string
		need         string // who may
	}{
		{"GET", "/v2/ci/a/_berth/history", "deleter"},
		{"GET", "/v2/ci/a/_berth/retention", "deleter"},
		{"POST", "/v2/ci/a/_berth/undo?change=3", "deleter"},
		{"DELETE", "/v2/ci/a/_berth/repository", "deleter"},
	} {
		r.want(401, x.method, x.path, nil)
		for _, who := range []string{"reader", "creator", "pusher", "deleter"} {
			re := r.do(x.method, x.path, nil, as(who))
			if denied := re.status == 403; denied == strings.Contains(x.need, who) {
				t.Errorf("%s by %s = %d: %s", re.request, who, re.status, re.body)
			}
		}
		r.want(403, x.method, strings.Replace(x.path, "ci/a", "home/a", 1), nil, as("deleter"))
	}
	deleted := r.last2("ci/a")
	undo := fmt.Sprintf("/v2/ci/a/_berth/undo?change=%d", deleted)
	r.want(403, "POST", undo+"&as=ci/b", nil, as("deleter")).code("DENIED") // may not push
	r.want(403, "POST", undo+"&as=home/b", nil, robot).code("DENIED")
	r.want(200, "POST", undo+"&as=ci/b", nil, robot)
	r.want(404, "GET", "/v2/ci/a/tags/list", nil, as("reader"))
	r.want(200, "GET", "/v2/ci/b/tags/list", nil, as("reader"))

	// Who may delete, but not overwrite, moves no tag by an undoing.
	r.pushAs(as("pusher"), "ci/c", "1", "{}")
	r.pushAs(as("pusher"), "ci/c", "1", `{"n":1}`)
	r.undo(403, "ci/c", r.last2("ci/c"), "may delete, but not overwrite", as("deleter"))
	r.undo(200, "ci/c", r.last2("ci/c"), "", robot)
}

// last2 is last for a registry where not everybody may see the history.
func (r *registry) last2(repo string) int64 {
	r.t.Helper()
	return r.history(repo, "n=1", as("deleter"))[0].Change
}

func TestCommandsThatChangeThings(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, served := range []bool{true, false} {
		t.Run(fmt.Sprint("served=", served), func(t *testing.T) {
			r := startRegistry(t, ruled(fromSameTagRule+"[[immutable]]\nrepositories = [\"**\"]\ntags = [\"v*\"]\n"))
			one := r.pushImage("a/b", "x", `{"n":1}`, "one")
			two := r.pushImage("a/b", "x", `{"n":2}`, "two")
			amd := r.pushFor("a/b", "v1", "linux/amd64", "x")
			arm := r.pushFor("a/b", "v1", "linux/arm64", "x")
			if served {
				r.listen()
			}
			run := func(args ...string) (string, error) {
				t.Helper()
				if !served {
					return r.runOnStopped(args...)
				}
				return r.runOn(args...)
			}
			good := func(words string, args ...string) {
				t.Helper()
				out, err := run(args...)
				if err != nil {
					t.Errorf("berth %v: %v", args, err)
				}
				for word := range strings.FieldsSeq(words) {
					if !strings.Contains(out, word) {
						t.Errorf("berth %v lacks %q:\n%s", args, word, out)
					}
				}
			}
			bad := func(words string, args ...string) {
				t.Helper()
				if out, err := run(args...); err == nil || !strings.Contains(err.Error(), words) {
					t.Errorf("berth %v: %v, want %q\n%s", args, err, words, out)
				}
			}
			good("REPOSITORY a/b 2", "ls")
			good("x "+shortDigest(two.digest.String())+" v1 linux/amd64 linux/arm64", "ls", "a/b")
			good("v1 linux/arm64", "ls", "a/b:v1")
			var repositories []listedRepository
			out, _ := run("ls", "--json")
			if err := json.Unmarshal([]byte(out), &repositories); err != nil || len(repositories) != 1 || repositories[0].Repository != "a/b" ||
				repositories[0].Tags != 2 || repositories[0].Pushed == nil {
				t.Errorf("ls --json is %s (%v)", out, err)
			}
			var tags []listedTag
			out, _ = run("ls", "a/b", "--json")
			if err := json.Unmarshal([]byte(out), &tags); err != nil || len(tags) != 2 || tags[1].Tag != "v1" || !tags[1].Automatic || tags[0].Automatic ||
				!slices.Equal(tags[1].Platforms, []string{"linux/amd64", "linux/arm64"}) || tags[0].Digest != two.digest || tags[0].Pulled != nil || tags[0].Size != int64(len(`{"n":2}two`)) {
				t.Errorf("ls a/b --json is %s (%v)", out, err)
			}
			good("a/b:new", "tag", "a/b:x", "new")
			good("digest", "tag", "a/b@"+one.digest.String(), "old", "--json")
			r.wantImage("a/b", "new", two)
			r.wantImage("a/b", "old", one)
			bad("immutable 1", "tag", "a/b:x", "v1")
			bad("", "tag", "a/b:none", "y")
			good("berth undo", "rm", "a/b:new", "a/b@"+one.digest.String())
			r.wantTags("a/b", "v1", "x")
			r.want(404, "HEAD", "/v2/a/b/manifests/"+one.digest.String(), nil)
			good("a/b:old is", "undo", "a/b@"+one.digest.String())
			r.wantImage("a/b", "old", one)
			good(`"change" "did" "new"`, "undo", "a/b:new", "--json")
			r.wantImage("a/b", "new", two)
			bad("no change 999", "undo", "999")
			bad("", "undo", "nobody")
			bad("immutable 1", "rm", "a/b:v1")
			bad("immutable 1", "rm", "a/b")
			good("removed", "rm", "--force", "a/b:v1")
			r.want(404, "HEAD", "/v2/a/b/manifests/v1", nil)
			good("a/b:v1", "undo", "a/b:v1")
			r.wantPlatforms("a/b", "v1", map[string]image{"linux/amd64": amd, "linux/arm64": arm})
			good("CHANGE undo tag delete push a/b:x 127.0.0.1", "log")
			good("a/b:v1", "log", "a/b:v1")
			var entries []historyEntry
			out, _ = run("log", "a/b:old", "--json")
			if err := json.Unmarshal([]byte(out), &entries); err != nil || len(entries) != 3 || entries[0].Action != "undo" ||
				entries[1].Old != one.digest.String() || entries[2].New != one.digest.String() || entries[2].Who == "" || entries[2].Who == "command" || entries[2].Client != "" {
				t.Errorf("log a/b:old --json is %s (%v)", out, err)
			}
			good("removed", "rm", "--force", "a/b", "--json")
			r.want(404, "GET", "/v2/a/b/tags/list", nil)
			bad("", "ls", "a/b")
			good("c restored", "undo", "a/b", "--as", "c")
			r.wantTags("c", "new", "old", "v1", "x")
			bad("without the host", "rm", "localhost:5000/a/b:x")
		})
	}
}
