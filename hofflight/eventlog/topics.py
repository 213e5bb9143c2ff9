"""The topics of a cluster: names, and how each has to be. Pure.

| topic | partitions | what |
|---|---|---|
| `hof.in.card_tx.1` | fixed when it is made | raw events of a group's input schema number 1 |
| `hof.features.card_tx.2` | as many as its input has, or more | what a group version answered |
| `hof.reply.00`, `hof.reply.01`, ... | 1 | answers, to the server that leases the topic |
| `hof.dlq` | 1 | records that are none, as they came, and why |

`hof` is `kafka.prefix`. All are made before anything runs, by `hof register`, and nothing is ever
deleted: a worker that writes to a topic that is not there stalls for a minute a try.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hofflight import limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hofflight.features.group import FeatureGroup
    from hofflight.settings import KafkaSettings

PREFIX: Final = "hof"
_BOUNDED: Final = ("sliding", "tumbling")
_DAY_MS: Final = limits.DAY_US // 1_000
_FOR_EVER: Final = -1
# Long enough to find out what happened last week, whatever the windows need.
_RETENTION_MS_MIN: Final = 7 * _DAY_MS
_REPLY_RETENTION_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it has to be. retention_ms: at least; -1 for ever. bytes_max: of one record.

    partitions: what it is made with; partitions_min: fewer are no use.
    """

    name: str
    partitions: int
    retention_ms: int
    bytes_max: int
    partitions_min: int = 1

    def config(self) -> dict[str, str]:
        """What it is made with."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(self.retention_ms),
            "retention.bytes": "-1",
            "max.message.bytes": str(self.bytes_max),
            "message.timestamp.type": "CreateTime",
            "compression.type": "producer",
        }

    def problems(self, partitions: int, config: Mapping[str, str]) -> list[str]:
        """What is wrong with the topic that is there."""
        found = []
        if partitions < self.partitions_min or (self.partitions == 1 and partitions != 1):
            found.append(f"has {partitions} partitions, expected {self.partitions}")
        if config.get("compression.type", "producer") not in ("producer", "uncompressed", "gzip"):
            found.append(f"has compression.type {config['compression.type']}, expected producer")
        if config.get("cleanup.policy") != "delete":
            found.append(f"has cleanup.policy {config.get('cleanup.policy')}, expected delete")
        retention_ms = int(config.get("retention.ms", _FOR_EVER))
        keeps = retention_ms == _FOR_EVER or 0 <= self.retention_ms <= retention_ms
        if not keeps:
            found.append(f"keeps {retention_ms} ms, the windows need {self.retention_ms}")
        if config.get("retention.bytes", "-1") != "-1":
            found.append(f"has retention.bytes {config['retention.bytes']}, expected -1")
        if int(config.get("max.message.bytes", self.bytes_max)) < self.bytes_max:
            found.append(
                f"takes {config['max.message.bytes']} bytes, records have {self.bytes_max}"
            )
        return [f"topic {self.name} {problem}" for problem in found]


def input_topic(stream: str, prefix: str = PREFIX) -> str:
    """Where the raw events of a log, `card_tx.1`, are."""
    return f"{prefix}.in.{stream}"


def features_topic(group: str, version: int, prefix: str = PREFIX) -> str:
    """Where the answers of a group version are."""
    return f"{prefix}.features.{group}.{version}"


def dead_letters(prefix: str = PREFIX) -> str:
    """Where records are kept that are none."""
    return f"{prefix}.dlq"


def input_spec(stream: str, groups: Iterable[FeatureGroup], settings: KafkaSettings) -> TopicSpec:
    """The topic of a log that these group versions read."""
    retention_ms = max((retention_ms_of(group) for group in groups), key=_length, default=0)
    topic = input_topic(stream, settings.prefix)
    return TopicSpec(topic, settings.partitions, retention_ms, _bytes_max(settings))


def features_spec(group: FeatureGroup, partitions: int, settings: KafkaSettings) -> TopicSpec:
    """The topic of a group version's answers, whose input has so many partitions."""
    topic = features_topic(group.name, group.version, settings.prefix)
    size = _bytes_max(settings)
    return TopicSpec(topic, partitions, _RETENTION_MS_MIN, size, partitions_min=partitions)


def retention_ms_of(group: FeatureGroup) -> int:
    """How long events must be kept for a group's windows; -1: for ever."""
    frames = [window.frame for window in group.windows.values()]
    if any(frame.kind not in _BOUNDED for frame in frames):
        return _FOR_EVER
    needed_us = max((f.size_us + f.tile_us for f in frames), default=0) + group.late_us
    # A day for the clocks of those who send, and for a worker that was away.
    return max(_RETENTION_MS_MIN, needed_us // 1_000 + _DAY_MS)


def reply_topics(settings: KafkaSettings) -> list[str]:
    """The fixed pool."""
    return [f"{settings.prefix}.reply.{number:02}" for number in range(settings.reply_topics)]


def shared_specs(settings: KafkaSettings) -> list[TopicSpec]:
    """The topics that every cluster has once."""
    size = _bytes_max(settings)
    replies = [TopicSpec(n, 1, _REPLY_RETENTION_MS, size) for n in reply_topics(settings)]
    # A dead letter is the record itself, and headers about it.
    dlq = dead_letters(settings.prefix)
    return [*replies, TopicSpec(dlq, 1, 4 * _RETENTION_MS_MIN, size + 64 * limits.KIB)]


def _bytes_max(settings: KafkaSettings) -> int:
    """A record is counted by what it carries; brokers count what is around it too."""
    return settings.record_bytes_max + 64 * limits.KIB


def _length(retention_ms: int) -> float:
    return float("inf") if retention_ms == _FOR_EVER else retention_ms
