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
from hofflight.eventlog.lock import StoreLock
from hofflight.eventlog.store import Store
from hofflight.features.modules import versions_of
from hofflight.jars import spark_jars
from hofflight.spark_bridge.application import Application
from hofflight.spark_bridge.executor_side import Place
from hofflight.spark_bridge.query import EARLIEST, QueryPlan, start_query
from hofflight.spark_bridge.session import local_master, open_session
from hofflight.spark_bridge.state_store import Mark

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pyspark.sql import SparkSession

    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import Registry
    from hofflight.settings import Settings
    from hofflight.spark_bridge.plan import SparkPlan

_LOOK_S = 0.25


def run_spark(
    path: Path, names: Sequence[str], modules: str, settings: Settings, plan: SparkPlan, *,
    ready: Callable[[dict[str, Any]], None], stop: threading.Event,
    progress: Callable[[Progress], None] | None = None,
) -> None:  # fmt: skip
    """Answer the records of groups by Spark until `stop`; state is in the store `path`.

    Raises: SettingsError (HOF-601), WorkerStopped (HOF-514), StoreLocked (HOF-501),
        KafkaUnavailable (HOF-512), TopicProblem (HOF-513), CodeChanged (HOF-507).
    """
    with ExitStack() as stack:
        driver = _Driver.opened(stack, path, names, modules, settings, plan)
        places = driver.places
        title = f"hof {' '.join(names)}"
        master = plan.master or local_master(len(places))
        spark = open_session(title, master, spark_jars(), plan.conf)
        stack.callback(spark.stop)
        application = Application(places, lambda place: driver.start(spark, place), SystemClock())
        application.start()
        stack.callback(application.stop)
        stack.enter_context(_sealing(path, driver))
        ready({"groups": list(names), "partitions": sorted({place.number for place in places})})
        while not stop.wait(_LOOK_S):
            application.look()
            if progress is not None:
                progress(driver.progress(application.restarts))


class Progress(NamedTuple):
    """How far an application is, all its starts together; state_bytes: of the logs."""

    records: int
    rows: int
    restarts: int
    state_bytes: int


class _Driver(NamedTuple):
    """What the driver knows. groups: the versions that read a stream."""

    path: Path
    modules: str
    settings: Settings
    queries: QueryPlan
    counts: dict[str, int]
    groups: dict[str, list[FeatureGroup]]
    places: list[Place]

    @classmethod
    def opened(
        cls, stack: ExitStack, path: Path, names: Sequence[str], modules: str,
        settings: Settings, plan: SparkPlan,
    ) -> _Driver:  # fmt: skip
        """Everything checked that would fail in a Python worker, far from whoever can mend it."""
        groups = [group for name in names for group in versions_of(modules, name)]
        cluster = cluster_of(settings)
        with contextlib.closing(open_registry(settings)) as registry:
            by_stream = streams_of(groups, registry)
            for each in groups:
                _require_registered(each, registry)
        if plan.make_topics:
            make_topics(settings, groups)
        counts = asyncio.run(checked_topics(cluster, by_stream, settings))
        whole = Store(path)
        whole.require(create=True)
        whole.require_partitions(counts)
        numbers = chosen_partitions(plan.partitions, max(counts.values()))
        for number in numbers:
            store = Store(path / str(number))
            store.require(create=True)
            stack.callback(StoreLock(store.lock).release)
        places = [
            Place(stream, number, settings.kafka.prefix)
            for stream, count in counts.items() for number in numbers if number < count
        ]  # fmt: skip
        checkpoint = plan.checkpoint or str(path.resolve() / "checkpoint")
        queries = QueryPlan(
            settings.kafka, checkpoint, _environment(settings), plan.mode, plan.trigger_us
        )  # fmt: skip
        return cls(path, modules, settings, queries, counts, by_stream, places)

    def start(self, spark: SparkSession, place: Place) -> Any:
        """Start a place's query."""
        groups = self.groups[place.stream]
        hashes = tuple((group.version, group.code_hash()) for group in groups)
        assignment = Assignment(
            groups[0].name, self.modules, str(self.path.resolve()), place.stream, place.number,
            self.counts[place.stream], hashes,
        )  # fmt: skip
        with self._mark(place) as mark:
            # After a restart of the machine a mark says 0: what the topic begins with may be later.
            offset = EARLIEST if mark is None else mark.next or EARLIEST
        return start_query(spark, self.queries, place, answer_partition, assignment, offset)

    def progress(self, restarts: int) -> Progress:
        """As the marks of the partitions say."""
        records = rows = size = 0
        for place in self.places:
            with self._mark(place) as mark:
                if mark is not None:
                    records += mark.next
                    rows += mark.rows
            log = self._log(place)
            size += (
                sum(file.stat().st_blocks * 512 for file in log.iterdir()) if log.exists() else 0
            )
        return Progress(records, rows, restarts, size)

    def streams(self, number: int) -> dict[str, int]:
        """The last entries of a partition's logs."""
        found = {}
        for place in self.places:
            with self._mark(place) as mark:
                if place.number == number and mark is not None:
                    found[place.stream] = mark.number
        return found

    def _log(self, place: Place) -> Path:
        return Store(self.path / str(place.number)).log / place.stream

    @contextlib.contextmanager
    def _mark(self, place: Place) -> Iterator[Mark | None]:
        path = self._log(place) / "mark"
        if not path.exists():
            yield None
            return
        with contextlib.closing(Mark(path)) as mark:
            yield mark


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
        for number in sorted({place.number for place in driver.places})
    ]
    sealer = open_sealer(path, stores, driver.settings, SystemClock(), lambda: None)
    try:
        yield
    finally:
        if sealer is not None:
            sealer.stop()


def _environment(settings: Settings) -> dict[str, str]:
    """What Python workers read their settings from: ours, wherever Spark starts them."""
    found = {n: text for n, text in environment(settings).items() if n.startswith("HOF_")}
    return {**found, "HOF_KAFKA__BOOTSTRAP": settings.kafka.bootstrap}
