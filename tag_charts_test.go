// Charts: artifacts whose manifest says when their file was made.

package main

import (
	"strings"
	"testing"
)

// helm writes the time of the chart's file into the manifest, so that the same chart may be another manifest
// the next time: who is refused is told, and nobody else is.
func TestChartsPushedAgainOverImmutableTags(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, ruled("[[immutable]]\nrepositories = [\"**\"]\ntags = [\"*\"]\n"))
	push := func(want int, configType, created string) string {
		t.Helper()
		m := newImage(typeOCIManifest, configType, "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
			`,"annotations":{"org.opencontainers.image.created":"`+created+`"}`, "{}", "chart").manifest
		return string(r.want(want, "PUT", "/v2/charts/app/manifests/"+strings.NewReplacer("/", "-", "+", "-").Replace(configType), m, "Content-Type: "+typeOCIManifest).body)
	}
	r.pushBlob("charts/app", "{}")
	r.pushBlob("charts/app", "chart")
	for _, x := range []struct {
		configType string
		hint       bool
	}{{typeHelmConfig, true}, {typeOCIConfig, false}} {
		push(201, x.configType, "2026-11-29T18:05:53Z")
		push(201, x.configType, "2026-11-29T18:05:53Z")
		said := push(403, x.configType, "2026-11-30T03:05:53+09:00")
		if !strings.Contains(said, "is immutable, by the rule immutable 1") || strings.Contains(said, "TZ=UTC") != x.hint || strings.Contains(said, "touch -d") != x.hint {
			t.Errorf("%s is refused with %s", x.configType, said)
		}
	}
}
