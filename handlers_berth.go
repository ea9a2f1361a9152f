// The endpoints that the protocol has nothing for: deleting a repository, its history, undo,
// and what retention would do.
//
// They are below /v2/<name>/_berth/, since no repository's name can have a component that begins
// with _.

package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

// author is who makes a request, with what he may do to tags of a repository.
func (w *response) author(repository string) author {
	by := w.requester()
	by.overwrite = w.caller.may(repository)&mayOverwrite != 0
	return by
}

// requester is who makes a request.
func (w *response) requester() author {
	if w.caller.command {
		return author{who: w.caller.label()}
	}
	client, _, err := net.SplitHostPort(w.origin.client)
	if err != nil {
		client = w.origin.client // as a proxy tells it
	}
	by := author{who: w.caller.label(), client: client}
	agent := w.request.UserAgent()
	by.request = requestRecord{w.id, shorten(w.origin.client), w.origin.host[:min(len(w.origin.host), maxHost)], method(w.request), agent[:min(len(agent), maxAgent)]}
	by.url, _ = w.origin.url() // without it events have no address
	return by
}

// maxAgent is how much of what a client calls itself events have, in bytes.
const maxAgent = 128

// deleteRepository removes a whole repository at once: DELETE
// /v2/<name>/_berth/repository.
func (s *server) deleteRepository(w http.ResponseWriter, r *http.Request) error {
	name, err := parseName(r.PathValue("name"))
	if err != nil {
		return err
	}
	if _, err := s.st.removeOne(named{repository: name}, w.(*response).author(name)); err != nil {
		return err
	}
	s.audit(w, "delete", "repository", name)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// getRetention says what the rules of retention would do in a repository: GET
// /v2/<name>/_berth/retention.
func (s *server) getRetention(w http.ResponseWriter, r *http.Request) error {
	name, err := parseName(r.PathValue("name"))
	if err != nil {
		return err
	}
	return s.sendBuilt(w, r, s.planning, "application/json", func() ([]byte, error) {
		list, err := s.st.retainer.explainRetention(r.Context(), name)
		if err != nil {
			return nil, err
		}
		return json.Marshal(list[0])
	})
}

// getHistory says what was done to a repository, the last first: GET
// /v2/<name>/_berth/history. tag asks for one tag only, n for so many; a Link header
// leads to the rest.
func (s *server) getHistory(w http.ResponseWriter, r *http.Request) error {
	name, query, n, err := nameAndPage(r)
	if err != nil {
		return err
	}
	tag := query.Get("tag")
	if tag != "" {
		if _, err := parseTag(tag); err != nil {
			return err
		}
	}
	after, err := parseCursor(query.Get("last"))
	if err != nil {
		return err
	}
	n = min(n, maxHistoryPage)
	return s.sendBuilt(w, r, s.building, "application/json", func() ([]byte, error) {
		list, err := s.st.history(name, tag, after, n+1)
		if err != nil {
			return nil, err
		}
		if len(list) > n {
			list = list[:n]
			if n > 0 {
				last := list[n-1]
				next := url.Values{"n": {strconv.Itoa(n)}, "last": {cursor{last.change, last.n}.String()}}
				if tag != "" {
					next.Set("tag", tag)
				}
				linkNext(w, "/v2/"+name+"/_berth/history", next)
			}
		}
		entries := make([]historyEntry, len(list))
		for i, x := range list {
			entries[i] = x.entry()
		}
		return json.Marshal(map[string]any{"name": name, "history": entries})
	})
}

// maxHistoryPage is how many steps a page has at most: each may have some hundred bytes.
const maxHistoryPage = 1000

// postUndo undoes a change of a repository: POST
// /v2/<name>/_berth/undo?change=<number>. A repository comes back under another name
// by as=.
func (s *server) postUndo(w http.ResponseWriter, r *http.Request) error {
	name, err := parseName(r.PathValue("name"))
	if err != nil {
		return err
	}
	query := r.URL.Query()
	number, err := strconv.ParseInt(query.Get("change"), 10, 64)
	if err != nil {
		return errQueryInvalid.saying("change must be the number of a change, not %.40q", query.Get("change"))
	}
	resp := w.(*response)
	as := query.Get("as")
	if as != "" {
		if _, err := parseName(as); err != nil {
			return err
		}
		if resp.caller.may(as)&mayPush == 0 {
			return errDenied.saying("%s may not push to %s", resp.caller.label(), as)
		}
	}
	is, err := s.st.isChangeOf(number, name)
	if err != nil {
		return err
	}
	if !is {
		return errChangeUnknown.saying("there is no change %d of %s", number, name)
	}
	did, by, err := s.st.undo(number, "", as, resp.author(name))
	if err != nil {
		return err
	}
	s.audit(w, "undone", "repository", name, "change", number)
	return writeJSON(w, undone{number, by, doneSteps(did)})
}

// undone is what an undoing has done, as clients get it.
type undone struct {
	Change int64      `json:"change"`
	By     int64      `json:"by"` // the change that this was, to be undone if it was a mistake
	Did    []doneStep `json:"did"`
}

type doneStep struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`
	Old        string `json:"old,omitempty"`
	New        string `json:"new,omitempty"`
}

func doneSteps(steps []step) []doneStep {
	list := []doneStep{}
	for _, s := range steps {
		list = append(list, doneStep{s.repository, s.tag, s.old, s.new})
	}
	return list
}
