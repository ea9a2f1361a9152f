// What a request names: a repository with a digest, a reference or a page. All is validated here.

package main

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/opencontainers/go-digest"
)

// nameAndDigest reads the path of a blob or of referrers.
func nameAndDigest(r *http.Request) (name string, d digest.Digest, err error) {
	if name, err = parseName(r.PathValue("name")); err == nil {
		d, err = parseDigest(r.PathValue("digest"))
	}
	return name, d, err
}

// nameAndReference reads the path of a manifest.
func nameAndReference(r *http.Request) (name string, ref reference, err error) {
	if name, err = parseName(r.PathValue("name")); err == nil {
		ref, err = parseReference(r.PathValue("reference"))
	}
	return name, ref, err
}

// maxPage bounds the entries of one page, whatever n a client asks for
// (CVE-2023-2253); the Link header leads to the rest.
const maxPage = 10000

// pageSize reads the parameter n; without it a page is as long as it may be.
func pageSize(query url.Values) (int, error) {
	text := query.Get("n")
	if text == "" {
		return maxPage, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, errPageInvalid.withf("%.40q", text)
	}
	return int(min(n, maxPage)), nil
}

// nameAndPage reads the path and the query of what is listed of a repository.
func nameAndPage(r *http.Request) (name string, query url.Values, n int, err error) {
	query = r.URL.Query()
	if name, err = parseName(r.PathValue("name")); err == nil {
		n, err = pageSize(query)
	}
	return name, query, n, err
}
