//go:build !linux

package main

import "testing"

func otherDisk(t testing.TB) string {
	t.Skip("mounts a disk, on Linux only")
	return ""
}
