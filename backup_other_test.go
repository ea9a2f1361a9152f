//go:build !linux

package main

import "testing"

func otherDisk(t testing.TB) string {
	notHere(t, linuxMounts)
	return ""
}
