package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// After each 201, and not only in the end, every reader sees the new manifest.
func TestTagIsNeverStale(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	r.pushBlob("a", "{}")
	images := make([]image, 2)
	for i := range images {
		images[i] = newImage(typeOCIManifest, "x/y", "x/y", fmt.Sprintf(`,"annotations":{"n":"%d"}`, i), "{}")
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 { // who keep the cache warm
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					r.try("GET", "/v2/a/manifests/x", nil)
				}
			}
		})
	}
	defer readers.Wait()
	defer close(stop)
	for i := range 100 {
		im := images[i%2]
		r.want(201, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)
		r.want(200, "GET", "/v2/a/manifests/x", nil).is(im.manifest)
		if i%10 == 9 {
			r.want(202, "DELETE", "/v2/a/manifests/x", nil)
			r.want(404, "GET", "/v2/a/manifests/x", nil)
		}
	}
}

// forget forgets everything.
func (l *lookups) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers, l.of, l.size = nil, nil, 0
}

func TestLookupsAreBounded(t *testing.T) {
	t.Parallel()
	l := lookups{limit: 8 << 20}
	body := []byte(strings.Repeat("x", 100<<10))
	about := func(i int) question { return question{"a", byTag, fmt.Sprint(i)} }
	keep := func(i int, m *storedManifest) {
		_, version := l.get(about(i), nil)
		l.put(about(i), &answer{repo: int64(i % 3), manifest: m}, version)
	}
	for i := range 1000 {
		keep(i, &storedManifest{body: body})
		keep(i, &storedManifest{body: body})
	}
	total, indexed := 0, 0
	for q, a := range l.answers {
		total += a.cost()
		if _, ok := l.of[a.repo][q]; !ok {
			t.Errorf("%v is not among the questions of its repository", q)
		}
	}
	for _, questions := range l.of {
		indexed += len(questions)
	}
	if total > l.limit || total < l.limit-2*len(body) || total != l.size || indexed != len(l.answers) {
		t.Errorf("%d bytes are kept, counted as %d, want at most %d; %d questions, %d of repositories", total, l.size, l.limit, len(l.answers), indexed)
	}
	for i := range 1000 { // the bytes of blobs count as well
		q := question{"b", ofBlob, fmt.Sprint(i)}
		_, version := l.get(q, nil)
		blob := &answer{repo: int64(i % 3), size: maxKept}
		l.put(q, blob, version)
		l.remember(q, blob, make([]byte, maxKept), entityHeader{})
	}
	held := 0
	for _, a := range l.answers {
		if held += len(a.body); a.manifest != nil {
			held += len(a.manifest.body)
		}
	}
	if held > l.limit || held < l.limit/2 {
		t.Errorf("%d bytes of manifests and blobs are kept, want at most %d", held, l.limit)
	}
	keep(-1, &storedManifest{body: make([]byte, maxManifest)})
	if a, _ := l.get(about(-1), nil); a != nil {
		t.Error("a manifest of 4 MiB is kept")
	}
}

// What was read before a commit that touches its repository, or during it, is
// not kept after it; what others have is.
func TestLookupsForgetWhatACommitTouches(t *testing.T) {
	t.Parallel()
	l := lookups{limit: 8 << 20}
	mine, other := question{"a", byTag, "x"}, question{"b", ofBlob, "y"}
	a, b := &answer{repo: 1, size: 1}, &answer{repo: 2, size: 2}
	_, before := l.get(mine, nil)
	l.put(mine, a, before)
	l.put(other, b, before)
	l.suspend(map[int64]struct{}{1: {}})
	if got, _ := l.get(mine, nil); got != nil {
		t.Error("it is known during the commit")
	}
	l.put(mine, a, before)
	_, during := l.get(mine, nil)
	l.put(mine, a, during)
	l.resume()
	l.put(mine, a, before)
	l.put(mine, a, during)
	if got, _ := l.get(mine, nil); got != nil {
		t.Error("what was read before the end of a commit is kept after it")
	}
	if got, _ := l.get(other, nil); got != b {
		t.Error("another repository's answer is gone")
	}
	l.remember(mine, a, []byte("x"), entityHeader{})
	if got, _ := l.get(mine, nil); got != nil {
		t.Error("bytes are kept of what a commit has touched")
	}
	_, after := l.get(mine, nil)
	l.put(mine, b, after)
	l.remember(mine, a, []byte("x"), entityHeader{})
	if got, _ := l.get(mine, nil); got != b {
		t.Error("the bytes of what it was are kept with what it is")
	}
	l.remember(mine, b, []byte("xy"), entityHeader{})
	if got, _ := l.get(mine, nil); got == nil || string(got.body) != "xy" || b.body != nil {
		t.Errorf("%+v, want the bytes in an answer of their own", got)
	}
}

// The repository of each kind of row that an answer depends on is touched, and
// what answers do not depend on touches none.
func TestCommitsTouchWhatTheyChange(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(cfg *config) { cfg.untaggedGrace = time.Hour })
	im := r.pushImage("a", "x", "{}", "layer")
	blob, manifest := "/v2/a/blobs/"+im.layers[0].String(), "/v2/a/manifests/"+im.digest.String()
	known := func() (n int) {
		r.st.lookups.mu.RLock()
		defer r.st.lookups.mu.RUnlock()
		return len(r.st.lookups.answers)
	}
	ask := func() {
		for _, path := range []string{"/v2/a/manifests/x", manifest, blob} {
			r.want(200, "GET", path, nil)
		}
	}
	ask()
	if n := known(); n != 3 {
		t.Fatalf("%d answers are kept, want 3", n)
	}
	// Others' pushes, uploads, more blobs: nothing of it changes an answer.
	r.pushImage("b", "x", "{}", "layer")
	r.pushBlob("a", "another blob")
	r.want(202, "POST", "/v2/a/blobs/uploads/", nil)
	if n := known(); n != 3 {
		t.Errorf("%d answers are kept after what does not concern them, want 3", n)
	}
	for _, x := range []struct {
		what   string
		change func()
		then   map[string]int // what is answered then
	}{
		{"a tag that moves", func() { r.pushImage("a", "x", `{"n":2}`, "other") }, map[string]int{"/v2/a/manifests/x": 200, manifest: 200}},
		{"a tag that goes", func() { r.want(202, "DELETE", "/v2/a/manifests/x", nil) }, map[string]int{"/v2/a/manifests/x": 404}},
		{"a manifest that goes", func() { r.want(202, "DELETE", manifest, nil) }, map[string]int{manifest: 404, blob: 404}},
		{"a blob that is pushed again", func() { r.pushBlob("a", "layer") }, map[string]int{manifest: 404, blob: 200}},
		{"a blob that goes", func() { r.want(202, "DELETE", blob, nil) }, map[string]int{blob: 404}},
		{"what comes back", func() { r.pushImage("a", "x", "{}", "layer") }, map[string]int{"/v2/a/manifests/x": 200, manifest: 200, blob: 200}},
		{"a repository that goes", func() { r.want(202, "DELETE", "/v2/a/_berth/repository", nil) }, map[string]int{"/v2/a/manifests/x": 404, manifest: 404, blob: 404}},
	} {
		x.change()
		for path, status := range x.then {
			if re := r.do("GET", path, nil); re.status != status {
				t.Errorf("after %s, GET %s = %d, want %d", x.what, path, re.status, status)
			}
		}
		for _, path := range []string{"/v2/a/manifests/x", manifest, blob} {
			r.do("GET", path, nil) // to be known
		}
	}
}

// A blob that is known to be damaged is not served, also if its file could not be
// put aside and the answer was at hand.
func TestDamagedBlobIsNotAnsweredFromMemory(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer bytes")
	blob := "/v2/a/blobs/" + im.layers[0].String()
	for range 3 { // its bytes are remembered
		r.want(200, "GET", blob, nil)
	}
	for _, err := range []error{os.WriteFile(r.st.path(im.layers[0]), []byte("LAYER BYTES"), 0o600),
		os.WriteFile(filepath.Join(r.cfg.dir, "quarantine"), nil, 0o600)} { // no directory
		if err != nil {
			t.Fatal(err)
		}
	}
	if wrong, err := r.st.quarantine(im.layers[0]); wrong == nil || err == nil {
		t.Fatalf("%v, %v; want it damaged, and still in its place", wrong, err)
	}
	r.want(404, "GET", blob, nil)
	if err := os.Remove(filepath.Join(r.cfg.dir, "quarantine")); err != nil {
		t.Fatal(err)
	}
	r.pushBlob("a", "layer bytes")
	r.want(200, "GET", blob, nil).is("layer bytes")
}

// A small blob that is asked for again is served from memory, until it goes; a HEAD,
// by which a client may leave out a push, sees the file.
func TestSmallBlobsAreRemembered(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	most := noise(1, maxKept)
	im := r.pushImage("a", "x", "{}", "layer bytes", most, most+"x")
	kept := func() (n int) {
		r.st.lookups.mu.RLock()
		defer r.st.lookups.mu.RUnlock()
		for q, a := range r.st.lookups.answers {
			if a.body != nil {
				n++
			}
			if d := digest.Digest(q.name); a.body != nil && d.Algorithm().FromBytes(a.body) != d {
				t.Errorf("other bytes are kept of %s", d)
			}
		}
		return n
	}
	for i, want := range []int{0, 2, 2} {
		for j, content := range []string{"layer bytes", most, most + "x"} {
			r.want(200, "GET", "/v2/a/blobs/"+im.layers[j].String(), nil).is(content)
		}
		if n := kept(); n != want {
			t.Errorf("%d blobs are kept after %d rounds, want %d", n, i+1, want)
		}
	}
	blob := "/v2/a/blobs/" + im.layers[0].String()
	r.want(206, "GET", blob, nil, "Range: bytes=6-").is("bytes")
	r.want(304, "GET", blob, nil, `If-None-Match: "`+im.layers[0].String()+`"`)
	r.want(416, "GET", blob, nil, "Range: bytes=100-")
	if err := r.st.small.sync(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.st.path(im.layers[0])); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", blob, nil).is("layer bytes")
	r.want(404, "HEAD", blob, nil)
	r.want(404, "GET", blob, nil)
	r.pushBlob("a", "layer bytes")
	r.want(200, "GET", blob, nil).is("layer bytes")
}

// What is not what it was is found when it is about to be remembered.
func TestOnlyWhatIsRightIsRemembered(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer bytes")
	blob := "/v2/a/blobs/" + im.layers[0].String()
	if err := r.st.small.sync(); err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", blob, nil)
	if err := os.WriteFile(r.st.path(im.layers[0]), []byte("LAYER BYTES"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.want(404, "GET", blob, nil).code("BLOB_UNKNOWN")
	r.pushBlob("a", "layer bytes")
	r.want(200, "GET", blob, nil).is("layer bytes")
}
