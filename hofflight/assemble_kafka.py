"""Builds servers and workers that meet over Kafka, from settings. The counterpart of `assemble`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import secrets
import socket
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hofflight.assemble_registry import open_registry
from hofflight.clock import SystemClock
from hofflight.engine.embedded import Engine
from hofflight.engine.kafka_consumer import Consumer, Place
from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.errors import SettingsError, WrongType
from hofflight.eventlog.dead_letters import DeadLetters, WayBack
from hofflight.eventlog.local import LocalLog, SyncThread
from hofflight.eventlog.lock import StoreLock
from hofflight.eventlog.store import Store
from hofflight.eventlog.topics import (
    dead_letters,
    input_spec,
    input_topic,
    reply_topics,
    shared_specs,
)
from hofflight.observe.metrics import exposition, named
from hofflight.server.catalog import RegistryCatalog
from hofflight.server.kafka_worker import KafkaWorker
from hofflight.server.reply_path import ReplyPath

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from hofflight.eventlog.kafka import Cluster
    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import Registry
    from hofflight.settings import Settings

_CATALOG_S = 1.0


def cluster_of(settings: Settings) -> Cluster:
    """The cluster of the settings.

    Raises: SettingsError (HOF-601), without the extra `kafka` or without an address.
    """
    try:
        from hofflight.eventlog.kafka import Cluster
    except ModuleNotFoundError:
        msg = "Kafka needs the extra `kafka`"
        raise SettingsError(msg, hint="pip install 'hofflight[kafka]'") from None
    return Cluster(settings.kafka)


def make_topics(
    settings: Settings, groups: Iterable[FeatureGroup], store: Path | None = None
) -> list[str]:
    """Make the topics of registered groups and those that every cluster has; gives the new ones.

    store: whose registry it is where the settings name none.

    Raises: TopicProblem (HOF-513), KafkaUnavailable (HOF-512); WrongType (HOF-103), a key that has
        no hash.
    """
    with contextlib.closing(open_registry(settings, store, read_only=True)) as registry:
        by_stream: dict[str, list[FeatureGroup]] = {}
        for group in groups:
            _require_hashed(group)
            stream = registry.group(group.name, group.version).partition
            by_stream.setdefault(stream, []).append(group)
    inputs = [input_spec(s, found, settings.kafka) for s, found in sorted(by_stream.items())]
    return asyncio.run(cluster_of(settings).ensure([*shared_specs(settings.kafka), *inputs]))


def _require_hashed(group: FeatureGroup) -> None:
    """Refuse a key of floats: -0.0 and 0.0 are one key and two hashes."""
    floats = [n for n in group.key if pa.types.is_floating(group.input.field(n).type)]
    if floats:
        msg = f"{group.name}: key {floats[0]!r} is a float, partitions need integers or text"
        raise WrongType(msg, hint="serve the group from a store")


# --- serve ----------------------------------------------------------------------------------------


async def serve_kafka(
    settings: Settings, *, instance: str = "", ready: Callable[[str], None], stop: asyncio.Event
) -> bool:
    """Put Flight before Kafka until `stop` is set; True if every request was answered.

    instance: the server's name in leases; empty: this host's, and a random part.

    Raises: SettingsError (HOF-601), UnsafeBind (HOF-602), KafkaUnavailable (HOF-512), TopicProblem
        (HOF-513).
    """
    from hofflight.eventlog.kafka import DEFINITE
    from hofflight.server.serve import FlightServer

    clock = SystemClock()
    cluster = cluster_of(settings)
    async with AsyncExitStack() as stack:
        registry = stack.enter_context(contextlib.closing(open_registry(settings)))
        await cluster.check(shared_specs(settings.kafka))
        counts = await _partitions(cluster, registry, settings.kafka.prefix)
        catalog = RegistryCatalog(registry, lambda stream: counts.get(stream, 0))
        catalog.refresh()
        producer = await stack.enter_async_context(cluster.producer())
        worker = KafkaWorker(catalog, _produce(producer), DEFINITE, clock, settings.kafka)
        replies = ReplyPath(
            worker, registry.leases(), cluster.consumer, _partition_0,
            reply_topics(settings.kafka), instance=instance or _instance(),
            new_epoch=lambda: secrets.randbits(62), clock=clock, ttl_ms=settings.kafka.lease_ttl_ms,
        )  # fmt: skip

        def metrics() -> bytes:
            return exposition({
                **named("server", dataclasses.asdict(server.stats)),
                **named("kafka", dataclasses.asdict(worker.counters)),
            })  # fmt: skip

        async def refresh() -> None:
            while True:
                await asyncio.sleep(_CATALOG_S)
                with contextlib.suppress(
                    Exception
                ):  # the registry is away: what is known is served
                    await asyncio.to_thread(catalog.refresh)
                    if any(record.partition not in counts for record in registry.groups()):
                        counts.update(await _partitions(cluster, registry, settings.kafka.prefix))

        server = FlightServer(worker, settings.server, metrics=metrics)
        _warm_up()
        tasks = [asyncio.create_task(work) for work in (replies.run(), replies.tick(), refresh())]
        stack.push_async_callback(_cancel, tasks)
        await replies.is_ready.wait()
        port = await server.start()
        host = settings.server.grpc.rpartition(":")[0]
        scheme = "grpc+tls" if settings.server.tls_certificate else "grpc"
        ready(f"{scheme}://{host}:{port}")
        await stop.wait()
        clean = await server.drain()
        await worker.drain(settings.server.drain_timeout_ms / 1_000)
    return clean


async def _partitions(cluster: Cluster, registry: Registry, prefix: str) -> dict[str, int]:
    """How many partitions the topic of each registered log has; those without one are left out."""
    streams = {input_topic(r.partition, prefix): r.partition for r in registry.groups()}
    found = await cluster.partitions(list(streams))
    return {streams[topic]: count for topic, count in found.items()}


def _instance() -> str:
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


# --- work -----------------------------------------------------------------------------------------


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
    clock = SystemClock()
    cluster = cluster_of(settings)
    prefix = settings.kafka.prefix
    async with AsyncExitStack() as stack:
        registry = stack.enter_context(contextlib.closing(open_registry(settings)))
        by_stream: dict[str, list[FeatureGroup]] = {}
        for group in groups:
            record = registry.group(group.name, group.version)
            by_stream.setdefault(record.partition, []).append(group)
        specs = [input_spec(s, found, settings.kafka) for s, found in by_stream.items()]
        found = await cluster.check([*shared_specs(settings.kafka), *specs])
        counts = {stream: found[input_topic(stream, prefix)] for stream in by_stream}
        chosen = _chosen(partitions, max(counts.values()))
        engines = {
            number: stack.enter_context(_engine(path / str(number), groups, registry, settings))
            for number in chosen
        }
        workers = {
            number: PartitionWorker(
                number, engine, {s: c for s, c in counts.items() if number < c},
                settings.kafka.record_bytes_max,
            )
            for number, engine in engines.items()
        }  # fmt: skip
        producer = await stack.enter_async_context(cluster.producer())
        name = f"{prefix}-worker-{groups[0].name}"
        client = await stack.enter_async_context(cluster.consumer(name))
        places = [
            Place(stream, number, _at(input_topic(stream, prefix), number))
            for stream, count in counts.items()
            for number in chosen
            if number < count
        ]
        consumer = Consumer(
            client, _produce(producer), workers, places,
            {stream: found[0].input for stream, found in by_stream.items()},
            frozenset(reply_topics(settings.kafka)), clock, prefix, settings.kafka.record_bytes_max,
        )  # fmt: skip
        _warm_up()
        ready({"group": groups[0].name, "partitions": chosen})
        await consumer.run(stop)


def _chosen(partitions: Sequence[int] | None, count: int) -> list[int]:
    if partitions is None:
        return list(range(count))
    if wrong := [number for number in partitions if not 0 <= number < count]:
        msg = f"--partitions {wrong}: the topics have 0 to {count - 1}"
        raise SettingsError(msg)
    return sorted(set(partitions))


@contextlib.contextmanager
def _engine(
    path: Path, groups: Sequence[FeatureGroup], registry: Registry, settings: Settings
) -> Any:
    """An engine on a store of its own, closed at the end."""
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
        yield engine


# --- dead letters ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def open_letters(settings: Settings) -> AsyncIterator[DeadLetters]:
    """The dead letters that there are now.

    Raises: TopicProblem (HOF-513), their topic is missing; KafkaUnavailable (HOF-512).
    """
    topic = dead_letters(settings.kafka.prefix)
    async with cluster_of(settings).reader(topic) as reader:
        yield DeadLetters(reader, topic, settings.kafka.prefix)


@contextlib.asynccontextmanager
async def open_way_back(settings: Settings, *, dry_run: bool) -> AsyncIterator[WayBack]:
    """The way back to the input topics of registered groups.

    Raises: SettingsError (HOF-601), there is no registry; RegistryUnavailable (HOF-515);
        KafkaUnavailable (HOF-512).
    """
    cluster = cluster_of(settings)
    with contextlib.closing(open_registry(settings, read_only=True)) as registry:
        counts = await _partitions(cluster, registry, settings.kafka.prefix)
        streams = {record.partition for record in registry.groups()}
    partitions = {input_topic(s, settings.kafka.prefix): count for s, count in counts.items()}
    registered = frozenset(input_topic(stream, settings.kafka.prefix) for stream in streams)
    size = settings.kafka.record_bytes_max
    if dry_run:
        yield WayBack(registered, partitions, size, None)
        return
    async with cluster.producer() as producer:
        yield WayBack(registered, partitions, size, _produce(producer))


# --- the pieces -----------------------------------------------------------------------------------


def _produce(producer: Any) -> Any:
    async def produce(topic: str, partition: int, value: bytes | None, headers: Any) -> None:
        key = b"" if value is None else None  # aiokafka wants one of the two
        acknowledged = await producer.send(
            topic, value, key=key, partition=partition, headers=headers
        )
        await acknowledged

    return produce


def _at(topic: str, number: int) -> Any:
    from hofflight.eventlog.kafka import partition_of_topic

    return partition_of_topic(topic, number)


def _partition_0(topic: str) -> Any:
    return _at(topic, 0)


def _warm_up() -> None:
    """What no request should pay: pyarrow imports pandas at its first conversion, 0.5 s."""
    pa.array([0.0]).to_numpy()
    # What lives now lives until the end: a full collection need not walk it.
    gc.collect()
    gc.freeze()


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
