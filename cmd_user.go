// `berth user`: the htpasswd file, edited (auth_users.go).
//
// The command edits the file itself, with or without a server, and then has a server that runs look
// at it.
// What it does not understand in the file stays as it is.

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/term"
)

// checkUserCommand refuses what is none of the forms of `berth user`.
func checkUserCommand(cfg *config) error {
	verb, names := cfg.Args[0], cfg.Args[1:]
	switch {
	case !slices.Contains([]string{"add", "passwd", "remove", "list"}, verb):
		if meant := map[string]string{"ls": "list", "del": "remove", "delete": "remove", "rm": "remove", "create": "add", "password": "passwd"}[verb]; meant != "" {
			return fmt.Errorf("user: say %s, not %q", strings.Join(append([]string{"berth user", meant}, names...), " "), verb)
		}
		return fmt.Errorf("user: say add, passwd, remove or list, not %q", verb)
	case verb == "list" && len(names) > 0:
		return fmt.Errorf("user list: unexpected %q; it lists all users", names[0])
	case verb != "list" && len(names) == 0:
		return fmt.Errorf("user %s: name the user, as in berth user %[1]s kim", verb)
	case verb != "list" && cfg.JSON:
		return fmt.Errorf("user %s: --json is for user list", verb)
	case verb == "add":
		return checkNewName(names[0])
	}
	return nil
}

// userCommand is `berth user add|passwd|remove NAME` and `berth user list`. It
// works on the file, whether there is a server or not.
func userCommand(ctx context.Context, cfg *config, stdin io.Reader, stdout io.Writer) error {
	verb, names := cfg.Args[0], cfg.Args[1:]
	auth, err := cfg.recallFiles()
	if err != nil {
		return err
	}
	file := &userFile{path: auth.usersPath(cfg.dir), policy: auth.policyPath(cfg.dir), out: cfg.console(stdout)}
	cfg.editing = file.path
	if verb != "add" {
		if err := cfg.refuseNowhere(file.path, file.policy); err != nil {
			return err
		}
	}
	if err := file.read(); err != nil {
		return err
	}
	if verb != "list" {
		defer askReread(ctx, cfg)
	}
	known := len(names) > 0 && file.users[names[0]] != ""
	switch verb {
	case "list":
		return file.list(cfg.console(stdout), cfg.JSON)
	case "add":
		if known {
			return fmt.Errorf("there is a user %s already; `berth user passwd %[1]s` changes the password", names[0])
		}
		if file.path == filepath.Join(cfg.dir, usersFile) {
			if _, err := newDataDir(cfg.dirConfig).survey(); err != nil {
				return err // the registry would not start there
			}
		}
		// A policy is begun only where the server will look for it.
		starter := cfg.auth.usersFile == "" || cfg.auth.policyFile != "" || cfg.given["data"]
		there, err := isThere(filepath.Join(cfg.dir, "berth.db"))
		begins := err == nil && !there
		if file.early = begins; begins {
			cfg.tellOfNoRegistry(names[0], file.out)
		}
		if err := file.add(ctx, names[0], starter, stdin, stdout); err != nil {
			return err
		}
		if line := cfg.startLine(); begins && line != "" {
			file.out.printf("To start the registry: %s\n", line)
		}
		return nil
	case "passwd", "remove":
		if !known {
			return absentErrorf("there is no user %s in %s; `berth user list` lists them", names[0], file.path)
		}
		if verb == "passwd" {
			return file.change(ctx, names[0], stdin, stdout)
		}
		return file.remove(ctx, names[0], cfg.Force, stdin)
	}
	return nil
}

// tellOfNoRegistry says, before anything is asked, that a user is for a registry that is still to be started,
// which may be a directory that is mistyped.
func (cfg *config) tellOfNoRegistry(name string, out *console) {
	data := newDataDir(cfg.dirConfig).whole()
	out.printf("There is no registry in %s yet: this user is for one that will be started there.\n", data)
	if _, err := os.Stat(serviceData); err == nil && !sameFile(data, serviceData) {
		out.printf("For the registry of the service, in %s: sudo berth user add %s --data %[1]s\n", serviceData, name)
	}
}

// startLine is what starts the registry in the data directory; "" if that is another account's, which
// nobody knows how it starts its own.
func (cfg *config) startLine() string {
	data := newDataDir(cfg.dirConfig).whole()
	unit, err := anyThere(filepath.Join(unitsDir, "berth.service"), "/lib/systemd/system/berth.service", "/usr/lib/systemd/system/berth.service")
	switch {
	case err == nil && unit && sameFile(data, serviceData):
		return "sudo systemctl start berth"
	case cfg.became != "":
		return ""
	}
	return "berth --data " + data
}

// A userFile is the htpasswd file as a text that is edited by lines, so that
// comments and what others wrote stay.
type userFile struct {
	path, policy string
	out          *console
	early        bool // there is no registry yet
	exists       bool
	lines        []string
	users        users
	bad          []int // lines that are nobody's
}

func (f *userFile) read() error {
	*f = userFile{path: f.path, policy: f.policy, out: f.out, early: f.early}
	text, info, err := readFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if now, e := os.Lstat(f.path); err == nil && foreign(filepath.Dir(f.path)) && (e != nil || !os.SameFile(info, now)) {
		err = fmt.Errorf("%s is, or was, a link, and root does not follow links in somebody else's directory", f.path) // what it leads to is not its owner's to have
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
		f.out.printf("%s is the administrator. Other users may push, overwrite and delete everywhere until you change %s.\n", name, f.policy)
	}
	if err := f.set(name, hash); err != nil {
		return err
	}
	switch {
	case first && f.early:
		f.out.printf("That registry will ask for a password: docker login -u %s HOST:PORT\n", name)
	case first:
		f.out.printf("From now on this registry asks for a password: docker login -u %s HOST:PORT\n", name)
	}
	p, err := f.rules()
	if err != nil {
		f.out.printf("user %s added\n", name)
		return err
	}
	f.out.printf("user %s added; %s\n", name, p.allowedTo(name, f.policy))
	return f.findAdministrator()
}

// allowedTo says what a user may do, and by which rules. file is where the rules are.
func (p *policy) allowedTo(user, file string) string {
	if !p.people {
		return "there are no rules in " + file + ", so all users may do everything"
	}
	var all []string
	for _, r := range p.rules {
		switch {
		case !r.isFor(person{user: user}):
		case r.allow == allRights && r.repositories.all:
			return fmt.Sprintf("%s may do everything, by %s", user, r.origin)
		default:
			all = append(all, fmt.Sprintf("%s in %s, by %s", strings.Join(r.allow.allWords(), ", "), strings.Join(r.repositories.text, ", "), r.origin))
		}
	}
	if all == nil {
		return fmt.Sprintf("%s may do nothing yet, because no rule in %s is about this user", user, file)
	}
	return fmt.Sprintf("%s may %s", user, strings.Join(all, "; "))
}

// administrators are the users who may do everything.
func (f *userFile) administrators() (names []string, err error) {
	p, err := f.rules()
	if err != nil {
		return nil, err
	}
	for name := range f.users {
		if p.rights(person{user: name}, "")&mayAdmin != 0 {
			names = append(names, name)
		}
	}
	return names, nil
}

// findAdministrator tells if nobody is one.
func (f *userFile) findAdministrator() error {
	admins, err := f.administrators()
	if err == nil && admins == nil {
		f.out.printf("None of the users is an administrator. To make one, add the name in %s to the group whose rule allows admin.\n", f.policy)
	}
	return err
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
		return fmt.Errorf("user %s has been removed in the meantime", name)
	}
	if err := f.set(name, hash); err != nil {
		return err
	}
	f.out.printf("user %s has a new password; sessions that used the old one have ended\n", name)
	return nil
}

// remove takes a user away. The last user, or the last administrator, it takes only if
// force is set or a person at the terminal says yes.
func (f *userFile) remove(ctx context.Context, name string, force bool, stdin io.Reader) error {
	if !force {
		admins, err := f.administrators()
		if err != nil {
			return fmt.Errorf("whether %s is the last administrator cannot be seen; --force removes the user anyway: %w", name, err)
		}
		loss := ""
		switch {
		case len(f.users) == 1:
			loss = fmt.Sprintf("%s is the only user, and without %[1]s nobody can log in", name)
		case slices.Equal(admins, []string{name}):
			loss = fmt.Sprintf("%s is the only administrator. To make another first, add a name in %s to the group whose rule allows admin", name, f.policy)
		}
		if loss != "" {
			if err := confirm(ctx, loss, "remove "+name, stdin, f.out); err != nil {
				return err
			}
		}
	}
	if err := f.set(name, ""); err != nil {
		return err
	}
	f.out.printf("user %s removed\n", name)
	if len(f.users) == 0 {
		f.out.printf("Now nobody can log in. (To have a registry that is open to everybody, remove %s and %s, and restart with --open.)\n", f.path, f.policy)
		return nil
	}
	return f.findAdministrator()
}

func (f *userFile) list(out *console, asJSON bool) error {
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
		list = append(list, entry{name, p.rights(person{user: name}, "")&mayAdmin != 0, append([]string{}, p.groupsOf(name)...)})
	}
	if asJSON {
		return out.json(list)
	}
	if !f.exists {
		out.printf("There are no users: everybody who reaches this registry may do everything. `berth user add NAME` adds the first.\n")
	}
	if len(f.bad) > 0 {
		out.printf("Lines of %s that are not NAME:BCRYPT-HASH, with which nobody can log in: %v\n", f.path, f.bad)
	}
	table := out.table("NAME", "ROLE AND GROUPS").breaking(1)
	for _, e := range list {
		about := strings.Join(e.Groups, ", ")
		if e.Administrator {
			about = strings.TrimSuffix("administrator, "+about, ", ")
		}
		table.row(e.Name, about)
	}
	table.end("")
	return nil
}

// minPassword is how many characters a password that a person types has at least (NIST SP
// 800-63B). Those that programs pass, and those in files, are taken as they are.
const minPassword = 8

// askPassword gets a new password, from a terminal without showing it, and twice,
// or as the first line of stdin; and returns its hash.
func askPassword(ctx context.Context, name string, stdin io.Reader, stdout io.Writer) (hash string, err error) {
	var password string
	if f, ok := stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		long := func(first string) error {
			if first != "" && utf8.RuneCountInString(first) < minPassword {
				return fmt.Errorf("a password needs at least %d characters: guesses are slowed down, but not stopped", minPassword)
			}
			return nil
		}
		typed, err := readPasswords(ctx, f, stdout, long, fmt.Sprintf("Password for %s (at least %d characters): ", name, minPassword), "Again: ")
		if err != nil {
			return "", err
		}
		if password = typed[0]; typed[1] != password {
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
		return "", errors.New("no password: type one, or pass it as a line on standard input")
	case len(password) > 72:
		return "", errors.New("a password may have at most 72 bytes: bcrypt ignores the rest")
	}
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	return string(b), err
}

// confirm has a person at the terminal say whether to do something; loss is what it costs.
// Where nobody can be asked, --force is the answer. The error is nil for yes.
func confirm(ctx context.Context, loss, deed string, stdin io.Reader, stdout io.Writer) error {
	f, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return fmt.Errorf("%s. To %s anyway, add --force", loss, deed)
	}
	fmt.Fprintf(stdout, "%s.\n%s%s anyway? [y/N] ", loss, strings.ToUpper(deed[:1]), deed[1:])
	answer, err := typed(ctx, func() (string, error) { return bufio.NewReader(f).ReadString('\n') })
	if err != nil && err != io.EOF {
		return err
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

// readPasswords asks for lines at a terminal and shows nothing of them, not even of what is
// typed as soon as the first prompt is there. It ends with the first line that accept returns an error for, unless it is nil. When ctx ends, the terminal is as it was.
func readPasswords(ctx context.Context, f *os.File, stdout io.Writer, accept func(line string) error, prompts ...string) (list []string, err error) {
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, term.Restore(int(f.Fd()), before)) }()
	terminal := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{f, stdout}, "")
	for _, prompt := range prompts {
		line, err := typed(ctx, func() (string, error) { return terminal.ReadPassword(prompt) })
		if err == io.EOF { // ctrl-C, which is no signal here, or ctrl-D
			err = errors.New("given up")
		}
		if err != nil {
			return nil, err
		}
		if accept != nil {
			err = accept(line)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, line)
	}
	return list, nil
}

// typed returns what read returns, which waits for a person, or an error when ctx ends.
func typed(ctx context.Context, read func() (string, error)) (string, error) {
	type line struct {
		text string
		err  error
	}
	lines := make(chan line, 1)
	go func() { // ends with the process, if nobody types any more
		text, err := read()
		lines <- line{text, err}
	}()
	select {
	case l := <-lines:
		return l.text, l.err
	case <-ctx.Done():
		return "", errors.New("given up")
	}
}
