package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// syncData flushes f's bytes, and what is needed to read them back, to the disk.
func syncData(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// startWriteback asks the kernel to begin writing n bytes of f at off, without
// waiting, so that the final sync of a long upload is short. It promises
// nothing; an error shows in the sync.
func startWriteback(f *os.File, off, n int64) {
	unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// waitRange waits until n bytes of f at off, whose write-back has begun, have been
// written. The disk may still have them in a memory of its own.
func waitRange(f *os.File, off, n int64) error {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	switch uint32(s.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC,
		unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return os.NewSyscallError("sync_file_range", unix.SyncFileRange(int(f.Fd()), off, n,
			unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER))
	}
	return errors.ErrUnsupported // NFS, FUSE, overlayfs, ZFS: it would do nothing, or half
}

// allocate takes n bytes for f, without writing them, where the file system can.
func allocate(f *os.File, n int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, n)
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS || err == unix.EINTR {
		return nil
	}
	return os.NewSyscallError("fallocate", err)
}

// flushFileSystem asks the file system of f to do what it has put off.
func flushFileSystem(f *os.File) { unix.Syncfs(int(f.Fd())) }

// dropCache asks the kernel to forget what it has of f in memory, so that the
// next read is of the disk, or does not keep from memory what is of more use.
func dropCache(f *os.File) { unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

// cloneFile makes dst share the blocks of src, on file systems that can.
func cloneFile(dst, src *os.File) error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }

// syncFileSystem syncs all of the file system of f at once, where that can be
// relied upon and dirs are on it, too; else it reports false. A write that has
// failed since f was opened is an error.
func syncFileSystem(f *os.File, dirs map[string]bool) (done bool, err error) {
	var s unix.Statfs_t
	var here, there unix.Stat_t
	if unix.Fstatfs(int(f.Fd()), &s) != nil || unix.Fstat(int(f.Fd()), &here) != nil || !tellsErrors() {
		return false, nil
	}
	for dir := range dirs { // blobs/ may be a link to another disk
		if unix.Stat(dir, &there) == nil && there.Dev != here.Dev {
			return false, nil
		}
	}
	switch uint32(s.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
		return true, os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
	}
	return false, nil // FUSE, for one, would do nothing and say that it is done
}

// littleDirty reports whether the machine has little to write, so that the sync of a whole file system
// takes no longer than that of what was written to it just now.
func littleDirty() bool {
	const little = 32 << 10 // KiB
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		var n int
		if k, _ := fmt.Sscanf(line, "Dirty: %d kB", &n); k == 1 {
			return n < little
		}
	}
	return false
}

// tellsErrors reports whether this kernel's syncfs tells of writes that failed:
// since 5.8.
func tellsErrors() bool {
	var u unix.Utsname
	var major, minor int
	if unix.Uname(&u) != nil {
		return false
	}
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return major > 5 || major == 5 && minor >= 8
}

// isBadSector reports whether err says that the disk, or the file system, could
// not read what it has written.
func isBadSector(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EBADMSG)
}

// processFigures are what the kernel says of this process.
func processFigures() (list []processFigure) {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) == nil {
		seconds := float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
		list = append(list, processFigure{metric{"process_cpu_seconds_total", "counter", "Time that processors have spent."}, seconds})
	}
	var virtual, resident float64 // pages
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if n, _ := fmt.Sscan(string(text), &virtual, &resident); n == 2 {
			page := float64(os.Getpagesize())
			list = append(list, processFigure{metric{"process_virtual_memory_bytes", "gauge", "Virtual memory."}, virtual * page},
				processFigure{metric{"process_resident_memory_bytes", "gauge", "Memory that is in use, with pages of files."}, resident * page})
		}
	}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		list = append(list, processFigure{metric{"process_open_fds", "gauge", "Open files and connections."}, float64(len(files) - 1)}) // but that of the question
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		list = append(list, processFigure{metric{"process_max_fds", "gauge", "How many files and connections may be open."}, float64(limit.Cur)})
	}
	return list
}

// monotonic is the time of the clock that only goes on, as other processes of this machine read it.
func monotonic() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// memory is how many bytes this process may have: the machine's, or less if its
// control group, or one above that, has a limit; limited says which.
func memory() (total int64, limited bool) {
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) != nil {
		return 0, false
	}
	total = int64(uint64(s.Totalram) * uint64(s.Unit))
	groups, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(groups)) { // 0::/a/b, or 5:memory:/a/b
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		root, file := "/sys/fs/cgroup", "memory.max"
		switch {
		case len(fields) != 3:
			continue
		case slices.Contains(strings.Split(fields[1], ","), "memory"):
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case fields[1] != "":
			continue
		}
		for dir := path.Clean("/" + fields[2]); ; dir = path.Dir(dir) {
			text, err := os.ReadFile(path.Join(root, dir, file))
			if limit, e := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && e == nil && limit > 0 {
				total, limited = min(total, limit), limited || limit < total
			}
			if dir == "/" {
				break
			}
		}
	}
	return total, limited
}

// clockSynced reports whether a time server keeps the clock right, and whether that is known.
func clockSynced() (synced, known bool) {
	var x unix.Timex
	if _, err := unix.Adjtimex(&x); err != nil {
		return false, false
	}
	return x.Status&unix.STA_UNSYNC == 0, true
}
