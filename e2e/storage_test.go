package e2e

// What an operator does with the disk while Docker uses the registry: check, repair, collect, back up,
// restore. The commands run beside the server.

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// command runs the program on the server's data directory, and returns what it says and whether it is
// content.
func (b *berth) command(args ...string) (string, error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, berthBinary, append(args, "--data", b.data)...)
	cmd.Env = plainEnv(tempDir(b.t))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Every file of an image rots in turn. Docker is told that it is not there, pushes it again, and all is well.
func TestDockerPushHealsWhatRotted(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	docker := startDocker(t)
	docker.build(reg.ref("hello:1"), hello(t))
	docker.run("push", reg.ref("hello:1"))
	files, err := filepath.Glob(filepath.Join(reg.data, "blobs", "sha256", "*", "*", "data"))
	if err != nil || len(files) < 2 {
		t.Fatalf("files of the image: %v, %v", files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// For a moment the database still has the bytes of what was just pushed, and would write the file again.
		reg.stop()
		reg.start()
		content[len(content)/2] ^= 1
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		digest := "sha256:" + filepath.Base(filepath.Dir(file))
		out, err := reg.command("check", "--deep")
		if err == nil || !strings.Contains(out, "WRONG: blob "+digest) {
			t.Errorf("berth check --deep: %v\n%s", err, out)
		}
		out, err = reg.command("repair", "--deep")
		if err == nil || !strings.Contains(out, "PUSH AGAIN: blob "+digest+", needed by hello:1") {
			t.Errorf("berth repair --deep: %v\n%s", err, out)
		}
		if said := startDocker(t).fails("pull", reg.ref("hello:1")); !strings.Contains(said, "unknown") && !strings.Contains(said, "not found") {
			t.Errorf("docker pull of what is damaged says\n%s", said)
		}
		docker.run("push", reg.ref("hello:1"))
		if out, err := reg.command("check", "--deep"); err != nil {
			t.Errorf("berth check --deep: %v\n%s", err, out)
		}
	}
	other := startDocker(t)
	other.run("pull", reg.ref("hello:1"))
	if got := other.says(reg.ref("hello:1")); got != helloSays {
		t.Errorf("docker run said %q, want %q", got, helloSays)
	}
}

func TestDockerPullsFromABackup(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	docker := startDocker(t)
	docker.build(reg.ref("hello:1"), hello(t))
	docker.run("push", reg.ref("hello:1"))
	dest := filepath.Join(tempDir(t), "backup")
	if out, err := reg.command("backup", dest); err != nil {
		t.Fatalf("berth backup: %v\n%s", err, out)
	}
	docker.buildFrom(reg.ref("hello:1"), reg.ref("hello:2"), map[string]string{"more": "a second layer"})
	docker.run("push", reg.ref("hello:2"))
	if out, err := reg.command("backup", dest); err != nil || !strings.Contains(out, "there already") {
		t.Fatalf("berth backup, again: %v\n%s", err, out)
	}

	restored := startBerth(t)
	restored.stop()
	if err := os.RemoveAll(restored.data); err != nil {
		t.Fatal(err)
	}
	restored.data = dest
	restored.start()
	other := startDocker(t)
	for _, tag := range []string{"hello:1", "hello:2"} {
		other.run("pull", restored.ref(tag))
		if got := other.says(restored.ref(tag)); got != helloSays {
			t.Errorf("docker run of %s said %q, want %q", tag, got, helloSays)
		}
	}
}

// The tag moves on, and the old image is collected at once, but not while a push may still need it.
func TestDockerImageIsCollected(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	docker := startDocker(t)
	docker.load(reg.ref("app:1"), randomLayer(7, 5<<20))
	docker.run("push", reg.ref("app:1"))
	docker.build(reg.ref("app:1"), hello(t))
	docker.run("push", reg.ref("app:1"))

	var figures struct {
		InGrace struct{ Count, Bytes int64 }
	}
	stats := func() {
		t.Helper()
		out, err := reg.command("stats", "--json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &figures)
		}
		if err != nil {
			t.Fatalf("berth stats: %v\n%s", err, out)
		}
	}
	if stats(); figures.InGrace.Bytes < 5<<20 {
		t.Errorf("%d bytes in grace, want the layer of 5 MiB", figures.InGrace.Bytes)
	}
	if out, err := reg.command("gc", "--now"); err != nil || !strings.Contains(out, "a push in progress may need it") {
		t.Errorf("berth gc --now, just after the push: %v\n%s", err, out)
	}
	// Nobody pushes when the server is stopped.
	reg.stop()
	if out, err := reg.command("gc", "--now"); err != nil || !strings.Contains(out, "removed 1 manifest, 2 blobs") {
		t.Errorf("berth gc --now: %v\n%s", err, out)
	}
	reg.start()
	if stats(); figures.InGrace.Count != 0 {
		t.Errorf("%d blobs in grace, want none", figures.InGrace.Count)
	}
	other := startDocker(t)
	other.run("pull", reg.ref("app:1"))
	if got := other.says(reg.ref("app:1")); got != helloSays {
		t.Errorf("docker run said %q, want %q", got, helloSays)
	}
}
