package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A control group's limit counts, where one can be made.
func TestMemoryOfAControlGroup(t *testing.T) {
	t.Parallel()
	all, _ := memory()
	if all < 16<<20 {
		t.Fatalf("this machine has %d bytes of memory", all)
	}
	if os.Getenv("BERTH_TEST_MEMORY") != "" {
		os.WriteFile(os.Getenv("BERTH_TEST_MEMORY"), []byte(formatSize(all)), 0o600)
		return
	}
	group, file := "/sys/fs/cgroup/berth-test", "memory.max"
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		group, file = "/sys/fs/cgroup/memory/berth-test", "memory.limit_in_bytes"
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		skip(t, fmt.Sprintf("no control group can be made: %v", err))
	}
	defer os.Remove(group)
	limit, err := os.OpenFile(group+"/"+file, os.O_WRONLY, 0)
	if err != nil {
		skip(t, fmt.Sprintf("control groups have no memory here: %v", err))
	}
	defer limit.Close()
	if _, err := limit.WriteString("67108864"); err != nil {
		skip(t, fmt.Sprintf("a control group can have no limit here: %v", err))
	}
	said := t.TempDir() + "/said"
	cmd := exec.Command("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$1" -test.run '^TestMemoryOfAControlGroup$'`, group, itself(t))
	cmd.Env = append(os.Environ(), "BERTH_TEST_MEMORY="+said)
	if out, err := cmd.CombinedOutput(); err != nil {
		skip(t, fmt.Sprintf("the control group cannot be joined: %v\n%s", err, out))
	}
	if text, err := os.ReadFile(said); err != nil || strings.TrimSpace(string(text)) != "64.0 MiB" {
		t.Errorf("in a group with 64 MiB there are %q, %v", text, err)
	}
}
