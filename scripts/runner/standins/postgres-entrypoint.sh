#!/usr/bin/env bash
# Replaces the official image's entrypoint to the extent that the compose files need it: the first start
# creates the cluster, the user with its password, and the database.
set -euo pipefail

create_cluster() {
  chmod 0700 "$PGDATA"
  initdb --encoding=UTF8 --locale=C.UTF-8 --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth=scram-sha-256 >/dev/null
  printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  sed -i 's/^local .*/local all all trust/' "$PGDATA/pg_hba.conf"
  pg_ctl -w start -o "-c listen_addresses=''" >/dev/null
  createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl -w stop >/dev/null
}

main() {
  [[ -s $PGDATA/PG_VERSION ]] || create_cluster
  exec "$@" -c listen_addresses='*'
}

main "$@"
