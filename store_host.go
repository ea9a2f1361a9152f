// Who has the store open: a server, or a command.
//
// The store keeps the rules of what is stored; what depends on requests that are under way,
// on users and on rules it asks its host, and before there is one nobody.

package main

import "sync"

// A storeHost answers what the store cannot know. Its methods may be called from any goroutine
// and do not wait for the store, except for noteGuarded.
type storeHost interface {
	serves() bool                            // there may be clients
	busy() bool                              // there are requests under way
	everybodyMay() bool                      // anything: there are no users and no rules
	mayUpload(owner string) (may, sure bool) // there is still such an owner of uploads, and whether that is sure
	rulesNow() (*tagRules, error)            // about tags; never nil without an error
	guards() (map[string][]byte, error)      // the texts of users and rules that hold, by file; nil if the files tell
	noteGuarded() error                      // has the database say that there are users, if there are
	uploadEnded()                            // there may be room for another upload
	whereabouts() whereabouts                // where clients reach this registry
	reread() error                           // looks at the files of users and rules now; the error says what is wrong with them
	listeners() (*listeners, error)          // who is to get events; never nil without an error
}

// whereabouts are where clients reach a registry; the zero value if no server runs.
type whereabouts struct {
	Address string   `json:"address"` // HOST:PORT that it listens on
	TLS     bool     `json:"tls"`     // there
	Called  []string `json:"called"`  // by flags: HOST or HOST:PORT, the best first

	Authority    bool `json:"authority,omitempty"`    // clients are to trust the local CA
	Certificates bool `json:"certificates,omitempty"` // of clients are believed
}

// A commandHost is the host of a store that nobody serves: there are no clients, and the rules
// are what the files say.
type commandHost struct {
	rules  func() (*tagRules, error)
	events func() (*listeners, error)
}

// newCommandHost returns a host that reads rules when they are asked for, once; nil for none.
func newCommandHost(rules func() (*tagRules, error)) *commandHost {
	if rules == nil {
		rules = func() (*tagRules, error) { return &tagRules{}, nil }
	}
	return &commandHost{sync.OnceValues(rules), func() (*listeners, error) { return &listeners{}, nil }}
}

func (h *commandHost) serves() bool                       { return false }
func (h *commandHost) busy() bool                         { return false }
func (h *commandHost) everybodyMay() bool                 { return false }
func (h *commandHost) mayUpload(string) (may, sure bool)  { return true, true }
func (h *commandHost) rulesNow() (*tagRules, error)       { return h.rules() }
func (h *commandHost) guards() (map[string][]byte, error) { return nil, nil }
func (h *commandHost) noteGuarded() error                 { return nil }
func (h *commandHost) uploadEnded()                       {}
func (h *commandHost) whereabouts() whereabouts           { return whereabouts{} }
func (h *commandHost) reread() error                      { return nil }
func (h *commandHost) listeners() (*listeners, error)     { return h.events() }

// attend makes h the host. It is called before any request and any loop.
func (st *store) attend(h storeHost) { st.host = h }
