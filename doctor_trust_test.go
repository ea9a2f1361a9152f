// Daemons that have read the system's store before the registry's CA was added to it.

package main

import (
	"bytes"
	"fmt"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestDoctorStartedBeforeTheCA(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	r := startRegistry(t)
	secure := behindTLS(t, certified(t, ca), r.server.handler())
	const (
		boot    = 1_700_000_000
		added   = boot + 1000 // the CA's own file, and
		updated = boot + 2000 // the store that took it over
		anchor  = "/usr/local/share/ca-certificates/hub.crt"
		certs   = "/etc/docker/certs.d/hub.lan:5000/ca.crt"
		byStore = "it trusts the certificate, by the system's store"
	)
	docker, podman, containerd, k3s, buildkit := "/etc/docker/daemon.json", "/etc/containers/policy.json", "/etc/containerd/config.toml", "/etc/rancher/k3s/registries.yaml", "/etc/buildkit/buildkitd.toml"
	for _, x := range []struct {
		name    string
		program string // a file that shows that it is installed
		process string // "" for none
		seconds int    // after boot, when that was started
		files   []string
		fault   string
		says    string
	}{
		{"docker from before", docker, "dockerd", 500, []string{anchor}, "docker-before-ca", "dockerd was started before this CA was added"},
		{"docker from before, and what to type", docker, "dockerd", 500, []string{anchor}, "docker-before-ca", "sudo cp '" + anchor + "' '" + certs + "'\n\nsudo systemctl restart docker"},
		{"docker from between", docker, "dockerd", 1500, []string{anchor}, "docker-before-update", "was last updated"},
		{"docker from after", docker, "dockerd", 2500, []string{anchor}, "", byStore + "\n"},
		{"docker that is not seen", docker, "", 0, []string{anchor}, "", byStore + ", if it was started after the CA was added there"},
		{"docker with the CA for this name", docker, "dockerd", 500, []string{anchor, certs}, "", "it trusts the certificate, by " + certs},
		{"docker and a public CA", docker, "dockerd", 500, nil, "", byStore + "\n"},
		{"podman has no daemon", podman, "dockerd", 500, []string{anchor}, "", byStore + "\n"},
		{"containerd", containerd, "containerd", 500, []string{anchor}, "containerd-before-ca", "sudo systemctl restart containerd"},
		{"containerd, not what it starts", containerd, "containerd-shim", 500, []string{anchor}, "", ", if it was started after"},
		{"k3s", k3s, "k3s-agent", 500, []string{anchor}, "k3s-before-ca", "sudo systemctl restart k3s"},
		{"BuildKit", buildkit, "buildkitd", 500, []string{anchor}, "buildkit-before-ca", "sudo systemctl restart buildkit"},
	} {
		t.Run(x.name, func(t *testing.T) {
			d := doctorAt(t, secure)
			d.noPush = true
			d.file(t, x.program, "").file(t, bundles[0], string(ca.pem()))
			if x.program == docker {
				d.file(t, docker, "{}")
			}
			d.file(t, "/proc/stat", fmt.Sprintf("cpu  1 2 3\nbtime %d\nprocesses 9\n", boot))
			d.file(t, "/proc/1/stat", "1 (a ) b) S 0 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 3 0 0\n")
			if x.process != "" {
				d.file(t, "/proc/77/stat", fmt.Sprintf("77 (%s) S 1 77 77 0 -1 0 0 0 0 0 0 0 0 0 20 0 9 0 %d 0 0\n", x.process, x.seconds*100))
			}
			for _, file := range x.files {
				d.file(t, file, string(ca.pem()))
			}
			for file, at := range map[string]int64{anchor: added, bundles[0]: updated} {
				if err := os.Chtimes(filepath.Join(d.root, file), time.Time{}, time.Unix(at, 0)); err != nil && len(x.files) > 0 {
					t.Fatal(err)
				}
			}
			var want []string
			if x.fault != "" {
				want = []string{x.fault}
			}
			d.wantFaults(t, want...)
			if !d.says(x.says) {
				t.Errorf("the doctor does not say %q: %+v", x.says, d.list)
			}
		})
	}
}

// What is neither good nor wrong is not called ok.
func TestDoctorNotes(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	r := startRegistry(t)
	d := doctorAt(t, behindTLS(t, certified(t, ca), r.server.handler())).file(t, "/etc/docker/certs.d/hub.lan:5000/ca.crt", string(ca.pem()))
	d.noPush = true
	d.wantFaults(t)
	var b bytes.Buffer
	out := newConsole(&b, false)
	for _, x := range d.list {
		x.write(out)
	}
	if !strings.Contains(b.String(), "\nnote     system       the system's certificates do not vouch for it") || d.verdict() != "all is well" {
		t.Errorf("the doctor's verdict is %q, and it says\n%s", d.verdict(), &b)
	}
}

// However often the doctor pushes, a registry has its layers once.
func TestDoctorPushesTheSameBytes(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, believesProxies)
	var mu sync.Mutex
	pushed := map[string]bool{}
	at := inPlain(t, proxyTo(r, rewritten(func(x *httputil.ProxyRequest) {
		if x.In.Method == "PUT" && strings.Contains(x.In.URL.Path, "/blobs/") {
			mu.Lock()
			pushed[x.In.URL.Query().Get("digest")] = true
			mu.Unlock()
		}
	})))
	for range 2 {
		d := doctorAt(t, at)
		d.largest = 3 << 20
		d.wantFaults(t)
		if !d.says("The registry keeps its 5.0 MiB until it removes garbage") {
			t.Errorf("the doctor does not say what the registry keeps: %+v", d.list)
		}
	}
	if len(pushed) != 3+2 {
		t.Errorf("two runs have pushed %d blobs, want three layers, and a configuration for each run", len(pushed))
	}
}
