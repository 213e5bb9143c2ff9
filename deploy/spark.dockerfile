# The image of `hof spark`: that of servers and workers, with Java, pyspark and Spark's connector to
# Kafka. Build the other one first; feature modules come on top as they do there: docs/guide/spark.md.
#   docker build -t registry.example.org/hofflight-spark:0.1.0 -f deploy/spark.dockerfile .
ARG BASE=registry.example.org/hofflight:0.1.0

FROM ${BASE} AS jars
USER root
RUN apt-get update && \
    apt-get install --yes --no-install-recommends default-jre-headless maven
# Pinned by their sha256, as packages of Python are by their locks.
RUN XDG_CACHE_HOME=/opt/cache python -m hofflight.jars spark

FROM ${BASE}
USER root
RUN apt-get update && \
    apt-get install --yes --no-install-recommends default-jre-headless && \
    rm -rf /var/lib/apt/lists/*
# Hadoop, which Spark is made of, wants the user's number to have a name.
RUN groupadd --gid 10001 hofflight && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /store hofflight
COPY requirements/spark.lock /opt/hofflight/spark.lock
RUN /opt/hofflight/bin/pip install --no-cache-dir --require-hashes -r /opt/hofflight/spark.lock
COPY --from=jars /opt/cache /opt/cache
COPY --chmod=0755 deploy/spark-entrypoint.sh /opt/hofflight/bin/spark-entrypoint
ENV XDG_CACHE_HOME=/opt/cache \
    PYSPARK_PYTHON=/opt/hofflight/bin/python \
    PYSPARK_DRIVER_PYTHON=/opt/hofflight/bin/python
USER 10001:10001
ENTRYPOINT ["spark-entrypoint"]
CMD ["--help"]
