// How often a start opens the files that flags name.

package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStartReadsEachFileOnce(t *testing.T) {
	t.Parallel()
	issuer := newIssuer(t)
	cert, key := issuer.issue("pi.lan")
	files := t.TempDir()
	want := make(map[string]int)
	var args []string
	for _, x := range []struct {
		flag string
		text []byte
	}{
		{"--tls-cert", cert}, {"--tls-key", key}, {"--client-ca", issuer.pem()},
		{"--htpasswd", []byte("ann:" + hashOf("ann-secret") + "\n")},
		{"--policy", []byte("[[rule]]\nwho = [\"ann\"]\nrepositories = [\"**\"]\nallow = [\"admin\"]\n")},
	} {
		name := strings.TrimLeft(x.flag, "-")
		path := filepath.Join(files, name)
		writeFile(t, path, x.text)
		old := time.Now().Add(-time.Hour) // what was just written is looked at again
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		want[name] = 1
		args = append(args, x.flag, path)
	}
	opened := watchOpens(t, files)
	serveFor(t, nil, append(args, "--data", filepath.Join(t.TempDir(), "data"))...)
	got := opened()
	for name := range want {
		if got[name] != 1 {
			t.Errorf("the file of --%s is opened %d times, want once", name, got[name])
		}
	}
}

// watchOpens returns a function that tells how often each file of a directory has been opened since.
func watchOpens(t *testing.T, dir string) func() map[string]int {
	t.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err == nil {
		t.Cleanup(func() { syscall.Close(fd) })
		_, err = syscall.InotifyAddWatch(fd, dir, syscall.IN_OPEN)
	}
	if err != nil {
		skip(t, "files cannot be watched here: "+err.Error())
	}
	return func() map[string]int {
		counts := make(map[string]int)
		events := make([]byte, 64<<10)
		n, err := syscall.Read(fd, events)
		if err != nil {
			t.Fatal(err)
		}
		for events = events[:n]; len(events) >= syscall.SizeofInotifyEvent; {
			end := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
			counts[strings.TrimRight(string(events[syscall.SizeofInotifyEvent:end]), "\x00")]++
			events = events[end:]
		}
		return counts
	}
}
