"""Builds what a Python worker of Spark needs, in that process, from names and the environment.

Nothing but these names travels to it: no object, and no user's code, is ever pickled.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hofflight.assemble_kafka import cluster_of, outlet_of, streams_of, warm_up
from hofflight.assemble_registry import open_registry
from hofflight.assemble_sealing import sealed_log
from hofflight.clock import SystemClock
from hofflight.engine.embedded import Engine
from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.errors import CodeChanged
from hofflight.eventlog.local import LocalLog, SyncThread
from hofflight.eventlog.store import Store
from hofflight.eventlog.topics import reply_topics
from hofflight.features.modules import versions_of
from hofflight.server.join_received import ReceivedJoins
from hofflight.settings import Settings, load_settings
from hofflight.spark_bridge.executor_side import KafkaRow, PartitionTask, Place, State
from hofflight.spark_bridge.state_store import StateStore
from hofflight.wire.kafka_record import Framing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    import pyarrow as pa

    from hofflight.engine.answer_export import Outlet
    from hofflight.features.group import FeatureGroup


class Assignment(NamedTuple):
    """What one query works: a partition of a group's stream, and where the code is found.

    partitions: of the topic. store: the folder of the partitions' stores. hashes: of the code of
    each version, as whoever started the query found it.
    """

    group: str
    modules: str
    store: str
    stream: str
    number: int
    partitions: int
    hashes: tuple[tuple[int, str], ...]


def answer_partition(
    assignment: Assignment, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The function of `mapInArrow`: one call a task, in a process that outlives it.

    Raises: StoreLocked (HOF-501), CodeChanged (HOF-507), HistoryMissing (HOF-508), WorkerStopped
        (HOF-514); the task is tried again.
    """
    opened = _opened(assignment)
    with opened.store.held() as (state, mark):
        task = PartitionTask(
            opened.place, state, mark, opened.framing, opened.reply_topics, opened.bytes_max,
            SystemClock(), opened.refetch,
        )  # fmt: skip
        for batch in batches:
            yield task.answer(batch)
        yield from task.rest()


class _Partition:
    """What stays in the process from task to task."""

    def __init__(self, assignment: Assignment, settings: Settings) -> None:
        self._assignment = assignment
        self._settings = settings
        self._store = Store(Path(assignment.store) / str(assignment.number))
        self._store.require(create=True)
        kafka = settings.kafka
        self.place = Place(assignment.stream, assignment.number, kafka.prefix)
        self.reply_topics = frozenset(reply_topics(kafka))
        self.bytes_max = kafka.record_bytes_max
        self._registry = open_registry(settings)
        self._groups = self._loaded()
        self.framing = Framing(self._groups[0].input)
        self.store = StateStore(self._store.log / assignment.stream, self._state)

    def _loaded(self) -> list[FeatureGroup]:
        """The versions that read the stream. Raises: CodeChanged (HOF-507)."""
        wanted = self._assignment
        groups = streams_of(versions_of(wanted.modules, wanted.group), self._registry)
        found = groups.get(wanted.stream, [])
        hashes = {group.version: group.code_hash() for group in found}
        if hashes != dict(wanted.hashes):
            msg = f"module {wanted.modules!r} has another {wanted.group} here"
            hint = "give every host the code that `hof spark` was started with"
            raise CodeChanged(msg, hint=hint)
        return found

    def _state(self) -> State:
        """Recover state from snapshot and log."""
        stream, settings = self._assignment.stream, self._settings
        with ExitStack() as stack:
            sync = SyncThread(settings.log)
            stack.callback(sync.stop)
            log = LocalLog(self._store.log / stream, sync, settings.log)
            stack.callback(log.abandon)
            engine = Engine(
                self._registry, lambda _: log, self._store.snapshots, SystemClock(), settings.engine
            )
            stack.callback(engine.abandon)
            for group in self._groups:
                engine.load(group)
            worker = PartitionWorker(
                self.place.number, engine, {stream: self._assignment.partitions}, self.bytes_max,
                ReceivedJoins(),
            )  # fmt: skip
            # Else what `warm_up` froze would stay in memory for good, all windows of it.
            stack.callback(gc.unfreeze)
            outlets = self._outlets()
            opened = stack.pop_all()
        warm_up()
        return State(
            worker, log, stream, outlets, abandon=opened.close,
            sealed_to=lambda: sealed_log(self._store, stream).manifest().sealed_to,
        )  # fmt: skip

    def _outlets(self) -> dict[int, Outlet]:
        """Where answers go: all that are in the log from the trigger's begin on."""
        if not self._settings.kafka.features:
            return {}
        return {
            group.version: outlet_of(group, self._registry, self._settings, -1)
            for group in self._groups
        }

    def refetch(self, begin: int, end: int) -> Iterator[KafkaRow]:
        """The records between two offsets, out of the topic itself.

        Raises: HistoryMissing (HOF-508), rows behind those that were counted are gone.
        """
        topic, number = self.place.topic, self.place.number
        with asyncio.Runner() as runner:
            records = cluster_of(self._settings).records(topic, number, begin, end)
            while (record := runner.run(_next(records))) is not None:
                headers = list(record.headers)
                yield KafkaRow(record.offset, record.timestamp, record.value, headers)


async def _next(records: AsyncIterator[Any]) -> Any:
    return await anext(records, None)


@cache
def _opened(assignment: Assignment) -> _Partition:
    return _Partition(assignment, load_settings())
