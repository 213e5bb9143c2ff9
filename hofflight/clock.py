"""Time is passed in, never reached for, in everything that decides."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings: `wall_us` for stamps that are stored, `monotonic_s` for deadlines."""

    def wall_us(self) -> int:
        """Microseconds since 1970, UTC; may jump."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary point; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    @staticmethod
    def wall_us() -> int:
        """Microseconds since 1970, UTC."""
        return time.time_ns() // 1_000

    @staticmethod
    def monotonic_s() -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()
