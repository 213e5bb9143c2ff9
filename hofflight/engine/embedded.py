"""The embedded engine: a worker in this very process, one log per (group, input schema)."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from hofflight.engine.lane import FunctionWatch, Lane
from hofflight.engine.replies import refusal
from hofflight.engine.runner import Runner
from hofflight.engine.snapshot import SnapshotWriter, ids_after, load_snapshot, oldest_number
from hofflight.engine.turn import EngineCounters, Partition, internal
from hofflight.engine.views import Catalog
from hofflight.errors import (
    Draining,
    HistoryMissing,
    HofError,
    SealDamaged,
    StorageFailed,
    TransformTimeout,
    Wedged,
)
from hofflight.observe.events import Events
from hofflight.observe.metrics import named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hofflight.clock import Clock
    from hofflight.engine.runner import Decoded
    from hofflight.eventlog.protocol import EventLog, Request, Served
    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import Registry
    from hofflight.settings import EngineSettings
    from hofflight.transform.window_state import WindowState

_events = Events("hofflight.engine")
# Every 16th turn looks after snapshots and dumps up to 64 keys of about 20 us each: some 80 us a
# turn while one is made, next to nothing otherwise, and serving never stops for it.
_TURNS_PER_STEP = 16
_KEYS_PER_STEP = 64


class Rebuilt(NamedTuple):
    """A version's window state after record `number`, made from all of its history in bulk."""

    number: int
    state: WindowState


@dataclass(slots=True)
class _Work:
    """A partition, the lock that makes one thread work it, and its lane if functions are opaque."""

    partition: Partition
    lock: threading.RLock
    watch: FunctionWatch
    lane: Lane | None = None
    writers: list[SnapshotWriter] | None = None
    snapshot_number: int = 0


class Engine:
    """Answers requests for every loaded group. `submit` is thread-safe.

    Groups of expressions are worked on the caller's thread; groups with functions on a thread of
    their own, watched: a function that hangs past `transform_timeout_ms` wedges its group alone.
    """

    def __init__(
        self,
        registry: Registry,
        open_log: Callable[[str], EventLog],
        snapshots: Path,
        clock: Clock,
        settings: EngineSettings,
        rebuild: Callable[[FeatureGroup], Rebuilt] | None = None,
    ) -> None:
        self.registry = registry
        self._rebuild = rebuild
        self.counters = EngineCounters()
        self._open_log = open_log
        self._snapshots = snapshots
        self.clock = clock
        self._settings = settings
        self.catalog = Catalog(registry)
        self._works: dict[str, _Work] = {}
        self._by_group: dict[tuple[str, int], _Work] = {}
        self._stopping = threading.Event()
        self._watchdog: threading.Thread | None = None

    def load(self, group: FeatureGroup) -> None:
        """Serve a registered group version: restore its state from snapshot and log."""
        if (group.name, group.version) in self._by_group:
            return
        record = self.registry.group(group.name, group.version)
        work = self._works.get(record.partition) or self._new_work(record.partition)
        with work.lock:
            runner = Runner(group, work.watch)
            self._recover(work, runner)
            work.partition.runners[group.version] = runner
            work.partition.has_functions |= runner.has_function
            if group.is_opaque and work.lane is None:
                work.lane = Lane(
                    record.partition, lambda requests: self._turn(work, requests), self.clock
                )
                self._watch()
        self._by_group[group.name, group.version] = work
        self.catalog.add(group)

    def group(self, name: str, version: int | None) -> FeatureGroup:
        """A loaded group; the newest registered version for None.

        Raises: UnknownView (HOF-201), CodeNotLoaded (HOF-504).
        """
        return self.catalog.group(name, version)

    def views(self) -> list[Served]:
        """Every view whose groups are loaded, implicit ones included."""
        return self.catalog.views()

    def bind(self, view: str, version: int | None) -> Served:
        """The view of that name, also of a dataset's or a model's; the newest version for None.

        Raises: UnknownView (HOF-201), CodeNotLoaded (HOF-504).
        """
        return self.catalog.bind(view, version)

    def remembers(self, request: Request) -> bool:
        """Whether a request of this id was answered before."""
        return self._work_of(request).partition.ids.find(request.id) is not None

    def check(self, request: Request) -> None:
        """Refuse what a turn would refuse before it computes.

        Raises: BadRequest (HOF-2xx), Refused (HOF-3xx).
        """
        work = self._work_of(request)
        if work.watch.wedged or self._stopping.is_set():
            raise self._refusal(work)
        # Without the lock: a lane holds it as long as a user's function runs, and nothing changes.
        runner = work.partition.runners[request.served.group_version]
        runner.check(runner.decode(request.head, request.body), self.clock.wall_us())

    def submit(self, requests: Sequence[Request]) -> None:
        """Take over requests; every outcome is a reply."""
        if len(requests) > 1:
            by_work: dict[int, tuple[_Work, list[Request]]] = {}
            for request in requests:
                work = self._work_of(request)
                by_work.setdefault(id(work), (work, []))[1].append(request)
            for work, mine in by_work.values():
                self._submit(work, mine)
        elif requests:
            self._submit(self._work_of(requests[0]), requests)

    def skip(self, requests: Sequence[Request], error: HofError) -> None:
        """Answer requests of one group with an error; the log notes that their rows never count.

        What was counted before gets its recorded answer, what cannot be noted a refusal (HOF-304).
        """
        work = self._work_of(requests[0])
        partition = work.partition
        known = [r for r in requests if r.store and partition.is_settled(r)]
        owed = [r for r in requests if not any(r is one for one in known)]
        if known:
            self.submit(known)
        with work.lock:
            try:
                partition.mark_void(owed, error)
            except StorageFailed as failed:
                error = failed
        self._answer(work, owed, error)

    def abandon(self) -> None:
        """End without a write: another process works the logs now. They are its opener's affair."""
        self._stopping.set()
        for work in self._works.values():
            if work.lane is not None:
                work.lane.stop(self._settings.transform_timeout_ms / 1_000)
            for writer in work.writers or ():
                writer.abandon()

    def stream_of(self, served: Served) -> str:
        """The log that a view's group reads."""
        return self._by_group[served.group, served.group_version].partition.name

    def behind_kafka(self, stream: str, require_here: Callable[[Runner, Decoded], None]) -> int:
        """Up to which offset the log of a stream has entries, -1 for none.

        `require_here` refuses rows that belong to another partition, from now on.
        """
        partition = self._works[stream].partition
        partition.require_here = require_here
        return partition.known_offset

    def known_offset(self, stream: str) -> int:
        """Up to which offset the log of a stream had entries at the start, -1 for none."""
        return self._works[stream].partition.known_offset

    def repeats(self, stream: str, before: int) -> None:
        """Records of a stream before an offset come again: what is not known there counts not."""
        partition = self._works[stream].partition
        partition.known_offset = max(partition.known_offset, before - 1)

    def streams(self) -> dict[str, int]:
        """The logs at work, by name: the number of each one's last record."""
        return {n: work.partition.log.last_number() for n, work in sorted(self._works.items())}

    def trim(self, sealed_to: Callable[[str], int]) -> int:
        """Let each log forget what is sealed and needed by no state or id; gives the bytes freed.

        `sealed_to`: the number up to which a log, by name, is sealed.
        """
        freed = 0
        for name, work in list(self._works.items()):
            needed = [
                oldest_number(self._snapshots / name, v) for v in list(work.partition.runners)
            ]
            try:
                through = min(sealed_to(name), work.partition.ids.needed_after, *needed)
                freed += work.partition.log.trim(through) if through else 0
            except (SealDamaged, OSError) as error:  # costs disk space, never a store its closing
                _events.warning("trim_failed", partition=name, error=str(error))
        return freed

    def metrics(self) -> dict[str, float]:
        """The engine's metrics by full name."""
        keys = wedged = 0
        for work in self._works.values():
            keys += sum(len(runner.state.keys) for runner in work.partition.runners.values())
            wedged += work.watch.wedged
        counted = {**asdict(self.counters), "keys": keys, "groups_wedged": wedged}
        return named("engine", counted)

    def close(self) -> None:
        """Finish what waits, write snapshots and close the logs."""
        self._stopping.set()
        for work in self._works.values():
            if work.lane is not None:
                work.lane.stop(self._settings.transform_timeout_ms / 1_000)
                self._refuse(work, work.lane.take_waiting())
            if not work.watch.wedged:
                with work.lock:
                    self._snapshot_all(work)
            work.partition.log.close()

    def _work_of(self, request: Request) -> _Work:
        return self._by_group[request.served.group, request.served.group_version]

    def _submit(self, work: _Work, requests: Sequence[Request]) -> None:
        if work.watch.wedged or self._stopping.is_set():
            self._refuse(work, requests)
        elif work.lane is not None:
            work.lane.put(requests)
            if work.watch.wedged or self._stopping.is_set():  # since we looked: it may never run
                self._refuse(work, work.lane.take_waiting())
        else:
            self._turn(work, requests)

    def _turn(self, work: _Work, requests: Sequence[Request]) -> None:
        with work.lock:
            try:
                work.partition.turn(requests)
            except Exception as error:  # a bug of ours must still be an answer, and end no thread
                for runner in work.partition.runners.values():
                    runner.state.undo()
                for request in requests:
                    runner = work.partition.runners[request.served.group_version]
                    request.finish(refusal(request, runner, internal(error, request)))
            if self.counters.turns % _TURNS_PER_STEP == 0:
                self._snapshot_step(work)

    def _new_work(self, name: str) -> _Work:
        log = self._open_log(name)
        partition = Partition(name, log, self.clock, self._settings, self.counters)
        # Ids up to here were forgotten before the restart: they keep no segment from being trimmed.
        partition.ids.young_after = ids_after(self._snapshots / name)
        for position, meta in log.read_meta(partition.ids.young_after):
            partition.ids.add(meta.id, position, number=meta.number, arrival_us=meta.arrival_us)
            partition.known_offset = max(partition.known_offset, meta.offset)
        work = self._works[name] = _Work(partition, threading.RLock(), FunctionWatch(self.clock))
        work.snapshot_number = log.last_number()
        return work

    def _recover(self, work: _Work, runner: Runner) -> None:
        """Snapshot first, or all of history in bulk; then every entry after it that counts."""
        log = work.partition.log
        after = load_snapshot(runner, self._snapshots / work.partition.name, log.last_number())
        is_gone = log.first_number() > after + 1
        if self._rebuild and (
            is_gone or (not after and log.last_number() >= self._settings.rebuild_records)
        ):
            after, runner.state = self._rebuild(runner.group)
            runner.key_folded.clear()
            is_gone = log.first_number() > after + 1
        if is_gone:
            msg = f"{work.partition.name} begins with record {log.first_number()}"
            hint = "restore the sealed segments, or the snapshots"
            raise HistoryMissing(f"{msg}; the windows need those after {after}", hint=hint)
        for _, entry in work.partition.log.read(after):
            if entry.meta.code == "OK":
                runner.fold(entry)
        runner.folded = work.partition.log.last_number()
        runner.key_folded.clear()

    def _snapshot_step(self, work: _Work) -> None:
        """Go on with a snapshot that is under way, or begin one when enough was logged.

        A full disk costs the snapshot, never an answer: the log has everything.
        """
        number = work.partition.log.last_number()
        try:
            if work.writers:
                if work.writers[0].step(_KEYS_PER_STEP):
                    work.writers.pop(0)
            elif number - work.snapshot_number >= self._settings.snapshot_records:
                work.snapshot_number = number
                work.writers = self._writers(work)
        except OSError as error:
            self._give_up_snapshot(work, error)

    def _give_up_snapshot(self, work: _Work, error: OSError) -> None:
        for writer in work.writers or ():
            writer.abandon()
        work.writers = None
        _events.warning("snapshot_failed", partition=work.partition.name, error=error.strerror)

    def _writers(self, work: _Work) -> list[SnapshotWriter]:
        return [
            SnapshotWriter(
                runner,
                self._snapshots / work.partition.name,
                number=runner.folded,
                ids_after=work.partition.ids.needed_after,
            )
            for runner in work.partition.runners.values()
        ]

    def _snapshot_all(self, work: _Work) -> None:
        for writer in work.writers or ():
            writer.abandon()
        try:
            work.writers = self._writers(work)
            for writer in work.writers:
                writer.step()
        except OSError as error:
            self._give_up_snapshot(work, error)

    def _watch(self) -> None:
        if self._watchdog is None:
            self._watchdog = threading.Thread(target=self._guard, name="hof-watchdog", daemon=True)
            self._watchdog.start()

    def _guard(self) -> None:
        timeout_s = self._settings.transform_timeout_ms / 1_000
        while not self._stopping.wait(min(0.25, timeout_s / 4)):
            for work in list(self._works.values()):
                if work.lane is not None and work.watch.give_up(timeout_s):
                    self._wedge(work)

    def _wedge(self, work: _Work) -> None:
        """Answer for the thread that hangs, and mark in the log what it never folded."""
        assert work.lane is not None
        running, waiting = work.lane.take_running(), work.lane.take_waiting()
        # What only waited and came over Kafka is still there, for the next start.
        again = [request for request in waiting if request.offset >= 0]
        owed = [*running, *(request for request in waiting if request.offset < 0)]
        owed = [request for request in owed if not request.is_finished]
        timeout_ms = self._settings.transform_timeout_ms
        msg = f"the function of {work.partition.name} did not return within {timeout_ms} ms"
        error = TransformTimeout(msg, hint="the group is refused until the server restarts")
        # Without a mark the rows are not in the log at all: they were never counted.
        with contextlib.suppress(StorageFailed):
            work.partition.mark_void(owed, error)
        self._answer(work, owed, error)
        self._refuse(work, again)

    def _refusal(self, work: _Work) -> HofError:
        if work.watch.wedged:
            msg = f"the function of {work.partition.name} hangs; it serves again after a restart"
            return Wedged(msg)
        return Draining("the store is closed, or closing")

    def _refuse(self, work: _Work, requests: Sequence[Request]) -> None:
        self._answer(work, requests, self._refusal(work))

    @staticmethod
    def _answer(work: _Work, requests: Sequence[Request], error: HofError) -> None:
        for request in requests:
            runner = work.partition.runners[request.served.group_version]
            request.finish(refusal(request, runner, error))
