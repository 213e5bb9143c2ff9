"""The sets of jars that hofflight uses: Kafka's broker for tests, Spark's connector to Kafka."""

from __future__ import annotations

import importlib.resources
from typing import TYPE_CHECKING, Final

from hofflight.jars.maven import PinnedJars, jars_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_HERE: Final = importlib.resources.files("hofflight.jars")

KAFKA_BROKER: Final = PinnedJars(
    "kafka-4.3.0", _HERE / "kafka_broker.xml", _HERE / "kafka_broker.sha256"
)
SPARK_CONNECTOR: Final = PinnedJars(
    "spark-kafka-4.2.0", _HERE / "spark_connector.xml", _HERE / "spark_connector.sha256"
)
# What `python -m hofflight.jars` calls them.
SETS: Final[Mapping[str, PinnedJars]] = {"kafka": KAFKA_BROKER, "spark": SPARK_CONNECTOR}


def kafka_jars() -> list[Path]:
    """The class path of a broker, checked and fetched as `jars_of` does."""
    return jars_of(KAFKA_BROKER)


def spark_jars() -> list[Path]:
    """What pyspark 4.3 lacks to read and write Kafka, checked and fetched as `jars_of` does.

    Everything else that the connector needs (codecs, Hadoop, Scala) is in pyspark's own folder.
    """
    return jars_of(SPARK_CONNECTOR)
