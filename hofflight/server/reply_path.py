"""The topic that answers come back on: leased, read, kept, given back.

1. take the first topic of the pool that is free, under a new epoch
2. fix where reading begins, before anything is asked: no answer can come before that place
3. read and renew; a server that cannot renew gives up by itself, before anybody else may take it
4. give it back at a clean end

So answers of an earlier start, of another server, or of a time when the lease was lost, are never
delivered: the epoch in them is not the one asked with.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from hofflight.errors import HofError
from hofflight.observe.events import Events
from hofflight.server.kafka_worker import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from hofflight.clock import Clock
    from hofflight.server.kafka_worker import KafkaWorker

_events = Events("hofflight.replies")
_POLL_MS: Final = 100
_RETRY_S: Final = 0.2
_TICK_S: Final = 0.02


class LeaseTable(Protocol):
    """Who holds which topic, known to all servers; its calls may wait."""

    def acquire(self, topics: Sequence[str], instance: str, epoch: int, ttl_us: int) -> str | None:
        """The first topic that nobody holds; None: all are held."""
        ...

    def renew(self, topic: str, epoch: int, ttl_us: int) -> bool:
        """Hold it longer; False: it is not ours any more."""
        ...

    def release(self, topic: str, epoch: int) -> None:
        """Let go of it."""
        ...


class ReplyPath:
    """Keeps a worker in possession of a topic for its answers. Thread: its loop's.

    consumer: opens a client that reads. at: what that calls partition 0 of a topic.
    """

    def __init__(
        self,
        worker: KafkaWorker,
        leases: LeaseTable,
        consumer: Callable[[], AbstractAsyncContextManager[Any]],
        at: Callable[[str], Any],
        topics: Sequence[str],
        *,
        instance: str,
        new_epoch: Callable[[], int],
        clock: Clock,
        ttl_ms: int,
    ) -> None:
        self._worker = worker
        self._leases = leases
        self._consumer = consumer
        self._at = at
        self._topics = topics
        self._instance = instance
        self._new_epoch = new_epoch
        self._clock = clock
        self._ttl_us = ttl_ms * 1_000
        self.is_ready = asyncio.Event()
        self.lost = 0

    async def run(self) -> None:
        """Until cancelled: hold a topic, and look for another one where it is lost."""
        while True:
            try:
                await self._hold_one()
            except Exception as error:  # noqa: BLE001 brokers come and go: it tries again
                _events.warning("no_reply_topic", error=_words(error))
            await asyncio.sleep(_RETRY_S)

    async def tick(self) -> None:
        """Until cancelled: end what nobody waits for any longer."""
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                self._worker.tick()
            except Exception as bug:  # noqa: BLE001 the others' deadlines must be kept
                _events.warning("tick_failed", error=_words(bug))

    async def _hold_one(self) -> None:
        epoch = self._new_epoch()
        # From before the question on: the answer may take its time.
        until_s = self._clock.monotonic_s() + self._ttl_us / 1e6
        topic = await self._acquire(epoch)
        if topic is None:
            _events.warning("no_reply_topic", error="all are leased", topics=len(self._topics))
            await asyncio.sleep(self._ttl_us / 3e6)
            return
        place = Place(topic, epoch, until_s)
        renewing = asyncio.create_task(self._renew(place))
        try:
            async with self._consumer() as client:
                await self._read(client, place, renewing)
        finally:
            self.is_ready.clear()
            self.lost += 1
            self._worker.lose("the server lost its topic for answers")
            renewing.cancel()
            await self._release(topic, epoch)

    async def _acquire(self, epoch: int) -> str | None:
        """A topic that is ours now, or None."""
        asking = asyncio.ensure_future(
            asyncio.to_thread(
                self._leases.acquire, self._topics, self._instance, epoch, self._ttl_us
            )
        )
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:  # the thread gets its answer all the same
            with suppress(Exception):  # whatever it is, the end is not held up by it
                topic = await asking
                if topic is not None:
                    await self._release(topic, epoch)
            raise

    async def _release(self, topic: str, epoch: int) -> None:
        """Give it back; where the registry is away, its time gives it back."""
        try:
            await asyncio.shield(asyncio.to_thread(self._leases.release, topic, epoch))
        except Exception as error:  # noqa: BLE001 it must not stand in the way of a cancelled end
            _events.warning("lease_not_released", topic=topic, error=_words(error))

    async def _read(self, client: Any, place: Place, renewing: asyncio.Task[None]) -> None:
        key = self._at(place.topic)
        client.assign([key])
        # 2. fixed before anything is asked
        client.seek(key, (await client.end_offsets([key]))[key])
        self._worker.take(place)
        self.is_ready.set()
        _events.info("reply_topic", topic=place.topic, epoch=place.epoch)
        while not renewing.done() and self._clock.monotonic_s() < place.until_s:
            found = await client.getmany(timeout_ms=_POLL_MS)
            for records in found.values():
                for record in records:
                    self._worker.arrived(record.value, record.headers)

    async def _renew(self, place: Place) -> None:
        """Ends when the lease is lost."""
        while True:
            await asyncio.sleep(self._ttl_us / 3e6)
            began_s = self._clock.monotonic_s()
            try:
                kept = await asyncio.to_thread(
                    self._leases.renew, place.topic, place.epoch, self._ttl_us
                )
            except HofError as error:  # the registry is away: until the time is over it is ours
                _events.warning("lease_not_renewed", topic=place.topic, error=error.message)
                continue
            if not kept:
                _events.warning("lease_lost", topic=place.topic)
                return
            place.until_s = began_s + self._ttl_us / 1e6


def _words(error: Exception) -> str:
    return error.message if isinstance(error, HofError) else f"{type(error).__name__}: {error}"
