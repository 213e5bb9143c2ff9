# One image for `hof serve`, `hof worker` and `hof register`. Feature modules come on top of it, or
# are mounted at /features: docs/guide/deploy.md.

# The Python that the tests run on. A mirror, or a digest: --build-arg BASE=...@sha256:...
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all:

# Locks before sources: a change of the code takes the packages from the layer before.
COPY requirements requirements
RUN python -m venv /opt/tools && \
    /opt/tools/bin/pip install --require-hashes -r requirements/tools.lock
RUN python -m venv /opt/hofflight && \
    /opt/hofflight/bin/pip install --require-hashes \
        -r requirements/core.lock \
        -r requirements/kafka.lock \
        -r requirements/postgres.lock \
        -r requirements/redis.lock \
        -r requirements/pandas.lock \
        -r requirements/polars.lock

COPY pyproject.toml README.md LICENSE ./
COPY hofflight hofflight
RUN /opt/tools/bin/python -m hatchling build -t wheel -d dist && \
    /opt/hofflight/bin/pip install --no-deps --no-index dist/hofflight-*.whl

FROM ${BASE}
COPY --from=build /opt/hofflight /opt/hofflight
# The root file system can be read-only: pip has compiled what there is, and stores are in the volume.
ENV PATH=/opt/hofflight/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN install -d -o 10001 -g 10001 -m 0700 /store && install -d /features
# By number: Kubernetes' runAsNonRoot cannot judge a name.
USER 10001:10001
VOLUME /store
# Modules are looked for where `hof` runs.
WORKDIR /features
EXPOSE 8817
STOPSIGNAL SIGTERM
# No HEALTHCHECK: servers, workers and jobs share this image, and one that fits all would tell nothing.
ENTRYPOINT ["hof"]
CMD ["--help"]
