//go:build unix

package main

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// The image goes into the registry of the data directory, whether a server runs or not.
func TestImageInThisRegistry(t *testing.T) {
	t.Parallel()
	amd64 := buildSmall(t, "amd64")
	arm64 := patched(t, amd64, "GOARCH=amd64", "GOARCH=arm64")
	r := startRegistry(t)
	r.stop()
	if out, err := runOnce(t, "image", "--data", r.cfg.dir, "tools/berth:1", amd64, arm64); err != nil || !strings.Contains(out, "sha256:") {
		t.Fatalf("without a server: %v\n%s", err, out)
	}
	r.start()
	stop := r.listen()
	out, err := runOnce(t, "image", "--data", r.cfg.dir, "tools/berth:2", amd64, arm64, "--json")
	stop()
	if err != nil {
		t.Fatalf("with a server: %v\n%s", err, out)
	}
	said := parsed[struct {
		Digest    digest.Digest
		Platforms []string
	}](t, []byte(out))
	for _, tag := range []string{"1", "2"} {
		r.want(200, "GET", "/v2/tools/berth/manifests/"+tag, nil, "Accept: "+typeOCIIndex).has("Docker-Content-Digest", said.Digest.String())
	}
	index := parsed[testIndex](t, r.want(200, "GET", "/v2/tools/berth/manifests/1", nil, "Accept: "+typeOCIIndex).body)
	for i, file := range []string{amd64, arm64} {
		manifest := parsed[testManifest](t, r.want(200, "GET", "/v2/tools/berth/manifests/"+index.Manifests[i].Digest.String(), nil).body)
		config := parsed[testConfig](t, r.want(200, "GET", "/v2/tools/berth/blobs/"+manifest.Config.Digest.String(), nil).body)
		checkLayer(t, r.want(200, "GET", "/v2/tools/berth/blobs/"+manifest.Layers[0].Digest.String(), nil).body, config.RootFS.DiffIDs[0], file)
	}
	r.stop()
	if out, err := runOnce(t, "image", "--data", r.cfg.dir, "--read-only", "tools/berth:3", amd64); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a registry that is read-only: %v\n%s", err, out)
	}
	r.start()
}

func TestReady(t *testing.T) {
	t.Parallel()
	for _, tls := range []string{"off", "auto"} {
		data := t.TempDir()
		if out, err := runOnce(t, "ready", "--data", data); err == nil || !strings.Contains(err.Error(), "no server runs on "+data) {
			t.Errorf("without a server: %v\n%s", err, out)
		}
		const missing = ", as far as can be seen: that directory is missing; if"
		if out, err := runOnce(t, "ready", "--data", data+"/none"); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("without the directory: %v\n%s", err, out)
		}
		p := startProcess(t, "", "--data", data, "--tls", tls)
		if out, err := runOnce(t, "ready", "--data", data); err != nil || out != "ready\n" {
			t.Errorf("--tls=%s: %v\n%s", tls, err, out)
		}
		p.stop(t)
		if out, err := runOnce(t, "ready", "--data", data); err == nil {
			t.Errorf("after the server has ended: %s", out)
		}
	}
}
