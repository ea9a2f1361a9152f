package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// BenchmarkSlowDisk pushes layers of 64 MiB to a disk that writes 8 MiB a second, as
// PATCH and PUT, one and four at a time. It reports how long after its last byte the
// slowest is answered, both answers together: clients give up after 30 s. It
// wants root, a loop device, mkfs.ext4, and control groups that can slow a device.
//
//	go test -run '^$' -bench SlowDisk -benchtime 1x .
func BenchmarkSlowDisk(b *testing.B) {
	const size, perSecond = 64 << 20, 8 << 20
	dir := slowDisk(b, perSecond)
	for _, clients := range []int{1, 4} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			r := startRegistry(b, logToNowhere, func(c *config) { c.dir = filepath.Join(dir, fmt.Sprint("data", clients)) })
			c := newBenchClient(clients)
			var slowest atomic.Int64
			for i := range b.N {
				err := share(clients, clients, func(k int) error {
					body := func() io.Reader {
						return io.LimitReader(rand.NewChaCha8([32]byte{byte(i), byte(k), byte(clients)}), size)
					}
					h := sha256.New()
					io.Copy(h, body())
					location, err := c.location("POST", r.http.URL+"/v2/bench/blobs/uploads/", nil, 202)
					if err != nil {
						return err
					}
					sent := &lastByte{r: body()}
					if err := c.send("PATCH", r.http.URL+location, nil, sent, 202); err != nil {
						return err
					}
					if err := c.send("PUT", r.http.URL+location+"?digest="+digest.NewDigest(digest.SHA256, h).String(), nil, nil, 201); err != nil {
						return err
					}
					slowest.Store(max(slowest.Load(), int64(time.Since(time.Unix(0, sent.at.Load())))))
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(time.Duration(slowest.Load()).Seconds(), "s-after-last-byte")
		})
	}
}

// lastByte notes when a body was read to its end.
type lastByte struct {
	r  io.Reader
	at atomic.Int64 // nanoseconds of Unix time
}

func (l *lastByte) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err != nil {
		l.at.Store(time.Now().UnixNano())
	}
	return n, err
}

// slowDisk mounts a new file system on a device that writes so many bytes a second,
// until the benchmark ends.
func slowDisk(b *testing.B, perSecond int) (dir string) {
	b.Helper()
	if os.Getuid() != 0 {
		skip(b, "only root can make a slow disk")
	}
	run := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			skip(b, fmt.Sprintf("%s %s: %v %s", name, strings.Join(args, " "), err, out))
		}
		return strings.TrimSpace(string(out))
	}
	temp := b.TempDir()
	file, dir := filepath.Join(temp, "disk"), filepath.Join(temp, "mounted")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(file, 1500<<20); err != nil {
		b.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	run("mkfs.ext4", "-q", "-F", file)
	device := run("losetup", "-f", "--show", file)
	b.Cleanup(func() { exec.Command("losetup", "-d", device).Run() })
	var s syscall.Stat_t
	if err := syscall.Stat(device, &s); err != nil {
		b.Fatal(err)
	}
	number := fmt.Sprintf("%d:%d", unix.Major(s.Rdev), unix.Minor(s.Rdev))
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		skip(b, err.Error())
	}
	b.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			b.Error(err)
		}
	})
	limit, undo := "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device", number+" 0"
	line := number + " " + strconv.Itoa(perSecond)
	if _, err := os.Stat(limit); err != nil { // version 2, which slows nobody in its root
		group := "/sys/fs/cgroup/berth-bench"
		if err := os.Mkdir(group, 0o755); err != nil {
			skip(b, err.Error())
		}
		b.Cleanup(func() {
			os.WriteFile("/sys/fs/cgroup/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0)
			os.Remove(group)
		})
		os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+io +memory"), 0) // or they are there, or the next fails
		if err := os.WriteFile(group+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			skip(b, err.Error())
		}
		limit, undo, line = group+"/io.max", number+" wbps=max", number+" wbps="+strconv.Itoa(perSecond)
	}
	if err := os.WriteFile(limit, []byte(line), 0); err != nil {
		skip(b, err.Error())
	}
	b.Cleanup(func() { os.WriteFile(limit, []byte(undo), 0) })
	return dir
}
