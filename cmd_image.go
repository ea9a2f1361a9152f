// `berth image`: Berth as an image (image.go), to a file, another registry, or this one.
//
// For this registry a running server makes the image itself, from its own program or from files that
// it can read, as it makes backups; everything else needs no data directory.

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// A destination is where an image goes: one of file, stdout, a repository of another registry or of this one.
type destination struct {
	file      string
	stdout    bool
	host      string // "" for this registry
	name, tag string
}

// parseDestination reads FILE.tar, -, HOST[:PORT]/NAME:TAG, or NAME:TAG. As Docker has it, what
// is before the first slash is a host if it has a dot or a port, or is localhost.
func parseDestination(text string) (d destination, err error) {
	if text == "-" {
		return destination{stdout: true}, nil
	}
	if strings.HasSuffix(text, ".tar") {
		return destination{file: text}, nil
	}
	if scheme, rest, ok := strings.Cut(text, "://"); ok {
		return d, fmt.Errorf("%q: give the name without %s://, as in %s", text, scheme, rest)
	}
	image := text
	if first, rest, ok := strings.Cut(text, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		if d.host, image = registryHost(first, ""), rest; d.host == "" {
			return d, fmt.Errorf("%q is not a registry's HOST or HOST:PORT", first)
		}
		d.host = first
	}
	name, ref, err := parseArgument(image)
	if err != nil {
		return d, fmt.Errorf("%q is neither FILE.tar, - for standard output, HOST/NAME:TAG nor NAME:TAG: %w", text, err)
	}
	if ref.tag == "" {
		return d, fmt.Errorf("%q has no tag: write %s:TAG, or for a file %[2]s.tar", text, strings.TrimSuffix(text, "@"+ref.digest.String()))
	}
	d.name, d.tag = name, ref.tag
	return d, nil
}

// checkImageCommand refuses what is no destination, and flags of a push where nothing is pushed.
func checkImageCommand(cfg *config) error {
	d, err := parseDestination(cfg.Args[0])
	if err != nil {
		return err
	}
	for _, f := range remoteFlags {
		if cfg.given[f.name] && !cfg.byEnv[f.name] && d.host == "" {
			return fmt.Errorf("--%s is for another registry, as in berth image HOST/NAME:TAG", f.name)
		}
	}
	if d.stdout && cfg.JSON {
		return errors.New("--json has no place to write to when the image goes to standard output")
	}
	return nil
}

// imageCommand is `berth image`.
func imageCommand(ctx context.Context, cfg *config, stdin io.Reader, stdout io.Writer) (err error) {
	dest, err := parseDestination(cfg.Args[0])
	if err != nil {
		return err
	}
	if cfg.Created, err = sourceDate(cfg.env); err != nil {
		return err
	}
	if dest.name != "" && dest.host == "" {
		for i := range cfg.Args[1:] { // a server has another working directory
			if cfg.Args[i+1], err = filepath.Abs(cfg.Args[i+1]); err != nil {
				return err
			}
		}
		local := *findCommand("image")
		local.alone = nil
		return local.work(ctx, cfg, stdin, stdout)
	}
	im, err := cfg.options.ownImage()
	if err != nil {
		return err
	}
	defer im.close()
	switch {
	case dest.stdout:
		return im.writeTo(stdout)
	case dest.host == "":
		err = im.writeFile(dest.file)
	default:
		var c *client
		if c, err = cfg.remote.client(ctx, dest.host, cfg.env, stdin, stdout); err == nil {
			err = im.push(ctx, c, dest.name, dest.tag)
		}
	}
	if err != nil {
		return err
	}
	return im.tell(cfg.Args[0], cfg.options, cfg.console(stdout))
}

// imageHere is `berth image NAME:TAG`: it puts the image in this registry.
func imageHere(ctx context.Context, st *store, o options, out *console) error {
	dest, err := parseDestination(o.Args[0])
	if err != nil {
		return err
	}
	im, err := o.ownImage()
	if err != nil {
		return err
	}
	defer im.close()
	for _, b := range im.blobs {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		body, err := b.open(0)
		if err != nil {
			return err
		}
		err = st.uploads.bring(dest.name, b.Digest, b.Size, body, o.author())
		body.Close()
		if err != nil {
			return err
		}
	}
	for _, p := range im.eachManifest() {
		body, err := p.bytes()
		if err != nil {
			return err
		}
		m, err := parseManifest(body, p.MediaType, p.Digest)
		if err != nil {
			return err
		}
		var tags []string
		if p.Digest == im.top.Digest {
			tags = []string{dest.tag}
		}
		if err := st.putManifest(dest.name, m, tags, o.author()); err != nil {
			return err
		}
	}
	return im.tell(o.Args[0], o, out)
}

// sourceDate is the time that SOURCE_DATE_EPOCH says, in seconds; 0 if it is not set.
func sourceDate(env environment) (int64, error) {
	text, _ := env.lookup("SOURCE_DATE_EPOCH")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > 1<<38 {
		return 0, fmt.Errorf("the environment variable SOURCE_DATE_EPOCH is not a number of seconds: %q", text)
	}
	return n, nil
}

// ownImage makes the image that the options describe.
func (o options) ownImage() (*ownImage, error) {
	files := o.Args[1:]
	if len(files) == 0 {
		files = []string{""}
	}
	var created time.Time
	if o.Created > 0 {
		created = time.Unix(o.Created, 0).UTC()
	}
	return makeOwnImage(files, created)
}

// eachManifest is all manifests, in an order in which they can be pushed.
func (im *ownImage) eachManifest() []part {
	if len(im.manifests) == 1 {
		return im.manifests
	}
	return append(im.manifests, im.top)
}

// writeTo writes the archive to a pipe, say.
func (im *ownImage) writeTo(w io.Writer) error {
	if isTerminal(w) {
		return errors.New("an image is not for a terminal: redirect it, or name a file, as in berth image berth.tar")
	}
	b := bufio.NewWriterSize(w, 64<<10)
	return errors.Join(im.writeArchive(b), b.Flush())
}

// writeFile writes the archive to a file, which is there whole or not at all.
func (im *ownImage) writeFile(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = errors.Join(im.writeTo(f), f.Chmod(0o644), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// push sends the image to another registry.
func (im *ownImage) push(ctx context.Context, c *client, name, tag string) error {
	defer c.close()
	for _, b := range im.blobs {
		open := func(offset int64) (io.Reader, error) { return b.open(offset) }
		if _, err := c.pushBlob(ctx, name, pushedBlob{digest: b.Digest, size: b.Size, open: open}); err != nil {
			return err
		}
	}
	for _, p := range im.eachManifest() {
		body, err := p.bytes()
		if err != nil {
			return err
		}
		ref := reference{digest: p.Digest}
		if p.Digest == im.top.Digest {
			ref = reference{tag: tag}
		}
		if err := c.putManifest(ctx, name, ref, p.MediaType, body); err != nil {
			return err
		}
	}
	return nil
}

// tell says what was made.
func (im *ownImage) tell(where string, o options, out *console) error {
	var platforms []string
	var size int64
	for _, m := range im.manifests {
		platforms = append(platforms, m.Platform.String())
	}
	for _, b := range im.blobs {
		size += b.Size
	}
	if o.JSON {
		return out.json(struct {
			Image     string        `json:"image"`
			Digest    digest.Digest `json:"digest"`
			Platforms []string      `json:"platforms"`
			Size      int64         `json:"size"`
		}{where, im.top.Digest, platforms, size})
	}
	out.printf("%s: Berth for %s, %s\n%s\n", where, strings.Join(platforms, ", "), formatSize(size), im.top.Digest)
	return nil
}
