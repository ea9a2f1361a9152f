// What refers to an image, and is asked for by its type.

package main

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// A + in a query stands for a space, but no media type has one, and few clients
// escape it: application/spdx+json is found however it is written, on each page.
func TestReferrersByTypeWithPlus(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	subject := `,"subject":` + descriptorJSON(typeOCIManifest, im.manifest)
	push := func(artifactType, more string) {
		m := newImage(typeOCIManifest, "application/vnd.oci.empty.v1+json", "x/y", subject+`,"artifactType":"`+artifactType+`"`+more, "{}").manifest
		r.want(201, "PUT", "/v2/a/manifests/"+sum(m).String(), m, "Content-Type: "+typeOCIManifest)
	}
	push("application/spdx+json", "")
	push("application/spdx+json", `,"annotations":{"a":"second"}`)
	push("application/spdx", "")
	for _, written := range []string{"application/spdx+json", "application/spdx%2Bjson", "application%2Fspdx%2bjson", "application/spdx%20json"} {
		next := "/v2/a/referrers/" + im.digest.String() + "?n=1&artifactType=" + written
		found := 0
		for pages := 0; next != "" && pages < 5; pages++ {
			re := r.want(200, "GET", next, nil).has("OCI-Filters-Applied", "artifactType")
			var index struct {
				Manifests []struct{ ArtifactType string }
			}
			if err := json.Unmarshal(re.body, &index); err != nil {
				t.Fatal(err)
			}
			for _, m := range index.Manifests {
				if found++; m.ArtifactType != "application/spdx+json" {
					t.Errorf("%s finds %s", written, m.ArtifactType)
				}
			}
			link := re.header.Get("Link")
			next, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
			if u, err := url.Parse(next); err != nil || link != "" && u.Query().Get("artifactType") != "application/spdx+json" {
				t.Errorf("%s: the next page is %s", written, link)
			}
		}
		if found != 2 {
			t.Errorf("%s finds %d referrers, want 2", written, found)
		}
	}
}

// Containerd names each type that it would have, and takes the answer for all of them.
func TestReferrersOfSeveralTypes(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	subject := `,"subject":` + descriptorJSON(typeOCIManifest, im.manifest)
	for _, artifactType := range []string{"x/a", "x/b+json", "x/c"} {
		m := newImage(typeOCIManifest, "application/vnd.oci.empty.v1+json", "x/y", subject+`,"artifactType":"`+artifactType+`"`, "{}").manifest
		r.want(201, "PUT", "/v2/a/manifests/"+sum(m).String(), m, "Content-Type: "+typeOCIManifest)
	}
	for _, x := range []struct {
		query, want string
		filtered    bool
	}{
		{"", "x/a x/b+json x/c", false},
		{"artifactType=", "x/a x/b+json x/c", false},
		{"artifactType=x/a&artifactType=x/b%2Bjson", "x/a x/b+json", true},
		{"artifactType=x/b+json&artifactType=x/a", "x/a x/b+json", true},
		{"artifactType=&artifactType=x/c", "x/c", true},
		{"artifactType=x/none&artifactType=x/c", "x/c", true},
		{`artifactType=null&artifactType="x/c"`, "", true},
	} {
		for _, size := range []string{"", "n=1&"} {
			var found []string
			next := "/v2/a/referrers/" + im.digest.String() + "?" + size + x.query
			for pages := 0; next != "" && pages < 5; pages++ {
				re := r.want(200, "GET", next, nil)
				if got := re.header.Get("OCI-Filters-Applied") != ""; got != x.filtered {
					t.Errorf("%s says that it is filtered: %t, want %t", next, got, x.filtered)
				}
				var index struct {
					Manifests []struct{ ArtifactType string }
				}
				if err := json.Unmarshal(re.body, &index); err != nil {
					t.Fatal(err)
				}
				for _, m := range index.Manifests {
					found = append(found, m.ArtifactType)
				}
				next, _, _ = strings.Cut(strings.TrimPrefix(re.header.Get("Link"), "<"), ">")
			}
			slices.Sort(found)
			if got := strings.Join(found, " "); got != x.want {
				t.Errorf("%s%s finds %q, want %q", size, x.query, got, x.want)
			}
		}
	}
}
