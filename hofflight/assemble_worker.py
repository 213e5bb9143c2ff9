"""Builds a worker: engines that read Kafka, a store each, from settings."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hofflight.assemble_kafka import (
    cancel,
    cluster_of,
    outlet_of,
    partition_of,
    streams_of,
    warm_up,
)
from hofflight.assemble_registry import open_registry
from hofflight.assemble_sealing import open_sealer, sealed_log
from hofflight.clock import SystemClock
from hofflight.engine.answer_export import AnswerExport, Outlet
from hofflight.engine.embedded import Engine
from hofflight.engine.kafka_consumer import Consumer, Place
from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.errors import SettingsError
from hofflight.eventlog.local import LocalLog, LogReader, SyncThread
from hofflight.eventlog.lock import StoreLock
from hofflight.eventlog.store import Store
from hofflight.eventlog.topics import (
    features_spec,
    features_topic,
    input_spec,
    input_topic,
    reply_topics,
    shared_specs,
)
from hofflight.server.join_received import ReceivedJoins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from hofflight.eventlog.kafka import Cluster
    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import Registry
    from hofflight.settings import Settings

# A block that is told how many more are done, of so many.
Progress: TypeAlias = "Callable[[int], AbstractContextManager[Callable[[int], None]]]"
# Others may write to a topic of features: so many of them at its end hide nothing.
_TAIL_RECORDS = 16
_LOOK_S = 0.2
_GOODBYE_S = 5.0


class _Work(NamedTuple):
    """A partition's store and the engine on it. exports: by stream, where answers are exported."""

    store: Store
    engine: Engine
    exports: dict[str, AnswerExport]

    def trim(self) -> None:
        """Let the logs forget what is sealed, and exported where answers are."""
        self.engine.trim(self._through)

    def _through(self, stream: str) -> int:
        sealed_to = sealed_log(self.store, stream).manifest().sealed_to
        export = self.exports.get(stream)
        return sealed_to if export is None else min(sealed_to, export.number)


async def work_kafka(
    path: Path,
    groups: Sequence[FeatureGroup],
    settings: Settings,
    *,
    partitions: Sequence[int] | None = None,
    ready: Callable[[dict[str, Any]], None],
    stop: asyncio.Event,
) -> None:
    """Answer the records of a group's versions until `stop`; their state is in the store `path`.

    partitions: which of the topics' it takes; None: all. Each has a store of its own, `path/0`, ...

    Raises: WorkerStopped (HOF-514), StoreLocked (HOF-501), KafkaUnavailable (HOF-512), TopicProblem
        (HOF-513).
    """
    async with AsyncExitStack() as stack:
        worker = await _Worker.opened(stack, path, groups, settings, partitions)
        cluster = worker.cluster
        produce = await stack.enter_async_context(cluster.writer())
        name = f"{settings.kafka.prefix}-worker-{groups[0].name}"
        client = await stack.enter_async_context(cluster.consumer(name))
        consumer = worker.consumer(client, produce)
        exports: list[AnswerExport] = []
        if settings.kafka.features:
            outlets = await _outlets(worker)
            exports = [_export(worker, place, outlets, produce) for place in worker.places]
        tasks = [asyncio.create_task(export.run()) for export in exports]
        stack.push_async_callback(cancel, tasks)
        stack.enter_context(_sealing(path, worker.works, settings))
        warm_up()
        ready({"group": groups[0].name, "partitions": list(worker.works)})
        await consumer.run(stop)
        await cancel(tasks)
        with contextlib.suppress(Exception):  # the next start does it
            async with asyncio.timeout(_GOODBYE_S):
                for export in exports:
                    await export.catch_up()


async def read_kafka(
    path: Path,
    groups: Sequence[FeatureGroup],
    settings: Settings,
    *,
    partitions: Sequence[int] | None = None,
    progress: Progress,
) -> None:
    """Have a group's versions count what their topics hold now, in stores of their own.

    Rows, windows and answers are those of a worker; none is sent, nothing is buried or committed,
    and the next call goes on from there. progress: a block that is told how many more were read, of
    how many in all.

    Raises: as `work_kafka`.
    """
    async with AsyncExitStack() as stack:
        worker = await _Worker.opened(stack, path, groups, settings, partitions)
        client = await stack.enter_async_context(worker.cluster.consumer())
        keys = [place.key for place in worker.places]
        ends = await client.end_offsets(keys)
        consumer = worker.consumer(_Apart(client), _unsent)
        await consumer.begin()
        stop = asyncio.Event()
        reading = asyncio.create_task(consumer.run(stop))
        stack.push_async_callback(cancel, [reading])
        left = consumer.unread(ends)
        with progress(left) as advance:
            while left and not reading.done():
                await asyncio.wait([reading], timeout=_LOOK_S)
                before, left = left, consumer.unread(ends)
                advance(before - left)
        stop.set()
        await reading


class _Apart:
    """A consumer that leaves the workers' offsets alone."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def committed(self, _: Any) -> None:
        """Where to begin is said by the store."""

    async def commit(self, _: Any) -> None:
        """Nobody is told."""


async def _unsent(*_: Any) -> None:
    """What a worker sent long ago."""


class _Worker(NamedTuple):
    """What a worker process has open. counts: of each stream's topic, the partitions."""

    cluster: Cluster
    registry: Registry
    settings: Settings
    by_stream: dict[str, list[FeatureGroup]]
    counts: dict[str, int]
    works: dict[int, _Work]
    places: list[Place]

    @classmethod
    async def opened(
        cls,
        stack: AsyncExitStack,
        path: Path,
        groups: Sequence[FeatureGroup],
        settings: Settings,
        partitions: Sequence[int] | None,
    ) -> _Worker:
        """Topics checked, and a store and an engine for each partition."""
        cluster = cluster_of(settings)
        registry = stack.enter_context(contextlib.closing(open_registry(settings)))
        by_stream = streams_of(groups, registry)
        counts = await checked_topics(cluster, by_stream, settings)
        whole = Store(path)  # of what is not one partition's: stored rows, labels
        whole.require(create=True)
        whole.require_partitions(counts)
        works = {
            number: stack.enter_context(_work(path / str(number), groups, registry, settings))
            for number in chosen_partitions(partitions, max(counts.values()))
        }
        prefix = settings.kafka.prefix
        places = [
            Place(stream, number, partition_of(input_topic(stream, prefix), number))
            for stream, count in counts.items()
            for number in works
            if number < count
        ]
        return cls(cluster, registry, settings, by_stream, counts, works, places)

    def consumer(self, client: Any, produce: Any) -> Consumer:
        """What reads the places, and has what it reads answered."""
        kafka = self.settings.kafka
        workers = {
            number: PartitionWorker(
                number,
                work.engine,
                {s: count for s, count in self.counts.items() if number < count},
                kafka.record_bytes_max,
                ReceivedJoins(),
            )
            for number, work in self.works.items()
        }
        return Consumer(
            client, produce, workers, self.places,
            {stream: found[0].input for stream, found in self.by_stream.items()},
            frozenset(reply_topics(kafka)), SystemClock(), kafka.prefix, kafka.record_bytes_max,
        )  # fmt: skip


async def checked_topics(
    cluster: Cluster, by_stream: Mapping[str, Sequence[FeatureGroup]], settings: Settings
) -> dict[str, int]:
    """The number of partitions of each stream's topic.

    Raises: TopicProblem (HOF-513), KafkaUnavailable (HOF-512).
    """
    kafka = settings.kafka
    specs = {stream: input_spec(stream, found, kafka) for stream, found in by_stream.items()}
    found = await cluster.check([*shared_specs(kafka), *specs.values()])
    counts = {stream: found[spec.name] for stream, spec in specs.items()}
    if kafka.features:
        await cluster.check([
            features_spec(group, counts[stream], kafka)
            for stream, groups in by_stream.items() for group in groups
        ])  # fmt: skip
    return counts


async def _outlets(worker: _Worker) -> dict[tuple[str, int], dict[int, Outlet]]:
    """Where answers go, by stream and partition and then by group version."""
    from hofflight.replay.answer_records import begin_of

    kafka = worker.settings.kafka
    found: dict[tuple[str, int], dict[int, Outlet]] = {}
    wanted = [(place, group) for place in worker.places for group in worker.by_stream[place.stream]]
    topics = [(features_topic(g.name, g.version, kafka.prefix), p.number) for p, g in wanted]
    tails = await worker.cluster.tails(topics, _TAIL_RECORDS)
    for (place, group), topic in zip(wanted, topics, strict=True):
        counted = worker.works[place.number].engine.known_offset(place.stream)
        begin = begin_of([record.headers for record in tails[topic]], counted)
        mine = found.setdefault((place.stream, place.number), {})
        mine[group.version] = outlet_of(group, worker.registry, worker.settings, begin)
    return found


def _export(
    worker: _Worker, place: Place, outlets: Mapping[tuple[str, int], dict[int, Outlet]],
    produce: Any,
) -> AnswerExport:  # fmt: skip
    """What sends the answers of a partition's log to the topics of its versions' features."""
    work = worker.works[place.number]
    log = LogReader(work.store.log / place.stream)
    export = AnswerExport(log, place.number, outlets[place.stream, place.number], produce)
    work.exports[place.stream] = export
    return export


@contextlib.contextmanager
def _sealing(path: Path, works: Mapping[int, _Work], settings: Settings) -> Iterator[None]:
    """Seals the partitions' logs meanwhile, as the settings say."""

    def trim() -> None:
        for work in works.values():
            work.trim()

    stores = [(work.store, work.engine.streams) for work in works.values()]
    sealer = open_sealer(path, stores, settings, SystemClock(), trim)
    try:
        yield
    finally:
        if sealer is not None:
            sealer.stop()
        trim()


def chosen_partitions(partitions: Sequence[int] | None, count: int) -> list[int]:
    """The numbers of partitions that are meant. Raises: SettingsError (HOF-601)."""
    if partitions is None:
        return list(range(count))
    if wrong := [number for number in partitions if not 0 <= number < count]:
        msg = f"--partitions {wrong}: the topics have 0 to {count - 1}"
        raise SettingsError(msg)
    return sorted(set(partitions))


@contextlib.contextmanager
def _work(
    path: Path, groups: Sequence[FeatureGroup], registry: Registry, settings: Settings
) -> Iterator[_Work]:
    """A store and an engine on it, closed at the end."""
    store = Store(path)
    store.require(create=True)
    with ExitStack() as stack:
        lock = StoreLock(store.lock)
        stack.callback(lock.release)
        sync = SyncThread(settings.log)
        stack.callback(sync.stop)
        engine = Engine(
            registry, lambda stream: LocalLog(store.log / stream, sync, settings.log),
            store.snapshots, SystemClock(), settings.engine,
        )  # fmt: skip
        stack.callback(engine.close)
        for group in groups:
            engine.load(group)
        yield _Work(store, engine, {})
