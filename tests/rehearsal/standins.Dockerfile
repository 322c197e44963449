# Stand-ins for the pinned images, for machines that reach no image registry: same paths,
# same users, same variables, from Debian packages on a root file system made by mmdebstrap.
ARG DEBIAN
FROM ${DEBIAN} AS debian
COPY standin-install.sh /usr/local/bin/install-packages

FROM debian AS python
RUN install-packages python3 python3-pip python3-venv \
    && ln -s /usr/bin/python3 /usr/local/bin/python3 && ln -s python3 /usr/local/bin/python \
    && ln -s /usr/bin/pip /usr/local/bin/pip
CMD ["python3"]

FROM debian AS caddy
# Caddy 2.11 is in Debian's next release.
RUN sed -n 's/ trixie main/ forky main/p' /etc/apt/sources.list >/etc/apt/sources.list.d/forky.list \
    && printf 'Package: *\nPin: release n=forky\nPin-Priority: 100\n' >/etc/apt/preferences.d/forky \
    && install-packages caddy/forky busybox libcap2-bin \
    && setcap cap_net_bind_service=+ep /usr/bin/caddy \
    && ln -s /bin/busybox /usr/local/bin/wget
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
WORKDIR /srv
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]

FROM debian AS postgres
ENV PGDATA=/var/lib/postgresql/data
RUN install-packages postgresql-common \
    && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf \
    && install-packages postgresql-17 \
    && ln -s /usr/lib/postgresql/17/bin/postgres /usr/lib/postgresql/17/bin/initdb /usr/lib/postgresql/17/bin/pg_ctl /usr/local/bin/ \
    && mkdir -p "$PGDATA" && chown postgres:postgres "$PGDATA" && chmod 1777 "$PGDATA" && chmod 3777 /var/run/postgresql
COPY standin-postgres.sh /usr/local/bin/docker-entrypoint.sh
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]

FROM debian AS registry
RUN install-packages docker-registry
ENTRYPOINT ["docker-registry", "serve", "/etc/docker/registry/config.yml"]
