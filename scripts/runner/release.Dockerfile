# A release: the application's image, and the files that the server needs as /release. They come from a separate build
# context, because the application's .dockerignore could exclude them.
# A /release/front in the application's image takes precedence over the default one; the wildcards permit its absence.
ARG APP_IMAGE
FROM ${APP_IMAGE} AS application

FROM scratch AS release
COPY release /release
COPY --from=application /releas[e]/fron[t] /release/front

FROM application
COPY --from=release /release /release
