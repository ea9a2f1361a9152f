// People of a directory: LDAP (RFC 4511), asked when somebody logs in.
//
// Berth looks for the entry of the user's name, by an account of its own or by none, and then
// binds as that entry with the password; or it binds at once, as the entry that a template
// names. The person is called what the entry says, in small letters, not what was typed: one
// entry is one person, however many ways there are to write its name.
//
// What was right is believed for rememberRight, so that a disabled account ends soon, and a
// directory that is down keeps out nobody who was here a moment ago. What was wrong is believed
// longer: a machine with an old password must not lock an account by trying again and again.
// An empty password is never sent, for a directory takes it for nobody's and says yes (RFC 4513,
// section 5.1.2).
//
// A connection is made for a login and closed after it. A few logins are asked for at once, and
// none for a while after the directory could not be.

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

const (
	// rememberRight is how long a password of the directory that was right stays so.
	rememberRight = 5 * time.Minute
	// rememberWrong is how long one that was wrong is not tried again. Directories lock an
	// account after some wrong ones in, as a rule, half an hour or less.
	rememberWrong = 15 * time.Minute
	// maxAsking bounds the logins that the directory is asked for at once.
	maxAsking = 4
	// dialTimeout and askTimeout are for the connection, and for all of a login. Docker gives
	// up after 15 seconds.
	dialTimeout = 4 * time.Second
	askTimeout  = 10 * time.Second
	// maxLDAPAnswer bounds what is read of the answer to one question, in bytes: of all its messages.
	maxLDAPAnswer = 1 << 20
	// maxNested and maxFound bound the groups of groups that are asked for.
	maxNested = 8
	maxFound  = 500
	// maxDirectoryPassword bounds a password that is sent, in bytes.
	maxDirectoryPassword = 1 << 10
)

// An ldapConfig is [ldap] of login.toml.
type ldapConfig struct {
	URL          string `toml:"url"`
	StartTLS     *bool  `toml:"start-tls"` // for ldap://; nil for yes
	CAFile       string `toml:"ca-file"`
	BindDN       string `toml:"bind-dn"`
	PasswordFile string `toml:"bind-password-file"`
	UserDN       string `toml:"user-dn"` // a template with {user}; "" to search
	Base         string `toml:"base"`
	Name         string `toml:"name"` // the attribute that names people
	Filter       string `toml:"filter"`
	GroupBase    string `toml:"group-base"`
	GroupFilter  string `toml:"group-filter"` // "" for the attribute memberOf
	Nested       bool   `toml:"nested-groups"`

	Groups map[string]string `toml:"groups"` // their DNs, by the names that rules have

	mark string
	host string // HOST:PORT
	name string // of the host, in its certificate
	ldap bool   // without TLS from the beginning
	dns  map[string]*ldap.DN
}

// complete checks what was read, and works out the rest.
func (c *ldapConfig) complete(dir string) error {
	c.CAFile, c.PasswordFile = within(dir, c.CAFile), within(dir, c.PasswordFile)
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "ldap" && u.Scheme != "ldaps" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return errors.New("url: use for example ldaps://ldap.example.org or ldap://ldap.example.org")
	}
	port := map[string]string{"ldap": "389", "ldaps": "636"}[u.Scheme]
	if u.Port() != "" {
		port = u.Port()
	}
	if c.Name == "" {
		c.Name = "uid"
	}
	if !attributeForm(c.Name) {
		return fmt.Errorf("name: %q is not an attribute such as uid", c.Name)
	}
	if c.Filter == "" {
		c.Filter = "(" + c.Name + "={user})"
	}
	if c.GroupBase == "" {
		c.GroupBase = c.Base
	}
	if err := c.check(); err != nil {
		return err
	}
	c.mark = markOf(*c)
	if c.StartTLS == nil {
		c.StartTLS = new(u.Scheme == "ldap")
	}
	c.host, c.name, c.ldap = net.JoinHostPort(u.Hostname(), port), u.Hostname(), u.Scheme == "ldap"
	if !c.ldap && *c.StartTLS {
		return errors.New("start-tls is for ldap://; ldaps:// has TLS from the beginning")
	}
	return nil
}

// check refuses what the directory could not be asked with.
func (c *ldapConfig) check() error {
	for key, dn := range map[string]string{"base": c.Base, "group-base": c.GroupBase, "bind-dn": c.BindDN, "user-dn": strings.ReplaceAll(c.UserDN, "{user}", "x")} {
		if _, err := ldap.ParseDN(dn); err != nil {
			return fmt.Errorf("%s: %q is not a DN, such as ou=people,dc=example,dc=org", key, dn)
		}
	}
	for key, filter := range map[string]string{"filter": c.Filter, "group-filter": c.GroupFilter} {
		if _, err := ldap.CompileFilter(fillIn(filter, "user", "x", "dn", "x")); filter != "" && err != nil {
			return fmt.Errorf("%s: %q is not a filter, such as (uid={user})", key, filter)
		}
	}
	switch {
	case c.UserDN == "" && c.Base == "":
		return errors.New("say with base where people are, or with user-dn what their DNs look like")
	case c.UserDN != "" && (strings.Count(c.UserDN, "{user}") != 1 || c.BindDN != ""):
		return errors.New("user-dn: write {user} once in it, for the name, and leave out bind-dn")
	case c.UserDN == "" && !strings.Contains(c.Filter, "{user}"):
		return errors.New("filter: write {user} in it, for the name that somebody logs in with")
	case (c.BindDN == "") != (c.PasswordFile == ""):
		return errors.New("bind-dn and bind-password-file: give both, or neither")
	case c.GroupFilter != "" && !strings.Contains(c.GroupFilter, "{user}") && !strings.Contains(c.GroupFilter, "{dn}"):
		return errors.New("group-filter: write {dn} or {user} in it, for the person")
	case c.Nested && !strings.Contains(c.GroupFilter, "{dn}"):
		return errors.New("nested-groups: this needs a group-filter with {dn}, such as (member={dn})")
	}
	if err := checkGroups(c.Groups); err != nil {
		return err
	}
	c.dns = make(map[string]*ldap.DN)
	for name, text := range c.Groups {
		dn, err := ldap.ParseDN(text)
		if err != nil || len(dn.RDNs) == 0 {
			return fmt.Errorf("group %s: %q is not a DN, such as cn=developers,ou=groups,dc=example,dc=org", name, text)
		}
		c.dns[text] = dn
	}
	return nil
}

// attributeForm reports whether a text is the name of an attribute (RFC 4512, section 1.4).
func attributeForm(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(c rune) bool {
		return c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	})
}

// fillIn puts values in the places of a template, each written {key}. One that a value has is
// no place.
func fillIn(template string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		pairs[i] = "{" + pairs[i] + "}"
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

var (
	// errNotTheirs is a name or a password that the directory does not take.
	errNotTheirs = errors.New("wrong user or password")
	// errUnusable is an entry whose password is right, and that nobody can be.
	errUnusable = errors.New("the entry cannot be used")
	// errOwnAccount is that the directory does not take the account that searches.
	errOwnAccount = errors.New("the directory does not take the account of bind-dn")
	// errLongAnswer is an answer of more than maxLDAPAnswer.
	errLongAnswer = errors.New("the answer of the directory is too long")
)

// An answerLimit is a connection on which an answer, which is all that comes until more is asked, has a bounded length.
type answerLimit struct {
	net.Conn
	left atomic.Int64
	long atomic.Bool // one was too long
}

func (c *answerLimit) Write(b []byte) (int, error) {
	c.left.Store(maxLDAPAnswer)
	return c.Conn.Write(b)
}

func (c *answerLimit) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.left.Add(-int64(n)) < 0 {
		c.long.Store(true)
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// A directory asks for people. Its methods may be called from any goroutine.
type directory struct {
	log    *slog.Logger
	now    func() time.Duration
	asking chan struct{} // full while as many logins as may be are asked for

	mu    sync.Mutex // guards the rest
	down  bool       // the last question was not answered
	since time.Duration
}

func newDirectory(log *slog.Logger, now func() time.Duration) *directory {
	return &directory{log: log, now: now, asking: make(chan struct{}, maxAsking)}
}

// limitMessages bounds one message: the library makes room for all of it when it begins.
var limitMessages = sync.OnceFunc(func() { ber.MaxPacketLengthBytes = maxLDAPAnswer })

// ask returns who has a name, in small letters, and a password. The error is errNotTheirs if nobody has, and
// errDirectoryDown if the directory does not say; the log tells why, once.
func (d *directory) ask(c *ldapConfig, user, password string) (person, error) {
	if password == "" || len(password) > maxDirectoryPassword || checkPersonName(user) != nil {
		return person{}, errNotTheirs
	}
	d.mu.Lock()
	rests := d.down && d.now()-d.since < askEvery
	d.mu.Unlock()
	if rests {
		return person{}, errDirectoryDown
	}
	limitMessages()
	who, err := c.ask(user, password)
	if errors.Is(err, errUnusable) {
		d.log.Warn("somebody whose password is right cannot log in", "name", user, "error", err)
		err = errNotTheirs
	}
	answered := err == nil || errors.Is(err, errNotTheirs)
	down := !answered && isDown(err)
	d.mu.Lock()
	before := d.down
	d.down, d.since = down, d.now()
	d.mu.Unlock()
	switch {
	case !down && before:
		d.log.Info("the directory answers again", "url", c.URL)
	case down && !before:
		d.log.Error("the directory cannot be asked, so its people cannot log in; local users and tokens are not affected, and who has logged in a moment ago is still known",
			"url", c.URL, "error", err)
	}
	if !answered && !down {
		d.log.Warn("the directory does not say whether a password is right", "name", user, "url", c.URL, "error", err)
	}
	if !answered {
		err = errDirectoryDown.because(err)
	}
	return who, err
}

// isDown reports whether there is no use in asking the directory for anybody else now. A code that it answers about one
// person does not say so, whatever it means.
func isDown(err error) bool {
	var e *ldap.Error
	switch {
	case errors.Is(err, errLongAnswer):
		return false
	case errors.Is(err, errOwnAccount) || !errors.As(err, &e):
		return true
	}
	own := e.ResultCode >= ldap.ErrorNetwork && e.ResultCode <= ldap.ErrorEmptyPassword // the library's codes, for no answer
	return own || e.ResultCode == ldap.LDAPResultBusy || e.ResultCode == ldap.LDAPResultUnavailable
}

// ask is directory.ask without what is remembered.
func (c *ldapConfig) ask(user, password string) (person, error) {
	conn, limit, err := c.connect()
	if err != nil {
		return person{}, err
	}
	defer conn.Close()
	who, err := c.askOver(conn, user, password)
	if err != nil && (limit.long.Load() || strings.Contains(err.Error(), "greater than maximum")) { // the words of the library about one message
		err = fmt.Errorf("%w: more than %s (%w)", errLongAnswer, formatSize(maxLDAPAnswer), err)
	}
	return who, err
}

func (c *ldapConfig) askOver(conn *ldap.Conn, user, password string) (person, error) {
	var entry *ldap.Entry
	var err error
	if c.UserDN != "" {
		entry, err = c.bindFirst(conn, user, password)
	} else {
		entry, err = c.searchFirst(conn, user, password)
	}
	if err != nil {
		return person{}, err
	}
	name, err := c.nameOf(entry)
	if err != nil {
		return person{}, err
	}
	who, err := personOf(fromLDAP, name)
	if err != nil {
		return person{}, fmt.Errorf("%w: %w", errUnusable, err)
	}
	who.groups, err = c.groupsOf(conn, entry, name)
	return who, err
}

// connect opens a connection, which ends by itself after askTimeout, and returns also its limit.
func (c *ldapConfig) connect() (*ldap.Conn, *answerLimit, error) {
	pool, err := readCAs(c.CAFile)
	if err != nil {
		return nil, nil, err
	}
	security := &tls.Config{ServerName: c.name, RootCAs: pool, MinVersion: tls.VersionTLS12}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	plain, err := dialer.Dial("tcp", c.host)
	if err != nil {
		return nil, nil, err
	}
	plain.SetDeadline(time.Now().Add(askTimeout))
	limit := &answerLimit{Conn: plain}
	var raw net.Conn = limit
	if !c.ldap {
		secured := tls.Client(limit, security)
		if err := secured.Handshake(); err != nil {
			plain.Close()
			return nil, nil, fmt.Errorf("TLS: %w", err)
		}
		raw = secured
	}
	conn := ldap.NewConn(raw, !c.ldap)
	conn.SetTimeout(askTimeout)
	conn.Start()
	if *c.StartTLS {
		if err := conn.StartTLS(security); err != nil {
			conn.Close()
			return nil, nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	return conn, limit, nil
}

// bindFirst finds an entry by binding as it.
func (c *ldapConfig) bindFirst(conn *ldap.Conn, user, password string) (*ldap.Entry, error) {
	dn := fillIn(c.UserDN, "user", ldap.EscapeDN(user))
	if err := bindAs(conn, dn, password); err != nil {
		return nil, err
	}
	// The filter may keep people out; without one of the administrator's it holds for the entry.
	return c.find(conn, dn, ldap.ScopeBaseObject, user)
}

// searchFirst finds an entry, and then binds as it.
func (c *ldapConfig) searchFirst(conn *ldap.Conn, user, password string) (*ldap.Entry, error) {
	if err := c.bindSelf(conn); err != nil {
		return nil, err
	}
	entry, err := c.find(conn, c.Base, ldap.ScopeWholeSubtree, user)
	if err != nil {
		return nil, err
	}
	if entry.DN == "" {
		return nil, errNotTheirs
	}
	return entry, bindAs(conn, entry.DN, password)
}

// bindSelf binds as the account that searches, if there is one.
func (c *ldapConfig) bindSelf(conn *ldap.Conn) error {
	if c.BindDN == "" {
		return nil
	}
	secret, err := readSecret(c.PasswordFile)
	if err != nil {
		return err
	}
	if err := conn.Bind(c.BindDN, secret); err != nil {
		return fmt.Errorf("%w, %s: %w", errOwnAccount, c.BindDN, err)
	}
	return nil
}

// bindAs binds with a password that a person typed, which is not "".
func bindAs(conn *ldap.Conn, dn, password string) error {
	err := conn.Bind(dn, password)
	if ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax,
		ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultConstraintViolation,
		ldap.LDAPResultInsufficientAccessRights) {
		return fmt.Errorf("%w: %w", errNotTheirs, err)
	}
	return err
}

// find returns the one entry that the filter finds for a name.
func (c *ldapConfig) find(conn *ldap.Conn, base string, scope int, user string) (*ldap.Entry, error) {
	filter := fillIn(c.Filter, "user", ldap.EscapeFilter(user))
	found, err := conn.Search(ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, 2, int(askTimeout/time.Second), false,
		filter, []string{c.Name, "memberOf"}, nil))
	if ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) || scope == ldap.ScopeBaseObject && ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		return nil, errNotTheirs
	}
	if err != nil {
		return nil, fmt.Errorf("searching %s: %w", base, err)
	}
	if len(found.Entries) != 1 { // of several nobody knows whose password it should be
		return nil, errNotTheirs
	}
	return found.Entries[0], nil
}

// nameOf is what an entry calls its person. Of several values it is the one in the DN.
func (c *ldapConfig) nameOf(entry *ldap.Entry) (string, error) {
	values := entry.GetEqualFoldAttributeValues(c.Name)
	if len(values) > 1 {
		dn, err := ldap.ParseDN(entry.DN)
		if err != nil || len(dn.RDNs) == 0 {
			return "", fmt.Errorf("%w: its DN cannot be read", errUnusable)
		}
		values = nil
		for _, a := range dn.RDNs[0].Attributes {
			if strings.EqualFold(a.Type, c.Name) {
				values = append(values, a.Value)
			}
		}
	}
	if len(values) != 1 {
		return "", fmt.Errorf("%w: it has not one value of %s that could be its name, or that may not be read", errUnusable, c.Name)
	}
	return values[0], nil
}

// groupsOf returns the groups of login.toml that a person is in.
func (c *ldapConfig) groupsOf(conn *ldap.Conn, entry *ldap.Entry, name string) ([]string, error) {
	if len(c.Groups) == 0 {
		return nil, nil
	}
	in := entry.GetEqualFoldAttributeValues("memberOf") // which OpenLDAP gives only to who asks for it by name
	if c.GroupFilter != "" {
		if c.UserDN == "" {
			if err := c.bindSelf(conn); err != nil { // who logs in may not be allowed to look
				return nil, err
			}
		}
		var err error
		if in, err = c.searchGroups(conn, entry.DN, name); err != nil {
			return nil, err
		}
	}
	parsed := make([]*ldap.DN, 0, len(in))
	for _, text := range in {
		if dn, err := ldap.ParseDN(text); err == nil {
			parsed = append(parsed, dn)
		}
	}
	return mappedGroups(fromLDAP, c.Groups, func(theirs string) bool {
		return slices.ContainsFunc(parsed, c.dns[theirs].EqualFold)
	}), nil
}

// searchGroups returns the DNs of the groups that somebody is in, and with nested-groups of
// those that these are in.
func (c *ldapConfig) searchGroups(conn *ldap.Conn, dn, name string) (in []string, err error) {
	members := []string{dn}
	for level := 0; len(members) > 0 && level < maxNested; level++ {
		var next []string
		for _, member := range members {
			filter := fillIn(c.GroupFilter, "dn", ldap.EscapeFilter(member), "user", ldap.EscapeFilter(name))
			found, err := conn.Search(ldap.NewSearchRequest(c.GroupBase, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, maxFound,
				int(askTimeout/time.Second), false, filter, []string{"1.1"}, nil))
			if err != nil {
				return nil, fmt.Errorf("searching groups in %s: %w", c.GroupBase, err)
			}
			for _, group := range found.Entries {
				if !slices.Contains(in, group.DN) {
					in, next = append(in, group.DN), append(next, group.DN)
				}
			}
			if len(in) > maxFound {
				return nil, fmt.Errorf("%w: it is in more than %d groups", errUnusable, maxFound)
			}
		}
		if !c.Nested {
			break
		}
		members = next
	}
	return in, nil
}
