// Whether each program here that pulls images would use a registry as it is: what its
// configuration says, as files.
//
// The places are those that `berth trust` writes (tls_trust.go), and the lines to type are the
// ones that it prints. What was verified in the programs' sources:
//
//	docker      daemon.json and --insecure-registry of its unit: names, or networks by CIDR; addresses
//	            of this machine always. certs.d/HOST/*.crt beside the system's store
//	podman, …   the first certs.d/HOST that is there, the person's before the system's, docker's last; registries.conf, of the
//	            person instead of the system's, then registries.conf.d; the longest prefix counts
//	containerd  in each directory of config_path HOST_PORT_, HOST:PORT, _default: the first that is
//	            there. Kubernetes reads none of them without config_path, up to containerd 1.7
//	k3s         registries.yaml, read at its start
//	BuildKit    buildkitd.toml: [registry."HOST"]

package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// A puller is what the configuration of a program that pulls says of the registry.
type puller struct {
	name    string   // docker
	section string   // its heading in what berth trust prints
	plain   bool     // it would speak plain HTTP with the registry
	only    bool     // and nothing else
	blind   bool     // it takes any certificate
	cas     []string // files of CAs that it trusts beside the system's store
	by      string   // the file that says so; "" if none says anything
	insist  remedy   // how it is made to use plain HTTP

	daemons []string // processes that have read the system's store once, as /proc calls them; nil if each run reads it
	restart string   // the line that starts them again
}

// examineTrust asks for each program that is installed here whether it would use the registry.
func (d *doctor) examineTrust() {
	system := d.systemPool()
	bySystem := !d.plain && d.verifies(system)
	d.trusted = bySystem
	if !d.plain && !bySystem && d.lacksIntermediate() {
		d.fail("certificate", "certificate-no-intermediate", advise("Send the intermediate certificates, too: append them to the file of the certificate (fullchain.pem, not cert.pem).",
			"openssl s_client -connect "+d.address+" -servername "+d.host+" -showcerts </dev/null"),
			"the server shows its own certificate alone, signed by %q, which is not a CA that clients know", d.chain[0].Issuer.CommonName)
		return
	}
	found := 0
	for _, find := range []func() *puller{d.docker, d.podman, d.containerd, d.k3s, d.buildkit} {
		if p := find(); p != nil {
			found++
			d.judge(p, system, bySystem)
		}
	}
	switch {
	case d.plain && found == 0:
		d.well("clients", "no program that pulls images is installed here")
		d.trusted = d.onThisMachine()
	case d.plain:
	case bySystem:
		d.well("system", "the system's certificates vouch for it")
	case d.lastUpdate():
	case found == 0:
		d.fail("system", "system-trust", d.trustSteps("The system's store"), "the system's certificates do not vouch for it: it is signed by %q", d.chain[0].Issuer.CommonName)
	default:
		d.note("system", "the system's certificates do not vouch for it. If curl, crane or a browser is to use it on this machine, add the CA to the system's store, too")
	}
}

// onThisMachine reports whether the registry is at a loopback address.
func (d *doctor) onThisMachine() bool {
	at, err := netip.ParseAddrPort(d.address)
	return err == nil && at.Addr().IsLoopback()
}

// judge says whether a program would use the registry as it is.
func (d *doctor) judge(p *puller, system *x509.CertPool, bySystem bool) {
	by := "by " + p.by
	if p.by == "" {
		by = "since it is on this machine"
	}
	if d.plain {
		if p.plain {
			d.trusted = true
			d.well(p.name, "it uses plain HTTP, %s", by)
			return
		}
		d.fail(p.name, p.name+"-plain", p.insist, "%s wants TLS, and the registry speaks plain HTTP", p.name)
		return
	}
	switch {
	case p.only:
		d.fail(p.name, p.name+"-wants-plain", advise("Write https:// in that file, or remove the line.", "sudo editor "+p.by), "%s is told to speak plain HTTP, %s, and the registry speaks TLS", p.name, by)
		return
	case p.blind:
		d.trusted = true
		if p.by == "" {
			d.well(p.name, "it verifies no certificate at the addresses of this machine itself (localhost, 127.0.0.0/8), so it needs no CA here. Other machines do")
			return
		}
		d.well(p.name, "it takes any certificate, %s", by)
		return
	case bySystem:
		d.judgeBySystem(p)
		return
	}
	pool := system.Clone()
	var holds []string
	for _, file := range p.cas {
		text := d.readBelow(file)
		if text == nil {
			d.fail(p.name, p.name+"-ca-missing", advise("Put the CA's certificate there, or correct the line.", "ls -l "+file), "%s names %s, which cannot be read", p.by, file)
			return
		}
		if !pool.AppendCertsFromPEM(text) {
			d.fail(p.name, p.name+"-ca-damaged", d.trustSteps(p.section), "%s has no certificate in it", file)
			return
		}
		holds = append(holds, file+" is "+nameInPEM(text))
	}
	if d.verifies(pool) {
		d.trusted = true
		d.well(p.name, "it trusts the certificate, by %s", p.cas[0])
		return
	}
	if holds != nil {
		d.fail(p.name, p.name+"-other-ca", d.trustSteps(p.section), "%s does not trust the certificate, which %q has signed: %s", p.name, d.chain[0].Issuer.CommonName, sentenceList(holds))
		return
	}
	d.fail(p.name, p.name+"-trust", d.trustSteps(p.section), "%s does not trust the certificate, which %q has signed", p.name, d.chain[0].Issuer.CommonName)
}

// judgeBySystem is judge for a certificate that the system's store vouches for. A daemon that runs has
// read the store once, perhaps before the CA was added. Public CAs were there before, so nobody added
// them by a file of their own.
func (d *doctor) judgeBySystem(p *puller) {
	if file := d.vouching(p.cas...); file != "" {
		d.well(p.name, "it trusts the certificate, by %s", file)
		return
	}
	anchor, _ := d.anchor()
	if p.daemons == nil || anchor == "" && d.ca == nil {
		d.well(p.name, "it trusts the certificate, by the system's store")
		return
	}
	r := advise("If it fails, restart it: it reads the system's store only once, the first time that it uses TLS.", p.restart)
	if p.name == "docker" && anchor != "" {
		dir := "/etc/docker/certs.d/" + d.written()
		r = advise("Give Docker the CA for this name, which needs no restart, by the first two lines; or restart it, which stops its containers.",
			"sudo mkdir -p '"+dir+"'", "sudo cp '"+anchor+"' '"+dir+"/ca.crt'", "", p.restart)
	}
	switch daemon, started := d.running(p.daemons); {
	case daemon == "":
		d.well(p.name, "it trusts the certificate, by the system's store, if it was started after the CA was added there")
	case anchor != "" && started.Before(d.modified(anchor)):
		d.warn(p.name, p.name+"-before-ca", r, "%s was started before this CA was added to the system's store. If it had used TLS before, it does not trust it until it is restarted", daemon)
	case started.Before(d.modified(bundles...)):
		d.warn(p.name, p.name+"-before-update", r, "%s was started before the system's store was last updated. If this CA was added then, it is not trusted until %[1]s is restarted", daemon)
	default:
		d.well(p.name, "it trusts the certificate, by the system's store")
	}
}

// vouching is the first of the files that vouches for the registry without the others; "" if none does.
func (d *doctor) vouching(files ...string) string {
	for _, file := range files {
		text, _ := os.ReadFile(filepath.Join(d.root, file))
		if pool := x509.NewCertPool(); pool.AppendCertsFromPEM(text) && d.verifies(pool) {
			return file
		}
	}
	return ""
}

// anchor is the file by which a person added the registry's CA to the system's store, and the command
// that makes the store take it over; "" if nobody did.
func (d *doctor) anchor() (file, update string) {
	for dir, update := range anchorDirs {
		names, _ := filepath.Glob(filepath.Join(d.root, dir, "*"))
		for _, name := range names {
			if file := d.vouching(filepath.Join(dir, filepath.Base(name))); file != "" {
				return file, update
			}
		}
	}
	return "", ""
}

// modified is when the first of the files that is there was last written; the zero time if none is there.
func (d *doctor) modified(files ...string) time.Time {
	for _, file := range files {
		if info, err := os.Stat(filepath.Join(d.root, file)); err == nil {
			return info.ModTime()
		}
	}
	return time.Time{}
}

// bootTime is a line of /proc/stat, in seconds since 1970.
var bootTime = expression(`(?m)^btime (\d+)$`)

// running finds the process with one of the names that was started first, and when, to a second at the
// latest; "" if none is seen, as on systems without Linux's /proc.
func (d *doctor) running(names []string) (name string, started time.Time) {
	text, _ := os.ReadFile(filepath.Join(d.root, "/proc/stat"))
	boot := bootTime().FindSubmatch(text)
	if boot == nil {
		return "", time.Time{}
	}
	booted, _ := strconv.ParseInt(string(boot[1]), 10, 64)
	files, _ := filepath.Glob(filepath.Join(d.root, "/proc/[0-9]*/stat"))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		_, rest, _ := strings.Cut(string(text), " (")
		end := strings.LastIndex(rest, ") ")
		if end < 0 || !slices.Contains(names, rest[:end]) {
			continue
		}
		fields := strings.Fields(rest[end+2:])
		if len(fields) < 20 {
			continue
		}
		// The field is the 22nd, in hundredths of a second since the machine was started.
		ticks, err := strconv.ParseInt(fields[19], 10, 64)
		if at := time.Unix(booted+1, 0).Add(time.Duration(ticks) * 10 * time.Millisecond); err == nil && (name == "" || at.Before(started)) {
			name, started = rest[:end], at
		}
	}
	return name, started
}

// nameInPEM is the name of the first certificate in a file.
func nameInPEM(text []byte) string {
	if block, _ := pem.Decode(text); block != nil {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			return "the CA " + c.Subject.CommonName + ", " + fingerprint(c.Raw)[:11] + "…"
		}
	}
	return "no certificate"
}

// trustSteps are the steps of `berth trust` under a heading.
func (d *doctor) trustSteps(section string) remedy {
	top := d.ca
	if top == nil {
		top = d.chain[len(d.chain)-1]
	}
	t := trustIn(d.written(), top.Raw)
	r := advise("Get the CA's certificate as ca.crt from whoever runs the registry, and put it where this program looks:")
	if d.ca != nil {
		r = advise("Trust the registry's own CA. Compare the fingerprint with the one that berth trust prints on the server before you go on:",
			"curl -fsSo ca.crt http://"+t.Full+"/trust.crt", "openssl x509 -in ca.crt -noout -fingerprint -sha256")
	} else if top.CheckSignatureFrom(top) == nil && len(d.chain) == 1 {
		r = advise("It is signed by itself: that certificate is what to trust. Compare it with the one on the server, then:",
			"openssl s_client -connect "+t.Full+" </dev/null 2>/dev/null | openssl x509 >ca.crt", "openssl x509 -in ca.crt -noout -fingerprint -sha256")
	}
	var b strings.Builder
	trustTexts := trustSteps()
	if err := trustTexts.Execute(&b, t); err != nil {
		return r
	}
	for part := range strings.SplitSeq(b.String(), "\n\n") {
		if strings.HasPrefix(part, section) {
			for _, line := range strings.Split(strings.TrimRight(part, "\n"), "\n")[1:] {
				r.lines = append(r.lines, strings.TrimPrefix(line, "  "))
			}
		}
	}
	if d.ca != nil {
		r.lines = append(r.lines, "", "Or all programs at once, if the registry's user on the server can be reached",
			"by ssh (as another user: sudo berth). DIR is the registry's data directory there:",
			"ssh "+bareHost(t.Host)+" 'berth trust "+t.Full+" --script --data DIR' | sudo sh")
	}
	return r
}

// bundles are the files in which systems have the CAs that they trust, and anchorDirs where a
// person adds one: what is only there waits for a command.
var (
	bundles = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem"}
	anchorDirs = map[string]string{"/usr/local/share/ca-certificates": "sudo update-ca-certificates", "/etc/pki/ca-trust/source/anchors": "sudo update-ca-trust",
		"/etc/ca-certificates/trust-source/anchors": "sudo update-ca-trust", "/etc/pki/trust/anchors": "sudo update-ca-certificates"}
)

// systemPool is what this system trusts.
func (d *doctor) systemPool() *x509.CertPool {
	if d.root == "" {
		if pool, err := x509.SystemCertPool(); err == nil {
			return pool
		}
	}
	pool := x509.NewCertPool()
	for _, file := range bundles {
		if text, err := os.ReadFile(filepath.Join(d.root, file)); err == nil {
			pool.AppendCertsFromPEM(text)
			break
		}
	}
	return pool
}

// lastUpdate reports whether the CA was added to the system and the command that takes it over was forgotten.
func (d *doctor) lastUpdate() bool {
	name, update := d.anchor()
	switch {
	case name == "":
		return false
	case !strings.HasSuffix(name, ".crt") && strings.Contains(update, "update-ca-certificates"):
		d.warn("system", "store-file-name", advise("Give it a name that ends in .crt.", "sudo mv "+name+" "+strings.TrimSuffix(name, filepath.Ext(name))+".crt", update), "%s would vouch for it, but only files that end in .crt are taken", name)
	default:
		d.warn("system", "store-not-updated", advise("Have the system take it over, then restart docker and other programs that run.", update), "%s vouches for it, but the system's store does not have it yet", name)
	}
	return true
}

// installed reports whether one of the directories is there, or one of the programs on this machine.
func (d *doctor) installed(dirs []string, programs ...string) bool {
	return slices.ContainsFunc(dirs, d.there) || d.root == "" && slices.ContainsFunc(programs, d.has)
}

func (d *doctor) there(path string) bool {
	_, err := os.Stat(filepath.Join(d.root, path))
	return err == nil
}

// crts are the files of CAs in a directory for the registry.
func (d *doctor) crts(dir string) (files []string) {
	names, _ := filepath.Glob(filepath.Join(d.root, escapeGlob(dir), "*.crt"))
	for _, name := range names {
		files = append(files, filepath.Join(dir, filepath.Base(name)))
	}
	return files
}

// escapeGlob has Glob take a path as it is: an IPv6 address has brackets.
func escapeGlob(path string) string {
	return strings.NewReplacer(`[`, `\[`, `*`, `\*`, `?`, `\?`).Replace(path)
}

// certsIn looks in a directory of Docker's kind, and notes CAs that lie there under another name.
func (d *doctor) certsIn(p *puller, dir string) bool {
	here := filepath.Join(dir, d.written())
	if !d.there(here) {
		if d.port != "" && p.cas == nil && d.there(filepath.Join(dir, d.host)) {
			d.warn(p.name, p.name+"-ca-port", advise("Name the directory as images name the registry.", "sudo mv '"+filepath.Join(dir, d.host)+"' '"+here+"'"),
				"there is %s, but images name %s, whose directory would be read", filepath.Join(dir, d.host), d.written())
		}
		return false
	}
	if p.cas = d.crts(here); p.cas == nil && !d.plain {
		if others, _ := filepath.Glob(filepath.Join(d.root, escapeGlob(here), "*.pem")); others != nil {
			name := filepath.Join(here, filepath.Base(others[0]))
			d.warn(p.name, p.name+"-ca-name", advise("Only files that end in .crt are read as CAs.", "sudo mv '"+name+"' '"+filepath.Join(here, "ca.crt")+"'"), "%s is not read", name)
		}
	}
	if p.cas != nil {
		p.by = p.cas[0]
	}
	return true
}

// docker is the daemon, or one of the person's own.
func (d *doctor) docker() *puller {
	if !d.installed([]string{"/etc/docker", "/var/snap/docker", filepath.Join(d.home, ".config/docker/daemon.json"), "/lib/systemd/system/docker.service", "/usr/lib/systemd/system/docker.service"}, "dockerd", "docker") {
		return nil
	}
	p := &puller{name: "docker", section: "Docker:", daemons: []string{"dockerd"}, restart: "sudo systemctl restart docker", plain: d.onThisMachine(), blind: d.onThisMachine()}
	p.insist = advise("Better: let the registry speak TLS (berth --tls=auto). Or, for a network that you trust, have docker speak plain HTTP: write in /etc/docker/daemon.json (Docker Desktop: Settings, Docker Engine)",
		`{ "insecure-registries": ["`+d.written()+`"] }`, "", "and then:", "sudo systemctl restart docker")
	for _, file := range []string{"/etc/docker/daemon.json", filepath.Join(d.home, ".config/docker/daemon.json"), filepath.Join(d.home, ".docker/daemon.json"), "/var/snap/docker/current/config/daemon.json"} {
		text := d.readBelow(file)
		if text == nil {
			continue
		}
		var config struct {
			Insecure []string `json:"insecure-registries"`
		}
		if err := json.Unmarshal(text, &config); err != nil {
			d.fail("docker", "docker-config-damaged", advise("Correct the file; docker does not start with it, or has not read it yet.", "sudo dockerd --validate --config-file "+file), "%s is not JSON%s", file, lineOfJSON(text, err))
			continue
		}
		if slices.ContainsFunc(config.Insecure, d.isInsecure) {
			p.plain, p.blind, p.by = true, true, file
		}
	}
	for _, unit := range d.dockerUnits() {
		for _, m := range insecureFlag().FindAllSubmatch(d.readBelow(unit), -1) {
			if d.isInsecure(string(m[1])) {
				p.plain, p.blind, p.by = true, true, unit
			}
		}
	}
	by := p.by
	for _, dir := range []string{"/etc/docker/certs.d", filepath.Join(d.home, ".config/docker/certs.d"), filepath.Join(d.home, ".docker/certs.d")} {
		if d.certsIn(p, dir) {
			break
		}
	}
	if p.blind {
		p.by = by // a CA in certs.d is not asked then
	}
	return p
}

// insecureFlag is the flag of dockerd in a unit.
var insecureFlag = expression(`--insecure-registry[= ]"?([^\s"]+)`)

// dockerUnits are the files of docker's service that a person may have changed.
func (d *doctor) dockerUnits() (units []string) {
	for _, pattern := range []string{"/etc/systemd/system/docker.service", "/etc/systemd/system/docker.service.d/*.conf", "/etc/default/docker", "/etc/sysconfig/docker"} {
		names, _ := filepath.Glob(filepath.Join(d.root, pattern))
		for _, name := range names {
			units = append(units, filepath.Join(filepath.Dir(pattern), filepath.Base(name)))
		}
	}
	return units
}

// isInsecure reports whether an entry of docker's insecure-registries is for the registry.
func (d *doctor) isInsecure(entry string) bool {
	entry = strings.TrimPrefix(strings.TrimPrefix(entry, "https://"), "http://")
	if network, err := netip.ParsePrefix(entry); err == nil {
		at, err := netip.ParseAddrPort(d.address)
		return err == nil && network.Contains(at.Addr().Unmap())
	}
	return strings.EqualFold(entry, d.written())
}

// lineOfJSON says in which line an error is.
func lineOfJSON(text []byte, err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return ": line " + digits(1+bytes.Count(text[:min(int(syntax.Offset), len(text))], []byte("\n")))
	}
	return ""
}

// podman is what podman, buildah and skopeo have in common.
func (d *doctor) podman() *puller {
	if !d.installed([]string{"/etc/containers", filepath.Join(d.home, ".config/containers/registries.conf"), "/usr/share/containers"}, "podman", "buildah", "skopeo") {
		return nil
	}
	p := &puller{name: "podman", section: "Podman"}
	file := "/etc/containers/registries.conf.d/" + strings.NewReplacer(":", "-", "[", "", "]", "").Replace(d.written()) + ".conf"
	p.insist = advise("Better: let the registry speak TLS (berth --tls=auto). Or, for a network that you trust, write in "+file,
		"[[registry]]", `location = "`+d.written()+`"`, "insecure = true")
	for _, dir := range []string{filepath.Join(d.home, ".config/containers/certs.d"), "/etc/containers/certs.d", "/etc/docker/certs.d"} {
		if d.certsIn(p, dir) {
			break
		}
	}
	conf := filepath.Join(d.home, ".config/containers/registries.conf")
	if !d.there(conf) {
		conf = "/etc/containers/registries.conf"
	}
	files := []string{conf}
	for _, dir := range []string{"/etc/containers/registries.conf.d", filepath.Join(d.home, ".config/containers/registries.conf.d")} {
		names, _ := filepath.Glob(filepath.Join(d.root, dir, "*.conf"))
		for _, name := range names {
			files = append(files, filepath.Join(dir, filepath.Base(name)))
		}
	}
	best := -1
	for _, file := range files {
		text := d.readBelow(file)
		if text == nil {
			continue
		}
		var config registriesConf
		if err := toml.Unmarshal(text, &config); err != nil {
			d.fail("podman", "podman-config-damaged", advise("Correct the file; podman fails with it.", "sudo editor "+file), "%s cannot be read: %s", file, lineOfTOML(err))
			continue
		}
		for _, r := range config.entries() {
			n := r.matches(d.written())
			if n < best || n < 0 {
				continue
			}
			best = n
			p.plain, p.blind = r.Insecure, r.Insecure
			if r.Insecure {
				p.by = file
			}
			if r.Blocked {
				d.fail("podman", "podman-blocked", advise("Remove blocked from that entry.", "sudo editor "+file), "%s blocks the registry", file)
			}
			if r.Location != "" && r.Location != r.prefix() {
				d.warn("podman", "podman-elsewhere", advise("If that is not meant, remove location from that entry.", "sudo editor "+file), "%s sends podman to %s in place of the registry", file, r.Location)
			}
		}
	}
	return p
}

// registriesConf is registries.conf in both of its versions.
type registriesConf struct {
	Registry   []registriesEntry
	Registries struct {
		Insecure struct{ Registries []string }
		Block    struct{ Registries []string }
	}
}

type registriesEntry struct {
	Prefix, Location  string
	Insecure, Blocked bool
}

// entries are those of version 2, and those of version 1 in its form.
func (c *registriesConf) entries() []registriesEntry {
	list := slices.Clone(c.Registry)
	for _, name := range c.Registries.Insecure.Registries {
		list = append(list, registriesEntry{Location: name, Insecure: true})
	}
	for _, name := range c.Registries.Block.Registries {
		list = append(list, registriesEntry{Location: name, Blocked: true})
	}
	return list
}

func (r registriesEntry) prefix() string {
	if r.Prefix != "" {
		return r.Prefix
	}
	return r.Location
}

// matches returns how much of a registry's name an entry matches, in bytes; -1 for nothing.
func (r registriesEntry) matches(registry string) int {
	prefix := r.prefix()
	host := bareHost(registry)
	switch {
	case strings.HasPrefix(prefix, "*."):
		if strings.HasSuffix(registry, prefix[1:]) || strings.HasSuffix(host, prefix[1:]) {
			return len(prefix) - 1
		}
	case prefix == registry, prefix != "" && strings.HasPrefix(registry, prefix+":"):
		return len(prefix)
	}
	return -1
}

func lineOfTOML(err error) string {
	var at toml.ParseError
	if errors.As(err, &at) {
		return "line " + digits(at.Position.Line) + ": " + at.Message
	}
	return wrongKind(err).Error()
}

// containerd is what Kubernetes, nerdctl and ctr --hosts-dir read.
func (d *doctor) containerd() *puller {
	if !d.there("/etc/containerd") || !d.containerdPulls() {
		return nil
	}
	p := &puller{name: "containerd", section: "containerd:", daemons: []string{"containerd"}, restart: "sudo systemctl restart containerd", plain: d.onThisMachine(), blind: d.onThisMachine()}
	dir := "/etc/containerd/certs.d"
	file := filepath.Join(dir, d.written(), "hosts.toml")
	p.insist = advise("Better: let the registry speak TLS (berth --tls=auto). Or, for a network that you trust, write in "+file,
		`server = "http://`+d.written()+`"`)
	dirs := []string{dir}
	if path, named := d.configPath(); named {
		dirs = filepath.SplitList(path)
	} else if d.there(filepath.Join(dir, d.written())) {
		d.warn("containerd", "containerd-no-config-path", advise("If Kubernetes pulls with this containerd, name the directory in /etc/containerd/config.toml and restart it. nerdctl needs no such line.",
			`[plugins."io.containerd.grpc.v1.cri".registry]`, `  config_path = "`+dir+`"`, "", "sudo systemctl restart containerd"),
			"/etc/containerd/config.toml has no config_path, so Kubernetes does not read %s", dir)
	}
	for _, dir := range dirs {
		for _, name := range []string{strings.Replace(d.written(), ":"+d.port, "_"+d.port+"_", 1), d.written(), "_default"} {
			if here := filepath.Join(dir, name); d.there(here) {
				d.readHosts(p, here)
				return p
			}
		}
	}
	return p
}

// containerdPulls reports whether somebody pulls with containerd itself: where docker is, it mostly
// serves that alone.
func (d *doctor) containerdPulls() bool {
	docker := d.installed([]string{"/etc/docker"}, "dockerd")
	return !docker || d.installed([]string{"/etc/containerd/certs.d", "/etc/kubernetes", "/var/lib/kubelet"}, "kubelet", "crictl", "nerdctl")
}

// configPath is where /etc/containerd/config.toml says that the directories of registries are.
func (d *doctor) configPath() (path string, named bool) {
	files := []string{"/etc/containerd/config.toml"}
	for i := 0; i < len(files) && i < 20; i++ {
		var config struct {
			Version int
			Imports []string
			Plugins map[string]any
		}
		text := d.readBelow(files[i])
		if text == nil {
			continue
		}
		if err := toml.Unmarshal(text, &config); err != nil {
			d.fail("containerd", "containerd-config-damaged", advise("Correct the file; containerd does not start with it.", "sudo containerd config dump"), "%s cannot be read: %s", files[i], lineOfTOML(err))
			return "", true
		}
		for _, plugin := range []string{"io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri", "cri"} {
			settings, _ := config.Plugins[plugin].(map[string]any)
			registry, _ := settings["registry"].(map[string]any)
			if value, ok := registry["config_path"].(string); ok && value != "" {
				path, named = value, true
			}
		}
		if config.Version >= 3 && !named { // of containerd 2, which has a default
			path, named = "/etc/containerd/certs.d:/etc/docker/certs.d", true
		}
		for _, pattern := range config.Imports {
			names, _ := filepath.Glob(filepath.Join(d.root, pattern))
			for _, name := range names {
				files = append(files, filepath.Join(filepath.Dir(pattern), filepath.Base(name)))
			}
		}
	}
	return path, named
}

// A hostsEntry is what hosts.toml says of a host.
type hostsEntry struct {
	Capabilities []string
	CA           any
	SkipVerify   bool `toml:"skip_verify"`
}

// cas are its files of CAs: one, or a list.
func (e hostsEntry) cas(dir string) (files []string) {
	list, ok := e.CA.([]any)
	if !ok {
		list = []any{e.CA}
	}
	for _, x := range list {
		if file, ok := x.(string); ok {
			if !filepath.IsAbs(file) {
				file = filepath.Join(dir, file)
			}
			files = append(files, file)
		}
	}
	return files
}

// readHosts reads the directory of a registry.
func (d *doctor) readHosts(p *puller, dir string) {
	file := filepath.Join(dir, "hosts.toml")
	text := d.readBelow(file)
	if len(text) == 0 {
		if p.cas = d.crts(dir); p.cas != nil {
			p.by = p.cas[0]
		}
		return
	}
	var hosts struct {
		Server string
		Host   map[string]hostsEntry
		hostsEntry
	}
	if err := toml.Unmarshal(text, &hosts); err != nil {
		d.fail("containerd", "containerd-hosts-damaged", advise("Correct the file; containerd goes on without it.", "sudo editor "+file), "%s cannot be read: %s", file, lineOfTOML(err))
		return
	}
	p.by, p.plain, p.blind = file, false, false
	server := strings.TrimSuffix(hosts.Server, "/")
	if server == "" {
		server = "https://" + d.written()
	}
	all := map[string]hostsEntry{server: hosts.hostsEntry}
	for url, entry := range hosts.Host {
		all[strings.TrimSuffix(url, "/")] = entry
	}
	secure, open := false, false
	for url, entry := range all {
		scheme, host, ok := strings.Cut(url, "://")
		if !ok {
			scheme, host = "https", url
		}
		if !strings.EqualFold(host, d.written()) {
			continue // a mirror
		}
		if scheme == "http" {
			open = true
			continue
		}
		secure = true
		p.cas = append(p.cas, entry.cas(dir)...)
		p.blind = p.blind || entry.SkipVerify
	}
	p.plain, p.only = open, open && !secure
	slices.Sort(p.cas)
}

// k3s reads registries.yaml when it starts.
func (d *doctor) k3s() *puller {
	if !d.installed([]string{"/etc/rancher/k3s"}, "k3s") {
		return nil
	}
	const file = "/etc/rancher/k3s/registries.yaml"
	p := &puller{name: "k3s", section: "k3s,", daemons: []string{"k3s-server", "k3s-agent"}, restart: "sudo systemctl restart k3s      # or k3s-agent"}
	p.insist = advise("Better: let the registry speak TLS (berth --tls=auto). Or, for a network that you trust, write in "+file+" on every node",
		"mirrors:", `  "`+d.written()+`":`, "    endpoint:", `      - "http://`+d.written()+`"`, "", "and then:", "sudo systemctl restart k3s      # or k3s-agent")
	text := d.readBelow(file)
	if text == nil {
		return p
	}
	tree, err := readPlainYAML(text)
	if err != nil {
		d.warn("k3s", "k3s-not-understood", advise("Look at it yourself: mirrors, endpoint, and configs with tls are what counts.", "cat "+file), "%s has what the doctor does not read: %v", file, err)
		return p
	}
	endpoints := yamlStrings(tree, "mirrors", d.written(), "endpoint")
	if endpoints == nil {
		endpoints = yamlStrings(tree, "mirrors", "*", "endpoint")
	}
	endpoints = append(endpoints, "https://"+d.written())
	open := 0
	for _, url := range endpoints {
		scheme, host, ok := strings.Cut(strings.TrimSuffix(url, "/"), "://")
		if !ok {
			scheme, host = "https", scheme
		}
		host, _, _ = strings.Cut(host, "/")
		if !strings.EqualFold(host, d.written()) {
			continue
		}
		p.by = file
		if scheme == "http" {
			open++
			p.plain = true
			continue
		}
		p.cas = append(p.cas, yamlStrings(tree, "configs", host, "tls", "ca_file")...)
		p.blind = p.blind || slices.Contains(yamlStrings(tree, "configs", host, "tls", "insecure_skip_verify"), "true")
	}
	slices.Sort(p.cas)
	p.cas = slices.Compact(p.cas)
	return p
}

// buildkit is a daemon of its own, beside docker's.
func (d *doctor) buildkit() *puller {
	files := []string{"/etc/buildkit/buildkitd.toml", filepath.Join(d.home, ".config/buildkit/buildkitd.toml")}
	if !d.installed([]string{"/etc/buildkit", files[1]}, "buildkitd") {
		return nil
	}
	p := &puller{name: "buildkit", section: "BuildKit:", daemons: []string{"buildkitd"}, restart: "sudo systemctl restart buildkit      # or docker restart BUILDER", plain: d.onThisMachine()}
	p.insist = advise("Better: let the registry speak TLS (berth --tls=auto). Or, for a network that you trust, write in "+files[0]+" and restart buildkitd, or create the builder again",
		`[registry."`+d.written()+`"]`, "  http = true")
	for _, file := range files {
		text := d.readBelow(file)
		if text == nil {
			continue
		}
		var config struct {
			Registry map[string]struct {
				HTTP     *bool
				Insecure bool
				CA       []string
				Dirs     []string `toml:"tlsconfigdir"`
			}
		}
		if err := toml.Unmarshal(text, &config); err != nil {
			d.fail("buildkit", "buildkit-config-damaged", advise("Correct the file; buildkitd does not start with it.", "sudo editor "+file), "%s cannot be read: %s", file, lineOfTOML(err))
			continue
		}
		r, ok := config.Registry[d.written()]
		if !ok {
			continue
		}
		p.by, p.cas, p.blind = file, r.CA, r.Insecure
		for _, dir := range r.Dirs {
			p.cas = append(p.cas, d.crts(dir)...)
		}
		if r.HTTP != nil {
			p.plain, p.only = *r.HTTP, *r.HTTP && !r.Insecure
		}
	}
	return p
}
