// People and their passwords: an htpasswd file with bcrypt.
//
// The file is what Apache's htpasswd -B writes and registry:2 reads, so either
// can be used on it. `berth user` edits it too; whoever edits it, a change
// holds from the next request on.
//
// bcrypt is slow on purpose, 100 ms and more on a small board. So what has once
// proved right is remembered, as a keyed hash, until the password changes: a
// client pays for its first request, not for each.

package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/term"
)

// users are the bcrypt hashes of passwords by user name.
type users map[string]string

// parseUsers reads an htpasswd file. As with registry:2, a line without a bcrypt
// hash is one that nobody can log in with; it is returned in bad by its number.
func parseUsers(text []byte) (list users, bad []int) {
	list = make(users)
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxWatched)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || checkUserName(name) != nil {
			bad = append(bad, n)
			continue
		}
		list[name] = hash
	}
	return list, bad
}

// checkUserName refuses what cannot be a user's name.
func checkUserName(name string) error {
	switch {
	case name == "" || len(name) > 255:
		return errors.New("a user's name has 1 to 255 characters")
	case name == "anonymous" || name == "users":
		return fmt.Errorf("%q stands for people in rules, and cannot be a user's name", name)
	case strings.TrimSpace(name) != name || strings.HasPrefix(name, "#") ||
		strings.ContainsFunc(name, func(c rune) bool { return c == ':' || unicode.IsControl(c) || c == unicode.ReplacementChar }):
		return fmt.Errorf("%q cannot be a user's name: no colons, no # or space at its ends", name)
	}
	return nil
}

// decoy returns a hash that no password has and that costs what a user's does.
func (list users) decoy() string {
	cost := bcrypt.DefaultCost
	for _, hash := range list {
		if c, err := bcrypt.Cost([]byte(hash)); err == nil {
			cost = max(cost, c)
		}
	}
	return fmt.Sprintf("$2a$%02d$%s", cost, strings.Repeat(".", 53))
}

// logins verifies passwords.
type logins struct {
	attempts attempts
	key      [32]byte      // of this process, for known
	hashing  chan struct{} // full while as many passwords as may be are being hashed

	mu    sync.Mutex // guards known
	known map[[sha256.Size]byte]struct{}
}

// hashWait is how long a login waits for its turn to be hashed.
const hashWait = 10 * time.Second

// maxKnown bounds the passwords that are remembered.
const maxKnown = 4096

// newLogins is for a process that hashes so many passwords at once, and has the
// clock now.
func newLogins(hashing int, now func() time.Duration) *logins {
	l := &logins{hashing: make(chan struct{}, hashing), known: make(map[[sha256.Size]byte]struct{}),
		attempts: attempts{now: now, failed: make(map[string]*failures)}}
	rand.Read(l.key[:])
	return l
}

// mark is what is remembered of a password that was right.
func (l *logins) mark(user, password, hash string) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, l.key[:])
	for _, s := range []string{user, hash, password} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	h.Sum(sum[:0])
	return sum
}

// remembers reports whether the password was found right before.
func (l *logins) remembers(list users, user, password string) bool {
	hash, ok := list[user]
	if !ok {
		return false
	}
	mark := l.mark(user, password, hash)
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok = l.known[mark]
	return ok
}

// verify reports whether the password is the user's, for a client at an address.
// Whether there is such a user makes no difference to the time it takes. What was
// right before is so at once, however many guess. The error is errTooManyLogins
// after too many wrong ones, errBusyLogins when too many wait to be hashed.
func (l *logins) verify(done <-chan struct{}, address string, list users, user, password string) (bool, error) {
	if l.remembers(list, user, password) {
		return true, nil
	}
	if wait := l.attempts.wait(address, user); wait > 0 {
		return false, errTooManyLogins.withHeader("Retry-After", seconds(wait))
	}
	select {
	case l.hashing <- struct{}{}:
		defer func() { <-l.hashing }()
	case <-time.After(hashWait):
		return false, errBusyLogins
	case <-done:
		return false, errBusyLogins
	}
	if l.remembers(list, user, password) {
		return true, nil // another request of the same client was first
	}
	// Here, in turn, so that many guesses at once are not many for free.
	if wait := l.attempts.begin(address, user); wait > 0 {
		return false, errTooManyLogins.withHeader("Retry-After", seconds(wait))
	}
	hash, ok := list[user]
	if !ok {
		hash = list.decoy()
	}
	if bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) != nil || !ok {
		return false, nil
	}
	l.attempts.succeeded(address, user)
	mark := l.mark(user, password, hash)
	l.mu.Lock()
	defer l.mu.Unlock()
	makeRoom(l.known, maxKnown)
	l.known[mark] = struct{}{}
	return true, nil
}

// userCommand is `berth user add|passwd|remove NAME` and `berth user list`.
func userCommand(cfg *config, stdin io.Reader, stdout io.Writer) error {
	if len(cfg.Args) == 0 {
		return errors.New("user: say add, passwd, remove or list")
	}
	verb, names := cfg.Args[0], cfg.Args[1:]
	if want := map[string]int{"add": 1, "passwd": 1, "remove": 1, "list": 0}; len(names) != want[verb] {
		return fmt.Errorf("user %s: name one user", verb)
	}
	file := &userFile{path: cfg.auth.usersPath(cfg.dir), policy: cfg.auth.policyPath(cfg.dir)}
	if err := file.read(); err != nil {
		return err
	}
	switch verb {
	case "list":
		return file.list(stdout, cfg.JSON)
	case "add":
		return file.add(names[0], stdin, stdout)
	case "passwd":
		return file.change(names[0], stdin, stdout)
	case "remove":
		return file.remove(names[0], stdout)
	}
	return fmt.Errorf("user: %q is not add, passwd, remove or list", verb)
}

// A userFile is the htpasswd file as a text that is edited by lines, so that
// comments and what others wrote stay.
type userFile struct {
	path, policy string
	exists       bool
	lines        []string
	users        users
}

func (f *userFile) read() error {
	text, _, err := readFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the users: %w", err)
	}
	f.exists = true
	f.users, _ = parseUsers(text)
	f.lines = strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if len(text) == 0 {
		f.lines = nil
	}
	return nil
}

// set gives a user a password's hash; "" takes the user away.
func (f *userFile) set(name, hash string) error {
	f.lines = slices.DeleteFunc(f.lines, func(line string) bool {
		other, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		return other == name && hash == ""
	})
	found := false
	for i, line := range f.lines {
		if other, _, _ := strings.Cut(strings.TrimSpace(line), ":"); other == name {
			f.lines[i], found = name+":"+hash, true
		}
	}
	if !found && hash != "" {
		f.lines = append(f.lines, name+":"+hash)
	}
	text := strings.Join(f.lines, "\n")
	if text != "" {
		text += "\n"
	}
	return replaceFile(f.path, []byte(text))
}

func (f *userFile) add(name string, stdin io.Reader, stdout io.Writer) error {
	if err := checkUserName(name); err != nil {
		return err
	}
	if _, ok := f.users[name]; ok {
		return fmt.Errorf("there is a user %s already; `berth user passwd %[1]s` gives a new password", name)
	}
	hash, err := askPassword(name, stdin, stdout)
	if err != nil {
		return err
	}
	first := !f.exists
	if first && !exists(f.policy) {
		// Before the users, so that the first is never less than what is promised.
		if err := replaceFile(f.policy, fmt.Appendf(nil, starterPolicy, name)); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s is the administrator. Who may do what stands in %s.\n", name, f.policy)
	}
	if err := f.set(name, hash); err != nil {
		return err
	}
	if first {
		fmt.Fprintf(stdout, "From now on this registry wants a password: docker login -u %s HOST:PORT\n", name)
	}
	fmt.Fprintf(stdout, "user %s added\n", name)
	return nil
}

func (f *userFile) change(name string, stdin io.Reader, stdout io.Writer) error {
	if _, ok := f.users[name]; !ok {
		return f.unknown(name)
	}
	hash, err := askPassword(name, stdin, stdout)
	if err != nil {
		return err
	}
	if err := f.set(name, hash); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "user %s has a new password; whoever is logged in with the old one is logged out\n", name)
	return nil
}

func (f *userFile) remove(name string, stdout io.Writer) error {
	if _, ok := f.users[name]; !ok {
		return f.unknown(name)
	}
	if err := f.set(name, ""); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "user %s removed\n", name)
	if len(f.users) == 1 {
		fmt.Fprintf(stdout, "Now nobody can log in. (To have a registry that is open to everybody, remove %s and restart.)\n", f.path)
	}
	return nil
}

func (f *userFile) unknown(name string) error {
	return fmt.Errorf("there is no user %q in %s", name, f.path)
}

func (f *userFile) list(stdout io.Writer, asJSON bool) error {
	p := defaultPolicy()
	if text, _, err := readFile(f.policy); err == nil {
		if p, err = parsePolicy(text); err != nil {
			return fmt.Errorf("%s: %w", f.policy, err)
		}
	}
	type entry struct {
		Name          string   `json:"name"`
		Administrator bool     `json:"administrator"`
		Groups        []string `json:"groups"`
	}
	list := []entry{}
	for _, name := range slices.Sorted(maps.Keys(f.users)) {
		list = append(list, entry{name, p.rights(person{name}, "")&mayAdmin != 0, append([]string{}, p.groupsOf(name)...)})
	}
	if asJSON {
		return newConsole(stdout, false).json(list)
	}
	if !f.exists {
		fmt.Fprintln(stdout, "There are no users: whoever reaches this registry may do everything. `berth user add NAME` makes the first.")
	}
	for _, e := range list {
		about := strings.Join(e.Groups, ", ")
		if e.Administrator {
			about = strings.TrimSuffix("administrator, "+about, ", ")
		}
		fmt.Fprintf(stdout, "%-20s %s\n", e.Name, about)
	}
	return nil
}

// askPassword gets a new password, from a terminal without showing it, and twice,
// or as the first line of stdin; and returns its hash.
func askPassword(name string, stdin io.Reader, stdout io.Writer) (hash string, err error) {
	var password string
	if f, ok := stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		ask := func(prompt string) (string, error) {
			fmt.Fprint(stdout, prompt)
			typed, err := term.ReadPassword(int(f.Fd()))
			fmt.Fprintln(stdout)
			return string(typed), err
		}
		if password, err = ask("Password for " + name + ": "); err != nil {
			return "", err
		}
		again, err := ask("Again: ")
		if err != nil {
			return "", err
		}
		if again != password {
			return "", errors.New("the two passwords differ")
		}
	} else {
		line, err := bufio.NewReader(io.LimitReader(stdin, 64<<10)).ReadString('\n')
		if err != nil && err != io.EOF {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		password = strings.TrimRight(line, "\r\n")
	}
	switch {
	case password == "":
		return "", errors.New("no password: type one, or give it as a line on standard input")
	case len(password) > 72:
		return "", errors.New("a password may have 72 bytes: bcrypt ignores the rest")
	}
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	return string(b), err
}

// replaceFile writes a file so that it is there as a whole, old or new, whatever
// happens. Its directory is made if need be. Nobody else may read it, unless
// they could before.
func replaceFile(path string, content []byte) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir := filepath.Dir(path)
	if err := makeAll(dir); err != nil {
		return err
	}
	mode, like := fs.FileMode(0o600), dir
	if info, err := os.Stat(path); err == nil {
		mode, like = info.Mode().Perm(), path
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	keepOwner(f.Name(), like) // root edits for a server that is not root
	_, err = f.Write(content)
	if err == nil {
		if mode != 0o600 { // which it has, and FAT has no others
			err = f.Chmod(mode)
		}
		err = errors.Join(err, syncData(f))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}
