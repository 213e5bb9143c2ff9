"""How long to wait before what ended is started again. Pure."""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 1.0
_LONGEST_S: Final = 30.0
_DOUBLINGS_MAX: Final = 16  # far beyond the longest, far below what a float holds
# What ran for so long did well: its next end is another story.
_WELL_S: Final = 60.0


class Backoff:
    """Twice as long each time. failures: one after the other, none of which ran for a minute."""

    def __init__(self, first_s: float = FIRST_S) -> None:
        self._first_s = first_s
        self.failures = 0

    def ended(self, lived_s: float) -> float:
        """It ended after so long; gives the seconds to wait."""
        self.failures = 1 if lived_s > _WELL_S else self.failures + 1
        doublings = min(self.failures - 1, _DOUBLINGS_MAX)
        return min(self._first_s * 2**doublings, _LONGEST_S)
