//go:build unix

// How many repositories there are, wherever that is said.

package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestRepositoriesAreCountedAlikeEverywhere(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	gone := r.pushImage("old/image", "1.0", "{}", "layer of old/image")
	for _, name := range []string{"home/app", "home/web", "old/whole"} {
		r.pushImage(name, "1.0", name, "layer of "+name)
	}
	r.pushBlob("only/blobs", "a layer that no image has")
	r.command("rm", "old/whole")
	r.command("rm", "old/image@"+gone.digest.String())

	metrics := string(r.want(200, "GET", "/metrics", nil).body)
	for name, n := range map[string]int{"berth_repositories": 2, "berth_repositories_deleted": 2} {
		if !strings.Contains(metrics, fmt.Sprintf("\n%s %d\n", name, n)) {
			t.Errorf("the metrics do not have %s %d", name, n)
		}
	}
	r.stop()
	say := func(args ...string) string {
		t.Helper()
		said, err := r.runOn(args...)
		if err != nil {
			t.Errorf("berth %v: %v", args, err)
		}
		return said
	}
	if list := say("ls"); strings.Contains(list, "old/") || strings.Contains(list, "only/") || !strings.Contains(list, "home/web") {
		t.Errorf("berth ls says\n%s", list)
	}
	const both = "2 repositories (and 2 deleted that can be brought back), "
	if said := say("check"); !strings.HasPrefix(said, both) {
		t.Errorf("berth check says\n%s, want %q", said, both)
	}
	if said := strings.Join(strings.Fields(say("stats")), " "); !strings.HasPrefix(said, "repositories 2 and 2 deleted that can be brought back tags 2 ") {
		t.Errorf("berth stats says\n%s", said)
	}
	for _, command := range []string{"check", "stats"} {
		if said := strings.Join(strings.Fields(say(command, "--json")), " "); !strings.Contains(said, `"repositories": 2, "deletedRepositories": 2,`) {
			t.Errorf("berth %s --json says\n%s", command, said)
		}
	}
	if said := serveFor(t, nil, "--data", r.cfg.dir); !strings.Contains(said, "there: "+both+"no users\n") {
		t.Errorf("the greeting is\n%s", said)
	}
}
