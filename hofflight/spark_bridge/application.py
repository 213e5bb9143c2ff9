"""An application: the queries of its partitions, each started again by itself when it ends.

What cannot go on in this process, as when its JVM died, ends it; whoever started it starts another
(`supervisor.py`). Nothing is lost with it: checkpoint and state are on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hofflight.errors import WorkerStopped
from hofflight.observe.events import Events
from hofflight.spark_bridge.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.clock import Clock
    from hofflight.spark_bridge.executor_side import Place

_events = Events("hofflight.spark")
# As often, one after the other: it does not get better by itself.
_FAILURES_MAX: Final = 10
_SHOWN: Final = 2_000


@dataclass(slots=True)
class _Running:
    """A place and its query; None where it waits for its next start."""

    place: Place
    query: Any = None
    started_s: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)
    again_s: float = 0.0


class Application:
    """Keeps queries running. Thread: one. start: starts a place's query.

    give_up: where another application may do better, called in place of an end of all, with what a
    query ends of again and again.
    """

    def __init__(
        self, places: Sequence[Place], start: Callable[[Place], Any], clock: Clock,
        give_up: Callable[[Place, str], None] | None = None,
    ) -> None:  # fmt: skip
        self._all = [_Running(place) for place in places]
        self._start = start
        self._clock = clock
        self._give_up = give_up
        self.restarts = 0

    def add(self, place: Place) -> None:
        """One more partition, from the next look on."""
        self._all.append(_Running(place))

    def remove(self, place: Place) -> None:
        """Leave a partition to others."""
        gone = [running for running in self._all if running.place == place]
        self._all = [running for running in self._all if running.place != place]
        for running in gone:
            if running.query is not None:
                running.query.stop()

    def start(self) -> None:
        """Start every query. Raises: whatever Spark says of the first that does not start."""
        for running in self._all:
            self._begin(running)

    def look(self) -> None:
        """Start again what ended, after a while.

        Raises: WorkerStopped (HOF-514), one ends again and again; whatever a dead JVM makes of it.
        """
        now_s = self._clock.monotonic_s()
        for running in list(self._all):
            if running.query is not None and not running.query.isActive:
                self._ended(running, now_s)
            elif running.query is None and now_s >= running.again_s:
                self.restarts += running.backoff.failures > 0
                self._begin(running)

    def stop(self) -> None:
        """End every query: records that were not committed come again at the next start."""
        for running in self._all:
            if running.query is not None:
                running.query.stop()

    def _begin(self, running: _Running) -> None:
        running.query = self._start(running.place)
        running.started_s = self._clock.monotonic_s()

    def _ended(self, running: _Running, now_s: float) -> None:
        why = reason_of(running.query.exception())
        wait_s = running.backoff.ended(now_s - running.started_s)
        failures, place = running.backoff.failures, running.place
        _events.error("query_ended", topic=place.topic, partition=place.number, error=why)
        if failures >= _FAILURES_MAX:
            msg = f"the query of {place.topic}/{place.number} ended {failures} times: {why}"
            if self._give_up is not None:
                self.remove(place)
                self._give_up(place, msg)
                return
            raise WorkerStopped(msg, hint="what it ends of is in the log")
        running.query = None
        running.again_s = now_s + wait_s


def reason_of(error: object) -> str:
    """What a person needs of Spark's exception: our own error in it, else its first line."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    ours = [line for line in lines if "HOF-" in line]
    # The last line of a traceback in Python has the error itself.
    return (ours[-1] if ours else lines[0] if lines else "it ended")[:_SHOWN]
