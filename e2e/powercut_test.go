//go:build linux

package e2e

// What a power cut may not take.
//
// The registry runs on a file system that forgets what was not synced (package lossyfs says what that
// means). Clients push and delete, each keeping a ledger of what it was told, until the power goes: at
// some sync or some change of the disk, also in the middle of a start. Some of the time syncs fail too.
// Then the registry is started on what is left, and must say all that the ledgers say: what was answered
// 201 is there, byte for byte; what was answered 202 to a delete has not come back; a session goes on
// from where the registry says, if it is still there; and `berth check --deep` finds nothing wrong.
//
// With --sync=image the same holds for manifests and all that they need, but a blob that no manifest needs
// may be gone after a cut. It is never wrong.
//
// What was asked for and never answered, or answered with a 5xx when a sync failed, may be there or not;
// the audit finds out which, and holds the registry to that from then on. So the ledgers grow over all
// cuts of one disk.
//
//	go -C e2e test -run PowerCut . -powercut.rounds 500 -powercut.seed 7
//
// A seed brings the same plans again; what the cuts hit depends on the scheduler too.

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/lossyfs"
)

var (
	powercutRounds = flag.Int("powercut.rounds", 80, "how often to cut the power")
	powercutSeed   = flag.Uint64("powercut.seed", 0, "what the power cuts depend on; 0 chooses")
)

func TestPowerCutLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	cutPower(t, false)
}

func TestPowerCutLosesNoImageWithSyncImage(t *testing.T) {
	t.Parallel()
	cutPower(t, true)
}

func cutPower(t *testing.T, images bool) {
	seed := *powercutSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	for i, v := 0, (*victim)(nil); i < *powercutRounds; i++ {
		first := i%perDisk == 0
		if first {
			v = newVictim(t, seed+uint64(i), images)
		}
		r := v.plan(first)
		problems := v.round(r)
		t.Logf("round %d: %s", i, r.story)
		if problems != nil {
			t.Fatalf("%s\nseed %d, round %d: %d things are wrong. The registry's log ends with:\n%s",
				strings.Join(problems[:min(len(problems), 20)], "\n"), seed, i, len(problems), v.log.tail(20))
		}
		if i%perDisk == perDisk-1 || i == *powercutRounds-1 {
			t.Logf("the disk has at last: %s", v.summary())
			v.close()
		}
	}
}

// perDisk is how many rounds a disk serves: an audit takes longer the more there is, and the first start
// on an empty disk can be cut too.
const perDisk = 10

// A test that finds nothing wrong on a disk that lies is worth nothing.
func TestPowerCutFindsWhatALyingDiskLoses(t *testing.T) {
	t.Parallel()
	for _, lie := range []lossyfs.Plan{
		{LieAboutFiles: true},
		{LieAboutNames: true},
		{LieAboutFiles: true, LieAboutNames: true},
	} {
		v := newVictim(t, 1, false)
		lie.CutAtSync = 100
		var problems []string
		for i := 0; problems == nil; i++ {
			if i == 5 {
				t.Fatalf("%+v: nothing is lost in %d rounds", lie, i)
			}
			problems = v.round(&round{plan: lie, loss: lossyfs.All})
		}
		v.close()
		t.Logf("%+v: %d things are wrong, among them: %s", lie, len(problems), problems[0])
	}
}

// A round goes from a stopped registry over a power cut to a stopped registry.
type round struct {
	plan   lossyfs.Plan
	early  bool // the plan holds from before the start, not from after it
	enough int  // changes after which the clients stop; 0 is never
	loss   lossyfs.Loss
	story  string
}

func (r *round) failing() bool { return r.plan.FailFiles+r.plan.FailNames > 0 }

// A victim is a registry on a disk that forgets, with clients that do not.
type victim struct {
	t       *testing.T
	images  bool // it has --sync=image
	rng     *rand.Rand
	disk    *lossyfs.Disk
	dir     string
	mount   *lossyfs.Mount // nil while the power is off
	log     output
	cmd     *exec.Cmd     // nil while stopped
	exited  chan struct{} // closed when cmd has ended
	url     string
	http    *http.Client
	failing bool // syncs may fail: a 5xx is in order
	failed  bool // they may have in this round
	ledgers []*ledger
}

func newVictim(t *testing.T, seed uint64, images bool) *victim {
	v := &victim{t: t, images: images, rng: rand.New(rand.NewPCG(seed, 1)), disk: lossyfs.New(seed), dir: tempDir(t)}
	for i := range 4 {
		v.ledgers = append(v.ledgers, &ledger{
			v: v, repo: fmt.Sprintf("client%d/app", i), rng: rand.New(rand.NewPCG(seed, uint64(2+i))),
			contents: make(map[string]string), states: make(map[string][]string), sessions: make(map[string]*session),
		})
	}
	if err := v.powerOn(); errors.Is(err, lossyfs.ErrNoFUSE) {
		t.Skip("SKIPPED, NOT TESTED: ", err)
	} else if err != nil {
		missing(t, "a FUSE file system cannot be mounted: %v", err)
	}
	t.Cleanup(v.close)
	return v
}

// close ends the registry and the mount, whatever they are doing.
func (v *victim) close() {
	v.disk.Cut()
	v.kill()
	v.unmount()
}

// plan chooses what goes wrong next.
func (v *victim) plan(first bool) *round {
	pick := func(weights ...int) int { // the index of a weight
		n := 0
		for _, w := range weights {
			n += w
		}
		n = v.rng.IntN(n)
		for i, w := range weights {
			if n -= w; n < 0 {
				return i
			}
		}
		panic("unreachable")
	}
	r := &round{early: first || pick(3, 1) == 1, loss: lossyfs.Loss(pick(1, 2, 3, 3))}
	r.plan.After = pick(1, 1) == 1
	r.plan.Writeback = []float64{0, 0.1, 0.9}[pick(2, 1, 1)]
	r.plan.FailFiles = []float64{0, 0.02, 0.2}[pick(4, 1, 1)]
	r.plan.FailNames = []float64{0, 0.02, 0.2}[pick(4, 1, 1)]
	syncs, changes := 300, 2000
	switch {
	case first: // the layout takes five hundred changes
		syncs, changes = 20, 600
	case r.early:
		syncs, changes = 12, 80
	case r.failing() && pick(1, 1) == 1: // while the registry deals with the failure
		syncs, changes = 20, 150
	case pick(4, 1) == 1: // SQLite moves its log meanwhile
		syncs, changes = 1000, 8000
	}
	switch {
	case !r.early && r.failing() && pick(1, 1) == 1:
		r.enough = 1 + v.rng.IntN(changes)
	case pick(1, 1) == 1:
		r.plan.CutAtSync = 1 + v.rng.IntN(syncs)
	default:
		r.plan.CutAtChange = 1 + v.rng.IntN(changes)
	}
	return r
}

// round carries a round out and returns what is wrong.
func (v *victim) round(r *round) (problems []string) {
	r.story = fmt.Sprintf("%+v, early %t, enough %d, losing %v", r.plan, r.early, r.enough, r.loss)
	if p := v.untilCut(r); p != nil {
		return p
	}
	v.disk.Cut()
	v.kill()
	v.unmount()
	v.disk.Restore(r.loss)
	if err := v.powerOn(); err != nil {
		v.t.Fatal(err)
	}
	off := v.disk.Arm(lossyfs.Plan{})
	if err := v.start(off); err != nil {
		return []string{err.Error()}
	}
	problems = v.audit(r.loss, false)
	if err := v.stop(); err != nil {
		problems = append(problems, err.Error())
	}
	if err := v.check(); err != nil {
		problems = append(problems, err.Error())
	}
	return problems
}

// untilCut lets the clients work until the power is off, or it is enough.
func (v *victim) untilCut(r *round) (problems []string) {
	off := v.disk.Arm(lossyfs.Plan{})
	v.failed = r.failing()
	if r.early {
		v.disk.Arm(r.plan)
	}
	switch err := v.start(off); {
	case errors.Is(err, errPowerOff):
		return nil
	case err != nil && r.early && r.failing(): // may it fail and say so
		return nil
	case err != nil:
		return []string{err.Error()}
	}
	v.failing = r.failing()
	if !r.early {
		v.disk.Arm(r.plan)
	}
	enough := func() bool {
		_, changes, _ := v.disk.Count()
		return !v.disk.On() || changes > 20000 || r.enough > 0 && changes >= r.enough
	}
	problems = v.each(func(l *ledger) []string { return l.work(enough) })
	v.failing = false
	if problems != nil || !v.disk.On() {
		return problems
	}
	// The disk is in order again, and the registry must be too.
	v.disk.Arm(lossyfs.Plan{})
	return v.audit(lossyfs.Nothing, true)
}

// each lets all clients do something at once.
func (v *victim) each(f func(*ledger) []string) []string {
	all := make([][]string, len(v.ledgers))
	var wg sync.WaitGroup
	for i, l := range v.ledgers {
		wg.Go(func() { all[i] = f(l) })
	}
	wg.Wait()
	return slices.Concat(all...)
}

func (v *victim) audit(loss lossyfs.Loss, living bool) []string {
	return v.each(func(l *ledger) []string { return l.audit(loss, living) })
}

// summary is what the ledgers have at last.
func (v *victim) summary() string {
	blobs, manifests := 0, 0
	for _, l := range v.ledgers {
		for path, state := range l.states {
			if slices.Equal(state, []string{""}) {
				continue
			}
			if strings.HasPrefix(path, "blobs/") {
				blobs++
			} else {
				manifests++
			}
		}
	}
	_, _, failed := v.disk.Count()
	return fmt.Sprintf("%d blobs, %d manifests and tags, %d failed syncs", blobs, manifests, failed)
}

func (v *victim) powerOn() (err error) {
	v.mount, err = v.disk.Mount(v.dir)
	return err
}

func (v *victim) unmount() {
	if v.mount != nil {
		if err := v.mount.Unmount(); err != nil {
			v.t.Errorf("unmounting: %v", err)
		}
		v.mount = nil
	}
}

var errPowerOff = errors.New("the power is off")

// start starts the registry and returns when it is ready. The error is errPowerOff if the power goes
// first.
func (v *victim) start(off <-chan struct{}) error {
	cmd := exec.Command(berthBinary, "--addr", "127.0.0.1:0", "--data", filepath.Join(v.dir, "data"), "--log-level", "warn")
	if v.images {
		cmd.Args = append(cmd.Args, "--sync", "image")
	}
	cmd.Env = plainEnv("/nonexistent")
	cmd.Stderr = &v.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if v.exited, err = startGroup(cmd); err != nil {
		return err
	}
	v.cmd, v.http = cmd, &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 10}}
	line := make(chan string, 1)
	go func() {
		s, _ := bufio.NewReader(stdout).ReadString('\n')
		line <- s
	}()
	select {
	case s := <-line:
		if m := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(s); m != "" {
			v.url = m
			return nil
		}
		<-v.exited
	case <-off:
	case <-time.After(2 * time.Minute):
		return errors.New("the registry has not started in two minutes")
	}
	if !v.disk.On() {
		return errPowerOff
	}
	v.kill()
	return fmt.Errorf("the registry does not start:\n%s", v.log.tail(5))
}

// kill ends the registry at once.
func (v *victim) kill() {
	if v.cmd != nil {
		killGroup(v.cmd.Process.Pid)
		<-v.exited
		v.http.CloseIdleConnections()
		v.cmd = nil
	}
}

// stop ends the registry as an operator does.
func (v *victim) stop() error {
	cmd := v.cmd
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-v.exited:
	case <-time.After(time.Minute):
	}
	v.kill()
	if !cmd.ProcessState.Success() {
		return fmt.Errorf("the registry's end: %v\n%s", cmd.ProcessState, v.log.tail(5))
	}
	return nil
}

// check runs `berth check --deep` while the registry is stopped.
func (v *victim) check() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, berthBinary, "check", "--deep", "--data", filepath.Join(v.dir, "data")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("berth check: %w\n%s", err, out)
	}
	return nil
}

// A ledger is what one client was told. A client has a repository to itself; some of its blobs have the
// same bytes as those of others.
type ledger struct {
	v        *victim
	repo     string
	rng      *rand.Rand
	serial   int
	contents map[string]string   // by digest, of every blob and manifest ever sent
	states   map[string][]string // by path below the repository: the digests that may be there, "" for none
	images   []imageOf
	sessions map[string]*session // by location
}

// An imageOf is a manifest that was pushed, and its blobs.
type imageOf struct {
	manifest string
	blobs    []string
}

// A session is an upload that was begun.
type session struct {
	content     string // what it will be
	acked, sent int    // bytes
	unsure      bool   // it may be gone, or have lost bytes: a request that could end it has no answer, or a 5xx
}

// state is what may be at a path.
func (l *ledger) state(path string) []string {
	if s := l.states[path]; s != nil {
		return s
	}
	return []string{""}
}

// may notes that from now on a digest, or none, may also be at a path.
func (l *ledger) may(path, digest string) {
	if s := l.state(path); !slices.Contains(s, digest) {
		l.states[path] = append(slices.Clone(s), digest)
	}
}

// is notes what is at a path.
func (l *ledger) is(path, digest string) { l.states[path] = []string{digest} }

// errUnanswered ends what a client was doing: it will not know what came of it.
var errUnanswered = errors.New("no answer")

// ask sends a request to the client's repository.
func (l *ledger) ask(method, path, body string, headers ...string) (status int, header http.Header, answer string, err error) {
	url := l.v.url + path
	if !strings.HasPrefix(path, "/") {
		url = l.v.url + "/v2/" + l.repo + "/" + path
	}
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, "", err
	}
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		req.Header.Set(key, value)
	}
	resp, err := l.v.http.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(b), err
}

// do asks for something that answers one of the statuses, if the disk lets it. The error is
// errUnanswered if it does not.
func (l *ledger) do(method, path, body string, want ...int) (status int, location string, err error) {
	status, header, answer, err := l.ask(method, path, body, "Content-Type: application/vnd.oci.image.manifest.v1+json")
	switch {
	case err == nil && slices.Contains(want, status):
		return status, header.Get("Location"), nil
	case !l.v.disk.On(), err == nil && status >= 500 && l.v.failing:
		return 0, "", errUnanswered
	case err == nil && status == 404 && l.v.failing && l.v.images && method == "PUT":
		return 0, "", errUnanswered // a blob of a manifest could not be written
	case err != nil:
		return 0, "", err
	}
	return 0, "", fmt.Errorf("%s %.150s = %d, want %d\n%.300s", method, path, status, want, answer)
}

// work pushes and deletes until it is enough.
func (l *ledger) work(enough func() bool) []string {
	for !enough() {
		if err := l.step(); err != nil && !errors.Is(err, errUnanswered) {
			return []string{fmt.Sprintf("%s: %v", l.repo, err)}
		}
	}
	return nil
}

// noise is n random bytes, the same for the same seed.
func noise(seed uint64, n int) string {
	rng := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return string(b)
}

// step pushes an image, and sometimes takes something away.
func (l *ledger) step() error {
	l.serial++
	shared := uint64(l.rng.IntN(6))
	sharedDigest, err := l.pushShared(noise(shared, 2000+int(shared)*3000))
	if err != nil {
		return err
	}
	own, err := l.pushBlob(noise(l.rng.Uint64(), 10+l.rng.IntN(1<<(4+l.rng.IntN(15)))))
	if err != nil {
		return err
	}
	config, err := l.pushBlob(fmt.Sprintf(`{"by":%q,"n":%d}`, l.repo, l.serial))
	if err != nil {
		return err
	}
	if err := l.pushManifest(imageOf{blobs: []string{config, sharedDigest, own}}); err != nil {
		return err
	}
	switch l.rng.IntN(6) {
	case 0:
		return l.deleteImage(l.images[l.rng.IntN(len(l.images))])
	case 1:
		return l.deleteManifest(l.tag())
	case 2:
		return l.beginUpload(noise(l.rng.Uint64(), 3000+l.rng.IntN(20000)))
	}
	return nil
}

func (l *ledger) tag() string { return fmt.Sprint("v", l.rng.IntN(4)) }

// pushShared pushes what others push too: sometimes by mounting theirs.
func (l *ledger) pushShared(content string) (digest string, err error) {
	if l.rng.IntN(2) == 0 {
		return l.pushBlob(content)
	}
	digest = digestOf("sha256:", []byte(content))
	other := l.v.ledgers[l.rng.IntN(len(l.v.ledgers))].repo
	l.contents[digest] = content
	l.may("blobs/"+digest, digest)
	status, location, err := l.do("POST", "blobs/uploads/?mount="+digest+"&from="+other, "", 201, 202)
	switch {
	case err != nil:
		return "", err
	case status == 202: // they do not have it
		return l.putChunks(location, digest, content)
	}
	l.is("blobs/"+digest, digest)
	return digest, nil
}

// pushBlob pushes a blob in one of the three ways.
func (l *ledger) pushBlob(content string) (digest string, err error) {
	digest = digestOf([]string{"sha256:", "sha512:"}[l.rng.IntN(8)/7], []byte(content))
	l.contents[digest] = content
	l.may("blobs/"+digest, digest)
	if l.rng.IntN(3) == 0 {
		if _, _, err := l.do("POST", "blobs/uploads/?digest="+digest, content, 201); err != nil {
			return "", err
		}
		l.is("blobs/"+digest, digest)
		return digest, nil
	}
	_, location, err := l.do("POST", "blobs/uploads/", "", 202)
	if err != nil {
		return "", err
	}
	return l.putChunks(location, digest, content)
}

// putChunks brings a session to its end, in chunks or in one PUT.
func (l *ledger) putChunks(location, digest, content string) (string, error) {
	s := &session{content: content}
	l.sessions[location] = s
	for chunks := l.rng.IntN(4); chunks > 0 && s.sent < len(content); chunks-- {
		if err := l.patch(location, s, 1+len(content)/3); err != nil {
			return "", err
		}
	}
	from := s.sent
	s.sent, s.unsure = len(content), true
	if _, _, err := l.do("PUT", location+"?digest="+digest, content[from:], 201); err != nil {
		return "", err
	}
	delete(l.sessions, location)
	l.is("blobs/"+digest, digest)
	return digest, nil
}

// patch sends the next n bytes.
func (l *ledger) patch(location string, s *session, n int) error {
	from := s.sent
	s.sent = min(from+n, len(s.content))
	_, _, err := l.do("PATCH", location, s.content[from:s.sent], 202)
	if err == nil {
		s.acked = s.sent
	}
	return err
}

// beginUpload leaves a session open in the middle.
func (l *ledger) beginUpload(content string) error {
	_, location, err := l.do("POST", "blobs/uploads/", "", 202)
	if err != nil {
		return err
	}
	s := &session{content: content}
	l.sessions[location] = s
	for range l.rng.IntN(3) {
		if err := l.patch(location, s, 1000); err != nil {
			return err
		}
	}
	return nil
}

// pushManifest pushes an image's manifest, by tag or by digest. Some are large, so that SQLite has
// much to move.
func (l *ledger) pushManifest(im imageOf) error {
	descriptor := func(mediaType, digest string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, digest, len(l.contents[digest]))
	}
	body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s,%s],"annotations":{"n":"%s"}}`,
		descriptor("application/vnd.oci.image.config.v1+json", im.blobs[0]),
		descriptor("application/vnd.oci.image.layer.v1.tar", im.blobs[1]),
		descriptor("application/vnd.oci.image.layer.v1.tar", im.blobs[2]),
		strings.Repeat("n", []int{1, 1, 1, 100000}[l.rng.IntN(4)]))
	im.manifest = digestOf("sha256:", []byte(body))
	l.contents[im.manifest] = body
	l.images = append(l.images, im)
	paths := []string{"manifests/" + im.manifest}
	if l.rng.IntN(4) > 0 {
		paths = append(paths, "manifests/"+l.tag())
	}
	for _, path := range paths {
		l.may(path, im.manifest)
	}
	if _, _, err := l.do("PUT", paths[len(paths)-1], body, 201); err != nil {
		return err
	}
	for _, path := range paths {
		l.is(path, im.manifest)
	}
	return nil
}

// deleteImage deletes a manifest, with its tags, and then its blobs: those that another image has must stay.
func (l *ledger) deleteImage(im imageOf) error {
	for _, d := range im.blobs {
		if surely, _ := l.has(d, im.manifest); !surely {
			l.may("blobs/"+d, "") // out of sight with the manifest, if that is the last that has it
		}
	}
	if err := l.deleteManifest(im.manifest); err != nil {
		return err
	}
	for _, d := range im.blobs {
		var want []int
		surely, perhaps := l.has(d, im.manifest)
		if perhaps {
			want = append(want, 403)
		}
		if !surely {
			want = append(want, 202, 404)
		}
		status, _, err := l.do("DELETE", "blobs/"+d, "", want...)
		if err != nil {
			return err
		}
		if status == 403 {
			l.is("blobs/"+d, d)
		} else {
			l.is("blobs/"+d, "")
		}
	}
	return nil
}

// has says whether an image other than that of a manifest has a blob: surely, or perhaps.
func (l *ledger) has(blob, except string) (surely, perhaps bool) {
	for _, im := range l.images {
		if im.manifest == except || !slices.Contains(im.blobs, blob) {
			continue
		}
		state := l.state("manifests/" + im.manifest)
		perhaps = perhaps || slices.Contains(state, im.manifest)
		surely = surely || slices.Equal(state, []string{im.manifest})
	}
	return surely, perhaps
}

// deleteManifest deletes a tag, or a manifest with its tags.
func (l *ledger) deleteManifest(reference string) error {
	before := maps.Clone(l.states)
	path := "manifests/" + reference
	l.may(path, "")
	for tag, state := range before {
		if slices.Contains(state, reference) && strings.HasPrefix(tag, "manifests/") {
			l.may(tag, "")
		}
	}
	status, _, err := l.do("DELETE", path, "", 202, 404)
	if err != nil {
		return err
	}
	if status == 404 && before[path] != nil && !slices.Contains(before[path], "") {
		return fmt.Errorf("DELETE %s = 404, it was acknowledged", path)
	}
	l.is(path, "")
	for tag := range before {
		l.states[tag] = slices.DeleteFunc(slices.Clone(l.states[tag]), func(d string) bool {
			return d == reference && strings.HasPrefix(tag, "manifests/")
		})
	}
	return nil
}

// audit compares the ledger with the registry, and notes what it finds where it did not know. Not so if
// the registry is living on after syncs that failed: what it has rolled back may have reached the disk all
// the same, and be there after the next cut.
func (l *ledger) audit(loss lossyfs.Loss, living bool) (problems []string) {
	problemf := func(format string, args ...any) {
		problems = append(problems, l.repo+": "+fmt.Sprintf(format, args...))
	}
	if l.v.images && (loss != lossyfs.Nothing || l.v.failed) {
		for path := range l.states {
			if d, ok := strings.CutPrefix(path, "blobs/"); ok {
				if surely, _ := l.has(d, ""); !surely {
					l.may(path, "")
				}
			}
		}
	}
	for path, state := range l.states {
		status, header, body, err := l.ask("GET", path, "")
		found := ""
		switch {
		case err != nil:
			problemf("GET %s: %v", path, err)
			continue
		case status == 200:
			like := path[strings.LastIndex(path, "/")+1:]
			found = digestOf(like, []byte(body))
			if d := header.Get("Docker-Content-Digest"); d != found {
				problemf("GET %s: Docker-Content-Digest %s, but the body's is %s", path, d, found)
			}
		case status != 404:
			problemf("GET %s = %d\n%.300s", path, status, body)
			continue
		}
		if !slices.Contains(state, found) {
			problemf("GET %s: %q, want one of %q", path, found, state)
		}
		if !living {
			l.is(path, found)
		}
	}
	for location, s := range l.sessions {
		if err := l.resume(location, s, loss); err != nil {
			problemf("%s with %d bytes sent, %d acknowledged: %v", location, s.sent, s.acked, err)
		}
		delete(l.sessions, location)
	}
	return problems
}

// resume goes on with a session where the registry says, to its end.
func (l *ledger) resume(location string, s *session, loss lossyfs.Loss) error {
	status, header, _, err := l.ask("GET", location, "")
	if err != nil {
		return err
	}
	mayMiss := s.unsure || loss != lossyfs.Nothing // of what was acknowledged
	if status == 404 && mayMiss {
		return nil
	}
	_, last, _ := strings.Cut(header.Get("Range"), "-")
	n, err := strconv.Atoi(last)
	if status != 204 || err != nil {
		return fmt.Errorf("GET = %d, Range %q", status, header.Get("Range"))
	}
	if n > 0 { // "0-0" is nothing here: nobody stops after one byte
		n++
	}
	if n > s.sent || n < s.acked && !mayMiss {
		return fmt.Errorf("the registry has %d", n)
	}
	if n < len(s.content) {
		status, _, body, err := l.ask("PATCH", location, s.content[n:], fmt.Sprintf("Content-Range: %d-%d", n, len(s.content)-1))
		if status != 202 {
			return fmt.Errorf("PATCH from %d = %d, %v\n%s", n, status, err, body)
		}
	}
	digest := digestOf("sha256:", []byte(s.content))
	path := "blobs/" + digest
	status, _, body, err := l.ask("PUT", location+"?digest="+digest, "")
	if status == 400 && loss != lossyfs.Nothing {
		// A page is lost inside of what the session has, and the registry sees it. The client begins anew.
		status, _, body, err = l.ask("POST", "blobs/uploads/?digest="+digest, s.content)
	}
	if status != 201 {
		return fmt.Errorf("going on from %d to the end = %d, %v\n%s", n, status, err, body)
	}
	l.contents[digest] = s.content
	l.is(path, digest)
	if status, _, body, err := l.ask("GET", path, ""); status != 200 || body != s.content {
		return fmt.Errorf("gone on with from %d: GET %s = %d with %d bytes, %v", n, path, status, len(body), err)
	}
	return nil
}
