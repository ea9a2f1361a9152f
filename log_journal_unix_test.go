//go:build unix

// What systemd's journal gets: the priority of each line, and no time. A pipe stands in for the journal's socket; what
// tells one from the other is only that systemd names it.

package main

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// servedInto serves with standard error being a pipe, of which stream says to the server what is the journal's. It returns what
// came through that, from a start with a request, an audit line and a debug line to its end.
func servedInto(t *testing.T, stream func(pipe *os.File) string, args ...string) string {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(itself(t))
	cmd.Args = append(append(cmd.Args, args...), "--data", t.TempDir(), "--addr", "127.0.0.1:0", "--log-level", "debug")
	cmd.Env = append(os.Environ(), mainVariable+"=1", "JOURNAL_STREAM="+stream(in))
	cmd.Stderr = in
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	text := make(chan string)
	go func() { b, _ := io.ReadAll(out); text <- string(b) }()
	t.Cleanup(func() { cmd.Process.Kill() }) // does nothing if it has ended
	lines := bufio.NewReader(stdout)
	first, _ := lines.ReadString('\n')
	if url := regexp.MustCompile(`http://\S+`).FindString(first); url != "" {
		for _, path := range []string{"/v2/", "/readyz"} {
			if resp, err := http.Get(url + path); err != nil {
				t.Error(err)
			} else {
				resp.Body.Close()
			}
		}
		if resp, err := http.Post(url+"/v2/a/blobs/uploads/?digest="+sum("x").String(), "", strings.NewReader("x")); err != nil {
			t.Error(err)
		} else {
			resp.Body.Close()
		}
		cmd.Process.Signal(syscall.SIGTERM)
	}
	go io.Copy(io.Discard, lines)
	said := <-text
	cmd.Wait()
	return said
}

func TestLogInTheJournal(t *testing.T) {
	t.Parallel()
	ours := func(f *os.File) string { return fileID(f) }
	text := servedInto(t, ours)
	for line := range strings.Lines(text) {
		if !regexp.MustCompile(`^(<6>level=INFO|<7>level=DEBUG|<5>level=AUDIT|<4>level=WARN|<3>level=ERROR) msg=`).MatchString(line) {
			t.Errorf("a line for the journal: %s", line)
		}
	}
	for _, want := range []string{"<6>level=INFO msg=request method=GET path=/v2/ ", "<7>level=DEBUG msg=request method=GET path=/readyz ", "<6>level=INFO msg=stopping"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if text := servedInto(t, ours, "--htpasswd", "/nowhere/users"); !regexp.MustCompile(`^<3>berth: [^\n]+\n$`).MatchString(text) {
		t.Errorf("a start that fails says to the journal\n%s", text)
	}
	// Whose parent has the journal, and who writes elsewhere.
	for _, other := range []string{"", "1:2", "?"} {
		if text := servedInto(t, func(*os.File) string { return other }); strings.Contains(text, "<6>") || !strings.HasPrefix(text, "time=") {
			t.Errorf("JOURNAL_STREAM=%s, which this is not:\n%s", other, text)
		}
	}
}
