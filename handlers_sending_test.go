package main

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// longManifest is an index of n bytes without members.
func longManifest(name string, n int) string {
	head := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[],"annotations":{"name":%q,"x":"`, typeOCIIndex, name)
	return head + strings.Repeat("x", n-len(head)-len(`"}}`)) + `"}}`
}

// littleRoom lets one long answer be sent at a time, and nobody wait.
func littleRoom(r *registry) { r.st.sending.size, r.st.sending.wait = 2<<20, 0 }

// Long answers that clients read slowly have so much room and no more: whoever finds
// none is told to come again, while short answers and those that are there go on.
func TestLongAnswersHaveRoom(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, ruled("[[retain]]\nrepositories = [\"a\"]\nnewest = 1\n"))
	littleRoom(r)
	for _, name := range []string{"one", "two"} {
		r.pushManifest("a", name, longManifest(name, 1<<20+1), typeOCIIndex)
	}
	subject := longManifest("one", 1<<20+1)
	about := strings.Replace(longManifest("about", 2<<20), `"manifests":[],`, `"manifests":[],"subject":`+descriptorJSON(typeOCIIndex, subject)+`,`, 1)
	r.pushManifest("a", "about", about, typeOCIIndex)
	var many strings.Builder
	for i := range 900 {
		fmt.Fprintf(&many, "&tag=%0128d", i)
		if i%90 == 89 {
			m := longManifest(fmt.Sprint(i), 1000)
			r.pushManifest("a", sum(m).String()+"?"+many.String()[1:], m, typeOCIIndex)
			many.Reset()
		}
	}
	r.pushImage("a", "short", "{}", "layer")
	long := []string{"/v2/a/manifests/one", "/v2/a/manifests/two", "/v2/a/manifests/" + sum(subject).String(), "/v2/a/tags/list",
		"/v2/a/referrers/" + sum(subject).String(), "/v2/a/_berth/history", "/v2/a/_berth/retention"}
	free := func() {
		t.Helper()
		r.server.wait(time.Minute) // a client may have it all before the handler has ended
		r.st.sending.mu.Lock()
		defer r.st.sending.mu.Unlock()
		if r.st.sending.used != 0 || len(r.st.sending.bodies) != 0 || len(r.st.sending.waiting) != 0 {
			t.Errorf("%d bytes are taken by nobody, of %d manifests; %d wait", r.st.sending.used, len(r.st.sending.bodies), len(r.st.sending.waiting))
		}
	}
	for _, ask := range r.over() {
		for i, path := range long {
			if size := len(r.want(200, "GET", path, nil).body); size <= freeAnswer {
				t.Fatalf("%s has %d bytes, which need no room", path, size)
			}
			free()
			// Somebody has all the room.
			if !r.st.sending.try(r.st.sending.size) {
				t.Fatal("there is no room though nobody has any")
			}
			resp, err := ask("GET", path)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(text), "TOOMANYREQUESTS") || resp.Header.Get("Link") != "" {
				t.Errorf("%s = %d, want 429 with Retry-After\n%s", path, resp.StatusCode, text)
			}
			r.want(200, "GET", "/v2/a/manifests/short", nil)
			r.want(200, "GET", "/v2/a/tags/list?n=10", nil)
			if i < 3 {
				r.want(200, "HEAD", path, nil).has("Content-Length", fmt.Sprint(1<<20+1)) // it was verified
			}
			r.st.sending.give(r.st.sending.size)
			free()
		}
	}
}

// A list that was built again, when there was room for it, leads to a next page only if
// there still is one.
func TestListBuiltAgainHasNoLinkOfTheFirst(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	const n = 600
	for i := range n / 100 {
		var tags strings.Builder
		for k := range 100 {
			fmt.Fprintf(&tags, "&tag=%0128d", 100*i+k)
		}
		r.want(201, "PUT", "/v2/a/manifests/"+im.digest.String()+"?"+tags.String()[1:], im.manifest, "Content-Type: "+typeOCIManifest)
	}
	if !r.st.sending.try(r.st.sending.size) { // somebody has all the room
		t.Fatal("there is no room though nobody has any")
	}
	answer := make(chan *reply)
	go func() {
		re, err := r.try("GET", fmt.Sprint("/v2/a/tags/list?n=", n), nil)
		if err != nil {
			t.Error(err)
		}
		answer <- re
	}()
	for waiting := 0; waiting == 0; runtime.Gosched() {
		r.st.sending.mu.Lock()
		waiting = len(r.st.sending.waiting)
		r.st.sending.mu.Unlock()
	}
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	r.st.sending.give(r.st.sending.size)
	if re := <-answer; re != nil && (re.status != 200 || strings.Count(string(re.body), `"0`) != n || re.header.Get("Link") != "") {
		t.Errorf("a list of all %d tags = %d with %d tags and the link %q, want none", n, re.status, strings.Count(string(re.body), `"0`), re.header.Get("Link"))
	}
}

// Who waits for room gets it in turn when somebody has finished.
func TestLongAnswersWaitForRoom(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	littleRoom(r)
	r.st.sending.wait = time.Minute
	bodies := make([]string, 3)
	for i := range bodies {
		bodies[i] = longManifest(fmt.Sprint(i), 1<<20+1)
		r.pushManifest("a", fmt.Sprint(i), bodies[i], typeOCIIndex)
	}
	if !r.st.sending.try(r.st.sending.size) {
		t.Fatal("there is no room")
	}
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			re, err := r.try("GET", fmt.Sprint("/v2/a/manifests/", i%3), nil)
			if err != nil || re.status != 200 || string(re.body) != bodies[i%3] {
				t.Errorf("%v, %v", re, err)
			}
		})
	}
	for r.server.inFlight.Load() < 30 {
		time.Sleep(time.Millisecond)
	}
	r.st.sending.give(r.st.sending.size)
	all.Wait()
	r.server.wait(time.Minute)
	if r.st.sending.used != 0 || len(r.st.sending.bodies) != 0 {
		t.Errorf("%d bytes are taken by nobody", r.st.sending.used)
	}
}

// A manifest that many read slowly is in memory once, over one connection or many.
func TestReadersOfOneManifestShareIt(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	littleRoom(r)
	body := longManifest("x", 2<<20)
	r.pushManifest("a", "x", body, typeOCIIndex)
	for proto, ask := range r.over() {
		var slow []*http.Response
		for range 50 {
			resp, err := ask("GET", "/v2/a/manifests/x")
			if err != nil {
				t.Fatal(err)
			}
			slow = append(slow, resp)
			if resp.StatusCode != 200 {
				t.Fatalf("%s: reader %d gets %d, want 200: the room is for one", proto, len(slow), resp.StatusCode)
			}
		}
		for _, resp := range slow {
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(text) != body {
				t.Errorf("%s: %d bytes, %v", proto, len(text), err)
			}
		}
	}
}

// A long manifest that has rotted is not served, nor is a HEAD of it a lie.
func TestRottenLongManifestIsNotServed(t *testing.T) {
	slow(t)
	t.Parallel()
	for _, method := range []string{"GET", "HEAD"} {
		r := startRegistry(t)
		body := longManifest("x", 1<<20)
		r.pushManifest("a", "x", body, typeOCIIndex)
		r.rot("schemaVersion", "schemaVersi0n", "1")
		r.want(404, method, "/v2/a/manifests/x", nil)
		r.want(404, "GET", "/v2/a/manifests/"+sum(body).String(), nil).code("MANIFEST_UNKNOWN")
		if f := r.figures(); f.Quarantined.Count != 1 {
			t.Errorf("%d things in quarantine, want the manifest", f.Quarantined.Count)
		}
		r.pushManifest("a", "x", body, typeOCIIndex)
		r.want(200, "HEAD", "/v2/a/manifests/x", nil).has("Content-Length", fmt.Sprint(1<<20))
		r.want(200, "GET", "/v2/a/manifests/x", nil).is(body)
		r.want(304, "GET", "/v2/a/manifests/x", nil, `If-None-Match: "`+sum(body).String()+`"`)
		r.want(206, "GET", "/v2/a/manifests/x", nil, "Range: bytes=0-9").is(body[:10])
	}
}
