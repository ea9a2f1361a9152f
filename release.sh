#!/usr/bin/env bash
# Builds a release: ./release.sh VERSION [TARGET...], into dist/.
#
# For each target there is an archive with the binary, and for Linux a .deb and an .rpm with it as a
# service; an SBOM; and over all of them SHA256SUMS and the notes. What is built depends on the commit,
# the version and Go's version alone, not on where or when: two builds have the same bytes.
#
# It needs Go, git, GNU tar, gzip and zip.
set -euo pipefail
cd "$(dirname "$0")"

nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.1
cyclonedx=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0
all=(linux/amd64 linux/arm64 linux/arm/6 linux/arm/7 linux/riscv64
	darwin/amd64 darwin/arm64 windows/amd64 freebsd/amd64)

# Raspberry Pi OS calls its packages for ARMv6 armhf, as Debian does those for ARMv7. The binary for v6
# runs on both.
declare -A deb=([linux/amd64]=amd64 [linux/arm64]=arm64 [linux/arm/6]=armhf [linux/riscv64]=riscv64)
declare -A rpm=([linux/amd64]=x86_64 [linux/arm64]=aarch64 [linux/arm/7]=armv7hl [linux/riscv64]=riscv64)

fail() {
	printf 'release.sh: %s\n' "$*" >&2
	exit 1
}

[ $# -ge 1 ] || fail 'name the version, for example: ./release.sh 1.2.3'
version=${1#v}
shift
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]] || fail "$version is not a version such as 1.2.3 or 1.3.0-rc.1"
targets=("$@")
[ $# -gt 0 ] || targets=("${all[@]}")

# A clone that belongs to somebody else is one to git, too.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=$PWD
[ -z "$(git status --porcelain)" ] || fail 'there are changes that are not committed: the release would not be what the commit says'
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C CGO_ENABLED=0 GOFLAGS= GOWORK=off GOTOOLCHAIN=local
unset GOOS GOARCH GOARM GOAMD64 GOARM64
umask 022

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
rm -rf dist
mkdir dist

GOBIN=$tmp go install "$nfpm"
GOBIN=$tmp go install "$cyclonedx"

# notes prints the section of a version in CHANGELOG.md, which a pre-release need not have.
notes() {
	local heading=$version
	if ! grep -qE "^## $version( |\$)" CHANGELOG.md; then
		[[ $version == *-* ]] || fail "CHANGELOG.md has no section \"## $version\""
		heading=Unreleased
	fi
	awk -v heading="$heading" '/^## / { inside = $2 == heading; next } inside' CHANGELOG.md | sed '/./,$!d'
}

# unit prints the service of the packages: that of `berth install` without its socket, since the address is a
# setting of the package.
unit() {
	sed -e 's/ berth\.\(socket\|target\)$//' -e '/=berth\.socket$/d' -e '/^# The target closes/d' -e '/^# restarts, or has crashed/d' -e '/^# RestartSec= is the limit/d' \
		-e 's|^ExecStart=.*|ExecStart=/usr/bin/berth|' install/berth.service
}

# shared is what all archives and packages have beside the binary.
shared() {
	mkdir -p "$tmp/shared/completions"
	cp README.md CHANGELOG.md LICENSE THIRD_PARTY_NOTICES "$tmp/shared"
	go build -trimpath -o "$tmp/native" .
	for shell in bash zsh fish; do
		"$tmp/native" completion $shell >"$tmp/shared/completions/berth.$shell"
	done
	{
		printf 'Berth is licensed under the Apache License 2.0, which is in /usr/share/common-licenses/Apache-2.0 on\nDebian systems. '
		printf 'What is linked into it has licences of its own:\n\n'
		cat THIRD_PARTY_NOTICES
	} >"$tmp/copyright"
	gzip -9n <CHANGELOG.md >"$tmp/changelog.gz"
	printf 'berth (%s-1) stable; urgency=medium\n\n  * See changelog.gz.\n\n -- %s  %s\n' "${version/-/\~}" "$(git log -1 --format='%an <%ae>')" \
		"$(date -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$tmp/changelog.Debian.gz"
	unit >"$tmp/berth.service"
	grep -q '^ExecStart=/usr/bin/berth$' "$tmp/berth.service" || fail 'the unit does not start berth'
}

# archive FROM TO packs a directory, with the times of the commit.
archive() {
	find "$tmp/$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	case $2 in
	*.zip) (cd "$tmp" && find "$1" -type f | sort | zip -qX9 "$OLDPWD/dist/$2" -@) ;;
	*) tar -C "$tmp" --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - "$1" | gzip -9n >"dist/$2" ;;
	esac
}

# package FORMAT ARCH BINARY OUT makes a .deb or an .rpm.
package() {
	FORMAT=$1 ARCH=$2 BINARY=$3 VERSION=$version TMP=$tmp DATE=$date \
		fill <packaging/nfpm.yaml >"$tmp/nfpm.yaml"
	"$tmp/nfpm" package --config "$tmp/nfpm.yaml" --packager "$1" --target "$4" >/dev/null
}

# fill replaces ${NAME} by the variable, as the program does that few machines have.
fill() {
	local name text
	text=$(cat)
	for name in FORMAT ARCH BINARY VERSION TMP DATE; do
		text=${text//\$\{$name\}/${!name}}
	done
	printf '%s\n' "$text"
}

build() {
	local target=$1 os arch arm name dir exe=
	IFS=/ read -r os arch arm <<<"$target"
	name=berth-$version-$os-$arch${arm:+v$arm}
	[ "$os" != windows ] || exe=.exe
	printf '%s\n' "$target"
	dir=$tmp/$name
	cp -r "$tmp/shared" "$dir"
	GOOS=$os GOARCH=$arch GOARM=$arm go build -trimpath -buildvcs=true -ldflags "-s -X main.version=$version" -o "$dir/berth$exe" .
	"$tmp/cyclonedx-gomod" bin -json -noserial -std -version "v$version" "$dir/berth$exe" 2>/dev/null |
		sed "s|\"timestamp\": \"[^\"]*\"|\"timestamp\": \"$date\"|" >"dist/$name.cdx.json"
	[ "$os" != linux ] || cp "$tmp/berth.service" "$dir"
	if [ "$os" = windows ]; then
		archive "$name" "$name.zip"
	else
		archive "$name" "$name.tar.gz"
	fi
	[ -z "${deb[$target]:-}" ] || package deb "${deb[$target]}" "$dir/berth" "dist/berth_${version/-/\~}-1_${deb[$target]}.deb"
	[ -z "${rpm[$target]:-}" ] || package rpm "${rpm[$target]}" "$dir/berth" "dist/berth-${version/-/\~}-1.${rpm[$target]}.rpm"
}

notes >dist/NOTES.md
shared
for target in "${targets[@]}"; do
	[[ " ${all[*]} " == *" $target "* ]] || fail "there is no target $target; there are ${all[*]}"
	build "$target"
done
(cd dist && sha256sum -- * >"$tmp/SHA256SUMS" && mv "$tmp/SHA256SUMS" .)
