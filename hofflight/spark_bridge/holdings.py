"""The partitions that an application works, and how they become its own and another's.

What is ours is leased, locked in our store, and has its state there: brought from the backup where
this host never worked it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hofflight.errors import HofError, StoreLocked
from hofflight.eventlog.backup import Backup
from hofflight.eventlog.lock import StoreLock
from hofflight.eventlog.store import Store
from hofflight.observe.events import Events
from hofflight.spark_bridge.state_store import begin_mark, marked

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from pathlib import Path

    from hofflight.clock import Clock
    from hofflight.spark_bridge.application import Application
    from hofflight.spark_bridge.claims import Claims
    from hofflight.spark_bridge.executor_side import Place

_events = Events("hofflight.spark")
_LOOK_S: Final = 0.25


class Holdings:
    """Partitions of ours in the store `path`. Thread: one; `places` and `save` also from another.

    backups: a folder or object store that has copies of logs; "": there are none.
    """

    def __init__(self, path: Path, claims: Claims, backups: str, clock: Clock) -> None:
        self._path = path
        self._claims = claims
        self._backups = backups
        self._clock = clock
        self._locks: dict[int, StoreLock] = {}
        self._copies: dict[Place, Backup] = {}
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
            while not self._take(place) and not self._claims.takes_over and not stop.is_set():
                if self._clock.monotonic_s() > end_s:
                    holder = self._claims.holder(place)
                    msg = f"partition {place.number} of {place.topic} is worked by {holder}"
                    hint = "stop that one, ask for other --partitions, or step in by --takeover 1m"
                    raise StoreLocked(msg, hint=hint)
                stop.wait(_LOOK_S)

    def share(self, application: Application, others: Sequence[Place]) -> None:
        """Leave what another application took; take of `others` what nobody has for long enough.

        Raises: StoreLocked (HOF-501), everything is others' now.
        """
        for place in self._claims.lost():
            application.remove(place)
            self._leave(place)
        if not self.places and not self._claims.takes_over:
            msg = "other applications have taken all partitions"
            raise StoreLocked(msg, hint="they stepped in while this one did not answer")
        for place in self._claims.abandoned(others):
            try:
                is_ours = self._take(place)
            except (HofError, OSError) as error:
                _events.warning("takeover_failed", topic=place.topic, error=str(error))
                continue
            if is_ours:
                _events.warning("taken_over", topic=place.topic, partition=place.number)
                application.add(place)

    def save(self, place: Place) -> int:
        """Copy a partition's log to where its next host finds it; gives the bytes of it.

        Raises: BackupUnavailable (HOF-516).
        """
        mark = marked(self.log(place))  # before the log is looked at: that has more
        return self._copy(place).save(self.store(place), mark.next) if mark is not None else 0

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
        """Restore a log that was never here."""
        if self._backups and not any(self.log(place).glob("*.log")):
            offset = self._copy(place).restore(self.store(place))
            if offset is not None:
                begin_mark(self.log(place), offset)
            _events.info("new_store" if offset is None else "restored", topic=place.topic,
                         partition=place.number, next=offset or 0)  # fmt: skip

    def _leave(self, place: Place) -> None:
        self._claims.drop(place)
        self.places[:] = [other for other in self.places if other != place]
        if all(other.number != place.number for other in self.places):
            self._locks.pop(place.number).release()

    def _copy(self, place: Place) -> Backup:
        if place not in self._copies:
            self._copies[place] = Backup(self._backups, place.stream, place.number)
        return self._copies[place]
