# One image per service: `docker build --build-arg SERVICE=catalog .`

# A pipeline gives a digest: `--build-arg PYTHON=python:3.13-slim@sha256:…`.
ARG PYTHON=python:3.13-slim
FROM ${PYTHON} AS base


FROM base AS uv
# `strip`, for the compiled modules of the dependencies.
RUN apt-get update --quiet=2 && \
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends binutils && \
    rm -rf /var/lib/apt/lists/*
# The installer comes from the platform's own lock, hashes included.
RUN --mount=type=bind,source=requirements.lock,target=/requirements.lock \
    --mount=type=cache,target=/root/.cache/pip \
    sed -n '/^uv==/,/[^\\]$/p' /requirements.lock > /tmp/uv.lock && \
    pip install --quiet --no-deps --require-hashes --root-user-action=ignore \
        --requirement /tmp/uv.lock


FROM uv AS build
ARG SERVICE
ENV UV_LINK_MODE=copy \
    UV_SYSTEM_CERTS=true \
    UV_PYTHON_DOWNLOADS=never \
    # The root is read-only and the sources never change: Python need not look at them, and
    # the bytecode holds no time of its making. One process compiles all files in order, with
    # one seed: what several do beside each other differs from build to build.
    COMPILE="/opt/flagon/bin/python -m compileall -q --invalidation-mode unchecked-hash" \
    PYTHONHASHSEED=0
RUN uv venv --quiet --python /usr/local/bin/python3 /opt/flagon
# Dependencies change rarely and fill a layer of their own.
RUN --mount=type=bind,source=deploy/locks,target=/locks \
    --mount=type=cache,target=/root/.cache/uv \
    uv pip install --quiet --python /opt/flagon --no-deps --require-hashes \
        --requirement "/locks/${SERVICE}.lock" && \
    # What no process of ours reads: the tests of the dependencies, stubs, other databases,
    # what draws letters into pictures, and the symbols of compiled modules.
    find /opt/flagon -type d \( -name tests -o -name test -o -name testing \) \
        -path '*/site-packages/*/*' -prune -exec rm -rf {} + && \
    find /opt/flagon -name '*.pyi' -delete && \
    cd /opt/flagon/lib/python3.13/site-packages && \
    rm -rf sqlalchemy/dialects/mssql sqlalchemy/dialects/mysql sqlalchemy/dialects/oracle \
        sqlalchemy/dialects/sqlite PIL/_imagingft.* pillow.libs/libfreetype-* \
        pillow.libs/libharfbuzz-* pillow.libs/libbrotli* pillow.libs/libpng16-* && \
    find . -name '*.so' ! -path '*.libs/*' -exec strip --strip-unneeded {} + && \
    ${COMPILE} "$PWD" && \
    find /opt/flagon -exec touch --no-dereference --date=@0 {} +
# uWSGI is 2 MB under the GPL: only images that are made for it hold it.
ARG SERVER=gunicorn
RUN --mount=type=bind,source=requirements.lock,target=/requirements.lock \
    --mount=type=cache,target=/root/.cache/uv \
    if [ "${SERVER}" = uwsgi ]; then \
        sed -n '/^pyuwsgi==/,/[^\\]$/p' /requirements.lock > /tmp/uwsgi.lock && \
        uv pip install --quiet --python /opt/flagon --no-deps --require-hashes \
            --requirement /tmp/uwsgi.lock && \
        find /opt/flagon -newermt 1970-01-02 -exec touch --no-dereference --date=@0 {} +; \
    fi


# As a tree that is copied whole, the folders above included: whatever is made for a COPY has
# the time of the build.
FROM build AS libraries
RUN mkdir /made && mv /opt /made/ && \
    find /made -exec touch --no-dereference --date=@0 {} +


FROM uv AS wheels
ARG SERVICE
WORKDIR /source
COPY libs libs
COPY services services
# uv holds the build backend itself: nothing is downloaded here.
RUN for part in libs/chassis "services/${SERVICE}"; do \
        uv build --quiet --offline --no-config --wheel --out-dir /wheels "$part" || exit 1; \
    done


FROM build AS own
ARG SERVICE
# The service and the chassis, which change often, go to a folder of their own, which one
# line adds to the search path of the virtual environment.
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    uv pip install --quiet --offline --python /opt/flagon --no-deps \
        --target /opt/service /wheels/*.whl && \
    # When uv made the wheel, for uv.
    rm -rf /opt/service/.lock /opt/service/bin /opt/service/*.dist-info/uv_cache.json && \
    sed -i '/uv_cache.json/d' /opt/service/*.dist-info/RECORD && \
    ${COMPILE} /opt/service
RUN groupadd --gid 10001 flagon && \
    useradd --uid 10001 --gid flagon --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin flagon && \
    packages=/made/opt/flagon/lib/python3.13/site-packages && \
    mkdir -p /made/etc /made/var/lib "$packages" && \
    cp /etc/passwd /etc/group /made/etc/ && \
    cp -R /opt/service /made/opt/ && \
    printf '/opt/service\n' > "$packages/service.pth" && \
    install -d -o flagon -g flagon /made/var/lib/flagon /made/var/lib/flagon/files \
        /made/var/lib/flagon/images /made/var/lib/flagon/spool && \
    find /made -exec touch --no-dereference --date=@0 {} +


FROM base
ARG SERVICE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flagon-${SERVICE}" \
      org.opencontainers.image.description="The ${SERVICE} service of Flagon" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --link --from=libraries /made/ /
COPY --link --from=own /made/ /
ENV PATH=/opt/flagon/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLAGON_RELEASE=${VERSION} \
    SERVICE=${SERVICE}
USER 10001:10001
WORKDIR /
EXPOSE 8000
STOPSIGNAL SIGTERM
# -I -S: the interpreter alone starts in a few milliseconds, so that a check every few
# seconds in every container costs nothing that one could measure.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-IS", "-c", "import socket as s; c = s.create_connection(('127.0.0.1', 8000), 4); c.sendall(b'GET /readyz HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n'); raise SystemExit(b' 200 ' not in c.recv(64))"]
# The name of the service is known when the image is built, and this line is not: Python looks
# it up and gives its place, process 1, to `python -m flagon_<service> …`. No shell is needed.
ENTRYPOINT ["python", "-IS", "-c", "import os, sys; os.execvp('python', ['python', '-m', 'flagon_' + os.environ['SERVICE'], *sys.argv[1:]])"]
CMD ["serve"]
