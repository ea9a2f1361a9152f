#!/usr/bin/env bash
# An artifact that is carried as a file loses its content, and every exit status is 0.
#
# `regctl image export` writes an OCI layout in a tar and, for `docker load`, a manifest.json beside it, also for
# artifacts that are no images. `crane push` of the tar reads the manifest.json alone. Content that is not compressed it
# takes for layers, as many as the config has diff_ids, and an artifact's config ({}) has none: what it pushes is a Docker
# image without layers, under another digest. (Compressed content is an error.) One would expect the artifact, or an error.
#
# Seen with regctl 0.11.7 and crane 0.22.1 (2026-11-29), against the registry that crane has built in:
#   before: application/vnd.oci.image.manifest.v1+json, 1 layer
#   after:  application/vnd.docker.distribution.manifest.v2+json, 0 layers, exit status 0
set -euo pipefail
tmp=$(mktemp -d)
server=; : >"$tmp/log"
trap '[ -z "$server" ] || kill "$server"; chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
export GOBIN=$tmp CGO_ENABLED=0 HOME=$tmp GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE)
go install github.com/google/go-containerregistry/cmd/crane@v0.22.1
go install github.com/regclient/regclient/cmd/regctl@v0.11.7

"$tmp/crane" registry serve --address 127.0.0.1:0 2>"$tmp/log" & server=$!
until port=$(sed -n 's/.*serving on port \([0-9]*\).*/\1/p' "$tmp/log") && [ -n "$port" ]; do sleep 0.1; done
registry=127.0.0.1:$port
"$tmp/regctl" registry set "$registry" --tls disabled
echo 'what must not be lost' >"$tmp/content"
"$tmp/regctl" artifact put --artifact-type application/x-thing --file "$tmp/content" "$registry/thing:1" >/dev/null
"$tmp/regctl" image export "$registry/thing:1" "$tmp/thing.tar"
"$tmp/crane" push "$tmp/thing.tar" "$registry/thing:2" >/dev/null 2>&1 # succeeds

kind() { "$tmp/crane" manifest "$registry/thing:$1" | tr -d ' \n' | sed -E 's/.*"mediaType":"([^"]*manifest[^"]*)".*"layers":(\[.*\]).*/\1 \2/'; }
before=$(kind 1) after=$(kind 2)
echo "before: $before"
echo "after:  $after"
[[ $before == application/vnd.oci.image.manifest.v1+json\ \[\{* ]]
[ "$after" = 'application/vnd.docker.distribution.manifest.v2+json []' ]
