#!/usr/bin/env bash
# The part of setup-server.sh that makes several machines one Docker Swarm. Idempotent.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
readonly POOL=10.213.0.0/16 # addresses of the networks between containers; Swarm's default, 10.0.0.0/8, is often taken

usage() {
  cat <<'TEXT'
Usage: sudo scripts/setup-server.sh --swarm ADDRESS
       sudo scripts/setup-server.sh --join ADDRESS --token TOKEN [--address OWN]

  --swarm ADDRESS  make this server the main machine of a Docker Swarm: the other machines reach it at ADDRESS
  --join ADDRESS   add this machine to the Swarm of the main machine at ADDRESS
  --token TOKEN    the secret that --swarm prints on the main machine
  --address OWN    address at which the other machines reach this one, if it has several

The networks between the containers get addresses of 10.213.0.0/16.

Both install Docker from system packages if it is missing, and turn live-restore off, which Swarm does not
support. --swarm prints the command for the other machines. --join creates no user, no key and no settings.
TEXT
}

say() { printf '==> %s\n' "$*"; }
fail() { printf 'setup-server.sh: %s\n' "$*" >&2; exit 2; }

swarm_state() { docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}'; }

# Swarm restarts the tasks of a machine itself.
turn_live_restore_off() {
  local pids tries=0 file=/etc/docker/daemon.json
  [[ $(docker info --format '{{.LiveRestoreEnabled}}') == true ]] || return 0
  [[ $(tr -d ' \n' <"$file") == '{"live-restore":true}' ]] ||
    fail "Swarm does not support live-restore: set it to false in $file, run 'systemctl reload docker', then this command again"
  echo '{"live-restore": false}' >"$file"
  read -ra pids < <(pidof dockerd) || fail "dockerd is not running"
  kill -HUP "${pids[@]}" # reload the configuration
  until [[ $(docker info --format '{{.LiveRestoreEnabled}}') == false ]]; do
    ((++tries < 100)) || fail "Docker did not turn live-restore off within 20 s: restart it, then run this command again"
    sleep 0.2
  done
}

make_main() {
  local node main
  case $(swarm_state) in
    inactive*)
      ! ip -4 route | grep --quiet '^10\.213\.' ||
        fail "this machine is in a network of $POOL: run 'docker swarm init --advertise-addr $swarm --default-addr-pool <a free network>', then this command again"
      docker swarm init --advertise-addr "$swarm" --default-addr-pool "$POOL" >/dev/null
      ;;
    'active true') ;;
    locked*) fail "the Swarm is locked: run 'docker swarm unlock', then this command again" ;;
    'active false') fail "this machine is in a Swarm, but not its manager: run this on the manager, or 'docker swarm leave' here" ;;
    *) fail "the Swarm of this machine does not work: see 'docker info'" ;;
  esac
  node=$(docker info --format '{{.Swarm.NodeID}}')
  main=$(docker node ls --quiet --filter node.label=quai.main=true)
  [[ $main == "$node" || ! $main ]] ||
    fail "$(docker node inspect --format '{{.Description.Hostname}}' "$main") is the main machine of this Swarm: it has the database"
  docker node update --label-add quai.main=true --label-add quai.proxy=true "$node" >/dev/null
  cat <<TEXT

This server is the main machine of a Swarm: it keeps the database, the schedulers, the certificates and deploy.sh.

On each other machine, in a clone of the repository:

sudo scripts/setup-server.sh --join $swarm --token $(docker swarm join-token --quiet worker)

Between the machines, and for no others, open the ports 2377/tcp (on this server), 7946/tcp, 7946/udp and 4789/udp.
Then follow docs/swarm.md.
TEXT
}

join_swarm() {
  local managers main
  [[ $token ]] || fail "--join requires --token: 'docker swarm join-token worker' on the main machine prints it"
  case $(swarm_state) in
    inactive*) docker swarm join ${address:+--advertise-addr "$address"} --token "$token" "$join:2377" >/dev/null ;;
    active*)
      managers=$(docker info --format '{{range .Swarm.RemoteManagers}}{{.Addr}} {{end}}')
      main=$(getent hosts "$join" | cut -d' ' -f1 || true)
      [[ " $managers" == *" ${main:-$join}:2377 "* ]] ||
        fail "this machine is in the Swarm of ${managers% }, not of $join: to leave it, which ends its containers, run 'docker swarm leave', then this command again"
      say "this machine is in this Swarm already"
      ;;
    locked*) fail "this machine is a manager of a locked Swarm: run 'docker swarm unlock'" ;;
    *) fail "this machine cannot reach its Swarm: open the ports 2377/tcp (on the main machine), 7946/tcp, 7946/udp and 4789/udp, or run 'docker swarm leave' and this command again" ;;
  esac
  say "this machine runs tasks of the Swarm; on the main machine, 'deploy.sh status' lists it"
}

main() {
  local swarm='' join='' token='' address=''
  if [[ " $* " == *' --help '* ]]; then usage; return; fi
  while (($#)); do
    case $1 in
      --swarm | --join | --token | --address) [[ ${2-} ]] || fail "$1 requires a value; see setup-server.sh --swarm --help" ;;
      *) fail "unknown option '$1'; see setup-server.sh --swarm --help" ;;
    esac
    [[ $2 =~ ^[A-Za-z0-9][A-Za-z0-9._:-]*$ ]] || fail "the value of $1 is not an address or a token: '$2'"
    printf -v "${1#--}" '%s' "$2" # sets the local variable with the name of the option
    shift 2
  done
  [[ $swarm && ! $join$token$address || $join && ! $swarm ]] ||
    fail "expected either --swarm ADDRESS or --join ADDRESS --token TOKEN; see setup-server.sh --swarm --help"
  ((EUID == 0)) || fail "run as root: sudo scripts/setup-server.sh ..."
  "$HERE/engine.sh"
  turn_live_restore_off
  if [[ $swarm ]]; then make_main; else join_swarm; fi
}

main "$@"
