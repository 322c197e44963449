#!/usr/bin/env bash
# Sourced by the bash of a rehearsed deploy (BASH_ENV), and called before each command of deploy.sh:
# lists where it is in the file POINTS, or at the point AT sends SIGNAL to the whole process group.

at_point() { # line, command
  local point="${BASH_LINENO[*]:1} $1: ${2//$'\n'/ }"
  if [[ ${POINTS-} ]]; then
    printf '%s %s\n' "$(type -t -- "${2%%[[:space:]]*}")" "$point" >>"$POINTS"
  elif [[ $point == "$AT" ]]; then
    kill -s "$SIGNAL" 0
  fi
}

if [[ $0 == */deploy.sh ]]; then
  set -o functrace
  trap 'at_point "$LINENO" "$BASH_COMMAND"' DEBUG
fi
