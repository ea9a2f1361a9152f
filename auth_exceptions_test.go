// What a rule excepts.

package main

import "testing"

// Who excepts a repository does not think of what will be pushed below it.
func TestExceptionsCoverWhatLiesBelow(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(`
[[rule]]
who = ["ann"]
repositories = ["**"]
allow = ["admin"]
[[rule]]
who = ["users"]
repositories = ["home/**", "!home/secret"]
allow = ["push", "overwrite"]
`, "ann", "bob"))
	robot := "Authorization: Bearer " + r.newRobot("ci", "home/**,!home/secret", "pull")
	for repo, status := range map[string]int{"home/app": 200, "home/secrets": 200, "home/secret": 403, "home/secret/keys": 403, "home/secret/keys/old": 403} {
		r.pushAs(as("ann"), repo, "x", "{}")
		for _, header := range []string{as("bob"), robot} {
			r.want(status, "GET", "/v2/"+repo+"/manifests/x", nil, header)
		}
	}
	r.want(200, "GET", "/v2/_catalog", nil, as("bob")).is(`{"repositories":["home/app","home/secrets"]}`)
}
