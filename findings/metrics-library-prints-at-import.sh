#!/usr/bin/env bash
# A metrics library writes a line to the standard error of every program that imports it, before its main begins.
#
# VictoriaMetrics/metrics reads the kernel's pressure figures (PSI) in the initialiser of a package variable. Where there are none
# (kernels with PSI disabled by default, as Raspberry Pi OS has; control groups of version 1; many containers) it logs
# that, by Go's standard logger. No code of the program can have run by then, so nothing can turn it off: it comes with
# `prog --version`, in front of JSON on the standard error, and in every cron mail. One would expect a library to speak
# when it is used; this program never calls it.
#
# Seen with github.com/VictoriaMetrics/metrics 1.44.0 (2026-11-29); the path varies with the control group:
#   with pressure figures hidden: INFO: metrics: disable exposing PSI metrics because of failed init: open /sys/fs/cgroup/…/cpu.pressure: no such file or directory
# Root, to hide the figures where there are some.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo 'SKIP: only root can hide the figures'; exit 77; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
go mod init example.org/quiet >/dev/null 2>&1
printf 'package main\n\nimport _ "github.com/VictoriaMetrics/metrics"\n\nfunc main() {}\n' >main.go
go get github.com/VictoriaMetrics/metrics@v1.44.0 >/dev/null 2>&1
CGO_ENABLED=0 go build -o quiet .
said=$(unshare -m sh -c 'mount -t tmpfs none /sys/fs/cgroup && exec ./quiet' 2>&1)
echo "with pressure figures hidden: ${said:-nothing}"
[[ $said == *'INFO: metrics: disable exposing PSI metrics because of failed init: open /sys/fs/cgroup'*'cpu.pressure: no such file or directory' ]]
