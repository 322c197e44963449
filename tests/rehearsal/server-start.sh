#!/usr/bin/env bash
# What an init system does on a real server: sshd with keys of its own, and the engine.
set -euo pipefail

main() {
  ssh-keygen -A
  /usr/sbin/sshd
  exec dockerd >/var/log/dockerd.log 2>&1
}

main "$@"
