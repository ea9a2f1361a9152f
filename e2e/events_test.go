package e2e

// Events, held against those of the registry whose listeners they are for.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func sha256Of(content string) string { return digestOf("sha256:", []byte(content)) }

// An ear is an endpoint: what it was sent, event by event.
type ear struct {
	t    *testing.T
	http *httptest.Server
	got  chan map[string]any
}

func newEar(t *testing.T) *ear {
	e := &ear{t: t, got: make(chan map[string]any, 1000)}
	e.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var envelope struct{ Events []map[string]any }
		if err := json.Unmarshal(body, &envelope); err != nil || len(envelope.Events) != 1 {
			t.Errorf("an envelope that is none, or has not one event: %v\n%s", err, body)
			return
		}
		event := envelope.Events[0]
		event["Content-Type"] = r.Header.Get("Content-Type")
		e.got <- event
	}))
	t.Cleanup(e.http.Close)
	return e
}

// next returns the next events, without those that want leaves out, as shapes: values that differ from one registry to another
// are replaced by their kinds.
func (e *ear) next(n int) (shapes []string) {
	e.t.Helper()
	for range n {
		select {
		case event := <-e.got:
			shapes = append(shapes, shapeOf(e.t, event))
		case <-time.After(time.Minute):
			e.t.Fatalf("no event has come after\n%s", strings.Join(shapes, "\n"))
		}
	}
	return shapes
}

// shapeOf writes an event; what is of one registry, or of one request, is written as its kind.
func shapeOf(t *testing.T, event map[string]any) string {
	t.Helper()
	var walk func(path string, v any) any
	walk = func(path string, v any) any {
		switch v := v.(type) {
		case map[string]any:
			for key, x := range v {
				v[key] = walk(path+"."+key, x)
			}
		case string:
			switch path {
			case ".id", ".request.id", ".request.addr", ".request.host", ".source.addr", ".source.instanceID":
				if v == "" {
					return ""
				}
				return "some"
			case ".timestamp":
				if _, err := time.Parse(time.RFC3339Nano, v); err != nil {
					t.Errorf("the time %q: %v", v, err)
				}
				return "a time"
			case ".target.url":
				_, rest, _ := strings.Cut(strings.TrimPrefix(v, "http://"), "/")
				return "http://HOST/" + rest
			}
		}
		return v
	}
	text, err := json.Marshal(walk("", event))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// startRegistry2 starts distribution's registry, which tells an ear of events, and returns its address.
func startRegistry2(t *testing.T, ear *ear) string {
	t.Helper()
	registry := newClient(t, "registry")
	config := filepath.Join(registry.dir, "config.yml")
	err := os.WriteFile(config, fmt.Appendf(nil, `version: 0.1
storage: { filesystem: { rootdirectory: %s }, delete: { enabled: true } }
http: { addr: "127.0.0.1:0" }
notifications: { endpoints: [ { name: ear, url: %q, timeout: 10s, threshold: 5, backoff: 1s } ] }
`, filepath.Join(registry.dir, "images"), ear.http.URL), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	var log output
	cmd := exec.Command(registry.path, "serve", config)
	cmd.Env, cmd.Stdout, cmd.Stderr = registry.env, &log, &log
	exited, err := startGroup(cmd)
	if err != nil {
		t.Fatal(err)
	}
	addr := ""
	await(t, exited, &log, "the registry to say where it listens", func() bool {
		_, rest, found := strings.Cut(log.String(), "listening on 127.0.0.1:")
		port := strings.FieldsFunc(rest, func(c rune) bool { return c < '0' || c > '9' })
		if found && len(port) > 0 {
			addr = "127.0.0.1:" + port[0]
		}
		return addr != ""
	})
	return addr
}

// What is pushed to, and deleted from, this registry and distribution's is told in the same words, in the same order.
func TestEventsAreLikeDistributions(t *testing.T) {
	t.Parallel()
	theirs, ours := newEar(t), newEar(t)
	reference := startRegistry2(t, theirs)
	reg := newBerth(t)
	config := fmt.Sprintf("[[endpoint]]\nname = \"ear\"\nurl = %q\nactions = [\"push\", \"mount\", \"delete\", \"pull\"]\n", ours.http.URL)
	if err := os.WriteFile(filepath.Join(reg.data, "events.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	reg.start()
	const config1, layer = "{}", "a layer"
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d}]}`, sha256Of(config1), len(config1), sha256Of(layer), len(layer))
	both := func(method, path, body string, want int, header ...string) {
		t.Helper()
		for _, addr := range []string{reference, reg.addr} {
			at, body := "http://"+addr+path, body
			if begun, digest, ok := strings.Cut(path, "?push="); ok { // in two requests, as distribution wants it
				resp, err := http.Post("http://"+addr+begun, "", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				location, err := resp.Location()
				if err != nil {
					t.Fatal(err)
				}
				query := location.Query()
				query.Set("digest", digest)
				location.RawQuery = query.Encode()
				at = location.String()
			}
			req, err := http.NewRequest(method, at, bytes.NewReader([]byte(body)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/octet-stream")
			for i := 0; i < len(header); i += 2 {
				req.Header.Set(header[i], header[i+1])
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			said, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Fatalf("%s %s at %s = %d, want %d\n%s", method, path, addr, resp.StatusCode, want, said)
			}
		}
	}
	image := []string{"Content-Type", "application/vnd.oci.image.manifest.v1+json"}
	accept := []string{"Accept", "application/vnd.oci.image.manifest.v1+json"}
	for _, blob := range []string{layer, config1} {
		both("PUT", "/v2/home/app/blobs/uploads/?push="+sha256Of(blob), blob, 201)
	}
	both("PUT", "/v2/home/app/manifests/1", manifest, 201, image...)
	both("PUT", "/v2/home/app/manifests/2", manifest, 201, image...)
	both("PUT", "/v2/home/app/manifests/2", manifest, 201, image...)
	both("PUT", "/v2/home/app/manifests/"+sha256Of(manifest), manifest, 201, image...)
	both("GET", "/v2/home/app/manifests/1", "", 200, accept...)
	both("GET", "/v2/home/app/manifests/"+sha256Of(manifest), "", 200, accept...)
	both("POST", "/v2/other/blobs/uploads/?mount="+sha256Of(layer)+"&from=home/app", "", 201)
	both("DELETE", "/v2/home/app/manifests/2", "", 202)
	const events = 10
	want, got := theirs.next(events), ours.next(events)
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("event %d is\n%s\nwant, as distribution has it,\n%s", i, got[i], want[i])
		}
	}
	// When a manifest goes by its digest, its tags go after it there, and before it here.
	both("DELETE", "/v2/home/app/manifests/"+sha256Of(manifest), "", 202)
	want, got = theirs.next(2), ours.next(2)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the events of a deletion are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestEventsPage(t *testing.T) {
	t.Parallel()
	p := open(t, nil, "docs/events.md")
	reg := newBerth(t)
	file := filepath.Join(reg.data, "events.toml")
	text := p.block("toml", "[[endpoint]]").text
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	shown := p.block("console", "$ berth events check").text
	out, err := exec.Command(berthBinary, "events", "check", "--data", reg.data).CombinedOutput()
	if err != nil || "$ berth events check\n"+string(out) != shown {
		t.Errorf("berth events check: %v\n%s\nthe page has\n%s", err, out, shown)
	}
	// The members of what is sent are those that the page shows.
	for _, format := range []string{"distribution", "cloudevents"} {
		begins := map[string]string{"distribution": `  "events": [`, "cloudevents": `  "specversion"`}[format]
		var want any
		if err := json.Unmarshal([]byte(p.block("json", begins).text), &want); err != nil {
			t.Fatal(err)
		}
		sent := make(chan []byte, 100)
		listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			sent <- body
		}))
		defer listener.Close()
		changed := strings.Replace(text, "https://ci.example.org", listener.URL, 1) + "format = \"" + format + "\"\n"
		if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(berthBinary, "events", "test", "deploy", "--data", reg.data).CombinedOutput(); err != nil {
			t.Errorf("berth events test: %v\n%s", err, out)
		}
		<-sent
		reg.start()
		crane := newClient(t, "crane")
		for _, word := range []string{"old", format} { // so that there is a previous one
			layer := filepath.Join(crane.dir, "layer.tar")
			if out, err := exec.Command("tar", "-C", crane.dir, "-cf", layer, "--transform", "s,.*,"+word+",", os.DevNull).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			crane.run("append", "-f", layer, "-t", reg.ref("home/app:1.0"), "--insecure")
		}
		<-sent
		var got any
		if err := json.Unmarshal(<-sent, &got); err != nil {
			t.Fatal(err)
		}
		reg.stop()
		if a, b := membersOf(got), membersOf(want); !slices.Equal(a, b) {
			t.Errorf("as %s the members are\n%s\nthe page has\n%s", format, strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
	}
	p.skip("console", "$ berth events --repo", "TestFollow reads what it prints")
	p.skip("sh", "berth events --repo home/app --exec", "TestExec runs others; this one needs compose")
}

// membersOf lists the members of a JSON value, with their kinds, in order.
func membersOf(v any) (list []string) {
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, x := range v {
				walk(path+"."+key, x)
			}
		case []any:
			for _, x := range v {
				walk(path+"[]", x)
			}
		default:
			if path != ".events[].actor.name" { // nobody has logged in
				list = append(list, fmt.Sprintf("%s: %T", path, v))
			}
		}
	}
	walk("", v)
	slices.Sort(list)
	return list
}
