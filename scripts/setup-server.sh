#!/usr/bin/env bash
# Prepares a Debian or Ubuntu machine for deploys. Idempotent.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE

usage() {
  cat <<'TEXT'
Usage: sudo scripts/setup-server.sh --image IMAGE [options]
       sudo scripts/setup-server.sh --swarm ADDRESS | --join ADDRESS --token TOKEN   (several machines; --swarm --help)

Run it on the server, in a clone of the repository.

  --image IMAGE   image of the releases, in lower case, without a tag: ghcr.io/owner/quai
  --site ADDRESS  domain name to serve, with automatic HTTPS (default: ':80', plain HTTP)
  --host NAME     name or address at which GitHub can reach this server (default: the host name)
  --port PORT     SSH port of this server (default: 22)
  --user USER     user that runs the deploys (default: deploy)
  --dir DIR       directory of the application (default: /srv/quai)
  --new-key       replace the deploy key

Installs Docker and python3 from system packages if they are missing, and starts Docker. Creates the
user, the directory with .env and deploy.sh, a systemd unit that deploys the release named in .env at
boot, and an SSH key that can only request a deploy or the status. Finally prints the commands that
configure GitHub.

A second run keeps .env, the deploy key (without --new-key), the deployed releases and the database. It
writes the systemd unit and the links deploy.sh and docker-compose.prod.yml again, and, before the first
deploy, the copy of the deploy program in releases/setup.
TEXT
}

say() { printf '==> %s\n' "$*"; }
fail() { printf 'setup-server.sh: %s\n' "$*" >&2; exit 2; }

read_options() {
  image='' site='' host=$(hostname --fqdn 2>/dev/null || hostname) port=22 user=deploy dir=/srv/quai new_key=''
  while (($#)); do
    case $1 in
      -h | --help) usage; exit ;;
      --new-key) new_key=yes; shift; continue ;;
      --image | --site | --host | --port | --user | --dir) [[ ${2-} ]] || fail "$1 requires a value; see --help" ;;
      *) fail "unknown option '$1'; see --help" ;;
    esac
    printf -v "${1#--}" '%s' "$2" # sets the local variable of main with the name of the option
    shift 2
  done
  [[ $image =~ ^[a-z0-9][a-z0-9._:/-]*$ && ${image##*/} != *:* ]] || fail "--image must be an image name in lower case, without a tag, such as ghcr.io/owner/quai; got '$image'"
  image=${image#docker.io/}
  [[ $site != *://* ]] || fail "--site must be an address without a scheme, such as api.example.com; got '$site'"
  dir=${dir%/}
  [[ $dir =~ ^/[A-Za-z0-9._/-]+$ ]] || fail "--dir must be an absolute path of letters, digits, '.', '_' and '-'; got '$dir'"
  [[ $user =~ ^[a-z_][a-z0-9_-]*$ ]] || fail "--user must be a user name; got '$user'"
  [[ $port =~ ^[0-9]+$ ]] || fail "--port must be a number; got '$port'"
}

# The deploy program needs Python's standard library; python3-minimal lacks parts of it.
install_python() {
  if python3 -c 'import http.client, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then return; fi
  command -v apt-get >/dev/null || fail "Python 3.10 or later is required; install it first"
  say "installing a system package: python3"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3 >/dev/null
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "Python 3.10 or later is required; this system has $(python3 --version)"
}

# Two applications would share the project name, the key and the ports, and remove each other's containers.
refuse_second_application() {
  local unit other
  for unit in /etc/systemd/system/*.service; do
    other=$(sed -nE 's|^ExecStart=(/.*)/deploy\.sh$|\1|p' "$unit" 2>/dev/null) || continue
    [[ -z $other || $other == "$dir" || ! -e $other/.env ]] ||
      fail "an application is already installed in $other; a second one on the same server is not supported yet"
  done
}

# An existing .env is not changed. Refuse options that differ from it: the commands printed for GitHub would not
# match the server.
check_env() {
  local current apply=''
  if [[ -e $dir/.env ]]; then
    # Before the first deploy, there is nothing to apply a change to.
    [[ ! $(env_value DEPLOY_ID) ]] || apply=" && sudo $dir/deploy.sh services && sudo $dir/deploy.sh"
    current=$(env_value IMAGE)
    [[ $current == "$image" ]] ||
      fail "--image is '$image', but IMAGE in $dir/.env is '$current'. To change it: sudo sed -i 's|^IMAGE=.*|IMAGE=$image|' $dir/.env"
    current=$(env_value SITE_ADDRESS)
    [[ ${site:-$current} == "$current" ]] ||
      fail "--site is '$site', but SITE_ADDRESS in $dir/.env is '$current'. To change it: sudo sed -i 's|^SITE_ADDRESS=.*|SITE_ADDRESS=$site|' $dir/.env$apply"
    site=$current
  fi
  site=${site:-:80}
}

env_value() { sed -n "s/^$1=//p" "$dir/.env" | tail -n 1 | sed -E "s/[ \t]+#.*//; s/^([\"'])(.*)\1$/\2/"; }

make_user() {
  # No valid password, but the account is not locked: SSH refuses locked accounts. The password of an
  # existing user is not changed.
  id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --user-group --password '*' "$user"
  usermod --append --groups docker "$user"
  group=$(id -gn "$user")
  home=$(getent passwd "$user" | cut -d: -f6)
}

make_directory() {
  install -d -o "$user" -g "$group" "$dir" "$dir/releases"
  # Use the deploy program of this clone until the first release provides its own.
  if [[ ! -e $dir/releases/current/deploy.sh || $(readlink "$dir/releases/current") == setup ]]; then
    rm -rf "$dir/releases/setup"
    mkdir "$dir/releases/setup"
    cp -r "$HERE/deploy.sh" "$HERE/server" "$dir/releases/setup/"
    chown -R "$user:$group" "$dir/releases/setup"
    ln -sfn setup "$dir/releases/current"
  fi
  ln -sfn releases/current/deploy.sh "$dir/deploy.sh"
  ln -sfn releases/current/docker-compose.prod.yml "$dir/docker-compose.prod.yml"
  chown -h "$user:$group" "$dir"/{deploy.sh,docker-compose.prod.yml,releases,releases/current}
}

# With live-restore, an upgrade of the engine does not stop the containers.
keep_containers_running() {
  local pids file=/etc/docker/daemon.json
  [[ $(docker info --format '{{.LiveRestoreEnabled}} {{.Swarm.LocalNodeState}}') == 'false inactive' ]] || return 0
  if [[ -e $file ]]; then
    say "$file exists and is not changed; add \"live-restore\": true to keep containers running while the engine restarts"
  else
    echo '{"live-restore": true}' >"$file"
    read -ra pids < <(pidof dockerd) || return 0 # more than one, for example with an engine in a container
    kill -HUP "${pids[@]}" # reload the configuration
  fi
}

# At boot: deploys the release named in .env, even if the server rebooted in the middle of a deploy.
make_unit() {
  local units=/etc/systemd/system unit=quai.service
  mkdir -p "$units/multi-user.target.wants"
  cat >"$units/$unit" <<TEXT
[Unit]
Description=Deploy the release named in $dir/.env
# Before the first deploy there is none.
ConditionPathExists=$dir/docker-compose.prod.yml
Requires=docker.service
After=docker.service

[Service]
Type=oneshot
User=$user
ExecStart=$dir/deploy.sh

[Install]
WantedBy=multi-user.target
TEXT
  ln -sf "$units/$unit" "$units/multi-user.target.wants/"
  [[ ! -d /run/systemd/system ]] || systemctl daemon-reload
}

secret() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# The template of .env; the first one next to another .env.prod.
template() {
  if [[ -f $HERE/../.env.pipeline ]]; then printf %s "$HERE/../.env.pipeline"; else printf %s "$HERE/../.env.prod"; fi
}

make_env() {
  [[ ! -e $dir/.env ]] || return 0
  local line placeholder="^[A-Za-z_][A-Za-z0-9_]*=[\"']?change-me"
  (
    umask 077
    while IFS= read -r line || [[ $line ]]; do # the last line may lack its newline
      case $line in
        IMAGE=*) line=IMAGE=$image ;;
        SITE_ADDRESS=*) line=SITE_ADDRESS=$site ;;
        *' # set it on the server') line=${line%%=*}= ;; # empty: the deploy names it
      esac
      [[ ! $line =~ $placeholder ]] || line=${line%%=*}=$(secret)
      printf '%s\n' "$line"
    done <"$(template)" >"$dir/.env.new"
  )
  chown "$user:$group" "$dir/.env.new"
  mv "$dir/.env.new" "$dir/.env"
}

make_key() {
  local line authorized=$home/.ssh/authorized_keys
  key=/root/quai-deploy-key
  install -d -m 0700 -o "$user" -g "$group" "$home/.ssh"
  # A key for another directory is replaced.
  if [[ ! $new_key ]] && grep -qs "command=\"$dir/deploy.sh --ssh\" .* quai-deploy$" "$authorized"; then return; fi
  rm -f "$key" "$key.pub"
  ssh-keygen -q -t ed25519 -N '' -C quai-deploy -f "$key"
  line="restrict,command=\"$dir/deploy.sh --ssh\" $(<"$key.pub")"
  { grep -vs " quai-deploy$" "$authorized" || true; echo "$line"; } >"$authorized.new"
  chown "$user:$group" "$authorized.new"
  chmod 0600 "$authorized.new"
  mv "$authorized.new" "$authorized"
}

# Print ":PORT" if the setting $1 names another port than the default $2. It may begin with an address.
port_suffix() {
  local port
  port=$(env_value "$1")
  port=${port##*:}
  [[ ${port:-$2} == "$2" ]] || echo ":$port"
}

print_next() {
  local name=$host address=$host url registry=${image%%/*} login="root@$host"
  [[ ${SUDO_USER-root} == root ]] || login="$SUDO_USER@$host sudo -n"
  [[ $host != *:* ]] || address="[$host]" # IPv6
  url=http://$address$(port_suffix HTTP_PORT 80)
  [[ $registry == *[.:]* ]] || registry='' # Docker Hub
  [[ $port == 22 ]] || name="[$host]:$port"
  case $site in
    :*) ;;
    *://*) url=${site%%[ ,]*} ;; # set in .env, for example plain HTTP for a domain
    *) url=https://${site%%[ ,]*}$(port_suffix HTTPS_PORT 443) ;;
  esac
  cat <<TEXT

The server is ready: directory $dir, user $user. Now run these commands in a clone of the repository, on a
machine where you have run 'gh auth login':

echo '{"deployment_branch_policy": {"protected_branches": false, "custom_branch_policies": true}}' | gh api --silent --method PUT 'repos/{owner}/{repo}/environments/production' --input -
gh api --silent --method POST 'repos/{owner}/{repo}/environments/production/deployment-branch-policies' -f name=main
gh variable set IMAGE --env production --body '$image'
gh variable set DEPLOY_HOST --env production --body '$host'
gh variable set DEPLOY_PORT --env production --body '$port'
gh variable set DEPLOY_USER --env production --body '$user'
gh variable set DEPLOY_KNOWN_HOSTS --env production --body '$name $(cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)'
gh variable set PUBLIC_URL --env production --body '$url'
TEXT
  if [[ -e $key ]]; then
    cat <<TEXT
(set -o pipefail
ssh -p $port $login cat $key | gh secret set DEPLOY_KEY --env production &&
  ssh -p $port $login rm $key $key.pub)
TEXT
  else
    echo "(DEPLOY_KEY was created by an earlier run; --new-key replaces it)"
  fi
  cat <<TEXT

If the image is private, run once on this server: sudo -u $user docker login $registry
The settings and secrets of production are in $dir/.env
TEXT
}

main() {
  local image site host port user group dir new_key home key
  case ${1-} in --swarm | --join) exec "$HERE/swarm.sh" "$@" ;; esac
  read_options "$@"
  ((EUID == 0)) || fail "run as root: sudo scripts/setup-server.sh ..."
  [[ -f $(template) && -f $HERE/deploy.sh && -d $HERE/server ]] || fail "run it from a clone of the repository: .env.prod, scripts/deploy.sh or scripts/server is missing"
  [[ -f /etc/ssh/ssh_host_ed25519_key.pub ]] || fail "no SSH server found; install one: apt-get install openssh-server"
  refuse_second_application
  check_env
  install_python
  "$HERE/engine.sh"
  say "user $user"
  make_user
  keep_containers_running
  say "directory $dir"
  make_directory
  make_env
  make_unit
  say "deploy key"
  make_key
  print_next
}

main "$@"
