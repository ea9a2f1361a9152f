#!/usr/bin/env bash
# To delete one of two tags of an image is, for some clients, to delete both.
#
# distribution 3 deletes a tag by its name (DELETE manifests/<tag>, distribution specification 1.1, "Deleting tags") and leaves the image and
# its other tags. crane and regctl ask for that. The library of skopeo and podman, and oras, look up the digest first, and delete the
# manifest by it: `skopeo delete hub/app:latest` and `oras manifest delete hub/app:latest` also delete app:1.0 if that is the
# same image, which a release usually is. None of them says that it deleted another tag.
#
# Seen with distribution 3.1.2, crane 0.22.1, regctl 0.11.7, oras 1.3.6, go.podman.io/image 5.42.1 (2026-11-30):
#   crane delete app:latest: app:1.0 is there
#   regctl tag delete app:latest: app:1.0 is there
#   oras manifest delete app:latest: app:1.0 is gone
#   skopeo's library, delete app:latest: app:1.0 is gone
set -euo pipefail
tmp=$(mktemp -d)
server=; : >"$tmp/log"
trap '[ -z "$server" ] || kill "$server"; chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
export GOFLAGS=-mod=mod GOBIN=$tmp CGO_ENABLED=0 HOME=$tmp/home GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE)
mkdir "$HOME"
go install github.com/distribution/distribution/v3/cmd/registry@v3.1.2
go install github.com/google/go-containerregistry/cmd/crane@v0.22.1
go install github.com/regclient/regclient/cmd/regctl@v0.11.7
go install oras.land/oras/cmd/oras@v1.3.6
mkdir "$tmp/skopeo"
cd "$tmp/skopeo"
cat >main.go <<'GO'
package main

import (
	"context"
	"os"

	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/types"
)

func main() { // what skopeo delete does
	ref, err := docker.ParseReference("//" + os.Args[1])
	if err == nil {
		err = ref.DeleteImage(context.Background(), &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue})
	}
	if err != nil {
		panic(err)
	}
}
GO
go mod init example.org/skopeo 2>/dev/null
go mod edit -require go.podman.io/image/v5@v5.42.1
go mod tidy 2>/dev/null
go build -tags containers_image_openpgp -o "$tmp/delete" .

cat >"$tmp/config.yml" <<-END
	version: 0.1
	log: {level: info}
	storage: {inmemory: {}, delete: {enabled: true}}
	http: {addr: "127.0.0.1:0"}
END
OTEL_TRACES_EXPORTER=none "$tmp/registry" serve "$tmp/config.yml" 2>"$tmp/log" >&2 & server=$!
until hub=$(sed -n 's/.*listening on \(127[.0-9:]*\).*/\1/p' "$tmp/log") && [ -n "$hub" ]; do sleep 0.1; done
"$tmp/regctl" registry set --tls disabled "$hub"

echo layer >"$tmp/layer"
tar -C "$tmp" -cf "$tmp/layer.tar" layer
try() { # try REPOSITORY NAME COMMAND...: what is left of two tags after one is deleted
	"$tmp/crane" append -f "$tmp/layer.tar" -t "$hub/$1:1.0" >/dev/null 2>&1
	"$tmp/crane" tag "$hub/$1:1.0" latest 2>/dev/null
	"${@:3}" >/dev/null 2>&1
	local left=gone
	[ "$(curl -s -o /dev/null -w '%{http_code}' "http://$hub/v2/$1/manifests/latest")" = 404 ]
	[ "$("$tmp/crane" ls "$hub/$1" 2>/dev/null)" != 1.0 ] || left=there
	echo "$2 app:latest: app:1.0 is $left"
}
{
	try a 'crane delete' "$tmp/crane" delete "$hub/a:latest"
	try b 'regctl tag delete' "$tmp/regctl" tag delete "$hub/b:latest"
	try c 'oras manifest delete' "$tmp/oras" manifest delete --force --plain-http "$hub/c:latest"
	try d "skopeo's library, delete" "$tmp/delete" "$hub/d:latest"
} | tee "$tmp/seen"
diff "$tmp/seen" - <<-END
	crane delete app:latest: app:1.0 is there
	regctl tag delete app:latest: app:1.0 is there
	oras manifest delete app:latest: app:1.0 is gone
	skopeo's library, delete app:latest: app:1.0 is gone
END
