#!/usr/bin/env bash
# The same chart, pushed twice from one file, has two digests if the two machines have different time zones.
#
# helm 4 writes the file's modification time into the manifest, as the annotation org.opencontainers.image.created, and
# writes it in the local time zone. So a CI runner and a developer push different manifests of one .tgz, and the second
# push to a registry with immutable tags is refused as another image. (Another modification time of the same bytes, as
# after a download, has the same effect.) One would expect the digest to depend on the chart alone, or at least on
# the moment alone.
#
# Seen with helm 4.3.1 (2026-11-29), against the registry that crane 0.22.1 has built in:
#   TZ=UTC  org.opencontainers.image.created: 2023-11-14T22:13:20Z
#   TZ=Asia/Tokyo  org.opencontainers.image.created: 2023-11-15T07:13:20+09:00
#   the digests differ
set -euo pipefail
tmp=$(mktemp -d)
server=; : >"$tmp/log"
trap '[ -z "$server" ] || kill "$server"; chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
export GOBIN=$tmp CGO_ENABLED=0 GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE) HOME=$tmp
go install github.com/google/go-containerregistry/cmd/crane@v0.22.1
go install helm.sh/helm/v4/cmd/helm@v4.3.1 # some minutes, the first time

"$tmp/crane" registry serve --address 127.0.0.1:0 2>"$tmp/log" & server=$!
until port=$(sed -n 's/.*serving on port \([0-9]*\).*/\1/p' "$tmp/log") && [ -n "$port" ]; do sleep 0.1; done
cd "$tmp"
mkdir -p app/templates
printf 'apiVersion: v2\nname: app\nversion: 1.0.0\n' >app/Chart.yaml
printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\n' >app/templates/map.yaml
SOURCE_DATE_EPOCH=1700000000 "$tmp/helm" package app >/dev/null
touch -d @1700000000 app-1.0.0.tgz
push() { # push ZONE: the digest, and what the manifest says of the time
	TZ=$1 "$tmp/helm" push --plain-http app-1.0.0.tgz "oci://127.0.0.1:$port/$2" >"$tmp/said" 2>&1
	sed -n 's/^Digest: //p' "$tmp/said"
	"$tmp/crane" manifest "127.0.0.1:$port/$2/app:1.0.0" | grep -o '"org.opencontainers.image.created":"[^"]*"'
}
utc=$(push UTC a) tokyo=$(push Asia/Tokyo b) again=$(push UTC c)
printf 'TZ=UTC\n%s\nTZ=Asia/Tokyo\n%s\n' "$utc" "$tokyo"
[ "$utc" = "$again" ]
[[ $utc == sha256:*'"org.opencontainers.image.created":"2023-11-14T22:13:20Z"' ]]
[[ $tokyo == sha256:*'"org.opencontainers.image.created":"2023-11-15T07:13:20+09:00"' ]]
[ "${utc%%$'\n'*}" != "${tokyo%%$'\n'*}" ] && echo 'the digests differ'
