"""What waits for one partition, and what of it leaves together. Pure.

One record is under way at a time: at low load a request leaves at once and alone; while the brokers
have one, those that come gather into the next. So records grow with the load, by themselves, and
the order of a partition is the order in which requests came.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

# What a record's headers say of a request: id, call, sizes and times, and the name of a view.
HEAD_BYTES: Final = 128


class Outgoing(NamedTuple):
    """A request on its way to a partition. deadline_s: on the monotonic clock; None: no end.

    beside_bytes: of what travels with it in the record's headers.
    """

    call: int
    message: bytes
    rows: int
    deadline_s: float | None
    beside_bytes: int = 0


class PartitionQueue:
    """First come, first gone, as many together as a record may hold."""

    def __init__(self, rows_max: int, bytes_max: int) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._waiting: deque[Outgoing] = deque()
        self._is_busy = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: Outgoing) -> None:
        """Let it wait for its turn."""
        self._waiting.append(item)

    def take(self, now_s: float) -> tuple[list[Outgoing], list[Outgoing]]:
        """(what leaves now as one record, what waited longer than anybody waits for it).

        Nothing leaves while a record is under way; `done` says that it no longer is.
        """
        if self._is_busy:
            return [], []
        leaving: list[Outgoing] = []
        expired: list[Outgoing] = []
        rows = size = 0
        while self._waiting:
            item = self._waiting[0]
            if item.deadline_s is not None and now_s > item.deadline_s:
                expired.append(self._waiting.popleft())
                continue
            rows += item.rows
            size += len(item.message) + item.beside_bytes + HEAD_BYTES
            if leaving and (rows > self._rows_max or size > self._bytes_max):
                break
            leaving.append(self._waiting.popleft())
        self._is_busy = bool(leaving)
        return leaving, expired

    def expire(self, now_s: float) -> list[Outgoing]:
        """What waited longer than anybody waits for it; it waits no more."""
        found = [i for i in self._waiting if i.deadline_s is not None and now_s > i.deadline_s]
        if found:
            gone = {item.call for item in found}
            self._waiting = deque(item for item in self._waiting if item.call not in gone)
        return found

    def done(self) -> None:
        """The record under way arrived, or never will."""
        self._is_busy = False

    def clear(self) -> list[Outgoing]:
        """Everything that waits, and it waits no more."""
        waiting, self._waiting = list(self._waiting), deque()
        return waiting
