// Manifests that refer to very much which is not there.

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// manyReferences is a manifest that refers to n things of which only the first may be there,
// and its media type.
func manyReferences(key, mediaType string, n int) string {
	var list []string
	for i := range n {
		list = append(list, descriptorJSON("x/layer", fmt.Sprint("thing ", i)))
	}
	more := ""
	if key == "layers" {
		more = `"config":` + descriptorJSON("x/config", "{}") + ","
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,%s%q:[%s]}`, mediaType, more, key, strings.Join(list, ","))
}

// Nobody waits for it: it is refused while others are in the transaction.
func TestMissingReferencesAreFoundOutsideOfTheTransaction(t *testing.T) {
	slow(t)
	t.Parallel()
	for name, x := range map[string]struct {
		body, mediaType string
		missing         int
	}{
		"layers":        {manyReferences("layers", typeOCIManifest, maxDescriptors), typeOCIManifest, maxMissing},
		"members":       {manyReferences("manifests", typeOCIIndex, maxDescriptors), typeOCIIndex, maxMissing},
		"the last ones": {manyReferences("layers", typeOCIManifest, 150), typeOCIManifest, 50},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t)
			r.pushBlob("a", "{}")
			for i := range 100 {
				r.pushBlob("a", fmt.Sprint("thing ", i))
			}
			release, done := make(chan struct{}), make(chan error)
			go func() { done <- r.st.update(func(*tx) error { <-release; return nil }) }()
			answer := make(chan *reply)
			go func() {
				re, err := r.try("PUT", "/v2/a/manifests/x", x.body, "Content-Type: "+x.mediaType)
				if err != nil {
					t.Error(err)
				}
				answer <- re
			}()
			var re *reply
			select {
			case re = <-answer:
			case <-time.After(time.Minute):
				t.Error("the answer waits for the transaction of somebody else")
			}
			close(release)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if re == nil {
				re = <-answer
			}
			if re.status != 404 || len(re.code("MANIFEST_BLOB_UNKNOWN").errors()) != x.missing {
				t.Errorf("%d with %d errors, want %d", re.status, len(re.errors()), x.missing)
			}
			if text := string(re.body); !strings.Contains(text, sum("thing 100").String()) || strings.Contains(text, sum("thing 99").String()) {
				t.Errorf("what is missing is not what is named: %.300s", text)
			}
		})
	}
}

// What is there is taken, however much it is; and again, when some of it is damaged.
func TestManyReferencesThatAreThere(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	member := ociImage("{}")
	r.want(201, "PUT", "/v2/a/manifests/"+member.digest.String(), member.manifest, "Content-Type: "+typeOCIManifest)
	for i := range 150 {
		r.pushBlob("a", fmt.Sprint("thing ", i))
	}
	image := manyReferences("layers", typeOCIManifest, 150)
	r.want(201, "PUT", "/v2/a/manifests/x", image, "Content-Type: "+typeOCIManifest)
	index := manyReferences("manifests", typeOCIIndex, 150)
	index = strings.Replace(index, "[", "["+descriptorJSON(typeOCIManifest, member.manifest)+","+descriptorJSON(typeOCIManifest, image)+",", 1)
	r.want(201, "PUT", "/v2/a/manifests/y", index, "Content-Type: "+typeOCIIndex)
	r.want(404, "PUT", "/v2/b/manifests/x", image, "Content-Type: "+typeOCIManifest).code("MANIFEST_BLOB_UNKNOWN")
	r.want(201, "PUT", "/v2/a/manifests/x", image, "Content-Type: "+typeOCIManifest)
}
