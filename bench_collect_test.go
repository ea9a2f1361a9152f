package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// BenchmarkCollection deletes half of 20,000 images and collects them while
// others are pulled and pushed, by four and one at a time. Pulls (a manifest
// and its layer) and pushes are timed before, during and after, so that what
// the collection costs them stands beside what they cost anyway.
//
//	go test -run '^$' -bench Collection -benchtime 1x .
func BenchmarkCollection(b *testing.B) {
	const images = 20000
	for range b.N {
		r := startRegistry(b, logToNowhere)
		c := newBenchClient(32)
		fresh := freshBlobs(1 << 10)
		var made atomic.Int64
		// push pushes an image of a new layer under a tag of its own.
		config := []byte("{}")
		configDigest := digest.FromBytes(config)
		if err := c.send("POST", r.http.URL+"/v2/bench/blobs/uploads/?digest="+configDigest.String(), nil, bytes.NewReader(config), 201); err != nil {
			b.Fatal(err)
		}
		push := func() (tag string, layer, d digest.Digest, err error) {
			content := fresh()
			layer = digest.FromBytes(content)
			tag = fmt.Sprint("t", made.Add(1))
			manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
				`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, typeOCIManifest, configDigest, layer, len(content))
			if err = c.pushBlob(r.http.URL, content, true); err == nil {
				err = c.send("PUT", r.http.URL+"/v2/bench/manifests/"+tag, http.Header{"Content-Type": {typeOCIManifest}}, bytes.NewReader(manifest), 201)
			}
			return tag, layer, digest.FromBytes(manifest), err
		}
		type pushed struct {
			tag       string
			layer, id digest.Digest
		}
		all := make([]pushed, images)
		if err := share(32, images, func(i int) (err error) {
			all[i].tag, all[i].layer, all[i].id, err = push()
			return err
		}); err != nil {
			b.Fatal(err)
		}
		dead, live := all[:images/2], all[images/2:]
		if err := share(32, len(dead), func(i int) error {
			return c.send("DELETE", r.http.URL+"/v2/bench/manifests/"+dead[i].id.String(), nil, nil, 202)
		}); err != nil {
			b.Fatal(err)
		}

		// load pulls and pushes until stop is closed.
		load := func(stop <-chan struct{}) (pulls, pushes []time.Duration) {
			var mu sync.Mutex // guards pulls
			var wg sync.WaitGroup
			var next atomic.Int64
			goOn := func() bool {
				select {
				case <-stop:
					return false
				default:
					return true
				}
			}
			for range 4 {
				wg.Go(func() {
					for goOn() {
						im := live[int(next.Add(1)*7919)%len(live)]
						start := time.Now()
						err := c.send("GET", r.http.URL+"/v2/bench/manifests/"+im.tag, nil, nil, 200)
						if err == nil {
							err = c.send("GET", r.http.URL+"/v2/bench/blobs/"+im.layer.String(), nil, nil, 200)
						}
						took := time.Since(start)
						if err != nil {
							b.Error(err)
							return
						}
						mu.Lock()
						pulls = append(pulls, took)
						mu.Unlock()
					}
				})
			}
			for goOn() {
				start := time.Now()
				if _, _, _, err := push(); err != nil {
					b.Error(err)
					break
				}
				pushes = append(pushes, time.Since(start))
			}
			wg.Wait()
			return pulls, pushes
		}
		quiet := func() ([]time.Duration, []time.Duration) {
			stop := make(chan struct{})
			time.AfterFunc(5*time.Second, func() { close(stop) })
			return load(stop)
		}
		quiet() // warm
		beforePulls, beforePushes := quiet()

		b.ResetTimer()
		r.st.promises.forget() // as a while after they were pushed
		stop := make(chan struct{})
		start := time.Now()
		var took time.Duration
		go func() {
			if _, err := r.st.collector.collect(context.Background(), collectNow); err != nil {
				b.Error(err)
			}
			took = time.Since(start)
			close(stop)
		}()
		pulls, pushes := load(stop)
		b.StopTimer()
		if n := r.files(); n > len(live)+int(made.Load())-images+1 {
			b.Errorf("%d files are left", n)
		}
		afterPulls, afterPushes := quiet()

		report := func(what string, alone, with []time.Duration, seconds float64) {
			b.ReportMetric(float64(len(with))/seconds, what+"s/s")
			b.ReportMetric(float64(len(alone))/10, what+"s/s-alone")
			for _, p := range []int{50, 99} {
				ms := func(list []time.Duration) float64 {
					slices.Sort(list)
					return float64(list[len(list)*p/100]) / 1e6
				}
				b.ReportMetric(ms(with), fmt.Sprintf("%s-p%d-ms", what, p))
				b.ReportMetric(ms(alone), fmt.Sprintf("%s-p%d-ms-alone", what, p))
			}
		}
		report("pull", append(beforePulls, afterPulls...), pulls, took.Seconds())
		report("push", append(beforePushes, afterPushes...), pushes, took.Seconds())
		b.ReportMetric(float64(len(dead))/took.Seconds(), "images-collected/s")
	}
}

// BenchmarkFigures asks for the figures of a registry with 4,000 images, of
// which 1,000 have no tag: again when nothing has changed, and after a push.
func BenchmarkFigures(b *testing.B) {
	r := startRegistry(b, logToNowhere)
	const images, tags = 4000, 3000
	push := func(i int) error {
		im := ociImage("{}", fmt.Sprint("layer ", i), "base")
		for _, content := range []string{"{}", "base", fmt.Sprint("layer ", i)} {
			if re, err := r.try("POST", "/v2/bench/blobs/uploads/?digest="+sum(content).String(), content); err != nil || re.status != 201 {
				return fmt.Errorf("%+v %w", re, err)
			}
		}
		re, err := r.try("PUT", fmt.Sprint("/v2/bench/manifests/t", i%tags), im.manifest, "Content-Type: "+typeOCIManifest)
		if err != nil || re.status != 201 {
			return fmt.Errorf("%+v %w", re, err)
		}
		return nil
	}
	if err := share(32, images, push); err != nil {
		b.Fatal(err)
	}
	figures := func(b *testing.B) {
		if f, err := r.st.stats.figures(context.Background()); err != nil || f.Untagged < images-tags {
			b.Fatal(f, err)
		}
	}
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			figures(b)
		}
	})
	b.Run("changed", func(b *testing.B) {
		b.StopTimer()
		b.ResetTimer()
		for i := range b.N {
			if err := push(images + i); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			figures(b)
			b.StopTimer()
		}
	})
}
