// What keeps strangers slow: guesses at passwords, and floods of requests.
//
// Everything here is in memory and bounded. Time is the process's own, so that
// a clock that jumps neither frees nor locks anybody.

package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// attempts slows down who guesses passwords, by address and user, and by address
// alone for who tries many users. A user is never locked out: not from another
// address, not with a password that was right before; and who comes from the address
// of somebody who guesses stands in line with him, and is let in in turn.
type attempts struct {
	now      func() time.Duration
	unit     time.Duration // the first delay
	patience time.Duration // how long a try stands in line at most

	mu     sync.Mutex // guards the rest
	failed map[string]*failures
	lines  map[string][]*standing // by address, in the order in which they came
}

// A standing is the place of a try in it.
type standing struct {
	user string
	wake chan struct{} // told when one before has gone
	away chan struct{} // closed when the place is another user's
}

// failures are wrong passwords in a row.
type failures struct {
	count int
	last  time.Duration
}

const (
	freeByUser    = 5  // wrong passwords of one address for one user that cost nothing
	freeByAddress = 30 // and for all users together
	maxDelay      = 5  // the longest delay, in units: a line must move
	maxLine       = 6  // tries of one address that wait: as many as the patience is enough for
	// forgetAfter is how long a wrong password counts.
	forgetAfter = 15 * time.Minute
	maxFailed   = 10000
)

// loginUnit and loginPatience are for clients that give up after 15 seconds, as
// docker login does, and for those that do not.
const (
	loginUnit     = time.Second
	loginPatience = 30 * time.Second
)

// due is how long an address has to wait before its next attempt for a user. a.mu is
// held.
func (a *attempts) due(address, user string, now time.Duration) time.Duration {
	return max(a.failed[pairKey(address, user)].wait(now, freeByUser, a.unit), a.failed[address].wait(now, freeByAddress, a.unit))
}

// turn waits for the turn of an attempt, and counts it, as a failure until it has
// succeeded. The error is errTooManyLogins if the line is too long, or too slow.
func (a *attempts) turn(done <-chan struct{}, address, user string) error {
	wait := a.begin(address, user, nil)
	if wait == 0 {
		return nil
	}
	refused := errTooManyLogins.later(wait)
	a.mu.Lock()
	if a.patience == 0 || len(a.lines[address]) >= maxLine && !a.sendAway(address, user) {
		a.mu.Unlock()
		return refused
	}
	me := &standing{user, make(chan struct{}, 1), make(chan struct{})}
	a.lines[address] = append(a.lines[address], me)
	a.mu.Unlock()
	defer a.leave(address, me)
	late := time.NewTimer(a.patience)
	defer late.Stop()
	for {
		if wait = a.begin(address, user, me); wait == 0 {
			return nil
		}
		due := time.NewTimer(wait)
		select {
		case <-due.C:
		case <-me.wake:
		case <-me.away:
			return refused
		case <-late.C:
			return refused
		case <-done:
			return refused
		}
		due.Stop()
	}
}

// sendAway makes a place in a full line for a user: that of the last try for whoever has
// most of them, unless he would have fewer then than the user. So guesses at one user's
// password keep out no other. a.mu is held.
func (a *attempts) sendAway(address, user string) bool {
	line := a.lines[address]
	places := make(map[string]int)
	for _, w := range line {
		places[w.user]++
	}
	last := -1
	for i, w := range line {
		if last < 0 || places[w.user] >= places[line[last].user] {
			last = i
		}
	}
	if places[line[last].user] <= places[user]+1 {
		return false
	}
	close(line[last].away)
	a.lines[address] = slices.Delete(line, last, last+1)
	return true
}

// leave takes a try out of the line, and has the others look.
func (a *attempts) leave(address string, me *standing) {
	a.mu.Lock()
	defer a.mu.Unlock()
	line := slices.DeleteFunc(a.lines[address], func(w *standing) bool { return w == me })
	if a.lines[address] = line; len(line) == 0 {
		delete(a.lines, address)
	}
	for _, w := range line {
		notify(w.wake)
	}
}

// pairKey is for the failures of an address with a user, whose name a stranger chose.
func pairKey(address, user string) string {
	return fmt.Sprintf("%s %.64s %d", address, user, len(user))
}

// begin counts an attempt, or returns how long to wait, if it is nobody's turn. me is
// its place in line; nil is behind all.
func (a *attempts) begin(address, user string, me *standing) (wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if wait := a.due(address, user, now); wait > 0 {
		return wait
	}
	for _, w := range a.lines[address] {
		if w == me {
			break
		}
		if a.due(address, w.user, now) == 0 { // his turn; he is about to see that
			return a.unit
		}
	}
	for _, f := range []*failures{a.get(pairKey(address, user), now), a.get(address, now)} {
		f.count++
		f.last = now
	}
	return 0
}

// wait is how long the next attempt has to wait: a unit, then twice as long each
// time.
func (f *failures) wait(now time.Duration, free int, unit time.Duration) time.Duration {
	if f == nil || f.count < free || now-f.last >= forgetAfter {
		return 0
	}
	delay := unit * time.Duration(min(maxDelay, 1<<min(f.count-free, 10)))
	return max(0, f.last+delay-now)
}

// undo takes back what begin counted, of a try that was not made.
func (a *attempts) undo(address, user string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range []*failures{a.failed[pairKey(address, user)], a.failed[address]} {
		if f != nil && f.count > 0 {
			f.count--
		}
	}
}

// succeeded takes back what begin counted. Whoever knows one password may still
// be guessing at others.
func (a *attempts) succeeded(address, user string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.failed, pairKey(address, user))
	if f := a.failed[address]; f != nil && f.count > 0 {
		f.count--
	}
}

// get returns the failures under a key. a.mu is held.
func (a *attempts) get(key string, now time.Duration) *failures {
	f := a.failed[key]
	if f != nil && now-f.last < forgetAfter {
		return f
	}
	if f == nil {
		makeRoom(a.failed, maxFailed)
	}
	f = &failures{}
	a.failed[key] = f
	return f
}

// makeRoom lets go of any entry of a map that has reached its bound. Whoever
// floods it forgets at random, which costs little and locks nobody out.
func makeRoom[K comparable, V any](m map[K]V, most int) {
	if len(m) < most {
		return
	}
	for key := range m {
		delete(m, key)
		return
	}
}

// A limiter bounds the requests a second of each address.
type limiter struct {
	perSecond int
	now       func() time.Duration

	mu sync.Mutex // guards of
	of map[string]*rate.Limiter
}

// maxLimited bounds the addresses that are kept apart.
const maxLimited = 10000

// take returns how long an address has to wait for its next request, 0 if it need
// not, and what takes the request back. It may have ten seconds' worth at once: an
// image has many layers. If it would have to wait longer than most, nothing is
// taken, and back is nil.
func (l *limiter) take(from origin, most time.Duration) (wait time.Duration, back func()) {
	if l.perSecond == 0 {
		return 0, nil
	}
	address := from.key()
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.of[address]
	if x == nil {
		makeRoom(l.of, maxLimited)
		x = rate.NewLimiter(rate.Limit(l.perSecond), 10*min(l.perSecond, 1e8)) // an int may have 32 bits
		l.of[address] = x
	}
	now := time.Unix(0, 0).Add(l.now())
	if x.AllowN(now, 1) {
		return 0, nil
	}
	wait = time.Duration((1 - x.TokensAt(now)) / float64(l.perSecond) * float64(time.Second))
	if wait > most {
		return wait, nil
	}
	r := x.ReserveN(now, 1)
	return wait, func() { r.CancelAt(time.Unix(0, 0).Add(l.now())) }
}
