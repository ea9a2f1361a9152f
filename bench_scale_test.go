// What it costs that much is stored.
//
// The same is asked of a small registry and of a large one, in turns, and the ratio
// of the times is told: large/small 1.3 is three tenths slower in the large one.
// Lists are asked for in pages that both can fill, so that answers are as long.
// Filling the large one takes half a minute or so, and a GiB under $TMPDIR.
//
//	go test -run '^$' -bench Scale -benchtime 200x .

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

var (
	// benchSmall is as small as it may be, given pages of a hundred.
	benchSmall = scale{repositories: 210, manifests: 1000, blobs: 2500, tags: 210, referrers: 110, untagged: 20, unused: 1, whole: 2}
	benchBig   = scale{repositories: 2000, manifests: 200000, blobs: 1000000, tags: 10000, referrers: 1000, untagged: 20, unused: 100, whole: 500}
)

// A scaled registry answers from a filled directory, which nothing checks: most of
// its blobs have no files.
type scaled struct {
	*filled
	r     *registry
	conn  *bareConn
	whole []madeManifest // images that have their files
	made  atomic.Int64   // images pushed
}

func openScaled(b *testing.B, f *filled) *scaled {
	s := &scaled{filled: f}
	cfg, err := parseConfig("serve", []string{"--data", f.dir, "--grace", "1h", "--untagged-grace", "100000h"}, noEnv, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	s.r = &registry{t: b, cfg: *cfg, moved: new(atomic.Int64), log: new(logBuffer)}
	logToNowhere(&s.r.cfg)
	s.r.start()
	b.Cleanup(func() {
		s.r.http.Close()
		if err := s.r.st.close(); err != nil {
			b.Error(err)
		}
	})
	if s.conn, err = dialBare(s.r.http.Listener.Addr().String()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.conn.Close() })
	for _, m := range f.manifests {
		if m.layer != "" {
			s.whole = append(s.whole, m)
		}
	}
	// What is unused goes now, and is not in the way later.
	s.r.moved.Add(int64(2 * time.Hour))
	if _, err := s.r.st.collector.collectDue(context.Background()); err != nil {
		b.Fatal(err)
	}
	return s
}

// some returns a manifest at random that has a tag.
func (s *scaled) some() madeManifest {
	for {
		if m := s.manifests[rand.IntN(len(s.manifests))]; m.tag != "" {
			return m
		}
	}
}

// push pushes an image of a config and a layer under a tag of its own.
func (s *scaled) push(c *benchClient) error {
	n := s.made.Add(1)
	repo := "/v2/" + nameOf(0)
	config, layer := fmt.Sprintf(`{"n":%d}`, n), fmt.Sprintf("a layer of %s, %d", s.dir, n)
	for _, content := range []string{config, layer} {
		location, err := c.location("POST", s.r.http.URL+repo+"/blobs/uploads/", nil, 202)
		if err != nil {
			return err
		}
		if err := c.send("PUT", s.r.http.URL+location+"?digest="+sum(content).String(), nil, strings.NewReader(content), 201); err != nil {
			return err
		}
	}
	return c.send("PUT", s.r.http.URL+repo+fmt.Sprintf("/manifests/pushed-%d", n), http.Header{"Content-Type": {typeOCIManifest}},
		strings.NewReader(ociImage(config, layer).manifest), 201)
}

// BenchmarkScale compares. Start is of the program, until its first answer.
func BenchmarkScale(b *testing.B) {
	dir := b.TempDir()
	var both [2]*filled
	var perImage [2]float64 // bytes of the database
	for i, s := range []scale{benchSmall, benchBig} {
		both[i] = fillScale(b, filepath.Join(dir, fmt.Sprint(i)), s)
		info, err := os.Stat(filepath.Join(both[i].dir, "berth.db"))
		if err != nil {
			b.Fatal(err)
		}
		perImage[i] = float64(info.Size()) / float64(s.manifests)
	}
	b.Run("start", func(b *testing.B) {
		program := buildProgram(b)
		var resident [2]float64
		start := func(i int) func(int) error {
			return func(n int) error {
				for range n {
					p := startProgram(b, program, both[i].dir)
					resident[i] = max(resident[i], p.memory("VmRSS"))
					p.stop()
				}
				return nil
			}
		}
		compare(b, 1, nil, start(0), start(1))
		b.ReportMetric(resident[0], "small-MiB")
		b.ReportMetric(resident[1], "large-MiB")
		b.ReportMetric(perImage[0], "small-B/image")
		b.ReportMetric(perImage[1], "large-B/image")
	})

	small, large := openScaled(b, both[0]), openScaled(b, both[1])
	c := newBenchClient(1)
	ask := func(method string, path func(*scaled) string) func(*scaled) error {
		return func(s *scaled) error { return s.conn.ask(method, path(s), "") }
	}
	pushOne := func(s *scaled) error { return s.push(c) }
	forget := func(s *scaled) error { s.r.st.lookups.forget(); return nil }
	byTag := ask("GET", func(s *scaled) string { m := s.some(); return "/v2/" + m.repository + "/manifests/" + m.tag })
	byDigest := ask("GET", func(s *scaled) string {
		m := s.some()
		return "/v2/" + m.repository + "/manifests/" + m.digest.String()
	})
	figures := func(s *scaled) error { _, err := s.r.st.stats.figures(context.Background()); return err }
	blob := func(s *scaled) string {
		m := s.whole[rand.IntN(len(s.whole))]
		return "/v2/" + m.repository + "/blobs/" + m.layer.String()
	}
	for _, x := range []struct {
		name    string
		prepare func(*scaled) error // before each, not timed
		do      func(*scaled) error
	}{
		{"blob-head", nil, ask("HEAD", blob)},
		{"blob-get", nil, ask("GET", blob)},
		{"manifest-by-tag", nil, byTag},
		{"manifest-by-digest", nil, byDigest},
		{"manifest-by-tag-not-cached", forget, byTag},
		{"manifest-by-digest-not-cached", forget, byDigest},
		{"push", nil, pushOne},
		{"tags", nil, ask("GET", func(s *scaled) string {
			return fmt.Sprintf("/v2/%s/tags/list?n=100&last=v%06d", nameOf(0), rand.IntN(s.tags-100))
		})},
		{"catalog", nil, ask("GET", func(s *scaled) string {
			return "/v2/_catalog?n=100&last=" + url.QueryEscape(nameOf(20)) // more than half of the names are after it
		})},
		{"catalog-of-few", nil, func(s *scaled) error { // one in a hundred may be seen
			n := 0
			_, _, err := s.r.st.listRepositories("", 100, func(string) bool { n++; return n%100 == 0 })
			return err
		}},
		{"referrers", nil, ask("GET", func(s *scaled) string {
			return "/v2/" + nameOf(1) + "/referrers/" + s.subject.String() + "?n=100"
		})},
		{"history", nil, ask("GET", func(s *scaled) string { return "/v2/" + nameOf(0) + "/_berth/history?n=100" })},
		{"collect-nothing", nil, func(s *scaled) error { _, err := s.r.st.collector.collectDue(context.Background()); return err }},
		{"collect-10-blobs", func(s *scaled) error {
			for range 10 {
				content := fmt.Sprintf("of no use to %s, %d", s.dir, s.made.Add(1))
				if err := c.send("POST", s.r.http.URL+"/v2/"+nameOf(0)+"/blobs/uploads/?digest="+sum(content).String(), nil, strings.NewReader(content), 201); err != nil {
					return err
				}
			}
			s.r.moved.Add(int64(2 * time.Hour))
			return nil
		}, func(s *scaled) error { _, err := s.r.st.collector.collectDue(context.Background()); return err }},
		{"figures", nil, figures},
		{"figures-after-push", pushOne, figures},
		{"metrics", nil, func(s *scaled) error { return c.send("GET", s.r.http.URL+"/metrics", nil, nil, 200) }},
	} {
		b.Run(x.name, func(b *testing.B) {
			prepare := x.prepare
			turn := 0
			before := func(int) error {
				s := []*scaled{small, large}[turn%2]
				turn++
				if prepare == nil {
					return nil
				}
				return prepare(s)
			}
			batch := 20
			if prepare != nil {
				batch = 1
			}
			do := func(s *scaled) func(int) error {
				return func(n int) error {
					for range n {
						if err := x.do(s); err != nil {
							return err
						}
					}
					return nil
				}
			}
			runtime.GC()
			compare(b, batch, before, do(small), do(large))
		})
	}
}

// compare is against, and tells how many times as long large takes.
func compare(b *testing.B, batch int, prepare, small, large func(n int) error) {
	b.Helper()
	var took time.Duration // by small
	against(b, "small", batch, prepare, func(n int) error {
		begun := time.Now()
		err := small(n)
		took += time.Since(begun)
		return err
	}, large)
	b.ReportMetric(b.Elapsed().Seconds()/took.Seconds(), "large/small")
}

// BenchmarkHuge pushes one blob of so many bytes as one stream of unknown length,
// pulls it, and tells the most memory that the program had. It needs as much room
// under $TMPDIR, and is skipped unless it is told how much:
//
//	BERTH_BENCH_HUGE=50GiB go test -run '^$' -bench Huge -benchtime 1x -timeout 1h .
func BenchmarkHuge(b *testing.B) {
	text := os.Getenv("BERTH_BENCH_HUGE")
	if text == "" {
		b.Skip("BERTH_BENCH_HUGE says how large the blob shall be, as 50GiB")
	}
	size, err := parseSize(text)
	if err != nil {
		b.Fatal(err)
	}
	program := buildProgram(b)
	c := newBenchClient(1)
	b.SetBytes(2 * size)
	var peak float64
	var pushed, pulled time.Duration
	for range b.N {
		b.StopTimer()
		p := startProgram(b, program, b.TempDir())
		location, err := c.location("POST", p.url+"/v2/bench/blobs/uploads/", nil, 202)
		if err != nil {
			b.Fatal(err)
		}
		h := digest.SHA256.Hash()
		b.StartTimer()
		begun := time.Now()
		err = c.send("PATCH", p.url+location, nil, io.TeeReader(zeros(size), h), 202)
		d := digest.NewDigest(digest.SHA256, h)
		if err == nil {
			err = c.send("PUT", p.url+location+"?digest="+d.String(), nil, nil, 201)
		}
		pushed += time.Since(begun)
		begun = time.Now()
		verify := d.Verifier()
		var resp *http.Response
		if err == nil {
			resp, err = http.Get(p.url + "/v2/bench/blobs/" + d.String())
		}
		if err == nil {
			var n int64
			n, err = io.CopyBuffer(struct{ io.Writer }{verify}, resp.Body, make([]byte, benchBuffer))
			resp.Body.Close()
			if err == nil && (n != size || !verify.Verified()) {
				err = fmt.Errorf("%d bytes came back, want %d, true: %v", n, size, verify.Verified())
			}
		}
		pulled += time.Since(begun)
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		peak = max(peak, p.memory("VmHWM"))
		p.stop()
		b.StartTimer()
	}
	b.ReportMetric(peak, "peak-MiB")
	b.ReportMetric(float64(b.N)*float64(size)/1e6/pushed.Seconds(), "push-MB/s")
	b.ReportMetric(float64(b.N)*float64(size)/1e6/pulled.Seconds(), "pull-MB/s")
}
