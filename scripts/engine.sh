#!/usr/bin/env bash
# Installs and starts a Docker engine on Debian or Ubuntu, unless one is already running.
set -euo pipefail

readonly WAIT_SECONDS=60

usage() {
  cat <<'TEXT'
Usage: scripts/engine.sh [--help]

Does nothing if a Docker engine with compose and buildx is running. Otherwise, as root, it
starts the installed engine. If none is installed, it first installs the engine, compose and
buildx from the packages of Debian (12 or later) or Ubuntu (22.04 or later). It does not add
a missing plugin to an installed engine.
TEXT
}

say() { printf 'engine: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

is_running() { docker info >/dev/null 2>&1; }

is_ready() {
  is_running && docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1
}

# Debian 12 has engine 20.10 and the end-of-life Compose v1. The packages of Debian 13 (trixie) run
# with Debian 12's libc, so only these packages are installed from trixie, from the same mirror.
add_trixie_source() {
  local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  # shellcheck disable=SC2016  # apt-get's own placeholder
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1)
  [[ -n $mirror ]] || fail "no Debian 12 mirror in this machine's apt sources; add one to /etc/apt/sources.list"
  echo "deb [signed-by=$keyring] $mirror trixie main" >/etc/apt/sources.list.d/quai-trixie.list
  printf 'Package: *\nPin: release n=trixie\nPin-Priority: 100\n' >/etc/apt/preferences.d/quai-trixie
}

packages() {
  case "$ID-${VERSION_CODENAME-}" in
    debian-bookworm) printf '%s/trixie ' docker.io docker-cli containerd docker-compose docker-buildx ;;
    debian-*) echo docker.io docker-cli docker-compose docker-buildx ;;
    ubuntu-*) echo docker.io docker-compose-v2 docker-buildx ;;
    *) return 1 ;;
  esac
}

require_root() {
  ((EUID == 0)) || fail "no Docker engine is running, or this user has no access to it; run 'sudo scripts/engine.sh' to install or start one, or join the group docker and log in again"
}

install_engine() {
  [[ -r /etc/os-release ]] || fail "no Docker engine is running; install one: https://docs.docker.com/engine/install/"
  # shellcheck source=/dev/null  # provided by the distribution
  . /etc/os-release
  local required
  required=$(packages) || fail "no Docker engine is running, and $PRETTY_NAME is not Debian or Ubuntu; install one: https://docs.docker.com/engine/install/"
  required+=" iptables ca-certificates"
  require_root

  say "no Docker engine is running: installing system packages: $required"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  if [[ $VERSION_CODENAME == bookworm ]]; then
    add_trixie_source
    apt-get update -qq
  fi
  # shellcheck disable=SC2086  # a list of package names
  apt-get install -qq -y --no-install-recommends $required >/dev/null
}

is_dockerd_running() { [[ $(readlink "/proc/$(cat /run/docker.pid 2>/dev/null)/exe") == */dockerd ]]; }

start_engine() {
  require_root
  if [[ -d /run/systemd/system ]]; then
    systemctl enable --now docker
  elif ! is_dockerd_running; then
    # Stale pid files of a killed engine: other processes may have these pids now.
    rm -f /run/docker.pid /run/docker/containerd/containerd.pid
    say "no systemd: starting dockerd directly; its log is /var/log/dockerd.log"
    setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &
  fi
  local deadline=$((SECONDS + WAIT_SECONDS))
  until is_running; do
    ((SECONDS < deadline)) || fail "the Docker engine did not start within ${WAIT_SECONDS} s; see /var/log/dockerd.log or 'journalctl -u docker'"
    sleep 0.2
  done
}

# A docker client in /usr/local/bin searches for plugins only in its own directory.
link_plugins() {
  local plugin
  for plugin in /usr/libexec/docker/cli-plugins/*; do
    [[ -e $plugin ]] || continue # no plugin: the pattern itself
    mkdir -p /usr/local/lib/docker/cli-plugins
    ln -sf "$plugin" /usr/local/lib/docker/cli-plugins/
  done
}

main() {
  case "${1-}" in
    -h | --help) usage; exit ;;
    '') ;;
    *) usage >&2; exit 2 ;;
  esac
  if is_ready; then exit; fi
  if ! is_running; then
    if ! command -v dockerd >/dev/null; then install_engine; fi
    start_engine
  fi
  if ((EUID == 0)) && ! is_ready; then link_plugins; fi
  is_ready || fail "the Docker engine is running, but 'docker compose' or 'docker buildx' is missing; install both plugins"
  say "Docker engine $(docker version --format '{{.Server.Version}}'), compose $(docker compose version --short)"
}

main "$@"
