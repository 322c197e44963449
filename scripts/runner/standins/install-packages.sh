#!/usr/bin/env bash
# Installs Debian packages without recommended packages, and removes the package lists.
set -euo pipefail

main() {
  export DEBIAN_FRONTEND=noninteractive
  # The Release file of Debian's next release can be past its date on a mirror.
  apt-get -o Acquire::Check-Valid-Until=false update -qq
  apt-get install -qq -y --no-install-recommends "$@" >/dev/null
  apt-get clean
  rm -rf /var/lib/apt/lists/*
}

main "$@"
