//go:build unix

// What the doctor on the server says of a registry that its first users had: and each advice is one that works.

package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An endpoint that takes no events is named, with how many wait.
func TestServerDoctorEndpointIsDown(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, hooked(t, oneEndpoint, "http://hook.example.org"), func(c *config) {
		c.dialEvents = func(context.Context, string, string) (net.Conn, error) { return nil, errDialRefused }
	}).served()
	fresh, _ := json.Marshal(backupCopy{time.Now(), "/mnt/away"})
	if err := os.WriteFile(filepath.Join(r.cfg.dir, lastBackupFile), fresh, 0o600); err != nil {
		t.Fatal(err)
	}
	r.wantDoctor(nil)
	stop := r.sendEvents()
	defer stop()
	r.pushImage("home/app", "1", "{}", "layer")
	until(t, r.log.String, func(text string) bool { return strings.Contains(text, "an endpoint takes no events") })
	r.wantDoctor([]string{"endpoint-down"})
	_, text := r.doctor()
	if !strings.Contains(text, "the endpoint one (http://hook.example.org/…) did not take what was sent to it last: 3 events wait, the first of them since ") || strings.Contains(text, "hidden") {
		t.Errorf("of an endpoint that is down the doctor says\n%s", text)
	}
}

// A good backup elsewhere makes up for a later one on the same disk.
func TestServerDoctorKnowsBackupsByDestination(t *testing.T) {
	t.Parallel()
	r := startRegistry(t).served()
	r.pushImage("home/app", "1", "config", "layer")
	path := filepath.Join(r.cfg.dir, lastBackupFile)
	write := func(c backupCopy) {
		t.Helper()
		text, _ := json.Marshal(c)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	backup := func(dest string) {
		t.Helper()
		if _, err := r.ask(t.Context(), options{Command: "backup", Args: []string{dest}}); err != nil {
			t.Fatal(err)
		}
	}
	dest := filepath.Join(t.TempDir(), "copy")
	write(backupCopy{time.Now().Add(-time.Hour), "/mnt/away"})
	backup(dest)
	backup(dest)
	r.wantDoctor(nil)
	if last, err := readLastBackup(r.cfg.dir); err != nil || len(last.copies()) != 2 || last.Destination != dest {
		t.Errorf("of three backups to two places there is %+v, %v", last, err)
	}
	write(backupCopy{time.Now().Add(-30 * 24 * time.Hour), "/mnt/away"})
	backup(dest)
	r.wantDoctor([]string{"backup-on-same-disk"})
	if _, text := r.doctor(); !strings.Contains(text, `"17 3 * * * `) || !strings.Contains(text, " backup --data "+r.cfg.dir+" /mnt/usb/berth") {
		t.Errorf("the doctor has no line for cron:\n%s", text)
	}
}

// A server that does not run is started with the flags that can be seen.
func TestServerDoctorStartsWithFlags(t *testing.T) {
	t.Parallel()
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("kim:"+hashOf("x")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startRegistry(t, func(c *config) { c.auth.usersFile, c.usersFile = users, users })
	if err := rememberFlags(r.st); err != nil {
		t.Fatal(err)
	}
	r.stop()
	s := startSecure(t, tlsOptions{mode: "auto"})
	if err := os.CopyFS(filepath.Join(r.cfg.dir, "tls"), os.DirFS(filepath.Join(s.o.dir, "tls"))); err != nil {
		t.Fatal(err)
	}
	want := "berth --data " + r.cfg.dir + " --tls=auto --htpasswd " + users + " ..."
	if _, text := r.doctor(); !strings.Contains(text, `"`+want+`"`) {
		t.Errorf("the doctor does not say %s:\n%s", want, text)
	}
}

// The CA of a machine that had another name is named on both sides, and no advice is one that would be refused.
func TestDoctorOfCAOfAnotherName(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "auto", hostname: "pi"})
	r := startRegistry(t)
	s.stop()
	s = newSecure(t, s.o)
	s.http.Handler = r.server.handler()
	s.start()
	d := doctorAt(t, s.addr)
	d.host, d.noPush = "pc", true
	d.examine(t.Context())
	if !d.says("Berth local CA (pi)") || !d.says("remove the directory tls") || !d.says("was made without the name pc") {
		t.Errorf("of a name that the CA cannot vouch for the doctor says %+v", d.list)
	}

	called := func(name string) func(*config) { return func(c *config) { c.doctor.hostname = name } }
	r.served()
	r.server.address = s.addr
	if faults, text := r.doctor(called("pi")); strings.Contains(text, "ca-not-for-name") {
		t.Errorf("of its own name the doctor finds %v\n%s", faults, text)
	}
	if faults, text := r.doctor(called("pc")); !strings.Contains(text, `"ca-not-for-name"`) || !strings.Contains(text, "this machine is called pc") {
		t.Errorf("of another name the doctor finds %v\n%s", faults, text)
	}
}

// What is said of memory and of docker on this machine is what is meant.
func TestDoctorSaysWhatItMeans(t *testing.T) {
	t.Parallel()
	_, limited := memory()
	r := startRegistry(t).served()
	_, text := r.doctor()
	if own, group := strings.Contains(text, "this machine has "), strings.Contains(text, "its control group "); own && limited || group && !limited || strings.Contains(text, "the process may have") {
		t.Errorf("of memory, limited by a group: %t, the doctor says\n%s", limited, text)
	}

	ca := newIssuer(t)
	d := doctorAt(t, behindTLS(t, certified(t, ca), r.server.handler()))
	there := d.dial
	d.host, d.noPush = "localhost", true
	d.lookup = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	d.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return there(ctx, network, doctorAddress+":5000")
	}
	d.file(t, "/etc/docker/certs.d/localhost:5000/ca.crt", string(ca.pem()))
	d.examine(t.Context())
	if !d.says("it verifies no certificate at the addresses of this machine itself") || d.says("it takes any certificate, by") {
		t.Errorf("of docker on the machine itself the doctor says %+v", d.list)
	}

	// A proxy that does not reach the registry: what to do is done on the server.
	d = doctorAt(t, inPlain(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })))
	d.wantFaults(t, "gateway-fails")
	if !d.says("sudo berth doctor --data /var/lib/berth") {
		t.Errorf("the doctor does not say what to do on the server: %+v", d.list)
	}
	if lines := strings.Join(nginxLines, "\n"); !strings.Contains(lines, "# where the registry listens") {
		t.Errorf("the lines for nginx are\n%s", lines)
	}
}
