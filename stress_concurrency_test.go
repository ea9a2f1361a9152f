// Many clients at once, on the same things. Whatever the order turns out to
// be, each client's story has to be true: what it was told exists can be read
// whole, what it was told is first is first. Run these with -race.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// together runs n clients that begin at the same moment, and reports their
// errors.
func together(t testing.TB, n int, client func(i int) error) {
	t.Helper()
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-begin
			if err := client(i); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	close(begin)
	wg.Wait()
}

// meanwhile runs client again and again until the returned function is called,
// which reports how often it ran. It has run at least once then.
func meanwhile(t testing.TB, client func() error) (stop func() int) {
	end, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			if err := client(); err != nil {
				t.Error(err)
				done <- n
				return
			}
			n++
			select {
			case <-end:
				done <- n
				return
			default:
			}
		}
	}()
	return sync.OnceValue(func() int {
		close(end)
		return <-done
	})
}

// expect is want for any goroutine: what is not as expected is an error.
func (r *registry) expect(status int, method, path string, body any, headers ...string) (*reply, error) {
	re, err := r.try(method, path, body, headers...)
	if err == nil && re.status != status {
		err = fmt.Errorf("%.200s = %d, want %d\n%.300s", re.request, re.status, status, re.body)
	}
	return re, err
}

// ways are those in which clients push a blob. The one that docker uses streams
// a PATCH and finishes with an empty PUT.
var ways = []string{"one POST", "POST and PUT", "streamed PATCH", "chunks"}

// pushBy pushes content in one of the ways. It returns the reply that decided,
// which is a 201 if all went well.
func (r *registry) pushBy(way, repo, content string) (*reply, error) {
	return r.pushDigest(way, repo, content, sum(content), "")
}

// pushDigest is pushBy with the content's digest, and with the query that a session
// begins with.
func (r *registry) pushDigest(way, repo, content string, d digest.Digest, query string) (*reply, error) {
	uploads := "/v2/" + repo + "/blobs/uploads/"
	if way == "one POST" {
		return r.try("POST", uploads+"?digest="+d.String(), content)
	}
	re, err := r.try("POST", uploads+query, nil)
	if err != nil || re.status != 202 {
		return re, err
	}
	switch way {
	case "POST and PUT":
		return r.try("PUT", with(re.location(), "digest="+d.String()), content)
	case "streamed PATCH":
		re, err = r.try("PATCH", re.location(), struct{ io.Reader }{strings.NewReader(content)})
		if err != nil || re.status != 202 {
			return re, err
		}
	case "chunks":
		half := len(content) / 2
		for _, c := range []struct{ first, end int }{{0, half}, {half, len(content)}} {
			re, err = r.try("PATCH", re.location(), content[c.first:c.end],
				fmt.Sprintf("Content-Range: %d-%d", c.first, c.end-1))
			if err != nil || re.status != 202 {
				return re, err
			}
		}
	}
	return r.try("PUT", with(re.location(), "digest="+d.String()), nil)
}

// noise is n bytes that depend on the seed only.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)}).Read(b)
	return string(b)
}

// files returns how many blobs' files there are.
func (r *registry) files() int {
	r.t.Helper()
	found, err := filepath.Glob(filepath.Join(r.cfg.dir, "blobs", "*", "*", "*", "*"))
	if err != nil {
		r.t.Fatal(err)
	}
	return len(found)
}

func TestManyWritersOfOneBlob(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	content := noise(1, 300<<10)
	together(t, 64, func(i int) error {
		re, err := r.pushBy(ways[i%len(ways)], fmt.Sprint("app", i%3), content)
		if err == nil && re.status != 201 {
			err = fmt.Errorf("%s: %.200s = %d, want 201\n%s", ways[i%len(ways)], re.request, re.status, re.body)
		}
		return err
	})
	if n := r.files(); n != 1 {
		t.Errorf("64 pushes of one blob left %d files", n)
	}
	for i := range 3 {
		r.want(200, "GET", fmt.Sprint("/v2/app", i, "/blobs/", sum(content)), nil).is(content)
	}
}

func TestMovingTagIsAlwaysSomeWholeImage(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	var images []image
	for i := range 4 {
		images = append(images, r.pushImage("app", fmt.Sprint("v", i), fmt.Sprintf(`{"n":%d}`, i), fmt.Sprint("layer ", i)))
	}
	r.want(201, "PUT", "/v2/app/manifests/latest", images[0].manifest, "Content-Type: "+typeOCIManifest)

	var stops []func() int
	for range 4 {
		stops = append(stops, meanwhile(t, func() error {
			re, err := r.expect(200, "GET", "/v2/app/manifests/latest", nil)
			if err != nil {
				return err
			}
			is := func(im image) bool { return im.manifest == string(re.body) }
			if !slices.ContainsFunc(images, is) {
				return fmt.Errorf("the moving tag is %q, which nobody pushed", re.body)
			}
			if d := re.header.Get("Docker-Content-Digest"); d != sum(string(re.body)).String() {
				return fmt.Errorf("the moving tag has the digest %s over other bytes", d)
			}
			return nil
		}))
	}
	together(t, 16, func(i int) error {
		for j := range 8 {
			im := images[(i+j)%len(images)]
			if _, err := r.expect(201, "PUT", "/v2/app/manifests/latest", im.manifest, "Content-Type: "+typeOCIManifest); err != nil {
				return err
			}
			// Somebody may have moved it since, but not to nowhere.
			if _, err := r.expect(200, "HEAD", "/v2/app/manifests/latest", nil); err != nil {
				return err
			}
		}
		return nil
	})
	for _, stop := range stops {
		stop()
	}
	// With nobody else there, the last acknowledged move is what is read.
	for _, im := range images {
		r.want(201, "PUT", "/v2/app/manifests/latest", im.manifest, "Content-Type: "+typeOCIManifest)
		r.want(200, "GET", "/v2/app/manifests/latest", nil).is(im.manifest)
	}
	r.restart()
	r.want(200, "GET", "/v2/app/manifests/latest", nil).is(images[len(images)-1].manifest)
}

// A mover never reads a state older than its own acknowledged move: each tag
// has one writer here, who must see each of its moves, while 15 others write.
func TestAcknowledgedTagIsNeverStale(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	var images []image
	for i := range 3 {
		images = append(images, r.pushImage("app", "base", fmt.Sprintf(`{"n":%d}`, i), "layer"))
	}
	together(t, 16, func(i int) error {
		path := fmt.Sprint("/v2/app/manifests/own", i)
		for j := range 10 {
			im := images[(i+j)%len(images)]
			if _, err := r.expect(201, "PUT", path, im.manifest, "Content-Type: "+typeOCIManifest); err != nil {
				return err
			}
			re, err := r.expect(200, "GET", path, nil)
			if err != nil {
				return err
			}
			if string(re.body) != im.manifest {
				return fmt.Errorf("move %d was acknowledged, and another manifest is read", j)
			}
		}
		return nil
	})
}

// A member of the crowd below pushes images that share layers with others'.
type crowd struct {
	r       *registry
	shared  []string
	retries atomic.Int64
}

// push pushes an image as docker does: layers that are there already are not
// sent. done is false if something that was there has been collected.
func (c *crowd) push(repo, tag string, im image, contents []string) (done bool, err error) {
	for i, content := range contents {
		re, err := c.r.try("HEAD", fmt.Sprint("/v2/", repo, "/blobs/", sum(content)), nil)
		if err != nil {
			return false, err
		}
		if re.status == 200 {
			continue
		}
		re, err = c.r.pushBy(ways[i%len(ways)], repo, content)
		if err != nil {
			return false, err
		}
		if re.status != 201 {
			return false, fmt.Errorf("pushing a blob: %.200s = %d\n%s", re.request, re.status, re.body)
		}
	}
	re, err := c.r.try("PUT", "/v2/"+repo+"/manifests/"+tag, im.manifest, "Content-Type: "+typeOCIManifest)
	switch {
	case err != nil:
		return false, err
	case re.status == 201:
		return true, nil
	case re.status == 404 && slices.Contains(re.errors(), "MANIFEST_BLOB_UNKNOWN"):
		c.retries.Add(1)
		return false, nil
	}
	return false, fmt.Errorf("%.200s = %d\n%s", re.request, re.status, re.body)
}

// pull reads an image by tag or digest with all its blobs. gone is true if
// there is no such manifest; a manifest whose blobs are missing is an error
// unless it has gone meanwhile too.
func (c *crowd) pull(repo, reference string) (gone bool, err error) {
	re, err := c.r.try("GET", "/v2/"+repo+"/manifests/"+reference, nil)
	if err != nil {
		return false, err
	}
	if re.status == 404 {
		return true, nil
	}
	if d := re.header.Get("Docker-Content-Digest"); re.status != 200 || d != sum(string(re.body)).String() {
		return false, fmt.Errorf("%s = %d with the digest %s", re.request, re.status, d)
	}
	var m struct {
		Config struct{ Digest digest.Digest }
		Layers []struct{ Digest digest.Digest }
	}
	if err := json.Unmarshal(re.body, &m); err != nil {
		return false, err
	}
	for _, l := range append(m.Layers, m.Config) {
		blob, err := c.r.try("GET", fmt.Sprint("/v2/", repo, "/blobs/", l.Digest), nil)
		if err != nil {
			return false, err
		}
		if blob.status == 404 {
			again, err := c.r.try("GET", fmt.Sprint("/v2/", repo, "/manifests/", sum(string(re.body))), nil)
			if err == nil && again.status == 404 {
				return true, nil // deleted while we were reading
			}
			return false, errors.Join(err, fmt.Errorf("the manifest %s/%s is there, and its blob %s is not", repo, reference, l.Digest))
		}
		if blob.status != 200 || sum(string(blob.body)) != l.Digest {
			return false, fmt.Errorf("%s = %d with other bytes", blob.request, blob.status)
		}
	}
	return false, nil
}

// run lets 32 clients push and some of them delete in overlapping repositories.
// patience is how often a push may find its blobs collected before it is done.
func (c *crowd) run(t *testing.T, rounds, patience int) {
	together(t, 32, func(i int) error {
		repo := fmt.Sprint("team/app", i%5)
		for round := range rounds {
			tag := fmt.Sprintf("c%d-%d", i, round%2)
			contents := []string{c.shared[(i+round)%len(c.shared)], c.shared[(i+3*round+1)%len(c.shared)],
				fmt.Sprintf(`{"client":%d,"round":%d}`, i, round)}
			im := ociImage(contents[2], contents[0], contents[1])
			done := false
			for attempt := 0; !done; attempt++ {
				if attempt > patience {
					return fmt.Errorf("push %d did not get through in %d attempts", round, attempt)
				}
				var err error
				if done, err = c.push(repo, tag, im, contents); err != nil {
					return err
				}
			}
			// It is tagged now, and only this client touches the tag.
			if gone, err := c.pull(repo, tag); gone || err != nil {
				return fmt.Errorf("pulling what was just pushed: gone %v, %v", gone, err)
			}
			switch i % 4 {
			case 1: // takes the manifest away, and then a layer
				if _, err := c.r.expect(202, "DELETE", fmt.Sprint("/v2/", repo, "/manifests/", im.digest), nil); err != nil {
					return err
				}
				re, err := c.r.try("DELETE", fmt.Sprint("/v2/", repo, "/blobs/", im.layers[0]), nil)
				if err != nil {
					return err
				}
				// Others may use the layer, or have deleted it.
				if !slices.Contains([]int{202, 403, 404}, re.status) {
					return fmt.Errorf("%s = %d\n%s", re.request, re.status, re.body)
				}
			case 2: // only the tag
				if _, err := c.r.expect(202, "DELETE", "/v2/"+repo+"/manifests/"+tag, nil); err != nil {
					return err
				}
				if _, err := c.pull(repo, im.digest.String()); err != nil {
					return err
				}
			case 3: // looks at what others do
				if _, err := c.pull(repo, fmt.Sprintf("c%d-%d", (i+5)%32, round%2)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func newCrowd(r *registry) *crowd {
	c := &crowd{r: r}
	for i := range 6 {
		c.shared = append(c.shared, noise(uint64(100+i), 1000<<i))
	}
	return c
}

// With a grace that has always run out, the collector takes whatever a push
// leaves unreferenced for a moment. The push must be told so, and get through
// when it tries again.
func TestPushesGetThroughAnImpatientCollector(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t, func(cfg *config) { cfg.grace, cfg.untaggedGrace = 0, time.Nanosecond })
	c := newCrowd(r)
	stop := meanwhile(t, func() error {
		r.moved.Add(int64(time.Second / 4))
		_, err := r.st.collector.collectDue(context.Background())
		return err
	})
	c.run(t, 4, 1000)
	t.Logf("%d collections, %d pushes had to try again", stop(), c.retries.Load())
	r.pass(time.Minute)
}

// With an ordinary grace no push ever notices the collector, nor those who
// delete what it does not use. Each finished push takes a quarter of an hour
// here, so that none can last longer than half the grace, and what the first
// round has left is collected during the last.
func TestPushesNeverNoticeAPatientCollector(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	c := newCrowd(r)
	stop := meanwhile(t, func() error {
		_, err := r.st.collector.collectDue(context.Background())
		return err
	})
	for round := range 4 {
		together(t, 32, func(i int) error {
			repo := fmt.Sprint("team/app", i%5)
			contents := []string{c.shared[(i+round)%len(c.shared)], fmt.Sprintf("layer %d of %d", round, i),
				fmt.Sprintf(`{"client":%d,"round":%d}`, i, round)}
			im := ociImage(contents[2], contents[0], contents[1])
			done, err := c.push(repo, fmt.Sprint("c", i), im, contents)
			if err != nil {
				return err
			}
			if !done {
				return errors.New("a blob was collected under a push")
			}
			r.moved.Add(int64(15 * time.Minute))
			if gone, err := c.pull(repo, im.digest.String()); gone || err != nil {
				return fmt.Errorf("pulling what was just pushed: gone %v, %v", gone, err)
			}
			if i%4 == 1 {
				if _, err := r.expect(202, "DELETE", fmt.Sprint("/v2/", repo, "/manifests/", im.digest), nil); err != nil {
					return err
				}
				if _, err := r.expect(404, "DELETE", fmt.Sprint("/v2/", repo, "/blobs/", im.layers[1]), nil); err != nil {
					return err
				}
			}
			return nil
		})
	}
	stop()
}

func TestTwoPatchesAtOneOffset(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	for round := range 20 {
		location := r.want(202, "POST", "/v2/app/blobs/uploads/", nil).location()
		chunks := []string{noise(uint64(2*round), 50<<10), noise(uint64(2*round+1), 50<<10)}
		var replies [2]*reply
		together(t, 2, func(i int) (err error) {
			replies[i], err = r.try("PATCH", location, chunks[i], "Content-Range: 0-51199")
			return err
		})
		first := 0
		if replies[1].status == 202 {
			first = 1
		}
		if replies[first].status != 202 || replies[1-first].status != 416 {
			t.Fatalf("two PATCHes at one offset = %d, %d; want a 202 and a 416", replies[0].status, replies[1].status)
		}
		replies[1-first].has("Range", "0-51199").has("Location", location)
		d := sum(chunks[first])
		r.want(201, "PUT", with(location, "digest="+d.String()), nil)
		r.want(200, "GET", "/v2/app/blobs/"+d.String(), nil).is(chunks[first])
	}
}

func TestTwoPutsOnOneSession(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	for round := range 20 {
		content := noise(uint64(round), 40<<10)
		location := r.want(202, "POST", "/v2/app/blobs/uploads/", nil).location()
		tail := content
		if round%2 == 1 { // all has arrived before
			r.want(202, "PATCH", location, content)
			tail = ""
		}
		var replies [2]*reply
		together(t, 2, func(i int) (err error) {
			replies[i], err = r.try("PUT", with(location, "digest="+sum(content).String()), tail)
			return err
		})
		created := 0
		for _, re := range replies {
			if re.status == 201 {
				created++
			} else if re.status != 404 {
				t.Errorf("two PUTs on one session: one is %d, want 201 or 404\n%s", re.status, re.body)
			}
		}
		if created == 0 {
			t.Error("two PUTs on one session: no 201")
		}
		r.want(200, "GET", "/v2/app/blobs/"+sum(content).String(), nil).is(content)
		r.want(404, "GET", location, nil).code("BLOB_UPLOAD_UNKNOWN")
	}
}

func TestPatchRacesDeleteOfItsSession(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	for round := range 20 {
		location := r.want(202, "POST", "/v2/app/blobs/uploads/", nil).location()
		together(t, 2, func(i int) error {
			if i == 0 {
				re, err := r.try("PATCH", location, noise(uint64(round), 100<<10))
				if err == nil && re.status != 202 && re.status != 404 {
					err = fmt.Errorf("PATCH beside DELETE = %d, want 202 or 404\n%s", re.status, re.body)
				}
				return err
			}
			_, err := r.expect(204, "DELETE", location, nil)
			return err
		})
		r.want(404, "GET", location, nil).code("BLOB_UPLOAD_UNKNOWN")
		r.want(404, "PATCH", location, "more").code("BLOB_UPLOAD_UNKNOWN")
	}
	if left, _ := filepath.Glob(filepath.Join(r.cfg.dir, "uploads", "*")); len(left) > 0 {
		t.Errorf("cancelled uploads left %v", left)
	}
}

// A session that was idle for long and is used again just as the janitor comes:
// what has been acknowledged now does not expire now.
func TestSessionUsedAgainDoesNotExpire(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	var locations []string
	for range 3 {
		locations = append(locations, r.want(202, "POST", "/v2/app/blobs/uploads/", nil).location())
		r.moved.Add(int64(time.Second)) // so that the last is the last to expire
	}
	last := locations[len(locations)-1]
	r.moved.Add(int64(25 * time.Hour))

	// The janitor is held up at the first session, with the others on its list.
	release := busyWriter(t, r.st)
	collected := make(chan error, 1)
	go func() {
		_, err := r.st.collector.collectDue(context.Background())
		collected <- err
	}()
	queued(r.st, 1)
	patched := make(chan error, 1)
	go func() {
		_, err := r.expect(202, "PATCH", last, "still here")
		patched <- err
	}()
	queued(r.st, 2)
	// The janitor's next write shall wait until the PATCH has its answer. So
	// fill the group up; what does not fit blocks the writer once more.
	var fill sync.WaitGroup
	for range maxGroup - 2 {
		fill.Go(func() {
			if err := r.st.updateLazy(func(*tx) error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	queued(r.st, maxGroup)
	began, end := make(chan struct{}), make(chan struct{})
	fill.Go(func() {
		r.st.updateLazy(func(*tx) error { close(began); <-end; return nil })
	})
	runtime.Gosched()
	release()
	if err := <-patched; err != nil {
		t.Error(err)
	}
	<-began
	close(end)
	fill.Wait()
	if err := <-collected; err != nil {
		t.Error(err)
	}
	r.want(204, "GET", last, nil).has("Range", "0-9")
	r.want(201, "PUT", with(last, "digest="+sum("still here").String()), nil)
}

func TestReferrersPushedAtOnceAreAllListed(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	subject := r.pushImage("app", "1.0", "{}", "layer")
	r.pushBlob("app", "signature")
	const signers = 50
	want := make(map[digest.Digest]bool)
	var manifests []string
	for i := range signers {
		im := newImage(typeOCIManifest, "application/vnd.example.signature", "text/plain", fmt.Sprintf(
			`,"subject":{"mediaType":%q,"digest":%q,"size":%d},"annotations":{"n":"%d"}`,
			typeOCIManifest, subject.digest, len(subject.manifest), i), "{}", "signature")
		manifests = append(manifests, im.manifest)
		want[im.digest] = true
	}
	together(t, signers, func(i int) error {
		re, err := r.expect(201, "PUT", "/v2/app/manifests/"+sum(manifests[i]).String(), manifests[i], "Content-Type: "+typeOCIManifest)
		if err == nil && re.header.Get("OCI-Subject") != subject.digest.String() {
			err = fmt.Errorf("OCI-Subject %q", re.header.Get("OCI-Subject"))
		}
		return err
	})
	var list struct {
		Manifests []struct{ Digest digest.Digest }
	}
	if err := json.Unmarshal(r.want(200, "GET", "/v2/app/referrers/"+subject.digest.String(), nil).body, &list); err != nil {
		t.Fatal(err)
	}
	got := make(map[digest.Digest]bool)
	for _, m := range list.Manifests {
		if got[m.Digest] {
			t.Errorf("%s is listed twice", m.Digest)
		}
		got[m.Digest] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("%d referrers are listed, want the %d pushed", len(got), len(want))
	}
}

// Sessions hold no file and no memory to speak of between requests, and one
// does not see another's bytes.
func TestManySessionsAtOnce(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	const clients, each = 16, 25
	together(t, clients, func(i int) error {
		var locations [each]string
		for j := range each {
			re, err := r.expect(202, "POST", "/v2/app/blobs/uploads/", nil)
			if err != nil {
				return err
			}
			locations[j] = re.location()
		}
		for part := range 3 {
			for j, location := range locations {
				if _, err := r.expect(202, "PATCH", location, fmt.Sprintf("part %d of %d by %d\n", part, j, i)); err != nil {
					return err
				}
			}
		}
		for j, location := range locations {
			var content strings.Builder
			for part := range 3 {
				fmt.Fprintf(&content, "part %d of %d by %d\n", part, j, i)
			}
			if j == 0 { // one in 25 is left open
				continue
			}
			d := sum(content.String())
			if _, err := r.expect(201, "PUT", with(location, "digest="+d.String()), nil); err != nil {
				return err
			}
			re, err := r.expect(200, "GET", "/v2/app/blobs/"+d.String(), nil)
			if err != nil {
				return err
			}
			if string(re.body) != content.String() {
				return fmt.Errorf("session %d has become %q", j, re.body)
			}
		}
		return nil
	})
	if n := r.st.uploads.count.Load(); n != clients {
		t.Errorf("%d sessions are counted as open, want %d", n, clients)
	}
}

// A pushed blob replaces the file of the same name. Who reads meanwhile has
// the old file or the new one, and both are right.
func TestReadersOfABlobThatIsPushedAgain(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	content := noise(7, 700<<10)
	path := "/v2/app/blobs/" + r.pushBlob("app", content).String()
	var stops []func() int
	for i := range 4 {
		stops = append(stops, meanwhile(t, func() error {
			if i%2 == 1 {
				re, err := r.expect(206, "GET", path, nil, "Range: bytes=300000-399999")
				if err == nil && string(re.body) != content[300000:400000] {
					err = errors.New("a part of the blob has wrong bytes")
				}
				return err
			}
			re, err := r.expect(200, "GET", path, nil)
			if err == nil && string(re.body) != content {
				err = errors.New("the blob has wrong bytes")
			}
			return err
		}))
	}
	together(t, 4, func(i int) error {
		for j := range 10 {
			re, err := r.pushBy(ways[(i+j)%len(ways)], "app", content)
			if err != nil || re.status != 201 {
				return fmt.Errorf("pushing it again: %v %w", re, err)
			}
		}
		return nil
	})
	for _, stop := range stops {
		stop()
	}
	if n := r.files(); n != 1 {
		t.Errorf("a blob pushed 40 times has %d files", n)
	}
}

// slowGet begins a GET and reads the first byte only, so that the server is in
// the middle of sending.
func (r *registry) slowGet(path string) (*http.Response, []byte) {
	r.t.Helper()
	resp, err := r.http.Client().Get(r.http.URL + path)
	if err != nil {
		r.t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		r.t.Fatalf("GET %s = %d, want 200", path, resp.StatusCode)
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		r.t.Fatal(err)
	}
	return resp, first
}

func TestBlobDeletedWhileItIsSent(t *testing.T) {
	slow(t)
	t.Parallel()
	r := diskRegistry(t)
	content := noise(9, 24<<20) // more than the buffers of a connection hold
	path := "/v2/app/blobs/" + r.pushBlob("app", content).String()
	resp, first := r.slowGet(path)
	defer resp.Body.Close()

	r.want(202, "DELETE", path, nil)
	r.pass(0)
	r.want(404, "GET", path, nil).code("BLOB_UNKNOWN")
	if n := r.files(); n != 0 {
		t.Errorf("the deleted blob has %d files", n)
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("the GET that had begun: %v", err)
	}
	if !bytes.Equal(append(first, rest...), []byte(content)) {
		t.Error("the GET that had begun got wrong bytes")
	}
}

// A blob's row may come and go twice while the janitor waits for its turn on
// the file. In the end either the file has a row, or it is due for removal.
func TestBlobDeletedAgainWhileTheJanitorWaits(t *testing.T) {
	slow(t)
	t.Parallel()
	const content = "here and gone"
	d := sum(content)
	path := "/v2/app/blobs/" + d.String()
	placed, goOn, recorded := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	r := diskRegistry(t, func(cfg *config) {
		cfg.at = func(point string) {
			if !armed.Load() {
				return
			}
			switch point {
			case "placed":
				close(placed)
				<-goOn
			case "recorded":
				armed.Store(false)
				close(recorded)
				<-goOn
			}
		}
	})
	r.pushBlob("app", content)
	r.want(202, "DELETE", path, nil)

	// It is pushed again; meanwhile the janitor finds it in the trash, and
	// waits for the push, which holds the digest's lock.
	armed.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := r.expect(201, "POST", "/v2/app/blobs/uploads/?digest="+d.String(), content); err != nil {
			t.Error(err)
		}
	})
	<-placed
	wg.Go(func() {
		if _, err := r.st.collector.emptyTrash(r.st.collector.steps(context.Background())); err != nil {
			t.Error(err)
		}
	})
	for waiting := 0; waiting < 2; runtime.Gosched() {
		r.st.digests.mu.Lock()
		waiting = r.st.digests.held[d.String()].n
		r.st.digests.mu.Unlock()
	}
	goOn <- struct{}{}
	<-recorded

	// The push is done, but for its answer. Now another DELETE is on its way
	// to the database when the janitor looks whether the row is back.
	release := busyWriter(t, r.st)
	wg.Go(func() {
		if _, err := r.expect(202, "DELETE", path, nil); err != nil {
			t.Error(err)
		}
	})
	queued(r.st, 1)
	close(goOn)
	for waiting := 1; waiting > 0; runtime.Gosched() { // until the janitor has done, or waits for the writer
		r.st.digests.mu.Lock()
		waiting = len(r.st.digests.held)
		r.st.digests.mu.Unlock()
		if len(r.st.writer.queue) == 2 {
			break
		}
	}
	release()
	wg.Wait()

	r.pass(time.Minute)
	r.want(404, "GET", path, nil).code("BLOB_UNKNOWN")
	if n := r.files(); n != 0 {
		t.Errorf("a deleted blob's file stays for ever")
	}
}
