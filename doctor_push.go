// A real push and pull of a small image, in the ways of several clients, to
// see what a proxy on the way does to it.
//
// A blob is pushed as docker does (POST, one PATCH in chunks without a length, PUT), and the largest as
// containerd does (POST, one PUT with a length). Then all is read back. What comes back must be what was
// sent, byte by byte, and with the headers that clients need. At the end the image is deleted.
//
// A doctor leaves as little as it can. Where the image could not be deleted again it is not pushed, unless
// --push says so: only uploads are begun, and given up. The image has no tag, so that no rule for tags is
// about it and no tag of others makes way for it, and a Berth writes one line into its history, of the
// delete. All runs use one repository. A registry keeps the bytes until it removes garbage, so they are
// the same in each run and on each machine, and are stored only once.

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	doctorLayer  = "application/vnd.oci.image.layer.v1.tar"
	doctorConfig = "application/vnd.oci.image.config.v1+json"
	doctorImage  = "application/vnd.oci.image.manifest.v1+json"
)

const (
	sampleSize = 4 << 10 // less than any limit
	usualSize  = 2 << 20 // more than the limit of an nginx that is told none, which is 1 MiB
)

// sizes are those of the blobs to push: what any limit lets through, then more than the usual one if a
// larger one is asked for, and at last the largest.
func (d *doctor) sizes() []int64 {
	sizes := []int64{sampleSize}
	if d.largest > usualSize {
		sizes = append(sizes, usualSize)
	}
	if d.largest > sampleSize {
		sizes = append(sizes, d.largest)
	}
	return sizes
}

// total is how much is pushed, in bytes.
func (d *doctor) total() (n int64) {
	for _, size := range d.sizes() {
		n += size
	}
	return n
}

// do sends a request about the repository; of another URL what follows the host is taken.
func (s *doctorSession) do(ctx context.Context, method, where string, body []byte, header ...string) *doctorAnswer {
	r := doctorRequest{method: method, url: s.at(where), header: map[string]string{}, patience: time.Duration(len(body)>>20) * 4 * time.Second}
	if body != nil {
		r.body, r.length = bytes.NewReader(body), int64(len(body))
	}
	if s.authorization != "" {
		r.header["Authorization"] = s.authorization
	}
	for _, h := range header {
		key, value, _ := strings.Cut(h, ": ")
		if key == "chunked" {
			r.body, r.length = io.MultiReader(r.body), -1
			continue
		}
		r.header[key] = value
	}
	return s.send(ctx, r)
}

// at is the URL of a place: blobs/uploads/, or what a Location says.
func (s *doctorSession) at(where string) string {
	if u, err := url.Parse(where); err == nil && u.Host != "" {
		return s.base() + u.RequestURI() // the host was looked at before
	}
	if strings.HasPrefix(where, "/") {
		return s.base() + where
	}
	return s.base() + "/v2/" + s.name + "/" + where
}

// pushAndPull does it all.
func (d *doctor) pushAndPull(ctx context.Context, s *doctorSession) {
	if a := s.tryDelete(ctx); !d.push && !s.mayDelete(a) {
		s.tryUploads(ctx, a)
		return
	}
	blobs := s.pushBlobs(ctx)
	if blobs == nil {
		return
	}
	image, text := s.pushImage(ctx, blobs)
	if image == "" {
		d.warn("delete", "blobs-remain", advise("The registry removes them by garbage collection, since no image needs them."), "the blobs that were pushed to %s remain", s.name)
		return
	}
	before := len(d.faults(isProblem, isWarning))
	s.pullImage(ctx, image, text)
	for _, b := range blobs {
		s.pullBlob(ctx, b)
	}
	s.pullRange(ctx, blobs[0])
	s.listPages(ctx)
	if len(d.faults(isProblem, isWarning)) == before {
		d.well("pull", "all comes back as it was pushed, with its headers")
	}
	s.remove(ctx, image)
}

// tryDelete deletes an image that is not there.
func (s *doctorSession) tryDelete(ctx context.Context) *doctorAnswer {
	return s.do(ctx, http.MethodDelete, "manifests/"+digest.FromString("nothing, "+s.random).String(), nil)
}

// mayDelete reports whether tryDelete's answer says that an image that is there would be deleted. Registries
// that may not or cannot delete say so before they look for it (401, 403, 405); of any other answer than that it
// is not there, nobody knows what it means.
func (s *doctorSession) mayDelete(a *doctorAnswer) bool {
	return a.err == nil && (a.status/100 == 2 || a.status == http.StatusNotFound && a.message() != "")
}

// tryUploads is for an image that could not be deleted again: it begins uploads and gives them up, which
// leaves nothing, and shows who may push and what a proxy does to bodies. a is tryDelete's answer.
func (s *doctorSession) tryUploads(ctx context.Context, a *doctorAnswer) {
	if a.err == nil && a.message() == "" && a.status != http.StatusUnauthorized {
		s.warn("delete", "method-blocked", s.proxyRemedy("If images are to be deleted through it, let the proxy pass DELETE on."), "DELETE is refused before it reaches the registry: %s%s", a.in(), a.by())
	}
	most, begun := int64(0), false
	for _, size := range append([]int64{0}, s.sizes()...) { // the first, without bytes, shows whether it can be given up
		step, b, given := s.tryUpload(ctx, size)
		if step != "" {
			s.explainRefusal(step, b, size, most)
			break
		}
		if begun, most = true, size; !given {
			break
		}
	}
	if !begun {
		return // which has been told
	}
	if most > 0 {
		s.well("push", "uploads of up to %s are taken; they were given up again", formatSize(most))
	}
	s.add(diagnosis{Check: "push", Level: isNote, Fault: "not-pushed", Do: fmt.Sprintf("To examine a whole push and pull all the same, which leaves an image of %s without a tag in %s:", formatSize(s.total()), s.name),
		Lines: []string{s.again("--push")}, Says: fmt.Sprintf("no image was pushed to %s and none pulled, since it could not be deleted again: DELETE is answered with %s", s.name, a.in())})
}

// tryUpload begins an upload, sends so many bytes of it as docker does, and gives it up. It returns the step
// that failed, "" if none did, and whether the upload was given up.
func (s *doctorSession) tryUpload(ctx context.Context, size int64) (step string, a *doctorAnswer, given bool) {
	if a = s.do(ctx, http.MethodPost, "blobs/uploads/", []byte{}); a.err != nil || a.status != http.StatusAccepted {
		return "POST", a, false
	}
	if !s.examineLocation(a) {
		return "Location", a, false
	}
	where := a.header.Get("Location")
	if size > 0 {
		if a = s.do(ctx, http.MethodPatch, where, sampleBlob(size), "chunked: yes", "Content-Type: application/octet-stream"); a.err != nil || a.status/100 != 2 {
			step = "PATCH"
		} else if next := a.header.Get("Location"); next != "" {
			where = next
		}
	}
	b := s.do(ctx, http.MethodDelete, where, nil)
	return step, a, b.err == nil && b.status/100 == 2
}

// again is the line that runs the same doctor with one more flag.
func (s *doctorSession) again(flag string) string {
	line := "berth doctor " + flag
	if s.user != "" && s.loginFile == "" {
		line += " --user " + s.user
	}
	return line + " " + s.whole()
}

// sampleBlob returns n bytes that look random, and are the same for each n.
func sampleBlob(n int64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte([]byte("the doctor's samples, " + fmt.Sprintf("%10d", n)))).Read(b)
	return b
}

// pushBlobs pushes blobs of growing size; nil if the smallest cannot be pushed.
func (s *doctorSession) pushBlobs(ctx context.Context) (blobs [][]byte) {
	sizes := s.sizes()
	var most int64
	for i, size := range sizes {
		body := sampleBlob(size)
		step, a := s.pushBlob(ctx, body, i > 0 && i == len(sizes)-1)
		if step != "" {
			s.explainRefusal(step, a, size, most)
			break
		}
		blobs, most = append(blobs, body), size
	}
	if blobs != nil {
		s.well("push", "blobs of up to %s are taken", formatSize(most))
	}
	return blobs
}

// pushBlob pushes one; at once as containerd does, or in chunks as docker does. It returns the step that
// failed, "" if none did.
func (s *doctorSession) pushBlob(ctx context.Context, body []byte, once bool) (step string, a *doctorAnswer) {
	d := digest.FromBytes(body)
	if a = s.do(ctx, http.MethodPost, "blobs/uploads/", []byte{}); a.err != nil || a.status != http.StatusAccepted {
		return "POST", a
	}
	if !s.examineLocation(a) {
		return "Location", a
	}
	if !once {
		if a = s.do(ctx, http.MethodPatch, a.header.Get("Location"), body, "chunked: yes", "Content-Type: application/octet-stream"); a.err != nil || a.status/100 != 2 {
			return "PATCH", a
		}
		body = []byte{}
	}
	where := a.header.Get("Location")
	join := "?"
	if strings.Contains(where, "?") {
		join = "&"
	}
	escaped := where + join + "digest=" + url.QueryEscape(d.String())
	if a = s.do(ctx, http.MethodPut, escaped, body, "Content-Type: application/octet-stream"); a.err != nil || a.status != http.StatusCreated {
		return "PUT", a
	}
	s.needHeader(a, "Docker-Content-Digest", d.String(), "PUT of a blob")
	return "", a
}

// once notes a problem, unless the same fault was noted before.
func (s *doctorSession) once(check, fault string, r remedy, format string, args ...any) {
	if !slices.Contains(s.faults(isProblem), fault) {
		s.fail(check, fault, r, format, args...)
	}
}

// examineLocation looks at where the registry sends a client next; false if there is no going on.
func (s *doctorSession) examineLocation(a *doctorAnswer) bool {
	where := a.header.Get("Location")
	to, err := url.Parse(where)
	if where == "" || err != nil {
		s.once("push", "location-missing", s.proxyRemedy("Let the proxy pass the header Location on."), "the answer to POST has no Location that could be used: %q%s", where, a.by())
		return false
	}
	how := s.proxyRemedy("The registry does not know how clients call it. Let the proxy pass Host and X-Forwarded-Proto on, and let the registry believe them (Berth: --trusted-proxies or --public-url " +
		s.base() + "; registry:2: http.relativeurls: true).")
	scheme, _, _ := strings.Cut(s.base(), "://")
	switch {
	case to.Host == "":
	case to.Scheme != scheme && strings.EqualFold(to.Hostname(), s.host):
		s.once("push", "location-scheme", how, "uploads are sent to %s://%s, and the registry is reached by %s", to.Scheme, to.Host, scheme)
	case !strings.EqualFold(to.Host, s.written()) && !(strings.EqualFold(to.Hostname(), s.host) && to.Port() == s.addressPort()):
		s.once("push", "location-inner", how, "uploads are sent to %s://%s, which is not how the registry is called here", to.Scheme, to.Host)
	}
	return true
}

// needHeader notes a header that is missing or wrong in an answer.
func (s *doctorSession) needHeader(a *doctorAnswer, name, want, of string) {
	got := a.header.Get(name)
	if name == "Content-Type" {
		got, _, _ = strings.Cut(got, ";")
	}
	if got == want {
		return
	}
	fault := "header-" + strings.ToLower(name)
	if got == "" {
		s.once("pull", fault, s.proxyRemedy("Let the proxy pass the header "+name+" on (with nginx: no proxy_hide_header for it)."), "the answer to %s lacks %s%s", of, name, a.by())
		return
	}
	s.once("pull", fault, s.proxyRemedy("Let the proxy pass the header "+name+" on as it is."), "the answer to %s has %s: %s in place of %s%s", of, name, got, want, a.by())
}

// explainRefusal is for a step of a push that failed; most is what was taken before.
func (s *doctorSession) explainRefusal(step string, a *doctorAnswer, size, most int64) {
	limit := "Let the proxy take bodies of any size: nginx client_max_body_size 0, Apache LimitRequestBody 0, IIS maxAllowedContentLength, Traefik without a buffering middleware. Cloudflare takes no more than 100 MB on its free plan: bypass it."
	message := a.message()
	switch {
	case step == "Location": // which has been told
	case a.status == http.StatusRequestEntityTooLarge && message == "",
		a.err != nil && most > 0 && !tooLate(a.err):
		s.fail("push", "body-limit", s.proxyRemedy(limit), "a blob of %s is refused%s: %s%s", formatSize(size), taken(most), a.in(), a.by())
	case a.status == http.StatusLengthRequired:
		s.fail("push", "chunked-refused", s.proxyRemedy("Let the proxy pass bodies on that come in chunks, without Content-Length, as docker sends them."), "an upload without Content-Length is refused: %s%s", a.in(), a.by())
	case a.err != nil && tooLate(a.err):
		s.fail("push", "no-answer", s.proxyRemedy("See the log of the registry, and the timeouts of the proxy; let it not gather bodies before it sends them on."), "the %s of a blob of %s is not answered in time%s", step, formatSize(size), taken(most))
	case a.err != nil:
		s.fail("push", "push-breaks", advise("See the log of the registry, and of a proxy before it."), "the %s of a push breaks off: %s", step, a.in())
	case a.status == http.StatusGatewayTimeout, a.status == http.StatusBadGateway, a.status == http.StatusServiceUnavailable && message == "":
		s.fail("push", "gateway-fails", s.proxyRemedy("See whether the registry runs, and raise the timeouts of the proxy (nginx: proxy_read_timeout, proxy_send_timeout)."), "the proxy gave up at the %s of a blob of %s: %s%s", step, formatSize(size), a.in(), a.by())
	case message == "" && (a.status == http.StatusMethodNotAllowed || a.status == http.StatusForbidden || a.status == http.StatusNotImplemented || a.status == http.StatusNotFound):
		s.fail("push", "method-blocked", s.proxyRemedy("Let the proxy pass on all of GET, HEAD, POST, PATCH, PUT and DELETE (nginx: no limit_except; a firewall for web applications may do it, too)."),
			"%s is refused before it reaches the registry: %s%s", step, a.in(), a.by())
	case a.status == http.StatusMethodNotAllowed:
		s.fail("push", "registry-read-only", advise("Start it without --read-only, or examine pulls alone.", "berth doctor --no-push "+s.written()), "the registry takes no pushes: %s", message)
	case a.status == http.StatusUnauthorized && s.user == "":
		s.askUser()
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		who := cmp.Or(s.user, "anonymous")
		lines := []string{"berth doctor " + s.written() + "/REPOSITORY"}
		if s.user != "" && s.loginFile == "" {
			lines[0] = "berth doctor --user " + who + " " + s.written() + "/REPOSITORY"
		}
		if s.berth {
			lines = append(lines, "", "on the server:", "berth policy check "+s.caller()+" push "+s.name)
		}
		s.fail("push", "push-denied", advise("Name a repository in which this user may push, or change the rules.", lines...), "%s may not push to %s: %s%s", who, s.name, a.in(), saying(a))
	case a.status == http.StatusBadRequest && step == "PUT":
		s.fail("push", "query-changed", s.proxyRemedy("Let the proxy pass the path and the query on as they come (nginx: proxy_pass without a URI after the host and port)."), "the registry does not understand the end of an upload, as if the query had been changed on the way: %s%s", a.in(), saying(a))
	case a.status == http.StatusInsufficientStorage:
		s.fail("push", "registry-full", advise("Make room on the registry's disk.", "berth gc --now", "berth stats"), "the registry's disk is full: %s", message)
	case a.status == http.StatusTooManyRequests:
		s.fail("push", "too-many-requests", advise("Wait, and try again."), "the registry, or its proxy, wants fewer requests: %s%s", a.in(), a.by())
	default:
		s.fail("push", "push-fails", advise("See the log of the registry."), "the %s of a blob of %s is refused: %s%s%s", step, formatSize(size), a.in(), a.by(), saying(a))
	}
}

func taken(most int64) string {
	if most == 0 {
		return ""
	}
	return ", and one of " + formatSize(most) + " was taken"
}

func tooLate(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// pushImage pushes an image of the blobs, without a tag, and returns its digest; "" if that failed.
func (s *doctorSession) pushImage(ctx context.Context, blobs [][]byte) (image digest.Digest, text []byte) {
	type descriptor struct {
		MediaType string        `json:"mediaType"`
		Digest    digest.Digest `json:"digest"`
		Size      int           `json:"size"`
	}
	var layers []descriptor
	var diffs []digest.Digest
	for _, b := range blobs {
		layers = append(layers, descriptor{doctorLayer, digest.FromBytes(b), len(b)})
		diffs = append(diffs, digest.FromBytes(b))
	}
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Labels": map[string]string{"berth-doctor": s.random}}, // another image for each run
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs}, "created": s.now().UTC().Format(time.RFC3339)})
	if err != nil {
		panic(err) // all of it can be said in JSON
	}
	if step, a := s.pushBlob(ctx, config, false); step != "" {
		s.explainRefusal(step, a, int64(len(config)), int64(len(blobs[0])))
		return "", nil
	}
	if text, err = json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": doctorImage,
		"config": descriptor{doctorConfig, digest.FromBytes(config), len(config)}, "layers": layers}); err != nil {
		panic(err)
	}
	image = digest.FromBytes(text)
	a := s.do(ctx, http.MethodPut, "manifests/"+image.String(), text, "Content-Type: "+doctorImage)
	if a.err != nil || a.status != http.StatusCreated {
		if a.message() == "" && a.err == nil && a.status == http.StatusUnsupportedMediaType {
			s.fail("push", "content-type-refused", s.proxyRemedy("Let the proxy pass bodies of any Content-Type on."), "the manifest is refused before it reaches the registry: %s%s", a.in(), a.by())
		} else {
			s.explainRefusal("PUT", a, int64(len(text)), 0)
		}
		return "", nil
	}
	s.needHeader(a, "Docker-Content-Digest", image.String(), "PUT of a manifest")
	return image, text
}

// pullImage reads the manifest back.
func (s *doctorSession) pullImage(ctx context.Context, image digest.Digest, text []byte) {
	accept, where := "Accept: "+doctorImage, "manifests/"+image.String()
	a := s.do(ctx, http.MethodHead, where, nil, accept)
	if s.headWorks(a, "a manifest", int64(len(text))) {
		s.needHeader(a, "Docker-Content-Digest", image.String(), "HEAD of a manifest")
		s.needHeader(a, "Content-Type", doctorImage, "HEAD of a manifest")
	}
	a = s.do(ctx, http.MethodGet, where, nil, accept, "Accept-Encoding: gzip")
	switch {
	case a.err != nil || a.status != http.StatusOK:
		s.once("pull", "pull-fails", s.proxyRemedy("See the log of the registry, and of a proxy before it."), "the manifest cannot be read back: %s%s%s", a.in(), a.by(), saying(a))
	case a.header.Get("Content-Encoding") != "":
		s.explainCompression(a)
	case !bytes.Equal(a.body, text):
		s.explainChange(a, "manifest")
	default:
		s.needHeader(a, "Content-Type", doctorImage, "GET of a manifest")
	}
}

func (s *doctorSession) explainCompression(a *doctorAnswer) {
	s.once("pull", "compressed", s.proxyRemedy("Let the proxy not compress what the registry sends (nginx: gzip off; Apache: no mod_deflate; Traefik: no compress middleware)."),
		"what is pulled comes compressed (%s), so that lengths and ranges do not fit it%s", a.header.Get("Content-Encoding"), a.by())
}

func (s *doctorSession) explainChange(a *doctorAnswer, what string) {
	s.once("pull", "bytes-changed", s.proxyRemedy("Let the proxy change nothing in bodies: no filters, no rewriting, no cache of half answers."), "a %s comes back with other bytes than were pushed%s", what, a.by())
}

// headWorks looks at an answer to HEAD, whose length must be n.
func (s *doctorSession) headWorks(a *doctorAnswer, of string, n int64) bool {
	if a.err != nil || a.status != http.StatusOK {
		s.once("pull", "head-dropped", s.proxyRemedy("Let the proxy pass HEAD on as it is, since clients ask by it whether something is there."), "HEAD of %s that is there is answered with %s%s", of, a.in(), a.by())
		return false
	}
	s.needHeader(a, "Content-Length", strconv.FormatInt(n, 10), "HEAD of "+of)
	return true
}

// pullBlob reads a blob back.
func (s *doctorSession) pullBlob(ctx context.Context, body []byte) {
	d := digest.FromBytes(body)
	if a := s.do(ctx, http.MethodHead, "blobs/"+d.String(), nil); a.err != nil || a.status/100 != 3 {
		if s.headWorks(a, "a blob", int64(len(body))) {
			s.needHeader(a, "Docker-Content-Digest", d.String(), "HEAD of a blob")
		}
	}
	a := s.do(ctx, http.MethodGet, "blobs/"+d.String(), nil, "Accept-Encoding: gzip")
	switch {
	case a.err == nil && a.status/100 == 3: // to where the registry keeps its blobs, which clients follow
	case a.err != nil || a.status != http.StatusOK:
		s.once("pull", "pull-fails", s.proxyRemedy("See the log of the registry, and of a proxy before it (nginx: proxy_max_temp_file_size 0 where its disk is full)."), "a blob of %s cannot be read back: %s%s%s", formatSize(int64(len(body))), a.in(), a.by(), saying(a))
	case a.header.Get("Content-Encoding") != "":
		s.explainCompression(a)
	case !bytes.Equal(a.body, body):
		s.explainChange(a, "blob")
	default:
		s.needHeader(a, "Content-Length", strconv.Itoa(len(body)), "GET of a blob")
	}
}

// pullRange reads a part of a blob, as clients do that go on after a break.
func (s *doctorSession) pullRange(ctx context.Context, body []byte) {
	a := s.do(ctx, http.MethodGet, "blobs/"+digest.FromBytes(body).String(), nil, "Range: bytes=1000-1999")
	switch {
	case a.err == nil && a.status/100 == 3:
	case a.err == nil && a.status == http.StatusPartialContent && bytes.Equal(a.body, body[1000:2000]):
		s.needHeader(a, "Content-Range", fmt.Sprintf("bytes 1000-1999/%d", len(body)), "GET of a range")
	case a.err == nil && a.status == http.StatusOK:
		s.warn("pull", "ranges-dropped", s.proxyRemedy("Let the proxy pass the headers Range and Content-Range on; a pull that breaks off begins anew without them."), "a part of a blob was asked for, and all of it came%s", a.by())
	default:
		s.once("pull", "ranges-dropped", s.proxyRemedy("Let the proxy pass the headers Range and Content-Range on."), "a part of a blob cannot be read: %s%s", a.in(), a.by())
	}
}

// listPages reads a list page by page: that of the tags, or else that of the repositories, which need two
// entries for it. Not all registries let everybody list, and no pull needs it.
func (s *doctorSession) listPages(ctx context.Context) {
	entries := func(a *doctorAnswer) int {
		var page struct{ Tags, Repositories []string }
		if a.err != nil || a.status != http.StatusOK || json.Unmarshal(a.body, &page) != nil {
			return 0
		}
		return len(page.Tags) + len(page.Repositories)
	}
	for _, list := range []string{"tags/list", "/v2/_catalog"} {
		if entries(s.do(ctx, http.MethodGet, list+"?n=2", nil)) == 2 {
			if a := s.do(ctx, http.MethodGet, list+"?n=1", nil); entries(a) == 1 {
				s.examineLink(ctx, a)
			}
			return
		}
	}
}

// examineLink looks at the way to the page of a list after the first.
func (s *doctorSession) examineLink(ctx context.Context, a *doctorAnswer) {
	link := a.header.Get("Link")
	target, _, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	to, err := url.Parse(target)
	switch {
	case link == "":
		s.warn("pull", "link-dropped", s.proxyRemedy("Let the proxy pass the header Link on: lists end after a page without it."), "a list has more pages, and lacks the header Link%s", a.by())
	case err != nil || to.Host != "" && !strings.EqualFold(to.Hostname(), s.host):
		s.warn("pull", "link-inner", s.proxyRemedy("Let the proxy pass Host on, so that the registry knows how clients call it."), "the next page of a list is said to be at %s", target)
	default:
		if b := s.do(ctx, http.MethodGet, target, nil); b.err != nil || b.status != http.StatusOK {
			s.warn("pull", "link-broken", s.proxyRemedy("Let the proxy pass queries on as they come."), "the next page of a list, %s, cannot be read: %s%s", target, b.in(), b.by())
		}
	}
}

// remove deletes the image again.
func (s *doctorSession) remove(ctx context.Context, image digest.Digest) {
	a := s.do(ctx, http.MethodDelete, "manifests/"+image.String(), nil)
	remains := fmt.Sprintf("an image of %s remains in %s, without a tag", formatSize(s.total()), s.name)
	switch {
	case a.err == nil && a.status/100 == 2:
		s.well("delete", "the test image is deleted again. The registry keeps its %s until it removes garbage, and only once, however often this is run", formatSize(s.total()))
	case a.err == nil && a.message() == "":
		s.warn("delete", "method-blocked", s.proxyRemedy("If images are to be deleted through it, let the proxy pass DELETE on."), "DELETE is refused before it reaches the registry: %s%s; %s", a.in(), a.by(), remains)
	default:
		left := diagnosis{Check: "delete", Level: isNote, Fault: "image-remains", Says: fmt.Sprintf("the registry does not let this user delete (%s): %s", a.in(), remains)}
		if s.berth && a.status != http.StatusMethodNotAllowed { // or the server was started with --no-delete
			left.Do, left.Lines = "To remove what remains, on the server:", []string{"sudo berth rm --data " + serviceData + " " + s.name + "@" + image.String()}
		}
		s.add(left)
	}
}
