#!/usr/bin/env bash
# The reference registry's notifications report a check whether something exists as a pull, and a range of a blob as all of it.
#
# Every client that pushes asks by HEAD for each layer first, and docker asks by HEAD for a tag before it pulls it. distribution sends
# an event with the action "pull" for each of these, as for a GET; only request.method tells them apart. So a push of an image
# that is there already is reported as pulls of its layers, and whoever counts pulls (to bill, or to delete what nobody
# pulls) counts pushes, and counts docker's pulls twice. target.size is what the blob has, also where a range of one byte was sent.
# The event of a deleted tag has neither digest nor mediaType.
#
# Seen with distribution 3.1.2 (2026-11-30); the second GET is of the range bytes=0-0:
#   HEAD pull size=392 tag=1 digest=sha256: mediaType=application/vnd.oci.image.manifest.v1+json
#   GET pull size=392 tag=1 digest=sha256: mediaType=application/vnd.oci.image.manifest.v1+json
#   HEAD pull size=7 tag=none digest=sha256: mediaType=application/octet-stream
#   GET pull size=7 tag=none digest=sha256: mediaType=application/octet-stream
#   DELETE delete size=0 tag=1 digest=none mediaType=none
set -euo pipefail
tmp=$(mktemp -d)
pids=(); : >"$tmp/log"
trap '[ ${#pids[@]} = 0 ] || kill "${pids[@]}"; rm -rf "$tmp"' EXIT
export GOFLAGS=-mod=mod
GOBIN=$tmp CGO_ENABLED=0 go install github.com/distribution/distribution/v3/cmd/registry@v3.1.2

cat >"$tmp/listener.go" <<'GO'
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
)

func main() { // prints its address, then a line for each event
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("http://" + listener.Addr().String())
	panic(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var envelope struct {
			Events []struct {
				Action  string
				Target  struct{ MediaType, Digest, Tag string; Size int }
				Request struct{ Method string }
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&envelope); err != nil {
			panic(err)
		}
		for _, e := range envelope.Events {
			t := e.Target
			fmt.Fprintf(os.Stdout, "%s %s size=%d tag=%s digest=%.7s mediaType=%s\n", e.Request.Method, e.Action, t.Size,
				cmp.Or(t.Tag, "none"), cmp.Or(t.Digest, "none"), cmp.Or(t.MediaType, "none"))
		}
	})))
}
GO
go build -o "$tmp/listener" "$tmp/listener.go"
"$tmp/listener" >"$tmp/events" 2>&1 & pids+=($!)
until [ -s "$tmp/events" ]; do sleep 0.1; done
cat >"$tmp/config.yml" <<-END
	version: 0.1
	log: {level: info}
	storage: {inmemory: {}, delete: {enabled: true}}
	http: {addr: "127.0.0.1:0"}
	notifications: {endpoints: [{name: listener, url: "$(head -1 "$tmp/events")", timeout: 5s, threshold: 5, backoff: 1s}]}
END
OTEL_TRACES_EXPORTER=none "$tmp/registry" serve "$tmp/config.yml" 2>"$tmp/log" >&2 & pids+=($!)
until base=$(sed -n 's/.*listening on \(127[.0-9:]*\).*/http:\/\/\1/p' "$tmp/log") && [ -n "$base" ]; do sleep 0.1; done

type=application/vnd.oci.image.manifest.v1+json
sum() { printf %s "$1" | sha256sum | cut -d' ' -f1; }
descriptor() { printf '{"mediaType":"%s","digest":"sha256:%s","size":%d}' "$1" "$(sum "$2")" ${#2}; }
request() { curl -sf -o /dev/null -H "Accept: $type" "$@"; }
for content in '{}' 'a layer'; do
	location=$(curl -s -D- -o /dev/null -X POST "$base/v2/app/blobs/uploads/" | tr -d '\r' | sed -n 's/^location: //Ip')
	request -X PUT -H 'Content-Type: application/octet-stream' --data-binary "$content" "$location&digest=sha256:$(sum "$content")"
done
request -X PUT -H "Content-Type: $type" "$base/v2/app/manifests/1" --data-binary "$(printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' \
	$type "$(descriptor application/vnd.oci.image.config.v1+json '{}')" "$(descriptor application/vnd.oci.image.layer.v1.tar 'a layer')")"
request -I "$base/v2/app/manifests/1"
request "$base/v2/app/manifests/1"
request -I "$base/v2/app/blobs/sha256:$(sum 'a layer')"
request -H 'Range: bytes=0-0' "$base/v2/app/blobs/sha256:$(sum 'a layer')"
request -X DELETE "$base/v2/app/manifests/1"
until grep -q DELETE "$tmp/events"; do sleep 0.1; done

sed -n '/^PUT/d; 2,$p' "$tmp/events"
diff <(sed -n '/^PUT/d; 2,$p' "$tmp/events") - <<-END
	HEAD pull size=392 tag=1 digest=sha256: mediaType=$type
	GET pull size=392 tag=1 digest=sha256: mediaType=$type
	HEAD pull size=7 tag=none digest=sha256: mediaType=application/octet-stream
	GET pull size=7 tag=none digest=sha256: mediaType=application/octet-stream
	DELETE delete size=0 tag=1 digest=none mediaType=none
END
