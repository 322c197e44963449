# To use another base image: --build-arg PYTHON_IMAGE=... The pinned one is in a FROM line, because Dependabot
# does not update ARG lines.
ARG PYTHON_IMAGE=pinned-python
FROM python:3.13.16-slim-trixie@sha256:bf44cdfcb76cd3b41e879bc058fc37ec5872002ccfde7fcb765e218cde0cd79c AS pinned-python

# Separate stages for dependencies and code: a code change does not invalidate the dependency layer.
FROM ${PYTHON_IMAGE} AS dependencies
WORKDIR /build
COPY requirements.txt .
# Behind a proxy that intercepts TLS: --secret id=ca,src=<its bundle>. Fixed file times, and bytecode that
# embeds no times, make the layer reproducible.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=ca \
    python -m venv --without-pip /venv \
    && if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && pip --python /venv/bin/python install --require-hashes --no-compile --disable-pip-version-check -r requirements.txt \
    && python -m compileall -q --invalidation-mode unchecked-hash /venv \
    && find /venv -exec touch --no-dereference --date=@0 {} +

FROM ${PYTHON_IMAGE} AS code
COPY service /app/service
COPY service/front /release/front
COPY docker-compose.prod.yml scripts/deploy.sh /release/
COPY scripts/server /release/server
# The commit time, set as the modification time of the files.
ARG SOURCE_DATE_EPOCH=0
RUN rm -r /app/service/front \
    && chmod -R u=rwX,go=rX /app /release \
    && chmod 0755 /release/deploy.sh \
    && python -m compileall -q --invalidation-mode unchecked-hash /app \
    && find /app /release -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

FROM ${PYTHON_IMAGE}
# Unbuffered logs; no bytecode on a read-only file system.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=dependencies /venv /venv
COPY --from=code /release /release
COPY --from=code /app /app
WORKDIR /app
# Import most modules, so that most missing dependencies fail the build. The smoke test covers the rest:
# service.__main__, the migrations and the database driver.
RUN python -c "import importlib, pkgutil, service; [importlib.import_module(m.name) for m in pkgutil.walk_packages(service.__path__, 'service.') if m.name != 'service.__main__']"
USER 10001:10001
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --start-interval=0.5s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['API_PORT']), timeout=3); c.request('GET', '/healthz'); r = c.getresponse(); sys.exit(r.status != 200 and r.read().decode())"]
CMD ["python", "-m", "service"]
# Last, because they change with each commit. The server orders releases by POSITION, the number of first-parent
# commits on main, because commit times depend on clocks. From MIGRATIONS, a digest, it knows whether two
# releases have the same migrations. The commit has four names: the build argument REVISION, the environment
# variable RELEASE, "tag" in /version, and IMAGE_TAG in the server's .env.
ARG REVISION=dev SOURCE= CREATED= POSITION= MIGRATIONS=
ENV RELEASE=${REVISION}
LABEL org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.source=${SOURCE} \
      org.opencontainers.image.created=${CREATED} \
      quai.position=${POSITION} \
      quai.migrations=${MIGRATIONS}
