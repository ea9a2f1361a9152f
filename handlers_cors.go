// Pages of other sites that show this registry (Fetch Standard, "CORS protocol").
//
// Browsers let a page read the answers of another site only if that names the page.
// None is named unless the flag --cors-origins does. A page that it names may do what
// its user may, with the password that the browser remembers, too. "*" names all, for
// what everybody may read, without anybody's password.

package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// pages are the origins of those that may read answers.
type pages []string

// parsePages reads origins, as https://ui.example.org, with commas between.
func parsePages(text string) (list pages, err error) {
	for _, word := range splitList(text) {
		u, err := url.Parse(strings.TrimSuffix(word, "/"))
		switch {
		case word == "*":
			list = append(list, word)
			continue
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || !hostForm().MatchString(u.Host):
			return nil, fmt.Errorf("%q is neither an origin, such as https://ui.example.org, nor *", word)
		case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
			return nil, fmt.Errorf("%q is more than an origin: leave it at %s://%s", word, u.Scheme, u.Host)
		}
		// As browsers write it: in lower case, without the port that the scheme has.
		host := strings.ToLower(u.Host)
		host = strings.TrimSuffix(host, map[string]string{"http": ":80", "https": ":443"}[u.Scheme])
		list = append(list, u.Scheme+"://"+host)
	}
	if len(list) > 1 && slices.Contains(list, "*") {
		return nil, errors.New("* already means all pages: name nothing beside it")
	}
	return list, nil
}

// name reports whether a page is in the list by its name, not as one of all.
func (list pages) name(page string) bool { return page != "*" && slices.Contains(list, page) }

const (
	// Those that registries give a meaning to, beside those that pages may always
	// send and read.
	corsRequest = "Accept, Authorization, Cache-Control, Content-Range, Content-Type, If-None-Match, Range"
	corsAnswer  = "Accept-Ranges, Content-Range, Docker-Content-Digest, Docker-Distribution-Api-Version, Docker-Upload-UUID, ETag, Link, Location, " +
		"OCI-Filters-Applied, OCI-Subject, OCI-Tag, Range, Retry-After, WWW-Authenticate, X-Request-Id"
)

// forPages tells browsers which pages may read answers, and what they may ask for.
func (s *server) forPages(next http.Handler) http.Handler {
	if len(s.gate.pages) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Add("Vary", "Origin")
		page := r.Header.Get("Origin")
		named := s.gate.pages.name(page)
		if page != "" && (named || slices.Contains(s.gate.pages, "*")) {
			methods := "GET, HEAD"
			if named {
				methods = "GET, HEAD, POST, PUT, PATCH, DELETE"
				h.Set("Access-Control-Allow-Origin", page)
				h.Set("Access-Control-Allow-Credentials", "true")
			} else {
				h.Set("Access-Control-Allow-Origin", "*")
			}
			h.Set("Access-Control-Expose-Headers", corsAnswer)
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
				h.Set("Access-Control-Allow-Methods", methods)
				h.Set("Access-Control-Allow-Headers", corsRequest)
				h.Set("Access-Control-Max-Age", "600")
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
