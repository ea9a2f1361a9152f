//go:build unix

// What newcomers type, and what they are told.

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhatNewcomersType(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		typed string // with | between; BERTH_NAME=VALUE first is a variable
		want  string
	}{
		// Flags that there are elsewhere.
		{"--port|5001", "unknown flag --port: the port is part of the address, as in --addr :5001"},
		{"--port=5001", "as in --addr :5001"},
		{"-p|5001|--read-only", "unknown flag -p: the port is part of the address, as in --addr :5001"},
		{"-p", "as in --addr :5000"},
		{"-p|5001:5000", "as in --addr :5000"},
		{"-x", "unknown flag -x (see berth help serve)"},
		{"ls|-v", "unknown flag -v (see berth help ls)"},
		{"-adr|:5001", "unknown flag -adr: did you mean --addr?"},
		{"restore|-json", "berth restore has no -json, unlike"},

		// What other programs have.
		{"prune", "did you mean berth gc?"},
		{"info", "did you mean berth stats?"},
		{"stop", `unknown command "stop": stop the process, with ctrl-C`},
		{"push|home/app", `unknown command "push": that is docker's: docker push HOST:PORT/NAME:TAG`},
		{"login|localhost:5000", `unknown command "login": that is docker's: docker login HOST:PORT`},
		{"user|ls", `user: say berth user list, not "ls"`},
		{"user|del|kim", `user: say berth user remove kim, not "del"`},
		{"log|-n|5", "unknown flag -n: did you mean --limit?"},
		{"serve|/etc/docker/registry/config.yml", `unexpected "/etc/docker/registry/config.yml": there is no configuration file; flags and variables say all`},
		{"--config|x.yml", "unknown flag --config: there is no configuration file"},

		// The command after the flags.
		{"--data|d3|ls", `unexpected "ls"; write the command first: berth ls --data d3`},
		{"--data|ls|ls|a:1|--read-only", "write the command first: berth ls a:1 --data ls --read-only"},
		{"--data|d3|lss", `unexpected "lss": berth serve takes only flags`},
		{"--data=|ls", "--data is empty (perhaps by a variable that is not set): name a directory"},
		{"ls|--data=", "--data is empty (perhaps by a variable that is not set): name a directory"},

		// Arguments that nearly are right.
		{"restore|/mnt/usb/berth", "berth restore takes no directory: it mends a damaged berth.db. To go back to a backup, stop Berth, move the damaged data directory away, copy /mnt/usb/berth there, and start with the same flags (docs/storage.md#backup)"},
		{"trust|https://pi.local:5000", `"https://pi.local:5000": give the name without https://, as in berth trust pi.local:5000`},
		{"trust|https://a b/", `"https://a b/" is not a registry's HOST or HOST:PORT`},
		{"policy|check|ann|push|pi.local:5000/home/app", `"pi.local:5000/home/app": give the name without the host`},
		{"policy|check|ann|push|home/app:1", `"home/app:1": rules are about repositories; give the name alone: home/app`},

		// An error names a variable where it comes from one, and no flag that was not given.
		{"BERTH_HTTP_ADDR=:5001|serve", "berth: BERTH_HTTP_ADDR needs TLS: add --tls=auto"},
		{"--http-addr|:5001", "berth: --http-addr needs TLS: add --tls=auto"},
		{"BERTH_CLIENT_CA=x|serve", "berth: BERTH_CLIENT_CA needs TLS: add --tls=auto"},
		{"BERTH_ADDR=5007|serve", `BERTH_ADDR: "5007" is not an address with a port; use for example :5007`},
		{"BERTH_ADDR=:5007|serve|--addr|5008", `--addr: "5008" is not an address`},
		{"BERTH_ADDR=:99999|serve", "BERTH_ADDR: 99999 is not a port; ports go from 1 to 65535"},
		{"BERTH_MAX_BLOB_SIZE=x|serve", `BERTH_MAX_BLOB_SIZE: "x" is not a size`},
		{"BERTH_TLS=acme|serve", "BERTH_TLS=acme needs --tls-name"},
		{"BERTH_ACME_EMAIL=a@example.org|serve", "berth: BERTH_ACME_EMAIL is for --tls=acme: add that, or leave it out"},
		{"BERTH_TLS_CERT=x|serve", "berth: BERTH_TLS_CERT needs --tls-key, too"},
		{"--tls-key|x", "berth: --tls-key needs --tls-cert, too"},
	} {
		args, env := strings.Split(x.typed, "|"), []string(nil)
		if strings.HasPrefix(args[0], "BERTH_") {
			env, args = args[:1], args[1:]
		}
		if got := tell(t, env, "", args...); got.code != 2 || got.out != "" || !strings.Contains(got.err, x.want) {
			t.Errorf("berth %s ends with %d, and says\n%s%swant 2, and\n%s", x.typed, got.code, got.out, got.err, x.want)
		}
	}
	if got := tell(t, nil, "", "-v"); got.code != 0 || !strings.HasPrefix(got.out, "berth "+buildVersion()+"\n") {
		t.Errorf("berth -v ends with %d, and says\n%s%s", got.code, got.out, got.err)
	}
}

// What only the start finds out names the variable, too.
func TestStartNamesVariables(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	for variable, want := range map[string]string{
		"BERTH_POLICY=" + missing:     "BERTH_POLICY: there is no file " + missing,
		"BERTH_ADDR=203.0.113.1:5000": "BERTH_ADDR: this machine does not have the address 203.0.113.1",
	} {
		args := []string{"--data", filepath.Join(t.TempDir(), "data")}
		if !strings.HasPrefix(variable, "BERTH_ADDR=") {
			args = append(args, "--addr", "127.0.0.1:0")
		}
		if got := tell(t, []string{variable}, "", args...); got.code != 1 || !strings.Contains(got.err, want) {
			t.Errorf("%s berth ends with %d, and says\n%swant\n%s", variable, got.code, got.err, want)
		}
	}
}

// What is not in the registry may be in another: who has not said which one is told where it was looked for.
func TestWhatIsMissingNamesItsPlace(t *testing.T) {
	t.Parallel()
	for _, served := range []bool{true, false} {
		home := t.TempDir()
		data := filepath.Join(home, "data")
		r := startRegistry(t, func(cfg *config) { cfg.dir = data })
		r.pushImage("home/app", "1", "{}", "layer")
		guarded("", "kim")(&r.cfg)
		if served {
			ctx, stop := context.WithCancel(t.Context())
			wait := serveCommands(ctx, r.st, &r.server.inFlight)
			t.Cleanup(func() { stop(); wait() })
		} else {
			r.stop()
		}
		where := "(in the registry " + data + "; --data or BERTH_DATA names another)\n"
		for args, want := range map[string]string{
			"ls nope":                        "there is no repository nope; `berth ls` lists them " + where,
			"rm home/app:2":                  "home/app has no tag 2; `berth ls home/app` lists them " + where,
			"log nope":                       where,
			"undo 999":                       "there is no change 999 " + where,
			"undo nope":                      where,
			"stats nope":                     where,
			"token revoke nope":              where,
			"user remove nope":               where,
			"policy check nope pull a":       where,
			"policy check token:nope pull a": where,
			"stats nope --json":              "",
			"ls nope --data data":            "",
			"ls Nope":                        "",
		} {
			cmd := exec.Command(itself(t), strings.Fields(args)...)
			cmd.Dir, cmd.Env = home, append(os.Environ(), mainVariable+"=1")
			said, err := cmd.CombinedOutput()
			if names := strings.Contains(string(said), "(in the registry"); err == nil || names != (want != "") || !strings.HasSuffix(string(said), want) {
				t.Errorf("berth %s (served: %t) ends with %v, and says\n%swant\n%s", args, served, err, said, want)
			}
		}
	}
}

func TestBackupNamesWhatItCopies(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.stop()
	dest := filepath.Join(t.TempDir(), "copy")
	back := "to look into it: berth --data " + dest + " --read-only\nto go back to it: stop Berth, move the damaged " + r.cfg.dir + " away, copy " + dest + " there, "
	if got := tell(t, nil, "", "backup", dest, "--data", r.cfg.dir); got.code != 0 || !strings.HasPrefix(got.out, "copied the registry "+r.cfg.dir+" to "+dest+"\n") || !strings.Contains(got.out, back) {
		t.Errorf("backup ends with %d, and says\n%s%s", got.code, got.out, got.err)
	}
	if got := tell(t, nil, "", "backup", dest, "--data", r.cfg.dir, "--json"); got.code != 0 || !strings.HasPrefix(got.out, "{") {
		t.Errorf("backup --json ends with %d, and says\n%s%s", got.code, got.out, got.err)
	}
}

func TestDirectoryInUseIsNamed(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	if got := tell(t, nil, "", "ls", "--data", r.cfg.dir); got.code != 1 || !strings.Contains(got.err, r.cfg.dir+" is in use by another berth process; stop that first, or name another with --data\n") {
		t.Errorf("ls ends with %d, and says\n%s", got.code, got.err)
	}
	at, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(at, r.cfg.dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := tell(t, nil, "", "ls", "--data", relative); !strings.HasPrefix(got.err, "berth: "+r.cfg.dir+" is in use") {
		t.Errorf("ls with a relative --data says\n%s", got.err)
	}
}

// Where there is no registry, each command that looks for one says so, and none tells of a
// registry that is open. Files that are written before the first start are read.
func TestWhereNoRegistryIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, command := range []string{"user list", "user list --json", "user passwd kim", "user remove kim", "policy check", "policy check kim pull a",
		"policy check --anonymous-pull", "token list", "token revoke ci", "ls", "log", "stats", "uploads", "gc", "check", "retain"} {
		for place, want := range map[string]string{dir: "there is no registry in " + dir, filepath.Join(dir, "none"): "there is no directory " + filepath.Join(dir, "none")} {
			got := tell(t, nil, "", append(strings.Fields(command), "--data", place)...)
			if got.code != 1 || got.out != "" || !strings.HasPrefix(got.err, "berth: "+want+"; name the registry's directory with --data or BERTH_DATA") {
				t.Errorf("berth %s ends with %d, and says\n%s%swant\n%s", command, got.code, got.out, got.err, want)
			}
		}
	}
	r := startRegistry(t)
	r.off()
	if got := tell(t, nil, "", "user", "list", "--data", r.cfg.dir); got.code != 0 || !strings.HasPrefix(got.out, "There are no users: everybody") {
		t.Errorf("berth user list without users ends with %d, and says\n%s%s", got.code, got.out, got.err)
	}
	guarded("[[rule]]\nwho = [\"kim\"]\nrepositories = [\"**\"]\nallow = [\"pull\"]\n", "kim")(&config{storeConfig: storeConfig{dirConfig: dirConfig{dir: dir}}})
	for command, want := range map[string]string{"user list": "NAME", "policy check": "rule 1: ", "policy check kim pull a": "yes: "} {
		if got := tell(t, nil, "", append(strings.Fields(command), "--data", dir)...); got.code != 0 || !strings.HasPrefix(got.out, want) {
			t.Errorf("berth %s before the first start ends with %d, and says\n%s%s", command, got.code, got.out, got.err)
		}
	}
}
