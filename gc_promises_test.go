// What a client was told of stays, even when nothing has any grace.

package main

import (
	"bytes"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// noGrace is a registry without any grace.
func noGrace(c *config) { c.grace, c.untaggedGrace = 0, time.Second }

// What a client was told of stays for promiseTime, and not for ever.
func TestPromisesWithoutGrace(t *testing.T) {
	slow(t)
	t.Parallel()
	const content = "layer"
	d := sum(content)
	base := ociImage("{}", content)
	// pushBase makes the blob live in a repository, long ago.
	pushBase := func(r *registry, repo string) {
		r.pushImage(repo, "x", "{}", content)
		r.moved.Add(int64(3 * promiseTime))
	}
	for _, x := range []struct {
		name    string
		promise func(r *registry)
		status  int // of the blob after that; a hidden one can be used by a manifest
	}{
		{"pushed in one request", func(r *registry) { r.pushBlob("a", content) }, 200},
		{"pushed in chunks", func(r *registry) {
			if re, err := r.pushBy("chunks", "a", content); err != nil || re.status != 201 {
				t.Fatal(re, err)
			}
		}, 200},
		{"pushed again", func(r *registry) {
			r.pushBlob("a", content)
			r.moved.Add(int64(promiseTime - time.Minute))
			r.pushBlob("a", content)
		}, 200},
		{"asked for", func(r *registry) {
			r.pushBlob("a", content)
			r.moved.Add(int64(promiseTime - time.Minute))
			r.want(200, "HEAD", "/v2/a/blobs/"+d.String(), nil)
		}, 200},
		{"mounted", func(r *registry) {
			pushBase(r, "base")
			r.want(201, "POST", "/v2/a/blobs/uploads/?from=base&mount="+d.String(), nil)
		}, 200},
		{"asked for while it was live, and then deleted", func(r *registry) {
			pushBase(r, "a")
			r.want(200, "HEAD", "/v2/a/blobs/"+d.String(), nil)
			r.want(202, "DELETE", "/v2/a/manifests/"+base.digest.String(), nil)
		}, 404},
		{"asked for before a restart", func(r *registry) {
			pushBase(r, "a")
			r.want(200, "HEAD", "/v2/a/blobs/"+d.String(), nil)
			r.restart()
			r.freeze()
			r.want(202, "DELETE", "/v2/a/manifests/"+base.digest.String(), nil)
		}, 404},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t, noGrace)
			r.freeze()
			r.moved.Add(int64(3 * promiseTime)) // what the start counts as promised
			x.promise(r)
			for _, g := range []graces{r.st.graces(), collectNow} {
				r.collect(g)
				r.want(x.status, "GET", "/v2/a/blobs/"+d.String(), nil)
			}
			r.moved.Add(int64(promiseTime - time.Second))
			r.collect(collectNow)
			r.collect(r.st.graces())
			if !r.hasFile(d) {
				t.Fatalf("it has gone before %v were over", promiseTime)
			}
			r.pushBlob("a", "{}")
			im := ociImage("{}", content)
			r.want(201, "PUT", "/v2/a/manifests/y", im.manifest, "Content-Type: "+typeOCIManifest)
			r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
			// A promise lasts no longer.
			r.moved.Add(int64(promiseTime + 2*time.Second))
			r.collect(r.st.graces())
			r.collect(collectNow)
			if slices.Contains(slices.Collect(maps.Keys(r.inventory().links)), key("a", d)) {
				t.Errorf("it is still there after %v", promiseTime)
			}
		})
	}
}

// By itself, too: the janitor without grace comes back for what it left.
func TestPromisesRunOutByThemselves(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, noGrace)
	r.freeze()
	d := r.pushBlob("a", "layer")
	for kept := time.Duration(0); ; kept += time.Minute {
		r.pass(time.Minute)
		if r.hasFile(d) {
			next, err := r.st.collector.untilDue()
			if err != nil || next < 0 || next > 2*promiseTime {
				t.Fatalf("the janitor looks again in %v (%v)", next, err)
			}
			continue
		}
		if kept < promiseTime-time.Minute || kept > 3*promiseTime {
			t.Errorf("it went after %v", kept)
		}
		return
	}
}

// A member that a client was told of is there when the index comes.
func TestPromisedManifestStaysForItsIndex(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, noGrace)
	r.freeze()
	r.moved.Add(int64(3 * promiseTime))
	im := r.pushImage("a", "x", "{}", "layer")
	r.moved.Add(int64(3 * promiseTime))
	r.want(200, "HEAD", "/v2/a/manifests/x", nil)
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	for _, d := range []time.Duration{0, time.Minute, promiseTime - 2*time.Minute} {
		r.moved.Add(int64(d))
		r.collect(r.st.graces())
		r.collect(collectNow)
	}
	r.want(200, "HEAD", "/v2/a/manifests/"+im.digest.String(), nil) // a new promise
	r.moved.Add(int64(promiseTime - time.Minute))
	r.collect(collectNow)
	index, indexDigest := ociIndex(im.manifest)
	r.want(201, "PUT", "/v2/a/manifests/multi", index, "Content-Type: "+typeOCIIndex)
	r.moved.Add(int64(3 * promiseTime))
	r.collect(collectNow)
	r.want(200, "GET", "/v2/a/blobs/"+im.layers[0].String(), nil).is("layer")
	r.want(202, "DELETE", "/v2/a/manifests/"+indexDigest.String(), nil)
	r.collect(collectNow)
	r.want(404, "GET", "/v2/a/tags/list", nil)
}

// What was promised is not known for very many things; then all is promised.
func TestMorePromisesThanAreRemembered(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, noGrace)
	r.freeze()
	r.moved.Add(int64(3 * promiseTime))
	old := r.pushBlob("a", "old")
	r.moved.Add(int64(2 * promiseTime)) // not promised any more, and not collected yet
	for i := range maxPromises + 1 {
		r.st.promises.make("b", digest.Digest(fmt.Sprint("sha256:", i)))
	}
	if n := len(r.st.promises.young.until); n > maxPromises {
		t.Errorf("%d promises are remembered, at most %d should be", n, maxPromises)
	}
	last := r.pushBlob("a", "last")
	for _, d := range []time.Duration{0, promiseTime - time.Second} {
		r.moved.Add(int64(d))
		if c := r.collect(collectNow); c.Promised != 2 || !r.hasFile(old) || !r.hasFile(last) {
			t.Errorf("%v later %+v is collected, want nothing", d, c)
		}
	}
	r.moved.Add(int64(promiseTime + time.Second))
	if c := r.collect(collectNow); c.Blobs != 2 || c.Promised != 0 {
		t.Errorf("%v later %+v is collected, want both blobs", 2*promiseTime, c)
	}
}

// A push is answered when its blob is recorded; what collects between the two
// must leave the blob alone.
func TestCollectionBetweenAPushAndItsAnswer(t *testing.T) {
	t.Parallel()
	var st atomic.Pointer[store]
	r := startRegistry(t, func(c *config) {
		c.at = func(point string) {
			if s := st.Load(); s != nil && point == "recorded" {
				// All but the files, which the push has locked.
				if err := s.collector.collectLinks(s.collector.steps(t.Context()), collectNow, new(tally)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	r.st.promises.forget()
	st.Store(r.st)
	r.pushImage("a", "x", "{}", "layer")
}

// waitingIn waits until a goroutine is in a function, for a lock or the like.
func waitingIn(t testing.TB, function string) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		if bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("."+function+"(")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing comes to %s", function)
		}
	}
}

// A collection has decided what it removes, and has not committed. Whoever asks
// now what there is must not be told of that.
func TestAnswersWhileACollectionDecides(t *testing.T) {
	alone(t, "the stacks of all goroutines are looked through for one that waits")
	index, _ := ociIndex(ociImage("{}", "layer").manifest)
	im := ociImage("{}", "layer")
	for _, x := range []struct {
		name    string
		prepare func(r *registry)
		first   bool // the question comes to the database before the collection does
		ask     func(r *registry) (*reply, error)
		then    func(r *registry) // what a client does that was told that it is there
	}{
		{"HEAD of a blob", func(r *registry) { r.pushBlob("a", "layer"); r.pushBlob("a", "{}") }, false,
			func(r *registry) (*reply, error) { return r.try("HEAD", "/v2/a/blobs/"+sum("layer").String(), nil) },
			func(r *registry) {
				r.pushBlob("a", "{}")
				r.want(201, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)
			}},
		{"HEAD of a manifest", func(r *registry) {
			r.pushImage("a", "x", "{}", "layer")
			r.pushImage("a", "x", "{}", "newer")
		}, false,
			func(r *registry) (*reply, error) { return r.try("HEAD", "/v2/a/manifests/"+im.digest.String(), nil) },
			func(r *registry) {
				r.want(201, "PUT", "/v2/a/manifests/multi", index, "Content-Type: "+typeOCIIndex)
			}},
		{"mount", func(r *registry) { r.pushImage("base", "x", "{}", "layer"); r.pushBlob("a", "unused") }, true,
			func(r *registry) (*reply, error) {
				return r.try("POST", "/v2/a/blobs/uploads/?from=base&mount="+sum("layer").String(), nil)
			},
			func(r *registry) {
				r.pushBlob("a", "{}")
				r.want(201, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)
			}},
		{"push of a blob", func(r *registry) { r.pushBlob("a", "unused") }, true,
			func(r *registry) (*reply, error) {
				return r.try("POST", "/v2/a/blobs/uploads/?digest="+sum("layer").String(), "layer")
			},
			func(r *registry) {
				r.pushBlob("a", "{}")
				r.want(201, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)
			}},
	} {
		t.Run(x.name, func(t *testing.T) {
			var decided func()
			r := startRegistry(t, func(c *config) {
				c.untaggedGrace = time.Hour
				c.at = func(point string) {
					if point == "decided" && decided != nil {
						decided()
					}
				}
			})
			x.prepare(r)
			r.st.promises.forget()
			var wg sync.WaitGroup
			var answer *reply
			ask := func() {
				wg.Go(func() {
					var err error
					if answer, err = x.ask(r); err != nil {
						t.Error(err)
					}
				})
			}
			if x.first {
				release := busyWriter(t, r.st)
				defer release()
				ask()
				queued(r.st, 1)
				wg.Go(func() { r.collect(collectNow) })
				queued(r.st, 2)
				release()
			} else {
				decided = sync.OnceFunc(func() {
					ask()
					waitingIn(t, "(*promises).make")
				})
				r.collect(collectNow)
			}
			wg.Wait()
			if answer.status == 200 || answer.status == 201 {
				x.then(r)
			}
		})
	}
}
