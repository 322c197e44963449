#!/usr/bin/env bash
# Ways of replacing the API's container, for bench.py: runs on the rehearsal's server, beside .env.
#   bench.sh ready WAY TAG [REPLICAS]   make a release live in this way, from whatever another way left
#   bench.sh replace WAY TAG            replace it in this way
set -euo pipefail

readonly LIMIT=180 # seconds for what would wait without end

set_env() { sed -i "s/^$1=.*/$1=$2/" .env; }

until_says() { # the command after it prints this
  local deadline=$((SECONDS + LIMIT)) wanted=$1
  until [[ $("${@:2}") == "$wanted" ]]; do
    ((SECONDS < deadline)) || { echo "'${*:2}' does not say '$wanted'" >&2; exit 1; }
    sleep 0.1
  done
}

live_restore() { # true or false; the engine reads it again
  echo "{\"live-restore\": $1}" >/etc/docker/daemon.json
  kill -HUP "$(cat /run/docker.pid)"
  until_says "$1" docker info --format '{{.LiveRestoreEnabled}}'
}

# Nothing runs; the database's volume stays.
reset() {
  if [[ $(docker info --format '{{.Swarm.LocalNodeState}}') == active ]]; then
    docker stack rm quai
    until_says '' docker ps --all --quiet
    docker swarm leave --force
    live_restore true
  fi
  docker compose down --remove-orphans
  set_env IMAGE_TAG "$tag"
  set_env DEPLOY_ID ''
  set_env API_REPLICAS "$replicas"
  printf front >releases/upstream
  ln -sfn "$tag" releases/current
}

# Only the API is replaced: the front stays, and asks DNS for `api`; its retries are edited by a line of sed.
by_dns() {
  rm -rf releases/bench
  cp -a "releases/$tag" releases/bench
  sed -Ei "s/(reverse_proxy) .*/\1 api:8000 {/; /lb_policy|fail_duration/d; ${1-}" releases/bench/front/Caddyfile
  grep -q 'reverse_proxy api:8000 {' releases/bench/front/Caddyfile
  sed -E 's/releases\/\$\{IMAGE_TAG[^}]*\}/releases\/bench/; s/(front|api)-\$\{DEPLOY_ID:-0\}/\1/; /labels: \*labels/d' \
    docker-compose.prod.yml >bench.yml
}

# Swarm and live-restore exclude each other. Without IPVS in the kernel there are no virtual
# addresses: names resolve to the tasks, and ports are the tasks' own. A stack has no tmpfs.
init_swarm() {
  live_restore false
  docker swarm init --advertise-addr 127.0.0.1
  sed -E bench.yml >swarm.yml \
    -e 's/^( +)- "(.*):([0-9]+)"$/\1- {target: \3, published: "\2", mode: host}/' \
    -e 's/^( +)deploy:$/&\n\1  endpoint_mode: dnsrr/' \
    -e '/read_only: true/d'
}

deploy_stack() {
  set -a
  # shellcheck source=/dev/null  # the server's settings
  . ./.env
  set +a
  timeout "$LIMIT" docker stack deploy --detach=false --resolve-image never --compose-file swarm.yml quai
}

start_first() {
  local old
  old=$(docker compose ps --quiet api)
  docker compose up --detach --no-deps --no-recreate --scale api=2 --wait --wait-timeout "$LIMIT" api
  docker stop "$old"
  docker rm "$old"
}

replace() {
  set_env IMAGE_TAG "$tag"
  [[ $way == this ]] || export COMPOSE_FILE=bench.yml
  case $way in
    plain | retry) docker compose up --detach ;;
    start-first) start_first ;;
    swarm) deploy_stack ;;
    this) ./deploy.sh ;;
  esac
}

ready() {
  reset
  case $way in
    plain) by_dns '/lb_try_/d' ;;
    retry) by_dns 's/(lb_try_duration) .*/\1 30s/' ;;
    start-first | swarm) by_dns ;;
  esac
  [[ $way == this ]] || export COMPOSE_FILE=bench.yml
  case $way in
    swarm) init_swarm; replace ;;
    this) replace ;;
    *) docker compose up --detach --wait proxy front api db ;;
  esac
}

main() {
  way=$2 tag=$3 replicas=${4:-1}
  "$1"
}

main "$@"
