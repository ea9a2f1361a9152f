#!/usr/bin/env bash
# containerd reads the first page of a list of referrers, and no other.
#
# The distribution specification 1.1 ("Listing Referrers") has a registry page the list, with a Link to the next page, and has
# clients follow it. containerd's FetchReferrers, by which Docker and BuildKit look for signatures and attestations, decodes
# the first answer and does not look at the header: a signature on the second page is not there for it. When it asks for
# several types at once it sends one artifactType for each, of which the specification knows one, and it takes the registry's
# word for what that filters by. So a registry does well to make the first page as long as it can, and to filter by all of them.
#
# Seen with containerd 2.4.2 (2026-11-29):
#   asked: /v2/app/referrers/sha256:… ?artifactType=application%2Fvnd.one&artifactType=application%2Fvnd.two
#   pages with one referrer each: 2, requests: 1, found: 1
set -euo pipefail
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
export GOFLAGS=-mod=mod
cd "$tmp"
go mod init example.org/pages >/dev/null 2>&1
cat >main.go <<'GO'
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const index = "application/vnd.oci.image.index.v1+json"

func main() {
	subject := digest.FromString("an image")
	requests, query := 0, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return
		}
		kind := "one"
		if requests++; r.URL.Query().Get("last") == "" {
			query = r.URL.RawQuery
			w.Header().Set("Link", fmt.Sprintf("<%s?%s&last=1>; rel=\"next\"", r.URL.Path, r.URL.RawQuery))
		} else {
			kind = "two"
		}
		w.Header().Set("OCI-Filters-Applied", "artifactType")
		w.Header().Set("Content-Type", index)
		json.NewEncoder(w).Encode(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: index, Manifests: []ocispec.Descriptor{
			{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(kind), Size: 3, ArtifactType: "application/vnd." + kind}}})
	}))
	defer server.Close()
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))})
	ref := strings.TrimPrefix(server.URL, "http://") + "/app@" + subject.String()
	fetcher, err := resolver.Fetcher(context.Background(), ref)
	if err != nil {
		panic(err)
	}
	found, err := fetcher.(remotes.ReferrersFetcher).FetchReferrers(context.Background(), subject,
		remotes.WithReferrerArtifactTypes("application/vnd.one", "application/vnd.two"))
	if err != nil {
		panic(err)
	}
	fmt.Printf("query: %s\npages: 2, requests: %d, found: %d\n", query, requests, len(found))
}
GO
go get github.com/containerd/containerd/v2@v2.4.2 github.com/opencontainers/image-spec@v1.1.1 >/dev/null 2>&1
said=$(CGO_ENABLED=0 go run .)
echo "$said"
[[ $said == *'artifactType=application%2Fvnd.one&artifactType=application%2Fvnd.two'* ]]
[[ $said == *'pages: 2, requests: 1, found: 1' ]]
