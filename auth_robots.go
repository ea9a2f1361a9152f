// Robot tokens: passwords for machines, each for some repositories and actions,
// for some time. `berth token create` shows one once; here is only its hash.
//
// They stand in the database and in memory. When one was last used is written
// down seldom and without a sync: a token in use must not wear out an SD card.

package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"regexp"
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
	allow        rights
	created      time.Time
	expires      time.Time    // zero for never
	used         atomic.Int64 // Unix time of the last request, 0 for none
	saved        atomic.Int64 // the same, as it stands in the database
}

// robots are all of them, by id.
type robots struct {
	mu   sync.RWMutex // guards byID
	byID map[string]*robot
}

// usedEvery is how often the last use of a robot token is written down, in seconds.
const usedEvery = 3600

// robotForm is what a robot token looks like: its prefix lets scanners for
// leaked secrets find it, and the id tells which one it was.
var robotForm = regexp.MustCompile(`^berth_([0-9a-z]{8})_([0-9A-Za-z_-]{43})$`)

// loadRobots reads them at start.
func (st *store) loadRobots() error {
	rows, err := st.db.Query(`SELECT id, name, secret, repositories, allow, created, expires, used FROM token`)
	if err != nil {
		return fmt.Errorf("reading tokens: %w", err)
	}
	list, err := collect(rows, scanRobot)
	if err != nil {
		return fmt.Errorf("reading tokens: %w", err)
	}
	st.robots.mu.Lock()
	defer st.robots.mu.Unlock()
	st.robots.byID = make(map[string]*robot, len(list))
	for _, b := range list {
		st.robots.byID[b.id] = b
	}
	return nil
}

func scanRobot(rows *sql.Rows) (*robot, error) {
	b := &robot{}
	var patterns, words string
	var created, used int64
	var expires sql.NullInt64
	err := rows.Scan(&b.id, &b.name, &b.secret, &patterns, &words, &created, &expires, &used)
	if err != nil {
		return nil, err
	}
	if b.repositories, err = parseRepositories(strings.Fields(patterns)); err != nil {
		return nil, fmt.Errorf("token %s: %w", b.id, err)
	}
	if b.allow, err = parseActions(strings.Fields(words)); err != nil {
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

// robot returns the one with an id that is good at a time, or nil.
func (st *store) robot(id string, now time.Time) *robot {
	st.robots.mu.RLock()
	b := st.robots.byID[id]
	st.robots.mu.RUnlock()
	if b == nil || b.expired(now) {
		return nil
	}
	return b
}

func (b *robot) expired(now time.Time) bool { return !b.expires.IsZero() && !now.Before(b.expires) }

// robotOf returns the robot that a secret is of, or nil.
func (st *store) robotOf(secret string, now time.Time) *robot {
	m := robotForm.FindStringSubmatch(secret)
	if m == nil {
		return nil
	}
	b := st.robot(m[1], now)
	sum := sha256.Sum256([]byte(m[2]))
	if b == nil || subtle.ConstantTimeCompare(sum[:], b.secret) != 1 {
		return nil
	}
	return b
}

// noteUse remembers that a robot was here.
func (st *store) noteUse(b *robot, now time.Time) {
	at := now.Unix()
	b.used.Store(at)
	if saved := b.saved.Load(); at-saved < usedEvery && at >= saved || st.writer == nil || !b.saved.CompareAndSwap(saved, at) {
		return
	}
	if err := st.saveUse(b); err != nil {
		st.log.Warn("the last use of a token cannot be recorded", "token", b.name, "error", err)
	}
}

func (st *store) saveUse(b *robot) error {
	return st.updateLazy(func(t *tx) error {
		_, err := t.exec(`UPDATE token SET used = ? WHERE id = ?`, b.used.Load(), b.id)
		return err
	})
}

// saveUses writes down every last use; it runs at the end.
func (st *store) saveUses() error {
	var errs []error
	for _, b := range st.listRobots() {
		if b.used.Load() != b.saved.Load() {
			errs = append(errs, st.saveUse(b))
		}
	}
	return errors.Join(errs...)
}

func (st *store) listRobots() []*robot {
	st.robots.mu.RLock()
	defer st.robots.mu.RUnlock()
	return slices.SortedFunc(maps.Values(st.robots.byID), func(a, b *robot) int { return strings.Compare(a.name, b.name) })
}

// tokenCommand is `berth token create|list|revoke`.
func tokenCommand(ctx context.Context, st *store, o options, out *console) error {
	verb := ""
	if len(o.Args) > 0 {
		verb = o.Args[0]
	}
	switch {
	case verb == "create":
		name := ""
		if len(o.Args) == 2 {
			name = o.Args[1]
		}
		return st.createRobot(name, o, out)
	case verb == "list" && len(o.Args) == 1:
		return st.tellRobots(o.JSON, out)
	case verb == "revoke" && len(o.Args) == 2:
		return st.revokeRobot(o.Args[1], out)
	}
	return errors.New("token: say create [NAME] --repo PATTERN --allow ACTION, list, or revoke NAME")
}

func (st *store) createRobot(name string, o options, out *console) error {
	var err error
	b := &robot{created: time.Now()}
	if b.repositories, err = parseRepositories(splitList(o.Repo)); err != nil {
		return fmt.Errorf("--repo: %w", err)
	}
	if b.allow, err = parseActions(splitList(o.Allow)); err != nil {
		return fmt.Errorf("--allow: %w", err)
	}
	life, err := parseLife(o.Expires)
	if err != nil {
		return fmt.Errorf("--expires: %w", err)
	}
	if life > 0 {
		b.expires = b.created.Add(life)
	}
	b.id = strings.ToLower(rand.Text()[:8])
	if b.name = name; name == "" {
		b.name = "token-" + b.id
	}
	if err := checkUserName(b.name); err != nil {
		return fmt.Errorf("the token's name: %w", err)
	}
	var secret [32]byte
	rand.Read(secret[:])
	text := base64.RawURLEncoding.EncodeToString(secret[:])
	sum := sha256.Sum256([]byte(text))
	b.secret = sum[:]
	err = st.update(func(t *tx) error {
		var taken bool
		if err := t.get(`SELECT EXISTS (SELECT 1 FROM token WHERE name = ?)`, []any{b.name}, &taken); err != nil {
			return err
		}
		if taken {
			return fmt.Errorf("there is a token %s already", b.name)
		}
		var expires any
		if !b.expires.IsZero() {
			expires = b.expires.Unix()
		}
		_, err := t.exec(`INSERT INTO token (id, name, secret, repositories, allow, created, expires, used) VALUES (?, ?, ?, ?, ?, ?, ?, 0)`,
			b.id, b.name, b.secret, strings.Join(b.repositories.text, " "), strings.Join(b.allow.words(), " "), b.created.Unix(), expires)
		return err
	})
	if err != nil {
		return err
	}
	st.robots.mu.Lock()
	st.robots.byID[b.id] = b
	st.robots.mu.Unlock()
	st.audit("token created", "token", b.name, "allow", b.allow.words(), "repositories", b.repositories.text, "expires", b.life())
	secretText := "berth_" + b.id + "_" + text
	if o.JSON {
		return out.json(struct {
			robotEntry
			Secret string `json:"secret"`
		}{b.entry(), secretText})
	}
	out.printf("%s\n\nThis is shown once. It may %s in %s, and is good until %s.\nUse it as the password:  docker login -u %s HOST:PORT\n",
		secretText, strings.Join(b.allow.words(), ", "), strings.Join(b.repositories.text, ", "), b.life(), b.name)
	if st.open != nil && st.open() {
		out.printf("\nThis registry is open to everybody, with or without a token, until it has a user: berth user add NAME\n")
	}
	return nil
}

// life says until when a token is good.
func (b *robot) life() string {
	if b.expires.IsZero() {
		return "revoked"
	}
	return b.expires.UTC().Format("2006-01-02 15:04 MST")
}

// A robotEntry is a robot token as it is listed.
type robotEntry struct {
	Name         string     `json:"name"`
	ID           string     `json:"id"`
	Allow        []string   `json:"allow"`
	Repositories []string   `json:"repositories"`
	Created      time.Time  `json:"created"`
	Expires      *time.Time `json:"expires"`  // null for never
	LastUsed     *time.Time `json:"lastUsed"` // null for never
	Expired      bool       `json:"expired"`
}

func (b *robot) entry() robotEntry {
	e := robotEntry{Name: b.name, ID: b.id, Allow: b.allow.words(), Repositories: b.repositories.text,
		Created: b.created.UTC().Truncate(time.Second), Expired: b.expired(time.Now())}
	if !b.expires.IsZero() {
		at := b.expires.UTC().Truncate(time.Second)
		e.Expires = &at
	}
	if used := b.used.Load(); used != 0 {
		at := time.Unix(used, 0).UTC()
		e.LastUsed = &at
	}
	return e
}

func (st *store) tellRobots(asJSON bool, out *console) error {
	list := []robotEntry{}
	for _, b := range st.listRobots() {
		list = append(list, b.entry())
	}
	if asJSON {
		return out.json(list)
	}
	if len(list) == 0 {
		out.printf("There are no tokens.\n")
		return nil
	}
	out.printf("%-20s %-24s %-24s %-12s %s\n", "NAME", "ALLOW", "REPOSITORIES", "EXPIRES", "LAST USED")
	for _, e := range list {
		expires, used := "never", "never"
		if e.Expires != nil {
			expires = e.Expires.Format(time.DateOnly)
		}
		if e.Expired {
			expires = "expired"
		}
		if e.LastUsed != nil {
			used = e.LastUsed.Format("2006-01-02 15:04")
		}
		out.printf("%-20s %-24s %-24s %-12s %s\n", e.Name, strings.Join(e.Allow, ","), strings.Join(e.Repositories, ","), expires, used)
	}
	return nil
}

func (st *store) revokeRobot(name string, out *console) error {
	var id string
	err := st.update(func(t *tx) error {
		err := t.get(`DELETE FROM token WHERE name = ?1 OR id = ?1 RETURNING id, name`, []any{name}, &id, &name)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("there is no token %q", name)
		}
		return err
	})
	if err != nil {
		return err
	}
	st.robots.mu.Lock()
	delete(st.robots.byID, id)
	st.robots.mu.Unlock()
	st.forgetOwners()
	st.audit("token revoked", "token", name)
	out.printf("token %s revoked; it is worth nothing from now on\n", name)
	return nil
}

// splitList reads a flag that may have several values, with commas.
func splitList(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' })
}

// parseLife reads a time span in days (90d), or as the other flags; 0 is never.
func parseLife(text string) (time.Duration, error) {
	if text == "never" {
		return 0, nil
	}
	var days int
	if n, err := fmt.Sscanf(text, "%dd", &days); n == 1 && err == nil && fmt.Sprintf("%dd", days) == text && days > 0 && days < 36500 {
		return time.Duration(days) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a time span; use for example 90d, 12h or never", text)
	}
	return d, nil
}
