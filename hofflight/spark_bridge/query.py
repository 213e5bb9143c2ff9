"""One query: a partition's records through one Python worker and back into Kafka.

A query a partition, though one query could read them all: which of a query's workers gets which
partition is up to Spark at each trigger, and state would have to follow. A query has an environment
of its own, and with it workers of its own: one. So state stays where it is, and a query that dies
takes no other with it.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hofflight.errors import SettingsError
from hofflight.eventlog.directory import whole_file
from hofflight.spark_bridge.executor_side import OUTPUT_DDL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

    from hofflight.settings import KafkaSettings
    from hofflight.spark_bridge.executor_side import Place
    from hofflight.spark_bridge.plan import Mode

# In an environment of its own, a query gets a worker of its own.
_PLACE: Final = "HOF_SPARK_PLACE"
EARLIEST: Final = -2


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """How every query of an application runs. checkpoint: a folder, here or in an object store.

    environment: of the Python workers. trigger_us: how long a trigger takes, in Real-Time Mode.
    """

    kafka: KafkaSettings
    checkpoint: str
    environment: Mapping[str, str]
    mode: Mode = "realtime"
    trigger_us: int = 300_000_000


def start_query(
    spark: SparkSession, plan: QueryPlan, place: Place, function: Callable[..., Any],
    assignment: object, starting_offset: int, log: Path,
) -> StreamingQuery:  # fmt: skip
    """Start a partition's query where its checkpoint ends; without one at `starting_offset`.

    function, assignment: what its workers call, by name, and with what. log: the folder of its log,
    where it notes at which offset a checkpoint begins.
    """
    context: Any = spark.sparkContext
    context.environment.update(plan.environment)
    context.environment[_PLACE] = f"{place.topic}/{place.number}"
    # A mode of its own: Real-Time Mode does not go on from a checkpoint of micro-batches.
    checkpoint = f"{plan.checkpoint}/{plan.mode}/{place.stream}/{place.number}"
    begun = log / f"begun-{plan.mode}"
    if drop_uncommitted(spark, checkpoint):
        # What was counted is answered from the log again: nobody knows which answers have left.
        starting_offset = _read_offset(begun)
    else:
        log.mkdir(parents=True, exist_ok=True)
        with whole_file(begun) as fresh:
            fresh.write_text(str(starting_offset))
    options = kafka_options(plan.kafka)
    source = (
        spark.readStream.format("kafka")
        .options(**options)
        .option("assign", json.dumps({place.topic: [place.number]}))
        .option("startingOffsets", json.dumps({place.topic: {str(place.number): starting_offset}}))
        .option("includeHeaders", "true")
        .option("failOnDataLoss", "true")
    )
    records = _loaded(source).selectExpr(
        "value", "offset", "unix_millis(timestamp) AS timestamp", "headers"
    )
    with warnings.catch_warnings():  # pyspark does not know pandas 3, and needs none of it here
        warnings.simplefilter("ignore", FutureWarning)
        answers = records.mapInArrow(partial(function, assignment), OUTPUT_DDL)
    sink: Any = (
        answers.writeStream.format("kafka")
        .options(**options)
        .option("kafka.linger.ms", "0")
        .option("kafka.acks", "all")
        # Whoever waits for longer has an error already; a missing topic must be loud.
        .option("kafka.max.block.ms", "5000")
        .option("kafka.max.request.size", str(2 * plan.kafka.record_bytes_max))
        .option("checkpointLocation", checkpoint)
        .outputMode("update")
        .queryName(f"{place.topic}/{place.number}")
    )
    if plan.mode == "realtime":
        sink = sink.trigger(realTime=f"{plan.trigger_us // 1_000} milliseconds")
    else:
        sink = sink.trigger(processingTime="0 seconds")
    query: StreamingQuery = sink.start()
    return query


def _read_offset(path: Path) -> int:
    """The topic's begin where another host made the checkpoint."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return EARLIEST


def _loaded(source: Any) -> Any:
    """Raises: SettingsError (HOF-601), Spark does not know Kafka."""
    try:
        return source.load()
    except Exception as error:
        if "Failed to find data source" not in str(error):
            raise
        msg = "Spark has no connector to Kafka"
        hint = "spark-submit takes its jars by --jars; `python -m hofflight.jars spark` has them"
        raise SettingsError(msg, hint=hint) from error


def drop_uncommitted(spark: SparkSession, checkpoint: str) -> bool:
    """Remove a checkpoint that no trigger was committed to; whether there was one.

    A driver that is killed in its first trigger may leave an offset without a commit, and no query
    starts from that any more (STATE_STORE_CHECKPOINT_LOCATION_NOT_EMPTY).
    """
    context: Any = spark
    jvm, conf = context._jvm, context._jsc.hadoopConfiguration()  # noqa: SLF001
    folder = jvm.org.apache.hadoop.fs.Path(checkpoint)
    commits = jvm.org.apache.hadoop.fs.Path(f"{checkpoint}/commits")
    files = folder.getFileSystem(conf)
    if not files.exists(folder):
        return False
    found = files.listStatus(commits) if files.exists(commits) else []
    if any(status.getPath().getName().isdigit() for status in found):
        return False
    files.delete(folder, True)
    return True


def spark_url(checkpoint: str) -> str:
    """A folder or object store in Spark's words; a path is one of this machine.

    Hadoop knows S3 as `s3a`, and takes what has no scheme for a path of its default file system.
    """
    if "://" not in checkpoint:
        return f"file://{Path(checkpoint).resolve()}"
    scheme, _, rest = checkpoint.partition("://")
    return f"s3a://{rest}" if scheme == "s3" else checkpoint


def kafka_options(kafka: KafkaSettings) -> dict[str, str]:
    """Our settings as Kafka's Java client calls them."""
    found = {
        "kafka.bootstrap.servers": kafka.bootstrap,
        "kafka.security.protocol": kafka.security,
    }
    if kafka.security.startswith("SASL"):
        module = "plain.Plain" if kafka.sasl_mechanism == "PLAIN" else "scram.Scram"
        login = f"org.apache.kafka.common.security.{module}LoginModule required"
        user, secret = _quoted(kafka.username), _quoted(kafka.password.get_secret_value())
        found["kafka.sasl.mechanism"] = kafka.sasl_mechanism
        found["kafka.sasl.jaas.config"] = f"{login} username={user} password={secret};"
    if kafka.tls_ca is not None:
        found["kafka.ssl.truststore.type"] = "PEM"
        found["kafka.ssl.truststore.certificates"] = kafka.tls_ca.read_text()
    if kafka.tls_certificate is not None and kafka.tls_key is not None:
        found["kafka.ssl.keystore.type"] = "PEM"
        found["kafka.ssl.keystore.certificate.chain"] = kafka.tls_certificate.read_text()
        found["kafka.ssl.keystore.key"] = kafka.tls_key.read_text()
    return found


def _quoted(text: str) -> str:
    """As JAAS reads it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
