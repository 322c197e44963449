#!/usr/bin/env bash
# Makes one release live, or leaves production as it was. It runs on the server, beside .env.
set -euo pipefail

readonly LOCK_SECONDS=900    # how long to wait for another deploy
readonly COMMAND_SECONDS=600 # how long any one docker command may take
readonly DRAIN_SECONDS=1     # from the switch until no request still goes to the old containers

usage() {
  cat <<'TEXT'
Usage: deploy.sh                  make live what IMAGE_TAG in .env says (this applies a rollback)
       deploy.sh deploy <commit>  make that commit (40 hex digits) live, unless it is older than what is live
       deploy.sh status           what is live, its containers, and what can be rolled back to
       deploy.sh --ssh            do what an SSH key asks for: 'deploy <commit>' or 'status', nothing else

A release goes live only when it is healthy beside the old one; otherwise it is removed, its log
is shown, and the exit code is not 0. The same command again repairs what a dead deploy left.
TEXT
}

say() { printf '==> %s\n' "$*"; }
fail() { reason=$*; exit 1; }

# Children get no input to eat, no lock to keep, and no time without end.
docker() { timeout --foreground --kill-after=10 "${LIMIT:-$COMMAND_SECONDS}" docker "$@" </dev/null 9>&-; }

compose() { # as the release being deployed sees it
  IMAGE_TAG=$tag DEPLOY_ID=$id docker compose --progress quiet --project-directory . --file "releases/$tag/docker-compose.prod.yml" "$@"
}

containers() { # ids of a service's containers, with more filters after its name
  docker ps --all --quiet --filter "label=com.docker.compose.project=$(setting COMPOSE_PROJECT_NAME)" \
    --filter "label=com.docker.compose.service=$1" "${@:2}"
}

remove() { # containers, each with its grace period
  (($# == 0)) || { docker stop "$@" && docker rm "$@"; } >/dev/null
}

deploy_id() { docker inspect --format '{{index .Config.Labels "quai.deploy"}}' "$1"; }

setting() { # the value of a name in .env, without quotes; or the default
  local value
  value=$(sed -n "s/^$1=//p" .env | tail -n 1 | sed -E "s/^(['\"])(.*)\1\$/\2/")
  printf '%s' "${value:-${2-}}"
}

write_env() { # IMAGE_TAG, DEPLOY_ID: in place, at once
  (umask 077 && sed -E "s/^IMAGE_TAG=.*/IMAGE_TAG=$1/; s/^DEPLOY_ID=.*/DEPLOY_ID=$2/" .env >.env.new)
  mv .env.new .env
}

# The front reads this file for each request. At rest it holds the name of the service.
point() { printf '%s' "$1" >releases/upstream.new && mv releases/upstream.new releases/upstream; }

use_files_of() { # a release's page and Caddyfile, compose file and deploy.sh
  ln -sfn "$1" releases/current.new && mv -T releases/current.new releases/current
}

serve() { # the front runs, with the Caddyfile of releases/current; one that it already has changes nothing
  compose up --detach --no-deps --no-recreate --wait front
  compose exec -T front caddy reload --adapter caddyfile --config /live/current/front/Caddyfile 2>/dev/null ||
    fail "the front does not take the Caddyfile: see 'docker compose logs front'"
}

step() { # says what begins, and keeps the seconds of what ended
  local now=${EPOCHREALTIME/[.,]/}
  if [[ -n $doing ]]; then
    printf -v seconds '%s"%s": %d.%03d' "${seconds:+$seconds, }" "$doing" \
      $(((now - began) / 1000000)) $(((now - began) / 1000 % 1000))
  fi
  doing=$1 began=$now
  [[ -z $doing ]] || say "$doing${2:+ $2}"
}

record() { # one line of JSON for each attempt
  step ''
  printf '{"time": "%s", "tag": "%s", "outcome": "%s", "reason": "%s", "seconds": {%s}}\n' \
    "$(date -u +%FT%TZ)" "$tag" "$1" "$(tr -d '"\\\t' <<<"${2-}" | paste -sd ' ')" "$seconds" >>deploys.log
}

take_lock() {
  exec 9>>deploy.lock
  if ! flock --nonblock 9; then
    say "waiting up to $LOCK_SECONDS s for another deploy: $(<deploy.lock)"
    flock --wait "$LOCK_SECONDS" 9 || fail "another deploy still runs: $(<deploy.lock); see it with 'ps'"
  fi
  echo "$tag, process $BASHPID, since $(date -u +%FT%TZ)" >deploy.lock
}

# Back to rest, whatever a dead deploy left: what the pointer names is live, and all else goes.
repair() {
  local upstream found stale running=(--filter status=running --filter status=restarting --filter status=paused)
  upstream=$(cat releases/upstream 2>/dev/null || echo api)
  # An engine that does not answer must not pass for one where nothing runs.
  found=$(containers api "${running[@]}" --filter "label=quai.deploy=${upstream#api-}") || return 1
  if [[ -z $found && $upstream != nobody ]]; then
    found=$(containers api "${running[@]}") || return 1
  fi
  mapfile -t live < <(printf '%s' "$found")
  docker rm --force "$(setting COMPOSE_PROJECT_NAME)-unpack" >/dev/null 2>&1 || true
  mapfile -t stale < <(containers migrate)
  ((${#stale[@]} == 0)) || docker rm --force "${stale[@]}" >/dev/null # at once: it may hold locks, and commits at its end
  mapfile -t stale < <(containers api | grep -vxF "${found:-none}")
  remove "${stale[@]}" || return 1
  point api
}

already_live() { # the same tag and settings, all of it there and healthy
  ((${#live[@]} == $(setting API_REPLICAS 1))) && [[ $(readlink releases/current) == "$tag" ]] || return 1
  local id container hash
  id=$(deploy_id "${live[0]}")
  hash=$(compose config --hash api 2>/dev/null) || return 1
  for container in "${live[@]}"; do
    [[ "$image healthy ${hash#* }" == "$(docker inspect "$container" --format \
      '{{.Config.Image}} {{.State.Health.Status}} {{index .Config.Labels "com.docker.compose.config-hash"}}')" ]] || return 1
  done
  serve
  prove
  [[ $tag == "$(setting IMAGE_TAG)" ]] || record live
  write_env "$tag" "$id"
}

check_disk() {
  local free least
  least=$(setting MIN_FREE_MB 1024)
  free=$(df --output=avail --block-size=1M "$(docker info --format '{{.DockerRootDir}}')" | tail -n 1)
  ((free >= least)) || fail "only ${free// /} MB free on Docker's disk, MIN_FREE_MB is $least: make room, for example with 'docker image prune'"
}

created() { docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.created"}}' "$1" 2>/dev/null || true; }

check_order() {
  local ours theirs
  ours=$(created "$image") theirs=$(created "$(setting IMAGE):$(setting IMAGE_TAG)")
  [[ ! $ours < $theirs ]] || fail "$tag is of $ours, older than what is live, of $theirs: to roll back, set IMAGE_TAG in .env and run deploy.sh"
}

unpack() { # the release's files, out of its image
  [[ ! -d releases/$tag ]] || return 0
  local box
  box=$(setting COMPOSE_PROJECT_NAME)-unpack
  rm -rf "releases/$tag.new"
  docker create --name "$box" "$image" >/dev/null
  docker cp --quiet "$box:/release" "releases/$tag.new" || fail "the image has no /release: see the Dockerfile"
  docker rm "$box" >/dev/null
  bash -n "releases/$tag.new/deploy.sh"
  mv "releases/$tag.new" "releases/$tag"
}

start() { # the new containers, beside the old ones; requests still go to the old ones only
  local replicas
  replicas=$(setting API_REPLICAS 1)
  point "$back"
  compose up --detach --no-deps --no-recreate --scale "api=$((${#live[@]} + replicas))" api
  mapfile -t candidate < <(containers api --filter "label=quai.deploy=$id")
  ((${#candidate[@]} == replicas)) || fail "${#candidate[@]} containers were started, not $replicas"
}

wait_until_healthy() {
  local limit deadline container state waiting=yes
  limit=$(setting HEALTH_SECONDS 60)
  deadline=$((SECONDS + limit))
  while [[ $waiting ]]; do
    waiting=
    for container in "${candidate[@]}"; do
      state=$(docker inspect "$container" --format \
        '{{if not .State.Health}}blind{{else if or .RestartCount (not .State.Running)}}crashing{{else}}{{.State.Health.Status}}{{end}}')
      case $state in
        healthy) ;;
        starting) waiting=yes ;;
        blind) fail "the image has no HEALTHCHECK, so nobody can tell when it is ready: add one to the Dockerfile" ;;
        *) fail "the new container is $state" ;;
      esac
    done
    ((SECONDS < deadline)) || fail "the new container was not healthy within $limit s (HEALTH_SECONDS in .env)"
    [[ -z $waiting ]] || sleep 0.2
  done
}

watch() { # the new ones serve, the old ones are still there: whoever dies now is taken back
  local until=$((SECONDS + $(setting WATCH_SECONDS 5)))
  sleep "$DRAIN_SECONDS"
  while wait_until_healthy && ((SECONDS < until)); do sleep 0.5; done
}

prove() { # the image that was asked for runs, and the front answers with its tag
  local container wanted answer
  wanted=$(docker image inspect --format '{{.Id}}' "$image")
  for container in $(containers api --filter "label=quai.deploy=$id"); do
    [[ $(docker inspect --format '{{.Image}}' "$container") == "$wanted" ]] || fail "container $container does not run $image"
  done
  answer=$(compose exec -T front wget -q -O - http://127.0.0.1:8080/version) || fail "/version does not answer through the front"
  [[ $answer == *"\"$tag\""* ]] || fail "/version through the front answers $answer, not $tag"
}

keep_names() { # Compose counts its containers upwards; their names stay project-api-1 and on
  local name project wanted number=0
  project=$(setting COMPOSE_PROJECT_NAME)
  for name in $(docker ps --filter "label=quai.deploy=$id" --filter "label=com.docker.compose.project=$project" --format '{{.Names}}' | sort -V); do
    wanted=$project-api-$((++number))
    [[ $name == "$wanted" ]] || docker rename "$name" "$wanted"
  done
}

releases() { # the tags that were live: what is live now, then newest first
  setting IMAGE_TAG && echo
  tac deploys.log 2>/dev/null | sed -nE 's/.*"tag": "([0-9a-f]{40})", "outcome": "live".*/\1/p' || true
}

rollback_tags() { releases | awk -v "keep=$(setting KEEP_RELEASES 5)" '!seen[$0]++ && count++ <= keep' | tail -n +2; }

prune() { # by explicit list: what is live and the last KEEP_RELEASES stay
  local tag
  docker images --format '{{.Tag}}' "$(setting IMAGE)" | grep -vxF "$(setting IMAGE_TAG; echo; rollback_tags)" |
    while read -r tag; do
      docker image rm "$(setting IMAGE):$tag" >/dev/null && rm -rf "releases/${tag:?}"
    done || true
}

evidence() {
  local container
  for container in $(containers api --filter "label=quai.deploy=$id"); do
    say "the last lines of the refused container:"
    docker logs --tail 50 "$container" 2>&1
    docker inspect "$container" --format 'exit code {{.State.ExitCode}}, restarts {{.RestartCount}}{{range .State.Health.Log}}
health check: {{.Output}}{{end}}' | tail -n 4
  done
}

# On every exit: what is not proven live is taken back.
conclude() {
  local status=$?
  trap - EXIT
  trap '' TERM
  set +e
  reason=${reason:-"failed at: ${doing:-the beginning}"}
  if [[ $outcome == live ]]; then
    ((status == 0)) || say "$tag is live, but not all is done ($reason): run the same again"
    exit "$status"
  fi
  if [[ $image ]]; then
    point "$back"
    [[ $back == nobody ]] || write_env "$live_tag" "${back#api-}"
    evidence
    if [[ $(readlink releases/current) != "$files" ]]; then
      use_files_of "$files"
      [[ $back == nobody ]] || (serve)
    fi
    repair && prune
    record refused "$reason"
  fi
  say "refused: $reason"
  if [[ $image && $back == nobody ]]; then say "still live: nothing"; else say "still live: $(setting IMAGE_TAG nothing)"; fi
  exit $((status ? status : 1))
}

# The deploy outlives the connection that asked for it: it writes a log, and what asked follows that.
follow() {
  local log worker
  log=logs/$(date -u +%Y%m%dT%H%M%SZ)-$$.log
  mkdir -p logs
  find logs -name '*.log' -mtime +90 -delete
  : >"$log"
  trap 'say "the deploy goes on; to follow it: tail -f $PWD/$log"; exit 1' INT HUP TERM
  deploy "$@" >"$log" 2>&1 </dev/null &
  worker=$!
  tail --follow --lines=+1 --sleep-interval=0.1 --pid="$worker" "$log" || true
  wait "$worker"
}

deploy() { # a tag; and 'forward' when it must not be older than what is live
  local problem services beside
  tag=$1 live=() candidate=() back=nobody live_tag=''
  outcome='' reason='' image='' doing='' seconds=''
  trap conclude EXIT
  trap '' HUP
  trap 'fail "interrupted"' TERM
  take_lock
  id=$(date +%s) # after the lock, so that no two deploys have the same
  docker version >/dev/null || fail "Docker does not answer to $(id -un)"
  step repair
  repair || fail "Docker does not do as it is told: see above"
  if [[ ${live[*]} ]]; then
    back=api-$(deploy_id "${live[0]}")
    live_tag=$(docker inspect --format '{{.Config.Image}}' "${live[0]}" | sed 's/.*://')
  fi
  files=$(readlink releases/current)
  image=$(setting IMAGE):$tag # from here on there is something to take back

  if ! already_live; then
    step pull "$image"
    check_disk
    docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" >/dev/null || fail "$image cannot be pulled"
    [[ $2 != forward || $tag == $(setting IMAGE_TAG) ]] || check_order
    unpack
    problem=$(compose config --quiet 2>&1) || fail "docker-compose.prod.yml and .env do not fit together: $problem"
    compose pull --quiet --policy missing || fail "an image beside the release's cannot be pulled (FRONT_IMAGE, DB_IMAGE): see above"

    if [[ $(containers front --filter status=running) ]]; then
      compose exec -T front caddy validate --adapter caddyfile --config "/live/$tag/front/Caddyfile" >/dev/null || fail "the Caddyfile is not valid: see above"
    fi
    services=$(compose config --services)
    mapfile -t beside < <(grep -vxE 'api|front|migrate' <<<"$services")
    ((${#beside[@]} == 0)) || compose up --detach --no-recreate --wait "${beside[@]}"
    if grep -qx migrate <<<"$services"; then
      step migrate
      LIMIT=$(setting MIGRATE_SECONDS 300) compose run --rm -T --no-deps migrate ||
        fail "the migration failed, or took more than $(setting MIGRATE_SECONDS 300) s (MIGRATE_SECONDS in .env)"
    fi

    step start
    start
    step wait "until healthy"
    wait_until_healthy

    step switch
    point "api-$id"
    use_files_of "$tag"
    serve
    step prove
    prove
    step watch
    watch
    outcome=live # from here on there is nothing to go back to
    remove "${live[@]}"
    keep_names
    point api
    write_env "$tag" "$id"
    record live
    prune
  fi
  outcome=live
  say "live: $tag"
}

status() {
  local project
  project=$(setting COMPOSE_PROJECT_NAME)
  say "live: $(setting IMAGE_TAG nothing)"
  docker ps --all --filter "label=com.docker.compose.project=$project" --format 'table {{.Names}}\t{{.Status}}\t{{.Image}}'
  say "last attempt: $(tail -n 1 deploys.log 2>/dev/null || echo none)"
  say "to roll back: put one of these into $PWD/.env, then run: sudo $PWD/deploy.sh"
  rollback_tags | sed 's/^/IMAGE_TAG=/'
}

refuse() { printf 'deploy.sh: %s\n' "$*" >&2; exit 2; }

main() {
  local request=$* name owner
  if [[ $request == --ssh ]]; then request="ssh ${SSH_ORIGINAL_COMMAND-}"; fi
  if [[ $request =~ ^(-h|--help)$ ]]; then usage; exit; fi
  [[ $request =~ ^(|(ssh )?(status|deploy [0-9a-f]{40}))$ ]] ||
    refuse "'${request#ssh }' is not 'status' or 'deploy <commit, 40 hex digits>'; see deploy.sh --help"

  export LC_ALL=C
  umask 022
  cd "$(dirname "${BASH_SOURCE[0]}")"
  [[ -f .env ]] || refuse "no .env in $PWD: setup-server.sh makes one from .env.prod"
  owner=$(stat --format %U .env)
  if ((EUID == 0)) && [[ $owner != root ]]; then exec runuser --user "$owner" -- "$PWD/deploy.sh" "$@"; fi
  [[ -r .env ]] || refuse "$(id -un) cannot read $PWD/.env: run with sudo"
  for name in COMPOSE_PROJECT_NAME IMAGE; do
    [[ $(setting "$name") ]] || refuse "$name is missing or empty in $PWD/.env; .env.prod shows how it looks"
  done
  for name in IMAGE_TAG DEPLOY_ID; do
    grep -q "^$name=" .env || refuse "the line $name= is missing in $PWD/.env; .env.prod shows where it stands"
  done
  for name in API_REPLICAS KEEP_RELEASES MIN_FREE_MB HEALTH_SECONDS WATCH_SECONDS MIGRATE_SECONDS; do
    [[ $(setting "$name" 1) =~ ^[1-9][0-9]*$ ]] || refuse "$name in $PWD/.env is '$(setting "$name")', not a number from 1 on"
  done
  case $request in
    *status) status ;;
    *deploy*) follow "${request##* }" forward ;;
    *)
      [[ $(setting IMAGE_TAG) =~ ^[0-9a-f]{40}$ ]] || refuse "IMAGE_TAG in $PWD/.env is '$(setting IMAGE_TAG)', not a commit (40 hex digits)"
      follow "$(setting IMAGE_TAG)" any
      ;;
  esac
}

main "$@"
