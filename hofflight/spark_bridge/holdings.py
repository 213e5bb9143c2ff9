"""The partitions that an application works, and how they become its own and another's.

What is ours is leased, locked in our store, and has its state there: brought from the backup where
this host never worked it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hofflight.errors import HofError, StoreLocked
from hofflight.eventlog.backup import Backup
from hofflight.eventlog.backup_files import origin_of, set_aside
from hofflight.eventlog.lock import StoreLock
from hofflight.eventlog.store import Store
from hofflight.observe.events import Events
from hofflight.spark_bridge.state_store import begin_mark, marked

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hofflight.clock import Clock
    from hofflight.spark_bridge.application import Application
    from hofflight.spark_bridge.claims import Claims
    from hofflight.spark_bridge.executor_side import Place

_events = Events("hofflight.spark")
_LOOK_S: Final = 0.25
# Time for another application to take what cannot be worked here.
_GIVEN_UP_S: Final = 600.0


class Holdings:
    """Partitions of ours in the store `path`. Thread: one; `places` and `save` also from another.

    backups: a folder or object store that has copies of logs; "": there are none. next_offset:
    the offset that the topic goes on with, of a log's folder.
    """

    def __init__(
        self, path: Path, claims: Claims, backups: str, clock: Clock,
        next_offset: Callable[[Path], int],
    ) -> None:  # fmt: skip
        self._path = path
        self._claims = claims
        self._backups = backups
        self._next_offset = next_offset
        self._clock = clock
        self._locks: dict[int, StoreLock] = {}
        self._copies: dict[Place, Backup] = {}
        self._not_before_s: dict[Place, float] = {}
        self.places: list[Place] = []

    def close(self) -> None:
        """Leave all to others."""
        self._claims.release(self.places)
        for lock in self._locks.values():
            lock.release()

    def claim(self, wanted: Sequence[Place], stop: threading.Event) -> None:
        """Take what was asked for, as soon as it is free; who takes over leaves others theirs.

        Raises: StoreLocked (HOF-501), another application has a partition; as `_take`.
        """
        # So long an application that died holds its own.
        end_s = self._clock.monotonic_s() + self._claims.ttl_s + 1.0
        for place in wanted:
            while not stop.is_set() and not self._take(place) and not self._claims.takes_over:
                if self._clock.monotonic_s() > end_s:
                    holder = self._claims.holder(place)
                    msg = f"partition {place.number} of {place.topic} is worked by {holder}"
                    hint = "stop that one, ask for other --partitions, or step in by --takeover 1m"
                    raise StoreLocked(msg, hint=hint)
                stop.wait(_LOOK_S)

    def share(
        self, application: Application, wanted: Sequence[Place], others: Sequence[Place]
    ) -> None:
        """Leave what is no longer ours; take one that was asked for, or that others abandoned.

        One at a time: our own queries are looked after between two of them.
        """
        for place in self._claims.lost():
            _events.error("partition_lost", topic=place.topic, partition=place.number)
            application.remove(place)
            self._leave(place)
        now_s = self._clock.monotonic_s()
        for place in self._claims.free(wanted, others):
            if now_s < self._not_before_s.get(place, now_s):
                continue
            try:
                is_ours = self._take(place)
            except (HofError, OSError) as error:
                _events.warning("takeover_failed", topic=place.topic, error=str(error))
                continue
            if is_ours:
                _events.warning("taken_over", topic=place.topic, partition=place.number)
                application.add(place)
                return

    def give_up(self, place: Place, why: str) -> None:
        """Leave a partition that cannot be worked here to another application, for a while."""
        _events.error("given_up", topic=place.topic, partition=place.number, error=why)
        self._not_before_s[place] = self._clock.monotonic_s() + _GIVEN_UP_S
        if place in self.places:
            self._claims.release([place])
            self._leave(place)

    def save(self, place: Place) -> int:
        """Copy a partition's log to where its next host finds it; gives the bytes of it.

        Raises: BackupUnavailable (HOF-516).
        """
        mark = marked(self.log(place))  # before the log is looked at: that has more
        if mark is None:
            return 0
        return self._copy(place).save(self.store(place), mark.next)

    def store(self, place: Place) -> Store:
        """The store that a partition has here."""
        return Store(self._path / str(place.number))

    def log(self, place: Place) -> Path:
        """The folder of its log."""
        return self.store(place).log / place.stream

    def _take(self, place: Place) -> bool:
        """Make a partition ours, with its state; False: another application has it.

        Raises: StoreLocked (HOF-501), in this very store, where nothing is taken over;
            RegistryUnavailable (HOF-515), BackupUnavailable (HOF-516), StoreFormat (HOF-503).
        """
        store = self.store(place)
        if place.number not in self._locks:
            store.require(create=True)
            try:
                self._locks[place.number] = StoreLock(store.lock)
            except StoreLocked:
                if self._claims.takes_over:
                    return False
                raise
        is_brought = False
        try:
            if self._claims.claim(place):
                self._bring(place)
                self.places.append(place)
                is_brought = True
        finally:
            if not is_brought:
                self._claims.release([place])
                self._leave(place)
        return is_brought

    def _bring(self, place: Place) -> None:
        """Restore a log that was never here, or that another host went on with."""
        if not self._backups:
            return
        at = {"topic": place.topic, "partition": place.number}
        copy, log = self._copy(place), self.log(place)
        newest = copy.newest()
        if any(log.glob("*.log")):
            known = self._next_offset(log)
            if newest is None or newest.origin != origin_of(log) or newest.next <= known:
                return
            _events.warning("set_aside", **at, next=known, copy=newest.next)
            set_aside(self.store(place), place.stream, f"{place.stream}-{known}")
        offset = copy.restore(self.store(place))
        if offset is None:
            _events.warning("new_store", **at)
        else:
            begin_mark(log, offset)
            _events.info("restored", **at, next=offset)

    def _leave(self, place: Place) -> None:
        self._claims.drop(place)
        self.places[:] = [other for other in self.places if other != place]
        if all(other.number != place.number for other in self.places):
            self._locks.pop(place.number).release()

    def _copy(self, place: Place) -> Backup:
        if place not in self._copies:
            self._copies[place] = Backup(self._backups, place.stream, place.number)
        return self._copies[place]
