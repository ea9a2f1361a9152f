// Digests are right on every machine, and every byte is hashed once: on its way
// in, and not again for anything that clients do with it.

package main

import (
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
)

// A countingHash adds the bytes that are written to it to a count.
type countingHash struct {
	hash.Hash
	n *atomic.Int64
}

func (h countingHash) Write(p []byte) (int, error) {
	h.n.Add(int64(len(p)))
	return h.Hash.Write(p)
}

// countHashed counts, until the test ends, the bytes of which a digest is made: those
// that the registry hashes, and those that the test does. So no other test may
// run beside this one.
func countHashed(t *testing.T) *atomic.Int64 {
	t.Helper()
	t.Setenv("NOT_PARALLEL", "") // panics in a parallel test
	n := new(atomic.Int64)
	for algorithm, plain := range map[crypto.Hash]func() hash.Hash{crypto.SHA256: sha256.New, crypto.SHA512: sha512.New} {
		crypto.RegisterHash(algorithm, func() hash.Hash { return countingHash{plain(), n} })
		t.Cleanup(func() { crypto.RegisterHash(algorithm, plain) })
	}
	return n
}

func TestEachByteIsHashedOnce(t *testing.T) {
	slow(t)
	alone(t, "what the whole process hashes is counted")
	n := countHashed(t)
	r := startRegistry(t, func(cfg *config) { cfg.writeTwice = false })
	// hashes insists on how many bytes the registry hashes while do runs.
	hashes := func(what string, want int, do func()) {
		t.Helper()
		before := n.Load()
		do()
		if got := n.Load() - before; got != int64(want) {
			t.Errorf("%s: %d bytes are hashed, want %d", what, got, want)
		}
	}
	push := func(way, repo, content string, d digest.Digest, query string) {
		t.Helper()
		if re, err := r.pushDigest(way, repo, content, d, query); err != nil || re.status != 201 {
			t.Errorf("%s: %+v %v", way, re, err)
		}
	}

	// A large one has a length that fills no buffer.
	for kind, size := range map[string]int{"small": 5000, "as large as small ones may be": maxSmall, "large": 3<<20 + 12345} {
		for i, way := range ways {
			for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				content := noise(uint64(100*size+i), size)
				d := algorithm.FromString(content)
				path := "/v2/a/blobs/" + d.String()
				what := kind + " blob, " + algorithm.String() + ", " + way
				begin := "?digest-algorithm=" + algorithm.String()

				hashes(what, size, func() { push(way, "a", content, d, begin) })
				hashes(what+", again", size, func() { push(way, "a", content, d, begin) })
				hashes(what+", to another repository", size, func() { push(way, "b", content, d, begin) })
				hashes(what+": mount", 0, func() { r.want(201, "POST", "/v2/c/blobs/uploads/?from=a&mount="+d.String(), nil) })
				first := 0
				if size <= maxKept { // it is verified before it is kept in memory
					first = size
				}
				hashes(what+": the first GET", first, func() { r.want(200, "GET", path, nil).is(content) })
				hashes(what+": GET, HEAD and a part", 0, func() {
					r.want(200, "GET", path, nil).is(content)
					r.want(200, "HEAD", path, nil)
					r.want(206, "GET", path, nil, "Range: bytes=100-4999").is(content[100:5000])
				})
				hashes(what+": the syncs of small ones", 0, func() {
					if err := r.st.small.sync(); err != nil {
						t.Error(err)
					}
				})
				hashes(what+": deletion", 0, func() {
					r.want(202, "DELETE", path, nil)
					r.pass(0)
				})
			}
		}
	}

	// docker and containerd do not say when they begin which digest they will end
	// with. It is told before the bytes, if those come with the PUT; else sha256 is
	// assumed, and if that was wrong what has come is read again.
	for size, name := range map[int]string{5000: "small", 3 << 20: "large"} {
		for i, way := range ways {
			content := noise(uint64(200*size+i), size)
			d := digest.SHA512.FromString(content)
			want := size
			if way == "streamed PATCH" || way == "chunks" {
				want = 2 * size
			}
			hashes(name+" blob that turns out to be sha512, "+way, want, func() { push(way, "a", content, d, "") })
		}
		content := noise(uint64(300*size), size)
		d := digest.SHA512.FromString(content)
		hashes(name+" blob that turns out to be sha512 with its last bytes", 1000+size, func() {
			location := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
			r.want(202, "PATCH", location, content[:1000])
			r.want(201, "PUT", with(location, "digest="+d.String()), content[1000:])
		})
	}

	// What has the wrong digest is refused for one look.
	content := noise(1, 3<<20)
	other := sum("something else").String()
	hashes("wrong digest", len(content), func() {
		r.want(400, "POST", "/v2/a/blobs/uploads/?digest="+other, content).code("DIGEST_INVALID")
	})

	// No hash outlives its process: what is there at a restart is read again, at the
	// end, with what came after it.
	d := sum(content)
	location := r.want(202, "POST", "/v2/a/blobs/uploads/", nil).location()
	hashes("before the restart", 1<<20, func() { r.want(202, "PATCH", location, content[:1<<20]) })
	r.restart()
	hashes("after the restart", len(content), func() {
		r.want(202, "PATCH", location, content[1<<20:2<<20], "Content-Range: 1048576-2097151")
		r.want(201, "PUT", with(location, "digest="+d.String()), content[2<<20:])
	})

	// Manifests. That of an image makes the registry read the config, for its
	// platform; and what it reads for its own use it verifies.
	config, layer := configFor("linux/amd64", "first"), "layer"
	r.pushBlob("a", config)
	r.pushBlob("a", layer)
	im := ociImage(config, layer)
	manifest := func(method, reference, body string, status int) func() {
		return func() {
			t.Helper()
			r.want(status, method, "/v2/a/manifests/"+reference, body, "Content-Type: "+typeOCIManifest)
		}
	}
	hashes("manifest", len(im.manifest)+len(config), manifest("PUT", "x", im.manifest, 201))
	hashes("manifest, again", len(im.manifest)+len(config), manifest("PUT", "x", im.manifest, 201))
	hashes("manifest by digest", len(im.manifest)+len(config), manifest("PUT", im.digest.String(), im.manifest, 201))
	for _, read := range []int{len(im.manifest), 0} { // from the database, and from memory
		for _, reference := range []string{"x", im.digest.String()} {
			hashes("GET of a manifest", read, manifest("GET", reference, "", 200))
			hashes("HEAD of a manifest", 0, manifest("HEAD", reference, "", 200))
		}
	}
	artifact := newImage(typeOCIManifest, "application/vnd.example", "text/plain", "", layer, config)
	hashes("artifact's manifest", len(artifact.manifest), manifest("PUT", "artifact", artifact.manifest, 201))
	as512 := digest.SHA512.FromString(im.manifest).String()
	hashes("manifest, sha512", len(im.manifest)+len(config), manifest("PUT", as512, im.manifest, 201))
	// What nothing refers to is not remembered.
	hashes("GET of a manifest, sha512", len(im.manifest), manifest("GET", as512, "", 200))
	hashes("deletion of a tag", 0, manifest("DELETE", "artifact", "", 202))
	hashes("deletion of a manifest", 0, manifest("DELETE", artifact.digest.String(), "", 202))
	hashes("a collection", 0, func() { r.collect(collectNow) })

	// An index that the registry makes is hashed too; its members are not.
	writeRules(r.cfg.dir, fromSameTagRule)
	secondConfig := configFor("linux/arm64", strings.Repeat("second ", 1000))
	second := ociImage(secondConfig, layer)
	r.pushBlob("a", secondConfig)
	before := n.Load()
	manifest("PUT", "x", second.manifest, 201)()
	got := n.Load() - before
	index := r.want(200, "GET", "/v2/a/manifests/x", nil).body
	if want := len(second.manifest) + len(secondConfig) + len(index); string(index) == second.manifest || got != int64(want) {
		t.Errorf("an index made by the registry: %d bytes are hashed, want %d: the manifest, its config, the index", got, want)
	}
}

// The examples of FIPS 180, pushed in every way: no part of the program, of Go or of
// the processor may disagree with the rest of the world about a digest.
func TestDigestsOfKnownContent(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	for _, c := range []struct{ content, sha256, sha512 string }{
		{"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
			"cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"},
		{"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
			"ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"},
		{strings.Repeat("a", 1000000), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
			"e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973ebde0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b"},
	} {
		for _, d := range []digest.Digest{digest.Digest("sha256:" + c.sha256), digest.Digest("sha512:" + c.sha512)} {
			wrong := d[:len(d)-1] + digest.Digest("0123456789abcdef"[(strings.IndexByte("0123456789abcdef", d[len(d)-1])+1)%16])
			for _, way := range ways {
				if c.content == "" && way == "chunks" {
					continue // there is no Content-Range of no bytes
				}
				for _, query := range []string{"", "?digest-algorithm=" + d.Algorithm().String()} {
					if re, err := r.pushDigest(way, "a", c.content, wrong, query); err != nil || re.status != 400 {
						t.Errorf("%s of %d bytes as %s: %+v %v, want 400", way, len(c.content), wrong, re, err)
					}
					if re, err := r.pushDigest(way, "a", c.content, d, query); err != nil || re.status != 201 {
						t.Errorf("%s of %d bytes as %s: %+v %v, want 201", way, len(c.content), d, re, err)
					}
				}
				r.want(200, "GET", "/v2/a/blobs/"+d.String(), nil).is(c.content).has("Docker-Content-Digest", d.String())
				r.want(202, "DELETE", "/v2/a/blobs/"+d.String(), nil)
			}
		}
	}
}
