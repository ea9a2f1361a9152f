// How fast, and how large: each number beside its limit.
//
// A rate by itself says more about the machine than about Berth. So each
// benchmark measures what the same bytes cost without a registry, in turns
// with the registry and so under the same load, and reports the ratio: x-bare
// 0.9 is nine tenths of the limit's speed. The table "Parts by themselves" of
// docs/numbers.md is
//
//	go test -run '^$' -bench . -timeout 1h
//
// on a machine that does nothing else. Client and server share one process and
// its cores, and so do the client and the limit: both carry the same client,
// and what is said of a ratio holds, while a rate would be higher with the
// client elsewhere. The temporary directory ($TMPDIR) must be on the disk that
// is meant: on a tmpfs a sync costs nothing, and the numbers mean nothing.
//
// The limits use none of Berth's code but the system calls of os_*.go.

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	benchLarge  = 256 << 20
	benchBuffer = 256 << 10 // of both sides' reads
)

// BenchmarkPushLarge pushes 256 MiB as one PUT, as docker's one stream of
// unknown length, and in chunks of 5 MiB. The limit is a handler that reads
// the same request, and hashes, writes and syncs, one after the other.
// Pipelined is that handler with the hash on a goroutine and early write-back;
// hash is the hash alone.
func BenchmarkPushLarge(b *testing.B) {
	content := randomBytes(benchLarge)
	d := digest.FromBytes(content)
	whole := func() io.Reader { return bytes.NewReader(content) }
	stream := func() io.Reader { return struct{ io.Reader }{bytes.NewReader(content)} } // of unknown length

	b.Run("hash", func(b *testing.B) {
		b.SetBytes(benchLarge)
		for range b.N {
			sha256.Sum256(content)
		}
	})

	dir := b.TempDir()
	bare := httptest.NewServer(receiveBare(filepath.Join(dir, "bare"), copySyncing))
	b.Cleanup(bare.Close)
	pipelined := httptest.NewServer(receiveBare(filepath.Join(dir, "pipelined"), copyPipelined))
	b.Cleanup(pipelined.Close)
	r := benchRegistry(b)
	c := newBenchClient(1)
	remove := func(int) error {
		if err := c.send("DELETE", r.http.URL+"/v2/bench/blobs/"+d.String(), nil, nil, 202, 404); err != nil {
			return err
		}
		_, err := r.st.collector.collectDue(context.Background())
		return err
	}
	open := func() (string, error) {
		location, err := c.location("POST", r.http.URL+"/v2/bench/blobs/uploads/", nil, 202)
		return r.http.URL + location, err
	}
	put := "?digest=" + d.String()

	for _, x := range []struct {
		name string
		body func() io.Reader // of the limit's request
		push func() error
	}{
		{"pipelined", whole, func() error {
			return c.send("PUT", pipelined.URL, nil, whole(), 201)
		}},
		{"put", whole, func() error {
			session, err := open()
			if err != nil {
				return err
			}
			return c.send("PUT", session+put, nil, whole(), 201)
		}},
		{"stream", stream, func() error {
			session, err := open()
			if err != nil {
				return err
			}
			if err := c.send("PATCH", session, nil, stream(), 202); err != nil {
				return err
			}
			return c.send("PUT", session+put, nil, nil, 201)
		}},
		{"chunks", whole, func() error {
			session, err := open()
			if err != nil {
				return err
			}
			const chunk = 5 << 20
			for at := 0; at < len(content); at += chunk {
				end := min(at+chunk, len(content))
				header := http.Header{"Content-Range": {fmt.Sprintf("%d-%d", at, end-1)}}
				if err := c.send("PATCH", session, header, bytes.NewReader(content[at:end]), 202); err != nil {
					return err
				}
			}
			return c.send("PUT", session+put, nil, nil, 201)
		}},
	} {
		b.Run(x.name, func(b *testing.B) {
			b.SetBytes(benchLarge)
			against(b, "bare", 1, remove,
				func(int) error { return c.send("PUT", bare.URL, nil, x.body(), 201) },
				func(int) error { return x.push() })
		})
	}
}

// BenchmarkPullLarge pulls a blob of 256 MiB over each of some connections;
// the limit is http.ServeFile of the same file.
func BenchmarkPullLarge(b *testing.B) {
	r := benchRegistry(b)
	content := randomBytes(benchLarge)
	d := digest.FromBytes(content)
	c := newBenchClient(8)
	if err := c.send("POST", r.http.URL+"/v2/bench/blobs/uploads/?digest="+d.String(), nil, bytes.NewReader(content), 201); err != nil {
		b.Fatal(err)
	}
	limit := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.ServeFile(w, req, r.st.path(d))
	}))
	b.Cleanup(limit.Close)
	for _, connections := range []int{1, 8} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			b.SetBytes(int64(connections) * benchLarge)
			get := func(url string) func(int) error {
				return func(int) error {
					return share(connections, connections, func(int) error { return c.send("GET", url, nil, nil, 200) })
				}
			}
			against(b, "servefile", 1, nil, get(limit.URL), get(r.http.URL+"/v2/bench/blobs/"+d.String()))
		})
	}
}

// BenchmarkPushSmall pushes blobs of 4 KiB, each in a POST or in POST and PUT,
// from some writers at once. The limit is as many writers that write a file,
// sync it, rename it, and sync the directory, without any HTTP, hash or
// database.
func BenchmarkPushSmall(b *testing.B) {
	for _, way := range []string{"post", "post+put"} {
		for _, writers := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%s/writers=%d", way, writers), func(b *testing.B) {
				r := benchRegistry(b)
				c := newBenchClient(writers)
				fresh, files := freshBlobs(4<<10), newBareFiles(b)
				against(b, "bare", 20*writers, nil,
					func(n int) error { return share(writers, n, func(int) error { return files.write(fresh()) }) },
					func(n int) error {
						return share(writers, n, func(int) error {
							return c.pushBlob(r.http.URL, fresh(), way == "post")
						})
					})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "blobs/s")
			})
		}
	}
}

// BenchmarkPushImage pushes a config, three layers of 64 KiB and a manifest
// under a tag of its own: nine requests, one after the other on each
// connection. The limit is those five as bare files.
func BenchmarkPushImage(b *testing.B) {
	for _, connections := range []int{1, 32} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			r := benchRegistry(b)
			c := newBenchClient(connections)
			type push struct {
				image
				blobs [][]byte
			}
			var pushes []push
			config, layer, files := freshBlobs(1<<10), freshBlobs(64<<10), newBareFiles(b)
			prepare := func(n int) error {
				pushes = make([]push, n)
				for i := range pushes {
					blobs := [][]byte{config(), layer(), layer(), layer()}
					pushes[i] = push{ociImage(string(blobs[0]), string(blobs[1]), string(blobs[2]), string(blobs[3])), blobs}
				}
				return nil
			}
			var database, file int64
			against(b, "bare", 4*connections, prepare,
				func(n int) error {
					return share(connections, n, func(i int) error {
						for _, content := range append(pushes[i].blobs, []byte(pushes[i].manifest)) {
							if err := files.write(content); err != nil {
								return err
							}
						}
						return nil
					})
				},
				func(n int) error {
					database -= r.st.writer.syncs.Load()
					file -= r.st.fileSyncs.Load()
					err := share(connections, n, func(i int) error {
						for _, content := range pushes[i].blobs {
							if err := c.pushBlob(r.http.URL, content, false); err != nil {
								return err
							}
						}
						return c.send("PUT", r.http.URL+"/v2/bench/manifests/"+pushes[i].digest.Encoded(),
							http.Header{"Content-Type": {typeOCIManifest}}, strings.NewReader(pushes[i].manifest), 201)
					})
					database += r.st.writer.syncs.Load()
					file += r.st.fileSyncs.Load()
					return err
				})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
			b.ReportMetric(float64(database)/float64(b.N), "database-syncs/op")
			b.ReportMetric(float64(file)/float64(b.N), "file-syncs/op")
		})
	}
}

// BenchmarkManifest asks for one image's manifest, and for any of ten
// thousand, over 32 connections. The limit is a handler that has the answer at
// hand, headers and all. The client is bare here, since net/http's would cost
// more than either server.
func BenchmarkManifest(b *testing.B) {
	const connections, many = 32, 10000
	r := benchRegistry(b)
	c := newBenchClient(connections)
	config, layer := freshBlobs(100)(), freshBlobs(200)()
	for _, content := range [][]byte{config, layer} {
		if err := c.pushBlob(r.http.URL, content, true); err != nil {
			b.Fatal(err)
		}
	}
	digests := make([]digest.Digest, many)
	var body string
	err := share(connections, many, func(i int) error {
		im := newImage(typeOCIManifest, "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip",
			fmt.Sprintf(`,"annotations":{"org.opencontainers.image.version":"%05d"}`, i), string(config), string(layer))
		digests[i] = im.digest
		if i == 0 {
			body = im.manifest
		}
		return c.send("PUT", fmt.Sprintf("%s/v2/bench/manifests/v%05d", r.http.URL, i),
			http.Header{"Content-Type": {typeOCIManifest}}, strings.NewReader(im.manifest), 201)
	})
	if err != nil {
		b.Fatal(err)
	}
	trivial := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h := w.Header()
		h.Set("Accept-Ranges", "bytes")
		h.Set("Cache-Control", "max-age=31536000, immutable")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("Content-Type", typeOCIManifest)
		h.Set("Docker-Content-Digest", digests[0].String())
		h.Set("Docker-Distribution-Api-Version", "registry/2.0")
		h.Set("Etag", `"`+digests[0].String()+`"`)
		h.Set("X-Request-Id", "01234567-89ab")
		io.WriteString(w, body)
	}))
	b.Cleanup(trivial.Close)

	for _, among := range []int{1, many} {
		for _, method := range []string{"GET", "HEAD"} {
			for _, by := range []string{"tag", "digest"} {
				b.Run(fmt.Sprintf("%s/by=%s/among=%d", method, by, among), func(b *testing.B) {
					ask := func(server *httptest.Server) func(n int) error {
						conns := bareConns(b, server, connections)
						return func(n int) error {
							return share(connections, n, func(int) error {
								conn := <-conns
								defer func() { conns <- conn }()
								i := rand.IntN(among)
								reference := digests[i].String()
								if by == "tag" {
									reference = fmt.Sprintf("v%05d", i)
								}
								return conn.ask(method, "/v2/bench/manifests/"+reference, "")
							})
						}
					}
					against(b, "trivial", 5000, nil, ask(trivial), ask(r.http))
					b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
				})
			}
		}
	}
}

// BenchmarkStart starts the program on an empty directory, and on one with a
// hundred thousand blobs, until it answers; and tells its memory then.
func BenchmarkStart(b *testing.B) {
	program := buildProgram(b)
	for _, blobs := range []int{0, 100000} {
		b.Run(fmt.Sprintf("blobs=%d", blobs), func(b *testing.B) {
			dir := b.TempDir()
			startProgram(b, program, dir).stop() // makes the database and the directories
			if err := insertBlobs(dir, blobs); err != nil {
				b.Fatal(err)
			}
			var resident float64
			b.ResetTimer()
			for range b.N {
				p := startProgram(b, program, dir)
				b.StopTimer()
				resident = max(resident, p.memory("VmRSS"))
				p.stop()
				b.StartTimer()
			}
			b.ReportMetric(resident, "resident-MiB")
		})
	}
}

// BenchmarkMemory pushes blobs to the program and tells the most memory that
// it had.
func BenchmarkMemory(b *testing.B) {
	program := buildProgram(b)
	for _, x := range []struct {
		blobs int
		size  int64
	}{{1, 256 << 20}, {1, 1 << 30}, {32, 64 << 20}} {
		b.Run(fmt.Sprintf("blobs=%d/size=%dMiB", x.blobs, x.size>>20), func(b *testing.B) {
			var peak float64
			for range b.N {
				b.StopTimer()
				p := startProgram(b, program, b.TempDir())
				c := newBenchClient(x.blobs)
				b.StartTimer()
				err := share(x.blobs, x.blobs, func(i int) error {
					location, err := c.location("POST", p.url+"/v2/bench/blobs/uploads/", nil, 202)
					if err != nil {
						return err
					}
					var seed [32]byte
					binary.LittleEndian.PutUint64(seed[:], uint64(i))
					h := sha256.New()
					body := io.TeeReader(io.LimitReader(rand.NewChaCha8(seed), x.size), h)
					if err := c.send("PATCH", p.url+location, nil, body, 202); err != nil {
						return err
					}
					return c.send("PUT", p.url+location+"?digest="+digest.NewDigest(digest.SHA256, h).String(), nil, nil, 201)
				})
				b.StopTimer()
				if err != nil {
					b.Fatal(err)
				}
				peak = max(peak, p.memory("VmHWM"))
				p.stop()
				b.StartTimer()
			}
			b.ReportMetric(peak, "peak-MiB")
		})
	}
}

// against runs product b.N times, at most batch in one call, and limit as
// often, in turns. The benchmark's time is product's; the metric x-<name> is
// the ratio of the speeds. prepare, if there is one, is called before each
// turn of either with the size of the batch, and is not timed.
func against(b *testing.B, name string, batch int, prepare, limit, product func(n int) error) {
	b.Helper()
	b.ResetTimer()
	b.StopTimer()
	var took time.Duration // by limit
	for left := b.N; left > 0; left -= batch {
		n := min(left, batch)
		for _, isProduct := range []bool{false, true} {
			if prepare != nil {
				if err := prepare(n); err != nil {
					b.Fatal(err)
				}
			}
			var err error
			if isProduct {
				b.StartTimer()
				err = product(n)
				b.StopTimer()
			} else {
				start := time.Now()
				err = limit(n)
				took += time.Since(start)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(took.Seconds()/b.Elapsed().Seconds(), "x-"+name)
}

// share calls do with 0 to n-1, from some workers, and returns the first error.
func share(workers, n int, do func(i int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// benchRegistry is a registry as it is in production, with the log going nowhere.
func benchRegistry(b *testing.B) *registry {
	b.Helper()
	r := startRegistry(b, logToNowhere)
	ctx, stop := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	loops.Go(func() { r.st.small.run(ctx) })
	b.Cleanup(loops.Wait)
	b.Cleanup(stop)
	return r
}

// logToNowhere formats every log line, as in production, and drops it; and users
// and rules are looked for as they are there.
func logToNowhere(cfg *config) {
	cfg.log = newLog(io.Discard, false, slog.LevelInfo)
	cfg.storeConfig.log, cfg.serverConfig.log = cfg.log, cfg.log
	cfg.auth.glance = defaultGlance
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(p)
	return p
}

// freshBlobs returns a function that makes different blobs of a size.
func freshBlobs(size int) func() []byte {
	content := randomBytes(size)
	var count atomic.Uint64
	return func() []byte {
		p := bytes.Clone(content)
		binary.LittleEndian.PutUint64(p, count.Add(1))
		return p
	}
}

// A benchClient is net/http's, with room for its connections.
type benchClient struct{ transport *http.Transport }

func newBenchClient(connections int) *benchClient {
	return &benchClient{&http.Transport{MaxIdleConnsPerHost: max(64, connections), DisableCompression: true,
		WriteBufferSize: benchBuffer, ReadBufferSize: 64 << 10}}
}

// send sends a request, reads all of the reply, and insists on one of the
// statuses.
func (c *benchClient) send(method, url string, header http.Header, body io.Reader, want ...int) error {
	_, err := c.do(method, url, header, body, want...)
	return err
}

// location is send, and returns the Location.
func (c *benchClient) location(method, url string, body io.Reader, want int) (string, error) {
	header, err := c.do(method, url, nil, body, want)
	return header.Get("Location"), err
}

func (c *benchClient) do(method, url string, header http.Header, body io.Reader, want ...int) (http.Header, error) {
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if !slices.Contains(want, resp.StatusCode) {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return nil, fmt.Errorf("%s %s = %d, want %d\n%s", method, url, resp.StatusCode, want, text)
	}
	buffer := benchBuffers.Get().(*[]byte)
	defer benchBuffers.Put(buffer)
	// Only Write: io.Discard would read with a small buffer of its own.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, *buffer)
	if err == nil && resp.ContentLength > 0 && n != resp.ContentLength && method != "HEAD" {
		err = io.ErrUnexpectedEOF
	}
	return resp.Header, err
}

// pushBlob pushes content in one POST, or in POST and PUT.
func (c *benchClient) pushBlob(server string, content []byte, single bool) error {
	uploads, query := server+"/v2/bench/blobs/uploads/", "?digest="+digest.FromBytes(content).String()
	if single {
		return c.send("POST", uploads+query, nil, bytes.NewReader(content), 201)
	}
	location, err := c.location("POST", uploads, nil, 202)
	if err != nil {
		return err
	}
	return c.send("PUT", server+location+query, nil, bytes.NewReader(content), 201)
}

var benchBuffers = sync.Pool{New: func() any { p := make([]byte, benchBuffer); return &p }}

// A bareConn asks for things over one connection at little cost.
type bareConn struct {
	net.Conn
	r *bufio.Reader
}

func dialBare(addr string) (*bareConn, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &bareConn{conn, bufio.NewReader(conn)}, nil
}

// bareConns are so many of them.
func bareConns(b *testing.B, server *httptest.Server, n int) chan *bareConn {
	b.Helper()
	conns := make(chan *bareConn, n)
	for range n {
		conn, err := dialBare(server.Listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
		conns <- conn
	}
	return conns
}

// ask reads a reply of status 200 that has a Content-Length. header is a line, or
// nothing.
func (c *bareConn) ask(method, path, header string) error {
	if _, err := io.WriteString(c, method+" "+path+" HTTP/1.1\r\nHost: bench\r\n"+header+"\r\n"); err != nil {
		return err
	}
	var length int
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("%s %s: %s", method, path, line)
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
		if len(line) == len("\r\n") {
			break
		}
	}
	if method == "HEAD" {
		return nil
	}
	if length == 0 {
		return errors.New("a reply without a length")
	}
	_, err := c.r.Discard(length)
	return err
}

// receiveBare is a handler that copies a request's body to a file and syncs it.
func receiveBare(path string, copy func(*os.File, io.Reader) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := func() error {
			f, err := os.Create(path)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := copy(f, r.Body); err != nil {
				return err
			}
			return syncData(f)
		}()
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		w.WriteHeader(201)
	})
}

// copySyncing hashes and writes in turn.
func copySyncing(f *os.File, body io.Reader) error {
	h, buffer := sha256.New(), make([]byte, benchBuffer)
	for {
		n, err := io.ReadFull(body, buffer)
		h.Write(buffer[:n])
		if _, err := f.Write(buffer[:n]); err != nil {
			return err
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// copyPipelined hashes on a goroutine of its own, and begins to write back as
// it goes.
func copyPipelined(f *os.File, body io.Reader) error {
	const buffers, writeback = 4, 8 << 20
	free, full := make(chan []byte, buffers), make(chan []byte, buffers)
	for range buffers {
		free <- make([]byte, benchBuffer)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		h := sha256.New()
		for p := range full {
			h.Write(p)
			free <- p[:benchBuffer]
		}
	})
	defer wg.Wait()
	defer close(full)
	for at := int64(0); ; {
		p := <-free
		n, err := io.ReadFull(body, p)
		full <- p[:n]
		if _, err := f.Write(p[:n]); err != nil {
			return err
		}
		at += int64(n)
		if at%writeback == 0 && n > 0 {
			startWriteback(f, at-writeback, writeback)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// bareFiles are durable files without a registry.
type bareFiles struct {
	dir   string
	count atomic.Int64
}

func newBareFiles(b *testing.B) *bareFiles { return &bareFiles{dir: b.TempDir()} }

func (x *bareFiles) write(content []byte) error {
	path := filepath.Join(x.dir, strconv.FormatInt(x.count.Add(1), 10))
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := syncData(f); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(x.dir)
}

// buildProgram returns the path of Berth, which is built once for all that run it.
func buildProgram(b testing.TB) string {
	b.Helper()
	if runtime.GOOS != "linux" {
		notHere(b, linuxProc)
	}
	path, err := builtProgram()
	if err != nil {
		b.Fatal(err)
	}
	return path
}

var (
	builtProgram = sync.OnceValues(func() (path string, err error) {
		if programDir, err = os.MkdirTemp("", "berth-test-"); err != nil {
			return "", err
		}
		path = filepath.Join(programDir, "berth")
		build := exec.Command("go", "build", "-o", path, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building berth: %w\n%s", err, out)
		}
		return path, nil
	})
	programDir string // of what was built, "" if nothing was
)

// removeProgram is for the end of all tests.
func removeProgram() {
	if programDir != "" {
		os.RemoveAll(programDir)
	}
}

// A program is Berth in a process of its own.
type program struct {
	b       testing.TB
	url     string
	command *exec.Cmd
}

// startProgram returns when the program has answered.
func startProgram(b testing.TB, path, dir string) *program {
	b.Helper()
	p := &program{b: b, command: exec.Command(path, "--addr", "127.0.0.1:0", "--data", dir)}
	out, err := p.command.StdoutPipe()
	if err == nil {
		err = p.command.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.command.Process.Kill() }) // does nothing if it has ended
	greeting, err := bufio.NewReader(out).ReadString('\n')
	_, address, ok := strings.Cut(strings.TrimSpace(greeting), "http://")
	if err != nil || !ok {
		b.Fatalf("berth says %q, %v", greeting, err)
	}
	p.url = "http://" + address
	if err := newBenchClient(1).send("GET", p.url+"/v2/", nil, nil, 200); err != nil {
		b.Fatal(err)
	}
	return p
}

func (p *program) stop() {
	p.b.Helper()
	if err := p.command.Process.Signal(os.Interrupt); err != nil {
		p.b.Fatal(err)
	}
	if err := p.command.Wait(); err != nil {
		p.b.Fatal(err)
	}
}

// memory returns a field of the process's status, in MiB.
func (p *program) memory(field string) float64 {
	p.b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		p.b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\n"+field+":")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		p.b.Fatalf("%s: %v", field, err)
	}
	return kib / 1024
}

// insertBlobs adds rows, without files, to the database in dir.
func insertBlobs(dir string, n int) error {
	db, err := sql.Open("sqlite", filepath.Join(dir, "berth.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(`
		INSERT INTO repository (name) VALUES ('bench');
		WITH RECURSIVE n (i) AS (SELECT 1 WHERE ?1 > 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
		INSERT INTO blob (digest, size) SELECT 'sha256:' || lower(hex(randomblob(32))), 1024 FROM n;
		INSERT INTO link (repository, blob, loose) SELECT r.id, b.id, 0 FROM repository r, blob b`, n)
	return err
}
