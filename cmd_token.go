// `berth token`: robot tokens are made, listed and revoked (auth_robots.go).
//
// A token's text is printed once, when it is made.

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// checkTokenCommand refuses what is none of the forms of `berth token`.
func checkTokenCommand(cfg *config) error {
	switch verb, names := cfg.Args[0], cfg.Args[1:]; {
	case verb == "create" && cfg.Allow == "" && cfg.Repo == "":
		return findCommand("token").wrongArguments("token create: --allow and --repo are missing: what the token may do, and in which repositories")
	case verb == "create":
		_, err := newRobot(cfg.options)
		return err
	case verb != "list" && verb != "revoke":
		return fmt.Errorf("token: say create, list or revoke, not %q", verb)
	case verb == "list" && len(names) > 0:
		return fmt.Errorf("token list: unexpected %q; it lists all tokens", names[0])
	case verb == "revoke" && len(names) == 0:
		return errors.New("token revoke: name the token, as `berth token list` shows it")
	case cfg.given["repo"] || cfg.given["allow"] || cfg.given["expires"]:
		return fmt.Errorf("token %s: --repo, --allow and --expires are for token create", verb)
	}
	return nil
}

// tokenCommand is `berth token create|list|revoke`.
func tokenCommand(ctx context.Context, st *store, o options, out *console) error {
	verb := ""
	if len(o.Args) > 0 {
		verb = o.Args[0]
	}
	switch {
	case verb == "create":
		return st.robots.create(o, out)
	case verb == "list" && len(o.Args) == 1:
		return st.robots.tell(o.JSON, out)
	case verb == "revoke" && len(o.Args) == 2:
		return st.robots.revoke(o.Args[1], out)
	}
	return errors.New("token: say create [NAME] --repo PATTERN --allow ACTION, list, or revoke NAME")
}

// newRobot makes a token that options describe, as yet without a secret.
func newRobot(o options) (b *robot, err error) {
	b = &robot{created: time.Now()}
	if b.allow, err = parseActions(splitList(o.Allow)); err != nil {
		return nil, fmt.Errorf("--allow: %w", err)
	}
	if o.Repo == "" && b.allow == mayMetrics {
		o.Repo = "**" // they are of no repository
	}
	if b.repositories, err = parseRepositories(splitList(o.Repo)); err != nil {
		return nil, fmt.Errorf("--repo: %w", err)
	}
	if b.allow&mayMetrics != 0 && b.allow != allRights && !b.repositories.all {
		return nil, errors.New("--allow metrics: the metrics are of the whole registry, so this needs --repo '**'; make one token for them, and another for the rest")
	}
	life, err := parseLife(o.Expires)
	if err != nil {
		return nil, fmt.Errorf("--expires: %w", err)
	}
	if life > 0 {
		b.expires = b.created.Add(life)
	}
	b.id = strings.ToLower(rand.Text()[:8])
	b.name = "token-" + b.id
	if len(o.Args) > 1 {
		b.name = o.Args[1]
	}
	if err := checkNewName(b.name); err != nil {
		return nil, fmt.Errorf("the token's name: %w", err)
	}
	return b, nil
}

func (x *robots) create(o options, out *console) error {
	b, err := newRobot(o)
	if err != nil {
		return err
	}
	secretText := b.newSecret()
	if err := x.add(b); err != nil {
		return err
	}
	x.audit("token created", "token", b.name, "allow", b.allow.words(), "repositories", b.repositories.text, "expires", cmp.Or(b.expiry(), "never"), "tokenID", b.id)
	if o.JSON {
		return out.json(struct {
			robotEntry
			Secret string `json:"secret"`
		}{b.entry(), secretText})
	}
	login := fmt.Sprintf("docker login -u %s HOST:PORT", b.name)
	if b.allow == mayMetrics {
		login = fmt.Sprintf("curl -u %s http://HOST:PORT/metrics, or in Prometheus basic_auth (https with TLS)", b.name)
	}
	until := "it is revoked"
	if !b.expires.IsZero() {
		until = out.formatTime(b.expires, "2006-01-02 15:04")
	}
	out.printf("%s\n\nThis is shown only once. It may %s, and is valid until %s.\nUse it as the password:  %s\n",
		secretText, b.mayDo(), until, login)
	if x.isUser(b.name) {
		out.printf("\nThere is a user %s, too. Rules and logs call the token token:%[1]s; people may take one for the other.\n", b.name)
	}
	if x.host.everybodyMay() {
		out.printf("\nThis registry is open to everybody, with or without a token, until it has a user: berth user add NAME\n")
	}
	return nil
}

// expiry is until when a token is good; "" for always.
func (b *robot) expiry() string {
	if b.expires.IsZero() {
		return ""
	}
	return b.expires.UTC().Format("2006-01-02 15:04 MST")
}

// mayDo says what a token may do, for people.
func (b *robot) mayDo() string {
	words := slices.DeleteFunc(b.allow.allWords(), func(word string) bool { return word == "metrics" })
	in := " in " + strings.Join(b.repositories.text, ", ")
	if b.repositories.all {
		in = " in all repositories"
	}
	if b.allow == allRights {
		return "do everything" + in
	}
	var may []string
	if len(words) > 0 {
		may = append(may, strings.Join(words, ", ")+in)
	}
	if b.allow&mayMetrics != 0 {
		may = append(may, "read the metrics")
	}
	return strings.Join(may, ", and ")
}

// isUser reports whether a user has a name, as far as the users can be read.
func (x *robots) isUser(name string) bool {
	held, err := x.host.guards()
	text := held[usersFile]
	if held == nil && err == nil {
		text, _, _ = readFile(x.usersFile)
	}
	list, _ := parseUsers(text)
	return list[name] != ""
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
	Owner        string     `json:"owner,omitempty"` // who may do with it what rules say, as oidc:NAME; "" for a machine's
}

func (b *robot) entry() robotEntry {
	e := robotEntry{Name: b.name, ID: b.id, Allow: b.allow.words(), Repositories: b.repositories.text,
		Created: b.created.UTC().Truncate(time.Second), Expired: b.expired(time.Now()), Owner: b.owner}
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

func (x *robots) tell(asJSON bool, out *console) error {
	robots, list := x.list(), []robotEntry{}
	for _, b := range robots {
		list = append(list, b.entry())
	}
	if asJSON {
		return out.json(list)
	}
	table := out.table("NAME", "ALLOW", "REPOSITORIES", "EXPIRES", "LAST USED").breaking(1, 2)
	for i, e := range list {
		expires, used := any("never"), any("never")
		if e.Expires != nil {
			expires = timeCellOf(e.Expires)
		}
		if e.Expired {
			expires = "expired"
		}
		if e.LastUsed != nil {
			used = timeCellOf(e.LastUsed)
		}
		allow := strings.Join(robots[i].allow.allWords(), ",")
		if e.Owner != "" {
			allow = "as " + e.Owner
		}
		table.row(e.Name, allow, strings.Join(e.Repositories, ","), expires, used)
	}
	table.end("There are no tokens.\n")
	return nil
}

func (x *robots) revoke(name string, out *console) error {
	name, id, err := x.remove(name)
	if err != nil {
		return err
	}
	x.audit("token revoked", "token", name, "tokenID", id)
	out.printf("token %s revoked; it no longer works\n", name)
	return nil
}
