package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// After each 201, and not only in the end, every reader sees the new manifest.
func TestTagIsNeverStale(t *testing.T) {
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

func TestCacheIsBounded(t *testing.T) {
	var c manifestCache
	body := []byte(strings.Repeat("x", 100<<10))
	key := func(i int) manifestKey { return manifestKey{"a", reference{tag: fmt.Sprint(i)}} }
	for i := range 1000 {
		_, version := c.get(key(i))
		c.put(key(i), &storedManifest{body: body}, version)
		c.put(key(i), &storedManifest{body: body}, version)
	}
	total := 0
	for _, m := range c.found {
		total += len(m.body) + perCached
	}
	if total > maxCached || total < maxCached-2*len(body) || total != c.size {
		t.Errorf("%d bytes are kept, counted as %d, want at most %d", total, c.size, maxCached)
	}
	_, version := c.get(key(0))
	c.put(key(-1), &storedManifest{body: make([]byte, maxManifest)}, version)
	if m, _ := c.get(key(-1)); m != nil {
		t.Error("a manifest of 4 MiB is kept")
	}
	// What was read before a commit, or during it, is not kept after it.
	c.suspend()
	c.put(key(0), &storedManifest{}, version)
	_, during := c.get(key(0))
	c.put(key(0), &storedManifest{}, during)
	c.resume()
	c.put(key(0), &storedManifest{}, during)
	if m, _ := c.get(key(0)); m != nil {
		t.Error("what was read during a commit is kept")
	}
}
