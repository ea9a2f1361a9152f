package main

// The workloads. Each is given one server at a time and returns a figure for each of its rows; one that
// a server cannot have is unknown. Before the clock starts, the connections are made and the disk has
// written what the server before has left to it (crane leaves everything). Every status is checked,
// everything that is pulled is compared with what was pushed, and of what is pushed some is pulled
// afterwards. Every push is of bytes that were never pushed before.
//
// Each sender sends its next request when the last is answered, so a server that is slow is asked less.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A row is a line of the table.
type row struct {
	name  string
	unit  string
	lower bool // is better
	syncs bool // is mostly what the disk takes, so that who syncs nothing is no rival
}

// A workload measures some rows at once.
type workload struct {
	name   string
	pushes bool // and so is nothing for a server of static files
	rows   []row
	run    func(b *bench, s *server) ([]float64, error)
}

// settings are how much is done.
type settings struct {
	large, flood       int // bytes of a blob
	pushers            int // of floods, at once
	small, images      int // that there are to be pulled
	tags               int
	each, mixed        time.Duration
	fresh, quiet, idle time.Duration // before idle memory is read; before idle work is; and for how long
	settle             bool          // wait for what a server writes late
}

var (
	full = settings{large: 256 << 20, flood: 64 << 20, pushers: 32, small: 300, images: 50, tags: 2000,
		each: 2 * time.Second, mixed: 4 * time.Second, fresh: time.Second, quiet: 10 * time.Second, idle: 5 * time.Second, settle: true}
	quick = settings{large: 16 << 20, flood: 2 << 20, pushers: 8, small: 30, images: 5, tags: 40,
		each: 150 * time.Millisecond, mixed: 300 * time.Millisecond, fresh: 100 * time.Millisecond,
		quiet: 500 * time.Millisecond, idle: 500 * time.Millisecond}
)

const (
	mib = 1 << 20
	gib = 1 << 30

	many         = 32 // connections
	octets       = "Content-Type: application/octet-stream\r\n"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	acceptType   = "Accept: " + manifestType + "\r\n"
)

// A bench is one run of this program.
type bench struct {
	amount settings
	ctx    context.Context
	tmp    string // on the disk that is meant
	logs   bool
	repo   string // of all; another one in each round

	count                              atomic.Uint64 // of blobs and tags, so that all differ
	large, flood, small, config, layer *mould
}

// workloads are in the order of the table.
func (b *bench) workloads() []workload {
	size := func(n int) string { return fmt.Sprintf("%d MiB", n/mib) }
	large := size(b.amount.large)
	tags := fmt.Sprintf("push %s tags to one repository, 8 connections", strings.TrimSuffix(short(float64(b.amount.tags)), ".0"))
	return []workload{
		{"large pushes", true, []row{
			{"push " + large + ", one PUT", "MB/s", more, true},
			{"push " + large + ", one stream, as docker does", "MB/s", more, true},
			{"push " + large + " in chunks of 5 MiB", "MB/s", more, true},
			{"push " + large + ": CPU time of the server", "s/GiB", less, false},
			{"push " + large + ": written to the disk", "MiB/GiB", less, true},
		}, (*bench).pushLarge},
		{"blobs, 1", true, []row{{"push blobs of 4 KiB, 1 connection", "/s", more, true}}, blobs(1)},
		{"blobs, 32", true, []row{{"push blobs of 4 KiB, 32 connections", "/s", more, true}}, blobs(many)},
		{"images, 1", true, []row{
			{"push images (config, 3 layers of 64 KiB, manifest), 1 connection", "/s", more, true},
			{"push images, 1 connection: written to the disk for each", "KiB", less, true},
		}, images(1)},
		{"images, 32", true, []row{
			{"push images, 32 connections", "/s", more, true},
			{"push images, 32 connections: written to the disk for each", "KiB", less, true},
		}, images(many)},
		{"tags", true, []row{
			{tags, "/s", more, true},
			{tags + ": the first quarter", "/s", more, true},
			{tags + ": the last quarter", "/s", more, true},
		}, (*bench).pushTags},
		{"large pulls", false, []row{
			{"pull " + large + ", 1 connection", "MB/s", more, false},
			{"pull " + large + ", 8 connections", "MB/s", more, false},
			{"pull " + large + ": CPU time of the server", "s/GiB", less, false},
		}, (*bench).pullLarge},
		{"small pulls", false, []row{
			{fmt.Sprintf("pull blobs of 4 KiB among %d, 32 connections", b.amount.small), "/s", more, false},
		}, (*bench).pullSmall},
		{"manifest GET", false, []row{{"manifest GET by tag, 32 connections", "/s", more, false}}, (*bench).getManifests},
		{"manifest HEAD", false, []row{{"manifest HEAD by tag, 32 connections", "/s", more, false}}, (*bench).headManifests},
		{"mixed", true, []row{
			{"4 pulls of an image to 1 push, 16 connections: 99 % of pulls take less than", "ms", less, true},
			{"4 pulls of an image to 1 push, 16 connections: 99 % of pushes take less than", "ms", less, true},
		}, (*bench).mixed},
		{"fresh", true, []row{
			{"start to first answer", "ms", less, false},
			{"memory when idle, with nothing stored", "MiB", less, false},
			{fmt.Sprintf("memory at most, %d pushes of %s at once", b.amount.pushers, size(b.amount.flood)), "MiB", less, false},
			{"binary", "MiB", less, false},
		}, (*bench).startFresh},
	}
}

const less, more = true, false // is better

// idleWork is measured of all servers at the same time, at the end of a round.
var idleWork = workload{"idle", true, []row{
	{"idle: written to the disk", "KiB/min", less, false},
	{"idle: threads that wake up", "/s", less, false},
}, nil}

// together runs work on so many connections at the same time and returns how long the last of them took.
// The first error ends all.
func (b *bench) together(s *server, connections int, work func(c *conn, worker int) error) (time.Duration, error) {
	ctx, cancel := context.WithCancelCause(b.ctx)
	defer cancel(nil)
	var conns []*conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range connections {
		c, err := dial(ctx, s)
		if err != nil {
			return 0, err
		}
		conns = append(conns, c)
	}
	syncDisk(b.tmp)
	var wg sync.WaitGroup
	began := time.Now()
	for i, c := range conns {
		wg.Go(func() {
			if err := work(c, i); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	return took, context.Cause(ctx)
}

// settle waits until a server has written all that it was sent: what it still does is its own, and not the
// next one's.
func (b *bench) settle(s *server) error {
	if b.amount.settle {
		if err := b.sleep(s.product.late); err != nil {
			return err
		}
	}
	syncDisk(b.tmp)
	return nil
}

// rate does something over and over on each connection until the time is up, and returns how often it was
// done in a second.
func (b *bench) rate(s *server, connections int, do func(c *conn, worker int) error) (float64, error) {
	var done atomic.Int64
	took, err := b.together(s, connections, func(c *conn, worker int) error {
		n := int64(0)
		for end := time.Now().Add(b.amount.each); n == 0 || time.Now().Before(end); n++ {
			if err := do(c, worker); err != nil {
				return err
			}
		}
		done.Add(n)
		return nil
	})
	return float64(done.Load()) / took.Seconds(), err
}

// pushLarge pushes one blob in each of three ways, and pulls it.
func (b *bench) pushLarge(s *server) ([]float64, error) {
	const part = 5 * mib
	var figures []float64
	cpu, written := 0.0, 0.0
	for _, push := range []func(c *conn, path string, x blob) error{
		func(c *conn, path string, x blob) error {
			return c.do(201, "PUT", withDigest(path, x), octets, x.begin, x.end)
		},
		func(c *conn, path string, x blob) error {
			if err := c.stream(202, "PATCH", path, octets, x); err != nil {
				return err
			}
			return c.do(201, "PUT", withDigest(c.location, x), octets)
		},
		func(c *conn, path string, x blob) error {
			for at := 0; at < x.size(); at += part {
				end := min(at+part, x.size())
				header := fmt.Sprintf("%sContent-Range: %d-%d\r\n", octets, at, end-1)
				if err := c.do(202, "PATCH", path, header, x.slice(at, end)...); err != nil {
					return err
				}
				if c.location != "" { // distribution's has a state
					path = c.location
				}
			}
			return c.do(201, "PUT", withDigest(path, x), octets)
		},
	} {
		x := b.cast(b.large)
		cpuBefore, writtenBefore := s.cpu(), s.written()
		took, err := b.together(s, 1, func(c *conn, _ int) error {
			if err := c.do(202, "POST", b.uploads(), ""); err != nil {
				return err
			}
			return push(c, c.location, x)
		})
		if err != nil {
			return nil, err
		}
		cpu, written = cpu+s.cpu()-cpuBefore, written+s.written()-writtenBefore
		figures = append(figures, float64(x.size())/1e6/took.Seconds())
		_, err = b.together(s, 1, func(c *conn, _ int) error {
			return c.pull(b.blobPath(x), x, make([]byte, pullBuffer))
		})
		if err != nil {
			return nil, err
		}
	}
	pushed := 3 * float64(b.amount.large) / gib
	return append(figures, cpu/pushed, written/mib/pushed), nil
}

// blobs pushes small blobs over so many connections, each in POST and PUT.
func blobs(connections int) func(b *bench, s *server) ([]float64, error) {
	return func(b *bench, s *server) ([]float64, error) {
		rate, err := b.rate(s, connections, func(c *conn, _ int) error { return b.pushBlob(c, b.cast(b.small)) })
		return []float64{rate}, errors.Join(err, b.settle(s))
	}
}

// images pushes images over so many connections, each with nine requests, and pulls the last of each.
func images(connections int) func(b *bench, s *server) ([]float64, error) {
	return func(b *bench, s *server) ([]float64, error) {
		var done atomic.Int64
		last := make([]image, connections)
		before := s.written()
		rate, err := b.rate(s, connections, func(c *conn, worker int) error {
			last[worker] = b.image()
			done.Add(1)
			return b.pushImage(c, last[worker])
		})
		if err != nil {
			return nil, err
		}
		if err := b.settle(s); err != nil {
			return nil, err
		}
		written := (s.written() - before) / 1024 / float64(done.Load())
		_, err = b.together(s, connections, func(c *conn, worker int) error { return b.pullImage(c, last[worker]) })
		return []float64{rate, written}, err
	}
}

// pushTags pushes one image under many tags, each with another annotation.
func (b *bench) pushTags(s *server) ([]float64, error) {
	const connections = 8
	im := b.image()
	var next atomic.Int64
	n := int64(b.amount.tags)
	times := make([]time.Time, n) // of answers
	_, err := b.together(s, 1, func(c *conn, _ int) error { return b.pushImage(c, im) })
	if err != nil {
		return nil, err
	}
	_, err = b.together(s, connections, func(c *conn, _ int) error {
		for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
			tag := fmt.Sprintf("t%d", i)
			if err := b.pushManifest(c, tag, im.manifest(fmt.Sprintf(`,"annotations":{"number":"%s"}`, tag))); err != nil {
				return err
			}
			times[i] = time.Now()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(times, time.Time.Compare)
	between := func(from, to int64) float64 { // of answers, without the first one's own time
		return float64(to-from) / times[to].Sub(times[from]).Seconds()
	}
	return []float64{between(0, n-1), between(0, n/4), between(n-1-n/4, n-1)}, b.settle(s)
}

func (b *bench) pullLarge(s *server) ([]float64, error) {
	if err := b.seed(s); err != nil {
		return nil, err
	}
	var figures []float64
	var pulled atomic.Int64
	before := s.cpu()
	for _, connections := range []int{1, 8} {
		buffers := make([][]byte, connections)
		for i := range buffers {
			buffers[i] = make([]byte, pullBuffer)
		}
		rate, err := b.rate(s, connections, func(c *conn, worker int) error {
			pulled.Add(int64(b.amount.large))
			return c.pull(b.blobPath(s.seeds.large), s.seeds.large, buffers[worker])
		})
		if err != nil {
			return nil, err
		}
		figures = append(figures, rate*float64(b.amount.large)/1e6)
	}
	return append(figures, (s.cpu()-before)/(float64(pulled.Load())/gib)), nil
}

func (b *bench) pullSmall(s *server) ([]float64, error) {
	if err := b.seed(s); err != nil {
		return nil, err
	}
	rate, err := b.rate(s, many, func(c *conn, _ int) error {
		x := s.seeds.small[rand.IntN(len(s.seeds.small))]
		return c.get(b.blobPath(x), "", x.begin, x.end)
	})
	return []float64{rate}, err
}

func (b *bench) getManifests(s *server) ([]float64, error) {
	if err := b.seed(s); err != nil {
		return nil, err
	}
	rate, err := b.rate(s, many, func(c *conn, _ int) error {
		im := &s.seeds.images[rand.IntN(len(s.seeds.images))]
		return c.get(b.manifestPath(im.tag), acceptType, im.body)
	})
	return []float64{rate}, err
}

func (b *bench) headManifests(s *server) ([]float64, error) {
	if err := b.seed(s); err != nil {
		return nil, err
	}
	rate, err := b.rate(s, many, func(c *conn, _ int) error {
		im := &s.seeds.images[rand.IntN(len(s.seeds.images))]
		if err := c.do(200, "HEAD", b.manifestPath(im.tag), acceptType); err != nil {
			return err
		}
		if c.digest != im.digest && !s.static {
			return c.wrong("HEAD", b.manifestPath(im.tag), fmt.Errorf("digest is %q, want %s", c.digest, im.digest))
		}
		return nil
	})
	return []float64{rate}, err
}

// mixed pulls one of the images four times out of five, and else pushes a new one.
func (b *bench) mixed(s *server) ([]float64, error) {
	if err := b.seed(s); err != nil {
		return nil, err
	}
	var mu sync.Mutex // guards pulls and pushes
	var pulls, pushes []time.Duration
	_, err := b.together(s, 16, func(c *conn, worker int) error {
		end := time.Now().Add(b.amount.mixed)
		for i := worker; i < worker+5 || time.Now().Before(end); i++ { // at least one push each
			began, of := time.Now(), &pulls
			var err error
			if i%5 == 0 {
				of, err = &pushes, b.pushImage(c, b.image())
			} else {
				err = b.pullImage(c, s.seeds.images[rand.IntN(len(s.seeds.images))])
			}
			if err != nil {
				return err
			}
			took := time.Since(began)
			mu.Lock()
			*of = append(*of, took)
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	p99 := func(d []time.Duration) float64 {
		slices.Sort(d)
		return d[(len(d)*99+99)/100-1].Seconds() * 1000
	}
	return []float64{p99(pulls), p99(pushes)}, b.settle(s)
}

// startFresh starts another server of the product, on an empty directory, and has blobs pushed to it all at
// once, as docker does.
func (b *bench) startFresh(s *server) ([]float64, error) {
	if s.cmd == nil {
		return []float64{unknown, unknown, unknown, unknown}, nil
	}
	syncDisk(b.tmp)
	s, err := s.product.start(b.ctx, b.tmp, b.logs)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if err := b.sleep(b.amount.fresh); err != nil {
		return nil, err
	}
	resident := s.memory("VmRSS")
	_, err = b.together(s, b.amount.pushers, func(c *conn, _ int) error {
		x := b.cast(b.flood)
		if err := c.do(202, "POST", b.uploads(), ""); err != nil {
			return err
		}
		if err := c.stream(202, "PATCH", c.location, octets, x); err != nil {
			return err
		}
		return c.do(201, "PUT", withDigest(c.location, x), octets)
	})
	return []float64{s.took.Seconds() * 1000, resident, s.memory("VmHWM"), s.size()}, err
}

// idle leaves all servers alone for a while, and then looks for another while what they do.
func (b *bench) idle(servers []*server) ([][]float64, error) {
	syncDisk(b.tmp)
	if err := b.sleep(b.amount.quiet); err != nil {
		return nil, err
	}
	figures := make([][]float64, len(servers))
	look := func(sign float64) {
		for i, s := range servers {
			if figures[i] == nil {
				figures[i] = make([]float64, 2)
			}
			figures[i][0] += sign * s.written() / 1024 / b.amount.idle.Minutes()
			figures[i][1] += sign * s.wakeups() / b.amount.idle.Seconds()
		}
	}
	look(-1)
	if err := b.sleep(b.amount.idle); err != nil {
		return nil, err
	}
	look(+1)
	for i, s := range servers {
		if s.static {
			figures[i] = []float64{unknown, unknown}
		}
	}
	return figures, nil
}

func (b *bench) sleep(d time.Duration) error {
	select {
	case <-b.ctx.Done():
		return b.ctx.Err()
	case <-time.After(d):
		return nil
	}
}
