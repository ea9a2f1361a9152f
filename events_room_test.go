package main

import (
	"fmt"
	"strings"
	"testing"
)

// A change that has many events by itself, such as the undo of a deleted repository, is
// committed whole. However often there is one, the queue does not grow beyond that.
func TestManyEventsOfOneChangeAreBounded(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := startRegistry(t, hooked(t, oneEndpoint+"blobs = false\n", h.http.URL))
	r.st.events.most = 10
	const tags = 40
	im := r.pushImage("a", "tag-0", "{}", "layer")
	for i := range tags {
		r.want(201, "PUT", fmt.Sprintf("/v2/a/manifests/tag-%d", i), im.manifest, "Content-Type: "+typeOCIManifest)
	}
	for range 5 {
		for _, args := range [][]string{{"rm", "a"}, {"undo", "a"}} {
			if out, err := runOnceOn(t, r.st, args[0], args[1:]...); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	if n := r.eventRows(); n < tags || n > tags+r.st.events.most {
		t.Errorf("%d events wait, want those of the last change, and %d at most besides", n, r.st.events.most)
	}
	if f := r.st.events.figures()[0]; f.queued != r.eventRows() {
		t.Errorf("memory has %d events, and the database %d", f.queued, r.eventRows())
	}
	r.sendEvents()
	for {
		if d := h.next(); strings.HasSuffix(d.said(t), "a:tag-9@"+im.digest.String()) {
			break // the last of the last undo
		}
	}
}

// Each metric has a sentence that explains it, as promtool wants it.
func TestMetricsOfEndpointsAreExplained(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, hooked(t, oneEndpoint, "http://127.0.0.1:1"))
	text := string(r.server.allMetrics(t.Context()))
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			if !strings.Contains(text, "# HELP "+name+" ") {
				t.Errorf("%s has no help", name)
			}
		}
	}
}
