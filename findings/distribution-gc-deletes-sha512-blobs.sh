#!/usr/bin/env bash
# The reference registry takes blobs by a sha512 digest, and its garbage collection deletes them while they are in use.
#
# distribution stores such a blob under the sha256 digest that it computes, with a link from the sha512 one. The mark phase
# of `registry garbage-collect` remembers what the manifest names, sha512:…, and the sweep looks for sha256:…, which nobody
# has marked: the bytes of a tagged image go, the manifest stays. It also deletes the links of those layers, of which it has two
# each, and stops with an error at the second; the bytes are gone by then. Whoever moves such images elsewhere must do so
# before a collection.
#
# Seen with distribution 3.1.2 (2026-11-29), without --delete-untagged:
#   before: manifest 200, blob 200
#   after:  manifest 200, blob 404
set -euo pipefail
tmp=$(mktemp -d)
server=; : >"$tmp/log"
trap '[ -z "$server" ] || kill "$server"; rm -rf "$tmp"' EXIT
GOBIN=$tmp CGO_ENABLED=0 go install github.com/distribution/distribution/v3/cmd/registry@v3.1.2

cat >"$tmp/config.yml" <<-END
	version: 0.1
	log: {level: info}
	storage: {filesystem: {rootdirectory: $tmp/data}}
	http: {addr: "127.0.0.1:0"}
END
"$tmp/registry" serve "$tmp/config.yml" 2>"$tmp/log" >&2 & server=$!
until base=$(sed -n 's/.*listening on \(127[.0-9:]*\).*/http:\/\/\1/p' "$tmp/log") && [ -n "$base" ]; do sleep 0.1; done

sum() { printf %s "$1" | sha512sum | cut -d' ' -f1; }
descriptor() { printf '{"mediaType":"%s","digest":"sha512:%s","size":%d}' "$1" "$(sum "$2")" ${#2}; }
code() { curl -s -o /dev/null -w '%{http_code}' "$@"; }
for content in '{}' 'a layer'; do
	location=$(curl -s -D- -o /dev/null -X POST "$base/v2/app/blobs/uploads/" | tr -d '\r' | sed -n 's/^location: //Ip')
	[ "$(code -X PUT -H 'Content-Type: application/octet-stream' --data-binary "$content" "$location&digest=sha512:$(sum "$content")")" = 201 ]
done
type=application/vnd.oci.image.manifest.v1+json
manifest=$(printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' $type \
	"$(descriptor application/vnd.oci.image.config.v1+json '{}')" "$(descriptor application/vnd.oci.image.layer.v1.tar 'a layer')")
[ "$(code -X PUT -H "Content-Type: $type" --data-binary "$manifest" "$base/v2/app/manifests/1")" = 201 ]

look() { echo "manifest $(code -H "Accept: $type" "$base/v2/app/manifests/1"), blob $(code "$base/v2/app/blobs/sha512:$(sum 'a layer')")"; }
before=$(look)
"$tmp/registry" garbage-collect "$tmp/config.yml" >"$tmp/gc" 2>&1 || true # it fails, too late
after=$(look)
echo "before: $before"
echo "after:  $after"
[ "$before" = 'manifest 200, blob 200' ]
[ "$after" = 'manifest 200, blob 404' ]
