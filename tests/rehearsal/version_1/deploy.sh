#!/usr/bin/env bash
# Makes one release live, or leaves production as it was. It runs on the server, beside .env.
set -euo pipefail

readonly LOCK_SECONDS=900    # how long to wait for another deploy
readonly COMMAND_SECONDS=600 # how long any one docker command may take
readonly ONE_SHOTS='check|backup|migrate'

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

containers() { # ids of a service's containers, or, of 'releases', of all that serve; with more filters
  local which=label=com.docker.compose.service=$1 one_off=False
  [[ $1 != releases ]] || which=label=quai.deploy
  [[ ! $1 =~ ^($ONE_SHOTS)$ ]] || one_off=True
  docker ps --all --quiet --filter "label=com.docker.compose.project=${settings[COMPOSE_PROJECT_NAME]}" \
    --filter "$which" --filter "label=com.docker.compose.oneoff=$one_off" "${@:2}"
}

running() { containers releases --filter status=running --filter status=restarting --filter status=paused "$@"; }

remove() { # containers, each with its grace period
  (($# == 0)) || { docker stop "$@" && docker rm "$@"; } >/dev/null
}

has() { grep -qx "$1" <<<"$services"; } # whether the release's compose file has this service

deploy_id() { docker inspect --format '{{index .Config.Labels "quai.deploy"}}' "$1"; }

read_env() { # as compose does: the last of a name counts, and quotes around a value are not part of it
  local line name value
  declare -gA settings=([API_REPLICAS]=1 [KEEP_RELEASES]=5 [MIN_FREE_MB]=1024
    [HEALTH_SECONDS]=60 [WATCH_SECONDS]=5 [MIGRATE_SECONDS]=300 [NOTIFY_URL]='' [NOTIFY_TOKEN]='')
  while read -r line || [[ $line ]]; do
    [[ $line =~ ^([A-Z_]+)=(.*)$ ]] || continue
    name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    [[ ! $value =~ ^(\".*\"|\'.*\')$ ]] || value=${value:1:-1}
    [[ -z $value && ${settings[$name]-} ]] || settings[$name]=$value
  done <.env
}

write_env() { # IMAGE_TAG, DEPLOY_ID: at once, and not before all of it is on the disk
  (umask 077 && sed -E "s/^IMAGE_TAG=.*/IMAGE_TAG=$1/; s/^DEPLOY_ID=.*/DEPLOY_ID=$2/" .env >.env.new && sync .env.new) &&
    mv .env.new .env && read_env
}

# The proxy reads this file for each request. At rest it holds the name of the service.
point() { printf '%s' "$1" >releases/upstream.new && mv releases/upstream.new releases/upstream; }

step() { # says what begins, and keeps the seconds of what ended
  local now
  read -r now _ </proc/uptime # hundredths of a second, by a clock that nobody sets
  now=${now/./}
  if [[ $doing ]]; then
    printf -v seconds '%s"%s": %d.%02d' "${seconds:+$seconds, }" "$doing" $(((now - began) / 100)) $(((now - began) % 100))
  fi
  doing=$1 began=$now
  [[ -z $doing ]] || say "$doing${2:+ $2}"
}

record() { # one line of JSON for each attempt
  step ''
  local why
  why=$(tr -d '"\\[:cntrl:]' <<<"${2-}")
  printf '{"id": "%s", "time": "%s", "tag": "%s", "outcome": "%s", "by": "%s", "reason": "%s", "committed": "%s", "seconds": {%s}, "text": "%s"}\n' \
    "$id" "$(date -u +%FT%TZ)" "$tag" "$1" "${by//[^[:alnum:] @._-]/}" "$why" "$(created "$image")" "$seconds" \
    "$image is ${1/_/ }${why:+: $why}" >>deploys.log
}

# Each line of deploys.log is sent once. What cannot be sent now is sent with the next deploy's; no outcome depends on it.
notify() {
  local line url token told answer
  url=${settings[NOTIFY_URL]} token=${settings[NOTIFY_TOKEN]}
  [[ $url ]] || return 0
  [[ -e notified ]] || echo "$(($(wc -l <deploys.log) - 1))" >notified # nobody asked for those before
  told=$(<notified)
  while read -r line; do
    answer=$(printf 'url = "%s"\n%s' "$url" "${token:+header = \"Authorization: Bearer $token\"}" |
      curl --config - --silent --show-error --max-time 5 --header 'Content-Type: application/json' --data "$line" \
        --output /dev/null --write-out '%{http_code}') || true
    case $answer in
      '' | 401 | 403 | 404 | 408 | 429 | [!24]*) say "NOTIFY_URL answers $answer: it is told with the next deploy"; return ;;
      *) echo "$((++told))" >notified ;; # taken, or refused for good
    esac
  done < <(tail -n "+$((told + 1))" deploys.log | head -n 20)
}

take_lock() {
  exec 9>>deploy.lock
  if ! flock --nonblock 9; then
    say "waiting up to $LOCK_SECONDS s for another deploy: $(<deploy.lock)"
    flock --wait "$LOCK_SECONDS" 9 || fail "another deploy still runs: $(<deploy.lock); see it with 'ps'"
  fi
  echo "$tag, process $BASHPID, since $(date -u +%FT%TZ)" >deploy.lock
  read_env # what the other deploy wrote
  id=$(date +%s)
  while grep -qs "^{\"id\": \"$id\"" deploys.log; do ((id++)); done
}

# Back to rest, whatever a dead deploy left. One release stays, and all else goes:
#   it died               DEPLOY_ID  upstream   stays
#   before the switch     old        front-old  old
#   after it              old        front-new  old, since the new one was not watched to the end
#   with .env written     new        front-new  new
#   in the first deploy   none       nobody     none; once requests go to it, the new one
# Without any of these, it is whatever runs. Called where a failed command ends nothing, so it looks at each.
repair() {
  local upstream any which kept='' wanted one_shot found stale
  upstream=$(cat releases/upstream 2>/dev/null)
  # An engine that does not answer must not pass for one where nothing runs.
  any=$(running) || return 1
  for which in "${settings[DEPLOY_ID]}" "${upstream#front-}" ${any:+"$(deploy_id "${any%%$'\n'*}")"}; do
    [[ -z $kept && $which && $upstream != nobody ]] || continue
    kept=$(running --filter "label=quai.deploy=$which") || return 1
  done
  mapfile -t live < <(printf '%s' "$kept")
  if [[ $kept && $upstream == front-* ]]; then
    wanted=front-$(deploy_id "${live[0]}")
    [[ $upstream == "$wanted" ]] || { point "$wanted" && sleep 1; } || return 1
  fi
  docker rm --force "${settings[COMPOSE_PROJECT_NAME]}-unpack" >/dev/null 2>&1
  for one_shot in ${ONE_SHOTS//|/ }; do # at once: it may hold locks, and commits at its end
    found=$(containers "$one_shot") || return 1
    mapfile -t stale < <(printf '%s' "$found")
    ((${#stale[@]} == 0)) || docker rm --force "${stale[@]}" >/dev/null || return 1
  done
  rm -f backups/new
  found=$(containers releases) || return 1
  mapfile -t stale < <(grep -vxF "${kept:-none}" <<<"$found" | grep .)
  remove "${stale[@]}" && point front
}

already_live() { # the same tag and settings, all of it there and healthy
  [[ $live_tag == "$tag" && -d releases/$tag ]] && ((${#live[@]} == settings[API_REPLICAS] + 1)) || return 1
  local id=${back#front-} # as which compose is to see it
  [[ $(docker inspect "${live[@]}" --format '{{index .Config.Labels "com.docker.compose.service"}} {{index .Config.Labels "com.docker.compose.config-hash"}}' | sort -u) == \
    "$(compose config --hash api,front 2>/dev/null | sort)" ]] || return 1
  (wait_until_healthy "${live[@]}") # after a reboot they are still starting
}

confirm() { # what runs is what was asked for: there is nothing to replace, and nothing to remove
  id=${back#front-} live=()
  prove
  start_proxy
  answers http://127.0.0.1:8080
}

check_disk() { # Docker's, and this one
  local free
  free=$(df --output=avail --block-size=1M . "$(docker info --format '{{.DockerRootDir}}')" | sort -n | awk 'NR == 2 {print $1}')
  ((free >= settings[MIN_FREE_MB])) ||
    fail "only $free MB free on the disk, MIN_FREE_MB is ${settings[MIN_FREE_MB]}: make room, for example with 'docker image prune'"
}

created() { docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.created"}}' "$1" 2>/dev/null || true; }

check_order() {
  local ours theirs
  ours=$(created "$image") theirs=$(created "${settings[IMAGE]}:$live_tag")
  [[ $ours < $theirs ]] || return 0
  outcome=rolled_back
  [[ $1 != forward ]] || fail "$tag is of $ours, older than what is live, of $theirs: to roll back, set IMAGE_TAG in .env and run deploy.sh"
}

unpack() { # the release's files, out of its image
  [[ ! -d releases/$tag ]] || return 0
  local box
  box=${settings[COMPOSE_PROJECT_NAME]}-unpack
  rm -rf "releases/$tag.new"
  docker create --name "$box" "$image" >/dev/null
  docker cp --quiet "$box:/release" "releases/$tag.new" || fail "the image has no /release: see the Dockerfile"
  docker rm "$box" >/dev/null
  bash -n "releases/$tag.new/deploy.sh"
  mv "releases/$tag.new" "releases/$tag"
}

start() { # the new containers, beside the old ones; requests still go to the old ones only
  local apis fronts
  point "$back"
  apis=$(containers api | wc -l)
  fronts=$(containers front | wc -l)
  compose up --detach --no-deps --no-recreate --scale "api=$((apis + settings[API_REPLICAS]))" --scale "front=$((fronts + 1))" api front
  mapfile -t candidate < <(containers releases --filter "label=quai.deploy=$id")
  ((${#candidate[@]} == settings[API_REPLICAS] + 1)) ||
    fail "${#candidate[@]} containers have the label quai.deploy, not $((settings[API_REPLICAS] + 1)): see docker-compose.prod.yml"
}

start_proxy() { compose up --detach --no-deps --no-recreate --wait proxy; }

wait_until_healthy() {
  local deadline=$((SECONDS + settings[HEALTH_SECONDS])) states service state
  while :; do
    states=$(docker inspect "$@" --format '{{index .Config.Labels "com.docker.compose.service"}} {{if not .State.Health}}blind{{else if or .RestartCount (not .State.Running)}}crashing{{else}}{{.State.Health.Status}}{{end}}') ||
      states='container gone'
    if read -r service state < <(grep -vE ' (healthy|starting)$' <<<"$states"); then
      [[ $state != blind ]] || fail "the image has no HEALTHCHECK, so nobody can tell when it is ready: add one to the Dockerfile"
      fail "the new $service is $state"
    fi
    [[ $states == *' starting'* ]] || return 0
    ((SECONDS < deadline)) || fail "the new release was not healthy within ${settings[HEALTH_SECONDS]} s (HEALTH_SECONDS in .env)"
    sleep 0.2
  done
}

watch() { # the new ones serve, the old ones are still there: whoever dies now is taken back
  local until=$((SECONDS + settings[WATCH_SECONDS] + 1)) # a second, so that no request still goes to the old ones
  while ((SECONDS < until)); do
    sleep 0.5
    wait_until_healthy "${candidate[@]}"
  done
}

prove() { # the image that was asked for runs
  local container wanted apis
  wanted=$(docker image inspect --format '{{.Id}}' "$image")
  apis=$(containers api --filter "label=quai.deploy=$id")
  for container in $apis; do
    [[ $(docker inspect --format '{{.Image}}' "$container") == "$wanted" ]] || fail "container $container does not run $image"
  done
}

answers() { # whether the proxy gets the release's tag from there
  local answer
  answer=$(compose exec -T proxy wget -q -T 10 -O - "$1/version") || fail "$1/version does not answer to the proxy"
  [[ $answer == *"\"$tag\""* ]] || fail "$1/version answers $answer to the proxy, not $tag"
}

keep_names() { # Compose counts its containers upwards; their names stay project-api-1 and on
  local service name wanted number project=${settings[COMPOSE_PROJECT_NAME]}
  for service in api front; do
    number=0
    for name in $(docker ps --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$service" \
      --filter "label=com.docker.compose.oneoff=False" --filter "label=quai.deploy=$id" --format '{{.Names}}' | sort -V); do
      wanted=$project-$service-$((++number))
      [[ $name == "$wanted" ]] || docker rename "$name" "$wanted"
    done
  done
}

went_live() { sed -nE 's/.*"time": "([^"]*)", "tag": "([0-9a-f]{40})", "outcome": "(live|rolled_back)", "by": "([^"]*)".*/\2 \1 \4/p' deploys.log 2>/dev/null; }

rollback_tags() { # that were live, newest first, without the one given
  went_live | tac | awk -v "live=$1" -v "keep=${settings[KEEP_RELEASES]}" '$1 != live && !seen[$1]++ && count++ < keep {print $1}'
}

prune() { # by explicit list: what is live and the last KEEP_RELEASES stay
  local tag
  { docker images --format '{{.Tag}}' "${settings[IMAGE]}"; ls releases; } | grep -xE '[0-9a-f]{40}(\.new)?' | sort -u |
    grep -vxF "${settings[IMAGE_TAG]}
$(readlink releases/current; rollback_tags "${settings[IMAGE_TAG]}")" | while read -r tag; do
      docker image rm "${settings[IMAGE]}:$tag" >/dev/null 2>&1 || true
      rm -rf "releases/${tag:?}"
    done || true
}

evidence() {
  local container
  for container in $(containers releases --filter "label=quai.deploy=$id"); do
    say "the last lines of container $container:"
    docker logs --tail 50 "$container" 2>&1
    docker inspect "$container" --format 'exit code {{.State.ExitCode}}, restarts {{.RestartCount}}{{range .State.Health.Log}}
health check: {{.Output}}{{end}}' | tail -n 4
  done
}

# On every exit: what is not proven live is taken back.
conclude() {
  local status=$? left=''
  trap - EXIT
  trap '' INT TERM
  set +e
  reason=${reason:-"failed at: ${doing:-the beginning}"}
  step ''
  if [[ $proven ]]; then
    ((status == 0)) || say "$tag is live, but not all is done ($reason): run the same again"
    exit "$status"
  fi
  if [[ $image ]]; then
    point "$back"
    sleep 1 # for the requests that are on their way to the new one
    evidence
    [[ $back == nobody ]] || write_env "$live_tag" "${back#front-}" || left=.env
    repair || left+=' containers'
    [[ -z $left ]] && prune || reason+="; and not taken back: $left: make room if the disk is full, then run the same again"
    record refused "$reason"
    notify
  fi
  say "refused: $reason"
  if [[ ! $image ]]; then
    say "nothing was deployed"
  elif [[ $left == *containers ]]; then
    say "not sure to be live: ${live_tag:-nothing}"
  else
    say "still live: ${live_tag:-nothing}"
  fi
  exit $((status ? status : 1))
}

# The deploy outlives the connection that asked for it: it writes a log, and what asked follows that.
follow() {
  local log worker status=0
  log=logs/$(date -u +%Y%m%dT%H%M%SZ)-$$.log
  mkdir -p -m 700 logs
  find logs -name '*.log' -mtime +90 -delete
  : >"$log"
  set -m # so that it is in a process group of its own, and Ctrl-C ends the following, not the deploy
  deploy "$@" >"$log" 2>&1 </dev/null &
  worker=$!
  set +m
  tail --follow --lines=+1 --sleep-interval=0.1 --pid="$worker" "$log" &
  trap 'kill "$!"; say "the deploy goes on; to follow it: tail -f $PWD/$log"; exit 1' INT HUP TERM
  wait "$worker" || status=$?
  wait "$!" || true
  exit "$status"
}

migrate() { # a release may say with 'check' whether there is something to do (3), and with 'backup' what to keep before
  local status=3
  if has check; then
    status=0
    compose run --rm -T --no-deps check || status=$?
  fi
  case $status in
    0) return ;;
    3) ;;
    *) fail "this release cannot run on the database as it is: see above" ;;
  esac
  if has backup; then
    (umask 077 && mkdir -p backups && LIMIT=${settings[MIGRATE_SECONDS]} compose run --rm -T --no-deps backup >backups/new) ||
      fail "no backup within ${settings[MIGRATE_SECONDS]} s (MIGRATE_SECONDS in .env), so no migration: see above"
    mv backups/new "backups/$id.dump"
    find backups -name '*.dump' | sort -r | tail -n "+$((settings[KEEP_RELEASES] + 1))" | xargs -r rm
  fi
  LIMIT=${settings[MIGRATE_SECONDS]} compose run --rm -T --no-deps migrate ||
    fail "the migration failed, or took more than ${settings[MIGRATE_SECONDS]} s (MIGRATE_SECONDS in .env)"
}

prepare() { # all that can be done before anything is touched
  local problem
  step pull "$image"
  check_disk
  docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" >/dev/null || fail "$image cannot be pulled"
  check_order "$1"
  unpack
  if ! problem=$(compose config --quiet 2>&1); then # which may be a line of .env, with the secret in it
    [[ $problem == *'required variable'* ]] || problem="one of them cannot be read"
    fail "docker-compose.prod.yml and .env do not fit together: $problem"
  fi
  compose pull --quiet --policy missing || fail "an image beside the release's cannot be pulled (FRONT_IMAGE, DB_IMAGE): see above"
  services=$(compose config --services)
}

replace() { # the live release, by one that was prepared
  local beside
  mapfile -t beside < <(grep -vxE "api|front|proxy|$ONE_SHOTS" <<<"$services")
  ((${#beside[@]} == 0)) || compose up --detach --no-recreate --wait "${beside[@]}"
  if has migrate; then
    step migrate
    migrate
  fi
  step start
  start
  step wait "until healthy"
  wait_until_healthy "${candidate[@]}"
  step prove
  prove
  start_proxy
  answers "http://front-$id:8080"
  step switch
  point "front-$id"
  answers http://127.0.0.1:8080
  step watch
  watch
}

deploy() { # a tag; and 'forward' when it must not be older than what is live
  # Not local, since conclude reads them: bash leaves all functions before the trap when a command fails.
  tag=$1 live=() candidate=() back=nobody live_tag='' services='' outcome=live
  proven='' reason='' image='' doing='' seconds=''
  trap conclude EXIT
  trap '' HUP
  trap 'fail "interrupted"' INT TERM
  take_lock
  docker version >/dev/null || fail "Docker does not answer to $(id -un)"
  step repair
  repair || fail "Docker does not do as it is told: see above"
  if [[ ${live[*]} ]]; then
    read -r back live_tag < <(docker inspect --format 'front-{{index .Config.Labels "quai.deploy"}} {{index .Config.Labels "quai.tag"}}' "${live[0]}")
  fi
  image=${settings[IMAGE]}:$tag # from here on there is something to take back
  if already_live; then
    confirm
  else
    prepare "$2"
    replace
  fi
  write_env "$tag" "$id"
  proven=yes # from here on there is nothing to go back to
  grep -qs "^{\"id\": \"$id\"" deploys.log || record "$outcome"
  step clean up
  ln -sfn "$tag" releases/current.new && mv -T releases/current.new releases/current
  remove "${live[@]}"
  keep_names
  point front
  prune
  notify || true
  say "live: $tag"
}

status() {
  local project=${settings[COMPOSE_PROJECT_NAME]} tag since by
  tag=$(docker ps --filter "label=com.docker.compose.project=$project" --filter "label=quai.deploy=${settings[DEPLOY_ID]:-none}" \
    --format '{{.Label "quai.tag"}}' | head -n 1)
  read -r _ since by < <(went_live | grep "^${tag:-none} " | tail -n 1) || true
  say "live: ${tag:-nothing}${since:+ since $since, by $by}"
  [[ $tag == "${settings[IMAGE_TAG]}" ]] || say "IMAGE_TAG in .env is '${settings[IMAGE_TAG]}': 'sudo $PWD/deploy.sh' makes that live"
  docker ps --all --filter "label=com.docker.compose.project=$project" --format 'table {{.Names}}\t{{.Status}}\t{{.Image}}'
  say "last attempt: $(tail -n 1 deploys.log 2>/dev/null || echo none)"
  say "to roll back, one of these lines, newest release first:"
  for tag in $(rollback_tags "$tag"); do
    echo "sudo sed -i 's/^IMAGE_TAG=.*/IMAGE_TAG=$tag/' $PWD/.env && sudo $PWD/deploy.sh"
  done
}

refuse() { printf 'deploy.sh: %s\n' "$*" >&2; exit 2; }

check() { # that a setting matches a pattern; how it should look. Its value may be a secret.
  [[ ${settings[$1]-} =~ ^($2)$ ]] || refuse "$1 in $PWD/.env must be $3; .env.prod shows how it looks"
}

main() {
  local request=$* name owner
  by=${DEPLOYED_BY:-${SUDO_USER:-$(id -un)}} # not local, as in deploy
  if [[ $request == --ssh ]]; then request="ssh ${SSH_ORIGINAL_COMMAND-}" by='the deploy key'; fi
  if [[ $request =~ ^(-h|--help)$ ]]; then usage; exit; fi
  [[ $request =~ ^(|(ssh )?(status|deploy [0-9a-f]{40}))$ ]] ||
    refuse "'${request#ssh }' is not 'status' or 'deploy <commit, 40 hex digits>'; see deploy.sh --help"

  export LC_ALL=C
  umask 022
  cd "$(dirname "${BASH_SOURCE[0]}")"
  [[ -f .env ]] || refuse "no .env in $PWD: setup-server.sh makes one from .env.prod"
  owner=$(stat --format %U .env)
  if ((EUID == 0)) && [[ $owner != root ]]; then DEPLOYED_BY=$by exec runuser --user "$owner" -- "$PWD/deploy.sh" "$@"; fi
  [[ -O .env && -r .env ]] || refuse "$(id -un) cannot read $PWD/.env: run with sudo, and see that the file is its owner's (chmod 600)"
  read_env
  export -n "${!settings[@]}" # compose would take a variable for more than what .env says
  for name in IMAGE_TAG DEPLOY_ID; do
    [[ -v settings[$name] ]] || refuse "the line $name= is missing in $PWD/.env; .env.prod shows where it stands"
  done
  check COMPOSE_PROJECT_NAME '[a-z0-9][a-z0-9_-]*' 'a name in lower case'
  check IMAGE '[^[:space:]]+' 'the name of an image'
  for name in API_REPLICAS KEEP_RELEASES MIN_FREE_MB HEALTH_SECONDS WATCH_SECONDS MIGRATE_SECONDS; do
    check "$name" '[1-9][0-9]*' 'a number from 1 on'
  done
  check NOTIFY_URL '|https?://[^[:space:]"]+' 'a URL (https://...)'
  case $request in
    *status) status ;;
    *deploy*) follow "${request##* }" forward ;;
    *)
      check IMAGE_TAG '[0-9a-f]{40}' 'a commit (40 hex digits)'
      follow "${settings[IMAGE_TAG]}" any
      ;;
  esac
}

main "$@"
