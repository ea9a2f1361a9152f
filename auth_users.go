// People and their passwords: an htpasswd file with bcrypt.
//
// The file is what Apache's htpasswd -B writes and registry:2 reads, so either
// can be used on it. `berth user` edits it too; whoever edits it, a change
// holds at once.
//
// bcrypt is slow on purpose, 100 ms and more on a small board. So what was tried
// once is remembered, as a keyed hash, until the password changes: a client pays
// for its first request, not for each. What a directory says of a password
// (auth_ldap.go) is remembered here, too, for some minutes.

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"golang.org/x/crypto/bcrypt"
)

// users are the bcrypt hashes of passwords by user name.
type users map[string]string

// parseUsers reads an htpasswd file. As with registry:2, a line without a bcrypt
// hash is one that nobody can log in with; it is returned in bad by its number.
func parseUsers(text []byte) (list users, bad []int) {
	list = make(users)
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // as editors on Windows begin a file
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxWatched)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || !hashForm().MatchString(hash) || checkUserName(name) != nil {
			bad = append(bad, n)
			continue
		}
		list[name] = hash
	}
	return list, bad
}

// hashForm is a bcrypt hash as a whole: one that is cut short, or has more after it,
// no password fits.
var hashForm = expression(`^\$2[abxy]?\$[0-9]{2}\$[./A-Za-z0-9]{53}$`)

// checkUserName refuses what cannot be a user's name.
func checkUserName(name string) error {
	switch {
	case name == "" || len(name) > 255:
		return errors.New("a user's name has 1 to 255 characters")
	case name == "anonymous" || name == "users":
		return fmt.Errorf("%q has a meaning of its own in rules, and cannot be a user's name", name)
	case strings.TrimSpace(name) != name || strings.HasPrefix(name, "#") ||
		strings.ContainsFunc(name, func(c rune) bool { return c == ':' || unicode.IsControl(c) || c == unicode.ReplacementChar }):
		return fmt.Errorf("%q cannot be a user's name: no colons, no # or space at its ends", name)
	}
	return nil
}

// checkNewName is checkUserName for a name that somebody gives now. Files and certificates of
// others may have names with spaces; here one is a slip, and hard to see later.
func checkNewName(name string) error {
	if err := checkUserName(name); err != nil {
		return err
	}
	if strings.ContainsFunc(name, unicode.IsSpace) {
		return fmt.Errorf("%q has a space in it; choose a name without", name)
	}
	if why := oddName(name); why != "" {
		return fmt.Errorf("%q begins with %s; choose a name that begins with a letter or a digit", name, why)
	}
	return nil
}

// oddName says with what a name begins that is taken for something else; "" for nothing. Such a name in a file
// holds: people log in with it.
func oddName(name string) string {
	switch name[0] {
	case '!':
		return "!, which excludes in rules, so that no rule can name this user"
	case '*':
		return "*, which is for any name in rules"
	case '-':
		return "-, so that commands take it for a flag"
	}
	return ""
}

// odd says of each user whose name is taken for something else what it begins with.
func (list users) odd() (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		if why := oddName(name); why != "" {
			lines = append(lines, fmt.Sprintf("the user %s has a name that begins with %s", name, why))
		}
	}
	return lines
}

// removeOdd is what to do about such a user of a file.
func removeOdd(usersFile string) string {
	return "add the user under another name, and remove this one from " + usersFile
}

// minCost is the least bcrypt cost that is not too cheap to guess at, as of what is
// made by default.
const minCost = bcrypt.DefaultCost

// maxCost is the greatest bcrypt cost that is reasonable: half a second on a
// small board.
const maxCost = 12

// decoy returns a hash that no password has, of the cost of the dearest user.
func (list users) decoy() (hash string, cost int) {
	cost = bcrypt.DefaultCost
	for _, hash := range list {
		if c, err := bcrypt.Cost([]byte(hash)); err == nil {
			cost = max(cost, min(c, maxCost))
		}
	}
	return fmt.Sprintf("$2a$%02d$%s", cost, strings.Repeat(".", 53)), cost
}

// logins verifies passwords.
type logins struct {
	attempts attempts
	key      [32]byte      // of this process, for marks
	hashing  chan struct{} // full while as many passwords as may be are being hashed
	hashed   atomic.Int64  // passwords so far, for the metrics

	mu    sync.Mutex // guards the rest
	known map[mark]judgement
	turns map[try]chan struct{} // closed when that password has been hashed
}

// A mark is what is remembered of a user, a password and the hash it was held
// against.
type mark [sha256.Size]byte

// A judgement is what was found of a password, and until when that counts.
type judgement struct {
	right bool
	who   person        // if a directory has found it right
	until time.Duration // as of attempts.now; 0 for always
}

// A try is of a password from an address: elsewhere it may stand in line for long.
type try struct {
	mark
	address string
}

// hashWait is how long a login waits for its turn to be hashed, beyond what it may stand in line.
const hashWait = 10 * time.Second

// maxKnown bounds the passwords that are remembered, right ones and wrong ones.
const maxKnown = 4096

// newLogins is for a process that hashes so many passwords at once, and has the
// clock now.
func newLogins(hashing int, now func() time.Duration) *logins {
	l := &logins{hashing: make(chan struct{}, hashing), known: make(map[mark]judgement), turns: make(map[try]chan struct{}),
		attempts: attempts{now: now, unit: loginUnit, patience: loginPatience, failed: make(map[string]*failures), lines: make(map[string][]*standing)}}
	rand.Read(l.key[:])
	return l
}

func (l *logins) mark(user, password, hash string) (m mark) {
	h := hmac.New(sha256.New, l.key[:])
	for _, s := range []string{user, hash, password} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	h.Sum(m[:0])
	return m
}

// verify reports whether the password is the user's, for a client at an address.
// Whether there is such a user makes no difference to the time it takes.
//
// What was held against the hash once is not again: right, it is let in however
// many guess; wrong, it counts as one guess however often it comes, for that is
// a machine with an old password. After too many wrong ones it stands in line; the
// error is errTooManyLogins if too many do, errBusyLogins when too many wait to be
// hashed.
func (l *logins) verify(done <-chan struct{}, address string, list users, user, password string) (right bool, err error) {
	hash := list[user]
	v, err := l.once(done, address, user, l.mark(user, password, hash), l.hashing, func() (judgement, error) {
		l.hashed.Add(1)
		return judgement{right: list.compare(hash, password)}, nil
	})
	return v.right, err
}

// verifyThere is verify for a directory's people. fresh is set if the directory was asked for
// this request. What it said counts for some minutes.
func (l *logins) verifyThere(done <-chan struct{}, address string, d *directory, c *ldapConfig, user, password string) (who person, right, fresh bool, err error) {
	user = strings.ToLower(user) // the directory makes no difference, so guesses must not either
	v, err := l.once(done, address, user, l.mark(user, password, "ldap:"+c.mark), d.asking, func() (judgement, error) {
		fresh = true
		who, err := d.ask(c, user, password)
		if errors.Is(err, errNotTheirs) {
			return judgement{until: l.attempts.now() + rememberWrong}, nil
		}
		return judgement{right: true, who: who, until: l.attempts.now() + rememberRight}, err
	})
	return v.who, v.right, fresh, err
}

// recall returns what is known of a mark. l.mu is held.
func (l *logins) recall(m mark) (judgement, bool) {
	v, ok := l.known[m]
	return v, ok && (v.until == 0 || l.attempts.now() < v.until)
}

// once returns what is known of a password, or what find finds, and remembers it. No more than
// there is room for in finding find at once.
func (l *logins) once(done <-chan struct{}, address, user string, m mark, finding chan struct{}, find func() (judgement, error)) (v judgement, err error) {
	t := try{m, address}
	late := time.NewTimer(loginPatience + hashWait)
	defer late.Stop()
	for {
		l.mu.Lock()
		known, ok := l.recall(m)
		turn, taken := l.turns[t]
		if !ok && !taken {
			l.turns[t] = make(chan struct{})
		}
		l.mu.Unlock()
		if ok {
			return known, nil
		}
		if !taken {
			break
		}
		select { // another request has the same
		case <-turn:
		case <-late.C:
			return judgement{}, errBusyLogins
		case <-done:
			return judgement{}, errBusyLogins
		}
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if err == nil {
			makeRoom(l.known, maxKnown)
			l.known[m] = v
		}
		close(l.turns[t])
		delete(l.turns, t)
	}()
	// Before it is hashed, so that many guesses at once are not many for free.
	if err := l.attempts.turn(done, address, user); err != nil {
		return judgement{}, err
	}
	select {
	case finding <- struct{}{}:
		defer func() { <-finding }()
	case <-late.C:
		l.attempts.undo(address, user)
		return judgement{}, errBusyLogins
	case <-done:
		l.attempts.undo(address, user)
		return judgement{}, errBusyLogins
	}
	l.mu.Lock()
	v, ok := l.recall(m) // from another address, meanwhile
	l.mu.Unlock()
	if !ok {
		if v, err = find(); err != nil {
			l.attempts.undo(address, user)
			return judgement{}, err
		}
	}
	if v.right {
		l.attempts.succeeded(address, user)
	}
	return v, nil
}

// compare holds a password against a hash, "" for none. What is wrong costs as
// much as the dearest of the users, or a little more.
func (list users) compare(hash, password string) bool {
	if hash != "" && bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil {
		return true
	}
	decoy, dearest := list.decoy()
	if cost, err := bcrypt.Cost([]byte(hash)); err != nil || cost < dearest {
		bcrypt.CompareHashAndPassword([]byte(decoy), []byte(password))
	}
	return false
}

// recallFiles is where the users and rules are: as the flags say, else as those
// of the server did that had the directory last.
func (cfg *config) recallFiles() (authConfig, error) {
	auth := cfg.auth
	if auth.usersFile != "" && auth.policyFile != "" {
		return auth, nil
	}
	if uid, _, ok := ownerOf(cfg.dir); isRoot() && ok && uid != 0 { // root edits the file that a flag names
		return auth, nil
	}
	users, policy, err := rememberedFiles(filepath.Join(cfg.dir, "berth.db"))
	if err != nil && newDataDir(cfg.dirConfig).diskFull(err) {
		return auth, fmt.Errorf("the disk of %s is full, so its database cannot be asked where the users and rules are: make some room, or say it with --htpasswd and --policy (%w)", cfg.dir, err)
	}
	if errors.Is(err, fs.ErrPermission) {
		return auth, err
	}
	if err != nil {
		return auth, fmt.Errorf("cannot read where the server has its users and rules; name the files with --htpasswd and --policy: %w", err)
	}
	auth.usersFile, auth.policyFile = cmp.Or(auth.usersFile, users), cmp.Or(auth.policyFile, policy)
	return auth, nil
}
