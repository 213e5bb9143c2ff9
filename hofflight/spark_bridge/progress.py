"""How far an application is: what its marks say, beside where its topics end."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

from hofflight.spark_bridge.state_store import marked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hofflight.clock import Clock
    from hofflight.spark_bridge.executor_side import Place

    Bounds = Mapping[tuple[str, int], tuple[int, int]]
_PERIOD_S: Final = 5.0


class Progress(NamedTuple):
    """How far it is, all its starts together.

    lag: records in the topics that are still to be worked; None: the brokers did not say.
    state_bytes: of the logs.
    """

    partitions: int
    records: int
    rows: int
    lag: int | None
    restarts: int
    state_bytes: int


class Meter:
    """Reads an application's progress. Thread: one; brokers are asked in another.

    log_of: the folder of a partition's log. bounds: begin and end of partitions of topics, from
    the brokers, which are asked once in period_s.
    """

    def __init__(
        self,
        log_of: Callable[[Place], Path],
        bounds: Callable[[list[tuple[str, int]]], Bounds],
        clock: Clock,
        period_s: float = _PERIOD_S,
    ) -> None:
        self._log_of = log_of
        self._ask = bounds
        self._clock = clock
        self._period_s = period_s
        self._pool = ThreadPoolExecutor(1, "hof-lag")
        self._asked: Future[Bounds] | None = None
        self._next_s = clock.monotonic_s()
        self._bounds: Bounds = {}

    def close(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def read(self, places: Sequence[Place], restarts: int) -> Progress:
        """Of these partitions, now; the topics' ends may be some seconds old."""
        self._look_at_topics(places)
        records = rows = size = lag = 0
        is_known = True
        for place in places:
            log = self._log_of(place)
            mark = marked(log)
            done, counted = (0, 0) if mark is None else (mark.next, mark.rows)
            records += done
            rows += counted
            size += _size(log)
            begin, end = self._bounds.get((place.topic, place.number), (0, -1))
            is_known = is_known and end >= 0
            lag += max(0, end - max(begin, done))
        return Progress(len(places), records, rows, lag if is_known else None, restarts, size)

    def _look_at_topics(self, places: Sequence[Place]) -> None:
        if self._asked is not None and self._asked.done():
            self._bounds = {} if self._asked.exception() else self._asked.result()
            self._asked = None
        now_s = self._clock.monotonic_s()
        if self._asked is None and now_s >= self._next_s and places:
            self._next_s = now_s + self._period_s
            wanted = [(place.topic, place.number) for place in places]
            self._asked = self._pool.submit(self._ask, wanted)


def _size(log: Path) -> int:
    """What a log takes of its disk, trimmed by other processes meanwhile."""
    size = 0
    for path in log.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_blocks * 512
    return size
