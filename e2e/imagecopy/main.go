// Imagecopy is the least program on the library of podman, buildah and skopeo, whose newest versions the
// module proxy does not have as programs: it logs in, copies, tags and deletes as they do. It is a module of
// its own, so that the tests need none of what the library needs.
//
//	imagecopy [flags] login USER REGISTRY <password
//	imagecopy [flags] logout REGISTRY
//	imagecopy [flags] copy SOURCE DESTINATION   docker://…, oci:DIR:TAG or dir:DIR; prints the digest
//	imagecopy [flags] tags docker://REPOSITORY
//	imagecopy [flags] delete docker://IMAGE
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/pkg/compression"
	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

var (
	insecure = flag.Bool("insecure", false, "speak plain HTTP where there is no TLS")
	certs    = flag.String("certs", "", "directory with a directory of certificates for each HOST:PORT")
	zstd     = flag.Bool("zstd", false, "compress layers with zstd")
)

func main() {
	flag.Parse()
	if err := run(context.Background(), flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "imagecopy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	// Root's usual place is the machine's. What was pushed where is in it, so that layers are mounted.
	cache := filepath.Join(os.Getenv("HOME"), "blob-info")
	sys := &types.SystemContext{DockerPerHostCertDirPath: *certs, BlobInfoCacheDir: cache}
	if *insecure {
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	if *zstd {
		sys.CompressionFormat = &compression.Zstd
	}
	verb, rest := "", args
	if len(args) > 0 {
		verb, rest = args[0], args[1:]
	}
	switch {
	case verb == "login" && len(rest) == 2:
		return login(ctx, sys, rest[0], rest[1])
	case verb == "logout" && len(rest) == 1:
		return config.RemoveAuthentication(sys, rest[0])
	case verb == "copy" && len(rest) == 2:
		return copyImage(ctx, sys, rest[0], rest[1])
	case verb == "tags" && len(rest) == 1:
		ref, err := docker.ParseReference(strings.TrimPrefix(rest[0], "docker:"))
		if err != nil {
			return err
		}
		tags, err := docker.GetRepositoryTags(ctx, sys, ref)
		fmt.Println(strings.Join(tags, "\n"))
		return err
	case verb == "delete" && len(rest) == 1:
		ref, err := parse(rest[0])
		if err != nil {
			return err
		}
		return ref.DeleteImage(ctx, sys)
	}
	return fmt.Errorf("this cannot be done: %q", args)
}

// login asks the registry before it remembers the password on stdin.
func login(ctx context.Context, sys *types.SystemContext, user, registry string) error {
	password, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if err := docker.CheckAuth(ctx, sys, user, string(password), registry); err != nil {
		return err
	}
	return config.SetAuthentication(sys, registry, user, string(password))
}

// copyImage copies an image, of an index everything, and prints the digest at the destination.
func copyImage(ctx context.Context, sys *types.SystemContext, from, to string) error {
	src, err := parse(from)
	if err != nil {
		return err
	}
	dest, err := parse(to)
	if err != nil {
		return err
	}
	policy, err := signature.NewPolicyContext(&signature.Policy{
		Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	defer policy.Destroy()
	body, err := copy.Image(ctx, policy, dest, src, &copy.Options{
		ReportWriter: os.Stderr, SourceCtx: sys, DestinationCtx: sys,
		ImageListSelection: copy.CopyAllImages, ForceCompressionFormat: *zstd})
	if err != nil {
		return err
	}
	digest, err := manifest.Digest(body)
	fmt.Println(digest)
	return err
}

func parse(name string) (types.ImageReference, error) {
	transport, rest, _ := strings.Cut(name, ":")
	switch transport {
	case "docker":
		return docker.ParseReference(rest)
	case "oci":
		return layout.ParseReference(rest)
	case "dir":
		return directory.NewReference(rest)
	}
	return nil, fmt.Errorf("%q is no place for an image", name)
}
