// `berth policy check`: who may do what, and by which rule (auth_policy.go).
//
// It works on the files alone, so that rules can be tried before a server reads them.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// actionRights are the actions alone. What one brings along is not asked for: who may push
// may pull too.
var actionRights = map[string]rights{"pull": mayPull, "push": mayPush, "overwrite": mayOverwrite,
	"delete": mayDelete, "metrics": mayMetrics, "admin": mayAdmin}

// checkPolicyCommand refuses what is none of the forms of `berth policy`.
func checkPolicyCommand(cfg *config) error {
	if cfg.Args[0] != "check" || len(cfg.Args) != 1 && len(cfg.Args) != 4 {
		return errors.New("policy: say check, or check WHO ACTION REPOSITORY, as in berth policy check kim push home/app")
	}
	if len(cfg.Args) == 1 && cfg.Group != "" {
		return errors.New("--group: name the person, as in berth policy check ldap:ann push home/app --group developers")
	}
	if len(cfg.Args) == 1 {
		return nil
	}
	action, repository := cfg.Args[2], cfg.Args[3]
	if _, ok := actionRights[action]; !ok {
		return fmt.Errorf("%q is not an action; use %s", action, strings.Join(actionNames, ", "))
	}
	if repository == "**" {
		return nil
	}
	if _, err := parseName(repository); err != nil {
		if first, _, more := strings.Cut(repository, "/"); more && strings.Contains(first, ":") {
			return fmt.Errorf("%q: give the name without the host", repository)
		}
		if name, ref, err := parseArgument(repository); err == nil && ref != (reference{}) {
			return fmt.Errorf("%q: rules are about repositories; give the name alone: %s", repository, name)
		}
		if lower := lowerName(repository); lower != "" {
			return fmt.Errorf("%q: the names of repositories are in lower case: %s", repository, lower)
		}
		return fmt.Errorf("%q is not a repository's name (\"**\" is the registry as a whole)", repository)
	}
	return nil
}

// policyCommand is `berth policy check`, which prints the rules or explains a
// decision. It works on the files, whether there is a server or not.
func policyCommand(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	var err error
	if cfg.auth, err = cfg.recallFiles(); err != nil {
		return err
	}
	path := cfg.auth.policyPath(cfg.dir)
	if err := cfg.refuseNowhere(path, cfg.auth.usersPath(cfg.dir)); err != nil {
		return err
	}
	p := defaultPolicy()
	text, _, err := readFile(path)
	switch {
	case err == nil:
		if p, err = parsePolicy(text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	case !errors.Is(err, fs.ErrNotExist) || cfg.auth.policyFile != "":
		return err
	}
	guarded := err == nil && p.people || cfg.auth.anonymousPull || cfg.auth.byCertificate
	var list users // nil if they are not all that rules can name
	var odd []string
	if !guarded || len(cfg.Args) == 1 {
		text, _, err := readFile(cfg.auth.usersPath(cfg.dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("reading the users: %w", err)
		}
		if guarded = guarded || err == nil; err == nil {
			all, _ := parseUsers(text)
			if odd = all.odd(); !cfg.auth.byCertificate {
				list = all
			}
		}
	}
	login, err := cfg.readLogin()
	if err != nil {
		return err
	}
	guarded = guarded || login != nil
	warnings := p.doubts(list, cfg.auth.usersPath(cfg.dir)) // of the file, not of flags
	if cfg.auth.anonymousPull {
		p = p.withAnonymousPull()
	}
	if !guarded {
		cfg.console(stdout).printf("This registry is open: there are no users and no rules for them, and everybody may do everything.\n")
		if len(cfg.Args) == 1 {
			cfg.console(stdout).lines("", p.tags.lines()...)
		}
		return nil
	}
	if len(cfg.Args) == 1 {
		cfg.console(stdout).lines("", p.lines()...)
		if !p.hasAdministrator() {
			cfg.console(stdout).lines("", errNoAdministrator.Error())
		}
		for _, line := range odd {
			cfg.console(stdout).lines("", "warning: "+line+": "+removeOdd(cfg.auth.usersPath(cfg.dir)))
		}
		for _, line := range warnings {
			cfg.console(stdout).lines("", "warning: "+line)
		}
		return nil
	}
	return p.tell(cfg, cfg.Args[1], cfg.Args[2], cfg.Args[3], stdout)
}

// tell says whether somebody may do something to a repository, and why. The error is errNo
// if not.
func (p *policy) tell(cfg *config, who, action, repository string, stdout io.Writer) error {
	what := actionRights[action]
	name := repository
	if name == "**" {
		name = "" // the registry as a whole
	}
	var because []string
	var subject person
	robotName, isRobot := strings.CutPrefix(who, "token:")
	switch {
	case isRobot:
		b, err := findRobot(cfg.dir, robotName)
		if err != nil {
			return err
		}
		if b.owner != "" {
			login, err := cfg.readLogin()
			if err != nil {
				return err
			}
			if !b.expired(time.Now()) && login.has(fromOIDC) && login.oidc.Issuer == b.issuer {
				subject = b.person(login)
			}
		} else if !b.expired(time.Now()) && b.repositories.has(name) && b.allow&what != 0 {
			because = append(because, fmt.Sprintf("token %s: it may %s in %s", b.name, strings.Join(b.allow.allWords(), ", "), strings.Join(b.repositories.text, ", ")))
		}
	case who == "anonymous":
	default:
		var err error
		if subject, err = p.findPerson(cfg, who); err != nil {
			return err
		}
	}
	for _, r := range p.explain(subject, what, name) {
		because = append(because, r.String())
	}
	if because == nil {
		fmt.Fprintf(stdout, "no: %s may not %s %s; no rule allows it\n", who, action, repository)
		return errNo
	}
	fmt.Fprintf(stdout, "yes: %s may %s %s\n", who, action, repository)
	for _, why := range because {
		fmt.Fprintln(stdout, "  by", why)
	}
	for _, r := range p.tags.immutable { // of which the rules for people say nothing
		if what&(mayOverwrite|mayDelete) != 0 && r.repositories.has(name) {
			fmt.Fprintf(stdout, "  but not tags that are immutable, by the rule %s\n", r)
		}
	}
	return nil
}

// findPerson is the user, or the person of a directory or a provider, that who names.
func (p *policy) findPerson(cfg *config, who string) (subject person, err error) {
	subject.user = who
	origin, whole, theirs, err := parsePerson(who)
	if err != nil {
		return subject, err
	}
	if whole {
		return subject, usageErrorf("%s: name one person, as in %s:ann", who, origin)
	}
	if theirs {
		subject.groups, err = groupsFor(origin, cfg.Group)
		return subject, err
	}
	if cfg.Group != "" {
		return subject, usageErrorf("--group is for people of a directory or a provider, as in ldap:ann; the groups of %s are in %s", who, policyFile)
	}
	if cfg.auth.byCertificate {
		return subject, nil
	}
	text, _, err := readFile(cfg.auth.usersPath(cfg.dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return subject, fmt.Errorf("reading the users: %w", err)
	}
	if list, _ := parseUsers(text); err == nil && list[who] == "" {
		return subject, p.nobody(cfg, who)
	}
	return subject, nil
}

// nobody is the error for who is not a user: a token or a group may have been meant.
func (p *policy) nobody(cfg *config, who string) error {
	args := strings.Join(cfg.Args[2:], " ")
	if members, ok := p.groups[strings.TrimPrefix(who, "group:")]; ok {
		return fmt.Errorf("%s is a group (%s): name one of its users", who, strings.Join(members, ", "))
	}
	if b, err := findRobot(cfg.dir, who); err == nil {
		return fmt.Errorf("there is no user %s, but a token: berth policy check token:%s %s", who, b.name, args)
	}
	if checkUserName(who) != nil {
		return absentErrorf("there is no user, group or token %s", who)
	}
	return absentErrorf("there is no user %s in %s, nor a group or a token of that name; `berth user add %[1]s` makes a user", who, cfg.auth.usersPath(cfg.dir))
}

// groupsFor reads --group, the groups that somebody from an origin is said to be in.
func groupsFor(origin, text string) (list []string, err error) {
	for _, name := range splitList(text) {
		name = strings.TrimPrefix(strings.TrimPrefix(name, "group:"), origin+":")
		if !isGroupName(name) {
			return nil, usageErrorf("--group: %q is not a group of %s, such as developers", name, loginFile)
		}
		list = append(list, "group:"+origin+":"+name)
	}
	return list, nil
}

// readLogin is what login.toml says, nil if there is none.
func (cfg *config) readLogin() (*loginConfig, error) {
	path := filepath.Join(cfg.dir, loginFile)
	text, _, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	login, err := parseLogin(text, cfg.dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return login, nil
}

// findRobot reads about a robot token in the database.
func findRobot(dir, name string) (*robot, error) {
	path := filepath.Join(dir, "berth.db")
	if info, err := os.Stat(path); err != nil {
		return nil, noRegistry(dir, err)
	} else if info.Size() == 0 {
		return nil, fmt.Errorf("%s is empty; start berth on it, which says what to do", path)
	}
	list, err := readRobots(path)
	if err != nil {
		return nil, err
	}
	for _, b := range list {
		if b.name == name || b.id == name {
			return b, nil
		}
	}
	return nil, noToken(name)
}
