// People and their passwords: an htpasswd file with bcrypt.
//
// The file is what Apache's htpasswd -B writes and registry:2 reads, so either
// can be used on it. `berth user` edits it too; whoever edits it, a change
// holds at once.
//
// bcrypt is slow on purpose, 100 ms and more on a small board. So what was tried
// once is remembered, as a keyed hash, until the password changes: a client pays
// for its first request, not for each.

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // as editors on Windows begin a file
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxWatched)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || !hashForm.MatchString(hash) || checkUserName(name) != nil {
			bad = append(bad, n)
			continue
		}
		list[name] = hash
	}
	return list, bad
}

// hashForm is a bcrypt hash as a whole: one that is cut short, or has more after it,
// no password fits.
var hashForm = regexp.MustCompile(`^\$2[abxy]?\$[0-9]{2}\$[./A-Za-z0-9]{53}$`)

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
	known map[mark]bool
	turns map[try]chan struct{} // closed when that password has been hashed
}

// A mark is what is remembered of a user, a password and the hash it was held
// against.
type mark [sha256.Size]byte

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
	l := &logins{hashing: make(chan struct{}, hashing), known: make(map[mark]bool), turns: make(map[try]chan struct{}),
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
	m := l.mark(user, password, hash)
	t := try{m, address}
	late := time.NewTimer(loginPatience + hashWait)
	defer late.Stop()
	for {
		l.mu.Lock()
		right, ok := l.known[m]
		turn, taken := l.turns[t]
		if !ok && !taken {
			l.turns[t] = make(chan struct{})
		}
		l.mu.Unlock()
		if ok {
			return right, nil
		}
		if !taken {
			break
		}
		select { // another request has the same
		case <-turn:
		case <-late.C:
			return false, errBusyLogins
		case <-done:
			return false, errBusyLogins
		}
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if err == nil {
			makeRoom(l.known, maxKnown)
			l.known[m] = right
		}
		close(l.turns[t])
		delete(l.turns, t)
	}()
	// Before it is hashed, so that many guesses at once are not many for free.
	if err := l.attempts.turn(done, address, user); err != nil {
		return false, err
	}
	select {
	case l.hashing <- struct{}{}:
		defer func() { <-l.hashing }()
	case <-late.C:
		l.attempts.undo(address, user)
		return false, errBusyLogins
	case <-done:
		l.attempts.undo(address, user)
		return false, errBusyLogins
	}
	l.mu.Lock()
	right, ok := l.known[m] // from another address, meanwhile
	l.mu.Unlock()
	if !ok {
		l.hashed.Add(1)
		right = list.compare(hash, password)
	}
	if right {
		l.attempts.succeeded(address, user)
	}
	return right, nil
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

// userCommand is `berth user add|passwd|remove NAME` and `berth user list`. It
// works on the file, whether there is a server or not.
func userCommand(ctx context.Context, cfg *config, stdin io.Reader, stdout io.Writer) error {
	if len(cfg.Args) == 0 {
		return errors.New("user: say add, passwd, remove or list")
	}
	verb, names := cfg.Args[0], cfg.Args[1:]
	if want := map[string]int{"add": 1, "passwd": 1, "remove": 1, "list": 0}; len(names) != want[verb] {
		return fmt.Errorf("user %s: name one user", verb)
	}
	auth := cfg.recallFiles()
	file := &userFile{path: auth.usersPath(cfg.dir), policy: auth.policyPath(cfg.dir)}
	if err := file.read(); err != nil {
		return err
	}
	known := len(names) > 0 && file.users[names[0]] != ""
	switch verb {
	case "list":
		return file.list(stdout, cfg.JSON)
	case "add":
		if err := checkUserName(names[0]); err != nil {
			return err
		}
		if known {
			return fmt.Errorf("there is a user %s already; `berth user passwd %[1]s` gives a new password", names[0])
		}
		// A policy is begun only where the server will look for it.
		starter := cfg.auth.usersFile == "" || cfg.auth.policyFile != "" || cfg.given["data"]
		if err := file.add(ctx, names[0], starter, stdin, stdout); err != nil {
			return err
		}
		if !exists(filepath.Join(cfg.dir, "berth.db")) {
			fmt.Fprintf(stdout, "There is no registry in %s yet; berth --data %[1]s begins one.\n", cfg.dir)
		}
		return nil
	case "passwd", "remove":
		if !known {
			return fmt.Errorf("there is no user %q in %s", names[0], file.path)
		}
		if verb == "passwd" {
			return file.change(ctx, names[0], stdin, stdout)
		}
		return file.remove(names[0], stdout)
	}
	return fmt.Errorf("user: %q is not add, passwd, remove or list", verb)
}

// recallFiles is where the users and rules are: as the flags say, else as those
// of the server did that had the directory last.
func (cfg *config) recallFiles() authConfig {
	auth := cfg.auth
	path := filepath.Join(cfg.dir, "berth.db")
	if uid, _, ok := ownerOf(cfg.dir); !exists(path) || isRoot() && ok && uid != 0 { // root edits the file that a flag names
		return auth
	}
	db, err := openToLook(path)
	if err != nil {
		return auth
	}
	defer db.Close()
	var users, policy sql.NullString
	if db.QueryRow(`SELECT users_file, policy_file FROM meta`).Scan(&users, &policy) == nil { // else it is an older one
		auth.usersFile, auth.policyFile = cmp.Or(auth.usersFile, users.String), cmp.Or(auth.policyFile, policy.String)
	}
	return auth
}

// A userFile is the htpasswd file as a text that is edited by lines, so that
// comments and what others wrote stay.
type userFile struct {
	path, policy string
	exists       bool
	lines        []string
	users        users
	bad          []int // lines that are nobody's
}

func (f *userFile) read() error {
	*f = userFile{path: f.path, policy: f.policy}
	text, _, err := readFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the users: %w", err)
	}
	f.exists = true
	f.users, f.bad = parseUsers(text)
	f.lines = strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if len(text) == 0 {
		f.lines = nil
	}
	return nil
}

// set gives a user a password's hash; "" takes the user away. It reads the file
// again: a password takes its time to type.
func (f *userFile) set(name, hash string) error {
	if err := f.read(); err != nil {
		return err
	}
	isTheirs := func(line string) bool {
		other, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		return other == name
	}
	switch at := slices.IndexFunc(f.lines, isTheirs); {
	case hash == "":
		f.lines = slices.DeleteFunc(f.lines, isTheirs)
	case at >= 0: // and one line alone: of several the last holds here, and the first for others
		f.lines[at] = name + ":" + hash
		f.lines = append(f.lines[:at+1], slices.DeleteFunc(f.lines[at+1:], isTheirs)...)
	default:
		f.lines = append(f.lines, name+":"+hash)
	}
	text := strings.Join(f.lines, "\n")
	if text != "" {
		text += "\n"
	}
	err := replaceFile(f.path, []byte(text))
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		if e := rewriteInPlace(f.path, text, func(string) {}); !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
	}
	if err != nil {
		return err
	}
	f.users, _ = parseUsers([]byte(text))
	return nil
}

func (f *userFile) add(ctx context.Context, name string, starter bool, stdin io.Reader, stdout io.Writer) error {
	hash, err := askPassword(ctx, name, stdin, stdout)
	if err != nil {
		return err
	}
	first := !f.exists
	if _, _, err := readFile(f.policy); first && starter && errors.Is(err, fs.ErrNotExist) {
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
	return f.findAdministrator(stdout)
}

// findAdministrator tells if nobody is one.
func (f *userFile) findAdministrator(stdout io.Writer) error {
	p, err := f.rules()
	if err != nil {
		return err
	}
	for name := range f.users {
		if p.rights(person{name}, "")&mayAdmin != 0 {
			return nil
		}
	}
	fmt.Fprintf(stdout, "None of the users is an administrator; %s says who may do what.\n", f.policy)
	return nil
}

// rules are those in force.
func (f *userFile) rules() (*policy, error) {
	text, _, err := readFile(f.policy)
	if errors.Is(err, fs.ErrNotExist) {
		return defaultPolicy(), nil
	}
	if err != nil {
		return nil, err
	}
	p, err := parsePolicy(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.policy, err)
	}
	return p, nil
}

func (f *userFile) change(ctx context.Context, name string, stdin io.Reader, stdout io.Writer) error {
	hash, err := askPassword(ctx, name, stdin, stdout)
	if err != nil {
		return err
	}
	if err := f.read(); err != nil {
		return err
	}
	if _, ok := f.users[name]; !ok {
		return fmt.Errorf("user %s was removed meanwhile", name)
	}
	if err := f.set(name, hash); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "user %s has a new password; whoever is logged in with the old one is logged out\n", name)
	return nil
}

func (f *userFile) remove(name string, stdout io.Writer) error {
	if err := f.set(name, ""); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "user %s removed\n", name)
	if len(f.users) == 0 {
		fmt.Fprintf(stdout, "Now nobody can log in. (To have a registry that is open to everybody, remove %s and %s, and restart with --open.)\n", f.path, f.policy)
		return nil
	}
	return f.findAdministrator(stdout)
}

func (f *userFile) list(stdout io.Writer, asJSON bool) error {
	p, err := f.rules()
	if err != nil {
		return err
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
	if len(f.bad) > 0 {
		fmt.Fprintf(stdout, "Lines of %s that are not NAME:BCRYPT-HASH, with which nobody can log in: %v\n", f.path, f.bad)
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
func askPassword(ctx context.Context, name string, stdin io.Reader, stdout io.Writer) (hash string, err error) {
	var password string
	if f, ok := stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		ask := func(prompt string) (string, error) {
			fmt.Fprint(stdout, prompt)
			typed, err := readPassword(ctx, int(f.Fd()))
			fmt.Fprintln(stdout)
			return typed, err
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

// readPassword reads a line from a terminal without showing it. When ctx ends, by
// a ctrl-C as a rule, the terminal is as it was.
func readPassword(ctx context.Context, fd int) (string, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	type line struct {
		text []byte
		err  error
	}
	typed := make(chan line, 1)
	go func() { // ends with the process, if nobody types any more
		text, err := term.ReadPassword(fd)
		typed <- line{text, err}
	}()
	select {
	case l := <-typed:
		return string(l.text), l.err
	case <-ctx.Done():
		return "", errors.Join(errors.New("given up"), term.Restore(fd, before))
	}
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
	keepOwner(f, like) // root edits for a server that is not root
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

// rewriteInPlace gives a users' file other lines where no new file can take its place:
// it is a mount by itself, as in a container, or its directory is read-only. The new
// lines come behind the old ones, of which none counts then, and when they are safe also
// in front: whoever reads the file meanwhile, or after a crash, finds all of text's users,
// whose last line is the new one. Only one who is being removed may still be there. at is
// called at the named points; tests look there.
func rewriteInPlace(path, text string, at func(point string)) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	old, n := info.Size(), int64(len(text))
	gap := strings.Repeat("\n", int(max(n-old, 0))+1) // so that the two do not overlap
	if _, err = f.WriteAt([]byte(gap+text), old); err == nil {
		err = syncData(f)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), f.Truncate(old))
	}
	at("behind")
	if _, err = f.WriteAt([]byte(text), 0); err == nil {
		err = syncData(f)
	}
	if err == nil {
		at("in front")
		err = errors.Join(f.Truncate(n), syncData(f))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
