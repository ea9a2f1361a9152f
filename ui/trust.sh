#!/bin/sh
# Makes this machine trust the certificate authority of the registry
# {{.Host}}, SHA-256
# {{.Fingerprint}}
#
#   sh trust.sh [FINGERPRINT]
#
# With a fingerprint it refuses any other. It may run again and again. With
# BERTH_ROOT it works on the system below that directory, and leaves out the
# commands that update a system's own store.
set -eu
umask 022

host='{{.Host}}'
name='{{.Name}}'
fingerprint='{{.Fingerprint}}'
root=${BERTH_ROOT:-}
found=

pem() {
	cat <<'END'
{{.PEM}}END
}

say() { printf '%s\n' "$*"; }

# What is in the PEM, as far as the machine can tell.
computed() {
	if command -v openssl >/dev/null; then
		pem | openssl x509 -noout -fingerprint -sha256 | sed 's/.*=//'
	else
		say "$fingerprint"
	fi
}

plain() { printf '%s' "$1" | tr -d ': \n' | tr a-f A-F; }

# has COMMAND DIRECTORY: whether something is installed here.
has() { [ -d "$root$2" ] || runs "$1"; }

# runs COMMAND...: whether one of them is installed here.
runs() {
	for command; do
		if [ -n "$root" ]; then
			for bin in bin sbin usr/bin usr/sbin usr/local/bin; do
				[ ! -e "$root/$bin/$command" ] || return 0
			done
		elif command -v "$command" >/dev/null; then
			return 0
		fi
	done
	return 1
}

# put FILE: makes standard input its content.
put() {
	new=$(cat)
	if [ -f "$root$1" ] && [ "$(cat "$root$1")" = "$new" ]; then
		say "unchanged: $root$1"
		return
	fi
	mkdir -p "$root${1%/*}"
	printf '%s\n' "$new" >"$root$1.berth-new"
	mv "$root$1.berth-new" "$root$1"
	say "wrote $root$1"
}

# offer FILE MARK: as put, but a file that is there is left to its owner; if
# MARK is not in it, says what to add.
offer() {
	if [ ! -e "$root$1" ]; then
		put "$1"
	elif grep -qF "$2" "$root$1"; then
		say "unchanged: $root$1"
	else
		say "TO DO: $root$1 exists and was left as it is; add to it:"
		sed 's/^/    /'
	fi
}

trust_docker() {
	has docker /etc/docker || return 0
	found=yes
	pem | put "/etc/docker/certs.d/$host/ca.crt"
}

trust_podman() {
	runs podman buildah skopeo crio || { [ -n "$root" ] && [ -d "$root/etc/containers" ]; } || return 0
	found=yes
	pem | put "/etc/containers/certs.d/$host/ca.crt"
}

trust_containerd() {
	has containerd /etc/containerd || return 0
	kubernetes=
	if has kubelet /etc/kubernetes || runs crictl kubeadm; then
		kubernetes=yes
	elif has docker /etc/docker && ! runs nerdctl; then
		say "left out containerd, which is Docker's own here: no Kubernetes and no nerdctl is installed"
		return 0
	fi
	found=yes
	pem | put "/etc/containerd/certs.d/$host/ca.crt"
	offer "/etc/containerd/certs.d/$host/hosts.toml" "certs.d/$host/ca.crt" <<-END
	server = "https://$host"

	[host."https://$host"]
	  capabilities = ["pull", "resolve", "push"]
	  ca = "/etc/containerd/certs.d/$host/ca.crt"
	END
	if [ -n "$kubernetes" ] && ! grep -qs '^[^#]*config_path.*/etc/containerd/certs\.d' "$root/etc/containerd/config.toml"; then
		say 'TO DO, for Kubernetes: /etc/containerd/config.toml needs config_path = "/etc/containerd/certs.d", then restart containerd'
	fi
}

trust_k3s() {
	has k3s /etc/rancher/k3s || return 0
	found=yes
	pem | put "/etc/rancher/k3s/$name.crt"
	offer /etc/rancher/k3s/registries.yaml "$name.crt" <<-END
	mirrors:
	  "$host":
	    endpoint:
	      - "https://$host"
	configs:
	  "$host":
	    tls:
	      ca_file: /etc/rancher/k3s/$name.crt
	END
	say 'TO DO, if that was new: systemctl restart k3s, or k3s-agent'
}

trust_buildkit() {
	has buildkitd /etc/buildkit || return 0
	found=yes
	pem | put "/etc/buildkit/$name.crt"
	offer /etc/buildkit/buildkitd.toml "$name.crt" <<-END
	[registry."$host"]
	  ca = ["/etc/buildkit/$name.crt"]
	END
	say 'TO DO, if that was new: restart buildkitd, or docker buildx create --use --config /etc/buildkit/buildkitd.toml'
	say 'If the registry has users, run this also where docker buildx runs, which fetches the tokens itself'
}

# update COMMAND...: has the system read its store again.
update() {
	[ -z "$root" ] || return 0
	command -v "$1" >/dev/null || { say "TO DO: run $*"; return 0; }
	"$@" >/dev/null
	say "ran $*"
}

trust_system() {
	if [ -z "$root" ] && [ "$(uname)" = Darwin ]; then
		file=$(mktemp)
		pem >"$file"
		security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain "$file"
		rm -f "$file"
		say "added to the system's keychain; restart Docker Desktop if it runs"
	elif [ -d "$root/etc/pki/ca-trust/source/anchors" ]; then # Fedora, RHEL
		pem | put "/etc/pki/ca-trust/source/anchors/$name.crt"
		update update-ca-trust
	elif [ -d "$root/etc/ca-certificates/trust-source/anchors" ]; then # Arch
		pem | put "/etc/ca-certificates/trust-source/anchors/$name.crt"
		update update-ca-trust
	elif [ -d "$root/etc/pki/trust/anchors" ]; then # openSUSE
		pem | put "/etc/pki/trust/anchors/$name.crt"
		update update-ca-certificates
	elif [ -d "$root/usr/local/share/ca-certificates" ] || has update-ca-certificates /etc/ca-certificates; then # Debian, Alpine
		pem | put "/usr/local/share/ca-certificates/$name.crt"
		update update-ca-certificates
	else
		return 0
	fi
	found=yes
}

# A script that is cut short on its way must not do half of it.
main() {
	actual=$(plain "$(computed)")
	if [ "$actual" != "$(plain "$fingerprint")" ]; then
		say "the certificate in this script is not the one it names; nothing was changed" >&2
		exit 1
	fi
	if [ $# -gt 0 ] && [ "$actual" != "$(plain "$1")" ]; then
		say "the CA of $host has another fingerprint, $fingerprint; nothing was changed" >&2
		exit 1
	fi
	if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
		say "this changes files below /etc, so it needs root: pipe it into sudo sh, as in: … | sudo sh" >&2
		exit 1
	fi
	trust_docker
	trust_podman
	trust_containerd
	trust_k3s
	trust_buildkit
	trust_system
	[ -n "$found" ] || say 'found no program that pulls images, and no certificate store of the system that this script knows'
}

main "$@"
