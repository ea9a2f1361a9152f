// What Docker writes: manifest.json, a config for each image, and layers as tars that have no digests.
//
// The manifest of such an image is made here, and always the same for the same image: an OCI manifest of the config as
// it is and of the layers as they are, compressed or not. As a rule they are not, and then a layer's digest is the
// one that the config has of it; so every tool's archive of an image, and every version of Berth, gives the same digest.
// To compress them would cost time, and change digests with the compressor.

package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// A savedItem is an image as manifest.json has it.
type savedItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// maxLayers bounds the layers of an image: more than Docker makes (127).
const maxLayers = 1000

// parseManifestFile reads manifest.json, image by image. An image with several names is as many roots.
func parseManifestFile(r io.Reader) (*listing, error) {
	l := new(listing)
	bounded := &io.LimitedReader{R: r, N: maxListing + 1}
	d := json.NewDecoder(bounded)
	err := eachElement(d, func() error {
		item := new(savedItem)
		if err := d.Decode(item); err != nil {
			return err
		}
		if len(item.Layers) > maxLayers {
			return fmt.Errorf("an image has more than %d layers", maxLayers)
		}
		for i, name := range append([]string{item.Config}, item.Layers...) {
			clean, err := cleanName(name)
			if err != nil || clean == "" {
				return errors.Join(err, errors.New("an image has a file without a name"))
			}
			if i == 0 {
				item.Config = clean
			} else {
				item.Layers[i-1] = clean
			}
		}
		names := item.RepoTags
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			if len(l.roots) == maxEntries {
				return fmt.Errorf("lists more than %d images", maxEntries)
			}
			l.roots = append(l.roots, root{name: name, item: item})
		}
		return nil
	})
	if err != nil && bounded.N <= 0 {
		return nil, errListing(manifestFile, "is larger than %d MiB", maxListing>>20)
	}
	if err != nil {
		return nil, errListing(manifestFile, "cannot be read: %w", err)
	}
	return l, nil
}

// A savedImage is the image that was made of a savedItem.
type savedImage struct {
	manifest part // its bytes are in body
	body     []byte
	files    map[digest.Digest]string // where its blobs are in the bundle
}

// makeImage makes the manifest of an image in an archive of Docker. Layers that are compressed are read for that, and are
// what the config says of them then; those that are not are verified when they are read as what the config says.
func makeImage(b bundle, item *savedItem) (*savedImage, error) {
	config, err := readWhole(b, item.Config, maxSavedConfig)
	if err != nil {
		return nil, fmt.Errorf("the config of the image: %w", err)
	}
	var says struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &says); err != nil {
		return nil, fmt.Errorf("the config of the image, %s, is not JSON: %w", item.Config, err)
	}
	if len(says.RootFS.DiffIDs) != len(item.Layers) {
		return nil, fmt.Errorf("it is no image that Docker can have saved: its config tells of %d layers, and there are %d. Artifacts, such as Helm charts, need an OCI layout", len(says.RootFS.DiffIDs), len(item.Layers))
	}
	im := &savedImage{files: make(map[digest.Digest]string)}
	top := part{MediaType: typeOCIConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	im.files[top.Digest] = item.Config
	layers := make([]part, 0, len(item.Layers))
	for i, name := range item.Layers {
		diffID, err := parseDigest(says.RootFS.DiffIDs[i])
		if err != nil {
			return nil, fmt.Errorf("the config of the image: %w", err)
		}
		layer, err := layerOf(b, name, diffID)
		if err != nil {
			return nil, err
		}
		im.files[layer.Digest] = name
		layers = append(layers, layer)
	}
	im.body, err = json.Marshal(struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
		Config        part   `json:"config"`
		Layers        []part `json:"layers"`
	}{2, typeOCIManifest, top, layers})
	im.manifest = part{MediaType: typeOCIManifest, Digest: digest.FromBytes(im.body), Size: int64(len(im.body))}
	return im, err
}

// layerOf describes a layer whose content is to have the digest diffID before compression.
func layerOf(b bundle, name string, diffID digest.Digest) (part, error) {
	size, err := b.size(name)
	if err != nil {
		return part{}, fmt.Errorf("the layer %s: %w", name, err)
	}
	r, err := b.open(name)
	if err != nil {
		return part{}, err
	}
	defer r.Close()
	packed := sha256.New()
	buffered := bufio.NewReaderSize(r, 256<<10)
	head, err := buffered.Peek(512)
	if err != nil && err != io.EOF {
		return part{}, err
	}
	layer := part{Size: size}
	c := sniff(head)
	switch c {
	case plainTar:
		layer.MediaType, layer.Digest = "application/vnd.oci.image.layer.v1.tar", diffID
		return layer, nil
	case gzipped:
		layer.MediaType = typeOCILayer
	case zstandard:
		layer.MediaType = "application/vnd.oci.image.layer.v1.tar+zstd"
	default:
		return part{}, fmt.Errorf("the layer %s is no tar archive, plain or compressed with gzip or zstd", name)
	}
	through := io.TeeReader(buffered, packed)
	z, err := unpack(through, c)
	if err != nil {
		return part{}, fmt.Errorf("the layer %s: %w", name, err)
	}
	defer z.Close()
	v := diffID.Verifier()
	if _, err := io.Copy(v, z); err != nil {
		return part{}, fmt.Errorf("the layer %s: %w", name, tarProblem(err))
	}
	if _, err := io.Copy(io.Discard, through); err != nil { // what follows the compressed data
		return part{}, err
	}
	if !v.Verified() {
		return part{}, fmt.Errorf("the layer %s is not the one that the config tells of (%s)", name, diffID)
	}
	layer.Digest = digest.NewDigest(digest.SHA256, packed)
	return layer, nil
}
