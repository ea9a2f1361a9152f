// Bytes that rot, and what crashes left: found before somebody misses them.
//
// Once in a while (--scrub-every, in uptime) a pass goes through everything
// that is stored: the database, its counts and manifests at once, then each blob's
// bytes, slowly (--scrub-rate) and only while no request is under way. Where it
// is is remembered, so that it goes on after a restart. Between passes it reads
// and writes nothing.
//
//	blob not as its digest says    → out of service, its file put aside (store_blob.go)
//	manifest likewise              → out of service
//	file without a row             → removed (1 in store.go)
//	row that should be settled,    → put in order
//	count that is wrong
//
// What is out of service is back when it is pushed again. A blob that could
// not be read on a pull is looked at soon, without waiting for a pass; a manifest is
// verified whenever it is read (store_refs.go). A blob that no pass has come to for a month,
// for want of time or by --scrub-every 0, is hashed while it is pulled.

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// A scrubber looks through all that its store has, now and then.
type scrubber struct {
	*store
	suspects chan digest.Digest // blobs that could not be read on a pull
	verified verifications
	outcome  outcome
}

// run runs passes until ctx ends.
func (sc *scrubber) run(ctx context.Context) {
	if sc.writer == nil {
		return
	}
	sc.adoptAll(ctx)
	for ctx.Err() == nil {
		wait, err := sc.due()
		if err == nil && wait == 0 {
			err = sc.pass(ctx)
			if ctx.Err() == nil {
				sc.outcome.note(err)
			}
			if err == nil {
				continue
			}
		}
		if err != nil {
			wait = time.Hour
			if ctx.Err() == nil {
				sc.log.Error("scrubbing", "error", err, "retry", wait)
			}
		}
		sc.awaitScrub(ctx, wait)
	}
}

// adoptAll puts back what is whole again: a disk may have failed for a moment.
func (sc *scrubber) adoptAll(ctx context.Context) {
	damaged, err := listRows(sc, scanOne[digest.Digest], `SELECT digest FROM blob WHERE damaged IS NOT NULL`)
	for _, d := range damaged {
		if ctx.Err() != nil {
			return
		}
		_, e := sc.adopt(d)
		err = errors.Join(err, e)
	}
	if err != nil {
		sc.log.Error("looking at damaged blobs", "error", err)
	}
}

// awaitScrub waits for d (negative: for ever), and looks at suspects meanwhile.
func (sc *scrubber) awaitScrub(ctx context.Context, d time.Duration) {
	timer, stop := alarm(d)
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer:
			return
		case d := <-sc.suspects:
			sc.inspect(d)
		}
	}
}

// inspect takes a blob out of service that could not be read, if it cannot.
func (sc *scrubber) inspect(d digest.Digest) {
	if _, err := sc.quarantine(d); err != nil {
		sc.log.Error("a blob could not be read", "digest", d, "error", err)
	}
}

// suspect has a blob looked at that could not be read.
func (sc *scrubber) suspect(d digest.Digest) {
	select {
	case sc.suspects <- d:
	default: // the next pass finds it
	}
}

// due returns how long it is until the next pass begins, 0 if one is due
// or was cut short; negative if there are to be none.
func (sc *scrubber) due() (time.Duration, error) {
	if sc.scrubEvery == 0 {
		return -1, nil
	}
	var next string
	var last int64
	if err := sc.get(`SELECT scrub_place, scrubbed FROM meta`, nil, &next, &last); err != nil {
		return 0, err
	}
	if next != "" {
		return 0, nil
	}
	return max(0, time.Duration(last)*time.Second+sc.scrubEvery-sc.uptime()), nil
}

const (
	// verifiedFor is how long a blob is believed to be what it was, in seconds.
	verifiedFor = 30 * 24 * 3600
	// maxVerifiedBlobs bounds the blobs that are remembered; they take a MiB.
	maxVerifiedBlobs = 1 << 13
)

// A scrubbing is a pass under way.
type scrubbing struct {
	*scrubber
	ctx   context.Context
	pace  *pace
	place string        // the last blob that was read
	saved time.Duration // uptime when the place was last remembered

	blobs, damaged, removed, repaired int
}

// saveEvery is how often a pass remembers where it is: a restart costs no more
// than that, and a pass writes little.
const saveEvery = 5 * time.Minute

// pass does a pass, or the rest of one.
func (sc *scrubber) pass(ctx context.Context) error {
	var place string
	if err := sc.get(`SELECT scrub_place FROM meta`, nil, &place); err != nil {
		return err
	}
	s := &scrubbing{scrubber: sc, ctx: ctx, pace: newPace(ctx, sc.scrubRate, sc.host.busy), place: place, saved: sc.uptime()}
	sc.log.Info("scrub begins", "after", place)
	begun := sc.uptime()
	err := s.run()
	if ctx.Err() != nil {
		err = errors.Join(err, s.remember())
	}
	if err != nil {
		return err
	}
	err = sc.updateLazy(func(t *tx) error {
		t.committed = append(t.committed, func() {
			sc.verified.passed.Store(t.clock)
			sc.verified.place.Store(nil)
		})
		_, err := t.exec(`UPDATE meta SET scrub_place = '', scrubbed = ?`, t.clock)
		return err
	})
	sc.log.Info("scrub ended", "took", sc.uptime()-begun, "blobs", s.blobs, "bytes", s.pace.done,
		"damaged", s.damaged, "removed", s.removed, "repaired", s.repaired)
	return err
}

func (s *scrubbing) run() error {
	if s.place == "" {
		if err := s.rows(); err != nil {
			return err
		}
		if err := s.quarantined(); err != nil {
			return err
		}
	}
	for _, x := range shards() {
		if x.to() <= s.place {
			continue
		}
		if err := s.shard(x); err != nil {
			return err
		}
	}
	return nil
}

// rows puts in order what the database says about itself.
func (s *scrubbing) rows() error {
	r := &report{st: s.store}
	var errs []error
	// A snapshot for each: with much stored they take a while, and as long as one is
	// in use SQLite's log grows with every push.
	for _, step := range []func() error{r.checkDatabase, r.checkManifests, r.checkLoose, r.checkCounts} {
		errs = append(errs, s.look(s.ctx, func(snap snapshot) error {
			r.snapshot = snap
			return step()
		}))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, f := range r.findings {
		if f.repair == nil {
			s.log.Error("found wrong", "problem", f.problem)
			continue
		}
		did, err := f.repair(s.store)
		s.log.Error("found wrong", "problem", f.problem, "repair", did, "error", err)
		s.repaired++
	}
	return nil
}

// quarantined removes files that were put aside and are not needed to tell
// what happened: their blobs have gone, or are whole again.
func (s *scrubbing) quarantined() error {
	for _, place := range places {
		if err := s.quarantinedIn(filepath.Join(s.dir, place, "quarantine")); err != nil {
			return err
		}
	}
	return nil
}

func (s *scrubbing) quarantinedIn(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		algorithm, hex, _ := strings.Cut(e.Name(), "-")
		d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
		if d.Validate() != nil {
			continue
		}
		unlock := s.digests.lock(d.String())
		var n int
		err := s.get(`SELECT count(*) FROM blob WHERE digest = ? AND damaged IS NOT NULL`, []any{d}, &n)
		if err == nil && n == 0 {
			if err = os.Remove(filepath.Join(dir, e.Name())); err == nil {
				s.removed++
			}
		}
		unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// shard goes through one directory of blobs, or the rest of it.
func (s *scrubbing) shard(x shard) error {
	rows, err := x.blobs(s.store)
	if err != nil {
		return err
	}
	for _, b := range rows {
		if b.digest.String() <= s.place {
			continue
		}
		if err := s.blob(b); err != nil {
			return err
		}
		s.place = b.digest.String()
		place := s.place
		s.verified.place.Store(&place)
		if now := s.uptime(); now-s.saved >= saveEvery {
			if err := s.remember(); err != nil {
				return err
			}
			s.saved = now
		}
	}
	strangers, err := x.strangers(s.store, rows)
	if err != nil {
		return err
	}
	for _, path := range strangers {
		removed, err := s.removeStranger(path)
		if err != nil {
			return err
		}
		if removed {
			s.removed++
			s.log.Info("file without a row removed", "path", path)
		}
	}
	return nil
}

func (s *scrubbing) remember() error {
	return s.updateLazy(func(t *tx) error {
		_, err := t.exec(`UPDATE meta SET scrub_place = ?`, s.place)
		return err
	})
}

// blob reads one, and takes it out of service if it must.
func (s *scrubbing) blob(b blobRow) error {
	if b.damaged {
		_, err := s.adopt(b.digest)
		return err
	}
	select {
	case d := <-s.suspects:
		s.inspect(d)
	default:
	}
	s.blobs++
	err := s.examine(b.digest, b.size, s.pace.spend)
	if s.ctx.Err() != nil {
		return s.ctx.Err() // and nothing is known of this one
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, errDamaged) {
		if !s.hasShard(b.digest) {
			return err // the disk is missing
		}
		// Permissions, say: a person's affair, and no reason to stop here.
		s.log.Error("a blob could not be read", "digest", b.digest, "error", err)
		return nil
	}
	wrong, err := s.quarantine(b.digest)
	if wrong != nil {
		s.damaged++
	}
	return err
}

// A pace keeps a long reading slow, and slower while there is better to do.
type pace struct {
	ctx   context.Context
	rate  int64 // bytes a second; 0 is no limit
	busy  func() bool
	done  int64
	spent int64 // since begun
	begun time.Time
}

// busyWait is the most that a piece waits for requests to end, so that a pass
// goes on, slowly, in a registry that always has some.
const busyWait = time.Second

func newPace(ctx context.Context, rate int64, busy func() bool) *pace {
	return &pace{ctx: ctx, rate: rate, busy: busy, begun: time.Now()}
}

// spend waits until n more bytes may be read. The error is ctx's.
func (p *pace) spend(n int) error {
	p.done += int64(n)
	p.spent += int64(n)
	var wait time.Duration
	if p.rate > 0 {
		if wait = time.Duration(float64(p.spent)/float64(p.rate)*float64(time.Second)) - time.Since(p.begun); wait < -busyWait {
			// What was not spent is not saved up.
			p.spent, p.begun = 0, time.Now()
		}
	}
	for waited := time.Duration(0); p.busy() && waited < busyWait; waited += 20 * time.Millisecond {
		if !p.sleep(20 * time.Millisecond) {
			break
		}
		wait -= 20 * time.Millisecond
	}
	if wait > 10*time.Millisecond {
		p.sleep(wait)
	}
	return p.ctx.Err()
}

func (p *pace) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}
