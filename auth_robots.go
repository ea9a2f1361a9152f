// Robot tokens: passwords for machines, each for some repositories and actions,
// for some time. `berth token create` shows one once; here is only its hash.
//
// People who log in elsewhere (auth_oidc.go) have tokens, too, as passwords for their clients.
// Such a token may do what rules let its owner do, with the groups that the login brought.
// It ends after a while, so nobody who has left stays in for longer, and its owner can have
// only a few.
//
// They stand in the database and in memory. When one was last used is written
// down seldom and without a sync: a token in use must not wear out an SD card.

package main

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A robot is a token and what it may do.
type robot struct {
	id, name     string
	secret       []byte // SHA-256 of the secret
	repositories *patterns
	allow        rights   // none, if it has an owner
	owner        string   // as oidc:ann@example.org; "" for a robot
	issuer       string   // who has said so, and
	member       []string // which groups the owner is in, as the issuer calls them
	domain       string   // of the owner's verified e-mail address; "" for none
	created      time.Time
	expires      time.Time    // zero for never
	used         atomic.Int64 // Unix time of the last request, 0 for none
	saved        atomic.Int64 // the same, as it stands in the database
}

// robots are all of them, by id.
type robots struct {
	*store
	mu   sync.RWMutex // guards byID
	byID map[string]*robot
}

// usedEvery is how often the last use of a robot token is written down, in seconds.
const usedEvery = 3600

// robotForm is what a robot token looks like: its prefix lets scanners for
// leaked secrets find it, and the id tells which one it was.
var robotForm = expression(`^berth_([0-9a-z]{8})_([0-9A-Za-z_-]{43})$`)

// load reads them at start.
func (x *robots) load() error {
	list, err := listRobots(x.readers)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID = make(map[string]*robot, len(list))
	for _, b := range list {
		x.byID[b.id] = b
	}
	return nil
}

// readRobots returns those in the database in path, whether a server has it or not.
func readRobots(path string) ([]*robot, error) {
	db, err := openToLook(path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return listRobots(db)
}

func listRobots(db *sql.DB) ([]*robot, error) {
	rows, err := db.Query(`SELECT id, name, secret, repositories, allow, created, expires, used, owner, issuer, member FROM token`)
	if err != nil {
		return nil, fmt.Errorf("reading tokens: %w", err)
	}
	list, err := collectRows(rows, scanRobot)
	if err != nil {
		return nil, fmt.Errorf("reading tokens: %w", err)
	}
	return list, nil
}

func scanRobot(rows *sql.Rows) (*robot, error) {
	b := &robot{}
	var patterns, words, member string
	var created, used int64
	var expires sql.NullInt64
	err := rows.Scan(&b.id, &b.name, &b.secret, &patterns, &words, &created, &expires, &used, &b.owner, &b.issuer, &member)
	if err != nil {
		return nil, err
	}
	if b.repositories, err = parseRepositories(strings.Fields(patterns)); err != nil {
		return nil, fmt.Errorf("token %s: %w", b.id, err)
	}
	if b.owner == "" {
		b.allow, err = parseActions(strings.Fields(words))
	} else {
		err = json.Unmarshal([]byte(member), &b.member)
		b.member = slices.DeleteFunc(b.member, func(group string) bool {
			domain, is := strings.CutPrefix(group, domainMark)
			if is {
				b.domain = domain
			}
			return is
		})
	}
	if err != nil {
		return nil, fmt.Errorf("token %s: %w", b.id, err)
	}
	b.created = time.Unix(created, 0)
	if expires.Valid {
		b.expires = time.Unix(expires.Int64, 0)
	}
	b.used.Store(used)
	b.saved.Store(used)
	return b, nil
}

// find returns the one with an id that is good at a time, or nil.
func (x *robots) find(id string, now time.Time) *robot {
	x.mu.RLock()
	b := x.byID[id]
	x.mu.RUnlock()
	if b == nil || b.expired(now) {
		return nil
	}
	return b
}

func (b *robot) expired(now time.Time) bool { return !b.expires.IsZero() && !now.Before(b.expires) }

// findBySecret returns the robot that a secret is of, or nil.
func (x *robots) findBySecret(secret string, now time.Time) *robot {
	if b := x.owner(secret); b != nil && !b.expired(now) {
		return b
	}
	return nil
}

// findExpired returns the robot that a secret was of, if it has expired, else nil.
func (x *robots) findExpired(secret string, now time.Time) *robot {
	if b := x.owner(secret); b != nil && b.expired(now) {
		return b
	}
	return nil
}

// owner returns the robot that has a secret, expired or not, or nil.
func (x *robots) owner(secret string) *robot {
	m := robotForm().FindStringSubmatch(secret)
	if m == nil {
		return nil
	}
	x.mu.RLock()
	b := x.byID[m[1]]
	x.mu.RUnlock()
	sum := sha256.Sum256([]byte(m[2]))
	if b == nil || subtle.ConstantTimeCompare(sum[:], b.secret) != 1 {
		return nil
	}
	return b
}

// noteUse remembers that a robot was here.
func (x *robots) noteUse(b *robot, now time.Time) {
	at := now.Unix()
	b.used.Store(at)
	if saved := b.saved.Load(); at-saved < usedEvery && at >= saved || x.writer == nil || !b.saved.CompareAndSwap(saved, at) {
		return
	}
	if err := x.saveUse(b); err != nil {
		x.log.Warn("the last use of a token cannot be recorded", "token", b.name, "error", err)
	}
}

func (x *robots) saveUse(b *robot) error {
	return x.updateLazy(func(t *tx) error {
		_, err := t.exec(`UPDATE token SET used = ? WHERE id = ?`, b.used.Load(), b.id)
		return err
	})
}

// saveUses writes down every last use; it runs at the end.
func (x *robots) saveUses() error {
	var errs []error
	for _, b := range x.list() {
		if b.used.Load() != b.saved.Load() {
			errs = append(errs, x.saveUse(b))
		}
	}
	return errors.Join(errs...)
}

func (x *robots) list() []*robot {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.SortedFunc(maps.Values(x.byID), func(a, b *robot) int { return strings.Compare(a.name, b.name) })
}

// newSecret gives a token that is not one of them yet a secret, and returns the text that people
// use as a password.
func (b *robot) newSecret() string {
	var secret [32]byte
	rand.Read(secret[:])
	text := base64.RawURLEncoding.EncodeToString(secret[:])
	sum := sha256.Sum256([]byte(text))
	b.secret = sum[:]
	return "berth_" + b.id + "_" + text
}

// add makes b one of them. The error says so if its name is taken.
func (x *robots) add(b *robot) error {
	err := x.update(func(t *tx) error {
		var taken bool
		if err := t.get(`SELECT EXISTS (SELECT 1 FROM token WHERE name = ?)`, []any{b.name}, &taken); err != nil {
			return err
		}
		if taken {
			return fmt.Errorf("there is a token %s already; `berth token revoke %[1]s` ends it, or give another name", b.name)
		}
		return b.insert(t)
	})
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.byID[b.id] = b
	x.mu.Unlock()
	return nil
}

// domainMark is what a domain begins with among the groups that the issuer has said. No group of login.toml can begin so.
const domainMark = "\x00@"

func (b *robot) insert(t *tx) error {
	var expires any
	if !b.expires.IsZero() {
		expires = b.expires.Unix()
	}
	said := append([]string{}, b.member...)
	if b.domain != "" {
		said = append(said, domainMark+b.domain)
	}
	member, err := json.Marshal(said)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO token (id, name, secret, repositories, allow, created, expires, used, owner, issuer, member) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)`,
		b.id, b.name, b.secret, strings.Join(b.repositories.text, " "), strings.Join(b.allow.words(), " "), b.created.Unix(), expires, b.owner, b.issuer, string(member))
	return err
}

const (
	// maxOwned bounds the tokens of a person that are valid.
	maxOwned = 10
	// maxPersonal bounds those of all people.
	maxPersonal = 10000
)

var (
	errTooManyOwned    = fmt.Errorf("you have %d tokens; revoke one first", maxOwned)
	errTooManyPersonal = errors.New("there are too many tokens of people; an administrator can revoke some with `berth token revoke`")
)

// addOwned makes b, which has an owner, one of them. People's tokens that have expired are
// removed. The error is errTooManyOwned or errTooManyPersonal if there are too many others.
func (x *robots) addOwned(b *robot) error {
	err := x.update(func(t *tx) error {
		var owned, all int
		if _, err := t.exec(`DELETE FROM token WHERE owner <> '' AND expires <= ?`, b.created.Unix()); err != nil {
			return err
		}
		if err := t.get(`SELECT count(*) FILTER (WHERE owner = ? AND issuer = ?), count(*) FROM token WHERE owner <> ''`, []any{b.owner, b.issuer}, &owned, &all); err != nil {
			return err
		}
		if owned >= maxOwned {
			return errTooManyOwned
		}
		if all >= maxPersonal {
			return errTooManyPersonal
		}
		return b.insert(t)
	})
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.byID, func(_ string, other *robot) bool { return other.owner != "" && other.expired(b.created) })
	x.byID[b.id] = b
	return nil
}

// ownedBy returns the tokens of a person whom an issuer knows that are valid, the newest first.
func (x *robots) ownedBy(owner, issuer string, now time.Time) []*robot {
	list := slices.DeleteFunc(x.list(), func(b *robot) bool { return b.owner != owner || b.issuer != issuer || b.expired(now) })
	slices.SortStableFunc(list, func(a, b *robot) int { return b.created.Compare(a.created) })
	return list
}

// stands makes c whom a token stands for. It reports false if that is somebody of whom
// login.toml says nothing now.
func (b *robot) stands(c *caller) bool {
	c.robot = b
	if b.owner == "" {
		return true
	}
	if login := c.view.login; !login.has(fromOIDC) || login.oidc.Issuer != b.issuer || !login.oidc.takes(b.domain) {
		return false
	}
	c.person = b.person(c.view.login)
	return true
}

// person is the owner of a token, by what login.toml says now. Its groups are those that the
// owner was in at the login.
func (b *robot) person(login *loginConfig) person {
	who := person{user: b.owner}
	if len(b.member) > 0 && login.has(fromOIDC) {
		who.groups = mappedGroups(fromOIDC, login.oidc.Groups, func(theirs string) bool { return slices.Contains(b.member, theirs) })
	}
	return who
}

func noToken(name string) error {
	return absentErrorf("there is no token %s; `berth token list` lists them", name)
}

// remove makes the one with a name or id worth nothing, and returns both.
func (x *robots) remove(nameOrID string) (name, id string, err error) {
	err = x.update(func(t *tx) error {
		err := t.get(`DELETE FROM token WHERE name = ?1 OR id = ?1 RETURNING id, name`, []any{nameOrID}, &id, &name)
		if errors.Is(err, sql.ErrNoRows) {
			return noToken(nameOrID)
		}
		return err
	})
	if err != nil {
		return "", "", err
	}
	x.mu.Lock()
	delete(x.byID, id)
	x.mu.Unlock()
	x.collector.forgetOwners()
	return name, id, nil
}
