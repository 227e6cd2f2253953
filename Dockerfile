# The watcher alone: Debian's Python, the locked dependencies, the package. docs/image.md tells how to run it.
#
#   docker build --tag pgbouncer-watcher .        or podman build --format docker …
#
# BASE may be any image of Debian 12.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/*
# pip installs from one environment into the other, which has none and needs none
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/pgbouncer-watcher
WORKDIR /source
COPY requirements-build.txt requirements.txt ./
RUN /build/bin/pip install --no-cache-dir --require-hashes -r requirements-build.txt \
    && /build/bin/pip wheel --no-cache-dir --require-hashes --no-build-isolation --use-pep517 \
        --wheel-dir /wheels -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY watcher watcher
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/pgbouncer-watcher/bin/python install --no-index --no-deps /wheels/*.whl

FROM ${BASE}
# python3 also runs the agent of targets with `via: local`; the authorities are for Patroni's https
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* \
    && useradd --uid 65532 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin \
        pgbouncer-watcher
COPY --from=build /opt/pgbouncer-watcher /opt/pgbouncer-watcher
ENV PATH=/opt/pgbouncer-watcher/bin:$PATH \
    WATCHER_CONFIG_FILE=/etc/pgbouncer-watcher/watcher.yaml
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="pgbouncer-watcher" \
      org.opencontainers.image.description="Keeps PgBouncer pointed at the primary of a Patroni cluster" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
EXPOSE 9632
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["watcher", "healthcheck"]
ENTRYPOINT ["watcher"]
CMD ["run"]
