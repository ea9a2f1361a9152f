package main

// The servers: what there is to measure, how it is got and started, and how it is ended. Each is a
// process of its own on a loopback port with a fresh directory, and what it prints goes nowhere, as cheaply
// as may be (-logs shows it). Berth is built from the repository around; the Go registries are built at
// pinned versions into Go's cache, where the tests of e2e keep their clients too; nginx is the machine's.
//
//	berth         as it is without flags; it writes a line of log for each request
//	distribution  what is behind registry:2 and :3: files, deletes enabled, the usual cache, no access log
//	crane         crane registry serve --disk
//	nginx         the same files without a registry
//	limit         limit.go

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/berth-registry/berth/e2e/goinstall"
)

// A product is a program that can be started, or a registry that runs somewhere already.
type product struct {
	name    string
	note    string // under the table
	find    func(tmp string) (binary string, err error)
	version func(binary string) string
	command func(binary, dir, addr string) (*exec.Cmd, error)
	leaves  bool          // what it was sent to be lost with the power: it syncs nothing
	late    time.Duration // after an answer it may still have something to write, for so long
	static  bool          // serves the files in its directory, and takes no pushes
	addr    string        // of one that runs somewhere; else ""
	binary  string        // known once it has been found
}

const (
	distributionPackage = "github.com/distribution/distribution/v3/cmd/registry"
	distributionVersion = "v3.1.2"
	cranePackage        = "github.com/google/go-containerregistry/cmd/crane"
	craneVersion        = "v0.22.1"
)

// products are in the order of the table's columns.
var products = []*product{
	{
		name: "berth",
		find: buildBerth,
		late: 3 * time.Second, // the files of small blobs, whose bytes are safe in the database till then
		version: func(binary string) string {
			out, _ := exec.Command(binary, "version").Output()
			return strings.TrimSpace(string(out))
		},
		command: func(binary, dir, addr string) (*exec.Cmd, error) {
			return exec.Command(binary, "--addr", addr, "--data", dir), nil
		},
	}, {
		name:    "distribution",
		note:    "syncs files, but not all of their names",
		find:    func(string) (string, error) { return goinstall.Command(distributionPackage, distributionVersion) },
		version: func(string) string { return distributionVersion },
		command: distributionCommand,
	}, {
		name:    "crane",
		note:    "for tests: syncs nothing, so no rival in what the disk decides; has manifests, and uploads in parts, in memory",
		leaves:  true,
		find:    func(string) (string, error) { return goinstall.Command(cranePackage, craneVersion) },
		version: func(string) string { return craneVersion },
		command: func(binary, dir, addr string) (*exec.Cmd, error) {
			return exec.Command(binary, "registry", "serve", "--disk", dir, "--address", addr), nil
		},
	}, {
		name: "nginx",
		note: "no registry: the same bytes as static files",
		find: func(string) (string, error) { return lookPath("nginx") },
		version: func(binary string) string {
			out, _ := exec.Command(binary, "-v").CombinedOutput()
			return strings.TrimPrefix(strings.TrimSpace(string(out)), "nginx version: nginx/")
		},
		command: nginxCommand,
		static:  true,
	}, {
		name:    "limit",
		note:    "no registry: the same requests, answered by the least code that hashes, compares, and syncs before it says 201",
		find:    func(string) (string, error) { return os.Executable() },
		version: func(string) string { return runtime.Version() },
		command: func(binary, dir, addr string) (*exec.Cmd, error) {
			cmd := exec.Command(binary)
			cmd.Env = append(os.Environ(), limitEnv+"="+addr+"="+dir)
			return cmd, nil
		},
	},
}

func distributionCommand(binary, dir, addr string) (*exec.Cmd, error) {
	config := filepath.Join(dir, "config.yml")
	cmd := exec.Command(binary, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	return cmd, os.WriteFile(config, fmt.Appendf(nil, `version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: %s
  delete:
    enabled: true
  cache:
    blobdescriptor: inmemory
http:
  addr: %s
  secret: bench
`, dir, addr), 0o600)
}

func nginxCommand(binary, dir, addr string) (*exec.Cmd, error) {
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // for the workers to get into the directory
	}
	config := filepath.Join(dir, "nginx.conf")
	cmd := exec.Command(binary, "-p", dir, "-c", config, "-e", "stderr")
	return cmd, os.WriteFile(config, fmt.Appendf(nil, `daemon off;
%s
worker_processes %d;
pid %[3]s/pid;
error_log stderr error;
events { worker_connections 512; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  open_file_cache max=1000;
  client_body_temp_path %[3]s/tmp; proxy_temp_path %[3]s/tmp; fastcgi_temp_path %[3]s/tmp;
  uwsgi_temp_path %[3]s/tmp; scgi_temp_path %[3]s/tmp;
  server {
    listen %[4]s;
    root %[3]s;
    location = /v2/ { return 200; }
  }
}
`, user, runtime.GOMAXPROCS(0), dir, addr), 0o600)
}

// A server is a product that runs.
type server struct {
	*product
	dir    string        // the product's own; "" when it runs somewhere
	took   time.Duration // from its start to its first answer
	cmd    *exec.Cmd     // nil when it runs somewhere
	exited chan struct{} // closed when cmd has ended
	addr   string
	seeds  *seeds // nil until something was asked for that has to be there
}

// start returns when the server has answered. Its directory is below tmp.
func (p *product) start(ctx context.Context, tmp string, logs bool) (*server, error) {
	s := &server{product: p, addr: p.addr}
	if p.addr != "" {
		return s, s.await(ctx)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.addr = listener.Addr().String()
	listener.Close()
	if s.dir, err = os.MkdirTemp(tmp, p.name+"-"); err != nil {
		return nil, err
	}
	if s.cmd, err = p.command(p.binary, s.dir, s.addr); err != nil {
		return nil, err
	}
	if logs {
		s.cmd.Stdout, s.cmd.Stderr = os.Stderr, os.Stderr
	}
	s.cmd.Dir, s.cmd.SysProcAttr = s.dir, attached()
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	s.exited = make(chan struct{})
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	if err := s.await(ctx); err != nil {
		s.stop()
		return nil, err
	}
	s.took = time.Since(began)
	return s, nil
}

// await waits for the server's first answer, for thirty seconds at most if it was started just now.
func (s *server) await(ctx context.Context) error {
	deadline := time.Now()
	if s.cmd != nil {
		deadline = deadline.Add(30 * time.Second)
	}
	for {
		c, err := dial(ctx, s)
		if err == nil {
			if err = c.do(200, "GET", "/v2/", ""); c.status == 401 {
				err = errors.New(s.name + " wants a password, and this program has none")
			}
			c.Close()
		}
		if err == nil || c.status == 401 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer: %w", err)
		}
		select {
		case <-s.exited:
			return fmt.Errorf("%s ended before it answered: %v (-logs shows what it says)", s.name, s.cmd.ProcessState)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Microsecond):
		}
	}
}

// stop ends the server and removes its directory.
func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	if s.cmd.Process.Signal(syscall.SIGTERM) != nil {
		s.cmd.Process.Kill() // where there are no signals
	}
	select {
	case <-s.exited:
	case <-time.After(15 * time.Second):
		s.cmd.Process.Kill()
		<-s.exited
	}
	os.RemoveAll(s.dir)
}

// buildBerth builds the repository's Berth as the README says, or takes the one that $BERTH names.
func buildBerth(tmp string) (string, error) {
	if path := os.Getenv("BERTH"); path != "" {
		return filepath.Abs(path)
	}
	root, err := repository()
	if err != nil {
		return "", err
	}
	path := filepath.Join(tmp, "berth")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s", "-o", path, ".")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building berth: %w\n%s", err, out)
	}
	return path, nil
}

// repository returns the directory of Berth's own module, which is around the working directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		mod, _ := os.ReadFile(filepath.Join(dir, "go.mod"))
		if strings.HasPrefix(string(mod), "module github.com/berth-registry/berth\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("run this in Berth's repository, or set BERTH=/path/to/berth")
		}
	}
}

// lookPath looks where daemons are too, which is in root's PATH only.
func lookPath(name string) (string, error) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}
