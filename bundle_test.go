//go:build unix

// Images go out and come in: round trips, volumes, what is cut short, what is hostile.

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// exportTo runs berth export. What goes to standard output is returned.
func (r *registry) exportTo(args ...string) (string, error) {
	r.t.Helper()
	var out, log strings.Builder
	err := run(r.t.Context(), append(append([]string{"export"}, args...), "--data", r.cfg.dir), noEnv, strings.NewReader(""), &out, &log)
	return out.String(), err
}

// mustExport is exportTo that must work.
func (r *registry) mustExport(args ...string) string {
	r.t.Helper()
	out, err := r.exportTo(args...)
	if err != nil {
		r.t.Fatalf("export %v: %v\n%s", args, err, out)
	}
	return out
}

// mustImport is importFrom that must work.
func (r *registry) mustImport(args ...string) string {
	r.t.Helper()
	out, err := r.importFrom(strings.NewReader(""), args...)
	if err != nil {
		r.t.Fatalf("import %v: %v\n%s", args, err, out)
	}
	return out
}

// holdings are all tags with their digests, and all that refers to those, of a registry.
func (r *registry) holdings() map[string]string {
	r.t.Helper()
	all := make(map[string]string)
	var catalog struct{ Repositories []string }
	json.Unmarshal(r.want(200, "GET", "/v2/_catalog?n=1000", nil).body, &catalog)
	for _, name := range catalog.Repositories {
		var list struct{ Tags []string }
		json.Unmarshal(r.want(200, "GET", "/v2/"+name+"/tags/list?n=1000", nil).body, &list)
		for _, tag := range list.Tags {
			re := r.want(200, "GET", "/v2/"+name+"/manifests/"+tag, nil)
			d := re.header.Get("Docker-Content-Digest")
			all[name+":"+tag] = d
			r.holdingsOf(all, name, digest.Digest(d), re)
		}
	}
	return all
}

// holdingsOf adds what a manifest consists of, and what refers to it.
func (r *registry) holdingsOf(all map[string]string, name string, d digest.Digest, re *reply) {
	r.t.Helper()
	key := name + "@" + d.String()
	if all[key] != "" {
		return
	}
	all[key] = re.header.Get("Content-Type")
	_, parts, err := readReferences(re.body, all[key], d)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, b := range parts.content() {
		all[name+" blob "+b.Digest.String()] = fmt.Sprint(len(r.want(200, "GET", "/v2/"+name+"/blobs/"+b.Digest.String(), nil).body))
	}
	var referrers struct{ Manifests []part }
	json.Unmarshal(r.want(200, "GET", "/v2/"+name+"/referrers/"+d.String(), nil).body, &referrers)
	for _, p := range append(parts.Manifests, referrers.Manifests...) {
		r.holdingsOf(all, name, p.Digest, r.want(200, "GET", "/v2/"+name+"/manifests/"+p.Digest.String(), nil))
	}
}

// pushRandomly pushes images, indexes, artifacts, referrers and what other tools tag for those.
func (r *registry) pushRandomly(rnd *rand.Rand, images int) {
	r.t.Helper()
	names := []string{"app", "home/app", "home/app/web", "library/base", "x/y-z_0"}
	text := func() string { return strings.Repeat(fmt.Sprint(rnd.Uint64()), 1+rnd.IntN(200)) }
	shared := []string{text(), text(), text()}
	push := func(name, ref, body, mediaType string) {
		r.want(201, "PUT", "/v2/"+name+"/manifests/"+ref, body, "Content-Type: "+mediaType)
	}
	one := func(name, more string) string {
		layers := []string{shared[rnd.IntN(3)], text()}
		config := fmt.Sprintf(`{"n":%d}`, rnd.Uint64())
		mediaType := []string{typeOCIManifest, typeDockerManifest}[rnd.IntN(2)]
		if more != "" {
			mediaType = typeOCIManifest
		}
		for _, content := range append(layers, config) {
			r.pushBlob(name, content)
		}
		im := newImage(mediaType, "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip", more, config, layers...)
		push(name, im.digest.String(), im.manifest, mediaType)
		return im.manifest
	}
	for i := range images {
		name := names[rnd.IntN(len(names))]
		body, mediaType := one(name, ""), ""
		if rnd.IntN(3) == 0 {
			members := []string{body, one(name, "")}
			if rnd.IntN(3) == 0 {
				inner, d := ociIndex(one(name, ""))
				push(name, d.String(), inner, typeOCIIndex)
				body = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, typeOCIIndex, descriptorJSON(typeOCIIndex, inner))
			} else {
				body, _ = ociIndex(members...)
			}
		}
		var doc struct{ MediaType string }
		json.Unmarshal([]byte(body), &doc)
		mediaType = doc.MediaType
		push(name, fmt.Sprintf("t%d", i%3), body, mediaType)
		push(name, fmt.Sprintf("v%d", i), body, mediaType)
		for range rnd.IntN(3) {
			referrer := one(name, `,"artifactType":"a/b","subject":`+descriptorJSON(mediaType, body))
			if rnd.IntN(2) == 0 {
				one(name, `,"artifactType":"c/d","subject":`+descriptorJSON(typeOCIManifest, referrer))
			}
		}
		if rnd.IntN(3) == 0 {
			push(name, "sha256-"+sum(body).Encoded()+".sig", one(name, `,"artifactType":"e/f"`), typeOCIManifest)
		}
	}
}

// What is exported and imported elsewhere is the same there, however it went, and exported again it is the same bytes.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	for i, way := range []string{"tar", "tar.zst", "layout", "pipe", "volumes"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			hub, site := startRegistry(t), startRegistry(t)
			hub.pushRandomly(rnd, 12)
			want := hub.holdings()
			if len(want) < 50 {
				t.Fatalf("%d things are in the registry", len(want))
			}
			dir := t.TempDir()
			file := filepath.Join(dir, "all."+way)
			if i%2 == 0 { // else without servers
				hub.listen()
				site.listen()
			} else {
				hub.off()
				site.off()
			}
			switch way {
			case "pipe":
				text := hub.mustExport("-", "--all")
				if out, err := site.importFrom(strings.NewReader(text), "-"); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			case "volumes":
				hub.mustExport(filepath.Join(dir, "all.tar"), "--all", "--split", "1MiB")
				volumes, _ := filepath.Glob(filepath.Join(dir, "all.*.tar"))
				slices.Reverse(volumes)
				site.mustImport(volumes...)
			default:
				hub.mustExport(file, "--all")
				site.mustImport(file)
			}
			again := []string{filepath.Join(dir, "1.tar"), filepath.Join(dir, "2.tar")}
			hub.mustExport(again[0], "--all")
			site.mustExport(again[1], "--all")
			if site.st == nil {
				site.start()
			}
			got := site.holdings()
			for key, value := range want {
				if got[key] != value {
					t.Errorf("%s is %q, want %q", key, got[key], value)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d things, want %d", len(got), len(want))
			}
			first, _ := os.ReadFile(again[0])
			second, _ := os.ReadFile(again[1])
			if len(first) == 0 || !bytes.Equal(first, second) {
				t.Errorf("what is the same gives %d bytes here and other %d there", len(first), len(second))
			}
		})
	}
}

// bytesOf are n bytes that cannot be compressed.
func bytesOf(seed, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte{byte(seed)})).Read(b)
	return string(b)
}

// Volumes fit their size, and may come in any order, one at a time: an image is there with the last of what it needs.
func TestVolumesInAnyOrder(t *testing.T) {
	slow(t)
	t.Parallel()
	hub, site := startRegistry(t), startRegistry(t)
	hub.listen()
	site.listen()
	for i := range 4 {
		hub.pushImage("app", fmt.Sprint("v", i), fmt.Sprintf(`{"n":%d}`, i), bytesOf(100, 300<<10), bytesOf(i, 400<<10), bytesOf(10+i, 500<<10))
	}
	index, d := ociIndex(ociImage(`{"n":0}`, bytesOf(100, 300<<10), bytesOf(0, 400<<10), bytesOf(10, 500<<10)).manifest,
		ociImage(`{"n":3}`, bytesOf(100, 300<<10), bytesOf(3, 400<<10), bytesOf(13, 500<<10)).manifest)
	hub.want(201, "PUT", "/v2/app/manifests/both", index, "Content-Type: "+typeOCIIndex)
	dir := t.TempDir()
	if _, err := hub.exportTo(filepath.Join(dir, "x.tar"), "app:v1", "--split", "1MiB", "--platform", "linux/amd64"); err != nil {
		t.Fatal(err)
	}
	hub.mustExport(filepath.Join(dir, "app.tar"), "app", "--split", "1MiB")
	volumes, _ := filepath.Glob(filepath.Join(dir, "app.*.tar"))
	if len(volumes) < 4 {
		t.Fatalf("volumes: %v", volumes)
	}
	for _, file := range volumes {
		info, err := os.Stat(file)
		if err != nil || info.Size() >= 1<<20 {
			t.Errorf("%s has %d bytes, want less than 1 MiB (%v)", file, info.Size(), err)
		}
	}
	rand.New(rand.NewPCG(7, 7)).Shuffle(len(volumes), func(i, j int) { volumes[i], volumes[j] = volumes[j], volumes[i] })
	for i, file := range volumes {
		out, err := site.importFrom(strings.NewReader(""), file)
		if i == 0 && (err == nil || !strings.Contains(out, "missing")) {
			t.Errorf("the first: %v\n%s", err, out)
		}
		site.want(map[bool]int{true: 404, false: 200}[i < len(volumes)-1 && site.do("GET", "/v2/app/manifests/both", nil).status == 404], "GET", "/v2/app/manifests/both", nil)
	}
	// Whatever came last made whole what it has content of; the rest is by then a matter of looking.
	site.mustImport(volumes...)
	site.want(200, "GET", "/v2/app/manifests/both", nil).has("Docker-Content-Digest", d.String())
	want := hub.holdings()
	if got := site.holdings(); !maps.Equal(got, want) {
		t.Errorf("%d things, want %d", len(got), len(want))
	}
	// An index never comes without members that another volume has.
	other := startRegistry(t)
	other.listen()
	for _, file := range volumes[1:] {
		other.importFrom(strings.NewReader(""), file)
	}
	var n int
	if err := other.st.get(`SELECT count(*) FROM manifest WHERE sparse = 1`, nil, &n); err != nil || n != 0 {
		t.Errorf("%d indexes came without members (%v)", n, err)
	}
}

// A layer that is larger than a volume is refused, and nothing is left.
func TestVolumeIsTooSmall(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.listen()
	r.pushImage("app", "x", "{}", bytesOf(1, 2<<20))
	dir := t.TempDir()
	_, err := r.exportTo(filepath.Join(dir, "app.tar"), "app:x", "--split", "1MiB")
	if err == nil || !strings.Contains(err.Error(), "Make --split larger") {
		t.Errorf("it says %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// An import that is cut short shows nothing, and the next one brings only the rest.
func TestImportIsContinued(t *testing.T) {
	t.Parallel()
	hub, site := startRegistry(t), startRegistry(t)
	hub.listen()
	site.listen()
	hub.pushImage("app", "x", "{}", bytesOf(1, 1<<20), bytesOf(2, 1<<20), bytesOf(3, 1<<20))
	whole := hub.mustExport("-", "app:x")
	out, err := site.importFrom(strings.NewReader(whole[:len(whole)-1<<20]), "-")
	if err == nil || !strings.Contains(err.Error(), "ends too early") {
		t.Errorf("cut short: %v\n%s", err, out)
	}
	file := filepath.Join(t.TempDir(), "cut.tar")
	if err := os.WriteFile(file, []byte(whole[:len(whole)-1<<20]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := site.importFrom(strings.NewReader(""), file); err == nil || !strings.Contains(err.Error(), "ends too early") {
		t.Errorf("a file that is cut short: %v\n%s", err, out)
	}
	site.want(404, "GET", "/v2/app/manifests/x", nil)
	if list := site.want(200, "GET", "/v2/_catalog", nil); strings.Contains(string(list.body), "app") || strings.Contains(string(list.body), staging) {
		t.Errorf("the catalog has %s", list.body)
	}
	out, err = site.importFrom(strings.NewReader(whole), "-", "--json")
	var doc struct{ Received int64 }
	if json.Unmarshal([]byte(out), &doc); err != nil || doc.Received > 1<<20+100 {
		t.Errorf("the next one received %d bytes, want one layer: %v\n%s", doc.Received, err, out)
	}
	if out = site.mustImport(temporaryFile(t, "whole.tar", whole), "--json"); !strings.Contains(out, `"received": 0`) || !strings.Contains(out, `"state": "present"`) {
		t.Errorf("once more: %s", out)
	}
	// What only passed by is collected, and what an image has stays.
	site.pass(3 * site.cfg.grace)
	site.want(200, "GET", "/v2/app/blobs/"+sum(bytesOf(1, 1<<20)).String(), nil)
	site.want(404, "GET", "/v2/"+staging+"/blobs/"+sum(bytesOf(1, 1<<20)).String(), nil)
}

func temporaryFile(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A disk that gets too full stops an import; what came stays, and when there is room it goes on.
func TestImportOnAFullDisk(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"file", "pipe"} {
		hub, site := startRegistry(t), startRegistry(t, func(c *config) { c.minFree = 1 << 60 })
		hub.listen()
		stop := site.listen()
		hub.pushImage("app", "x", "{}", bytesOf(1, 1<<20))
		text := hub.mustExport("-", "app:x")
		source := temporaryFile(t, "app.tar", text)
		if way == "pipe" {
			source = "-"
		}
		out, err := site.importFrom(strings.NewReader(text), source)
		if err == nil || !strings.Contains(err.Error(), "room") || exitsWith(err) == 0 {
			t.Errorf("%s: %v\n%s", way, err, out)
		}
		site.want(404, "GET", "/v2/app/manifests/x", nil)
		stop()
		site.restart(func(c *config) { c.minFree = 0 })
		site.listen()
		if out, err := site.importFrom(strings.NewReader(text), source); err != nil {
			t.Errorf("%s, with room: %v\n%s", way, err, out)
		}
	}
}

func exitsWith(err error) int { code, _ := exitCode(err); return code }

// A registry that takes no pushes takes no imports, with a server and without.
func TestImportIntoAReadOnlyRegistry(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("app", "x", "{}", "layer")
	r.off()
	file := filepath.Join(t.TempDir(), "app.tar")
	r.mustExport(file, "app:x")
	refused := func(out string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(out+err.Error(), "read-only") {
			t.Errorf("%v\n%s", err, out)
		}
	}
	refused(r.importFrom(strings.NewReader(""), file, "--as", "b:x", "--read-only"))
	r.cfg.readOnly = true
	r.start()
	r.listen()
	refused(r.importFrom(strings.NewReader(""), file, "--as", "b:x"))
	r.want(404, "GET", "/v2/b/manifests/x", nil)
	r.mustExport(file, "app:x")
}

// Names are mapped, a dry run does nothing, and the history says who.
func TestImportNamesImages(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.listen()
	one, two, none := archiveFile(t, "ctr-lib.tar"), archiveFile(t, "ctr16-two.tar"), archiveFile(t, "crane-oci-unnamed2.tar")
	out := r.mustImport(two, "--dry-run")
	if !strings.Contains(out, "t/app2:2") || !strings.Contains(out, "new") {
		t.Errorf("a dry run says %s", out)
	}
	r.want(404, "GET", "/v2/t/app/manifests/1", nil)
	r.want(404, "HEAD", "/v2/t/app/blobs/"+string("sha256:d1cbe3c3")+strings.Repeat("0", 56), nil)
	for _, x := range []struct {
		args, at string
	}{
		{one, "library/keep:1"}, {one + " --as home/keep:2", "home/keep:2"}, {one + " --as home/kept", "home/kept:1"},
		{one + " --prefix hub/", "hub/library/keep:1"}, {two + " --as both", "both:latest"},
	} {
		out := r.mustImport(strings.Fields(x.args)...)
		if !strings.Contains(out, x.at) {
			t.Errorf("%s: %s", x.args, out)
		}
		name, tag, _ := strings.Cut(x.at, ":")
		r.want(200, "GET", "/v2/"+name+"/manifests/"+tag, nil)
	}
	for args, want := range map[string]string{two + " --as a:b": "is for one image, and there are 3", none + " --as a:b": "is for one image, and there are 2",
		one + " --as a:b --prefix c": "leave out --prefix", one + " --as localhost:5000/a:b": "without the host", one + " --prefix UP": "lower case"} {
		if out, err := r.importFrom(strings.NewReader(""), strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
	log, err := r.ask(t.Context(), options{Command: "log", Limit: 100})
	if err != nil || !strings.Contains(log, whoAsks()) || strings.Contains(log, "anonymous") {
		t.Errorf("the history says %s (%v)", log, err)
	}
	r.mustImport(none, "--as", "loose")
}

// tarOf makes an archive of headers and contents.
func tarOf(t testing.TB, entries ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		h, ok := entries[i].(tar.Header)
		body, _ := entries[i+1].(string)
		if !ok {
			h = tar.Header{Typeflag: tar.TypeReg, Name: entries[i].(string)}
		}
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			h.Size = int64(len(body))
		}
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if int64(len(body)) < h.Size { // which is a lie
			w.Flush()
			b.WriteString(body)
			return b.Bytes()
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return b.Bytes()
}

// Archives that no tool writes are refused, and leave nothing to be seen.
func TestHostileArchives(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t)
	r.listen()
	im, bad := ociImage("{}", "layer"), ociImage("{}", "lager")
	index := func(body string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"a:x"}}]}`,
			typeOCIManifest, sum(body), len(body))
	}
	at := func(content string) string { return blobFile(sum(content)) }
	whole := []any{at("layer"), "layer", at("{}"), "{}", at(im.manifest), im.manifest, indexFile, index(im.manifest)}
	with := func(more ...any) []byte { return tarOf(t, append(slices.Clone(whole), more...)...) }
	if out, err := r.importFrom(bytes.NewReader(with()), "-", "--as", "good:x"); err != nil {
		t.Fatalf("the good one: %v\n%s", err, out)
	}
	link := func(kind byte, name, to string) tar.Header {
		return tar.Header{Typeflag: kind, Name: name, Linkname: to}
	}
	many := func() []byte {
		var all []any
		for i := range maxEntries + 1 {
			all = append(all, fmt.Sprint("f", i), "")
		}
		return tarOf(t, all...)
	}
	for name, x := range map[string]struct {
		archive []byte
		want    string
	}{
		"name that leads out":      {with("../x", "x"), "leads out"},
		"name from the root":       {with("/etc/x", "x"), "leads out"},
		"hidden name":              {with("a/../../x", "x"), "leads out"},
		"link out":                 {with(link(tar.TypeSymlink, "a/b", "../../x"), ""), "leads out"},
		"link to the root":         {with(link(tar.TypeSymlink, "a", "/etc/passwd"), ""), "leads out"},
		"hard link out":            {with(link(tar.TypeLink, "a", "../x"), ""), "leads out"},
		"pipe":                     {with(tar.Header{Typeflag: tar.TypeFifo, Name: "a"}, ""), "no file"},
		"device":                   {with(tar.Header{Typeflag: tar.TypeChar, Name: "a"}, ""), "no file"},
		"size of a disk":           {with(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + strings.Repeat("0", 64), Size: 1 << 50}, "x"), ""},
		"index.json twice":         {with(indexFile, index(im.manifest)), "twice"},
		"cut":                      {with()[:1300], "ends too early"},
		"no archive":               {[]byte(strings.Repeat("hello, world\n", 100)), "neither a tar"},
		"nothing":                  {nil, "empty"},
		"no index":                 {tarOf(t, "a", "b"), "neither an index.json"},
		"index.json is a link":     {tarOf(t, link(tar.TypeSymlink, indexFile, "blobs/x"), "", "blobs/x", "x"), ""},
		"link to a link to itself": {tarOf(t, link(tar.TypeSymlink, "a", "b"), "", link(tar.TypeSymlink, "b", "a"), "", manifestFile, `[{"Config":"a","RepoTags":["a:x"],"Layers":[]}]`), "links"},
		"other bytes":              {tarOf(t, at("lager"), "regal", at("{}"), "{}", at(bad.manifest), bad.manifest, indexFile, index(bad.manifest)), "damaged"},
		"other manifest":           {tarOf(t, at("layer"), "layer", at("{}"), "{}", at(im.manifest), im.manifest+" ", indexFile, index(im.manifest)), "damaged"},
		"size that is a lie":       {tarOf(t, at("layer"), "layer", at("{}"), "{}", indexFile, index(strings.Repeat(" ", 100)+im.manifest)), "missing"},
		"index.json is no JSON":    {tarOf(t, indexFile, `{"manifests":[`), "cannot be read"},
		"index.json has no digest": {tarOf(t, indexFile, `{"manifests":[{"digest":"../../etc/passwd"}]}`), "cannot be read"},
		"layer is missing":         {tarOf(t, manifestFile, `[{"Config":"c","RepoTags":["a:x"],"Layers":["l"]}]`, "c", `{"rootfs":{"diff_ids":["`+sum("l").String()+`"]}}`), ""},
		"layers that are not told": {tarOf(t, manifestFile, `[{"Config":"c","RepoTags":["a:x"],"Layers":["l"]}]`, "c", `{}`, "l", "l"), "no image that Docker"},
		"a million entries":        {many(), "entries"},
	} {
		for _, way := range []string{"file", "pipe"} {
			source, stdin := "-", io.Reader(bytes.NewReader(x.archive))
			if way == "file" {
				source = temporaryFile(t, "hostile.tar", string(x.archive))
			}
			out, err := r.importFrom(stdin, source)
			if err == nil || !strings.Contains(out+err.Error(), x.want) {
				t.Errorf("%s (%s): %v, want %q\n%s", name, way, err, x.want, out)
			}
		}
	}
	var catalog struct{ Repositories []string }
	json.Unmarshal(r.want(200, "GET", "/v2/_catalog", nil).body, &catalog)
	if !slices.Equal(catalog.Repositories, []string{"good"}) {
		t.Errorf("there is more to be seen: %v", catalog.Repositories)
	}
}

// A layout is added to, whatever else is in it; a link in it that leads out is not followed.
func TestLayoutsInDirectories(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.listen()
	r.pushImage("app", "x", "{}", "layer")
	r.pushImage("app", "y", "{}", "layer", "more")
	dir := filepath.Join(t.TempDir(), "layout")
	r.mustExport(dir, "app:x")
	r.mustExport(dir, "app:y")
	r.pushImage("app", "x", "{}", "another")
	r.mustExport(dir, "app:x")
	var index struct{ Manifests []part }
	text, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err != nil || json.Unmarshal(text, &index) != nil || len(index.Manifests) != 2 {
		t.Fatalf("index.json: %v %s", err, text)
	}
	r.mustImport(dir, "--prefix", "again")
	r.want(200, "GET", "/v2/again/app/manifests/y", nil)
	r.want(200, "GET", "/v2/again/app/manifests/x", nil).is(ociImage("{}", "another").manifest)
	if _, err := r.exportTo(filepath.Dir(temporaryFile(t, "x", "x")), "app:x"); err == nil || !strings.Contains(err.Error(), "no image layout") {
		t.Errorf("a directory with something else: %v", err)
	}
	blob := filepath.Join(dir, filepath.FromSlash(blobFile(sum("another"))))
	outside := temporaryFile(t, "outside", "another")
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, blob); err != nil {
		t.Fatal(err)
	}
	other := startRegistry(t)
	other.listen()
	if out, err := other.importFrom(strings.NewReader(""), dir); err == nil {
		t.Errorf("a link that leads out was followed: %s", out)
	}
	other.want(404, "GET", "/v2/app/manifests/x", nil)
}

// FuzzBundle reads archives of strangers: no panic, and no name leads out.
func FuzzBundle(f *testing.F) {
	all, err := unpackArchives()
	if err != nil {
		f.Fatal(err)
	}
	for _, body := range all {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		file := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(file, body, 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := openBundle(file, nil, nil)
		if err != nil {
			return
		}
		defer o.end()
		if o.arrival != nil {
			left := int64(16 << 20) // however much it is when it is decompressed
			o.arrival.each(func(name string, size int64, r io.Reader) error {
				wantInside(t, name)
				n, err := io.Copy(io.Discard, io.LimitReader(r, left))
				if left -= n; left <= 0 {
					return io.EOF
				}
				return err
			})
			return
		}
		b, ok := o.bundle.(*tarBundle)
		if !ok {
			t.Fatal("a file is no archive")
		}
		for name := range b.byName {
			wantInside(t, name)
			if r, err := b.open(name); err == nil {
				io.Copy(io.Discard, r)
			}
		}
		l, err := readListing(b)
		if err != nil {
			return
		}
		for _, root := range l.roots[:min(len(l.roots), 10)] {
			splitName(root.name, true)
			if root.item != nil {
				makeImage(b, root.item)
			} else if body, err := readWhole(b, blobFile(root.Digest), maxManifest); err == nil {
				readReferences(body, root.MediaType, root.Digest)
			}
		}
	})
}

func wantInside(t *testing.T, name string) {
	t.Helper()
	if name == "" || filepath.IsAbs(name) || slices.Contains(strings.Split(name, "/"), "..") {
		t.Fatalf("a name leads out: %q", name)
	}
}
