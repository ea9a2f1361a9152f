// What `berth version` says of itself, to a person and to a program.

package main

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
)

func TestVersionForProgramsAndPeople(t *testing.T) {
	t.Parallel()
	text, err := runOnce(t, "version")
	if want := "go     " + strings.TrimPrefix(runtime.Version(), "go") + "\n"; err != nil || !strings.HasPrefix(text, "berth "+buildVersion()+"\n") || !strings.HasSuffix(text, want) {
		t.Errorf("berth version: %v\n%swant it to end with %s", err, text, want)
	}
	text, err = runOnce(t, "version", "--json")
	var got build
	if err == nil {
		err = json.Unmarshal([]byte(text), &got)
	}
	if err != nil || got != readBuild() || got.Go != runtime.Version() || !strings.HasPrefix(got.Platform, runtime.GOOS+"/"+runtime.GOARCH) || got.Version == "" {
		t.Errorf("berth version --json: %v\n%s", err, text)
	}
}
