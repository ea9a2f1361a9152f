// Whatever a stranger sends, the parsers answer: no panic, and what they accept
// is what the specification's grammars say. The seeds run with every test.

package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func FuzzManifest(f *testing.F) {
	f.Add(ociImage("{}", "layer").manifest, typeOCIManifest)
	index, _ := ociIndex("a", "b")
	f.Add(index, typeOCIIndex)
	f.Add(`{"schemaVersion":2,"manifests":null,"Config":{}}`, "")
	f.Add(`{"mediaType":"x/y","blobs":[{"digest":"sha256:`+strings.Repeat("0", 64)+`","size":0}]}`, "x/y; a=b")
	f.Add(`{"subject":{"digest":"sha512:`+strings.Repeat("f", 128)+`","size":1e3},"annotations":{"a":"b"}}`, "text/plain")
	f.Fuzz(func(t *testing.T, body, contentType string) {
		m, err := parseManifest([]byte(body), contentType, sum(body))
		if err != nil {
			if !errors.Is(err, errManifestInvalid) {
				t.Fatalf("error %v is not MANIFEST_INVALID", err)
			}
			return
		}
		if !json.Valid([]byte(body)) || m.mediaType == "" {
			t.Fatalf("accepted %q as %q", body, m.mediaType)
		}
		for _, d := range append(append(m.blobs, m.children...), m.foreign...) {
			if d.Validate() != nil {
				t.Fatalf("refers to %q", d)
			}
		}
		if len(m.children) > 0 && len(m.blobs)+len(m.foreign) > 0 {
			t.Fatal("accepted an image that is an index")
		}
		if m.annotations != nil && json.Unmarshal(m.annotations, &map[string]string{}) != nil {
			t.Fatalf("annotations %s", m.annotations)
		}
		// What is stored is parsed again by check, with the stored type.
		again, err := parseManifest([]byte(body), m.mediaType, m.digest)
		if err != nil || again.mediaType != m.mediaType || len(again.blobs) != len(m.blobs) {
			t.Fatalf("parsed again: %v %+v, want %+v", err, again, m)
		}
	})
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"latest", "sha256:" + strings.Repeat("a", 64), "sha512:" + strings.Repeat("0", 128), ":", "a/b", "..", "\x00", "ä"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if ref, err := parseReference(s); err == nil {
			if ref.String() != s || strings.ContainsAny(s, "/\\\x00\n ") || strings.HasPrefix(s, ".") || len(s) > maxDigest {
				t.Fatalf("reference %q", s)
			}
		}
		if name, err := parseName(s); err == nil {
			if name != s || len(s) > maxName || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-/") != "" ||
				strings.Contains(s, "..") || strings.Contains(s, "//") || strings.HasPrefix(s, "/") {
				t.Fatalf("name %q", s)
			}
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"0-0", "0-1048575", "bytes 0-9/10", "bytes=5-6", "9223372036854775807-9223372036854775807", "1-0", "-1", "0x1-2", "1-2/*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, err := parseContentRange(s)
		if err != nil {
			if !errors.Is(err, errBlobUploadInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if first < 0 || last < first || last-first+1 <= 0 || last+1 <= 0 {
			t.Fatalf("%q = %d to %d", s, first, last)
		}
		if !strings.Contains(s, strconv.FormatInt(last, 10)) && !strings.Contains(s, "0") {
			t.Fatalf("%q has no %d", s, last)
		}
	})
}

// Tags of any form have a place among others, and only one.
func FuzzOrderOfTags(f *testing.F) {
	for _, s := range [][3]string{{"1.10", "v1.9", "1.10-rc1"}, {"rc10", "1-rc10", "1-rc.9"}, {"20260101", "0001", "1.0-r10"}, {"1", "01", "v1.0.0"},
		{"1-r2", "1-r1x", "1-r10"}, {strings.Repeat("9", 40), "9." + strings.Repeat("0", 18), "-"}} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, ba, bc, ac := compareTags(a, b), compareTags(b, a), compareTags(b, c), compareTags(a, c)
		if ab != -ba || (ab == 0) != (a == b) {
			t.Fatalf("%q and %q: %d, and %d the other way", a, b, ab, ba)
		}
		if ab <= 0 && bc <= 0 && ac > 0 || ab >= 0 && bc >= 0 && ac < 0 {
			t.Fatalf("%q, %q, %q go in circles: %d, %d, %d", a, b, c, ab, bc, ac)
		}
		if base := baseOf(a); base != "" && (!strings.HasPrefix(a, base+"-") || !suffixes[a[len(base)+1:]]) {
			t.Fatalf("the base of %q is %q", a, base)
		}
	})
}

// Whatever configs say of platforms, an index of them can be read again, depends on
// nothing but its members, and is a manifest like any other.
func FuzzPlatforms(f *testing.F) {
	f.Add("linux", "amd64", "", "", "linux", "arm64", "v8", "")
	f.Add("windows", "amd64", "", "10.0.1", "windows", "x86_64", "v1", "10.0.1")
	f.Add("\x00", "\xff", "\"", "<&>", "", "", "", "")
	f.Fuzz(func(t *testing.T, os1, arch1, variant1, version1, os2, arch2, variant2, version2 string) {
		for _, s := range []*string{&os1, &arch1, &variant1, &version1, &os2, &arch2, &variant2, &version2} {
			*s = strings.ToValidUTF8(*s, "?") // as all that was read from JSON is
		}
		one := member{MediaType: typeOCIManifest, Size: 1, Digest: sum("1"), Platform: platform{arch1, os1, version1, variant1}}
		two := member{MediaType: typeDockerManifest, Size: 2, Digest: sum("2"), Platform: platform{arch2, os2, version2, variant2}}
		a, err := makeIndex(addMember([]member{one}, two))
		if err != nil {
			t.Fatal(err)
		}
		members, err := parseIndex(a.body)
		want := 2
		if one.Platform.same() == two.Platform.same() {
			want = 1
		}
		if err != nil || len(members) != want || len(a.children) != want {
			t.Fatalf("%s has %d members (%v), want %d", a.body, len(members), err, want)
		}
		if b, err := makeIndex(members); err != nil || b.digest != a.digest {
			t.Fatalf("read and made again:\n%s\n%s (%v)", a.body, b.body, err)
		}
		if want == 2 {
			if b, err := makeIndex(addMember([]member{two}, one)); err != nil || b.digest != a.digest {
				t.Fatalf("the other way round:\n%s\n%s (%v)", a.body, b.body, err)
			}
		}
	})
}

// Any method, path and header gets an answer below 500, in the registry's form.
func FuzzRequest(f *testing.F) {
	for _, s := range [][4]string{
		{"GET", "/v2/a/manifests/x", "", ""},
		{"GET", "/v2/a/blobs/" + sum("blob").String(), "Range", "bytes=0-1,-5"},
		{"PUT", "/v2/a/blobs/uploads/x?digest=" + sum("").String(), "Content-Range", "0-5"},
		{"POST", "/v2/a/blobs/uploads/?mount=sha256:x&from=b", "Content-Type", "x"},
		{"PUT", "/v2/a/manifests/t?tag=a&tag=b", "Content-Type", typeOCIIndex},
		{"GET", "/v2/a/tags/list?n=-1&last=%ff", "Accept", "*/*"},
		{"GET", "/v2/%2e%2e/%2f/manifests/x", "If-None-Match", "*"},
		{"DELETE", "/v2//blobs//uploads//", "Content-Length", "-1"},
		{"PATCH", "/v2/a/referrers/sha256:x", "Transfer-Encoding", "chunked"},
		{"GET", "/v2/a/_berth/history?n=-1&before=x&tag=%00", "", ""},
		{"GET", "/v2/a/b/_berth/retention", "Accept", "*/*"},
		{"POST", "/v2/a/_berth/undo?change=1&as=../b", "", ""},
		{"DELETE", "/v2/a/_berth/repository", "", ""},
		{"PUT", "/v2/a/manifests/1.0-arm64", "Content-Type", typeOCIIndex},
	} {
		f.Add(s[0], s[1], s[2], s[3], `{"schemaVersion":2,"manifests":[]}`)
	}
	r := startRegistry(f, func(c *config) {
		writeRules(c.dir, "[[index]]\nrepositories=[\"**\"]\nfrom=[\"same-tag\",\"suffix\"]\n[[retain]]\nrepositories=[\"**\"]\nnewest=1")
	})
	r.pushBlob("a", "blob")
	handler := r.server.handler()
	f.Fuzz(func(t *testing.T, method, target, key, value, body string) {
		req, err := http.NewRequest(method, "http://localhost"+target, strings.NewReader(body))
		if err != nil || !strings.HasPrefix(target, "/") {
			return // not even a request
		}
		req.Header.Set(key, value)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Fatalf("%s %s = %d\n%s", method, target, w.Code, w.Body)
		}
		if w.Code >= 400 && (w.Header().Get("Content-Type") != "application/json" || !json.Valid(w.Body.Bytes())) {
			t.Fatalf("%s %s = %d with %s\n%s", method, target, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
		if w.Code == 301 || w.Code == 307 {
			if strings.HasPrefix(req.URL.Path, "/v2/") {
				t.Fatalf("%s %s redirects to %s", method, target, w.Header().Get("Location"))
			}
		}
	})
}

// Whatever anonymous and a user without rights ask for, in whatever way, they see
// nothing of a repository that is not theirs, and change nothing in it.
func FuzzGuardedRequest(f *testing.F) {
	const secret = "top secret layer"
	for _, s := range [][4]string{
		{"GET", "/v2/secret/manifests/x", "", ""},
		{"GET", "/v2/public/../secret/manifests/x", "Authorization", "Basic "},
		{"GET", "/v2/public%2f..%2fsecret/blobs/" + sum(secret).String(), "Authorization", "Bearer a.b.c"},
		{"POST", "/v2/public/blobs/uploads/?from=secret&mount=" + sum(secret).String(), "X-Forwarded-For", "127.0.0.1"},
		{"PUT", "/v2/secret/manifests/x?tag=y", "Content-Type", typeOCIManifest},
		{"DELETE", "/v2/secret/manifests/x", "X-HTTP-Method-Override", "GET"},
		{"GET", "/v2/token?scope=repository:secret:*&service=x", "Authorization", "Basic YW5uOmFubi1zZWNyZXQ="},
		{"POST", "/v2/token", "Content-Type", "application/x-www-form-urlencoded"},
		{"GET", "/v2/_catalog?last=rom", "", ""},
		{"GET", "/v2/secret/_berth/history", "", ""},
		{"POST", "/v2/public/_berth/undo?change=1", "", ""},
		{"DELETE", "/v2/public/../secret/_berth/repository", "", ""},
		{"GET", "/metrics", "", ""},
		{"GET", "/trust.sh", "Host", "x';id'"},
	} {
		f.Add(s[0], s[1], s[2], s[3], "grant_type=password&username=ann&password=ann-secret&scope=repository:secret:pull")
	}
	r := startRegistry(f, guarded(`
[[rule]]
who = ["admin"]
repositories = ["**"]
allow = ["admin"]
[[rule]]
who = ["anonymous"]
repositories = ["public/**", "public"]
allow = ["push"]
`, "admin", "ann"))
	for _, content := range []string{secret, "{}"} {
		r.want(201, "POST", "/v2/secret/blobs/uploads/?digest="+sum(content).String(), content, as("admin"))
	}
	im := ociImage("{}", secret)
	r.want(201, "PUT", "/v2/secret/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest, as("admin"))
	handler := r.server.handler()
	f.Fuzz(func(t *testing.T, method, target, key, value, body string) {
		for _, user := range []string{"", "ann"} {
			req, err := http.NewRequest(method, "http://localhost"+target, strings.NewReader(body))
			if err != nil || !strings.HasPrefix(target, "/") {
				return
			}
			if user != "" {
				req.SetBasicAuth(user, user+"-secret")
			}
			req.Header.Set(key, value)
			if name, password, _ := req.BasicAuth(); name == "admin" && password == "admin-secret" {
				return
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req)
			if w.Code >= 500 {
				t.Fatalf("%s %s = %d\n%s", method, target, w.Code, w.Body)
			}
			answer := w.Body.String()
			if strings.Contains(answer, secret) || strings.Contains(answer, im.digest.Encoded()) && !strings.Contains(target+body, im.digest.Encoded()) ||
				strings.Contains(answer, `"secret"`) && w.Code < 400 {
				t.Fatalf("%s %s = %d shows\n%s", method, target, w.Code, answer)
			}
			if tags, _, err := r.st.listTags("secret", "", 10); err != nil || !slices.Equal(tags, []string{"x"}) {
				t.Fatalf("%s %s = %d left the tags %v (%v)", method, target, w.Code, tags, err)
			}
			if m, err := r.st.lookUpManifest("secret", reference{tag: "x"}, false); err != nil || m.digest != im.digest {
				t.Fatalf("%s %s = %d left the manifest %v (%v)", method, target, w.Code, m, err)
			}
		}
	})
}
