// Built into a Berth that fails as the file /run/berth-fault says. systemd_linux_test.go calls beforeReady and
// afterReady where their names say.

package main

import (
	"os"
	"strings"
	"time"
)

var fault = func() string {
	text, _ := os.ReadFile("/run/berth-fault")
	return strings.TrimSpace(string(text))
}()

func init() {
	if strings.HasPrefix(fault, "newer") {
		upgrades = append(upgrades, "ALTER TABLE repository ADD COLUMN colour TEXT")
		latestVersion++
	}
	if len(os.Args) > 1 { // berth version
		return
	}
	switch fault {
	case "exits":
		fail()
	case "hangs":
		time.Sleep(time.Hour)
	}
}

func fail() {
	os.Stderr.WriteString("the fault " + fault + "\n")
	os.Exit(1)
}

func beforeReady() {
	if fault == "newer, never ready" {
		fail()
	}
}

func afterReady() {
	if fault == "ready, then ends" || fault == "newer, ready, then ends" {
		fail()
	}
}
