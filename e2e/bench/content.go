package main

// What is pushed and pulled: random bytes, other ones in each run, cut into blobs that differ in a number
// near their end. So a blob is made at no cost, and so is its digest: that of the beginning, which was
// hashed once, and of a few bytes more.

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
)

// prepare makes the content: random bytes, other ones in each run.
func (b *bench) prepare() {
	content := make([]byte, b.amount.large)
	seed := [32]byte{}
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	rand.NewChaCha8(seed).Read(content)
	b.large = newMould(content, "")
	b.flood = newMould(content[:b.amount.flood], "")
	b.layer = newMould(content[:64<<10], "")
	b.small = newMould(content[:4<<10], "")
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{"Labels":{"padding":"`)
	for len(config) < 1<<10-100 {
		config = append(config, 'x')
	}
	config = append(append(config, `","run":"`...), fmt.Sprintf(`%016x","number":"`, rand.Uint64())...)
	b.config = newMould(append(config, make([]byte, 16+len(`"}}}`))...), `"}}}`)
}

func (b *bench) cast(m *mould) blob { return m.cast(b.count.Add(1)) }

// A blob is two pieces of memory, of which the first is shared with the other blobs of its mould.
type blob struct {
	begin, end []byte
	digest     string
}

func (b blob) size() int { return len(b.begin) + len(b.end) }

// slice returns the bytes from one place to another.
func (b blob) slice(from, to int) [][]byte {
	n := len(b.begin)
	switch {
	case to <= n:
		return [][]byte{b.begin[from:to]}
	case from >= n:
		return [][]byte{b.end[from-n : to-n]}
	}
	return [][]byte{b.begin[from:], b.end[:to-n]}
}

// equal tells whether p is what b has at a place.
func (b blob) equal(at int, p []byte) bool {
	if at+len(p) > b.size() {
		return false
	}
	for _, q := range b.slice(at, at+len(p)) {
		if !bytes.Equal(p[:len(q)], q) {
			return false
		}
		p = p[len(q):]
	}
	return true
}

// A mould makes blobs of one size that differ in a number of sixteen digits near the end.
type mould struct {
	begin  []byte
	tail   string
	hashed hash.Cloner // begin
}

// newMould makes a mould of content, whose last bytes give way to the number and the tail.
func newMould(content []byte, tail string) *mould {
	h := sha256.New()
	m := &mould{content[:len(content)-16-len(tail)], tail, h.(hash.Cloner)}
	h.Write(m.begin)
	return m
}

// cast is safe to call from many goroutines.
func (m *mould) cast(number uint64) blob {
	end := fmt.Appendf(make([]byte, 0, 16+len(m.tail)), "%016x%s", number, m.tail)
	h, err := m.hashed.Clone()
	if err != nil {
		panic(err) // crypto/sha256 can
	}
	h.Write(end)
	return blob{m.begin, end, "sha256:" + hex.EncodeToString(h.Sum(nil))}
}

// seeds are what a server has for the pulls.
type seeds struct {
	large  blob
	small  []blob
	images []image
}

// seed gives a server what there is to pull, the first time that it is called in a round.
func (b *bench) seed(s *server) error {
	if s.seeds != nil {
		return nil
	}
	x := &seeds{large: b.cast(b.large)}
	for range b.amount.small {
		x.small = append(x.small, b.cast(b.small))
	}
	for range b.amount.images {
		x.images = append(x.images, b.image())
	}
	if s.static {
		if err := b.seedFiles(s, x); err != nil {
			return err
		}
	} else {
		var next atomic.Int64
		_, err := b.together(s, 8, func(c *conn, worker int) error {
			if worker == 0 {
				if err := b.pushBlob(c, x.large); err != nil {
					return err
				}
			}
			for {
				switch i := int(next.Add(1)) - 1; {
				case i < len(x.small):
					if err := b.pushBlob(c, x.small[i]); err != nil {
						return err
					}
				case i-len(x.small) < len(x.images):
					if err := b.pushImage(c, x.images[i-len(x.small)]); err != nil {
						return err
					}
				default:
					return nil
				}
			}
		})
		if err != nil {
			return err
		}
	}
	s.seeds = x
	return nil
}

// seedFiles puts it below the directory that is served.
func (b *bench) seedFiles(s *server, x *seeds) error {
	put := func(path string, content ...[]byte) error {
		path = filepath.Join(s.dir, path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		return errors.Join(err, os.WriteFile(path, slices.Concat(content...), 0o644))
	}
	for _, y := range append([]blob{x.large}, x.small...) {
		if err := put(b.blobPath(y), y.begin, y.end); err != nil {
			return err
		}
	}
	for _, im := range x.images {
		if err := put(b.manifestPath(im.tag), im.body); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) uploads() string                { return "/v2/" + b.repo + "/blobs/uploads/" }
func (b *bench) blobPath(x blob) string         { return "/v2/" + b.repo + "/blobs/" + x.digest }
func (b *bench) manifestPath(tag string) string { return "/v2/" + b.repo + "/manifests/" + tag }

// withDigest adds a blob's digest to the Location of its upload.
func withDigest(location string, x blob) string {
	if strings.Contains(location, "?") {
		return location + "&digest=" + x.digest
	}
	return location + "?digest=" + x.digest
}

func (b *bench) pushBlob(c *conn, x blob) error {
	if err := c.do(202, "POST", b.uploads(), ""); err != nil {
		return err
	}
	return c.do(201, "PUT", withDigest(c.location, x), octets, x.begin, x.end)
}

func (b *bench) pushManifest(c *conn, tag string, body []byte) error {
	return c.do(201, "PUT", b.manifestPath(tag), "Content-Type: "+manifestType+"\r\n", body)
}

// An image is a config of 1 KiB, three layers of 64 KiB, and a manifest.
type image struct {
	blobs       [4]blob // the config first
	tag, digest string
	body        []byte // the manifest
}

func (b *bench) image() image {
	im := image{blobs: [4]blob{b.cast(b.config), b.cast(b.layer), b.cast(b.layer), b.cast(b.layer)},
		tag: fmt.Sprintf("v%d", b.count.Add(1))}
	im.body = im.manifest("")
	im.digest = digestOf(im.body)
	return im
}

// manifest is the image's manifest with something more at its end.
func (im *image) manifest(more string) []byte {
	x := &im.blobs
	const layer = `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"%s","size":%d}`
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"`+manifestType+
		`","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%d},"layers":[`+
		layer+","+layer+","+layer+"]%s}", x[0].digest, x[0].size(), x[1].digest, x[1].size(), x[2].digest, x[2].size(),
		x[3].digest, x[3].size(), more)
}

func (b *bench) pushImage(c *conn, im image) error {
	for _, x := range im.blobs {
		if err := b.pushBlob(c, x); err != nil {
			return err
		}
	}
	return b.pushManifest(c, im.tag, im.body)
}

func (b *bench) pullImage(c *conn, im image) error {
	if err := c.get(b.manifestPath(im.tag), acceptType, im.body); err != nil {
		return err
	}
	for _, x := range im.blobs {
		if err := c.get(b.blobPath(x), "", x.begin, x.end); err != nil {
			return err
		}
	}
	return nil
}
