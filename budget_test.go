package main

import (
	"math"
	"runtime/debug"
	"testing"
)

func TestBudgetGrowsWithMemory(t *testing.T) {
	t.Parallel()
	last := budget{}
	for _, memory := range []int64{64 << 20, 128 << 20, 512 << 20, 1 << 30, 64 << 30} {
		b := budgetFor(memory)
		if b.limit > memory/2 || b.limit <= last.limit || b.percent < last.percent || b.lookups < last.lookups || b.pages < last.pages {
			t.Errorf("with %s it is %+v, after %+v", formatSize(memory), b, last)
		}
		// What there is beside Go's heap: the program, and pages of the database.
		if most := b.limit + 16<<20 + int64(b.pages); memory <= 64<<20 && most > memory {
			t.Errorf("with %s it may come to %s", formatSize(memory), formatSize(most))
		}
		last = b
	}
	if b := budgetFor(0); b.limit != 0 || b.lookups == 0 || b.percent == 0 || b.pages == 0 {
		t.Errorf("where nothing is known it is %+v", b)
	}
}

func TestBudgetHeedsTheEnvironment(t *testing.T) {
	alone(t, "the process's limit of memory is another one meanwhile")
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
