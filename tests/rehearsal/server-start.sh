#!/usr/bin/env bash
# Replaces the init system of a real server: starts sshd with new host keys, the Docker engine, and then
# the systemd units that setup-server.sh created.
set -euo pipefail

start_units() {
  local unit
  until docker version >/dev/null 2>&1; do sleep 0.2; done
  for unit in /etc/systemd/system/multi-user.target.wants/*.service; do
    [[ -e $unit ]] || continue
    runuser --user "$(sed -n 's/^User=//p' "$unit")" -- "$(sed -n 's/^ExecStart=//p' "$unit")" >>/var/log/units.log 2>&1 || true
  done
}

main() {
  ssh-keygen -A
  mkdir -p /run/sshd
  /usr/sbin/sshd
  start_units &
  while :; do dockerd >>/var/log/dockerd.log 2>&1 || sleep 0.2; done
}

main "$@"
