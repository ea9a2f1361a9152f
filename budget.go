// How much memory to use, on a router with 64 MiB as on a server.
//
// What Berth holds is bounded by design; what is chosen here is how generous it
// is on top of that: how much it remembers, and how much room the garbage
// collector has. The machine's memory decides, or the control group's if that
// has a limit, so that nobody has to set anything. GOGC and GOMEMLIMIT, if set
// in the environment, win.

package main

import (
	"os"
	"runtime/debug"
)

// A budget is what a process may use. All but percent and connections are bytes.
type budget struct {
	limit       int64 // what Go's runtime should stay below; 0 for no limit
	percent     int   // GOGC: how much the heap may grow before it is collected
	lookups     int   // answers that are remembered (store_cache.go)
	pages       int   // of the database that all connections together keep
	answers     int64 // long ones that are in memory while clients read them (handlers_sending.go)
	connections int   // that may be open
	window      int   // what may come over one of HTTP/2 before anybody reads it
	unsynced    int   // small blobs that the database has for a moment (store_small.go), which are in memory before
}

// budgetFor is for a machine with so many bytes of memory; 0 is not known.
//
// Long answers have an eighth: the few that are read from the database at one moment
// are there three times (SQLite's, the driver's and ours), and Go lets garbage come to
// as much again.
//
// Measured with 32 connections that ask for manifests: with GOGC=200 a twentieth
// more of them, for 5 MiB more.
func budgetFor(memory int64) budget {
	b := sharesOf(memory)
	b.connections = 4096
	if memory > 0 {
		b.connections = int(min(max(memory/4/perConnection, 128), 20000))
	}
	b.window = 256 << 10
	if memory >= 1<<30 {
		b.window = 1 << 20 // for those who push from far away
	}
	return b
}

// spareFiles are those that are open whoever is connected: the database's, above all.
const spareFiles = 64

// within is the budget of a process that may have so many files open; 0 is no limit.
// A connection is one, and may want a blob's.
func (b budget) within(files int64) budget {
	if files > 0 {
		b.connections = int(min(int64(b.connections), max((files-spareFiles)/2, 16)))
	}
	return b
}

// perConnection is what one takes whose header is as long as it may be and never
// ends, in bytes: a quarter of the memory is for those.
const perConnection = maxHeader + 16<<10

// maxFrame is how long a frame of HTTP/2 may be that is sent to us, in bytes: each is
// in memory until it is there as a whole. Of shorter ones pushes become slower.
const maxFrame = 64 << 10

// perStream is what a request takes over HTTP/2 whose answer nobody reads, in bytes:
// goroutines and buffers. Measured: 16 KiB.
const perStream = 16 << 10

// overTwo is for how many connections one over HTTP/2 counts. However few there may be,
// four of them may.
func (b budget) overTwo() int {
	return max(min(1+(b.window+maxFrame+maxStreams*perStream)/perConnection, b.connections/4), 1)
}

func sharesOf(memory int64) budget {
	switch {
	case memory <= 0:
		return budget{percent: 100, lookups: 8 << 20, pages: 8 << 20, unsynced: 16 << 20, answers: 64 << 20}
	case memory < 256<<20:
		return budget{limit: memory / 2, percent: 50, lookups: 2 << 20, pages: 4 << 20, unsynced: 8 << 20, answers: memory / 8}
	case memory < 1<<30:
		return budget{limit: memory / 2, percent: 100, lookups: 8 << 20, pages: 8 << 20, unsynced: 16 << 20, answers: memory / 8}
	}
	return budget{limit: memory / 2, percent: 200, lookups: 32 << 20, pages: 16 << 20, unsynced: 32 << 20, answers: min(memory/8, 256<<20)}
}

// apply tells Go's runtime.
func (b budget) apply() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(b.percent)
	}
	if os.Getenv("GOMEMLIMIT") == "" && b.limit > 0 {
		debug.SetMemoryLimit(b.limit)
	}
}
