# The throwaway server of the rehearsal before setup-server.sh (Debian, Docker engine, sshd), and its registry.
ARG DEBIAN_IMAGE=debian:trixie-slim@sha256:a29215f6a35e51e22adffa17f89e9d2ef06214e64a2bad10d765c46aea49f11f
ARG REGISTRY_IMAGE=registry:3.1.2@sha256:ddf754342cfc8acc51a56d5d0ab6af06826461864460636d8bd5c546dab2a7b8

FROM ${REGISTRY_IMAGE} AS registry

FROM ${DEBIAN_IMAGE} AS server
# Unpinned packages: the server exists for the duration of a rehearsal only.
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get install -qq -y --no-install-recommends openssh-server sudo curl procps iptables \
        docker.io docker-cli docker-compose docker-buildx >/dev/null \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*
VOLUME /var/lib/docker
STOPSIGNAL SIGTERM
COPY server-start.sh /usr/local/bin/server-start
CMD ["server-start"]
