"""Builds servers and workers that meet over Kafka, from settings. The counterpart of `assemble`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import secrets
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hofflight.assemble_online import open_online
from hofflight.assemble_registry import open_registry
from hofflight.clock import SystemClock
from hofflight.engine.answer_export import Outlet
from hofflight.errors import SettingsError, WrongType
from hofflight.eventlog.dead_letters import DeadLetters, WayBack
from hofflight.eventlog.topics import (
    dead_letters,
    features_spec,
    features_topic,
    input_spec,
    input_topic,
    reply_topics,
    shared_specs,
)
from hofflight.observe.metrics import exposition, named
from hofflight.online.lookups import Lookups
from hofflight.server.catalog import RegistryCatalog
from hofflight.server.kafka_join import KafkaJoiner
from hofflight.server.kafka_worker import KafkaWorker
from hofflight.server.reply_path import ReplyPath

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from hofflight.eventlog.kafka import Cluster
    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import Registry
    from hofflight.server.serve import FlightServer
    from hofflight.settings import Settings

_CATALOG_S = 1.0
_HEALTH_S = 0.2


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
    groups = list(groups)
    for group in groups:
        _require_hashed(group)
    with contextlib.closing(open_registry(settings, store, read_only=True)) as registry:
        by_stream = streams_of(groups, registry)
    inputs = {s: input_spec(s, found, settings.kafka) for s, found in sorted(by_stream.items())}
    cluster = cluster_of(settings)

    async def make() -> list[str]:
        made = await cluster.ensure([*shared_specs(settings.kafka), *inputs.values()])
        counts = await cluster.partitions([spec.name for spec in inputs.values()])
        features = [
            features_spec(group, counts[spec.name], settings.kafka)
            for stream, spec in inputs.items()
            for group in by_stream[stream]
        ]
        return made + await cluster.ensure(features)

    return asyncio.run(make())


def streams_of(groups: Iterable[FeatureGroup], registry: Registry) -> dict[str, list[FeatureGroup]]:
    """Group versions by the log that they read."""
    found: dict[str, list[FeatureGroup]] = {}
    for group in groups:
        stream = registry.group(group.name, group.version).partition
        found.setdefault(stream, []).append(group)
    return found


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
        counts: dict[str, int] = {}
        lookups = await stack.enter_async_context(_looking_up(settings))
        catalog = RegistryCatalog(
            registry, lambda stream: counts.get(stream, 0), looks_up=lookups is not None
        )
        catalog.refresh()
        counts |= await _partitions(cluster, catalog.streams(), settings.kafka.prefix)
        produce = await stack.enter_async_context(cluster.writer())
        worker = KafkaWorker(catalog, produce, DEFINITE, clock, settings.kafka)
        replies = ReplyPath(
            worker, registry.leases(), cluster.consumer, _partition_0,
            reply_topics(settings.kafka), instance=instance or _instance(),
            new_epoch=lambda: secrets.randbits(62), clock=clock, ttl_ms=settings.kafka.lease_ttl_ms,
        )  # fmt: skip

        def metrics() -> bytes:
            return exposition({
                **named("server", dataclasses.asdict(server.stats)),
                **named("kafka", dataclasses.asdict(worker.counters)),
                **(lookups.metrics() if lookups is not None else {}),
            })  # fmt: skip

        async def refresh() -> None:
            while True:
                await asyncio.sleep(_CATALOG_S)
                # Where the registry is away, what is known is served.
                with contextlib.suppress(Exception):
                    await asyncio.to_thread(catalog.refresh)
                    if fresh := catalog.streams() - counts.keys():
                        counts.update(await _partitions(cluster, fresh, settings.kafka.prefix))

        before = worker if lookups is None else KafkaJoiner(worker, lookups, clock)
        server = FlightServer(before, settings.server, metrics=metrics)
        warm_up()
        tasks = [asyncio.create_task(work) for work in (replies.run(), replies.tick(), refresh())]
        stack.push_async_callback(cancel, tasks)
        if not await _either(replies.is_ready, stop):
            return True
        address = server.address(await server.start())
        tasks.append(asyncio.create_task(_tell_health(server, replies.is_ready)))
        ready(address)
        await stop.wait()
        clean = await server.drain()
        await worker.drain(settings.server.drain_timeout_ms / 1_000)
    return clean


@contextlib.asynccontextmanager
async def _looking_up(settings: Settings) -> AsyncIterator[Lookups | None]:
    """The online store, asked on this loop; None where the settings have no address of one."""
    if not settings.online.url:
        yield None
        return
    lookups = Lookups(open_online(settings, None), settings.online.timeout_ms)
    lookups.attach()
    try:
        yield lookups
    finally:
        await lookups.detach()


async def _either(wanted: asyncio.Event, stop: asyncio.Event) -> bool:
    """Wait for one of them; whether it is the wanted one."""
    waits = [asyncio.create_task(event.wait()) for event in (wanted, stop)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    await cancel(waits)
    return not stop.is_set()


async def _tell_health(server: FlightServer, is_ready: asyncio.Event) -> None:
    """A server without a topic for answers takes no requests: others shall get them."""
    known = True
    while True:
        await asyncio.sleep(_HEALTH_S)
        if is_ready.is_set() != known:
            known = not known
            await server.tell_ready(is_ready=known)


async def _partitions(cluster: Cluster, streams: Iterable[str], prefix: str) -> dict[str, int]:
    """How many partitions the topic of each log has; those without one are left out."""
    topics = {input_topic(stream, prefix): stream for stream in streams}
    found = await cluster.partitions(list(topics))
    return {topics[topic]: count for topic, count in found.items()}


def _instance() -> str:
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


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
        streams = {record.partition for record in registry.groups()}
    counts = await _partitions(cluster, streams, settings.kafka.prefix)
    partitions = {input_topic(s, settings.kafka.prefix): count for s, count in counts.items()}
    registered = frozenset(input_topic(stream, settings.kafka.prefix) for stream in streams)
    size = settings.kafka.record_bytes_max
    if dry_run:
        yield WayBack(registered, partitions, size, None)
        return
    async with cluster.writer() as produce:
        yield WayBack(registered, partitions, size, produce)


# --- the pieces -----------------------------------------------------------------------------------


def outlet_of(group: FeatureGroup, registry: Registry, settings: Settings, begin: int) -> Outlet:
    """Where a group version's answers go. begin: the first offset that may not be there."""
    from hofflight.replay.answer_records import AnswerRecords

    kafka = settings.kafka
    full = registry.group(group.name, group.version).schema
    records = AnswerRecords(group.name, group.version, full, kafka.record_bytes_max)
    return Outlet(features_topic(group.name, group.version, kafka.prefix), records, begin)


def partition_of(topic: str, number: int) -> Any:
    """What consumers call a partition."""
    from hofflight.eventlog.kafka import partition_of_topic

    return partition_of_topic(topic, number)


def _partition_0(topic: str) -> Any:
    return partition_of(topic, 0)


def warm_up() -> None:
    """Pay what no request should pay: pyarrow imports pandas at its first conversion, 0.5 s."""
    pa.array([0.0]).to_numpy()
    # What lives now lives until the end: a full collection need not walk it.
    gc.collect()
    gc.freeze()


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """End tasks, and wait until they have."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
