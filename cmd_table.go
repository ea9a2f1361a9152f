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
	commands = slices.Concat(programCommands(), peopleCommands(), imageCommands(), careCommands())
}

// programCommands start the program, or tell of it.
func programCommands() []*command {
	return []*command{
		{name: "serve", synopsis: "[FLAGS]", alone: serveCommand,
			about: "serve the registry in --data; so does berth without a command"},
		{name: "version", alone: versionCommand,
			about:   "which Berth this is",
			example: "berth version"},
		{name: "help", synopsis: "[COMMAND]", most: 1, alone: helpCommand,
			about:   "this text, or what one command does, its flags, and an example; berth COMMAND -h does the same",
			example: "berth help gc"},
	}
}

// peopleCommands are about who may do what.
func peopleCommands() []*command {
	return []*command{
		{name: "user", heading: "Who may do what (without users everybody may do everything):",
			synopsis: "add|passwd|remove NAME, or list [--json]", most: 2, flags: []flagDef{jsonFlag}, onFiles: userCommand,
			about: "people and their passwords; the first becomes the administrator",
			more: "The password is asked for, or it is the first line of standard input. The command edits the users' file " +
				"(--htpasswd); a running server reads it again.",
			example: "berth user add kim"},
		{name: "token", synopsis: "create [NAME] --repo PATTERNS --allow ACTIONS [--expires 90d], list, or revoke NAME", most: 2,
			flags: []flagDef{
				{"repo", "PATTERN,...", "", "the repositories it is for: names, or patterns as ci/*", func(c *config, _ *textFlags) any { return &c.Repo }},
				{"allow", "ACTION,...", "", "what it may do: " + strings.Join(actionNames, ", "), func(c *config, _ *textFlags) any { return &c.Allow }},
				{"expires", "TIME", "90d", "how long it is good", func(c *config, _ *textFlags) any { return &c.Expires }},
				jsonFlag,
			}, onStore: tokenCommand,
			about:   "a password for a machine",
			more:    "The text of a token is shown once, when it is made. The list has the last use of each.",
			example: "berth token create builder --repo 'ci/*' --allow push"},
		{name: "policy", synopsis: "check [WHO ACTION REPOSITORY]", most: 4, onFiles: policyCommand,
			about: "what the rules say, and why",
			more: "check prints the rules as Berth understands them. With WHO (a user, token:NAME or anonymous), ACTION (" +
				strings.Join(actionNames, ", ") + ") and REPOSITORY it says whether they may, and by which rule.",
			example: "berth policy check kim push home/app"},
		{name: "trust", synopsis: "[HOST[:PORT]] [--script]", most: 1,
			flags: []flagDef{{"script", "", "", "print a shell script that does it, for sudo sh", func(c *config, _ *textFlags) any { return &c.script }}},
			onFiles: func(_ context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
				return trustCommand(cfg.dir, cfg.addr, cfg.Args, cfg.script, stdout)
			},
			about:   "how other machines trust the CA of --tls=auto",
			example: "ssh pi.local 'berth trust pi.local --script --data /srv/berth' | sudo sh"},
	}
}

// imageCommands show and change what is stored.
func imageCommands() []*command {
	return []*command{
		{name: "ls", heading: "On the registry in --data, with or without a server (--json for programs):",
			synopsis: "[NAME[:TAG]]", most: 1, flags: []flagDef{jsonFlag}, onStore: listCommand,
			about:   "the repositories; the tags of one, with platforms, sizes and times",
			example: "berth ls home/app"},
		{name: "tag", synopsis: "NAME:OLD NEW [--force]", most: 2, flags: []flagDef{forceFlag, jsonFlag}, onStore: tagCommand, changes: always,
			about:   "give an image another tag",
			more:    "The image is NAME:TAG or NAME@DIGEST.",
			example: "berth tag home/app:1.4 stable"},
		{name: "rm", synopsis: "NAME:TAG|NAME@DIGEST|NAME... [--force]", most: 100, flags: []flagDef{forceFlag, jsonFlag}, onStore: removeCommand, deletes: always,
			about:   "remove a tag, an image with its tags, a whole repository",
			more:    "berth log shows what was removed, and berth undo brings it back as long as --untagged-grace lasts.",
			example: "berth rm home/app:1.3"},
		{name: "log", synopsis: "[NAME[:TAG]] [--limit N]", most: 1,
			flags: []flagDef{
				{"limit", "N", "100", "how many changes to show, the last first; 0 is all", func(c *config, _ *textFlags) any { return &c.Limit }},
				jsonFlag,
			}, onStore: logCommand,
			about:   "what was done, by whom, when and from where",
			example: "berth log home/app:latest"},
		{name: "undo", synopsis: "CHANGE|NAME[:TAG] [--as NAME] [--force]", most: 1,
			flags: []flagDef{
				{"as", "NAME", "", "bring a deleted repository back under this name", func(c *config, _ *textFlags) any { return &c.As }},
				forceFlag, jsonFlag,
			}, onStore: undoCommand, deletes: always,
			about:   "put back what was before a change, or before the last one of an image",
			more:    "CHANGE is a number that berth log shows.",
			example: "berth undo home/app:latest"},
		{name: "retain", synopsis: "[NAME] [--explain]", most: 1,
			flags: []flagDef{
				{"explain", "", "", "drop nothing: only say what would go, why, and how much that frees", func(c *config, _ *textFlags) any { return &c.Explain }},
				jsonFlag,
			}, onStore: retainCommand, deletes: func(o options) bool { return !o.Explain },
			about:   "apply the rules of retention now",
			more:    "The rules stand in policy.toml, as [[retain]].",
			example: "berth retain --explain"},
	}
}

// careCommands are about size, health and copies.
func careCommands() []*command {
	return []*command{
		{name: "stats", heading: "Its size, its health, its copy:",
			synopsis: "[NAME]", most: 1, flags: []flagDef{jsonFlag}, onStore: statsCommand,
			about:   "how much is stored, and what of it is garbage",
			example: "berth stats"},
		{name: "uploads", flags: []flagDef{jsonFlag}, onStore: uploadsCommand,
			about:   "the open uploads: whose, how large, how long idle",
			example: "berth uploads"},
		{name: "gc", synopsis: "[--now] [--dry-run]",
			flags: []flagDef{
				{"now", "", "", "also what is still in its grace, and uploads that no request has continued for 10 s", func(c *config, _ *textFlags) any { return &c.Now }},
				{"dry-run", "", "", "remove nothing: only say what would go, and why", func(c *config, _ *textFlags) any { return &c.DryRun }},
				jsonFlag,
			}, onStore: gcCommand, changes: func(o options) bool { return !o.DryRun },
			about:   "remove the garbage that is due",
			more:    "A server does the same by itself, when the time comes.",
			example: "berth gc --now --dry-run"},
		{name: "check", synopsis: "[--deep]", flags: []flagDef{deepFlag, jsonFlag}, onStore: checkCommand,
			about:   "verify what is stored",
			more:    "Without --deep everything but the bytes of the blobs. It changes nothing, and fails when something is wrong.",
			example: "berth check --deep"},
		{name: "repair", synopsis: "[--deep]", flags: []flagDef{deepFlag, jsonFlag}, onStore: repairCommand,
			about:   "put in order what check finds, and say what to push again",
			example: "berth repair"},
		{name: "backup", synopsis: "DEST", most: 1, flags: []flagDef{jsonFlag}, onStore: backupCommand,
			about:   "copy it to the directory DEST, which is then a registry; the second time, only what is new",
			more:    "If a server runs, it writes DEST, as its own user.",
			example: "berth backup /mnt/usb/berth"},

		{name: "restore", heading: "When the server does not start, because berth.db is missing or damaged:",
			onFiles: func(ctx context.Context, cfg *config, _ io.Reader, stdout io.Writer) error {
				return restore(ctx, cfg, stdout)
			},
			about:   "go back to the newest snapshot of it, and say what is lost",
			example: "berth restore --data /srv/berth"},
	}
}
