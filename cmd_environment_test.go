//go:build unix

// The environment: variables that mean nothing are refused.

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestVariablesThatMeanNothingAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // somebody else's, so that no server starts there
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ variable, want string }{
		{"BERTH_DTAA=/srv/x", "BERTH_DTAA is unknown; is it meant to be BERTH_DATA?"},
		{"BERTH_HTPASWD=/srv/x", "is it meant to be BERTH_HTPASSWD?"},
		{"BERTH_LOGLEVEL=debug", "is it meant to be BERTH_LOG_LEVEL?"},
		{"BERTH_NO_DELETES=true", "is it meant to be BERTH_NO_DELETE?"},
		{"BERTH_STORAGE=/srv/x", "BERTH_STORAGE is unknown: Berth has none but those of its flags"},
		{"BERTH_PORT=5001", "BERTH_ADDR=:5001"},

		// Flags of this command and of others.
		{"BERTH_DATA=/srv/x", ""},
		{"BERTH_DRY_RUN=true", ""},
		{"BERTH_STORAGE=", ""}, // not set, as in a compose file
		{"BERTHDATA=x", ""},
		// What Kubernetes sets for a Service called berth, with a port that has a name, and for one called berth-ui;
		// and Docker for a linked container.
		{"BERTH_SERVICE_HOST=10.43.0.9", ""},
		{"BERTH_SERVICE_PORT=5000", ""},
		{"BERTH_SERVICE_PORT_REGISTRY=5000", ""},
		{"BERTH_PORT=tcp://10.43.0.9:5000", ""},
		{"BERTH_PORT_5000_TCP=tcp://10.43.0.9:5000", ""},
		{"BERTH_PORT_5000_TCP_PROTO=tcp", ""},
		{"BERTH_PORT_5000_TCP_PORT=5000", ""},
		{"BERTH_PORT_5000_TCP_ADDR=10.43.0.9", ""},
		{"BERTH_UI_SERVICE_HOST=10.43.0.9", ""},
		{"BERTH_UI_PORT_80_TCP_ADDR=10.43.0.9", ""},
		{"BERTH_NAME=/proxy/berth", ""},
		{"BERTH_ENV_BERTH_DATA=/data", ""},
	} {
		for _, args := range [][]string{
			{"--data", dir, "--addr", "127.0.0.1:0"},
			{"ls", "--data", dir},
			{"user", "list", "--data", dir},
		} {
			ctx, stop := context.WithCancel(t.Context())
			err := run(ctx, args, environment{x.variable}, strings.NewReader(""), stopper(stop), io.Discard)
			stop()
			refused := err != nil && strings.Contains(err.Error(), "environment variable")
			if refused != (x.want != "") || refused && !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s berth %v: %v, want %q", x.variable, args, err, x.want)
			}
		}
		for _, args := range [][]string{{"version"}, {"help"}, {"gc", "-h"}} {
			if err := run(t.Context(), args, environment{x.variable}, strings.NewReader(""), io.Discard, io.Discard); err != nil {
				t.Errorf("%s berth %v: %v, which works on nothing", x.variable, args, err)
			}
		}
	}
	var log strings.Builder
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	err := run(ctx, []string{"--data", dir, "--addr", "127.0.0.1:0", "--log-format", "json"}, environment{"BERTH_DTAA=x"}, strings.NewReader(""), io.Discard, io.MultiWriter(&log, stopper(stop)))
	if !errors.Is(err, errLogged) || !strings.HasPrefix(log.String(), "{") || !strings.Contains(log.String(), "BERTH_DTAA") {
		t.Errorf("with a log in JSON: %v\n%s", err, &log)
	}
}

// The program asks the system for its environment.
func TestVariablesOfTheProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(itself(t), "ls", "--data", t.TempDir())
	cmd.Env = append(os.Environ(), mainVariable+"=1", "BERTH_DTAA=x")
	if said, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(said), "BERTH_DATA?") {
		t.Errorf("%v: %s", err, said)
	}
}

// A server says once that variables of registry:2 have no effect, and means those of nobody else.
func TestVariablesOfRegistry2(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ variables, want string }{
		{"REGISTRY_HTTP_ADDR=:5001", `variables=REGISTRY_HTTP_ADDR`},
		{"REGISTRY_AUTH=htpasswd REGISTRY_AUTH_HTPASSWD_PATH=/x REGISTRY_STORAGE_DELETE_ENABLED=true REGISTRY_PROXY_REMOTEURL=x REGISTRY_LOG_LEVEL=info REGISTRY_LOGLEVEL=info REGISTRY_STORAGE=s3",
			`variables="REGISTRY_AUTH, REGISTRY_AUTH_HTPASSWD_PATH, REGISTRY_LOGLEVEL, REGISTRY_LOG_LEVEL, REGISTRY_PROXY_REMOTEURL, REGISTRY_STORAGE, REGISTRY_STORAGE_DELETE_ENABLED"`},
		{"REGISTRY_AUTH_FILE=/x REGISTRY_URL=x REGISTRY_USER=x REGISTRY_PORT=tcp://10.0.0.1:5000 REGISTRY_HTTP_SERVICE_HOST=10.0.0.1 REGISTRY_HTTP_PORT=tcp://10.0.0.1:80 REGISTRY_HTTP_ADDR= MY_REGISTRY_HTTP_ADDR=x", ""},
	} {
		ctx, stop := context.WithCancel(t.Context())
		var log logBuffer
		err := run(ctx, []string{"--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data")}, strings.Fields(x.variables), strings.NewReader(""), stopper(stop), &log)
		stop()
		const warning = "Berth does not read the variables of registry:2; docs/migrate.md has what to use instead"
		times := strings.Count(log.String(), warning)
		at, loss := strings.Index(log.String(), warning), strings.Index(log.String(), `variables="REGISTRY_PROXY_REMOTEURL, REGISTRY_STORAGE"`)
		if meant := strings.Contains(x.variables, "PROXY"); meant != (loss >= 0 && loss < at) || strings.Contains(log.String(), "by these variables") != meant {
			t.Errorf("with %s, what is lost is not named first and apart:\n%s", x.variables, &log)
		}
		if err != nil || times != strings.Count(x.want, "variables=") || !strings.Contains(log.String(), x.want) {
			t.Errorf("with %s a server ends with %v, and logs\n%swant %s", x.variables, err, log.String(), x.want)
		}
	}
}
