package main

// What a server's processes have used, as Linux tells it under /proc; elsewhere, and of a server that runs
// somewhere, nothing is known, and each figure is not a number. A server is its process and that one's
// children: nginx has a master and workers.

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

var unknown = math.NaN()

// sum adds up what figure finds in a file of each of the server's processes.
func (s *server) sum(file string, figure func(content string) float64) float64 {
	if s.cmd == nil {
		return unknown
	}
	pid := strconv.Itoa(s.cmd.Process.Pid)
	children, _ := filepath.Glob("/proc/" + pid + "/task/*/children")
	pids := []string{pid}
	for _, path := range children {
		content, _ := os.ReadFile(path)
		pids = append(pids, strings.Fields(string(content))...)
	}
	total := 0.0
	for _, pid := range pids {
		paths, _ := filepath.Glob("/proc/" + pid + "/" + file)
		if len(paths) == 0 {
			return unknown
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				return unknown
			}
			total += figure(string(content))
		}
	}
	return total
}

// cpu is the processor time that was used, in seconds, to a hundredth.
func (s *server) cpu() float64 {
	return s.sum("stat", func(content string) float64 {
		fields := strings.Fields(content[strings.LastIndexByte(content, ')')+1:]) // the name may have spaces
		if len(fields) < 13 {
			return unknown
		}
		user, err := strconv.ParseFloat(fields[11], 64)
		system, err2 := strconv.ParseFloat(fields[12], 64)
		if err != nil || err2 != nil {
			return unknown
		}
		return (user + system) / 100 // USER_HZ, which is 100 on every machine that Go runs on
	})
}

// memory is a field of the process's status, as VmRSS or VmHWM, in MiB.
func (s *server) memory(field string) float64 {
	return s.sum("status", named(field)) / 1024
}

// written is how many bytes were written to files for the first time since they were last on the disk: what
// the process makes the disk write, but for the file system's own journal.
func (s *server) written() float64 {
	return s.sum("io", func(content string) float64 {
		return named("write_bytes")(content) - named("cancelled_write_bytes")(content)
	})
}

// wakeups is how often the threads that live have waited.
func (s *server) wakeups() float64 {
	return s.sum("task/*/status", named("voluntary_ctxt_switches"))
}

// named reads the number of a line "name: number".
func named(name string) func(content string) float64 {
	return func(content string) float64 {
		_, rest, ok := strings.Cut("\n"+content, "\n"+name+":")
		var v float64
		if _, err := fmt.Sscan(rest, &v); !ok || err != nil {
			return unknown
		}
		return v
	}
}

// size is that of the binary, in MiB.
func (s *server) size() float64 {
	info, err := os.Stat(s.binary)
	if s.cmd == nil || err != nil {
		return unknown
	}
	return float64(info.Size()) / (1 << 20)
}
