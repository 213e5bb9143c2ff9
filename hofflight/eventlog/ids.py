"""Which request ids were seen, and where their answers lie in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hofflight.settings import EngineSettings


class RequestIds:
    """Remembers at least the newest `ids_max` ids and at least those of `ids_age_s`.

    Two generations: when the young one is full or old enough it becomes the old one and the
    former old one is forgotten. So forgetting is free, and memory is bounded by twice `ids_max`
    as long as they do not arrive faster than `ids_max` in `ids_age_s`; then count decides.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._count_max = settings.ids_max
        self._age_max_us = settings.ids_age_s * 1_000_000
        self._young: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}
        self._young_since_us = 0
        self.young_after = 0
        self._old_after = 0

    def find(self, request_id: bytes) -> int | None:
        """Position of the entry that answered this id; None when it is not remembered."""
        position = self._young.get(request_id)
        return self._old.get(request_id) if position is None else position

    def add(self, request_id: bytes, position: int, *, number: int, arrival_us: int) -> None:
        """Remember an id whose entry has this position and number."""
        if not self._young:
            self._young_since_us = arrival_us
        elif (
            len(self._young) >= self._count_max
            or arrival_us - self._young_since_us > self._age_max_us
        ):
            self._old, self._young = self._young, {}
            self._old_after, self.young_after = self.young_after, number - 1
            self._young_since_us = arrival_us
        self._young[request_id] = position

    @property
    def needed_after(self) -> int:
        """Number of the entry after which the log still has remembered ids."""
        return self._old_after
