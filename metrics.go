// Metrics, in the text format of Prometheus (version 0.0.4).
//
// There are requests and how long they took, counted where a request ends; and values
// that others keep, asked for when somebody wants to know. A library would be the usual
// way, but the one that is small enough prints a line wherever the kernel does not tell of
// pressure, as on a Raspberry Pi, before the program can say a word (findings/).

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"runtime/metrics"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// meters are the metrics of a server.
type meters struct {
	requests sync.Map // meter → *atomic.Int64, how many
	times    sync.Map // route → *spread
	values   []metered

	received, sent atomic.Int64 // bytes of blobs, and of bodies
}

// A meter is for the requests that have the same labels, of which there are few:
// nothing of a stranger's is one.
type meter struct {
	method, route string
	status        int
}

// A metered value is a number that somebody keeps.
type metered struct {
	name, kind string // counter or gauge
	value      func() int64
}

// spreadBounds are the upper bounds of a spread, in seconds: Prometheus' own.
var spreadBounds = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// A spread is a histogram of seconds.
type spread struct {
	counts [len(spreadBounds) + 1]atomic.Int64 // by the first bound that is not below; the last has none
	sum    atomic.Int64                        // nanoseconds
}

// count counts a request.
func (m *meters) count(method, route string, status int, took time.Duration) {
	load(&m.requests, meter{method, route, status}, func() *atomic.Int64 { return new(atomic.Int64) }).Add(1)
	s := load(&m.times, route, func() *spread { return new(spread) })
	i, _ := slices.BinarySearch(spreadBounds[:], took.Seconds())
	s.counts[i].Add(1)
	s.sum.Add(int64(took))
}

// load returns what a map has for a key, which fresh makes.
func load[K comparable, V any](m *sync.Map, key K, fresh func() *V) *V {
	v, ok := m.Load(key)
	if !ok {
		v, _ = m.LoadOrStore(key, fresh())
	}
	return v.(*V)
}

// write writes all of it but what the process is.
func (m *meters) write(b *bytes.Buffer) {
	var keys []meter
	m.requests.Range(func(key, _ any) bool { keys = append(keys, key.(meter)); return true })
	slices.SortFunc(keys, func(a, b meter) int {
		return cmp.Or(cmp.Compare(a.route, b.route), cmp.Compare(a.method, b.method), cmp.Compare(a.status, b.status))
	})
	b.WriteString("# TYPE berth_http_requests_total counter\n")
	for _, k := range keys {
		n, _ := m.requests.Load(k)
		fmt.Fprintf(b, "berth_http_requests_total{method=%q,route=%q,status=\"%d\"} %d\n", k.method, k.route, k.status, n.(*atomic.Int64).Load())
	}
	var routes []string
	m.times.Range(func(key, _ any) bool { routes = append(routes, key.(string)); return true })
	slices.Sort(routes)
	const name = "berth_http_request_duration_seconds"
	b.WriteString("# TYPE " + name + " histogram\n")
	for _, route := range routes {
		x, _ := m.times.Load(route)
		s, n := x.(*spread), int64(0)
		for i, bound := range spreadBounds {
			n += s.counts[i].Load()
			fmt.Fprintf(b, "%s_bucket{route=%q,le=\"%s\"} %d\n", name, route, strconv.FormatFloat(bound, 'g', -1, 64), n)
		}
		n += s.counts[len(spreadBounds)].Load()
		fmt.Fprintf(b, "%s_bucket{route=%q,le=\"+Inf\"} %d\n", name, route, n)
		fmt.Fprintf(b, "%s_sum{route=%q} %s\n", name, route, strconv.FormatFloat(time.Duration(s.sum.Load()).Seconds(), 'g', -1, 64))
		fmt.Fprintf(b, "%s_count{route=%q} %d\n", name, route, n)
	}
	for _, v := range m.values {
		writeMetric(b, v.name, v.kind, float64(v.value()))
	}
}

func writeMetric(b *bytes.Buffer, name, kind string, value float64) {
	fmt.Fprintf(b, "# TYPE %s %s\n%s %s\n", name, kind, name, strconv.FormatFloat(value, 'f', -1, 64))
}

// runtimeMetrics are those of Go's runtime that tell how the process is, under the
// names that they have elsewhere.
var runtimeMetrics = []struct{ source, name, kind string }{
	{"/sched/goroutines:goroutines", "go_goroutines", "gauge"},
	{"/gc/cycles/total:gc-cycles", "go_gc_cycles_total", "counter"},
	{"/gc/heap/goal:bytes", "go_memstats_next_gc_bytes", "gauge"},
	{"/memory/classes/heap/objects:bytes", "go_memstats_heap_alloc_bytes", "gauge"},
	{"/memory/classes/heap/released:bytes", "go_memstats_heap_released_bytes", "gauge"},
	{"/memory/classes/total:bytes", "go_memstats_sys_bytes", "gauge"},
}

// writeProcess writes what the process is, and takes of the machine.
func writeProcess(b *bytes.Buffer) {
	samples := make([]metrics.Sample, len(runtimeMetrics))
	for i, x := range runtimeMetrics {
		samples[i].Name = x.source
	}
	metrics.Read(samples)
	for i, x := range runtimeMetrics {
		if v := samples[i].Value; v.Kind() == metrics.KindUint64 {
			writeMetric(b, x.name, x.kind, float64(v.Uint64()))
		}
	}
	writeMetric(b, "process_start_time_seconds", "gauge", float64(processStarted.Unix()))
	for _, x := range processFigures() {
		writeMetric(b, x.name, x.kind, x.value)
	}
}

// A processFigure is what the system says of this process.
type processFigure struct {
	name, kind string
	value      float64
}

// registerMetrics makes the metrics that are not made on the way.
func (s *server) registerMetrics() {
	meter := func(kind, name string, value func() int64) {
		s.meters.values = append(s.meters.values, metered{name, kind, value})
	}
	meter("counter", "berth_received_bytes_total", s.meters.received.Load)
	meter("counter", "berth_sent_bytes_total", s.meters.sent.Load)
	meter("gauge", "berth_http_requests_in_flight", s.inFlight.Load)
	meter("counter", "berth_passwords_hashed_total", s.gate.logins.hashed.Load)
	meter("gauge", "berth_uploads_open", s.st.uploads.count.Load)
	meter("counter", "berth_dropped_tags_total", s.st.retainer.droppedTags.Load)
	meter("counter", "berth_collected_blobs_total", s.st.collector.collectedBlobs.Load)
	meter("counter", "berth_collected_bytes_total", s.st.collector.collectedBytes.Load)
	meter("counter", "berth_file_syncs_total", s.st.fileSyncs.Load)
	meter("counter", "berth_database_commits_total", func() int64 { // the durable ones
		if s.st.writer == nil {
			return 0
		}
		return s.st.writer.syncs.Load()
	})
}

// getMetrics answers in the Prometheus text format.
func (s *server) getMetrics(w http.ResponseWriter, r *http.Request) error {
	return s.sendBuilt(w, r, s.planning, "text/plain; version=0.0.4; charset=utf-8", func() ([]byte, error) { return s.allMetrics(r.Context()), nil })
}

func (s *server) allMetrics(ctx context.Context) []byte {
	var b bytes.Buffer
	s.meters.write(&b)
	s.sender.writeMetrics(&b)
	// Who asks every few seconds shall not have the machine work all the time.
	f, err := s.st.stats.figuresOr(ctx, 50)
	if err != nil { // the others are wanted all the more
		s.log.Error("some metrics could not be computed", "error", err)
	}
	database := f.DatabaseDisk
	if database == nil { // the same disk
		database = &diskFigures{Free: f.DiskFree, Floor: f.DiskFloor}
	}
	for _, x := range []struct {
		name  string
		value int64
	}{
		{"berth_repositories", f.Repositories},
		{"berth_tags", f.Tags},
		{"berth_manifests", f.Manifests.Count},
		{"berth_blobs", f.Blobs.Count},
		{"berth_blob_bytes", f.Blobs.Bytes},
		{"berth_blob_bytes_shared", f.Shared.Bytes},
		{"berth_blob_bytes_reclaimable", f.Reclaimable.Bytes},
		{"berth_blob_bytes_in_grace", f.InGrace.Bytes},
		{"berth_quarantined", f.Quarantined.Count},
		{"berth_database_bytes", f.Database},
		{"berth_disk_free_bytes", int64(f.DiskFree)},
		{"berth_disk_floor_bytes", int64(f.DiskFloor)},
		{"berth_database_disk_free_bytes", int64(database.Free)},
		{"berth_database_disk_floor_bytes", int64(database.Floor)},
		{"berth_uptime_seconds", f.Uptime},
		{"berth_scrubbed_uptime_seconds", f.Scrubbed},
	} {
		if err == nil {
			writeMetric(&b, x.name, "gauge", float64(x.value))
		}
	}
	writeProcess(&b)
	return b.Bytes()
}
