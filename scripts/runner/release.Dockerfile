# The two images of a release, from the application's image. `release`: the application, and the files that the server
# needs as /release. `front`: Caddy with the Caddyfile and the static files.
# The files come from a separate build context, because the application's .dockerignore could exclude them.
# A /release/front in the application's image takes precedence over the default one; the wildcards permit its absence.
ARG APP_IMAGE FRONT_IMAGE
FROM ${APP_IMAGE} AS application

FROM scratch AS files
COPY release /release
COPY --from=application /releas[e]/fron[t] /release/front

FROM ${FRONT_IMAGE} AS front
COPY --from=files /release/front /front

FROM application AS release
COPY --from=files /release /release
