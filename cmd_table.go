// The table of commands: all that Berth knows of each.

package main

import (
	"context"
	"io"
	"slices"
	"strings"
)

func always(options) bool { return true }

// The functions of the table use the table: help prints it, and commands run others.
func init() {
	commands = slices.Concat(programCommands(), peopleCommands(), imageCommands(), fileCommands(), backCommands(), careCommands())
}

// programCommands start the program, or tell of it.
func programCommands() []*command {
	return []*command{
		{name: "serve", heading: "The program", synopsis: "[FLAGS]", check: func(cfg *config) error { return cfg.tls.refuseIdle() }, alone: serveCommand,
			about:   "serve the registry in `--data`; `berth` alone does the same",
			example: "berth serve --addr :8080 --data /srv/berth"},
		{name: "help", synopsis: "[COMMAND|flags]", most: 2, alone: helpCommand,
			about:   "list the commands, explain one of them, or list all flags",
			more:    "`berth COMMAND -h` explains a command, too.",
			example: "berth help gc\nberth help flags"},
		{name: "completion", most: 1, alone: completionCommand,
			forms: []form{
				{"bash", "for bash: `source <(berth completion bash)` in `~/.bashrc`"},
				{"zsh", "for zsh: `source <(berth completion zsh)` in `~/.zshrc`, after `compinit`"},
				{"fish", "for fish: `berth completion fish | source` in `~/.config/fish/config.fish`"},
			},
			about:   "print a script that completes commands and flags in a shell",
			example: "source <(berth completion bash)"},
		{name: "image", least: 1, most: 20, check: checkImageCommand, alone: imageCommand, onStore: imageHere, changes: always,
			forms: []form{
				{"FILE.tar [BINARY...]", "write Berth's own image to a file, for `docker load` and others; - is standard output"},
				{"HOST[:PORT]/NAME:TAG [BINARY...] [--user NAME] [--ca FILE] [--plain-http]", "push it to another registry"},
				{"NAME:TAG [BINARY...] [--force]", "put it into this registry"},
			},
			flags: append(slices.Clone(remoteFlags), forceFlag, jsonFlag),
			about: "make a container image of Berth, without Docker",
			more: "A BINARY is Berth for Linux; each is for another platform, and without any it is the program that runs. " +
				"The image is FROM scratch and does not run as root. The same binaries make the same image.",
			example: "berth image berth.tar\nberth image hub.example.org/tools/berth:1.0 berth-amd64 berth-arm64"},
		{name: "log-level", synopsis: "[LEVEL] [--for DURATION]", most: 1, check: checkLogLevelCommand, onStore: logLevelCommand,
			flags: []flagDef{
				{"for", "DURATION", "", "how long, after which the level is again what `--log-level` says (default until the server ends)", func(c *config, _ *textFlags) any { return &c.For }},
				jsonFlag,
			},
			about:   "show, or change, how much the running server logs",
			more:    "LEVEL is debug, info, warn or error. Nothing is interrupted, and the next start has the level of `--log-level`.",
			example: "berth log-level debug --for 10m"},
		{name: "install", synopsis: "[FLAGS] [--root DIR] [--dry-run]", check: checkInstall, alone: installCommand,
			flags:  []flagDef{rootFlag, dryRunFlag},
			server: []string{"addr", "data", "tls", "tls-name", "http-addr"}, standards: serviceStandards,
			about:   "make a service of systemd, and start it",
			more:    "Flags of the server that are given become its settings. Again, with another version or other flags, it changes what differs.",
			example: "sudo ./berth install\nsudo berth install --tls-name pi.local --addr :443"},
		{name: "uninstall", synopsis: "[--root DIR] [--dry-run]", alone: uninstallCommand, flags: []flagDef{rootFlag, dryRunFlag},
			about:   "remove the service; what is stored stays",
			example: "sudo berth uninstall"},
		{name: "upgrade", synopsis: "FILE|--rollback [--sha256 SUM] [--root DIR] [--dry-run]", most: 1, check: checkUpgrade, alone: upgradeCommand,
			flags: []flagDef{
				{"sha256", "SUM", "", "what the SHA-256 of FILE must be (default what `FILE.sha256` or `SHA256SUMS` beside it says)", func(c *config, _ *textFlags) any { return &c.SHA256 }},
				{"rollback", "", "", "go back to the version before the last upgrade", func(c *config, _ *textFlags) any { return &c.Rollback }},
				rootFlag, dryRunFlag,
			},
			about:   "put another version in the place of the installed one",
			more:    "If it does not come up, the one before comes back. Clients wait meanwhile.",
			example: "sudo berth upgrade ./berth-new"},
		{name: "version", flags: []flagDef{jsonFlag}, alone: versionCommand,
			about:   "print the version, the commit and its date",
			more:    "`berth --version` and `berth -v` do the same.",
			example: "berth version"},
	}
}

// peopleCommands are about who may do what.
func peopleCommands() []*command {
	return []*command{
		{name: "user", heading: "Users and rights", least: 1, most: 2, check: checkUserCommand, onFiles: userCommand,
			flags: []flagDef{
				{"force", "", "", "remove the last administrator, or the last user, without asking", func(c *config, _ *textFlags) any { return &c.Force }},
				jsonFlag,
			},
			server: []string{"htpasswd", "policy"},
			forms: []form{
				{"add NAME", "add a user; the first user becomes the administrator"},
				{"passwd NAME", "change a user's password"},
				{"remove NAME [--force]", "remove a user; asks first, if it is the last administrator or the last user"},
				{"list [--json]", "list the users, with their groups"},
			},
			about: "add, list and remove users, change passwords",
			more: "add and passwd ask for the password, or read it from the first line of standard input. " +
				"A running server takes the change over at once.",
			example: "berth user add kim\necho \"$PASSWORD\" | berth user passwd kim"},
		{name: "token", least: 1, most: 2,
			forms: []form{
				{"create [NAME] --repo PATTERNS --allow ACTIONS [--expires TIME]", "make a token, and show it once; for metrics alone no --repo is needed"},
				{"list [--json]", "list the tokens, with the last use of each"},
				{"revoke NAME", "end a token"},
			},
			flags: []flagDef{
				{"repo", "PATTERN,...", "", "the repositories it is for: names, or patterns such as `'ci/*'`", func(c *config, _ *textFlags) any { return &c.Repo }},
				{"allow", "ACTION,...", "", "what it may do: " + strings.Join(actionNames, ", "), func(c *config, _ *textFlags) any { return &c.Allow }},
				{"expires", "TIME", "90d", "how long it is valid; `never` is possible", func(c *config, _ *textFlags) any { return &c.Expires }},
				jsonFlag,
			}, check: checkTokenCommand, onStore: tokenCommand,
			about:   "create, list and revoke tokens, which are passwords for machines",
			example: "berth token create builder --repo 'ci/*' --allow push,overwrite\nberth token revoke builder"},
		{name: "policy", least: 1, most: 4, check: checkPolicyCommand, onFiles: policyCommand,
			server: []string{"htpasswd", "policy", "anonymous-pull", "client-ca"},
			forms: []form{
				{"check", "print the rules as Berth understands them"},
				{"check WHO ACTION REPOSITORY [--group NAMES]", "say whether they may, and by which rule"},
			},
			flags: []flagDef{
				{"group", "NAME,...", "", "the groups of `login.toml` that WHO is in", func(c *config, _ *textFlags) any { return &c.Group }},
			},
			about: "print the rules, or say who may do what, and why",
			more: "WHO is a user, token:NAME, ldap:NAME, oidc:NAME or anonymous. ACTION is one of " +
				strings.Join(actionNames, ", ") + ". The REPOSITORY `'**'` stands for the registry as a whole.",
			example: "berth policy check\nberth policy check kim push home/app\nberth policy check ldap:ann pull home/app --group developers"},
		{name: "trust", synopsis: "[HOST[:PORT]] [--script]", most: 1, server: []string{"addr", "tls-name"}, check: checkTrustCommand,
			flags:   []flagDef{{"script", "", "", "print a shell script that does it, for `sudo sh`", func(c *config, _ *textFlags) any { return &c.script }}},
			onFiles: runTrust,
			about:   "how other machines trust the CA of `--tls=auto`",
			more: "HOST is what they call this machine. Without HOST and PORT it takes those of the running server; without a server those of " +
				"`--tls-name` and `--addr`, or this machine's name. In a container, name the machine, and the port by which others reach it.",
			example: "berth trust pi.local\nssh pi.local 'berth trust pi.local --script --data /srv/berth' | sudo sh"},
	}
}

// imageCommands show and change what is stored.
func imageCommands() []*command {
	return []*command{
		{name: "ls", heading: "Images", synopsis: "[NAME[:TAG]]", most: 1, flags: []flagDef{jsonFlag}, check: checkNameOrTag, onStore: listCommand,
			about:   "list the repositories, or the tags of one",
			more:    "If there is no repository NAME, those below it (NAME/…) are listed. Tags are shown with platforms, sizes, and when they were pushed and pulled.",
			example: "berth ls\nberth ls home/app"},
		{name: "tag", synopsis: "NAME:OLD NEW [--force]", least: 2, most: 2, flags: []flagDef{forceFlag, jsonFlag}, check: checkTagCommand, onStore: tagCommand, changes: always,
			server:  []string{"policy"},
			about:   "give an image another tag",
			more:    "The image is NAME:TAG or NAME@DIGEST.",
			example: "berth tag home/app:1.4 stable"},
		{name: "rm", least: 1, most: 100, flags: []flagDef{forceFlag, jsonFlag}, check: checkRemoval, onStore: removeCommand, deletes: always,
			server: []string{"policy"},
			forms: []form{
				{"NAME:TAG... [--force]", "remove a tag"},
				{"NAME@DIGEST... [--force]", "remove an image with all its tags"},
				{"NAME... [--force]", "remove a whole repository"},
			},
			about:   "remove a tag, an image with its tags, or a whole repository",
			more:    "If one of several cannot be removed, none is. `berth log` shows what was removed, and `berth undo` brings it back as long as `--untagged-grace` lasts.",
			example: "berth rm home/app:1.3\nberth rm home/app"},
		{name: "log", synopsis: "[NAME[:TAG]] [--limit N]", most: 1, check: checkNameOrTag,
			flags: []flagDef{
				{"limit", "N", "100", "how many changes to show, the last first. 0: all", func(c *config, _ *textFlags) any { return &c.Limit }},
				jsonFlag,
			}, onStore: logCommand,
			about:   "what was done, by whom, when and from where",
			example: "berth log --limit 10\nberth log home/app:latest"},
		{name: "events", most: 2, check: checkEventsCommand, onFiles: eventsCommand,
			forms: []form{
				{"[--repo PATTERN] [--pulls] [--blobs] [--exec COMMAND]", "show what happens in the running server, as it happens, or run a command for each event"},
				{"check", "print the endpoints in `events.toml` as Berth understands them"},
				{"test ENDPOINT", "send a trial event to an endpoint"},
			},
			flags: []flagDef{
				{"repo", "PATTERN,...", "**", "the repositories: names, or patterns such as `'ci/*'`", func(c *config, _ *textFlags) any { return &c.Repo }},
				{"pulls", "", "", "also show pulls", func(c *config, _ *textFlags) any { return &c.Pulls }},
				{"blobs", "", "", "also show pushes, mounts and deletes of blobs", func(c *config, _ *textFlags) any { return &c.Blobs }},
				{"exec", "COMMAND", "", "run this shell command for each event. It gets the event as JSON on standard input, and in variables " +
					"(`BERTH_EVENT_REPOSITORY`, `BERTH_EVENT_TAG` and others)", func(c *config, _ *textFlags) any { return &c.Exec }},
				jsonFlag,
			},
			about:   "follow what happens, run a command for it; test webhooks",
			more:    "Webhooks are endpoints in `events.toml` in the data directory; docs/events.md describes them. What has happened before is in `berth log`.",
			example: "berth events\nberth events --repo home/app --exec 'docker compose pull'\nberth events test deploy"},
	}
}

// fileCommands write images to files, and bring them in from there.
func fileCommands() []*command {
	return []*command{
		{name: "export", synopsis: "DESTINATION NAME[:TAG|@DIGEST]...|--all [--format docker] [--platform PLATFORM] [--no-referrers] [--host HOST] [--split SIZE]", least: 1, most: 1000, check: checkExportCommand, asClient: exportCommand,
			flags: []flagDef{
				{"all", "", "", "all images", func(c *config, _ *textFlags) any { return &c.bundle.all }},
				{"format", "oci|docker", "oci", "`docker` is for `docker load`: one platform, and no digests", func(c *config, _ *textFlags) any { return &c.bundle.format }},
				{"platform", "PLATFORM,...", "", "one: only its image, under the tag of the whole, for example linux/arm64; several: the whole without the images of the others (default all; with `--format docker` that of this machine)", func(c *config, _ *textFlags) any { return &c.bundle.platforms }},
				{"no-referrers", "", "", "leave out what refers to the images: signatures, SBOMs, attestations", func(c *config, _ *textFlags) any { return &c.bundle.noReferrers }},
				{"host", "HOST[:PORT]", "", "the registry that the names in the archive begin with", func(c *config, _ *textFlags) any { return &c.bundle.host }},
				{"split", "SIZE", "", "write volumes of at most this size, less one byte: FILE.001.tar and so on. For FAT32: 4GiB", func(c *config, _ *textFlags) any { return &c.bundle.split }},
				jsonFlag,
			},
			about: "write images to a file, a directory or a pipe",
			more: "DESTINATION is an archive if it ends in .tar, or in .tar.zst, which is compressed; - is standard output; anything else is a directory with an image layout, which may be there already. " +
				"NAME is all tags of a repository; patterns (`'home/*'`, `'home/*:1.*'`) are many; NAME@DIGEST is one image, with a tag or without. " +
				"Digests stay as they are. The same images give the same bytes.",
			example: "berth export app.tar home/app:1.4\nberth export /mnt/usb/images.tar.zst --all --split 4GiB\nberth export - home/app:1.4 | ssh site berth import -"},
		{name: "import", synopsis: "SOURCE... [--as NAME[:TAG] | --prefix PREFIX] [--dry-run]", least: 1, most: 1000, check: checkImportCommand, asClient: importCommand,
			flags: []flagDef{
				{"as", "NAME[:TAG]", "", "import into the repository NAME, and with a tag the one image there is as NAME:TAG", func(c *config, _ *textFlags) any { return &c.As }},
				{"prefix", "PREFIX", "", "put this before the names of all repositories", func(c *config, _ *textFlags) any { return &c.bundle.prefix }},
				dryRunFlag, jsonFlag,
			},
			about: "bring images in from files, directories or a pipe",
			more: "A SOURCE is an image layout, or an archive as written by `berth export`, `docker save`, podman, skopeo, ctr, crane, oras and others, also compressed with gzip, zstd or bzip2; " +
				"- is standard input. Several volumes may come in any order. Hosts are cut from names: docker.io/library/alpine becomes library/alpine.",
			example: "berth import app.tar\nberth import /mnt/usb/images.*.tar.zst\ndocker save app:1 | berth import - --as home/app:1"},
	}
}

// backCommands take back what was done, and remove what rules say.
func backCommands() []*command {
	return []*command{
		{name: "undo", least: 1, most: 1, check: checkUndoCommand, server: []string{"policy"},
			forms: []form{
				{"CHANGE [--as NAME] [--force]", "restore what was before this change; `berth log` shows its number"},
				{"NAME[:TAG] [--as NAME] [--force]", "restore what was before the last change of a repository or tag"},
			},
			flags: []flagDef{
				{"as", "NAME", "", "restore a deleted repository under this name", func(c *config, _ *textFlags) any { return &c.As }},
				forceFlag, jsonFlag,
			}, onStore: undoCommand, deletes: always,
			about:   "take back a change, or the last one of a repository or tag",
			more:    "Of several tags that one change removed, NAME:TAG restores that tag only, and the number all of them. By name, it only restores: a tag that the last change made stays. `berth rm` removes it, or `berth undo` with the number of the change.",
			example: "berth undo home/app:latest\nberth undo 17"},
		{name: "retain", synopsis: "[NAME] [--explain]", most: 1, check: checkNames, server: []string{"policy"},
			flags: []flagDef{
				{"explain", "", "", "remove nothing; only say which tags would be removed, why, and how much room that makes", func(c *config, _ *textFlags) any { return &c.Explain }},
				jsonFlag,
			}, onStore: retainCommand, deletes: func(o options) bool { return !o.Explain },
			about:   "remove tags now, by the rules of retention",
			more:    "The rules are in `policy.toml`, as `[[retain]]`.",
			example: "berth retain --explain"},
	}
}

// careCommands are about size, health and copies.
func careCommands() []*command {
	return []*command{
		{name: "doctor", heading: "Size, health, copies", most: 1, check: checkDoctorCommand, onFiles: doctorCommand, onStore: doctorOnStore,
			server: []string{"min-free", "htpasswd", "policy"},
			forms: []form{
				{"[--strict] [--json]", "on the server: examine the machine, the registry, and who may do what"},
				{"HOST[:PORT][/REPOSITORY] [--user NAME] [--push] [--no-push] [--size SIZE]", "on any machine: find out why pushes to a registry, or pulls from it, do not work"},
			},
			flags: []flagDef{
				{"user", "NAME", "", "log in as this user; the password is asked for, or read from the first line of standard input", func(c *config, _ *textFlags) any { return &c.doctor.user }},
				{"push", "", "", "push the test image even if it cannot be deleted again", func(c *config, _ *textFlags) any { return &c.doctor.push }},
				{"no-push", "", "", "do not push a test image", func(c *config, _ *textFlags) any { return &c.doctor.noPush }},
				{"size", "SIZE", "2MiB", "the size of the largest blob to push, to find limits of proxies; that of nginx is 1 MiB if it is told none", func(c *config, _ *textFlags) any { return &c.doctor.size }},
				{"strict", "", "", "fail for warnings, too", func(c *config, _ *textFlags) any { return &c.doctor.strict }},
				jsonFlag,
			},
			about: "find out what is wrong, and what to do",
			more: "With HOST it examines the name, the port, TLS, the certificate, what docker, podman, containerd, k3s and BuildKit on this machine are configured to trust, " +
				"proxies and the login. Then it pushes an image of 2 MiB without a tag to REPOSITORY, or to `berth-doctor`, pulls it, and deletes it. " +
				"Before that it finds out whether it may delete there; if not, it only begins uploads and gives them up. It works with any registry. " +
				"Without HOST it examines the registry in `--data` and the machine. It ends with 1 if there is a problem; a warning is none, unless `--strict` is given.",
			example: "berth doctor pi.local:5000\nberth doctor pi.local:5000/home/app --user kim\nsudo berth doctor --data /srv/berth"},
		{name: "stats", synopsis: "[NAME]", most: 1, flags: []flagDef{jsonFlag}, check: checkNames, onStore: statsCommand,
			about:   "how much is stored, and how much of it is garbage",
			more:    "With NAME, of that repository.",
			example: "berth stats"},
		{name: "uploads", flags: []flagDef{jsonFlag}, onStore: uploadsCommand,
			about:   "the open uploads: whose, how large, how long idle",
			example: "berth uploads"},
		{name: "gc", synopsis: "[--now] [--dry-run]", server: []string{"grace", "untagged-grace", "upload-expiry"},
			flags: []flagDef{
				{"now", "", "", "also remove what is still in its grace period, which `berth undo` can then no longer restore; and uploads that no request has continued for 10 s", func(c *config, _ *textFlags) any { return &c.Now }},
				{"dry-run", "", "", "remove nothing; only say what would be removed, and why", func(c *config, _ *textFlags) any { return &c.DryRun }},
				jsonFlag,
			}, onStore: gcCommand, changes: func(o options) bool { return !o.DryRun },
			about:   "remove the garbage whose grace period is over",
			more:    "A server does this by itself.",
			example: "berth gc --now --dry-run"},
		{name: "check", synopsis: "[--deep]", flags: []flagDef{deepFlag, jsonFlag}, onStore: checkCommand,
			about:   "verify what is stored",
			more:    "Without `--deep` that is everything except the bytes of the blobs. It changes nothing, and fails when something is wrong.",
			example: "berth check --deep"},
		{name: "ready", onFiles: readyCommand,
			about:   "ask the running server whether it can serve",
			more:    "It fails when the server does not answer, or its database does not. Containers use it as their health check.",
			example: "berth ready"},
		{name: "repair", synopsis: "[--deep] [--left-over]",
			flags: []flagDef{
				deepFlag,
				{"left-over", "", "", "also remove the files of blobs that belong to no image; run it only when no image is missed", func(c *config, _ *textFlags) any { return &c.LeftOver }},
				jsonFlag,
			}, onStore: repairCommand,
			about:   "fix what check finds, and say what to push again",
			example: "berth repair"},
		{name: "backup", synopsis: "DEST", least: 1, most: 1, flags: []flagDef{jsonFlag}, onStore: backupCommand,
			server: []string{"htpasswd", "policy"},
			about:  "copy everything to the directory DEST",
			more: "To look into a backup, start `berth --data DEST --read-only`. To go back to it, stop Berth, move the damaged data directory away, " +
				"copy DEST there, and start with the same flags. The second time, only what is new is copied. A running server makes the copy, as its own user.",
			example: "berth backup /mnt/usb/berth"},
		{name: "restore", most: 1, check: checkRestoreCommand,
			onFiles: func(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
				return restore(ctx, cfg, stdout)
			},
			about:   "recover from a missing or damaged `berth.db`",
			more:    "It goes back to the newest snapshot of `berth.db`, and names the images that are not whole. Stop the server first.",
			example: "berth restore --data /srv/berth"},
	}
}
