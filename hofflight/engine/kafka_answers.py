"""What becomes of a Kafka record, whoever read it: a request or a dead letter, which answers leave.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hofflight.errors import BadRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hofflight.engine.kafka_partition import CallAnswer
    from hofflight.wire.kafka_record import Framing, Headers, RequestRecord

_HEAD_BYTES: Final = 64  # of an answer, beside its metadata and its batch
_WORDS_MAX: Final = 1_000
# Clocks of servers and workers differ; what is later than that nobody waits for.
_LATE_US: Final = 60_000_000


def requests_of(
    framing: Framing,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    reply_topics: frozenset[str],
) -> RequestRecord | None:
    """The requests of a record; None for a nudge.

    Raises: BadRecord (HOF-220), it is no such record, or its answers may not go where it says.
    """
    record = framing.decode(value, headers)
    if record is not None and record.reply not in reply_topics:
        raise BadRecord(f"answers cannot go to {record.reply[:64]!r}")
    return record


def awaited(record: RequestRecord, answers: list[CallAnswer], now_us: int) -> list[CallAnswer]:
    """The answers that somebody may still wait for."""
    latest_us = now_us - _LATE_US
    late = {h.call for h, _, _ in record.requests if 0 < h.deadline_us < latest_us}
    return [answer for answer in answers if answer[0] not in late] if late else answers


def cut(answers: Sequence[CallAnswer], bytes_max: int) -> list[list[CallAnswer]]:
    """As many together as a record may hold."""
    parts: list[list[CallAnswer]] = [[]]
    size = 0
    for answer in answers:
        own = _HEAD_BYTES + sum(map(len, answer[1:]))
        if parts[-1] and size + own > bytes_max:
            parts.append([])
            size = 0
        parts[-1].append(answer)
        size += own
    return parts


def reason(error: BadRecord, topic: str, partition: int, offset: int, timestamp_ms: int) -> Headers:
    """The headers that a record that is none gets beside its own, as a dead letter."""
    about = {
        "hof-error": error.message[:_WORDS_MAX], "hof-code": error.code, "hof-topic": topic,
        "hof-partition": str(partition), "hof-offset": str(offset),
        "hof-timestamp-ms": str(timestamp_ms),
    }  # fmt: skip
    return [(name, text.encode()) for name, text in about.items()]
