"""Decides whether a store that failed is asked again, so that a dead one costs nothing."""

from __future__ import annotations


class Breaker:
    """After a failure no call goes out for a while; then one does, and its outcome decides.

    A call that goes out and never tells (it was cancelled) holds the others back for one more
    pause, not for ever. Times are seconds on any clock that only goes forward. Thread: one.
    """

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._next_s: float | None = None  # None: the last that is known went well

    def admits(self, now_s: float) -> bool:
        """Whether a call may go out. After a failure the one that may is the probe."""
        if self._next_s is None:
            return True
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._pause_s
        return True

    def succeeded(self) -> None:
        """A call was answered: all may go out."""
        self._next_s = None

    def failed(self, now_s: float) -> None:
        """A call failed: none goes out until the pause is over."""
        self._next_s = now_s + self._pause_s
