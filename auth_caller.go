// Callers: who a request is from, and what they may do.
//
// A caller is a user, somebody whom others know, a robot, the subject of a client certificate, or anonymous. A token of the
// Docker flow stands for one of them and for less than all they may.

package main

import (
	"cmp"
	"strings"
)

// A caller is who makes a request.
type caller struct {
	person
	view        *view // nil if the registry is open
	certificate bool  // the person is known by a client certificate
	command     bool  // the person has given a command on this machine
	robot       *robot
	scoped      bool    // a token of the Docker flow stands for the caller,
	access      []grant // and for this much
}

// anyone is the caller of an open registry.
var anyone = &caller{}

// id names who the caller is, beyond this request; "" for anonymous.
func (c *caller) id() string {
	switch {
	case c.robot != nil:
		return "token:" + c.robot.id
	case c.certificate:
		return "certificate:" + c.user
	case c.command:
		return commandOwner + c.user
	case strings.Contains(c.user, ":"):
		return c.user // a directory's, as ldap:ann
	case c.user != "":
		return "user:" + c.user
	}
	return ""
}

// commandOwner begins the id of who has given a command.
const commandOwner = "command:"

// known reports whether the request brought something that says who makes it.
func (c *caller) known() bool { return c.scoped || c.id() != "" }

// label names the caller for people.
func (c *caller) label() string {
	if c.robot != nil && c.robot.owner == "" {
		return "token:" + c.robot.name // which is no user's name
	}
	return cmp.Or(c.user, "anonymous")
}

// secret is what the caller is known by, as far as it may change.
func (c *caller) secret() string {
	if c.view == nil || c.robot != nil || c.certificate {
		return ""
	}
	if strings.HasPrefix(c.user, fromLDAP+":") {
		if !c.view.login.has(fromLDAP) {
			return ""
		}
		return "ldap:" + c.view.login.ldap.mark
	}
	return c.view.users[c.user]
}

// own is what the caller may do to a repository, whatever stands for it.
func (c *caller) own(repository string) rights {
	if c.view == nil {
		return allRights
	}
	r := c.view.policy.rights(c.person, repository)
	if c.robot != nil && c.robot.repositories.has(repository) {
		r |= c.robot.allow
	}
	return r
}

// may is what this request may do to a repository. What anonymous may needs no
// scope.
func (c *caller) may(repository string) rights {
	r := c.own(repository)
	if !c.scoped || c.view == nil {
		return r
	}
	return r&granted(c.access, repository) | c.view.policy.rights(person{}, repository)
}

// mayList reports whether the caller may list repositories: those it may pull from.
func (c *caller) mayList() bool {
	return c.view == nil || c.view.policy.mayAnywhere(c.person, mayPull) || c.robot != nil && c.robot.allow&mayPull != 0
}

// sees reports whether a repository is in lists for the caller. A token without
// the scope for lists sees what everybody does.
func (c *caller) sees(name string) bool {
	if c.scoped && c.view != nil && !grantedCatalog(c.access) {
		return c.view.policy.rights(person{}, name)&mayPull != 0
	}
	return c.own(name)&mayPull != 0
}
