package main

import (
	"os"
	"path/filepath"
	"testing"
)

// A database on a read-only disk, where SQLite can make no log, still says where the users
// are, and what the tokens may.
func TestPolicyCheckOnAReadOnlyDisk(t *testing.T) {
	t.Parallel()
	disk, users := mountDisk(t, "size=16m"), filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("ann:"+hashOf("secret")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := onDisk(t, disk)
	r.newRobot("ci", "ci/*", "push")
	r.st.usersFile, r.st.policyFile = users, filepath.Join(r.cfg.dir, policyFile)
	if err := rememberFlags(r.st); err != nil { // as serve does
		t.Fatal(err)
	}
	r.stop()
	makeReadOnly(t, disk)
	for args, want := range map[string]string{
		"ann":      "yes: ann may push ci/x\n  by the default: users may admin in **\n",
		"token:ci": "yes: token:ci may push ci/x\n  by token ci: it may pull, push in ci/*\n",
	} {
		if got, err := r.runOn("policy", "check", args, "push", "ci/x"); err != nil || got != want {
			t.Errorf("policy check %s = %q, %v, want %q", args, got, err, want)
		}
	}
}
