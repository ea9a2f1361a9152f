//go:build linux

package lossyfs

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A Mount is a directory that shows a disk.
type Mount struct {
	server *fuse.Server
	dir    string
	gone   bool
}

// ErrNoFUSE says that this kernel lets nobody mount a FUSE file system, which
// no package that could be installed changes.
var ErrNoFUSE = errors.New("the kernel offers no FUSE")

// device makes sure that there is /dev/fuse.
func device() error {
	const path = "/dev/fuse"
	if _, err := os.Stat(path); os.IsNotExist(err) {
		unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))) // a container may lack it
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoFUSE, err)
	}
	return f.Close()
}

// Mount shows the disk at dir, an empty directory. The error is ErrNoFUSE if
// that cannot be here.
//
// The kernel caches pages for reading and for shared memory maps, which
// SQLite's index of its log needs, but hands each write on at once. Locks are
// the kernel's.
func (d *Disk) Mount(dir string) (*Mount, error) {
	if err := device(); err != nil {
		return nil, err
	}
	server, err := fuse.NewServer(&front{RawFileSystem: fuse.NewDefaultRawFileSystem(), d: d}, dir, &fuse.MountOptions{
		FsName: "lossyfs", Name: "lossyfs", DirectMount: true,
		DisableXAttrs: true, DisableReadDirPlus: true,
		ExplicitDataCacheControl: true, // all changes come from this kernel
		MaxWrite:                 1 << 20,
	})
	if err != nil {
		return nil, err
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		server.Unmount()
		return nil, err
	}
	return &Mount{server: server, dir: dir}, nil
}

// Unmount ends the mount. Once it has, it does nothing.
func (m *Mount) Unmount() error {
	if m.gone {
		return nil
	}
	if syscall.Unmount(m.dir, syscall.MNT_DETACH) == nil {
		m.server.Wait()
	} else if err := m.server.Unmount(); err != nil { // the way of those who are not root
		return err
	}
	m.gone = true
	return nil
}

// A front is a disk as FUSE wants it. Node and inode numbers are the same.
type front struct {
	fuse.RawFileSystem // says "no such call" to all else
	d                  *Disk
}

// forever is how long the kernel may believe what it was told.
const forever = 24 * 60 * 60

// read runs op under the lock, if the power is on.
func (x *front) read(op func() syscall.Errno) fuse.Status {
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	if !x.d.on() {
		return fuse.EIO
	}
	return fuse.Status(op())
}

func (x *front) change(op func() syscall.Errno) fuse.Status { return fuse.Status(x.d.do(false, op)) }

func (f *file) attr(a *fuse.Attr) {
	*a = fuse.Attr{
		Ino: f.ino, Mode: f.mode, Nlink: uint32(f.links), Size: uint64(len(f.data)), Blksize: pageSize,
		Blocks: uint64(len(f.data)+511) / 512, Owner: fuse.Owner{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())},
	}
	for _, t := range []struct {
		sec  *uint64
		nsec *uint32
	}{{&a.Atime, &a.Atimensec}, {&a.Mtime, &a.Mtimensec}, {&a.Ctime, &a.Ctimensec}} {
		*t.sec, *t.nsec = uint64(f.mtime/1e9), uint32(f.mtime%1e9)
	}
}

func (f *file) entry(out *fuse.EntryOut) {
	out.NodeId, out.EntryValid, out.AttrValid = f.ino, forever, forever
	f.attr(&out.Attr)
}

func (x *front) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return x.read(func() syscall.Errno {
		f := x.d.files[in.NodeId].names[name]
		if f == nil {
			return syscall.ENOENT
		}
		f.entry(out)
		return 0
	})
}

func (x *front) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return x.read(func() syscall.Errno {
		out.AttrValid = forever
		x.d.files[in.NodeId].attr(&out.Attr)
		return 0
	})
}

func (x *front) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	return x.change(func() syscall.Errno {
		f := x.d.files[in.NodeId]
		if mode, ok := in.GetMode(); ok {
			f.mode = f.mode&syscall.S_IFMT | mode&0o7777
		}
		if size, ok := in.GetSize(); ok {
			x.d.truncate(f, int(size))
			f.mtime = time.Now().UnixNano()
		}
		if t, ok := in.GetMTime(); ok {
			f.mtime = t.UnixNano()
		}
		out.AttrValid = forever
		f.attr(&out.Attr)
		return 0
	})
}

func (x *front) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return x.change(func() syscall.Errno { return x.make(in.NodeId, name, syscall.S_IFDIR|in.Mode, out) })
}

func (x *front) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return x.change(func() syscall.Errno { return x.make(in.NodeId, name, syscall.S_IFREG|in.Mode, &out.EntryOut) })
}

func (x *front) make(dir uint64, name string, mode uint32, out *fuse.EntryOut) syscall.Errno {
	parent := x.d.files[dir]
	if parent.names[name] != nil {
		return syscall.EEXIST
	}
	f := x.d.newFile(mode)
	f.mtime = time.Now().UnixNano()
	x.d.set(parent, name, f, nil)
	f.entry(out)
	return 0
}

func (x *front) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return x.change(func() syscall.Errno {
		dir, f := x.d.files[in.NodeId], x.d.files[in.Oldnodeid]
		if dir.names[name] != nil {
			return syscall.EEXIST
		}
		x.d.set(dir, name, f, nil)
		f.entry(out)
		return 0
	})
}

func (x *front) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return x.remove(in.NodeId, name)
}

func (x *front) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return x.remove(in.NodeId, name)
}

func (x *front) remove(dir uint64, name string) fuse.Status {
	return x.change(func() syscall.Errno {
		parent := x.d.files[dir]
		switch f := parent.names[name]; {
		case f == nil:
			return syscall.ENOENT
		case len(f.names) > 0:
			return syscall.ENOTEMPTY
		}
		x.d.set(parent, name, nil, nil)
		return 0
	})
}

func (x *front) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	return x.change(func() syscall.Errno {
		old, dir := x.d.files[in.NodeId], x.d.files[in.Newdir]
		f := old.names[from]
		switch {
		case f == nil:
			return syscall.ENOENT
		case f.names != nil || in.Flags != 0:
			return syscall.EINVAL
		}
		x.d.set(old, from, nil, x.d.set(dir, to, f, nil))
		return 0
	})
}

func (x *front) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return x.read(func() syscall.Errno { return 0 })
}

func (x *front) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := 0
	status := x.read(func() syscall.Errno {
		if f := x.d.files[in.NodeId]; in.Offset < uint64(len(f.data)) {
			n = copy(buf, f.data[in.Offset:])
		}
		return 0
	})
	return fuse.ReadResultData(buf[:n]), status
}

func (x *front) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	status := x.change(func() syscall.Errno {
		f := x.d.files[in.NodeId]
		x.d.write(f, data, int64(in.Offset))
		f.mtime = time.Now().UnixNano()
		return 0
	})
	if !status.Ok() {
		return 0, status
	}
	return uint32(len(data)), status
}

func (x *front) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fuse.Status(x.d.do(true, func() syscall.Errno { return x.d.syncFile(x.d.files[in.NodeId]) }))
}

func (x *front) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fuse.Status(x.d.do(true, func() syscall.Errno { return x.d.syncDir(x.d.files[in.NodeId]) }))
}

func (x *front) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return x.read(func() syscall.Errno { return 0 })
}

// ReadDir tells the names that come after the inode number at the offset. So
// removing while reading skips nothing.
func (x *front) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return x.read(func() syscall.Errno {
		names := x.d.files[in.NodeId].names
		sorted := slices.SortedFunc(maps.Keys(names), func(a, b string) int { return int(names[a].ino) - int(names[b].ino) })
		for _, name := range sorted {
			f := names[name]
			if f.ino > in.Offset && !out.AddDirEntry(fuse.DirEntry{Name: name, Ino: f.ino, Mode: f.mode, Off: f.ino}) {
				break
			}
		}
		return 0
	})
}

func (x *front) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const blocks, files = 1 << 28, 1 << 24 // a terabyte
	*out = fuse.StatfsOut{Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: files, Ffree: files,
		Bsize: pageSize, Frsize: pageSize, NameLen: 255}
	return x.read(func() syscall.Errno { return 0 })
}
