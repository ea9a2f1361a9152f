// Bench measures Berth beside other registries, beside nginx, and beside the least that a server in Go
// can do, and prints a Markdown table: what docs/numbers.md says about Berth's speed can be had again by
//
//	go -C e2e run ./bench
//
// on a Linux machine that does nothing else. TMPDIR must be on the disk that is meant.
//
// It goes in rounds. In each, every server is started on a fresh directory; every row is measured of one
// server after the other, so that what the machine does in between happens to all; and the order is turned
// by one from round to round. The table has the median of the rounds, and how far they lie apart. A ratio
// is the median of the ratios within the rounds. The client is in this process and shares the cores with
// the server, which hides differences between fast servers and invents none: with the client elsewhere
// the rates would be higher.
//
//	main.go      flags, rounds
//	rows.go      the workloads
//	content.go   what is pushed and pulled
//	client.go    the client
//	servers.go   the servers: found, started, stopped
//	process.go   what their processes use
//	limit.go     the least that a server can do
//	table.go     what is printed
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const usage = `Bench measures Berth beside other registries and prints a Markdown table.

  go -C e2e run ./bench                       everything; about four minutes a round
  go -C e2e run ./bench -quick                does it work; the figures mean nothing
  go -C e2e run ./bench -rows 'manifest|idle' -servers berth,distribution
  go -C e2e run ./bench -extra zot=http://127.0.0.1:8080

Berth is built from the repository, or BERTH=/path/to/berth is taken. The Go registries are installed
into Go's cache at their first use. TMPDIR says which disk is measured: a round writes some 4 GiB for each
server, and removes them. crane takes 6 GiB of memory when 32 push to it at once.

`

func main() {
	serveLimit()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	products []*product
	rounds   int
	rows     *regexp.Regexp
	json     string
	logs     bool
	amount   settings
}

func parse(args []string, stderr io.Writer) (*options, error) {
	var names []string
	for _, p := range products {
		names = append(names, p.name)
	}
	o := &options{amount: full}
	var extra []*product
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	servers := flags.String("servers", strings.Join(names, ","), "which to measure; those that are missing are left out")
	flags.Func("extra", "`NAME=URL` of a registry that runs: without a password or TLS, it is filled with rubbish; can be repeated",
		func(s string) error {
			name, rest, _ := strings.Cut(s, "=")
			u, err := url.Parse(rest)
			if err != nil || name == "" || slices.Contains(names, name) || u.Scheme != "http" || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
				return errors.New("want NAME=http://HOST:PORT, with a name of its own")
			}
			names = append(names, name)
			extra = append(extra, &product{name: name, addr: u.Host, note: "runs by itself at " + u.Host})
			return nil
		})
	rounds := flags.Int("rounds", 0, "how often everything is measured (default 5, or 1 with -quick)")
	rows := flags.String("rows", "", "only rows whose name matches the `REGEXP`, and those measured together with them")
	small := flags.Bool("quick", false, "small sizes and short times")
	flags.StringVar(&o.json, "json", "", "write all figures of all rounds to this `FILE` too")
	flags.BoolVar(&o.logs, "logs", false, "show what the servers print, which slows them")
	err := flags.Parse(args)
	if err != nil {
		return nil, err
	}
	if flags.NArg() > 0 || *rounds < 0 {
		return nil, errors.New("bench takes flags only, and some rounds; see -h")
	}
	if *small {
		o.amount = quick
	}
	if o.rounds = *rounds; o.rounds == 0 {
		o.rounds = map[bool]int{false: 5, true: 1}[*small]
	}
	if o.rows, err = regexp.Compile(*rows); err != nil {
		return nil, err
	}
	for _, name := range strings.FieldsFunc(*servers, func(r rune) bool { return r == ',' }) {
		i := slices.IndexFunc(products, func(p *product) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no server %q: there are %s", name, strings.Join(names, ", "))
		}
		o.products = append(o.products, products[i])
	}
	o.products = append(o.products, extra...)
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if kind := fileSystem(tmp); kind == "tmpfs" || kind == "ramfs" {
		fmt.Fprintf(stderr, "WARNING: %s is in memory (%s), where a sync costs nothing: set TMPDIR to a directory on a disk\n",
			filepath.Dir(tmp), kind)
	}
	if o.products = find(o.products, tmp, stderr); len(o.products) == 0 {
		return errors.New("nothing to measure")
	}
	b := &bench{amount: o.amount, ctx: ctx, tmp: tmp, logs: o.logs}
	b.prepare()
	t := &table{began: time.Now(), products: o.products, tmp: tmp, rounds: o.rounds}
	for n := range o.rounds {
		fmt.Fprintf(stderr, "round %d of %d, %s\n", n+1, o.rounds, time.Now().Format(time.TimeOnly))
		b.repo = fmt.Sprintf("bench-%08x-%d", rand.Uint32(), n+1)
		if err := b.round(o, n, t, stderr); err != nil {
			return err
		}
	}
	if o.json != "" {
		if err := t.writeJSON(o.json); err != nil {
			return err
		}
	}
	return t.write(stdout)
}

// find returns the products that are there.
func find(wanted []*product, tmp string, stderr io.Writer) (found []*product) {
	for _, p := range wanted {
		if p.addr == "" {
			var err error
			if p.binary, err = p.find(tmp); err != nil {
				fmt.Fprintf(stderr, "WARNING: %s IS LEFT OUT: %v\n", p.name, err)
				continue
			}
		}
		found = append(found, p)
	}
	return found
}

// round measures every row once of every server.
func (b *bench) round(o *options, n int, t *table, stderr io.Writer) error {
	var servers []*server
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	for i := range o.products {
		s, err := o.products[(i+n)%len(o.products)].start(b.ctx, b.tmp, o.logs)
		if err != nil {
			return err
		}
		servers = append(servers, s)
	}
	wanted := func(w workload) bool {
		return slices.ContainsFunc(w.rows, func(r row) bool { return o.rows.MatchString(r.name) })
	}
	for _, w := range b.workloads() {
		if !wanted(w) {
			continue
		}
		fmt.Fprintf(stderr, "\t%s", w.name)
		for _, s := range servers {
			if s.static && w.pushes {
				continue
			}
			figures, err := w.run(b, s)
			if err != nil {
				fmt.Fprintln(stderr)
				return fmt.Errorf("%s: %w", w.name, err)
			}
			t.add(w, s, figures)
			fmt.Fprintf(stderr, " %s", s.name)
		}
		fmt.Fprintln(stderr)
	}
	if !wanted(idleWork) {
		return nil
	}
	fmt.Fprintf(stderr, "\t%s\n", idleWork.name)
	figures, err := b.idle(servers)
	for i, s := range servers {
		if err == nil {
			t.add(idleWork, s, figures[i])
		}
	}
	return err
}
