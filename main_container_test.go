//go:build unix

package main

import (
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

// In a container its own addresses help nobody; what flags name does.
func TestGreetingInAContainer(t *testing.T) {
	t.Parallel()
	kubernetes := environment{"KUBERNETES_SERVICE_HOST=10.96.0.1"}
	const container = "This is a container: others reach it at the machine's address and the port published for "
	for _, x := range []struct{ args, want, not string }{
		{"--addr 0.0.0.0:0", container + "@\n", "Other machines reach it"},
		{"--addr 0.0.0.0:0", "Docker on other machines needs TLS", "trust its CA"},
		{"--addr 0.0.0.0:0 --tls auto", "Other machines must first trust its CA: `berth trust HOST:PORT` in the container shows how", "http://"},
		{"--addr 0.0.0.0:0 --tls auto --tls-name pi.local", "Other machines reach it at https://pi.local:@\n", container},
		{"--addr 0.0.0.0:0 --public-url https://hub.example.org", "Other machines reach it at https://hub.example.org\n", container},
		{"--addr 127.0.0.1:0", "No other machine reaches it", container},
	} {
		said := serveIn(t, kubernetes, nil, append(strings.Fields(x.args), "--data", t.TempDir())...)
		port := regexp.MustCompile(`:(\d+)\n`).FindStringSubmatch(said)
		if port == nil {
			t.Fatal(said)
		}
		_, rest, _ := strings.Cut(said, "\n")
		if want := strings.ReplaceAll(x.want, "@", port[1]); !strings.Contains(rest, want) || strings.Contains(rest, x.not) {
			t.Errorf("%s: want %q and not %q in\n%s", x.args, want, x.not, said)
		}
	}
}

func TestContainersAreRecognized(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		files map[string]string
		want  bool
	}{
		{nil, false},
		{map[string]string{".dockerenv": ""}, true},
		{map[string]string{"run/.containerenv": ""}, true},
		{map[string]string{".dockerenv": "", "sys/class/net/eth0/device": ""}, false}, // the machine's network
		{map[string]string{"proc/self/cgroup": "0::/\n"}, false},
		{map[string]string{"proc/self/cgroup": "4:memory:/system.slice/berth.service\n"}, false},
		{map[string]string{"proc/self/cgroup": "4:memory:/system.slice/docker.service\n"}, false},
		{map[string]string{"proc/self/cgroup": "5:cpu:/\n4:memory:/docker/0123abcd\n"}, true},
		{map[string]string{"proc/self/cgroup": "4:memory:/kubepods/burstable/pod1/2\n"}, true},
		{map[string]string{"proc/self/cgroup": "4:memory:/machine.slice/libpod-0123.scope\n"}, true},
	} {
		root := fstest.MapFS{}
		for name, text := range x.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := inContainer(noEnv, root); got != x.want {
			t.Errorf("%v: %v, want %v", x.files, got, x.want)
		}
	}
}
