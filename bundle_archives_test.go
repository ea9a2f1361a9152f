//go:build unix

// Archives that other tools wrote, in testdata/archives.tar.gz: each comes in with the digests that it has.

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// unpackArchives returns the archives by name.
var unpackArchives = sync.OnceValues(func() (map[string][]byte, error) {
	packed, err := os.ReadFile("testdata/archives.tar.gz")
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	all := make(map[string][]byte)
	t := tar.NewReader(z)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if all[strings.TrimPrefix(h.Name, "./")], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
})

// archiveFile puts an archive into a directory, under its name.
func archiveFile(t testing.TB, name string) string {
	t.Helper()
	all, err := unpackArchives()
	if err != nil {
		t.Fatal(err)
	}
	if all[name] == nil {
		t.Fatalf("there is no archive %s", name)
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, all[name], 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// archives are the files, and what comes of each: NAME:TAG=DIGEST, NAME@=DIGEST of an image without a tag, and with ~ the
// digest of the config, where the manifest is made here. Or why it does not come in.
const archives = `
buildah-oci.tar bt:1=sha256:629a1805a5eb
c8d-skipmissing-attest.tar t/attest:1=sha256:e8b599922373
c8d-skipmissing-docklist.tar t/docklist:1=sha256:bc45b51e31ec
crane-art.tar no image that Docker
crane-helm.tar no image that Docker
crane-oci-dot.tar crane-oci-dot@=sha256:0fdc534acb03 crane-oci-dot@=sha256:63463924e664
crane-oci-unnamed2.tar crane-oci-unnamed2@=sha256:0fdc534acb03 crane-oci-unnamed2@=sha256:63463924e664
crane-one.tar t/app:1~sha256:cba1394d624b
crane-plain.tar t/plain:1~sha256:8bab1d5f1c6f
crane-two.tar t/app2:2~sha256:5591954cffdb t/app:1~sha256:cba1394d624b t/app:latest~sha256:cba1394d624b
crane-zstd.tar t/zstd:1~sha256:df614ac6378e
ctr-lib.tar library/keep:1=sha256:0fdc534acb03
ctr16-attest-partial.tar t/attest:1=sha256:e8b599922373
ctr16-helm.tar charts/demo:1.0.0_b1=sha256:3c9f5f268581
ctr16-multi-partial.tar t/multi:1=sha256:e0e48c2f0ac8
ctr16-one.tar t/app:1=sha256:0fdc534acb03
ctr16-two.tar t/app:1=sha256:0fdc534acb03 t/app:latest=sha256:0fdc534acb03 t/app2:2=sha256:63463924e664
ctr24-multi-partial.tar t/multi:1=sha256:e0e48c2f0ac8
docker20-dig.tar docker20-dig@~sha256:cba1394d624b
docker20-empties.tar t/empties:1~sha256:93130ac074bf
docker20-id.tar docker20-id@~sha256:1dccee8f96a3
docker20-lib.tar keep:1~sha256:cba1394d624b some/keep:2~sha256:cba1394d624b
docker20-one.tar t/app:1~sha256:cba1394d624b
docker20-twice.tar t/twice:1~sha256:1dccee8f96a3
docker20-two.tar t/app:1~sha256:cba1394d624b t/app:latest~sha256:cba1394d624b t/app2:2~sha256:5591954cffdb
gnutar-s5.tar gnutar-s5:x=sha512:e49c38e9d03f
hand-oci-hardlinks-inside.tar t/app:1=sha256:0fdc534acb03
hand-oci-symlinks-inside.tar t/app:1=sha256:0fdc534acb03
oras-backup-helm.tar oras-backup-helm:1.0.0_b1=sha256:3c9f5f268581
oras-backup-multi.tar oras-backup-multi:1=sha256:e0e48c2f0ac8
oras-l.tar oras-l:latest=sha256:0fdc534acb03 oras-l:multi=sha256:e0e48c2f0ac8 oras-l:1=sha256:63463924e664
oras-s5.tar oras-s5:t=sha256:53d86f689ba4
podman-da-two.tar t/app:1~sha256:cba1394d624b t/app2:2~sha256:5591954cffdb
podman-da.tar t/app:1~sha256:cba1394d624b
podman-oci.tar t/app:1=sha256:f3ef14bca22e
py-s5.tar py-s5:x=sha512:e49c38e9d03f
regctl-app.tar t/app:1=sha256:0fdc534acb03
regctl-art.tar t/art:1=sha256:efd047238a0c
regctl-attest.tar t/attest:1=sha256:e8b599922373
regctl-docklist.tar t/docklist:1=sha256:bc45b51e31ec
regctl-helm.tar charts/demo:1.0.0_b1=sha256:3c9f5f268581
regctl-multi.tar t/multi:1=sha256:e0e48c2f0ac8
regctl-s5.tar s5:t=sha256:53d86f689ba4
regctl-s5m.tar s5@=sha512:e49c38e9d03f
regctl-zstd.tar t/zstd:1=sha256:3181841d201f
skopeo-da.tar t/app:1~sha256:cba1394d624b
skopeo-oci-attest.tar skopeo-oci-attest:1=sha256:e8b599922373
skopeo-oci-dock.tar skopeo-oci-dock:1=sha256:104a5e46c3a1
skopeo-oci-helm.tar charts/demo:1.0.0_b1=sha256:3c9f5f268581
skopeo-oci-multi.tar skopeo-oci-multi:1=sha256:e0e48c2f0ac8
skopeo-oci-noname.tar skopeo-oci-noname@=sha256:0fdc534acb03
skopeo-oci-zstd.tar t/zstd:1=sha256:3181841d201f
skopeo-oci.tar t/app:1=sha256:0fdc534acb03
docker20-one.tar.gz t/app:1~sha256:cba1394d624b
docker20-one.tar.xz compressed with xz
docker20-one.tar.zst t/app:1~sha256:cba1394d624b
regctl-app.tar.gz t/app:1=sha256:0fdc534acb03
skopeo-oci.tar.bz2 t/app:1=sha256:0fdc534acb03
skopeo-oci.tar.gz t/app:1=sha256:0fdc534acb03
skopeo-oci.tar.xz compressed with xz
`

// importFrom runs berth import with what stdin brings.
func (r *registry) importFrom(stdin io.Reader, args ...string) (string, error) {
	r.t.Helper()
	var out, log strings.Builder
	err := run(r.t.Context(), append(append([]string{"import"}, args...), "--data", r.cfg.dir), noEnv, stdin, &out, &log)
	return out.String(), err
}

func TestArchivesOfOtherToolsComeIn(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSpace(archives), "\n")
	if all, err := unpackArchives(); err != nil || len(all) != len(lines) {
		t.Fatalf("%d archives, and %d lines about them: %v", len(all), len(lines), err)
	}
	for _, way := range []string{"file", "pipe"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			r := startRegistry(t)
			r.listen()
			for i, line := range lines {
				name, want, _ := strings.Cut(line, " ")
				r.importArchive(name, way, "n"+string(rune('a'+i/26))+string(rune('a'+i%26)), want)
			}
		})
	}
}

// importArchive imports an archive with a prefix, and looks for what is to come of it. Then it does so again.
func (r *registry) importArchive(name, way, prefix, want string) {
	r.t.Helper()
	file := archiveFile(r.t, name)
	source, stdin := file, io.Reader(strings.NewReader(""))
	if way == "pipe" {
		body, err := os.ReadFile(file)
		if err != nil {
			r.t.Fatal(err)
		}
		source, stdin = "-", bytes.NewReader(body)
		// What has no name is named after the file.
		base, _, _ := strings.Cut(name, ".tar")
		want = strings.ReplaceAll(want, strings.ReplaceAll(base, "_", "-")+":", "imported:")
		want = strings.ReplaceAll(want, base+"@", "imported@")
	}
	out, err := r.importFrom(stdin, source, "--prefix", prefix, "--json")
	if !strings.ContainsAny(want, "=~") {
		if err == nil || !strings.Contains(out+err.Error(), want) {
			r.t.Errorf("%s: it says %v, want %q\n%s", name, err, want, out)
		}
		return
	}
	if err != nil {
		r.t.Errorf("%s: %v\n%s", name, err, out)
		return
	}
	var doc struct{ Images []importedImage }
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		r.t.Fatalf("%s: %v\n%s", name, err, out)
	}
	if n := len(strings.Fields(want)); len(doc.Images) != n {
		r.t.Errorf("%s: %d images, want %d\n%s", name, len(doc.Images), n, out)
	}
	for i, expected := range strings.Fields(want) {
		if i < len(doc.Images) {
			r.wantArchived(name, prefix, expected, doc.Images[i])
		}
	}
	if way == "pipe" {
		return // what it is read from is empty now
	}
	out, err = r.importFrom(stdin, source, "--prefix", prefix)
	if err != nil || strings.Contains(out, "  imported") || !strings.Contains(out, "0 images imported") {
		r.t.Errorf("%s, again: %v\n%s", name, err, out)
	}
}

// wantArchived looks for an image: by its tag or digest, with all it consists of, but for members that are said to be missing.
func (r *registry) wantArchived(archive, prefix, want string, told importedImage) {
	r.t.Helper()
	image, d, made := strings.Cut(want, "~")
	if !made {
		image, d, _ = strings.Cut(want, "=")
	}
	repo, tag, tagged := strings.Cut(image, ":")
	ref := tag
	if !tagged {
		repo, ref = strings.TrimSuffix(image, "@"), told.Digest.String()
	}
	repo = prefix + "/" + repo
	re := r.want(200, "GET", "/v2/"+repo+"/manifests/"+ref, nil)
	got := digest.Digest(re.header.Get("Docker-Content-Digest"))
	if got != told.Digest || got.Algorithm().FromBytes(re.body) != got {
		r.t.Errorf("%s: %s has the digest %s, and %s was told", archive, image, got, told.Digest)
	}
	m, parts, err := readReferences(re.body, re.header.Get("Content-Type"), got)
	if err != nil {
		r.t.Errorf("%s: %v", archive, err)
		return
	}
	if made {
		got = m.config.digest
		var config struct {
			RootFS struct {
				DiffIDs []digest.Digest `json:"diff_ids"`
			} `json:"rootfs"`
		}
		json.Unmarshal(r.want(200, "GET", "/v2/"+repo+"/blobs/"+got.String(), nil).body, &config)
		for i, layer := range parts.Layers {
			body := r.want(200, "GET", "/v2/"+repo+"/blobs/"+layer.Digest.String(), nil).body
			z, err := unpack(bytes.NewReader(body), sniff(body))
			if err != nil {
				r.t.Fatal(err)
			}
			plain, err := io.ReadAll(z)
			if err != nil || digest.FromBytes(plain) != config.RootFS.DiffIDs[i] {
				r.t.Errorf("%s: layer %d is not %s (%v)", archive, i, config.RootFS.DiffIDs[i], err)
			}
		}
	}
	if !strings.HasPrefix(got.String(), d) {
		r.t.Errorf("%s: %s is %s, want %s", archive, image, got, d)
	}
	for _, b := range parts.content() {
		r.want(200, "GET", "/v2/"+repo+"/blobs/"+b.Digest.String(), nil)
	}
	absent := 0
	for _, child := range parts.Manifests {
		re := r.do("GET", "/v2/"+repo+"/manifests/"+child.Digest.String(), nil)
		if re.status == 200 {
			continue
		}
		absent++
		if re.code("MANIFEST_UNKNOWN"); !strings.Contains(string(re.body), "imported from an archive that lacked it") {
			r.t.Errorf("%s: of a member that is missing it says %s", archive, re.body)
		}
	}
	if partial := strings.Contains(archive, "partial") || strings.Contains(archive, "skipmissing"); absent != len(told.Missing) || partial != (absent > 0) {
		r.t.Errorf("%s: %d members are missing, and %d are told", archive, absent, len(told.Missing))
	}
}

// An index that came without all of its members stays such after restarts and repairs, until they come; to clients that push one
// nothing changes.
func TestIndexWithoutAllOfItsMembers(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.pushImage("a", "x", "{}", "layer")
	r.snapshotsAfter(time.Hour)
	part, whole := archiveFile(t, "ctr16-multi-partial.tar"), archiveFile(t, "regctl-multi.tar")
	if out, err := r.stoppedImport(part); err != nil || !strings.Contains(out, "without 2 members") {
		t.Fatalf("%v\n%s", err, out)
	}
	marked := func(want int) {
		t.Helper()
		var n int
		if err := r.st.get(`SELECT count(*) FROM manifest WHERE sparse = 1`, nil, &n); err != nil || n != want {
			t.Errorf("%d indexes are marked, want %d (%v)", n, want, err)
		}
	}
	marked(1)
	index := r.want(200, "GET", "/v2/t/multi/manifests/1", nil)
	r.want(404, "PUT", "/v2/other/manifests/1", index.body, "Content-Type: "+typeOCIIndex).code("MANIFEST_BLOB_UNKNOWN")
	r.want(404, "PUT", "/v2/other/manifests/1", index.body, "Content-Type: "+typeOCIIndex, partlyHeader+": yes").code("MANIFEST_BLOB_UNKNOWN")
	r.want(201, "PUT", "/v2/t/multi/manifests/again", index.body, "Content-Type: "+typeOCIIndex)
	r.pass(100 * r.cfg.untaggedGrace)
	r.want(202, "DELETE", "/v2/t/multi/manifests/"+index.header.Get("Docker-Content-Digest"), nil)
	r.off()
	if out, err := r.runOn("undo", "t/multi"); err != nil {
		t.Fatalf("undo: %v\n%s", err, out)
	}
	if out, err := r.runOn("check", "--deep"); err != nil {
		t.Fatalf("check: %v\n%s", err, out)
	}
	// Only the damaged database has it, not a snapshot.
	if err := overwrite(filepath.Join(r.cfg.dir, "berth.db"), 68, 4); err != nil {
		t.Fatal(err)
	}
	if out, err := r.runOn("restore"); err != nil || strings.Contains(out, "LOST") || strings.Contains(out, "PUSH AGAIN") {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	r.start()
	marked(1)
	r.want(200, "GET", "/v2/t/multi/manifests/1", nil).is(string(index.body))
	if out, err := r.stoppedImport(whole); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	marked(0)
}

// stoppedImport imports a file while no server has the directory.
func (r *registry) stoppedImport(args ...string) (string, error) {
	r.t.Helper()
	r.off()
	defer r.start()
	return r.importFrom(strings.NewReader(""), args...)
}
