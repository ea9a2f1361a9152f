//go:build linux

// Package lossyfs is a file system in memory that forgets, at a power cut, what
// was not synced: bytes and names alike. A Disk outlives cuts; Mount makes it a
// directory, through FUSE, that any process can use until the power goes.
//
// What the disk has, apart from what processes see:
//
//   - The sync of a file makes its bytes and its size durable, not its name.
//     ext4 would in fact keep a new file's name too; POSIX does not say so.
//   - The sync of a directory makes the names in it durable, not what they
//     lead to, and not its own name in its parent.
//   - A file with several names is one file. Mode bits and times are durable at
//     once.
//
// What a cut leaves of what was not synced is chosen by a Loss. Where part of
// it survives:
//
//   - Each page (or sector) that was written is old or new, whatever the others
//     are. The size is old, or new, or between when the file grew. Lost pages
//     inside a grown size are zeros. A truncation that survives takes all that
//     was beyond it: nothing old reappears in a file that grows again.
//   - Names are either those of a journal cut at some point (ext4, XFS), or each
//     name goes back to some earlier point by itself (without a journal), but a
//     rename's new name comes before its old one goes: there may be both, never
//     neither, as with soft updates. That is also so if the directory of the
//     new name was not synced and that of the old one was.
//
// And while the power is on:
//
//   - The kernel may have written any page early (Plan.Writeback).
//   - A file's sync may fail (Plan.FailFiles). As with Linux, the pages count as
//     clean from then on, though only some were written: a later sync that
//     succeeds does not bring the others to the disk unless they are written
//     anew. A directory's sync that fails (Plan.FailNames) leaves its names to a later sync: a
//     journal that loses names stops the file system instead.
//   - The disk may lie: answer a sync and do nothing (Plan.Lie…).
//
// Not modelled: a full disk, renames of directories, symbolic links, more than
// one version of a page that was never synced (but for Writeback), and sectors
// torn inside.
package lossyfs

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
)

const (
	pageSize   = 4096
	sectorSize = 512
)

// A Loss says what a power cut leaves of what was not synced.
type Loss int

const (
	Nothing Loss = iota // of it is lost: the process died, the kernel lived
	All                 // of it
	Pages               // of 4 KiB, and names, at random
	Sectors             // of 512 bytes, and names, at random
)

func (l Loss) String() string {
	return [...]string{"nothing", "all", "pages", "sectors"}[l]
}

// A Plan is what will go wrong.
type Plan struct {
	// The power goes at the n-th sync, or the n-th change of anything (syncs
	// and changes both count as changes), from now; 0 is never.
	CutAtSync, CutAtChange int
	After                  bool // the sync or change that is cut at is still done

	FailFiles, FailNames float64 // how many syncs fail with EIO, of 1
	Writeback            float64 // how many writes bring an earlier one to the disk early, of 1

	LieAboutFiles, LieAboutNames bool // syncs do nothing
}

// A Disk is the file system. Its methods may be called from any goroutine.
type Disk struct {
	mu      sync.Mutex // guards everything
	rng     *rand.Rand
	files   map[uint64]*file // by inode number, since the last cut
	root    *file
	last    uint64    // inode number given out
	pending []*change // of names, in the order in which they were made
	plan    Plan
	syncs   int           // since the plan was made
	changes int           // likewise
	failed  int           // syncs that did
	off     chan struct{} // closed when the power is off
}

// A file is an inode: a directory if names is not nil.
type file struct {
	ino   uint64
	mode  uint32
	links int
	mtime int64 // in nanoseconds
	syncs int

	data  []byte
	disk  []byte             // of data, what the disk has
	dirty map[int64]struct{} // pages of data that differ from the disk's
	low   int                // the shortest that data has been since the disk has known its size

	names     map[string]*file
	diskNames map[string]*file
}

// A change gives a name in a directory to a file, or to none.
type change struct {
	dir   *file
	name  string
	to    *file
	after *change // the disk must have this one first; may be nil
	done  bool    // the disk has it
}

// New returns an empty disk with the power on.
func New(seed uint64) *Disk {
	d := &Disk{rng: rand.New(rand.NewPCG(seed, 0)), files: make(map[uint64]*file), off: make(chan struct{})}
	d.root = d.newFile(syscall.S_IFDIR | 0o755)
	return d
}

func (d *Disk) newFile(mode uint32) *file {
	d.last++
	f := &file{ino: d.last, mode: mode, dirty: make(map[int64]struct{})}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		f.names, f.diskNames = make(map[string]*file), make(map[string]*file)
	}
	d.files[f.ino] = f
	return f
}

// Arm replaces the plan and returns a channel that is closed when the power
// goes off. Counting begins anew.
func (d *Disk) Arm(p Plan) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plan, d.syncs, d.changes = p, 0, 0
	return d.off
}

// Count returns how many syncs and changes there were since Arm, and how many
// syncs have failed since New.
func (d *Disk) Count() (syncs, changes, failed int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs, d.changes, d.failed
}

// SyncsOf returns how often the file or directory at path, below the root and with slashes, was
// synced since it was made; 0 if there is none.
func (d *Disk) SyncsOf(path string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.root
	for name := range strings.SplitSeq(path, "/") {
		if f = f.names[name]; f == nil {
			return 0
		}
	}
	return f.syncs
}

// On reports whether the power is on.
func (d *Disk) On() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.on()
}

func (d *Disk) on() bool {
	select {
	case <-d.off:
		return false
	default:
		return true
	}
}

// Cut turns the power off: nothing on the mount works any more.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut()
}

func (d *Disk) cut() {
	if d.on() {
		close(d.off)
	}
}

// do runs op, which changes the file system, or fails it with EIO if the power
// is off, and cuts the power if it is time.
func (d *Disk) do(sync bool, op func() syscall.Errno) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on() {
		return syscall.EIO
	}
	d.changes++
	if sync {
		d.syncs++
	}
	cut := d.changes == d.plan.CutAtChange || sync && d.syncs == d.plan.CutAtSync
	if cut && !d.plan.After {
		d.cut()
		return syscall.EIO
	}
	err := op()
	if cut {
		d.cut()
	}
	return err
}

// write puts p at off into f.
func (d *Disk) write(f *file, p []byte, off int64) {
	if end := int(off) + len(p); end > len(f.data) {
		f.data = resized(f.data, end)
	}
	copy(f.data[off:], p)
	for page := off / pageSize; page*pageSize < off+int64(len(p)); page++ {
		f.dirty[page] = struct{}{}
	}
	if d.rng.Float64() < d.plan.Writeback {
		d.writeEarly(f)
	}
}

// writeEarly brings a page to the disk, as the kernel does when it likes.
func (d *Disk) writeEarly(f *file) {
	if f.low < len(f.disk) {
		return // the truncation comes first, and that is up to the journal
	}
	pages := slices.Sorted(maps.Keys(f.dirty))
	f.bring(pages[d.rng.IntN(len(pages))], pageSize)
	f.low = max(f.low, len(f.disk))
}

// truncate sets the size.
func (d *Disk) truncate(f *file, size int) {
	f.data = resized(f.data, size)
	f.low = min(f.low, size)
}

// bring copies a block of data to the disk, which grows if need be.
func (f *file) bring(block, size int64) {
	from, to := block*size, min((block+1)*size, int64(len(f.data)))
	if from < to {
		f.disk = resized(f.disk, max(len(f.disk), int(to)))
		copy(f.disk[from:to], f.data[from:to])
	}
	if size == pageSize {
		delete(f.dirty, block)
	}
}

// resized returns b with n bytes, the new ones zero.
func resized(b []byte, n int) []byte {
	if n <= len(b) {
		return b[:n]
	}
	return append(b, make([]byte, n-len(b))...)
}

// syncFile is fsync, and fdatasync.
func (d *Disk) syncFile(f *file) syscall.Errno {
	f.syncs++
	if d.plan.LieAboutFiles {
		return 0
	}
	if d.rng.Float64() < d.plan.FailFiles {
		d.failed++
		for range len(f.dirty) / 2 {
			d.writeEarly(f)
		}
		clear(f.dirty)
		return syscall.EIO
	}
	f.disk = resized(f.disk[:min(f.low, len(f.disk))], len(f.data))
	for page := range f.dirty {
		f.bring(page, pageSize)
	}
	f.low = len(f.data)
	return 0
}

// set gives a name to a file, or to none.
func (d *Disk) set(dir *file, name string, to *file, after *change) *change {
	if old := dir.names[name]; old != nil {
		old.links--
	}
	if to == nil {
		delete(dir.names, name)
	} else {
		dir.names[name] = to
		to.links++
	}
	c := &change{dir: dir, name: name, to: to, after: after}
	d.pending = append(d.pending, c)
	return c
}

// syncDir is fsync of a directory.
func (d *Disk) syncDir(dir *file) syscall.Errno {
	dir.syncs++
	if d.plan.LieAboutNames {
		return 0
	}
	if d.rng.Float64() < d.plan.FailNames {
		d.failed++
		return syscall.EIO
	}
	for _, c := range d.pending {
		if c.dir == dir {
			d.keep(c)
		}
	}
	d.pending = slices.DeleteFunc(d.pending, func(c *change) bool { return c.done })
	return 0
}

// keep brings a change to the disk, after those that it needs. All earlier
// ones of the same name are there already.
func (d *Disk) keep(c *change) {
	if c.done {
		return
	}
	if c.after != nil && !c.after.done {
		for _, b := range d.pending {
			if b.dir == c.after.dir && b.name == c.after.name {
				d.keep(b)
			}
			if b == c.after {
				break
			}
		}
	}
	c.done = true
	if c.to == nil {
		delete(c.dir.diskNames, c.name)
	} else {
		c.dir.diskNames[c.name] = c.to
	}
}

// Restore turns the power on again, after a cut, over what the cut has left.
// The old mount must be gone.
func (d *Disk) Restore(loss Loss) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.survivors(loss) {
		d.keep(c)
	}
	d.pending, d.plan = nil, Plan{}
	d.files = make(map[uint64]*file)
	d.restore(d.root, loss)
	d.off = make(chan struct{})
}

// restore makes what the disk has of a file, and of all below it, what
// processes see. A file that no name leads to is gone.
func (d *Disk) restore(f *file, loss Loss) {
	if d.files[f.ino] != nil {
		f.links++
		return
	}
	d.files[f.ino] = f
	f.links = 1
	if f.names != nil {
		f.names = maps.Clone(f.diskNames)
		for _, below := range slices.Sorted(maps.Keys(f.names)) { // in order, for the seed's sake
			d.restore(f.names[below], loss)
		}
		return
	}
	d.tear(f, loss)
	f.data, f.low = slices.Clone(f.disk), len(f.disk)
	clear(f.dirty)
}

// survivors chooses the changes of names that a cut leaves.
func (d *Disk) survivors(loss Loss) []*change {
	switch {
	case loss == Nothing:
		return d.pending
	case loss == All:
		return nil
	case d.rng.IntN(2) == 0: // a journal
		return d.pending[:d.rng.IntN(len(d.pending)+1)]
	}
	type place struct {
		dir  *file
		name string
	}
	byPlace := make(map[place][]*change)
	var places []place
	for _, c := range d.pending {
		p := place{c.dir, c.name}
		if byPlace[p] == nil {
			places = append(places, p)
		}
		byPlace[p] = append(byPlace[p], c)
	}
	kept := make(map[*change]bool)
	for _, p := range places {
		n := len(byPlace[p])
		n = []int{0, n, d.rng.IntN(n + 1)}[d.rng.IntN(3)]
		for _, c := range byPlace[p][:n] {
			kept[c] = true
		}
	}
	// An old name that went although the new one is lost stays, and so does
	// what was there before each of its later changes.
	for again := true; again; {
		again = false
		for _, p := range places {
			lost := false
			for _, c := range byPlace[p] {
				if lost = lost || !kept[c] || c.after != nil && !c.after.done && !kept[c.after]; lost && kept[c] {
					delete(kept, c)
					again = true
				}
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(d.pending), func(c *change) bool { return !kept[c] })
}

// tear makes of what the disk has of a file what a cut leaves of it.
func (d *Disk) tear(f *file, loss Loss) {
	block := int64(pageSize)
	switch loss {
	case All:
		return
	case Nothing:
		f.disk = slices.Clone(f.data)
		return
	case Sectors:
		block = sectorSize
	}
	end := min(f.low, len(f.disk)) // of the bytes that a truncation did not touch
	size := len(f.disk)
	if d.rng.IntN(2) == 0 { // the truncation, and the growth, or some of it
		size = len(f.data)
		if grown := size - end; grown > 0 && d.rng.IntN(2) == 0 {
			size = max(end, (end+d.rng.IntN(grown))/int(block)*int(block))
		}
		f.disk = resized(slices.Clone(f.disk[:end]), size)
		end = size
	}
	for _, page := range slices.Sorted(maps.Keys(f.dirty)) {
		for b := page * pageSize / block; b < (page+1)*pageSize/block && b*block < int64(end); b++ {
			if d.rng.IntN(2) == 0 {
				f.bring(b, block)
			}
		}
	}
	f.disk = resized(f.disk, size)
}
