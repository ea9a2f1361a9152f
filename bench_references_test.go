// How long everybody waits for a manifest that refers to very much.

package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkManyReferences pushes manifests that refer to as much as one may, all of which is
// there, and deletes and collects them. What it tells is for how long another write has to
// wait at worst, the first time and in the best of the others.
func BenchmarkManyReferences(b *testing.B) {
	for _, x := range []struct{ name, key, mediaType string }{
		{"layers", "layers", typeOCIManifest},
		{"members that are blobs", "manifests", typeOCIIndex},
		{"members", "manifests", typeOCIIndex},
	} {
		b.Run(x.name, func(b *testing.B) {
			r := startRegistry(b)
			r.pushBlob("a", "{}")
			things := make(chan int)
			var clients sync.WaitGroup
			list := make([]string, maxDescriptors)
			for range 16 {
				clients.Go(func() {
					for i := range things {
						thing := fmt.Sprint("thing ", i)
						list[i] = descriptorJSON("x/layer", thing)
						path := "/v2/a/blobs/uploads/?digest="
						method := "POST"
						if x.name == "members" {
							thing = newImage(typeOCIManifest, "x/config", "x/layer", fmt.Sprintf(`,"annotations":{"n":"%d"}`, i), "{}").manifest
							list[i] = descriptorJSON(typeOCIManifest, thing)
							method, path = "PUT", "/v2/a/manifests/"
						}
						if re, err := r.try(method, path+sum(thing).String(), thing, "Content-Type: "+map[string]string{"PUT": typeOCIManifest, "POST": "x/y"}[method]); err != nil || re.status != 201 {
							b.Errorf("%v, %v", re, err)
						}
					}
				})
			}
			for i := range list {
				things <- i
			}
			close(things)
			clients.Wait()
			if x.key == "layers" {
				list = list[:len(list)-1] // there is a config, too
			}
			worst := func(act func()) time.Duration {
				var took []time.Duration
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for {
						began := time.Now()
						if err := r.st.updateLazy(func(*tx) error { return nil }); err != nil {
							b.Error(err)
						}
						took = append(took, time.Since(began))
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
						}
					}
				}()
				act()
				close(stop)
				<-stopped
				return slices.Max(took)
			}
			var first time.Duration
			again, hide, collect := time.Hour, time.Hour, time.Hour
			for i := 0; b.Loop(); i++ {
				body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"annotations":{"n":"%d"},%s%q:[%s]}`, x.mediaType, i,
					map[string]string{"layers": `"config":` + descriptorJSON("x/config", "{}") + ","}[x.key], x.key, strings.Join(list, ","))
				by := sum(body).String()
				if i == 0 {
					by = "x" // what it refers to stays
				}
				push := worst(func() { r.want(201, "PUT", "/v2/a/manifests/"+by, body, "Content-Type: "+x.mediaType) })
				if i == 0 {
					first = push
					continue
				}
				again = min(again, push)
				hide = min(hide, worst(func() { r.want(202, "DELETE", "/v2/a/manifests/"+sum(body).String(), nil) }))
				collect = min(collect, worst(func() { r.pass(r.cfg.untaggedGrace + time.Hour) }))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(first.Seconds()*1000, "ms/first")
			b.ReportMetric(again.Seconds()*1000, "ms/again")
			b.ReportMetric(hide.Seconds()*1000, "ms/delete")
			b.ReportMetric(collect.Seconds()*1000, "ms/collect")
		})
	}
}
