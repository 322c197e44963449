#!/usr/bin/env bash
# The deploy command of the server, and the only one that CI's key may run. It runs the Python program in
# server/, next to this file. It is called through a symbolic link; .env is in the directory of that link.
set -euo pipefail

fail() { printf 'deploy.sh: %s\n' "$*" >&2; exit 2; }

main() {
  local release directory owner
  release=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
  directory=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
  # Root continues as the owner of .env, so that all files keep that owner.
  if ((EUID == 0)) && owner=$(stat --format %U "$directory/.env" 2>/dev/null) && [[ $owner != root ]]; then
    DEPLOYED_BY=${DEPLOYED_BY:-${SUDO_USER:-root}} exec runuser --user "$owner" -- "$directory/deploy.sh" "$@"
  fi
  command -v python3 >/dev/null || fail "python3 is missing: on Debian and Ubuntu, 'apt-get install python3'"
  cd "$release" # where python3 -m looks for the program
  exec python3 -m server "$directory" "$@"
}

main "$@"
