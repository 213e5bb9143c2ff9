"""Builds the driver of a Spark application from settings: queries, what seals beside them."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from hofflight.assemble_executor import Assignment, answer_partition
from hofflight.assemble_kafka import cluster_of, make_topics, streams_of
from hofflight.assemble_registry import open_registry
from hofflight.assemble_sealing import environment, open_sealer
from hofflight.assemble_worker import checked_topics, chosen_partitions
from hofflight.clock import SystemClock
from hofflight.errors import CodeChanged
from hofflight.eventlog.local import LogReader
from hofflight.eventlog.store import Store
from hofflight.features.modules import versions_of
from hofflight.jars import spark_jars
from hofflight.observe.events import Events
from hofflight.spark_bridge.application import Application
from hofflight.spark_bridge.backups import Backups
from hofflight.spark_bridge.claims import Claims, holder_of
from hofflight.spark_bridge.executor_side import Place
from hofflight.spark_bridge.holdings import Holdings
from hofflight.spark_bridge.progress import Meter
from hofflight.spark_bridge.query import EARLIEST, QueryPlan, spark_url, start_query
from hofflight.spark_bridge.session import local_master, open_session
from hofflight.spark_bridge.state_store import marked

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pyspark.sql import SparkSession

    from hofflight.clock import Clock
    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import Registry
    from hofflight.settings import Settings
    from hofflight.spark_bridge.plan import SparkPlan
    from hofflight.spark_bridge.progress import Progress

_events = Events("hofflight.spark")
_LOOK_S = 0.25
_READ_S = 1.0
_TOLD_S = 60.0
# How old the topics' ends may be by which a terminal, and a line of the log, say what is behind.
_LINE_ENDS_S = 5.0
_LOG_ENDS_S = 15.0


def run_spark(
    path: Path, names: Sequence[str], modules: str, settings: Settings, plan: SparkPlan, *,
    ready: Callable[[dict[str, Any]], None], stop: threading.Event,
    progress: Callable[[Progress], None] | None = None,
) -> None:  # fmt: skip
    """Answer the records of groups by Spark until `stop`; state is in the store `path`.

    Raises: SettingsError (HOF-601), WorkerStopped (HOF-514), StoreLocked (HOF-501),
        KafkaUnavailable (HOF-512), TopicProblem (HOF-513), CodeChanged (HOF-507),
        RegistryUnavailable (HOF-515), BackupUnavailable (HOF-516).
    """
    with ExitStack() as stack:
        driver = stack.enter_context(_opened(path, names, modules, settings, plan))
        mine = driver.holdings
        stack.enter_context(driver.claims.kept())
        mine.claim(driver.wanted, stop)
        if stop.is_set():
            return
        if plan.takeover and not plan.checkpoint:
            hint = "what is taken over begins with what the topic has, unless the store is shared"
            _events.warning("takeover_without_copies", hint=f"{hint}: give a --checkpoint")
        if plan.checkpoint:
            stack.callback(Backups(lambda: mine.places, mine.save).stop)
        master = plan.master or local_master(len({*driver.wanted, *driver.others}))
        spark = open_session(f"hof {' '.join(names)}", master, spark_jars(), plan.conf)
        stack.callback(spark.stop)
        application = Application(
            mine.places, lambda place: driver.start(spark, place), driver.clock,
            mine.give_up if driver.claims.takes_over else None,
        )  # fmt: skip
        application.start()
        stack.callback(application.stop)
        stack.enter_context(_sealing(path, driver))
        meter = stack.enter_context(
            contextlib.closing(driver.meter(_LOG_ENDS_S if progress is None else _LINE_ENDS_S))
        )
        ready({"groups": list(names), "partitions": sorted({p.number for p in mine.places})})
        read_s = told_s = driver.clock.monotonic_s()
        while not stop.wait(_LOOK_S):
            mine.share(application, driver.wanted, driver.others)
            application.look()
            now_s = driver.clock.monotonic_s()
            if now_s - read_s < _READ_S:
                continue
            read_s = now_s
            found = meter.read(mine.places, application.restarts)
            if progress is not None:
                progress(found)
            if now_s - told_s >= _TOLD_S:
                told_s = now_s
                _events.info("progress", **found._asdict())


@contextlib.contextmanager
def _opened(
    path: Path, names: Sequence[str], modules: str, settings: Settings, plan: SparkPlan
) -> Iterator[_Driver]:
    """Everything checked that would fail in a Python worker, far from whoever can mend it."""
    groups = [group for name in names for group in versions_of(modules, name)]
    with ExitStack() as stack:
        registry = stack.enter_context(contextlib.closing(open_registry(settings)))
        by_stream = streams_of(groups, registry)
        for each in groups:
            _require_registered(each, registry)
        if plan.make_topics:
            make_topics(settings, groups)
        counts = asyncio.run(checked_topics(cluster_of(settings), by_stream, settings))
        whole = Store(path)
        whole.require(create=True)
        whole.require_partitions(counts)
        prefix = settings.kafka.prefix
        every = [Place(s, number, prefix) for s, n in counts.items() for number in range(n)]
        numbers = chosen_partitions(plan.partitions, max(counts.values()))
        queries = QueryPlan(
            settings.kafka, spark_url(plan.checkpoint or str(path.resolve() / "checkpoint")),
            _environment(settings), plan.mode, plan.trigger_us,
        )  # fmt: skip
        clock = SystemClock()
        ttl_ms = settings.kafka.lease_ttl_ms
        claims = Claims(registry.leases(), holder_of(path), ttl_ms, plan.takeover_s, clock)
        holdings = Holdings(path, claims, plan.checkpoint, clock, _next_offset)
        stack.callback(holdings.close)
        yield _Driver(
            path, modules, settings, clock, by_stream, counts,
            [place for place in every if place.number in numbers],
            every if claims.takes_over else [], queries, claims, holdings,
        )  # fmt: skip


class _Driver(NamedTuple):
    """What the driver knows. groups: the versions that read a stream.

    wanted, others: the partitions that were asked for, and those that may be taken over.
    """

    path: Path
    modules: str
    settings: Settings
    clock: Clock
    groups: Mapping[str, Sequence[FeatureGroup]]
    counts: Mapping[str, int]
    wanted: Sequence[Place]
    others: Sequence[Place]
    queries: QueryPlan
    claims: Claims
    holdings: Holdings

    def start(self, spark: SparkSession, place: Place) -> Any:
        """Start a place's query."""
        groups = self.groups[place.stream]
        hashes = tuple((group.version, group.code_hash()) for group in groups)
        assignment = Assignment(
            groups[0].name, self.modules, str(self.path.resolve()), place.stream, place.number,
            self.counts[place.stream], hashes,
        )  # fmt: skip
        # After a restart of the machine a mark says 0: what the topic begins with may be later.
        log = self.holdings.log(place)
        mark = marked(log)
        offset = EARLIEST if mark is None else mark.next or EARLIEST
        return start_query(spark, self.queries, place, answer_partition, assignment, offset, log)

    def meter(self, period_s: float) -> Meter:
        """What reads how far all is."""
        cluster = cluster_of(self.settings)
        return Meter(
            self.holdings.log, lambda p: asyncio.run(cluster.bounds(p)), self.clock, period_s
        )

    def streams(self, number: int) -> dict[str, int]:
        """The last entries of the logs in a partition's store."""
        places = [place for place in self.holdings.places if place.number == number]
        marks = {place.stream: marked(self.holdings.log(place)) for place in places}
        return {stream: mark.number for stream, mark in marks.items() if mark is not None}


def _next_offset(log: Path) -> int:
    """The offset after the last record that a log has, or that was dealt with without an entry."""
    reader = LogReader(log)
    counted = 0
    for _, first, _ in reversed(reader.segments()):
        counted = max((meta.offset + 1 for _, meta in reader.read_meta(first - 1)), default=0)
        if counted:
            break
    mark = marked(log)
    return max(counted, 0 if mark is None else mark.next)


def _require_registered(group: FeatureGroup, registry: Registry) -> None:
    """Raises: CodeChanged (HOF-507), the code here is not the registered one."""
    if registry.group(group.name, group.version).code_hash != group.code_hash():
        msg = f"{group.name}@{group.version} is registered with other code"
        raise CodeChanged(msg, hint="register it as a new version, or give the registered module")


@contextlib.contextmanager
def _sealing(path: Path, driver: _Driver) -> Iterator[None]:
    """Seals the partitions' logs meanwhile; the Python workers trim them."""
    stores = [
        (Store(path / str(number)), lambda number=number: driver.streams(number))
        for number in sorted({place.number for place in (*driver.wanted, *driver.others)})
    ]
    sealer = open_sealer(path, stores, driver.settings, driver.clock, lambda: None)
    try:
        yield
    finally:
        if sealer is not None:
            sealer.stop()


def _environment(settings: Settings) -> dict[str, str]:
    """What Python workers read their settings from: ours, wherever Spark starts them."""
    found = {n: text for n, text in environment(settings).items() if n.startswith("HOF_")}
    return {**found, "HOF_KAFKA__BOOTSTRAP": settings.kafka.bootstrap}
