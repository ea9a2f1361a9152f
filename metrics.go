// Metrics, in the text format of Prometheus (version 0.0.4).
//
// There are requests and how long they took, counted where a request ends; and values
// that others keep, asked for when somebody wants to know. Nothing that a client chooses is a
// label, so the number of series is bounded. A library would be the usual
// way, but the one that is small enough prints a line wherever the kernel does not tell of
// pressure, as on a Raspberry Pi, before the program can say a word (findings/).

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// meters are the metrics of a server.
type meters struct {
	routes sync.Map // route → *routeMeter
	values []metered

	received, sent atomic.Int64 // bytes of blobs, and of bodies
}

// A routeMeter is for the requests of a route. There are few methods and statuses: nothing of a
// stranger's is a label.
type routeMeter struct {
	times  spread
	mu     sync.Mutex // held while counts grows
	counts atomic.Pointer[[]*meter]
}

// A meter is for the requests that have the same labels.
type meter struct {
	method string
	status int
	n      atomic.Int64
}

// A metric is what is said of one before its values.
type metric struct {
	name, kind string // counter, gauge or histogram
	help       string // a sentence, without a backslash or a new line
}

// A metered value is a number that somebody keeps.
type metered struct {
	metric
	value func() int64
}

var (
	requestsMetric = metric{"berth_http_requests_total", "counter", "Requests that have been answered."}
	timesMetric    = metric{"berth_http_request_duration_seconds", "histogram", "How long requests took, with their bodies."}
)

// spreadBounds are the upper bounds of a spread, in seconds: Prometheus' own.
var spreadBounds = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// A spread is a histogram of seconds.
type spread struct {
	counts [len(spreadBounds) + 1]atomic.Int64 // by the first bound that is not below; the last has none
	sum    atomic.Int64                        // nanoseconds
}

// of returns the meter of a route.
func (m *meters) of(route string) *routeMeter {
	v, ok := m.routes.Load(route)
	if !ok {
		v, _ = m.routes.LoadOrStore(route, new(routeMeter))
	}
	return v.(*routeMeter)
}

// count counts a request.
func (m *routeMeter) count(method string, status int, took time.Duration) {
	m.meter(method, status).n.Add(1)
	i, _ := slices.BinarySearch(spreadBounds[:], took.Seconds())
	m.times.counts[i].Add(1)
	m.times.sum.Add(int64(took))
}

func (m *routeMeter) meter(method string, status int) *meter {
	if x := m.find(method, status); x != nil {
		return x
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.find(method, status)
	if x == nil {
		x = &meter{method: method, status: status}
		grown := append(slices.Clone(m.all()), x)
		m.counts.Store(&grown)
	}
	return x
}

// find returns the meter for a method and a status, nil if there was none yet.
func (m *routeMeter) find(method string, status int) *meter {
	for _, x := range m.all() {
		if x.status == status && x.method == method {
			return x
		}
	}
	return nil
}

func (m *routeMeter) all() []*meter {
	if counts := m.counts.Load(); counts != nil {
		return *counts
	}
	return nil
}

// write writes all of it but what the process is.
func (m *meters) write(b *bytes.Buffer) {
	var routes []string
	m.routes.Range(func(key, x any) bool {
		if x.(*routeMeter).counts.Load() != nil { // else nobody has asked yet
			routes = append(routes, key.(string))
		}
		return true
	})
	slices.Sort(routes)
	requestsMetric.begin(b)
	for _, route := range routes {
		all := slices.Clone(m.of(route).all())
		slices.SortFunc(all, func(a, b *meter) int {
			return cmp.Or(cmp.Compare(a.method, b.method), cmp.Compare(a.status, b.status))
		})
		for _, x := range all {
			fmt.Fprintf(b, requestsMetric.name+"{method=%q,route=%q,status=\"%d\"} %d\n", x.method, route, x.status, x.n.Load())
		}
	}
	name := timesMetric.name
	timesMetric.begin(b)
	for _, route := range routes {
		s, n := &m.of(route).times, int64(0)
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
		v.write(b, float64(v.value()))
	}
}

// begin writes what stands before the values.
func (m metric) begin(b *bytes.Buffer) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
}

// write writes a metric without labels.
func (m metric) write(b *bytes.Buffer, value float64) {
	m.begin(b)
	fmt.Fprintf(b, "%s %s\n", m.name, strconv.FormatFloat(value, 'f', -1, 64))
}

// runtimeMetrics are those of Go's runtime that tell how the process is, under the
// names that they have elsewhere.
var runtimeMetrics = []struct {
	source string
	metric
}{
	{"/sched/goroutines:goroutines", metric{"go_goroutines", "gauge", "Goroutines that exist."}},
	{"/gc/cycles/total:gc-cycles", metric{"go_gc_cycles_total", "counter", "Collections of Go's memory since the start."}},
	{"/gc/heap/goal:bytes", metric{"go_memstats_next_gc_bytes", "gauge", "Size of the heap at which Go collects next."}},
	{"/memory/classes/heap/objects:bytes", metric{"go_memstats_heap_alloc_bytes", "gauge", "Memory that objects take."}},
	{"/memory/classes/heap/released:bytes", metric{"go_memstats_heap_released_bytes", "gauge", "Memory that was given back to the system."}},
	{"/memory/classes/total:bytes", metric{"go_memstats_sys_bytes", "gauge", "Memory that Go has from the system, with what it gave back."}},
}

// writeProcess writes what the process is, and takes of the machine.
func writeProcess(b *bytes.Buffer) {
	build := readBuild()
	m := metric{"berth_build_info", "gauge", "The version of Berth that runs; the value is always 1."}
	m.begin(b)
	fmt.Fprintf(b, "%s{version=%q,commit=%q,goversion=%q} 1\n", m.name, build.Version, build.Commit, runtime.Version())
	samples := make([]metrics.Sample, len(runtimeMetrics))
	for i, x := range runtimeMetrics {
		samples[i].Name = x.source
	}
	metrics.Read(samples)
	for i, x := range runtimeMetrics {
		if v := samples[i].Value; v.Kind() == metrics.KindUint64 {
			x.write(b, float64(v.Uint64()))
		}
	}
	metric{"process_start_time_seconds", "gauge", "When the process started, in Unix time."}.write(b, float64(processStarted.Unix()))
	for _, x := range processFigures() {
		x.write(b, x.value)
	}
}

// A processFigure is what the system says of this process.
type processFigure struct {
	metric
	value float64
}

// registerMetrics makes the metrics that are not made on the way.
func (s *server) registerMetrics() {
	meter := func(kind, name, help string, value func() int64) {
		s.meters.values = append(s.meters.values, metered{metric{name, kind, help}, value})
	}
	meter("counter", "berth_received_bytes_total", "Bytes of blobs that clients have sent.", s.meters.received.Load)
	meter("counter", "berth_sent_bytes_total", "Bytes of the bodies of all answers.", s.meters.sent.Load)
	meter("gauge", "berth_http_requests_in_flight", "Requests under way.", s.inFlight.Load)
	meter("gauge", "berth_http_requests_waiting", "Requests that wait because they are over a limit.", s.waiting.count)
	meter("counter", "berth_login_failures_total", "Requests with a wrong user or password.", s.gate.failures.Load)
	meter("counter", "berth_passwords_hashed_total", "Passwords that have been hashed to compare them.", s.gate.logins.hashed.Load)
	meter("gauge", "berth_users", "Users who may log in with a password.", func() int64 { users, _ := s.gate.accounts(); return int64(users) })
	meter("gauge", "berth_tokens", "Tokens for machines, also those that have expired.", func() int64 { _, tokens := s.gate.accounts(); return int64(tokens) })
	meter("gauge", "berth_uploads_open", "Uploads that have begun and are not finished.", s.st.uploads.count.Load)
	meter("counter", "berth_dropped_tags_total", "Tags that rules have removed.", s.st.retainer.droppedTags.Load)
	meter("counter", "berth_collected_blobs_total", "Blobs that have been removed as garbage.", s.st.collector.collectedBlobs.Load)
	meter("counter", "berth_collected_bytes_total", "Bytes of the blobs that have been removed as garbage.", s.st.collector.collectedBytes.Load)
	meter("counter", "berth_file_syncs_total", "Files and directories that have been synced to the disk.", s.st.fileSyncs.Load)
	meter("gauge", "berth_lookup_cache_bytes", "Memory of the answers that are kept, about.", s.st.lookups.bytes)
	meter("counter", "berth_lookup_cache_misses_total", "Lookups of manifests and blobs that had to ask the database.", s.st.lookups.missed.Load)
	ofWriter := func(value func(*committer) int64) func() int64 {
		return func() int64 {
			if s.st.writer == nil {
				return 0
			}
			return value(s.st.writer)
		}
	}
	meter("gauge", "berth_database_damaged", "1 if the database was found damaged since the start, so that it must be restored, else 0.", func() int64 {
		if s.st.ruin.known() != nil {
			return 1
		}
		return 0
	})
	meter("gauge", "berth_database_writable", "0 if the disk was read-only at the start, so that pushes and deletes fail, else 1.", ofWriter(func(*committer) int64 { return 1 }))
	meter("counter", "berth_database_commits_total", "Commits that waited for the disk.", ofWriter(func(c *committer) int64 { return c.syncs.Load() }))
	meter("counter", "berth_database_write_failures_total", "Transactions that the disk, or its being full, has made fail.", ofWriter(func(c *committer) int64 { return c.failures.Load() }))
}

// getMetrics answers in the Prometheus text format.
func (s *server) getMetrics(w http.ResponseWriter, r *http.Request) error {
	return s.sendBuilt(w, r, s.planning, "text/plain; version=0.0.4; charset=utf-8", func() ([]byte, error) { return s.allMetrics(r.Context()), nil })
}

func (s *server) allMetrics(ctx context.Context) []byte {
	var b bytes.Buffer
	s.meters.write(&b)
	writeEndpoints(&b, s.sender.figures())
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
		help  string
	}{
		{"berth_repositories", f.Repositories, "Repositories that clients see."},
		{"berth_repositories_deleted", f.DeletedRepositories, "Deleted repositories that can be brought back."},
		{"berth_tags", f.Tags, "Tags."},
		{"berth_manifests", f.Manifests.Count, "Manifests, with deleted ones that can still be restored."},
		{"berth_manifest_bytes", f.Manifests.Bytes, "Bytes of those manifests."},
		{"berth_manifests_untagged", f.Untagged, "Manifests without a tag, an index or a subject."},
		{"berth_blobs", f.Blobs.Count, "Blobs, each counted once."},
		{"berth_blob_bytes", f.Blobs.Bytes, "Bytes of the blobs."},
		{"berth_blob_bytes_shared", f.Shared.Bytes, "Bytes of blobs that several repositories have."},
		{"berth_blob_bytes_reclaimable", f.Reclaimable.Bytes, "Bytes of blobs that are being removed."},
		{"berth_blob_bytes_in_grace", f.InGrace.Bytes, "Bytes of blobs that will be removed when their grace period is over."},
		{"berth_upload_bytes", f.Uploads.Bytes, "Bytes of the open uploads."},
		{"berth_quarantined", f.Quarantined.Count, "Blobs and manifests that are damaged and were put aside."},
		{"berth_database_bytes", f.Database, "Size of the database and its log."},
		{"berth_disk_free_bytes", int64(f.DiskFree), "Free space on the disk of the blobs."},
		{"berth_disk_floor_bytes", int64(f.DiskFloor), "Free space that pushes leave there, by --min-free."},
		{"berth_database_disk_free_bytes", int64(database.Free), "Free space on the disk of the database."},
		{"berth_database_disk_floor_bytes", int64(database.Floor), "Free space that pushes leave there, by --min-free."},
		{"berth_uptime_seconds", f.Uptime, "How long this registry has been served, over all starts."},
		{"berth_scrubbed_uptime_seconds", f.Scrubbed, "What berth_uptime_seconds was when everything had been read and verified; 0 for never."},
	} {
		if err == nil {
			metric{x.name, "gauge", x.help}.write(&b, float64(x.value))
		}
	}
	writeTasks(&b, s.st)
	writeConnections(&b, s.connections.Load(), s.certificates)
	writeProcess(&b)
	return b.Bytes()
}

// writeTasks writes how the work has gone that the registry does by itself, and backups.
func writeTasks(b *bytes.Buffer, st *store) {
	tasks := []struct {
		name string
		*outcome
	}{
		{"backup", &st.backups}, {"collection", &st.collector.outcome}, {"scrub", &st.scrubber.outcome}, {"snapshot", &st.snapshots.outcome},
	}
	failures := metric{"berth_task_failures_total", "counter", "How often a task has failed since the start."}
	failures.begin(b)
	for _, x := range tasks {
		fmt.Fprintf(b, "%s{task=%q} %d\n", failures.name, x.name, x.failed.Load())
	}
	last := metric{"berth_task_last_success_timestamp_seconds", "gauge", "When a task last succeeded, in Unix time; that of backups is known over restarts, others since the start."}
	last.begin(b)
	for _, x := range tasks {
		if at := x.succeeded.Load(); at != 0 {
			fmt.Fprintf(b, "%s{task=%q} %d\n", last.name, x.name, at)
		}
	}
}

// writeConnections writes what is known of connections, nil before the server listens, and of the certificate.
func writeConnections(b *bytes.Buffer, c *connections, certs *certificates) {
	if c != nil {
		c.mu.Lock()
		count := c.count
		c.mu.Unlock()
		metric{"berth_connections", "gauge", "Open connections, of which one over HTTP/2 counts as several."}.write(b, float64(count))
		metric{"berth_connections_limit", "gauge", "How many connections there may be."}.write(b, float64(c.most))
	}
	if until := certs.expiry(); !until.IsZero() {
		metric{"berth_tls_certificate_expiry_timestamp_seconds", "gauge", "When the certificate that clients get is no longer valid, in Unix time; the earliest of several."}.write(b, float64(until.Unix()))
	}
}

// An outcome is how a task has gone, of those that the registry does again and again.
type outcome struct {
	succeeded atomic.Int64          // when it last did, in Unix time; 0 if that is not known
	failed    atomic.Int64          // how often it has not, since the start
	why       atomic.Pointer[error] // of the last time; nil if it succeeded then, or was never run
}

func (o *outcome) note(err error) {
	if err != nil {
		o.failed.Add(1)
		o.why.Store(&err)
	} else {
		o.succeeded.Store(time.Now().Unix())
		o.why.Store(nil)
	}
}

// writeEndpoints writes the figures of the endpoints of events.
func writeEndpoints(b *bytes.Buffer, figures []endpointFigure) {
	if len(figures) == 0 {
		return
	}
	for _, x := range []struct {
		metric
		value func(endpointFigure) int64
	}{
		{metric{"berth_events_queued", "gauge", "Events that wait to be sent."}, func(f endpointFigure) int64 { return int64(f.queued) }},
		{metric{"berth_events_sent_total", "counter", "Events that an endpoint has taken."}, func(f endpointFigure) int64 { return f.sent }},
		{metric{"berth_events_failed_total", "counter", "Attempts to send an event that have failed."}, func(f endpointFigure) int64 { return f.failed }},
		{metric{"berth_events_dropped_total", "counter", "Events that have been given up."}, func(f endpointFigure) int64 { return f.dropped }},
	} {
		x.begin(b)
		for _, f := range figures {
			fmt.Fprintf(b, "%s{endpoint=%q} %d\n", x.name, f.name, x.value(f))
		}
	}
}
