// How a server starts, and what it says then.
//
// It looks at the data directory, reads the files that flags name and the local CA, and takes its addresses
// before it makes anything: a start that fails because a file is missing or a port is taken leaves no directory behind. From then on connections wait, and are
// answered when the registry is open.
//
// The greeting is for a person who has just typed `berth`: is this a new registry or the one that
// I meant, where is it, who may use it, and what do I type now. A log in JSON has the same in one
// record.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// start opens the registry and listens for its clients, who are not answered yet.
func (cfg *config) start() (s *server, listener net.Listener, err error) {
	if _, err := newDataDir(cfg.dirConfig).survey(); err != nil {
		return nil, nil, err
	}
	if err := cfg.readFiles(); err != nil {
		return nil, nil, err
	}
	if listener, err = cfg.takeAddresses(); err == nil {
		s, err = cfg.open()
	}
	if err != nil {
		if listener != nil {
			listener.Close()
		}
		if cfg.tls.open != nil {
			cfg.tls.open.Close()
		}
		return nil, nil, err
	}
	return s, listener, nil
}

// takeAddresses listens on the addresses of the flags. A socket that the service manager hands over takes the
// place of such an address. After an error the caller closes what is not nil.
func (cfg *config) takeAddresses() (listener net.Listener, err error) {
	if listener, cfg.tls.open, err = cfg.service.take(); err != nil {
		return nil, err
	}
	cfg.handedOver = listener != nil
	if cfg.handedOver && cfg.given["addr"] && isLoopbackAddress(cfg.addr) && !isLoopbackAddress(listener.Addr().String()) {
		return listener, fmt.Errorf("--addr %s is for this machine alone, but the socket of the service manager, %s, is for others too: "+
			"`sudo berth install --addr %[1]s` changes it, or ListenStream= in berth.socket; or leave out the address", cfg.addr, listener.Addr())
	}
	if cfg.tls.open != nil && cfg.tls.mode == "" {
		return listener, errors.New("the service manager hands over a socket for plain HTTP (http-addr), which needs TLS: add --tls=auto, --tls=acme, or --tls-cert and --tls-key; or disable berth-http.socket")
	}
	if listener == nil {
		if listener, err = cfg.listen("addr", cfg.addr); err != nil {
			return nil, err
		}
	}
	if cfg.tls.httpAddr != "" && cfg.tls.open == nil {
		cfg.tls.open, err = cfg.listen("http-addr", cfg.tls.httpAddr)
	}
	return listener, err
}

// isLoopbackAddress reports whether nobody but this machine reaches HOST:PORT.
func isLoopbackAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && isLoopback(host)
}

// readFiles reads the files that the server needs from its start on. One that is missing or wrong is an
// error. It makes nothing.
func (cfg *config) readFiles() (err error) {
	if cfg.certificates, err = readTLS(cfg.tls); err != nil {
		return cfg.asGiven(err)
	}
	if _, err := readListeners(cfg.dir); err != nil {
		return err
	}
	cfg.gate, err = readGate(cfg.auth, cfg.dir, cfg.serverConfig.log)
	return cfg.asGiven(err)
}

// open opens the data directory and all that the server needs of it.
func (cfg *config) open() (*server, error) {
	cfg.canGoBack = true
	st, err := openStore(cfg.storeConfig)
	if err != nil {
		return nil, err
	}
	if err := standAlone(st); err != nil {
		return nil, errors.Join(err, st.close())
	}
	if err := rememberFlags(st); err != nil {
		return nil, errors.Join(err, st.close())
	}
	if err := cfg.certificates.begin(cfg.tls.open); err != nil {
		return nil, errors.Join(err, st.close())
	}
	s, err := newServer(st, cfg.serverConfig)
	if err != nil {
		return nil, errors.Join(err, st.close())
	}
	st.at("opened")
	if st.syncImages {
		st.log.Info("blobs are synced to the disk when a manifest that needs them is pushed", "sync", "image")
	}
	if err := st.forgetBefore(); err != nil && !st.readOnlyDisk {
		return nil, errors.Join(err, st.close())
	}
	return s, nil
}

// listen listens on the address that a flag has. An error says what to do.
func (cfg *config) listen(flag, addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if err == nil {
		return listener, nil
	}
	host, port, e := net.SplitHostPort(addr)
	if e != nil {
		return nil, cfg.asGiven(checkAddress(flag, addr))
	}
	number, _ := net.LookupPort("tcp", port)
	named, other := "--"+flag, "--"+flag+" "
	if cfg.byEnv[flag] {
		named, other = variableOf(flag), variableOf(flag)+"="
	}
	at := func(port int) string { return other + net.JoinHostPort(host, strconv.Itoa(port)) }
	var unknown *net.DNSError
	switch {
	case isAddressTaken(err):
		if isServed(cfg.dir) {
			return nil, fmt.Errorf("a Berth that is already running serves %s, and port %s is taken: stop it first, or name another directory and port with --data and --addr", cfg.dir, port)
		}
		whose := "another program has it"
		if number == 5000 {
			whose += ": registry:2, perhaps"
			if runtime.GOOS == "darwin" {
				whose += ", or the AirPlay Receiver (System Settings, General, AirDrop & Handoff)"
			}
		}
		return nil, fmt.Errorf("port %s is taken (%s). Stop that program, or choose another port: %s", port, whose, at(number%65535+1))
	case isAddressForbidden(err):
		how := "start Berth as root"
		if runtime.GOOS == "linux" {
			how = "have systemd listen for it (sudo berth install --addr " + addr + "), or give Berth the capability CAP_NET_BIND_SERVICE"
		}
		return nil, fmt.Errorf("this user may not listen on port %s, as a rule because ports below 1024 are for root. Choose a higher port, such as %s, or %s", port, at(5000), how)
	case isAddressElsewhere(err):
		return nil, fmt.Errorf("%s: this machine does not have the address %s; it has %s. %s:%s listens on all of them",
			named, host, sentenceList(machineAddresses()), other, port)
	case errors.As(err, &unknown):
		return nil, fmt.Errorf("%s: there is no host %s; use an address of this machine, or :%s for all of them", named, host, port)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return nil, fmt.Errorf("%s%s: %w", other, addr, err)
}

// isServed reports whether a server has the data directory.
func isServed(dir string) bool {
	conn, err := atSocket(dir, func(path string) (net.Conn, error) { return net.Dial("unix", path) })
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// checkAddress returns an error if a flag's value is not an address to listen on: a host or nothing, a colon
// and a port.
func checkAddress(flag, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		if _, err := net.LookupPort("tcp", port); err == nil && port != "" {
			return nil
		}
		if port == "" {
			return fmt.Errorf("--%s: %q has no port; use for example %s", flag, addr, net.JoinHostPort(host, "5000"))
		}
		return fmt.Errorf("--%s: %s is not a port; ports go from 1 to 65535", flag, port)
	}
	example := ":5000 or 127.0.0.1:5000"
	if _, err := strconv.ParseUint(addr, 10, 16); err == nil {
		example = ":" + addr
	} else if bare := strings.Trim(addr, "[]"); net.ParseIP(bare) != nil || hostName(addr) != "" {
		example = net.JoinHostPort(bare, "5000")
	}
	return fmt.Errorf("--%s: %q is not an address with a port; use for example %s", flag, addr, example)
}

// A greeting is what a server says when it has started.
type greeting struct {
	version, data string // the latter is a whole path
	found         premises
	repositories  repositoryCounts
	users, tokens int
	certificates  bool     // of clients are believed
	url           string   // how this machine reaches it
	loopback      bool     // and no other does by itself
	elsewhere     []string // URLs by which others do
	container     string   // in a container, the port that others reach by one of the machine's; else ""
	open          string   // who may do what without a password
	unguarded     bool     // there never was a user: that is everything
	try           []string // lines to type
	ca            string   // fingerprint of the local CA, "" without one
	passed        string   // the value of --addr, in whose place the service manager has handed over a socket; "" if it has not
	plain         bool     // Docker on other machines does not take it as it is
	inside        string   // if there are no repositories, another registry in the data directory
}

// newGreeting gathers what is to be said. addr is where the server listens.
func newGreeting(s *server, cfg *config, addr net.Addr) (*greeting, error) {
	g := &greeting{version: buildVersion(), data: cfg.dir, found: s.st.found, certificates: s.gate.byCertificate, open: s.gate.openTo(), unguarded: s.gate.view() == nil, ca: s.certificates.fingerprint()}
	g.users, g.tokens = s.gate.accounts()
	if cfg.handedOver && cfg.given["addr"] {
		g.passed = cfg.addr
	}
	if dir, err := filepath.Abs(cfg.dir); err == nil {
		g.data = dir
	}
	var err error
	if g.repositories, err = s.st.countRepositories(); err != nil {
		return nil, err
	}
	if g.repositories.seen == 0 {
		g.inside = s.st.registryInside()
	}
	scheme := "http"
	if s.certificates != nil {
		scheme = "https"
	}
	host, port, _ := net.SplitHostPort(addr.String())
	at := func(host string) string {
		if scheme == "https" && port == "443" || scheme == "http" && port == "80" {
			return strings.TrimSuffix(net.JoinHostPort(host, ""), ":")
		}
		return net.JoinHostPort(host, port)
	}
	ip := net.ParseIP(host)
	everywhere := ip == nil || ip.IsUnspecified()
	names := []string{host}
	if everywhere {
		host = "localhost"
		names = outerAddresses()
		names = names[:min(len(names), 4)]
	}
	g.url, g.loopback = scheme+"://"+at(host), !everywhere && ip.IsLoopback()
	if cfg.tls.mode == "acme" { // its certificate is for no others
		names, host = nil, cfg.tls.names[0]
	}
	if s.certificates != nil {
		names = append(slices.Clone(cfg.tls.names), names...)
	}
	registry := at(host)
	switch {
	case cfg.auth.publicURL != "":
		g.elsewhere = []string{cfg.auth.publicURL}
		_, registry, _ = strings.Cut(cfg.auth.publicURL, "://")
	case !g.loopback:
		if cfg.container && cfg.tls.mode != "acme" { // the addresses here are nobody's outside
			g.container, names = port, cfg.tls.names
		}
		for _, name := range names {
			g.elsewhere = append(g.elsewhere, scheme+"://"+at(name))
		}
		if g.elsewhere != nil {
			g.container = ""
		}
		g.plain = scheme == "http" && cfg.auth.proxies == nil && (g.elsewhere != nil || g.container != "")
	}
	g.try, err = linesToTry(s, registry, cmp.Or(cfg.auth.usersFile, filepath.Join(g.data, usersFile)))
	return g, err
}

// linesToTry are lines for a person to type who wants to see the registry work: as its users and
// flags are, and none if nothing can be done. usersFile is where users come from.
func linesToTry(s *server, registry, usersFile string) ([]string, error) {
	pullsOnly := s.st.readOnly || s.st.writer == nil
	lines := s.gate.linesToLogin(registry, usersFile, pullsOnly)
	if !pullsOnly {
		return append(lines, fmt.Sprintf("docker tag alpine %[1]s/alpine && docker push %[1]s/alpine", registry)), nil
	}
	names, _, err := s.st.listRepositories("", 1, func(string) bool { return true })
	if err != nil || len(names) == 0 {
		return nil, err
	}
	tags, _, err := s.st.listTags(names[0], "", 1)
	if err != nil || len(tags) == 0 {
		return nil, err
	}
	return append(lines, fmt.Sprintf("docker pull %s/%s:%s", registry, names[0], tags[0])), nil
}

// write is the greeting for a person.
func (g *greeting) write(w io.Writer) {
	fmt.Fprintf(w, "Berth %s serves %s on %s\n", g.version, g.data, g.url)
	begun := "Opens the registry there"
	switch g.found {
	case noDirectory:
		begun = "Begins a new registry there, in a directory made for it"
	case noRegistryYet:
		begun = "Begins a new registry there"
	}
	has := []string{g.repositories.String(), "no users"}
	if g.users > 0 {
		has[1] = plural(g.users, "user")
	}
	if g.tokens > 0 {
		has = append(has, plural(g.tokens, "token"))
	}
	if g.certificates {
		has = append(has, "client certificates")
	}
	fmt.Fprintf(w, "%s: %s\n", begun, strings.Join(has, ", "))
	if g.inside != "" {
		fmt.Fprintf(w, "There is another registry in %s: to use that, stop Berth, and start it with --data %[1]s, or with that directory in the place of %s\n", g.inside, g.data)
	}
	if g.passed != "" {
		fmt.Fprintf(w, "The service manager listens for it: its socket's address counts, not %s\n", g.passed)
	}
	switch {
	case g.elsewhere != nil:
		fmt.Fprintf(w, "Other machines reach it at %s\n", strings.Join(g.elsewhere, ", "))
	case g.container != "":
		fmt.Fprintf(w, "This is a container: others reach it at the machine's address and the port published for %s\n", g.container)
	case g.loopback:
		fmt.Fprintln(w, "No other machine reaches it, except through a proxy on this one")
	}
	fmt.Fprintf(w, "%s%s\n", strings.ToUpper(g.open[:1]), g.open[1:])
	if g.unguarded {
		fmt.Fprintln(w, "To make it ask for one:  berth user add NAME")
	}
	for i, line := range g.try {
		fmt.Fprintf(w, "%-6s%s\n", [...]string{"Try:", ""}[min(i, 1)], line)
	}
	if g.ca != "" && g.container != "" {
		fmt.Fprintf(w, "Other machines must first trust its CA: `berth trust HOST:PORT` in the container shows how. The CA's SHA-256 is\n  %s\n", g.ca)
	}
	if g.ca != "" && g.elsewhere != nil {
		fmt.Fprintf(w, "Other machines must first trust its CA: %s shows how, and so does `berth trust`. The CA's SHA-256 is\n  %s\n", trustURL(g.elsewhere[0]), g.ca)
	}
	if g.plain {
		fmt.Fprintln(w, "Docker on other machines needs TLS (berth --tls=auto), or this registry among its insecure-registries")
	}
}

// status is the same in a line, for a service manager.
func (g *greeting) status() string {
	return fmt.Sprintf("Serving on %s", cmp.Or(strings.Join(g.elsewhere, ", "), g.url))
}

// trustURL is where a registry at an https URL shows, over plain HTTP on the same port, how to trust it.
func trustURL(registry string) string {
	host := strings.TrimPrefix(registry, "https://")
	if _, _, err := net.SplitHostPort(host); err != nil {
		host += ":443"
	}
	return "http://" + host + "/trust"
}

// insideOnly are the names of interfaces that lead to containers and virtual machines of this machine.
var insideOnly = expression(`^(docker|br-|veth|cni|podman|virbr|lxcbr|lxdbr|flannel|cali|kube)`)

// outerAddresses are those of the machine's addresses by which others may reach it.
func outerAddresses() (list []string) {
	interfaces, _ := net.Interfaces() // without them the greeting has no addresses
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 || insideOnly().MatchString(i.Name) {
			continue
		}
		addresses, _ := i.Addrs()
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && (n.IP.To4() != nil || !n.IP.IsLinkLocalUnicast()) {
				list = append(list, n.IP.String())
			}
		}
	}
	return list
}

// inContainer reports whether this process is in a container with a network of its own; root is the
// file system. A container that uses the machine's network has its devices, and so its addresses.
func inContainer(env environment, root fs.FS) bool {
	if host, _ := env.lookup("KUBERNETES_SERVICE_HOST"); host != "" {
		return true
	}
	if devices, _ := fs.Glob(root, "sys/class/net/*/device"); devices != nil {
		return false
	}
	for _, mark := range []string{".dockerenv", "run/.containerenv"} {
		if _, err := fs.Stat(root, mark); err == nil {
			return true
		}
	}
	groups, _ := fs.ReadFile(root, "proc/self/cgroup") // tells only where they are of version 1
	return containerGroup().Match(groups)
}

// containerGroup matches the control group of a container in a line of /proc/self/cgroup.
var containerGroup = expression(`(?m)/(docker[-/]|kubepods|libpod|cri-containerd)`)

// log is the same for a program.
func (g *greeting) log(log *slog.Logger) {
	if g.unguarded {
		log.Warn("everybody who reaches this registry may push and delete; `berth user add NAME` makes it ask for a password")
	}
	log.Info("serving", "version", g.version, "data", g.data, "new", g.found != aRegistry, "made", g.found == noDirectory,
		"repositories", g.repositories.seen, "deleted", g.repositories.deleted, "users", g.users, "tokens", g.tokens, "url", g.url, "elsewhere", g.elsewhere, "container", g.container != "", "inside", g.inside, "open", g.open, "try", g.try, "ca", g.ca)
}
