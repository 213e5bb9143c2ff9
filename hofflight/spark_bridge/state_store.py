"""A partition's state on this host: whose it is, how far it came, and what it died of.

State, the next offset and the answers are one thing, the engine's log: an entry has the rows, the
answer and the offset of its record, and state is the fold of the log. What is kept beside it is a
mark of a few numbers in a mapped file, which survives the death of the process at no cost:

    generation   how often the log was opened: who was away meanwhile has old state
    next         the offset after the last record that was dealt with
    first, last  the records that are being worked
    alone_until  up to which records are worked one by one: a process died over several of them
    number       of the log's last entry
    rows         that were counted, for whoever watches
    boot         of the machine: after another one the log may have lost what nobody synced, and
                 only what is in it says how far it came
    deaths       of records that were worked alone: how often a process died over each

So a record that ends the process comes again alone, and the second time it is skipped. What was
worked before it comes again first: a death is the record's own, whatever was worked since.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import closing, contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from hofflight.errors import StoreFormat, StoreLocked
from hofflight.eventlog.lock import flocked
from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_events = Events("hofflight.spark")
_MAGIC: Final = b"HOFMARK1"
# Of the newest so many records that is known how often they ended a process.
_SUSPECTS_MAX: Final = 4
_LAYOUT: Final = struct.Struct(f"<8s{8 + 2 * _SUSPECTS_MAX}q")
_DEATHS_MAX: Final = 2
# A worker that was killed lets go at once; one that finishes its trigger takes some seconds.
_PATIENCE_S: Final = 30.0


class Mark:
    """The numbers of one partition's log. Whoever holds the lock writes; anybody reads."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size < _LAYOUT.size:  # new, or a crash while it was made
                os.posix_fallocate(fd, 0, _LAYOUT.size)
            self._map = mmap.mmap(fd, _LAYOUT.size)
        finally:
            os.close(fd)
        magic, *numbers = _LAYOUT.unpack_from(self._map)
        if magic == bytes(8):
            numbers = [0, 0, 0, -1, -1, 0, 0, boot(), *[0] * (2 * _SUSPECTS_MAX)]
        elif magic != _MAGIC:
            msg = f"{path.name} is not of this release"
            raise StoreFormat(msg, hint="delete it: the log has everything but what it died of")
        (
            self.generation, self.next, self.first, self.last, self.alone_until, self.number,
            self.rows, at, *suspects,
        ) = numbers  # fmt: skip
        pairs = zip(suspects[::2], suspects[1::2], strict=True)
        self._deaths = {offset: deaths for offset, deaths in pairs if deaths}
        if at != boot():
            self.next = 0

    def save(self) -> None:
        """Into the page cache: no system call."""
        pairs = list(self._deaths.items())
        pairs += [(0, 0)] * (_SUSPECTS_MAX - len(pairs))
        _LAYOUT.pack_into(
            self._map, 0, _MAGIC, self.generation, self.next, self.first, self.last,
            self.alone_until, self.number, self.rows, boot(), *chain.from_iterable(pairs),
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def begin(self, first: int, last: int) -> None:
        """These records are worked from now on."""
        self.first, self.last = first, last
        self.save()

    def give_up(self) -> None:
        """They are not dealt with, and it was no death: an error says why."""
        self.first, self.last = 0, -1
        self.save()

    def finish(self, number: int, rows: int) -> None:
        """They are dealt with, so many rows were counted; the log's last entry is that one."""
        self.next = max(self.next, self.last + 1)
        if self.first == self.last and not self.is_deadly(self.first):
            self._deaths.pop(self.first, None)  # whatever it was, it was not this record
        self.first, self.last, self.number = 0, -1, number
        self.rows += rows
        self.save()

    def is_deadly(self, offset: int) -> bool:
        """Whether that record must not be tried again."""
        return self._deaths.get(offset, 0) >= _DEATHS_MAX

    def took_over(self, logged: int) -> None:
        """A new process begins. logged: the offset of the log's last entry.

        What is worked one by one is known by name when it ends the process once more.
        """
        self.generation += 1
        self.next = max(self.next, logged + 1)
        if self.last > max(logged, self.first - 1):
            self.alone_until = max(self.alone_until, self.last)
            if self.first == self.last:
                deaths = self._deaths.pop(self.first, 0) + 1
                newest = list(self._deaths.items())[1 - _SUSPECTS_MAX :]
                self._deaths = dict([*newest, (self.first, deaths)])
        self.first, self.last = 0, -1
        self.save()


def marked(directory: Path) -> Mark | None:
    """The mark of a log as it is now; None: nobody has worked it here."""
    path = directory / "mark"
    if not path.exists():
        return None
    with closing(Mark(path)) as mark:
        return mark


def begin_mark(directory: Path, next_offset: int) -> None:
    """Mark a log that came from elsewhere: it has what was worked up to there."""
    with closing(Mark(directory / "mark")) as mark:
        mark.next = next_offset
        mark.save()


class Opened(Protocol):
    """What works a partition, while it is in memory. logged: the offset of its last entry."""

    logged: int

    def abandon(self) -> None:
        """Forget it without a write: the log is opened anew, maybe by another process."""
        ...


@cache
def boot() -> int:
    """Which start of this machine it is."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return int(text.replace("-", "")[:15], 16)


T = TypeVar("T", bound=Opened)


class StateStore(Generic[T]):
    """One partition's log on this host, kept in memory from trigger to trigger.

    Spark gives a partition to any Python worker of its query, most often to the same one. The lock
    is held during a task; who finds a younger generation then opens the log anew.

    directory: of the log. open_state: recovers state from snapshot and log. patience_s: how long it
    waits for whoever has the lock.
    """

    def __init__(
        self, directory: Path, open_state: Callable[[], T], patience_s: float = _PATIENCE_S
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._lock_path = directory / "lock"
        self._mark_path = directory / "mark"
        self._open_state = open_state
        self._patience_s = patience_s
        self._state: T | None = None
        self._generation = -1

    @contextmanager
    def held(self) -> Iterator[tuple[T, Mark]]:
        """State and mark, which nobody else has meanwhile.

        State is forgotten where an error ends it: it may be what is wrong, as after a full disk or
        a function that hangs. Raises: StoreLocked (HOF-501), another task works it; StoreFormat
        (HOF-503); as `open_state`.
        """
        try:
            lock = flocked(self._lock_path, self._patience_s)
        except BlockingIOError:
            msg = f"another task works the log {self._lock_path.parent.name}"
            raise StoreLocked(msg, hint="two queries on one partition?") from None
        try:
            with closing(Mark(self._mark_path)) as mark:
                try:
                    yield self._current(mark), mark
                except Exception:
                    self._forget()
                    raise
        finally:
            os.close(lock)

    def _current(self, mark: Mark) -> T:
        if self._state is not None and self._generation == mark.generation:
            return self._state
        self._forget()
        state = self._open_state()
        mark.took_over(state.logged)
        self._state, self._generation = state, mark.generation
        _events.info("state_opened", log=self._lock_path.parent.name, next=mark.next)
        return state

    def _forget(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            state.abandon()
