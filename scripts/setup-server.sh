#!/usr/bin/env bash
# Prepares a Debian or Ubuntu machine for deploys. Idempotent.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE

usage() {
  cat <<'TEXT'
Usage: sudo scripts/setup-server.sh --image IMAGE [options]

Run it on the server, in a clone of the repository.

  --image IMAGE   image of the releases, without a tag: ghcr.io/owner/quai
  --site ADDRESS  domain name to serve, with automatic HTTPS (default: ':80', plain HTTP)
  --host NAME     name or address under which GitHub reaches this server (default: the host name)
  --port PORT     SSH port of this server (default: 22)
  --user USER     user that runs the deploys (default: deploy)
  --dir DIR       directory of the application (default: /srv/quai)
  --new-key       replace the deploy key

Installs a Docker engine if none is running, and python3 if it is missing (system packages). Creates
the user, the directory with .env and deploy.sh, a systemd unit that reconciles with .env at boot, and
an SSH key that can only request a deploy or the status. Existing files are kept. Finally prints the
commands that configure GitHub.
TEXT
}

say() { printf '==> %s\n' "$*"; }
fail() { printf 'setup-server.sh: %s\n' "$*" >&2; exit 2; }

read_options() {
  image='' site=:80 host=$(hostname --fqdn 2>/dev/null || hostname) port=22 user=deploy dir=/srv/quai new_key=''
  while (($#)); do
    case $1 in
      -h | --help) usage; exit ;;
      --new-key) new_key=yes; shift; continue ;;
      --image | --site | --host | --port | --user | --dir) [[ ${2-} ]] || fail "$1 requires a value; see --help" ;;
      *) fail "unknown option '$1'; see --help" ;;
    esac
    printf -v "${1#--}" '%s' "$2"
    shift 2
  done
  [[ $image =~ ^[a-z0-9][a-z0-9._:/-]*$ && ${image##*/} != *:* ]] || fail "--image '$image' is not an image name without a tag, such as ghcr.io/owner/quai"
  image=${image#docker.io/}
  dir=${dir%/}
  [[ $dir =~ ^/[A-Za-z0-9._/-]+$ ]] || fail "--dir '$dir' is not an absolute path of letters, digits, '.', '_' and '-'"
  [[ $user =~ ^[a-z_][a-z0-9_-]*$ ]] || fail "--user '$user' is not a user name"
  [[ $port =~ ^[0-9]+$ ]] || fail "--port '$port' is not a number"
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

make_user() {
  # No password, but not locked, so that SSH keys work. The password of an existing user is not changed.
  id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --user-group --password '*' "$user"
  usermod --append --groups docker "$user"
  home=$(getent passwd "$user" | cut -d: -f6)
}

make_directory() {
  install -d -o "$user" -g "$user" "$dir" "$dir/releases"
  # Use the deploy program of this clone until the first release provides its own.
  if [[ ! -e $dir/releases/current/deploy.sh || $(readlink "$dir/releases/current") == setup ]]; then
    rm -rf "$dir/releases/setup"
    mkdir "$dir/releases/setup"
    cp -r "$HERE/deploy.sh" "$HERE/server" "$dir/releases/setup/"
    chown -R "$user:$user" "$dir/releases/setup"
    ln -sfn setup "$dir/releases/current"
  fi
  ln -sfn releases/current/deploy.sh "$dir/deploy.sh"
  ln -sfn releases/current/docker-compose.prod.yml "$dir/docker-compose.prod.yml"
  chown -h "$user:$user" "$dir"/{deploy.sh,docker-compose.prod.yml,releases,releases/current}
}

# With live-restore, an upgrade of the engine does not stop the containers.
keep_containers_running() {
  local file=/etc/docker/daemon.json
  [[ $(docker info --format '{{.LiveRestoreEnabled}} {{.Swarm.LocalNodeState}}') == 'false inactive' ]] || return 0
  if [[ -e $file ]]; then
    say "$file exists and is not changed; add \"live-restore\": true to keep containers running while the engine restarts"
  else
    echo '{"live-restore": true}' >"$file"
    kill -HUP "$(pidof dockerd)" # reload the configuration
  fi
}

# Reconciles with .env at boot, also after a reboot in the middle of a deploy.
make_unit() {
  local units=/etc/systemd/system unit
  unit=quai.service
  mkdir -p "$units/multi-user.target.wants"
  cat >"$units/$unit" <<TEXT
[Unit]
Description=Reconcile $dir with its .env
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

make_env() {
  [[ ! -e $dir/.env ]] || return 0
  local line
  (
    umask 077
    while IFS= read -r line; do
      case $line in
        IMAGE=*) line=IMAGE=$image ;;
        SITE_ADDRESS=*) line=SITE_ADDRESS=$site ;;
        [A-Z]*=change-me*) line=${line%%=*}=$(secret) ;;
      esac
      printf '%s\n' "$line"
    done <"$HERE/../.env.prod" >"$dir/.env.new"
  )
  chown "$user:$user" "$dir/.env.new"
  mv "$dir/.env.new" "$dir/.env"
}

make_key() {
  local line authorized=$home/.ssh/authorized_keys
  key=/root/quai-deploy-key
  install -d -m 0700 -o "$user" -g "$user" "$home/.ssh"
  if [[ ! $new_key ]] && grep -qs " quai-deploy$" "$authorized"; then return; fi
  rm -f "$key" "$key.pub"
  ssh-keygen -q -t ed25519 -N '' -C quai-deploy -f "$key"
  line="restrict,command=\"$dir/deploy.sh --ssh\" $(<"$key.pub")"
  { grep -vs " quai-deploy$" "$authorized" || true; echo "$line"; } >"$authorized.new"
  chown "$user:$user" "$authorized.new"
  chmod 0600 "$authorized.new"
  mv "$authorized.new" "$authorized"
}

print_next() {
  local name=$host url=http://$host registry=${image%%/*}
  [[ $host != *:* ]] || url="http://[$host]" # an IPv6 address
  [[ $registry == *[.:]* ]] || registry='' # Docker Hub
  [[ $port == 22 ]] || name="[$host]:$port"
  [[ $site == :* ]] || url=https://$site
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
ssh -p $port root@$host cat $key | gh secret set DEPLOY_KEY --env production
ssh -p $port root@$host rm $key $key.pub
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
  local image site host port user dir new_key home key
  read_options "$@"
  ((EUID == 0)) || fail "run as root: sudo scripts/setup-server.sh ..."
  [[ -f $HERE/../.env.prod && -f $HERE/deploy.sh && -d $HERE/server ]] || fail "run it from a clone of the repository: .env.prod, scripts/deploy.sh or scripts/server is missing"
  [[ -f /etc/ssh/ssh_host_ed25519_key.pub ]] || fail "no SSH server found; install one: apt-get install openssh-server"
  refuse_second_application
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
