// What this binary is: `berth version`.
//
// A release has its version from the linker (release.sh); any other build has what Go knows of the
// module. The commit and its date are those that Go has recorded, and are unknown where it was
// built without git, or with -buildvcs=false.

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
)

// version is that of a release, set by the linker; "" in any other build.
var version string

// A build is what is known of this binary.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`   // "" if it is not known
	Date     string `json:"date,omitempty"`     // of the commit, as in RFC 3339; likewise
	Modified bool   `json:"modified,omitempty"` // and there were changes that had not been committed
	Go       string `json:"go"`
	Platform string `json:"platform"` // OS/ARCH

	OldestData int `json:"oldestData"` // the versions of databases that it opens
	NewestData int `json:"newestData"`
}

// readBuild returns what is known.
func readBuild() build {
	b := build{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		OldestData: oldestVersion, NewestData: latestVersion}
	info, ok := debug.ReadBuildInfo()
	if ok {
		b.Version = strings.Trim(info.Main.Version, "()")
		for _, x := range info.Settings {
			switch x.Key {
			case "vcs.revision":
				b.Commit = x.Value
			case "vcs.time":
				b.Date = x.Value
			case "vcs.modified":
				b.Modified = x.Value == "true"
			case "GOARM":
				b.Platform += "/v" + x.Value[:1]
			}
		}
	}
	b.Version = cmp.Or(version, b.Version)
	return b
}

// buildVersion is the version and the platform, for a line.
func buildVersion() string {
	b := readBuild()
	return b.Version + " " + b.Platform
}

// versionCommand is `berth version`.
func versionCommand(_ context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	b := readBuild()
	if cfg.JSON {
		return cfg.console(stdout).json(b)
	}
	text := "berth " + buildVersion() + "\n"
	if b.Commit != "" {
		text += "commit " + b.Commit
		if b.Modified {
			text += ", with changes"
		}
		text += "\n"
	}
	if b.Date != "" {
		text += "date   " + b.Date + "\n"
	}
	_, err := fmt.Fprint(stdout, text+"go     "+strings.TrimPrefix(b.Go, "go")+"\n")
	return err
}
