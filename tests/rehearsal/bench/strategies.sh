#!/usr/bin/env bash
# Strategies to replace the API container, for server.py. Runs on the rehearsal's server, in the directory of .env.
#   strategies.sh ready STRATEGY TAG REPLICAS [IMAGE...]   pull the images, make a release live from any state
#   strategies.sh replace STRATEGY TAG                     replace the live release with this one
#   strategies.sh kill STRATEGY TAG SECONDS                the same, killed after SECONDS; prints the time of the kill
#   strategies.sh write_files STRATEGY TAG                 write the compose file and the Caddyfile of a strategy
set -euo pipefail

readonly LIMIT=180                  # seconds for commands without a limit of their own
readonly MARK=BENCH_REPLACEMENT=yes # in the environment of each process of a replacement that will be killed

set_env() { sed -i "s/^$1=.*/$1=$2/" .env; }

until_prints() { # poll until a command prints this text
  local deadline=$((SECONDS + LIMIT)) expected=$1
  until [[ $("${@:2}") == "$expected" ]]; do
    ((SECONDS < deadline)) || { echo "'${*:2}' does not print '$expected'" >&2; exit 1; }
    sleep 0.1
  done
}

live_restore() { # true or false; the engine reloads its settings
  echo "{\"live-restore\": $1}" >/etc/docker/daemon.json
  kill -HUP "$(cat /run/docker.pid)"
  until_prints "$1" docker info --format '{{.LiveRestoreEnabled}}'
}

# Removes all containers; the volume of the database stays.
reset() {
  if [[ $(docker info --format '{{.Swarm.LocalNodeState}}') == active ]]; then
    docker stack rm quai
    until_prints '' docker ps --all --quiet
    docker swarm leave --force
    live_restore true
  fi
  docker compose down --remove-orphans
  docker ps --all --quiet | xargs --no-run-if-empty docker rm --force
  set_env IMAGE_TAG "$tag"
  set_env DEPLOY_ID ''
  set_env API_REPLICAS "$replicas"
  printf front >releases/upstream
  ln -sfn "$tag" releases/current
}

# Every strategy but deploy.sh replaces the API only: the front stays and finds the API by the DNS name `api`.
write_files() {
  local retries=''
  case $strategy in
    plain) retries='/lb_try_/d' ;;
    retry) retries='s/(lb_try_duration) .*/\1 30s/' ;;
  esac
  rm -rf releases/bench
  cp -a "releases/$tag" releases/bench
  sed -Ei "s/(reverse_proxy) .*/\1 api:8000 {/; /lb_policy|fail_duration|X-Release/d; $retries" releases/bench/front/Caddyfile
  sed -E 's/^( +)image: .*-front .*/\1volumes: ["\.\/releases\/bench\/front:\/front:ro"]/; s/(front|api)-\$\{DEPLOY_ID:-0\}/\1/
    /^ +(labels:|<<: \*labels|quai\.)/d; /^      RELEASE: .*:\?/d' docker-compose.prod.yml >bench.yml
  # A stack has no tmpfs. Without IPVS in the kernel there are no virtual addresses: names resolve to the tasks,
  # and ports are published by the tasks themselves.
  [[ $strategy != swarm ]] || sed -Ei bench.yml \
    -e 's/^( +)- "(.*):([0-9]+)"$/\1- {target: \3, published: "\2", mode: host}/' \
    -e 's/^( +)deploy:$/&\n\1  endpoint_mode: dnsrr/' \
    -e 's/^( +)replicas: \$\{API_REPLICAS.*/&\n\1update_config: {order: start-first, failure_action: rollback}/' \
    -e '/read_only: true/d'
}

deploy_stack() {
  set -a
  # shellcheck source=/dev/null  # the server's settings
  . ./.env
  set +a
  timeout "$LIMIT" docker stack deploy --detach=false --resolve-image never --compose-file bench.yml quai
}

# As docker-rollout does: as many new containers as there are, then the others go.
start_first() {
  local old
  mapfile -t old < <(docker compose ps --quiet api)
  docker compose up --detach --no-deps --no-recreate --scale "api=$((2 * ${#old[@]}))" --wait --wait-timeout "$LIMIT" api
  docker stop "${old[@]}"
  docker rm "${old[@]}"
}

replace() {
  set_env IMAGE_TAG "$tag"
  case $strategy in
    plain | retry) docker compose up --detach ;;
    start-first) start_first ;;
    swarm) deploy_stack ;;
    v1 | this) ./deploy.sh ;;
  esac
}

kill_replacement() { # after $1 seconds: SIGKILL to all its processes, those in other process groups, too
  local pids
  env "$MARK" "${BASH_SOURCE[0]}" replace "$strategy" "$tag" >&2 &
  sleep "$1"
  kill -0 "$!" || { echo "the replacement ended before it was killed" >&2; exit 1; }
  date +%s.%N
  while mapfile -t pids < <(grep -lszx "$MARK" /proc/[0-9]*/environ | cut -d / -f 3) && ((${#pids[@]})); do
    kill -KILL "${pids[@]}" 2>/dev/null || true
  done
}

ready() {
  local image
  reset
  for image in "$@"; do
    docker image inspect "$image" >/dev/null 2>&1 || runuser --user deploy -- docker pull --quiet "$image"
  done
  [[ $strategy =~ ^(v1|this)$ ]] || write_files
  select_file
  case $strategy in
    swarm) # Swarm and live-restore exclude each other
      live_restore false
      docker swarm init --advertise-addr 127.0.0.1
      replace
      ;;
    v1 | this) replace ;;
    *) docker compose up --detach --wait proxy front api db ;;
  esac
}

select_file() { [[ $strategy =~ ^(v1|this)$ ]] || export COMPOSE_FILE=bench.yml; }

main() {
  strategy=$2 tag=$3 replicas=${4:-1}
  case $1 in
    ready) ready "${@:5}" ;;
    replace) select_file; replace ;;
    kill) kill_replacement "$4" ;;
    write_files) write_files ;;
    *) sed -n '2,6s/^# *//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
}

main "$@"
