// What newcomers type, and what they are told.

package main

import (
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

		// The command after the flags.
		{"--data|d3|ls", `unexpected "ls"; write the command first: berth ls --data d3`},
		{"--data|ls|ls|a:1|--read-only", "write the command first: berth ls a:1 --data ls --read-only"},
		{"--data|d3|lss", `unexpected "lss": berth serve takes only flags`},
		{"--data=|ls", "--data is empty (perhaps by a variable that is not set): name a directory"},
		{"ls|--data=", "--data is empty (perhaps by a variable that is not set): name a directory"},

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
	if got := tell(t, nil, "", "-v"); got.code != 0 || got.out != "berth "+buildVersion()+"\n" {
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
