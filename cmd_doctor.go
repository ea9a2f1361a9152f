// `berth doctor`: why it does not work (doctor.go).
//
// With a host it is about another machine's registry, seen from here, and touches no data
// directory. Without one it is about the registry on this machine: what a command can see by
// itself, and what the server says that has it.

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// doctorFlags are those of the command alone.
type doctorFlags struct {
	user   string // who logs in; "" for nobody
	noPush bool
	push   bool   // even what cannot be deleted again
	strict bool   // warnings count as problems
	size   string // of the largest blob to push

	// What tests move; the zero values are this machine.
	root     string // below which the system's files are
	hostname string
	now      func() time.Time
	synced   func() (synced, known bool) // whether a time server keeps the clock right
}

// checkDoctorCommand refuses what cannot be examined.
func checkDoctorCommand(cfg *config) error {
	if len(cfg.Args) == 0 {
		if cfg.doctor.user != "" || cfg.doctor.noPush || cfg.doctor.push || cfg.given["size"] {
			return errors.New("doctor: --user, --push, --no-push and --size are about a registry that is named: berth doctor HOST")
		}
		return nil
	}
	if cfg.doctor.push && cfg.doctor.noPush {
		return errors.New("doctor: give --push or --no-push, not both")
	}
	size, err := parseSize(cfg.doctor.size)
	if err != nil {
		return fmt.Errorf("--size: %w", err)
	}
	if size > maxLooked {
		return fmt.Errorf("--size: %s is too much to keep in memory; at most %s", cfg.doctor.size, formatSize(maxLooked))
	}
	if strings.Contains(cfg.doctor.user, ":") {
		return errors.New("--user: give the name alone; the password is asked for, or read from standard input")
	}
	return new(doctor).read(cfg.Args[0])
}

// doctorCommand is `berth doctor [HOST[:PORT][/REPOSITORY]]`.
func doctorCommand(ctx context.Context, cfg *config, stdin io.Reader, stdout io.Writer) error {
	out := cfg.console(stdout)
	if !cfg.elsewhere() {
		return cfg.tellOf(out, serverDoctor(ctx, cfg, out))
	}
	d := newDoctor(cfg.env)
	if err := d.read(cfg.Args[0]); err != nil {
		return err
	}
	d.user, d.push, d.noPush = cfg.doctor.user, cfg.doctor.push, cfg.doctor.noPush
	d.largest, _ = parseSize(cfg.doctor.size)
	name := make([]byte, 4)
	rand.Read(name)
	d.random = hex.EncodeToString(name)
	if d.user != "" {
		var err error
		if d.password, err = passwordFor(ctx, d.user, stdin, stdout); err != nil {
			return err
		}
	}
	if !cfg.JSON {
		d.tell = func(x *diagnosis) { x.write(out) }
	}
	d.examine(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	return cfg.tellOf(out, &d.diagnoses)
}

// tellOf ends an examination: what to do, or all of it in JSON. The error is errNo if something is wrong.
func (cfg *config) tellOf(out *console, x *diagnoses) error {
	wrong := x.faults(isProblem) != nil || cfg.doctor.strict && x.faults(isWarning) != nil
	if cfg.JSON {
		answer := struct {
			Well     bool         `json:"well"`
			Findings []*diagnosis `json:"findings"`
		}{!wrong, append([]*diagnosis{}, x.list...)}
		if err := out.json(answer); err != nil {
			return err
		}
	} else {
		x.writeRemedies(out)
		out.printf("\n%s\n", x.verdict())
	}
	if wrong {
		return errNo
	}
	return nil
}

// examine does all, as far as one thing does not need another that is broken.
func (d *doctor) examine(ctx context.Context) {
	addresses := d.resolve(ctx)
	if addresses == nil || !d.reach(ctx, addresses) || !d.speak(ctx) {
		return
	}
	if !d.plain {
		d.fetchCA(ctx)
		d.examineCertificate()
	}
	if !slices.Contains(d.faults(isProblem), "certificate-weak") { // which nothing trusts
		d.examineTrust()
	}
	d.examineProxies(ctx)
	if d.examineAPI(ctx) {
		if session := d.logIn(ctx); session != nil && !d.noPush {
			d.pushAndPull(ctx, session)
		}
	}
}
