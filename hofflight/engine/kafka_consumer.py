"""Reads topics, has their records answered, writes the answers, and remembers how far it is.

What is committed to Kafka is how far answers have left; how far rows are counted stands in the
engines' logs. A start reads from the earlier of the two: what was counted and not answered is
answered again, and counts once.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hofflight import limits
from hofflight.engine.kafka_answers import awaited, cut, reason, requests_of
from hofflight.errors import BadRecord, HofError, WorkerStopped
from hofflight.eventlog.topics import PREFIX, dead_letters, input_topic
from hofflight.observe.events import Events
from hofflight.wire.kafka_record import Framing, encode_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

    from hofflight.clock import Clock
    from hofflight.engine.kafka_partition import CallAnswer, PartitionWorker
    from hofflight.eventlog.protocol import Produce
    from hofflight.wire.kafka_record import Headers, RequestRecord

_events = Events("hofflight.worker")
_POLL_MS: Final = 200
_COMMIT_S: Final = 1.0
_COMMITTED_S: Final = 5.0
# Records whose answers are on their way: memory, and what a kill has to answer again.
_OPEN_MAX: Final = 1_000
_OPEN_BYTES_MAX: Final = 48 * limits.MIB
_RECORDS_MAX: Final = 500
# How long an answer may take to its topic; then whoever waits asks again.
_SEND_S: Final = 10.0
# After so long without any answer that left, another process may do better.
_UNSENT_S: Final = 60.0


class Place(NamedTuple):
    """A partition of a topic, as ours and as the consumer calls it."""

    stream: str
    number: int
    key: Any


@dataclass(slots=True)
class ConsumerCounters:
    """What was read and became of it. expired: answers that nobody waited for any longer."""

    records: int = 0
    nudges: int = 0
    dead_letters: int = 0
    answers: int = 0
    expired: int = 0
    unsent: int = 0


class Consumer:
    """The loop of one worker process. Thread: one event loop's, save the engines' own.

    places: what it reads. streams: the input schema of each. reply_topics: those that are there.
    """

    def __init__(
        self,
        client: Any,
        produce: Produce,
        workers: Mapping[int, PartitionWorker],
        places: Sequence[Place],
        streams: Mapping[str, pa.Schema],
        reply_topics: frozenset[str],
        clock: Clock,
        prefix: str = PREFIX,
        bytes_max: int = 900_000,
    ) -> None:
        self._client = client
        self._produce = produce
        self._workers = workers
        self._places = {place.key: place for place in places}
        self._framings = {stream: Framing(schema) for stream, schema in streams.items()}
        self._reply_topics = reply_topics
        self._clock = clock
        self._prefix = prefix
        self._bytes_max = bytes_max
        self.counters = ConsumerCounters()
        self._progress = {place.key: _Progress() for place in places}
        self._burying = asyncio.Lock()
        self._has_begun = False
        self._open = self._open_bytes = 0
        self._unsent_since_s: float | None = None
        self._room = asyncio.Event()
        self._failed: HofError | None = None
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`, then until everything read is answered.

        Raises: WorkerStopped (HOF-514), a record cannot be answered now: the next start tries.
        """
        await self.begin()
        committing = asyncio.create_task(self._commit_often())
        stopping = asyncio.create_task(self._stop_with(stop))
        try:
            while not self._stop.is_set():
                found = await self._client.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS_MAX)
                for key, records in found.items():
                    for record in records:
                        await self._wait_for_room()
                        if self._stop.is_set():
                            break
                        self._take(self._places[key], record)
                if not found:
                    await self._pass_over()
        finally:
            while self._open and self._failed is None:  # a group's function may still be at work
                self._room.clear()
                await self._room.wait()
            committing.cancel()
            stopping.cancel()
            if self._tasks:  # brokers that are away must not hold up the end
                await asyncio.wait(self._tasks, timeout=_SEND_S)
            await self._commit()
        if self._failed is not None:
            raise self._failed

    def unread(self, ends: Mapping[Any, int]) -> int:
        """How many offsets before these, by the consumer's own keys, were not read yet."""
        return sum(max(0, end - self._progress[key].reached) for key, end in ends.items())

    async def _pass_over(self) -> None:
        """Offsets that are no records: the marks of somebody's transactions."""
        for key, progress in self._progress.items():
            progress.reached = max(progress.reached, await self._client.position(key))

    # --- where to begin ---

    async def begin(self) -> None:
        """Go to where it goes on; `run` does so first.

        Raises: WorkerStopped (HOF-514), rows between what was counted and what is there are gone.
        """
        if self._has_begun:
            return
        self._has_begun = True
        self._client.assign(list(self._places))
        beginnings = await self._client.beginning_offsets(list(self._places))
        ends = await self._client.end_offsets(list(self._places))
        for key, place in self._places.items():
            committed = await self._client.committed(key)
            counted = self._workers[place.number].next_offset[place.stream]
            if counted > ends[key]:
                msg = f"{self._topic(place)}/{place.number} ends at {ends[key]}"
                hint = "it was made anew: give the worker a new store"
                raise WorkerStopped(f"{msg}, rows are counted up to {counted}", hint=hint)
            start = counted if committed is None else min(committed, counted)
            # Answered again is only what is still there; an empty store takes what there is.
            start = max(start, beginnings[key])
            # What was committed is dealt with, and need not have been counted: peeks, dead letters.
            if 0 < counted < beginnings[key] and (committed or 0) < beginnings[key]:
                msg = f"{self._topic(place)}/{place.number} begins at {beginnings[key]}"
                hint = "restore the worker's store, or make a new version of the group"
                raise WorkerStopped(f"{msg}, rows are counted up to {counted}", hint=hint)
            self._progress[key].begin(start)
            self._client.seek(key, start)

    # --- one record ---

    def _take(self, place: Place, record: Any) -> None:
        self.counters.records += 1
        finish = self._progress[place.key].read(record.offset)
        try:
            framing = self._framings[place.stream]
            found = requests_of(framing, record.value, record.headers, self._reply_topics)
        except BadRecord as error:
            self._spawn(self._bury(place, record, error, finish))
            return
        if found is None:
            self.counters.nudges += 1
            finish()
            return
        self._open += 1
        size = len(record.value)
        self._open_bytes += size
        done = partial(self._answered, found, partial(self._finished, size, finish))
        self._workers[place.number].work(place.stream, record.offset, found, done)

    def _answered(
        self, record: RequestRecord, finish: Callable[[], None], answers: list[CallAnswer],
        refused: str,
    ) -> None:  # fmt: skip
        """All answers of a record are there; called from any thread."""
        if threading.get_ident() == self._thread:
            self._reply(record, finish, answers, refused)
        else:
            self._loop.call_soon_threadsafe(self._reply, record, finish, answers, refused)

    def _reply(
        self, record: RequestRecord, finish: Callable[[], None], answers: list[CallAnswer],
        refused: str,
    ) -> None:  # fmt: skip
        self._open -= 1
        self._room.set()
        if refused:
            # Not counted, and not to be passed over: the record is read again by the next start.
            msg = f"a record could not be counted: {refused}"
            self._fail(WorkerStopped(msg, hint="see the log; it goes on from there"))
            return
        wanted = awaited(record, answers, self._clock.wall_us())
        self.counters.expired += len(answers) - len(wanted)
        if not wanted:
            finish()
            return
        self.counters.answers += len(wanted)
        self._spawn(self._send(record, wanted, finish))

    async def _send(
        self, record: RequestRecord, answers: list[CallAnswer], finish: Callable[[], None]
    ) -> None:
        try:
            async with asyncio.timeout(_SEND_S):
                for part in cut(answers, self._bytes_max):
                    await self._produce(record.reply, 0, *encode_answers(record.epoch, part))
            self._unsent_since_s = None
        except Exception as error:  # noqa: BLE001 whoever waits asks again, with the same id
            self.counters.unsent += len(answers)
            _events.warning("answers_unsent", topic=record.reply, error=str(error))
            self._none_left()
        finish()

    def _none_left(self) -> None:
        """An answer could not leave; where none can for long, this process ends."""
        now_s = self._clock.monotonic_s()
        if self._unsent_since_s is None:
            self._unsent_since_s = now_s
        elif now_s - self._unsent_since_s > _UNSENT_S:
            msg = f"no answer has left for {now_s - self._unsent_since_s:.0f} s"
            self._fail(WorkerStopped(msg, hint="are brokers, or the topics for answers, away?"))

    async def _bury(
        self, place: Place, record: Any, error: BadRecord, finish: Callable[[], None]
    ) -> None:
        """Keep a record that is none as it came, with the reason."""
        self.counters.dead_letters += 1
        why = reason(error, self._topic(place), place.number, record.offset, record.timestamp)
        headers = [*record.headers, *why]
        _events.warning("dead_letter", topic=self._topic(place), partition=place.number,
                        offset=record.offset, error=error.message)  # fmt: skip
        topic = dead_letters(self._prefix)
        try:
            async with self._burying:  # in the order in which they lay
                await self._keep(topic, record.value, headers, len(why))
        except Exception as failed:  # noqa: BLE001 it must not be passed over unseen
            msg = f"{topic} does not take a record: {type(failed).__name__}: {failed}"
            self._fail(WorkerStopped(msg, hint="the record is read again by the next start"))
            return
        finish()

    async def _keep(self, topic: str, value: bytes | None, headers: Headers, own: int) -> None:
        try:
            await self._produce(topic, 0, value, headers)
        except Exception:  # noqa: BLE001 it may be too large as it is: it came compressed
            await self._produce(topic, 0, None, headers[-own:])

    # --- how far it is ---

    async def _commit_often(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_S)
            await self._commit()

    async def _commit(self) -> None:
        offsets = {key: p.done for key, p in self._progress.items() if p.done > p.committed}
        if not offsets:
            return
        try:
            async with asyncio.timeout(_COMMITTED_S):  # aiokafka would wait without end
                await self._client.commit(offsets)
        except Exception as error:  # noqa: BLE001 the next one has it; a start reads it again
            _events.warning("commit_failed", error=str(error))
            return
        for key, offset in offsets.items():
            self._progress[key].committed = offset

    # --- the pieces ---

    def _topic(self, place: Place) -> str:
        return input_topic(place.stream, self._prefix)

    async def _stop_with(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stop.set()

    async def _wait_for_room(self) -> None:
        while self._is_full() and not self._stop.is_set():
            self._room.clear()
            await self._room.wait()

    def _is_full(self) -> bool:
        return self._open + len(self._tasks) >= _OPEN_MAX or self._open_bytes >= _OPEN_BYTES_MAX

    def _finished(self, size: int, finish: Callable[[], None]) -> None:
        self._open_bytes -= size
        self._room.set()
        finish()

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.set()

    def _fail(self, error: HofError) -> None:
        self._failed = self._failed or error
        self._stop.set()
        self._room.set()


class _Progress:
    """Up to which offset everything is answered, though answers come in any order.

    reached: everything before it was read. done: and answered. committed: and Kafka knows.
    """

    def __init__(self) -> None:
        self.done = self.committed = 0
        self.reached = 0
        self._open: dict[int, int] = {}

    def begin(self, offset: int) -> None:
        """The first offset that will be read."""
        self.done = self.committed = self.reached = offset

    def read(self, offset: int) -> Callable[[], None]:
        """A record was read; gives what to call when it is dealt with."""
        self._open[offset] = offset
        self.reached = offset + 1
        return partial(self._finish, offset)

    def _finish(self, offset: int) -> None:
        self._open.pop(offset, None)
        self.done = min(self._open, default=self.reached)
