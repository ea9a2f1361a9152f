// Lists, a page at a time: tags, repositories, referrers.
//
// A page ends with a Link to the next (specification: "Listing Tags"), and what is asked for
// bounds it only from above.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// linkNext sets the Link header to the page of path after last.
func linkNext(w http.ResponseWriter, path string, query url.Values) {
	w.Header().Set("Link", "<"+path+"?"+query.Encode()+`>; rel="next"`)
}

// listTags answers GET /v2/<name>/tags/list ("Listing tags").
func (s *server) listTags(w http.ResponseWriter, r *http.Request) error {
	name, query, n, err := nameAndPage(r)
	if err != nil {
		return err
	}
	return s.sendBuilt(w, r, s.building, "application/json", func() ([]byte, error) {
		tags, more, err := s.st.listTags(name, query.Get("last"), n)
		if err != nil {
			return nil, err
		}
		if more {
			linkNext(w, "/v2/"+name+"/tags/list", url.Values{"n": {strconv.Itoa(n)}, "last": {tags[n-1]}})
		}
		return json.Marshal(struct {
			Name string   `json:"name"`
			Tags []string `json:"tags"`
		}{name, tags})
	})
}

// listRepositories answers GET /v2/_catalog with what the caller may pull from.
func (s *server) listRepositories(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	n, err := pageSize(query)
	if err != nil {
		return err
	}
	c := w.(*response).caller
	return s.sendBuilt(w, r, s.building, "application/json", func() ([]byte, error) {
		names, more, err := s.st.listRepositories(query.Get("last"), n, c.sees)
		if err != nil {
			return nil, err
		}
		if more {
			linkNext(w, "/v2/_catalog", url.Values{"n": {strconv.Itoa(n)}, "last": {names[n-1]}})
		}
		return json.Marshal(struct {
			Repositories []string `json:"repositories"`
		}{names})
	})
}

// listReferrers answers GET /v2/<name>/referrers/<digest> ("Listing
// referrers"): an index of the manifests whose subject is the digest, which
// need not exist. Of several types asked for, as containerd does, it is any.
func (s *server) listReferrers(w http.ResponseWriter, r *http.Request) error {
	name, d, err := nameAndDigest(r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	n, err := pageSize(query)
	if err != nil {
		return err
	}
	var artifactTypes []string
	for _, t := range query["artifactType"] {
		if t != "" { // a + that was not escaped has become a space, which no media type has
			artifactTypes = append(artifactTypes, strings.ReplaceAll(t, " ", "+"))
		}
	}
	if artifactTypes != nil {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return s.sendBuilt(w, r, s.building, typeOCIIndex, func() ([]byte, error) {
		body, next, err := s.st.referrersPage(name, d, artifactTypes, digest.Digest(query.Get("last")), n)
		if next != "" {
			link := url.Values{"last": {next.String()}, "artifactType": artifactTypes}
			if n := query.Get("n"); n != "" {
				link.Set("n", n)
			}
			linkNext(w, "/v2/"+name+"/referrers/"+d.String(), link)
		}
		return body, err
	})
}

// maxReferrers is how many bytes a page of referrers has at most, unless it is of one,
// whose annotations may have nearly as many as a manifest.
const maxReferrers = 1 << 20

// referrersPage returns the index of at most n referrers of d after last, of some types, or of
// all if none is given, and the last of them if there are more.
func (st *store) referrersPage(name string, d digest.Digest, artifactTypes []string, last digest.Digest, n int) (page []byte, next digest.Digest, err error) {
	const (
		head = `{"schemaVersion":2,"mediaType":"` + typeOCIIndex + `","manifests":[`
		tail = `]}`
	)
	body := bytes.NewBufferString(head)
	count, more := 0, false
	err = st.eachReferrer(name, d, artifactTypes, last, func(f referrer) (bool, error) {
		entry, err := encodeReferrer(f)
		if err != nil || len(head)+len(entry)+len(tail) > maxManifest {
			// Its annotations have rotted, or are nearly as long as a manifest may be.
			f.Annotations = nil
			if entry, err = encodeReferrer(f); err != nil {
				return false, err
			}
		}
		if count == n || count > 0 && body.Len()+1+len(entry)+len(tail) > maxReferrers {
			more = n > 0
			return false, nil
		}
		if count > 0 {
			body.WriteByte(',')
		}
		body.Write(entry)
		count++
		last = f.Digest
		return true, nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("listing referrers: %w", err)
	}
	body.WriteString(tail)
	if more {
		next = last
	}
	return body.Bytes(), next, nil
}

// encodeReferrer leaves annotations as they were written: no HTML escapes,
// which would make them longer.
func encodeReferrer(f referrer) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(f)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
