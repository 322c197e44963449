# To use another base image: --build-arg PYTHON_IMAGE=... The pinned one is in a FROM line, because Dependabot
# does not update ARG lines.
ARG PYTHON_IMAGE=pinned-python
FROM python:3.13.16-slim-trixie@sha256:bf44cdfcb76cd3b41e879bc058fc37ec5872002ccfde7fcb765e218cde0cd79c AS pinned-python

# Separate stages for dependencies and code: a code change does not invalidate the dependency layer.
FROM ${PYTHON_IMAGE} AS dependencies
# Only the tool of the lock file is installed, and only in this stage.
ARG UV="uv==0.13.9" POETRY="poetry==2.5.1 poetry-plugin-export==1.10.1" PDM="pdm==2.29.4 hishel==1.4.0"
WORKDIR /build
# The wildcards allow missing files.
COPY pyproject.toml* uv.lock* poetry.lock* pdm.lock* requirements*.txt ./
# The versions are pinned above, one variable may contain several words, and the cache is not part of the image.
# hadolint ignore=DL3013,DL3042,SC2086
RUN --mount=type=cache,target=/root/.cache --mount=type=secret,id=ca <<END
set -eu
# Behind a proxy that intercepts TLS: --secret id=ca,src=<its bundle>.
ca=/run/secrets/ca
if [ -s "$ca" ]; then export PIP_CERT="$ca" SSL_CERT_FILE="$ca" REQUESTS_CA_BUNDLE="$ca"; fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/venv VIRTUAL_ENV=/venv
install_tool() {
  python -m venv --without-pip /tool
  pip --python /tool/bin/python install --quiet "$@"
}
python -m venv --without-pip /venv
if [ -f uv.lock ]; then
  install_tool $UV
  /tool/bin/uv sync --frozen --no-dev --no-install-project
elif [ -f poetry.lock ]; then
  install_tool $POETRY
  /tool/bin/poetry export --only main --output /tmp/requirements.txt
  pip --python /venv/bin/python install --no-compile -r /tmp/requirements.txt
elif [ -f pdm.lock ]; then
  install_tool $PDM
  /tool/bin/pdm sync --prod --no-self
elif [ -f requirements.txt ]; then
  pip --python /venv/bin/python install --no-compile -r requirements.txt
else
  echo "no uv.lock, poetry.lock, pdm.lock or requirements.txt: create one, or stop excluding it in .dockerignore" >&2
  exit 1
fi
# Fixed file times, and bytecode that embeds no times, make the layer reproducible. A few packages contain files
# that do not compile.
python -m compileall -qq --invalidation-mode unchecked-hash /venv || true
find /venv -exec touch --no-dereference --date=@0 {} +
END

FROM ${PYTHON_IMAGE} AS code
COPY . /app
# The page and its Caddyfile are the front of the release, not a part of the API.
RUN mkdir /release && mv /app/service/front /release/front
# The commit time, set as the modification time of the files.
ARG SOURCE_DATE_EPOCH=0
RUN chmod -R u=rwX,go=rX /app /release \
    && { python -m compileall -qq --invalidation-mode unchecked-hash /app || true; } \
    && find /app /release -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

FROM ${PYTHON_IMAGE}
# Unbuffered logs; no bytecode on a read-only file system; packages in src/ can be imported.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/app/src
COPY --from=dependencies /venv /venv
COPY --from=code /release /release
COPY --from=code /app /app
WORKDIR /app
USER 10001:10001
CMD ["python", "-m", "service"]
