// A restore of a sparse registry, in which a manifest may refer to what it never had.

package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A manifest that is put back has the blobs that it had, and none of another
// repository's, whether those are known since the snapshot or found on the disk.
func TestRestoreLinksNoBlobOfAnotherRepository(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]bool{"sparse before the snapshot": true, "sparse since the snapshot": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t, func(c *config) { c.sparse = early })
			r.pushImage("home/secret", "old", `{"old":1}`, "old secret")
			r.snapshotsAfter(time.Hour)
			r.restart(func(c *config) { c.sparse = true })
			r.pushImage("home/secret", "new", `{"new":1}`, "new secret")
			r.pushBlob("eve", "{}")
			r.pushBlob("eve", "own")
			r.pushBlob("eve", "member")
			im := ociImage("{}", "own", "old secret", "new secret")
			r.want(201, "PUT", "/v2/eve/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)
			cache := `{"schemaVersion":2,"mediaType":"` + typeOCIIndex + `","manifests":[` +
				descriptorJSON("x/layer", "member") + "," + descriptorJSON("x/layer", "new secret") + `]}`
			r.want(201, "PUT", "/v2/eve/manifests/cache", cache, "Content-Type: "+typeOCIIndex)
			secrets := func() {
				t.Helper()
				for _, content := range []string{"old secret", "new secret", `{"old":1}`, `{"new":1}`} {
					r.want(200, "GET", "/v2/home/secret/blobs/"+sum(content).String(), nil).is(content)
					r.want(404, "GET", "/v2/eve/blobs/"+sum(content).String(), nil).code("BLOB_UNKNOWN")
				}
			}
			secrets()
			r.off()
			if err := overwrite(filepath.Join(r.cfg.dir, "berth.db"), 68, 4); err != nil { // not Berth's by its header
				t.Fatal(err)
			}
			out, err := r.runOn("restore") // without the flag
			if err != nil || strings.Contains(out, "PUSH AGAIN") || strings.Contains(out, "LOST") {
				t.Fatalf("%v\n%s", err, out)
			}
			r.start()
			secrets()
			r.want(200, "GET", "/v2/eve/manifests/x", nil).is(im.manifest)
			r.want(200, "GET", "/v2/eve/manifests/cache", nil).is(cache)
			for _, content := range []string{"own", "{}", "member"} {
				r.want(200, "GET", "/v2/eve/blobs/"+sum(content).String(), nil).is(content)
			}
		})
	}
}
