package main

import (
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestBudgetGrowsWithMemory(t *testing.T) {
	last := budget{}
	for _, memory := range []int64{64 << 20, 128 << 20, 512 << 20, 1 << 30, 64 << 30} {
		b := budgetFor(memory)
		if b.limit > memory/2 || b.limit <= last.limit || b.percent < last.percent || b.lookups < last.lookups || b.pages < last.pages {
			t.Errorf("with %s it is %+v, after %+v", size(memory), b, last)
		}
		// What there is beside Go's heap: the program, and pages of the database.
		if most := b.limit + 16<<20 + int64(b.pages); memory <= 64<<20 && most > memory {
			t.Errorf("with %s it may come to %s", size(memory), size(most))
		}
		last = b
	}
	if b := budgetFor(0); b.limit != 0 || b.lookups == 0 || b.percent == 0 || b.pages == 0 {
		t.Errorf("where nothing is known it is %+v", b)
	}
}

func TestBudgetHeedsTheEnvironment(t *testing.T) {
	percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(-1)
	defer debug.SetGCPercent(percent)
	defer debug.SetMemoryLimit(limit)
	debug.SetGCPercent(111)
	debug.SetMemoryLimit(math.MaxInt64)
	t.Setenv("GOGC", "111")
	t.Setenv("GOMEMLIMIT", "1GiB")
	budgetFor(1 << 30).apply()
	if p, l := debug.SetGCPercent(111), debug.SetMemoryLimit(-1); p != 111 || l != math.MaxInt64 {
		t.Errorf("GOGC is %d and the limit %d, though the environment says otherwise", p, l)
	}
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	budgetFor(512 << 20).apply()
	if p, l := debug.SetGCPercent(111), debug.SetMemoryLimit(-1); p != 100 || l != 256<<20 {
		t.Errorf("GOGC is %d and the limit %d, want 100 and 256 MiB", p, l)
	}
}

// A control group's limit counts, where one can be made.
func TestMemoryOfAControlGroup(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("memory is known on Linux only")
	}
	all := memory()
	if all < 16<<20 {
		t.Fatalf("this machine has %d bytes of memory", all)
	}
	if os.Getenv("BERTH_TEST_MEMORY") != "" {
		os.WriteFile(os.Getenv("BERTH_TEST_MEMORY"), []byte(size(all)), 0o600)
		return
	}
	group, file := "/sys/fs/cgroup/berth-test", "memory.max"
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		group, file = "/sys/fs/cgroup/memory/berth-test", "memory.limit_in_bytes"
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("no control group can be made: %v", err)
	}
	defer os.Remove(group)
	limit, err := os.OpenFile(group+"/"+file, os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("control groups have no memory here: %v", err)
	}
	defer limit.Close()
	if _, err := limit.WriteString("67108864"); err != nil {
		t.Skipf("a control group can have no limit here: %v", err)
	}
	said := t.TempDir() + "/said"
	cmd := exec.Command("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$1" -test.run '^TestMemoryOfAControlGroup$'`, group, os.Args[0])
	cmd.Env = append(os.Environ(), "BERTH_TEST_MEMORY="+said)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("the control group cannot be joined: %v\n%s", err, out)
	}
	if text, err := os.ReadFile(said); err != nil || strings.TrimSpace(string(text)) != "64.0 MiB" {
		t.Errorf("in a group with 64 MiB there are %q, %v", text, err)
	}
}
