// What an upload leaves on the disk when it has become a blob.

package main

import (
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// A session that has had a body without bytes has an empty file, though all that the
// blob has comes with the PUT and stays in memory.
func TestSmallBlobLeavesNoFileOfItsSession(t *testing.T) {
	for name, restart := range map[string]bool{"at once": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
			r.want(202, "PATCH", loc, struct{ io.Reader }{strings.NewReader("")})
			if restart {
				r.restart()
			}
			r.want(201, "PUT", with(loc, "digest="+sum("{}").String()), "{}")
			if left, _ := filepath.Glob(filepath.Join(r.cfg.dir, "uploads", "*")); len(left) > 0 {
				t.Errorf("uploads has %v", left)
			}
		})
	}
}
