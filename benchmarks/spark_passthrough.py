"""The floor under a request through Spark: a Real-Time query that sends each record back.

`python -m benchmarks.spark_passthrough HOST:PORT IN OUT`: no Python in its tasks, no state, the
recipe of the bridge. It says `ready` once it runs; SIGTERM ends it.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from hofflight.jars import spark_jars
from hofflight.settings import load_settings
from hofflight.spark_bridge.query import kafka_options
from hofflight.spark_bridge.session import local_master, open_session


def passthrough(bootstrap: str, source: str, target: str) -> None:
    """Until it is killed; its JVM ends with it."""
    spark = open_session("passthrough", local_master(1), spark_jars(), {})
    options = kafka_options(load_settings(kafka={"bootstrap": bootstrap}).kafka)
    records = (
        spark.readStream.format("kafka").options(**options)
        .option("subscribe", source).option("startingOffsets", "latest").load()
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        stream: Any = records.select("value").writeStream
        query = (
            stream.format("kafka").options(**options)
            .option("topic", target).option("kafka.linger.ms", "0").option("kafka.acks", "all")
            .option("checkpointLocation", folder).outputMode("update")
            .trigger(realTime="5 minutes").start()
        )  # fmt: skip
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        query.awaitTermination()


if __name__ == "__main__":
    passthrough(*sys.argv[1:])
