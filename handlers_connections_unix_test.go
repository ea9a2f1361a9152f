//go:build unix

// More connections than a process may have files.

package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Idle ones make room also where the system allows few open files, and there are some
// left for blobs.
func TestIdleConnectionsLeaveFilesToOpen(t *testing.T) {
	t.Parallel()
	p := startProcessBy(t, exec.Command("sh", "-c", `ulimit -n 200; exec "$@"`, "sh", itself(t)), "", "--data", t.TempDir())
	address := strings.TrimPrefix(p.url, "http://")
	for range 200 {
		dial(t, address, wholeGet)
	}
	p.client.Timeout = time.Minute // less than idle connections have
	layer := string(noise(1, 100<<10))
	location := "/v2/a/blobs/" + sum(layer).String()
	if re, err := p.ask("POST", "/v2/a/blobs/uploads/?digest="+sum(layer).String(), strings.NewReader(layer)); err != nil || re.status != 201 {
		t.Fatalf("a push beside many idle connections: %+v, %v", re, err)
	}
	if re, err := p.ask("GET", location, nil); err != nil || re.status != 200 || string(re.body) != layer {
		t.Errorf("a pull beside them: %v, %v", re, err)
	}
	p.stop(t)
}
