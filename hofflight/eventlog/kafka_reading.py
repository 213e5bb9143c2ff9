"""Reading Kafka past what cannot be decoded: a stranger's bytes stop no consumer.

The name of a header is bytes to Kafka and text to aiokafka: one that is not UTF-8 makes every
`getmany` raise, for ever, and what came with it in the same call is lost to the caller.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError

from hofflight.errors import KafkaUnavailable
from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

# What aiokafka cannot decode: bytes, a header's name, a compression that is not installed.
_UNREADABLE: Final = (CorruptRecordException, UnicodeDecodeError, UnsupportedCodecError)
_events = Events("hofflight.kafka")
POLL_MS: Final = 200


class Unreadable(NamedTuple):
    """Stands for a record that is there and cannot be decoded."""

    offset: int
    timestamp: int = -1
    value: None = None
    headers: tuple[()] = ()


class SteadyConsumer(AIOKafkaConsumer):
    """A consumer with assigned partitions that gives an `Unreadable` where others raise."""

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[Any]]:
        """As aiokafka's own."""
        keys = partitions or self.assignment()
        places = {key: await self.position(key) for key in keys}
        try:
            return await super().getmany(
                *partitions, timeout_ms=timeout_ms, max_records=max_records
            )
        except _UNREADABLE:
            # Whatever came in this call is lost: all go back, and on by one record each.
            for key, offset in places.items():
                self.seek(key, offset)
        found = await asyncio.gather(*(self._one(*place) for place in places.items()))
        return {key: records for key, records in zip(places, found, strict=True) if records}

    async def _one(self, key: TopicPartition, offset: int) -> list[Any]:
        """The record at an offset, as soon as it is there."""
        try:
            found = await super().getmany(key, timeout_ms=POLL_MS, max_records=1)
        except _UNREADABLE as error:
            _events.warning("unreadable_record", topic=key.topic, partition=key.partition,
                            offset=offset, error=f"{type(error).__name__}: {error}")  # fmt: skip
            self.seek(key, offset + 1)
            return [Unreadable(offset)]
        return found.get(key, [])


class PartitionReader:
    """Implements `eventlog.dead_letters.Reader`; gives up after so many polls without a record."""

    def __init__(
        self, client: SteadyConsumer, key: TopicPartition, begin: int, end: int, polls_max: int
    ) -> None:
        self._client = client
        self._key = key
        self.begin = begin
        self.end = end
        self._polls_max = polls_max

    async def first_since(self, time_ms: int) -> int:
        found = (await self._client.offsets_for_times({self._key: time_ms}))[self._key]
        return self.end if found is None else min(found.offset, self.end)

    async def read(self, begin: int, end: int) -> AsyncGenerator[tuple[int, Any]]:
        at, polls = begin, 0
        self._client.assign([self._key])
        self._client.seek(self._key, at)
        while at < end:
            found = await self._client.getmany(self._key, timeout_ms=POLL_MS)
            for record in found.get(self._key, ()):
                if record.offset >= end:
                    return
                yield record.offset, None if isinstance(record, Unreadable) else record
            before, at = at, await self._client.position(self._key)
            polls = polls + 1 if at == before else 0
            if polls >= self._polls_max:
                msg = f"{self._key.topic} gives no record from {at} on, of {end}"
                raise KafkaUnavailable(msg, hint="is a broker, or a replica, away?")
