#!/usr/bin/env bash
# Pulling the same image twice into the same OCI layout makes a layout that cannot be pushed any more.
#
# `crane pull --format=oci IMAGE DIR` appends to DIR's index.json, also what is there already: the second pull of an unchanged
# image adds the same descriptor, to the byte, again. `crane push DIR`, which takes a layout's only image, then sees two
# images. A script that refreshes a layout on a stick every night breaks on the second night. (Its descriptors carry the
# media type of the config as artifactType besides, also for plain Docker images.)
#
# Seen with crane 0.22.1 (2026-11-29):
#   after 1 pull:  1 entry, push: 0
#   after 2 pulls: 2 entries, 1 digest, push: 1 (layout contains 2 entries, consider --index)
set -euo pipefail
tmp=$(mktemp -d)
server=; : >"$tmp/log"
trap '[ -z "$server" ] || kill "$server"; chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
export GOBIN=$tmp CGO_ENABLED=0 HOME=$tmp GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE)
go install github.com/google/go-containerregistry/cmd/crane@v0.22.1

"$tmp/crane" registry serve --address 127.0.0.1:0 2>"$tmp/log" & server=$!
until port=$(sed -n 's/.*serving on port \([0-9]*\).*/\1/p' "$tmp/log") && [ -n "$port" ]; do sleep 0.1; done
echo hello >"$tmp/file"
tar -C "$tmp" -cf "$tmp/layer.tar" file
"$tmp/crane" append --new_layer "$tmp/layer.tar" --new_tag "127.0.0.1:$port/app:1" >/dev/null 2>&1

look() {
	status=0
	"$tmp/crane" push "$tmp/layout" "127.0.0.1:$port/copy:1" >"$tmp/push" 2>&1 || status=$?
	all=$(grep -c '"digest"' "$tmp/layout/index.json") different=$(grep '"digest"' "$tmp/layout/index.json" | sort -u | wc -l)
	echo "entries $all, digests $different, push $status"
}
"$tmp/crane" pull --format=oci "127.0.0.1:$port/app:1" "$tmp/layout" 2>/dev/null
once=$(look)
"$tmp/crane" pull --format=oci "127.0.0.1:$port/app:1" "$tmp/layout" 2>/dev/null
twice=$(look)
echo "after 1 pull:  $once"
echo "after 2 pulls: $twice"
[ "$once" = 'entries 1, digests 1, push 0' ]
[ "$twice" = 'entries 2, digests 1, push 1' ]
