// `berth upgrade`: another version in the place of the installed one, and back if it does not serve.
//
// The file is copied beside the installed binary first, and the copy is what is verified, asked and
// put in place; so nobody exchanges it meanwhile. The exchange is a rename: after a power cut one
// version or the other is there, whole. The old one stays as berth.previous.
//
// systemd says whether the new version has become ready. If not, the old one comes back. A newer
// version may have brought the database up to date, which an older one refuses; store_before.go
// has how the old one then finds it as it was. Once a version has been ready, clients were told
// things that must stay, and there is no way back to an older database.

package main

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// previousSuffix is what the name of the binary before the last upgrade ends with.
const previousSuffix = ".previous"

// checkUpgrade refuses a command that does not say to what.
func checkUpgrade(cfg *config) error {
	if cfg.Rollback == (len(cfg.Args) > 0) {
		return errors.New("name the file of the new version, or say --rollback")
	}
	return nil
}

// upgradeCommand is `berth upgrade`.
func upgradeCommand(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
	in, err := newInstaller(cfg, stdout)
	if err != nil {
		return err
	}
	target := in.at(installedBinary)
	if !thereIs(target) {
		return fmt.Errorf("there is no %s to upgrade; `berth install` installs this one", installedBinary)
	}
	temp := target + ".new"
	defer os.Remove(temp) // or it has its place
	os.Remove(temp)
	var sum string
	if cfg.Rollback {
		if _, err := copyProgram(target+previousSuffix, temp); err != nil {
			return fmt.Errorf("there is no earlier version to go back to: %w", err)
		}
	} else if sum, err = copyProgram(cfg.Args[0], temp); err != nil {
		return err
	} else if err := verifySum(stdout, cfg.Args[0], sum, cfg.SHA256); err != nil {
		return err
	}
	if !cfg.Rollback {
		if err := isBerthForHere(temp, cfg.Args[0]); err != nil {
			return err
		}
	}
	facts, err := askFacts(ctx, temp)
	if err != nil {
		return err
	}
	if sameContent(temp, target) {
		fmt.Fprintf(stdout, "%s is this version already: %s\n", installedBinary, facts.Version)
		return nil
	}
	if err := in.refuseOlder(facts); err != nil {
		return err
	}
	if cfg.DryRun {
		in.say("replace %s by %s", installedBinary, facts.Version)
		return nil
	}
	return in.exchange(ctx, cfg, temp, facts)
}

// exchange puts the new program in place and restarts the service. If it does not come up, the old one comes back.
func (in *installer) exchange(ctx context.Context, cfg *config, temp string, facts build) error {
	if err := in.putProgram(temp); err != nil {
		return err
	}
	if in.root != "" || exec.CommandContext(ctx, "systemctl", "--quiet", "is-active", "berth.service").Run() != nil {
		fmt.Fprintf(in.out, "%s is now %s. The service was not running; to start it: sudo systemctl start berth\n", installedBinary, facts.Version)
		return nil
	}
	// What was begun is ended: the old version must not stay away because somebody has lost patience.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restartTimeout)
	defer cancel()
	cfg.dir = in.dataDir()
	err := in.restart(ctx, cfg)
	if err == nil {
		fmt.Fprintf(in.out, "Berth %s serves. The version before is %s%s; `berth upgrade --rollback` goes back to it\n", facts.Version, installedBinary, previousSuffix)
		return nil
	}
	return in.goBack(ctx, cfg, fmt.Errorf("%s has not come up (%w). Its log ends with:\n%s", facts.Version, err, journal(ctx)))
}

// goBack puts the version before in its place again, since the new one has failed, and says how that went.
func (in *installer) goBack(ctx context.Context, cfg *config, failed error) error {
	target := in.at(installedBinary)
	old, err := askFacts(ctx, target+previousSuffix)
	if err == nil {
		err = in.refuseOlder(old)
	}
	if err != nil {
		return fmt.Errorf("%w\nIt stays, and systemd starts it again and again: there is no way back to the version before (%w). "+
			"What was pushed since is in the data. Upgrade to a version that opens them, or restore a backup that was made before", failed, err)
	}
	back := target + ".new"
	os.Remove(back)
	if _, err := copyProgram(target+previousSuffix, back); err != nil {
		return errors.Join(failed, err)
	}
	if err := os.Rename(back, target); err != nil {
		return errors.Join(failed, err)
	}
	if err := syncDir(filepath.Dir(target)); err != nil {
		return errors.Join(failed, err)
	}
	// No stop before: that would close the socket, too. After many failures systemd would refuse to start it.
	exec.CommandContext(ctx, "systemctl", "reset-failed", "berth.service", "berth.socket").Run()
	if err := in.restart(ctx, cfg); err != nil {
		return fmt.Errorf("%w\nThe version before is in its place again, and does not come up either (%w). Its log ends with:\n%s", failed, err, journal(ctx))
	}
	return fmt.Errorf("%w\nThe version before serves again; nothing is lost", failed)
}

// A new version has settled when it serves, and is the same process for this long. One that fails does so
// soon, as a rule.
const settling, longestSettling = 3 * time.Second, 30 * time.Second

// restart restarts the service, whose socket stays open meanwhile, and returns when it has settled, or an error.
func (in *installer) restart(ctx context.Context, cfg *config) error {
	if err := in.run(ctx, "systemctl", "restart", "berth.service"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, longestSettling)
	defer cancel()
	process := mainProcess(ctx)
	var since time.Time // it has served
	for {
		err := askServes(ctx, cfg)
		switch now := mainProcess(ctx); {
		case now == "" || now != process:
			return errors.New("it has become ready and then ended")
		case err != nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > settling:
			return nil
		}
		select {
		case <-ctx.Done():
			return cmp.Or(err, ctx.Err())
		case <-time.After(settling / 10):
		}
	}
}

// mainProcess is the number of the service's process, or "" if none runs.
func mainProcess(ctx context.Context) string {
	said, err := exec.CommandContext(ctx, "systemctl", "show", "--property=MainPID", "--value", "berth.service").Output()
	if id := strings.TrimSpace(string(said)); err == nil && id != "0" {
		return id
	}
	return ""
}

// refuseOlder refuses a program that cannot open the database of the service, nor take back the copy from before
// an upgrade that never served.
func (in *installer) refuseOlder(facts build) error {
	dir := in.at(in.dataDir())
	var refused error
	for _, name := range []string{"berth.db", beforeFile} {
		path := filepath.Join(dir, name)
		if !thereIs(path) {
			continue
		}
		version, err := versionOfFile(path)
		if err == nil && version >= facts.OldestData && version <= facts.NewestData {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%s cannot open the data in %s: they are of version %d, and it opens %d to %d. Use a newer berth",
				facts.Version, in.dataDir(), version, facts.OldestData, facts.NewestData)
		}
		refused = cmp.Or(refused, err)
	}
	return refused
}

// versionOfFile is that of a database in a file, which may be in use.
func versionOfFile(path string) (version int, err error) {
	db, err := openToLook(path)
	if err == nil {
		defer db.Close()
		version, err = versionOfDatabase(db)
	}
	if err != nil {
		return 0, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	return version, nil
}

// verifySum compares the SHA-256 of a file with the one that is wanted, or that FILE.sha256 or SHA256SUMS beside it
// has. It says where the sum came from, or that there was none.
func verifySum(out io.Writer, file, sum, want string) error {
	where := "--sha256"
	if want == "" {
		want, where = listedSum(file)
	}
	switch {
	case want == "":
		fmt.Fprintf(out, "NOT compared with a checksum: there is no %s.sha256 and no SHA256SUMS beside it. Its SHA-256 is %s\n", filepath.Base(file), sum)
		return nil
	case !strings.EqualFold(want, sum):
		return fmt.Errorf("%s is not what it should be: its SHA-256 is %s, and %s says %s. Download it again", file, sum, where, want)
	}
	fmt.Fprintf(out, "The SHA-256 is that of %s\n", where)
	return nil
}

// listedSum finds the sum of a file in the files beside it, as sha256sum writes them.
func listedSum(file string) (sum, where string) {
	for _, list := range []string{file + ".sha256", filepath.Join(filepath.Dir(file), "SHA256SUMS")} {
		text, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			sum, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			name = strings.TrimPrefix(strings.TrimSpace(name), "*")
			if len(sum) == 64 && (filepath.Base(name) == filepath.Base(file) || name == "" && list == file+".sha256") {
				return sum, list
			}
		}
	}
	return "", ""
}

// isBerthForHere returns an error unless a program is a Berth for this system and processor. name is what a person
// calls it.
func isBerthForHere(path, name string) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%s is not a program made by Go, as Berth is. If it is an archive, unpack it first", name)
	}
	own, _ := debug.ReadBuildInfo()
	if own != nil && info.Main.Path != own.Main.Path {
		return fmt.Errorf("%s is not a Berth but %s", name, cmp.Or(info.Main.Path, info.Path))
	}
	has := map[string]string{}
	for _, x := range info.Settings {
		has[x.Key] = x.Value
	}
	if has["GOOS"] != runtime.GOOS || has["GOARCH"] != runtime.GOARCH {
		return fmt.Errorf("%s is for %s/%s, and this machine needs %s/%s", name, has["GOOS"], has["GOARCH"], runtime.GOOS, runtime.GOARCH)
	}
	return nil
}

// askFacts starts a Berth to say what it is: so it is known to run here.
func askFacts(ctx context.Context, path string) (facts build, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	said, err := exec.CommandContext(ctx, path, "version", "--json").Output()
	if err == nil {
		err = json.Unmarshal(said, &facts)
	}
	if err == nil && (facts.Version == "" || facts.NewestData == 0) {
		err = errors.New("it does not say which data it opens")
	}
	if errors.Is(err, fs.ErrPermission) {
		return facts, fmt.Errorf("%s cannot be run; is its disk mounted noexec?", path)
	}
	if err != nil {
		return facts, fmt.Errorf("the new version does not run on this machine: %w", err)
	}
	return facts, nil
}
