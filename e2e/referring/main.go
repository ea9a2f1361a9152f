// Referring is the least program on three libraries that know referrers, for what the newest clients do with them
// and show in no command of theirs: containerd's, which Docker and BuildKit ask through; oras-go, which notation and
// helm are built on, too; and go-containerregistry, crane's and cosign's. It is a module of its own, so that the
// tests need none of what the libraries need.
//
//	referring LIBRARY list HOST:PORT/REPOSITORY@DIGEST [TYPE…]      prints a digest a line
//	referring LIBRARY attach HOST:PORT/REPOSITORY@DIGEST TYPE       prints the digest of what refers to it now
//
// It speaks plain HTTP.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	orasremote "oras.land/oras-go/v2/registry/remote"
)

// A library lists and attaches. A subject is HOST:PORT/REPOSITORY@DIGEST.
type library interface {
	list(ctx context.Context, subject string, artifactTypes []string) ([]string, error)
	attach(ctx context.Context, subject, artifactType string) (string, error)
}

var libraries = map[string]library{"containerd": containerd{}, "oras": orasGo{}, "crane": crane{}}

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "referring:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 3 || libraries[args[0]] == nil {
		return fmt.Errorf("this cannot be done: %q", args)
	}
	switch lib := libraries[args[0]]; {
	case args[1] == "list":
		digests, err := lib.list(ctx, args[2], args[3:])
		fmt.Println(strings.Join(digests, "\n"))
		return err
	case args[1] == "attach" && len(args) == 4:
		digest, err := lib.attach(ctx, args[2], args[3])
		fmt.Println(digest)
		return err
	}
	return fmt.Errorf("this cannot be done: %q", args)
}

type containerd struct{}

func (containerd) resolver() remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))})
}

func (c containerd) list(ctx context.Context, subject string, artifactTypes []string) (digests []string, err error) {
	fetcher, err := c.resolver().Fetcher(ctx, subject)
	if err != nil {
		return nil, err
	}
	_, at, _ := strings.Cut(subject, "@")
	found, err := fetcher.(remotes.ReferrersFetcher).FetchReferrers(ctx, digest.Digest(at),
		remotes.WithReferrerArtifactTypes(artifactTypes...))
	for _, d := range found {
		digests = append(digests, d.Digest.String())
	}
	return digests, err
}

func (c containerd) attach(ctx context.Context, subject, artifactType string) (string, error) {
	_, of, err := c.resolver().Resolve(ctx, subject)
	if err != nil {
		return "", err
	}
	repository, _, _ := strings.Cut(subject, "@")
	pusher, err := c.resolver().Pusher(ctx, repository)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}, Subject: &of})
	if err != nil {
		return "", err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(body), Size: int64(len(body))}
	if err := push(ctx, pusher, ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON.Data); err != nil {
		return "", err
	}
	return desc.Digest.String(), push(ctx, pusher, desc, body)
}

func push(ctx context.Context, pusher remotes.Pusher, desc ocispec.Descriptor, body []byte) error {
	w, err := pusher.Push(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := io.Copy(w, bytes.NewReader(body)); err != nil {
		return err
	}
	return w.Commit(ctx, desc.Size, desc.Digest)
}

type orasGo struct{}

func (orasGo) repository(subject string) (*orasremote.Repository, error) {
	repo, err := orasremote.NewRepository(subject)
	if err == nil {
		repo.PlainHTTP = true
	}
	return repo, err
}

func (o orasGo) list(ctx context.Context, subject string, artifactTypes []string) (digests []string, err error) {
	repo, err := o.repository(subject)
	if err != nil {
		return nil, err
	}
	of, err := repo.Resolve(ctx, repo.Reference.Reference)
	if err != nil {
		return nil, err
	}
	one := "" // of which it asks
	switch len(artifactTypes) {
	case 0:
	case 1:
		one = artifactTypes[0]
	default:
		return nil, errors.New("oras-go asks for one type at a time")
	}
	return digests, repo.Referrers(ctx, of, one, func(found []ocispec.Descriptor) error {
		for _, d := range found {
			digests = append(digests, d.Digest.String())
		}
		return nil
	})
}

func (o orasGo) attach(ctx context.Context, subject, artifactType string) (string, error) {
	repo, err := o.repository(subject)
	if err != nil {
		return "", err
	}
	of, err := repo.Resolve(ctx, repo.Reference.Reference)
	if err != nil {
		return "", err
	}
	desc, err := oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, artifactType, oras.PackManifestOptions{Subject: &of})
	return desc.Digest.String(), err
}

type crane struct{}

func (crane) list(ctx context.Context, subject string, artifactTypes []string) (digests []string, err error) {
	ref, err := name.NewDigest(subject, name.Insecure)
	if err != nil {
		return nil, err
	}
	opts := []remote.Option{remote.WithContext(ctx)}
	for _, t := range artifactTypes {
		opts = append(opts, remote.WithFilter("artifactType", t))
	}
	index, err := remote.Referrers(ref, opts...)
	if err != nil {
		return nil, err
	}
	found, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range found.Manifests {
		digests = append(digests, d.Digest.String())
	}
	return digests, nil
}

func (crane) attach(ctx context.Context, subject, artifactType string) (string, error) {
	ref, err := name.NewDigest(subject, name.Insecure)
	if err != nil {
		return "", err
	}
	of, err := remote.Head(ref, remote.WithContext(ctx))
	if err != nil {
		return "", err
	}
	// The type of the config is that of the artifact, as cosign has it.
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.MediaType(artifactType))
	image = mutate.Subject(image, *of).(v1.Image)
	digest, err := image.Digest()
	if err != nil {
		return "", err
	}
	return digest.String(), remote.Write(ref.Context().Digest(digest.String()), image, remote.WithContext(ctx))
}
