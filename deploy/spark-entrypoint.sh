#!/bin/sh
# `hof`; but Spark on Kubernetes starts a driver's pod with `driver` and what spark-submit takes. Its
# JVM is there before we are, so the connector's jars come on that line, too.
set -e
if [ "$1" = driver ]; then
    shift
    jars=$(find "$XDG_CACHE_HOME/hofflight" -path '*/spark-kafka-*' -name '*.jar' | paste -sd, -)
    exec spark-submit --deploy-mode client --jars "$jars" "$@"
fi
exec hof "$@"
