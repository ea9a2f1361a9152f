package e2e

// The pages, one test each: where each begins, and what has to be there for its examples. examples_test.go runs them.

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const password = "correct horse battery"

// What berth user add and docker login ask for.
var (
	twice = []answer{{"assword", password}, {"gain", password}}
	once  = []answer{{"assword:", password}}
)

func TestReadme(t *testing.T) {
	l := startLab(t)
	p := open(t, l, "README.md")
	l.checkout("pi", "README.md")
	l.docker("pi")
	l.docker("pc")

	l.must("me@pi:berth", "CGO_ENABLED=0 go build -trimpath -ldflags=-s .") // who has the file need not
	p.run("me@pi:berth", "sudo install berth")
	p.run("me@pi:berth", "CGO_ENABLED=0 go build")
	for name, machine := range map[string]string{"berth-arm64": "b700", "berth-armv6": "2800"} { // as ELF has it, at byte 18
		if got := l.must("me@pi:berth", "od -An -tx1 -j18 -N2 "+name+" | tr -d ' \\n'"); got != machine {
			t.Errorf("%s is for machine %s, want %s", name, got, machine)
		}
	}
	p.run("me@pi:berth", "berth")
	p.run("me@pi", "docker push")

	// From a second machine: not without the setting, and with it.
	const image = "pi.local:5000/home/alpine:3.22"
	if said, err := l.try("me@pc", "docker pull "+image); err == nil || !strings.Contains(said, "http: server gave HTTP response to HTTPS client") {
		t.Errorf("docker pull without TLS says\n%s", said)
	}
	p.insecure("pc")
	l.must("me@pc", "docker pull "+image)
	l.must("root@pc", "docker rmi "+image+" && rm /etc/docker/daemon.json")
	l.restartDocker("pc")

	l.interrupt("pi:5000")
	p.run("me@pi:berth", "berth user add kim", twice...)
	p.run("me@pc", "ssh me@pi", once...)

	l.write("me@pi", "rule.toml", p.block("toml", "[[rule]]").text)
	l.must("me@pi:berth", "cat ~/rule.toml >>data/policy.toml && berth policy check kim admin home/app && berth policy check anonymous pull public/app")
	p.run("me@pi:berth", "berth token create ci")
	l.interrupt("pi:5000")

	p.skip("console", "$ sudo ./berth install", "machines here have no systemd; TestInstallUnderSystemd has one")
	l.service()
	l.must("root@pi", "mkdir /mnt/usb")
	p.run("me@pi", "sudo berth ls")
	l.push("pi", "localhost:5000/home/app:1.0", "amd64", "an app")
	for _, row := range regexp.MustCompile("(?m)^\\| (`berth .*?) \\|").FindAllStringSubmatch(read(t, "../README.md"), -1) {
		for _, command := range regexp.MustCompile("`(berth [^`]*)`").FindAllStringSubmatch(row[1], -1) {
			if strings.Contains(command[1], "HOST:PORT") || strings.Contains(command[1], "'COMMAND'") {
				continue // TestDoctorBehindNginx and TestEventsPage have one with real names
			}
			if command[1] == "berth doctor" {
				command[1] += "; test $? -le 1" // the machine's file system is in memory, which is a problem
			}
			t.Log(l.must("root@pi", "export BERTH_DATA=/var/lib/berth\n"+command[1]))
		}
	}
	p.skip("nginx", "location", "the same as in docs/deploy.md; TestNginx runs it")
	p.skip("console", "$ go test", "it would run itself")
}

// insecure puts the next block where Docker reads it on a machine, and restarts Docker.
func (p *page) insecure(machine string) {
	p.t.Helper()
	p.lab.write("root@"+machine, "/etc/docker/daemon.json", p.block("json", `{ "insecure-registries"`).text)
	p.lab.restartDocker(machine)
}

// service installs Berth on pi as docs/deploy.md has it by hand, and starts it.
func (l *lab) service() {
	l.t.Helper()
	p := &page{t: l.t, lab: l, name: "docs/deploy.md", rest: blocksOf(l.t, "docs/deploy.md")}
	p.rest = p.rest[slices.IndexFunc(p.rest, func(b block) bool { return strings.HasPrefix(b.text, "$ sudo useradd") }):]
	l.must("me@pi", p.rest[0].steps(l.t)[0].command)
	p.rest = p.rest[1:]
	l.writeUnits(p)
	l.must("root@pi", "systemctl daemon-reload && systemctl enable --now berth")
	l.until("root@pi", "curl -s -o /dev/null localhost:5000/readyz")
}

// writeUnits writes the units of docs/deploy.md, which are the next blocks, on pi.
func (l *lab) writeUnits(p *page) {
	l.t.Helper()
	for _, unit := range [][2]string{{"service", "ExecStart="}, {"socket", "ListenStream="}, {"target", "PartOf="}} {
		l.write("root@pi", "/etc/systemd/system/berth."+unit[0], p.block("ini", unit[1]).text)
	}
}

// push makes an image and has a machine's Docker push it.
func (l *lab) push(machine, name, arch, content string) {
	l.t.Helper()
	l.image(machine, name, arch, map[string]string{"hello": content})
	l.must("me@"+machine, "docker push "+name)
}

// trust has a machine trust the CA of a registry on pi.
func (l *lab) trust(machine, registry string) {
	l.t.Helper()
	l.must("root@"+machine, `curl -sSf -o /tmp/ca.crt http://`+registry+`/trust.crt
mkdir -p /etc/docker/certs.d/`+registry+`
cp /tmp/ca.crt /etc/docker/certs.d/`+registry+`/
cat /tmp/ca.crt >>/etc/ssl/certs/ca-certificates.crt`)
}

func TestAccessPage(t *testing.T) {
	l := startLab(t)
	p := open(t, l, "docs/access.md")
	l.install("pi", berthBinary, "berth")
	l.docker("pc")
	l.serve("me@pi", "berth")

	p.run("me@pi", "berth user add", twice...)
	l.must("me@pi", "for name in ann bob; do echo '"+password+"' | berth user add $name; done")
	second := strings.Split(p.block("toml", `admins = ["kim", "ann"]`).text, "\n")
	l.must("me@pi", `sed -i 's/^admins .*/`+second[1]+`/' data/policy.toml && berth policy check kim admin home/app && berth policy check ann admin home/app`)
	l.write("me@pi", "data/policy.toml", p.block("toml", "family =").text)
	l.must("me@pi", "berth policy check kim admin home/app")
	if said, _ := l.try("me@pi", "berth policy check ann delete home/app"); !strings.HasPrefix(said, "no: ") {
		t.Errorf("may ann delete? %s", said)
	}
	p.run("me@pi", "berth policy check")
	p.run("me@pi", "berth token create ci")
	for range 2 { // a directory, and a provider
		p.skip("toml", "[", "people_test.go runs it, with a directory and a provider")
		if p.rest[0].language == "console" {
			p.run("me@pi", "install -m 600")
		}
		p.skip("toml", "[[rule]]", "people_test.go runs it, too")
		if p.rest[0].language == "console" {
			p.skip("console", "$ berth policy check ldap:", "people_test.go runs it, too")
		}
	}
	p.insecure("pc")
	l.must("me@pc", "echo '"+password+"' | docker login -u ann --password-stdin pi.local:5000")
	p.same("console", "$ ssh", "README.md")
	p.skip("console", "$ ssh -t me@pi", "there is no scp here")
}

// same passes over a block whose lines another page has, too.
func (p *page) same(language, has, page string) {
	p.t.Helper()
	if b := p.block(language, has); !strings.Contains(read(p.t, filepath.Join("..", page)), "\n"+b.text) {
		p.t.Errorf("%s:%d: %s does not have this:\n%s", p.name, b.line, page, b.text)
	}
}

func TestTagsPage(t *testing.T) {
	l := startLab(t)
	p := open(t, l, "docs/tags.md")
	l.install("pi", berthBinary, "berth")
	l.client("pc", "helm")
	l.docker("pc")
	l.docker("pi")
	l.serve("me@pi", "berth --tls=auto")
	l.trust("pi", "pi.local:5000")
	l.trust("pc", "pi.local:5000")
	var policy strings.Builder
	rules := func(has string) {
		t.Helper()
		policy.WriteString(p.block("toml", has).text + "\n")
		l.write("me@pi", "data/policy.toml", policy.String())
		l.must("me@pi", "berth policy check")
	}

	rules("[[index]]")
	l.image("pc", "pi.local:5000/home/app:1.0", "amd64", hello(t))
	l.image("pi", "pi.local:5000/home/app:1.0", "arm64", map[string]string{"hello": "of another kind"})
	p.run("me@pi", "berth ls")

	rules("[[immutable]]")
	l.push("pc", "pi.local:5000/release/app:v1.2", "amd64", "the first")
	l.image("pc", "pi.local:5000/release/app:v1.2", "amd64", map[string]string{"hello": "the second"})
	p.runFailing("me@pc", "docker push", 1)

	l.write("me@pc", "app/Chart.yaml", "apiVersion: v2\nname: app\nversion: 1.0.0\n")
	p.run("me@pc", "TZ=UTC helm push")

	rules("[[retain]]")
	for i, tag := range []string{"1.8", "1.9", "1.10", "1.11", "1.12", "latest"} {
		l.push("pc", "pi.local:5000/ci/app:"+tag, "amd64", fmt.Sprint(i))
	}
	l.columns = 100
	p.run("me@pi", "berth retain")
	l.columns = 80
	l.interrupt("pi:5000")

	// A registry with two users.
	l.must("me@pi", "rm -r data && for name in ann bob; do echo '"+password+"' | berth user add $name; done")
	l.serve("me@pi", "berth")
	for i, name := range []string{"ann", "bob"} {
		l.image("pi", "localhost:5000/home/app:1.0", "amd64", map[string]string{"hello": fmt.Sprint(i)})
		l.must("me@pi", "echo '"+password+"' | docker login -u "+name+" --password-stdin localhost:5000 && docker push localhost:5000/home/app:1.0")
	}
	p.run("me@pi", "berth rm")
}

func TestStoragePage(t *testing.T) {
	l := startLab(t)
	p := open(t, l, "docs/storage.md")
	l.install("pi", berthBinary, "berth")
	l.docker("pi")
	l.serve("me@pi", "berth")
	l.must("root@pi", "mkdir /mnt/usb && echo 'usb /mnt/usb tmpfs defaults 0 0' >>/etc/fstab && mount /mnt/usb")
	p.run("me@pi", "sudo umount /mnt/usb")
	if said, err := l.try("root@pi", "umount /mnt/usb && berth backup /mnt/usb/berth --data /home/me/data"); err == nil || !strings.Contains(said, "berth.not-mounted") {
		t.Errorf("a backup to a disk that is not mounted says\n%s", said)
	}
	l.must("root@pi", "mount /mnt/usb && chown me /mnt/usb")
	l.push("pi", "localhost:5000/home/app:1.0", "amd64", "the first")
	l.push("pi", "localhost:5000/home/app:1.0", "amd64", "the second")
	l.push("pi", "localhost:5000/home/other:1.0", "amd64", "the second")
	p.run("me@pi", "berth stats")
	p.skip("console", "$ sudo berth rm", "the disk is not full; gc_promises_test.go has what is kept, and for how long")
	p.run("me@pi", "berth backup")
	l.must("me@pi", "berth check --deep --data /mnt/usb/berth")
	l.interrupt("pi:5000")
	comeBack(l, p)
	p.skip("", "17 3 * * *", "there is no cron here; the command is the one above")
	// After a day or so; what has been served for less has no snapshot yet.
	l.must("me@pi", "mkdir -p data/snapshots && cp /mnt/usb/berth/berth.db data/snapshots/berth-000000000060.db && echo not a database >data/berth.db")
	p.runFailing("me@pi", "berth", 1)
	t.Log(l.must("me@pi", "berth restore && berth check"))
}

// comeBack has the service on pi go back to a backup, as the page says.
func comeBack(l *lab, p *page) {
	l.t.Helper()
	l.service()
	l.must("root@pi", "cp -a /mnt/usb/berth /mnt/usb/kept && chown -R berth: /mnt/usb/berth")
	p.run("me@pi", "sudo systemctl stop berth")
	if said := l.must("root@pi", "cat /run/berth.log; berth ls --data /var/lib/berth && systemctl stop berth"); !strings.Contains(said, "home/app") {
		l.t.Errorf("after going back to the backup there is\n%s", said)
	}
	l.must("root@pi", "rm -r /mnt/usb/berth && mv /mnt/usb/kept /mnt/usb/berth")
}

func TestDeployPage(t *testing.T) {
	l := startLab(t)
	p := open(t, l, "docs/deploy.md")
	need(t, "systemd-analyze", "promtool", "prometheus", "nginx", "haproxy", "caddy", "openssl")
	l.install("pi", berthBinary, "berth")

	const installs = "machines here have no systemd; TestInstallUnderSystemd has one"
	p.skip("console", "$ sudo ./berth install", installs)
	p.skip("", "sudo ./berth install --addr", installs)
	p.skip("ini", "WatchdogSec=60", "it is a setting of systemd's; the server's part is in main_service_unix_test.go")
	p.run("me@pi", "sudo useradd")
	const unit = "/etc/systemd/system/berth.service"
	verify := func() {
		t.Helper()
		if said := l.must("root@pi", "systemd-analyze verify "+unit+" 2>&1"); strings.Contains(said, "berth") {
			t.Errorf("systemd-analyze verify says\n%s", said)
		}
		said := l.must("root@pi", "systemd-analyze security --no-pager --offline=true --threshold=25 "+unit)
		t.Log(said[strings.Index(said, "Overall"):])
	}
	l.writeUnits(p)
	verify()
	p.run("me@pi", "sudo install -d -o berth", twice...)
	p.skip("console", "$ sudo mv /srv/berth", "it is in place of the block before")
	l.until("root@pi", "curl -s -o /dev/null localhost:5000/readyz")
	for _, has := range []string{"Environment=BERTH_EXISTING=", "ReadWritePaths="} {
		l.must("root@pi", "mkdir -p "+unit+".d /mnt/usb/berth")
		l.write("root@pi", unit+".d/override.conf", p.block("ini", has).text)
		verify()
	}
	l.must("root@pi", "rm -r "+unit+".d")
	deployInContainer(l, p)
	p.run("me@pi", "berth --addr 127.0.0.1:5000 --trusted-proxies")
	p.skip("", "sudo berth install --addr", installs)
	l.interrupt("pi:5000")
	deployBehindProxies(l, p)

	// Prometheus, with the TLS of the unit.
	l.must("root@pi", "systemctl enable --now berth")
	l.until("root@pi", "curl -s -o /dev/null localhost:5000/readyz")
	said := p.run("me@pi", "sudo berth token create prometheus")
	token := regexp.MustCompile(`berth_\S+`).FindString(said)
	l.must("me@pc", "curl -sSf -o ca.crt http://pi.local:5000/trust.crt")
	config := strings.ReplaceAll(p.block("yaml", "scrape_configs:").text, "berth_…", token)
	if !strings.Contains(config, token) {
		t.Errorf("the page does not say where the token belongs:\n%s", config)
	}
	l.write("me@pc", "prometheus.yml", "global: { scrape_interval: 1s }\n"+config)
	l.must("me@pc", "promtool check config prometheus.yml")
	l.open("me@pc", "prometheus --config.file=prometheus.yml --storage.tsdb.path=tsdb --web.listen-address=localhost:9090")
	l.until("me@pc", `curl -sSf 'localhost:9090/api/v1/query?query=up' | grep -F '"job":"berth"' | grep '"1"'`)
	l.must("me@pc", `curl -sSf 'localhost:9090/api/v1/query?query=berth_repositories' | grep '"instance":"pi.local:5000"'`)

	const faults = "what it finds depends on the machine; doctor_test.go, and the root's tests, prepare each fault"
	p.skip("console", "$ berth doctor", faults)
	p.skip("console", "$ sudo berth doctor", faults)
}

// deployInContainer runs Berth in a container of Docker, on pi, whose service is stopped.
func deployInContainer(l *lab, p *page) {
	l.t.Helper()
	l.must("root@pi", "systemctl stop berth")
	l.docker("pi")
	p.run("me@pi", "berth image")
	l.must("me@pi", "docker rm --force registry")
	p.run("me@pi", "sudo install -d")
	l.until("me@pi", "curl -sSf localhost:5000/readyz")
	l.must("me@pi", "docker tag alpine localhost:5000/home/alpine && docker push localhost:5000/home/alpine && docker exec registry /berth ls | grep home/alpine")
	l.must("me@pi", "docker rm --force registry")

	// With TLS, a container must be told what the machine is called.
	l.must("me@pi", `docker run -d --name registry --user 1000:1000 -e BERTH_TLS=auto -e BERTH_TLS_NAME=pi.local -p 5000:5000 -v /srv/berth:/data berth`)
	l.until("me@pi", "curl -sSf -o trust.crt http://localhost:5000/trust.crt")
	l.docker("pc")
	l.must("me@pc", "ssh me@pi docker exec registry /berth trust pi.local:5000 --script | sudo sh")
	l.push("pc", "pi.local:5000/home/app:1.0", "amd64", "an app")
	l.must("me@pi", "docker rm --force registry")
}

// deployBehindProxies has the proxies read what the page shows. Other tests send requests through them.
func deployBehindProxies(l *lab, p *page) {
	l.t.Helper()
	l.write("root@pi", "/tmp/nginx.conf", "events {}\nhttp { server { listen 8443; "+p.block("nginx", "location").text+"} }\n")
	l.must("root@pi", "nginx -t -c /tmp/nginx.conf")
	l.must("root@pi", `mkdir -p /etc/haproxy && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=hub.example.org -keyout /tmp/key -out /tmp/crt 2>&1 &&
cat /tmp/key /tmp/crt >/etc/haproxy/registry.pem`)
	l.write("root@pi", "/tmp/haproxy.cfg", p.block("haproxy", "defaults").text)
	l.must("root@pi", "haproxy -c -f /tmp/haproxy.cfg")
	l.write("root@pi", "/tmp/Caddyfile", p.block("caddyfile", "hub.example.org").text)
	l.must("root@pi", "caddy validate --adapter caddyfile --config /tmp/Caddyfile 2>&1")
	const traefik = "Traefik is in no distribution; TestTraefik sends the headers that it sends"
	p.skip("yaml", "entryPoints:", traefik)
	p.skip("yaml", "http:", traefik)
}

func TestMigratePage(t *testing.T) {
	l := startLab(t)
	p := open(t, l, "docs/migrate.md")
	need(t, "skopeo")
	l.install("pi", berthBinary, "berth")
	for _, name := range []string{"crane", "regctl", "registry"} {
		l.client("pi", name)
	}
	l.docker("pi")
	l.write("me@pi", "old.yml", "version: 0.1\nstorage: { filesystem: { rootdirectory: old } }\nhttp: { addr: \":5000\" }\n")
	l.must("me@pi", "setsid registry serve old.yml >old.log 2>&1 </dev/null &")
	l.until("me@pi", "curl -sSf localhost:5000/v2/")
	for i, name := range []string{"home/app:1.0", "home/app:1.1", "home/web:1", "ci/tool:7", "alpine:3.22"} {
		l.push("pi", "localhost:5000/"+name, "amd64", fmt.Sprint(i))
	}
	p.run("me@pi", "berth --data")
	p.skip("console", "$ berth trust", "the copies are made without TLS; cmd_trust_linux_test.go runs what this prints")
	list := func(port string) string { // of what a registry on pi has
		t.Helper()
		return l.must("me@pi", strings.ReplaceAll(`for r in $(crane catalog HOST); do
	for t in $(crane ls HOST/$r); do echo $r:$t $(crane digest HOST/$r:$t); done
done`, "HOST", "localhost:"+port))
	}
	want := list("5000")
	p.script("me@pi", "for r in $(crane catalog")
	if got := list("5001"); got != want || strings.Count(got, "\n") != 5 {
		t.Errorf("after crane\n%s\nwant\n%s", got, want)
	}
	empty := func() {
		t.Helper()
		l.interrupt("pi:5001")
		l.must("root@pi", "find /srv/berth -mindepth 1 -delete")
		l.serve("me@pi", "berth --data /srv/berth --addr :5001")
	}
	empty()
	p.script("me@pi", "for r in $(regctl repo ls")
	if got := list("5001"); got != want {
		t.Errorf("after regctl\n%s\nwant\n%s", got, want)
	}
	empty()
	p.script("me@pi", "skopeo sync")
	if got := list("5001"); strings.Count(got, "home/app:") != 2 || strings.Count(got, "\n") != 2 {
		t.Errorf("after skopeo\n%s\nwant home/app:1.0 and home/app:1.1", got)
	}
	if said := p.script("me@pi", "for r in $(crane catalog"); !strings.Contains(said, "home/web:1") || !strings.Contains(said, "alpine:3.22") || strings.Contains(said, "home/app:1") {
		t.Errorf("the comparison says, when only home/app was copied\n%s", said)
	}
	p.skip("console", "$ berth user add kim", "TestReadme starts a registry in the same way")
}

func TestAirgapPage(t *testing.T) {
	l := startLab(t)
	p := open(t, l, "docs/airgap.md")
	l.install("pi", berthBinary, "berth")
	l.install("pc", berthBinary, "berth")
	for _, name := range []string{"crane", "oras"} {
		l.client("pc", name)
	}
	need(t, "skopeo")
	l.docker("pi")

	// Outside, pi is the registry, and is called hub.example.org, too.
	l.must("root@pi", "install -d -o me /mnt/usb && mkdir /root/hub")
	for _, machine := range []string{"pi", "pc"} {
		l.serve("me@"+machine, "berth --data site")
		l.interrupt(machine + ":5000")
	}
	l.serve("me@pi", "berth")
	for _, name := range []string{"home/app:1.0", "home/app:1.1"} {
		l.push("pi", "localhost:5000/"+name, "amd64", name)
	}
	p.run("me@pi", "berth export /mnt/usb/app.tar")
	p.run("me@pi", "berth import /mnt/usb/app.tar")
	p.run("me@pi", "berth export /mnt/usb/all.tar")
	l.must("root@pi", "docker tag alpine:latest alpine:3.22")
	p.run("me@pi", "docker save")
	if got := l.must("me@pi", "berth ls home --data site; berth ls home/app --data site"); !strings.Contains(got, "1.1") || !strings.Contains(got, "home/alpine") {
		t.Errorf("after the imports the site has\n%s", got)
	}
	p.run("me@pi", "berth backup")
	l.must("me@pi", "berth ls && cp -a /mnt/usb/berth ~/copy")
	l.interrupt("pi:5000")

	// The disk is carried in, to pc.
	l.must("root@pi", "tar -C /mnt -c usb | cat >/run/lab/usb.tar")
	l.must("root@pc", "tar -C /mnt -xf /run/lab/usb.tar && chown -R me: /mnt/usb")
	p.run("me@pc", "berth check")

	l.serve("me@pi", "berth --tls=auto --data site")
	l.trust("pc", "pi.local:5000")
	p.run("me@pc", "crane copy")
	p.run("me@pc", "berth export -")
	l.must("me@pi", "rm -rf outside && mv copy outside")
	l.serve("root@pi", "berth --tls=auto --tls-name hub.example.org --addr :443 --data /root/hub")
	l.trust("pc", "hub.example.org:443")
	l.must("me@pc", "crane copy --all-tags localhost:5001/home/app hub.example.org/home/app")
	p.run("me@pc", "skopeo copy")
	p.run("me@pc", "oras copy")
	if got := l.must("me@pi", "berth ls home/app --data site"); !strings.Contains(got, "1.0") {
		t.Errorf("the registry inside has\n%s", got)
	}
}

func TestAPIPage(t *testing.T) {
	p := open(t, nil, "docs/api.md")
	reg := startBerth(t)
	_, _, body := reg.get("GET", "/v2/home/app/manifests/1.0")
	var want, got any
	if err := json.Unmarshal([]byte(p.block("json", `{"errors"`).text), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &got); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the error is %s, which is not what the page shows: %v", body, want)
	}
}

func TestNumbersPage(t *testing.T) {
	p := open(t, nil, "docs/numbers.md")
	p.skip("console", "$ go -C e2e run ./bench", "it takes twelve minutes; CI builds it")
}

func TestContributingPage(t *testing.T) {
	p := open(t, nil, "CONTRIBUTING.md")
	p.skip("console", "$ CGO_ENABLED=0 go build", "this is the build of README.md, and what CI runs")
}
