"""A thread of its own for groups with opaque functions, so that one that hangs harms no other."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final

from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.clock import Clock
    from hofflight.eventlog.protocol import Request

_events = Events("hofflight.engine")


class Abandoned(BaseException):
    """Raised in a wedged thread that came back: its requests were answered long ago."""


class FunctionWatch:
    """When user code began to run, and whether it was given up. Shared with the watchdog.

    `with watch:` goes around each call of user code, and around nothing else: a large batch may
    take the engine longer than any function is given.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self.wedged = False

    def __enter__(self) -> None:
        """User code begins now.

        Raises: Abandoned, the watchdog has given up on this thread.
        """
        self._set(self._clock.monotonic_s())

    def __exit__(self, *_: object) -> None:
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


PATIENCE_S: Final = 0.001


class Lane:
    """Takes requests to a thread that works them, all that wait at once, in order.

    Whoever hands requests to an idle lane waits up to a millisecond for them: most functions are
    through in a tenth of that, and two thread switches are cheaper than a turn of an event loop.
    A lane whose last turn took longer is not waited for.
    """

    def __init__(self, name: str, work: Callable[[Sequence[Request]], None], clock: Clock) -> None:
        self.name = name
        self._work = work
        self._clock = clock
        self._queue: queue.SimpleQueue[tuple[Sequence[Request], threading.Lock] | None] = (
            queue.SimpleQueue()
        )
        self._is_quick = True
        self.running: Sequence[Request] = ()
        self._thread = threading.Thread(target=self._run, name=f"hof-{name}", daemon=True)
        self._thread.start()

    def put(self, requests: Sequence[Request]) -> None:
        """Hand requests over."""
        waits = self._is_quick and not self.running and self._queue.empty()
        gate = threading.Lock()
        gate.acquire()
        self._queue.put((requests, gate))
        if waits:
            gate.acquire(timeout=PATIENCE_S)

    def stop(self, timeout_s: float) -> None:
        """Work what waits, then end; a thread that hangs is left behind."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def take_running(self) -> list[Request]:
        """What runs: a wedged lane owes it an answer."""
        owed = list(self.running)
        self.running = ()
        return owed

    def take_waiting(self) -> list[Request]:
        """Everything that waits: where the thread is gone, nobody else will answer it."""
        parts: list[tuple[Sequence[Request], threading.Lock] | None] = []
        try:
            while True:
                parts.append(self._queue.get_nowait())
        except queue.Empty:
            if None in parts:
                self._queue.put(None)  # the thread still has to end
        return [request for part in parts if part is not None for request in part[0]]

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
            parts = [part for part in waiting if part is not None]
            if not parts:
                continue
            self.running = [request for requests, _ in parts for request in requests]
            started_s = self._clock.monotonic_s()
            try:
                self._work(self.running)
            except Abandoned:
                _events.warning("wedged_function_returned", group=self.name)
                return
            self.running = ()
            self._is_quick = self._clock.monotonic_s() - started_s < PATIENCE_S
            for _, gate in parts:
                gate.release()
