// What a service manager hands to a server, and what it is told.
//
// systemd can listen itself, and hand over the sockets (LISTEN_FDS, sd_listen_fds(3)): while
// Berth restarts, connections wait instead of being refused, and a port below 1024 needs no right.
// And it wants to be told (NOTIFY_SOCKET, sd_notify(3)) when the registry can serve, when it reads
// its files again, and when it ends; with WatchdogSec= in the unit also, over and over, that it
// still serves. Without that an idle server says nothing and wakes for nothing.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// A serviceManager is who has started this process as a service. Its zero value is nobody.
type serviceManager struct {
	socket   string        // of unixgram, where it listens; "" if it wants to hear nothing
	sockets  int           // that this process has from it, from firstSocket on
	names    []string      // of those, as FileDescriptorName= in their units
	watchdog time.Duration // within which it wants to hear that the server serves; 0 for never
}

// firstSocket is the file descriptor of the first socket that is handed over.
const firstSocket = 3

// serviceManager reads what a service manager has put into the environment, unless that was for
// another process: variables are inherited.
func (env environment) serviceManager() (m serviceManager) {
	forMe := func(name string) bool {
		pid, ok := env.lookup(name)
		return ok && pid == strconv.Itoa(os.Getpid())
	}
	m.socket, _ = env.lookup("NOTIFY_SOCKET")
	if text, _ := env.lookup("LISTEN_FDS"); forMe("LISTEN_PID") {
		m.sockets, _ = strconv.Atoi(text)
		if names, ok := env.lookup("LISTEN_FDNAMES"); ok {
			m.names = strings.Split(names, ":")
		}
	}
	_, addressed := env.lookup("WATCHDOG_PID")
	if text, _ := env.lookup("WATCHDOG_USEC"); !addressed || forMe("WATCHDOG_PID") {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
			m.watchdog = time.Duration(n) * time.Microsecond
		}
	}
	return m
}

// take returns the sockets that were handed over: the one for clients, and the one for plain HTTP beside
// TLS, which is called http-addr. Either is nil if it was not handed over. It is called once.
func (m serviceManager) take() (clients, open net.Listener, err error) {
	taken := map[bool]net.Listener{} // by whether it is for plain HTTP
	for i := range m.sockets {
		name := ""
		if i < len(m.names) {
			name = m.names[i]
		}
		f := os.NewFile(uintptr(firstSocket+i), name)
		listener, e := net.FileListener(f) // which has a copy that no child inherits
		f.Close()
		plain := name == "http-addr"
		switch {
		case e != nil:
			e = fmt.Errorf("the socket %q that the service manager hands over cannot be used; it must be a ListenStream=: %w", name, e)
		case listener.Addr().Network() != "tcp":
			e = fmt.Errorf("the socket %q that the service manager hands over is not of TCP: ListenStream= must be a port, or an address with a port", name)
		case taken[plain] != nil:
			e = fmt.Errorf("the service manager hands over more than one socket for clients (%s and %s). Berth takes one; one for plain HTTP beside TLS "+
				"needs a unit of its own with FileDescriptorName=http-addr", taken[plain].Addr(), listener.Addr())
		}
		if e != nil {
			if listener != nil {
				listener.Close()
			}
			err = errors.Join(err, e)
			continue
		}
		taken[plain] = listener
	}
	if err != nil {
		for _, listener := range taken {
			listener.Close()
		}
		return nil, nil, err
	}
	return taken[false], taken[true], nil
}

// tell sends lines to the service manager, if there is one that wants to hear them.
func (m serviceManager) tell(lines ...string) error {
	if m.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(5 * time.Second)) // one that is stuck stops nobody from serving
	_, err = conn.Write([]byte(strings.Join(lines, "\n")))
	return err
}

// A start may take longer than the service manager waits, when the database is brought up to date on
// a slow disk. It is given more time in steps, while it has not ended, but not endlessly.
const startStep, longestStart = 30 * time.Second, 2 * time.Hour

// starting says that a start is under way, until the caller calls done.
func (m serviceManager) starting() (done func()) {
	if m.socket == "" {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(context.Background(), longestStart)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		more := fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", startStep.Microseconds())
		m.tell("STATUS=Opening the registry", more)
		steps := time.NewTicker(startStep / 3)
		defer steps.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-steps.C:
				m.tell(more)
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// ready says that clients are served.
func (m serviceManager) ready(log *slog.Logger, status string) {
	if err := m.tell("READY=1", "STATUS="+oneLine(status)); err != nil {
		log.Warn("the service manager cannot be told that the registry serves; it may end it", "socket", m.socket, "error", err)
	}
}

// reread says that reread is under way while it runs.
func (m serviceManager) reread(reread func()) {
	m.tell("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", monotonic().Microseconds()))
	reread()
	m.tell("READY=1")
}

// watch tells the service manager at each tick that the registry serves, if check finds that it does, until
// ctx ends. When it is not told in time, it ends the process and starts another.
func (m serviceManager) watch(ctx context.Context, log *slog.Logger, ticks <-chan time.Time, check func(context.Context) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		checking, cancel := context.WithTimeout(ctx, m.watchdog/2)
		err := check(checking)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Error("the registry does not answer itself, and the watchdog is not told that it serves", "error", err)
			continue
		}
		m.tell("WATCHDOG=1")
	}
}
