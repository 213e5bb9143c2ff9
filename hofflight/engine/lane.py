"""A thread of its own for groups with opaque functions, so that one that hangs harms no other."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.clock import Clock
    from hofflight.eventlog.protocol import Request

_events = structlog.get_logger("hofflight.engine")


class Abandoned(BaseException):
    """Raised in a wedged thread that came back: its requests were answered long ago."""


class FunctionWatch:
    """When user code began to run, and whether it was given up. Shared with the watchdog."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self.wedged = False

    def touch(self) -> None:
        """User code begins now.

        Raises: Abandoned, the watchdog has given up on this thread.
        """
        self._set(self._clock.monotonic_s())

    def done(self) -> None:
        """User code is through: from here on the turn belongs to the engine.

        Raises: Abandoned, the watchdog has given up on this thread.
        """
        self._set(None)

    def _set(self, since_s: float | None) -> None:
        with self._lock:
            if self.wedged:
                raise Abandoned
            self._since_s = since_s

    def give_up(self, timeout_s: float) -> bool:
        """Give up if user code has run for longer than `timeout_s`; True the first time."""
        with self._lock:
            overdue = (
                self._since_s is not None
                and not self.wedged
                and self._clock.monotonic_s() - self._since_s > timeout_s
            )
            self.wedged = self.wedged or overdue
            return overdue


class Lane:
    """Takes requests to a thread that works them, all that wait at once, in order."""

    def __init__(self, name: str, work: Callable[[Sequence[Request]], None]) -> None:
        self.name = name
        self._work = work
        self._queue: queue.SimpleQueue[Sequence[Request] | None] = queue.SimpleQueue()
        self.running: Sequence[Request] = ()
        self._thread = threading.Thread(target=self._run, name=f"hof-{name}", daemon=True)
        self._thread.start()

    def put(self, requests: Sequence[Request]) -> None:
        """Hand requests over."""
        self._queue.put(requests)

    def stop(self, timeout_s: float) -> None:
        """Work what waits, then end; a thread that hangs is left behind."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def take_all(self) -> list[Request]:
        """Everything that runs or waits: what a wedged lane owes an answer."""
        owed = list(self.running)
        self.running = ()
        while True:
            try:
                owed.extend(self._queue.get_nowait() or ())
            except queue.Empty:
                return owed

    def _run(self) -> None:
        stopping = False
        while not stopping:
            waiting = [self._queue.get()]
            try:
                while True:
                    waiting.append(self._queue.get_nowait())
            except queue.Empty:
                pass
            stopping = None in waiting
            requests = [request for part in waiting if part is not None for request in part]
            if not requests:
                continue
            self.running = requests
            try:
                self._work(requests)
            except Abandoned:
                _events.warning("wedged_function_returned", group=self.name)
                return
            self.running = ()
