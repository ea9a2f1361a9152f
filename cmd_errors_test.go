// What commands say when they fail, and what they end with: a person who has never seen
// Berth's source reads it.

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A said is what a command has said, and what it has ended with.
type said struct {
	code     int
	out, err string
}

// unplain is what nobody should have to read.
var unplain = regexp.MustCompile(`map\[|%!|syscall|parse error|invalid value|<nil>|sql:|strconv|errno|\b0x[0-9a-f]{5,}|&\{|goroutine|panic` +
	`|\*?\b(?:main|fs|os|net|errors|fmt|url|http|time|json|slog|flag|sqlite|protocolError|plainError|usageError)\.[A-Z]\w*|[pP]ost "http|temporarily unavailable` +
	`|(?:^|: |\()(?:open|openat|openfdat|mkdir|mkdirat|stat|lstat|fstatat|statat|read|write|unlink|unlinkat|rename|renameat|link|symlink|chmod|readdirent|fdopendir|dial|listen|bind|connect|accept|flock|fsync|truncate) [/\w]` +
	`|provided but not defined|context canceled|no rows| \(\d+\)$|int64|\[\]string|destination|net/http|transport connection|EOF` +
	`|^berth: (?:no such file|permission denied|not a directory)`)

// oneDash is a flag as the flag package writes it.
var oneDash = regexp.MustCompile(`(?:^|\s)-[a-z]`)

// tell runs a command to its end, with variables NAME=VALUE and a standard input. What it
// says must be plain.
func tell(t testing.TB, env []string, stdin string, args ...string) said {
	t.Helper()
	var out, log strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // for a server that starts and should not
	defer cancel()
	err := run(ctx, args, env, strings.NewReader(stdin), &out, &log)
	code, tell := exitCode(err)
	if tell {
		fmt.Fprintln(&log, "berth:", err)
	}
	s := said{code, out.String(), log.String()}
	s.check(t, args)
	if (code == 0) != (err == nil) {
		t.Errorf("berth %q ends with %d, and %v", args, code, err)
	}
	return s
}

// check insists that what a command has said is plain, and that one that fails says why.
func (s said) check(t testing.TB, args []string) {
	t.Helper()
	for line := range strings.Lines(s.err) {
		if !strings.HasPrefix(line, "berth: ") && strings.Contains(line, " level=") {
			continue // the log is for operators
		}
		if found := unplain.FindString(strings.TrimSpace(line)); found != "" {
			t.Errorf("berth %q says %q:\n%s", args, found, s.err)
		}
	}
	if s.code > 0 && s.err == "" && !strings.HasPrefix(s.out, "no: ") {
		t.Errorf("berth %q ends with %d, and says\n%s", args, s.code, s.out)
	}
}

// What is mistyped is refused before anything is looked for or opened: here there is no
// registry at all, and none begins. No argument that can be right is in the list.
func TestWhatIsMistyped(t *testing.T) {
	alone(t, "it has another working directory")
	t.Chdir(t.TempDir())
	type row struct {
		typed, want string // with | between arguments; BERTH_NAME=VALUE first is the environment
	}
	rows := []row{
		{"nope", `unknown command "nope" (berth help lists all)`},
		{"statz", `unknown command "statz": did you mean berth stats?`},
		{"garbage-collect", `did you mean berth gc?`},
		{"help|statz", `unknown command "statz": did you mean berth stats?`},
		{"serve|config.yml", `unexpected "config.yml": there is no configuration file; flags and variables say all (see berth help serve), and docs/migrate.md has those for the keys of registry:2`},
		{"check|x", `unexpected "x": berth check takes only flags (see berth help check)`},
		{"ls|a|b", `unexpected "b"`},
		{"--adr|:5001", "unknown flag --adr: did you mean --addr? (see berth help serve)"},
		{"gc|--jsn", "unknown flag --jsn: did you mean --json? (see berth help gc)"},
		{"gc|--deep", "berth gc has no --deep, unlike berth check, berth repair (see berth help gc)"},
		{"restore|--json", "berth restore has no --json"},
		{"policy|check|--json", "berth policy has no --json"},
		{"--qqqqqqqq", "unknown flag --qqqqqqqq (see berth help serve)"},
		{"--grace", "--grace: its value is missing (see berth help serve)"},
		{"--grace|--read-only", "--grace: its value is missing"},
		{"--tls", "--tls: its value is missing (see berth help serve): --tls=auto (a local CA) or --tls=acme"},
		{"--grace|1x", `--grace: "1x" is not a time span; use for example 30d, 12h or 90m`},
		{"--untagged-grace|30", `--untagged-grace: "30" is not a time span`},
		{"--grace|200000d", "is not a time span"},
		{"--grace|40000d", "is longer than a hundred years"},
		{"--grace|1d-1h", "is not a time span"},
		{"BERTH_GRACE=soon|ls", `BERTH_GRACE: "soon" is not a time span; use for example 30d, 12h or 90m`},
		{"BERTH_NO_DELETE=yes|ls", `BERTH_NO_DELETE: say true or false, not "yes"`},
		{"BERTH_MAX_UPLOADS=x|ls", `BERTH_MAX_UPLOADS: "x" is not a number from 0 up`},
		{"BERTH_LOG_FORMAT=xml|ls", `BERTH_LOG_FORMAT: say text or json, not "xml"`},
		{"--read-only=maybe", `--read-only: say true or false, not "maybe"`},
		{"--max-uploads|x", `--max-uploads: "x" is not a number from 0 up`},
		{"--max-uploads|99999999999999999999", "is not a number from 0 up"},
		{"log|--limit|-1", `--limit: "-1" is not a number from 0 up`},
		{"--log-level|verbose", `--log-level: say debug, info, warn or error, not "verbose"`},
		{"--log-format|xml", `--log-format: say text or json, not "xml"`},
		{"--max-blob-size|5XB", `--max-blob-size: "5XB" is not a size; use for example 500MiB or 10GiB`},
		{"--min-free|x", `--min-free: "x" is not a size`},
		{"--scrub-rate|x", `--scrub-rate: "x" is not a size`},
		{"--htpasswd=", "--htpasswd: name a file"},
		{"--policy=", "--policy: name a file"},
		{"--trusted-proxies|a/99", "--trusted-proxies: "},
		{"--cors-origins|x y", "--cors-origins: "},
		{"--public-url|ftp:", "--public-url: "},
		{"--public-url|hub.example.org", `--public-url: "hub.example.org" is not a URL; begin it with https:// or http://, as in https://hub.example.org`},
		{"--public-url|https://hub.example.org/x", "--public-url: use for example https://registry.example.org; clients want the registry at the root of a host"},
		{"--tls|on", `--tls: say auto, acme or off, not "on"`},
		{"--tls-name|*.lan|--tls|auto", `--tls-name: "*.lan" is neither a host name`},
		{"--tls-name|pi.lan", "--tls-name needs TLS: add --tls=auto"},
		{"BERTH_TLS_NAME=pi.lan|serve", "BERTH_TLS_NAME needs TLS"},
		{"--acme-email|a@example.org", "--acme-email is for --tls=acme"},
		{"--tls=auto|--acme-directory|https://x", "--acme-directory is for --tls=acme"},
		{"--tls=acme", "--tls=acme needs --tls-name"},
		{"--tls-cert|x", "--tls-cert needs --tls-key"},
		{"--tls=auto|--tls-cert|x", "leave out --tls-cert and --tls-key"},
		{"--tls=off|--tls-cert|x", "--tls=off contradicts"},
		{"--client-ca|x", "--client-ca needs TLS"},
		{"ls|Nope", `"Nope": names are in lower case: nope`},
		{"rm|Home/App:1.0", `"Home/App": names are in lower case: home/app`},
		{"ls|Nope!", `"Nope!": want lower-case letters`},
		{"ls|a@sha256:abc", `"sha256:abc" is not a digest: sha256: has 64 digits, and this has 3`},
		{"rm|home/app@sha256:abc", "; `berth ls home/app --json` has the digests of its tags in full"},
		{"rm|home/app@abc", "; `berth ls home/app --json` has the digests of its tags in full"},
		{"rm|a@sha512:1234", `"sha512:1234" is not a digest: sha512: has 128 digits, and this has 4`},
		{"rm|a@sha256:" + strings.Repeat("F", 64), "is not a digest: its digits are 0 to 9 and a to f"},
		{"rm|a@1234", `"1234" is not a digest, which is sha256: and 64 hexadecimal digits, or sha512: and 128`},
		{"ls|a@md5:abc", `of "md5:abc" is not supported; use sha256 or sha512`},
		{"ls|a@" + sum("x").String(), "ls: say NAME or NAME:TAG"},
		{"ls|localhost:5000/a", `"localhost:5000/a": give the name without the host`},
		{"log|a@" + sum("x").String(), "log: say NAME or NAME:TAG"},
		{"rm|a:1|Bad", `"Bad"`},
		{"rm|a:1|", "rm: an argument is empty (perhaps by a variable that is not set)"},
		{"tag|a", "tag: an argument is missing\nusage: berth tag"},
		{"tag|a|b", "tag: say which image of a: NAME:TAG, or NAME@DIGEST"},
		{"tag|a:1|ü", `"ü"`},
		{"tag|a:1|b:1", "tag: the new tag is in a, too, so give the tag alone: berth tag a:1 1. To copy the image to another repository, pull it"},
		{"tag|a:1|b/c", "so give the tag alone: berth tag a:1 NEW."},
		{"undo|Bad", `"Bad"`},
		{"undo|1|--as|Bad", `--as: `},
		{"retain|a:1", `retain: say NAME alone, not "a:1"`},
		{"stats|a:1", `stats: say NAME alone, not "a:1"`},
		{"backup|", "backup: an argument is empty"},
		{"token|creat", `token: say create, list or revoke, not "creat"`},
		{"token|create", "token create: --allow and --repo are missing"},
		{"token|create|--repo|A|--allow|pull", "--repo: "},
		{"token|create|--repo|a", "--allow: "},
		{"token|create|--repo|a|--allow|fly", `--allow: "fly" is not an action`},
		{"token|create|--repo|a|--allow|pull|--expires|soon", `--expires: "soon" is not a time span; use for example 90d, 12h or never`},
		{"token|create|--repo|a|--allow|pull|a:b", `the token's name: "a:b"`},
		{"token|list|x", `token list: unexpected "x"`},
		{"token|revoke", "token revoke: name the token"},
		{"token|revoke|x|--expires|3d", "token revoke: --repo, --allow and --expires are for token create"},
		{"user|ad|x", `user: say add, passwd, remove or list, not "ad"`},
		{"user|add", "user add: name the user"},
		{"user|passwd", "user passwd: name the user"},
		{"user|remove", "user remove: name the user"},
		{"user|list|x", `user list: unexpected "x"`},
		{"user|add|a:b", `"a:b" cannot be a user's name`},
		{"token|create|ci", "token create: --allow and --repo are missing: what the token may do, and in which repositories\nusage: berth token create [NAME] --repo PATTERNS --allow ACTIONS"},
		{"user|add|x|--json", "user add: --json is for user list"},
		{"policy|chck", "policy: say check"},
		{"policy|check|x", "policy: say check"},
		{"policy|check|a|fly|c", `"fly" is not an action`},
		{"policy|check|a|pull|C", `"C": the names of repositories are in lower case: c`},
		{"policy|check|a|pull|home/app:1", `"home/app:1": rules are about repositories; give the name alone: home/app`},
		{"policy|check|a|pull|a b", `"a b" is not a repository's name`},
		{"trust|a b", `"a b" is not a registry's HOST or HOST:PORT`},
	}
	for _, c := range commands {
		if c.least > 0 {
			rows = append(rows, row{c.name, c.name + ": an argument is missing\nusage: " + c.calls()[0]})
		}
		if c.most > 0 && c.most < 10 {
			rows = append(rows, row{c.name + strings.Repeat("|x", c.most+1), `unexpected "x"`})
			rows = append(rows, row{c.name + strings.Repeat("|", max(c.least, 1)), c.name + ": an argument is empty"})
		}
		newFlags(c.name, &config{}, &textFlags{}).VisitAll(func(f *flag.Flag) {
			bad, isText := "x", false
			switch f.Value.(type) {
			case yesNoFlag, flagOf[int], flagOf[int64], flagOf[time.Duration]:
			default:
				isText = true
			}
			if !isText {
				rows = append(rows, row{c.name + "|--" + f.Name + "=" + bad, "--" + f.Name + ": "})
				if c.alone == nil || c.name == "serve" { // the others need no variables
					rows = append(rows, row{variableOf(f.Name) + "=" + bad + "|" + c.name, "BERTH_"})
				}
			}
			if _, ok := f.Value.(yesNoFlag); !ok {
				rows = append(rows, row{c.name + "|--" + f.Name, "--" + f.Name + ": its value is missing (see berth help " + c.name + ")"})
			}
		})
	}
	for _, x := range rows {
		args, env := strings.Split(x.typed, "|"), []string(nil)
		if strings.HasPrefix(args[0], "BERTH_") {
			env, args = args[:1], args[1:]
		}
		if got := tell(t, env, "", args...); got.code != 2 || got.out != "" || !strings.Contains(got.err, x.want) || oneDash.MatchString(got.err) {
			t.Errorf("berth %s ends with %d, and says\n%s%swant 2, and\n%s", x.typed, got.code, got.out, got.err, x.want)
		}
	}
	if left, err := os.ReadDir("."); err != nil || len(left) > 0 {
		t.Errorf("what was mistyped has left %v (%v)", left, err)
	}
}

// registryOfErrors serves two images; a rule keeps one of them. The user kim is for after
// a restart.
func registryOfErrors(t testing.TB, options ...func(*config)) *registry {
	t.Helper()
	r := startRegistry(t, options...)
	r.pushImage("home/alpine", "1", "{}", "layer")
	r.pushImage("release/app", "v1.2", "{}", "layer")
	r.command("token", "create", "robot", "--repo", "**", "--allow", "pull")
	r.stop()
	guarded("[groups]\nfamily = [\"ann\", \"bob\"]\n[[immutable]]\nrepositories = [\"release/**\"]\ntags = [\"*\"]\n", "kim")(&r.cfg)
	return r
}

// notThere are commands about what is not there, or may not be done, and what they say.
var notThere = []struct {
	typed string // without |: words
	want  string
	code  int
}{
	{"ls nope", "there is no repository nope; `berth ls` lists them", 1},
	{"ls nope:1", "there is no repository nope;", 1},
	{"ls pi.local/home/alpine", "there is no repository pi.local/home/alpine; `berth ls` lists them. If pi.local is the host, leave it out: home/alpine", 1},
	{"ls home/alpine:nope", "home/alpine has no tag nope; `berth ls home/alpine` lists them", 1},
	{"rm nope", "there is no repository nope;", 1},
	{"rm nope:1", "there is no repository nope;", 1},
	{"rm home/alpine:nope", "home/alpine has no tag nope;", 1},
	{"rm home/alpine:nope home/alpine:1", "home/alpine:nope: home/alpine has no tag nope;", 1},
	{"rm home/alpine@" + sum("?").String(), "home/alpine has no image " + sum("?").String() + "; `berth ls home/alpine` shows its tags", 1},
	{"rm release/app:v1.2", "release/app:v1.2 is immutable, by the rule immutable 1 (* in release/**); --force does it anyway", 1},
	{"rm release/app", "is immutable, by the rule immutable 1 (* in release/**); --force does it anyway", 1},
	{"tag release/app:v1.2 v1.2 --json", "", 0},
	{"tag nope:1 y", "there is no repository nope;", 1},
	{"tag home/alpine:nope y", "home/alpine has no tag nope;", 1},
	{"tag home/alpine@" + sum("?").String() + " y", "home/alpine has no image " + sum("?").String(), 1},
	{"retain nope", "there is no repository nope;", 1},
	{"retain nope --explain", "there is no repository nope;", 1},
	{"stats nope", "there is no repository nope;", 1},
	{"stats nope --json", "there is no repository nope;", 1},
	{"log nope", "nothing is remembered that was done to nope;", 1},
	{"log home/alpine:nope --json", "home/alpine has no tag nope, and nothing is remembered of one by that name;", 1},
	{"undo nope", "nope is neither a change number nor a repository that is known; `berth log` shows what was done", 1},
	{"undo nope:1", "there is no repository nope;", 1},
	{"undo home/alpine:nope", "home/alpine has no tag nope; `berth ls home/alpine` lists them", 1},
	{"undo home/alpine@" + sum("?").String(), "nothing is remembered that was done to home/alpine@sha256:", 1},
	{"undo 999", "there is no change 999", 1},
	{"undo 0", "there is no change 0", 1},
	{"undo 99999999999999999999", "99999999999999999999 is neither a change number nor", 1},
	{"token revoke nope", "there is no token nope; `berth token list` lists them", 1},
	{"policy check token:nope pull a", "there is no token nope;", 1},
	{"policy check nope pull a", "there is no user nope in ", 1},
	{"policy check nope pull a", ", nor a group or a token of that name; `berth user add nope` makes a user", 1},
	{"policy check robot pull a", "there is no user robot, but a token: berth policy check token:robot pull a", 1},
	{"policy check family pull a", "family is a group (ann, bob): name one of its users", 1},
	{"policy check group:family pull a", "group:family is a group (ann, bob): name one of its users", 1},
	{"policy check group:nope pull a", "there is no user, group or token group:nope", 1},
	{"policy check kim pull a", "", 0},
	{"policy check anonymous pull a", "", 1},
	{"user passwd nope", "there is no user nope in ", 1},
	{"user remove nope", "`berth user list` lists them", 1},
	{"user add kim", "there is a user kim already; `berth user passwd kim` changes the password", 1},
	{"user add ann", "no password: type one, or pass it as a line on standard input", 1},
	{"trust", "there is no local CA in ", 1},
	{"rm home/alpine --read-only", "rm: this registry is read-only, by --read-only", 1},
	{"rm home/alpine --no-delete", "rm: this registry does not delete, by --no-delete", 1},
}

func TestWhatIsNotThere(t *testing.T) {
	t.Parallel()
	r := registryOfErrors(t)
	for _, x := range notThere {
		args := append(strings.Fields(x.typed), "--data", r.cfg.dir)
		got := tell(t, nil, "", args...)
		if got.code != x.code || !strings.Contains(got.err, x.want) {
			t.Errorf("berth %s ends with %d, and says\n%s%swant %d, and\n%s", x.typed, got.code, got.out, got.err, x.code, x.want)
		}
		if no := strings.HasPrefix(got.out, "no: "); x.code == 1 && got.out != "" && !no {
			t.Errorf("berth %s fails, and its output is\n%s", x.typed, got.out)
		}
	}
}

// What is wrong with a file at the start is said once, and says nothing of a time before; a
// line of the users that is of no use comes with what makes a good one.
func TestFilesThatAreWrongAtTheStart(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{policyFile: "[[rule]\n", usersFile: ""} {
		r := startRegistry(t)
		r.off()
		path := filepath.Join(r.cfg.dir, name)
		if text == "" {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		} else {
			writeFile(t, path, []byte(text))
		}
		got := tell(t, nil, "", "--addr", "127.0.0.1:0", "--data", r.cfg.dir)
		if got.code != 1 || strings.Count(got.err, "\n") != 1 || !strings.HasPrefix(got.err, "berth: "+path+": ") {
			t.Errorf("a start with a wrong %s ends with %d, and says\n%s", name, got.code, got.err)
		}
	}
	r := startRegistry(t, func(c *config) {
		writeFile(t, filepath.Join(c.dir, usersFile), []byte("kim:$apr1$7Ab0xyz.$ABCDEFGHIJKLMNOPQRSTU0\n"))
	})
	if log := r.log.String(); !strings.Contains(log, "nobody can log in with them; `berth user add NAME` or `htpasswd -B -C 10` makes others") {
		t.Errorf("a line with a hash of another kind is told of with\n%s", log)
	}
}

// The rules stand apart in the log, with all that they allow.
func TestRulesInTheLog(t *testing.T) {
	t.Parallel()
	rule := "[[rule]]\nwho = [\"users\"]\nrepositories = [\"**\"]\nallow = [\"overwrite\", \"delete\"]\n"
	r := startRegistry(t, guarded(rule+rule, "kim"))
	r.server.gate.announce()
	want := `rules="rule 1: users may pull, push, overwrite, delete in **; rule 2: users may pull, push, overwrite, delete in **"`
	if !strings.Contains(r.log.String(), want) {
		t.Errorf("the log has no %s:\n%s", want, r.log)
	}
}

// A token that never ends is said to; one with the name of a user comes with a word about it.
func TestTokensThatNeverEnd(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "kim"))
	out, err := runOnceOn(t, r.st, "token", "create", "kim", "--repo", "**", "--allow", "pull", "--expires", "never")
	if err != nil || !strings.Contains(out, "is valid until it is revoked") || !strings.Contains(out, "There is a user kim, too") {
		t.Errorf("token create kim: %v\n%s", err, out)
	}
	if log := r.log.String(); !strings.Contains(log, "expires=never") || strings.Contains(log, "expires=revoked") {
		t.Errorf("the log has\n%s", log)
	}
	if out, err := runOnceOn(t, r.st, "token", "create", "ci", "--repo", "**", "--allow", "pull", "--expires", "1d12h"); err != nil || strings.Contains(out, "There is a user") {
		t.Errorf("token create ci: %v\n%s", err, out)
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{"0": 0, "0d": 0, "1d": day, "30d": 30 * day, "1d12h": 36 * time.Hour, "90m": 90 * time.Minute,
		"2d30m": 2*day + 30*time.Minute, "168h": 7 * day, "1.5h": 90 * time.Minute, "36499d": 36499 * day,
		"2w": 14 * day, "1y": 365 * day, "1y2w1d1h": 380*day + time.Hour} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%s is %v (%v), want %v", text, got, err, want)
		}
		if want == 0 {
			continue
		}
		if again, err := parseDuration(span(want)); err != nil || again != want {
			t.Errorf("%v is written %s, and read as %v (%v)", want, span(want), again, err)
		}
		for _, variable := range []bool{false, true} { // as a flag, and in the environment
			args, env := []string{"--grace", text}, noEnv
			if variable {
				args, env = nil, environment{"BERTH_GRACE=" + text}
			}
			if cfg, err := parseConfig("serve", args, env, io.Discard); err != nil || cfg.grace != want {
				t.Errorf("--grace %s is %v (%v)", text, cfg.grace, err)
			}
		}
		if rules, err := parsePolicy([]byte("[[retain]]\nrepositories = [\"**\"]\ntags = [\"*\"]\nyounger = \"" + text + "\"\n")); err != nil {
			t.Errorf("a rule with %s: %v, %v", text, rules, err)
		}
	}
	for _, text := range []string{"", "d", "1", "-1d", "1d-1h", "+1h", "1d1", "w", "1d1w", "1w1y", "100y", "1d2d", "12h1d", "1.5d", "36500d", "1h36500d", "99999999999d", "never", "1d 2h", " 1d", "9999999h", "65535d2562047h"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
	for d, want := range map[time.Duration]string{7 * day: "7d", 30*day + time.Hour: "30d01h", time.Hour: "1h", 2 * time.Minute: "2m", 90 * time.Second: "1m30s", 0: "0s"} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{7 * day: "7d", 36 * time.Hour: "36h", 90 * time.Minute: "1h30m", 10 * time.Minute: "10m", 90 * time.Second: "1m30s", 10 * time.Second: "10s"} {
		if got := span(d); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
}
