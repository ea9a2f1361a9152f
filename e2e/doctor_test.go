package e2e

// The doctor before real proxies and real registries: nothing wrong where they are set up as docs/deploy.md
// says, and the one thing that is wrong where a line is missing or too many.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// doctorFinds runs berth doctor, and returns the names of what is wrong. ca is trusted by the system.
func doctorFinds(t *testing.T, ca *ca, stdin string, args ...string) (faults []string, text string) {
	t.Helper()
	cmd := exec.Command(berthBinary, append([]string{"doctor", "--json", "--size", "3MiB"}, args...)...)
	cmd.Env, cmd.Stdin = plainEnv(tempDir(t)), strings.NewReader(stdin)
	if ca != nil {
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+ca.file)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var found struct {
		Well     bool
		Findings []struct{ Check, Level, Fault, Says string }
	}
	if json.Unmarshal(stdout.Bytes(), &found) != nil {
		t.Fatalf("berth doctor: %v\n%s%s", err, &stdout, &stderr)
	}
	for _, x := range found.Findings {
		// Which clients this machine has, and whether one wants TLS of it, is not what these tests are about.
		if x.Level != "ok" && x.Level != "note" && !slices.Contains([]string{"docker", "podman", "containerd", "k3s", "buildkit", "system"}, x.Check) && !slices.Contains(faults, x.Fault) {
			faults = append(faults, x.Fault)
		}
	}
	return faults, stdout.String()
}

func TestDoctorBehindNginx(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	reg := startBerthWithUsers(t, "--trusted-proxies", "127.0.0.1")
	good := strings.ReplaceAll(fromDeploy(t, "nginx"), "127.0.0.1:5000", reg.addr)
	for _, x := range []struct {
		name, remove, add string
		want              string
	}{
		{name: "as it should be"},
		{"without a size", "client_max_body_size 0;", "", "body-limit"},
		{"without the scheme", "proxy_set_header X-Forwarded-Proto $scheme;", "", "realm-http"},
		{"without the name", "proxy_set_header Host $http_host;", "", "realm-inner"},
		{"without the password", "", `proxy_set_header Authorization "";`, "authorization-dropped"},
		{"without digests", "", "proxy_hide_header Docker-Content-Digest;", "header-docker-content-digest"},
		{"with compression", "", "gzip on; gzip_types *; gzip_proxied any; gzip_min_length 1;", "compressed"},
		{"with pulls alone", "", "limit_except GET { deny all; }", "method-blocked"},
		{"without ranges", "", `proxy_set_header Range ""; proxy_force_ranges off;`, "ranges-dropped"},
	} {
		t.Run(x.name, func(t *testing.T) {
			does := good
			if x.remove != "" {
				if strings.Count(good, x.remove) != 1 {
					t.Fatalf("the nginx of docs/deploy.md should have %q once:\n%s", x.remove, good)
				}
				does = strings.Replace(good, x.remove, "", 1)
			}
			does = strings.Replace(does, "location / {", "location / {\n"+x.add+"\n", 1)
			addr := startNginxWith(t, ca, does)
			got, text := doctorFinds(t, ca, kimsPassword+"\n", "--user", "kim", addr+"/lib/doctor")
			if strings.Join(got, " ") != x.want {
				t.Errorf("the doctor finds %v, want %s\n%s", got, x.want, text)
			}
			if x.want != "" && !strings.Contains(text, "nginx") {
				t.Errorf("the doctor does not see that it is nginx:\n%s", text)
			}
		})
	}
}

// Other registries have nothing wrong either.
func TestDoctorOfDistribution(t *testing.T) {
	t.Parallel()
	registry, addr := newClient(t, "registry"), freeAddress(t)
	config := filepath.Join(registry.dir, "config.yml")
	writeFile(t, config, fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %q}\n", filepath.Join(registry.dir, "data"), addr))
	if err := os.Mkdir(filepath.Join(registry.dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	launchProxy(t, registry, addr, "serve", config)
	if got, text := doctorFinds(t, nil, "", addr); got != nil {
		t.Errorf("the doctor finds %v\n%s", got, text)
	}
}

// What the doctor says of podman's configuration is what skopeo, which reads the same, does with it.
func TestDoctorAgreesWithSkopeo(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t), newCA(t)
	reg := startBerth(t, "--trusted-proxies", "127.0.0.1")
	secure := startNginxWith(t, ca, strings.ReplaceAll(fromDeploy(t, "nginx"), "127.0.0.1:5000", reg.addr))
	image, _ := ociLayout(t, []string{"amd64"}, randomLayer(7, 1000))
	type files map[string]string
	for _, x := range []struct {
		name  string
		at    string
		files files // below ~/.config/containers
		works bool
	}{
		{"without the CA", secure, files{}, false},
		{"with the CA", secure, files{"certs.d/" + secure + "/ca.crt": read(t, ca.file)}, true},
		{"with another CA", secure, files{"certs.d/" + secure + "/ca.crt": read(t, other.file)}, false},
		{"with a CA that is not named .crt", secure, files{"certs.d/" + secure + "/ca.pem": read(t, ca.file)}, false},
		{"with a CA for all ports", secure, files{"certs.d/127.0.0.1/ca.crt": read(t, ca.file)}, false},
		{"insecure", secure, files{"registries.conf": "[[registry]]\nlocation = \"" + secure + "\"\ninsecure = true\n"}, true},
		{"plain", reg.addr, files{}, false},
		{"plain, allowed", reg.addr, files{"registries.conf": "[[registry]]\nlocation = \"" + reg.addr + "\"\ninsecure = true\n"}, true},
		{"plain, allowed in version 1", reg.addr, files{"registries.conf": "[registries.insecure]\nregistries = ['" + reg.addr + "']\n"}, true},
		{"blocked", secure, files{"certs.d/" + secure + "/ca.crt": read(t, ca.file), "registries.conf": "[[registry]]\nlocation = \"" + secure + "\"\nblocked = true\n"}, false},
		{"broken", secure, files{"certs.d/" + secure + "/ca.crt": read(t, ca.file), "registries.conf": "[[registry]\n"}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			skopeo := newClient(t, "skopeo")
			for name, text := range x.files {
				path := filepath.Join(skopeo.dir, ".config/containers", name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				writeFile(t, path, text)
			}
			cmd := exec.Command(berthBinary, "doctor", "--json", "--no-push", x.at)
			cmd.Env = skopeo.env
			out, _ := cmd.Output()
			var found struct {
				Findings []struct{ Check, Level, Fault string }
			}
			if err := json.Unmarshal(out, &found); err != nil {
				t.Fatalf("berth doctor says %s", out)
			}
			well := true
			for _, d := range found.Findings {
				if d.Check == "podman" && d.Level == "problem" {
					well = false
				}
			}
			_, said, err := skopeo.exec("", []string{"copy", "--insecure-policy", "oci:" + image, "docker://" + x.at + "/lib/app:1"})
			if works := err == nil; works != x.works || well != x.works {
				t.Errorf("skopeo works: %t, the doctor says so: %t, want %t\n%s\n%s", works, well, x.works, said, out)
			}
		})
	}
}
